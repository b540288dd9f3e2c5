//! A host whose clock is wrong: libfaketime tells the daemon another time than the endpoint has, which refuses what was
//! signed more than a quarter of an hour before or after its own, as S3 does.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use dssefs_emulator::faults::Rule;
use rustix::process::Signal;
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::common::{Endpoint, MINUTE, Mount, attribute, commit, deadline, denied, errno, noise, scenario};

/// Where Debian's package keeps the library for programs with threads.
fn library() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut paths = directories.map(|directory| directory.join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists()).expect("libfaketime is there; install it with apt-get install faketime")
}

fn a_mount_works_with_its_clock_off_by(offset: &'static str) {
    scenario().within(MINUTE * 2).unmounted(move |endpoint| {
        endpoint.put("before", b"stored by another host");
        let library = library();
        let environment =
            [("LD_PRELOAD", library.to_str()), ("FAKETIME", Some(offset)), ("FAKETIME_DONT_FAKE_MONOTONIC", Some("1"))];
        let mount = Mount::with_environment(&endpoint, &environment, &[]);
        assert_eq!(fs::read(mount.join("before")).unwrap(), b"stored by another host");
        commit(&mount.join("file"), b"content").unwrap();
        fs::rename(mount.join("file"), mount.join("renamed")).unwrap();
        assert_eq!(endpoint.content("renamed"), b"content");
        endpoint.assert_dsse("renamed");
        // The trick works: what the daemon proved, it proved on another day.
        let proved = attribute(&mount.join("renamed"), "user.dsse.verified-at").unwrap();
        assert!(!proved.starts_with(&OffsetDateTime::now_utc().date().to_string()), "{proved}");
    });
}

#[test]
fn a_clock_that_is_ahead_is_put_right_by_the_answers_of_the_store() {
    a_mount_works_with_its_clock_off_by("+3d");
}

#[test]
fn a_clock_that_is_behind_is_put_right_by_the_answers_of_the_store() {
    a_mount_works_with_its_clock_off_by("-3d");
}

/// What was acknowledged had the times of what it was to replace, as happens within one tick of a clock, or when times
/// are set back, and was taken for what the store has.
#[test]
fn a_change_with_the_times_of_what_it_replaces_is_not_taken_for_stored() {
    deadline(MINUTE * 2, || {
        let (endpoint, spill, library) = (Endpoint::start(), TempDir::new().unwrap(), library());
        let now = OffsetDateTime::now_utc();
        let now = format!("{} {:02}:{:02}:{:02}", now.date(), now.hour(), now.minute(), now.second());
        let environment = [
            ("LD_PRELOAD", library.to_str()),
            ("FAKETIME", Some(now.as_str())),
            ("FAKETIME_DONT_FAKE_MONOTONIC", Some("1")),
            ("TZ", Some("UTC")),
        ];
        let options = ["--spill-keys", "kms", "--spill-dir", spill.path().to_str().unwrap()];
        let mut mount = Mount::with_environment(&endpoint, &environment, &options);
        let mut content = noise(30, 1 << 20);
        commit(&mount.join("file"), &content).unwrap();
        let stored = endpoint.head("file").unwrap();
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        let file = OpenOptions::new().write(true).open(mount.join("file")).unwrap();
        file.write_all_at(b"edited", 7).unwrap();
        assert_eq!(errno(file.sync_all()), libc::EACCES);
        mount.signal(Signal::KILL);
        mount.ended().unwrap();
        drop(file);
        endpoint.clear_faults();
        let _next = Mount::with(&endpoint, &options);
        content[7..13].copy_from_slice(b"edited");
        assert!(endpoint.content("file") == content);
        let attributes = |head: &HeadObjectOutput| {
            let mut all = head.metadata().cloned().unwrap_or_default();
            all.remove("dssefs-commit").expect("each object has one");
            all
        };
        let sent = endpoint.head("file").unwrap();
        assert_eq!(attributes(&sent), attributes(&stored), "the clock stood still");
    });
}
