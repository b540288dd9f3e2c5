use super::bodies::pattern;
use super::*;

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn each_step_of_an_upload_names_its_encryption() {
    let world = World::new().await;
    let headers = [DSSE[0], DSSE[1], (SSE_CONTEXT, "e30=")];
    let create = world.post("/bucket/k?uploads", &headers, "").await.expect(200);
    let id = create.field("UploadId").unwrap();
    let own = context("bucket/k");
    assert_eq!(world.calls(), [Call::Generate(KEY.to_owned(), own.clone())]);
    assert_eq!(create.header(SSE_CONTEXT), Some("e30="));
    let part = world.put(&format!("/bucket/k?partNumber=1&uploadId={id}"), &[], "part").await.expect(200);
    assert_eq!(world.calls(), [Call::Decrypt(KEY.to_owned(), own.clone())]);
    let listed = world.get(&format!("/bucket/k?uploadId={id}"), &[]).await.expect(200);
    assert_eq!(listed.header(SSE), None);
    assert_eq!(world.calls(), [Call::Decrypt(KEY.to_owned(), own.clone())]);
    let done = world.complete("/bucket/k", &id, &[(1, part.header("etag").unwrap())], &[]).await.expect(200);
    assert_eq!(world.calls(), [Call::Decrypt(KEY.to_owned(), own)]);
    for answer in [&create, &part, &done, &world.head("/bucket/k", &[]).await] {
        assert_eq!((answer.header(SSE), answer.header(SSE_KEY)), (Some("aws:kms:dsse"), Some(KEY)));
    }
    assert_eq!((part.header(SSE_CONTEXT), done.header(SSE_CONTEXT)), (None, None));
    assert!(done.field("ETag").unwrap().ends_with("-1\""));
    assert_eq!(done.field("ChecksumCRC64NVME"), None);
    let head = world.head("/bucket/k", &[("x-amz-checksum-mode", "ENABLED")]).await.expect(200);
    assert!(head.header("x-amz-checksum-crc64nvme").is_some());
}

#[tokio::test]
async fn parts_in_any_order_become_the_object() {
    let world = World::new().await;
    let bytes = pattern(11 * MIB + 77);
    let id = world.create_upload("/bucket/k", &[("x-amz-meta-a", "1"), ("x-amz-tagging", "t=1")]).await;
    let third = world.put_part("/bucket/k", &id, 30, &bytes[11 * MIB..]).await;
    let first = world.put_part("/bucket/k", &id, 10, &bytes[..6 * MIB]).await;
    world.put_part("/bucket/k", &id, 20, "replaced").await;
    let second = world.put_part("/bucket/k", &id, 20, &bytes[6 * MIB..11 * MIB]).await;
    world.put_part("/bucket/k", &id, 25, "unused").await;
    let parts = [(10, first.as_str()), (20, &second), (30, &third)];
    let size = bytes.len().to_string();
    let done = world.complete("/bucket/k", &id, &parts, &[("x-amz-mp-object-size", &size)]).await.expect(200);
    assert!(done.field("ETag").unwrap().ends_with("-3\""));
    let read = world.get("/bucket/k", &[("x-amz-checksum-mode", "ENABLED")]).await.expect(200);
    assert!(read.body == bytes);
    assert_eq!((read.header("x-amz-meta-a"), read.header("x-amz-tagging-count")), (Some("1"), Some("1")));
    let crc = crate::s3::checksum::Algorithm::DEFAULT.of(&bytes);
    let crc = base64_simd::STANDARD.encode_to_string(crc);
    assert_eq!(read.header("x-amz-checksum-crc64nvme"), Some(crc.as_str()));
    let across = world.get("/bucket/k", &[("range", "bytes=6291450-6291460")]).await.expect(206);
    assert!(across.body == bytes[6_291_450..=6_291_460]);
    let part = world.head("/bucket/k?partNumber=20", &[]).await.expect(200);
    assert_eq!((part.header("content-length"), part.header("x-amz-mp-parts-count")), (Some("5242880"), Some("3")));
    world.get("/bucket/k?partNumber=4", &[]).await.refused(416, "InvalidPartNumber");
    assert_eq!(world.bodies(), 3);
    world.get(&format!("/bucket/k?uploadId={id}"), &[]).await.refused(404, "NoSuchUpload");
}

