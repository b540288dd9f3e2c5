//! What is tried on hostile bytes: one function for each reader of bytes that others can write.
//!
//! Each asserts what the program promises of such bytes, and not only that they do no harm: what is taken reads as what
//! was written, what is refused says why, and nothing that is taken is larger than the bytes that it came from allow. A
//! broken promise is a panic.
//!
//! This file is compiled twice: into the fuzzing programs of this package, and into `tests/corpus.rs`.
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "in a test, a panic is the report")]

mod bucket;
mod hostile_store;
mod input;
mod journal;
mod keys;
mod life;
mod local;
mod store;
mod words;

pub use bucket::{intent, metadata, xattr};
pub use journal::journal;
pub use keys::kms;
pub use life::life;
pub use local::{block, kept, layers, session};
pub use store::{ledger, store};
pub use words::{config, names};

/// A function that panics when a promise about these bytes is broken.
pub type Target = fn(&[u8]);

/// All of them: the name, how many mutations of the corpus an ordinary test tries, and the function. Slow ones try
/// fewer.
pub const TARGETS: [(&str, u32, Target); 14] = [
    ("block", 4_000, block),
    ("config", 2_000, config),
    ("intent", 20_000, intent),
    ("journal", 1_000, journal),
    ("kept", 20_000, kept),
    ("kms", 150, kms),
    ("layers", 4_000, layers),
    ("ledger", 100, ledger),
    ("life", 150, life),
    ("metadata", 20_000, metadata),
    ("names", 20_000, names),
    ("session", 1_500, session),
    ("store", 200, store),
    ("xattr", 5_000, xattr),
];
