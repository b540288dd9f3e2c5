//! The buffer as its users see it: against a model, under pressure, and on a disk that lies.

mod disk;
mod limits;
mod model;
mod pressure;
mod snapshots;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use dssefs_seal::sealed::SealedFile;

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
    core.relieve_with(|contents| contents.seal_oldest(&core.resources, u64::MAX)).unwrap();
}

fn file_of(buffer: &Buffer) -> Arc<SealedFile> {
    buffer.core().relieve_with(|contents| contents.file().cloned()).expect("something was sealed")
}
