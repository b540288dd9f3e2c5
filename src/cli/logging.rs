//! Where the log goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};

/// Whether the process keeps a terminal, which decides where a log without a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Foreground,
    Background,
}

/// The socket of syslog and of journald's syslog side.
const SYSTEM_LOG: &str = "/dev/log";
/// Facility 3 (daemon) and severity 6 (informational) of RFC 5424, 6.2.1. The line itself names its level.
const PRIORITY: &str = "<30>";

/// Starts the log of this process.
///
/// # Errors
/// The file cannot be opened for appending.
pub(super) fn start(log: &Log, place: Place) -> io::Result<()> {
    let target = Target::choose(log.file.as_deref(), place)?;
    let plain = tracing_subscriber::fmt().with_env_filter(filter(log.verbosity)).with_ansi(false).with_writer(target);
    match log.format {
        LogFormat::Text => plain.init(),
        LogFormat::Json => plain.json().init(),
    }
    Ok(())
}

/// The libraries below say at most warnings, until everything is asked for; `DSSEFS_LOG` overrides.
fn filter(verbosity: u8) -> EnvFilter {
    let directives = match verbosity {
        0 => "warn,dssefs=info",
        1 => "warn,dssefs=debug",
        _ => "debug,dssefs=trace",
    };
    EnvFilter::try_from_env("DSSEFS_LOG").unwrap_or_else(|_| EnvFilter::new(directives))
}

/// Where lines go. Each line is one write, so that lines of several threads do not mix.
enum Target {
    Terminal,
    File(File),
    System(UnixDatagram),
}

impl Target {
    /// In the background without a file: the system's log; where there is none, standard error, which is better than nowhere.
    fn choose(file: Option<&Path>, place: Place) -> io::Result<Target> {
        Ok(match (file, place) {
            (Some(path), _) => Target::File(OpenOptions::new().create(true).append(true).mode(0o600).open(path)?),
            (None, Place::Foreground) => Target::Terminal,
            (None, Place::Background) => system_log().map_or(Target::Terminal, Target::System),
        })
    }
}

fn system_log() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SYSTEM_LOG)?;
    // A log that nobody reads must not stop the file system.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether a background daemon with this log still needs its standard error.
pub(super) fn needs_stderr(log: &Log) -> bool {
    log.file.is_none() && system_log().is_err()
}

/// One event's line on its way.
struct Line<'a>(&'a Target);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0 {
            Target::Terminal => io::stderr().write(line),
            Target::File(file) => (&*file).write(line),
            Target::System(socket) => {
                let tag = format!("{PRIORITY}dssefs[{}]: ", std::process::id());
                socket.send(&[tag.as_bytes(), line.trim_ascii_end()].concat())?;
                Ok(line.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Target {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
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
            let target = Target::choose(Some(&path), Place::Background).unwrap();
            target.make_writer().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
