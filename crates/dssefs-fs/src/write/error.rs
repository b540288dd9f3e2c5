//! What can go wrong between a written byte and its object.

use crate::spill::RangeSet;
use crate::{journal, spill};
use dssefs_s3::s3;
use dssefs_s3::s3::{FailedWrite, Kind};

/// Why a write or a commit did not succeed. The bytes that were written before stay in the writer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused, did not answer, or answered with another encryption than was asked.
    #[error(transparent)]
    Store(#[from] s3::Error),
    /// The spill could not keep the bytes, or found them changed.
    #[error(transparent)]
    Spill(#[from] spill::Error),
    /// The journal could not keep the changes.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The list of uploads that the next start aborts cannot be changed, so the journal may not count on one of them.
    #[error(
        "the local disk cannot note that the upload of {key} must stay, so the journal cannot keep the file; \
         the upload goes on"
    )]
    Ledger {
        /// The object's key.
        key: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file would be larger than 10,000 parts can be.
    #[error(
        "the file would have {size_bytes} bytes, and S3 takes at most {}, in 10,000 parts that one upload may use up \
         earlier; split the file, or close it and append",
        super::OBJECT_BYTES_MAX
    )]
    TooLarge {
        /// The size that was asked for.
        size_bytes: u64,
    },
    /// The upload is gone from the store, with parts that this host has no copy of.
    #[error(
        "the multipart upload of {key} is gone: another program or a lifecycle rule has aborted it; \
         this host has no copy of the bytes {} that were in it; write them again",
        listed(lost)
    )]
    PartsLost {
        /// The object's key.
        key: String,
        /// The bytes that are lost.
        lost: RangeSet,
    },
    /// The bytes are in an unfinished upload only.
    #[error(
        "these bytes of the file are in an upload that is not completed yet, because memory and spill have no room for \
         them; call fsync(2) on the file first, or raise --spill"
    )]
    InUpload,
    /// Bytes that were written are neither on this host nor in the store. A guard: no path leads here.
    #[error(
        "the file's bytes {start} to {end} are neither on this host nor in the store; \
         report this, and write the file again"
    )]
    Incomplete {
        /// The first byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// A deleted file has bytes only in an upload that can no longer be completed.
    #[error("the file was deleted while it was being written, and its bytes had left this host")]
    Deleted,
    /// The file was changed each time that the commit tried to read it.
    #[error("{key} is being changed faster than it can be sent; flush it again when the program pauses")]
    ChangedWhileSent {
        /// The object's key.
        key: String,
    },
    /// Another writer has removed or replaced the file while it had changes.
    #[error(
        "another writer has removed or replaced the file, so its changes cannot be stored under this name; \
         copy them to another name"
    )]
    NameLost,
    /// Another writer has replaced or deleted the source of a copy before the store had copied it.
    #[error(
        "{key} is a copy of {source_key}, which was replaced or deleted before the store had copied it; copy it again"
    )]
    SourceGone {
        /// The key of the copy.
        key: String,
        /// The key of what was to be copied.
        source_key: String,
    },
    /// The object is about to be replaced or removed, and an unsaved copy of it has no bytes of its own yet. They could
    /// not be read or kept.
    #[error("{key}, an unsaved copy of it, could not be given its bytes first: {error}")]
    Copy {
        /// The key of the copy.
        key: String,
        /// Why not.
        error: Box<Error>,
    },
    /// The store kept all memory and spill busy for too long.
    #[error(
        "no memory or spill became free within {seconds} s, because the store does not take the parts under way; \
         raise --memory or --spill"
    )]
    Stalled {
        /// How long was waited.
        seconds: u64,
    },
    /// The mount is ending, and the store that was to free memory or spill was silent for too long.
    #[error(
        "the mount is ending and the store is silent, so no memory or spill becomes free; \
         write the rest again through the next mount"
    )]
    GivenUp,
    /// The mount has ended, and the store has not taken the file.
    #[error(
        "the mount has ended, and the changes of the file could not be saved; write it again through the next mount"
    )]
    Abandoned,
}

/// Ranges as people write them, both ends included.
fn listed(ranges: &RangeSet) -> String {
    let texts: Vec<_> =
        ranges.iter().map(|range| format!("{} to {}", range.start, range.end.saturating_sub(1))).collect();
    texts.join(", ")
}

/// What a failure means for the changes and for the next try: each failure is classified once, by
/// [`Error::disposition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The store gave no answer, or had no time: it may answer the same request in a while.
    Transient,
    /// The bytes to send could not be read on this host, which they cannot be while the program changes them.
    Unread,
    /// A snapshot is out of date, because the program wrote the same block again.
    Superseded,
    /// The program changed the file each time that the commit read it.
    ChangedWhileSent,
    /// Another request for the same key was under way.
    Conflict,
    /// The object is not the one that the changes were made to: a lost race, or an ambiguous commit of this mount.
    Overtaken,
    /// The object that the changes were made to is gone.
    BaseGone,
    /// The upload is gone: another process ended it, or an ambiguous commit of this mount did.
    UploadGone,
    /// The upload is gone, with parts that this host has no copy of.
    PartsLost,
    /// The file's name belongs to another writer, or is gone.
    NameLost,
    /// The source of a copy is gone.
    SourceGone,
    /// The store did not prove the encryption that was asked for.
    Noncompliant,
    /// Neither memory nor disk has room.
    NoRoom,
    /// The spill cannot give the bytes back, or cannot keep them.
    SpillBroken,
    /// A later try may succeed, after an administrator has acted or the host has room again.
    Later,
    /// No later try can succeed.
    Final,
}

