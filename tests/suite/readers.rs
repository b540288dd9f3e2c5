//! Readers of a file beside writers of the same mount: they see what was written, as on a local file system, and never
//! ESTALE. The version of another host is still ESTALE.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use dssefs_emulator::faults::{Fault, Rule};

use crate::common::{Endpoint, MINUTE, Mount, STALE, commit, deadline, errno, eventually, noise, scenario};

const SMALL: usize = 100_000;
/// More than one PutObject takes.
const LARGE: usize = (20 << 20) + 5;
const PAGE: usize = 4096;

/// A handle that reads past the kernel's cache.
pub(crate) fn direct(path: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

/// A page at `offset`, or what the file has of it.
pub(crate) fn page(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; PAGE];
    let length = file.read_at(&mut bytes, offset)?;
    bytes.truncate(length);
    Ok(bytes)
}

fn page_in_thread(file: &File, offset: u64) -> JoinHandle<io::Result<Vec<u8>>> {
    let file = file.try_clone().unwrap();
    std::thread::spawn(move || page(&file, offset))
}

fn append(path: &Path) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(b"line\n").unwrap();
}

fn append_and_sync(path: &Path) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    for _ in 0..2 {
        file.write_all(b"line\n").unwrap();
        file.sync_all().unwrap();
    }
}

fn change_mode(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn rename(path: &Path) {
    fs::rename(path, path.with_file_name("renamed")).unwrap();
}

fn change_inside(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    file.write_all_at(b"x", 50_000).unwrap();
    file.sync_all().unwrap();
}

/// Runs `change` while a GET of a reader is held back: when the store has the GET, the version is another one.
fn read_while(what: &str, size: usize, versioned: bool, change: fn(&Path)) {
    let what = format!("{what}, {size} bytes, versions {versioned}");
    let endpoint = Endpoint::start();
    if versioned {
        endpoint.keep_versions();
    }
    let content = noise(1, size);
    let mount = Mount::of(&endpoint);
    // Doubled until the change is faster, whatever else the machine does.
    for milliseconds in [2_000, 4_000, 8_000, 16_000] {
        endpoint.put("file", &content);
        let _ = fs::remove_file(mount.join("renamed"));
        std::thread::sleep(STALE);
        let reader = direct(&mount.join("file"));
        endpoint.inject_fault("GetObject", Fault::DelayMs(milliseconds));
        let reading = page_in_thread(&reader, 8 * PAGE as u64);
        eventually("the GET is held back", MINUTE, || endpoint.struck() == 1);
        change(&mount.join("file"));
        let was_beside = !reading.is_finished();
        let bytes = reading.join().unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(bytes == content[8 * PAGE..9 * PAGE], "{what}");
        if was_beside {
            return;
        }
    }
    panic!("{what}: the machine was too slow to change the file beside a read");
}

/// The reader was told ESTALE by its own mount's commit, and a program with a mapping died of SIGBUS.
#[test]
fn a_read_succeeds_while_the_same_mount_appends_to_a_large_file() {
    deadline(MINUTE * 4, || {
        read_while("append", LARGE, false, append);
        read_while("append and fsync", LARGE, false, append_and_sync);
    });
}

#[test]
fn a_read_succeeds_while_the_same_mount_appends_to_a_small_file() {
    deadline(MINUTE * 4, || {
        read_while("append", SMALL, false, append);
        read_while("append and fsync", SMALL, false, append_and_sync);
    });
}

#[test]
fn a_read_succeeds_while_the_same_mount_changes_the_file_otherwise() {
    deadline(MINUTE * 4, || {
        read_while("a change inside", LARGE, false, change_inside);
        read_while("chmod", LARGE, false, change_mode);
        read_while("rename", SMALL, false, rename);
        read_while("append", LARGE, true, append);
    });
}

/// As on a local disk, what was cut off is not there any more.
#[test]
fn a_read_beside_a_truncation_shows_the_new_file() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        endpoint.put("file", &noise(1, LARGE));
        let mount = Mount::of(&endpoint);
        let reader = direct(&mount.join("file"));
        endpoint.inject_fault("GetObject", Fault::DelayMs(3_000));
        let reading = page_in_thread(&reader, 0);
        eventually("the GET is held back", MINUTE, || endpoint.struck() == 1);
        let ((), counters) = endpoint.counted(|| commit(&mount.join("file"), b"new").unwrap());
        assert_eq!(counters.requests("GetObject"), 0, "nothing of the old content is read");
        assert_eq!(reading.join().unwrap().unwrap(), b"new");
        assert_eq!(page(&reader, 0).unwrap(), b"new");
    });
}

