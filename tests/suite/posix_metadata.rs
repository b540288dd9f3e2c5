//! Modes, owners and times in the metadata of objects, in the forms of s3fs and of AWS's services.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::ServerSideEncryption;

use crate::common::{BUCKET, Endpoint, Mount, commit, scenario};

const S3FS: [&str; 4] = ["mode", "uid", "gid", "mtime"];
const AWS: [&str; 5] = ["file-permissions", "file-owner", "file-group", "file-mtime", "file-atime"];

/// What FSx for Lustre exports of a file ("POSIX metadata support for data repositories", FSx for Lustre User Guide).
const OF_FSX: [(&str, &str); 6] = [
    ("user-agent", "aws-fsx-lustre"),
    ("file-permissions", "0100664"),
    ("file-owner", "500"),
    ("file-group", "501"),
    ("file-mtime", "1595002920000000000ns"),
    ("file-atime", "1595002921000000000ns"),
];
const OF_S3FS: [(&str, &str); 4] = [("mode", "33188"), ("uid", "500"), ("gid", "501"), ("mtime", "1595002920")];

fn put_with(endpoint: &Endpoint, key: &str, metadata: &[(&str, &str)]) {
    let key_arn = endpoint.key_arn().to_owned();
    endpoint.with(|s3| async move {
        let mut put = s3.put_object().bucket(BUCKET).key(key).body(b"content".to_vec().into()).ssekms_key_id(key_arn);
        for (name, value) in metadata {
            put = put.metadata(*name, *value);
        }
        put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).send().await.unwrap();
    });
}

fn metadata(endpoint: &Endpoint, key: &str) -> BTreeMap<String, String> {
    endpoint.head(key).unwrap().metadata().unwrap().clone().into_iter().collect()
}

fn has(user: &BTreeMap<String, String>, keys: &[&str]) -> Vec<bool> {
    keys.iter().map(|key| user.contains_key(*key)).collect()
}

/// Mode, owner, group, and time of the last change in nanoseconds.
fn shown(path: &Path) -> (u32, u32, u32, i128) {
    let stat = fs::symlink_metadata(path).unwrap();
    let mtime = i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec());
    (stat.mode(), stat.uid(), stat.gid(), mtime)
}

#[test]
fn each_form_is_written_as_asked_and_read_by_every_mount() {
    scenario().unmounted(|endpoint| {
        for (form, s3fs, aws) in [("s3fs", true, false), ("aws", false, true), ("both", true, true)] {
            let mount = Mount::with(&endpoint, &["--posix-metadata", form]);
            fs::create_dir(mount.join(form)).unwrap();
            let paths = ["file", "link", "sub"].map(|name| format!("{form}/{name}"));
            commit(&mount.join(&paths[0]), b"content").unwrap();
            symlink("file", mount.join(&paths[1])).unwrap();
            fs::create_dir(mount.join(&paths[2])).unwrap();
            fs::set_permissions(mount.join(&paths[0]), Permissions::from_mode(0o640)).unwrap();
            fs::set_permissions(mount.join(&paths[2]), Permissions::from_mode(0o710)).unwrap();
            chown(mount.join(&paths[0]), Some(500), Some(501)).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::new(1_595_002_920, 7);
            File::open(mount.join(&paths[0])).unwrap().set_modified(time).unwrap();
            let before = paths.clone().map(|path| shown(&mount.join(&path)));
            assert!(mount.end().success());
            for key in [&paths[0], &paths[1], &format!("{}/", paths[2])] {
                let user = metadata(&endpoint, key);
                assert_eq!(has(&user, &S3FS), [s3fs; 4], "{form} {key}: {user:?}");
                assert_eq!(has(&user, &AWS), [aws; 5], "{form} {key}: {user:?}");
                endpoint.assert_dsse(key);
            }
            if aws {
                let user = metadata(&endpoint, &paths[0]);
                assert_eq!((user["file-permissions"].as_str(), user["file-owner"].as_str()), ("0100640", "500"));
                assert_eq!(user["file-mtime"], "1595002920000000007ns");
                assert_eq!(metadata(&endpoint, &paths[1])["file-permissions"], "0120777");
                assert_eq!(metadata(&endpoint, &format!("{}/", paths[2]))["file-permissions"], "0040710");
            }
            for other in ["s3fs", "aws"] {
                let mount = Mount::with(&endpoint, &["--posix-metadata", other]);
                assert_eq!(paths.clone().map(|path| shown(&mount.join(&path))), before, "{form} read by {other}");
            }
        }
    });
}

/// chmod of an object of the other form left two forms in its metadata that disagreed.
#[test]
fn a_change_of_an_object_of_the_other_form_leaves_no_two_that_disagree() {
    scenario().unmounted(|endpoint| {
        for form in ["s3fs", "aws", "both"] {
            for (key, kept) in [("of-fsx", &OF_FSX[..]), ("of-s3fs", &OF_S3FS[..])] {
                put_with(&endpoint, key, kept);
                let mount = Mount::with(&endpoint, &["--posix-metadata", form]);
                assert_eq!(fs::metadata(mount.join(key)).unwrap().uid(), 500);
                fs::set_permissions(mount.join(key), Permissions::from_mode(0o600)).unwrap();
                chown(mount.join(key), Some(700), None).unwrap();
                let time = SystemTime::UNIX_EPOCH + Duration::new(8, 0);
                File::open(mount.join(key)).unwrap().set_modified(time).unwrap();
                let user = metadata(&endpoint, key);
                let is_new = |name: &str, value: &str| user.get(name).is_none_or(|now| now == value);
                assert!(is_new("mode", "33152") && is_new("file-permissions", "0100600"), "{form} {key}: {user:?}");
                assert!(is_new("uid", "700") && is_new("file-owner", "700"), "{form} {key}: {user:?}");
                assert!(is_new("mtime", "8") && is_new("file-mtime", "8000000000ns"), "{form} {key}: {user:?}");
                let kept = kept.iter().all(|(name, _)| user.contains_key(*name));
                assert!(kept, "what the other program looks for is there: {form} {key}: {user:?}");
                assert_eq!(shown(&Mount::of(&endpoint).join(key)), (0o100_600, 700, 501, 8_000_000_000));
            }
        }
    });
}

#[test]
fn the_times_of_directories_keep_to_the_form() {
    scenario().unmounted(|endpoint| {
        let mount = Mount::with(&endpoint, &["--posix-metadata", "aws"]);
        fs::create_dir(mount.join("d")).unwrap();
        let made = metadata(&endpoint, "d/")["file-mtime"].clone();
        commit(&mount.join("d/file"), b"content").unwrap();
        let before = shown(&mount.join("d"));
        assert!(mount.end().success());
        let user = metadata(&endpoint, "d/");
        assert_ne!(user["file-mtime"], made);
        assert_eq!(has(&user, &S3FS), [false; 4], "{user:?}");
        assert_eq!(shown(&Mount::of(&endpoint).join("d")), before);
    });
}
