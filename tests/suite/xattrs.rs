//! Extended attributes: what a file tells of its own encryption, and what programs keep with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_sdk_s3::types::ServerSideEncryption;
use dssefs_emulator::Counters;
use dssefs_emulator::faults::{Fault, Rule};
use dssefs_emulator::kms::NewKey;
use rustix::fs::{XattrFlags, setxattr};

use crate::common::{BUCKET, Endpoint, MINUTE, Mount, attribute, commit, deadline, errno, eventually, scenario};

const ON_EVERY_FILE: [&str; 14] = [
    "user.dsse.verdict",
    "user.dsse.algorithm",
    "user.dsse.key-arn",
    "user.dsse.bucket-key",
    "user.dsse.context",
    "user.dsse.evidence",
    "user.dsse.verified-at",
    "user.dsse.request-id",
    "user.dsse.object",
    "user.dsse.etag",
    "user.dsse.storage-class",
    "user.dsse.local",
    "user.dsse.local.layers",
    "user.dsse.last-error",
];

#[test]
fn a_file_written_here_is_compliant_and_says_how_that_is_known() {
    scenario().mounted(|endpoint, mount| {
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        let value = |name: &str| attribute(&path, name).unwrap();
        assert_eq!(value("user.dsse.verdict"), "compliant");
        assert_eq!(value("user.dsse.algorithm"), "aws:kms:dsse");
        assert_eq!(value("user.dsse.key-arn"), endpoint.key_arn());
        assert_eq!(value("user.dsse.bucket-key"), "false");
        assert_eq!(value("user.dsse.evidence"), "put");
        assert_eq!(value("user.dsse.local"), "none");
        assert!(value("user.dsse.object").starts_with(&format!("s3://{BUCKET}/file")));
        assert!(!value("user.dsse.request-id").is_empty());
        let at = value("user.dsse.verified-at");
        assert!(at.len() >= 20 && at.contains('T') && at.ends_with('Z'), "RFC 3339 in UTC: {at}");
        let etag = endpoint.head("file").unwrap().e_tag().unwrap().to_owned();
        assert_eq!(value("user.dsse.etag").trim_matches('"'), etag.trim_matches('"'));
        assert_eq!(value("s3.etag").trim_matches('"'), etag.trim_matches('"'));
        assert_eq!(
            (value("user.dsse.storage-class"), value("s3.storage-class")),
            ("STANDARD".into(), "STANDARD".into())
        );
    });
}

#[test]
fn all_names_are_listed_on_files_and_directories() {
    scenario().mounted(|_endpoint, mount| {
        commit(&mount.join("file"), b"content").unwrap();
        fs::create_dir(mount.join("d")).unwrap();
        for path in [mount.join("file"), mount.join("d"), mount.path()] {
            let listed: BTreeSet<String> =
                xattr::list(&path).unwrap().map(|name| name.into_string().unwrap()).collect();
            let missing: Vec<_> = ON_EVERY_FILE.iter().filter(|name| !listed.contains(**name)).collect();
            assert!(missing.is_empty(), "{missing:?} are not listed on {}", path.display());
        }
        let root: Vec<String> = xattr::list(mount.path()).unwrap().map(|name| name.into_string().unwrap()).collect();
        assert!(root.iter().any(|name| name.starts_with("user.dsse.bucket.")), "{root:?}");
        assert!(root.iter().any(|name| name.starts_with("user.dsse.mount.")), "{root:?}");
    });
}

