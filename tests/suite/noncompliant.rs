//! `--on-noncompliant-read refuse`: an object of unknown protection is neither read nor stored again as compliant.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::copy_file_range;

use crate::common::hostile_store::{HostileStore, whole};
use crate::common::{Endpoint, MINUTE, Mount, attribute, deadline, errno, scenario};

const REFUSED: i32 = libc::EKEYREJECTED;

/// An endpoint with the object `plain`, which is not under DSSE-KMS.
fn with_plain() -> Endpoint {
    let endpoint = Endpoint::start();
    endpoint.put_as("plain", b"content", None, None);
    endpoint
}

fn refusing(endpoint: &Endpoint) -> Mount {
    Mount::with(endpoint, &["--on-noncompliant-read", "refuse"])
}

/// Whether the object is as it was put, and nothing was copied from it.
fn assert_untouched(endpoint: &Endpoint, key: &str) {
    let head = endpoint.head(key).expect("the object is there");
    assert_eq!(head.server_side_encryption().map(|sse| sse.as_str().to_owned()).as_deref(), Some("AES256"));
    assert_eq!(endpoint.content(key), b"content");
    let copies = endpoint.counters().requests("CopyObject") + endpoint.counters().requests("UploadPartCopy");
    assert_eq!(copies, 0, "something was copied");
}

#[test]
fn moving_a_refused_file_is_refused_and_copies_nothing() {
    deadline(MINUTE, || {
        let endpoint = with_plain();
        let mount = refusing(&endpoint);
        endpoint.reset();
        assert_eq!(errno(fs::rename(mount.join("plain"), mount.join("moved"))), REFUSED);
        assert_untouched(&endpoint, "plain");
        assert!(endpoint.head("moved").is_none());
        assert_eq!(errno(fs::read(mount.join("plain"))), REFUSED, "the name has stayed");
    });
}

#[test]
fn moving_a_directory_with_a_refused_file_is_refused_before_anything_is_copied() {
    scenario().unmounted(|endpoint| {
        endpoint.put("dir/good", b"content");
        endpoint.put("dir/deeper/good", b"content");
        endpoint.put_as("dir/deeper/plain", b"content", None, None);
        let mount = refusing(&endpoint);
        endpoint.reset();
        assert_eq!(errno(fs::rename(mount.join("dir"), mount.join("moved"))), REFUSED);
        assert_untouched(&endpoint, "dir/deeper/plain");
        assert!(endpoint.head("moved/good").is_none() && endpoint.head("dir/good").is_some());
        fs::remove_file(mount.join("dir/deeper/plain")).unwrap();
        fs::rename(mount.join("dir"), mount.join("moved")).unwrap();
        assert_eq!(fs::read(mount.join("moved/deeper/good")).unwrap(), b"content");
    });
}

#[test]
fn a_refused_file_behind_an_empty_page_of_a_listing_is_found_before_its_directory_is_moved() {
    scenario().unmounted(|endpoint| {
        endpoint.put_as("dir/plain", b"content", None, None);
        // S3 gives empty pages where it passes over many deleted keys.
        let store = HostileStore::before(&endpoint.url(), |asked| {
            let is_of_all = asked.lists("dir/") && asked.parameter("delimiter").is_none();
            is_of_all.then(|| match asked.parameter("continuation-token") {
                None => whole(200, "", &listing("<NextContinuationToken>more</NextContinuationToken>", true)),
                Some(_) => {
                    let plain = "<Contents><Key>dir/plain</Key><Size>7</Size><ETag>\"x\"</ETag></Contents>";
                    whole(200, "", &listing(plain, false))
                }
            })
        });
        let mount = Mount::through(&endpoint, &store.url(), &["--on-noncompliant-read", "refuse"]);
        endpoint.reset();
        assert_eq!(errno(fs::rename(mount.join("dir"), mount.join("moved"))), REFUSED);
        assert_untouched(&endpoint, "dir/plain");
        assert!(store.lies() >= 2);
    });
}

fn listing(content: &str, is_truncated: bool) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<ListBucketResult>\
         <IsTruncated>{is_truncated}</IsTruncated>{content}</ListBucketResult>"
    )
}

#[test]
fn changing_attributes_of_a_refused_file_is_refused_and_copies_nothing() {
    deadline(MINUTE, || {
        let endpoint = with_plain();
        let mount = refusing(&endpoint);
        let path = mount.join("plain");
        endpoint.reset();
        assert_eq!(errno(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))), REFUSED, "chmod");
        assert_eq!(errno(chown(&path, Some(1), Some(1))), REFUSED, "chown");
        assert_eq!(errno(set_times(&path)), REFUSED, "utimens");
        assert_eq!(errno(xattr::set(&path, "user.colour", b"red")), REFUSED, "setxattr");
        assert_eq!(errno(xattr::remove(&path, "user.colour")), REFUSED, "removexattr");
        assert_untouched(&endpoint, "plain");
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "not-dsse");
    });
}

fn set_times(path: &Path) -> std::io::Result<()> {
    let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).map_err(Into::into)
}

