//! Few changes far apart in large objects: what lies between them is sent again, with room for one part at a time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use dssefs_emulator::faults::Rule;

use crate::common::{Endpoint, MINUTE, Mount, denied, errno, noise, scenario};

const MIB: usize = 1 << 20;
const SEED: usize = 64 * MIB;
/// Nearer to each other than what is worth a part of its own that is copied.
const APART: usize = 8 * MIB;

/// Changes a byte here and there of a file of `length` bytes, and leaves it open.
fn change_here_and_there(mount: &Mount, name: &str, length: usize) -> File {
    let file = OpenOptions::new().write(true).open(mount.join(name)).unwrap();
    (MIB..length).step_by(APART).for_each(|at| file.write_all_at(b"!", at as u64).unwrap());
    file
}

fn assert_changed_here_and_there(endpoint: &Endpoint, name: &str, length: usize) {
    let mut expected = noise(9, SEED).repeat(length / SEED);
    (MIB..length).step_by(APART).for_each(|at| expected[at] = b'!');
    assert!(endpoint.content(name) == expected, "{name} differs");
    endpoint.assert_dsse(name);
}

fn a_large_object_is_changed_here_and_there(options: &'static [&'static str]) {
    const LENGTH: usize = 5 * SEED;
    scenario().within(MINUTE * 4).unmounted(move |endpoint| {
        endpoint.put_repeated("file", 5);
        let mount = Mount::with(&endpoint, &[&["--memory", "32MiB", "--spill", "32MiB"], options].concat());
        let file = change_here_and_there(&mount, "file", LENGTH);
        // What was read for parts that are not sent is given back as well.
        endpoint.inject_faults(vec![Rule::on("UploadPart", denied()).nth(2)]);
        assert_eq!(errno(file.sync_all()), libc::EACCES);
        endpoint.clear_faults();
        file.sync_all().unwrap();
        assert_changed_here_and_there(&endpoint, "file", LENGTH);
        assert_eq!(endpoint.uploads(), 0);
        drop(file);
        assert!(mount.end().success());
    });
}

#[test]
fn a_change_here_and_there_needs_no_room_for_all_that_lies_between() {
    a_large_object_is_changed_here_and_there(&[]);
}

#[test]
fn a_change_here_and_there_needs_no_room_in_the_journal_either() {
    a_large_object_is_changed_here_and_there(&["--spill-keys", "kms"]);
}

/// Room for two parts, and half of each of four.
#[test]
fn commits_that_together_have_too_little_room_take_turns() {
    const FILES: [&str; 4] = ["a", "b", "c", "d"];
    scenario().within(MINUTE * 4).unmounted(|endpoint| {
        FILES.iter().for_each(|name| endpoint.put_repeated(name, 1));
        let mount = Mount::with(&endpoint, &["--memory", "32MiB", "--spill", "8MiB"]);
        let files = FILES.map(|name| change_here_and_there(&mount, name, SEED));
        std::thread::scope(|scope| {
            let commits = files.each_ref().map(|file| scope.spawn(|| errno(file.sync_all())));
            assert_eq!(commits.map(|commit| commit.join().unwrap()), [0; 4]);
        });
        FILES.iter().for_each(|name| assert_changed_here_and_there(&endpoint, name, SEED));
    });
}
