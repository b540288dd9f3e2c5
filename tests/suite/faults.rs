//! A store that misbehaves: what is not proved is not reported as success, and what was acknowledged is not lost.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, Instant};

use dssefs_emulator::faults::{Fault, Rule};
use dssefs_emulator::kms::Action;

use crate::common::{
    BUCKET, Endpoint, MINUTE, Mount, attribute, commit, cp, deadline, errno, eventually, failure, noise, scenario,
};

/// Larger than any single PutObject of the mount.
const LARGE: usize = 48 << 20;

fn sse(algorithm: &str, key: &str) -> Fault {
    Fault::Sse { algorithm: Some(algorithm.to_owned()), key: Some(key.to_owned()), bucket_key: None }
}

/// One operation answers with the wrong encryption: the writer gets an error, no object and no upload stays, and a file
/// that is open meanwhile goes on. Here cp(1) learns of it by close(2); the matrix has every wrong answer to an
/// fsync(2).
fn wrong_answer_fails_closed(operation: &'static str, size: usize) {
    scenario().within(MINUTE * 2).mounted(move |endpoint, mount| {
        let mut other = File::create(mount.join("other")).unwrap();
        other.write_all(b"before ").unwrap();
        endpoint.inject_faults(vec![
            Rule::on(operation, sse("aws:kms", endpoint.key_arn())).key_contains("victim").times(0),
        ]);
        let complaint = cp(&noise(1, size), &mount.join("victim"));
        assert!(complaint.is_err(), "cp was told that an aws:kms answer of {operation} is fine");
        endpoint.clear_faults();
        assert!(endpoint.head("victim").is_none(), "an object was left behind");
        assert_eq!(endpoint.uploads(), 0, "an upload was left behind");
        other.write_all(b"and after").unwrap();
        other.sync_all().unwrap();
        assert_eq!(endpoint.content("other"), b"before and after");
        endpoint.assert_dsse("other");
        commit(&mount.join("victim"), b"second try").unwrap();
        endpoint.assert_dsse("victim");
    });
}

#[test]
fn a_put_answered_with_kms_fails_closed() {
    wrong_answer_fails_closed("PutObject", 10_000);
}

#[test]
fn a_complete_answered_with_kms_fails_closed() {
    wrong_answer_fails_closed("CompleteMultipartUpload", LARGE);
}

/// The answer comes when the object is there already, and what it was made of is not any more.
#[test]
fn an_object_whose_content_nobody_else_has_is_never_deleted_for_a_wrong_answer() {
    scenario().within(MINUTE * 3).options(&["--memory", "32MiB", "--spill", "0"]).mounted(|endpoint, mount| {
        let inject_fault =
            |operation| endpoint.inject_faults(vec![Rule::on(operation, sse("aws:kms", endpoint.key_arn())).times(0)]);
        let kept = |name: &str, content: &[u8]| {
            assert!(endpoint.content(name) == content, "{name}");
            assert!(mount.log().contains("the object stays as it is"), "{}", mount.log());
            endpoint.clear_faults();
        };
        let mut content = noise(1, LARGE);

        endpoint.put("attributes", &content);
        inject_fault("CopyObject");
        let private = || fs::set_permissions(mount.join("attributes"), fs::Permissions::from_mode(0o600));
        assert_eq!(errno(private()), libc::EKEYREJECTED);
        kept("attributes", &content);
        private().unwrap();
        endpoint.assert_dsse("attributes");
        assert!(fs::read(mount.join("attributes")).unwrap() == content);

        let mut streamed = File::create(mount.join("streamed")).unwrap();
        streamed.write_all(&content).unwrap();
        inject_fault("CompleteMultipartUpload");
        assert_eq!(errno(streamed.sync_all()), libc::EKEYREJECTED);
        kept("streamed", &content);

        endpoint.put("changed", &content);
        let changed = OpenOptions::new().write(true).open(mount.join("changed")).unwrap();
        changed.write_all_at(b"changed", 20 << 20).unwrap();
        content[20 << 20..][..7].copy_from_slice(b"changed");
        inject_fault("CompleteMultipartUpload");
        assert_eq!(errno(changed.sync_all()), libc::EKEYREJECTED);
        kept("changed", &content);
    });
}

/// The first of these requests gets no answer. A request that moves much has time for it, a second for each MiB, so
/// these are not in the matrix of faults.
fn one_stalls(endpoint: &Endpoint, operation: &str) {
    endpoint.reset();
    endpoint.inject_fault(operation, Fault::Stall);
}

