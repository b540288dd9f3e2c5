//! What s3s asks of its surroundings: the secret of an access key, and the bucket in a host.

use async_trait::async_trait;
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::{S3Host, VirtualHost};
use s3s::{S3Result, s3_error};

use super::super::kms::signature::Credentials;
use super::super::operation::bucket_of_host;

/// Knows one pair of credentials.
pub(super) struct Login(pub(super) Credentials);

/// Reads `bucket.localhost` and `bucket.s3.localhost`; every other host is path style.
pub(super) struct Localhost;

#[async_trait]
impl S3Auth for Login {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match access_key == self.0.access_key {
            true => Ok(SecretKey::from(self.0.secret_key.as_str())),
            false => {
                Err(s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records."))
            }
        }
    }
}

impl S3Host for Localhost {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        Ok(match bucket_of_host(host) {
            Some(bucket) => VirtualHost::new("localhost").with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}
