//! What keeps the kernel from writing our memory to a disk.

use std::io;

use super::{locked, mapping};
use rustix::mm::{MlockAllFlags, mlockall};

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Which memory a core image holds (core(5)); written before the process loses access to it.
const CORE_FILTER: &str = "/proc/self/coredump_filter";

/// What [`harden_process`] could not do. Empty is good.
#[derive(Debug, Default)]
pub struct Hardening {
    /// `prctl(PR_SET_DUMPABLE, 0)` failed: other processes of this user can attach a debugger, and core dumps are
    /// possible.
    pub dumpable: Option<io::Error>,
    /// `setrlimit(RLIMIT_CORE, 0)` failed: core dumps to a file are possible.
    pub core_limit: Option<io::Error>,
    /// `/proc/self/coredump_filter` could not be set to 0: a core image, were there one, would hold all of our memory.
    pub core_filter: Option<io::Error>,
}

impl Hardening {
    /// Whether everything was done.
    pub fn is_complete(&self) -> bool {
        self.failures().next().is_none()
    }

    /// What failed, each with the name of the measure.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &io::Error)> {
        let Hardening { dumpable, core_limit, core_filter } = self;
        let all = [("PR_SET_DUMPABLE", dumpable), ("RLIMIT_CORE", core_limit), ("coredump_filter", core_filter)];
        all.into_iter().filter_map(|(measure, failure)| Some((measure, failure.as_ref()?)))
    }
}

/// Forbids core dumps and debuggers of the same user, for the rest of the process's life (prctl(2), getrlimit(2),
/// core(5)).
///
/// All are wanted: a core pattern that pipes to a program ignores the limit, a change of credentials resets dumpable,
/// and root's tools that take images of living processes respect the filter. A side effect of the second: `/proc/self`
/// belongs to root.
pub fn harden_process() -> Hardening {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    Hardening {
        core_filter: std::fs::write(CORE_FILTER, "0").err(),
        dumpable: set_dumpable_behavior(DumpableBehavior::NotDumpable).err().map(io::Error::from),
        core_limit: setrlimit(Resource::Core, none).err().map(io::Error::from),
    }
}

/// How much of this process's memory the kernel keeps out of swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// All of it, now and later.
    Everything,
    /// What keys and content take, up to this many bytes (`RLIMIT_MEMLOCK`).
    UpTo(u64),
}

/// Raises the limit of locked memory as far as this process may, and locks all memory if there is none left.
///
/// With a limit, locking everything would make the next allocation beyond it fail; then keys and content are locked
/// alone, as far as it goes. Call it before capabilities are dropped: root raises the limit by one of them.
///
/// # Errors
/// The kernel refuses to lock although nothing limits it.
pub fn lock_memory() -> io::Result<Locking> {
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum })?;
    }
    if let Some(bytes) = getrlimit(Resource::Memlock).current {
        return Ok(Locking::UpTo(bytes));
    }
    // On fault: pages that are mapped and never touched (stacks, reserves of the allocator) cost nothing.
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(Locking::Everything)
}

/// Whether memory for keys can be locked, as much as a mount needs before it is busy: [`KEYS_BYTES_MIN`].
///
/// A limit below that counts as a refusal even for root, who may lock without one until capabilities are dropped.
///
/// # Errors
/// [`KeysUnlocked`]: what was refused, and the limit. The caller has to tell of it: this room tells of refusals once,
/// and takes this one for told.
pub fn try_to_lock_keys() -> Result<(), KeysUnlocked> {
    let limit_bytes = getrlimit(Resource::Memlock).current;
    let refused = |source| {
        locked::refusal_is_told();
        KeysUnlocked { limit_bytes: limit_bytes.unwrap_or(u64::MAX), source }
    };
    if limit_bytes.is_some_and(|bytes| bytes < KEYS_BYTES_MIN as u64) {
        return Err(refused(io::Error::from_raw_os_error(libc::ENOMEM)));
    }
    mapping::try_to_lock(KEYS_BYTES_MIN).map_err(refused)
}

/// What keys need of locked memory, in bytes: a chunk for each size of keys and ciphers, which is enough for some sixty
/// files with changes on the local disk, and their journal.
pub const KEYS_BYTES_MIN: usize = 256 * 1024;

/// Keys would lie in memory that may be swapped out.
#[derive(Debug, thiserror::Error)]
#[error(
    "the memory for keys cannot be locked, and may be swapped out ({source}): the limit of locked memory is \
     {limit_bytes} bytes, and keys need at least {KEYS_BYTES_MIN}; raise it with `ulimit -l`, or \
     LimitMEMLOCK=infinity in the service's unit"
)]
pub struct KeysUnlocked {
    /// `RLIMIT_MEMLOCK`; the largest number for none.
    pub limit_bytes: u64,
    /// What the system answered.
    #[source]
    pub source: io::Error,
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
        let core = getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let filter = std::fs::read_to_string(CORE_FILTER).unwrap_or_else(|_| "00000000\n".to_owned());
        assert_eq!(u64::from_str_radix(filter.trim(), 16), Ok(0));
    }
}
