//! The journal of this process: appended to by many threads, synced in groups.

mod draft;

pub use draft::Draft;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use dssefs_seal::crypto::Envelope;
use dssefs_seal::sealed::{ByteBudget, Charge};

use super::disk::{self, SegmentFile};
use super::keys::remove_unused;
use super::record::{Record, encode_segments};
use super::{Epoch, Error, NewKeys, NewSession, Session, at, segment, sync_directory};

/// A segment that has grown to this many bytes is followed by a new one. Tests need not write as much.
const SEGMENT_BYTES_MAX: u64 = if cfg!(test) { 64 << 10 } else { 64 << 20 };
/// A segment of this many bytes is given up as soon as the journal needs nothing in it.
const IDLE_BYTES_MAX: u64 = SEGMENT_BYTES_MAX / 16;

/// Room that is kept free behind the last record, in bytes: for the page of a new segment, so that an idle one can be
/// given up on a full disk.
const SPARE_BYTES: u64 = 8 << 10;
/// Room that is kept free for each entry, in bytes: a record that settles it, and one that its segment is reclaimed.
const SETTLE_BYTES: u64 = 256;
/// Room that is kept free for each entry that is settled, in bytes: a record that says so again.
const SETTLE_AGAIN_BYTES: u64 = 96;
/// What a file system gives out at a time.
const PAGE_BYTES: u64 = 4096;

/// An entry of a session. No two entries of one session share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(u64);

impl EntryId {
    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 8]) -> Self {
        EntryId(u64::from_be_bytes(bytes))
    }
}

/// The journal of this process. All calls block on the disk.
pub struct Journal {
    session: Session,
    budget: Arc<ByteBudget>,
    log: Mutex<Log>,
    /// Never taken together with `log`.
    synced: Mutex<Synced>,
    /// Threads that wait for the sync of another thread are woken here at its end.
    sync_ended: Condvar,
}

/// How far the disk has come.
#[derive(Default)]
struct Synced {
    /// How many appended records are on it for good.
    records: u64,
    /// Whether a thread syncs now.
    busy: bool,
}

/// The end of the log, and what of it is still of use.
struct Log {
    envelope: Arc<Envelope>,
    file: Arc<SegmentFile>,
    segment: u32,
    /// Bytes of the segment that is written to.
    bytes: u64,
    /// Bytes of it that have their room on the disk: those, and more to come.
    reserved: u64,
    /// Records ever appended, those among them that were cut off again.
    appended: u64,
    /// How many had been appended with the last that settles an entry.
    settled: u64,
    /// The number that follows that of the last record.
    record_next: u64,
    /// How many numbers from there on belong to records that were cut off again. None is used twice: an attacker
    /// with a copy of the disk could put what was cut off in the place of what followed.
    cut_off: u64,
    entry_next: u64,
    /// The segments on the disk, and what each costs.
    segments: BTreeMap<u32, Charge>,
    /// For each of them but the newest, the number that follows that of its last record.
    ends: BTreeMap<u32, u64>,
    /// The segments over which each entry reaches that is not settled.
    live: HashMap<EntryId, RangeInclusive<u32>>,
    /// The entries that are settled and whose first segment is still on the disk.
    dead: BTreeMap<EntryId, Dead>,
    /// The entries that were to be settled, and for which that could not be noted.
    unsettled: BTreeSet<EntryId>,
    broken: Option<String>,
}

/// Where a settled entry begins, and where that lies which settles it: a record, or the whole of the entry that
/// replaced it. Without any part of it the entry would come back.
struct Dead {
    begun: u32,
    settled: RangeInclusive<u32>,
}

/// The end of the log at one moment.
#[derive(Clone, Copy)]
struct End {
    segment: u32,
    bytes: u64,
    record_next: u64,
    cut_off: u64,
}

impl Journal {
    /// Begins a journal in a new session below `directory`. What it takes of the disk is charged to `budget`.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`], [`Error::Crypto`].
    pub fn create(directory: &Path, new: NewSession, budget: Arc<ByteBudget>) -> Result<Journal, Error> {
        let (session, envelope) = Session::create(directory, new)?;
        match Log::begin(&session.directory, envelope, &budget) {
            Ok(log) => {
                let (log, synced, sync_ended) = (Mutex::new(log), Mutex::default(), Condvar::new());
                Ok(Journal { session, budget, log, synced, sync_ended })
            }
            Err(error) => {
                // Every start would find half a session, and reports it where it cannot be removed here.
                let _ = session.remove();
                Err(error)
            }
        }
    }

