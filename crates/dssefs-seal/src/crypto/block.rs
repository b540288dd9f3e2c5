//! Block formats v1 and v2, as `docs/FORMAT.md` draws them.

use super::{Error, Layer, NONCE_BYTES, NonceSource, Outer, TAG_BYTES};

/// Bytes of a [`FileId`].
pub const FILE_ID_BYTES: usize = 16;

/// The random identity of a sealed file.
pub type FileId = [u8; FILE_ID_BYTES];

/// Bytes by which a sealed block is longer than its plaintext: a header of 36 and two tags of 16.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + 2 * TAG_BYTES;

/// The longest plaintext of one block, in bytes: 16 MiB. GCM itself would allow 2^36 - 32 (SP 800-38D, 5.2.1.1).
pub const PLAIN_BYTES_MAX: usize = 16 << 20;

pub(super) const HEADER_BYTES: usize = 36;

const MAGIC: [u8; 6] = *b"dssefs";

/// Which block of a file, and which of the contents that it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockId {
    /// The place in the file, counted in blocks.
    pub index: u64,
    /// Which content of that place. One file never uses a generation twice.
    pub generation: u64,
}

/// A block as it may go to a disk: ciphertext of both layers. Only a seal makes one; what a disk returns is only
/// claimed to be one until it is opened.
pub struct SealedBlock(Vec<u8>);

impl SealedBlock {
    /// What was read from a disk.
    pub fn claimed(bytes: Vec<u8>) -> Self {
        SealedBlock(bytes)
    }

    /// The generation that it says it is of; opening it as that tells whether this is so. None when cut too short.
    pub fn generation(&self) -> Option<u64> {
        self.0.first_chunk().map(|header: &[u8; HEADER_BYTES]| u64_at(header, 8))
    }

    /// The bytes for the disk.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A block of zeros, with room for `plain_bytes`.
    pub(super) fn vacant(plain_bytes: usize) -> Self {
        SealedBlock(vec![0; plain_bytes + OVERHEAD_BYTES])
    }

    /// The header, and what follows it: the ciphertext and both tags. `None` when cut too short.
    pub(super) fn parts_mut(&mut self) -> Option<(&mut [u8; HEADER_BYTES], &mut [u8])> {
        let (header, body) = self.0.split_first_chunk_mut()?;
        (body.len() >= 2 * TAG_BYTES).then_some((header, body))
    }
}

/// The version of the block format: how the header tells the outer layer's nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// By its counter.
    V1 = 1,
    /// In full. The length of the plaintext gives way to it: the length of the block tells it too.
    V2 = 2,
}

impl Version {
    /// What this build writes. Both are read.
    pub(super) const WRITTEN: Version = match Outer::NONCES {
        NonceSource::Counter => Version::V1,
        NonceSource::Library => Version::V2,
    };

    fn bytes(self) -> [u8; 2] {
        (self as u16).to_be_bytes()
    }
}

/// What stands in clear before the ciphertext. Each field is authenticated: as associated data or as a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) generation: u64,
    pub(super) outer_nonce: [u8; NONCE_BYTES],
    pub(super) inner_counter: u64,
    pub(super) plain_bytes: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..6].copy_from_slice(&MAGIC);
        bytes[6..8].copy_from_slice(&self.version.bytes());
        bytes[8..16].copy_from_slice(&self.generation.to_be_bytes());
        let inner_counter = self.inner_counter.to_be_bytes();
        match self.version {
            Version::V1 => {
                bytes[16..24].copy_from_slice(&self.outer_nonce[4..]);
                bytes[24..32].copy_from_slice(&inner_counter);
                bytes[32..36].copy_from_slice(&self.plain_bytes.to_be_bytes());
            }
            Version::V2 => {
                bytes[16..28].copy_from_slice(&self.outer_nonce);
                bytes[28..36].copy_from_slice(&inner_counter);
            }
        }
        bytes
    }

    /// The header of a block of `plain_bytes`.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is none of these formats, or of a block of another length.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], plain_bytes: usize) -> Result<Header, Error> {
        let plain_bytes = u32::try_from(plain_bytes).map_err(|_| Error::Refused)?;
        let mut outer_nonce = [0; NONCE_BYTES];
        let (version, inner_counter) = match (bytes[..6] == MAGIC).then_some([bytes[6], bytes[7]]) {
            Some([0, 1]) if bytes[32..] == plain_bytes.to_be_bytes() => {
                outer_nonce[..4].copy_from_slice(&Outer::FIELD);
                outer_nonce[4..].copy_from_slice(&bytes[16..24]);
                (Version::V1, u64_at(bytes, 24))
            }
            Some([0, 2]) => {
                outer_nonce.copy_from_slice(&bytes[16..28]);
                (Version::V2, u64_at(bytes, 28))
            }
            _ => return Err(Error::Refused),
        };
        Ok(Header { version, generation: u64_at(bytes, 8), outer_nonce, inner_counter, plain_bytes })
    }
}

/// What a layer binds a block to: the format, the layer, the file, the place, the generation and the length.
pub(super) fn associated_data(
    version: Version,
    field: [u8; 4],
    file: &FileId,
    block: BlockId,
    plain_bytes: u32,
) -> [u8; 48] {
    let mut aad = [0; 48];
    aad[..6].copy_from_slice(&MAGIC);
    aad[6..8].copy_from_slice(&version.bytes());
    aad[8..12].copy_from_slice(&field);
    aad[12..28].copy_from_slice(file);
    aad[28..36].copy_from_slice(&block.index.to_be_bytes());
    aad[36..44].copy_from_slice(&block.generation.to_be_bytes());
    aad[44..48].copy_from_slice(&plain_bytes.to_be_bytes());
    aad
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_encoding() {
        for version in [Version::V1, Version::V2] {
            let header = header(version);
            assert_eq!(Header::decode(&header.encode(), 0xFEDC_BA98).unwrap(), header);
        }
    }

    #[test]
    fn a_header_of_another_format_or_length_is_refused() {
        let bytes = header(Version::V1).encode();
        assert!(matches!(Header::decode(&bytes, 0xFEDC_BA99), Err(Error::Refused)));
        assert!(matches!(Header::decode(&bytes, 1 << 32), Err(Error::Refused)));
        for (at, byte) in [(0, b'D'), (6, 1), (7, 0), (7, 3)] {
            let mut bytes = bytes;
            bytes[at] = byte;
            assert!(matches!(Header::decode(&bytes, 0xFEDC_BA98), Err(Error::Refused)), "{at}");
        }
    }

    fn header(version: Version) -> Header {
        let outer_nonce = *b"out1\x01\x02\x03\x04\x05\x06\x07\x08";
        Header { version, generation: 1 << 40, outer_nonce, inner_counter: u64::MAX, plain_bytes: 0xFEDC_BA98 }
    }
}
