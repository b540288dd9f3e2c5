//! What the matrix has found, one test for each incident.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use dssefs_emulator::faults::{Fault, Rule};

use crate::common::kept::{SEGMENT, background, is_empty, kill, session};
use crate::common::{Endpoint, MINUTE, Mount, deadline, denied, errno, eventually, noise, scenario, unavailable};

use super::point::Disk;

fn hold(endpoint: &Endpoint, operation: &str) {
    endpoint.inject_faults(vec![Rule::on(operation, Fault::Stall).times(0)]);
}

/// A commit was reading the object for its parts when the file was cut; what was cut off was stored as zeros, in a file
/// of the old length. The crash that followed took the object for the file as it had been acknowledged.
#[test]
fn a_file_that_is_cut_while_it_is_stored_is_never_stored_with_zeros_in_the_place_of_its_end() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mut content = noise(1, 14 << 20);
        endpoint.put("file", &content);
        let mount = Mount::of(&endpoint);
        let file = OpenOptions::new().write(true).open(mount.join("file")).unwrap();
        file.write_all_at(b"patched", 1 << 20).unwrap();
        content[1 << 20..][..7].copy_from_slice(b"patched");
        // The commit needs the rest of the object, and gets it late.
        endpoint.inject_faults(vec![Rule::on("GetObject", Fault::DelayMs(1_500)).times(0)]);
        // By the close of a duplicate: fsync(2) holds the inode's lock in the kernel, and the cut would wait for it.
        let duplicate = file.try_clone().unwrap();
        let commit = std::thread::spawn(move || drop(duplicate));
        eventually("the commit reads the object", MINUTE, || endpoint.struck() > 0);
        rustix::fs::ftruncate(&file, 4 << 20).unwrap();
        assert!(!commit.is_finished(), "it was cut after the commit");
        commit.join().unwrap();
        let stored = endpoint.content("file");
        let is_old_or_new = stored == content || stored == content[..4 << 20];
        assert!(is_old_or_new, "{} bytes, {} zeros", stored.len(), stored.iter().filter(|byte| **byte == 0).count());
        endpoint.clear_faults();
        file.sync_all().unwrap();
        assert!(endpoint.content("file") == content[..4 << 20]);
    });
}

/// A session whose last record was torn was read again by every mount that followed, and what had been stored and then
/// removed came back with each.
#[test]
fn a_session_with_a_torn_end_is_sent_once_and_what_is_removed_later_stays_removed() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let first = background(&endpoint, &spill);
        hold(&endpoint, "PutObject");
        fs::write(first.join("file"), "content").unwrap();
        kill(first);
        endpoint.clear_faults();
        let segment = OpenOptions::new().append(true).open(session(&spill).join(SEGMENT)).unwrap();
        std::io::Write::write_all(&mut &segment, &[0, 0, 1]).unwrap();
        let second = background(&endpoint, &spill);
        assert_eq!(endpoint.content("file"), b"content");
        fs::remove_file(second.join("file")).unwrap();
        kill(second);
        let third = background(&endpoint, &spill);
        assert!(endpoint.keys().is_empty(), "{:?}", endpoint.keys());
        assert!(third.end().success());
        assert!(is_empty(&spill));
    });
}

/// chmod(2) of a file that was not stored yet changed what would be stored, and was lost with the process.
#[test]
fn a_change_of_mode_of_a_pending_file_is_as_safe_as_its_content() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let first = background(&endpoint, &spill);
        endpoint.inject_faults(vec![Rule::on("PutObject", unavailable()).times(0)]);
        fs::write(first.join("file"), "content").unwrap();
        fs::set_permissions(first.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        xattr::set(first.join("file"), "user.colour", b"red").unwrap();
        kill(first);
        endpoint.clear_faults();
        let second = background(&endpoint, &spill);
        assert_eq!(fs::metadata(second.join("file")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(xattr::get(second.join("file"), "user.colour").unwrap().unwrap(), b"red");
    });
}

/// A mount that died while it proved that it may write left the upload by which it did.
#[test]
fn an_upload_of_a_mount_that_died_while_it_started_is_aborted_by_the_next() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let options = ["--spill-dir", spill.path().to_str().unwrap()];
        hold(&endpoint, "AbortMultipartUpload");
        Mount::killed_while_it_starts(&endpoint, &options, &[], || endpoint.struck() > 0);
        assert_eq!(endpoint.uploads(), 1);
        endpoint.clear_faults();
        let mount = Mount::with(&endpoint, &options);
        eventually("the upload is gone", Duration::from_secs(5), || endpoint.uploads() == 0);
        assert!(mount.end().success());
    });
}

/// rm(1) succeeded although the local disk had not taken a note of it, and the next mount stored what had been removed.
#[test]
fn a_removal_that_the_local_disk_could_not_note_is_no_success_and_the_next_one_removes_nothing() {
    deadline(MINUTE * 2, || {
        let (endpoint, disk) = (Endpoint::start(), Disk::new());
        let options = ["--spill-keys", "kms", "--commit", "background", "--spill-dir", disk.path().to_str().unwrap()];
        let mount = Mount::with_variables(&endpoint, &options, &disk.environment());
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        for name in ["removed", "stays", "target"] {
            fs::write(mount.join(name), "content").unwrap();
        }
        let is_refused =
            |name: &&str| mount.log().contains(&format!("not saved yet error=PutObject of s3://tests/{name} "));
        let are_refused = || ["removed", "stays", "target"].iter().all(is_refused);
        eventually("the store has refused them, and the journal keeps them", MINUTE / 2, are_refused);
        disk.fail_to_sync();
        assert_eq!(errno(fs::remove_file(mount.join("removed"))), libc::EIO);
        let told = mount
            .log()
            .lines()
            .any(|line| line.contains("ERROR") && line.contains("removed") && line.contains("may store it again"));
        assert!(told, "{}", mount.log());
        // From then on the disk is known to fail, before anything is done.
        assert_eq!(errno(fs::remove_file(mount.join("stays"))), libc::EIO);
        assert_eq!(fs::read(mount.join("stays")).unwrap(), b"content");
        assert!(endpoint.keys().is_empty());
        endpoint.clear_faults();
        assert_eq!(errno(fs::rename(mount.join("stays"), mount.join("target"))), libc::EIO);
        assert_eq!(endpoint.content("stays"), b"content");
        kill(mount);
    });
}
