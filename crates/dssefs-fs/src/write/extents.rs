//! Where the bytes of a file with changes are.

use std::ops::Range;

use crate::spill::{self, RangeSet};

use super::state::State;
use super::{Base, Error, Piece, Writer};

/// Where bytes are, and the object under them.
type Located = (Vec<Piece>, Option<Base>);

impl Writer {
    /// Where the bytes of `range` are, up to the file's end, and the object that `Base` pieces belong to.
    ///
    /// # Errors
    /// [`Error::CommitFirst`] when some were evicted after they were sent.
    pub fn locate(&self, range: Range<u64>) -> Result<Located, Error> {
        // The destination is asked without the mutex.
        self.locate_now(&range)?.ok_or_else(|| self.commit_first())
    }

    /// None when some of the bytes were evicted.
    fn locate_now(&self, range: &Range<u64>) -> Result<Option<Located>, Error> {
        let state = self.state();
        let range = range.start..range.end.min(state.size);
        let present = self.buffer.present();
        if state.early_upload.as_ref().is_some_and(|early_upload| early_upload.evicted(&range, &present)) {
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
        match self.buffer.read(offset, out) {
            Ok(()) => Ok(true),
            Err(spill::Error::Absent { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The holes of `range`, up to the file's end: no program wrote them, and they read as zeros.
    #[must_use]
    pub fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let state = self.state();
        let mut data = state.written.clone();
        data.insert(0..state.base_len);
        self.buffer.present().iter().for_each(|present| data.insert(present));
        data.gaps(range.start..range.end.min(state.size).max(range.start)).collect()
    }
}

fn push(pieces: &mut Vec<Piece>, range: Range<u64>, kind: impl Fn(Range<u64>) -> Piece) {
    if !range.is_empty() {
        pieces.push(kind(range));
    }
}

/// Where the bytes of `range` are. What was written and is neither here nor in the base must not read as zeros.
fn pieces(state: &State, present: &RangeSet, range: &Range<u64>) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::new();
    let mut at = range.start;
    for gap in present.gaps(range.clone()) {
        push(&mut pieces, at..gap.start, Piece::Local);
        let base_end = gap.end.min(state.base_len).max(gap.start);
        push(&mut pieces, gap.start..base_end, Piece::Base);
        if state.written.intersection(base_end..gap.end).next().is_some() {
            return Err(Error::Incomplete { start: base_end, end: gap.end });
        }
        push(&mut pieces, base_end..gap.end, Piece::Zero);
        at = gap.end;
    }
    push(&mut pieces, at..range.end.max(at), Piece::Local);
    Ok(pieces)
}
