//! Where a daemon is killed: at a request to the store, or at a step of its work on the local disk.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use dssefs_emulator::faults::{Fault, Rule};
use tempfile::{NamedTempFile, TempDir};

use super::world::MARKER;
use crate::common::Endpoint;

/// A point of a daemon's life, counted from when it is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// When the store gets this request, counted from 1; before its work, or after it and before the answer.
    Request { nth: u64, after: bool },
    /// The same, of the requests that name a file of the workload: what a start asks for its proof are none of these.
    Named { nth: u64, after: bool },
    /// At this change of the local disk, counted from 1.
    Step { nth: u64, how: How },
}

/// Where in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Before,
    Torn,
    After,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = |after: &bool| if *after { "after" } else { "before" };
        match self {
            Point::Request { nth, after } => write!(f, "request {nth} {}", when(after)),
            Point::Named { nth, after } => write!(f, "named request {nth} {}", when(after)),
            Point::Step { nth, how } => write!(f, "step {nth} {how:?}"),
        }
    }
}

/// Every point of a life with so many requests and steps.
pub(super) fn all(requests: u64, steps: u64) -> Vec<Point> {
    let request = |nth| [false, true].map(|after| Point::Request { nth, after });
    let step = |nth| [How::Before, How::Torn, How::After].map(|how| Point::Step { nth, how });
    (1..=requests).flat_map(request).chain((1..=steps).flat_map(step)).collect()
}

/// The local disk of daemons that die at a step: a directory to spill into, and the counter that the preloaded
/// `steps.c` shares.
pub(super) struct Disk {
    directory: TempDir,
    plan: NamedTempFile,
    shared: File,
}

impl Disk {
    pub(super) fn new() -> Disk {
        let plan = NamedTempFile::new().expect("a temporary file");
        plan.as_file().set_len(24).expect("room for three numbers");
        let shared = OpenOptions::new().read(true).write(true).open(plan.path()).expect("it was just made");
        Disk { directory: TempDir::new().expect("a temporary directory"), plan, shared }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn environment(&self) -> [(&'static str, &Path); 3] {
        [("LD_PRELOAD", library()), ("DSSEFS_STEPS_FILE", self.plan.path()), ("DSSEFS_STEPS_DIR", self.path())]
    }

    pub(super) fn steps(&self) -> u64 {
        self.number(0)
    }

    fn arm(&self, nth: u64, how: How) {
        self.set(16, how as u64);
        self.set(8, self.steps() + nth);
    }

    fn disarm(&self) {
        self.set(8, 0);
    }

    /// From the next step on, the disk fails to sync, and nothing else.
    pub(super) fn fail_to_sync(&self) {
        const FAILING: u64 = 3;
        self.set(16, FAILING);
        self.set(8, self.steps() + 1);
    }

    fn number(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.shared.read_exact_at(&mut bytes, at).expect("a number");
        u64::from_ne_bytes(bytes)
    }

    fn set(&self, at: u64, number: u64) {
        self.shared.write_all_at(&number.to_ne_bytes(), at).expect("a number is written");
    }
}

impl Point {
    /// From now on, the daemon comes to `self` and no further; the store has these faults besides.
    pub(super) fn arm(self, endpoint: &Endpoint, disk: &Disk, faults: Vec<Rule>) {
        let stop = match self {
            Point::Request { nth, after } => stop(nth, after).to_vec(),
            Point::Named { nth, after } => stop(nth, after).map(|rule| rule.key_contains(MARKER)).to_vec(),
            Point::Step { nth, how } => {
                disk.arm(nth, how);
                Vec::new()
            }
        };
        endpoint.inject_faults([stop, faults].concat());
    }

    pub(super) fn disarm(endpoint: &Endpoint, disk: &Disk) {
        endpoint.clear_faults();
        disk.disarm();
    }
}

/// The `nth` request is not answered, and none after it is begun.
fn stop(nth: u64, after: bool) -> [Rule; 2] {
    let fault = if after { Fault::StallAnswer } else { Fault::Stall };
    [Rule::on("*", fault).nth(nth), Rule::on("*", Fault::Stall).nth(nth + 1).times(0)]
}

/// `steps.c`, built by the compiler that links Rust programs.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/crash/steps.c");
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("steps.so");
        // Beside it first, for those who test at the same time.
        let fresh = built.with_extension(std::process::id().to_string());
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&fresh).arg(source).status();
        assert!(compiled.expect("cc is there, as Rust links with it").success());
        std::fs::rename(fresh, &built).expect("the same directory");
        built
    })
}
