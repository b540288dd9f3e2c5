//! A random-access file of sealed blocks.
//!
//! [`SealedFile`] keeps blocks in an unlinked file, each sealed through both layers of `crypto`, and remembers in
//! memory which generation of each is the newest: an attacker with the disk can neither read, change, swap, cut, zero
//! nor roll back a block unnoticed. [`ByteBudget`] is what all files of a mount together may take of the disk.
//!
//! The room refuses to put plaintext or keys on the disk, to return a block that is not the newest of its place, and to
//! survive the process: the keys end with the [`SealedFile`], and with them its content.
//!
//! It may use `crypto`, and the buffers of `secret`.

mod budget;
mod file;
mod table;

pub use crate::crypto::{Error as CryptoError, OVERHEAD_BYTES};
pub use budget::{ByteBudget, Charge};
pub use file::SealedFile;

use std::io;
use std::path::PathBuf;

use crate::crypto;

/// Why a block was not kept or not returned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The budget or the disk is full.
    #[error("there is no room on the local disk for more sealed data; free some, or raise the limit")]
    NoSpace,
    /// What the disk returned is not what was written there. Someone or something changed it: log it, and answer EIO.
    #[error("block {block} of the sealed file was changed on the disk; its content is refused")]
    Tampered {
        /// The block's place in the file.
        block: u64,
    },
    /// The block has newer content than the generation that was asked for.
    #[error("block {block} of the sealed file was written again since")]
    Superseded {
        /// The block's place in the file.
        block: u64,
    },
    /// The directory cannot hold a sealed file.
    #[error(
        "no sealed file can be made in {}; check that the directory exists and can be written to",
        directory.display()
    )]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The disk failed.
    #[error("the local disk failed while it held sealed data")]
    Io(#[source] io::Error),
    /// No keys could be made, or a key is used up.
    #[error(transparent)]
    Crypto(crypto::Error),
}
