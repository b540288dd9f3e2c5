use super::*;

/// Base64 of `{"project":"x"}`.
const CONTEXT: &str = "eyJwcm9qZWN0IjoieCJ9";

fn custom_context(path: &str) -> BTreeMap<String, String> {
    let mut pairs = context(path);
    pairs.insert("project".to_owned(), "x".to_owned());
    pairs
}

#[track_caller]
fn assert_dsse(answer: &Answer, key: &str) {
    assert_eq!(answer.header(SSE), Some("aws:kms:dsse"));
    assert_eq!(answer.header(SSE_KEY), Some(key));
    assert_eq!(answer.header(SSE_BUCKET_KEY), None);
}

#[tokio::test]
async fn put_names_the_context_and_reads_do_not() {
    let world = World::new().await;
    let headers = [DSSE[0], DSSE[1], (SSE_CONTEXT, CONTEXT)];
    let put = world.put("/bucket/a/b", &headers, "hello").await.expect(200);
    assert_dsse(&put, KEY);
    assert_eq!(put.header(SSE_CONTEXT), Some(CONTEXT));
    for method in ["GET", "HEAD"] {
        let read = world.send(method, "/bucket/a/b", &[], "").await.expect(200);
        assert_dsse(&read, KEY);
        assert_eq!(read.header(SSE_CONTEXT), None);
        assert_eq!(read.header("etag"), put.header("etag"));
    }
}

#[tokio::test]
async fn put_generates_get_decrypts_head_costs_nothing() {
    let world = World::new().await;
    let headers = [DSSE[0], DSSE[1], (SSE_CONTEXT, CONTEXT)];
    world.put("/bucket/a/b", &headers, "hello").await.expect(200);
    let pairs = custom_context("bucket/a/b");
    assert_eq!(world.calls(), [Call::Generate(KEY.to_owned(), pairs.clone())]);
    world.head("/bucket/a/b", &[]).await.expect(200);
    world.get("/bucket?list-type=2", &[]).await.expect(200);
    assert_eq!(world.calls(), []);
    world.get("/bucket/a/b", &[("range", "bytes=1-2")]).await.expect(206);
    assert_eq!(world.calls(), [Call::Decrypt(KEY.to_owned(), pairs.clone())]);
    world.head("/bucket/a/b", &[("x-amz-checksum-mode", "ENABLED")]).await.expect(200);
    assert_eq!(world.calls(), [Call::Decrypt(KEY.to_owned(), pairs.clone())]);
    let attributes = [("x-amz-object-attributes", "ETag,ObjectSize")];
    world.get("/bucket/a/b?attributes", &attributes).await.expect(200);
    assert_eq!(world.calls(), []);
    world.get("/bucket/a/b?attributes", &[("x-amz-object-attributes", "Checksum")]).await.expect(200);
    assert_eq!(world.calls(), [Call::Decrypt(KEY.to_owned(), pairs)]);
    world.delete("/bucket/a/b", &[]).await.expect(204);
    assert_eq!(world.calls(), []);
}

#[tokio::test]
async fn a_request_without_a_key_uses_the_managed_key() {
    let world = World::new().await;
    world.default_encryption("aws:kms:dsse", KEY).await.expect(200);
    let put = world.put("/bucket/k", &[(SSE, "aws:kms:dsse")], "x").await.expect(200);
    assert_dsse(&put, MANAGED_KEY);
}

#[tokio::test]
async fn a_key_id_comes_back_as_an_arn() {
    let world = World::new().await;
    let headers = [(SSE, "aws:kms:dsse"), (SSE_KEY, "11111111-2222-3333-4444-555555555555")];
    assert_dsse(&world.put("/bucket/k", &headers, "x").await.expect(200), KEY);
}

#[tokio::test]
async fn writes_without_headers_use_the_buckets_default() {
    let world = World::new().await;
    let put = world.put("/bucket/plain", &[], "x").await.expect(200);
    assert_eq!((put.header(SSE), put.header(SSE_KEY)), (Some("AES256"), None));
    assert_eq!(world.calls(), []);
    world.default_encryption("aws:kms:dsse", KEY).await.expect(200);
    assert_dsse(&world.put("/bucket/k", &[], "x").await.expect(200), KEY);
    assert_dsse(&world.post("/bucket/u?uploads", &[], "").await.expect(200), KEY);
    let source = [("x-amz-copy-source", "bucket/plain")];
    assert_dsse(&world.put("/bucket/c", &source, "").await.expect(200), KEY);
    world.delete("/bucket?encryption", &[]).await.expect(204);
    let put = world.put("/bucket/k", &[], "x").await.expect(200);
    assert_eq!(put.header(SSE), Some("AES256"));
}

