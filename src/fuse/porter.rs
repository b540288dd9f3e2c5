//! The porter: a small process that mounts and unmounts for a daemon which has given up the right to.
//!
//! The kernel lets nobody under Landlock change mounts, and a thread that was left outside would share its memory with those inside: no
//! sandbox at all. So it is another process, which never hears from the network, holds no secret, gets no environment, and is told by
//! its arguments what to mount where. The daemon can ask it for two things, each in one byte: to mount, and to unmount again.
//!
//! It ends with the daemon, however that ends, and leaves the mount of a daemon that crashed as it is. A program that goes on writing
//! there gets errors, which is better than a directory in the clear.

use std::fs::OpenOptions;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{getgid, getuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};
use tokio::signal::unix::{SignalKind, signal};

use super::MountOptions;

/// What mount(8), findmnt(8) and /proc/self/mountinfo show as the type, with `fuse.` before it.
pub(super) const SUBTYPE: &str = "dssefs";

/// The command of the program that runs [`attend`], followed by the source, the directory and flags of [`MountOptions`].
const COMMAND: &str = "porter";

const MOUNT: u8 = b'm';
const UNMOUNT: u8 = b'u';

/// The longest answer, in bytes: an errno and a sentence.
const ANSWER_BYTES_MAX: usize = 1024;

/// The daemon's end. The porter goes when this is dropped.
#[derive(Debug)]
pub struct Porter(UnixStream);

impl Porter {
    /// Starts the porter of one mount. Needs nothing of it yet, so this can be done before anything else.
    ///
    /// # Errors
    /// This program cannot be started again.
    pub fn start(mountpoint: &Path, options: &MountOptions) -> io::Result<Porter> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).arg(&options.source).arg(mountpoint);
        command.args(options.read_only.then_some("--read-only")).args(options.allow_other.then_some("--allow-other"));
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        // A group of its own: Ctrl-C is for the daemon, which then needs its porter.
        command.current_dir("/").process_group(0);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Porter(ours))
    }

    /// Has it mount, and gives the device on which the kernel sends its requests.
    ///
    /// # Errors
    /// What the kernel, or fusermount3, answered.
    pub(super) fn mount(&self) -> io::Result<OwnedFd> {
        (&self.0).write_all(&[MOUNT])?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut answer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
                && let Some(device) = descriptors.next()
            {
                return Ok(device);
            }
        }
        Err(told(answer.get(..received.bytes).unwrap_or_default()))
    }

    /// Has it take the mount out of the tree. Programs that have files open keep them until they close them.
    ///
    /// # Errors
    /// What the kernel, or fusermount3, answered; or the porter is gone.
    pub(super) fn unmount(&self) -> io::Result<()> {
        (&self.0).write_all(&[UNMOUNT])?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        let length = (&self.0).read(&mut answer)?;
        match answer.get(..length) {
            Some(b"0") => Ok(()),
            said => Err(told(said.unwrap_or_default())),
        }
    }
}

/// An error as the porter wrote it: its errno, or 0, and a sentence.
fn told(answer: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(answer);
    match text.split_once(' ').map(|(errno, sentence)| (errno.parse().unwrap_or(0), sentence)) {
        Some((0, sentence)) => io::Error::other(sentence.to_owned()),
        Some((errno, _)) => io::Error::from_raw_os_error(errno),
        None => io::Error::other("the process that mounts and unmounts has ended"),
    }
}

/// The porter's life, on standard input: serves the daemon until it is gone.
///
/// # Errors
/// The daemon's socket failed.
pub fn attend(mountpoint: &Path, options: &MountOptions) -> io::Result<()> {
    // A service manager signals every process of a service. This one has to stay for as long as the daemon needs it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    let _deaf = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    if getuid().is_root() {
        keep_what_mounting_needs()?;
    }
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut request = [0];
    while (&socket).read(&mut request)? == 1 {
        let outcome = match request {
            [MOUNT] => mount(mountpoint, options, &socket),
            _ => unmount(mountpoint).and_then(|()| (&socket).write_all(b"0")),
        };
        if let Err(error) = outcome {
            let mut answer = format!("{} {error}", error.raw_os_error().unwrap_or(0)).into_bytes();
            answer.truncate(ANSWER_BYTES_MAX);
            (&socket).write_all(&answer)?;
        }
    }
    Ok(())
}

