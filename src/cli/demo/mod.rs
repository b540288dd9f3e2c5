//! `dssefs demo`: an endpoint, a mount of it, and a tour on which every claim is checked.

mod guide;
mod head;
mod spill;
mod stage;
mod tour;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::complain;
use super::exit::Exit;
use dssefs_s3::escaping::shown;
use guide::Guide;
use stage::{Stage, StageError};

/// The arguments of `dssefs demo`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Mount here [default: a temporary directory]
    #[arg(value_name = "DIR")]
    mountpoint: Option<PathBuf>,
    /// End after the tour, with exit code 0 only if every step of it was true
    #[arg(long)]
    once: bool,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    match demonstrate(arguments) {
        Ok(0) => Exit::Ok,
        Ok(_) => Exit::Untrue,
        Err(error) => {
            complain(&error);
            error.exit()
        }
    }
}

/// Gives the number of steps that were not true.
fn demonstrate(arguments: &Arguments) -> Result<usize, StageError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StageError::System)?;
    let interrupted = watch(&runtime)?;
    let stage = Stage::build(&runtime, arguments.mountpoint.as_deref())?;
    let mut guide = Guide::new(stage.mountpoint(), Arc::clone(&interrupted));
    tour::take(&mut guide, &stage);
    let untrue = guide.conclude();
    let stays = !arguments.once && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if stays && !interrupted.load(Ordering::Relaxed) {
        println!("\nThe mount stays up at {} until Ctrl-C. The endpoint's variables:", shown(stage.mountpoint()));
        stage.environment().iter().for_each(|(name, value)| println!("export {name}={value}"));
        stage.wait(&interrupted);
    }
    stage.take_down();
    Ok(untrue)
}

/// Ctrl-C ends the tour at its next step and takes everything down, so it must not end the process by itself.
fn watch(runtime: &tokio::runtime::Runtime) -> Result<Arc<AtomicBool>, StageError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let _context = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut stream = signal(kind).map_err(StageError::System)?;
        let interrupted = Arc::clone(&interrupted);
        runtime.spawn(async move {
            stream.recv().await;
            interrupted.store(true, Ordering::Relaxed);
        });
    }
    Ok(interrupted)
}
