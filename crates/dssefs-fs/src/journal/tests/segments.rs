//! Journals of many segments: which of them go, and that what they said stays so.

use std::fs;
use std::time::{Duration, Instant};

use super::*;
use crate::journal::disk::tape;

#[test]
fn a_journal_of_many_segments_gives_back_what_is_settled_and_keeps_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let budget = ByteBudget::new(ROOM);
    let journal = journal_within(directory.path(), &budget);
    let large = |name: &str| {
        let mut draft = journal.draft(name.as_bytes(), None).unwrap();
        add_kibibytes(&mut draft, 40);
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

/// An entry whose last record fills its segment.
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
        add_large_content(&mut draft);
        drop(draft);
    });
    drop(journal);
    assert!(!newest.exists(), "the segment that said so has gone");
    assert_eq!(descriptions(&left(directory.path())), ["stays"]);
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
fn what_the_disk_does_not_read_costs_only_what_follows_in_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    let [first, _] = two_segments(directory.path());
    let bytes = fs::metadata(&first).unwrap().len();
    for (worn, expected) in [(bytes - 1, vec!["stands", "last"]), (0, vec!["last"])] {
        tape::wear_out(&first, worn);
        let left = left(directory.path());
        assert_eq!(descriptions(&left), expected);
        let is_worn = |path: &Path, offset: u64| path == first && offset <= worn;
        let told = |damage: &Damage| matches!(damage, Damage::Unreadable { path, offset } if is_worn(path, *offset));
        assert!(left.damage().iter().any(told), "{:?}", left.damage());
    }
    left(directory.path()).dealt_with().unwrap();
    assert_eq!(sessions_to_read(directory.path()).unwrap().0.len(), 1, "it is kept for a host that can read the disk");
}

/// A crash tears the newest segment alone: an older one was complete before the next one began.
#[test]
fn an_older_segment_that_is_torn_in_a_record_counts_as_changed() {
    for cut in [1, 40] {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = two_segments(directory.path());
        let whole = fs::read(&first).unwrap();
        fs::write(&first, &whole[..whole.len() - cut]).unwrap();
        let left = left(directory.path());
        let tampered = |damage: &Damage| matches!(damage, Damage::Tampered { path, .. } if *path == first);
        assert!(left.damage().iter().any(tampered), "{cut}: {:?}", left.damage());
        assert!(!left.damage().iter().any(|damage| matches!(damage, Damage::TornEnd { .. })), "{:?}", left.damage());
        left.dealt_with().unwrap();
        assert!(!first.exists() && !second.exists());
        assert_eq!(sessions_to_read(directory.path()).unwrap().0.len(), 1, "it is set aside and not removed");
    }
    let directory = tempfile::tempdir().unwrap();
    let [_, newest] = two_segments(directory.path());
    let whole = fs::read(&newest).unwrap();
    fs::write(&newest, &whole[..whole.len() - 1]).unwrap();
    let left = left(directory.path());
    assert!(matches!(left.damage(), [Damage::TornEnd { path, .. }] if *path == newest), "{:?}", left.damage());
}

#[test]
fn an_older_segment_without_a_whole_header_counts_as_changed() {
    let directory = tempfile::tempdir().unwrap();
    let [first, _] = two_segments(directory.path());
    let whole = fs::read(&first).unwrap();
    fs::write(&first, &whole[..10]).unwrap();
    let left = left(directory.path());
    let tampered = |damage: &Damage| matches!(damage, Damage::Tampered { path, offset: 0 } if *path == first);
    assert!(left.damage().iter().any(tampered), "{:?}", left.damage());
}
