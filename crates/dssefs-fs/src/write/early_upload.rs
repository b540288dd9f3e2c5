//! Parts that are sent while the program goes on writing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::spill::{Buffer, RangeSet};
use dssefs_s3::object::Crc64;
use dssefs_s3::s3::{Part, Upload};

use super::parts::AppendLayout;
use super::{Error, Target};

/// The upload of a file that is written in sequence, begun while the program writes. The file is new, or the program
/// appends to an object whose bytes stay as they are: the commit copies them.
pub(crate) struct EarlyUpload {
    /// Begun by the first part's task. Shared with the tasks.
    pub(crate) upload: Arc<OnceCell<Upload>>,
    /// What the upload was, or will be, begun with.
    pub(crate) target: Target,
    pub(crate) layout: AppendLayout,
    parts: BTreeMap<u32, Progress>,
    next: u32,
    in_flight: usize,
    /// Why no more parts are sent ahead.
    pub(crate) failure: Option<Error>,
}

/// A part that the store has.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) part: Part,
    pub(crate) crc64: Crc64,
}

enum Progress {
    Sending { stale: bool },
    Sent(Sent),
}

impl EarlyUpload {
    pub(crate) fn new(target: Target, layout: AppendLayout) -> EarlyUpload {
        let upload = Arc::new(OnceCell::new());
        EarlyUpload {
            upload,
            target,
            layout,
            parts: BTreeMap::new(),
            next: layout.first(),
            in_flight: 0,
            failure: None,
        }
    }

    /// An upload that another process has begun, with the parts that it has sent.
    pub(crate) fn resumed(
        target: Target,
        layout: AppendLayout,
        upload: Upload,
        sent: impl IntoIterator<Item = Sent>,
    ) -> EarlyUpload {
        let parts: BTreeMap<u32, Progress> =
            sent.into_iter().map(|sent| (sent.part.number, Progress::Sent(sent))).collect();
        let next = (layout.first()..).find(|number| !parts.contains_key(number)).unwrap_or(layout.first());
        let upload = Arc::new(OnceCell::from(upload));
        EarlyUpload { upload, target, layout, parts, next, in_flight: 0, failure: None }
    }

