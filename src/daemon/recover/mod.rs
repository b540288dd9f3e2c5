//! What earlier mounts could not store: found, sent, written to a local file, or given up.

mod export;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc_fast::CrcAlgorithm;
use futures_util::{StreamExt, stream};
use tokio::runtime::Runtime;

use crate::config::{self, Source};
use crate::journal::{self, EntryId, Journal, Left, LeftEntry};
use crate::kms::Kms;
use crate::object::Key;
use crate::policy::{Policy, Verdict};
use crate::s3::{self, Checksum, Gateway, Head, Kind};
use crate::spill::{Limits, Pool};
use crate::write::{self, Engine, Kept, KeptError, Settings, Writer};

use super::build::connection;
use super::{StartError, memory, sessions};

pub use export::{Exported, Wanted, export};

/// Files that are sent at the same time.
const SENDS_MAX: usize = 16;
/// Memory for the bytes of files that are recovered, in bytes.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// What may be sealed once more on the local disk while it is sent or written out, in bytes: as much as a mount may unless it is told
/// otherwise, or twice what the session keeps, where that is more.
const SPILL_BYTES_MAX: u64 = 16 << 30;

/// What one session left.
#[derive(Debug)]
pub struct Found {
    /// Its directory.
    pub session: PathBuf,
    /// The mount, as `s3://bucket/prefix`.
    pub source: String,
    /// The files that the store does not have as they should be.
    pub files: Vec<FoundFile>,
    /// What was not as it was written, in sentences.
    pub damage: Vec<String>,
    /// Why nobody can say what is in it, where that is so: KMS does not give its keys back, or the disk does not read.
    pub error: Option<StartError>,
}

/// A file that the store does not have as it should be.
#[derive(Debug)]
pub struct FoundFile {
    /// Its object's key.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes of it that are kept here; the others are in the object that it was made from.
    pub kept_bytes: u64,
    /// Bytes of it that are in a multipart upload and nowhere else.
    pub uploaded_bytes: u64,
    /// Why the store does not have it, where that was tried.
    pub reason: Option<String>,
}

/// What became of what was left.
#[derive(Debug, Default)]
pub struct Sent {
    /// Uploads that a crash had left in the bucket, and that were aborted.
    pub aborted: usize,
    /// Keys of the objects that are now in the store, or were already.
    pub stored: Vec<String>,
    /// Files that are still kept, and why.
    pub kept: Vec<(String, String)>,
    /// What was not as it was written, in sentences.
    pub damage: Vec<String>,
    /// The sessions that could not be dealt with, and why. What is in them is still kept.
    pub failed: Vec<(PathBuf, StartError)>,
}

/// What became of one entry.
struct Outcome {
    entry: EntryId,
    key: String,
    /// Why it is still kept; None: the store has it.
    error: Option<String>,
}

/// Why one file could not be sent.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error(transparent)]
    Kept(#[from] KeptError),
    #[error(transparent)]
    Write(#[from] write::Error),
    #[error(transparent)]
    Store(#[from] s3::Error),
    #[error(
        "its upload was begun under another KMS key or encryption context than this mount's; dssefs recover DIR upload completes it"
    )]
    OtherPolicy,
    #[error(
        "{bytes} bytes of it are in a multipart upload and cannot be read before that is completed; dssefs recover DIR upload does it"
    )]
    InUpload { bytes: u64 },
}

/// Lists what is left below `directory`, also by mounts that live. Asks KMS for the keys, and S3 nothing. A session that cannot be
/// opened is [`Found::error`], and hides no other.
///
/// # Errors
/// The directory cannot be read, or there are no credentials.
pub fn list(store: &config::Connection, directory: &Path) -> Result<Vec<Found>, StartError> {
    runtime()?.block_on(async {
        let kms = Asked::load(store).await?.kms;
        let (sessions, unusable) = journal::sessions_to_read(directory)?;
        let mut found: Vec<Found> = unusable.into_iter().map(|error| strange(directory, &error)).collect();
        for session in sessions {
            let (at, source) = (session.directory.clone(), session.source.clone());
            found.push(match sessions::open(&kms, session).await {
                Ok(left) => describe(&left),
                Err(error) => Found { session: at, source, files: Vec::new(), damage: Vec::new(), error: Some(error) },
            });
        }
        Ok(found)
    })
}

