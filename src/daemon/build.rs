//! Builds the file system from the options, one layer after the other.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Commit, Config, XattrList};
use dssefs_fs::journal::Journal;
use dssefs_fs::namespace;
use dssefs_fs::namespace::{Defaults, Namespace};
use dssefs_fs::read::ReadBudget;
use dssefs_fs::spill::{Limits, Pool};
use dssefs_fs::vfs::{self, JournalPolicy, MountFacts, Vfs};
use dssefs_fs::write::{self, Engine};
use dssefs_s3::kms::Kms;
use dssefs_s3::object::{Key, Prefix};
use dssefs_s3::policy::{KeyArn, Policy};
use dssefs_s3::s3::{self, BucketFacts, Conditions, Gateway, LastWriterWins, Leftovers};
use dssefs_seal::crypto;

use super::rename_keys::RenameKeys;
use super::resolve_key::resolve_key;
use super::settings::summary;
use super::spill_dir::SpillDir;
use super::take_over::{TakenOver, take_over};
use super::{StartError, VERSION, recover, sessions};

/// How many nodes are kept that neither the kernel nor an open file refers to: some 300 bytes each.
const NODES_MAX: usize = 200_000;
/// What names of listings and open directories may take together, however small --memory is: 64 MiB, or some 150,000
/// names.
const NAMES_BYTES_MIN: u64 = 64 << 20;
/// HEADs under way ahead of a program that goes through a directory.
const HEADS_IN_FLIGHT_MAX: usize = 64;
/// Three signs of life of a mount that renames a directory are missed before another takes it over.
const RENAME_LEASE: Duration = Duration::from_secs(60);
/// How the name begins of the object that the proof of permission begins to upload and never makes. The rest of it is
/// random.
const PROBE_NAME: &str = ".dssefs-probe";

/// What the daemon serves.
pub(super) struct Built {
    pub(super) vfs: Arc<Vfs>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) key: String,
}

pub(super) async fn build(config: &Config, spill_dir: &SpillDir, protection: String) -> Result<Built, StartError> {
    // 1. Load the connection, resolve the key, and make the gateway.
    let connection = &config.connection;
    let sdk = s3::load(connection).await?;
    let kms = Kms::new(&s3::without_reuse(&sdk, connection)?, connection.kms_endpoint_url.as_deref());
    let key = resolve_key(&kms, &config.key).await?;
    let policy = Policy { key: key.clone(), context: config.context.clone() };
    let gateway = Arc::new(Gateway::new(&sdk, connection, config.bucket.clone(), policy));
    // 2. Divide the memory, so that reading and writing cannot starve each other. Writing gets the larger share: one
    // part under way and the next one being filled have to fit.
    let reading = config.memory_bytes_max / 4;
    let writing = config.memory_bytes_max - reading;
    let limits = Limits { memory_bytes_max: writing, spill_bytes_max: config.spill_bytes_max };
    let pool = Pool::new(&config.spill_dir, limits)?;
    // 3. Note uploads from now on, since the proof begins one too. Prove bucket, permission and conditions.
    if !config.read_only {
        note_uploads(config, &gateway)?;
    }
    prove(config, &gateway).await?;
    let bucket = gateway.bucket_facts().await;
    // 4. End what crashed mounts left: uploads, renames of directories, files in the journal.
    let keys = RenameKeys::new(&kms, key.as_ref(), config.source(), &config.spill_dir);
    let names = Namespace::new(Arc::clone(&gateway), names(config, keys));
    if !config.read_only {
        tidy_up(config, &gateway).await;
        names.recover().await;
    }
    names.know_root().await;
    let journal = journal(config, &kms, &gateway, &pool).await?;
    // 5. Confirm the spill directory: all that is opened by its path at the start is open now.
    spill_dir.confirm()?;
    // 6. Make the file system.
    let facts = facts(config, gateway.expected_key(), bucket, protection);
    let vfs = file_system(config, Arc::clone(&gateway), names, pool, journal.clone(), facts);
    let pinned = gateway.expected_key().cloned();
    Ok(Built { vfs, gateway, journal, key: key.as_ref().map_or_else(|| managed(&pinned), KeyArn::to_string) })
}

