//! Names, inode numbers and attributes: which nodes exist, where their objects are kept, and what stat(2) shows.
//!
//! The table of nodes is a cache of the store, with one exception: a *local* node (a file with changes that are not in
//! the store yet) exists whatever the store answers. Rules merge the store's answers into the table (`observe`). An
//! answer never undoes an own change that is younger than the question (`change_clock`). Listings and facts are fresh
//! for `ttl`; own changes update them in place and do not extend that time.
//!
//! This room never reads or writes content, except the empty body of a directory marker, the target of a symbolic link,
//! and the journal of a directory's rename (`rename_dir`). It may use `crypto`, `object`, `policy` and `s3`.

mod change;
mod change_clock;
mod content_type;
mod directory;
mod entry;
mod error;
mod facts;
mod file;
mod flight;
mod held;
mod hidden;
mod inode_locks;
mod listing;
mod lookup;
mod node;
mod number;
mod observe;
pub mod posix;
mod progress;
mod rename;
mod rename_dir;
mod reserved;
mod scan_detector;
mod snapshot;
mod special;
mod subtree_locks;
mod table;
pub mod xattr;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;

pub use self::content_type::{ContentType, ContentTypeError};
pub use self::entry::Hidden;
pub use self::error::Error;
pub use self::held::Held;
pub use self::hidden::HiddenKeys;
pub use self::node::{Attributes, Change, Defaults, DirEntry, Ino, Kind, Node, Privileges, Timestamp};
pub use self::number::NumbersInUse;
pub use self::posix::PosixForm;
pub use self::rename_dir::{
    Authenticator, FormError, Heading, Intent, KeyName, LINE_BYTES_MAX, Line, Moving, NoKey, OwnKey,
};
pub use self::snapshot::{NamesBudget, Snapshot};
pub use self::subtree_locks::{ExclusiveSubtreeGuard, SharedSubtreeGuard};

use self::flight::Flights;
use self::inode_locks::InodeLocks;
use self::listing::Extent;
use self::rename_dir::DirectoryRenames;
use self::subtree_locks::SubtreeLocks;
use self::table::Table;
use dssefs_s3::object::{Key, Name, Prefix, UserMetadata};
use dssefs_s3::s3::{Condition, Gateway, Head, LastWriterWins};

/// Where attributes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeSource {
    /// From each object's metadata, by one HEAD where a listing did not have them.
    Full,
    /// Sizes and times from listings, the rest from the defaults; attributes cannot be changed.
    Listing,
}

/// How a mount shows its bucket.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory of the bucket that is the root.
    pub prefix: Prefix,
    /// What objects without metadata show.
    pub defaults: Defaults,
    /// The Content-Type of new files.
    pub content_type: ContentType,
    /// How long an answer of the store is believed.
    pub ttl: Duration,
    /// The most nodes in the table. Those that neither the kernel nor an open file refers to are evicted beyond it.
    pub entries_max: usize,
    /// How many bytes the names of listings and of open directories may take together.
    pub names_bytes_max: u64,
    /// Where attributes come from.
    pub attributes: AttributeSource,
    /// The form in which modes, owners and times are written.
    pub posix_form: PosixForm,
    /// How many HEADs may be under way ahead of a program that goes through a directory.
    pub heads_in_flight_max: usize,
    /// How long the journal of a directory's rename may stay unwritten before any mount takes it over. Some seconds at
    /// least, as the store gives times in whole seconds; the same for all mounts of a bucket.
    pub rename_lease: Duration,
    /// Given where changes may replace and delete what another host has stored meanwhile. Renames that must not replace
    /// anything, renames of directories, and their journals send conditions also then.
    pub last_writer_wins: Option<LastWriterWins>,
    /// Who signs the journals of directories' renames, and proves those that are found.
    pub authenticator: Arc<dyn Authenticator>,
}

impl Settings {
    /// The condition of a write, where conditions are asked for.
    fn condition(&self, wanted: Condition) -> Condition {
        wanted.unless(self.last_writer_wins)
    }
}

/// The names of a mount.
pub struct Namespace {
    gateway: Arc<Gateway>,
    settings: Settings,
    clock: Clock,
    table: Mutex<Table>,
    heads: Flights<Ino, Result<Arc<Head>, Error>>,
    lookups: Flights<(Ino, Name), Result<Ino, Error>>,
    listings: Flights<(Ino, Extent), Result<Entries, Error>>,
    names: Arc<NamesBudget>,
    /// Requests for pages of 1,000 names, whose answers are large.
    pages: Semaphore,
    inode_locks: InodeLocks,
    subtree_locks: SubtreeLocks,
    renames: Arc<DirectoryRenames>,
    ahead: Arc<Semaphore>,
}

type Entries = Arc<Snapshot>;

/// Pages of 1,000 names that are asked for at the same time: each may have 9 MiB, and is parsed in memory.
const PAGES_IN_FLIGHT_MAX: usize = 16;

/// The times of a directory without a marker, since 1970: the beginning of 2000 (UTC). They must be the same in each
/// mount, or backups take the directory for another one. Archives of ZIP know no time before 1980.
const NO_TIME: Duration = Duration::from_secs(946_684_800);

