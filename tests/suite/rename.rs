//! rename(2) of directories: complete or undone, whatever happens in between, and what it costs.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use dssefs_emulator::faults::{Fault, Rule};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::io::Errno;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::journal::{Said, Signer, elsewhere};
use crate::common::kept::kill;
use crate::common::{
    BUCKET, Endpoint, MINUTE, Mount, STALE, attribute, commit, deadline, denied, errno, eventually, names, noise,
    scenario,
};

/// Where the journals are.
const JOURNAL: &str = ".dssefs/";

/// A directory with a marker, files, a nested directory with a marker and one without.
const TREE: [(&str, &str); 8] = [
    ("", ""),
    ("a", "first"),
    ("b", "second"),
    ("deep/", ""),
    ("deep/c", "third"),
    ("deep/er/d", "fourth"),
    ("deep/er/e", "fifth"),
    ("z", ""),
];

fn plant(endpoint: &Endpoint, directory: &str) {
    for (path, content) in TREE {
        endpoint.put(&format!("{directory}/{path}"), content.as_bytes());
    }
}

fn tree(directory: &str) -> BTreeMap<String, Vec<u8>> {
    TREE.iter().map(|(path, content)| (format!("{directory}/{path}"), content.as_bytes().to_vec())).collect()
}

/// Everything in the bucket.
fn store(endpoint: &Endpoint) -> BTreeMap<String, Vec<u8>> {
    endpoint.keys().into_iter().map(|key| (key.clone(), endpoint.content(&key))).collect()
}

/// Renames `old` to `new` in a thread of its own. Resets the endpoint's counters, which have the requests of the
/// mount's start.
fn rename_in_thread(endpoint: &Endpoint, mount: &Mount) -> JoinHandle<io::Result<()>> {
    endpoint.reset();
    let (from, to) = (mount.join("old"), mount.join("new"));
    std::thread::spawn(move || fs::rename(from, to))
}

/// The same under rules that hold it back: once it has `begun`, what the test does is in its middle.
fn rename_held_back(
    endpoint: &Endpoint,
    mount: &Mount,
    rules: Vec<Rule>,
    what: &str,
    begun: impl FnMut() -> bool,
) -> JoinHandle<io::Result<()>> {
    endpoint.inject_faults(rules);
    let renaming = rename_in_thread(endpoint, mount);
    eventually(what, MINUTE, begun);
    renaming
}

/// One copy takes so long: the next to a key with this text in it. Of a copy the endpoint's faults see the target.
fn slow_copy(text: &str, milliseconds: u64) -> Rule {
    Rule::on("CopyObject", Fault::DelayMs(milliseconds)).key_contains(text)
}

/// Whether all copies of the tree are there but for one that is held back.
fn all_stand_but_one(endpoint: &Endpoint) -> bool {
    endpoint.keys().iter().filter(|key| key.starts_with("new/")).count() == TREE.len() - 1
}

/// Renames under a rule that stalls requests, and kills the daemon once `stalled` of them stall and all others are
/// done: then the bucket has `keys` objects, the journal among them.
fn kill_in_rename(endpoint: &Endpoint, mount: Mount, rule: Rule, stalled: u64, keys: usize) {
    let begun = || endpoint.stalled() >= stalled && endpoint.keys().len() == keys;
    let renaming = rename_held_back(endpoint, &mount, vec![rule], "the requests are held back", begun);
    kill(mount);
    assert!(renaming.join().unwrap().is_err(), "the caller must not learn that it is done");
    endpoint.clear_faults();
}

fn rename_without_replacing(from: &Path, to: &Path) -> i32 {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).err().map_or(0, |error| error.raw_os_error())
}

fn disabled() -> Fault {
    Fault::Failure { status: 400, code: "KMS.DisabledException".into(), message: "the key is disabled".into() }
}

#[test]
fn a_directory_moves_with_all_that_is_below_it() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        endpoint.put("old/odd//name", b"hidden");
        let mount = Mount::of(&endpoint);
        fs::create_dir(mount.join("into")).unwrap();
        let number = fs::metadata(mount.join("old/deep/c")).unwrap().ino();
        fs::rename(mount.join("old"), mount.join("into/new")).unwrap();
        assert_eq!(fs::metadata(mount.join("into/new/deep/c")).unwrap().ino(), number);
        assert_eq!(names(&mount.path()), ["into"]);
        assert_eq!(names(&mount.join("into/new")), ["a", "b", "deep", "odd", "z"]);
        assert_eq!(fs::read(mount.join("into/new/deep/er/d")).unwrap(), b"fourth");
        assert_eq!(attribute(&mount.join("into/new/deep/c"), "user.dsse.evidence").unwrap(), "copy");
        let mut expected = tree("into/new");
        expected.insert("into/".into(), vec![]);
        expected.insert("into/new/odd//name".into(), b"hidden".to_vec());
        assert_eq!(store(&endpoint), expected);
        expected.keys().for_each(|key| endpoint.assert_dsse(key));
        std::thread::sleep(STALE);
        assert_eq!(names(&mount.join("into/new/deep")), ["c", "er"]);
        assert_eq!(errno(fs::metadata(mount.join("old"))), libc::ENOENT);
    });
}

