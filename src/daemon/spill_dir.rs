//! The spill directory: it belongs to this user, and no other user but root can reach or replace it.
//!
//! Its content is sealed. But a user who may write to it, or to a directory above it, could add or remove sessions and
//! lists of uploads, or put another directory in its place. A user who may open it can hold its lock, and mounts wait
//! for that lock. [`super::trusted_path`] walks the path.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use rustix::process::geteuid;

use super::StartError;
use super::trusted_path::{OTHERS_WRITE, Place, Purpose, cannot, walk};
use dssefs_s3::escaping::shown;

/// The bits of a mode that let other users read a directory.
const OTHERS_READ: u32 = 0o044;

/// A directory that was checked, and is held open.
#[derive(Debug)]
pub(super) struct SpillDir {
    path: PathBuf,
    directory: OwnedFd,
}

impl SpillDir {
    /// Opens the directory. Makes it with mode 0700 where it is missing, and the missing directories above it. Makes
    /// nothing below a directory that another user may change.
    ///
    /// # Errors
    /// [`StartError::Argument`] names the component that cannot be used or trusted, its owner and its mode.
    pub(super) fn make(path: &Path) -> Result<SpillDir, StartError> {
        let made = spill(walk(path, true, Purpose::Spill)).map_err(StartError::Argument)?;
        made.ok_or_else(|| StartError::Argument(format!("{} was removed while it was made; try again", shown(path))))
    }

    /// The same for a directory that is only read. None: it is missing.
    ///
    /// # Errors
    /// As [`SpillDir::make`].
    pub(super) fn existing(path: &Path) -> Result<Option<SpillDir>, StartError> {
        spill(walk(path, false, Purpose::Spill)).map_err(StartError::Argument)
    }

    /// Where it is, without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that its path still leads to it, after files were opened there by their paths.
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

/// The spill directory at the end of a walk.
fn spill(walked: Result<Option<Place>, String>) -> Result<Option<SpillDir>, String> {
    let Some(Place { path, descriptor, .. }) = walked? else { return Ok(None) };
    require_private(&path, &descriptor, geteuid().as_raw())?;
    Ok(Some(SpillDir { path, directory: descriptor }))
}

/// Checks the directory itself: it must belong to this user, also where that is root, because its owner could change it
/// at any time.
fn require_private(path: &Path, descriptor: &OwnedFd, user: u32) -> Result<(), String> {
    let place = shown(path);
    let stat = fstat(descriptor).map_err(|errno| cannot(path, "looked at", errno, Purpose::Spill))?;
    let (owner, mode) = (stat.st_uid, stat.st_mode & 0o7777);
    if owner != user {
        return Err(format!(
            "{place} belongs to another user ({owner}, mode {mode:04o}), and dssefs runs as user {user}; \
             run it as the owner, or give a directory of its own with --spill-dir"
        ));
    }
    if mode & OTHERS_WRITE != 0 {
        return Err(format!(
            "other users of this host may write to {place} (owner {owner}, mode {mode:04o}), \
             and could remove what is kept there; give a directory of its own with --spill-dir, \
             or close this one with `chmod 700 {place}`"
        ));
    }
    if mode & OTHERS_READ != 0 {
        tracing::warn!(
            directory = place,
            mode = format!("{mode:04o}"),
            "other users of this host may open the spill directory, and could hold its lock, \
             for which mounts wait; chmod 700 closes it"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{DirBuilder, Permissions, create_dir, rename, set_permissions};
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, lchown, symlink};

    use rustix::io::Errno;

    use super::super::trusted_path::ROOT;
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
