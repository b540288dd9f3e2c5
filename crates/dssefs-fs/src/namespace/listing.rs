//! Listings of whole directories: the pages of a LIST, merged into the table.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use futures_util::FutureExt;

use super::entry::{self, HIDDEN_NAMED_MAX, Hidden, SeenVersion};
use super::error::Error;
use super::node::{Attributes, DirEntry, Ino};
use super::observe::{Marker, Standing};
use super::progress::Progress;
use super::reserved::{is_own, is_reserved, is_shadowed};
use super::snapshot::{NamesBudget, Share, Snapshot};
use super::table::Table;
use super::{AttributeSource, Namespace, Settings, When};
use dssefs_s3::object::{Name, Prefix};
use dssefs_s3::s3::{ListPage, ListRequest, Listed};

/// The most entries that ListObjectsV2 gives in one page.
const PAGE_ENTRIES_MAX: u16 = 1000;

/// What a name takes while its directory is listed, beside its text, in bytes: an entry of a tree, an ETag, and an
/// entry of the snapshot.
const SEEN_BYTES: u64 = 320;

/// What a key that cannot be a name counts for, in bytes.
const HIDDEN_BYTES: u64 = 64;

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
    /// With the file of the same key that it would hide.
    Directory {
        shadowed: Option<SeenFile>,
    },
    File(SeenFile),
}

/// What a listing says of a file.
#[derive(Debug)]
struct SeenFile {
    version: SeenVersion,
    attributes: Attributes,
    kind_is_open: bool,
}

/// A whole directory as the store listed it.
#[derive(Debug)]
struct Listing {
    seen: BTreeMap<Name, Seen>,
    marker: Marker,
    hidden: Hidden,
    /// The last key in order that cannot be a name.
    hidden_last: String,
    pages: u32,
    progress: Progress,
    share: Share,
}

impl Namespace {
    /// The whole directory, sorted by name: from its listing while that is fresh, else by LIST pages of 1,000. The
    /// entries have numbers but no references of the kernel. The answer is a snapshot that later changes leave alone.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], [`Error::NoRoomForNames`], [`Error::EndlessListing`], and the
    /// store's.
    pub async fn list(self: &Arc<Self>, ino: Ino) -> Result<Arc<Snapshot>, Error> {
        let fresh = self.table().directory(ino)?.is_complete(self.now(), self.settings.ttl);
        if fresh { self.known_entries(ino) } else { self.refresh(ino, Extent::Whole).await }
    }

    fn known_entries(&self, ino: Ino) -> Result<Arc<Snapshot>, Error> {
        let known = {
            let table = self.table();
            match table.last_snapshot(ino)? {
                Some(last) => return Ok(last),
                None => table.entries(ino)?,
            }
        };
        self.snapshot(ino, known)
    }

    /// The entries in the form in which all who read them share them.
    fn snapshot(&self, ino: Ino, entries: Vec<DirEntry>) -> Result<Arc<Snapshot>, Error> {
        let directory = {
            let table = self.table();
            let last = table.directory(ino)?.snapshot.upgrade();
            if let Some(last) = last.filter(|last| ***last == *entries) {
                return Ok(last);
            }
            table.prefix(ino)?
        };
        let snapshot = Snapshot::new(&self.names, entries, directory.as_str())?;
        self.table().directory_mut(ino)?.snapshot = Arc::downgrade(&snapshot);
        Ok(snapshot)
    }

    /// One listing for all who wait for it. Empty when it was to be one page and is not.
    pub(super) async fn refresh(self: &Arc<Self>, ino: Ino, extent: Extent) -> Result<Arc<Snapshot>, Error> {
        self.listings.join((ino, extent), || Arc::clone(self).ask_for_listing(ino, extent).boxed()).await
    }

    async fn ask_for_listing(self: Arc<Self>, ino: Ino, extent: Extent) -> Result<Arc<Snapshot>, Error> {
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
    ) -> Result<Arc<Snapshot>, Error> {
        // 1. Note the tick of the question, before the first request.
        let question = self.question();
        // 2. Fetch all pages, or stop after the first one if only one is wanted.
        let mut listing = Listing::new(&self.names);
        let mut continuation = None;
        loop {
            let page = self.page(prefix, continuation.as_deref()).await?;
            continuation = listing.add(prefix, page, &self.settings)?;
            if continuation.is_none() {
                break;
            }
            if extent == Extent::OnePage {
                self.table().directory_mut(ino)?.note_large();
                return Snapshot::new(&self.names, Vec::new(), prefix.as_str());
            }
        }
        // 3. Merge the listing into the table, where this mount does not know better.
        let implicit = self.settings.implicit_directory();
        let entries = self.table().merge(ino, listing, question.when, implicit)?;
        // 4. Share the entries with other readers. The caller that asked for one page wants it in the table alone.
        let entries = if extent == Extent::OnePage { Vec::new() } else { entries };
        self.snapshot(ino, entries)
    }