#[test]
fn objects_keep_what_they_carry() {
    scenario().unmounted(|endpoint| {
        let key = endpoint.key_arn().to_owned();
        endpoint.put("old/", b"");
        endpoint.with(|s3| async move {
            let put = s3.put_object().bucket(BUCKET).key("old/rich").body(ByteStream::from_static(b"content"));
            let put = put.metadata("mode", "33184").metadata("colour", "red").content_type("text/x-rich");
            let put = put.cache_control("no-store").content_language("de").storage_class(StorageClass::StandardIa);
            let put = put.tagging("team=a&cost=7").server_side_encryption(ServerSideEncryption::AwsKmsDsse);
            put.ssekms_key_id(key).send().await.unwrap();
        });
        endpoint.put_as("old/plain", b"not encrypted as it should be", None, None);
        let mount = Mount::of(&endpoint);
        fs::set_permissions(mount.join("old"), fs::Permissions::from_mode(0o711)).unwrap();
        fs::rename(mount.join("old"), mount.join("new")).unwrap();
        let head = endpoint.head("new/rich").unwrap();
        assert_eq!(head.metadata().unwrap().get("colour").map(String::as_str), Some("red"));
        assert_eq!(head.metadata().unwrap().get("mode").map(String::as_str), Some("33184"));
        assert_eq!((head.content_type(), head.cache_control()), (Some("text/x-rich"), Some("no-store")));
        assert_eq!((head.content_language(), head.storage_class()), (Some("de"), Some(&StorageClass::StandardIa)));
        assert_eq!(head.tag_count(), Some(2));
        ["new/", "new/rich", "new/plain"].iter().for_each(|key| endpoint.assert_dsse(key));
        assert_eq!(fs::metadata(mount.join("new")).unwrap().mode() & 0o7777, 0o711);
        std::thread::sleep(STALE);
        assert_eq!(fs::metadata(mount.join("new")).unwrap().mode() & 0o7777, 0o711);
        assert_eq!(fs::metadata(mount.join("new/rich")).unwrap().mode() & 0o7777, 0o640);
    });
}

#[test]
fn a_rename_costs_a_head_a_copy_and_a_delete_for_each_object() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        // The names are known to the mount, and not asked for again.
        names(&mount.path());
        let (_, counted) = endpoint.counted(|| fs::rename(mount.join("old"), mount.join("new")).unwrap());
        let objects = TREE.len() as u64;
        assert_eq!(counted.requests("CopyObject"), objects);
        assert_eq!(counted.requests("DeleteObject"), objects + 1, "and the journal");
        assert_eq!(counted.requests("PutObject"), 2, "the journal: copying, then deleting");
        // Two of the target, two of the source, one of the journals; the kernel's own question about `old` may be one
        // more.
        assert!((5..=6).contains(&counted.requests("ListObjectsV2")), "{counted:?}");
        // One of each source, as a copy has a commit id of its own; the kernel's own question may be one more.
        assert!((objects..=objects + 1).contains(&counted.requests("HeadObject")), "{counted:?}");
        assert_eq!(counted.requests("GetObject"), 0);
    });
}

#[test]
fn more_objects_than_one_listing_page_are_moved() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        let key = endpoint.key_arn().to_owned();
        endpoint.with(|s3| async move {
            let put = |number: usize| {
                let put = s3.put_object().bucket(BUCKET).key(format!("old/{:02}/{number:04}", number % 7));
                let put = put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).ssekms_key_id(&key);
                put.body(ByteStream::from(number.to_string().into_bytes())).send()
            };
            for batch in (0..1500).collect::<Vec<_>>().chunks(50) {
                futures_util::future::try_join_all(batch.iter().map(|number| put(*number))).await.unwrap();
            }
        });
        let mount = Mount::of(&endpoint);
        fs::rename(mount.join("old"), mount.join("new")).unwrap();
        let keys = endpoint.keys();
        assert_eq!(keys.len(), 1501, "all objects, and a marker for a directory that had none");
        assert!(keys.iter().all(|key| key.starts_with("new/")));
        assert_eq!(fs::read(mount.join("new/03/0990")).unwrap(), b"990");
        endpoint.assert_dsse("new/");
    });
}

#[test]
fn open_files_below_go_on_reading_and_writing() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        plant(&endpoint, "old");
        endpoint.put("old/read", &noise(1, 3 << 20));
        endpoint.put("old/changed", b"0123456789");
        let mount = Mount::of(&endpoint);
        let reader = File::open(mount.join("old/read")).unwrap();
        let mut changed = OpenOptions::new().read(true).write(true).open(mount.join("old/changed")).unwrap();
        changed.write_all(b"abc").unwrap();
        let mut fresh = File::create(mount.join("old/deep/fresh")).unwrap();
        fresh.write_all(b"never stored ").unwrap();
        let mut streamed = File::create(mount.join("old/streamed")).unwrap();
        let content = noise(2, 40 << 20);
        streamed.write_all(&content[..30 << 20]).unwrap();
        let number = fs::metadata(mount.join("old/deep/fresh")).unwrap().ino();

        fs::rename(mount.join("old"), mount.join("new")).unwrap();

        let mut part = vec![0; 1 << 20];
        reader.read_exact_at(&mut part, 2 << 20).unwrap();
        assert!(part == noise(1, 3 << 20)[2 << 20..], "the reader's bytes");
        changed.seek(SeekFrom::End(0)).unwrap();
        changed.write_all(b"xyz").unwrap();
        changed.sync_all().unwrap();
        fresh.write_all(b"before").unwrap();
        fresh.sync_all().unwrap();
        streamed.write_all(&content[30 << 20..]).unwrap();
        streamed.sync_all().unwrap();
        assert_eq!(fs::metadata(mount.join("new/deep/fresh")).unwrap().ino(), number);
        assert_eq!(endpoint.content("new/changed"), b"abc3456789xyz");
        assert_eq!(endpoint.content("new/deep/fresh"), b"never stored before");
        assert!(endpoint.content("new/streamed") == content, "the stream");
        let mut again = String::new();
        changed.rewind().unwrap();
        changed.read_to_string(&mut again).unwrap();
        assert_eq!(again, "abc3456789xyz");
        drop((reader, changed, fresh, streamed));
        let keys = endpoint.keys();
        assert!(keys.iter().all(|key| key.starts_with("new/")), "{keys:?}");
        assert_eq!(endpoint.uploads(), 0);
        keys.iter().for_each(|key| endpoint.assert_dsse(key));
    });
}

