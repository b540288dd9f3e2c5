//! `--on-noncompliant-read refuse`: content of unknown protection is not served, and not stored again as compliant
//! either.
//!
//! A copy inside the store is under DSSE-KMS whatever its source is. So a move, a change of attributes or a write to a
//! part of the file would turn an object that the mount refuses to read into one that it reads, and its verdict would
//! say nothing of its past.

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::namespace::{self, Ino, Kind};
use dssefs_s3::object::{Key, Prefix};
use dssefs_s3::policy::Verdict;
use dssefs_s3::s3::{self, Head};

use super::file::File;
use super::{Error, NoncompliantRead, Vfs};

/// HEADs at the same time of the objects below a directory that is to be moved.
const HEADS_AT_ONCE_MAX: usize = 32;

impl Vfs {
    fn refuses(&self) -> bool {
        self.settings.on_noncompliant_read == NoncompliantRead::Refuse
    }

    /// Whether the mount refuses to serve, or to take into another object, what `head` tells of.
    ///
    /// # Errors
    /// [`Error::Noncompliant`].
    pub(super) fn refuse_to_read(&self, key: &Key, head: &Head) -> Result<(), Error> {
        if !self.refuses() {
            return Ok(());
        }
        match self.gateway.judge(&head.encryption.facts) {
            Verdict::Compliant => Ok(()),
            verdict => Err(Error::Noncompliant { object: format!("s3://{}/{key}", self.gateway.bucket()), verdict }),
        }
    }

    /// The same of the version that an open file shows.
    ///
    /// # Errors
    /// [`Error::Noncompliant`].
    pub(super) fn refuse_noncompliant(&self, file: &File) -> Result<(), Error> {
        let state = file.state();
        let Some((head, source)) = state.head.as_ref().zip(state.source.as_ref()) else { return Ok(()) };
        self.refuse_to_read(&source.key, head)
    }

    /// Before a call stores the content of `file` again. A file with changes shows what programs have written through
    /// this mount, on nothing or on an object that could be opened for it. No request where the mount serves
    /// everything.
    ///
    /// # Errors
    /// [`Error::Noncompliant`], and the store cannot be asked.
    pub(super) async fn refuse_to_rewrite(&self, file: &File) -> Result<(), Error> {
        if file.is_dirty() { Ok(()) } else { self.refuse_to_rewrite_name(file.ino).await }
    }

    /// The same of a name without content that programs could open: a link, a fifo. Directories may be: they are
    /// listed, and their markers are never read.
    ///
    /// # Errors
    /// As [`Vfs::refuse_to_rewrite`].
    pub(super) async fn refuse_to_rewrite_name(&self, ino: Ino) -> Result<(), Error> {
        if !self.refuses() || self.attributes(ino).await?.kind == Kind::Directory {
            return Ok(());
        }
        let Some(key) = self.namespace.key(ino) else { return Ok(()) };
        match self.namespace.head(ino).await {
            Ok(head) => self.refuse_to_read(&key, &head),
            // What was never stored, or is gone, has nothing that could be copied.
            Err(namespace::Error::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Before a directory is moved: one HEAD for each object below it, all before the first copy. An object that
    /// another host puts there after this is moved as any other.
    ///
    /// # Errors
    /// [`Error::Noncompliant`] of the first such object that is met, and the store cannot be asked.
    pub(super) async fn refuse_to_rewrite_below(&self, directory: Ino) -> Result<(), Error> {
        let Some(marker) = self.namespace.key(directory).filter(|_| self.refuses()) else { return Ok(()) };
        let below = Prefix::new(marker.as_str()).map_err(namespace::Error::from)?;
        let objects = self.namespace.objects_below(&below).await?;
        // Markers have no content; they are stored again with the directory's own attributes.
        let files = objects.into_iter().filter_map(|object| Key::new(object.key).ok());
        let files = files.filter(|key| !key.as_str().ends_with('/'));
        let heads = files.map(|key| self.refuse_object(key));
        stream::iter(heads).buffer_unordered(HEADS_AT_ONCE_MAX).try_collect().await
    }

    async fn refuse_object(&self, key: Key) -> Result<(), Error> {
        match self.gateway.head(&key).await {
            Ok(head) => self.refuse_to_read(&key, &head),
            Err(error) if error.kind == s3::Kind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
