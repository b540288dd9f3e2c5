//! Random work on the mount and the same on a local directory: each call must come to the same, errors among it.
//!
//! A case is a list of calls over a few names, which are now files and now directories, and a few handles; it ends with
//! a remount, and a comparison of all that is left. What fails is shrunk to a short script. `DSSEFS_SEED` repeats a
//! run, `DSSEFS_MODEL_CASES` makes it longer.

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any};
use proptest::prop_oneof;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use super::common::{Endpoint, Mount, deadline, names, noise, seed};

const SLOTS: usize = 3;
const STEPS_MAX: usize = 80;
const CASES: u32 = 12;
/// Of one write. Past a part, so that some files are streamed, and their changes copied.
const WRITE_BYTES_MAX: usize = 9 << 20;
/// How long a failure is made shorter.
const SHRINK_MS: u32 = 120_000;

/// Few enough to meet often, deep enough to nest.
const PATHS: [&str; 8] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "b/a"];

/// What is there when a case begins, so that its calls find something to work on.
fn given() -> Vec<Step> {
    let how = How { read: true, write: true, append: false, create: true, exclusive: false, truncate: false };
    let mut given = vec![Step::Mkdir { path: "d" }, Step::Mkdir { path: "d/e" }];
    for (slot, path) in ["a", "d/a", "a"].into_iter().enumerate() {
        given.push(Step::Open { slot, path, how });
    }
    given
}

#[test]
fn random_work_comes_to_the_same_as_on_a_local_disk() {
    let cases = std::env::var("DSSEFS_MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    let seed = seed();
    deadline(Duration::from_secs(180 + 20 * u64::from(cases)), move || {
        let world = RefCell::new(World::new());
        let mut runner = runner(cases, seed);
        let outcome = runner.run(&vec(step(), 1..STEPS_MAX), |steps| world.borrow_mut().case(&steps));
        if let Err(TestError::Fail(reason, steps)) = &outcome {
            let script: Vec<String> = given().iter().chain(steps).map(ToString::to_string).collect();
            panic!("{reason}\nDSSEFS_SEED={seed}, the shortest script:\n{}", script.join("\n"));
        }
        outcome.expect("no case is given up");
        let world = world.borrow();
        println!("{} cases, {} calls, {} of them with success", world.cases, world.calls, world.succeeded);
        assert!(world.succeeded > world.calls / 4, "the calls hardly ever found something to work on");
    });
}

fn runner(cases: u32, seed: u64) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_time: SHRINK_MS, ..Config::default() };
    let bytes: Vec<u8> = noise(seed, 32);
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

