//! What is visible under a name is what a close or an fsync has promised, never a part of a file that is being written.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use dssefs_emulator::faults::{Fault, Rule};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::kept::{background, kill, mount as keeping};
use crate::common::{
    Endpoint, MINUTE, Mount, attribute, cp, deadline, denied, errno, eventually, mountinfo_has, names, noise,
    unavailable,
};

const MIB: usize = 1 << 20;
/// So little that parts leave the host as soon as the store has them.
const DISKLESS: [&str; 4] = ["--memory", "32MiB", "--spill", "0"];

fn truncating() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).truncate(true);
    options
}

/// Runs Python's `script` on paths, and gives what it printed.
fn python(script: &str, paths: &[&Path]) -> String {
    let output = Command::new("python3").arg("-c").arg(script).args(paths).output().expect("python3 is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The background save of a closed file stored what the file was at the moment of the save: with 0 bytes after a
/// program had opened it with O_TRUNC.
#[test]
fn a_closed_file_that_is_reopened_is_stored_as_it_was_closed() {
    deadline(MINUTE * 2, || {
        let (endpoint, spill) = (Endpoint::start(), TempDir::new().unwrap());
        let mount = background(&endpoint, &spill);
        let (path, closed) = (mount.join("file"), noise(1, 9_500));
        File::create(&path).unwrap();
        eventually("the empty file", MINUTE, || endpoint.head("file").is_some());
        let mut first = truncating().open(&path).unwrap();
        first.write_all(&closed).unwrap();
        // The close of a duplicate: the save waits for a second until the program has closed the rest.
        drop(first.try_clone().unwrap());
        let mut second = truncating().open(&path).unwrap();
        second.write_all(b"a part of ").unwrap();
        eventually("what was closed", MINUTE, || endpoint.content("file").len() == closed.len());
        assert!(endpoint.content("file") == closed);
        assert_eq!(fs::read(&path).unwrap(), b"a part of ", "programs of this mount see what is written");
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "pending");
        second.write_all(b"the file").unwrap();
        assert!(endpoint.content("file") == closed);
        drop((second, first));
        eventually("the second close", MINUTE, || endpoint.content("file") == b"a part of the file");
        assert!(mount.end().success());
        endpoint.assert_dsse("file");
    });
}

/// The same with changes inside, a cut and an append between two closes that the store takes late.
#[test]
fn changes_between_closes_are_stored_in_the_order_of_the_closes() {
    deadline(MINUTE * 2, || {
        let (endpoint, spill) = (Endpoint::start(), TempDir::new().unwrap());
        let mount = background(&endpoint, &spill);
        let (path, mut model) = (mount.join("file"), noise(1, 300_000));
        fs::write(&path, &model).unwrap();
        eventually("the first state", MINUTE, || endpoint.head("file").is_some());
        endpoint.inject_faults(vec![Rule::on("PutObject", unavailable()).times(0)]);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut states = vec![model.clone()];
        for round in 0..6_usize {
            let at = round * 40_000;
            file.write_all_at(&noise(round as u64, 3_000), at as u64).unwrap();
            model[at..at + 3_000].copy_from_slice(&noise(round as u64, 3_000));
            if round % 2 == 1 {
                file.set_len(280_000).unwrap();
                file.set_len(300_000).unwrap();
                model[280_000..].fill(0);
            }
            // The close of a duplicate: a promise.
            drop(file.try_clone().unwrap());
            states.push(model.clone());
            let later = format!("not promised {round}");
            file.write_all_at(later.as_bytes(), 150_000).unwrap();
            let mut seen = vec![0; model.len()];
            file.read_exact_at(&mut seen, 0).unwrap();
            model[150_000..150_014].copy_from_slice(later.as_bytes());
            assert!(seen == model, "round {round}");
        }
        endpoint.clear_faults();
        eventually("the last promise", MINUTE, || endpoint.content("file") == states[6]);
        drop(file);
        eventually("the last close", MINUTE, || endpoint.content("file") == model);
        assert!(mount.end().success());
    });
}

/// A close failed, and the mount tried it again with what the file had become since: a part of the next content.
#[test]
fn a_failed_close_is_tried_again_with_what_was_closed() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        let (path, closed) = (mount.join("file"), noise(1, 20_000));
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        assert!(cp(&closed, &path).is_err(), "cp was told of the failure");
        let mut next = truncating().open(&path).unwrap();
        next.write_all(b"a part of ").unwrap();
        endpoint.clear_faults();
        eventually("an object", MINUTE, || endpoint.head("file").is_some());
        assert!(endpoint.content("file") == closed, "{} bytes", endpoint.content("file").len());
        next.write_all(b"the file").unwrap();
        drop(next);
        assert_eq!(endpoint.content("file"), b"a part of the file");
    });
}

