use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disk::tape;
use super::*;
use crate::secret::Key;

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
    NewKeys { wrapped, inner: key(inner), outer: key(inner + 1) }
}

pub(super) fn new(name: &str) -> NewSession {
    NewSession { source: "s3://bucket/".to_owned(), name: name.to_owned(), keys: new_keys(1) }
}

fn journal(directory: &Path) -> Journal {
    Journal::create(directory, new("one"), crate::sealed::ByteBudget::new(ROOM)).unwrap()
}

fn add(journal: &Journal, description: &str, content: &[(u64, &[u8])]) -> EntryId {
    let mut draft = journal.draft(description.as_bytes(), None).unwrap();
    for (offset, bytes) in content {
        draft.add(*offset, bytes).unwrap();
    }
    draft.finish().unwrap()
}

/// An entry that does not fit into what is left of any segment, so that another one begins.
fn add_large(journal: &Journal, description: &str, replaces: Option<EntryId>) -> EntryId {
    let mut draft = journal.draft(description.as_bytes(), replaces).unwrap();
    (0..70).for_each(|n| draft.add(n << 10, &[7; 1 << 10]).unwrap());
    draft.finish().unwrap()
}

fn left(directory: &Path) -> Left {
    left_under(directory, &[1])
}

/// `epochs`: the inner key of each.
fn left_under(directory: &Path, epochs: &[u8]) -> Left {
    let (mut found, unusable) = sessions(directory).unwrap();
    assert!(unusable.is_empty(), "{unusable:?}");
    let keys: Vec<[Key; 2]> = epochs.iter().map(|inner| [key(*inner), key(inner + 1)]).collect();
    Left::read(found.pop().expect("a session is there"), &keys).unwrap()
}

pub(super) fn descriptions(left: &Left) -> Vec<String> {
    left.entries().map(|(_, entry)| String::from_utf8(entry.description.as_slice().to_vec()).unwrap()).collect()
}

pub(super) fn content(left: &Left, nth: usize) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let (_, entry) = left.entries().nth(nth).unwrap();
    left.content(entry).map(|piece| piece.map(|(offset, plain)| (offset, plain.as_slice().to_vec()))).collect()
}

fn segment(directory: &Path, number: u32) -> PathBuf {
    segment::path(&directory.join("session-one"), number)
}

#[test]
fn what_was_finished_and_not_settled_is_found_again_by_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let first = add(&journal, "first", &[(0, b"alpha"), (100, b"beta")]);
    add(&journal, "second", &[]);
    journal.settle(first, true).unwrap();
    add(&journal, "third", &[(7, b"gamma")]);
    drop(journal.draft(b"never finished", None).unwrap());
    drop(journal);
    let left = left(directory.path());
    assert_eq!(descriptions(&left), ["second", "third"]);
    assert_eq!(content(&left, 1).unwrap(), [(7, b"gamma".to_vec())]);
    assert_eq!(left.damage(), []);
    left.dealt_with().unwrap();
    assert!(sessions(directory.path()).unwrap().0.is_empty());
}

#[test]
fn an_entry_takes_the_place_of_another_in_one_step() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let first = add(&journal, "first", &[]);
    drop(journal.draft(b"unfinished", Some(first)).unwrap());
    let second = journal.draft(b"second", Some(first)).unwrap().finish().unwrap();
    assert_eq!(journal.live_count(), 1);
    journal.draft(b"third", Some(second)).unwrap().finish().unwrap();
    drop(journal);
    assert_eq!(descriptions(&left(directory.path())), ["third"]);
}

#[test]
fn a_journal_in_which_all_is_settled_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let entry = add(&journal, "first", &[(0, b"alpha")]);
    journal.settle(entry, false).unwrap();
    journal.close().unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn the_session_of_a_living_process_is_nobody_elses() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let (found, unusable) = sessions(directory.path()).unwrap();
    assert!(found.is_empty());
    assert!(matches!(unusable.as_slice(), [Error::InUse(_)]), "{unusable:?}");
    drop(journal);
    assert_eq!(sessions(directory.path()).unwrap().0.len(), 1);
}

#[test]
fn a_journal_of_many_segments_gives_back_what_is_settled_and_keeps_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let budget = crate::sealed::ByteBudget::new(ROOM);
    let journal = Journal::create(directory.path(), new("one"), std::sync::Arc::clone(&budget)).unwrap();
    let kibibyte = vec![7; 1 << 10];
    let large = |name: &str| {
        let mut draft = journal.draft(name.as_bytes(), None).unwrap();
        (0..40).for_each(|n| draft.add(n << 10, &kibibyte).unwrap());
        draft.finish().unwrap()
    };
    let [first, _second, third] = ["first", "second", "third"].map(large);
    assert!(segment(directory.path(), 1).exists());
    journal.settle(first, false).unwrap();
    assert!(segment(directory.path(), 0).exists(), "the second one begins in it");
    journal.settle(third, false).unwrap();
    assert!(budget.used_bytes() > 120 << 10);
    drop(journal);
    let left = left(directory.path());
    assert_eq!((descriptions(&left), left.damage()), (vec!["second".to_owned()], &[][..]));
    assert_eq!(content(&left, 0).unwrap().len(), 40);
}