#[test]
fn objects_of_others_are_judged() {
    scenario().unmounted(|endpoint| {
        let other_key = endpoint.kms().create_key(NewKey::default()).unwrap().arn;
        endpoint.put("good", b"1");
        endpoint.put_as("plain", b"2", None, None);
        endpoint.put_as("kms", b"3", Some(ServerSideEncryption::AwsKms), Some(endpoint.key_arn()));
        endpoint.put_as("other", b"4", Some(ServerSideEncryption::AwsKmsDsse), Some(&other_key));
        let mount = Mount::of(&endpoint);
        let seen = ["good", "plain", "kms", "other"].map(|name| {
            let value = |attribute_name| attribute(&mount.join(name), attribute_name).unwrap();
            (value("user.dsse.verdict"), value("user.dsse.algorithm"))
        });
        let expected = [
            ("compliant", "aws:kms:dsse"),
            ("not-dsse", "AES256"),
            ("not-dsse", "aws:kms"),
            ("wrong-key", "aws:kms:dsse"),
        ];
        assert_eq!(seen, expected.map(|(verdict, algorithm)| (verdict.to_owned(), algorithm.to_owned())));
        assert_eq!(attribute(&mount.join("good"), "user.dsse.evidence").unwrap(), "head");
        assert_eq!(attribute(&mount.join("other"), "user.dsse.key-arn").unwrap(), other_key);
    });
}

#[test]
fn a_file_with_changes_is_pending_until_they_are_stored() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"old content");
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "compliant");
        let mut file = File::options().write(true).open(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "pending");
        assert_eq!(attribute(&path, "user.dsse.local").unwrap(), "memory");
        file.sync_all().unwrap();
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "compliant");
        assert_eq!(attribute(&path, "user.dsse.local").unwrap(), "none");
    });
}

#[test]
fn claims_cannot_be_written_and_foreign_names_are_unknown() {
    scenario().mounted(|_endpoint, mount| {
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        assert_eq!(errno(xattr::set(&path, "user.dsse.made-up", b"x")), libc::EPERM);
        assert_eq!(errno(xattr::set(&path, "user.DSSE.verdict", b"not-dsse")), libc::EPERM);
        assert_eq!(errno(xattr::remove(&path, "user.dsse.made-up")), libc::EPERM);
        assert_eq!(errno(xattr::set(&path, "s3.etag", b"x")), libc::EPERM);
        for name in ["user.mine", "security.capability", "system.posix_acl_access", "trusted.x", "user.dsse.unheard-of"]
        {
            assert_eq!(xattr::get(&path, name).unwrap(), None, "{name} should be ENODATA");
        }
    });
}

/// `rsync -aX`, `cp --preserve=all`, `mv` and `tar --xattrs` of files with these attributes complained of each of them.
#[test]
fn claims_that_are_copied_in_are_taken_and_change_nothing() {
    scenario().options(&PATIENT).mounted(|endpoint, mount| {
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        let before = ON_EVERY_FILE.map(|name| attribute(&path, name).unwrap());
        let keys = endpoint.head("file").unwrap().metadata().unwrap().clone();
        let ((), counters) = endpoint.counted(|| {
            for name in ON_EVERY_FILE.iter().chain(&["user.dsse.hidden", "user.dsse.mount.settings"]) {
                xattr::set(&path, name, b"claimed").unwrap();
                xattr::remove(&path, name).unwrap();
            }
            let created = setxattr(&path, "user.dsse.verdict", b"claimed", XattrFlags::CREATE);
            assert_eq!(errno(created.map_err(std::io::Error::from)), libc::EEXIST);
        });
        assert_eq!(requests(&counters), []);
        assert_eq!(ON_EVERY_FILE.map(|name| attribute(&path, name).unwrap()), before);
        assert_eq!(endpoint.head("file").unwrap().metadata().unwrap(), &keys);
        let mut file = File::create(mount.join("open")).unwrap();
        xattr::set(mount.join("open"), "user.dsse.verdict", b"claimed").unwrap();
        assert_eq!(attribute(&mount.join("open"), "user.dsse.verdict").unwrap(), "pending");
        file.write_all(b"content").unwrap();
        drop(file);
        assert_eq!(attribute(&mount.join("open"), "user.dsse.verdict").unwrap(), "compliant");
        let of_reports = |line: &&str| line.contains("ignores");
        eventually("the log says it", MINUTE, || mount.log().lines().filter(of_reports).count() == 1);
    });
}

