//! Symbolic links, fifos, sockets and devices.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use aws_sdk_s3::types::{ChecksumMode, ServerSideEncryption};
use dssefs_emulator::Counters;
use dssefs_emulator::faults::Fault;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};

use crate::common::{BUCKET, Endpoint, MINUTE, Mount, STALE, commit, errno, scenario};

const PATIENT: [&str; 2] = ["--metadata-ttl", "1h"];

/// Puts an object with user metadata as another program would, under the mount's key.
fn put_with(endpoint: &Endpoint, key: &str, content: &[u8], metadata: &[(&str, &str)]) {
    let (key_arn, body) = (endpoint.key_arn().to_owned(), content.to_vec().into());
    endpoint.with(|s3| async move {
        let mut put = s3.put_object().bucket(BUCKET).key(key).body(body).ssekms_key_id(key_arn);
        for (name, value) in metadata {
            put = put.metadata(*name, *value);
        }
        put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).send().await.unwrap();
    });
}

fn metadata(endpoint: &Endpoint, key: &str, name: &str) -> Option<String> {
    endpoint.head(key).unwrap().metadata().unwrap().get(name).cloned()
}

fn requests(counters: &Counters) -> Vec<(&str, u64)> {
    let asked = counters.s3.iter().map(|(name, count)| (name.as_str(), count.requests));
    asked.filter(|(_, requests)| *requests > 0).collect()
}

/// What readdir(3) says without a stat(2) of any: each name with a letter of its kind.
fn kinds(dir: &Path) -> Vec<String> {
    let letter = |kind: fs::FileType| match kind {
        kind if kind.is_symlink() => 'l',
        kind if kind.is_fifo() => 'p',
        kind if kind.is_socket() => 's',
        kind if kind.is_dir() => 'd',
        _ => 'f',
    };
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut kinds: Vec<_> =
        entries.map(|e| format!("{}{}", letter(e.file_type().unwrap()), e.file_name().display())).collect();
    kinds.sort();
    kinds
}

fn mkfifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
}

#[test]
fn a_symlink_is_one_put_in_the_form_of_s3fs() {
    scenario().options(&PATIENT).mounted(|endpoint, mount| {
        commit(&mount.join("file"), b"content").unwrap();
        assert_eq!(kinds(&mount.path()), ["ffile"]);
        let link = mount.join("link");
        let ((), counters) = endpoint.counted(|| symlink("file", &link).unwrap());
        assert_eq!((requests(&counters), counters.all_kms_for_s3()), (vec![("PutObject", 1)], 1));
        endpoint.assert_dsse("link");
        assert_eq!(endpoint.content("link"), b"file");
        assert_eq!(metadata(&endpoint, "link", "mode").as_deref(), Some("41471"));
        let (target, counters) = endpoint.counted(|| fs::read_link(&link).unwrap());
        assert_eq!((target.as_path(), requests(&counters)), (Path::new("file"), vec![]));
        let lstat = fs::symlink_metadata(&link).unwrap();
        assert_eq!((lstat.is_symlink(), lstat.len(), lstat.mode() & 0o7777), (true, 4, 0o777));
        assert_eq!(fs::read(&link).unwrap(), b"content");
    });
}

#[test]
fn symlinks_of_s3fs_and_geesefs_are_read_and_their_targets_once() {
    scenario().unmounted(|endpoint| {
        put_with(&endpoint, "of-s3fs", b"to/a file", &[("mode", "41471"), ("mtime", "5.25")]);
        put_with(&endpoint, "of-geesefs", b"", &[("--symlink-target", "to%2Fa%20file")]);
        let mount = Mount::with(&endpoint, &PATIENT);
        for name in ["of-s3fs", "of-geesefs"] {
            let lstat = fs::symlink_metadata(mount.join(name)).unwrap();
            assert!(lstat.is_symlink() && lstat.len() == 9, "{name}: {lstat:?}");
        }
        let read = |name| fs::read_link(mount.join(name)).unwrap().display().to_string();
        let (target, counters) = endpoint.counted(|| read("of-s3fs"));
        assert_eq!((target.as_str(), requests(&counters)), ("to/a file", vec![("GetObject", 1)]));
        let (targets, counters) = endpoint.counted(|| [read("of-s3fs"), read("of-geesefs")]);
        assert_eq!((targets, requests(&counters)), (["to/a file"; 2].map(str::to_owned), vec![]));
    });
}

