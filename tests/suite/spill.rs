//! What rests on the local disk while files are being written.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use rustix::process::geteuid;

use crate::common::{Endpoint, MINUTE, Mount, attribute, deadline, errno, noise};

const MARKER: &[u8] = b"PATIENT RECORD 4711, CONFIDENTIAL. ";
const FILES: usize = 24;
/// Below the least part of an upload, so that it stays here until it is closed.
const FILE_BYTES: usize = 4 << 20;

fn content(number: usize) -> Vec<u8> {
    let mut content: Vec<u8> = MARKER.iter().copied().cycle().take(FILE_BYTES).collect();
    content[..8].copy_from_slice(&(number as u64).to_le_bytes());
    content
}

/// Opens and fills all files, and closes none.
fn write_all(mount: &Mount) -> Vec<File> {
    let write = |number: usize| {
        let mut file = File::create(mount.join(&format!("{number}"))).unwrap();
        file.write_all(&content(number)).unwrap();
        file
    };
    (0..FILES).map(write).collect()
}

/// The content of every descriptor of the daemon that leads into the spill directory.
fn spilled(mount: &Mount) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(format!("/proc/{}/fd", mount.pid())).expect("root may look");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let ours = paths.filter(|path| path.read_link().is_ok_and(|target| target.starts_with(mount.spill_dir())));
    ours.map(|path| {
        let mut bytes = Vec::new();
        File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    })
    .collect()
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    // Compares only where the first byte is right: there are many bytes, and debug builds are slow.
    bytes.iter().enumerate().any(|(at, byte)| *byte == needle[0] && bytes[at..].starts_with(needle))
}

#[test]
fn nothing_readable_is_on_the_disk_and_everything_arrives() {
    deadline(MINUTE * 3, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--memory", "32MiB"]);
        let files = write_all(&mount);
        let states: Vec<String> =
            (0..FILES).map(|number| attribute(&mount.join(&format!("{number}")), "user.dsse.local").unwrap()).collect();
        assert!(states.iter().any(|state| state == "spilled"), "{states:?}");
        if geteuid().is_root() {
            let spilled = spilled(&mount);
            assert!(spilled.iter().map(Vec::len).sum::<usize>() > 16 << 20, "there is something to search");
            assert!(!spilled.iter().any(|bytes| contains(bytes, &MARKER[..16])), "content is readable on the disk");
        }
        let layers = attribute(&mount.join("0"), "user.dsse.local.layers").unwrap();
        let outer = if cfg!(feature = "fips") { "AWS-LC FIPS 3.1.0" } else { "ring" };
        assert!(layers.contains("aes-gcm") && layers.contains(outer), "{layers}");
        assert!(mount.memory_bytes_peak() < 400 << 20, "{} bytes", mount.memory_bytes_peak());
        for (number, file) in files.into_iter().enumerate() {
            let mut seen = Vec::new();
            File::open(mount.join(&format!("{number}"))).unwrap().read_to_end(&mut seen).unwrap();
            assert!(seen == content(number), "file {number} read back while it is spilled");
            file.sync_all().unwrap();
            drop(file);
            assert!(endpoint.content(&format!("{number}")) == content(number), "file {number} in the store");
        }
    });
}

#[test]
fn the_spill_has_no_name_and_its_directory_is_private() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--memory", "32MiB"]);
        let files = write_all(&mount);
        assert_eq!(mount.spill_dir().metadata().unwrap().permissions().mode() & 0o077, 0);
        let named = |entry: &fs::DirEntry| !entry.file_name().to_string_lossy().starts_with("uploads-");
        let named = fs::read_dir(mount.spill_dir()).unwrap().map(Result::unwrap).filter(named).count();
        assert_eq!(named, 0, "no file with content has a name");
        drop(files);
    });
}

#[test]
fn a_used_up_budget_is_enospc_and_loses_nothing() {
    deadline(MINUTE * 3, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--memory", "32MiB", "--spill", "16MiB"]);
        let mut files = Vec::new();
        let full = (0..FILES).find_map(|number| {
            let mut file = File::create(mount.join(&format!("{number}"))).unwrap();
            let written = file.write_all(&content(number));
            files.push((number, written.is_ok(), file));
            written.err()
        });
        assert_eq!(full.and_then(|error| error.raw_os_error()), Some(libc::ENOSPC));
        for (number, whole, file) in files {
            file.sync_all().unwrap();
            drop(file);
            let stored = endpoint.content(&format!("{number}"));
            assert!(stored == content(number)[..stored.len()], "file {number}");
            assert!(!whole || stored.len() == FILE_BYTES, "file {number}");
        }
        crate::common::commit(&mount.join("after"), b"there is room again").unwrap();
    });
}

#[test]
fn the_daemon_cannot_be_dumped() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        let limits = fs::read_to_string(format!("/proc/{}/limits", mount.pid())).unwrap();
        let core =
            limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line of the core limit");
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    });
}

#[test]
fn a_sequential_writer_needs_no_disk() {
    deadline(MINUTE * 3, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--memory", "64MiB", "--spill", "0"]);
        let content = noise(7, 160 << 20);
        let mut file = File::create(mount.join("large")).unwrap();
        file.write_all(&content).unwrap();
        assert_eq!(errno(file.sync_all()), 0);
        assert!(endpoint.content("large") == content, "the content differs");
    });
}
