//! What operations cost, in requests and KMS calls. The mounts believe what they know for an hour, so that the clock of
//! a busy machine does not count.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use dssefs_emulator::Counters;
use dssefs_emulator::faults::{Fault, Rule};

use crate::common::{Endpoint, MINUTE, Mount, eventually, names, noise, scenario, sent_bytes};

const PATIENT: [&str; 2] = ["--metadata-ttl", "1h"];

/// The requests by operation, for messages and comparisons.
fn requests(counters: &Counters) -> Vec<(String, u64)> {
    counters
        .s3
        .iter()
        .map(|(name, count)| (name.clone(), count.requests))
        .filter(|(_, requests)| *requests > 0)
        .collect()
}

fn only(counters: &Counters, operation: &str, count: u64) {
    assert_eq!(requests(counters), [(operation.to_owned(), count)]);
}

fn nothing(counters: &Counters) {
    assert_eq!((requests(counters), counters.all_kms_for_s3()), (Vec::new(), 0));
}

/// Puts `count` small objects below `prefix`, many at a time, with the checksum that proves files in listings.
fn fill(endpoint: &Endpoint, prefix: &str, count: usize) {
    let key_arn = endpoint.key_arn().to_owned();
    endpoint.with(|s3| async move {
        let puts = (0..count).map(|number| {
            let put = s3.put_object().bucket(crate::common::BUCKET).key(format!("{prefix}{number:04}"));
            let put =
                put.server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::AwsKmsDsse).ssekms_key_id(&key_arn);
            let put = put.checksum_algorithm(aws_sdk_s3::types::ChecksumAlgorithm::Crc32C);
            async move { put.body(b"x".to_vec().into()).send().await.map(drop) }
        });
        let done: Vec<_> = futures_util::StreamExt::collect(futures_util::StreamExt::buffer_unordered(
            futures_util::stream::iter(puts),
            32,
        ))
        .await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    });
}

#[test]
fn a_small_file_is_created_by_one_put_and_nothing_else() {
    scenario().options(&PATIENT).mounted(|endpoint, mount| {
        names(&mount.path());
        let ((), counters) = endpoint.counted(|| fs::write(mount.join("small"), noise(1, 10_000)).unwrap());
        only(&counters, "PutObject", 1);
        assert_eq!(counters.kms_for_s3.get("GenerateDataKey"), Some(&1));
        assert_eq!(counters.all_kms_for_s3(), 1);
        assert_eq!(endpoint.content("small"), noise(1, 10_000));
    });
}

#[test]
fn a_listed_small_file_is_read_by_one_get() {
    scenario().unmounted(|endpoint| {
        endpoint.put("small", &noise(1, 10_000));
        let mount = Mount::with(&endpoint, &PATIENT);
        names(&mount.path());
        fs::metadata(mount.join("small")).unwrap();
        let (content, counters) = endpoint.counted(|| fs::read(mount.join("small")).unwrap());
        assert_eq!(content, noise(1, 10_000));
        only(&counters, "GetObject", 1);
        assert_eq!(counters.all_kms_for_s3(), 1);
    });
}

#[test]
fn a_file_that_did_not_change_is_read_again_from_the_page_cache() {
    scenario().unmounted(|endpoint| {
        endpoint.put("small", &noise(1, 10_000));
        let mount = Mount::with(&endpoint, &PATIENT);
        fs::read(mount.join("small")).unwrap();
        let (content, counters) = endpoint.counted(|| fs::read(mount.join("small")).unwrap());
        assert_eq!(content, noise(1, 10_000));
        nothing(&counters);
    });
}

#[test]
fn ls_of_a_thousand_entries_is_one_list() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        fill(&endpoint, "", 1000);
        let mount = Mount::with(&endpoint, &PATIENT);
        let (found, counters) = endpoint.counted(|| names(&mount.path()));
        assert_eq!(found.len(), 1000);
        only(&counters, "ListObjectsV2", 1);
        assert_eq!(counters.all_kms_for_s3(), 0);
    });
}

#[test]
fn ls_l_of_a_directory_is_one_list_and_one_head_each_and_no_kms_call() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        fill(&endpoint, "", 300);
        let mount = Mount::with(&endpoint, &PATIENT);
        let stat_all =
            || names(&mount.path()).iter().filter(|name| fs::metadata(mount.join(name)).unwrap().len() == 1).count();
        let (found, counters) = endpoint.counted(stat_all);
        assert_eq!(found, 300);
        assert_eq!(requests(&counters), [("HeadObject".to_owned(), 300), ("ListObjectsV2".to_owned(), 1)]);
        assert_eq!(counters.all_kms_for_s3(), 0);
        let (_, again) = endpoint.counted(stat_all);
        nothing(&again);
    });
}

