//! What programs do to the mount, and what may be found of it afterwards.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use crate::common::noise;

/// In every name and at the start of every content, to be looked for where neither may be.
pub(super) const MARKER: &str = "marker-in-clear";
/// Larger than what one PutObject carries, so that it is streamed.
const LARGE: usize = 21 << 20;
/// Programs write in pieces.
const PIECE: usize = 1 << 20;

/// All names of the bucket, and what they name.
pub(super) type World = BTreeMap<String, Node>;

/// What a name leads to.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File { content: Arc<Vec<u8>>, mode: u32 },
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Directory => f.write_str("directory"),
            Node::File { content, mode } => {
                write!(
                    f,
                    "{} bytes, {:016x}, mode {mode:o}",
                    content.len(),
                    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, content)
                )
            }
        }
    }
}

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
    Rename(&'static str, &'static str),
    Remove(&'static str),
    Mkdir(&'static str),
    RenameDirectory(&'static str, &'static str),
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

fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = noise(seed, length);
    let start = length.min(MARKER.len());
    bytes[..start].copy_from_slice(&MARKER.as_bytes()[..start]);
    bytes
}

/// As it is called in the bucket: directories end in a slash there.
fn named(name: &str) -> String {
    name.split('/').map(|part| format!("{part}-{MARKER}")).collect::<Vec<_>>().join("/")
}

impl Deed {
    pub(super) fn carry_out(&self, root: &Path) -> io::Result<()> {
        let at = |name: &str| root.join(named(name));
        match *self {
            Deed::Write(name, length, seed) => write_new(&at(name), length, seed).map(drop),
            Deed::Sync(name, length, seed) => write_new(&at(name), length, seed)?.sync_all(),
            Deed::Append(name, length, seed) => {
                OpenOptions::new().append(true).open(at(name))?.write_all(&content(length, seed))
            }
            Deed::Patch(name, offset, length, seed) => {
                OpenOptions::new().write(true).open(at(name))?.write_all_at(&content(length, seed), offset)
            }
            Deed::Truncate(name, length) => {
                rustix::fs::ftruncate(OpenOptions::new().write(true).open(at(name))?, length as u64).map_err(Into::into)
            }
            Deed::Chmod(name, mode) => fs::set_permissions(at(name), Permissions::from_mode(mode)),
            Deed::Rename(from, to) | Deed::RenameDirectory(from, to) => fs::rename(at(from), at(to)),
            Deed::Remove(name) => fs::remove_file(at(name)),
            Deed::Mkdir(name) => fs::create_dir(at(name)),
        }
    }

    /// What may be found when the deed was begun in `world` and not acknowledged; the last is what must be found once it was.
    pub(super) fn outcomes(&self, world: &World) -> Vec<World> {
        let mut after = world.clone();
        let mut outcomes = vec![world.clone()];
        match *self {
            Deed::Write(name, length, seed) | Deed::Sync(name, length, seed) => {
                let mode = world.get(&named(name)).map_or(0o644, Node::mode);
                after.insert(named(name), Node::File { content: Arc::new(content(length, seed)), mode });
            }
            Deed::Append(name, length, seed) => change(&mut after, name, |bytes| bytes.extend(content(length, seed))),
            Deed::Patch(name, offset, length, seed) => change(&mut after, name, |bytes| {
                bytes[offset as usize..][..length].copy_from_slice(&content(length, seed));
            }),
            Deed::Truncate(name, length) => change(&mut after, name, |bytes| bytes.resize(length, 0)),
            Deed::Chmod(name, wanted) => {
                if let Some(Node::File { mode, .. }) = after.get_mut(&named(name)) {
                    *mode = wanted;
                }
            }
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
        }
        outcomes.push(after);
        outcomes
    }
}

impl Node {
    fn mode(&self) -> u32 {
        match self {
            Node::Directory => 0o755,
            Node::File { mode, .. } => *mode,
        }
    }
}

fn write_new(path: &Path, length: usize, seed: u64) -> io::Result<File> {
    let mut file = File::create(path)?;
    content(length, seed).chunks(PIECE).try_for_each(|piece| file.write_all(piece))?;
    Ok(file)
}

fn change(world: &mut World, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    if let Some(Node::File { content, .. }) = world.get_mut(&named(name)) {
        change(Arc::make_mut(content));
    }
}

/// What differs, for a person.
pub(super) fn difference(expected: &World, found: &World) -> String {
    let names = expected.keys().chain(found.keys()).collect::<std::collections::BTreeSet<_>>();
    let differs = names.into_iter().filter(|name| expected.get(*name) != found.get(*name));
    let lines = differs.map(|name| format!("{name}: expected {:?}, found {:?}", expected.get(name), found.get(name)));
    lines.collect::<Vec<_>>().join("; ")
}
