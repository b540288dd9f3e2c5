//! Taking the house down: nothing that could be saved is dropped, and what could not is named.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::fuse::Unmounter;
use crate::vfs::Vfs;

use super::StartError;

/// How long programs have to close their files after the mount was taken out of the tree, and tasks to end after the last commit.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Waits for SIGTERM or SIGINT, makes all changes safe, and unmounts; returns when programs that still had files open had their time
/// to close them. A second signal cuts each wait short.
pub(super) async fn on_signal(vfs: Arc<Vfs>, mut unmounter: Unmounter) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; unmount with `dssefs umount`");
        return std::future::pending().await;
    };
    let mut signalled = async || {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    signalled().await;
    tracing::info!(unsaved = vfs.unsaved_count(), "asked to stop: saving changes and unmounting");
    tokio::select! { _ = vfs.save_all() => {}, () = signalled() => {} }
    let outcome = tokio::task::spawn_blocking(move || unmounter.unmount()).await;
    if let Ok(Err(error)) = outcome {
        tracing::error!(%error, "the mount cannot be taken down; unmount it with `fusermount3 -uz`");
    }
    tokio::select! { () = tokio::time::sleep(GRACE) => {}, () = signalled() => {} }
    tracing::warn!("programs still have files open on the mount; they get errors from now on");
}

/// The last commits, after the kernel let go of the mount.
pub(super) async fn save(vfs: &Vfs) -> Result<(), StartError> {
    let failed = vfs.save_all().await;
    for (name, error) in &failed {
        tracing::error!(name, %error, remedy = error.remedy().unwrap_or_default(), "changes are lost with this process");
    }
    match failed.as_slice() {
        [] => Ok(()),
        [(name, error)] => Err(StartError::Unsaved(format!("the changes of {name} could not be saved: {error}"))),
        [(name, error), ..] => Err(StartError::Unsaved(format!(
            "the changes of {} files could not be saved, {name} among them: {error}; the log names all",
            failed.len()
        ))),
    }
}
