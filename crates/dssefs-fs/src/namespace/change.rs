//! chmod, chown, utimens, and extended attributes.

use std::sync::Arc;
use std::time::SystemTime;

use super::Namespace;
use super::directory::{head_of, storage_class};
use super::entry::NameState;
use super::entry::OwnCopy;
use super::error::Error;
use super::node::{Attributes, Change, Ino, Kind};
use super::posix;
use super::xattr::{self, Edit};
use dssefs_s3::object::{CommitId, ETag, Key, UserMetadata};
use dssefs_s3::s3::{self, Condition, FailedWrite, Head, NewObject, Source};

/// What a change of metadata begins with.
struct Original {
    key: Key,
    /// None for a directory without a marker.
    head: Option<Arc<Head>>,
}

impl Original {
    fn user(&self) -> UserMetadata {
        self.head.as_ref().map_or_else(UserMetadata::new, |head| head.meta.user.clone())
    }
}

impl Namespace {
    /// Changes attributes and answers the new ones. A clean file, or the marker of a directory, is copied onto itself,
    /// with everything carried over; a directory without a marker gets one; changes of a file that is local, or
    /// unlinked, are kept here for its commit. Nothing is sent when nothing would differ. Then ctime stays too: a time
    /// that only this mount knew would go back.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] where attributes come from listings; [`Error::Stale`] for a version that lost its name,
    /// or that another host has replaced while programs have it open;
    /// [`Error::NotFound`], and the store's.
    pub async fn set_attributes(self: &Arc<Self>, ino: Ino, change: &Change) -> Result<Attributes, Error> {
        let _guard = self.inode_locks.lock(ino).await;
        match self.change_attributes(ino, change).await {
            Err(error) if self.learn_from(ino, &error) => self.change_attributes(ino, change).await,
            outcome => outcome,
        }
    }

    async fn change_attributes(self: &Arc<Self>, ino: Ino, change: &Change) -> Result<Attributes, Error> {
        if let Some(attributes) = self.change_here(ino, change)? {
            return Ok(attributes);
        }
        let original = self.original(ino).await?;
        let before = self.table().entry(ino)?.attributes;
        let after = change.applied(before, SystemTime::now().into());
        if (Attributes { ctime: before.ctime, ..after }) == before {
            return Ok(self.table().entry(ino)?.shown());
        }
        let user = posix::metadata(original.user(), &after, self.settings.posix_form);
        let shown = self.rewrite(ino, &original, user).await?;
        let of = |attributes: &Attributes| (attributes.mode, attributes.uid, attributes.gid, attributes.mtime.seconds);
        if of(&shown) != of(&after) {
            tracing::warn!(
                key = %original.key,
                "mode, owner or time could not be kept: the metadata of other programs leaves no room in the object's \
                 2,048 bytes; remove some of it (setfattr -x), and set them again"
            );
        }
        Ok(shown)
    }

    /// Changes an extended attribute in the store, in the same way. Answers the attributes then; None for a file that
    /// is local or unlinked, whose metadata is the caller's to keep.
    ///
    /// # Errors
    /// [`Error::Xattr`] where the change cannot be made; otherwise as [`Namespace::set_attributes`].
    pub async fn set_xattr(self: &Arc<Self>, ino: Ino, edit: &Edit) -> Result<Option<Attributes>, Error> {
        let _guard = self.inode_locks.lock(ino).await;
        match self.change_xattr(ino, edit).await {
            Err(error) if self.learn_from(ino, &error) => self.change_xattr(ino, edit).await,
            outcome => outcome,
        }
    }

