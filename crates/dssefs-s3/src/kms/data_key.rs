//! Data keys: KMS generates and unwraps them.

use aws_sdk_kms::error::ProvideErrorMetadata;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, EncryptionAlgorithmSpec};
use zeroize::Zeroizing;

use crate::policy::KeyArn;
use dssefs_seal::secret::{KEY_BYTES, Key, OutOfMemory};

use super::Kms;
use super::error::{self, Error};

/// A key that KMS has just generated, and its wrapped form, which only KMS can unwrap.
pub struct DataKey {
    /// The key. It has never been used.
    pub key: Key,
    /// What [`Kms::unwrap`] takes.
    pub wrapped: Vec<u8>,
}

/// The pairs that a wrapped key is bound to. KMS unwraps it only if the request has the same pairs, and writes them to
/// CloudTrail.
pub type Binding<'a> = [(&'a str, &'a str)];

impl Kms {
    /// A new 256-bit key under `key` (GenerateDataKey, KMS API reference), bound to `binding`.
    ///
    /// # Errors
    /// [`Error`] says what is wrong with the KMS key, or with asking for it.
    pub async fn data_key(&self, key: &KeyArn, binding: &Binding<'_>) -> Result<DataKey, Error> {
        let arn = key.to_string();
        let mut request = self.client.generate_data_key().key_id(&arn).key_spec(DataKeySpec::Aes256);
        for (name, value) in binding {
            request = request.encryption_context(*name, *value);
        }
        let answer = Box::pin(request.send()).await;
        let answer = answer.map_err(|failed| error::use_of(&arn, "kms:GenerateDataKey", &failed))?;
        let wrapped = answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
        let plain = answer.plaintext.ok_or_else(|| Error::nonsense(&arn, "the answer has no key"))?;
        let key = locked(&arn, plain)?;
        match wrapped.is_empty() {
            // Data under it could never be decrypted again.
            true => Err(Error::nonsense(&arn, "the answer does not have the key in wrapped form")),
            false => Ok(DataKey { key, wrapped }),
        }
    }

    /// Unwraps a key that [`Kms::data_key`] generated under `key` and bound to `binding` (Decrypt, KMS API reference).
    ///
    /// # Errors
    /// [`Error`]; [`Error::NotWrappedHere`] if it was bound to another key or binding, or was changed.
    pub async fn unwrap(&self, key: &KeyArn, wrapped: &[u8], binding: &Binding<'_>) -> Result<Key, Error> {
        let arn = key.to_string();
        let mut request = self
            .client
            .decrypt()
            .key_id(&arn)
            .ciphertext_blob(Blob::new(wrapped))
            .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault);
        for (name, value) in binding {
            request = request.encryption_context(*name, *value);
        }
        let answer = match Box::pin(request.send()).await {
            Err(failed) if matches!(failed.code(), Some("InvalidCiphertextException" | "IncorrectKeyException")) => {
                return Err(Error::NotWrappedHere { key: arn });
            }
            answer => answer.map_err(|failed| error::use_of(&arn, "kms:Decrypt", &failed))?,
        };
        let plain = answer.plaintext.ok_or_else(|| Error::nonsense(&arn, "the answer has no key"))?;
        locked(&arn, plain)
    }
}

/// Moves a key into locked memory and wipes the SDK's copy. The heap wipes the body of the answer at once, and the
/// connection's buffers when the connection is closed. So the connection must not be kept for the next request
/// (`s3::without_reuse`).
fn locked(arn: &str, plain: Blob) -> Result<Key, Error> {
    let plain = Zeroizing::new(plain.into_inner());
    let bytes: &[u8; KEY_BYTES] =
        plain.as_slice().try_into().map_err(|_| Error::nonsense(arn, "the key in the answer has not 256 bits"))?;
    Key::fill_with::<OutOfMemory>(|place| {
        place.copy_from_slice(bytes);
        Ok(())
    })
    .map_err(|error| Error::nonsense(arn, &error.to_string()))
}
