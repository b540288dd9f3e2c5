//! Whole directories.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, stream};

use super::entry::Entry;
use super::error::Error;
use super::moving::is_reserved;
use super::node::{Attributes, DirEntry, Ino, Kind};
use super::observe::{Marker, Standing};
use super::special::TARGET_BYTES_MAX;
use super::table::Table;
use super::{Namespace, Settings, When};
use crate::object::{ETag, Name, Prefix};
use crate::s3::{ListPage, ListRequest, Listed};

/// The most that ListObjectsV2 gives at once.
const PAGE_ENTRIES_MAX: u16 = 1000;

/// How much of a directory is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// All of it, if it fits into one page; else nothing is learnt but that it does not.
    OnePage,
}

/// What a listing says of one name.
#[derive(Debug)]
enum Seen {
    Directory,
    File { etag: ETag, attributes: Attributes, special: bool },
}

/// A whole directory as the store listed it.
#[derive(Debug)]
struct Listing {
    seen: BTreeMap<Name, Seen>,
    marker: Marker,
    hidden: u64,
    pages: u32,
}

impl Namespace {
    /// The whole directory, sorted by name: from its listing while that is fresh, else by LIST pages of 1,000. The entries have
    /// numbers but no references of the kernel. The answer is a snapshot that later changes leave alone.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], and the store's.
    pub async fn list(self: &Arc<Self>, ino: Ino) -> Result<Arc<Vec<DirEntry>>, Error> {
        let fresh = self.table().directory(ino)?.is_complete(self.now(), self.settings.ttl);
        let entries =
            if fresh { Arc::new(self.table().entries(ino)?) } else { self.refresh(ino, Extent::Whole).await? };
        Ok(self.with_kinds(ino, entries).await)
    }

    /// The entries with their kinds, after one HEAD for each that the listing left in doubt. What cannot be asked shows as a file.
    async fn with_kinds(self: &Arc<Self>, ino: Ino, entries: Arc<Vec<DirEntry>>) -> Arc<Vec<DirEntry>> {
        let doubtful: Vec<Ino> = {
            let table = self.table();
            let in_doubt = |ino: &Ino| table.entry(*ino).is_ok_and(Entry::may_be_special);
            entries.iter().map(|entry| entry.ino).filter(in_doubt).collect()
        };
        if doubtful.is_empty() {
            return entries;
        }
        let heads = doubtful.into_iter().map(|child| self.fetch(child));
        let asked = stream::iter(heads).buffer_unordered(self.settings.heads_in_flight_max);
        asked.for_each(async |head| tell_failure(head.err())).await;
        let table = self.table();
        let now = |entry: &DirEntry| {
            let child = table.child(ino, &entry.name).ok().flatten();
            child.and_then(|child| table.dir_entry(child, &entry.name).ok()).unwrap_or_else(|| entry.clone())
        };
        Arc::new(entries.iter().map(now).collect())
    }

    /// One listing for all who wait for it. Empty when it was to be one page and is not.
    pub(super) async fn refresh(self: &Arc<Self>, ino: Ino, extent: Extent) -> Result<Arc<Vec<DirEntry>>, Error> {
        self.listings.join((ino, extent), || Arc::clone(self).ask_for_listing(ino, extent).boxed()).await
    }

    async fn ask_for_listing(self: Arc<Self>, ino: Ino, extent: Extent) -> Result<Arc<Vec<DirEntry>>, Error> {
        loop {
            let prefix = self.table().prefix(ino)?;
            let entries = self.ask_for_listing_of(ino, &prefix, extent).await?;
            // Moved meanwhile, the directory has its objects elsewhere.
            if self.table().prefix(ino)? == prefix {
                return Ok(entries);
            }
        }
    }

    async fn ask_for_listing_of(
        self: &Arc<Self>,
        ino: Ino,
        prefix: &Prefix,
        extent: Extent,
    ) -> Result<Arc<Vec<DirEntry>>, Error> {
        let question = self.question();
        let mut listing = Listing { seen: BTreeMap::new(), marker: Marker::Absent, hidden: 0, pages: 0 };
        let mut continuation = None;
        loop {
            let page = self.page(prefix, continuation.as_deref()).await?;
            continuation = listing.add(prefix, page, &self.settings);
            if continuation.is_none() {
                break;
            }
            if extent == Extent::OnePage {
                self.table().directory_mut(ino)?.large = true;
                return Ok(Arc::default());
            }
        }
        let implicit = self.settings.implicit_directory(self.started);
        let entries = self.table().merge(ino, listing, question.when, implicit)?;
        Ok(Arc::new(entries))
    }

