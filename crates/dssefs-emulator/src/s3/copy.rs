//! CopyObject, and what UploadPartCopy shares with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use s3s::dto::{CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource};
use s3s::{S3Request, S3Response, S3Result};

use super::Endpoint;
use super::body::{copy, digest};
use super::checksum::Algorithm;
use super::condition::{WriteCondition, check_copy_source};
use super::description::{headers_of, is_archived, refuse_unsupported, tags_of};
use super::encryption::{Wanted, decrypt, names_encryption};
use super::errors::{invalid_argument, invalid_request, not_implemented, refuse};
use super::format::{etag, now, opaque_etag, timestamp};
use super::put::etag_of;
use super::versions::{find, object_of, reported_id, split_checksum};
use crate::storage::{Annotation, Bucket, Checksum, Encryption, Headers, Object, Settings, Version};

/// The largest source of one CopyObject or UploadPartCopy (S3 API Reference): 5 GiB.
pub(super) const COPY_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// The source of a copy.
pub(super) struct Source {
    pub(super) bucket: Arc<Bucket>,
    pub(super) key: String,
    pub(super) version: Arc<Version>,
    /// Whether the request names a version.
    by_version: bool,
}

impl Source {
    /// The id as answers report it.
    pub(super) fn reported_id(&self) -> Option<String> {
        reported_id(&self.bucket, &self.version)
    }
}

/// What the target of a copy takes from the request and what from the source.
struct Carried {
    headers: Headers,
    tags: Vec<(String, String)>,
    annotations: BTreeMap<String, Annotation>,
}

impl Endpoint {
    pub(super) async fn copy(&self, request: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = &request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        refuse_unsupported(&request.headers)?;
        let source =
            self.source(&input.copy_source, input.expected_source_bucket_owner.as_deref(), &request.headers)?;
        let wanted = Wanted::from_request(&request.headers, &bucket.settings())?;
        let condition = WriteCondition::from_request(&request.headers)?;
        let original = object_of(&source.version)?;
        if original.body.length() > COPY_BYTES_MAX {
            return Err(source_too_large());
        }
        refuse_idle_copy(&request, &bucket.settings(), &source)?;
        let carried = carried(&request, original)?;
        let algorithm = copied_algorithm(input, original)?;
        decrypt(self.keys.as_ref(), &original.encryption)?;
        let encryption = wanted.generate(self.keys.as_ref(), bucket.name(), &input.key)?;
        let object = copied(&bucket, &source, carried, encryption, algorithm).await?;
        let version = bucket.put(&input.key, now(), object, |newest| condition.check(newest))?;
        Ok(S3Response::new(answer(&bucket, &source, &version)?))
    }

    /// Finds the source of a copy and judges its conditions.
    pub(super) fn source(
        &self,
        source: &CopySource,
        expected_owner: Option<&str>,
        headers: &HeaderMap,
    ) -> S3Result<Source> {
        let CopySource::Bucket { bucket, key, version_id } = source else {
            return Err(not_implemented("access points as sources of copies"));
        };
        let bucket = self.bucket(bucket, expected_owner)?;
        let version = find(&bucket, key, version_id.as_deref()).map_err(|error| match error.code() {
            s3s::S3ErrorCode::MethodNotAllowed => invalid_request(
                "The source of a copy request may not specifically refer to a delete marker by version id.",
            ),
            _ => error,
        })?;
        let object = object_of(&version)?;
        check_copy_source(headers, &version, object)?;
        if is_archived(&object.headers) {
            let sentence = "Operation is not valid for the source object's storage class";
            return Err(refuse(s3s::S3ErrorCode::InvalidObjectState, sentence));
        }
        Ok(Source { bucket, key: key.to_string(), version, by_version: version_id.is_some() })
    }
}

/// 400 for a source that only UploadPartCopy can copy.
pub(super) fn source_too_large() -> s3s::S3Error {
    invalid_request(format!(
        "The specified copy source is larger than the maximum allowable size for a copy source: {COPY_BYTES_MAX}"
    ))
}

