//! Files as programs use them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::process::Command;

use crate::common::{Endpoint, MINUTE, Mount, commit, deadline, errno, names, noise, scenario, seed};

#[test]
fn content_of_any_size_comes_back_as_dsse() {
    scenario().within(MINUTE * 2).mounted(|endpoint, mount| {
        for size in [0, 1, 4095, 4096, 4097, 65_535, 65_537, 131_073, (1 << 20) + 1, (5 << 20) + 1, (17 << 20) + 3] {
            let (name, content) = (format!("{size}"), noise(size as u64, size));
            commit(&mount.join(&name), &content).unwrap();
            assert!(fs::read(mount.join(&name)).unwrap() == content, "{size} bytes through the mount");
            assert!(endpoint.content(&name) == content, "{size} bytes in the store");
            assert_eq!(fs::metadata(mount.join(&name)).unwrap().len(), size as u64);
            endpoint.assert_dsse(&name);
        }
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn a_file_outlives_the_mount() {
    scenario().mounted(|endpoint, mount| {
        fs::create_dir(mount.join("d")).unwrap();
        commit(&mount.join("d/file"), b"content").unwrap();
        fs::set_permissions(mount.join("d/file"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(mount.end().success());
        let mount = Mount::of(&endpoint);
        assert_eq!(fs::read(mount.join("d/file")).unwrap(), b"content");
        assert_eq!(fs::metadata(mount.join("d/file")).unwrap().mode() & 0o7777, 0o640);
        endpoint.assert_dsse("d/file");
        endpoint.assert_dsse("d/");
    });
}

#[test]
fn changes_at_any_offset_are_seen_by_every_handle_before_and_after_the_commit() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", &noise(1, 200_000));
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        let reader = File::open(&path).unwrap();
        writer.write_all_at(b"changed", 100_000).unwrap();
        let mut expected = noise(1, 200_000);
        expected[100_000..100_007].copy_from_slice(b"changed");
        let mut seen = vec![0; 200_000];
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == expected, "another handle, before the commit");
        assert_eq!(endpoint.content("file"), noise(1, 200_000), "the store, before the commit");
        writer.sync_all().unwrap();
        assert!(endpoint.content("file") == expected, "the store, after the commit");
        assert!(fs::read(&path).unwrap() == expected, "a new handle, after the commit");
        endpoint.assert_dsse("file");
    });
}

#[test]
fn appends_of_two_handles_follow_each_other() {
    scenario().mounted(|endpoint, mount| {
        let path = mount.join("log");
        let open = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let (mut one, mut two) = (open(), open());
        for round in 0..10 {
            writeln!(one, "one {round}").unwrap();
            writeln!(two, "two {round}").unwrap();
        }
        one.sync_all().unwrap();
        two.sync_all().unwrap();
        drop((one, two));
        let expected: String = (0..10).map(|round| format!("one {round}\ntwo {round}\n")).collect();
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(String::from_utf8(endpoint.content("log")).unwrap(), expected);
    });
}

#[test]
fn a_hole_reads_as_zeros() {
    scenario().mounted(|endpoint, mount| {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(mount.join("sparse")).unwrap();
        file.write_all_at(b"end", 9_000_000).unwrap();
        file.write_all_at(b"middle", 4_000_000).unwrap();
        let mut expected = vec![0; 9_000_003];
        expected[4_000_000..4_000_006].copy_from_slice(b"middle");
        expected[9_000_000..].copy_from_slice(b"end");
        let mut seen = vec![1; 9_000_003];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == expected, "before the commit");
        file.sync_all().unwrap();
        assert!(endpoint.content("sparse") == expected, "in the store");
    });
}

