//! Memory and disk that run out: at any load, at any point, nothing that was acknowledged is lost, and the mount lives
//! on.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dssefs_emulator::faults::{Fault, Rule};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{
    Endpoint, MINUTE, Mount, attribute, commit, cp, deadline, eventually, needs_root, noise, scenario,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What the daemon may need beside `--memory`: its code, the threads' stacks, what the SDK holds of requests under way.
const BESIDE_MEMORY_BYTES_MAX: u64 = 96 * MIB;

/// The bytes of the local disk that the daemon's nameless files in `directory` have.
fn spill_bytes(mount: &Mount, directory: &Path) -> u64 {
    let entries = fs::read_dir(format!("/proc/{}/fd", mount.pid())).expect("root may look");
    let nameless = |target: &Path| target.starts_with(directory) && target.to_string_lossy().ends_with(" (deleted)");
    let ours = entries.map(|entry| entry.expect("an entry").path());
    let ours = ours.filter(|path| path.read_link().is_ok_and(|target| nameless(&target)));
    ours.filter_map(|path| path.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// Writes as much of `content` as is taken; how much that was, and why no more.
fn write_what_fits(file: &mut File, content: &[u8]) -> (usize, Option<io::Error>) {
    let mut taken = 0;
    for piece in content.chunks(64 << 10) {
        match file.write_all(piece) {
            Ok(()) => taken += piece.len(),
            Err(error) => return (taken, Some(error)),
        }
    }
    (taken, None)
}

/// A disk of its own with little room, of which a ballast takes most.
struct SmallDisk {
    dir: TempDir,
    bytes: u64,
}

impl SmallDisk {
    /// None where this user cannot mount one.
    fn new(bytes: u64) -> Option<SmallDisk> {
        if needs_root("only root can make a small disk") {
            return None;
        }
        let dir = TempDir::new().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes},mode=700")).unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).expect("root may mount");
        Some(SmallDisk { dir, bytes })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn spill(&self) -> PathBuf {
        self.dir.path().join("spill")
    }

    fn free_bytes(&self) -> u64 {
        let it = rustix::fs::statvfs(self.path()).unwrap();
        it.f_bavail * it.f_frsize
    }

    /// Leaves `free_bytes` of room, of what is not in use by others.
    fn leave(&self, free_bytes: u64) {
        self.leave_all();
        let ballast = File::create(self.path().join("ballast")).unwrap();
        let bytes = self.free_bytes().saturating_sub(free_bytes);
        if bytes > 0 {
            rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        }
        assert!(self.free_bytes() <= free_bytes, "{} of {} bytes", self.free_bytes(), self.bytes);
    }

    fn leave_all(&self) {
        let _ = fs::remove_file(self.path().join("ballast"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// Room from none to more than is needed, page by page where records and blocks end, and then in doubling steps.
fn free_sizes(most: u64) -> Vec<u64> {
    let pages = (0..10).map(|page| page * 4 * KIB);
    let doubling = (0..).map(|step| (64 * KIB) << step).take_while(|bytes| *bytes < most);
    pages.chain(doubling).chain([most]).collect()
}

#[test]
fn a_thousand_open_files_with_changes_stay_within_memory_spill_and_descriptors() {
    deadline(MINUTE * 6, || {
        const FILES: usize = 1_000;
        const FILE_BYTES: usize = 160 << 10;
        let endpoint = Endpoint::start();
        let options = ["--memory", "32MiB", "--spill", "256MiB"];
        let mount = Mount::under(&endpoint, &["prlimit", "--nofile=300:4096"], &options);
        let content = |number: usize| noise(number as u64, FILE_BYTES);
        let fill = |number: usize| {
            let mut file = File::create(mount.join(&number.to_string())).unwrap();
            file.write_all(&content(number)).unwrap();
            file
        };
        let begun = Instant::now();
        let files: Vec<File> = (0..FILES).map(fill).collect();
        println!("all are written after {:?}", begun.elapsed());
        let spilled = spill_bytes(&mount, &mount.spill_dir());
        assert!((64 * MIB..=256 * MIB).contains(&spilled), "{spilled} bytes");
        for (number, file) in files.iter().enumerate().step_by(97) {
            file.sync_all().unwrap();
            assert!(endpoint.content(&number.to_string()) == content(number), "file {number}");
        }
        close_side_by_side(files);
        println!("all are closed after {:?}", begun.elapsed());
        (0..FILES).step_by(89).for_each(|number| {
            assert!(endpoint.content(&number.to_string()) == content(number), "file {number}");
        });
        let peak = mount.memory_bytes_peak();
        println!("peak of memory: {} MiB, spill: {} MiB", peak / MIB, spilled / MIB);
        assert!(peak < 32 * MIB + BESIDE_MEMORY_BYTES_MAX, "{peak} bytes");
        assert_eq!(spill_bytes(&mount, &mount.spill_dir()), 0, "what is stored takes no room");
    });
}

/// Each close waits for the store.
fn close_side_by_side(mut files: Vec<File>) {
    std::thread::scope(|scope| {
        while !files.is_empty() {
            let some = files.split_off(files.len().saturating_sub(64));
            scope.spawn(move || drop(some));
        }
    });
}

#[test]
fn a_writer_faster_than_the_store_is_slowed_and_not_refused() {
    scenario().within(MINUTE * 3).options(&["--memory", "48MiB", "--spill", "16MiB"]).mounted(|endpoint, mount| {
        endpoint.inject_faults(vec![Rule::on("UploadPart", Fault::DelayMs(700)).times(0)]);
        let content = noise(3, 200 << 20);
        let mut file = File::create(mount.join("file")).unwrap();
        file.write_all(&content).unwrap();
        let spilled = spill_bytes(&mount, &mount.spill_dir());
        file.sync_all().unwrap();
        assert!(endpoint.content("file") == content);
        let peak = mount.memory_bytes_peak();
        println!("peak of memory: {} MiB", peak / MIB);
        assert!(spilled <= 16 * MIB && peak < 48 * MIB + BESIDE_MEMORY_BYTES_MAX, "{spilled} and {peak} bytes");
    });
}

#[test]
fn small_files_faster_than_the_store_are_slowed_and_not_refused() {
    scenario().within(MINUTE * 3).with_spill(|endpoint, spill| {
        let path = spill.path().to_str().unwrap();
        let options = ["--memory", "32MiB", "--spill", "24MiB", "--spill-dir", path];
        let background = ["--spill-keys", "kms", "--commit", "background"];
        let mount = Mount::with(&endpoint, &[options.as_slice(), &background].concat());
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::DelayMs(400)).times(0)]);
        let content = |number: u64| noise(number, 700 << 10);
        for number in 0..160 {
            cp(&content(number), &mount.join(&number.to_string())).unwrap_or_else(|error| panic!("{number}: {error}"));
            let on_disk = bytes_below(spill.path()) + spill_bytes(&mount, spill.path());
            // Beside the budget: the description of the session, and the list of uploads.
            assert!(on_disk <= 24 * MIB + 16 * KIB, "{on_disk} bytes");
        }
        endpoint.clear_faults();
        eventually("all files are stored", MINUTE, || endpoint.keys().len() == 160);
        (0..160).step_by(7).for_each(|number| assert!(endpoint.content(&number.to_string()) == content(number)));
        let peak = mount.memory_bytes_peak();
        assert!(peak < 32 * MIB + BESIDE_MEMORY_BYTES_MAX, "{peak} bytes");
        assert!(mount.end().success());
    });
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let bytes = |path: PathBuf| match path.is_dir() {
        true => bytes_below(&path),
        false => path.metadata().map_or(0, |metadata| metadata.blocks() * 512),
    };
    entries.map(bytes).sum()
}

#[test]
fn while_the_store_takes_nothing_writers_get_an_error_in_the_end_and_everything_else_answers() {
    scenario().within(MINUTE * 6).unmounted(|endpoint| {
        endpoint.put("other", b"readable all the time");
        // A request that is given up soon gives the writers that wait for its end their answer soon.
        let times = ["--attempt-timeout", "4s", "--operation-timeout", "8s"];
        let room = ["--memory", "32MiB", "--spill", "32MiB", "--room-timeout", "15s"];
        let mount = Mount::with(&endpoint, &[&room[..], &times].concat());
        let stalled = |operation| Rule::on(operation, Fault::Stall).times(0);
        endpoint.inject_faults(vec![stalled("UploadPart"), stalled("PutObject"), stalled("CompleteMultipartUpload")]);
        let writing = AtomicBool::new(true);
        let slowest = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8)
                .map(|number| {
                    let path = mount.join(&format!("writer-{number}"));
                    scope.spawn(move || {
                        let mut file = File::create(path).unwrap();
                        let (taken, refused) = write_what_fits(&mut file, &noise(number, 64 << 20));
                        (file, taken, refused.and_then(|error| error.raw_os_error()))
                    })
                })
                .collect();
            let watch = scope.spawn(|| {
                let (start, mut slowest) = (Instant::now(), Duration::ZERO);
                let mut timed = |what: &str, call: &dyn Fn()| {
                    let begun = Instant::now();
                    call();
                    if begun.elapsed() > Duration::from_secs(1) {
                        println!("{what} took {:?} after {:?}", begun.elapsed(), begun - start);
                    }
                    slowest = slowest.max(begun.elapsed());
                };
                while writing.load(Ordering::SeqCst) {
                    timed("read", &|| assert_eq!(fs::read(mount.join("other")).unwrap(), b"readable all the time"));
                    timed("list", &|| assert!(fs::read_dir(mount.path()).unwrap().count() > 0));
                    timed("xattr", &|| drop(attribute(&mount.path(), "user.dsse.mount.pid").unwrap()));
                    std::thread::sleep(Duration::from_millis(50));
                }
                slowest
            });
            let ended: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            writing.store(false, Ordering::SeqCst);
            endpoint.clear_faults();
            for (number, ended) in ended.into_iter().enumerate() {
                let (file, taken, refused) = ended.unwrap();
                println!("{} MiB were taken, then {refused:?}", taken as u64 / MIB);
                // No room, or the store's silence, if that was given up before.
                assert!(matches!(refused, Some(libc::ENOSPC | libc::EIO)), "{refused:?}");
                eventually("the file is stored", MINUTE * 2, || file.sync_all().is_ok());
                let wanted = noise(number as u64, 64 << 20);
                let stored = endpoint.content(&format!("writer-{number}"));
                assert!(stored.len() >= taken && stored == wanted[..stored.len()], "file {number}");
            }
            watch.join().unwrap()
        });
        println!("the slowest answer to others took {slowest:?}");
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
        assert!(mount.memory_bytes_peak() < 32 * MIB + BESIDE_MEMORY_BYTES_MAX);
        commit(&mount.join("after"), b"there is room again").unwrap();
    });
}