    async fn page(&self, prefix: &Prefix, continuation: Option<&str>) -> Result<ListPage, Error> {
        let prefix = prefix.as_str();
        let entries_max = PAGE_ENTRIES_MAX;
        let request = ListRequest { prefix, delimiter: true, start_after: None, continuation, entries_max };
        // The semaphore is never closed, so there is a permit in any case.
        let _permit = self.pages.acquire().await.ok();
        Ok(self.gateway.list(&request).await?)
    }
}

pub(super) fn seen_version(object: &Listed) -> SeenVersion {
    SeenVersion { etag: object.etag.clone(), last_modified: object.last_modified }
}

impl Listing {
    fn new(budget: &Arc<NamesBudget>) -> Listing {
        Listing {
            seen: BTreeMap::new(),
            marker: Marker::Absent,
            hidden: Hidden::default(),
            hidden_last: String::new(),
            pages: 0,
            progress: Progress::default(),
            share: budget.share(),
        }
    }

    /// Takes in one page; what the next one is asked with.
    fn add(&mut self, prefix: &Prefix, page: ListPage, settings: &Settings) -> Result<Option<String>, Error> {
        self.pages += 1;
        let mut bytes = 0;
        for object in page.objects {
            bytes += self.add_object(prefix, &object, settings);
        }
        for key in page.prefixes {
            let component = key.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_suffix('/'));
            bytes += match component.and_then(|text| Name::new(text).ok()) {
                Some(name) if is_reserved(&name) => self.hide_reserved(&name, &key, prefix, settings),
                Some(name) => self.add_name(name, Seen::Directory { shadowed: None }),
                None => self.hide(&key),
            };
        }
        self.progress.page(prefix.as_str(), bytes > 0)?;
        // One page is taken in whatever is left, so that what needs no more goes on beside huge directories.
        if !self.share.grow(bytes) && self.pages > 1 {
            return Err(Error::no_room(prefix.as_str(), self.seen.len(), self.share.budget().bytes_max()));
        }
        Ok(page.next)
    }

    /// The bytes that the object takes; none if it is known already.
    fn add_object(&mut self, prefix: &Prefix, object: &Listed, settings: &Settings) -> u64 {
        if object.key == prefix.as_str() {
            self.marker = Marker::Version(seen_version(object));
            return 0;
        }
        match object.key.strip_prefix(prefix.as_str()).and_then(|text| Name::new(text).ok()) {
            Some(name) if is_reserved(&name) => self.hide_reserved(&name, &object.key, prefix, settings),
            // A directory of the same name has it inside, on whatever page it is.
            Some(name) => {
                let attributes = settings.listed(object.size, object.last_modified);
                let kind_is_open = match settings.attributes {
                    AttributeSource::Full => !object.is_proved_file(),
                    // What others have stored is never asked for, and shows the mount's defaults.
                    AttributeSource::Listing => object.is_marked_special(),
                };
                self.add_name(name, Seen::File(SeenFile { version: seen_version(object), attributes, kind_is_open }))
            }
            None => self.hide(&object.key),
        }
    }

    /// In the mount's root the name is the mount's own. Elsewhere it hides what another program has put there, which
    /// counts.
    fn hide_reserved(&mut self, name: &Name, key: &str, prefix: &Prefix, settings: &Settings) -> u64 {
        if is_own(name) && *prefix == settings.prefix { 0 } else { self.hide(key) }
    }

    fn add_name(&mut self, name: Name, seen: Seen) -> u64 {
        let bytes = SEEN_BYTES + 2 * name.as_str().len() as u64;
        match self.seen.entry(name) {
            Entry::Vacant(place) => {
                place.insert(seen);
                bytes
            }
            Entry::Occupied(mut place) => {
                let shadowed = match (place.insert(Seen::Directory { shadowed: None }), seen) {
                    // Known already, as a page that repeats names has it.
                    (Seen::File(file), Seen::File(_)) => {
                        place.insert(Seen::File(file));
                        return 0;
                    }
                    (Seen::File(file), Seen::Directory { .. }) | (Seen::Directory { .. }, Seen::File(file)) => {
                        Some(file)
                    }
                    (Seen::Directory { shadowed }, Seen::Directory { .. }) => shadowed,
                };
                place.insert(Seen::Directory { shadowed });
                0
            }
        }
    }

    /// Counts a key that cannot be a name. It takes no memory; that it counts in the budget lets a listing of nothing
    /// else have an end.
    fn hide(&mut self, key: &str) -> u64 {
        self.hidden.count += 1;
        if key <= self.hidden_last.as_str() {
            return 0;
        }
        if self.hidden.first.len() < HIDDEN_NAMED_MAX {
            self.hidden.first.push(key.to_owned());
        }
        key.clone_into(&mut self.hidden_last);
        HIDDEN_BYTES
    }
}

