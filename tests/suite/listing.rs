//! Directories of many entries: what it costs to list them, and that a listing stays whole while the directory changes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::process::Command;
use std::time::{Duration, Instant};

use dssefs_emulator::Counters;
use dssefs_emulator::faults::{Fault, Rule};
use rustix::fs::{RawDir, SeekFrom, seek};

use crate::common::{Endpoint, MINUTE, Mount, deadline, names};

const PATIENT: [&str; 2] = ["--metadata-ttl", "1h"];

fn requests(counters: &Counters) -> Vec<(&str, u64)> {
    let asked = counters.s3.iter().map(|(name, count)| (name.as_str(), count.requests));
    asked.filter(|(_, requests)| *requests > 0).collect()
}

/// Runs a program that must succeed; the lines of its output.
fn lines(program: &str, arguments: &[&str], mount: &Mount) -> usize {
    let output = Command::new(program).args(arguments).current_dir(mount.path()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().count()
}

#[test]
fn a_large_directory_is_a_list_for_each_thousand_entries_and_a_bounded_memory() {
    const ENTRIES: usize = 20_000;
    /// For an entry, the kernel's buffers and the pages of the listing included.
    const ENTRY_BYTES_MAX: u64 = 1_600;
    deadline(MINUTE * 5, || {
        let endpoint = Endpoint::with_objects((0..ENTRIES).map(|number| format!("many/{number:06}")));
        let mount = Mount::with(&endpoint, &PATIENT);
        assert_eq!(names(&mount.path()), ["many"]);
        fs::metadata(mount.join("many")).unwrap();
        let before = mount.memory_bytes_peak();
        let (found, counters) = endpoint.counted(|| names(&mount.join("many")));
        assert!(found.iter().enumerate().all(|(number, name)| *name == format!("{number:06}")));
        assert_eq!((found.len(), requests(&counters)), (ENTRIES, vec![("ListObjectsV2", ENTRIES as u64 / 1_000)]));
        let (found, counters) = endpoint.counted(|| lines("ls", &["-f", "many"], &mount));
        assert_eq!((found, requests(&counters)), (ENTRIES + 2, vec![]), "once more, from memory");
        let (found, counters) = endpoint.counted(|| lines("find", &["many", "-type", "f"], &mount));
        assert_eq!((found, requests(&counters)), (ENTRIES, vec![]));
        let grown = mount.memory_bytes_peak() - before;
        assert!(grown < ENTRIES as u64 * ENTRY_BYTES_MAX, "{} bytes for each entry", grown / ENTRIES as u64);
    });
}

#[test]
fn find_is_a_list_for_each_thousand_entries_of_each_directory_and_no_head_of_a_file() {
    deadline(MINUTE * 2, || {
        let wide = (0..2_500).map(|number| format!("wide/{number:04}"));
        let nested = (0..10).flat_map(|one| (0..50).map(move |two| format!("deep/{one}/below/{two}")));
        let endpoint = Endpoint::with_objects(wide.chain(nested));
        let mount = Mount::with(&endpoint, &[PATIENT.as_slice(), &["--attributes", "listing"]].concat());
        let (found, counters) = endpoint.counted(|| lines("find", &["."], &mount));
        assert_eq!(found, 1 + 1 + 2_500 + 1 + 10 + 10 + 500);
        // The root, three pages of `wide`, `deep`, and the ten and ten below it.
        assert_eq!(requests(&counters), [("ListObjectsV2", 1 + 3 + 1 + 10 + 10)]);
        // With all attributes, a directory's mode is in its marker, and is asked for before the directory is entered.
        let mount = Mount::with(&endpoint, &PATIENT);
        let (_, counters) = endpoint.counted(|| lines("find", &["."], &mount));
        assert_eq!(counters.requests("ListObjectsV2"), 1 + 3 + 1 + 10 + 10);
        assert!(counters.requests("HeadObject") <= 22, "one for each directory: {:?}", requests(&counters));
        assert_eq!(counters.all_kms_for_s3(), 0);
    });
}

#[test]
fn ls_l_of_a_thousand_files_is_one_list_and_parallel_heads() {
    const ENTRIES: u64 = 1_000;
    const ROUND_TRIP: Duration = Duration::from_millis(100);
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::with_objects((0..ENTRIES).map(|number| format!("d/{number:04}")));
        let mount = Mount::with(&endpoint, &PATIENT);
        fs::metadata(mount.join("d")).unwrap();
        endpoint.inject_faults(vec![Rule::on("HeadObject", Fault::DelayMs(100)).times(0)]);
        let began = Instant::now();
        let (found, counters) = endpoint.counted(|| lines("ls", &["-l", "d"], &mount));
        assert_eq!(found as u64, ENTRIES + 1);
        assert_eq!(requests(&counters), [("HeadObject", ENTRIES), ("ListObjectsV2", 1)]);
        let one_by_one = ROUND_TRIP * 1_000;
        assert!(began.elapsed() < one_by_one / 8, "{:?}, one by one it would be {one_by_one:?}", began.elapsed());
    });
}

