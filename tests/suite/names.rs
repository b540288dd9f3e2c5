//! Keys as names.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::common::kept::{ask, told};
use crate::common::{
    BUCKET, Endpoint, MINUTE, Mount, STALE, attribute, commit, deadline, errno, eventually, names, scenario,
};

#[test]
fn ordinary_and_unusual_names_are_kept() {
    scenario().mounted(|endpoint, mount| {
        let mut kept = vec![
            "plain",
            "with space",
            "ümläut",
            "plus+and%25",
            "q?a=b&c",
            "#hash",
            "日本",
            "trailing.",
            "'quote\"",
            "a\\b",
            "~",
            "-n",
        ];
        for name in &kept {
            commit(&mount.join(name), name.as_bytes()).unwrap();
        }
        kept.sort_unstable();
        assert_eq!(endpoint.keys(), kept);
        std::thread::sleep(STALE);
        assert_eq!(names(&mount.path()), kept);
        assert!(kept.iter().all(|name| fs::read(mount.join(name)).unwrap() == name.as_bytes()));
    });
}

#[test]
fn keys_that_cannot_be_names_are_hidden_and_harm_nobody() {
    scenario().unmounted(|endpoint| {
        for key in ["good", "d//x", "d/./y", "d/../z", "d/fine", &format!("long/{}", "n".repeat(300))] {
            endpoint.put(key, b"1");
        }
        let mount = Mount::of(&endpoint);
        assert_eq!(names(&mount.path()), ["d", "good", "long"]);
        assert_eq!(names(&mount.join("d")), ["fine"]);
        assert_eq!(names(&mount.join("long")), Vec::<String>::new());
    });
}

/// `rm -rf` of such a directory was ENOTEMPTY without a word, and listings of it showed nothing.
#[test]
fn a_directory_with_hidden_keys_alone_says_why_it_is_not_empty() {
    scenario().unmounted(|endpoint| {
        let keys = ["d//x", "d/./y", "d/../z", "d/\u{1b}\0", "full//x", "full/seen", "r/.dssefs/x"];
        keys.iter().for_each(|key| endpoint.put(key, b"1"));
        endpoint.put("other/", b"");
        fn told(mount: &Mount) -> Vec<String> {
            mount.log().lines().filter(|line| line.contains("cannot be names")).map(str::to_owned).collect()
        }
        let mount = Mount::of(&endpoint);
        let d = mount.join("d");
        assert_eq!(attribute(&d, "user.dsse.hidden").unwrap(), "unknown", "it is not listed yet");
        assert_eq!(names(&d), [""; 0]);
        let hidden = attribute(&d, "user.dsse.hidden").unwrap();
        assert_eq!(hidden, r#"4 "d/\u{1b}\0" "d/../" "d/./""#, "the first three, quoted and escaped");
        let (failed, counters) = endpoint.counted(|| errno(fs::remove_dir(&d)));
        assert_eq!((failed, counters.s3.values().map(|count| count.requests).sum::<u64>()), (libc::ENOTEMPTY, 1));
        assert_eq!(errno(fs::remove_dir(&d)), libc::ENOTEMPTY);
        eventually("the log says why", MINUTE, || told(&mount).len() == 1);
        assert!(told(&mount)[0].contains("dssefs doctor") && !told(&mount)[0].contains('\u{1b}'), "{:?}", told(&mount));
        assert_eq!(errno(fs::rename(mount.join("other"), &d)), libc::ENOTEMPTY);
        assert_eq!(errno(fs::rename(mount.join("other"), mount.join("r"))), libc::ENOTEMPTY);
        eventually("the target of a rename says it too", MINUTE, || told(&mount).len() == 2);
        names(&mount.path());
        assert_eq!(attribute(&mount.path(), "user.dsse.hidden").unwrap(), "0");
        fs::remove_dir(mount.join("other")).unwrap();
        assert_eq!(xattr::get(mount.join("full/seen"), "user.dsse.hidden").unwrap(), None, "files have none");
    });
}

#[test]
fn doctor_names_the_keys_that_mounts_hide() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let doctor = || {
            let mut command = ask(&endpoint, "doctor");
            command.args([BUCKET, "--kms-key-id", endpoint.key_arn()]).output().unwrap()
        };
        endpoint.put("good", b"1");
        let output = doctor();
        let good = "good    the 1 keys of s3://tests can all be names of files\n";
        assert!(output.status.success() && told(&output).contains(good), "{}", told(&output));
        for key in ["d//x", "d/./y", "d/fine", "e\u{1b}/../z"] {
            endpoint.put(key, b"1");
        }
        let output = doctor();
        let remark =
            r#"hide 3 of the 5 keys of s3://tests, which cannot be names of files: "d/./y", "d//x", "e\u{1b}/../z";"#;
        assert!(output.status.success() && told(&output).contains(remark), "{}", told(&output));
    });
}

