//! AES-256-GCM of the FIPS module of AWS-LC.
//!
//! The module approves of a seal only when it has drawn the nonce itself (SP 800-38D, 8.2.2 and 9.1; its service
//! indicator says so), and therefore it does: the nonce comes back with the tag and is kept in the block. Opening takes
//! the nonce from the block.
//!
//! Its expanded keys lie in the module's own heap, which wipes what it frees but is not locked by itself.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};

use crate::crypto::nonce::{NONCE_BYTES, NonceCounter};
use crate::crypto::{Error, Layer, NonceSource, Tag};
use crate::secret::Key;

/// The two layers, the inner one first, for people and auditors.
pub const LAYERS: &str = "aes-gcm 0.11 (AES-256-GCM, RustCrypto) in AWS-LC FIPS 3.1.0 (AES-256-GCM, AWS-LC; CMVP 5314)";

/// The FIPS module of this build: the one version that certificate 5314 of the CMVP names (its static form).
pub const MODULE: &str = "AWS-LC FIPS 3.1.0";

/// What is linked is what is claimed. Later 3.x are changed within the module's boundary, and 4.x is not validated.
const _: () = {
    let linked: &[u8] = aws_lc_fips_sys::AWSLC_VERSION_NUMBER_STRING;
    assert!(matches!(linked, b"3.1.0\0"), "this is not the validated FIPS module; build with scripts/fips");
};

/// Refuses a module that does not run in FIPS mode. One whose code is not what was built ends the process before
/// `main`.
///
/// # Errors
/// [`Error::NotFips`].
pub(in crate::crypto) fn require_fips_mode() -> Result<(), Error> {
    aws_lc_rs::try_fips_mode().map_err(|_| Error::NotFips)
}

/// The layer next to the disk.
pub enum Outer {}

impl Layer for Outer {
    const FIELD: [u8; 4] = *b"out1";

    const NONCES: NonceSource = NonceSource::Library;

    type Cipher = RandomizedNonceKey;

    fn expand(key: &Key) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, key.expose()).expect("an AES-256 key has 32 bytes")
    }

    fn seal_in_place(
        cipher: &RandomizedNonceKey,
        nonces: &NonceCounter,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<([u8; NONCE_BYTES], Tag), Error> {
        nonces.count_random()?;
        let bytes = text.len();
        let sealed = cipher.seal_in_place_separate_tag(Aad::from(aad), text);
        let (nonce, tag) = sealed.map_err(|_| Error::TooLong { bytes })?;
        Ok((*nonce.as_ref(), tag.as_ref().try_into().expect("a tag of AES-256-GCM has 16 bytes")))
    }

    fn open_in_place(
        cipher: &RandomizedNonceKey,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &mut [u8],
    ) -> Result<(), Error> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        cipher.open_in_place(nonce, Aad::from(aad), sealed).map(drop).map_err(|_| Error::Refused)
    }
}
