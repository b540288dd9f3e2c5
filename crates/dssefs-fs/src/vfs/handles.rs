//! The handles that the kernel holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::namespace::{Ino, Privileges, Snapshot};

use super::Error;
use super::file::File;
use super::slots::{Slot, Slots};

/// Files that one user may have open here: some 2 KiB each.
const FILES_OF_USER_MAX: u32 = 16_384;
/// Directories that one user may have open here.
const DIRECTORIES_OF_USER_MAX: u32 = 1024;

/// A handle, as the kernel gives it back with each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Its bytes are read.
    pub read: bool,
    /// Its bytes are written.
    pub write: bool,
    /// Each write goes to the file's end (O_APPEND).
    pub append: bool,
    /// It is emptied (O_TRUNC).
    pub truncate: bool,
    /// What that does beside emptying it.
    pub privileges: Privileges,
    /// The user who opens it.
    pub uid: u32,
}

/// An open file.
pub(crate) struct OpenFile {
    pub(crate) file: Arc<File>,
    /// Whether it was opened for reading.
    pub(crate) reads: bool,
    /// Whether it was opened for writing.
    pub(crate) writes: bool,
    /// Whether each write goes to the end.
    pub(crate) appends: bool,
    /// How often the file was made, cut or written through it.
    own_changes: AtomicU64,
    /// How many of [`OpenFile::changes`] a close or an fsync has answered for.
    answered: AtomicU64,
    /// The right to it.
    pub(crate) _slot: Slot,
}

impl OpenFile {
    /// A handle of `file`. `changed`: opening it has made or emptied the file.
    pub(crate) fn new(file: Arc<File>, access: Access, changed: bool, slot: Slot) -> OpenFile {
        let Access { read: reads, write: writes, append: appends, .. } = access;
        let (own_changes, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        let open = OpenFile { file, reads, writes, appends, own_changes, answered, _slot: slot };
        open.note_answered(open.changes());
        if changed {
            open.note_change();
        }
        open
    }

    /// The file was changed through this handle.
    pub(crate) fn note_change(&self) {
        self.own_changes.fetch_add(1, Ordering::SeqCst);
    }

    /// How many changes were made through this handle. Pages of a mapping that the kernel has written count for each
    /// handle that may have made the mapping.
    pub(crate) fn changes(&self) -> u64 {
        let by_kernel = if self.writes { self.file.kernel_writes.load(Ordering::SeqCst) } else { 0 };
        self.own_changes.load(Ordering::SeqCst) + by_kernel
    }

    /// A close or an fsync has answered for the first `changes` of them. Not earlier: another close of the same handle,
    /// such as a child process makes, must not answer before it.
    pub(crate) fn note_answered(&self, changes: u64) {
        self.answered.fetch_max(changes, Ordering::SeqCst);
    }

    /// Whether no close and no fsync has answered yet for some of `changes`.
    pub(crate) fn is_unanswered(&self, changes: u64) -> bool {
        changes > self.answered.load(Ordering::SeqCst)
    }
}

/// An open directory: what it held when it was first read, so that its cursor is stable while the directory changes.
pub(crate) struct OpenDirectory {
    pub(crate) ino: Ino,
    pub(crate) entries: Mutex<Option<Arc<Snapshot>>>,
    slot: Slot,
}

/// All open files and directories of a mount.
pub(crate) struct Handles {
    last: AtomicU64,
    file_slots: Arc<Slots>,
    directory_slots: Arc<Slots>,
    names_bytes_max: u64,
    files: Mutex<HashMap<Fh, Arc<OpenFile>>>,
    directories: Mutex<HashMap<Fh, Arc<OpenDirectory>>>,
}

impl Handles {
    /// Handles of a mount of the user `owner`, whose open directories may have names of `names_bytes_max` bytes
    /// together.
    pub(crate) fn new(owner: u32, names_bytes_max: u64) -> Handles {
        Handles {
            last: AtomicU64::default(),
            file_slots: Slots::new("files", FILES_OF_USER_MAX, owner),
            directory_slots: Slots::new("directories", DIRECTORIES_OF_USER_MAX, owner),
            names_bytes_max,
            files: Mutex::default(),
            directories: Mutex::default(),
        }
    }

    /// The right of the user `uid` to one more open file.
    ///
    /// # Errors
    /// [`Error::TooManyOpen`].
    pub(crate) fn file_slot(&self, uid: u32) -> Result<Slot, Error> {
        self.file_slots.take(uid)
    }

    pub(crate) fn add_file(&self, open: OpenFile) -> Fh {
        let fh = self.next();
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(fh, Arc::new(open));
        fh
    }

    /// # Errors
    /// [`Error::TooManyOpen`].
    pub(crate) fn add_directory(&self, ino: Ino, uid: u32) -> Result<Fh, Error> {
        let slot = self.directory_slots.take(uid)?;
        let fh = self.next();
        let open = OpenDirectory { ino, entries: Mutex::new(None), slot };
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).insert(fh, Arc::new(open));
        Ok(fh)
    }

    /// Keeps what `open` was found to hold until it is closed or read again. What others than root and the mount's user
    /// have open may take half of what there is for names; of a snapshot that is open several times, once.
    ///
    /// # Errors
    /// [`Error::TooManyNames`].
    pub(crate) fn keep_entries(&self, open: &OpenDirectory, entries: &Arc<Snapshot>) -> Result<(), Error> {
        let (uid, bytes_max) = (open.slot.uid, self.names_bytes_max / 2);
        if !self.directory_slots.is_privileged(uid) && self.bytes_with(open, entries) > bytes_max {
            return Err(Error::TooManyNames { uid, bytes_max });
        }
        *open.entries.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(entries));
        Ok(())
    }

    /// What the names take that the user of `open` has open, once that has `entries`.
    fn bytes_with(&self, open: &OpenDirectory, entries: &Arc<Snapshot>) -> u64 {
        let others: Vec<_> = {
            let directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
            let others = directories.values().filter(|other| !std::ptr::eq(&***other, open));
            others.filter(|other| other.slot.uid == open.slot.uid).cloned().collect()
        };
        let held =
            others.iter().filter_map(|other| other.entries.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let all: HashMap<_, _> =
            held.chain([Arc::clone(entries)]).map(|held| (Arc::as_ptr(&held), held.bytes())).collect();
        all.values().sum()
    }

    pub(crate) fn file(&self, fh: Fh) -> Result<Arc<OpenFile>, Error> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&fh).cloned().ok_or(Error::BadHandle)
    }

    /// Whether a program may have the file mapped so that it writes through the mapping, which takes a handle for both
    /// (mmap(2)).
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
