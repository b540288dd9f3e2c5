//! Leaving the terminal.
//!
//! The parent runs the program again with the same arguments and `--child`, and waits until the child reports that the
//! mount answers, or ends. A fork without exec is no choice: it would carry one thread of a runtime into the child.
//! Until the mount answers, the child has the parent's standard error, so nothing that it says is lost.
//!
//! The directory that the parent has checked is the child's standard input: its name is not looked up again. The report
//! is a number of bytes and then these bytes, as the name of a directory may hold anything, line breaks too.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, chdir, getpid, kill_process, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::exit::Exit;

/// The longest report, in bytes: a source, a path and an ARN, each escaped.
const REPORT_BYTES_MAX: usize = 64 << 10;

/// In the parent: starts the child on the directory, prints its report, and ends as it ends when it never reports.
pub(super) fn start(directory: OwnedFd) -> Exit {
    match spawn(directory).and_then(wait) {
        Ok(exit) => exit,
        Err(error) => {
            let _ = writeln!(io::stderr(), "the daemon could not be started ({error}); use --foreground to see more");
            Exit::Internal
        }
    }
}

/// `--child` stands behind the name of the command: at the end, it would be a directory where the arguments have a
/// `--`.
fn spawn(directory: OwnedFd) -> io::Result<Child> {
    let mut arguments = std::env::args_os().skip(1);
    let mut command = Command::new(own_program());
    command.args(arguments.next()).arg("--child").args(arguments);
    command.stdin(directory).stdout(Stdio::piped()).spawn()
}

/// In the child: the directory that the parent has checked.
pub(super) fn directory_of_parent() -> io::Result<OwnedFd> {
    let directory = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(directory)
}

/// This program by its path, so that the system calls the daemon by its name; after an upgrade in between, by its
/// descriptor.
pub(super) fn own_program() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

fn wait(mut child: Child) -> io::Result<Exit> {
    let reported = child.stdout.take().map(read_report).transpose()?.flatten();
    let Some(sentence) = reported else {
        return match Exit::of(child.wait()?) {
            Exit::Ok => Err(io::Error::other("it ended before the mount answered")),
            exit => Ok(exit),
        };
    };
    // The mount is there, whether or not the parent reads that.
    let _ = io::stdout().write_all(&[&sentence, &b"\n"[..]].concat());
    Ok(Exit::Ok)
}

/// None: the other end was closed before the whole report had come.
fn read_report(mut pipe: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let unless_ended = |read: io::Result<()>| match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    };
    if !unless_ended(pipe.read_exact(&mut length))? {
        return Ok(None);
    }
    let bytes = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if bytes > REPORT_BYTES_MAX {
        return Err(io::Error::other("its report is too long"));
    }
    let mut sentence = vec![0; bytes];
    Ok(unless_ended(pipe.read_exact(&mut sentence))?.then_some(sentence))
}

/// In the child: tells the parent that the mount answers.
///
/// # Errors
/// The parent is gone.
pub(super) fn report(sentence: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(&framed(sentence))?;
    stdout.flush()
}

fn framed(sentence: &str) -> Vec<u8> {
    let bytes = sentence.as_bytes();
    let bytes = bytes.get(..REPORT_BYTES_MAX).unwrap_or(bytes);
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    [&length.to_le_bytes(), bytes].concat()
}

/// In the child: a session of its own, and no directory kept busy.
pub(super) fn detach() -> io::Result<()> {
    setsid()?;
    Ok(chdir("/")?)
}

/// In the child, once the mount answers: the terminal is given back.
pub(super) fn let_go(keep_stderr: bool) {
    // /dev/null is always there; where it is not, keeping the descriptors is the lesser evil.
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    let stdout = dup2_stdout(&null);
    let stderr = if keep_stderr { Ok(()) } else { dup2_stderr(&null) };
    if let Err(error) = stdout.and(stderr) {
        tracing::warn!(%error, "the terminal's descriptors could not be given back");
    }
}

/// In the child: ends as SIGTERM ends it, with everything written and unmounted.
pub(super) fn end_self() {
    if let Err(error) = kill_process(getpid(), Signal::TERM) {
        tracing::error!(%error, "the parent is gone and the daemon cannot end itself; unmount with dssefs umount");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_may_hold_anything_and_counts_only_when_it_is_whole() {
        let sentence = "s3://b is mounted at /a\nb\0c";
        let message = framed(sentence);
        assert_eq!(read_report(&message[..]).unwrap().unwrap(), sentence.as_bytes());
        for cut in 0..message.len() {
            assert_eq!(read_report(&message[..cut]).unwrap(), None, "{cut} bytes of it");
        }
        assert_eq!(read_report(&framed(&"x".repeat(1 << 20))[..]).unwrap().unwrap().len(), REPORT_BYTES_MAX);
        read_report(&[0xff; 8][..]).unwrap_err();
    }
}
