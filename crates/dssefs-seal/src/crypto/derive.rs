//! Keys that do not depend on KMS alone: what is sealed under a data key is sealed under a key derived from it and from
//! a salt of this host, so that a KMS that gives one key twice does not make a nonce repeat.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};

#[cfg(feature = "fips")]
use aws_lc_rs::hkdf;
#[cfg(not(feature = "fips"))]
use ring::hkdf;

use crate::secret::{Key, on_wiped_stack};

use super::{Error, Layer, random};

/// Bytes of a [`Salt`]: as many as HMAC-SHA-256 gives, which RFC 5869 (3.1) recommends.
pub const SALT_BYTES: usize = 32;

/// Random, drawn once for each pair of data keys, and not secret.
pub type Salt = [u8; SALT_BYTES];

/// What begins the `info` of a layer's key. The layer's own field follows, so that equal data keys give two layers
/// unequal keys.
const LAYER_INFO: &[u8] = b"dssefs journal v2 ";
/// The `info` of the mark of a key that was seen.
const MARK_INFO: &[u8] = b"dssefs seen key";
/// How many marks are kept: those of 256 renewals with two keys and two wrapped forms each.
const MARKS_MAX: usize = 1024;

/// A new salt from a draw of its own.
pub(super) fn salt() -> Result<Salt, Error> {
    let mut salt = [0; SALT_BYTES];
    random::fill(&mut salt)?;
    Ok(salt)
}

/// The key of layer `L` under a data key: HKDF-SHA-256 (RFC 5869; SP 800-56C).
pub(super) fn layer_key<L: Layer>(data_key: &Key, salt: &Salt) -> Result<Key, Error> {
    derive(salt, data_key.expose(), &[LAYER_INFO, &L::FIELD])
}

fn derive(salt: &Salt, secret: &[u8], info: &[&[u8]]) -> Result<Key, Error> {
    Key::fill_with(|bytes| {
        // The library keeps the extracted key on the stack.
        on_wiped_stack(|| {
            let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
            let expanded = extracted.expand(info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(bytes));
            expanded.expect("HKDF-SHA-256 gives 32 bytes of up to 8,160");
        });
        Ok(())
    })
}

/// The keys that this process has seen, by marks in locked memory: HKDF-SHA-256 of each under a salt that no other
/// process has. They tell whether a key comes back, and nothing else of it. The oldest mark goes when there are 1,024.
#[derive(Default)]
pub struct SeenKeys {
    salt: OnceLock<Salt>,
    marks: Mutex<VecDeque<Key>>,
}

impl SeenKeys {
    /// No key was seen yet.
    #[must_use]
    pub const fn new() -> SeenKeys {
        SeenKeys { salt: OnceLock::new(), marks: Mutex::new(VecDeque::new()) }
    }

    /// Notes `secret`; false when it was noted before.
    ///
    /// # Errors
    /// [`Error::NoRandomness`], [`Error::OutOfMemory`].
    pub fn note(&self, secret: &[u8]) -> Result<bool, Error> {
        let drawn = salt()?;
        let mark = derive(self.salt.get_or_init(|| drawn), secret, &[MARK_INFO])?;
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.iter().any(|seen| seen.expose() == mark.expose()) {
            return Ok(false);
        }
        if marks.len() == MARKS_MAX {
            marks.pop_front();
        }
        marks.push_back(mark);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Inner, Outer};

    fn key(byte: u8) -> Key {
        Key::fill_with(|bytes| {
            bytes.iter_mut().zip(byte..).for_each(|(to, from)| *to = from);
            Ok::<_, Error>(())
        })
        .unwrap()
    }

    fn hex(key: &Key) -> String {
        key.expose().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Computed by the HMAC of Python's standard library, by the two steps of RFC 5869.
    #[test]
    fn a_layers_key_is_what_another_implementation_derives() {
        let salt = std::array::from_fn(|n| u8::try_from(n).unwrap() + 0xc0);
        let (inner, outer) = (layer_key::<Inner>(&key(0x20), &salt), layer_key::<Outer>(&key(0x20), &salt));
        assert_eq!(hex(&inner.unwrap()), "9fc0752e40504bf49f81c36679a167cdcafb9f1f20d0196078e31712b1ccb10a");
        assert_eq!(hex(&outer.unwrap()), "9137774cfa8a15cfbca1258692a62d22302f8aeb983f409d3ba1e5d68deb57b0");
    }

    #[test]
    fn one_data_key_gives_another_key_for_each_layer_and_each_salt() {
        let (one, other) = (salt().unwrap(), salt().unwrap());
        let keys = [
            layer_key::<Inner>(&key(1), &one).unwrap(),
            layer_key::<Outer>(&key(1), &one).unwrap(),
            layer_key::<Inner>(&key(1), &other).unwrap(),
            layer_key::<Outer>(&key(1), &other).unwrap(),
        ];
        let different: std::collections::BTreeSet<String> = keys.iter().map(hex).collect();
        assert_eq!(different.len(), keys.len());
    }

    #[test]
    fn a_key_that_comes_back_is_known_again_until_a_thousand_others_came() {
        let seen = SeenKeys::new();
        assert!(seen.note(b"first").unwrap());
        assert!(!seen.note(b"first").unwrap());
        for n in 1..MARKS_MAX {
            assert!(seen.note(&n.to_le_bytes()).unwrap());
        }
        assert!(!seen.note(b"first").unwrap());
        assert!(seen.note(b"one too many").unwrap());
        assert!(seen.note(b"first").unwrap(), "the oldest mark has gone");
    }
}
