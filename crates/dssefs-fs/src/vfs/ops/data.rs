//! Opening, writing and closing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use futures_util::FutureExt;

use crate::namespace::{Attributes, Ino, Kind, Node, Privileges, Timestamp};
use crate::write::{self, Writer};
use dssefs_s3::object::Name;

use crate::namespace;
use crate::vfs::file::{File, WriterParts, has_content};
use crate::vfs::handles::{Access, OpenFile};
use crate::vfs::slots::Slot;
use crate::vfs::{Error, Fh, Vfs};

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the program says, or to the end if the file was opened for appending.
    Program(u64),
    /// There in any case: these are pages that the kernel writes back.
    Kernel(u64),
}

/// An opened file.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its handle.
    pub fh: Fh,
    /// Whether the pages that the kernel has of it are still those of this version.
    pub keep_cache: bool,
}

impl Vfs {
    /// Opens a file, and pins the version that its handles read.
    ///
    /// # Errors
    /// The object is gone, cannot be looked at, was replaced while other handles are open (look the name up again), or
    /// is not compliant and the mount refuses such reads.
    pub async fn open(&self, ino: Ino, access: Access) -> Result<Opened, Error> {
        let _subtree = if access.truncate { Some(self.namespace.lock_shared(ino).await) } else { None };
        let slot = self.handles.file_slot(access.uid)?;
        let file = self.enter(ino).await?;
        match self.prepare(&file, access).await {
            Ok(keep_cache) => Ok(Opened { fh: self.handle(file, access, access.truncate, slot), keep_cache }),
            Err(error) => {
                self.leave(&file).await;
                Err(error)
            }
        }
    }

    async fn prepare(&self, file: &Arc<File>, access: Access) -> Result<bool, Error> {
        let keep_cache = self.pin(file).await?;
        // O_TRUNC reads none of the content and stores none of it again.
        if !access.truncate {
            self.refuse_noncompliant(file)?;
        }
        if access.truncate {
            self.empty(file, access.privileges).await?;
        }
        Ok(keep_cache)
    }

    /// O_TRUNC, which changes the file's times even if it was empty before (open(2)): a shell's `>` renews the stamps
    /// that make(1) goes by.
    async fn empty(&self, file: &Arc<File>, privileges: Privileges) -> Result<(), Error> {
        let writer = self.writer_parts().writer_of(file).await?;
        self.change_content(file, privileges, writer.resize(0)).await?;
        file.state().carried = None;
        Ok(())
    }

    /// Makes a new, empty file and opens it. The store hears of it when it is closed.
    ///
    /// # Errors
    /// The name is taken or cannot be kept.
    pub async fn create(
        &self,
        parent: Ino,
        name: &Name,
        (mode, uid, gid): (u32, u32, u32),
        access: Access,
    ) -> Result<(Node, Fh), Error> {
        let _subtree = self.namespace.lock_shared(parent).await;
        let slot = self.handles.file_slot(access.uid)?;
        let gid = self.namespace.inherited_group(parent).unwrap_or(gid);
        let now = Timestamp::from(SystemTime::now());
        let attributes =
            Attributes { kind: Kind::File, size: 0, mode, uid, gid, mtime: now, atime: now, ctime: now, nlink: 1 };
        let node = self.namespace.create(parent, name, attributes)?;
        self.namespace.pin_open(node.ino)?;
        let file = self.files.enter(node.ino, || File::new(node.ino, attributes));
        self.writer_parts().writer_of(&file).await?;
        // With the times that the kernel gets, and not those of a moment later.
        file.announce();
        self.namespace.set_local(node.ino, attributes);
        Ok((node, self.handle(file, access, true, slot)))
    }

