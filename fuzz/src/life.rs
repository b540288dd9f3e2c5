//! The life of a journal as the program writes it, and a disk in the hands of somebody who keeps old copies.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use dssefs_fs::journal::{
    Draft, EntryId, Journal, Layer, NewKeys, NewSession, RecoveredSession, WrappedKey, sessions_to_read,
};
use dssefs_seal::sealed::ByteBudget;

use super::input::{Input, scratch};
use super::journal::{Entry, State, ends, files, put, state};
use super::local::counting_key;

const STEPS_MAX: usize = 60;
const EDITS_MAX: usize = 6;
const DRAFTS_MAX: usize = 4;
const DISK_BYTES_MAX: u64 = 1 << 20;

/// A journal gives back all that stands. After all that an attacker did with its files, and with copies that they took
/// of them before, it tells damage or gives what stood at some moment.
pub fn life(data: &[u8]) {
    let directory = scratch();
    let mut input = Input::new(data);
    let journal = Journal::create(directory.path(), session(), ByteBudget::new(DISK_BYTES_MAX)).unwrap();
    let own = journal.directory().to_owned();
    let mut life = Life::new(&journal);
    for _ in 0..STEPS_MAX {
        life.step(&mut input);
    }
    let Life { states, copies, drafts, .. } = life;
    let last = files(&own);
    // As when the process dies.
    put_back(&mut input, &copies);
    let is_changed = files(&own) != last;
    let (mut whole, unusable) = sessions_to_read(directory.path()).unwrap();
    let Some(left) = whole.pop().map(|session| {
        let number = |epoch: &dssefs_fs::journal::Epoch| epoch.keys[0].wrapped.parse().unwrap();
        let keys: Vec<_> = session.epochs.iter().map(|epoch| keys_of(number(epoch))).collect();
        RecoveredSession::read(session, &keys).expect("damage is no error")
    }) else {
        panic!("{unusable:?}")
    };
    let found = state(&left);
    if !is_changed {
        assert!(left.damage().is_empty(), "{:?}", left.damage());
        assert_eq!(Some(&found), states.last());
    }
    if left.damage().is_empty() {
        assert!(states.contains(&found), "what never stood is found and no damage is told: {found:?}");
    }
    drop(drafts);
}

/// A journal at work, and what it should give back.
struct Life<'a> {
    journal: &'a Journal,
    drafts: Vec<(Draft<'a>, Entry, Option<EntryId>)>,
    standing: BTreeMap<EntryId, Entry>,
    renewals: u8,
    states: Vec<State>,
    /// What lay on the disk, at moments that the input chose.
    copies: Vec<BTreeMap<PathBuf, Vec<u8>>>,
}

impl<'a> Life<'a> {
    fn new(journal: &'a Journal) -> Life<'a> {
        let (drafts, standing, copies) = (Vec::new(), BTreeMap::new(), Vec::new());
        Life { journal, drafts, standing, renewals: 0, states: vec![State::new()], copies }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 10 {
            1 | 2 if self.drafts.len() < DRAFTS_MAX => self.draft(input),
            3 => self.add(input),
            4 | 5 => self.finish(input),
            6 => self.settle(input),
            7 => self.renew(),
            8 => self.give_up(input),
            9 => self.copies.push(files(self.journal.directory())),
            _ => {}
        }
        let now: State = self.standing.values().cloned().collect();
        if self.states.last() != Some(&now) {
            self.states.push(now);
        }
    }

    fn draft(&mut self, input: &mut Input<'_>) {
        let replaces = self.chosen(input);
        let description = input.take(3).to_vec();
        if let Ok(draft) = self.journal.draft(&description, replaces) {
            self.drafts.push((draft, (description, Vec::new()), replaces));
        }
    }

    fn add(&mut self, input: &mut Input<'_>) {
        let (offset, length) = (input.byte(), input.byte());
        let bytes = input.take(usize::from(length % 32));
        let Some((draft, (_, content), _)) = self.drafts.last_mut() else { return };
        draft.add(offset.into(), bytes).unwrap();
        content.push((offset.into(), bytes.to_vec()));
    }

    fn finish(&mut self, input: &mut Input<'_>) {
        if self.drafts.is_empty() {
            return;
        }
        let (draft, entry, replaces) = self.drafts.remove(input.below(self.drafts.len()));
        let id = draft.finish().unwrap();
        replaces.and_then(|replaced| self.standing.remove(&replaced));
        self.standing.insert(id, entry);
    }

    fn settle(&mut self, input: &mut Input<'_>) {
        if let Some(id) = self.chosen(input) {
            self.journal.settle(id, input.byte() & 1 == 1).unwrap();
            self.standing.remove(&id);
        }
    }

    fn renew(&mut self) {
        self.renewals += 1;
        self.journal.renew(new_keys(self.renewals)).unwrap();
    }

    fn give_up(&mut self, input: &mut Input<'_>) {
        if !self.drafts.is_empty() {
            self.drafts.remove(input.below(self.drafts.len()));
        }
    }

    /// One of the entries that stand; none, too, where there is a choice.
    fn chosen(&self, input: &mut Input<'_>) -> Option<EntryId> {
        self.standing.keys().nth(input.below(self.standing.len() + 1)).copied()
    }
}

fn session() -> NewSession {
    NewSession { source: "s3://b".into(), name: "0".into(), keys: new_keys(0) }
}

fn new_keys(number: u8) -> NewKeys {
    let wrapped = |layer| WrappedKey { layer, kms_key: "arn".into(), wrapped: number.to_string() };
    let [inner, outer] = keys_of(number);
    NewKeys { number: number.into(), wrapped: [wrapped(Layer::Inner), wrapped(Layer::Outer)], inner, outer }
}

fn keys_of(number: u8) -> [dssefs_seal::secret::Key; 2] {
    [counting_key(number), counting_key(number ^ 0x80)]
}

/// What somebody does who has copied the disk before: whole files, and records by their places, as they were.
fn put_back(input: &mut Input<'_>, copies: &[BTreeMap<PathBuf, Vec<u8>>]) {
    for _ in 0..EDITS_MAX {
        if input.is_empty() || copies.is_empty() {
            return;
        }
        let (verb, copy) = (input.byte() % 5, &copies[input.below(copies.len())]);
        let Some((path, old)) = copy.iter().nth(input.below(copy.len())) else { continue };
        let is_segment = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-"));
        let mut now = fs::read(path).unwrap_or_default();
        let at = input.below(ends(&now).len());
        match verb {
            0 => put(path, old),
            1 if is_segment => drop(fs::remove_file(path)),
            2 if is_segment => {
                let end = ends(&now)[at];
                now.truncate(end);
                put(path, &now);
            }
            3 if is_segment => put(path, &spliced(&now, old, at, at + 1)),
            4 if is_segment => put(path, &spliced(&now, old, at, ends(&now).len() - 1)),
            _ => {}
        }
    }
}

/// The records of `now`, those from `from` up to `to` as they are in `old`.
fn spliced(now: &[u8], old: &[u8], from: usize, to: usize) -> Vec<u8> {
    let (ends_now, ends_old) = (ends(now), ends(old));
    let part = |bytes: &[u8], ends: &[usize], from: usize, to: usize| {
        let place = |nth: usize| ends[nth.min(ends.len() - 1)].min(bytes.len());
        bytes[place(from)..place(to)].to_vec()
    };
    let head = now[..ends_now[from.min(ends_now.len() - 1)].min(now.len())].to_vec();
    [head, part(old, &ends_old, from, to), part(now, &ends_now, to, usize::MAX)].concat()
}
