//! The outer layer: AES-256-GCM of ring, from the BoringSSL lineage. ring never wipes a key; the locked memory that it lies in does.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, UnboundKey};

use crate::secret::Key;

use super::nonce::{NONCE_BYTES, Nonce};
use super::{Error, Layer, Tag};

/// The layer next to the disk.
pub enum Outer {}

impl Layer for Outer {
    const FIELD: [u8; 4] = *b"out1";

    type Cipher = LessSafeKey;

    fn expand(key: &Key) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("an AES-256 key has 32 bytes");
        LessSafeKey::new(key)
    }

    fn seal_in_place(cipher: &LessSafeKey, nonce: Nonce, aad: &[u8], text: &mut [u8]) -> Result<Tag, Error> {
        let bytes = text.len();
        let sealed = cipher.seal_in_place_separate_tag(used(*nonce.bytes()), Aad::from(aad), text);
        let tag = sealed.map_err(|_| Error::TooLong { bytes })?;
        Ok(tag.as_ref().try_into().expect("a tag of AES-256-GCM has 16 bytes"))
    }

    fn open_in_place(
        cipher: &LessSafeKey,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        tag: Tag,
        text: &mut [u8],
    ) -> Result<(), Error> {
        let opened = cipher.open_in_place_separate_tag(used(nonce), Aad::from(aad), tag.into(), text, 0..);
        opened.map(drop).map_err(|_| Error::Refused)
    }
}

fn used(nonce: [u8; NONCE_BYTES]) -> ring::aead::Nonce {
    ring::aead::Nonce::assume_unique_for_key(nonce)
}
