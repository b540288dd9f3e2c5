//! Writes whose answers are lost while the store cannot be asked what became of them: the mount never takes its own
//! object for another writer's, and another writer's never for its own.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, Instant};

use dssefs_emulator::faults::{Fault, Rule};

use crate::common::kept::kill;
use crate::common::{
    Endpoint, MINUTE, Mount, attribute, commit, deadline, denied, errno, eventually, failure, noise, scenario,
};
use crate::copy::half_done_copy;
use tempfile::TempDir;

const LARGE: usize = 48 << 20;
const LITTLE_MEMORY: [&str; 4] = ["--memory", "32MiB", "--spill", "0"];

fn conflict() -> Fault {
    failure(409, "ConditionalRequestConflict")
}

fn wrong(endpoint: &Endpoint) -> Fault {
    Fault::Sse { algorithm: Some("aws:kms".to_owned()), key: Some(endpoint.key_arn().to_owned()), bucket_key: None }
}

fn mount(endpoint: &Endpoint, more: &[&str]) -> Mount {
    Mount::with(endpoint, &[&["--attempts", "2", "--operation-timeout", "20s"], more].concat())
}

/// The next such request is carried out and not answered; each further one fails, and the store does not tell what is
/// there either.
fn lose_answer(endpoint: &Endpoint, operation: &str, then: &Fault) {
    lose_answer_after(endpoint, 0, operation, then);
}

/// The same of a commit that replaces an object: it first asks what that carries.
fn lose_answer_of_replacing(endpoint: &Endpoint, operation: &str, then: &Fault) {
    lose_answer_after(endpoint, 1, operation, then);
}

fn lose_answer_after(endpoint: &Endpoint, heads: u64, operation: &str, then: &Fault) {
    let later = Rule::on(operation, then.clone()).times(0);
    let heads_later = Rule::on("HeadObject", then.clone()).nth(heads + 1).times(0);
    endpoint.inject_faults(vec![Rule::on(operation, Fault::LoseAnswer), later, heads_later]);
}

#[test]
fn a_put_that_was_carried_out_unseen_is_no_other_writers() {
    for then in [Fault::Reset, Fault::ThrottleKms, denied()] {
        scenario().within(MINUTE * 2).unmounted(move |endpoint| {
            endpoint.put("old", b"0123456789");
            let mount = mount(&endpoint, &[]);
            let mut new = File::create(mount.join("new")).unwrap();
            new.write_all(b"first").unwrap();
            lose_answer(&endpoint, "PutObject", &then);
            assert_ne!(errno(new.sync_all()), 0, "{then:?}");
            endpoint.clear_faults();
            assert_eq!(endpoint.content("new"), b"first", "{then:?}: it was carried out");
            new.write_all(b" and second").unwrap();
            new.sync_all().unwrap_or_else(|error| panic!("{then:?}: {error}"));
            assert_eq!(endpoint.content("new"), b"first and second");

            let old = OpenOptions::new().read(true).write(true).open(mount.join("old")).unwrap();
            old.write_all_at(b"abc", 3).unwrap();
            lose_answer_of_replacing(&endpoint, "PutObject", &then);
            assert_ne!(errno(old.sync_all()), 0, "{then:?}");
            old.set_len(8).unwrap();
            old.write_all_at(b"z", 9).unwrap();
            endpoint.clear_faults();
            assert_eq!(endpoint.content("old"), b"012abc6789", "{then:?}: it was carried out");
            old.sync_all().unwrap_or_else(|error| panic!("{then:?}: {error}"));
            assert_eq!(endpoint.content("old"), b"012abc67\0z");
            assert_eq!(attribute(&mount.join("old"), "user.dsse.verdict").unwrap(), "compliant");
            endpoint.assert_dsse("old");
        });
    }
}

