//! The mount point: opened once, and from then on a descriptor.
//!
//! A user who may rename a directory above it can make its name lead elsewhere at any later moment. What was checked is
//! what is mounted on only if the name is never looked up again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, StatxFlags, fstat, statx};
use rustix::process::geteuid;

use super::problem::Problem;
use crate::mounts::{self, Mount};

/// How long a mount that is in the way may take to say whether its daemon lives.
const SIGN_OF_LIFE_WITHIN: Duration = Duration::from_secs(1);

/// The directory to mount on.
#[derive(Clone, Debug)]
pub struct Mountpoint {
    /// Where it was when it was checked; absolute, without links.
    pub path: PathBuf,
    /// The directory itself.
    pub directory: Arc<OwnedFd>,
}

impl Mountpoint {
    /// Opens the directory that was named, through links.
    pub(super) fn open(path: &Path) -> Result<Mountpoint, Problem> {
        let directory = mounts::open_place(path).map_err(|error| {
            let is_there = error.raw_os_error() == Some(libc::ENOTDIR) && path.exists();
            match is_there {
                true => Problem::MountpointNotADirectory(path.to_owned()),
                false => Problem::MountpointMissing { path: path.to_owned(), error },
            }
        })?;
        Mountpoint::of(directory, path)
    }

    /// The directory that another process has opened and hands on; `path` is what its user named.
    pub(super) fn of(directory: OwnedFd, path: &Path) -> Result<Mountpoint, Problem> {
        let unusable = |error| Problem::MountpointMissing { path: path.to_owned(), error };
        // Before anything is asked of a mount whose daemon may be gone, or hang.
        if let Some(mount) = Mount::rooted_at(&directory).map_err(unusable)?
            && is_in_the_way(&mount)
        {
            return Err(in_the_way(path, &mount, directory));
        }
        let stat = fstat(&directory).map_err(|errno| unusable(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Problem::MountpointNotADirectory(path.to_owned()));
        }
        let resolved = mounts::path_of(&directory).map_err(unusable)?;
        Ok(Mountpoint { path: resolved, directory: Arc::new(directory) })
    }

    /// What the mount itself needs on the local disk cannot be in what it hides.
    pub(super) fn keep_apart(&self, spill_dir: &Path, log_file: Option<&Path>) -> Result<(), Problem> {
        let spill = resolved(spill_dir);
        if spill.starts_with(&self.path) || self.path.starts_with(&spill) {
            return Err(Problem::SpillMeetsMountpoint { spill, mountpoint: self.path.clone() });
        }
        match log_file.map(resolved) {
            Some(log) if log.starts_with(&self.path) => {
                Err(Problem::LogInMountpoint { log, mountpoint: self.path.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Whether the directory has names in it, which are hidden while it is mounted on. False where this user may not
    /// look.
    #[must_use]
    pub fn has_content(&self) -> bool {
        std::fs::read_dir(mounts::by_descriptor(&self.directory)).is_ok_and(|mut names| names.next().is_some())
    }
}

/// A trigger of automount(8) or systemd.automount(5) is there to be mounted on.
fn is_in_the_way(mount: &Mount) -> bool {
    mount.kind != "autofs"
}

fn in_the_way(path: &Path, mount: &Mount, directory: OwnedFd) -> Problem {
    let (path, kind) = (path.to_owned(), mount.kind.clone());
    let what = mount.source.to_string_lossy().into_owned();
    // Only a daemon of this user is asked: another one could hold the answer back, and this process with it.
    if mount.user == Some(geteuid().as_raw()) && is_dead(directory) {
        return Problem::MountpointDead { path, kind, what };
    }
    Problem::MountpointTaken { remedy: remedy(&kind), path, kind, what }
}

/// The command that unmounts a mount of this type.
fn remedy(kind: &str) -> &'static str {
    if kind == "fuse.dssefs" { "dssefs umount" } else { "umount" }
}

/// Whether the daemon of a mount has ended. One that hangs is given a limited time: the question is asked by a thread
/// that may be left alone.
fn is_dead(directory: OwnedFd) -> bool {
    let (answer, answered) = channel();
    std::thread::spawn(move || {
        let asked = statx(directory.as_fd(), "", AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC, StatxFlags::MODE);
        // The receiver is gone after the time-out.
        let _ = answer.send(asked.map(drop).map_err(io::Error::from));
    });
    match answered.recv_timeout(SIGN_OF_LIFE_WITHIN) {
        Ok(Err(error)) => error.raw_os_error() == Some(libc::ENOTCONN),
        _ => false,
    }
}

/// Without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let existing = |ancestor: &Path| Some(ancestor.canonicalize().ok()?.join(path.strip_prefix(ancestor).ok()?));
    path.ancestors().find_map(existing).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, rename};
    use std::os::unix::fs::symlink;

    use super::*;

    fn refusal<T: std::fmt::Debug>(outcome: Result<T, Problem>) -> String {
        outcome.unwrap_err().to_string()
    }

    #[test]
    fn a_renamed_parent_does_not_change_the_checked_directory() {
        let dir = tempfile::tempdir().unwrap();
        let [parent, moved, elsewhere] = ["parent", "moved", "elsewhere"].map(|name| dir.path().join(name));
        for path in [&parent, &elsewhere, &parent.join("mnt"), &elsewhere.join("mnt")] {
            create_dir(path).unwrap();
        }
        let checked = Mountpoint::open(&parent.join("mnt")).unwrap();
        rename(&parent, &moved).unwrap();
        symlink(&elsewhere, &parent).unwrap();
        assert_eq!(mounts::path_of(&checked.directory).unwrap(), moved.join("mnt"));
        assert!(!checked.has_content());
        std::fs::write(elsewhere.join("mnt/file"), "").unwrap();
        assert!(!checked.has_content());
        std::fs::write(moved.join("mnt/file"), "").unwrap();
        assert!(checked.has_content());
    }

    #[test]
    fn a_mount_point_in_use_is_refused_and_named() {
        let said = refusal(Mountpoint::open(Path::new("/proc")));
        assert!(said.contains("proc (proc) is mounted at /proc already") && said.contains("umount /proc"), "{said}");
        assert!(Mountpoint::open(Path::new("/proc/self")).is_ok());
    }

    #[test]
    fn spill_and_log_inside_the_mount_point_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mnt, link) = (dir.path().join("mnt"), dir.path().join("link"));
        create_dir(&mnt).unwrap();
        symlink(&mnt, &link).unwrap();
        let checked = Mountpoint::open(&link).unwrap();
        let beside = dir.path().join("mnt-spill");
        checked.keep_apart(&beside, Some(&dir.path().join("log"))).unwrap();
        for spill in [&mnt, &mnt.join("not/yet/there"), &link.join("spill"), dir.path()] {
            assert!(refusal(checked.keep_apart(spill, None)).contains("--spill-dir"), "{}", spill.display());
        }
        for log in [mnt.join("log"), link.join("not/yet/log")] {
            assert!(refusal(checked.keep_apart(&beside, Some(&log))).contains("--log-file"), "{}", log.display());
        }
    }

    #[test]
    fn a_file_handed_on_as_a_directory_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(refusal(Mountpoint::of(file.into(), Path::new("x"))).contains("not a directory"));
    }
}
