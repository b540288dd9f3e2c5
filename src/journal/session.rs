//! Sessions: the directory of one process, and the keys that open it again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::crypto::Envelope;

use super::keys::{Epoch, NewKeys, epochs, read, unreadable, write};
use super::{Error, at};

const VERSION: u32 = 1;
const PREFIX: &str = "session-";
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

/// A session on the disk. Unless it came from [`sessions_to_read`], nobody else can have it while this value lives.
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
    lock: File,
}

/// The sessions in `directory` whose processes have ended, oldest first, and why others cannot be had. None if it does not exist.
///
/// # Errors
/// The directory cannot be read.
pub fn sessions(directory: &Path) -> Result<(Vec<Session>, Vec<Error>), Error> {
    all(directory, Session::open)
}

/// The same, and those of living processes with them, to be looked at and not to be changed.
///
/// # Errors
/// The directory cannot be read.
pub fn sessions_to_read(directory: &Path) -> Result<(Vec<Session>, Vec<Error>), Error> {
    all(directory, Session::look)
}

fn all(
    directory: &Path,
    open: impl Fn(PathBuf) -> Result<Session, Error>,
) -> Result<(Vec<Session>, Vec<Error>), Error> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        entries => entries.map_err(at(directory))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(directory))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let begun = entry.metadata().and_then(|meta| meta.modified()).map_err(at(&entry.path()))?;
            found.push((begun, entry.path()));
        }
    }
    found.sort();
    let (mut whole, mut unusable) = (Vec::new(), Vec::new());
    for (_, path) in found {
        match open(path) {
            Ok(session) => whole.push(session),
            Err(error) => unusable.push(error),
        }
    }
    Ok((whole, unusable))
}

impl Session {
    /// Begins a session in a directory of its own, which stands on the disk when this returns.
    pub(super) fn create(directory: &Path, new: NewSession) -> Result<(Session, Envelope), Error> {
        let NewSession { source, name, keys } = new;
        let (first, envelope) = Epoch::begin(0, keys)?;
        let described = Described { version: VERSION, source, name, first };
        let own = directory.join(format!("{PREFIX}{}", described.name));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
        DirBuilder::new().mode(0o700).create(&own).map_err(at(&own))?;
        let stored = described.store(&own).and_then(|lock| sync_directory(&own).map(|()| lock));
        let lock = stored.and_then(|lock| sync_directory(directory).map(|()| lock)).inspect_err(|_| {
            // Half a session would be found by every start; what cannot be removed is told then.
            let _ = fs::remove_dir_all(&own);
        })?;
        let Described { source, name, first, .. } = described;
        Ok((Session { directory: own, source, name, epochs: vec![first], lock }, envelope))
    }

    fn open(directory: PathBuf) -> Result<Session, Error> {
        let session = Session::look(directory)?;
        match flock(&session.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(session),
            Err(_) => Err(Error::InUse(session.directory)),
        }
    }

    fn look(directory: PathBuf) -> Result<Session, Error> {
        let path = directory.join(DESCRIPTION);
        let lock = File::open(&path).map_err(at(&path))?;
        let Described { version, source, name, first } = read(&lock, &path)?;
        if version != VERSION {
            return Err(unreadable(&path, format!("version {version} and not {VERSION}")));
        }
        let epochs = epochs(&directory, first.checked(&path)?)?;
        Ok(Session { directory, source, name, epochs, lock })
    }

    /// Removes it from the disk, with all that is in it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.directory).map_err(at(&self.directory))
    }
}

impl Described {
    fn store(&self, own: &Path) -> Result<File, Error> {
        let path = own.join(DESCRIPTION);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(at(&path))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| at(&path)(error.into()))?;
        write(&mut file, self).map_err(at(&path))?;
        Ok(file)
    }
}

/// So that a name that was made or removed is so after a loss of power too.
pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at(path))
}
