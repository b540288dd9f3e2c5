//! Several hosts on one bucket: what one of them did the others see in time, and none undoes another's work without
//! hearing of it. Another host is a second mount, or an ordinary client of the endpoint.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use dssefs_emulator::faults::{Fault, Rule};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::{
    BUCKET, Endpoint, MINUTE, Mount, STALE, attribute, attribute_of, commit, deadline, errno, names, noise, scenario,
};

/// Believes nothing for longer than one answer: open(2) asks the store each time.
const WARY: [&str; 2] = ["--metadata-ttl", "0"];

fn two(endpoint: &Endpoint, options: &[&str]) -> (Mount, Mount) {
    (Mount::with(endpoint, options), Mount::with(endpoint, options))
}

fn read(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.read_to_end(&mut content).map(|_| content)
}

#[test]
fn a_file_made_elsewhere_is_opened_at_once_although_it_was_missed_before() {
    scenario().mounted(|endpoint, mount| {
        assert_eq!(errno(File::open(mount.join("new"))), libc::ENOENT);
        endpoint.put("new", b"content");
        assert_eq!(fs::read(mount.join("new")).unwrap(), b"content");
    });
}

#[test]
fn in_a_directory_that_was_just_listed_a_file_made_elsewhere_is_there_when_the_time_is_over() {
    scenario().unmounted(|endpoint| {
        endpoint.put("old", b"");
        let mount = Mount::of(&endpoint);
        assert_eq!(names(&mount.path()), ["old"]);
        assert_eq!(errno(File::open(mount.join("new"))), libc::ENOENT);
        endpoint.put("new", b"content");
        // What is believed of a directory is not believed twice: the kernel keeps no names that are not there.
        thread::sleep(Duration::from_millis(1_050));
        assert_eq!(fs::read(mount.join("new")).unwrap(), b"content");
        assert_eq!(names(&mount.path()), ["new", "old"]);
    });
}

/// A new directory counted as listed, so that what another host put into it was absent, and O_CREAT lost the race.
#[test]
fn a_file_made_elsewhere_in_a_directory_made_here_is_found_at_once() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        for name in ["read", "written"] {
            fs::create_dir(mount.join(name)).unwrap();
            endpoint.put(&format!("{name}/file"), b"theirs");
        }
        assert_eq!(fs::read(mount.join("read/file")).unwrap(), b"theirs");
        let mut file = OpenOptions::new().create(true).append(true).open(mount.join("written/file")).unwrap();
        file.write_all(b" and ours").unwrap();
        file.sync_all().unwrap();
        assert_eq!(endpoint.content("written/file"), b"theirs and ours");
    });
}

#[test]
fn who_believes_nothing_sees_each_change_at_once() {
    scenario().unmounted(|endpoint| {
        endpoint.put("old", b"old");
        let mount = Mount::with(&endpoint, &WARY);
        for round in 0..5 {
            let (name, content) = (format!("new{round}"), noise(round, 5_000 + round as usize));
            assert!(!names(&mount.path()).contains(&name));
            assert_eq!(errno(File::open(mount.join(&name))), libc::ENOENT);
            endpoint.put(&name, &content);
            assert_eq!(fs::read(mount.join(&name)).unwrap(), content);
            assert!(names(&mount.path()).contains(&name));
            endpoint.put("old", &content);
            assert_eq!(fs::read(mount.join("old")).unwrap(), content);
            endpoint.delete(&name);
            assert_eq!(errno(File::open(mount.join(&name))), libc::ENOENT);
        }
    });
}

#[test]
fn after_estale_the_next_open_finds_the_new_version() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", &noise(1, 40 << 20));
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        let file = File::open(mount.join("file")).unwrap();
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 0).unwrap();
        endpoint.put("file", &noise(2, 30 << 20));
        assert_eq!(errno(file.read_exact_at(&mut bytes, 35 << 20)), libc::ESTALE);
        // With the old one still open, and without.
        assert!(fs::read(mount.join("file")).unwrap() == noise(2, 30 << 20));
        drop(file);
        assert!(fs::read(mount.join("file")).unwrap() == noise(2, 30 << 20));
        endpoint.delete("file");
        // All of its pages may be in the kernel, so it is asked for otherwise than by reading.
        assert_eq!(errno(fs::rename(mount.join("file"), mount.join("other"))), libc::ENOENT);
    });
}

