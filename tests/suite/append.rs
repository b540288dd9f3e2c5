//! Writing on behind a stored object: the object is copied within the store, and what follows it is sent while it is
//! written.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::common::{MINUTE, Mount, errno, eventually, noise, scenario, seed, sent_bytes};

const MIB: usize = 1 << 20;
/// So little that parts leave the host as soon as the store has them.
const TIGHT: [&str; 2] = ["--memory", "32MiB"];
/// The same without any disk, so that what is not sent while it is written has no room.
const DISKLESS: [&str; 4] = ["--memory", "32MiB", "--spill", "0"];

#[test]
fn a_large_append_is_sent_while_it_is_written_and_its_object_copied() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        endpoint.put_gibibytes("file", 1);
        let mount = Mount::with(&endpoint, &DISKLESS);
        let mut file = OpenOptions::new().append(true).open(mount.join("file")).unwrap();
        endpoint.reset();
        for piece in 0..12 {
            file.write_all(&noise(piece, 10 * MIB)).unwrap();
        }
        assert!(endpoint.counters().requests("UploadPart") >= 3, "{:?}", endpoint.counters());
        assert_eq!(endpoint.counters().requests("CompleteMultipartUpload"), 0);
        file.sync_all().unwrap();
        let counters = endpoint.counters();
        assert!(sent_bytes(&counters) < 121 << 20, "{counters:?}");
        assert_eq!(counters.requests("UploadPartCopy"), 1, "{counters:?}");
        assert_eq!(counters.requests("CreateMultipartUpload"), 1, "{counters:?}");
        assert_eq!(endpoint.head("file").unwrap().content_length(), Some((1 << 30) + (120 << 20)));
        endpoint.assert_dsse("file");
        let reader = File::open(mount.join("file")).unwrap();
        let mut seen = vec![0; MIB + 10 * MIB];
        reader.read_exact_at(&mut seen, (1 << 30) - MIB as u64).unwrap();
        assert!(seen[..MIB] == noise(9, 64 * MIB)[63 * MIB..] && seen[MIB..] == noise(0, 10 * MIB));
        reader.read_exact_at(&mut seen[..10 * MIB], (1 << 30) + (110 << 20)).unwrap();
        assert!(seen[..10 * MIB] == noise(11, 10 * MIB));
    });
}

/// A commit in between, as an fsync, a shell's `>` and each program started meanwhile cause, once ended the streaming
/// of a file: the rest of it went to the local disk, and was sent when the file was closed. `first` bytes were
/// committed.
fn streaming_goes_on_after_a_commit_of(first: usize) {
    scenario().within(MINUTE * 3).options(&DISKLESS).mounted(move |endpoint, mount| {
        let mut file = File::create(mount.join("file")).unwrap();
        let content = noise(1, first + 70 * MIB);
        file.write_all(&content[..first]).unwrap();
        file.sync_all().unwrap();
        endpoint.reset();
        file.write_all(&content[first..]).unwrap();
        eventually("an uploaded part", MINUTE, || endpoint.counters().requests("UploadPart") > 0);
        assert_eq!(endpoint.counters().requests("CompleteMultipartUpload"), 0);
        file.sync_all().unwrap();
        let counters = endpoint.counters();
        assert_eq!(counters.requests("CreateMultipartUpload"), 1, "{counters:?}");
        assert!(sent_bytes(&counters) < (content.len() - first) as u64 + (6 << 20), "{counters:?}");
        drop(file);
        assert!(endpoint.content("file") == content);
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn streaming_goes_on_after_a_commit_of_a_part_or_more() {
    streaming_goes_on_after_a_commit_of(20 * MIB + 1);
}

#[test]
fn streaming_goes_on_after_a_commit_of_less_than_a_part() {
    streaming_goes_on_after_a_commit_of(MIB);
}

/// A change of bytes that the upload under way was to copy: while this host still has all parts that were sent, and
/// after it gave them up.
fn a_change_below_the_stream_is_kept(change: fn(&File, &mut Vec<u8>)) {
    for memory in ["32MiB", "256MiB"] {
        scenario().within(MINUTE * 3).unmounted(move |endpoint| {
            let mut model = noise(1, 30 * MIB);
            endpoint.put("file", &model);
            let mount = Mount::with(&endpoint, &["--memory", memory]);
            let file = OpenOptions::new().read(true).write(true).open(mount.join("file")).unwrap();
            let append = |model: &mut Vec<u8>, seed| {
                let more = noise(seed, 60 * MIB);
                file.write_all_at(&more, model.len() as u64).unwrap();
                model.extend(more);
            };
            append(&mut model, 2);
            eventually("a part", MINUTE, || endpoint.counters().requests("UploadPart") > 0);
            change(&file, &mut model);
            append(&mut model, 3);
            let mut seen = vec![0; MIB];
            for at in [0, 29 * MIB + 5, model.len() - MIB] {
                file.read_exact_at(&mut seen, at as u64).unwrap();
                assert!(seen == model[at..at + MIB], "at {at} with {memory}");
            }
            file.sync_all().unwrap();
            assert!(endpoint.content("file") == model, "{memory}");
            assert_eq!(endpoint.uploads(), 0, "{memory}");
            endpoint.assert_dsse("file");
        });
    }
}

#[test]
fn a_header_rewritten_while_the_append_is_under_way_is_kept() {
    a_change_below_the_stream_is_kept(|file, model| {
        file.write_all_at(b"header", 100).unwrap();
        model[100..106].copy_from_slice(b"header");
    });
}

#[test]
fn a_cut_below_the_append_under_way_is_kept() {
    a_change_below_the_stream_is_kept(|file, model| {
        file.set_len(25 << 20).unwrap();
        model.truncate(25 << 20);
    });
}

#[test]
fn a_file_emptied_while_the_append_is_under_way_starts_anew() {
    a_change_below_the_stream_is_kept(|file, model| {
        file.set_len(0).unwrap();
        model.clear();
    });
}

#[test]
fn an_append_to_what_another_host_replaced_meanwhile_is_never_a_success() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        endpoint.put("file", &noise(1, 20 * MIB));
        let mount = Mount::with(&endpoint, &TIGHT);
        let mut file = OpenOptions::new().append(true).open(mount.join("file")).unwrap();
        file.write_all(&noise(2, 60 * MIB)).unwrap();
        endpoint.put("file", b"theirs");
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        assert_eq!(endpoint.content("file"), b"theirs");
    });
}

