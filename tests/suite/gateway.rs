//! The gateway against the embedded endpoint: what goes over the wire, what is judged, and what is left behind when the
//! store does not do as it was asked.
#![cfg(feature = "serve")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use bytes::Bytes;
use dssefs_emulator::faults::{Fault, Plan, Rule};
use dssefs_emulator::kms::NewKey;
use dssefs_emulator::{Options, Server};
use dssefs_s3::kms::Kms;
use dssefs_s3::object::{Bucket, ByteRange, Crc64, Key};
use dssefs_s3::policy::{Algorithm, EncryptionContext, Evidence, KeyArn, Policy, Verdict};
use dssefs_s3::s3::{
    AccessKey, Condition, Connection, Download, Error, Gateway, Kind, LastWriterWins, ListRequest, NewObject,
    OtherCopy, Payload, Source, Versioning, load_as,
};

use crate::common::store::ANY;

const MIB: usize = 1024 * 1024;

/// An endpoint with one bucket and one key, and a gateway to it.
struct World {
    server: Server,
    gateway: Arc<Gateway>,
    /// For what the gateway has no verb for.
    client: aws_sdk_s3::Client,
    connection: Connection,
    key: KeyArn,
    _data: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        World::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Connection)) -> World {
        World::build(false, change).await
    }

    async fn build(tls: bool, change: impl FnOnce(&mut Connection)) -> World {
        let data = tempfile::tempdir().unwrap();
        let mut options = Options::new(data.path().to_owned());
        options.tls = tls;
        let server = Server::start(options).await.unwrap();
        let key = KeyArn::new(&server.kms().create_key(NewKey::default()).unwrap().arn).unwrap();
        let mut connection = Connection {
            region: Some("us-east-1".into()),
            endpoint_url: Some(server.url()),
            kms_endpoint_url: Some(server.url()),
            force_path_style: true,
            attempts_max: 3,
            attempt_timeout: Duration::from_secs(5),
            ..Connection::default()
        };
        if let Some(pem) = server.certificate_pem() {
            let path = data.path().join("trusted.pem");
            std::fs::write(&path, pem).unwrap();
            connection.ca_bundle = Some(path);
        }
        change(&mut connection);
        let config = load(&connection).await;
        let settings = aws_sdk_s3::config::Builder::from(&config).endpoint_url(server.url()).force_path_style(true);
        let client = aws_sdk_s3::Client::from_conf(settings.build());
        client.create_bucket().bucket("data").send().await.unwrap();
        let context = EncryptionContext::parse(&["project=x"]).unwrap();
        let policy = Policy { key: Some(key.clone()), context };
        let gateway = Arc::new(Gateway::new(&config, &connection, Bucket::new("data").unwrap(), policy));
        server.reset_counters();
        World { server, gateway, client, connection, key, _data: data }
    }

    fn fail(&self, rules: Vec<Rule>) {
        self.server.set_faults(Plan::new(rules).unwrap());
    }

    async fn put(
        &self,
        key: &str,
        content: impl Into<Bytes>,
    ) -> Result<dssefs_s3::s3::Verified<dssefs_s3::s3::Stored>, Error> {
        self.gateway.put(&new(key), Arc::new(content.into()), &ANY).await
    }

    async fn read(&self, key: &str) -> Result<Bytes, Error> {
        collect(self.gateway.get(&at(key), None, None).await?).await
    }

    fn requests(&self, operation: &str) -> u64 {
        self.server.counters().requests(operation)
    }
}

async fn load(connection: &Connection) -> aws_config::SdkConfig {
    let access_key = AccessKey { id: "dssefs".into(), secret: "dssefs-secret".into() };
    load_as(connection, access_key).await.unwrap()
}

