//! The spill directory: this user's, and nobody else's.
//!
//! What is in it is sealed, but whoever may write to it can put sessions and lists of uploads there, or take them away, and whoever may
//! open it can hold its lock, for which mounts wait.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use super::StartError;

/// The bits of a mode that let others than the owner read a directory, and make and remove files in it.
const OTHERS_READ: u32 = 0o044;
const OTHERS_WRITE: u32 = 0o022;
/// The bit of a mode that lets everybody make files, as in `/var/tmp`.
const EVERYBODY_WRITES: u32 = 0o002;

/// Refuses a directory that others may write to, and one that somebody else has made where everybody may; warns of one that others may
/// open. Root may be given another user's.
///
/// # Errors
/// [`StartError::Argument`].
pub(super) fn require_private(directory: &Path) -> Result<(), StartError> {
    let place = directory.display();
    let unreadable = |error| StartError::Argument(format!("{place} cannot be looked at: {error}"));
    let mode = directory.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Err(StartError::Argument(format!(
            "other users of this host may write to {place} (mode {mode:04o}), and could remove what is kept there; give a directory of \
             its own with --spill-dir, or close this one with `chmod 700 {place}`"
        )));
    }
    if mode & OTHERS_READ != 0 {
        tracing::warn!(
            directory = %place,
            mode = format!("{mode:04o}"),
            "other users of this host may open the spill directory, and could hold its lock and so keep mounts waiting; chmod 700 closes it"
        );
    }
    // The name itself, which may be a link.
    let owner = directory.symlink_metadata().map_err(unreadable)?.uid();
    if owner != geteuid().as_raw()
        && directory.parent().is_some_and(|parent| parent.metadata().is_ok_and(|parent| is_public(&parent)))
    {
        return Err(StartError::Argument(format!(
            "{place} was made by another user ({owner}), where everybody may make directories; give another with --spill-dir"
        )));
    }
    Ok(())
}

fn is_public(parent: &Metadata) -> bool {
    parent.mode() & EVERYBODY_WRITES != 0
}

#[cfg(test)]
mod tests {
    use std::fs::{DirBuilder, Permissions, set_permissions};
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};

    use super::*;

    fn refusal(directory: &Path) -> String {
        match require_private(directory) {
            Err(StartError::Argument(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_not_taken() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("spill");
        DirBuilder::new().mode(0o700).create(&directory).unwrap();
        for mode in [0o700, 0o755] {
            set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
            require_private(&directory).unwrap();
        }
        for mode in [0o775, 0o702, 0o1777] {
            set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
            let said = refusal(&directory);
            assert!(said.contains(&format!("{mode:04o}")) && said.contains("chmod 700"), "{said}");
        }
    }

    #[test]
    fn a_directory_that_another_has_made_where_everybody_may_is_not_taken() {
        let parent = tempfile::tempdir().unwrap();
        let (directory, link) = (parent.path().join("spill"), parent.path().join("link"));
        DirBuilder::new().mode(0o700).create(&directory).unwrap();
        // Only root can give a directory away.
        if chown(&directory, Some(1), None).is_err() {
            return;
        }
        require_private(&directory).unwrap();
        set_permissions(parent.path(), Permissions::from_mode(0o1777)).unwrap();
        assert!(refusal(&directory).contains("another user (1)"));
        chown(&directory, Some(0), None).unwrap();
        require_private(&directory).unwrap();
        symlink(&directory, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(1), None).unwrap();
        assert!(require_private(&link).is_err(), "by this code or by the kernel's protected_symlinks");
    }
}
