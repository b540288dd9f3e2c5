//! Paths that no other user can change, for root's log and for the spill directory.
//!
//! A user who may write to a directory above a file can put another file in its place. The rules are those of OpenSSH
//! (`StrictModes`), held on descriptors: the path is walked once, each component is opened relative to the one before
//! it, and links are followed by hand. The result is a path without links that no other user but root can change.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, mkdirat, open, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::StartError;
use crate::mounts::{Mount, id_of};
use dssefs_s3::escaping::shown;

/// The bits of a mode that let other users make and remove files in a directory.
pub(super) const OTHERS_WRITE: u32 = 0o022;
/// The bit of a mode that protects the files of one user from others where all may make some, as in `/var/tmp`.
const STICKY: u32 = 0o1000;
pub(super) const ROOT: u32 = 0;
/// As many links are followed as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Opens a name, and not the file's content or the target of a link.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A component that was opened.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) descriptor: OwnedFd,
    mount: u64,
}

/// What a directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Spill,
    Log,
}

impl Purpose {
    /// The option that names the directory.
    fn option(self) -> &'static str {
        match self {
            Purpose::Spill => "--spill-dir",
            Purpose::Log => "--log-file",
        }
    }

    fn holds(self) -> &'static str {
        match self {
            Purpose::Spill => "unsaved data",
            Purpose::Log => "the log",
        }
    }
}

/// The path of the log's file, without links above it and out of reach of other users.
///
/// Only root needs this: the owner of a directory above could make root open another file. For other users, and for a
/// directory that is missing, the path comes back as it is; opening the file reports what is missing.
///
/// # Errors
/// [`StartError::Argument`] names the component that cannot be trusted.
pub fn trusted_log(file: &Path) -> Result<PathBuf, StartError> {
    let is_of_kernel = ["/dev", "/proc"].iter().any(|place| file.starts_with(place));
    let parent = file.parent().filter(|_| geteuid().is_root() && !is_of_kernel);
    let (Some(parent), Some(name)) = (parent, file.file_name()) else { return Ok(file.to_owned()) };
    let walked = walk(parent, false, Purpose::Log).map_err(StartError::Argument)?;
    Ok(walked.map_or_else(|| file.to_owned(), |place| place.path.join(name)))
}

/// Walks an absolute path; None: a component is missing and `make` is false. An error is a sentence for a person. The
/// spill directory itself has stricter rules, which are checked after this.
pub(super) fn walk(path: &Path, make: bool, purpose: Purpose) -> Result<Option<Place>, String> {
    let (user, wanted) = (geteuid().as_raw(), shown(path));
    let mut places = vec![root(user, &wanted, purpose)?];
    let mut left = steps(&std::path::absolute(path).map_err(|error| format!("{wanted} cannot be looked at: {error}"))?);
    let mut links = 0;
    while let Some(step) = left.pop_front() {
        if step == "/" || step == ".." {
            places.truncate(if step == "/" { 1 } else { (places.len() - 1).max(1) });
            continue;
        }
        let parent = places.last().ok_or("a path begins at the root")?;
        let Some(place) = enter(parent, &step, make, purpose)? else { return Ok(None) };
        if place.mount != parent.mount {
            refuse_mounts_of_others(&place, user, purpose)?;
        }
        let stat = fstat(&place.descriptor).map_err(|errno| cannot(&place.path, "looked at", errno, purpose))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if links < LINKS_MAX => {
                links += 1;
                refuse_owner(&place.path, &stat, user, &wanted, purpose)?;
                let target = readlinkat(&place.descriptor, "", Vec::new());
                let target = target.map_err(|errno| cannot(&place.path, "read", errno, purpose))?;
                let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
                for step in steps(&target).into_iter().rev() {
                    left.push_front(step);
                }
            }
            FileType::Symlink => return Err(cannot(&place.path, "followed", Errno::LOOP, purpose)),
            FileType::Directory => {
                if !left.is_empty() || purpose == Purpose::Log {
                    refuse_owner(&place.path, &stat, user, &wanted, purpose)?;
                    refuse_writers(&place.path, &stat, &wanted, purpose)?;
                }
                places.push(place);
            }
            _ => {
                let (place, holds) = (shown(&place.path), purpose.holds());
                return Err(format!("{place} is not a directory, and cannot hold {holds}; name one"));
            }
        }
    }
    Ok(places.pop())
}

