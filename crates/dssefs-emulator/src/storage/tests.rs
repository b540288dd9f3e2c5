use std::collections::BTreeSet;

use tempfile::TempDir;

use super::listing::{Found, Query, Walk};
use super::*;

fn object(bucket: &Bucket, bytes: &str) -> Object {
    let mut writer = bucket.writer().unwrap();
    writer.write(bytes.as_bytes()).unwrap();
    let encryption = Encryption {
        algorithm: "AES256".into(),
        key_arn: None,
        bucket_key: false,
        context_header: None,
        context: BTreeMap::new(),
    };
    Object {
        etag: "e".into(),
        body: Arc::new(writer.finish()),
        parts: Vec::new(),
        upload_id: None,
        headers: Headers::default(),
        tags: Vec::new(),
        annotations: BTreeMap::new(),
        encryption,
        checksum: None,
    }
}

fn put(bucket: &Bucket, key: &str, bytes: &str) {
    bucket.put(key, 0, object(bucket, bytes), |_| Ok::<_, Error>(())).unwrap();
}

fn read(bucket: &Bucket, key: &str) -> String {
    let version = bucket.find(key, None).unwrap();
    let body = &version.object().unwrap().body;
    String::from_utf8(bucket.reader(body, 0..body.length()).read(u64::MAX).unwrap()).unwrap()
}

fn bodies(dir: &TempDir) -> usize {
    std::fs::read_dir(dir.path().join("bucket/bodies")).unwrap().count()
}

fn open(dir: &TempDir) -> (Store, Arc<Bucket>) {
    let store = Store::open(dir.path()).unwrap();
    if store.bucket("bucket").is_err() {
        store.create("bucket", Settings::default()).unwrap();
    }
    let bucket = store.bucket("bucket").unwrap();
    (store, bucket)
}

#[test]
fn only_leftovers_of_a_killed_process_are_removed() {
    let dir = TempDir::new().unwrap();
    let (_, bucket) = open(&dir);
    put(&bucket, "k", "kept");
    let root = dir.path();
    std::fs::write(root.join("bucket/bodies/orphan"), "x").unwrap();
    std::fs::write(root.join("bucket/keys/0.unfinished"), "{").unwrap();
    std::fs::create_dir_all(root.join("UNFINISHED-1/keys")).unwrap();
    std::fs::create_dir(root.join("bucket/uploads/without-record")).unwrap();
    std::fs::write(root.join("a-file-of-yours"), "x").unwrap();
    let (store, bucket) = open(&dir);
    assert_eq!(read(&bucket, "k"), "kept");
    assert_eq!((bodies(&dir), store.all().len(), bucket.uploads().unwrap().len()), (1, 1, 0));
    assert!(!root.join("bucket/keys/0.unfinished").exists());
    assert!(!root.join("UNFINISHED-1").exists());
    assert!(root.join("a-file-of-yours").exists());
}

#[test]
fn an_unreadable_record_stops_the_start() {
    let dir = TempDir::new().unwrap();
    let (_, bucket) = open(&dir);
    put(&bucket, "k", "x");
    std::fs::write(dir.path().join("bucket/keys/bad.json"), "{").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("bad.json"), "{error}");
}

#[test]
fn an_uncommitted_body_goes_with_its_holder() {
    let dir = TempDir::new().unwrap();
    let (_, bucket) = open(&dir);
    let mut writer = bucket.writer().unwrap();
    writer.write(b"half").unwrap();
    drop(writer);
    let refused = bucket.put("k", 0, object(&bucket, "x"), |_| Err(Error::NoSuchVersion));
    assert!(refused.is_err());
    assert_eq!(bodies(&dir), 0);
}

#[test]
fn a_replaced_body_lasts_until_its_last_reader() {
    let dir = TempDir::new().unwrap();
    let (_, bucket) = open(&dir);
    put(&bucket, "k", "old");
    let old = bucket.find("k", None).unwrap();
    put(&bucket, "k", "new");
    let body = &old.object().unwrap().body;
    assert_eq!(bucket.reader(body, 1..3).read(10).unwrap(), b"ld");
    assert_eq!(bodies(&dir), 2);
    drop(old);
    assert_eq!(bodies(&dir), 1);
}

