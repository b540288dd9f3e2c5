//! What is finished is found again, what is settled is not, and threads do not disturb one another.

use std::fs;
use std::time::Duration;

use super::*;
use crate::journal::disk::tape;

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

/// unlink(2) said that a pending file was gone, and a local disk that had failed at noting it had the next mount store
/// the file.
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
            // It is unknown whether the entry stands, and so whether its file may come back.
            false => journal.draft(b"second", None).and_then(Draft::finish).map(drop),
        };
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        tape::fail(None);
        assert!(matches!(journal.sync_settled(), Err(Error::Broken(_))));
        assert!(matches!(journal.usable(), Err(Error::Broken(_))));
    }
}
