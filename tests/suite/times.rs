//! The times that stat(2) tells.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::Path;
use std::thread::sleep;

use crate::common::{Endpoint, MINUTE, Mount, STALE, commit, deadline, scenario};

/// Modification and change, in nanoseconds.
fn times(path: &Path) -> (i64, i64) {
    let facts = fs::symlink_metadata(path).unwrap();
    (facts.mtime() * 1_000_000_000 + facts.mtime_nsec(), facts.ctime() * 1_000_000_000 + facts.ctime_nsec())
}

/// ctime was Last-Modified as soon as the mount asked the store again: in whole seconds, so each new file seemed to
/// change once more. A new file's mtime was that of its creation at first, and that of a moment later once it was
/// closed.
#[test]
fn the_times_of_what_nobody_changes_stay_through_a_new_question_and_a_remount() {
    scenario().mounted(|endpoint, mount| {
        drop(File::create_new(mount.join("empty")).unwrap());
        commit(&mount.join("written"), b"content").unwrap();
        commit(&mount.join("old name"), b"content").unwrap();
        fs::rename(mount.join("old name"), mount.join("renamed")).unwrap();
        fs::create_dir(mount.join("directory")).unwrap();
        let all = |mount: &Mount| ["empty", "written", "renamed", "directory"].map(|name| times(&mount.join(name)));
        let first = all(&mount);
        sleep(STALE);
        assert_eq!(all(&mount), first, "asked again");
        assert!(mount.end().success());
        assert_eq!(all(&Mount::of(&endpoint)), first, "remounted");
    });
}

/// open(O_TRUNC) of an empty file was taken for no change, so that `>stamp` in a makefile renewed nothing.
#[test]
fn emptying_an_empty_file_renews_its_times() {
    scenario().mounted(|endpoint, mount| {
        let stamp = mount.join("stamp");
        drop(File::create(&stamp).unwrap());
        let (modified, changed) = times(&stamp);
        drop(File::create(&stamp).unwrap());
        let renewed = times(&stamp);
        assert!(renewed.0 > modified && renewed.1 > changed, "{renewed:?} after {modified}, {changed}");
        assert!(mount.end().success());
        assert_eq!(times(&Mount::of(&endpoint).join("stamp")), renewed, "remounted");
    });
}

/// The new ctime of these was in memory only, and went back when the mount asked the store again. A change that asks
/// for what is there sends nothing, so it has no new ctime.
#[test]
fn a_ctime_that_is_shown_does_not_go_back() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        for name in ["chmod", "chown", "touch"] {
            commit(&mount.join(name), b"content").unwrap();
        }
        symlink("chmod", mount.join("link")).unwrap();
        for name in ["dir", "old name"] {
            fs::create_dir(mount.join(name)).unwrap();
        }
        let names = ["chmod", "chown", "touch", "link", "dir", "new name"];
        let all = |mount: &Mount| names.map(|name| times(&mount.join(name)));
        let before = names.map(|name| times(&mount.join(if name == "new name" { "old name" } else { name })));
        let facts = fs::metadata(mount.join("chmod")).unwrap();
        for name in ["chmod", "dir"] {
            let permissions = fs::metadata(mount.join(name)).unwrap().permissions();
            fs::set_permissions(mount.join(name), permissions).unwrap();
        }
        for name in ["chown", "link"] {
            lchown(mount.join(name), Some(facts.uid()), Some(facts.gid())).unwrap();
        }
        let touched = fs::metadata(mount.join("touch")).unwrap();
        let same = fs::FileTimes::new().set_modified(touched.modified().unwrap());
        File::options().write(true).open(mount.join("touch")).unwrap().set_times(same).unwrap();
        fs::rename(mount.join("old name"), mount.join("new name")).unwrap();
        let moved = all(&mount);
        for ((before, moved), name) in before.iter().zip(&moved).zip(names) {
            assert_eq!(moved.0, before.0, "{name}");
            assert_eq!(moved.1 > before.1, name == "new name", "{name}: {moved:?} after {before:?}");
        }
        sleep(STALE);
        assert_eq!(all(&mount), moved, "asked again");
        assert!(mount.end().success());
        assert_eq!(all(&Mount::of(&endpoint)), moved, "remounted");
    });
}
