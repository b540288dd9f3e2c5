//! The headers that leave this host: encryption is asked for exactly where S3 takes it, and bodies go out as they are.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::common::store::ANY;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{Credentials, RuntimeComponents, SharedCredentialsProvider};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use bytes::Bytes;
use dssefs_s3::object::{Bucket, ByteRange, Crc64, ETag, Key, Version};
use dssefs_s3::policy::{EncryptionContext, KeyArn, Policy};
use dssefs_s3::s3::{Condition, Connection, Gateway, LastWriterWins, NewObject, OtherCopy, Source};

const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/0a1b";
const SSE: &str = "x-amz-server-side-encryption";

/// An HTTP client that sends nothing, remembers what it was given, and answers each verb as S3 would.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Sent>>>);

#[derive(Clone, Debug)]
struct Sent {
    line: String,
    headers: BTreeMap<String, String>,
}

impl HttpClient for Recorder {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Recorder {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let line = format!("{} {}", request.method(), request.uri());
        let headers = request.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let body = answer(&line, request.headers().get("x-amz-copy-source").is_some());
        self.0.lock().unwrap().push(Sent { line, headers });
        let mut response = HttpResponse::new(200.try_into().unwrap(), SdkBody::from(body));
        for (name, value) in [("etag", "\"e\""), (SSE, "aws:kms:dsse")] {
            response.headers_mut().insert(name, value);
        }
        response.headers_mut().insert("x-amz-server-side-encryption-aws-kms-key-id", ARN);
        response.headers_mut().insert("content-length", body.len().to_string());
        HttpConnectorFuture::ready(Ok(response))
    }
}

fn answer(line: &str, copy: bool) -> &'static str {
    if line.contains("tagging") {
        "<Tagging><TagSet><Tag><Key>k</Key><Value>v w</Value></Tag></TagSet></Tagging>"
    } else if line.contains("ListObjectAnnotations") {
        "<ListObjectAnnotationsOutput></ListObjectAnnotationsOutput>"
    } else if line.contains("uploads") {
        "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
    } else if line.starts_with("POST") {
        "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>"
    } else if copy && line.contains("partNumber") {
        "<CopyPartResult><ETag>\"e\"</ETag></CopyPartResult>"
    } else if copy {
        "<CopyObjectResult><ETag>\"e\"</ETag></CopyObjectResult>"
    } else {
        ""
    }
}

fn gateway(url: &str) -> (Arc<Gateway>, Recorder) {
    let connection = Connection { endpoint_url: Some(url.to_owned()), force_path_style: true, ..Connection::default() };
    gateway_by(&connection)
}

fn gateway_by(connection: &Connection) -> (Arc<Gateway>, Recorder) {
    let recorder = Recorder::default();
    let credentials = Credentials::new("id", "secret", None, None, "test");
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(recorder.clone())
        .build();
    let context = EncryptionContext::parse(&["project=x"]).unwrap();
    let policy = Policy { key: Some(KeyArn::new(ARN).unwrap()), context };
    (Arc::new(Gateway::new(&config, connection, Bucket::new("data").unwrap(), policy)), recorder)
}

/// Every verb once.
async fn exercise(gateway: &Arc<Gateway>) {
    let new = NewObject::at(Key::new("k").unwrap());
    let version = Version { etag: ETag::new("e"), id: None };
    let source = Source { key: new.key.clone(), version: version.clone(), size: 10 };
    let range = ByteRange::new(0, 5).unwrap();
    gateway.put(&new, Arc::new(Bytes::from(vec![1; 200_000])), &Condition::Absent).await.unwrap();
    gateway.put(&new, Arc::new(Bytes::from_static(b"small")), &ANY).await.unwrap();
    gateway.copy(&source, &new, &Condition::Matches(ETag::new("t"))).await.unwrap();
    let upload = gateway.start_upload(&new).await.unwrap();
    let part = upload.put_part(1, Arc::new(Bytes::from(vec![2; 200_000]))).await.unwrap();
    upload.copy_part(2, &source, range).await.unwrap();
    upload
        .complete(vec![part], 200_000, Some(Crc64::from_value(7)), &Condition::Matches(ETag::new("t")), OtherCopy::Held)
        .await
        .unwrap();
    gateway.head(&new.key).await.unwrap();
    gateway.get(&new.key, Some(&version), None).await.unwrap();
    // The recorder's answer is no range; the request is what matters here.
    gateway.get(&new.key, None, Some(range)).await.err().unwrap();
    gateway.delete(&new.key, LastWriterWins::asked_for()).await.unwrap();
}

