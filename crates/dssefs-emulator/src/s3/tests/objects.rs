use super::*;

#[tokio::test]
async fn content_headers_metadata_class_and_tags_come_back() {
    let world = World::new().await;
    let headers = [
        ("content-type", "text/plain"),
        ("cache-control", "no-cache"),
        ("content-disposition", "attachment"),
        ("content-encoding", "aws-chunked,gzip"),
        ("content-language", "de"),
        ("expires", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("x-amz-meta-mode", "33188"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-tagging", "a=1&b=x%20y+z"),
    ];
    world.put("/bucket/k", &headers, "x").await.expect(200);
    for method in ["GET", "HEAD"] {
        let read = world.send(method, "/bucket/k", &[], "").await.expect(200);
        for (name, value) in &headers[..3] {
            assert_eq!(read.header(name), Some(*value));
        }
        assert_eq!(read.header("content-encoding"), Some("gzip"));
        assert_eq!(read.header("content-language"), Some("de"));
        assert_eq!(read.header("expires"), Some("Wed, 21 Oct 2015 07:28:00 GMT"));
        assert_eq!(read.header("x-amz-meta-mode"), Some("33188"));
        assert_eq!(read.header("x-amz-storage-class"), Some("STANDARD_IA"));
        assert_eq!(read.header("x-amz-tagging-count"), Some("2"));
    }
    let tags = world.get("/bucket/k?tagging", &[]).await.expect(200);
    assert_eq!(tags.fields("Value"), ["1", "x y z"]);
}

#[tokio::test]
async fn defaults_are_those_of_s3() {
    let world = World::new().await;
    world
        .put("/bucket/k", &[("content-encoding", "aws-chunked"), ("x-amz-storage-class", "STANDARD")], "")
        .await
        .expect(200);
    let head = world.head("/bucket/k", &[]).await.expect(200);
    assert_eq!(head.header("content-type"), Some("binary/octet-stream"));
    assert_eq!(head.header("content-length"), Some("0"));
    assert_eq!(head.header("x-amz-storage-class"), None);
    assert_eq!(head.header("content-encoding"), None);
    assert_eq!(head.header("x-amz-version-id"), None);
    assert_eq!(head.header("x-amz-tagging-count"), None);
}

#[tokio::test]
async fn metadata_beyond_two_kilobytes_is_refused() {
    let world = World::new().await;
    let fits = "v".repeat(2048 - "name".len());
    world.put("/bucket/k", &[("x-amz-meta-name", &fits)], "x").await.expect(200);
    let too_long = format!("{fits}v");
    world.put("/bucket/k", &[("x-amz-meta-name", &too_long)], "x").await.refused(400, "MetadataTooLarge");
}

#[tokio::test]
async fn tags_are_limited_in_number_length_and_repetition() {
    let world = World::new().await;
    let eleven = (0..11).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join("&");
    world.put("/bucket/k", &[("x-amz-tagging", &eleven)], "x").await.refused(400, "BadRequest");
    world.put("/bucket/k", &[("x-amz-tagging", "a=1&a=2")], "x").await.refused(400, "InvalidTag");
    let long = format!("a={}", "v".repeat(257));
    world.put("/bucket/k", &[("x-amz-tagging", &long)], "x").await.refused(400, "InvalidTag");
}

#[tokio::test]
async fn tags_can_be_replaced_and_removed() {
    let world = World::new().await;
    world.put("/bucket/k", &[("x-amz-tagging", "a=1")], "x").await.expect(200);
    let etag = world.head("/bucket/k", &[]).await.header("etag").unwrap().to_owned();
    let tags = "<Tagging><TagSet><Tag><Key>b</Key><Value>2</Value></Tag></TagSet></Tagging>";
    world.put("/bucket/k?tagging", &[], tags).await.expect(200);
    assert_eq!(world.get("/bucket/k?tagging", &[]).await.fields("Key"), ["b"]);
    world.delete("/bucket/k?tagging", &[]).await.expect(204);
    assert_eq!(world.get("/bucket/k?tagging", &[]).await.fields("Key"), [""; 0]);
    let read = world.get("/bucket/k", &[]).await.expect(200);
    assert_eq!((read.text().as_str(), read.header("etag")), ("x", Some(etag.as_str())));
    world.get("/bucket/none?tagging", &[]).await.refused(404, "NoSuchKey");
}

#[tokio::test]
async fn ranges_are_served_as_rfc_9110_says() {
    let world = World::new().await;
    world.put("/bucket/k", &[], "0123456789").await.expect(200);
    for (range, bytes, content_range) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=7-99", "789", "bytes 7-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
    ] {
        let read = world.get("/bucket/k", &[("range", range)]).await.expect(206);
        assert_eq!((read.text().as_str(), read.header("content-range")), (bytes, Some(content_range)));
        assert_eq!(read.header("content-length"), Some(bytes.len().to_string().as_str()));
    }
    for range in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
        world.get("/bucket/k", &[("range", range)]).await.refused(416, "InvalidRange");
    }
}

