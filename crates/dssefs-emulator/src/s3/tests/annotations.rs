//! Annotations: names, limits, conditions, versions and copies.

use super::*;

const ONE: &str = "/bucket/k?annotation&annotationName=one";
const LIST: &str = "/bucket/k?annotation&x-id=ListObjectAnnotations";

async fn world() -> World {
    let world = World::new().await;
    world.put("/bucket/k", &DSSE, "body").await.expect(200);
    world.calls();
    world
}

async fn names(world: &World, path: &str) -> Vec<String> {
    world.get(&format!("{path}?annotation"), &[]).await.expect(200).fields("AnnotationName")
}

#[tokio::test]
async fn an_annotation_is_kept_beside_its_object_and_encrypted_as_it_is() {
    let mut world = world().await;
    let before = world.head("/bucket/k", &[]).await.header("etag").map(str::to_owned);
    let put = world.put(ONE, &[], "text").await.expect(200);
    assert_eq!((put.field("AnnotationName").as_deref(), put.header(SSE)), (Some("one"), Some("aws:kms:dsse")));
    assert_eq!(world.calls(), [Call::Generate(KEY.to_owned(), context("bucket/k"))]);
    world.restart();
    let got = world.get(ONE, &[]).await.expect(200);
    assert_eq!((got.text(), got.header(SSE)), ("text".to_owned(), Some("aws:kms:dsse")));
    assert_eq!(world.calls(), [Call::Decrypt(KEY.to_owned(), context("bucket/k"))]);
    assert_eq!(world.head("/bucket/k", &[]).await.header("etag").map(str::to_owned), before);
    assert_eq!(world.get("/bucket/k", &[]).await.expect(200).text(), "body");
}

#[tokio::test]
async fn what_is_asked_of_a_missing_object_or_annotation_is_404() {
    let world = world().await;
    world.get(ONE, &[]).await.refused(404, "NoSuchAnnotation");
    world.delete(ONE, &[]).await.refused(404, "NoSuchAnnotation");
    world.put("/bucket/absent?annotation&annotationName=one", &[], "x").await.refused(404, "NoSuchKey");
    world.get("/bucket/absent?annotation", &[]).await.refused(404, "NoSuchKey");
}

#[tokio::test]
async fn names_and_payloads_have_limits() {
    let world = world().await;
    let put = async |name: &str, payload: Vec<u8>| {
        world.put(&format!("/bucket/k?annotation&annotationName={name}"), &[], payload).await
    };
    for name in ["aws.x", "AWSthing", "s3-thing", "has%20space", "a%2Fb", "%20"] {
        put(name, b"x".to_vec()).await.refused(400, "InvalidAnnotationName");
    }
    put(&"n".repeat(513), b"x".to_vec()).await.refused(400, "AnnotationNameTooLong");
    put(&"n".repeat(512), b"x".to_vec()).await.expect(200);
    put("donn%C3%A9es_1.2-3", vec![b'x'; 1 << 20]).await.expect(200);
    put("big", vec![b'x'; (1 << 20) + 1]).await.refused(400, "InvalidRequest");
    put("empty", Vec::new()).await.refused(400, "InvalidRequest");
    put("binary", vec![0xff]).await.refused(415, "UnsupportedMediaType");
    let wrong = [("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")];
    world.put(ONE, &wrong, "text").await.refused(400, "BadDigest");
}

