//! What is refused before anything is done.

use super::*;

#[test]
fn impossible_requests_say_what_to_do() {
    let pool = pool_with(MEMORY_BYTES_MIN, 0);
    let buffer = pool.buffer();
    let too_long = buffer.write(0, &vec![0; MEMORY_BYTES_MIN as usize / 2 + 1]).unwrap_err();
    assert!(matches!(too_long, Error::TooLong { bytes_max, .. } if bytes_max == pool.write_bytes_max()));
    assert!(matches!(buffer.write(i64::MAX as u64, b"x"), Err(Error::BeyondEnd)));
    assert!(matches!(buffer.write(u64::MAX, b"x"), Err(Error::BeyondEnd)));
    assert!(matches!(buffer.read(5, &mut [0]), Err(Error::Absent { range }) if range == (5..6)));
    buffer.write(7, b"").unwrap();
    assert!(buffer.present().is_empty() && buffer.snapshot(3..3).unwrap().is_empty());
}

#[test]
fn a_pool_needs_memory_and_a_directory() {
    let limits = Limits { memory_bytes_max: MEMORY_BYTES_MIN - 1, spill_bytes_max: 0 };
    let refused = Pool::new(&std::env::temp_dir(), limits).err().unwrap();
    assert!(matches!(refused, Error::MemoryTooSmall { .. }));
    let limits = Limits { memory_bytes_max: MEMORY_BYTES_MIN, spill_bytes_max: 0 };
    let refused = Pool::new(std::path::Path::new("/proc/no/such"), limits).err().unwrap();
    assert!(refused.to_string().contains("/proc/no/such"), "{refused}");
}

#[test]
fn a_missing_directory_is_made_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("cache/spill");
    let limits = Limits { memory_bytes_max: MEMORY_BYTES_MIN, spill_bytes_max: 0 };
    Pool::new(&directory, limits).unwrap();
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
}
