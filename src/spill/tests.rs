//! The buffer as its users see it: against a model, under pressure, and on a disk that lies.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::sealed::SealedFile;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Runs a property with a seed of its own, which `DSSEFS_SEED` sets and a failure tells.
pub(super) fn check<S: Strategy>(cases: u32, strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let seed = match std::env::var("DSSEFS_SEED") {
        Ok(seed) => seed.parse().expect("DSSEFS_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    let mut seed_bytes = [0; 32];
    seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes);
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let outcome = TestRunner::new_with_rng(config, rng).run(strategy, property);
    outcome.unwrap_or_else(|failure| panic!("DSSEFS_SEED={seed} {failure}"));
}

fn pool_with(memory_bytes_max: u64, spill_bytes_max: u64) -> Arc<Pool> {
    Pool::new(&std::env::temp_dir(), Limits { memory_bytes_max, spill_bytes_max }).unwrap()
}

fn pool() -> Arc<Pool> {
    pool_with(8 << 20, 64 << 20)
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| step()).collect()
}

fn read(buffer: &Buffer, range: Range<u64>) -> Result<Vec<u8>, Error> {
    let mut out = vec![0xEE; (range.end - range.start) as usize];
    buffer.read(range.start, &mut out).map(|()| out)
}

fn content(snapshot: &Snapshot) -> Result<Vec<u8>, Error> {
    snapshot.chunks().try_fold(Vec::new(), |mut all, chunk| {
        let chunk = chunk?;
        assert!((1..=BLOCK_BYTES).contains(&chunk.len()));
        all.extend_from_slice(&chunk);
        Ok(all)
    })
}

fn seal_all(buffer: &Buffer) {
    let core = buffer.core();
    core.relieve_with(|contents| contents.seal_oldest(&core.pool, u64::MAX)).unwrap();
}

fn file_of(buffer: &Buffer) -> Arc<SealedFile> {
    buffer.core().relieve_with(|contents| contents.file().cloned()).expect("something was sealed")
}

mod model {
    use super::*;

