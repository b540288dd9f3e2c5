//! Whole sessions of the journal: written by the documentation alone, changed, and read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dssefs_fs::journal::{RecoveredSession, sessions_to_read};
use dssefs_seal::crypto::{BlockId, Envelope};
use serde_json::json;

use super::input::{Input, scratch};
use super::local::counting_key;

const RECORDS_MAX: usize = 48;
const SEGMENTS_MAX: usize = 6;
const EDITS_MAX: usize = 6;

/// An entry as whoever recovers sees it: description, and pieces of content with their offsets.
pub(super) type Entry = (Vec<u8>, Vec<(u64, Vec<u8>)>);
/// All entries that stand, oldest first.
pub(super) type State = Vec<Entry>;

/// A journal that no attacker changed gives back all that stands and reports nothing. One that was changed is reported,
/// or gives what stood at some moment of its life: nothing is invented, mixed, or brought back out of order.
pub fn journal(data: &[u8]) {
    let directory = scratch();
    let own = directory.path().join("session-0");
    fs::create_dir(&own).unwrap();
    let mut input = Input::new(data);
    let written = History::write(&mut input, &own);
    let before = files(&own);
    edit(&mut input, &own);
    let is_unchanged = files(&own) == before;

    let session = sessions_to_read(directory.path()).unwrap().0.pop().expect("session.json is whole");
    let left = RecoveredSession::read(session, &[[counting_key(1), counting_key(101)]]).expect("damage is no error");
    let found = state(&left);
    assert!(left.damage().iter().all(|damage| damage.to_string().contains("segment-")));
    if is_unchanged && written.all_known {
        assert!(left.damage().is_empty(), "{:?}", left.damage());
        assert_eq!(Some(&found), written.states.last());
    }
    if left.damage().is_empty() {
        assert!(written.states.contains(&found), "what never stood is found and no damage is told: {found:?}");
    }
}

pub(super) fn state(left: &RecoveredSession) -> State {
    let entry = |(_, entry): (_, &_)| {
        let entry: &dssefs_fs::journal::RecoveredEntry = entry;
        let content: Vec<_> = left.content(entry).map(Result::unwrap).collect();
        let bytes: usize = content.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(bytes as u64, entry.content_bytes);
        let content = content.iter().map(|(offset, bytes)| (*offset, bytes.as_slice().to_vec())).collect();
        (entry.description.as_slice().to_vec(), content)
    };
    left.entries().map(entry).collect()
}

/// What was appended, and what stood after each record.
struct History {
    states: Vec<State>,
    /// Whether every record is one that some version writes.
    all_known: bool,
}

/// The files of a session while they are written.
struct Writer<'a> {
    own: &'a Path,
    envelope: Envelope,
    segments: u32,
    /// For each segment that was followed by another, its number and the number of records up to its end.
    older: Vec<u8>,
    records: u64,
    bytes: Vec<u8>,
}

impl Writer<'_> {
    fn append(&mut self, record: &[u8]) {
        let sealed = self.envelope.seal(BlockId { index: self.records, generation: 0 }, record).unwrap();
        self.bytes.extend((sealed.as_bytes().len() as u32).to_be_bytes());
        self.bytes.extend(sealed.as_bytes());
        self.records += 1;
        fs::write(path(self.own, self.segments), &self.bytes).unwrap();
    }

    fn begin_segment(&mut self) {
        self.bytes = [&b"dssefsj1"[..], &self.records.to_be_bytes()].concat();
        self.append(&[&[5], &self.older[..]].concat());
    }
}

impl History {
    fn write(input: &mut Input<'_>, own: &Path) -> History {
        let (envelope, salt) = Envelope::under_data_keys(&counting_key(1), &counting_key(101)).unwrap();
        let key = |layer| json!({ "layer": layer, "kms_key": "arn", "wrapped": "" });
        let session = json!({
            "version": 2, "source": "s3://b", "name": "0", "identity": envelope.file(),
            "keys": [key("inner"), key("outer")], "derivation": { "epoch": 0, "salt": salt },
        });
        fs::write(own.join("session.json"), session.to_string()).unwrap();
        let mut writer = Writer { own, envelope, segments: 0, older: Vec::new(), records: 0, bytes: Vec::new() };
        writer.begin_segment();
        let mut model = Model::default();
        let mut history = History { states: vec![State::new()], all_known: true };
        for _ in 0..RECORDS_MAX {
            let record = match input.byte() % 9 {
                0 => break,
                1 if (writer.segments as usize) < SEGMENTS_MAX => {
                    writer.older.extend(writer.segments.to_be_bytes());
                    writer.older.extend(writer.records.to_be_bytes());
                    writer.segments += 1;
                    writer.begin_segment();
                    continue;
                }
                2 => input.take(24).to_vec(),
                3 => model.end_of(input.byte()),
                4 => [&[4][..], &u64::from(input.byte() % 8).to_be_bytes()].concat(),
                5 | 6 => {
                    let (entry, offset, length) = (input.byte() % 8, input.byte(), input.byte() % 32);
                    let head = [u64::from(entry).to_be_bytes(), u64::from(offset).to_be_bytes()].concat();
                    [&[2], &head[..], input.take(length.into())].concat()
                }
                _ => {
                    let replaced = input.byte();
                    let replaces = if replaced > 7 { u64::MAX } else { replaced.into() };
                    let head = [model.entries_begun.to_be_bytes(), replaces.to_be_bytes()].concat();
                    [&[1], &head[..], input.take(4)].concat()
                }
            };
            // Nobody else removes segments, so nobody says that he will.
            let record = if matches!(record.first(), Some(5 | 6)) { vec![7] } else { record };
            history.all_known &= history.all_known && model.take(&record).is_some();
            writer.append(&record);
            if history.all_known {
                history.states.push(model.complete.values().cloned().collect());
            }
        }
        history
    }
}

