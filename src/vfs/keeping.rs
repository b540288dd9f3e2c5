//! Changes that outlive the process: acknowledged from the local disk, or kept there because the store would not have them.

use std::sync::Arc;

use crate::journal::{EntryId, Journal};
use crate::write;

use super::file::File;
use super::{Error, Vfs};

/// Files whose close returns before the store has them hold at most this much content that the store does not have, in bytes. Larger
/// ones are uploaded while they are written, and their close waits for the rest.
const BACKGROUND_BYTES_MAX: u64 = 16 << 20;
/// Closed files that are made safe at the same time.
pub(super) const SAVES_MAX: usize = 64;

/// The journal of a mount, and what it is used for.
pub struct Keeper {
    /// Where changes are kept.
    pub journal: Arc<Journal>,
    /// Whether close(2) returns when they are (`--commit background`); otherwise only what the store refused is kept.
    pub background: bool,
}

/// What the journal keeps of one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptAs {
    entry: EntryId,
    /// Which changes: see [`write::Writer::changes`].
    changes: u64,
    /// Whether the entry says why the store does not have them.
    told: bool,
}

/// What [`Vfs::save_all`] could not make safe.
#[derive(Debug)]
pub struct Unsaved {
    /// The object that it was to be.
    pub name: String,
    /// Why it is not.
    pub error: Error,
    /// Whether the journal keeps it for the next mount.
    pub kept: bool,
}

impl Vfs {
    /// Whether the close of `file` may return once the journal has its changes.
    pub(super) fn closes_early(&self, file: &File) -> bool {
        let background = self.keeper.as_ref().is_some_and(|keeper| keeper.background);
        background && file.writer().is_some_and(|writer| writer.is_dirty() && writer.can_be_kept(BACKGROUND_BYTES_MAX))
    }

    /// Has the journal keep the changes of `file`, in place of those that it kept before.
    pub(super) async fn keep(&self, file: &Arc<File>) -> Result<(), Error> {
        let _turn = file.turn.lock().await;
        self.keep_now(file, None).await
    }

    /// After a commit: what the journal kept is of no use any more; or, when it failed, the journal keeps what the store would not have.
    /// The caller has the file's turn.
    pub(super) async fn after_commit(&self, file: &Arc<File>, outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) => self.let_go(file, false).await,
            Err(error) => {
                if let Err(worse) = self.keep_now(file, Some(error.to_string())).await {
                    tracing::error!(error = %worse, "changes that could not be stored are not kept on the local disk either; they are in memory");
                }
            }
        }
    }

    /// The journal need not keep the changes of `file` any more. With `sync` they do not come back after a crash: their name was removed.
    pub(super) async fn let_go(&self, file: &Arc<File>, sync: bool) {
        let kept = file.state().kept.take();
        if let Some(kept) = kept {
            self.settle(kept.entry, sync).await;
        }
    }

    /// A name is about to go: what was settled under it must not come back after a loss of power.
    pub(super) async fn settle_for_good(&self) {
        let Some(keeper) = &self.keeper else { return };
        let journal = Arc::clone(&keeper.journal);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || journal.sync_settled()).await {
            tracing::warn!(%error, "after a loss of power, files that were stored and then removed may come back");
        }
    }

    /// Attributes of a file that the journal keeps were changed: they are as safe as its content when this returns, unless that is too
    /// much to be kept once more. The caller has the file's turn.
    pub(super) async fn keep_attributes(&self, file: &Arc<File>) -> Result<(), Error> {
        let (kept, reason) = {
            let state = file.state();
            (state.kept, state.last_error.clone())
        };
        let Some(kept) = kept.filter(|_| file.writer().is_some_and(|writer| is_small(&writer))) else { return Ok(()) };
        self.keep_now(file, reason.filter(|_| kept.told)).await
    }

    async fn keep_now(&self, file: &Arc<File>, reason: Option<String>) -> Result<(), Error> {
        let Some((keeper, writer)) = self.keeper.as_ref().zip(file.writer()) else { return Ok(()) };
        let told = reason.is_some();
        let suffices = |kept: KeptAs| kept.changes == writer.changes() && (kept.told || !told);
        if file.state().kept.is_some_and(suffices) {
            return Ok(());
        }
        let journal = Arc::clone(&keeper.journal);
        let before = file.state().kept.map(|kept| kept.entry);
        let keep = move || writer.keep(&journal, before, reason.as_deref());
        let kept = tokio::task::spawn_blocking(keep).await;
        let kept = kept.map_err(|_| Error::Invalid("the task that keeps changes has panicked"))??;
        if let Some((entry, changes)) = kept {
            file.state().kept = Some(KeptAs { entry, changes, told });
        }
        Ok(())
    }

    async fn settle(&self, entry: EntryId, sync: bool) {
        let Some(keeper) = &self.keeper else { return };
        let journal = Arc::clone(&keeper.journal);
        let settled = tokio::task::spawn_blocking(move || journal.settle(entry, sync)).await;
        if let Ok(Err(error)) = settled {
            tracing::warn!(%error, "the journal could not note that a file needs it no more; the next mount finds that out");
        }
    }
}

/// Whether what the journal has to seal of a file's changes is so little that it can be done with each change of an attribute.
fn is_small(writer: &write::Writer) -> bool {
    writer.size() <= BACKGROUND_BYTES_MAX || writer.can_be_kept(BACKGROUND_BYTES_MAX)
}

impl From<crate::journal::Error> for Error {
    fn from(error: crate::journal::Error) -> Error {
        Error::Write(write::Error::Journal(error))
    }
}