#[test]
fn a_directory_wins_over_a_file_of_the_same_name() {
    scenario().unmounted(|endpoint| {
        endpoint.put("a", b"file");
        endpoint.put("a/x", b"below");
        let mount = Mount::of(&endpoint);
        assert_eq!(names(&mount.path()), ["a"]);
        assert!(fs::metadata(mount.join("a")).unwrap().is_dir());
        assert_eq!(fs::read(mount.join("a/x")).unwrap(), b"below");
    });
}

fn rm_rf(path: &Path) {
    let output = Command::new("rm").arg("-rf").arg(path).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// The directory hid the file, so that `rm -rf` of what is above failed at its end, or left the file behind.
#[test]
fn rm_rf_takes_files_along_that_directories_would_hide() {
    for listed_before in [true, false] {
        scenario().unmounted(move |endpoint| {
            for key in ["t/a", "t/a/x", "t/a/b", "t/a/b/y", "t", "other", "other2/"] {
                endpoint.put(key, key.as_bytes());
            }
            let mount = Mount::of(&endpoint);
            if listed_before {
                assert_eq!(names(&mount.path()), ["other", "other2", "t"]);
                assert_eq!(names(&mount.join("t")), [".dssefs-file", "a"]);
                assert_eq!(names(&mount.join("t/a")), [".dssefs-file", "b", "x"]);
                assert_eq!(names(&mount.join("t/a/b")), [".dssefs-file", "y"]);
            }
            rm_rf(&mount.join("t"));
            assert_eq!(endpoint.keys(), ["other", "other2/"]);
            assert!(mount.end().success());
        });
    }
}

#[test]
fn a_file_that_a_directory_would_hide_is_read_written_and_moved_from_inside() {
    scenario().unmounted(|endpoint| {
        for key in ["d", "d/x", "e", "e/", "only/"] {
            endpoint.put(key, key.trim_end_matches(|_| key.ends_with('/')).as_bytes());
        }
        let mount = Mount::of(&endpoint);
        let inside = mount.join("d/.dssefs-file");
        assert_eq!(fs::read(&inside).unwrap(), b"d", "without a listing of anything");
        assert!(attribute(&inside, "user.dsse.object").unwrap().starts_with(&format!("s3://{BUCKET}/d")));
        commit(&inside, b"longer than before").unwrap();
        assert_eq!(endpoint.content("d"), b"longer than before");
        endpoint.assert_dsse("d");
        std::thread::sleep(STALE);
        assert_eq!(names(&mount.join("d")), [".dssefs-file", "x"]);
        assert_eq!(fs::read(&inside).unwrap(), b"longer than before");
        assert_eq!(errno(fs::remove_dir(mount.join("e"))), libc::ENOTEMPTY, "its content would appear under its name");
        fs::rename(mount.join("e/.dssefs-file"), mount.join("f")).unwrap();
        fs::remove_dir(mount.join("e")).unwrap();
        fs::rename(mount.join("d"), mount.join("g")).unwrap();
        assert_eq!(names(&mount.path()), ["d", "f", "g", "only"], "it has its own name again");
        assert_eq!(fs::read(mount.join("d")).unwrap(), b"longer than before");
        assert_eq!(names(&mount.join("g")), ["x"]);
        assert_eq!(endpoint.keys(), ["d", "f", "g/", "g/x", "only/"]);
        assert_eq!(endpoint.content("f"), b"e");
        for directory in ["only", ""] {
            let made = mount.join(directory).join(".dssefs-file");
            assert_eq!(errno(fs::metadata(&made)), libc::ENOENT, "{directory:?}");
            assert_eq!(errno(File::create(&made)), libc::EPERM, "{directory:?}");
            assert_eq!(errno(fs::create_dir(&made)), libc::EPERM, "{directory:?}");
            assert_eq!(errno(fs::rename(mount.join("f"), &made)), libc::EPERM, "{directory:?}");
        }
    });
}

#[test]
fn an_object_of_the_name_for_hidden_files_counts_as_hidden() {
    scenario().unmounted(|endpoint| {
        for key in ["d/.dssefs-file", "d/x", ".dssefs-file"] {
            endpoint.put(key, b"1");
        }
        let mount = Mount::of(&endpoint);
        assert_eq!((names(&mount.path()), names(&mount.join("d"))), (vec!["d".to_owned()], vec!["x".to_owned()]));
        assert_eq!(attribute(&mount.path(), "user.dsse.hidden").unwrap(), r#"1 ".dssefs-file""#);
        assert_eq!(attribute(&mount.join("d"), "user.dsse.hidden").unwrap(), r#"1 "d/.dssefs-file""#);
        // A mount of the prefix does not reach what is beside it.
        endpoint.put("d", b"beside");
        let below = Mount::source(&endpoint, &format!("{BUCKET}/d"), &["--kms-key-id", endpoint.key_arn()]);
        assert_eq!(names(&below.path()), ["x"]);
        assert_eq!(errno(fs::read(below.join(".dssefs-file"))), libc::ENOENT);
    });
}

#[test]
fn a_prefix_is_the_root() {
    scenario().unmounted(|endpoint| {
        endpoint.put("team/one/file", b"content");
        endpoint.put("other", b"hidden");
        let key = ["--kms-key-id", endpoint.key_arn()];
        let mount = Mount::source(&endpoint, &format!("{BUCKET}/team/one"), &key);
        assert_eq!(names(&mount.path()), ["file"]);
        commit(&mount.join("new"), b"new").unwrap();
        assert_eq!(endpoint.keys(), ["other", "team/one/file", "team/one/new"]);
    });
}

#[test]
fn changes_of_other_hosts_are_seen_when_the_time_is_over() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"old");
        let mount = Mount::of(&endpoint);
        assert_eq!(fs::read(mount.join("file")).unwrap(), b"old");
        assert_eq!(names(&mount.path()), ["file"]);
        endpoint.put("file", b"newer");
        endpoint.put("another", b"x");
        std::thread::sleep(STALE);
        assert_eq!(fs::read(mount.join("file")).unwrap(), b"newer");
        assert_eq!(names(&mount.path()), ["another", "file"]);
        endpoint.delete("file");
        std::thread::sleep(STALE);
        assert_eq!(errno(fs::metadata(mount.join("file"))), libc::ENOENT);
        assert_eq!(names(&mount.path()), ["another"]);
    });
}

