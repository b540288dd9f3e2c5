//! Multipart uploads in progress.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::Error;
use super::body::Body;
use super::bucket::Bucket;
use super::files::{private_directory, random_hex, write_record};
use super::record::{Content, Object, Part, Upload, UploadRecord, Version};

impl Bucket {
    /// Starts an upload and answers its id.
    pub(crate) fn start_upload(&self, record: UploadRecord) -> Result<String, Error> {
        let mut state = self.living()?;
        let id = random_hex::<32>()?;
        private_directory(&self.upload_dir(&id))?;
        write_record(&self.upload_dir(&id).join("upload.json"), &record)?;
        state.uploads.insert(id.clone(), Upload { record: Arc::new(record), parts: Default::default() });
        Ok(id)
    }

    /// The upload of that id, if it is one for that key.
    pub(crate) fn upload(&self, key: &str, id: &str) -> Result<Upload, Error> {
        let state = self.living()?;
        state.uploads.get(id).filter(|upload| upload.record.key == key).cloned().ok_or(Error::NoSuchUpload)
    }

    /// All uploads with their ids, in the order of key, time and id.
    pub(crate) fn uploads(&self) -> Result<Vec<(String, Upload)>, Error> {
        let mut uploads: Vec<_> = self.living()?.uploads.clone().into_iter().collect();
        uploads.sort_by(|(a_id, a), (b_id, b)| {
            (&a.record.key, a.record.initiated, a_id).cmp(&(&b.record.key, b.record.initiated, b_id))
        });
        Ok(uploads)
    }

    /// Puts a part; one of the same number is replaced.
    pub(crate) fn put_part(&self, id: &str, number: u16, part: Part) -> Result<Arc<Part>, Error> {
        let mut state = self.living()?;
        let upload = state.uploads.get_mut(id).ok_or(Error::NoSuchUpload)?;
        write_record(&self.upload_dir(id).join(format!("{number}.json")), &part)?;
        part.body.keep();
        let part = Arc::new(part);
        if let Some(replaced) = upload.parts.insert(number, Arc::clone(&part)) {
            replaced.body.doom(&self.bodies);
        }
        Ok(part)
    }

    /// Turns an upload into an object: `assemble` picks its parts and describes the object, `check` judges the newest
    /// version there is; both run under the lock. The bytes stay where they are.
    pub(crate) fn complete<E: From<Error>>(
        &self,
        key: &str,
        id: &str,
        modified: i64,
        check: impl FnOnce(Option<&Version>) -> Result<(), E>,
        assemble: impl FnOnce(&Upload) -> Result<Object, E>,
    ) -> Result<Arc<Version>, E> {
        let mut state = self.living()?;
        let upload = state.uploads.get(id).filter(|upload| upload.record.key == key).ok_or(Error::NoSuchUpload)?;
        let object = assemble(upload)?;
        check(state.newest(key))?;
        let used: Vec<u16> = object.parts.iter().map(|part| part.number).collect();
        let version = self.add(&mut state, key, modified, Content::Object(Box::new(object)))?;
        let completed = state.uploads.remove(id);
        drop(state);
        if let Some(upload) = completed {
            self.discard(id, upload.parts.iter().filter(|(number, _)| !used.contains(number)).map(|(_, part)| part));
        }
        Ok(version)
    }

    /// Ends an upload; its parts go.
    pub(crate) fn abort(&self, key: &str, id: &str) -> Result<(), Error> {
        let mut state = self.living()?;
        let upload = state.uploads.get(id).filter(|upload| upload.record.key == key).cloned();
        let upload = upload.ok_or(Error::NoSuchUpload)?;
        fs::remove_file(self.upload_dir(id).join("upload.json"))?;
        state.uploads.remove(id);
        drop(state);
        self.discard(id, upload.parts.values());
        Ok(())
    }

    /// Removes the files of an upload that the index has forgotten. There may be 10,000 of them, so this happens
    /// outside the lock, and no request waits. The next start recognises what could not be removed: a directory without
    /// `upload.json`, or an upload that a version was made by.
    fn discard<'a>(&self, id: &str, unused: impl Iterator<Item = &'a Arc<Part>>) {
        for part in unused {
            part.body.doom(&self.bodies);
        }
        let _ = fs::remove_file(self.upload_dir(id).join("upload.json"));
        let _ = fs::remove_dir_all(self.upload_dir(id));
    }

    fn upload_dir(&self, id: &str) -> PathBuf {
        self.dir.join("uploads").join(id)
    }
}

impl Body {
    /// The bytes of the parts in the order given, as one body.
    pub(crate) fn of_parts<'a>(parts: impl Iterator<Item = &'a Part>) -> Body {
        Body::joined(parts.map(|part| part.body.as_ref()))
    }
}