#[test]
fn a_fresh_mount_lists_kinds_with_one_head_for_each_special_file_and_none_for_others() {
    scenario().unmounted(|endpoint| {
        {
            let mount = Mount::of(&endpoint);
            for dir in ["mixed", "plain"] {
                fs::create_dir(mount.join(dir)).unwrap();
                for name in ["a", "b", "empty"] {
                    commit(&mount.join(dir).join(name), if name == "empty" { b"" } else { b"content" }).unwrap();
                }
            }
            symlink("a", mount.join("mixed/link")).unwrap();
            mkfifo(&mount.join("mixed/pipe"));
            drop(UnixListener::bind(mount.join("mixed/socket")).unwrap());
        }
        for options in [PATIENT.as_slice(), &["--metadata-ttl", "1h", "--attributes", "listing"]] {
            let mount = Mount::with(&endpoint, options);
            assert_eq!(kinds(&mount.path()), ["dmixed", "dplain"]);
            for dir in ["mixed", "plain"] {
                fs::metadata(mount.join(dir)).unwrap();
            }
            let (seen, counters) = endpoint.counted(|| kinds(&mount.join("plain")));
            assert_eq!((seen.len(), requests(&counters)), (3, vec![("ListObjectsV2", 1)]));
            let (seen, counters) = endpoint.counted(|| kinds(&mount.join("mixed")));
            assert_eq!(seen, ["fa", "fb", "fempty", "llink", "ppipe", "ssocket"]);
            assert_eq!(requests(&counters), [("HeadObject", 3), ("ListObjectsV2", 1)]);
            assert_eq!(counters.all_kms_for_s3(), 0);
            let (again, counters) = endpoint.counted(|| kinds(&mount.join("mixed")));
            assert_eq!((again, requests(&counters)), (seen, vec![]));
            assert!(fs::symlink_metadata(mount.join("mixed/link")).unwrap().is_symlink());
        }
    });
}

/// A listing has no modes, so readdir(3) called the links of other programs files after each remount, and `find -type
/// l`, os.walk and `ls -F` were wrong.
#[test]
fn readdir_names_the_right_kind_of_what_others_have_stored() {
    scenario().unmounted(|endpoint| {
        put_with(&endpoint, "d/a-link", b"target", &[("mode", "41471")]);
        put_with(&endpoint, "d/b-link-of-geesefs", b"", &[("--symlink-target", "target")]);
        put_with(&endpoint, "d/c-link-of-fsx", b"target", &[("file-permissions", "0120777")]);
        put_with(&endpoint, "d/d-fifo", b"", &[("mode", "4516")]);
        put_with(&endpoint, "d/e-small", b"content", &[]);
        put_with(&endpoint, "d/f-longest", &[b't'; 4095], &[("mode", "41471")]);
        put_with(&endpoint, "d/g-long", &[b't'; 4096], &[]);
        let right = ["fe-small", "fg-long", "la-link", "lb-link-of-geesefs", "lc-link-of-fsx", "lf-longest", "pd-fifo"];
        let mount = Mount::of(&endpoint);
        fs::metadata(mount.join("d")).unwrap();
        let (seen, counters) = endpoint.counted(|| kinds(&mount.join("d")));
        assert_eq!(seen, right);
        // One HEAD for each of the six that may be links; the long one is asked for with its neighbours, or not.
        assert_eq!(counters.operation("ListObjectsV2").requests, 1);
        assert!([6, 7].contains(&counters.operation("HeadObject").requests), "{:?}", requests(&counters));
        assert_eq!(counters.all_kms_for_s3(), 0);
        std::thread::sleep(STALE);
        let (seen, counters) = endpoint.counted(|| kinds(&mount.join("d")));
        assert_eq!(seen, right);
        assert_eq!(requests(&counters), [("ListObjectsV2", 2)], "the look-up of the name, and the listing");
    });
}

