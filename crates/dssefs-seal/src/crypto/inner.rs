//! The inner layer: AES-256-GCM of RustCrypto, in pure Rust. It wipes its expanded key itself (feature `zeroize`).

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

use crate::secret::{Key, on_wiped_stack};

use super::nonce::{NONCE_BYTES, Nonce, NonceCounter};
use super::{Error, Layer, LayerKey, NonceSource, Tag};

/// The layer next to the plaintext.
pub enum Inner {}

/// Whether the inner cipher uses the processor's AES instructions. Without them it is right, but some fifty times
/// slower.
pub fn hardware_accelerated() -> bool {
    aes_gcm::aes::hardware_accelerated()
}

impl Layer for Inner {
    const FIELD: [u8; 4] = *b"in-1";

    const NONCES: NonceSource = NonceSource::Counter;

    type Cipher = Aes256Gcm;

    fn expand(key: &Key) -> Aes256Gcm {
        Aes256Gcm::new(key.expose().into())
    }

    fn seal_in_place(
        cipher: &Aes256Gcm,
        nonces: &NonceCounter,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<([u8; NONCE_BYTES], Tag), Error> {
        let (counter, nonce) = nonces.draw()?;
        Ok((nonces.seen(counter), seal(cipher, nonce, aad, text.into())?))
    }

    fn open_in_place(cipher: &Aes256Gcm, nonce: [u8; NONCE_BYTES], aad: &[u8], sealed: &mut [u8]) -> Result<(), Error> {
        let (text, tag) = sealed.split_last_chunk_mut().ok_or(Error::Refused)?;
        open(cipher, nonce, aad, *tag, text.into())
    }
}

impl LayerKey<Inner> {
    /// Seals `plain` into `sealed`, of the same length, which never holds plaintext.
    pub(super) fn seal_into(&self, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Result<(u64, Tag), Error> {
        let (counter, nonce) = self.nonces().draw()?;
        Ok((counter, seal(self.cipher(), nonce, aad, pair(plain, sealed)?)?))
    }

    /// Opens `sealed` into `plain`, of the same length. A refused text leaves `plain` as it was.
    pub(super) fn open_into(
        &self,
        counter: u64,
        aad: &[u8],
        tag: Tag,
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Error> {
        open(self.cipher(), self.nonces().seen(counter), aad, tag, pair(sealed, plain)?)
    }
}

fn pair<'i, 'o>(input: &'i [u8], output: &'o mut [u8]) -> Result<InOutBuf<'i, 'o, u8>, Error> {
    InOutBuf::new(input, output).map_err(|_| Error::Refused)
}

// The library takes the nonce by reference; that `Nonce` is moved in here is what keeps it from being used again.
#[allow(clippy::needless_pass_by_value)]
fn seal(cipher: &Aes256Gcm, nonce: Nonce, aad: &[u8], text: InOutBuf<'_, '_, u8>) -> Result<Tag, Error> {
    let bytes = text.len();
    // On processors with wide AES instructions the library lays the expanded key out on the stack, each part of it
    // twice.
    let tag = on_wiped_stack(|| cipher.encrypt_inout_detached(nonce.bytes().into(), aad, text));
    Ok(tag.map_err(|_| Error::TooLong { bytes })?.into())
}

fn open(
    cipher: &Aes256Gcm,
    nonce: [u8; NONCE_BYTES],
    aad: &[u8],
    tag: Tag,
    text: InOutBuf<'_, '_, u8>,
) -> Result<(), Error> {
    let opened = on_wiped_stack(|| cipher.decrypt_inout_detached(&nonce.into(), aad, text, &tag.into()));
    opened.map_err(|_| Error::Refused)
}
