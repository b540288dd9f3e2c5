//! Names and attributes against the embedded endpoint: what a mount shows, and how many requests it costs.
#![cfg(feature = "serve")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::common::denied;
use crate::common::journal::{Said, Signer, elsewhere};
use crate::common::store::{ANY, Store, at, requests};
use bytes::Bytes;
use dssefs_emulator::faults::Fault;
use dssefs_fs::namespace::{
    AttributeSource, Attributes, Authenticator, Change, ContentType, Defaults, Error, Ino, KeyName, Kind, Namespace,
    NoKey, OwnKey, PosixForm, Settings, Timestamp,
};
use dssefs_s3::object::{Name, Prefix};
use dssefs_s3::policy::{Algorithm, Evidence};
use dssefs_s3::s3::{Condition, NewObject, Source};
use dssefs_seal::crypto::MacKey;
use futures_util::future::BoxFuture;

const TTL: Duration = Duration::from_secs(1);
const DEFAULTS: Defaults = Defaults { uid: 7, gid: 8, file_mode: 0o640, dir_mode: 0o750 };

/// All mounts have the same key.
#[derive(Debug)]
struct OneKey(Signer);

impl OneKey {
    fn key(&self) -> Arc<MacKey> {
        Arc::new(MacKey::from_bytes(&self.0.key()).unwrap())
    }
}

impl Authenticator for OneKey {
    fn own(&self) -> BoxFuture<'_, Result<OwnKey, String>> {
        let key = self.key();
        Box::pin(async { Ok((KeyName::Host { id: "one".into() }, key)) })
    }

    fn find<'a>(&'a self, _: &'a KeyName, _: &'a Prefix) -> BoxFuture<'a, Result<Arc<MacKey>, NoKey>> {
        let key = self.key();
        Box::pin(async { Ok(key) })
    }
}

/// A namespace whose clock stands still unless it is told to go.
struct Mount {
    store: Store,
    names: Arc<Namespace>,
    clock: Arc<AtomicU64>,
}

impl Mount {
    async fn new() -> Mount {
        Mount::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Mount {
        let store = Store::start().await;
        let (names, clock) = namespace(&store, change);
        Mount { store, names, clock }
    }

    fn expire(&self) {
        self.clock.fetch_add(1001, Ordering::Relaxed);
    }

    async fn find(&self, path: &str) -> Result<dssefs_fs::namespace::Node, Error> {
        let mut ino = Ino::ROOT;
        let (parents, last) = path.rsplit_once('/').map_or((None, path), |(parents, last)| (Some(parents), last));
        for component in parents.into_iter().flat_map(|parents| parents.split('/')) {
            ino = self.names.lookup(ino, &name(component)).await?.ino;
        }
        self.names.lookup(ino, &name(last)).await
    }

    async fn ls(&self, ino: Ino) -> Vec<(String, Option<Kind>)> {
        let entries = self.names.list(ino).await.unwrap();
        entries.iter().map(|entry| (entry.name.to_string(), entry.kind)).collect()
    }

    async fn ls_names(&self, ino: Ino) -> Vec<String> {
        self.ls(ino).await.into_iter().map(|(name, _)| name).collect()
    }

    fn create(&self, parent: Ino, text: &str) -> Ino {
        self.names.create(parent, &name(text), new_file()).unwrap().ino
    }

    /// What the writer does at close.
    async fn commit(&self, ino: Ino) {
        let object = NewObject::at(self.names.key(ino).unwrap());
        self.store.gateway.put(&object, Arc::new(Bytes::from_static(b"new")), &ANY).await.unwrap();
        let head = self.store.gateway.head(&object.key).await.unwrap();
        self.names.committed(ino, head);
        self.store.asked();
    }
}

fn namespace(store: &Store, change: impl FnOnce(&mut Settings)) -> (Arc<Namespace>, Arc<AtomicU64>) {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let mut settings = Settings {
        prefix: Prefix::root(),
        defaults: DEFAULTS,
        content_type: ContentType::Guess,
        ttl: TTL,
        entries_max: 100_000,
        names_bytes_max: 64 << 20,
        attributes: AttributeSource::Full,
        posix_form: PosixForm::S3fs,
        heads_in_flight_max: 64,
        rename_lease: Duration::from_secs(2),
        last_writer_wins: None,
        authenticator: Arc::new(OneKey(Signer::of_bytes(&[9; 32]))),
    };
    change(&mut settings);
    let clock = Arc::new(AtomicU64::new(0));
    let millis = Arc::clone(&clock);
    let now = Box::new(move || start + Duration::from_millis(millis.load(Ordering::Relaxed)));
    (Namespace::with_clock(Arc::clone(&store.gateway), settings, now), clock)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn new_file() -> Attributes {
    let time = Timestamp { seconds: 1, nanoseconds: 2 };
    Attributes {
        kind: Kind::File,
        size: 0,
        mode: 0o600,
        uid: 1,
        gid: 2,
        mtime: time,
        atime: time,
        ctime: time,
        nlink: 1,
    }
}

fn nothing() -> std::collections::BTreeMap<String, u64> {
    requests(&[])
}

#[tokio::test]
async fn a_cold_lookup_of_a_file_is_one_head_and_one_list_and_is_believed_for_a_second() {
    let mount = Mount::new().await;
    mount.store.put("a", "hello", &[("mode", "33188"), ("uid", "5"), ("mtime", "77.5")]).await;
    let node = mount.find("a").await.unwrap();
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 1), ("ListObjectsV2", 1)]));
    let seen =
        (node.attributes.kind, node.attributes.size, node.attributes.mode, node.attributes.uid, node.attributes.gid);
    assert_eq!(seen, (Kind::File, 5, 0o644, 5, 8));
    assert_eq!(node.attributes.mtime, Timestamp { seconds: 77, nanoseconds: 500_000_000 });
    mount.names.attributes(node.ino).await.unwrap();
    mount.names.open(node.ino).await.unwrap();
    let head = mount.names.head(node.ino).await.unwrap();
    assert_eq!((&head.encryption.facts.algorithm, head.encryption.evidence), (&Algorithm::Dsse, Evidence::Head));
    assert_eq!(mount.find("a").await.unwrap().ino, node.ino);
    assert_eq!(mount.store.asked(), nothing());
    mount.expire();
    mount.names.open(node.ino).await.unwrap();
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 1)]));
}

