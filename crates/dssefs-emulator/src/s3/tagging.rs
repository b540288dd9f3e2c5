//! GetObjectTagging, PutObjectTagging and DeleteObjectTagging.

use s3s::dto::{
    DeleteObjectTaggingInput, DeleteObjectTaggingOutput, GetObjectTaggingInput, GetObjectTaggingOutput,
    PutObjectTaggingInput, PutObjectTaggingOutput, Tag,
};
use s3s::{S3Request, S3Response, S3Result};

use super::Endpoint;
use super::description::checked_tags;
use super::versions::{find, object_of, reported_id};

impl Endpoint {
    pub(super) async fn tags(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let version = find(&bucket, &input.key, input.version_id.as_deref())?;
        let tags = object_of(&version)?.tags.iter();
        let tag_set = tags.map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect();
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set, version_id: reported_id(&bucket, &version) }))
    }

    pub(super) async fn put_tags(
        &self,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let input = request.input;
        let tags = input.tagging.tag_set.into_iter();
        let tags = tags.map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect();
        let tags = checked_tags(tags)?;
        let owner = input.expected_bucket_owner.as_deref();
        let version_id = self.retag(&input.bucket, owner, &input.key, input.version_id.as_deref(), tags)?;
        Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
    }

    pub(super) async fn delete_tags(
        &self,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let input = request.input;
        let owner = input.expected_bucket_owner.as_deref();
        let version_id = self.retag(&input.bucket, owner, &input.key, input.version_id.as_deref(), Vec::new())?;
        Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
    }

    fn retag(
        &self,
        bucket: &str,
        owner: Option<&str>,
        key: &str,
        version_id: Option<&str>,
        tags: Vec<(String, String)>,
    ) -> S3Result<Option<String>> {
        let bucket = self.bucket(bucket, owner)?;
        find(&bucket, key, version_id)?;
        let version = bucket.attach(key, version_id, |object| {
            object.tags = tags;
            Ok::<_, s3s::S3Error>(())
        })?;
        Ok(reported_id(&bucket, &version))
    }
}