#[test]
fn with_attributes_from_listings_stat_asks_nothing() {
    scenario().unmounted(|endpoint| {
        fill(&endpoint, "", 50);
        let mount = Mount::with(&endpoint, &[PATIENT.as_slice(), &["--attributes", "listing"]].concat());
        let (found, counters) = endpoint.counted(|| {
            names(&mount.path()).iter().filter(|name| fs::metadata(mount.join(name)).unwrap().len() == 1).count()
        });
        assert_eq!(found, 50);
        only(&counters, "ListObjectsV2", 1);
    });
}

#[test]
fn a_name_that_is_not_in_a_known_directory_costs_nothing() {
    scenario().unmounted(|endpoint| {
        endpoint.put("one", b"1");
        let mount = Mount::with(&endpoint, &PATIENT);
        names(&mount.path());
        let (found, counters) = endpoint.counted(|| mount.join("two").exists());
        assert!(!found);
        nothing(&counters);
    });
}

#[test]
fn attributes_are_listed_and_foreign_ones_denied_without_a_request() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"content");
        let mount = Mount::with(&endpoint, &PATIENT);
        let path = mount.join("file");
        fs::metadata(&path).unwrap();
        let (listed, counters) = endpoint.counted(|| xattr::list(&path).unwrap().count());
        assert!(listed > 10, "{listed}");
        nothing(&counters);
        let (value, counters) = endpoint.counted(|| xattr::get(&path, "user.foreign").unwrap());
        assert_eq!(value, None);
        nothing(&counters);
    });
}

#[test]
fn every_attribute_together_costs_one_head_and_no_kms_call() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"content");
        let mount = Mount::with(&endpoint, &PATIENT);
        names(&mount.path());
        let path = mount.join("file");
        let ((), counters) = endpoint.counted(|| {
            for name in xattr::list(&path).unwrap() {
                xattr::get(&path, &name).unwrap_or_else(|error| panic!("{}: {error}", name.display()));
            }
        });
        assert!(counters.requests("HeadObject") <= 1, "{:?}", requests(&counters));
        assert_eq!(counters.requests("GetObject"), 0);
        assert_eq!(counters.all_kms_for_s3(), 0);
    });
}

#[test]
fn sixty_four_mebibytes_are_read_in_few_large_ranges() {
    const BYTES: usize = 64 << 20;
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        endpoint.put("large", &noise(3, BYTES));
        let mount = Mount::with(&endpoint, &PATIENT);
        let (content, counters) = endpoint.counted(|| {
            let mut content = Vec::with_capacity(BYTES);
            File::open(mount.join("large")).unwrap().read_to_end(&mut content).unwrap();
            content
        });
        assert!(content == noise(3, BYTES), "the content differs");
        let gets = counters.operation("GetObject");
        assert!(gets.requests <= 12, "{} GETs", gets.requests);
        assert!(gets.body_bytes_out <= BYTES as u64 * 11 / 10, "{} bytes for {BYTES}", gets.body_bytes_out);
        assert_eq!(counters.all_kms_for_s3(), gets.requests);
    });
}

#[test]
fn a_small_read_of_a_large_file_fetches_little() {
    scenario().unmounted(|endpoint| {
        endpoint.put("large", &noise(3, 32 << 20));
        let mount = Mount::with(&endpoint, &PATIENT);
        let ((), counters) = endpoint.counted(|| {
            let mut bytes = [0; 100];
            std::os::unix::fs::FileExt::read_exact_at(&File::open(mount.join("large")).unwrap(), &mut bytes, 20 << 20)
                .unwrap();
            assert_eq!(bytes, noise(3, (20 << 20) + 100)[20 << 20..]);
        });
        assert!(counters.operation("GetObject").body_bytes_out <= 2 << 20, "{counters:?}");
    });
}

/// Copies its input into a new file, mebibyte by mebibyte.
const WRITER: &str = "import sys
with open(sys.argv[1], 'wb', buffering=0) as file:
    while chunk := sys.stdin.buffer.read(1 << 20):
        file.write(chunk)";

