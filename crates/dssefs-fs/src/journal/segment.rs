//! One file of the journal: a header in clear and sealed records one after the other.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use dssefs_seal::crypto::{BlockId, OVERHEAD_BYTES, PLAIN_BYTES_MAX, SealedBlock};

use super::{Error, at, disk};

/// Bytes before the first record: magic and version, and the number of the first record.
pub(super) const HEADER_BYTES: u64 = 16;
/// Bytes of a record's length, which stands in clear before it.
pub(super) const LENGTH_BYTES: u64 = 4;

const MAGIC: [u8; 8] = *b"dssefsj1";
const SEALED_BYTES_MAX: usize = PLAIN_BYTES_MAX + OVERHEAD_BYTES;

/// Where the segment `number` of a session lies.
pub(super) fn path(session: &Path, number: u32) -> PathBuf {
    session.join(format!("segment-{number:08}"))
}

/// The way back from a file's name, for those that [`path`] gives.
pub(super) fn number(name: &str) -> Option<u32> {
    let number = name.strip_prefix("segment-")?.parse().ok()?;
    path(Path::new(""), number).as_os_str().eq(name).then_some(number)
}

/// The record that follows the one before `after`, with `cut_off` numbers between them that were given to others. So
/// each says which one it follows.
pub(super) fn block(after: u64, cut_off: u64) -> BlockId {
    BlockId { index: after + cut_off, generation: cut_off }
}

/// The record that `sealed` says it is, in the place after the record before `after`. It opens as no other.
pub(super) fn claimed(after: u64, sealed: &SealedBlock) -> Option<BlockId> {
    let cut_off = sealed.generation()?;
    Some(BlockId { index: after.checked_add(cut_off)?, generation: cut_off })
}

/// The first bytes of a segment whose first record is `first_record`.
pub(super) fn header(first_record: u64) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..].copy_from_slice(&first_record.to_be_bytes());
    bytes
}

/// A sealed record with its length before it.
pub(super) fn framed(sealed: &SealedBlock) -> Vec<u8> {
    let bytes = sealed.as_bytes();
    let length = u32::try_from(bytes.len()).expect("a sealed block is shorter than 4 GiB");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// What lies at one place of a segment.
pub(super) enum Found {
    /// A whole record, still sealed, and where the next one begins.
    Record(SealedBlock, u64),
    /// The end of the file.
    End,
    /// Bytes that make no whole record.
    Torn,
}

/// A segment to be read.
pub(super) struct Reader {
    file: File,
    pub(super) bytes: u64,
    pub(super) path: PathBuf,
    pub(super) first_record: u64,
}

impl Reader {
    /// None when not even the header is whole: the process died while it began the segment.
    pub(super) fn open(path: PathBuf) -> Result<Option<Reader>, Error> {
        let file = match disk::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::Tampered { path, offset: 0 });
            }
            opened => opened.map_err(at(&path))?,
        };
        let bytes = file.metadata().map_err(at(&path))?.len();
        let mut header = [0; HEADER_BYTES as usize];
        match disk::read_at(&file, &path, &mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(at(&path))?,
        }
        let (magic, first_record) = header.split_at(8);
        if magic != MAGIC {
            return Err(Error::Tampered { path, offset: 0 });
        }
        let first_record = u64::from_be_bytes(first_record.try_into().expect("eight bytes are left"));
        Ok(Some(Reader { file, bytes, path, first_record }))
    }

    pub(super) fn record_at(&self, offset: u64) -> Result<Found, Error> {
        if offset == self.bytes {
            return Ok(Found::End);
        }
        let mut length = [0; LENGTH_BYTES as usize];
        if offset + LENGTH_BYTES > self.bytes {
            return Ok(Found::Torn);
        }
        if !self.read(&mut length, offset)? {
            return Ok(Found::Torn);
        }
        let length = u32::from_be_bytes(length) as usize;
        let end = offset + LENGTH_BYTES + length as u64;
        if end > self.bytes || !(OVERHEAD_BYTES..=SEALED_BYTES_MAX).contains(&length) {
            return Ok(Found::Torn);
        }
        let mut bytes = vec![0; length];
        let whole = self.read(&mut bytes, offset + LENGTH_BYTES)?;
        Ok(if whole { Found::Record(SealedBlock::claimed(bytes), end) } else { Found::Torn })
    }

    /// False when the file ends before: a process that lives may have cut it since it was opened.
    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<bool, Error> {
        match disk::read_at(&self.file, &self.path, bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| true).map_err(at(&self.path)),
        }
    }
}
