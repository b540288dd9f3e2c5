//! The daemon is killed at a chosen point and started again; what was acknowledged must be there, and nothing may be
//! half.
//!
//! A trial is a workload, a way of mounting and a point: the n-th request to the store (before its work, or after it
//! and before the answer) or the n-th change of the local disk (before it, in the middle of a write, after it). In some
//! trials the next mount is killed as well, while it proves itself or while it recovers; in some, the store or KMS has
//! a fault that passes when the last one starts. In the end a mount must come up by itself, and the bucket must be one
//! of the worlds that the workload allows: that after all acknowledged deeds, or one that the deed under way could
//! leave.
//!
//! As an ordinary test a few seconds of seeded points; `scripts/crash` goes through all of them, and
//! `DSSEFS_CRASH_ONLY` repeats those whose name contains its text.

mod point;
mod regressions;
mod work;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dssefs_emulator::faults::{Fault, Rule};
use rustix::process::Signal;

use self::point::{Disk, Point};
use self::work::{Workload, workloads};
use self::world::{Facts, MARKER, Node, World, difference};
use crate::common::{Endpoint, Mount, attribute, deadline, failure, seed};

/// How long the seeded points of one way of mounting go on, unless `DSSEFS_CRASH_SECONDS` says otherwise.
const SECONDS: u64 = 5;
/// So many points are tried however slow the machine is.
const TRIALS_MIN: u64 = 3;
/// How long one trial may take before something hangs.
const TRIAL_MAX: Duration = Duration::from_secs(90);
/// Times before this, in seconds, are those that programs set.
const DATED_MAX: u64 = 1_100_000_000;
/// Objects below a mount's own name in the bucket.
const OWN: &str = ".dssefs";

/// How long the store takes for a PutObject in the way whose keys are renewed: longer than they live.
const SLOW_MS: u64 = 1_200;
/// A recovery has rarely more requests that name a file.
const NAMED_MAX: u64 = 8;

/// A way of mounting.
struct Way {
    name: &'static str,
    options: &'static [&'static str],
    /// How many of the workloads are gone through by the ordinary test.
    workloads: usize,
    /// Only these; all, where there are none.
    only: &'static [&'static str],
    /// Keys of the journal are renewed while files are pending.
    renews: bool,
}

const CLOSE: Way = Way { name: "close", options: &["--memory", "32MiB"], workloads: 2, only: &[], renews: false };
const KEPT: Way = Way { name: "kept", options: &["--memory", "32MiB", "--spill-keys", "kms"], ..CLOSE };
const BACKGROUND: Way = Way {
    name: "background",
    options: &["--memory", "32MiB", "--spill-keys", "kms", "--commit", "background"],
    ..CLOSE
};
const LAST_WRITER_WINS: Way = Way {
    name: "last-writer-wins",
    options: &["--memory", "32MiB", "--spill-keys", "kms", "--commit", "background", "--last-writer-wins"],
    ..CLOSE
};
const RENEWED: Way = Way {
    name: "renewed",
    options: &["--memory", "32MiB", "--spill-keys", "kms", "--commit", "background", "--spill-key-lifetime", "1s"],
    workloads: 1,
    only: &["small", "remove", "attributes", "tree", "open"],
    renews: true,
};
/// With a spill that is smaller than what the workload has open.
const PRESSED: Way = Way {
    name: "pressed",
    options: &["--memory", "32MiB", "--spill", "24MiB", "--spill-keys", "kms", "--commit", "background"],
    workloads: 1,
    only: &["large", "stream", "many"],
    renews: false,
};

#[test]
fn a_crash_loses_nothing_that_close_returned_for() {
    sweep(&CLOSE);
}

#[test]
fn a_crash_loses_nothing_with_a_journal() {
    sweep(&KEPT);
}

#[test]
fn a_crash_loses_nothing_that_was_acknowledged_from_the_local_disk() {
    sweep(&BACKGROUND);
}

#[test]
fn a_crash_loses_nothing_where_the_last_writer_wins() {
    sweep(&LAST_WRITER_WINS);
}

#[test]
fn a_crash_loses_nothing_while_keys_are_renewed() {
    sweep(&RENEWED);
}

