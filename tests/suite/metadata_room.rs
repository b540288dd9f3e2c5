//! Objects whose metadata is nearly full, by its bytes or by its entries, and classes that cannot be read.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};

use crate::common::{BUCKET, Endpoint, Mount, commit, errno, scenario};

fn put(endpoint: &Endpoint, key: &str, metadata: Vec<(String, String)>, class: Option<StorageClass>) {
    let key_arn = endpoint.key_arn().to_owned();
    endpoint.with(|s3| async move {
        let put = s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(b"content"));
        let put = put.set_metadata(Some(metadata.into_iter().collect())).set_storage_class(class);
        let put = put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).ssekms_key_id(key_arn);
        put.send().await.unwrap();
    });
}

fn metadata(endpoint: &Endpoint, key: &str) -> std::collections::HashMap<String, String> {
    endpoint.head(key).unwrap().metadata().cloned().unwrap_or_default()
}

/// The mount's own entries did not fit beside 2 KB of another program's, and every change was EIO.
#[test]
fn nearly_full_metadata_of_others_hinders_no_change() {
    scenario().unmounted(|endpoint| {
        for bytes in [1_900, 1_980, 2_003, 2_030, 2_039, 2_048] {
            let (key, value) = (format!("file-{bytes}"), "v".repeat(bytes - 1));
            put(&endpoint, &key, vec![("n".to_owned(), value.clone())], None);
            let mount = Mount::of(&endpoint);
            let path = mount.join(&key);
            let kept = |key: &str, after: &str| {
                assert_eq!(metadata(&endpoint, key)["n"], value, "{bytes} after {after}");
                endpoint.assert_dsse(key);
            };
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            kept(&key, "chmod");
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            let told = mount.log().contains("could not be kept");
            assert_eq!((mode, told), if bytes <= 2_039 { (0o640, told) } else { (0o644, true) }, "{bytes}");
            let time = UNIX_EPOCH + Duration::from_secs(981_173_106);
            File::open(&path).unwrap().set_modified(time).unwrap();
            kept(&key, "touch");
            if bytes <= 2_003 {
                assert_eq!(fs::metadata(&path).unwrap().mtime(), 981_173_106, "{bytes}");
            }
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b", more").unwrap();
            kept(&key, "append");
            let copy = mount.join("copy");
            assert!(Command::new("cp").arg("-p").args([&path, &copy]).status().unwrap().success());
            kept("copy", "cp -p");
            fs::rename(&path, mount.join("moved")).unwrap();
            kept("moved", "mv");
            assert_eq!(fs::read(mount.join("moved")).unwrap(), b"content, more");
            assert!(mount.end().success());
        }
    });
}

/// 85 attributes of one byte each were taken, and from the next mount on the file was EIO for every call.
#[test]
fn no_more_attributes_are_taken_than_can_be_read_again() {
    scenario().unmounted(|endpoint| {
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        let set = |number: usize| xattr::set(&path, format!("user.{number}"), b"v");
        let taken = (0..).take_while(|number| set(*number).is_ok()).count();
        assert_eq!(errno(set(taken)), libc::ENOSPC);
        assert!(taken >= 50, "{taken}");
        set(0).unwrap();
        assert!(mount.end().success());
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(xattr::get(&path, format!("user.{}", taken - 1)).unwrap().as_deref(), Some(&b"v"[..]));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::rename(&path, mount.join("moved")).unwrap();
        fs::remove_file(mount.join("moved")).unwrap();
        assert_eq!(endpoint.keys(), [""; 0]);
    });
}

/// The new object was in the archive too, so that nothing could read what a program had just written.
#[test]
fn an_overwritten_archived_object_can_be_read() {
    scenario().unmounted(|endpoint| {
        for class in [StorageClass::Glacier, StorageClass::DeepArchive, StorageClass::GlacierIr] {
            put(&endpoint, "file", vec![("made-by".to_owned(), "other".to_owned())], Some(class.clone()));
            let mount = Mount::of(&endpoint);
            fs::write(mount.join("file"), b"all new").unwrap();
            assert!(mount.end().success());
            let head = endpoint.head("file").unwrap();
            let kept = (class == StorageClass::GlacierIr).then_some(&StorageClass::GlacierIr);
            assert_eq!((head.storage_class(), endpoint.content("file")), (kept, b"all new".to_vec()), "{class:?}");
            assert_eq!(metadata(&endpoint, "file")["made-by"], "other");
        }
    });
}

#[test]
fn an_owner_of_minus_one_shows_the_owner_of_the_mount() {
    scenario().unmounted(|endpoint| {
        let none = || u32::MAX.to_string();
        put(&endpoint, "file", vec![("uid".to_owned(), none()), ("gid".to_owned(), none())], None);
        let mount = Mount::with(&endpoint, &["--uid", "1234", "--gid", "4321"]);
        let facts = fs::metadata(mount.join("file")).unwrap();
        assert_eq!((facts.uid(), facts.gid()), (1234, 4321));
    });
}