fn at(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn new(key: &str) -> NewObject {
    NewObject::at(at(key))
}

fn content(bytes: usize, seed: u8) -> Bytes {
    (0..bytes).map(|i| (i / 7) as u8 ^ (i >> 13) as u8 ^ seed).collect()
}

async fn collect(mut download: Download) -> Result<Bytes, Error> {
    let mut whole = Vec::new();
    while let Some(chunk) = download.next().await {
        whole.extend_from_slice(&chunk?);
    }
    Ok(whole.into())
}

fn sse(algorithm: Option<&str>, key: Option<&str>) -> Fault {
    Fault::Sse { algorithm: algorithm.map(str::to_owned), key: key.map(str::to_owned), bucket_key: None }
}

/// Content in small chunks, one of which may be unreadable.
struct Chunked {
    content: Bytes,
    broken_at: Option<usize>,
}

impl Payload for Chunked {
    fn len(&self) -> u64 {
        self.content.len() as u64
    }

    fn crc64(&self) -> io::Result<Crc64> {
        self.content.crc64()
    }

    fn chunks(&self) -> Box<dyn Iterator<Item = io::Result<Bytes>> + Send + Sync> {
        let (content, broken_at) = (self.content.clone(), self.broken_at);
        Box::new((0..content.len().div_ceil(64 * 1024)).map(move |index| {
            if broken_at == Some(index) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "block 1 of the spill was changed"));
            }
            Ok(content.slice(index * 64 * 1024..content.len().min((index + 1) * 64 * 1024)))
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_comes_back_as_it_was_written_with_proof_of_its_encryption() {
    let world = World::new().await;
    let mut object = new("a b/c+d é");
    object.user = BTreeMap::from([("mode".to_owned(), "33188".to_owned())]);
    object.content_type = Some("text/plain".into());
    object.content_headers = BTreeMap::from([
        ("cache-control".into(), "no-cache".into()),
        ("expires".into(), "Thu, 21 Oct 2027 07:28:00 GMT".into()),
    ]);
    object.storage_class = Some("STANDARD_IA".into());
    object.tags = Some("k=v%20w&l=1".into());
    let stored = world.gateway.put(&object, Arc::new(Bytes::from_static(b"hello")), &Condition::Absent).await.unwrap();
    assert_eq!(stored.encryption.facts.algorithm, Algorithm::Dsse);
    assert_eq!(stored.encryption.facts.key_arn.as_deref(), Some(world.key.as_str()));
    assert_eq!(stored.encryption.evidence, Evidence::Put);
    assert!(stored.encryption.request_id.is_some());

    let kms_calls = world.server.counters().all_kms_for_s3();
    let head = world.gateway.head(&object.key).await.unwrap();
    assert_eq!(world.server.counters().all_kms_for_s3(), kms_calls, "a plain HEAD asks nothing of KMS");
    assert_eq!(head.meta.version, stored.version);
    assert_eq!((head.meta.size, &head.meta.user), (5, &object.user));
    assert_eq!((&head.meta.content_type, &head.meta.content_headers), (&object.content_type, &object.content_headers));
    assert_eq!((head.meta.storage_class.as_str(), head.meta.tag_count), ("STANDARD_IA", 2));
    assert_eq!(head.encryption.evidence, Evidence::Head);
    assert_eq!(world.gateway.judge(&head.encryption.facts), Verdict::Compliant);

    let download = world.gateway.get(&object.key, Some(&stored.version), None).await.unwrap();
    assert_eq!((&download.head.meta, download.range), (&head.meta, ByteRange::new(0, 5)));
    assert_eq!(collect(download).await.unwrap(), "hello");
    let tags = world.gateway.tags(&object.key).await.unwrap().unwrap();
    assert_eq!(tags.split('&').collect::<std::collections::BTreeSet<_>>(), ["k=v%20w", "l=1"].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_length_arrive_whole() {
    let world = World::new().await;
    for length in [0, 1, 64 * 1024, 64 * 1024 + 1, 3 * MIB + 17] {
        let body = content(length, 3);
        let payload = Arc::new(Chunked { content: body.clone(), broken_at: None });
        world.gateway.put(&new("k"), payload, &ANY).await.unwrap();
        assert!(world.read("k").await.unwrap() == body, "{length}");
    }
    let counters = world.gateway.counters();
    assert_eq!(counters.requests["PutObject"], 5);
    assert_eq!(counters.bytes_sent, counters.bytes_received);
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_bodies_arrive_whole_too() {
    let world = World::with(|connection| connection.sign_payload = true).await;
    let body = content(MIB, 5);
    let payload = Arc::new(Chunked { content: body.clone(), broken_at: None });
    world.gateway.put(&new("k"), payload, &ANY).await.unwrap();
    assert!(world.read("k").await.unwrap() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_certificate_of_ones_own_works_and_without_it_does_not() {
    let world = World::build(true, |_| {}).await;
    assert!(world.server.url().starts_with("https://"));
    let body = content(MIB, 5);
    world.put("k", body.clone()).await.unwrap();
    assert!(world.read("k").await.unwrap() == body);
    let connection = Connection { ca_bundle: None, ..world.connection.clone() };
    let strict = Gateway::new(&load(&connection).await, &connection, Bucket::new("data").unwrap(), Policy::default());
    assert_eq!(strict.head(&at("k")).await.unwrap_err().kind, Kind::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_to_another_host_is_refused_wherever_the_address_comes_from() {
    let world = World::new().await;
    let config = load(&world.connection).await;
    let elsewhere = Connection { endpoint_url: Some("http://192.0.2.1:9000".into()), ..world.connection.clone() };
    let gateway = Gateway::new(&config, &elsewhere, Bucket::new("data").unwrap(), Policy::default());
    let error = gateway.put(&new("k"), Arc::new(Bytes::new()), &ANY).await.unwrap_err();
    assert_eq!(error.kind, Kind::Configuration, "{error}");
    assert!(error.to_string().contains("http://192.0.2.1:9000 is plain http"), "{error}");
    assert_eq!(gateway.counters().retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_what_was_asked_for_and_end_with_the_object() {
    let world = World::new().await;
    let body = content(300_000, 1);
    let version = world.put("k", body.clone()).await.unwrap().version.clone();
    for (start, end) in [(0, 1), (5, 100_000), (299_999, 300_000), (250_000, 400_000)] {
        let download = world.gateway.get(&at("k"), Some(&version), ByteRange::new(start, end)).await.unwrap();
        let end = end.min(300_000);
        assert_eq!(download.range, ByteRange::new(start, end));
        assert_eq!(download.head.meta.size, 300_000);
        assert!(collect(download).await.unwrap() == body.slice(start as usize..end as usize));
    }
    let beyond = world.gateway.get(&at("k"), None, ByteRange::new(300_000, 300_001)).await.err().unwrap();
    assert_eq!(beyond.status, Some(416));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_version_is_never_mixed_with_another() {
    let world = World::new().await;
    let old = world.put("k", "old").await.unwrap().version.clone();
    world.put("k", "new").await.unwrap();
    let error = world.gateway.get(&at("k"), Some(&old), None).await.err().unwrap();
    assert_eq!(error.kind, Kind::PreconditionFailed);
    world.fail(vec![Rule::on("GetObject", Fault::IgnoreConditions)]);
    let error = world.gateway.get(&at("k"), Some(&old), None).await.err().unwrap();
    assert_eq!(error.kind, Kind::PreconditionFailed, "from a store that does not know conditions of reads");
    assert!(error.to_string().contains("another version") && error.request_id.is_some(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_changed_on_its_way_is_never_handed_out_whole() {
    let world = World::new().await;
    let body = content(200_000, 1);
    world.put("k", body.clone()).await.unwrap();
    world.fail(vec![Rule::on("GetObject", Fault::FlipByte(150_000))]);
    let mut download = world.gateway.get(&at("k"), None, None).await.unwrap();
    let (mut handed_out, mut failed) = (0, None);
    while let Some(chunk) = download.next().await {
        match chunk {
            Ok(bytes) => handed_out += bytes.len(),
            Err(error) => failed = Some(error.kind),
        }
    }
    assert_eq!(failed, Some(Kind::Integrity));
    assert!(handed_out < body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_is_an_error() {
    let world = World::new().await;
    world.put("k", content(200_000, 1)).await.unwrap();
    world.fail(vec![Rule::on("GetObject", Fault::CutBodyAfter(100_000))]);
    assert_eq!(world.read("k").await.unwrap_err().kind, Kind::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_stored_under_anything_else_is_an_error_and_is_deleted_again() {
    let world = World::new().await;
    let other = "arn:aws:kms:us-east-1:111122223333:key/another";
    for (fault, verdict) in [
        (sse(Some("aws:kms"), Some(world.key.as_str())), Verdict::NotDsse),
        (sse(Some("AES256"), None), Verdict::NotDsse),
        (sse(None, None), Verdict::NotDsse),
        (sse(Some("aws:kms:dsse"), Some(other)), Verdict::WrongKey),
        (sse(Some("aws:kms:dsse"), None), Verdict::WrongKey),
    ] {
        world.fail(vec![Rule::on("PutObject", fault.clone())]);
        let error = world.put("k", "secret").await.unwrap_err();
        assert_eq!(error.kind, Kind::Mismatch { verdict }, "{fault:?}");
        assert!(error.to_string().contains("the object was deleted again"), "{error}");
        assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::NotFound);
    }
    assert_eq!(world.gateway.counters().mismatches, 5);
    assert!(world.put("k", "secret").await.is_ok(), "the gateway goes on working");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrongly_stored_object_is_deleted_even_where_conditional_deletes_are_unknown() {
    let world = World::new().await;
    let unknown = Fault::Failure { status: 501, code: "NotImplemented".into(), message: String::new() };
    world.fail(vec![Rule::on("PutObject", sse(Some("AES256"), None)), Rule::on("DeleteObject", unknown)]);
    let error = world.put("k", "secret").await.unwrap_err();
    assert!(error.to_string().contains("the object was deleted again"), "{error}");
    assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrongly_stored_object_that_cannot_be_deleted_is_named() {
    let world = World::new().await;
    let denied = Fault::Failure { status: 403, code: "AccessDenied".into(), message: "Access Denied".into() };
    world.fail(vec![Rule::on("PutObject", sse(Some("AES256"), None)), Rule::on("DeleteObject", denied)]);
    let error = world.put("k", "secret").await.unwrap_err();
    assert!(error.to_string().contains("the object is still in the bucket"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_bucket_with_versions_only_the_wrong_one_is_deleted() {
    let world = World::new().await;
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let request = world.client.put_bucket_versioning().bucket("data").versioning_configuration(enabled);
    request.send().await.unwrap();
    assert_eq!(world.gateway.bucket_facts().await.versioning, Versioning::Enabled);
    let good = world.put("k", "good").await.unwrap().version.clone();
    assert!(good.id.is_some());
    world.fail(vec![Rule::on("PutObject", sse(Some("AES256"), None))]);
    world.put("k", "bad").await.unwrap_err();
    assert_eq!(world.gateway.head(&at("k")).await.unwrap().meta.version, good);
    let versions = world.client.list_object_versions().bucket("data").send().await.unwrap();
    assert_eq!((versions.versions().len(), versions.delete_markers().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_not_under_dsse_is_aborted_before_a_byte_leaves() {
    let world = World::new().await;
    world.fail(vec![Rule::on("CreateMultipartUpload", sse(Some("AES256"), None))]);
    let error = world.gateway.start_upload(&new("k")).await.err().unwrap();
    assert_eq!(error.kind, Kind::Mismatch { verdict: Verdict::NotDsse });
    assert_eq!((world.requests("AbortMultipartUpload"), world.requests("UploadPart")), (1, 0));
    world.fail(vec![Rule::on("CreateMultipartUpload", sse(Some("aws:kms:dsse"), None))]);
    assert_eq!(world.gateway.probe(&at("k")).await.unwrap_err().kind, Kind::Mismatch { verdict: Verdict::WrongKey });
    world.gateway.probe(&at("k")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parts_answer_may_be_silent_but_not_wrong() {
    let world = World::new().await;
    let upload = world.gateway.start_upload(&new("k")).await.unwrap();
    world.fail(vec![Rule::on("UploadPart", sse(None, None))]);
    upload.put_part(1, Arc::new(content(5 * MIB, 1))).await.unwrap();
    world.fail(vec![Rule::on("UploadPart", sse(Some("AES256"), None))]);
    let error = upload.put_part(1, Arc::new(content(5 * MIB, 1))).await.unwrap_err();
    assert_eq!(error.kind, Kind::Mismatch { verdict: Verdict::NotDsse });
    upload.abort().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_sent_and_copied_become_one_object() {
    let world = World::new().await;
    let (first, second, third) = (content(5 * MIB, 1), content(5 * MIB, 2), content(100, 3));
    let version = world.put("source", second.clone()).await.unwrap().version.clone();
    let source = Source { key: at("source"), version, size: 5 * MIB as u64 };
    let mut object = new("k");
    object.user = BTreeMap::from([("mtime".to_owned(), "1.5".to_owned())]);
    let upload = world.gateway.start_upload(&object).await.unwrap();
    let parts = vec![
        upload.put_part(3, Arc::new(third.clone())).await.unwrap(),
        upload.put_part(1, Arc::new(Chunked { content: first.clone(), broken_at: None })).await.unwrap(),
        upload.copy_part(2, &source, ByteRange::new(0, 5 * MIB as u64).unwrap()).await.unwrap(),
    ];
    let whole = [first, second, third].concat();
    let crc64 = Bytes::from(whole.clone()).crc64().unwrap();
    let stored =
        upload.complete(parts, whole.len() as u64, Some(crc64), &Condition::Absent, OtherCopy::Held).await.unwrap();
    assert_eq!(stored.encryption.evidence, Evidence::Complete);
    assert!(world.read("k").await.unwrap() == whole);
    assert_eq!(world.gateway.head(&at("k")).await.unwrap().meta.user, object.user);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_of_the_whole_that_is_wrong_makes_no_object() {
    let world = World::new().await;
    let upload = world.gateway.start_upload(&new("k")).await.unwrap();
    let part = upload.put_part(1, Arc::new(Bytes::from_static(b"abc"))).await.unwrap();
    let unfinished =
        upload.complete(vec![part], 3, Some(Crc64::from_value(1)), &ANY, OtherCopy::Held).await.unwrap_err();
    assert_eq!(unfinished.error.kind, Kind::Integrity, "{}", unfinished.error);
    assert!(unfinished.upload.is_some());
    assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_is_stored_wrongly_is_deleted_again() {
    let world = World::new().await;
    let upload = world.gateway.start_upload(&new("k")).await.unwrap();
    let part = upload.put_part(1, Arc::new(Bytes::from_static(b"abc"))).await.unwrap();
    world.fail(vec![Rule::on("CompleteMultipartUpload", sse(Some("AES256"), None))]);
    let unfinished = upload.complete(vec![part], 3, None, &ANY, OtherCopy::Held).await.unwrap_err();
    assert_eq!(unfinished.error.kind, Kind::Mismatch { verdict: Verdict::NotDsse });
    assert!(unfinished.upload.is_none());
    assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_lost_its_race_is_given_back_and_the_winner_is_untouched() {
    let world = World::new().await;
    let upload = world.gateway.start_upload(&new("k")).await.unwrap();
    let part = upload.put_part(1, Arc::new(Bytes::from_static(b"late"))).await.unwrap();
    world.put("k", "winner").await.unwrap();
    let unfinished =
        upload.complete(vec![part.clone()], 4, None, &Condition::Absent, OtherCopy::Held).await.unwrap_err();
    assert_eq!(unfinished.error.kind, Kind::PreconditionFailed);
    assert_eq!(world.read("k").await.unwrap(), "winner");
    unfinished.upload.unwrap().complete(vec![part], 4, None, &ANY, OtherCopy::Held).await.unwrap();
    assert_eq!(world.read("k").await.unwrap(), "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_whose_answer_was_lost_is_recognised() {
    let world = World::new().await;
    for condition in [ANY, Condition::Absent] {
        let key = format!("{condition:?}");
        let upload = world.gateway.start_upload(&new(&key)).await.unwrap();
        let body = Bytes::from_static(b"abc");
        let crc64 = body.crc64().unwrap();
        let part = upload.put_part(1, Arc::new(body)).await.unwrap();
        world.fail(vec![Rule::on("CompleteMultipartUpload", Fault::LoseAnswer)]);
        let stored = upload.complete(vec![part], 3, Some(crc64), &condition, OtherCopy::Held).await.unwrap();
        assert_eq!(world.gateway.head(&at(&key)).await.unwrap().meta.version, stored.version);
        assert_eq!(world.gateway.judge(&stored.encryption.facts), Verdict::Compliant);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_someone_aborted_is_not_taken_for_a_lost_answer() {
    let world = World::new().await;
    let upload = world.gateway.start_upload(&new("k")).await.unwrap();
    let part = upload.put_part(1, Arc::new(Bytes::from_static(b"abc"))).await.unwrap();
    world.gateway.resume_upload(&new("k"), upload.id().to_owned()).abort().await.unwrap();
    let unfinished = upload.complete(vec![part], 3, None, &ANY, OtherCopy::Held).await.unwrap_err();
    assert_eq!(unfinished.error.kind, Kind::NoSuchUpload);
    assert!(unfinished.upload.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_was_lost_is_recognised_and_a_lost_race_is_not() {
    let world = World::new().await;
    world.fail(vec![Rule::on("PutObject", Fault::LoseAnswer)]);
    let body: Arc<dyn Payload> = Arc::new(Bytes::from_static(b"abc"));
    let stored = world.gateway.put(&new("k"), Arc::clone(&body), &Condition::Absent).await.unwrap();
    assert_eq!(world.gateway.head(&at("k")).await.unwrap().meta.version, stored.version);
    let lost = world.gateway.put(&new("k"), body, &Condition::Absent).await.unwrap_err();
    assert_eq!(lost.kind, Kind::PreconditionFailed, "the same content, but nothing of ours was under way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_whose_answer_was_lost_is_recognised_when_it_is_tried_again() {
    let world = World::with(|connection| {
        connection.attempts_max = 1;
        connection.attempt_timeout = Duration::from_secs(9);
        connection.operation_timeout = Duration::from_millis(500);
    })
    .await;
    let upload = world.gateway.start_upload(&new("k")).await.unwrap();
    let body = Bytes::from_static(b"abc");
    let crc64 = body.crc64().unwrap();
    let part = upload.put_part(1, Arc::new(body)).await.unwrap();
    // Twice: on a connection that had answered before, a request that breaks goes out again by itself.
    let lost = Rule::on("CompleteMultipartUpload", Fault::LoseAnswer).times(2);
    world.fail(vec![lost, Rule::on("HeadObject", Fault::Stall)]);
    let unfinished = upload.complete(vec![part.clone()], 3, Some(crc64), &ANY, OtherCopy::Held).await.unwrap_err();
    assert_eq!(unfinished.error.kind, Kind::Unreachable);
    let upload = unfinished.upload.unwrap();
    upload.complete(vec![part], 3, Some(crc64), &ANY, OtherCopy::Held).await.unwrap();
    assert_eq!(world.read("k").await.unwrap(), "abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_inside_a_200_is_an_error() {
    let world = World::new().await;
    let version = world.put("k", "abc").await.unwrap().version.clone();
    let fault =
        Fault::OkWithErrorBody { code: "InternalError".into(), message: "We encountered an internal error.".into() };
    world.fail(vec![
        Rule::on("CopyObject", fault.clone()).times(0),
        Rule::on("CompleteMultipartUpload", fault).times(0),
    ]);
    let source = Source { key: at("k"), version, size: 3 };
    let error = world.gateway.copy(&source, &new("l"), &ANY).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    let upload = world.gateway.start_upload(&new("m")).await.unwrap();
    let part = upload.put_part(1, Arc::new(Bytes::from_static(b"abc"))).await.unwrap();
    let unfinished = upload.complete(vec![part], 3, None, &ANY, OtherCopy::Held).await.unwrap_err();
    assert_eq!(unfinished.error.kind, Kind::Unavailable);
    assert!(unfinished.upload.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_under_dsse_and_carries_what_was_asked() {
    let world = World::new().await;
    let mut object = new("k +%é?");
    object.tags = Some("k=v".into());
    let version = world.gateway.put(&object, Arc::new(Bytes::from_static(b"abc")), &ANY).await.unwrap().version.clone();
    let source = Source { key: object.key.clone(), version, size: 3 };
    let mut copy = new("l");
    copy.user = BTreeMap::from([("mode".to_owned(), "33152".to_owned())]);
    copy.storage_class = Some("STANDARD_IA".into());
    let stored = world.gateway.copy(&source, &copy, &Condition::Absent).await.unwrap();
    assert_eq!(stored.encryption.evidence, Evidence::Copy);
    let head = world.gateway.head(&copy.key).await.unwrap();
    assert_eq!((head.meta.user, head.meta.storage_class.as_str()), (copy.user.clone(), "STANDARD_IA"));
    assert_eq!(world.gateway.tags(&copy.key).await.unwrap().as_deref(), Some("k=v"));
    assert_eq!(world.read("l").await.unwrap(), "abc");

    let taken = world.gateway.copy(&source, &copy, &Condition::Absent).await.unwrap_err();
    assert_eq!(taken.kind, Kind::PreconditionFailed);
    let in_place = Source { key: copy.key.clone(), version: head.meta.version, size: 3 };
    world.gateway.copy(&in_place, &copy, &ANY).await.unwrap();
    let moved_on = world.gateway.copy(&in_place, &copy, &ANY).await.unwrap_err();
    assert_eq!(moved_on.kind, Kind::PreconditionFailed, "the source is another version now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_stored_wrongly_is_deleted_again() {
    let world = World::new().await;
    let version = world.put("k", "abc").await.unwrap().version.clone();
    world.fail(vec![Rule::on("CopyObject", sse(Some("AES256"), None))]);
    let source = Source { key: at("k"), version, size: 3 };
    let error = world.gateway.copy(&source, &new("l"), &ANY).await.unwrap_err();
    assert_eq!(error.kind, Kind::Mismatch { verdict: Verdict::NotDsse });
    assert_eq!(world.gateway.head(&at("l")).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(world.read("k").await.unwrap(), "abc", "the source is untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_cannot_be_read_here_is_said_to_be_a_local_failure() {
    let world = World::new().await;
    for size in [MIB, 100_000] {
        let payload = Arc::new(Chunked { content: content(size, 1), broken_at: Some(1) });
        let error = world.gateway.put(&new("k"), payload, &ANY).await.unwrap_err();
        assert_eq!(error.kind, Kind::Local);
        let source = error.source.as_ref().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.kind(), io::ErrorKind::InvalidData);
    }
    assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn kms_trouble_has_its_own_kinds_and_head_finds_the_reason_out() {
    let world = World::new().await;
    world.put("k", "abc").await.unwrap();
    world.server.kms().disable(world.key.as_str()).unwrap();
    assert_eq!(world.put("l", "abc").await.unwrap_err().kind, Kind::KeyDisabled);
    assert_eq!(world.read("k").await.unwrap_err().kind, Kind::KeyDisabled);
    let error = world.put("l", "abc").await.unwrap_err();
    assert_eq!(error.code.as_deref(), Some("KMS.DisabledException"));
    assert!(error.request_id.is_some());

    let refused = Fault::Failure { status: 400, code: "KMS.DisabledException".into(), message: "is disabled.".into() };
    world.fail(vec![Rule::on("HeadObject", refused)]);
    assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::KeyDisabled);
    assert_eq!(world.gateway.head(&at("k")).await.unwrap().meta.size, 3, "HEAD itself needs no key");

    world.server.kms().schedule_deletion(world.key.as_str(), 7).unwrap();
    assert_eq!(world.read("k").await.unwrap_err().kind, Kind::KeyPendingDeletion);
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_is_waited_out_and_counted() {
    let world = World::new().await;
    world.fail(vec![Rule::on("PutObject", Fault::ThrottleKms).times(2)]);
    world.put("k", "abc").await.unwrap();
    let counters = world.gateway.counters();
    assert_eq!((counters.retries, counters.throttled, counters.failures), (2, 2, 0));
    world.fail(vec![Rule::on("PutObject", Fault::ThrottleKms).times(0)]);
    assert_eq!(world.put("k", "abc").await.unwrap_err().kind, Kind::Throttled { kms: true });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_never_answers_is_given_up() {
    let world = World::with(|connection| {
        connection.attempt_timeout = Duration::from_millis(200);
        connection.operation_timeout = Duration::from_millis(700);
    })
    .await;
    world.fail(vec![Rule::on("*", Fault::Stall).times(0)]);
    assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::Timeout);
    assert_eq!(world.put("k", "abc").await.unwrap_err().kind, Kind::Timeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_reset_is_made_again() {
    let world = World::new().await;
    world.fail(vec![Rule::on("PutObject", Fault::Reset), Rule::on("GetObject", Fault::Reset)]);
    let body = content(200_000, 9);
    world.put("k", body.clone()).await.unwrap();
    assert!(world.read("k").await.unwrap() == body);
    world.fail(vec![Rule::on("HeadObject", Fault::Reset).times(0)]);
    assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_have_every_key_as_it_is() {
    let world = World::new().await;
    let keys = ["a b", "a%2Fb", "a+b", "a/1", "a/2", "a\u{1}b", "aé", "b"];
    for key in keys {
        world.put(key, "x").await.unwrap();
    }
    let whole = ListRequest { prefix: "", delimiter: false, start_after: None, continuation: None, entries_max: 1000 };
    let page = world.gateway.list(&whole).await.unwrap();
    let mut expected = keys.to_vec();
    expected.sort_unstable();
    assert_eq!(page.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!((page.objects[0].size, page.next), (1, None));

    let rolled = ListRequest { prefix: "a", delimiter: true, ..whole };
    assert_eq!(world.gateway.list(&rolled).await.unwrap().prefixes, ["a/"]);
    let after = ListRequest { start_after: Some("aé"), ..whole };
    assert_eq!(world.gateway.list(&after).await.unwrap().objects[0].key, "b");

    let mut seen = Vec::new();
    let mut next = None;
    loop {
        let request = ListRequest { entries_max: 3, continuation: next.as_deref(), ..whole };
        let page = world.gateway.list(&request).await.unwrap();
        assert!(page.objects.len() <= 3);
        seen.extend(page.objects.into_iter().map(|object| object.key));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_to_be_missing() {
    let world = World::new().await;
    assert_eq!(world.gateway.head(&at("none")).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(world.read("none").await.unwrap_err().kind, Kind::NotFound);
    world.gateway.delete(&at("none"), LastWriterWins::asked_for()).await.unwrap();
    world.gateway.reach("").await.unwrap();
    let facts = world.gateway.bucket_facts().await;
    assert_eq!(facts.versioning, Versioning::Off);
    assert_eq!(facts.default_encryption.algorithm, Algorithm::Aes256);

    let config = load(&world.connection).await;
    let nowhere = Gateway::new(&config, &world.connection, Bucket::new("nowhere").unwrap(), Policy::default());
    assert_eq!(nowhere.reach("").await.unwrap_err().kind, Kind::NoSuchBucket);
    assert_eq!(nowhere.head(&at("k")).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_the_stores_own_is_used_and_shown() {
    let world = World::new().await;
    let config = load(&world.connection).await;
    let gateway = Gateway::new(&config, &world.connection, Bucket::new("data").unwrap(), Policy::default());
    let stored = gateway.put(&new("k"), Arc::new(Bytes::new()), &ANY).await.unwrap();
    assert!(stored.encryption.facts.key_arn.as_deref().is_some_and(|arn| arn != world.key.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_said_to_be_that() {
    let world = World::new().await;
    let wrong = AccessKey { id: "dssefs".into(), secret: "wrong".into() };
    let config = load_as(&world.connection, wrong).await.unwrap();
    let gateway = Gateway::new(&config, &world.connection, Bucket::new("data").unwrap(), Policy::default());
    let error = gateway.put(&new("k"), Arc::new(Bytes::new()), &ANY).await.unwrap_err();
    assert_eq!(error.kind, Kind::Credentials);
}

#[tokio::test(flavor = "multi_thread")]
async fn kms_resolves_every_name_of_a_key_and_refuses_the_unusable() {
    let world = World::new().await;
    let config = load(&world.connection).await;
    let kms = Kms::new(&config, world.connection.kms_endpoint_url.as_deref());
    world.server.kms().create_alias("alias/data", world.key.as_str()).unwrap();
    let id = world.key.as_str().rsplit('/').next().unwrap().to_owned();
    let alias = "arn:aws:kms:us-east-1:111122223333:alias/data";
    for name in [world.key.as_str(), &id, "alias/data", alias] {
        assert_eq!(kms.resolve(name).await.unwrap(), world.key, "{name}");
    }
    assert!(matches!(kms.resolve("alias/none").await, Err(dssefs_s3::kms::Error::NotFound { .. })));
    world.server.kms().disable(world.key.as_str()).unwrap();
    assert!(matches!(kms.resolve("alias/data").await, Err(dssefs_s3::kms::Error::Disabled(_))));
}

/// Some of the answer is replaced: headers, those that are None left out, and perhaps the body.
fn alter(headers: &[(&str, Option<&str>)], body: Option<&str>) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
    Fault::Alter { headers, body: body.map(str::to_owned) }
}

const SSE: &str = "x-amz-server-side-encryption";
const SSE_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const SSE_CONTEXT: &str = "x-amz-server-side-encryption-context";
const NOT_DSSE: Kind = Kind::Mismatch { verdict: Verdict::NotDsse };

/// A gateway without a key of its own.
async fn under_managed_key(world: &World) -> Arc<Gateway> {
    let config = load(&world.connection).await;
    Arc::new(Gateway::new(&config, &world.connection, Bucket::new("data").unwrap(), Policy::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_answered_as_aes256_without_or_with_a_wrong_etag_is_judged_and_taken_back() {
    let world = World::new().await;
    for etag in [None, Some("\"\""), Some("\"no-object-has-this\"")] {
        for condition in [ANY, Condition::Absent] {
            let plain = alter(&[(SSE, Some("AES256")), (SSE_KEY, None), ("etag", etag)], None);
            world.fail(vec![Rule::on("PutObject", plain)]);
            let body = Arc::new(Bytes::from_static(b"secret"));
            let error = world.gateway.put(&new("k"), body, &condition).await.unwrap_err();
            assert_eq!(error.kind, NOT_DSSE, "{etag:?}: {error}");
            assert!(error.to_string().contains("the object was deleted again"), "{error}");
            assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::NotFound, "{etag:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_answer_without_an_etag_is_no_error_as_the_object_is_found() {
    let world = World::new().await;
    world.fail(vec![Rule::on("PutObject", alter(&[("etag", None)], None))]);
    let stored = world.put("k", "content").await.unwrap();
    assert_eq!(stored.version, world.gateway.head(&at("k")).await.unwrap().meta.version);
    let source = Source { key: at("k"), version: stored.version.clone(), size: 7 };
    let empty = Some("<CopyObjectResult></CopyObjectResult>");
    world.fail(vec![Rule::on("CopyObject", alter(&[], empty))]);
    let copy = world.gateway.duplicate(&source, &at("l"), None, &Condition::Absent).await.unwrap();
    assert_eq!(copy.version, world.gateway.head(&at("l")).await.unwrap().meta.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_answered_as_aes256_are_taken_back_whatever_else_the_answer_lacks() {
    let world = World::new().await;
    let version = world.put("k", "abc").await.unwrap().version.clone();
    let source = Source { key: at("k"), version, size: 3 };
    for body in ["<CopyObjectResult></CopyObjectResult>", "<CopyObjectResult", "", "no xml at all"] {
        let plain = || alter(&[(SSE, Some("AES256")), (SSE_KEY, None)], Some(body));
        world.fail(vec![Rule::on("CopyObject", plain()).times(0)]);
        let error = world.gateway.copy(&source, &new("l"), &Condition::Absent).await.unwrap_err();
        assert_eq!(error.kind, NOT_DSSE, "{body:?}: {error}");
        assert_eq!(world.gateway.head(&at("l")).await.unwrap_err().kind, Kind::NotFound, "{body:?}");
        world.fail(vec![Rule::on("CopyObject", plain()).times(0)]);
        let error = world.gateway.duplicate(&source, &at("l"), None, &Condition::Absent).await.unwrap_err();
        assert_eq!(error.kind, NOT_DSSE, "{body:?}: {error}");
        assert_eq!(world.gateway.head(&at("l")).await.unwrap_err().kind, Kind::NotFound, "{body:?}");
        assert_eq!(world.read("k").await.unwrap(), "abc", "the source is untouched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_answered_as_aes256_are_taken_back_whatever_else_the_answer_lacks() {
    let world = World::new().await;
    let empty = "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>";
    for body in [empty, "<CompleteMultipartUploadResult", "", "no xml at all"] {
        let upload = world.gateway.start_upload(&new("k")).await.unwrap();
        let bytes = Bytes::from_static(b"abc");
        let crc64 = bytes.crc64().unwrap();
        let part = upload.put_part(1, Arc::new(bytes)).await.unwrap();
        let plain = alter(&[(SSE, Some("AES256")), (SSE_KEY, None)], Some(body));
        world.fail(vec![Rule::on("CompleteMultipartUpload", plain).times(0)]);
        let unfinished = upload.complete(vec![part], 3, Some(crc64), &Condition::Absent, OtherCopy::Held).await;
        let error = unfinished.unwrap_err().error;
        assert_eq!(error.kind, NOT_DSSE, "{body:?}: {error}");
        assert_eq!(world.gateway.head(&at("k")).await.unwrap_err().kind, Kind::NotFound, "{body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_copy_stays_though_a_bad_answer_names_its_version_and_nothing_else() {
    let world = World::new().await;
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    world.client.put_bucket_versioning().bucket("data").versioning_configuration(enabled).send().await.unwrap();
    // Whether or not the store can be asked what is there.
    for (key, head) in [("one", None), ("other", Some(503))] {
        let upload = world.gateway.start_upload(&new(key)).await.unwrap();
        let part = upload.put_part(1, Arc::new(Bytes::from_static(b"abc"))).await.unwrap();
        let empty = Some("<CompleteMultipartUploadResult></CompleteMultipartUploadResult>");
        let mut rules =
            vec![Rule::on("CompleteMultipartUpload", alter(&[(SSE, Some("AES256")), (SSE_KEY, None)], empty))];
        rules.extend(head.map(|status| {
            let fault =
                Fault::Failure { status, code: "ServiceUnavailable".to_owned(), message: "scripted".to_owned() };
            Rule::on("HeadObject", fault).times(0)
        }));
        world.fail(rules);
        let unfinished = upload.complete(vec![part], 3, None, &Condition::Absent, OtherCopy::Nowhere).await;
        assert_eq!(unfinished.unwrap_err().error.kind, NOT_DSSE, "{key}");
        world.fail(vec![]);
        assert_eq!(world.read(key).await.unwrap(), "abc", "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_parts_answered_as_aes256_are_judged_whatever_else_the_answer_lacks() {
    let world = World::new().await;
    for body in ["<InitiateMultipartUploadResult></InitiateMultipartUploadResult>", "<Initiate", ""] {
        let plain = alter(&[(SSE, Some("AES256")), (SSE_KEY, None)], Some(body));
        world.fail(vec![Rule::on("CreateMultipartUpload", plain).times(0)]);
        let error = world.gateway.start_upload(&new("k")).await.map(drop).unwrap_err();
        assert_eq!(error.kind, NOT_DSSE, "{body:?}: {error}");
    }
    world.fail(vec![]);
    let version = world.put("source", content(5 * MIB, 3)).await.unwrap().version.clone();
    let source = Source { key: at("source"), version, size: 5 * MIB as u64 };
    let upload = world.gateway.start_upload(&new("k")).await.unwrap();
    world.fail(vec![Rule::on("UploadPart", alter(&[(SSE, Some("AES256")), ("etag", None)], None))]);
    assert_eq!(upload.put_part(1, Arc::new(content(100, 1))).await.unwrap_err().kind, NOT_DSSE);
    for body in ["<CopyPartResult></CopyPartResult>", "<Copy"] {
        world.fail(vec![Rule::on("UploadPartCopy", alter(&[(SSE, Some("AES256"))], Some(body))).times(0)]);
        let range = ByteRange::new(0, source.size).unwrap();
        assert_eq!(upload.copy_part(1, &source, range).await.unwrap_err().kind, NOT_DSSE, "{body:?}");
    }
    world.fail(vec![Rule::on("UploadPart", alter(&[("etag", None)], None))]);
    assert_eq!(upload.put_part(1, Arc::new(content(100, 1))).await.unwrap_err().kind, Kind::Protocol);
    upload.abort().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_the_first_answer_pins_it_and_another_or_none_is_refused() {
    let world = World::new().await;
    let gateway = under_managed_key(&world).await;
    assert_eq!(gateway.expected_key(), None);
    gateway.probe(&at("probe")).await.unwrap();
    let pinned = gateway.expected_key().expect("the probe's answer has named it").to_string();
    let put = async || gateway.put(&new("k"), Arc::new(Bytes::from_static(b"abc")), &ANY).await;
    for key in [Some(world.key.as_str()), None, Some("alias/aws/s3"), Some("")] {
        world.fail(vec![Rule::on("PutObject", alter(&[(SSE_KEY, key)], None))]);
        let error = put().await.unwrap_err();
        assert_eq!(error.kind, Kind::Mismatch { verdict: Verdict::WrongKey }, "{key:?}: {error}");
        assert!(error.to_string().contains(&pinned), "{error}");
        assert_eq!(gateway.head(&at("k")).await.unwrap_err().kind, Kind::NotFound, "{key:?}");
        world.fail(vec![Rule::on("CreateMultipartUpload", alter(&[(SSE_KEY, key)], None))]);
        assert_eq!(gateway.probe(&at("k")).await.unwrap_err().kind, Kind::Mismatch { verdict: Verdict::WrongKey });
    }
    assert_eq!(put().await.unwrap().encryption.facts.key_arn.as_deref(), Some(pinned.as_str()));
    world.put("other", "abc").await.unwrap();
    let other = gateway.head(&at("other")).await.unwrap();
    assert_eq!(gateway.judge(&other.encryption.facts), Verdict::WrongKey);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_is_answered_otherwise_than_asked_is_a_mismatch_and_is_taken_back() {
    let world = World::new().await;
    let config = load(&world.connection).await;
    let context = EncryptionContext::parse(&["project=x", "a=b"]).unwrap();
    let policy = Policy { key: Some(world.key.clone()), context };
    let gateway = Arc::new(Gateway::new(&config, &world.connection, Bucket::new("data").unwrap(), policy));
    let header = |json: &str| base64_simd::STANDARD.encode_to_string(json);
    let mismatch = Kind::Mismatch { verdict: Verdict::WrongContext };
    let put = async |key: &str| gateway.put(&new(key), Arc::new(Bytes::from_static(b"abc")), &ANY).await;
    let version = put("source").await.unwrap().version.clone();
    let source = Source { key: at("source"), version, size: 3 };
    for answered in [header(r#"{"project":"x"}"#), header("{}"), "no base64!".to_owned()] {
        let fault = || alter(&[(SSE_CONTEXT, Some(&answered))], None);
        world.fail(["PutObject", "CopyObject", "CreateMultipartUpload"].map(|name| Rule::on(name, fault())).to_vec());
        assert_eq!(put("k").await.unwrap_err().kind, mismatch, "{answered}");
        assert_eq!(gateway.copy(&source, &new("k"), &ANY).await.unwrap_err().kind, mismatch, "{answered}");
        assert_eq!(gateway.probe(&at("k")).await.unwrap_err().kind, mismatch, "{answered}");
        assert_eq!(gateway.head(&at("k")).await.unwrap_err().kind, Kind::NotFound);
    }
    let reordered = header(r#"{"project":"x","aws:s3:arn":"arn:aws:s3:::data/k","a":"b"}"#);
    for answered in [Some(reordered.as_str()), None] {
        world.fail(vec![Rule::on("PutObject", alter(&[(SSE_CONTEXT, answered)], None))]);
        assert_eq!(put("k").await.unwrap().encryption.facts.context.as_deref(), answered);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_object_has_a_commit_id_of_its_own_which_is_no_user_metadata() {
    let world = World::new().await;
    let id = async |key: &str| world.gateway.head(&at(key)).await.unwrap().meta.commit.unwrap();
    let stored = world.put("put", "abc").await.unwrap();
    let first = id("put").await;
    let source = Source { key: at("put"), version: stored.version.clone(), size: 3 };
    world.gateway.copy(&source, &new("copy"), &Condition::Absent).await.unwrap();
    world.gateway.duplicate(&source, &at("duplicate"), None, &Condition::Absent).await.unwrap();
    let upload = world.gateway.start_upload(&new("upload")).await.unwrap();
    let part = upload.put_part(1, Arc::new(Bytes::from_static(b"abc"))).await.unwrap();
    let begun = upload.commit().cloned();
    upload.complete(vec![part], 3, None, &Condition::Absent, OtherCopy::Held).await.unwrap();
    assert_eq!(Some(id("upload").await), begun);
    let in_place = Condition::Matches(stored.version.etag.clone());
    world.gateway.copy(&source, &new("put"), &in_place).await.unwrap();
    let mut ids = vec![first];
    for key in ["put", "copy", "duplicate", "upload"] {
        ids.push(id(key).await);
        assert_eq!(world.gateway.head(&at(key)).await.unwrap().meta.user, new(key).user, "{key}");
    }
    let all = ids.len();
    ids.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    ids.dedup();
    assert_eq!(ids.len(), all, "{ids:?}");
}

/// Metadata of 2 KB has no room for a commit id. The object is stored, and a lost answer stays unknown.
#[tokio::test(flavor = "multi_thread")]
async fn full_metadata_displaces_the_commit_id_and_no_object_is_taken_for_ours() {
    let world = World::new().await;
    let mut full = new("k");
    full.user.insert("a".into(), "v".repeat(2047));
    world.fail(vec![Rule::on("PutObject", Fault::LoseAnswer)]);
    let body = Arc::new(Bytes::from_static(b"abc"));
    let lost = world.gateway.put(&full, body, &Condition::Absent).await.unwrap_err();
    assert_eq!(lost.kind, Kind::PreconditionFailed);
    let head = world.gateway.head(&at("k")).await.unwrap();
    assert_eq!((head.meta.commit, head.meta.user), (None, full.user), "it was carried out");
}

/// The metadata and the length are the same, so the commit id alone tells the two apart.
#[tokio::test(flavor = "multi_thread")]
async fn another_writers_object_of_the_same_length_is_not_taken_for_a_write_in_doubt() {
    let world = World::new().await;
    world.put("k", "theirs").await.unwrap();
    world.fail(vec![Rule::on("PutObject", Fault::Reset).times(2)]);
    let ours = Bytes::from_static(b"ours..");
    let lost = world.gateway.put(&new("k"), Arc::new(ours.clone()), &Condition::Absent).await.unwrap_err();
    assert_eq!(lost.kind, Kind::PreconditionFailed);
    assert!(world.requests("HeadObject") > 0, "the object was looked at, or this test shows nothing");

    let upload = world.gateway.start_upload(&new("k")).await.unwrap();
    let crc64 = ours.crc64().unwrap();
    let part = upload.put_part(1, Arc::new(ours)).await.unwrap();
    world.fail(vec![Rule::on("CompleteMultipartUpload", Fault::Reset).times(2)]);
    let absent = Condition::Absent;
    let unfinished = upload.complete(vec![part], 6, Some(crc64), &absent, OtherCopy::Held).await.unwrap_err();
    assert_eq!(unfinished.error.kind, Kind::PreconditionFailed);
    assert_eq!(world.read("k").await.unwrap(), "theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writers_object_of_the_same_content_is_not_taken_for_a_write_in_doubt() {
    let world = World::new().await;
    for (key, change) in [
        ("user", (|new| drop(new.user.insert("mode".into(), "33188".into()))) as fn(&mut NewObject)),
        ("type", |new| new.content_type = Some("text/plain".into())),
    ] {
        world.put(key, "content").await.unwrap();
        world.fail(vec![Rule::on("PutObject", Fault::Reset).times(2)]);
        let mut ours = new(key);
        change(&mut ours);
        let body = Arc::new(Bytes::from_static(b"content"));
        let lost = world.gateway.put(&ours, body, &Condition::Absent).await.unwrap_err();
        assert_eq!(lost.kind, Kind::PreconditionFailed, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_proved_only_where_content_and_description_are_the_same() {
    let world = World::new().await;
    let described = |key: &str, mode: &str| {
        let mut object = new(key);
        object.user.insert("mode".into(), mode.into());
        object
    };
    let put = async |object: NewObject, content: &'static str| {
        let body = Arc::new(Bytes::from_static(content.as_bytes()));
        world.gateway.put(&object, body, &ANY).await.unwrap();
    };
    put(described("original", "33188"), "content").await;
    put(described("same", "33188"), "content").await;
    put(described("other-content", "33188"), "CONTENT").await;
    put(described("longer", "33188"), "content.").await;
    put(described("other-mode", "33189"), "content").await;
    for (key, is_copy) in
        [("same", true), ("other-content", false), ("longer", false), ("other-mode", false), ("missing", false)]
    {
        let (original, copy) = (at("original"), at(key));
        assert_eq!(world.gateway.verify_copy_bytewise(&original, &copy).await.unwrap().is_some(), is_copy, "{key}");
    }
}
