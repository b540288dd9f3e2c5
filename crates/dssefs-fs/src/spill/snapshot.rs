//! The content of a buffer as it was at one moment.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use dssefs_seal::sealed::SealedFile;
use dssefs_seal::secret::PlainBuf;

use super::block::{self, Content, OnDisk};
use super::resources::InFlight;
use super::{BLOCK_BYTES, Error, crc};

/// A part of a buffer that does not change while the buffer goes on being written. It can be read any number of times,
/// from any thread.
///
/// What was in memory stays there, charged, for as long as the snapshot or one of its chunks lives. What was sealed is
/// read from the disk; when it was replaced there since, reading it is [`Error::Superseded`].
pub struct Snapshot {
    start: u64,
    len: u64,
    pieces: Arc<[Piece]>,
    in_flight: InFlight,
}

impl Snapshot {
    pub(super) fn new(range: Range<u64>, pieces: Vec<Piece>, in_flight: InFlight) -> Self {
        Snapshot { start: range.start, len: range.end - range.start, pieces: pieces.into(), in_flight }
    }

    /// The offset in the file at which the snapshot begins.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The CRC64NVME of the content, as it came in. Blocks that are in the snapshot as a whole are neither read nor
    /// opened for it, so that it speaks of what was written and not of what memory and disk made of it; parts of blocks
    /// are, and must be right.
    ///
    /// # Errors
    /// As for [`Snapshot::chunks`].
    pub fn crc64(&self) -> Result<u64, Error> {
        self.pieces.iter().try_fold(crc::EMPTY, |crc, piece| Ok(crc::append(crc, piece.crc64()?, piece.len)))
    }

    /// The content in order, in chunks of 1 to [`BLOCK_BYTES`] bytes. Blocks in memory are not copied; sealed ones are
    /// opened when their turn comes, into memory that is not charged: one block for each chunk that is kept.
    ///
    /// # Errors
    /// A chunk is [`Error::Superseded`], [`Error::Tampered`] or [`Error::Io`]; nothing follows it.
    pub fn chunks(&self) -> Chunks {
        Chunks { pieces: Arc::clone(&self.pieces), at: 0, done_bytes: 0, in_flight: self.in_flight.clone() }
    }

    /// Hands the content to `take` in order, each chunk with its offset in the file, and then proves that it was what
    /// came in: for callers that put it where it is not compared with [`Snapshot::crc64`] again.
    ///
    /// # Errors
    /// As for [`Snapshot::chunks`], [`Error::Tampered`] at the end when a bit has flipped, and those of `take`.
    pub fn hand_over<E: From<Error>>(&self, mut take: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let (mut offset, mut crc) = (self.start, crc::EMPTY);
        for chunk in self.chunks() {
            let chunk = chunk?;
            take(offset, &chunk)?;
            crc = crc::extend(crc, &chunk);
            offset += chunk.len() as u64;
        }
        if crc == self.crc64()? {
            Ok(())
        } else {
            Err(Error::Tampered { block: self.start / BLOCK_BYTES as u64 }.into())
        }
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

/// The chunks of a [`Snapshot`].
pub struct Chunks {
    pieces: Arc<[Piece]>,
    /// The piece that is next, and how much of it is done.
    at: usize,
    done_bytes: u64,
    in_flight: InFlight,
}

impl Iterator for Chunks {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.pieces.get(self.at)?;
        let left_bytes = piece.len - self.done_bytes;
        let chunk_bytes = left_bytes.min(BLOCK_BYTES as u64);
        let chunk = piece.chunk(chunk_bytes as usize, &self.in_flight);
        if chunk.is_err() {
            self.at = self.pieces.len();
        } else if chunk_bytes == left_bytes {
            (self.at, self.done_bytes) = (self.at + 1, 0);
        } else {
            self.done_bytes += chunk_bytes;
        }
        Some(chunk)
    }
}

/// A run of bytes that have one source. Never empty; one from a block is within that block.
pub(super) struct Piece {
    pub(super) len: u64,
    pub(super) source: Source,
}

/// Where the bytes of a piece are. `start` is counted from the start of the block.
pub(super) enum Source {
    Zeros,
    Memory { content: Arc<Content>, index: u64, start: usize },
    Sealed { file: Arc<SealedFile>, index: u64, block: OnDisk, start: usize },
}

impl Piece {
    /// Zeros at `range`, if it is not empty.
    pub(super) fn zeros(range: Range<u64>) -> Option<Piece> {
        (!range.is_empty()).then(|| Piece { len: range.end - range.start, source: Source::Zeros })
    }

    /// Copies the bytes to the front of `out`, and returns the rest of it.
    pub(super) fn read<'a>(&self, out: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let (to, rest) = out.split_at_mut(self.len as usize);
        match &self.source {
            Source::Zeros => to.fill(0),
            Source::Memory { content, start, .. } => to.copy_from_slice(&content.plain()[*start..][..to.len()]),
            Source::Sealed { file, index, block, start } => {
                to.copy_from_slice(&opened(file, *index, *block)?.as_slice()[*start..][..to.len()]);
            }
        }
        Ok(rest)
    }

    fn crc64(&self) -> Result<u64, Error> {
        let len = self.len as usize;
        Ok(match &self.source {
            Source::Zeros => crc::of_zeros(self.len),
            Source::Memory { content, index, start } => {
                content.crc_of(*start..*start + len).ok_or(Error::Tampered { block: *index })?
            }
            Source::Sealed { block, .. } if len == block.len => block.crc,
            Source::Sealed { file, index, block, start } => {
                crc::of(&opened(file, *index, *block)?.as_slice()[*start..][..len])
            }
        })
    }

    /// `len` bytes of the piece: of zeros any, of a block all.
    fn chunk(&self, len: usize, in_flight: &InFlight) -> Result<Bytes, Error> {
        Ok(match &self.source {
            Source::Zeros => Bytes::from_static(&ZEROS[..len]),
            Source::Memory { content, start, .. } => {
                let shared = Shared { content: Arc::clone(content), _in_flight: in_flight.clone() };
                Bytes::from_owner(shared).slice(*start..*start + len)
            }
            Source::Sealed { file, index, block, start } => {
                Bytes::from(opened(file, *index, *block)?).slice(*start..*start + len)
            }
        })
    }
}

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A block in memory as the owner of a chunk.
struct Shared {
    content: Arc<Content>,
    _in_flight: InFlight,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.content.plain()
    }
}

fn opened(file: &SealedFile, index: u64, block: OnDisk) -> Result<PlainBuf, Error> {
    let mut plain = PlainBuf::with_capacity(block.len);
    block::open(file, index, block, &mut plain)?;
    Ok(plain)
}