/// Sends what is left below `directory` by mounts that have ended, under the keys that it was to be stored under. What cannot be sent
/// stays. Uploads that mounts of the same sources, or this command, had under way when they were killed are aborted first.
///
/// # Errors
/// As [`list`].
pub fn upload(store: &config::Connection, directory: &Path) -> Result<Sent, StartError> {
    runtime()?.block_on(async {
        let asked = Asked::load(store).await?;
        let mut sent = Sent::default();
        let (sessions, unusable) = journal::sessions(directory)?;
        let in_use = |error: &journal::Error| matches!(error, journal::Error::InUse(_));
        sent.damage.extend(unusable.iter().filter(|error| !in_use(error)).map(ToString::to_string));
        let sources: BTreeSet<&str> = sessions.iter().map(|session| session.source.as_str()).collect();
        for source in sources.into_iter().filter_map(|source| Source::parse(source).ok()) {
            sent.aborted += abort_leftovers(&asked, directory, source).await;
        }
        for session in sessions {
            let at = session.directory.clone();
            if let Err(error) = send_session(&asked, directory, session, &mut sent).await {
                sent.failed.push((at, error));
            }
        }
        Ok(sent)
    })
}

/// Only the policy of a gateway is of a file; its uploads are aborted whatever it is.
async fn abort_leftovers(asked: &Asked, directory: &Path, source: Source) -> usize {
    let (at, prefix) = (source.to_string(), source.prefix.as_str().to_owned());
    let gateway = Gateway::new(&asked.sdk, &asked.connection, source.bucket, Policy::default());
    gateway.abort_leftovers(directory, &at, &prefix).await
}

async fn send_session(
    asked: &Asked,
    directory: &Path,
    session: journal::Session,
    sent: &mut Sent,
) -> Result<(), StartError> {
    let left = sessions::open(&asked.kms, session).await?;
    sent.damage.extend(left.damage().iter().map(ToString::to_string));
    let mut engines = Engines::new(asked, directory, &left)?;
    let outcomes = send_all(&left, |policy| Ok(engines.noting(policy))).await?;
    let all_stored = outcomes.iter().all(|outcome| outcome.error.is_none());
    for Outcome { key, error, .. } in outcomes {
        match error {
            None => sent.stored.push(key),
            Some(reason) => sent.kept.push((key, reason)),
        }
    }
    if all_stored {
        left.dealt_with()?;
    }
    Ok(())
}

/// Gives up everything that is left below `directory` by mounts that have ended; the directories that were removed.
///
/// # Errors
/// A directory cannot be removed.
pub fn discard(directory: &Path) -> Result<Vec<PathBuf>, StartError> {
    let mut removed = Vec::new();
    for session in usable(journal::sessions_to_discard(directory)?) {
        removed.push(session.directory.clone());
        session.remove()?;
    }
    Ok(removed)
}

/// At the start of a mount of `source`: sends what its predecessors left. What cannot be sent now goes over into `journal`, sealed under
/// new keys, for the next start or for `dssefs recover`.
pub(super) async fn take_over(
    kms: &Kms,
    engine: &Arc<Engine>,
    source: &str,
    directory: &Path,
    journal: &Journal,
) -> Result<(), StartError> {
    for session in usable(sessions::ended(source, directory).await?) {
        if session.directory == journal.directory() {
            continue;
        }
        if session.source != source {
            let (of, session) = (&session.source, session.directory.display());
            tracing::info!(of, %session, "what another mount left is left to it");
            continue;
        }
        let left = sessions::open(kms, session).await?;
        let count = left.entries().count();
        if count > 0 {
            tracing::info!(files = count, session = %left.session().directory.display(), "sending what an earlier mount left");
        }
        let outcomes = send_all(&left, |_| Ok(Arc::clone(engine))).await?;
        for Outcome { entry, key, error } in &outcomes {
            let Some(reason) = error else { continue };
            tracing::error!(%key, %reason, "what an earlier mount left could not be stored; it is kept for dssefs recover");
            carry_over(&left, *entry, reason, journal)?;
        }
        left.dealt_with()?;
    }
    Ok(())
}

