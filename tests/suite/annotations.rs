//! Annotations, which other programs attach to objects: whatever a program of the mount does to a file, they stay, or
//! the object is not replaced.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_sdk_s3::primitives::ByteStream;
use dssefs_emulator::Counters;
use dssefs_emulator::faults::{Fault, Rule};
use tempfile::TempDir;

use crate::common::kept::kill;
use crate::common::{BUCKET, Endpoint, MINUTE, Mount, commit, denied, errno, eventually, failure, noise, scenario};

/// A payload that XML and HTTP would damage if they came near it.
const TEXT: &str = "{\"label\": \"<Köln> & \u{1f30d}\"}\n";

fn annotate(endpoint: &Endpoint, key: &str, name: &str, text: &str) {
    endpoint.with(|s3| async move {
        let put = s3.put_object_annotation().bucket(BUCKET).key(key).annotation_name(name);
        put.annotation_payload(ByteStream::from(text.as_bytes().to_vec())).send().await.expect("it is annotated");
    });
}

/// Names and texts, in order.
fn annotations(endpoint: &Endpoint, key: &str) -> Vec<(String, String)> {
    endpoint.with(|s3| async move {
        let listed = s3.list_object_annotations().bucket(BUCKET).key(key).send().await.expect("a list");
        let mut found = Vec::new();
        for entry in listed.annotations() {
            let get = s3.get_object_annotation().bucket(BUCKET).key(key).annotation_name(entry.annotation_name());
            let got = get.send().await.expect("an annotation");
            let text = got.annotation_payload.collect().await.expect("its text").to_vec();
            found.push((entry.annotation_name().to_owned(), String::from_utf8(text).unwrap()));
        }
        found
    })
}

fn both() -> Vec<(String, String)> {
    vec![("label".to_owned(), TEXT.to_owned()), ("lineage".to_owned(), "x".repeat(1 << 20))]
}

fn put_annotated(endpoint: &Endpoint, key: &str, content: &[u8]) {
    endpoint.put(key, content);
    for (name, text) in both() {
        annotate(endpoint, key, &name, &text);
    }
}

fn asked(counters: &Counters) -> Vec<(&str, u64)> {
    let asked = counters.s3.iter().map(|(name, count)| (name.as_str(), count.requests));
    asked.filter(|(_, requests)| *requests > 0).collect()
}

fn held(endpoint: &Endpoint) -> Vec<String> {
    endpoint.keys().into_iter().filter(|key| key.starts_with(".dssefs/held/")).collect()
}

