//! `dssefs umount`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, geteuid, test_kill_process};

use super::complain;
use super::exit::Exit;

/// The arguments of `dssefs umount`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The directory that a bucket is mounted on
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
}

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
enum UmountError {
    #[error("{} is in use; close its files and leave it (fuser -vm {} names who is there), then try again", .0.display(), .0.display())]
    Busy(PathBuf),
    #[error("{} is not a mount of dssefs; findmnt -t fuse,fuse.dssefs lists them", .0.display())]
    NotMounted(PathBuf),
    #[error("the list of mounts cannot be read: {0}")]
    Mounts(#[source] io::Error),
    #[error("fusermount3 is missing ({0}); install it with apt-get install fuse3")]
    HelperMissing(#[source] io::Error),
    #[error("{} cannot be unmounted: {reason}", path.display())]
    Refused { path: PathBuf, reason: String },
    #[error("{} is unmounted, and its daemon (process {pid}) has still not ended after {} s; see its log", path.display(), DAEMON_END.as_secs())]
    DaemonStays { path: PathBuf, pid: i32 },
}

/// All open files are committed before the kernel lets the mount go, so what the daemon still has to do is short.
const DAEMON_END: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// How long the number of files that are not stored may stay the same before they are left to the daemon.
const SAVES_STALL: Duration = Duration::from_secs(5);
/// How often that number is asked for, and told when it has changed.
const SAVES_POLL: Duration = Duration::from_millis(500);
/// The attribute of a mount's root that counts the files that are not stored.
const UNSAVED_ATTRIBUTE: &str = "user.dsse.mount.unsaved";
/// The attribute of a mount's root that names the daemon.
const PID_ATTRIBUTE: &str = "user.dsse.mount.pid";

pub(super) fn run(arguments: &Arguments) -> Exit {
    match umount(&arguments.mountpoint) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(&error);
            exit_of(&error)
        }
    }
}

fn exit_of(error: &UmountError) -> Exit {
    match error {
        UmountError::NotMounted(_) => Exit::Usage,
        UmountError::Busy(_) => Exit::Busy,
        UmountError::Mounts(_) | UmountError::DaemonStays { .. } => Exit::Internal,
        UmountError::HelperMissing(_) | UmountError::Refused { .. } => Exit::Fuse,
    }
}

fn umount(given: &Path) -> Result<(), UmountError> {
    let path = find(given)?;
    let daemon = daemon_of(&path);
    wait_for_saves(&path);
    if geteuid().is_root() {
        by_system_call(&path)?;
    } else {
        by_helper(&path)?;
    }
    daemon.map_or(Ok(()), |pid| wait_for_end(&path, pid))
}

/// The mount point as the kernel writes it. A dead mount cannot be resolved any more, but its parent can.
fn find(given: &Path) -> Result<PathBuf, UmountError> {
    let absolute = std::path::absolute(given).map_err(UmountError::Mounts)?;
    let resolved = match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute,
    };
    let resolved = resolved.canonicalize().unwrap_or(resolved);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(UmountError::Mounts)?;
    if is_mounted(&mounts, &resolved) { Ok(resolved) } else { Err(UmountError::NotMounted(given.to_owned())) }
}

/// Reads the format of proc_pid_mountinfo(5): the fifth field is the mount point; after the dash come type and source.
fn is_mounted(mountinfo: &str, path: &Path) -> bool {
    let ours = |line: &str| {
        let (fields, rest) = line.split_once(" - ")?;
        let mut rest = rest.split(' ');
        let (kind, source) = (rest.next()?, rest.next()?);
        Some(is_ours(kind, source) && Path::new(&unescape(fields.split(' ').nth(4)?)) == path)
    };
    mountinfo.lines().any(|line| ours(line) == Some(true))
}

/// fusermount3 adds the subtype to the type. mount(2), which root uses, leaves plain `fuse`, and the source tells.
fn is_ours(kind: &str, source: &str) -> bool {
    kind == "fuse.dssefs" || (kind == "fuse" && source.starts_with("s3://"))
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn by_system_call(path: &Path) -> Result<(), UmountError> {
    unmount(path, UnmountFlags::empty()).map_err(|errno| match errno {
        Errno::BUSY => UmountError::Busy(path.to_owned()),
        other => UmountError::Refused { path: path.to_owned(), reason: io::Error::from(other).to_string() },
    })
}

fn by_helper(path: &Path) -> Result<(), UmountError> {
    let output = Command::new("fusermount3").env("LC_ALL", "C").arg("-u").arg("--").arg(path).output();
    let output = output.map_err(UmountError::HelperMissing)?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(UmountError::Busy(path.to_owned())),
        false => Err(UmountError::Refused { path: path.to_owned(), reason: said }),
    }
}

