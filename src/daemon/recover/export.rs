//! Writes one of the files that were left to a local file, in clear.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Source;
use dssefs_fs::journal::{self, Damage, EntryId, RecoveredEntry, RecoveredSession};
use dssefs_fs::write::{self, Engine, PendingChanges, Piece, Writer};
use dssefs_s3::object::ByteRange;
use dssefs_s3::s3::{self, Connection};

use super::super::spill_dir::SpillDir;
use super::send::{SendError, Sending, put_back, refuse_lost, uploaded_bytes};
use super::{Asked, Engines, StartError, parsed, runtime, sessions, unreadable};

/// Bytes that are written to a local file at a time.
const EXPORT_BYTES: u64 = 1 << 20;

/// Which file.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The key of its object, or `s3://bucket/key`.
    pub key: &'a str,
    /// The mount that left it, as `s3://bucket/prefix`, where that is not the only one which left such a file.
    pub source: Option<&'a str>,
}

/// What was written.
#[derive(Debug)]
pub struct Exported {
    /// Bytes of the file.
    pub bytes: u64,
    /// The mount that left it, as `s3://bucket/prefix`.
    pub source: String,
    /// The sessions that may have a newer state of it and could not be opened, and why.
    pub unread: Vec<(PathBuf, StartError)>,
}

/// An entry that is what was wanted.
struct Match {
    left: RecoveredSession,
    entry: EntryId,
    kept: PendingChanges,
}

/// Writes the file that was to be stored under a key to the new local file `to`, in clear: its newest state, those of
/// damaged sessions last. Bytes that it has in common with an object come from there.
///
/// # Errors
/// As [`super::list`]; no such file is left, or several mounts left one; `to` exists or cannot be written; the object
/// is not what it was.
pub fn export(store: &Connection, directory: &Path, wanted: Wanted<'_>, to: &Path) -> Result<Exported, StartError> {
    let Some(directory) = SpillDir::existing(directory)? else { return Err(wanted.unknown()) };
    let directory = directory.path();
    runtime()?.block_on(async {
        let asked = Asked::load(store).await?;
        let (matches, unread) = wanted.find(&asked, directory).await?;
        let Match { left, entry, kept } = match wanted.newest(matches)? {
            Some(found) => found,
            None => return Err(unread.into_iter().next().map_or_else(|| wanted.unknown(), |(_, error)| error)),
        };
        let source = left.session().source.clone();
        let Some((_, entry)) = left.entries().find(|(id, _)| *id == entry) else { return Err(wanted.unknown()) };
        let bytes = write_entry(&asked, directory, &left, entry, &kept, to).await?;
        Ok(Exported { bytes, source, unread })
    })
}

/// What was found in each session that may have it, oldest first, and which could not be opened.
type Search = (Vec<Match>, Vec<(PathBuf, StartError)>);

impl Wanted<'_> {
    async fn find(&self, asked: &Asked, directory: &Path) -> Result<Search, StartError> {
        let wanted_source = self.source.map(Source::parse).transpose();
        let wanted_source = wanted_source.map_err(|error| StartError::Argument(error.to_string()))?;
        let (mut matches, mut unread) = (Vec::new(), Vec::new());
        let (sessions, unusable) = journal::sessions_to_read(directory)?;
        unread.extend(unreadable(unusable).map(|error| (directory.to_owned(), StartError::from(error))));
        for session in sessions {
            let Ok(source) = Source::parse(&session.source) else { continue };
            if wanted_source.as_ref().is_some_and(|wanted| *wanted != source) || !self.may_be_of(&source) {
                continue;
            }
            let at = session.directory.clone();
            match sessions::open(&asked.kms, session).await {
                Ok(left) => matches.extend(self.find_in(left, &source)),
                Err(error) => unread.push((at, error)),
            }
        }
        Ok((matches, unread))
    }

    /// Whether a mount of `source` could have stored it, so that its sessions are worth the calls to KMS.
    fn may_be_of(&self, source: &Source) -> bool {
        let prefix = source.prefix.as_str();
        self.key.starts_with(prefix) || self.key.starts_with(&format!("s3://{}/{prefix}", source.bucket))
    }

    /// The newest, where a session has several.
    fn find_in(&self, left: RecoveredSession, source: &Source) -> Option<Match> {
        let is_wanted = |key: &str| self.key == key || self.key == format!("s3://{}/{key}", source.bucket);
        let read = |(id, entry): (EntryId, &RecoveredEntry)| {
            Some((id, PendingChanges::decode(entry.description.as_slice()).ok()?))
        };
        let newest = left.entries().filter_map(read).filter(|(_, kept)| is_wanted(kept.object.key.as_str())).last();
        let (entry, kept) = newest?;
        Some(Match { left, entry, kept })
    }

    /// Two mounts that left something under one key may mean two buckets, or two states that cannot be put in an
    /// order.
    fn newest(&self, matches: Vec<Match>) -> Result<Option<Match>, StartError> {
        let sources: BTreeSet<&str> = matches.iter().map(|found| found.left.session().source.as_str()).collect();
        if sources.len() > 1 {
            let key = self.key;
            let sources = sources.into_iter().collect::<Vec<_>>().join(", ");
            return Err(StartError::Argument(format!(
                "{key} is kept of several mounts: {sources}; say with --source which of them is meant"
            )));
        }
        // The last of several that are equal.
        Ok(matches.into_iter().max_by_key(|found| !is_damaged(&found.left)))
    }

    fn unknown(&self) -> StartError {
        StartError::Argument(format!("nothing is kept for {}; dssefs recover DIR list names what is", self.key))
    }
}