/// What docs/FORMAT.md says of records, once more.
#[derive(Default)]
struct Model {
    entries_begun: u64,
    open: BTreeMap<u64, (Option<u64>, Entry)>,
    complete: BTreeMap<u64, Entry>,
}

impl Model {
    /// None for what is no record.
    fn take(&mut self, record: &[u8]) -> Option<()> {
        let (kind, rest) = record.split_first()?;
        let (entry, rest) = rest.split_first_chunk()?;
        let entry = u64::from_be_bytes(*entry);
        match kind {
            1 => {
                let (replaces, description) = rest.split_first_chunk()?;
                let replaces = Some(u64::from_be_bytes(*replaces)).filter(|replaces| *replaces != u64::MAX);
                self.open.insert(entry, (replaces, (description.to_vec(), Vec::new())));
                self.entries_begun += 1;
            }
            2 => {
                let (offset, bytes) = rest.split_first_chunk()?;
                if let Some((_, (_, content))) = self.open.get_mut(&entry) {
                    content.push((u64::from_be_bytes(*offset), bytes.to_vec()));
                }
            }
            3 => {
                let promised = u64::from_be_bytes(rest.try_into().ok()?);
                if let Some((replaces, described)) = self.open.remove(&entry)
                    && promised == bytes_of(&described)
                {
                    replaces.and_then(|replaced| self.complete.remove(&replaced));
                    self.complete.insert(entry, described);
                }
            }
            4 if rest.is_empty() => drop(self.complete.remove(&entry)),
            _ => return None,
        }
        Some(())
    }

    /// The end of one of the entries that are open, as it should be.
    fn end_of(&self, choice: u8) -> Vec<u8> {
        let chosen = self.open.iter().nth(usize::from(choice) % self.open.len().max(1));
        let (entry, bytes) = chosen.map_or((0, 0), |(entry, (_, described))| (*entry, bytes_of(described)));
        [&[3][..], &entry.to_be_bytes(), &bytes.to_be_bytes()].concat()
    }
}

fn bytes_of((_, content): &Entry) -> u64 {
    content.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

fn path(own: &Path, segment: u32) -> PathBuf {
    own.join(format!("segment-{segment:08}"))
}

pub(super) fn files(own: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(own).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// What an attacker does who can write to the disk and knows the format: change, cut, extend, zero, copy, move, swap,
/// remove.
fn edit(input: &mut Input<'_>, own: &Path) {
    for _ in 0..EDITS_MAX {
        if input.is_empty() {
            return;
        }
        let (verb, one, other) = (input.byte() % 9, input.below(SEGMENTS_MAX), input.below(SEGMENTS_MAX + 2));
        let (one, other) = (path(own, one as u32), path(own, other as u32));
        let mut bytes = fs::read(&one).unwrap_or_default();
        let at = input.below(bytes.len() + 1);
        match verb {
            0 => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= input.byte() | 1),
            1 => bytes.truncate(at),
            2 => bytes.extend_from_slice(input.take(40)),
            3 => bytes.iter_mut().skip(at).take(60).for_each(|byte| *byte = 0),
            4 => {
                // At the end of a record, as one who reads the lengths would.
                let end = ends(&bytes).into_iter().rfind(|end| *end <= at).unwrap_or(0);
                bytes.truncate(end);
            }
            5 => bytes.extend(fs::read(&other).unwrap_or_default().get(16..).unwrap_or_default()),
            6 => bytes = fs::read(&other).unwrap_or_default(),
            7 => {
                let theirs = fs::read(&other).unwrap_or_default();
                put(&other, &bytes);
                bytes = theirs;
            }
            _ => bytes.clear(),
        }
        put(&one, &bytes);
    }
}

/// Nothing is no file.
pub(super) fn put(path: &Path, bytes: &[u8]) {
    if bytes.is_empty() {
        // It need not have been there.
        let _ = fs::remove_file(path);
    } else {
        fs::write(path, bytes).unwrap();
    }
}

pub(super) fn ends(segment: &[u8]) -> Vec<usize> {
    let mut ends = vec![16];
    while let Some(length) = segment.get(ends[ends.len() - 1]..).and_then(|rest| rest.first_chunk()) {
        let end = ends[ends.len() - 1] + 4 + u32::from_be_bytes(*length) as usize;
        if end > segment.len() {
            break;
        }
        ends.push(end);
    }
    ends
}
