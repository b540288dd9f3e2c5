//! Encrypting under a KMS key: AES-256-GCM, with the encryption context as authenticated data.
//!
//! A ciphertext blob names its key, as those of AWS do, so that Decrypt needs no key id:
//!
//! ```text
//! 0        1            2         2+n      2+n+12
//! +--------+------------+---------+---------+---------------------+
//! | 1      | n (u8)     | key id  | nonce   | ciphertext and tag  |
//! +--------+------------+---------+---------+---------------------+
//! ```
//!
//! Everything before the nonce, and the context, is authenticated. Nonces are random: NIST SP 800-38D (8.3) allows 2^32
//! of them for one key, far more than an endpoint for development and tests ever makes.

use std::collections::BTreeMap;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::exception::Exception;

/// The length of a key's material, in bytes.
pub(super) const MATERIAL_LEN: usize = 32;

const VERSION: u8 = 1;

/// Fills a new array with the system's randomness.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Exception> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// Fills `bytes` with the system's randomness.
pub(super) fn fill(bytes: &mut [u8]) -> Result<(), Exception> {
    let no_randomness = |_| Exception::internal(&std::io::Error::other("the system gives no randomness"));
    SystemRandom::new().fill(bytes).map_err(no_randomness)
}

/// The key id in a blob. Nothing is authenticated yet.
pub(super) fn key_id(blob: &[u8]) -> Result<&str, Exception> {
    let (header, _) = split(blob)?;
    std::str::from_utf8(&header[2..]).map_err(|_| Exception::invalid_ciphertext())
}

pub(super) fn encrypt(
    material: &[u8; MATERIAL_LEN],
    key_id: &str,
    context: &BTreeMap<String, String>,
    plaintext: &[u8],
) -> Result<Vec<u8>, Exception> {
    let length = u8::try_from(key_id.len()).map_err(|_| Exception::bad_key_id(key_id))?;
    let mut blob = [&[VERSION, length], key_id.as_bytes()].concat();
    let aad = Aad::from(authenticated(&blob, context));
    let nonce = random::<NONCE_LEN>()?;
    let mut sealed = plaintext.to_vec();
    let sealing = cipher(material).seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
    sealing.map_err(|_| Exception::validation("The plaintext is too long."))?;
    blob.extend_from_slice(&nonce);
    blob.append(&mut sealed);
    Ok(blob)
}

pub(super) fn decrypt(
    material: &[u8; MATERIAL_LEN],
    context: &BTreeMap<String, String>,
    blob: &[u8],
) -> Result<Vec<u8>, Exception> {
    let (header, rest) = split(blob)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(Exception::invalid_ciphertext)?;
    let aad = Aad::from(authenticated(header, context));
    let mut plaintext = sealed.to_vec();
    let opening = cipher(material).open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut plaintext);
    let length = opening.map_err(|_| Exception::invalid_ciphertext())?.len();
    plaintext.truncate(length);
    Ok(plaintext)
}

/// Header (up to the nonce) and the rest.
fn split(blob: &[u8]) -> Result<(&[u8], &[u8]), Exception> {
    match blob {
        [VERSION, length, ..] => {
            blob.split_at_checked(2 + usize::from(*length)).ok_or_else(Exception::invalid_ciphertext)
        }
        _ => Err(Exception::invalid_ciphertext()),
    }
}

/// Header and context, each text with its length before it, so that no two contexts give the same bytes.
fn authenticated(header: &[u8], context: &BTreeMap<String, String>) -> Vec<u8> {
    let mut bytes = header.to_vec();
    for text in context.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn cipher(material: &[u8; MATERIAL_LEN]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, material).expect("AES-256 takes keys of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn decryption_needs_the_same_context() {
        let (a, b) = (context(&[("a", "bc")]), context(&[("ab", "c")]));
        let blob = encrypt(&[7; 32], "id", &a, b"secret").unwrap();
        assert_eq!(key_id(&blob).unwrap(), "id");
        assert_eq!(decrypt(&[7; 32], &a, &blob).unwrap(), b"secret");
        for (material, other) in [([7; 32], &b), ([7; 32], &context(&[])), ([8; 32], &a)] {
            assert_eq!(decrypt(&material, other, &blob), Err(Exception::invalid_ciphertext()));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let context = context(&[("k", "v")]);
        let blob = encrypt(&[7; 32], "id", &context, b"secret").unwrap();
        for bit in 0..blob.len() * 8 {
            let mut changed = blob.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(decrypt(&[7; 32], &context, &changed).is_err(), "bit {bit}");
        }
        for length in 0..blob.len() {
            assert!(decrypt(&[7; 32], &context, &blob[..length]).is_err(), "length {length}");
        }
    }
}