    async fn change_xattr(self: &Arc<Self>, ino: Ino, edit: &Edit) -> Result<Option<Attributes>, Error> {
        if !self.settings.is_full() {
            return Err(Error::NotPermitted);
        }
        if self.is_kept_here(ino)? {
            return Ok(None);
        }
        let original = self.original(ino).await?;
        let before = self.table().entry(ino)?.shown();
        let user = edit.applied(&original.user())?;
        if user == original.user() {
            return Ok(Some(before));
        }
        let after = Attributes { ctime: SystemTime::now().into(), ..before };
        match self.rewrite(ino, &original, posix::metadata(user, &after, self.settings.posix_form)).await {
            // Other stores may count metadata in other ways. A copy that would lose annotations is refused as it is.
            Err(Error::Store(error))
                if error.kind == s3::Kind::TooLarge && error.operation != s3::Operation::ListObjectAnnotations =>
            {
                Err(xattr::Error::NoRoom.into())
            }
            outcome => outcome.map(Some),
        }
    }

    /// Copies the version of `head` to `key` with other metadata, and under a commit id that the caller has made or
    /// that the gateway makes. What HEAD would say of the copy.
    pub(super) async fn copy(
        &self,
        from: &Key,
        head: &Head,
        to: &Key,
        (user, commit): (UserMetadata, Option<CommitId>),
        condition: &Condition,
    ) -> Result<Arc<Head>, Error> {
        let source = Source { key: from.clone(), version: head.meta.version.clone(), size: head.meta.size };
        let object = NewObject {
            key: to.clone(),
            user,
            content_type: head.meta.content_type.clone(),
            content_headers: head.meta.content_headers.clone(),
            storage_class: storage_class(head),
            // The store copies them itself.
            tags: None,
            commit,
        };
        let stored = self.gateway.copy(&source, &object, condition).await?.into_inner();
        Ok(Arc::new(head_of(object, stored, head.meta.size, head.meta.tag_count)))
    }

    /// Notes that this mount turned one version of the file into another with the same content.
    pub(super) fn note_copy(&self, ino: Ino, from: &ETag, to: &ETag) {
        if let Ok(entry) = self.table().entry_mut(ino) {
            entry.note_copy(from, to);
        }
    }

    async fn original(self: &Arc<Self>, ino: Ino) -> Result<Original, Error> {
        self.replace_plain_marker(ino).await?;
        let (key, is_directory) = self.key_to_rewrite(ino)?;
        self.resolve_ambiguous_copy(ino).await?;
        if self.table().is_bucket_root(ino) {
            self.renew_root().await?;
        }
        match self.facts_to_carry(ino).await {
            Ok(head) => Ok(Original { key, head: Some(head) }),
            Err(Error::NotFound) if is_directory => Ok(Original { key, head: None }),
            Err(error) => Err(error),
        }
    }

    /// Gives the marker of a directory the times that it has here. Not for one without a marker.
    pub(super) async fn store_times(self: &Arc<Self>, ino: Ino) -> Result<(), Error> {
        let _guard = self.inode_locks.lock(ino).await;
        let original = self.original(ino).await?;
        if original.head.is_none() {
            return Ok(());
        }
        let user = posix::with_times(original.user(), &self.table().entry(ino)?.attributes, self.settings.posix_form);
        self.rewrite(ino, &original, user).await.map(drop)
    }

    async fn rewrite(&self, ino: Ino, original: &Original, user: UserMetadata) -> Result<Attributes, Error> {
        let Original { key, head } = original;
        // A marker is copied like a file, and not put again: consoles and other tools make markers with content, which
        // no call of this mount shows.
        let new = match head {
            Some(head) => self.copy_in_place(ino, key, head, user).await?,
            None => self.put_marker(key, user, &self.settings.condition(Condition::Absent)).await?,
        };
        self.rewritten(ino, &new)
    }

    async fn copy_in_place(
        &self,
        ino: Ino,
        key: &Key,
        head: &Arc<Head>,
        user: UserMetadata,
    ) -> Result<Arc<Head>, Error> {
        let condition = self.settings.condition(Condition::Matches(head.meta.version.etag.clone()));
        let commit = self.gateway.commit_id();
        let own_copy = OwnCopy { commit: commit.clone(), of: Arc::clone(head), lost: None };
        self.table().entry_mut(ino)?.own_copy = Some(Box::new(own_copy));
        let copied = self.copy(key, head, key, (user, commit), &condition).await;
        let new = copied.inspect_err(|error| self.note_failed_copy(ino, error))?;
        self.table().entry_mut(ino)?.own_copy_made(&new.meta.version.etag);
        Ok(new)
    }

