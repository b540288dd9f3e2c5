//! AES-256-GCM of ring, from the BoringSSL lineage. ring never wipes a key; the locked memory that it lies in does.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, UnboundKey};

use crate::crypto::nonce::{NONCE_BYTES, NonceCounter};
use crate::crypto::{Error, Layer, NonceSource, Tag};
use crate::secret::Key;

/// The two layers, the inner one first, for people and auditors. The versions are those that Cargo.toml asks for.
pub const LAYERS: &str = "aes-gcm 0.11 (AES-256-GCM, RustCrypto) in ring 0.17 (AES-256-GCM, BoringSSL)";

/// The layer next to the disk.
pub enum Outer {}

impl Layer for Outer {
    const FIELD: [u8; 4] = *b"out1";

    const NONCES: NonceSource = NonceSource::Counter;

    type Cipher = LessSafeKey;

    fn expand(key: &Key) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("an AES-256 key has 32 bytes");
        LessSafeKey::new(key)
    }

    fn seal_in_place(
        cipher: &LessSafeKey,
        nonces: &NonceCounter,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<([u8; NONCE_BYTES], Tag), Error> {
        let (bytes, (_, nonce)) = (text.len(), nonces.draw()?);
        let sealed = cipher.seal_in_place_separate_tag(used(*nonce.bytes()), Aad::from(aad), text);
        let tag = sealed.map_err(|_| Error::TooLong { bytes })?;
        Ok((*nonce.bytes(), tag.as_ref().try_into().expect("a tag of AES-256-GCM has 16 bytes")))
    }

    fn open_in_place(
        cipher: &LessSafeKey,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &mut [u8],
    ) -> Result<(), Error> {
        cipher.open_in_place(used(nonce), Aad::from(aad), sealed).map(drop).map_err(|_| Error::Refused)
    }
}

fn used(nonce: [u8; NONCE_BYTES]) -> ring::aead::Nonce {
    ring::aead::Nonce::assume_unique_for_key(nonce)
}