/// A crash in the middle of the second writing leaves what was closed before it.
#[test]
fn a_crash_while_a_file_is_written_again_leaves_what_was_closed() {
    deadline(MINUTE * 2, || {
        let (endpoint, spill) = (Endpoint::start(), TempDir::new().unwrap());
        let mount = background(&endpoint, &spill);
        let (path, closed) = (mount.join("file"), noise(1, 9_500));
        endpoint.inject_faults(vec![Rule::on("PutObject", unavailable()).times(0)]);
        fs::write(&path, &closed).unwrap();
        let mut next = truncating().open(&path).unwrap();
        next.write_all(b"a part").unwrap();
        // A change of attributes writes the journal's entry again.
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o640);
        fs::set_permissions(&path, mode).unwrap();
        kill(mount);
        drop(next);
        endpoint.clear_faults();
        let after = keeping(&endpoint, &spill, &[]);
        assert!(endpoint.content("file") == closed, "{} bytes", endpoint.content("file").len());
        assert!(after.end().success());
    });
}

/// When memory and disk were full, the mount stored a file that was being written as it was then, to make room.
#[test]
fn no_room_makes_no_part_of_a_file_visible() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--memory", "32MiB", "--spill", "8MiB"]);
        let mut files: Vec<_> =
            (0..4).map(|number| (number, 0, File::create(mount.join(&number.to_string())).unwrap())).collect();
        let mut refused = None;
        'writing: for _ in 0..12 {
            for (number, written, file) in &mut files {
                match file.write_all(&noise(*number, MIB)) {
                    Ok(()) => *written += 1,
                    Err(error) => {
                        refused = error.raw_os_error();
                        break 'writing;
                    }
                }
            }
        }
        assert_eq!(refused, Some(libc::ENOSPC));
        assert!(endpoint.keys().is_empty(), "{:?}", endpoint.keys());
        for (number, written, file) in files {
            file.sync_all().unwrap();
            let (stored, piece) = (endpoint.content(&number.to_string()), noise(number, MIB));
            assert!(stored.len() >= written * MIB, "file {number}");
            assert!(stored.chunks(MIB).all(|chunk| chunk == &piece[..chunk.len()]), "file {number}");
        }
    });
}

/// A read, or a change, of parts that only an unfinished upload has completed that upload.
#[test]
fn bytes_in_an_upload_only_are_enospc_and_not_published() {
    deadline(MINUTE * 3, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &DISKLESS);
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(mount.join("file")).unwrap();
        let mut model = noise(1, 100 * MIB);
        endpoint.reset();
        file.write_all(&model).unwrap();
        // The kernel has pages of what was written last only.
        let dropped = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        dropped.unwrap();
        let mut seen = vec![0; MIB];
        assert_eq!(errno(file.read_exact_at(&mut seen, 17 << 20)), libc::ENOSPC);
        assert_eq!(errno(file.write_all_at(b"header", 17 << 20)), libc::ENOSPC);
        assert_eq!(errno(file.set_len((17 << 20) + 5)), libc::ENOSPC);
        assert_eq!(endpoint.counters().requests("CompleteMultipartUpload"), 0);
        assert!(endpoint.head("file").is_none());
        file.sync_all().unwrap();
        file.write_all_at(b"header", 17 << 20).unwrap();
        model[17 << 20..][..6].copy_from_slice(b"header");
        file.read_exact_at(&mut seen, 17 << 20).unwrap();
        assert!(seen == model[17 << 20..18 << 20]);
        file.sync_all().unwrap();
        assert!(endpoint.content("file") == model);
    });
}

/// Programs write the head of a file last. Its first part stays here while the disk has room, also of a file that is
/// only written; and all parts of one that is read as well.
#[test]
fn the_head_of_a_stream_can_be_rewritten_without_a_commit() {
    deadline(MINUTE * 3, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--memory", "32MiB", "--spill", "256MiB"]);
        for (name, reads, at) in [("written", false, 0), ("read-too", true, 40 << 20)] {
            let mut file = OpenOptions::new().read(reads).write(true).create_new(true).open(mount.join(name)).unwrap();
            let mut model = noise(1, 100 * MIB);
            endpoint.reset();
            file.write_all(&model).unwrap();
            eventually("parts", MINUTE, || endpoint.counters().requests("UploadPart") >= 3);
            file.write_all_at(b"header", at).unwrap();
            model[at as usize..][..6].copy_from_slice(b"header");
            assert_eq!(endpoint.counters().requests("CompleteMultipartUpload"), 0, "{name}");
            assert!(endpoint.head(name).is_none(), "{name}");
            file.sync_all().unwrap();
            assert!(endpoint.content(name) == model, "{name}");
        }
    });
}