#[test]
fn what_was_stored_unseen_is_not_sent_again() {
    scenario().unmounted(|endpoint| {
        let mount = mount(&endpoint, &[]);
        let mut file = File::create(mount.join("file")).unwrap();
        file.write_all(b"content").unwrap();
        lose_answer(&endpoint, "PutObject", &Fault::Reset);
        assert_ne!(errno(file.sync_all()), 0);
        endpoint.clear_faults();
        let (done, counters) = endpoint.counted(|| file.sync_all());
        done.unwrap();
        assert_eq!((counters.requests("HeadObject"), counters.requests("PutObject")), (1, 0));
        assert_eq!(attribute(&mount.join("file"), "user.dsse.local").unwrap(), "none");
    });
}

/// With much memory, and with so little that parts are in the upload alone, which is complete and gone.
#[test]
fn an_upload_that_was_completed_unseen_is_no_other_writers_and_nothing_of_it_is_lost() {
    for (options, size) in [(&[][..], LARGE), (&LITTLE_MEMORY[..], 100 << 20)] {
        scenario().within(MINUTE * 4).unmounted(move |endpoint| {
            let mount = mount(&endpoint, options);
            let mut content = noise(3, size);
            let mut file = File::create(mount.join("file")).unwrap();
            file.write_all(&content).unwrap();
            lose_answer(&endpoint, "CompleteMultipartUpload", &Fault::Reset);
            assert_ne!(errno(file.sync_all()), 0);
            let more = noise(4, 1 << 20);
            file.write_all(&more).unwrap();
            content.extend(&more);
            endpoint.clear_faults();
            assert_eq!(endpoint.content("file").len(), size, "it was carried out");
            file.sync_all().unwrap();
            assert!(endpoint.content("file") == content);
            file.write_all_at(b"changed", 20 << 20).unwrap();
            content[20 << 20..][..7].copy_from_slice(b"changed");
            file.sync_all().unwrap();
            assert!(endpoint.content("file") == content);
            endpoint.assert_dsse("file");
            assert_eq!(endpoint.uploads(), 0);
        });
    }
}

#[test]
fn a_change_of_a_large_object_that_was_stored_unseen_is_no_other_writers() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mut content = noise(5, LARGE);
        endpoint.put("file", &content);
        let mount = mount(&endpoint, &[]);
        let file = OpenOptions::new().read(true).write(true).open(mount.join("file")).unwrap();
        file.write_all_at(b"first", 20 << 20).unwrap();
        lose_answer_of_replacing(&endpoint, "CompleteMultipartUpload", &Fault::Reset);
        assert_ne!(errno(file.sync_all()), 0);
        file.write_all_at(b"second", 30 << 20).unwrap();
        endpoint.clear_faults();
        file.sync_all().unwrap();
        content[20 << 20..][..5].copy_from_slice(b"first");
        content[30 << 20..][..6].copy_from_slice(b"second");
        assert!(endpoint.content("file") == content);
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn who_stored_something_after_a_write_that_was_carried_out_unseen_has_won() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mount = mount(&endpoint, &[]);
        for (name, more) in [("as-it-was", &b""[..]), ("longer", b" and more")] {
            let mut file = File::create(mount.join(name)).unwrap();
            file.write_all(b"ours").unwrap();
            lose_answer(&endpoint, "PutObject", &Fault::Reset);
            assert_ne!(errno(file.sync_all()), 0, "{name}");
            endpoint.clear_faults();
            endpoint.put(name, b"theirs");
            file.write_all(more).unwrap();
            assert_eq!(errno(file.sync_all()), libc::ESTALE, "{name}");
            assert_eq!(errno(file.sync_all()), libc::ESTALE, "{name}, again");
            assert_eq!(endpoint.content(name), b"theirs");
        }
    });
}

/// A change of attributes is a copy of the object onto itself.
#[test]
fn a_chmod_that_was_carried_out_unseen_is_no_other_writers() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mount = mount(&endpoint, &[]);
        for name in ["tried-again", "written"] {
            endpoint.put(name, b"0123456789");
            let file = OpenOptions::new().read(true).write(true).open(mount.join(name)).unwrap();
            lose_answer(&endpoint, "CopyObject", &Fault::Reset);
            let private = || file.set_permissions(fs::Permissions::from_mode(0o600));
            assert_ne!(errno(private()), 0, "{name}");
            endpoint.clear_faults();
            if name == "tried-again" {
                private().unwrap();
                assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            }
            file.write_all_at(b"abc", 3).unwrap();
            file.sync_all().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(endpoint.content(name), b"012abc6789");
            endpoint.assert_dsse(name);
        }
    });
}

