use super::bodies::pattern;
use super::*;

const SOURCE: (&str, &str) = ("x-amz-copy-source", "bucket/source");

#[tokio::test]
async fn a_copy_without_headers_uses_the_buckets_default() {
    let world = World::new().await;
    world.put("/bucket/source", &DSSE, "hello").await.expect(200);
    world.calls();
    let copy = world.put("/bucket/copy", &[SOURCE], "").await.expect(200);
    assert_eq!((copy.header(SSE), copy.header(SSE_KEY)), (Some("AES256"), None));
    assert_eq!(copy.field("ETag").as_deref(), Some("\"5d41402abc4b2a76b9719d911017c592\""));
    assert_eq!(world.calls(), [Call::Decrypt(KEY.to_owned(), context("bucket/source"))]);
    assert_eq!(world.get("/bucket/copy", &[]).await.expect(200).text(), "hello");
}

#[tokio::test]
async fn a_copy_to_dsse_decrypts_and_generates() {
    let world = World::new().await;
    world.put("/bucket/source", &DSSE, "hello").await.expect(200);
    world.calls();
    let copy = world.put("/bucket/copy", &[SOURCE, DSSE[0], DSSE[1], (SSE_CONTEXT, "e30=")], "").await.expect(200);
    assert_eq!((copy.header(SSE), copy.header(SSE_KEY)), (Some("aws:kms:dsse"), Some(KEY)));
    assert_eq!(copy.header(SSE_CONTEXT), Some("e30="));
    let decrypt = Call::Decrypt(KEY.to_owned(), context("bucket/source"));
    assert_eq!(world.calls(), [decrypt, Call::Generate(KEY.to_owned(), context("bucket/copy"))]);
}

