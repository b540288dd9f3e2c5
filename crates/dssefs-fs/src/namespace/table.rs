//! The nodes, their references, and their places in the tree.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::change_clock::ChangeClock;
use super::entry::{Directory, Entry, NameState};
use super::error::Error;
use super::node::{Attributes, Ino, Kind, Node, Timestamp};
use super::number::{NumbersInUse, free_number};
use dssefs_s3::object::{Key, Name, Prefix, RESERVED_NAME};

/// All nodes of a mount. Beyond `entries_max`, nodes without a reference are evicted, oldest first.
#[derive(Debug)]
pub(super) struct Table {
    nodes: HashMap<Ino, Entry>,
    /// Those of files that may outlive their nodes here.
    pub(super) numbers: Arc<NumbersInUse>,
    idle: LruCache<Ino, ()>,
    entries_max: usize,
    prefix: Prefix,
    pub(super) change_clock: ChangeClock,
    pub(super) hidden: u64,
}

impl Table {
    pub(super) fn new(prefix: Prefix, root: Attributes, entries_max: usize) -> Table {
        let mut entry = Entry::new(NameState::Root, root);
        // The root is there as long as the mount is.
        entry.kernel = 1;
        let nodes = HashMap::from([(Ino::ROOT, entry)]);
        let idle = LruCache::unbounded();
        Table {
            nodes,
            numbers: Arc::default(),
            idle,
            entries_max,
            prefix,
            change_clock: ChangeClock::default(),
            hidden: 0,
        }
    }

    pub(super) fn entry(&self, ino: Ino) -> Result<&Entry, Error> {
        self.nodes.get(&ino).ok_or(Error::NotFound)
    }

    pub(super) fn entry_mut(&mut self, ino: Ino) -> Result<&mut Entry, Error> {
        self.nodes.get_mut(&ino).ok_or(Error::NotFound)
    }

    pub(super) fn directory(&self, ino: Ino) -> Result<&Directory, Error> {
        self.entry(ino)?.directory.as_deref().ok_or(Error::NotADirectory)
    }

    pub(super) fn directory_mut(&mut self, ino: Ino) -> Result<&mut Directory, Error> {
        self.entry_mut(ino)?.directory.as_deref_mut().ok_or(Error::NotADirectory)
    }

    pub(super) fn child(&self, parent: Ino, name: &Name) -> Result<Option<Ino>, Error> {
        Ok(self.directory(parent)?.children.get(name).copied())
    }

    /// What the keys below the directory `ino` begin with. [`Error::NotFound`] when it is gone.
    pub(super) fn prefix(&self, ino: Ino) -> Result<Prefix, Error> {
        if ino == Ino::ROOT {
            return Ok(self.prefix.clone());
        }
        let (parent, name) = self.entry(ino)?.place().ok_or(Error::NotFound)?;
        Ok(self.prefix(*parent)?.directory(name)?)
    }

    /// The key of the object behind `ino`: a file's own, a directory's marker.
    pub(super) fn key(&self, ino: Ino) -> Result<Key, Error> {
        let entry = self.entry(ino)?;
        match &entry.name_state {
            NameState::Lost { key, .. } => Ok(key.clone()),
            _ if entry.is_directory() => self.prefix(ino)?.marker().map_or_else(root_key, Ok),
            NameState::Named((parent, name)) => Ok(self.prefix(*parent)?.file(name)?),
            NameState::Root | NameState::Unlinked => Err(Error::NotFound),
        }
    }

    /// The key under which the changes of the file `ino` are to be stored. That of a lost file is in the directory
    /// where it had its name, wherever that directory is now.
    pub(super) fn key_to_store(&self, ino: Ino) -> Result<Key, Error> {
        match &self.entry(ino)?.name_state {
            // A new file that this mount has under the name is the one to store there.
            NameState::Lost { place: (parent, name), .. }
                if self.child(*parent, name)?.is_some_and(|other| self.holds_local(other)) =>
            {
                Err(Error::NotFound)
            }
            NameState::Lost { place: (parent, name), .. } => Ok(self.prefix(*parent)?.file(name)?),
            NameState::Root | NameState::Named(_) | NameState::Unlinked => self.key(ino),
        }
    }

