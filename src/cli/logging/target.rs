//! Where lines go.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use crate::config::Log;
use crate::daemon::LogFile;

use super::Place;

/// A log that is asked for there goes where it goes without a file in the foreground.
const STANDARD_ERROR: [&str; 2] = ["/dev/stderr", "/dev/fd/2"];
/// The socket of syslog and of journald's syslog side.
const SYSTEM_LOG: &str = "/dev/log";
/// Facility 3 (daemon) and severity 6 (informational) of RFC 5424, 6.2.1. The line itself names its level.
const PRIORITY: &str = "<30>";
/// How long a line may wait for a system's log that is behind.
const SYSTEM_LOG_WAIT: Duration = Duration::from_secs(1);

/// Where lines go. Each line is one write, so that lines of several processes do not mix.
#[derive(Debug)]
pub(super) enum Target {
    Terminal,
    File(File),
    System(UnixDatagram),
}

impl Target {
    /// In the background without a file: the system's log; where there is none, standard error, which is better than
    /// nowhere.
    pub(super) fn choose(file: Option<&Path>, place: Place) -> io::Result<Target> {
        Ok(match (file, place) {
            (Some(path), _) if is_standard_error(path) => Target::Terminal,
            (Some(path), _) => Target::File(LogFile::at(path).open()?),
            (None, Place::Foreground) => Target::Terminal,
            (None, Place::Background) => system_log().map_or(Target::Terminal, Target::System),
        })
    }

    /// Whether the user who started the program reads it beside other things: a terminal, or the standard
    /// error that a daemon in the background has of its starter. Standard error of a program in the foreground that
    /// goes to a file or a pipe is its log.
    pub(super) fn is_for_a_person(&self, place: Place) -> bool {
        matches!(self, Target::Terminal) && (place == Place::Background || io::stderr().is_terminal())
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Target::Terminal => io::stderr().write_all(line),
            Target::File(file) => file.write_all(line),
            Target::System(socket) => {
                let tag = format!("{PRIORITY}dssefs[{}]: ", std::process::id());
                send(socket, Path::new(SYSTEM_LOG), &[tag.as_bytes(), line.trim_ascii_end()].concat())
            }
        }
    }
}

/// Sends to the process that has the name now, if the one before is gone. The socket stays: in the sandbox there are no
/// new ones.
fn send(socket: &UnixDatagram, name: &Path, message: &[u8]) -> io::Result<()> {
    let sent = match socket.send(message) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotConnected) => {
            socket.connect(name).and_then(|()| socket.send(message))
        }
        sent => sent,
    };
    sent.map(drop)
}

fn system_log() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SYSTEM_LOG)?;
    socket.set_write_timeout(Some(SYSTEM_LOG_WAIT))?;
    Ok(socket)
}

/// Whether a background daemon with this log still needs its standard error.
pub(in crate::cli) fn needs_stderr(log: &Log) -> bool {
    match &log.file {
        Some(path) => is_standard_error(path),
        None => system_log().is_err(),
    }
}

fn is_standard_error(path: &Path) -> bool {
    STANDARD_ERROR.iter().any(|name| path == Path::new(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_is_private_and_appended_to() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for line in ["one\n", "two\n"] {
            Target::choose(Some(&path), Place::Background).unwrap().write(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_system_log_that_was_started_again_gets_the_next_line() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("log");
        let first = UnixDatagram::bind(&name).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(&name).unwrap();
        send(&socket, &name, b"one").unwrap();
        drop(first);
        std::fs::remove_file(&name).unwrap();
        assert!(send(&socket, &name, b"lost").is_err());
        let second = UnixDatagram::bind(&name).unwrap();
        send(&socket, &name, b"two").unwrap();
        let mut line = [0; 8];
        let length = second.recv(&mut line).unwrap();
        assert_eq!(line[..length], *b"two");
    }
}
