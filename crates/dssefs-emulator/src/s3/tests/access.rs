use s3s::auth::SimpleAuth;

use super::*;
use crate::s3::Access;

/// Access is asked only where signatures are; the requests here have none, which is asked for last.
async fn guarded(method: &str, path: &str, header: Option<&str>) -> Answer {
    let dir = TempDir::new().unwrap();
    let keys = Arc::new(FakeKeys::default()) as Arc<dyn KeyService>;
    let mut builder = S3ServiceBuilder::new(Endpoint::with_keys(dir.path(), keys, "us-east-1", "1").unwrap());
    builder.set_auth(SimpleAuth::from_single("id", "secret"));
    builder.set_access(Access);
    let world = World { dir, keys: Arc::default(), service: Some(builder.build()) };
    let headers: Vec<_> = header.into_iter().map(|name| (name, "aws:kms:dsse")).collect();
    world.send(method, path, &headers, "").await
}

#[tokio::test]
async fn encryption_headers_are_refused_except_on_whole_writes() {
    for (method, path) in [
        ("GET", "/bucket/key"),
        ("HEAD", "/bucket/key"),
        ("GET", "/bucket/key?attributes"),
        ("PUT", "/bucket/key?partNumber=1&uploadId=u"),
        ("POST", "/bucket/key?uploadId=u"),
        ("GET", "/bucket?list-type=2"),
    ] {
        for header in [SSE, SSE_KEY, SSE_CONTEXT, SSE_BUCKET_KEY] {
            let sentence = guarded(method, path, Some(header)).await.refused(400, "InvalidArgument");
            assert_eq!(sentence, format!("{header} header is not supported for this operation."), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn anonymous_writes_are_refused() {
    for (method, path) in [("PUT", "/bucket/key"), ("POST", "/bucket/key?uploads")] {
        guarded(method, path, Some(SSE)).await.refused(403, "AccessDenied");
    }
    guarded("GET", "/bucket/key", None).await.refused(403, "AccessDenied");
}
