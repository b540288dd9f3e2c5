//! Stand-in for the key service of the endpoint.

use std::collections::BTreeMap;

/// Stand-in.
#[derive(Debug, Default)]
pub struct Kms;

/// Stand-in.
#[derive(Debug)]
pub struct DataKey {
    /// ARN of the key.
    pub key_arn: String,
}

/// Stand-in.
#[derive(Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// S3 error code.
    pub code: String,
    /// Sentence.
    pub message: String,
}

impl Kms {
    /// Stand-in.
    pub fn generate_data_key(&self, key: Option<&str>, _: &BTreeMap<String, String>) -> Result<DataKey, Refusal> {
        Ok(DataKey { key_arn: key.unwrap_or("arn:aws:kms:us-east-1:000000000000:key/aws-s3").to_owned() })
    }
    /// Stand-in.
    pub fn decrypt(&self, _: &str, _: &BTreeMap<String, String>) -> Result<(), Refusal> {
        Ok(())
    }
}
