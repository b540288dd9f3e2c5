//! `dssefs mount`.

use std::io::Write;

use clap::Args;

use super::background;
use super::complain;
use super::exit::Exit;
use super::logging::{self, Place};
use crate::config::{Config, RawConfig};
use crate::daemon::{self, Mounted, StartError};

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

/// Mounts; in the background unless told otherwise. The parent checks the options too, so that mistakes are told before a
/// process is started.
pub(super) fn run(arguments: &Arguments) -> Exit {
    let config = match Config::check(&arguments.raw) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::Usage;
        }
    };
    if arguments.child {
        serve(config, Place::Background)
    } else if arguments.foreground {
        serve(config, Place::Foreground)
    } else {
        background::start()
    }
}

fn serve(config: Config, place: Place) -> Exit {
    if let Err(error) = prepare(&config, place) {
        complain(&error);
        return Exit::Usage;
    }
    let keep_stderr = logging::needs_stderr(&config.log);
    let ready = |outcome: Result<Mounted, &StartError>| {
        let Ok(mounted) = outcome else { return };
        announce(&mounted, place);
        if place == Place::Background {
            background::let_go(keep_stderr);
        }
    };
    match daemon::run(config, ready) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(&error);
            Exit::from(&error)
        }
    }
}

/// What can go wrong before the daemon starts.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("the log file cannot be opened ({0}); name one that you may write to with --log-file")]
    Log(#[source] std::io::Error),
    #[error("the daemon cannot leave the terminal ({0}); use --foreground")]
    Detach(#[source] std::io::Error),
}

fn prepare(config: &Config, place: Place) -> Result<(), PrepareError> {
    if place == Place::Background {
        background::detach().map_err(PrepareError::Detach)?;
    }
    logging::start(&config.log, place).map_err(PrepareError::Log)
}

/// One line, on which a waiting parent or script relies. When the parent is gone, nobody knows of the mount: it is taken down.
fn announce(mounted: &Mounted, place: Place) {
    let Mounted { source, mountpoint, key } = mounted;
    let mut stdout = std::io::stdout().lock();
    let told = writeln!(stdout, "{source} is mounted at {} (DSSE-KMS under {key})", mountpoint.display());
    if told.and_then(|()| stdout.flush()).is_err() && place == Place::Background {
        background::end_self();
    }
}
