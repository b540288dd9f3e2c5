//! copy_file_range(2): what the store copies by itself, what the host copies, and that nobody can tell by the bytes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use aws_sdk_s3::types::{BucketVersioningStatus, StorageClass, VersioningConfiguration};
use dssefs_emulator::Counters;
use dssefs_emulator::faults::{Fault, Rule};
use rustix::fs::copy_file_range;

use crate::common::{BUCKET, Endpoint, MINUTE, Mount, attribute, denied, errno, noise, scenario, seed, sent_bytes};

const MIB: usize = 1 << 20;
const PATIENT: [&str; 2] = ["--metadata-ttl", "1h"];

fn run(program: &str, arguments: &[&str], paths: &[&Path]) {
    let output =
        Command::new(program).env("LC_ALL", "C").args(arguments).args(paths).output().expect("it is installed");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Content that went over the wire in either direction.
fn content_bytes(counters: &Counters) -> u64 {
    sent_bytes(counters) + counters.operation("GetObject").body_bytes_out
}

/// Copies a file from its beginning, as far as the kernel takes it in one call, and leaves the target open.
pub(crate) fn half_done_copy(from: &Path, to: &Path) -> File {
    let (source, target) = (File::open(from).unwrap(), File::create(to).unwrap());
    let length = usize::try_from(source.metadata().unwrap().len()).unwrap();
    assert_eq!(copy_file_range(&source, None, &target, None, length).unwrap(), length);
    target
}

/// The name of the target was given up first, so that its next close sent nothing and was a success.
#[test]
fn a_rename_that_fails_for_a_copy_of_the_source_leaves_the_open_target_as_it_was() {
    scenario().unmounted(|endpoint| {
        endpoint.put("source", &noise(1, MIB));
        let mount = Mount::of(&endpoint);
        let copy = half_done_copy(&mount.join("source"), &mount.join("copy"));
        let mut target = File::create(mount.join("target")).unwrap();
        target.write_all(b"not").unwrap();
        endpoint.inject_faults(vec![Rule::on("GetObject", denied()).times(0).key_contains("source")]);
        assert_eq!(errno(fs::rename(mount.join("source"), mount.join("target"))), libc::EACCES);
        assert!(endpoint.struck() > 0);
        endpoint.clear_faults();
        target.write_all(b" lost").unwrap();
        target.sync_all().unwrap();
        assert_eq!(endpoint.content("target"), b"not lost");
        copy.sync_all().unwrap();
        assert!(endpoint.content("copy") == noise(1, MIB));
    });
}

#[test]
fn cp_of_a_gibibyte_is_one_copy_object_and_no_content_on_this_host() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        endpoint.put_gibibytes("large", 1);
        let mount = Mount::with(&endpoint, &PATIENT);
        fs::metadata(mount.join("large")).unwrap();
        for (mode, target) in [("--reflink=auto", "copy"), ("-a", "all")] {
            let ((), counters) = endpoint.counted(|| run("cp", &[mode], &[&mount.join("large"), &mount.join(target)]));
            assert_eq!(counters.requests("CopyObject"), 1, "{mode}: {counters:?}");
            assert_eq!(counters.requests("UploadPartCopy") + counters.requests("PutObject"), 0, "{mode}: {counters:?}");
            assert!(content_bytes(&counters) < 1 << 20, "{mode}: {counters:?}");
            assert!(counters.all_requests() <= 4, "{mode}: {counters:?}");
            endpoint.assert_dsse(target);
            assert_eq!(endpoint.head(target).unwrap().content_length(), Some(1 << 30));
        }
        let mut seen = vec![0; MIB];
        File::open(mount.join("copy")).unwrap().read_exact_at(&mut seen, (1 << 30) - MIB as u64).unwrap();
        assert!(seen == noise(9, 64 * MIB)[63 * MIB..], "the last mebibyte");
    });
}

/// More than CopyObject takes, and more than the kernel asks for in one call.
#[test]
fn cp_of_six_gibibytes_is_copied_in_parts_within_the_store() {
    scenario().within(MINUTE * 4).unmounted(|endpoint| {
        endpoint.put_gibibytes("large", 6);
        let mount = Mount::with(&endpoint, &PATIENT);
        fs::metadata(mount.join("large")).unwrap();
        let ((), counters) = endpoint.counted(|| run("cp", &[], &[&mount.join("large"), &mount.join("copy")]));
        assert!(content_bytes(&counters) < 1 << 20, "{counters:?}");
        assert_eq!(counters.requests("UploadPartCopy"), 12, "{counters:?}");
        assert_eq!(endpoint.head("copy").unwrap().content_length(), Some(6 << 30));
        endpoint.assert_dsse("copy");
    });
}

