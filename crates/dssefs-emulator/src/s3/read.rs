//! GetObject and HeadObject.

use std::ops::Range;
use std::sync::Arc;

use http::HeaderMap;
use s3s::dto::{
    ChecksumMode, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Range as RangeHeader,
    StorageClass, Timestamp, TimestampFormat,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};

use super::Endpoint;
use super::body::send;
use super::condition::check_read;
use super::description::is_archived;
use super::encryption::decrypt;
use super::errors::{custom, invalid_request, refuse};
use super::format::{etag, size, timestamp};
use super::versions::{ChecksumFields, find, metadata_field, object_of, reported_id, split_checksum};
use crate::storage::{Checksum, Object, Version};

/// Which bytes a read is about.
struct Extent {
    range: Range<u64>,
    /// `Content-Range`, which also makes the status 206.
    content_range: Option<String>,
    /// Of the whole object, or of the part asked for; a range has none.
    checksum: Option<Checksum>,
    parts_count: Option<i32>,
}

/// The fields that GET and HEAD share.
macro_rules! described {
    ($output:ident, $version:expr, $object:expr, $extent:expr, $sums:expr, $id:expr
     $(, $field:ident : $value:expr)*) => {
        $output {
            accept_ranges: Some("bytes".to_owned()),
            bucket_key_enabled: $object.encryption.bucket_key_field(),
            cache_control: $object.headers.cache_control.clone(),
            checksum_crc32: $sums.crc32,
            checksum_crc32c: $sums.crc32c,
            checksum_crc64nvme: $sums.crc64nvme,
            checksum_sha1: $sums.sha1,
            checksum_sha256: $sums.sha256,
            checksum_type: $sums.kind,
            content_disposition: $object.headers.content_disposition.clone(),
            content_encoding: $object.headers.content_encoding.clone(),
            content_language: $object.headers.content_language.clone(),
            content_length: Some(size($extent.range.end - $extent.range.start)),
            content_range: $extent.content_range.clone(),
            content_type: $object.headers.content_type.clone(),
            e_tag: etag(&$object.etag),
            expires: expires(&$object),
            last_modified: Some(timestamp($version.modified)),
            metadata: metadata_field(&$object),
            parts_count: $extent.parts_count,
            server_side_encryption: $object.encryption.sse(),
            ssekms_key_id: $object.encryption.key_arn.clone(),
            storage_class: $object.headers.storage_class.clone().map(StorageClass::from),
            version_id: $id,
            website_redirect_location: $object.headers.website_redirect_location.clone(),
            $($field: $value,)*
            ..$output::default()
        }
    };
}

impl Endpoint {
    pub(super) async fn get(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = &request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let version = find(&bucket, &input.key, input.version_id.as_deref())?;
        let object = object_of(&version)?;
        check_read(&request.headers, &version, object)?;
        if is_archived(&object.headers) {
            let sentence = "The operation is not valid for the object's storage class";
            return Err(refuse(S3ErrorCode::InvalidObjectState, sentence));
        }
        let extent = extent(object, input.range.as_ref(), input.part_number)?;
        decrypt(self.keys.as_ref(), &object.encryption)?;
        let sums = checksum_fields(input.checksum_mode.as_ref(), &extent);
        let body = send(&bucket, &version, &object.body, extent.range.clone())?;
        let tag_count = i32::try_from(object.tags.len()).ok().filter(|count| *count > 0);
        let id = reported_id(&bucket, &version);
        Ok(S3Response::new(
            described!(GetObjectOutput, version, object, extent, sums, id, body: Some(body), tag_count: tag_count),
        ))
    }

    pub(super) async fn head(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = &request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let version: Arc<Version> = find(&bucket, &input.key, input.version_id.as_deref())?;
        let object = object_of(&version)?;
        check_read(&request.headers, &version, object)?;
        let extent = extent(object, input.range.as_ref(), input.part_number)?;
        // The checksum is stored encrypted, so a request for it calls KMS. A plain HEAD never does.
        if wants_checksum(input.checksum_mode.as_ref()) {
            decrypt(self.keys.as_ref(), &object.encryption)?;
        }
        let sums = checksum_fields(input.checksum_mode.as_ref(), &extent);
        let id = reported_id(&bucket, &version);
        let output = described!(HeadObjectOutput, version, object, extent, sums, id);
        Ok(S3Response::with_headers(output, tag_count_header(object)))
    }
}

fn extent(object: &Object, range: Option<&RangeHeader>, part_number: Option<i32>) -> S3Result<Extent> {
    let length = object.body.length();
    match (range, part_number) {
        (Some(_), Some(_)) => Err(invalid_request("Cannot specify both Range header and partNumber query parameter")),
        (None, None) => {
            Ok(Extent { range: 0..length, content_range: None, checksum: object.checksum.clone(), parts_count: None })
        }
        (Some(range), None) => {
            // A suffix of nothing is not satisfiable either, which the check of s3s lets pass.
            let range = range
                .check(length)
                .ok()
                .filter(|range| range.start < range.end)
                .ok_or_else(|| refuse(S3ErrorCode::InvalidRange, "The requested range is not satisfiable"))?;
            let content_range = content_range(&range, length);
            Ok(Extent { range, content_range, checksum: None, parts_count: None })
        }
        (None, Some(number)) => part_extent(object, number),
    }
}

/// The extent of a part. An object that was not made of parts is its own part 1.
fn part_extent(object: &Object, number: i32) -> S3Result<Extent> {
    let length = object.body.length();
    if object.parts.is_empty() && number == 1 {
        let content_range = content_range(&(0..length), length);
        return Ok(Extent { range: 0..length, content_range, checksum: object.checksum.clone(), parts_count: None });
    }
    let mut start = 0;
    for part in &object.parts {
        let range = start..start + part.size;
        if i32::from(part.number) == number {
            let content_range = content_range(&range, length);
            let parts_count = i32::try_from(object.parts.len()).ok();
            return Ok(Extent { range, content_range, checksum: part.checksum.clone(), parts_count });
        }
        start = range.end;
    }
    let mut error = custom("InvalidPartNumber", "The requested partnumber is not satisfiable");
    error.set_status_code(http::StatusCode::RANGE_NOT_SATISFIABLE);
    Err(error)
}

fn content_range(range: &Range<u64>, length: u64) -> Option<String> {
    (range.start < range.end).then(|| format!("bytes {}-{}/{length}", range.start, range.end - 1))
}

fn wants_checksum(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case(ChecksumMode::ENABLED))
}

fn checksum_fields(mode: Option<&ChecksumMode>, extent: &Extent) -> ChecksumFields {
    split_checksum(extent.checksum.as_ref().filter(|_| wants_checksum(mode)))
}

fn expires(object: &Object) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, object.headers.expires.as_deref()?).ok()
}

/// s3s has no field for it in HEAD.
fn tag_count_header(object: &Object) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if !object.tags.is_empty() {
        headers.insert("x-amz-tagging-count", object.tags.len().into());
    }
    headers
}