    /// Makes a new, empty file that stands in the store when this returns (mknod). One that cannot be stored leaves
    /// nothing behind.
    ///
    /// # Errors
    /// As [`Vfs::create`], and the store refused.
    pub async fn make_file(&self, parent: Ino, name: &Name, owner: (u32, u32, u32)) -> Result<Node, Error> {
        let access = Access { write: true, uid: owner.1, ..Access::default() };
        let (node, fh) = self.create(parent, name, owner, access).await?;
        let made = match self.flush(fh).await {
            Err(error) => self.unmake(fh, error).await,
            Ok(()) => Ok(()),
        };
        self.release(fh).await;
        made.map(|()| node)
    }

    /// Takes back a new file that could not be stored, with `error`; its handle is `fh`. Succeeds when the store turns
    /// out to have it.
    async fn unmake(&self, fh: Fh, error: Error) -> Result<(), Error> {
        let file = Arc::clone(&self.handles.file(fh)?.file);
        let _subtree = self.namespace.lock_shared(file.ino).await;
        let _turn = file.turn.lock().await;
        // 1. The answer may have been lost.
        if let Some(writer) = file.writer() {
            let asked = writer.resolve_ambiguous_commits().await;
            if asked.is_ok() && !writer.is_dirty() {
                return Ok(());
            }
        }
        // 2. No commit may store it from now on.
        let object = self.namespace.key(file.ino);
        file.state().unlinked = true;
        self.namespace.discard(file.ino);
        self.namespace.forget(file.ino, 1);
        // 3. Nor may the next mount.
        self.let_go_of_removed(&file, object.as_ref()).await?;
        Err(if error.is_lost_race() { namespace::Error::Exists.into() } else { error })
    }

    /// Writes `data`.
    ///
    /// # Errors
    /// See [`Writer::write`](write::Writer::write).
    pub async fn write(&self, fh: Fh, place: Place, data: &[u8], privileges: Privileges) -> Result<(), Error> {
        let open = self.handles.file(fh)?;
        if !open.writes {
            return Err(Error::NotOpenForWriting);
        }
        let _subtree = self.namespace.lock_shared(open.file.ino).await;
        let writer = self.writer_parts().writer_of(&open.file).await?;
        let offset = match place {
            Place::Program(_) if open.appends => writer.size(),
            Place::Program(offset) | Place::Kernel(offset) => offset,
        };
        if open.reads {
            writer.expect_reads();
        }
        self.change_content(&open.file, privileges, writer.write(offset, data)).await?;
        match place {
            Place::Program(_) => open.note_change(),
            Place::Kernel(_) => _ = open.file.kernel_writes.fetch_add(1, Ordering::SeqCst),
        }
        Ok(())
    }

    /// close(2): promises the file as it is now if it was changed through this handle, and returns when the store has
    /// proved it. A handle through which nothing was changed does not publish what others are writing. One that may
    /// write tries again what an earlier close has promised in vain.
    ///
    /// # Errors
    /// The changes are not safe. They are kept, and tried again.
    pub async fn flush(&self, fh: Fh) -> Result<(), Error> {
        let open = self.handles.file(fh)?;
        let changes = open.changes();
        let changed = open.is_unanswered(changes);
        let is_waiting = || open.writes && open.file.writer().is_some_and(|writer| writer.promised().is_some());
        if !changed && !is_waiting() {
            return Ok(());
        }
        let _subtree = self.namespace.lock_shared(open.file.ino).await;
        if !changed {
            return if self.is_answered_for(&open.file) {
                Ok(())
            } else {
                self.save_promised(&open.file).boxed().await
            };
        }
        self.close_changed(&open.file).await?;
        open.note_answered(changes);
        Ok(())
    }

