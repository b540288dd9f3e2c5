//! Who may do what: owners and modes as the kernel holds users to them, and mounts by users other than root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use dssefs_emulator::faults::Rule;
use rustix::process::geteuid;

use crate::common::{Endpoint, MINUTE, Mount, commit, deadline, denied, errno, names, needs_root, scenario};

/// The user `nobody` of Debian, and the overflow user of the kernel.
const NOBODY: u32 = 65_534;

/// Runs a command of the shell as another user with `path` as $1; whether it succeeded.
fn as_nobody(command: &str, path: &Path) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-euc", command, "sh"]).arg(path).uid(NOBODY).gid(NOBODY).current_dir("/");
    shell.output().unwrap().status.success()
}

/// Lets other users reach the mount point, whose parent is a private temporary directory.
fn reachable(mount: &Mount) {
    let parent = mount.path().parent().unwrap().to_owned();
    fs::set_permissions(parent, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn other_users_are_held_to_owners_and_modes() {
    if needs_root("only root can become another user, and may always use allow_other") {
        return;
    }
    scenario().options(&["--allow-other"]).mounted(|_endpoint, mount| {
        reachable(&mount);
        for (name, mode, owner) in
            [("private", 0o600, 0), ("public", 0o644, 0), ("theirs", 0o600, NOBODY), ("writable", 0o666, 0)]
        {
            commit(&mount.join(name), b"content").unwrap();
            fs::set_permissions(mount.join(name), Permissions::from_mode(mode)).unwrap();
            chown(mount.join(name), Some(owner), Some(owner)).unwrap();
        }
        fs::create_dir(mount.join("closed")).unwrap();
        commit(&mount.join("closed/file"), b"content").unwrap();
        fs::set_permissions(mount.join("closed"), Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(mount.join("shared")).unwrap();
        fs::set_permissions(mount.join("shared"), Permissions::from_mode(0o777)).unwrap();
        for (command, name, allowed) in [
            ("cat \"$1\"", "private", false),
            ("cat \"$1\"", "public", true),
            ("echo more >>\"$1\"", "public", false),
            ("echo more >>\"$1\"", "theirs", true),
            ("chmod 640 \"$1\"", "theirs", true),
            ("chmod 666 \"$1\"", "public", false),
            ("chown 0 \"$1\"", "theirs", false),
            ("echo more >>\"$1\"", "writable", true),
            ("touch -d 2001-02-03 \"$1\"", "writable", false),
            ("ls \"$1\"", "closed", false),
            ("cat \"$1\"", "closed/file", false),
            ("echo new >\"$1\"", "new", false),
            ("rm \"$1\"", "theirs", false),
            ("echo new >\"$1\"", "shared/new", true),
            ("mkdir \"$1\"", "shared/dir", true),
            ("getfattr -n user.dsse.mount.unsaved \"$1\"", "", true),
            ("getfattr -n user.dsse.mount.unsaved.files \"$1\"", "", false),
        ] {
            assert_eq!(as_nobody(command, &mount.join(name)), allowed, "{command} of {name}");
        }
        for made in ["shared/new", "shared/dir"] {
            let made = fs::metadata(mount.join(made)).unwrap();
            assert_eq!((made.uid(), made.gid()), (NOBODY, NOBODY));
        }
        assert_eq!(fs::metadata(mount.join("theirs")).unwrap().mode() & 0o7777, 0o640);
    });
}

#[test]
fn without_allow_other_nobody_else_gets_in() {
    if needs_root("only root can become another user") {
        return;
    }
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"content");
        let mount = Mount::with(&endpoint, &["--file-mode", "0666", "--dir-mode", "0777"]);
        reachable(&mount);
        assert!(!as_nobody("ls \"$1\"", &mount.path()));
        assert!(!as_nobody("cat \"$1\"", &mount.join("file")));
        assert_eq!(fs::read(mount.join("file")).unwrap(), b"content");
    });
}

#[test]
fn objects_that_name_no_owner_show_those_of_the_mount() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"content");
        endpoint.put("dir/below", b"");
        let options = ["--uid", "1234", "--gid", "5678", "--file-mode", "0604", "--dir-mode", "0705"];
        let shown = |mount: &Mount, name: &str| {
            let meta = fs::metadata(mount.join(name)).unwrap();
            (meta.uid(), meta.gid(), meta.mode() & 0o7777)
        };
        let mount = Mount::with(&endpoint, &options);
        for (name, mode) in [("", 0o705), ("dir", 0o705), ("file", 0o604), ("dir/below", 0o604)] {
            assert_eq!(shown(&mount, name), (1234, 5678, mode), "{name:?}");
        }
        // What a program makes is the program's, here and for mounts with other defaults.
        if geteuid().is_root() {
            commit(&mount.join("made"), b"content").unwrap();
            fs::set_permissions(mount.join("made"), Permissions::from_mode(0o640)).unwrap();
            drop(mount);
            assert_eq!(shown(&Mount::of(&endpoint), "made"), (0, 0, 0o640));
        }
    });
}