fn managed(pinned: &Option<KeyArn>) -> String {
    pinned.as_ref().map_or_else(|| "the AWS managed key aws/s3".to_owned(), |arn| format!("aws/s3, which is {arn}"))
}

/// Proves that the bucket is there and, for a mount that writes, that S3 and KMS let us write DSSE-KMS objects into it,
/// and that no write can replace what another host stored meanwhile. The upload that proves it is judged and aborted,
/// so nothing is left.
async fn prove(config: &Config, gateway: &Arc<Gateway>) -> Result<(), StartError> {
    let bucket = &config.bucket;
    let missing = |error| StartError::store(&format!("the bucket {bucket} cannot be used"), &error);
    gateway.reach(config.prefix.as_str()).await.map_err(missing)?;
    if config.read_only {
        return Ok(());
    }
    let key = probe_key(&config.prefix)?;
    let unproved = |error| {
        StartError::store(&format!("s3://{bucket} cannot be written with DSSE-KMS under these settings"), &error)
    };
    if config.last_writer_wins {
        return gateway.probe(&key).await.map_err(unproved);
    }
    match gateway.probe_conditions(&key).await.map_err(unproved)? {
        Conditions::Kept => {
            prove_copies(config, gateway, &key).await;
            prove_deletes(gateway, &key).await;
            Ok(())
        }
        Conditions::Broken(how) => Err(StartError::conditions(&config.source(), &how)),
        Conditions::Unknown(error) => {
            let remedy = error.remedy();
            tracing::warn!(
                %error, remedy,
                "these credentials may not find out whether the store keeps the conditions of writes, as S3 does"
            );
            Ok(())
        }
    }
}

/// Some stores keep the conditions of writes and not those of copies. The mount still starts: a copy onto itself cannot
/// replace other content, because the store compares its source with the version that it was made of.
async fn prove_copies(config: &Config, gateway: &Arc<Gateway>, key: &Key) {
    match gateway.probe_copies(config.prefix.as_str(), key).await {
        Ok(Some(Conditions::Broken(how))) => tracing::warn!(
            how,
            "the store does not keep the conditions of copies: a rename that must not replace anything, \
             and a change of attributes, may replace what another host stores at the same moment"
        ),
        Ok(Some(Conditions::Unknown(error))) => {
            tracing::info!(%error, "whether the store keeps the conditions of copies is not known");
        }
        // The gateway has logged what it could not find out.
        Ok(Some(Conditions::Kept) | None) => {}
        Err(error) => {
            let remedy = error.remedy();
            tracing::warn!(%error, remedy, "the proof that copies keep conditions left an object behind");
        }
    }
}

/// The same for deletes. The mount still starts: it asks for the version before each delete.
async fn prove_deletes(gateway: &Gateway, key: &Key) {
    match gateway.probe_deletes(key).await {
        Ok(Conditions::Broken(how)) => tracing::warn!(
            how,
            "the store does not keep the conditions of deletes: rm, rmdir and mv ask for the version first, and may \
             still delete what another host stores at the same moment"
        ),
        Ok(Conditions::Unknown(error)) => {
            tracing::info!(%error, "whether the store keeps the conditions of deletes is not known");
        }
        Ok(Conditions::Kept) => {}
        Err(error) => {
            let remedy = error.remedy();
            tracing::warn!(%error, remedy, "whether the store keeps the conditions of deletes could not be found out");
        }
    }
}

/// The user's word, if they gave it. It is made nowhere else.
fn last_writer_wins(config: &Config) -> Option<LastWriterWins> {
    config.last_writer_wins.then(LastWriterWins::asked_for)
}

/// A random name below `prefix`, which no object has.
pub(super) fn probe_key(prefix: &Prefix) -> Result<Key, StartError> {
    let random = crypto::unique_name().map_err(|error| StartError::Internal(error.to_string()))?;
    Key::new(format!("{}{PROBE_NAME}-{random}", prefix.as_str()))
        .map_err(|error| StartError::Bucket(format!("the prefix is too long: {error}")))
}

/// Notes the uploads of this mount for the next one.
fn note_uploads(config: &Config, gateway: &Gateway) -> Result<(), StartError> {
    let (directory, source) = (config.spill_dir.as_path(), config.source().to_string());
    let noted = gateway.keep_ledger(directory, &source);
    noted.map_err(|error| StartError::Argument(format!("{} cannot be written: {error}", directory.display())))
}