/// Seals an entry again, under the keys of `journal`. A description that this version cannot read is carried over as it is.
fn carry_over(left: &Left, entry: EntryId, reason: &str, journal: &Journal) -> Result<(), StartError> {
    let Some((_, entry)) = left.entries().find(|(id, _)| *id == entry) else { return Ok(()) };
    let told = |kept| Kept { reason: Some(reason.to_owned()), ..kept }.encode();
    let description = entry.description.as_slice();
    let description = Kept::decode(description).map_or_else(|_| description.to_vec(), told);
    let mut draft = journal.draft(&description, None)?;
    for piece in left.content(entry) {
        let (offset, bytes) = piece?;
        draft.add(offset, bytes.as_slice())?;
    }
    draft.finish()?;
    Ok(())
}

/// Sends every entry, many at a time, each under the condition of its own write.
async fn send_all(
    left: &Left,
    mut engine: impl FnMut(&Policy) -> Result<Arc<Engine>, StartError>,
) -> Result<Vec<Outcome>, StartError> {
    for damage in left.damage() {
        tracing::error!(%damage, "what an earlier mount left is not whole");
    }
    let (mut jobs, mut outcomes) = (Vec::new(), Vec::new());
    for (id, entry) in left.entries() {
        match Kept::decode(entry.description.as_slice()) {
            Ok(kept) => jobs.push((id, engine(&kept.policy)?, entry, kept)),
            Err(error) => {
                let key = "a file whose name is unknown".to_owned();
                outcomes.push(Outcome { entry: id, key, error: Some(error.to_string()) });
            }
        }
    }
    let send = async |(id, engine, entry, kept): (EntryId, Arc<Engine>, &LeftEntry, Kept)| {
        let error = send(&engine, left, entry, &kept).await.err().map(|error| error.to_string());
        Outcome { entry: id, key: kept.object.key.to_string(), error }
    };
    let sent: Vec<Outcome> = stream::iter(jobs).map(send).buffer_unordered(SENDS_MAX).collect().await;
    outcomes.extend(sent);
    Ok(outcomes)
}

async fn send(engine: &Arc<Engine>, left: &Left, entry: &LeftEntry, kept: &Kept) -> Result<(), SendError> {
    if is_stored(engine.gateway(), left, entry, kept).await? {
        return Ok(());
    }
    refuse_lost(kept)?;
    // Completed under another policy it would be judged wrong, and deleted with the only copy of its parts.
    if kept.upload.is_some() && kept.policy != *engine.gateway().policy() {
        return Err(SendError::OtherPolicy);
    }
    let writer = Writer::recovered(engine, kept);
    let outcome = match put_back(&writer, left, entry, kept, Sending::Ahead).await {
        Ok(()) => writer.commit().await.map_err(SendError::from),
        unread => unread,
    };
    if outcome.is_err() && kept.upload.is_none() {
        // The upload that was begun here, if one was, is of no use to the next try.
        writer.discard().await;
    }
    outcome
}

fn refuse_lost(kept: &Kept) -> Result<(), SendError> {
    match kept.lost.is_empty() {
        true => Ok(()),
        false => {
            let lost = kept.lost.iter().cloned().collect();
            Err(write::Error::PartsLost { key: kept.object.key.to_string(), lost }.into())
        }
    }
}

/// Whether the object is what the file was to become: its answer was lost, or came after the last word in the journal. The times in
/// the metadata, to the nanosecond, with the owner, the mode and the size tell one state of a file from all others; where all of its
/// content is kept, the store's checksum has to be that of the content as well, if it tells one.
async fn is_stored(gateway: &Gateway, left: &Left, entry: &LeftEntry, kept: &Kept) -> Result<bool, SendError> {
    let (head, checksums) = match head_of(gateway, &kept.object.key).await {
        Err(error) if error.kind == Kind::NotFound => return Ok(false),
        answer => answer?,
    };
    let begun = kept.upload.as_ref().filter(|upload| !upload.exact).map(|upload| &upload.object.user);
    let user = &head.meta.user;
    let described = (*user == kept.object.user || begun == Some(user)) && user.contains_key("mtime");
    if !described || head.meta.size != kept.size {
        return Ok(false);
    }
    let stored = checksums.into_iter().find(|checksum| matches!(checksum, Checksum::Crc64(_)));
    let wanted = if stored.is_some() { crc64_of(left, entry, kept)?.map(Checksum::Crc64) } else { None };
    let same = stored.is_none() || wanted.is_none() || stored == wanted;
    Ok(same && gateway.policy().judge(&head.encryption.facts) == Verdict::Compliant)
}