    async fn close_changed(&self, file: &Arc<File>) -> Result<(), Error> {
        if self.closes_early(file) {
            match self.keep(file).await {
                Ok(true) => {
                    self.save_owed(file);
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the journal cannot keep the file; its close waits for the store"),
            }
        }
        self.commit(file).boxed().await
    }

    /// fsync(2), through any handle.
    ///
    /// # Errors
    /// As [`Vfs::flush`].
    pub async fn fsync(&self, fh: Fh) -> Result<(), Error> {
        let open = self.handles.file(fh)?;
        let changes = open.changes();
        self.save(&open.file).await?;
        open.note_answered(changes);
        Ok(())
    }

    /// The last reference to a handle is gone.
    pub async fn release(&self, fh: Fh) {
        if let Some(open) = self.handles.remove_file(fh) {
            self.leave(&open.file).await;
        }
    }

    /// Promises the file as it is now, and stores it.
    pub(in crate::vfs) async fn commit(&self, file: &Arc<File>) -> Result<(), Error> {
        let Some(writer) = file.writer() else { return Ok(()) };
        let _turn = file.turn.lock().await;
        let ready = if writer.is_dirty() { self.prepare_commit(file).await } else { Ok(()) };
        file.state().note_promise();
        let outcome = match ready {
            Ok(()) => writer.commit().await.map_err(Error::from),
            Err(error) => {
                // The call fails, and the journal keeps what it was asked to store. Where an earlier promise has to be
                // stored first, the journal keeps that one.
                if let Err(no_room) = writer.promise_only().await {
                    tracing::warn!(error = %no_room, "the journal keeps an earlier state of a file");
                }
                Err(error)
            }
        };
        self.note_outcome(file, outcome).await
    }

    /// Stores what a close or an fsync has promised of the file, and all of it if no program has it open. The caller
    /// holds a shared lock of the subtree.
    pub(in crate::vfs) async fn save_promised(&self, file: &Arc<File>) -> Result<(), Error> {
        let Some(writer) = file.writer() else { return Ok(()) };
        let _turn = file.turn.lock().await;
        let outcome = self.save_promises(file, &writer).await;
        self.note_outcome(file, outcome).await
    }

    async fn save_promises(&self, file: &Arc<File>, writer: &Arc<Writer>) -> Result<(), Error> {
        let is_all = promise_if_closed(file, writer);
        if writer.promised().is_some() {
            self.prepare_commit(file).await?;
        }
        writer.save().await?;
        if !is_all {
            // The earlier promise had to be stored first.
            promise_if_closed(file, writer);
            writer.save().await?;
        }
        Ok(())
    }

    async fn note_outcome(&self, file: &Arc<File>, outcome: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = &outcome {
            self.learn_from(file, error);
        }
        {
            let mut state = file.state();
            state.refused = outcome.as_ref().is_err_and(|error| error.is_final() || error.is_lost_race());
            if let Err(error) = &outcome {
                state.last_error = Some(error.advice());
            }
            state.end_promise();
        }
        self.settle_annotations(file, &outcome).await;
        self.after_commit(file, &outcome).await;
        self.save_owed(file);
        outcome
    }

    async fn prepare_commit(&self, file: &Arc<File>) -> Result<(), Error> {
        self.release_copies(file).await?;
        self.renew_description(file).await
    }

    /// Changes a file's content, with its times. The caller holds a shared lock of the subtree.
    pub(in crate::vfs) async fn change_content<T>(
        &self,
        file: &Arc<File>,
        privileges: Privileges,
        change: impl Future<Output = Result<T, write::Error>>,
    ) -> Result<T, Error> {
        let under_way = ChangeUnderWay { vfs: self, file };
        if file.begin_change(privileges) && !file.state().unlinked {
            self.namespace.set_local(file.ino, file.attributes());
        }
        let outcome = change.await;
        drop(under_way);
        Ok(outcome?)
    }

    /// Makes the file `size` bytes long.
    pub(in crate::vfs) async fn resize(
        &self,
        file: &Arc<File>,
        size: u64,
        privileges: Privileges,
    ) -> Result<(), Error> {
        let writer = self.writer_parts().writer_of(file).await?;
        if writer.size() != size {
            self.change_content(file, privileges, writer.resize(size)).await?;
            if size == 0 {
                file.state().carried = None;
            }
        }
        self.lose_privileges(file, privileges).await
    }

    /// The file of `ino` with one more user.
    pub(in crate::vfs) async fn enter(&self, ino: Ino) -> Result<Arc<File>, Error> {
        self.namespace.pin_open(ino)?;
        let entered = self.enter_pinned(ino).await;
        if entered.is_err() {
            self.namespace.unpin_open(ino);
        }
        entered
    }

    async fn enter_pinned(&self, ino: Ino) -> Result<Arc<File>, Error> {
        if let Some(file) = self.files.enter_existing(ino) {
            return Ok(file);
        }
        let attributes = self.namespace.attributes(ino).await?;
        if attributes.kind == Kind::Directory {
            return Err(namespace::Error::IsADirectory.into());
        }
        if !has_content(attributes.kind) {
            return Err(Error::Unsupported("opening this kind of file"));
        }
        Ok(self.files.enter(ino, || File::new(ino, attributes)))
    }

    /// One user less. If the file still has changes (its close failed, or a mapping wrote after it), a task saves them.
    pub(in crate::vfs) async fn leave(&self, file: &Arc<File>) {
        self.files.leave(file);
        file.left.notify_waiters();
        self.discard_if_deleted(file).await;
        self.release_held(file).await;
        self.save_owed(file);
        self.namespace.unpin_open(file.ino);
    }

    /// Deletes the copy that handles of a removed file have read, after the last one is closed.
    async fn release_held(&self, file: &File) {
        let unneeded = file.take_unneeded_held();
        if let Some(held) = unneeded {
            self.namespace.release(&held).await;
        }
    }

    /// A deleted file's changes go with its last user.
    pub(in crate::vfs) async fn discard_if_deleted(&self, file: &Arc<File>) {
        let deleted = {
            let state = file.state();
            state.writer.clone().filter(|_| state.users == 0 && state.unlinked)
        };
        if let Some(writer) = deleted {
            writer.discard().await;
            self.files.forget(file);
        }
    }

    fn handle(&self, file: Arc<File>, access: Access, changed: bool, slot: Slot) -> Fh {
        self.handles.add_file(OpenFile::new(file, access, changed, slot))
    }

    pub(in crate::vfs) fn writer_parts(&self) -> WriterParts<'_> {
        WriterParts { engine: &self.engine, namespace: &self.namespace, gateway: &self.gateway, pages: &self.pages }
    }

