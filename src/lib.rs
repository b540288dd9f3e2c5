//! dssefs: an S3 bucket as a file system whose every object is a proven DSSE-KMS object.
//!
//! The rooms stand in storeys: each may use only those below it, as the import table in `docs/ARCHITECTURE.md` says and
//! `tests/tidy.rs` enforces.

// The ground floor: values, and what is asked of the kernel alone.
pub mod mounts;

// The rules.

// The outside world.
pub mod config;
pub mod journal;

// The engines, one for each direction.
pub mod namespace;
pub mod read;
pub mod spill;
pub mod write;

// The meaning of a file system call.
pub mod vfs;

// The door.
pub mod cli;
pub mod daemon;
pub mod fuse;