/// readdir(3) and stat(2) agree there, too.
#[test]
fn with_attributes_from_listings_what_others_have_stored_is_a_file_and_never_asked_for() {
    scenario().unmounted(|endpoint| {
        put_with(&endpoint, "d/a-link", b"target", &[("mode", "41471")]);
        put_with(&endpoint, "d/e-small", b"content", &[]);
        let mount = Mount::with(&endpoint, &["--attributes", "listing"]);
        fs::metadata(mount.join("d")).unwrap();
        let look = || {
            let stat = |entry: &String| fs::symlink_metadata(mount.join("d").join(&entry[1..])).unwrap().is_file();
            let seen = kinds(&mount.join("d"));
            assert!(seen.iter().all(stat));
            seen
        };
        let (seen, counters) = endpoint.counted(look);
        assert_eq!(
            (seen, requests(&counters)),
            (vec!["fa-link".into(), "fe-small".into()], vec![("ListObjectsV2", 1)])
        );
    });
}

/// The types as the kernel has them from the mount: a program asks for an unknown one, and this does not.
fn types(dir: &Path) -> Vec<(String, FileType)> {
    let mut entries = rustix::fs::Dir::new(File::open(dir).unwrap()).unwrap();
    let mut types = Vec::new();
    while let Some(entry) = entries.read() {
        let entry = entry.unwrap();
        types.push((entry.file_name().to_str().unwrap().to_owned(), entry.file_type()));
    }
    types.retain(|(name, _)| name != "." && name != "..");
    types
}

#[test]
fn a_plain_ls_of_a_thousand_files_of_others_is_one_listing_and_asks_for_no_type() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        for n in 0..998 {
            endpoint.put(&format!("d/{n:03}-short"), b"content");
        }
        put_with(&endpoint, "d/link", b"000-short", &[("mode", "41471")]);
        endpoint.put("d/long", &[b'x'; 4096]);
        let mount = Mount::of(&endpoint);
        fs::metadata(mount.join("d")).unwrap();
        let (seen, counters) = endpoint.counted(|| types(&mount.join("d")));
        assert_eq!(requests(&counters), [("ListObjectsV2", 1)]);
        let unknown = seen.iter().filter(|(_, kind)| *kind == FileType::Unknown).count();
        assert_eq!((seen.len(), unknown), (1000, 999), "what cannot be a link is a file");
        assert_eq!(seen.last().unwrap(), &("long".to_owned(), FileType::RegularFile));
        assert!(seen.is_sorted_by_key(|(name, _)| name.clone()), "each of them once, over many answers");
        // Programs that need the type ask.
        assert_eq!(fs::read_link(mount.join("d/link")).unwrap().to_str(), Some("000-short"));
        assert!(types(&mount.join("d")).contains(&("link".to_owned(), FileType::Symlink)));
        let found = Command::new("find").arg(mount.path()).args(["-type", "l"]).output().unwrap();
        assert_eq!(String::from_utf8(found.stdout).unwrap(), format!("{}\n", mount.join("d/link").display()));
        assert!(!mount.log().contains("Failed to send"), "{}", mount.log());
    });
}

#[test]
fn readdir_of_files_of_this_mount_is_one_listing_for_each_thousand() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        let lengths = [0, 1, 4095, 4096, 100_000];
        {
            let mount = Mount::of(&endpoint);
            fs::create_dir(mount.join("d")).unwrap();
            for length in lengths {
                commit(&mount.join(&format!("d/{length}")), &vec![7; length]).unwrap();
            }
            for (name, length) in [("changed", 3), ("moved", 4), ("appended", 5)] {
                commit(&mount.join("d").join(name), &vec![7; length]).unwrap();
            }
            fs::set_permissions(mount.join("d/changed"), PermissionsExt::from_mode(0o600)).unwrap();
            fs::rename(mount.join("d/moved"), mount.join("d/elsewhere")).unwrap();
            File::options().append(true).open(mount.join("d/appended")).unwrap().write_all(b"more").unwrap();
            fs::copy(mount.join("d/changed"), mount.join("d/copied")).unwrap();
            mknodat(CWD, mount.join("d/made"), FileType::RegularFile, Mode::from_raw_mode(0o600), 0).unwrap();
            assert!(mount.end().success());
        }
        for key in ["d/0", "d/4095", "d/4096"] {
            let marked = endpoint.with(|s3| async move {
                let head = s3.head_object().bucket(BUCKET).key(key).checksum_mode(ChecksumMode::Enabled);
                head.send().await.unwrap().checksum_crc32_c().is_some()
            });
            assert_eq!(marked, key != "d/4096", "{key}");
        }
        let mount = Mount::of(&endpoint);
        fs::metadata(mount.join("d")).unwrap();
        let (seen, counters) = endpoint.counted(|| kinds(&mount.join("d")));
        assert_eq!((seen.len(), seen.iter().all(|name| name.starts_with('f'))), (10, true), "{seen:?}");
        assert_eq!(requests(&counters), [("ListObjectsV2", 1)]);
        assert_eq!(fs::read(mount.join("d/4095")).unwrap(), [7; 4095]);
    });
}

