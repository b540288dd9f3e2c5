//! The rename of a directory: the store copies each object, then the mount deletes each source, under an intent log in
//! the bucket.
//!
//! S3 cannot rename a prefix, so a move has a middle, and the log makes sure that it ends. It is an object below the
//! mount's prefix that says what is moved where, and how far the move came. Texts for users call it a journal. While it
//! says `copying`, no source has been deleted, and deleting the copies undoes the move. From `deleting` on all copies
//! stand, and the move can only be finished. A mount that finds a journal whose owner is gone does one or the other
//! ([`recover`]).
//!
//! The journal is DSSE-KMS like every object, survives the loss of the host, and puts no name on a local disk. Any
//! writer of objects can put a journal into the bucket. So it is signed ([`signed`]) under a key that only mounts have
//! ([`authenticator`]), and a mount acts only on a journal that it has proved ([`found`]).
//!
//! Two rules make each step safe to repeat, even if an attacker puts an old version of a journal back:
//!
//! * A source is deleted only as the version that was copied, and only if its target is proved to be its copy.
//! * A copy is taken back only while its source is there. It must be the version that the move made of that source, or
//!   be proved to equal it.
//!
//! Two moves of one directory to one place could not distinguish their copies, so only one is ever at work
//! ([`arbitration`]).
//!
//! This room never reads content, except to prove that two objects are equal.

mod arbitration;
mod authenticator;
mod copies;
mod form;
mod found;
mod intent;
mod intent_log;
mod owner;
mod recover;
mod signed;
mod tree;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use self::copies::{Claim, Copies};
use self::intent_log::Journal;
use super::directory::refuse_content_of;
use super::error::Error;
use super::node::Ino;
use super::progress::Progress;
use super::reserved::refuse_reserved;
use super::subtree_locks::ExclusiveSubtreeGuard;
use super::{Namespace, Settings};
use dssefs_s3::object::{ETag, Key, Name, NameError, Prefix};
use dssefs_s3::s3::{Gateway, ListRequest, Listed};

pub use self::authenticator::{Authenticator, KeyName, NoKey, OwnKey};
pub use self::form::FormError;
pub use self::intent::{Heading, Intent};
pub use self::signed::{LINE_BYTES_MAX, Line};

/// The most objects of one rename: the journal of a larger one would be too long. mv(1) copies and deletes instead.
const OBJECTS_MAX: usize = 100_000;
/// The longest key that S3 keeps, in bytes ("Naming Amazon S3 objects", S3 User Guide).
const KEY_BYTES_MAX: usize = 1024;
/// The most that ListObjectsV2 gives at once.
const PAGE_ENTRIES_MAX: u16 = 1000;

/// The renames of directories of one mount, without its table of nodes: their intent logs in the bucket, the copies,
/// and the recovery of renames that were left in the middle.
pub(super) struct DirectoryRenames {
    gateway: Arc<Gateway>,
    settings: Settings,
    /// Whether a task looks at the intent logs from time to time.
    looking: AtomicBool,
    /// Objects that have the name of an intent log and are none, by key: the version that was looked at.
    strange: Mutex<BTreeMap<String, ETag>>,
}

/// A directory that has moved: all names are under the new one, in the store and here; the sources are still to be
/// deleted.
#[must_use = "the sources are deleted by finish_move"]
#[derive(Debug)]
pub struct Moving {
    copies: Arc<Copies>,
    /// The directory that it was moved out of, and its name there.
    from: (Ino, Name),
}

/// The two ends of a move.
struct Plan {
    source: Ino,
    target: Option<Ino>,
    from: Prefix,
    to: Prefix,
}

