//! What earlier mounts could not store: found, sent, written to a local file, or given up.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc_fast::CrcAlgorithm;
use futures_util::{StreamExt, stream};
use tokio::runtime::Runtime;

use crate::config::{self, Source};
use crate::journal::{self, EntryId, Left, LeftEntry};
use crate::kms::Kms;
use crate::object::{ByteRange, Key};
use crate::policy::{Policy, Verdict};
use crate::s3::{self, Checksum, Condition, Gateway, Head, Kind};
use crate::spill::{Limits, Pool};
use crate::write::{self, Engine, Kept, KeptError, Piece, Settings, Writer};

use super::build::connection;
use super::{StartError, memory, sessions};

/// Files that are sent at the same time.
const SENDS_MAX: usize = 16;
/// Memory for the bytes of files that are recovered, in bytes.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Bytes that are written to a local file at a time.
const EXPORT_BYTES: u64 = 1 << 20;

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
    /// Keys of the objects that are now in the store, or were already.
    pub stored: Vec<String>,
    /// Files that are still kept, and why.
    pub kept: Vec<(String, String)>,
    /// What was not as it was written, in sentences.
    pub damage: Vec<String>,
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

/// Lists what is left below `directory`, also by mounts that live. Asks KMS for the keys, and S3 nothing.
///
/// # Errors
/// The directory cannot be read, or KMS does not give the keys back.
pub fn list(store: &config::Connection, directory: &Path) -> Result<Vec<Found>, StartError> {
    runtime()?.block_on(async {
        let kms = Asked::load(store).await?.kms;
        let (sessions, unusable) = journal::sessions_to_read(directory)?;
        let mut found: Vec<Found> = unusable.into_iter().map(|error| strange(directory, &error)).collect();
        for session in sessions {
            found.push(describe(&sessions::open(&kms, session).await?));
        }
        Ok(found)
    })
}

/// Sends what is left below `directory` by mounts that have ended, under the keys that it was to be stored under. What cannot be sent
/// stays.
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
        for session in sessions {
            let left = sessions::open(&asked.kms, session).await?;
            let mut engines = Engines { asked: &asked, source: left.session().source.clone(), made: HashMap::new() };
            let outcomes = send_all(std::slice::from_ref(&left), |policy| engines.of(policy)).await?;
            let all_stored = outcomes.iter().all(|outcome| outcome.error.is_none());
            for Outcome { key, error, .. } in outcomes {
                match error {
                    None => sent.stored.push(key),
                    Some(reason) => sent.kept.push((key, reason)),
                }
            }
            sent.damage.extend(left.damage().iter().map(ToString::to_string));
            if all_stored {
                left.dealt_with()?;
            }
        }
        Ok(sent)
    })
}

/// Writes the file that was to be stored under `key` to the new local file `to`, in clear. Bytes that it has in common with an object
/// come from there.
///
/// # Errors
/// As [`list`]; no such file is left; `to` exists or cannot be written; the object is not what it was.
pub fn export(store: &config::Connection, directory: &Path, key: &str, to: &Path) -> Result<u64, StartError> {
    runtime()?.block_on(async {
        let asked = Asked::load(store).await?;
        for session in usable(journal::sessions_to_read(directory)?) {
            let left = sessions::open(&asked.kms, session).await?;
            let wanted = |entry: &LeftEntry| {
                Kept::decode(entry.description.as_slice()).ok().filter(|kept| kept.object.key.as_str() == key)
            };
            // The newest, where there are several.
            let newest = left.entries().filter_map(|(_, entry)| Some((entry, wanted(entry)?))).last();
            if let Some((entry, kept)) = newest {
                let mut engines =
                    Engines { asked: &asked, source: left.session().source.clone(), made: HashMap::new() };
                let engine = engines.of(&kept.policy)?;
                if kept.upload.is_some() {
                    return Err(unsent(key, &SendError::InUpload { bytes: uploaded_bytes(&kept) }));
                }
                refuse_lost(&kept).map_err(|error| unsent(key, &error))?;
                let writer = Writer::recovered(&engine, &kept);
                put_back(&writer, &left, entry, &kept, Sending::Never).await.map_err(|error| unsent(key, &error))?;
                return write_out(&engine, &writer, kept.size, to).await;
            }
        }
        Err(StartError::Bucket(format!("nothing is kept for {key}; dssefs recover DIR list names what is")))
    })
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

async fn write_out(engine: &Engine, writer: &Arc<Writer>, size: u64, to: &Path) -> Result<u64, StartError> {
    let failed = |error: std::io::Error| StartError::Internal(format!("{} cannot be written: {error}", to.display()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    let mut at = 0;
    while at < size {
        let range = at..size.min(at + EXPORT_BYTES);
        at = range.end;
        let (pieces, base) = writer.locate(range).map_err(|error| unsent("the file", &error.into()))?;
        for piece in pieces {
            write_piece(engine, writer, base.as_ref(), &piece, &file).await?.map_err(failed)?;
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

/// What stands in the upload of an entry that needs one.
fn uploaded_bytes(kept: &Kept) -> u64 {
    kept.upload.iter().flat_map(|upload| &upload.parts).map(|part| part.size).sum()
}

fn unsent(key: &str, error: &SendError) -> StartError {
    StartError::Internal(format!("{key}: {error}"))
}

/// A session that nobody can read.
fn strange(directory: &Path, error: &journal::Error) -> Found {
    let session = match error {
        journal::Error::Unreadable { path, .. } | journal::Error::Io { path, .. } => path.parent().unwrap_or(path),
        _ => directory,
    };
    let (source, damage) = ("unknown".to_owned(), vec![error.to_string()]);
    Found { session: session.to_owned(), source, files: Vec::new(), damage }
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
        let kms = Kms::new(&sdk, store.kms_endpoint_url.as_deref());
        Ok(Asked { connection, sdk, kms })
    }
}

/// One engine for each policy that files were to be stored under.
struct Engines<'a> {
    asked: &'a Asked,
    source: String,
    made: HashMap<String, Arc<Engine>>,
}

impl Engines<'_> {
    fn of(&mut self, policy: &Policy) -> Result<Arc<Engine>, StartError> {
        let name = format!("{policy:?}");
        if let Some(engine) = self.made.get(&name) {
            return Ok(Arc::clone(engine));
        }
        let source = Source::parse(&self.source).map_err(|error| StartError::Bucket(error.to_string()))?;
        let gateway = Gateway::new(&self.asked.sdk, &self.asked.connection, source.bucket, policy.clone());
        let directory = std::env::temp_dir();
        let limits = Limits { memory_bytes_max: MEMORY_BYTES_MAX, spill_bytes_max: u64::MAX };
        let engine = engine(Arc::new(gateway), Pool::new(&directory, limits)?, MEMORY_BYTES_MAX);
        self.made.insert(name, Arc::clone(&engine));
        Ok(engine)
    }
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