#[test]
fn with_attributes_from_listings_modes_and_owners_are_those_of_the_mount_and_stay_so() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"content");
        let mount = Mount::with(&endpoint, &["--attributes", "listing", "--file-mode", "0640", "--metadata-ttl", "1h"]);
        assert_eq!(names(&mount.path()), ["file"]);
        let path = mount.join("file");
        let (meta, counters) = endpoint.counted(|| fs::metadata(&path).unwrap());
        assert_eq!((meta.mode() & 0o7777, meta.len(), counters.requests("HeadObject")), (0o640, 7, 0));
        assert_eq!(errno(fs::set_permissions(&path, Permissions::from_mode(0o600))), libc::EPERM);
        assert_eq!(errno(chown(&path, Some(1), None)), libc::EPERM);
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640, "also when the object was looked at");
        commit(&mount.join("new"), b"new").unwrap();
        endpoint.assert_dsse("new");
    });
}

#[test]
fn a_user_who_is_not_root_mounts_by_fusermount3() {
    if needs_root("who is not root does so in every other test") {
        return;
    }
    scenario().unmounted(|endpoint| {
        let mount = Mount::by(&endpoint, NOBODY);
        let path = mount.path();
        let listed = fs::read_to_string(format!("/proc/{}/mountinfo", mount.pid())).unwrap();
        let line = listed.lines().find(|line| line.split(' ').nth(4).map(Path::new) == Some(&path)).unwrap();
        assert!(line.contains("fuse.dssefs") && line.contains(&format!("user_id={NOBODY}")), "{line}");
        let work = "cd \"$1\"; echo content >file; chmod 640 file; mv file moved; mkdir d; grep -qx content moved";
        inside(&mount, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], work).unwrap();
        endpoint.assert_dsse("moved");
        endpoint.assert_dsse("d/");
        let refused = inside(&mount, &[], "ls \"$1\"").unwrap_err();
        assert!(refused.contains("Permission denied"), "not even root gets in without --allow-other: {refused}");
        // Its own end takes it out of the tree again, by fusermount3 too.
        assert!(mount.end().success());
    });
}

/// Runs a command of the shell in the mount's namespace, with the mount point as $1. What it complained about, when it
/// failed.
fn inside(mount: &Mount, before: &[&str], command: &str) -> Result<(), String> {
    let mut entered = Command::new("nsenter");
    entered.args(["--target", &mount.pid().to_string(), "--mount"]).args(before).args(["sh", "-euc", command, "sh"]);
    let output = entered.arg(mount.path()).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Objects may claim to be set-user-id programs of root, or devices.
#[test]
fn every_mount_is_nosuid_and_nodev() {
    scenario().unmounted(|endpoint| {
        let mut mounts = vec![Mount::of(&endpoint)];
        // Only root can become another user; any other user is one already.
        if geteuid().is_root() {
            mounts.push(Mount::by(&endpoint, NOBODY));
        }
        for mount in mounts {
            let (path, table) = (mount.path(), format!("/proc/{}/mountinfo", mount.pid()));
            let table = fs::read_to_string(table).unwrap();
            let line = table.lines().find(|line| line.split(' ').nth(4).map(Path::new) == Some(&path)).unwrap();
            let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
            assert!(options.contains(&"nosuid") && options.contains(&"nodev"), "{line}");
        }
    });
}

/// `rsync -a src/ mnt/`, `cp -a src/. mnt/` and `tar -x` of `./` ended with errors: the root of a bucket has no marker,
/// and could not keep mode, owner and times.
#[test]
fn the_root_of_a_bucket_keeps_its_attributes() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("file"), b"content").unwrap();
        let shell = |line: &str, root: &Path| {
            let ended = Command::new("sh").args(["-euc", line]).arg(source.path()).arg(root).output().unwrap();
            assert!(ended.status.success() && ended.stderr.is_empty(), "{line}: {ended:?}");
        };
        fs::set_permissions(source.path(), Permissions::from_mode(0o755)).unwrap();
        shell("touch -d '2001-02-03 04:05:06 UTC' \"$0\"; cp -a \"$0/.\" \"$1\"", &mount.path());
        let facts = |mount: &Mount| {
            let it = fs::metadata(mount.path()).unwrap();
            (it.mode() & 0o7777, it.uid(), it.gid(), it.mtime(), it.ctime(), it.ctime_nsec())
        };
        assert_eq!((facts(&mount).0, facts(&mount).3), (0o755, 981_173_106));
        shell("chmod 750 \"$0\"; tar -C \"$0\" -c . | tar -C \"$1\" -x", &mount.path());
        shell("chmod -R u+rwX,o-rwx \"$1\"", &mount.path());
        assert_eq!(facts(&mount).0, 0o750);
        assert_eq!(endpoint.keys(), [".dssefs/root", "file"]);
        assert_eq!(names(&mount.path()), ["file"]);
        endpoint.assert_dsse(".dssefs/root");
        let set = facts(&mount);
        assert!(mount.end().success());
        let mount = Mount::of(&endpoint);
        assert_eq!(facts(&mount), set, "remounted");
        let ((), counters) = endpoint.counted(|| assert_eq!(facts(&mount), set));
        assert_eq!(counters.s3.values().map(|count| count.requests).sum::<u64>(), 0, "it stays known");
        assert!(mount.end().success());
        let denied = |operation| Rule::on(operation, denied()).key_contains(".dssefs/root").times(0);
        endpoint.inject_faults(vec![denied("HeadObject"), denied("GetObject")]);
        let mount = Mount::of(&endpoint);
        assert_eq!((facts(&mount).0, names(&mount.path())), (0o755, vec!["file".to_owned()]), "it may not be read");
    });
}
