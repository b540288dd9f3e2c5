//! The intent log of one move, as an object in the store: its owner begins it, keeps it fresh, and ends it. Texts for
//! users call it the journal of a rename.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::super::Settings;
use super::super::error::Error;
use dssefs_seal::crypto::MacKey;

use super::authenticator::KeyName;
use super::intent::{Copied, Heading, Intent, JOURNAL_PREFIX, Phase};
use super::owner::Owner;
use super::signed::{self, Place};
use dssefs_s3::object::{ETag, Key, Prefix};
use dssefs_s3::s3::{Condition, Gateway, Kind, NewObject};

/// No JSON as a whole: a signed line comes first.
const CONTENT_TYPE: &str = "application/octet-stream";
/// A new journal's name: the kernel's random numbers as text (random(4)).
const RANDOM_NAME: &str = "/proc/sys/kernel/random/uuid";
/// Seconds since the boot, those included during which the host was suspended (proc_uptime(5)): the store's clock goes
/// on meanwhile, and Rust's does not.
const UPTIME: &str = "/proc/uptime";

/// A journal that this process holds. A task rewrites it every third of the lease. As long as that succeeds, no other
/// mount touches it. When it is dropped before its end, the next mount that looks takes it over.
pub(super) struct Journal {
    gateway: Arc<Gateway>,
    root: Prefix,
    key: Key,
    signing: Signing,
    copied_until: Option<SystemTime>,
    lease: Duration,
    intent: Mutex<Intent>,
    /// When the last successful write began, as time since the boot; none where the system does not give that time.
    beaten: Mutex<Option<Duration>>,
    /// The version in the store; none once it has ended. Locked during each write, so that there is one at a time.
    version: tokio::sync::Mutex<Option<ETag>>,
}

/// What this mount signs its journals with.
struct Signing {
    name: KeyName,
    key: Arc<MacKey>,
}

impl Journal {
    /// Writes the first version of `intent`.
    pub(super) async fn begin(
        gateway: &Arc<Gateway>,
        settings: &Settings,
        heading: Heading,
    ) -> Result<Arc<Journal>, Error> {
        let id = std::fs::read_to_string(RANDOM_NAME).map_err(|_| Error::NoRandomness)?;
        let key = super::key_below(&settings.prefix, &format!("{JOURNAL_PREFIX}{}", id.trim()))?;
        Self::hold(gateway, settings, key, (Intent::new(heading), None), Condition::Absent).await
    }

    /// Takes over another process's journal, if it still is the version `etag`. Its holder made no copies after
    /// `until`.
    pub(super) async fn take_over(
        gateway: &Arc<Gateway>,
        settings: &Settings,
        key: Key,
        intent: Intent,
        (etag, until): (ETag, SystemTime),
    ) -> Result<Arc<Journal>, Error> {
        let mut intent = intent;
        intent.heading.owner = Owner::this();
        Self::hold(gateway, settings, key, (intent, Some(until)), Condition::Matches(etag)).await
    }

