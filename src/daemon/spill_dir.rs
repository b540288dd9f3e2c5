//! The spill directory: this user's, and out of the reach of every other user but root.
//!
//! What is in it is sealed. But a user who may write to it, or to a directory above it, could put sessions and lists of
//! uploads there, take them away, or put another directory in its place. A user who may open it can hold its lock, for
//! which mounts wait.
//!
//! The rules are those of OpenSSH (`StrictModes`), held on descriptors: the path is walked once, each component is
//! opened relative to the one before it, and links are followed by hand. What comes out is a path without links that no
//! other user can change.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, mkdirat, open, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::StartError;
use crate::mounts::{Mount, id_of};

/// The bits of a mode that let others than the owner read a directory, and make and remove files in it.
const OTHERS_READ: u32 = 0o044;
const OTHERS_WRITE: u32 = 0o022;
/// The bit of a mode that keeps users from each other's files where all may make some, as in `/var/tmp`.
const STICKY: u32 = 0o1000;
const ROOT: u32 = 0;
/// As many links are followed as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Opens a name and neither a file nor what a link leads to.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that was looked at, and is held open.
#[derive(Debug)]
pub(super) struct SpillDir {
    path: PathBuf,
    directory: OwnedFd,
}

impl SpillDir {
    /// Opens the directory, and makes it with mode 0700 where it is missing, with the directories above it that are
    /// missing. Nothing is made below a directory that another user may change.
    ///
    /// # Errors
    /// [`StartError::Argument`] names the component that cannot be used or trusted, its owner and its mode.
    pub(super) fn make(path: &Path) -> Result<SpillDir, StartError> {
        let made = spill(walk(path, true, Aim::Spill)).map_err(StartError::Argument)?;
        made.ok_or_else(|| StartError::Argument(format!("{} was removed while it was made; try again", shown(path))))
    }

    /// The same for a directory that is to be looked into. None: it is not there.
    ///
    /// # Errors
    /// As [`SpillDir::make`].
    pub(super) fn existing(path: &Path) -> Result<Option<SpillDir>, StartError> {
        spill(walk(path, false, Aim::Spill)).map_err(StartError::Argument)
    }

    /// Where it is, without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path still leads to it, after files were opened there by their paths.
    ///
    /// # Errors
    /// [`StartError::Argument`]: root has put another directory in its place.
    pub(super) fn confirm(&self) -> Result<(), StartError> {
        let place = shown(&self.path);
        let unreadable = |error: std::io::Error| StartError::Argument(format!("{place} cannot be looked at: {error}"));
        let held = fstat(&self.directory).map_err(|errno| unreadable(errno.into()))?;
        let now = self.path.symlink_metadata().map_err(unreadable)?;
        if (now.dev(), now.ino()) == (held.st_dev, held.st_ino) {
            return Ok(());
        }
        Err(StartError::Argument(format!("{place} was replaced while the mount started; mount again")))
    }
}

/// A component that was opened.
struct Place {
    path: PathBuf,
    descriptor: OwnedFd,
    mount: u64,
}

/// What a directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Spill,
    Log,
}

impl Aim {
    /// The option that names it.
    fn option(self) -> &'static str {
        match self {
            Aim::Spill => "--spill-dir",
            Aim::Log => "--log-file",
        }
    }

    fn holds(self) -> &'static str {
        match self {
            Aim::Spill => "unsaved data",
            Aim::Log => "the log",
        }
    }
}

/// Where the log's file is, by a path without links above it that no other user can change. Asked by root alone, whose
/// log would else be opened where the owner of a directory above it likes. A directory that is not there is told by who
/// opens the file.
///
/// # Errors
/// [`StartError::Argument`] names the component that cannot be trusted.
pub fn trusted_log(file: &Path) -> Result<PathBuf, StartError> {
    let is_of_kernel = ["/dev", "/proc"].iter().any(|place| file.starts_with(place));
    let parent = file.parent().filter(|_| geteuid().is_root() && !is_of_kernel);
    let (Some(parent), Some(name)) = (parent, file.file_name()) else { return Ok(file.to_owned()) };
    let walked = walk(parent, false, Aim::Log).map_err(StartError::Argument)?;
    Ok(walked.map_or_else(|| file.to_owned(), |place| place.path.join(name)))
}

/// The spill directory at the end of a walk.
fn spill(walked: Result<Option<Place>, String>) -> Result<Option<SpillDir>, String> {
    let Some(Place { path, descriptor, .. }) = walked? else { return Ok(None) };
    require_private(&path, &descriptor, geteuid().as_raw())?;
    Ok(Some(SpillDir { path, directory: descriptor }))
}

