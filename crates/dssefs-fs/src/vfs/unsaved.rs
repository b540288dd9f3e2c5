//! Reports the changes that the store does not have to the owner of a mount, so that no one unmounts unaware of them.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::Vfs;
use super::file::File;

/// The attribute of the root that has [`UnsavedReport`] as JSON.
pub const REPORT_ATTRIBUTE: &str = "user.dsse.mount.unsaved.files";
/// The attribute of the root that, when it is set, has all closed files tried once more. It has no value.
pub const RETRY_ATTRIBUTE: &str = "user.dsse.mount.retry";

/// How many files the report names.
const NAMED_MAX: usize = 10;
/// The length of each error in the report, in characters.
const ERROR_CHARS_MAX: usize = 400;
/// The report as JSON, in bytes; the kernel takes 64 KiB (xattr(7)), and names of control characters become six times
/// as long.
const JSON_BYTES_MAX: usize = 60_000;

/// Which changes the store does not have.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct UnsavedReport {
    /// Files that no program has open.
    pub closed: u64,
    /// How many of those the journal keeps, as they are now.
    pub kept: u64,
    /// Files that are open, whose changes their programs still have to make safe.
    pub open: u64,
    /// Whether closed files are being tried once more because the owner asked for it.
    pub trying: bool,
    /// Bytes of content that the store has taken since the mount began.
    pub bytes_sent: u64,
    /// The directory of spill and journal.
    pub spill_dir: PathBuf,
    /// Some of the closed files.
    pub files: Vec<UnsavedFile>,
}

/// A closed file that the store does not have as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsavedFile {
    /// Its object's key.
    pub key: String,
    /// The last failure; None: it is on its way.
    pub error: Option<String>,
}

/// Whether only the mounting user and root may read the attribute: it names objects, which may be in directories that
/// other users cannot read.
#[must_use]
pub fn is_for_the_owner(attribute: &[u8]) -> bool {
    attribute == REPORT_ATTRIBUTE.as_bytes() || attribute == RETRY_ATTRIBUTE.as_bytes()
}

impl Vfs {
    fn unsaved_report(&self) -> UnsavedReport {
        let (open, closed): (Vec<_>, Vec<_>) =
            self.files.unsaved().into_iter().partition(|file| file.state().users > 0);
        UnsavedReport {
            closed: closed.len() as u64,
            kept: closed.iter().filter(|file| file.is_kept_as_it_is()).count() as u64,
            open: open.len() as u64,
            trying: self.tries.load(Ordering::SeqCst) > 0,
            bytes_sent: self.gateway.counters().bytes_sent,
            // A path that is not UTF-8 is changed here, and the directory cannot be found by it.
            spill_dir: self.settings.facts.spill_dir.to_string_lossy().into_owned().into(),
            files: closed.iter().take(NAMED_MAX).map(|file| self.unsaved_file(file)).collect(),
        }
    }

    /// The report as JSON, with as many names as fit.
    pub(super) fn unsaved_report_json(&self) -> Option<String> {
        let mut report = self.unsaved_report();
        loop {
            let text = serde_json::to_string(&report).ok()?;
            if text.len() <= JSON_BYTES_MAX || report.files.pop().is_none() {
                return Some(text);
            }
        }
    }

    fn unsaved_file(&self, file: &File) -> UnsavedFile {
        let error = file.state().last_error.clone();
        let error = error.map(|error| error.chars().take(ERROR_CHARS_MAX).collect());
        UnsavedFile { key: self.name_of(file), error }
    }

    pub(super) fn name_of(&self, file: &File) -> String {
        self.namespace.key(file.ino).map_or_else(|| "a deleted file".to_owned(), |key| key.to_string())
    }
}
