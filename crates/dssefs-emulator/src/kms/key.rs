//! One key: its description, its state, and what may be done with it.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::cipher::{self, MATERIAL_LEN};
use super::exception::Exception;

/// The key spec of the only keys that really encrypt here.
const SYMMETRIC: &str = "SYMMETRIC_DEFAULT";

/// The key usage of symmetric keys.
const ENCRYPT_DECRYPT: &str = "ENCRYPT_DECRYPT";

/// Which usages a key spec may have (KMS API reference, CreateKey, KeySpec and KeyUsage).
const SPECS: &[(&str, &[&str])] = &[
    (SYMMETRIC, &[ENCRYPT_DECRYPT]),
    ("HMAC_224", &["GENERATE_VERIFY_MAC"]),
    ("HMAC_256", &["GENERATE_VERIFY_MAC"]),
    ("HMAC_384", &["GENERATE_VERIFY_MAC"]),
    ("HMAC_512", &["GENERATE_VERIFY_MAC"]),
    ("RSA_2048", &[ENCRYPT_DECRYPT, "SIGN_VERIFY"]),
    ("RSA_3072", &[ENCRYPT_DECRYPT, "SIGN_VERIFY"]),
    ("RSA_4096", &[ENCRYPT_DECRYPT, "SIGN_VERIFY"]),
    ("ECC_NIST_P256", &["SIGN_VERIFY", "KEY_AGREEMENT"]),
    ("ECC_NIST_P384", &["SIGN_VERIFY", "KEY_AGREEMENT"]),
    ("ECC_NIST_P521", &["SIGN_VERIFY", "KEY_AGREEMENT"]),
    ("ECC_SECG_P256K1", &["SIGN_VERIFY"]),
];

/// A key as it is kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The key id: a UUID, or `mrk-` and 32 hexadecimal digits.
    pub id: String,
    /// The full ARN.
    pub arn: String,
    /// Free text.
    pub description: String,
    /// When it was made, in seconds since 1970.
    pub created_unix_s: u64,
    /// The key spec, such as `SYMMETRIC_DEFAULT`.
    pub spec: String,
    /// The key usage, such as `ENCRYPT_DECRYPT`.
    pub usage: String,
    /// Who manages it.
    pub manager: Manager,
    /// Whether its material is imported, which this endpoint does not do, so that it can never be used.
    pub external: bool,
    /// Whether it can be used.
    pub status: Status,
    /// Actions that tests have denied.
    pub denied: BTreeSet<Action>,
    pub(super) material: [u8; MATERIAL_LEN],
}

/// Who manages a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Manager {
    /// An AWS service, here S3.
    Aws,
    /// The account.
    Customer,
}

/// Whether a key can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Yes.
    Enabled,
    /// Not until it is enabled.
    Disabled,
    /// Not until material is imported, which this endpoint does not do.
    PendingImport,
    /// Not until the deletion is taken back.
    PendingDeletion {
        /// When it will be gone, in seconds since 1970.
        at_unix_s: u64,
    },
}

/// An action that can be denied, written as in IAM: `kms:Decrypt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// A data key in plain and encrypted form; what S3 does when it writes.
    #[serde(rename = "kms:GenerateDataKey")]
    GenerateDataKey,
    /// A data key in encrypted form only.
    #[serde(rename = "kms:GenerateDataKeyWithoutPlaintext")]
    GenerateDataKeyWithoutPlaintext,
    /// What S3 does when it reads.
    #[serde(rename = "kms:Decrypt")]
    Decrypt,
    /// Encryption of up to 4 KiB.
    #[serde(rename = "kms:Encrypt")]
    Encrypt,
    /// Reading a key's metadata.
    #[serde(rename = "kms:DescribeKey")]
    DescribeKey,
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Free text.
    pub description: String,
    /// The key spec.
    pub spec: String,
    /// The key usage.
    pub usage: String,
    /// Whether its material is still to be imported, so that it cannot be used.
    pub external: bool,
    /// Whether its id has the form of multi-Region keys.
    pub multi_region: bool,
}

impl Default for NewKey {
    fn default() -> NewKey {
        NewKey {
            description: String::new(),
            spec: SYMMETRIC.to_owned(),
            usage: ENCRYPT_DECRYPT.to_owned(),
            external: false,
            multi_region: false,
        }
    }
}

impl Action {
    /// The name of the KMS operation.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Action::GenerateDataKey => "GenerateDataKey",
            Action::GenerateDataKeyWithoutPlaintext => "GenerateDataKeyWithoutPlaintext",
            Action::Decrypt => "Decrypt",
            Action::Encrypt => "Encrypt",
            Action::DescribeKey => "DescribeKey",
        }
    }
}

impl Status {
    /// The `KeyState` of the KMS API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Enabled => "Enabled",
            Status::Disabled => "Disabled",
            Status::PendingImport => "PendingImport",
            Status::PendingDeletion { .. } => "PendingDeletion",
        }
    }
}

impl Key {
    pub(super) fn create(new: NewKey, region: &str, account: &str) -> Result<Key, Exception> {
        check_spec(&new.spec, &new.usage)?;
        let id = new_id(new.multi_region)?;
        Ok(Key {
            arn: key_arn(region, account, &id),
            id,
            description: new.description,
            created_unix_s: now_unix_s(),
            spec: new.spec,
            usage: new.usage,
            manager: Manager::Customer,
            external: new.external,
            status: if new.external { Status::PendingImport } else { Status::Enabled },
            denied: BTreeSet::new(),
            material: cipher::random()?,
        })
    }

