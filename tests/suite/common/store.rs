//! An embedded endpoint with one bucket, a gateway to it, and the count of what was asked of it.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it, from a module of its own")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dssefs_emulator::faults::{Fault, Plan, Rule};
use dssefs_emulator::kms::NewKey;
use dssefs_emulator::{Options, Server};
use dssefs_s3::object::{Bucket, Key, UserMetadata, Version};
use dssefs_s3::policy::{EncryptionContext, KeyArn, Policy};
use dssefs_s3::s3::{AccessKey, Condition, Connection, Gateway, Head, LastWriterWins, NewObject};
use futures_util::StreamExt;

/// For writes that may replace anything, as those of other hosts do.
pub const ANY: Condition = Condition::Any(LastWriterWins::asked_for());

/// The store of one test.
pub struct Store {
    pub server: Server,
    pub gateway: Arc<Gateway>,
    client: aws_sdk_s3::Client,
    _data: tempfile::TempDir,
}

impl Store {
    pub async fn start() -> Store {
        let data = tempfile::tempdir().unwrap();
        let server = Server::start(Options::new(data.path().to_owned())).await.unwrap();
        let key = KeyArn::new(&server.kms().create_key(NewKey::default()).unwrap().arn).unwrap();
        let connection = Connection {
            region: Some("us-east-1".into()),
            endpoint_url: Some(server.url()),
            force_path_style: true,
            attempts_max: 1,
            attempt_timeout: Duration::from_secs(10),
            ..Connection::default()
        };
        let access_key = AccessKey { id: "dssefs".into(), secret: "dssefs-secret".into() };
        let config = dssefs_s3::s3::load_as(&connection, access_key).await.unwrap();
        let builder = aws_sdk_s3::config::Builder::from(&config).endpoint_url(server.url()).force_path_style(true);
        let client = aws_sdk_s3::Client::from_conf(builder.build());
        client.create_bucket().bucket("data").send().await.unwrap();
        let policy = Policy { key: Some(key), context: EncryptionContext::default() };
        let gateway = Arc::new(Gateway::new(&config, &connection, Bucket::new("data").unwrap(), policy));
        server.reset_counters();
        Store { server, gateway, client, _data: data }
    }

    /// Stores an object as another host would, and starts counting anew.
    pub async fn put(&self, key: &str, content: impl Into<Bytes>, user: &[(&str, &str)]) -> Version {
        let user: UserMetadata = user.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let object = NewObject { user, ..NewObject::at(at(key)) };
        let stored = self.gateway.put(&object, Arc::new(content.into()), &ANY).await.unwrap();
        self.server.reset_counters();
        stored.version.clone()
    }

    /// Stores an object under SSE-S3, as a program does that knows no KMS: its ETag is the MD5 of its content.
    pub async fn put_plain(&self, key: &str, content: impl Into<Bytes>, mode: u32) {
        let put = self.client.put_object().bucket("data").key(key).metadata("mode", mode.to_string());
        let put = put.server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::Aes256);
        put.body(aws_sdk_s3::primitives::ByteStream::from(content.into())).send().await.unwrap();
        self.server.reset_counters();
    }

    /// Stores empty objects, many at a time, and starts counting anew.
    pub async fn put_all(&self, keys: impl Iterator<Item = String>, user: &[(&str, &str)]) {
        futures_util::stream::iter(keys)
            .for_each_concurrent(32, async |key| drop(self.put(&key, "", user).await))
            .await;
        self.server.reset_counters();
    }

    pub async fn remove(&self, key: &str) {
        self.gateway.delete(&at(key), LastWriterWins::asked_for()).await.unwrap();
        self.server.reset_counters();
    }

    /// What the store has under a key; not counted.
    pub async fn head(&self, key: &str) -> Option<Head> {
        let head = self.gateway.head(&at(key)).await.ok();
        self.server.reset_counters();
        head
    }

    /// Faults for the requests whose key contains a text; for all, listings of the root too, when it is empty.
    pub fn fail(&self, operation: &str, key_contains: &str, times: u64, fault: Fault) {
        let (operation, text) = (operation.into(), key_contains);
        let key_contains = (!text.is_empty()).then(|| text.into());
        self.server.set_faults(Plan::new(vec![Rule { operation, key_contains, nth: 1, times, fault }]).unwrap());
    }

    /// The same for several operations, and every time.
    pub fn fail_all(&self, faults: &[(&str, &str, Fault)]) {
        let rule = |(operation, text, fault): &(&str, &str, Fault)| Rule {
            operation: (*operation).into(),
            key_contains: Some((*text).into()),
            nth: 1,
            times: 0,
            fault: fault.clone(),
        };
        self.server.set_faults(Plan::new(faults.iter().map(rule).collect()).unwrap());
    }

    /// Waits until the faults in force have struck a request, for at most 10 seconds.
    pub async fn until_struck(&self) {
        let struck = async {
            while self.server.faults().iter().all(|standing| standing.struck == 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), struck).await.expect("a fault strikes a request");
    }

    pub fn clear_faults(&self) {
        self.server.set_faults(Plan::default());
    }

    /// What was asked since the last time, by operation; starts counting anew.
    pub fn asked(&self) -> BTreeMap<String, u64> {
        let counters = self.server.counters();
        self.server.reset_counters();
        counters
            .s3
            .into_iter()
            .filter(|(_, count)| count.requests > 0)
            .map(|(name, count)| (name, count.requests))
            .collect()
    }
}

pub fn at(key: &str) -> Key {
    Key::new(key).unwrap()
}

/// What [`Store::asked`] answers.
pub fn requests(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts.iter().map(|(name, count)| ((*name).into(), *count)).collect()
}