#[tokio::test]
async fn a_default_key_is_not_looked_up() {
    let world = World::new().await;
    let default = world.get("/bucket?encryption", &[]).await.expect(200);
    assert_eq!(default.field("SSEAlgorithm").as_deref(), Some("AES256"));
    world.default_encryption("aws:kms:dsse", "no-such-key").await.expect(200);
    let default = world.get("/bucket?encryption", &[]).await.expect(200);
    assert_eq!(default.field("SSEAlgorithm").as_deref(), Some("aws:kms:dsse"));
    assert_eq!(default.field("KMSMasterKeyID").as_deref(), Some("no-such-key"));
    assert_eq!(world.calls(), []);
}

#[tokio::test]
async fn a_default_key_needs_a_known_kms_algorithm() {
    let world = World::new().await;
    let sentence = world.default_encryption("AES256", KEY).await.refused(400, "InvalidArgument");
    let expected = "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse";
    assert_eq!(sentence, expected);
    world.default_encryption("aws:kms:tsse", "").await.refused(400, "MalformedXML");
}

#[tokio::test]
async fn a_key_without_a_kms_algorithm_is_refused() {
    let world = World::new().await;
    let expected =
        "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms";
    for headers in [
        vec![(SSE_KEY, KEY)],
        vec![(SSE_KEY, "")],
        vec![(SSE_CONTEXT, CONTEXT)],
        vec![(SSE, "AES256"), (SSE_KEY, KEY)],
        vec![(SSE, "aws:kms:dsse"), (SSE_KEY, "")],
    ] {
        let sentence = world.put("/bucket/k", &headers, "x").await.refused(400, "InvalidArgument");
        assert_eq!(sentence, expected, "{headers:?}");
        world.post("/bucket/k?uploads", &headers, "").await.refused(400, "InvalidArgument");
    }
    world.get("/bucket/k", &[]).await.refused(404, "NoSuchKey");
}

#[tokio::test]
async fn an_unknown_algorithm_and_a_malformed_context_are_refused() {
    let world = World::new().await;
    let unknown = [(SSE, "aws:kms:tsse")];
    let sentence = world.put("/bucket/k", &unknown, "x").await.refused(400, "InvalidEncryptionAlgorithmError");
    assert_eq!(sentence, "The Encryption request you specified is not valid. Supported value: AES256.");
    // No base64, no JSON, a list, a number as value.
    for bad in ["!", "aGVsbG8=", "WyJhIl0=", "eyJhIjoxfQ=="] {
        let headers = [(SSE, "aws:kms:dsse"), (SSE_CONTEXT, bad)];
        world.put("/bucket/k", &headers, "x").await.refused(400, "InvalidArgument");
    }
}

#[tokio::test]
async fn a_bucket_key_applies_to_single_kms_only() {
    let world = World::new().await;
    let headers = [DSSE[0], DSSE[1], (SSE_BUCKET_KEY, "true")];
    assert_dsse(&world.put("/bucket/k", &headers, "x").await.expect(200), KEY);
    assert_eq!(world.calls(), [Call::Generate(KEY.to_owned(), context("bucket/k"))]);
    let headers = [(SSE, "aws:kms"), DSSE[1], (SSE_BUCKET_KEY, "true")];
    let put = world.put("/bucket/k", &headers, "x").await.expect(200);
    assert_eq!(put.header(SSE_BUCKET_KEY), Some("true"));
    assert_eq!(world.calls(), [Call::Generate(KEY.to_owned(), context("bucket"))]);
}

#[tokio::test]
async fn etags_under_kms_tell_nothing_of_the_content() {
    let world = World::new().await;
    let first = world.put("/bucket/k", &DSSE, "hello").await.header("etag").unwrap().to_owned();
    let second = world.put("/bucket/k", &DSSE, "hello").await.header("etag").unwrap().to_owned();
    let md5 = "\"5d41402abc4b2a76b9719d911017c592\"";
    assert!(first != second && first != md5 && first.len() == md5.len());
    assert_eq!(world.put("/bucket/k", &[], "hello").await.header("etag"), Some(md5));
}

#[tokio::test]
async fn a_write_that_kms_refuses_stores_nothing() {
    let world = World::new().await;
    world.put("/bucket/k", &DSSE, "x").await.expect(200);
    world.disable_keys();
    for answer in [
        world.put("/bucket/new", &DSSE, "x").await,
        world.get("/bucket/k", &[]).await,
        world.post("/bucket/new?uploads", &DSSE, "").await,
        world.put("/bucket/new", &[("x-amz-copy-source", "bucket/k")], "").await,
    ] {
        assert_eq!(answer.refused(400, REFUSED), format!("{KEY} is disabled."));
    }
    world.head("/bucket/k", &[]).await.expect(200);
    world.head("/bucket/new", &[]).await.expect(404);
    assert_eq!(world.bodies(), 1);
}

#[tokio::test]
async fn customer_keys_are_blocked_as_in_new_buckets() {
    let world = World::new().await;
    let headers = [("x-amz-server-side-encryption-customer-algorithm", "AES256")];
    world.put("/bucket/k", &headers, "x").await.refused(403, "AccessDenied");
}