/// A commit sent each part as it was when its turn came.
#[test]
fn all_parts_of_a_close_are_of_one_moment() {
    deadline(MINUTE * 3, || {
        let endpoint = Endpoint::start();
        let closed = noise(1, 60 * MIB);
        endpoint.put("file", &closed);
        let mount = Mount::of(&endpoint);
        let file = OpenOptions::new().write(true).open(mount.join("file")).unwrap();
        let mut model = closed;
        let patch = |text: &[u8], model: &mut Vec<u8>| {
            for at in [1_usize, 25 * MIB, 55 * MIB] {
                file.write_all_at(text, at as u64).unwrap();
                model[at..at + text.len()].copy_from_slice(text);
            }
        };
        patch(b"closed", &mut model);
        let promised = model.clone();
        endpoint.inject_faults(vec![
            Rule::on("GetObject", Fault::DelayMs(700)).times(0),
            Rule::on("UploadPart", Fault::DelayMs(700)).times(0),
            Rule::on("CreateMultipartUpload", Fault::DelayMs(700)).times(0),
        ]);
        let duplicate = file.try_clone().unwrap();
        let closing = thread::spawn(move || drop(duplicate));
        eventually("the commit has begun", MINUTE, || endpoint.struck() > 0);
        patch(b"later!", &mut model);
        assert!(!closing.is_finished(), "it was written after the commit");
        closing.join().unwrap();
        assert!(endpoint.content("file") == promised);
        endpoint.clear_faults();
        file.sync_all().unwrap();
        assert!(endpoint.content("file") == model);
    });
}

/// At SIGTERM the mount stored files that programs were still writing.
#[test]
fn a_mount_that_is_asked_to_stop_publishes_no_file_that_is_being_written() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let mut mount = Mount::of(&endpoint);
        let mut file = File::create(mount.join("file")).unwrap();
        file.write_all(b"a part of ").unwrap();
        let path = mount.path();
        mount.signal(Signal::TERM);
        eventually("it is unmounted", MINUTE, || !mountinfo_has(&path));
        assert!(endpoint.keys().is_empty(), "{:?}", endpoint.keys());
        file.write_all(b"the file").unwrap();
        drop(file);
        assert!(mount.ended().unwrap().success());
        assert_eq!(endpoint.content("file"), b"a part of the file");
    });
}

/// truncate(2) by name stored what another program was in the middle of.
#[test]
fn a_truncation_by_name_publishes_nothing_that_is_being_written() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("file", b"old content");
        let mount = Mount::of(&endpoint);
        // Begun before the file is open: a program that is started closes copies of all handles.
        let mut truncation = Command::new("python3");
        truncation.arg("-c").arg("import os, sys; input(); os.truncate(sys.argv[1], 7)").arg(mount.join("file"));
        let mut truncation = truncation.stdin(Stdio::piped()).spawn().unwrap();
        let mut file = OpenOptions::new().write(true).open(mount.join("file")).unwrap();
        file.write_all(b"new").unwrap();
        truncation.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(truncation.wait().unwrap().success());
        assert_eq!(fs::metadata(mount.join("file")).unwrap().len(), 7);
        assert_eq!(endpoint.content("file"), b"old content");
        drop(file);
        assert_eq!(endpoint.content("file"), b"new con");
        python("import os, sys; os.truncate(sys.argv[1], 3)", &[&mount.join("file")]);
        assert_eq!(endpoint.content("file"), b"new", "no program had it open");
    });
}

