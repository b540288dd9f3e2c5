//! Which bytes go into which part: pure arithmetic over S3's limits.
//!
//! Two planners make parts, and each serves some appends:
//!
//! * [`AppendLayout`] serves bytes that are written in sequence, while the program writes: a new file, or an append to
//!   an object whose own bytes stay untouched, once more than 16 MiB (`SINGLE_PUT_BYTES_MAX`) follow the object. Each
//!   part has its place before the file's end is known, so it is sent as soon as it is full. The object before them is
//!   copied when the file is committed. The layout does not serve an object that is shorter than the smallest part
//!   (5 MiB): its bytes are read, and the parts begin at 0. `State::layout` decides.
//! * [`plan`] serves all other files of more than 16 MiB, at commit: a shorter append to a large object, and changes in
//!   the middle. It knows the whole file, copies unchanged runs and sends the rest. (An unchanged copy of another
//!   object needs no parts: it is one CopyObject.)
//!
//! A file of at most 16 MiB has no parts: one PutObject stores it whole, appended bytes and all.
//!
//! "Amazon S3 multipart upload limits" (S3 User Guide): parts of 5 MiB to 5 GiB, the last one free, numbered 1 to
//! 10,000.

use std::ops::Range;

use crate::spill::RangeSet;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// The smallest part that may be followed by another, in bytes.
pub(crate) const PART_BYTES_MIN: u64 = 5 * MIB;
/// The largest part, in bytes.
pub(crate) const PART_BYTES_MAX: u64 = 5 * GIB;
/// The highest part number.
pub(crate) const PARTS_MAX: u64 = 10_000;
/// A file up to this many bytes is sent with one PutObject.
pub(crate) const SINGLE_PUT_BYTES_MAX: u64 = 16 * MIB;
/// A run of unchanged bytes shorter than this is sent again instead of copied, because a copied part is one more
/// request and its neighbours may have to borrow 5 MiB of it.
const COPY_BYTES_MIN: u64 = 2 * PART_BYTES_MIN;
/// A copied part. S3 takes 5 GiB, smaller ones are copied side by side.
const COPY_PART_BYTES: u64 = GIB;

/// The parts of a file that is written from its beginning: the length of each, and how many of that length. Small ones
/// first, so that the upload starts early; large ones later, so that 10,000 of them reach 5.6 TiB. A larger file needs
/// a new commit behind what is stored.
const SCHEDULE: [(u64, u64); 4] = [(16 * MIB, 1_000), (64 * MIB, 2_000), (256 * MIB, 2_000), (GIB, 5_000)];

/// The largest file, in bytes: 10,000 parts of 5 GiB, which is S3's own limit (48.8 TiB).
pub const OBJECT_BYTES_MAX: u64 = PARTS_MAX * PART_BYTES_MAX;

/// The most that one part copies of the object before an append, up to [`HEAD_BYTES_MAX`] of it. Entries of journals
/// number their parts by it.
const HEAD_PART_BYTES: u64 = 4 * GIB;
/// The longest object, in bytes, whose copies have at most [`HEAD_PART_BYTES`]. Those of a longer one have 5 GiB, so
/// that parts are left for what follows it.
const HEAD_BYTES_MAX: u64 = PARTS_MAX / 2 * HEAD_PART_BYTES;

/// The parts of a file that is written in sequence. Its first bytes may be those of an object, which the first parts
/// copy. The schedule follows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppendLayout {
    copied: u64,
}

impl AppendLayout {
    /// Of a file whose first `copied` bytes come from an object; none where these are too few for a part that others
    /// follow, or leave no part for what follows.
    pub(crate) fn behind(copied: u64) -> Option<AppendLayout> {
        let layout = AppendLayout { copied };
        let fits = copied == 0 || copied >= PART_BYTES_MIN;
        (fits && u64::from(layout.copies()) < PARTS_MAX).then_some(layout)
    }

    /// The largest file that its parts can make, in bytes.
    pub(crate) fn end(self) -> u64 {
        let last = u32::try_from(PARTS_MAX).unwrap_or(u32::MAX);
        self.part(last).map_or(self.copied, |part| part.end)
    }

    /// How many bytes come from the object.
    pub(crate) fn copied(self) -> u64 {
        self.copied
    }

    /// The number of the first part behind the copied ones.
    pub(crate) fn first(self) -> u32 {
        self.copies() + 1
    }

