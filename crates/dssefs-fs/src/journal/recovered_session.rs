//! What a process left behind: the entries that stand and are not settled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use dssefs_seal::crypto::{BlockId, Opener};
use dssefs_seal::secret::{Key, PlainBuf};

use rustix::io::Errno;

use super::keys::numbers;
use super::record::{Record, decode_segments};
use super::segment::{self, Found, Reader};
use super::{EntryId, Epoch, Error, Session};

/// Something that is not as it was written. The entries that it does not concern are as good as ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The newest segment ends in bytes that are no record: the process died while it wrote, or they were changed. An
    /// entry whose end they were was not acknowledged, unless another program changed them.
    TornEnd {
        /// The segment.
        path: PathBuf,
        /// Where the last whole record ends.
        offset: u64,
    },
    /// A record was changed, moved, repeated or cut. What follows it in its segment cannot be read.
    Tampered {
        /// The segment.
        path: PathBuf,
        /// Where the record lies.
        offset: u64,
    },
    /// The disk does not give back what lies there. What follows it in its segment cannot be read.
    Unreadable {
        /// The segment.
        path: PathBuf,
        /// Where the record lies.
        offset: u64,
    },
    /// A segment that was not reclaimed is not there.
    Missing {
        /// Where it was.
        path: PathBuf,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::TornEnd { path, offset } => write!(
                f,
                "{} ends at byte {offset} in the middle of a record: the process was stopped while it wrote there, \
                 or another program changed it",
                path.display()
            ),
            Damage::Tampered { path, offset } => {
                write!(f, "{} was changed at byte {offset}; what follows in it is not used", path.display())
            }
            Damage::Unreadable { path, offset } => write!(
                f,
                "the disk cannot read {} at byte {offset}, nor what follows in it; copy what else is on that disk",
                path.display()
            ),
            Damage::Missing { path } => write!(f, "another program removed {}", path.display()),
        }
    }
}

/// What a session left, opened.
pub struct RecoveredSession {
    session: Session,
    openers: Openers,
    entries: BTreeMap<EntryId, RecoveredEntry>,
    damage: Vec<Damage>,
}

/// One entry: complete, and not settled.
pub struct RecoveredEntry {
    /// What was given to [`super::Journal::draft`].
    pub description: PlainBuf,
    /// Bytes of its content.
    pub content_bytes: u64,
    pieces: Vec<Piece>,
    /// The segment that it begins in.
    segment: u32,
}

/// What opens the segments: for each epoch its first segment and its keys, oldest first.
struct Openers(Vec<(u32, Opener)>);

/// Where a piece of content lies.
struct Piece {
    segment: u32,
    at: u64,
    block: BlockId,
}

/// An entry that is being read together.
#[derive(Default)]
struct Partial {
    description: PlainBuf,
    replaces: Option<EntryId>,
    pieces: Vec<Piece>,
    content_bytes: u64,
    segment: u32,
}

/// What all segments say together.
#[derive(Default)]
struct Reading {
    /// The segment that is being read.
    segment: u32,
    /// The number that the next record has if none was taken away. A record with an earlier number is refused: a
    /// segment that an attacker has copied or renamed opens record by record, and would bring back what was settled.
    record_next: u64,
    /// Where each segment ends that was read to its end.
    ends: BTreeMap<u32, End>,
    partial: BTreeMap<EntryId, Partial>,
    complete: BTreeMap<EntryId, RecoveredEntry>,
    /// The segments that existed when each was begun, and the numbers that follow their last records.
    older: BTreeMap<u32, BTreeMap<u32, u64>>,
    reclaimed: BTreeSet<u32>,
    damage: Vec<Damage>,
}

/// The end of a segment.
struct End {
    path: PathBuf,
    offset: u64,
    /// The number that follows that of its last record, if it has any.
    record_next: Option<u64>,
}

