//! PutObject.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use s3s::dto::{ChecksumType, PutObjectInput, PutObjectOutput, StreamingBlob};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result, TrailingHeaders};

use super::Endpoint;
use super::body::{drain, receive};
use super::checksum::{Algorithm, Digests, Promise};
use super::condition::WriteCondition;
use super::description::{headers_of, refuse_unsupported, tags_of};
use super::encryption::Wanted;
use super::errors::{invalid_argument, refuse};
use super::format::{etag, now, opaque_etag};
use super::versions::{reported_id, split_checksum};
use crate::storage::{Body, Bucket, Encryption, Headers, Object};

/// The largest body of one PutObject or UploadPart (S3 User Guide, "Uploading objects"): 5 GiB.
pub(super) const PUT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// What is known of a write before its first byte arrives.
struct Plan {
    condition: WriteCondition,
    promise: Promise,
    headers: Headers,
    tags: Vec<(String, String)>,
    length_bytes: u64,
    encryption: Encryption,
}

impl Endpoint {
    pub(super) async fn put(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = &mut request.input;
        let mut body = input.body.take().unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
        let owner = input.expected_bucket_owner.take();
        let planned = self.bucket(&input.bucket, owner.as_deref()).and_then(|bucket| {
            let plan = self.plan_put(&bucket, &request.input, &request.headers)?;
            Ok((bucket, plan))
        });
        let (bucket, plan) = match planned {
            Ok(planned) => planned,
            Err(refusal) => {
                drain(&mut body).await;
                return Err(refusal);
            }
        };
        let (key, trailer) = (request.input.key, request.trailing_headers);
        self.store_put(&bucket, &key, plan, &mut body, trailer).await.map(S3Response::new)
    }

    fn plan_put(&self, bucket: &Bucket, input: &PutObjectInput, headers: &HeaderMap) -> S3Result<Plan> {
        refuse_unsupported(headers)?;
        let wanted = Wanted::from_request(headers, &bucket.settings())?;
        let condition = WriteCondition::from_request(headers)?;
        let promise = Promise::from_request(headers)?;
        let length_bytes = announced_length(headers)?;
        let tags = tags_of(headers)?;
        let headers = headers_of(headers, input.metadata.clone())?;
        // KMS comes last, so that a request refused for anything else costs no call.
        let encryption = wanted.generate(self.keys.as_ref(), bucket.name(), &input.key)?;
        Ok(Plan { condition, promise, headers, tags, length_bytes, encryption })
    }

    async fn store_put(
        &self,
        bucket: &Arc<Bucket>,
        key: &str,
        plan: Plan,
        body: &mut StreamingBlob,
        trailer: Option<TrailingHeaders>,
    ) -> S3Result<PutObjectOutput> {
        let Plan { condition, promise, headers, tags, length_bytes, encryption } = plan;
        // 1. Store the body, hashed on its way.
        let algorithm = promise.algorithm.unwrap_or(Algorithm::DEFAULT);
        let with_md5 = promise.needs_md5() || !encryption.uses_kms();
        let (stored, digests) = receive(bucket, body, length_bytes, algorithm, with_md5).await?;
        // 2. Compare it with what the client promised. An error removes the body.
        check_promise(&promise, &digests, trailer)?;
        let object = object_of(stored, &digests, headers, tags, encryption)?;
        // 3. Check the condition and make the version, under one lock.
        let version = bucket.put(key, now(), object, |newest| condition.check(newest))?;
        let object = version.object().ok_or(S3ErrorCode::InternalError)?;
        let sums = split_checksum(object.checksum.as_ref());
        Ok(PutObjectOutput {
            bucket_key_enabled: object.encryption.bucket_key_field(),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
            e_tag: etag(&object.etag),
            server_side_encryption: object.encryption.sse(),
            ssekms_encryption_context: object.encryption.context_header.clone(),
            ssekms_key_id: object.encryption.key_arn.clone(),
            version_id: reported_id(bucket, &version),
            ..PutObjectOutput::default()
        })
    }
}

/// The length that the client announces: S3 takes no body of unknown length.
pub(super) fn announced_length(headers: &HeaderMap) -> S3Result<u64> {
    let number = |name: &str| headers.get(name).map(|value| value.to_str().ok()?.parse::<u64>().ok());
    let length = number("x-amz-decoded-content-length").or_else(|| number("content-length"));
    let length = length
        .ok_or_else(|| refuse(S3ErrorCode::MissingContentLength, "You must provide the Content-Length HTTP header."))?;
    let length = length.ok_or_else(|| invalid_argument("The announced length of the body is not a number."))?;
    if length > PUT_BYTES_MAX {
        let sentence = "Your proposed upload exceeds the maximum allowed size";
        return Err(refuse(S3ErrorCode::EntityTooLarge, sentence));
    }
    Ok(length)
}

/// Judges what arrived; the trailer is there once the body was read to its end.
pub(super) fn check_promise(promise: &Promise, digests: &Digests, trailer: Option<TrailingHeaders>) -> S3Result<()> {
    promise.check(digests, trailer.and_then(|trailer| trailer.take()).as_ref())
}

/// The ETag of bytes: their MD5, unless KMS is in use; then it is random.
pub(super) fn etag_of(digests: &Digests, encryption: &Encryption) -> S3Result<String> {
    match digests.md5_etag() {
        Some(md5) if !encryption.uses_kms() => Ok(md5),
        _ => opaque_etag(),
    }
}

fn object_of(
    body: Body,
    digests: &Digests,
    headers: Headers,
    tags: Vec<(String, String)>,
    encryption: Encryption,
) -> S3Result<Object> {
    let etag = etag_of(digests, &encryption)?;
    let checksum = Some(digests.checksum());
    Ok(Object {
        etag,
        body: Arc::new(body),
        parts: Vec::new(),
        upload_id: None,
        headers,
        tags,
        annotations: BTreeMap::new(),
        encryption,
        checksum,
    })
}
