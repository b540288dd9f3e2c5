//! Finds, sends, exports or discards the changes that earlier mounts could not store.

mod export;
mod send;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::config::Source;
use dssefs_fs::journal::{self, RecoveredEntry, RecoveredSession};
use dssefs_fs::spill::{Limits, Pool};
use dssefs_fs::write::{Engine, PendingChanges, Settings};
use dssefs_s3::kms::Kms;
use dssefs_s3::policy::Policy;
use dssefs_s3::s3::{self, Connection, Gateway};

use super::memory::{self, Protected};
use super::spill_dir::SpillDir;
use super::{StartError, sessions};

pub use export::{Exported, Wanted, export};
use send::uploaded_bytes;
pub(super) use send::{Outcome, send_all};

/// Memory for the bytes of files that are recovered, in bytes.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// What may be sealed once more on the local disk while it is sent or written out, in bytes: as much as a mount may
/// unless it is told otherwise, or twice what the session keeps, where that is more.
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
    /// Why its content is unknown, if it is: KMS does not give its keys back, or the disk cannot be read.
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

/// What was given up.
#[derive(Debug)]
pub struct Discarded {
    /// The directories that were removed.
    pub removed: Vec<PathBuf>,
    /// Why others were not: their descriptions cannot be read.
    pub strange: Vec<journal::Error>,
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

/// Lists what is left below `directory`, also by mounts that live. Asks KMS for the keys, and S3 nothing. A session
/// that cannot be opened is [`Found::error`], and hides no other.
///
/// # Errors
/// The directory cannot be read, or there are no credentials.
pub fn list(store: &Connection, directory: &Path) -> Result<Vec<Found>, StartError> {
    let Some(directory) = SpillDir::existing(directory)? else { return Ok(Vec::new()) };
    let directory = directory.path();
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

/// Sends what is left below `directory` by mounts that have ended, under the keys that it was to be stored under. What
/// cannot be sent stays. Uploads that mounts of the same sources, or this command, had under way when they were killed
/// are aborted first.
///
/// # Errors
/// As [`list`].
pub fn upload(store: &Connection, directory: &Path) -> Result<Sent, StartError> {
    let Some(directory) = SpillDir::existing(directory)? else { return Ok(Sent::default()) };
    let directory = directory.path();
    runtime()?.block_on(async {
        let asked = Asked::load(store).await?;
        let mut sent = Sent::default();
        let (sessions, unusable) = journal::sessions(directory)?;
        sent.damage.extend(unreadable(unusable).map(|error| error.to_string()));
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

/// For what is of no file: only the policy of a gateway is.
fn gateway_of(asked: &Asked, source: &Source) -> Gateway {
    Gateway::new(&asked.sdk, &asked.connection, source.bucket.clone(), Policy::default())
}

/// Sends what one mount left in its sessions. One that cannot be dealt with is told in `sent`, and holds up no other.
async fn send_sessions(
    asked: &Asked,
    directory: &Path,
    source: &str,
    sessions: Vec<journal::Session>,
    sent: &mut Sent,
) {
    let mut recovered = Vec::new();
    for session in sessions {
        let at = session.directory.clone();
        match sessions::open(&asked.kms, session).await {
            Ok(left) => recovered.push(left),
            Err(error) => sent.failed.push((at, error)),
        }
    }
    if let Err(error) = send_recovered(asked, directory, source, recovered, sent).await {
        sent.failed.push((directory.to_owned(), error));
    }
}

async fn send_recovered(
    asked: &Asked,
    directory: &Path,
    source: &str,
    recovered: Vec<RecoveredSession>,
    sent: &mut Sent,
) -> Result<(), StartError> {
    // 1. End what these mounts had under way.
    let (at, source) = (source, parsed(source)?);
    let gateway = gateway_of(asked, &source);
    sent.aborted += gateway.abort_leftovers(directory, at, &source.prefix).await.uploads;
    // 2. Send their entries, and remove the sessions of which nothing is left.
    sent.damage.extend(recovered.iter().flat_map(RecoveredSession::damage).map(ToString::to_string));
    let mut engines = Engines::new(asked, directory, source.clone(), &recovered)?;
    let mut unsent = BTreeSet::new();
    for Outcome { session, key, error, .. } in send_all(&recovered, |policy| Ok(engines.noting(policy))).await? {
        match error {
            None => sent.stored.push(key),
            Some(reason) => {
                unsent.insert(session);
                sent.kept.push((key, reason));
            }
        }
    }
    for (_, left) in recovered.into_iter().enumerate().filter(|(number, _)| !unsent.contains(number)) {
        left.dealt_with()?;
    }
    // 3. If nothing is left of any, no journal needs an upload. The lists of this command are no others'.
    drop(engines);
    if unsent.is_empty() && sent.damage.is_empty() && sent.failed.is_empty() {
        sent.aborted += gateway.abort_unneeded(directory, at, &source.prefix).await;
    }
    Ok(())
}

fn parsed(source: &str) -> Result<Source, StartError> {
    Source::parse(source).map_err(|error| StartError::Bucket(error.to_string()))
}

/// Gives up everything that is left below `directory` by mounts that have ended.
///
/// # Errors
/// A directory cannot be removed.
pub fn discard(directory: &Path) -> Result<Discarded, StartError> {
    let nothing = Discarded { removed: Vec::new(), strange: Vec::new() };
    let Some(directory) = SpillDir::existing(directory)? else { return Ok(nothing) };
    let directory = directory.path();
    let (sessions, unusable) = journal::sessions_to_discard(directory)?;
    let mut discarded = Discarded { removed: Vec::new(), strange: unreadable(unusable).collect() };
    for session in sessions {
        discarded.removed.push(session.directory.clone());
        session.remove()?;
    }
    Ok(discarded)
}

/// Of the sessions that cannot be opened, those that cannot be read. The others belong to mounts that live.
pub(super) fn unreadable(unusable: Vec<journal::Error>) -> impl Iterator<Item = journal::Error> {
    unusable.into_iter().filter(|error| !matches!(error, journal::Error::InUse(_)))
}

/// A session that cannot be read.
fn strange(directory: &Path, error: &journal::Error) -> Found {
    let session = match error {
        journal::Error::Unreadable { path, .. } | journal::Error::Io { path, .. } => path.parent().unwrap_or(path),
        _ => directory,
    };
    let (source, damage) = ("unknown".to_owned(), vec![error.to_string()]);
    Found { session: session.to_owned(), source, files: Vec::new(), damage, error: None }
}

fn describe(left: &RecoveredSession) -> Found {
    let file = |entry: &RecoveredEntry| match PendingChanges::decode(entry.description.as_slice()) {
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

/// The sessions that can be opened; the log names the others.
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
    pub(super) connection: Connection,
    pub(super) sdk: s3::SdkConfig,
    pub(super) kms: Kms,
}

impl Asked {
    pub(super) async fn load(store: &Connection) -> Result<Asked, StartError> {
        let sdk = s3::load(store).await?;
        let kms = Kms::new(&s3::without_reuse(&sdk, store)?, store.kms_endpoint_url.as_deref());
        Ok(Asked { connection: store.clone(), sdk, kms })
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
    fn new(
        asked: &'a Asked,
        directory: &'a Path,
        source: Source,
        recovered: &[RecoveredSession],
    ) -> Result<Engines<'a>, StartError> {
        let kept_bytes: u64 =
            recovered.iter().flat_map(RecoveredSession::entries).map(|(_, entry)| entry.content_bytes).sum();
        let spill_bytes_max = SPILL_BYTES_MAX.max(kept_bytes.saturating_mul(2));
        let pool = pool(directory, Limits { memory_bytes_max: MEMORY_BYTES_MAX, spill_bytes_max })?;
        Ok(Engines { asked, directory, source, pool, made: HashMap::new() })
    }

    /// An engine that begins no upload.
    fn quiet(&self, policy: &Policy) -> Arc<Engine> {
        engine(Arc::new(self.gateway(policy)), Arc::clone(&self.pool), MEMORY_BYTES_MAX)
    }

    /// An engine whose uploads are noted beside the session, as those of a mount are, for the process that comes after
    /// a crash.
    fn noting(&mut self, policy: &Policy) -> Arc<Engine> {
        let name = format!("{policy:?}");
        if let Some(engine) = self.made.get(&name) {
            return Arc::clone(engine);
        }
        let gateway = self.gateway(policy);
        if let Err(error) = gateway.keep_ledger(self.directory, &self.source.to_string()) {
            // A full disk must not keep from the store what fills it.
            tracing::warn!(
                %error,
                "uploads cannot be noted on the local disk; after a crash a lifecycle rule has to end them"
            );
        }
        let engine = engine(Arc::new(gateway), Arc::clone(&self.pool), MEMORY_BYTES_MAX);
        self.made.insert(name, Arc::clone(&engine));
        engine
    }

    fn gateway(&self, policy: &Policy) -> Gateway {
        Gateway::new(&self.asked.sdk, &self.asked.connection, self.source.bucket.clone(), policy.clone())
    }
}

/// On the disk that the mount was given, as it has room for such things; where that is full or cannot be written, on
/// that for temporary files.
fn pool(directory: &Path, limits: Limits) -> Result<Arc<Pool>, StartError> {
    let elsewhere = |error| {
        tracing::warn!(%error, "what has no room in memory is sealed in the system's directory for temporary files");
        Pool::new(&std::env::temp_dir(), limits)
    };
    Ok(Pool::new(directory, limits).or_else(elsewhere)?)
}

/// Always conditional: what was left long ago must never replace what is newer.
pub(super) fn engine(gateway: Arc<Gateway>, pool: Arc<Pool>, memory_bytes_max: u64) -> Arc<Engine> {
    Engine::new(gateway, pool, Settings::for_memory(memory_bytes_max, None))
}

/// For commands without a mount. Their memory is protected as a mount's is: they hold the journal's keys, content and
/// credentials.
pub(super) fn runtime() -> Result<Runtime, StartError> {
    started(&memory::protect())
}

pub(super) fn started(memory: &Protected) -> Result<Runtime, StartError> {
    tracing::debug!(protection = memory.summary, "what this process has given up");
    Runtime::new().map_err(|error| StartError::Internal(format!("the threads cannot be started: {error}")))
}
