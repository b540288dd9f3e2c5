//! Set-user-id and set-group-id: who may write without taking them away (write(2), chown(2)).

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;

use crate::common::{Endpoint, Mount, commit, scenario};

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
        with_mode(&path, 0o2767);
        as_nobody(lines[0], &path);
        assert_eq!(mode(&path), 0o2767, "without execution for the group the bit means something else");
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
