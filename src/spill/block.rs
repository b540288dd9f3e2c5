//! One block of a buffer: in memory, or sealed on the disk.

use std::ops::Range;
use std::sync::Arc;

use crate::sealed::{Charge, SealedFile};
use crate::secret::PlainBuf;

use super::disk::beside_other_tasks;
use super::{BLOCK_BYTES, Error, crc};

/// The least memory that a block takes, in bytes, so that ten thousand tiny files are cheap.
const CAPACITY_BYTES_MIN: usize = 4096;

/// Where the content of a block is. What lies beyond its length, up to the end of the block, reads as zeros.
pub(super) enum Block {
    Memory(InMemory),
    Sealed(OnDisk),
}

/// A block in memory.
pub(super) struct InMemory {
    /// Shared with the snapshots that were taken of it. Changed in place only when there are none.
    pub(super) content: Arc<Content>,
    /// Its place in the order of last changes.
    pub(super) turn: u64,
    /// Whether an older content of this block is still on the disk, for snapshots to read and for this one to come back to.
    pub(super) older_on_disk: bool,
}

/// A block on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OnDisk {
    pub(super) generation: u64,
    pub(super) len: usize,
    /// The checksum of the content, taken before it was sealed.
    pub(super) crc: u64,
}

impl Block {
    /// Bytes of content, up to [`BLOCK_BYTES`].
    pub(super) fn len(&self) -> usize {
        match self {
            Block::Memory(block) => block.content.plain.len(),
            Block::Sealed(block) => block.len,
        }
    }
}

/// The bytes of a block in memory, and what they cost.
pub(super) struct Content {
    pub(super) plain: PlainBuf,
    pub(super) charge: Charge,
}

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        self.plain.as_slice()
    }
}

/// What a change does to a part of one block.
#[derive(Clone, Copy)]
pub(super) enum Edit<'a> {
    Write(&'a [u8]),
    Zero,
}

impl Edit<'_> {
    /// The length of a block of `len` bytes after `part` of it was edited: zeros need no bytes beyond the end.
    pub(super) fn len_after(self, len: usize, part: &Range<usize>) -> usize {
        match self {
            Edit::Write(_) => len.max(part.end),
            Edit::Zero => len,
        }
    }

    /// Edits `part` of a block that has room for it.
    pub(super) fn apply(self, plain: &mut PlainBuf, part: &Range<usize>) {
        match self {
            Edit::Write(data) => plain.write_at(part.start, data),
            Edit::Zero => {
                let end = part.end.min(plain.len());
                if part.start < end {
                    plain.as_mut_slice()[part.start..end].fill(0);
                }
            }
        }
    }
}

/// Memory for a block of `len` bytes: a power of two, so that a block that grows is moved four times at most.
pub(super) fn capacity_for(len: usize) -> usize {
    len.next_power_of_two().clamp(CAPACITY_BYTES_MIN, BLOCK_BYTES)
}

/// Opens a sealed block, and refuses content with another checksum than it had when it was sealed.
pub(super) fn open(file: &SealedFile, index: u64, block: OnDisk, plain: &mut PlainBuf) -> Result<(), Error> {
    beside_other_tasks(|| file.open(index, block.generation, plain))?;
    if plain.len() == block.len && crc::of(plain.as_slice()) == block.crc {
        return Ok(());
    }
    plain.resize(0);
    Err(Error::Tampered { block: index })
}

/// The blocks that `range` touches.
pub(super) fn blocks_of(range: &Range<u64>) -> Range<u64> {
    let block_bytes = BLOCK_BYTES as u64;
    if range.is_empty() { 0..0 } else { range.start / block_bytes..range.end.div_ceil(block_bytes) }
}

/// The part of a block that lies in `range`, which touches it.
pub(super) fn part_of(index: u64, range: &Range<u64>) -> Range<usize> {
    let base = index * BLOCK_BYTES as u64;
    // Both ends are at most one block.
    range.start.saturating_sub(base) as usize..(range.end - base).min(BLOCK_BYTES as u64) as usize
}

/// The blocks that `range` touches, each with the part of it.
pub(super) fn parts_of(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    blocks_of(&range).map(move |index| (index, part_of(index, &range)))
}

/// The offsets of `part` of a block.
pub(super) fn offsets_of(index: u64, part: &Range<usize>) -> Range<u64> {
    let base = index * BLOCK_BYTES as u64;
    base + part.start as u64..base.saturating_add(part.end as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_with_another_checksum_than_it_was_sealed_with_is_refused() {
        let budget = crate::sealed::ByteBudget::new(1 << 20);
        let file = SealedFile::create(&std::env::temp_dir(), BLOCK_BYTES, budget).unwrap();
        let right = OnDisk { generation: file.seal(3, b"content").unwrap(), len: 7, crc: crc::of(b"content") };
        let mut plain = PlainBuf::default();
        open(&file, 3, right, &mut plain).unwrap();
        assert_eq!(plain.as_slice(), b"content");
        let refused = open(&file, 3, OnDisk { crc: right.crc ^ 1, ..right }, &mut plain);
        assert!(matches!(refused, Err(Error::Tampered { block: 3 })));
        assert!(plain.is_empty());
    }

    #[test]
    fn parts_cover_a_range_without_gap_or_overlap() {
        for range in [0..0, 5..5, 0..1, 65_535..65_537, 0..65_536, 1..200_000, 131_072..131_073] {
            let parts: Vec<_> = parts_of(range.clone()).map(|(index, part)| offsets_of(index, &part)).collect();
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            let covered: u64 = parts.iter().map(|part| part.end - part.start).sum();
            assert_eq!(covered, range.end - range.start, "{range:?}");
            assert!(parts.first().is_none_or(|first| first.start == range.start));
        }
    }

    #[test]
    fn capacities_double_from_a_page_to_a_block() {
        let capacities = [0, 1, 4096, 4097, 10_000, 40_000, BLOCK_BYTES].map(capacity_for);
        assert_eq!(capacities, [4096, 4096, 4096, 8192, 16_384, 65_536, 65_536]);
    }
}
