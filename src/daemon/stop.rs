//! Taking the house down: nothing that could be saved is dropped, and what could not is named.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::fuse::Unmounter;
use crate::vfs::Vfs;

use super::StartError;

/// How long programs have to close their files after the mount was taken out of the tree, and tasks to end after the last commit.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// SIGTERM and SIGINT. Made before anybody learns that the mount is there: from then on they end it and not the process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Needs the context of the runtime.
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}

/// Waits for SIGTERM or SIGINT, makes all changes safe, and unmounts; returns when programs that still had files open had their time
/// to close them. A second signal cuts each wait short.
pub(super) async fn on_signal(mut signals: Signals, vfs: Arc<Vfs>, mut unmounter: Unmounter) {
    signals.next().await;
    tracing::info!(unsaved = vfs.unsaved_count(), "asked to stop: saving changes and unmounting");
    tokio::select! { _ = vfs.save_all() => {}, () = signals.next() => {} }
    let outcome = tokio::task::spawn_blocking(move || unmounter.unmount()).await;
    if let Ok(Err(error)) = outcome {
        tracing::error!(%error, "the mount cannot be taken down; unmount it with `fusermount3 -uz`");
    }
    tokio::select! { () = tokio::time::sleep(GRACE) => {}, () = signals.next() => {} }
    tracing::warn!("programs still have files open on the mount; they get errors from now on");
}

/// The last commits, after the kernel let go of the mount.
pub(super) async fn save(vfs: &Vfs) -> Result<(), StartError> {
    let failed = vfs.save_all().await;
    for (name, error) in &failed {
        tracing::error!(name, %error, remedy = error.remedy().unwrap_or_default(), "changes are lost with this process");
    }
    vfs.abandon().await;
    match failed.as_slice() {
        [] => Ok(()),
        [(name, error)] => Err(StartError::Unsaved(format!("the changes of {name} could not be saved: {error}"))),
        [(name, error), ..] => Err(StartError::Unsaved(format!(
            "the changes of {} files could not be saved, {name} among them: {error}; the log names all",
            failed.len()
        ))),
    }
}