async fn sent(url: &str) -> Vec<Sent> {
    let (gateway, recorder) = gateway(url);
    exercise(&gateway).await;
    let sent = recorder.0.lock().unwrap().clone();
    assert_eq!(sent.len(), 11);
    sent
}

fn header<'a>(sent: &'a Sent, name: &str) -> Option<&'a str> {
    sent.headers.get(name).map(String::as_str)
}

#[tokio::test]
async fn dsse_is_asked_for_where_objects_are_made_and_nowhere_else() {
    for (index, request) in sent("https://s3.test").await.into_iter().enumerate() {
        // Two puts, a copy and the beginning of an upload come first.
        let makes = index < 4;
        let asked = makes.then_some("aws:kms:dsse");
        assert_eq!(header(&request, SSE), asked, "{request:?}");
        assert_eq!(header(&request, &format!("{SSE}-aws-kms-key-id")), makes.then_some(ARN), "{request:?}");
        let context = makes.then_some("eyJwcm9qZWN0IjoieCJ9");
        assert_eq!(header(&request, &format!("{SSE}-context")), context, "{request:?}");
        assert_eq!(header(&request, &format!("{SSE}-bucket-key-enabled")), None, "{request:?}");
    }
}

/// The header of the checksum that the request has: short content has another one, which marks it as a file.
fn checksum(sent: &Sent) -> Option<&'static str> {
    ["x-amz-checksum-crc64nvme", "x-amz-checksum-crc32c"].into_iter().find(|name| header(sent, name).is_some())
}

/// One request without the owner is enough to read from, or write to, a bucket of another account that took the name.
#[tokio::test]
async fn payer_and_owner_are_named_in_every_request_and_signed() {
    const ACCOUNT: &str = "111122223333";
    let connection = Connection {
        endpoint_url: Some("https://s3.test".to_owned()),
        force_path_style: true,
        request_payer: true,
        expected_bucket_owner: Some(ACCOUNT.to_owned()),
        ..Connection::default()
    };
    let (gateway, recorder) = gateway_by(&connection);
    exercise(&gateway).await;
    let sent = recorder.0.lock().unwrap().clone();
    assert_eq!(sent.len(), 11);
    for request in sent {
        assert_eq!(header(&request, "x-amz-request-payer"), Some("requester"), "{request:?}");
        assert_eq!(header(&request, "x-amz-expected-bucket-owner"), Some(ACCOUNT), "{request:?}");
        let copies = header(&request, "x-amz-copy-source").is_some();
        assert_eq!(header(&request, "x-amz-source-expected-bucket-owner"), copies.then_some(ACCOUNT), "{request:?}");
        let signed = header(&request, "authorization").unwrap();
        assert!(signed.contains("x-amz-expected-bucket-owner") && signed.contains("x-amz-request-payer"), "{signed}");
    }
    let (gateway, recorder) = self::gateway("https://s3.test");
    exercise(&gateway).await;
    for request in recorder.0.lock().unwrap().iter() {
        let named = request.headers.keys().any(|name| name.contains("payer") || name.contains("owner"));
        assert!(!named, "{request:?}");
    }
}

