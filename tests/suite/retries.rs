//! What the mount saves by itself: when it begins, also while programs have the file open, and that no file is lost
//! sight of meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::kept::background;
use crate::common::{attribute, commit, cp, denied, errno, eventually, scenario};

fn append(path: &Path) -> File {
    OpenOptions::new().append(true).open(path).unwrap()
}

/// As tail(1) with -f has a log.
#[test]
fn a_file_that_somebody_reads_follows_to_the_store_all_the_same() {
    scenario().with_spill(|endpoint, spill| {
        let mount = background(&endpoint, &spill);
        commit(&mount.join("log"), b"one\n").unwrap();
        let reader = File::open(mount.join("log")).unwrap();
        append(&mount.join("log")).write_all(b"two\n").unwrap();
        eventually("it is stored", Duration::from_secs(10), || endpoint.content("log") == b"one\ntwo\n");
        drop(reader);
        assert!(mount.end().success());
    });
}

#[test]
fn a_close_is_followed_by_the_upload_while_the_writer_has_another_handle_and_what_comes_after_waits_for_the_next() {
    scenario().with_spill(|endpoint, spill| {
        let mount = background(&endpoint, &spill);
        let mut file = File::create(mount.join("log")).unwrap();
        file.write_all(b"closed").unwrap();
        drop(file.try_clone().unwrap());
        eventually("it is stored", Duration::from_secs(10), || endpoint.head("log").is_some());
        endpoint.reset();
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end {
            file.write_all(b".").unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        // One more may have been under way when the first byte came.
        assert!(endpoint.counters().requests("PutObject") <= 1, "{:?}", endpoint.counters());
        assert_eq!(attribute(&mount.join("log"), "user.dsse.verdict").unwrap(), "pending");
        drop(file);
        let length = i64::try_from(fs::metadata(mount.join("log")).unwrap().len()).unwrap();
        eventually("all is stored", Duration::from_secs(10), || {
            endpoint.head("log").unwrap().content_length() == Some(length)
        });
    });
}

#[test]
fn a_commit_that_failed_is_tried_again_while_somebody_has_the_file_open() {
    scenario().mounted(|endpoint, mount| {
        commit(&mount.join("file"), b"old").unwrap();
        let reader = File::open(mount.join("file")).unwrap();
        endpoint.inject_fault("PutObject", denied());
        cp(b"new", &mount.join("file")).unwrap_err();
        eventually("it is stored", Duration::from_secs(20), || endpoint.content("file") == b"new");
        drop(reader);
        let mut writer = append(&mount.join("file"));
        writer.write_all(b" and newer").unwrap();
        endpoint.inject_fault("PutObject", denied());
        assert_eq!(errno(writer.sync_all()), libc::EACCES);
        eventually("the writer's is stored", Duration::from_secs(20), || endpoint.content("file") == b"new and newer");
        endpoint.reset();
        writer.sync_all().unwrap();
        assert_eq!(endpoint.counters().requests("PutObject"), 0, "there was nothing left to do");
    });
}

#[test]
fn a_race_that_was_lost_is_told_to_who_has_the_file_open_and_not_tried_for_ever() {
    scenario().mounted(|endpoint, mount| {
        commit(&mount.join("file"), b"old").unwrap();
        let mut writer = append(&mount.join("file"));
        writer.write_all(b" and ours").unwrap();
        endpoint.put("file", b"theirs");
        assert_eq!(errno(writer.sync_all()), libc::ESTALE);
        endpoint.reset();
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(endpoint.counters().requests("PutObject"), 0, "{:?}", endpoint.counters());
        assert_eq!(errno(writer.sync_all()), libc::ESTALE);
        assert_eq!(endpoint.content("file"), b"theirs");
    });
}

/// The task that was to save a file slept while another call saved and closed it; then it forgot the file that was
/// open by then, and the end of the mount did not know of that one's changes.
#[test]
fn the_task_that_was_to_save_a_file_does_not_lose_sight_of_the_one_that_is_open_now() {
    scenario().mounted(|endpoint, mount| {
        endpoint.inject_fault("PutObject", denied());
        cp(b"first", &mount.join("file")).unwrap_err();
        append(&mount.join("file")).sync_all().unwrap();
        assert_eq!(endpoint.content("file"), b"first");
        let mut file = append(&mount.join("file"));
        file.write_all(b" and last").unwrap();
        std::thread::sleep(Duration::from_secs(3));
        assert!(mount.end().success());
        assert_eq!(endpoint.content("file"), b"first and last");
        drop(file);
    });
}