    /// The bytes of part `number` (1 to 10,000); none past the last part, and none past the largest file's end.
    pub(crate) fn part(self, number: u32) -> Option<Range<u64>> {
        if (1..=self.copies()).contains(&number) {
            return Some(piece(&(0..self.copied), self.copies().into(), u64::from(number) - 1));
        }
        let range = scheduled(number.checked_sub(self.copies())?)?;
        let range = self.copied + range.start..(self.copied + range.end).min(OBJECT_BYTES_MAX);
        (u64::from(number) <= PARTS_MAX && !range.is_empty()).then_some(range)
    }

    /// All parts of a file of `size` bytes, the last one cut to it. An empty file has none.
    pub(crate) fn parts(self, size: u64) -> impl Iterator<Item = (u32, Range<u64>)> {
        (1..)
            .map_while(move |number| self.part(number).map(|range| (number, range)))
            .map(move |(number, range)| (number, range.start..range.end.min(size)))
            .take_while(|(_, range)| !range.is_empty())
    }

    /// The numbers of the parts behind the copied ones that hold bytes of `range`.
    pub(crate) fn numbers(self, range: &Range<u64>) -> Range<u32> {
        let range = range.start.max(self.copied)..range.end;
        if range.is_empty() { 0..0 } else { self.number_at(range.start)..self.number_at(range.end - 1) + 1 }
    }

    /// The number of the part that holds the byte at `offset`, which lies behind the copied ones.
    pub(crate) fn number_at(self, offset: u64) -> u32 {
        self.copies() + scheduled_at(offset.saturating_sub(self.copied))
    }

    fn copies(self) -> u32 {
        let length = if self.copied <= HEAD_BYTES_MAX { HEAD_PART_BYTES } else { PART_BYTES_MAX };
        u32::try_from(self.copied.div_ceil(length)).unwrap_or(u32::MAX)
    }
}

/// The bytes of part `number` (1 to 10,000) of a file that is written from its beginning; none past the last part.
fn scheduled(number: u32) -> Option<Range<u64>> {
    let mut index = u64::from(number).checked_sub(1)?;
    let mut start = 0;
    for (length, count) in SCHEDULE {
        if index < count {
            let start = start + index * length;
            return Some(start..start + length);
        }
        index -= count;
        start += count * length;
    }
    None
}

/// The number of the scheduled part that holds the byte at `offset`; the last one's for offsets past the schedule.
fn scheduled_at(offset: u64) -> u32 {
    let (mut start, mut number) = (0, 1);
    for (length, count) in SCHEDULE {
        let index = (offset - start) / length;
        if index < count {
            return u32::try_from(number + index).unwrap_or(u32::MAX);
        }
        start += count * length;
        number += count;
    }
    u32::try_from(PARTS_MAX).unwrap_or(u32::MAX)
}

/// One part of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    /// These bytes are sent.
    Put(Range<u64>),
    /// These bytes are copied from the same place of the object that is updated.
    Copy(Range<u64>),
}

impl Planned {
    pub(crate) fn range(&self) -> &Range<u64> {
        match self {
            Planned::Put(range) | Planned::Copy(range) => range,
        }
    }
}

/// How to make a file of `size` bytes from the first `base_len` bytes of an object and from `present`, the bytes that
/// were written over it. The parts cover `0..size` in order and respect S3's limits; a `Put`
/// may contain bytes of the object, which then must be read first.
pub(crate) fn plan(size: u64, base_len: u64, present: &RangeSet) -> Vec<Planned> {
    let unchanged = unchanged_runs(size, base_len, present);
    let mut copy_min = COPY_BYTES_MIN;
    loop {
        let parts = plan_with(size, &unchanged, copy_min);
        if parts.len() as u64 <= PARTS_MAX {
            return parts;
        }
        copy_min *= 2;
    }
}

/// The runs of the object's own bytes that nothing was written over.
fn unchanged_runs(size: u64, base_len: u64, present: &RangeSet) -> Vec<Range<u64>> {
    present.gaps(0..base_len.min(size)).collect()
}

fn plan_with(size: u64, unchanged: &[Range<u64>], copy_min: u64) -> Vec<Planned> {
    let mut parts = Vec::new();
    let mut sent_from = 0;
    for run in unchanged {
        let Some(copied) = copyable(run, sent_from, size) else { continue };
        if copied.end - copied.start < copy_min {
            continue;
        }
        put_parts(sent_from..copied.start, size, &mut parts);
        copy_parts(copied.clone(), size, &mut parts);
        sent_from = copied.end;
    }
    put_parts(sent_from..size, size, &mut parts);
    parts
}

