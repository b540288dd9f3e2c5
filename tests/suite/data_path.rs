//! Sequences on the data path that once lost, mixed or published bytes. Each test tells its incident.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;

use aws_sdk_s3::types::{BucketVersioningStatus, ServerSideEncryption, VersioningConfiguration};
use dssefs_emulator::faults::Rule;
use rustix::fs::{Advice, fadvise};

use crate::common::{
    BUCKET, Endpoint, MINUTE, Mount, STALE, attribute, commit, cp, denied, errno, eventually, names, noise, scenario,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// So little that a writer's parts leave the host one at a time, and are given up as soon as the store has them.
const TIGHT: [&str; 2] = ["--memory", "32MiB"];

fn read_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

fn permissions(mode: u32) -> fs::Permissions {
    fs::Permissions::from_mode(mode)
}

/// The mode that the object's metadata tells, with its type bits.
fn stored_mode(endpoint: &Endpoint, key: &str) -> Option<u32> {
    endpoint.head(key)?.metadata()?.get("mode")?.parse().ok()
}

fn verdict(path: &Path) -> String {
    attribute(path, "user.dsse.verdict").unwrap()
}

/// What a Python script prints: it maps files and tells the error of close(2), which safe Rust cannot.
fn python(script: &str, paths: &[&Path]) -> String {
    let output = Command::new("python3").arg("-c").arg(script).args(paths).output().expect("python3 is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Compares ranges of what the daemon, and not the kernel's page cache, says that the file is.
fn assert_reads(file: &File, model: &[u8], offsets: &[usize]) {
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
    for &offset in offsets {
        let mut seen = vec![0; 64 * KIB];
        file.read_exact_at(&mut seen, offset as u64).unwrap_or_else(|error| panic!("at {offset}: {error}"));
        assert!(seen == model[offset..offset + 64 * KIB], "the bytes at {offset}");
    }
}

/// Writes 40 MiB, lets `change` come when the store has the first part, writes 48 MiB more, reads back and closes.
/// With 32 MiB of memory (half of it is for writers) the first part has left the host by then; with 94 MiB it might do
/// so afterwards.
fn change_of_a_sent_part_keeps_every_byte(change: fn(&File, &mut Vec<u8>)) {
    for memory in ["32MiB", "94MiB"] {
        scenario().within(MINUTE * 3).unmounted(move |endpoint| {
            let mount = Mount::with(&endpoint, &["--memory", memory]);
            let mut file = read_write().create_new(true).open(mount.join("file")).unwrap();
            let mut model = noise(1, 40 * MIB);
            file.write_all(&model).unwrap();
            // Parts go one at a time here, so the second one tells that the first has arrived.
            eventually("a second part", MINUTE, || endpoint.counters().requests("UploadPart") >= 2);
            change(&file, &mut model);
            assert_eq!(model.len(), 40 * MIB);
            let rest = noise(2, 48 * MIB);
            file.write_all(&rest).unwrap();
            model.extend(rest);
            assert_reads(&file, &model, &[0, 64 * KIB, 16 * MIB, 39 * MIB, 87 * MIB]);
            file.sync_all().unwrap();
            drop(file);
            assert!(endpoint.content("file") == model, "the content in the store, with {memory}");
            assert_eq!(endpoint.uploads(), 0);
            endpoint.assert_dsse("file");
        });
    }
}

/// A header was rewritten after its part had been sent. The part was forgotten, the local copy of its other bytes was
/// given up under memory pressure, and the commit stored zeros in their place.
#[test]
fn a_header_rewritten_after_its_part_was_sent_keeps_the_rest_of_the_part() {
    change_of_a_sent_part_keeps_every_byte(|file, model| {
        model[..64 * KIB].copy_from_slice(&noise(3, 64 * KIB));
        file.write_all_at(&model[..64 * KIB], 0).unwrap();
    });
}

/// The same loss through ftruncate(2): the cut went through a part that only the store had.
#[test]
fn a_file_cut_within_a_sent_part_and_regrown_keeps_what_lies_before_the_cut() {
    change_of_a_sent_part_keeps_every_byte(|file, model| {
        let cut = 10 * MIB + 5;
        file.set_len(cut as u64).unwrap();
        file.set_len(model.len() as u64).unwrap();
        model[cut..].fill(0);
    });
}

/// Pages that the kernel wrote back through a handle opened with O_APPEND were added to the end of the file.
#[test]
fn a_mapping_of_an_append_handle_is_written_back_to_its_place() {
    const SCRIPT: &str = "
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND)
with mmap.mmap(file, 8192) as pages:
    pages[4:8] = b'ZZZZ'
    pages.flush()
os.write(file, b'appended')
os.close(file)
";
    scenario().mounted(|endpoint, mount| {
        let mut expected = noise(1, 8192);
        commit(&mount.join("file"), &expected).unwrap();
        python(SCRIPT, &[&mount.join("file")]);
        expected[4..8].copy_from_slice(b"ZZZZ");
        expected.extend(b"appended");
        assert!(endpoint.content("file") == expected, "the content in the store");
        assert_eq!(fs::metadata(mount.join("file")).unwrap().len(), 8200);
    });
}

/// The name of a file with changes was deleted by another host, and fsync(2) answered 0 although nothing was stored.
#[test]
fn fsync_of_a_file_that_another_host_deleted_is_never_a_success() {
    scenario().unmounted(|endpoint| {
        let cases = [("unnoticed", false), ("noticed", true)];
        cases.iter().for_each(|(name, _)| endpoint.put(name, &noise(1, 300)));
        let mount = Mount::of(&endpoint);
        for (name, noticed) in cases {
            let file = read_write().open(mount.join(name)).unwrap();
            file.write_all_at(b"changed", 0).unwrap();
            endpoint.delete(name);
            if noticed {
                sleep(STALE);
                // Either answer will do: it is the asking that once made the mount drop the name.
                let _ = fs::metadata(mount.join(name));
                names(&mount.path());
            }
            assert_eq!(errno(file.sync_all()), libc::ESTALE, "{name}");
            assert_eq!(errno(file.sync_all()), libc::ESTALE, "{name}, again");
            drop(file);
            assert!(endpoint.head(name).is_none(), "{name}");
        }
    });
}

/// Commits went unconditionally to the key: what another host had stored there meanwhile was overwritten and no program
/// was told.
#[test]
fn what_another_host_stored_meanwhile_is_not_replaced_unseen() {
    scenario().unmounted(|endpoint| {
        let cases = [("patched", false), ("rewritten", true)];
        cases.iter().for_each(|(name, _)| endpoint.put(name, b"as it was opened"));
        let mount = Mount::of(&endpoint);
        for (name, rewritten) in cases {
            let file = read_write().truncate(rewritten).open(mount.join(name)).unwrap();
            file.write_all_at(b"ours", 0).unwrap();
            endpoint.put(name, b"by the other host");
            assert_eq!(errno(file.sync_all()), libc::ESTALE, "{name}");
            assert_eq!(errno(file.sync_all()), libc::ESTALE, "{name}, again");
            drop(file);
            assert_eq!(endpoint.content(name), b"by the other host", "{name}");
        }
    });
}

/// The counterpart: who asks for the old way gets it.
#[test]
fn the_last_writer_wins_where_that_is_asked_for() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"as it was opened");
        let mount = Mount::with(&endpoint, &["--last-writer-wins"]);
        let mut file = File::create(mount.join("file")).unwrap();
        file.write_all(b"ours").unwrap();
        endpoint.put("file", b"by the other host");
        file.sync_all().unwrap();
        assert_eq!(endpoint.content("file"), b"ours");
        endpoint.assert_dsse("file");
    });
}

