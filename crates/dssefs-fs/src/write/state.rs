//! What a writer knows of its file: pure bookkeeping under the writer's mutex.
//!
//! A close or an fsync *promises* the file as it is at that moment. Until the store has it, [`State`] describes that
//! moment, and does not change with the file any more: what programs change then is [`Since`]. So what a commit stores
//! is always a promise, whenever it is sent and however often it is tried.
//!
//! ```text
//!   open ──(close, fsync)──> promised ──(stored)──> open, with what was changed since over the new object
//!                             │    ^
//!             (another close) │    │ (all of `Since` is taken into the state)
//!                             └─> joining
//! ```

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::spill::{Buffer, RangeSet};
use dssefs_s3::object::{CommitId, ETag};
use dssefs_s3::s3::{AmbiguousWrite, Source};

use super::early_upload::EarlyUpload;
use super::parts::{AppendLayout, PART_BYTES_MIN, SINGLE_PUT_BYTES_MAX};

/// The object that changes are made to.
pub type Base = Source;

/// Where some bytes of a file with changes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// In the writer's buffer.
    Local(Range<u64>),
    /// In the object that the changes are made to.
    Base(Range<u64>),
    /// Nowhere: they read as zeros.
    Zero(Range<u64>),
}

/// What programs have changed since a promise that the store does not have yet. The bytes are in a buffer of their own.
#[derive(Debug)]
pub(crate) struct Since {
    /// The file's length in bytes.
    pub(crate) size: u64,
    /// The smallest length since: how many of the promised bytes are still part of the file.
    pub(crate) low_water: u64,
    /// What was written or zeroed.
    written: RangeSet,
    /// How many changes there were.
    changes: u64,
}

impl Since {
    fn changed(&mut self, range: &Range<u64>) {
        self.size = self.size.max(range.end);
        self.written.insert(range.clone());
        self.changes += 1;
    }

    fn resized(&mut self, size: u64) {
        self.size = size;
        self.low_water = self.low_water.min(size);
        self.written.remove(size..u64::MAX);
        self.changes += 1;
    }
}

/// How far the making of a promise is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// The file as it is, is promised; or there is nothing to promise.
    Made,
    /// What was changed since an earlier promise is still to be taken in.
    Joining,
    /// The earlier promise has to be stored first: parts of it that have changed are in its upload only.
    AfterTheEarlier,
}

/// What a commit is about to store, and what has become of the file since.
#[derive(Clone, Debug)]
pub(crate) struct CommitMark {
    /// The number of changes that it stores.
    pub(crate) changes: u64,
    /// What was written since, of what may be in the object: all that is left to do when the commit succeeds.
    pub(crate) since: RangeSet,
    /// The smallest size since.
    pub(crate) low_water: u64,
}

impl CommitMark {
    fn cut(&mut self, size: u64) {
        self.since.remove(size..u64::MAX);
        self.low_water = self.low_water.min(size);
    }
}

/// How many ambiguous commits a file remembers. Each is of other changes, and their answers were lost one after the
/// other. The oldest one above this number counts as failed.
pub(crate) const AMBIGUOUS_COMMITS_MAX: usize = 8;

/// A commit whose answer was lost: it may have succeeded although it failed.
#[derive(Clone, Debug)]
pub(crate) struct AmbiguousCommit {
    pub(crate) attempt: Arc<AmbiguousWrite>,
    pub(crate) mark: CommitMark,
}

pub(crate) struct State {
    /// The file's length in bytes.
    pub(crate) size: u64,
    /// The object under the changes, if the file has one.
    pub(crate) base: Option<Base>,
    /// The object that a commit replaces, as far as this host knows; none where it expects none.
    pub(crate) replaces: Option<ETag>,
    /// How many of the base's first bytes are still part of the file.
    pub(crate) base_len: u64,
    /// Counts changes; a commit that finds the count of its mark has made everything safe.
    pub(crate) changes: u64,
    /// The count at the last commit.
    pub(crate) committed: u64,
    /// Whether the early upload is being ended, and gets no more parts.
    pub(crate) is_ending_upload: bool,
    /// Whether all of this is promised and not stored yet. It stays as it is then.
    is_promised: bool,
    /// What programs have changed since.
    since: Option<Since>,
    /// Whether the changes were given up while programs may still count on them: no call succeeds from now on.
    pub(crate) abandoned: bool,
    /// What was ever written or zeroed since the base was made; a hole is never one of these.
    pub(crate) written: RangeSet,
    /// The mark of the commit under way, or of the last one.
    pub(crate) mark: CommitMark,
    /// The commit id of the attempts to store the file as it was at this change; of all changes, where none is named.
    commit_id: Option<(Option<u64>, CommitId)>,
    /// Commits that may have succeeded since the last one that is known to.
    pub(crate) ambiguous: Vec<AmbiguousCommit>,
    /// Whether a short base could not be materialized to be sent ahead. Not tried again before the next commit.
    pub(crate) base_stays: bool,
    /// Parts that are sent while the program writes in sequence.
    pub(crate) early_upload: Option<EarlyUpload>,
}

