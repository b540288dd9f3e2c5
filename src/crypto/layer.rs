//! One layer: one AEAD, from one library, under one key.

use crate::secret::{Key, Locked};

use super::nonce::{NONCE_BYTES, Nonce, NonceCounter};
use super::{Error, random};

/// Bytes of an authentication tag: all 128 bits, never a shortened one (SP 800-38D, 5.2.1.2).
pub const TAG_BYTES: usize = 16;

/// What proves that a text was sealed under a key, with a nonce and associated data.
pub type Tag = [u8; TAG_BYTES];

/// A library's AES-256-GCM.
pub trait Layer {
    /// The fixed field of this layer's nonces, and its name in the associated data.
    const FIELD: [u8; 4];

    /// The expanded key.
    type Cipher: Send + Sync;

    /// Expands a key.
    fn expand(key: &Key) -> Self::Cipher;

    /// Turns plaintext into ciphertext where it lies.
    ///
    /// # Errors
    /// [`Error::TooLong`] beyond the limit of GCM, 2^36 - 32 bytes.
    fn seal_in_place(cipher: &Self::Cipher, nonce: Nonce, aad: &[u8], text: &mut [u8]) -> Result<Tag, Error>;

    /// Turns ciphertext into plaintext where it lies.
    ///
    /// # Errors
    /// [`Error::Refused`]; `text` then holds no plaintext, only zeros or what was there before.
    fn open_in_place(
        cipher: &Self::Cipher,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        tag: Tag,
        text: &mut [u8],
    ) -> Result<(), Error>;
}

/// The key of one layer, with its counter of nonces.
///
/// It is expanded once, into locked memory, and not for each block: an AES-256 key schedule begins with the key itself, and the
/// stack on which it would be expanded again is neither locked nor out of core dumps.
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

    /// Seals `text` where it lies, with the key's next nonce, whose counter comes back with the tag.
    pub(super) fn seal_in_place(&self, aad: &[u8], text: &mut [u8]) -> Result<(u64, Tag), Error> {
        let (counter, nonce) = self.nonces.draw()?;
        Ok((counter, L::seal_in_place(&self.cipher, nonce, aad, text)?))
    }

    /// Opens `text` where it lies.
    pub(super) fn open_in_place(&self, counter: u64, aad: &[u8], tag: Tag, text: &mut [u8]) -> Result<(), Error> {
        L::open_in_place(&self.cipher, self.nonces.seen(counter), aad, tag, text)
    }
}
