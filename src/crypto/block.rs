//! Block format v1, as `docs/FORMAT.md` draws it.

use super::{Error, TAG_BYTES};

/// The version of the block format.
pub const FORMAT_VERSION: u16 = 1;

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

/// A block as it may go to a disk: ciphertext of both layers. Only a seal makes one; what a disk returns is only claimed to be one
/// until it is opened.
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

    /// Header, ciphertext of the inner layer, tag of the inner layer, tag of the outer layer. `None` when cut too short.
    pub(super) fn parts_mut(&mut self) -> Option<Parts<'_>> {
        let (header, body) = self.0.split_first_chunk_mut()?;
        let (doubly_sealed, outer_tag) = body.split_last_chunk_mut()?;
        if doubly_sealed.len() < TAG_BYTES {
            return None;
        }
        Some(Parts { header, doubly_sealed, outer_tag })
    }
}

/// The parts of a sealed block.
pub(super) struct Parts<'a> {
    pub(super) header: &'a mut [u8; HEADER_BYTES],
    /// What the outer layer covers: the inner ciphertext and the inner tag.
    pub(super) doubly_sealed: &'a mut [u8],
    pub(super) outer_tag: &'a mut [u8; TAG_BYTES],
}

/// What stands in clear before the ciphertext. Each field is authenticated: as associated data or as a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) generation: u64,
    pub(super) outer_counter: u64,
    pub(super) inner_counter: u64,
    pub(super) plain_bytes: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..6].copy_from_slice(&MAGIC);
        bytes[6..8].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.generation.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.outer_counter.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.inner_counter.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.plain_bytes.to_be_bytes());
        bytes
    }

    /// # Errors
    /// [`Error::Refused`] when this is no header of format v1.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Error> {
        if bytes[..6] != MAGIC || bytes[6..8] != FORMAT_VERSION.to_be_bytes() {
            return Err(Error::Refused);
        }
        Ok(Header {
            generation: u64_at(bytes, 8),
            outer_counter: u64_at(bytes, 16),
            inner_counter: u64_at(bytes, 24),
            plain_bytes: (u64_at(bytes, 28) & 0xFFFF_FFFF) as u32,
        })
    }
}

/// What a layer binds a block to: the format, the layer, the file, the place, the generation and the length.
pub(super) fn associated_data(field: [u8; 4], file: &FileId, block: BlockId, plain_bytes: u32) -> [u8; 48] {
    let mut aad = [0; 48];
    aad[..6].copy_from_slice(&MAGIC);
    aad[6..8].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
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
        let header =
            Header { generation: 1 << 40, outer_counter: 2, inner_counter: u64::MAX, plain_bytes: 0xFEDC_BA98 };
        assert_eq!(Header::decode(&header.encode()).unwrap(), header);
    }

    #[test]
    fn a_header_of_another_version_is_refused() {
        let mut bytes = Header { generation: 0, outer_counter: 0, inner_counter: 0, plain_bytes: 0 }.encode();
        bytes[7] = 2;
        assert!(matches!(Header::decode(&bytes), Err(Error::Refused)));
    }
}
