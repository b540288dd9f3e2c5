//! Everything that reads bytes of others, over a saved corpus and random mutations of it. The same functions are fuzzed
//! by `scripts/fuzz`, which finds what is worth saving here.
//!
//! `DSSEFS_SEED` repeats a run; `DSSEFS_FUZZ_FACTOR` multiplies the number of mutations.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "in a test, a panic is the report")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

#[path = "../fuzz/src/lib.rs"]
mod targets;

use targets::{TARGETS, Target};

/// No input that is worth saving is longer, in bytes.
const INPUT_BYTES_MAX: usize = 16 << 10;
/// All that is saved, in bytes.
const CORPUS_BYTES_MAX: usize = 300 << 10;
/// Edits of one mutation.
const EDITS_MAX: u64 = 6;
/// What is worth trying in the place of any byte.
const BYTES: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'/', b'.', b'%', b'-', b'\n', b'9'];

#[test]
fn every_promise_holds_for_the_corpus_and_for_mutations_of_it() {
    let seed = seed();
    let factor = std::env::var("DSSEFS_FUZZ_FACTOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    // Side by side, as the slow ones wait for a disk and a network of their own.
    std::thread::scope(|scope| {
        let run = |(name, mutations, target)| move || try_all(name, mutations * factor, target, seed);
        let threads: Vec<_> = TARGETS.into_iter().map(|target| scope.spawn(run(target))).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
}

#[test]
fn an_answer_of_kms_that_cannot_be_read_puts_its_data_key_into_no_error() {
    holds_for("kms", &["data-key-cut", "unwrapped-cut"]);
}

#[test]
fn a_data_key_that_came_without_its_wrapped_form_is_refused() {
    holds_for("kms", &["data-key-without-wrapped"]);
}

#[test]
fn an_upload_that_was_given_no_name_is_refused() {
    holds_for("store", &["created-without-name"]);
}

#[test]
fn a_removed_attribute_never_makes_the_others_too_large_for_the_store() {
    holds_for("xattr", &["blob-without-escapes-remove"]);
}

#[test]
fn a_record_that_was_cut_off_the_journal_and_put_back_is_told() {
    holds_for("life", &["given-up-record-put-back"]);
}

#[test]
fn what_was_replaced_does_not_come_back_when_a_part_of_what_took_its_place_goes() {
    holds_for("life", &["replaced-over-segments"]);
}

#[test]
fn a_journal_that_was_cut_is_told_after_the_segments_behind_the_cut_went() {
    holds_for("life", &["cut-before-reclaimed"]);
}

#[test]
fn the_mounts_own_names_are_its_own_in_capital_letters_too() {
    holds_for("xattr", &["capital-letters-of-the-mounts-own-names"]);
}

#[test]
fn the_corpus_is_small_and_each_part_of_it_belongs_to_a_target() {
    let known: Vec<&str> = TARGETS.iter().map(|(name, ..)| *name).collect();
    for directory in fs::read_dir(corpus()).unwrap() {
        let name = directory.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name.as_str()), "{name} is no target");
    }
    let sizes: Vec<usize> = known.iter().flat_map(|name| inputs(name)).map(|input| input.len()).collect();
    assert!(sizes.iter().all(|size| *size <= INPUT_BYTES_MAX), "an input is too long");
    assert!(sizes.iter().sum::<usize>() <= CORPUS_BYTES_MAX, "the corpus is too large");
}

#[test]
fn every_fuzzing_program_is_of_one_target() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for (name, ..) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not in fuzz/Cargo.toml");
        let program = fs::read_to_string(root().join(format!("fuzz/targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("dssefs_fuzz::{name}(data)")), "{program}");
    }
}

/// Saved inputs for which a promise did not hold once.
fn holds_for(name: &str, inputs: &[&str]) {
    let (_, _, target) = TARGETS.into_iter().find(|(known, ..)| *known == name).unwrap();
    inputs.iter().for_each(|input| target(&fs::read(corpus().join(name).join(input)).unwrap()));
}

/// The saved inputs as they are, and mutations of them.
fn try_all(name: &str, mutations: u32, target: Target, seed: u64) {
    let inputs = inputs(name);
    assert!(!inputs.is_empty(), "nothing is saved for {name}");
    inputs.iter().for_each(|input| try_one(name, target, input, seed));
    let mut random = Random(seed ^ name.bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte)));
    for _ in 0..mutations {
        try_one(name, target, &random.mutation(&inputs), seed);
    }
}

fn try_one(name: &str, target: Target, input: &[u8], seed: u64) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let saved = std::env::temp_dir().join(format!("dssefs-corpus-{name}-{}", std::process::id()));
        fs::write(&saved, input).unwrap();
        println!("{name} breaks a promise for the {} bytes in {} (DSSEFS_SEED={seed})", input.len(), saved.display());
        resume_unwind(panic);
    }
}

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(corpus().join(name)).unwrap_or_else(|error| panic!("no corpus of {name}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    // The order of a directory is no matter of the seed.
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn corpus() -> PathBuf {
    root().join("tests/corpus")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn seed() -> u64 {
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |now| now.subsec_nanos().into());
    let seed = std::env::var("DSSEFS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
    println!("DSSEFS_SEED={seed}");
    seed
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// One of the inputs with a few edits made to it.
    fn mutation(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.next() % EDITS_MAX {
            self.edit(&mut bytes, inputs);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }

    fn edit(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(32)).min(bytes.len());
        match self.next() % 8 {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, BYTES[self.below(BYTES.len())]),
            3 => {
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
            4 => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                let to = (from + self.below(64)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            5 => bytes[at..end].fill(BYTES[self.below(BYTES.len())]),
            verb => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if verb == 6 { self.next() as u8 } else { *byte ^ (1 << self.below(8)) };
                }
            }
        }
    }
}
