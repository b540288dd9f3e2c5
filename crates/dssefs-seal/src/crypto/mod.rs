//! The two layers: an inner and an outer AES-256-GCM, each from its own library and under its own key.
//!
//! * [`Envelope`] seals a block of plaintext through both layers and opens it again; a block opens only as the one that
//!   it was sealed as. `docs/FORMAT.md` draws the bytes.
//! * [`LayerKey`] is the key of one layer. A key of the inner layer cannot be handed to the outer one.
//! * [`MacKey`] authenticates what is no secret.
//! * [`SeenKeys`] tells whether a key comes back that the process has seen before.
//! * [`self_test`] proves at start that both libraries compute the AES-GCM of the standard on this machine.
//!
//! The outer layer's library is a matter of the build (feature `fips`, `docs/SECURITY.md`); what one build has sealed
//! the other opens.
//!
//! The room refuses to choose a nonce at random (the FIPS module insists on doing so), to take one from a caller, and
//! to return plaintext that was not authenticated. It does no I/O. `aes_gcm` is named only in `inner`, `ring` and
//! `aws_lc_rs` only in `outer`, `mac`, `random` and `derive`.
//!
//! It may use `secret`.

mod block;
mod derive;
mod envelope;
mod inner;
mod layer;
mod mac;
mod nonce;
mod outer;
mod random;
mod self_test;

pub use block::{BlockId, FILE_ID_BYTES, FileId, OVERHEAD_BYTES, PLAIN_BYTES_MAX, SealedBlock};
pub use derive::{SALT_BYTES, Salt, SeenKeys};
pub use envelope::{Envelope, Opener};
pub use inner::{Inner, hardware_accelerated};
pub use layer::{Layer, LayerKey, NonceSource, TAG_BYTES, Tag};
pub use mac::{MAC_BYTES, MacKey};
pub use nonce::{NONCE_BYTES, Nonce, NonceCounter};
#[cfg(feature = "fips")]
pub use outer::MODULE;
pub use outer::{LAYERS, Outer};
pub use random::unique_name;
pub use self_test::self_test;

use crate::secret::OutOfMemory;

/// Why something was not sealed or not opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The block is not what was sealed as this block: changed, cut, moved from elsewhere, of another time or of
    /// another key.
    #[error("the block was not sealed here in this form; it was changed or replaced")]
    Refused,
    /// The plaintext is longer than [`PLAIN_BYTES_MAX`].
    #[error("a block of {bytes} bytes is too long to be sealed; the longest has {PLAIN_BYTES_MAX}")]
    TooLong {
        /// Bytes of plaintext offered.
        bytes: usize,
    },
    /// The key has sealed 2^64 - 1 times, or 2^32 times under random nonces; only a new key may go on (SP 800-38D,
    /// 8.3).
    #[error("the key has been used as often as it may be; seal with a new key")]
    NoncesExhausted,
    /// The system's random number generator failed.
    #[error("the system gives no random bytes; no key can be made")]
    NoRandomness,
    /// The cryptographic module of a FIPS build is not in FIPS mode.
    #[cfg(feature = "fips")]
    #[error("the module {} is not in FIPS mode; do not use this build", MODULE)]
    NotFips,
    /// No memory for keys.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// A library does not compute what the standard says. Nothing may be sealed with it.
    #[error("the self test of the {layer} cipher failed ({check}); do not use this machine or this build")]
    SelfTest {
        /// The layer whose library failed.
        layer: &'static str,
        /// What was wrong.
        check: &'static str,
    },
}
