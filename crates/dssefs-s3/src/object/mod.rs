//! Names and values of the store: buckets, keys, versions, byte ranges, metadata, checksums. The constructors validate
//! each value where it enters the program.
//!
//! This room does no I/O and knows no encryption. It uses no other room.

mod bucket;
mod crc64;
mod header_text;
mod host;
mod key;
mod meta;
mod range;

pub use bucket::{Bucket, BucketError};
pub use crc64::Crc64;
pub use header_text::{header_bytes, header_length, header_text, is_raw};
pub use host::{is_localhost, is_loopback};
pub use key::{Key, KeyError, Name, NameError, Prefix, RESERVED_NAME, SHADOWED_NAME};
pub use meta::{
    COMMIT_NAME, CommitId, ETag, METADATA_BYTES_MAX, ObjectMeta, UserMetadata, Version, VersionId, metadata_bytes,
};
pub use range::ByteRange;
