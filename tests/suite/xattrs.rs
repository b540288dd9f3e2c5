//! What a file tells of its own encryption.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;

use aws_sdk_s3::types::ServerSideEncryption;
use dssefs::emulator::kms::NewKey;

use crate::common::{BUCKET, Endpoint, MINUTE, Mount, attribute, commit, deadline, errno};

const ON_EVERY_FILE: [&str; 14] = [
    "user.dsse.verdict",
    "user.dsse.algorithm",
    "user.dsse.key-arn",
    "user.dsse.bucket-key",
    "user.dsse.context",
    "user.dsse.evidence",
    "user.dsse.verified-at",
    "user.dsse.request-id",
    "user.dsse.object",
    "user.dsse.etag",
    "user.dsse.storage-class",
    "user.dsse.local",
    "user.dsse.local.layers",
    "user.dsse.last-error",
];

#[test]
fn a_file_written_here_is_compliant_and_says_how_that_is_known() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        let value = |name: &str| attribute(&path, name).unwrap();
        assert_eq!(value("user.dsse.verdict"), "compliant");
        assert_eq!(value("user.dsse.algorithm"), "aws:kms:dsse");
        assert_eq!(value("user.dsse.key-arn"), endpoint.key_arn());
        assert_eq!(value("user.dsse.bucket-key"), "false");
        assert_eq!(value("user.dsse.evidence"), "put");
        assert_eq!(value("user.dsse.local"), "none");
        assert!(value("user.dsse.object").starts_with(&format!("s3://{BUCKET}/file")));
        assert!(!value("user.dsse.request-id").is_empty());
        let at = value("user.dsse.verified-at");
        assert!(at.len() >= 20 && at.contains('T') && at.ends_with('Z'), "RFC 3339 in UTC: {at}");
        let etag = endpoint.head("file").unwrap().e_tag().unwrap().to_owned();
        assert_eq!(value("user.dsse.etag").trim_matches('"'), etag.trim_matches('"'));
        assert_eq!(value("s3.etag").trim_matches('"'), etag.trim_matches('"'));
        assert_eq!(
            (value("user.dsse.storage-class"), value("s3.storage-class")),
            ("STANDARD".into(), "STANDARD".into())
        );
    });
}

#[test]
fn all_names_are_listed_on_files_and_directories() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        commit(&mount.join("file"), b"content").unwrap();
        std::fs::create_dir(mount.join("d")).unwrap();
        for path in [mount.join("file"), mount.join("d"), mount.path()] {
            let listed: BTreeSet<String> =
                xattr::list(&path).unwrap().map(|name| name.into_string().unwrap()).collect();
            let missing: Vec<_> = ON_EVERY_FILE.iter().filter(|name| !listed.contains(**name)).collect();
            assert!(missing.is_empty(), "{missing:?} are not listed on {}", path.display());
        }
        let root: Vec<String> = xattr::list(mount.path()).unwrap().map(|name| name.into_string().unwrap()).collect();
        assert!(root.iter().any(|name| name.starts_with("user.dsse.bucket.")), "{root:?}");
        assert!(root.iter().any(|name| name.starts_with("user.dsse.mount.")), "{root:?}");
    });
}

#[test]
fn objects_of_others_are_judged() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let other_key = endpoint.kms().create_key(NewKey::default()).unwrap().arn;
        endpoint.put("good", b"1");
        endpoint.put_as("plain", b"2", None, None);
        endpoint.put_as("kms", b"3", Some(ServerSideEncryption::AwsKms), Some(endpoint.key_arn()));
        endpoint.put_as("other", b"4", Some(ServerSideEncryption::AwsKmsDsse), Some(&other_key));
        let mount = Mount::of(&endpoint);
        let seen = ["good", "plain", "kms", "other"].map(|name| {
            let value = |attribute_name| attribute(&mount.join(name), attribute_name).unwrap();
            (value("user.dsse.verdict"), value("user.dsse.algorithm"))
        });
        let expected = [
            ("compliant", "aws:kms:dsse"),
            ("not-dsse", "AES256"),
            ("not-dsse", "aws:kms"),
            ("wrong-key", "aws:kms:dsse"),
        ];
        assert_eq!(seen, expected.map(|(verdict, algorithm)| (verdict.to_owned(), algorithm.to_owned())));
        assert_eq!(attribute(&mount.join("good"), "user.dsse.evidence").unwrap(), "head");
        assert_eq!(attribute(&mount.join("other"), "user.dsse.key-arn").unwrap(), other_key);
    });
}

#[test]
fn a_file_with_changes_is_pending_until_they_are_stored() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("file", b"old content");
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "compliant");
        let mut file = File::options().write(true).open(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "pending");
        assert_eq!(attribute(&path, "user.dsse.local").unwrap(), "memory");
        file.sync_all().unwrap();
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "compliant");
        assert_eq!(attribute(&path, "user.dsse.local").unwrap(), "none");
    });
}

#[test]
fn claims_cannot_be_written_and_foreign_names_are_unknown() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        assert_eq!(errno(xattr::set(&path, "user.dsse.verdict", b"compliant")), libc::EPERM);
        assert_eq!(errno(xattr::remove(&path, "user.dsse.verdict")), libc::EPERM);
        assert_eq!(errno(xattr::set(&path, "s3.etag", b"x")), libc::EPERM);
        assert_ne!(errno(xattr::set(&path, "user.mine", b"x")), 0, "a later version's");
        for name in ["user.mine", "security.capability", "system.posix_acl_access", "trusted.x", "user.dsse.unheard-of"]
        {
            assert_eq!(xattr::get(&path, name).unwrap(), None, "{name} should be ENODATA");
        }
    });
}

#[test]
fn names_can_be_kept_out_of_listings() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--xattr-list", "none"]);
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        assert_eq!(xattr::list(&path).unwrap().count(), 0);
        assert_eq!(attribute(&path, "user.dsse.verdict").unwrap(), "compliant");
    });
}

#[test]
fn the_encryption_context_is_sent_and_told() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--encryption-context", "project=dssefs"]);
        let path = mount.join("file");
        commit(&path, b"content").unwrap();
        let context = attribute(&path, "user.dsse.context").unwrap();
        assert!(context.contains("project") && context.contains("dssefs"), "{context}");
        let trail = format!("{:?}", endpoint.kms().trail());
        assert!(trail.contains("project") && trail.contains(&format!("arn:aws:s3:::{BUCKET}/file")), "{trail}");
    });
}

#[test]
fn a_mount_can_refuse_to_read_what_is_not_dsse() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("good", b"content");
        endpoint.put_as("plain", b"content", None, None);
        let mount = Mount::with(&endpoint, &["--on-noncompliant-read", "refuse"]);
        assert_eq!(std::fs::read(mount.join("good")).unwrap(), b"content");
        assert_eq!(errno(std::fs::read(mount.join("plain"))), libc::EKEYREJECTED);
        let serving = Mount::of(&endpoint);
        assert_eq!(std::fs::read(serving.join("plain")).unwrap(), b"content");
    });
}
