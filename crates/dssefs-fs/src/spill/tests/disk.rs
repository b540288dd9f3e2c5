//! A disk that lies.

use super::*;

/// A buffer of four sealed blocks.
fn spilled() -> Buffer {
    let buffer = pool().buffer();
    buffer.write(0, &noise(4 * BLOCK_BYTES, 1)).unwrap();
    seal_all(&buffer);
    assert_eq!(buffer.location(), Location::Spilled);
    buffer
}

fn slot(file: &SealedFile, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES + sealed::OVERHEAD_BYTES];
    file.disk().read_exact_at(&mut bytes, file.place_on_disk(block)).unwrap();
    bytes
}

fn put(file: &SealedFile, block: u64, bytes: &[u8]) {
    file.disk().write_all_at(bytes, file.place_on_disk(block)).unwrap();
}

/// Block 2 is refused wherever it is asked for, and a write into it does not make it good; the others are as they were.
fn assert_only_block_2_is_refused(buffer: &Buffer) {
    let refused = |answer: Result<(), Error>| matches!(answer, Err(Error::Tampered { block: 2 }));
    assert!(refused(read(buffer, 2 * BLOCK + 9..2 * BLOCK + 10).map(drop)));
    assert!(refused(content(&buffer.snapshot(0..4 * BLOCK).unwrap()).map(drop)));
    assert!(refused(buffer.write(2 * BLOCK + 5, b"patch")));
    assert!(refused(buffer.zero(2 * BLOCK + 5..2 * BLOCK + 6)));
    for block in [0, 1, 3] {
        let wanted = &noise(4 * BLOCK_BYTES, 1)[block * BLOCK_BYTES..][..BLOCK_BYTES];
        assert!(read(buffer, block as u64 * BLOCK..(block as u64 + 1) * BLOCK).unwrap() == wanted);
    }
}

/// Whether the checksum that would be sent speaks against the bytes that would be.
fn is_found_out(buffer: &Buffer, range: Range<u64>) -> bool {
    let snapshot = buffer.snapshot(range).unwrap();
    match (snapshot.crc64(), content(&snapshot)) {
        (Ok(crc64), Ok(bytes)) => crc64 != crc::of(&bytes),
        (Err(error), _) | (_, Err(error)) => matches!(error, Error::Tampered { .. }),
    }
}

#[test]
fn a_bit_that_flips_in_memory_is_found_out_whatever_is_done_next() {
    type Next = fn(&Buffer);
    let nexts: [(&str, Next); 8] = [
        ("nothing", |_| ()),
        ("an append", |buffer| buffer.write(BLOCK + 5_000, b"more").unwrap()),
        ("a write beyond the end", |buffer| buffer.write(BLOCK + 9_000, b"more").unwrap()),
        ("a write beside it", |buffer| buffer.write(BLOCK + 10, b"other").unwrap()),
        ("zeros beside it", |buffer| buffer.zero(BLOCK + 10..BLOCK + 20).unwrap()),
        ("a cut behind it", |buffer| buffer.discard(BLOCK + 4_000..BLOCK + 5_000)),
        ("sealing", |buffer| seal_all(buffer)),
        ("a snapshot and a write beside it", |buffer| {
            let _shared = buffer.snapshot(0..2 * BLOCK - 60_536).unwrap();
            buffer.write(BLOCK + 10, b"other").unwrap();
        }),
    ];
    for (what, next) in nexts {
        let buffer = pool().buffer();
        buffer.write(0, &noise(BLOCK_BYTES + 5_000, 1)).unwrap();
        assert!(!is_found_out(&buffer, 0..BLOCK + 5_000), "{what}");
        buffer.damage(BLOCK + 3_000);
        next(&buffer);
        for range in [0..BLOCK + 4_000, BLOCK..BLOCK + 4_000, BLOCK + 2_999..BLOCK + 3_500] {
            assert!(is_found_out(&buffer, range.clone()), "{what}, {range:?}");
        }
        assert!(!is_found_out(&buffer, 0..BLOCK), "{what}: the other block is whole");
    }
}

#[test]
fn what_is_handed_over_is_proved_to_be_what_came_in() {
    let buffer = pool().buffer();
    let written = noise(BLOCK_BYTES + 5_000, 1);
    buffer.write(10, &written).unwrap();
    let hand_over = || {
        let (mut taken, mut next) = (Vec::new(), 10);
        let handed = buffer.snapshot(10..10 + written.len() as u64).unwrap().hand_over(|offset, chunk| {
            assert_eq!(offset, next);
            next += chunk.len() as u64;
            taken.extend_from_slice(chunk);
            Ok::<_, Error>(())
        });
        handed.map(|()| taken)
    };
    assert_eq!(hand_over().unwrap(), written);
    buffer.damage(BLOCK + 3_000);
    assert!(matches!(hand_over(), Err(Error::Tampered { .. })));
}

