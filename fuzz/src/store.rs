//! The answers of a store that lies: listings, headers and bodies as they come over the network.

use std::collections::BTreeSet;
use std::fs;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dssefs_fs::namespace::{
    AttributeSource, Authenticator, ContentType, Defaults, Ino, KeyName, Namespace, NoKey, OwnKey, PosixForm, Settings,
};
use dssefs_s3::object::{ByteRange, ETag, Key, Prefix, Version};
use dssefs_s3::policy::EncryptionContext;
use dssefs_s3::s3::{
    Condition, Error, Gateway, Kind, LastWriterWins, ListRequest, NewObject, OtherCopy, Part, Payload, Source, Stored,
    Verified,
};

use super::hostile_store::{Answer, KEY, REQUESTS_MAX, with_hostile_store};
use super::input::{Input, scratch};

/// Whatever a store answers, each answer is taken for what it is: names, content, and receipts for what was stored.
pub fn store(data: &[u8]) {
    let (answer, verb) = Answer::read(&mut Input::new(data));
    with_hostile_store(|store| {
        let (_, asked) = store.answering(&answer, async |gateway| match verb % 5 {
            0 => lists(gateway, data.len()).await,
            1 => reads(gateway, &answer).await,
            _ => {}
        });
        assert!(asked.len() < REQUESTS_MAX, "{asked:?}");
        if verb % 5 > 1 {
            let (outcome, asked) = store.answering(&answer, async |gateway| match verb % 5 {
                2 => gateway.put(&object(), content(), &Condition::Absent).await.map(Some),
                3 => uploads(gateway).await,
                _ => gateway.copy(&source(), &object(), &Condition::Any(LastWriterWins::asked_for())).await.map(Some),
            });
            is_judged(&answer, &outcome, &asked);
        }
    });
}

/// A listing has names that can be, each once and in order; and what it says of an object stays within what stat(2) can
/// tell.
async fn lists(gateway: &Arc<Gateway>, bytes: usize) {
    let request =
        ListRequest { prefix: "d/", delimiter: true, start_after: None, continuation: Some("t"), entries_max: 1000 };
    match gateway.list(&request).await {
        Ok(page) => assert!(
            page.objects.iter().map(|object| &object.key).chain(&page.prefixes).all(|key| key.starts_with("d/"))
                && page.next.as_deref() != Some("t"),
            "what was not asked for: {page:?}"
        ),
        Err(error) => is_said(&error),
    }
    if let Ok(head) = gateway.head(&Key::new("d/f").unwrap()).await {
        assert!(head.meta.size <= i64::MAX as u64);
    }
    let names = Namespace::new(Arc::clone(gateway), settings());
    let Ok(entries) = names.list(Ino::ROOT).await else { return };
    assert!(entries.iter().all(|entry| entry.name.as_str() != ".dssefs"));
    assert!(entries.is_sorted_by(|one, next| one.name < next.name), "{entries:?}");
    let told: usize = entries.iter().map(|entry| entry.name.as_str().len()).sum();
    assert!(told <= bytes, "more is listed than was answered");
}

/// Content comes as long as it was announced, from where it was asked for, or with an error.
async fn reads(gateway: &Arc<Gateway>, answer: &Answer) {
    let key = Key::new("d/f").unwrap();
    for asked in [None, ByteRange::new(2, 6)] {
        let mut download = match gateway.get(&key, Some(&source().version), asked).await {
            Ok(download) => download,
            Err(error) => {
                is_said(&error);
                continue;
            }
        };
        let (range, size) = (download.range, download.head.meta.size);
        assert!(range.is_none_or(|range| range.end() <= size));
        assert!(asked.is_none_or(|asked| range == ByteRange::new(asked.start(), asked.end().min(size))), "{range:?}");
        let mut read = Vec::new();
        let mut is_whole = true;
        while let Some(chunk) = download.next().await {
            chunk.map_or_else(|_| is_whole = false, |bytes| read.extend_from_slice(&bytes));
        }
        assert!(answer.body.starts_with(&read));
        assert!(!is_whole || read.len() as u64 == range.map_or(0, ByteRange::len), "{range:?}");
    }
    if let Ok(Some(tags)) = gateway.tags(&key).await {
        assert!(tags.split('&').all(|pair| pair.matches('=').count() == 1), "{tags}");
    }
    if let Ok((_, checksums)) = gateway.head_with_checksums(&key).await {
        assert!(checksums.len() <= 2);
    }
    gateway.bucket_facts().await;
}

/// An upload that is begun is abandoned again, and one that was begun is completed.
async fn uploads(gateway: &Arc<Gateway>) -> Result<Option<Verified<Stored>>, Error> {
    if let Ok(upload) = gateway.start_upload(&object()).await {
        assert!(!upload.id().is_empty(), "an upload that nobody can name");
        let _ = upload.abort().await;
    }
    let upload = gateway.resume_upload(&object(), "id".into());
    let copied = upload.copy_part(1, &source(), ByteRange::new(0, 5).unwrap()).await;
    let sent = upload.put_part(2, content()).await;
    for part in [&copied, &sent].into_iter().flatten() {
        assert!(!part.etag.as_str().is_empty(), "a part that nobody can name");
    }
    let part = |number, part: Result<Part, Error>| {
        part.unwrap_or(Part { number, etag: ETag::new("\"p\""), size: 5, crc64: None })
    };
    let parts = vec![part(1, copied), part(2, sent)];
    upload
        .complete(parts, 10, None, &Condition::Any(LastWriterWins::asked_for()), OtherCopy::Held)
        .await
        .map(Some)
        .map_err(|unfinished| unfinished.error)
}