#[test]
fn copying_programs_bring_reported_attributes_in_without_a_complaint() {
    scenario().within(MINUTE * 3).mounted(|endpoint, mount| {
        let local = tempfile::tempdir().unwrap();
        let tree = tree(local.path());
        for path in [tree.join("a"), tree.join("d"), tree.join("d/b")] {
            for name in ON_EVERY_FILE {
                xattr::set(&path, name, b"of another mount").unwrap();
            }
        }
        let archive = local.path().join("archive.tar");
        let xattrs: [&OsStr; 2] = ["--xattrs".as_ref(), "--xattrs-include=user.*".as_ref()];
        let pack: [&OsStr; 5] =
            ["-cf".as_ref(), archive.as_ref(), "-C".as_ref(), local.path().as_ref(), "tree".as_ref()];
        run("tar", &[&xattrs[..], &pack].concat());
        run("cp", &["-r".as_ref(), "--preserve=all".as_ref(), tree.as_ref(), mount.join("by-cp").as_ref()]);
        // Within the mount, and once more over what is there.
        run("cp", &["-r".as_ref(), "--preserve=all".as_ref(), mount.join("by-cp").as_ref(), mount.join("in").as_ref()]);
        let root = mount.path();
        let unpack: [&OsStr; 4] = ["-xf".as_ref(), archive.as_ref(), "-C".as_ref(), root.as_ref()];
        run("tar", &[&xattrs[..], &unpack].concat());
        let mut trees = vec!["by-cp", "in", "tree"];
        if Command::new("rsync").arg("--version").output().is_ok() {
            let (from, to) = (tree.join(""), mount.join("by-rsync"));
            let rsync: [&OsStr; 3] = ["-aX".as_ref(), from.as_ref(), to.as_ref()];
            run("rsync", &rsync);
            // The second time rsync would take away what only the mount has.
            for path in [tree.join("a"), tree.join("d"), tree.join("d/b")] {
                ON_EVERY_FILE.iter().for_each(|name| xattr::remove(&path, name).unwrap());
            }
            run("rsync", &rsync);
            trees.push("by-rsync");
        } else {
            println!("skipped: rsync is not installed, so only cp, mv and tar are tried");
        }
        run("mv", &[tree.as_ref(), mount.join("by-mv").as_ref()]);
        trees.push("by-mv");
        for name in trees {
            assert_same_tree(&mount.join(name));
            for file in ["a", "d", "d/b"] {
                let path = mount.join(name).join(file);
                assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "compliant", "{}", path.display());
            }
            endpoint.assert_dsse(&format!("{name}/d/b"));
        }
        let audit = Command::new("getfattr")
            .args(["--absolute-names", "-hRP", "-d", "-m", "-"])
            .arg(mount.join("by-cp"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&audit.stdout).into_owned();
        assert!(audit.status.success() && audit.stderr.is_empty(), "{audit:?}");
        assert_eq!(said.matches("user.dsse.verdict=\"compliant\"").count(), 4, "{said}");
        assert!(!said.contains("of another mount"), "{said}");
    });
}

#[test]
fn names_can_be_kept_out_of_listings() {
    scenario().options(&["--xattr-list", "none"]).mounted(|_endpoint, mount| {
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        assert_eq!(xattr::list(&path).unwrap().count(), 0);
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "compliant");
    });
}

#[test]
fn the_encryption_context_is_sent_and_told() {
    scenario().options(&["--encryption-context", "project=dssefs"]).mounted(|endpoint, mount| {
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        let context = attribute(&path, "user.dsse.context").unwrap();
        assert!(context.contains("project") && context.contains("dssefs"), "{context}");
        let log = format!("{:?}", endpoint.kms().call_log());
        assert!(log.contains("project") && log.contains(&format!("arn:aws:s3:::{BUCKET}/file")), "{log}");
    });
}

