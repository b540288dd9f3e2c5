//! A bucket as a file system: what each file system call means, and the engines below it.
//!
//! [`namespace`] knows names and attributes, [`read`] reads ahead, [`spill`] holds the bytes of files being written,
//! [`write`](mod@write) uploads them, [`journal`] keeps what must outlive the process, and [`vfs`] gives each call its
//! meaning.
//! `read`, `write` and `namespace` do not know each other; they meet in `vfs` alone.
//!
//! The crate refuses to report what the store has not proved. It knows no kernel, no configuration and no terminal.

#![forbid(unsafe_code)]

pub mod journal;
pub mod namespace;
pub mod read;
pub mod spill;
pub mod vfs;
pub mod write;