impl Namespace {
    /// The first half of the rename of a directory: copies every object below it, whether its key can be a name or not,
    /// and then moves the names in the table. The numbers of the nodes stay. Files that are not in the store yet only
    /// change their names.
    ///
    /// After an error nothing has changed: this mount, or the next one, takes back the copies that were made. If that
    /// is not possible yet, the directory stays locked until it is, for at most `rename_lease`. If a source were
    /// deleted meanwhile, its copy would have to stay, as the last one.
    ///
    /// The caller has looked both names up. It holds a shared lock of both parents and the exclusive lock of the
    /// directory itself. It has committed the files below it that have changes to an object in the store.
    ///
    /// Three LISTs for each 1,000 objects, one LIST of the target, one LIST and two PUTs of journals, one CopyObject
    /// for each object.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], [`Error::IntoItself`], [`Error::NotEmpty`] (also when another host makes a name in the
    /// target meanwhile), [`Error::MarkerHasContent`] of the target, [`Error::Exists`] when `no_replace` and the name
    /// is taken, [`Error::Name`] when a key would become too long, [`Error::TooLargeToRename`], [`Error::Reserved`],
    /// [`Error::BeingRenamed`], [`Error::Overtaken`], and the store's.
    pub async fn move_directory(
        self: &Arc<Self>,
        from: (Ino, &Name),
        to: (Ino, &Name),
        no_replace: bool,
        exclusive: ExclusiveSubtreeGuard,
    ) -> Result<(Moving, ExclusiveSubtreeGuard), Error> {
        // 1. Check both ends in the table, and that the target is free or an empty directory.
        let source = self.at_hand(from.0, from.1).await?;
        let plan = self.plan_move(source, from, to, no_replace)?;
        self.replace_plain_marker(source).await?;
        let claim = self.claim(&plan, no_replace).await?;
        // 2. List what is to be moved. A source without a marker gets one.
        let found = self.objects_to_move(&plan).await?;
        // 3. Write the journal, and give way to another move that overlaps.
        let replaces = matches!(claim, Claim::Replace(_));
        let heading = Heading::new(&plan.from, &plan.to, replaces, self.gateway.time())?;
        let journal = self.renames.begin_alone(heading).await.inspect_err(|_| self.renames.look_again_later())?;
        // 4. Claim the target, copy each object, and have the journal say so; or take the copies back.
        let copies = Arc::new(Copies::new(Arc::clone(&self.renames), journal, plan.from.clone(), plan.to.clone()));
        if let Err(error) = copies.make(found, claim).await {
            if !copies.give_up(&error).await {
                self.renames.undo_soon(copies, exclusive);
            }
            return Err(error);
        }
        // 5. Move the names, before any source is deleted, so that a reader always finds one of both.
        self.move_tree(&plan, from, to, &copies).inspect_err(|_| self.renames.look_again_later())?;
        Ok((Moving { copies, from: (from.0, from.1.clone()) }, exclusive))
    }

    /// The second half: deletes the sources, each only as the version that was copied.
    ///
    /// # Errors
    /// The directory has its new name in any case. [`Error::LeftBehind`] when other hosts changed objects below the old
    /// name meanwhile, which stay there; the store's error when some objects could not be deleted, which the journal
    /// still names.
    pub async fn finish_move(self: &Arc<Self>, moving: Moving) -> Result<(), Error> {
        let (parent, name) = &moving.from;
        // 1. Delete the sources and then the journal.
        let outcome = moving.copies.delete_sources().await;
        // 2. Forget the old name, also where an answer under way has seen sources that are deleted now.
        {
            let mut table = self.table();
            table.change_clock.remove(*parent, name);
            match table.child(*parent, name) {
                Ok(Some(seen)) if outcome.is_ok() && table.directory(seen).is_ok() && !table.holds_local(seen) => {
                    table.detach(seen);
                }
                _ => {}
            }
            if outcome.is_err()
                && let Ok(directory) = table.directory_mut(*parent)
            {
                directory.listed = None;
            }
        }
        if outcome.is_err() {
            self.renames.look_again_later();
        }
        self.keep_alive(*parent).await;
        outcome
    }

    /// Looks for interrupted renames of directories, and undoes or finishes each whose mount is gone. The mount is gone
    /// if its process is known to have ended on this system, or if its journal was not written for `rename_lease` by
    /// the store's clock. The caller does this before the mount serves anything. A task in the background looks again
    /// at those that cannot be undone or finished yet; the log names each. One LIST when there is nothing.
    pub async fn recover(&self) {
        self.renames.recover().await;
    }

    /// Whether `ino` is `root` or stands somewhere below it.
    #[must_use]
    pub fn is_below(&self, ino: Ino, root: Ino) -> bool {
        self.table().is_below(ino, root)
    }

    fn plan_move(&self, source: Ino, from: (Ino, &Name), to: (Ino, &Name), no_replace: bool) -> Result<Plan, Error> {
        let table = self.table();
        let target = table.child(to.0, to.1)?;
        if !table.entry(source)?.is_directory() {
            return Err(Error::NotADirectory);
        }
        if table.is_below(to.0, source) {
            return Err(Error::IntoItself);
        }
        match target {
            Some(_) if no_replace => return Err(Error::Exists),
            Some(target) if table.directory(target)?.children.values().any(|child| table.holds_local(*child)) => {
                return Err(Error::NotEmpty);
            }
            _ => {}
        }
        let (from, to_prefix) = (table.prefix(from.0)?.directory(from.1)?, table.prefix(to.0)?.directory(to.1)?);
        refuse_reserved(to.1)?;
        let longest = table.longest_local_path(source);
        check_length(&to_prefix, longest)?;
        Ok(Plan { source, target, from, to: to_prefix })
    }