    async fn page(&self, prefix: &Prefix, continuation: Option<&str>) -> Result<ListPage, Error> {
        let prefix = prefix.as_str();
        let entries_max = PAGE_ENTRIES_MAX;
        let request = ListRequest { prefix, delimiter: true, start_after: None, continuation, entries_max };
        Ok(self.gateway.list(&request).await?)
    }
}

fn tell_failure(error: Option<Error>) {
    if let Some(error) = error.filter(|error| !matches!(error, Error::NotFound | Error::Stale)) {
        tracing::warn!(%error, "what kind of file this is cannot be found out; it is listed as a plain one");
    }
}

impl Listing {
    /// Takes in one page; what the next one is asked with.
    fn add(&mut self, prefix: &Prefix, page: ListPage, settings: &Settings) -> Option<String> {
        self.pages += 1;
        for object in page.objects {
            self.add_object(prefix, &object, settings);
        }
        for key in page.prefixes {
            let component = key.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_suffix('/'));
            match component.and_then(|text| Name::new(text).ok()) {
                Some(name) if is_reserved(&name) => self.hide_reserved(prefix, settings),
                Some(name) => drop(self.seen.insert(name, Seen::Directory)),
                None => self.hidden += 1,
            }
        }
        page.next
    }

    fn add_object(&mut self, prefix: &Prefix, object: &Listed, settings: &Settings) {
        if object.key == prefix.as_str() {
            self.marker = Marker::Version(object.etag.clone());
            return;
        }
        match object.key.strip_prefix(prefix.as_str()).and_then(|text| Name::new(text).ok()) {
            Some(name) if is_reserved(&name) => self.hide_reserved(prefix, settings),
            // A directory of the same name is shown instead, whichever page told of it first.
            Some(name) => {
                let attributes = settings.listed(object.size, object.last_modified);
                let special = object.has_sha1 && object.size <= TARGET_BYTES_MAX;
                self.seen.entry(name).or_insert(Seen::File { etag: object.etag.clone(), attributes, special });
            }
            None => self.hidden += 1,
        }
    }

    /// In the mount's root the name is the mount's own. Elsewhere it hides what another program has put there, which counts.
    fn hide_reserved(&mut self, prefix: &Prefix, settings: &Settings) {
        self.hidden += u64::from(*prefix != settings.prefix);
    }
}

impl Table {
    /// The entries of a directory as it is known.
    fn entries(&self, ino: Ino) -> Result<Vec<DirEntry>, Error> {
        let children = &self.directory(ino)?.children;
        children.iter().map(|(name, child)| self.dir_entry(*child, name)).collect()
    }