#[test]
fn links_are_links_in_every_way_to_look_at_them() {
    scenario().unmounted(|endpoint| {
        symlink("file", Mount::of(&endpoint).join("link")).unwrap();
        for options in [["--attributes", "full"], ["--attributes", "listing"]] {
            for ask_first in [true, false] {
                let mount = Mount::with(&endpoint, &options);
                // Some questions, after which a mount lists the directory instead.
                for number in 0..if ask_first { 1 } else { 4 } {
                    assert!(fs::symlink_metadata(mount.join(&format!("absent{number}"))).is_err());
                }
                assert!(fs::symlink_metadata(mount.join("link")).unwrap().is_symlink(), "{options:?} {ask_first}");
                assert_eq!(fs::read_link(mount.join("link")).unwrap(), Path::new("file"));
            }
        }
    });
}

#[test]
fn a_name_that_another_host_has_taken_is_left_to_it() {
    scenario().options(&PATIENT).mounted(|endpoint, mount| {
        assert_eq!(kinds(&mount.path()), [""; 0]);
        endpoint.put("taken", b"by another");
        assert_eq!(errno(symlink("x", mount.join("taken"))), libc::EEXIST);
        assert_eq!(endpoint.content("taken"), b"by another");
    });
}

#[test]
fn targets_are_any_bytes_up_to_the_longest_path() {
    scenario().mounted(|endpoint, mount| {
        let longest = "t".repeat(4095);
        for (name, target) in [("odd", OsStr::from_bytes(b"caf\xe9 \n%2F")), ("longest", OsStr::new(&longest))] {
            symlink(target, mount.join(name)).unwrap();
            assert_eq!(fs::read_link(Mount::of(&endpoint).join(name)).unwrap(), Path::new(target));
        }
        assert_eq!(errno(symlink("t".repeat(4096), mount.join("longer"))), libc::ENAMETOOLONG);
        put_with(&endpoint, "others", &[b't'; 5000], &[("mode", "41471")]);
        assert_eq!(errno(fs::read_link(mount.join("others"))), libc::ENAMETOOLONG);
    });
}

#[test]
fn a_symlink_is_renamed_given_away_touched_and_removed_as_itself() {
    scenario().options(&PATIENT).mounted(|endpoint, mount| {
        commit(&mount.join("file"), b"content").unwrap();
        symlink("file", mount.join("one")).unwrap();
        fs::rename(mount.join("one"), mount.join("two")).unwrap();
        let link = mount.join("two");
        let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
        utimensat(CWD, &link, &Timestamps { last_access: time, last_modification: time }, AtFlags::SYMLINK_NOFOLLOW)
            .unwrap();
        lchown(&link, None, Some(4711)).unwrap();
        let lstat = fs::symlink_metadata(&link).unwrap();
        assert_eq!((lstat.gid(), lstat.mtime(), lstat.mtime_nsec()), (4711, 1_000_000_000, 123_456_789));
        let (target, counters) = endpoint.counted(|| fs::read_link(&link).unwrap());
        assert_eq!((target.as_path(), requests(&counters)), (Path::new("file"), vec![]), "it was known before");
        endpoint.assert_dsse("two");
        assert_eq!(kinds(&Mount::of(&endpoint).path()), ["ffile", "ltwo"], "copies are told by a listing too");
        fs::rename(mount.join("file"), &link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_file(), "what replaces a link is itself");
        symlink("nowhere", mount.join("three")).unwrap();
        fs::remove_file(mount.join("three")).unwrap();
        assert_eq!(endpoint.keys(), ["two"]);
        assert_eq!(endpoint.content("two"), b"content");
    });
}