/// What of the unchanged `run` can be copied, when the bytes since `sent_from` have to be sent before it: the bytes
/// sent before must make 5 MiB, and so must those sent after it unless they are the last.
fn copyable(run: &Range<u64>, sent_from: u64, size: u64) -> Option<Range<u64>> {
    let before = run.start - sent_from;
    let start = if before == 0 { run.start } else { run.start.max(sent_from + PART_BYTES_MIN) };
    let fits = start < run.end && (run.end == size || run.end - start >= PART_BYTES_MIN);
    fits.then_some(start..run.end)
}

/// Cuts `range` into parts to send: none below 5 MiB unless it ends the file, none above what 10,000 parts of the file
/// need.
fn put_parts(range: Range<u64>, size: u64, parts: &mut Vec<Planned>) {
    cut(range, part_bytes(16 * MIB, size), |part| parts.push(Planned::Put(part)));
}

fn copy_parts(range: Range<u64>, size: u64, parts: &mut Vec<Planned>) {
    cut(range, part_bytes(COPY_PART_BYTES, size), |part| parts.push(Planned::Copy(part)));
}

/// The length of the parts of a file of `size` bytes: `wanted`, or so much that half of the part numbers stay free for
/// the pieces between changes, up to what S3 takes.
fn part_bytes(wanted: u64, size: u64) -> u64 {
    wanted.max(size.div_ceil(PARTS_MAX / 2).next_multiple_of(MIB)).min(PART_BYTES_MAX)
}

/// Cuts `range` into equal pieces of at most `target` bytes. Pieces of one range differ by at most one byte, so that
/// none falls below half of `target`, which is above 5 MiB.
fn cut(range: Range<u64>, target: u64, mut each: impl FnMut(Range<u64>)) {
    let length = range.end - range.start;
    let count = length.div_ceil(target);
    (0..count).for_each(|index| each(piece(&range, count, index)));
}

