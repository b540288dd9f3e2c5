//! `dssefs porter`: what the daemon starts beside itself, and nobody else (see `fuse`).

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use crate::daemon::{MountOptions, attend, close_inherited};

/// The arguments of `dssefs porter`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    source: String,
    #[arg(long, hide = true)]
    read_only: bool,
    #[arg(long, hide = true)]
    allow_other: bool,
    #[arg(long, hide = true)]
    log_file: Option<PathBuf>,
}

/// Serves the daemon at standard input. What it has to say it says there.
pub(super) fn run(arguments: Arguments) -> Exit {
    if close_inherited().is_err() {
        return Exit::Internal;
    }
    let Arguments { source, read_only, allow_other, log_file } = arguments;
    let options = MountOptions { source, read_only, allow_other, threads: 1 };
    match attend(&options, log_file.as_deref()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Internal,
    }
}
