//! Commit ids, and writes whose answer was lost: finds out whether the object is the one that was sent.

use std::sync::Arc;

use dssefs_seal::crypto;

use super::{Gateway, Verified};
use crate::object::CommitId;
use crate::s3::ambiguous_write::AmbiguousWrite;
use crate::s3::error::{Error, FailedWrite, Kind};
use crate::s3::metrics::Operation;
use crate::s3::request::{NewObject, Stored};

impl Gateway {
    /// A new commit id. None if the kernel gives no random numbers: then a lost answer stays unknown.
    #[must_use]
    pub fn commit_id(&self) -> Option<CommitId> {
        CommitId::new(&crypto::unique_name().ok()?)
    }

    /// `new` as it goes to the store: with a commit id, unless its metadata has no room for one.
    pub(super) fn stamped(&self, new: &NewObject) -> NewObject {
        let commit = || new.commit.clone().or_else(|| self.commit_id());
        NewObject { commit: if new.has_room_for_commit() { commit() } else { None }, ..new.clone() }
    }

    /// The object, if it is the one that `attempt` was to make; None if it is another one, or if there is no proof. One
    /// HEAD, and none for an attempt without a commit id.
    ///
    /// # Errors
    /// As S3 answers, and [`Kind::Mismatch`]; such an object stays.
    pub async fn find(&self, attempt: &AmbiguousWrite) -> Result<Option<Verified<Stored>>, Error> {
        let Some(stored) = self.look_for(attempt).await? else { return Ok(None) };
        self.verify(Operation::HeadObject, &attempt.object.key, stored).await.map(Some)
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

    /// The same, without a verdict on the encryption. Other programs may replace the content and keep the metadata, so
    /// the length has to fit as well.
    pub(super) async fn look_for(&self, attempt: &AmbiguousWrite) -> Result<Option<Stored>, Error> {
        let AmbiguousWrite { object, size, .. } = attempt;
        if object.commit.is_none() {
            return Ok(None);
        }
        match self.head(&object.key).await {
            Ok(head) if head.meta.commit == object.commit && head.meta.size == *size => {
                Ok(Some(Stored { version: head.meta.version, encryption: head.encryption }))
            }
            Err(error) if error.kind != Kind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(None),
        }
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