fn append(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A mount of one host: what it leaves is listed in its spill directory.
fn mount_of_host(endpoint: &Endpoint, spill: &TempDir) -> Mount {
    Mount::with(endpoint, &["--spill-dir", spill.path().to_str().unwrap()])
}

#[test]
fn an_overwritten_file_keeps_its_annotations_and_the_requests_are_these() {
    scenario().options(&["--metadata-ttl", "1h"]).mounted(|endpoint, mount| {
        put_annotated(&endpoint, "file", b"one\n");
        fs::metadata(mount.join("file")).unwrap();
        let (done, counters) = endpoint.counted(|| commit(&mount.join("file"), b"two\n"));
        done.unwrap();
        let expected = [
            ("DeleteObject", 1),
            ("GetObjectAnnotation", 4),
            ("HeadObject", 1),
            ("ListObjectAnnotations", 1),
            ("PutObject", 2),
            ("PutObjectAnnotation", 4),
        ];
        assert_eq!(asked(&counters), expected);
        assert_eq!((endpoint.content("file"), annotations(&endpoint, "file")), (b"two\n".to_vec(), both()));
        assert_eq!(endpoint.keys(), ["file"]);
        endpoint.assert_dsse("file");
    });
}

#[test]
fn a_new_file_asks_nothing_about_annotations() {
    scenario().mounted(|endpoint, mount| {
        let (_, counters) = endpoint.counted(|| commit(&mount.join("new"), b"new").unwrap());
        assert_eq!(counters.requests("ListObjectAnnotations"), 0);
        let (_, counters) = endpoint.counted(|| append(&mount.join("new"), b"more").unwrap());
        assert_eq!(counters.requests("ListObjectAnnotations"), 1, "of an object that is replaced");
    });
}

#[test]
fn a_large_file_that_is_appended_to_while_it_is_uploaded_keeps_its_annotations() {
    scenario().within(MINUTE * 3).mounted(|endpoint, mount| {
        put_annotated(&endpoint, "large", &noise(1, 24 << 20));
        let mut file = OpenOptions::new().append(true).open(mount.join("large")).unwrap();
        file.write_all(&noise(2, 40 << 20)).unwrap();
        // Also what comes while the parts are on their way.
        annotate(&endpoint, "large", "late", "late");
        drop(file);
        let expected = [vec![("late".to_owned(), "late".to_owned())], both()].concat();
        let mut found = annotations(&endpoint, "large");
        found.sort_by_key(|(name, _)| name != "late");
        assert_eq!(found, expected);
        assert_eq!(endpoint.head("large").unwrap().content_length(), Some(64 << 20));
        assert_eq!((endpoint.uploads(), held(&endpoint)), (0, vec![]));
    });
}

/// The old version keeps them, and the new one gets them too.
#[test]
fn a_new_version_has_the_annotations_of_the_old_one() {
    scenario().unmounted(|endpoint| {
        endpoint.keep_versions();
        put_annotated(&endpoint, "file", b"one\n");
        let mount = Mount::of(&endpoint);
        append(&mount.join("file"), b"two\n").unwrap();
        assert_eq!((endpoint.content("file"), annotations(&endpoint, "file")), (b"one\ntwo\n".to_vec(), both()));
    });
}

#[test]
fn a_mount_that_ignores_annotations_does_not_ask_for_them() {
    scenario().options(&["--annotations", "ignore"]).mounted(|endpoint, mount| {
        put_annotated(&endpoint, "file", b"one\n");
        let (_, counters) = endpoint.counted(|| append(&mount.join("file"), b"two\n").unwrap());
        assert_eq!(counters.requests("ListObjectAnnotations"), 0);
        assert_eq!((endpoint.content("file"), annotations(&endpoint, "file")), (b"one\ntwo\n".to_vec(), vec![]));
    });
}

/// Replaced, it would lose what the mount could not see.
#[test]
fn a_file_whose_annotations_may_not_be_listed_is_not_replaced() {
    scenario().mounted(|endpoint, mount| {
        put_annotated(&endpoint, "file", b"one\n");
        endpoint.inject_faults(vec![Rule::on("ListObjectAnnotations", denied()).times(0)]);
        assert_eq!(errno(append(&mount.join("file"), b"two\n")), libc::EACCES);
        assert_eq!(endpoint.content("file"), b"one\n");
        let line = mount.line(|line| line.contains("ListObjectAnnotations")).expect("the log tells");
        assert!(line.contains("s3:ListObjectAnnotations") && line.contains("--annotations ignore"), "{line}");
        endpoint.clear_faults();
        assert!(mount.end().success(), "the changes are stored once it is allowed");
        assert_eq!((endpoint.content("file"), annotations(&endpoint, "file")), (b"one\ntwo\n".to_vec(), both()));
    });
}

#[test]
fn a_file_whose_annotations_cannot_be_read_or_held_is_not_replaced() {
    scenario().mounted(|endpoint, mount| {
        for operation in ["GetObjectAnnotation", "PutObjectAnnotation"] {
            put_annotated(&endpoint, operation, b"one\n");
            endpoint.inject_faults(vec![Rule::on(operation, denied()).times(0)]);
            assert_eq!(errno(append(&mount.join(operation), b"two\n")), libc::EACCES, "{operation}");
            assert_eq!(endpoint.content(operation), b"one\n", "{operation}");
            endpoint.clear_faults();
            append(&mount.join(operation), b"").unwrap();
            assert_eq!(endpoint.content(operation), b"one\ntwo\n", "{operation}");
            assert_eq!((annotations(&endpoint, operation), held(&endpoint)), (both(), vec![]), "{operation}");
        }
    });
}

/// The two ways in which stores say that they do not know annotations: an error, or the object itself. The second one
/// must not be read to its end.
#[test]
fn a_store_without_annotations_is_asked_once() {
    let faults = [failure(501, "NotImplemented"), failure(405, "MethodNotAllowed"), Fault::IgnoreAnnotations];
    for fault in faults {
        scenario().within(MINUTE * 2).unmounted(move |endpoint| {
            endpoint.put("large", &noise(1, 24 << 20));
            endpoint.put("small", b"one\n");
            endpoint.inject_faults(vec![Rule::on("ListObjectAnnotations", fault.clone()).times(0)]);
            let mount = Mount::of(&endpoint);
            let ((), counters) = endpoint.counted(|| {
                append(&mount.join("large"), b"two\n").unwrap();
                append(&mount.join("small"), b"two\n").unwrap();
                append(&mount.join("small"), b"three\n").unwrap();
            });
            assert_eq!(counters.requests("ListObjectAnnotations"), 1, "{fault:?}");
            assert_eq!(endpoint.content("small"), b"one\ntwo\nthree\n", "{fault:?}");
            assert!(endpoint.content("large").ends_with(b"two\n"), "{fault:?}");
        });
    }
}

/// A silent store says nothing about annotations: neither that there are none, nor that it does not know them.
#[test]
fn a_question_without_an_answer_does_not_count_as_none() {
    scenario().options(&["--attempts", "1"]).mounted(|endpoint, mount| {
        put_annotated(&endpoint, "file", b"one\n");
        for fault in [Fault::Reset, failure(503, "SlowDown"), Fault::CutBodyAfter(20)] {
            endpoint.inject_faults(vec![Rule::on("ListObjectAnnotations", fault.clone()).times(0)]);
            assert_eq!(errno(append(&mount.join("file"), b"x")), libc::EIO, "{fault:?}");
            assert_eq!(endpoint.content("file"), b"one\n", "{fault:?}");
        }
        endpoint.clear_faults();
        append(&mount.join("file"), b"").unwrap();
        assert_eq!((endpoint.content("file"), annotations(&endpoint, "file")), (b"one\nxxx".to_vec(), both()));
    });
}

/// The annotations are on their way from the old object to the new one, and the process dies.
fn die_before_the_last_annotation(endpoint: &Endpoint, spill: &TempDir) {
    put_annotated(endpoint, "file", b"one\n");
    let mount = mount_of_host(endpoint, spill);
    // Two are copied to the held object, one comes back, and the last one never does.
    endpoint.inject_faults(vec![Rule::on("PutObjectAnnotation", Fault::Stall).nth(4).times(0)]);
    let path = mount.join("file");
    let writer = std::thread::spawn(move || commit(&path, b"two\n"));
    eventually("the last annotation is on its way", MINUTE, || endpoint.stalled() == 1);
    eventually("the other one is there", MINUTE, || annotations(endpoint, "file").len() == 1);
    assert_eq!(endpoint.content("file"), b"two\n");
    kill(mount);
    let _ = writer.join();
    endpoint.clear_faults();
}

/// Who may write below `.dssefs/` must not choose the annotations of other objects.
#[test]
fn held_annotations_that_another_program_has_changed_are_not_put_back() {
    type Forgery = fn(&Endpoint, &str);
    let added: Forgery = |endpoint, held| annotate(endpoint, held, "forged", "by another program");
    let changed: Forgery = |endpoint, held| annotate(endpoint, held, "lineage", "by another program");
    let taken_off: Forgery = |endpoint, held| {
        let held = held.to_owned();
        endpoint.with(|s3| async move {
            let delete = s3.delete_object_annotation().bucket(BUCKET).key(held).annotation_name("lineage");
            delete.send().await.expect("it is taken off");
        });
    };
    let made_again: Forgery = |endpoint, held| {
        let held = held.to_owned();
        endpoint.with(|s3| async move {
            let head = s3.head_object().bucket(BUCKET).key(&held).send().await.expect("it is there");
            let put = s3.put_object().bucket(BUCKET).key(held).set_metadata(head.metadata);
            put.send().await.expect("it is stored");
        });
    };
    for (name, forge) in [("added", added), ("changed", changed), ("off", taken_off), ("again", made_again)] {
        scenario().within(MINUTE * 2).with_spill(move |endpoint, spill| {
            die_before_the_last_annotation(&endpoint, &spill);
            let there = annotations(&endpoint, "file");
            let key = held(&endpoint).pop().expect("one is held");
            forge(&endpoint, &key);
            let next = mount_of_host(&endpoint, &spill);
            assert_eq!(annotations(&endpoint, "file"), there, "{name}");
            assert_eq!(held(&endpoint), [key], "{name}: it stays for the user to look at");
            assert!(next.end().success());
        });
    }
}

#[test]
fn a_crash_between_the_commit_and_the_annotations_loses_none() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        die_before_the_last_annotation(&endpoint, &spill);
        let next = mount_of_host(&endpoint, &spill);
        assert_eq!((endpoint.content("file"), annotations(&endpoint, "file")), (b"two\n".to_vec(), both()));
        assert_eq!((held(&endpoint), fs::read(next.join("file")).unwrap()), (vec![], b"two\n".to_vec()));
        assert!(next.end().success());
    });
}

