//! What earlier mounts could not store: found, sent, written to a local file, or given up.

mod export;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc_fast::CrcAlgorithm;
use futures_util::{StreamExt, stream};
use tokio::runtime::Runtime;

use crate::config::{self, Source};
use crate::journal::{self, EntryId, Left, LeftEntry};
use crate::kms::Kms;
use crate::object::Key;
use crate::policy::{Policy, Verdict};
use crate::s3::{self, Checksum, Condition, Gateway, Head, Kind};
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

/// What became of one entry. There is none for one that is there twice.
pub(super) struct Outcome {
    /// Which of the sessions that were sent together has it.
    pub(super) session: usize,
    pub(super) entry: EntryId,
    pub(super) key: String,
    /// Why it is still kept; None: the store has it.
    pub(super) error: Option<String>,
}

/// One entry that is to be sent.
struct Job<'a> {
    session: usize,
    id: EntryId,
    engine: Arc<Engine>,
    left: &'a Left,
    entry: &'a LeftEntry,
    kept: Kept,
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
    #[error("a newer state of the same file is kept too, and has to be stored first")]
    NewerWaits,
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
        // Together, as the newest state of a file may be in another session than an older one.
        let mut of_source = BTreeMap::<String, Vec<journal::Session>>::new();
        for session in sessions {
            of_source.entry(session.source.clone()).or_default().push(session);
        }
        for (source, sessions) in of_source {
            send_sessions(&asked, directory, &source, sessions, &mut sent).await;
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

/// Sends what one mount left in its sessions. One that cannot be dealt with is told in `sent`, and holds up no other.
async fn send_sessions(
    asked: &Asked,
    directory: &Path,
    source: &str,
    sessions: Vec<journal::Session>,
    sent: &mut Sent,
) {
    let mut lefts = Vec::new();
    for session in sessions {
        let at = session.directory.clone();
        match sessions::open(&asked.kms, session).await {
            Ok(left) => lefts.push(left),
            Err(error) => sent.failed.push((at, error)),
        }
    }
    if let Err(error) = send_lefts(asked, directory, source, lefts, sent).await {
        sent.failed.push((directory.to_owned(), error));
    }
}

async fn send_lefts(
    asked: &Asked,
    directory: &Path,
    source: &str,
    lefts: Vec<Left>,
    sent: &mut Sent,
) -> Result<(), StartError> {
    let source = parsed(source)?;
    sent.aborted += abort_leftovers(asked, directory, source.clone()).await;
    sent.damage.extend(lefts.iter().flat_map(Left::damage).map(ToString::to_string));
    let mut engines = Engines::new(asked, directory, source, &lefts)?;
    let mut unsent = BTreeSet::new();
    for Outcome { session, key, error, .. } in send_all(&lefts, |policy| Ok(engines.noting(policy))).await? {
        match error {
            None => sent.stored.push(key),
            Some(reason) => {
                unsent.insert(session);
                sent.kept.push((key, reason));
            }
        }
    }
    for (_, left) in lefts.into_iter().enumerate().filter(|(number, _)| !unsent.contains(number)) {
        left.dealt_with()?;
    }
    Ok(())
}

fn parsed(source: &str) -> Result<Source, StartError> {
    Source::parse(source).map_err(|error| StartError::Bucket(error.to_string()))
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

/// Sends every entry, the files of many keys at a time, each under the condition of its own write. `lefts` are of one source, the oldest
/// first; so are the outcomes.
pub(super) async fn send_all(
    lefts: &[Left],
    mut engine: impl FnMut(&Policy) -> Result<Arc<Engine>, StartError>,
) -> Result<Vec<Outcome>, StartError> {
    let (mut jobs, mut outcomes) = (BTreeMap::<Key, Vec<Job<'_>>>::new(), Vec::new());
    for (session, left) in lefts.iter().enumerate() {
        for damage in left.damage() {
            tracing::error!(%damage, "what an earlier mount left is not whole");
        }
        for (id, entry) in left.entries() {
            match Kept::decode(entry.description.as_slice()) {
                Ok(kept) => {
                    let engine = engine(&kept.policy)?;
                    let job = Job { session, id, engine, left, entry, kept };
                    jobs.entry(job.kept.object.key.clone()).or_default().push(job);
                }
                Err(error) => {
                    let key = "a file whose name is unknown".to_owned();
                    outcomes.push(Outcome { session, entry: id, key, error: Some(error.to_string()) });
                }
            }
        }
    }
    let sent: Vec<Vec<Outcome>> =
        stream::iter(jobs.into_values()).map(send_in_turn).buffer_unordered(SENDS_MAX).collect().await;
    outcomes.extend(sent.into_iter().flatten());
    outcomes.sort_by_key(|outcome| (outcome.session, outcome.entry));
    Ok(outcomes)
}

/// Sends the entries of one key, which come oldest first, one after the other and the newest first: what was acknowledged last is what
/// the store is to have. Those that it has overtaken are refused by their own conditions then, and kept as what others overtake is.
/// While the newest may still be stored later, no older one takes its place.
async fn send_in_turn(mut jobs: Vec<Job<'_>>) -> Vec<Outcome> {
    let mut nth = 0;
    while nth < jobs.len() {
        // Of the two, the first one says where the entry stands among the others.
        if jobs[..nth].iter().any(|earlier| earlier.was_carried_over_as(&jobs[nth])) {
            jobs.remove(nth);
        } else {
            nth += 1;
        }
    }
    let (mut outcomes, mut unsent, are_several) = (Vec::new(), Vec::new(), jobs.len() > 1);
    for job in jobs {
        // Seen before a newer one is stored in its place: it was stored, and the journal not told in time. Who cannot tell asks again.
        match are_several && job.is_stored().await.unwrap_or(false) {
            true => outcomes.push(job.outcome(None)),
            false => unsent.push(job),
        }
    }
    let mut newer_waits = false;
    for job in unsent.into_iter().rev() {
        let error = if newer_waits { Some(SendError::NewerWaits) } else { job.send().await.err() };
        let is_lost = matches!(error, Some(SendError::Write(write::Error::PartsLost { .. })));
        newer_waits |= error.is_some() && !is_lost;
        outcomes.push(job.outcome(error));
    }
    outcomes
}

impl Job<'_> {
    fn outcome(&self, error: Option<SendError>) -> Outcome {
        let (key, error) = (self.kept.object.key.to_string(), error.map(|error| error.to_string()));
        Outcome { session: self.session, entry: self.id, key, error }
    }

    /// Whether `other` is the same entry once more: a mount carried it over into its own session and was killed before it could remove
    /// this one.
    fn was_carried_over_as(&self, other: &Job<'_>) -> bool {
        let said = |job: &Job<'_>| Kept { reason: None, ..job.kept.clone() };
        let mut pieces = self.left.content(self.entry).zip(other.left.content(other.entry));
        self.session != other.session
            && self.entry.content_bytes == other.entry.content_bytes
            && said(self) == said(other)
            && pieces.all(|pair| match pair {
                (Ok((at, bytes)), Ok((other_at, other_bytes))) => {
                    at == other_at && bytes.as_slice() == other_bytes.as_slice()
                }
                _ => false,
            })
    }

    async fn is_stored(&self) -> Result<bool, SendError> {
        is_stored(self.engine.gateway(), self.left, self.entry, &self.kept).await
    }

    async fn send(&self) -> Result<(), SendError> {
        let Job { engine, left, entry, kept, .. } = self;
        if self.is_stored().await? {
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
///
/// An upload that could not be begun with the last word on the file's attributes may be complete, and its metadata not yet put right.
/// That is done here: the content is not on this host any more.
async fn is_stored(gateway: &Arc<Gateway>, left: &Left, entry: &LeftEntry, kept: &Kept) -> Result<bool, SendError> {
    let (head, checksums) = match head_of(gateway, &kept.object.key).await {
        Err(error) if error.kind == Kind::NotFound => return Ok(false),
        answer => answer?,
    };
    let user = &head.meta.user;
    let is_described = *user == kept.object.user;
    let begun = kept.upload.as_ref().filter(|upload| !is_described && upload.object.user == *user);
    if !(is_described || begun.is_some()) || !user.contains_key("mtime") || head.meta.size != kept.size {
        return Ok(false);
    }
    let stored = checksums.into_iter().find(|checksum| matches!(checksum, Checksum::Crc64(_)));
    let wanted = if stored.is_some() { crc64_of(left, entry, kept)?.map(Checksum::Crc64) } else { None };
    let same = stored.is_none() || wanted.is_none() || stored == wanted;
    if !same || gateway.policy().judge(&head.encryption.facts) != Verdict::Compliant {
        return Ok(false);
    }
    if begun.is_some_and(|upload| upload.exact) {
        let condition = Condition::Matches(head.meta.version.etag.clone());
        let source = s3::Source { key: kept.object.key.clone(), version: head.meta.version, size: kept.size };
        gateway.copy(&source, &kept.object, &condition).await?;
    }
    Ok(true)
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
pub(super) fn usable((sessions, unusable): (Vec<journal::Session>, Vec<journal::Error>)) -> Vec<journal::Session> {
    for error in unusable {
        match error {
            journal::Error::OfAnother { session, mount } => {
                tracing::info!(of = mount, session = %session.display(), "what another mount left is left to it");
            }
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
        let kms = Kms::new(&s3::without_reuse(&sdk, &connection)?, store.kms_endpoint_url.as_deref());
        Ok(Asked { connection, sdk, kms })
    }
}

/// One engine for each policy that the files of one mount were to be stored under.
struct Engines<'a> {
    asked: &'a Asked,
    directory: &'a Path,
    source: Source,
    pool: Arc<Pool>,
    made: HashMap<String, Arc<Engine>>,
}

impl<'a> Engines<'a> {
    fn new(asked: &'a Asked, directory: &'a Path, source: Source, lefts: &[Left]) -> Result<Engines<'a>, StartError> {
        let kept_bytes: u64 = lefts.iter().flat_map(Left::entries).map(|(_, entry)| entry.content_bytes).sum();
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
