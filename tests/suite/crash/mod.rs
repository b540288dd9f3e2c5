//! The daemon is killed at a chosen point and started again; what was acknowledged must be there, and nothing may be half.
//!
//! A trial is a workload, a way of mounting and a point: the n-th request to the store (before its work, or after it and before the
//! answer) or the n-th change of the local disk (before it, in the middle of a write, after it). In some trials the next mount is
//! killed as well while it recovers. In the end a mount must come up by itself, and the bucket must be one of the worlds that the
//! workload allows: that after all acknowledged deeds, or one that the deed under way could leave.
//!
//! As an ordinary test a few seconds of seeded points; `scripts/crash` goes through all of them, and `DSSEFS_CRASH_ONLY` repeats
//! those whose name contains its text.

mod point;
mod regressions;
mod work;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use self::point::{Disk, Point};
use self::work::{MARKER, Node, Workload, World, difference, workloads};
use crate::common::{Endpoint, Mount, attribute, deadline, seed};

/// How long the seeded points of one way of mounting go on, unless `DSSEFS_CRASH_SECONDS` says otherwise.
const SECONDS: u64 = 8;
/// How many of the workloads are gone through then.
const WORKLOADS: usize = 3;
/// So many points are tried however slow the machine is.
const TRIALS_MIN: u64 = 3;
/// How long one trial may take before something hangs.
const TRIAL_MAX: Duration = Duration::from_secs(90);
/// Objects below a mount's own name in the bucket.
const OWN: &str = ".dssefs";

/// A way of mounting.
struct Way {
    name: &'static str,
    options: &'static [&'static str],
}

const CLOSE: Way = Way { name: "close", options: &["--memory", "32MiB"] };
const KEPT: Way = Way { name: "kept", options: &["--memory", "32MiB", "--spill-keys", "kms"] };
const BACKGROUND: Way =
    Way { name: "background", options: &["--memory", "32MiB", "--spill-keys", "kms", "--commit", "background"] };
const LAST_WRITER_WINS: Way = Way {
    name: "last-writer-wins",
    options: &["--memory", "32MiB", "--spill-keys", "kms", "--commit", "background", "--last-writer-wins"],
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

/// What a trial found.
enum Verdict {
    /// All promises hold; whether the daemon was killed at the point, and not after it was through.
    Kept {
        killed: bool,
    },
    Broken(String),
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
    let mut dice = Dice(seed());
    let mut chosen = workloads();
    if seconds.is_none() {
        shuffle(&mut chosen, &mut dice);
        chosen.truncate(WORKLOADS);
    }
    let points = points(way, chosen, &mut dice);
    let (known, end) = (points.len(), Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS)));
    let (mut tried, mut killed, mut broken) = (0, 0, Vec::new());
    for (workload, point, second) in points {
        let again = second.map_or_else(String::new, |second| format!(", recovery at {second}"));
        let name = format!("{}, {}, {point}{again}", way.name, workload.name);
        if !name.contains(&only) {
            continue;
        }
        if tried >= TRIALS_MIN && Instant::now() > end {
            break;
        }
        tried += 1;
        match try_one(way, &workload, point, second) {
            Verdict::Kept { killed: at_the_point } => killed += u64::from(at_the_point),
            Verdict::Broken(how) => {
                println!("BROKEN: {name}: {how}");
                broken.push(name);
            }
        }
    }
    println!("{}: {tried} of {known} points tried, killed there {killed}, broken {}", way.name, broken.len());
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(tried > 0, "no point was tried");
}

type Trial = (Arc<Workload>, Point, Option<Point>);

/// Every point of each workload, the workloads in turn.
fn points(way: &'static Way, workloads: Vec<Workload>, dice: &mut Dice) -> Vec<Trial> {
    let mut points: Vec<(usize, Trial)> = Vec::new();
    for workload in workloads {
        let workload = Arc::new(workload);
        let length = measured(way, &workload);
        let starts = point::all(length.start_requests, length.start_steps);
        let mut own = point::all(length.requests, length.steps);
        shuffle(&mut own, dice);
        for (rank, point) in own.into_iter().enumerate() {
            // Every third recovery is killed, too.
            let second = (dice.roll(3) == 0).then(|| starts[dice.roll(starts.len() as u64) as usize]);
            points.push((rank, (Arc::clone(&workload), point, second)));
        }
    }
    points.sort_by_key(|(rank, _)| *rank);
    points.into_iter().map(|(_, point)| point).collect()
}

