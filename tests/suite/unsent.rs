//! Large files whose commit failed after parts of them had left this host: what is in an upload is as good as kept.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::thread;

use dssefs_emulator::faults::{Fault, Rule};
use rustix::fs::copy_file_range;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::kept::{is_empty, kill, recover, told};
use crate::common::{
    BUCKET, Endpoint, MINUTE, Mount, attribute, cp, denied, errno, eventually, noise, scenario, sent_bytes,
};
use crate::copy::half_done_copy;

const LENGTH: usize = 90 << 20;

/// So little memory that parts are given up as soon as the store has them.
fn mount(endpoint: &Endpoint, spill: &TempDir, more: &[&str]) -> Mount {
    let spill = spill.path().to_str().unwrap();
    Mount::with(endpoint, &[&["--memory", "32MiB", "--spill", "64MiB", "--spill-dir", spill], more].concat())
}

fn keeping(endpoint: &Endpoint, spill: &TempDir) -> Mount {
    mount(endpoint, spill, &["--spill-keys", "kms"])
}

/// Writes the file, in vain; how much of it was taken.
fn write_in_vain(mount: &Mount, content: &[u8]) -> usize {
    let complaint = cp(content, &mount.join("large")).unwrap_err();
    assert!(complaint.contains("Permission denied"), "{complaint}");
    fs::metadata(mount.join("large")).unwrap().len() as usize
}

fn abort_uploads(endpoint: &Endpoint) {
    endpoint.with(|s3| async move {
        let listed = s3.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
        for upload in listed.uploads() {
            let abort = s3.abort_multipart_upload().bucket(BUCKET).key(upload.key().unwrap());
            abort.upload_id(upload.upload_id().unwrap()).send().await.unwrap();
        }
    });
}

#[test]
fn an_upload_that_was_left_complete_but_for_its_end_is_completed_by_the_next_mount() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(11, LENGTH);
        let first = keeping(&endpoint, &spill);
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", denied()).times(0)]);
        assert_eq!(write_in_vain(&first, &content), LENGTH);
        assert_eq!(attribute(&first.join("large"), "user.dsse.verdict").unwrap(), "pending");
        kill(first);
        let listed = told(&recover(&endpoint, &spill, &["list"]));
        assert!(listed.contains("in an upload that is not complete") && listed.contains("AccessDenied"), "{listed}");
        let export = spill.path().join("export");
        let exported = recover(&endpoint, &spill, &["export", "large", export.to_str().unwrap()]);
        assert!(!exported.status.success() && told(&exported).contains("cannot be read before"), "{}", told(&exported));
        endpoint.clear_faults();
        // It cannot read the journal, and must not take its upload for a leftover.
        assert!(mount(&endpoint, &spill, &[]).end().success());
        assert_eq!((endpoint.uploads(), endpoint.head("large").is_some()), (1, false));
        let (second, counters) = endpoint.counted(|| keeping(&endpoint, &spill));
        assert!(endpoint.content("large") == content, "the content differs");
        assert!(sent_bytes(&counters) < 17 << 20, "{} bytes were sent again", sent_bytes(&counters));
        endpoint.assert_dsse("large");
        assert_eq!(endpoint.uploads(), 0);
        assert!(second.end().success());
        assert!(is_empty(&spill));
    });
}

/// A file that was stored was reported as lost: its upload was complete and gone, and the mount that had completed it
/// could not put its attributes right.
#[test]
fn an_upload_that_was_completed_without_its_last_attributes_is_not_lost() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(17, LENGTH);
        let first = keeping(&endpoint, &spill);
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", denied()).times(0)]);
        let file = streamed(&first, &content);
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(errno(file.sync_all()), libc::EACCES);
        kill(first);
        drop(file);
        endpoint.inject_faults(vec![Rule::on("CopyObject", denied()).key_contains("large").times(0)]);
        let second = keeping(&endpoint, &spill);
        assert!(second.log().contains("could not be stored"), "{}", second.log());
        assert!(endpoint.uploads() == 0 && endpoint.head("large").is_some(), "the content is stored");
        kill(second);
        endpoint.clear_faults();
        let third = keeping(&endpoint, &spill);
        assert!(!third.log().contains("could not be stored"), "{}", third.log());
        assert_eq!(fs::metadata(third.join("large")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(endpoint.content("large") == content, "the content differs");
        endpoint.assert_dsse("large");
        assert!(third.end().success() && is_empty(&spill));
    });
}

