//! One file that is open, or that has changes which are not safe yet.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::journal::EntryId;
use crate::namespace::{self, Attributes, Held, Ino, Kind, Namespace, PosixForm, Privileges, Timestamp, posix, xattr};
use crate::read::{self, Reader};
use crate::spill::Location;
use crate::write::{CommitTarget, Destination, Engine, Target, Writer};
use dssefs_s3::object::{Key, ObjectMeta, UserMetadata, Version};
use dssefs_s3::s3::{Gateway, Head, KeptAnnotations, NewObject, Source};

use super::pages::Pages;

/// The entry of one file in the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JournalRef {
    pub(crate) entry: EntryId,
    /// Which changes: see [`write::Writer::changes`].
    pub(crate) changes: u64,
    /// Whether the entry says why the store refused the changes.
    pub(crate) has_reason: bool,
}

/// An open or unsaved file. What a short mutex guards is consistent whenever it is free; requests are made without it.
pub(crate) struct File {
    pub(crate) ino: Ino,
    /// Held across the requests that replace the object itself: commits asked for by programs, changes of attributes,
    /// renames.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Held while the journal's entry is written or settled. No holder waits for the store or for another lock.
    pub(crate) keeping: tokio::sync::Mutex<()>,
    /// Notified each time a user leaves the file.
    pub(crate) left: Notify,
    /// Writes of pages, which the kernel makes through any handle of those that can write.
    pub(crate) kernel_writes: AtomicU64,
    state: Mutex<FileState>,
}

pub(crate) struct FileState {
    /// How many handles are open, and calls under way that act like one.
    pub(crate) users: usize,
    /// The object as it was opened, or as this mount made it since; none for a file that never was in the store.
    pub(crate) head: Option<Head>,
    /// Where the bytes of that object are. Only this mount's own commits, copies and renames move it on, so that a
    /// handle never reads the version of another host. It stays when the name goes, so that open handles never read
    /// nothing where there was something.
    pub(crate) source: Option<Source>,
    /// The copy that the handles read once the name has gone.
    pub(crate) held: Option<Held>,
    /// What the file is now, changes included; its size is the writer's business while there is one.
    pub(crate) attributes: Attributes,
    /// What it was at the last promise: a later write is no part of that, nor is its time.
    promised: Option<Attributes>,
    /// The user metadata as programs have changed it since the last commit; None while it is the object's.
    pub(crate) user: Option<UserMetadata>,
    /// The tags of the object, as a header's text, which a new object has to carry on.
    pub(crate) tags: Option<String>,
    /// The annotations of the object that the next commit replaces, or that a commit may have replaced whose answer was
    /// lost.
    pub(crate) annotations: Option<KeptAnnotations>,
    /// What the file takes over from the object that it was copied from, with the next commit.
    pub(crate) carried: Option<Carried>,
    /// Whether a program has set attributes since the last commit, which then must be stored exactly.
    pub(crate) exact: bool,
    /// Whether no commit may store it any more, because its name was removed or is about to be. What has become of the
    /// name is the namespace's to say.
    pub(crate) unlinked: bool,
    /// Made by the first change, kept until the file is closed.
    pub(crate) writer: Option<Arc<Writer>>,
    /// What the journal keeps of the changes.
    pub(crate) kept: Option<JournalRef>,
    /// The last failure to make the changes safe.
    pub(crate) last_error: Option<String>,
    /// Whether the namespace knows that the file has changes, and so keeps its name whatever the store says.
    announced: bool,
    /// How many changes of content are under way. No commit may take the file for unchanged meanwhile.
    changing: usize,
    /// Whether the last try to store the file failed in a way that no later try by itself can mend, such as a lost
    /// race.
    pub(crate) refused: bool,
    /// Whether a task tries to make the changes of this file safe.
    pub(crate) retrying: bool,
    reader: Option<(Source, Arc<Reader>)>,
}

/// What goes with the bytes of a copied object, beside mode, owner and times, which are the copy's own.
pub(crate) struct Carried {
    pub(crate) meta: ObjectMeta,
    pub(crate) tags: Option<String>,
}

impl FileState {
    /// What the object under the changes carries: that which was copied, or the file's own.
    fn meta(&self) -> Option<&ObjectMeta> {
        let copied = self.carried.as_ref().map(|carried| &carried.meta);
        copied.or_else(|| self.head.as_ref().map(|head| &head.meta))
    }

    /// A promise is about to be made of the file as it is.
    pub(crate) fn note_promise(&mut self) {
        self.promised = Some(self.attributes);
    }

