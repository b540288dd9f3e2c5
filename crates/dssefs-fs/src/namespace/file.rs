//! Files that come, are written and go.

use std::sync::Arc;
use std::time::SystemTime;

use super::Namespace;
use super::entry::Entry;
use super::error::Error;
use super::node::{Attributes, Ino, Node, Timestamp};
use super::reserved::refuse_reserved;
use dssefs_s3::object::{ETag, Key, Name, Version};
use dssefs_s3::s3::{Head, Removal};

/// How often a removal or a rename begins again with the version that other hosts have put there meanwhile.
pub(super) const RENEWALS_MAX: usize = 3;

impl Namespace {
    /// A new file that is not in the store yet, with one reference of the kernel. This mount sees it at once, and
    /// listings leave it alone until it is committed, discarded or unlinked. The caller has looked the name up before.
    /// No request.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Name`], [`Error::NotADirectory`], and [`Error::NotFound`] in a directory that is
    /// gone.
    pub fn create(&self, parent: Ino, name: &Name, attributes: Attributes) -> Result<Node, Error> {
        refuse_reserved(name)?;
        let mut table = self.table();
        table.prefix(parent)?.file(name)?;
        if table.child(parent, name)?.is_some() {
            return Err(Error::Exists);
        }
        let ino = table.insert(parent, name, Attributes { nlink: 1, ..attributes })?;
        table.change(ino)?.local = true;
        table.touch(parent, SystemTime::now().into());
        table.refer(ino)
    }

    /// The file is in the store as `head` says, and has no other changes. A lost one has its name again.
    pub fn committed(&self, ino: Ino, head: impl Into<Arc<Head>>) {
        let head = head.into();
        let now = self.now();
        let mut table = self.table();
        // The directory of a lost file may be gone; then the file stays without a name, and its object is found again.
        let _ = table.regain(ino);
        let Ok(entry) = table.change(ino) else { return };
        let nlink = entry.attributes.nlink;
        entry.attributes = Attributes { nlink, ..self.settings.known(&head, false) };
        (entry.object, entry.listed, entry.seen) = (Some(head), None, Some(now));
        // The node was found a moment ago and the table is still locked.
        let _ = table.set_local(ino, false);
    }

    /// What a file shows whose object is as `head` says.
    #[must_use]
    pub fn settled(&self, head: &Head) -> Attributes {
        self.settings.known(head, false)
    }

    /// The file has changes that are not in the store: these attributes stand until it is committed or discarded.
    pub fn set_local(&self, ino: Ino, attributes: Attributes) {
        let mut table = self.table();
        if let Ok(entry) = table.change(ino) {
            entry.attributes = Attributes { nlink: entry.attributes.nlink, ..attributes };
            let _ = table.set_local(ino, true);
        }
    }

    /// The file's changes are given up: it is again what the store says, and gone if it never was there.
    pub fn discard(&self, ino: Ino) {
        let mut table = self.table();
        let Ok(entry) = table.change(ino) else { return };
        let in_store = is_in_store(entry);
        entry.seen = None;
        if let Some(head) = entry.object.clone() {
            entry.attributes = Attributes { nlink: entry.attributes.nlink, ..self.settings.known(&head, false) };
        }
        let _ = table.set_local(ino, false);
        if !in_store {
            table.detach(ino);
        }
    }

    /// Removes a file: by one DELETE, or by none when it never was in the store. Open files of it live on under its
    /// number. A directory without a marker that loses its last file is given one, so that it does not vanish under who
    /// works in it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsADirectory`], and the store's.
    pub async fn unlink(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Ino, Error> {
        let ino = self.at_hand(parent, name).await?;
        let _guard = self.inode_locks.lock(ino).await;
        let object = {
            let table = self.table();
            let entry = table.entry(ino)?;
            if entry.is_directory() {
                return Err(Error::IsADirectory);
            }
            if is_in_store(entry) { Some((table.key(ino)?, entry.etag().cloned())) } else { None }
        };
        if let Some((key, known)) = object {
            self.delete_object(&key, known).await?;
        }
        self.forget_name(parent, name, ino);
        self.keep_alive(parent).await;
        Ok(ino)
    }

    /// Deletes an object: the version that is `known`, or the one that the store has instead. A version that comes
    /// after a lost answer stays: the delete may have been carried out before it.
    async fn delete_object(&self, key: &Key, known: Option<ETag>) -> Result<(), Error> {
        if let Some(word) = self.settings.last_writer_wins {
            return Ok(self.gateway.delete(key, word).await?);
        }
        let mut version = match known {
            Some(etag) => Some(etag),
            None => self.gateway.etag(key).await?,
        };
        for _ in 0..RENEWALS_MAX {
            let Some(etag) = version else { return Ok(()) };
            version = match self.gateway.delete_version(key, &etag).await? {
                Removal::Gone | Removal::PerhapsGone => None,
                Removal::Replaced(now) => Some(now),
            };
        }
        if version.is_none() { Ok(()) } else { Err(Error::Stale) }
    }

    /// The object and the attributes of an open file whose bytes are those of `version`: the copies that this mount
    /// made of it (rename, chmod) have another key and another ETag. None if the object is another host's, or if the
    /// name is gone. No request.
    pub fn own_copy(&self, ino: Ino, version: &Version) -> Option<(Key, Arc<Head>, Attributes)> {
        let table = self.table();
        let entry = table.entry(ino).ok()?;
        let mut etag = &version.etag;
        for (from, to) in &entry.copies {
            if from == etag {
                etag = to;
            }
        }
        let head = entry.object.as_ref().filter(|head| head.meta.version.etag == *etag)?;
        Some((table.key(ino).ok()?, Arc::clone(head), entry.shown()))
    }

    /// The node of a name that the kernel has looked up before: no question while it is in the table.
    pub(super) async fn at_hand(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Ino, Error> {
        let child = self.table().child(parent, name)?;
        match child {
            Some(ino) => Ok(ino),
            None => self.resolve(parent, name).await,
        }
    }

    /// The name is gone from the store and from here.
    pub(super) fn forget_name(&self, parent: Ino, name: &Name, ino: Ino) {
        let now = Timestamp::from(SystemTime::now());
        let mut table = self.table();
        table.change_clock.remove(parent, name);
        if let Ok(entry) = table.entry_mut(ino) {
            entry.attributes.ctime = now;
        }
        table.detach(ino);
        // A listing that came in between may have given the name to a newer version, which is deleted too.
        if let Ok(Some(newer)) = table.child(parent, name)
            && !table.holds_local(newer)
        {
            table.detach(newer);
        }
        table.touch(parent, now);
    }
}

/// Whether there is an object behind the node, changed here or not.
pub(super) fn is_in_store(entry: &Entry) -> bool {
    !entry.local || entry.object.is_some()
}