#[test]
fn segments_without_use_are_removed_and_their_room_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let budget = crate::sealed::ByteBudget::new(ROOM);
    let journal = Journal::create(directory.path(), new("one"), std::sync::Arc::clone(&budget)).unwrap();
    let kibibyte = vec![7; 1 << 10];
    for round in 0..20 {
        let mut draft = journal.draft(b"large", None).unwrap();
        (0..8).for_each(|n| draft.add(n << 10, &kibibyte).unwrap());
        let entry = draft.finish().unwrap();
        journal.settle(entry, false).unwrap();
        assert!(budget.used_bytes() <= 20 << 10, "{} bytes in round {round}", budget.used_bytes());
    }
    let last = add(&journal, "last", &[]);
    drop(journal);
    let left = left(directory.path());
    assert_eq!((descriptions(&left), left.damage()), (vec!["last".to_owned()], &[][..]));
    assert_eq!(left.entries().next().unwrap().0, last);
}

#[test]
fn a_full_budget_is_no_space_and_what_stands_goes_on_standing() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::create(directory.path(), new("one"), crate::sealed::ByteBudget::new(30_000)).unwrap();
    add(&journal, "first", &[(0, b"alpha")]);
    let mut draft = journal.draft(b"second", None).unwrap();
    assert!(matches!(draft.add(0, &[1; 40_000]), Err(Error::NoSpace)));
    drop(draft);
    add(&journal, "third", &[]);
    drop(journal);
    assert_eq!(descriptions(&left(directory.path())), ["first", "third"]);
}

#[test]
fn an_entry_that_found_no_room_gives_back_what_it_took() {
    let directory = tempfile::tempdir().unwrap();
    let budget = crate::sealed::ByteBudget::new(60_000);
    let journal = Journal::create(directory.path(), new("one"), std::sync::Arc::clone(&budget)).unwrap();
    let first = add(&journal, "first", &[(0, b"alpha")]);
    let before = budget.used_bytes();
    let mut draft = journal.draft(b"second", Some(first)).unwrap();
    let full = (0..20).find_map(|n| draft.add(n * 10_000, &[1; 10_000]).err());
    assert!(matches!(full, Some(Error::NoSpace)));
    let rest = budget.charge(budget.bytes_max() - budget.used_bytes()).unwrap();
    drop(draft);
    assert!(budget.used_bytes() - rest.bytes() <= before, "{} and {before}", budget.used_bytes());
    journal.settle(first, true).unwrap();
    drop(rest);
    add(&journal, "third", &[(0, b"gamma")]);
    drop(journal);
    let left = left(directory.path());
    assert_eq!((descriptions(&left), left.damage()), (vec!["third".to_owned()], &[][..]));
}

#[test]
fn everything_that_stands_can_be_settled_when_there_is_no_room_left() {
    let directory = tempfile::tempdir().unwrap();
    let budget = crate::sealed::ByteBudget::new(ROOM);
    let journal = Journal::create(directory.path(), new("one"), std::sync::Arc::clone(&budget)).unwrap();
    let entries: Vec<_> = (0..300).map(|n| add(&journal, &format!("entry {n}"), &[(0, &[7; 300])])).collect();
    let rest = budget.charge(budget.bytes_max() - budget.used_bytes()).unwrap();
    entries.iter().for_each(|entry| journal.settle(*entry, false).unwrap());
    assert_eq!(journal.live_count(), 0);
    assert!(budget.used_bytes() - rest.bytes() < 30 << 10, "the segments are given back");
    drop(journal);
    let left = left(directory.path());
    assert_eq!((left.entries().count(), left.damage()), (0, &[][..]));
}

#[test]
fn an_entry_over_many_segments_is_whole_whatever_is_settled_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let mut long = journal.draft(b"long", None).unwrap();
    for n in 0..300 {
        long.add(n << 10, &[n as u8; 1 << 10]).unwrap();
        let short = add(&journal, "short", &[]);
        journal.settle(short, false).unwrap();
    }
    long.finish().unwrap();
    drop(journal);
    let left = left(directory.path());
    assert_eq!((descriptions(&left), left.damage()), (vec!["long".to_owned()], &[][..]));
    assert_eq!(content(&left, 0).unwrap().len(), 300);
}

