//! Deletes, each under a condition.

use std::sync::atomic::Ordering::Relaxed;

use super::{ConflictRetries, Gateway};
use crate::object::{ETag, Key, Version, VersionId};
use crate::s3::aws::{AttemptLog, Deleted};
use crate::s3::error::{Error, FailedWrite, Kind};
use crate::s3::request::{LastWriterWins, Removal};

impl Gateway {
    /// Deletes whatever is there. S3's delete also succeeds when there is nothing. In a bucket with versioning the old
    /// versions remain.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn delete(&self, key: &Key, _: LastWriterWins) -> Result<(), Error> {
        self.store.delete(key, Deleted::Any, &AttemptLog::default()).await.map(drop)
    }

    /// Deletes an object if it still is this version. Like [`Gateway::delete`], it leaves old versions in a bucket that
    /// keeps them. For a store without conditional deletes, asks for the version first.
    ///
    /// # Errors
    /// As S3 answers. What the delete may have done, or may still do, is the error's [`FailedWrite`].
    pub async fn delete_version(&self, key: &Key, etag: &ETag) -> Result<Removal, Error> {
        if self.ignores_conditions_of_deletes.load(Relaxed) {
            return self.look_and_delete(key, etag).await;
        }
        let (attempts, mut conflicts) = (AttemptLog::default(), ConflictRetries::default());
        loop {
            let error = match self.store.delete(key, Deleted::If(etag), &attempts).await {
                Ok(_) => return Ok(Removal::Gone),
                Err(error) => error,
            };
            return match error.kind {
                Kind::NotFound => Ok(Removal::Gone),
                Kind::Unsupported => self.look_and_delete(key, etag).await,
                kind if conflicts.again(kind).await => continue,
                _ => self.what_is_left(key, etag, error, &attempts).await,
            };
        }
    }

    /// What has become of the version after a delete that failed.
    async fn what_is_left(
        &self,
        key: &Key,
        etag: &ETag,
        error: Error,
        attempts: &AttemptLog,
    ) -> Result<Removal, Error> {
        let (refused, is_ambiguous) = (error.kind == Kind::PreconditionFailed, attempts.is_ambiguous());
        if !refused && !is_ambiguous {
            return Err(error);
        }
        match self.etag(key).await {
            // A second attempt is refused, too, where the first one laid a delete marker on the object.
            Ok(None) => Ok(Removal::Gone),
            Ok(Some(now)) if now == *etag && is_ambiguous => Err(error.leaving(FailedWrite::PerhapsDeleted)),
            Ok(Some(now)) if now == *etag => Err(error),
            Ok(Some(_)) if is_ambiguous => Ok(Removal::PerhapsGone),
            Ok(Some(now)) => Ok(Removal::Replaced(now)),
            Err(unknown) if refused => Err(unknown.leaving(FailedWrite::PerhapsDeleted)),
            Err(_) => Err(error.leaving(FailedWrite::PerhapsDeleted)),
        }
    }

    /// Another writer's object that comes between the question and the delete is lost: the store cannot prevent it.
    async fn look_and_delete(&self, key: &Key, etag: &ETag) -> Result<Removal, Error> {
        match self.etag(key).await? {
            None => Ok(Removal::Gone),
            Some(now) if now != *etag => Ok(Removal::Replaced(now)),
            Some(_) => {
                let attempts = AttemptLog::default();
                match self.store.delete(key, Deleted::Any, &attempts).await {
                    Err(error) => self.what_is_left(key, etag, error, &attempts).await,
                    Ok(_) => Ok(Removal::Gone),
                }
            }
        }
    }

    /// Deletes exactly this version, which this mount has stored: by its id, or, without one, only while it is the
    /// object. Another writer's object that replaced it stays.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn expunge(&self, key: &Key, version: &Version) -> Result<Removal, Error> {
        match &version.id {
            Some(id) => self.delete_by_id(key, id).await.map(|()| Removal::Gone),
            None => self.delete_version(key, &version.etag).await,
        }
    }

    pub(super) async fn delete_by_id(&self, key: &Key, id: &VersionId) -> Result<(), Error> {
        self.store.delete(key, Deleted::Version(id), &AttemptLog::default()).await.map(drop)
    }

    /// A delete of `key` under a condition that cannot hold: the id of the delete marker that it has made, if any.
    pub(super) async fn delete_in_vain(&self, key: &Key, never: &ETag) -> Result<Option<VersionId>, Error> {
        self.store.delete(key, Deleted::If(never), &AttemptLog::default()).await
    }

    /// From now on asks for the version before each delete.
    pub(super) fn ask_before_deletes(&self) {
        self.ignores_conditions_of_deletes.store(true, Relaxed);
    }

    /// The ETag of the object; None if there is none.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn etag(&self, key: &Key) -> Result<Option<ETag>, Error> {
        match self.head(key).await {
            Ok(head) => Ok(Some(head.meta.version.etag)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
