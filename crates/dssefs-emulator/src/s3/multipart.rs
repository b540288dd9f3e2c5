//! CreateMultipartUpload, CompleteMultipartUpload, AbortMultipartUpload and ListMultipartUploads.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput, CreateMultipartUploadOutput,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};

use super::Endpoint;
use super::checksum::{Algorithm, bad_digest, md5_of_md5s, of_parts};
use super::condition::WriteCondition;
use super::description::{headers_of, refuse_unsupported, tags_of};
use super::encryption::{Wanted, decrypt};
use super::errors::{invalid_request, refuse};
use super::format::{etag, now, opaque_etag};
use super::versions::{checksum_type, object_of, reported_id, split_checksum};
use crate::storage::{Body, Checksum, Object, Part, PartSummary, Upload, UploadRecord};

/// Every part but the last has at least 5 MiB (S3 User Guide, "Multipart upload limits").
const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;

type Chosen = Vec<(u16, Arc<Part>)>;

impl Endpoint {
    pub(super) async fn create_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        refuse_unsupported(&request.headers)?;
        let wanted = Wanted::from_request(&request.headers, &bucket.settings())?;
        let named = input.checksum_algorithm.as_ref().map(|name| Algorithm::named(name.as_str())).transpose()?;
        let composite = is_composite(named, input.checksum_type.as_ref().map(|kind| kind.as_str()))?;
        let tags = tags_of(&request.headers)?;
        let headers = headers_of(&request.headers, input.metadata)?;
        let encryption = wanted.generate(self.keys.as_ref(), bucket.name(), &input.key)?;
        let mut output = CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            bucket_key_enabled: encryption.bucket_key_field(),
            checksum_algorithm: named.map(|algorithm| ChecksumAlgorithm::from_static(algorithm.name())),
            checksum_type: named.map(|_| checksum_type(composite)),
            key: Some(input.key.clone()),
            server_side_encryption: encryption.sse(),
            ssekms_encryption_context: encryption.context_header.clone(),
            ssekms_key_id: encryption.key_arn.clone(),
            ..CreateMultipartUploadOutput::default()
        };
        let algorithm = named.map(|algorithm| algorithm.name().to_owned());
        let record = UploadRecord { key: input.key, initiated: now(), headers, tags, encryption, algorithm, composite };
        output.upload_id = Some(bucket.start_upload(record)?);
        Ok(S3Response::new(output))
    }

    pub(super) async fn complete_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        // 1. Find the upload, and the parts that the client lists.
        let (input, headers) = (request.input, request.headers);
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let condition = WriteCondition::from_request(&headers)?;
        let upload = bucket.upload(&input.key, &input.upload_id)?;
        let listed = input.multipart_upload.as_ref().and_then(|upload| upload.parts.clone()).unwrap_or_default();
        // 2. Judge the list before KMS is asked, so that a bad list costs no KMS call.
        chosen_parts(&upload, &listed)?;
        decrypt(self.keys.as_ref(), &upload.record.encryption)?;
        // 3. Judge list and condition once more under the lock, where no part can be replaced, and make the version.
        let version = bucket.complete(
            &input.key,
            &input.upload_id,
            now(),
            |newest| condition.check(newest),
            |upload| assemble(upload, &listed, &input, &headers),
        )?;
        let object = object_of(&version)?;
        // 4. Answer. S3 reports no checksum here when KMS is in use, though HEAD does.
        let sums = split_checksum(object.checksum.as_ref().filter(|_| !object.encryption.uses_kms()));
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket_key_enabled: object.encryption.bucket_key_field(),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
            e_tag: etag(&object.etag),
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            server_side_encryption: object.encryption.sse(),
            ssekms_key_id: object.encryption.key_arn.clone(),
            version_id: reported_id(&bucket, &version),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    pub(super) async fn abort_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        bucket.abort(&input.key, &input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

/// Whether the object's checksum shall be made of those of its parts: the default of the SHAs and of the 32-bit CRCs.
fn is_composite(algorithm: Option<Algorithm>, kind: Option<&str>) -> S3Result<bool> {
    let mismatch = |kind: &str, algorithm: Algorithm| {
        let name = algorithm.name().to_lowercase();
        invalid_request(format!("The {kind} checksum type cannot be used with the {name} checksum algorithm."))
    };
    match (algorithm, kind) {
        (None, Some(_)) => Err(invalid_request(
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
        )),
        (None, None) => Ok(false),
        (Some(Algorithm::Crc64Nvme), Some("COMPOSITE")) => Err(mismatch("COMPOSITE", Algorithm::Crc64Nvme)),
        (Some(algorithm), Some("FULL_OBJECT")) if !algorithm.is_crc() => Err(mismatch("FULL_OBJECT", algorithm)),
        (Some(_), Some("FULL_OBJECT")) => Ok(false),
        (Some(_), Some("COMPOSITE")) => Ok(true),
        (Some(algorithm), None) => Ok(algorithm != Algorithm::Crc64Nvme),
        (Some(_), Some(_)) => Err(invalid_request("Value for x-amz-checksum-type header is invalid.")),
    }
}

/// The parts that the request lists, if it lists them rightly.
fn chosen_parts(upload: &Upload, listed: &[CompletedPart]) -> S3Result<Chosen> {
    if listed.is_empty() {
        let sentence = "The XML you provided was not well-formed or did not validate against our published schema";
        return Err(refuse(S3ErrorCode::MalformedXML, sentence));
    }
    let ascending = listed.windows(2).all(|pair| pair[0].part_number < pair[1].part_number);
    if !ascending {
        return Err(refuse(
            S3ErrorCode::InvalidPartOrder,
            "The list of parts was not in ascending order. Parts must be ordered by part number.",
        ));
    }
    let chosen: Chosen = listed.iter().map(|part| chosen_part(upload, part)).collect::<S3Result<_>>()?;
    let all_but_last = &chosen[..chosen.len() - 1];
    if all_but_last.iter().any(|(_, part)| part.body.length() < PART_BYTES_MIN) {
        let sentence = "Your proposed upload is smaller than the minimum allowed size";
        return Err(refuse(S3ErrorCode::EntityTooSmall, sentence));
    }
    Ok(chosen)
}

fn chosen_part(upload: &Upload, listed: &CompletedPart) -> S3Result<(u16, Arc<Part>)> {
    let invalid = || {
        let sentence = "One or more of the specified parts could not be found.  The part may not have been \
        uploaded, or the specified entity tag may not match the part's entity tag.";
        refuse(S3ErrorCode::InvalidPart, sentence)
    };
    let number = listed.part_number.and_then(|number| u16::try_from(number).ok()).ok_or_else(invalid)?;
    let part = upload.parts.get(&number).ok_or_else(invalid)?;
    if listed.e_tag.as_ref().is_none_or(|etag| etag.value() != part.etag) {
        return Err(invalid());
    }
    match (claimed(listed), &part.checksum) {
        (Some((name, value)), Some(known)) if known.algorithm == name && known.value != value => Err(invalid()),
        (None, _) if upload.record.composite => {
            let name = upload.record.algorithm.as_deref().unwrap_or_default().to_lowercase();
            Err(invalid_request(format!(
                "The upload was created using a {name} checksum. The complete request must include the checksum \
                 for each part. It was missing for part {number} in the request."
            )))
        }
        _ => Ok((number, Arc::clone(part))),
    }
}

/// The checksum that the request says a part has.
fn claimed(part: &CompletedPart) -> Option<(&'static str, &str)> {
    let named = [
        ("CRC32", &part.checksum_crc32),
        ("CRC32C", &part.checksum_crc32c),
        ("CRC64NVME", &part.checksum_crc64nvme),
        ("SHA1", &part.checksum_sha1),
        ("SHA256", &part.checksum_sha256),
    ];
    named.into_iter().find_map(|(name, value)| Some((name, value.as_deref()?)))
}

/// The object that an upload becomes.
fn assemble(
    upload: &Upload,
    listed: &[CompletedPart],
    input: &CompleteMultipartUploadInput,
    headers: &HeaderMap,
) -> S3Result<Object> {
    let chosen = chosen_parts(upload, listed)?;
    let body = Body::of_parts(chosen.iter().map(|(_, part)| part.as_ref()));
    check_size(input.mpu_object_size, body.length())?;
    let record = &upload.record;
    let checksum = checksum_of(record, &chosen)?;
    check_claim(headers, record, checksum.as_ref(), input.checksum_type.as_ref().map(|kind| kind.as_str()))?;
    let digits = if record.encryption.uses_kms() {
        opaque_etag()?
    } else {
        md5_of_md5s(chosen.iter().map(|(_, part)| part.etag.as_str()))
    };
    Ok(Object {
        etag: format!("{digits}-{}", chosen.len()),
        body: Arc::new(body),
        parts: chosen.iter().map(|(number, part)| summary(*number, part)).collect(),
        upload_id: Some(input.upload_id.clone()),
        headers: record.headers.clone(),
        tags: record.tags.clone(),
        annotations: BTreeMap::new(),
        encryption: record.encryption.clone(),
        checksum,
    })
}

fn summary(number: u16, part: &Part) -> PartSummary {
    PartSummary { number, size: part.body.length(), checksum: part.checksum.clone() }
}

fn checksum_of(record: &UploadRecord, chosen: &Chosen) -> S3Result<Option<Checksum>> {
    // Without an algorithm of the upload's own, that of its parts counts: S3's default, or what the client sent with
    // them.
    let of_first_part = chosen.first().and_then(|(_, part)| part.checksum.as_ref()).map(|sum| sum.algorithm.as_str());
    let algorithm = record.algorithm.as_deref().or(of_first_part).map_or(Ok(Algorithm::DEFAULT), Algorithm::named)?;
    let parts: Vec<_> = chosen.iter().map(|(_, part)| (part.checksum.as_ref(), part.body.length())).collect();
    Ok(of_parts(algorithm, record.composite, &parts))
}

/// A size that is not the object's is 400 InvalidRequest (CompleteMultipartUpload, `x-amz-mp-object-size`).
fn check_size(promised: Option<i64>, length: u64) -> S3Result<()> {
    match promised {
        Some(size) if u64::try_from(size) != Ok(length) => Err(invalid_request(format!(
            "The provided 'x-amz-mp-object-size' header value {size} does not match what was computed: {length}"
        ))),
        _ => Ok(()),
    }
}

/// Judges the checksum of the whole object that the request claims.
fn check_claim(
    headers: &HeaderMap,
    record: &UploadRecord,
    computed: Option<&Checksum>,
    kind: Option<&str>,
) -> S3Result<()> {
    let own = checksum_type(record.composite);
    if kind.is_some_and(|kind| kind != own.as_str()) {
        let name = record.algorithm.as_deref().unwrap_or("CRC64NVME").to_lowercase();
        return Err(invalid_request(format!(
            "The upload was created using the {} checksum mode with the {name} checksum. The complete request \
             must use the same checksum mode.",
            own.as_str()
        )));
    }
    let Some(computed) = computed else { return Ok(()) };
    let algorithm = Algorithm::named(&computed.algorithm)?;
    let Some(claim) = headers.get(algorithm.header()).and_then(|value| value.to_str().ok()) else { return Ok(()) };
    // A composite value may be claimed with or without its number of parts.
    let bare = computed.value.split_once('-').map_or(computed.value.as_str(), |(bare, _)| bare);
    if claim == computed.value || (computed.composite && claim == bare) { Ok(()) } else { Err(bad_digest(algorithm)) }
}