    /// Makes the directory what the listing says, except where this mount knows better. Its entries.
    fn merge(&mut self, ino: Ino, listing: Listing, when: When, implicit: Attributes) -> Result<Vec<DirEntry>, Error> {
        self.note_listing(ino, &listing, when, implicit)?;
        let mut entries = self.keep_unlisted(ino, &listing, when)?;
        for (name, seen) in listing.seen {
            if let Some(child) = self.see(ino, &name, seen, when, implicit)? {
                entries.push(self.dir_entry(child, &name)?);
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let directory = self.directory_mut(ino)?;
        // A listing that did not fit into the table answers no lookups, so they need not cause another.
        directory.large |= directory.listed.is_none();
        Ok(entries)
    }

    /// Before any child comes in: should one of them have to be evicted again, the directory counts as incomplete.
    fn note_listing(&mut self, ino: Ino, listing: &Listing, when: When, implicit: Attributes) -> Result<(), Error> {
        self.marker_seen(ino, &listing.marker, when, implicit)?;
        let directory = self.directory_mut(ino)?;
        directory.listed = Some(when.at);
        directory.large = listing.pages > 1;
        directory.questions = 0;
        let before = std::mem::replace(&mut directory.hidden, listing.hidden);
        self.hidden = self.hidden - before + listing.hidden;
        Ok(())
    }

    /// Children that the listing does not have are gone, unless they are local or younger than the question.
    fn keep_unlisted(&mut self, ino: Ino, listing: &Listing, when: When) -> Result<Vec<DirEntry>, Error> {
        let unlisted: Vec<(Name, Ino)> = {
            let children = &self.directory(ino)?.children;
            let unlisted = children.iter().filter(|(name, _)| !listing.seen.contains_key(*name));
            unlisted.map(|(name, child)| (name.clone(), *child)).collect()
        };
        let mut kept = Vec::new();
        for (name, child) in unlisted {
            if self.entry(child)?.changed > when.asked || self.holds_local(child) {
                kept.push(self.dir_entry(child, &name)?);
            } else {
                self.detach(child);
            }
        }
        Ok(kept)
    }

    fn see(
        &mut self,
        parent: Ino,
        name: &Name,
        seen: Seen,
        when: When,
        implicit: Attributes,
    ) -> Result<Option<Ino>, Error> {
        let Seen::File { etag, attributes, special } = seen else {
            let directory = self.directory_seen(parent, name, when, implicit);
            return if matches!(directory, Err(Error::NotFound)) { Ok(None) } else { directory.map(Some) };
        };
        match self.standing(parent, name, when.asked)? {
            Standing::Newer(ino) => return Ok(Some(ino)),
            Standing::Removed => return Ok(None),
            Standing::Known(ino) if !self.entry(ino)?.is_directory() => {
                let ino = self.version_listed(ino, &etag, attributes, when)?;
                self.entry_mut(ino)?.special = special;
                return Ok(Some(ino));
            }
            // A directory that only lives here hides the file, as one in the store would.
            Standing::Known(ino) if self.holds_local(ino) => return Ok(Some(ino)),
            Standing::Known(ino) => self.detach(ino),
            Standing::Free => {}
        }
        let ino = self.insert(parent, name, attributes)?;
        self.know_listed(ino, &etag, attributes, when)?;
        self.entry_mut(ino)?.special = special;
        Ok(Some(ino))
    }

    fn dir_entry(&self, ino: Ino, name: &Name) -> Result<DirEntry, Error> {
        let kind: Kind = self.entry(ino)?.attributes.kind;
        Ok(DirEntry { ino, kind, name: name.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, UNIX_EPOCH};

    use super::*;
    use futures_util::future::BoxFuture;

    use crate::namespace::{AttributeSource, Authenticator, Defaults, JournalKey, KeyName, NoKey, OwnKey};

    /// Nothing is renamed here.
    #[derive(Debug)]
    struct NoKeys;

    impl Authenticator for NoKeys {
        fn own(&self) -> BoxFuture<'_, Result<OwnKey, String>> {
            async { Err("a listing needs none".to_owned()) }.boxed()
        }

        fn find<'a>(&'a self, _: &'a KeyName, _: &'a Prefix) -> BoxFuture<'a, Result<Arc<dyn JournalKey>, NoKey>> {
            async { Err(NoKey::Unavailable("a listing needs none".to_owned())) }.boxed()
        }
    }

    fn settings() -> Settings {
        Settings {
            prefix: Prefix::root(),
            defaults: Defaults { uid: 0, gid: 0, file_mode: 0o644, dir_mode: 0o755 },
            ttl: Duration::from_secs(1),
            entries_max: 100,
            attributes: AttributeSource::Full,
            heads_in_flight_max: 1,
            rename_lease: Duration::from_secs(60),
            conditional: true,
            authenticator: Arc::new(NoKeys),
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// A table, and what the store listed when it was asked.
    struct World {
        table: Table,
        settings: Settings,
    }

    impl World {
        fn new() -> World {
            let settings = settings();
            let root = settings.implicit_directory(UNIX_EPOCH);
            World { table: Table::new(Prefix::root(), root, 100), settings }
        }

        fn ask(&mut self) -> When {
            When { asked: self.table.moments.ask(), at: Instant::now() }
        }

        fn answer(&mut self, when: When, keys: &[&str]) -> Vec<String> {
            let mut listing = Listing { seen: BTreeMap::new(), marker: Marker::Absent, hidden: 0, pages: 0 };
            let object = |key: &&str| Listed {
                key: (*key).to_owned(),
                size: 1,
                etag: ETag::new("x"),
                last_modified: UNIX_EPOCH,
                storage_class: "STANDARD".into(),
                has_sha1: false,
            };
            let (prefixes, objects): (Vec<&str>, Vec<&str>) = keys.iter().partition(|key| key.ends_with('/'));
            let prefixes = prefixes.into_iter().map(str::to_owned).collect();
            let page = ListPage { objects: objects.iter().map(object).collect(), prefixes, next: None };
            assert_eq!(listing.add(&Prefix::root(), page, &self.settings), None);
            let implicit = self.settings.implicit_directory(UNIX_EPOCH);
            let entries = self.table.merge(Ino::ROOT, listing, when, implicit).unwrap();
            self.table.moments.answered(when.asked);
            entries.into_iter().map(|entry| entry.name.to_string()).collect()
        }

        fn create(&mut self, text: &str) -> Ino {
            let ino = self.table.insert(Ino::ROOT, &name(text), self.settings.listed(0, UNIX_EPOCH)).unwrap();
            self.table.change(ino).unwrap();
            ino
        }

        fn unlink(&mut self, text: &str) {
            let ino = self.table.child(Ino::ROOT, &name(text)).unwrap().unwrap();
            self.table.moments.remove(Ino::ROOT, &name(text));
            self.table.detach(ino);
        }
    }

    #[test]
    fn a_listing_asked_for_before_own_changes_does_not_undo_them() {
        let mut world = World::new();
        let before = world.ask();
        world.answer(before, &["gone", "kept"]);
        let old = world.ask();
        world.unlink("gone");
        world.create("made");
        assert_eq!(world.answer(old, &["gone", "kept"]), ["kept", "made"]);
        let new = world.ask();
        assert_eq!(world.answer(new, &["back", "kept"]), ["back", "kept"]);
    }

    #[test]
    fn what_is_local_stays_until_it_is_in_the_store() {
        let mut world = World::new();
        let file = world.create("f");
        world.table.set_local(file, true).unwrap();
        let when = world.ask();
        assert_eq!(world.answer(when, &["a", "f"]), ["a", "f"]);
        assert_eq!(world.table.child(Ino::ROOT, &name("f")).unwrap(), Some(file));
        let when = world.ask();
        assert_eq!(world.answer(when, &["a"]), ["a", "f"]);
        world.table.set_local(file, false).unwrap();
        let when = world.ask();
        assert_eq!(world.answer(when, &["a"]), ["a"]);
    }

    #[test]
    fn a_name_that_turned_from_file_to_directory_gets_a_new_number() {
        let mut world = World::new();
        let when = world.ask();
        world.answer(when, &["a"]);
        let file = world.table.child(Ino::ROOT, &name("a")).unwrap();
        let when = world.ask();
        assert_eq!(world.answer(when, &["a", "a/"]), ["a"]);
        let directory = world.table.child(Ino::ROOT, &name("a")).unwrap();
        assert_ne!(file, directory);
        assert_eq!(world.table.entry(directory.unwrap()).unwrap().attributes.kind, Kind::Directory);
        assert!(world.table.entry(file.unwrap()).is_err());
    }

    #[test]
    fn a_directory_stays_while_something_below_it_is_not_in_the_store_yet() {
        let mut world = World::new();
        let when = world.ask();
        world.answer(when, &["d/"]);
        let directory = world.table.child(Ino::ROOT, &name("d")).unwrap().unwrap();
        let file = world.table.insert(directory, &name("f"), world.settings.listed(0, UNIX_EPOCH)).unwrap();
        world.table.set_local(file, true).unwrap();
        let when = world.ask();
        assert_eq!(world.answer(when, &[]), ["d"]);
        world.table.set_local(file, false).unwrap();
        let when = world.ask();
        assert_eq!(world.answer(when, &[]), Vec::<String>::new());
    }
}
