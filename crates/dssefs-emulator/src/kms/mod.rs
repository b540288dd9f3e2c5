//! The KMS of the endpoint: keys with states, aliases, and the calls of S3 and of clients upon them.
//!
//! It keeps keys in one file that survives a crash, and refuses with the codes and the texts of AWS. It really
//! encrypts, by AES-256-GCM with the encryption context as authenticated data. It keeps a short log of callers and
//! contexts. It does neither asymmetric cryptography nor MACs. Such keys exist as metadata only, so that tests can
//! misuse them.
//!
//! S3 calls [`Kms::generate_data_key`] and [`Kms::decrypt`]; clients come in over HTTP through `api`.

pub(super) mod api;
mod call_log;
mod cipher;
mod exception;
mod key;
mod name;
pub(super) mod signature;
mod store;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use call_log::{Caller, Event};
pub use exception::{Exception, Refusal};
pub use key::{Action, Key, Manager, NewKey, Status};

use tracing::warn;

use call_log::CallLog;
use name::Name;
use store::Store;

/// The alias of the AWS managed key of S3.
const MANAGED_ALIAS: &str = "alias/aws/s3";

/// The shortest and the longest waiting period before a key is deleted, in days (KMS API reference,
/// ScheduleKeyDeletion).
const PENDING_DAYS: std::ops::RangeInclusive<u64> = 7..=30;

/// All keys and aliases of one account in one Region.
#[derive(Debug)]
pub struct Kms {
    region: String,
    account: String,
    store: Store,
    call_log: Mutex<CallLog>,
}

/// What S3 keeps of a data key: the ARN of the KMS key that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKey {
    /// The full ARN of the KMS key, whatever name the caller used for it.
    pub key_arn: String,
}

tokio::task_local! {
    /// Set around the handling of a request whose KMS calls are to be throttled; it becomes true when one was.
    static THROTTLED: Cell<bool>;
}

impl Kms {
    /// Opens the keys kept in `directory`, which is made when it is missing.
    ///
    /// # Errors
    /// The directory or its file cannot be made, read or understood.
    pub fn open(directory: &Path, region: &str, account: &str) -> io::Result<Kms> {
        let store = Store::open(directory)?;
        let call_log = Mutex::default();
        Ok(Kms { region: region.to_owned(), account: account.to_owned(), store, call_log })
    }

    /// S3 calls this when it writes. It takes a key id, a key ARN, an alias or an alias ARN. `None` is the AWS managed
    /// key `aws/s3`, which is made on its first use. It counts one KMS call.
    ///
    /// # Errors
    /// What S3 would answer: `KMS.NotFoundException`, `KMS.DisabledException`, `KMS.KMSInvalidStateException`,
    /// `KMS.InvalidKeyUsageException`, `AccessDenied`, or `SlowDown` when the request is throttled on purpose.
    pub fn generate_data_key(&self, key: Option<&str>, context: &BTreeMap<String, String>) -> Result<DataKey, Refusal> {
        let key = self.use_for_s3(key.unwrap_or(MANAGED_ALIAS), Action::GenerateDataKey, context)?;
        Ok(DataKey { key_arn: key.arn })
    }

    /// What S3 calls when it reads an object or accepts a part. `key_arn` is the ARN kept with the object. Counts one
    /// KMS call.
    ///
    /// # Errors
    /// As [`Kms::generate_data_key`].
    pub fn decrypt(&self, key_arn: &str, context: &BTreeMap<String, String>) -> Result<(), Refusal> {
        self.use_for_s3(key_arn, Action::Decrypt, context).map(drop)
    }

    /// Makes a key.
    ///
    /// # Errors
    /// `ValidationException` for an unknown key spec, or a usage that the spec does not have.
    pub fn create_key(&self, new: NewKey) -> Result<Key, Exception> {
        let key = Key::create(new, &self.region, &self.account)?;
        self.store.change(|state| {
            state.keys.insert(key.id.clone(), key.clone());
            Ok(())
        })?;
        Ok(key)
    }