impl RecoveredSession {
    /// Reads what `session` left, under the inner and the outer key of each of its epochs.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Crypto`]. What was tampered with is [`RecoveredSession::damage`] and no error.
    pub fn read(session: Session, keys: &[[Key; 2]]) -> Result<RecoveredSession, Error> {
        let opener = |(epoch, keys): (&Epoch, &[Key; 2])| Ok((epoch.first_segment, epoch.opener(keys)?));
        let openers = Openers(session.epochs.iter().zip(keys).map(opener).collect::<Result<_, Error>>()?);
        let numbers = numbers(&session.directory, segment::number)?;
        let mut reading = Reading::default();
        for number in &numbers {
            let newest = Some(number) == numbers.last();
            reading.segment = *number;
            match reading.read_segment(&openers, &session.directory, newest) {
                // Reclaimed since its name was read.
                Err(Error::Io { source, .. }) if session.in_use && source.kind() == io::ErrorKind::NotFound => {}
                read => read?,
            }
        }
        for number in reading.missing(&numbers) {
            reading.damage.push(Damage::Missing { path: segment::path(&session.directory, number) });
        }
        reading.tell_cuts();
        reading.forget_reclaimed();
        if session.in_use {
            // Most often the record that is just being written.
            reading.damage.retain(|damage| !matches!(damage, Damage::TornEnd { .. }));
        }
        Ok(RecoveredSession { session, openers, entries: reading.complete, damage: reading.damage })
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What stands and is not settled, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = (EntryId, &RecoveredEntry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// What is not as it was written.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The content of `entry`, piece by piece as it was added.
    pub fn content<'a>(&'a self, entry: &'a RecoveredEntry) -> Content<'a> {
        Content { left: self, pieces: entry.pieces.iter() }
    }

    /// Every entry was dealt with: removes the session from the disk. One that is damaged, and not only torn at its end
    /// as a crash leaves it, is set aside instead, for a person who looks into it. The next mount does not find
    /// its entries again.
    ///
    /// # Errors
    /// It cannot be removed or renamed.
    pub fn dealt_with(self) -> Result<(), Error> {
        let torn = |damage: &Damage| matches!(damage, Damage::TornEnd { .. });
        if self.damage.iter().all(torn) { self.session.remove() } else { self.session.set_aside() }
    }
}

/// The content of an entry: offset and bytes.
pub struct Content<'a> {
    left: &'a RecoveredSession,
    pieces: std::slice::Iter<'a, Piece>,
}

impl Iterator for Content<'_> {
    type Item = Result<(u64, PlainBuf), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pieces.next().map(|piece| self.left.open(piece))
    }
}

impl RecoveredSession {
    fn open(&self, piece: &Piece) -> Result<(u64, PlainBuf), Error> {
        let path = segment::path(&self.session.directory, piece.segment);
        let tampered = || Error::Tampered { path: path.clone(), offset: piece.at };
        let reader = Reader::open(path.clone())?.ok_or_else(tampered)?;
        let Found::Record(sealed, _) = reader.record_at(piece.at)? else { return Err(tampered()) };
        let mut plain = PlainBuf::default();
        let opener = self.openers.of(piece.segment).ok_or_else(tampered)?;
        opener.open(piece.block, sealed, &mut plain).map_err(|_| tampered())?;
        match Record::decode(plain.as_slice()) {
            Some(Record::Content { offset, bytes, .. }) => Ok((offset, PlainBuf::copy_of(bytes))),
            _ => Err(tampered()),
        }
    }
}

impl Openers {
    /// None when the keys of the epoch were removed.
    fn of(&self, segment: u32) -> Option<&Opener> {
        self.0.iter().rev().find(|(first, _)| *first <= segment).map(|(_, opener)| opener)
    }
}

impl Reading {
    /// The segments that are not there and should be. The newest list is the whole truth: what was reclaimed before it
    /// is not in it, and the records that said so may be gone.
    fn missing(&self, numbers: &BTreeSet<u32>) -> BTreeSet<u32> {
        let named = self.older.values().next_back().into_iter().flat_map(BTreeMap::keys);
        named.filter(|number| !numbers.contains(number) && !self.reclaimed.contains(number)).copied().collect()
    }

    /// A segment that is there although it was reclaimed was not removed in time, or another program put it back. What
    /// it says is of the past, and what settled its entries may be gone.
    fn forget_reclaimed(&mut self) {
        let Reading { complete, older, reclaimed, .. } = self;
        let later = |number| older.range((Bound::Excluded(number), Bound::Unbounded));
        let left_out = |number: u32| later(number).any(|(_, existing)| !existing.contains_key(&number));
        complete.retain(|_, entry| !reclaimed.contains(&entry.segment) && !left_out(entry.segment));
    }

