//! Keys as names.

use std::fs;

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
        let keys = ["d//x", "d/./y", "d/../z", "d/\u{1b}\0", "other/", "full//x", "full/seen", "r/.dssefs/x"];
        keys.iter().for_each(|key| endpoint.put(key, b"1"));
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