#[test]
fn an_open_file_is_read_at_each_stage_of_a_rename() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let content = noise(3, 16 << 20);
        endpoint.put("old/big", &content);
        let mount = Mount::of(&endpoint);
        let file = File::open(mount.join("old/big")).unwrap();
        // The reads are far apart, so that each one asks the store.
        let read = |at: usize, renaming: &JoinHandle<io::Result<()>>| {
            let before = endpoint.counters().requests("GetObject");
            let mut block = vec![0; 128 << 10];
            file.read_exact_at(&mut block, at as u64).unwrap();
            assert!(block == content[at..at + block.len()], "the bytes at {at}");
            assert!(endpoint.counters().requests("GetObject") > before, "the read at {at} did not ask the store");
            assert!(!renaming.is_finished(), "the rename was over before the read at {at}");
        };
        let slow_delete = Rule::on("DeleteObject", Fault::DelayMs(4_000)).key_contains("old/a");
        let rules = vec![slow_copy("new/a", 4_000), slow_delete];
        let begun = || endpoint.struck() == 1;
        let renaming = rename_held_back(&endpoint, &mount, rules, "the copies are under way", begun);
        read(8 << 20, &renaming);
        eventually("the file's source is deleted", MINUTE, || endpoint.head("old/big").is_none());
        read(14 << 20, &renaming);
        renaming.join().unwrap().unwrap();
        assert!(fs::read(mount.join("new/big")).unwrap() == content, "the file under its new name");
    });
}

#[test]
fn who_writes_below_waits_and_writes_under_the_new_name() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        let mut file = OpenOptions::new().append(true).open(mount.join("old/deep/c")).unwrap();
        names(&mount.join("old/deep"));
        let directory = File::open(mount.join("old/deep")).unwrap();
        let rules = vec![Rule::on("CopyObject", Fault::DelayMs(700)).times(0)];
        let renaming = rename_held_back(&endpoint, &mount, rules, "it has begun", || endpoint.struck() > 0);
        let proc = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory)));
        file.write_all(b" and more").unwrap();
        file.sync_all().unwrap();
        commit(&proc.join("made"), b"meanwhile").unwrap();
        renaming.join().unwrap().unwrap();
        let mut expected = tree("new");
        expected.insert("new/deep/c".into(), b"third and more".to_vec());
        expected.insert("new/deep/made".into(), b"meanwhile".to_vec());
        assert_eq!(store(&endpoint), expected);
    });
}

/// The daemon is killed while `rule` stalls so many requests, and the bucket has so many keys. The next mount finds all
/// of the tree under one of both names.
fn killed(rule: Rule, stalled: u64, keys: usize, expected: &str) {
    let endpoint = Endpoint::start();
    plant(&endpoint, "old");
    let mount = Mount::of(&endpoint);
    names(&mount.path());
    kill_in_rename(&endpoint, mount, rule, stalled, keys);
    let again = Mount::of(&endpoint);
    assert_eq!(names(&again.path()), [expected], "{}", again.log());
    assert_eq!(store(&endpoint), tree(expected), "{}", again.log());
    endpoint.keys().iter().for_each(|key| endpoint.assert_dsse(key));
}

#[test]
fn a_crash_before_the_first_copy_leaves_the_source() {
    deadline(MINUTE, || killed(Rule::on("CopyObject", Fault::Stall).times(0), 1, 8 + 1, "old"));
}

#[test]
fn a_crash_between_the_copies_undoes_them() {
    deadline(MINUTE, || killed(Rule::on("CopyObject", Fault::Stall).nth(5).times(0), 4, 8 + 4 + 1, "old"));
}

#[test]
fn a_crash_before_the_journal_says_that_all_is_copied_undoes_it() {
    deadline(MINUTE, || killed(Rule::on("PutObject", Fault::Stall).nth(2).times(0), 1, 8 + 8 + 1, "old"));
}

#[test]
fn a_crash_before_the_first_delete_finishes_it() {
    deadline(MINUTE, || killed(Rule::on("DeleteObject", Fault::Stall).times(0), 8, 8 + 8 + 1, "new"));
}

#[test]
fn a_crash_between_the_deletes_finishes_it() {
    deadline(MINUTE, || killed(Rule::on("DeleteObject", Fault::Stall).nth(4).times(0), 5, 5 + 8 + 1, "new"));
}

#[test]
fn a_crash_before_the_journal_is_gone_finishes_it() {
    let rule = Rule::on("DeleteObject", Fault::Stall).key_contains(JOURNAL).times(0);
    deadline(MINUTE, || killed(rule, 1, 8 + 1, "new"));
}

#[test]
fn a_crash_between_the_copies_leaves_an_empty_target_as_it_was() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        fs::create_dir(mount.join("new")).unwrap();
        fs::set_permissions(mount.join("new"), fs::Permissions::from_mode(0o701)).unwrap();
        // The first copy is that of the target's marker onto itself.
        kill_in_rename(&endpoint, mount, Rule::on("CopyObject", Fault::Stall).nth(5).times(0), 4, 8 + 4 + 1);
        let again = Mount::of(&endpoint);
        let mut expected = tree("old");
        expected.insert("new/".into(), vec![]);
        assert_eq!(store(&endpoint), expected, "{}", again.log());
        assert_eq!(fs::metadata(again.join("new")).unwrap().mode() & 0o7777, 0o701);
    });
}

