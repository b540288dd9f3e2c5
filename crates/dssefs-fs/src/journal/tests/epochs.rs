//! Renewed keys: each segment opens under its own, and none is asked for that opens nothing.

use std::fs;

use super::*;

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
