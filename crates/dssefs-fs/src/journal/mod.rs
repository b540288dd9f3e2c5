//! What must outlive this process: changes of files that were acknowledged, or that could not be stored, sealed on the
//! local disk.
//!
//! A [`Journal`] is one process's append-only log. An entry is a description and some content. It stands when it is
//! complete and on the disk. It is settled when the store has it, or when its file is gone. [`RecoveredSession`] is
//! what a process left behind, found by [`sessions`] and read back under the keys that KMS unwraps. `docs/FORMAT.md`
//! draws the bytes.
//!
//! ```text
//!   DIR/session-<name>/                     locked while its mount serves
//!                         /session.json     who wrote it, the wrapped keys; locked while its process lives
//!                         /segment-00000000 sealed records, each opening only at its own place in the sequence
//!                         /keys-00000007.json the wrapped keys of segment 7 and those that follow it
//!   DIR/half-...                            a session that was being made or removed when its process died; of no use
//!   DIR/damaged-...                         a session that another program changed;
//!                                           what was whole in it has been dealt with
//! ```
//!
//! The room refuses
//!
//! * to put a description or a byte of content on the disk unsealed,
//! * to seal under keys that were used before,
//! * to take a record that was changed, moved, repeated or left out,
//! * to trust a disk after it failed to sync.
//!
//! It does not know what the descriptions mean.
//!
//! It may use `crypto`, `sealed` (for its budget) and `secret`.

mod disk;
mod keys;
mod log;
mod record;
mod recovered_session;
mod segment;
mod session;

#[cfg(test)]
mod power;
#[cfg(test)]
mod tests;

pub use keys::{Epoch, Layer, NewKeys, WrappedKey};
pub use log::{Draft, EntryId, Journal};
pub use recovered_session::{Content, Damage, RecoveredEntry, RecoveredSession};
pub use session::{
    NewSession, Session, is_about_to_be_free, sessions, sessions_of, sessions_to_count, sessions_to_discard,
    sessions_to_read,
};

use session::sync_directory;

use std::io;
use std::path::PathBuf;

use dssefs_seal::crypto;

/// Why something was not kept or not found again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The budget or the disk is full. Nothing of the entry counts.
    #[error("there is no room on the local disk for more unsaved files; free some, or raise --spill")]
    NoSpace,
    /// The disk failed earlier, so nothing that is appended now could be relied on.
    #[error("the local disk failed before ({0}); nothing more is kept on it until the next mount")]
    Broken(String),
    /// The disk failed.
    #[error(
        "{} cannot be used: {source}; check that the disk is healthy and that the directory belongs to this user",
        path.display()
    )]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A session that this version cannot read, or that was changed.
    #[error("{} does not describe a session: {reason}; it was changed, or made by another version", path.display())]
    Unreadable {
        /// The session's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The process that writes it lives, or another one recovers it.
    #[error("the session in {} is in use by a process that is running", .0.display())]
    InUse(PathBuf),
    /// A session of another mount than the one that was asked for.
    #[error("the session in {} is of another mount, {mount}", session.display())]
    OfAnother {
        /// The session.
        session: PathBuf,
        /// Its mount, as `s3://bucket/prefix`.
        mount: String,
    },
    /// What was read is not what was sealed there.
    #[error("{} was changed at byte {offset}; what stands there is refused", path.display())]
    Tampered {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// No keys could be made, or a record could not be sealed.
    #[error(transparent)]
    Crypto(#[from] crypto::Error),
}

fn at(path: &std::path::Path) -> impl Fn(io::Error) -> Error {
    |source| match source.kind() {
        // The last is a limit of this process, RLIMIT_FSIZE.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Error::NoSpace,
        _ => Error::Io { path: path.to_owned(), source },
    }
}
