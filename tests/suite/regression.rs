//! The reason for which this program exists: whatever programs do to an object, it stays under DSSE-KMS and its key,
//! with all that it carried. The table is `tests/regression.tsv`, which `scripts/cross-check` goes through against
//! another store as well.

use std::fs;
use std::path::Path;
use std::process::Command;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption, StorageClass};

use crate::common::{BUCKET, Endpoint, MINUTE, Mount, noise, scenario};

const SMALL: usize = 1024;
/// Uploaded in parts, and changed in parts by the mount.
const LARGE: usize = 24 << 20;
const PART: usize = 8 << 20;

/// A line of the table.
struct Row {
    name: &'static str,
    result: &'static str,
    keeps_all: bool,
    command: &'static str,
}

fn table() -> Vec<Row> {
    let lines = include_str!("../regression.tsv").lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<Row> = lines.map(row).collect();
    assert!(rows.len() >= 20, "the table has lost its rows");
    rows
}

fn row(line: &'static str) -> Row {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, result, keeps, command] = fields[..] else { panic!("not four fields: {line}") };
    assert!(["all", "encryption"].contains(&keeps), "{line}");
    Row { name, result, keeps_all: keeps == "all", command }
}

/// The key of a row's object: names of rows are no names of files.
fn key(row: &Row) -> String {
    format!("dir/{}", row.name.replace([' ', ','], "-"))
}

fn run(row: &Row, path: &Path, size: usize) {
    let half = (size / 2).to_string();
    let output = Command::new("sh").args(["-euc", row.command, "sh"]).arg(path).arg(half).output().unwrap();
    assert!(output.status.success(), "{}: {}", row.name, String::from_utf8_lossy(&output.stderr));
}

/// What the same command makes of the same bytes on a local disk.
fn expected(row: &Row, content: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, content).unwrap();
    run(row, &path, content.len());
    fs::read(format!("{}{}", path.display(), row.result)).unwrap()
}

/// Puts an object with everything that must be carried along; a large one in parts, as large ones come to be.
fn put(endpoint: &Endpoint, key: &str, content: &[u8]) {
    let arn = endpoint.key_arn().to_owned();
    endpoint.with(|s3| async move {
        macro_rules! described {
            ($request:expr) => {
                $request
                    .bucket(BUCKET)
                    .key(key)
                    .server_side_encryption(ServerSideEncryption::AwsKmsDsse)
                    .ssekms_key_id(&arn)
                    .metadata("owner-tag", "team x")
                    .metadata("colour", "red")
                    .tagging("team=x&cost%20centre=42")
                    .storage_class(StorageClass::StandardIa)
                    .content_type("text/csv; charset=utf-8")
                    .cache_control("no-store, max-age=0")
                    .content_disposition("attachment; filename=\"a.csv\"")
                    .content_language("en")
                    .website_redirect_location("/elsewhere")
            };
        }
        if content.len() <= PART {
            let body = ByteStream::from(content.to_vec());
            described!(s3.put_object()).body(body).send().await.expect("the object is put");
            return;
        }
        let created = described!(s3.create_multipart_upload()).send().await.expect("an upload");
        let id = created.upload_id().expect("its id");
        let mut parts = CompletedMultipartUpload::builder();
        for (number, part) in (1..).zip(content.chunks(PART)) {
            let body = ByteStream::from(part.to_vec());
            let sent = s3.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(number).body(body).send();
            let etag = sent.await.expect("a part").e_tag().expect("its ETag").to_owned();
            parts = parts.parts(CompletedPart::builder().part_number(number).e_tag(etag).build());
        }
        let complete = s3.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id);
        complete.multipart_upload(parts.build()).send().await.expect("the object is complete");
    });
}

/// A text that is attached to an object, and that no request to write the object can carry.
fn annotate(endpoint: &Endpoint, key: &str) {
    endpoint.with(|s3| async move {
        let put = s3.put_object_annotation().bucket(BUCKET).key(key).annotation_name("lineage");
        put.annotation_payload(ByteStream::from_static(b"from a to b")).send().await.expect("it is annotated");
    });
}

fn annotation(endpoint: &Endpoint, key: &str) -> Option<String> {
    endpoint.with(|s3| async move {
        let get = s3.get_object_annotation().bucket(BUCKET).key(key).annotation_name("lineage");
        let payload = get.send().await.ok()?.annotation_payload.collect().await.ok()?;
        String::from_utf8(payload.to_vec()).ok()
    })
}

/// Copies an object within the store, with all that it carries, as an ordinary client does.
fn copy(endpoint: &Endpoint, from: &str, to: &str) {
    let arn = endpoint.key_arn().to_owned();
    endpoint.with(|s3| async move {
        let copy = s3.copy_object().bucket(BUCKET).key(to).copy_source(format!("{BUCKET}/{from}"));
        let copy = copy.server_side_encryption(ServerSideEncryption::AwsKmsDsse).ssekms_key_id(arn);
        // The two that a copy does not carry by itself.
        let copy = copy.storage_class(StorageClass::StandardIa).website_redirect_location("/elsewhere");
        copy.send().await.expect("the object is copied");
    });
}