#[test]
fn what_one_mount_has_closed_the_other_opens() {
    scenario().unmounted(|endpoint| {
        let (one, two) = two(&endpoint, &WARY);
        for round in 0..20 {
            let content = noise(round, 3_000 * round as usize);
            let (writer, reader) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
            commit(&writer.join("file"), &content).unwrap();
            assert!(fs::read(reader.join("file")).unwrap() == content, "round {round}");
        }
        commit(&one.join("believed"), b"old").unwrap();
        let patient = Mount::of(&endpoint);
        assert_eq!(fs::read(patient.join("believed")).unwrap(), b"old");
        commit(&one.join("believed"), b"newer").unwrap();
        thread::sleep(STALE);
        assert_eq!(fs::read(patient.join("believed")).unwrap(), b"newer");
    });
}

/// Every version is of one byte, and of a length that belongs to that byte.
fn version(number: u8) -> Vec<u8> {
    vec![number; (1 << 20) + usize::from(number) * 5_000]
}

fn readers_see_whole_versions(options: &'static [&'static str]) {
    scenario().within(MINUTE * 2).unmounted(move |endpoint| {
        endpoint.put("file", &version(0));
        let (writer, reader) = two(&endpoint, options);
        let (done, whole) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        match File::open(reader.join("file")).and_then(|mut file| read(&mut file)) {
                            Ok(content) => {
                                let first = content.first().copied().expect("no version is empty");
                                assert!(content == version(first), "{} bytes of a mixture", content.len());
                                whole.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
                        }
                    }
                });
            }
            for number in 1..30 {
                commit(&writer.join("file"), &version(number)).unwrap();
                thread::sleep(Duration::from_millis(20));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(whole.load(Ordering::Relaxed) > 0, "no reader ever saw a whole version");
        thread::sleep(STALE);
        assert!(fs::read(reader.join("file")).unwrap() == version(29));
    });
}

#[test]
fn a_reader_never_sees_a_mixture_of_versions() {
    readers_see_whole_versions(&[]);
}

#[test]
fn a_reader_that_believes_nothing_never_sees_a_mixture_of_versions() {
    readers_see_whole_versions(&WARY);
}

/// Two mounts append to one file; the second is told, and gives what it reads of its own file from `offset` on then.
fn of_two_appenders_the_second_is_told(endpoint: &Endpoint, base: &[u8], offset: u64, length: usize) -> Vec<u8> {
    endpoint.put("log", base);
    let (one, two) = two(endpoint, &WARY);
    let append = |mount: &Mount| OpenOptions::new().append(true).read(true).open(mount.join("log")).unwrap();
    let (mut first, mut second) = (append(&one), append(&two));
    first.write_all(b"one\n").unwrap();
    second.write_all(&noise(2, 5_000)).unwrap();
    first.sync_all().unwrap();
    assert_eq!(errno(second.sync_all()), libc::ESTALE);
    assert_eq!(endpoint.content("log"), [base, b"one\n"].concat(), "the other's bytes are untouched");
    assert_eq!(attribute_of(&second, "user.dsse.verdict").unwrap(), "pending");
    assert_eq!(attribute(&two.join("log"), "user.dsse.verdict").unwrap(), "compliant", "the name is the winner's");
    assert_eq!(errno(second.sync_all()), libc::ESTALE, "a race that was lost stays lost");
    let mut kept = vec![0; length];
    second.read_exact_at(&mut kept, offset).unwrap();
    fs::write(two.join("log.mine"), &kept).unwrap();
    assert_eq!(endpoint.content("log.mine"), kept, "they can be saved under another name");
    kept
}

