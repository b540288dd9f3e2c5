//! What a mount has to know of its store before it promises anything. No proof leaves an object or an upload behind.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{Gateway, OtherCopy, Unfinished, Upload};
use crate::object::{ETag, Key, Version};
use crate::s3::error::{Error, Kind};
use crate::s3::request::{Condition, ListRequest, NewObject, Source, Stored};

/// No object has this ETag, so a write on the condition that the object is this one must not happen.
const NO_ETAG: &str = "\"dssefs-no-object-has-this-etag\"";

/// Among so many objects one small enough to be copied is looked for.
const SOURCES_MAX: u16 = 20;
/// What a store that keeps no conditions would copy for nothing.
const SOURCE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Whether the store decides by `If-Match` and `If-None-Match` whether a write happens.
#[derive(Debug)]
pub enum Conditions {
    /// It does: no writer can replace an object that it does not know.
    Kept,
    /// It does not, as the sentence says.
    Broken(String),
    /// It may, but these credentials are not permitted to find out.
    Unknown(Error),
}

impl Gateway {
    /// Proves that objects like `key` can be written as the policy asks, without writing one: a multipart upload is
    /// begun, judged and aborted. Needs kms:GenerateDataKey.
    ///
    /// # Errors
    /// As S3 answers, and [`Kind::Mismatch`].
    pub async fn probe(self: &Arc<Self>, key: &Key) -> Result<(), Error> {
        self.start_upload(&NewObject::at(key.clone())).await?.abort().await
    }

    /// The same, and finds out whether the store keeps conditions: PutObject and CompleteMultipartUpload are asked for
    /// under one that cannot hold. `key` must be a name that nobody uses, because a store that keeps no conditions
    /// makes an object of it, which is deleted again at once.
    ///
    /// # Errors
    /// As S3 answers, and [`Kind::Mismatch`].
    pub async fn probe_conditions(self: &Arc<Self>, key: &Key) -> Result<Conditions, Error> {
        let upload = self.start_upload(&NewObject::at(key.clone())).await?;
        // Boxed, because both together would make a large future of everything that waits for this one.
        let (completed, put) = tokio::join!(self.complete_in_vain(upload).boxed(), self.put_in_vain(key).boxed());
        let found = (completed?, put?);
        Ok(match found {
            (broken @ Conditions::Broken(_), _) | (_, broken @ Conditions::Broken(_)) => broken,
            (unknown @ Conditions::Unknown(_), _) | (_, unknown @ Conditions::Unknown(_)) => unknown,
            (Conditions::Kept, Conditions::Kept) => Conditions::Kept,
        })
    }

    /// Whether the store keeps the conditions of CopyObject as well: a copy of some small object below `prefix` to
    /// `key` is asked for under one that cannot hold. `key` is as for [`Gateway::probe_conditions`]. None when there is
    /// nothing to copy, or nothing that may be read.
    ///
    /// # Errors
    /// A copy that should not have been made could not be deleted again.
    pub async fn probe_copies(self: &Arc<Self>, prefix: &str, key: &Key) -> Result<Option<Conditions>, Error> {
        let Some(source) = self.small_object(prefix).await else {
            tracing::debug!(
                "there is no small object to find out with whether the store keeps the conditions of copies"
            );
            return Ok(None);
        };
        let unknown =
            |error: &Error| tracing::info!(%error, "whether the store keeps the conditions of copies is not known");
        match self.duplicate(&source, key, None, &never()).await {
            Ok(stored) => self.undo(key, &stored, "CopyObject").await.map(Some),
            Err(error) => Ok(judged(error, "CopyObject").inspect_err(unknown).ok()),
        }
    }

    async fn small_object(&self, prefix: &str) -> Option<Source> {
        let some =
            ListRequest { prefix, delimiter: false, start_after: None, continuation: None, entries_max: SOURCES_MAX };
        let unlisted =
            |error: &Error| tracing::info!(%error, "nothing can be listed to prove with that copies keep conditions");
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

/// What a refusal tells. S3 answers 404 where there is no object, and 412 where there is another; it answers 403 to
/// those who may not read, because the answer would tell them what is there ("Conditional writes", S3 User Guide).
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