/// With the checksums that the store has of the whole, where the caller may see them.
async fn head_of(gateway: &Gateway, key: &Key) -> Result<(Head, Vec<Checksum>), s3::Error> {
    match gateway.head_with_checksums(key).await {
        Err(error) if error.kind != Kind::NotFound => Ok((gateway.head(key).await?, Vec::new())),
        answer => answer,
    }
}

/// The CRC-64/NVME of the whole file; None where parts of it are in the object that it was made from, or were never written.
fn crc64_of(left: &Left, entry: &LeftEntry, kept: &Kept) -> Result<Option<u64>, SendError> {
    let mut pieces = BTreeMap::new();
    for piece in left.content(entry) {
        let (offset, bytes) = piece?;
        pieces.insert(offset, (bytes.len() as u64, crc_fast::crc64_nvme(bytes.as_slice())));
    }
    if let Some(upload) = &kept.upload {
        let ranges = upload.sent_ranges(kept.size).unwrap_or_default();
        pieces.extend(ranges.iter().zip(&upload.parts).map(|(range, part)| (range.start, (part.size, part.crc64))));
    }
    let (mut at, mut whole) = (0, 0);
    for (offset, (bytes, crc64)) in pieces {
        if offset != at {
            return Ok(None);
        }
        whole = crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, whole, crc64, bytes);
        at += bytes;
    }
    Ok((at == kept.size).then_some(whole))
}

/// What becomes of a file's bytes while they are put back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// Those of a large file are sent meanwhile, so that they need not all have room here.
    Ahead,
    /// They stay on this host.
    Never,
}

async fn put_back(
    writer: &Arc<Writer>,
    left: &Left,
    entry: &LeftEntry,
    kept: &Kept,
    sending: Sending,
) -> Result<(), SendError> {
    for piece in left.content(entry) {
        let (offset, bytes) = piece?;
        match sending {
            Sending::Ahead => writer.write(offset, bytes.as_slice()).await?,
            Sending::Never => writer.put_back(offset, bytes.as_slice()).await?,
        }
    }
    if writer.size() != kept.size {
        writer.resize(kept.size).await?;
    }
    Ok(())
}

/// What stands in the upload of an entry that needs one.
fn uploaded_bytes(kept: &Kept) -> u64 {
    kept.upload.iter().flat_map(|upload| &upload.parts).map(|part| part.size).sum()
}

/// A session that nobody can read.
fn strange(directory: &Path, error: &journal::Error) -> Found {
    let session = match error {
        journal::Error::Unreadable { path, .. } | journal::Error::Io { path, .. } => path.parent().unwrap_or(path),
        _ => directory,
    };
    let (source, damage) = ("unknown".to_owned(), vec![error.to_string()]);
    Found { session: session.to_owned(), source, files: Vec::new(), damage, error: None }
}

fn describe(left: &Left) -> Found {
    let file = |entry: &LeftEntry| match Kept::decode(entry.description.as_slice()) {
        Ok(kept) => FoundFile {
            key: kept.object.key.to_string(),
            size: kept.size,
            kept_bytes: entry.content_bytes,
            uploaded_bytes: uploaded_bytes(&kept),
            reason: kept.reason,
        },
        Err(error) => FoundFile {
            key: "?".to_owned(),
            size: entry.content_bytes,
            kept_bytes: entry.content_bytes,
            uploaded_bytes: 0,
            reason: Some(error.to_string()),
        },
    };
    Found {
        session: left.session().directory.clone(),
        source: left.session().source.clone(),
        files: left.entries().map(|(_, entry)| file(entry)).collect(),
        damage: left.damage().iter().map(ToString::to_string).collect(),
        error: None,
    }
}

