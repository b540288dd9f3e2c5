//! Directories: mkdir, rmdir, and the markers that keep empty ones from vanishing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::error::Error;
use super::file::RENEWALS_MAX;
use super::hidden::is_pathless;
use super::node::{Attributes, Ino, Kind, Node, Timestamp};
use super::posix;
use super::reserved::refuse_reserved;
use super::table::Table;
use super::{Namespace, Question};
use dssefs_s3::object::{ETag, Key, Name, ObjectMeta, UserMetadata};
use dssefs_s3::s3::{self, Condition, Head, Listed, NewObject, Removal};

/// The Content-Type that s3fs and the S3 console give a marker.
const MARKER_TYPE: &str = "application/x-directory";
/// The storage class that S3 takes by itself, and names in no answer.
const STANDARD: &str = "STANDARD";
/// How many directories get their times stored at the end of a mount, and how many at the same time.
const TIMES_MAX: usize = 10_000;
const TIMES_IN_FLIGHT_MAX: usize = 16;
/// After so long the end of a mount begins no more of them.
const TIMES_WITHIN: Duration = Duration::from_secs(10);

impl Namespace {
    /// A new directory, with one reference of the kernel: one PUT of its marker. The first lookup in it lists it,
    /// because another host may have put names into it. The caller has looked the name up before.
    ///
    /// # Errors
    /// [`Error::Exists`], also when another host was faster; [`Error::Name`], [`Error::NotADirectory`], and the
    /// store's.
    pub async fn mkdir(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<Node, Error> {
        let key = self.free_marker(parent, name)?;
        let attributes = new_directory(mode, uid, gid);
        let question = self.question();
        let user = posix::metadata(UserMetadata::new(), &attributes, self.settings.posix_form);
        let put = self.put_marker(&key, user, &self.settings.condition(Condition::Absent)).await;
        let head = put.map_err(|error| self.exists_if_taken(parent, error))?;
        let mut table = self.table();
        let (ino, is_new) = table.directory_made(parent, name, self.settings.known(&head, true))?;
        let entry = table.change(ino)?;
        (entry.object, entry.seen) = (Some(head), Some(question.when.at));
        let directory = table.directory_mut(ino)?;
        (directory.marker, directory.marker_checked) = (Some(true), Some(question.when.at));
        if is_new {
            (directory.listed, directory.made) = (Some(question.when.at), true);
        }
        table.touch(parent, SystemTime::now().into());
        table.refer(ino)
    }

    /// Removes an empty directory: one LIST, then one DELETE of its marker if there is one, and one of the object
    /// without a slash that says it is a directory.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], also for what is not in the store yet and for keys that cannot be names;
    /// [`Error::MarkerHasContent`];
    /// [`Error::NotFound`], [`Error::NotADirectory`], and the store's.
    pub async fn rmdir(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<(), Error> {
        let ino = self.at_hand(parent, name).await?;
        let _guard = self.inode_locks.lock(ino).await;
        let key = {
            let table = self.table();
            if table.directory(ino)?.children.values().any(|child| table.holds_local(*child)) {
                return Err(Error::NotEmpty);
            }
            table.key(ino)?
        };
        self.refuse_shadowed(ino).await?;
        self.delete_marker(ino, &key).await?;
        self.delete_plain_marker(ino).await?;
        self.forget_name(parent, name, ino);
        self.keep_alive(parent).await;
        Ok(())
    }

    /// Gives a directory that may have lost its last file a marker, unless it has one. If that fails, this mount alone
    /// keeps the directory.
    pub(super) async fn keep_alive(self: &Arc<Self>, ino: Ino) {
        let Some(key) = self.marker_in_need(ino) else { return };
        if let Err(error) = self.write_marker_if_empty(ino, &key).await {
            tracing::warn!(
                %error,
                %key,
                "the empty directory has no marker, so only this mount shows it; to keep it, make a file in it"
            );
            let _ = self.table().set_local(ino, true);
        }
    }

    /// Learns the attributes of a bucket's root, which stay known from then on. One HEAD; none for a mount of a prefix,
    /// whose root has a marker like any other directory, and none where attributes come from listings.
    ///
    /// The root shows the mount's defaults if the credentials may not read them: a policy may leave out what is hidden.
    pub async fn know_root(self: &Arc<Self>) {
        if !self.settings.is_full() || !self.table().is_bucket_root(Ino::ROOT) {
            return;
        }
        match self.fetch(Ino::ROOT).await {
            Ok(_) | Err(Error::NotFound) => {}
            Err(Error::Store(error)) if matches!(error.kind, s3::Kind::AccessDenied { .. }) => {
                tracing::info!(%error, "the attributes of the root may not be read, so it shows the mount's defaults");
                if let Ok(root) = self.table().directory_mut(Ino::ROOT) {
                    root.marker = Some(false);
                }
            }
            Err(error) => tracing::warn!(%error, "the attributes of the root cannot be read yet"),
        }
    }

    /// Learns them again, as another host may have changed them.
    pub(super) async fn renew_root(self: &Arc<Self>) -> Result<(), Error> {
        let known = {
            let mut table = self.table();
            let root = table.directory_mut(Ino::ROOT)?;
            root.marker_checked = None;
            root.marker.take()
        };
        match self.fetch(Ino::ROOT).await {
            Ok(_) | Err(Error::NotFound) => Ok(()),
            Err(error) => {
                self.table().directory_mut(Ino::ROOT)?.marker = known;
                Err(error)
            }
        }
    }

    /// Gives markers the times of their directories, at the end of a mount: names have come and gone in them, and an
    /// update of the marker for each of those would have cost a request. A directory without a marker gets none.
    pub async fn store_directory_times(self: &Arc<Self>) {
        if !self.settings.is_full() {
            return;
        }
        let (began, failed) = (Instant::now(), AtomicBool::new(false));
        let touched = self.table().touched(TIMES_MAX);
        let store = async |ino| {
            let left = TIMES_WITHIN.saturating_sub(began.elapsed());
            // A rename that failed may still be taking its copies back.
            let Ok(_subtree) = tokio::time::timeout(left, self.lock_shared(ino)).await else { return };
            if left.is_zero() || failed.load(Ordering::Relaxed) {
                return;
            }
            match self.store_times(ino).await {
                // Another host has changed or removed it, and its times with it.
                Ok(()) | Err(Error::NotFound | Error::Stale) => {}
                Err(Error::Store(error)) if error.kind == s3::Kind::PreconditionFailed => {}
                Err(error) => {
                    if !failed.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "times of directories are not stored; the next mount shows older ones");
                    }
                }
            }
        };
        stream::iter(touched).for_each_concurrent(TIMES_IN_FLIGHT_MAX, store).await;
    }