#[tokio::test]
async fn a_name_that_is_nowhere_is_not_found() {
    let mount = Mount::new().await;
    assert!(matches!(mount.find("a").await, Err(Error::NotFound)));
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 1), ("ListObjectsV2", 1)]));
    mount.store.put("f", "x", &[]).await;
    assert!(matches!(mount.find("f/a").await, Err(Error::NotADirectory)));
}

#[tokio::test]
async fn directories_are_implicit_or_have_a_marker_whose_metadata_they_show() {
    let mount = Mount::new().await;
    mount.store.put("implicit/x", "", &[]).await;
    mount.store.put("marked/", "", &[("mode", "16832"), ("uid", "1000")]).await;
    let implicit = mount.find("implicit").await.unwrap();
    assert_eq!(
        (implicit.attributes.kind, implicit.attributes.mode, implicit.attributes.uid),
        (Kind::Directory, 0o750, 7)
    );
    assert!(implicit.object.is_none());
    let marked = mount.find("marked").await.unwrap();
    assert_eq!((marked.attributes.kind, marked.attributes.mode, marked.attributes.uid), (Kind::Directory, 0o700, 1000));
    assert!(marked.object.is_some());
    assert!(matches!(mount.names.head(implicit.ino).await, Err(Error::NotFound)));
    assert!(matches!(mount.names.open(implicit.ino).await, Err(Error::IsADirectory)));
}

#[tokio::test]
async fn a_directory_wins_over_a_file_of_the_same_name() {
    let mount = Mount::new().await;
    mount.store.put("a", "file", &[]).await;
    mount.store.put("a-b", "", &[]).await;
    mount.store.put("a/b", "", &[]).await;
    assert_eq!(mount.find("a").await.unwrap().attributes.kind, Kind::Directory);
    assert_eq!(mount.ls(Ino::ROOT).await, [("a".into(), Some(Kind::Directory)), ("a-b".into(), Some(Kind::File))]);
    mount.store.remove("a/b").await;
    mount.expire();
    assert_eq!(mount.find("a").await.unwrap().attributes.kind, Kind::File);
}

#[tokio::test]
async fn ls_of_1000_entries_is_one_list_and_ls_l_is_one_head_for_each_beside() {
    let mount = Mount::new().await;
    mount.store.put_all((0..1000).map(|number| format!("f{number:04}")), &[("mode", "33152")]).await;
    let entries = mount.names.list(Ino::ROOT).await.unwrap();
    assert_eq!(entries.len(), 1000);
    assert_eq!(mount.store.asked(), requests(&[("ListObjectsV2", 1)]));
    for entry in entries.iter() {
        let node = mount.names.lookup(Ino::ROOT, &entry.name).await.unwrap();
        assert_eq!((node.ino, node.attributes.mode), (entry.ino, 0o600));
    }
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 1000)]));
    mount.names.list(Ino::ROOT).await.unwrap();
    assert!(matches!(mount.find("g").await, Err(Error::NotFound)));
    assert_eq!(mount.store.asked(), nothing());
}

#[tokio::test]
async fn a_listing_renews_what_is_known_of_its_files() {
    let mount = Mount::new().await;
    mount.store.put_all((0..999).map(|number| format!("f{number:04}")), &[("mode", "33152")]).await;
    let own = mount.create(Ino::ROOT, "own");
    mount.commit(own).await;
    let look_up_all = async || {
        for entry in mount.names.list(Ino::ROOT).await.unwrap().iter() {
            mount.names.lookup(Ino::ROOT, &entry.name).await.unwrap();
            mount.names.open(entry.ino).await.unwrap();
        }
    };
    look_up_all().await;
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 999), ("ListObjectsV2", 1)]));
    for _ in 0..2 {
        mount.expire();
        look_up_all().await;
        assert_eq!(mount.store.asked(), requests(&[("ListObjectsV2", 1)]));
    }
}

/// The ETag of an object under SSE-S3 names its content. What another program says of it in place shows in
/// Last-Modified alone.
#[tokio::test]
async fn a_listing_shows_that_an_object_was_described_in_another_way() {
    let mount = Mount::new().await;
    let (file, marker) = ("file", "d/");
    for key in [file, marker] {
        mount.store.put_plain(key, "", 0o600).await;
    }
    let mode = async |path| mount.find(path).await.unwrap().attributes.mode;
    mount.ls_names(Ino::ROOT).await;
    let directory = mount.find("d").await.unwrap().ino;
    mount.ls_names(directory).await;
    assert_eq!((mode("file").await, mode("d").await), (0o600, 0o600));
    let etag = mount.store.head(file).await.unwrap().meta.version.etag;
    // Last-Modified has whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for key in [file, marker] {
        mount.store.put_plain(key, "", 0o640).await;
    }
    assert_eq!(mount.store.head(file).await.unwrap().meta.version.etag, etag, "the content is the same");
    mount.expire();
    mount.store.asked();
    mount.ls_names(Ino::ROOT).await;
    mount.ls_names(directory).await;
    assert_eq!((mode("file").await, mode("d").await), (0o640, 0o640));
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 2), ("ListObjectsV2", 2)]));
}

