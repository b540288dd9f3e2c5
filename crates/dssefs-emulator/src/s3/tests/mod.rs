//! The rules of S3, asked over HTTP messages: each test speaks in requests and answers, as a client sees them.
//! Signatures are not checked here, since the router checks them.

mod access;
mod annotations;
mod bodies;
mod buckets;
mod conditions;
mod copies;
mod encryption;
mod listings;
mod multipart;
mod objects;
mod versions;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Request};
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;

use super::keys::KeyService;
use super::{Annotations, Endpoint};
use crate::kms::{DataKey, Refusal};

/// A key of the requester.
const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555";
/// The AWS managed key.
const MANAGED_KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/aws-managed";
/// Of every error that the key service answers on demand.
const REFUSED: &str = "KMS.DisabledException";

const SSE: &str = "x-amz-server-side-encryption";
const SSE_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const SSE_CONTEXT: &str = "x-amz-server-side-encryption-context";
const SSE_BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";
const DSSE: [(&str, &str); 2] = [(SSE, "aws:kms:dsse"), (SSE_KEY, KEY)];

/// A call that S3 made to the key service.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Generate(String, BTreeMap<String, String>),
    Decrypt(String, BTreeMap<String, String>),
}

#[derive(Default)]
struct FakeKeys {
    calls: Mutex<Vec<Call>>,
    disabled: Mutex<bool>,
}

impl FakeKeys {
    fn record(&self, call: Call, key: &str) -> Result<(), Refusal> {
        self.calls.lock().unwrap().push(call);
        let message = format!("{key} is disabled.");
        let refusal = Refusal { status: 400, code: REFUSED.to_owned(), message };
        if *self.disabled.lock().unwrap() { Err(refusal) } else { Ok(()) }
    }
}

impl KeyService for FakeKeys {
    fn generate_data_key(&self, key: Option<&str>, context: &BTreeMap<String, String>) -> Result<DataKey, Refusal> {
        let key_arn = match key {
            None => MANAGED_KEY.to_owned(),
            Some(key) if key.starts_with("arn:") => key.to_owned(),
            Some(_) => KEY.to_owned(),
        };
        self.record(Call::Generate(key_arn.clone(), context.clone()), &key_arn)?;
        Ok(DataKey { key_arn })
    }

    fn decrypt(&self, key_arn: &str, context: &BTreeMap<String, String>) -> Result<(), Refusal> {
        self.record(Call::Decrypt(key_arn.to_owned(), context.clone()), key_arn)
    }
}

/// An endpoint with one bucket, `/b`.
struct World {
    dir: TempDir,
    keys: Arc<FakeKeys>,
    service: Option<S3Service>,
}

impl World {
    async fn new() -> World {
        let dir = TempDir::new().unwrap();
        let keys = Arc::new(FakeKeys::default());
        let service = Some(serve(&dir, &keys));
        let world = World { dir, keys, service };
        world.put("/bucket", &[], "").await.expect(200);
        world
    }

    /// The same directory after the process has died and come back.
    fn restart(&mut self) {
        self.stop();
        self.service = Some(serve(&self.dir, &self.keys));
    }

    /// Ends the service, which gives the directory free.
    fn stop(&mut self) {
        self.service = None;
    }

    async fn call(&self, request: Request<s3s::Body>) -> http::Response<s3s::Body> {
        self.service.as_ref().unwrap().call(request).await.unwrap()
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        let body: Vec<u8> = body.into();
        let mut request = Request::builder().method(method).uri(format!("http://localhost{path}"));
        if !headers.iter().any(|(name, _)| *name == "content-length") {
            request = request.header("content-length", body.len());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = self.call(request.body(s3s::Body::from(body)).unwrap()).await;
        let body = answer.body_mut().store_all_limited(usize::MAX).await.unwrap();
        Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), body: body.to_vec() }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, "").await
    }

    async fn head(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("HEAD", path, headers, "").await
    }

    async fn put(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        self.send("PUT", path, headers, body).await
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        self.send("POST", path, headers, body).await
    }

    async fn delete(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("DELETE", path, headers, "").await
    }

    /// Switches the versioning of the bucket.
    async fn versioning(&self, status: &str) {
        let body = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        self.put("/bucket?versioning", &[], body).await.expect(200);
    }

    /// Sets the default encryption of the bucket.
    async fn default_encryption(&self, algorithm: &str, key: &str) -> Answer {
        let key = if key.is_empty() { String::new() } else { format!("<KMSMasterKeyID>{key}</KMSMasterKeyID>") };
        let body = format!(
            "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>{algorithm}\
             </SSEAlgorithm>{key}</ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
        );
        self.put("/bucket?encryption", &[], body).await
    }

    /// Starts an upload and answers its id.
    async fn create_upload(&self, path: &str, headers: &[(&str, &str)]) -> String {
        self.post(&format!("{path}?uploads"), headers, "").await.expect(200).field("UploadId").unwrap()
    }

    /// Uploads a part and answers its ETag.
    async fn put_part(&self, path: &str, upload: &str, number: u32, body: impl Into<Vec<u8>>) -> String {
        let path = format!("{path}?partNumber={number}&uploadId={upload}");
        self.put(&path, &[], body).await.expect(200).header("etag").unwrap().to_owned()
    }

    async fn complete(&self, path: &str, upload: &str, parts: &[(u32, &str)], headers: &[(&str, &str)]) -> Answer {
        let part = |(number, etag): &(u32, &str)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", etag.replace('"', "&quot;"))
        };
        let parts: String = parts.iter().map(part).collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        self.post(&format!("{path}?uploadId={upload}"), headers, body).await
    }

    fn disable_keys(&self) {
        *self.keys.disabled.lock().unwrap() = true;
    }

    /// The calls to the key service since the last question.
    fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.keys.calls.lock().unwrap())
    }

    /// Files in the room for bodies.
    fn bodies(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("buckets/bucket/bodies")).unwrap().count()
    }
}

fn serve(dir: &TempDir, keys: &Arc<FakeKeys>) -> S3Service {
    let keys = Arc::clone(keys) as Arc<dyn KeyService>;
    let endpoint = Endpoint::with_keys(dir.path(), keys, "us-east-1", "111122223333").unwrap();
    let mut service = S3ServiceBuilder::new(endpoint.clone());
    service.set_route(Annotations::new(endpoint));
    service.build()
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Asserts an error by status and code, and that it comes with a sentence.
    #[track_caller]
    fn refused(self, status: u16, code: &str) -> String {
        assert_eq!((self.status, self.field("Code").as_deref()), (status, Some(code)), "{}", self.text());
        self.field("Message").expect("an error says why")
    }

    /// Asserts an error that never came as far as this room.
    #[track_caller]
    fn refused_by_s3s(self, status: u16, code: &str) {
        assert_eq!((self.status, self.field("Code").as_deref()), (status, Some(code)), "{}", self.text());
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of the first XML element of that name.
    fn field(&self, name: &str) -> Option<String> {
        self.fields(name).into_iter().next()
    }

    /// The texts of all XML elements of that name.
    fn fields(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let text = self.text();
        let inner = text.split(&open).skip(1).filter_map(|rest| rest.split(&close).next());
        inner.map(|inner| inner.replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")).collect()
    }
}

fn context(path: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("aws:s3:arn".to_owned(), format!("arn:aws:s3:::{path}"))])
}