#[test]
fn an_upload_that_was_refused_half_way_is_finished_with_the_bytes_that_are_kept() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(12, LENGTH);
        let first = keeping(&endpoint, &spill);
        endpoint.inject_faults(vec![Rule::on("UploadPart", denied()).nth(4).times(0)]);
        let taken = write_in_vain(&first, &content);
        assert!(taken > 48 << 20, "{taken} bytes");
        let status = first.end();
        assert_eq!(status.code(), Some(11));
        assert_eq!(endpoint.uploads(), 1, "the end of the mount leaves an upload that the journal counts on");
        endpoint.clear_faults();
        let sent = recover(&endpoint, &spill, &["upload"]);
        assert!(sent.status.success(), "{}", told(&sent));
        assert!(endpoint.content("large") == content[..taken], "the content differs");
        endpoint.assert_dsse("large");
        assert!(endpoint.uploads() == 0 && is_empty(&spill));
    });
}

#[test]
fn of_an_upload_that_is_gone_the_lost_bytes_are_named_and_nothing_else_is_stored() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(13, LENGTH);
        let first = keeping(&endpoint, &spill);
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", denied()).times(0)]);
        write_in_vain(&first, &content);
        kill(first);
        endpoint.clear_faults();
        abort_uploads(&endpoint);
        let sent = recover(&endpoint, &spill, &["upload"]);
        assert_eq!(sent.status.code(), Some(11), "{}", told(&sent));
        let names_lost = |said: &str| said.contains("has no copy of the bytes 0 to ");
        assert!(names_lost(&told(&sent)), "{}", told(&sent));
        assert!(endpoint.head("large").is_none(), "an object with bytes that nobody has");
        let second = keeping(&endpoint, &spill);
        assert!(names_lost(&second.log()), "{}", second.log());
        assert!(second.end().success());
        assert!(names_lost(&told(&recover(&endpoint, &spill, &["list"]))), "the reason is kept");
    });
}

#[test]
fn while_the_mount_lives_a_commit_that_failed_is_tried_again_without_the_parts_that_are_there() {
    scenario().within(MINUTE * 3).with_spill(|endpoint, spill| {
        let content = noise(14, LENGTH);
        let mount = mount(&endpoint, &spill, &[]);
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", denied()).times(0)]);
        assert_eq!(write_in_vain(&mount, &content), LENGTH);
        endpoint.reset();
        endpoint.clear_faults();
        eventually("it is stored by itself", MINUTE, || endpoint.head("large").is_some());
        assert_eq!(sent_bytes(&endpoint.counters()), 0, "parts were sent again");
        assert!(endpoint.content("large") == content);
        assert!(mount.end().success());
    });
}

#[test]
fn a_mount_that_ends_with_a_large_file_unsaved_in_memory_mode_says_so_and_aborts_the_upload() {
    scenario().within(MINUTE * 3).with_spill(|endpoint, spill| {
        let mut first = mount(&endpoint, &spill, &[]);
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", denied()).times(0)]);
        write_in_vain(&first, &noise(15, LENGTH));
        first.signal(Signal::TERM);
        assert_eq!(first.ended().and_then(|status| status.code()), Some(11));
        assert!(first.log().contains("lost with this process") && first.log().contains("large"), "{}", first.log());
        endpoint.clear_faults();
        assert_eq!(endpoint.uploads(), 0);
        assert!(is_empty(&spill));
    });
}

/// Writes the whole file and leaves it open: most of its parts are in the upload alone by then.
fn streamed(mount: &Mount, content: &[u8]) -> File {
    let mut file = File::create(mount.join("large")).unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn what_was_lost_with_an_upload_while_the_mount_lived_is_never_sent_as_zeros_by_the_next() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        // The journal has room for all that is not sent, beside what is spilled of it.
        let room = ["--memory", "32MiB", "--spill", "512MiB", "--spill-keys", "kms", "--spill-dir"];
        let first = Mount::with(&endpoint, &[&room[..], &[spill.path().to_str().unwrap()]].concat());
        let content = noise(15, 96 << 20);
        let (head, tail) = content.split_at(48 << 20);
        let mut file = streamed(&first, head);
        // What is sent goes from memory when the rest needs the room.
        eventually("most of it is sent", MINUTE, || sent_bytes(&endpoint.counters()) >= 24 << 20);
        file.write_all(tail).unwrap();
        abort_uploads(&endpoint);
        assert_eq!(errno(file.sync_all()), libc::EIO);
        drop(file);
        assert_eq!(first.end().code(), Some(11));
        for _ in 0..2 {
            let next = keeping(&endpoint, &spill);
            assert!(endpoint.head("large").is_none(), "what is left of it was stored");
            assert!(next.log().contains("could not be stored"), "{}", next.log());
        }
        let listed = told(&recover(&endpoint, &spill, &["list"]));
        assert!(listed.contains("large") && listed.contains("this host has no copy"), "{listed}");
    });
}

