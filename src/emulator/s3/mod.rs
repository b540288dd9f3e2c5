//! A placeholder for the S3 side, with which the front is tested: four operations in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use s3s::access::S3Access;
use s3s::dto::{
    Bucket, CreateBucketInput, CreateBucketOutput, GetObjectInput, GetObjectOutput, ListBucketsInput,
    ListBucketsOutput, PutObjectInput, PutObjectOutput, ServerSideEncryption, StreamingBlob,
};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::kms::{Kms, Refusal};

const DSSE: &str = "aws:kms:dsse";

/// Buckets and objects in memory.
pub struct Endpoint {
    kms: Arc<Kms>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: BTreeSet<String>,
    /// Body and key ARN by bucket and key.
    objects: BTreeMap<(String, String), (Bytes, Option<String>)>,
}

/// Lets everyone in who has signed.
pub struct Access;

impl S3Access for Access {}

impl Endpoint {
    /// An empty endpoint.
    ///
    /// # Errors
    /// None.
    pub fn open(_directory: &Path, kms: Arc<Kms>, _region: &str, _account: &str) -> io::Result<Endpoint> {
        Ok(Endpoint { kms, state: Mutex::default() })
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl S3 for Endpoint {
    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.with(|state| state.buckets.insert(request.input.bucket));
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let names = self.with(|state| state.buckets.clone());
        let buckets = names.into_iter().map(|name| Bucket { name: Some(name), ..Bucket::default() }).collect();
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(buckets), ..ListBucketsOutput::default() }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let context = object_context(&input.bucket, &input.key);
        let wanted = input.server_side_encryption.filter(|algorithm| algorithm.as_str() == DSSE);
        let key = wanted.map(|_| self.kms.generate_data_key(input.ssekms_key_id.as_deref(), &context));
        let key_arn = key.transpose().map_err(|refusal| from_refusal(&refusal))?.map(|key| key.key_arn);
        let chunks: Vec<Bytes> = match input.body {
            Some(body) => body.try_collect().await.map_err(|_| s3_error!(IncompleteBody))?,
            None => Vec::new(),
        };
        let object = (Bytes::from(chunks.concat()), key_arn.clone());
        self.with(|state| state.objects.insert((input.bucket, input.key), object));
        Ok(S3Response::new(PutObjectOutput {
            server_side_encryption: key_arn.as_ref().map(|_| ServerSideEncryption::from_static(DSSE)),
            ssekms_key_id: key_arn,
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let address = (request.input.bucket, request.input.key);
        let found = self.with(|state| state.objects.get(&address).cloned());
        let (bytes, key_arn) = found.ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))?;
        if let Some(arn) = &key_arn {
            let context = object_context(&address.0, &address.1);
            self.kms.decrypt(arn, &context).map_err(|refusal| from_refusal(&refusal))?;
        }
        Ok(S3Response::new(GetObjectOutput {
            content_length: i64::try_from(bytes.len()).ok(),
            body: Some(StreamingBlob::from(Body::from(bytes))),
            server_side_encryption: key_arn.as_ref().map(|_| ServerSideEncryption::from_static(DSSE)),
            ssekms_key_id: key_arn,
            ..GetObjectOutput::default()
        }))
    }
}

fn object_context(bucket: &str, key: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("aws:s3:arn".to_owned(), format!("arn:aws:s3:::{bucket}/{key}"))])
}

fn from_refusal(refusal: &Refusal) -> S3Error {
    let code = S3ErrorCode::from_bytes(refusal.code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut error = S3Error::with_message(code, refusal.message.clone());
    if let Ok(status) = http::StatusCode::from_u16(refusal.status) {
        error.set_status_code(status);
    }
    error
}