    /// The directory of its session.
    pub fn directory(&self) -> &Path {
        &self.session.directory
    }

    /// The mount that it belongs to.
    pub fn source(&self) -> &str {
        &self.session.source
    }

    /// The name of its session.
    pub fn name(&self) -> &str {
        &self.session.name
    }

    /// Begins an entry, which settles the one that it `replaces` in the moment in which it is finished.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Broken`], [`Error::Io`], [`Error::Crypto`].
    pub fn draft(&self, description: &[u8], replaces: Option<EntryId>) -> Result<Draft<'_>, Error> {
        let entry = {
            let mut log = self.log();
            let entry = EntryId(log.entry_next);
            log.entry_next += 1;
            // It may reach over any segment that comes, until it is finished, and begins in this one or, if that is
            // full, in the next.
            let segment = log.segment;
            log.live.insert(entry, segment..=u32::MAX);
            entry
        };
        let mut draft =
            Draft { journal: self, entry, replaces, content_bytes: 0, begin: None, records: 0, finished: false };
        draft.append(&Record::Begin { entry, replaces, description })?;
        Ok(draft)
    }

    /// The entry is no longer needed: the store has it, or its file is gone. After a crash it may come back unless
    /// `sync` is asked for, and returns when this is on the disk.
    ///
    /// # Errors
    /// As [`Journal::draft`]; the entry then comes back at the next start, unless [`Journal::sync_settled`] succeeds
    /// later.
    pub fn settle(&self, entry: EntryId, sync: bool) -> Result<(), Error> {
        // In one step: `tidy` must not reclaim a segment with the record that settles an entry before the entry counts
        // as settled.
        let noted = self.append_and(&Record::Settled { entry }, |log, place| {
            log.settled = log.appended;
            log.bury(entry, place.segment..=place.segment);
        });
        noted.inspect_err(|_| {
            self.log().unsettled.insert(entry);
        })?;
        if sync {
            self.sync()?;
        }
        self.tidy();
        Ok(())
    }

    /// Seals what is appended from now on under new data keys, in a new segment. What stands stays as it is, and opens
    /// under its own.
    ///
    /// # Errors
    /// As [`Journal::draft`]; the present keys then stay in use.
    pub fn renew(&self, keys: NewKeys) -> Result<(), Error> {
        let mut log = self.log();
        let (epoch, envelope) = Epoch::begin(log.segment + 1, keys)?;
        let begun = epoch.store(&self.session.directory).and_then(|()| self.rotate(&mut log, Arc::new(envelope)));
        if log.segment != epoch.first_segment {
            // The present keys will seal the segment of this number.
            epoch.remove(&self.session.directory).map_err(|error| log.give_up(&self.session.directory, error))?;
        } else if let Err(error) = remove_unused(&self.session.directory, log.segment) {
            tracing::warn!(%error, "wrapped keys that are no longer needed could not be removed");
        }
        begun
    }

    /// Returns when all that was settled, or was to be, is so on the disk, and does not come back after a loss of
    /// power. Costs nothing when it is.
    ///
    /// # Errors
    /// As [`Journal::draft`].
    pub fn sync_settled(&self) -> Result<(), Error> {
        let unsettled: Vec<EntryId> = self.log().unsettled.iter().copied().collect();
        for entry in unsettled {
            self.settle(entry, false)?;
        }
        let wanted = self.log().settled;
        if self.synced().records < wanted { self.sync() } else { Ok(()) }
    }

    /// The mount has begun to end: one that starts now waits for what this one still has to do. See
    /// [`super::is_about_to_be_free`].
    pub fn note_end(&self) {
        self.session.note_end();
    }

    /// Whether entries can still be kept and settled.
    ///
    /// # Errors
    /// [`Error::Broken`] since the disk failed.
    pub fn usable(&self) -> Result<(), Error> {
        self.log().usable()
    }

    /// Entries that are not settled.
    pub fn live_count(&self) -> usize {
        self.log().live.len()
    }

    /// Ends the journal of a process that ends in order: a session in which everything is settled leaves nothing
    /// behind.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn close(self) -> Result<(), Error> {
        if self.log().live.is_empty() { self.session.remove() } else { self.sync() }
    }

    /// Ends the journal with all that is in it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn give_up(self) -> Result<(), Error> {
        self.session.remove()
    }

    /// Appends a record, and tells where the log ended before it.
    fn append(&self, record: &Record<'_>) -> Result<End, Error> {
        self.append_and(record, |_, _| ())
    }

    /// The same, and lets `note` record what follows from it before another thread has the log.
    fn append_and(&self, record: &Record<'_>, note: impl FnOnce(&mut Log, End)) -> Result<End, Error> {
        let mut log = self.log();
        // On a full disk, what settles entries goes on in the segment that has room set aside for it.
        if log.bytes >= SEGMENT_BYTES_MAX
            && let Err(error) = self.go_on(&mut log)
            && !(record.gives_room_back() && matches!(error, Error::NoSpace))
        {
            return Err(error);
        }
        let place = log.append(&self.budget, record)?;
        note(&mut log, place);
        Ok(place)
    }

    /// Returns when all that was appended before is on the disk: a group commit.
    ///
    /// Threads that come while another thread syncs wait for its end. Then one of them syncs for all. They wait on a
    /// condition and not for a lock, because the thread that has a lock often gets it again before the others wake,
    /// and then each would sync for itself.
    fn sync(&self) -> Result<(), Error> {
        // 1. Wait while another thread syncs; its sync may be enough.
        let wanted = self.log().appended;
        let mut synced = self.synced();
        while synced.busy && synced.records < wanted {
            synced = self.sync_ended.wait(synced).unwrap_or_else(PoisonError::into_inner);
        }
        if synced.records >= wanted {
            return Ok(());
        }
        // 2. Sync, for all that wait, without the lock.
        synced.busy = true;
        drop(synced);
        let written = self.sync_now();
        // 3. Note how far the disk has come, and wake the others.
        let mut synced = self.synced();
        *synced = Synced { records: *written.as_ref().unwrap_or(&synced.records), busy: false };
        self.sync_ended.notify_all();
        written.map(drop)
    }

    /// Syncs, and returns how many records are on the disk then.
    fn sync_now(&self) -> Result<u64, Error> {
        let (file, written) = {
            let log = self.log();
            log.usable()?;
            (Arc::clone(&log.file), log.appended)
        };
        if let Err(error) = file.sync() {
            return Err(self.log().give_up(&self.session.directory, error));
        }
        Ok(written)
    }

    /// Goes on in a new segment under the same keys.
    fn go_on(&self, log: &mut Log) -> Result<(), Error> {
        let envelope = Arc::clone(&log.envelope);
        self.rotate(log, envelope)
    }

    /// Goes on in a new segment, which begins by naming those before it, and where they end. If one is missing later,
    /// or is shorter, another program has removed or cut it. `envelope` seals the new segment and those that follow.
    fn rotate(&self, log: &mut Log, envelope: Arc<Envelope>) -> Result<(), Error> {
        log.usable()?;
        let next = log.segment + 1;
        let charge = self.budget.charge(segment::HEADER_BYTES).ok_or(Error::NoSpace)?;
        log.file.sync().map_err(|error| log.give_up(&self.session.directory, error))?;
        let file = new_segment(&self.session.directory, next, log.record_next)?;
        let (segment, record_next) = (log.segment, log.record_next);
        log.ends.insert(segment, record_next);
        let older = encode_segments(log.ends.iter().map(|(number, end)| (*number, *end)));
        let before = (Arc::clone(&log.file), Arc::clone(&log.envelope), log.segment, log.bytes, log.reserved);
        (log.file, log.envelope, log.segment) = (file, envelope, next);
        (log.bytes, log.reserved) = (segment::HEADER_BYTES, segment::HEADER_BYTES);
        log.segments.insert(next, charge);
        let begun = log.append(&self.budget, &Record::Older { segments: &older });
        if begun.is_ok() {
            let (file, _, segment, bytes, reserved) = before;
            if file.cut(bytes).is_ok() {
                drop(log.segments.get_mut(&segment).map(|charge| charge.split(reserved - bytes)));
            }
        } else {
            (log.file, log.envelope, log.segment, log.bytes, log.reserved) = before;
            log.segments.remove(&next);
            // One that stays is in the way of the next try, which says so.
            let _ = disk::remove(&segment::path(&self.session.directory, next));
        }
        begun.map(drop)
    }

    /// Removes the segments that are no longer needed. The next entry tries again what cannot be removed now.
    fn tidy(&self) {
        if let Err(error) = self.reclaim() {
            tracing::debug!(%error, "the journal keeps room that it does not need");
        }
    }

    /// Removes the segments that hold nothing of use, once it is on the disk that this is so.
    fn reclaim(&self) -> Result<(), Error> {
        let idle: Vec<u32> = {
            let mut log = self.log();
            if log.live.is_empty() && log.bytes >= IDLE_BYTES_MAX {
                log.give_spare_back();
                self.go_on(&mut log)?;
            }
            let useful = |number: &u32| log.live.values().any(|span| span.contains(number));
            log.segments.keys().copied().filter(|number| *number != log.segment && !useful(number)).collect()
        };
        if idle.is_empty() {
            return Ok(());
        }
        for number in &idle {
            self.append(&Record::Reclaimed { segment: *number })?;
        }
        self.settle_again(&idle)?;
        self.sync()?;
        for number in idle {
            let path = segment::path(&self.session.directory, number);
            // Another thread may have been faster.
            let is_first = {
                let mut log = self.log();
                log.ends.remove(&number);
                log.segments.remove(&number).is_some()
            };
            if is_first {
                disk::remove(&path).map_err(at(&path))?;
                // The next one may be what says that entries of this one are settled: it must not be gone before this
                // one is.
                sync_directory(&self.session.directory)?;
                self.log().dead.retain(|_, dead| dead.begun != number);
            }
        }
        Ok(())
    }

    /// Says once more of the entries of other segments that they are settled, where only segments say so that are about
    /// to go.
    fn settle_again(&self, idle: &[u32]) -> Result<(), Error> {
        let goes = |number: u32| idle.contains(&number);
        let entries: Vec<EntryId> = {
            let log = self.log();
            let comes_back = |dead: &Dead| !goes(dead.begun) && dead.settled.clone().any(goes);
            let told_there = log.dead.iter().filter(|(_, dead)| comes_back(dead));
            told_there.map(|(entry, _)| *entry).collect()
        };
        for entry in entries {
            self.append_and(&Record::Settled { entry }, |log, place| {
                if let Some(dead) = log.dead.get_mut(&entry) {
                    dead.settled = place.segment..=place.segment;
                }
            })?;
        }
        Ok(())
    }

    fn synced(&self) -> MutexGuard<'_, Synced> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn begin(session: &Path, envelope: Envelope, budget: &Arc<ByteBudget>) -> Result<Log, Error> {
        let charge = budget.charge(segment::HEADER_BYTES).ok_or(Error::NoSpace)?;
        let mut log = Log {
            envelope: Arc::new(envelope),
            file: new_segment(session, 0, 0)?,
            segment: 0,
            bytes: segment::HEADER_BYTES,
            reserved: segment::HEADER_BYTES,
            appended: 0,
            settled: 0,
            record_next: 0,
            cut_off: 0,
            entry_next: 0,
            segments: BTreeMap::from([(0, charge)]),
            ends: BTreeMap::new(),
            live: HashMap::new(),
            dead: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            broken: None,
        };
        log.append(budget, &Record::Older { segments: &[] })?;
        Ok(log)
    }

    /// Seals a record into its place, for which there is room before it is written. One that could not be written whole
    /// is cut off again.
    fn append(&mut self, budget: &Arc<ByteBudget>, record: &Record<'_>) -> Result<End, Error> {
        self.usable()?;
        let sealed = self.envelope.seal(segment::block(self.record_next, self.cut_off), record.encode().as_slice())?;
        let framed = segment::framed(&sealed);
        let spare_bytes = if record.gives_room_back() { 0 } else { self.spare_bytes() };
        self.reserve(budget, self.bytes + framed.len() as u64, spare_bytes)?;
        let before = self.end();
        if let Err(error) = self.file.append(&framed) {
            self.cut_off += 1;
            self.cut(before, self.spare_bytes());
            return Err(at(Path::new("the journal's segment"))(error));
        }
        self.bytes += framed.len() as u64;
        self.record_next += self.cut_off + 1;
        self.cut_off = 0;
        self.appended += 1;
        Ok(before)
    }

    /// An entry is settled by what lies in these segments.
    fn bury(&mut self, entry: EntryId, settled: RangeInclusive<u32>) {
        self.unsettled.remove(&entry);
        if let Some(span) = self.live.remove(&entry) {
            self.dead.insert(entry, Dead { begun: *span.start(), settled });
        }
    }

    /// What has to stay free for all that is live to be settled, and for what is settled to stay so.
    fn spare_bytes(&self) -> u64 {
        SPARE_BYTES + SETTLE_BYTES * self.live.len() as u64 + SETTLE_AGAIN_BYTES * self.dead.len() as u64
    }

    /// Sees to it that the segment can grow to `bytes` and has `spare_bytes` left then. The disk is asked first, so
    /// that a full one is found out before anything is written; one that cannot be asked is found full by writing.
    fn reserve(&mut self, budget: &Arc<ByteBudget>, bytes: u64, spare_bytes: u64) -> Result<(), Error> {
        let needed = bytes + spare_bytes;
        if needed <= self.reserved {
            return Ok(());
        }
        let wanted = needed.next_multiple_of(PAGE_BYTES);
        let charge = budget.charge(wanted - self.reserved).ok_or(Error::NoSpace)?;
        self.file.reserve(self.reserved, wanted - self.reserved).map_err(at(Path::new("the journal's segment")))?;
        self.charge().merge(charge);
        self.reserved = wanted;
        Ok(())
    }

    fn charge(&mut self) -> &mut Charge {
        self.segments.get_mut(&self.segment).expect("the segment that is written to is on the disk")
    }

    fn end(&self) -> End {
        End { segment: self.segment, bytes: self.bytes, record_next: self.record_next, cut_off: self.cut_off }
    }

    /// Cuts off what was appended since `end`, and gives its room back but for `spare_bytes`: those never stop being
    /// charged, so that nothing else can take them.
    fn cut(&mut self, end: End, spare_bytes: u64) {
        if let Err(worse) = self.file.cut(end.bytes) {
            self.broken = Some(worse.to_string());
            return;
        }
        self.cut_off += self.record_next - end.record_next;
        (self.bytes, self.record_next) = (end.bytes, end.record_next);
        let kept = match spare_bytes {
            0 => end.bytes,
            spare_bytes => (end.bytes + spare_bytes).next_multiple_of(PAGE_BYTES).min(self.reserved),
        };
        // What was set aside on the disk went with the end. Should the disk be full at once, that is found by writing.
        let _ = self.file.reserve(end.bytes, kept - end.bytes);
        let freed_bytes = self.reserved - kept;
        self.reserved = kept;
        drop(self.charge().split(freed_bytes));
    }

    /// The segment is about to be followed by another, and nothing in it is of use.
    fn give_spare_back(&mut self) {
        self.cut(self.end(), 0);
    }

    fn usable(&self) -> Result<(), Error> {
        self.broken.clone().map_or(Ok(()), |why| Err(Error::Broken(why)))
    }

    /// After a failed sync it is unknown what is on the disk, and a second sync would not tell (fsync(2)).
    fn give_up(&mut self, path: &Path, error: std::io::Error) -> Error {
        self.broken = Some(error.to_string());
        at(path)(error)
    }
}

fn new_segment(session: &Path, number: u32, first_record: u64) -> Result<Arc<SegmentFile>, Error> {
    let path = segment::path(session, number);
    let file = SegmentFile::create(&path).map_err(at(&path))?;
    let written = file.append(&segment::header(first_record)).and_then(|()| file.sync()).map_err(at(&path));
    written.and_then(|()| sync_directory(session)).inspect_err(|_| {
        // One that stays is in the way of the next try, which says so.
        let _ = disk::remove(&path);
    })?;
    Ok(Arc::new(file))
}