/// Only what the answer says to be under DSSE-KMS and the mount's key counts as stored. What it says to be stored
/// otherwise is deleted.
fn is_judged(answer: &Answer, outcome: &Result<Option<Verified<Stored>>, Error>, asked: &[String]) {
    let is_proved = answer.header("x-amz-server-side-encryption") == Some("aws:kms:dsse")
        && answer.header("x-amz-server-side-encryption-aws-kms-key-id") == Some(KEY)
        && answer.header("x-amz-server-side-encryption-customer-algorithm").is_none();
    match outcome {
        Ok(stored) => {
            assert!(is_proved && (200..300).contains(&answer.status), "{stored:?} is believed: {}", answer.headers);
        }
        Err(error) => {
            is_said(error);
            let is_mismatch = matches!(error.kind, Kind::Mismatch { .. });
            let context = answer.header("x-amz-server-side-encryption-context").filter(|context| !context.is_empty());
            let is_other_context =
                context.is_some_and(|text| EncryptionContext::answered(text) != Some(EncryptionContext::default()));
            // What no part of the answer names cannot be deleted, and the error says so.
            let is_dealt_with = asked.iter().any(|line| line.starts_with("DELETE"))
                || error.to_string().contains("the object may still be in the bucket");
            assert!(!is_mismatch || (!is_proved || is_other_context) && is_dealt_with, "{asked:?}: {error}");
        }
    }
}

fn is_said(error: &Error) {
    assert!(!error.remedy().is_empty() && error.to_string().len() > 10);
}

fn object() -> NewObject {
    NewObject::at(Key::new("d/f").unwrap())
}

fn content() -> Arc<dyn Payload> {
    Arc::new(bytes::Bytes::from_static(b"bytes"))
}

fn source() -> Source {
    let version = Version { etag: ETag::new("\"e\""), id: None };
    Source { key: Key::new("d/g").unwrap(), version, size: 5 }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Nothing is renamed here.
#[derive(Debug)]
struct NoKeys;

impl Authenticator for NoKeys {
    fn own(&self) -> BoxFuture<'_, Result<OwnKey, String>> {
        Box::pin(async { Err("a listing needs none".to_owned()) })
    }

    fn find<'a>(
        &'a self,
        _: &'a KeyName,
        _: &'a Prefix,
    ) -> BoxFuture<'a, Result<Arc<dssefs_seal::crypto::MacKey>, NoKey>> {
        Box::pin(async { Err(NoKey::Unavailable("a listing needs none".to_owned())) })
    }
}

fn settings() -> Settings {
    Settings {
        prefix: Prefix::root(),
        defaults: Defaults { uid: 0, gid: 0, file_mode: 0o644, dir_mode: 0o755 },
        content_type: ContentType::Guess,
        ttl: Duration::from_secs(1),
        entries_max: 1000,
        names_bytes_max: 64 << 20,
        attributes: AttributeSource::Full,
        posix_form: PosixForm::S3fs,
        heads_in_flight_max: 2,
        rename_lease: Duration::from_secs(60),
        last_writer_wins: None,
        authenticator: Arc::new(NoKeys),
    }
}

fn is_hex(name: &&str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Of a list of uploads under way only those are aborted that it names, that did not end, and that the store has below
/// this mount. A held object is deleted only by a name of 32 hexadecimal digits.
pub fn ledger(data: &[u8]) {
    const UPLOADS: [&str; 4] = ["a", "b", "c", "dd"];
    let directory = scratch();
    fs::write(directory.path().join("uploads-0"), data).unwrap();
    let text = String::from_utf8_lossy(data);
    let mut named = BTreeSet::new();
    let mut lines = text.split('\n');
    if lines.next() == Some("s3://data") {
        for line in lines {
            if let Some(begun) = line.strip_prefix('+') {
                named.insert(begun);
            } else if let Some(ended) = line.strip_prefix('-') {
                named.remove(ended);
            }
        }
    }
    let upload = |id: &&str| format!("<Upload><Key>k{id}</Key><UploadId>{id}</UploadId></Upload>");
    let listed: String = UPLOADS.iter().map(upload).collect();
    let body =
        format!("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{listed}</ListMultipartUploadsResult>");
    let answer = Answer { status: 200, headers: String::new(), body: body.into_bytes() };
    with_hostile_store(|store| {
        let (ended, asked) = store.answering(&answer, async |gateway| {
            gateway.abort_leftovers(directory.path(), "s3://data", &Prefix::root()).await
        });
        let deletes = asked.iter().filter(|line| line.starts_with("DELETE"));
        let (deleted, held): (Vec<&String>, Vec<&String>) = deletes.partition(|line| line.contains("uploadId"));
        let expected: Vec<&str> = UPLOADS.into_iter().filter(|id| named.contains(id)).collect();
        assert_eq!(deleted.len(), expected.len(), "{asked:?}");
        let names: Vec<&str> = named.iter().filter_map(|entry| entry.strip_prefix("held/")).filter(is_hex).collect();
        let is_named = |line: &&String| names.iter().any(|name| line.contains(&format!(".dssefs/held/{name}")));
        assert!(held.iter().all(is_named), "{asked:?}");
        if names.is_empty() {
            assert_eq!((ended.uploads, ended.held), (expected.len(), 0), "{asked:?}");
        }
        for id in expected {
            assert!(
                deleted
                    .iter()
                    .any(|line| line.contains(&format!("/k{id}?")) && line.contains(&format!("uploadId={id}")))
            );
        }
    });
}
