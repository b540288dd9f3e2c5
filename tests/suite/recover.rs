//! `dssefs recover` where several mounts have left something, where KMS refuses, and where it is killed itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Output, Stdio};

use dssefs_emulator::faults::{Fault, Rule};
use dssefs_emulator::kms::{Action, NewKey};
use tempfile::TempDir;

use crate::common::kept::{ask, background, is_empty, kill, mount, recover, refuse_uploads, told};
use crate::common::{BUCKET, Endpoint, MINUTE, Mount, denied, errno, eventually, failure, noise, scenario};

/// A mount of any source, with further options.
fn background_of(endpoint: &Endpoint, source: &str, spill: &TempDir, more: &[&str]) -> Mount {
    let options = ["--kms-key-id", endpoint.key_arn(), "--spill-keys", "kms", "--commit", "background"];
    let place = ["--spill-dir", spill.path().to_str().unwrap()];
    Mount::source(endpoint, source, &[options.as_slice(), place.as_slice(), more].concat())
}

/// Exports into a new file: what it said, and the content.
fn export(endpoint: &Endpoint, spill: &TempDir, arguments: &[&str]) -> (Output, Vec<u8>) {
    let place = TempDir::new().unwrap();
    let to = place.path().join("exported");
    let output = recover(endpoint, spill, &[&["export"], arguments, &[to.to_str().unwrap()]].concat());
    (output, fs::read(to).unwrap_or_default())
}

#[test]
fn of_two_mounts_of_one_source_the_newer_state_is_exported() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let (first, second) = (background(&endpoint, &spill), background(&endpoint, &spill));
        refuse_uploads(&endpoint);
        for (mount, content) in [(first, "older"), (second, "newer")] {
            fs::write(mount.join("file"), content).unwrap();
            kill(mount);
        }
        for key in ["file", "s3://tests/file"] {
            let (output, content) = export(&endpoint, &spill, &[key]);
            assert!(output.status.success(), "{}", told(&output));
            assert_eq!(content, b"newer");
            assert!(told(&output).contains("left by a mount of s3://tests, in clear"), "{}", told(&output));
        }
        let (output, _) = export(&endpoint, &spill, &["s3://other/file"]);
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        let (output, _) = export(&endpoint, &spill, &["fil"]);
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains("nothing is kept for fil"), "{}", told(&output));
    });
}

#[test]
fn a_key_that_mounts_of_several_sources_left_is_not_chosen_among() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let below = format!("{BUCKET}/sub");
        endpoint.put("sub/", b"");
        let of = [(BUCKET, "sub/file", "of the bucket"), (&below, "file", "of the prefix")];
        let mounts = of.map(|(source, ..)| background_of(&endpoint, source, &spill, &[]));
        refuse_uploads(&endpoint);
        for (mount, (_, name, content)) in mounts.into_iter().zip(of) {
            fs::write(mount.join(name), content).unwrap();
            kill(mount);
        }
        let (output, _) = export(&endpoint, &spill, &["sub/file"]);
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains("s3://tests, s3://tests/sub; say with --source"), "{}", told(&output));
        for (source, _, expected) in of {
            let (output, content) = export(&endpoint, &spill, &["--source", source, "sub/file"]);
            assert!(output.status.success(), "{}", told(&output));
            assert_eq!(content, expected.as_bytes());
        }
    });
}

/// Nobody was told of it by `export`, `discard` and `doctor`.
#[test]
fn a_session_that_cannot_be_read_is_named_whatever_is_done_with_the_others() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let first = background(&endpoint, &spill);
        refuse_uploads(&endpoint);
        fs::write(first.join("file"), "content").unwrap();
        kill(first);
        endpoint.clear_faults();
        let strange = spill.path().join("session-strange");
        fs::create_dir(&strange).unwrap();
        fs::write(strange.join("session.json"), "{").unwrap();
        let is_named = |output: &Output| {
            assert_eq!(output.status.code(), Some(12), "{}", told(output));
            assert!(
                told(output).contains("session-strange/session.json does not describe a session"),
                "{}",
                told(output)
            );
        };
        is_named(&recover(&endpoint, &spill, &["list"]));
        let (output, content) = export(&endpoint, &spill, &["file"]);
        is_named(&output);
        assert_eq!(content, b"content");
        let mut doctor = ask(&endpoint, "doctor");
        doctor.args([BUCKET, "--kms-key-id", endpoint.key_arn(), "--spill-dir"]).arg(spill.path());
        is_named(&doctor.output().unwrap());
        let output = recover(&endpoint, &spill, &["discard"]);
        is_named(&output);
        assert!(told(&output).contains("not removed: ") && strange.exists(), "{}", told(&output));
        let names = fs::read_dir(spill.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let sessions = names.filter(|name| name.to_string_lossy().starts_with("session-")).count();
        assert_eq!(sessions, 1, "the other one is gone");
    });
}