#[test]
fn a_crash_before_the_commit_leaves_the_old_object_as_it_was() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        put_annotated(&endpoint, "file", b"one\n");
        let mount = mount_of_host(&endpoint, &spill);
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::Stall).key_contains("file").times(0)]);
        let path = mount.join("file");
        let writer = std::thread::spawn(move || commit(&path, b"two\n"));
        eventually("the commit is on its way", MINUTE, || endpoint.stalled() == 1);
        assert_eq!(held(&endpoint).len(), 1);
        // Taken off by their owner meanwhile: they must not come back.
        endpoint.with(|s3| async move {
            let delete = s3.delete_object_annotation().bucket(BUCKET).key("file").annotation_name("lineage");
            delete.send().await.expect("it is taken off");
        });
        kill(mount);
        let _ = writer.join();
        endpoint.clear_faults();
        let next = mount_of_host(&endpoint, &spill);
        assert_eq!(
            (endpoint.content("file"), annotations(&endpoint, "file")),
            (b"one\n".to_vec(), both()[..1].to_vec())
        );
        assert!(held(&endpoint).is_empty());
        assert!(next.end().success());
    });
}

/// The store has the new object, and its answer is lost: annotations wait until it is known.
#[test]
fn a_commit_whose_answer_is_lost_keeps_the_annotations() {
    scenario().within(MINUTE * 2).options(&["--attempts", "1", "--metadata-ttl", "1h"]).mounted(|endpoint, mount| {
        put_annotated(&endpoint, "file", b"one\n");
        fs::metadata(mount.join("file")).unwrap();
        endpoint.inject_faults(vec![
            Rule::on("PutObject", Fault::LoseAnswer).key_contains("file"),
            Rule::on("HeadObject", Fault::Reset).nth(2).times(0),
        ]);
        let mut file = OpenOptions::new().append(true).open(mount.join("file")).unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!(errno(file.sync_all()), libc::EIO);
        endpoint.clear_faults();
        file.sync_all().unwrap();
        assert_eq!((endpoint.content("file"), annotations(&endpoint, "file")), (b"one\ntwo\n".to_vec(), both()));
        assert!(held(&endpoint).is_empty());
    });
}