/// An object was deleted by another host while a program read it: from then on read(2) answered 0 bytes, which is the
/// end of a file.
#[test]
fn an_object_deleted_while_it_is_read_is_never_a_short_file() {
    scenario().unmounted(|endpoint| {
        let content = noise(1, 40 * MIB);
        endpoint.put("file", &content);
        let mount = Mount::of(&endpoint);
        let file = File::open(mount.join("file")).unwrap();
        let mut seen = vec![0; 4 * KIB];
        file.read_exact_at(&mut seen, 0).unwrap();
        endpoint.delete("file");
        sleep(STALE);
        assert_eq!(errno(fs::metadata(mount.join("file"))), libc::ENOENT);
        match file.read_at(&mut seen, 35 << 20) {
            Ok(length) => assert!(length > 0 && seen[..length] == content[35 * MIB..35 * MIB + length], "{length}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
        }
    });
}

/// In a versioned bucket, reads of a file that this mount had unlinked answered 0 bytes, although the version is still
/// there.
#[test]
fn a_file_unlinked_in_a_versioned_bucket_stays_readable_and_writable_for_who_has_it_open() {
    scenario().unmounted(|endpoint| {
        let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        endpoint.with(|s3| async move {
            let put = s3.put_bucket_versioning().bucket(BUCKET).versioning_configuration(enabled);
            put.send().await.expect("versioning can be switched on");
        });
        let mut content = noise(1, 40 * MIB);
        endpoint.put("file", &content);
        let mount = Mount::of(&endpoint);
        let file = read_write().open(mount.join("file")).unwrap();
        assert_reads(&file, &content, &[0]);
        fs::remove_file(mount.join("file")).unwrap();
        assert_reads(&file, &content, &[35 * MIB]);
        assert_eq!(file.metadata().unwrap().len(), content.len() as u64);
        content[20 * MIB..20 * MIB + 7].copy_from_slice(b"changed");
        file.write_all_at(b"changed", 20 << 20).unwrap();
        assert_reads(&file, &content, &[20 * MIB, 30 * MIB]);
        drop(file);
        assert!(mount.end().success());
        assert!(endpoint.head("file").is_none(), "it stays deleted");
    });
}

/// A file that had not been stored yet was renamed over another and unlinked; its close then brought the name back.
#[test]
fn a_file_renamed_over_another_and_unlinked_does_not_come_back_when_it_is_closed() {
    scenario().unmounted(|endpoint| {
        endpoint.put("x", b"old secret");
        let mount = Mount::of(&endpoint);
        let mut file = File::create_new(mount.join("x.tmp")).unwrap();
        file.write_all(b"new").unwrap();
        fs::rename(mount.join("x.tmp"), mount.join("x")).unwrap();
        fs::remove_file(mount.join("x")).unwrap();
        drop(file);
        assert_eq!(errno(fs::metadata(mount.join("x"))), libc::ENOENT);
        assert!(mount.end().success(), "there is nothing left to save");
        assert_eq!(endpoint.keys(), Vec::<String>::new());
    });
}

/// The same with a second rename in place of the unlink: the replaced object was back under its name.
#[test]
fn a_file_renamed_over_another_and_away_does_not_bring_the_replaced_one_back() {
    scenario().unmounted(|endpoint| {
        endpoint.put("x", b"old secret");
        let mount = Mount::of(&endpoint);
        let mut file = File::create_new(mount.join("x.tmp")).unwrap();
        file.write_all(b"new").unwrap();
        fs::rename(mount.join("x.tmp"), mount.join("x")).unwrap();
        fs::rename(mount.join("x"), mount.join("y")).unwrap();
        file.write_all(b" and more").unwrap();
        drop(file);
        assert_eq!(names(&mount.path()), ["y"]);
        assert!(mount.end().success());
        assert_eq!(endpoint.keys(), ["y"]);
        assert_eq!(endpoint.content("y"), b"new and more");
        endpoint.assert_dsse("y");
    });
}

/// Two hosts created the same name with O_EXCL, both closed with success, and the content of one was gone.
#[test]
fn of_two_exclusive_creators_on_two_mounts_one_is_told_that_it_lost() {
    const SCRIPT: &str = "
import concurrent.futures, os, sys
def close(file):
    try:
        os.close(file)
        return 0
    except OSError as error:
        return error.errno
files = [os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) for path in sys.argv[1:]]
for number, file in enumerate(files):
    os.write(file, b'creator %d' % number)
with concurrent.futures.ThreadPoolExecutor() as pool:
    print(*pool.map(close, files))
";
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mounts = [Mount::of(&endpoint), Mount::of(&endpoint)];
        let (first_won, second_won) = (format!("0 {}", libc::ESTALE), format!("{} 0", libc::ESTALE));
        let mut lost = [0, 0];
        for round in 0..5 {
            let name = format!("{round}");
            let paths = [mounts[0].join(&name), mounts[1].join(&name)];
            let outcome = python(SCRIPT, &[&paths[0], &paths[1]]);
            assert!([&first_won, &second_won].contains(&&outcome), "round {round}: {outcome}");
            let (winner, loser) = if outcome == first_won { (0, 1) } else { (1, 0) };
            assert_eq!(endpoint.content(&name), format!("creator {winner}").into_bytes(), "round {round}");
            assert_eq!(fs::read_to_string(&paths[loser]).unwrap(), format!("creator {winner}"), "round {round}");
            assert_eq!(verdict(&paths[loser]), "compliant", "round {round}");
            // What lost is named when the mount ends.
            lost[loser] += 1;
            let unsaved = attribute(&mounts[loser].path(), "user.dsse.mount.unsaved").unwrap();
            assert_eq!(unsaved, lost[loser].to_string(), "round {round}");
            endpoint.assert_dsse(&name);
        }
    });
}

