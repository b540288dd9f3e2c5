//! The S3 half of the endpoint: S3's operations over a directory, with S3's rules for DSSE-KMS.
//!
//! It answers as S3 does where a client can see the difference. Most important are what a write may ask for, when KMS
//! is called and with which context, and what each answer says about encryption. Where the documentation is silent it
//! follows recorded answers of the real service.
//!
//! It speaks no HTTP and checks no signatures (the router does), and it encrypts nothing (see the storage room). It
//! never ignores a request for something that it cannot do: ACLs, object lock, SSE-C and the like are errors.
//!
//! It knowingly differs from S3 in these points:
//!
//! * It takes KMS encryption over plain HTTP, since the loopback has no eavesdropper.
//! * It refuses a bucket's `BlockedEncryptionTypes` as malformed, and SSE-C everywhere.
//! * HEAD of a range answers 200 with the right headers.
//! * It does not check the XML of DeleteObjects against a digest.
//! * It never throttles or delays by itself.
//!
//! Rooms it may use: the storage and the key service of the endpoint; none outside the endpoint.

mod access;
mod annotations;
mod api;
mod attributes;
mod body;
mod buckets;
mod checksum;
mod condition;
mod copy;
mod delete;
mod description;
mod encryption;
mod errors;
mod format;
mod keys;
mod listing;
mod multipart;
mod parts;
mod put;
mod raw_values;
mod read;
mod tagging;
mod versions;

use std::io;
use std::path::Path;
use std::sync::Arc;

use s3s::{S3ErrorCode, S3Result};

pub use access::Access;
pub(crate) use annotations::{Annotations, ignoring_annotations};
pub(crate) use condition::ignoring_conditions;
pub(crate) use raw_values::{RAW, bytes_of};

use self::errors::refuse;
use self::keys::KeyService;
use super::kms::Kms;
use super::storage::{Bucket, Error as StorageError, Settings, Store};
use format::now;

/// The S3 service over one directory. Cheap to share, safe to call from many tasks at once.
#[derive(Clone)]
pub struct Endpoint {
    store: Arc<Store>,
    keys: Arc<dyn KeyService>,
    region: String,
    account: String,
}

impl Endpoint {
    /// Opens the buckets below `dir`/buckets, making the directory if need be. `kms` is asked for each data key;
    /// `region` is where all buckets are; `account` is the 12-digit account that owns them.
    ///
    /// # Errors
    /// A directory that cannot be read or written, or that holds a record not of ours. The caller must make sure that
    /// no other endpoint has it open.
    pub fn open(dir: &Path, kms: Arc<Kms>, region: &str, account: &str) -> io::Result<Endpoint> {
        Endpoint::with_keys(dir, kms, region, account)
    }

    /// Creates the bucket if it is missing.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn ensure_bucket(&self, name: &str) -> io::Result<()> {
        match self.store.create(name, Settings { created: now(), ..Settings::default() }) {
            Ok(_) | Err(StorageError::BucketExists) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn with_keys(dir: &Path, keys: Arc<dyn KeyService>, region: &str, account: &str) -> io::Result<Endpoint> {
        let store = Arc::new(Store::open(&dir.join("buckets"))?);
        Ok(Endpoint { store, keys, region: region.to_owned(), account: account.to_owned() })
    }

    /// The bucket, if it belongs to the account that the client expects.
    fn bucket(&self, name: &str, expected_owner: Option<&str>) -> S3Result<Arc<Bucket>> {
        let bucket = self.store.bucket(name)?;
        if expected_owner.is_some_and(|owner| owner != self.account) {
            return Err(refuse(S3ErrorCode::AccessDenied, "Access Denied"));
        }
        Ok(bucket)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("store", &self.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
