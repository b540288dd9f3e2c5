//! Opens the storage: reads every record, and removes what interrupted requests left behind.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bucket::{Bucket, KeyRecord, State, Versions};
use super::files::{UNFINISHED, UNFINISHED_DIR, read_record};
use super::record::{Object, Part, Upload, UploadRecord, Version};

/// All buckets below `root`.
pub(super) fn buckets(root: &Path) -> io::Result<Vec<Bucket>> {
    let mut buckets = Vec::new();
    for path in entries(root)? {
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { continue };
        if name.starts_with(UNFINISHED_DIR) {
            fs::remove_dir_all(&path)?;
        } else if path.is_dir() {
            buckets.push(bucket(&path, name)?);
        }
    }
    Ok(buckets)
}

fn bucket(dir: &Path, name: &str) -> io::Result<Bucket> {
    let settings = read_record(&dir.join("bucket.json"))?;
    let keys = keys(&dir.join("keys"))?;
    let done: HashSet<&str> = objects(&keys).filter_map(|object| object.upload_id.as_deref()).collect();
    let uploads = uploads(&dir.join("uploads"), &done)?;
    sweep_bodies(&dir.join("bodies"), &keys, &uploads)?;
    Ok(Bucket::with_state(dir, name, State::new(settings, keys, uploads)))
}

fn keys(dir: &Path) -> io::Result<BTreeMap<String, Versions>> {
    let mut keys = BTreeMap::new();
    for path in finished(dir)? {
        let record: KeyRecord = read_record(&path)?;
        keys.insert(record.key, record.versions.into_iter().map(Arc::new).collect());
    }
    Ok(keys)
}

/// Uploads in progress. One that a version was made by was completed: the process died before it could tidy up.
fn uploads(dir: &Path, done: &HashSet<&str>) -> io::Result<BTreeMap<String, Upload>> {
    let mut uploads = BTreeMap::new();
    for path in entries(dir)? {
        let Some(id) = path.file_name().and_then(OsStr::to_str) else { continue };
        if done.contains(id) || !path.join("upload.json").exists() {
            fs::remove_dir_all(&path)?;
            continue;
        }
        uploads.insert(id.to_owned(), upload(&path)?);
    }
    Ok(uploads)
}

fn upload(dir: &Path) -> io::Result<Upload> {
    let record: UploadRecord = read_record(&dir.join("upload.json"))?;
    let mut parts = BTreeMap::new();
    for path in finished(dir)? {
        let number = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse::<u16>().ok());
        if let Some(number) = number {
            parts.insert(number, Arc::new(read_record::<Part>(&path)?));
        }
    }
    Ok(Upload { record: Arc::new(record), parts })
}

fn sweep_bodies(dir: &Path, keys: &BTreeMap<String, Versions>, uploads: &BTreeMap<String, Upload>) -> io::Result<()> {
    let of_objects = objects(keys).flat_map(|object| object.body.files());
    let of_parts = uploads.values().flat_map(|upload| upload.parts.values()).flat_map(|part| part.body.files());
    let named: HashSet<&str> = of_objects.chain(of_parts).collect();
    for path in entries(dir)? {
        let is_named = path.file_name().and_then(OsStr::to_str).is_some_and(|name| named.contains(name));
        if !is_named {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn objects(keys: &BTreeMap<String, Versions>) -> impl Iterator<Item = &Object> {
    keys.values().flatten().map(Arc::as_ref).filter_map(Version::object)
}

/// The records of a directory; those whose writing was interrupted are removed.
fn finished(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let (unfinished, finished): (Vec<_>, Vec<_>) =
        entries(dir)?.into_iter().partition(|path| path.extension() == Some(OsStr::new(UNFINISHED)));
    for path in unfinished {
        fs::remove_file(path)?;
    }
    Ok(finished)
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}