impl State {
    pub(crate) fn new(base: Option<Base>, size: u64, changed: bool) -> State {
        let base_len = base.as_ref().map_or(0, |base| base.size.min(size));
        let replaces = base.as_ref().map(|base| base.version.etag.clone());
        State {
            size,
            base,
            replaces,
            base_len,
            changes: u64::from(changed),
            committed: 0,
            is_ending_upload: false,
            is_promised: false,
            since: None,
            abandoned: false,
            written: RangeSet::default(),
            mark: CommitMark { changes: 0, since: RangeSet::default(), low_water: size },
            commit_id: None,
            ambiguous: Vec::new(),
            base_stays: false,
            early_upload: None,
        }
    }

    /// Whether there are changes that the store does not have, but for those since a promise.
    pub(crate) fn is_dirty(&self) -> bool {
        self.changes != self.committed
    }

    /// Whether there are any changes that the store does not have.
    pub(crate) fn has_changes(&self) -> bool {
        self.is_dirty() || self.since.is_some()
    }

    /// The file's length in bytes, as programs see it.
    pub(crate) fn size_now(&self) -> u64 {
        self.since.as_ref().map_or(self.size, |since| since.size)
    }

    /// The count of all changes, as programs have made them.
    pub(crate) fn changes_now(&self) -> u64 {
        self.changes + self.since.as_ref().map_or(0, |since| since.changes)
    }

    pub(crate) fn is_promised(&self) -> bool {
        self.is_promised
    }

    /// Whether programs have to wait until what was changed since a promise is taken in.
    pub(crate) fn is_joining(&self) -> bool {
        self.since.is_some() && !self.is_promised
    }

    /// How many of the first bytes of what this describes are part of the file as programs see it.
    pub(crate) fn stands_below(&self) -> u64 {
        self.since.as_ref().filter(|_| self.is_promised).map_or(u64::MAX, |since| since.low_water)
    }

