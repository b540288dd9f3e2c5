//! Reading an open file, also while this mount stores, moves or removes it.
//!
//! A reader sees its file as a local file system shows it: with all that programs of this mount have written. It never
//! sees the version of another host. So the object that a file stands on has one owner, the open file (`File::source`,
//! and the base of its writer), and only this mount's own commits, copies and renames move it on. A read that finds its
//! version gone waits for the change that is under way and looks again. If the file then still stands on the version
//! that is gone, another host has replaced it.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dssefs_s3::s3::{self, Source};
use futures_util::FutureExt;
use tokio::sync::MutexGuard;

use crate::read::{self, Location, Reader};
use crate::vfs::file::File;
use crate::vfs::{Error, Fh, Vfs};
use crate::write::{self, Piece, Writer};

/// How often a read starts over because the file changed under it.
const TRIES_MAX: u32 = 8;

/// What one try to read has come to.
enum Attempt {
    Read(Bytes),
    /// Some of the bytes moved after the look at the file.
    Moved,
    /// Some of the bytes are in an unfinished upload only, which an earlier promise asks to complete.
    InUpload,
    /// The store no longer has this version, and answered so.
    Gone(Source, String),
}

impl Vfs {
    /// Reads at most `size` bytes at `offset`; fewer only at the file's end.
    ///
    /// # Errors
    /// Another host changed the object, it cannot be read, or local bytes were tampered with.
    pub async fn read(&self, fh: Fh, offset: u64, size: u32) -> Result<Bytes, Error> {
        let open = self.handles.file(fh)?;
        let range = offset..offset.saturating_add(u64::from(size));
        self.read_file(&open.file, &range).await
    }

    async fn read_file(&self, file: &Arc<File>, range: &Range<u64>) -> Result<Bytes, Error> {
        let mut gone: Option<(Source, String)> = None;
        for _ in 0..TRIES_MAX {
            // Held across the second try, so that no commit of a busy writer takes the next version away as well.
            let turn = match gone {
                Some(_) => Some(self.own_changes_made(file).await?),
                None => None,
            };
            let attempt = self.try_to_read(file, range).await?;
            drop(turn);
            match attempt {
                Attempt::Read(bytes) => return Ok(bytes),
                Attempt::Moved => {}
                // A promise that could not be stored may be stored now.
                Attempt::InUpload => {
                    let _subtree = self.namespace.lock_shared(file.ino).await;
                    self.save_promised(file).boxed().await?;
                }
                // A removal of the name that failed may have been carried out.
                Attempt::Gone(source, _)
                    if gone.as_ref().is_some_and(|(before, _)| *before == source) && !file.stand_on_held() =>
                {
                    break;
                }
                Attempt::Gone(source, answer) => gone = Some((source, answer)),
            }
        }
        let (object, answer) = gone.map(|(source, answer)| (source.key.to_string(), answer)).unzip();
        tracing::warn!(
            object,
            answer,
            "another host has replaced the version that a program has open; the program has to open the file again"
        );
        // The next open must not show the same version again.
        self.namespace.expire(file.ino);
        Err(Error::Stale)
    }

    /// Waits for the change of the object that is under way, and resolves those whose answers were lost: then the file
    /// stands on what this mount made last, as far as the store can be asked.
    async fn own_changes_made<'a>(&self, file: &'a Arc<File>) -> Result<MutexGuard<'a, ()>, Error> {
        let turn = file.turn.lock().await;
        if let Some(writer) = file.writer() {
            writer.resolve_after_commits().await?;
        }
        Ok(turn)
    }

    async fn try_to_read(&self, file: &Arc<File>, range: &Range<u64>) -> Result<Attempt, Error> {
        let Some(writer) = file.writer() else {
            let source = file.state().source.clone().ok_or(Error::Stale)?;
            return self.read_source(file, &source, range).await;
        };
        match writer.locate(range.clone()) {
            Ok((pieces, base)) => self.assemble(file, &writer, &pieces, base.as_ref()).await,
            Err(write::Error::InUpload) if writer.promised().is_some() => Ok(Attempt::InUpload),
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of `pieces` in order.
    async fn assemble(
        &self,
        file: &Arc<File>,
        writer: &Writer,
        pieces: &[Piece],
        base: Option<&Source>,
    ) -> Result<Attempt, Error> {
        if let ([Piece::Base(whole)], Some(base)) = (pieces, base) {
            return self.read_source(file, base, whole).await;
        }
        let mut all = BytesMut::new();
        for piece in pieces {
            match (piece, base) {
                (Piece::Local(range), _) => {
                    let at = all.len();
                    all.resize(at + length(range), 0);
                    if !writer.read_local(range.start, &mut all[at..])? {
                        return Ok(Attempt::Moved);
                    }
                }
                (Piece::Base(range), Some(base)) => match self.read_source(file, base, range).await? {
                    Attempt::Read(bytes) => all.extend_from_slice(&bytes),
                    other => return Ok(other),
                },
                (Piece::Zero(range) | Piece::Base(range), _) => all.resize(all.len() + length(range), 0),
            }
        }
        Ok(Attempt::Read(all.freeze()))
    }

    async fn read_source(&self, file: &Arc<File>, source: &Source, range: &Range<u64>) -> Result<Attempt, Error> {
        let end = range.end.min(source.size);
        let Some(length) = end.checked_sub(range.start).filter(|length| *length > 0) else {
            return Ok(Attempt::Read(Bytes::new()));
        };
        let reader = file.reader(source, || {
            let location = Location { key: source.key.clone(), version: source.version.clone() };
            Arc::new(Reader::new(Arc::clone(&self.gateway), location, source.size, Arc::clone(&self.read_budget)))
        });
        let bytes = match reader.read(range.start, length).await {
            Err(read::Error::Store(error)) if is_gone(&error) => {
                return Ok(Attempt::Gone(source.clone(), error.to_string()));
            }
            outcome => outcome?,
        };
        // The store has spoken of the encryption again, with the bytes themselves.
        let judged = reader.observed().map_or(Ok(()), |head| self.refuse_to_read(&source.key, &head));
        // What came with a refused answer is not kept: the next read asks again.
        judged.inspect_err(|_| file.forget_reader())?;
        Ok(Attempt::Read(bytes))
    }
}

/// The length of a piece of one read, which the kernel limits to far less than a usize.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

fn is_gone(error: &s3::Error) -> bool {
    matches!(error.kind, s3::Kind::NotFound | s3::Kind::PreconditionFailed)
}