/// The journal's entry had taken the upload off the list of those that a start aborts, for good.
#[test]
fn an_upload_that_no_journal_needs_any_more_is_aborted_by_the_next_mount() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let first = keeping(&endpoint, &spill);
        let refused = ["CompleteMultipartUpload", "AbortMultipartUpload"];
        endpoint.inject_faults(refused.map(|operation| Rule::on(operation, denied()).times(0)).into());
        write_in_vain(&first, &noise(19, LENGTH));
        fs::write(first.join("large"), b"small").unwrap();
        kill(first);
        endpoint.clear_faults();
        assert_eq!(endpoint.uploads(), 1, "it could not be aborted");
        let next = keeping(&endpoint, &spill);
        assert_eq!(endpoint.uploads(), 0);
        assert_eq!(endpoint.content("large"), b"small");
        assert_eq!(next.end().code(), Some(0));
        assert!(is_empty(&spill), "the list has nothing left");
    });
}

#[test]
fn uploads_that_a_session_in_use_may_need_are_not_aborted() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(20, LENGTH);
        let first = keeping(&endpoint, &spill);
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", denied()).times(0)]);
        write_in_vain(&first, &content);
        kill(first);
        // It takes over what the first one kept, and cannot complete it either.
        let second = keeping(&endpoint, &spill);
        let third = keeping(&endpoint, &spill);
        assert_eq!(endpoint.uploads(), 1, "the second one's journal needs it");
        drop((second, third));
        endpoint.clear_faults();
        let _fourth = keeping(&endpoint, &spill);
        assert!(endpoint.content("large") == content);
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn a_second_signal_does_not_drop_a_commit_in_its_middle() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(16, LENGTH);
        let mut mount = mount(&endpoint, &spill, &[]);
        let file = streamed(&mount, &content);
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", Fault::DelayMs(4_000))]);
        endpoint.reset();
        mount.signal(Signal::TERM);
        let completing = || endpoint.counters().requests("CompleteMultipartUpload") > 0;
        eventually("the upload is being completed", MINUTE, completing);
        mount.signal(Signal::TERM);
        assert!(mount.ended().expect("it ends").success(), "{}", mount.log());
        assert!(endpoint.content("large") == content);
        endpoint.assert_dsse("large");
        drop(file);
    });
}

#[test]
fn another_request_for_the_key_does_not_cost_an_upload_that_has_the_only_copy() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(17, LENGTH);
        let mount = mount(&endpoint, &spill, &[]);
        let file = streamed(&mount, &content);
        let conflict = Fault::Failure { status: 409, code: "ConditionalRequestConflict".into(), message: "x".into() };
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", conflict).times(2)]);
        file.sync_all().unwrap();
        assert!(endpoint.content("large") == content);
    });
}

#[test]
fn a_copy_that_is_kept_does_not_count_on_a_source_that_this_mount_removes() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(18, 1 << 20);
        endpoint.put("source", &content);
        let first = keeping(&endpoint, &spill);
        endpoint
            .inject_faults(vec![Rule::on("CopyObject", denied()).times(0), Rule::on("PutObject", denied()).times(0)]);
        let (source, copy) = (File::open(first.join("source")).unwrap(), File::create(first.join("copy")).unwrap());
        assert_eq!(copy_file_range(&source, None, &copy, None, content.len()).unwrap(), content.len());
        assert_eq!(errno(copy.sync_all()), libc::EACCES);
        drop((source, copy));
        fs::remove_file(first.join("source")).unwrap();
        assert!(endpoint.head("source").is_none());
        kill(first);
        endpoint.clear_faults();
        let _next = keeping(&endpoint, &spill);
        assert!(endpoint.content("copy") == content);
        endpoint.assert_dsse("copy");
    });
}

