//! The endpoint as clients see it: the AWS SDK for S3 and KMS, and bare HTTP where the SDK would hide what happens.

use std::time::{Duration, Instant};

use aws_sdk_kms::primitives::Blob;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, ResponseChecksumValidation, SharedHttpClient};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::faults::{Fault, Plan, Rule};
use super::super::kms::{Action, NewKey};
use super::super::{Error, Options, Server};

const BUCKET: &str = "bucket";

struct World {
    server: Server,
    directory: TempDir,
}

impl World {
    async fn new() -> World {
        World::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Options)) -> World {
        let directory = tempfile::tempdir().unwrap();
        let mut options = Options::new(directory.path().to_owned());
        change(&mut options);
        let server = Server::start(options).await.unwrap();
        let world = World { server, directory };
        world.s3().create_bucket().bucket(BUCKET).send().await.unwrap();
        world.server.reset_counters();
        world
    }

    fn s3(&self) -> aws_sdk_s3::Client {
        self.s3_as("dssefs", "dssefs-secret")
    }

    fn s3_as(&self, access_key: &str, secret_key: &str) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(Credentials::new(access_key, secret_key, None, None, "test"))
            .region(Region::new("us-east-1"))
            .endpoint_url(self.server.url())
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            // Otherwise the SDK would turn a flipped byte into an error, and the test could not see which byte it was.
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .http_client(http_client(self.server.certificate_pem()))
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    fn kms(&self, secret_key: &str) -> aws_sdk_kms::Client {
        let config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(Credentials::new("dssefs", secret_key, None, None, "test"))
            .region(Region::new("us-east-1"))
            .endpoint_url(self.server.url())
            .retry_config(RetryConfig::disabled())
            .http_client(http_client(self.server.certificate_pem()))
            .build();
        aws_sdk_kms::Client::from_conf(config)
    }

    fn plan(&self, rules: Vec<Rule>) {
        self.server.set_faults(Plan::new(rules).unwrap());
    }

    async fn put(&self, key: &str, body: &'static [u8]) {
        let put = self.s3().put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(body));
        put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).send().await.unwrap();
    }

    /// The bytes of an object, or the code of the error; `None` for an error without a code, as of a broken connection.
    async fn get(&self, key: &str) -> Result<Vec<u8>, Option<String>> {
        let answer = self.s3().get_object().bucket(BUCKET).key(key).send().await.map_err(|error| code(&error))?;
        Ok(answer.body.collect().await.map_err(|_| None)?.into_bytes().to_vec())
    }

    /// One bare HTTP request on a new connection: the whole answer, up to the end of the connection.
    async fn raw(&self, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.server.address()).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn admin(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let address = self.server.address();
        let head = format!("{method} /_dssefs/{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        let key = "authorization: Basic ZHNzZWZzOmRzc2Vmcy1zZWNyZXQ=\r\n";
        let answer = self.raw(&format!("{head}{key}content-length: {length}\r\n\r\n{body}")).await.unwrap();
        let status = answer[9..12].parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
    }
}

fn http_client(certificate_pem: Option<&str>) -> SharedHttpClient {
    let mut trust = TrustStore::empty();
    if let Some(pem) = certificate_pem {
        trust = trust.with_pem_certificate(pem.as_bytes());
    }
    let context = TlsContext::builder().with_trust_store(trust).build().unwrap();
    Builder::new().tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc)).tls_context(context).build_https()
}

fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> Option<String> {
    error.as_service_error().and_then(|error| error.code()).map(str::to_owned)
}

#[tokio::test]
async fn a_stored_object_reads_back_and_is_counted() {
    let world = World::new().await;
    world.put("a", b"0123456789").await;
    assert_eq!(world.get("a").await.unwrap(), b"0123456789");
    let counters = world.server.counters();
    assert_eq!((counters.requests("PutObject"), counters.requests("GetObject"), counters.all_requests()), (1, 1, 2));
    assert!(counters.operation("PutObject").body_bytes_in >= 10);
    assert_eq!(counters.operation("GetObject").body_bytes_out, 10);
    assert_eq!(counters.kms_for_s3, [("Decrypt".to_owned(), 1), ("GenerateDataKey".to_owned(), 1)].into());
    assert!(counters.kms_direct.is_empty());
}

