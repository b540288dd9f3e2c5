//! Files that programs have open when their names go: the store keeps a hidden copy of what the handles still need, and
//! the mount deletes it after the last close.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use dssefs_emulator::faults::{Fault, Rule};
use tempfile::TempDir;

use crate::common::kept::kill;
use crate::common::{Endpoint, MINUTE, Mount, commit, deadline, denied, errno, eventually, names, noise};
use crate::readers::{direct, page};

/// Two times 64 MiB: more than memory and spill of these mounts have room for.
const LITTLE_MEMORY: [&str; 4] = ["--memory", "32MiB", "--spill", "0"];
const HELD: &str = ".dssefs/held/";
const PAGE: usize = 4096;

fn big(endpoint: &Endpoint) -> Vec<u8> {
    endpoint.put_repeated("big", 2);
    noise(9, 64 << 20)
}

fn held(endpoint: &Endpoint) -> Vec<String> {
    endpoint.keys().into_iter().filter(|key| key.starts_with(HELD)).collect()
}

fn nothing_is_held(endpoint: &Endpoint) {
    eventually("the held object is deleted", MINUTE, || held(endpoint).is_empty());
}

/// A mount of one host: what it leaves is listed in its spill directory.
fn mount_of_host(endpoint: &Endpoint, spill: &TempDir) -> Mount {
    Mount::with(endpoint, &["--spill-dir", spill.path().to_str().unwrap()])
}

/// It was downloaded whole, under the kernel's lock of the directory, and ENOSPC where that had no room.
#[test]
fn rm_of_a_file_that_is_read_copies_it_within_the_store() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let content = big(&endpoint);
        let mount = Mount::with(&endpoint, &LITTLE_MEMORY);
        let reader = direct(&mount.join("big"));
        assert!(page(&reader, 50 << 20).unwrap() == content[50 << 20..][..PAGE]);
        let ((), counters) = endpoint.counted(|| fs::remove_file(mount.join("big")).unwrap());
        let asked = ["GetObject", "CopyObject", "DeleteObject", "PutObject", "CreateMultipartUpload"];
        assert_eq!(asked.map(|name| counters.requests(name)), [0, 1, 1, 0, 0]);
        assert!(page(&reader, 100 << 20).unwrap() == content[36 << 20..][..PAGE]);
        let held = held(&endpoint);
        assert_eq!(held.len(), 1, "{held:?}");
        endpoint.assert_dsse(&held[0]);
        assert_eq!(names(&mount.path()), ["seed"], "no program sees it");
        assert_eq!(errno(fs::read_dir(mount.join(".dssefs"))), libc::ENOENT);
        assert_eq!(errno(File::open(mount.join(&held[0]))), libc::ENOENT);
        drop(reader);
        nothing_is_held(&endpoint);
        assert_eq!(endpoint.keys(), ["seed"]);
        assert!(mount.end().success());
    });
}

#[test]
fn rm_of_a_closed_file_copies_nothing() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("file", b"content");
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        assert_eq!(fs::read(mount.join("file")).unwrap(), b"content");
        let ((), counters) = endpoint.counted(|| fs::remove_file(mount.join("file")).unwrap());
        let asked = ["GetObject", "CopyObject", "DeleteObject", "HeadObject"];
        assert_eq!(asked.map(|name| counters.requests(name)), [0, 0, 1, 0]);
    });
}

#[test]
fn a_bucket_with_versions_needs_no_held_copy() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.keep_versions();
        let content = noise(1, 20 << 20);
        endpoint.put("file", &content);
        let mount = Mount::of(&endpoint);
        let handle = OpenOptions::new().read(true).write(true).open(mount.join("file")).unwrap();
        handle.write_all_at(b"changed", 5).unwrap();
        let ((), counters) = endpoint.counted(|| fs::remove_file(mount.join("file")).unwrap());
        assert_eq!(["GetObject", "CopyObject"].map(|name| counters.requests(name)), [0, 0]);
        assert!(page(&handle, 10 << 20).unwrap() == content[10 << 20..][..PAGE]);
        assert_eq!(&page(&handle, 0).unwrap()[5..12], b"changed");
    });
}

#[test]
fn the_target_of_a_rename_stays_readable_without_a_download() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let content = big(&endpoint);
        let mount = Mount::with(&endpoint, &LITTLE_MEMORY);
        commit(&mount.join("new"), b"new").unwrap();
        let reader = direct(&mount.join("big"));
        let ((), counters) = endpoint.counted(|| fs::rename(mount.join("new"), mount.join("big")).unwrap());
        assert_eq!(["GetObject", "CopyObject"].map(|name| counters.requests(name)), [0, 2]);
        assert!(page(&reader, 100 << 20).unwrap() == content[36 << 20..][..PAGE]);
        assert_eq!(fs::read(mount.join("big")).unwrap(), b"new");
        drop(reader);
        nothing_is_held(&endpoint);
        assert_eq!(endpoint.content("big"), b"new");
    });
}