#[test]
fn a_rename_of_a_living_mount_is_left_to_it() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        let begun = || endpoint.struck() == 1 && endpoint.counters().requests("CopyObject") > 6;
        let rules = vec![slow_copy("er/d", 6_000)];
        let renaming = rename_held_back(&endpoint, &mount, rules, "the copies are under way", begun);
        let (second, counted) = endpoint.counted(|| Mount::of(&endpoint));
        // One of each is the proof that the store keeps conditions.
        assert_eq!((counted.requests("PutObject"), counted.requests("DeleteObject")), (1, 1));
        eventually("the log says so", MINUTE, || second.log().contains("another mount is renaming this directory"));
        assert!(!renaming.is_finished(), "the second mount was made in the middle of it");
        renaming.join().unwrap().unwrap();
        assert_eq!(store(&endpoint), tree("new"));
        std::thread::sleep(STALE);
        assert_eq!(names(&second.path()), ["new"]);
    });
}

#[test]
fn a_key_that_is_lost_in_the_middle_undoes_it() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        endpoint.inject_faults(vec![Rule::on("CopyObject", disabled()).nth(5).times(0)]);
        assert_eq!(errno(fs::rename(mount.join("old"), mount.join("new"))), libc::EKEYREVOKED);
        assert_eq!(store(&endpoint), tree("old"));
        assert_eq!(fs::read(mount.join("old/deep/c")).unwrap(), b"third");
        endpoint.clear_faults();
        std::thread::sleep(STALE);
        fs::rename(mount.join("old"), mount.join("new")).unwrap();
        assert_eq!(store(&endpoint), tree("new"));
    });
}

#[test]
fn a_copy_that_is_not_dsse_undoes_it() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        let wrong =
            Fault::Sse { algorithm: Some("aws:kms".into()), key: Some(endpoint.key_arn().into()), bucket_key: None };
        endpoint.inject_faults(vec![Rule::on("CopyObject", wrong).key_contains("er/e").times(0)]);
        assert_eq!(errno(fs::rename(mount.join("old"), mount.join("new"))), libc::EKEYREJECTED);
        assert_eq!(store(&endpoint), tree("old"));
    });
}

/// The journal's first version is taken, and no later one: whether all copies stand cannot be said, nor taken back.
fn rename_whose_journal_is_stuck(endpoint: &Endpoint, mount: &Mount) {
    plant(endpoint, "old");
    endpoint.inject_faults(vec![Rule::on("PutObject", denied()).key_contains(JOURNAL).nth(2).times(0)]);
    assert_eq!(errno(fs::rename(mount.join("old"), mount.join("new"))), libc::EIO);
    assert_eq!(endpoint.content("new/b"), b"second", "the copies cannot be taken back yet");
}

#[test]
fn a_source_is_not_deleted_before_its_failed_rename_is_undone() {
    scenario().mounted(|endpoint, mount| {
        rename_whose_journal_is_stuck(&endpoint, &mount);
        let struck = endpoint.struck();
        let path = mount.join("old/b");
        let removing = std::thread::spawn(move || fs::remove_file(path));
        eventually("the mount tries again to undo it", MINUTE, || endpoint.struck() > struck + 1);
        assert!(endpoint.head("old/b").is_some(), "its copy would be the last one, and stay");
        endpoint.clear_faults();
        removing.join().unwrap().unwrap();
        let mut left = tree("old");
        left.remove("old/b");
        assert_eq!(store(&endpoint), left, "{}", mount.log());
    });
}

/// What a program does to a directory, without anything below it, whose rename failed and is not undone yet.
fn waits_until_the_rename_is_undone(act: fn(&Path) -> io::Result<()>, left: &'static [&str]) {
    deadline(MINUTE, move || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        fs::create_dir(mount.join("old")).unwrap();
        fs::create_dir(mount.join("other")).unwrap();
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).key_contains(JOURNAL).nth(2).times(0)]);
        assert_eq!(errno(fs::rename(mount.join("old"), mount.join("new"))), libc::EIO);
        assert!(endpoint.head("new/").is_some(), "the copy cannot be taken back yet");
        let struck = endpoint.struck();
        let root = mount.path().to_owned();
        let acting = std::thread::spawn(move || act(&root));
        eventually("the mount tries again to undo it", MINUTE, || endpoint.struck() > struck + 1);
        assert!(endpoint.head("old/").is_some(), "its copy would be the last one, and stay");
        endpoint.clear_faults();
        acting.join().unwrap().unwrap();
        assert!(store(&endpoint).keys().eq(left), "{:?}: {}", store(&endpoint).keys(), mount.log());
    });
}

#[test]
fn rmdir_waits_until_a_failed_rename_is_undone() {
    waits_until_the_rename_is_undone(|root| fs::remove_dir(root.join("old")), &["other/"]);
}

#[test]
fn a_rename_waits_until_a_failed_one_of_the_same_directory_is_undone() {
    waits_until_the_rename_is_undone(|root| fs::rename(root.join("old"), root.join("newer")), &["newer/", "other/"]);
}

#[test]
fn a_directory_is_not_replaced_before_its_failed_rename_is_undone() {
    waits_until_the_rename_is_undone(|root| fs::rename(root.join("other"), root.join("old")), &["old/"]);
}

#[test]
fn a_failed_rename_that_is_not_undone_yet_is_undone_by_the_next_mount() {
    scenario().mounted(|endpoint, mount| {
        rename_whose_journal_is_stuck(&endpoint, &mount);
        let path = mount.join("old/b");
        let removing = std::thread::spawn(move || fs::remove_file(path));
        kill(mount);
        assert!(removing.join().unwrap().is_err(), "it waited for the rename");
        endpoint.clear_faults();
        let again = Mount::of(&endpoint);
        assert_eq!(store(&endpoint), tree("old"), "{}", again.log());
    });
}

