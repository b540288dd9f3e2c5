//! One block of a buffer: in memory, or sealed on the disk.

use std::ops::Range;
use std::sync::Arc;

use dssefs_seal::sealed::{Charge, SealedFile};
use dssefs_seal::secret::PlainBuf;

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
    /// Whether an older content of this block is still on the disk, for snapshots to read and for this one to come back
    /// to.
    pub(super) older_on_disk: bool,
}

/// A block on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OnDisk {
    pub(super) generation: u64,
    pub(super) len: usize,
    /// See [`Content::crc`].
    pub(super) crc: u64,
}

impl Block {
    /// Bytes of content, up to [`BLOCK_BYTES`].
    pub(super) fn len(&self) -> usize {
        match self {
            Block::Memory(block) => block.content.plain().len(),
            Block::Sealed(block) => block.len,
        }
    }
}

/// The bytes of a block in memory, what they have to be, and what they cost.
pub(super) struct Content {
    plain: PlainBuf,
    /// The checksum of the bytes as they came in. It is never taken of what is in memory now: a bit that flips there,
    /// or on the disk, is one that the store refuses, or the next reader of the block.
    crc: u64,
    pub(super) charge: Charge,
}

impl Content {
    /// Bytes with the checksum that they had when they came in.
    pub(super) fn new(plain: PlainBuf, crc: u64, charge: Charge) -> Content {
        Content { plain, crc, charge }
    }

    /// The bytes, right or wrong.
    pub(super) fn plain(&self) -> &[u8] {
        self.plain.as_slice()
    }

    /// The checksum of all bytes as they came in.
    pub(super) fn crc(&self) -> u64 {
        self.crc
    }

    /// The same of a part of them; None when they are not what came in.
    pub(super) fn crc_of(&self, part: Range<usize>) -> Option<u64> {
        if part == (0..self.plain.len()) {
            return Some(self.crc);
        }
        (self.deviation() == 0).then(|| crc::of(&self.plain.as_slice()[part]))
    }

    /// Moves to memory of `capacity_bytes`, if that is more.
    pub(super) fn grow(&mut self, capacity_bytes: usize) {
        self.plain.grow(capacity_bytes);
    }

    /// Edits `part`, for which there is room.
    pub(super) fn edit(&mut self, edit: Edit<'_>, part: &Range<usize>) {
        let len = self.plain.len();
        match edit {
            Edit::Zero => {
                let part = part.start.min(len)..part.end.min(len);
                self.replace(&part, &ZEROS[..part.len()]);
            }
            Edit::Write(data) if part.start >= len => {
                self.crc = crc::extend(crc::extend(self.crc, &ZEROS[..part.start - len]), data);
                self.plain.write_at(part.start, data);
            }
            Edit::Write(data) => self.replace(part, data),
        }
    }

    /// Takes off what lies beyond `len` bytes.
    pub(super) fn cut(&mut self, len: usize) {
        if len < self.plain.len() {
            self.crc = crc::of(&self.plain.as_slice()[..len]) ^ self.deviation();
            self.plain.resize(len);
        }
    }

    /// Puts `data` over `part`, which begins within the bytes. Those beside it have to be read for the new checksum; if
    /// they were wrong before, they stay so.
    fn replace(&mut self, part: &Range<usize>, data: &[u8]) {
        let old = self.plain.as_slice();
        let (before, after) = (&old[..part.start], old.get(part.end..).unwrap_or_default());
        let stays = !before.is_empty() || !after.is_empty();
        let deviation = if stays { self.deviation() } else { 0 };
        self.crc = crc::extend(crc::extend(crc::of(before), data), after) ^ deviation;
        self.plain.write_at(part.start, data);
    }

    /// Zero when the bytes are what came in.
    fn deviation(&self) -> u64 {
        crc::of(self.plain.as_slice()) ^ self.crc
    }
}

#[cfg(test)]
impl Content {
    /// Flips a bit, as failing memory does.
    pub(super) fn damage(&mut self, at: usize) {
        self.plain.as_mut_slice()[at] ^= 1;
    }
}

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

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
        let budget = dssefs_seal::sealed::ByteBudget::new(1 << 20);
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