#[test]
fn threads_that_append_together_each_have_their_entry_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                (0..25).for_each(|n| {
                    add(journal, &format!("{thread}-{n}"), &[(n, &[thread; 100])]);
                });
            });
        }
    });
    drop(journal);
    let left = left(directory.path());
    assert_eq!(left.entries().count(), 200);
    assert!(left.entries().all(|(_, entry)| left.content(entry).all(|piece| piece.is_ok())));
}

#[test]
fn threads_that_finish_entries_together_share_their_syncs() {
    const THREADS: u8 = 8;
    const ENTRIES: usize = 12;
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let syncs = |thread: u8| {
        tape::slow(Duration::from_millis(20));
        for n in 0..ENTRIES {
            add(&journal, &format!("{thread}-{n}"), &[]);
        }
        tape::take().iter().filter(|(_, did)| matches!(did, tape::Did::Sync)).count()
    };
    let syncs: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || syncs(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    drop(journal);
    let entries = left(directory.path()).entries().count();
    assert_eq!(entries, usize::from(THREADS) * ENTRIES);
    assert!(syncs >= ENTRIES && syncs * 2 < entries, "{syncs} syncs for {entries} entries");
}

#[test]
fn an_end_that_was_cut_anywhere_costs_only_what_it_cuts_and_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "first", &[(0, b"alpha")]);
    let path = segment(directory.path(), 0);
    let first_ends = fs::metadata(&path).unwrap().len();
    add(&journal, "second", &[(0, b"beta")]);
    drop(journal);
    let whole = fs::read(&path).unwrap();
    for length in first_ends as usize..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let left = left(directory.path());
        assert_eq!(descriptions(&left), ["first"], "cut to {length}");
        let at_a_record = left.damage().is_empty();
        assert!(at_a_record || matches!(left.damage(), [Damage::TornEnd { .. }]), "{:?}", left.damage());
    }
    fs::write(&path, [&whole[..first_ends as usize], &[0; 5000]].concat()).unwrap();
    let left = left(directory.path());
    assert_eq!(descriptions(&left), ["first"]);
    assert!(matches!(left.damage(), [Damage::TornEnd { .. }]), "zeros after the end are no record");
}

#[test]
fn a_flipped_bit_anywhere_is_never_believed() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "first", &[(0, b"alpha")]);
    add(&journal, "second", &[(0, b"beta")]);
    drop(journal);
    let path = segment(directory.path(), 0);
    let whole = fs::read(&path).unwrap();
    for byte in 0..whole.len() {
        let mut changed = whole.clone();
        changed[byte] ^= 0x10;
        fs::write(&path, &changed).unwrap();
        let left = left(directory.path());
        assert!(!left.damage().is_empty(), "byte {byte}");
        for nth in 0..left.entries().count() {
            let name = &descriptions(&left)[nth];
            let expected = if name == "first" { b"alpha".to_vec() } else { b"beta".to_vec() };
            assert_eq!(content(&left, nth).unwrap(), [(0, expected)]);
        }
    }
}

#[test]
fn records_that_were_repeated_swapped_or_left_out_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let path = segment(directory.path(), 0);
    let mut ends = vec![];
    for name in ["first", "second", "third"] {
        add(&journal, name, &[]);
        ends.push(fs::metadata(&path).unwrap().len() as usize);
    }
    drop(journal);
    let whole = fs::read(&path).unwrap();
    let part = |from: usize, to: usize| &whole[from..to];
    let (first, second, third) = (part(0, ends[0]), part(ends[0], ends[1]), part(ends[1], whole.len()));
    for forged in [
        [first, third, second].concat(),
        [first, third].concat(),
        [first, second, second].concat(),
        [first, second, third, &first[16..]].concat(),
    ] {
        fs::write(&path, forged).unwrap();
        let left = left(directory.path());
        assert!(!left.damage().is_empty());
        assert!(
            ["first", "second", "third"]
                .starts_with(&descriptions(&left).iter().map(String::as_str).collect::<Vec<_>>())
        );
    }
}

