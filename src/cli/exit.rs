//! The exit codes, which scripts rely on: a number once given keeps its meaning.

use std::process::ExitCode;

use crate::daemon::StartError;

/// How the program ends. `docs/CLI.md` lists the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done.
    Ok = 0,
    /// A step of the demonstration was not true.
    Untrue = 1,
    /// The arguments cannot be understood, or contradict each other or the machine.
    Usage = 2,
    /// There is no such bucket.
    Bucket = 3,
    /// The credentials do not permit it.
    Access = 4,
    /// The KMS key cannot be used.
    Key = 5,
    /// The store does not answer, or there are no valid credentials for it.
    Unreachable = 6,
    /// The kernel refuses the mount or the unmount.
    Fuse = 7,
    /// The store does not do DSSE-KMS, or does it under another key.
    Mismatch = 8,
    /// The mount is in use and stays.
    Busy = 9,
    /// Something that should not happen.
    Internal = 10,
    /// The mount has ended with changes that the store did not take: kept or lost, as the message says. Or a recovery
    /// left some, or they keep `umount` from ending the mount.
    Unsaved = 11,
    /// What was kept on the local disk is not as it was written.
    Damaged = 12,
    /// The mount is gone from its place, and its daemon lives on.
    Held = 13,
}

impl Exit {
    /// All of them, in order.
    pub const ALL: [Exit; 14] = [
        Exit::Ok,
        Exit::Untrue,
        Exit::Usage,
        Exit::Bucket,
        Exit::Access,
        Exit::Key,
        Exit::Unreachable,
        Exit::Fuse,
        Exit::Mismatch,
        Exit::Busy,
        Exit::Internal,
        Exit::Unsaved,
        Exit::Damaged,
        Exit::Held,
    ];

    /// The one that a process ended with; what it was killed by counts as internal.
    pub(super) fn of(status: std::process::ExitStatus) -> Exit {
        let known = |code: i32| Exit::ALL.into_iter().find(|exit| *exit as i32 == code);
        status.code().and_then(known).unwrap_or(Exit::Internal)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl From<&StartError> for Exit {
    fn from(error: &StartError) -> Exit {
        match error {
            StartError::Bucket { .. } => Exit::Bucket,
            StartError::Access { .. } => Exit::Access,
            StartError::Key { .. } => Exit::Key,
            StartError::Unreachable { .. } => Exit::Unreachable,
            StartError::Mismatch { .. } => Exit::Mismatch,
            StartError::Fuse { .. } => Exit::Fuse,
            StartError::Unsaved { .. } => Exit::Unsaved,
            StartError::Argument { .. } => Exit::Usage,
            StartError::Damaged { .. } => Exit::Damaged,
            StartError::Internal { .. } => Exit::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_code_once() {
        let page = include_str!("../../docs/CLI.md");
        for exit in Exit::ALL {
            let row = format!("| {} | ", exit as u8);
            assert_eq!(page.matches(&row).count(), 1, "docs/CLI.md should have one row for {} ({exit:?})", exit as u8);
        }
    }

    #[test]
    fn the_code_of_a_child_is_understood() {
        let status = |code: i32| std::os::unix::process::ExitStatusExt::from_raw(code);
        for exit in Exit::ALL {
            assert_eq!(Exit::of(status((exit as i32) << 8)), exit);
        }
        assert_eq!(Exit::of(status(9)), Exit::Internal, "killed");
        assert_eq!(Exit::of(status(99 << 8)), Exit::Internal);
    }
}
