//! Everything that a call can fail with.

use crate::{namespace, read, write};
use dssefs_s3::object::NameError;
use dssefs_s3::policy::Verdict;
use dssefs_s3::s3;

/// Why a call did not succeed. `errno` gives each its number.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request of the store failed.
    #[error(transparent)]
    Store(#[from] s3::Error),
    /// A name is not there, there already, or of another kind.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The bytes of an object could not be had.
    #[error(transparent)]
    Read(#[from] read::Error),
    /// A change could not be kept or made safe.
    #[error(transparent)]
    Write(#[from] write::Error),
    /// Not a name that S3 can keep.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The kernel named a handle that is not open.
    #[error("the handle is not open")]
    BadHandle,
    /// The handle is not open for this.
    #[error("the file is not open for writing")]
    NotOpenForWriting,
    /// The object is another version than the one that was opened.
    #[error("the object was replaced since it was opened; open it again")]
    Stale,
    /// `--on-noncompliant-read refuse`.
    #[error(
        "{object} is {verdict}, and this mount neither serves nor rewrites such objects; \
         replace it as a whole, remove it, or mount with --on-noncompliant-read serve"
    )]
    Noncompliant {
        /// `s3://bucket/key`.
        object: String,
        /// What it is instead of compliant.
        verdict: Verdict,
    },
    /// There is no data from there on.
    #[error("there is no more data, or the file has ended")]
    PastEnd,
    /// There is no attribute of this name.
    #[error("there is no such attribute")]
    NoAttribute,
    /// The attribute is the store's word and cannot be set.
    #[error("user.dsse.* attributes report what the store said and cannot be set")]
    ReadOnlyAttribute,
    /// Not built yet, or impossible on S3.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The kernel asked with flags or values that make no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// One user has as many open as one user may have.
    #[error("user {uid} has {count_max} {what} open here, the most that one user may have; close some")]
    TooManyOpen {
        /// Whose.
        uid: u32,
        /// Files, or directories.
        what: &'static str,
        /// How many there may be.
        count_max: u32,
    },
    /// One user has directories open that have as many names as those of one user may have.
    #[error(
        "user {uid} has directories open whose names take {bytes_max} bytes, the most for one user; \
         close some, or raise --memory"
    )]
    TooManyNames {
        /// Whose.
        uid: u32,
        /// How many bytes they may take.
        bytes_max: u64,
    },
    /// A task of this process ended before it was done.
    #[error("{0} has panicked: this is a defect of dssefs, please report it")]
    Panicked(&'static str),
    /// S3 has no second name for an object.
    #[error("S3 has no hard links")]
    HardLink,
}