#[tokio::test]
async fn ls_l_fetches_many_entries_at_the_same_time() {
    let mount = Mount::new().await;
    mount.store.put_all((0..200).map(|number| format!("f{number:04}")), &[]).await;
    let entries = mount.names.list(Ino::ROOT).await.unwrap();
    mount.store.fail("HeadObject", "f", 0, Fault::DelayMs(500));
    let before = Instant::now();
    for entry in entries.iter() {
        mount.names.lookup(Ino::ROOT, &entry.name).await.unwrap();
    }
    assert!(before.elapsed() < Duration::from_secs(50), "one after another they would take 100 s");
}

#[tokio::test]
async fn a_listing_of_several_pages_is_whole_and_sorted() {
    let mount = Mount::with(|settings| settings.prefix = Prefix::new("p/q").unwrap()).await;
    mount.store.put_all((0..2001).map(|number| format!("p/q/f{number:04}")), &[]).await;
    let names = mount.ls_names(Ino::ROOT).await;
    assert_eq!(names.len(), 2001);
    assert!(names.is_sorted());
    assert_eq!(mount.store.asked(), requests(&[("ListObjectsV2", 3)]));
}

#[tokio::test]
async fn keys_that_cannot_be_names_are_hidden_and_counted_once() {
    let mount = Mount::new().await;
    let long = "n".repeat(256);
    for key in ["ok", "d//x", "/abs", "./y", "..", "a\0b", &long, "d/ok", "d/.dssefs/x", ".dssefs/rename/x"] {
        mount.store.put(key, "", &[]).await;
    }
    assert_eq!(mount.ls_names(Ino::ROOT).await, ["d", "ok"]);
    let hidden = mount.names.hidden();
    assert_eq!(hidden, 5);
    mount.expire();
    mount.ls_names(Ino::ROOT).await;
    assert_eq!(mount.names.hidden(), 5);
    let directory = mount.find("d").await.unwrap().ino;
    assert_eq!(mount.ls_names(directory).await, ["ok"]);
    assert_eq!(mount.names.hidden(), 7, "the reserved name counts, but not that of the mount itself");
}

#[tokio::test]
async fn a_new_file_costs_nothing_here_and_is_seen_at_once_and_survives_listings() {
    let mount = Mount::new().await;
    mount.store.put("old", "", &[]).await;
    mount.ls_names(Ino::ROOT).await;
    mount.store.asked();
    let ino = mount.create(Ino::ROOT, "new");
    assert!(matches!(mount.names.create(Ino::ROOT, &name("new"), new_file()), Err(Error::Exists)));
    assert_eq!(mount.find("new").await.unwrap().ino, ino);
    assert_eq!(mount.ls_names(Ino::ROOT).await, ["new", "old"]);
    assert_eq!(mount.store.asked(), nothing());
    mount.expire();
    assert_eq!(mount.ls_names(Ino::ROOT).await, ["new", "old"]);
    mount.names.set_local(ino, Attributes { size: 3, ..new_file() });
    assert_eq!(mount.names.attributes(ino).await.unwrap().size, 3);
    mount.commit(ino).await;
    mount.expire();
    assert_eq!(mount.ls_names(Ino::ROOT).await, ["new", "old"]);
    assert_eq!(mount.find("new").await.unwrap().ino, ino);
}

#[tokio::test]
async fn a_new_file_that_is_given_up_is_gone() {
    let mount = Mount::new().await;
    let ino = mount.create(Ino::ROOT, "new");
    mount.names.discard(ino);
    assert!(matches!(mount.find("new").await, Err(Error::NotFound)));
    assert_eq!(mount.names.attributes(ino).await.unwrap().nlink, 0);
    mount.names.forget(ino, 1);
    assert!(matches!(mount.names.attributes(ino).await, Err(Error::NotFound)));
}

/// A new directory counted as listed, so that what another host put into it was absent to stat(2), and O_CREAT lost.
#[tokio::test]
async fn a_file_that_another_host_puts_into_a_new_directory_is_found_at_once() {
    let mount = Mount::new().await;
    let directory = mount.names.mkdir(Ino::ROOT, &name("d"), 0o755, 1, 2).await.unwrap();
    mount.store.put("d/x", "theirs", &[]).await;
    assert_eq!(mount.find("d/x").await.unwrap().attributes.size, 6);
    assert_eq!(directory.attributes.nlink, 2, "it has no subdirectories");
}

