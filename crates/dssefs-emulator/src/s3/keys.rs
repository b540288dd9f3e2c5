//! The key service as S3 sees it: the seam at which tests put a service that fails on demand.

use std::collections::BTreeMap;

use crate::kms::{DataKey, Kms, Refusal};

/// The two calls that S3 makes on behalf of a requester.
pub(super) trait KeyService: Send + Sync {
    /// For a write. `key` as the requester named it; `None` is the AWS managed key `aws/s3`.
    fn generate_data_key(&self, key: Option<&str>, context: &BTreeMap<String, String>) -> Result<DataKey, Refusal>;

    /// For a read or a part. `key_arn` as stored with the object.
    fn decrypt(&self, key_arn: &str, context: &BTreeMap<String, String>) -> Result<(), Refusal>;
}

impl KeyService for Kms {
    fn generate_data_key(&self, key: Option<&str>, context: &BTreeMap<String, String>) -> Result<DataKey, Refusal> {
        Kms::generate_data_key(self, key, context)
    }

    fn decrypt(&self, key_arn: &str, context: &BTreeMap<String, String>) -> Result<(), Refusal> {
        Kms::decrypt(self, key_arn, context)
    }
}
