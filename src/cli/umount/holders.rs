//! Other mounts of a file system, which keep it and its daemon alive: bind mounts, and copies in the mount namespaces
//! of other processes.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::mounts::Mount;
use dssefs_s3::escaping::shown;

use super::process::command_of;

/// How long a look at all processes may take.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// A mount that holds the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    mountpoint: PathBuf,
    /// The process in whose mount namespace it is, and its command; None: in that of this process.
    process: Option<(u32, OsString)>,
}

impl Holder {
    pub(super) fn here(mountpoint: PathBuf) -> Holder {
        Holder { mountpoint, process: None }
    }

    pub(super) fn elsewhere(pid: u32, command: OsString, mountpoint: PathBuf) -> Holder {
        Holder { mountpoint, process: Some((pid, command)) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = shown(&self.mountpoint);
        match &self.process {
            None => write!(f, "{place}"),
            Some((pid, command)) => {
                write!(f, "{place} of process {pid} ({}), which has a mount namespace of its own", shown(command))
            }
        }
    }
}

/// The mounts of the file system of `gone` that this process can see: its own, and one for each other mount namespace.
/// Those of processes that it may not look into (proc(5), `hidepid`, ptrace(2)) stay unseen. A user can make namespaces
/// and mounts without number, so the look ends after some seconds with what was found.
pub(super) fn of(gone: &Mount) -> Vec<Holder> {
    let end = Instant::now() + LOOK_MAX;
    let mut holders: Vec<Holder> = mounts("self", gone).map(Holder::here).collect();
    let mut seen: HashSet<PathBuf> = std::fs::read_link("/proc/self/ns/mnt").into_iter().collect();
    for pid in processes() {
        if Instant::now() >= end {
            break;
        }
        let Ok(namespace) = std::fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        if seen.insert(namespace) {
            let theirs = mounts(&pid.to_string(), gone).next();
            holders.extend(theirs.map(|mountpoint| Holder::elsewhere(pid, command_of(pid), mountpoint)));
        }
    }
    holders
}

/// The kernel gives the device number of a file system that is gone to the next one: so type, source and user have to
/// be the same as well.
fn mounts(process: &str, gone: &Mount) -> impl Iterator<Item = PathBuf> {
    let is_same = |mount: &Mount| {
        let of = |mount: &Mount| (mount.device, mount.kind.clone(), mount.source.clone(), mount.user);
        of(mount) == of(gone)
    };
    let list = Mount::seen_by(process).unwrap_or_default();
    list.into_iter().filter(is_same).map(|mount| mount.point).collect::<Vec<_>>().into_iter()
}

fn processes() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut numbers: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn mounts_of_a_file_system_are_found_in_this_namespace() {
        let own = Mount::all().unwrap();
        let proc = own.iter().find(|mount| mount.point == Path::new("/proc")).unwrap();
        assert!(of(proc).contains(&Holder::here("/proc".into())));
        let reused = Mount { source: "s3://data".into(), kind: "fuse.dssefs".to_owned(), ..proc.clone() };
        assert_eq!(of(&reused), Vec::new());
    }
}
