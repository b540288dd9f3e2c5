//! Markers with content. Consoles and other tools store a body, a type and metadata under the key of a directory, and
//! no call of a mount shows that body. So every call that stores the marker again must keep it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, UNIX_EPOCH};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ServerSideEncryption;

use crate::common::{BUCKET, Endpoint, Mount, attribute, errno, names, scenario};

const BODY: &[u8] = b"<p>what a console shows of this folder</p>";

/// Puts a marker as another program does.
fn put_marker(endpoint: &Endpoint, key: &str) {
    let key_arn = endpoint.key_arn().to_owned();
    endpoint.with(|s3| async move {
        let put = s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(BODY));
        let put = put.content_type("text/html").cache_control("max-age=9").metadata("made-by", "a console");
        let put = put.tagging("scan=clean").ssekms_key_id(key_arn);
        put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).send().await.unwrap();
    });
}

fn assert_whole(endpoint: &Endpoint, key: &str, after: &str) {
    let head = endpoint.head(key).unwrap_or_else(|| panic!("{key} after {after}"));
    assert_eq!(endpoint.content(key), BODY, "{after}");
    assert_eq!((head.content_type(), head.cache_control()), (Some("text/html"), Some("max-age=9")), "{after}");
    assert_eq!(head.metadata().unwrap()["made-by"], "a console", "{after}");
    let tags = endpoint.with(|s3| async move { s3.get_object_tagging().bucket(BUCKET).key(key).send().await.unwrap() });
    assert_eq!(tags.tag_set().len(), 1, "{after}");
    endpoint.assert_dsse(key);
}

/// chmod, chown, touch and setfattr of the directory put an empty marker in its place.
#[test]
fn every_change_of_a_directory_keeps_the_content_of_its_marker() {
    scenario().unmounted(|endpoint| {
        put_marker(&endpoint, "d/");
        let mount = Mount::of(&endpoint);
        let dir = mount.join("d");
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        assert_whole(&endpoint, "d/", "chmod");
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
        let group = fs::metadata(&dir).map(|facts| std::os::unix::fs::MetadataExt::gid(&facts)).unwrap();
        chown(&dir, None, Some(group + u32::from(rustix::process::geteuid().is_root()))).unwrap();
        assert_whole(&endpoint, "d/", "chown");
        File::open(&dir).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(981_173_106)).unwrap();
        assert_whole(&endpoint, "d/", "touch");
        xattr::set(&dir, "user.note", b"mine").unwrap();
        assert_whole(&endpoint, "d/", "setfattr");
        fs::create_dir(dir.join("below")).unwrap();
        assert!(mount.end().success());
        assert_whole(&endpoint, "d/", "the end of the mount, which stores the times of directories");
    });
}

#[test]
fn a_renamed_directory_takes_the_content_of_its_marker_along() {
    scenario().unmounted(|endpoint| {
        put_marker(&endpoint, "d/");
        endpoint.put("d/file", b"content");
        let mount = Mount::of(&endpoint);
        fs::rename(mount.join("d"), mount.join("e")).unwrap();
        assert!(mount.end().success());
        assert_whole(&endpoint, "e/", "mv");
        assert_eq!(endpoint.keys(), ["e/", "e/file"]);
    });
}

/// rmdir deleted the content, and a rename over the empty directory replaced it.
#[test]
fn a_marker_with_content_is_not_removed_with_its_directory() {
    scenario().unmounted(|endpoint| {
        put_marker(&endpoint, "d/");
        let mount = Mount::of(&endpoint);
        fs::create_dir(mount.join("other")).unwrap();
        assert_eq!(errno(fs::remove_dir(mount.join("d"))), libc::ENOTEMPTY);
        let told = mount.line(|line| line.contains("\"d/\"") && line.contains("42 bytes"));
        assert!(told.is_some(), "{}", mount.log());
        assert_eq!(errno(fs::rename(mount.join("other"), mount.join("d"))), libc::ENOTEMPTY);
        assert_whole(&endpoint, "d/", "rmdir");
        assert_eq!(attribute(&mount.join("d"), "user.dsse.marker-bytes").unwrap(), "42");
        assert_eq!(attribute(&mount.join("other"), "user.dsse.marker-bytes").unwrap(), "0");
        fs::remove_dir(mount.join("other")).unwrap();
    });
}

/// Puts an object without a slash at the end of its key that says it is a directory, as older tools do.
fn put_plain_marker(endpoint: &Endpoint, key: &str, body: &'static [u8]) {
    let key_arn = endpoint.key_arn().to_owned();
    endpoint.with(|s3| async move {
        let put = s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(body));
        let put = put.content_type("application/x-directory; charset=UTF-8").metadata("mode", "16832");
        let put = put.metadata("made-by", "s3fs").ssekms_key_id(key_arn);
        put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).send().await.unwrap();
    });
}

/// It was shown as an empty file, so that nothing could be made in it.
#[test]
fn an_empty_object_of_the_type_of_directories_is_one() {
    scenario().unmounted(|endpoint| {
        ["used", "changed", "moved", "removed"].iter().for_each(|key| put_plain_marker(&endpoint, key, b""));
        put_plain_marker(&endpoint, "file", b"content");
        let mount = Mount::of(&endpoint);
        let mode = |name: &str| fs::metadata(mount.join(name)).unwrap().permissions().mode();
        for name in ["used", "changed", "moved", "removed"] {
            assert_eq!((mode(name), names(&mount.join(name))), (0o040_700, vec![]), "{name}");
        }
        assert_eq!(fs::read(mount.join("file")).unwrap(), b"content", "one with content is a file");
        fs::write(mount.join("used/file"), b"made in it").unwrap();
        assert_eq!(names(&mount.path()), ["changed", "file", "moved", "removed", "used"]);
        assert_eq!(mode("used"), 0o040_700, "after a listing");
        fs::set_permissions(mount.join("changed"), Permissions::from_mode(0o711)).unwrap();
        fs::rename(mount.join("moved"), mount.join("new")).unwrap();
        fs::remove_dir(mount.join("removed")).unwrap();
        assert!(mount.end().success());
        assert_eq!(endpoint.keys(), ["changed/", "file", "new/", "used", "used/file"]);
        for key in ["changed/", "new/"] {
            assert_eq!(endpoint.head(key).unwrap().metadata().unwrap()["made-by"], "s3fs", "{key}");
            endpoint.assert_dsse(key);
        }
        let mount = Mount::of(&endpoint);
        fs::remove_dir_all(mount.join("used")).unwrap();
        assert_eq!(names(&mount.path()), ["changed", "file", "new"]);
        assert_eq!(endpoint.keys(), ["changed/", "file", "new/"]);
    });
}