#[tokio::test]
async fn an_unencrypted_uploads_etag_is_md5_of_md5s() {
    let world = World::new().await;
    let id = world.create_upload("/bucket/k", &[]).await;
    let etag = world.put_part("/bucket/k", &id, 1, "hello").await;
    assert_eq!(etag, "\"5d41402abc4b2a76b9719d911017c592\"");
    let done = world.complete("/bucket/k", &id, &[(1, &etag)], &[]).await.expect(200);
    assert_eq!(done.field("ETag").as_deref(), Some("\"62109206880d38a4010a98e11243924a-1\""));
}

#[tokio::test]
async fn a_wrong_list_of_parts_completes_nothing() {
    let world = World::new().await;
    let id = world.create_upload("/bucket/k", &DSSE).await;
    let small = world.put_part("/bucket/k", &id, 1, "small").await;
    let last = world.put_part("/bucket/k", &id, 2, "last").await;
    world.calls();
    let complete = async |parts: &[(u32, &str)]| world.complete("/bucket/k", &id, parts, &[]).await;
    complete(&[(1, &small), (2, &last)]).await.refused(400, "EntityTooSmall");
    complete(&[(2, &last), (1, &small)]).await.refused(400, "InvalidPartOrder");
    complete(&[(1, &small), (1, &small)]).await.refused(400, "InvalidPartOrder");
    complete(&[(1, &last)]).await.refused(400, "InvalidPart");
    complete(&[(3, &last)]).await.refused(400, "InvalidPart");
    complete(&[]).await.refused(400, "MalformedXML");
    assert_eq!(world.calls(), []);
    let headers = [("x-amz-mp-object-size", "6")];
    world.complete("/bucket/k", &id, &[(1, &small)], &headers).await.refused(400, "InvalidRequest");
    world.complete("/bucket/other", &id, &[(1, &small)], &[]).await.refused(404, "NoSuchUpload");
    world.head("/bucket/k", &[]).await.expect(404);
    complete(&[(1, &small)]).await.expect(200);
}

#[tokio::test]
async fn part_numbers_are_1_to_10000() {
    let world = World::new().await;
    let id = world.create_upload("/bucket/k", &[]).await;
    for number in ["0", "10001", "-1"] {
        let path = format!("/bucket/k?partNumber={number}&uploadId={id}");
        world.put(&path, &[], "x").await.refused(400, "InvalidArgument");
    }
    world.put_part("/bucket/k", &id, 10_000, "x").await;
}

#[tokio::test]
async fn an_aborted_upload_is_gone_with_its_parts() {
    let world = World::new().await;
    let id = world.create_upload("/bucket/k", &[]).await;
    world.put_part("/bucket/k", &id, 1, "x").await;
    world.delete(&format!("/bucket/k?uploadId={id}"), &[]).await.expect(204);
    assert_eq!(world.bodies(), 0);
    world.put(&format!("/bucket/k?partNumber=2&uploadId={id}"), &[], "x").await.refused(404, "NoSuchUpload");
    world.delete(&format!("/bucket/k?uploadId={id}"), &[]).await.refused(404, "NoSuchUpload");
    assert_eq!(world.bodies(), 0);
}