#[test]
fn an_append_to_a_copy_is_sent_behind_the_copied_object() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mut content = noise(1, 20 * MIB);
        endpoint.put("source", &content);
        let mount = Mount::with(&endpoint, &TIGHT);
        let (source, mut copy) = (File::open(mount.join("source")).unwrap(), File::create(mount.join("copy")).unwrap());
        endpoint.reset();
        assert_eq!(rustix::fs::copy_file_range(&source, None, &copy, None, content.len()).unwrap(), content.len());
        std::io::Seek::seek(&mut copy, std::io::SeekFrom::End(0)).unwrap();
        copy.write_all(&noise(2, 60 * MIB)).unwrap();
        content.extend(noise(2, 60 * MIB));
        // Parts are in the unfinished upload alone, which counts on the source and is not for others to see yet.
        assert_eq!(errno(fs::remove_file(mount.join("source"))), libc::ENOSPC);
        copy.sync_all().unwrap();
        fs::remove_file(mount.join("source")).unwrap();
        assert!(endpoint.content("copy") == content);
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn a_random_growing_file_is_what_a_vector_is() {
    let seed = seed();
    scenario().within(MINUTE * 5).options(&TIGHT).mounted(move |endpoint, mount| {
        let mut random = seed | 1;
        let mut below = |end: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(random >> 33).unwrap() % end
        };
        let mut model = noise(seed, below(25 * MIB));
        endpoint.put("file", &model);
        let file = OpenOptions::new().read(true).write(true).open(mount.join("file")).unwrap();
        for step in 0..25 {
            match below(8) {
                0..=3 if model.len() < 150 * MIB => {
                    let more = noise(step, below(40 * MIB) + 1);
                    file.write_all_at(&more, model.len() as u64).unwrap();
                    model.extend(more);
                }
                4 => {
                    let at = below(model.len() + 1);
                    let bytes = noise(step, 5_000);
                    file.write_all_at(&bytes, at as u64).unwrap();
                    model.resize(model.len().max(at + 5_000), 0);
                    model[at..at + 5_000].copy_from_slice(&bytes);
                }
                5 => {
                    let size = if below(3) == 0 { model.len() + below(MIB) } else { below(model.len() + 1) };
                    file.set_len(size as u64).unwrap();
                    model.resize(size, 0);
                }
                6 => file.sync_all().unwrap(),
                _ => {
                    let at = below(model.len() + 1);
                    let mut seen = vec![0; (model.len() - at).min(MIB)];
                    file.read_exact_at(&mut seen, at as u64).unwrap();
                    assert!(seen == model[at..at + seen.len()], "at {at} in step {step}");
                }
            }
        }
        file.sync_all().unwrap();
        assert!(endpoint.content("file") == model, "in the store");
        assert_eq!(endpoint.uploads(), 0);
    });
}
