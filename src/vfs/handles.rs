//! The handles that the kernel holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::namespace::{DirEntry, Ino};

use super::Error;
use super::file::File;

/// A handle, as the kernel gives it back with each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// An open file.
pub(crate) struct OpenFile {
    pub(crate) file: Arc<File>,
    /// Whether it was opened for reading.
    pub(crate) reads: bool,
    /// Whether it was opened for writing.
    pub(crate) writes: bool,
    /// Whether each write goes to the end.
    pub(crate) appends: bool,
}

/// An open directory: what it held when it was first read, so that its cursor is stable while the directory changes.
pub(crate) struct OpenDirectory {
    pub(crate) ino: Ino,
    pub(crate) entries: Mutex<Option<Arc<Vec<DirEntry>>>>,
}

/// All open files and directories of a mount.
#[derive(Default)]
pub(crate) struct Handles {
    last: AtomicU64,
    files: Mutex<HashMap<Fh, Arc<OpenFile>>>,
    directories: Mutex<HashMap<Fh, Arc<OpenDirectory>>>,
}

impl Handles {
    pub(crate) fn add_file(&self, open: OpenFile) -> Fh {
        let fh = self.next();
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(fh, Arc::new(open));
        fh
    }

    pub(crate) fn add_directory(&self, ino: Ino) -> Fh {
        let fh = self.next();
        let open = OpenDirectory { ino, entries: Mutex::new(None) };
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).insert(fh, Arc::new(open));
        fh
    }

    pub(crate) fn file(&self, fh: Fh) -> Result<Arc<OpenFile>, Error> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&fh).cloned().ok_or(Error::BadHandle)
    }

    /// Whether a program may have the file mapped so that it writes through the mapping, which takes a handle for both (mmap(2)).
    pub(crate) fn can_map(&self, file: &Arc<File>) -> bool {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.values().any(|open| open.reads && open.writes && Arc::ptr_eq(&open.file, file))
    }

    pub(crate) fn directory(&self, fh: Fh) -> Result<Arc<OpenDirectory>, Error> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).get(&fh).cloned().ok_or(Error::BadHandle)
    }

    pub(crate) fn remove_file(&self, fh: Fh) -> Option<Arc<OpenFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&fh)
    }

    pub(crate) fn remove_directory(&self, fh: Fh) {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).remove(&fh);
    }

    fn next(&self) -> Fh {
        Fh(self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