#[tokio::test]
async fn no_range_of_an_empty_object_is_satisfiable() {
    let world = World::new().await;
    world.put("/bucket/k", &[], "").await.expect(200);
    for range in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
        world.get("/bucket/k", &[("range", range)]).await.refused(416, "InvalidRange");
    }
    assert_eq!(world.get("/bucket/k", &[]).await.expect(200).text(), "");
}

#[tokio::test]
async fn keys_are_anything_up_to_1024_bytes() {
    let world = World::new().await;
    let long = "k".repeat(1024);
    let keys =
        ["a", "a/b", "a/", "/", "//x", "..", "../../etc", ".", "x+y%20z%25", "%00%01%0A", "%C3%A4%F0%9F%98%80", &long];
    for (n, key) in keys.iter().enumerate() {
        world.put(&format!("/bucket/{key}"), &[], n.to_string()).await.expect(200);
    }
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(world.get(&format!("/bucket/{key}"), &[]).await.expect(200).text(), n.to_string(), "{key}");
    }
    world.put(&format!("/bucket/{long}k"), &[], "x").await.refused_by_s3s(400, "KeyTooLongError");
}

#[tokio::test]
async fn attributes_tell_what_is_asked_and_nothing_of_encryption() {
    let world = World::new().await;
    world.put("/bucket/k", &DSSE, "hello").await.expect(200);
    let asked = [("x-amz-object-attributes", "ETag,Checksum,StorageClass,ObjectSize")];
    let answer = world.get("/bucket/k?attributes", &asked).await.expect(200);
    assert_eq!(answer.field("ObjectSize").as_deref(), Some("5"));
    assert_eq!(answer.field("StorageClass").as_deref(), Some("STANDARD"));
    assert!(answer.field("ChecksumCRC64NVME").is_some());
    assert_eq!(answer.header(SSE), None);
    world.get("/bucket/k?attributes", &[("x-amz-object-attributes", "Owner")]).await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn an_archived_object_answers_head_only() {
    let world = World::new().await;
    world.put("/bucket/k", &[("x-amz-storage-class", "DEEP_ARCHIVE")], "x").await.expect(200);
    assert_eq!(world.head("/bucket/k", &[]).await.expect(200).header("x-amz-storage-class"), Some("DEEP_ARCHIVE"));
    world.get("/bucket/k", &[]).await.refused(403, "InvalidObjectState");
    world.put("/bucket/k", &[("x-amz-storage-class", "CHEAP")], "x").await.refused(400, "InvalidStorageClass");
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_and_not_ignored() {
    let world = World::new().await;
    for (name, value, status, code) in [
        ("x-amz-acl", "public-read", 400, "AccessControlListNotSupported"),
        ("x-amz-grant-read", "id=1", 400, "AccessControlListNotSupported"),
        ("x-amz-object-lock-mode", "GOVERNANCE", 400, "InvalidRequest"),
        ("x-amz-write-offset-bytes", "5", 501, "NotImplemented"),
        ("x-amz-expected-bucket-owner", "999999999999", 403, "AccessDenied"),
    ] {
        world.put("/bucket/k", &[(name, value)], "x").await.refused(status, code);
    }
    world.put("/bucket/k", &[("x-amz-acl", "bucket-owner-full-control")], "x").await.expect(200);
}