#[tokio::test]
async fn what_is_in_a_directory_made_here_costs_one_listing() {
    let mount = Mount::new().await;
    let directory = mount.names.mkdir(Ino::ROOT, &name("d"), 0o710, 1, 2).await.unwrap();
    assert_eq!((directory.attributes.mode, directory.attributes.uid, directory.attributes.gid), (0o710, 1, 2));
    assert_eq!(mount.store.asked(), requests(&[("PutObject", 1)]));
    assert!(matches!(mount.names.lookup(directory.ino, &name("x")).await, Err(Error::NotFound)));
    assert_eq!(mount.store.asked(), requests(&[("ListObjectsV2", 1)]));
    for number in 0..100 {
        let text = format!("x{number}");
        assert!(matches!(mount.names.lookup(directory.ino, &name(&text)).await, Err(Error::NotFound)));
    }
    mount.create(directory.ino, "x");
    assert_eq!(mount.ls_names(directory.ino).await, ["x"]);
    assert!(matches!(mount.names.mkdir(Ino::ROOT, &name("d"), 0, 0, 0).await, Err(Error::Exists)));
    assert_eq!(mount.store.asked(), nothing());
    let marker = mount.store.head("d/").await.unwrap();
    assert_eq!(marker.meta.content_type.as_deref(), Some("application/x-directory"));
    assert_eq!(marker.meta.user.get("mode").map(String::as_str), Some("16840"));
    assert_eq!(marker.encryption.facts.algorithm, Algorithm::Dsse);
    let (other, _) = namespace(&mount.store, |_| {});
    assert!(matches!(other.mkdir(Ino::ROOT, &name("d"), 0, 0, 0).await, Err(Error::Exists)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_listed_before_its_mkdir_has_an_answer_is_made_all_the_same() {
    let mount = Mount::new().await;
    // Another host has it already, without a marker.
    mount.store.put("d/child", "", &[]).await;
    mount.store.fail("PutObject", "d/", 1, Fault::DelayMs(1_500));
    let making = tokio::spawn({
        let names = Arc::clone(&mount.names);
        async move { names.mkdir(Ino::ROOT, &name("d"), 0o710, 1, 2).await }
    });
    mount.store.until_struck().await;
    let known = mount.find("d").await.unwrap();
    assert!(!making.is_finished(), "the listing came first");
    let made = making.await.unwrap().unwrap();
    assert_eq!((made.ino, made.attributes.mode, made.attributes.uid), (known.ino, 0o710, 1));
    assert_eq!(mount.ls_names(made.ino).await, ["child"]);
}

#[tokio::test]
async fn only_empty_directories_are_removed() {
    let mount = Mount::new().await;
    mount.store.put("full/x", "", &[]).await;
    mount.store.put("odd//x", "", &[]).await;
    mount.store.put("file", "", &[]).await;
    for directory in ["full", "odd"] {
        mount.find(directory).await.unwrap();
        assert!(matches!(mount.names.rmdir(Ino::ROOT, &name(directory)).await, Err(Error::NotEmpty)));
    }
    mount.find("file").await.unwrap();
    assert!(matches!(mount.names.rmdir(Ino::ROOT, &name("file")).await, Err(Error::NotADirectory)));
    let made = mount.names.mkdir(Ino::ROOT, &name("d"), 0o755, 0, 0).await.unwrap();
    let file = mount.create(made.ino, "pending");
    assert!(matches!(mount.names.rmdir(Ino::ROOT, &name("d")).await, Err(Error::NotEmpty)));
    mount.names.discard(file);
    mount.store.asked();
    mount.names.rmdir(Ino::ROOT, &name("d")).await.unwrap();
    assert_eq!(mount.store.asked(), requests(&[("ListObjectsV2", 1), ("DeleteObject", 1)]));
    assert!(mount.store.head("d/").await.is_none());
    assert!(matches!(mount.find("d").await, Err(Error::NotFound)));
}

#[tokio::test]
async fn a_directory_without_marker_does_not_vanish_with_its_last_file() {
    let mount = Mount::new().await;
    mount.store.put("d/a", "", &[]).await;
    mount.store.put("d/b", "", &[]).await;
    let directory = mount.find("d").await.unwrap().ino;
    mount.ls_names(directory).await;
    mount.store.asked();
    mount.names.unlink(directory, &name("a")).await.unwrap();
    assert_eq!(mount.store.asked(), requests(&[("DeleteObject", 1)]));
    mount.names.unlink(directory, &name("b")).await.unwrap();
    assert_eq!(mount.store.asked(), requests(&[("DeleteObject", 1), ("PutObject", 1)]));
    mount.expire();
    assert_eq!(mount.find("d").await.unwrap().ino, directory);
    assert_eq!(mount.ls_names(directory).await, Vec::<String>::new());
    assert!(mount.store.head("d/").await.is_some());
}

#[tokio::test]
async fn a_directory_that_could_not_be_given_a_marker_lives_on_here() {
    let mount = Mount::new().await;
    mount.store.put("d/a", "", &[]).await;
    let directory = mount.find("d").await.unwrap().ino;
    mount.names.lookup(directory, &name("a")).await.unwrap();
    mount.store.fail("PutObject", "d/", 1, denied());
    mount.names.unlink(directory, &name("a")).await.unwrap();
    mount.expire();
    assert_eq!(mount.find("d").await.unwrap().ino, directory);
    assert_eq!(mount.ls_names(Ino::ROOT).await, ["d"]);
    mount.names.rmdir(Ino::ROOT, &name("d")).await.unwrap();
    assert!(matches!(mount.find("d").await, Err(Error::NotFound)));
}

#[tokio::test]
async fn unlink_of_an_open_file_takes_the_name_and_leaves_the_node() {
    let mount = Mount::new().await;
    mount.store.put("a", "12345", &[]).await;
    let ino = mount.find("a").await.unwrap().ino;
    mount.names.pin_open(ino).unwrap();
    assert_eq!(mount.names.unlink(Ino::ROOT, &name("a")).await.unwrap(), ino);
    assert!(matches!(mount.find("a").await, Err(Error::NotFound)));
    assert_eq!(mount.names.key(ino), None);
    let attributes = mount.names.attributes(ino).await.unwrap();
    assert_eq!((attributes.size, attributes.nlink), (5, 0));
    mount.names.forget(ino, 1);
    mount.names.unpin_open(ino);
    assert!(matches!(mount.names.attributes(ino).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn a_file_that_never_was_in_the_store_is_unlinked_without_a_request() {
    let mount = Mount::new().await;
    mount.create(Ino::ROOT, "new");
    mount.names.unlink(Ino::ROOT, &name("new")).await.unwrap();
    assert_eq!(mount.store.asked(), nothing());
}

#[tokio::test]
async fn an_object_replaced_elsewhere_gets_a_new_number_while_the_old_one_is_open() {
    let mount = Mount::new().await;
    mount.store.put("a", "one", &[]).await;
    mount.store.put("b", "one", &[]).await;
    let (open, closed) = (mount.find("a").await.unwrap().ino, mount.find("b").await.unwrap().ino);
    mount.names.pin_open(open).unwrap();
    mount.store.put("a", "other", &[]).await;
    mount.store.put("b", "other", &[]).await;
    mount.expire();
    mount.ls_names(Ino::ROOT).await;
    let new = mount.find("a").await.unwrap();
    assert_ne!(new.ino, open);
    assert_eq!(new.attributes.size, 5);
    assert_eq!(mount.names.attributes(open).await.unwrap().size, 3);
    assert_eq!(mount.names.key(open), Some(at("a")));
    assert!(matches!(mount.names.open(open).await, Err(Error::Stale)));
    let same = mount.find("b").await.unwrap();
    assert_eq!((same.ino, same.attributes.size), (closed, 5));
}

#[tokio::test]
async fn chmod_copies_the_object_onto_itself_and_carries_everything_over() {
    let mount = Mount::new().await;
    let object = NewObject {
        user: [("colour".to_owned(), "red".to_owned())].into(),
        content_type: Some("text/plain".into()),
        content_headers: [("cache-control".to_owned(), "no-store".to_owned())].into(),
        storage_class: Some("STANDARD_IA".into()),
        tags: Some("team=x".into()),
        ..NewObject::at(at("a"))
    };
    mount.store.gateway.put(&object, Arc::new(Bytes::from_static(b"body")), &ANY).await.unwrap();
    let ino = mount.find("a").await.unwrap().ino;
    mount.store.asked();
    let change = Change { mode: Some(0o4755), uid: Some(3), ..Change::default() };
    let attributes = mount.names.set_attributes(ino, &change).await.unwrap();
    assert_eq!((attributes.mode, attributes.uid, attributes.gid, attributes.size), (0o4755, 3, 8, 4));
    assert_eq!(mount.names.set_attributes(ino, &change).await.unwrap().mode, 0o4755);
    assert_eq!(mount.names.attributes(ino).await.unwrap().mode, 0o4755);
    assert_eq!(mount.store.asked(), requests(&[("CopyObject", 1)]));
    let meta = mount.store.head("a").await.unwrap().meta;
    assert_eq!(meta.user.get("mode").map(String::as_str), Some("35309"));
    assert_eq!(meta.user.get("colour").map(String::as_str), Some("red"));
    assert_eq!(
        (meta.content_type, meta.storage_class, meta.tag_count),
        (Some("text/plain".into()), "STANDARD_IA".into(), 1)
    );
    assert_eq!(meta.content_headers, object.content_headers);
}

#[tokio::test]
async fn two_chmods_at_once_both_succeed_and_an_open_reader_finds_its_version() {
    let mount = Mount::new().await;
    let version = mount.store.put("a", "body", &[]).await;
    let ino = mount.find("a").await.unwrap().ino;
    mount.names.pin_open(ino).unwrap();
    let (mode, owner) =
        (Change { mode: Some(0o600), ..Change::default() }, Change { uid: Some(9), ..Change::default() });
    let (one, two) =
        futures_util::join!(mount.names.set_attributes(ino, &mode), mount.names.set_attributes(ino, &owner));
    assert!(one.is_ok() && two.is_ok());
    mount.names.rename((Ino::ROOT, &name("a")), (Ino::ROOT, &name("b")), false).await.unwrap();
    let (key, head, attributes) = mount.names.own_copy(ino, &version).unwrap();
    assert_eq!((key, &head.meta.version), (at("b"), &mount.store.head("b").await.unwrap().meta.version));
    assert_eq!((attributes.mode, attributes.uid), (0o600, 9));
    assert_eq!(mount.names.attributes(ino).await.unwrap().uid, 9);
    mount.store.put("b", "foreign", &[]).await;
    mount.expire();
    mount.find("b").await.unwrap();
    let foreign = mount.store.head("b").await.unwrap().meta.version;
    assert!(mount.names.own_copy(ino, &foreign).is_none());
}

#[tokio::test]
async fn chmod_of_a_directory_writes_its_marker() {
    let mount = Mount::new().await;
    mount.store.put("d/x", "", &[]).await;
    let ino = mount.find("d").await.unwrap().ino;
    mount.store.asked();
    let change = Change { mode: Some(0o700), ..Change::default() };
    assert_eq!(mount.names.set_attributes(ino, &change).await.unwrap().mode, 0o700);
    assert_eq!(mount.store.asked(), requests(&[("PutObject", 1)]));
    assert_eq!(mount.store.head("d/").await.unwrap().meta.user.get("mode").map(String::as_str), Some("16832"));
    mount.store.asked();
    let change = Change { mode: Some(0o711), ..Change::default() };
    assert_eq!(mount.names.set_attributes(ino, &change).await.unwrap().mode, 0o711);
    assert_eq!(mount.store.asked(), requests(&[("CopyObject", 1)]), "a marker that is there is copied");
}

#[tokio::test]
async fn the_root_of_a_bucket_is_asked_for_once_and_before_each_change() {
    let mount = Mount::new().await;
    mount.names.know_root().await;
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 1)]));
    mount.expire();
    mount.names.list(Ino::ROOT).await.unwrap();
    mount.names.attributes(Ino::ROOT).await.unwrap();
    assert_eq!(mount.store.asked(), requests(&[("ListObjectsV2", 1)]));
    let change = Change { mode: Some(0o700), ..Change::default() };
    assert_eq!(mount.names.set_attributes(Ino::ROOT, &change).await.unwrap().mode, 0o700);
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 1), ("PutObject", 1)]));
    assert_eq!(mount.names.list(Ino::ROOT).await.unwrap().len(), 0, "it is no name");
    assert_eq!(mount.names.attributes(Ino::ROOT).await.unwrap().mode, 0o700);
    // What another host has changed is kept, and is no lost race.
    let (other, _) = namespace(&mount.store, |_| {});
    let owner = Change { uid: Some(42), ..Change::default() };
    other.set_attributes(Ino::ROOT, &owner).await.unwrap();
    let after = mount.names.set_attributes(Ino::ROOT, &Change { gid: Some(43), ..Change::default() }).await.unwrap();
    assert_eq!((after.mode, after.uid, after.gid), (0o700, 42, 43));
}

