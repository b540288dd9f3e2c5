//! What was cut, changed, moved or put back on the disk is told, and nothing false is believed.

use std::fs;

use super::*;

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
        let at_end = |path: &Path, offset: u64| path == first && offset == end as u64;
        let told = |damage: &Damage| matches!(damage, Damage::Tampered { path, offset } if at_end(path, *offset));
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
fn a_segment_under_the_last_of_all_numbers_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let [_, second] = two_segments(directory.path());
    fs::rename(second, segment(directory.path(), u32::MAX)).unwrap();
    let left = left(directory.path());
    assert!(matches!(left.damage(), [.., Damage::Tampered { .. }]), "{:?}", left.damage());
    assert_eq!(descriptions(&left), ["stands", "settled"]);
}

#[test]
fn a_record_of_another_session_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let one = journal(directory.path());
    add(&one, "of one", &[]);
    let other = Journal::create(directory.path(), new("two"), ByteBudget::new(ROOM)).unwrap();
    add(&other, "of two", &[]);
    drop((one, other));
    fs::copy(segment(directory.path(), 0), segment::path(&directory.path().join("session-two"), 0)).unwrap();
    let found = sessions(directory.path()).unwrap().0;
    let two = found.into_iter().find(|session| session.name == "two").unwrap();
    let left = RecoveredSession::read(two, &[[key(1), key(2)]]).unwrap();
    assert_eq!((left.entries().count(), left.damage().len()), (0, 1));
}