    /// Stores a marker with the metadata `user`, where there is none. What the store answered.
    pub(super) async fn put_marker(
        &self,
        key: &Key,
        user: UserMetadata,
        condition: &Condition,
    ) -> Result<Arc<Head>, Error> {
        let content_type = Some(MARKER_TYPE.to_owned());
        let object = NewObject { user, content_type, ..NewObject::at(key.clone()) };
        let stored = self.gateway.put(&object, Arc::new(Bytes::new()), condition).await?.into_inner();
        Ok(Arc::new(head_of(object, stored, 0, 0)))
    }

    /// Gives a directory that has no marker one, without attributes of its own: it goes on showing the defaults.
    pub(super) async fn put_plain_marker(&self, key: &Key) -> Result<Arc<Head>, Error> {
        self.put_marker(key, UserMetadata::new(), &self.settings.condition(Condition::Absent)).await
    }

    /// Refuses to remove a directory that shows the object which it would hide, if the store still has that. No request
    /// for any other directory.
    async fn refuse_shadowed(&self, ino: Ino) -> Result<(), Error> {
        let (shadowed, key) = {
            let table = self.table();
            let Some(child) = table.child(ino, &Name::shadowed())? else { return Ok(()) };
            (child, table.key(child)?)
        };
        if self.gateway.etag(&key).await?.is_some() {
            return Err(Error::NotEmpty);
        }
        self.table().detach(shadowed);
        Ok(())
    }