/// While the answer of a completion was missing, nearly every read was ESTALE.
#[test]
fn a_read_waits_for_the_answer_to_a_commit() {
    for (size, operation) in [(SMALL, "PutObject"), (LARGE, "CompleteMultipartUpload")] {
        deadline(MINUTE * 2, move || {
            let endpoint = Endpoint::start();
            let content = noise(1, size);
            endpoint.put("file", &content);
            let mount = Mount::with(&endpoint, &["--attempt-timeout", "4s", "--attempts", "3"]);
            let reader = direct(&mount.join("file"));
            endpoint.inject_fault(operation, Fault::StallAnswer);
            let path = mount.join("file");
            let committing = std::thread::spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path)?;
                file.write_all(b"line\n")?;
                file.sync_all()
            });
            eventually("the commit is carried out", MINUTE, || endpoint.content("file").len() == size + 5);
            for offset in [0, size / 2, size - PAGE] {
                let bytes = page(&reader, offset as u64).unwrap_or_else(|error| panic!("{operation}: {error}"));
                assert!(bytes == content[offset..offset + PAGE], "{operation}");
            }
            committing.join().unwrap().unwrap();
        });
    }
}

/// The commit has failed, as far as the mount knows, and its object is in the store.
#[test]
fn a_read_finds_the_object_of_a_commit_whose_answer_was_lost() {
    for (size, operation) in [(SMALL, "PutObject"), (LARGE, "CompleteMultipartUpload")] {
        deadline(MINUTE * 2, move || {
            let endpoint = Endpoint::start();
            let content = noise(1, size);
            endpoint.put("file", &content);
            let mount = Mount::with(&endpoint, &["--attempts", "2", "--operation-timeout", "20s"]);
            let reader = direct(&mount.join("file"));
            let mut file = OpenOptions::new().append(true).open(mount.join("file")).unwrap();
            file.write_all(b"line\n").unwrap();
            endpoint.inject_faults(vec![
                Rule::on(operation, Fault::LoseAnswer),
                Rule::on(operation, Fault::Reset).times(0),
                // The first one asks before the commit what others have set on the object.
                Rule::on("HeadObject", Fault::Reset).nth(2).times(0),
            ]);
            assert_ne!(errno(file.sync_all()), 0, "{operation}");
            assert_eq!(endpoint.content("file").len(), size + 5, "{operation}: it was carried out");
            assert_eq!(errno(page(&reader, 0)), libc::EIO, "the store cannot be asked whose object is there");
            endpoint.clear_faults();
            let bytes = page(&reader, 0).unwrap_or_else(|error| panic!("{operation}: {error}"));
            assert!(bytes == content[..PAGE], "{operation}");
            file.sync_all().unwrap();
        });
    }
}