#[tokio::test]
async fn chmod_of_a_dirty_file_waits_for_its_commit() {
    let mount = Mount::new().await;
    let ino = mount.create(Ino::ROOT, "new");
    let change = Change { mode: Some(0o711), ..Change::default() };
    assert_eq!(mount.names.set_attributes(ino, &change).await.unwrap().mode, 0o711);
    assert_eq!(mount.names.attributes(ino).await.unwrap().mode, 0o711);
    assert_eq!(mount.store.asked(), nothing());
}

#[tokio::test]
async fn with_attributes_from_listings_no_head_is_sent_and_none_can_be_changed() {
    let mount = Mount::with(|settings| settings.attributes = AttributeSource::Listing).await;
    mount.store.put("a", "12345", &[("mode", "33261"), ("uid", "5")]).await;
    mount.store.put("d/", "", &[("mode", "16895")]).await;
    for entry in mount.names.list(Ino::ROOT).await.unwrap().iter() {
        let node = mount.names.lookup(Ino::ROOT, &entry.name).await.unwrap();
        assert_eq!((node.ino, node.attributes.uid), (entry.ino, 7));
        mount.names.attributes(node.ino).await.unwrap();
        let change = Change { mode: Some(0), ..Change::default() };
        assert!(matches!(mount.names.set_attributes(node.ino, &change).await, Err(Error::NotPermitted)));
    }
    assert_eq!(mount.store.asked(), requests(&[("ListObjectsV2", 1)]));
    let ino = mount.find("a").await.unwrap().ino;
    mount.names.open(ino).await.unwrap();
    let attributes = mount.names.attributes(ino).await.unwrap();
    assert_eq!((attributes.mode, attributes.size), (0o640, 5));
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 1)]));
}

