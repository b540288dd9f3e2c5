//! The verbs of multipart uploads.

use std::sync::Arc;

use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};

use super::watch::AttemptLog;
use super::write::{Answered, describe};
use super::{Store, etag, facts, observed, signed};
use crate::object::{ByteRange, Crc64, ETag, Key};
use crate::policy::{Evidence, Facts, Policy};
use crate::s3::error::Error;
use crate::s3::metrics::{Operation, StoreCounters};
use crate::s3::payload::Payload;
use crate::s3::request::{Condition, NewObject, Part, Source};

/// The answer to a part.
pub(in crate::s3) struct PartAnswer {
    /// None where the answer has no ETag.
    pub(in crate::s3) part: Option<Part>,
    pub(in crate::s3) facts: Facts,
}

/// A multipart upload that the store has begun.
pub(in crate::s3) struct Created {
    /// None where the answer has none.
    pub(in crate::s3) id: Option<String>,
    pub(in crate::s3) facts: Facts,
    pub(in crate::s3) request_id: Option<String>,
}

impl Store {
    /// Asks for one CRC-64/NVME of the whole object, so that the parts' boundaries do not matter.
    pub(in crate::s3) async fn create(
        &self,
        policy: &Policy,
        new: &NewObject,
        attempts: &AttemptLog,
    ) -> Result<Created, Error> {
        const CREATE: Operation = Operation::CreateMultipartUpload;
        let headers = self.content_headers(CREATE, new)?;
        let request = describe!(self.client.create_multipart_upload(), self, policy, new)
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_type(ChecksumType::FullObject)
            .customize()
            .interceptor(attempts.clone())
            .interceptor(headers)
            .send();
        let answer = self.ask(CREATE, Some(&new.key), request).await?;
        Ok(Created {
            id: answer.upload_id().filter(|id| !id.is_empty()).map(str::to_owned),
            facts: facts!(answer, answer.sse_customer_algorithm(), answer.ssekms_encryption_context()),
            request_id: answer.request_id().map(str::to_owned),
        })
    }