#[test]
fn a_lost_race_leaves_the_annotations_of_the_other_host_alone() {
    scenario().mounted(|endpoint, mount| {
        put_annotated(&endpoint, "file", b"one\n");
        let mut file = OpenOptions::new().append(true).open(mount.join("file")).unwrap();
        file.write_all(b"two\n").unwrap();
        endpoint.put("file", b"theirs\n");
        annotate(&endpoint, "file", "theirs", "theirs");
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        let theirs = vec![("theirs".to_owned(), "theirs".to_owned())];
        assert_eq!((endpoint.content("file"), annotations(&endpoint, "file")), (b"theirs\n".to_vec(), theirs));
        assert!(held(&endpoint).is_empty());
    });
}

/// S3 copies such an object in parts, which carry no annotations.
#[test]
fn an_object_above_5_gib_keeps_its_annotations_or_stays() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        endpoint.put_gibibytes("big", 6);
        annotate(&endpoint, "big", "label", TEXT);
        let mount = Mount::of(&endpoint);
        fs::rename(mount.join("big"), mount.join("moved")).unwrap();
        let label = vec![("label".to_owned(), TEXT.to_owned())];
        assert_eq!(annotations(&endpoint, "moved"), label);
        let mode = PermissionsExt::from_mode(0o600);
        assert_eq!(errno(fs::set_permissions(mount.join("moved"), mode)), libc::EFBIG);
        assert_eq!(errno(xattr::set(mount.join("moved"), "user.k", b"v")), libc::EFBIG);
        assert_eq!(annotations(&endpoint, "moved"), label);
        File::options().append(true).open(mount.join("moved")).unwrap().write_all(b"more").unwrap();
        eventually("the append is stored", MINUTE, || {
            endpoint.head("moved").unwrap().content_length() == Some((6 << 30) + 4)
        });
        eventually("the annotations are back", MINUTE, || annotations(&endpoint, "moved") == label);
    });
}

