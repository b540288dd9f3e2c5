//! The program as scripts see it: exit codes, sentences, the background.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use dssefs_emulator::faults::{Fault, Rule};
use dssefs_emulator::kms::{Action, NewKey};

use crate::common::{
    BUCKET, Detached, Endpoint, MINUTE, Mount, commit, deadline, dssefs, eventually, mountinfo_has, scenario,
};

/// Tries to mount; gives the exit code and what was said.
fn try_mount(endpoint: &Endpoint, source: &str, options: &[&str]) -> (i32, String) {
    let (dir, spill) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = Mount::command(endpoint, source, dir.path());
    let output =
        command.arg("--foreground").arg("--spill-dir").arg(spill.path().join("s")).args(options).output().unwrap();
    assert!(!mountinfo_has(dir.path()), "something was mounted");
    told(&output)
}

fn told(output: &Output) -> (i32, String) {
    assert_eq!(output.stdout, b"", "standard output carries results only");
    (output.status.code().expect("an exit code"), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The start is refused with this code, and with a sentence that has these words.
fn refused(endpoint: &Endpoint, source: &str, options: &[&str], code: i32, words: &[&str]) {
    let (seen, said) = try_mount(endpoint, source, options);
    assert_eq!(seen, code, "{options:?}: {said}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} should be in: {said}");
}

#[test]
fn a_missing_bucket_is_code_3() {
    scenario().unmounted(|endpoint| {
        refused(&endpoint, "no-such-bucket", &["--kms-key-id", endpoint.key_arn()], 3, &["no-such-bucket"]);
    });
}

/// It was code 10, something that should not happen.
#[test]
fn a_spill_directory_that_cannot_be_used_is_code_2() {
    deadline(MINUTE, || {
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let [file, public, point] = ["file", "public", "point"].map(|name| dir.path().join(name));
        fs::write(&file, "").unwrap();
        fs::create_dir(&point).unwrap();
        fs::create_dir(&public).unwrap();
        fs::set_permissions(&public, PermissionsExt::from_mode(0o777)).unwrap();
        for (place, words) in
            [(file.join("below"), "is not a directory, and cannot hold unsaved data"), (public, "chmod 700")]
        {
            let mut command = Mount::command(&endpoint, BUCKET, &point);
            command.args(["--foreground", "--kms-key-id", endpoint.key_arn(), "--spill-dir"]).arg(place);
            let (code, said) = told(&command.output().unwrap());
            assert!(code == 2 && said.contains(words), "{code}: {said}");
        }
    });
}

#[test]
fn a_denied_write_is_code_4_and_leaves_no_upload() {
    scenario().unmounted(|endpoint| {
        let arn = endpoint.key_arn().to_owned();
        endpoint.kms().deny(&arn, Action::GenerateDataKey).unwrap();
        refused(&endpoint, BUCKET, &["--kms-key-id", &arn], 4, &["kms:GenerateDataKey"]);
        endpoint.kms().allow(&arn, Action::GenerateDataKey).unwrap();
        let denial = Fault::Failure { status: 403, code: "AccessDenied".into(), message: "Access Denied".into() };
        endpoint.inject_faults(vec![Rule::on("CreateMultipartUpload", denial).times(0)]);
        refused(&endpoint, BUCKET, &["--kms-key-id", &arn], 4, &[BUCKET]);
        endpoint.clear_faults();
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn an_unusable_key_is_code_5() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let unknown = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000";
        refused(&endpoint, BUCKET, &["--kms-key-id", unknown], 5, &[unknown]);
        refused(&endpoint, BUCKET, &["--kms-key-id", "alias/none"], 5, &["alias/none"]);
        let elsewhere = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000";
        refused(&endpoint, BUCKET, &["--kms-key-id", elsewhere], 5, &["eu-west-1"]);
        let rsa = NewKey { spec: "RSA_2048".into(), ..NewKey::default() };
        let rsa = endpoint.kms().create_key(rsa).unwrap();
        refused(&endpoint, BUCKET, &["--kms-key-id", &rsa.arn], 5, &[]);
        refused(&endpoint, BUCKET, &["--kms-key-id", &rsa.id], 5, &[]);
        endpoint.kms().disable(endpoint.key_arn()).unwrap();
        refused(&endpoint, BUCKET, &["--kms-key-id", endpoint.key_arn()], 5, &["disabled"]);
        endpoint.kms().schedule_deletion(endpoint.key_arn(), 7).unwrap();
        refused(&endpoint, BUCKET, &["--kms-key-id", endpoint.key_arn()], 5, &["deletion"]);
    });
}

#[test]
fn an_unreachable_store_and_wrong_credentials_are_code_6() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let (dir, spill) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = Mount::command(&endpoint, BUCKET, dir.path());
        command.args(["--foreground", "--spill-dir"]).arg(spill.path().join("s")).env("AWS_SECRET_ACCESS_KEY", "wrong");
        let (code, said) = told(&command.output().unwrap());
        assert_eq!(code, 6, "{said}");
        let mut command = Mount::command(&endpoint, BUCKET, dir.path());
        command.args(["--foreground", "--spill-dir"]).arg(spill.path().join("s"));
        command.env_remove("AWS_SECRET_ACCESS_KEY").env_remove("AWS_ACCESS_KEY_ID");
        let (code, said) = told(&command.output().unwrap());
        assert_eq!(code, 6, "{said}");
        assert!(said.contains("credentials"), "{said}");
        // A port that was free a moment ago, and on which nobody listens now.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{free}");
        let mut command = dssefs();
        command.args(["mount", BUCKET]).arg(dir.path()).args([
            "--foreground",
            "--region",
            "us-east-1",
            "--force-path-style",
        ]);
        command.args(["--endpoint-url", &url]).env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x");
        let (code, said) = told(&command.output().unwrap());
        assert_eq!(code, 6, "{said}");
    });
}