#[test]
fn a_crash_loses_nothing_under_pressure() {
    sweep(&PRESSED);
}

/// What a trial found.
enum Verdict {
    /// All promises hold.
    Kept(Reached),
    Broken(String),
}

/// What came to pass in a trial, and not after the daemon was through.
#[derive(Default)]
struct Reached {
    killed: bool,
    /// The next one, while it started.
    killed_again: bool,
    /// The fault at the last start.
    faulty: bool,
}

/// What was meant, and what came to pass, over all trials.
#[derive(Default)]
struct Count {
    tried: u64,
    killed: u64,
    again: u64,
    killed_again: u64,
    /// Of those, at requests that the recovery made for files.
    killed_recovering: u64,
    faulty: u64,
}

impl Count {
    fn add(&mut self, trial: &Trial, reached: &Reached) {
        self.killed += u64::from(reached.killed);
        self.again += u64::from(trial.second.is_some());
        self.killed_again += u64::from(reached.killed_again);
        let named = matches!(trial.second, Some(Point::Named { .. }));
        self.killed_recovering += u64::from(reached.killed_again && named);
        self.faulty += u64::from(reached.faulty);
    }
}

/// A life without a crash, to know its length.
struct Length {
    requests: u64,
    steps: u64,
    /// Of the mount that comes after it.
    start_requests: u64,
    start_steps: u64,
}

/// Numbers that a seed decides (SplitMix64, Steele and others 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides.max(1)
    }
}

fn sweep(way: &'static Way) {
    let seconds = std::env::var("DSSEFS_CRASH_SECONDS").ok().and_then(|text| text.parse().ok());
    let only = std::env::var("DSSEFS_CRASH_ONLY").unwrap_or_default();
    let seed = seed();
    let mut chosen = workloads();
    chosen.retain(|workload| way.only.is_empty() || way.only.contains(&workload.name));
    if seconds.is_none() {
        shuffle(&mut chosen, &mut Dice(seed));
        chosen.truncate(way.workloads);
    }
    let named: Vec<&str> = only.split(", ").collect();
    if chosen.iter().any(|workload| named.contains(&workload.name)) {
        chosen.retain(|workload| named.contains(&workload.name));
    }
    let trials = trials(way, chosen, seed);
    let (known, end) = (trials.len(), Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS)));
    let (mut count, mut broken) = (Count::default(), Vec::new());
    for trial in trials {
        let name = format!("{}, {trial}", way.name);
        if !name.contains(&only) {
            continue;
        }
        if count.tried >= TRIALS_MIN && Instant::now() > end {
            break;
        }
        count.tried += 1;
        match try_one(way, &trial) {
            Verdict::Kept(reached) => count.add(&trial, &reached),
            Verdict::Broken(how) => {
                println!("BROKEN: {name}: {how}");
                broken.push(name);
            }
        }
    }
    let Count { tried, killed, again, killed_again, killed_recovering, faulty } = count;
    println!(
        "{}: {tried} of {known} points tried, killed there {killed}, broken {}; \
         the next start killed {killed_again} times of {again}, \
         {killed_recovering} of them at requests for files; last start under a fault {faulty}",
        way.name,
        broken.len()
    );
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(tried > 0, "no point was tried");
}

/// What is done to a mount and to those after it.
#[derive(Clone)]
struct Trial {
    workload: Arc<Workload>,
    point: Point,
    /// Where the next mount is killed while it starts.
    second: Option<Point>,
    /// What the last mount meets when it starts, and is through with by itself.
    fault: Option<Rule>,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.workload.name, self.point)?;
        if let Some(second) = self.second {
            write!(f, ", recovery at {second}")?;
        }
        match &self.fault {
            Some(Rule { operation, nth, times, fault, .. }) => {
                write!(f, ", then {} for {operation} {nth} to {}", fault.name(), nth + times - 1)
            }
            None => Ok(()),
        }
    }
}