#[tokio::test]
async fn rename_is_one_copy_and_one_delete_and_keeps_the_number() {
    let mount = Mount::new().await;
    mount.store.put("a", "body", &[("mode", "33152"), ("colour", "red")]).await;
    mount.store.put("d/b", "other", &[]).await;
    let (moved, directory) = (mount.find("a").await.unwrap().ino, mount.find("d").await.unwrap().ino);
    mount.find("d/b").await.unwrap();
    mount.store.asked();
    assert!(matches!(
        mount.names.rename((Ino::ROOT, &name("a")), (directory, &name("b")), true).await,
        Err(Error::Exists)
    ));
    mount.names.rename((Ino::ROOT, &name("a")), (directory, &name("b")), false).await.unwrap();
    assert_eq!(mount.store.asked(), requests(&[("CopyObject", 1), ("DeleteObject", 1)]));
    assert_eq!(mount.names.key(moved), Some(at("d/b")));
    assert_eq!(mount.find("d/b").await.unwrap().ino, moved);
    assert!(matches!(mount.find("a").await, Err(Error::NotFound)));
    let meta = mount.store.head("d/b").await.unwrap().meta;
    assert_eq!((meta.size, meta.user.get("colour").map(String::as_str)), (4, Some("red")));
    assert!(mount.store.head("a").await.is_none());
}

#[tokio::test]
async fn rename_without_replacing_is_decided_by_the_store() {
    let mount = Mount::new().await;
    mount.store.put("a", "mine", &[]).await;
    mount.find("a").await.unwrap();
    mount.ls_names(Ino::ROOT).await;
    mount.store.put("b", "theirs", &[]).await;
    let (a, b) = (name("a"), name("b"));
    assert!(matches!(mount.names.rename((Ino::ROOT, &a), (Ino::ROOT, &b), true).await, Err(Error::Exists)));
    assert_eq!(mount.store.head("b").await.unwrap().meta.size, 6);
    assert!(mount.store.head("a").await.is_some());
}

#[tokio::test]
async fn rename_of_a_file_that_is_not_in_the_store_yet_only_changes_names() {
    let mount = Mount::new().await;
    mount.store.put("b", "old", &[]).await;
    mount.ls_names(Ino::ROOT).await;
    let ino = mount.create(Ino::ROOT, "a");
    mount.find("b").await.unwrap();
    mount.store.asked();
    mount.names.rename((Ino::ROOT, &name("a")), (Ino::ROOT, &name("b")), false).await.unwrap();
    assert_eq!(mount.store.asked(), nothing());
    assert_eq!(mount.names.key(ino), Some(at("b")));
    assert_eq!(mount.ls_names(Ino::ROOT).await, ["b"]);
}

#[tokio::test]
async fn rename_of_a_file_onto_a_directory_is_refused() {
    let mount = Mount::new().await;
    mount.store.put("d/x", "", &[]).await;
    mount.store.put("f", "", &[]).await;
    mount.find("d").await.unwrap();
    mount.find("f").await.unwrap();
    let (d, f) = (name("d"), name("f"));
    assert!(matches!(mount.names.rename((Ino::ROOT, &f), (Ino::ROOT, &d), false).await, Err(Error::IsADirectory)));
}

