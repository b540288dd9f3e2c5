//! Keys and plaintext in memory that is locked, left out of core dumps and wiped.
//!
//! * [`Locked`] holds one value, such as a key or a cipher, in pages that are never swapped, never dumped, and empty in
//!   a forked child. [`Key`] is 32 such bytes.
//! * [`PlainBuf`] holds file content, in such pages too as far as the limit of locked memory goes. It is wiped when it
//!   is dropped, cut or moved to a larger place.
//! * [`WipingHeap`] is the program's allocator: what passes through buffers of others is wiped when they free it.
//! * [`harden_process`] takes away the ways in which the kernel itself would write our memory to a disk, and
//!   [`lock_memory`] swap.
//! * [`close_inherited`] closes what the starter of this process has left open.
//!
//! The room refuses to show, copy, compare or serialise what it holds. It knows no cipher and draws no randomness. It
//! is the only room with `unsafe` code, and uses no other room.
//!
//! Not protected: the registers, a debugger that is root, hibernation (the kernel writes locked pages too), and a
//! program that can read this process's memory while it runs.

#![allow(unsafe_code)]

mod harden;
mod heap;
mod inherited;
mod key;
mod locked;
mod mapping;
mod pages;
mod plain;
#[cfg(any(test, feature = "testing"))]
pub mod raw;

use std::fmt;

pub use harden::{Hardening, KEYS_BYTES_MIN, KeysUnlocked, Locking, harden_process, lock_memory, try_to_lock_keys};
pub use heap::WipingHeap;
pub use inherited::close_inherited;
pub use key::{KEY_BYTES, Key};
pub use locked::{Locked, on_wiped_stack};
pub use mapping::Tally;
pub use plain::PlainBuf;

/// How much of the memory for secrets is protected as promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Protection {
    /// Memory for keys.
    pub keys: Tally,
    /// Memory for file content.
    pub content: Tally,
}

/// How the memory for secrets is protected at this moment. Ask again after the first keys were made: nothing is mapped
/// before.
pub fn protection() -> Protection {
    Protection { keys: locked::tally(), content: pages::tally() }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Protection { keys, content } = self;
        write!(f, "keys-locked={} keys-unlocked={} ", keys.protected_bytes, keys.unprotected_bytes)?;
        write!(f, "content-locked={} content-unlocked={}", content.protected_bytes, content.unprotected_bytes)
    }
}

/// Memory for secrets could not be had.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no memory for keys; free some memory and try again")]
pub struct OutOfMemory(#[source] std::io::Error);
