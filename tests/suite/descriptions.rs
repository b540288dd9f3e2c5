//! What others set on an object without a change of its content: tags, user metadata, content headers. This mount must
//! neither erase it nor bring back what it was before.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};

use aws_sdk_s3::types::{MetadataDirective, ServerSideEncryption, Tag, Tagging};
use dssefs_emulator::Counters;

use crate::common::{BUCKET, Endpoint, MINUTE, Mount, STALE, commit, deadline, names, noise};

fn tag(endpoint: &Endpoint, key: &str, tags: &[(&str, &str)]) {
    let tags = tags.iter().map(|(name, value)| Tag::builder().key(*name).value(*value).build().unwrap()).collect();
    endpoint.with(|s3| async move {
        let tagging = Tagging::builder().set_tag_set(Some(tags)).build().unwrap();
        s3.put_object_tagging().bucket(BUCKET).key(key).tagging(tagging).send().await.unwrap();
    });
}

fn tags(endpoint: &Endpoint, key: &str) -> Vec<(String, String)> {
    let tagged =
        endpoint.with(|s3| async move { s3.get_object_tagging().bucket(BUCKET).key(key).send().await.unwrap() });
    let mut tags: Vec<_> = tagged.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect();
    tags.sort();
    tags
}

fn clean() -> Vec<(String, String)> {
    vec![("scan".to_owned(), "clean".to_owned())]
}

/// Changes the description of an object under SSE-S3 in place, as other programs do. Its ETag is that of its content
/// and stays.
fn describe(endpoint: &Endpoint, key: &str, mode: u32, cache_control: &str) {
    let before = endpoint.head(key).unwrap().e_tag().map(str::to_owned);
    endpoint.with(|s3| async move {
        let copy = s3.copy_object().bucket(BUCKET).key(key).copy_source(format!("{BUCKET}/{key}"));
        let copy = copy.metadata_directive(MetadataDirective::Replace).metadata("mode", (0o100_000 | mode).to_string());
        let copy = copy.cache_control(cache_control).server_side_encryption(ServerSideEncryption::Aes256);
        copy.send().await.unwrap();
    });
    assert_eq!(endpoint.head(key).unwrap().e_tag().map(str::to_owned), before, "the ETag names the content alone");
}

/// Changes the description of an object under SSE-S3 after this mount has seen it.
fn redescribe(endpoint: &Endpoint, mount: &Mount, key: &str) {
    assert_eq!(fs::metadata(mount.join(key)).unwrap().permissions().mode() & 0o777, 0o640);
    describe(endpoint, key, 0o604, "max-age=2");
}

fn cache_control(endpoint: &Endpoint, key: &str) -> Option<String> {
    endpoint.head(key).unwrap().cache_control().map(str::to_owned)
}

fn mode(endpoint: &Endpoint, key: &str) -> u32 {
    endpoint.head(key).unwrap().metadata().unwrap()["mode"].parse::<u32>().unwrap() & 0o7777
}

fn requests(counters: &Counters) -> Vec<(&str, u64)> {
    let asked = counters.s3.iter().map(|(name, count)| (name.as_str(), count.requests));
    asked.filter(|(_, requests)| *requests > 0).collect()
}

/// A scanner tags what a program has closed or synced, and the next fsync(2) dropped the tag.
#[test]
fn a_log_keeps_a_tag_that_is_set_while_it_is_open() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        let mut log = OpenOptions::new().create(true).append(true).open(mount.join("log")).unwrap();
        log.write_all(b"one\n").unwrap();
        log.sync_all().unwrap();
        tag(&endpoint, "log", &[("scan", "clean")]);
        log.write_all(b"two\n").unwrap();
        log.sync_all().unwrap();
        assert_eq!((endpoint.content("log"), tags(&endpoint, "log")), (b"one\ntwo\n".to_vec(), clean()));
        tag(&endpoint, "log", &[("scan", "late"), ("by", "hand")]);
        log.write_all(b"three\n").unwrap();
        drop(log);
        assert_eq!(tags(&endpoint, "log"), [("by".into(), "hand".into()), ("scan".into(), "late".into())]);
        endpoint.assert_dsse("log");
    });
}

#[test]
fn an_append_keeps_a_tag_that_was_set_after_the_file_was_listed() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        commit(&mount.join("file"), b"one\n").unwrap();
        tag(&endpoint, "file", &[("scan", "clean")]);
        assert_eq!(names(&mount.path()), ["file"]);
        let mut file = OpenOptions::new().append(true).open(mount.join("file")).unwrap();
        file.write_all(b"two\n").unwrap();
        file.sync_all().unwrap();
        assert_eq!((endpoint.content("file"), tags(&endpoint, "file")), (b"one\ntwo\n".to_vec(), clean()));
        // Replaced as a whole, it stays the object that was tagged.
        commit(&mount.join("file"), b"three\n").unwrap();
        assert_eq!((endpoint.content("file"), tags(&endpoint, "file")), (b"three\n".to_vec(), clean()));
    });
}

