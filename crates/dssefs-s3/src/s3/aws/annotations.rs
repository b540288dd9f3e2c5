//! The verbs of annotations: named texts of 1 byte to 1 MiB that are attached to one version of an object.

use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};

use super::{Store, failure};
use crate::object::{Crc64, ETag, Key};
use crate::s3::error::{Error, Failure, Kind};
use crate::s3::metrics::Operation;

/// The most annotations of one object ("Annotating your objects", S3 User Guide).
const ANNOTATIONS_MAX: usize = 1000;
/// The longest annotation, in bytes (the same page).
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

impl Store {
    /// The names of an object's annotations, in the order of the answer.
    pub(in crate::s3) async fn annotations(&self, key: &Key) -> Result<Vec<String>, Error> {
        const LIST: Operation = Operation::ListObjectAnnotations;
        let (mut names, mut next) = (Vec::new(), None);
        loop {
            let request = self
                .client
                .list_object_annotations()
                .bucket(self.bucket.as_str())
                .key(key.as_str())
                .set_continuation_token(next.clone())
                .send();
            let page = self.ask(LIST, Some(key), request).await?;
            names.extend(page.annotations().iter().map(|entry| entry.annotation_name().to_owned()));
            let more = page.next_continuation_token().filter(|token| !token.is_empty()).map(str::to_owned);
            // A store that always has one more page, or names the same one again, would keep this loop running.
            if names.len() > ANNOTATIONS_MAX || (more.is_some() && (more == next || page.annotations().is_empty())) {
                return Err(self.protocol(LIST, Some(key), "the list of annotations does not end"));
            }
            next = more;
            if next.is_none() {
                return Ok(names);
            }
        }
    }

    /// The text of an annotation. One KMS call.
    pub(in crate::s3) async fn annotation(&self, key: &Key, name: &str) -> Result<Bytes, Error> {
        const GET: Operation = Operation::GetObjectAnnotation;
        let request =
            self.client.get_object_annotation().bucket(self.bucket.as_str()).key(key.as_str()).annotation_name(name);
        let mut answer = self.ask(GET, Some(key), request.send()).await?;
        let mut payload = BytesMut::new();
        while let Some(chunk) = answer.annotation_payload.next().await {
            let chunk = chunk.map_err(|error| {
                let kind = failure::of_broken_body(&error);
                let failed = Failure::new(kind, GET, &self.bucket, Some(key)).because(error.to_string());
                Error::from(failed.from_source(error))
            })?;
            payload.extend_from_slice(&chunk);
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(self.protocol(GET, Some(key), "the annotation is longer than 1 MiB"));
            }
        }
        let announced = answer.content_length.and_then(|bytes| usize::try_from(bytes).ok());
        if announced.is_some_and(|bytes| bytes != payload.len()) {
            return Err(Failure::new(Kind::Integrity, GET, &self.bucket, Some(key)).into());
        }
        Ok(payload.freeze())
    }

    /// Attaches an annotation to the version of this ETag; [`Kind::PreconditionFailed`] if there is another one now.
    /// One KMS call.
    pub(in crate::s3) async fn annotate(
        &self,
        key: &Key,
        version: &ETag,
        name: &str,
        payload: Bytes,
    ) -> Result<(), Error> {
        let request = self
            .client
            .put_object_annotation()
            .bucket(self.bucket.as_str())
            .key(key.as_str())
            .annotation_name(name)
            .object_if_match(version.as_str())
            .checksum_crc64_nvme(Crc64::of(&payload).to_base64())
            .annotation_payload(ByteStream::from(payload))
            .send();
        self.ask(Operation::PutObjectAnnotation, Some(key), request).await.map(drop)
    }
}
