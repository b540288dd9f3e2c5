//! From a key as it was given to the ARN that S3 and KMS answer with.

use dssefs_s3::kms::Kms;
use dssefs_s3::policy::KeyArn;

use super::StartError;
use crate::config::KeyChoice;

/// The ARN of a key; None is the AWS managed key. One kms:DescribeKey for an id or an alias.
pub(super) async fn resolve_key(kms: &Kms, key: &KeyChoice) -> Result<Option<KeyArn>, StartError> {
    Ok(match key {
        KeyChoice::Managed => None,
        KeyChoice::Arn(arn) => Some(arn.clone()),
        KeyChoice::Resolve(text) => Some(kms.resolve(text).await?),
    })
}
