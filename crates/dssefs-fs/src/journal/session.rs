//! Sessions: the directory of one process, and the keys that open it again.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use dssefs_seal::crypto::Envelope;

use super::keys::{Epoch, NewKeys, epochs, read, unreadable, write};
use super::{Error, at, disk};

/// What is written. Version 1 has data keys that seal themselves, and are bound to the session alone.
const VERSION: u32 = 2;
/// What can still be read.
const VERSION_MIN: u32 = 1;
const PREFIX: &str = "session-";
/// Before the name of a session that is not whole yet, or no longer whole. Only a process that has the directory's lock
/// makes or removes one.
const HALF: &str = "half-";
/// In the place of [`PREFIX`]: everything that stands in it was dealt with, and it stays for a person who wants to know
/// what was changed.
const ASIDE: &str = "damaged-";
const DESCRIPTION: &str = "session.json";

/// What a session is begun with.
pub struct NewSession {
    /// The mount, as `s3://bucket/prefix`. It stands in clear, as in /proc/mounts; the caller binds the keys to it.
    pub source: String,
    /// A random name that nothing else has; the caller binds the keys to it.
    pub name: String,
    /// The first keys.
    pub keys: NewKeys,
}

/// `session.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Described {
    version: u32,
    source: String,
    name: String,
    #[serde(flatten)]
    first: Epoch,
}

/// A session on the disk. Unless it came from [`sessions_to_read`], no other process can have it while this value
/// lives.
#[derive(Debug)]
pub struct Session {
    /// Its directory.
    pub directory: PathBuf,
    /// The mount that it belongs to.
    pub source: String,
    /// Its name.
    pub name: String,
    /// The keys of its segments, oldest first. Those of a session that is being written are those that it began with.
    pub epochs: Vec<Epoch>,
    /// Whether its process lives, or another one deals with what it left: what is read of it may be half written, or go
    /// meanwhile.
    pub(super) in_use: bool,
    lock: File,
    /// The directory, locked by the process that made it for as long as its mount serves.
    serving: Option<File>,
}

/// The sessions in `directory` whose processes have ended, oldest first, and why others cannot be had. None if it does
/// not exist.
///
/// # Errors
/// The directory cannot be read.
pub fn sessions(directory: &Path) -> Result<(Vec<Session>, Vec<Error>), Error> {
    all(directory, &[PREFIX], Session::open)
}

/// The same, of `source` alone. Sessions of other mounts are not locked meanwhile: they are among those that
/// cannot be had.
///
/// # Errors
/// The directory cannot be read.
pub fn sessions_of(directory: &Path, source: &str) -> Result<(Vec<Session>, Vec<Error>), Error> {
    all(directory, &[PREFIX], |session| Session::open_of(session, source))
}

/// The same as [`sessions_to_discard`], to be counted and not to be changed: they are locked for a moment only.
///
/// # Errors
/// The directory cannot be read.
pub fn sessions_to_count(directory: &Path) -> Result<(Vec<Session>, Vec<Error>), Error> {
    all(directory, &[PREFIX, ASIDE], Session::glance)
}

/// Whether the session in `directory` is one of `source` and in use by a process that will soon end its use: a
/// mount that is ending, one that starts and sends what another has left, `dssefs recover`, or a process that looks at
/// it for a moment. Not a mount that serves.
#[must_use]
pub fn is_about_to_be_free(directory: &Path, source: &str) -> bool {
    let is_of_source = || Session::look(directory.to_owned()).is_ok_and(|session| session.source == source);
    let serves = |place: &File| flock(place, FlockOperation::NonBlockingLockShared).is_err();
    File::open(directory).is_ok_and(|place| is_of_source() && !serves(&place))
}

/// The same as [`sessions`], and with them those that were set aside because they were damaged.
///
/// # Errors
/// The directory cannot be read.
pub fn sessions_to_discard(directory: &Path) -> Result<(Vec<Session>, Vec<Error>), Error> {
    all(directory, &[PREFIX, ASIDE], Session::open)
}

/// The same, and those of living processes with them, to be looked at and not to be changed.
///
/// # Errors
/// The directory cannot be read.
pub fn sessions_to_read(directory: &Path) -> Result<(Vec<Session>, Vec<Error>), Error> {
    all(directory, &[PREFIX, ASIDE], Session::watch)
}

fn all(
    directory: &Path,
    prefixes: &[&str],
    open: impl Fn(PathBuf) -> Result<Session, Error>,
) -> Result<(Vec<Session>, Vec<Error>), Error> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        entries => entries.map_err(at(directory))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(directory))?;
        let name = entry.file_name();
        if prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            match entry.metadata().and_then(|meta| meta.modified()) {
                Ok(begun) => found.push((begun, entry.path())),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(at(&entry.path())(error)),
            }
        }
    }
    found.sort();
    let (mut whole, mut unusable) = (Vec::new(), Vec::new());
    for (_, path) in found {
        match open(path.clone()) {
            Ok(session) => whole.push(session),
            // Another process has dealt with it and removed it.
            Err(Error::Io { source, .. }) if is_gone(&source) && !path.exists() => {}
            Err(error) => unusable.push(error),
        }
    }
    Ok((whole, unusable))
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