impl Disposition {
    /// Whether no later try can help.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Disposition::Noncompliant
            | Disposition::PartsLost
            | Disposition::NameLost
            | Disposition::SourceGone
            | Disposition::Superseded
            | Disposition::SpillBroken
            | Disposition::Final => true,
            Disposition::Transient
            | Disposition::Unread
            | Disposition::ChangedWhileSent
            | Disposition::Conflict
            | Disposition::Overtaken
            | Disposition::BaseGone
            | Disposition::UploadGone
            | Disposition::NoRoom
            | Disposition::Later => false,
        }
    }

    /// Whether another writer has replaced or removed the object that the changes were made to.
    #[must_use]
    pub fn is_lost_race(self) -> bool {
        matches!(self, Disposition::Overtaken | Disposition::BaseGone | Disposition::NameLost)
    }

    /// Whether a copy can no longer be made, because another writer has taken its source or its own name.
    #[must_use]
    pub fn is_lost_copy(self) -> bool {
        self.is_lost_race() || self == Disposition::SourceGone
    }

    /// Whether the same may succeed in a while although no person acts.
    pub(crate) fn is_transient(self) -> bool {
        matches!(self, Disposition::Transient | Disposition::Unread | Disposition::Superseded)
    }

    /// Whether the store did not have the version that was asked for.
    pub(crate) fn is_of_a_version(self) -> bool {
        matches!(self, Disposition::Overtaken | Disposition::BaseGone)
    }

    /// Whether an ambiguous commit of the same file may be the cause.
    pub(crate) fn may_be_our_own(self) -> bool {
        matches!(self, Disposition::Overtaken | Disposition::UploadGone | Disposition::PartsLost)
    }
}

impl Error {
    /// What the failure means for the changes and for the next try. The one place that classifies failures.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Error::Store(error) => of_store(error.kind),
            Error::Spill(error) => of_spill(error),
            Error::ChangedWhileSent { .. } => Disposition::ChangedWhileSent,
            Error::PartsLost { .. } => Disposition::PartsLost,
            Error::NameLost => Disposition::NameLost,
            Error::SourceGone { .. } => Disposition::SourceGone,
            // Of the local disk: perhaps about another file, which may be in the store by the next try.
            Error::Journal(_) | Error::Ledger { .. } => Disposition::Later,
            Error::InUpload => Disposition::NoRoom,
            Error::Copy { .. } | Error::Stalled { .. } | Error::GivenUp => Disposition::Later,
            Error::TooLarge { .. } | Error::Incomplete { .. } | Error::Deleted | Error::Abandoned => Disposition::Final,
        }
    }

    /// Whether the store did not prove the encryption that was asked for.
    pub(crate) fn is_noncompliant(&self) -> bool {
        self.disposition() == Disposition::Noncompliant
    }

    /// Whether the store has an object with the file's bytes that is not encrypted as was asked for.
    pub(crate) fn leaves_object(&self) -> bool {
        matches!(self, Error::Store(error) if matches!(error.failed_write(), FailedWrite::LeftBehind(_)))
    }
}

fn of_store(kind: Kind) -> Disposition {
    match kind {
        Kind::Timeout | Kind::Unreachable | Kind::Unavailable | Kind::Throttled { .. } => Disposition::Transient,
        Kind::Local => Disposition::Unread,
        Kind::Conflict => Disposition::Conflict,
        Kind::PreconditionFailed => Disposition::Overtaken,
        Kind::NotFound => Disposition::BaseGone,
        Kind::NoSuchUpload => Disposition::UploadGone,
        Kind::Mismatch { .. } => Disposition::Noncompliant,
        Kind::TooLarge => Disposition::Final,
        Kind::KeyNotFound
        | Kind::KeyDisabled
        | Kind::KeyPendingDeletion
        | Kind::KeyMaterialExpired
        | Kind::KeyUnavailable
        | Kind::KeyUnusable
        | Kind::AccessDenied { .. }
        | Kind::Credentials
        | Kind::NoSuchBucket
        | Kind::Archived
        | Kind::Integrity
        | Kind::Unsupported
        | Kind::Configuration
        | Kind::Protocol => Disposition::Later,
    }
}

