//! Acting as another user: for root, who works for a user on paths and file systems that this user controls.

use std::io;
use std::thread;

use rustix::fs::{Gid, Uid};
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The number of the user.
    pub user: u32,
    /// The number of the group.
    pub group: u32,
}

impl Identity {
    /// Whether the calling thread has the user's rights already; in [`Identity::run`] it has.
    #[must_use]
    pub fn is_own(self) -> bool {
        geteuid().as_raw() == self.user
    }

    /// Does `work` with the rights of this user over files, and no others: in a thread of its own, whose credentials
    /// end with it.
    ///
    /// The thread changes its *effective* ids alone. With the real ids as well, the user could send it signals, and on
    /// hosts with `fs.suid_dumpable=1` read the memory of this process (ptrace(2)). File access goes by the effective
    /// ids.
    ///
    /// # Errors
    /// Those of `work`; or this process may not become that user.
    pub fn run<T: Send>(self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        if self.is_own() {
            return work();
        }
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.assume()?;
                work()
            });
            worker.join().unwrap_or_else(|_| Err(io::Error::other("the work as another user has panicked")))
        })
    }

    /// In this order: without the rights of root, nothing more can be given up.
    fn assume(self) -> io::Result<()> {
        set_thread_groups(&[])?;
        set_thread_res_gid(None, Gid::from_raw(self.group), None)?;
        set_thread_res_uid(None, Uid::from_raw(self.user), None)?;
        // The kernel has done so already, unless this process has SECBIT_NO_SETUID_FIXUP (capabilities(7)).
        let held = capabilities(None)?;
        set_capabilities(None, CapabilitySets { effective: CapabilitySet::empty(), ..held })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    const NOBODY: Identity = Identity { user: 65_534, group: 65_534 };

    #[test]
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn work_as_another_user_has_only_the_rights_of_that_user() {
        if !geteuid().is_root() {
            println!("skipped: only root can become another user");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let denied = NOBODY.run(|| fs::write(dir.path().join("file"), "")).unwrap_err();
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        NOBODY.run(|| fs::write(dir.path().join("file"), "")).unwrap();
        let made = fs::metadata(dir.path().join("file")).unwrap();
        assert_eq!((made.uid(), made.gid()), (NOBODY.user, NOBODY.group));
        assert!(geteuid().is_root(), "the rest of the process is as it was");
        fs::write(dir.path().join("of-root"), "").unwrap();
        assert_eq!(fs::metadata(dir.path().join("of-root")).unwrap().uid(), 0);
    }

    #[test]
    fn work_as_oneself_is_done_as_it_is() {
        let own = Identity { user: geteuid().as_raw(), group: 0 };
        assert_eq!(own.run(|| Ok(7)).unwrap(), 7);
    }
}