    /// The file that has the key `key`, if it is in the table.
    pub(super) fn find(&self, key: &Key) -> Option<Ino> {
        let names = key.as_str().strip_prefix(self.prefix.as_str())?;
        let named =
            names.split('/').try_fold(Ino::ROOT, |ino, text| self.child(ino, &Name::new(text).ok()?).ok()?)?;
        if self.directory(named).is_ok() { self.child(named, &Name::shadowed()).ok()? } else { Some(named) }
    }

    /// Whether `ino` is the root of a mount of a whole bucket. It has no marker, as no key is empty.
    pub(super) fn is_bucket_root(&self, ino: Ino) -> bool {
        ino == Ino::ROOT && self.prefix.marker().is_none()
    }

    /// Whether the attributes of `ino` need no question. Those of a bucket's root are asked for at the start of the
    /// mount and before each change. So a store that does not answer keeps no path from being followed, as each begins
    /// at the root.
    pub(super) fn has_facts(&self, ino: Ino, now: Instant, ttl: Duration) -> bool {
        let Ok(entry) = self.entry(ino) else { return false };
        let known_root = || entry.directory.as_ref().is_some_and(|root| root.marker.is_some());
        entry.has_facts(now, ttl) || (self.is_bucket_root(ino) && known_root())
    }

    /// The directories with times that their markers do not have, `count_max` at most.
    pub(super) fn touched(&self, count_max: usize) -> Vec<Ino> {
        let has_newer_times = |entry: &Entry| {
            let directory = entry.directory.as_deref().filter(|directory| directory.marker == Some(true));
            directory.is_some_and(|directory| directory.touched.is_some() || directory.renamed.is_some())
        };
        let touched = self.nodes.iter().filter(|(_, entry)| has_newer_times(entry));
        touched.map(|(ino, _)| *ino).take(count_max).collect()
    }

    /// A new node under a name that is free.
    pub(super) fn insert(&mut self, parent: Ino, name: &Name, attributes: Attributes) -> Result<Ino, Error> {
        // The parent must not be evicted to make room for its child.
        self.idle.pop(&parent);
        self.evict();
        let ino = self.number(parent, name, attributes.kind)?;
        self.link(parent, name, ino, attributes.kind)?;
        self.nodes.insert(ino, Entry::new(NameState::Named((parent, name.clone())), attributes));
        self.settle(ino);
        Ok(ino)
    }

    /// One more reference of the kernel.
    pub(super) fn refer(&mut self, ino: Ino) -> Result<Node, Error> {
        self.idle.pop(&ino);
        let entry = self.entry_mut(ino)?;
        entry.kernel += 1;
        Ok(entry.node(ino))
    }

    /// The kernel gives `count` references back.
    pub(super) fn forget(&mut self, ino: Ino, count: u64) {
        if ino == Ino::ROOT {
            return;
        }
        if let Ok(entry) = self.entry_mut(ino) {
            entry.kernel = entry.kernel.saturating_sub(count);
            self.settle(ino);
        }
    }

    pub(super) fn pin(&mut self, ino: Ino) -> Result<(), Error> {
        self.idle.pop(&ino);
        self.entry_mut(ino)?.open += 1;
        Ok(())
    }

    pub(super) fn unpin(&mut self, ino: Ino) {
        if let Ok(entry) = self.entry_mut(ino) {
            entry.open = entry.open.saturating_sub(1);
            if entry.open == 0 {
                entry.copies.clear();
            }
            self.settle(ino);
        }
    }

    /// Takes the name away from the node. The node stays as long as it has a reference; what is below it goes too.
    pub(super) fn detach(&mut self, ino: Ino) {
        self.unlink(ino);
        let Ok(entry) = self.entry_mut(ino) else { return };
        entry.name_state = NameState::Unlinked;
        entry.local = false;
        entry.attributes.nlink = 0;
        let below = entry.directory.as_ref().map(|directory| directory.children.values().copied().collect());
        below.unwrap_or_else(Vec::new).into_iter().for_each(|child| self.detach(child));
        self.settle(ino);
    }

