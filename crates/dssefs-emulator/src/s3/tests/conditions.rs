use super::*;

const NEVER: &str = "\"00000000000000000000000000000000\"";

#[tokio::test]
async fn a_write_that_must_not_replace_does_not() {
    let world = World::new().await;
    world.put("/bucket/k", &[("if-none-match", "*")], "first").await.expect(200);
    world.put("/bucket/k", &[("if-none-match", "*")], "second").await.refused(412, "PreconditionFailed");
    assert_eq!(world.get("/bucket/k", &[]).await.text(), "first");
    assert_eq!(world.bodies(), 1);
    world.put("/bucket/k", &[("if-none-match", NEVER)], "third").await.refused(501, "NotImplemented");
}

#[tokio::test]
async fn a_write_that_must_replace_replaces_that_object_only() {
    let world = World::new().await;
    world.put("/bucket/k", &[("if-match", NEVER)], "x").await.refused(404, "NoSuchKey");
    let etag = world.put("/bucket/k", &[], "first").await.header("etag").unwrap().to_owned();
    world.put("/bucket/k", &[("if-match", NEVER)], "x").await.refused(412, "PreconditionFailed");
    world.put("/bucket/k", &[("if-match", &etag)], "second").await.expect(200);
    world.put("/bucket/k", &[("if-match", &etag)], "third").await.refused(412, "PreconditionFailed");
    assert_eq!(world.get("/bucket/k", &[]).await.text(), "second");
}

#[tokio::test]
async fn of_many_racing_creators_one_wins() {
    let world = World::new().await;
    let put = |n: usize| world.put("/bucket/k", &[("if-none-match", "*")], "x".repeat(n)).boxed_status();
    let statuses = futures_util::future::join_all((1..=20).map(put)).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1);
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 19);
    assert_eq!(world.bodies(), 1);
}

#[tokio::test]
async fn completing_an_upload_honours_both_conditions() {
    let world = World::new().await;
    let etag = world.put("/bucket/k", &[], "old").await.header("etag").unwrap().to_owned();
    let upload = world.create_upload("/bucket/k", &[]).await;
    let part = world.put_part("/bucket/k", &upload, 1, "new").await;
    let parts = [(1, part.as_str())];
    world.complete("/bucket/k", &upload, &parts, &[("if-none-match", "*")]).await.refused(412, "PreconditionFailed");
    world.complete("/bucket/k", &upload, &parts, &[("if-match", NEVER)]).await.refused(412, "PreconditionFailed");
    assert_eq!(world.get("/bucket/k", &[]).await.text(), "old");
    world.complete("/bucket/k", &upload, &parts, &[("if-match", &etag)]).await.expect(200);
    assert_eq!(world.get("/bucket/k", &[]).await.text(), "new");
}

#[tokio::test]
async fn a_conditional_delete_spares_another_object() {
    let world = World::new().await;
    world.delete("/bucket/k", &[("if-match", "*")]).await.refused(404, "NoSuchKey");
    let etag = world.put("/bucket/k", &[], "x").await.header("etag").unwrap().to_owned();
    world.delete("/bucket/k", &[("if-match", NEVER)]).await.refused(412, "PreconditionFailed");
    world.head("/bucket/k", &[]).await.expect(200);
    world.delete("/bucket/k", &[("if-match", &etag)]).await.expect(204);
    world.head("/bucket/k", &[]).await.expect(404);
    world.delete("/bucket/k", &[]).await.expect(204);
}

#[tokio::test]
async fn reads_are_conditional_by_etag() {
    let world = World::new().await;
    let etag = world.put("/bucket/k", &DSSE, "x").await.header("etag").unwrap().to_owned();
    for method in ["GET", "HEAD"] {
        let ask = async |name: &str, value: &str| world.send(method, "/bucket/k", &[(name, value)], "").await;
        ask("if-match", &etag).await.expect(200);
        ask("if-match", "*").await.expect(200);
        ask("if-match", NEVER).await.expect(412);
        ask("if-none-match", NEVER).await.expect(200);
        let unchanged = ask("if-none-match", &etag).await.expect(304);
        assert_eq!(unchanged.header("etag"), Some(etag.as_str()));
        assert!(unchanged.header("last-modified").is_some());
    }
}

#[tokio::test]
async fn reads_without_etag_are_conditional_by_date() {
    let world = World::new().await;
    let etag = world.put("/bucket/k", &[], "x").await.header("etag").unwrap().to_owned();
    let (past, future) = ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2065 07:28:00 GMT");
    let get = async |headers: &[(&str, &str)]| world.get("/bucket/k", headers).await.status;
    assert_eq!(get(&[("if-modified-since", past)]).await, 200);
    assert_eq!(get(&[("if-modified-since", future)]).await, 304);
    assert_eq!(get(&[("if-unmodified-since", past)]).await, 412);
    assert_eq!(get(&[("if-unmodified-since", future)]).await, 200);
    assert_eq!(get(&[("if-unmodified-since", past), ("if-match", &etag)]).await, 200);
    assert_eq!(get(&[("if-modified-since", future), ("if-none-match", NEVER)]).await, 200);
}

trait BoxedStatus {
    async fn boxed_status(self) -> u16;
}

impl<F: Future<Output = Answer>> BoxedStatus for F {
    async fn boxed_status(self) -> u16 {
        self.await.status
    }
}