    fn free_marker(&self, parent: Ino, name: &Name) -> Result<Key, Error> {
        refuse_reserved(name)?;
        let table = self.table();
        let prefix = table.prefix(parent)?.directory(name)?;
        if table.child(parent, name)?.is_some() {
            return Err(Error::Exists);
        }
        prefix.marker().ok_or(Error::NotPermitted)
    }

    /// Deletes the marker of an empty directory. A marker that another host has changed is looked at again with all
    /// that is below it. One that comes after a lost answer stays: the delete may have been carried out before it.
    async fn delete_marker(&self, ino: Ino, key: &Key) -> Result<(), Error> {
        for _ in 0..RENEWALS_MAX {
            let Some(marker) = self.only_marker_below(ino, key).await? else { return Ok(()) };
            if let Some(word) = self.settings.last_writer_wins {
                return Ok(self.gateway.delete(key, word).await?);
            }
            match self.gateway.delete_version(key, &marker).await? {
                Removal::Gone | Removal::PerhapsGone => return Ok(()),
                Removal::Replaced(_) => {}
            }
        }
        Err(Error::Stale)
    }

    /// Gives a directory a marker that the store knows by an object without a slash alone: a copy of that object, with
    /// all that it carries, which then goes. Such a directory could not be changed or moved as others are. No request
    /// for any other.
    pub(super) async fn replace_plain_marker(self: &Arc<Self>, ino: Ino) -> Result<(), Error> {
        let Some((from, head)) = self.plain_marker(ino)? else { return Ok(()) };
        let to = self.table().key(ino)?;
        match self.copy(&from, &head, &to, (head.meta.user.clone(), None), &Condition::Absent).await {
            Ok(_) => self.expire(ino),
            // It has a marker too, which says more.
            Err(error) if error.is_taken() => {}
            Err(error) => return Err(error),
        }
        self.delete_plain_marker(ino).await
    }

    async fn delete_plain_marker(&self, ino: Ino) -> Result<(), Error> {
        let Some((key, head)) = self.plain_marker(ino)? else { return Ok(()) };
        // One that another host has put there since is another object, and stays.
        self.gateway.delete_version(&key, &head.meta.version.etag).await?;
        self.table().entry_mut(ino)?.plain_marker = None;
        Ok(())
    }

    fn plain_marker(&self, ino: Ino) -> Result<Option<(Key, Arc<Head>)>, Error> {
        let table = self.table();
        let entry = table.entry(ino)?;
        let Some((head, (parent, name))) = entry.plain_marker.clone().zip(entry.place()) else { return Ok(None) };
        Ok(Some((table.prefix(*parent)?.file(name)?, head)))
    }

    /// The marker, if it is all that is left; None when there is nothing at all.
    async fn only_marker_below(&self, ino: Ino, key: &Key) -> Result<Option<ETag>, Error> {
        let found = self.first_below(key.as_str(), 2).await?;
        if let Some(other) = found.iter().find(|found| found.key != key.as_str()) {
            self.log_if_hidden(ino, key.as_str(), &other.key);
            return Err(Error::NotEmpty);
        }
        let Some(marker) = found.into_iter().next() else { return Ok(None) };
        refuse_content_of(&marker)?;
        Ok(Some(marker.etag))
    }