#[test]
fn files_of_any_size_are_copied_byte_by_byte_alike() {
    scenario().within(MINUTE * 3).mounted(|endpoint, mount| {
        for (index, length) in [0, 1, 100_000, 5 * MIB + 3, 20 * MIB + 1].into_iter().enumerate() {
            let content = noise(index as u64, length);
            let (from, to) = (mount.join(&format!("from{index}")), mount.join(&format!("to{index}")));
            fs::write(&from, &content).unwrap();
            fs::write(&to, b"what stood there before").unwrap();
            let ((), counters) = endpoint.counted(|| run("cp", &[], &[&from, &to]));
            assert!(length == 0 || counters.requests("CopyObject") == 1, "{length}: {counters:?}");
            assert!(fs::read(&to).unwrap() == content, "{length} bytes, read back");
            assert!(endpoint.content(&format!("to{index}")) == content, "{length} bytes in the store");
            endpoint.assert_dsse(&format!("to{index}"));
        }
    });
}

#[test]
fn python_copies_like_cp() {
    const SCRIPT: &str = "
import os, shutil, sys
source, target, plain = sys.argv[1:]
with open(source, 'rb') as a, open(target, 'wb') as b:
    # In pieces, as a program with a progress bar would.
    while os.copy_file_range(a.fileno(), b.fileno(), 8 << 20):
        pass
shutil.copyfile(source, plain)";
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let content = noise(1, 30 * MIB);
        endpoint.put("source", &content);
        let mount = Mount::with(&endpoint, &PATIENT);
        let paths = [mount.join("source"), mount.join("pieces"), mount.join("plain")];
        let paths = paths.each_ref().map(|path| path.as_path());
        let ((), counters) = endpoint.counted(|| run("python3", &["-c", SCRIPT], &paths));
        assert_eq!(counters.requests("CopyObject"), 1, "the pieces are one copy: {counters:?}");
        assert!(endpoint.content("pieces") == content && endpoint.content("plain") == content);
    });
}

#[test]
fn a_copy_takes_over_what_the_object_carries_and_keeps_its_own_mode() {
    scenario().unmounted(|endpoint| {
        let key_arn = endpoint.key_arn().to_owned();
        endpoint.with(|s3| async move {
            let put = s3.put_object().bucket(BUCKET).key("source").body(noise(1, 100_000).into());
            let put =
                put.server_side_encryption("aws:kms:dsse".into()).ssekms_key_id(key_arn).content_type("text/html");
            let put = put.cache_control("max-age=60").tagging("team=red&tier=1").metadata("project", "apollo");
            put.storage_class(StorageClass::StandardIa).metadata("mode", "33152").send().await.unwrap();
        });
        let mount = Mount::of(&endpoint);
        run("cp", &[], &[&mount.join("source"), &mount.join("copy")]);
        half_done_copy(&mount.join("source"), &mount.join("edited")).write_all_at(b"edited", 10).unwrap();
        for key in ["copy", "edited"] {
            let head = endpoint.head(key).unwrap();
            assert_eq!((head.content_type(), head.cache_control()), (Some("text/html"), Some("max-age=60")), "{key}");
            assert_eq!((head.tag_count(), head.storage_class()), (Some(2), Some(&StorageClass::StandardIa)), "{key}");
            assert_eq!(head.metadata().unwrap().get("project").map(String::as_str), Some("apollo"), "{key}");
            endpoint.assert_dsse(key);
        }
        let mode = |name: &str| fs::metadata(mount.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("source"), 0o600);
        assert_eq!(mode("edited"), 0o644);
        assert_eq!(mount_mtime(&mount, "copy"), stored_mtime(&endpoint, "copy"));
        assert_eq!(attribute(&mount.join("copy"), "user.dsse.evidence").unwrap(), "copy");
    });
}

fn mount_mtime(mount: &Mount, name: &str) -> i64 {
    fs::metadata(mount.join(name)).unwrap().mtime()
}

fn stored_mtime(endpoint: &Endpoint, key: &str) -> i64 {
    let head = endpoint.head(key).unwrap();
    head.metadata().unwrap()["mtime"].split('.').next().unwrap().parse().unwrap()
}