    /// What has bytes beside the object: what this describes, and what was changed since.
    pub(crate) fn written_now(&self) -> Cow<'_, RangeSet> {
        let Some(since) = &self.since else { return Cow::Borrowed(&self.written) };
        let mut written = self.written.clone();
        written.remove(self.stands_below()..u64::MAX);
        since.written.iter().for_each(|range| written.insert(range));
        Cow::Owned(written)
    }

    /// Where a change goes while there is a promise; None when this itself may change.
    fn change_since(&mut self) -> Option<&mut Since> {
        let fresh = Since { size: self.size, low_water: self.size, written: RangeSet::default(), changes: 0 };
        self.is_promised.then(|| self.since.get_or_insert(fresh))
    }

    /// Promises the file as it is now. An earlier promise can still be changed while `buffer` has all bytes of the
    /// parts that the changes touch. The caller cuts the bytes to [`State::size`] when this is [`Promise::Joining`].
    pub(crate) fn promise(&mut self, buffer: &Buffer) -> Promise {
        let Some(since) = &self.since else {
            self.is_promised = self.is_dirty();
            return Promise::Made;
        };
        if !self.is_promised {
            return Promise::Joining;
        }
        let low_water = since.low_water;
        if let Some(early_upload) = &self.early_upload
            && !early_upload.takes(&since.written, low_water, buffer)
        {
            return Promise::AfterTheEarlier;
        }
        self.is_promised = false;
        if low_water < self.size {
            self.cut(low_water);
        }
        Promise::Joining
    }

    /// Everything that was changed since the earlier promise has been taken in: the whole is promised.
    pub(crate) fn joined(&mut self) {
        let size = self.size_now();
        self.since = None;
        if size != self.size {
            self.cut(size);
        }
        self.is_promised = true;
    }

    /// Gives up all changes.
    pub(crate) fn give_up(&mut self) {
        (self.changes, self.size) = (self.changes_now(), self.size_now());
        self.committed = self.changes;
        (self.is_promised, self.since) = (false, None);
    }

    /// The store has what was promised. True when what was changed since is the file's content from now on.
    fn is_kept(&mut self) -> bool {
        if !self.is_promised || self.is_dirty() {
            return false;
        }
        self.is_promised = false;
        let Some(since) = self.since.take() else { return false };
        self.changes += since.changes;
        self.base_len = self.base_len.min(since.low_water);
        if since.low_water == 0 {
            self.base = None;
        }
        (self.size, self.written) = (since.size, since.written);
        true
    }

    /// The parts in which the file may be sent ahead, if it may: the object under it stands untouched before what was
    /// written, which is too large for one PutObject. There often is an object: a shell's `>`, and each program that is
    /// started meanwhile, closes a copy of the handle, upon which the file is committed as it is then.
    pub(crate) fn layout(&self) -> Option<AppendLayout> {
        let layout = if self.streams() { AppendLayout::behind(self.base_len) } else { None };
        layout.filter(|layout| self.size <= layout.end())
    }

    /// Whether a file that ends at `end` needs more parts than the upload under way has.
    pub(crate) fn is_beyond_upload(&self, end: u64) -> bool {
        self.early_upload.as_ref().is_some_and(|early_upload| end > early_upload.layout.end())
    }

    /// Whether the file could be sent ahead, were the object under it not too short to be copied as a part of its own.
    pub(crate) fn has_short_base(&self) -> bool {
        !self.base_stays && self.streams() && (1..PART_BYTES_MIN).contains(&self.base_len)
    }

    fn streams(&self) -> bool {
        let untouched = self.written.intersection(0..self.base_len).next().is_none();
        untouched
            && !self.is_promised
            && !self.is_joining()
            && self.size > self.base_len.saturating_add(SINGLE_PUT_BYTES_MAX)
    }

    /// Notes that a program has written or zeroed `range`.
    pub(crate) fn changed(&mut self, range: &Range<u64>) {
        match self.change_since() {
            Some(since) => since.changed(range),
            None => self.take_in(range),
        }
    }

    /// Notes that `range` is a change of what this describes.
    pub(crate) fn take_in(&mut self, range: &Range<u64>) {
        self.size = self.size.max(range.end);
        self.changes += 1;
        self.written.insert(range.clone());
        self.marks().for_each(|mark| mark.since.insert(range.clone()));
        if let Some(early_upload) = &mut self.early_upload {
            early_upload.touched(range);
        }
    }

    /// Notes that the file now ends at `size`.
    pub(crate) fn resized(&mut self, size: u64) {
        match self.change_since() {
            Some(since) => since.resized(size),
            None => self.cut(size),
        }
    }

    fn cut(&mut self, size: u64) {
        let old = self.size;
        self.size = size;
        self.written.remove(size..u64::MAX);
        self.marks().for_each(|mark| mark.cut(size));
        self.base_len = self.base_len.min(size);
        if size == 0 {
            self.base = None;
        }
        self.changes += 1;
        if let (Some(early_upload), true) = (&mut self.early_upload, size < old) {
            early_upload.cut(size);
        }
    }

    /// Takes the bytes `range` of `source` for the same bytes of the file, if the file so far is a copy of what comes
    /// before them and nothing else.
    pub(crate) fn adopt(&mut self, source: &Base, range: &Range<u64>) -> bool {
        let copied_so_far = self.base.as_ref() == Some(source) && self.base_len == self.size;
        let fits = range.start == self.size && range.start < range.end && range.end <= source.size;
        // Later it could not be told whether the object of an ambiguous commit is such a copy.
        let is_open = !self.is_promised && !self.is_joining() && self.early_upload.is_none();
        if !fits || !(self.size == 0 || copied_so_far) || !is_open || !self.ambiguous.is_empty() {
            return false;
        }
        self.base = Some(source.clone());
        (self.base_len, self.size) = (range.end, range.end);
        self.changes += 1;
        true
    }

    /// The commit under way sets its mark now: what is written from here on is for the next one.
    pub(crate) fn begin_commit(&mut self) {
        self.mark = CommitMark { changes: self.changes, since: RangeSet::default(), low_water: self.size };
    }

    /// All marks: of the commit under way, and of commits that may have succeeded.
    fn marks(&mut self) -> impl Iterator<Item = &mut CommitMark> {
        self.ambiguous.iter_mut().map(|commit| &mut commit.mark).chain(std::iter::once(&mut self.mark))
    }

    /// The commit id for an attempt to store the file as it was at change number `changes`: the same for each retry, so
    /// that the journal can name it before the first attempt. `new` makes one.
    pub(crate) fn commit_id(&mut self, changes: u64, new: impl FnOnce() -> Option<CommitId>) -> Option<CommitId> {
        match &self.commit_id {
            Some((of, id)) if of.is_none_or(|of| of == changes) => return Some(id.clone()),
            _ => self.commit_id = new().map(|id| (Some(changes), id)),
        }
        self.commit_id.as_ref().map(|(_, id)| id.clone())
    }

    /// All attempts have this commit id: an earlier process may have begun with them, and no program changes the file.
    pub(crate) fn resume_commit(&mut self, id: CommitId) {
        self.commit_id = Some((None, id));
    }

    /// After a commit that made an object of the file as it was at change number `planned`.
    pub(crate) fn settle(&mut self, stored: Base, planned: u64) -> Settled {
        self.base_len = stored.size.min(self.mark.low_water);
        self.replaces = Some(stored.version.etag.clone());
        self.base = Some(stored);
        self.base_stays = false;
        self.committed = planned;
        self.written = self.mark.since.clone();
        self.ambiguous.clear();
        match (self.is_dirty(), self.is_kept()) {
            (_, true) => Settled::Since,
            (false, false) => Settled::Clean,
            (true, false) => Settled::Changed,
        }
    }
}

