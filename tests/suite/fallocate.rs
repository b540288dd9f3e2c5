//! fallocate(2) and lseek(2) for holes: against a vector, through the tools that use them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::common::{Endpoint, MINUTE, Mount, deadline, noise, scenario, sent_bytes};

const MIB: usize = 1 << 20;

fn run(program: &str, arguments: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new(program).env("LC_ALL", "C").args(arguments).arg(path).output().expect("it is installed");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn the_fallocate_tool_does_what_it_does_on_a_local_disk() {
    scenario().within(MINUTE * 2).mounted(|endpoint, mount| {
        let path = mount.join("file");
        let mut model = noise(1, 300_000);
        fs::write(&path, &model).unwrap();
        let step = |options: &[&str], model: &[u8]| {
            run("fallocate", options, &path).unwrap_or_else(|error| panic!("{options:?}: {error}"));
            assert!(fs::read(&path).unwrap() == model, "{options:?}");
            assert!(endpoint.content("file") == model, "{options:?}, in the store");
            endpoint.assert_dsse("file");
        };
        model.resize(400_000, 0);
        step(&["-l", "400000"], &model);
        step(&["-l", "1000"], &model);
        step(&["-n", "-l", "900000"], &model);
        model[5_000..105_000].fill(0);
        step(&["-p", "-o", "5000", "-l", "100000"], &model);
        model[390_000..].fill(0);
        step(&["-p", "-o", "390000", "-l", "100000"], &model);
        model[200_001..200_002].fill(0);
        step(&["-z", "-n", "-o", "200001", "-l", "1"], &model);
        model.resize(600_000, 0);
        model[350_000..].fill(0);
        step(&["-z", "-o", "350000", "-l", "250000"], &model);
        step(&["-z", "-n", "-o", "700000", "-l", "10"], &model);
    });
}

#[test]
fn what_s3_cannot_do_and_what_makes_no_sense_is_refused() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", &noise(1, 100_000));
        let mount = Mount::of(&endpoint);
        let file = OpenOptions::new().read(true).write(true).open(mount.join("file")).unwrap();
        let ask = |mode: FallocateFlags, offset: u64, length: u64| fallocate(&file, mode, offset, length).unwrap_err();
        assert_eq!(ask(FallocateFlags::COLLAPSE_RANGE, 0, 4096), Errno::OPNOTSUPP);
        assert_eq!(ask(FallocateFlags::INSERT_RANGE, 0, 4096), Errno::OPNOTSUPP);
        assert_eq!(ask(FallocateFlags::UNSHARE_RANGE, 0, 4096), Errno::OPNOTSUPP);
        assert_eq!(ask(FallocateFlags::PUNCH_HOLE, 0, 4096), Errno::OPNOTSUPP);
        assert_eq!(ask(FallocateFlags::empty(), 0, 0), Errno::INVAL);
        assert_eq!(ask(FallocateFlags::empty(), 0, 49 << 40), Errno::FBIG);
        assert_eq!(ask(FallocateFlags::KEEP_SIZE, 0, 49 << 40), Errno::FBIG);
        let reader = File::open(mount.join("file")).unwrap();
        assert_eq!(fallocate(&reader, FallocateFlags::empty(), 0, 10).unwrap_err(), Errno::BADF);
        let ((), counters) = endpoint.counted(|| drop((reader, file)));
        assert_eq!(sent_bytes(&counters), 0, "nothing has changed");
        assert!(endpoint.content("file") == noise(1, 100_000));
    });
}

