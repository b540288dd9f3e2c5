//! What may be found of a workload: names, and what they lead to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// In every name and at the start of every content, to be looked for where neither may be.
pub(super) const MARKER: &str = "marker-in-clear";

/// All names of the bucket, and what they name.
pub(super) type World = BTreeMap<String, Node>;

/// What a name leads to.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File { content: Arc<Vec<u8>>, facts: Facts },
}

/// What a file has beside its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) mode: u32,
    pub(super) uid: u32,
    /// In seconds, where a program has set it; 0 where the clock has.
    pub(super) mtime: u64,
    /// The attribute `user.colour`; empty where there is none.
    pub(super) colour: String,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts { mode: 0o644, uid: rustix::process::getuid().as_raw(), mtime: 0, colour: String::new() }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crc = |content: &[u8]| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, content);
        match self {
            Node::Directory => f.write_str("directory"),
            Node::File { content, facts } => {
                write!(f, "{} bytes, {:016x}, mode {:o}, {facts:?}", content.len(), crc(content), facts.mode)
            }
        }
    }
}

/// As it is called in the bucket: directories end in a slash there.
pub(super) fn named(name: &str) -> String {
    name.split('/').map(|part| format!("{part}-{MARKER}")).collect::<Vec<_>>().join("/")
}

pub(super) fn put(world: &mut World, name: &str, content: Vec<u8>) {
    put_shared(world, name, Arc::new(content));
}

/// What a file has beside its content outlives it, but for the time of its change.
pub(super) fn put_shared(world: &mut World, name: &str, content: Arc<Vec<u8>>) {
    let facts = match world.get(&named(name)) {
        Some(Node::File { facts, .. }) => Facts { mtime: 0, ..facts.clone() },
        _ => Facts::default(),
    };
    world.insert(named(name), Node::File { content, facts });
}

pub(super) fn change(world: &mut World, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    if let Some(Node::File { content, facts }) = world.get_mut(&named(name)) {
        change(Arc::make_mut(content));
        facts.mtime = 0;
    }
}

pub(super) fn set(world: &mut World, name: &str, set: impl FnOnce(&mut Facts)) {
    if let Some(Node::File { facts, .. }) = world.get_mut(&named(name)) {
        set(facts);
    }
}

/// What differs, for a person.
pub(super) fn difference(expected: &World, found: &World) -> String {
    let names = expected.keys().chain(found.keys()).collect::<std::collections::BTreeSet<_>>();
    let differs = names.into_iter().filter(|name| expected.get(*name) != found.get(*name));
    let lines = differs.map(|name| format!("{name}: expected {:?}, found {:?}", expected.get(name), found.get(name)));
    lines.collect::<Vec<_>>().join("; ")
}
