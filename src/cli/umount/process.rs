//! The daemon's process: held by a descriptor, so that its number cannot become another process's, and believed only
//! after a look at it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::daemon::Identity;

/// A living process.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    handle: OwnedFd,
}

impl Process {
    /// The process `pid`, if it is a daemon of the user `mounter`: its name begins so, and its real and effective user
    /// are that one.
    ///
    /// # Errors
    /// It is not, or has ended.
    pub(super) fn of_mounter(pid: i32, mounter: Identity) -> io::Result<Process> {
        let number = u32::try_from(pid).map_err(io::Error::other)?;
        let process = Process::open(pid)?;
        let command = command_of(number);
        let users = users_of(number)?;
        if process.has_ended() {
            return Err(io::Error::other(format!("process {pid} has ended")));
        }
        if !command.as_bytes().starts_with(b"dssefs") || users != [mounter.user; 2] {
            let why = format!("process {pid} is no daemon of user {}, who mounted it", mounter.user);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(process)
    }

    fn open(pid: i32) -> io::Result<Process> {
        let number = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(Errno::SRCH)?;
        Ok(Process { pid, handle: pidfd_open(number, PidfdFlags::empty())? })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Whether it ends within this time. A zombie has ended: that its parent has not waited for it is a matter between
    /// these two.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        let mut handle = [PollFd::new(&self.handle, PollFlags::IN)];
        let time = Timespec::try_from(time).ok();
        poll(&mut handle, time.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

/// Its real and its effective user (proc_pid_status(5), `Uid`).
fn users_of(pid: u32) -> io::Result<[u32; 2]> {
    let status = std::fs::read(format!("/proc/{pid}/status"))?;
    let status = String::from_utf8_lossy(&status);
    let users = status.lines().find_map(|line| {
        let mut numbers = line.strip_prefix("Uid:")?.split_ascii_whitespace().map(str::parse);
        Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
    });
    users.ok_or_else(|| io::Error::other("the kernel does not tell whose process it is"))
}

/// The name of a kernel thread, program or command, as the process calls itself (`comm`); empty when it has ended.
pub(super) fn command_of(pid: u32) -> OsString {
    let mut name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    OsStr::from_bytes(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use rustix::process::geteuid;

    use super::*;

    fn raw(child: &std::process::Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn the_end_of_a_process_is_noticed_though_its_parent_has_not_waited() {
        let mut child = Command::new("sleep").arg("0.05").spawn().unwrap();
        let process = Process::open(raw(&child)).unwrap();
        assert!(process.ends_within(Duration::from_secs(60)));
        assert!(process.has_ended());
        child.wait().unwrap();
        assert!(process.has_ended());
    }

    #[test]
    fn a_process_of_another_name_or_of_another_user_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("dssefs");
        std::fs::copy("/bin/sleep", &named).unwrap();
        let own = Identity { user: geteuid().as_raw(), group: 0 };
        let other = Identity { user: own.user + 1, ..own };
        let [mut sleep, mut daemon] =
            ["/bin/sleep".as_ref(), named.as_path()].map(|program| Command::new(program).arg("60").spawn().unwrap());
        // The kernel lets the parent go on before it has given the child its new name.
        let end = Instant::now() + Duration::from_secs(10);
        while command_of(sleep.id()) != "sleep" || command_of(daemon.id()) != "dssefs" {
            assert!(Instant::now() < end, "the children have no names");
            std::thread::sleep(Duration::from_millis(1));
        }
        let outcomes = [
            Process::of_mounter(raw(&sleep), own).is_ok(),
            Process::of_mounter(raw(&daemon), other).is_ok(),
            Process::of_mounter(raw(&daemon), own).is_ok(),
        ];
        for child in [&mut sleep, &mut daemon] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(outcomes, [false, false, true]);
        for pid in [raw(&daemon), 0, -1, i32::MIN] {
            assert!(Process::of_mounter(pid, own).is_err(), "{pid}");
        }
    }
}
