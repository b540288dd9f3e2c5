//! UploadPart, UploadPartCopy and ListParts.

use std::ops::Range;
use std::sync::Arc;

use s3s::dto::{
    ChecksumAlgorithm, CopyPartResult, ListPartsInput, ListPartsOutput, Part as ListedPart, StorageClass,
    StreamingBlob, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Response, S3Result};

use super::Endpoint;
use super::body::{copy, digest, drain, receive};
use super::checksum::{Algorithm, Digests, Promise};
use super::copy::{COPY_BYTES_MAX, Source, known_digests, source_too_large};
use super::description::refuse_unsupported;
use super::encryption::decrypt;
use super::errors::{invalid_argument, invalid_request};
use super::format::{etag, now, size, timestamp};
use super::put::{announced_length, check_promise, etag_of};
use super::versions::{checksum_type, object_of, split_checksum};
use crate::storage::{Body, Bucket, Part, Upload, UploadRecord};

/// Part numbers (S3 User Guide, "Multipart upload limits").
const PART_NUMBERS: std::ops::RangeInclusive<i32> = 1..=10_000;
/// The longest page of ListParts.
const PAGE_PARTS_MAX: i32 = 1_000;

/// What is known of a part before its first byte arrives.
struct Plan {
    bucket: Arc<Bucket>,
    upload: Upload,
    number: u16,
    promise: Promise,
    algorithm: Algorithm,
    length_bytes: u64,
}

impl Endpoint {
    pub(super) async fn put_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        // 1. Judge the headers. A refused body is read to its end, as S3 does.
        let mut body = request.input.body.take().unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
        let plan = match self.plan_part(&request) {
            Ok(plan) => plan,
            Err(refusal) => {
                drain(&mut body).await;
                return Err(refusal);
            }
        };
        // 2. Store the body, hashed on its way.
        let encryption = &plan.upload.record.encryption;
        let with_md5 = plan.promise.needs_md5() || !encryption.uses_kms();
        let received = receive(&plan.bucket, &mut body, plan.length_bytes, plan.algorithm, with_md5).await;
        let (stored, digests) = received?;
        // 3. Compare it with what the client promised. An error removes the body.
        check_promise(&plan.promise, &digests, request.trailing_headers)?;
        let part = part_of(stored, &digests, &plan.upload.record)?;
        // 4. Make it the part of its number, if the upload is still there.
        let part = plan.bucket.put_part(&request.input.upload_id, plan.number, part)?;
        let sums = split_checksum(part.checksum.as_ref().filter(|_| plan.promise.algorithm.is_some()));
        Ok(S3Response::new(UploadPartOutput {
            bucket_key_enabled: encryption.bucket_key_field(),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            e_tag: etag(&part.etag),
            server_side_encryption: encryption.sse(),
            ssekms_key_id: encryption.key_arn.clone(),
            ..UploadPartOutput::default()
        }))
    }

    fn plan_part(&self, request: &S3Request<UploadPartInput>) -> S3Result<Plan> {
        let input = &request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        refuse_unsupported(&request.headers)?;
        let number = part_number(input.part_number)?;
        let upload = bucket.upload(&input.key, &input.upload_id)?;
        let promise = Promise::from_request(&request.headers)?;
        let algorithm = part_algorithm(&upload.record, promise.algorithm)?;
        let length_bytes = announced_length(&request.headers)?;
        decrypt(self.keys.as_ref(), &upload.record.encryption)?;
        Ok(Plan { bucket, upload, number, promise, algorithm, length_bytes })
    }

    pub(super) async fn copy_part(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = &request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        refuse_unsupported(&request.headers)?;
        let number = part_number(input.part_number)?;
        let upload = bucket.upload(&input.key, &input.upload_id)?;
        let owner = input.expected_source_bucket_owner.as_deref();
        let source = self.source(&input.copy_source, owner, &request.headers)?;
        let original = object_of(&source.version)?;
        let range = source_range(input.copy_source_range.as_deref(), original.body.length())?;
        let encryption = &upload.record.encryption;
        decrypt(self.keys.as_ref(), &original.encryption)?;
        decrypt(self.keys.as_ref(), encryption)?;
        let part = copied_part(&bucket, &source, range, &upload.record).await?;
        let part = bucket.put_part(&input.upload_id, number, part)?;
        Ok(S3Response::new(UploadPartCopyOutput {
            bucket_key_enabled: encryption.bucket_key_field(),
            copy_part_result: Some(copy_result(&part, &upload.record)),
            copy_source_version_id: source.reported_id(),
            server_side_encryption: encryption.sse(),
            ssekms_key_id: encryption.key_arn.clone(),
            ..UploadPartCopyOutput::default()
        }))
    }

    pub(super) async fn list_parts_of(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let upload = bucket.upload(&input.key, &input.upload_id)?;
        let record = &upload.record;
        decrypt(self.keys.as_ref(), &record.encryption)?;
        let max_parts = input.max_parts.unwrap_or(PAGE_PARTS_MAX).clamp(0, PAGE_PARTS_MAX);
        let marker = input.part_number_marker.unwrap_or(0);
        let mut rest = upload.parts.iter().filter(|(number, _)| i32::from(**number) > marker).peekable();
        let mut parts = Vec::new();
        while parts.len() < max_parts.unsigned_abs() as usize
            && let Some((number, part)) = rest.next()
        {
            parts.push(listed(*number, part, record));
        }
        let next = parts.last().and_then(|part: &ListedPart| part.part_number);
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            checksum_algorithm: record.algorithm.clone().map(ChecksumAlgorithm::from),
            checksum_type: record.algorithm.as_ref().map(|_| checksum_type(record.composite)),
            initiator: Some(self.initiator()),
            is_truncated: Some(rest.peek().is_some() && max_parts > 0),
            key: Some(input.key),
            max_parts: Some(max_parts),
            next_part_number_marker: Some(next.unwrap_or(0)),
            owner: Some(self.owner()),
            part_number_marker: Some(marker),
            parts: Some(parts),
            storage_class: Some(storage_class(record)),
            upload_id: Some(input.upload_id),
            ..ListPartsOutput::default()
        }))
    }
}

