//! What programs do to the mount, and which worlds that allows.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::world::{MARKER, Node, World, change, named, put, put_shared, set};
use crate::common::{attribute, noise};

/// Larger than what one PutObject carries, so that it is streamed.
const LARGE: usize = 21 << 20;
/// Larger than the memory of the mounts, so that its first parts are nowhere but in the store when its last ones are
/// written.
const STREAM: usize = 60 << 20;
/// Files that are open at a time, of [`HELD`] bytes each: together more than the memory that mounts have for them.
const OPEN: [&str; 7] = ["m0", "m1", "m2", "m3", "m4", "m5", "m6"];
const HELD: usize = 4 << 20;
/// Programs write in pieces.
const PIECE: usize = 1 << 20;

/// One thing that a program does. It is acknowledged when the last of its calls has returned 0.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// open(2) with O_CREAT and O_TRUNC, writes, close(2).
    Write(&'static str, usize, u64),
    /// The same, and fsync(2) before the close.
    Sync(&'static str, usize, u64),
    Append(&'static str, usize, u64),
    /// Over bytes in the middle.
    Patch(&'static str, u64, usize, u64),
    Truncate(&'static str, usize),
    Chmod(&'static str, u32),
    /// chown(2), to [`someone`].
    Chown(&'static str),
    /// utimens(2), to seconds that no clock shows any more.
    Date(&'static str, u64),
    /// setxattr(2) of `user.colour`.
    Paint(&'static str, &'static str),
    Rename(&'static str, &'static str),
    Remove(&'static str),
    Mkdir(&'static str),
    RenameDirectory(&'static str, &'static str),
    /// copy_file_range(2) of all of a file into a new one.
    Copy(&'static str, &'static str),
    /// By one handle: a stream, fsync(2), more behind it, and other bytes over its head.
    Stream(&'static str, u64),
    /// Files that are open at a time, closed one after the other, or by threads at once.
    Many {
        seed: u64,
        at_once: bool,
    },
    /// More at the end of a file, which is renamed before more follows and before it is closed.
    MoveOpen(&'static str, &'static str, u64),
    /// More at the end of a file, which is removed before it is closed.
    RemoveOpen(&'static str, u64),
}

/// Deeds in order, under a name.
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) deeds: Vec<Deed>,
}

pub(super) fn workloads() -> Vec<Workload> {
    let workload = |name, deeds| Workload { name, deeds };
    vec![
        workload("small", small()),
        workload("large", large()),
        workload("replace", replace()),
        workload("remove", remove()),
        workload("attributes", attributes()),
        workload("tree", tree()),
        workload("stream", stream()),
        workload("many", many()),
        workload("open", open()),
    ]
}

fn small() -> Vec<Deed> {
    vec![
        Deed::Write("a", 3_000, 1),
        Deed::Write("b", 70_000, 2),
        Deed::Write("a", 9_000, 3),
        Deed::Append("a", 500, 4),
        Deed::Write("empty", 0, 5),
        Deed::Truncate("b", 100),
        Deed::Sync("a", 40, 6),
        Deed::Append("b", 20, 7),
    ]
}

fn large() -> Vec<Deed> {
    vec![
        Deed::Write("a", LARGE, 1),
        Deed::Append("a", 1 << 20, 2),
        Deed::Patch("a", 11 << 20, 70_000, 3),
        Deed::Truncate("a", 12 << 20),
    ]
}

fn replace() -> Vec<Deed> {
    vec![
        Deed::Write("target", 5_000, 1),
        Deed::Write("temp", 6_000, 2),
        Deed::Rename("temp", "target"),
        Deed::Write("target", 4_000, 3),
        Deed::Write("temp", 7_000, 4),
        Deed::Rename("temp", "target"),
        Deed::Write("other", 10, 5),
        Deed::Rename("target", "other"),
        Deed::Write("fresh", 3_000, 6),
        Deed::Rename("fresh", "free"),
    ]
}

fn remove() -> Vec<Deed> {
    vec![
        Deed::Write("a", 1_000, 1),
        Deed::Remove("a"),
        Deed::Write("a", 2_000, 2),
        Deed::Write("a", 2_500, 3),
        Deed::Remove("a"),
        Deed::Write("b", 3_000, 4),
        Deed::Write("a", 4_000, 5),
        Deed::Rename("b", "a"),
        Deed::Remove("a"),
        Deed::Write("a", 1, 6),
    ]
}

fn attributes() -> Vec<Deed> {
    vec![
        Deed::Write("a", 1_000, 1),
        Deed::Chmod("a", 0o600),
        Deed::Append("a", 10, 2),
        Deed::Chmod("a", 0o640),
        Deed::Write("b", 10, 3),
        Deed::Chmod("b", 0o755),
        Deed::Rename("b", "a"),
    ]
}

fn tree() -> Vec<Deed> {
    vec![
        Deed::Mkdir("d"),
        Deed::Mkdir("d/e"),
        Deed::Write("d/a", 1_000, 1),
        Deed::Write("d/e/b", 2_000, 2),
        Deed::Write("d/c", 10, 3),
        Deed::RenameDirectory("d", "g"),
        Deed::Write("g/e/b", 30, 4),
        Deed::Mkdir("h"),
        Deed::RenameDirectory("g", "h"),
    ]
}

fn stream() -> Vec<Deed> {
    vec![Deed::Stream("a", 1), Deed::Patch("a", 100, 70_000, 5), Deed::Append("a", 1_000, 6)]
}

fn many() -> Vec<Deed> {
    vec![Deed::Many { seed: 1, at_once: false }, Deed::Many { seed: 101, at_once: true }, Deed::Remove("m1")]
}

fn open() -> Vec<Deed> {
    vec![
        Deed::Write("a", 3_000, 1),
        Deed::MoveOpen("a", "b", 2),
        Deed::Copy("b", "c"),
        Deed::Chown("c"),
        Deed::Date("c", 1_000_000_001),
        Deed::Paint("c", "red"),
        Deed::MoveOpen("c", "b", 5),
        Deed::Paint("b", "blue"),
        Deed::RemoveOpen("b", 8),
    ]
}

fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = noise(seed, length);
    let start = length.min(MARKER.len());
    bytes[..start].copy_from_slice(&MARKER.as_bytes()[..start]);
    bytes
}

/// The content of a stream after each of its stages: at its fsync(2), with what follows, and with another head.
fn stages(seed: u64) -> [Vec<u8>; 3] {
    let first = content(STREAM, seed);
    let longer = [first.as_slice(), &content(HELD, seed + 1)].concat();
    let mut last = longer.clone();
    last[..PIECE].copy_from_slice(&content(PIECE, seed + 2));
    [first, longer, last]
}

/// What is added to a file that is open.
fn more(seed: u64) -> Vec<u8> {
    content(2_000, seed)
}

/// Who may be given a file: anybody, by root.
fn someone() -> u32 {
    let own = rustix::process::getuid();
    if own.is_root() { 1_234 } else { own.as_raw() }
}

impl Deed {
    /// Calls `acknowledged` with the number of outcomes that cannot be found any more, as often as it becomes larger on
    /// the way.
    pub(super) fn carry_out(&self, root: &Path, acknowledged: &dyn Fn(usize)) -> io::Result<()> {
        let at = |name: &str| root.join(named(name));
        match *self {
            Deed::Write(name, length, seed) => write_new(&at(name), length, seed).map(drop),
            Deed::Sync(name, length, seed) => write_new(&at(name), length, seed)?.sync_all(),
            Deed::Append(name, length, seed) => to_append(&at(name))?.write_all(&content(length, seed)),
            Deed::Patch(name, offset, length, seed) => {
                OpenOptions::new().write(true).open(at(name))?.write_all_at(&content(length, seed), offset)
            }
            Deed::Truncate(name, length) => {
                rustix::fs::ftruncate(OpenOptions::new().write(true).open(at(name))?, length as u64).map_err(Into::into)
            }
            Deed::Chmod(name, mode) => fs::set_permissions(at(name), Permissions::from_mode(mode)),
            Deed::Chown(name) => chown(at(name), Some(someone()), None),
            Deed::Date(name, seconds) => date(&at(name), seconds),
            Deed::Paint(name, colour) => xattr::set(at(name), "user.colour", colour.as_bytes()),
            Deed::Rename(from, to) | Deed::RenameDirectory(from, to) => fs::rename(at(from), at(to)),
            Deed::Remove(name) => fs::remove_file(at(name)),
            Deed::Mkdir(name) => fs::create_dir(at(name)),
            Deed::Copy(from, to) => copy(&at(from), &at(to)),
            Deed::Stream(name, seed) => write_stream(&at(name), seed, acknowledged),
            Deed::Many { seed, at_once } => write_many(root, seed, at_once, acknowledged),
            Deed::MoveOpen(from, to, seed) => move_open(&at(from), &at(to), seed, acknowledged),
            Deed::RemoveOpen(name, seed) => remove_open(&at(name), seed, acknowledged),
        }
    }

    /// What may be found when the deed was begun in `world` and not acknowledged; the last is what must be found once
    /// it was.
    pub(super) fn outcomes(&self, world: &World) -> Vec<World> {
        let mut after = world.clone();
        let mut outcomes = vec![world.clone()];
        match *self {
            Deed::Write(name, length, seed) | Deed::Sync(name, length, seed) => {
                put(&mut after, name, content(length, seed));
            }
            Deed::Append(name, length, seed) => change(&mut after, name, |bytes| bytes.extend(content(length, seed))),
            Deed::Patch(name, offset, length, seed) => change(&mut after, name, |bytes| {
                bytes[offset as usize..][..length].copy_from_slice(&content(length, seed));
            }),
            Deed::Truncate(name, length) => change(&mut after, name, |bytes| bytes.resize(length, 0)),
            Deed::Chmod(name, mode) => set(&mut after, name, |facts| facts.mode = mode),
            Deed::Chown(name) => set(&mut after, name, |facts| facts.uid = someone()),
            Deed::Date(name, seconds) => set(&mut after, name, |facts| facts.mtime = seconds),
            Deed::Paint(name, colour) => set(&mut after, name, |facts| colour.clone_into(&mut facts.colour)),
            Deed::Rename(from, to) => {
                let moved = after[&named(from)].clone();
                after.insert(named(to), moved);
                // A copy and then a delete: both names in between.
                outcomes.push(after.clone());
                after.remove(&named(from));
            }
            Deed::Remove(name) => drop(after.remove(&named(name))),
            Deed::Mkdir(name) => drop(after.insert(named(name) + "/", Node::Directory)),
            Deed::RenameDirectory(from, to) => {
                let (from, to) = (named(from) + "/", named(to) + "/");
                let moved = |(name, node): (String, Node)| match name.strip_prefix(&from) {
                    Some(rest) => (format!("{to}{rest}"), node),
                    None => (name, node),
                };
                after = after.into_iter().map(moved).collect();
            }
            Deed::Copy(from, to) => {
                if let Node::File { content, .. } = &world[&named(from)] {
                    put(&mut after, to, content.to_vec());
                }
            }
            Deed::Stream(name, seed) => {
                return stages(seed).into_iter().fold(outcomes, |outcomes, stage| with(outcomes, name, stage));
            }
            Deed::Many { seed, at_once } => return many_outcomes(world, seed, at_once),
            Deed::MoveOpen(from, to, seed) => return move_open_outcomes(world, from, to, seed),
            Deed::RemoveOpen(name, seed) => {
                change(&mut after, name, |bytes| bytes.extend(more(seed)));
                outcomes.push(after.clone());
                after.remove(&named(name));
            }
        }
        outcomes.push(after);
        outcomes
    }
}

/// One more outcome: the last one with this content.
fn with(mut outcomes: Vec<World>, name: &str, content: Vec<u8>) -> Vec<World> {
    let mut next = outcomes.last().expect("there is one").clone();
    put(&mut next, name, content);
    outcomes.push(next);
    outcomes
}

/// Each file more for those that are closed in turn; for those that are closed at once, each choice of them.
fn many_outcomes(world: &World, seed: u64, at_once: bool) -> Vec<World> {
    let contents: Vec<_> =
        OPEN.into_iter().zip(seed..).map(|(name, seed)| (name, Arc::new(content(HELD, seed)))).collect();
    let choices: Vec<usize> =
        if at_once { (0..1 << OPEN.len()).collect() } else { (0..=OPEN.len()).map(|n| (1 << n) - 1).collect() };
    let chosen = |choice: usize| {
        let mut after = world.clone();
        for (rank, (name, content)) in contents.iter().enumerate() {
            if choice & (1 << rank) != 0 {
                put_shared(&mut after, name, Arc::clone(content));
            }
        }
        after
    };
    choices.into_iter().map(chosen).collect()
}

/// The rename stores what was written before it, or moves what was there before that; what is written after it is
/// stored by the close.
fn move_open_outcomes(world: &World, from: &str, to: &str, seed: u64) -> Vec<World> {
    let moved = |world: &World| {
        let (mut both, node) = (world.clone(), world[&named(from)].clone());
        both.insert(named(to), node);
        let mut after = both.clone();
        after.remove(&named(from));
        [both, after]
    };
    let mut written = world.clone();
    change(&mut written, from, |bytes| bytes.extend(more(seed)));
    let [both_old, moved_old] = moved(world);
    let [both, moved] = moved(&written);
    let mut last = moved.clone();
    change(&mut last, to, |bytes| bytes.extend(more(seed + 1)));
    vec![world.clone(), written, both_old, both, moved_old, moved, last]
}

/// Of the outcomes of [`Deed::MoveOpen`], those that still have the old name.
const NOT_MOVED: usize = 4;

fn write_new(path: &Path, length: usize, seed: u64) -> io::Result<File> {
    let mut file = File::create(path)?;
    write_in_pieces(&mut file, &content(length, seed))?;
    Ok(file)
}

fn write_in_pieces(file: &mut File, content: &[u8]) -> io::Result<()> {
    content.chunks(PIECE).try_for_each(|piece| file.write_all(piece))
}

fn to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn date(path: &Path, seconds: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    while rustix::fs::copy_file_range(&from, None, &to, None, STREAM)? > 0 {}
    Ok(())
}

fn write_stream(path: &Path, seed: u64, acknowledged: &dyn Fn(usize)) -> io::Result<()> {
    let mut file = write_new(path, STREAM, seed)?;
    file.sync_all()?;
    acknowledged(1);
    write_in_pieces(&mut file, &content(HELD, seed + 1))?;
    file.write_all_at(&content(PIECE, seed + 2), 0)
}

fn write_many(root: &Path, seed: u64, at_once: bool, acknowledged: &dyn Fn(usize)) -> io::Result<()> {
    let open = |(name, seed)| write_new(&root.join(named(name)), HELD, seed);
    let files = OPEN.into_iter().zip(seed..).map(open).collect::<io::Result<Vec<_>>>()?;
    let spilled = |name| attribute(&root.join(named(name)), "user.dsse.local").map(|local| local == "spilled");
    if !OPEN.into_iter().map(spilled).collect::<io::Result<Vec<_>>>()?.contains(&true) {
        return Err(io::Error::other("none of the files that are open has spilled"));
    }
    if at_once {
        // Joined, each of them, before the deed is told as done.
        let closing: Vec<_> = files.into_iter().map(|file| std::thread::spawn(move || drop(file))).collect();
        return closing.into_iter().try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a panic")));
    }
    for (closed, file) in files.into_iter().enumerate() {
        drop(file);
        // As in a workload's end: of a daemon that is dead the close tells nothing.
        attribute(root, "user.dsse.mount.unsaved")?;
        acknowledged(closed + 1);
    }
    Ok(())
}

fn move_open(from: &Path, to: &Path, seed: u64, acknowledged: &dyn Fn(usize)) -> io::Result<()> {
    let mut file = to_append(from)?;
    file.write_all(&more(seed))?;
    fs::rename(from, to)?;
    acknowledged(NOT_MOVED);
    file.write_all(&more(seed + 1))
}

fn remove_open(path: &Path, seed: u64, acknowledged: &dyn Fn(usize)) -> io::Result<()> {
    let mut file = to_append(path)?;
    file.write_all(&more(seed))?;
    fs::remove_file(path)?;
    acknowledged(2);
    file.write_all(&more(seed + 1))
}