    pub(in crate::s3) async fn put_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        payload: &Arc<dyn Payload>,
        attempts: &AttemptLog,
    ) -> Result<PartAnswer, Error> {
        const PART: Operation = Operation::UploadPart;
        let body = self.outgoing_part(PART, key, payload)?;
        let crc64 = payload.crc64().ok();
        let request = self
            .client
            .upload_part()
            .bucket(self.bucket.as_str())
            .key(key.as_str())
            .upload_id(upload)
            .part_number(part_number(number))
            .content_length(signed(payload.len()))
            .set_checksum_crc64_nvme(body.checksum.crc64_text())
            .set_checksum_sha1(body.checksum.sha1_text())
            .body(body.stream)
            .customize()
            .interceptor(attempts.clone());
        let request = if self.signs_bodies { request } else { request.disable_payload_signing() };
        let sent = self.ask(PART, Some(key), self.patient(request, payload.len()).send()).await;
        let answer = sent.map_err(|error| self.blame(error, &body.broken))?;
        StoreCounters::add(&self.counters.bytes_sent, payload.len());
        let part = answer.e_tag().and_then(etag).map(|etag| Part { number, etag, size: payload.len(), crc64 });
        Ok(PartAnswer { part, facts: facts!(answer, answer.sse_customer_algorithm()) })
    }

    pub(in crate::s3) async fn copy_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        (source, range): (&Source, ByteRange),
        attempts: &AttemptLog,
    ) -> Result<PartAnswer, Error> {
        const PART: Operation = Operation::UploadPartCopy;
        let request = self
            .client
            .upload_part_copy()
            .bucket(self.bucket.as_str())
            .key(key.as_str())
            .upload_id(upload)
            .part_number(part_number(number))
            .copy_source(self.copy_source(&source.key, &source.version))
            .copy_source_if_match(source.version.etag.as_str())
            .copy_source_range(range.header())
            .customize()
            .interceptor(attempts.clone());
        let answer = self.ask(PART, Some(key), self.patient(request, range.len()).send()).await?;
        let result = answer.copy_part_result();
        let crc64 = result.and_then(|result| result.checksum_crc64_nvme()).and_then(Crc64::from_base64);
        let tag = result.and_then(|result| result.e_tag()).and_then(etag);
        let part = tag.map(|etag| Part { number, etag, size: range.len(), crc64 });
        Ok(PartAnswer { part, facts: facts!(answer, answer.sse_customer_algorithm()) })
    }

    pub(in crate::s3) async fn complete(
        &self,
        key: &Key,
        upload: &str,
        whole: &Whole<'_>,
        condition: &Condition,
        attempts: &AttemptLog,
    ) -> Result<Answered, Error> {
        const COMPLETE: Operation = Operation::CompleteMultipartUpload;
        let parts =
            CompletedMultipartUpload::builder().set_parts(Some(whole.parts.iter().map(completed).collect())).build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(self.bucket.as_str())
            .key(key.as_str())
            .upload_id(upload)
            .multipart_upload(parts)
            .mpu_object_size(signed(whole.size))
            .checksum_type(ChecksumType::FullObject)
            .set_checksum_crc64_nvme(whole.crc64.map(Crc64::to_base64))
            .set_if_match(condition.if_match())
            .set_if_none_match(condition.if_none_match())
            .customize()
            .interceptor(attempts.clone());
        let asked = self.ask(COMPLETE, Some(key), self.patient(request, whole.size).send()).await;
        let answer = asked.inspect_err(|error| attempts.note_failure(error))?;
        let encryption = observed(facts!(answer, None), Evidence::Complete, answer.request_id());
        Ok(Answered::new(answer.e_tag(), answer.version_id(), encryption))
    }

    /// One page of the uploads that are neither completed nor aborted: key and id of each, and where the next page
    /// begins.
    pub(in crate::s3) async fn uploads(
        &self,
        prefix: &str,
        after: Option<&(String, String)>,
    ) -> Result<(Vec<(Key, String)>, Option<(String, String)>), Error> {
        let request = self
            .client
            .list_multipart_uploads()
            .bucket(self.bucket.as_str())
            .prefix(prefix)
            .set_key_marker(after.map(|(key, _)| key.clone()))
            .set_upload_id_marker(after.map(|(_, id)| id.clone()))
            .send();
        let answer = self.ask(Operation::ListMultipartUploads, None, request).await?;
        let named = |upload: &aws_sdk_s3::types::MultipartUpload| {
            Some((Key::new(upload.key()?).ok()?, upload.upload_id()?.to_owned()))
        };
        let more = answer.is_truncated().unwrap_or_default();
        let next = answer.next_key_marker().zip(answer.next_upload_id_marker()).filter(|_| more);
        let next = next.map(|(key, id)| (key.to_owned(), id.to_owned()));
        Ok((answer.uploads().iter().filter_map(named).collect(), next))
    }

    pub(in crate::s3) async fn abort(&self, key: &Key, upload: &str) -> Result<(), Error> {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(self.bucket.as_str())
            .key(key.as_str())
            .upload_id(upload)
            .send();
        self.ask(Operation::AbortMultipartUpload, Some(key), request).await.map(drop)
    }
}

/// The object that the parts of an upload make.
pub(in crate::s3) struct Whole<'a> {
    /// In ascending order of their numbers, as S3 asks.
    pub(in crate::s3) parts: &'a [Part],
    pub(in crate::s3) size: u64,
    /// Of the whole; None when some part's content was never seen.
    pub(in crate::s3) crc64: Option<Crc64>,
}

fn completed(part: &Part) -> CompletedPart {
    CompletedPart::builder()
        .part_number(part_number(part.number))
        .e_tag(ETag::as_str(&part.etag))
        .set_checksum_crc64_nvme(part.crc64.map(Crc64::to_base64))
        .build()
}

/// Part numbers end at 10,000; S3 refuses what is beyond.
fn part_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