/// `--on-noncompliant-read refuse` was asked only of handles that could not write: O_RDWR read what O_RDONLY was
/// refused.
#[test]
fn a_refused_object_is_not_read_through_a_handle_that_may_write_either() {
    scenario().unmounted(|endpoint| {
        endpoint.put_as("plain", b"not under two layers", Some(ServerSideEncryption::Aes256), None);
        let mount = Mount::with(&endpoint, &["--on-noncompliant-read", "refuse"]);
        let path = mount.join("plain");
        assert_eq!(errno(File::open(&path)), libc::EKEYREJECTED);
        assert_eq!(errno(read_write().open(&path)), libc::EKEYREJECTED);
        let mut rewriter = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        rewriter.write_all(b"under two layers").unwrap();
        rewriter.sync_all().unwrap();
        drop(rewriter);
        endpoint.assert_dsse("plain");
        assert_eq!(fs::read(&path).unwrap(), b"under two layers");
    });
}

/// A streamed object's mode is put right by a copy after its upload. When that copy was refused, the finished upload
/// was taken for a lost one: the bytes that only the store had read as zeros. Later, the next fsync(2) succeeded with
/// the mode as it was before.
#[test]
fn a_refused_correction_of_a_streamed_files_mode_loses_nothing() {
    scenario().within(MINUTE * 2).options(&TIGHT).mounted(|endpoint, mount| {
        let mut file = read_write().create_new(true).mode(0o644).open(mount.join("file")).unwrap();
        let content = noise(1, 40 * MIB);
        file.write_all(&content).unwrap();
        eventually("an upload", MINUTE, || endpoint.counters().requests("UploadPart") > 0);
        file.set_permissions(permissions(0o600)).unwrap();
        endpoint.inject_fault("CopyObject", denied());
        assert_eq!(errno(file.sync_all()), libc::EACCES);
        assert_reads(&file, &content, &[0, 16 * MIB, 39 * MIB]);
        file.sync_all().unwrap();
        drop(file);
        assert!(endpoint.content("file") == content, "the content in the store");
        assert_eq!(stored_mode(&endpoint, "file"), Some(0o100_600));
        assert_eq!(fs::metadata(mount.join("file")).unwrap().mode() & 0o7777, 0o600);
        endpoint.assert_dsse("file");
    });
}