    /// Six blocks, in a pool with memory for four.
    const FILE_BYTES: u64 = 6 * BLOCK;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Zero(Range<u64>),
        Discard(Range<u64>),
        Snapshot(Range<u64>),
        CheckSnapshot(usize),
        MarkUploaded(usize),
        DropSnapshot(usize),
        WriteElsewhere(Vec<u8>),
        SealAll,
        Clear,
    }

    /// Often at or next to the edge of a block.
    fn offsets() -> impl Strategy<Value = u64> {
        let edges = (0..7_u64, 0..3_u64).prop_map(|(block, beside)| (block * BLOCK + beside).saturating_sub(1));
        prop_oneof![edges, 0..FILE_BYTES].prop_map(|offset| offset.min(FILE_BYTES - 1))
    }

    fn ranges() -> impl Strategy<Value = Range<u64>> {
        (offsets(), offsets()).prop_map(|(a, b)| a.min(b)..a.max(b) + 1)
    }

    fn data(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![1..200_usize, 1..len_max].prop_flat_map(|len| any::<u64>().prop_map(move |seed| noise(len, seed)))
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (offsets(), data(128 * 1024)).prop_map(|(offset, data)| Step::Write(offset, data)),
            2 => ranges().prop_map(Step::Zero),
            2 => ranges().prop_map(Step::Discard),
            3 => ranges().prop_map(Step::Snapshot),
            2 => (0..8_usize).prop_map(Step::CheckSnapshot),
            3 => (0..8_usize).prop_map(Step::MarkUploaded),
            3 => (0..8_usize).prop_map(Step::DropSnapshot),
            3 => data(128 * 1024).prop_map(Step::WriteElsewhere),
            1 => Just(Step::SealAll),
            1 => Just(Step::Clear),
        ];
        prop::collection::vec(step, 1..40)
    }

    struct World {
        pool: Arc<Pool>,
        buffer: Buffer,
        /// Another file of the same pool, for pressure.
        other: Buffer,
        /// What the buffer must hold.
        bytes: Vec<Option<u8>>,
        /// The bytes that are in S3 with their present value, and may be dropped.
        droppable: Vec<bool>,
        snapshots: Vec<(Snapshot, Vec<u8>)>,
    }

    impl World {
        fn new(spill_bytes_max: u64) -> Self {
            let pool = pool_with(MEMORY_BYTES_MIN, spill_bytes_max);
            let (buffer, other) = (pool.buffer(), pool.buffer());
            let (bytes, droppable) = (vec![None; 2 * FILE_BYTES as usize], vec![false; 2 * FILE_BYTES as usize]);
            World { pool, buffer, other, bytes, droppable, snapshots: Vec::new() }
        }

        fn run(&mut self, step: Step) {
            match step {
                Step::Write(offset, data) => {
                    if self.insist(|world| world.buffer.write(offset, &data)) {
                        data.iter().zip(offset as usize..).for_each(|(byte, at)| self.set(at, Some(*byte)));
                    }
                }
                Step::Zero(range) => {
                    if self.insist(|world| world.buffer.zero(range.clone())) {
                        range.for_each(|at| self.set(at as usize, Some(0)));
                    }
                }
                Step::Discard(range) => {
                    self.buffer.discard(range.clone());
                    range.for_each(|at| self.set(at as usize, None));
                }
                Step::Snapshot(range) => self.take_snapshot(range),
                Step::CheckSnapshot(which) => self.check_snapshot(which),
                Step::MarkUploaded(which) => self.mark_uploaded(which),
                Step::DropSnapshot(which) if !self.snapshots.is_empty() => {
                    self.snapshots.swap_remove(which % self.snapshots.len());
                }
                Step::DropSnapshot(_) => {}
                Step::WriteElsewhere(data) => {
                    self.insist(|world| world.other.write(0, &data));
                }
                Step::SealAll => {
                    let core = self.buffer.core();
                    let sealed = core.relieve_with(|contents| contents.seal_oldest(&core.pool, u64::MAX));
                    assert!(matches!(sealed, Ok(_) | Err(Error::NoSpace)));
                }
                Step::Clear => {
                    self.buffer.clear();
                    (0..self.bytes.len()).for_each(|at| self.set(at, None));
                }
            }
        }

        /// Tries until it succeeds: when memory is held by snapshots, these end. False when disk and memory are full.
        fn insist(&mut self, call: impl Fn(&Self) -> Result<(), Error>) -> bool {
            match call(self) {
                Ok(()) => return true,
                Err(Error::Busy) => assert!(!self.snapshots.is_empty(), "busy, but nothing is in flight"),
                Err(Error::NoSpace) => return false,
                Err(error) => panic!("{error}"),
            }
            self.verify();
            self.snapshots.clear();
            match call(self) {
                Ok(()) => true,
                Err(Error::NoSpace) => false,
                Err(error) => panic!("{error} without snapshots"),
            }
        }

        fn set(&mut self, at: usize, byte: Option<u8>) {
            self.bytes[at] = byte;
            self.droppable[at] = false;
        }

        fn take_snapshot(&mut self, range: Range<u64>) {
            let wanted: Option<Vec<u8>> =
                self.bytes[range.start as usize..range.end as usize].iter().copied().collect();
            match (self.buffer.snapshot(range), wanted) {
                (Ok(snapshot), Some(wanted)) => self.snapshots.push((snapshot, wanted)),
                (Err(Error::Absent { .. }), None) => {}
                (Ok(_), None) => panic!("a snapshot of absent bytes"),
                (Err(error), _) => panic!("{error}"),
            }
        }

        /// A snapshot is what it was, or says that it is not.
        fn check_snapshot(&self, which: usize) {
            if self.snapshots.is_empty() {
                return;
            }
            let (snapshot, wanted) = &self.snapshots[which % self.snapshots.len()];
            match content(snapshot) {
                Ok(found) => assert!(found == *wanted, "a snapshot has changed"),
                Err(error) => assert!(matches!(error, Error::Superseded { .. }), "{error}"),
            }
            if let Ok(crc) = snapshot.crc64() {
                assert_eq!(crc, crc::of(wanted));
            }
        }

        fn mark_uploaded(&mut self, which: usize) {
            if self.snapshots.is_empty() {
                return;
            }
            let (snapshot, uploaded) = &self.snapshots[which % self.snapshots.len()];
            self.buffer.mark_uploaded(snapshot);
            for (at, byte) in (snapshot.start() as usize..).zip(uploaded) {
                self.droppable[at] |= self.bytes[at] == Some(*byte);
            }
        }

        /// Everything is there, except for what may be dropped; and what is there is right.
        fn verify(&mut self) {
            let usage = self.pool.usage();
            assert!(usage.memory_bytes <= usage.limits.memory_bytes_max);
            assert!(usage.spill_bytes <= usage.limits.spill_bytes_max);
            let present = self.buffer.present();
            for gap in present.gaps(0..self.bytes.len() as u64) {
                for at in gap.start as usize..gap.end as usize {
                    assert!(self.bytes[at].is_none() || self.droppable[at], "byte {at} is lost");
                    self.set(at, None);
                }
            }
            for range in present.iter() {
                let found = read(&self.buffer, range.clone()).unwrap();
                let wanted = &self.bytes[range.start as usize..range.end as usize];
                let wrong = found.iter().zip(wanted).position(|(found, wanted)| Some(*found) != *wanted);
                assert_eq!(wrong.map(|at| at as u64 + range.start), None, "a byte is wrong");
            }
        }
    }

    fn a_buffer_is_a_vector_of_optional_bytes(cases: u32, spill_bytes_max: u64) {
        check(cases, &steps(), |steps| {
            let mut world = World::new(spill_bytes_max);
            for step in steps {
                world.run(step);
                world.verify();
            }
            drop((world.buffer, world.other, world.snapshots));
            let usage = world.pool.usage();
            prop_assert_eq!((usage.memory_bytes, usage.spill_bytes), (0, 0));
            Ok(())
        });
    }

    #[test]
    fn a_buffer_with_little_memory_is_a_vector_of_optional_bytes() {
        a_buffer_is_a_vector_of_optional_bytes(12, 64 << 20);
    }

    #[test]
    fn a_buffer_with_little_memory_and_little_disk_is_a_vector_of_optional_bytes() {
        a_buffer_is_a_vector_of_optional_bytes(12, 3 * BLOCK);
    }
}

mod pressure {
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
            buffer.mark_uploaded(&snapshot);
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
        buffer.mark_uploaded(&snapshot);
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
        assert_eq!(
            read(&buffer, 0..4 * BLOCK).unwrap(),
            [noise(2 * BLOCK_BYTES, 1), noise(2 * BLOCK_BYTES, 2)].concat()
        );
    }

    #[test]
    fn uploaded_blocks_go_first_and_only_under_pressure() {
        let pool = pool_with(MEMORY_BYTES_MIN, 64 << 20);
        let buffer = pool.buffer();
        (0..3).for_each(|n| buffer.write(n * BLOCK, &noise(BLOCK_BYTES, n)).unwrap());
        let snapshot = buffer.snapshot(0..2 * BLOCK).unwrap();
        buffer.write(10, b"changed since").unwrap();
        buffer.mark_uploaded(&snapshot);
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
        buffer.mark_uploaded(&snapshot);
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
}

mod snapshots {
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
}

mod disk {
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
        let usage = buffer.core().pool.usage();
        assert_eq!((usage.memory_bytes, usage.spill_bytes, buffer.location()), (0, 0, Location::None));
    }
}

mod limits {
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
}
