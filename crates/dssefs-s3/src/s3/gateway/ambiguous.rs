//! Writes whose answer was lost: finds out whether the object is what was sent.

use std::sync::Arc;
use std::time::Duration;

use super::compare::{Proof, optional};
use super::{Gateway, Verified};
use crate::object::ObjectMeta;
use crate::s3::ambiguous_write::{AmbiguousWrite, Content};
use crate::s3::error::{Error, FailedWrite, Kind};
use crate::s3::metrics::Operation;
use crate::s3::request::{Head, NewObject, Source, Stored};

impl Gateway {
    /// The object, if it is what `attempt` was to make; None if it is another one, or if there is no proof. The proof
    /// is the metadata, and:
    ///
    /// * length and checksum, or for a copy the content of its source;
    /// * for a copy in place, whose source is gone: the store has stored it, by its own clock, since the copy began.
    ///
    /// One KMS call, or two.
    ///
    /// # Errors
    /// As S3 answers, and [`Kind::Mismatch`]; such an object stays.
    pub async fn find(&self, attempt: &AmbiguousWrite) -> Result<Option<Verified<Stored>>, Error> {
        let operation = match (&attempt.content, &attempt.upload) {
            (Content::Copied(..), _) => Operation::CopyObject,
            (_, Some(_)) => Operation::CompleteMultipartUpload,
            (_, None) => Operation::PutObject,
        };
        let Some(stored) = self.look_for(attempt).await? else { return Ok(None) };
        self.verify(operation, &attempt.object.key, stored).await.map(Some)
    }

    /// Decides whether a write that failed with `error`, and may have been carried out, has succeeded. A store that
    /// cannot be asked now proves nothing about another writer.
    pub(super) async fn resolve_ambiguous(&self, attempt: AmbiguousWrite, error: Error) -> Result<Stored, Error> {
        // An answer of success that the SDK cannot read is not a refusal.
        let unread = error.status.is_some_and(|status| (200..300).contains(&status));
        let looked = unread || may_hide_success(error.kind);
        let found = if looked { self.look_for(&attempt).await } else { Ok(None) };
        let is_last_word = matches!(error.kind, Kind::PreconditionFailed | Kind::NoSuchUpload);
        let attempts = FailedWrite::Unknown(Arc::new(attempt));
        match found {
            Ok(Some(stored)) => {
                tracing::info!(%error, "the answer to a write was lost; the object is in the bucket as it was sent");
                Ok(stored)
            }
            Ok(None) if is_last_word => Err(error.leaving(FailedWrite::Overtaken)),
            Err(unknown) if is_last_word => Err(unknown.leaving(attempts)),
            Ok(None) | Err(_) => Err(error.leaving(attempts)),
        }
    }

    pub(super) async fn look_for(&self, attempt: &AmbiguousWrite) -> Result<Option<Stored>, Error> {
        let AmbiguousWrite { object, size, content, .. } = attempt;
        let found = match content {
            Content::Unknown => None,
            Content::Of(checksum) => {
                let found = optional(self.head_with_checksums(&object.key).await)?;
                let same = |(head, checksums): (Head, Vec<_>)| checksums.contains(checksum).then_some(head);
                found.and_then(same).filter(|head| head.meta.size == *size)
            }
            Content::Copied(source, _) if source.key != object.key => self.copied_from(source, object).await?,
            Content::Copied(source, since) => {
                // The source's content is gone. The store gives times to the second.
                let age_max = since.elapsed() + Duration::from_secs(1);
                let is_newer = |(head, age): (Head, Option<Duration>)| {
                    let is_other = head.meta.version.etag != source.version.etag && head.meta.size == source.size;
                    (is_other && age.is_some_and(|age| age <= age_max)).then_some(head)
                };
                optional(self.head_with_age(&object.key).await)?.and_then(is_newer)
            }
        };
        let found = found.filter(|head| is_described(&head.meta, object));
        Ok(found.map(|head| Stored { version: head.meta.version, encryption: head.encryption }))
    }

    /// The copy, if it has the content that the source still has.
    async fn copied_from(&self, source: &Source, copy: &NewObject) -> Result<Option<Head>, Error> {
        let is_source = |original: &Head, _: &Head| original.meta.version.etag == source.version.etag;
        Ok(self.same_content(&source.key, &copy.key, Proof::Checksums, is_source).await?.map(|(_, copy)| copy))
    }
}

/// Whether an ambiguous write may have been carried out although it failed in this way at last.
fn may_hide_success(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::PreconditionFailed
            | Kind::Conflict
            | Kind::NoSuchUpload
            | Kind::Timeout
            | Kind::Unreachable
            | Kind::Unavailable
            // An answer that cannot be read, or is longer than any honest one.
            | Kind::Protocol
    )
}

/// Whether the object has the metadata of `new`. What `new` leaves to the store may be anything.
fn is_described(meta: &ObjectMeta, new: &NewObject) -> bool {
    meta.user == new.user
        && meta.content_headers == new.content_headers
        && (new.content_type.is_none() || new.content_type == meta.content_type)
}
