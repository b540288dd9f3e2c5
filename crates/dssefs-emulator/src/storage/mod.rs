//! A directory that holds buckets: versions of keys, uploads in progress, and the bytes of both.
//!
//! It keeps records (JSON) and bodies (plain files) below one directory, and an index of all records in memory. One
//! rename of one record makes a change true, so a `kill -9` at any moment leaves the old or the new state.
//! [`Store::open`] removes what an interrupted request left behind. Nothing is fsynced: a power loss may lose or tear
//! what was written last. That is fit for development and tests, and not for a store of record.
//!
//! It knows no HTTP, no checksums and no encryption rules. **Bodies are on the disk in the clear.** The encryption that
//! the endpoint reports exists in its protocol only.
//!
//! Rooms it may use: none.
//!
//! ```text
//! DIR/NAME/bucket.json            settings of the bucket NAME
//! DIR/NAME/keys/SHA256.json       one key: all its versions, newest first; named by the SHA-256 of the key
//! DIR/NAME/uploads/ID/upload.json a multipart upload in progress
//! DIR/NAME/uploads/ID/N.json      its part N
//! DIR/NAME/bodies/RANDOM          bytes; never changed once a record names them
//! ```
//!
//! A bucket that is being made or unmade is called `UNFINISHED-RANDOM`, which no bucket may be called.
//!
//! A key is never a path, so that `a` beside `a/b`, `..`, `//` and 1,024 bytes of anything make no difference.

mod body;
mod bucket;
mod files;
mod listing;
mod record;
mod recovery;
mod upload;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use body::{Body, BodyReader, BodyWriter};
pub(super) use bucket::{Bucket, Deleted};
pub(super) use files::{hex, private_directory, private_file, random_hex};
pub(super) use listing::{Found, Query, Walk};
pub(super) use record::{
    Annotation, Checksum, Encryption, Headers, Object, Part, PartSummary, Settings, Upload, UploadRecord, Version,
    Versioning,
};

/// Why the storage did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no bucket of that name, or it was deleted while the request ran.
    #[error("there is no such bucket")]
    NoSuchBucket,
    /// A bucket of that name is there already.
    #[error("a bucket of this name exists already")]
    BucketExists,
    /// The bucket holds versions or delete markers.
    #[error("the bucket is not empty; delete every version in it first")]
    BucketNotEmpty,
    /// There is no upload of that id for that key.
    #[error("there is no such multipart upload")]
    NoSuchUpload,
    /// There is no such key, or no such version of it.
    #[error("there is no such version")]
    NoSuchVersion,
    /// The disk refused.
    #[error("the storage directory could not be read or written: {0}")]
    Io(#[from] io::Error),
}

/// All buckets below one directory. One process at a time may have it open.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    buckets: Mutex<BTreeMap<String, Arc<Bucket>>>,
}

impl Store {
    /// Opens `dir`, creating it if need be, reads all records and removes the leftovers of interrupted requests. To one
    /// process, the requests of another are leftovers: the caller holds a lock on the directory.
    pub(super) fn open(dir: &Path) -> io::Result<Store> {
        private_directory(dir)?;
        let buckets = recovery::buckets(dir)?.into_iter().map(|b| (b.name().to_owned(), Arc::new(b))).collect();
        Ok(Store { dir: dir.to_owned(), buckets: Mutex::new(buckets) })
    }

    /// Creates an empty bucket.
    pub(super) fn create(&self, name: &str, settings: Settings) -> Result<(), Error> {
        let mut buckets = self.lock();
        if buckets.contains_key(name) {
            return Err(Error::BucketExists);
        }
        let bucket = Bucket::create(&self.dir, name, settings)?;
        buckets.insert(name.to_owned(), Arc::new(bucket));
        Ok(())
    }

    /// Deletes a bucket that holds no version. Uploads in progress die with it, as they do in S3.
    pub(super) fn delete(&self, name: &str) -> Result<(), Error> {
        let mut buckets = self.lock();
        buckets.get(name).ok_or(Error::NoSuchBucket)?.demolish()?;
        buckets.remove(name);
        Ok(())
    }

    /// The bucket of that name.
    pub(super) fn bucket(&self, name: &str) -> Result<Arc<Bucket>, Error> {
        self.lock().get(name).cloned().ok_or(Error::NoSuchBucket)
    }

    /// All buckets in the order of their names.
    pub(super) fn all(&self) -> Vec<Arc<Bucket>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Bucket>>> {
        // A panic elsewhere cannot leave the map half changed: each change is one insert or one remove.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
