//! The multipart uploads that this process has under way, by the store's ids, for whoever comes after a crash.
//!
//! A file of its own for each process, locked for as long as that lives. It holds no names: an upload's id says which
//! object it is for to the store alone.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

const PREFIX: &str = "uploads-";
/// More than this of a ledger is not read, in bytes: a million uploads.
const BYTES_MAX: u64 = 256 << 20;
/// No line is longer, in bytes: S3's ids have some 130.
const LINE_BYTES_MAX: u64 = 4 << 10;
/// More uploads than these were never under way at once: files that are being written, and not many hundreds of them.
const UPLOADS_MAX: usize = 10_000;

/// The ledger of this process. A process that ends with no upload under way leaves none behind.
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
    open: Mutex<BTreeSet<String>>,
}

/// What a note could not be written for is cut off again, so that the next one begins a line.
fn append(mut file: &File, line: &str) -> io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(line.as_bytes()).inspect_err(|_| {
        // A line that stays half is no upload's id, and the one that follows it is lost with it.
        let _ = file.set_len(before);
    })
}

/// The ledger of a process that has ended.
pub(super) struct Leftover {
    path: PathBuf,
    /// The uploads that it had under way.
    pub(super) uploads: BTreeSet<String>,
    _lock: File,
}

impl Ledger {
    /// A ledger in `directory` for uploads below `source`.
    pub(super) fn create(directory: &Path, source: &str) -> io::Result<Ledger> {
        let _turn = take_turn(directory)?;
        let made = tempfile::Builder::new().prefix(PREFIX).rand_bytes(16).append(true).tempfile_in(directory)?;
        flock(made.as_file(), FlockOperation::NonBlockingLockExclusive)?;
        append(made.as_file(), &format!("{source}\n"))?;
        let (file, path) = made.keep().map_err(|error| error.error)?;
        Ok(Ledger { path, file, open: Mutex::default() })
    }

    pub(super) fn begun(&self, upload: &str) {
        self.open().insert(upload.to_owned());
        self.note('+', upload);
    }

    pub(super) fn ended(&self, upload: &str) {
        if self.open().remove(upload) {
            self.note('-', upload);
        }
    }

    /// Returns when nobody aborts `upload` any more because this process has ended: another record counts on it.
    pub(super) fn let_outlive(&self, upload: &str) -> io::Result<()> {
        if self.open().contains(upload) {
            append(&self.file, &format!("-{upload}\n"))?;
            self.file.sync_data()?;
            self.open().remove(upload);
        }
        Ok(())
    }

    fn note(&self, sign: char, upload: &str) {
        if let Err(error) = append(&self.file, &format!("{sign}{upload}\n")) {
            tracing::warn!(%error, "an upload cannot be noted on the local disk; after a crash a lifecycle rule has to end it");
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.open().is_empty() {
            // Found by the next start otherwise, and found to be empty.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Leftover {
    /// The ledgers in `directory` for `source` whose processes have ended.
    pub(super) fn find(directory: &Path, source: &str) -> io::Result<Vec<Leftover>> {
        let _turn = take_turn(directory)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                // One that cannot be read, or has just been removed, must not hide the others.
                match Leftover::read(entry.path(), source) {
                    Ok(leftover) => found.extend(leftover),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(%error, path = %entry.path().display(), "a list of uploads cannot be read");
                    }
                }
            }
        }
        Ok(found)
    }

    fn read(path: PathBuf, source: &str) -> io::Result<Option<Leftover>> {
        // What else has taken its place, a link or a pipe that would be waited at for ever, has no uploads.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let mut text = BufReader::new((&file).take(BYTES_MAX));
        let mut line = Vec::new();
        let is_of_source = next_line(&mut text, &mut line)? == Some(source);
        // A process that died while it began its ledger had no upload yet; whose it was does not matter.
        let begun = line.ends_with(b"\n");
        if !is_of_source && begun {
            return Ok(None);
        }
        let mut uploads = BTreeSet::new();
        while let Some(line) = next_line(&mut text, &mut line)? {
            match line.split_at_checked(1) {
                Some(("+", upload)) if uploads.len() < UPLOADS_MAX => drop(uploads.insert(upload.to_owned())),
                Some(("-", upload)) => drop(uploads.remove(upload)),
                _ => {}
            }
        }
        Ok(Some(Leftover { path, uploads, _lock: file }))
    }