#[test]
fn a_context_that_the_answer_does_not_name_is_told_as_unknown() {
    scenario().options(&["--encryption-context", "project=dssefs"]).mounted(|endpoint, mount| {
        let silent = BTreeMap::from([("x-amz-server-side-encryption-context".to_owned(), None)]);
        endpoint.inject_fault("PutObject", Fault::Alter { headers: silent, body: None });
        commit(&mount.join("silent"), b"content").unwrap();
        assert_eq!(attribute(&mount.join("silent"), "user.dsse.context").unwrap(), "unknown");
        assert_eq!(attribute(&mount.join("silent"), "user.dsse.verdict").unwrap(), "compliant");
        let large = mount.join("large");
        commit(&large, &vec![7; 64 << 20]).unwrap();
        assert_eq!(attribute(&large, "user.dsse.evidence").unwrap(), "complete");
        assert_eq!(attribute(&large, "user.dsse.context").unwrap(), r#"{"project":"dssefs"}"#, "the upload's answer");
    });
}

#[test]
fn a_context_that_is_answered_otherwise_than_asked_fails_the_close() {
    scenario().options(&["--encryption-context", "project=dssefs"]).mounted(|endpoint, mount| {
        let other = BTreeMap::from([("x-amz-server-side-encryption-context".to_owned(), Some("e30=".to_owned()))]);
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::Alter { headers: other, body: None }).times(0)]);
        assert_eq!(errno(commit(&mount.join("file"), b"content")), libc::EKEYREJECTED);
        assert!(endpoint.head("file").is_none(), "what was stored is taken back");
        assert!(attribute(&mount.join("file"), "user.dsse.last-error").unwrap().contains("encryption context"));
    });
}

#[test]
fn without_a_key_an_object_under_another_than_the_mounts_first_is_wrong() {
    scenario().unmounted(|endpoint| {
        endpoint.put("other", b"content");
        let mount = Mount::source(&endpoint, BUCKET, &["--on-noncompliant-read", "refuse"]);
        commit(&mount.join("own"), b"content").unwrap();
        assert_eq!(attribute(&mount.join("own"), "user.dsse.verdict").unwrap(), "compliant");
        assert_ne!(attribute(&mount.join("own"), "user.dsse.key-arn").unwrap(), endpoint.key_arn());
        assert_eq!(attribute(&mount.join("other"), "user.dsse.verdict").unwrap(), "wrong-key");
        assert_eq!(errno(fs::read(mount.join("other"))), libc::EKEYREJECTED);
        let named = BTreeMap::from([(
            "x-amz-server-side-encryption-aws-kms-key-id".to_owned(),
            Some(endpoint.key_arn().to_owned()),
        )]);
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::Alter { headers: named, body: None }).times(0)]);
        assert_eq!(errno(commit(&mount.join("new"), b"content")), libc::EKEYREJECTED);
        assert!(endpoint.head("new").is_none(), "what was stored is taken back");
    });
}

#[test]
fn capital_letters_do_not_open_the_mounts_own_names_to_others() {
    scenario().unmounted(|endpoint| {
        let blob = r#"%7B%22user.DSSE.verdict%22%3A%22eA%3D%3D%22%2C%22user.fine%22%3A%22eA%3D%3D%22%7D"#;
        put_with(&endpoint, "file", &[("%44%53%53%45.verdict", "x"), ("dsse.verdict", "x"), ("xattr", blob)]);
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        assert_eq!(own_names(&path), ["user.fine"]);
        for name in ["user.DSSE.verdict", "user.Dsse.x", "user.dssE.verdict", "S3.etag"] {
            assert_eq!(errno(xattr::set(&path, name, b"compliant")), libc::EPERM, "{name}");
            assert_eq!(errno(xattr::remove(&path, name)), libc::EPERM, "{name}");
            assert_eq!(xattr::get(&path, name).unwrap(), None, "{name}");
        }
    });
}

#[test]
fn a_mount_can_refuse_to_read_what_is_not_dsse() {
    scenario().unmounted(|endpoint| {
        endpoint.put("good", b"content");
        endpoint.put_as("plain", b"content", None, None);
        let mount = Mount::with(&endpoint, &["--on-noncompliant-read", "refuse"]);
        assert_eq!(fs::read(mount.join("good")).unwrap(), b"content");
        assert_eq!(errno(fs::read(mount.join("plain"))), libc::EKEYREJECTED);
        let serving = Mount::of(&endpoint);
        assert_eq!(fs::read(serving.join("plain")).unwrap(), b"content");
    });
}