#[test]
fn a_write_waits_for_room_no_longer_than_room_timeout() {
    let options = ["--memory", "32MiB", "--spill", "0", "--attempt-timeout", "4s", "--room-timeout", "1s"];
    scenario().within(MINUTE * 3).options(&options).mounted(|endpoint, mount| {
        let stalled = |operation| Rule::on(operation, Fault::Stall).times(0);
        endpoint.inject_faults(vec![stalled("UploadPart"), stalled("PutObject"), stalled("CompleteMultipartUpload")]);
        let mut file = File::create(mount.join("file")).unwrap();
        let content = noise(1, 64 << 20);
        let (taken, refused) = write_what_fits(&mut file, &content);
        assert_eq!(refused.and_then(|error| error.raw_os_error()), Some(libc::ENOSPC));
        let told = mount.line(|line| line.contains("became free within 1 s"));
        assert!(told.is_some(), "{}", mount.log());
        endpoint.clear_faults();
        file.sync_all().unwrap();
        let stored = endpoint.content("file");
        assert!(stored.len() >= taken && stored == content[..stored.len()], "{taken} bytes were taken");
    });
}

#[test]
fn a_file_that_is_written_during_a_commit_streams_on_behind_it() {
    scenario().within(MINUTE * 2).options(&["--memory", "64MiB", "--spill", "0"]).mounted(|endpoint, mount| {
        let content = noise(5, 120 << 20);
        let mut file = File::create(mount.join("log")).unwrap();
        let mut at = 0;
        let mut write = |mut file: &File, bytes: usize| {
            file.write_all(&content[at..at + bytes]).unwrap();
            at += bytes;
        };
        write(&file, 10 << 20);
        for _ in 0..3 {
            endpoint.inject_faults(vec![
                Rule::on("PutObject", Fault::DelayMs(1_000)),
                Rule::on("CompleteMultipartUpload", Fault::DelayMs(1_000)),
            ]);
            // By the close of a duplicate: fsync(2) holds the inode's lock in the kernel, and no write would get past.
            let duplicate = file.try_clone().unwrap();
            std::thread::scope(|scope| {
                let committing = scope.spawn(|| drop(duplicate));
                eventually("the commit is under way", MINUTE, || endpoint.struck() > 0);
                write(&file, 1 << 20);
                assert!(!committing.is_finished(), "it was written after the commit");
            });
            assert_eq!(attribute(&mount.join("log"), "user.dsse.verdict").unwrap(), "pending");
            endpoint.reset();
            write(&file, 35 << 20);
            let sent = || endpoint.counters().operation("UploadPart").requests > 0;
            eventually("parts are sent while it is written", MINUTE, sent);
            assert_eq!(endpoint.counters().operation("CompleteMultipartUpload").requests, 0, "no commit made room");
        }
        file.flush().unwrap();
        file.sync_all().unwrap();
        assert!(endpoint.content("log") == content[..at], "{at} bytes");
    });
}

