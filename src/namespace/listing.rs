//! Whole directories.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;

use super::error::Error;
use super::node::{Attributes, DirEntry, Ino, Kind};
use super::observe::{Marker, Standing};
use super::table::Table;
use super::{Namespace, Settings, When};
use crate::object::{ETag, Name, Prefix};
use crate::s3::{ListPage, ListRequest, Listed};

/// The most that ListObjectsV2 gives at once.
const PAGE_ENTRIES_MAX: u16 = 1000;

/// What a listing says of one name.
#[derive(Debug)]
enum Seen {
    Directory,
    /// The version is None where the store does not tell it.
    File { etag: Option<ETag>, attributes: Attributes },
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
        if fresh { Ok(Arc::new(self.table().entries(ino)?)) } else { self.refresh(ino).await }
    }

    /// One listing for all who wait for it.
    pub(super) async fn refresh(self: &Arc<Self>, ino: Ino) -> Result<Arc<Vec<DirEntry>>, Error> {
        self.listings.join(ino, || Arc::clone(self).ask_for_listing(ino).boxed()).await
    }

    async fn ask_for_listing(self: Arc<Self>, ino: Ino) -> Result<Arc<Vec<DirEntry>>, Error> {
        let prefix = self.table().prefix(ino)?;
        let question = self.question();
        let mut listing = Listing { seen: BTreeMap::new(), marker: Marker::Absent, hidden: 0, pages: 0 };
        let mut continuation = None;
        loop {
            let page = self.page(&prefix, continuation.as_deref()).await?;
            continuation = listing.add(&prefix, page, &self.settings);
            if continuation.is_none() {
                break;
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
                Some(name) => drop(self.seen.insert(name, Seen::Directory)),
                None => self.hidden += 1,
            }
        }
        page.next
    }

    fn add_object(&mut self, prefix: &Prefix, object: &Listed, settings: &Settings) {
        if object.key == prefix.as_str() {
            self.marker = Marker::Present(object.etag.clone());
            return;
        }
        match object.key.strip_prefix(prefix.as_str()).and_then(|text| Name::new(text).ok()) {
            // A directory of the same name is shown instead, whichever page told of it first.
            Some(name) => {
                let attributes = settings.listed(object.size, object.last_modified);
                self.seen.entry(name).or_insert(Seen::File { etag: object.etag.clone(), attributes });
            }
            None => self.hidden += 1,
        }
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
        let Seen::File { etag, attributes } = seen else {
            let directory = self.directory_seen(parent, name, when, implicit);
            return if matches!(directory, Err(Error::NotFound)) { Ok(None) } else { directory.map(Some) };
        };
        match self.standing(parent, name, when.asked)? {
            Standing::Newer(ino) => return Ok(Some(ino)),
            Standing::Removed => return Ok(None),
            Standing::Known(ino) if !self.entry(ino)?.is_directory() => {
                let Some(etag) = etag else { return Ok(Some(ino)) };
                return self.version_listed(ino, &etag, attributes, when).map(Some);
            }
            // A directory that only lives here hides the file, as one in the store would.
            Standing::Known(ino) if self.holds_local(ino) => return Ok(Some(ino)),
            Standing::Known(ino) => self.detach(ino),
            Standing::Free => {}
        }
        let ino = self.insert(parent, name, attributes)?;
        if let Some(etag) = etag {
            self.know_listed(ino, &etag, attributes, when)?;
        }
        Ok(Some(ino))
    }

    fn dir_entry(&self, ino: Ino, name: &Name) -> Result<DirEntry, Error> {
        let kind: Kind = self.entry(ino)?.attributes.kind;
        Ok(DirEntry { ino, kind, name: name.clone() })
    }
}