/// The change of mode has failed, as far as the mount knows, and the copy with the new mode is in the store.
#[test]
fn a_read_finds_the_copy_of_a_chmod_whose_answer_was_lost() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let content = noise(1, LARGE);
        endpoint.put("file", &content);
        // No stat(2) asks for the object before the read does.
        let options = ["--attempts", "2", "--operation-timeout", "20s", "--metadata-ttl", "1h"];
        let mount = Mount::with(&endpoint, &options);
        let reader = direct(&mount.join("file"));
        let before = endpoint.head("file").unwrap().e_tag;
        let later = ["CopyObject", "HeadObject"].map(|name| Rule::on(name, Fault::Reset).times(0));
        endpoint.inject_faults([vec![Rule::on("CopyObject", Fault::LoseAnswer)], later.to_vec()].concat());
        assert_ne!(errno(fs::set_permissions(mount.join("file"), Permissions::from_mode(0o600))), 0);
        endpoint.clear_faults();
        assert_ne!(endpoint.head("file").unwrap().e_tag, before, "it was carried out");
        assert!(page(&reader, 8 << 20).unwrap() == content[8 << 20..][..PAGE]);
        change_mode(&mount.join("file"));
        append(&mount.join("file"));
        assert!(page(&reader, 9 << 20).unwrap() == content[9 << 20..][..PAGE]);
    });
}

/// The HEAD of a stat(2) took the copy for another writer's object, and the handle was ESTALE from the next commit on.
fn stat_beside_a_chmod(is_lost: bool) {
    scenario().within(MINUTE * 2).unmounted(move |endpoint| {
        let content = noise(1, LARGE);
        endpoint.put("file", &content);
        let options = ["--metadata-ttl", "0", "--attempt-timeout", "3s", "--attempts", "2"];
        let mount = Mount::with(&endpoint, &options);
        let reader = direct(&mount.join("file"));
        let before = endpoint.head("file").unwrap().e_tag;
        endpoint.inject_faults(vec![Rule::on("CopyObject", Fault::StallAnswer)]);
        let path = mount.join("file");
        let changing = std::thread::spawn(move || fs::set_permissions(path, Permissions::from_mode(0o600)));
        eventually("the copy is made", MINUTE, || endpoint.head("file").unwrap().e_tag != before);
        if is_lost {
            let later = ["CopyObject", "HeadObject"].map(|name| Rule::on(name, Fault::Reset).times(0));
            endpoint.inject_faults(later.to_vec());
            assert_ne!(errno(changing.join().unwrap()), 0);
            endpoint.clear_faults();
            fs::metadata(mount.join("file")).unwrap();
            assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 1);
            change_mode(&mount.join("file"));
        } else {
            fs::metadata(mount.join("file")).unwrap();
            assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 1);
            changing.join().unwrap().unwrap();
        }
        append(&mount.join("file"));
        assert!(page(&reader, 9 << 20).unwrap() == content[9 << 20..][..PAGE]);
    });
}

#[test]
fn a_stat_beside_a_chmod_does_not_part_the_handles_from_the_file() {
    stat_beside_a_chmod(false);
}

#[test]
fn a_stat_after_a_chmod_whose_answer_was_lost_does_not_either() {
    stat_beside_a_chmod(true);
}