/// Without its source nobody could tell the copy from another writer's object, and the target was ESTALE from then on.
#[test]
fn a_copy_that_was_made_unseen_is_known_before_its_source_goes() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let content = noise(6, 1 << 20);
        endpoint.put("source", &content);
        let mount = mount(&endpoint, &[]);
        let copy = half_done_copy(&mount.join("source"), &mount.join("copy"));
        lose_answer(&endpoint, "CopyObject", &denied());
        assert_ne!(errno(copy.sync_all()), 0);
        endpoint.clear_faults();
        assert!(endpoint.content("copy") == content, "it was carried out");
        fs::write(mount.join("source"), b"another").unwrap();
        copy.sync_all().unwrap();
        copy.write_all_at(b"edited", 3).unwrap();
        copy.sync_all().unwrap();
        let edited = [&content[..3], b"edited", &content[9..]].concat();
        assert!(endpoint.content("copy") == edited && endpoint.content("source") == b"another");
    });
}

#[test]
fn what_was_stored_unseen_before_a_crash_is_replaced_by_what_came_after_it() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let options = ["--spill-keys", "kms", "--commit", "background", "--spill-dir", spill.path().to_str().unwrap()];
        let first = mount(&endpoint, &options);
        commit(&first.join("file"), b"old").unwrap();
        lose_answer_of_replacing(&endpoint, "PutObject", &Fault::Reset);
        fs::write(first.join("file"), b"first").unwrap();
        eventually("the first commit has failed", MINUTE, || first.log().contains("are not saved yet"));
        fs::write(first.join("file"), b"the second").unwrap();
        kill(first);
        endpoint.clear_faults();
        assert_eq!(endpoint.content("file"), b"first", "it was carried out");
        let next = mount(&endpoint, &options);
        assert_eq!(endpoint.content("file"), b"the second", "{}", next.log());
        endpoint.assert_dsse("file");
    });
}

/// The object that was replaced was deleted with the wrong one, and the next try took that for another writer's doing.
#[test]
fn a_wrong_answer_to_a_write_that_replaced_an_object_costs_neither_the_new_content_nor_the_old() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mount = mount(&endpoint, &[]);
        endpoint.put("whole", b"old");
        endpoint.put("part", b"0123456789");
        let is_stored_soon = |name: &str, content: &[u8]| {
            let is_there = || endpoint.head(name).is_some() && endpoint.content(name) == content;
            eventually(name, Duration::from_secs(5), is_there);
            endpoint.assert_dsse(name);
        };
        endpoint.inject_faults(vec![Rule::on("PutObject", wrong(&endpoint))]);
        assert_eq!(errno(commit(&mount.join("whole"), b"the new one")), libc::EKEYREJECTED);
        is_stored_soon("whole", b"the new one");

        let part = OpenOptions::new().write(true).open(mount.join("part")).unwrap();
        part.write_all_at(b"abc", 3).unwrap();
        endpoint.inject_faults(vec![Rule::on("PutObject", wrong(&endpoint))]);
        assert_eq!(errno(part.sync_all()), libc::EKEYREJECTED);
        drop(part);
        is_stored_soon("part", b"012abc6789");

        // One that cannot be deleted again is replaced.
        let stays = OpenOptions::new().write(true).open(mount.join("part")).unwrap();
        stays.write_all_at(b"xyz", 3).unwrap();
        endpoint.inject_faults(vec![Rule::on("PutObject", wrong(&endpoint)), Rule::on("DeleteObject", denied())]);
        assert_eq!(errno(stays.sync_all()), libc::EKEYREJECTED);
        stays.sync_all().unwrap();
        is_stored_soon("part", b"012xyz6789");
    });
}

