//! What the table keeps of one node.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::node::{Attributes, Ino, Kind, Node, Timestamp};
use super::scan_detector::ScanDetector;
use super::snapshot::Snapshot;
use dssefs_s3::object::{CommitId, ETag, Key, Name};
use dssefs_s3::policy::Evidence;
use dssefs_s3::s3::{AmbiguousWrite, Head};

/// How many of a directory's keys that cannot be names are named; the rest is counted.
pub(super) const HIDDEN_NAMED_MAX: usize = 3;

/// How many own copies of an open file are remembered, so that its handles move on to the last one.
const COPIES_MAX: usize = 64;

/// A directory, and a name in it.
pub(super) type Place = (Ino, Name);

/// What has become of a node's name. This is the one record of it: a call that learns that a name has gone writes it
/// here, and every other call asks here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NameState {
    /// It is the root, which has no name.
    Root,
    /// It has this name.
    Named(Place),
    /// This mount or another host has removed the name.
    Unlinked,
    /// Another writer has stored an object of its own under the name, or has removed the object that changes of this
    /// mount were made to. The name is the other writer's. Open handles keep what they have.
    Lost {
        /// The key under which the version of the open handles was stored.
        key: Key,
        /// The name. A commit that succeeds after all takes it back.
        place: Place,
    },
}

/// One node.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name_state: NameState,
    /// The kernel's references.
    pub(super) kernel: u64,
    /// Open files of it.
    pub(super) open: u32,
    /// Exists here whatever the store says: a file with changes that are not in the store yet, or a directory kept
    /// alive.
    pub(super) local: bool,
    pub(super) attributes: Attributes,
    /// What HEAD, GET or PUT said of the object, or of a directory's marker.
    pub(super) object: Option<Arc<Head>>,
    /// The version that a listing saw, where nothing better is known.
    pub(super) listed: Option<ETag>,
    /// Whether that listing does not prove that it is a regular file: only HEAD gives its kind.
    pub(super) kind_is_open: bool,
    /// Of a symlink, the version and its target, once it was read.
    pub(super) target: Option<Box<(ETag, Bytes)>>,
    /// When the store last said that the node is there; for a file also that it is this version.
    pub(super) seen: Option<Instant>,
    /// The tick of its last own change, by the table's `ChangeClock`.
    pub(super) changed: u64,
    /// Own copies of the object (rename, chmod): which version became which, while the file is open.
    pub(super) copies: Vec<(ETag, ETag)>,
    /// Of a directory, the object of the same name without a slash that says it is one, as older tools make it.
    pub(super) plain_marker: Option<Arc<Head>>,
    /// The copy of the object onto itself that this mount has asked for, until it is known what became of it.
    pub(super) own_copy: Option<Box<OwnCopy>>,
    pub(super) directory: Option<Box<Directory>>,
}

/// A copy of an object onto itself, with other metadata.
#[derive(Clone, Debug)]
pub(super) struct OwnCopy {
    /// An object that has it is no other writer's. None on a mount that gives none.
    pub(super) commit: Option<CommitId>,
    /// What is copied.
    pub(super) of: Arc<Head>,
    /// The request, once its answer is lost. None while it is under way.
    pub(super) lost: Option<Arc<AmbiguousWrite>>,
}

impl OwnCopy {
    /// Whether `head` shows the copy.
    pub(super) fn is(&self, head: &Head) -> bool {
        self.commit.is_some() && self.commit == head.meta.commit
    }
}

/// The keys of one directory that cannot be names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// How many entries of its listing they are: keys, and prefixes that many keys may share.
    pub count: u64,
    /// The first three of them, in the order of UTF-8 bytes, as the store has them.
    pub first: Vec<String>,
}

/// What only directories have.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) children: BTreeMap<Name, Ino>,
    pub(super) subdirectories: u32,
    /// When the mount asked for the last complete listing. None: some children may be missing here.
    pub(super) listed: Option<Instant>,
    /// Whether this mount has made it, and has not listed it since. It was empty then, but another host may have put
    /// names into it.
    pub(super) made: bool,
    /// More than a page of names, when it was last listed.
    pub(super) large: bool,
    /// Whether there is a marker, where that is known.
    pub(super) marker: Option<bool>,
    /// When the marker's facts were last confirmed, or its absence.
    pub(super) marker_checked: Option<Instant>,
    /// When this mount last changed the names in it.
    pub(super) touched: Option<Timestamp>,
    /// When this mount last renamed it. The marker does not say so, as it moved like any other object.
    pub(super) renamed: Option<Timestamp>,
    /// Keys in it that cannot be names, as the last listing showed them.
    pub(super) hidden: Hidden,
    /// Whether the log has said that such keys keep it from being empty.
    pub(super) hidden_in_log: bool,
    /// Lookups since the last listing that had to ask the store.
    pub(super) questions: u32,
    pub(super) scan: ScanDetector,
    /// The entries as an open handle has them, shared with each handle that is opened while the directory is the same.
    pub(super) snapshot: Weak<Snapshot>,
}

