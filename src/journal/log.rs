//! The journal of this process: appended to by many threads, synced in groups.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::crypto::Envelope;
use crate::sealed::{ByteBudget, Charge};

use super::disk::{self, SegmentFile};
use super::record::{Record, encode_segments};
use super::session::sync_directory;
use super::{Error, NewSession, Session, at, segment};

/// A segment that has grown to this many bytes is followed by a new one. Tests need not write as much.
const SEGMENT_BYTES_MAX: u64 = if cfg!(test) { 64 << 10 } else { 64 << 20 };
/// A segment of this many bytes is given up as soon as nothing in the journal is of use any more.
const IDLE_BYTES_MAX: u64 = SEGMENT_BYTES_MAX / 16;

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
    envelope: Envelope,
    budget: Arc<ByteBudget>,
    log: Mutex<Log>,
    /// How many records are on the disk for good. Taken before `log`, never after it.
    synced: Mutex<u64>,
}

/// The end of the log, and what of it is still of use.
struct Log {
    file: Arc<SegmentFile>,
    segment: u32,
    /// Bytes of the segment that is written to.
    bytes: u64,
    record_next: u64,
    /// The number of the first record after the last that settles an entry.
    settled_next: u64,
    entry_next: u64,
    /// The segments on the disk, and what each costs.
    segments: BTreeMap<u32, Charge>,
    /// The segments over which each entry reaches that is not settled.
    live: HashMap<EntryId, RangeInclusive<u32>>,
    broken: Option<String>,
}

/// An entry that is being written. It counts once it is finished; dropped before, it never was.
pub struct Draft<'a> {
    journal: &'a Journal,
    entry: EntryId,
    replaces: Option<EntryId>,
    content_bytes: u64,
    finished: bool,
}

impl Journal {
    /// Begins a journal in a new session below `directory`. What it takes of the disk is charged to `budget`.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`], [`Error::Crypto`].
    pub fn create(directory: &Path, new: NewSession, budget: Arc<ByteBudget>) -> Result<Journal, Error> {
        let (session, envelope) = Session::create(directory, new)?;
        let file = new_segment(&session.directory, 0, 0)?;
        let charge = budget.charge(segment::HEADER_BYTES).ok_or(Error::NoSpace)?;
        let mut log = Log {
            file,
            segment: 0,
            bytes: segment::HEADER_BYTES,
            record_next: 0,
            settled_next: 0,
            entry_next: 0,
            segments: BTreeMap::from([(0, charge)]),
            live: HashMap::new(),
            broken: None,
        };
        log.append(&envelope, &budget, &Record::Older { segments: &[] })?;
        Ok(Journal { session, envelope, budget, log: Mutex::new(log), synced: Mutex::new(0) })
    }

