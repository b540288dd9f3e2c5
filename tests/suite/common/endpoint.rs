//! An endpoint in this process, with a bucket and a key.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ServerSideEncryption,
    VersioningConfiguration,
};
use aws_smithy_http_client::Builder;
use dssefs_emulator::faults::{Fault, Plan, Rule};
use dssefs_emulator::kms::{Kms, NewKey};
use dssefs_emulator::{Counters, Options, Server};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const BUCKET: &str = "tests";
pub(crate) const REGION: &str = "us-east-1";
pub(crate) const ACCESS_KEY: &str = "dssefs";
pub(crate) const SECRET_KEY: &str = "dssefs-secret";

/// A store with one bucket and one key, and an ordinary client that knows nothing of the mount.
pub(crate) struct Endpoint {
    runtime: Runtime,
    server: Option<Server>,
    client: Client,
    key_arn: String,
    dir: TempDir,
}

impl Endpoint {
    pub(crate) fn start() -> Endpoint {
        Endpoint::start_in(tempfile::tempdir().expect("a temporary directory"), None)
    }

    /// An endpoint that has these objects already, of a few bytes each: far more of them than could be put in the time
    /// of a test.
    pub(crate) fn with_objects(keys: impl IntoIterator<Item = String>) -> Endpoint {
        const PATTERN: &str = "the key of the pattern";
        let mut endpoint = Endpoint::start();
        let key_arn = endpoint.key_arn.clone();
        endpoint.with(|s3| async move {
            // As mounts store short files: a listing proves that it is one.
            let put = s3.put_object().bucket(BUCKET).key(PATTERN).checksum_algorithm(ChecksumAlgorithm::Crc32C);
            let put = put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).ssekms_key_id(key_arn);
            put.body(ByteStream::from_static(b"content")).send().await.expect("the pattern is stored");
        });
        if let Some(server) = endpoint.server.take() {
            endpoint.runtime.block_on(server.stop());
        }
        let records = endpoint.dir.path().join("s3/buckets").join(BUCKET).join("keys");
        let pattern =
            std::fs::read_dir(&records).expect("records").next().expect("one record").expect("its name").path();
        let record = std::fs::read_to_string(&pattern).expect("a record");
        std::fs::remove_file(pattern).expect("the pattern is no object of the test");
        for key in keys {
            let name = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let record = record.replace(PATTERN, &key);
            std::fs::write(records.join(format!("{name}.json")), record).expect("a record is written");
        }
        // Taken out of an endpoint that has stopped; it is dropped with a directory of no use.
        let dir = std::mem::replace(&mut endpoint.dir, tempfile::tempdir().expect("a temporary directory"));
        Endpoint::start_in(dir, Some(endpoint.key_arn.clone()))
    }

    fn start_in(dir: TempDir, key_arn: Option<String>) -> Endpoint {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options = Options {
            region: REGION.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            buckets: vec![BUCKET.to_owned()],
            ..Options::new(dir.path().to_owned())
        };
        let server = runtime.block_on(Server::start(options)).expect("the endpoint starts");
        let client = client(&server.url());
        let new_key = || server.kms().create_key(NewKey::default()).expect("a key is made").arn;
        let key_arn = key_arn.unwrap_or_else(new_key);
        Endpoint { runtime, server: Some(server), client, key_arn, dir }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the endpoint runs until it is dropped")
    }

    pub(crate) fn url(&self) -> String {
        self.server().url()
    }

    pub(crate) fn key_arn(&self) -> &str {
        &self.key_arn
    }

    pub(crate) fn kms(&self) -> &Arc<Kms> {
        self.server().kms()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.server().counters()
    }

    pub(crate) fn reset(&self) {
        self.server().reset_counters();
    }

    /// What `work` asks of the endpoint. Requests under way before are not waited for: settle first.
    pub(crate) fn counted<T>(&self, work: impl FnOnce() -> T) -> (T, Counters) {
        self.reset();
        let value = work();
        (value, self.counters())
    }

    /// The next requests of these operations fail in these ways.
    pub(crate) fn inject_faults(&self, rules: Vec<Rule>) {
        self.server().set_faults(Plan::new(rules).expect("a plan that can strike"));
    }

    pub(crate) fn inject_fault(&self, operation: &str, fault: Fault) {
        self.inject_faults(vec![Rule::on(operation, fault)]);
    }

    /// How many requests the faults in force have struck.
    pub(crate) fn struck(&self) -> u64 {
        self.server().faults().iter().map(|standing| standing.struck).sum()
    }

    /// How many requests they have left without an answer.
    pub(crate) fn stalled(&self) -> u64 {
        let stalls = |fault: &Fault| matches!(fault, Fault::Stall | Fault::StallAnswer);
        let standing = self.server().faults();
        standing.iter().filter(|standing| stalls(&standing.rule.fault)).map(|standing| standing.struck).sum()
    }

    pub(crate) fn clear_faults(&self) {
        self.server().set_faults(Plan::default());
    }

    /// Waits for what `work` does with the ordinary client.
    pub(crate) fn with<F: Future>(&self, work: impl FnOnce(Client) -> F) -> F::Output {
        // The compiler would make the runtime's loop again for each future that has a type of its own.
        let work: Pin<Box<dyn Future<Output = F::Output> + '_>> = Box::pin(work(self.client.clone()));
        self.runtime.block_on(work)
    }

    /// The object, or nothing.
    pub(crate) fn head(&self, key: &str) -> Option<HeadObjectOutput> {
        self.with(|s3| async move {
            match s3.head_object().bucket(BUCKET).key(key).send().await {
                Ok(head) => Some(head),
                Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => None,
                Err(error) => panic!("HEAD {key}: {error:?}"),
            }
        })
    }

    /// The whole content, as an ordinary client reads it.
    pub(crate) fn content(&self, key: &str) -> Vec<u8> {
        self.with(|s3| async move {
            let got = s3
                .get_object()
                .bucket(BUCKET)
                .key(key)
                .send()
                .await
                .unwrap_or_else(|error| panic!("GET {key}: {error:?}"));
            // Not to_vec(), which takes them one by one.
            got.body.collect().await.expect("the whole body").into_bytes().into()
        })
    }

    /// Puts an object as DSSE-KMS under the key of the mount, as another host would.
    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        self.put_as(key, content, Some(ServerSideEncryption::AwsKmsDsse), Some(&self.key_arn));
    }

    /// Puts an object with any encryption.
    pub(crate) fn put_as(&self, key: &str, content: &[u8], sse: Option<ServerSideEncryption>, key_arn: Option<&str>) {
        let body = ByteStream::from(content.to_vec());
        self.with(|s3| async move {
            let put = s3.put_object().bucket(BUCKET).key(key).body(body);
            let put = put.set_server_side_encryption(sse).set_ssekms_key_id(key_arn.map(str::to_owned));
            put.send().await.unwrap_or_else(|error| panic!("PUT {key}: {error:?}"));
        });
    }

    /// Puts an object of `gibibytes` GiB.
    pub(crate) fn put_gibibytes(&self, key: &'static str, gibibytes: i32) {
        self.put_repeated(key, gibibytes * 16);
    }

    /// Puts an object of `times` times 64 MiB, of which the client sends 64 MiB, `noise(9, 64 MiB)`, and the endpoint
    /// links them again and again.
    pub(crate) fn put_repeated(&self, key: &'static str, times: i32) {
        self.put("seed", &super::noise(9, 64 << 20));
        let key_arn = self.key_arn.clone();
        self.with(|s3| async move {
            let begun = s3.create_multipart_upload().bucket(BUCKET).key(key).ssekms_key_id(key_arn);
            let begun = begun.server_side_encryption(ServerSideEncryption::AwsKmsDsse).send().await.expect("an upload");
            let id = begun.upload_id().expect("an id");
            let mut parts = CompletedMultipartUpload::builder();
            for number in 1..=times {
                let part = s3.upload_part_copy().bucket(BUCKET).key(key).upload_id(id).part_number(number);
                let part = part.copy_source(format!("{BUCKET}/seed")).send().await.expect("a part");
                let etag = part.copy_part_result().and_then(|result| result.e_tag()).expect("an ETag");
                parts = parts.parts(CompletedPart::builder().part_number(number).e_tag(etag).build());
            }
            let complete = s3.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id);
            complete.multipart_upload(parts.build()).send().await.expect("an object");
        });
    }

    pub(crate) fn delete(&self, key: &str) {
        self.with(|s3| async move {
            s3.delete_object()
                .bucket(BUCKET)
                .key(key)
                .send()
                .await
                .unwrap_or_else(|error| panic!("DELETE {key}: {error:?}"));
        });
    }

    /// All keys, in order.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.with(|s3| async move {
            let mut pages = s3.list_objects_v2().bucket(BUCKET).into_paginator().send();
            let mut keys = Vec::new();
            while let Some(page) = pages.next().await {
                let page = page.expect("a listing");
                keys.extend(page.contents().iter().filter_map(|object| object.key()).map(str::to_owned));
            }
            keys
        })
    }

    /// Switches versioning of the bucket on.
    pub(crate) fn keep_versions(&self) {
        self.with(|s3| async move {
            let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            let put = s3.put_bucket_versioning().bucket(BUCKET).versioning_configuration(enabled);
            put.send().await.expect("a bucket with versions");
        });
    }

    /// Versions of all objects, markers of deletions among them.
    pub(crate) fn versions(&self) -> usize {
        self.with(|s3| async move {
            let listed = s3.list_object_versions().bucket(BUCKET).send().await.expect("a listing of versions");
            listed.versions().len() + listed.delete_markers().len()
        })
    }

    /// Multipart uploads that are neither completed nor aborted.
    pub(crate) fn uploads(&self) -> usize {
        self.with(|s3| async move {
            let listed = s3.list_multipart_uploads().bucket(BUCKET).send().await.expect("a listing of uploads");
            listed.uploads().len()
        })
    }

    /// Those of them that have parts.
    pub(crate) fn uploads_with_parts(&self) -> usize {
        self.with(|s3| async move {
            let listed = s3.list_multipart_uploads().bucket(BUCKET).send().await.expect("a listing of uploads");
            let mut count = 0;
            for upload in listed.uploads() {
                let parts = s3.list_parts().bucket(BUCKET).set_key(upload.key.clone());
                let parts = parts.set_upload_id(upload.upload_id.clone()).send().await.expect("a listing of parts");
                count += usize::from(!parts.parts().is_empty());
            }
            count
        })
    }

    /// Those of them that are for this key.
    pub(crate) fn uploads_of(&self, key: &str) -> usize {
        self.with(|s3| async move {
            let listed = s3.list_multipart_uploads().bucket(BUCKET).prefix(key).send().await;
            listed.expect("a listing of uploads").uploads().len()
        })
    }

    /// Asserts that the object is what the mount promises.
    pub(crate) fn assert_dsse(&self, key: &str) {
        let head = self.head(key).unwrap_or_else(|| panic!("{key} is not there"));
        assert_eq!(head.server_side_encryption(), Some(&ServerSideEncryption::AwsKmsDsse), "{key}");
        assert_eq!(head.ssekms_key_id(), Some(self.key_arn.as_str()), "{key}");
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
        // The directory goes when the field does; named here, as nothing else reads it.
        let _ = &self.dir;
    }
}

/// A client of KMS over plain http.
pub(crate) fn kms_client(url: &str) -> aws_sdk_kms::Client {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(url)
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
        .http_client(Builder::new().build_http())
        .build();
    aws_sdk_kms::Client::from_conf(config)
}

/// A client over plain http, which needs no TLS.
pub(crate) fn client(url: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(url)
        .force_path_style(true)
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
        .http_client(Builder::new().build_http())
        .build();
    Client::from_conf(config)
}