/// What each way of opening and using a file owes at close(2) and fsync(2).
#[test]
fn close_and_fsync_answer_for_what_the_handle_did_whatever_its_mode() {
    const SCRIPT: &str = "
import itertools, os, sys
def number(call, *arguments):
    try:
        call(*arguments)
        return 0
    except OSError as error:
        return error.errno
old, new = sys.argv[1:]
modes, extras = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR), (0, os.O_TRUNC, os.O_APPEND, os.O_EXCL)
acts = ('nothing', 'write', 'ftruncate', 'fallocate')
for number_of, (is_new, mode, extra, act) in enumerate(itertools.product((False, True), modes, extras, acts)):
    if (act != 'nothing' and mode == os.O_RDONLY) or (not is_new and extra == os.O_EXCL):
        continue
    # A file for each, so that what is owed by one does not show with the next.
    flags = mode | extra | (os.O_CREAT if is_new else 0)
    file = os.open('%s%d' % (new if is_new else old, number_of), flags)
    if act == 'write': os.write(file, b'x')
    if act == 'ftruncate': os.ftruncate(file, 12345)
    if act == 'fallocate': os.posix_fallocate(file, 0, 23456)
    changed = is_new or extra == os.O_TRUNC or act != 'nothing'
    print(int(changed), number(os.fsync, file), number(os.close, os.dup(file)), number(os.close, file), flags, act)
";
    deadline(MINUTE * 3, || {
        let endpoint = Endpoint::start();
        (0..48).for_each(|number| endpoint.put(&format!("old{number}"), b"content"));
        let mount = Mount::of(&endpoint);
        names(&mount.path());
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        let told = python(SCRIPT, &[&mount.join("old"), &mount.join("new")]);
        assert!(told.lines().count() > 40, "{told}");
        for line in told.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let expected = if fields[0] == "1" { libc::EACCES } else { 0 };
            let numbers: Vec<i32> = fields[1..4].iter().map(|field| field.parse().unwrap()).collect();
            assert_eq!(numbers, [expected; 3], "fsync, close of a duplicate, close: {line}");
        }
        endpoint.clear_faults();
    });
}

/// A child process closes its copy of a handle while its parent closes the other one. The second close was 0 before the
/// first had stored anything.
#[test]
fn two_closes_of_one_handle_answer_for_the_same_changes() {
    const SCRIPT: &str = "
import os, sys, threading
told = []
def close(file):
    try:
        os.close(file)
        told.append(0)
    except OSError as error:
        told.append(error.errno)
file = os.open(sys.argv[1], os.O_WRONLY)
os.write(file, b'changed')
first = threading.Thread(target=close, args=(os.dup(file),))
first.start()
sys.stdin.readline()
close(file)
first.join()
print(*told)
";
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("file", b"content");
        let mount = Mount::of(&endpoint);
        // The question before a commit takes long, and the commit is refused.
        endpoint.inject_faults(vec![
            Rule::on("HeadObject", Fault::DelayMs(2_000)).times(0),
            Rule::on("PutObject", denied()).times(0),
        ]);
        let mut python = Command::new("python3");
        python.arg("-c").arg(SCRIPT).arg(mount.join("file")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = python.spawn().unwrap();
        eventually("the first close asks", MINUTE, || endpoint.struck() > 0);
        python.stdin.take().unwrap().write_all(b"\n").unwrap();
        let told = python.wait_with_output().unwrap().stdout;
        assert_eq!(String::from_utf8(told).unwrap().trim(), format!("{0} {0}", libc::EACCES));
        endpoint.clear_faults();
    });
}

/// os.open of Python makes lock files with O_CREAT | O_EXCL alone. Two hosts both got the lock.
#[test]
fn of_two_hosts_one_gets_a_lock_file_that_is_opened_for_reading() {
    const SCRIPT: &str = "
import os, sys
files = [os.open(path, os.O_CREAT | os.O_EXCL) for path in sys.argv[1:]]
for file in files:
    try:
        os.close(file)
        print(0)
    except OSError as error:
        print(error.errno)
";
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mounts = [Mount::of(&endpoint), Mount::of(&endpoint)];
        let told = python(SCRIPT, &[&mounts[0].join("lock"), &mounts[1].join("lock")]);
        assert_eq!(told, format!("0\n{}", libc::ESTALE));
    });
}

/// A handle that had changed nothing stored what another one was in the middle of.
#[test]
fn closing_a_writable_handle_that_changed_nothing_publishes_nothing() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("file", b"old");
        let mount = Mount::of(&endpoint);
        let mut writer = truncating().open(mount.join("file")).unwrap();
        writer.write_all(b"a part of ").unwrap();
        let mut other = OpenOptions::new().read(true).write(true).open(mount.join("file")).unwrap();
        let mut seen = String::new();
        other.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "a part of ");
        drop(other);
        assert_eq!(endpoint.content("file"), b"old");
        writer.write_all(b"the file").unwrap();
        drop(writer);
        assert_eq!(endpoint.content("file"), b"a part of the file");
    });
}