#[test]
fn a_record_that_was_cut_off_is_not_believed_in_the_place_of_one_that_stands() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let path = segment(directory.path(), 0);
    let first = add(&journal, "first", &[]);
    let settled_at = fs::metadata(&path).unwrap().len() as usize;
    let given_up = journal.draft(b"given up", None).unwrap();
    let cut_off = fs::read(&path).unwrap().split_off(settled_at);
    drop(given_up);
    journal.settle(first, true).unwrap();
    let settled_to = fs::metadata(&path).unwrap().len() as usize;
    add(&journal, "second", &[(0, b"content")]);
    drop(journal);
    assert_eq!(descriptions(&left(directory.path())), ["second"]);
    assert_eq!(content(&left(directory.path()), 0).unwrap(), [(0, b"content".to_vec())]);

    let now = fs::read(&path).unwrap();
    fs::write(&path, [&now[..settled_at], &cut_off, &now[settled_to..]].concat()).unwrap();
    let forged = left(directory.path());
    assert!(matches!(forged.damage(), [Damage::Tampered { .. }]), "{:?}", forged.damage());
    assert_eq!(descriptions(&forged), ["first"], "nothing that follows is believed");
}

#[test]
fn a_segment_that_was_reclaimed_long_ago_is_not_missed() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let large = |name: &str| add_large(&journal, name, None);
    let first = large("first");
    add(&journal, "stays", &[]);
    let third = large("third");
    // What says that the first segment was reclaimed lies in the third.
    journal.settle(first, true).unwrap();
    let fourth = large("fourth");
    journal.settle(third, true).unwrap();
    large("fifth");
    journal.settle(fourth, true).unwrap();
    drop(journal);
    assert!(!segment(directory.path(), 0).exists() && segment(directory.path(), 1).exists());
    let left = left(directory.path());
    assert_eq!((descriptions(&left), left.damage()), (vec!["stays".to_owned(), "fifth".to_owned()], &[][..]));
}

#[test]
fn under_renewed_keys_a_session_goes_on_and_each_segment_opens_under_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let first = add(&journal, "first", &[(0, b"alpha")]);
    add(&journal, "second", &[(0, b"beta")]);
    journal.renew(new_keys(10)).unwrap();
    journal.draft(b"in place of the first", Some(first)).unwrap().finish().unwrap();
    journal.renew(new_keys(20)).unwrap();
    add(&journal, "last", &[(0, b"gamma")]);
    drop(journal);
    let left = left_under(directory.path(), &[1, 10, 20]);
    assert_eq!(descriptions(&left), ["second", "in place of the first", "last"]);
    assert_eq!((content(&left, 0).unwrap(), left.damage()), (vec![(0, b"beta".to_vec())], &[][..]));
    drop(left);
    let wrong = left_under(directory.path(), &[1, 10, 1]);
    assert_eq!(descriptions(&wrong), ["second", "in place of the first"]);
    assert_eq!(wrong.damage().len(), 1);
}

#[test]
fn keys_under_which_nothing_is_left_are_asked_for_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    for keys in [10, 20, 30] {
        let entry = add(&journal, "passes", &[]);
        journal.renew(new_keys(keys)).unwrap();
        journal.settle(entry, true).unwrap();
    }
    journal.renew(new_keys(40)).unwrap();
    add(&journal, "stays", &[]);
    let session = journal.directory().to_owned();
    drop(journal);
    let (found, _) = sessions(directory.path()).unwrap();
    assert_eq!(found[0].epochs.len(), 2, "that of the settling record, and the newest");
    assert_eq!(
        keys::numbers(&session, |name| name.starts_with("keys-").then_some(name.len() as u32)).unwrap().len(),
        1
    );
    drop(found);
    assert_eq!(descriptions(&left_under(directory.path(), &[30, 40])), ["stays"]);
}

#[test]
fn a_renewal_that_was_cut_off_by_a_crash_is_as_if_it_had_not_been() {
    for written in ["nothing", "half", "all"] {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        add(&journal, "first", &[]);
        let (epoch, _) = Epoch::begin(1, new_keys(10)).unwrap();
        epoch.store(journal.directory()).unwrap();
        let path = journal.directory().join("keys-00000001.json");
        let length = fs::metadata(&path).unwrap().len();
        let kept = match written {
            "nothing" => 0,
            "half" => length / 2,
            _ => length,
        };
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(kept).unwrap();
        drop(journal);
        let left = left(directory.path());
        assert_eq!((descriptions(&left), left.damage()), (vec!["first".to_owned()], &[][..]), "{written}");
    }
}

#[test]
fn a_pipe_in_place_of_a_file_is_refused_and_not_waited_at() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "kept", &[]);
    let path = segment(directory.path(), 0);
    drop(journal);
    fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    let left = left(directory.path());
    assert!(descriptions(&left).is_empty() && !left.damage().is_empty(), "{:?}", left.damage());
}

#[test]
fn a_segment_that_somebody_removed_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add_large(&journal, "large", None);
    drop(journal);
    fs::remove_file(segment(directory.path(), 0)).unwrap();
    let left = left(directory.path());
    assert_eq!(left.entries().count(), 0);
    assert!(matches!(left.damage(), [Damage::Missing { .. }]), "{:?}", left.damage());
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