#[derive(Clone, Debug)]
enum Step {
    Open { slot: usize, path: &'static str, how: How },
    Close { slot: usize },
    Write { slot: usize, offset: u64, length: usize },
    Read { slot: usize, offset: u64, length: usize },
    Resize { slot: usize, size: u64 },
    Sync { slot: usize },
    StatOpen { slot: usize },
    Stat { path: &'static str },
    List { path: &'static str },
    Chmod { path: &'static str, mode: u32 },
    Mkdir { path: &'static str },
    Rmdir { path: &'static str },
    Unlink { path: &'static str },
    Rename { from: &'static str, to: &'static str, replace: bool },
    Remount,
}

#[derive(Clone, Copy, Debug)]
struct How {
    read: bool,
    write: bool,
    append: bool,
    create: bool,
    exclusive: bool,
    truncate: bool,
}

impl How {
    fn options(self) -> OpenOptions {
        let mut options = OpenOptions::new();
        let flags = [(self.create, libc::O_CREAT), (self.exclusive, libc::O_EXCL), (self.truncate, libc::O_TRUNC)];
        let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
        let append = if self.append { libc::O_APPEND } else { 0 };
        // As flags, because std refuses some combinations that open(2) takes.
        options.read(self.read || !self.write).write(self.write).custom_flags(flags | append).mode(0o640);
        options
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Open { slot, path, how } => write!(f, "open {path} as {slot} {how}"),
            Step::Close { slot } => write!(f, "close {slot}"),
            Step::Write { slot, offset, length } => write!(f, "write {slot} at {offset}, {length} bytes"),
            Step::Read { slot, offset, length } => write!(f, "read {slot} at {offset}, {length} bytes"),
            Step::Resize { slot, size } => write!(f, "ftruncate {slot} to {size}"),
            Step::Sync { slot } => write!(f, "fsync {slot}"),
            Step::StatOpen { slot } => write!(f, "fstat {slot}"),
            Step::Stat { path } => write!(f, "stat {path}"),
            Step::List { path } => write!(f, "ls {path}"),
            Step::Chmod { path, mode } => write!(f, "chmod {mode:o} {path}"),
            Step::Mkdir { path } => write!(f, "mkdir {path}"),
            Step::Rmdir { path } => write!(f, "rmdir {path}"),
            Step::Unlink { path } => write!(f, "rm {path}"),
            Step::Rename { from, to, replace: true } => write!(f, "mv {from} {to}"),
            Step::Rename { from, to, replace: false } => write!(f, "mv --no-replace {from} {to}"),
            Step::Remount => write!(f, "remount"),
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.read || !self.write, "read"),
            (self.write, "write"),
            (self.append, "append"),
            (self.create, "create"),
            (self.exclusive, "exclusive"),
            (self.truncate, "truncate"),
        ];
        let words: Vec<&str> = words.iter().filter(|(is_set, _)| *is_set).map(|(_, word)| *word).collect();
        f.write_str(&words.join(","))
    }
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..SLOTS;
    let path = || select(&PATHS[..]);
    prop_oneof![
        10 => (slot(), path(), how()).prop_map(|(slot, path, how)| Step::Open { slot, path, how }),
        2 => slot().prop_map(|slot| Step::Close { slot }),
        14 => (slot(), offset(), length()).prop_map(|(slot, offset, length)| Step::Write { slot, offset, length }),
        10 => (slot(), offset(), length()).prop_map(|(slot, offset, length)| Step::Read { slot, offset, length }),
        3 => (slot(), offset()).prop_map(|(slot, size)| Step::Resize { slot, size }),
        2 => slot().prop_map(|slot| Step::Sync { slot }),
        3 => slot().prop_map(|slot| Step::StatOpen { slot }),
        4 => path().prop_map(|path| Step::Stat { path }),
        3 => select(&["", "b", "d", "d/e"][..]).prop_map(|path| Step::List { path }),
        3 => (path(), 0..0o1000_u32).prop_map(|(path, mode)| Step::Chmod { path, mode: mode | 0o700 }),
        4 => path().prop_map(|path| Step::Mkdir { path }),
        2 => path().prop_map(|path| Step::Rmdir { path }),
        3 => path().prop_map(|path| Step::Unlink { path }),
        6 => (path(), path(), any::<bool>()).prop_map(|(from, to, replace)| Step::Rename { from, to, replace }),
        1 => Just(Step::Remount),
    ]
}

fn how() -> impl Strategy<Value = How> {
    (any::<bool>(), 0..4_u8, 0..4_u8, 0..8_u8).prop_map(|(read, write, create, rare)| How {
        read,
        write: write > 0,
        append: rare == 1,
        create: create > 0,
        exclusive: create > 0 && rare == 2,
        truncate: write > 0 && rare < 2,
    })
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0_u64), 8 => 0..20_000_u64, 4 => 0..300_000_u64, 1 => 0..(20_u64 << 20)]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..5_000_usize, 4 => 0..150_000_usize, 1 => 0..WRITE_BYTES_MAX]
}

/// What a call came to.
#[derive(PartialEq)]
enum Seen {
    /// There is no file to do it to.
    Skipped,
    Failed(i32),
    Done,
    Count(usize),
    Bytes(Vec<u8>),
    Facts {
        directory: bool,
        mode: u32,
        size: u64,
        links: u64,
    },
    Names(Vec<(String, bool)>),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Failed(number) => write!(f, "{}", io::Error::from_raw_os_error(*number)),
            Seen::Skipped => write!(f, "nothing"),
            Seen::Done => write!(f, "success"),
            Seen::Count(count) => write!(f, "{count} bytes"),
            Seen::Bytes(bytes) => write!(f, "{} bytes, beginning with {:?}", bytes.len(), &bytes[..bytes.len().min(8)]),
            Seen::Facts { directory, mode, size, links } => {
                let kind = if *directory { "directory" } else { "file" };
                write!(f, "a {kind} of mode {mode:o}, {size} bytes, {links} links")
            }
            Seen::Names(names) => write!(f, "{names:?}"),
        }
    }
}

