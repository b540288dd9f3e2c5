//! Random calls against a model that is a map of bytes.

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
                let sealed = core.relieve_with(|contents| contents.seal_oldest(&core.resources, u64::MAX));
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
        let wanted: Option<Vec<u8>> = self.bytes[range.start as usize..range.end as usize].iter().copied().collect();
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
        self.buffer.mark_uploaded(snapshot, Eviction::First);
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
