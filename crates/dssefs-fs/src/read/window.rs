//! The bytes that were asked for and not given up yet: one segment for each GET. No I/O; the tasks that fetch are only
//! held.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use tokio::task::AbortHandle;

use super::budget::Share;

/// How many segments are kept beside those that a read waits for.
pub(super) const SEGMENTS_MAX: usize = 8;

/// The segments of one reader. They never overlap.
#[derive(Debug, Default)]
pub(super) struct Window {
    segments: Vec<Segment>,
    next_id: u64,
    uses: u64,
}

/// The bytes of one GET. Dropping it cancels the GET.
#[derive(Debug)]
struct Segment {
    id: u64,
    /// What is held, or on its way: asked for, less what was given up in front.
    range: Range<u64>,
    /// Where the GET begins.
    asked_from: u64,
    /// One past the last byte that arrived.
    received: u64,
    /// Its bytes may be given before the last one came.
    streams: bool,
    done: bool,
    chunks: VecDeque<(u64, Bytes)>,
    share: Share,
    task: Option<AbortHandle>,
    used: u64,
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Window {
    /// A GET of `range` begins. Bytes of one that does not stream are given only once all are there and proved.
    pub(super) fn begin(&mut self, range: Range<u64>, streams: bool, share: Share) -> u64 {
        let (id, received) = (self.next_id, range.start);
        self.next_id += 1;
        self.uses += 1;
        let used = self.uses;
        let chunks = VecDeque::new();
        let (asked_from, done, task) = (received, false, None);
        self.segments.push(Segment { id, range, asked_from, received, streams, done, chunks, share, task, used });
        id
    }

    /// The task that fetches segment `id`.
    pub(super) fn attach(&mut self, id: u64, task: AbortHandle) {
        match self.position(id) {
            Some(index) => self.segments[index].task = Some(task),
            None => task.abort(),
        }
    }

    /// More bytes of segment `id`. False when no read wants them any more.
    pub(super) fn push(&mut self, id: u64, mut chunk: Bytes) -> bool {
        let Some(index) = self.position(id) else { return false };
        let segment = &mut self.segments[index];
        let room = segment.range.end - segment.received;
        chunk.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        let (at, len) = (segment.received, chunk.len() as u64);
        segment.received += len;
        // What was given up while it was on its way is not kept.
        if len > 0 && segment.received > segment.range.start {
            segment.chunks.push_back((at, chunk));
        }
        true
    }

    /// The GET of segment `id` broke off. What is to be asked for again: all of one that does not stream, for what has
    /// come of it is not proved. None when no read wants it any more.
    pub(super) fn resume(&mut self, id: u64) -> Option<Range<u64>> {
        let index = self.position(id)?;
        let segment = &mut self.segments[index];
        if !segment.streams {
            segment.chunks.clear();
            segment.received = segment.asked_from;
        }
        Some(segment.received..segment.range.end).filter(|rest| !rest.is_empty())
    }

    /// The GET of segment `id` is over; how many bytes are missing.
    pub(super) fn finish(&mut self, id: u64) -> u64 {
        let Some(index) = self.position(id) else { return 0 };
        self.segments[index].done = true;
        self.segments[index].range.end - self.segments[index].received
    }

    /// The GET of segment `id` failed. What it will not bring; what it brought stays, if it may be given.
    pub(super) fn fail(&mut self, id: u64) -> Option<Range<u64>> {
        let index = self.position(id)?;
        let segment = &mut self.segments[index];
        let kept = if segment.streams { segment.received.max(segment.range.start) } else { segment.range.start };
        let lost = kept..segment.range.end;
        segment.range.end = kept;
        segment.done = true;
        segment.share.shrink_to(kept - segment.range.start);
        if segment.range.is_empty() {
            self.segments.swap_remove(index);
        }
        Some(lost)
    }

    /// How far from `at` on bytes are there or on their way.
    pub(super) fn frontier(&self, mut at: u64) -> u64 {
        while let Some(segment) = self.at(at) {
            at = segment.range.end;
        }
        at
    }

    /// Where the first segment behind `at` begins.
    pub(super) fn next_start(&self, at: u64) -> Option<u64> {
        self.segments.iter().map(|segment| segment.range.start).filter(|start| *start > at).min()
    }

    /// How many segments begin at or after `at`.
    pub(super) fn count_from(&self, at: u64) -> usize {
        self.segments.iter().filter(|segment| segment.range.start >= at).count()
    }

    /// Whether all bytes of `wanted` may be given.
    pub(super) fn has(&self, wanted: &Range<u64>) -> bool {
        let mut at = wanted.start;
        while at < wanted.end {
            match self.at(at).map(Segment::ready) {
                Some(ready) if ready > at => at = ready,
                _ => return false,
            }
        }
        true
    }

    /// The bytes of `wanted`, when all may be given: without a copy where they lie in one chunk.
    pub(super) fn take(&mut self, wanted: &Range<u64>) -> Option<Bytes> {
        if !self.has(wanted) {
            return None;
        }
        self.uses += 1;
        let mut pieces = Vec::new();
        let mut at = wanted.start;
        while at < wanted.end {
            let used = self.uses;
            let segment = self.segments.iter_mut().find(|segment| segment.range.contains(&at))?;
            segment.used = used;
            at = segment.collect(at..wanted.end, &mut pieces);
        }
        Some(joined(pieces, wanted))
    }

    /// Gives up the bytes before `keep_from` in the run of segments that leads up to `at`.
    pub(super) fn trim(&mut self, at: u64, keep_from: u64) {
        let mut place = Some(at.saturating_sub(1));
        while let Some(index) = place.and_then(|at| self.segments.iter().position(|s| s.range.contains(&at))) {
            let segment = &mut self.segments[index];
            place = segment.range.start.checked_sub(1);
            segment.give_up_before(keep_from);
            if segment.range.is_empty() {
                self.segments.swap_remove(index);
            }
        }
    }

    /// Drops the segments longer than `bytes_max` that touch none of `wanted`.
    pub(super) fn drop_longer(&mut self, bytes_max: u64, wanted: &[Range<u64>]) {
        self.segments.retain(|segment| segment.range.end - segment.range.start <= bytes_max || segment.touches(wanted));
    }

    /// Drops the segments that were not used for longest and touch none of `wanted`, until [`SEGMENTS_MAX`] others are
    /// left.
    pub(super) fn drop_oldest(&mut self, wanted: &[Range<u64>]) {
        let mut others: Vec<u64> = self.segments.iter().filter(|s| !s.touches(wanted)).map(|s| s.used).collect();
        if others.len() > SEGMENTS_MAX {
            others.sort_unstable();
            let oldest_kept = others[others.len() - SEGMENTS_MAX];
            self.segments.retain(|segment| segment.used >= oldest_kept || segment.touches(wanted));
        }
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.segments.iter().position(|segment| segment.id == id)
    }

    fn at(&self, at: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.range.contains(&at))
    }
}

