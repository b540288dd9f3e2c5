//! A host whose clock is wrong: libfaketime tells the daemon another time than the endpoint has, which refuses what was signed more than a
//! quarter of an hour before or after its own, as S3 does.

use std::fs;
use std::path::PathBuf;

use time::OffsetDateTime;

use crate::common::{Endpoint, MINUTE, Mount, attribute, commit, deadline};

/// Where Debian's package keeps the library for programs with threads.
fn library() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut paths = directories.map(|directory| directory.join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists()).expect("libfaketime is there; install it with apt-get install faketime")
}

fn a_mount_works_with_its_clock_off_by(offset: &'static str) {
    deadline(MINUTE * 2, move || {
        let endpoint = Endpoint::start();
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