    /// Its uploads are dealt with.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Waits until nobody else begins a ledger in `directory`, or looks for those of others: an unlocked one without its
/// first line is then that of a process which has ended.
fn take_turn(directory: &Path) -> io::Result<File> {
    let turn = File::open(directory)?;
    flock(&turn, FlockOperation::LockExclusive)?;
    Ok(turn)
}

/// The next line without its end, read over `line`; None at the end. What is no text is a line that means nothing, and
/// what is too long is taken for several.
fn next_line<'a>(text: &mut impl BufRead, line: &'a mut Vec<u8>) -> io::Result<Option<&'a str>> {
    line.clear();
    if text.take(LINE_BYTES_MAX).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    Ok(Some(str::from_utf8(line).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_was_only_begun_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        for half in ["", "s3://"] {
            fs::write(directory.path().join("uploads-half"), half).unwrap();
            let found = Leftover::find(directory.path(), "s3://b").unwrap();
            assert_eq!(found.len(), 1, "{half:?}");
            found.into_iter().for_each(|left| left.remove().unwrap());
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_process_had_under_way_is_found_once_it_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(directory.path(), "s3://b").unwrap();
        ["one", "two", "three"].iter().for_each(|upload| ledger.begun(upload));
        ledger.ended("two");
        assert!(Leftover::find(directory.path(), "s3://b").unwrap().is_empty(), "its process lives");
        drop(ledger);
        assert!(Leftover::find(directory.path(), "s3://other").unwrap().is_empty(), "another mount's");
        let mut found = Leftover::find(directory.path(), "s3://b").unwrap();
        let left = found.pop().unwrap();
        assert_eq!(left.uploads, ["one", "three"].map(str::to_owned).into());
        left.remove().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_upload_that_a_journal_counts_on_is_nobodys_leftover() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(directory.path(), "s3://b").unwrap();
        ["one", "two"].iter().for_each(|upload| ledger.begun(upload));
        ledger.let_outlive("one").unwrap();
        ledger.let_outlive("never begun").unwrap();
        drop(ledger);
        let found = Leftover::find(directory.path(), "s3://b").unwrap();
        assert_eq!(found[0].uploads, ["two".to_owned()].into());
    }

    #[test]
    fn what_is_no_list_hides_none() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("uploads-directory")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("uploads-link")).unwrap();
        fs::write(at("uploads-whole"), "s3://b\n+one\n").unwrap();
        let found = Leftover::find(directory.path(), "s3://b").unwrap();
        let uploads: BTreeSet<String> = found.into_iter().flat_map(|left| left.uploads).collect();
        assert_eq!(uploads, ["one".to_owned()].into());
    }

    #[test]
    fn a_process_without_uploads_leaves_no_ledger() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(directory.path(), "s3://b").unwrap();
        ledger.begun("one");
        ledger.ended("one");
        drop(ledger);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_ledger_that_somebody_has_filled_costs_no_more_memory_than_a_full_one() {
        let directory = tempfile::tempdir().unwrap();
        let begun = (0..2 * UPLOADS_MAX).map(|id| format!("+{id:x}\n"));
        let text: String =
            ["s3://b\n".to_owned(), "+".repeat(100_000), "\n".to_owned()].into_iter().chain(begun).collect();
        fs::write(directory.path().join("uploads-x"), text).unwrap();
        let left = Leftover::find(directory.path(), "s3://b").unwrap().pop().unwrap();
        assert_eq!(left.uploads.len(), UPLOADS_MAX);
        assert!(left.uploads.iter().all(|upload| upload.len() <= LINE_BYTES_MAX as usize));
    }
}
