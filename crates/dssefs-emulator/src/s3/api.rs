//! The operations of S3 as s3s calls them: a table of contents. What is not here is 501 NotImplemented.

use s3s::dto;
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result};

use super::Endpoint;
use super::errors::{not_implemented, refuse};
use super::versions::find;

#[async_trait::async_trait]
impl S3 for Endpoint {
    async fn create_bucket(
        &self,
        request: S3Request<dto::CreateBucketInput>,
    ) -> S3Result<S3Response<dto::CreateBucketOutput>> {
        self.make_bucket(request).await
    }

    async fn delete_bucket(
        &self,
        request: S3Request<dto::DeleteBucketInput>,
    ) -> S3Result<S3Response<dto::DeleteBucketOutput>> {
        self.drop_bucket(request).await
    }

    async fn head_bucket(
        &self,
        request: S3Request<dto::HeadBucketInput>,
    ) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        self.probe_bucket(request).await
    }

    async fn list_buckets(
        &self,
        request: S3Request<dto::ListBucketsInput>,
    ) -> S3Result<S3Response<dto::ListBucketsOutput>> {
        self.list_all_buckets(request).await
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<dto::GetBucketLocationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLocationOutput>> {
        self.location(request).await
    }

    async fn get_bucket_encryption(
        &self,
        request: S3Request<dto::GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<dto::GetBucketEncryptionOutput>> {
        self.default_encryption(request).await
    }

    async fn put_bucket_encryption(
        &self,
        request: S3Request<dto::PutBucketEncryptionInput>,
    ) -> S3Result<S3Response<dto::PutBucketEncryptionOutput>> {
        self.set_default_encryption(request).await
    }

    async fn delete_bucket_encryption(
        &self,
        request: S3Request<dto::DeleteBucketEncryptionInput>,
    ) -> S3Result<S3Response<dto::DeleteBucketEncryptionOutput>> {
        self.reset_default_encryption(request).await
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<dto::GetBucketVersioningInput>,
    ) -> S3Result<S3Response<dto::GetBucketVersioningOutput>> {
        self.versioning(request).await
    }

    async fn put_bucket_versioning(
        &self,
        request: S3Request<dto::PutBucketVersioningInput>,
    ) -> S3Result<S3Response<dto::PutBucketVersioningOutput>> {
        self.set_versioning(request).await
    }

    async fn put_object(&self, request: S3Request<dto::PutObjectInput>) -> S3Result<S3Response<dto::PutObjectOutput>> {
        self.put(request).await
    }

    async fn get_object(&self, request: S3Request<dto::GetObjectInput>) -> S3Result<S3Response<dto::GetObjectOutput>> {
        self.get(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<dto::HeadObjectInput>,
    ) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        self.head(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        self.delete(request).await
    }

    async fn delete_objects(
        &self,
        request: S3Request<dto::DeleteObjectsInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectsOutput>> {
        self.delete_many(request).await
    }

    async fn copy_object(
        &self,
        request: S3Request<dto::CopyObjectInput>,
    ) -> S3Result<S3Response<dto::CopyObjectOutput>> {
        self.copy(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CreateMultipartUploadOutput>> {
        self.create_upload(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<dto::UploadPartInput>,
    ) -> S3Result<S3Response<dto::UploadPartOutput>> {
        self.put_part(request).await
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<dto::UploadPartCopyInput>,
    ) -> S3Result<S3Response<dto::UploadPartCopyOutput>> {
        self.copy_part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CompleteMultipartUploadOutput>> {
        self.complete_upload(request).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<dto::AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::AbortMultipartUploadOutput>> {
        self.abort_upload(request).await
    }

    async fn list_parts(&self, request: S3Request<dto::ListPartsInput>) -> S3Result<S3Response<dto::ListPartsOutput>> {
        self.list_parts_of(request).await
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<dto::ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<dto::ListMultipartUploadsOutput>> {
        self.list_uploads(request).await
    }

    async fn list_objects(
        &self,
        request: S3Request<dto::ListObjectsInput>,
    ) -> S3Result<S3Response<dto::ListObjectsOutput>> {
        self.list(request).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<dto::ListObjectsV2Input>,
    ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        self.list_v2(request).await
    }

    async fn list_object_versions(
        &self,
        request: S3Request<dto::ListObjectVersionsInput>,
    ) -> S3Result<S3Response<dto::ListObjectVersionsOutput>> {
        self.list_versions(request).await
    }

    async fn get_object_tagging(
        &self,
        request: S3Request<dto::GetObjectTaggingInput>,
    ) -> S3Result<S3Response<dto::GetObjectTaggingOutput>> {
        self.tags(request).await
    }

    async fn put_object_tagging(
        &self,
        request: S3Request<dto::PutObjectTaggingInput>,
    ) -> S3Result<S3Response<dto::PutObjectTaggingOutput>> {
        self.put_tags(request).await
    }

    async fn delete_object_tagging(
        &self,
        request: S3Request<dto::DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectTaggingOutput>> {
        self.delete_tags(request).await
    }

    async fn get_object_attributes(
        &self,
        request: S3Request<dto::GetObjectAttributesInput>,
    ) -> S3Result<S3Response<dto::GetObjectAttributesOutput>> {
        self.attributes(request).await
    }

    /// Browser forms name their encryption in fields, not in headers: refused, rather than stored otherwise than asked.
    async fn post_object(&self, _: S3Request<dto::PostObjectInput>) -> S3Result<S3Response<dto::PostObjectOutput>> {
        Err(not_implemented("browser-based uploads (POST Object)"))
    }

    async fn get_bucket_acl(
        &self,
        request: S3Request<dto::GetBucketAclInput>,
    ) -> S3Result<S3Response<dto::GetBucketAclOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        let grants = Some(vec![self.owners_grant()]);
        Ok(S3Response::new(dto::GetBucketAclOutput { grants, owner: Some(self.owner()) }))
    }

    async fn get_object_acl(
        &self,
        request: S3Request<dto::GetObjectAclInput>,
    ) -> S3Result<S3Response<dto::GetObjectAclOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        find(&bucket, &input.key, input.version_id.as_deref())?;
        let grants = Some(vec![self.owners_grant()]);
        Ok(S3Response::new(dto::GetObjectAclOutput { grants, owner: Some(self.owner()), ..Default::default() }))
    }

    async fn get_bucket_request_payment(
        &self,
        request: S3Request<dto::GetBucketRequestPaymentInput>,
    ) -> S3Result<S3Response<dto::GetBucketRequestPaymentOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        let payer = Some(dto::Payer::from_static(dto::Payer::BUCKET_OWNER));
        Ok(S3Response::new(dto::GetBucketRequestPaymentOutput { payer }))
    }

    async fn get_bucket_ownership_controls(
        &self,
        request: S3Request<dto::GetBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<dto::GetBucketOwnershipControlsOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        let object_ownership = dto::ObjectOwnership::from_static(dto::ObjectOwnership::BUCKET_OWNER_ENFORCED);
        let rules = vec![dto::OwnershipControlsRule { object_ownership }];
        let ownership_controls = Some(dto::OwnershipControls { rules });
        Ok(S3Response::new(dto::GetBucketOwnershipControlsOutput { ownership_controls }))
    }

    async fn get_public_access_block(
        &self,
        request: S3Request<dto::GetPublicAccessBlockInput>,
    ) -> S3Result<S3Response<dto::GetPublicAccessBlockOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        let configuration = dto::PublicAccessBlockConfiguration {
            block_public_acls: Some(true),
            block_public_policy: Some(true),
            ignore_public_acls: Some(true),
            restrict_public_buckets: Some(true),
        };
        let public_access_block_configuration = Some(configuration);
        Ok(S3Response::new(dto::GetPublicAccessBlockOutput { public_access_block_configuration }))
    }

    async fn get_bucket_logging(
        &self,
        request: S3Request<dto::GetBucketLoggingInput>,
    ) -> S3Result<S3Response<dto::GetBucketLoggingOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Ok(S3Response::new(dto::GetBucketLoggingOutput::default()))
    }

    async fn get_bucket_accelerate_configuration(
        &self,
        request: S3Request<dto::GetBucketAccelerateConfigurationInput>,
    ) -> S3Result<S3Response<dto::GetBucketAccelerateConfigurationOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Ok(S3Response::new(dto::GetBucketAccelerateConfigurationOutput::default()))
    }

    async fn get_bucket_notification_configuration(
        &self,
        request: S3Request<dto::GetBucketNotificationConfigurationInput>,
    ) -> S3Result<S3Response<dto::GetBucketNotificationConfigurationOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Ok(S3Response::new(dto::GetBucketNotificationConfigurationOutput::default()))
    }

    async fn get_bucket_policy(
        &self,
        request: S3Request<dto::GetBucketPolicyInput>,
    ) -> S3Result<S3Response<dto::GetBucketPolicyOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::NoSuchBucketPolicy, "The bucket policy does not exist"))
    }

    async fn get_bucket_policy_status(
        &self,
        request: S3Request<dto::GetBucketPolicyStatusInput>,
    ) -> S3Result<S3Response<dto::GetBucketPolicyStatusOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::NoSuchBucketPolicy, "The bucket policy does not exist"))
    }

    async fn get_bucket_cors(
        &self,
        request: S3Request<dto::GetBucketCorsInput>,
    ) -> S3Result<S3Response<dto::GetBucketCorsOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::NoSuchCORSConfiguration, "The CORS configuration does not exist"))
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<dto::GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLifecycleConfigurationOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::NoSuchLifecycleConfiguration, "The lifecycle configuration does not exist"))
    }

    async fn get_bucket_tagging(
        &self,
        request: S3Request<dto::GetBucketTaggingInput>,
    ) -> S3Result<S3Response<dto::GetBucketTaggingOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::NoSuchTagSet, "The TagSet does not exist"))
    }

    async fn get_bucket_website(
        &self,
        request: S3Request<dto::GetBucketWebsiteInput>,
    ) -> S3Result<S3Response<dto::GetBucketWebsiteOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(
            S3ErrorCode::NoSuchWebsiteConfiguration,
            "The specified bucket does not have a website configuration",
        ))
    }

    async fn get_bucket_replication(
        &self,
        request: S3Request<dto::GetBucketReplicationInput>,
    ) -> S3Result<S3Response<dto::GetBucketReplicationOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::ReplicationConfigurationNotFoundError, "The replication configuration was not found"))
    }

    async fn get_object_lock_configuration(
        &self,
        request: S3Request<dto::GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<dto::GetObjectLockConfigurationOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(
            S3ErrorCode::ObjectLockConfigurationNotFoundError,
            "Object Lock configuration does not exist for this bucket",
        ))
    }

    async fn get_object_legal_hold(
        &self,
        request: S3Request<dto::GetObjectLegalHoldInput>,
    ) -> S3Result<S3Response<dto::GetObjectLegalHoldOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::InvalidRequest, "Bucket is missing Object Lock Configuration"))
    }

    async fn get_object_retention(
        &self,
        request: S3Request<dto::GetObjectRetentionInput>,
    ) -> S3Result<S3Response<dto::GetObjectRetentionOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::InvalidRequest, "Bucket is missing Object Lock Configuration"))
    }

    async fn put_bucket_acl(
        &self,
        request: S3Request<dto::PutBucketAclInput>,
    ) -> S3Result<S3Response<dto::PutBucketAclOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::AccessControlListNotSupported, "The bucket does not allow ACLs"))
    }

    async fn put_object_acl(
        &self,
        request: S3Request<dto::PutObjectAclInput>,
    ) -> S3Result<S3Response<dto::PutObjectAclOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        Err(refuse(S3ErrorCode::AccessControlListNotSupported, "The bucket does not allow ACLs"))
    }
}