fn shuffle<T>(items: &mut [T], dice: &mut Dice) {
    for last in (1..items.len()).rev() {
        items.swap(last, dice.roll(last as u64 + 1) as usize);
    }
}

fn try_one(way: &'static Way, workload: &Arc<Workload>, point: Point, second: Option<Point>) -> Verdict {
    let (sender, receiver) = std::sync::mpsc::channel();
    let workload = Arc::clone(workload);
    let trial = move || drop(sender.send(trial(way, &workload, point, second)));
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

fn trial(way: &Way, workload: &Arc<Workload>, point: Point, second: Option<Point>) -> Verdict {
    let (endpoint, disk) = (Endpoint::start(), Disk::new());
    let mut mount = start(&endpoint, &disk, way);
    point.arm(&endpoint, &disk);
    let (progress, killed) = work_until_killed(&endpoint, &mut mount, workload);
    drop(mount);
    if !killed && let Some(failure) = progress.failure {
        return Verdict::Broken(format!("a deed failed: {failure}"));
    }
    if let Some(file) = in_clear(disk.path()) {
        return Verdict::Broken(format!("{file} has a name or content in clear"));
    }
    Point::disarm(&endpoint, &disk);
    if let Some(second) = second {
        let struck_before = endpoint.struck();
        second.arm(&endpoint, &disk);
        let fatal = || endpoint.struck() > struck_before;
        Mount::killed_while_it_starts(&endpoint, &options(way, &disk), &disk.environment(), fatal);
        Point::disarm(&endpoint, &disk);
    }
    match check(&endpoint, &disk, way, &progress.allowed) {
        Ok(()) => Verdict::Kept { killed },
        Err(how) => Verdict::Broken(how),
    }
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

/// Carries the workload out until the daemon has come to its point, or through; whether it came to the point. It is dead then.
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
        if endpoint.struck() > 0 {
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
        now().allowed = outcomes;
        let done = deed.carry_out(root);
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
    let (progress, killed) = work_until_killed(&endpoint, &mut mount, workload);
    assert!(!killed && progress.failure.is_none(), "{}: {:?}\n{}", workload.name, progress.failure, mount.log());
    let (requests, steps) = (endpoint.counters().all_requests(), disk.steps());
    endpoint.reset();
    let next = start(&endpoint, &disk, way);
    let (start_requests, start_steps) = (endpoint.counters().all_requests(), disk.steps() - steps);
    drop(next);
    Length { requests, steps: steps - steps_before, start_requests, start_steps }
}

/// Starts a mount, which has to make everything good before it answers, and looks at the bucket and the local disk.
fn check(endpoint: &Endpoint, disk: &Disk, way: &Way, allowed: &[World]) -> Result<(), String> {
    let mount = start(endpoint, disk, way);
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
    if log.contains("changed at byte") || log.contains("removed, and not by dssefs") {
        return Err(format!("a crash is taken for an attack; the daemon said:\n{log}"));
    }
    if !mount.end().success() {
        return Err("the last mount did not end well".to_owned());
    }
    let left = fs::read_dir(disk.path()).map_err(|error| error.to_string())?;
    let left: Vec<_> = left.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
    // Of a pending file that was just being replaced or removed, the bytes are kept and named: nobody was told yet that they may go.
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
        let mode = head.metadata().and_then(|user| user.get("mode")?.parse::<u32>().ok()).unwrap_or_default() & 0o7777;
        let node = match key.ends_with('/') {
            true => Node::Directory,
            false => Node::File { content: Arc::new(endpoint.content(&key)), mode },
        };
        found.insert(key, node);
    }
    Ok(found)
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
