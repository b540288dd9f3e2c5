//! A list of what this process has in the bucket for a while: multipart uploads, by the store's ids, and held objects,
//! by their random names. The next process reads it after a crash.
//!
//! Each process has a file of its own and holds a lock on it while it lives. So a list without a lock belongs to a
//! process of this host that has ended, whatever any clock says. The file holds no names of files: only the store knows
//! which object an upload's id belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64_simd::STANDARD;
use rustix::fs::{FlockOperation, flock};

const PREFIX: &str = "uploads-";
/// More than this of a ledger is not read, in bytes: a million uploads.
const BYTES_MAX: u64 = 256 << 20;
/// No line is longer, in bytes: S3's ids have some 130.
const LINE_BYTES_MAX: u64 = 4 << 10;
/// What a line begins with, after its sign, that names a held object and no upload.
const HELD: &str = "held/";
/// How long the name of a held object is: 16 bytes in hexadecimal.
const HELD_NAME_BYTES: usize = 32;
/// The bytes of the key of a proof, and of its code.
const PROOF_BYTES: usize = 32;
/// The most uploads that are read. A process has some hundreds of them under way: one for each file being written.
const UPLOADS_MAX: usize = 10_000;

/// The ledger of this process. A process that ends with nothing in the bucket removes it.
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
    open: Mutex<Open>,
}

/// What proves that a held object has the annotations that this host gave it: a random key, and the code of all of them
/// under it. Who may write to the bucket knows neither.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldProof {
    pub(super) key: [u8; PROOF_BYTES],
    pub(super) code: [u8; PROOF_BYTES],
}

impl fmt::Display for HeldProof {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", STANDARD.encode_to_string(self.key), STANDARD.encode_to_string(self.code))
    }
}

impl HeldProof {
    fn parse(text: &str) -> Option<HeldProof> {
        let (key, code) = text.split_once(' ')?;
        let bytes = |text: &str| STANDARD.decode_to_vec(text).ok()?.try_into().ok();
        Some(HeldProof { key: bytes(key)?, code: bytes(code)? })
    }
}

/// What this process has in the bucket.
#[derive(Default)]
struct Open {
    /// Uploads and held objects that the next process ends.
    own: BTreeSet<String>,
    /// Uploads that a journal needs.
    outlive: BTreeSet<String>,
}

/// Appends a line. If that fails, cuts off what was written of it, so that the next line begins at its start.
fn append(mut file: &File, line: &str) -> io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(line.as_bytes()).inspect_err(|_| {
        // If this fails too, the half line is no upload's id, and the line after it is lost.
        let _ = file.set_len(before);
    })
}

