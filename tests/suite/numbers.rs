//! What backups go by: inode numbers and times, over remounts too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::{Endpoint, MINUTE, Mount, commit, deadline};

/// What lstat(2) says of a file that a backup compares: number, mode, owners, size, mtime and ctime.
type Facts = (u64, u32, u32, u32, u64, (i64, i64), (i64, i64));

fn facts(path: &Path) -> Facts {
    let it = fs::symlink_metadata(path).unwrap();
    let times = ((it.mtime(), it.mtime_nsec()), (it.ctime(), it.ctime_nsec()));
    (it.ino(), it.mode(), it.uid(), it.gid(), it.size(), times.0, times.1)
}

/// The facts of all that is below `root`, and of `root` itself.
fn walk(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut all = BTreeMap::from([(PathBuf::new(), facts(root))]);
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            all.insert(path.strip_prefix(root).unwrap().to_owned(), facts(&path));
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                open.push(path);
            }
        }
    }
    all
}

/// borg and restic read everything again after each remount: numbers were given out one after the other, a directory
/// lost the times of the names that had come and gone in it, and one without a marker showed the start of the mount.
#[test]
fn stat_says_the_same_after_a_remount() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        endpoint.put("foreign/deep/object", b"content");
        let mount = Mount::of(&endpoint);
        for directory in ["a", "a/b", "empty", "quiet"] {
            fs::create_dir(mount.join(directory)).unwrap();
        }
        commit(&mount.join("quiet/before"), b"content").unwrap();
        assert!(mount.end().success());
        let mount = Mount::of(&endpoint);
        for file in ["top", "a/one", "a/b/two"] {
            commit(&mount.join(file), b"content").unwrap();
        }
        symlink("top", mount.join("a/link")).unwrap();
        fs::remove_file(mount.join("a/one")).unwrap();
        let before = walk(&mount.path());
        let (ended, counters) = endpoint.counted(|| mount.end());
        assert!(ended.success());
        assert_eq!(counters.operation("CopyObject").requests, 2, "the markers of a/ and a/b/");
        let mount = Mount::of(&endpoint);
        let mut after = walk(&mount.path());
        // Nothing of the root is kept until a program has set its attributes.
        assert_eq!(after.remove(Path::new("")).map(|root| root.0), Some(1));
        for (path, facts) in &after {
            assert_eq!(Some(facts), before.get(path), "{}", path.display());
        }
        assert_eq!(after.len() + 1, before.len());
        let (ended, counters) = endpoint.counted(|| mount.end());
        assert!(ended.success());
        assert_eq!(counters.operation("PutObject").requests, 0, "nothing has changed");
    });
}

/// Another mount met the names in another order, so each had its own numbers.
#[test]
fn two_mounts_show_the_same_numbers() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        for key in ["d/one", "d/two", "three"] {
            endpoint.put(key, b"content");
        }
        let (one, two) = (Mount::of(&endpoint), Mount::of(&endpoint));
        let number = |mount: &Mount, name: &str| fs::metadata(mount.join(name)).unwrap().ino();
        let names = ["three", "d/two", "d", "d/one"];
        let numbers = names.map(|name| number(&one, name));
        let mut backwards = names;
        backwards.reverse();
        for name in backwards {
            number(&two, name);
        }
        assert_eq!(names.map(|name| number(&two, name)), numbers);
        let listed =
            fs::read_dir(one.join("d")).unwrap().map(|entry| std::os::unix::fs::DirEntryExt::ino(&entry.unwrap()));
        assert_eq!(listed.collect::<Vec<_>>(), [numbers[3], numbers[1]]);
    });
}

/// A number that follows from a name must not make two files of one: an old file that is open, and a new one.
#[test]
fn a_name_that_is_used_again_is_another_file() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        let (path, moved) = (mount.join("file"), mount.join("moved"));
        commit(&path, b"first").unwrap();
        let mut first = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        commit(&path, b"second").unwrap();
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_ne!(first.metadata().unwrap().ino(), number(&path));
        let second = number(&path);
        fs::rename(&path, &moved).unwrap();
        assert_eq!(number(&moved), second, "a rename keeps it");
        let mut third = File::create(&path).unwrap();
        third.write_all(b"third").unwrap();
        let numbers = [first.metadata().unwrap().ino(), second, third.metadata().unwrap().ino()];
        assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2] && numbers[2] != numbers[0], "{numbers:?}");
        let mut old = String::new();
        first.read_to_string(&mut old).unwrap();
        assert_eq!(old, "first");
        drop(third);
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(fs::read(&moved).unwrap(), b"second");
    });
}