    fn note_failed_copy(&self, ino: Ino, error: &Error) {
        let mut table = self.table();
        let Ok(entry) = table.entry_mut(ino) else { return };
        let lost = match error {
            Error::Store(error) if let FailedWrite::Unknown(attempt) = error.failed_write() => {
                Some(Arc::clone(attempt))
            }
            _ => None,
        };
        // None here: a HEAD has shown the copy already.
        entry.own_copy = entry.own_copy.take().filter(|_| lost.is_some());
        if let Some(copy) = entry.own_copy.as_mut() {
            copy.lost = lost;
        }
    }

    /// Finds a copy in place whose answer was lost. If the store made it, it is the object from now on.
    async fn resolve_ambiguous_copy(&self, ino: Ino) -> Result<(), Error> {
        let Some(copy) = self.table().entry(ino)?.own_copy.clone() else { return Ok(()) };
        let OwnCopy { of, lost, .. } = *copy;
        if let Some(attempt) = lost
            && let Some(stored) = self.gateway.find(&attempt).await?
        {
            self.table().entry_mut(ino)?.own_copy_made(&stored.version.etag);
            let (object, tag_count) = (attempt.object.clone(), of.meta.tag_count);
            self.rewritten(ino, &Arc::new(head_of(object, stored.into_inner(), attempt.size, tag_count)))?;
        }
        self.table().entry_mut(ino)?.own_copy = None;
        Ok(())
    }

    /// Whether what is known here of a file is more than the store has, or all that there is.
    fn is_kept_here(&self, ino: Ino) -> Result<bool, Error> {
        let table = self.table();
        let entry = table.entry(ino)?;
        match entry.name_state {
            NameState::Lost { .. } => Err(Error::Stale),
            NameState::Unlinked => Ok(true),
            NameState::Root | NameState::Named(_) => Ok(entry.local && !entry.is_directory()),
        }
    }

    /// Where the store has no part in it.
    fn change_here(&self, ino: Ino, change: &Change) -> Result<Option<Attributes>, Error> {
        let here = self.is_kept_here(ino)?;
        let mut table = self.table();
        let entry = table.entry(ino)?;
        if !self.settings.is_full() && (!here || change.beyond_times()) {
            return Err(Error::NotPermitted);
        }
        if !here {
            return Ok(None);
        }
        let after = change.applied(entry.attributes, SystemTime::now().into());
        table.change(ino)?.attributes = after;
        Ok(Some(table.entry(ino)?.shown()))
    }

    fn key_to_rewrite(&self, ino: Ino) -> Result<(Key, bool), Error> {
        let table = self.table();
        let is_directory = table.entry(ino)?.is_directory();
        Ok((table.key(ino)?, is_directory))
    }

    fn rewritten(&self, ino: Ino, head: &Arc<Head>) -> Result<Attributes, Error> {
        let now = self.now();
        let mut table = self.table();
        let entry = table.change(ino)?;
        let nlink = entry.attributes.nlink;
        entry.attributes = Attributes { nlink, ..self.settings.known(head, entry.is_directory()) };
        (entry.object, entry.listed, entry.seen) = (Some(Arc::clone(head)), None, Some(now));
        if let Some(directory) = &mut entry.directory {
            (directory.marker, directory.marker_checked) = (Some(true), Some(now));
            (directory.touched, directory.renamed) = (None, None);
        }
        let shown = entry.shown();
        if shown.kind == Kind::Directory {
            // Kept alive here or not: it has a marker now.
            table.set_local(ino, false)?;
        }
        Ok(shown)
    }
}