/// Files may be closed and still on their way to the store. Waits as long as their number goes down; what is left then, the daemon
/// tries once more after the unmount, and keeps or names it.
fn wait_for_saves(path: &Path) {
    let mut fewest = (u64::MAX, Instant::now());
    while let Some(unsaved) = number(path, UNSAVED_ATTRIBUTE).filter(|unsaved| *unsaved > 0) {
        if unsaved < fewest.0 {
            eprintln!("{unsaved} files are still to be stored");
            fewest = (unsaved, Instant::now());
        } else if fewest.1.elapsed() > SAVES_STALL {
            return;
        }
        sleep(SAVES_POLL);
    }
}

fn number<T: std::str::FromStr>(path: &Path, attribute: &str) -> Option<T> {
    let mut value = [0; 24];
    let length = rustix::fs::getxattr(path, attribute, &mut value).ok()?;
    str::from_utf8(value.get(..length)?).ok()?.parse().ok()
}

/// The daemon's process, where the mount still answers and the process is what it says.
fn daemon_of(path: &Path) -> Option<Pid> {
    let pid: i32 = number(path, PID_ATTRIBUTE)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "dssefs").then(|| Pid::from_raw(pid)).flatten()
}

/// The daemon is not our child, so there is nothing to wait on but its disappearance.
fn wait_for_end(path: &Path, pid: Pid) -> Result<(), UmountError> {
    let deadline = Instant::now() + DAEMON_END;
    while lives(pid) {
        if Instant::now() > deadline {
            return Err(UmountError::DaemonStays { path: path.to_owned(), pid: pid.as_raw_nonzero().get() });
        }
        sleep(POLL);
    }
    Ok(())
}

/// Whether a process has not ended yet. EPERM means that it has not. One that nobody has waited for keeps its number, as a zombie, and has:
/// that is a matter between it and its parent (proc_pid_stat(5), field 3, behind the name in parentheses).
fn lives(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    test_kill_process(pid) != Err(Errno::SRCH) && state != Some('Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:50 / /mnt/data rw,nosuid,nodev shared:5 - fuse.dssefs s3://data rw,user_id=0
41 22 0:51 / /mnt/my\\040data rw,nosuid - fuse.dssefs s3://data rw
42 22 0:52 / /mnt/other rw - fuse.sshfs host: rw
43 22 0:53 / /mnt/by-root rw,nosuid,nodev - fuse s3://data rw,user_id=0
44 22 0:54 / /mnt/foreign rw - fuse /dev/fuse rw
";

    #[test]
    fn only_mounts_of_dssefs_are_found() {
        assert!(is_mounted(MOUNTS, Path::new("/mnt/data")));
        assert!(is_mounted(MOUNTS, Path::new("/mnt/my data")));
        assert!(is_mounted(MOUNTS, Path::new("/mnt/by-root")));
        for path in ["/mnt/other", "/mnt/foreign", "/", "/mnt", "/mnt/data/x"] {
            assert!(!is_mounted(MOUNTS, Path::new(path)), "{path}");
        }
    }

    #[test]
    fn what_is_not_mounted_is_a_mistake_of_the_caller() {
        let error = umount(Path::new("/proc")).expect_err("not ours");
        assert!(matches!(error, UmountError::NotMounted(_)), "{error}");
        assert_eq!(exit_of(&error), Exit::Usage);
    }

    #[test]
    fn the_end_of_a_process_is_noticed() {
        let mut child = Command::new("sleep").arg("0.05").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let reaper = std::thread::spawn(move || child.wait());
        wait_for_end(Path::new("/mnt"), pid).unwrap();
        assert!(reaper.join().unwrap().unwrap().success());
    }

    #[test]
    fn a_process_that_its_parent_has_not_waited_for_has_ended() {
        let mut child = Command::new("true").spawn().unwrap();
        wait_for_end(Path::new("/mnt"), Pid::from_child(&child)).unwrap();
        assert!(child.wait().unwrap().success());
    }
}
