use super::*;

#[tokio::test]
async fn a_versioned_bucket_keeps_what_is_replaced_and_deleted() {
    let world = World::new().await;
    world.versioning("Enabled").await;
    let first = world.put("/bucket/k", &[], "first").await.header("x-amz-version-id").unwrap().to_owned();
    let second = world.put("/bucket/k", &[], "second").await.header("x-amz-version-id").unwrap().to_owned();
    let delete = world.delete("/bucket/k", &[]).await.expect(204);
    assert_eq!(delete.header("x-amz-delete-marker"), Some("true"));
    let marker = delete.header("x-amz-version-id").unwrap().to_owned();
    let missing = world.get("/bucket/k", &[]).await;
    assert_eq!((missing.status, missing.header("x-amz-delete-marker")), (404, Some("true")));
    world.get(&format!("/bucket/k?versionId={marker}"), &[]).await.refused(405, "MethodNotAllowed");
    for (id, bytes) in [(&first, "first"), (&second, "second")] {
        assert_eq!(world.get(&format!("/bucket/k?versionId={id}"), &[]).await.expect(200).text(), bytes);
    }
    world.get("/bucket/k?versionId=none", &[]).await.refused(404, "NoSuchVersion");
    let undelete = world.delete(&format!("/bucket/k?versionId={marker}"), &[]).await.expect(204);
    assert_eq!(undelete.header("x-amz-delete-marker"), Some("true"));
    assert_eq!(world.get("/bucket/k", &[]).await.expect(200).text(), "second");
    world.delete(&format!("/bucket/k?versionId={second}"), &[]).await.expect(204);
    assert_eq!(world.get("/bucket/k", &[]).await.expect(200).text(), "first");
    assert_eq!(world.bodies(), 1);
}

#[tokio::test]
async fn a_suspended_bucket_replaces_the_null_version_only() {
    let world = World::new().await;
    world.put("/bucket/k", &[], "before").await.expect(200);
    world.versioning("Enabled").await;
    let kept = world.put("/bucket/k", &[], "kept").await.header("x-amz-version-id").unwrap().to_owned();
    assert_eq!(world.get("/bucket/k?versionId=null", &[]).await.expect(200).text(), "before");
    world.versioning("Suspended").await;
    let put = world.put("/bucket/k", &[], "after").await.expect(200);
    assert_eq!(put.header("x-amz-version-id"), Some("null"));
    assert_eq!(world.get("/bucket/k?versionId=null", &[]).await.expect(200).text(), "after");
    let delete = world.delete("/bucket/k", &[]).await.expect(204);
    assert_eq!(delete.header("x-amz-version-id"), Some("null"));
    world.get("/bucket/k", &[]).await.refused(404, "NoSuchKey");
    assert_eq!(world.get(&format!("/bucket/k?versionId={kept}"), &[]).await.expect(200).text(), "kept");
    assert_eq!(world.bodies(), 1);
}

#[tokio::test]
async fn versions_are_listed_newest_first_with_their_markers() {
    let world = World::new().await;
    world.put("/bucket/a", &[], "x").await.expect(200);
    world.versioning("Enabled").await;
    world.put("/bucket/b", &[], "1").await.expect(200);
    world.put("/bucket/b", &[], "2").await.expect(200);
    world.delete("/bucket/b", &[]).await.expect(204);
    world.put("/bucket/c/d", &[], "x").await.expect(200);
    let all = world.get("/bucket?versions&delimiter=/", &[]).await.expect(200);
    assert_eq!(all.fields("Version").len(), 3);
    assert_eq!(all.fields("DeleteMarker").len(), 1);
    assert!(all.text().contains("<CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes>"));
    assert_eq!(all.fields("IsLatest").iter().filter(|latest| *latest == "true").count(), 2);
    assert_eq!(world.get("/bucket?list-type=2", &[]).await.expect(200).fields("Key"), ["a", "c/d"]);
}

#[tokio::test]
async fn pages_of_versions_continue_without_gaps() {
    let world = World::new().await;
    world.versioning("Enabled").await;
    for key in ["a", "b", "c/x", "d"] {
        for body in ["1", "2", "3"] {
            world.put(&format!("/bucket/{key}"), &[], body).await.expect(200);
        }
    }
    for page_max in 1..=11 {
        let (mut seen, mut markers) = (Vec::new(), String::new());
        loop {
            let path = format!("/bucket?versions&delimiter=/&max-keys={page_max}{markers}");
            let page = world.get(&path, &[]).await.expect(200);
            seen.extend(
                page.fields("Version").iter().map(|version| version.split("<ETag>").next().unwrap().to_owned()),
            );
            seen.extend(page.fields("CommonPrefixes"));
            let Some(key) = page.field("NextKeyMarker") else { break };
            let id = page.field("NextVersionIdMarker").map(|id| format!("&version-id-marker={id}"));
            markers = format!("&key-marker={key}{}", id.unwrap_or_default());
        }
        assert_eq!(seen.len(), 10, "{page_max}: {seen:?}");
    }
}

#[tokio::test]
async fn a_quiet_delete_of_many_answers_errors_only() {
    let world = World::new().await;
    for key in ["a", "b", "c"] {
        world.put(&format!("/bucket/{key}"), &[], "x").await.expect(200);
    }
    let list = |quiet: bool| {
        format!(
            "<Delete><Quiet>{quiet}</Quiet><Object><Key>a</Key></Object><Object><Key>none</Key></Object>\
                 <Object><Key>b</Key><ETag>0</ETag></Object></Delete>"
        )
    };
    let answer = world.post("/bucket?delete", &[], list(false)).await.expect(200);
    assert_eq!(answer.fields("Deleted").len(), 2);
    assert_eq!(answer.field("Code").as_deref(), Some("PreconditionFailed"));
    let answer = world.post("/bucket?delete", &[], list(true)).await.expect(200);
    assert_eq!((answer.fields("Deleted").len(), answer.fields("Error").len()), (0, 1));
    assert_eq!(world.get("/bucket?list-type=2", &[]).await.expect(200).fields("Key"), ["b", "c"]);
    world.post("/bucket?delete", &[], "<Delete></Delete>").await.refused_by_s3s(400, "MalformedXML");
}
