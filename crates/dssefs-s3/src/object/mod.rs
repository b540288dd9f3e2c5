//! Names and values of the store: buckets, keys, versions, byte ranges, metadata, checksums. The constructors validate
//! each value where it enters the program.
//!
//! This room does no I/O and knows no encryption. It uses no other room.

mod bucket;
mod crc64;
mod host;
mod key;
mod meta;
mod range;

pub use bucket::{Bucket, BucketError};
pub use crc64::Crc64;
pub use host::{is_localhost, is_loopback};
pub use key::{Key, KeyError, Name, NameError, Prefix, RESERVED_NAME, SHADOWED_NAME};
pub use meta::{COMMIT_NAME, CommitId, ETag, ObjectMeta, UserMetadata, Version, VersionId};
pub use range::ByteRange;
