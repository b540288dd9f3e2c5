//! The mount helper: a small process that mounts and unmounts for a daemon that has given up the right to.
//!
//! The kernel lets no process under Landlock change mounts. A thread outside Landlock would share its memory with those
//! inside, which would be no sandbox. So the helper is another process. It never hears from the network, holds no
//! secret and gets no environment. It gets the directory to mount on as a descriptor, which was opened before the
//! daemon heard from any other process. The source and the log's name are in its arguments.
//!
//! The daemon can ask it for three things, each in one byte: to mount, to unmount, and to open the log again. The last
//! is for logs that were renamed, because the log's directory is outside the sandbox too.
//!
//! It ends when the daemon ends, and leaves the mount of a daemon that crashed as it is. A program that goes on writing
//! there gets errors, which is better than a directory in the clear.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::getuid;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};
use tokio::signal::unix::{SignalKind, signal};

use super::log_file::LogFile;
use super::passing::{WORDS_BYTES_MAX, receive, send};
use super::{MountOptions, place};
use crate::mounts::Identity;

/// The command of the program that runs [`run_mount_helper`], followed by the source and flags of [`MountOptions`].
const COMMAND: &str = "mount-helper";

const DIRECTORY: u8 = b'd';
const MOUNT: u8 = b'm';
const UNMOUNT: u8 = b'u';
const OPEN_LOG: u8 = b'l';

/// How long an answer may take. Nothing that is asked needs the network; a disk or fusermount3 may hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The daemon's end. The helper goes when this is dropped.
#[derive(Debug)]
pub struct MountHelper(Mutex<UnixStream>);

impl MountHelper {
    /// Starts the helper of one mount, and hands it the directory to mount on. It asks for nothing yet, so it can be
    /// the first step.
    ///
    /// # Errors
    /// This program cannot be started again.
    pub fn start(
        directory: BorrowedFd<'_>,
        options: &MountOptions,
        log_file: Option<&Path>,
    ) -> io::Result<MountHelper> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).arg(&options.source);
        command.args(options.read_only.then_some("--read-only")).args(options.allow_other.then_some("--allow-other"));
        command.args(log_file.map(|path| OsString::from_iter(["--log-file=".as_ref(), path.as_os_str()])));
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        // A group of its own: Ctrl-C is for the daemon, which then needs its helper.
        command.current_dir("/").process_group(0);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        send(&[DIRECTORY], directory, &ours)?;
        ours.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(MountHelper(Mutex::new(ours)))
    }

    /// Mounts. Returns the device on which the kernel sends its requests, and where the mount is.
    ///
    /// # Errors
    /// What the kernel, or fusermount3, answered; or the mount would have been elsewhere.
    pub(super) fn mount(&self) -> io::Result<(OwnedFd, PathBuf)> {
        let (device, words) = self.ask(MOUNT)?;
        let point = words.get(1..).unwrap_or_default().to_owned();
        Ok((device.ok_or_else(|| helper_error(b""))?, PathBuf::from(OsString::from_vec(point))))
    }

    /// Unmounts. Programs keep their open files until they close them.
    ///
    /// # Errors
    /// What the kernel, or fusermount3, answered; another mount is in its place; or the helper is gone.
    pub(super) fn unmount(&self) -> io::Result<()> {
        self.ask(UNMOUNT).map(drop)
    }

    /// Opens the log's file by its name, which may be another file by now.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or is no regular file; or the helper is gone.
    pub(super) fn open_log(&self) -> io::Result<File> {
        self.ask(OPEN_LOG)?.0.map(File::from).ok_or_else(|| helper_error(b""))
    }

    /// One question and its answer: a descriptor, or none, and words.
    fn ask(&self, request: u8) -> io::Result<(Option<OwnedFd>, Vec<u8>)> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (&*socket).write_all(&[request])?;
        match receive(&socket) {
            Ok((words, descriptor)) if words.first() == Some(&b'0') && words.get(1) != Some(&b' ') => {
                Ok((descriptor, words))
            }
            Ok((words, _)) => Err(helper_error(&words)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // An answer that came later would be taken for that to the next question.
                let _ = socket.shutdown(std::net::Shutdown::Both);
                Err(io::Error::other("the process that mounts and unmounts does not answer"))
            }
            Err(error) => Err(error),
        }
    }
}