fn of_spill(error: &spill::Error) -> Disposition {
    match error {
        spill::Error::Superseded { .. } => Disposition::Superseded,
        spill::Error::NoSpace | spill::Error::Busy => Disposition::NoRoom,
        spill::Error::Absent { .. }
        | spill::Error::Tampered { .. }
        | spill::Error::TooLong { .. }
        | spill::Error::BeyondEnd
        | spill::Error::MemoryTooSmall { .. }
        | spill::Error::Directory { .. }
        | spill::Error::Io(_)
        | spill::Error::Crypto(_) => Disposition::SpillBroken,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use dssefs_s3::object::Bucket;
    use dssefs_s3::policy::Verdict;
    use dssefs_s3::s3::{Failure, Operation};

    use super::*;

    /// What callers ask: final, lost race, lost copy, transient, of a version, may be our own, noncompliant.
    fn answers(error: &Error) -> String {
        let of = error.disposition();
        [
            (of.is_final(), "final"),
            (of.is_lost_race(), "race"),
            (of.is_lost_copy(), "copy"),
            (of.is_transient(), "transient"),
            (of.is_of_a_version(), "version"),
            (of.may_be_our_own(), "own"),
            (error.is_noncompliant(), "noncompliant"),
            (of == Disposition::Conflict, "conflict"),
            (of == Disposition::ChangedWhileSent, "changed"),
        ]
        .into_iter()
        .filter_map(|(is_so, name)| is_so.then_some(name))
        .collect::<Vec<_>>()
        .join(" ")
    }

    fn store(kind: Kind) -> Error {
        let bucket = Bucket::new("bucket").unwrap();
        s3::Error::from(Failure::new(kind, Operation::PutObject, &bucket, None)).into()
    }

    #[test]
    fn every_answer_of_the_store_has_its_disposition() {
        for (kind, expected) in [
            (Kind::KeyNotFound, ""),
            (Kind::KeyDisabled, ""),
            (Kind::KeyPendingDeletion, ""),
            (Kind::KeyMaterialExpired, ""),
            (Kind::KeyUnavailable, ""),
            (Kind::KeyUnusable, ""),
            (Kind::AccessDenied { kms: true }, ""),
            (Kind::AccessDenied { kms: false }, ""),
            (Kind::Credentials, ""),
            (Kind::NotFound, "race copy version"),
            (Kind::NoSuchBucket, ""),
            (Kind::NoSuchUpload, "own"),
            (Kind::PreconditionFailed, "race copy version own"),
            (Kind::Conflict, "conflict"),
            (Kind::Archived, ""),
            (Kind::Throttled { kms: true }, "transient"),
            (Kind::Throttled { kms: false }, "transient"),
            (Kind::Timeout, "transient"),
            (Kind::Unreachable, "transient"),
            (Kind::Unavailable, "transient"),
            (Kind::Integrity, ""),
            (Kind::Mismatch { verdict: Verdict::NotDsse }, "final noncompliant"),
            (Kind::Unsupported, ""),
            (Kind::Configuration, ""),
            (Kind::TooLarge, "final"),
            (Kind::Local, "transient"),
            (Kind::Protocol, ""),
        ] {
            assert_eq!(answers(&store(kind)), expected, "{kind:?}");
        }
    }

    #[test]
    fn every_error_of_the_spill_has_its_disposition() {
        let directory = || std::path::PathBuf::from("/d");
        let source = || io::Error::from(io::ErrorKind::Other);
        for (error, expected) in [
            (spill::Error::Absent { range: 0..1 }, "final"),
            (spill::Error::Busy, ""),
            (spill::Error::NoSpace, ""),
            (spill::Error::Superseded { block: 0 }, "final transient"),
            (spill::Error::Tampered { block: 0 }, "final"),
            (spill::Error::TooLong { bytes: 2, bytes_max: 1 }, "final"),
            (spill::Error::BeyondEnd, "final"),
            (spill::Error::MemoryTooSmall { memory_bytes_max: 1 }, "final"),
            (spill::Error::Directory { directory: directory(), source: source() }, "final"),
            (spill::Error::Io(source()), "final"),
        ] {
            let text = format!("{error:?}");
            assert_eq!(answers(&Error::from(error)), expected, "{text}");
        }
    }

    #[test]
    fn every_other_error_has_its_disposition() {
        let key = || "k".to_owned();
        let source = || io::Error::from(io::ErrorKind::StorageFull);
        for (error, expected) in [
            (Error::Journal(journal::Error::NoSpace), ""),
            (Error::Journal(journal::Error::Broken(key())), ""),
            (Error::Ledger { key: key(), source: source() }, ""),
            (Error::TooLarge { size_bytes: 1 }, "final"),
            (Error::PartsLost { key: key(), lost: RangeSet::default() }, "final own"),
            (Error::InUpload, ""),
            (Error::Incomplete { start: 0, end: 1 }, "final"),
            (Error::Deleted, "final"),
            (Error::ChangedWhileSent { key: key() }, "changed"),
            (Error::NameLost, "final race copy"),
            (Error::SourceGone { key: key(), source_key: key() }, "final copy"),
            // What lies below is about another file.
            (Error::Copy { key: key(), error: Box::new(store(Kind::PreconditionFailed)) }, ""),
            (Error::Copy { key: key(), error: Box::new(Error::Deleted) }, ""),
            (Error::Stalled { seconds: 1 }, ""),
            (Error::GivenUp, ""),
            (Error::Abandoned, "final"),
        ] {
            assert_eq!(answers(&error), expected, "{error:?}");
        }
    }
}