/// Every point of each workload, the workloads in turn. What is drawn for one does not depend on the others.
fn trials(way: &'static Way, workloads: Vec<Workload>, seed: u64) -> Vec<Trial> {
    let mut trials: Vec<(usize, Trial)> = Vec::new();
    for workload in workloads {
        let own_seed = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, workload.name.as_bytes());
        let dice = &mut Dice(seed ^ own_seed);
        let workload = Arc::new(workload);
        let length = measured(way, &workload);
        let starts = point::all(length.start_requests, length.start_steps);
        let mut own = point::all(length.requests, length.steps);
        shuffle(&mut own, dice);
        for (rank, point) in own.into_iter().enumerate() {
            // Every third recovery is killed, too, and every third meets a fault.
            let second = (dice.roll(3) == 0).then(|| second(&starts, dice));
            let fault = (dice.roll(3) == 0).then(|| passing(dice));
            trials.push((rank, Trial { workload: Arc::clone(&workload), point, second, fault }));
        }
    }
    trials.sort_by_key(|(rank, _)| *rank);
    trials.into_iter().map(|(_, trial)| trial).collect()
}

/// In the proof of a start and its first steps, or at what it asks for the files that it recovers, the first requests
/// more often: there may be no others.
fn second(starts: &[Point], dice: &mut Dice) -> Point {
    if dice.roll(2) == 0 {
        return starts[dice.roll(starts.len() as u64) as usize];
    }
    let most = dice.roll(NAMED_MAX) + 1;
    Point::Named { nth: dice.roll(most) + 1, after: dice.roll(2) == 0 }
}

/// A fault that a start is through with before its tries are used up: at its proof, or at what it recovers.
fn passing(dice: &mut Dice) -> Rule {
    let nth = dice.roll(16) + 1;
    match dice.roll(5) {
        0 => Rule::on("*", failure(503, "SlowDown")).nth(nth).times(3),
        1 => Rule::on("*", Fault::Reset).nth(nth).times(2),
        2 => Rule::on("*", Fault::LoseAnswer).key_contains(MARKER).nth(nth / 4 + 1),
        3 => Rule::on("kms:*", failure(400, "ThrottlingException")).nth(nth / 4 + 1).times(3),
        _ => Rule::on("PutObject", Fault::ThrottleKms).nth(nth / 4 + 1).times(2),
    }
}

fn shuffle<T>(items: &mut [T], dice: &mut Dice) {
    for last in (1..items.len()).rev() {
        items.swap(last, dice.roll(last as u64 + 1) as usize);
    }
}

fn try_one(way: &'static Way, meant: &Trial) -> Verdict {
    let (sender, receiver) = std::sync::mpsc::channel();
    let meant = meant.clone();
    let trial = move || drop(sender.send(trial(way, &meant)));
    // A trial that panics or hangs is told with the others, and the next one goes on.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| deadline(TRIAL_MAX, trial))) {
        Ok(()) => receiver.recv().unwrap_or_else(|_| Verdict::Broken("the trial said nothing".to_owned())),
        Err(_) => Verdict::Broken("the trial panicked".to_owned()),
    }
}

/// How far a workload came.
struct Progress {
    acknowledged: World,
    allowed: Vec<World>,
    failure: Option<String>,
}

fn trial(way: &Way, meant: &Trial) -> Verdict {
    let (endpoint, disk) = (Endpoint::start(), Disk::new());
    let mut mount = start(&endpoint, &disk, way);
    meant.point.arm(&endpoint, &disk, slowness(way));
    let (progress, killed) = work_until_killed(&endpoint, &mut mount, &meant.workload);
    let log = mount.log();
    drop(mount);
    if !killed && let Some(failure) = progress.failure {
        return Verdict::Broken(format!("a deed failed: {failure}; the daemon said:\n{log}"));
    }
    if let Some(file) = in_clear(disk.path()) {
        return Verdict::Broken(format!("{file} has a name or content in clear"));
    }
    Point::disarm(&endpoint, &disk);
    let mut reached = Reached { killed, ..Reached::default() };
    if let Some(second) = meant.second {
        second.arm(&endpoint, &disk, Vec::new());
        let fatal = || endpoint.stalled() > 0;
        reached.killed_again =
            Mount::killed_while_it_starts(&endpoint, &options(way, &disk), &disk.environment(), fatal);
        Point::disarm(&endpoint, &disk);
    }
    endpoint.inject_faults(meant.fault.iter().cloned().collect());
    let last = start(&endpoint, &disk, way);
    reached.faulty = endpoint.struck() > 0;
    endpoint.clear_faults();
    match check(&endpoint, &disk, last, &progress.allowed) {
        Ok(()) => Verdict::Kept(reached),
        Err(how) => Verdict::Broken(how),
    }
}

