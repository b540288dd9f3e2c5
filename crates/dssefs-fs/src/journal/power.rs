//! Loss of power at every point: what was acknowledged is found again, exactly, and nothing that was never written.
//!
//! A session is made and its journal driven at random, its keys renewed among the rest, while all calls to the disk are
//! taped. Then the power is cut after any number of them: of the names made or removed since their directory was synced
//! any may be there, and of the bytes appended since their file was synced any sectors may be there, read as zeros or
//! as something else, in a file of any length between. The next process reads what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::disk::tape::{self, Did};
use super::tests::{content, descriptions, key, new, new_keys};
use super::*;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;
/// Journals that are driven, unless `DSSEFS_POWER_LIVES` says otherwise, and losses of power that each of them suffers.
const LIVES: u64 = 4;
const LOSSES: u64 = 60;

/// Numbers that a seed decides (SplitMix64, Steele and others 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % sides.max(1) as u64) as usize
    }
}

/// What the journal was asked for, by the length of the tape before and after.
#[derive(Default)]
struct Entry {
    pieces: Vec<(u64, Vec<u8>)>,
    finished: Option<usize>,
    /// When a thread began to settle or replace it, and when it was acknowledged that it does not come back.
    given_up: Option<usize>,
    gone: Option<usize>,
}

struct Life {
    directory: tempfile::TempDir,
    tape: Vec<(PathBuf, Did)>,
    /// The length of the tape when the journal had begun.
    begun: usize,
    entries: BTreeMap<String, Entry>,
}

fn live(dice: &mut Dice) -> Life {
    let directory = tempfile::tempdir().unwrap();
    drop(tape::take());
    let journal = Journal::create(directory.path(), new("one"), dssefs_seal::sealed::ByteBudget::new(1 << 30)).unwrap();
    let begun = tape::length();
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut standing: Vec<(String, EntryId)> = Vec::new();
    for number in 0..60 {
        match dice.roll(11) {
            10 => journal.renew(new_keys(10 + 2 * number)).unwrap(),
            0..6 => begin(&journal, dice, &format!("entry {number}"), &mut entries, &mut standing),
            _ if standing.is_empty() => {}
            6 => journal.sync_settled().unwrap(),
            choice => {
                let (name, id) = standing.remove(dice.roll(standing.len()));
                let entry = entries.get_mut(&name).unwrap();
                entry.given_up = Some(tape::length());
                journal.settle(id, choice == 7).unwrap();
                entry.gone = (choice == 7).then(tape::length);
            }
        }
    }
    drop(journal);
    Life { directory, tape: tape::take(), begun, entries }
}

fn begin(
    journal: &Journal,
    dice: &mut Dice,
    name: &str,
    entries: &mut BTreeMap<String, Entry>,
    standing: &mut Vec<(String, EntryId)>,
) {
    let replaced = (!standing.is_empty() && dice.roll(3) == 0).then(|| standing.remove(dice.roll(standing.len())));
    if let Some((older, _)) = &replaced {
        entries.get_mut(older).unwrap().given_up = Some(tape::length());
    }
    let mut draft = journal.draft(name.as_bytes(), replaced.as_ref().map(|(_, id)| *id)).unwrap();
    let pieces = (0..dice.roll(4)).map(|n| (n as u64 * 100_000, vec![dice.roll(256) as u8; dice.roll(12_000)]));
    let pieces: Vec<_> = pieces.collect();
    pieces.iter().for_each(|(offset, bytes)| draft.add(*offset, bytes).unwrap());
    let id = draft.finish().unwrap();
    if let Some((older, _)) = replaced {
        entries.get_mut(&older).unwrap().gone = Some(tape::length());
    }
    entries.insert(name.to_owned(), Entry { pieces, finished: Some(tape::length()), ..Entry::default() });
    standing.push((name.to_owned(), id));
}

/// A file as the disk may have it.
#[derive(Default)]
struct Medium {
    bytes: Vec<u8>,
    synced: usize,
    /// Whether its name is there for good; and what was done to the name since.
    named: bool,
    renamed: Option<bool>,
}

impl Medium {
    fn cut(&mut self, bytes: usize) {
        self.bytes.truncate(bytes);
        self.synced = self.synced.min(bytes);
    }

    fn suffer(&mut self, did: &Did) {
        match did {
            Did::Append(bytes) => self.bytes.extend(bytes),
            Did::Cut(bytes) => self.cut(*bytes as usize),
            Did::Sync => self.synced = self.bytes.len(),
            Did::Remove => self.renamed = Some(false),
            Did::Create | Did::Rename(_) => unreachable!("these are of names"),
        }
    }

    fn sync_name(&mut self) {
        self.named = self.renamed.take().unwrap_or(self.named);
    }

    fn has_name(&self, dice: &mut Dice) -> bool {
        self.renamed.filter(|_| dice.roll(2) == 0).unwrap_or(self.named)
    }
}