impl Table {
    /// The entries of a directory as it is known.
    fn entries(&self, ino: Ino) -> Result<Vec<DirEntry>, Error> {
        let children = &self.directory(ino)?.children;
        children.iter().map(|(name, child)| self.dir_entry(*child, name)).collect()
    }

    /// The entries as an open handle has them, if the directory has not changed since.
    fn last_snapshot(&self, ino: Ino) -> Result<Option<Arc<Snapshot>>, Error> {
        let directory = self.directory(ino)?;
        let is_still = |((name, child), then): ((&Name, &Ino), &DirEntry)| {
            let kind = self.entry(*child).map(entry::Entry::proved_kind).ok();
            then.name == *name && then.ino == *child && kind == Some(then.kind)
        };
        let same = |last: &Arc<Snapshot>| {
            last.len() == directory.children.len() && directory.children.iter().zip(last.iter()).all(is_still)
        };
        Ok(directory.snapshot.upgrade().filter(same))
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
        (directory.listed, directory.made) = (Some(when.at), false);
        directory.large = listing.pages > 1;
        directory.questions = 0;
        let before = std::mem::replace(&mut directory.hidden, listing.hidden.clone());
        self.hidden = self.hidden - before.count + listing.hidden.count;
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
            // What the directory would hide is not below it: the listing of its parent has it, or a HEAD.
            if self.entry(child)?.changed > when.asked || self.holds_local(child) || is_shadowed(&name) {
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
        let SeenFile { version, attributes, kind_is_open } = match seen {
            Seen::File(file) => file,
            Seen::Directory { shadowed } => {
                let directory = self.directory_seen(parent, name, when, implicit);
                if let Ok(ino) = directory {
                    self.see_shadowed(ino, shadowed, when, implicit)?;
                }
                return if matches!(directory, Err(Error::NotFound)) { Ok(None) } else { directory.map(Some) };
            }
        };
        match self.standing(parent, name, when.asked)? {
            Standing::Newer(ino) => return Ok(Some(ino)),
            Standing::Removed => return Ok(None),
            Standing::Known(ino) if !self.entry(ino)?.is_directory() => {
                let ino = self.version_listed(ino, &version, attributes, when)?;
                self.entry_mut(ino)?.kind_is_open = kind_is_open;
                return Ok(Some(ino));
            }
            // The listing cannot say that this object is a directory; HEAD has said so.
            Standing::Known(ino) if self.entry(ino)?.is_plain_marker(&version) => {
                let entry = self.entry_mut(ino)?;
                entry.seen = entry.seen.max(Some(when.at));
                return Ok(Some(ino));
            }
            // A directory that only lives here hides the file, as one in the store would.
            Standing::Known(ino) if self.holds_local(ino) => return Ok(Some(ino)),
            Standing::Known(ino) => self.detach(ino),
            Standing::Free => {}
        }
        let ino = self.insert(parent, name, attributes)?;
        self.know_listed(ino, &version, attributes, when)?;
        self.entry_mut(ino)?.kind_is_open = kind_is_open;
        Ok(Some(ino))
    }

    /// Makes what the directory `ino` would hide an entry of it.
    fn see_shadowed(
        &mut self,
        ino: Ino,
        shadowed: Option<SeenFile>,
        when: When,
        implicit: Attributes,
    ) -> Result<(), Error> {
        // A file that only lives here may have the name.
        let Ok(directory) = self.directory(ino) else { return Ok(()) };
        let name = Name::shadowed();
        match shadowed {
            Some(file) => self.see(ino, &name, Seen::File(file), when, implicit).map(drop),
            None if !directory.children.contains_key(&name) => Ok(()),
            None => {
                // Not found is what the listing says.
                let _ = self.nothing_seen(ino, &name, when);
                Ok(())
            }
        }
    }

    fn dir_entry(&self, ino: Ino, name: &Name) -> Result<DirEntry, Error> {
        let kind = self.entry(ino)?.proved_kind();
        Ok(DirEntry { ino, kind, name: name.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, UNIX_EPOCH};

    use super::*;
    use dssefs_s3::object::ETag;
    use dssefs_seal::crypto::MacKey;
    use futures_util::future::BoxFuture;

    use crate::namespace::{Authenticator, ContentType, Defaults, KeyName, NoKey, OwnKey, PosixForm};

    /// Nothing is renamed here.
    #[derive(Debug)]
    struct NoKeys;

    impl Authenticator for NoKeys {
        fn own(&self) -> BoxFuture<'_, Result<OwnKey, String>> {
            async { Err("a listing needs none".to_owned()) }.boxed()
        }

        fn find<'a>(&'a self, _: &'a KeyName, _: &'a Prefix) -> BoxFuture<'a, Result<Arc<MacKey>, NoKey>> {
            async { Err(NoKey::Unavailable("a listing needs none".to_owned())) }.boxed()
        }
    }

