//! The one mount that is asked, waited for and unmounted.
//!
//! A path may lead elsewhere at any moment. So it is resolved once: the directory that the mount point is in stays
//! open, the mount is found by its id below that directory, its facts come from the kernel's list under the same id,
//! and it is unmounted below that directory.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::geteuid;

use super::error::UmountError;
use crate::daemon::Identity;
use crate::mounts::{Mount, by_descriptor, id_of};

/// A mount of dssefs, held.
#[derive(Debug)]
pub(super) struct Place {
    parent: OwnedFd,
    name: OsString,
    /// The mount's root. It keeps the mount busy, so it is closed before the unmount.
    root: Option<OwnedFd>,
    info: Mount,
    mounter: Identity,
}

impl Place {
    /// The topmost mount at `given`.
    ///
    /// # Errors
    /// There is none of dssefs, or the list of mounts cannot be read.
    pub(super) fn find(given: &Path) -> Result<Place, UmountError> {
        let not_mounted = || UmountError::NotMounted(given.to_owned());
        let path = resolve(given).map_err(UmountError::Mounts)?;
        let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(not_mounted)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = open(parent, flags, Mode::empty()).map_err(|_| not_mounted())?;
        let root = open_root(&parent, name).map_err(|_| not_mounted())?;
        let id = id_of(&root).map_err(UmountError::Mounts)?;
        let info = Mount::with_id(id).map_err(UmountError::Mounts)?;
        let info = info.filter(Mount::is_named_dssefs).ok_or_else(not_mounted)?;
        // The root of a mount, and not a directory within one.
        if id_of(&parent).map_err(UmountError::Mounts)? == id {
            return Err(not_mounted());
        }
        let (Some(user), Some(group)) = (info.user, info.group) else { return Err(not_mounted()) };
        Ok(Place { parent, name: name.to_owned(), root: Some(root), info, mounter: Identity { user, group } })
    }

    /// Where it is, as the kernel writes it.
    pub(super) fn path(&self) -> &Path {
        &self.info.point
    }

    /// Who mounted it, by the kernel's word.
    pub(super) fn mounter(&self) -> Identity {
        self.mounter
    }

    /// What the kernel says of it.
    pub(super) fn info(&self) -> &Mount {
        &self.info
    }

    /// A path that leads to the root of this mount and of no other, for calls of this process.
    pub(super) fn root(&self) -> Result<PathBuf, UmountError> {
        let root = self.root.as_ref().ok_or_else(|| UmountError::NotMounted(self.path().to_owned()))?;
        Ok(PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())))
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// It is in use, is not on top any more, or the kernel or fusermount3 refuses.
    pub(super) fn unmount(&mut self) -> Result<(), UmountError> {
        self.root = None;
        let on_top = open_root(&self.parent, &self.name).map_err(io::Error::from).and_then(|root| id_of(&root));
        if on_top.ok() != Some(self.info.id) {
            return Err(UmountError::Replaced(self.path().to_owned()));
        }
        if geteuid().is_root() { self.by_system_call() } else { self.by_helper() }
    }

    fn by_system_call(&self) -> Result<(), UmountError> {
        let path = Path::new("/proc/self/fd").join(self.parent.as_raw_fd().to_string()).join(&self.name);
        unmount(&path, UnmountFlags::NOFOLLOW).map_err(|errno| match errno {
            Errno::BUSY => UmountError::Busy(self.path().to_owned()),
            other => self.refused(io::Error::from(other).to_string()),
        })
    }

    /// The set-user-id helper unmounts only what this user has mounted. It takes a name, which is looked for in the
    /// directory that is held; what it has done is looked at.
    fn by_helper(&self) -> Result<(), UmountError> {
        let mut command = Command::new("fusermount3");
        command.current_dir(by_descriptor(&self.parent)).env("LC_ALL", "C").args(["-u", "--"]).arg(&self.name);
        let output = command.output().map_err(UmountError::HelperMissing)?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let is_there = || Mount::with_id(self.info.id).is_ok_and(|mount| mount.as_ref() == Some(&self.info));
        match output.status.success() {
            true if is_there() => Err(UmountError::Replaced(self.path().to_owned())),
            true => Ok(()),
            false if said.contains("busy") => Err(UmountError::Busy(self.path().to_owned())),
            false => Err(self.refused(said)),
        }
    }

    fn refused(&self, reason: String) -> UmountError {
        UmountError::Refused { path: self.path().to_owned(), reason }
    }
}

/// Without links. A dead mount cannot be resolved any more, but its parent can.
fn resolve(given: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(given)?;
    let resolved = match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute,
    };
    Ok(resolved.canonicalize().unwrap_or(resolved))
}

/// Opening it so asks the file system nothing, works on a dead mount, and sets off no automount.
fn open_root(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_no_mount_of_dssefs_is_not_found() {
        for path in ["/", "/proc", "/proc/self", "/no-such-directory", "/dev/null"] {
            let error = Place::find(Path::new(path)).expect_err("not ours");
            assert!(matches!(error, UmountError::NotMounted(_)), "{path}: {error}");
        }
    }
}