#[tokio::test]
async fn a_copy_keeps_metadata_and_tags() {
    let world = World::new().await;
    let headers = [
        ("x-amz-meta-a", "1"),
        ("content-type", "text/plain"),
        ("x-amz-tagging", "t=1"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-website-redirect-location", "/x"),
    ];
    world.put("/bucket/source", &headers, "x").await.expect(200);
    world.put("/bucket/copy", &[SOURCE, ("x-amz-meta-a", "ignored")], "").await.expect(200);
    let head = world.head("/bucket/copy", &[]).await.expect(200);
    assert_eq!((head.header("x-amz-meta-a"), head.header("content-type")), (Some("1"), Some("text/plain")));
    assert_eq!(head.header("x-amz-tagging-count"), Some("1"));
    assert_eq!(head.header("x-amz-storage-class"), None);
    assert_eq!(head.header("x-amz-website-redirect-location"), None);
}

#[tokio::test]
async fn the_directives_replace_metadata_and_tags() {
    let world = World::new().await;
    world.put("/bucket/source", &[("x-amz-meta-a", "1"), ("x-amz-tagging", "t=1")], "x").await.expect(200);
    let headers = [
        SOURCE,
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-tagging-directive", "REPLACE"),
        ("x-amz-meta-b", "2"),
        ("x-amz-tagging", "u=2"),
    ];
    world.put("/bucket/copy", &headers, "").await.expect(200);
    let head = world.head("/bucket/copy", &[]).await.expect(200);
    assert_eq!((head.header("x-amz-meta-a"), head.header("x-amz-meta-b")), (None, Some("2")));
    assert_eq!(world.get("/bucket/copy?tagging", &[]).await.expect(200).fields("Key"), ["u"]);
    let unknown = [SOURCE, ("x-amz-metadata-directive", "MERGE")];
    world.put("/bucket/copy", &unknown, "").await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn a_copy_onto_itself_must_change_something() {
    let world = World::new().await;
    world.put("/bucket/source", &[("x-amz-meta-a", "1")], "x").await.expect(200);
    let sentence = world.put("/bucket/source", &[SOURCE], "").await.refused(400, "InvalidRequest");
    let expected = "This copy request is illegal because it is trying to copy an object to itself without \
    changing the object's metadata, storage class, website redirect location or encryption attributes.";
    assert_eq!(sentence, expected);
    let copy = world.put("/bucket/source", &[SOURCE, DSSE[0], DSSE[1]], "").await.expect(200);
    assert_eq!(copy.header(SSE), Some("aws:kms:dsse"));
    let head = world.head("/bucket/source", &[]).await.expect(200);
    assert_eq!((head.header("x-amz-meta-a"), head.header(SSE)), (Some("1"), Some("aws:kms:dsse")));
    // From KMS down to the default is a change too.
    let copy = world.put("/bucket/source", &[SOURCE], "").await.expect(200);
    assert_eq!(copy.header(SSE), Some("AES256"));
    assert_eq!(world.get("/bucket/source", &[]).await.expect(200).text(), "x");
    assert_eq!(world.bodies(), 1);
}

#[tokio::test]
async fn conditions_on_source_and_target_are_honoured() {
    let world = World::new().await;
    let etag = world.put("/bucket/source", &[], "x").await.header("etag").unwrap().to_owned();
    let copy = async |header: (&str, &str)| world.put("/bucket/copy", &[SOURCE, header], "").await.status;
    assert_eq!(copy(("x-amz-copy-source-if-match", "\"0\"")).await, 412);
    assert_eq!(copy(("x-amz-copy-source-if-none-match", &etag)).await, 412);
    assert_eq!(copy(("x-amz-copy-source-if-unmodified-since", "Wed, 21 Oct 2015 07:28:00 GMT")).await, 412);
    assert_eq!(copy(("x-amz-copy-source-if-match", &etag)).await, 200);
    assert_eq!(copy(("if-none-match", "*")).await, 412);
    assert_eq!(copy(("if-match", "\"0\"")).await, 412);
    assert_eq!(copy(("if-match", &etag)).await, 200);
}

#[tokio::test]
async fn a_missing_source_is_told_from_a_missing_bucket() {
    let world = World::new().await;
    world.put("/bucket/copy", &[SOURCE], "").await.refused(404, "NoSuchKey");
    world.put("/bucket/copy", &[("x-amz-copy-source", "none/source")], "").await.refused(404, "NoSuchBucket");
}

#[tokio::test]
async fn a_copy_keeps_or_replaces_the_checksum_algorithm() {
    let world = World::new().await;
    let crc32 = [("x-amz-checksum-crc32", "y/Q5Jg==")];
    world.put("/bucket/source", &crc32, "123456789").await.expect(200);
    let copy = world.put("/bucket/copy", &[SOURCE], "").await.expect(200);
    assert_eq!(copy.field("ChecksumCRC32").as_deref(), Some("y/Q5Jg=="));
    let asked = [SOURCE, ("x-amz-checksum-algorithm", "SHA1")];
    let copy = world.put("/bucket/copy", &asked, "").await.expect(200);
    assert_eq!(copy.field("ChecksumSHA1").as_deref(), Some("98O8HYCOBHMq32eZZczDTKeuNEE="));
}

#[tokio::test]
async fn a_copy_outlives_its_source_even_across_buckets() {
    let mut world = World::new().await;
    world.put("/other", &[], "").await.expect(200);
    let bytes = pattern(1_500_000);
    world.put("/bucket/source", &DSSE, bytes.clone()).await.expect(200);
    world.put("/other/copy", &[SOURCE], "").await.expect(200);
    world.delete("/bucket/source", &[]).await.expect(204);
    world.restart();
    assert!(world.get("/other/copy", &[]).await.expect(200).body == bytes);
    assert_eq!(world.bodies(), 0);
}

#[tokio::test]
async fn above_5_gb_only_parts_are_copied() {
    let world = World::new().await;
    world.put("/bucket/piece", &DSSE, pattern(64 * 1024 * 1024)).await.expect(200);
    let id = world.create_upload("/bucket/source", &DSSE).await;
    let mut parts = Vec::new();
    for number in 1..=81 {
        let path = format!("/bucket/source?partNumber={number}&uploadId={id}");
        let part = world.put(&path, &[("x-amz-copy-source", "bucket/piece")], "").await.expect(200);
        parts.push((number, part.field("ETag").unwrap()));
    }
    let parts: Vec<_> = parts.iter().map(|(number, etag)| (*number, etag.as_str())).collect();
    world.complete("/bucket/source", &id, &parts, &[]).await.expect(200);
    let size = (81_u64 * 64 * 1024 * 1024).to_string();
    assert_eq!(world.head("/bucket/source", &[]).await.header("content-length"), Some(size.as_str()));
    let sentence = world.put("/bucket/copy", &[SOURCE, DSSE[0], DSSE[1]], "").await.refused(400, "InvalidRequest");
    assert!(sentence.contains("5368709120"), "{sentence}");
    let id = world.create_upload("/bucket/copy", &DSSE).await;
    let path = format!("/bucket/copy?partNumber=1&uploadId={id}");
    world.put(&path, &[SOURCE], "").await.refused(400, "InvalidRequest");
    let beyond = ("x-amz-copy-source-range", "bytes=5368709120-5436928000");
    world.put(&path, &[SOURCE, beyond], "").await.refused(400, "InvalidArgument");
    let across = ("x-amz-copy-source-range", "bytes=5368709118-5368709127");
    let part = world.put(&path, &[SOURCE, across], "").await.expect(200).field("ETag").unwrap();
    world.complete("/bucket/copy", &id, &[(1, &part)], &[]).await.expect(200);
    let piece = pattern(64 * 1024 * 1024);
    assert!(world.get("/bucket/copy", &[]).await.expect(200).body == [&piece[piece.len() - 2..], &piece[..8]].concat());
}
