//! Where the bytes of a file with changes are.

use std::ops::Range;

use crate::spill::{self, Buffer, RangeSet};

use super::early_upload::EarlyUpload;
use super::state::State;
use super::{Base, Error, Piece, Writer};

/// Where bytes are, and the object under them.
type Located = (Vec<Piece>, Option<Base>);

impl Writer {
    /// Where the bytes of `range` are, up to the file's end, and the object that `Base` pieces belong to.
    ///
    /// # Errors
    /// [`Error::InUpload`] when some were evicted after they were sent.
    pub fn locate(&self, range: Range<u64>) -> Result<Located, Error> {
        // The destination is asked without the mutex.
        self.locate_now(&range)?.ok_or_else(|| self.in_upload())
    }

    /// None when some of the bytes were evicted.
    fn locate_now(&self, range: &Range<u64>) -> Result<Option<Located>, Error> {
        let state = self.state();
        let range = range.start..range.end.min(state.size_now());
        let mut present = self.buffer.present();
        present.remove(state.stands_below()..u64::MAX);
        self.since.present().iter().for_each(|since| present.insert(since));
        let evicted = |early_upload: &EarlyUpload, gap: Range<u64>| {
            early_upload.evicted(&(gap.start..gap.end.min(state.stands_below()).max(gap.start)), &present)
        };
        if let Some(early_upload) = &state.early_upload
            && present.gaps(range.clone()).any(|gap| evicted(early_upload, gap))
        {
            return Ok(None);
        }
        Ok(Some((pieces(&state, &present, &range)?, state.base.clone())))
    }

    /// Whether some bytes were evicted: they are in the unfinished upload only.
    pub(super) fn has_evicted(&self) -> bool {
        let state = self.state();
        state
            .early_upload
            .as_ref()
            .is_some_and(|early_upload| early_upload.evicted(&(0..u64::MAX), &self.buffer.present()))
    }

    /// Copies bytes of a `Local` piece. False when they were evicted since it was located.
    ///
    /// # Errors
    /// The spill cannot be read, or was tampered with.
    pub fn read_local(&self, offset: u64, out: &mut [u8]) -> Result<bool, Error> {
        let end = offset.saturating_add(out.len() as u64);
        let since = self.since.present();
        // 1. What the file was promised to be, where nothing was changed since.
        for gap in since.gaps(offset..end) {
            if !read(&self.buffer, &gap, &mut out[within(offset, &gap)])? {
                return Ok(false);
            }
        }
        // 2. What was changed since.
        for changed in since.intersection(offset..end) {
            if !read(&self.since, &changed, &mut out[within(offset, &changed)])? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The holes of `range`, up to the file's end: no program wrote them, and they read as zeros.
    #[must_use]
    pub fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let state = self.state();
        let mut data = self.buffer.present();
        data.insert(0..state.base_len);
        data.remove(state.stands_below()..u64::MAX);
        state.written_now().iter().for_each(|written| data.insert(written));
        data.gaps(range.start..range.end.min(state.size_now()).max(range.start)).collect()
    }
}

/// False when the buffer does not have the bytes any more.
fn read(buffer: &Buffer, range: &Range<u64>, out: &mut [u8]) -> Result<bool, Error> {
    match buffer.read(range.start, out) {
        Ok(()) => Ok(true),
        Err(spill::Error::Absent { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Where `range` is in what was read from `offset` on, which the kernel limits to far less than a usize.
fn within(offset: u64, range: &Range<u64>) -> Range<usize> {
    let at = |position: u64| usize::try_from(position - offset).unwrap_or(usize::MAX);
    at(range.start)..at(range.end)
}

fn push(pieces: &mut Vec<Piece>, range: Range<u64>, kind: impl Fn(Range<u64>) -> Piece) {
    if !range.is_empty() {
        pieces.push(kind(range));
    }
}

/// Where the bytes of `range` are. What was written and is neither here nor in the base must not read as zeros.
fn pieces(state: &State, present: &RangeSet, range: &Range<u64>) -> Result<Vec<Piece>, Error> {
    let (mut pieces, written) = (Vec::new(), state.written_now());
    let (base_len, mut at) = (state.base_len.min(state.stands_below()), range.start);
    for gap in present.gaps(range.clone()) {
        push(&mut pieces, at..gap.start, Piece::Local);
        let base_end = gap.end.min(base_len).max(gap.start);
        push(&mut pieces, gap.start..base_end, Piece::Base);
        if written.intersection(base_end..gap.end).next().is_some() {
            return Err(Error::Incomplete { start: base_end, end: gap.end });
        }
        push(&mut pieces, base_end..gap.end, Piece::Zero);
        at = gap.end;
    }
    push(&mut pieces, at..range.end.max(at), Piece::Local);
    Ok(pieces)
}