#[test]
fn a_failed_rename_that_cannot_be_undone_holds_up_no_unmount() {
    scenario().within(MINUTE * 2).options(&["--stop-timeout", "2s"]).mounted(|endpoint, mut mount| {
        plant(&endpoint, "old");
        let late = mount.join("old/late");
        let mut open = File::create(&late).unwrap();
        open.write_all(b"not stored yet, and below the directory").unwrap();
        rename_whose_journal_is_stuck(&endpoint, &mount);
        let everything = Rule::on("*", Fault::Stall).times(0);
        endpoint.inject_faults(vec![everything]);
        let begun = std::time::Instant::now();
        mount.signal(Signal::TERM);
        mount.ended().expect("it ends");
        assert!(begun.elapsed() < MINUTE / 2, "it waited for the rename: {:?}", begun.elapsed());
        assert!(mount.log().contains("old/late"), "{}", mount.log());
        drop((open, mount));
        endpoint.clear_faults();
        let again = Mount::of(&endpoint);
        assert_eq!(store(&endpoint), tree("old"), "{}", again.log());
    });
}

#[test]
fn answers_that_are_lost_are_found_out() {
    for (operation, text) in
        [("CopyObject", "deep/c"), ("DeleteObject", "old/b"), ("PutObject", JOURNAL), ("DeleteObject", JOURNAL)]
    {
        scenario().unmounted(move |endpoint| {
            plant(&endpoint, "old");
            let mount = Mount::of(&endpoint);
            endpoint.inject_faults(vec![Rule::on(operation, Fault::LoseAnswer).key_contains(text).times(1)]);
            fs::rename(mount.join("old"), mount.join("new")).unwrap_or_else(|error| panic!("{operation}: {error}"));
            assert_eq!(endpoint.struck(), 1, "an answer to {operation} was lost");
            assert_eq!(store(&endpoint), tree("new"), "{operation}");
        });
    }
}

#[test]
fn deletes_that_fail_are_told_and_made_good_by_the_next_mount() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mut mount = Mount::of(&endpoint);
        endpoint.inject_faults(vec![Rule::on("DeleteObject", denied()).key_contains("old/deep").times(0)]);
        assert_eq!(errno(fs::rename(mount.join("old"), mount.join("new"))), libc::EACCES);
        assert!(endpoint.head("old/deep/c").is_some());
        assert_eq!(endpoint.content("new/deep/c"), b"third", "it has its new name");
        endpoint.clear_faults();
        mount.signal(Signal::TERM);
        mount.ended().expect("it ends");
        drop(mount);
        let again = Mount::of(&endpoint);
        assert_eq!(store(&endpoint), tree("new"), "{}", again.log());
    });
}

#[test]
fn a_journal_that_cannot_be_deleted_is_no_failure_of_the_rename() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        endpoint.inject_faults(vec![Rule::on("DeleteObject", denied()).key_contains(JOURNAL).times(0)]);
        fs::rename(mount.join("old"), mount.join("new")).unwrap();
        endpoint.clear_faults();
        drop(mount);
        let again = Mount::of(&endpoint);
        assert_eq!(store(&endpoint), tree("new"), "{}", again.log());
    });
}

#[test]
fn what_another_host_replaces_at_the_last_moment_stays_and_is_told() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        let rules = vec![Rule::on("DeleteObject", Fault::DelayMs(2_000)).key_contains("old/a")];
        let begun = || endpoint.struck() == 1;
        let renaming = rename_held_back(&endpoint, &mount, rules, "the deletes are under way", begun);
        endpoint.put("old/a", b"of another host");
        assert_eq!(errno(renaming.join().unwrap()), libc::EBUSY);
        let mut expected = tree("new");
        expected.insert("old/a".into(), b"of another host".to_vec());
        assert_eq!(store(&endpoint), expected);
        std::thread::sleep(STALE);
        assert_eq!(names(&mount.path()), ["new", "old"]);
    });
}

#[test]
fn what_another_host_changes_meanwhile_is_not_lost() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        let (rules, begun) = (vec![slow_copy("new/z", 3_000)], || all_stand_but_one(&endpoint));
        let renaming = rename_held_back(&endpoint, &mount, rules, "the copies stand", begun);
        endpoint.put("old/added", b"by another host");
        endpoint.put("old/a", b"first, changed");
        endpoint.delete("old/b");
        renaming.join().unwrap().unwrap();
        let mut expected = tree("new");
        expected.insert("new/added".into(), b"by another host".to_vec());
        expected.insert("new/a".into(), b"first, changed".to_vec());
        expected.remove("new/b");
        assert_eq!(store(&endpoint), expected);
    });
}

#[test]
fn the_target_may_be_an_empty_directory_and_nothing_else() {
    scenario().mounted(|endpoint, mount| {
        for directory in ["d", "empty", "full", "d/sub"] {
            fs::create_dir(mount.join(directory)).unwrap();
        }
        commit(&mount.join("d/file"), b"content").unwrap();
        commit(&mount.join("full/file"), b"other").unwrap();
        commit(&mount.join("file"), b"file").unwrap();
        let rename = |from: &str, to: &str| errno(fs::rename(mount.join(from), mount.join(to)));
        assert_eq!(rename("d", "full"), libc::ENOTEMPTY);
        assert_eq!(rename("d", "file"), libc::ENOTDIR);
        assert_eq!(rename("file", "d"), libc::EISDIR);
        assert_eq!(rename("d", "d/sub/x"), libc::EINVAL);
        assert_eq!(rename("d/sub", "d"), libc::ENOTEMPTY);
        assert_eq!(rename("none", "x"), libc::ENOENT);
        assert_eq!(rename_without_replacing(&mount.join("d"), &mount.join("empty")), libc::EEXIST);
        let exchange = renameat_with(CWD, mount.join("d"), CWD, mount.join("empty"), RenameFlags::EXCHANGE);
        assert_eq!(exchange.err().map(|error| error.raw_os_error()), Some(libc::EINVAL));
        assert_eq!(errno(fs::remove_dir(mount.join("d"))), libc::ENOTEMPTY);
        assert_eq!(rename("d", "d"), 0);
        fs::set_permissions(mount.join("d"), fs::Permissions::from_mode(0o710)).unwrap();
        assert_eq!(rename("d", "empty"), 0);
        assert_eq!(fs::metadata(mount.join("empty")).unwrap().mode() & 0o777, 0o710);
        assert_eq!(rename_without_replacing(&mount.join("empty"), &mount.join("free")), 0);
        assert_eq!(endpoint.keys(), ["file", "free/", "free/file", "free/sub/", "full/", "full/file"]);
    });
}

