//! The journal's sessions and their keys: begun under new data keys of KMS, opened again under those that KMS unwraps.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::{JournalKeys, KeyChoice};
use dssefs_fs::journal::{self, Journal, Layer, NewKeys, NewSession, RecoveredSession, Session, WrappedKey};
use dssefs_s3::kms::Kms;
use dssefs_s3::policy::KeyArn;
use dssefs_seal::crypto::{self, SeenKeys};
use dssefs_seal::sealed::ByteBudget;
use dssefs_seal::secret::Key;

use super::StartError;
use super::resolve_key::resolve_key;

/// All data keys that this process has had from KMS, new and unwrapped ones, and their wrapped forms.
static SEEN_KEYS: SeenKeys = SeenKeys::new();

/// After a failed attempt at new keys, how long the present ones stay before the next.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// How long a mount that starts waits for another process that has a session of its source and will finish soon.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long from one look at such a session to the next.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// What [`journal::sessions_of`] finds of `source` in `directory`. A mount of `source` that is ending may still have
/// acknowledged files that the store does not have: without them, a name that a program has closed would not be there.
pub(super) async fn ended(
    source: &str,
    directory: &Path,
) -> Result<(Vec<Session>, Vec<journal::Error>), journal::Error> {
    let deadline = Instant::now() + BUSY_WAIT_MAX;
    for tries in 0_u32.. {
        let (sessions, unusable) = journal::sessions_of(directory, source)?;
        let Some(session) = unusable.iter().find_map(|error| busy(error, source)) else {
            return Ok((sessions, unusable));
        };
        let (session, seconds) = (session.display().to_string(), BUSY_WAIT_MAX.as_secs());
        if Instant::now() >= deadline {
            tracing::warn!(
                session,
                "after {seconds} s another process still saves files \
                 that an earlier mount of this source acknowledged; \
                 until it has, this mount does not show those files, and makes new ones under their names"
            );
            return Ok((sessions, unusable));
        }
        if tries == 0 {
            tracing::info!(
                session,
                "waiting for another process that still saves what an earlier mount left, for at most {seconds} s"
            );
        }
        drop(sessions);
        tokio::time::sleep(BUSY_PAUSE).await;
    }
    unreachable!("the deadline comes before so many tries")
}

fn busy<'a>(error: &'a journal::Error, source: &str) -> Option<&'a Path> {
    match error {
        journal::Error::InUse(session) if journal::is_about_to_be_free(session, source) => Some(session),
        _ => None,
    }
}

/// Begins a journal for `source` below `directory`. One kms:GenerateDataKey for each layer.
pub(super) async fn begin(
    kms: &Kms,
    wrapping: &[KeyChoice; 2],
    source: &str,
    directory: &Path,
    budget: Arc<ByteBudget>,
) -> Result<Journal, StartError> {
    let name = crypto::unique_name().map_err(|error| StartError::Internal(error.to_string()))?;
    let keys = new_keys(kms, wrapping, &Bound { source, session: &name }, 0).await?;
    Ok(Journal::create(directory, NewSession { source: source.to_owned(), name, keys }, budget)?)
}

/// Gives `journal` new keys whenever their lifetime has passed, for as long as another owner holds it. While KMS gives
/// none, the present ones stay in use: what programs write has to be kept.
pub(super) async fn renew(kms: Kms, JournalKeys { wrapping, lifetime }: JournalKeys, journal: Weak<Journal>) {
    let mut pause = lifetime;
    // One that failed has used its number up: KMS may have bound keys to it.
    for number in 1.. {
        tokio::time::sleep(pause).await;
        let Some(journal) = journal.upgrade() else { return };
        pause = match renew_once(&kms, &wrapping, journal, number).await {
            Ok(()) => lifetime,
            Err(error) => {
                tracing::warn!(%error, "the journal's keys could not be renewed; the present ones stay in use");
                RENEWAL_PAUSE.min(lifetime)
            }
        };
    }
}

async fn renew_once(
    kms: &Kms,
    wrapping: &[KeyChoice; 2],
    journal: Arc<Journal>,
    number: u32,
) -> Result<(), StartError> {
    let bound = Bound { source: journal.source(), session: journal.name() };
    let keys = new_keys(kms, wrapping, &bound, number).await?;
    let renewed = tokio::task::spawn_blocking(move || journal.renew(keys)).await;
    Ok(renewed.map_err(|_| StartError::Internal("the task that renews keys has panicked".to_owned()))??)
}