#[test]
fn a_segment_that_was_copied_or_renamed_does_not_bring_back_what_was_settled() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = two_segments(directory.path());
    assert_eq!(descriptions(&left(directory.path())), ["stands", "large", "last"]);
    fs::copy(&first, segment(directory.path(), 2)).unwrap();
    let copied = left(directory.path());
    assert_eq!(descriptions(&copied), ["stands", "large", "last"]);
    assert!(matches!(copied.damage(), [Damage::Tampered { .. }]), "{:?}", copied.damage());
    drop(copied);
    fs::remove_file(segment(directory.path(), 2)).unwrap();
    let bytes = fs::read(&first).unwrap();
    fs::copy(&second, &first).unwrap();
    fs::write(&second, bytes).unwrap();
    let swapped = left(directory.path());
    assert!(!descriptions(&swapped).contains(&"settled".to_owned()));
    assert!(!swapped.damage().is_empty());
}

#[test]
fn an_older_segment_that_was_cut_between_two_records_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let [first, _] = two_segments(directory.path());
    let whole = fs::read(&first).unwrap();
    let mut end = segment::HEADER_BYTES as usize;
    while let Some(length) = whole[end..].first_chunk() {
        end += 4 + u32::from_be_bytes(*length) as usize;
        if end == whole.len() {
            break;
        }
        fs::write(&first, &whole[..end]).unwrap();
        let cut = left(directory.path());
        let told = |damage: &Damage| matches!(damage, Damage::Tampered { path, offset } if *path == first && *offset == end as u64);
        assert!(cut.damage().iter().any(told), "cut to {end}: {:?}", cut.damage());
    }
}

#[test]
fn a_segment_that_was_cut_between_two_records_is_told_after_those_that_followed_it_went() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "first", &[]);
    let end = fs::metadata(segment(directory.path(), 0)).unwrap().len();
    add(&journal, "second", &[]);
    journal.renew(new_keys(3)).unwrap();
    let gone = add(&journal, "gone", &[]);
    journal.renew(new_keys(5)).unwrap();
    journal.settle(gone, true).unwrap();
    assert!(!segment(directory.path(), 1).exists(), "nothing in it is of use");
    drop(journal);
    let whole = left_under(directory.path(), &[1, 5]);
    assert_eq!((descriptions(&whole), whole.damage()), (vec!["first".into(), "second".into()], &[][..]));
    drop(whole);

    fs::OpenOptions::new().write(true).open(segment(directory.path(), 0)).unwrap().set_len(end).unwrap();
    let cut = left_under(directory.path(), &[1, 5]);
    assert_eq!(descriptions(&cut), ["first"]);
    assert!(matches!(cut.damage(), [Damage::Tampered { .. }]), "{:?}", cut.damage());
}

#[test]
fn a_first_record_that_cannot_be_counted_on_from_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let [first, _] = two_segments(directory.path());
    let mut bytes = fs::read(&first).unwrap();
    bytes[8..16].fill(0xFF);
    fs::write(&first, bytes).unwrap();
    assert!(!left(directory.path()).damage().is_empty());
}

#[test]
fn a_file_that_only_looks_like_a_segment_keeps_nobody_from_reading_the_others() {
    let directory = tempfile::tempdir().unwrap();
    two_segments(directory.path());
    for name in ["segment-1", "segment-+0000007", "segment-000000001", "segment-x"] {
        fs::write(directory.path().join("session-one").join(name), "nothing").unwrap();
    }
    let left = left(directory.path());
    assert_eq!((descriptions(&left).len(), left.damage()), (3, &[][..]));
}

#[test]
fn a_record_of_another_session_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let one = journal(directory.path());
    add(&one, "of one", &[]);
    let other = Journal::create(directory.path(), new("two"), crate::sealed::ByteBudget::new(ROOM)).unwrap();
    add(&other, "of two", &[]);
    drop((one, other));
    fs::copy(segment(directory.path(), 0), segment::path(&directory.path().join("session-two"), 0)).unwrap();
    let found = sessions(directory.path()).unwrap().0;
    let two = found.into_iter().find(|session| session.name == "two").unwrap();
    let left = Left::read(two, &[[key(1), key(2)]]).unwrap();
    assert_eq!((left.entries().count(), left.damage().len()), (0, 1));
}

#[test]
fn neither_names_nor_content_are_on_the_disk_in_clear() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "marker-of-a-name", &[(0, b"marker-of-content")]);
    drop(journal);
    for file in fs::read_dir(directory.path().join("session-one")).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(9).any(|nine| nine == b"marker-of"));
    }
}