/// A journal as another host leaves it: `copied` are paths below `old/`, with the copies that stand under `new/`.
async fn leave_journal(mount: &Mount, phase: &str, copied: &[&str]) {
    let mut objects = serde_json::Map::new();
    for path in copied {
        let (from, to) = (at(&format!("old/{path}")), at(&format!("new/{path}")));
        let head = mount.store.gateway.head(&from).await.unwrap();
        let source = Source { key: from, version: head.meta.version.clone(), size: head.meta.size };
        let copy = mount.store.gateway.duplicate(&source, &to, None, &Condition::Absent).await.unwrap();
        let noted = serde_json::json!({
            "source": head.meta.version.etag.as_str(), "copy": copy.version.etag.as_str(),
        });
        objects.insert((*path).to_owned(), noted);
    }
    let (owner, objects) = (elsewhere(), objects.into());
    let said = Said { bucket: mount.store.gateway.bucket().as_str(), phase, owner, objects, ..Said::default() };
    mount.store.put(".dssefs/rename/left", Signer::of_bytes(&[9; 32]).journal(&said), &[]).await;
}

async fn there(mount: &Mount, keys: &[&str]) -> Vec<bool> {
    let mut there = Vec::new();
    for key in keys {
        there.push(mount.store.head(key).await.is_some());
    }
    there
}

async fn until_the_journal_is_gone(mount: &Mount) {
    for _ in 0..200 {
        if mount.store.head(".dssefs/rename/left").await.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the journal was not settled");
}

#[tokio::test]
async fn a_rename_that_another_host_left_is_undone_when_its_lease_is_over_and_not_before() {
    let mount = Mount::new().await;
    for key in ["old/", "old/noted", "old/unnoted", "old/never"] {
        mount.store.put(key, key.to_owned(), &[("mode", "33188")]).await;
    }
    leave_journal(&mount, "copying", &["noted"]).await;
    let head = mount.store.head("old/unnoted").await.unwrap();
    let source = Source { key: at("old/unnoted"), version: head.meta.version, size: head.meta.size };
    mount.store.gateway.duplicate(&source, &at("new/unnoted"), None, &Condition::Absent).await.unwrap();
    mount.store.put("new/theirs", "another host's", &[]).await;
    mount.store.put("new/never", "another host's, too", &[]).await;
    mount.names.recover().await;
    assert_eq!(there(&mount, &["new/noted", "new/unnoted", ".dssefs/rename/left"]).await, [true, true, true]);
    until_the_journal_is_gone(&mount).await;
    assert_eq!(there(&mount, &["old/", "old/noted", "old/unnoted", "old/never"]).await, [true; 4]);
    assert_eq!(there(&mount, &["new/noted", "new/unnoted"]).await, [false, false]);
    assert_eq!(there(&mount, &["new/theirs", "new/never"]).await, [true, true], "they are no copies");
}

#[tokio::test]
async fn a_rename_that_another_host_left_after_its_copies_is_finished_and_nothing_unproved_is_deleted() {
    let mount = Mount::new().await;
    for key in ["old/", "old/done", "old/changed", "old/only"] {
        mount.store.put(key, key.to_owned(), &[]).await;
    }
    leave_journal(&mount, "deleting", &["", "done", "changed", "only"]).await;
    mount.store.put("old/changed", "since then", &[]).await;
    mount.store.put("old/added", "since then", &[]).await;
    mount.store.remove("new/only").await;
    mount.names.recover().await;
    assert_eq!(there(&mount, &["old/done", ".dssefs/rename/left"]).await, [true, true], "its lease is not over");
    until_the_journal_is_gone(&mount).await;
    assert_eq!(there(&mount, &["old/", "old/done"]).await, [false, false]);
    assert_eq!(there(&mount, &["old/changed", "old/added", "old/only"]).await, [true, true, true]);
    assert_eq!(there(&mount, &["new/", "new/done", "new/changed"]).await, [true, true, true]);
}

/// No task looked at it again while the mount lived, and each later rename of the directory met it.
#[tokio::test]
async fn a_journal_of_a_refused_rename_is_deleted_later() {
    let mount = Mount::new().await;
    for key in ["old/", "old/a"] {
        mount.store.put(key, key.to_owned(), &[]).await;
    }
    let moved = mount.find("old").await.unwrap();
    let refused = |status, code: &str| Fault::Failure { status, code: code.into(), message: "refused".into() };
    mount.store.fail_all(&[
        ("CopyObject", "new/", refused(412, "PreconditionFailed")),
        ("DeleteObject", ".dssefs/", refused(403, "AccessDenied")),
    ]);
    let exclusive = mount.names.lock_exclusive(moved.ino, None).await;
    let (old, new) = (name("old"), name("new"));
    let renaming = mount.names.move_directory((Ino::ROOT, &old), (Ino::ROOT, &new), false, exclusive);
    assert!(matches!(renaming.await, Err(Error::NotEmpty)));
    let prefix = Prefix::new(".dssefs/").unwrap();
    let journals = async || mount.names.objects_below(&prefix).await.unwrap().len();
    assert_eq!(journals().await, 1, "it could not be deleted");
    mount.store.clear_faults();
    let gone = async {
        while journals().await > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the mount looks at the journal again");
    assert_eq!(there(&mount, &["old/", "old/a", "new/"]).await, [true, true, false]);
}

#[tokio::test]
async fn a_rename_that_takes_longer_than_the_lease_keeps_its_journal() {
    let mount = Mount::new().await;
    for key in ["old/", "old/a", "old/b"] {
        mount.store.put(key, key.to_owned(), &[]).await;
    }
    let moved = mount.find("old").await.unwrap();
    mount.store.fail("CopyObject", "new/b", 1, Fault::DelayMs(5_000));
    let (other, _) = namespace(&mount.store, |_| {});
    let (old, new) = (name("old"), name("new"));
    let look = async {
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        other.recover().await;
    };
    let exclusive = mount.names.lock_exclusive(moved.ino, None).await;
    let renaming = mount.names.move_directory((Ino::ROOT, &old), (Ino::ROOT, &new), false, exclusive);
    let (moving, ()) = tokio::join!(renaming, look);
    mount.names.finish_move(moving.unwrap().0).await.unwrap();
    assert_eq!(there(&mount, &["old/", "old/a", "old/b"]).await, [false; 3]);
    assert_eq!(there(&mount, &["new/", "new/a", "new/b"]).await, [true; 3]);
}

#[tokio::test]
async fn who_changes_something_and_who_moves_it_wait_for_each_other() {
    let mount = Mount::new().await;
    mount.store.put("d/e/f", "", &[]).await;
    let (d, file) = (mount.find("d").await.unwrap().ino, mount.find("d/e/f").await.unwrap().ino);
    let shared = mount.names.lock_shared(file).await;
    let mut closing = Box::pin(mount.names.lock_exclusive(d, None));
    assert!(futures_util::poll!(&mut closing).is_pending(), "a change is under way below it");
    assert!(futures_util::poll!(Box::pin(mount.names.lock_shared(file))).is_pending(), "and no new change begins");
    drop(shared);
    let exclusive = closing.await;
    assert!(futures_util::poll!(Box::pin(mount.names.lock_shared_both(Ino::ROOT, d))).is_pending());
    drop(mount.names.lock_shared(Ino::ROOT).await);
    let mut waiting = Box::pin(mount.names.lock_shared(file));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    drop(exclusive);
    waiting.await;
}

#[tokio::test]
async fn one_exclusive_lock_at_a_time_is_held_of_what_overlaps() {
    let mount = Mount::new().await;
    mount.store.put("d/e/f", "", &[]).await;
    mount.store.put("g/h", "", &[]).await;
    let ino = async |path| mount.find(path).await.unwrap().ino;
    let (d, e, g) = (ino("d").await, ino("d/e").await, ino("g").await);
    let held = mount.names.lock_exclusive(e, None).await;
    let mut above = Box::pin(mount.names.lock_exclusive(d, None));
    let mut below = Box::pin(mount.names.lock_exclusive(g, Some(ino("d/e/f").await)));
    assert!(futures_util::poll!(&mut above).is_pending(), "it would have what is held");
    assert!(futures_util::poll!(&mut below).is_pending(), "it is a part of what is held");
    assert!(futures_util::poll!(Box::pin(mount.names.lock_shared(g))).is_pending(), "both directories are asked for");
    drop(held);
    let above = above.await;
    assert!(futures_util::poll!(&mut below).is_pending());
    drop(above);
    below.await;
}

#[tokio::test]
async fn many_lookups_in_a_directory_turn_into_one_listing() {
    let mount = Mount::new().await;
    for number in 0..50 {
        assert!(matches!(mount.find(&format!("f{number}")).await, Err(Error::NotFound)));
        mount.create(Ino::ROOT, &format!("f{number}"));
    }
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 2), ("ListObjectsV2", 3)]));
}