#[test]
fn a_disk_that_is_full_at_any_point_of_spilling_loses_nothing() {
    deadline(MINUTE * 5, || {
        const FILES: u64 = 7;
        const FILE_BYTES: usize = 5 << 20;
        let Some(disk) = SmallDisk::new(24 * MIB) else { return };
        let endpoint = Endpoint::start();
        let spill = disk.spill();
        let options = ["--memory", "32MiB", "--spill", "1GiB", "--spill-dir", spill.to_str().unwrap()];
        let mount = Mount::with(&endpoint, &options);
        let (mut refused, mut points) = (0, 0);
        for free_bytes in free_sizes(16 * MIB) {
            disk.leave(free_bytes);
            let mut files = Vec::new();
            for number in 0..FILES {
                let mut file = File::create(mount.join(&number.to_string())).unwrap();
                let (taken, error) = write_what_fits(&mut file, &noise(number + free_bytes, FILE_BYTES));
                if let Some(error) = error {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{free_bytes} bytes free");
                    refused += 1;
                }
                files.push((number, taken, file));
            }
            for (number, taken, file) in &files {
                let mut seen = vec![0; *taken];
                let other = File::open(mount.join(&number.to_string())).unwrap();
                other.read_exact_at(&mut seen, 0).unwrap();
                assert!(seen == noise(number + free_bytes, FILE_BYTES)[..*taken], "{free_bytes} bytes free");
                file.sync_all().unwrap_or_else(|error| panic!("{free_bytes} bytes free, file {number}: {error}"));
                assert!(endpoint.content(&number.to_string()) == seen, "{free_bytes} bytes free, file {number}");
            }
            points += 1;
        }
        println!("{points} sizes, {refused} writes refused");
        assert!(refused > points, "the disk was never full");
        disk.leave_all();
        let mut file = File::create(mount.join("after")).unwrap();
        file.write_all(&noise(1, 40 << 20)).unwrap();
        file.sync_all().unwrap();
        assert!(mount.end().success());
    });
}