    /// Forgets what was promised if the store has it.
    pub(crate) fn end_promise(&mut self) {
        let is_waiting = self.writer.as_ref().is_some_and(|writer| writer.promised().is_some());
        self.promised = self.promised.filter(|_| is_waiting);
    }

    fn user(&self) -> UserMetadata {
        self.user.clone().or_else(|| Some(self.meta()?.user.clone())).unwrap_or_default()
    }
}

impl File {
    pub(crate) fn new(ino: Ino, attributes: Attributes) -> File {
        let state = FileState {
            users: 0,
            head: None,
            source: None,
            held: None,
            attributes,
            promised: None,
            user: None,
            tags: None,
            annotations: None,
            carried: None,
            exact: false,
            unlinked: false,
            writer: None,
            kept: None,
            last_error: None,
            announced: false,
            changing: 0,
            refused: false,
            retrying: false,
            reader: None,
        };
        File {
            ino,
            turn: tokio::sync::Mutex::default(),
            keeping: tokio::sync::Mutex::default(),
            left: Notify::new(),
            kernel_writes: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn writer(&self) -> Option<Arc<Writer>> {
        self.state().writer.clone()
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.writer().is_some_and(|writer| writer.is_dirty())
    }

    /// The object that the whole file is, if it has no changes and still has its name.
    pub(crate) fn stored(&self) -> Option<Source> {
        if self.is_dirty() {
            return None;
        }
        let state = self.state();
        state.source.clone().filter(|_| !state.unlinked)
    }

    /// Whether its object, or one that it may have, or its upload are bound to the name that it has.
    pub(crate) fn is_bound(&self) -> bool {
        let is_stored = self.state().head.is_some();
        is_stored || self.writer().is_some_and(|writer| writer.is_streaming() || writer.has_ambiguous_commits())
    }

    /// What the file is now, if it differs from what the store has.
    pub(crate) fn changed_attributes(&self) -> Option<Attributes> {
        self.writer().filter(|writer| writer.is_dirty()).map(|_| self.attributes())
    }

    /// The user metadata that its next object is to have, if there are changes that the store does not have, or no
    /// object.
    pub(crate) fn changed_user(&self) -> Option<UserMetadata> {
        let is_dirty = self.is_dirty();
        let state = self.state();
        (is_dirty || state.unlinked).then(|| state.user())
    }

    /// Notes a change of an extended attribute, which the next commit must store.
    pub(crate) fn edit_user(&self, edit: &xattr::Edit) -> Result<(), namespace::Error> {
        let mut state = self.state();
        state.user = Some(edit.applied(&state.user())?);
        state.attributes.ctime = Timestamp::from(SystemTime::now());
        state.exact = true;
        Ok(())
    }

    /// What the file is now.
    pub(crate) fn attributes(&self) -> Attributes {
        let state = self.state();
        let size = state.writer.as_ref().map_or(state.attributes.size, |writer| writer.size());
        Attributes { size, ..state.attributes }
    }

    /// Notes that the namespace learns of changes now; true when it knew of none.
    pub(crate) fn announce(&self) -> bool {
        !std::mem::replace(&mut self.state().announced, true)
    }

    /// Notes that content is about to change: a commit that takes the change must take its time too. True when the
    /// namespace knew of no changes. [`File::end_change`] follows.
    pub(crate) fn begin_change(&self, privileges: Privileges) -> bool {
        let now = Timestamp::from(SystemTime::now());
        let mut state = self.state();
        state.changing += 1;
        state.attributes.mtime = now;
        state.attributes.ctime = now;
        state.attributes.mode = privileges.after_write(state.attributes.mode, state.attributes.gid);
        !std::mem::replace(&mut state.announced, true)
    }

    /// Notes that a change of content was made, or has failed. If the file has no changes now, because nothing was
    /// changed or because a commit has stored all of it meanwhile, it shows its object again, which is returned.
    pub(crate) fn end_change(&self, namespace: &Namespace) -> Option<Head> {
        let mut state = self.state();
        state.changing -= 1;
        let is_dirty = state.writer.as_ref().is_some_and(|writer| writer.is_dirty());
        if state.changing > 0 || is_dirty || state.unlinked {
            return None;
        }
        let head = state.head.clone()?;
        state.announced = false;
        state.attributes = namespace.settled(&head);
        Some(head)
    }

    /// Whether there are changes, or some are being made.
    pub(crate) fn is_changing(&self) -> bool {
        let state = self.state();
        state.changing > 0 || state.writer.as_ref().is_some_and(|writer| writer.is_dirty())
    }

    /// Whether the file's bytes are those of `head`.
    pub(crate) fn shows(&self, head: &Head) -> bool {
        self.state().head.as_ref().is_some_and(|shown| shown.meta.version == head.meta.version)
    }

    /// Shows another version from now on, as long as no other handle is open: other handles read the version that
    /// they were opened with, and a new lookup finds a new inode for this one.
    pub(crate) fn show(&self, key: &Key, head: &Head, attributes: Attributes) -> Result<(), super::Error> {
        let mut state = self.state();
        if state.users > 1 && state.head.is_some() {
            return Err(super::Error::Stale);
        }
        state.head = Some(head.clone());
        state.source = Some(source(key, head));
        state.attributes = attributes;
        state.user = None;
        state.writer = None;
        state.refused = false;
        Ok(())
    }

    /// The object is a copy that this mount has made of it, under `key`. Bytes that are read from now on come from it.
    pub(crate) fn replaced(&self, head: Head, key: &Key, attributes: Attributes) {
        let base = source(key, &head);
        let old = {
            let mut state = self.state();
            state.attributes = attributes;
            state.head = Some(head);
            state.source.clone()
        };
        if let Some(old) = old {
            self.moved(&old.version, base);
        }
    }

    /// The name has gone: the handles read the held copy from now on. False when there is none of the version that they
    /// read.
    pub(crate) fn stand_on_held(&self) -> bool {
        let held = {
            let state = self.state();
            let shown = state.source.as_ref().map(|source| &source.version);
            state.held.clone().filter(|held| Some(&held.of) == shown)
        };
        let Some(Held { of, copy }) = held else { return false };
        self.moved(&of, copy);
        true
    }

    /// The bytes of the version `from` are those of `to`, which this mount has made of it. What a reader has of them
    /// stays good.
    fn moved(&self, from: &Version, to: Source) {
        let writer = {
            let mut state = self.state();
            if let Some((of, reader)) = state.reader.as_mut().filter(|(of, _)| of.version == *from) {
                reader.relocate(read::Location { key: to.key.clone(), version: to.version.clone() });
                *of = to.clone();
            }
            state.source = Some(to.clone());
            state.writer.clone()
        };
        // The writer has a mutex of its own and asks this file for its target: never both at once.
        if let Some(writer) = writer {
            writer.rebase(from, to);
        }
    }

    /// The object that handles need beside what this host has, and that goes with the name `key`; none where a version
    /// stays readable by its id.
    pub(crate) fn needed_of(&self, key: &Key) -> Option<Source> {
        let base = match self.writer() {
            Some(writer) => writer.needed_base(),
            None => self.state().source.clone(),
        };
        base.filter(|base| base.key == *key && base.version.id.is_none() && base.size > 0)
    }

    /// The held copy, once no handle needs it. The caller deletes it.
    pub(crate) fn take_unneeded_held(&self) -> Option<Held> {
        let mut state = self.state();
        let is_dirty = state.writer.as_ref().is_some_and(|writer| writer.is_dirty());
        let is_needed = state.users > 0 || (is_dirty && !state.unlinked);
        if is_needed { None } else { state.held.take() }
    }

    /// Notes attributes that a program has set, which the next commit must store exactly.
    pub(crate) fn change_attributes(&self, change: impl Fn(Attributes) -> Attributes) {
        let mut state = self.state();
        state.attributes = change(state.attributes);
        // The call is answered now, so what was promised before carries it too.
        state.promised = state.promised.map(change);
        state.exact = true;
    }

    /// The reader of `source`, the same one for all who read that version.
    pub(crate) fn reader(&self, source: &Source, make: impl FnOnce() -> Arc<Reader>) -> Arc<Reader> {
        let mut state = self.state();
        match &state.reader {
            Some((of, reader)) if of == source => Arc::clone(reader),
            _ => {
                let reader = make();
                state.reader = Some((source.clone(), Arc::clone(&reader)));
                reader
            }
        }
    }

    /// The next read asks the store again.
    pub(crate) fn forget_reader(&self) {
        self.state().reader = None;
    }

    pub(crate) fn location(&self) -> Location {
        self.writer().map_or(Location::None, |writer| writer.location())
    }
}

/// The object of `head`, as the source of reads and copies.
pub(crate) fn source(key: &Key, head: &Head) -> Source {
    Source { key: key.clone(), version: head.meta.version.clone(), size: head.meta.size }
}

/// Ties a writer to its file's name and attributes. Weak, because the file owns the writer.
pub(crate) struct Link {
    pub(crate) file: Weak<File>,
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) pages: Arc<Pages>,
}

impl Destination for Link {
    fn commit_target(&self) -> CommitTarget {
        let Some(file) = self.file.upgrade() else { return CommitTarget::Removed };
        if file.state().unlinked {
            return CommitTarget::Removed;
        }
        let Some(key) = self.namespace.key_to_store(file.ino) else { return CommitTarget::Lost };
        let state = file.state();
        let (form, new_type) = (self.namespace.posix_form(), self.namespace.content_type(&key));
        CommitTarget::Object(Target { object: new_object(key, form, new_type, &state), exact: state.exact })
    }