#[test]
fn parts_are_uploaded_while_the_program_writes() {
    const BYTES: usize = 96 << 20;
    scenario().within(MINUTE * 2).options(&PATIENT).mounted(|endpoint, mount| {
        names(&mount.path());
        endpoint.reset();
        // A program of its own: a descriptor of this process is copied, and closed again, by each test that starts a
        // program beside this one, and each such close commits what is there by then.
        let mut program = Command::new("python3")
            .args(["-c", WRITER])
            .arg(mount.join("stream"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = program.stdin.take().unwrap();
        input.write_all(&noise(4, BYTES)[..BYTES - 1]).unwrap();
        eventually("an uploaded part", MINUTE, || endpoint.counters().requests("UploadPart") > 0);
        assert_eq!(endpoint.counters().requests("CompleteMultipartUpload"), 0);
        assert!(endpoint.head("stream").is_none(), "nothing is visible before the close");
        input.write_all(&noise(4, BYTES)[BYTES - 1..]).unwrap();
        drop(input);
        assert!(program.wait().unwrap().success());
        let counters = endpoint.counters();
        assert_eq!((counters.requests("CreateMultipartUpload"), counters.requests("CompleteMultipartUpload")), (1, 1));
        assert_eq!(counters.requests("PutObject"), 0);
        assert!(endpoint.content("stream") == noise(4, BYTES), "the content differs");
        endpoint.assert_dsse("stream");
    });
}

#[test]
fn opening_and_closing_without_a_change_sends_nothing() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"content");
        let mount = Mount::with(&endpoint, &PATIENT);
        fs::metadata(mount.join("file")).unwrap();
        let ((), counters) = endpoint.counted(|| {
            let file = File::options().read(true).write(true).open(mount.join("file")).unwrap();
            file.sync_all().unwrap();
        });
        nothing(&counters);
    });
}

#[test]
fn fsync_and_close_after_it_commit_once() {
    scenario().options(&PATIENT).mounted(|endpoint, mount| {
        names(&mount.path());
        let ((), counters) = endpoint.counted(|| {
            let mut file = File::create(mount.join("file")).unwrap();
            file.write_all(b"content").unwrap();
            file.sync_all().unwrap();
        });
        only(&counters, "PutObject", 1);
    });
}

#[test]
fn a_change_of_a_gibibyte_costs_what_it_changes() {
    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        endpoint.put_gibibytes("large", 1);
        let mount = Mount::with(&endpoint, &PATIENT);
        let path = mount.join("large");
        fs::metadata(&path).unwrap();
        let change = |what: &str, sent_max: u64, requests_max: u64, size: u64, change: &dyn Fn()| {
            let ((), counters) = endpoint.counted(change);
            assert!(sent_bytes(&counters) <= sent_max, "{what}: {counters:?}");
            assert!(counters.all_requests() <= requests_max, "{what}: {counters:?}");
            assert_eq!(endpoint.head("large").unwrap().content_length(), Some(size.cast_signed()), "{what}");
            endpoint.assert_dsse("large");
        };
        let open = || File::options().write(true).open(&path).unwrap();
        change("a byte in the middle", 16 * MIB, 40, GIB, &|| {
            std::os::unix::fs::FileExt::write_all_at(&open(), b"x", GIB / 2).unwrap();
        });
        change("a byte at the end", 8 * MIB, 10, GIB + 1, &|| {
            std::os::unix::fs::FileExt::write_all_at(&open(), b"y", GIB).unwrap();
        });
        change("truncation to the half", 0, 10, GIB / 2, &|| open().set_len(GIB / 2).unwrap());
        change("truncation up", 3 * MIB, 10, GIB / 2 + 2 * MIB, &|| open().set_len(GIB / 2 + 2 * MIB).unwrap());
        change("a byte, once more, at the beginning", 16 * MIB, 40, GIB / 2 + 2 * MIB, &|| {
            std::os::unix::fs::FileExt::write_all_at(&open(), b"z", 0).unwrap();
        });
        let mut seen = [0; 2];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(&path).unwrap(), &mut seen, GIB / 2 - 1).unwrap();
        assert_eq!(seen, [noise(9, 64 << 20)[(64 << 20) - 1], 0], "the last byte that stayed and the first that came");
    });
}

/// Each answer takes so long that all the requests which are seen before the first are under way at the same time.
#[test]
fn pending_files_are_sent_side_by_side() {
    const FILES: usize = 200;
    const TOGETHER: u64 = 32;
    scenario().within(MINUTE * 3).options(&["--spill-keys", "kms", "--commit", "background"]).mounted(
        |endpoint, mount| {
            endpoint.reset();
            endpoint.inject_faults(vec![Rule::on("PutObject", Fault::DelayMs(10_000)).key_contains("file-").times(0)]);
            (0..FILES).for_each(|n| fs::write(mount.join(&format!("file-{n}")), format!("content {n}")).unwrap());
            eventually("many are under way", MINUTE, || endpoint.counters().requests("PutObject") >= TOGETHER);
            let (stored, sent) = (endpoint.keys().len(), endpoint.counters().requests("PutObject"));
            println!("{sent} requests have come before {stored} were answered");
            assert!(sent - stored as u64 >= TOGETHER, "{sent} requests, {stored} answers");
            endpoint.clear_faults();
            eventually("all are stored", MINUTE, || endpoint.keys().len() == FILES);
            assert_eq!(endpoint.content("file-199"), b"content 199");
            assert!(mount.end().success());
        },
    );
}
