//! Where the bytes of a file with changes are.

use std::ops::Range;
use std::sync::Arc;

use crate::spill::{self, RangeSet};

use super::state::State;
use super::{Base, Error, Piece, Writer};

impl Writer {
    /// Where the bytes of `range` are, up to the file's end, and the object that `Base` pieces belong to.
    ///
    /// # Errors
    /// Bytes that were given up after they were sent are made readable by a commit, which may fail.
    pub async fn locate(self: &Arc<Self>, range: Range<u64>) -> Result<(Vec<Piece>, Option<Base>), Error> {
        loop {
            {
                let state = self.state();
                let range = range.start..range.end.min(state.size);
                let present = self.buffer.present();
                if !state.stream.as_ref().is_some_and(|stream| stream.gave_up(&range, &present)) {
                    return Ok((pieces(&state, &present, &range)?, state.base.clone()));
                }
            }
            self.commit_for_access().await?;
        }
    }

    /// Copies bytes of a `Local` piece; false when they were given up since it was located.
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

    /// The parts of `range`, up to the file's end, that nobody ever wrote: they read as zeros.
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
