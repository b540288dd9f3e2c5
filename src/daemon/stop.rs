//! Taking the house down: nothing that could be saved is dropped, and what could not is named.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::fuse::Unmounter;
use crate::journal::Journal;
use crate::s3::Gateway;
use crate::vfs::{KeptPart, Unsaved, Vfs};

use super::StartError;

/// How long programs have to close their files after the mount was taken out of the tree, and tasks to end after the last commit.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// What makes the end of a mount come in a bounded time, also when the store is dead. As long as that gives a sign of life, by an answer
/// to any request or by a byte that it takes, saving goes on; after `silence_max` without one, each request has another second and then
/// fails, so that its file goes where failed commits go: into the journal, if there is one, or into the list of what was lost.
pub(super) struct Ending {
    pub(super) gateway: Arc<Gateway>,
    pub(super) silence_max: Duration,
}

impl Ending {
    fn begin(&self) {
        self.gateway.hurry(self.silence_max);
    }
}

/// SIGTERM and SIGINT. Made before anybody learns that the mount is there: from then on they end it and not the process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Needs the context of the runtime.
    pub(super) fn new() -> io::Result<Signals> {
        // Without a handler, a write beyond RLIMIT_FSIZE would end this process instead of failing (setrlimit(2)).
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}

/// Waits for SIGTERM or SIGINT, makes all changes safe, and unmounts; returns when programs that still had files open had their time
/// to close them. A second signal cuts each wait short.
pub(super) async fn on_signal(mut signals: Signals, vfs: Arc<Vfs>, ending: &Ending, unmounter: Unmounter) {
    signals.next().await;
    ending.begin();
    tracing::info!(unsaved = vfs.unsaved_count(), "asked to stop: saving changes and unmounting");
    // A task of its own: to drop a commit in its middle is to lose sight of an upload that may have the only copy of its parts.
    let mut saving = tokio::spawn(async move { vfs.save_all().await });
    tokio::select! { _ = &mut saving => {}, () = signals.next() => {} }
    let outcome = tokio::task::spawn_blocking(move || unmounter.unmount()).await;
    if let Ok(Err(error)) = outcome {
        tracing::error!(%error, "the mount cannot be taken down; unmount it with `fusermount3 -uz`");
    }
    tokio::select! { () = tokio::time::sleep(GRACE) => {}, () = signals.next() => {} }
    tracing::warn!("programs still have files open on the mount; they get errors from now on");
}

/// The last commits, after the kernel let go of the mount.
pub(super) async fn save(vfs: &Vfs, ending: &Ending) -> Result<(), StartError> {
    ending.begin();
    let failed = vfs.save_all().await;
    for Unsaved { name, error, kept } in &failed {
        let fate = match kept {
            KeptPart::All => "kept for the next mount",
            KeptPart::Older => "lost with this process, but for an older state of them that is kept for the next mount",
            KeptPart::Nothing => "lost with this process",
        };
        tracing::error!(name, %error, remedy = error.remedy().unwrap_or_default(), "changes are {fate}");
    }
    vfs.abandon().await;
    let [Unsaved { name, error, .. }, ..] = failed.as_slice() else { return Ok(()) };
    let what = match failed.len() {
        1 => format!("the changes of {name}"),
        many => format!("the changes of {many} files, {name} among them,"),
    };
    let fate = match failed.iter().filter(|unsaved| unsaved.kept != KeptPart::All).count() {
        0 => "they are kept: the next mount sends them, and dssefs recover lists them".to_owned(),
        lost => format!("{lost} of them are lost"),
    };
    Err(StartError::Unsaved(format!("{what} could not be saved ({error}); {fate}")))
}

/// The journal goes when nothing in it is of use any more, and stays otherwise.
pub(super) fn close(journal: Option<Arc<Journal>>) {
    let Some(journal) = journal else { return };
    let kept = journal.live_count();
    match Arc::into_inner(journal).map(Journal::close) {
        Some(Ok(())) | None if kept == 0 => {}
        Some(Err(error)) => {
            tracing::error!(%error, "the journal could not be closed; the next mount reads it all the same");
        }
        _ => tracing::warn!(files = kept, "the journal keeps files for the next mount; dssefs recover lists them"),
    }
}