/// A directory to work in, with its open files.
struct Side {
    root: PathBuf,
    open: [Option<File>; SLOTS],
}

impl Side {
    fn new(root: PathBuf) -> Side {
        fs::create_dir(&root).expect("a directory for the case");
        Side { root, open: [const { None }; SLOTS] }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn does(&mut self, step: &Step, number: u64) -> Seen {
        let outcome = match step {
            Step::Open { slot, path, how } => self.open(*slot, path, *how),
            Step::Close { slot } => {
                self.open[*slot] = None;
                Ok(Seen::Done)
            }
            Step::Write { slot, offset, length } => {
                self.with(*slot, |file| file.write_at(&noise(number + 1, *length), *offset).map(Seen::Count))
            }
            Step::Read { slot, offset, length } => self.with(*slot, |file| read(file, *offset, *length)),
            Step::Resize { slot, size } => self.with(*slot, |file| file.set_len(*size).map(done)),
            Step::Sync { slot } => self.with(*slot, |file| file.sync_all().map(done)),
            Step::StatOpen { slot } => self.with(*slot, |file| file.metadata().map(|facts| seen(&facts))),
            Step::Stat { path } => fs::symlink_metadata(self.at(path)).map(|facts| seen(&facts)),
            Step::List { path } => list(&self.at(path)),
            Step::Chmod { path, mode } => fs::set_permissions(self.at(path), Permissions::from_mode(*mode)).map(done),
            Step::Mkdir { path } => fs::create_dir(self.at(path)).map(done),
            Step::Rmdir { path } => fs::remove_dir(self.at(path)).map(done),
            Step::Unlink { path } => fs::remove_file(self.at(path)).map(done),
            Step::Rename { from, to, replace } => {
                let flags = if *replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
                renameat_with(CWD, self.at(from), CWD, self.at(to), flags).map(done).map_err(io::Error::from)
            }
            Step::Remount => Ok(Seen::Done),
        };
        outcome.unwrap_or_else(|error| Seen::Failed(error.raw_os_error().expect("an error of the system")))
    }

    fn open(&mut self, slot: usize, path: &str, how: How) -> io::Result<Seen> {
        self.open[slot] = None;
        let file = how.options().open(self.at(path))?;
        // Handles of directories are of no interest here.
        if file.metadata()?.is_file() {
            self.open[slot] = Some(file);
        }
        Ok(Seen::Done)
    }

    fn with(&self, slot: usize, work: impl FnOnce(&File) -> io::Result<Seen>) -> io::Result<Seen> {
        self.open[slot].as_ref().map_or(Ok(Seen::Skipped), work)
    }

    /// Everything below, files with their content.
    fn everything(&self) -> Vec<(String, Seen, Seen)> {
        let mut all = Vec::new();
        let mut left = vec![String::new()];
        while let Some(directory) = left.pop() {
            for name in names(&self.at(&directory)) {
                let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
                let facts = fs::symlink_metadata(self.at(&path)).expect("what is listed is there");
                let content = if facts.is_dir() { Vec::new() } else { fs::read(self.at(&path)).expect("it is read") };
                if facts.is_dir() {
                    left.push(path.clone());
                }
                all.push((path, seen(&facts), Seen::Bytes(content)));
            }
        }
        all
    }
}

fn done((): ()) -> Seen {
    Seen::Done
}

fn read(file: &File, offset: u64, length: usize) -> io::Result<Seen> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(Seen::Bytes(bytes))
}