/// Walks an absolute path. An error is a sentence for a person. The rules of a spill directory itself are harder, and
/// come after this.
fn walk(path: &Path, make: bool, aim: Aim) -> Result<Option<Place>, String> {
    let (user, wanted) = (geteuid().as_raw(), shown(path));
    let mut places = vec![root(user, &wanted, aim)?];
    let mut left = steps(&std::path::absolute(path).map_err(|error| format!("{wanted} cannot be looked at: {error}"))?);
    let mut links = 0;
    while let Some(step) = left.pop_front() {
        if step == "/" || step == ".." {
            places.truncate(if step == "/" { 1 } else { (places.len() - 1).max(1) });
            continue;
        }
        let parent = places.last().ok_or("a path begins at the root")?;
        let Some(place) = enter(parent, &step, make, aim)? else { return Ok(None) };
        if place.mount != parent.mount {
            refuse_mounts_of_others(&place, user, aim)?;
        }
        let stat = fstat(&place.descriptor).map_err(|errno| cannot(&place.path, "looked at", errno, aim))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if links < LINKS_MAX => {
                links += 1;
                refuse_owner(&place.path, &stat, user, &wanted, aim)?;
                let target = readlinkat(&place.descriptor, "", Vec::new());
                let target = target.map_err(|errno| cannot(&place.path, "read", errno, aim))?;
                let target = PathBuf::from(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(target.as_bytes()));
                for step in steps(&target).into_iter().rev() {
                    left.push_front(step);
                }
            }
            FileType::Symlink => return Err(cannot(&place.path, "followed", Errno::LOOP, aim)),
            FileType::Directory => {
                if !left.is_empty() || aim == Aim::Log {
                    refuse_owner(&place.path, &stat, user, &wanted, aim)?;
                    refuse_writers(&place.path, &stat, &wanted, aim)?;
                }
                places.push(place);
            }
            _ => {
                let (place, holds) = (shown(&place.path), aim.holds());
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

fn root(user: u32, wanted: &str, aim: Aim) -> Result<Place, String> {
    let path = PathBuf::from("/");
    let descriptor = open(&path, NAME_ONLY, Mode::empty()).map_err(|errno| cannot(&path, "opened", errno, aim))?;
    let stat = fstat(&descriptor).map_err(|errno| cannot(&path, "looked at", errno, aim))?;
    refuse_owner(&path, &stat, user, wanted, aim)?;
    refuse_writers(&path, &stat, wanted, aim)?;
    let mount = id_of(&descriptor).map_err(|error| format!("the mount of {} is not known: {error}", shown(&path)))?;
    Ok(Place { path, descriptor, mount })
}

/// Opens a name of a directory that was looked at. None: it is not there, and was not to be made.
fn enter(parent: &Place, name: &OsStr, make: bool, aim: Aim) -> Result<Option<Place>, String> {
    let path = parent.path.join(name);
    let open = || openat(&parent.descriptor, name, NAME_ONLY, Mode::empty());
    let descriptor = match open() {
        Err(Errno::NOENT) if make => {
            match mkdirat(&parent.descriptor, name, Mode::RWXU) {
                // Another process was faster, and what it has made is looked at like all else.
                Ok(()) | Err(Errno::EXIST) => open().map_err(|errno| cannot(&path, "opened", errno, aim))?,
                Err(errno) => return Err(cannot(&path, "made", errno, aim)),
            }
        }
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(|errno| cannot(&path, "opened", errno, aim))?,
    };
    let mount = id_of(&descriptor).map_err(|error| format!("the mount of {} is not known: {error}", shown(&path)))?;
    Ok(Some(Place { path, descriptor, mount }))
}

/// A user's FUSE file system shows what that user wants: owners and modes are not to be believed, and may change from
/// one look to the next.
fn refuse_mounts_of_others(place: &Place, user: u32, aim: Aim) -> Result<(), String> {
    let mount = Mount::with_id(place.mount).map_err(|error| format!("the table of mounts cannot be read: {error}"))?;
    match mount.and_then(|mount| mount.user).filter(|owner| ![ROOT, user].contains(owner)) {
        None => Ok(()),
        Some(owner) => Err(format!(
            "{} is a FUSE file system of user {owner}, who decides what it shows; give a place on another one with {}",
            shown(&place.path),
            aim.option()
        )),
    }
}

fn refuse_owner(path: &Path, stat: &Stat, user: u32, wanted: &str, aim: Aim) -> Result<(), String> {
    if [ROOT, user].contains(&stat.st_uid) {
        return Ok(());
    }
    Err(format!(
        "{} belongs to user {} (mode {:04o}), who could put something else in the place of {wanted}; give a place with {} \
         that has only directories of root and of user {user} above it",
        shown(path),
        stat.st_uid,
        stat.st_mode & 0o7777,
        aim.option()
    ))
}

fn refuse_writers(path: &Path, stat: &Stat, wanted: &str, aim: Aim) -> Result<(), String> {
    if stat.st_mode & OTHERS_WRITE == 0 || stat.st_mode & STICKY != 0 {
        return Ok(());
    }
    let place = shown(path);
    Err(format!(
        "other users of this host may write to {place} (owner {}, mode {:04o}), and could put something else in the place of {wanted}; \
         close it with `chmod go-w {place}`, or give another place with {}",
        stat.st_uid,
        stat.st_mode & 0o7777,
        aim.option()
    ))
}

/// The directory itself: of this user alone, root's for root, as its owner could change it at any time.
fn require_private(path: &Path, descriptor: &OwnedFd, user: u32) -> Result<(), String> {
    let place = shown(path);
    let stat = fstat(descriptor).map_err(|errno| cannot(path, "looked at", errno, Aim::Spill))?;
    let (owner, mode) = (stat.st_uid, stat.st_mode & 0o7777);
    if owner != user {
        return Err(format!(
            "{place} belongs to another user ({owner}, mode {mode:04o}), and dssefs runs as user {user}; run it as the owner, or give a \
             directory of its own with --spill-dir"
        ));
    }
    if mode & OTHERS_WRITE != 0 {
        return Err(format!(
            "other users of this host may write to {place} (owner {owner}, mode {mode:04o}), and could remove what is kept there; give a \
             directory of its own with --spill-dir, or close this one with `chmod 700 {place}`"
        ));
    }
    if mode & OTHERS_READ != 0 {
        tracing::warn!(
            directory = place,
            mode = format!("{mode:04o}"),
            "other users of this host may open the spill directory, and could hold its lock and so keep mounts waiting; chmod 700 closes it"
        );
    }
    Ok(())
}

fn cannot(path: &Path, what: &str, errno: Errno, aim: Aim) -> String {
    let error = std::io::Error::from(errno);
    let (place, holds, option) = (shown(path), aim.holds(), aim.option());
    format!("{place} cannot be {what} to hold {holds}: {error}; give another place with {option}")
}

/// A name for a message, in which control characters are escaped.
fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs::{DirBuilder, Permissions, create_dir, rename, set_permissions};
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, lchown, symlink};

    use super::*;

    /// Any user but root.
    const OTHER: u32 = 1;

    /// A directory of this user with a path without links, and one below it that may be a spill directory.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let spill = parent.path().canonicalize().unwrap().join("above/spill");
        DirBuilder::new().recursive(true).mode(0o700).create(&spill).unwrap();
        (parent, spill)
    }

    fn close(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(directory: &Path) -> String {
        match SpillDir::make(directory) {
            Err(StartError::Argument(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn path_of(directory: &Path) -> PathBuf {
        SpillDir::make(directory).unwrap().path().to_owned()
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_not_taken() {
        let (_parent, spill) = place();
        for mode in [0o700, 0o755] {
            close(&spill, mode);
            assert_eq!(path_of(&spill), spill);
        }
        for mode in [0o775, 0o702, 0o1777] {
            close(&spill, mode);
            let said = refusal(&spill);
            assert!(said.contains(&format!("{mode:04o}")) && said.contains("chmod 700"), "{said}");
        }
    }

    #[test]
    fn a_directory_above_that_others_may_write_to_is_refused_and_nothing_is_made_below_it() {
        let (_parent, spill) = place();
        let above = spill.parent().unwrap();
        for mode in [0o777, 0o770, 0o720, 0o702] {
            close(above, mode);
            let (said, deep) = (refusal(&spill), refusal(&above.join("new/spill")));
            let names = format!("{} (owner", above.display());
            for said in [said, deep] {
                assert!(said.contains(&names) && said.contains(&format!("{mode:04o}")), "{said}");
                assert!(said.contains("chmod go-w"), "{said}");
            }
            assert!(!above.join("new").exists());
        }
        close(above, 0o1777);
        assert_eq!(path_of(&above.join("new/spill")), above.join("new/spill"));
        assert_eq!(above.join("new/spill").metadata().unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_link_is_followed_once_and_what_it_leads_to_is_held_to_the_same_rules() {
        let (parent, spill) = place();
        let root = parent.path().canonicalize().unwrap();
        create_dir(root.join("links")).unwrap();
        for (name, target) in [("absolute", root.join("above")), ("relative", PathBuf::from("../above/./../above"))] {
            let link = root.join("links").join(name);
            symlink(target, &link).unwrap();
            assert_eq!(path_of(&link.join("spill")), spill, "{name}");
        }
        let last = root.join("last");
        symlink("links/relative/spill", &last).unwrap();
        assert_eq!(path_of(&last), spill);
        close(&root.join("above"), 0o777);
        assert!(refusal(&last).contains("chmod go-w"));
        let circle = root.join("circle");
        symlink(&circle, &circle).unwrap();
        assert!(refusal(&circle.join("spill")).contains("symbolic links"), "{}", refusal(&circle));
    }

    #[test]
    fn what_another_user_owns_is_refused_wherever_it_is_in_the_path() {
        let (parent, spill) = place();
        let above = spill.parent().unwrap();
        // Only root can give a directory away.
        if !geteuid().is_root() {
            return;
        }
        chown(&spill, Some(OTHER), None).unwrap();
        let said = refusal(&spill);
        assert!(said.contains("another user (1, mode 0700)") && said.contains("as user 0"), "{said}");
        chown(&spill, Some(ROOT), None).unwrap();
        chown(above, Some(OTHER), None).unwrap();
        let said = refusal(&spill);
        assert!(said.contains(&format!("{} belongs to user 1", above.display())), "{said}");
        refusal(&above.join("new"));
        assert!(!above.join("new").exists());
        chown(above, Some(ROOT), None).unwrap();
        close(parent.path(), 0o1777);
        let link = parent.path().join("link");
        symlink(&spill, &link).unwrap();
        assert_eq!(path_of(&link), spill);
        lchown(&link, Some(OTHER), None).unwrap();
        assert!(refusal(&link).contains("belongs to user 1"));
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_made_to_be_looked_into() {
        let (_parent, spill) = place();
        assert!(SpillDir::existing(&spill.join("missing")).unwrap().is_none());
        assert!(!spill.join("missing").exists());
        std::fs::write(spill.join("file"), "").unwrap();
        for place in [spill.join("file"), spill.join("file/below")] {
            assert!(refusal(&place).contains("is not a directory"), "{}", refusal(&place));
        }
    }

    #[test]
    fn a_directory_that_was_put_in_its_place_is_noticed() {
        let (_parent, spill) = place();
        let opened = SpillDir::make(&spill).unwrap();
        opened.confirm().unwrap();
        rename(&spill, spill.with_file_name("old")).unwrap();
        create_dir(&spill).unwrap();
        assert!(opened.confirm().unwrap_err().to_string().contains("was replaced"));
    }

    /// The kernel shows what a list gives to others in the group's bits (acl(5)), where the rules look.
    #[test]
    fn a_directory_that_an_access_control_list_opens_to_another_user_is_not_taken() {
        const READ_WRITE_SEARCH: u16 = 7;
        let (_parent, spill) = place();
        // As the kernel's `posix_acl_xattr.h` has it: the version, then tag, rights and id of each entry, by tag.
        let none = u32::MAX;
        let entries = [(0x01, READ_WRITE_SEARCH, none), (0x02, READ_WRITE_SEARCH, OTHER), (0x04, 0, none)];
        let closing = [(0x10, READ_WRITE_SEARCH, none), (0x20, 0, none)];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries.into_iter().chain(closing) {
            let (tag, rights): (u16, u16) = (tag, rights);
            list.extend(tag.to_le_bytes().iter().chain(&rights.to_le_bytes()).chain(&id.to_le_bytes()));
        }
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::setxattr(&spill, "system.posix_acl_access", &list, flags) {
            // This file system has no such lists.
            Err(Errno::OPNOTSUPP) => return,
            set => set.unwrap(),
        }
        assert!(refusal(&spill).contains("mode 0770"), "{}", refusal(&spill));
    }

    #[test]
    fn control_characters_in_a_refused_name_are_escaped() {
        let (_parent, spill) = place();
        let strange = spill.join("a\u{1b}[2K\nb");
        create_dir(&strange).unwrap();
        close(&strange, 0o777);
        let said = refusal(&strange);
        assert!(!said.contains(['\u{1b}', '\n']) && said.contains("\\u{1b}[2K\\nb"), "{said}");
    }
}