#[tokio::test]
async fn a_version_has_at_most_a_thousand_listed_in_pages() {
    let world = world().await;
    for number in 0..1000 {
        world.put(&format!("/bucket/k?annotation&annotationName=n{number:03}"), &[], "x").await.expect(200);
    }
    world.put(ONE, &[], "x").await.refused(400, "AnnotationLimitExceeded");
    world.put("/bucket/k?annotation&annotationName=n007", &[], "y").await.expect(200);
    let first = world.get(&format!("{LIST}&max-annotation-results=999"), &[]).await.expect(200);
    assert_eq!(first.fields("AnnotationName").len(), 999);
    let next = first.field("NextContinuationToken").unwrap();
    let last = world.get(&format!("{LIST}&continuation-token={next}"), &[]).await.expect(200);
    assert_eq!((last.fields("AnnotationName"), last.field("NextContinuationToken")), (vec!["n999".to_owned()], None));
    let some = world.get(&format!("{LIST}&annotation-prefix=n00"), &[]).await.expect(200);
    assert_eq!(some.field("AnnotationCount").as_deref(), Some("10"));
}

#[tokio::test]
async fn the_condition_is_on_the_object() {
    let world = world().await;
    let etag = world.head("/bucket/k", &[]).await.header("etag").unwrap().to_owned();
    let (other, same) = ([("x-amz-object-if-match", "\"no\"")], [("x-amz-object-if-match", etag.as_str())]);
    world.put(ONE, &other, "x").await.refused(412, "PreconditionFailed");
    world.put(ONE, &same, "x").await.expect(200);
    world.delete(ONE, &other).await.refused(412, "PreconditionFailed");
    world.delete(ONE, &same).await.expect(204);
    assert!(names(&world, "/bucket/k").await.is_empty());
}

#[tokio::test]
async fn an_overwrite_or_an_upload_carries_none() {
    let world = world().await;
    world.put(ONE, &[], "x").await.expect(200);
    world.put("/bucket/k", &DSSE, "new").await.expect(200);
    assert!(names(&world, "/bucket/k").await.is_empty());
    world.put(ONE, &[], "x").await.expect(200);
    let upload = world.create_upload("/bucket/k", &DSSE).await;
    let part = world.put_part("/bucket/k", &upload, 1, "part").await;
    world.complete("/bucket/k", &upload, &[(1, &part)], &[]).await.expect(200);
    assert!(names(&world, "/bucket/k").await.is_empty());
}

#[tokio::test]
async fn a_copy_carries_them_unless_it_excludes_them() {
    let world = world().await;
    world.put(ONE, &[], "x").await.expect(200);
    let copy = |extra: &'static [(&'static str, &'static str)]| {
        [&DSSE[..], &[("x-amz-copy-source", "bucket/k")], extra].concat()
    };
    world.put("/bucket/carried", &copy(&[]), "").await.expect(200);
    assert_eq!(names(&world, "/bucket/carried").await, ["one"]);
    world.put("/bucket/bare", &copy(&[("x-amz-object-annotation-directive", "EXCLUDE")]), "").await.expect(200);
    assert!(names(&world, "/bucket/bare").await.is_empty());
    world.put("/bucket/k", &copy(&[("x-amz-metadata-directive", "REPLACE")]), "").await.expect(200);
    assert_eq!(names(&world, "/bucket/k").await, ["one"], "in place");
    let odd = copy(&[("x-amz-object-annotation-directive", "SOME")]);
    world.put("/bucket/odd", &odd, "").await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn each_version_has_its_own() {
    let world = world().await;
    world.versioning("Enabled").await;
    let first = world.put("/bucket/k", &DSSE, "1").await.header("x-amz-version-id").unwrap().to_owned();
    world.put(ONE, &[], "of the first").await.expect(200);
    world.put("/bucket/k", &DSSE, "2").await.expect(200);
    assert!(names(&world, "/bucket/k").await.is_empty());
    let old = world.get(&format!("{ONE}&versionId={first}"), &[]).await.expect(200);
    assert_eq!((old.text(), old.header("x-amz-object-version-id")), ("of the first".to_owned(), Some(first.as_str())));
    world.delete("/bucket/k", &[]).await.expect(204);
    world.get("/bucket/k?annotation", &[]).await.refused(404, "NoSuchKey");
    assert_eq!(world.get(&format!("{LIST}&versionId={first}"), &[]).await.fields("AnnotationName"), ["one"]);
}
