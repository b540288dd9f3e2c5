//! `dssefs mount`.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use clap::Args;

use super::background;
use super::exit::Exit;
use super::logging::{self, Logging, Place};
use super::{complain, complain_of};
use crate::config::{Config, RawConfig};
use crate::daemon::{self, Hangup, Mounted, Owner, StartError};
use dssefs_s3::escaping::shown;

/// How long the last sentence may take.
const COMPLAIN_WITHIN: Duration = Duration::from_secs(2);

/// The arguments of `dssefs mount`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    raw: RawConfig,
    /// Stay in the foreground; Ctrl-C unmounts
    #[arg(long)]
    foreground: bool,
    /// This process is the one that stays (see `background`)
    #[arg(long, hide = true)]
    child: bool,
}

/// Mounts, by default in the background. The parent checks the options too, so that mistakes are reported before
/// a process is started.
pub(super) fn run(arguments: &Arguments) -> Exit {
    // Before anything is opened.
    if let Err(error) = daemon::close_inherited() {
        return fail(&PrepareError::Descriptors(error));
    }
    let config = match check(arguments) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if arguments.child {
        serve(config, Place::Background)
    } else if arguments.foreground {
        serve(config, Place::Foreground)
    } else {
        let handed = config.mountpoint.directory.try_clone();
        drop(config);
        handed.map_or_else(|error| fail(&PrepareError::Directory(error)), background::start)
    }
}

fn check(arguments: &Arguments) -> Result<Config, Exit> {
    let checked = if arguments.child {
        let directory = background::directory_of_parent();
        Config::check_handed(&arguments.raw, directory.map_err(|error| fail(&PrepareError::Directory(error)))?)
    } else {
        Config::check(&arguments.raw)
    };
    checked.map_err(|problems| {
        complain_of(&problems);
        Exit::Usage
    })
}

fn fail(error: &PrepareError) -> Exit {
    complain(error);
    Exit::Usage
}

fn serve(mut config: Config, place: Place) -> Exit {
    // Before the log is opened, which takes all later messages.
    match config.log.file.as_deref().map(daemon::trusted_log).transpose() {
        Ok(trusted) => config.log.file = trusted,
        Err(error) => {
            complain(&error);
            return Exit::from(&error);
        }
    }
    let logging = match prepare(&config, place) {
        Ok(logging) => Arc::new(logging),
        Err(error) => return fail(&error),
    };
    let console = Console {
        place,
        keep_stderr: logging::needs_stderr(&config.log),
        hangup: hangup(&config, place),
        logging: Arc::clone(&logging),
    };
    let outcome = daemon::run(config, Arc::new(console));
    logging.finish();
    match outcome {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let exit = Exit::from(&error);
            complain_in_time(error);
            exit
        }
    }
}

/// The daemon's side of the terminal and of the log.
struct Console {
    place: Place,
    keep_stderr: bool,
    hangup: Hangup,
    logging: Arc<Logging>,
}

impl Owner for Console {
    fn confined(&self) {
        self.logging.start_thread();
    }

    fn ready(&self, mounted: &Mounted) {
        announce(mounted, self.place);
        if self.place == Place::Background {
            background::let_go(self.keep_stderr);
        }
    }

    fn hangup(&self) -> Hangup {
        self.hangup
    }

    fn log_to(&self, file: File) {
        self.logging.move_to(file);
    }
}

/// In the foreground the terminal is gone, unless nohup(1) has said that it does not matter. In the background it is
/// the custom of daemons that their log was renamed.
fn hangup(config: &Config, place: Place) -> Hangup {
    match place {
        Place::Foreground if !is_hangup_ignored() => Hangup::Ends,
        Place::Background if config.log.file.is_some() => Hangup::ReopensLog,
        _ => Hangup::Ignored,
    }
}

/// Whether this process was started with SIGHUP ignored (`SigIgn` of proc_pid_status(5); signal 1 is bit 0).
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// A process that waits for the end of this one must not wait for a stopped terminal.
fn complain_in_time(error: StartError) {
    let (done, told) = channel();
    std::thread::spawn(move || {
        complain(&error);
        // The receiver is gone after the deadline.
        let _ = done.send(());
    });
    let _ = told.recv_timeout(COMPLAIN_WITHIN);
}

/// What can go wrong before the daemon starts.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("the log file cannot be opened ({0}); name a regular file that you may write to with --log-file")]
    Log(#[source] std::io::Error),
    #[error("the descriptors that this process was started with cannot be closed ({0}); mount /proc first")]
    Descriptors(#[source] std::io::Error),
    #[error("the mount point cannot be handed to the daemon ({0}); use --foreground")]
    Directory(#[source] std::io::Error),
    #[error("the daemon cannot leave the terminal ({0}); use --foreground")]
    Detach(#[source] std::io::Error),
}

fn prepare(config: &Config, place: Place) -> Result<Logging, PrepareError> {
    if place == Place::Background {
        background::detach().map_err(PrepareError::Detach)?;
    }
    logging::start(&config.log, place).map_err(PrepareError::Log)
}

/// One line, on which a waiting parent or script relies. When the parent is gone, no process knows of the mount: it is
/// taken down.
fn announce(mounted: &Mounted, place: Place) {
    let Mounted { source, mountpoint, key } = mounted;
    let sentence = format!("{} is mounted at {} (DSSE-KMS under {})", shown(source), shown(mountpoint), shown(key));
    match place {
        // A user who does not read that line has Ctrl-C.
        Place::Foreground => drop(writeln!(std::io::stdout(), "{sentence}")),
        Place::Background if background::report(&sentence).is_err() => background::end_self(),
        Place::Background => {}
    }
}