#[test]
fn a_session_that_was_changed_says_what_is_wrong_with_it() {
    let directory = tempfile::tempdir().unwrap();
    drop(journal(directory.path()));
    let path = directory.path().join("session-one/session.json");
    let text = fs::read_to_string(&path).unwrap();
    for (changed, expected) in [
        (text.replace("\"version\": 1", "\"version\": 2"), "version 2 and not 1"),
        (text.replace("\"inner\"", "\"outer\""), "one of each layer"),
        ("{".to_owned(), "EOF"),
    ] {
        fs::write(&path, changed).unwrap();
        let (found, unusable) = sessions(directory.path()).unwrap();
        assert!(found.is_empty());
        assert!(unusable[0].to_string().contains(expected), "{}", unusable[0]);
    }
}

#[test]
fn who_dies_while_he_makes_or_removes_a_session_leaves_none_and_the_next_one_sweeps() {
    let directory = tempfile::tempdir().unwrap();
    let half = directory.path().join("half-session-dead");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("session.json"), "{").unwrap();
    let (found, unusable) = sessions(directory.path()).unwrap();
    assert!(found.is_empty() && unusable.is_empty(), "{unusable:?}");
    let journal = journal(directory.path());
    assert!(!half.exists());
    journal.close().unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_session_whose_end_is_torn_goes_once_it_was_dealt_with_and_a_changed_one_is_set_aside() {
    for (changed, stays) in [(false, false), (true, true)] {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        add(&journal, "first", &[(0, b"alpha")]);
        add(&journal, "second", &[(0, b"beta")]);
        drop(journal);
        let path = segment(directory.path(), 0);
        let mut bytes = fs::read(&path).unwrap();
        if changed {
            bytes[60] ^= 1;
        } else {
            bytes.truncate(bytes.len() - 1);
        }
        fs::write(&path, bytes).unwrap();
        left(directory.path()).dealt_with().unwrap();
        assert!(sessions(directory.path()).unwrap().0.is_empty(), "the next mount must not meet its entries again");
        assert_eq!(sessions_to_read(directory.path()).unwrap().0.len(), usize::from(stays));
        sessions_to_discard(directory.path()).unwrap().0.into_iter().for_each(|session| session.remove().unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[test]
fn an_entry_stays_settled_when_the_segment_goes_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "stays", &[]);
    let [replaced, settled] = ["replaced", "settled"].map(|name| add(&journal, name, &[]));
    let large = |name: &str, replaces| add_large(&journal, name, replaces);
    let fillers = [large("filler", None), large("in its place", Some(replaced))];
    journal.settle(settled, true).unwrap();
    let last = large("last", None);
    fillers.into_iter().for_each(|entry| journal.settle(entry, true).unwrap());
    large("after all", Some(last));
    drop(journal);
    assert!(segment(directory.path(), 0).exists() && !segment(directory.path(), 2).exists());
    let left = left(directory.path());
    assert_eq!((descriptions(&left), left.damage()), (vec!["stays".to_owned(), "after all".to_owned()], &[][..]));
}

#[test]
fn an_entry_stays_replaced_when_a_segment_goes_in_which_the_one_began_that_took_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let first = add(&journal, "first", &[]);
    add(&journal, "keeps the first segment", &[]);
    journal.renew(new_keys(3)).unwrap();
    let second = journal.draft(b"second", Some(first)).unwrap();
    journal.renew(new_keys(5)).unwrap();
    let second = second.finish().unwrap();
    journal.draft(b"third", Some(second)).unwrap().finish().unwrap();
    assert!(!segment(directory.path(), 1).exists(), "nothing in it is of use");
    drop(journal);
    let left = left_under(directory.path(), &[1, 5]);
    assert_eq!((descriptions(&left), left.damage()), (vec!["keeps the first segment".into(), "third".into()], &[][..]));
}

#[test]
fn a_segment_that_was_reclaimed_and_put_back_is_of_the_past() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let large = |name: &str| add_large(&journal, name, None);
    let first = large("first");
    let old = fs::read(segment(directory.path(), 0)).unwrap();
    let old_too = fs::read(segment(directory.path(), 1)).unwrap();
    journal.settle(first, true).unwrap();
    large("second");
    assert!(!segment(directory.path(), 0).exists() && !segment(directory.path(), 1).exists());
    drop(journal);
    fs::write(segment(directory.path(), 0), old).unwrap();
    fs::write(segment(directory.path(), 1), old_too).unwrap();
    assert_eq!(descriptions(&left(directory.path())), ["second"]);
}

