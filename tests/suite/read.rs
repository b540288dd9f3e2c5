//! Reading against the embedded endpoint: which bytes come, and how many requests they cost.
#![cfg(feature = "serve")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use crate::common::store::{Store, at, requests};
use bytes::Bytes;
use dssefs_emulator::faults::Fault;
use dssefs_fs::read::{Error, Location, ReadBudget, Reader};
use dssefs_s3::s3::Kind;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn content(len: u64) -> Bytes {
    (0..len).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) % 256).unwrap()).collect()
}

fn part(whole: &Bytes, offset: u64, len: u64) -> Bytes {
    let size = whole.len() as u64;
    let range = offset.min(size)..(offset + len).min(size);
    whole.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
}

async fn reader(store: &Store, whole: &Bytes, budget: &Arc<ReadBudget>) -> Reader {
    let version = store.put("f", whole.clone(), &[]).await;
    Reader::new(Arc::clone(&store.gateway), Location { key: at("f"), version }, whole.len() as u64, Arc::clone(budget))
}

#[tokio::test]
async fn a_small_file_is_one_get_however_it_is_read() {
    let (store, whole) = (Store::start().await, content(10 * KIB));
    let reader = reader(&store, &whole, &ReadBudget::new(MIB)).await;
    assert_eq!(reader.read(8 * KIB, 100 * KIB).await.unwrap(), part(&whole, 8 * KIB, 2 * KIB));
    assert_eq!(reader.read(0, 10 * KIB).await.unwrap(), whole);
    assert_eq!(reader.read(10 * KIB, 1).await.unwrap(), Bytes::new());
    assert_eq!(store.asked(), requests(&[("GetObject", 1)]));
}