#[test]
fn a_fifo_connects_two_processes() {
    scenario().mounted(|endpoint, mount| {
        let path = mount.join("pipe");
        mkfifo(&path);
        let mut writer = Command::new("sh").args(["-c", "echo through >\"$0\""]).arg(&path).spawn().unwrap();
        let mut said = String::new();
        File::open(&path).unwrap().read_to_string(&mut said).unwrap();
        assert!(writer.wait().unwrap().success());
        assert_eq!(said, "through\n");
        assert_eq!(metadata(&endpoint, "pipe", "mode").as_deref(), Some((0o010_640).to_string().as_str()));
        assert_eq!(endpoint.content("pipe"), b"");
        endpoint.assert_dsse("pipe");
        assert!(fs::symlink_metadata(Mount::of(&endpoint).join("pipe")).unwrap().file_type().is_fifo());
        assert_eq!(errno(UnixListener::bind(&path)), libc::EADDRINUSE);
    });
}

#[test]
fn a_socket_is_bound_and_connected_to() {
    scenario().mounted(|endpoint, mount| {
        let path = mount.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        drop(client);
        let mut said = String::new();
        listener.accept().unwrap().0.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello");
        assert!(fs::symlink_metadata(Mount::of(&endpoint).join("socket")).unwrap().file_type().is_socket());
        endpoint.assert_dsse("socket");
        fs::remove_file(&path).unwrap();
        assert_eq!(endpoint.keys(), [""; 0]);
    });
}

#[test]
fn a_device_is_kept_and_cannot_be_used() {
    scenario().mounted(|endpoint, mount| {
        let path = mount.join("null");
        let made = mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3));
        if !rustix::process::geteuid().is_root() {
            assert_eq!(made, Err(rustix::io::Errno::PERM));
            return;
        }
        made.unwrap();
        assert_eq!(metadata(&endpoint, "null", "rdev").as_deref(), Some("259"), "1 << 8 | 3");
        let stat = fs::symlink_metadata(Mount::of(&endpoint).join("null")).unwrap();
        assert!(stat.file_type().is_char_device());
        assert_eq!(stat.rdev(), makedev(1, 3));
        assert_eq!(errno(File::open(&path)), libc::EACCES, "the mount is nodev");
    });
}

#[test]
fn regular_files_are_made_by_mknod_too() {
    scenario().mounted(|endpoint, mount| {
        mknodat(CWD, mount.join("file"), FileType::RegularFile, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(fs::symlink_metadata(mount.join("file")).unwrap().is_file());
        endpoint.assert_dsse("file");
    });
}

#[test]
fn a_link_that_the_store_does_not_encrypt_is_refused_and_taken_away() {
    scenario().mounted(|endpoint, mount| {
        endpoint.inject_fault("PutObject", Fault::Sse { algorithm: None, key: None, bucket_key: None });
        assert_eq!(errno(symlink("file", mount.join("link"))), libc::EKEYREJECTED);
        assert_eq!(endpoint.keys(), [""; 0]);
        endpoint.clear_faults();
        symlink("file", mount.join("link")).unwrap();
    });
}

#[test]
fn a_link_is_not_lost_with_the_answer_to_it() {
    scenario().mounted(|endpoint, mount| {
        endpoint.inject_fault("PutObject", Fault::LoseAnswer);
        symlink("file", mount.join("link")).unwrap();
        assert_eq!(fs::read_link(mount.join("link")).unwrap(), Path::new("file"));
    });
}

#[test]
fn a_mount_can_refuse_to_follow_what_is_not_dsse() {
    scenario().unmounted(|endpoint| {
        endpoint.with(|s3| async move {
            let put = s3.put_object().bucket(BUCKET).key("link").body(b"anywhere".to_vec().into());
            put.metadata("mode", "41471").send().await.unwrap();
        });
        let mount = Mount::with(&endpoint, &["--on-noncompliant-read", "refuse"]);
        assert!(fs::symlink_metadata(mount.join("link")).unwrap().is_symlink());
        assert_eq!(errno(fs::read_link(mount.join("link"))), libc::EKEYREJECTED);
    });
}
