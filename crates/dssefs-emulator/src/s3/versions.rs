//! Finding a version, and the fields of answers that several operations share.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use s3s::dto::{ChecksumType, Metadata};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::errors::{invalid_argument, no_such_key, refuse};
use crate::storage::{Bucket, Checksum, Object, Version, Versioning};

/// The version that a read names. A delete marker is 404 by name and 405 by id.
pub(super) fn find(bucket: &Bucket, key: &str, version_id: Option<&str>) -> S3Result<Arc<Version>> {
    if version_id == Some("") {
        return Err(invalid_argument("Version id cannot be the empty string"));
    }
    let found = bucket.find(key, version_id);
    let version = found.map_err(|error| match (error, version_id) {
        (crate::storage::Error::NoSuchVersion, Some(_)) => {
            refuse(S3ErrorCode::NoSuchVersion, "The specified version does not exist.")
        }
        (error, _) => error.into(),
    })?;
    if version.object().is_none() {
        return Err(delete_marker(&version, version_id.is_some()));
    }
    Ok(version)
}

/// The object of a version that [`find`] gave.
pub(super) fn object_of(version: &Version) -> S3Result<&Object> {
    version.object().ok_or_else(no_such_key)
}

/// The version id as answers report it: none in a bucket that never kept versions.
pub(super) fn reported_id(bucket: &Bucket, version: &Version) -> Option<String> {
    let versioned = bucket.settings().versioning != Versioning::Off;
    (versioned || version.id.is_some()).then(|| version.id_or_null().to_owned())
}

/// User metadata as a field of an answer; absent if there is none.
pub(super) fn metadata_field(object: &Object) -> Option<Metadata> {
    let metadata = &object.headers.metadata;
    let pairs: HashMap<_, _> = metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    (!pairs.is_empty()).then_some(pairs)
}

/// A checksum spread over the fields of an answer.
#[derive(Debug, Default)]
pub(super) struct ChecksumFields {
    pub(super) crc32: Option<String>,
    pub(super) crc32c: Option<String>,
    pub(super) crc64nvme: Option<String>,
    pub(super) sha1: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) kind: Option<ChecksumType>,
}

/// Puts a checksum into its field.
pub(super) fn split_checksum(checksum: Option<&Checksum>) -> ChecksumFields {
    let mut fields = ChecksumFields::default();
    let Some(checksum) = checksum else { return fields };
    let value = Some(checksum.value.clone());
    match checksum.algorithm.as_str() {
        "CRC32" => fields.crc32 = value,
        "CRC32C" => fields.crc32c = value,
        "SHA1" => fields.sha1 = value,
        "SHA256" => fields.sha256 = value,
        _ => fields.crc64nvme = value,
    }
    fields.kind = Some(checksum_type(checksum.composite));
    fields
}

/// `COMPOSITE` or `FULL_OBJECT`.
pub(super) fn checksum_type(composite: bool) -> ChecksumType {
    ChecksumType::from_static(if composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT })
}

fn delete_marker(version: &Version, by_id: bool) -> S3Error {
    let mut error = if by_id {
        refuse(S3ErrorCode::MethodNotAllowed, "The specified method is not allowed against this resource.")
    } else {
        no_such_key()
    };
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/xml"));
    headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    if let Ok(id) = HeaderValue::from_str(version.id_or_null()) {
        headers.insert("x-amz-version-id", id);
    }
    error.set_headers(headers);
    error
}