    fn settings() -> Settings {
        Settings {
            prefix: Prefix::root(),
            defaults: Defaults { uid: 0, gid: 0, file_mode: 0o644, dir_mode: 0o755 },
            content_type: ContentType::Guess,
            ttl: Duration::from_secs(1),
            entries_max: 100,
            names_bytes_max: 1 << 20,
            attributes: AttributeSource::Full,
            posix_form: PosixForm::S3fs,
            heads_in_flight_max: 1,
            rename_lease: Duration::from_secs(60),
            last_writer_wins: None,
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
            let root = settings.implicit_directory();
            World { table: Table::new(Prefix::root(), root, 100), settings }
        }

        fn ask(&mut self) -> When {
            When { asked: self.table.change_clock.ask(), at: Instant::now() }
        }

        fn answer(&mut self, when: When, keys: &[&str]) -> Vec<String> {
            let mut listing = Listing::new(&NamesBudget::new(self.settings.names_bytes_max));
            let object = |key: &&str| Listed {
                key: (*key).to_owned(),
                size: 1,
                etag: ETag::new("x"),
                last_modified: UNIX_EPOCH,
                storage_class: "STANDARD".into(),
                has_crc32c: true,
                has_sha1: false,
            };
            let (prefixes, objects): (Vec<&str>, Vec<&str>) = keys.iter().partition(|key| key.ends_with('/'));
            let prefixes = prefixes.into_iter().map(str::to_owned).collect();
            let page = ListPage { objects: objects.iter().map(object).collect(), prefixes, next: None };
            assert_eq!(listing.add(&Prefix::root(), page, &self.settings).unwrap(), None);
            let implicit = self.settings.implicit_directory();
            let entries = self.table.merge(Ino::ROOT, listing, when, implicit).unwrap();
            self.table.change_clock.answered(when.asked);
            entries.into_iter().map(|entry| entry.name.to_string()).collect()
        }

        fn create(&mut self, text: &str) -> Ino {
            let ino = self.table.insert(Ino::ROOT, &name(text), self.settings.listed(0, UNIX_EPOCH)).unwrap();
            self.table.change(ino).unwrap();
            ino
        }

        fn unlink(&mut self, text: &str) {
            let ino = self.table.child(Ino::ROOT, &name(text)).unwrap().unwrap();
            self.table.change_clock.remove(Ino::ROOT, &name(text));
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
        assert_eq!(world.table.entry(directory.unwrap()).unwrap().attributes.kind, crate::namespace::Kind::Directory);
        let shadowed = world.table.child(directory.unwrap(), &Name::shadowed()).unwrap();
        assert_eq!(shadowed, file, "what the directory would hide has the number of its key");
        let when = world.ask();
        assert_eq!(world.answer(when, &["a/"]), ["a"]);
        assert_eq!(world.table.child(directory.unwrap(), &Name::shadowed()).unwrap(), None);
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