/// Any close committed the file: who looked into one that was being written published its half for all hosts to see.
#[test]
fn closing_a_reader_does_not_publish_what_a_writer_is_in_the_middle_of() {
    scenario().mounted(|endpoint, mount| {
        let mut writer = File::create(mount.join("file")).unwrap();
        writer.write_all(b"half").unwrap();
        let (seen, counters) = endpoint.counted(|| {
            let mut seen = String::new();
            File::open(mount.join("file")).unwrap().read_to_string(&mut seen).unwrap();
            seen
        });
        assert_eq!((seen.as_str(), counters.requests("PutObject")), ("half", 0));
        assert!(endpoint.head("file").is_none());
        writer.write_all(b" and half").unwrap();
        writer.sync_all().unwrap();
        assert_eq!(endpoint.content("file"), b"half and half");
    });
}

/// A file whose close had failed waited for the unmount: nobody tried again, while the store had long been well.
#[test]
fn a_close_that_failed_is_made_good_by_the_mount_itself() {
    scenario().within(MINUTE * 3).mounted(|endpoint, mount| {
        endpoint.inject_fault("PutObject", denied());
        assert!(cp(b"content", &mount.join("once")).is_err(), "cp was told of the failure");
        eventually("the object", MINUTE, || endpoint.head("once").is_some());
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        assert!(cp(b"content", &mount.join("for-a-while")).is_err(), "cp was told of the failure");
        assert_eq!(verdict(&mount.join("for-a-while")), "pending");
        endpoint.clear_faults();
        for name in ["once", "for-a-while"] {
            eventually("a compliant file", MINUTE, || verdict(&mount.join(name)) == "compliant");
            assert_eq!(endpoint.content(name), b"content", "{name}");
            endpoint.assert_dsse(name);
        }
    });
}