/// Ends the uploads that a crashed mount left, and deletes what it held for open files.
async fn tidy_up(config: &Config, gateway: &Gateway) {
    let (directory, source) = (config.spill_dir.as_path(), config.source().to_string());
    let Leftovers { uploads: aborted, held } = gateway.abort_leftovers(directory, &source, &config.prefix).await;
    if aborted > 0 {
        tracing::info!(aborted, "uploads that an earlier mount left were aborted");
    }
    if held > 0 {
        tracing::info!(held, "objects that an earlier mount held for open files were deleted");
    }
}

/// A new journal, after what earlier mounts left was sent or taken over into it.
async fn journal(
    config: &Config,
    kms: &Kms,
    gateway: &Arc<Gateway>,
    pool: &Arc<Pool>,
) -> Result<Option<Arc<Journal>>, StartError> {
    let Some(keys) = config.journal_keys.as_ref().filter(|_| !config.read_only) else { return Ok(None) };
    let (source, directory) = (config.source().to_string(), config.spill_dir.as_path());
    let journal = sessions::begin(kms, &keys.wrapping, &source, directory, pool.disk()).await?;
    let engine = recover::engine(Arc::clone(gateway), Arc::clone(pool), pool.usage().limits.memory_bytes_max);
    let TakenOver { sessions, is_all } = match take_over(kms, (&engine, gateway), &source, directory, &journal).await {
        Ok(taken_over) => taken_over,
        Err(error) => {
            // Each start that fails would leave one more copy of what went over.
            if let Err(error) = journal.give_up() {
                tracing::warn!(%error, "the session that was begun could not be removed");
            }
            return Err(error);
        }
    };
    for left in sessions {
        left.dealt_with()?;
    }
    if is_all {
        let aborted = gateway.abort_unneeded(directory, &source, &config.prefix).await;
        if aborted > 0 {
            tracing::info!(aborted, "uploads that no journal needs any more were aborted");
        }
    }
    let journal = Arc::new(journal);
    let renewal = sessions::renew(kms.clone(), keys.clone(), Arc::downgrade(&journal));
    tokio::spawn(renewal);
    Ok(Some(journal))
}

fn file_system(
    config: &Config,
    gateway: Arc<Gateway>,
    names: Arc<Namespace>,
    pool: Arc<Pool>,
    journal: Option<Arc<Journal>>,
    facts: MountFacts,
) -> Arc<Vfs> {
    let writing = pool.usage().limits.memory_bytes_max;
    let settings = write::Settings {
        wait_max: config.room_timeout,
        ..write::Settings::for_memory(writing, last_writer_wins(config))
    };
    let engine = Engine::new(Arc::clone(&gateway), pool, settings);
    let settings = vfs::Settings {
        on_noncompliant_read: config.on_noncompliant_read,
        list_attributes: config.xattr_list == XattrList::All,
        facts,
    };
    let background = config.commit == Commit::Background;
    let journal_policy = journal.map(|journal| JournalPolicy { journal, background });
    Vfs::new(gateway, names, engine, ReadBudget::new(config.memory_bytes_max - writing), settings, journal_policy)
}

fn facts(config: &Config, key: Option<&KeyArn>, bucket: BucketFacts, protection: String) -> MountFacts {
    MountFacts {
        bucket,
        context: config.context.clone(),
        settings: summary(config, key),
        version: VERSION,
        layers: crypto::LAYERS.to_owned(),
        protection,
        spill_dir: config.spill_dir.clone(),
    }
}

fn names(config: &Config, authenticator: Arc<RenameKeys>) -> namespace::Settings {
    namespace::Settings {
        prefix: config.prefix.clone(),
        defaults: Defaults { uid: config.uid, gid: config.gid, file_mode: config.file_mode, dir_mode: config.dir_mode },
        content_type: config.content_type.clone(),
        ttl: config.metadata_ttl,
        entries_max: NODES_MAX,
        names_bytes_max: config.memory_bytes_max.max(NAMES_BYTES_MIN),
        attributes: config.attributes,
        posix_form: config.posix_metadata,
        heads_in_flight_max: HEADS_IN_FLIGHT_MAX,
        rename_lease: RENAME_LEASE,
        last_writer_wins: last_writer_wins(config),
        authenticator,
    }
}