#[test]
fn a_wrong_answer_to_one_part_costs_none_of_those_that_are_in_the_upload_alone() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        let mount = mount(&endpoint, &LITTLE_MEMORY);
        let content = noise(6, 100 << 20);
        let mut file = File::create(mount.join("file")).unwrap();
        endpoint.inject_faults(vec![Rule::on("UploadPart", wrong(&endpoint)).nth(4)]);
        // A write may be told already of what became of the parts before it.
        let (mut written, mut told) = (0, 0);
        for chunk in content.chunks(1 << 20) {
            told = errno(file.write_all(chunk));
            if told != 0 {
                break;
            }
            written += chunk.len();
        }
        assert!(written >= 64 << 20, "{written} bytes");
        if told == 0 {
            told = errno(file.sync_all());
        }
        assert_eq!(told, libc::EKEYREJECTED);
        // A second time where the write has told the failure of a part that was sent ahead.
        if errno(file.sync_all()) == libc::EKEYREJECTED {
            file.sync_all().unwrap();
        }
        file.write_all_at(&content[written..], written as u64).unwrap();
        file.sync_all().unwrap();
        assert!(endpoint.content("file") == content);
        endpoint.assert_dsse("file");
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn another_request_for_the_same_key_is_given_some_seconds_and_wins_only_when_it_has_won() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mount = mount(&endpoint, &[]);
        endpoint.inject_faults(vec![Rule::on("PutObject", conflict()).times(5)]);
        let start = Instant::now();
        commit(&mount.join("slow"), b"content").unwrap();
        assert!(start.elapsed() >= Duration::from_millis(1_500), "{:?}", start.elapsed());
        assert_eq!(endpoint.content("slow"), b"content");

        endpoint.inject_faults(vec![Rule::on("PutObject", conflict()).times(0)]);
        let file = File::create(mount.join("never")).unwrap();
        assert_eq!(errno(file.sync_all()), libc::EIO, "nobody has won");
        endpoint.clear_faults();
        endpoint.put("never", b"theirs");
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
    });
}

/// The object is in the store, and the daemon dies before it learns so. The journal has the id of the attempt.
#[test]
fn what_was_stored_just_before_a_crash_is_found_and_not_sent_again() {
    deadline(MINUTE * 2, || {
        let (endpoint, spill) = (Endpoint::start(), TempDir::new().unwrap());
        let options = ["--spill-keys", "kms", "--commit", "background", "--spill-dir", spill.path().to_str().unwrap()];
        let first = mount(&endpoint, &options);
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::StallAnswer).times(0)]);
        fs::write(first.join("file"), b"content").unwrap();
        eventually("the object is stored", MINUTE, || endpoint.head("file").is_some());
        kill(first);
        endpoint.clear_faults();
        let stored = endpoint.head("file").unwrap();
        let next = mount(&endpoint, &options);
        let found = endpoint.head("file").unwrap();
        assert_eq!(found.e_tag(), stored.e_tag(), "{}", next.log());
        assert!(!next.log().contains("could not be stored"), "{}", next.log());
        assert_eq!(fs::read(next.join("file")).unwrap(), b"content");
    });
}

/// The same content, metadata and length, and another id: another writer has won.
#[test]
fn an_equal_object_of_another_writer_is_not_taken_for_ours() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = mount(&endpoint, &[]);
        let mut file = File::create(mount.join("file")).unwrap();
        file.write_all(b"content").unwrap();
        lose_answer(&endpoint, "PutObject", &Fault::Reset);
        assert_ne!(errno(file.sync_all()), 0);
        endpoint.clear_faults();
        let ours = endpoint.head("file").unwrap();
        let mut metadata = ours.metadata().cloned().unwrap();
        metadata.remove("dssefs-commit").expect("it has an id");
        let key = endpoint.key_arn().to_owned();
        endpoint.with(|s3| async move {
            let put = s3.put_object().bucket(crate::common::BUCKET).key("file").body(b"content".to_vec().into());
            let put = put.set_metadata(Some(metadata)).ssekms_key_id(key);
            put.server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::AwsKmsDsse).send().await.unwrap();
        });
        let theirs = endpoint.head("file").unwrap();
        file.write_all(b" and more").unwrap();
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        assert_eq!(endpoint.head("file").unwrap().e_tag(), theirs.e_tag());
    });
}