/// A mapping outlives the descriptor that it was made of. What was written to it after that descriptor's close was
/// not stored before the unmount.
#[test]
fn what_a_mapping_writes_after_the_close_is_stored() {
    const SCRIPT: &str = "
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
file = os.open(sys.argv[1], os.O_RDWR)
pages = libc.mmap(None, 8192, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file, 0)
assert pages != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
os.close(file)
ctypes.memmove(pages, b'ZZZZ', 4)
assert libc.munmap(pages, 8192) == 0, os.strerror(ctypes.get_errno())
";
    scenario().within(MINUTE * 2).mounted(|endpoint, mount| {
        let mut expected = noise(1, 8192);
        commit(&mount.join("file"), &expected).unwrap();
        python(SCRIPT, &[&mount.join("file")]);
        expected[..4].copy_from_slice(b"ZZZZ");
        eventually("what was mapped, in the store", MINUTE, || endpoint.content("file") == expected);
        eventually("a compliant file", MINUTE, || verdict(&mount.join("file")) == "compliant");
        endpoint.assert_dsse("file");
    });
}

/// open(O_TRUNC) stored an empty object at once: two requests for one rewrite, and between them the old content was
/// gone.
#[test]
fn a_rewrite_is_one_put_and_nothing_is_published_before_its_close() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"old content");
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        names(&mount.path());
        fs::metadata(mount.join("file")).unwrap();
        endpoint.reset();
        let mut file = OpenOptions::new().write(true).truncate(true).open(mount.join("file")).unwrap();
        assert_eq!(endpoint.counters().requests("PutObject"), 0);
        assert_eq!(endpoint.content("file"), b"old content");
        file.write_all(b"new content").unwrap();
        drop(file);
        let counters = endpoint.counters();
        assert_eq!((counters.requests("PutObject"), counters.requests("CopyObject")), (1, 0), "{:?}", counters.s3);
        assert_eq!(endpoint.content("file"), b"new content");
        endpoint.assert_dsse("file");
    });
}

/// chmod(2) dropped the sticky bit and its kin without a word.
#[test]
fn chmod_keeps_the_sticky_bit() {
    scenario().mounted(|endpoint, mount| {
        commit(&mount.join("file"), b"content").unwrap();
        fs::set_permissions(mount.join("file"), permissions(0o1755)).unwrap();
        assert_eq!(fs::metadata(mount.join("file")).unwrap().mode() & 0o7777, 0o1755);
        assert_eq!(stored_mode(&endpoint, "file"), Some(0o101_755));
        endpoint.assert_dsse("file");
    });
}

/// Shells and dd(1) close a copy of their descriptor before the first write, which stores an empty object. A file that
/// had an object was never streamed, so that the whole of it waited on this host for the close.
#[test]
fn a_stream_whose_descriptor_was_copied_first_is_uploaded_while_it_is_written() {
    scenario().within(MINUTE * 2).mounted(|endpoint, mount| {
        // The mount has begun an upload of its own, to see that the store does as it is asked.
        endpoint.reset();
        let mut file = File::create(mount.join("stream")).unwrap();
        drop(file.try_clone().unwrap());
        let content = noise(1, 64 * MIB);
        content.chunks(MIB).for_each(|chunk| file.write_all(chunk).unwrap());
        eventually("an uploaded part", MINUTE, || endpoint.counters().requests("UploadPart") > 0);
        assert_eq!(endpoint.counters().requests("CompleteMultipartUpload"), 0);
        file.sync_all().unwrap();
        drop(file);
        assert_eq!(endpoint.counters().requests("CreateMultipartUpload"), 1, "what was sent ahead is what is stored");
        assert!(endpoint.content("stream") == content, "the content in the store");
        endpoint.assert_dsse("stream");
    });
}
