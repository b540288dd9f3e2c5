use futures_util::stream;
use s3s::dto::StreamingBlob;

use super::*;
use crate::s3::body::{receive, send};
use crate::s3::checksum::{Algorithm, Promise};
use crate::storage::{Settings, Store};

/// Of the bytes `123456789`: the check values of the CRC catalogue, and the FIPS 180 digests.
const NINE: &str = "123456789";
const SUMS: [(&str, &str); 5] = [
    ("x-amz-checksum-crc32", "y/Q5Jg=="),
    ("x-amz-checksum-crc32c", "4waSgw=="),
    ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
    ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
    ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
];

#[tokio::test]
async fn right_checksums_are_echoed_and_read_back_on_demand() {
    let world = World::new().await;
    for (name, value) in SUMS {
        let put = world.put("/bucket/k", &[(name, value)], NINE).await.expect(200);
        assert_eq!(put.header(name), Some(value));
        let head = world.head("/bucket/k", &[("x-amz-checksum-mode", "ENABLED")]).await.expect(200);
        assert_eq!((head.header(name), head.header("x-amz-checksum-type")), (Some(value), Some("FULL_OBJECT")));
        let get =
            world.get("/bucket/k", &[("x-amz-checksum-mode", "ENABLED"), ("range", "bytes=0-1")]).await.expect(206);
        assert_eq!(get.header(name), None);
        assert_eq!(world.head("/bucket/k", &[]).await.expect(200).header(name), None);
    }
}

#[tokio::test]
async fn without_a_checksum_s3_makes_its_own() {
    let world = World::new().await;
    let put = world.put("/bucket/k", &[], NINE).await.expect(200);
    assert_eq!(put.header("x-amz-checksum-crc64nvme"), Some("rosUhgp5mIg="));
}