#[test]
fn changes_of_a_removed_file_stand_on_its_held_copy() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let mut content = noise(1, 40 << 20);
        endpoint.put("file", &content);
        let mount = Mount::with(&endpoint, &LITTLE_MEMORY);
        let handle = OpenOptions::new().read(true).write(true).open(mount.join("file")).unwrap();
        handle.write_all_at(b"before", 20 << 20).unwrap();
        fs::remove_file(mount.join("file")).unwrap();
        handle.write_all_at(b"after", 30 << 20).unwrap();
        handle.set_len(39 << 20).unwrap();
        content[20 << 20..][..6].copy_from_slice(b"before");
        content[30 << 20..][..5].copy_from_slice(b"after");
        content.truncate(39 << 20);
        let mut found = vec![0; 40 << 20];
        let mut length = 0;
        while let more @ 1.. = handle.read_at(&mut found[length..], length as u64).unwrap() {
            length += more;
        }
        assert!(found[..length] == content);
        handle.sync_all().unwrap();
        drop(handle);
        nothing_is_held(&endpoint);
        assert_eq!(endpoint.keys(), Vec::<String>::new());
        assert!(mount.end().success());
    });
}

/// The policy may allow no copies there. What fits is downloaded; otherwise the file keeps its name.
#[test]
fn a_refused_copy_is_downloaded_or_rm_fails() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let content = big(&endpoint);
        endpoint.put("file", b"content");
        let mount = Mount::with(&endpoint, &LITTLE_MEMORY);
        let (small, reader) = (direct(&mount.join("file")), direct(&mount.join("big")));
        endpoint.inject_faults(vec![Rule::on("CopyObject", denied()).times(0).key_contains(HELD)]);
        fs::remove_file(mount.join("file")).unwrap();
        assert_eq!(page(&small, 0).unwrap(), b"content");
        assert!(mount.log().contains("the mount reads all of it instead"), "{}", mount.log());
        assert_eq!(errno(fs::remove_file(mount.join("big"))), libc::ENOSPC);
        assert_eq!(names(&mount.path()), ["big", "seed"]);
        assert!(page(&reader, 100 << 20).unwrap() == content[36 << 20..][..PAGE]);
        endpoint.clear_faults();
        fs::remove_file(mount.join("big")).unwrap();
        assert!(page(&reader, 90 << 20).unwrap() == content[26 << 20..][..PAGE]);
        drop(reader);
        nothing_is_held(&endpoint);
    });
}

#[test]
fn a_denied_rm_leaves_the_file_and_no_copy() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let content = noise(1, 1 << 20);
        endpoint.put("file", &content);
        let mount = Mount::of(&endpoint);
        let handle = OpenOptions::new().read(true).write(true).open(mount.join("file")).unwrap();
        endpoint.inject_faults(vec![Rule::on("DeleteObject", denied()).times(0).key_contains("file")]);
        assert_eq!(errno(fs::remove_file(mount.join("file"))), libc::EACCES);
        let ((), counters) = endpoint.counted(|| {
            assert_eq!(errno(fs::remove_file(mount.join("file"))), libc::EACCES);
        });
        assert_eq!(counters.requests("CopyObject"), 0, "the copy of the first try serves");
        handle.write_all_at(b"changed", 5).unwrap();
        handle.sync_all().unwrap();
        assert!(endpoint.content("file")[12..] == content[12..]);
        drop(handle);
        nothing_is_held(&endpoint);
        assert_eq!(endpoint.keys(), ["file"]);
    });
}

#[test]
fn handles_read_on_when_the_answer_to_the_removal_is_lost() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let content = noise(1, 1 << 20);
        endpoint.put("file", &content);
        let mount = Mount::with(&endpoint, &["--attempts", "2", "--operation-timeout", "20s"]);
        let reader = direct(&mount.join("file"));
        endpoint.inject_faults(vec![
            Rule::on("DeleteObject", Fault::LoseAnswer),
            Rule::on("DeleteObject", Fault::Reset).times(0),
            // Nor can the mount see that it was carried out.
            Rule::on("HeadObject", Fault::Reset).times(0),
        ]);
        assert_ne!(errno(fs::remove_file(mount.join("file"))), 0);
        endpoint.clear_faults();
        assert!(endpoint.head("file").is_none(), "it was carried out");
        assert!(page(&reader, 8192).unwrap() == content[8192..][..PAGE]);
        drop(reader);
        nothing_is_held(&endpoint);
    });
}

/// Only a list without a lock tells that a mount is dead: no clock is asked.
#[test]
fn a_start_sweeps_what_dead_mounts_of_its_own_host_held() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let (host, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        for name in ["dead", "alive"] {
            endpoint.put(name, name.as_bytes());
        }
        let (dead, alive) = (mount_of_host(&endpoint, &host), mount_of_host(&endpoint, &host));
        let (lost, reader) = (direct(&dead.join("dead")), direct(&alive.join("alive")));
        fs::remove_file(dead.join("dead")).unwrap();
        fs::remove_file(alive.join("alive")).unwrap();
        assert_eq!(held(&endpoint).len(), 2);
        kill(dead);
        drop(lost);
        assert!(mount_of_host(&endpoint, &other).end().success());
        assert_eq!(held(&endpoint).len(), 2, "another host does not know whether the handles are still open");
        assert!(mount_of_host(&endpoint, &host).end().success());
        assert_eq!(held(&endpoint).len(), 1);
        assert_eq!(page(&reader, 0).unwrap(), b"alive");
        drop(reader);
        nothing_is_held(&endpoint);
        assert!(alive.end().success());
        assert!(names(host.path()).iter().all(|name| !name.starts_with("uploads-")), "no list is left");
    });
}

#[test]
fn the_end_of_a_mount_deletes_what_it_held() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        endpoint.put("file", b"content");
        let mount = Mount::of(&endpoint);
        let reader = direct(&mount.join("file"));
        fs::remove_file(mount.join("file")).unwrap();
        assert_eq!(held(&endpoint).len(), 1);
        mount.end();
        assert_eq!(endpoint.keys(), Vec::<String>::new());
        drop(reader);
    });
}