    /// How the target is to be claimed: there must be nothing below it but its own marker.
    async fn claim(&self, plan: &Plan, no_replace: bool) -> Result<Claim, Error> {
        let mut objects = self.first_below(plan.to.as_str(), 2).await?;
        let other = objects.iter().find(|object| object.key != plan.to.as_str());
        if let (Some(other), Some(target)) = (other, plan.target) {
            self.log_if_hidden(target, plan.to.as_str(), &other.key);
        }
        match (objects.pop(), objects.is_empty()) {
            (None, _) => Ok(Claim::New),
            (Some(_), _) if no_replace => Err(Error::Exists),
            (Some(only), true) if only.key == plan.to.as_str() => {
                refuse_content_of(&only)?;
                Ok(Claim::Replace(only))
            }
            _ => Err(Error::NotEmpty),
        }
    }

    /// All objects below the source. A source without a marker is given one, so that it is moved as any other.
    async fn objects_to_move(self: &Arc<Self>, plan: &Plan) -> Result<Vec<Listed>, Error> {
        let found = self.renames.objects_below(&plan.from).await?;
        let below = plan.from.as_str().len();
        self.renames.require_no_journal_below(&plan.from, &found).await?;
        found.iter().try_for_each(|object| check_length(&plan.to, object.key.len() - below))?;
        if found.first().is_some_and(|first| first.key == plan.from.as_str()) {
            return Ok(found);
        }
        self.give_marker(plan).await?;
        self.renames.objects_below(&plan.from).await
    }

    async fn give_marker(self: &Arc<Self>, plan: &Plan) -> Result<(), Error> {
        let key = plan.from.marker().ok_or(Error::NotPermitted)?;
        match self.put_plain_marker(&key).await {
            Err(error) if !error.is_taken() => Err(error),
            _ => Ok(()),
        }
    }

    /// Every object whose key begins with `prefix`, in the order of UTF-8 bytes.
    ///
    /// # Errors
    /// There are more than a rename moves (100,000), the listing has no end, and as S3 answers.
    pub async fn objects_below(&self, prefix: &Prefix) -> Result<Vec<Listed>, Error> {
        self.renames.objects_below(prefix).await
    }
}

impl DirectoryRenames {
    pub(super) fn new(gateway: Arc<Gateway>, settings: Settings) -> Arc<DirectoryRenames> {
        let (looking, strange) = (AtomicBool::new(false), Mutex::default());
        Arc::new(DirectoryRenames { gateway, settings, looking, strange })
    }

    /// Begins a journal, unless another move is in its way.
    async fn begin_alone(self: &Arc<Self>, heading: Heading) -> Result<Arc<Journal>, Error> {
        let journal = Journal::begin(&self.gateway, &self.settings, heading).await?;
        match self.give_way_to_all(&journal).await {
            Ok(()) => Ok(journal),
            Err(error) => {
                journal.end_untouched().await;
                Err(error)
            }
        }
    }

    /// As [`Namespace::objects_below`].
    async fn objects_below(&self, prefix: &Prefix) -> Result<Vec<Listed>, Error> {
        let (mut objects, mut next, mut progress) = (Vec::new(), None, Progress::default());
        loop {
            let request = ListRequest {
                prefix: prefix.as_str(),
                delimiter: false,
                start_after: None,
                continuation: next.as_deref(),
                entries_max: PAGE_ENTRIES_MAX,
            };
            let page = self.gateway.list(&request).await?;
            progress.page(prefix.as_str(), !page.objects.is_empty())?;
            objects.extend(page.objects);
            next = page.next;
            match next {
                _ if objects.len() > OBJECTS_MAX => return Err(Error::TooLargeToRename { objects_max: OBJECTS_MAX }),
                None => return Ok(objects),
                Some(_) => {}
            }
        }
    }
}

fn check_length(to: &Prefix, path_bytes: usize) -> Result<(), Error> {
    let bytes = to.as_str().len() + path_bytes;
    if bytes > KEY_BYTES_MAX { Err(NameError::PathTooLong(bytes).into()) } else { Ok(()) }
}

/// The key of what is called `path` below `prefix`; empty is the prefix's own marker.
fn key_below(prefix: &Prefix, path: &str) -> Result<Key, Error> {
    let text = format!("{}{path}", prefix.as_str());
    let bytes = text.len();
    Key::new(text).map_err(|_| NameError::PathTooLong(bytes).into())
}
