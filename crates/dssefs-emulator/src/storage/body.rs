//! Bytes of objects and parts: files that never change once written, and the ranges of them that make up a body.
//!
//! A body owns its files. Until a committed record names it ([`Body::keep`]), its files are removed with its last
//! holder: after an error, a cancelled request or a lost condition. The files of a replaced body are removed when the
//! last reader has finished. So neither writers nor readers clean up by hand.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::files::{private_file, random_hex};

/// A range of one file: `length` bytes from `offset`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Slice {
    file: String,
    offset: u64,
    length: u64,
}

/// The bytes of an object or a part, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Body {
    slices: Vec<Slice>,
    /// Where the files are that go with this body; `None` while a record names them.
    #[serde(skip)]
    doom: Mutex<Option<Arc<Path>>>,
}

impl Body {
    /// Length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.slices.iter().map(|slice| slice.length).sum()
    }

    /// A new body in `to` with the bytes `range` of this one in `from`. Files are linked, not copied, where the file
    /// system can; since files never change, a link is as good as a copy.
    pub(super) fn copy(&self, from: &Path, to: &Arc<Path>, range: Range<u64>) -> io::Result<Body> {
        let mut copy = Body { slices: Vec::new(), doom: Mutex::new(Some(Arc::clone(to))) };
        for slice in self.cut(range) {
            copy.slices.push(slice.duplicate(from, to)?);
        }
        Ok(copy)
    }

    /// The body that a record will name whose files other records (of parts) name until then: it is born kept.
    pub(super) fn joined<'a>(bodies: impl Iterator<Item = &'a Body>) -> Body {
        Body { slices: bodies.flat_map(|body| body.slices.iter().cloned()).collect(), doom: Mutex::new(None) }
    }

    /// A record names the files now.
    pub(super) fn keep(&self) {
        *self.lock() = None;
    }

    /// No record names the files any more: they go with the last holder of this body.
    pub(super) fn doom(&self, dir: &Arc<Path>) {
        *self.lock() = Some(Arc::clone(dir));
    }

    /// Names of the files.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.slices.iter().map(|slice| slice.file.as_str())
    }

    fn cut(&self, range: Range<u64>) -> Vec<Slice> {
        let mut start = 0;
        let mut cut = Vec::new();
        for slice in &self.slices {
            let from = range.start.clamp(start, start + slice.length);
            let to = range.end.clamp(start, start + slice.length);
            if from < to {
                cut.push(Slice { file: slice.file.clone(), offset: slice.offset + from - start, length: to - from });
            }
            start += slice.length;
        }
        cut
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Path>>> {
        // The lock covers one assignment; a panic cannot come in between.
        self.doom.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(dir) = self.lock().take() else { return };
        for file in self.files() {
            // A file that stays is named by no record: the next start sweeps it away.
            let _ = fs::remove_file(dir.join(file));
        }
    }
}

impl Slice {
    fn duplicate(&self, from: &Path, to: &Path) -> io::Result<Slice> {
        let file = random_hex::<16>()?;
        if fs::hard_link(from.join(&self.file), to.join(&file)).is_ok() {
            return Ok(Slice { file, ..self.clone() });
        }
        let mut source = File::open(from.join(&self.file))?;
        source.seek(SeekFrom::Start(self.offset))?;
        let mut target = private_file().create_new(true).open(to.join(&file))?;
        io::copy(&mut source.take(self.length), &mut target)?;
        Ok(Slice { file, offset: 0, length: self.length })
    }
}

/// Writes a new body. Dropped before [`finish`](BodyWriter::finish), it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct BodyWriter {
    file: File,
    body: Body,
}

impl BodyWriter {
    pub(super) fn create(dir: &Arc<Path>) -> io::Result<BodyWriter> {
        let name = random_hex::<16>()?;
        let file = private_file().create_new(true).open(dir.join(&name))?;
        let slices = vec![Slice { file: name, offset: 0, length: 0 }];
        Ok(BodyWriter { file, body: Body { slices, doom: Mutex::new(Some(Arc::clone(dir))) } })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.body.slices[0].length += bytes.len() as u64;
        Ok(())
    }

    /// The body as written so far.
    pub(crate) fn finish(self) -> Body {
        self.body
    }
}

/// Reads a range of a body, chunk by chunk; at most one file is open at a time.
#[derive(Debug)]
pub(crate) struct BodyReader {
    dir: Arc<Path>,
    slices: std::vec::IntoIter<Slice>,
    current: Option<io::Take<File>>,
    remaining: u64,
}

impl BodyReader {
    pub(super) fn new(dir: &Arc<Path>, body: &Body, range: Range<u64>) -> BodyReader {
        let slices = body.cut(range);
        let remaining = slices.iter().map(|slice| slice.length).sum();
        BodyReader { dir: Arc::clone(dir), slices: slices.into_iter(), current: None, remaining }
    }

    /// Bytes that are still to be read.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The next bytes, at most `bytes_max`; empty at the end.
    pub(crate) fn read(&mut self, bytes_max: u64) -> io::Result<Vec<u8>> {
        let wanted = self.remaining.min(bytes_max);
        let mut chunk = Vec::with_capacity(usize::try_from(wanted).map_err(io::Error::other)?);
        while (chunk.len() as u64) < wanted {
            let missing = wanted - chunk.len() as u64;
            let read = self.current_file()?.take(missing).read_to_end(&mut chunk)?;
            if self.current.as_ref().is_some_and(|file| file.limit() == 0) {
                self.current = None;
            } else if read == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "a body file is shorter than its record says",
                ));
            }
        }
        self.remaining -= wanted;
        Ok(chunk)
    }

    fn current_file(&mut self) -> io::Result<&mut io::Take<File>> {
        if self.current.is_none() {
            let slice = self.slices.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut file = File::open(self.dir.join(&slice.file))?;
            file.seek(SeekFrom::Start(slice.offset))?;
            self.current = Some(file.take(slice.length));
        }
        self.current.as_mut().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