    /// The directory of its session.
    pub fn directory(&self) -> &Path {
        &self.session.directory
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
            let segment = log.segment;
            log.live.insert(entry, segment..=segment);
            entry
        };
        let draft = Draft { journal: self, entry, replaces, content_bytes: 0, finished: false };
        self.append(&Record::Begin { entry, replaces, description })?;
        Ok(draft)
    }

    /// The entry is of no use any more: the store has it, or its file is gone. After a crash it may come back unless `sync` is asked
    /// for, and returns when this is on the disk.
    ///
    /// # Errors
    /// As [`Journal::draft`]; the entry then comes back at the next start.
    pub fn settle(&self, entry: EntryId, sync: bool) -> Result<(), Error> {
        self.append(&Record::Settled { entry })?;
        {
            let mut log = self.log();
            log.settled_next = log.record_next;
        }
        if sync {
            self.sync()?;
        }
        self.log().live.remove(&entry);
        self.reclaim()
    }

    /// Returns when all that was settled is so on the disk, and does not come back after a loss of power. Costs nothing when it is.
    ///
    /// # Errors
    /// As [`Journal::draft`].
    pub fn sync_settled(&self) -> Result<(), Error> {
        let wanted = self.log().settled_next;
        let synced = *self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if synced < wanted { self.sync() } else { Ok(()) }
    }

    /// Entries that are not settled.
    pub fn live_count(&self) -> usize {
        self.log().live.len()
    }

    /// Ends the journal of a process that ends in order: a session in which everything is settled leaves nothing behind.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn close(self) -> Result<(), Error> {
        if self.log().live.is_empty() { self.session.remove() } else { self.sync() }
    }

    fn append(&self, record: &Record<'_>) -> Result<(), Error> {
        let mut log = self.log();
        if log.bytes >= SEGMENT_BYTES_MAX {
            self.rotate(&mut log)?;
        }
        log.append(&self.envelope, &self.budget, record)
    }

    /// Returns when all that was appended before is on the disk. Whoever comes while another one syncs waits for it, and finds most
    /// often that his records went with those of the next.
    fn sync(&self) -> Result<(), Error> {
        let wanted = self.log().record_next;
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if *synced >= wanted {
            return Ok(());
        }
        let (file, written) = {
            let log = self.log();
            log.usable()?;
            (Arc::clone(&log.file), log.record_next)
        };
        if let Err(error) = file.sync() {
            return Err(self.log().give_up(&self.session.directory, error));
        }
        *synced = written;
        Ok(())
    }

    /// Goes on in a new segment, which begins by naming those before it: one that is missing later was removed by somebody else.
    fn rotate(&self, log: &mut Log) -> Result<(), Error> {
        log.usable()?;
        let next = log.segment + 1;
        let charge = self.budget.charge(segment::HEADER_BYTES).ok_or(Error::NoSpace)?;
        log.file.sync().map_err(|error| log.give_up(&self.session.directory, error))?;
        let file = new_segment(&self.session.directory, next, log.record_next)?;
        let older = encode_segments(log.segments.keys().copied());
        (log.file, log.segment, log.bytes) = (file, next, segment::HEADER_BYTES);
        log.segments.insert(next, charge);
        log.append(&self.envelope, &self.budget, &Record::Older { segments: &older })
    }

    /// Removes the segments that hold nothing of use, once it is on the disk that this is so.
    fn reclaim(&self) -> Result<(), Error> {
        let idle: Vec<u32> = {
            let mut log = self.log();
            if log.live.is_empty() && log.bytes >= IDLE_BYTES_MAX {
                self.rotate(&mut log)?;
            }
            let useful = |number: &u32| log.live.values().any(|span| span.contains(number));
            log.segments.keys().copied().filter(|number| *number != log.segment && !useful(number)).collect()
        };
        for number in &idle {
            self.append(&Record::Reclaimed { segment: *number })?;
        }
        if idle.is_empty() {
            return Ok(());
        }
        self.sync()?;
        for number in idle {
            let path = segment::path(&self.session.directory, number);
            // Another thread may have been faster.
            if self.log().segments.remove(&number).is_some() {
                disk::remove(&path).map_err(at(&path))?;
                // The next one may be what says that entries of this one are settled: it must not be gone before this one is.
                sync_directory(&self.session.directory)?;
            }
        }
        Ok(())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Seals a record into its place. A record that could not be written whole is cut off again.
    fn append(&mut self, envelope: &Envelope, budget: &Arc<ByteBudget>, record: &Record<'_>) -> Result<(), Error> {
        self.usable()?;
        let sealed = envelope.seal(segment::block(self.record_next), record.encode().as_slice())?;
        let framed = segment::framed(&sealed);
        let charge = budget.charge(framed.len() as u64).ok_or(Error::NoSpace)?;
        if let Err(error) = self.file.append(&framed) {
            if let Err(worse) = self.file.cut(self.bytes) {
                self.broken = Some(worse.to_string());
            }
            return Err(at(Path::new("the journal's segment"))(error));
        }
        self.bytes += framed.len() as u64;
        self.record_next += 1;
        self.segments.get_mut(&self.segment).expect("the segment that is written to is on the disk").merge(charge);
        Ok(())
    }

    fn usable(&self) -> Result<(), Error> {
        self.broken.clone().map_or(Ok(()), |why| Err(Error::Broken(why)))
    }

    /// After a failed sync nobody knows what is on the disk, and a second sync would not tell (fsync(2)).
    fn give_up(&mut self, path: &Path, error: std::io::Error) -> Error {
        self.broken = Some(error.to_string());
        at(path)(error)
    }
}

impl Draft<'_> {
    /// Adds content: any ranges that do not overlap, in any order, each of at most 16 MiB less a few bytes.
    ///
    /// # Errors
    /// As [`Journal::draft`]; the entry is lost then.
    pub fn add(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.content_bytes += bytes.len() as u64;
        self.journal.append(&Record::Content { entry: self.entry, offset, bytes })
    }

    /// Returns when the entry stands on the disk.
    ///
    /// # Errors
    /// As [`Journal::draft`]; the entry is lost then.
    pub fn finish(mut self) -> Result<EntryId, Error> {
        self.journal.append(&Record::End { entry: self.entry, content_bytes: self.content_bytes })?;
        {
            let mut log = self.journal.log();
            let segment = log.segment;
            let span = log.live.get_mut(&self.entry).expect("a draft is live until it is settled");
            *span = *span.start()..=segment;
        }
        self.journal.sync()?;
        self.finished = true;
        if let Some(replaced) = self.replaces {
            self.journal.log().live.remove(&replaced);
            self.journal.reclaim()?;
        }
        Ok(self.entry)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.journal.log().live.remove(&self.entry);
        }
    }
}

fn new_segment(session: &Path, number: u32, first_record: u64) -> Result<Arc<SegmentFile>, Error> {
    let path = segment::path(session, number);
    let file = SegmentFile::create(&path).map_err(at(&path))?;
    let written = file.append(&segment::header(first_record)).and_then(|()| file.sync()).map_err(at(&path));
    if let Err(error) = written.and_then(|()| sync_directory(session)) {
        // Else the next try, when there is room again, would find the name taken.
        disk::remove(&path).map_err(at(&path))?;
        return Err(error);
    }
    Ok(Arc::new(file))
}