#[tokio::test]
async fn parts_are_listed_in_pages() {
    let world = World::new().await;
    let id = world.create_upload("/bucket/k", &[]).await;
    for number in [3, 1, 2] {
        world.put_part("/bucket/k", &id, number, "x").await;
    }
    let page = world.get(&format!("/bucket/k?uploadId={id}&max-parts=2"), &[]).await.expect(200);
    assert_eq!(page.fields("PartNumber"), ["1", "2"]);
    assert_eq!(
        (page.field("IsTruncated").as_deref(), page.field("NextPartNumberMarker").as_deref()),
        (Some("true"), Some("2"))
    );
    let page = world.get(&format!("/bucket/k?uploadId={id}&part-number-marker=2"), &[]).await.expect(200);
    assert_eq!(
        (page.fields("PartNumber"), page.field("IsTruncated").as_deref()),
        (vec!["3".to_owned()], Some("false"))
    );
}

#[tokio::test]
async fn a_copied_part_is_a_range_of_its_source() {
    let world = World::new().await;
    let bytes = pattern(7 * MIB);
    world.put("/bucket/source", &DSSE, bytes.clone()).await.expect(200);
    let id = world.create_upload("/bucket/k", &DSSE).await;
    world.calls();
    let copy = async |number: u32, headers: &[(&str, &str)]| {
        let headers = [&[("x-amz-copy-source", "bucket/source")], headers].concat();
        world.put(&format!("/bucket/k?partNumber={number}&uploadId={id}"), &headers, "").await
    };
    let first = copy(1, &[("x-amz-copy-source-range", "bytes=1000-6000999")]).await.expect(200);
    assert_eq!((first.header(SSE), first.header(SSE_KEY)), (Some("aws:kms:dsse"), Some(KEY)));
    let of_source = Call::Decrypt(KEY.to_owned(), context("bucket/source"));
    assert_eq!(world.calls(), [of_source, Call::Decrypt(KEY.to_owned(), context("bucket/k"))]);
    let second = copy(2, &[]).await.expect(200);
    copy(3, &[("x-amz-copy-source-range", "bytes=0-7340032")]).await.refused(400, "InvalidArgument");
    copy(3, &[("x-amz-copy-source-range", "bytes=5-")]).await.refused(400, "InvalidArgument");
    copy(3, &[("x-amz-copy-source-if-match", "\"0\"")]).await.refused(412, "PreconditionFailed");
    let etags = [first.field("ETag").unwrap(), second.field("ETag").unwrap()];
    world.complete("/bucket/k", &id, &[(1, &etags[0]), (2, &etags[1])], &[]).await.expect(200);
    world.delete("/bucket/source", &[]).await.expect(204);
    let expected = [&bytes[1_000..6_001_000], &bytes[..]].concat();
    assert!(world.get("/bucket/k", &[]).await.expect(200).body == expected);
    assert_eq!(world.bodies(), 2);
}

#[tokio::test]
async fn composite_checksums_are_those_of_the_parts_checksums() {
    let world = World::new().await;
    let create = world.post("/bucket/k?uploads", &[("x-amz-checksum-algorithm", "SHA256")], "").await.expect(200);
    assert_eq!(create.header("x-amz-checksum-type"), Some("COMPOSITE"));
    let id = create.field("UploadId").unwrap();
    let path = format!("/bucket/k?partNumber=1&uploadId={id}");
    world.put(&path, &[], "123456789").await.refused(400, "InvalidRequest");
    world.put(&path, &[("x-amz-checksum-crc32", "y/Q5Jg==")], "123456789").await.refused(400, "InvalidRequest");
    let sha = "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=";
    let part = world.put(&path, &[("x-amz-checksum-sha256", sha)], "123456789").await.expect(200);
    assert_eq!(part.header("x-amz-checksum-sha256"), Some(sha));
    let etag = part.header("etag").unwrap().to_owned();
    world.complete("/bucket/k", &id, &[(1, &etag)], &[]).await.refused(400, "InvalidRequest");
    let list = |sum: &str| {
        let etag = etag.replace('"', "&quot;");
        format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag><ChecksumSHA256>{sum}\
                 </ChecksumSHA256></Part></CompleteMultipartUpload>"
        )
    };
    let complete = format!("/bucket/k?uploadId={id}");
    world.post(&complete, &[], list("AAAA")).await.refused(400, "InvalidPart");
    let wrong = [("x-amz-checksum-sha256", sha)];
    world.post(&complete, &wrong, list(sha)).await.refused(400, "BadDigest");
    let done = world.post(&complete, &[], list(sha)).await.expect(200);
    // SHA-256 of the SHA-256 of "123456789".
    let composite = crate::s3::checksum::Algorithm::Sha256;
    let composite = base64_simd::STANDARD.encode_to_string(composite.of(&composite.of(b"123456789")));
    assert_eq!(done.field("ChecksumSHA256"), Some(format!("{composite}-1")));
    let head = world.head("/bucket/k", &[("x-amz-checksum-mode", "ENABLED")]).await.expect(200);
    assert_eq!(head.header("x-amz-checksum-type"), Some("COMPOSITE"));
    assert_eq!(head.header("x-amz-checksum-sha256"), Some(format!("{composite}-1").as_str()));
}

