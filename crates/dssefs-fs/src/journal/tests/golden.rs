//! Sessions as this program has left them, and earlier versions of it.

use super::*;

fn golden(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("session-{version}"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// `DSSEFS_BLESS=1` leaves a session of the version that this build writes. Identities and salts are random.
fn bless() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "of an earlier version", &[(0, b"alpha"), (70_000, b"omega")]);
    journal.renew(new_keys(10)).unwrap();
    add_large(&journal, "under other keys", None);
    drop(journal);
    copy(&directory.path().join("session-one"), &golden("v2"));
}

#[test]
fn what_any_version_has_left_is_read() {
    if std::env::var_os("DSSEFS_BLESS").is_some() {
        bless();
    }
    for version in ["v1", "v2"] {
        let directory = tempfile::tempdir().unwrap();
        copy(&golden(version), &directory.path().join("session-one"));
        let left = left_under(directory.path(), &[1, 10]);
        assert_eq!(descriptions(&left), ["of an earlier version", "under other keys"], "{version}");
        assert_eq!(left.damage(), [], "{version}");
        assert_eq!(content(&left, 0).unwrap(), [(0, b"alpha".to_vec()), (70_000, b"omega".to_vec())], "{version}");
        assert_eq!(content(&left, 1).unwrap().len(), 70, "{version}");
        let numbers: Vec<_> = left.session().epochs.iter().map(Epoch::number).collect();
        assert_eq!(numbers, if version == "v1" { [None, None] } else { [Some(1), Some(10)] });
    }
}

/// An attacker with the disk must not choose how keys are bound and derived.
#[test]
fn a_session_that_names_another_version_than_its_keys_are_of_is_refused() {
    for (version, from, to) in [("v1", "\"version\": 1", "\"version\": 2"), ("v2", "\"version\": 2", "\"version\": 1")]
    {
        let directory = tempfile::tempdir().unwrap();
        let session = directory.path().join("session-one");
        copy(&golden(version), &session);
        let path = session.join("session.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let (found, unusable) = sessions(directory.path()).unwrap();
        assert!(found.is_empty() && matches!(unusable[..], [Error::Unreadable { .. }]), "{unusable:?}");
    }
}

#[test]
fn the_same_data_keys_twice_never_seal_under_the_same_keys() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path());
    add(&journal, "same", &[(0, &[7; 4096])]);
    journal.renew(new_keys(1)).unwrap();
    add(&journal, "same", &[(0, &[7; 4096])]);
    drop(journal);
    let sealed = [0, 1].map(|number| std::fs::read(segment(directory.path(), number)).unwrap());
    let repeats =
        |length: usize| sealed[0].windows(length).any(|part| sealed[1].windows(length).any(|other| part == other));
    // Longer than what stands in clear around a record.
    assert!(!repeats(64), "a run of ciphertext came twice");
    assert_eq!(descriptions(&left_under(directory.path(), &[1, 1])), ["same", "same"]);
}