/// In more than its end, which every crash may leave torn.
fn is_damaged(left: &RecoveredSession) -> bool {
    left.damage().iter().any(|damage| !matches!(damage, Damage::TornEnd { .. }))
}

async fn write_entry(
    asked: &Asked,
    directory: &Path,
    left: &RecoveredSession,
    entry: &RecoveredEntry,
    kept: &PendingChanges,
    to: &Path,
) -> Result<u64, StartError> {
    let key = kept.object.key.as_str();
    let failed = |error: SendError| unsent(key, &error);
    if kept.upload.is_some() {
        return Err(failed(SendError::InUpload { bytes: uploaded_bytes(kept) }));
    }
    refuse_lost(kept).map_err(failed)?;
    let engine = Engines::new(asked, directory, parsed(&left.session().source)?, std::slice::from_ref(left))?
        .quiet(&kept.policy);
    let writer = Writer::recovered(&engine, kept);
    put_back(&writer, left, entry, kept, Sending::Never).await.map_err(failed)?;
    write_out(&engine, &writer, kept.size, to).await
}

/// Sorted by what a person can do about it.
fn unsent(key: &str, error: &SendError) -> StartError {
    let text = format!("{key}: {error}");
    match error {
        SendError::InUpload { .. }
        | SendError::OtherPolicy
        | SendError::NewerWaits
        | SendError::CopyWaits
        | SendError::Write(write::Error::PartsLost { .. }) => StartError::Unsaved(text),
        SendError::Journal(journal::Error::Tampered { .. }) | SendError::Kept(_) => StartError::Damaged(text),
        SendError::Store(error) => StartError::store(key, error),
        SendError::Journal(_) | SendError::Write(_) => StartError::Internal(text),
    }
}

/// A file that could not be written whole is removed: it is in clear, and people could take it for the real one.
async fn write_out(engine: &Engine, writer: &Arc<Writer>, size: u64, to: &Path) -> Result<u64, StartError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let file = file.map_err(|error| StartError::Argument(format!("{} cannot be made: {error}", to.display())))?;
    let written = fill(engine, writer, size, &file, to).await;
    written.inspect_err(|_| {
        if let Err(error) = std::fs::remove_file(to) {
            tracing::error!(%error, path = %to.display(), "half a file stays in clear; remove it");
        }
    })
}

async fn fill(engine: &Engine, writer: &Arc<Writer>, size: u64, file: &File, to: &Path) -> Result<u64, StartError> {
    let failed = |error: std::io::Error| StartError::Argument(format!("{} cannot be written: {error}", to.display()));
    file.set_len(size).map_err(failed)?;
    let mut at = 0;
    while at < size {
        let range = at..size.min(at + EXPORT_BYTES);
        at = range.end;
        let (pieces, base) = writer.locate(range).map_err(|error| unsent("the file", &error.into()))?;
        for piece in pieces {
            write_piece(engine, writer, base.as_ref(), &piece, file).await?.map_err(failed)?;
        }
    }
    file.sync_all().map_err(failed)?;
    Ok(size)
}

async fn write_piece(
    engine: &Engine,
    writer: &Writer,
    base: Option<&s3::Source>,
    piece: &Piece,
    file: &File,
) -> Result<std::io::Result<()>, StartError> {
    match (piece, base) {
        (Piece::Local(range), _) => {
            let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
            writer.read_local(range.start, &mut bytes).map_err(|error| unsent("the file", &error.into()))?;
            Ok(file.write_all_at(&bytes, range.start))
        }
        (Piece::Base(range), Some(base)) => {
            let reading = |error| StartError::store("the object that the file was made from cannot be read", &error);
            let wanted = ByteRange::new(range.start, range.end);
            let mut download = engine.gateway().get(&base.key, Some(&base.version), wanted).await.map_err(reading)?;
            let mut at = range.start;
            while let Some(chunk) = download.next().await {
                let chunk = chunk.map_err(reading)?;
                if let Err(error) = file.write_all_at(&chunk, at) {
                    return Ok(Err(error));
                }
                at += chunk.len() as u64;
            }
            Ok(Ok(()))
        }
        // The file was made as long as it is: these are its holes.
        (Piece::Zero(_) | Piece::Base(_), _) => Ok(Ok(())),
    }
}