impl Segment {
    /// One past the last byte that may be given.
    fn ready(&self) -> u64 {
        if self.streams || self.done { self.received } else { self.range.start }
    }

    fn touches(&self, wanted: &[Range<u64>]) -> bool {
        wanted.iter().any(|range| range.start < self.range.end && self.range.start < range.end)
    }

    /// Adds the pieces of `wanted` that are here; one past the last of them.
    fn collect(&self, wanted: Range<u64>, pieces: &mut Vec<Bytes>) -> u64 {
        let end = wanted.end.min(self.ready());
        let first = self.chunks.partition_point(|(at, chunk)| at + chunk.len() as u64 <= wanted.start);
        for (at, chunk) in self.chunks.range(first..).take_while(|(at, _)| *at < end) {
            let from = wanted.start.saturating_sub(*at);
            let to = (end - at).min(chunk.len() as u64);
            pieces.push(chunk.slice(index(from)..index(to)));
        }
        end
    }

    fn give_up_before(&mut self, keep_from: u64) {
        self.range.start = self.range.start.max(keep_from.min(self.range.end));
        while self.chunks.front().is_some_and(|(at, chunk)| at + chunk.len() as u64 <= self.range.start) {
            self.chunks.pop_front();
        }
        self.share.shrink_to(self.range.end - self.range.start);
    }
}

fn joined(mut pieces: Vec<Bytes>, wanted: &Range<u64>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut whole = BytesMut::with_capacity(index(wanted.end - wanted.start));
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}

