//! No change of the bucket without a condition: what another host stores is never replaced or deleted by a request
//! that was meant for an older object.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use dssefs_emulator::faults::{Fault, Rule};

use crate::common::{Endpoint, MINUTE, Mount, STALE, commit, deadline, denied, errno, eventually, failure, names};

/// The next such request is carried out and not answered. The retries of the SDK wait.
fn lose_answer_and_hold_retries(endpoint: &Endpoint, operation: &str) {
    let held_back = Rule::on(operation, Fault::DelayMs(3_000)).times(0);
    endpoint.inject_faults(vec![Rule::on(operation, Fault::LoseAnswer), held_back]);
}

fn until_retried(endpoint: &Endpoint) {
    eventually("the request is retried", MINUTE, || endpoint.struck() == 2);
}

fn append(path: &std::path::Path, text: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text).unwrap();
}

/// The retry deleted the lock file that another host had made since.
#[test]
fn a_retried_unlink_spares_what_another_host_made_since() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("lock", b"ours");
        let mount = Mount::of(&endpoint);
        lose_answer_and_hold_retries(&endpoint, "DeleteObject");
        let path = mount.join("lock");
        let removing = std::thread::spawn(move || fs::remove_file(path));
        until_retried(&endpoint);
        assert!(endpoint.head("lock").is_none(), "it is carried out");
        endpoint.put("lock", b"theirs");
        removing.join().unwrap().unwrap();
        assert_eq!(endpoint.content("lock"), b"theirs");
        assert_eq!(fs::read(mount.join("lock")).unwrap(), b"theirs", "the new file is seen");
    });
}

/// The same for the marker of a directory.
#[test]
fn a_retried_rmdir_spares_a_directory_made_since() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("d/", b"");
        let mount = Mount::of(&endpoint);
        lose_answer_and_hold_retries(&endpoint, "DeleteObject");
        let path = mount.join("d");
        let removing = std::thread::spawn(move || fs::remove_dir(path));
        until_retried(&endpoint);
        endpoint.put("d/", b"");
        removing.join().unwrap().unwrap();
        assert!(endpoint.head("d/").is_some());
    });
}

/// The retried copy replaced what another host had appended to the target since.
#[test]
fn a_retried_rename_spares_what_another_host_stored_since() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("source", b"new");
        endpoint.put("target", b"old");
        let mount = Mount::of(&endpoint);
        lose_answer_and_hold_retries(&endpoint, "CopyObject");
        let (from, to) = (mount.join("source"), mount.join("target"));
        let renaming = std::thread::spawn(move || fs::rename(from, to));
        until_retried(&endpoint);
        endpoint.put("target", b"new and theirs");
        assert_eq!(errno(renaming.join().unwrap()), libc::EBUSY, "after ESTALE the kernel begins again");
        assert_eq!(endpoint.content("target"), b"new and theirs");
        assert_eq!(endpoint.content("source"), b"new", "nothing is lost");
    });
}

/// Both names shared one inode, and what was written to the old name landed in the new one.
#[test]
fn a_rename_whose_delete_is_denied_leaves_the_old_name_its_own_file() {
    for (denied_key, replaces) in [("source", false), ("", false), ("source", true), ("", true)] {
        deadline(MINUTE, move || {
            let endpoint = Endpoint::start();
            endpoint.put("source", b"content");
            if replaces {
                endpoint.put("target", b"old");
            }
            let mount = Mount::of(&endpoint);
            let (source, target) = (mount.join("source"), mount.join("target"));
            let ino = fs::metadata(&source).unwrap().ino();
            endpoint.inject_faults(vec![Rule::on("DeleteObject", denied()).key_contains(denied_key).times(0)]);
            assert_eq!(errno(fs::rename(&source, &target)), libc::EACCES);
            append(&source, b" and more");
            assert_eq!(endpoint.content("source"), b"content and more");
            assert_eq!(fs::metadata(&source).unwrap().ino(), ino);
            // A copy that cannot be deleted again, or has replaced a file, stays as a file of its own.
            let copy_stays = replaces || denied_key.is_empty();
            assert_eq!(endpoint.head("target").is_some(), copy_stays, "{denied_key:?} {replaces}");
            if copy_stays {
                std::thread::sleep(STALE);
                assert_eq!(fs::read(&target).unwrap(), b"content");
                assert_ne!(fs::metadata(&target).unwrap().ino(), ino);
            } else {
                assert_eq!(errno(fs::metadata(&target)), libc::ENOENT);
            }
            endpoint.clear_faults();
            fs::rename(&source, &target).unwrap();
            assert_eq!(endpoint.content("target"), b"content and more");
            assert!(endpoint.head("source").is_none());
        });
    }
}

