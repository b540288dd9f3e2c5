//! Verbs about the bucket itself.

use aws_sdk_s3::types::BucketVersioningStatus;

use super::Store;
use crate::policy::Facts;
use crate::s3::error::Error;
use crate::s3::metrics::Operation;
use crate::s3::request::Versioning;

impl Store {
    pub(in crate::s3) async fn default_encryption(&self) -> Result<Facts, Error> {
        let request = self.client.get_bucket_encryption().bucket(self.bucket.as_str()).send();
        let answer = match self.ask(Operation::GetBucketEncryption, None, request).await {
            Ok(answer) => answer,
            // Only servers other than S3 have buckets without any default.
            Err(error) if error.code.as_deref() == Some("ServerSideEncryptionConfigurationNotFoundError") => {
                return Ok(Facts::from_headers(None, None, None, None));
            }
            Err(error) => return Err(error),
        };
        let rules = answer
            .server_side_encryption_configuration()
            .map(|configuration| configuration.rules())
            .unwrap_or_default();
        let default = rules.iter().find_map(|rule| rule.apply_server_side_encryption_by_default());
        let bucket_key = rules.iter().find_map(aws_sdk_s3::types::ServerSideEncryptionRule::bucket_key_enabled);
        let algorithm = default.map(|default| default.sse_algorithm().as_str());
        Ok(Facts::from_headers(algorithm, default.and_then(|default| default.kms_master_key_id()), bucket_key, None))
    }

    pub(in crate::s3) async fn versioning(&self) -> Result<Versioning, Error> {
        let request = self.client.get_bucket_versioning().bucket(self.bucket.as_str()).send();
        let answer = self.ask(Operation::GetBucketVersioning, None, request).await?;
        Ok(match answer.status() {
            None => Versioning::Off,
            Some(BucketVersioningStatus::Enabled) => Versioning::Enabled,
            Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
            Some(_) => Versioning::Unknown,
        })
    }
}
