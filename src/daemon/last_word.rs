//! What became of unsaved changes at the end of a mount, told to who has unmounted it.
//!
//! That is another process, and not the daemon's parent, so it does not learn the exit code. It lays a slip for the daemon into the spill
//! directory, where both may write; the daemon fills it in before it ends, and who laid it reads and removes it. A daemon that finds none
//! writes none, so that nothing is left behind. A slip has numbers and no names, which must not rest on the disk in clear.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// More of a slip is not read, in bytes.
const BYTES_MAX: u64 = 200;

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWord {
    /// Files that the store does not have and the journal keeps.
    pub kept: u64,
    /// Files whose changes are lost.
    pub lost: u64,
}

/// Where a daemon says how it ended; removed with this value.
#[derive(Debug)]
pub struct Slip {
    path: PathBuf,
    file: File,
}

fn path_of(directory: &Path, pid: u32) -> PathBuf {
    directory.join(format!("ended-{pid}"))
}

impl LastWord {
    /// Fills in the slip of this process, if somebody has laid one.
    pub(super) fn tell(self, directory: &Path) {
        let path = path_of(directory, std::process::id());
        let written = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path);
        let written = written.and_then(|mut file| file.write_all(&serde_json::to_vec(&self)?));
        match written {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "who unmounts cannot be told how it went; this log has it");
            }
            _ => {}
        }
    }
}

impl Slip {
    /// A slip for the daemon `pid`, whose spill directory is `directory`. One of an earlier process of that number is replaced.
    ///
    /// # Errors
    /// The directory is not there, or this user may not write into it.
    pub fn lay(directory: &Path, pid: u32) -> io::Result<Slip> {
        let path = path_of(directory, pid);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let slip = Slip { path, file };
        // Root may lay one for the daemon of another user, to whom the directory belongs.
        let owner = directory.metadata()?.uid();
        if owner != slip.file.metadata()?.uid() {
            fchown(&slip.file, Some(owner), None)?;
        }
        Ok(slip)
    }

    /// What the daemon has said, once it has ended; None: it ended without a word.
    #[must_use]
    pub fn read(&self) -> Option<LastWord> {
        let mut text = Vec::new();
        (&self.file).take(BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

impl Drop for Slip {
    fn drop(&mut self) {
        // It says nothing that anybody needs; the next one of that number replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_speaks_to_who_has_laid_a_slip_and_to_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let word = LastWord { kept: 2, lost: 1 };
        word.tell(directory.path());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        std::fs::write(path_of(directory.path(), std::process::id()), "of an earlier process").unwrap();
        let slip = Slip::lay(directory.path(), std::process::id()).unwrap();
        assert_eq!(slip.read(), None, "it has not ended");
        word.tell(directory.path());
        assert_eq!(slip.read(), Some(word));
        drop(slip);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