    async fn hold(
        gateway: &Arc<Gateway>,
        settings: &Settings,
        key: Key,
        (intent, copied_until): (Intent, Option<SystemTime>),
        condition: Condition,
    ) -> Result<Arc<Journal>, Error> {
        let (name, signing_key) = settings.authenticator.own().await.map_err(|why| Error::NoJournalKey(why.into()))?;
        let signing = Signing { name, key: signing_key };
        let begun = since_boot();
        let etag = put(gateway, &settings.prefix, &key, &signing, &intent, &condition).await?;
        let journal = Arc::new(Journal {
            gateway: Arc::clone(gateway),
            root: settings.prefix.clone(),
            key,
            signing,
            copied_until,
            lease: settings.rename_lease,
            intent: Mutex::new(intent),
            beaten: Mutex::new(begun),
            version: tokio::sync::Mutex::new(Some(etag)),
        });
        tokio::spawn(beat(Arc::downgrade(&journal), settings.rename_lease / 3));
        Ok(journal)
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// After this time, by the store's clock, the move has made no copies that it did not note.
    pub(super) fn copied_until(&self) -> SystemTime {
        self.copied_until.unwrap_or_else(|| self.gateway.time())
    }

    /// What it says now, with what was noted since it was written last.
    pub(super) fn intent(&self) -> MutexGuard<'_, Intent> {
        self.intent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a copy; the next write stores that.
    pub(super) fn note(&self, path: &str, copied: Copied) {
        self.intent().objects.insert(path.to_owned(), copied);
    }

    /// Notes that a copy was taken back.
    pub(super) fn strike(&self, path: &str) {
        self.intent().objects.remove(path);
    }

    /// Whether no other mount can have taken it over yet.
    pub(super) fn is_held(&self) -> bool {
        let age = since_boot().zip(*self.beaten()).map(|(now, beaten)| now.saturating_sub(beaten));
        age.is_some_and(|age| age < self.lease * 2 / 3)
    }

    /// Stores that all copies stand. After an error the move can be undone, and the journal says so. If even that
    /// cannot be stored, the error is [`Error::Overtaken`]: this mount does not know what the journal says, and the
    /// next look at the journal decides.
    pub(super) async fn all_copied(&self) -> Result<(), Error> {
        self.intent().heading.phase = Phase::Deleting;
        let Err(error) = self.write().await else { return Ok(()) };
        self.intent().heading.phase = Phase::Copying;
        self.write().await.map_err(|_| Error::Overtaken)?;
        Err(error)
    }

    /// Deletes it: the move is done, or undone.
    pub(super) async fn end(&self) -> Result<(), Error> {
        let mut version = self.version.lock().await;
        if let Some(etag) = version.as_ref() {
            self.gateway.delete_version(&self.key, etag).await?;
            *version = None;
        }
        Ok(())
    }

    /// Ends it before anything was copied, so that nothing is to be undone. False if it could not be deleted.
    pub(super) async fn end_untouched(&self) -> bool {
        let outcome = self.end().await;
        if let Err(error) = &outcome {
            tracing::warn!(
                %error,
                key = %self.key,
                "the journal of a rename that did not begin could not be deleted; the mount tries again"
            );
        }
        outcome.is_ok()
    }

    async fn write(&self) -> Result<(), Error> {
        let mut version = self.version.lock().await;
        let Some(etag) = version.clone() else { return Ok(()) };
        let (begun, intent) = (since_boot(), self.intent().clone());
        let condition = Condition::Matches(etag);
        let new = match put(&self.gateway, &self.root, &self.key, &self.signing, &intent, &condition).await {
            Err(error) if is_lost(&error) => return Err(Error::Overtaken),
            answer => answer?,
        };
        *version = Some(new);
        *self.beaten() = begun;
        Ok(())
    }

    fn beaten(&self) -> MutexGuard<'_, Option<Duration>> {
        self.beaten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rewrites the journal every `pause`, until it is dropped: a sign that its owner lives.
async fn beat(journal: std::sync::Weak<Journal>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(journal) = journal.upgrade() else { return };
        if let Err(error) = journal.write().await {
            tracing::warn!(%error, key = %journal.key, "the journal of a directory's rename could not be kept fresh");
        }
    }
}

async fn put(
    gateway: &Gateway,
    root: &Prefix,
    key: &Key,
    signing: &Signing,
    intent: &Intent,
    condition: &Condition,
) -> Result<ETag, Error> {
    let object = NewObject { content_type: Some(CONTENT_TYPE.to_owned()), ..NewObject::at(key.clone()) };
    let place = Place { bucket: gateway.bucket().as_str(), root, key };
    let text = signed::written(intent, (&signing.name, &*signing.key), place, gateway.time());
    let stored = gateway.put(&object, Arc::new(Bytes::from(text)), condition).await?;
    Ok(stored.into_inner().version.etag)
}

fn since_boot() -> Option<Duration> {
    let text = std::fs::read_to_string(UPTIME).ok()?;
    Duration::try_from_secs_f64(text.split(' ').next()?.parse().ok()?).ok()
}

fn is_lost(error: &Error) -> bool {
    matches!(error, Error::Store(error) if matches!(error.kind, Kind::PreconditionFailed | Kind::NotFound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_since_the_boot_goes_on() {
        let before = since_boot().unwrap();
        std::thread::sleep(Duration::from_millis(30));
        assert!(since_boot().unwrap() > before);
    }
}