/// The sessions that can be had; of the others the log tells.
fn usable((sessions, unusable): (Vec<journal::Session>, Vec<journal::Error>)) -> Vec<journal::Session> {
    for error in unusable {
        match error {
            journal::Error::InUse(path) => tracing::info!(session = %path.display(), "left alone: its mount lives"),
            error => tracing::error!(%error, "a session is left alone"),
        }
    }
    sessions
}

/// What is asked for keys and objects.
pub(super) struct Asked {
    pub(super) connection: s3::Connection,
    pub(super) sdk: s3::SdkConfig,
    pub(super) kms: Kms,
}

impl Asked {
    pub(super) async fn load(store: &config::Connection) -> Result<Asked, StartError> {
        let connection = connection(store);
        let sdk = s3::load(&connection).await?;
        let kms = Kms::new(&sdk, store.kms_endpoint_url.as_deref());
        Ok(Asked { connection, sdk, kms })
    }
}

/// One engine for each policy that the files of one session were to be stored under.
struct Engines<'a> {
    asked: &'a Asked,
    directory: &'a Path,
    source: Source,
    pool: Arc<Pool>,
    made: HashMap<String, Arc<Engine>>,
}

impl<'a> Engines<'a> {
    fn new(asked: &'a Asked, directory: &'a Path, left: &Left) -> Result<Engines<'a>, StartError> {
        let source = Source::parse(&left.session().source).map_err(|error| StartError::Bucket(error.to_string()))?;
        let kept_bytes: u64 = left.entries().map(|(_, entry)| entry.content_bytes).sum();
        let spill_bytes_max = SPILL_BYTES_MAX.max(kept_bytes.saturating_mul(2));
        let pool = pool(directory, Limits { memory_bytes_max: MEMORY_BYTES_MAX, spill_bytes_max })?;
        Ok(Engines { asked, directory, source, pool, made: HashMap::new() })
    }

    /// An engine that begins no upload.
    fn quiet(&self, policy: &Policy) -> Arc<Engine> {
        engine(Arc::new(self.gateway(policy)), Arc::clone(&self.pool), MEMORY_BYTES_MAX)
    }

    /// An engine whose uploads are noted beside the session, as those of a mount are, for whoever comes after a crash.
    fn noting(&mut self, policy: &Policy) -> Arc<Engine> {
        let name = format!("{policy:?}");
        if let Some(engine) = self.made.get(&name) {
            return Arc::clone(engine);
        }
        let gateway = self.gateway(policy);
        if let Err(error) = gateway.keep_ledger(self.directory, &self.source.to_string()) {
            // A full disk must not keep from the store what fills it.
            tracing::warn!(%error, "uploads cannot be noted on the local disk; after a crash a lifecycle rule has to end them");
        }
        let engine = engine(Arc::new(gateway), Arc::clone(&self.pool), MEMORY_BYTES_MAX);
        self.made.insert(name, Arc::clone(&engine));
        engine
    }

    fn gateway(&self, policy: &Policy) -> Gateway {
        Gateway::new(&self.asked.sdk, &self.asked.connection, self.source.bucket.clone(), policy.clone())
    }
}

/// On the disk that the mount was given, as it has room for such things; where that is full or cannot be written, on that for temporary
/// files.
fn pool(directory: &Path, limits: Limits) -> Result<Arc<Pool>, StartError> {
    let elsewhere = |error| {
        tracing::warn!(%error, "what has no room in memory is sealed in the system's directory for temporary files");
        Pool::new(&std::env::temp_dir(), limits)
    };
    Ok(Pool::new(directory, limits).or_else(elsewhere)?)
}

/// Always conditional: what was left long ago must never replace what is newer.
pub(super) fn engine(gateway: Arc<Gateway>, pool: Arc<Pool>, memory_bytes_max: u64) -> Arc<Engine> {
    Engine::new(gateway, pool, Settings::for_memory(memory_bytes_max, true))
}

/// For commands without a mount. Their memory is protected as a mount's is: they hold the journal's keys, content and credentials.
pub(super) fn runtime() -> Result<Runtime, StartError> {
    let protection = memory::protect();
    tracing::debug!(protection, "what this process has given up");
    Runtime::new().map_err(|error| StartError::Internal(format!("the threads cannot be started: {error}")))
}