/// The DELETE was carried out and each of its answers lost: the file has its new name.
#[test]
fn a_rename_whose_delete_was_carried_out_unseen_has_succeeded() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("source", b"content");
        let mount = Mount::with(&endpoint, &["--attempts", "2"]);
        let lost = Rule::on("DeleteObject", Fault::LoseAnswer).times(0);
        endpoint.inject_faults(vec![lost]);
        fs::rename(mount.join("source"), mount.join("target")).unwrap();
        endpoint.clear_faults();
        assert_eq!(fs::read(mount.join("target")).unwrap(), b"content");
        assert_eq!(names(&mount.path()), ["target"]);
    });
}

#[test]
fn unlink_and_rename_take_what_another_host_replaced_meanwhile() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        for name in ["removed", "target", "source"] {
            endpoint.put(name, b"old");
        }
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        for name in ["removed", "target", "source"] {
            fs::metadata(mount.join(name)).unwrap();
        }
        endpoint.put("removed", b"theirs");
        let (done, counters) = endpoint.counted(|| fs::remove_file(mount.join("removed")));
        done.unwrap();
        assert_eq!((counters.requests("DeleteObject"), counters.requests("HeadObject")), (2, 1));
        endpoint.put("target", b"theirs");
        let (done, counters) = endpoint.counted(|| fs::rename(mount.join("source"), mount.join("target")));
        done.unwrap();
        assert_eq!((counters.requests("CopyObject"), counters.requests("HeadObject")), (2, 1));
        assert_eq!(endpoint.keys(), ["target"]);
        assert_eq!(endpoint.content("target"), b"old");
    });
}

#[test]
fn a_conflict_with_another_request_is_retried_by_unlink_and_rename() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        commit(&mount.join("a"), b"content").unwrap();
        let conflict = |operation| Rule::on(operation, failure(409, "ConditionalRequestConflict")).times(2);
        endpoint.inject_faults(vec![conflict("CopyObject"), conflict("DeleteObject")]);
        fs::rename(mount.join("a"), mount.join("b")).unwrap();
        endpoint.inject_faults(vec![conflict("DeleteObject")]);
        fs::remove_file(mount.join("b")).unwrap();
        assert_eq!(endpoint.keys(), Vec::<String>::new());
    });
}

/// A store without conditional deletes is asked for the version first, and named at the mount.
#[test]
fn a_store_that_ignores_the_conditions_of_deletes_is_named() {
    let denies = || failure(501, "NotImplemented");
    for fault in [None, Some(Fault::IgnoreConditions), Some(Fault::RefuseConditions), Some(denies())] {
        for versioned in [false, true] {
            let fault = fault.clone();
            deadline(MINUTE, move || {
                let endpoint = Endpoint::start();
                if versioned {
                    endpoint.keep_versions();
                }
                let rules = |fault: &Fault| vec![Rule::on("DeleteObject", fault.clone()).times(0)];
                endpoint.inject_faults(fault.iter().flat_map(rules).collect());
                let mount = Mount::of(&endpoint);
                let named = mount.log().contains("does not keep the conditions of deletes");
                assert_eq!(named, fault.is_some(), "{}", mount.log());
                assert_eq!(endpoint.versions(), 0, "nothing is left");
                if fault == Some(Fault::IgnoreConditions) || fault == Some(Fault::RefuseConditions) {
                    commit(&mount.join("file"), b"content").unwrap();
                    let (done, counters) = endpoint.counted(|| fs::remove_file(mount.join("file")));
                    done.unwrap();
                    assert_eq!((counters.requests("DeleteObject"), counters.requests("HeadObject")), (1, 1));
                    assert!(endpoint.head("file").is_none());
                }
            });
        }
    }
}

#[test]
fn renames_and_chmod_work_on_a_store_without_conditional_copies() {
    for fault in [Fault::IgnoreConditions, Fault::RefuseConditions] {
        deadline(MINUTE, move || {
            let endpoint = Endpoint::start();
            endpoint.put("source", b"content");
            endpoint.put("target", b"old");
            endpoint.inject_faults(vec![Rule::on("CopyObject", fault.clone()).times(0)]);
            let mount = Mount::of(&endpoint);
            assert!(mount.log().contains("does not keep the conditions of copies"), "{fault:?}: {}", mount.log());
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(mount.join("source"), mode).unwrap();
            fs::rename(mount.join("source"), mount.join("target")).unwrap();
            fs::rename(mount.join("target"), mount.join("new")).unwrap();
            assert_eq!(endpoint.keys(), ["new"]);
            assert_eq!(endpoint.content("new"), b"content");
        });
    }
}