const PATIENT: [&str; 2] = ["--metadata-ttl", "1h"];

/// The user metadata of an object, without what the mount keeps there for itself.
fn metadata(endpoint: &Endpoint, key: &str) -> BTreeMap<String, String> {
    let own = ["mode", "uid", "gid", "mtime", "atime", "ctime", "dssefs-commit"];
    let all = endpoint.head(key).unwrap().metadata().cloned().unwrap_or_default();
    all.into_iter().filter(|(name, _)| !own.contains(&name.as_str())).collect()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn requests(counters: &Counters) -> Vec<(&str, u64)> {
    let asked = counters.s3.iter().map(|(name, count)| (name.as_str(), count.requests));
    asked.filter(|(_, requests)| *requests > 0).collect()
}

/// The names that programs have set.
fn own_names(path: &Path) -> Vec<String> {
    let names = xattr::list(path).unwrap().map(|name| name.into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with("user.dsse.")).collect();
    names.sort();
    names
}

/// An object as another program would put it, with its own metadata.
fn put_with(endpoint: &Endpoint, key: &str, metadata: &[(&str, &str)]) {
    let key_arn = endpoint.key_arn().to_owned();
    endpoint.with(|s3| async move {
        let mut put = s3.put_object().bucket(BUCKET).key(key).body(b"content".to_vec().into()).ssekms_key_id(key_arn);
        for (name, value) in metadata {
            put = put.metadata(*name, *value);
        }
        let put = put.content_type("text/x-odd").server_side_encryption(ServerSideEncryption::AwsKmsDsse);
        put.send().await.unwrap();
    });
}

#[test]
fn an_attribute_of_a_stored_file_is_one_copy_that_carries_all_over() {
    scenario().unmounted(|endpoint| {
        put_with(&endpoint, "file", &[("colour", "red"), ("mtime", "5.25")]);
        let mount = Mount::with(&endpoint, &PATIENT);
        let path = mount.join("file");
        let mut reader = File::open(&path).unwrap();
        assert_eq!(xattr::get(&path, "user.colour").unwrap().unwrap(), b"red", "what others have put there");
        let ((), counters) = endpoint.counted(|| xattr::set(&path, "user.origin", b"a b/\xff").unwrap());
        assert_eq!(requests(&counters), [("CopyObject", 1)]);
        assert_eq!(metadata(&endpoint, "file"), map(&[("colour", "red"), ("origin", "a%20b%2F%FF")]));
        assert_eq!(endpoint.head("file").unwrap().content_type(), Some("text/x-odd"));
        endpoint.assert_dsse("file");
        let (value, counters) = endpoint.counted(|| xattr::get(&path, "user.origin").unwrap().unwrap());
        assert_eq!((value.as_slice(), requests(&counters)), (b"a b/\xff".as_slice(), vec![]));
        assert_eq!(own_names(&path), ["user.colour", "user.origin"]);
        assert_eq!(fs::metadata(&path).unwrap().mtime(), 5, "the content is as old as before");
        let mut content = String::new();
        std::io::Read::read_to_string(&mut reader, &mut content).unwrap();
        assert_eq!(content, "content", "an open file goes on");
        let ((), counters) = endpoint.counted(|| xattr::set(&path, "user.origin", b"a b/\xff").unwrap());
        assert_eq!(requests(&counters), [], "nothing would differ");
        xattr::remove(&path, "user.colour").unwrap();
        assert_eq!(metadata(&endpoint, "file"), map(&[("origin", "a%20b%2F%FF")]));
        assert_eq!(own_names(&Mount::of(&endpoint).join("file")), ["user.origin"]);
    });
}

#[test]
fn attributes_of_a_file_with_changes_join_its_commit() {
    scenario().options(&PATIENT).mounted(|endpoint, mount| {
        fs::read_dir(mount.path()).unwrap().count();
        let path = mount.join("file");
        let ((), counters) = endpoint.counted(|| {
            let mut file = File::create(&path).unwrap();
            xattr::set(&path, "user.first", b"1").unwrap();
            file.write_all(b"content").unwrap();
            xattr::set(&path, "user.second", b"2").unwrap();
            xattr::remove(&path, "user.first").unwrap();
            assert_eq!(own_names(&path), ["user.second"]);
            assert_eq!(attribute(&path, "user.second").unwrap(), "2");
            file.sync_all().unwrap();
        });
        assert_eq!(requests(&counters), [("PutObject", 1)]);
        assert_eq!(metadata(&endpoint, "file"), map(&[("second", "2")]));
        commit(&path, b"other content").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&path, mount.join("moved")).unwrap();
        assert_eq!(metadata(&endpoint, "moved"), map(&[("second", "2")]), "a rewrite, a chmod and a rename keep it");
        let file = File::open(mount.join("moved")).unwrap();
        fs::remove_file(mount.join("moved")).unwrap();
        xattr::FileExt::set_xattr(&file, "user.late", b"x").unwrap();
        assert_eq!(xattr::FileExt::get_xattr(&file, "user.late").unwrap().unwrap(), b"x");
        drop(file);
        eventually("what was held for the handle is gone", MINUTE, || endpoint.keys().is_empty());
    });
}