#[tokio::test]
async fn full_object_crcs_are_combined_from_parts() {
    let world = World::new().await;
    let bytes = pattern(5 * MIB + 9);
    for name in ["CRC32", "CRC32C", "CRC64NVME"] {
        let algorithm = crate::s3::checksum::Algorithm::named(name).unwrap();
        let headers = [("x-amz-checksum-algorithm", name), ("x-amz-checksum-type", "FULL_OBJECT")];
        let id = world.create_upload("/bucket/k", &headers).await;
        let first = world.put_part("/bucket/k", &id, 1, &bytes[..5 * MIB]).await;
        let second = world.put_part("/bucket/k", &id, 2, &bytes[5 * MIB..]).await;
        let parts = [(1, first.as_str()), (2, &second)];
        let right = base64_simd::STANDARD.encode_to_string(algorithm.of(&bytes));
        let wrong = base64_simd::STANDARD.encode_to_string(algorithm.of(b"other"));
        let header = algorithm.header();
        world.complete("/bucket/k", &id, &parts, &[(header, &wrong)]).await.refused(400, "BadDigest");
        world
            .complete("/bucket/k", &id, &parts, &[("x-amz-checksum-type", "COMPOSITE")])
            .await
            .refused(400, "InvalidRequest");
        world.complete("/bucket/k", &id, &parts, &[(header, &right)]).await.expect(200);
        let head = world.head("/bucket/k", &[("x-amz-checksum-mode", "ENABLED")]).await.expect(200);
        assert_eq!(head.header(header), Some(right.as_str()));
    }
}

#[tokio::test]
async fn checksum_types_must_fit_their_algorithms() {
    let world = World::new().await;
    for (algorithm, kind) in [("CRC64NVME", "COMPOSITE"), ("SHA256", "FULL_OBJECT"), ("CRC32", "HALF")] {
        let headers = [("x-amz-checksum-algorithm", algorithm), ("x-amz-checksum-type", kind)];
        world.post("/bucket/k?uploads", &headers, "").await.refused(400, "InvalidRequest");
    }
}

#[tokio::test]
async fn only_the_abort_works_while_kms_refuses() {
    let world = World::new().await;
    let id = world.create_upload("/bucket/k", &DSSE).await;
    let etag = world.put_part("/bucket/k", &id, 1, "x").await;
    world.disable_keys();
    world.put(&format!("/bucket/k?partNumber=2&uploadId={id}"), &[], "x").await.refused(400, REFUSED);
    world.complete("/bucket/k", &id, &[(1, &etag)], &[]).await.refused(400, REFUSED);
    world.get(&format!("/bucket/k?uploadId={id}"), &[]).await.refused(400, REFUSED);
    world.delete(&format!("/bucket/k?uploadId={id}"), &[]).await.expect(204);
    assert_eq!(world.bodies(), 0);
}
