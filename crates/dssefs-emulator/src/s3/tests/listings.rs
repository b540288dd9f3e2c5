use super::*;

async fn world_with(keys: &[&str]) -> World {
    let world = World::new().await;
    for key in keys {
        world.put(&format!("/bucket/{key}"), &[], "x").await.expect(200);
    }
    world
}

/// The keys and the common prefixes of all pages of a listing.
async fn all_pages(world: &World, query: &str, page_max: usize) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let path = format!("/bucket?list-type=2&max-keys={page_max}&{query}{token}");
        let page = world.get(&path, &[]).await.expect(200);
        let count: usize = page.field("KeyCount").unwrap().parse().unwrap();
        let common: Vec<_> = page.fields("CommonPrefixes");
        let common: Vec<_> = common.iter().map(|one| one.replace("<Prefix>", "").replace("</Prefix>", "")).collect();
        assert!(count <= page_max && count == page.fields("Contents").len() + common.len());
        keys.extend(page.fields("Key"));
        prefixes.extend(common);
        match page.field("NextContinuationToken") {
            Some(next) => token = format!("&continuation-token={next}"),
            None => return (keys, prefixes),
        }
    }
}

#[tokio::test]
async fn pages_of_any_size_add_up_to_the_whole() {
    let world = world_with(&["a", "a/b", "a/c/d", "b", "b/c", "b0", "c"]).await;
    for page_max in 1..=8 {
        let (keys, prefixes) = all_pages(&world, "", page_max).await;
        assert_eq!((keys.len(), prefixes.len()), (7, 0));
        let (keys, prefixes) = all_pages(&world, "delimiter=/", page_max).await;
        assert_eq!(keys, ["a", "b", "b0", "c"]);
        assert_eq!(prefixes, ["a/", "b/"]);
        let (keys, prefixes) = all_pages(&world, "delimiter=/&prefix=a/", page_max).await;
        assert_eq!((keys, prefixes), (vec!["a/b".to_owned()], vec!["a/c/".to_owned()]));
        let (keys, _) = all_pages(&world, "start-after=a/c/d", page_max).await;
        assert_eq!(keys, ["b", "b/c", "b0", "c"]);
    }
}

#[tokio::test]
async fn the_first_version_of_the_operation_pages_by_marker() {
    let world = world_with(&["a/1", "a/2", "b", "c/1"]).await;
    let page = world.get("/bucket?delimiter=/&max-keys=1", &[]).await.expect(200);
    assert_eq!((page.field("IsTruncated").as_deref(), page.field("NextMarker").as_deref()), (Some("true"), Some("a/")));
    let page = world.get("/bucket?delimiter=/&max-keys=1&marker=a/", &[]).await.expect(200);
    assert_eq!(page.fields("Key"), ["b"]);
    let page = world.get("/bucket?delimiter=/&marker=b", &[]).await.expect(200);
    assert_eq!((page.field("IsTruncated").as_deref(), page.field("NextMarker")), (Some("false"), None));
    assert!(page.text().contains("<CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes>"));
    assert!(page.field("Owner").is_none());
    let page = world.get("/bucket?max-keys=1", &[]).await.expect(200);
    assert_eq!(page.field("NextMarker"), None);
    assert!(page.field("Owner").is_some());
}

#[tokio::test]
async fn limits_and_tokens_are_checked() {
    let world = world_with(&["a"]).await;
    let none = world.get("/bucket?list-type=2&max-keys=0", &[]).await.expect(200);
    assert_eq!((none.field("KeyCount").as_deref(), none.field("IsTruncated").as_deref()), (Some("0"), Some("false")));
    assert_eq!(world.get("/bucket?max-keys=5000", &[]).await.expect(200).field("MaxKeys").as_deref(), Some("1000"));
    world.get("/bucket?max-keys=-1", &[]).await.refused(400, "InvalidArgument");
    world.get("/bucket?list-type=2&continuation-token=%21", &[]).await.refused(400, "InvalidArgument");
    world.get("/bucket?encoding-type=base64", &[]).await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn keys_that_xml_cannot_hold_are_escaped_on_demand() {
    let world = world_with(&["a%01b/c+d%20e"]).await;
    let page = world.get("/bucket?list-type=2&encoding-type=url", &[]).await.expect(200);
    assert_eq!(page.fields("Key"), ["a%01b/c%2Bd%20e"]);
}

#[tokio::test]
async fn a_listing_names_no_encryption() {
    let world = World::new().await;
    let headers = [DSSE[0], DSSE[1], ("x-amz-storage-class", "GLACIER_IR")];
    let put = world.put("/bucket/k", &headers, "hello").await.expect(200);
    let page = world.get("/bucket?list-type=2", &[]).await.expect(200);
    assert_eq!(page.field("ETag").as_deref(), put.header("etag"));
    assert_eq!(page.field("Size").as_deref(), Some("5"));
    assert_eq!(page.field("StorageClass").as_deref(), Some("GLACIER_IR"));
    assert_eq!(page.field("ChecksumAlgorithm").as_deref(), Some("CRC64NVME"));
    assert!(!page.text().contains("aws:kms"));
}

#[tokio::test]
async fn pages_of_uploads_go_on_within_a_key() {
    let world = World::new().await;
    for key in ["a", "a", "a", "b/1", "b/2", "c"] {
        world.create_upload(&format!("/bucket/{key}"), &[]).await;
    }
    for page_max in 1..=6 {
        let (mut seen, mut markers) = (Vec::new(), String::new());
        loop {
            let path = format!("/bucket?uploads&delimiter=/&max-uploads={page_max}{markers}");
            let page = world.get(&path, &[]).await.expect(200);
            seen.extend(page.fields("UploadId"));
            seen.extend(page.fields("CommonPrefixes"));
            let Some(key) = page.field("NextKeyMarker") else { break };
            markers = format!("&key-marker={key}&upload-id-marker={}", page.field("NextUploadIdMarker").unwrap());
        }
        let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!((seen.len(), distinct.len()), (5, 5), "{page_max}: {seen:?}");
    }
}