#[test]
fn a_directory_that_another_host_filled_is_not_replaced() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        fs::create_dir(mount.join("new")).unwrap();
        names(&mount.join("new"));
        endpoint.put("new/theirs", b"theirs");
        assert_eq!(errno(fs::rename(mount.join("old"), mount.join("new"))), libc::ENOTEMPTY);
        let mut expected = tree("old");
        expected.insert("new/".into(), vec![]);
        expected.insert("new/theirs".into(), b"theirs".to_vec());
        assert_eq!(store(&endpoint), expected);
    });
}

#[test]
fn a_name_that_another_host_makes_in_the_target_undoes_it() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        let (rules, begun) = (vec![slow_copy("new/z", 2_000)], || endpoint.struck() == 1);
        let renaming = rename_held_back(&endpoint, &mount, rules, "the copy is held back", begun);
        endpoint.put("new/z", b"theirs");
        assert_eq!(errno(renaming.join().unwrap()), libc::ENOTEMPTY);
        let mut expected = tree("old");
        expected.insert("new/z".into(), b"theirs".to_vec());
        assert_eq!(store(&endpoint), expected);
    });
}

#[test]
fn a_path_that_would_become_too_long_is_refused_before_anything_is_copied() {
    scenario().unmounted(|endpoint| {
        endpoint.put("d/", b"");
        endpoint.put(
            &format!("d/{}/{}/{}/{}", "a".repeat(250), "b".repeat(250), "c".repeat(250), "e".repeat(200)),
            b"deep",
        );
        let mount = Mount::of(&endpoint);
        let (error, counted) = endpoint.counted(|| errno(fs::rename(mount.join("d"), mount.join(&"n".repeat(80)))));
        assert_eq!(error, libc::ENAMETOOLONG);
        assert_eq!((counted.requests("CopyObject"), counted.requests("PutObject")), (0, 0));
        let mut local = mount.join(&format!("d/{}/{}/{}", "a".repeat(250), "b".repeat(250), "c".repeat(250)));
        local.push("f".repeat(250));
        endpoint.delete(&endpoint.keys()[1]);
        endpoint.put(&format!("d/{}/{}/{}/short", "a".repeat(250), "b".repeat(250), "c".repeat(250)), b"short");
        std::thread::sleep(STALE);
        let file = File::create(&local).unwrap();
        assert_eq!(
            errno(fs::rename(mount.join("d"), mount.join(&"n".repeat(80)))),
            libc::ENAMETOOLONG,
            "of a file that is not stored yet"
        );
        drop(file);
    });
}

#[test]
fn the_journals_name_is_hidden_and_kept() {
    scenario().unmounted(|endpoint| {
        endpoint.put(".dssefs/rename/strange", b"{}");
        endpoint.put("d/.dssefs/x", b"another program's");
        let mount = Mount::of(&endpoint);
        eventually("the log says so", MINUTE, || mount.log().contains("cannot be acted on"));
        assert_eq!(names(&mount.path()), ["d"]);
        assert_eq!(errno(fs::metadata(mount.join(".dssefs"))), libc::ENOENT);
        assert_eq!(errno(fs::create_dir(mount.join(".dssefs"))), libc::EPERM);
        assert_eq!(errno(File::create(mount.join(".dssefs"))), libc::EPERM);
        assert_eq!(errno(fs::rename(mount.join("d"), mount.join(".dssefs"))), libc::EPERM);
        assert!(names(&mount.join("d")).is_empty(), "the root of another mount may be here");
        assert!(endpoint.head(".dssefs/rename/strange").is_some(), "what is not understood is left as it is");
    });
}

/// A directory was the only thing that a test had ever moved there.
#[test]
fn nothing_is_made_at_or_moved_to_the_reserved_name() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        fs::create_dir(mount.join("d")).unwrap();
        for name in ["file", "d/file"] {
            commit(&mount.join(name), b"content").unwrap();
        }
        symlink("file", mount.join("link")).unwrap();
        let mut pending = File::create(mount.join("pending")).unwrap();
        pending.write_all(b"not stored yet").unwrap();
        for reserved in [".dssefs", "d/.dssefs"].map(|name| mount.join(name)) {
            for name in ["file", "d/file", "link", "pending", "d"] {
                // No directory moves into itself.
                if name != "d" || !reserved.starts_with(mount.join(name)) {
                    assert_eq!(errno(fs::rename(mount.join(name), &reserved)), libc::EPERM, "{name}");
                }
            }
            assert_eq!(errno(symlink("file", &reserved)), libc::EPERM);
            assert_eq!(errno(File::create(&reserved)), libc::EPERM);
            assert_eq!(errno(fs::create_dir(&reserved)), libc::EPERM);
            let fifo = mknodat(CWD, &reserved, FileType::Fifo, Mode::RUSR, 0);
            assert_eq!(fifo, Err(Errno::PERM));
        }
        drop(pending);
        assert_eq!(endpoint.keys(), ["d/", "d/file", "file", "link", "pending"]);
        assert_eq!(fs::read(mount.join("pending")).unwrap(), b"not stored yet");
    });
}