/// unlink(2) said that a pending file was gone, and a local disk that had failed at noting it had the next mount store the file.
#[test]
fn what_could_not_be_settled_is_not_forgotten_and_settled_before_the_next_name_goes() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let [first, second] = ["first", "second"].map(|name| add(&journal, name, &[]));
    tape::fail(Some(tape::Call::Append));
    assert!(matches!(journal.settle(first, false), Err(Error::Io { .. })));
    assert!(matches!(journal.sync_settled(), Err(Error::Io { .. })), "it is not settled yet");
    tape::fail(None);
    journal.sync_settled().unwrap();
    assert_eq!(journal.live_count(), 1);
    tape::fail(Some(tape::Call::Append));
    assert!(journal.settle(second, true).is_err());
    tape::fail(None);
    let mut draft = journal.draft(b"third", Some(second)).unwrap();
    draft.add(0, b"content").unwrap();
    draft.finish().unwrap();
    tape::fail(Some(tape::Call::Append));
    journal.sync_settled().expect("what replaced it has settled it");
    tape::fail(None);
    drop(journal);
    assert_eq!(descriptions(&left(directory.path())), ["third"]);
}

#[test]
fn after_a_failed_sync_nothing_is_said_to_be_settled_for_good() {
    for settles in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        let first = add(&journal, "first", &[]);
        journal.sync_settled().unwrap();
        tape::fail(Some(tape::Call::Sync));
        let failed = match settles {
            true => journal.settle(first, true),
            // Of the entry nobody knows whether it stands, and so whether its file may come back.
            false => journal.draft(b"second", None).and_then(Draft::finish).map(drop),
        };
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        tape::fail(None);
        assert!(matches!(journal.sync_settled(), Err(Error::Broken(_))));
        assert!(matches!(journal.usable(), Err(Error::Broken(_))));
    }
}

#[test]
fn who_counts_sessions_keeps_nobody_from_them() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "first", &[]);
    let (counted, unusable) = sessions_to_count(directory.path()).unwrap();
    assert!(counted.is_empty() && matches!(unusable.as_slice(), [Error::InUse(_)]), "{unusable:?}");
    drop(journal);
    let (counted, _) = sessions_to_count(directory.path()).unwrap();
    assert_eq!(counted.len(), 1);
    assert_eq!(descriptions(&left(directory.path())), ["first"], "while they are still being looked at");
}

#[test]
fn a_mount_that_is_ending_is_told_from_one_that_serves() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let is_about_to_be_free = |source| is_about_to_be_free(journal.directory(), source);
    assert!(!is_about_to_be_free("s3://bucket/"));
    journal.note_end();
    assert!(is_about_to_be_free("s3://bucket/"));
    assert!(!is_about_to_be_free("s3://other/"));
}

#[test]
fn keys_that_no_segment_was_begun_under_keep_nobody_from_the_others() {
    for (name, text) in [("keys-00000001.json", ""), ("keys-99999999.json", "{}"), ("keys-00000002.json", "\0\0\0")] {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        add(&journal, "first", &[]);
        fs::write(journal.directory().join(name), text).unwrap();
        drop(journal);
        let left = left(directory.path());
        assert_eq!((descriptions(&left), left.damage()), (vec!["first".to_owned()], &[][..]), "{name}");
    }
}

/// An entry of which the last record is the one that fills its segment.
fn add_until_full(journal: &Journal, segment: &Path) -> EntryId {
    let bytes = || fs::metadata(segment).unwrap().len();
    let mut draft = journal.draft(b"full", None).unwrap();
    draft.add(0, &[7; 60_000]).unwrap();
    let mut record_bytes = 0;
    for n in 60_000.. {
        let before = bytes();
        if before + record_bytes > 64 << 10 {
            break;
        }
        draft.add(n, &[7]).unwrap();
        record_bytes = bytes() - before;
    }
    let entry = draft.finish().unwrap();
    assert!(bytes() >= 64 << 10, "the next record begins another segment");
    entry
}

#[test]
fn an_entry_that_was_drafted_in_a_full_segment_stays_settled_when_that_goes() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    let full = add_until_full(&journal, &segment(directory.path(), 0));
    assert!(!segment(directory.path(), 1).exists());
    let settled = add(&journal, "settled", &[]);
    add(&journal, "stays", &[]);
    let filler = add_large(&journal, "filler", None);
    journal.settle(settled, true).unwrap();
    let last = add_large(&journal, "last", None);
    [full, filler, last].into_iter().for_each(|entry| journal.settle(entry, true).unwrap());
    drop(journal);
    assert!(!segment(directory.path(), 2).exists(), "the segment that said so has gone");
    assert_eq!(descriptions(&left(directory.path())), ["stays"]);
}