    /// Gives a key another name. `alias` starts with `alias/`.
    ///
    /// # Errors
    /// `ValidationException` for a bad or reserved name, `AlreadyExistsException`, `NotFoundException`.
    pub fn create_alias(&self, alias: &str, key: &str) -> Result<(), Exception> {
        let alias = name::new_alias(alias)?;
        let key = self.find(key)?;
        let arn = self.alias_arn(&alias);
        self.store.change(|state| {
            if state.aliases.contains_key(&alias) {
                return Err(Exception::already_exists(&arn));
            }
            state.aliases.insert(alias, key.id);
            Ok(())
        })
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// `NotFoundException` when there is no such alias.
    pub fn delete_alias(&self, alias: &str) -> Result<(), Exception> {
        let alias = name::new_alias(alias)?;
        let arn = self.alias_arn(&alias);
        self.store.change(|state| state.aliases.remove(&alias).map(drop).ok_or_else(|| Exception::no_alias(&arn)))
    }

    /// Finds a key by id, ARN, alias or alias ARN, in whatever state it is.
    ///
    /// # Errors
    /// `NotFoundException` with the text that belongs to the form of the name; `AccessDeniedException` for another
    /// account.
    pub fn find(&self, name: &str) -> Result<Key, Exception> {
        self.look_up(name, Action::DescribeKey.name())
    }

    /// Disables a key. AWS managed keys cannot be changed: `AccessDeniedException`.
    ///
    /// # Errors
    /// As [`Kms::find`], and `KMSInvalidStateException` while the key waits for its deletion.
    pub fn disable(&self, key: &str) -> Result<(), Exception> {
        self.switch(key, "DisableKey", Status::Disabled)
    }

    /// Enables a key.
    ///
    /// # Errors
    /// As [`Kms::disable`].
    pub fn enable(&self, key: &str) -> Result<(), Exception> {
        self.switch(key, "EnableKey", Status::Enabled)
    }

    /// Lets a key wait `days` (7 to 30) for its deletion. Gives the time of the deletion, in seconds since 1970.
    ///
    /// # Errors
    /// As [`Kms::disable`], and `ValidationException` for a waiting period out of range.
    pub fn schedule_deletion(&self, key: &str, days: u64) -> Result<u64, Exception> {
        if !PENDING_DAYS.contains(&days) {
            return Err(Exception::validation("PendingWindowInDays must be 7 to 30."));
        }
        let at_unix_s = key::now_unix_s() + days * 86_400;
        self.switch(key, "ScheduleKeyDeletion", Status::PendingDeletion { at_unix_s })?;
        Ok(at_unix_s)
    }

    /// Takes a scheduled deletion back; the key is disabled then, as in AWS.
    ///
    /// # Errors
    /// As [`Kms::find`], and `KMSInvalidStateException` when no deletion is scheduled.
    pub fn cancel_deletion(&self, key: &str) -> Result<(), Exception> {
        let key = self.find(key)?;
        if !matches!(key.status, Status::PendingDeletion { .. }) {
            return Err(Exception::invalid_state(format!("{} is not pending deletion.", key.arn)));
        }
        let status = if key.external { Status::PendingImport } else { Status::Disabled };
        self.alter(&key.id, |key| key.status = status)
    }

    /// Denies an action on a key from now on, as a key policy would with an explicit deny.
    ///
    /// # Errors
    /// As [`Kms::find`].
    pub fn deny(&self, key: &str, action: Action) -> Result<(), Exception> {
        let id = self.find(key)?.id;
        self.alter(&id, |key| {
            key.denied.insert(action);
        })
    }

    /// Takes a deny back.
    ///
    /// # Errors
    /// As [`Kms::find`].
    pub fn allow(&self, key: &str, action: Action) -> Result<(), Exception> {
        let id = self.find(key)?.id;
        self.alter(&id, |key| {
            key.denied.remove(&action);
        })
    }

    /// The latest calls, oldest first: who called with which encryption context. AWS shows this in CloudTrail.
    #[must_use]
    pub fn call_log(&self) -> Vec<Event> {
        self.call_log_lock().events()
    }

    /// How many calls were made by `caller`, by action.
    #[must_use]
    pub fn calls(&self, caller: Caller) -> BTreeMap<String, u64> {
        self.call_log_lock().calls(caller)
    }

    /// Empties the call log and its counts.
    pub fn reset_call_log(&self) {
        *self.call_log_lock() = CallLog::default();
    }

    /// Does `work` so that each KMS call S3 makes within it, on this task, is refused as throttled.
    pub(super) async fn throttled<F: Future>(work: F) -> F::Output {
        let watched = async {
            let output = work.await;
            if !THROTTLED.with(Cell::get) {
                warn!("a request whose KMS calls were to be throttled made none");
            }
            output
        };
        THROTTLED.scope(Cell::new(false), watched).await
    }

    fn use_for_s3(&self, name: &str, action: Action, context: &BTreeMap<String, String>) -> Result<Key, Refusal> {
        let throttled = THROTTLED.try_with(|struck| struck.set(true)).is_ok();
        let found =
            if throttled { Err(Refusal::throttled()) } else { self.usable(name, action).map_err(Refusal::from) };
        let key_arn = found.as_ref().map_or_else(|_| name.to_owned(), |key| key.arn.clone());
        self.record(Caller::S3, action.name(), Some(&key_arn), context);
        found
    }

    /// Finds a key, and checks that `action` may be done with it now.
    fn usable(&self, name: &str, action: Action) -> Result<Key, Exception> {
        let key = self.look_up(name, action.name())?;
        key.permit(action, &self.user_arn())?;
        key.require_enabled()?;
        key.require_symmetric(action)?;
        Ok(key)
    }

    /// Finds a key for `action`; a refusal names the action.
    fn look_up(&self, name: &str, action: &str) -> Result<Key, Exception> {
        let name = Name::parse(name, &self.region, &self.account)
            .map_err(|stray| stray.exception(&self.user_arn(), action))?;
        if name == Name::Alias(MANAGED_ALIAS.to_owned()) {
            self.ensure_managed_key()?;
        }
        let state = self.store.read();
        let id = match &name {
            Name::Id(id) => id,
            Name::Alias(alias) => {
                state.aliases.get(alias).ok_or_else(|| Exception::no_alias(&self.alias_arn(alias)))?
            }
        };
        let live = state.keys.get(id).filter(|key| !key.is_gone());
        live.cloned().ok_or_else(|| Exception::no_key(&self.key_arn(id)))
    }

    fn switch(&self, name: &str, action: &str, status: Status) -> Result<(), Exception> {
        let key = self.look_up(name, action)?;
        if key.manager == Manager::Aws {
            return Err(Exception::denied_by_service(&self.user_arn(), action, &key.arn));
        }
        key.require_switchable(status)?;
        self.alter(&key.id, |key| key.status = status)
    }

    fn alter(&self, id: &str, change: impl FnOnce(&mut Key)) -> Result<(), Exception> {
        let gone = || Exception::no_key(&self.key_arn(id));
        self.store.change(|state| state.keys.get_mut(id).map(change).ok_or_else(gone))
    }

    fn ensure_managed_key(&self) -> Result<(), Exception> {
        if self.store.read().aliases.contains_key(MANAGED_ALIAS) {
            return Ok(());
        }
        let key = Key::managed(&self.region, &self.account)?;
        self.store.change(|state| {
            // Two first uses may meet here: the alias that came first stays.
            if !state.aliases.contains_key(MANAGED_ALIAS) {
                state.aliases.insert(MANAGED_ALIAS.to_owned(), key.id.clone());
                state.keys.insert(key.id.clone(), key);
            }
            Ok(())
        })
    }

    fn record(&self, caller: Caller, action: &str, key: Option<&str>, context: &BTreeMap<String, String>) {
        let event = Event { caller, action: action.to_owned(), key: key.map(str::to_owned), context: context.clone() };
        self.call_log_lock().record(event);
    }

    fn call_log_lock(&self) -> MutexGuard<'_, CallLog> {
        self.call_log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key_arn(&self, id: &str) -> String {
        key::key_arn(&self.region, &self.account, id)
    }

    fn alias_arn(&self, alias: &str) -> String {
        format!("arn:aws:kms:{}:{}:{alias}", self.region, self.account)
    }

    /// The one user of the endpoint, as AWS names it in its refusals.
    fn user_arn(&self) -> String {
        format!("arn:aws:iam::{}:user/dssefs", self.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: &str = "eu-central-1";
    const ACCOUNT: &str = "111122223333";

    fn kms(directory: &tempfile::TempDir) -> Kms {
        Kms::open(directory.path(), REGION, ACCOUNT).unwrap()
    }

    fn none() -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn refusal(kms: &Kms, key: &str) -> (u16, String, String) {
        let refusal = kms.generate_data_key(Some(key), &none()).unwrap_err();
        (refusal.status, refusal.code, refusal.message)
    }

    fn expected(status: u16, code: &str, message: String) -> (u16, String, String) {
        (status, code.to_owned(), message)
    }

    #[test]
    fn every_form_of_name_finds_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let kms = kms(&directory);
        let key = kms.create_key(NewKey::default()).unwrap();
        kms.create_alias("alias/mine", &key.id).unwrap();
        let alias_arn = format!("arn:aws:kms:{REGION}:{ACCOUNT}:alias/mine");
        for name in [key.id.as_str(), &key.arn, "alias/mine", &alias_arn] {
            assert_eq!(kms.generate_data_key(Some(name), &none()).unwrap().key_arn, key.arn);
        }
    }

    #[test]
    fn no_key_means_the_managed_key() {
        let directory = tempfile::tempdir().unwrap();
        let first = kms(&directory).generate_data_key(None, &none()).unwrap();
        let kms = kms(&directory);
        assert_eq!(kms.generate_data_key(None, &none()).unwrap(), first);
        let refused = kms.disable(MANAGED_ALIAS).unwrap_err();
        assert_eq!(refused.kind, "AccessDeniedException");
    }

    #[test]
    fn unknown_keys_are_refused_in_the_words_of_s3() {
        let directory = tempfile::tempdir().unwrap();
        let kms = kms(&directory);
        let id = "12345678-1234-1234-1234-123456789012";
        let arn = kms.key_arn(id);
        let missing = expected(400, "KMS.NotFoundException", format!("Key '{arn}' does not exist"));
        assert_eq!(refusal(&kms, id), missing);
        assert_eq!(refusal(&kms, &arn), missing);
        let malformed = expected(400, "KMS.NotFoundException", "Invalid keyId 'fake-key-id'".to_owned());
        assert_eq!(refusal(&kms, "fake-key-id"), malformed);
        let elsewhere = arn.replace(REGION, "us-west-2");
        assert_eq!(
            refusal(&kms, &elsewhere),
            expected(400, "KMS.NotFoundException", "Invalid arn us-west-2".to_owned())
        );
    }

    #[test]
    fn the_state_of_a_key_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let arn = kms(&directory).create_key(NewKey::default()).unwrap().arn;
        kms(&directory).disable(&arn).unwrap();
        let disabled = expected(400, "KMS.DisabledException", format!("{arn} is disabled."));
        assert_eq!(refusal(&kms(&directory), &arn), disabled);
        kms(&directory).schedule_deletion(&arn, 7).unwrap();
        let pending = expected(400, "KMS.KMSInvalidStateException", format!("{arn} is pending deletion."));
        assert_eq!(refusal(&kms(&directory), &arn), pending);
        let kms = kms(&directory);
        kms.cancel_deletion(&arn).unwrap();
        assert_eq!(refusal(&kms, &arn), disabled);
        kms.enable(&arn).unwrap();
        kms.decrypt(&arn, &none()).unwrap();
    }

    #[test]
    fn a_key_without_material_can_only_be_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let kms = kms(&directory);
        let arn = kms.create_key(NewKey { external: true, ..NewKey::default() }).unwrap().arn;
        let pending = expected(400, "KMS.KMSInvalidStateException", format!("{arn} is pending import."));
        assert_eq!(kms.enable(&arn).unwrap_err().kind, "KMSInvalidStateException");
        assert_eq!(refusal(&kms, &arn), pending);
        kms.schedule_deletion(&arn, 7).unwrap();
        kms.cancel_deletion(&arn).unwrap();
        assert_eq!(refusal(&kms, &arn), pending);
    }