#[test]
fn truncation_cuts_and_extends() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"0123456789");
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.set_len(4).unwrap();
        file.set_len(8).unwrap();
        file.sync_all().unwrap();
        assert_eq!(endpoint.content("file"), b"0123\0\0\0\0");
        drop(file);
        File::create(&path).unwrap().sync_all().unwrap();
        assert_eq!(endpoint.content("file"), b"");
        endpoint.put("other", b"0123456789");
        let status = Command::new("truncate").args(["-s", "3"]).arg(mount.join("other")).status().unwrap();
        assert!(status.success(), "truncate(2) by path");
        assert_eq!(endpoint.content("other"), b"012");
        endpoint.assert_dsse("other");
    });
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    scenario().mounted(|endpoint, mount| {
        let path = mount.join("file");
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(b"content").unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!path.exists());
        file.write_all(b" and more").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content and more");
        drop(file);
        assert_eq!(endpoint.keys(), Vec::<String>::new());
    });
}

#[test]
fn rename_moves_content_and_encryption_and_replaces_its_target() {
    scenario().mounted(|endpoint, mount| {
        fs::create_dir(mount.join("d")).unwrap();
        commit(&mount.join("old"), &noise(1, 100_000)).unwrap();
        commit(&mount.join("d/new"), b"to be replaced").unwrap();
        fs::rename(mount.join("old"), mount.join("d/new")).unwrap();
        assert_eq!(endpoint.keys(), ["d/", "d/new"]);
        assert!(fs::read(mount.join("d/new")).unwrap() == noise(1, 100_000));
        endpoint.assert_dsse("d/new");
    });
}

/// The library that speaks the kernel's protocol has no such call, and a name for the file would need link(2).
#[test]
fn a_file_without_a_name_is_refused_at_once() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        for _ in 0..2 {
            let unnamed = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(mount.path());
            assert_eq!(errno(unnamed), libc::EOPNOTSUPP);
        }
        tempfile::tempfile_in(mount.path()).unwrap().write_all(b"by a name that is removed").unwrap();
        assert_eq!(endpoint.keys(), [""; 0]);
        assert!(mount.end().success());
    });
}

#[test]
fn a_file_that_is_open_for_writing_can_be_renamed() {
    scenario().mounted(|endpoint, mount| {
        let mut file = File::create(mount.join("part")).unwrap();
        file.write_all(b"first ").unwrap();
        fs::rename(mount.join("part"), mount.join("whole")).unwrap();
        file.write_all(b"second").unwrap();
        file.sync_all().unwrap();
        drop(file);
        assert_eq!(endpoint.keys(), ["whole"]);
        assert_eq!(endpoint.content("whole"), b"first second");
    });
}

#[test]
fn what_is_left_for_later_is_an_error_and_not_a_pretence() {
    scenario().mounted(|endpoint, mount| {
        fs::create_dir(mount.join("d")).unwrap();
        commit(&mount.join("d/file"), b"content").unwrap();
        assert_eq!(errno(fs::hard_link(mount.join("d/file"), mount.join("link"))), libc::EPERM);
        assert_eq!(endpoint.keys(), ["d/", "d/file"]);
    });
}

#[test]
fn directories_are_made_and_removed_when_empty() {
    scenario().mounted(|endpoint, mount| {
        fs::create_dir(mount.join("d")).unwrap();
        assert_eq!(errno(fs::create_dir(mount.join("d"))), libc::EEXIST);
        commit(&mount.join("d/file"), b"content").unwrap();
        assert_eq!(errno(fs::remove_dir(mount.join("d"))), libc::ENOTEMPTY);
        assert_eq!(errno(fs::remove_file(mount.join("d"))), libc::EISDIR);
        assert_eq!(errno(fs::remove_dir(mount.join("d/file"))), libc::ENOTDIR);
        fs::remove_file(mount.join("d/file")).unwrap();
        assert!(mount.join("d").is_dir(), "the directory stays when its last file goes");
        fs::remove_dir(mount.join("d")).unwrap();
        assert_eq!(endpoint.keys(), Vec::<String>::new());
    });
}