/// mount(2) and umount(2) ask for `CAP_SYS_ADMIN`, and a mount point in somebody's home for the right to search it.
fn keep_what_mounting_needs() -> io::Result<()> {
    set_no_new_privs(true)?;
    let kept = (CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH) & capabilities(None)?.permitted;
    Ok(set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?)
}

fn mount(mountpoint: &Path, options: &MountOptions, socket: &UnixStream) -> io::Result<()> {
    if !getuid().is_root() {
        // It sends the device by itself.
        return fusermount(mountpoint, &["-o", &helper_options(options), "--"], Some(socket));
    }
    let device = mount_as_root(mountpoint, options)?;
    let descriptors = [device.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // There is room for one descriptor, and one is pushed.
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    // The porter's own descriptor is closed on return: it must not keep the connection of a dead daemon alive.
    sendmsg(socket, &[IoSlice::new(b"0")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn mount_as_root(mountpoint: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    let allow_other = if options.allow_other { ",allow_other" } else { "" };
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{allow_other}\0",
        device.as_raw_fd(),
        getuid().as_raw(),
        getgid().as_raw(),
    );
    let data = std::ffi::CString::from_vec_with_nul(data.into_bytes()).map_err(io::Error::other)?;
    rustix::mount::mount(options.source.as_str(), mountpoint, format!("fuse.{SUBTYPE}"), flags, data.as_c_str())?;
    Ok(device.into())
}

/// As fusermount3 takes them. A comma would be taken for the beginning of another option.
fn helper_options(options: &MountOptions) -> String {
    let source = options.source.replace(',', "_");
    let read_only = if options.read_only { ",ro" } else { "" };
    let allow_other = if options.allow_other { ",allow_other" } else { "" };
    format!("fsname={source},subtype={SUBTYPE},default_permissions,nodev,nosuid,noatime{read_only}{allow_other}")
}

fn unmount(mountpoint: &Path) -> io::Result<()> {
    if getuid().is_root() {
        Ok(rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?)
    } else {
        fusermount(mountpoint, &["-u", "-z", "--"], None)
    }
}

/// The set-user-id helper of libfuse, which mounts for everybody; `socket` is where it sends the device (fusermount3(1)).
fn fusermount(mountpoint: &Path, arguments: &[&str], socket: Option<&UnixStream>) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.args(arguments).arg(mountpoint).env("LC_ALL", "C").stdout(Stdio::null());
    if let Some(socket) = socket {
        command.env("_FUSE_COMMFD", "0").stdin(OwnedFd::from(socket.try_clone()?));
    }
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("fusermount3 is missing; install it with `apt-get install fuse3`"),
        _ => error,
    })?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(io::Error::other(said)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_porter_arrives_with_its_errno_or_its_sentence() {
        assert_eq!(told(b"1 Operation not permitted (os error 1)").raw_os_error(), Some(libc::EPERM));
        assert_eq!(
            told(b"0 fusermount3: bad mount point /x: Not a directory").to_string(),
            "fusermount3: bad mount point /x: Not a directory"
        );
        assert!(told(b"").to_string().contains("has ended"));
    }

    #[test]
    fn a_comma_in_the_source_begins_no_option() {
        let options =
            MountOptions { source: "s3://b/a,suid".to_owned(), read_only: true, allow_other: false, threads: 1 };
        let expected = "fsname=s3://b/a_suid,subtype=dssefs,default_permissions,nodev,nosuid,noatime,ro";
        assert_eq!(helper_options(&options), expected);
    }
}