const SHORT_ATTEMPTS: [&str; 2] = ["--attempt-timeout", "700ms"];

#[test]
fn a_part_that_is_never_answered_is_sent_again() {
    a_large_file_is_stored_although_one_stalls("UploadPart", 3);
}

#[test]
fn a_completion_that_is_never_answered_is_asked_for_again() {
    a_large_file_is_stored_although_one_stalls("CompleteMultipartUpload", 2);
}

fn a_large_file_is_stored_although_one_stalls(operation: &'static str, requests: u64) {
    scenario().within(MINUTE * 2).options(&SHORT_ATTEMPTS).mounted(move |endpoint, mount| {
        // No larger than it must be to be sent in parts.
        let content = noise(1, 18 << 20);
        one_stalls(&endpoint, operation);
        commit(&mount.join("file"), &content).unwrap();
        assert_eq!(endpoint.counters().requests(operation), requests, "one of them again");
        assert!(endpoint.content("file") == content);
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn a_copy_of_a_part_that_is_never_answered_is_asked_for_again() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mut large = noise(2, LARGE);
        endpoint.put("large", &large);
        let mount = Mount::with(&endpoint, &SHORT_ATTEMPTS);
        one_stalls(&endpoint, "UploadPartCopy");
        let file = OpenOptions::new().write(true).open(mount.join("large")).unwrap();
        file.write_all_at(b"changed", 20 << 20).unwrap();
        file.sync_all().unwrap();
        assert_eq!(endpoint.counters().requests("UploadPartCopy"), 3, "two, and one of them again");
        large[20 << 20..][..7].copy_from_slice(b"changed");
        assert!(endpoint.content("large") == large);
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn another_request_for_the_same_key_is_waited_for() {
    scenario().mounted(|endpoint, mount| {
        for (operation, size) in [("PutObject", 1000), ("CompleteMultipartUpload", LARGE)] {
            endpoint.inject_faults(vec![Rule::on(operation, failure(409, "ConditionalRequestConflict")).times(2)]);
            commit(&mount.join(operation), &noise(1, size)).unwrap();
            assert_eq!(endpoint.content(operation), noise(1, size));
        }
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn a_replaced_object_answered_with_kms_is_not_served_as_compliant() {
    scenario().mounted(|endpoint, mount| {
        commit(&mount.join("file"), b"first").unwrap();
        endpoint.inject_faults(vec![Rule::on("PutObject", sse("aws:kms", endpoint.key_arn())).times(0)]);
        assert_ne!(errno(commit(&mount.join("file"), b"second")), 0);
        endpoint.clear_faults();
        if let Some(head) = endpoint.head("file") {
            assert_eq!(head.server_side_encryption().map(|sse| sse.as_str()), Some("aws:kms:dsse"));
        }
    });
}

#[test]
fn a_lost_answer_of_complete_is_recognised_or_told() {
    scenario().within(MINUTE * 2).mounted(|endpoint, mount| {
        endpoint.inject_fault("CompleteMultipartUpload", Fault::LoseAnswer);
        let copied = cp(&noise(1, LARGE), &mount.join("file"));
        assert!(copied.is_ok(), "the object is there, and proved to be: {copied:?}");
        assert!(endpoint.content("file") == noise(1, LARGE));
        endpoint.assert_dsse("file");
    });
}

#[test]
fn damaged_and_shortened_answers_are_never_content() {
    for (size, fault) in
        [(10_000, Fault::FlipByte(5_000)), (10_000, Fault::CutBodyAfter(5_000)), (LARGE, Fault::CutBodyAfter(100_000))]
    {
        scenario().within(MINUTE * 2).unmounted(move |endpoint| {
            endpoint.put("file", &noise(1, size));
            let mount = Mount::of(&endpoint);
            endpoint.inject_fault("GetObject", fault.clone());
            let read = fs::read(mount.join("file"));
            assert!(read.is_err() || read.is_ok_and(|content| content == noise(1, size)), "{size} bytes, {fault:?}");
            assert!(fs::read(mount.join("file")).unwrap() == noise(1, size), "afterwards; {size} bytes, {fault:?}");
        });
    }
}

#[test]
fn content_that_breaks_on_its_way_is_asked_for_again() {
    for (size, cut) in [(10_000, 100), (LARGE, 700_000)] {
        for fault in [Fault::CutBodyAfter(cut), Fault::FlipByte(cut)] {
            // Ranges have no checksum that could tell.
            if size == LARGE && matches!(fault, Fault::FlipByte(_)) {
                continue;
            }
            scenario().within(MINUTE * 2).unmounted(move |endpoint| {
                endpoint.put("file", &noise(1, size));
                let mount = Mount::of(&endpoint);
                endpoint.inject_faults(vec![Rule::on("GetObject", fault.clone()).times(3)]);
                assert!(fs::read(mount.join("file")).unwrap() == noise(1, size), "{size} bytes, {fault:?}");
                assert_eq!(endpoint.struck(), 3);
            });
        }
    }
}

#[test]
fn content_that_breaks_on_its_way_into_a_change_is_asked_for_again() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", &noise(1, 10_000));
        let mount = Mount::of(&endpoint);
        endpoint.inject_fault("GetObject", Fault::CutBodyAfter(100));
        let file = OpenOptions::new().write(true).open(mount.join("file")).unwrap();
        file.write_all_at(b"changed", 5_000).unwrap();
        file.sync_all().unwrap();
        let mut expected = noise(1, 10_000);
        expected[5_000..5_007].copy_from_slice(b"changed");
        assert!(endpoint.content("file") == expected);
        assert_eq!(endpoint.struck(), 1);
    });
}

#[test]
fn trouble_that_stays_is_an_error_and_the_mount_lives_on() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        endpoint.put("old", b"old content");
        let mount = Mount::of(&endpoint);
        endpoint.inject_faults(vec![Rule::on("PutObject", failure(500, "InternalError")).times(0)]);
        assert_eq!(errno(commit(&mount.join("new"), b"content")), libc::EIO);
        assert_eq!(fs::read(mount.join("old")).unwrap(), b"old content");
        endpoint.clear_faults();
        commit(&mount.join("new"), b"content").unwrap();
        endpoint.assert_dsse("new");
    });
}

