//! GetObjectAttributes. As in S3, its answer has no encryption headers.

use s3s::dto::{
    Checksum as ChecksumAttribute, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts,
    ObjectPart, StorageClass,
};
use s3s::{S3Request, S3Response, S3Result};

use super::Endpoint;
use super::encryption::decrypt;
use super::errors::invalid_argument;
use super::format::{etag, size, timestamp};
use super::versions::{find, object_of, reported_id, split_checksum};
use crate::storage::{Checksum, Object, PartSummary};

const KNOWN: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
/// The longest page of parts.
const PAGE_PARTS_MAX: i32 = 1_000;

impl Endpoint {
    pub(super) async fn attributes(
        &self,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let version = find(&bucket, &input.key, input.version_id.as_deref())?;
        let object = object_of(&version)?;
        let asked: Vec<&str> =
            input.object_attributes.iter().flat_map(|list| list.as_str().split(',')).map(str::trim).collect();
        if asked.iter().any(|name| !KNOWN.contains(name)) {
            return Err(invalid_argument("Invalid attribute name specified."));
        }
        let wants = |name: &str| asked.contains(&name);
        // Checksums are stored encrypted.
        if wants("Checksum") {
            decrypt(self.keys.as_ref(), &object.encryption)?;
        }
        let class = object.headers.storage_class.clone().unwrap_or_else(|| StorageClass::STANDARD.to_owned());
        Ok(S3Response::new(GetObjectAttributesOutput {
            checksum: object.checksum.as_ref().filter(|_| wants("Checksum")).map(checksum_attribute),
            e_tag: etag(&object.etag).filter(|_| wants("ETag")),
            last_modified: Some(timestamp(version.modified)),
            object_parts: parts(object, input.part_number_marker, input.max_parts).filter(|_| wants("ObjectParts")),
            object_size: wants("ObjectSize").then(|| size(object.body.length())),
            storage_class: wants("StorageClass").then(|| StorageClass::from(class)),
            version_id: reported_id(&bucket, &version),
            ..GetObjectAttributesOutput::default()
        }))
    }
}

/// The number of parts in an object's checksum is in another field of this operation.
fn checksum_attribute(checksum: &Checksum) -> ChecksumAttribute {
    let bare = checksum.value.split_once('-').map_or(checksum.value.as_str(), |(bare, _)| bare);
    let sums = split_checksum(Some(&Checksum { value: bare.to_owned(), ..checksum.clone() }));
    ChecksumAttribute {
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        checksum_type: sums.kind,
    }
}

fn parts(object: &Object, marker: Option<i32>, parts_max: Option<i32>) -> Option<GetObjectAttributesParts> {
    if object.parts.is_empty() {
        return None;
    }
    let marker = marker.unwrap_or(0);
    let parts_max = parts_max.unwrap_or(PAGE_PARTS_MAX).clamp(1, PAGE_PARTS_MAX);
    let behind: Vec<&PartSummary> = object.parts.iter().filter(|part| i32::from(part.number) > marker).collect();
    let page = &behind[..behind.len().min(parts_max.unsigned_abs() as usize)];
    Some(GetObjectAttributesParts {
        is_truncated: Some(page.len() < behind.len()),
        max_parts: Some(parts_max),
        next_part_number_marker: page.last().map(|part| i32::from(part.number)),
        part_number_marker: Some(marker),
        parts: Some(page.iter().map(|part| listed(part)).collect()),
        total_parts_count: i32::try_from(object.parts.len()).ok(),
    })
}

fn listed(part: &PartSummary) -> ObjectPart {
    let sums = split_checksum(part.checksum.as_ref());
    ObjectPart {
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        part_number: Some(i32::from(part.number)),
        size: Some(size(part.size)),
    }
}