/// The last part is short, and is sent again in its place once the file has grown. What the journal said of it was not
/// so any more, and nothing of the file could be had.
#[test]
fn what_is_appended_after_a_failed_commit_does_not_cost_what_is_kept() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(19, LENGTH);
        let first = keeping(&endpoint, &spill);
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", denied()).times(0)]);
        let mut file = streamed(&first, &content);
        assert_eq!(errno(file.sync_all()), libc::EACCES);
        file.write_all(&noise(20, 1 << 20)).unwrap();
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", Fault::Stall).times(0)]);
        let syncing = thread::spawn(move || file.sync_all());
        eventually("the last part was sent again", MINUTE, || endpoint.stalled() > 0);
        kill(first);
        assert!(syncing.join().unwrap().is_err());
        endpoint.clear_faults();
        let second = keeping(&endpoint, &spill);
        assert!(endpoint.content("large").starts_with(&content), "{}", second.log());
        endpoint.assert_dsse("large");
        assert!(second.end().success() && is_empty(&spill) && endpoint.uploads() == 0);
    });
}

/// The edit was kept nowhere while the copy of what was there before could not be saved; and then it was stored first,
/// so that nothing was left to be copied.
#[test]
fn an_edit_of_what_a_kept_copy_counts_on_is_kept_too_and_stored_after_the_copy() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(21, 6 << 20);
        endpoint.put("a-source", &content);
        let first = keeping(&endpoint, &spill);
        endpoint.inject_faults(
            ["CopyObject", "PutObject", "GetObject"].map(|name| Rule::on(name, denied()).times(0)).to_vec(),
        );
        let copy = half_done_copy(&first.join("a-source"), &first.join("copy"));
        assert_eq!(errno(copy.sync_all()), libc::EACCES);
        let source = OpenOptions::new().write(true).open(first.join("a-source")).unwrap();
        source.write_all_at(b"edited", 0).unwrap();
        assert_eq!(errno(source.sync_all()), libc::EACCES);
        let said = attribute(&first.join("a-source"), "user.dsse.last-error").unwrap();
        assert!(said.contains("copy, an unsaved copy of it"), "{said}");
        kill(first);
        drop((copy, source));
        let listed = told(&recover(&endpoint, &spill, &["list"]));
        assert!(listed.contains("  copy  ") && listed.contains("  a-source  "), "{listed}");
        // While the copy cannot be made, its source stays.
        endpoint.inject_faults(vec![Rule::on("CopyObject", denied()).times(0)]);
        let second = keeping(&endpoint, &spill);
        assert!(second.log().contains("has to be stored first"), "{}", second.log());
        assert!(endpoint.content("a-source") == content);
        assert!(second.end().success());
        endpoint.clear_faults();
        let third = keeping(&endpoint, &spill);
        assert!(endpoint.content("copy") == content, "{}", third.log());
        assert!(endpoint.content("a-source") == [b"edited", &content[6..]].concat());
        assert!(third.end().success() && is_empty(&spill));
    });
}

/// It was kept in words that no version understood: an upload with bytes of an object that the file had not any more.
#[test]
fn a_copy_that_has_grown_and_lost_its_source_is_kept_like_any_file() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(22, LENGTH);
        endpoint.put("source", &content[..8 << 20]);
        let first = keeping(&endpoint, &spill);
        let mut copy = half_done_copy(&first.join("source"), &first.join("copy"));
        copy.write_all(&content[8 << 20..25 << 20]).unwrap();
        fs::remove_file(first.join("source")).unwrap();
        copy.write_all(&content[25 << 20..]).unwrap();
        endpoint.inject_faults(vec![Rule::on("CompleteMultipartUpload", denied()).times(0)]);
        assert_eq!(errno(copy.sync_all()), libc::EACCES);
        kill(first);
        drop(copy);
        endpoint.clear_faults();
        let second = keeping(&endpoint, &spill);
        assert!(endpoint.head("copy").is_some() && endpoint.content("copy") == content, "{}", second.log());
        assert!(second.end().success() && is_empty(&spill) && endpoint.uploads() == 0);
    });
}

/// The copy had parts in its upload alone, and could not be completed to be read: whatever was done with the source was
/// EIO.
#[test]
fn a_large_copy_that_cannot_be_made_any_more_does_not_hold_its_source() {
    scenario().within(MINUTE * 4).with_spill(|endpoint, spill| {
        let content = noise(23, LENGTH);
        endpoint.put("source", &content[..8 << 20]);
        let mount = mount(&endpoint, &spill, &["--metadata-ttl", "0"]);
        let mut copy = half_done_copy(&mount.join("source"), &mount.join("copy"));
        copy.write_all(&content[8 << 20..]).unwrap();
        endpoint.put("source", b"by another host");
        fs::write(mount.join("source"), "by this one").unwrap();
        assert_eq!(endpoint.content("source"), b"by this one");
        fs::remove_file(mount.join("source")).unwrap();
        assert_eq!(errno(copy.sync_all()), libc::ESTALE);
        assert!(endpoint.head("copy").is_none());
    });
}