    /// Gives the name to the object of another writer, which gets a new number: open files of `ino` keep the old one.
    pub(super) fn lose(&mut self, ino: Ino) -> Result<(), Error> {
        let key = self.key(ino)?;
        let place = self.entry(ino)?.place().cloned().ok_or(Error::NotFound)?;
        // What has the name now is not known here.
        self.mark_incomplete(ino);
        self.unlink(ino);
        let entry = self.entry_mut(ino)?;
        entry.name_state = NameState::Lost { key, place };
        entry.local = false;
        self.settle(ino);
        Ok(())
    }

    /// Gives a lost file its name back: its changes are the object now.
    pub(super) fn regain(&mut self, ino: Ino) -> Result<(), Error> {
        let NameState::Lost { place: (parent, name), .. } = self.entry(ino)?.name_state.clone() else { return Ok(()) };
        match self.child(parent, &name)? {
            // Of a key `a` beside keys `a/...` the directory is shown.
            Some(other) if self.entry(other)?.is_directory() => return Ok(()),
            Some(other) => self.lose(other)?,
            None => {}
        }
        self.relocate(ino, parent, &name)
    }

    /// Puts a node under another name, which must be free.
    pub(super) fn relocate(&mut self, ino: Ino, parent: Ino, name: &Name) -> Result<(), Error> {
        let kind = self.entry(ino)?.attributes.kind;
        self.unlink(ino);
        self.link(parent, name, ino, kind)?;
        self.entry_mut(ino)?.name_state = NameState::Named((parent, name.clone()));
        Ok(())
    }

    /// Makes the node exist here whatever the store says, or ends that.
    pub(super) fn set_local(&mut self, ino: Ino, local: bool) -> Result<(), Error> {
        self.entry_mut(ino)?.local = local;
        self.settle(ino);
        Ok(())
    }

    /// Notes an own change of the node: answers to questions asked before say nothing of it.
    pub(super) fn change(&mut self, ino: Ino) -> Result<&mut Entry, Error> {
        let tick = self.change_clock.advance();
        let entry = self.entry_mut(ino)?;
        entry.changed = tick;
        Ok(entry)
    }

    /// This mount changes the names in `parent`: its times say so.
    pub(super) fn touch(&mut self, parent: Ino, now: Timestamp) {
        let Ok(entry) = self.entry_mut(parent) else { return };
        (entry.attributes.mtime, entry.attributes.ctime) = (now, now);
        if let Some(directory) = &mut entry.directory {
            directory.touched = Some(now);
        }
    }

    /// Whether `ino` is `root` or stands somewhere below it.
    pub(super) fn is_below(&self, ino: Ino, root: Ino) -> bool {
        if ino == root {
            return true;
        }
        let parent = self.entry(ino).ok().and_then(Entry::place).map(|(parent, _)| *parent);
        parent.is_some_and(|parent| self.is_below(parent, root))
    }

    /// Whether something at or below `ino` is not in the store yet, so that the store's silence means nothing.
    pub(super) fn holds_local(&self, ino: Ino) -> bool {
        let Ok(entry) = self.entry(ino) else { return false };
        let below = entry.directory.as_ref().map(|directory| directory.children.values());
        entry.local || below.into_iter().flatten().any(|child| self.holds_local(*child))
    }

    fn number(&self, parent: Ino, name: &Name, kind: Kind) -> Result<Ino, Error> {
        let prefix = self.prefix(parent)?;
        let is_taken = |ino| self.nodes.contains_key(&ino) || self.numbers.contains(ino);
        Ok(match kind {
            Kind::Directory => free_number(prefix.directory(name)?.as_str(), is_taken),
            _ => free_number(prefix.file(name)?.as_str(), is_taken),
        })
    }

    fn link(&mut self, parent: Ino, name: &Name, ino: Ino, kind: Kind) -> Result<(), Error> {
        self.idle.pop(&parent);
        let directory = self.directory_mut(parent)?;
        directory.children.insert(name.clone(), ino);
        directory.subdirectories += u32::from(kind == Kind::Directory);
        Ok(())
    }

