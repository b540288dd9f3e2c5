//! One layer: one AEAD, from one library, under one key.

use crate::secret::{Key, Locked};

use super::nonce::{NONCE_BYTES, NonceCounter};
use super::{Error, random};

/// Bytes of an authentication tag: all 128 bits, never a shortened one (SP 800-38D, 5.2.1.2).
pub const TAG_BYTES: usize = 16;

/// What proves that a text was sealed under a key, with a nonce and associated data.
pub type Tag = [u8; TAG_BYTES];

/// Where the nonces of a layer come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonceSource {
    /// The key's counter: a nonce is never used twice, whatever the library does (SP 800-38D, 8.2.1).
    Counter,
    /// The library, which draws them at random and says which it has drawn (SP 800-38D, 8.2.2).
    Library,
}

/// A library's AES-256-GCM.
pub trait Layer {
    /// The fixed field of this layer's nonces, and its name in the associated data.
    const FIELD: [u8; 4];

    /// Where its nonces come from.
    const NONCES: NonceSource;

    /// The expanded key.
    type Cipher: Send + Sync;

    /// Expands a key.
    fn expand(key: &Key) -> Self::Cipher;

    /// Turns plaintext into ciphertext where it lies, and says under which nonce.
    ///
    /// # Errors
    /// [`Error::TooLong`] beyond the limit of GCM, 2^36 - 32 bytes; [`Error::NoncesExhausted`].
    fn seal_in_place(
        cipher: &Self::Cipher,
        nonces: &NonceCounter,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<([u8; NONCE_BYTES], Tag), Error>;

    /// Turns ciphertext, which its tag follows, into plaintext where it lies.
    ///
    /// # Errors
    /// [`Error::Refused`]; `sealed` then holds no plaintext, only zeros or what was there before.
    fn open_in_place(
        cipher: &Self::Cipher,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &mut [u8],
    ) -> Result<(), Error>;
}

/// The key of one layer, with its counter of nonces.
///
/// It is expanded once, into locked memory, and not for each block: an AES-256 key schedule begins with the key itself,
/// and the stack on which it would be expanded again is neither locked nor out of core dumps. A FIPS module keeps what
/// it expands in its own heap; what is locked here then only points there.
pub struct LayerKey<L: Layer> {
    cipher: Locked<L::Cipher>,
    nonces: NonceCounter,
}

impl<L: Layer> LayerKey<L> {
    /// A new key from a draw of its own.
    ///
    /// # Errors
    /// [`Error::NoRandomness`], [`Error::OutOfMemory`].
    pub fn generate() -> Result<Self, Error> {
        Self::new(&Key::fill_with(|bytes| random::fill(bytes))?)
    }

    /// A layer under a key that has never sealed in this layer.
    pub(super) fn new(key: &Key) -> Result<Self, Error> {
        Ok(LayerKey { cipher: Locked::new(|| L::expand(key))?, nonces: NonceCounter::new(L::FIELD) })
    }

    pub(super) fn cipher(&self) -> &L::Cipher {
        &self.cipher
    }

    pub(super) fn nonces(&self) -> &NonceCounter {
        &self.nonces
    }

    /// Seals `text` where it lies, under a nonce that the key has not had, and says which.
    pub(super) fn seal_in_place(&self, aad: &[u8], text: &mut [u8]) -> Result<([u8; NONCE_BYTES], Tag), Error> {
        L::seal_in_place(&self.cipher, &self.nonces, aad, text)
    }

    /// Opens `sealed`, a text and its tag, where it lies.
    pub(super) fn open_in_place(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], sealed: &mut [u8]) -> Result<(), Error> {
        L::open_in_place(&self.cipher, nonce, aad, sealed)
    }
}