type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Namespace {
    /// The names of the bucket behind `gateway`.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, settings: Settings) -> Arc<Namespace> {
        Self::with_clock(gateway, settings, Box::new(Instant::now))
    }

    /// As [`Namespace::new`], with another source of time for the rules about age.
    #[must_use]
    pub fn with_clock(gateway: Arc<Gateway>, settings: Settings, clock: Clock) -> Arc<Namespace> {
        let table = Table::new(settings.prefix.clone(), settings.implicit_directory(), settings.entries_max);
        let names = NamesBudget::new(settings.names_bytes_max);
        let ahead = Arc::new(Semaphore::new(settings.heads_in_flight_max));
        let renames = DirectoryRenames::new(Arc::clone(&gateway), settings.clone());
        Arc::new(Namespace {
            gateway,
            settings,
            clock,
            table: Mutex::new(table),
            heads: Flights::new(),
            lookups: Flights::new(),
            listings: Flights::new(),
            names,
            pages: Semaphore::new(PAGES_IN_FLIGHT_MAX),
            inode_locks: InodeLocks::default(),
            subtree_locks: SubtreeLocks::default(),
            renames,
            ahead,
        })
    }

    /// The kernel gives back `count` of the references that lookups, `create` and `mkdir` gave it.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.table().forget(ino, count);
    }

    /// Keeps the number for one more open file. While there is one, a newer version of the object gets a new number.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the node is gone.
    pub fn pin_open(&self, ino: Ino) -> Result<(), Error> {
        self.table().pin(ino)
    }

    /// Ends what [`Namespace::pin_open`] began.
    pub fn unpin_open(&self, ino: Ino) {
        self.table().unpin(ino);
    }

    /// The key behind a node now: a file's own, a directory's marker; of a lost file the one that it had. None for what
    /// is unlinked.
    #[must_use]
    pub fn key(&self, ino: Ino) -> Option<Key> {
        self.table().key(ino).ok()
    }

    /// The key under which the changes of a file are to be stored. None when its name was removed.
    #[must_use]
    pub fn key_to_store(&self, ino: Ino) -> Option<Key> {
        self.table().key_to_store(ino).ok()
    }

    /// The Content-Type of a new file at `key`.
    #[must_use]
    pub fn content_type(&self, key: &Key) -> String {
        self.settings.content_type.of(key)
    }

    /// The group of what is made in the directory `ino`, where that has set-group-id (inode(7)); None: that of who
    /// makes it. No request: the kernel has just asked for the attributes, to see whether names may be made there.
    #[must_use]
    pub fn inherited_group(&self, ino: Ino) -> Option<u32> {
        let table = self.table();
        let attributes = table.entry(ino).ok()?.attributes;
        (attributes.mode & 0o2000 != 0).then_some(attributes.gid)
    }

    /// The directory that `ino` stands in; itself for the root and for what is unlinked.
    #[must_use]
    pub fn parent(&self, ino: Ino) -> Ino {
        let table = self.table();
        table.entry(ino).ok().and_then(entry::Entry::place).map_or(ino, |(parent, _)| *parent)
    }

    /// The numbers that no new node gets, because files have them that may outlive their nodes.
    #[must_use]
    pub fn numbers_in_use(&self) -> Arc<NumbersInUse> {
        Arc::clone(&self.table().numbers)
    }

    /// How many keys cannot be names (`//`, `.`, `..`, NUL, a component over 255 bytes), in the directories listed so
    /// far.
    #[must_use]
    pub fn hidden(&self) -> u64 {
        self.table().hidden
    }

    /// The keys of the directory `ino` that cannot be names, as its last listing showed them; None if it was not
    /// listed.
    #[must_use]
    pub fn hidden_in(&self, ino: Ino) -> Option<Hidden> {
        let table = self.table();
        let directory = table.directory(ino).ok()?;
        (directory.listed.is_some() && !directory.made).then(|| directory.hidden.clone())
    }

    /// How many bytes the names of listings and of open directories may take together.
    #[must_use]
    pub fn names_bytes_max(&self) -> u64 {
        self.names.bytes_max()
    }

    /// The form in which modes, owners and times are written.
    #[must_use]
    pub fn posix_form(&self) -> PosixForm {
        self.settings.posix_form
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is complete before anything in it can panic, so a poisoned one is still whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        (self.clock)()
    }

    /// Notes that the store is about to be asked.
    fn question(self: &Arc<Self>) -> Question {
        let asked = self.table().change_clock.ask();
        Question { namespace: Arc::clone(self), when: When { asked, at: self.now() } }
    }
}

/// When the store was asked: by the clock of own changes, and by the host's clock. Its answer may be this old.
#[derive(Clone, Copy, Debug)]
struct When {
    asked: u64,
    at: Instant,
}

/// A question that is open; own changes made meanwhile are remembered until it is dropped.
struct Question {
    namespace: Arc<Namespace>,
    when: When,
}

impl Drop for Question {
    fn drop(&mut self) {
        self.namespace.table().change_clock.answered(self.when.asked);
    }
}

impl Settings {
    fn is_full(&self) -> bool {
        self.attributes == AttributeSource::Full
    }

    /// What an object shows by its own facts.
    fn known(&self, head: &Head, directory: bool) -> Attributes {
        let form = posix::Form { directory, size: head.meta.size, last_modified: head.meta.last_modified };
        let full = posix::attributes(&head.meta.user, form, &self.defaults);
        if self.is_full() {
            return full;
        }
        // Facts must not change what the listing showed, or attributes would come and go with the cache.
        let plain = posix::attributes(&UserMetadata::new(), form, &self.defaults);
        Attributes { kind: full.kind, ..plain }
    }

    /// What a file shows that was only listed.
    fn listed(&self, size: u64, last_modified: SystemTime) -> Attributes {
        let form = posix::Form { directory: false, size, last_modified };
        posix::attributes(&UserMetadata::new(), form, &self.defaults)
    }

    /// What a directory without a marker shows.
    fn implicit_directory(&self) -> Attributes {
        let form = posix::Form { directory: true, size: 0, last_modified: UNIX_EPOCH + NO_TIME };
        posix::attributes(&UserMetadata::new(), form, &self.defaults)
    }
}

fn is_not_found(error: &dssefs_s3::s3::Error) -> bool {
    error.kind == dssefs_s3::s3::Kind::NotFound
}