/// A copy of an object onto itself must change something. An encryption that differs by the bucket's own configuration
/// is such a change, and so is the fall from KMS to the default.
fn refuse_idle_copy(request: &S3Request<CopyObjectInput>, settings: &Settings, source: &Source) -> S3Result<()> {
    let input = &request.input;
    let onto_itself = source.bucket.name() == input.bucket && source.key == input.key && !source.by_version;
    let changes = names_encryption(&request.headers)
        || replaces(input.metadata_directive.as_ref().map(|directive| directive.as_str()))?
        || input.storage_class.is_some()
        || input.website_redirect_location.is_some()
        || settings.default_algorithm.is_some()
        || object_of(&source.version)?.encryption.uses_kms();
    if onto_itself && !changes {
        return Err(invalid_request(
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    Ok(())
}

/// Metadata and tags come from the source unless their directive says REPLACE. Storage class and redirect never do.
fn carried(request: &S3Request<CopyObjectInput>, original: &Object) -> S3Result<Carried> {
    let input = &request.input;
    let asked = headers_of(&request.headers, input.metadata.clone())?;
    let headers = if replaces(input.metadata_directive.as_ref().map(|directive| directive.as_str()))? {
        asked
    } else {
        Headers {
            storage_class: asked.storage_class,
            website_redirect_location: asked.website_redirect_location,
            ..original.headers.clone()
        }
    };
    let tags = if replaces(input.tagging_directive.as_ref().map(|directive| directive.as_str()))? {
        tags_of(&request.headers)?
    } else {
        original.tags.clone()
    };
    let annotations =
        if excludes_annotations(&request.headers)? { BTreeMap::new() } else { original.annotations.clone() };
    Ok(Carried { headers, tags, annotations })
}

/// Annotations are copied unless the request says otherwise (CopyObject, S3 API Reference,
/// "x-amz-object-annotation-directive").
fn excludes_annotations(headers: &HeaderMap) -> S3Result<bool> {
    match headers.get("x-amz-object-annotation-directive").map(HeaderValue::as_bytes) {
        None | Some(b"COPY") => Ok(false),
        Some(b"EXCLUDE") => Ok(true),
        Some(_) => Err(invalid_argument("Unknown annotation directive.")),
    }
}

fn replaces(directive: Option<&str>) -> S3Result<bool> {
    match directive {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(invalid_argument("Unknown metadata directive.")),
    }
}

/// The algorithm asked for, else that of the source, else CRC64NVME (CopyObject, S3 API Reference).
fn copied_algorithm(input: &CopyObjectInput, original: &Object) -> S3Result<Algorithm> {
    let asked = input.checksum_algorithm.as_ref().map(|algorithm| algorithm.as_str());
    let kept = original.checksum.as_ref().map(|checksum| checksum.algorithm.as_str());
    asked.or(kept).map_or(Ok(Algorithm::DEFAULT), Algorithm::named)
}

async fn copied(
    bucket: &Arc<Bucket>,
    source: &Source,
    carried: Carried,
    encryption: Encryption,
    algorithm: Algorithm,
) -> S3Result<Object> {
    let original = object_of(&source.version)?;
    let length = original.body.length();
    let body = Arc::new(copy(bucket, &source.bucket, &original.body, 0..length).await?);
    let Carried { headers, tags, annotations } = carried;
    let (etag, checksum) = match known_digests(original, &encryption, algorithm)? {
        Some(known) => known,
        None => {
            let reader = bucket.reader(&body, 0..length);
            let digests = digest(reader, algorithm, !encryption.uses_kms()).await?;
            (etag_of(&digests, &encryption)?, digests.checksum())
        }
    };
    let checksum = Some(checksum);
    Ok(Object { etag, body, parts: Vec::new(), upload_id: None, headers, tags, annotations, encryption, checksum })
}

/// ETag and checksum of a copy of the whole where they need no look at the bytes.
pub(super) fn known_digests(
    original: &Object,
    encryption: &Encryption,
    algorithm: Algorithm,
) -> S3Result<Option<(String, Checksum)>> {
    let Some(checksum) = original.checksum.clone() else { return Ok(None) };
    if checksum.composite || checksum.algorithm != algorithm.name() {
        return Ok(None);
    }
    if encryption.uses_kms() {
        return Ok(Some((opaque_etag()?, checksum)));
    }
    let etag_is_md5 = original.parts.is_empty() && !original.encryption.uses_kms();
    Ok(etag_is_md5.then(|| (original.etag.clone(), checksum)))
}

fn answer(bucket: &Bucket, source: &Source, version: &Version) -> S3Result<CopyObjectOutput> {
    let object = object_of(version)?;
    let sums = split_checksum(object.checksum.as_ref());
    let result = CopyObjectResult {
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        checksum_type: sums.kind,
        e_tag: etag(&object.etag),
        last_modified: Some(timestamp(version.modified)),
    };
    Ok(CopyObjectOutput {
        bucket_key_enabled: object.encryption.bucket_key_field(),
        copy_object_result: Some(result),
        copy_source_version_id: source.reported_id(),
        server_side_encryption: object.encryption.sse(),
        ssekms_encryption_context: object.encryption.context_header.clone(),
        ssekms_key_id: object.encryption.key_arn.clone(),
        version_id: reported_id(bucket, version),
        ..CopyObjectOutput::default()
    })
}