/// Reads what `session` left. One kms:Decrypt for each layer and epoch.
pub(super) async fn open(kms: &Kms, session: Session) -> Result<RecoveredSession, StartError> {
    let mut keys = Vec::new();
    for epoch in &session.epochs {
        let bound = Bound { source: &session.source, session: &session.name };
        let [inner, outer] = &epoch.keys;
        let number = epoch.number();
        keys.push([old_key(kms, inner, &bound, number).await?, old_key(kms, outer, &bound, number).await?]);
    }
    Ok(RecoveredSession::read(session, &keys)?)
}

/// The session that data keys are bound to: KMS gives them back only for the same mount and session, so that no session
/// passes for another's.
struct Bound<'a> {
    source: &'a str,
    session: &'a str,
}

impl Bound<'_> {
    /// The encryption context of one key. With `number`, which keys of version 1 do not have, no key passes for that of
    /// the other layer or of another time either.
    fn context(&self, layer: Layer, number: Option<u32>) -> Vec<(&'static str, String)> {
        let mut pairs = vec![("dssefs:source", self.source.to_owned()), ("dssefs:session", self.session.to_owned())];
        if let Some(number) = number {
            pairs.extend([("dssefs:layer", layer.as_str().to_owned()), ("dssefs:epoch", number.to_string())]);
        }
        pairs
    }
}

async fn new_keys(kms: &Kms, wrapping: &[KeyChoice; 2], bound: &Bound<'_>, number: u32) -> Result<NewKeys, StartError> {
    let [inner, outer] = wrapping;
    let (inner, wrapped_inner) = new_key(kms, inner, &bound.context(Layer::Inner, Some(number)), Layer::Inner).await?;
    let (outer, wrapped_outer) = new_key(kms, outer, &bound.context(Layer::Outer, Some(number)), Layer::Outer).await?;
    Ok(NewKeys { number, wrapped: [wrapped_inner, wrapped_outer], inner, outer })
}

/// One kms:GenerateDataKey. A key that came before, for the other layer or at another time, is refused: KMS or what
/// answers in its name does not draw keys at random.
async fn new_key(
    kms: &Kms,
    choice: &KeyChoice,
    context: &[(&'static str, String)],
    layer: Layer,
) -> Result<(Key, WrappedKey), StartError> {
    let arn = resolve_key(kms, choice).await?;
    let arn = arn.ok_or_else(|| StartError::Key("aws/s3 makes no data keys; give --spill-kms-key-id".to_owned()))?;
    let made = kms.data_key(&arn, &pairs(context)).await?;
    let (new, newly_wrapped) = (note(made.key.expose())?, note(&made.wrapped)?);
    if !(new && newly_wrapped) {
        return Err(StartError::Key(format!(
            "KMS gave a data key under {arn} that it had given before; check that the KMS endpoint is AWS's own, \
             and that nothing between repeats its answers"
        )));
    }
    let wrapped = base64_simd::STANDARD.encode_to_string(&made.wrapped);
    Ok((made.key, WrappedKey { layer, kms_key: arn.to_string(), wrapped }))
}

/// One kms:Decrypt.
async fn old_key(kms: &Kms, key: &WrappedKey, bound: &Bound<'_>, number: Option<u32>) -> Result<Key, StartError> {
    let changed = |what: &str| StartError::Key(format!("a session names {what}; its file was changed"));
    let arn = KeyArn::new(&key.kms_key).map_err(|_| changed("a KMS key that is no ARN"))?;
    let wrapped = base64_simd::STANDARD.decode_to_vec(&key.wrapped).map_err(|_| changed("a key that is no base64"))?;
    let unwrapped = kms.unwrap(&arn, &wrapped, &pairs(&bound.context(key.layer, number))).await?;
    // It may well have been seen: a session is opened again. A new key must not be one of these.
    note(unwrapped.expose())?;
    note(&wrapped)?;
    Ok(unwrapped)
}

fn pairs<'a>(context: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    context.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// False when this process has seen it before.
fn note(key: &[u8]) -> Result<bool, StartError> {
    SEEN_KEYS.note(key).map_err(|error| StartError::Internal(error.to_string()))
}

impl From<journal::Error> for StartError {
    fn from(error: journal::Error) -> StartError {
        let text = error.to_string();
        match error {
            journal::Error::Tampered { .. } | journal::Error::Unreadable { .. } => StartError::Damaged(text),
            journal::Error::Io { .. } | journal::Error::NoSpace | journal::Error::Broken(_) => {
                StartError::Argument(text)
            }
            journal::Error::InUse(_) | journal::Error::OfAnother { .. } | journal::Error::Crypto(_) => {
                StartError::Internal(text)
            }
        }
    }
}