#[test]
fn a_marker_keeps_its_annotations_when_its_directory_is_changed() {
    scenario().mounted(|endpoint, mount| {
        put_annotated(&endpoint, "d/", b"");
        fs::set_permissions(mount.join("d"), PermissionsExt::from_mode(0o700)).unwrap();
        xattr::set(mount.join("d"), "user.k", b"v").unwrap();
        assert_eq!(annotations(&endpoint, "d/"), both());
        fs::rename(mount.join("d"), mount.join("moved")).unwrap();
        assert_eq!(annotations(&endpoint, "moved/"), both());
    });
}

/// `cp` needs two permissions that rewriting does not, and its error says so.
#[test]
fn a_refused_copy_names_the_permissions_for_annotations() {
    scenario().mounted(|endpoint, mount| {
        put_annotated(&endpoint, "file", b"one\n");
        endpoint.inject_faults(vec![Rule::on("CopyObject", denied()).times(0)]);
        let mode = PermissionsExt::from_mode(0o600);
        assert_eq!(errno(fs::set_permissions(mount.join("file"), mode)), libc::EACCES);
        let line = mount.line(|line| line.contains("CopyObject")).expect("the log tells");
        assert!(line.contains("s3:GetObjectAnnotation") && line.contains("s3:PutObjectAnnotation"), "{line}");
    });
}

/// What the next mount sends replaces the object as a close does.
#[test]
fn a_file_that_the_journal_kept_takes_its_annotations_over() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        put_annotated(&endpoint, "file", b"one\n");
        let background = |endpoint: &Endpoint| {
            let spill = spill.path().to_str().unwrap();
            Mount::with(endpoint, &["--spill-dir", spill, "--spill-keys", "kms", "--commit", "background"])
        };
        let mount = background(&endpoint);
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::Stall).key_contains("file").times(0)]);
        fs::write(mount.join("file"), b"two\n").unwrap();
        eventually("the commit is on its way", MINUTE, || endpoint.stalled() > 0);
        kill(mount);
        endpoint.clear_faults();
        let next = background(&endpoint);
        eventually("the file is stored", MINUTE, || endpoint.content("file") == b"two\n");
        eventually("its annotations are back", MINUTE, || annotations(&endpoint, "file") == both());
        assert!(next.end().success());
        assert!(held(&endpoint).is_empty());
    });
}

#[test]
fn a_bucket_of_another_account_is_refused_at_the_start() {
    scenario().unmounted(|endpoint| {
        let mount = Mount::with(&endpoint, &["--expected-bucket-owner", "111122223333", "--request-payer"]);
        commit(&mount.join("file"), b"content").unwrap();
        fs::copy(mount.join("file"), mount.join("copy")).unwrap();
        assert_eq!(endpoint.content("copy"), b"content");
        assert!(mount.end().success());
        for (account, code) in [("999900001111", 4), ("1111", 2)] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = Mount::command(&endpoint, BUCKET, dir.path());
            let output = command.args(["--foreground", "--expected-bucket-owner", account]).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
}
