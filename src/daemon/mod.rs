//! Builds the house from bottom to top, serves, and takes it down.

use std::path::PathBuf;

use crate::config::Config;

/// A mount that answers.
#[derive(Debug)]
pub struct Mounted {
    /// As `s3://bucket/prefix`.
    pub source: String,
    /// Where.
    pub mountpoint: PathBuf,
    /// The key, for people: an ARN, or that it is the AWS managed key.
    pub key: String,
}

/// Why a mount does not come to be, by what a person can do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub enum StartError {
    /// The bucket is not there.
    Bucket(String),
    /// Permission is missing.
    Access(String),
    /// The key is not usable.
    Key(String),
    /// The store does not answer, or there are no credentials for it.
    Unreachable(String),
    /// The store does not do DSSE-KMS.
    Mismatch(String),
    /// The kernel's side.
    Fuse(String),
    /// The rest.
    Internal(String),
}

/// Mounts, serves, and returns after the unmount.
///
/// # Errors
/// [`StartError`].
pub fn run(config: Config, ready: impl FnOnce(Result<Mounted, &StartError>)) -> Result<(), StartError> {
    let error = StartError::Internal(format!("{} cannot be mounted: this build has no daemon", config.source()));
    ready(Err(&error));
    Err(error)
}
