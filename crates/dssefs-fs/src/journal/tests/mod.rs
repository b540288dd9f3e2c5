//! The journal on a disk of its own; see `power` for one that loses power.

mod entries;
mod epochs;
mod forged;
mod golden;
mod room;
mod segments;
mod sessions;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use dssefs_seal::sealed::ByteBudget;
use dssefs_seal::secret::Key;

const ROOM: u64 = 1 << 30;

pub(super) fn key(byte: u8) -> Key {
    Key::fill_with(|bytes| {
        bytes.fill(byte);
        Ok::<_, crypto::Error>(())
    })
    .unwrap()
}

/// Wrapped as nothing but its number.
fn wrapped(layer: Layer, key: u8) -> WrappedKey {
    let kms_key = "arn:aws:kms:eu-west-1:111122223333:key/a".to_owned();
    WrappedKey { layer, kms_key, wrapped: key.to_string() }
}

pub(super) fn new_keys(inner: u8) -> NewKeys {
    let wrapped = [wrapped(Layer::Inner, inner), wrapped(Layer::Outer, inner + 1)];
    NewKeys { number: u32::from(inner), wrapped, inner: key(inner), outer: key(inner + 1) }
}

pub(super) fn new(name: &str) -> NewSession {
    NewSession { source: "s3://bucket/".to_owned(), name: name.to_owned(), keys: new_keys(1) }
}

fn journal(directory: &Path) -> Journal {
    journal_within(directory, &ByteBudget::new(ROOM))
}

/// The same, under a limit of its own.
fn journal_within(directory: &Path, budget: &Arc<ByteBudget>) -> Journal {
    Journal::create(directory, new("one"), Arc::clone(budget)).unwrap()
}

fn add(journal: &Journal, description: &str, content: &[(u64, &[u8])]) -> EntryId {
    let mut draft = journal.draft(description.as_bytes(), None).unwrap();
    for (offset, bytes) in content {
        draft.add(*offset, bytes).unwrap();
    }
    draft.finish().unwrap()
}

/// Content of so many KiB, in as many records.
fn add_kibibytes(draft: &mut Draft<'_>, count: u64) {
    (0..count).for_each(|n| draft.add(n << 10, &[7; 1 << 10]).unwrap());
}

/// More than a segment takes.
fn add_large_content(draft: &mut Draft<'_>) {
    add_kibibytes(draft, 70);
}

/// An entry that does not fit into what is left of any segment, so that another one begins.
fn add_large(journal: &Journal, description: &str, replaces: Option<EntryId>) -> EntryId {
    let mut draft = journal.draft(description.as_bytes(), replaces).unwrap();
    add_large_content(&mut draft);
    draft.finish().unwrap()
}

fn left(directory: &Path) -> RecoveredSession {
    left_under(directory, &[1])
}

/// `epochs`: the inner key of each.
fn left_under(directory: &Path, epochs: &[u8]) -> RecoveredSession {
    let (mut found, unusable) = sessions(directory).unwrap();
    assert!(unusable.is_empty(), "{unusable:?}");
    let keys: Vec<[Key; 2]> = epochs.iter().map(|inner| [key(*inner), key(inner + 1)]).collect();
    RecoveredSession::read(found.pop().expect("a session is there"), &keys).unwrap()
}

pub(super) fn descriptions(left: &RecoveredSession) -> Vec<String> {
    left.entries().map(|(_, entry)| String::from_utf8(entry.description.as_slice().to_vec()).unwrap()).collect()
}

pub(super) fn content(left: &RecoveredSession, nth: usize) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let (_, entry) = left.entries().nth(nth).unwrap();
    left.content(entry).map(|piece| piece.map(|(offset, plain)| (offset, plain.as_slice().to_vec()))).collect()
}

fn segment(directory: &Path, number: u32) -> PathBuf {
    segment::path(&directory.join("session-one"), number)
}

/// What a journal of two segments leaves: in the second one it was settled what stands in the first.
fn two_segments(directory: &Path) -> [PathBuf; 2] {
    let journal = journal(directory);
    add(&journal, "stands", &[]);
    let settled = add(&journal, "settled", &[(0, b"alpha")]);
    add(&journal, "large", &[(0, &[7; 70 << 10])]);
    journal.settle(settled, true).unwrap();
    add(&journal, "last", &[]);
    drop(journal);
    [0, 1].map(|number| segment(directory, number))
}