    fn unlink(&mut self, ino: Ino) {
        let Ok(entry) = self.entry(ino) else { return };
        let is_directory = entry.is_directory();
        let Some((parent, name)) = entry.place().cloned() else { return };
        if let Ok(directory) = self.directory_mut(parent)
            && directory.children.get(&name) == Some(&ino)
        {
            directory.children.remove(&name);
            directory.subdirectories -= u32::from(is_directory);
        }
        self.settle(parent);
    }

    /// Files a node where it belongs now: in use, idle, or gone.
    fn settle(&mut self, ino: Ino) {
        let Ok(entry) = self.entry(ino) else { return };
        if ino == Ino::ROOT || !entry.is_idle() {
            self.idle.pop(&ino);
        } else if entry.place().is_some() {
            self.idle.put(ino, ());
        } else {
            self.drop_node(ino);
        }
    }

    /// Makes room for one more node, if there are nodes without a reference.
    fn evict(&mut self) {
        while self.nodes.len() >= self.entries_max {
            let Some((ino, ())) = self.idle.pop_lru() else { return };
            self.mark_incomplete(ino);
            self.unlink(ino);
            self.drop_node(ino);
        }
    }

    /// The parent's children are not all there any more, so that a missing name says nothing.
    fn mark_incomplete(&mut self, ino: Ino) {
        let parent = self.entry(ino).ok().and_then(Entry::place).map(|(parent, _)| *parent);
        if let Some(Ok(directory)) = parent.map(|parent| self.directory_mut(parent)) {
            directory.listed = None;
        }
    }

    fn drop_node(&mut self, ino: Ino) {
        self.idle.pop(&ino);
        if let Some(directory) = self.nodes.remove(&ino).and_then(|entry| entry.directory) {
            self.hidden -= directory.hidden.count;
        }
    }
}

