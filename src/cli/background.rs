//! Leaving the terminal.
//!
//! The parent runs the program again with the same arguments and `--child`, and waits until the child prints that the mount
//! answers, or ends. A fork without exec is no choice: it would carry one thread of a runtime into the child. Until the mount
//! answers, the child has the parent's standard error, so nothing that it says is lost.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, chdir, getpid, kill_process, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use super::exit::Exit;

/// In the parent: starts the child, prints its line, and ends as it ends when it never says one.
pub(super) fn start() -> Exit {
    match spawn().and_then(wait) {
        Ok(exit) => exit,
        Err(error) => {
            let _ = writeln!(io::stderr(), "the daemon could not be started ({error}); use --foreground to see more");
            Exit::Internal
        }
    }
}

fn spawn() -> io::Result<Child> {
    let arguments = std::env::args_os().skip(1);
    Command::new(own_program()).args(arguments).arg("--child").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

/// This program by its path, so that the system calls the daemon by its name; after an upgrade in between, by its descriptor.
pub(super) fn own_program() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

fn wait(mut child: Child) -> io::Result<Exit> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.is_empty() {
        return Ok(Exit::of(child.wait()?));
    }
    // The mount is there, whether or not somebody reads so.
    let _ = io::stdout().write_all(line.as_bytes());
    Ok(Exit::Ok)
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
