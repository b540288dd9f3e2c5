//! Loss of power at every point: what was acknowledged is found again, exactly, and nothing that was never written.
//!
//! A journal is driven at random while its calls to the disk are taped. Then the power is cut after any number of them: of the names
//! made or removed since their directory was synced any may be there, and of the bytes appended since their file was synced any
//! sectors may be there, read as zeros or as something else, in a file of any length between. The next process reads what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::disk::tape::{self, Did};
use super::tests::{content, descriptions, key, new};
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
    /// When somebody began to settle or replace it, and when it was acknowledged that it does not come back.
    given_up: Option<usize>,
    gone: Option<usize>,
}

struct Life {
    directory: tempfile::TempDir,
    tape: Vec<(PathBuf, Did)>,
    entries: BTreeMap<String, Entry>,
}

fn live(dice: &mut Dice) -> Life {
    let directory = tempfile::tempdir().unwrap();
    drop(tape::take());
    let journal = Journal::create(directory.path(), new("one"), crate::sealed::ByteBudget::new(1 << 30)).unwrap();
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut standing: Vec<(String, EntryId)> = Vec::new();
    for number in 0..60 {
        match dice.roll(10) {
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
    Life { directory, tape: tape::take(), entries }
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
}

/// What is on the disk when the power goes after `tape`.
fn remains(tape: &[(PathBuf, Did)], session: &Path, dice: &mut Dice) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut media: BTreeMap<&PathBuf, Medium> = BTreeMap::new();
    for (path, did) in tape {
        match did {
            Did::Sync if path == session => {
                for medium in media.values_mut() {
                    medium.named = medium.renamed.take().unwrap_or(medium.named);
                }
            }
            Did::Sync if path.starts_with(session) => {
                let medium = media.get_mut(path).unwrap();
                medium.synced = medium.bytes.len();
            }
            Did::Sync => {}
            Did::Create => media.entry(path).or_default().renamed = Some(true),
            Did::Append(bytes) => media.get_mut(path).unwrap().bytes.extend(bytes),
            Did::Cut(bytes) => media.get_mut(path).unwrap().cut(*bytes as usize),
            Did::Remove => media.get_mut(path).unwrap().renamed = Some(false),
        }
    }
    let mut left = BTreeMap::new();
    for (path, medium) in media {
        if medium.renamed.filter(|_| dice.roll(2) == 0).unwrap_or(medium.named) {
            left.insert(path.clone(), torn(medium, dice));
        }
    }
    left
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

fn check(life: &Life, cut: usize, seen: &Left) -> Result<(), String> {
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
        let session = life_lived.directory.path().join("session-one");
        // The session itself stood before the first entry; its own making is another test.
        let begun =
            life_lived.tape.iter().position(|(path, did)| *path == session && matches!(did, Did::Sync)).unwrap() + 1;
        for _ in 0..LOSSES {
            let cut = begun + dice.roll(life_lived.tape.len() + 1 - begun);
            let left = remains(&life_lived.tape[..cut], &session, &mut dice);
            let again = tempfile::tempdir().unwrap();
            let own = again.path().join("session-one");
            fs::create_dir(&own).unwrap();
            fs::copy(session.join("session.json"), own.join("session.json")).unwrap();
            for (path, bytes) in &left {
                fs::write(own.join(path.file_name().unwrap()), bytes).unwrap();
            }
            let (mut found, unusable) = sessions(again.path()).unwrap();
            assert!(unusable.is_empty(), "{unusable:?}");
            let seen = Left::read(found.pop().unwrap(), &[[key(1), key(2)]]).unwrap();
            if let Err(how) = check(&life_lived, cut, &seen) {
                panic!("life {life}, power lost after call {cut}: {how}; {:?}", seen.damage());
            }
            assert!(
                !seen.damage().iter().any(|damage| matches!(damage, Damage::Missing { .. })),
                "{:?}",
                seen.damage()
            );
        }
    }
}