#[test]
fn allocating_changes_the_times_as_a_write_does_and_leaves_privileges_to_root() {
    scenario().mounted(|_endpoint, mount| {
        let path = mount.join("file");
        for (mode, changes) in [
            (FallocateFlags::empty(), true),
            (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, true),
            (FallocateFlags::ZERO_RANGE, true),
        ] {
            fs::write(&path, noise(1, 1000)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
            let before = fs::metadata(&path).unwrap();
            sleep(Duration::from_millis(20));
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            fallocate(&file, mode, 10, 5000).unwrap();
            drop(file);
            let after = fs::metadata(&path).unwrap();
            let time = |meta: &fs::Metadata| (meta.mtime(), meta.mtime_nsec());
            assert_eq!(time(&after) > time(&before), changes, "{mode:?}");
            assert_eq!(after.permissions().mode() & 0o7777, 0o6755, "{mode:?}");
        }
    });
}

#[test]
fn zeroing_a_quarter_of_a_gibibyte_takes_no_memory_for_it() {
    scenario().within(MINUTE * 4).unmounted(|endpoint| {
        endpoint.put_gibibytes("large", 1);
        let mount = Mount::with(&endpoint, &["--memory", "64MiB"]);
        let file = OpenOptions::new().read(true).write(true).open(mount.join("large")).unwrap();
        let before = mount.memory_bytes_peak();
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, hole, (100 << 20) + 1, 256 << 20).unwrap();
        let ((), counters) = endpoint.counted(|| file.sync_all().unwrap());
        assert!(sent_bytes(&counters) < 300 << 20, "{counters:?}");
        let grown = mount.memory_bytes_peak() - before;
        assert!(grown < 128 << 20, "{grown} bytes more");
        let mut edge = [1; 2];
        file.read_exact_at(&mut edge, 100 << 20).unwrap();
        assert_eq!(edge, [noise(9, 64 * MIB)[36 * MIB], 0]);
        assert_eq!(fs::metadata(mount.join("large")).unwrap().len(), 1 << 30);
    });
}

#[test]
fn holes_of_a_file_with_changes_are_found_and_a_stored_file_is_data_to_its_end() {
    scenario().mounted(|_endpoint, mount| {
        let path = mount.join("file");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(&noise(1, 100_000)).unwrap();
        writer.write_all_at(&noise(2, 50_000), 300_000).unwrap();
        writer.set_len(500_000).unwrap();
        let reader = File::open(&path).unwrap();
        let data = |offset| seek(&reader, SeekFrom::Data(offset));
        let hole = |offset| seek(&reader, SeekFrom::Hole(offset));
        assert_eq!((data(0), hole(0)), (Ok(0), Ok(100_000)));
        assert_eq!((data(99_999), data(100_000), data(299_999)), (Ok(99_999), Ok(300_000), Ok(300_000)));
        assert_eq!((hole(100_000), hole(200_000), hole(300_000)), (Ok(100_000), Ok(200_000), Ok(350_000)));
        assert_eq!((data(350_000), hole(499_999), hole(500_000)), (Err(Errno::NXIO), Ok(499_999), Err(Errno::NXIO)));
        // Whoever can map the file may have written into its holes by pages that nobody else has seen yet.
        let mapper = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert_eq!((data(200_000), hole(0)), (Ok(200_000), Ok(500_000)));
        drop(mapper);
        writer.sync_all().unwrap();
        assert_eq!((data(200_000), hole(0)), (Ok(200_000), Ok(500_000)));
        assert_eq!((data(500_000), hole(500_000)), (Err(Errno::NXIO), Err(Errno::NXIO)));
    });
}

/// It was EINVAL (generic/448 of xfstests).
#[test]
fn data_before_the_beginning_of_a_file_is_enxio() {
    const SCRIPT: &str = "
import errno, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(file, b'content')
for offset in (-1, -7, -(1 << 63)):
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        try:
            sys.exit(f'{offset} was found at {os.lseek(file, offset, whence)}')
        except OSError as error:
            assert error.errno == errno.ENXIO, (offset, whence, error)";
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        run("python3", &["-c", SCRIPT], &mount.join("file")).unwrap();
    });
}

#[test]
fn sparse_aware_tools_lose_no_byte() {
    const SCRIPT: &str = "
import os, sys
with open(sys.argv[1], 'wb') as file:
    os.posix_fallocate(file.fileno(), 0, 5000000)
    os.pwrite(file.fileno(), b'middle', 2000000)
    reader = os.open(sys.argv[1], os.O_RDONLY)
    assert os.lseek(reader, 0, os.SEEK_DATA) <= 2000000
    assert os.lseek(reader, 0, os.SEEK_HOLE) == 0
    assert os.system(f'cp --sparse=auto {sys.argv[1]} {sys.argv[1]}.while-open') == 0
    assert os.system(f'cp --sparse=always {sys.argv[1]} {sys.argv[1]}.always') == 0
    assert os.system(f'cd $(dirname {sys.argv[1]}) && tar -Sc file | tar -Sx --to-stdout > file.tar') == 0";
    scenario().mounted(|endpoint, mount| {
        run("python3", &["-c", SCRIPT], &mount.join("file")).unwrap();
        let mut model = vec![0; 5_000_000];
        model[2_000_000..2_000_006].copy_from_slice(b"middle");
        for key in ["file", "file.while-open", "file.always", "file.tar"] {
            assert!(endpoint.content(key) == model, "{key}");
        }
    });
}
