//! Set-user-id and set-group-id: who may write without taking them away (write(2), chown(2)).

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;

use crate::common::{Endpoint, MINUTE, Mount, commit, deadline, needs_root, scenario};

const NOBODY: u32 = 65_534;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn stored(endpoint: &Endpoint, key: &str) -> u32 {
    let head = endpoint.head(key).unwrap();
    head.metadata().unwrap()["mode"].parse::<u32>().unwrap() & 0o7777
}

fn with_mode(path: &Path, mode: u32) {
    commit(path, b"content").unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Runs a shell line with the file as `$0`, as somebody without privileges.
fn as_nobody(line: &str, path: &Path) {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).arg(path);
    if geteuid().is_root() {
        shell.uid(NOBODY).gid(NOBODY);
    }
    assert!(shell.status().unwrap().success(), "{line}");
}

#[test]
fn only_those_with_the_capability_write_without_taking_privileges_away() {
    scenario().unmounted(|endpoint| {
        let options: &[&str] = if geteuid().is_root() { &["--allow-other"] } else { &[] };
        let mount = Mount::with(&endpoint, options);
        fs::set_permissions(mount.path().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        let path = mount.join("file");
        let lines = ["echo more >>\"$0\"", "echo new >\"$0\"", "truncate -s 3 \"$0\""];
        for line in lines {
            with_mode(&path, 0o6777);
            as_nobody(line, &path);
            assert_eq!((mode(&path), stored(&endpoint, "file")), (0o777, 0o777), "{line}");
        }
        if geteuid().is_root() {
            root_keeps_them(&endpoint, &path);
        }
    });
}

fn root_keeps_them(endpoint: &Endpoint, path: &Path) {
    with_mode(path, 0o6755);
    File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
    fs::write(path, b"other").unwrap();
    File::options().write(true).open(path).unwrap().set_len(2).unwrap();
    assert_eq!((mode(path), stored(endpoint, "file")), (0o6755, 0o6755));
}

/// The kernel leaves it to the mount to clear the bits, and went on showing them for the time that it believes
/// attributes: stat(1) asks for the mode alone, which no write makes it renew.
#[test]
fn privileges_that_a_write_took_away_are_gone_at_once() {
    if needs_root("only root can become another user") {
        return;
    }
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--allow-other", "--metadata-ttl", "1h"]);
        fs::set_permissions(mount.path().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        let path = mount.join("file");
        for line in ["echo more >>\"$0\"", "echo new >\"$0\"", "truncate -s 3 \"$0\"", "fallocate -l 9 \"$0\""] {
            with_mode(&path, 0o6777);
            assert_eq!(mode_alone(&path), "6777");
            as_nobody(line, &path);
            assert_eq!(mode_alone(&path), "777", "{line}");
        }
    });
}

/// The mode by a statx(2) that asks for nothing else.
fn mode_alone(path: &Path) -> String {
    let stat = Command::new("stat").args(["-c", "%a"]).arg(path).output().unwrap();
    String::from_utf8(stat.stdout).unwrap().trim().to_owned()
}

/// Linux takes set-group-id without execution for the group away as well, if the caller is outside of the group; it
/// stayed. fallocate(2) that changes no byte, and truncate(2) to the same length, took nothing away.
#[test]
fn a_caller_outside_of_the_group_takes_set_group_id_away() {
    if needs_root("only root can become another user") {
        return;
    }
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--allow-other"]);
        fs::set_permissions(mount.path().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        let path = mount.join("file");
        for line in [
            "echo more >>\"$0\"",
            "echo new >\"$0\"",
            "truncate -s 3 \"$0\"",
            "truncate -s 7 \"$0\"",
            "fallocate -l 100 \"$0\"",
            "fallocate -l 3 \"$0\"",
            "fallocate -n -l 9 \"$0\"",
            "fallocate -p -o 1 -l 2 \"$0\"",
            "fallocate -z -o 1 -l 20 \"$0\"",
        ] {
            with_mode(&path, 0o6767);
            as_nobody(line, &path);
            assert_eq!((mode(&path), stored(&endpoint, "file")), (0o767, 0o767), "by an outsider: {line}");
            chown(&path, None, Some(NOBODY)).unwrap();
            with_mode(&path, 0o6767);
            as_nobody(line, &path);
            assert_eq!((mode(&path), stored(&endpoint, "file")), (0o2767, 0o2767), "by a member: {line}");
            fs::remove_file(&path).unwrap();
        }
        with_mode(&path, 0o2767);
        chown(&path, Some(NOBODY), None).unwrap();
        assert_eq!(mode(&path), 0o2767, "given away by root");
        as_nobody("chgrp 65534 \"$0\"", &path);
        assert_eq!((mode(&path), stored(&endpoint, "file")), (0o767, 0o767), "given away by an outsider");
    });
}

#[test]
fn what_is_made_in_a_directory_with_set_group_id_has_its_group() {
    scenario().mounted(|_endpoint, mount| {
        let shared = mount.join("shared");
        fs::create_dir(&shared).unwrap();
        chown(&shared, None, Some(4321)).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o2775)).unwrap();
        fs::write(shared.join("file"), "content").unwrap();
        fs::create_dir(shared.join("below")).unwrap();
        std::os::unix::fs::symlink("file", shared.join("link")).unwrap();
        for name in ["file", "below", "link"] {
            assert_eq!(fs::symlink_metadata(shared.join(name)).unwrap().gid(), 4321, "{name}");
        }
        assert_eq!(mode(&shared.join("below")) & 0o2000, 0o2000, "what is made there inherits on");
        assert_eq!(mode(&shared.join("file")) & 0o2000, 0);
    });
}

#[test]
fn a_file_given_away_has_no_privileges() {
    scenario().mounted(|endpoint, mount| {
        let path = mount.join("file");
        with_mode(&path, 0o6755);
        chown(&path, None, Some(rustix::process::getegid().as_raw())).unwrap();
        assert_eq!((mode(&path), stored(&endpoint, "file")), (0o755, 0o755));
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"more").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o4755)).unwrap();
        chown(&path, Some(geteuid().as_raw()), None).unwrap();
        assert_eq!(mode(&path), 0o755, "with changes too");
    });
}