/// Of the store, while it works for a mount whose keys are renewed: so that there are files to be stored under older
/// ones.
fn slowness(way: &Way) -> Vec<Rule> {
    way.renews.then(|| Rule::on("PutObject", Fault::DelayMs(SLOW_MS)).times(0)).into_iter().collect()
}

fn options<'a>(way: &Way, disk: &'a Disk) -> Vec<&'a str>
where
    'static: 'a,
{
    let spill = ["--spill-dir", disk.path().to_str().expect("a path of the tests is UTF-8")];
    [way.options, &spill].concat()
}

fn start(endpoint: &Endpoint, disk: &Disk, way: &Way) -> Mount {
    Mount::with_variables(endpoint, &options(way, disk), &disk.environment())
}

/// Carries the workload out until the daemon has come to its point, or through; whether it came to the point. It is
/// dead then.
fn work_until_killed(endpoint: &Endpoint, mount: &mut Mount, workload: &Arc<Workload>) -> (Progress, bool) {
    let first = World::new();
    let progress = Progress { allowed: vec![first.clone()], acknowledged: first, failure: None };
    let progress = Arc::new(Mutex::new(progress));
    let worker = {
        let (progress, workload, root) = (Arc::clone(&progress), Arc::clone(workload), mount.path());
        std::thread::spawn(move || work(&workload, &root, &progress))
    };
    let killed = loop {
        if mount.has_ended() {
            break true;
        }
        if endpoint.stalled() > 0 {
            // What is done after the answer was held back, or at the same time, may get a little further.
            std::thread::sleep(Duration::from_millis(30));
            break true;
        }
        if worker.is_finished() {
            let failed = progress.lock().unwrap_or_else(PoisonError::into_inner).failure.is_some();
            // Programs hear of the daemon's death before those who wait for it.
            break failed && mount.ended().is_some();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if !mount.has_ended() {
        mount.signal(Signal::KILL);
        mount.ended().expect("a killed process ends");
    }
    worker.join().expect("the worker does not panic");
    let progress = Arc::into_inner(progress).expect("the worker has ended");
    (progress.into_inner().unwrap_or_else(PoisonError::into_inner), killed)
}

fn work(workload: &Workload, root: &Path, progress: &Mutex<Progress>) {
    let now = || progress.lock().unwrap_or_else(PoisonError::into_inner);
    for deed in &workload.deeds {
        let outcomes = deed.outcomes(&now().acknowledged);
        let after = outcomes.last().expect("there is one").clone();
        now().allowed.clone_from(&outcomes);
        let narrowed = |impossible: usize| now().allowed = outcomes[impossible..].to_vec();
        let done = deed.carry_out(root, &narrowed);
        // The close of a File tells no error. Of a daemon that still answers, it was not that of its death.
        let alive = attribute(root, "user.dsse.mount.unsaved");
        if let Err(error) = done.and(alive) {
            now().failure = Some(format!("{deed:?}: {error}"));
            return;
        }
        *now() = Progress { allowed: vec![after.clone()], acknowledged: after, failure: None };
    }
    while attribute(root, "user.dsse.mount.unsaved").is_ok_and(|unsaved| unsaved != "0") {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn measured(way: &Way, workload: &Arc<Workload>) -> Length {
    let (endpoint, disk) = (Endpoint::start(), Disk::new());
    let mut mount = start(&endpoint, &disk, way);
    let steps_before = disk.steps();
    endpoint.reset();
    endpoint.inject_faults(slowness(way));
    let (progress, killed) = work_until_killed(&endpoint, &mut mount, workload);
    assert!(!killed && progress.failure.is_none(), "{}: {:?}\n{}", workload.name, progress.failure, mount.log());
    let (requests, steps) = (endpoint.counters().all_requests(), disk.steps());
    let renewals = endpoint.counters().kms_direct.get("GenerateDataKey").copied().unwrap_or_default();
    assert!(renewals > 0 || !way.renews, "{}: no keys were renewed", workload.name);
    endpoint.clear_faults();
    endpoint.reset();
    let next = start(&endpoint, &disk, way);
    let (start_requests, start_steps) = (endpoint.counters().all_requests(), disk.steps() - steps);
    drop(next);
    Length { requests, steps: steps - steps_before, start_requests, start_steps }
}

/// Looks at the bucket and the local disk after a mount has started, which has to make everything good before it
/// answers.
fn check(endpoint: &Endpoint, disk: &Disk, mount: Mount, allowed: &[World]) -> Result<(), String> {
    let found = world(endpoint)?;
    let said = || format!("; the daemon said:\n{}", mount.log());
    if !allowed.contains(&found) {
        let worlds = allowed.iter().map(|world| difference(world, &found)).collect::<Vec<_>>();
        return Err(format!("the bucket differs from every allowed world: {worlds:#?}{}", said()));
    }
    for (name, node) in &found {
        if let Node::File { content, .. } = node
            && fs::read(mount.join(name)).map_err(|error| format!("{name}: {error}"))? != **content
        {
            return Err(format!("{name} is read as something else"));
        }
    }
    // One that the daemon had not heard of has no parts, and costs nothing: its id died with the answer.
    if endpoint.uploads_with_parts() > 0 {
        return Err(format!("a multipart upload is left{}", said()));
    }
    let (told, log) = (mount.log().contains("kept for dssefs recover"), mount.log());
    if log.contains("changed at byte") || log.contains("another program removed") {
        return Err(format!("a crash is taken for an attack; the daemon said:\n{log}"));
    }
    if !mount.end().success() {
        return Err("the last mount did not end well".to_owned());
    }
    let left = fs::read_dir(disk.path()).map_err(|error| error.to_string())?;
    let left: Vec<_> = left.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
    // Of a pending file that was just being replaced or removed, the bytes are kept and named: no program was told yet
    // that they may go.
    let under_way = allowed.len() > 1;
    match (left.is_empty(), told) {
        (true, _) => Ok(()),
        (false, true) if under_way => Ok(()),
        (false, true) => Err(format!("{left:?} stay for files that nobody else has touched; the daemon said:\n{log}")),
        (false, false) => Err(format!("{left:?} stay on the local disk; the daemon said:\n{log}")),
    }
}

/// The bucket as others see it; each object must be what the mount promises.
fn world(endpoint: &Endpoint) -> Result<World, String> {
    let mut found = BTreeMap::new();
    for key in endpoint.keys() {
        endpoint.assert_dsse(&key);
        if key.starts_with(OWN) {
            return Err(format!("{key} is left in the bucket"));
        }
        let head = endpoint.head(&key).ok_or("an object has gone meanwhile")?;
        let node = match key.ends_with('/') {
            true => Node::Directory,
            false => Node::File {
                content: Arc::new(endpoint.content(&key)),
                facts: facts(head.metadata().ok_or("no metadata")?),
            },
        };
        found.insert(key, node);
    }
    Ok(found)
}

/// What metadata says, as a program would have set it.
fn facts(user: &std::collections::HashMap<String, String>) -> Facts {
    let text = |name| user.get(name).map_or("", String::as_str);
    let number = |name| text(name).split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or_default();
    let mtime = Some(number("mtime")).filter(|seconds| *seconds < DATED_MAX).unwrap_or_default();
    Facts { mode: number("mode") as u32 & 0o7777, uid: number("uid") as u32, mtime, colour: text("colour").to_owned() }
}

/// A file below `directory` in which a marker stands.
fn in_clear(directory: &Path) -> Option<String> {
    for entry in fs::read_dir(directory).ok()?.filter_map(Result::ok) {
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        let bytes = fs::read(&path).unwrap_or_default();
        let has_marker = bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
        if has_marker || path.to_string_lossy().contains(MARKER) {
            return Some(path.display().to_string());
        }
        if kind.is_dir()
            && let Some(found) = in_clear(&path)
        {
            return Some(found);
        }
    }
    None
}