#[test]
fn a_slow_file_does_not_hold_up_another() {
    scenario().unmounted(|endpoint| {
        endpoint.put("slow", b"slow");
        endpoint.put("fast", b"fast");
        let mount = Mount::of(&endpoint);
        fs::metadata(mount.join("slow")).unwrap();
        fs::metadata(mount.join("fast")).unwrap();
        endpoint.inject_faults(vec![Rule::on("GetObject", Fault::DelayMs(8_000)).key_contains("slow").times(0)]);
        let slow = (0..8).map(|_| mount.join("slow")).map(|path| std::thread::spawn(move || fs::read(path).unwrap()));
        let slow: Vec<_> = slow.collect();
        std::thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        assert_eq!(fs::read(mount.join("fast")).unwrap(), b"fast");
        commit(&mount.join("other"), b"other").unwrap();
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert!(slow.into_iter().all(|reader| reader.join().unwrap() == b"slow"));
    });
}

#[test]
fn what_is_open_when_the_daemon_is_ended_is_stored() {
    scenario().mounted(|endpoint, mount| {
        let mut file = File::create(mount.join("file")).unwrap();
        file.write_all(b"not yet committed").unwrap();
        let status = mount.end();
        assert!(status.success(), "{status}");
        assert_eq!(endpoint.content("file"), b"not yet committed");
        endpoint.assert_dsse("file");
        drop(file);
    });
}

/// How long `count` small files take.
fn files_take(mount: &Mount, names: &str, count: usize) -> Duration {
    let start = Instant::now();
    (0..count).for_each(|n| commit(&mount.join(&format!("{names}{n}")), b"content").unwrap());
    start.elapsed()
}

#[test]
fn a_kms_that_throttles_is_asked_less() {
    scenario().within(MINUTE * 2).options(&["--kms-requests-per-second", "40"]).mounted(|endpoint, mount| {
        let allowed = files_take(&mount, "before-", 24);
        assert!(allowed >= Duration::from_millis(450), "24 files at 40 requests a second took {allowed:?}");
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::ThrottleKms).times(3)]);
        commit(&mount.join("throttled"), b"content").unwrap();
        let slower = files_take(&mount, "after-", 30);
        assert!(slower >= Duration::from_millis(1_000), "30 files at half the rate took {slower:?}");
        assert!(mount.log().contains("KMS throttles"), "{}", mount.log());
    });
}

