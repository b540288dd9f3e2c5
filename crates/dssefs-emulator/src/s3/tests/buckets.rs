use super::*;

#[tokio::test]
async fn buckets_are_created_listed_found_and_deleted() {
    let world = World::new().await;
    world.put("/other", &[], "").await.expect(200);
    assert_eq!(world.get("/", &[]).await.expect(200).fields("Name"), ["bucket", "other"]);
    assert_eq!(world.head("/bucket", &[]).await.expect(200).header("x-amz-bucket-region"), Some("us-east-1"));
    world.get("/bucket?location", &[]).await.expect(200);
    world.delete("/other", &[]).await.expect(204);
    world.head("/other", &[]).await.expect(404);
    world.get("/other?list-type=2", &[]).await.refused(404, "NoSuchBucket");
    world.put("/other/k", &[], "x").await.refused(404, "NoSuchBucket");
    world.delete("/other", &[]).await.refused(404, "NoSuchBucket");
}

#[tokio::test]
async fn a_bucket_with_versions_cannot_be_deleted() {
    let world = World::new().await;
    world.versioning("Enabled").await;
    world.delete("/bucket/k", &[]).await.expect(204);
    world.delete("/bucket", &[]).await.refused(409, "BucketNotEmpty");
}

#[tokio::test]
async fn creating_a_bucket_again_changes_nothing() {
    let world = World::new().await;
    world.put("/bucket/k", &[], "x").await.expect(200);
    world.put("/bucket", &[], "").await.expect(200);
    world.head("/bucket/k", &[]).await.expect(200);
    let elsewhere =
        "<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>";
    world.put("/third", &[], elsewhere).await.refused(400, "IllegalLocationConstraintException");
}

#[tokio::test]
async fn probes_are_answered_like_a_new_bucket() {
    let world = World::new().await;
    for (query, status, code) in [
        ("policy", 404, "NoSuchBucketPolicy"),
        ("cors", 404, "NoSuchCORSConfiguration"),
        ("lifecycle", 404, "NoSuchLifecycleConfiguration"),
        ("tagging", 404, "NoSuchTagSet"),
        ("website", 404, "NoSuchWebsiteConfiguration"),
        ("replication", 404, "ReplicationConfigurationNotFoundError"),
        ("object-lock", 404, "ObjectLockConfigurationNotFoundError"),
    ] {
        world.get(&format!("/bucket?{query}"), &[]).await.refused(status, code);
        world.get(&format!("/none?{query}"), &[]).await.refused(404, "NoSuchBucket");
    }
    let acl = world.get("/bucket?acl", &[]).await.expect(200);
    assert_eq!(acl.field("Permission").as_deref(), Some("FULL_CONTROL"));
    world.put("/bucket/k", &[], "x").await.expect(200);
    let acl = world.get("/bucket/k?acl", &[]).await.expect(200);
    assert_eq!(acl.field("Permission").as_deref(), Some("FULL_CONTROL"));
    let ownership = world.get("/bucket?ownershipControls", &[]).await.expect(200);
    assert_eq!(ownership.field("ObjectOwnership").as_deref(), Some("BucketOwnerEnforced"));
    for query in ["logging", "accelerate", "notification", "requestPayment", "versioning", "publicAccessBlock"] {
        world.get(&format!("/bucket?{query}"), &[]).await.expect(200);
    }
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let mut world = World::new().await;
    world.default_encryption("aws:kms:dsse", KEY).await.expect(200);
    world.versioning("Enabled").await;
    let first = world.put("/bucket/k", &[("x-amz-meta-a", "b"), ("x-amz-tagging", "t=1")], "first").await.expect(200);
    world.put("/bucket/k", &[], "second").await.expect(200);
    world.delete("/bucket/k", &[]).await.expect(204);
    let upload = world.create_upload("/bucket/u", &[]).await;
    let part = world.put_part("/bucket/u", &upload, 7, "part").await;
    world.restart();
    world.get("/bucket/k", &[]).await.refused(404, "NoSuchKey");
    let id = first.header("x-amz-version-id").unwrap();
    let read = world.get(&format!("/bucket/k?versionId={id}"), &[]).await.expect(200);
    assert_eq!(read.text(), "first");
    for name in ["etag", SSE, SSE_KEY, "x-amz-version-id"] {
        assert_eq!(read.header(name), first.header(name), "{name}");
    }
    assert_eq!((read.header("x-amz-meta-a"), read.header("x-amz-tagging-count")), (Some("b"), Some("1")));
    world.complete("/bucket/u", &upload, &[(7, &part)], &[]).await.expect(200);
    assert_eq!(world.get("/bucket/u", &[]).await.expect(200).text(), "part");
    assert_eq!(world.bodies(), 3);
}