/// An error as the helper wrote it: its errno, or 0, and a sentence.
fn helper_error(answer: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(answer);
    match text.split_once(' ').map(|(errno, sentence)| (errno.parse().unwrap_or(0), sentence)) {
        Some((0, sentence)) => io::Error::other(sentence.to_owned()),
        Some((errno, _)) => io::Error::from_raw_os_error(errno),
        None => io::Error::other("the process that mounts and unmounts has ended"),
    }
}

/// Runs the helper on standard input: takes the directory, and serves the daemon until the daemon is gone.
///
/// # Errors
/// The daemon's socket failed.
pub fn run_mount_helper(options: &MountOptions, log_file: Option<&Path>) -> io::Result<()> {
    // A service manager signals every process of a service. The helper ignores that, as the daemon still needs it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    let _deaf = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let log = log_file.map(LogFile::at);
    if getuid().is_root() {
        keep_only(needed(log.is_some()))?;
    }
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (_, directory) = receive(&socket)?;
    // Taken by the first mount: held for longer, it would keep the file system below busy after the unmount.
    let mut directory = Some(directory.ok_or_else(|| io::Error::other("no directory was handed over"))?);
    let mut mounted = None;
    let mut request = [0];
    while (&socket).read(&mut request)? == 1 {
        let outcome = match request {
            [MOUNT] => mount(directory.take(), options, &mut mounted, &socket),
            [OPEN_LOG] => open_log(log.as_ref(), &socket),
            _ => mounted.as_ref().map_or(Ok(()), place::unmount).and_then(|()| (&socket).write_all(b"0")),
        };
        if let Err(error) = outcome {
            let mut answer = format!("{} {error}", error.raw_os_error().unwrap_or(0)).into_bytes();
            answer.truncate(WORDS_BYTES_MAX);
            (&socket).write_all(&answer)?;
        }
    }
    Ok(())
}

/// The answer is the device and where the mount is. The helper keeps no descriptor. One of the device would keep the
/// connection of a dead daemon alive, and one on the mount would make it busy for umount(8).
fn mount(
    directory: Option<OwnedFd>,
    options: &MountOptions,
    mounted: &mut Option<Identity>,
    socket: &UnixStream,
) -> io::Result<()> {
    let directory = directory.ok_or_else(|| io::Error::other("the directory is mounted on already"))?;
    let made = place::mount(&directory, options)?;
    *mounted = Some(made.identity);
    send(&[b"0", made.point.as_os_str().as_bytes()].concat(), &made.device, socket)
}

fn open_log(log: Option<&LogFile>, socket: &UnixStream) -> io::Result<()> {
    let log = log.ok_or_else(|| io::Error::other("there is no log file"))?;
    send(b"0", log.open()?, socket)
}

/// Mounting and umount(2) need `CAP_SYS_ADMIN`. A mount point in another user's home needs the right to search it, and
/// a log of another user the right to write.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_helper_keep_errno_or_sentence() {
        assert_eq!(helper_error(b"1 Operation not permitted (os error 1)").raw_os_error(), Some(libc::EPERM));
        assert_eq!(
            helper_error(b"0 fusermount3: bad mount point /x: Not a directory").to_string(),
            "fusermount3: bad mount point /x: Not a directory"
        );
        assert!(helper_error(b"").to_string().contains("has ended"));
    }

    #[test]
    fn a_place_and_an_error_without_errno_differ() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let helper = MountHelper(Mutex::new(ours));
        let null = File::open("/dev/null").unwrap();
        send(b"0/a b\n", &null, &theirs).unwrap();
        assert_eq!(helper.mount().unwrap().1, Path::new("/a b\n"));
        (&theirs).write_all(b"0 it is a fifo").unwrap();
        assert_eq!(helper.open_log().unwrap_err().to_string(), "it is a fifo");
    }

    #[test]
    fn a_silent_helper_is_given_up_for_good() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let helper = MountHelper(Mutex::new(ours));
        assert!(helper.unmount().unwrap_err().to_string().contains("does not answer"));
        let _ = (&theirs).write_all(b"0");
        helper.unmount().unwrap_err();
    }
}