    fn read_segment(&mut self, openers: &Openers, session: &Path, newest: bool) -> Result<(), Error> {
        // 1. Open the segment. Damage is noted; only a failing disk is an error.
        let number = self.segment;
        let path = &segment::path(session, number);
        let torn = |offset| match newest {
            true => Damage::TornEnd { path: path.to_owned(), offset },
            false => Damage::Tampered { path: path.to_owned(), offset },
        };
        if number == u32::MAX {
            // No journal gets as far, and no keys are of it.
            self.damage.push(Damage::Tampered { path: path.to_owned(), offset: 0 });
            return Ok(());
        }
        let reader = match Reader::open(path.to_owned()) {
            Ok(Some(reader)) => reader,
            Ok(None) => {
                self.damage.push(torn(0));
                return Ok(());
            }
            Err(Error::Tampered { path, offset }) => {
                self.damage.push(Damage::Tampered { path, offset });
                return Ok(());
            }
            Err(error) if is_worn(&error) => {
                self.damage.push(Damage::Unreadable { path: path.to_owned(), offset: 0 });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (mut offset, mut record, mut record_next) = (segment::HEADER_BYTES, reader.first_record, None);
        // 2. Read record by record: open its seal, check that its number follows, and take what it says.
        loop {
            let (sealed, next) = match reader.record_at(offset) {
                Ok(Found::Record(sealed, next)) => (sealed, next),
                Ok(Found::End) => break,
                Ok(Found::Torn) => {
                    self.damage.push(torn(offset));
                    return Ok(());
                }
                Err(error) if is_worn(&error) => {
                    self.damage.push(Damage::Unreadable { path: path.to_owned(), offset });
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let mut plain = PlainBuf::default();
            let block = segment::claimed(record, &sealed);
            let keys = openers.of(number).zip(block);
            let opened = keys.is_some_and(|(keys, block)| keys.open(block, sealed, &mut plain).is_ok());
            let block = block.filter(|block| opened && block.index >= self.record_next);
            let following = block.and_then(|block| block.index.checked_add(1));
            let Some(((said, block), following)) = Record::decode(plain.as_slice()).zip(block).zip(following) else {
                // A disk that lost power may have written the length of its last record and not all of the rest.
                let is_end = !opened && next == reader.bytes;
                let tampered = || Damage::Tampered { path: path.to_owned(), offset };
                self.damage.push(if is_end { torn(offset) } else { tampered() });
                return Ok(());
            };
            self.take(&said, || Piece { segment: number, at: offset, block });
            (self.record_next, record, offset) = (following, following, next);
            record_next = Some(following);
        }
        // 3. Note where it ends.
        self.ends.insert(number, End { path: path.to_owned(), offset, record_next });
        Ok(())
    }

    /// A segment that ends before the record with which it was left was cut between two of them. The newest one alone
    /// may end anywhere.
    fn tell_cuts(&mut self) {
        let left: BTreeMap<u32, u64> = self.older.values().flatten().map(|(number, end)| (*number, *end)).collect();
        for (number, End { path, offset, record_next }) in &self.ends {
            if left.get(number).is_some_and(|end| Some(*end) != *record_next) {
                self.damage.push(Damage::Tampered { path: path.clone(), offset: *offset });
            }
        }
    }

    fn take(&mut self, record: &Record<'_>, piece: impl FnOnce() -> Piece) {
        match *record {
            Record::Begin { entry, replaces, description } => {
                let description = PlainBuf::copy_of(description);
                let segment = self.segment;
                self.partial.insert(entry, Partial { description, replaces, segment, ..Partial::default() });
            }
            Record::Content { entry, bytes, .. } => {
                if let Some(partial) = self.partial.get_mut(&entry) {
                    partial.pieces.push(piece());
                    partial.content_bytes += bytes.len() as u64;
                }
            }
            Record::End { entry, content_bytes } => {
                let partial = self.partial.remove(&entry).filter(|partial| partial.content_bytes == content_bytes);
                if let Some(Partial { description, replaces, pieces, segment, .. }) = partial {
                    replaces.and_then(|replaced| self.complete.remove(&replaced));
                    self.complete.insert(entry, RecoveredEntry { description, content_bytes, pieces, segment });
                }
            }
            Record::Settled { entry } => drop(self.complete.remove(&entry)),
            Record::Older { segments } => drop(self.older.insert(self.segment, decode_segments(segments).collect())),
            Record::Reclaimed { segment } => drop(self.reclaimed.insert(segment)),
        }
    }
}

/// Whether the disk has lost what was to be read. Any other failure may pass, and is no reason to go on without the
/// rest.
fn is_worn(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if Errno::from_io_error(source) == Some(Errno::IO))
}
