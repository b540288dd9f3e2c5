//! Key trouble and denial, as programs see them.

use std::fs::{self, File};
use std::io::Write;

use dssefs_emulator::kms::Action;

use crate::common::{Endpoint, MINUTE, Mount, attribute, commit, cp, deadline, errno, noise};

/// An endpoint with an object, and a mount that has seen nothing of it yet.
fn scene(options: &[&str]) -> (Endpoint, Mount) {
    let endpoint = Endpoint::start();
    endpoint.put("old", &noise(1, 10_000));
    let mount = Mount::with(&endpoint, options);
    (endpoint, mount)
}

/// The error numbers of a read and of a write.
fn trouble(mount: &Mount) -> (i32, i32) {
    (errno(fs::read(mount.join("old"))), errno(commit(&mount.join("new"), b"content")))
}

#[test]
fn a_disabled_key_is_ekeyrevoked_until_it_is_enabled() {
    deadline(MINUTE, || {
        let (endpoint, mount) = scene(&[]);
        endpoint.kms().disable(endpoint.key_arn()).unwrap();
        assert_eq!(trouble(&mount), (libc::EKEYREVOKED, libc::EKEYREVOKED));
        assert_eq!(fs::metadata(mount.join("old")).unwrap().len(), 10_000, "stat needs no key");
        endpoint.kms().enable(endpoint.key_arn()).unwrap();
        assert_eq!(fs::read(mount.join("old")).unwrap(), noise(1, 10_000));
        commit(&mount.join("new"), b"content").unwrap();
        endpoint.assert_dsse("new");
    });
}

#[test]
fn close_tells_what_cp_shows() {
    deadline(MINUTE, || {
        let (endpoint, mount) = scene(&[]);
        endpoint.kms().disable(endpoint.key_arn()).unwrap();
        let complaint = cp(b"content", &mount.join("new")).expect_err("cp should complain");
        assert!(complaint.contains("Key has been revoked"), "{complaint}");
        assert!(endpoint.head("new").is_none());
    });
}

#[test]
fn a_key_that_waits_for_its_deletion_is_ekeyrevoked() {
    deadline(MINUTE, || {
        let (endpoint, mount) = scene(&[]);
        endpoint.kms().schedule_deletion(endpoint.key_arn(), 7).unwrap();
        assert_eq!(trouble(&mount), (libc::EKEYREVOKED, libc::EKEYREVOKED));
    });
}

#[test]
fn denial_of_kms_is_eacces_for_what_was_denied() {
    deadline(MINUTE, || {
        let (endpoint, mount) = scene(&[]);
        endpoint.kms().deny(endpoint.key_arn(), Action::GenerateDataKey).unwrap();
        assert_eq!(trouble(&mount), (0, libc::EACCES));
        endpoint.kms().allow(endpoint.key_arn(), Action::GenerateDataKey).unwrap();
        endpoint.put("old", &noise(2, 10_000));
        endpoint.kms().deny(endpoint.key_arn(), Action::Decrypt).unwrap();
        std::thread::sleep(crate::common::STALE);
        assert_eq!(errno(fs::read(mount.join("old"))), libc::EACCES);
    });
}

#[test]
fn old_programs_can_have_the_error_numbers_they_know() {
    deadline(MINUTE, || {
        let (endpoint, mount) = scene(&["--errno", "posix"]);
        endpoint.kms().disable(endpoint.key_arn()).unwrap();
        assert_eq!(trouble(&mount), (libc::EACCES, libc::EACCES));
    });
}

#[test]
fn the_log_and_the_file_name_the_cause() {
    deadline(MINUTE, || {
        let (endpoint, mount) = scene(&[]);
        endpoint.kms().disable(endpoint.key_arn()).unwrap();
        let mut file = File::create(mount.join("new")).unwrap();
        file.write_all(b"content").unwrap();
        assert_eq!(errno(file.sync_all()), libc::EKEYREVOKED);
        let told = attribute(&mount.join("new"), "user.dsse.last-error").unwrap();
        assert!(told.contains("KMS.DisabledException") && told.contains("Enable the KMS key again"), "{told}");
        let log = mount.log();
        let line = log.lines().find(|line| line.contains("KMS.DisabledException")).unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("new"), "the line names the object: {line}");
        assert!(!log.contains("content"), "and not its content");
    });
}

#[test]
fn what_could_not_be_written_is_written_by_the_next_fsync() {
    deadline(MINUTE, || {
        let (endpoint, mount) = scene(&[]);
        endpoint.kms().disable(endpoint.key_arn()).unwrap();
        let mut file = File::create(mount.join("new")).unwrap();
        file.write_all(b"content").unwrap();
        assert_eq!(errno(file.sync_all()), libc::EKEYREVOKED);
        endpoint.kms().enable(endpoint.key_arn()).unwrap();
        file.sync_all().unwrap();
        assert_eq!(endpoint.content("new"), b"content");
    });
}