impl Session {
    /// Begins a session in a directory of its own, which stands on the disk when this returns. A process that dies
    /// before leaves no session.
    pub(super) fn create(directory: &Path, new: NewSession) -> Result<(Session, Envelope), Error> {
        let NewSession { source, name, keys } = new;
        let (first, envelope) = Epoch::begin(0, keys)?;
        let described = Described { version: VERSION, source, name, first };
        let own = directory.join(format!("{PREFIX}{}", described.name));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
        let _turn = take_turn(directory)?;
        remove_halves(directory)?;
        let half = half_of(&own);
        DirBuilder::new().mode(0o700).create(&half).map_err(at(&half))?;
        let (lock, serving) = described.make(&half, &own).inspect_err(|_| {
            // Swept by the next one if it cannot be removed now.
            let _ = fs::remove_dir_all(&half);
        })?;
        sync_directory(directory)?;
        let Described { source, name, first, .. } = described;
        let serving = Some(serving);
        Ok((Session { directory: own, source, name, epochs: vec![first], in_use: true, lock, serving }, envelope))
    }

    fn open(directory: PathBuf) -> Result<Session, Error> {
        Session::look(directory)?.locked()
    }

    fn open_of(directory: PathBuf, source: &str) -> Result<Session, Error> {
        let session = Session::look(directory)?;
        match session.source == source {
            true => session.locked(),
            false => Err(Error::OfAnother { session: session.directory, mount: session.source }),
        }
    }

    /// As it is once no other process has it: a moment before, its process may have renewed its keys, or another one
    /// may have removed it.
    fn locked(self) -> Result<Session, Error> {
        let Session { directory, lock, .. } = self;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Session { lock, ..Session::look(directory)? }),
            Err(_) => Err(Error::InUse(directory)),
        }
    }

    /// With whether a process has it.
    fn watch(directory: PathBuf) -> Result<Session, Error> {
        let session = Session::look(directory)?;
        let in_use = session.is_in_use();
        Ok(Session { in_use, ..session })
    }

    /// With a lock that readers share, and that is released at once.
    fn glance(directory: PathBuf) -> Result<Session, Error> {
        let session = Session::look(directory)?;
        match session.is_in_use() {
            false => Ok(session),
            true => Err(Error::InUse(session.directory)),
        }
    }

    fn is_in_use(&self) -> bool {
        let shared = flock(&self.lock, FlockOperation::NonBlockingLockShared);
        shared.and_then(|()| flock(&self.lock, FlockOperation::Unlock)).is_err()
    }

    fn look(directory: PathBuf) -> Result<Session, Error> {
        let path = directory.join(DESCRIPTION);
        let lock = disk::open(&path).map_err(at(&path))?;
        let Described { version, source, name, first } = read(&lock, &path)?;
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(unreadable(&path, format!("version {version} and not {VERSION_MIN} to {VERSION}")));
        }
        let epochs = epochs(&directory, &first.checked(&path, version > VERSION_MIN)?)?;
        Ok(Session { directory, source, name, epochs, in_use: false, lock, serving: None })
    }

    /// The mount that made it no longer serves.
    pub(super) fn note_end(&self) {
        let unlocked = self.serving.as_ref().map(|place| flock(place, FlockOperation::Unlock));
        if let Some(Err(error)) = unlocked {
            tracing::debug!(%error, "the next mount cannot see that this mount is ending");
        }
    }

    /// Removes it from the disk, with all that is in it. It is gone as a whole: a crash or a loss of power here
    /// leaves no session with a part of its segments.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(self) -> Result<(), Error> {
        let parent = self.parent();
        let _turn = take_turn(parent)?;
        disk::rename(&self.directory, &half_of(&self.directory)).map_err(at(&self.directory))?;
        sync_directory(parent)?;
        remove_halves(parent)
    }

    /// Keeps it from [`sessions`], for callers that read or discard.
    pub(super) fn set_aside(self) -> Result<(), Error> {
        let name = self.directory.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.directory.with_file_name(name.replacen(PREFIX, ASIDE, 1));
        disk::rename(&self.directory, &aside).map_err(at(&self.directory))?;
        sync_directory(self.parent())
    }

    /// Whether it was set aside because it was damaged.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(ASIDE))
    }

    fn parent(&self) -> &Path {
        self.directory.parent().unwrap_or(Path::new("/"))
    }
}

/// Waits until no other process makes or removes a session in `directory`.
fn take_turn(directory: &Path) -> Result<File, Error> {
    let file = File::open(directory).map_err(at(directory))?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| at(directory)(error.into()))?;
    Ok(file)
}

fn half_of(session: &Path) -> PathBuf {
    session.with_file_name(format!("{HALF}{}", session.file_name().unwrap_or_default().to_string_lossy()))
}

/// What a process left that died while it made or removed a session: nothing in it is needed.
fn remove_halves(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let entry = entry.map_err(at(directory))?;
        if entry.file_name().to_string_lossy().starts_with(HALF) {
            fs::remove_dir_all(entry.path()).map_err(at(&entry.path()))?;
        }
    }
    Ok(())
}

impl Described {
    /// Makes the session as `half`, and then in one step of it `own`.
    fn make(&self, half: &Path, own: &Path) -> Result<(File, File), Error> {
        let serving = File::open(half).map_err(at(half))?;
        flock(&serving, FlockOperation::NonBlockingLockExclusive).map_err(|error| at(half)(error.into()))?;
        let lock = self.store(half)?;
        sync_directory(half)?;
        disk::rename(half, own).map_err(at(own))?;
        Ok((lock, serving))
    }

    fn store(&self, own: &Path) -> Result<File, Error> {
        let path = own.join(DESCRIPTION);
        let file = disk::create_description(&path).map_err(at(&path))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| at(&path)(error.into()))?;
        write(&file, &path, self)?;
        Ok(file)
    }
}

/// So that a name that was made or removed is so after a loss of power too.
pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    disk::sync_directory(path).map_err(at(path))
}