    /// Makes the file show the version that is in the store now; true when the kernel's pages are of that version.
    /// Waits for a rename or a change of attributes that is replacing it.
    pub(in crate::vfs) async fn pin(&self, file: &Arc<File>) -> Result<bool, Error> {
        // The kernel then looks the name up again, and opens the other writer's object.
        if self.namespace.is_lost(file.ino) {
            return Err(Error::Stale);
        }
        if file.is_dirty() {
            return Ok(true);
        }
        let _turn = file.turn.lock().await;
        if file.is_dirty() {
            return Ok(true);
        }
        let head = self.namespace.open(file.ino).await?;
        if file.shows(&head) {
            return Ok(true);
        }
        let attributes = self.namespace.attributes(file.ino).await?;
        let key = self.namespace.key(file.ino).ok_or(Error::Stale)?;
        file.show(&key, &head, attributes)?;
        Ok(self.pages.are_now(file.ino, &head.meta.version))
    }
}

/// A change of content that is being made.
struct ChangeUnderWay<'a> {
    vfs: &'a Vfs,
    file: &'a Arc<File>,
}

impl Drop for ChangeUnderWay<'_> {
    fn drop(&mut self) {
        let Some(head) = self.file.end_change(&self.vfs.namespace) else { return };
        self.vfs.namespace.committed(self.file.ino, head);
        // Also what was begun since: the namespace heard of it before it heard of this.
        if self.file.is_changing() {
            self.vfs.namespace.set_local(self.file.ino, self.file.attributes());
        }
    }
}

/// Promises a file that no program has open as it is: no close follows that could. False when an earlier promise has to
/// be stored first.
fn promise_if_closed(file: &File, writer: &Writer) -> bool {
    let mut state = file.state();
    if state.users > 0 {
        return true;
    }
    state.note_promise();
    writer.begin_promise()
}