    fn committed(&self, key: &Key, head: Head) {
        let Some(file) = self.file.upgrade() else { return };
        {
            let mut state = file.state();
            state.end_promise();
            // Asked with the state in hand: a write that begins after this notes its time there first.
            let still_changed = state.changing > 0 || state.writer.as_ref().is_some_and(|writer| writer.is_dirty());
            state.source = Some(source(key, &head));
            state.head = Some(head.clone());
            state.last_error = None;
            if let Some(carried) = state.carried.take() {
                state.tags = carried.tags;
            }
            state.exact &= still_changed;
            state.announced = still_changed;
            if !still_changed {
                state.attributes = self.namespace.settled(&head);
                state.user = None;
            }
        }
        self.pages.are_now(file.ino, &head.meta.version);
        self.namespace.committed(file.ino, head);
        // Also what was written since: the namespace heard of it before it heard of the commit.
        if file.is_changing() {
            self.namespace.set_local(file.ino, file.attributes());
        }
    }
}

/// The storage classes whose objects cannot be read until they are restored ("Understanding S3 Glacier storage
/// classes", S3 User Guide).
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// A new object for the file: what the old one carried, or the one that it was copied from, with the attributes as they
/// are now. A file without an object gets `new_type`. What a program writes now is not archived: it would be out of
/// reach from then on.
fn new_object(key: Key, form: PosixForm, new_type: String, state: &FileState) -> NewObject {
    let meta = state.meta();
    let tags = state.carried.as_ref().map_or(&state.tags, |carried| &carried.tags);
    NewObject {
        key,
        user: posix::metadata(state.user(), &state.promised.unwrap_or(state.attributes), form),
        content_type: meta.map_or(Some(new_type), |meta| meta.content_type.clone()),
        content_headers: meta.map_or_else(BTreeMap::new, |meta| meta.content_headers.clone()),
        storage_class: meta
            .map(|meta| meta.storage_class.clone())
            .filter(|class| class != "STANDARD" && !ARCHIVES.contains(&class.as_str())),
        tags: tags.clone(),
        commit: None,
    }
}

/// What is needed to give a file its writer.
pub(crate) struct WriterParts<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    pub(crate) namespace: &'a Arc<Namespace>,
    pub(crate) gateway: &'a Arc<Gateway>,
    pub(crate) pages: &'a Arc<Pages>,
}

