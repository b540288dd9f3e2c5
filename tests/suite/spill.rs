//! What rests on the local disk while files are being written.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::geteuid;

use crate::common::{
    ACCESS_KEY, BUCKET, Endpoint, MINUTE, Mount, SECRET_KEY, attribute, commit, deadline, dssefs, errno, mountinfo_has,
    needs_root, noise, scenario,
};

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
    scenario().within(MINUTE * 3).options(&["--memory", "32MiB"]).mounted(|endpoint, mount| {
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
    scenario().options(&["--memory", "32MiB"]).mounted(|_endpoint, mount| {
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
    scenario().within(MINUTE * 3).options(&["--memory", "32MiB", "--spill", "16MiB"]).mounted(|endpoint, mount| {
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
        commit(&mount.join("after"), b"there is room again").unwrap();
    });
}

#[test]
fn the_daemon_cannot_be_dumped() {
    scenario().mounted(|_endpoint, mount| {
        let limits = fs::read_to_string(format!("/proc/{}/limits", mount.pid())).unwrap();
        let core =
            limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line of the core limit");
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    });
}

#[test]
fn a_sequential_writer_needs_no_disk() {
    scenario().within(MINUTE * 3).options(&["--memory", "64MiB", "--spill", "0"]).mounted(|endpoint, mount| {
        let content = noise(7, 160 << 20);
        let mut file = File::create(mount.join("large")).unwrap();
        file.write_all(&content).unwrap();
        assert_eq!(errno(file.sync_all()), 0);
        assert!(endpoint.content("large") == content, "the content differs");
    });
}

/// A user who is not the one who mounts.
const NOBODY: u32 = 65_534;

/// What a command said, on both ways.
fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Neither a mount nor `recover` goes on, and both name the component.
fn refused(endpoint: &Endpoint, spill: &Path, words: &[&str]) {
    let point = tempfile::tempdir().unwrap();
    let mut mount = Mount::command(endpoint, BUCKET, point.path());
    mount.args(["--foreground", "--spill-keys", "kms", "--kms-key-id", endpoint.key_arn(), "--spill-dir"]).arg(spill);
    let mut recover = dssefs();
    recover.arg("recover").arg(spill).arg("discard");
    for mut command in [mount, recover] {
        let output = command.output().unwrap();
        assert!(!mountinfo_has(point.path()), "it was mounted");
        assert_eq!(output.status.code(), Some(2), "{command:?}: {}", said(&output));
        assert!(words.iter().all(|word| said(&output).contains(word)), "{words:?} in {}", said(&output));
    }
}

#[test]
fn a_spill_directory_below_one_that_others_write_to_is_refused() {
    deadline(MINUTE * 2, || {
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let above = dir.path().join("above");
        let (spill, link) = (above.join("spill"), dir.path().join("link"));
        fs::create_dir_all(&spill).unwrap();
        symlink(&above, &link).unwrap();
        fs::set_permissions(&spill, Permissions::from_mode(0o700)).unwrap();
        fs::write(spill.join("session-planted"), "").unwrap();
        for mode in [0o777, 0o770, 0o707] {
            fs::set_permissions(&above, Permissions::from_mode(mode)).unwrap();
            let words = [&format!("{} (owner ", above.display()), &format!("mode {mode:04o}"), "chmod go-w"];
            refused(&endpoint, &spill, &words);
            refused(&endpoint, &link.join("spill"), &words);
        }
        assert_eq!(fs::read_dir(&spill).unwrap().count(), 1, "nothing was made in it, or removed");
        fs::set_permissions(&above, Permissions::from_mode(0o1777)).unwrap();
        fs::remove_file(spill.join("session-planted")).unwrap();
        let mount = Mount::with(&endpoint, &["--spill-dir", link.join("spill").to_str().unwrap()]);
        commit(&mount.join("file"), b"content").unwrap();
        let settings = attribute(&mount.path(), "user.dsse.mount.settings").unwrap();
        assert!(settings.contains(&format!("spill-dir={}", spill.display())), "the path without links: {settings}");
        assert!(mount.end().success());
    });
}

#[test]
fn root_takes_no_spill_directory_of_another_user_or_below_one() {
    deadline(MINUTE * 2, || {
        if needs_root("only root can give directories away") {
            return;
        }
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let home = dir.path().join("home");
        let spill = home.join("spill");
        fs::create_dir_all(&spill).unwrap();
        fs::set_permissions(&spill, Permissions::from_mode(0o700)).unwrap();
        chown(&spill, Some(NOBODY), None).unwrap();
        refused(&endpoint, &spill, &["another user (65534, mode 0700)", "runs as user 0"]);
        chown(&spill, Some(0), None).unwrap();
        chown(&home, Some(NOBODY), None).unwrap();
        let words = [&format!("{} belongs to user 65534", home.display()), "give a place with --spill-dir"];
        refused(&endpoint, &spill, &words);
        refused(&endpoint, &home.join("missing"), &words);
        assert!(!home.join("missing").exists(), "it was made");
    });
}

#[test]
fn doctor_does_not_look_into_a_spill_directory_that_others_may_change() {
    deadline(MINUTE, || {
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let spill = dir.path().join("spill");
        fs::create_dir(&spill).unwrap();
        fs::set_permissions(&spill, Permissions::from_mode(0o770)).unwrap();
        let mut doctor = dssefs();
        doctor.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        doctor.args(["doctor", BUCKET, "--region", "us-east-1", "--force-path-style", "--spill-dir"]).arg(&spill);
        doctor.args(["--kms-key-id", endpoint.key_arn(), "--endpoint-url", &endpoint.url()]);
        doctor.args(["--kms-endpoint-url", &endpoint.url()]);
        let output = doctor.output().unwrap();
        let told = said(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.lines().any(|line| line.starts_with("bad ") && line.contains("chmod 700")), "{told}");
        assert!(!told.contains("notes no upload"), "it was looked into: {told}");
    });
}

#[test]
fn a_spill_directory_that_others_may_open_is_warned_of() {
    deadline(MINUTE, || {
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let spill = dir.path().join("spill");
        fs::create_dir(&spill).unwrap();
        for (mode, is_warned_of) in [(0o700, false), (0o755, true), (0o750, true)] {
            fs::set_permissions(&spill, Permissions::from_mode(mode)).unwrap();
            let mount = Mount::with(&endpoint, &["--spill-dir", spill.to_str().unwrap()]);
            let log = mount.log();
            let warned = log.lines().any(|line| line.contains("WARN") && line.contains("could hold its lock"));
            assert_eq!(warned, is_warned_of, "mode {mode:o}: {log}");
            assert!(mount.end().success());
        }
    });
}

/// There the directories of the host's root belong to a user who stands for all that are unknown.
#[test]
fn in_a_user_namespace_without_root_a_spill_directory_below_those_of_root_is_refused() {
    const USER: u32 = 1_000;
    deadline(MINUTE, || {
        if needs_root("only root can become another user") {
            return;
        }
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let spill = dir.path().join("spill");
        fs::create_dir(&spill).unwrap();
        fs::set_permissions(&spill, Permissions::from_mode(0o700)).unwrap();
        for path in [dir.path(), &spill] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
        let ask = |namespace: &[&str]| {
            let mut command = dssefs();
            let program = command.get_program().to_owned();
            command = {
                let mut starter = Command::new("setpriv");
                starter.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()]);
                starter.args(namespace).arg(program);
                starter
            };
            command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
            command.args(["doctor", BUCKET, "--region", "us-east-1", "--force-path-style", "--spill-dir"]).arg(&spill);
            command.args(["--endpoint-url", &endpoint.url()]).output().unwrap()
        };
        let outside = ask(&[]);
        assert_eq!(outside.status.code(), Some(0), "{}", said(&outside));
        let inside = ask(&["unshare", "--user", "--map-current-user"]);
        if said(&inside).contains("unshare failed") {
            println!("skipped: this system lets users make no namespaces");
            return;
        }
        assert_eq!(inside.status.code(), Some(2), "{}", said(&inside));
        assert!(said(&inside).contains("belongs to user 65534"), "{}", said(&inside));
    });
}
