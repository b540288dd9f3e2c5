//! The porter: a small process that mounts and unmounts for a daemon which has given up the right to.
//!
//! The kernel lets nobody under Landlock change mounts, and a thread that was left outside would share its memory with those inside: no
//! sandbox at all. So it is another process, which never hears from the network, holds no secret, gets no environment, and is told by
//! its arguments what to mount where and which log to open. The daemon can ask it for three things, each in one byte: to mount, to unmount
//! again, and to open the log anew when that was renamed, whose directory is outside of the sandbox too.
//!
//! It ends with the daemon, however that ends, and leaves the mount of a daemon that crashed as it is. A program that goes on writing
//! there gets errors, which is better than a directory in the clear.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, openat};
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
const OPEN_LOG: u8 = b'l';

/// The longest answer, in bytes: an errno and a sentence.
const ANSWER_BYTES_MAX: usize = 1024;

/// The daemon's end. The porter goes when this is dropped.
#[derive(Debug)]
pub struct Porter(Mutex<UnixStream>);

impl Porter {
    /// Starts the porter of one mount. Needs nothing of it yet, so this can be done before anything else.
    ///
    /// # Errors
    /// This program cannot be started again.
    pub fn start(mountpoint: &Path, options: &MountOptions, log_file: Option<&Path>) -> io::Result<Porter> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).arg(&options.source).arg(mountpoint);
        command.args(options.read_only.then_some("--read-only")).args(options.allow_other.then_some("--allow-other"));
        command.args(log_file.map(|path| OsString::from_iter(["--log-file=".as_ref(), path.as_os_str()])));
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        // A group of its own: Ctrl-C is for the daemon, which then needs its porter.
        command.current_dir("/").process_group(0);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Porter(Mutex::new(ours)))
    }

    /// Has it mount, and gives the device on which the kernel sends its requests.
    ///
    /// # Errors
    /// What the kernel, or fusermount3, answered.
    pub(super) fn mount(&self) -> io::Result<OwnedFd> {
        self.ask(MOUNT)?.ok_or_else(|| told(b""))
    }

    /// Has it take the mount out of the tree. Programs that have files open keep them until they close them.
    ///
    /// # Errors
    /// What the kernel, or fusermount3, answered; or the porter is gone.
    pub(super) fn unmount(&self) -> io::Result<()> {
        self.ask(UNMOUNT).map(drop)
    }

    /// Has it open the log's file by its name, which may be another file by now.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or is a symbolic link; or the porter is gone.
    pub(super) fn open_log(&self) -> io::Result<File> {
        self.ask(OPEN_LOG)?.map(File::from).ok_or_else(|| told(b""))
    }

    /// One question and its answer: a descriptor, or none.
    fn ask(&self, request: u8) -> io::Result<Option<OwnedFd>> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (&*socket).write_all(&[request])?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&*socket, &mut [IoSliceMut::new(&mut answer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
                && let Some(descriptor) = descriptors.next()
            {
                return Ok(Some(descriptor));
            }
        }
        match answer.get(..received.bytes) {
            Some(b"0") => Ok(None),
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
pub fn attend(mountpoint: &Path, options: &MountOptions, log_file: Option<&Path>) -> io::Result<()> {
    // A service manager signals every process of a service. This one has to stay for as long as the daemon needs it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    let _deaf = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let log = log_file.map(Log::at);
    if getuid().is_root() {
        keep_only(needed(log.is_some()))?;
    }
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut request = [0];
    while (&socket).read(&mut request)? == 1 {
        let outcome = match request {
            [MOUNT] => mount(mountpoint, options, &socket),
            [OPEN_LOG] => open_log(log.as_ref(), &socket),
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

/// mount(2) and umount(2) ask for `CAP_SYS_ADMIN`, a mount point in somebody's home for the right to search it, and a log that belongs to
/// somebody else for the right to write.
fn needed(logs: bool) -> CapabilitySet {
    let log = if logs { CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() };
    CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH | log
}

fn keep_only(needed: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let kept = needed & capabilities(None)?.permitted;
    Ok(set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?)
}

/// Where the log is. The directory is held, and its last name followed nowhere: a daemon that was taken over may make links, and would
/// else choose by them what is opened here.
struct Log {
    directory: io::Result<OwnedFd>,
    name: OsString,
}

impl Log {
    fn at(path: &Path) -> Log {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path.parent().unwrap_or(path), flags, Mode::empty()).map_err(io::Error::from);
        Log { directory, name: path.file_name().unwrap_or_default().to_owned() }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let directory = self.directory.as_ref().map_err(|error| io::Error::from(error.kind()))?;
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(openat(directory, &self.name, flags, Mode::RUSR | Mode::WUSR)?)
    }
}

fn open_log(log: Option<&Log>, socket: &UnixStream) -> io::Result<()> {
    let log = log.ok_or_else(|| io::Error::other("there is no log file"))?;
    send(&log.open()?, socket)
}

fn mount(mountpoint: &Path, options: &MountOptions, socket: &UnixStream) -> io::Result<()> {
    if !getuid().is_root() {
        // It sends the device by itself.
        return fusermount(mountpoint, &["-o", &helper_options(options), "--"], Some(socket));
    }
    send(&mount_as_root(mountpoint, options)?, socket)
}

/// The porter's own descriptor is to be closed then: it must not keep the connection of a dead daemon alive.
fn send(descriptor: &OwnedFd, socket: &UnixStream) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // There is room for one descriptor, and one is pushed.
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
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
    fn the_log_is_opened_by_its_name_in_its_directory_and_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, elsewhere) = (dir.path().join("logs"), dir.path().join("elsewhere"));
        for path in [&logs, &elsewhere] {
            std::fs::create_dir(path).unwrap();
        }
        let log = Log::at(&logs.join("log"));
        File::from(log.open().unwrap()).write_all(b"one").unwrap();
        std::fs::rename(logs.join("log"), logs.join("log.1")).unwrap();
        File::from(log.open().unwrap()).write_all(b"two").unwrap();
        assert_eq!(std::fs::read(logs.join("log")).unwrap(), b"two");

        std::fs::remove_file(logs.join("log")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("log"), logs.join("log")).unwrap();
        assert_eq!(log.open().unwrap_err().raw_os_error(), Some(libc::ELOOP));
        std::fs::rename(&logs, dir.path().join("renamed")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &logs).unwrap();
        assert_eq!(log.open().unwrap_err().raw_os_error(), Some(libc::ELOOP), "the directory is the old one");
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[test]
    fn a_comma_in_the_source_begins_no_option() {
        let options =
            MountOptions { source: "s3://b/a,suid".to_owned(), read_only: true, allow_other: false, threads: 1 };
        let expected = "fsname=s3://b/a_suid,subtype=dssefs,default_permissions,nodev,nosuid,noatime,ro";
        assert_eq!(helper_options(&options), expected);
    }
}
