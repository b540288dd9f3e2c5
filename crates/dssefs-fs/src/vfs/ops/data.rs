//! Opening, reading, writing and closing.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;

use crate::namespace::{Attributes, Ino, Kind, Node, Privileges, Timestamp};
use crate::read::{self, Location, Reader};
use crate::write::{self, Piece, Writer};
use dssefs_s3::object::Name;
use dssefs_s3::s3::{self, Source};

use crate::namespace;
use crate::vfs::file::{File, WriterParts, has_content};
use crate::vfs::handles::OpenFile;
use crate::vfs::slots::Slot;
use crate::vfs::{Error, Fh, Vfs};

/// How often a call starts over because the file changed under it.
const TRIES_MAX: u32 = 8;
/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Its bytes are read.
    pub read: bool,
    /// Its bytes are written.
    pub write: bool,
    /// Each write goes to the file's end (O_APPEND).
    pub append: bool,
    /// It is emptied (O_TRUNC).
    pub truncate: bool,
    /// What that does beside emptying it.
    pub privileges: Privileges,
    /// The user who opens it.
    pub uid: u32,
}

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
            Ok(keep_cache) => Ok(Opened { fh: self.handle(file, access, slot), keep_cache }),
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
        self.change_content(file, || writer.resize(0)).await?;
        file.state().carried = None;
        self.changed(file, privileges);
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
        Ok((node, self.handle(file, access, slot)))
    }

    /// Makes a new, empty file that stands in the store when this returns (mknod).
    ///
    /// # Errors
    /// As [`Vfs::create`], and the store refused.
    pub async fn make_file(&self, parent: Ino, name: &Name, owner: (u32, u32, u32)) -> Result<Node, Error> {
        let access = Access { write: true, uid: owner.1, ..Access::default() };
        let (node, fh) = self.create(parent, name, owner, access).await?;
        let outcome = self.flush(fh).await;
        self.release(fh).await;
        outcome.map(|()| node)
    }

    /// Reads at most `size` bytes at `offset`; fewer only at the file's end.
    ///
    /// # Errors
    /// The object changed or cannot be read, or local bytes were tampered with.
    pub async fn read(&self, fh: Fh, offset: u64, size: u32) -> Result<Bytes, Error> {
        let open = self.handles.file(fh)?;
        let range = offset..offset.saturating_add(u64::from(size));
        match open.file.writer() {
            Some(writer) => self.read_changed(&open.file, &writer, range).await,
            None => self.read_object(&open.file, range).await,
        }
    }

    /// Writes `data`.
    ///
    /// # Errors
    /// See [`Writer::write`].
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
        self.change_content(&open.file, || writer.write(offset, data)).await?;
        self.changed(&open.file, privileges);
        Ok(())
    }

    /// close(2): returns when the store has proved the file as it is now. Without changes it sends nothing. A handle
    /// that cannot write does not publish what other handles are writing.
    ///
    /// # Errors
    /// The changes are not safe. They are kept, and tried again.
    pub async fn flush(&self, fh: Fh) -> Result<(), Error> {
        let open = self.handles.file(fh)?;
        if !open.writes {
            return Ok(());
        }
        let _subtree = self.namespace.lock_shared(open.file.ino).await;
        if self.closes_early(&open.file) {
            match self.keep(&open.file).await {
                Ok(()) => {
                    self.save_owed(&open.file);
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "the journal cannot keep the file; its close waits for the store"),
            }
        }
        self.commit(&open.file).await
    }

    /// fsync(2), through any handle.
    ///
    /// # Errors
    /// As [`Vfs::flush`].
    pub async fn fsync(&self, fh: Fh) -> Result<(), Error> {
        let open = self.handles.file(fh)?;
        self.save(&open.file).await
    }

    /// The last reference to a handle is gone.
    pub async fn release(&self, fh: Fh) {
        if let Some(open) = self.handles.remove_file(fh) {
            self.leave(&open.file).await;
        }
    }

    pub(in crate::vfs) async fn commit(&self, file: &Arc<File>) -> Result<(), Error> {
        let Some(writer) = file.writer() else { return Ok(()) };
        let _turn = file.turn.lock().await;
        let released = if writer.is_dirty() { self.release_copies(file).await } else { Ok(()) };
        let outcome = match released {
            Ok(()) => writer.commit().await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            let worth_trying = !error.is_final() && !error.is_lost_race();
            let mut state = file.state();
            state.last_error = Some(error.advice());
            state.owed = worth_trying.then(|| writer.changes());
        }
        self.after_commit(file, &outcome).await;
        self.save_owed(file);
        outcome
    }

    /// Changes a file. If the writer asks for a commit first, commits and tries again. The caller holds a shared lock
    /// of the subtree.
    pub(in crate::vfs) async fn change_content<F>(&self, file: &Arc<File>, attempt: impl Fn() -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), write::Error>>,
    {
        for _ in 0..TRIES_MAX {
            match attempt().await {
                Err(write::Error::CommitFirst) => self.commit(file).boxed().await?,
                outcome => return Ok(outcome?),
            }
        }
        Err(write::Error::CommitFirst.into())
    }

    /// Notes that the file's content has changed.
    pub(in crate::vfs) fn changed(&self, file: &Arc<File>, privileges: Privileges) {
        if file.written_now(privileges) && !file.state().unlinked {
            self.namespace.set_local(file.ino, file.attributes());
        }
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
            self.change_content(file, || writer.resize(size)).await?;
            if size == 0 {
                file.state().carried = None;
            }
            self.changed(file, privileges);
            return Ok(());
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
        self.save_owed(file);
        self.namespace.unpin_open(file.ino);
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

    fn handle(&self, file: Arc<File>, access: Access, slot: Slot) -> Fh {
        let (reads, writes, appends) = (access.read, access.write, access.append);
        self.handles.add_file(OpenFile { file, reads, writes, appends, _slot: slot })
    }

    pub(in crate::vfs) fn writer_parts(&self) -> WriterParts<'_> {
        WriterParts { engine: &self.engine, namespace: &self.namespace, gateway: &self.gateway, pages: &self.pages }
    }

    /// Makes the file show the version that is in the store now; true when the kernel's pages are of that version.
    /// Waits for a rename or a change of attributes that is replacing it.
    pub(in crate::vfs) async fn pin(&self, file: &Arc<File>) -> Result<bool, Error> {
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

    async fn read_object(&self, file: &Arc<File>, range: Range<u64>) -> Result<Bytes, Error> {
        let source = file.state().source.clone().ok_or(Error::Stale)?;
        self.read_moving(file, source, range).await
    }

    /// Reads `source`, also when this mount itself gives those bytes another key or ETag meanwhile (a rename, a change
    /// of attributes).
    async fn read_moving(&self, file: &Arc<File>, mut source: Source, range: Range<u64>) -> Result<Bytes, Error> {
        for _ in 0..TRIES_MAX {
            match self.read_source(file, &source, range.clone()).await {
                Err(error) if is_gone(&error) => {
                    tracing::warn!(%error, "the version that a program has open is not the object any more");
                }
                outcome => return outcome,
            }
            let Some((key, version)) = self.namespace.successor(file.ino, &source.version).await else { break };
            let moved = Source { key, version, size: source.size };
            if moved == source {
                break;
            }
            source = moved;
        }
        // Who is told to open the file again must not be shown the same version again.
        self.namespace.expire(file.ino);
        Err(Error::Stale)
    }

    async fn read_source(&self, file: &Arc<File>, source: &Source, range: Range<u64>) -> Result<Bytes, Error> {
        let end = range.end.min(source.size);
        let Some(length) = end.checked_sub(range.start).filter(|length| *length > 0) else { return Ok(Bytes::new()) };
        let reader = file.reader(source, || {
            let location = Location { key: source.key.clone(), version: source.version.clone() };
            Arc::new(Reader::new(Arc::clone(&self.gateway), location, source.size, Arc::clone(&self.read_budget)))
        });
        let bytes = reader.read(range.start, length).await?;
        // The store has spoken of the encryption again, with the bytes themselves.
        let judged = reader.observed().map_or(Ok(()), |head| self.refuse_to_read(&source.key, &head));
        // What came with a refused answer is not kept: the next read asks again.
        judged.inspect_err(|_| file.forget_reader())?;
        Ok(bytes)
    }

    async fn read_changed(&self, file: &Arc<File>, writer: &Arc<Writer>, range: Range<u64>) -> Result<Bytes, Error> {
        for _ in 0..TRIES_MAX {
            let (pieces, base) = match writer.locate(range.clone()) {
                Ok(located) => located,
                Err(write::Error::CommitFirst) => {
                    self.save(file).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if let ([Piece::Base(whole)], Some(base)) = (pieces.as_slice(), &base) {
                return self.read_moving(file, base.clone(), whole.clone()).await;
            } else if let Some(bytes) = self.assemble(file, writer, &pieces, base.as_ref()).await? {
                return Ok(bytes);
            }
        }
        Err(Error::Stale)
    }

    /// The bytes of `pieces` in order; none when some of them moved meanwhile.
    async fn assemble(
        &self,
        file: &Arc<File>,
        writer: &Writer,
        pieces: &[Piece],
        base: Option<&Source>,
    ) -> Result<Option<Bytes>, Error> {
        let mut all = BytesMut::new();
        for piece in pieces {
            match (piece, base) {
                (Piece::Local(range), _) => {
                    let at = all.len();
                    all.resize(at + length(range), 0);
                    if !writer.read_local(range.start, &mut all[at..])? {
                        return Ok(None);
                    }
                }
                (Piece::Base(range), Some(base)) => {
                    all.extend_from_slice(&self.read_moving(file, base.clone(), range.clone()).await?);
                }
                (Piece::Zero(range) | Piece::Base(range), _) => all.resize(all.len() + length(range), 0),
            }
        }
        Ok(Some(all.freeze()))
    }
}

/// The length of a piece of one read, which the kernel limits to far less than a usize.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

fn is_gone(error: &Error) -> bool {
    matches!(
        error,
        Error::Store(error) | Error::Read(read::Error::Store(error))
            if matches!(error.kind, s3::Kind::NotFound | s3::Kind::PreconditionFailed)
    )
}
