//! Tests the store at the start of a mount. No test leaves an object or an upload behind.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{Gateway, OtherCopy, Unfinished, Upload};
use crate::object::{ETag, Key, Version};
use crate::s3::error::{Error, Kind};
use crate::s3::request::{Condition, ListRequest, NewObject, Source, Stored};

/// No object has this ETag, so a write on the condition that the object is this one must not happen.
const NO_ETAG: &str = "\"dssefs-no-object-has-this-etag\"";

/// The number of objects that are listed to find one small enough to copy.
const SOURCES_MAX: u16 = 20;
/// The largest object to copy, in bytes: a store that keeps no conditions does copy it.
const SOURCE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Whether the store obeys `If-Match` and `If-None-Match` on writes.
#[derive(Debug)]
pub enum Conditions {
    /// It does: no writer can replace a version that it has not seen.
    Kept,
    /// It does not; the sentence says how.
    Broken(String),
    /// Unknown, because these credentials may not find out.
    Unknown(Error),
}

impl Gateway {
    /// Proves that objects like `key` can be written as the policy asks, without writing one: begins a multipart
    /// upload, judges the answer, and aborts it. Needs kms:GenerateDataKey.
    ///
    /// # Errors
    /// As S3 answers, and [`Kind::Mismatch`].
    pub async fn probe(self: &Arc<Self>, key: &Key) -> Result<(), Error> {
        self.start_upload(&NewObject::at(key.clone())).await?.abort().await
    }

    /// The same, and finds out whether the store keeps conditions: asks for PutObject and CompleteMultipartUpload under
    /// a condition that cannot hold. `key` must be an unused name, because a store that keeps no conditions creates the
    /// object, which is then deleted at once.
    ///
    /// # Errors
    /// As S3 answers, and [`Kind::Mismatch`].
    pub async fn probe_conditions(self: &Arc<Self>, key: &Key) -> Result<Conditions, Error> {
        let upload = self.start_upload(&NewObject::at(key.clone())).await?;
        // Boxed, because both together would make every future above this one large.
        let (completed, put) = tokio::join!(self.complete_in_vain(upload).boxed(), self.put_in_vain(key).boxed());
        let found = (completed?, put?);
        Ok(match found {
            (broken @ Conditions::Broken(_), _) | (_, broken @ Conditions::Broken(_)) => broken,
            (unknown @ Conditions::Unknown(_), _) | (_, unknown @ Conditions::Unknown(_)) => unknown,
            (Conditions::Kept, Conditions::Kept) => Conditions::Kept,
        })
    }

    /// Whether the store also keeps the conditions of CopyObject: asks for a copy of a small object below `prefix` to
    /// `key` under a condition that cannot hold. `key` is as for [`Gateway::probe_conditions`]. None if there is no
    /// object that may be copied.
    ///
    /// # Errors
    /// A copy that should not have been made could not be deleted again.
    pub async fn probe_copies(self: &Arc<Self>, prefix: &str, key: &Key) -> Result<Option<Conditions>, Error> {
        let Some(source) = self.small_object(prefix).await else {
            tracing::debug!("there is no small object to test whether the store keeps the conditions of copies");
            return Ok(None);
        };
        let unknown =
            |error: &Error| tracing::info!(%error, "it is unknown whether the store keeps the conditions of copies");
        match self.duplicate(&source, key, None, &never()).await {
            Ok(stored) => self.undo(key, &stored, "CopyObject").await.map(Some),
            Err(error) => Ok(judged(error, "CopyObject").inspect_err(unknown).ok()),
        }
    }

    /// Whether the store also keeps the conditions of DeleteObject: asks for a delete under a condition that cannot
    /// hold. `key` is as for [`Gateway::probe_conditions`]. If the store does not keep them, the gateway asks for the
    /// version before each delete from now on.
    ///
    /// # Errors
    /// As S3 answers, also when a delete marker that should not have been made could not be removed again.
    pub async fn probe_deletes(&self, key: &Key) -> Result<Conditions, Error> {
        const DELETE: &str = "DeleteObject";
        let found = match self.delete_in_vain(key, &ETag::new(NO_ETAG)).await {
            Ok(marker) => {
                if let Some(id) = marker {
                    self.delete_by_id(key, &id).await?;
                }
                Conditions::Broken(format!("it carried out a {DELETE} whose If-Match did not hold"))
            }
            Err(error) => judged(error, DELETE)?,
        };
        if matches!(found, Conditions::Broken(_)) {
            self.ask_before_deletes();
        }
        Ok(found)
    }

    async fn small_object(&self, prefix: &str) -> Option<Source> {
        let some =
            ListRequest { prefix, delimiter: false, start_after: None, continuation: None, entries_max: SOURCES_MAX };
        let unlisted =
            |error: &Error| tracing::info!(%error, "no object can be listed to test the conditions of copies");
        let page = self.list(&some).await.inspect_err(unlisted).ok()?;
        page.objects.into_iter().filter(|object| object.size <= SOURCE_BYTES_MAX).find_map(|object| {
            let version = Version { etag: object.etag, id: None };
            Some(Source { key: Key::new(object.key).ok()?, version, size: object.size })
        })
    }

    async fn put_in_vain(&self, key: &Key) -> Result<Conditions, Error> {
        match self.put(&NewObject::at(key.clone()), Arc::new(Bytes::new()), &never()).await {
            Ok(stored) => self.undo(key, &stored, "PutObject").await,
            Err(error) => judged(error, "PutObject"),
        }
    }

    async fn complete_in_vain(&self, upload: Upload) -> Result<Conditions, Error> {
        let key = upload.key().clone();
        let part = match upload.put_part(1, Arc::new(Bytes::from_static(b"\n"))).await {
            Ok(part) => part,
            Err(error) => {
                upload.abort().await?;
                return judged(error, "UploadPart");
            }
        };
        let (size, crc64) = (part.size, part.crc64);
        match upload.complete(vec![part], size, crc64, &never(), OtherCopy::Held).await {
            Ok(stored) => self.undo(&key, &stored, "CompleteMultipartUpload").await,
            Err(Unfinished { error, upload }) => {
                if let Some(upload) = upload {
                    upload.abort().await?;
                }
                judged(error, "CompleteMultipartUpload")
            }
        }
    }

    async fn undo(&self, key: &Key, stored: &Stored, operation: &str) -> Result<Conditions, Error> {
        self.expunge(key, &stored.version).await?;
        Ok(Conditions::Broken(format!("it carried out a {operation} whose If-Match did not hold")))
    }
}

fn never() -> Condition {
    Condition::Matches(ETag::new(NO_ETAG))
}

/// What a refusal means. S3 answers 404 if there is no object, and 412 if there is another one. It answers 403 to
/// callers that may not read, because the answer would show them what exists ("Conditional writes", S3 User Guide).
fn judged(error: Error, operation: &str) -> Result<Conditions, Error> {
    match error.kind {
        Kind::NotFound | Kind::NoSuchUpload | Kind::PreconditionFailed | Kind::Conflict => Ok(Conditions::Kept),
        Kind::AccessDenied { .. } => Ok(Conditions::Unknown(error)),
        Kind::Unsupported | Kind::Protocol => {
            Ok(Conditions::Broken(format!("it refused a {operation} with If-Match: {error}")))
        }
        _ => Err(error),
    }
}