#[test]
fn a_disk_that_is_full_at_any_point_of_the_journal_loses_no_closed_file() {
    deadline(MINUTE * 8, || {
        const FILES: u64 = 6;
        let Some(disk) = SmallDisk::new(16 * MIB) else { return };
        let endpoint = Endpoint::start();
        let spill = disk.spill();
        let options = ["--spill-keys", "kms", "--commit", "background", "--spill-dir", spill.to_str().unwrap()];
        let (mut in_journal, mut points) = (0, 0);
        for free_bytes in free_sizes(2 * MIB) {
            disk.leave_all();
            let mut mount = Mount::with(&endpoint, &options);
            disk.leave(free_bytes);
            // So slow that what is acknowledged early is acknowledged from the journal, and so quick that the rest can
            // wait.
            endpoint.inject_faults(vec![Rule::on("PutObject", Fault::DelayMs(700)).times(0)]);
            let content = |number: u64| noise(number ^ free_bytes, 10_000 * (number as usize % 5 + 1));
            let name = |number: u64| format!("{free_bytes}-{number}");
            for number in 0..FILES {
                let path = mount.join(&name(number));
                cp(&content(number), &path).unwrap_or_else(|error| panic!("{free_bytes} bytes free: {error}"));
            }
            in_journal += FILES as usize - (0..FILES).filter(|number| endpoint.head(&name(*number)).is_some()).count();
            mount.signal(Signal::KILL);
            mount.ended().expect("a killed process ends");
            endpoint.clear_faults();
            drop(mount);
            disk.leave_all();
            let next = Mount::with(&endpoint, &options);
            for number in 0..FILES {
                assert!(endpoint.content(&name(number)) == content(number), "{free_bytes} bytes free, file {number}");
            }
            assert!(next.end().success());
            let left: Vec<_> = fs::read_dir(disk.spill()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(left.is_empty(), "{free_bytes} bytes free: {left:?}");
            points += 1;
        }
        println!("{points} sizes, {in_journal} files came out of the journal");
        // How many depends on how fast this machine closes files, beside the room.
        assert!(in_journal > points / 2, "the journal kept next to nothing");
    });
}

#[test]
fn a_journal_on_a_full_disk_works_again_when_there_is_room() {
    deadline(MINUTE * 3, || {
        let Some(disk) = SmallDisk::new(12 * MIB) else { return };
        let endpoint = Endpoint::start();
        let spill = disk.spill();
        let options = ["--spill-keys", "kms", "--commit", "background", "--spill-dir", spill.to_str().unwrap()];
        let mount = Mount::with(&endpoint, &options);
        for round in 0..4_u64 {
            // Larger than all of the disk, so that it fills to the last byte and fails.
            cp(&noise(round, 14 << 20), &mount.join("large")).unwrap();
            assert!(endpoint.content("large") == noise(round, 14 << 20));
            (0..5).for_each(|number| cp(&noise(number, 1 << 20), &mount.join(&number.to_string())).unwrap());
            eventually("all is stored", MINUTE, || attribute(&mount.path(), "user.dsse.mount.unsaved").unwrap() == "0");
            let free = disk.free_bytes();
            assert!(free > 5 * MIB, "round {round}: {free} bytes are free");
        }
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::DelayMs(3_000)).times(0)]);
        let begun = Instant::now();
        cp(&noise(9, 1 << 20), &mount.join("quick")).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "the close has waited for the store");
        endpoint.clear_faults();
        assert!(mount.end().success());
        assert_eq!(fs::read_dir(disk.spill()).unwrap().count(), 0);
    });
}