    /// Says in the log, once for each directory, why the directory `ino` is not empty, if the first key below its
    /// prefix is one that no program can see.
    pub(super) fn log_if_hidden(&self, ino: Ino, prefix: &str, first: &str) {
        let names = first.strip_prefix(prefix).unwrap_or(first);
        if !is_pathless(names) {
            return;
        }
        if let Ok(directory) = self.table().directory_mut(ino)
            && !std::mem::replace(&mut directory.hidden_in_log, true)
        {
            tracing::warn!(
                directory = prefix,
                key = first,
                "the directory is not empty: it has keys that cannot be names of files, which the mount hides; \
                 `dssefs doctor` names them; delete them, or copy them to other keys, with another client of S3"
            );
        }
    }

    /// The marker to write when no child is known and no marker either.
    fn marker_in_need(&self, ino: Ino) -> Option<Key> {
        let table = self.table();
        let directory = table.directory(ino).ok()?;
        let safe = ino == Ino::ROOT || directory.marker == Some(true) || !directory.children.is_empty();
        if safe { None } else { table.key(ino).ok() }
    }

    async fn write_marker_if_empty(self: &Arc<Self>, ino: Ino, key: &Key) -> Result<(), Error> {
        let question = self.question();
        let known_empty = self.table().directory(ino)?.is_complete(self.now(), self.settings.ttl);
        if !known_empty && !self.first_below(key.as_str(), 1).await?.is_empty() {
            return Ok(());
        }
        match self.put_plain_marker(key).await {
            Ok(head) => self.marker_written(ino, head, &question),
            Err(error) if error.is_taken() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn marker_written(&self, ino: Ino, head: Arc<Head>, question: &Question) -> Result<(), Error> {
        let mut table = self.table();
        table.change(ino)?.object = Some(head);
        let directory = table.directory_mut(ino)?;
        (directory.marker, directory.marker_checked) = (Some(true), Some(question.when.at));
        table.set_local(ino, false)
    }
}

impl Table {
    /// The node of a directory whose marker was just made, and whether it is new: a listing may have shown the
    /// directory already.
    fn directory_made(&mut self, parent: Ino, name: &Name, attributes: Attributes) -> Result<(Ino, bool), Error> {
        match self.child(parent, name)? {
            Some(ino) if self.entry(ino)?.is_directory() => {
                let entry = self.entry_mut(ino)?;
                entry.attributes = Attributes { nlink: entry.attributes.nlink, ..attributes };
                return Ok((ino, false));
            }
            Some(ino) if self.holds_local(ino) => return Err(Error::Exists),
            // Of a key `a` beside keys `a/...` the directory is shown.
            Some(ino) => self.detach(ino),
            None => {}
        }
        Ok((self.insert(parent, name, attributes)?, true))
    }
}

/// Refuses to delete or replace a marker that has content. Another program has stored that content, and no call of this
/// mount shows it.
pub(super) fn refuse_content_of(marker: &Listed) -> Result<(), Error> {
    match marker.size {
        0 => Ok(()),
        bytes => Err(Error::MarkerHasContent { marker: marker.key.clone(), bytes }),
    }
}

/// The HEAD of an object that was just stored. Last-Modified is this host's time, as the store's answer has none.
pub(super) fn head_of(object: NewObject, stored: s3::Stored, size: u64, tag_count: u32) -> Head {
    let meta = ObjectMeta {
        size,
        version: stored.version,
        last_modified: SystemTime::now(),
        storage_class: object.storage_class.unwrap_or_else(|| STANDARD.to_owned()),
        content_type: object.content_type,
        content_headers: object.content_headers,
        tag_count,
        user: object.user,
        commit: object.commit,
    };
    Head { meta, encryption: stored.encryption }
}

/// The storage class to send again with a rewrite: none for the one that S3 takes by itself.
pub(super) fn storage_class(head: &Head) -> Option<String> {
    Some(head.meta.storage_class.clone()).filter(|class| class != STANDARD)
}

fn new_directory(mode: u32, uid: u32, gid: u32) -> Attributes {
    let now = Timestamp::from(SystemTime::now());
    Attributes { kind: Kind::Directory, size: 0, mode, uid, gid, mtime: now, atime: now, ctime: now, nlink: 2 }
}
