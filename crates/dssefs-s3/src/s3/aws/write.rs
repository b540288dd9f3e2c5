//! Verbs that write and delete whole objects.

use std::sync::Arc;

use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::types::{MetadataDirective, TaggingDirective};

use super::content_headers::ContentHeaders;
use super::watch::AttemptLog;
use super::{Store, etag, facts, observed, signed, version_id};
use crate::object::{ETag, Key, Version, VersionId, is_raw};
use crate::policy::{Evidence, Observation, Policy};
use crate::s3::error::Error;
use crate::s3::metrics::{Operation, StoreCounters};
use crate::s3::payload::Payload;
use crate::s3::request::{CONTENT_HEADERS, Condition, NewObject, Source};

/// Adds to a request that creates an object: DSSE-KMS, and each field of [`NewObject`] that the SDK has. It never sends
/// the header for bucket keys, because DSSE-KMS has none.
macro_rules! describe {
    ($request:expr, $store:expr, $policy:expr, $new:expr) => {
        $request
            .bucket($store.bucket.as_str())
            .key($new.key.as_str())
            .server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::AwsKmsDsse)
            .set_ssekms_key_id($policy.key.as_ref().map(|arn| arn.as_str().to_owned()))
            .set_ssekms_encryption_context($policy.context.header())
            .set_metadata(Some($new.metadata()))
            .content_type($new.content_type.as_deref().unwrap_or(crate::s3::request::UNKNOWN_TYPE))
            .set_storage_class($new.storage_class.as_deref().map(aws_sdk_s3::types::StorageClass::from))
            .set_tagging($new.tags.clone())
    };
}
pub(in crate::s3::aws) use describe;

/// The store's answer to a write that it has carried out. The gateway judges the encryption before it looks at the
/// other fields, so a missing field cannot hide a wrong encryption.
pub(in crate::s3) struct Answered {
    pub(in crate::s3) etag: Option<ETag>,
    pub(in crate::s3) id: Option<VersionId>,
    pub(in crate::s3) encryption: Observation,
}

impl Answered {
    pub(super) fn new(tag: Option<&str>, id: Option<&str>, encryption: Observation) -> Answered {
        Answered { etag: tag.and_then(etag), id: id.and_then(version_id), encryption }
    }

    /// The version that the object became; None if the answer does not name it.
    pub(in crate::s3) fn version(&self) -> Option<Version> {
        self.etag.clone().map(|etag| Version { etag, id: self.id.clone() })
    }
}