/// What the journal of a process of this system says that does not run any more: that `old/a` was copied.
fn left_after_copies(endpoint: &Endpoint) -> Said<'static> {
    let etag = |key: &str| endpoint.head(key).unwrap().e_tag().unwrap().to_owned();
    let objects = serde_json::json!({ "a": { "source": etag("old/a"), "copy": etag("new/a") } });
    Said { phase: "deleting", objects, ..Said::default() }
}

#[test]
fn a_journal_is_acted_on_only_when_it_is_stored_as_the_mount_stores() {
    scenario().with_spill(|endpoint, spill| {
        endpoint.put("old/a", b"content");
        endpoint.put("new/a", b"content");
        let journal = Signer::host(spill.path()).journal(&left_after_copies(&endpoint));
        endpoint.put_as(".dssefs/rename/left", &journal, Some(ServerSideEncryption::Aes256), None);
        let mount = mount_at(&endpoint, &spill);
        eventually("the log says so", MINUTE, || mount.log().contains("cannot be acted on"));
        assert_eq!(endpoint.keys(), [".dssefs/rename/left", "new/a", "old/a"]);
        drop(mount);
        endpoint.put(".dssefs/rename/left", &journal);
        let mount = mount_at(&endpoint, &spill);
        assert_eq!(endpoint.keys(), ["new/a"], "{}", mount.log());
    });
}

fn mount_at(endpoint: &Endpoint, spill: &TempDir) -> Mount {
    Mount::with(endpoint, &["--spill-dir", spill.path().to_str().unwrap()])
}

#[test]
fn of_two_mounts_that_rename_one_directory_at_the_same_time_one_is_told_that_it_is_busy() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let (one, two) = (Mount::of(&endpoint), Mount::of(&endpoint));
        assert_eq!((names(&one.path()), names(&two.path())), (vec!["old".into()], vec!["old".into()]));
        let slow_journal = Rule::on("PutObject", Fault::DelayMs(2_000)).key_contains(JOURNAL);
        let (rules, begun) = (vec![slow_journal, slow_copy("er/d", 5_000)], || endpoint.struck() > 0);
        let second = rename_held_back(&endpoint, &two, rules, "its journal is on its way", begun);
        let first = errno(fs::rename(one.join("old"), one.join("new")));
        let mut outcomes = [first, errno(second.join().unwrap())];
        outcomes.sort_unstable();
        assert_eq!(store(&endpoint), tree("new"), "{outcomes:?}\n{}\n{}", one.log(), two.log());
        assert_eq!(outcomes, [0, libc::EBUSY]);
    });
}

#[test]
fn a_rename_that_was_left_in_the_middle_waits_for_one_that_is_under_way() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        let begun = || endpoint.struck() == 1 && endpoint.counters().requests("CopyObject") > 6;
        let rules = vec![slow_copy("er/d", 6_000)];
        let renaming = rename_held_back(&endpoint, &mount, rules, "the copies are under way", begun);
        let spill = TempDir::new().unwrap();
        endpoint.put(".dssefs/rename/left", &Signer::host(spill.path()).journal(&Said::default()));
        let second = mount_at(&endpoint, &spill);
        assert!(!renaming.is_finished(), "the second mount was made in the middle of it");
        renaming.join().unwrap().unwrap();
        let mut expected = tree("new");
        let files: BTreeMap<_, _> = store(&endpoint).into_iter().filter(|(key, _)| !key.starts_with(JOURNAL)).collect();
        assert_eq!(files, expected, "{}", second.log());
        drop(second);
        let third = mount_at(&endpoint, &spill);
        assert_eq!(store(&endpoint), expected, "{}", third.log());
        assert_eq!(errno(fs::rename(third.join("new"), third.join("newer"))), 0, "nothing is in its way any more");
        expected = tree("newer");
        assert_eq!(store(&endpoint), expected);
    });
}

#[test]
fn of_two_renames_that_were_left_in_the_middle_the_one_whose_copies_all_stand_comes_first() {
    scenario().unmounted(|endpoint| {
        endpoint.put("old/a", b"content");
        endpoint.put("new/a", b"content");
        let spill = TempDir::new().unwrap();
        let signer = Signer::host(spill.path());
        endpoint.put(".dssefs/rename/a", &signer.journal(&Said { name: "a", ..Said::default() }));
        endpoint.put(".dssefs/rename/b", &signer.journal(&Said { name: "b", ..left_after_copies(&endpoint) }));
        let mount = mount_at(&endpoint, &spill);
        assert_eq!(endpoint.keys(), ["new/a"], "{}", mount.log());
    });
}

#[test]
fn a_rename_does_not_begin_beside_one_whose_mount_may_be_at_work() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        plant(&endpoint, "other");
        let spill = TempDir::new().unwrap();
        let signer = Signer::host(spill.path());
        let mount = mount_at(&endpoint, &spill);
        endpoint.put(".dssefs/rename/left", &signer.journal(&Said { owner: elsewhere(), ..Said::default() }));
        let before = store(&endpoint);
        for (from, to) in [("old", "newer"), ("other", "new"), ("old/deep", "deep"), ("other", "old/other")] {
            assert_eq!(errno(fs::rename(mount.join(from), mount.join(to))), libc::EBUSY, "{from} to {to}");
        }
        assert_eq!(store(&endpoint), before, "{}", mount.log());
        fs::rename(mount.join("other"), mount.join("another")).unwrap();
    });
}