#[test]
fn a_tag_that_was_removed_while_the_file_was_written_stays_removed() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        endpoint.put("small", b"old");
        endpoint.put("large", &noise(1, 24 << 20));
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        // More than 16 MiB are sent ahead, in an upload that had the tag from its beginning.
        for (key, appended) in [("small", 1_000), ("large", 40 << 20)] {
            tag(&endpoint, key, &[("hold", "yes")]);
            let mut file = OpenOptions::new().append(true).open(mount.join(key)).unwrap();
            file.write_all(&noise(2, appended)).unwrap();
            tag(&endpoint, key, &[]);
            file.sync_all().unwrap();
            assert_eq!(tags(&endpoint, key), [], "{key}");
            assert!(endpoint.content(key).ends_with(&noise(2, appended)), "{key}");
            endpoint.assert_dsse(key);
        }
    });
}

/// The ETag of an object under SSE-S3 names its content and not its description.
#[test]
fn what_another_host_describes_in_place_is_kept_by_each_call() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        for key in ["appended", "set", "changed", "moved"] {
            endpoint.put_as(key, b"content", Some(ServerSideEncryption::Aes256), None);
            describe(&endpoint, key, 0o640, "max-age=1");
        }
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);

        redescribe(&endpoint, &mount, "appended");
        let mut file = OpenOptions::new().append(true).open(mount.join("appended")).unwrap();
        file.write_all(b", more").unwrap();
        describe(&endpoint, "appended", 0o604, "max-age=3");
        file.sync_all().unwrap();
        assert_eq!(cache_control(&endpoint, "appended").as_deref(), Some("max-age=3"));
        assert_eq!((mode(&endpoint, "appended"), endpoint.content("appended")), (0o604, b"content, more".to_vec()));

        // What a program sets here wins over what another host has set meanwhile.
        redescribe(&endpoint, &mount, "set");
        let file = OpenOptions::new().write(true).open(mount.join("set")).unwrap();
        file.write_all_at(b"C", 0).unwrap();
        file.set_permissions(Permissions::from_mode(0o700)).unwrap();
        file.sync_all().unwrap();
        assert_eq!((mode(&endpoint, "set"), cache_control(&endpoint, "set").as_deref()), (0o700, Some("max-age=2")));

        redescribe(&endpoint, &mount, "changed");
        xattr::set(mount.join("changed"), "user.note", b"mine").unwrap();
        assert_eq!(
            (mode(&endpoint, "changed"), cache_control(&endpoint, "changed").as_deref()),
            (0o604, Some("max-age=2"))
        );

        redescribe(&endpoint, &mount, "moved");
        fs::rename(mount.join("moved"), mount.join("new")).unwrap();
        assert_eq!((mode(&endpoint, "new"), cache_control(&endpoint, "new").as_deref()), (0o604, Some("max-age=2")));
    });
}

/// What a listing renewed was the version, and with it a description that had changed.
#[test]
fn a_listing_shows_what_another_host_has_described_in_place() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put_as("file", b"content", Some(ServerSideEncryption::Aes256), None);
        let mount = Mount::of(&endpoint);
        describe(&endpoint, "file", 0o640, "max-age=1");
        assert_eq!(fs::metadata(mount.join("file")).unwrap().permissions().mode() & 0o777, 0o640);
        // Last-Modified has whole seconds; and the mount and the kernel each trust what they know for one.
        std::thread::sleep(STALE);
        describe(&endpoint, "file", 0o604, "max-age=2");
        for _ in 0..10 {
            // Listed each time before what is known is too old.
            names(&mount.path());
            std::thread::sleep(STALE / 4);
        }
        names(&mount.path());
        assert_eq!(fs::metadata(mount.join("file")).unwrap().permissions().mode() & 0o777, 0o604);
    });
}

#[test]
fn a_change_of_a_directory_keeps_the_tags_of_its_marker() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        fs::create_dir(mount.join("d")).unwrap();
        tag(&endpoint, "d/", &[("scan", "clean")]);
        fs::set_permissions(mount.join("d"), Permissions::from_mode(0o700)).unwrap();
        assert_eq!((tags(&endpoint, "d/"), mode(&endpoint, "d/")), (clean(), 0o700));
        tag(&endpoint, "d/", &[]);
        xattr::set(mount.join("d"), "user.note", b"mine").unwrap();
        assert_eq!(tags(&endpoint, "d/"), []);
    });
}

#[test]
fn only_a_commit_that_replaces_an_object_asks_what_it_carries() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "1h"]);
        names(&mount.path());
        let write = || commit(&mount.join("file"), b"content").unwrap();
        let ((), counters) = endpoint.counted(write);
        assert_eq!(requests(&counters), [("PutObject", 1)], "a new file");
        let ((), counters) = endpoint.counted(write);
        let expected = [("HeadObject", 1), ("ListObjectAnnotations", 1), ("PutObject", 1)];
        assert_eq!(requests(&counters), expected, "an object without tags and annotations");
        assert_eq!(counters.all_kms_for_s3(), 1, "neither question needs a key");
        tag(&endpoint, "file", &[("scan", "clean")]);
        let ((), counters) = endpoint.counted(write);
        let expected = [("GetObjectTagging", 1), ("HeadObject", 1), ("ListObjectAnnotations", 1), ("PutObject", 1)];
        assert_eq!(requests(&counters), expected);
        let ((), counters) = endpoint.counted(|| drop(File::open(mount.join("file")).unwrap()));
        assert_eq!(requests(&counters), [], "nothing is replaced");
    });
}