#[tokio::test]
async fn an_empty_file_costs_nothing() {
    let store = Store::start().await;
    let reader = reader(&store, &Bytes::new(), &ReadBudget::new(MIB)).await;
    assert_eq!(reader.read(0, MIB).await.unwrap(), Bytes::new());
    assert_eq!(store.asked(), requests(&[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_read_of_64_mib_is_5_gets_and_its_memory_comes_back() {
    let (store, whole, budget) = (Store::start().await, content(64 * MIB), ReadBudget::new(256 * MIB));
    let reader = reader(&store, &whole, &budget).await;
    for block in 0..512 {
        let (offset, len) = (block * 128 * KIB, 128 * KIB);
        assert!(reader.read(offset, len).await.unwrap() == part(&whole, offset, len), "block {block}");
    }
    assert_eq!(store.asked(), requests(&[("GetObject", 5)]));
    assert!(budget.bytes() <= 2 * MIB, "{}", budget.bytes());
    drop(reader);
    assert_eq!(budget.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_at_once_share_the_ranges() {
    let (store, whole, budget) = (Store::start().await, content(20 * MIB), ReadBudget::new(256 * MIB));
    let reader = Arc::new(reader(&store, &whole, &budget).await);
    let through = |whole: Bytes, reader: Arc<Reader>| async move {
        for block in 0..160 {
            let (offset, len) = (block * 128 * KIB, 128 * KIB);
            assert!(reader.read(offset, len).await.unwrap() == part(&whole, offset, len));
            tokio::task::yield_now().await;
        }
    };
    let (one, two) = (through(whole.clone(), Arc::clone(&reader)), through(whole.clone(), Arc::clone(&reader)));
    // In one task, so that neither runs away from the other.
    futures_util::join!(one, two);
    assert_eq!(store.asked(), requests(&[("GetObject", 3)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_the_kernel_sends_out_of_order_are_answered_each_with_its_bytes() {
    let (store, whole, budget) = (Store::start().await, content(32 * MIB), ReadBudget::new(256 * MIB));
    let reader = reader(&store, &whole, &budget).await;
    for batch in 0..64 {
        let offsets: Vec<u64> = (0..4).rev().map(|n| (batch * 4 + n) * 128 * KIB).collect();
        let reads = offsets.iter().map(|offset| reader.read(*offset, 128 * KIB));
        for (answer, offset) in futures_util::future::join_all(reads).await.into_iter().zip(&offsets) {
            assert!(answer.unwrap() == part(&whole, *offset, 128 * KIB), "{offset}");
        }
    }
    assert_eq!(store.asked(), requests(&[("GetObject", 4)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_reads_cost_one_get_each_and_small_ones_128_kib() {
    let (store, whole, budget) = (Store::start().await, content(64 * MIB), ReadBudget::new(256 * MIB));
    let reader = reader(&store, &whole, &budget).await;
    for place in [50, 3, 33, 12, 60, 21, 44, 7, 28] {
        let offset = place * MIB + 777;
        assert!(reader.read(offset, 4 * KIB).await.unwrap() == part(&whole, offset, 4 * KIB));
    }
    let counters = store.server.counters().operation("GetObject");
    assert_eq!(counters.requests, 9);
    assert!(counters.body_bytes_out <= 9 * 128 * KIB, "{}", counters.body_bytes_out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_budget_reads_are_slower_and_nothing_else() {
    let (store, whole, budget) = (Store::start().await, content(8 * MIB), ReadBudget::new(0));
    let reader = reader(&store, &whole, &budget).await;
    for block in 0..64 {
        let (offset, len) = (block * 128 * KIB, 128 * KIB);
        assert!(reader.read(offset, len).await.unwrap() == part(&whole, offset, len), "block {block}");
        assert!(budget.bytes() <= MIB, "{}", budget.bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_reader_gives_its_bytes_to_one_that_reads() {
    let (store, whole) = (Store::start().await, content(32 * MIB));
    let budget = ReadBudget::with_idle_after(10 * MIB, Duration::ZERO);
    let idle = reader(&store, &whole, &budget).await;
    for block in 0..8 {
        idle.read(block * 128 * KIB, 128 * KIB).await.unwrap();
    }
    let held = budget.bytes();
    assert!(held > 5 * MIB, "{held}");
    let busy = Reader::new(Arc::clone(&store.gateway), idle.location(), 32 * MIB, Arc::clone(&budget));
    store.asked();
    for block in 0..256 {
        busy.read(block * 128 * KIB, 128 * KIB).await.unwrap();
        assert!(budget.bytes() <= 11 * MIB, "{}", budget.bytes());
    }
    let gets = store.asked()["GetObject"];
    assert!(gets <= 12, "{gets}");
    assert!(idle.read(MIB, 128 * KIB).await.unwrap() == part(&whole, MIB, 128 * KIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_object_is_an_error_and_never_a_mixture() {
    let (store, whole, budget) = (Store::start().await, content(16 * MIB), ReadBudget::new(256 * MIB));
    let reader = reader(&store, &whole, &budget).await;
    assert!(reader.read(0, 128 * KIB).await.unwrap() == part(&whole, 0, 128 * KIB));
    let other = store.put("f", Bytes::from(vec![9; 16 << 20]), &[]).await;
    let error = reader.read(12 * MIB, 4 * KIB).await.unwrap_err();
    assert!(matches!(&error, Error::Store(error) if error.kind == Kind::PreconditionFailed), "{error}");
    // Had this mount itself moved the content there, the reader would be told so.
    reader.relocate(Location { key: at("f"), version: other });
    assert_eq!(reader.read(12 * MIB, 2).await.unwrap(), Bytes::from_static(&[9, 9]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_that_fails_fails_those_who_wait_and_the_next_read_tries_afresh() {
    let (store, whole, budget) = (Store::start().await, content(4 * MIB), ReadBudget::new(256 * MIB));
    let reader = reader(&store, &whole, &budget).await;
    // The first range, and the second, which may overtake it.
    store.fail("GetObject", "f", 2, Fault::CutBodyAfter(600 * KIB));
    let reads = (0..8).map(|n| reader.read(n * 128 * KIB, 128 * KIB));
    let answers = futures_util::future::join_all(reads).await;
    assert!(answers[7].is_err());
    let mut failed = 0;
    for block in 0..32 {
        let (offset, len) = (block * 128 * KIB, 128 * KIB);
        // The second range may fail as late as now; each read that waits for it is told, and none after.
        let first = reader.read(offset, len).await;
        failed += u32::from(first.is_err());
        let bytes = if let Ok(bytes) = first { bytes } else { reader.read(offset, len).await.unwrap() };
        assert!(bytes == part(&whole, offset, len), "block {block}");
    }
    assert!(failed <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_is_proved_before_a_byte_of_it_is_given() {
    let (store, whole, budget) = (Store::start().await, content(512 * KIB), ReadBudget::new(256 * MIB));
    let reader = reader(&store, &whole, &budget).await;
    store.fail("GetObject", "f", 1, Fault::FlipByte(500 * KIB));
    assert!(reader.read(0, 4 * KIB).await.is_err());
    assert_eq!(reader.read(0, 4 * KIB).await.unwrap(), part(&whole, 0, 4 * KIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_reader_gives_its_memory_back_at_once() {
    let (store, whole, budget) = (Store::start().await, content(16 * MIB), ReadBudget::new(256 * MIB));
    let reader = reader(&store, &whole, &budget).await;
    store.fail("GetObject", "f", 0, Fault::Stall);
    let waiting = tokio::time::timeout(Duration::from_millis(200), reader.read(0, 4 * KIB)).await;
    assert!(waiting.is_err());
    assert!(budget.bytes() > 0);
    drop(reader);
    assert_eq!(budget.bytes(), 0);
}

/// Numbers that differ from run to run unless DSSEFS_SEED says which.
struct Random(u64);

impl Random {
    #[expect(clippy::print_stderr, reason = "a failing run can be repeated with its seed")]
    fn new() -> Random {
        let given = std::env::var("DSSEFS_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let seed = given.unwrap_or(u64::from(now) | 1);
        eprintln!("DSSEFS_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_reads_by_any_number_of_tasks_give_the_very_bytes() {
    let (store, mut random) = (Store::start().await, Random::new());
    for (size, budget) in [(700 * KIB, 256 * MIB), (5 * MIB + 1, 0), (24 * MIB + 77, 4 * MIB), (24 * MIB, 256 * MIB)] {
        let (whole, budget) = (content(size), ReadBudget::new(budget));
        let reader = reader(&store, &whole, &budget).await;
        let mut place = 0;
        for _ in 0..60 {
            let wanted: Vec<(u64, u64)> = (0..=random.below(6))
                .map(|_| {
                    // Mostly on from the last one, sometimes elsewhere, back or beyond the end.
                    place =
                        if random.below(8) == 0 { random.below(size + 10) } else { place + random.below(300 * KIB) };
                    (place, 1 + random.below(1200 * KIB))
                })
                .collect();
            let reads = wanted.iter().map(|(offset, len)| reader.read(*offset, *len));
            for (answer, (offset, len)) in futures_util::future::join_all(reads).await.into_iter().zip(&wanted) {
                assert!(answer.unwrap() == part(&whole, *offset, *len), "{len} bytes at {offset} of {size}");
            }
        }
        drop(reader);
        assert_eq!(budget.bytes(), 0);
    }
}