#[test]
fn a_mount_that_finds_no_room_says_so_and_leaves_nothing_in_the_way_of_the_next() {
    deadline(MINUTE * 3, || {
        let Some(disk) = SmallDisk::new(4 * MIB) else { return };
        let endpoint = Endpoint::start();
        let (spill, dir) = (disk.spill(), TempDir::new().unwrap());
        let mut refused = 0;
        for pages in 0..12 {
            disk.leave(pages * 4 * KIB);
            let mut command = Mount::command(&endpoint, crate::common::BUCKET, dir.path());
            command.args(["--kms-key-id", endpoint.key_arn(), "--spill-keys", "kms", "--foreground", "--spill-dir"]);
            let mut daemon = command.arg(&spill).stderr(std::process::Stdio::piped()).spawn().unwrap();
            eventually("it is mounted or refused", MINUTE, || {
                crate::common::mountinfo_has(dir.path()) || daemon.try_wait().unwrap().is_some()
            });
            if daemon.try_wait().unwrap().is_some() {
                let mut said = String::new();
                daemon.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                assert!(said.contains("no room") || said.contains("No space left"), "{pages} pages: {said}");
                refused += 1;
            } else {
                let pid = rustix::process::Pid::from_child(&daemon);
                eventually("it takes a file", MINUTE, || {
                    commit(&dir.path().join(format!("{pages}")), b"content").is_ok()
                });
                rustix::process::kill_process(pid, Signal::TERM).unwrap();
                assert!(daemon.wait().unwrap().success());
                assert_eq!(endpoint.content(&format!("{pages}")), b"content");
            }
            disk.leave_all();
            let left = fs::read_dir(&spill).map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect());
            let left: Vec<_> = left.unwrap_or_default();
            assert!(left.is_empty(), "{pages} pages: {left:?}");
        }
        assert!((1..12).contains(&refused), "{refused} of 12 were refused");
    });
}