/// The class that listings of uploads name, STANDARD included.
pub(super) fn storage_class(record: &UploadRecord) -> StorageClass {
    StorageClass::from(record.headers.storage_class.clone().unwrap_or_else(|| StorageClass::STANDARD.to_owned()))
}

fn part_number(number: i32) -> S3Result<u16> {
    let valid = u16::try_from(number).ok().filter(|_| PART_NUMBERS.contains(&number));
    valid.ok_or_else(|| invalid_argument("Part number must be an integer between 1 and 10000, inclusive"))
}

/// A part's checksum must be of the upload's algorithm. Where S3 computes the object's checksum from CRCs of parts, it
/// can compute those itself; a composite one is the client's, part by part.
fn part_algorithm(record: &UploadRecord, given: Option<Algorithm>) -> S3Result<Algorithm> {
    let Some(expected) = record.algorithm.as_deref() else { return Ok(given.unwrap_or(Algorithm::DEFAULT)) };
    let expected = Algorithm::named(expected)?;
    let tolerated = given.is_none() && !record.composite;
    if given == Some(expected) || tolerated {
        return Ok(expected);
    }
    let actual = given.map_or("null".to_owned(), |given| given.name().to_lowercase());
    Err(invalid_request(format!(
        "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {actual}",
        expected.name().to_lowercase()
    )))
}

fn part_of(body: Body, digests: &Digests, record: &UploadRecord) -> S3Result<Part> {
    let etag = etag_of(digests, &record.encryption)?;
    Ok(Part { etag, modified: now(), body: Arc::new(body), checksum: Some(digests.checksum()) })
}

/// `bytes=first-last`, both within the source, or the whole of it.
fn source_range(header: Option<&str>, length: u64) -> S3Result<Range<u64>> {
    let range = match header {
        None => 0..length,
        Some(header) => parse_range(header).ok_or_else(|| {
            invalid_argument(
                "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last \
                 are the zero-based offsets of the first and last bytes to copy",
            )
        })?,
    };
    if range.end > length {
        return Err(invalid_argument(format!("Range specified is not valid for source object of size: {length}")));
    }
    if range.end - range.start > COPY_BYTES_MAX { Err(source_too_large()) } else { Ok(range) }
}

fn parse_range(header: &str) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..last.checked_add(1)?)
}

async fn copied_part(
    bucket: &Arc<Bucket>,
    source: &Source,
    range: Range<u64>,
    record: &UploadRecord,
) -> S3Result<Part> {
    let original = object_of(&source.version)?;
    let whole = range == (0..original.body.length());
    let body = copy(bucket, &source.bucket, &original.body, range).await?;
    let algorithm = record.algorithm.as_deref().map_or(Ok(Algorithm::DEFAULT), Algorithm::named)?;
    let known = if whole { known_digests(original, &record.encryption, algorithm)? } else { None };
    if let Some((etag, checksum)) = known {
        return Ok(Part { etag, modified: now(), body: Arc::new(body), checksum: Some(checksum) });
    }
    let reader = bucket.reader(&body, 0..body.length());
    let digests = digest(reader, algorithm, !record.encryption.uses_kms()).await?;
    part_of(body, &digests, record)
}

fn copy_result(part: &Part, record: &UploadRecord) -> CopyPartResult {
    let sums = split_checksum(part.checksum.as_ref().filter(|_| record.algorithm.is_some()));
    CopyPartResult {
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        e_tag: etag(&part.etag),
        last_modified: Some(timestamp(part.modified)),
    }
}

fn listed(number: u16, part: &Part, record: &UploadRecord) -> ListedPart {
    let sums = split_checksum(part.checksum.as_ref().filter(|_| record.algorithm.is_some()));
    ListedPart {
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        e_tag: etag(&part.etag),
        last_modified: Some(timestamp(part.modified)),
        part_number: Some(i32::from(number)),
        size: Some(size(part.body.length())),
    }
}
