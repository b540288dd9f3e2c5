//! What the journal takes of the disk, and that entries can be settled on a full one.

use super::*;

#[test]
fn segments_without_use_are_removed_and_their_room_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let budget = ByteBudget::new(ROOM);
    let journal = journal_within(directory.path(), &budget);
    for round in 0..20 {
        let mut draft = journal.draft(b"large", None).unwrap();
        add_kibibytes(&mut draft, 8);
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
    let journal = journal_within(directory.path(), &ByteBudget::new(30_000));
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
    let budget = ByteBudget::new(60_000);
    let journal = journal_within(directory.path(), &budget);
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
    let budget = ByteBudget::new(ROOM);
    let journal = journal_within(directory.path(), &budget);
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
fn nobody_takes_the_room_that_settling_needs_when_an_entry_found_none() {
    let directory = tempfile::tempdir().unwrap();
    let budget = ByteBudget::new(60_000);
    let journal = journal_within(directory.path(), &budget);
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
