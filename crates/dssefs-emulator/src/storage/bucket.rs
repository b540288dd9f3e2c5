//! One bucket: the index of its keys, and the one place where a change of it becomes true.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Error;
use super::body::{Body, BodyReader, BodyWriter};
use super::files::{private_directory, random_hex, record_name, unfinished_dir, write_record};
use super::record::{Content, Object, Settings, Upload, Version, Versioning};

/// Versions of one key, newest first; never empty in the index.
pub(crate) type Versions = Vec<Arc<Version>>;

/// A bucket. One lock covers the check of a condition and the commit of the change. It is held for one small file write
/// at most, and never across an await. Bodies are read and written without it.
#[derive(Debug)]
pub(crate) struct Bucket {
    name: String,
    pub(super) dir: PathBuf,
    pub(super) bodies: Arc<Path>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    settings: Settings,
    keys: BTreeMap<String, Versions>,
    pub(super) uploads: BTreeMap<String, Upload>,
    /// Set once the bucket was deleted: requests that found it before must not write into it after.
    demolished: bool,
}

/// What a delete did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Deleted {
    /// Whether a delete marker was made or removed.
    pub(crate) marker: bool,
    /// Id of the version removed or of the marker made; `None` where the answer names none.
    pub(crate) version_id: Option<String>,
}

/// The record of one key on the disk.
#[derive(Serialize)]
struct KeyRecordOut<'a> {
    key: &'a str,
    versions: Vec<&'a Version>,
}

/// The same, as it is read.
#[derive(Deserialize)]
pub(super) struct KeyRecord {
    pub(super) key: String,
    pub(super) versions: Vec<Version>,
}

impl Bucket {
    /// Makes an empty bucket below `root`; it becomes visible by one rename.
    pub(super) fn create(root: &Path, name: &str, settings: Settings) -> io::Result<Bucket> {
        let unfinished = unfinished_dir(root)?;
        for room in ["keys", "uploads", "bodies"] {
            private_directory(&unfinished.join(room))?;
        }
        write_record(&unfinished.join("bucket.json"), &settings)?;
        fs::rename(&unfinished, root.join(name))?;
        Ok(Bucket::with_state(&root.join(name), name, State::new(settings, BTreeMap::new(), BTreeMap::new())))
    }

    pub(super) fn with_state(dir: &Path, name: &str, state: State) -> Bucket {
        let bodies = Arc::from(dir.join("bodies"));
        Bucket { name: name.to_owned(), dir: dir.to_owned(), bodies, state: Mutex::new(state) }
    }

    /// Removes an empty bucket from the disk; it vanishes by one rename.
    pub(super) fn demolish(&self) -> Result<(), Error> {
        let mut state = self.living()?;
        if !state.keys.is_empty() {
            return Err(Error::BucketNotEmpty);
        }
        let root = self.dir.parent().unwrap_or(Path::new("."));
        let unfinished = unfinished_dir(root)?;
        fs::rename(&self.dir, &unfinished)?;
        state.demolished = true;
        Ok(fs::remove_dir_all(unfinished)?)
    }

    /// The bucket's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A copy of the settings.
    pub(crate) fn settings(&self) -> Settings {
        self.lock().settings.clone()
    }

    /// Changes settings; they count for requests that come later.
    pub(crate) fn change_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<(), Error> {
        let mut state = self.living()?;
        let mut settings = state.settings.clone();
        change(&mut settings);
        write_record(&self.dir.join("bucket.json"), &settings)?;
        state.settings = settings;
        Ok(())
    }

    /// A writer of a new body, which belongs to no object until an object or a part with it is put.
    pub(crate) fn writer(&self) -> io::Result<BodyWriter> {
        BodyWriter::create(&self.bodies)
    }

    /// A reader of bytes of a body of this bucket. The body must be held while it reads.
    pub(crate) fn reader(&self, body: &Body, range: Range<u64>) -> BodyReader {
        BodyReader::new(&self.bodies, body, range)
    }

    /// A body for this bucket with bytes of a body of `source`, made without moving bytes where the file system can.
    pub(crate) fn copy(&self, source: &Bucket, body: &Body, range: Range<u64>) -> io::Result<Body> {
        body.copy(&source.bodies, &self.bodies, range)
    }

    /// The version of that id, or the newest one (a delete marker included).
    pub(crate) fn find(&self, key: &str, version_id: Option<&str>) -> Result<Arc<Version>, Error> {
        let state = self.living()?;
        let versions = state.keys.get(key).ok_or(Error::NoSuchVersion)?;
        let found = match version_id {
            None => versions.first(),
            Some(id) => versions.iter().find(|version| version.id_or_null() == id),
        };
        found.cloned().ok_or(Error::NoSuchVersion)
    }

    /// Gives the index of keys to `read`, which must be quick: all other requests to the bucket wait for it.
    pub(crate) fn with_keys<T>(&self, read: impl FnOnce(&BTreeMap<String, Versions>) -> T) -> T {
        read(&self.lock().keys)
    }

