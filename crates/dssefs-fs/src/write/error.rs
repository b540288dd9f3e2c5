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
    /// The list of uploads that the next start aborts cannot be changed, so that no journal may count on one of them.
    #[error(
        "the local disk cannot note that parts of {key} are needed, so that it cannot keep the file; its upload goes on"
    )]
    Ledger {
        /// The object's key.
        key: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file would be larger than 10,000 parts can be.
    #[error(
        "the file would have {size_bytes} bytes and 10,000 parts hold at most {}; split it",
        super::OBJECT_BYTES_MAX
    )]
    TooLarge {
        /// The size that was asked for.
        size_bytes: u64,
    },
    /// The upload vanished from the store, with parts of which this host keeps no copy.
    #[error(
        "the multipart upload of {key} is gone (aborted by somebody else, or by a lifecycle rule) with the file's bytes {} in it, \
         of which this host has no copy; write them again",
        listed(lost)
    )]
    PartsLost {
        /// The object's key.
        key: String,
        /// The bytes that are lost.
        lost: RangeSet,
    },
    /// The bytes asked for are in an upload, or there is no room for more: [`super::Writer::commit`] helps, and then
    /// the same again.
    #[error("the bytes asked for are in an upload that has to be completed first; try again when the file is stored")]
    CommitFirst,
    /// Bytes that were written are neither on this host nor in the store. A guard: no path leads here.
    #[error("the bytes {start} to {end} that were written are gone; report this, and write the file again")]
    Incomplete {
        /// The first byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// A file without a name any more has bytes only in an upload that can no longer be completed.
    #[error("the file was deleted while it was being written, and the bytes asked for had left this host")]
    Deleted,
    /// The file was changed each time that the commit tried to read it.
    #[error("{key} is being changed faster than it can be sent; flush it again when the program pauses")]
    ChangedWhileSent {
        /// The object's key.
        key: String,
    },
    /// The file's name was taken away by somebody else while it had changes.
    #[error(
        "the file was removed or replaced by another writer, so that its changes have no place any more; copy them to another name"
    )]
    NameLost,
    /// The object that the file is a copy of was replaced or deleted by somebody else before the store had copied it.
    #[error("{source_key}, of which {key} is a copy, was replaced or deleted before it was copied; copy it again")]
    SourceGone {
        /// The key of the copy.
        key: String,
        /// The key of what was to be copied.
        source_key: String,
    },
    /// An unsaved copy of the object that is about to be replaced or removed has no bytes of its own yet, and could not
    /// be given them.
    #[error("{key}, an unsaved copy of it, could not be given its bytes first: {error}")]
    Copy {
        /// The key of the copy.
        key: String,
        /// Why not.
        error: Box<Error>,
    },
    /// The store kept all memory and spill busy for too long.
    #[error(
        "no memory or spill became free within {seconds} s because the store does not take the parts under way; raise --memory or --spill"
    )]
    Stalled {
        /// How long was waited.
        seconds: u64,
    },
    /// The mount is ending, and the store that was to free memory or spill was silent for too long.
    #[error(
        "the mount is ending and the store is silent, so that no memory or spill becomes free; write the rest again through the next mount"
    )]
    GivenUp,
    /// The mount has ended without the store having taken the file.
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

impl Error {
    /// Whether the same may succeed in a while without anybody's doing.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Error::Store(error) => {
                matches!(
                    error.kind,
                    Kind::Timeout | Kind::Unreachable | Kind::Unavailable | Kind::Throttled { .. } | Kind::Local
                )
            }
            Error::Spill(error) => matches!(error, spill::Error::Superseded { .. }),
            _ => false,
        }
    }

    /// Whether the store answered with another encryption than was asked for.
    pub(crate) fn is_mismatch(&self) -> bool {
        matches!(self, Error::Store(error) if matches!(error.kind, Kind::Mismatch { .. }))
    }

    /// Whether the store wants to be asked again, because of another request for the same key.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Error::Store(error) if error.kind == Kind::Conflict)
    }

    /// Whether what stood in the way may have been an earlier commit of the same file.
    pub(crate) fn may_be_our_own(&self) -> bool {
        match self {
            Error::Store(error) => matches!(error.kind, Kind::PreconditionFailed | Kind::NoSuchUpload),
            Error::PartsLost { .. } => true,
            _ => false,
        }
    }

    /// Whether the store has an object with the file's bytes that is not encrypted as was asked for.
    pub(crate) fn is_of_object_that_stays(&self) -> bool {
        matches!(self, Error::Store(error) if matches!(error.failed_write(), FailedWrite::LeftBehind(_)))
    }

    /// Whether the store did not have the version that was asked for.
    pub(crate) fn is_of_a_version(&self) -> bool {
        matches!(self, Error::Store(error) if matches!(error.kind, Kind::PreconditionFailed | Kind::NotFound))
    }

    /// Whether a copy cannot be made any more: its source or its own name has been taken by another writer.
    pub fn is_lost_copy(&self) -> bool {
        self.is_of_a_version() || matches!(self, Error::SourceGone { .. } | Error::NameLost)
    }

    /// Whether the bytes could not be read on this host, as happens when they change while they are being sent.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Error::Store(error) => error.kind == Kind::Local,
            Error::Spill(_) => true,
            _ => false,
        }
    }
}
