//! The move in the table: one directory changes its place, and every node below it gets its new version.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::Namespace;
use super::super::error::Error;
use super::super::node::{Ino, Kind};
use super::super::reserved::is_shadowed;
use super::super::table::Table;
use super::Plan;
use super::copies::{Copies, Copy};
use dssefs_s3::object::Name;
use dssefs_s3::s3::Head;

impl Namespace {
    /// Between the copies and the deletes, so that a reader always finds one of both.
    pub(super) fn move_tree(
        &self,
        plan: &Plan,
        from: (Ino, &Name),
        to: (Ino, &Name),
        copies: &Copies,
    ) -> Result<(), Error> {
        let (now, time) = (self.now(), SystemTime::now().into());
        let mut table = self.table();
        // Not only what the target was at the beginning: a question that was under way may have seen the copies appear.
        if let Some(target) = table.child(to.0, to.1)? {
            table.detach(target);
        }
        table.relocate(plan.source, to.0, to.1)?;
        table.change_clock.remove(from.0, from.1);
        // What it would have hidden has kept its key, which is the old name.
        if let Some(shadowed) = table.child(plan.source, &Name::shadowed())? {
            table.relocate(shadowed, from.0, from.1)?;
            table.change(shadowed)?;
        }
        let made = copies.made();
        for (ino, path) in table.below(plan.source) {
            table.change(ino)?;
            if let Some(copy) = made.get(&path) {
                table.is_copied(ino, copy, now)?;
            }
        }
        table.entry_mut(plan.source)?.attributes.ctime = time;
        if let Some(directory) = &mut table.entry_mut(plan.source)?.directory {
            (directory.marker, directory.renamed) = (Some(true), Some(time));
        }
        table.set_local(plan.source, false)?;
        table.touch(from.0, time);
        table.touch(to.0, time);
        Ok(())
    }
}

impl Table {
    /// How many bytes the longest path below `root` has that leads to something which is not in the store yet.
    pub(super) fn longest_local_path(&self, root: Ino) -> usize {
        let below = self.below(root).into_iter();
        let local = below.filter(|(ino, _)| self.entry(*ino).is_ok_and(|entry| entry.local));
        local.map(|(_, path)| path.len()).max().unwrap_or(0)
    }

    /// All nodes from `root` down with their paths below it, as keys have them: a directory's ends with a slash,
    /// `root`'s is empty.
    fn below(&self, root: Ino) -> Vec<(Ino, String)> {
        let mut found = vec![(root, String::new())];
        let mut next = 0;
        while let Some((ino, path)) = found.get(next).cloned() {
            let directory = self.entry(ino).ok().and_then(|entry| entry.directory.as_deref());
            for (name, child) in directory.into_iter().flat_map(|directory| &directory.children) {
                let slash = if self.entry(*child).is_ok_and(|entry| entry.attributes.kind == Kind::Directory) {
                    "/"
                } else {
                    ""
                };
                let below = match path.strip_suffix('/') {
                    Some(directory) if is_shadowed(name) => directory.to_owned(),
                    _ => format!("{path}{name}{slash}"),
                };
                found.push((*child, below));
            }
            next += 1;
        }
        found
    }

    /// The node's object, or marker, is `copy` from now on. Facts of another version than the copied one are forgotten.
    fn is_copied(&mut self, ino: Ino, copy: &Copy, now: std::time::Instant) -> Result<(), Error> {
        let entry = self.entry_mut(ino)?;
        let same = entry.etag() == Some(&copy.source);
        if !same && entry.open > 0 && !entry.local && !entry.is_directory() {
            // Another host has replaced the file before it was copied. Open handles keep the version that they have,
            // and the next lookup asks for this one.
            let (attributes, listed) = (entry.attributes, copy.stored.version.etag.clone());
            let know = |table: &mut Table, new| {
                table.entry_mut(new)?.listed = Some(listed);
                Ok(())
            };
            return self.replaced(ino, attributes, know).map(drop);
        }
        entry.object = entry.object.take().filter(|_| same).map(|head| Arc::new(copied(&head, copy)));
        if same {
            entry.note_copy(&copy.source, &copy.stored.version.etag);
        }
        let is_known = entry.object.is_some();
        if let Some(directory) = &mut entry.directory {
            directory.marker = Some(true);
            directory.marker_checked = is_known.then_some(now);
        } else {
            entry.listed = (!is_known).then(|| copy.stored.version.etag.clone());
            entry.seen = Some(now);
        }
        Ok(())
    }
}

/// The HEAD of the copy, made from the `head` of its source.
fn copied(head: &Head, copy: &Copy) -> Head {
    let mut copied = head.clone();
    copied.meta.version = copy.stored.version.clone();
    copied.meta.last_modified = SystemTime::now();
    copied.encryption = copy.stored.encryption.clone();
    copied
}