/// What is wrong with the object that a row left: nothing, or one line for each difference.
fn differences(endpoint: &Endpoint, key: &str, keeps_all: bool) -> Vec<String> {
    let Some(head) = endpoint.head(key) else { return vec!["it is not there".to_owned()] };
    let mut facts = vec![
        ("encryption", head.server_side_encryption().map(|sse| sse.as_str().to_owned()), "aws:kms:dsse"),
        ("key", head.ssekms_key_id().map(str::to_owned), endpoint.key_arn()),
    ];
    if keeps_all {
        let user = |name: &str| head.metadata().and_then(|metadata| metadata.get(name).cloned());
        facts.extend([
            ("x-amz-meta-owner-tag", user("owner-tag"), "team x"),
            ("x-amz-meta-colour", user("colour"), "red"),
            ("tags", Some(tags(endpoint, key)), "cost centre=42 team=x"),
            ("annotation", annotation(endpoint, key), "from a to b"),
            ("storage class", head.storage_class().map(|class| class.as_str().to_owned()), "STANDARD_IA"),
            ("Content-Type", head.content_type().map(str::to_owned), "text/csv; charset=utf-8"),
            ("Cache-Control", head.cache_control().map(str::to_owned), "no-store, max-age=0"),
            ("Content-Disposition", head.content_disposition().map(str::to_owned), "attachment; filename=\"a.csv\""),
            ("website redirect", head.website_redirect_location().map(str::to_owned), "/elsewhere"),
            ("Content-Language", head.content_language().map(str::to_owned), "en"),
        ]);
    }
    let wrong = facts.into_iter().filter(|(_, seen, wanted)| seen.as_deref() != Some(*wanted));
    wrong.map(|(what, seen, wanted)| format!("{what} is {seen:?} instead of {wanted:?}")).collect()
}

fn tags(endpoint: &Endpoint, key: &str) -> String {
    endpoint.with(|s3| async move {
        let tagging = s3.get_object_tagging().bucket(BUCKET).key(key).send().await.expect("its tags");
        let mut tags: Vec<String> =
            tagging.tag_set().iter().map(|tag| format!("{}={}", tag.key(), tag.value())).collect();
        tags.sort();
        tags.join(" ")
    })
}

/// Every row, each on an object of its own; the failure names all rows that broke something.
fn nothing_is_lost(size: usize, versioned: bool) {
    scenario().within(MINUTE * 5).unmounted(move |endpoint| {
        if versioned {
            endpoint.keep_versions();
        }
        let content = noise(size as u64, size);
        put(&endpoint, "original", &content);
        annotate(&endpoint, "original");
        table().iter().for_each(|row| copy(&endpoint, "original", &key(row)));
        let mount = Mount::of(&endpoint);
        let mut broken = Vec::new();
        for row in table() {
            let key = key(&row);
            run(&row, &mount.join(&key), size);
            let result = format!("{key}{}", row.result);
            let mut wrong = differences(&endpoint, &result, row.keeps_all);
            if wrong.is_empty() && endpoint.content(&result) != expected(&row, &content) {
                wrong.push("the content differs".to_owned());
            }
            broken.extend(wrong.into_iter().map(|what| format!("{}: {what}", row.name)));
        }
        assert!(broken.is_empty(), "{} differences:\n{}", broken.len(), broken.join("\n"));
        assert_eq!(endpoint.uploads(), 0);
    });
}

#[test]
fn a_small_object_keeps_everything_whatever_programs_do_to_it() {
    nothing_is_lost(SMALL, false);
}

#[test]
fn a_small_object_keeps_everything_in_a_bucket_with_versions() {
    nothing_is_lost(SMALL, true);
}

#[test]
fn a_large_object_keeps_everything_whatever_programs_do_to_it() {
    nothing_is_lost(LARGE, false);
}

#[test]
fn a_large_object_keeps_everything_in_a_bucket_with_versions() {
    nothing_is_lost(LARGE, true);
}

/// Requests that would make a new version: a program that opens for writing and thinks better of it makes none.
#[test]
fn what_changes_nothing_sends_nothing() {
    scenario().unmounted(|endpoint| {
        put(&endpoint, "file", b"content");
        let mount = Mount::of(&endpoint);
        let before = endpoint.head("file").unwrap().e_tag().map(str::to_owned);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(mount.join("file")).unwrap()) & 0o7777;
        for command in [
            ": >>\"$1\"".to_owned(),
            "cat \"$1\" >/dev/null".to_owned(),
            "truncate -s +0 \"$1\"".to_owned(),
            "exec 3<>\"$1\"; exec 3>&-".to_owned(),
            format!("chmod {mode:o} \"$1\""),
        ] {
            let status = Command::new("sh").args(["-euc", &command, "sh"]).arg(mount.join("file")).status().unwrap();
            assert!(status.success(), "{command}");
        }
        assert_eq!(endpoint.head("file").unwrap().e_tag().map(str::to_owned), before);
        let counters = endpoint.counters();
        let writes = ["CreateMultipartUpload", "CopyObject"].map(|operation| counters.requests(operation));
        assert_eq!(writes, [1, 1], "the mount's own proof, and nothing else");
    });
}