/// Piece `index` of `count` of about the same length.
fn piece(range: &Range<u64>, count: u64, index: u64) -> Range<u64> {
    let length = range.end - range.start;
    range.start + length * index / count..range.start + length * (index + 1) / count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(present: impl IntoIterator<Item = Range<u64>>) -> RangeSet {
        let mut set = RangeSet::default();
        for range in present {
            set.insert(range);
        }
        set
    }

    fn sent(parts: &[Planned]) -> u64 {
        parts.iter().map(|p| if let Planned::Put(r) = p { r.end - r.start } else { 0 }).sum()
    }

    fn check(size: u64, base_len: u64, present: &RangeSet) -> Vec<Planned> {
        let parts = plan(size, base_len, present);
        let mut at = 0;
        for (index, part) in parts.iter().enumerate() {
            let Range { start, end } = part.range().clone();
            assert_eq!(start, at, "parts follow each other");
            assert!(end > start && end - start <= 5 * GIB);
            assert!(end - start >= PART_BYTES_MIN || index + 1 == parts.len(), "a part of {} bytes", end - start);
            if let Planned::Copy(copied) = part {
                assert!(copied.end <= base_len);
                assert!(present.gaps(copied.clone()).eq(std::iter::once(copied.clone())), "a copied part is unchanged");
            }
            at = end;
        }
        assert_eq!(at, size);
        assert!(parts.len() as u64 <= PARTS_MAX);
        parts
    }

    #[test]
    fn the_schedule_has_ten_thousand_parts_without_gaps() {
        let mut end = 0;
        for number in 1..=10_000 {
            let part = scheduled(number).unwrap();
            assert_eq!(part.start, end);
            assert!(part.end - part.start <= 5 * GIB);
            end = part.end;
        }
        assert_eq!(end, AppendLayout::behind(0).unwrap().end());
        assert_eq!(scheduled(10_001), None);
        assert_eq!(scheduled(0), None);
    }

    #[test]
    fn a_grid_is_cut_to_the_file() {
        let layout = AppendLayout::behind(0).unwrap();
        assert_eq!(layout.parts(0).count(), 0);
        assert_eq!(layout.parts(1).collect::<Vec<_>>(), [(1, 0..1)]);
        assert_eq!(layout.parts(16 * MIB).collect::<Vec<_>>(), [(1, 0..16 * MIB)]);
        assert_eq!(layout.parts(16 * MIB + 1).last(), Some((2, 16 * MIB..16 * MIB + 1)));
        let behind = AppendLayout::behind(10 * MIB).unwrap();
        let parts = [(1, 0..10 * MIB), (2, 10 * MIB..26 * MIB), (3, 26 * MIB..27 * MIB)];
        assert_eq!(behind.parts(27 * MIB).collect::<Vec<_>>(), parts);
        assert_eq!(behind.parts(10 * MIB).collect::<Vec<_>>(), [(1, 0..10 * MIB)]);
        assert_eq!(AppendLayout::behind(PART_BYTES_MIN - 1), None);
    }

    #[test]
    fn behind_an_object_of_any_length_the_largest_file_has_legal_parts() {
        const LONGEST: u64 = (PARTS_MAX - 1) * PART_BYTES_MAX;
        let short = [0, 5 * MIB, 16 * MIB + 1, GIB - 1, GIB, 4 * GIB, 4 * GIB + 1, 100 * GIB + 7, 5_734 * GIB];
        let long = [HEAD_BYTES_MAX, HEAD_BYTES_MAX + 1, 30_000 * GIB + 7, LONGEST - 1, LONGEST];
        for copied in short.into_iter().chain(long) {
            let layout = AppendLayout::behind(copied).unwrap();
            let (mut end, largest) = (0, layout.end());
            assert!(largest > copied && largest <= OBJECT_BYTES_MAX, "behind {copied}");
            for (number, part) in layout.parts(largest) {
                assert_eq!(part.start, end, "part {number} behind {copied}");
                assert!(part.end - part.start <= 5 * GIB, "part {number} behind {copied}");
                assert!(part.end - part.start >= PART_BYTES_MIN || part.end == largest);
                assert!(u64::from(number) <= PARTS_MAX);
                assert_eq!(part.end <= copied, number < layout.first(), "part {number} behind {copied}");
                if number >= layout.first() && u64::from(number) < PARTS_MAX {
                    assert_eq!(layout.numbers(&part), number..number + 1);
                }
                end = part.end;
            }
            assert_eq!(end, largest, "behind {copied}");
        }
        assert_eq!(AppendLayout::behind(LONGEST + 1), None, "no part is left for what follows");
        assert_eq!(AppendLayout::behind(OBJECT_BYTES_MAX), None);
    }

    /// Parts of size/5,000 passed 5 GiB from 26.8 TB on, and S3 refused them.
    #[test]
    fn a_plan_up_to_the_largest_object_has_legal_parts() {
        const LAST_BEFORE: u64 = PARTS_MAX / 2 * PART_BYTES_MAX;
        for size in [LAST_BEFORE - 1, LAST_BEFORE, LAST_BEFORE + 1, 40_000 * GIB, OBJECT_BYTES_MAX] {
            check(size, size, &ranges(std::iter::empty()));
            check(size, 0, &ranges(std::iter::empty()));
            check(size, size - 1, &ranges(std::iter::once(size - 1..size)));
            check(size, size, &ranges(std::iter::once(size / 2..size / 2 + 1)));
        }
    }

    #[test]
    fn copied_bytes_have_no_number_among_the_parts_that_are_sent() {
        let layout = AppendLayout::behind(10 * MIB).unwrap();
        assert!(layout.numbers(&(0..10 * MIB)).is_empty());
        assert_eq!(layout.numbers(&(0..10 * MIB + 1)), 2..3);
        assert_eq!(layout.numbers(&(26 * MIB - 1..26 * MIB + 1)), 2..4);
    }

    #[test]
    fn the_schedule_is_found_by_offset() {
        for number in [1, 2, 1_000, 1_001, 3_000, 3_001, 5_000, 5_001, 10_000] {
            let part = scheduled(number).unwrap();
            assert_eq!(scheduled_at(part.start), number);
            assert_eq!(scheduled_at(part.end - 1), number);
        }
    }

    #[test]
    fn one_byte_in_a_gibibyte_sends_five_mebibytes() {
        let parts = check(GIB, GIB, &ranges(std::iter::once(512 * MIB..512 * MIB + 1)));
        assert_eq!(parts.len(), 3);
        assert_eq!(sent(&parts), PART_BYTES_MIN);
        let first = check(GIB, GIB, &ranges(std::iter::once(0..1)));
        assert_eq!(sent(&first), PART_BYTES_MIN);
    }

    #[test]
    fn one_byte_appended_sends_one_byte() {
        let parts = check(GIB + 1, GIB, &ranges(std::iter::once(GIB..GIB + 1)));
        assert_eq!(parts, [Planned::Copy(0..GIB), Planned::Put(GIB..GIB + 1)]);
    }

    #[test]
    fn a_changed_last_byte_does_not_cut_the_copy_short() {
        let parts = check(GIB, GIB, &ranges(std::iter::once(GIB - 1..GIB)));
        assert_eq!(parts, [Planned::Copy(0..GIB - 1), Planned::Put(GIB - 1..GIB)]);
    }

    #[test]
    fn growth_without_writing_is_sent_as_zeros_and_a_cut_is_copied() {
        assert_eq!(sent(&check(GIB + 10, GIB, &ranges([]))), 10);
        assert_eq!(sent(&check(GIB / 2 + 7, GIB / 2 + 7, &ranges([]))), 0);
    }

    #[test]
    fn ten_thousand_scattered_changes_of_a_large_object_fit_into_its_parts() {
        let size = 200 * GIB;
        let step = size / 20_000;
        let changes: Vec<_> = (0..20_000).map(|i| i * step..i * step + 1).collect();
        check(size, size, &ranges(changes));
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a failure must name its seed")]
    fn random_changes_always_make_a_legal_plan() {
        let seed = std::env::var("DSSEFS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand_seed);
        println!("DSSEFS_SEED={seed}");
        let mut state: u64 = seed;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 20) % below.max(1)
        };
        for _ in 0..2_000 {
            let size = next(300 * MIB) + 1;
            let base_len = next(300 * MIB).min(size);
            let mut present = RangeSet::default();
            for _ in 0..next(12) {
                let start = next(size);
                present.insert(start..(start + 1 + next(20 * MIB)).min(size));
            }
            check(size, base_len, &present);
        }
    }

    fn rand_seed() -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_secs())
    }

    /// `copies` runs of unchanged bytes, each behind 5 MiB that were written.
    fn striped(copies: u64, run: u64) -> (u64, RangeSet) {
        let stripe = PART_BYTES_MIN + run;
        (copies * stripe, ranges((0..copies).map(|n| n * stripe..n * stripe + PART_BYTES_MIN)))
    }

    #[test]
    fn a_plan_of_ten_thousand_parts_stands_and_one_more_part_makes_another_plan() {
        let (size, mut present) = striped(PARTS_MAX / 2, COPY_BYTES_MIN);
        let most = check(size, size, &present);
        assert_eq!(most.len() as u64, PARTS_MAX);
        assert_eq!(sent(&most), PARTS_MAX / 2 * PART_BYTES_MIN);
        present.insert(size..size + 1);
        let unchanged = unchanged_runs(size + 1, size, &present);
        assert_eq!(plan_with(size + 1, &unchanged, COPY_BYTES_MIN).len() as u64, PARTS_MAX + 1);
        check(size + 1, size, &present);
    }

    #[test]
    fn a_run_is_copied_from_ten_mebibytes_on_and_sent_again_below() {
        let copied = |run| {
            let (size, present) = striped(3, run);
            let parts = check(size, size, &present);
            parts.iter().filter(|part| matches!(part, Planned::Copy(_))).count()
        };
        assert_eq!((copied(COPY_BYTES_MIN), copied(COPY_BYTES_MIN - 1)), (3, 0));
    }

    /// Bytes between two copies that make less than a part borrow from the copy behind them, down to the byte.
    #[test]
    fn a_part_between_two_copies_has_five_mebibytes_exactly() {
        let (size, at) = (40 * MIB, 15 * MIB);
        for written in [1, PART_BYTES_MIN - 1, PART_BYTES_MIN, PART_BYTES_MIN + 1] {
            let parts = check(size, size, &ranges(std::iter::once(at..at + written)));
            let end = at + written.max(PART_BYTES_MIN);
            assert_eq!(parts, [Planned::Copy(0..at), Planned::Put(at..end), Planned::Copy(end..size)], "{written}");
        }
    }

    #[test]
    fn a_grid_of_many_copies_ends_with_part_ten_thousand() {
        let grid = AppendLayout::behind(HEAD_PART_BYTES + 1).unwrap();
        assert_eq!((grid.first(), grid.copied()), (3, HEAD_PART_BYTES + 1));
        assert_eq!(AppendLayout::behind(HEAD_PART_BYTES).unwrap().first(), 2);
        assert_eq!(grid.part(10_000).map(|range| range.end), Some(grid.end()));
        assert_eq!((grid.part(10_001), grid.part(10_002), grid.part(0)), (None, None, None));
    }
}