/// What a delete is to remove.
#[derive(Clone, Copy)]
pub(in crate::s3) enum Deleted<'a> {
    /// This version, for good. Its id is its condition.
    Version(&'a VersionId),
    /// The object, if it has this ETag.
    If(&'a ETag),
    /// Whatever object there is.
    Any,
}

impl Store {
    pub(in crate::s3) async fn put(
        &self,
        policy: &Policy,
        new: &NewObject,
        payload: &Arc<dyn Payload>,
        condition: &Condition,
        attempts: &AttemptLog,
    ) -> Result<Answered, Error> {
        const PUT: Operation = Operation::PutObject;
        let headers = self.content_headers(PUT, new)?;
        let body = self.outgoing_object(PUT, &new.key, payload)?;
        let request = describe!(self.client.put_object(), self, policy, new)
            .set_if_match(condition.if_match())
            .set_if_none_match(condition.if_none_match())
            .content_length(signed(payload.len()))
            .set_checksum_crc64_nvme(body.checksum.crc64_text())
            .set_checksum_crc32_c(body.checksum.crc32c_text())
            .set_checksum_sha1(body.checksum.sha1_text())
            .body(body.stream)
            .customize()
            .interceptor(attempts.clone())
            .interceptor(headers);
        let request = if self.signs_bodies { request } else { request.disable_payload_signing() };
        let sent = self.ask(PUT, Some(&new.key), self.patient(request, payload.len()).send()).await;
        let sent = sent.inspect_err(|error| attempts.note_failure(error));
        let answer = sent.map_err(|error| self.blame(error, &body.broken))?;
        StoreCounters::add(&self.counters.bytes_sent, payload.len());
        let facts = facts!(answer, answer.sse_customer_algorithm(), answer.ssekms_encryption_context());
        let encryption = observed(facts, Evidence::Put, answer.request_id());
        Ok(Answered::new(answer.e_tag(), answer.version_id(), encryption))
    }

    /// For sources of up to 5 GiB. The tags are the source's unless `new` has its own.
    pub(in crate::s3) async fn copy(
        &self,
        policy: &Policy,
        source: &Source,
        new: &NewObject,
        condition: &Condition,
        attempts: &AttemptLog,
    ) -> Result<Answered, Error> {
        const COPY: Operation = Operation::CopyObject;
        let headers = self.content_headers(COPY, new)?;
        let tagging = if new.tags.is_some() { TaggingDirective::Replace } else { TaggingDirective::Copy };
        let request = describe!(self.client.copy_object(), self, policy, new)
            .copy_source(self.copy_source(&source.key, &source.version))
            .copy_source_if_match(source.version.etag.as_str())
            .metadata_directive(MetadataDirective::Replace)
            .tagging_directive(tagging)
            .set_if_match(condition.if_match())
            .set_if_none_match(condition.if_none_match())
            .customize()
            .interceptor(attempts.clone())
            .interceptor(headers);
        let answer = self.ask(COPY, Some(&new.key), self.patient(request, source.size).send()).await;
        let answer = answer.inspect_err(|error| attempts.note_failure(error))?;
        let etag = answer.copy_object_result().and_then(|result| result.e_tag());
        let facts = facts!(answer, answer.sse_customer_algorithm(), answer.ssekms_encryption_context());
        let encryption = observed(facts, Evidence::Copy, answer.request_id());
        Ok(Answered::new(etag, answer.version_id(), encryption))
    }

    /// Deletes what `which` says. The id of the delete marker, in a bucket that keeps versions.
    pub(in crate::s3) async fn delete(
        &self,
        key: &Key,
        which: Deleted<'_>,
        attempts: &AttemptLog,
    ) -> Result<Option<VersionId>, Error> {
        let (id, if_match) = match which {
            Deleted::Version(id) => (Some(id.as_str().to_owned()), None),
            Deleted::If(etag) => (None, Some(etag.as_str().to_owned())),
            Deleted::Any => (None, None),
        };
        let request = self
            .client
            .delete_object()
            .bucket(self.bucket.as_str())
            .key(key.as_str())
            .set_version_id(id)
            .set_if_match(if_match)
            .customize()
            .interceptor(attempts.clone())
            .send();
        let answer = self.ask(Operation::DeleteObject, Some(key), request).await;
        let answer = answer.inspect_err(|error| attempts.note_failure(error))?;
        Ok(answer.version_id().and_then(version_id))
    }

    /// The content headers of a new object, if S3 knows all of them. They are set on the HTTP request, because the SDK
    /// would parse `Expires`, which need not be a date.
    pub(super) fn content_headers(&self, operation: Operation, new: &NewObject) -> Result<ContentHeaders, Error> {
        let foreign = new.content_headers.iter().find(|(name, value)| !is_content_header(name, value));
        let raw = new.user.iter().find(|(_, value)| is_raw(value));
        let refused = match (foreign, raw) {
            (None, None) => return Ok(ContentHeaders::of(new)),
            (Some((name, _)), _) => format!("{name:?} is not a content header, or its value is not"),
            (None, Some((name, _))) => format!(
                "the object's metadata {name:?} has bytes that are not UTF-8, which no request can be signed with; \
                 write that metadata again with the program that made it"
            ),
        };
        Err(self.protocol(operation, Some(&new.key), refused))
    }
}

/// A header's value is visible characters, spaces and tabs, and bytes from 0x80 on (RFC 9110, 5.5).
fn is_content_header(name: &str, value: &str) -> bool {
    CONTENT_HEADERS.contains(&name) && value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_content_headers_are_carried() {
        assert!(is_content_header("expires", "0"));
        assert!(is_content_header("cache-control", "max-age=60, public"));
        assert!(is_content_header("content-disposition", "attachment; filename=K\u{f6}ln"));
        assert!(!is_content_header("x-amz-acl", "public-read"));
        assert!(!is_content_header("x-amz-server-side-encryption", "AES256"));
        assert!(!is_content_header("cache-control", "a\r\nx-amz-acl: public-read"));
    }
}
