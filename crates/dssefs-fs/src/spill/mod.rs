//! The bytes of a file that are not in S3 yet.
//!
//! A [`Buffer`] holds what was written to one file: in memory first, and under pressure in a sealed file on the local
//! disk. A [`Pool`] is the memory and the disk that all buffers of a mount share. A [`Snapshot`] is what an upload
//! reads while the program goes on writing. [`RangeSet`] says which bytes a buffer has.
//!
//! ```text
//!   write ──> block in memory ──(pressure)──> sealed block on disk
//!                 │    ^                          │
//!                 │    └────(a write into it)─────┘
//!                 └──(uploaded, and pressure)──> gone, no longer present
//! ```
//!
//! The room refuses to exceed its limits, to put plaintext on the disk, to lose a byte that it accepted and was not
//! told is elsewhere, and to return anything else than what was written. It does not know S3, and waits for nothing but
//! the disk, which keeps no other task waiting. A caller that gets [`Error::Busy`] waits for [`Pool::released`].
//!
//! It may use `sealed`, and the buffers of `secret`.

mod block;
mod buffer;
mod contents;
mod crc;
mod disk;
mod pool;
mod pressure;
mod ranges;
mod registry;
mod resources;
mod snapshot;

pub use buffer::{Buffer, Location};
pub use contents::Eviction;
pub use pool::{Limits, MEMORY_BYTES_MIN, Pool, Usage};
pub use ranges::RangeSet;
pub use snapshot::{Chunks, Snapshot};

use std::ops::Range;
use std::path::PathBuf;

use dssefs_seal::sealed;

/// Bytes of one block: what is sealed, shared and dropped as a whole.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Why a buffer did not do what it was asked. Its content is then what it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The buffer does not have all of these bytes.
    #[error("the bytes {} to {} are not all in the local buffer", range.start, range.end)]
    Absent {
        /// What was asked for.
        range: Range<u64>,
    },
    /// Uploads in flight hold all memory. Wait for [`Pool::released`] and try again.
    #[error("all buffer memory is held by uploads in flight; wait for one of them to end")]
    Busy,
    /// Neither memory nor disk has room, and no upload is in flight that will make some.
    #[error("neither memory nor the local disk has room for more unsaved data; raise the limits, or free disk space")]
    NoSpace,
    /// The content that this snapshot was taken of has been replaced. Take a new snapshot.
    #[error("block {block} was written again after the snapshot was taken")]
    Superseded {
        /// The block's place in the file.
        block: u64,
    },
    /// The local disk, or memory, has something else than what was written.
    #[error("block {block} of the unsaved data was changed on the local disk or in memory; its content is refused")]
    Tampered {
        /// The block's place in the file.
        block: u64,
    },
    /// More than [`Pool::write_bytes_max`] in one call.
    #[error("a single write of {bytes} bytes is too long for this buffer memory; write at most {bytes_max} at a time")]
    TooLong {
        /// Bytes offered.
        bytes: u64,
        /// Bytes accepted.
        bytes_max: u64,
    },
    /// The write would end beyond the last offset that a file can have.
    #[error("the write ends beyond the largest offset of a file")]
    BeyondEnd,
    /// The limits do not allow a single write.
    #[error("{memory_bytes_max} bytes of buffer memory are too few; give at least {MEMORY_BYTES_MIN}")]
    MemoryTooSmall {
        /// The limit as given.
        memory_bytes_max: u64,
    },
    /// The directory for unsaved data cannot be used.
    #[error(
        "the directory {} cannot hold unsaved data ({source}); check that this user can write to it, and that it is \
         a directory",
        directory.display()
    )]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The local disk failed.
    #[error("the local disk failed while it held unsaved data")]
    Io(#[source] std::io::Error),
    /// No keys could be made.
    #[error(transparent)]
    Crypto(sealed::CryptoError),
}

impl Error {
    /// Whether freed room would help, and none is about to be freed.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Error::NoSpace)
    }
}

impl From<sealed::Error> for Error {
    fn from(error: sealed::Error) -> Self {
        match error {
            sealed::Error::NoSpace => Error::NoSpace,
            sealed::Error::Tampered { block } => Error::Tampered { block },
            sealed::Error::Superseded { block } => Error::Superseded { block },
            sealed::Error::Directory { directory, source } => Error::Directory { directory, source },
            sealed::Error::Io(source) => Error::Io(source),
            sealed::Error::Crypto(source) => Error::Crypto(source),
        }
    }
}

#[cfg(test)]
mod tests;