#[tokio::test]
async fn eight_mebibytes_stream_through_in_both_directions() {
    let world = World::new().await;
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let put = world.s3().put_object().bucket(BUCKET).key("large").body(ByteStream::from(bytes.clone()));
    put.send().await.unwrap();
    assert_eq!(world.get("large").await.unwrap(), bytes);
    assert_eq!(world.server.counters().operation("GetObject").body_bytes_out, 8 << 20);
}

#[tokio::test]
async fn tls_serves_with_a_certificate_that_a_restart_keeps() {
    let world = World::with(|options| options.tls = true).await;
    world.put("a", b"over tls").await;
    assert_eq!(world.get("a").await.unwrap(), b"over tls");
    let (World { server, directory }, options) =
        (world, |directory: &TempDir| Options::new(directory.path().to_owned()));
    let pem = server.certificate_pem().unwrap().to_owned();
    assert!(server.url().starts_with("https://127.0.0.1:"));
    server.stop().await;
    let again = Server::start(Options { tls: true, ..options(&directory) }).await.unwrap();
    assert_eq!(again.certificate_pem(), Some(pem.as_str()));
    assert_eq!(std::fs::read_to_string(directory.path().join("certificate.pem")).unwrap(), pem);
}

#[tokio::test]
async fn unknown_clients_and_wrong_secrets_are_refused() {
    let world = World::new().await;
    let list = async |access_key, secret_key| {
        let refused = world.s3_as(access_key, secret_key).list_buckets().send().await.unwrap_err();
        (code(&refused).unwrap(), refused.request_id().map(str::len), refused.raw_response().unwrap().status().as_u16())
    };
    assert_eq!(list("nobody", "dssefs-secret").await, ("InvalidAccessKeyId".to_owned(), Some(16), 403));
    assert_eq!(list("dssefs", "wrong").await, ("SignatureDoesNotMatch".to_owned(), Some(16), 403));
    let refused = world.kms("wrong").list_keys().send().await.unwrap_err();
    assert_eq!(code(&refused).unwrap(), "InvalidSignatureException");
}

