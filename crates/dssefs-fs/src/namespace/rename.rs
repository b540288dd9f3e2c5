//! rename of files: a copy by the store, then a delete.

use std::sync::Arc;
use std::time::SystemTime;

use super::Namespace;
use super::error::Error;
use super::file::{RENEWALS_MAX, is_in_store};
use super::node::{Ino, Timestamp};
use super::posix;
use super::reserved::refuse_reserved;
use dssefs_s3::object::{ETag, Key, Name};
use dssefs_s3::s3::{Condition, ConflictRetries, Head, Removal};

/// What the store has made of a rename so far.
struct Copied {
    original: Arc<Head>,
    copy: Arc<Head>,
    /// Whether the copy has replaced another file's object.
    replaces: bool,
}

/// The two ends of a rename, as the table knows them.
struct Plan {
    source: Ino,
    target: Option<Ino>,
    from: Key,
    to: Key,
    in_store: bool,
    /// When the attributes or the name of the source changed last.
    ctime: Timestamp,
    time: Timestamp,
}

impl Namespace {
    /// Renames a file: one copy that carries everything over, then one DELETE. A file that is not in the store yet only
    /// changes its name. The caller has looked both names up before.
    ///
    /// The name moves between the copy and the delete, so that a reader always finds one of both. When the delete
    /// fails, the name moves back: the source is the file still. The copy is deleted again, if the store allows it and
    /// it has replaced nothing; otherwise it stays as a file of its own. What another host puts under the old key in
    /// between stays there. A target is replaced as it was seen last, or as the store names it when that was refused.
    ///
    /// # Errors
    /// [`Error::Exists`] when `no_replace` and the name is taken; [`Error::IsADirectory`] when a directory has it,
    /// also when the source is one, which [`Namespace::move_directory`] moves; [`Error::NotFound`], [`Error::Name`],
    /// [`Error::Reserved`], and the store's.
    pub async fn rename(self: &Arc<Self>, from: (Ino, &Name), to: (Ino, &Name), no_replace: bool) -> Result<(), Error> {
        let source = self.at_hand(from.0, from.1).await?;
        let _guard = self.inode_locks.lock(source).await;
        let plan = self.plan(source, from, to)?;
        if plan.target == Some(source) {
            return if no_replace { Err(Error::Exists) } else { Ok(()) };
        }
        if no_replace && plan.target.is_some() {
            return Err(Error::Exists);
        }
        if plan.in_store {
            let copied = self.copy_to(&plan, no_replace).await;
            let is_taken = |error| if no_replace { self.exists_if_taken(to.0, error) } else { error };
            let copied = copied.map_err(is_taken)?;
            self.move_name(&plan, from, to, Some(Arc::clone(&copied.copy)))?;
            if let Err(error) = self.delete_source(&plan.from, &copied.original.meta.version.etag, from).await {
                self.move_back(&plan, from, to, &copied, &error).await?;
                return Err(error);
            }
            self.note_copy(plan.source, &copied.original.meta.version.etag, &copied.copy.meta.version.etag);
        } else {
            self.move_name(&plan, from, to, None)?;
        }
        self.keep_alive(from.0).await;
        Ok(())
    }

    fn plan(&self, source: Ino, from: (Ino, &Name), to: (Ino, &Name)) -> Result<Plan, Error> {
        let table = self.table();
        let target = table.child(to.0, to.1)?;
        let entry = table.entry(source)?;
        if target.is_some_and(|ino| table.entry(ino).is_ok_and(super::entry::Entry::is_directory))
            && !entry.is_directory()
        {
            return Err(Error::IsADirectory);
        }
        if entry.is_directory() {
            return Err(Error::IsADirectory);
        }
        refuse_reserved(to.1)?;
        let (from, to) = (table.prefix(from.0)?.file(from.1)?, table.prefix(to.0)?.file(to.1)?);
        let (in_store, ctime) = (is_in_store(entry), entry.attributes.ctime);
        Ok(Plan { source, target, from, to, in_store, ctime, time: SystemTime::now().into() })
    }