#[test]
fn throttling_by_s3_is_no_reason_to_spare_kms() {
    scenario().mounted(|endpoint, mount| {
        endpoint.inject_faults(vec![Rule::on("PutObject", failure(503, "SlowDown")).times(3)]);
        commit(&mount.join("throttled"), b"content").unwrap();
        assert!(!mount.log().contains("KMS throttles"), "{}", mount.log());
    });
}

/// Ends the daemon under an endpoint that takes requests and never answers: in how long, and with which exit code.
fn ended_without_a_store(endpoint: &Endpoint, options: &[&str]) -> (Duration, Option<i32>) {
    let mount = Mount::with(endpoint, &[&["--stop-timeout", "2s"], options].concat());
    let mut file = File::create(mount.join("file")).unwrap();
    file.write_all(b"not yet committed").unwrap();
    endpoint.inject_faults(vec![Rule::on("*", Fault::Stall).times(0)]);
    let start = Instant::now();
    let status = mount.end();
    (start.elapsed(), status.code())
}

#[test]
fn a_dead_store_does_not_keep_the_daemon_from_its_end() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let (took, code) = ended_without_a_store(&endpoint, &[]);
        assert_eq!(code, Some(11), "the changes are lost, and the exit code says so");
        assert!(took < Duration::from_secs(20), "{took:?}");
    });
}

/// Found with eight programs that were killed while they wrote: each new try of a request put its first bytes into a
/// socket, which passed for a sign of life, and who waited for memory did so for two minutes.
#[test]
fn programs_that_wait_for_memory_do_not_keep_the_daemon_from_its_end_either() {
    scenario().within(MINUTE * 3).options(&["--stop-timeout", "2s", "--memory", "32MiB", "--spill", "32MiB"]).mounted(
        |endpoint, mount| {
            let files: Vec<File> = (0..8).map(|n| File::create(mount.join(&format!("writer-{n}"))).unwrap()).collect();
            endpoint.inject_faults(vec![Rule::on("*", Fault::Stall).times(0)]);
            let write = |mut file: File| std::thread::spawn(move || file.write_all(&noise(1, 64 << 20)));
            let writers: Vec<_> = files.into_iter().map(write).collect();
            std::thread::sleep(Duration::from_secs(3));
            let start = Instant::now();
            assert_eq!(mount.end().code(), Some(11));
            assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
            writers.into_iter().for_each(|writer| assert!(writer.join().unwrap().is_err()));
        },
    );
}

#[test]
fn what_a_dead_store_did_not_take_is_sent_by_the_next_mount() {
    deadline(MINUTE * 2, || {
        let (endpoint, spill) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let kept = ["--spill-keys", "kms", "--spill-dir", spill.path().to_str().unwrap()];
        let (took, code) = ended_without_a_store(&endpoint, &kept);
        assert_eq!(code, Some(11));
        assert!(took < Duration::from_secs(20), "{took:?}");
        endpoint.clear_faults();
        let _next = Mount::with(&endpoint, &kept);
        assert_eq!(endpoint.content("file"), b"not yet committed");
        endpoint.assert_dsse("file");
    });
}

#[test]
fn a_slow_store_is_waited_for_at_the_end() {
    scenario().within(MINUTE * 2).options(&["--stop-timeout", "2s"]).mounted(|endpoint, mount| {
        let files: Vec<File> = (0..200)
            .map(|n| {
                let mut file = File::create(mount.join(&format!("file-{n}"))).unwrap();
                file.write_all(b"content").unwrap();
                file
            })
            .collect();
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::DelayMs(1_000)).times(0)]);
        let status = mount.end();
        assert!(status.success(), "{status}");
        assert_eq!(endpoint.keys().len(), 200, "longer than the limit in all, and never silent for so long");
        drop(files);
    });
}

