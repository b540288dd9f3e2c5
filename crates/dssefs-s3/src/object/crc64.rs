//! The checksum that S3 keeps of a whole object, whatever its parts were.

use crc_fast::CrcAlgorithm::Crc64Nvme;
use serde::{Deserialize, Serialize};

/// The CRC-64/NVME of some bytes. It guards against accidents: an attacker can make other bytes with the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Crc64(u64);

impl Crc64 {
    /// The checksum of no bytes.
    pub const EMPTY: Crc64 = Crc64(0);

    /// The checksum of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Crc64 {
        Crc64(crc_fast::checksum(Crc64Nvme, bytes))
    }

    /// The checksum that has this value.
    #[must_use]
    pub const fn from_value(value: u64) -> Crc64 {
        Crc64(value)
    }

    /// Its value.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The checksum of these bytes followed by `len` bytes with the checksum `next`.
    #[must_use]
    pub fn followed_by(self, next: Crc64, len: u64) -> Crc64 {
        if len == 0 { self } else { Crc64(crc_fast::checksum_combine(Crc64Nvme, self.0, next.0, len)) }
    }

    /// The text in S3's headers and XML: Base64 of the eight bytes, most significant first.
    #[must_use]
    pub fn to_base64(self) -> String {
        base64_simd::STANDARD.encode_to_string(self.0.to_be_bytes())
    }

    /// The reverse of [`Crc64::to_base64`]; None for anything else, such as the checksum of checksums `...-3`.
    #[must_use]
    pub fn from_base64(text: &str) -> Option<Crc64> {
        let bytes = base64_simd::STANDARD.decode_to_vec(text).ok()?;
        Some(Crc64(u64::from_be_bytes(bytes.try_into().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_has_the_check_value_of_the_catalogue() {
        // CRC-64/NVME of "123456789": catalogue of parametrised CRC algorithms.
        assert_eq!(Crc64::of(b"123456789"), Crc64::from_value(0xae8b_1486_0a79_9888));
        assert_eq!(Crc64::of(b""), Crc64::EMPTY);
    }

    #[test]
    fn checksums_of_parts_make_the_checksum_of_the_whole() {
        let whole = Crc64::EMPTY.followed_by(Crc64::of(b"1234"), 4).followed_by(Crc64::of(b"56789"), 5);
        assert_eq!(whole, Crc64::of(b"123456789"));
        assert_eq!(whole.followed_by(Crc64::EMPTY, 0), whole);
    }

    #[test]
    fn the_text_is_base64_of_big_endian_bytes() {
        let crc64 = Crc64::of(b"123456789");
        assert_eq!(crc64.to_base64(), "rosUhgp5mIg=");
        assert_eq!(Crc64::from_base64("rosUhgp5mIg="), Some(crc64));
        assert_eq!(Crc64::from_base64("rosUhgp5mIg=-3"), None);
        assert_eq!(Crc64::from_base64("AAAA"), None);
    }
}