#[test]
fn of_two_appenders_the_second_is_told_and_keeps_its_bytes() {
    deadline(MINUTE, || {
        // Pages that also hold bytes of the replaced object could not be read: nobody has those any more.
        let kept = of_two_appenders_the_second_is_told(&Endpoint::start(), &noise(1, 4096), 4096, 5_000);
        assert!(kept == noise(2, 5_000));
    });
}

#[test]
fn in_a_bucket_with_versions_the_second_appender_can_read_its_whole_file() {
    scenario().unmounted(|endpoint| {
        endpoint.keep_versions();
        let kept = of_two_appenders_the_second_is_told(&endpoint, b"start\n", 0, 5_006);
        assert!(kept == [b"start\n".as_slice(), &noise(2, 5_000)].concat());
    });
}

#[test]
fn no_update_of_a_shared_counter_is_lost() {
    const EACH: usize = 8;
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        endpoint.put("counter", b"00000000");
        let (one, two) = two(&endpoint, &WARY);
        let lost = AtomicUsize::new(0);
        thread::scope(|scope| {
            for mount in [&one, &two] {
                scope.spawn(|| {
                    (0..EACH).for_each(|_| {
                        while increment(mount).is_err() {
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                });
            }
        });
        let counted: usize = String::from_utf8(endpoint.content("counter")).unwrap().parse().unwrap();
        assert_eq!(counted, 2 * EACH, "after {} races that were lost and told", lost.load(Ordering::Relaxed));
    });
}

/// One more, or the news that another was faster.
fn increment(mount: &Mount) -> Result<(), ()> {
    let told = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
    let file = OpenOptions::new().read(true).write(true).open(mount.join("counter")).map_err(told)?;
    let mut digits = [0; 8];
    file.read_exact_at(&mut digits, 0).map_err(told)?;
    let count: usize = std::str::from_utf8(&digits).unwrap().parse().unwrap();
    file.write_all_at(format!("{:08}", count + 1).as_bytes(), 0).map_err(told)?;
    file.sync_all().map_err(told)
}

#[test]
fn exclusive_creation_is_decided_when_the_file_is_closed() {
    scenario().unmounted(|endpoint| {
        let (one, two) = two(&endpoint, &[]);
        let create = |mount: &Mount, content: &[u8]| {
            let mut file = File::create_new(mount.join("lock"))?;
            file.write_all(content)?;
            Ok(file)
        };
        let (first, second) = (create(&one, b"one").unwrap(), create(&two, b"two").unwrap());
        second.sync_all().unwrap();
        assert_eq!(errno(first.sync_all()), libc::ESTALE);
        assert_eq!(endpoint.content("lock"), b"two");
        drop((first, second));
        thread::sleep(STALE);
        assert_eq!(errno::<File>(create(&one, b"again")), libc::EEXIST);
        assert_eq!(fs::read(one.join("lock")).unwrap(), b"two", "the name shows the winner's file");
    });
}

#[test]
fn of_two_exclusive_creators_at_the_same_time_one_succeeds() {
    scenario().unmounted(|endpoint| {
        let (one, two) = two(&endpoint, &WARY);
        for round in 0..10 {
            let name = format!("lock{round}");
            let take = |mount: &Mount, owner: &[u8]| {
                let mut file = File::create_new(mount.join(&name))?;
                file.write_all(owner)?;
                file.sync_all()
            };
            let outcomes = thread::scope(|scope| {
                let first = scope.spawn(|| take(&one, b"one"));
                let second = scope.spawn(|| take(&two, b"two"));
                [first.join().unwrap(), second.join().unwrap()]
            });
            let [first, second] = outcomes.map(errno);
            let winner: &[u8] = if first == 0 { b"one" } else { b"two" };
            assert!((first == 0) != (second == 0), "{name}: {first} and {second}");
            assert!([libc::ESTALE, libc::EEXIST].contains(&first.max(second)), "{name}: {first} and {second}");
            assert_eq!(endpoint.content(&name), winner);
        }
    });
}

#[test]
fn of_two_renames_that_must_not_replace_one_succeeds() {
    scenario().unmounted(|endpoint| {
        for key in ["one", "two"] {
            endpoint.put(key, key.as_bytes());
        }
        let (one, two) = two(&endpoint, &[]);
        let claim = |mount: &Mount, name: &str| {
            let (from, to) = (mount.join(name), mount.join("claimed"));
            renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(std::io::Error::from)
        };
        assert_eq!(
            (names(&one.path()), names(&two.path())),
            (vec!["one".into(), "two".into()], vec!["one".into(), "two".into()])
        );
        let outcomes = [errno(claim(&one, "one")), errno(claim(&two, "two"))];
        assert_eq!(outcomes, [0, libc::EEXIST], "decided by the store, whatever the second mount believed");
        assert_eq!((endpoint.content("claimed"), endpoint.content("two")), (b"one".to_vec(), b"two".to_vec()));
    });
}

#[test]
fn a_file_deleted_elsewhere_is_estale_to_its_reader_and_not_brought_back_by_its_writer() {
    scenario().unmounted(|endpoint| {
        endpoint.put("read", &noise(1, 40 << 20));
        endpoint.put("written", b"old");
        let (one, two) = two(&endpoint, &WARY);
        let reader = File::open(one.join("read")).unwrap();
        let mut bytes = [0; 4096];
        reader.read_exact_at(&mut bytes, 0).unwrap();
        let writer = OpenOptions::new().read(true).write(true).open(one.join("written")).unwrap();
        writer.write_all_at(b"mine", 0).unwrap();
        fs::remove_file(two.join("read")).unwrap();
        fs::remove_file(two.join("written")).unwrap();
        assert_eq!(errno(reader.read_exact_at(&mut bytes, 35 << 20)), libc::ESTALE);
        assert_eq!(errno(writer.sync_all()), libc::ESTALE);
        assert_eq!(endpoint.keys(), Vec::<String>::new(), "what was deleted stays deleted");
        let mut kept = [0; 4];
        writer.read_exact_at(&mut kept, 0).unwrap();
        assert_eq!(&kept, b"mine");
    });
}

#[test]
fn in_a_bucket_with_versions_a_reader_keeps_the_version_that_another_host_deletes_or_replaces() {
    scenario().unmounted(|endpoint| {
        endpoint.keep_versions();
        for key in ["deleted", "replaced"] {
            endpoint.put(key, &noise(1, 40 << 20));
        }
        let mount = Mount::of(&endpoint);
        let open = ["deleted", "replaced"].map(|name| File::open(mount.join(name)).unwrap());
        endpoint.delete("deleted");
        endpoint.put("replaced", b"new");
        for file in &open {
            let mut bytes = vec![0; 4096];
            file.read_exact_at(&mut bytes, 35 << 20).unwrap();
            assert!(bytes == noise(1, (35 << 20) + 4096)[35 << 20..]);
        }
    });
}

#[test]
fn directories_are_made_once_and_removed_only_when_they_are_empty_for_all() {
    scenario().unmounted(|endpoint| {
        let (one, two) = two(&endpoint, &[]);
        for mount in [&one, &two] {
            assert_eq!(names(&mount.path()), Vec::<String>::new());
        }
        fs::create_dir(one.join("d")).unwrap();
        assert_eq!(errno(fs::create_dir(two.join("d"))), libc::EEXIST, "whatever it believed");
        thread::sleep(STALE);
        assert_eq!(names(&two.join("d")), Vec::<String>::new());
        commit(&one.join("d/file"), b"content").unwrap();
        assert_eq!(errno(fs::remove_dir(two.join("d"))), libc::ENOTEMPTY, "whatever it believed");
        assert_eq!(endpoint.keys(), ["d/", "d/file"]);
        fs::remove_file(one.join("d/file")).unwrap();
        fs::remove_dir(two.join("d")).unwrap();
        thread::sleep(STALE);
        assert_eq!(errno(commit(&one.join("d/late"), b"late")), libc::ENOENT, "the mount believes in it no longer");
        assert_eq!(endpoint.keys(), Vec::<String>::new());
        assert_eq!(names(&two.path()), Vec::<String>::new());
    });
}

#[test]
fn a_file_makes_a_removed_directory_true_again_where_a_mount_still_believes_in_it() {
    scenario().unmounted(|endpoint| {
        let (believing, other) = (Mount::with(&endpoint, &["--metadata-ttl", "1h"]), Mount::with(&endpoint, &WARY));
        fs::create_dir(believing.join("d")).unwrap();
        fs::remove_dir(other.join("d")).unwrap();
        assert_eq!(endpoint.keys(), Vec::<String>::new());
        commit(&believing.join("d/late"), b"late").unwrap();
        assert_eq!(endpoint.keys(), ["d/late"]);
        assert_eq!(names(&other.join("d")), ["late"]);
    });
}

#[test]
fn when_told_so_the_last_writer_wins() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"old");
        let (one, two) = two(&endpoint, &["--last-writer-wins"]);
        let open = |mount: &Mount| OpenOptions::new().write(true).open(mount.join("file")).unwrap();
        let (first, second) = (open(&one), open(&two));
        first.write_all_at(b"one", 0).unwrap();
        second.write_all_at(b"two", 0).unwrap();
        second.sync_all().unwrap();
        first.sync_all().unwrap();
        assert_eq!(endpoint.content("file"), b"one");
        let (mut new, mut newer) = (File::create(one.join("new")).unwrap(), File::create(two.join("new")).unwrap());
        new.write_all(b"one").unwrap();
        newer.write_all(b"two").unwrap();
        new.sync_all().unwrap();
        newer.sync_all().unwrap();
        assert_eq!(endpoint.content("new"), b"two");
        endpoint.assert_dsse("new");
    });
}