/// What a commit leaves to do, and which bytes are needed for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Nothing: the buffer can be dropped.
    Clean,
    /// What was changed since the promise: its bytes take the place of those that were promised.
    Since,
    /// Changes of what was promised: all can be dropped that is no longer `written`.
    Changed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spill;
    use dssefs_s3::object::{Key, Version};

    fn base(size: u64) -> Base {
        Source { key: Key::new("k").unwrap(), version: Version { etag: ETag::new("e"), id: None }, size }
    }

    #[test]
    fn a_retry_of_the_same_changes_has_the_same_commit_id_and_no_other_attempt_has() {
        let numbered = |n: u8| CommitId::new(&format!("{n:032x}"));
        let mut state = State::new(None, 0, true);
        assert_eq!(state.commit_id(1, || numbered(1)), numbered(1));
        assert_eq!(state.commit_id(1, || numbered(2)), numbered(1));
        assert_eq!(state.commit_id(2, || numbered(3)), numbered(3));
        assert_eq!(state.commit_id(3, || None), None);
        state.resume_commit(numbered(9).unwrap());
        assert_eq!(state.commit_id(4, || numbered(4)), numbered(9));
    }

    #[test]
    fn a_cut_and_regrown_file_does_not_show_the_old_bytes_again() {
        let mut state = State::new(Some(base(100)), 100, false);
        state.resized(40);
        state.resized(100);
        assert_eq!((state.size, state.base_len), (100, 40));
    }

    #[test]
    fn a_file_that_was_committed_empty_streams_like_a_new_one() {
        let mut state = State::new(None, 0, true);
        assert_eq!(state.settle(base(0), state.changes), Settled::Clean);
        assert_eq!(state.layout(), None);
        state.changed(&(0..SINGLE_PUT_BYTES_MAX + 1));
        assert_eq!(state.layout(), AppendLayout::behind(0));
    }

    #[test]
    fn what_follows_an_untouched_object_is_streamed_behind_it() {
        const LONG: u64 = SINGLE_PUT_BYTES_MAX + 1;
        let mut state = State::new(Some(base(LONG)), LONG, false);
        state.changed(&(LONG..2 * LONG - 1));
        assert_eq!(state.layout(), None, "it is little yet");
        state.changed(&(2 * LONG - 1..2 * LONG));
        assert_eq!(state.layout(), AppendLayout::behind(LONG));
        state.changed(&(0..1));
        assert_eq!(state.layout(), None, "the object is not what it was");
        let mut short = State::new(Some(base(100)), 100, false);
        short.changed(&(100..2 * LONG));
        assert!(short.layout().is_none() && short.has_short_base());
    }

    #[test]
    fn only_an_empty_file_or_the_same_copy_so_far_takes_bytes_of_an_object() {
        let source = base(100);
        let mut state = State::new(None, 0, true);
        assert!(!state.adopt(&source, &(10..20)), "it would need a hole before it");
        assert!(!state.adopt(&source, &(0..101)), "the object is shorter");
        assert!(state.adopt(&source, &(0..60)));
        assert!(!state.adopt(&source, &(50..100)), "it overlaps");
        assert!(!state.adopt(&Source { size: 99, ..source.clone() }, &(60..90)), "another object");
        assert!(state.adopt(&source, &(60..100)));
        assert_eq!((state.size, state.base_len, state.replaces.as_ref()), (100, 100, None));
        state.changed(&(100..101));
        assert!(!state.adopt(&base(200), &(101..200)), "it is no mere copy any more");
    }

    #[test]
    fn an_emptied_file_that_becomes_a_copy_replaces_what_it_was() {
        let mut state = State::new(Some(base(7)), 7, false);
        state.resized(0);
        let source = Source { key: Key::new("other").unwrap(), ..base(100) };
        assert!(state.adopt(&source, &(0..100)));
        assert_eq!(state.replaces, Some(ETag::new("e")));
    }

    /// A file in memory that is promised, and what it was.
    fn promised(size: u64) -> (State, Buffer) {
        let limits = spill::Limits { memory_bytes_max: 1 << 20, spill_bytes_max: 0 };
        let buffer = spill::Pool::new(&std::env::temp_dir(), limits).unwrap().buffer();
        let mut state = State::new(None, 0, true);
        state.changed(&(0..size));
        assert_eq!(state.promise(&buffer), Promise::Made);
        state.begin_commit();
        (state, buffer)
    }

    #[test]
    fn changes_after_a_promise_leave_it_as_it_was() {
        let (mut state, _) = promised(50);
        let promised = state.changes;
        state.resized(20);
        state.changed(&(60..70));
        assert_eq!((state.size, state.changes, state.size_now()), (50, promised, 70));
        assert!(state.written.contains(0..50) && state.written_now().iter().eq([0..20, 60..70]));
        assert_eq!(state.settle(base(50), promised), Settled::Since);
        assert_eq!((state.size, state.base_len), (70, 20));
        assert!(state.written.iter().eq(std::iter::once(60..70)));
        assert!(state.is_dirty() && !state.is_promised(), "the next close promises the rest");
        assert_eq!(state.changes, promised + 2);
    }

    #[test]
    fn a_promise_of_a_file_that_was_emptied_since_leaves_nothing_of_it() {
        let (mut state, _) = promised(50);
        state.resized(0);
        assert_eq!(state.settle(base(50), state.changes), Settled::Since);
        assert_eq!((state.size, state.base_len, state.base.clone()), (0, 0, None));
        assert_eq!(state.replaces, Some(ETag::new("e")));
        assert!(state.is_dirty());
    }

    #[test]
    fn a_second_promise_takes_in_what_was_changed_since_the_first() {
        let (mut state, buffer) = promised(50);
        let first = state.changes;
        state.resized(20);
        state.changed(&(30..40));
        state.resized(90);
        let now = state.changes_now();
        assert_eq!(state.promise(&buffer), Promise::Joining);
        assert!(state.is_joining() && state.size == 20);
        state.take_in(&(30..40));
        state.joined();
        assert_eq!((state.size, state.size_now()), (90, 90));
        assert!(state.is_promised() && state.written.iter().eq([0..20, 30..40]));
        assert!(state.changes >= now && state.changes > first);
        assert_eq!(state.settle(base(90), state.changes), Settled::Clean);
    }

    #[test]
    fn a_clean_file_has_nothing_to_promise() {
        let (mut state, buffer) = promised(50);
        assert_eq!(state.settle(base(50), state.changes), Settled::Clean);
        assert_eq!(state.promise(&buffer), Promise::Made);
        assert!(!state.is_promised());
    }

    #[test]
    fn what_was_written_during_a_commit_is_all_that_the_next_one_has_to_do() {
        const LONG: u64 = SINGLE_PUT_BYTES_MAX + 1;
        let (mut state, buffer) = promised(LONG);
        let planned = state.changes;
        state.begin_commit();
        state.changed(&(LONG..2 * LONG));
        state.changed(&(2 * LONG..3 * LONG));
        state.resized(2 * LONG + 5);
        assert_eq!(state.layout(), None, "a promise takes no more parts");
        assert_eq!(state.settle(base(LONG), planned), Settled::Since);
        assert!(state.written.iter().eq(std::iter::once(LONG..2 * LONG + 5)));
        assert_eq!(
            state.layout(),
            AppendLayout::behind(LONG),
            "the file is streamed behind what the commit has stored"
        );
        assert_eq!(state.promise(&buffer), Promise::Made);
        state.begin_commit();
        assert_eq!(state.settle(base(2 * LONG + 5), state.changes), Settled::Clean);
        assert!(state.written.is_empty());
    }
}