/// What of stat(2) must be equal: each file system has its own idea of a directory's size, and S3 has no links.
fn seen(facts: &fs::Metadata) -> Seen {
    let directory = facts.is_dir();
    assert!(directory || facts.is_file() && !facts.file_type().is_fifo(), "only files and directories are made");
    let (size, links) = if directory { (0, 0) } else { (facts.len(), facts.nlink()) };
    Seen::Facts { directory, mode: facts.mode() & 0o7777, size, links }
}

fn list(path: &Path) -> io::Result<Seen> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        names.push((entry.file_name().into_string().expect("UTF-8"), entry.file_type()?.is_dir()));
    }
    names.sort();
    Ok(Seen::Names(names))
}

/// An endpoint and a mount for all cases; each has a directory of its own.
struct World {
    endpoint: Endpoint,
    mount: Option<Mount>,
    local: TempDir,
    cases: u32,
    calls: u32,
    succeeded: u32,
}

impl World {
    fn new() -> World {
        World {
            endpoint: Endpoint::start(),
            mount: None,
            local: tempfile::tempdir().unwrap(),
            cases: 0,
            calls: 0,
            succeeded: 0,
        }
    }

    fn case(&mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        self.cases += 1;
        let name = format!("case-{}", self.cases);
        let mount = self.mount.take().unwrap_or_else(|| Mount::with(&self.endpoint, &["--memory", "32MiB"]));
        let mut run = Run {
            ours: Side::new(mount.join(&name)),
            local: Side::new(self.local.path().join(&name)),
            endpoint: &self.endpoint,
            mount: Some(mount),
            name,
        };
        let steps = [given().as_slice(), steps].concat();
        let succeeded = run.steps(&steps)?;
        self.calls += u32::try_from(steps.len()).expect("a short list");
        self.succeeded += succeeded;
        run.remount()?;
        run.compare()?;
        // Only a mount that did well is used again.
        self.mount = run.mount;
        Ok(())
    }
}

struct Run<'a> {
    ours: Side,
    local: Side,
    endpoint: &'a Endpoint,
    mount: Option<Mount>,
    name: String,
}

impl Run<'_> {
    /// Takes the steps on both sides; how many succeeded.
    fn steps(&mut self, steps: &[Step]) -> Result<u32, TestCaseError> {
        let mut succeeded = 0;
        for (number, step) in (0..).zip(steps) {
            if matches!(step, Step::Remount) {
                self.remount()?;
                continue;
            }
            let ours = self.ours.does(step, number);
            let local = self.local.does(step, number);
            if ours != local {
                return Err(TestCaseError::fail(format!("{step}: {ours} on the mount, {local} on the local disk")));
            }
            succeeded += u32::from(!matches!(ours, Seen::Failed(_) | Seen::Skipped));
        }
        Ok(succeeded)
    }

    fn remount(&mut self) -> Result<(), TestCaseError> {
        for slot in 0..SLOTS {
            (self.ours.open[slot], self.local.open[slot]) = (None, None);
        }
        let status = self.mount.take().expect("mounted between the steps").end();
        if !status.success() {
            return Err(TestCaseError::fail(format!("the mount ended with {status}")));
        }
        let mount = Mount::with(self.endpoint, &["--memory", "32MiB"]);
        self.ours.root = mount.join(&self.name);
        self.mount = Some(mount);
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let (ours, local) = (self.ours.everything(), self.local.everything());
        let paths = |all: &[(String, Seen, Seen)]| all.iter().map(|(path, ..)| path.clone()).collect::<Vec<_>>();
        if paths(&ours) != paths(&local) {
            let message = format!("left are {:?} on the mount, {:?} on the local disk", paths(&ours), paths(&local));
            return Err(TestCaseError::fail(message));
        }
        for ((path, facts, content), (_, local_facts, local_content)) in ours.iter().zip(&local) {
            if facts != local_facts || content != local_content {
                let message = format!(
                    "{path} is left as {facts}, {content} on the mount, \
                     {local_facts}, {local_content} on the local disk"
                );
                return Err(TestCaseError::fail(message));
            }
        }
        Ok(())
    }
}