    async fn copy_to(self: &Arc<Self>, plan: &Plan, no_replace: bool) -> Result<Copied, Error> {
        // Of a dirty file, the version that its changes are based on.
        let original = self.facts_to_carry(plan.source).await?;
        let mut target = if no_replace { None } else { self.known_target(plan).await? };
        let user = posix::with_ctime(original.meta.user.clone(), plan.time);
        let (mut conflicts, mut renewals) = (ConflictRetries::default(), 0);
        loop {
            let wanted = target.clone().map_or(Condition::Absent, Condition::Matches);
            let condition = if no_replace { wanted } else { self.settings.condition(wanted) };
            let error = match self.copy(&plan.from, &original, &plan.to, (user.clone(), None), &condition).await {
                Ok(copy) => return Ok(Copied { original, copy, replaces: target.is_some() }),
                Err(Error::Store(error)) if conflicts.again(error.kind).await => continue,
                Err(error) if error.is_overtaken() => return Err(Error::TargetTaken),
                Err(error) => error,
            };
            // Either the target is another one than was thought, or the source is.
            let now = if error.is_refused() { self.gateway.etag(&plan.to).await? } else { target.clone() };
            if no_replace || now == target || renewals == RENEWALS_MAX {
                self.learn_from(plan.source, &error);
                return Err(error);
            }
            (target, renewals) = (now, renewals + 1);
        }
    }

    /// The version that the rename is to replace, as far as this mount knows.
    async fn known_target(&self, plan: &Plan) -> Result<Option<ETag>, Error> {
        let Some(target) = plan.target else { return Ok(None) };
        let (known, in_store) = {
            let table = self.table();
            let entry = table.entry(target)?;
            (entry.etag().cloned(), is_in_store(entry))
        };
        match known {
            None if in_store => Ok(self.gateway.etag(&plan.to).await?),
            known => Ok(known),
        }
    }

    /// Undoes [`Namespace::move_name`] after the delete has failed with `error`.
    async fn move_back(
        self: &Arc<Self>,
        plan: &Plan,
        from: (Ino, &Name),
        to: (Ino, &Name),
        copied: &Copied,
        error: &Error,
    ) -> Result<(), Error> {
        // 1. Delete the copy, unless it may be the last one, or what it has replaced would not come back.
        let version = &copied.copy.meta.version;
        let is_needed = !error.left_nothing() || (copied.replaces && version.id.is_none());
        let removal = if is_needed { None } else { self.gateway.expunge(&plan.to, version).await.ok() };
        if removal.is_none() {
            tracing::warn!(
                from = %plan.from,
                to = %plan.to,
                "the file could not be deleted under its old name; it stands under both names now: delete one of them"
            );
        }
        // 2. The old name is the file's. A listing may have given it to a new node meanwhile.
        let now = self.now();
        let mut table = self.table();
        if let Some(seen) = table.child(from.0, from.1)?.filter(|seen| *seen != plan.source) {
            table.detach(seen);
        }
        table.relocate(plan.source, from.0, from.1)?;
        let entry = table.change(plan.source)?;
        (entry.object, entry.listed, entry.seen) = (Some(Arc::clone(&copied.original)), None, Some(now));
        entry.attributes.ctime = plan.ctime;
        // 3. Whether there is an object under the new name, the store says when it is asked.
        table.change_clock.remove(to.0, to.1);
        table.directory_mut(to.0)?.listed = None;
        Ok(())
    }

    /// `object` is what the file is under its new key; none when it is not in the store.
    fn move_name(
        &self,
        plan: &Plan,
        from: (Ino, &Name),
        to: (Ino, &Name),
        object: Option<Arc<Head>>,
    ) -> Result<(), Error> {
        let (now, time) = (self.now(), plan.time);
        let mut table = self.table();
        if let Some(target) = plan.target {
            table.detach(target);
        }
        table.relocate(plan.source, to.0, to.1)?;
        table.change_clock.remove(from.0, from.1);
        let entry = table.change(plan.source)?;
        entry.attributes.ctime = time;
        if object.is_some() {
            (entry.object, entry.listed, entry.seen) = (object, None, Some(now));
        }
        table.touch(from.0, time);
        table.touch(to.0, time);
        Ok(())
    }

    /// Deletes the source if it still is the version that was `copied`.
    async fn delete_source(&self, key: &Key, copied: &ETag, from: (Ino, &Name)) -> Result<(), Error> {
        let removal = match self.settings.last_writer_wins {
            None => self.gateway.delete_version(key, copied).await?,
            Some(word) => self.gateway.delete(key, word).await.map(|()| Removal::Gone)?,
        };
        if matches!(removal, Removal::Replaced(_)) {
            tracing::warn!(
                %key,
                "another host has changed the file while it was renamed; \
                 the file stays under its old name as well: compare both, and delete the one that is not needed"
            );
        }
        let mut table = self.table();
        match removal {
            Removal::Gone => table.change_clock.remove(from.0, from.1),
            // The old name is in the store; the next listing shows it again.
            Removal::Replaced(_) | Removal::PerhapsGone => table.directory_mut(from.0)?.listed = None,
        }
        Ok(())
    }
}