    /// Whether bytes of `range` are among those that the commit copies from the object. Once one of them changes, the
    /// upload is of no use.
    pub(crate) fn copies(&self, range: &Range<u64>) -> bool {
        !range.is_empty() && range.start < self.layout.copied()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The next part that is wholly written and passed by, now marked as being sent. A part at the file's very end
    /// waits: it may grow, and a file of one part needs no upload.
    pub(crate) fn begin_ripe(&mut self, size: u64, buffer: &Buffer) -> Option<(u32, Range<u64>)> {
        // The parts that an earlier process has sent need not be the first ones.
        while self.parts.contains_key(&self.next) {
            self.next += 1;
        }
        let number = self.next;
        let range = self.layout.part(number)?;
        let ripe = self.failure.is_none() && range.end < size && buffer.contains(range.clone());
        ripe.then(|| {
            self.parts.insert(number, Progress::Sending { stale: false });
            self.in_flight += 1;
            self.next += 1;
            (number, range)
        })
    }

    /// Records what became of a part; true when it still is what the file says.
    pub(crate) fn settle(&mut self, number: u32, outcome: Result<Sent, Error>) -> bool {
        self.in_flight -= 1;
        let stale = matches!(self.parts.remove(&number), Some(Progress::Sending { stale: true }) | None);
        match outcome {
            Ok(_) if stale => false,
            Ok(sent) => {
                self.parts.insert(number, Progress::Sent(sent));
                true
            }
            // A part that was changed while it was being sent may fail for that reason alone.
            Err(_) if stale => false,
            Err(error) => {
                self.failure = Some(error);
                false
            }
        }
    }

    /// Forgets a part that could not be sent.
    pub(crate) fn forget(&mut self, number: u32) {
        self.in_flight -= 1;
        self.parts.remove(&number);
    }

    /// Forgets the parts that hold bytes of `range`, which has changed: they are sent again at the commit.
    pub(crate) fn touched(&mut self, range: &Range<u64>) {
        let mut changed = Vec::new();
        for (number, progress) in self.parts.range_mut(self.layout.numbers(range)) {
            match progress {
                Progress::Sending { stale } => *stale = true,
                Progress::Sent(_) => changed.push(*number),
            }
        }
        for number in changed {
            self.parts.remove(&number);
        }
    }

    /// Forgets the parts that reach past `size`, where the file now ends.
    pub(crate) fn cut(&mut self, size: u64) {
        self.touched(&(size..u64::MAX));
        self.next = self.next.min(self.layout.number_at(size));
    }

    /// Whether a part that `range` touches is in the store and not whole among what is `present` on this host.
    pub(crate) fn evicted(&self, range: &Range<u64>, present: &RangeSet) -> bool {
        self.sent_over(range).any(|part| !present.contains(part))
    }

    /// Prepares a change of `range`. The parts that it touches must be sent again, so all of their bytes stay on this
    /// host from now on. False when some are gone already.
    pub(crate) fn keep_whole(&self, range: &Range<u64>, buffer: &Buffer) -> bool {
        self.sent_over(range).all(|part| {
            buffer.unmark_uploaded(part.clone());
            buffer.contains(part)
        })
    }

    /// Prepares changes of the ranges `changed` and a cut to `size`, as [`EarlyUpload::keep_whole`] does. A part that
    /// goes as a whole is not needed. False when bytes of another one are gone, or are to be copied from the object.
    pub(crate) fn takes(&self, changed: &RangeSet, size: u64, buffer: &Buffer) -> bool {
        if size > 0 && (size < self.layout.copied() || changed.iter().any(|range| self.copies(&range))) {
            return false;
        }
        let is_touched = |part: &Range<u64>| {
            let (goes, is_replaced) = (part.start >= size, changed.contains(part.clone()));
            let stays = part.end <= size && changed.intersection(part.clone()).next().is_none();
            !(goes || is_replaced || stays)
        };
        self.sent_over(&(0..u64::MAX)).filter(is_touched).all(|part| {
            buffer.unmark_uploaded(part.clone());
            buffer.contains(part)
        })
    }

    /// The same for all parts, because the upload is about to go.
    pub(crate) fn keep_all_whole(&self, buffer: &Buffer) -> bool {
        self.keep_whole(&(0..u64::MAX), buffer)
    }

    /// The bytes of the sent parts that `range` touches. The last one of a file that a commit has sent may be shorter
    /// than its place.
    fn sent_over(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.parts.range(self.layout.numbers(range)).filter_map(|(number, progress)| match progress {
            Progress::Sent(sent) => {
                let place = self.layout.part(*number)?;
                Some(place.start..place.end.min(place.start + sent.part.size))
            }
            Progress::Sending { .. } => None,
        })
    }

    /// The parts that the store has of the file, which has `size` bytes now.
    pub(crate) fn sent_of(&self, size: u64) -> BTreeMap<u32, Sent> {
        let sent = |(number, range): (u32, Range<u64>)| {
            // One that ended the file before it grew is not what stands there now.
            let sent = self.sent(number).filter(|sent| sent.part.size == range.end - range.start)?;
            Some((number, sent.clone()))
        };
        self.layout.parts(size).filter_map(sent).collect()
    }

    /// Those of them that only the upload will have, so that the journal can name them. This host drops its bytes of
    /// full parts: they can then not change without a commit. The part that ends the file may grow, and stays here.
    pub(crate) fn sent_alone(&self, size: u64, buffer: &Buffer) -> BTreeMap<u32, Sent> {
        let is_alone = |number: u32| {
            let place = self.layout.part(number).unwrap_or(0..0);
            let range = place.start..place.end.min(size);
            if place.end <= size {
                buffer.discard(range.clone());
            } else if buffer.contains(range.clone()) {
                buffer.unmark_uploaded(range.clone());
            }
            !buffer.contains(range)
        };
        self.sent_of(size).into_iter().filter(|(number, _)| is_alone(*number)).collect()
    }

    /// The bytes of the sent parts that this host does not have whole.
    pub(crate) fn only_sent(&self, buffer: &Buffer) -> RangeSet {
        self.sent_over(&(0..u64::MAX)).filter(|part| !buffer.contains(part.clone())).collect()
    }

    fn sent(&self, number: u32) -> Option<&Sent> {
        match self.parts.get(&number) {
            Some(Progress::Sent(sent)) => Some(sent),
            _ => None,
        }
    }

    /// Records a part that the commit has sent.
    pub(crate) fn record(&mut self, number: u32, sent: Sent) {
        self.parts.insert(number, Progress::Sent(sent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spill::{Eviction, Limits, Pool};
    use dssefs_s3::object::{ETag, Key};
    use dssefs_s3::s3::NewObject;

    const MEMORY_BYTES: u64 = 40 << 20;
    const PART_BYTES: u64 = 16 << 20;

    /// A pool without a disk, a buffer in it with two whole parts that are uploaded, and their stream.
    fn uploaded() -> (Arc<Pool>, Buffer, EarlyUpload) {
        let limits = Limits { memory_bytes_max: MEMORY_BYTES, spill_bytes_max: 0 };
        let pool = Pool::new(&std::env::temp_dir(), limits).unwrap();
        let buffer = pool.buffer();
        let target = Target { object: NewObject::at(Key::new("k").unwrap()), exact: false };
        let mut stream = EarlyUpload::new(target, AppendLayout::behind(0).unwrap());
        for number in [1, 2] {
            let range = stream.layout.part(number).unwrap();
            for offset in range.clone().step_by(1 << 20) {
                buffer.write(offset, &vec![7; 1 << 20]).unwrap();
            }
            buffer.mark_uploaded(&buffer.snapshot(range).unwrap(), Eviction::First);
            let part = Part { number, etag: ETag::new("e"), size: PART_BYTES, crc64: Some(Crc64::from_value(0)) };
            stream.record(number, Sent { part, crc64: Crc64::from_value(0) });
        }
        (pool, buffer, stream)
    }

    /// Other files take all memory that they can get.
    fn press(pool: &Arc<Pool>) -> Buffer {
        let other = pool.buffer();
        let _ = (0..MEMORY_BYTES).step_by(1 << 20).try_for_each(|offset| other.write(offset, &vec![1; 1 << 20]));
        other
    }

    #[test]
    fn uploaded_parts_are_dropped_for_other_files() {
        let (pool, buffer, stream) = uploaded();
        let _other = press(&pool);
        assert!(stream.evicted(&(0..2 * PART_BYTES), &buffer.present()), "or the tests below show nothing");
        assert!(!stream.keep_all_whole(&buffer));
    }

    /// An upload that is given up takes the only copy of its parts with it.
    #[test]
    fn all_parts_stay_here_once_their_upload_is_about_to_go() {
        let (pool, buffer, stream) = uploaded();
        assert!(stream.keep_all_whole(&buffer));
        let _other = press(&pool);
        assert!(buffer.contains(0..2 * PART_BYTES));
        assert!(!stream.evicted(&(0..u64::MAX), &buffer.present()));
    }

    #[test]
    fn a_part_that_is_about_to_change_stays_whole_and_only_that_one() {
        let (pool, buffer, stream) = uploaded();
        assert!(stream.keep_whole(&(PART_BYTES - 1..PART_BYTES), &buffer));
        let _other = press(&pool);
        assert!(buffer.contains(0..PART_BYTES));
        assert!(!buffer.contains(PART_BYTES..2 * PART_BYTES));
    }

    #[test]
    fn a_change_at_the_edge_of_a_part_makes_that_part_alone_stale() {
        for (changed, left) in [
            (PART_BYTES - 1..PART_BYTES, &[2][..]),
            (PART_BYTES..PART_BYTES + 1, &[1]),
            (PART_BYTES - 1..PART_BYTES + 1, &[]),
            (2 * PART_BYTES..2 * PART_BYTES + 1, &[1, 2]),
        ] {
            let (_pool, _buffer, mut stream) = uploaded();
            stream.touched(&changed);
            assert_eq!(stream.sent_of(2 * PART_BYTES).into_keys().collect::<Vec<_>>(), left, "{changed:?}");
        }
    }

    #[test]
    fn a_part_is_sent_ahead_only_when_the_file_goes_on_behind_it() {
        let (_pool, buffer, _) = uploaded();
        let target = Target { object: NewObject::at(Key::new("k").unwrap()), exact: false };
        let mut stream = EarlyUpload::new(target, AppendLayout::behind(0).unwrap());
        assert_eq!(stream.begin_ripe(PART_BYTES, &buffer), None, "it may be the whole file");
        assert_eq!(stream.begin_ripe(PART_BYTES + 1, &buffer), Some((1, 0..PART_BYTES)));
        assert_eq!(stream.begin_ripe(2 * PART_BYTES, &buffer), None, "it may grow");
        assert_eq!(stream.in_flight(), 1);
    }
}