/// An offset within memory that is held, which is therefore within the address space.
fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("offsets within a chunk fit the address space")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::read::ReadBudget;

    fn bytes(range: Range<u64>) -> Bytes {
        range.map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn budget() -> Arc<ReadBudget> {
        ReadBudget::new(1 << 30)
    }

    #[test]
    fn a_broken_body_resumes_and_an_unproved_one_restarts() {
        let (mut window, budget) = (Window::default(), budget());
        let streams = window.begin(0..100, true, budget.take(100));
        let whole = window.begin(200..300, false, budget.take(100));
        assert!(window.push(streams, bytes(0..40)) && window.push(whole, bytes(0..40)));
        assert_eq!(window.resume(streams), Some(40..100));
        assert_eq!(window.resume(whole), Some(200..300));
        assert!(window.push(streams, bytes(40..100)) && window.push(whole, bytes(200..300)));
        assert_eq!((window.finish(streams), window.finish(whole)), (0, 0));
        assert_eq!(window.take(&(0..100)), Some(bytes(0..100)));
        assert_eq!(window.take(&(200..300)), Some(bytes(200..300)));
        assert_eq!(window.resume(9), None);
    }

    #[test]
    fn every_read_that_is_covered_gets_its_very_bytes() {
        let (mut window, budget) = (Window::default(), budget());
        let a = window.begin(0..100, true, budget.take(100));
        let b = window.begin(100..150, true, budget.take(50));
        assert!([0..7, 7..50, 50..100].into_iter().all(|range| window.push(a, bytes(range))));
        assert!(window.push(b, bytes(100..130)));
        for start in 0..150 {
            for end in start + 1..150 {
                let expected = (end <= 130).then(|| bytes(start..end));
                assert_eq!(window.take(&(start..end)), expected, "{start}..{end}");
            }
        }
    }

    #[test]
    fn a_read_within_one_chunk_is_not_copied() {
        let (mut window, budget) = (Window::default(), budget());
        let id = window.begin(0..100, true, budget.take(100));
        let chunk = bytes(0..100);
        window.push(id, chunk.clone());
        assert_eq!(window.take(&(10..20)).unwrap().as_ptr(), chunk[10..].as_ptr());
    }

    #[test]
    fn bytes_that_are_proved_at_their_end_are_given_only_then() {
        let (mut window, budget) = (Window::default(), budget());
        let id = window.begin(0..10, false, budget.take(10));
        window.push(id, bytes(0..10));
        assert_eq!(window.take(&(0..1)), None);
        assert_eq!(window.finish(id), 0);
        assert_eq!(window.take(&(0..10)), Some(bytes(0..10)));
        let bad = window.begin(20..30, false, budget.take(10));
        window.push(bad, bytes(20..30));
        assert_eq!(window.fail(bad), Some(20..30));
        assert_eq!(window.take(&(20..21)), None);
        assert_eq!(budget.bytes(), 10);
    }

    #[test]
    fn what_came_before_a_failure_stays_and_the_rest_may_be_asked_for_again() {
        let (mut window, budget) = (Window::default(), budget());
        let id = window.begin(0..100, true, budget.take(100));
        window.push(id, bytes(0..40));
        assert_eq!(window.fail(id), Some(40..100));
        assert_eq!((window.frontier(0), budget.bytes()), (40, 40));
        assert_eq!(window.take(&(0..40)), Some(bytes(0..40)));
    }

    #[test]
    fn trimming_gives_memory_back_and_stays_within_the_run() {
        let (mut window, budget) = (Window::default(), budget());
        for range in [0..100, 100..200, 500..600] {
            let id = window.begin(range.clone(), true, budget.take(100));
            window.push(id, bytes(range));
        }
        window.trim(150, 120);
        assert_eq!(budget.bytes(), 180);
        assert_eq!(window.take(&(119..121)), None);
        assert_eq!(window.take(&(120..200)), Some(bytes(120..200)));
        assert_eq!(window.take(&(500..600)), Some(bytes(500..600)));
        drop(window);
        assert_eq!(budget.bytes(), 0);
    }

    #[test]
    fn the_segments_used_longest_ago_go_first_and_never_those_waited_for() {
        let (mut window, budget) = (Window::default(), budget());
        for start in (0..12).map(|n| n * 100) {
            window.begin(start..start + 10, true, budget.take(10));
        }
        window.drop_oldest(std::slice::from_ref(&(0..5)));
        assert_eq!(window.segments.len(), SEGMENTS_MAX + 1);
        assert_eq!((window.frontier(0), window.frontier(100), window.frontier(400)), (10, 100, 410));
        window.drop_longer(9, std::slice::from_ref(&(0..5)));
        assert_eq!(window.segments.len(), 1);
    }

    #[test]
    fn bytes_beyond_the_range_are_not_taken() {
        let (mut window, budget) = (Window::default(), budget());
        let id = window.begin(0..10, true, budget.take(10));
        assert!(window.push(id, bytes(0..6)) && window.push(id, bytes(6..20)) && window.push(id, bytes(20..30)));
        assert_eq!(window.finish(id), 0);
        assert_eq!((window.take(&(0..10)), window.take(&(0..11))), (Some(bytes(0..10)), None));
    }

    #[test]
    fn segments_at_and_behind_a_place_are_told_apart() {
        let (mut window, budget) = (Window::default(), budget());
        for start in [0, 100, 200] {
            window.begin(start..start + 10, true, budget.take(10));
        }
        assert_eq!([0, 99, 100, 200].map(|at| window.next_start(at)), [Some(100), Some(100), Some(200), None]);
        assert_eq!([0, 1, 100, 101, 201].map(|at| window.count_from(at)), [3, 2, 2, 1, 0]);
    }

    #[test]
    fn a_segment_beside_what_is_wanted_is_not_spared() {
        let (mut window, budget) = (Window::default(), budget());
        for range in [0..10, 20..30, 40..50] {
            window.begin(range, true, budget.take(10));
        }
        window.drop_longer(10, &[]);
        assert_eq!(window.segments.len(), 3, "none is longer");
        // One ends where it begins, another begins where it ends.
        window.drop_longer(9, &[10..20, 29..30]);
        assert_eq!((window.segments.len(), window.frontier(20)), (1, 30));
    }
}
