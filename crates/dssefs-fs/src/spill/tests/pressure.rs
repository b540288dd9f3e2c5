//! Memory that is used up: what is sealed, dropped, waited for and refused.

use super::*;

/// Writes as a caller does: waits for memory when all of it is in flight.
fn write_patiently(pool: &Pool, runtime: &tokio::runtime::Runtime, buffer: &Buffer, offset: u64, data: &[u8]) {
    loop {
        let released = pool.released();
        match buffer.write(offset, data) {
            Ok(()) => return,
            Err(Error::Busy) => runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(60), released).await.expect("a wake-up was lost");
            }),
            Err(error) => panic!("{error}"),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

#[test]
fn hundreds_of_buffers_stay_within_the_limits_and_lose_nothing() {
    const FILES: u64 = 300;
    let pool = pool_with(2 << 20, 256 << 20);
    let buffers: Vec<_> = (0..FILES).map(|_| pool.buffer()).collect();
    let (exceeded, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                exceeded.fetch_or(pool.usage().memory_bytes > 2 << 20, Ordering::SeqCst);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (pool, buffers) = (&pool, &buffers);
                scope.spawn(move || {
                    let runtime = runtime();
                    for file in (writer..FILES).step_by(4) {
                        let buffer = &buffers[file as usize];
                        write_patiently(pool, &runtime, buffer, 0, &noise(70_000, file));
                        write_patiently(pool, &runtime, buffer, 40_000, &noise(5000, file + 1));
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::SeqCst);
    });
    assert!(!exceeded.into_inner());
    for (file, buffer) in (0..).zip(&buffers) {
        let mut wanted = noise(70_000, file);
        wanted[40_000..45_000].copy_from_slice(&noise(5000, file + 1));
        assert!(read(buffer, 0..70_000).unwrap() == wanted, "file {file}");
    }
    assert!(pool.usage().spill_bytes > 15 << 20);
    drop(buffers);
    assert_eq!((pool.usage().memory_bytes, pool.usage().spill_bytes), (0, 0));
}

/// Uploads and writes at once, with memory for eight blocks and no disk: every wait must end.
#[test]
fn writers_and_uploads_that_share_too_little_memory_all_finish() {
    let pool = pool_with(8 * BLOCK, 0);
    let upload = |buffer: &Buffer, range: Range<u64>, wanted: &[u8]| {
        let snapshot = buffer.snapshot(range).unwrap();
        assert!(content(&snapshot).unwrap() == wanted);
        buffer.mark_uploaded(&snapshot, Eviction::First);
    };
    std::thread::scope(|scope| {
        for writer in 0..3_u64 {
            let pool = &pool;
            scope.spawn(move || {
                let (runtime, buffer) = (runtime(), pool.buffer());
                for part in 0..100_u64 {
                    let (offset, data) = (part * BLOCK, noise(BLOCK_BYTES, part + writer * 1000));
                    write_patiently(pool, &runtime, &buffer, offset, &data);
                    upload(&buffer, offset..offset + BLOCK, &data);
                }
            });
        }
    });
    assert_eq!(pool.usage().memory_bytes, 0);
}

#[test]
fn a_full_disk_refuses_new_bytes_and_keeps_all_old_ones() {
    let pool = pool_with(MEMORY_BYTES_MIN, 3 * (BLOCK + 4096));
    let buffer = pool.buffer();
    let kept = (0..100).take_while(|n| match buffer.write(n * BLOCK, &noise(BLOCK_BYTES, *n)) {
        Ok(()) => true,
        Err(error) => {
            assert!(matches!(error, Error::NoSpace), "{error}");
            false
        }
    });
    assert_eq!(kept.count(), 7);
    buffer.write(6 * BLOCK + 5, b"in place").unwrap();
    buffer.write(6 * BLOCK + 5, &noise(BLOCK_BYTES, 6)[5..13]).unwrap();
    for n in 0..7 {
        assert!(read(&buffer, n * BLOCK..(n + 1) * BLOCK).unwrap() == noise(BLOCK_BYTES, n), "block {n}");
    }
    buffer.discard(5 * BLOCK..u64::MAX);
    buffer.write(6 * BLOCK, &noise(BLOCK_BYTES, 7)).unwrap();
    buffer.write(100, b"a sealed block").unwrap();
    assert!(read(&buffer, 6 * BLOCK..7 * BLOCK).unwrap() == noise(BLOCK_BYTES, 7));
    assert!(read(&buffer, 4 * BLOCK..5 * BLOCK).unwrap() == noise(BLOCK_BYTES, 4));
}

#[test]
fn a_chunk_in_the_hands_of_the_network_holds_its_memory_and_its_end_wakes_the_writer() {
    let pool = pool_with(MEMORY_BYTES_MIN, 0);
    let buffer = pool.buffer();
    buffer.write(0, &noise(2 * BLOCK_BYTES, 1)).unwrap();
    buffer.write(2 * BLOCK, &noise(2 * BLOCK_BYTES, 2)).unwrap();
    let snapshot = buffer.snapshot(0..4 * BLOCK).unwrap();
    let chunks: Vec<_> = snapshot.chunks().map(Result::unwrap).collect();
    buffer.mark_uploaded(&snapshot, Eviction::First);
    drop(snapshot);
    let released = pool.released();
    assert!(matches!(buffer.write(4 * BLOCK, b"more"), Err(Error::Busy)));
    drop(chunks);
    runtime().block_on(async { tokio::time::timeout(Duration::from_secs(10), released).await.unwrap() });
    buffer.write(4 * BLOCK, b"more").unwrap();
}

#[test]
fn a_writer_is_busy_while_snapshots_hold_all_memory() {
    let pool = pool_with(MEMORY_BYTES_MIN, 64 << 20);
    let (buffer, other) = (pool.buffer(), pool.buffer());
    buffer.write(0, &noise(2 * BLOCK_BYTES, 1)).unwrap();
    buffer.write(2 * BLOCK, &noise(2 * BLOCK_BYTES, 2)).unwrap();
    let snapshot = buffer.snapshot(0..4 * BLOCK).unwrap();
    let released = pool.released();
    assert!(matches!(other.write(0, b"new"), Err(Error::Busy)));
    assert!(matches!(buffer.write(1, b"a copy of the block"), Err(Error::Busy)));
    assert_eq!((other.location(), other.present().is_empty()), (Location::None, true));
    drop(snapshot);
    runtime().block_on(async { tokio::time::timeout(Duration::from_secs(10), released).await.unwrap() });
    other.write(0, b"new").unwrap();
    assert_eq!(read(&buffer, 0..4 * BLOCK).unwrap(), [noise(2 * BLOCK_BYTES, 1), noise(2 * BLOCK_BYTES, 2)].concat());
}

#[test]
fn uploaded_blocks_go_first_and_only_under_pressure() {
    let pool = pool_with(MEMORY_BYTES_MIN, 64 << 20);
    let buffer = pool.buffer();
    (0..3).for_each(|n| buffer.write(n * BLOCK, &noise(BLOCK_BYTES, n)).unwrap());
    let snapshot = buffer.snapshot(0..2 * BLOCK).unwrap();
    buffer.write(10, b"changed since").unwrap();
    buffer.mark_uploaded(&snapshot, Eviction::First);
    drop(snapshot);
    assert!(buffer.present().contains(0..3 * BLOCK));
    buffer.write(4 * BLOCK, &noise(2 * BLOCK_BYTES, 4)).unwrap();
    assert_eq!(buffer.present().iter().collect::<Vec<_>>(), [0..BLOCK, 2 * BLOCK..3 * BLOCK, 4 * BLOCK..6 * BLOCK]);
    assert_eq!(buffer.location(), Location::Memory);
    assert_eq!(read(&buffer, 10..23).unwrap(), b"changed since");
    assert!(matches!(read(&buffer, BLOCK..BLOCK + 1), Err(Error::Absent { .. })));
}

#[test]
fn a_full_disk_gives_up_uploaded_blocks() {
    let pool = pool_with(MEMORY_BYTES_MIN, 4 * (BLOCK + 4096));
    let buffer = pool.buffer();
    (0..8).for_each(|n| buffer.write(n * BLOCK, &noise(BLOCK_BYTES, n)).unwrap());
    assert!(matches!(buffer.write(8 * BLOCK, &noise(BLOCK_BYTES, 8)), Err(Error::NoSpace)));
    let snapshot = buffer.snapshot(0..2 * BLOCK).unwrap();
    buffer.mark_uploaded(&snapshot, Eviction::First);
    buffer.write(8 * BLOCK, &noise(BLOCK_BYTES, 8)).unwrap();
    assert!(buffer.present().contains(2 * BLOCK..9 * BLOCK));
    assert_eq!(buffer.present().covered_bytes(), 8 * BLOCK, "one is enough");
}

#[test]
fn ten_thousand_tiny_files_cost_a_page_each() {
    let pool = pool_with(64 << 20, 0);
    let buffers: Vec<_> = (0..10_000).map(|_| pool.buffer()).collect();
    buffers.iter().for_each(|buffer| buffer.write(0, b"tiny").unwrap());
    assert_eq!(pool.usage().memory_bytes, 10_000 * 4096);
    assert!(buffers.iter().all(|buffer| read(buffer, 0..4).unwrap() == b"tiny"));
}

#[test]
fn uploaded_blocks_that_are_wanted_go_to_the_disk_and_leave_it_last() {
    let room_for_two = 2 * (BLOCK + 4096);
    for (disk_bytes, stay) in [(64 << 20, true), (0, false), (room_for_two, false)] {
        let pool = pool_with(MEMORY_BYTES_MIN, disk_bytes);
        let (buffer, other) = (pool.buffer(), pool.buffer());
        (0..3).for_each(|n| buffer.write(n * BLOCK, &noise(BLOCK_BYTES, n)).unwrap());
        buffer.mark_uploaded(&buffer.snapshot(0..3 * BLOCK).unwrap(), Eviction::Last);
        (0..4).for_each(|n| other.write(n * BLOCK, &noise(BLOCK_BYTES, 9)).unwrap());
        assert_eq!(buffer.present().contains(0..3 * BLOCK), stay, "{disk_bytes} bytes of disk");
        assert!(other.present().contains(0..4 * BLOCK));
    }
}

#[test]
fn what_was_changed_since_is_absorbed_block_by_block() {
    let pool = pool_with(MEMORY_BYTES_MIN, 64 << 20);
    let (buffer, since) = (pool.buffer(), pool.buffer());
    let mut model = noise(4 * BLOCK_BYTES, 1);
    for n in 0..4 {
        buffer.write(n * BLOCK, &model[n as usize * BLOCK_BYTES..][..BLOCK_BYTES]).unwrap();
    }
    let changes = [(10, 5_usize), (BLOCK - 3, 6), (2 * BLOCK, BLOCK_BYTES), (4 * BLOCK + 7, 100)];
    model.resize(5 * BLOCK_BYTES, 0);
    for (at, length) in changes {
        let bytes = noise(length, at);
        since.write(at, &bytes).unwrap();
        model[at as usize..][..length].copy_from_slice(&bytes);
    }
    // A hole of a terabyte costs no more than one of a block.
    since.zero(3 * BLOCK + 9..3 * BLOCK + 20).unwrap();
    model[3 * BLOCK_BYTES + 9..3 * BLOCK_BYTES + 20].fill(0);
    since.zero(1 << 30..1 << 40).unwrap();
    seal_all(&since);
    let mut moved = RangeSet::default();
    let mut steps = 0;
    while let Some(run) = buffer.absorb_some(&since).unwrap() {
        assert!(!since.present().contains(run.clone()));
        moved.insert(run);
        steps += 1;
    }
    assert!(since.present().is_empty() && since.location() == Location::None);
    assert!(steps < 12 && moved.contains(1 << 30..1 << 40), "{steps} steps");
    assert!(read(&buffer, 0..4 * BLOCK).unwrap() == model[..4 * BLOCK_BYTES]);
    assert!(read(&buffer, 4 * BLOCK + 7..4 * BLOCK + 107).unwrap() == model[4 * BLOCK_BYTES + 7..][..100]);
    assert!(!buffer.contains(4 * BLOCK..4 * BLOCK + 7), "what no one wrote is not there");
}

#[test]
fn what_cannot_be_absorbed_for_lack_of_room_stays_where_it_is() {
    let pool = pool_with(MEMORY_BYTES_MIN, 0);
    let (buffer, since) = (pool.buffer(), pool.buffer());
    since.write(0, &noise(BLOCK_BYTES, 1)).unwrap();
    (1..4).for_each(|n| buffer.write(n * BLOCK, &noise(BLOCK_BYTES, n)).unwrap());
    assert!(buffer.absorb_some(&since).is_err());
    assert!(read(&since, 0..BLOCK).unwrap() == noise(BLOCK_BYTES, 1) && !buffer.contains(0..1));
    buffer.discard(3 * BLOCK..4 * BLOCK);
    assert_eq!(buffer.absorb_some(&since).unwrap(), Some(0..BLOCK));
    assert!(read(&buffer, 0..BLOCK).unwrap() == noise(BLOCK_BYTES, 1));
}

#[test]
fn a_buffer_takes_over_all_of_another_without_room() {
    let pool = pool_with(MEMORY_BYTES_MIN, 64 << 20);
    let (buffer, since) = (pool.buffer(), pool.buffer());
    buffer.write(0, &noise(2 * BLOCK_BYTES, 1)).unwrap();
    since.write(BLOCK, &noise(2 * BLOCK_BYTES, 2)).unwrap();
    seal_all(&since);
    since.write(5 * BLOCK, b"in memory").unwrap();
    buffer.take_over(&since);
    assert!(since.present().is_empty());
    assert!(!buffer.contains(0..1) && read(&buffer, BLOCK..3 * BLOCK).unwrap() == noise(2 * BLOCK_BYTES, 2));
    assert_eq!(read(&buffer, 5 * BLOCK..5 * BLOCK + 9).unwrap(), b"in memory");
    assert_eq!(pool.usage().memory_bytes, 4096, "the old content is gone");
}