#[tokio::test]
async fn lookups_never_list_a_directory_that_is_larger_than_a_page() {
    let mount = Mount::new().await;
    mount.store.put_all((0..1001).map(|number| format!("f{number:04}")), &[]).await;
    for number in 0..10 {
        assert!(matches!(mount.find(&format!("g{number}")).await, Err(Error::NotFound)));
    }
    // Each is asked for by itself; one page was tried once.
    assert_eq!(mount.store.asked(), requests(&[("HeadObject", 10), ("ListObjectsV2", 11)]));
}

#[tokio::test]
async fn a_small_table_forgets_entries_and_asks_again() {
    let mount = Mount::with(|settings| settings.entries_max = 10).await;
    mount.store.put_all((0..50).map(|number| format!("f{number:02}")), &[]).await;
    assert_eq!(mount.ls_names(Ino::ROOT).await.len(), 50);
    for number in 0..50 {
        let node = mount.find(&format!("f{number:02}")).await.unwrap();
        mount.names.forget(node.ino, 1);
    }
    assert!(matches!(mount.find("g").await, Err(Error::NotFound)));
}

#[tokio::test]
async fn a_get_renews_the_attributes_without_a_head() {
    let mount = Mount::new().await;
    mount.store.put("a", "body", &[]).await;
    let ino = mount.find("a").await.unwrap().ino;
    mount.expire();
    let download = mount.store.gateway.get(&at("a"), None, None).await.unwrap();
    mount.names.observed(ino, &Arc::new(download.head.clone()));
    mount.store.asked();
    mount.names.attributes(ino).await.unwrap();
    assert_eq!(mount.names.head(ino).await.unwrap().encryption.evidence, Evidence::Get);
    assert_eq!(mount.store.asked(), nothing());
}

#[tokio::test]
async fn what_the_store_refuses_is_told_and_not_taken_for_absence() {
    let mount = Mount::new().await;
    mount.store.put("a", "", &[]).await;
    mount.store.fail("ListObjectsV2", "", 0, denied());
    assert!(matches!(mount.find("a").await, Err(Error::Store(_))));
    assert!(matches!(mount.names.list(Ino::ROOT).await, Err(Error::Store(_))));
    mount.store.clear_faults();
    assert_eq!(mount.ls_names(Ino::ROOT).await, ["a"]);
}