impl Entry {
    pub(super) fn new(name_state: NameState, attributes: Attributes) -> Entry {
        let directory = (attributes.kind == Kind::Directory).then(Box::default);
        Entry {
            name_state,
            kernel: 0,
            open: 0,
            local: false,
            attributes,
            object: None,
            listed: None,
            kind_is_open: false,
            target: None,
            seen: None,
            changed: 0,
            copies: Vec::new(),
            plain_marker: None,
            own_copy: None,
            directory,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// The name that it has; none for the root, and where the name has gone.
    pub(super) fn place(&self) -> Option<&Place> {
        match &self.name_state {
            NameState::Named(place) => Some(place),
            NameState::Root | NameState::Unlinked | NameState::Lost { .. } => None,
        }
    }

    /// Whether the store can say something new of it: what has lost its name is what this mount knows of it.
    pub(super) fn has_name(&self) -> bool {
        matches!(self.name_state, NameState::Root | NameState::Named(_))
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(self.name_state, NameState::Lost { .. })
    }

    /// Whether it can be evicted: nothing refers to it, and it can be looked up again.
    pub(super) fn is_idle(&self) -> bool {
        let childless = self.directory.as_ref().is_none_or(|directory| directory.children.is_empty());
        self.kernel == 0 && self.open == 0 && !self.local && childless
    }

    /// Whether the store confirmed it at most `ttl` before `now`.
    pub(super) fn is_fresh(&self, now: Instant, ttl: Duration) -> bool {
        self.local || within(self.seen, now, ttl)
    }

    /// Whether its attributes need no question: for a file, the object's facts are known and fresh; for a directory,
    /// the marker's.
    pub(super) fn has_facts(&self, now: Instant, ttl: Duration) -> bool {
        match &self.directory {
            Some(directory) => self.local || within(directory.marker_checked, now, ttl),
            None => self.local || (self.object.is_some() && within(self.seen, now, ttl)),
        }
    }

    /// Whether its kind is a guess that HEAD may prove wrong.
    pub(super) fn is_kind_unproved(&self) -> bool {
        self.kind_is_open && self.object.is_none() && !self.local
    }

    /// None while only HEAD can tell it.
    pub(super) fn proved_kind(&self) -> Option<Kind> {
        (!self.is_kind_unproved()).then_some(self.attributes.kind)
    }

    /// Whether a name that leads here need not be asked for: the store has confirmed the node, or a whole directory
    /// with it, not long ago, and nothing has come up against it since.
    pub(super) fn is_believed(&self, in_complete: bool, now: Instant, ttl: Duration) -> bool {
        self.is_fresh(now, ttl) || (in_complete && self.seen.is_some())
    }

    /// Whether a listing that shows `seen` says nothing new: the facts that are known are of this version, and of its
    /// present description.
    ///
    /// An ETag names content. Where it is no digest, as under KMS, a copy in place has another one. Elsewhere another
    /// program can describe the same version in another way, which only Last-Modified shows. S3 does not tell
    /// Last-Modified of what this mount itself has stored, which is under KMS.
    pub(super) fn is_as_listed(&self, seen: &SeenVersion) -> bool {
        let is_described = |head: &Arc<Head>| {
            let own = !matches!(head.encryption.evidence, Evidence::Head | Evidence::Get);
            own || whole_seconds(head.meta.last_modified) == whole_seconds(seen.last_modified)
        };
        self.etag() == Some(&seen.etag) && self.object.as_ref().is_some_and(is_described)
    }

    /// Whether `seen` is the object without a slash that says this is a directory.
    pub(super) fn is_plain_marker(&self, seen: &SeenVersion) -> bool {
        self.plain_marker.as_ref().is_some_and(|head| head.meta.version.etag == seen.etag)
    }

    /// The version that is known of the object.
    pub(super) fn etag(&self) -> Option<&ETag> {
        self.object.as_ref().map(|head| &head.meta.version.etag).or(self.listed.as_ref())
    }

    /// This mount turned the version `from` into `to`, with the same content. Only open files have readers who must
    /// know. The target of a symlink stays known.
    pub(super) fn note_copy(&mut self, from: &ETag, to: &ETag) {
        if self.open > 0 {
            if self.copies.len() == COPIES_MAX {
                self.copies.remove(0);
            }
            self.copies.push((from.clone(), to.clone()));
        }
        if let Some(read) = self.target.as_mut().filter(|read| read.0 == *from) {
            read.0.clone_from(to);
        }
    }

    /// The store has the copy that was asked for, and it has the version `to`.
    pub(super) fn own_copy_made(&mut self, to: &ETag) {
        if let Some(copy) = self.own_copy.take() {
            self.note_copy(&copy.of.meta.version.etag, to);
        }
    }

    /// The attributes with the link count that is true now. A directory that was not listed completely
    /// shows 1, as file systems do that do not count subdirectories. Programs that descend by that count (fts(3), find)
    /// would take 2 for "there are none".
    pub(super) fn shown(&self) -> Attributes {
        let nlink = match &self.directory {
            Some(directory) if self.attributes.nlink > 0 && directory.listed.is_none() => 1,
            Some(directory) if self.attributes.nlink > 0 => 2 + directory.subdirectories,
            _ => self.attributes.nlink,
        };
        Attributes { nlink, ..self.attributes }
    }

    pub(super) fn node(&self, ino: Ino) -> Node {
        Node { ino, attributes: self.shown(), object: self.object.clone() }
    }
}

impl Directory {
    /// Notes that it has more than a page of names: lookups ask for each.
    pub(super) fn note_large(&mut self) {
        self.large = true;
        if std::mem::take(&mut self.made) {
            self.listed = None;
        }
    }

    /// Whether a name that is not among the children does not exist.
    pub(super) fn is_complete(&self, now: Instant, ttl: Duration) -> bool {
        !self.made && within(self.listed, now, ttl)
    }
}

/// A version as a listing shows it.
#[derive(Clone, Debug)]
pub(super) struct SeenVersion {
    pub(super) etag: ETag,
    pub(super) last_modified: SystemTime,
}

/// HEAD names whole seconds; some stores list fractions.
fn whole_seconds(time: SystemTime) -> i64 {
    Timestamp::from(time).seconds
}

/// Whether `then` is at most `ttl` before `now`.
pub(super) fn within(then: Option<Instant>, now: Instant, ttl: Duration) -> bool {
    then.is_some_and(|then| now.saturating_duration_since(then) <= ttl)
}
