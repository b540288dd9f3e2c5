//! The few direct calls to KMS: which key a name means, whether S3 can use it, and data keys for what outlives the
//! process on the local disk.
//!
//! S3 answers with the ARN of a key, so only an ARN can be compared with its answers. This room resolves ids and
//! aliases once, at the start. It lets KMS encrypt nothing but keys. It may use `policy` and `secret`.

mod data_key;
mod error;

use aws_config::SdkConfig;
use aws_sdk_kms::Client;
use aws_sdk_kms::types::{KeyMetadata, KeySpec, KeyState, KeyUsageType};

use crate::policy::KeyArn;

pub use data_key::{Binding, DataKey};
pub use error::Error;

/// KMS, as the SDK reaches it.
#[derive(Clone)]
pub struct Kms {
    client: Client,
}

impl Kms {
    /// Makes no request. `endpoint` replaces AWS's own address. No connection of `config` may outlive an answer,
    /// because the answer may contain a key.
    #[must_use]
    pub fn new(config: &SdkConfig, endpoint: Option<&str>) -> Kms {
        let mut builder = aws_sdk_kms::config::Builder::from(config);
        if let Some(url) = endpoint {
            builder = builder.endpoint_url(url);
        }
        Kms { client: Client::from_conf(builder.build()) }
    }

    /// The ARN of the key that `text` names (by id, ARN, alias or alias ARN), if S3 can encrypt with it: enabled,
    /// symmetric, for encryption. Rule: "Using server-side encryption with AWS KMS keys", S3 User Guide.
    ///
    /// # Errors
    /// [`Error`] says what is wrong with the key, or why KMS did not answer (DescribeKey, KMS API reference).
    pub async fn resolve(&self, text: &str) -> Result<KeyArn, Error> {
        let request = self.client.describe_key().key_id(text).send();
        let answer = Box::pin(request).await.map_err(|error| error::describe(text, &error))?;
        let key = answer.key_metadata().ok_or_else(|| Error::nonsense(text, "the answer describes no key"))?;
        let arn = key.arn().ok_or_else(|| Error::nonsense(text, "the answer has no ARN"))?;
        let arn = KeyArn::new(arn).map_err(|error| Error::nonsense(text, &error.to_string()))?;
        usable(key, &arn)?;
        Ok(arn)
    }
}

/// Whether S3 can write under this key.
fn usable(key: &KeyMetadata, arn: &KeyArn) -> Result<(), Error> {
    let arn = || arn.to_string();
    match key.key_state() {
        None | Some(KeyState::Enabled) => {}
        Some(KeyState::Disabled) => return Err(Error::Disabled(arn())),
        Some(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
            return Err(Error::PendingDeletion(arn()));
        }
        Some(state) => return Err(Error::NotReady { key: arn(), state: state.as_str().to_owned() }),
    }
    match key.key_usage() {
        None | Some(KeyUsageType::EncryptDecrypt) => {}
        Some(usage) => return Err(Error::WrongUse { key: arn(), found: usage.as_str().to_owned() }),
    }
    match key.key_spec() {
        None | Some(KeySpec::SymmetricDefault) => Ok(()),
        Some(spec) => Err(Error::WrongUse { key: arn(), found: spec.as_str().to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/0a1b";

    fn check(state: KeyState, usage: KeyUsageType, spec: KeySpec) -> Result<(), Error> {
        let key =
            KeyMetadata::builder().key_id("0a1b").key_state(state).key_usage(usage).key_spec(spec).build().unwrap();
        usable(&key, &KeyArn::new(ARN).unwrap())
    }

    #[test]
    fn an_enabled_symmetric_encryption_key_is_usable() {
        assert!(check(KeyState::Enabled, KeyUsageType::EncryptDecrypt, KeySpec::SymmetricDefault).is_ok());
    }

    #[test]
    fn a_key_in_another_state_is_refused_with_the_way_out() {
        let refused = |state| check(state, KeyUsageType::EncryptDecrypt, KeySpec::SymmetricDefault).unwrap_err();
        assert!(matches!(refused(KeyState::Disabled), Error::Disabled(_)));
        assert!(matches!(refused(KeyState::PendingDeletion), Error::PendingDeletion(_)));
        assert!(matches!(refused(KeyState::PendingReplicaDeletion), Error::PendingDeletion(_)));
        assert_eq!(
            refused(KeyState::PendingImport).to_string(),
            format!("the KMS key {ARN} is PendingImport and not Enabled; wait, or repair it in KMS")
        );
    }

    #[test]
    fn asymmetric_and_signing_keys_are_refused() {
        let enabled = KeyState::Enabled;
        assert!(matches!(
            check(enabled.clone(), KeyUsageType::SignVerify, KeySpec::EccNistP256),
            Err(Error::WrongUse { found, .. }) if found == "SIGN_VERIFY"
        ));
        assert!(matches!(
            check(enabled.clone(), KeyUsageType::EncryptDecrypt, KeySpec::Rsa2048),
            Err(Error::WrongUse { found, .. }) if found == "RSA_2048"
        ));
        assert!(check(enabled, KeyUsageType::GenerateVerifyMac, KeySpec::Hmac256).is_err());
    }
}