/// A regular file that mknod(2) could not store kept its name, and was stored later.
#[test]
fn a_mknod_that_fails_leaves_neither_name_nor_object() {
    const SCRIPT: &str = "
import os, stat, sys
for _ in range(2):
    try:
        os.mknod(sys.argv[1], stat.S_IFREG | 0o644)
        print(0)
    except OSError as error:
        print(error.errno)
";
    deadline(MINUTE, || {
        let (endpoint, spill) = (Endpoint::start(), TempDir::new().unwrap());
        let mount = keeping(&endpoint, &spill, &[]);
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        assert_eq!(python(SCRIPT, &[&mount.join("file")]), format!("{0}\n{0}", libc::EACCES));
        assert!(names(&mount.path()).is_empty());
        assert_eq!(attribute(&mount.path(), "user.dsse.mount.unsaved").unwrap(), "0");
        endpoint.clear_faults();
        assert!(mount.end().success());
        assert!(keeping(&endpoint, &spill, &[]).end().success());
        assert!(endpoint.keys().is_empty(), "{:?}", endpoint.keys());
        let mount = keeping(&endpoint, &spill, &[]);
        assert_eq!(python(SCRIPT, &[&mount.join("file")]), format!("0\n{}", libc::EEXIST));
    });
}

/// With `--commit background` a close was 0 although the mount knew that another writer had been first.
#[test]
fn a_close_in_the_background_tells_of_a_race_that_is_known_to_be_lost() {
    deadline(MINUTE, || {
        let (endpoint, spill) = (Endpoint::start(), TempDir::new().unwrap());
        let mount = background(&endpoint, &spill);
        let path = mount.join("file");
        let mut file = File::create(&path).unwrap();
        endpoint.put("file", b"theirs");
        file.write_all(b"ours").unwrap();
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        file.write_all(b" and more").unwrap();
        let closed = python_with(
            &file,
            "
import os
try:
    os.close(0)
    print(0)
except OSError as error:
    print(error.errno)
",
        );
        assert_eq!(closed, libc::ESTALE.to_string());
        assert_eq!(endpoint.content("file"), b"theirs");
    });
}

/// The same with `file` as its standard input.
fn python_with(file: &File, script: &str) -> String {
    let stdin = file.try_clone().unwrap();
    let output = Command::new("python3").arg("-c").arg(script).stdin(stdin).output().expect("python3 is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Two files whose parts stalled held all slots for parts.
#[test]
fn the_close_of_a_file_does_not_wait_for_parts_of_others_that_stall() {
    deadline(MINUTE * 3, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--memory", "256MiB", "--attempt-timeout", "60s"]);
        endpoint.inject_faults(vec![Rule::on("UploadPart", Fault::Stall).key_contains("stalled").times(0)]);
        let stalled: Vec<_> = (0..2)
            .map(|number| {
                let mut file = File::create(mount.join(&format!("stalled-{number}"))).unwrap();
                file.write_all(&noise(number, 80 * MIB)).unwrap();
                file
            })
            .collect();
        eventually("parts stall", MINUTE, || endpoint.stalled() >= 6);
        let (path, content) = (mount.join("third"), noise(9, 40 * MIB));
        let copy = content.clone();
        let third = thread::spawn(move || fs::write(path, copy));
        eventually("the third file is closed", MINUTE, || third.is_finished());
        third.join().unwrap().unwrap();
        assert!(endpoint.content("third") == content);
        endpoint.clear_faults();
        for file in stalled {
            eventually("the stalled file is stored", MINUTE * 2, || file.sync_all().is_ok());
        }
    });
}

/// Seventy files that stalled held all turns of the background.
#[test]
fn a_closed_file_is_saved_while_many_others_stall() {
    deadline(MINUTE * 3, || {
        let (endpoint, spill) = (Endpoint::start(), TempDir::new().unwrap());
        let options = ["--commit", "background", "--attempt-timeout", "60s"];
        let mount = keeping(&endpoint, &spill, &options);
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::Stall).key_contains("stalled").times(0)]);
        for number in 0..70 {
            fs::write(mount.join(&format!("stalled-{number}")), b"content").unwrap();
        }
        eventually("saves stall", MINUTE, || endpoint.stalled() >= 64);
        fs::write(mount.join("other"), b"content").unwrap();
        eventually("the other file is stored", MINUTE, || endpoint.head("other").is_some());
        endpoint.clear_faults();
    });
}