#[test]
fn names_that_s3_cannot_keep_are_refused() {
    scenario().mounted(|endpoint, mount| {
        assert_eq!(errno(commit(&mount.join(&"n".repeat(256)), b"")), libc::ENAMETOOLONG);
        let latin1: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9");
        assert_ne!(errno(commit(&mount.path().join(latin1), b"")), 0, "S3's keys are UTF-8");
        let mut deep = mount.path();
        let failed = (0..5).find_map(|_| {
            deep.push("d".repeat(250));
            fs::create_dir(&deep).err()
        });
        assert_eq!(
            failed.and_then(|error| error.raw_os_error()),
            Some(libc::ENAMETOOLONG),
            "1,024 bytes are the longest key"
        );
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn a_large_directory_is_listed_whole_and_once() {
    scenario().within(MINUTE * 2).mounted(|_endpoint, mount| {
        fs::create_dir(mount.join("d")).unwrap();
        let expected: Vec<String> = (0..250).map(|number| format!("{number:04}")).collect();
        for name in &expected {
            fs::write(mount.join("d").join(name), b"x").unwrap();
        }
        assert_eq!(names(&mount.join("d")), expected, "from what this mount knows");
        std::thread::sleep(STALE);
        assert_eq!(names(&mount.join("d")), expected, "from the store");
    });
}