#[test]
fn an_entry_stays_settled_whoever_gives_segments_back_while_that_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "stays", &[]);
    let settled = add(&journal, "settled", &[]);
    let filler = add_large(&journal, "filler", None);
    journal.settle(filler, true).unwrap();
    let newest = segment(directory.path(), 1);
    let bytes = || fs::metadata(&newest).unwrap().len();
    let before = bytes();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            tape::slow(Duration::from_secs(1));
            journal.settle(settled, true).unwrap();
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        while bytes() == before {
            assert!(Instant::now() < deadline, "it is not noted that the entry is settled");
            std::thread::yield_now();
        }
        let mut draft = journal.draft(b"given up", None).unwrap();
        (0..70).for_each(|n| draft.add(n << 10, &[7; 1 << 10]).unwrap());
        drop(draft);
    });
    drop(journal);
    assert!(!newest.exists(), "the segment that said so has gone");
    assert_eq!(descriptions(&left(directory.path())), ["stays"]);
}

#[test]
fn nobody_takes_the_room_that_settling_needs_when_an_entry_found_none() {
    let directory = tempfile::tempdir().unwrap();
    let budget = crate::sealed::ByteBudget::new(60_000);
    let journal = Journal::create(directory.path(), new("one"), std::sync::Arc::clone(&budget)).unwrap();
    let first = add(&journal, "first", &[(0, b"alpha")]);
    let mut draft = journal.draft(b"second", None).unwrap();
    let full = (0..20).find_map(|n| draft.add(n * 10_000, &[1; 10_000]).err());
    assert!(matches!(full, Some(Error::NoSpace)));
    drop(draft);
    let _of_another = budget.charge(budget.bytes_max() - budget.used_bytes()).unwrap();
    journal.settle(first, true).unwrap();
    drop(journal);
    assert_eq!(descriptions(&left(directory.path())), Vec::<String>::new());
}

#[test]
fn what_the_disk_does_not_read_costs_only_what_follows_in_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    let [first, _] = two_segments(directory.path());
    let bytes = fs::metadata(&first).unwrap().len();
    for (worn, expected) in [(bytes - 1, vec!["stands", "last"]), (0, vec!["last"])] {
        tape::wear_out(&first, worn);
        let left = left(directory.path());
        assert_eq!(descriptions(&left), expected);
        let told = |damage: &Damage| matches!(damage, Damage::Unreadable { path, offset } if *path == first && *offset <= worn);
        assert!(left.damage().iter().any(told), "{:?}", left.damage());
    }
    left(directory.path()).dealt_with().unwrap();
    assert_eq!(sessions_to_read(directory.path()).unwrap().0.len(), 1, "it is kept for whoever can read the disk");
}

#[test]
fn a_record_that_is_just_being_written_is_no_damage_while_its_process_lives() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "first", &[]);
    let path = segment(directory.path(), 0);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [&bytes[..], &[0, 0, 0, 200, 1]].concat()).unwrap();
    let seen = || {
        let session = sessions_to_read(directory.path()).unwrap().0.pop().unwrap();
        let left = Left::read(session, &[[key(1), key(2)]]).unwrap();
        (descriptions(&left), left.damage().len())
    };
    assert_eq!(seen(), (vec!["first".to_owned()], 0));
    drop(journal);
    assert_eq!(seen(), (vec!["first".to_owned()], 1));
}

#[test]
fn a_segment_under_the_last_of_all_numbers_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let [_, second] = two_segments(directory.path());
    fs::rename(second, segment(directory.path(), u32::MAX)).unwrap();
    let left = left(directory.path());
    assert!(matches!(left.damage(), [.., Damage::Tampered { .. }]), "{:?}", left.damage());
    assert_eq!(descriptions(&left), ["stands", "settled"]);
}

#[test]
fn who_has_the_sessions_of_one_mount_keeps_nobody_from_those_of_another() {
    let directory = tempfile::tempdir().unwrap();
    for (name, source) in [("one", "s3://bucket/"), ("two", "s3://other/")] {
        let session = NewSession { source: source.to_owned(), ..new(name) };
        drop(Journal::create(directory.path(), session, crate::sealed::ByteBudget::new(ROOM)).unwrap());
    }
    let (ones, others) = sessions_of(directory.path(), "s3://bucket/").unwrap();
    assert_eq!(ones.iter().map(|session| &session.name[..]).collect::<Vec<_>>(), ["one"]);
    assert!(matches!(others.as_slice(), [Error::OfAnother { mount, .. }] if mount == "s3://other/"), "{others:?}");
    assert_eq!(sessions_of(directory.path(), "s3://other/").unwrap().0.len(), 1);
    assert!(matches!(sessions_of(directory.path(), "s3://bucket/").unwrap().1.as_slice(), [Error::InUse(_), _]));
}