#[tokio::test]
async fn every_answer_has_ids() {
    let world = World::new().await;
    let answer = world.raw("GET /bucket/a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let header =
        |name: &str| answer.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap().to_owned();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(header("server"), "dssefs");
    let (id, host) = (header("x-amz-request-id"), header("x-amz-id-2"));
    assert!(answer.contains(&format!("<RequestId>{id}</RequestId><HostId>{host}</HostId></Error>")), "{answer}");
}

#[tokio::test]
async fn a_bucket_may_stand_in_the_host() {
    let world = World::new().await;
    world.put("a", b"by host").await;
    let presigned = aws_sdk_s3::presigning::PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let config = world.s3().config().to_builder().force_path_style(false);
    let port = world.server.address().port();
    let config = config.endpoint_url(format!("http://localhost:{port}")).build();
    let by_host = aws_sdk_s3::Client::from_conf(config).get_object().bucket(BUCKET).key("a").presigned(presigned);
    let uri: http::Uri = by_host.await.unwrap().uri().parse().unwrap();
    let (host, path) = (uri.authority().unwrap(), uri.path_and_query().unwrap());
    assert_eq!(host.as_str(), format!("{BUCKET}.localhost:{port}"));
    let answer = world.raw(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nby host"), "{answer}");
}

#[tokio::test]
async fn the_sdk_makes_keys_and_uses_them() {
    let world = World::new().await;
    let kms = world.kms("dssefs-secret");
    let arn = kms.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap();
    kms.create_alias().alias_name("alias/mine").target_key_id(&arn).send().await.unwrap();
    let described = kms.describe_key().key_id("alias/mine").send().await.unwrap().key_metadata.unwrap();
    assert_eq!(described.arn.as_deref(), Some(arn.as_str()));
    let data_key = kms.generate_data_key().key_id("alias/mine").number_of_bytes(32).encryption_context("a", "b");
    let data_key = data_key.send().await.unwrap();
    let blob: Blob = data_key.ciphertext_blob.unwrap();
    let opened = kms.decrypt().ciphertext_blob(blob.clone()).encryption_context("a", "b").send().await.unwrap();
    assert_eq!(opened.plaintext, data_key.plaintext);
    assert!(
        kms.decrypt()
            .ciphertext_blob(blob)
            .send()
            .await
            .unwrap_err()
            .into_service_error()
            .is_invalid_ciphertext_exception()
    );
    kms.disable_key().key_id(&arn).send().await.unwrap();
    let refused =
        kms.generate_data_key().key_id(&arn).number_of_bytes(32).send().await.unwrap_err().into_service_error();
    assert!(refused.is_disabled_exception());
    assert_eq!(refused.message(), Some(format!("{arn} is disabled.").as_str()));
    assert_eq!(world.server.counters().kms_direct["GenerateDataKey"], 2);
    assert!(world.server.counters().kms_for_s3.is_empty());
}

#[tokio::test]
async fn s3_clients_learn_the_state_of_a_key() {
    let world = World::new().await;
    let arn = world.server.kms().create_key(NewKey::default()).unwrap().arn;
    let put = world.s3().put_object().bucket(BUCKET).key("a").ssekms_key_id(&arn);
    put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).send().await.unwrap();
    world.server.kms().disable(&arn).unwrap();
    assert_eq!(world.get("a").await, Err(Some("KMS.DisabledException".to_owned())));
    world.server.kms().enable(&arn).unwrap();
    world.server.kms().deny(&arn, Action::Decrypt).unwrap();
    assert_eq!(world.get("a").await, Err(Some("AccessDenied".to_owned())));
    world.server.kms().allow(&arn, Action::Decrypt).unwrap();
    assert_eq!(world.get("a").await, Ok(Vec::new()));
}

#[tokio::test]
async fn failures_strike_as_planned_and_then_no_more() {
    let world = World::new().await;
    world.put("a", b"x").await;
    let failure = Fault::Failure { status: 503, code: "SlowDown".into(), message: "Slow.".into() };
    world.plan(vec![Rule::on("GetObject", failure).key_contains("a").nth(2)]);
    assert!(world.get("a").await.is_ok());
    assert_eq!(world.get("a").await, Err(Some("SlowDown".to_owned())));
    assert!(world.get("a").await.is_ok());
    let standing = &world.server.faults()[0];
    assert_eq!((standing.seen, standing.struck, standing.left), (3, 1, Some(0)));
}

#[tokio::test]
async fn throttled_kms_is_slow_down_for_that_request() {
    let world = World::new().await;
    world.put("a", b"x").await;
    world.plan(vec![Rule::on("GetObject", Fault::ThrottleKms)]);
    let refused = world.s3().get_object().bucket(BUCKET).key("a").send().await.unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 503);
    let refused = refused.into_service_error();
    let text = "Please reduce your request rate for operations involving AWS KMS.";
    assert_eq!((refused.code(), refused.message()), (Some("SlowDown"), Some(text)));
    assert!(world.get("a").await.is_ok());
}