#[test]
fn directories_have_attributes_and_the_root_of_a_bucket_too() {
    scenario().unmounted(|endpoint| {
        endpoint.put("implicit/file", b"content");
        let mount = Mount::of(&endpoint);
        fs::create_dir(mount.join("made")).unwrap();
        for name in ["made", "implicit"] {
            xattr::set(mount.join(name), "user.k", b"v").unwrap();
            assert_eq!(metadata(&endpoint, &format!("{name}/")), map(&[("k", "v")]));
            endpoint.assert_dsse(&format!("{name}/"));
            assert_eq!(own_names(&mount.join(name)), ["user.k"]);
        }
        fs::set_permissions(mount.join("made"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(attribute(&mount.join("made"), "user.k").unwrap(), "v");
        xattr::remove(mount.join("made"), "user.k").unwrap();
        assert_eq!(metadata(&endpoint, "made/"), map(&[]));
        xattr::set(mount.path(), "user.k", b"v").unwrap();
        assert_eq!(metadata(&endpoint, ".dssefs/root"), map(&[("k", "v")]));
        endpoint.assert_dsse(".dssefs/root");
        assert_eq!(attribute(&mount.path(), "user.dsse.verdict").unwrap(), "compliant");
        assert!(attribute(&mount.path(), "user.dsse.object").unwrap().contains("/.dssefs/root"));
        assert!(mount.end().success());
        assert_eq!(attribute(&Mount::of(&endpoint).path(), "user.k").unwrap(), "v");
    });
}

#[test]
fn names_that_headers_cannot_keep_survive() {
    scenario().mounted(|endpoint, mount| {
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        let names = ["user.foo", "user.Foo", "user.mode", "user.with space", "user.ümläut", "user.a:b/c", "user.empty"];
        for name in names {
            let value = if name == "user.empty" { "" } else { name };
            xattr::set(&path, name, value.as_bytes()).unwrap();
        }
        let fresh = Mount::of(&endpoint);
        let path = fresh.join("file");
        let mut sorted = names.map(str::to_owned);
        sorted.sort();
        assert_eq!(own_names(&path), sorted);
        assert!(names[..6].iter().all(|name| attribute(&path, name).unwrap() == **name));
        assert_eq!(attribute(&path, "user.empty").unwrap(), "");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o170_000, 0o100_000, "user.mode is not the mode");
    });
}

#[test]
fn creating_replacing_and_removing_say_what_was_there() {
    scenario().mounted(|_endpoint, mount| {
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        let set = |flags| setxattr(&path, "user.k", b"v", flags).map_err(std::io::Error::from);
        assert_eq!(errno(set(XattrFlags::REPLACE)), libc::ENODATA);
        set(XattrFlags::CREATE).unwrap();
        assert_eq!(errno(set(XattrFlags::CREATE)), libc::EEXIST);
        set(XattrFlags::REPLACE).unwrap();
        xattr::remove(&path, "user.k").unwrap();
        assert_eq!(errno(xattr::remove(&path, "user.k")), libc::ENODATA);
        assert_eq!(xattr::get(&path, "user.k").unwrap(), None);
        assert_eq!(errno(xattr::set(&path, "user.", b"v")), libc::EINVAL);
    });
}

#[test]
fn attributes_have_two_kilobytes_and_never_those_of_mode_owner_and_times() {
    scenario().mounted(|endpoint, mount| {
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        assert_eq!(errno(xattr::set(&path, "user.k", &[b'x'; 2048])), libc::E2BIG);
        xattr::set(&path, "user.k", &[b'x'; 1500]).unwrap();
        assert_eq!(errno(xattr::set(&path, "user.l", &[b'x'; 500])), libc::ENOSPC);
        assert_eq!(own_names(&path), ["user.k"]);
        let largest = (1500..2048).rev().find(|bytes| xattr::set(&path, "user.k", &vec![b'x'; *bytes]).is_ok());
        assert!(largest.is_some_and(|bytes| bytes > 1800), "{largest:?}");
        let late = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(253_402_300_799, 999_999_999);
        File::open(&path).unwrap().set_modified(late).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).unwrap();
        let stat = fs::metadata(Mount::of(&endpoint).join("file")).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o4711, 253_402_300_799));
    });
}

