//! dssefs: an S3 bucket as a file system whose every object is a proven DSSE-KMS object.
//!
//! This crate has the upper storeys: options ([`config`]), the kernel's protocol ([`fuse`]), the process that serves a
//! mount ([`daemon`]) and the commands ([`cli`]). The lower ones are the crates below `crates/`. `docs/ARCHITECTURE.md`
//! is the map; Cargo and `tests/tidy.rs` hold it.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod daemon;
pub mod fuse;
pub mod mounts;
