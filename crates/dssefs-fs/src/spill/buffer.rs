//! The buffer of one file.

use std::ops::Range;
use std::sync::Arc;

use super::block::Edit;
use super::contents::{Contents, Eviction};
use super::pressure::relieve;
use super::registry::Core;
use super::resources::Resources;
use super::{Error, RangeSet, Snapshot};

/// Where the content of a buffer is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// Nowhere: it has none.
    None,
    /// In memory only.
    Memory,
    /// Some of it is sealed on the local disk.
    Spilled,
}

/// What was written to one file and may not be in S3 yet: any bytes at any offsets. Empty at first.
///
/// All calls may be made from any thread; each is done as a whole before the next one begins. They do not wait for
/// anything but the local disk and each other, and other tasks go on meanwhile, so that they may be made from an
/// asynchronous task. Dropping the buffer drops its content, and its keys as soon as no snapshot needs them.
pub struct Buffer {
    core: Arc<Core>,
}

impl Buffer {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Buffer { core }
    }

    /// Keeps `data` at `offset`, all of it or, on an error, nothing.
    ///
    /// Under pressure this makes room first: it drops uploaded blocks of any buffer, then seals blocks of the buffers
    /// that hold the most.
    ///
    /// # Errors
    /// [`Error::Busy`]: wait for [`Pool::released`](super::Pool::released) and try again. [`Error::NoSpace`],
    /// [`Error::TooLong`], [`Error::BeyondEnd`]. [`Error::Tampered`] and [`Error::Io`] when a block that is partly
    /// overwritten cannot be read back.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let (bytes, bytes_max) = (data.len() as u64, self.core.resources.write_bytes_max());
        if bytes > bytes_max {
            return Err(Error::TooLong { bytes, bytes_max });
        }
        let end = offset.checked_add(bytes).ok_or(Error::BeyondEnd)?;
        self.edit(offset..end, Edit::Write(data))
    }

    /// Makes `range` zeros, whatever it was. They are present, and cost almost nothing: that they are zeros is known in
    /// memory, where no attacker can forge it. A hole is the same thing.
    ///
    /// # Errors
    /// As for [`Buffer::write`]: blocks that become zero only in part are changed in memory.
    pub fn zero(&self, range: Range<u64>) -> Result<(), Error> {
        self.edit(range, Edit::Zero)
    }

    /// Drops `range`: it is absent afterwards, and whole blocks of it give their memory and disk back.
    pub fn discard(&self, range: Range<u64>) {
        self.core.change(|contents| contents.discard(range));
    }

    /// The bytes that the buffer has.
    pub fn present(&self) -> RangeSet {
        self.core.change(|contents| contents.present().clone())
    }

    /// Whether the buffer has all bytes of `range`.
    pub fn contains(&self, range: Range<u64>) -> bool {
        self.core.change(|contents| contents.present().contains(range))
    }

    /// Copies the bytes at `offset` into `out`.
    ///
    /// # Errors
    /// [`Error::Absent`] unless all of them are present, [`Error::Tampered`], [`Error::Io`]. `out` is then worthless.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let end = offset.checked_add(out.len() as u64).ok_or(Error::BeyondEnd)?;
        self.core.change(|contents| {
            let pieces = contents.pieces(offset..end)?;
            pieces.iter().try_fold(out, |out, piece| piece.read(out)).map(drop)
        })
    }

    /// The content of `range` as it is now, for an upload that goes on while the buffer is changed.
    ///
    /// # Errors
    /// [`Error::Absent`] unless all of `range` is present.
    pub fn snapshot(&self, range: Range<u64>) -> Result<Snapshot, Error> {
        let pieces = self.core.change(|contents| contents.pieces(range.clone()))?;
        Ok(Snapshot::new(range, pieces, self.core.resources.in_flight()))
    }

    /// The bytes of `snapshot`, one of this buffer, are safely elsewhere. Those that were not changed since may be
    /// dropped under pressure, at the time that `eviction` says, and are then no longer present. Without pressure they
    /// stay.
    pub fn mark_uploaded(&self, snapshot: &Snapshot, eviction: Eviction) {
        self.core.change(|contents| contents.mark_uploaded(snapshot.start(), snapshot.pieces(), eviction));
    }

    /// The other copy of `range` is about to go: what is present of it stays, under pressure too. The caller checks
    /// afterwards what is present, since some of it may have been dropped before.
    pub fn unmark_uploaded(&self, range: Range<u64>) {
        self.core.change(|contents| contents.unmark_uploaded(range));
    }

    /// Where the content is.
    pub fn location(&self) -> Location {
        self.core.change(|contents| {
            let spilled = contents.file().is_some_and(|file| file.blocks() > 0);
            match (contents.present().is_empty(), spilled) {
                (true, _) => Location::None,
                (false, true) => Location::Spilled,
                (false, false) => Location::Memory,
            }
        })
    }

    /// Takes all that `other` has, which is empty afterwards, in the place of what this buffer had. Needs no room.
    pub fn take_over(&self, other: &Buffer) {
        let contents = other.core.change(std::mem::take);
        // The old content is dropped after the lock, as in `clear`.
        drop(self.core.change(|old| std::mem::replace(old, contents)));
    }

    /// Moves the first bytes of `other` over what this buffer has there, and returns where they are; None when `other`
    /// is empty. It moves a block at most, or zeros that lie in none.
    ///
    /// # Errors
    /// As for [`Buffer::write`] and [`Snapshot::chunks`](super::Snapshot::chunks). `other` still has the bytes then.
    pub fn absorb_some(&self, other: &Buffer) -> Result<Option<Range<u64>>, Error> {
        let Some((run, in_block)) = other.core.change(|contents| contents.first_run()) else { return Ok(None) };
        if in_block {
            other.snapshot(run.clone())?.hand_over(|offset, chunk| self.write(offset, chunk))?;
        } else {
            self.zero(run.clone())?;
        }
        other.discard(run.clone());
        Ok(Some(run))
    }

    /// Drops everything. The keys are wiped when the last snapshot is gone; what spills after this is sealed under new
    /// ones.
    pub fn clear(&self) {
        // The old content is dropped after the lock: closing a large file takes its time.
        drop(self.core.change(std::mem::take));
    }

    fn edit(&self, range: Range<u64>, edit: Edit<'_>) -> Result<(), Error> {
        if range.end > OFFSET_MAX {
            return Err(Error::BeyondEnd);
        }
        if range.is_empty() {
            return Ok(());
        }
        for _ in 0..RELIEF_ROUNDS_MAX {
            match self.core.relieve_with(|contents| try_edit(&self.core.resources, contents, range.clone(), edit)) {
                // Nothing was freed, so no notice is due: it would first wake the caller that is about to wait here.
                Ok(Edited::Starved { needed_bytes }) => relieve(&self.core, needed_bytes)?,
                Ok(Edited::Done) => {
                    self.core.resources.settle();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy)
    }
}

#[cfg(test)]
impl Buffer {
    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Flips a bit of the byte at `offset`, which is in memory and in no snapshot.
    pub(super) fn damage(&self, offset: u64) {
        self.core.change(|contents| contents.damage(offset));
    }
}

/// The largest offset that the kernel passes on (loff_t).
const OFFSET_MAX: u64 = i64::MAX as u64;

/// How often an edit may find that other edits took the memory that it had freed.
const RELIEF_ROUNDS_MAX: usize = 100;

enum Edited {
    Done,
    Starved { needed_bytes: u64 },
}

fn try_edit(
    resources: &Resources,
    contents: &mut Contents,
    range: Range<u64>,
    edit: Edit<'_>,
) -> Result<Edited, Error> {
    let needed_bytes = contents.memory_needed(range.clone(), edit);
    match resources.charge_memory(needed_bytes) {
        Some(memory) => contents.edit(range, edit, memory).map(|()| Edited::Done),
        None => Ok(Edited::Starved { needed_bytes }),
    }
}