    #[test]
    fn asymmetric_and_hmac_keys_are_refused_for_their_usage() {
        let directory = tempfile::tempdir().unwrap();
        let kms = kms(&directory);
        for (spec, usage) in
            [("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")]
        {
            let new = NewKey { spec: spec.to_owned(), usage: usage.to_owned(), ..NewKey::default() };
            let arn = kms.create_key(new).unwrap().arn;
            let (status, code, message) = refusal(&kms, &arn);
            assert_eq!((status, code.as_str()), (400, "KMS.InvalidKeyUsageException"));
            assert!(message.starts_with(&arn), "{message}");
        }
    }

    #[test]
    fn only_the_denied_action_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let kms = kms(&directory);
        let arn = kms.create_key(NewKey::default()).unwrap().arn;
        kms.deny(&arn, Action::GenerateDataKey).unwrap();
        let message = format!(
            "User: arn:aws:iam::{ACCOUNT}:user/dssefs is not authorized to perform: kms:GenerateDataKey on resource: \
             {arn} with an explicit deny in a resource-based policy"
        );
        assert_eq!(refusal(&kms, &arn), expected(403, "AccessDenied", message));
        kms.decrypt(&arn, &none()).unwrap();
        kms.allow(&arn, Action::GenerateDataKey).unwrap();
        kms.generate_data_key(Some(&arn), &none()).unwrap();
    }

    #[tokio::test]
    async fn throttling_strikes_only_the_calls_within_its_scope() {
        let directory = tempfile::tempdir().unwrap();
        let kms = kms(&directory);
        let refused = Kms::throttled(async { kms.generate_data_key(None, &none()) }).await.unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (503, "SlowDown"));
        assert_eq!(refused.message, "Please reduce your request rate for operations involving AWS KMS.");
        kms.generate_data_key(None, &none()).unwrap();
    }

    #[test]
    fn the_call_log_has_contexts_and_counts() {
        let directory = tempfile::tempdir().unwrap();
        let kms = kms(&directory);
        let context = BTreeMap::from([("aws:s3:arn".to_owned(), "arn:aws:s3:::b/k".to_owned())]);
        let key = kms.generate_data_key(None, &context).unwrap();
        kms.decrypt(&key.key_arn, &context).unwrap();
        kms.decrypt(&key.key_arn, &context).unwrap();
        assert_eq!(kms.calls(Caller::S3), BTreeMap::from([("Decrypt".into(), 2), ("GenerateDataKey".into(), 1)]));
        assert!(kms.calls(Caller::Client).is_empty());
        let event = &kms.call_log()[0];
        assert_eq!((event.action.as_str(), &event.context), ("GenerateDataKey", &context));
    }
}