#[tokio::test]
async fn an_answer_is_flipped_or_cut_where_planned() {
    let world = World::new().await;
    world.put("a", b"0123456789").await;
    world.plan(vec![Rule::on("GetObject", Fault::FlipByte(3)), Rule::on("GetObject", Fault::CutBodyAfter(4)).nth(2)]);
    assert_eq!(world.get("a").await.unwrap(), b"0122456789");
    let mut answer = world.s3().get_object().bucket(BUCKET).key("a").send().await.unwrap();
    assert_eq!(answer.content_length(), Some(10));
    let mut received = Vec::new();
    let end = loop {
        match answer.body.next().await {
            Some(Ok(bytes)) => received.extend_from_slice(&bytes),
            end => break end,
        }
    };
    assert_eq!((received.as_slice(), end.unwrap().is_err()), (&b"0123"[..], true));
}

#[tokio::test]
async fn encryption_headers_are_replaced_or_removed() {
    let world = World::new().await;
    let none = Fault::Sse { algorithm: None, key: None, bucket_key: None };
    let weak = Fault::Sse { algorithm: Some("aws:kms".into()), key: Some("other".into()), bucket_key: Some(true) };
    world.plan(vec![Rule::on("PutObject", none), Rule::on("PutObject", weak).nth(2)]);
    let put = async || {
        let put =
            world.s3().put_object().bucket(BUCKET).key("a").server_side_encryption(ServerSideEncryption::AwsKmsDsse);
        let answer = put.send().await.unwrap();
        let algorithm = answer.server_side_encryption().map(|algorithm| algorithm.as_str().to_owned());
        (algorithm, answer.ssekms_key_id().map(str::to_owned), answer.bucket_key_enabled())
    };
    assert_eq!(put().await, (None, None, None));
    assert_eq!(put().await, (Some("aws:kms".into()), Some("other".into()), Some(true)));
    let (algorithm, key, bucket_key) = put().await;
    assert_eq!((algorithm.as_deref(), bucket_key), (Some("aws:kms:dsse"), None));
    assert!(key.unwrap().starts_with("arn:aws:kms:us-east-1:111122223333:key/"));
}

#[tokio::test]
async fn a_lost_answer_leaves_the_work_done() {
    let world = World::new().await;
    world.plan(vec![Rule::on("PutObject", Fault::LoseAnswer), Rule::on("PutObject", Fault::Reset).nth(2)]);
    let put = async |key: &str| {
        world.s3().put_object().bucket(BUCKET).key(key).send().await.map_err(|error| code(&error)).err()
    };
    assert_eq!(put("lost").await, Some(None));
    assert_eq!(put("reset").await, Some(None));
    assert_eq!(world.get("lost").await, Ok(Vec::new()));
    assert_eq!(world.get("reset").await, Err(Some("NoSuchKey".to_owned())));
}

#[tokio::test]
async fn a_reset_is_a_reset_and_no_orderly_end() {
    let world = World::new().await;
    world.plan(vec![Rule::on("ListBuckets", Fault::Reset)]);
    let refused = world.raw("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_copy_may_fail_after_its_status_of_200() {
    let world = World::new().await;
    let fault = Fault::OkWithErrorBody { code: "InternalError".into(), message: "Again, please.".into() };
    world.plan(vec![Rule::on("CopyObject", fault)]);
    let refused = world.s3().copy_object().bucket(BUCKET).key("b").copy_source("bucket/a").send().await.unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 200);
    assert_eq!(code(&refused).as_deref(), Some("InternalError"));
}