/// The files of the session when the power goes after `cut` calls; none if it goes before the session has its name.
fn remains(life: &Life, cut: usize, dice: &mut Dice) -> Option<BTreeMap<OsString, Vec<u8>>> {
    let parent = life.directory.path();
    // The name that the session gets once it is whole, and its files, which it takes along.
    let (mut session, mut files) = (Medium::default(), BTreeMap::<OsString, Medium>::new());
    for (path, did) in &life.tape[..cut] {
        let is_file = path != parent && path.parent() != Some(parent);
        let file = || path.file_name().unwrap().to_owned();
        match did {
            Did::Rename(to) => session.renamed = Some(to.ends_with("session-one")),
            Did::Sync if path == parent => session.sync_name(),
            Did::Sync if !is_file => files.values_mut().for_each(Medium::sync_name),
            Did::Create => files.entry(file()).or_default().renamed = Some(true),
            did => files.get_mut(&file()).unwrap().suffer(did),
        }
    }
    if !session.has_name(dice) {
        return None;
    }
    let mut left = BTreeMap::new();
    for (name, medium) in files {
        if medium.has_name(dice) {
            left.insert(name, torn(medium, dice));
        }
    }
    Some(left)
}

fn torn(medium: Medium, dice: &mut Dice) -> Vec<u8> {
    let Medium { mut bytes, synced, .. } = medium;
    bytes.truncate(synced + dice.roll(bytes.len() - synced + 1));
    let fate = dice.roll(4);
    for start in (synced..bytes.len()).step_by(SECTOR) {
        // A sector that was synced in part holds what it held: the rest of it is written with it.
        let end = bytes.len().min(start.next_multiple_of(SECTOR).max(start + 1));
        match (fate, dice.roll(3)) {
            (0, _) | (_, 0) => {}
            (1 | 2, _) => bytes[start..end].fill(0),
            _ => bytes[start..end].fill(0xA5),
        }
    }
    bytes
}

fn check(life: &Life, cut: usize, seen: &RecoveredSession) -> Result<(), String> {
    let found: BTreeSet<String> = descriptions(seen).into_iter().collect();
    for (name, entry) in &life.entries {
        let before = |at: Option<usize>| at.is_some_and(|at| at <= cut);
        if before(entry.finished) && !before(entry.given_up) && !found.contains(name) {
            return Err(format!("{name} was acknowledged and is lost"));
        }
        if before(entry.gone) && found.contains(name) {
            return Err(format!("{name} was settled for good and comes back"));
        }
    }
    for (nth, name) in descriptions(seen).iter().enumerate() {
        let pieces = content(seen, nth).map_err(|error| format!("{name}: {error}"))?;
        if life.entries.get(name).is_none_or(|entry| entry.pieces != pieces) {
            return Err(format!("{name} has other content than was written"));
        }
    }
    Ok(())
}

#[test]
#[expect(clippy::print_stdout, reason = "a failure must name its seed")]
fn after_a_loss_of_power_at_any_point_what_was_acknowledged_is_there_and_nothing_is_half() {
    let seed = std::env::var("DSSEFS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |now| now.subsec_nanos().into()));
    println!("DSSEFS_SEED={seed}");
    let mut dice = Dice(seed);
    let lives = std::env::var("DSSEFS_POWER_LIVES").ok().and_then(|text| text.parse().ok()).unwrap_or(LIVES);
    for life in 0..lives {
        let life_lived = live(&mut dice);
        for _ in 0..LOSSES {
            let cut = dice.roll(life_lived.tape.len() + 1);
            if let Err(how) = lose_power(&life_lived, cut, &mut dice) {
                panic!("life {life}, power lost after call {cut}: {how}");
            }
        }
    }
}

/// What the next process makes of what is left.
fn lose_power(life: &Life, cut: usize, dice: &mut Dice) -> Result<(), String> {
    let Some(left) = remains(life, cut, dice) else {
        let is_early = cut < life.begun;
        return is_early.then_some(()).ok_or_else(|| "the session is not there".to_owned());
    };
    let again = tempfile::tempdir().unwrap();
    let own = again.path().join("session-one");
    fs::create_dir(&own).unwrap();
    left.iter().for_each(|(name, bytes)| fs::write(own.join(name), bytes).unwrap());
    let (mut found, unusable) = sessions(again.path()).unwrap();
    let session = found.pop().ok_or_else(|| format!("the session cannot be read: {unusable:?}"))?;
    // The tests wrap a key as its number.
    let keys = |epoch: &Epoch| [0, 1].map(|layer: usize| key(epoch.keys[layer].wrapped.parse().unwrap()));
    let keys: Vec<_> = session.epochs.iter().map(keys).collect();
    let seen = RecoveredSession::read(session, &keys).unwrap();
    check(life, cut, &seen).map_err(|how| format!("{how}; {:?}", seen.damage()))?;
    let is_missed = seen.damage().iter().any(|damage| matches!(damage, Damage::Missing { .. }));
    if is_missed { Err(format!("{:?}", seen.damage())) } else { Ok(()) }
}