#[test]
fn attributes_of_s3fs_are_shown_changed_and_removed_in_its_own_place() {
    scenario().unmounted(|endpoint| {
        put_with(&endpoint, "file", &[("xattr", "%7B%22user.k%22%3A%22dg%3D%3D%22%2C%22user.l%22%3A%22%22%7D")]);
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        assert_eq!(own_names(&path), ["user.k", "user.l"]);
        assert_eq!(attribute(&path, "user.k").unwrap(), "v");
        xattr::set(&path, "user.k", b"w").unwrap();
        xattr::remove(&path, "user.l").unwrap();
        assert_eq!(metadata(&endpoint, "file"), map(&[("xattr", "%7B%22user.k%22%3A%22dw%3D%3D%22%7D")]));
        xattr::remove(&path, "user.k").unwrap();
        assert_eq!(metadata(&endpoint, "file"), map(&[]));
    });
}

#[test]
fn nobodys_metadata_speaks_for_the_mount() {
    scenario().unmounted(|endpoint| {
        put_with(&endpoint, "file", &[("dsse.verdict", "compliant"), ("dsse.made-up", "x"), ("mode", "33188")]);
        let other = Mount::of(&endpoint);
        let path = other.join("file");
        assert_eq!(own_names(&path), [""; 0]);
        assert_eq!(xattr::get(&path, "user.dsse.made-up").unwrap(), None);
        assert_eq!(errno(xattr::set(&path, "user.dsse.made-up", b"x")), libc::EPERM);
        let names: Vec<_> = xattr::list(&path).unwrap().collect();
        assert_eq!(names.len(), ON_EVERY_FILE.len(), "{names:?}");
    });
}

#[test]
fn other_kinds_of_attributes_are_refused_without_a_request() {
    scenario().options(&PATIENT).mounted(|endpoint, mount| {
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        symlink("file", mount.join("link")).unwrap();
        // Version 2, and three entries: the owner, the group and others may read (linux/posix_acl_xattr.h).
        let entries = [[1, 0, 4, 0], [4, 0, 4, 0], [32, 0, 4, 0]].map(|entry| [entry, [0xff; 4]].concat());
        let acl = [vec![2, 0, 0, 0], entries.concat()].concat();
        let ((), counters) = endpoint.counted(|| {
            for name in ["security.mine", "trusted.mine", "system.posix_acl_access"] {
                assert_eq!(errno(xattr::set(&path, name, &acl)), libc::EOPNOTSUPP, "{name}");
                assert_eq!(xattr::get(&path, name).unwrap(), None);
            }
            assert_eq!(xattr::list(mount.join("link")).unwrap().count(), 0);
        });
        assert_eq!(requests(&counters), []);
    });
}