#[test]
fn a_source_whose_copy_another_host_takes_away_stays() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        let (rules, begun) = (vec![slow_copy("new/z", 3_000)], || all_stand_but_one(&endpoint));
        let renaming = rename_held_back(&endpoint, &mount, rules, "the copies stand", begun);
        endpoint.delete("new/a");
        endpoint.put("new/b", b"theirs");
        assert_eq!(errno(renaming.join().unwrap()), libc::EBUSY);
        let mut expected = tree("new");
        expected.remove("new/a");
        expected.insert("new/b".into(), b"theirs".to_vec());
        expected.insert("old/a".into(), b"first".to_vec());
        expected.insert("old/b".into(), b"second".to_vec());
        assert_eq!(store(&endpoint), expected);
    });
}

#[test]
fn times_of_the_directory_stay_and_those_of_its_parents_change() {
    scenario().mounted(|endpoint, mount| {
        for directory in ["from", "to", "from/d"] {
            fs::create_dir(mount.join(directory)).unwrap();
        }
        let time = |name: &str| fs::metadata(mount.join(name)).unwrap().modified().unwrap();
        let (moved, parents) = (time("from/d"), [time("from"), time("to")]);
        std::thread::sleep(Duration::from_millis(50));
        fs::rename(mount.join("from/d"), mount.join("to/d")).unwrap();
        assert_eq!(time("to/d"), moved);
        assert!(time("from") > parents[0] && time("to") > parents[1]);
        assert_eq!(endpoint.keys(), ["from/", "to/", "to/d/"]);
    });
}

#[test]
fn a_prefix_keeps_its_journal_to_itself() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "team/one/old");
        let key = ["--kms-key-id", endpoint.key_arn()];
        let mount = Mount::source(&endpoint, &format!("{BUCKET}/team/one"), &key);
        let journal = || endpoint.keys().into_iter().find(|key| key.starts_with("team/one/.dssefs/rename/"));
        let (rules, begun) = (vec![slow_copy("new/z", 3_000)], || journal().is_some());
        let renaming = rename_held_back(&endpoint, &mount, rules, "the journal is there", begun);
        let journal = journal().unwrap();
        endpoint.assert_dsse(&journal);
        let whole = Mount::of(&endpoint);
        assert_eq!(errno(fs::rename(whole.join("team"), whole.join("other"))), libc::EBUSY, "a move within a move");
        renaming.join().unwrap().unwrap();
        assert_eq!(store(&endpoint), tree("team/one/new"));
    });
}

#[test]
fn a_file_renamed_without_replacing_is_exclusive_across_mounts() {
    scenario().unmounted(|endpoint| {
        let (one, two) = (Mount::of(&endpoint), Mount::of(&endpoint));
        commit(&one.join("a"), b"of one").unwrap();
        commit(&two.join("b"), b"of two").unwrap();
        names(&one.path());
        names(&two.path());
        assert_eq!(rename_without_replacing(&two.join("b"), &two.join("lock")), 0);
        assert_eq!(rename_without_replacing(&one.join("a"), &one.join("lock")), libc::EEXIST);
        assert_eq!(endpoint.content("lock"), b"of two");
        assert_eq!(endpoint.content("a"), b"of one");
    });
}

#[test]
fn what_another_host_puts_under_the_old_name_of_a_file_meanwhile_stays() {
    scenario().mounted(|endpoint, mount| {
        commit(&mount.join("old"), b"ours").unwrap();
        let (rules, begun) = (vec![Rule::on("DeleteObject", Fault::DelayMs(2_000))], || endpoint.struck() == 1);
        let renaming = rename_held_back(&endpoint, &mount, rules, "the delete is under way", begun);
        endpoint.put("old", b"theirs");
        renaming.join().unwrap().unwrap();
        assert_eq!(endpoint.content("old"), b"theirs");
        assert_eq!(endpoint.content("new"), b"ours");
        std::thread::sleep(STALE);
        assert_eq!(names(&mount.path()), ["new", "old"]);
        assert_eq!(fs::read(mount.join("old")).unwrap(), b"theirs");
        endpoint.clear_faults();
        fs::rename(mount.join("old"), mount.join("older")).unwrap();
        assert_eq!(endpoint.keys(), ["new", "older"]);
    });
}

#[test]
fn a_file_renamed_over_an_open_one_leaves_it_to_its_handles() {
    scenario().mounted(|endpoint, mount| {
        commit(&mount.join("target"), b"the old one").unwrap();
        commit(&mount.join("source"), b"the new one").unwrap();
        let mut open = OpenOptions::new().read(true).write(true).open(mount.join("target")).unwrap();
        open.write_all(b"THE").unwrap();
        fs::rename(mount.join("source"), mount.join("target")).unwrap();
        let mut content = String::new();
        open.rewind().unwrap();
        open.read_to_string(&mut content).unwrap();
        assert_eq!(content, "THE old one");
        drop(open);
        assert_eq!(fs::read(mount.join("target")).unwrap(), b"the new one");
        assert_eq!(endpoint.content("target"), b"the new one");
        assert_eq!(endpoint.keys(), ["target"]);
    });
}

#[test]
fn an_open_file_with_changes_can_be_unlinked_in_a_moved_directory() {
    scenario().unmounted(|endpoint| {
        plant(&endpoint, "old");
        let mount = Mount::of(&endpoint);
        let mut open = OpenOptions::new().append(true).read(true).open(mount.join("old/a")).unwrap();
        open.write_all(b" and more").unwrap();
        fs::rename(mount.join("old"), mount.join("new")).unwrap();
        open.write_all(b" yet").unwrap();
        fs::remove_file(mount.join("new/a")).unwrap();
        let mut content = String::new();
        open.rewind().unwrap();
        open.read_to_string(&mut content).unwrap();
        assert_eq!(content, "first and more yet");
        drop(open);
        let mut expected = tree("new");
        expected.remove("new/a");
        eventually("what was held for the handle is gone", MINUTE, || endpoint.keys().len() == expected.len());
        assert_eq!(store(&endpoint), expected);
    });
}
