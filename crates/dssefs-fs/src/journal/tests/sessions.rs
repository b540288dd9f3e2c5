//! Whose a session is, who may look at it, and what becomes of one that was dealt with.

use std::fs;

use super::*;

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
fn who_has_the_sessions_of_one_mount_keeps_nobody_from_those_of_another() {
    let directory = tempfile::tempdir().unwrap();
    for (name, source) in [("one", "s3://bucket/"), ("two", "s3://other/")] {
        let session = NewSession { source: source.to_owned(), ..new(name) };
        drop(Journal::create(directory.path(), session, ByteBudget::new(ROOM)).unwrap());
    }
    let (ones, others) = sessions_of(directory.path(), "s3://bucket/").unwrap();
    assert_eq!(ones.iter().map(|session| &session.name[..]).collect::<Vec<_>>(), ["one"]);
    assert!(matches!(others.as_slice(), [Error::OfAnother { mount, .. }] if mount == "s3://other/"), "{others:?}");
    assert_eq!(sessions_of(directory.path(), "s3://other/").unwrap().0.len(), 1);
    assert!(matches!(sessions_of(directory.path(), "s3://bucket/").unwrap().1.as_slice(), [Error::InUse(_), _]));
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
fn a_record_that_is_just_being_written_is_no_damage_while_its_process_lives() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "first", &[]);
    let path = segment(directory.path(), 0);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [&bytes[..], &[0, 0, 0, 200, 1]].concat()).unwrap();
    let seen = || {
        let session = sessions_to_read(directory.path()).unwrap().0.pop().unwrap();
        let left = RecoveredSession::read(session, &[[key(1), key(2)]]).unwrap();
        (descriptions(&left), left.damage().len())
    };
    assert_eq!(seen(), (vec!["first".to_owned()], 0));
    drop(journal);
    assert_eq!(seen(), (vec!["first".to_owned()], 1));
}

#[test]
fn a_session_that_was_changed_says_what_is_wrong_with_it() {
    let directory = tempfile::tempdir().unwrap();
    drop(journal(directory.path()));
    let path = directory.path().join("session-one/session.json");
    let text = fs::read_to_string(&path).unwrap();
    for (changed, expected) in [
        (text.replace("\"version\": 2", "\"version\": 3"), "version 3 and not 1 to 2"),
        (text.replace("\"version\": 2", "\"version\": 1"), "not of the session's version"),
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