#[test]
fn a_mount_below_a_prefix_and_one_of_the_whole_bucket_see_the_same_files() {
    scenario().unmounted(|endpoint| {
        let key = ["--kms-key-id", endpoint.key_arn()];
        let (whole, part) = (
            Mount::with(&endpoint, &WARY),
            Mount::source(&endpoint, &format!("{BUCKET}/a/b"), &[key.as_slice(), &WARY].concat()),
        );
        commit(&part.join("file"), b"from below").unwrap();
        assert_eq!(fs::read(whole.join("a/b/file")).unwrap(), b"from below");
        commit(&whole.join("a/b/file"), b"from above").unwrap();
        assert_eq!(fs::read(part.join("file")).unwrap(), b"from above");
        fs::remove_file(whole.join("a/b/file")).unwrap();
        assert_eq!(names(&part.path()), Vec::<String>::new());
    });
}

// What a mount has to know of its store.

/// The outcome of `dssefs mount` on a store of this kind: its exit code, and what it said.
fn mounted_on(endpoint: &Endpoint, rules: Vec<Rule>, options: &[&str]) -> (Option<i32>, String) {
    endpoint.inject_faults(rules);
    let (dir, spill) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = Mount::command(endpoint, BUCKET, dir.path());
    command.args(["--foreground", "--kms-key-id", endpoint.key_arn(), "--spill-dir"]).arg(spill.path().join("spill"));
    let output = command.args(options).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_store_that_does_not_keep_conditions_is_refused_with_the_way_out_and_nothing_is_left_there() {
    deadline(MINUTE, || {
        for versioned in [false, true] {
            let endpoint = Endpoint::start();
            if versioned {
                endpoint.keep_versions();
            }
            for operation in ["PutObject", "CompleteMultipartUpload"] {
                let ignored = Rule::on(operation, Fault::IgnoreConditions).times(0);
                let refused = Fault::Failure { status: 501, code: "NotImplemented".into(), message: "If-Match".into() };
                for rule in [ignored, Rule::on(operation, refused).times(0)] {
                    let (code, said) = mounted_on(&endpoint, vec![rule], &[]);
                    assert_eq!(code, Some(8), "{said}");
                    assert!(said.contains("--last-writer-wins") && said.contains(operation), "{said}");
                    assert_eq!((endpoint.keys(), endpoint.uploads()), (Vec::new(), 0));
                    assert_eq!(endpoint.versions(), 0, "not even an old version");
                }
            }
        }
    });
}

#[test]
fn a_store_that_does_not_keep_conditions_is_mounted_when_the_last_writer_may_win() {
    scenario().unmounted(|endpoint| {
        endpoint.inject_faults(vec![Rule::on("*", Fault::IgnoreConditions).times(0)]);
        let (mount, counters) = endpoint.counted(|| Mount::with(&endpoint, &["--last-writer-wins"]));
        assert_eq!((counters.requests("PutObject"), counters.requests("CompleteMultipartUpload")), (0, 0));
        commit(&mount.join("file"), b"content").unwrap();
        endpoint.assert_dsse("file");
    });
}

#[test]
fn credentials_that_may_not_find_out_are_no_reason_not_to_mount() {
    deadline(MINUTE, || {
        let denied = || Fault::Failure { status: 403, code: "AccessDenied".into(), message: "Access Denied".into() };
        for operation in ["PutObject", "UploadPart", "CompleteMultipartUpload"] {
            let endpoint = Endpoint::start();
            endpoint.inject_faults(vec![Rule::on(operation, denied())]);
            let mount = Mount::of(&endpoint);
            assert!(mount.log().contains("may not find out"), "{operation}: {}", mount.log());
            assert_eq!(endpoint.uploads(), 0, "{operation}");
            commit(&mount.join("file"), b"content").unwrap();
        }
    });
}

#[test]
fn what_the_proof_costs() {
    scenario().unmounted(|endpoint| {
        let (_mount, counters) = endpoint.counted(|| Mount::of(&endpoint));
        let asked: Vec<(&str, u64)> = counters
            .s3
            .iter()
            .filter(|(_, count)| count.requests > 0)
            .map(|(name, count)| (name.as_str(), count.requests))
            .collect();
        let expected = [
            ("AbortMultipartUpload", 1),
            ("CompleteMultipartUpload", 1),
            ("CreateMultipartUpload", 1),
            ("DeleteObject", 1),
            ("GetBucketEncryption", 1),
            ("GetBucketVersioning", 1),
            // The attributes of the bucket's root.
            ("HeadObject", 1),
            // Whether the prefix can be listed, whether a rename of a directory was left in the middle, and what could
            // be copied to see whether copies keep conditions.
            ("ListObjectsV2", 3),
            ("PutObject", 1),
            ("UploadPart", 1),
        ];
        assert_eq!(asked, expected);
        assert_eq!((endpoint.keys(), endpoint.uploads()), (Vec::new(), 0));
    });
}

#[test]
fn a_store_that_does_not_keep_the_conditions_of_copies_is_named_and_nothing_is_left_there() {
    deadline(MINUTE, || {
        for ignores in [false, true] {
            let endpoint = Endpoint::start();
            endpoint.put("file", b"content");
            if ignores {
                endpoint.inject_faults(vec![Rule::on("CopyObject", Fault::IgnoreConditions).times(0)]);
            }
            let mount = Mount::of(&endpoint);
            assert_eq!(mount.log().contains("does not keep the conditions of copies"), ignores, "{}", mount.log());
            assert_eq!(endpoint.keys(), ["file"]);
        }
    });
}

#[test]
fn the_last_writer_needs_no_conditions_for_directories_links_and_attributes() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"content");
        let mount = Mount::with(&endpoint, &["--last-writer-wins"]);
        endpoint.inject_faults(vec![Rule::on("*", Fault::RefuseConditions).times(0)]);
        fs::create_dir(mount.join("directory")).unwrap();
        std::os::unix::fs::symlink("file", mount.join("link")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(mount.join("file"), mode).unwrap();
        assert_eq!(endpoint.keys(), ["directory/", "file", "link"]);
    });
}