impl WriterParts<'_> {
    /// The writer of `file`, made now if it has none. One request when the object has tags, which a new object must
    /// carry on.
    pub(crate) async fn writer_of(&self, file: &Arc<File>) -> Result<Arc<Writer>, super::Error> {
        loop {
            if let Some(writer) = file.writer() {
                return Ok(writer);
            }
            let (base, tagged) = {
                let state = file.state();
                (state.source.clone(), state.head.as_ref().is_some_and(|head| head.meta.tag_count > 0))
            };
            let tags = match &base {
                Some(base) if tagged => self.gateway.tags(&base.key).await?,
                _ => None,
            };
            if let Some(writer) = self.make_writer(file, base, tags) {
                return Ok(writer);
            }
        }
    }

    /// None when `base` is not the file's object any more: this mount has changed its attributes or its name meanwhile,
    /// and the commit of a writer over what it was would be refused.
    fn make_writer(&self, file: &Arc<File>, base: Option<Source>, tags: Option<String>) -> Option<Arc<Writer>> {
        let mut state = file.state();
        if state.source != base {
            return None;
        }
        state.tags = tags;
        let size = base.as_ref().map_or(0, |base| base.size);
        let is_new = base.is_none();
        let link = Box::new(Link {
            file: Arc::downgrade(file),
            namespace: Arc::clone(self.namespace),
            pages: Arc::clone(self.pages),
        });
        let make = || Writer::new(self.engine, base, size, is_new, link);
        Some(Arc::clone(state.writer.get_or_insert_with(make)))
    }
}

/// Whether a node of this kind has content that programs read and write.
pub(crate) fn has_content(kind: Kind) -> bool {
    matches!(kind, Kind::File)
}

#[cfg(test)]
impl File {
    /// One that was never written, for tests.
    pub(crate) fn empty(ino: Ino) -> File {
        let now = Timestamp::from(SystemTime::now());
        let attributes = Attributes {
            kind: Kind::File,
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: now,
            atime: now,
            ctime: now,
            nlink: 1,
        };
        File::new(ino, attributes)
    }
}