#[test]
fn a_store_without_dsse_is_code_8() {
    scenario().unmounted(|endpoint| {
        let arn = endpoint.key_arn().to_owned();
        let weaker = Fault::Sse { algorithm: Some("aws:kms".into()), key: Some(arn.clone()), bucket_key: None };
        endpoint.inject_faults(vec![Rule::on("CreateMultipartUpload", weaker).times(0)]);
        refused(&endpoint, BUCKET, &["--kms-key-id", &arn], 8, &["aws:kms"]);
        endpoint.clear_faults();
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn mistakes_are_code_2_and_all_told_at_once() {
    deadline(MINUTE, || {
        let output = dssefs().args(["mount", "Not_A_Bucket", "/no/such/dir", "--memory", "1MiB"]).output().unwrap();
        let (code, said) = told(&output);
        assert_eq!((code, said.lines().count()), (2, 3), "{said}");
        assert_eq!(dssefs().arg("--no-such-option").output().unwrap().status.code(), Some(2));
        assert_eq!(dssefs().output().unwrap().status.code(), Some(2));
        assert_eq!(dssefs().arg("--help").output().unwrap().status.code(), Some(0));
        assert_eq!(dssefs().arg("--version").output().unwrap().status.code(), Some(0));
        assert_eq!(told(&dssefs().args(["umount", "/proc"]).output().unwrap()).0, 2);
    });
}

#[test]
fn an_alias_is_resolved_to_the_arn_that_is_compared() {
    scenario().unmounted(|endpoint| {
        endpoint.kms().create_alias("alias/tests", endpoint.key_arn()).unwrap();
        let mount = Mount::source(&endpoint, BUCKET, &["--kms-key-id", "alias/tests"]);
        commit(&mount.join("file"), b"content").unwrap();
        endpoint.assert_dsse("file");
    });
}

#[test]
fn without_a_key_the_managed_one_is_used() {
    scenario().unmounted(|endpoint| {
        let mount = Mount::source(&endpoint, BUCKET, &[]);
        commit(&mount.join("file"), b"content").unwrap();
        let head = endpoint.head("file").unwrap();
        assert_eq!(head.server_side_encryption().map(|sse| sse.as_str()), Some("aws:kms:dsse"));
        assert_ne!(head.ssekms_key_id(), Some(endpoint.key_arn()));
    });
}

#[test]
fn the_probe_leaves_no_object_and_no_upload() {
    scenario().unmounted(|endpoint| {
        let (_mount, counters) = endpoint.counted(|| Mount::of(&endpoint));
        let count = |operation: &str| counters.requests(operation);
        assert_eq!((count("CreateMultipartUpload"), count("AbortMultipartUpload"), count("PutObject")), (1, 1, 1));
        assert_eq!(counters.kms_direct.values().sum::<u64>(), 0, "an ARN needs no kms:DescribeKey");
        assert_eq!((endpoint.uploads(), endpoint.keys()), (0, Vec::new()));
    });
}

#[test]
fn in_the_background_the_parent_returns_when_the_mount_answers_and_umount_when_it_is_gone() {
    scenario().unmounted(|endpoint| {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().join("mnt");
        fs::create_dir(&point).unwrap();
        let log = dir.path().join("log");
        let mut command = Mount::command(&endpoint, BUCKET, &point);
        command
            .args(["--kms-key-id", endpoint.key_arn(), "--spill-dir"])
            .arg(dir.path().join("s"))
            .arg("--log-file")
            .arg(&log);
        let output = command.output().unwrap();
        let _end = Detached(point.clone());
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(line.starts_with(&format!("s3://{BUCKET} is mounted at {}", point.display())), "{line}");
        assert!(line.contains(endpoint.key_arn()) && line.lines().count() == 1, "{line}");
        commit(&point.join("file"), b"content").unwrap();

        let busy = fs::File::open(point.join("file")).unwrap();
        let (code, said) = told(&dssefs().arg("umount").arg(&point).output().unwrap());
        assert_eq!(code, 9, "{said}");
        assert!(mountinfo_has(&point), "a busy mount stays");
        drop(busy);
        // RELEASE is sent after close(2) has returned.
        eventually("the unmount", Duration::from_secs(10), || {
            dssefs().arg("umount").arg(&point).status().unwrap().success()
        });
        assert!(!mountinfo_has(&point));
        assert_eq!(endpoint.content("file"), b"content");
    });
}

#[test]
fn in_the_background_a_refusal_has_the_same_code_and_sentence() {
    scenario().unmounted(|endpoint| {
        let (dir, spill) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = Mount::command(&endpoint, "no-such-bucket", dir.path());
        let (code, said) = told(&command.arg("--spill-dir").arg(spill.path().join("s")).output().unwrap());
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("no-such-bucket"), "{said}");
    });
}

#[test]
fn interrupt_and_unmount_end_the_daemon_with_success() {
    scenario().mounted(|endpoint, mut mount| {
        mount.signal(rustix::process::Signal::INT);
        assert!(mount.ended().expect("SIGINT ends it").success());
        assert!(!mountinfo_has(&mount.path()));
        let mut mount = Mount::of(&endpoint);
        let unmounted = Command::new("umount").arg(mount.path()).status();
        if unmounted.is_ok_and(|status| status.success()) {
            assert!(mount.ended().expect("umount ends it").success());
        }
    });
}

#[test]
fn the_demonstration_is_true_in_every_step() {
    deadline(MINUTE * 4, || {
        let output = dssefs().args(["demo", "--once"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("steps were true") && !said.contains("FAILED"), "{said}");
    });
}
