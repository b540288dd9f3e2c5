//! `dssefs mount-helper`: the process that the daemon starts beside itself (see `fuse`). People do not start it.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use crate::daemon::{MountOptions, close_inherited, run_mount_helper};

/// The arguments of `dssefs mount-helper`.
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

/// Serves the daemon at standard input, and answers there.
pub(super) fn run(arguments: Arguments) -> Exit {
    if close_inherited().is_err() {
        return Exit::Internal;
    }
    let Arguments { source, read_only, allow_other, log_file } = arguments;
    let options = MountOptions { source, read_only, allow_other, threads: 1 };
    match run_mount_helper(&options, log_file.as_deref()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Internal,
    }
}