    /// The AWS managed key of S3.
    pub(super) fn managed(region: &str, account: &str) -> Result<Key, Exception> {
        let description = "Default key that protects my S3 objects when no other key is defined".to_owned();
        let key = Key::create(NewKey { description, ..NewKey::default() }, region, account)?;
        Ok(Key { manager: Manager::Aws, ..key })
    }

    /// Whether its waiting period is over.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.status, Status::PendingDeletion { at_unix_s } if at_unix_s <= now_unix_s())
    }

    pub(super) fn is_symmetric(&self) -> bool {
        self.spec == SYMMETRIC
    }

    pub(super) fn permit(&self, action: Action, user: &str) -> Result<(), Exception> {
        match self.denied.contains(&action) {
            true => Err(Exception::denied_explicitly(user, action.name(), &self.arn)),
            false => Ok(()),
        }
    }

    pub(super) fn require_enabled(&self) -> Result<(), Exception> {
        match self.status {
            Status::Enabled => Ok(()),
            Status::Disabled => Err(Exception::disabled(&self.arn)),
            Status::PendingImport => Err(self.pending("import")),
            Status::PendingDeletion { .. } => Err(self.pending("deletion")),
        }
    }

    /// Whether it can be brought to `status` by being enabled, disabled or scheduled for deletion.
    pub(super) fn require_switchable(&self, status: Status) -> Result<(), Exception> {
        match (self.status, status) {
            (Status::PendingDeletion { .. }, _) => Err(self.pending("deletion")),
            (Status::PendingImport, Status::Enabled | Status::Disabled) => Err(self.pending("import")),
            _ => Ok(()),
        }
    }

    pub(super) fn require_symmetric(&self, action: Action) -> Result<(), Exception> {
        if self.usage != ENCRYPT_DECRYPT {
            return Err(Exception::invalid_usage(&self.arn, "key usage", &self.usage, action.name()));
        }
        if !self.is_symmetric() {
            return Err(Exception::invalid_usage(&self.arn, "key spec", &self.spec, action.name()));
        }
        Ok(())
    }

    fn pending(&self, what: &str) -> Exception {
        Exception::invalid_state(format!("{} is pending {what}.", self.arn))
    }
}

/// Without the material.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("arn", &self.arn).field("status", &self.status).finish_non_exhaustive()
    }
}

/// The ARN of a key.
pub(super) fn key_arn(region: &str, account: &str, id: &str) -> String {
    format!("arn:aws:kms:{region}:{account}:key/{id}")
}

/// The time, in whole seconds since 1970; 0 for a clock before that.
pub(super) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn check_spec(spec: &str, usage: &str) -> Result<(), Exception> {
    let Some((_, usages)) = SPECS.iter().find(|(name, _)| *name == spec) else {
        return Err(Exception::validation(format!("KeySpec {spec} is not known to this endpoint.")));
    };
    match usages.contains(&usage) {
        true => Ok(()),
        false => Err(Exception::validation(format!("KeyUsage {usage} is not compatible with KeySpec {spec}"))),
    }
}

fn new_id(multi_region: bool) -> Result<String, Exception> {
    let mut bytes: [u8; 16] = cipher::random()?;
    // A random UUID says so in its version and variant (RFC 9562, 5.4).
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if multi_region {
        return Ok(format!("mrk-{digits}"));
    }
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(new: NewKey) -> Result<Key, Exception> {
        Key::create(new, "us-east-1", "111122223333")
    }

    #[test]
    fn key_ids_are_random_and_of_their_form() {
        let id = key(NewKey::default()).unwrap().id;
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert_ne!(id, key(NewKey::default()).unwrap().id);
        let id = key(NewKey { multi_region: true, ..NewKey::default() }).unwrap().id;
        assert!(id.starts_with("mrk-") && id.len() == 36, "{id}");
    }

    #[test]
    fn a_spec_has_only_its_own_usages() {
        let new = |spec: &str, usage: &str| NewKey { spec: spec.into(), usage: usage.into(), ..NewKey::default() };
        assert!(key(new("RSA_2048", "SIGN_VERIFY")).is_ok());
        assert_eq!(key(new("HMAC_256", "SIGN_VERIFY")).unwrap_err().kind, "ValidationException");
        assert_eq!(key(new("AES", "ENCRYPT_DECRYPT")).unwrap_err().kind, "ValidationException");
    }

    #[test]
    fn a_key_is_gone_after_its_waiting_period() {
        let mut key = key(NewKey::default()).unwrap();
        key.status = Status::PendingDeletion { at_unix_s: now_unix_s() + 60 };
        assert!(!key.is_gone());
        key.status = Status::PendingDeletion { at_unix_s: now_unix_s() };
        assert!(key.is_gone());
    }

    #[test]
    fn the_debug_form_hides_the_material() {
        let key = key(NewKey::default()).unwrap();
        assert!(!format!("{key:?}").contains("material"));
    }

    #[test]
    fn a_key_without_imported_material_cannot_be_used() {
        let key = key(NewKey { external: true, ..NewKey::default() }).unwrap();
        let refused = key.require_enabled().unwrap_err();
        assert_eq!(
            (refused.kind, refused.message),
            ("KMSInvalidStateException", format!("{} is pending import.", key.arn))
        );
    }
}