#[test]
fn a_block_that_is_written_anew_is_right_again() {
    let buffer = pool().buffer();
    buffer.write(0, &noise(5_000, 1)).unwrap();
    buffer.damage(3_000);
    buffer.write(0, &noise(5_000, 2)).unwrap();
    assert!(!is_found_out(&buffer, 0..5_000));
}

#[test]
fn a_flipped_bit_is_refused() {
    let buffer = spilled();
    let mut bytes = slot(&file_of(&buffer), 2);
    bytes[30_000] ^= 0x10;
    put(&file_of(&buffer), 2, &bytes);
    assert_only_block_2_is_refused(&buffer);
}

#[test]
fn a_block_copied_from_another_place_is_refused() {
    let buffer = spilled();
    let file = file_of(&buffer);
    put(&file, 2, &slot(&file, 1));
    assert_only_block_2_is_refused(&buffer);
}

#[test]
fn a_zeroed_block_is_refused_and_is_not_a_hole() {
    let buffer = spilled();
    put(&file_of(&buffer), 2, &vec![0; BLOCK_BYTES + sealed::OVERHEAD_BYTES]);
    assert_only_block_2_is_refused(&buffer);
}

#[test]
fn a_file_cut_short_is_refused() {
    let buffer = pool().buffer();
    buffer.write(0, &noise(3 * BLOCK_BYTES, 1)).unwrap();
    seal_all(&buffer);
    let file = file_of(&buffer);
    file.disk().set_len(file.place_on_disk(2) + 1000).unwrap();
    assert!(matches!(read(&buffer, 2 * BLOCK..3 * BLOCK), Err(Error::Tampered { block: 2 })));
    assert!(read(&buffer, 0..2 * BLOCK).is_ok());
}

#[test]
fn a_block_rolled_back_is_refused() {
    let buffer = spilled();
    let old = slot(&file_of(&buffer), 2);
    buffer.write(2 * BLOCK, b"newer").unwrap();
    seal_all(&buffer);
    put(&file_of(&buffer), 2, &old);
    assert_only_block_2_is_refused(&buffer);
}

#[test]
fn a_refused_block_can_be_replaced_as_a_whole() {
    let buffer = spilled();
    put(&file_of(&buffer), 2, &[0; 100]);
    buffer.write(2 * BLOCK, &noise(BLOCK_BYTES, 7)).unwrap();
    assert!(read(&buffer, 2 * BLOCK..3 * BLOCK).unwrap() == noise(BLOCK_BYTES, 7));
}

#[test]
fn plaintext_is_never_on_the_disk() {
    let (buffer, marker) = (pool().buffer(), b"the marker of a secret text");
    buffer.write(0, &marker.repeat(20_000)).unwrap();
    seal_all(&buffer);
    buffer.write(70_000, &marker.repeat(2000)).unwrap();
    seal_all(&buffer);
    let file = file_of(&buffer);
    let mut bytes = vec![0; file.disk().metadata().unwrap().len() as usize];
    file.disk().read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.len() > 500_000);
    for part in [&marker[..], &marker[..8]] {
        assert!(!bytes.windows(part.len()).any(|window| window == part));
    }
}

#[test]
fn a_cleared_buffer_destroys_its_keys_and_spills_under_new_ones() {
    let pool = pool();
    let buffer = pool.buffer();
    buffer.write(0, &noise(BLOCK_BYTES, 1)).unwrap();
    seal_all(&buffer);
    let keys = Arc::downgrade(&file_of(&buffer));
    buffer.clear();
    assert!(keys.upgrade().is_none(), "the keys live in the file, and the file is gone");
    assert_eq!((buffer.location(), pool.usage().spill_bytes), (Location::None, 0));
    buffer.write(0, b"again").unwrap();
    seal_all(&buffer);
    assert_eq!(read(&buffer, 0..5).unwrap(), b"again");
}

#[test]
fn truncating_to_nothing_gives_everything_back() {
    let buffer = spilled();
    buffer.write(0, b"in memory again").unwrap();
    buffer.discard(0..u64::MAX);
    let resources = &buffer.core().resources;
    let used_bytes = (resources.memory().used_bytes(), resources.disk().used_bytes());
    assert_eq!((used_bytes, buffer.location()), ((0, 0), Location::None));
}