    /// Puts an object, if `check` agrees with the newest version there is. Check and change are one step.
    pub(crate) fn put<E: From<Error>>(
        &self,
        key: &str,
        modified: i64,
        object: Object,
        check: impl FnOnce(Option<&Version>) -> Result<(), E>,
    ) -> Result<Arc<Version>, E> {
        let mut state = self.living()?;
        check(state.newest(key))?;
        Ok(self.add(&mut state, key, modified, Content::Object(Box::new(object)))?)
    }

    /// Deletes a key, if `check` agrees: removes its null version, or lays a delete marker on it where versions are
    /// kept.
    pub(crate) fn delete<E: From<Error>>(
        &self,
        key: &str,
        modified: i64,
        check: impl FnOnce(Option<&Version>) -> Result<(), E>,
    ) -> Result<Deleted, E> {
        let mut state = self.living()?;
        check(state.newest(key))?;
        if state.settings.versioning != Versioning::Off {
            let marker = self.add(&mut state, key, modified, Content::DeleteMarker)?;
            return Ok(Deleted { marker: true, version_id: Some(marker.id_or_null().to_owned()) });
        }
        self.remove(&mut state, key, |version| version.id.is_none())?;
        Ok(Deleted { marker: false, version_id: None })
    }

    /// Removes one version for good. A version that is not there counts as removed, as in S3.
    pub(crate) fn delete_version(&self, key: &str, version_id: &str) -> Result<Deleted, Error> {
        let mut state = self.living()?;
        let removed = self.remove(&mut state, key, |version| version.id_or_null() == version_id)?;
        let marker = removed.is_some_and(|version| version.object().is_none());
        Ok(Deleted { marker, version_id: Some(version_id.to_owned()) })
    }

    /// Changes what is attached to a version that is an object: its tags or annotations. `change` may refuse.
    pub(crate) fn attach<E: From<Error>>(
        &self,
        key: &str,
        version_id: Option<&str>,
        change: impl FnOnce(&mut Object) -> Result<(), E>,
    ) -> Result<Arc<Version>, E> {
        let mut state = self.living()?;
        let mut versions = state.keys.get(key).cloned().ok_or(Error::NoSuchVersion)?;
        let wanted = |version: &Arc<Version>| version_id.is_none_or(|id| version.id_or_null() == id);
        let at = versions.iter().position(wanted).ok_or(Error::NoSuchVersion)?;
        let mut object = versions[at].object().ok_or(Error::NoSuchVersion)?.clone();
        change(&mut object)?;
        versions[at] = Arc::new(versions[at].with_object(object));
        let version = Arc::clone(&versions[at]);
        self.write_key(key, &versions).map_err(Error::from)?;
        state.keys.insert(key.to_owned(), versions);
        Ok(version)
    }

    /// Lays a version on top of a key's versions, and removes the null version that it replaces.
    pub(super) fn add(
        &self,
        state: &mut State,
        key: &str,
        modified: i64,
        content: Content,
    ) -> Result<Arc<Version>, Error> {
        let id = if state.settings.versioning == Versioning::Enabled { Some(random_hex::<16>()?) } else { None };
        let version = Arc::new(Version { id, modified, content });
        let mut versions = state.keys.get(key).cloned().unwrap_or_default();
        let replaced = match version.id {
            None => versions.iter().position(|old| old.id.is_none()).map(|at| versions.remove(at)),
            Some(_) => None,
        };
        versions.insert(0, Arc::clone(&version));
        self.write_key(key, &versions)?;
        if let Some(object) = version.object() {
            object.body.keep();
        }
        state.keys.insert(key.to_owned(), versions);
        self.doom(replaced.as_deref());
        Ok(version)
    }

    fn remove(
        &self,
        state: &mut State,
        key: &str,
        which: impl Fn(&Version) -> bool,
    ) -> Result<Option<Arc<Version>>, Error> {
        let Some(mut versions) = state.keys.get(key).cloned() else { return Ok(None) };
        let Some(at) = versions.iter().position(|version| which(version)) else { return Ok(None) };
        let removed = versions.remove(at);
        self.write_key(key, &versions)?;
        if versions.is_empty() {
            state.keys.remove(key);
        } else {
            state.keys.insert(key.to_owned(), versions);
        }
        self.doom(Some(&removed));
        Ok(Some(removed))
    }

    fn doom(&self, version: Option<&Version>) {
        if let Some(object) = version.and_then(Version::object) {
            object.body.doom(&self.bodies);
        }
    }

    /// The commit point of every change of a key.
    fn write_key(&self, key: &str, versions: &Versions) -> io::Result<()> {
        let path = self.dir.join("keys").join(record_name(key));
        if versions.is_empty() {
            return fs::remove_file(path);
        }
        write_record(&path, &KeyRecordOut { key, versions: versions.iter().map(Arc::as_ref).collect() })
    }

    /// The state of a bucket that was not deleted.
    pub(super) fn living(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.lock();
        if state.demolished { Err(Error::NoSuchBucket) } else { Ok(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change replaces whole entries after its record was written, so that a panic leaves the old entry.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn new(
        settings: Settings,
        keys: BTreeMap<String, Versions>,
        uploads: BTreeMap<String, Upload>,
    ) -> State {
        State { settings, keys, uploads, demolished: false }
    }

    pub(super) fn newest(&self, key: &str) -> Option<&Version> {
        self.keys.get(key)?.first().map(Arc::as_ref)
    }
}
