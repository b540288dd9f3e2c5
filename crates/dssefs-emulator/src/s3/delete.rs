//! DeleteObject and DeleteObjects.

use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETagCondition,
    Error, ObjectIdentifier,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};

use super::Endpoint;
use super::condition::check_delete;
use super::errors::{not_implemented, refuse};
use super::format::now;
use crate::storage::{Bucket, Deleted};

/// "The request can contain a list of up to 1,000 keys" (DeleteObjects, S3 API Reference).
const KEYS_MAX: usize = 1_000;

impl Endpoint {
    pub(super) async fn delete(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        if input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
            return Err(not_implemented(
                "conditions on size and time of a delete, which S3 has in directory buckets only",
            ));
        }
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let deleted = delete_one(&bucket, &input.key, input.version_id.as_deref(), input.if_match.as_ref())?;
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker: deleted.marker.then_some(true),
            version_id: deleted.version_id,
            ..DeleteObjectOutput::default()
        }))
    }

    pub(super) async fn delete_many(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let objects = input.delete.objects;
        if objects.is_empty() || objects.len() > KEYS_MAX {
            let sentence = "The XML you provided was not well-formed or did not validate against our published schema";
            return Err(refuse(S3ErrorCode::MalformedXML, sentence));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let mut output =
            DeleteObjectsOutput { deleted: Some(Vec::new()), errors: Some(Vec::new()), ..Default::default() };
        for object in objects {
            match delete_listed(&bucket, object) {
                Ok(_) if quiet => {}
                Ok(deleted) => output.deleted.get_or_insert_default().push(deleted),
                Err(error) => output.errors.get_or_insert_default().push(error),
            }
        }
        Ok(S3Response::new(output))
    }
}

/// With an id the version goes for good; without one the key does, by a delete marker where versions are kept.
fn delete_one(
    bucket: &Bucket,
    key: &str,
    version_id: Option<&str>,
    if_match: Option<&ETagCondition>,
) -> S3Result<Deleted> {
    match version_id {
        Some(_) if if_match.is_some() => Err(not_implemented("If-Match on the delete of a version, as S3 does not")),
        Some(id) => Ok(bucket.delete_version(key, id)?),
        None => bucket.delete(key, now(), |newest| check_delete(if_match, newest)),
    }
}

fn delete_listed(bucket: &Bucket, object: ObjectIdentifier) -> Result<DeletedObject, Error> {
    let ObjectIdentifier { e_tag, key, version_id, .. } = object;
    let if_match = e_tag.map(ETagCondition::ETag);
    match delete_one(bucket, &key, version_id.as_deref(), if_match.as_ref()) {
        Ok(deleted) => Ok(DeletedObject {
            delete_marker: deleted.marker.then_some(true),
            delete_marker_version_id: deleted.version_id.filter(|_| deleted.marker),
            key: Some(key),
            version_id,
        }),
        Err(error) => Err(Error {
            code: Some(error.code().as_str().to_owned()),
            key: Some(key),
            message: error.message().map(str::to_owned),
            version_id,
        }),
    }
}