#[test]
fn a_session_whose_key_kms_refuses_hides_no_other() {
    scenario().within(MINUTE * 3).with_spill(|endpoint, spill| {
        let lost = endpoint.kms().create_key(NewKey::default()).unwrap().arn;
        let locked = background_of(&endpoint, BUCKET, &spill, &["--spill-kms-key-id", &lost]);
        let open = background(&endpoint, &spill);
        refuse_uploads(&endpoint);
        for (mount, name) in [(locked, "locked"), (open, "open")] {
            fs::write(mount.join(name), name).unwrap();
            fs::write(mount.join("both"), name).unwrap();
            kill(mount);
        }
        endpoint.clear_faults();
        endpoint.kms().deny(&lost, Action::Decrypt).unwrap();
        let listed = recover(&endpoint, &spill, &["list"]);
        assert_eq!(listed.status.code(), Some(4), "{}", told(&listed));
        assert!(told(&listed).contains("open  4 bytes") && told(&listed).contains("not opened: KMS refused"));
        endpoint.kms().allow(&lost, Action::Decrypt).unwrap();
        endpoint.kms().disable(&lost).unwrap();
        let listed = recover(&endpoint, &spill, &["list", "--json"]);
        assert_eq!(listed.status.code(), Some(5), "{}", told(&listed));
        let document: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let errors: Vec<bool> = [0, 1].map(|n| document["sessions"][n]["error"].is_string()).to_vec();
        assert_eq!(errors.iter().filter(|is_error| **is_error).count(), 1, "{document}");
        let (output, content) = export(&endpoint, &spill, &["both"]);
        assert_eq!((output.status.code(), content.as_slice()), (Some(5), &b"open"[..]), "{}", told(&output));
        let sent = recover(&endpoint, &spill, &["upload"]);
        assert_eq!(sent.status.code(), Some(5), "{}", told(&sent));
        assert!(told(&sent).contains("stored: open"), "{}", told(&sent));
        assert_eq!(endpoint.content("open"), b"open");
        endpoint.inject_faults(vec![Rule::on("kms:Decrypt", throttled()).times(0)]);
        let listed = recover(&endpoint, &spill, &["--attempts", "2", "list"]);
        assert_eq!(listed.status.code(), Some(6), "{}", told(&listed));
    });
}

fn throttled() -> Fault {
    failure(400, "ThrottlingException")
}

/// What it had begun to upload was noted nowhere, and stayed in the bucket.
#[test]
fn an_upload_of_recover_that_was_killed_is_aborted_by_the_next_recover() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(21, 20 << 20);
        let first = mount(&endpoint, &spill, &[]);
        endpoint.inject_faults(vec![Rule::on("CreateMultipartUpload", denied()).times(0)]);
        // Its end first, so that nothing of it is sent while it is written.
        let file = File::create(first.join("large")).unwrap();
        let (front, back) = content.split_at(content.len() / 2);
        file.write_all_at(back, front.len() as u64).unwrap();
        file.write_all_at(front, 0).unwrap();
        assert_eq!(errno(file.sync_all()), libc::EACCES);
        kill(first);
        endpoint.clear_faults();
        endpoint.inject_faults(vec![Rule::on("UploadPart", Fault::Stall).times(0)]);
        let mut killed = ask(&endpoint, "recover");
        let mut killed = killed.arg(spill.path()).arg("upload").stdout(Stdio::null()).spawn().unwrap();
        eventually("a part is on its way", MINUTE * 2, || endpoint.uploads() == 1 && endpoint.struck() > 0);
        killed.kill().unwrap();
        killed.wait().unwrap();
        endpoint.clear_faults();
        assert_eq!((endpoint.uploads(), endpoint.head("large").is_some()), (1, false));
        let sent = recover(&endpoint, &spill, &["upload"]);
        assert!(sent.status.success(), "{}", told(&sent));
        assert!(endpoint.content("large") == content, "the content differs");
        assert_eq!(endpoint.uploads(), 0);
        assert!(is_empty(&spill) && fs::read_dir(spill.path()).unwrap().next().is_none(), "a list of uploads is left");
    });
}