#[test]
fn exclusive_creation_and_missing_files_answer_as_everywhere() {
    scenario().mounted(|_endpoint, mount| {
        commit(&mount.join("file"), b"content").unwrap();
        assert_eq!(errno(File::create_new(mount.join("file"))), libc::EEXIST);
        assert_eq!(errno(File::open(mount.join("none"))), libc::ENOENT);
        assert_eq!(errno(fs::remove_file(mount.join("none"))), libc::ENOENT);
        assert_eq!(errno(fs::rename(mount.join("none"), mount.join("some"))), libc::ENOENT);
        assert_eq!(errno(File::open(mount.join("file/x"))), libc::ENOTDIR);
        assert_eq!(errno(File::create(mount.join("none/x"))), libc::ENOENT);
    });
}

#[test]
fn a_file_changed_by_another_host_is_never_mixed() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", &noise(1, 40 << 20));
        let mount = Mount::of(&endpoint);
        let file = File::open(mount.join("file")).unwrap();
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 0).unwrap();
        endpoint.put("file", &noise(2, 40 << 20));
        assert_eq!(errno(file.read_exact_at(&mut bytes, 35 << 20)), libc::ESTALE);
    });
}

#[test]
fn a_read_only_mount_refuses_every_change_and_probes_nothing() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"content");
        let (mount, counters) = endpoint.counted(|| Mount::with(&endpoint, &["--read-only"]));
        assert_eq!(counters.requests("CreateMultipartUpload"), 0);
        let path = mount.join("file");
        assert_eq!(fs::read(&path).unwrap(), b"content");
        for error in [
            errno(File::create(mount.join("new"))),
            errno(OpenOptions::new().write(true).open(&path)),
            errno(fs::remove_file(&path)),
            errno(fs::create_dir(mount.join("d"))),
            errno(fs::rename(&path, mount.join("other"))),
            errno(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))),
        ] {
            assert_eq!(error, libc::EROFS);
        }
        assert_eq!(endpoint.keys(), ["file"]);
    });
}

#[test]
fn statfs_answers_and_names_the_file_system() {
    scenario().mounted(|_endpoint, mount| {
        let output = Command::new("df").arg("--output=fstype,target").arg(mount.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("fuse"), "{said}");
    });
}

/// Any sequence of writes, truncations, reads, commits and re-openings is what the same sequence is on a vector of
/// bytes.
#[test]
fn a_random_program_cannot_tell_the_mount_from_a_vector() {
    const SIZE_MAX: u64 = 3 << 20;
    deadline(MINUTE * 3, || {
        let mut dice = Dice(seed());
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--memory", "32MiB"]);
        let path = mount.join("file");
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let (mut file, mut model) = (open(), Vec::<u8>::new());
        for step in 0..300 {
            let offset = dice.below(SIZE_MAX) as usize;
            match dice.below(10) {
                0..5 => {
                    let bytes = noise(step, dice.below(200_000) as usize);
                    file.write_all_at(&bytes, offset as u64).unwrap();
                    if !bytes.is_empty() {
                        model.resize(model.len().max(offset + bytes.len()), 0);
                        model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                    }
                }
                5 => {
                    file.set_len(offset as u64).unwrap();
                    model.resize(offset, 0);
                }
                6..8 => {
                    let mut seen = vec![0; 100_000];
                    let read = file.read_at(&mut seen, offset as u64).unwrap();
                    let expected = &model[offset.min(model.len())..(offset + 100_000).min(model.len())];
                    assert!(
                        seen[..read] == expected[..read] && (read > 0 || expected.is_empty()),
                        "step {step} at {offset}"
                    );
                }
                8 => file.sync_all().unwrap(),
                _ => {
                    drop(file);
                    file = open();
                }
            }
            assert_eq!(file.metadata().unwrap().len(), model.len() as u64, "step {step}");
        }
        file.sync_all().unwrap();
        assert!(fs::read(&path).unwrap() == model, "through the mount");
        assert!(endpoint.content("file") == model, "in the store");
        endpoint.assert_dsse("file");
        assert_eq!(endpoint.uploads(), 0);
        assert_eq!(names(&mount.path()), ["file"]);
    });
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}