#[tokio::test]
async fn bodies_go_out_as_they_are_with_our_checksum_and_without_a_digest() {
    for url in ["https://s3.test", "http://127.0.0.1:1"] {
        let sent = sent(url).await;
        let uploads: Vec<&Sent> = sent.iter().filter(|sent| checksum(sent).is_some()).collect();
        let lengths: Vec<_> = uploads.iter().map(|sent| header(sent, "content-length")).collect();
        // The completion has the whole object's checksum, and a body of XML.
        assert_eq!(lengths[..3], [Some("200000"), Some("5"), Some("200000")], "{url}");
        assert_eq!(uploads.len(), 4);
        assert_eq!(checksum(uploads[1]), Some("x-amz-checksum-crc32c"));
        assert_eq!(checksum(uploads[0]), Some("x-amz-checksum-crc64nvme"));
        for upload in &uploads[..3] {
            assert_eq!(header(upload, "x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"), "{upload:?}");
            assert_eq!(header(upload, "content-encoding"), None, "{upload:?}");
            assert_eq!(header(upload, "x-amz-trailer"), None, "{upload:?}");
            let signed = header(upload, "authorization").unwrap();
            assert!(signed.contains(checksum(upload).unwrap()), "the checksum itself is signed: {signed}");
        }
    }
}

#[tokio::test]
async fn conditions_are_sent_with_the_write_they_belong_to() {
    let sent = sent("https://s3.test").await;
    assert_eq!((header(&sent[0], "if-none-match"), header(&sent[0], "if-match")), (Some("*"), None));
    assert_eq!((header(&sent[1], "if-none-match"), header(&sent[1], "if-match")), (None, None));
    let copy = &sent[2];
    assert_eq!((header(copy, "if-match"), header(copy, "x-amz-copy-source-if-match")), (Some("\"t\""), Some("\"e\"")));
    let part = &sent[5];
    assert_eq!(header(part, "x-amz-copy-source-if-match"), Some("\"e\""));
    assert_eq!(header(part, "x-amz-copy-source-range"), Some("bytes=0-4"));
    let complete = &sent[6];
    assert_eq!(
        (header(complete, "if-match"), header(complete, "x-amz-mp-object-size")),
        (Some("\"t\""), Some("200000"))
    );
    assert_eq!(header(complete, "x-amz-checksum-type"), Some("FULL_OBJECT"));
}

#[tokio::test]
async fn checksums_are_asked_for_where_a_whole_object_is_read() {
    let sent = sent("https://s3.test").await;
    let modes: Vec<_> = sent[7..10].iter().map(|sent| header(sent, "x-amz-checksum-mode")).collect();
    assert_eq!(modes, [None, Some("ENABLED"), None], "HEAD, the whole, a range");
    assert_eq!(header(&sent[8], "if-match"), Some("\"e\""));
    assert_eq!(header(&sent[9], "range"), Some("bytes=0-4"));
}

#[tokio::test]
async fn an_object_over_5_gib_is_copied_in_parts_that_cover_it_and_with_its_tags() {
    const SIZE: u64 = 6 * 1024 * 1024 * 1024 + 1;
    let (gateway, recorder) = gateway("https://s3.test");
    let version = Version { etag: ETag::new("e"), id: None };
    let source = Source { key: Key::new("a b").unwrap(), version, size: SIZE };
    gateway.copy(&source, &NewObject::at(Key::new("k").unwrap()), &Condition::Absent).await.unwrap();
    let sent = recorder.0.lock().unwrap().clone();
    let create = sent.iter().find(|sent| sent.line.contains("uploads")).unwrap();
    assert_eq!((header(create, "x-amz-tagging"), header(create, SSE)), (Some("k=v%20w"), Some("aws:kms:dsse")));
    let mut ranges: Vec<(u64, u64)> = sent
        .iter()
        .filter_map(|sent| header(sent, "x-amz-copy-source-range"))
        .filter_map(|range| range.strip_prefix("bytes=")?.split_once('-'))
        .map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap()))
        .collect();
    ranges.sort_unstable();
    assert_eq!((ranges[0].0, ranges[ranges.len() - 1].1), (0, SIZE - 1));
    assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
    let parts = sent.iter().filter(|sent| header(sent, "x-amz-copy-source") == Some("data/a%20b"));
    assert_eq!(parts.count(), ranges.len());
    let complete = sent.last().unwrap();
    assert_eq!(header(complete, "x-amz-mp-object-size"), Some(SIZE.to_string().as_str()));
    assert_eq!(header(complete, "if-none-match"), Some("*"));
}