/// The ledger of a process that has ended.
pub(super) struct Leftover {
    path: PathBuf,
    /// The uploads that the process had under way.
    pub(super) uploads: BTreeSet<String>,
    /// The names of the objects that it held. Those with a proof may have annotations that belong elsewhere.
    pub(super) held: BTreeMap<String, Option<HeldProof>>,
    /// The uploads that a journal needed. They are of no use once no journal names them.
    pub(super) outlive: BTreeSet<String>,
    /// Locked.
    file: File,
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
        self.open().own.insert(upload.to_owned());
        self.note('+', upload);
    }

    pub(super) fn ended(&self, upload: &str) {
        let mut open = self.open();
        if open.own.remove(upload) | open.outlive.remove(upload) {
            self.note('-', upload);
        }
    }

    /// Notes a held object, before it is made.
    pub(super) fn holds(&self, name: &str) {
        self.begun(&format!("{HELD}{name}"));
    }

    /// Notes, on the disk, what proves that the held object `name` has the annotations that this process gave it.
    pub(super) fn proves(&self, name: &str, proof: &HeldProof) -> io::Result<()> {
        append(&self.file, &format!("+{HELD}{name} {proof}\n"))?;
        self.file.sync_data()
    }

    /// Notes that the object is gone.
    pub(super) fn released(&self, name: &str) {
        self.ended(&format!("{HELD}{name}"));
    }

    /// Notes that a record in a journal needs `upload` after this process has ended, whichever process began it.
    pub(super) fn let_outlive(&self, upload: &str) -> io::Result<()> {
        if self.open().outlive.contains(upload) {
            return Ok(());
        }
        append(&self.file, &format!("={upload}\n"))?;
        self.file.sync_data()?;
        let mut open = self.open();
        open.own.remove(upload);
        open.outlive.insert(upload.to_owned());
        Ok(())
    }

    /// Whether a record in this process's journal needs `upload`.
    pub(super) fn lets_outlive(&self, upload: &str) -> bool {
        self.open().outlive.contains(upload)
    }

    fn note(&self, sign: char, upload: &str) {
        if let Err(error) = append(&self.file, &format!("{sign}{upload}\n")) {
            tracing::warn!(
                %error,
                "the daemon cannot note an upload or a held object on the local disk; \
                 after a crash a lifecycle rule has to end it"
            );
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let is_empty = {
            let open = self.open();
            open.own.is_empty() && open.outlive.is_empty()
        };
        if is_empty {
            // If this fails, the next start finds an empty ledger.
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
                // A file that cannot be read, or was just removed, must not hide the others.
                match Leftover::read(entry.path(), source) {
                    Ok(leftover) => found.extend(leftover),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        let path = entry.path();
                        tracing::warn!(%error, path = %path.display(), "the daemon cannot read a list of uploads");
                    }
                }
            }
        }
        Ok(found)
    }

    fn read(path: PathBuf, source: &str) -> io::Result<Option<Leftover>> {
        // A link or a pipe in its place has no uploads, and must not block this process.
        let file =
            OpenOptions::new().read(true).append(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let mut text = BufReader::new((&file).take(BYTES_MAX));
        let mut line = Vec::new();
        let is_of_source = next_line(&mut text, &mut line)? == Some(source);
        // A process that died while it began its ledger had no upload yet, so its source does not matter.
        let begun = line.ends_with(b"\n");
        if !is_of_source && begun {
            return Ok(None);
        }
        let (mut uploads, mut held, mut outlive) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        while let Some(line) = next_line(&mut text, &mut line)? {
            let Some((sign, entry)) = line.split_at_checked(1) else { continue };
            if let Some(entry) = entry.strip_prefix(HELD) {
                note_held(&mut held, sign, entry);
                continue;
            }
            match sign {
                "+" if uploads.len() < UPLOADS_MAX => drop(uploads.insert(entry.to_owned())),
                "=" if outlive.len() < UPLOADS_MAX => {
                    uploads.remove(entry);
                    outlive.insert(entry.to_owned());
                }
                "-" => {
                    uploads.remove(entry);
                    outlive.remove(entry);
                }
                _ => {}
            }
        }
        Ok(Some(Leftover { path, uploads, held, outlive, file }))
    }

    /// The uploads are aborted and the held objects deleted. Removes the file, unless a journal may need the others.
    pub(super) fn ended(self) -> io::Result<()> {
        if self.outlive.is_empty() {
            return self.remove();
        }
        let held = self.held.keys().map(|name| format!("-{HELD}{name}\n"));
        let ended: String = self.uploads.iter().map(|upload| format!("-{upload}\n")).chain(held).collect();
        append(&self.file, &ended)
    }

    /// Removes the file once nothing of it is left in the bucket.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// Whether a process other than that of `own` lives that has a ledger in `directory`.
    pub(super) fn has_neighbours(directory: &Path, own: Option<&Ledger>) -> io::Result<bool> {
        let _turn = take_turn(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let is_ledger = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if !is_ledger || own.is_some_and(|own| own.path == entry.path()) {
                continue;
            }
            let opened =
                OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(entry.path());
            if opened.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A line `NAME` or `NAME PROOF` about a held object. Nothing that another program wrote there may become the key of
/// another object.
fn note_held(held: &mut BTreeMap<String, Option<HeldProof>>, sign: &str, entry: &str) {
    let (name, proof) = match entry.split_once(' ') {
        Some((name, proof)) => (name, HeldProof::parse(proof)),
        None => (entry, None),
    };
    match sign {
        "+" if is_held_name(name) && (held.len() < UPLOADS_MAX || held.contains_key(name)) => {
            held.insert(name.to_owned(), proof);
        }
        "-" => drop(held.remove(name)),
        _ => {}
    }
}

fn is_held_name(name: &str) -> bool {
    name.len() == HELD_NAME_BYTES && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Waits until no other process begins a ledger in `directory` or looks for one. Then an unlocked ledger without its
/// first line belongs to a process that has ended.
fn take_turn(directory: &Path) -> io::Result<File> {
    let turn = File::open(directory)?;
    flock(&turn, FlockOperation::LockExclusive)?;
    Ok(turn)
}

/// The next line without its end, read into `line`; None at the end of the file. A line that is not text counts as
/// empty, and one that is too long as several.
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
    fn uploads_are_found_once_their_process_has_ended() {
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
    fn an_upload_that_a_journal_needs_is_no_leftover() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(directory.path(), "s3://b").unwrap();
        ["one", "two"].iter().for_each(|upload| ledger.begun(upload));
        ledger.let_outlive("one").unwrap();
        ledger.let_outlive("of an earlier process").unwrap();
        drop(ledger);
        let mut found = Leftover::find(directory.path(), "s3://b").unwrap();
        let left = found.pop().unwrap();
        assert_eq!(left.uploads, ["two".to_owned()].into());
        assert_eq!(left.outlive, ["of an earlier process", "one"].map(str::to_owned).into());
        left.ended().unwrap();
        let left = Leftover::find(directory.path(), "s3://b").unwrap().pop().unwrap();
        assert_eq!((left.uploads.len(), left.outlive.len()), (0, 2), "a journal may need them");
    }

    #[test]
    fn an_upload_that_a_journal_needed_is_off_the_list_once_it_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(directory.path(), "s3://b").unwrap();
        ledger.begun("one");
        for upload in ["one", "of an earlier process"] {
            ledger.let_outlive(upload).unwrap();
            assert!(ledger.lets_outlive(upload));
            ledger.ended(upload);
            assert!(!ledger.lets_outlive(upload));
        }
        drop(ledger);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn another_living_process_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let own = Ledger::create(directory.path(), "s3://b").unwrap();
        assert!(!Leftover::has_neighbours(directory.path(), Some(&own)).unwrap());
        let other = Ledger::create(directory.path(), "s3://b").unwrap();
        other.begun("one");
        assert!(Leftover::has_neighbours(directory.path(), Some(&own)).unwrap());
        drop(other);
        assert!(!Leftover::has_neighbours(directory.path(), Some(&own)).unwrap());
    }

    #[test]
    fn held_objects_are_found_by_name_and_nothing_else_is_taken_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(directory.path(), "s3://b").unwrap();
        let (one, two) = ("0".repeat(32), "f".repeat(32));
        ledger.begun("upload");
        ledger.holds(&one);
        ledger.holds(&two);
        ledger.released(&one);
        for forged in ["../../secret", "", &"g".repeat(32), &format!("{two}/x")] {
            ledger.holds(forged);
        }
        drop(ledger);
        let left = Leftover::find(directory.path(), "s3://b").unwrap().pop().unwrap();
        assert_eq!(left.uploads, ["upload".to_owned()].into());
        assert_eq!(left.held.keys().collect::<Vec<_>>(), [&two]);
    }

    #[test]
    fn what_proves_the_annotations_of_a_held_object_is_read_as_it_was_noted() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(directory.path(), "s3://b").unwrap();
        let proof = HeldProof { key: std::array::from_fn(|at| at as u8), code: [0xfe; 32] };
        let (one, two, three) = ("0".repeat(32), "f".repeat(32), "a".repeat(32));
        [&one, &two, &three].into_iter().for_each(|name| ledger.holds(name));
        [&one, &two].into_iter().for_each(|name| ledger.proves(name, &proof).unwrap());
        ledger.released(&one);
        let path = ledger.path.clone();
        drop(ledger);
        let half = format!("+{HELD}{three} {}", &proof.to_string()[1..]);
        OpenOptions::new().append(true).open(path).unwrap().write_all(half.as_bytes()).unwrap();
        let left = Leftover::find(directory.path(), "s3://b").unwrap().pop().unwrap();
        assert!(left.held == BTreeMap::from([(two, Some(proof)), (three, None)]));
    }

    #[test]
    fn other_files_do_not_hide_ledgers() {
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
    fn a_forged_ledger_takes_limited_memory() {
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
