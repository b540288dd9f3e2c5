//! Keys and plaintext in memory that is locked, left out of core dumps and wiped.
//!
//! * [`Locked`] holds one value, such as a key or a cipher, in pages that are never swapped, never dumped, and empty in a
//!   forked child. [`Key`] is 32 such bytes.
//! * [`PlainBuf`] holds file content. It is wiped when it is dropped, cut or moved to a larger place.
//! * [`harden_process`] takes away the two ways in which the kernel itself would write our memory to a disk.
//!
//! The room refuses to show, copy, compare or serialise what it holds. It knows no cipher and draws no randomness. It is the
//! only room with `unsafe` code, and uses no other room.
//!
//! Not protected: the registers, a debugger that is root, hibernation (the kernel writes locked pages too), and whoever can
//! read this process's memory while it runs.

#![allow(unsafe_code)]

mod harden;
mod key;
mod locked;
mod plain;

pub use harden::{Hardening, harden_process};
pub use key::{KEY_BYTES, Key};
pub use locked::{Locked, Protection, protection};
pub use plain::PlainBuf;

/// Memory for secrets could not be had.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no memory for keys; free some memory and try again")]
pub struct OutOfMemory(#[source] std::io::Error);