#[test]
fn a_key_that_goes_away_during_an_upload_stops_it_until_it_is_back() {
    type Step = fn(&Endpoint);
    let steps: [(Step, Step, i32); 2] = [
        (
            |endpoint| endpoint.kms().disable(endpoint.key_arn()).unwrap(),
            |endpoint| endpoint.kms().enable(endpoint.key_arn()).unwrap(),
            libc::EKEYREVOKED,
        ),
        (
            |endpoint| {
                endpoint.kms().schedule_deletion(endpoint.key_arn(), 7).unwrap();
            },
            |endpoint| {
                endpoint.kms().cancel_deletion(endpoint.key_arn()).unwrap();
                endpoint.kms().enable(endpoint.key_arn()).unwrap();
            },
            libc::EKEYREVOKED,
        ),
    ];
    for (goes, returns, number) in steps {
        scenario().within(MINUTE * 2).mounted(move |endpoint, mount| {
            let content = noise(1, LARGE);
            let mut file = File::create(mount.join("file")).unwrap();
            file.write_all(&content[..LARGE / 2]).unwrap();
            eventually("a part is sent ahead", MINUTE, || endpoint.counters().requests("UploadPart") > 1);
            goes(&endpoint);
            // A write may be told already of what became of the parts before it. The fsync ends those under way.
            let written = file.write_all(&content[LARGE / 2..]);
            let synced = file.sync_all();
            assert_eq!(errno(written.and(synced)), number);
            assert!(endpoint.head("file").is_none());
            returns(&endpoint);
            file.write_all_at(&content[LARGE / 2..], LARGE as u64 / 2).unwrap();
            file.sync_all().unwrap();
            assert!(endpoint.content("file") == content);
            endpoint.assert_dsse("file");
            assert_eq!(endpoint.uploads(), 0);
        });
    }
}

#[test]
fn trouble_of_kms_with_the_keys_of_the_spill_is_told_by_the_mount() {
    for (fault, code, says) in [
        (failure(400, "ThrottlingException"), 6, "throttles"),
        (failure(500, "KMSInternalException"), 6, "could not be asked"),
        (failure(400, "DisabledException"), 5, "is disabled"),
        (failure(400, "AccessDeniedException"), 4, "kms:GenerateDataKey"),
        (failure(400, "NotFoundException"), 5, "does not know the key"),
        (failure(400, "KMSInvalidStateException"), 5, "not Enabled"),
    ] {
        deadline(MINUTE, move || {
            let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
            let spill = tempfile::tempdir().unwrap();
            endpoint.inject_faults(vec![Rule::on("kms:GenerateDataKey", fault).times(0)]);
            let mut command = Mount::command(&endpoint, BUCKET, dir.path());
            command.args([
                "--foreground",
                "--attempts",
                "2",
                "--spill-keys",
                "kms",
                "--kms-key-id",
                endpoint.key_arn(),
            ]);
            let output = command.arg("--spill-dir").arg(spill.path().join("spill")).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(said.contains(says) && said.contains(endpoint.key_arn()), "{said}");
        });
    }
}

#[test]
fn passing_throttling_of_the_keys_of_the_spill_is_not_noticed() {
    scenario().unmounted(|endpoint| {
        endpoint.inject_faults(vec![Rule::on("kms:GenerateDataKey", failure(400, "ThrottlingException")).times(2)]);
        let mount = Mount::with(&endpoint, &["--spill-keys", "kms"]);
        commit(&mount.join("file"), b"content").unwrap();
        endpoint.assert_dsse("file");
    });
}

#[test]
fn a_key_whose_use_is_denied_in_the_middle_of_an_upload_keeps_the_bytes_until_it_is_allowed_again() {
    scenario().within(MINUTE * 3).mounted(|endpoint, mount| {
        let content = noise(11, LARGE);
        let mut file = File::create(mount.join("large")).unwrap();
        file.write_all(&content[..LARGE / 2]).unwrap();
        eventually("parts are stored", MINUTE, || endpoint.uploads_with_parts() == 1);
        let uses = [Action::GenerateDataKey, Action::Decrypt];
        uses.iter().for_each(|action| endpoint.kms().deny(endpoint.key_arn(), *action).unwrap());
        // The writer may hear of it before it has written all.
        let written = file.write_all(&content[LARGE / 2..]).and_then(|()| file.sync_all());
        assert_eq!(errno(written), libc::EACCES);
        assert!(endpoint.head("large").is_none());
        assert_eq!(attribute(&mount.join("large"), "user.dsse.verdict").unwrap(), "pending");
        let why = attribute(&mount.join("large"), "user.dsse.last-error").unwrap();
        assert!(why.contains("kms:"), "{why}");
        uses.iter().for_each(|action| endpoint.kms().allow(endpoint.key_arn(), *action).unwrap());
        let taken = fs::metadata(mount.join("large")).unwrap().len() as usize;
        file.write_all_at(&content[taken..], taken as u64).unwrap();
        eventually("it is stored", MINUTE, || file.sync_all().is_ok());
        assert!(endpoint.content("large") == content);
        endpoint.assert_dsse("large");
        assert_eq!(endpoint.uploads(), 0);
    });
}
