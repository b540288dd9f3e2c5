//! The 32 bytes of an AES-256 key.

use std::fmt;

use super::{Locked, OutOfMemory};

/// Bytes of a key: AES-256 (FIPS 197).
pub const KEY_BYTES: usize = 32;

/// A key in locked memory, wiped on drop. It can be neither copied nor compared nor printed.
pub struct Key(Locked<[u8; KEY_BYTES]>);

impl Key {
    /// A key whose bytes `fill` writes where they stay, so that no copy of them is ever elsewhere.
    ///
    /// # Errors
    /// What `fill` returns, or [`OutOfMemory`].
    pub fn fill_with<E: From<OutOfMemory>>(
        fill: impl FnOnce(&mut [u8; KEY_BYTES]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut bytes = Locked::new(|| [0; KEY_BYTES])?;
        fill(&mut bytes)?;
        Ok(Key(bytes))
    }

    /// The bytes, for the cipher that expands them.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_filled_in_place_and_prints_nothing_of_itself() {
        let key = Key::fill_with::<OutOfMemory>(|bytes| {
            bytes.fill(0x42);
            Ok(())
        });
        let key = key.unwrap();
        assert_eq!(key.expose(), &[0x42; KEY_BYTES]);
        assert_eq!(format!("{key:?}"), "Key");
    }
}
