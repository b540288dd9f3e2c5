//! Opening, reading, writing and closing.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use crate::namespace::{Attributes, Ino, Kind, Node, Timestamp};
use crate::object::Name;
use crate::policy::Verdict;
use crate::read::{self, Location, Reader};
use crate::s3::{self, Head, Source};
use crate::write::{Piece, Writer};

use super::file::{File, WriterParts, has_content};
use super::handles::OpenFile;
use super::{Error, Fh, NoncompliantRead, Vfs};

/// How often a read starts over because the file changed under it.
const READ_AGAIN_MAX: u32 = 8;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// For reading alone.
    ReadOnly,
    /// For writing, perhaps also for reading.
    Write {
        /// Each write goes to the file's end.
        append: bool,
    },
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
    /// The object is gone, cannot be looked at, was replaced while other handles are open (look the name up again), or is not
    /// compliant and the mount refuses such reads.
    pub async fn open(&self, ino: Ino, mode: WriteMode) -> Result<Opened, Error> {
        let file = self.enter(ino).await?;
        match self.pin(&file, mode).await {
            Ok(keep_cache) => Ok(Opened { fh: self.handle(file, mode), keep_cache }),
            Err(error) => {
                self.leave(&file).await;
                Err(error)
            }
        }
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
        open: WriteMode,
    ) -> Result<(Node, Fh), Error> {
        let now = Timestamp::from(SystemTime::now());
        let attributes =
            Attributes { kind: Kind::File, size: 0, mode, uid, gid, mtime: now, atime: now, ctime: now, nlink: 1 };
        let node = self.namespace.create(parent, name, attributes)?;
        self.namespace.pin_open(node.ino)?;
        let file = self.files.enter(node.ino, || File::new(node.ino, attributes, None));
        self.writer_parts().writer_of(&file).await?;
        Ok((node, self.handle(file, open)))
    }

    /// Makes a new, empty file that stands in the store when this returns (mknod).
    ///
    /// # Errors
    /// As [`Vfs::create`], and the store refused.
    pub async fn make_file(&self, parent: Ino, name: &Name, owner: (u32, u32, u32)) -> Result<Node, Error> {
        let (node, fh) = self.create(parent, name, owner, WriteMode::Write { append: false }).await?;
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

    /// Writes `data` at `offset`, or at the end if the file was opened for appending.
    ///
    /// # Errors
    /// See [`Writer::write`].
    pub async fn write(&self, fh: Fh, offset: u64, data: &[u8]) -> Result<(), Error> {
        let open = self.handles.file(fh)?;
        if !open.writes {
            return Err(Error::NotOpenForWriting);
        }
        let writer = self.writer_parts().writer_of(&open.file).await?;
        let offset = if open.appends { writer.size() } else { offset };
        writer.write(offset, data).await?;
        open.file.written_now();
        Ok(())
    }

    /// close(2) and fsync(2): returns when the store has proved the file as it is now. Without changes it sends nothing.
    ///
    /// # Errors
    /// The changes are not safe. They are kept, and the next flush of any handle tries again.
    pub async fn flush(&self, fh: Fh) -> Result<(), Error> {
        let open = self.handles.file(fh)?;
        self.commit(&open.file).await
    }

    /// The last reference to a handle is gone.
    pub async fn release(&self, fh: Fh) {
        if let Some(open) = self.handles.remove_file(fh) {
            self.leave(&open.file).await;
        }
    }

    /// Tries to make all changes safe; the names of the files for which that failed, with the reason.
    pub async fn save_all(&self) -> Vec<(String, Error)> {
        let mut failed = Vec::new();
        for file in self.files.unsaved() {
            if let Err(error) = self.commit(&file).await {
                let name =
                    self.namespace.key(file.ino).map_or_else(|| "a deleted file".to_owned(), |key| key.to_string());
                failed.push((name, error));
            }
        }
        failed
    }

    /// How many files have changes that the store does not have.
    #[must_use]
    pub fn unsaved_count(&self) -> usize {
        self.files.unsaved().len()
    }

    pub(super) async fn commit(&self, file: &Arc<File>) -> Result<(), Error> {
        let Some(writer) = file.writer() else { return Ok(()) };
        let _turn = file.turn.lock().await;
        let outcome = writer.commit().await.map_err(Error::from);
        if let Err(error) = &outcome {
            file.state().last_error = Some(error.to_string());
        }
        outcome
    }

    /// The file of `ino` with one more user.
    pub(super) async fn enter(&self, ino: Ino) -> Result<Arc<File>, Error> {
        self.namespace.pin_open(ino)?;
        if let Some(file) = self.files.enter_existing(ino) {
            return Ok(file);
        }
        match self.namespace.attributes(ino).await {
            Ok(attributes) if has_content(attributes.kind) => {
                Ok(self.files.enter(ino, || File::new(ino, attributes, None)))
            }
            Ok(attributes) => {
                self.namespace.unpin_open(ino);
                Err(if attributes.kind == Kind::Directory {
                    crate::namespace::Error::IsADirectory.into()
                } else {
                    Error::Unsupported("opening this kind of file")
                })
            }
            Err(error) => {
                self.namespace.unpin_open(ino);
                Err(error.into())
            }
        }
    }

    /// One user less, and one pin of the inode less.
    pub(super) async fn leave(&self, file: &Arc<File>) {
        self.files.leave(file);
        self.discard_if_deleted(file).await;
        self.namespace.unpin_open(file.ino);
    }

    /// A deleted file's changes go with its last user.
    pub(super) async fn discard_if_deleted(&self, file: &Arc<File>) {
        let deleted = {
            let state = file.state();
            state.writer.clone().filter(|_| state.users == 0 && state.unlinked)
        };
        if let Some(writer) = deleted {
            writer.discard().await;
            self.files.forget(file);
        }
    }

    fn handle(&self, file: Arc<File>, mode: WriteMode) -> Fh {
        let (writes, appends) = match mode {
            WriteMode::ReadOnly => (false, false),
            WriteMode::Write { append } => (true, append),
        };
        self.handles.add_file(OpenFile { file, writes, appends })
    }

    pub(super) fn writer_parts(&self) -> WriterParts<'_> {
        WriterParts { engine: &self.engine, namespace: &self.namespace, gateway: &self.gateway, pages: &self.pages }
    }

    /// Makes the file show the version that is in the store now; true when the kernel's pages are of that version.
    pub(super) async fn pin(&self, file: &Arc<File>, mode: WriteMode) -> Result<bool, Error> {
        if file.is_dirty() {
            return Ok(true);
        }
        let head = self.namespace.open(file.ino).await?;
        self.refuse_noncompliant(&head, mode)?;
        if file.shows(&head) {
            return Ok(true);
        }
        let attributes = self.namespace.attributes(file.ino).await?;
        file.show(&head, attributes)?;
        Ok(self.pages.are_now(file.ino, &head.meta.version))
    }

    fn refuse_noncompliant(&self, head: &Head, mode: WriteMode) -> Result<(), Error> {
        if self.settings.on_noncompliant_read == NoncompliantRead::Serve || mode != WriteMode::ReadOnly {
            return Ok(());
        }
        match self.gateway.policy().judge(&head.encryption.facts) {
            Verdict::Compliant => Ok(()),
            verdict => Err(Error::Noncompliant { object: self.gateway.bucket().to_string(), verdict }),
        }
    }

    async fn read_object(&self, file: &Arc<File>, range: Range<u64>) -> Result<Bytes, Error> {
        match self.pinned(file) {
            Some(source) => self.read_moving(file, source, range).await,
            None => Ok(Bytes::new()),
        }
    }

    /// Reads `source`, also when this mount itself gives those bytes another key or ETag meanwhile (a rename, a change of attributes).
    async fn read_moving(&self, file: &Arc<File>, mut source: Source, range: Range<u64>) -> Result<Bytes, Error> {
        for _ in 0..READ_AGAIN_MAX {
            match self.read_source(file, &source, range.clone()).await {
                Err(error) if is_gone(&error) => {}
                outcome => return outcome,
            }
            let (key, version) = self.namespace.successor(file.ino, &source.version).await.ok_or(Error::Stale)?;
            let moved = Source { key, version, size: source.size };
            if moved == source {
                return Err(Error::Stale);
            }
            source = moved;
        }
        Err(Error::Stale)
    }

    fn pinned(&self, file: &Arc<File>) -> Option<Source> {
        let key = self.namespace.key(file.ino)?;
        file.state().head.as_ref().map(|head| super::file::source(&key, head))
    }

    async fn read_source(&self, file: &Arc<File>, source: &Source, range: Range<u64>) -> Result<Bytes, Error> {
        let end = range.end.min(source.size);
        let Some(length) = end.checked_sub(range.start).filter(|length| *length > 0) else { return Ok(Bytes::new()) };
        let reader = file.reader(source, || {
            let location = Location { key: source.key.clone(), version: source.version.clone() };
            Arc::new(Reader::new(Arc::clone(&self.gateway), location, source.size, Arc::clone(&self.read_budget)))
        });
        Ok(reader.read(range.start, length).await?)
    }

    async fn read_changed(&self, file: &Arc<File>, writer: &Arc<Writer>, range: Range<u64>) -> Result<Bytes, Error> {
        for _ in 0..READ_AGAIN_MAX {
            let (pieces, base) = writer.locate(range.clone()).await?;
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