/// Where a bucket keeps the attributes of its root: below the reserved name, where no mount shows it.
fn root_key() -> Result<Key, Error> {
    Key::new(format!("{RESERVED_NAME}/root")).map_err(|_| Error::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(kind: Kind) -> Attributes {
        let time = Timestamp::default();
        Attributes { kind, size: 0, mode: 0, uid: 0, gid: 0, mtime: time, atime: time, ctime: time, nlink: 1 }
    }

    fn table(entries_max: usize) -> Table {
        Table::new(Prefix::new("p").unwrap(), attributes(Kind::Directory), entries_max)
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn add(table: &mut Table, parent: Ino, text: &str, kind: Kind) -> Ino {
        table.insert(parent, &name(text), attributes(kind)).unwrap()
    }

    #[test]
    fn keys_follow_from_the_places() {
        let mut table = table(9);
        let directory = add(&mut table, Ino::ROOT, "d", Kind::Directory);
        let file = add(&mut table, directory, "f", Kind::File);
        assert_eq!(table.key(file).unwrap().as_str(), "p/d/f");
        assert_eq!(table.key(directory).unwrap().as_str(), "p/d/");
        assert_eq!(table.key(Ino::ROOT).unwrap().as_str(), "p/");
        table.refer(file).unwrap();
        table.detach(directory);
        assert!(matches!(table.key(file), Err(Error::NotFound)));
        assert!(table.entry(directory).is_err());
        assert_eq!(table.entry(file).unwrap().shown().nlink, 0);
        table.forget(file, 1);
        assert!(table.entry(file).is_err());
    }

    #[test]
    fn a_node_has_the_number_of_its_key_unless_another_one_has_it() {
        let mut table = table(9);
        let file = add(&mut table, Ino::ROOT, "f", Kind::File);
        table.refer(file).unwrap();
        table.relocate(file, Ino::ROOT, &name("g")).unwrap();
        let second = add(&mut table, Ino::ROOT, "f", Kind::File);
        assert_ne!(second, file, "the renamed file has kept it");
        table.detach(second);
        table.numbers.hold(file);
        table.detach(file);
        table.forget(file, 1);
        assert!(table.entry(file).is_err());
        assert_eq!(add(&mut table, Ino::ROOT, "f", Kind::File), second, "a file with changes outlives its node");
        table.detach(second);
        table.numbers.release(file);
        assert_eq!(add(&mut table, Ino::ROOT, "f", Kind::File), file);
        assert_ne!(add(&mut table, Ino::ROOT, "g", Kind::File), file);
    }

    #[test]
    fn only_what_nobody_refers_to_is_evicted_oldest_first() {
        let mut table = table(4);
        let held = add(&mut table, Ino::ROOT, "held", Kind::File);
        table.refer(held).unwrap();
        table.directory_mut(Ino::ROOT).unwrap().listed = Some(Instant::now());
        let old = add(&mut table, Ino::ROOT, "old", Kind::File);
        let young = add(&mut table, Ino::ROOT, "young", Kind::File);
        let last = add(&mut table, Ino::ROOT, "last", Kind::File);
        assert!(table.entry(old).is_err());
        assert!([held, young, last].iter().all(|ino| table.entry(*ino).is_ok()));
        assert_eq!(table.directory(Ino::ROOT).unwrap().listed, None);
        table.forget(held, 1);
        add(&mut table, Ino::ROOT, "more", Kind::File);
        assert!(table.entry(young).is_err());
    }

    #[test]
    fn a_directory_with_known_children_is_not_evicted_before_them() {
        let mut table = table(3);
        let directory = add(&mut table, Ino::ROOT, "d", Kind::Directory);
        let file = add(&mut table, directory, "f", Kind::File);
        let other = add(&mut table, Ino::ROOT, "o", Kind::File);
        assert!(table.entry(file).is_err());
        assert!(table.entry(directory).is_ok() && table.entry(other).is_ok());
    }

    #[test]
    fn link_counts_of_directories_count_their_subdirectories() {
        let mut table = table(9);
        let a = add(&mut table, Ino::ROOT, "a", Kind::Directory);
        add(&mut table, Ino::ROOT, "b", Kind::Directory);
        add(&mut table, Ino::ROOT, "f", Kind::File);
        assert_eq!(table.entry(Ino::ROOT).unwrap().shown().nlink, 1, "there may be more of them");
        table.directory_mut(Ino::ROOT).unwrap().listed = Some(Instant::now());
        assert_eq!(table.entry(Ino::ROOT).unwrap().shown().nlink, 4);
        table.detach(a);
        assert_eq!(table.entry(Ino::ROOT).unwrap().shown().nlink, 3);
    }

    #[test]
    fn a_lost_file_keeps_its_key_and_frees_its_name() {
        let mut table = table(9);
        let file = add(&mut table, Ino::ROOT, "f", Kind::File);
        table.pin(file).unwrap();
        table.lose(file).unwrap();
        assert_eq!(table.child(Ino::ROOT, &name("f")).unwrap(), None);
        assert_eq!(table.key(file).unwrap().as_str(), "p/f");
        table.unpin(file);
        assert!(table.entry(file).is_err());
    }

    #[test]
    fn a_lost_file_is_stored_where_its_directory_is_now_and_takes_its_name_back() {
        let mut table = table(9);
        let directory = add(&mut table, Ino::ROOT, "d", Kind::Directory);
        let file = add(&mut table, directory, "f", Kind::File);
        table.pin(file).unwrap();
        table.set_local(file, true).unwrap();
        table.directory_mut(directory).unwrap().listed = Some(Instant::now());
        table.lose(file).unwrap();
        assert_eq!(table.directory(directory).unwrap().listed, None, "the winner may be there");
        assert!(!table.holds_local(directory));
        table.relocate(directory, Ino::ROOT, &name("e")).unwrap();
        assert_eq!((table.key(file).unwrap().as_str(), table.key_to_store(file).unwrap().as_str()), ("p/d/f", "p/e/f"));
        let winner = add(&mut table, directory, "f", Kind::File);
        table.refer(winner).unwrap();
        table.regain(file).unwrap();
        assert_eq!(table.find(&Key::new("p/e/f").unwrap()), Some(file));
        assert!(table.entry(winner).unwrap().is_lost());
        table.lose(file).unwrap();
        table.detach(directory);
        assert!(matches!(table.key_to_store(file), Err(Error::NotFound)), "there is no such directory any more");
    }
}
