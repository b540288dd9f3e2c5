//! The two layers of encryption, their keys, and files of sealed blocks: what an auditor of the cryptography reads.
//!
//! [`secret`] keeps keys and plaintext in memory, [`crypto`] seals and opens blocks, and [`sealed`] keeps blocks in a
//! file. `docs/FORMAT.md` says what stands on the disk.
//!
//! The crate refuses to return plaintext that was not authenticated. It knows no store, no network and no runtime, and
//! uses no other crate of dssefs.

pub mod crypto;
pub mod sealed;
pub mod secret;
