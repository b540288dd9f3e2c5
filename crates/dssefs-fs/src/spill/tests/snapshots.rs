//! What an upload reads while the program goes on writing.

use super::*;

#[test]
fn a_snapshot_stays_while_the_buffer_is_changed_and_costs_no_copy() {
    let (pool, text) = (pool(), noise(200_000, 1));
    let buffer = pool.buffer();
    buffer.write(0, &text).unwrap();
    let snapshot = buffer.snapshot(100..200_000).unwrap();
    let first = |snapshot: &Snapshot| snapshot.chunks().next().unwrap().unwrap();
    assert_eq!(first(&snapshot).as_ptr(), first(&snapshot).as_ptr());
    let before = pool.usage().memory_bytes;
    buffer.write(50, &noise(100_000, 2)).unwrap();
    buffer.discard(70_000..200_000);
    assert!(pool.usage().memory_bytes > before);
    assert!(content(&snapshot).unwrap() == text[100..]);
    buffer.clear();
    assert!(content(&snapshot).unwrap() == text[100..]);
    assert_eq!(snapshot.crc64().unwrap(), crc::of(&text[100..]));
    drop(snapshot);
    assert_eq!(pool.usage().memory_bytes, 0);
}

#[test]
fn a_chunk_outlives_its_buffer_and_its_snapshot() {
    let pool = pool();
    let buffer = pool.buffer();
    buffer.write(0, b"chunk").unwrap();
    let chunk = buffer.snapshot(1..5).unwrap().chunks().next().unwrap().unwrap();
    drop(buffer);
    assert_eq!((&chunk[..], pool.usage().memory_bytes), (&b"hunk"[..], 4096));
    drop(chunk);
    assert_eq!(pool.usage().memory_bytes, 0);
}

#[test]
fn a_sealed_snapshot_is_readable_until_its_block_is_sealed_again() {
    let buffer = pool().buffer();
    buffer.write(0, &noise(BLOCK_BYTES, 1)).unwrap();
    seal_all(&buffer);
    let snapshot = buffer.snapshot(0..BLOCK).unwrap();
    buffer.write(5, b"write combining").unwrap();
    assert!(content(&snapshot).unwrap() == noise(BLOCK_BYTES, 1));
    seal_all(&buffer);
    assert!(matches!(content(&snapshot), Err(Error::Superseded { block: 0 })));
    let mut wanted = noise(BLOCK_BYTES, 1);
    wanted[5..20].copy_from_slice(b"write combining");
    assert!(read(&buffer, 0..BLOCK).unwrap() == wanted);
}

#[test]
fn the_checksum_joins_memory_disk_and_zeros() {
    let buffer = pool().buffer();
    buffer.write(0, &noise(3 * BLOCK_BYTES, 1)).unwrap();
    seal_all(&buffer);
    buffer.zero(3 * BLOCK..5 * BLOCK + 7).unwrap();
    buffer.write(5 * BLOCK + 7, &noise(1000, 2)).unwrap();
    for range in [0..5 * BLOCK + 1007, 1..3 * BLOCK - 1, 0..3 * BLOCK, 7..5 * BLOCK + 500] {
        let snapshot = buffer.snapshot(range.clone()).unwrap();
        assert_eq!(snapshot.crc64().unwrap(), crc::of(&read(&buffer, range).unwrap()));
        assert_eq!(snapshot.crc64().unwrap(), crc::of(&content(&snapshot).unwrap()));
    }
}

#[test]
fn the_checksum_of_whole_sealed_blocks_does_not_open_them() {
    let buffer = pool().buffer();
    buffer.write(0, &noise(2 * BLOCK_BYTES, 1)).unwrap();
    seal_all(&buffer);
    file_of(&buffer).disk().set_len(0).unwrap();
    let snapshot = buffer.snapshot(0..2 * BLOCK).unwrap();
    assert_eq!(snapshot.crc64().unwrap(), crc::of(&noise(2 * BLOCK_BYTES, 1)));
    assert!(matches!(content(&snapshot), Err(Error::Tampered { block: 0 })));
    assert_eq!(snapshot.chunks().count(), 1, "nothing follows a failed chunk");
}

#[test]
fn a_hole_of_a_terabyte_costs_nothing_and_has_a_checksum() {
    let pool = pool();
    let buffer = pool.buffer();
    buffer.write(10, b"ten bytes.").unwrap();
    buffer.zero(15..1 << 40).unwrap();
    assert_eq!(read(&buffer, 10..30).unwrap(), b"ten b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(pool.usage().memory_bytes, 4096);
    let whole = buffer.snapshot(15..1 << 40).unwrap().crc64().unwrap();
    assert_eq!(whole, crc::of_zeros((1 << 40) - 15));
    buffer.zero(0..1 << 40).unwrap();
    assert_eq!(pool.usage().memory_bytes, 0);
    assert_eq!(buffer.location(), Location::Memory);
}