/// What xfstests' generic/095 does: one process appends, others read at random places, past the cache, through it and
/// through a mapping. A GET that is sent just before a commit is still under way.
#[test]
fn readers_of_all_kinds_see_no_error_beside_appends() {
    const SCRIPT: &str = "
import mmap, os, random, sys
path, same, done, seed = sys.argv[1:]
random_ = random.Random(int(seed))
with open(same, 'rb') as same:
    content = same.read()
cached, direct = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY | os.O_DIRECT)
pages, buffer = mmap.mmap(cached, len(content), prot=mmap.PROT_READ), mmap.mmap(-1, 4096)
print('reading', flush=True)
reads = 0
while not os.path.exists(done):
    at = random_.randrange(0, len(content) // 4096) * 4096
    kind = random_.randrange(3)
    os.posix_fadvise(cached, 0, 0, os.POSIX_FADV_DONTNEED)
    if kind == 0:
        pages.madvise(mmap.MADV_DONTNEED)
        got = pages[at:at + 4096]
    elif kind == 1:
        got = os.pread(cached, 4096, at)
    else:
        got = buffer[:os.preadv(direct, [buffer], at)]
    assert got == content[at:at + 4096], (kind, at, len(got))
    reads += 1
print(reads)";
    let seed = crate::common::seed();
    deadline(MINUTE * 3, move || {
        let endpoint = Endpoint::start();
        let content = noise(seed, LARGE);
        let directory = tempfile::tempdir().unwrap();
        let (same, done) = (directory.path().join("same"), directory.path().join("done"));
        endpoint.put("file", &content);
        let mount = Mount::of(&endpoint);
        fs::write(&same, &content).unwrap();
        endpoint.inject_faults(vec![Rule::on("*", Fault::DelayMs(20)).times(0)]);
        let mut readers: Vec<_> = (0..2)
            .map(|number| {
                let mut python = Command::new("python3");
                python.args(["-c", SCRIPT]).args([&mount.join("file"), &same, &done]);
                python.arg((seed % 1000 + number).to_string());
                python.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for reader in &mut readers {
            let mut line = [0; 8];
            io::Read::read_exact(reader.stdout.as_mut().unwrap(), &mut line).unwrap();
        }
        let mut kept = OpenOptions::new().append(true).open(mount.join("file")).unwrap();
        for round in 0..20 {
            if round % 2 == 0 {
                append(&mount.join("file"));
            } else {
                kept.write_all(b"line\n").unwrap();
                kept.sync_all().unwrap();
            }
        }
        fs::write(&done, b"").unwrap();
        for reader in readers {
            let output = reader.wait_with_output().unwrap();
            assert!(output.status.success(), "{} {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(endpoint.content("file").len(), LARGE + 20 * 5);
    });
}

/// Own commits must not make a reader take the next foreign version for one of them.
#[test]
fn a_version_of_another_host_is_estale_after_own_commits() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let content = noise(1, LARGE);
        endpoint.put("file", &content);
        let mount = Mount::of(&endpoint);
        let reader = direct(&mount.join("file"));
        append_and_sync(&mount.join("file"));
        change_mode(&mount.join("file"));
        assert!(page(&reader, 0).unwrap() == content[..PAGE]);
        // A writer with changes that are not stored yet.
        let writer = OpenOptions::new().read(true).write(true).open(mount.join("file")).unwrap();
        writer.write_all_at(b"changed", 0).unwrap();
        endpoint.put("file", &noise(2, LARGE));
        assert_eq!(errno(page(&reader, 8 << 20)), libc::ESTALE);
        assert_eq!(errno(page(&writer, 8 << 20)), libc::ESTALE);
        assert_eq!(errno(writer.sync_all()), libc::ESTALE);
        assert_eq!(errno(page(&reader, 9 << 20)), libc::ESTALE, "after the race was lost, too");
    });
}

/// The rename copied the other host's version, and the handle was moved on to it.
#[test]
fn a_rename_moves_no_handle_on_to_another_hosts_version() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let content = noise(1, LARGE);
        endpoint.put("old/a", &content);
        endpoint.put("old/z", b"last");
        let mount = Mount::of(&endpoint);
        let reader = direct(&mount.join("old/a"));
        assert!(page(&reader, 0).unwrap() == content[..PAGE]);
        endpoint.inject_faults(vec![Rule::on("CopyObject", Fault::DelayMs(8_000)).key_contains("new/z")]);
        let (from, to) = (mount.join("old"), mount.join("new"));
        let renaming = std::thread::spawn(move || fs::rename(from, to));
        eventually("the other copy stands", MINUTE, || endpoint.head("new/a").is_some());
        let other = b"of another host";
        endpoint.put("old/a", other);
        renaming.join().unwrap().unwrap();
        assert_eq!(endpoint.content("new/a"), other);
        assert_eq!(errno(page(&reader, 8 << 20)), libc::ESTALE);
        std::thread::sleep(STALE);
        assert_eq!(fs::read(mount.join("new/a")).unwrap(), other, "a new handle reads it");
    });
}