#[test]
fn changing_a_part_of_a_refused_file_is_refused_and_copies_nothing() {
    deadline(MINUTE, || {
        let endpoint = with_plain();
        let mount = refusing(&endpoint);
        let path = mount.join("plain");
        endpoint.reset();
        assert_eq!(errno(OpenOptions::new().write(true).open(&path)), REFUSED, "open for writing");
        assert_eq!(errno(OpenOptions::new().append(true).open(&path)), REFUSED, "append");
        assert_eq!(errno(OpenOptions::new().read(true).write(true).open(&path)), REFUSED, "read and write");
        for length in [3, 100] {
            assert_eq!(errno(truncate(&path, length)), REFUSED, "truncate to {length}");
        }
        assert_untouched(&endpoint, "plain");
    });
}

/// truncate(2): by path, and not through a handle.
fn truncate(path: &Path, length: u64) -> std::io::Result<()> {
    const TRUNCATE: &str =
        "import os,sys\ntry: os.truncate(sys.argv[1], int(sys.argv[2]))\nexcept OSError as e: sys.exit(e.errno)";
    let python =
        std::process::Command::new("python3").args(["-c", TRUNCATE]).arg(path).arg(length.to_string()).status();
    let status = python?;
    match status.code() {
        Some(0) => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code.unwrap_or(libc::EIO))),
    }
}

#[test]
fn replacing_or_removing_a_refused_file_as_a_whole_is_allowed() {
    scenario().unmounted(|endpoint| {
        for key in ["truncated", "cut", "replaced", "removed"] {
            endpoint.put_as(key, b"content", None, None);
        }
        let mount = refusing(&endpoint);
        fs::write(mount.join("truncated"), "new").unwrap();
        assert_eq!(fs::read(mount.join("truncated")).unwrap(), b"new");
        let mut both = OpenOptions::new().read(true).write(true).truncate(true).open(mount.join("truncated")).unwrap();
        both.write_all(b"newer").unwrap();
        drop(both);
        truncate(&mount.join("cut"), 0).unwrap();
        fs::write(mount.join("fresh"), "new").unwrap();
        fs::rename(mount.join("fresh"), mount.join("replaced")).unwrap();
        fs::remove_file(mount.join("removed")).unwrap();
        for key in ["truncated", "cut", "replaced"] {
            endpoint.assert_dsse(key);
            assert_eq!(attribute(&mount.join(key), "user.dsse.verdict").unwrap(), "compliant", "{key}");
        }
        assert_eq!(endpoint.content("truncated"), b"newer");
        assert!(endpoint.head("removed").is_none());
        let names: Vec<_> = fs::read_dir(mount.path()).unwrap().collect();
        assert_eq!(names.len(), 3, "listing asks for no content");
    });
}

#[test]
fn copying_within_the_store_from_a_refused_file_is_refused() {
    deadline(MINUTE, || {
        let endpoint = with_plain();
        let mount = refusing(&endpoint);
        endpoint.reset();
        // copy_file_range(2) needs a handle that reads, and there is none to be had.
        assert_eq!(errno(File::open(mount.join("plain"))), REFUSED);
        // One that was open when another host replaced the object reads the version that it has, or none.
        endpoint.put("swapped", b"trusted");
        let source = File::open(mount.join("swapped")).unwrap();
        endpoint.put_as("swapped", b"content", None, None);
        let target = File::create(mount.join("copy")).unwrap();
        let copied = copy_file_range(&source, None, &target, None, 7);
        drop(target);
        assert!(copied.is_err() || endpoint.head("copy").is_none_or(|head| head.content_length() != Some(7)));
        assert_eq!(attribute(&mount.join("plain"), "user.dsse.verdict").unwrap(), "not-dsse");
    });
}

#[test]
fn links_to_be_refused_are_neither_read_nor_moved_nor_changed() {
    scenario().unmounted(|endpoint| {
        let other = Mount::of(&endpoint);
        symlink("target", other.join("link")).unwrap();
        assert!(other.end().success());
        let (body, user) = (endpoint.content("link"), endpoint.head("link").unwrap().metadata().cloned());
        endpoint.with(|s3| async move {
            let put = s3.put_object().bucket(crate::common::BUCKET).key("link").body(body.into());
            put.set_metadata(user).send().await.unwrap();
        });
        let mount = refusing(&endpoint);
        assert_eq!(errno(fs::read_link(mount.join("link"))), REFUSED);
        assert_eq!(errno(fs::rename(mount.join("link"), mount.join("moved"))), REFUSED);
        assert_eq!(errno(std::os::unix::fs::lchown(mount.join("link"), Some(1), Some(1))), REFUSED);
        fs::remove_file(mount.join("link")).unwrap();
    });
}

/// The other side of it: the verdict tells of the object that is there now, and not of its past.
#[test]
fn with_serve_moving_and_changing_make_an_object_compliant() {
    deadline(MINUTE, || {
        let endpoint = with_plain();
        endpoint.put_as("other", b"content", None, None);
        let mount = Mount::of(&endpoint);
        assert_eq!(attribute(&mount.join("plain"), "user.dsse.verdict").unwrap(), "not-dsse");
        fs::rename(mount.join("plain"), mount.join("moved")).unwrap();
        fs::set_permissions(mount.join("other"), fs::Permissions::from_mode(0o600)).unwrap();
        for name in ["moved", "other"] {
            assert_eq!(attribute(&mount.join(name), "user.dsse.verdict").unwrap(), "compliant", "{name}");
            assert_eq!(fs::read(mount.join(name)).unwrap(), b"content");
        }
    });
}