#[tokio::test]
async fn a_stall_lasts_until_the_client_leaves() {
    let world = World::new().await;
    world.put("a", b"x").await;
    world.plan(vec![Rule::on("GetObject", Fault::DelayMs(200)), Rule::on("GetObject", Fault::Stall).nth(2)]);
    let start = Instant::now();
    assert!(world.get("a").await.is_ok());
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert!(tokio::time::timeout(Duration::from_millis(300), world.get("a")).await.is_err());
    assert!(world.get("a").await.is_ok());
    // The stalled request ended with its client, so the stop need not wait for it.
    let start = Instant::now();
    world.server.stop().await;
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn calls_of_kms_can_be_made_to_fail_too() {
    let world = World::new().await;
    let failure = Fault::Failure { status: 400, code: "ThrottlingException".into(), message: "Rate exceeded".into() };
    world.plan(vec![Rule::on("kms:ListKeys", failure)]);
    let refused = world.kms("dssefs-secret").list_keys().send().await.unwrap_err();
    assert_eq!(code(&refused).as_deref(), Some("ThrottlingException"));
    world.kms("dssefs-secret").list_keys().send().await.unwrap();
}

#[tokio::test]
async fn the_administrative_addresses_speak_json() {
    let world = World::new().await;
    let arn = world.server.kms().create_key(NewKey::default()).unwrap().arn;
    let plan = r#"[{"operation":"GetObject","fault":"reset","times":3}]"#;
    assert_eq!(world.admin("POST", "faults", plan).await.0, 200);
    let (_, standing) = world.admin("GET", "faults", "").await;
    assert_eq!((&standing[0]["left"], &standing[0]["fault"]), (&json!(3), &json!("reset")));
    let (status, refused) =
        world.admin("POST", "faults", r#"[{"operation":"HeadObject","fault":{"flip_byte":0}}]"#).await;
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().starts_with("`flip_byte` cannot be used with HeadObject"), "{refused}");
    assert_eq!(world.server.faults().len(), 1, "a refused plan must not replace the one in force");
    let deny = json!({ "key": arn, "action": "kms:GenerateDataKey" }).to_string();
    assert_eq!(world.admin("POST", "kms/deny", &deny).await.0, 200);
    let put = world.s3().put_object().bucket(BUCKET).key("a").ssekms_key_id(&arn);
    let refused = put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).send().await.unwrap_err();
    assert_eq!(code(&refused).as_deref(), Some("AccessDenied"));
    let (_, trail) = world.admin("GET", "kms/trail", "").await;
    assert_eq!(trail[0]["context"]["aws:s3:arn"], "arn:aws:s3:::bucket/a");
    let (_, counters) = world.admin("GET", "counters", "").await;
    assert_eq!(
        (&counters["s3"]["PutObject"]["requests"], &counters["kms_for_s3"]["GenerateDataKey"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(world.admin("POST", "counters/reset", "").await.0, 200);
    assert_eq!(world.server.counters().all_requests(), 0);
    assert_eq!(world.admin("GET", "nothing", "").await.0, 404);
}

#[tokio::test]
async fn administration_needs_the_key_and_this_host() {
    let world = World::new().await;
    let address = world.server.address();
    let ask = async |host: &str, key: &str| {
        let head = format!("GET /_dssefs/counters HTTP/1.1\r\nhost: {host}\r\n{key}connection: close\r\n\r\n");
        world.raw(&head).await.unwrap()[9..12].to_owned()
    };
    let key = "authorization: Basic ZHNzZWZzOmRzc2Vmcy1zZWNyZXQ=\r\n";
    assert_eq!(ask(&address.to_string(), key).await, "200");
    assert_eq!(ask(&address.to_string(), "").await, "401");
    assert_eq!(ask(&format!("rebound.example:{}", address.port()), key).await, "403");
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_stop() {
    let world = World::new().await;
    world.put("a", b"x").await;
    world.plan(vec![Rule::on("GetObject", Fault::DelayMs(500))]);
    let client = world.s3();
    let get = tokio::spawn(async move { client.get_object().bucket(BUCKET).key("a").send().await.is_ok() });
    while world.server.faults()[0].struck == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.server.stop().await;
    assert!(get.await.unwrap());
}

#[tokio::test]
async fn one_directory_takes_one_endpoint_at_a_time() {
    let world = World::new().await;
    let second = || Server::start(Options::new(world.directory.path().to_owned()));
    assert!(matches!(second().await.err(), Some(Error::InUse { .. })));
    let directory = world.directory;
    world.server.stop().await;
    Server::start(Options::new(directory.path().to_owned())).await.unwrap().stop().await;
}