#[test]
fn a_copy_that_is_edited_before_its_close_sends_the_edited_part_alone() {
    const SCRIPT: &str = "
import os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
size = os.fstat(source).st_size
assert os.copy_file_range(source, target, size) == size
assert os.pread(target, 5, size - 5) == os.pread(source, 5, size - 5)
os.pwrite(target, b'edited', size // 2)
os.pwrite(target, b'tail', size)
os.close(target)";
    scenario().within(MINUTE * 2).options(&PATIENT).mounted(|endpoint, mount| {
        for (key, length) in [("small", MIB), ("large", 64 * MIB)] {
            let mut content = noise(1, length);
            endpoint.put(key, &content);
            let target = format!("copy-of-{key}");
            let ((), counters) =
                endpoint.counted(|| run("python3", &["-c", SCRIPT], &[&mount.join(key), &mount.join(&target)]));
            content[length / 2..length / 2 + 6].copy_from_slice(b"edited");
            content.extend(b"tail");
            assert!(endpoint.content(&target) == content, "{key}");
            assert!(content_bytes(&counters) < 16 << 20, "{key}: {counters:?}");
            endpoint.assert_dsse(&target);
        }
    });
}

/// What becomes of the source between the copy and the close.
fn a_copy_survives(what: fn(&Mount)) {
    scenario().within(MINUTE * 2).unmounted(move |endpoint| {
        let content = noise(1, 20 * MIB);
        endpoint.put("source", &content);
        let mount = Mount::of(&endpoint);
        let copy = half_done_copy(&mount.join("source"), &mount.join("copy"));
        what(&mount);
        assert!(fs::read(mount.join("copy")).unwrap() == content, "before the close");
        copy.sync_all().unwrap();
        drop(copy);
        assert!(endpoint.content("copy") == content, "in the store");
        endpoint.assert_dsse("copy");
    });
}

#[test]
fn a_copy_survives_the_removal_of_its_source_before_its_close() {
    a_copy_survives(|mount| fs::remove_file(mount.join("source")).unwrap());
}

#[test]
fn a_copy_survives_a_rewrite_of_its_source_before_its_close() {
    a_copy_survives(|mount| fs::write(mount.join("source"), b"something else").unwrap());
}

#[test]
fn a_copy_survives_the_renaming_of_its_source_before_its_close() {
    a_copy_survives(|mount| fs::rename(mount.join("source"), mount.join("moved")).unwrap());
}

#[test]
fn a_copy_survives_the_replacement_of_its_source_before_its_close() {
    a_copy_survives(|mount| {
        fs::write(mount.join("other"), b"another").unwrap();
        fs::rename(mount.join("other"), mount.join("source")).unwrap();
    });
}

#[test]
fn a_copy_survives_a_chmod_of_its_source_before_its_close() {
    a_copy_survives(|mount| fs::set_permissions(mount.join("source"), PermissionsExt::from_mode(0o600)).unwrap());
}

#[test]
fn a_copy_whose_source_another_host_replaced_is_never_a_success() {
    scenario().unmounted(|endpoint| {
        endpoint.put("source", &noise(1, MIB));
        let mount = Mount::of(&endpoint);
        let copy = half_done_copy(&mount.join("source"), &mount.join("copy"));
        endpoint.put("source", &noise(2, MIB));
        assert_eq!(errno(copy.sync_all()), libc::ESTALE);
        assert!(endpoint.head("copy").is_none());
        let said = attribute(&mount.join("copy"), "user.dsse.last-error").unwrap();
        assert!(said.contains("copy is a copy of source, which was replaced or deleted"), "{said}");
        endpoint.delete("source");
        assert_eq!(errno(copy.sync_all()), libc::ESTALE);
        fs::remove_file(mount.join("copy")).unwrap();
    });
}

/// Whatever was done with the source was ESTALE on this mount, until the copy was removed that could not be made.
#[test]
fn a_source_that_another_host_replaced_is_not_held_by_its_copy() {
    scenario().unmounted(|endpoint| {
        endpoint.put("source", &noise(1, MIB));
        let mount = Mount::with(&endpoint, &["--metadata-ttl", "0"]);
        let copy = half_done_copy(&mount.join("source"), &mount.join("copy"));
        endpoint.put("source", &noise(2, MIB));
        assert_eq!(errno(copy.sync_all()), libc::ESTALE);
        fs::set_permissions(mount.join("source"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(mount.join("source"), b"third").unwrap();
        assert_eq!(endpoint.content("source"), b"third");
        fs::rename(mount.join("source"), mount.join("moved")).unwrap();
        fs::write(mount.join("source"), b"fourth").unwrap();
        assert_eq!(endpoint.content("source"), b"fourth");
        fs::remove_file(mount.join("source")).unwrap();
        assert!(endpoint.head("source").is_none());
        assert_eq!(errno(copy.sync_all()), libc::ESTALE, "the copy is as impossible as before");
    });
}

#[test]
fn in_a_bucket_with_versions_a_copy_outlives_its_source_everywhere() {
    scenario().unmounted(|endpoint| {
        endpoint.with(|s3| async move {
            let versioning = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            s3.put_bucket_versioning().bucket(BUCKET).versioning_configuration(versioning).send().await.unwrap();
        });
        endpoint.put("source", &noise(1, MIB));
        let mount = Mount::of(&endpoint);
        let copy = half_done_copy(&mount.join("source"), &mount.join("copy"));
        endpoint.put("source", &noise(2, MIB));
        let (done, counters) = endpoint.counted(|| copy.sync_all());
        done.unwrap();
        assert!(endpoint.content("copy") == noise(1, MIB));
        assert_eq!(content_bytes(&counters), 0, "{counters:?}");
    });
}

#[test]
fn a_copy_does_not_replace_unseen_what_another_host_stored_under_its_name() {
    scenario().unmounted(|endpoint| {
        endpoint.put("source", &noise(1, MIB));
        let mount = Mount::of(&endpoint);
        let copy = half_done_copy(&mount.join("source"), &mount.join("copy"));
        endpoint.put("copy", b"theirs");
        assert_eq!(errno(copy.sync_all()), libc::ESTALE);
        assert_eq!(endpoint.content("copy"), b"theirs");
    });
}

#[test]
fn a_source_with_unsaved_changes_is_copied_with_them() {
    scenario().unmounted(|endpoint| {
        let mut content = noise(1, 3 * MIB);
        endpoint.put("source", &content);
        let mount = Mount::of(&endpoint);
        let mut source = OpenOptions::new().write(true).open(mount.join("source")).unwrap();
        source.write_all(b"unsaved").unwrap();
        content[..7].copy_from_slice(b"unsaved");
        drop(half_done_copy(&mount.join("source"), &mount.join("copy")));
        assert!(endpoint.content("copy") == content);
    });
}

/// A mismatch of the answer to CopyObject: the copy is there already, so it is deleted again and the program is told.
#[test]
fn a_copy_that_the_store_does_not_make_dsse_is_refused() {
    scenario().unmounted(|endpoint| {
        endpoint.put("source", &noise(1, MIB));
        let mount = Mount::of(&endpoint);
        let copy = half_done_copy(&mount.join("source"), &mount.join("copy"));
        let weaker = Fault::Sse { algorithm: Some("AES256".to_owned()), key: None, bucket_key: None };
        endpoint.inject_fault("CopyObject", weaker);
        assert_eq!(errno(copy.sync_all()), libc::EKEYREJECTED);
        assert!(endpoint.head("copy").is_none());
        endpoint.clear_faults();
        copy.sync_all().unwrap();
        endpoint.assert_dsse("copy");
    });
}

#[test]
fn any_sequence_of_copies_between_three_files_equals_that_between_vectors() {
    let seed = seed();
    scenario().within(MINUTE * 3).mounted(move |endpoint, mount| {
        let mut random = Random(seed | 1);
        let mut model: Vec<Vec<u8>> = (0..3).map(|index| noise(index, 300_000)).collect();
        let path = |index: usize| mount.join(&format!("file{index}"));
        (0..3).for_each(|index| fs::write(path(index), &model[index]).unwrap());
        for step in 0..150 {
            let (from, to) = (random.below(3), random.below(3));
            if random.below(3) == 0 {
                fs::write(path(to), b"").unwrap();
                model[to].clear();
            }
            let source = File::open(path(from)).unwrap();
            let target = OpenOptions::new().read(true).write(true).open(path(to)).unwrap();
            for _ in 0..=random.below(3) {
                let at = if random.below(2) == 0 { 0 } else { random.below(200_000) };
                let place = if random.below(2) == 0 { at } else { random.below(model[to].len() + 1) };
                copy_both(&mut model, (&source, from, at), (&target, to, place), random.below(400_000) + 1);
                if random.below(4) == 0 {
                    let offset = random.below(300_000);
                    target.write_all_at(b"changed", offset as u64).unwrap();
                    write(&mut model[to], offset, b"changed");
                }
            }
            drop((source, target));
            assert!(fs::read(path(to)).unwrap() == model[to], "file {to} after step {step}");
        }
        for (index, model) in model.iter().enumerate() {
            assert!(endpoint.content(&format!("file{index}")) == *model, "file {index} in the store");
        }
    });
}

/// Copies in the mount and in the model, unless the ranges overlap, which is EINVAL.
fn copy_both(
    model: &mut [Vec<u8>],
    (source, from, at): (&File, usize, usize),
    (target, to, place): (&File, usize, usize),
    length: usize,
) {
    let length = length.min(model[from].len().saturating_sub(at));
    let copied = copy_file_range(source, Some(&mut (at as u64)), target, Some(&mut (place as u64)), length);
    if from == to && at < place + length && place < at + length {
        assert_eq!(copied, Err(rustix::io::Errno::INVAL));
        return;
    }
    let copied = copied.unwrap();
    assert!(copied > 0 || length == 0);
    let bytes = model[from].get(at..at + copied).unwrap_or_default().to_vec();
    write(&mut model[to], place, &bytes);
}

fn write(model: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    model.resize(model.len().max(offset + bytes.len()), 0);
    model[offset..offset + bytes.len()].copy_from_slice(bytes);
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}
