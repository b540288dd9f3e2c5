//! The keys and aliases in one JSON file. A rename replaces the whole file, so that a crash leaves the old or the new
//! one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::super::storage::private_directory;
use super::exception::Exception;
use super::key::Key;

/// The version of the file's form.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    /// By key id.
    pub(super) keys: BTreeMap<String, Key>,
    /// From alias, with its `alias/`, to key id.
    pub(super) aliases: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    state: Mutex<State>,
}

impl Store {
    pub(super) fn open(directory: &Path) -> io::Result<Store> {
        private_directory(directory)?;
        let path = directory.join("keys.json");
        let state = match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        Ok(Store { path, state: Mutex::new(state) })
    }

    pub(super) fn read(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state on disk and then in memory; when either `change` or the disk refuses, nothing has changed.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, Exception>) -> Result<T, Exception> {
        let mut current = self.read();
        let mut next = current.clone();
        let outcome = change(&mut next)?;
        self.save(&next).map_err(|error| Exception::internal(&error))?;
        *current = next;
        Ok(outcome)
    }

    fn save(&self, state: &State) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        // A NamedTempFile is readable by its owner only, which key material asks for.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, state)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        File::open(directory)?.sync_all()
    }
}

impl Default for State {
    fn default() -> State {
        State { format: FORMAT, keys: BTreeMap::new(), aliases: BTreeMap::new() }
    }
}

fn parse(path: &Path, bytes: &[u8]) -> io::Result<State> {
    let damaged = |why: String| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is not a key file of this version: {why}", path.display()),
        )
    };
    let state: State = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    match state.format {
        FORMAT => Ok(state),
        other => Err(damaged(format!("its format is {other}, not {FORMAT}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_change_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let refused: Result<(), _> = store.change(|state| {
            state.aliases.insert("alias/a".into(), "id".into());
            Err(Exception::validation("no"))
        });
        assert!(refused.is_err() && store.read().aliases.is_empty());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_file_is_refused_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("keys.json"), b"{").unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("keys.json is not a key file"), "{error}");
    }

    #[test]
    fn the_file_is_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.change(|_| Ok(())).unwrap();
        let mode = fs::metadata(directory.path().join("keys.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
