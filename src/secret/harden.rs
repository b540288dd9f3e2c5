//! What keeps the kernel from writing our memory to a disk.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// What [`harden_process`] could not do. Empty is good.
#[derive(Debug, Default)]
pub struct Hardening {
    /// `prctl(PR_SET_DUMPABLE, 0)` failed: other processes of this user can attach a debugger, and core dumps are possible.
    pub dumpable: Option<io::Error>,
    /// `setrlimit(RLIMIT_CORE, 0)` failed: core dumps to a file are possible.
    pub core_limit: Option<io::Error>,
}

impl Hardening {
    /// Whether everything was done.
    pub fn is_complete(&self) -> bool {
        self.dumpable.is_none() && self.core_limit.is_none()
    }
}

/// Forbids core dumps and debuggers of the same user, for the rest of the process's life (prctl(2), getrlimit(2)).
///
/// Both are wanted: a core pattern that pipes to a program ignores the limit, and a change of credentials resets dumpable.
/// A side effect of the first: `/proc/self` belongs to root from then on.
pub fn harden_process() -> Hardening {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    Hardening {
        dumpable: set_dumpable_behavior(DumpableBehavior::NotDumpable).err().map(io::Error::from),
        core_limit: setrlimit(Resource::Core, none).err().map(io::Error::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set for the process in which the test hardens itself: it must be another one, because it could not undo this.
    const CHILD: &str = "DSSEFS_TEST_HARDEN_CHILD";

    #[test]
    fn a_hardened_process_has_no_core_and_is_not_dumpable() {
        if std::env::var_os(CHILD).is_none() {
            let name = "secret::harden::tests::a_hardened_process_has_no_core_and_is_not_dumpable";
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", name]).env(CHILD, "1").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        assert!(harden_process().is_complete());
        let core = rustix::process::getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