#[test]
fn a_burst_of_lookups_of_absent_names_is_answered_from_listings() {
    const DIRECTORIES: u64 = 10;
    deadline(MINUTE, || {
        let endpoint = Endpoint::with_objects((0..DIRECTORIES).map(|number| format!("include{number}/there.h")));
        let mount = Mount::with(&endpoint, &PATIENT);
        let (found, counters) = endpoint.counted(|| {
            let wanted =
                (0..200).flat_map(|header| (0..DIRECTORIES).map(move |dir| format!("include{dir}/{header}.h")));
            wanted.filter(|path| mount.join(path).exists()).count()
        });
        assert_eq!(found, 0);
        // For each directory: itself, two names one by one, and then one listing for all others.
        let asked: u64 = requests(&counters).iter().map(|(_, count)| count).sum();
        assert!(asked <= 9 * DIRECTORIES, "2,000 names cost {asked} requests: {:?}", requests(&counters));
        assert_eq!(counters.all_kms_for_s3(), 0);
    });
}

#[test]
fn rm_r_and_removal_while_listing_leave_nothing() {
    deadline(MINUTE * 5, || {
        let one = (0..2_100).map(|number| format!("one/{number:04}"));
        let endpoint = Endpoint::with_objects(one.chain((0..400).map(|number| format!("two/{number:04}"))));
        let mount = Mount::of(&endpoint);
        assert_eq!(lines("rm", &["-r", "one"], &mount), 0);
        assert_eq!(names(&mount.path()), ["two"]);
        for entry in fs::read_dir(mount.join("two")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(names(&mount.join("two")), Vec::<String>::new());
        fs::remove_dir(mount.join("two")).unwrap();
        assert_eq!(endpoint.keys(), Vec::<String>::new());
    });
}

/// Names with the place in the directory to go on from, as telldir(3) gives it.
fn places(dir: &File) -> Vec<(String, u64)> {
    // Small, so that the kernel has to ask more than once.
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut places = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        places.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie()));
    }
    places
}

#[test]
fn a_place_in_a_directory_stays_the_same_while_names_come_and_go() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::with_objects((0..300).map(|number| format!("d/{number:03}")));
        let mount = Mount::of(&endpoint);
        let dir = File::open(mount.join("d")).unwrap();
        let before = places(&dir);
        assert_eq!(before.len(), 302);
        for number in (0..300).step_by(3) {
            fs::remove_file(mount.join(&format!("d/{number:03}"))).unwrap();
        }
        fs::write(mount.join("d/000-new"), b"").unwrap();
        for from in [1, 2, 3, 100, 150, 301] {
            seek(&dir, SeekFrom::Start(before[from - 1].1)).unwrap();
            let rest: Vec<String> = places(&dir).into_iter().map(|(name, _)| name).collect();
            let expected: Vec<String> = before[from..].iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(rest, expected, "none twice and none missed from place {from} on");
        }
        seek(&dir, SeekFrom::Start(0)).unwrap();
        let again: BTreeSet<String> = places(&dir).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            (again.len(), again.contains("000-new"), again.contains("000")),
            (203, true, false),
            "from the beginning it is new"
        );
    });
}

#[test]
fn numbers_of_a_listing_are_those_of_stat_and_dot_dot_is_the_directory_above() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::with_objects(["a/b/one", "a/b/two", "a/b/c/three", "a/other"].map(str::to_owned));
        let mount = Mount::of(&endpoint);
        for dir in ["", "a", "a/b", "a/b/c"] {
            let path = mount.join(dir);
            for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
                assert_eq!(entry.ino(), entry.metadata().unwrap().ino(), "{}", entry.path().display());
            }
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let dir_file = File::open(&path).unwrap();
            let mut entries = RawDir::new(&dir_file, &mut buffer);
            let [this, above] = [".", ".."].map(|dots| {
                let entry = entries.next().unwrap().unwrap();
                assert_eq!(entry.file_name().to_str(), Ok(dots));
                entry.ino()
            });
            assert_eq!(this, fs::metadata(&path).unwrap().ino(), "{dir}/.");
            let parent = if dir.is_empty() { path.clone() } else { path.join("..") };
            assert_eq!(above, fs::metadata(parent).unwrap().ino(), "{dir}/..");
        }
    });
}

#[test]
fn a_directory_counts_its_subdirectories_or_says_that_it_does_not() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::with_objects(["a/b/one", "a/c/two", "a/file"].map(str::to_owned));
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "0"]);
        let links = |path: &str| fs::metadata(mount.join(path)).unwrap().nlink();
        assert_eq!(
            links("a"),
            1,
            "not known yet; 2 would tell find and its like that there is nothing to descend into"
        );
        names(&mount.join("a"));
        assert_eq!((links("a"), links("a/file")), (4, 1));
        fs::create_dir(mount.join("a/d")).unwrap();
        assert_eq!((links("a"), links("a/d")), (5, 2));
        fs::remove_dir(mount.join("a/d")).unwrap();
        assert_eq!(links("a"), 4);
    });
}