#[test]
fn a_completed_upload_does_not_come_back() {
    let dir = TempDir::new().unwrap();
    let (_, bucket) = open(&dir);
    let template = object(&bucket, "part");
    let record = UploadRecord {
        key: "k".into(),
        initiated: 0,
        headers: Headers::default(),
        tags: Vec::new(),
        encryption: template.encryption.clone(),
        algorithm: None,
        composite: false,
    };
    let id = bucket.start_upload(record).unwrap();
    let part = Part { etag: "e".into(), modified: 0, body: Arc::clone(&template.body), checksum: None };
    bucket.put_part(&id, 1, part).unwrap();
    // The state of the disk between the two steps of a completion.
    let saved = dir.path().join("saved");
    std::fs::create_dir(&saved).unwrap();
    let upload = dir.path().join("bucket/uploads").join(&id);
    for name in ["upload.json", "1.json"] {
        std::fs::copy(upload.join(name), saved.join(name)).unwrap();
    }
    let parts = vec![PartSummary { number: 1, size: 4, checksum: None }];
    let assemble = |upload: &Upload| {
        let body = Arc::new(Body::of_parts(upload.parts.values().map(Arc::as_ref)));
        Ok::<_, Error>(Object { body, parts, upload_id: Some(id.clone()), ..template })
    };
    bucket.complete("k", &id, 0, |_| Ok(()), assemble).unwrap();
    std::fs::rename(&saved, &upload).unwrap();
    let (_, bucket) = open(&dir);
    assert!(matches!(bucket.abort("k", &id), Err(Error::NoSuchUpload)));
    assert_eq!(read(&bucket, "k"), "part");
}

#[test]
fn requests_under_way_cannot_write_to_a_deleted_bucket() {
    let dir = TempDir::new().unwrap();
    let (store, bucket) = open(&dir);
    put(&bucket, "k", "x");
    assert!(matches!(store.delete("bucket"), Err(Error::BucketNotEmpty)));
    let body = object(&bucket, "y");
    bucket.delete("k", 0, |_| Ok::<_, Error>(())).unwrap();
    store.delete("bucket").unwrap();
    assert!(matches!(bucket.put("k", 0, body, |_| Ok::<_, Error>(())), Err(Error::NoSuchBucket)));
    assert!(!dir.path().join("bucket").exists());
}

#[test]
fn a_copied_range_across_files_reads_the_same() {
    let dir = TempDir::new().unwrap();
    let (_, bucket) = open(&dir);
    let pieces: Vec<Object> = ["abc", "", "defgh", "i"].iter().map(|bytes| object(&bucket, bytes)).collect();
    let whole = Body::joined(pieces.iter().map(|piece| piece.body.as_ref()));
    let all = "abcdefghi";
    for from in 0..all.len() {
        for to in from..=all.len() {
            let copy = bucket.copy(&bucket, &whole, from as u64..to as u64).unwrap();
            for chunk in 1..=4 {
                let mut reader = bucket.reader(&copy, 0..copy.length());
                let mut read = Vec::new();
                while reader.remaining() > 0 {
                    read.extend(reader.read(chunk).unwrap());
                }
                assert_eq!(read, &all.as_bytes()[from..to], "{from}..{to} by {chunk}");
            }
        }
    }
}

/// A listing by definition: filter, roll up, sort.
fn model(keys: &BTreeMap<String, bool>, query: Query<'_>) -> Vec<(bool, String)> {
    let mut found = BTreeSet::new();
    let roll_up = |key: &str| {
        let rest = key.strip_prefix(query.prefix)?;
        let at = rest.find(query.delimiter?)?;
        Some(key[..query.prefix.len() + at + 1].to_owned())
    };
    for (key, visible) in keys {
        if !visible || !key.starts_with(query.prefix) || key.as_str() <= query.after {
            continue;
        }
        match roll_up(key) {
            Some(common) if query.after.starts_with(&common) => {}
            Some(common) => _ = found.insert((common, true)),
            None => _ = found.insert((key.clone(), false)),
        }
    }
    found.into_iter().map(|(name, is_prefix)| (is_prefix, name)).collect()
}

#[test]
fn walks_agree_with_a_naive_model_on_random_keys() {
    let seed = std::env::var("DSSEFS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| u64::from_str_radix(&random_hex::<7>().unwrap(), 16).unwrap());
    println_seed(seed);
    let mut state = seed;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let alphabet = ["a", "b", "/", "/", "\u{D7FF}", "\u{E000}", "\u{10FFFF}"];
    let mut word = |length_max: u64| -> String {
        let length = next(length_max + 1);
        (0..length).map(|_| alphabet[usize::try_from(next(alphabet.len() as u64)).unwrap()]).collect()
    };
    for round in 0..500 {
        let keys: BTreeMap<String, bool> =
            (0..20).map(|n| (word(5), n % 4 != 0)).filter(|(key, _)| !key.is_empty()).collect();
        let (prefix, after) = (word(2), word(4));
        let query = Query { prefix: &prefix, delimiter: (round % 3 != 0).then_some("/"), after: &after };
        let walked: Vec<_> = Walk::new(&keys, |visible: &bool| *visible, query)
            .map(|found| match found {
                Found::Key(key, _) => (false, key.to_owned()),
                Found::Prefix(prefix) => (true, prefix.to_owned()),
            })
            .collect();
        assert_eq!(walked, model(&keys, query), "seed {seed}, round {round}, {query:?}, {keys:?}");
    }
}

/// Seen only when the test fails, which is when it is wanted.
#[expect(clippy::print_stdout, reason = "a seed must be on record when a randomised test fails")]
fn println_seed(seed: u64) {
    println!("DSSEFS_SEED={seed}");
}