/// A local tree with attributes, a link, a fifo and odd modes.
fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("d")).unwrap();
    for name in ["a", "d/b"] {
        fs::write(tree.join(name), name).unwrap();
        xattr::set(tree.join(name), "user.Origin", name.as_bytes()).unwrap();
    }
    xattr::set(tree.join("d"), "user.k", b"of a directory").unwrap();
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("d/b", tree.join("link")).unwrap();
    tree
}

fn assert_same_tree(tree: &Path) {
    assert_eq!(fs::read(tree.join("link")).unwrap(), b"d/b");
    assert!(fs::symlink_metadata(tree.join("link")).unwrap().is_symlink());
    assert_eq!(fs::metadata(tree.join("a")).unwrap().mode() & 0o7777, 0o640);
    for (name, attribute_name, value) in
        [("a", "user.Origin", "a"), ("d/b", "user.Origin", "d/b"), ("d", "user.k", "of a directory")]
    {
        assert_eq!(attribute(&tree.join(name), attribute_name).unwrap(), value, "{name}");
    }
}

fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{program}: {}\n{said}", output.status);
}

#[test]
fn cp_a_and_tar_carry_attributes_links_and_modes_there_and_back() {
    scenario().options(&["--xattr-list", "none"]).mounted(|endpoint, mount| {
        let local = tempfile::tempdir().unwrap();
        let tree = tree(local.path());
        run("cp", &["-a".as_ref(), tree.as_ref(), mount.join("by-cp").as_ref()]);
        assert_same_tree(&mount.join("by-cp"));
        run("cp", &["-a".as_ref(), mount.join("by-cp").as_ref(), local.path().join("back").as_ref()]);
        assert_same_tree(&local.path().join("back"));
        let archive = mount.join("archive.tar");
        let tar = ["--xattrs", "--xattrs-include=user.*"];
        let options = |rest: [&str; 2]| -> Vec<OsString> { tar.iter().chain(&rest).map(Into::into).collect() };
        let in_dir = |mut command: Vec<OsString>, rest: &[&OsStr]| {
            command.extend(rest.iter().map(Into::into));
            run("tar", &command.iter().map(OsString::as_os_str).collect::<Vec<_>>());
        };
        in_dir(options(["-c", "-f"]), &[archive.as_ref(), "-C".as_ref(), local.path().as_ref(), "tree".as_ref()]);
        in_dir(options(["-x", "-f"]), &[archive.as_ref(), "-C".as_ref(), mount.path().as_ref()]);
        assert_same_tree(&mount.join("tree"));
        assert_same_tree(&Mount::of(&endpoint).join("tree"));
    });
}

#[test]
fn each_object_has_a_commit_id_that_no_program_sees() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        let id = |key: &str| endpoint.head(key).unwrap().metadata().unwrap()["dssefs-commit"].clone();
        commit(&mount.join("file"), b"content").unwrap();
        let mut ids = vec![id("file")];
        fs::set_permissions(mount.join("file"), PermissionsExt::from_mode(0o600)).unwrap();
        ids.push(id("file"));
        fs::rename(mount.join("file"), mount.join("moved")).unwrap();
        fs::create_dir(mount.join("d")).unwrap();
        symlink("moved", mount.join("link")).unwrap();
        ids.extend(["moved", "d/", "link"].map(id));
        fs::rename(mount.join("d"), mount.join("e")).unwrap();
        ids.push(id("e/"));
        assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "{ids:?}");
        assert_eq!(own_names(&mount.join("moved")), Vec::<String>::new());
        // A program may have an attribute of that name. It is kept beside the id.
        xattr::set(mount.join("moved"), "user.dssefs-commit", b"mine").unwrap();
        assert_eq!(own_names(&mount.join("moved")), ["user.dssefs-commit"]);
        assert_eq!(attribute(&mount.join("moved"), "user.dssefs-commit").unwrap(), "mine");
        assert_eq!(id("moved").len(), 32);
    });
}
