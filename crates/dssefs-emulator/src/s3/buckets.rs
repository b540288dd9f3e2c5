//! Buckets and their settings, and the answers to what clients ask of a bucket unasked.

use s3s::dto::{
    Bucket as ListedBucket, BucketLocationConstraint, BucketVersioningStatus, CreateBucketInput, CreateBucketOutput,
    DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput, DeleteBucketInput, DeleteBucketOutput,
    GetBucketEncryptionInput, GetBucketEncryptionOutput, GetBucketLocationInput, GetBucketLocationOutput,
    GetBucketVersioningInput, GetBucketVersioningOutput, Grant, Grantee, HeadBucketInput, HeadBucketOutput,
    ListBucketsInput, ListBucketsOutput, Owner, Permission, PutBucketEncryptionInput, PutBucketEncryptionOutput,
    PutBucketVersioningInput, PutBucketVersioningOutput, ServerSideEncryption, ServerSideEncryptionByDefault,
    ServerSideEncryptionConfiguration, ServerSideEncryptionRule, Type,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};
use sha2::{Digest, Sha256};

use super::Endpoint;
use super::encryption::{AES256, known_algorithm};
use super::errors::{invalid_argument, not_implemented, refuse};
use super::format::{now, timestamp};
use crate::storage::{Error, Settings, Versioning, hex};

/// The region whose buckets have no location constraint.
const CLASSIC_REGION: &str = "us-east-1";

impl Endpoint {
    pub(super) async fn make_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let input = request.input;
        if input.object_lock_enabled_for_bucket == Some(true) {
            return Err(not_implemented("object lock"));
        }
        let constraint = input.create_bucket_configuration.and_then(|configuration| configuration.location_constraint);
        let asked = constraint.as_ref().map_or(CLASSIC_REGION, BucketLocationConstraint::as_str);
        // The global endpoint takes requests without a constraint for the classic region; every other one insists on
        // its own.
        if constraint.is_some() && asked != self.region {
            return Err(refuse(
                S3ErrorCode::IllegalLocationConstraintException,
                format!(
                    "The {asked} location constraint is incompatible for the region specific endpoint this \
                     request was sent to."
                ),
            ));
        }
        match self.store.create(&input.bucket, Settings { created: now(), ..Settings::default() }) {
            // In the classic region a second creation by the owner succeeds and changes nothing.
            Err(Error::BucketExists) if self.region == CLASSIC_REGION => {}
            done => done?,
        }
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
    }

    pub(super) async fn drop_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        self.store.delete(&request.input.bucket)?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    pub(super) async fn probe_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        let bucket_region = Some(self.region.clone());
        Ok(S3Response::new(HeadBucketOutput { bucket_region, ..HeadBucketOutput::default() }))
    }

    pub(super) async fn list_all_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let prefix = request.input.prefix;
        let starts = |name: &str| prefix.as_deref().is_none_or(|prefix| name.starts_with(prefix));
        let buckets = self.store.all().into_iter().filter(|bucket| starts(bucket.name()));
        let buckets = buckets.map(|bucket| ListedBucket {
            bucket_region: Some(self.region.clone()),
            creation_date: Some(timestamp(bucket.settings().created)),
            name: Some(bucket.name().to_owned()),
        });
        let buckets = Some(buckets.collect());
        Ok(S3Response::new(ListBucketsOutput { buckets, owner: Some(self.owner()), prefix, ..Default::default() }))
    }

    pub(super) async fn location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        let constraint = (self.region != CLASSIC_REGION).then(|| BucketLocationConstraint::from(self.region.clone()));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint: constraint }))
    }

    pub(super) async fn default_encryption(
        &self,
        request: S3Request<GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
        let bucket = self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        let settings = bucket.settings();
        let algorithm = settings.default_algorithm.unwrap_or_else(|| AES256.to_owned());
        let by_default = ServerSideEncryptionByDefault {
            kms_master_key_id: settings.default_key,
            sse_algorithm: ServerSideEncryption::from(algorithm),
        };
        let rule = ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(by_default),
            bucket_key_enabled: Some(settings.default_bucket_key),
        };
        let configuration = ServerSideEncryptionConfiguration { rules: vec![rule] };
        Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration: Some(configuration) }))
    }

    /// The key is not looked up, as in S3: a wrong one shows with the first write.
    pub(super) async fn set_default_encryption(
        &self,
        request: S3Request<PutBucketEncryptionInput>,
    ) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let rules = input.server_side_encryption_configuration.rules;
        let [rule] = rules.as_slice() else { return Err(malformed()) };
        let by_default = rule.apply_server_side_encryption_by_default.as_ref().ok_or_else(malformed)?;
        let algorithm = known_algorithm(by_default.sse_algorithm.as_str()).map_err(|_| malformed())?;
        if algorithm == AES256 && by_default.kms_master_key_id.is_some() {
            return Err(invalid_argument(
                "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse",
            ));
        }
        bucket.change_settings(|settings| {
            settings.default_algorithm = Some(algorithm.to_owned());
            settings.default_key.clone_from(&by_default.kms_master_key_id);
            settings.default_bucket_key = rule.bucket_key_enabled.unwrap_or(false);
        })?;
        Ok(S3Response::new(PutBucketEncryptionOutput::default()))
    }

    pub(super) async fn reset_default_encryption(
        &self,
        request: S3Request<DeleteBucketEncryptionInput>,
    ) -> S3Result<S3Response<DeleteBucketEncryptionOutput>> {
        let bucket = self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        bucket.change_settings(|settings| {
            settings.default_algorithm = None;
            settings.default_key = None;
            settings.default_bucket_key = false;
        })?;
        Ok(S3Response::new(DeleteBucketEncryptionOutput::default()))
    }

    pub(super) async fn versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let bucket = self.bucket(&request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
        let status = match bucket.settings().versioning {
            Versioning::Off => None,
            Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
            Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
        };
        Ok(S3Response::new(GetBucketVersioningOutput { mfa_delete: None, status }))
    }

    pub(super) async fn set_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let status = input.versioning_configuration.status;
        let versioning = match status.as_ref().map(BucketVersioningStatus::as_str) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            _ => {
                return Err(refuse(
                    S3ErrorCode::IllegalVersioningConfigurationException,
                    "The Versioning element must be specified",
                ));
            }
        };
        bucket.change_settings(|settings| settings.versioning = versioning)?;
        Ok(S3Response::new(PutBucketVersioningOutput::default()))
    }

    /// The account that owns everything, by its canonical id.
    pub(super) fn owner(&self) -> Owner {
        Owner { display_name: None, id: Some(hex(&Sha256::digest(self.account.as_bytes()))) }
    }

    /// The only grant there is: ACLs are off, as in every new bucket of S3.
    pub(super) fn owners_grant(&self) -> Grant {
        let owner = self.owner();
        let grantee = Grantee {
            display_name: None,
            email_address: None,
            id: owner.id,
            type_: Type::from_static(Type::CANONICAL_USER),
            uri: None,
        };
        Grant { grantee: Some(grantee), permission: Some(Permission::from_static(Permission::FULL_CONTROL)) }
    }
}

fn malformed() -> s3s::S3Error {
    let sentence = "The XML you provided was not well-formed or did not validate against our published schema";
    refuse(S3ErrorCode::MalformedXML, sentence)
}