/// The names in a path, and `/` where it begins at the root.
fn steps(path: &Path) -> VecDeque<OsString> {
    let components = path.components().filter(|component| *component != Component::CurDir);
    components.map(|component| component.as_os_str().to_owned()).collect()
}

fn root(user: u32, wanted: &str, purpose: Purpose) -> Result<Place, String> {
    let path = PathBuf::from("/");
    let descriptor = open(&path, NAME_ONLY, Mode::empty()).map_err(|errno| cannot(&path, "opened", errno, purpose))?;
    let stat = fstat(&descriptor).map_err(|errno| cannot(&path, "looked at", errno, purpose))?;
    refuse_owner(&path, &stat, user, wanted, purpose)?;
    refuse_writers(&path, &stat, wanted, purpose)?;
    let mount = id_of(&descriptor).map_err(|error| format!("the mount of {} is not known: {error}", shown(&path)))?;
    Ok(Place { path, descriptor, mount })
}

/// Opens a name in a directory that was checked. None: it is missing, and `make` is false.
fn enter(parent: &Place, name: &OsStr, make: bool, purpose: Purpose) -> Result<Option<Place>, String> {
    let path = parent.path.join(name);
    let open = || openat(&parent.descriptor, name, NAME_ONLY, Mode::empty());
    let descriptor = match open() {
        Err(Errno::NOENT) if make => {
            match mkdirat(&parent.descriptor, name, Mode::RWXU) {
                // Another process was faster. What it made is checked like everything else.
                Ok(()) | Err(Errno::EXIST) => open().map_err(|errno| cannot(&path, "opened", errno, purpose))?,
                Err(errno) => return Err(cannot(&path, "made", errno, purpose)),
            }
        }
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(|errno| cannot(&path, "opened", errno, purpose))?,
    };
    let mount = id_of(&descriptor).map_err(|error| format!("the mount of {} is not known: {error}", shown(&path)))?;
    Ok(Some(Place { path, descriptor, mount }))
}

/// A user's FUSE file system shows what that user wants. Its owners and modes prove nothing and may change at any time.
fn refuse_mounts_of_others(place: &Place, user: u32, purpose: Purpose) -> Result<(), String> {
    let mount = Mount::with_id(place.mount).map_err(|error| format!("the table of mounts cannot be read: {error}"))?;
    match mount.and_then(|mount| mount.user).filter(|owner| ![ROOT, user].contains(owner)) {
        None => Ok(()),
        Some(owner) => Err(format!(
            "{} is a FUSE file system of user {owner}, who decides what it shows; \
             give a place on another file system with {}",
            shown(&place.path),
            purpose.option()
        )),
    }
}

fn refuse_owner(path: &Path, stat: &Stat, user: u32, wanted: &str, purpose: Purpose) -> Result<(), String> {
    if [ROOT, user].contains(&stat.st_uid) {
        return Ok(());
    }
    Err(format!(
        "{} belongs to user {} (mode {:04o}), who could put something else in the place of {wanted}; \
         give a place with {} that has only directories of root and of user {user} above it",
        shown(path),
        stat.st_uid,
        stat.st_mode & 0o7777,
        purpose.option()
    ))
}

fn refuse_writers(path: &Path, stat: &Stat, wanted: &str, purpose: Purpose) -> Result<(), String> {
    if stat.st_mode & OTHERS_WRITE == 0 || stat.st_mode & STICKY != 0 {
        return Ok(());
    }
    let place = shown(path);
    Err(format!(
        "other users of this host may write to {place} (owner {}, mode {:04o}), \
         and could put something else in the place of {wanted}; close it with `chmod go-w {place}`, \
         or give another place with {}",
        stat.st_uid,
        stat.st_mode & 0o7777,
        purpose.option()
    ))
}

pub(super) fn cannot(path: &Path, what: &str, errno: Errno, purpose: Purpose) -> String {
    let error = std::io::Error::from(errno);
    let (place, holds, option) = (shown(path), purpose.holds(), purpose.option());
    format!("{place} cannot be {what} to hold {holds}: {error}; give another place with {option}")
}