#[tokio::test]
async fn a_wrong_checksum_leaves_the_old_object_alone() {
    let world = World::new().await;
    world.put("/bucket/k", &[], "old").await.expect(200);
    for (name, value) in SUMS {
        world.put("/bucket/k", &[(name, value)], "other").await.refused(400, "BadDigest");
    }
    // The MD5 of "hello".
    world.put("/bucket/k", &[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")], "hullo").await.refused(400, "BadDigest");
    assert_eq!(world.get("/bucket/k", &[]).await.text(), "old");
    assert_eq!(world.bodies(), 1);
    world.put("/bucket/k", &[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")], "hello").await.expect(200);
}

#[tokio::test]
async fn malformed_checksums_are_told_from_wrong_ones() {
    let world = World::new().await;
    world.put("/bucket/k", &[("content-md5", "abc")], "x").await.refused(400, "InvalidDigest");
    world.put("/bucket/k", &[("x-amz-checksum-crc32", "AAAA")], "x").await.refused(400, "InvalidRequest");
    world.put("/bucket/k", &[("x-amz-checksum-xxhash64", "AAAA")], "x").await.refused(501, "NotImplemented");
    world.put("/bucket/k", &SUMS[..2], NINE).await.refused(400, "InvalidRequest");
    world.put("/bucket/k", &[("x-amz-sdk-checksum-algorithm", "CRC32")], "x").await.refused(400, "InvalidRequest");
}

#[tokio::test]
async fn a_checksum_in_the_trailer_is_judged() {
    let world = World::new().await;
    let bucket = bucket(&world);
    for (name, value) in SUMS {
        let headers = header_map(&[("x-amz-trailer", name)]);
        let promise = Promise::from_request(&headers).unwrap();
        let mut body = StreamingBlob::from(s3s::Body::from(NINE.to_owned()));
        let algorithm = promise.algorithm.unwrap();
        let (_, digests) = receive(&bucket, &mut body, 9, algorithm, false).await.unwrap();
        promise.check(&digests, Some(&header_map(&[(name, value)]))).unwrap();
        let wrong = promise.check(&digests, Some(&header_map(&[(name, "AAAA")]))).unwrap_err();
        assert_eq!(wrong.code().as_str(), "InvalidRequest");
        let missing = promise.check(&digests, None).unwrap_err();
        assert_eq!(missing.code().as_str(), "MalformedTrailerError");
    }
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_incomplete() {
    let world = World::new().await;
    world.put("/bucket/k", &[("content-length", "5")], "four").await.refused(400, "IncompleteBody");
    world.put("/bucket/k", &[("content-length", "many")], "four").await.refused(400, "InvalidArgument");
    world.put("/bucket/k", &[("content-length", "5368709121")], "four").await.refused(400, "EntityTooLarge");
    assert_eq!(world.bodies(), 0);
}

#[tokio::test]
async fn a_broken_body_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    let bucket = bucket(&world);
    for (text, code) in [
        ("UploadStreamError: Sha256Mismatch", "XAmzContentSHA256Mismatch"),
        ("AwsChunkedStreamError: SignatureMismatch", "SignatureDoesNotMatch"),
        ("UploadStreamError: Incomplete", "IncompleteBody"),
        ("AwsChunkedStreamError: FormatError", "InvalidRequest"),
    ] {
        let chunks = vec![Ok(bytes::Bytes::from_static(b"some")), Err(std::io::Error::other(text))];
        let mut body = StreamingBlob::wrap(stream::iter(chunks));
        let error = receive(&bucket, &mut body, 9, Algorithm::DEFAULT, true).await.unwrap_err();
        assert_eq!(error.code().as_str(), code);
        assert_ne!(error.status_code().unwrap().as_u16(), 500);
    }
    let left = std::fs::read_dir(world.dir.path().join("apart/alone/bodies")).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn large_bodies_pass_unchanged_in_pieces_of_any_size() {
    let world = World::new().await;
    let bytes = pattern(5 * 1024 * 1024 + 12_345);
    let bucket = bucket(&world);
    for piece in [1_000, 512 * 1024, 700_001, bytes.len()] {
        let chunks: Vec<_> =
            bytes.chunks(piece).map(|piece| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(piece))).collect();
        let mut body = StreamingBlob::wrap(stream::iter(chunks));
        let (stored, digests) = receive(&bucket, &mut body, bytes.len() as u64, Algorithm::Sha256, true).await.unwrap();
        assert_eq!(digests.value, Algorithm::Sha256.of(&bytes));
        assert_eq!(stored.length(), bytes.len() as u64);
    }
    world.put("/bucket/k", &DSSE, bytes.clone()).await.expect(200);
    assert!(world.get("/bucket/k", &[]).await.expect(200).body == bytes);
    let middle = world.get("/bucket/k", &[("range", "bytes=100001-3000000")]).await.expect(206);
    assert!(middle.body == bytes[100_001..=3_000_000]);
}

#[tokio::test]
async fn a_reader_finishes_the_version_that_it_began() {
    let world = World::new().await;
    let bytes = pattern(3 * 1024 * 1024);
    world.put("/bucket/k", &[], bytes.clone()).await.expect(200);
    let request = Request::builder().uri("http://localhost/bucket/k").body(s3s::Body::empty()).unwrap();
    let mut reading = world.call(request).await;
    world.put("/bucket/k", &[], "new").await.expect(200);
    world.delete("/bucket/k", &[]).await.expect(204);
    assert!(reading.body_mut().store_all_limited(usize::MAX).await.unwrap() == bytes);
    drop(reading);
    assert_eq!(world.bodies(), 0);
}

#[tokio::test]
async fn an_answer_knows_its_length_before_it_is_read() {
    let mut world = World::new().await;
    world.put("/bucket/k", &[], pattern(2_000_000)).await.expect(200);
    world.stop();
    let store = Store::open(&world.dir.path().join("buckets")).unwrap();
    let bucket = store.bucket("bucket").unwrap();
    let version = bucket.find("k", None).unwrap();
    let blob = send(&bucket, &version, &version.object().unwrap().body, 10..1_500_000).unwrap();
    assert_eq!(s3s::stream::ByteStream::remaining_length(&blob).exact(), Some(1_499_990));
}

/// A bucket in addition to the service's.
fn bucket(world: &World) -> Arc<crate::storage::Bucket> {
    let store = Store::open(&world.dir.path().join("apart")).unwrap();
    store.create("alone", Settings::default()).unwrap();
    store.bucket("alone").unwrap()
}

fn header_map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect()
}
