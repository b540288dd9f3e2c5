//! HMAC-SHA-256 (RFC 2104, FIPS 198-1): proves who wrote a text that is no secret. The library is that of the outer
//! layer.

#[cfg(feature = "fips")]
use aws_lc_rs::hmac;
#[cfg(not(feature = "fips"))]
use ring::hmac;

use crate::secret::{Key, OutOfMemory, on_wiped_stack};

use super::{Error, random};

/// Bytes of a code.
pub const MAC_BYTES: usize = 32;

/// A key for nothing but authentication.
#[derive(Debug)]
pub struct MacKey(Key);

impl MacKey {
    /// Takes a key that was never used for anything else.
    #[must_use]
    pub fn new(key: Key) -> MacKey {
        MacKey(key)
    }

    /// A key of 256 random bits.
    ///
    /// # Errors
    /// [`Error::NoRandomness`] and [`Error::OutOfMemory`].
    pub fn random() -> Result<MacKey, Error> {
        Key::fill_with(|bytes| random::fill(bytes)).map(MacKey)
    }

    /// A key of these bytes. The caller wipes its own copy.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<MacKey, Error> {
        let key = Key::fill_with::<OutOfMemory>(|place| {
            *place = *bytes;
            Ok(())
        })?;
        Ok(MacKey(key))
    }

    /// The bytes, for the file that keeps them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The code of `parts`. Each part is preceded by its length (8 bytes, little-endian), so no other division has the
    /// same code.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        on_wiped_stack(|| {
            let mut context = hmac::Context::with_key(&self.expanded());
            for part in parts {
                context.update(&(part.len() as u64).to_le_bytes());
                context.update(part);
            }
            context.sign().as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes")
        })
    }

    /// Whether `mac` is the code of `parts`, in a time that does not depend on where they differ: the codes of both
    /// codes are compared, by the library, since it compares none that it has not computed.
    #[must_use]
    pub fn verifies(&self, parts: &[&[u8]], mac: &[u8; MAC_BYTES]) -> bool {
        let own = self.mac(parts);
        on_wiped_stack(|| {
            let key = self.expanded();
            hmac::verify(&key, mac, hmac::sign(&key, &own).as_ref()).is_ok()
        })
    }

    fn expanded(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: [u8; 32]) -> MacKey {
        MacKey::from_bytes(&bytes).unwrap()
    }

    /// Made by another implementation: Python's `hmac`, over `03 00.. "abc" 00 00..` under the key `00 01 ... 1f`.
    #[test]
    fn the_code_is_that_of_the_standard() {
        let code = key(std::array::from_fn(|at| at as u8)).mac(&[b"abc", b""]);
        let text: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "cc42fccb2ecc37765d6477bdc196d3af7f6baadfa49dfecb3e2e14a0497941ea");
    }

    #[test]
    fn only_the_same_parts_under_the_same_key_verify() {
        let (one, other) = (key([1; 32]), key([2; 32]));
        let mac = one.mac(&[b"ab", b"c"]);
        assert!(one.verifies(&[b"ab", b"c"], &mac));
        assert!(!other.verifies(&[b"ab", b"c"], &mac));
        for parts in [&[b"a".as_slice(), b"bc"], &[b"ab".as_slice(), b"d"], &[b"abc".as_slice(), b""]] {
            assert!(!one.verifies(parts, &mac), "{parts:?}");
        }
        for at in 0..MAC_BYTES {
            let mut changed = mac;
            changed[at] ^= 1;
            assert!(!one.verifies(&[b"ab", b"c"], &changed), "byte {at}");
        }
    }

    #[test]
    fn a_random_key_is_another_each_time() {
        let (one, other) = (MacKey::random().unwrap(), MacKey::random().unwrap());
        assert_ne!(one.mac(&[b"a"]), other.mac(&[b"a"]));
    }
}
