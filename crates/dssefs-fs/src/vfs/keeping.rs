//! Changes that outlive the process: acknowledged from the local disk, or kept there because the store would not have
//! them.

use std::sync::Arc;

use crate::journal::{self, EntryId, Journal};
use crate::write;
use dssefs_s3::object::Key;

use super::file::File;
use super::{Error, Vfs};

/// Files whose close returns before the store has them hold at most this much content that the store does not have, in
/// bytes. Larger ones are uploaded while they are written, and their close waits for the rest.
const BACKGROUND_BYTES_MAX: u64 = 16 << 20;
/// The journal of a mount, and what it is used for.
pub struct JournalPolicy {
    /// Where changes are kept.
    pub journal: Arc<Journal>,
    /// Whether close(2) returns when they are (`--commit background`); otherwise only what the store refused is kept.
    pub background: bool,
}

/// What the journal keeps of one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JournalRef {
    entry: EntryId,
    /// Which changes: see [`write::Writer::changes`].
    changes: u64,
    /// Whether the entry says why the store does not have them.
    told: bool,
}

impl File {
    /// Whether the journal keeps the changes as they are now.
    pub(super) fn is_kept_as_it_is(&self) -> bool {
        let (kept, writer) = {
            let state = self.state();
            (state.kept, state.writer.clone())
        };
        kept.zip(writer).is_some_and(|(kept, writer)| kept.changes == writer.changes())
    }
}

/// What the journal keeps of a file's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalCoverage {
    /// All of them.
    All,
    /// An older state: it could not take the file again since.
    Older,
    /// Nothing.
    Nothing,
}

impl JournalCoverage {
    /// Of a file that has had so many `changes`, of which the journal has those up to number `kept`.
    fn of(kept: Option<u64>, changes: u64) -> JournalCoverage {
        match kept {
            Some(kept) if kept == changes => JournalCoverage::All,
            Some(_) => JournalCoverage::Older,
            None => JournalCoverage::Nothing,
        }
    }
}

impl File {
    /// Whether what the journal keeps of the changes is so little that it can be sealed again when the name changes.
    pub(super) fn goes_with_its_name(&self) -> bool {
        let is_kept = self.state().kept.is_some();
        !is_kept || self.writer().is_some_and(|writer| is_small(&writer))
    }

    /// What the journal keeps of the changes.
    pub(super) fn journal_coverage(&self) -> JournalCoverage {
        let state = self.state();
        let changes = state.writer.as_ref().map_or(0, |writer| writer.changes());
        JournalCoverage::of(state.kept.map(|kept| kept.changes), changes)
    }
}

impl Vfs {
    /// Whether the close of `file` may return once the journal has its changes.
    pub(super) fn closes_early(&self, file: &File) -> bool {
        let background = self.journal_policy.as_ref().is_some_and(|journal_policy| journal_policy.background);
        background && file.writer().is_some_and(|writer| writer.is_dirty() && writer.can_be_kept(BACKGROUND_BYTES_MAX))
    }

    /// Has the journal keep the changes of `file`, in place of those that it kept before.
    pub(super) async fn keep(&self, file: &Arc<File>) -> Result<(), Error> {
        let _turn = file.turn.lock().await;
        self.keep_now(file, None).await?;
        let mut state = file.state();
        state.owed = state.kept.map(|kept| kept.changes);
        Ok(())
    }

    /// After a commit: what the journal kept is of no use any more; or, when it failed, the journal keeps what the
    /// store would not have. The caller has the file's turn.
    pub(super) async fn after_commit(&self, file: &Arc<File>, outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) => {
                if let Err(error) = self.let_go(file, false).await {
                    tracing::warn!(%error, "the journal could not note that a file needs it no more; the next mount finds that out");
                }
            }
            Err(error) => {
                if let Err(worse) = self.keep_now(file, Some(error.advice())).await {
                    tracing::error!(error = %worse, "changes that could not be stored are not kept on the local disk either; they are in memory");
                }
            }
        }
    }

    /// The journal need not keep the changes of `file` any more. With `sync` they do not come back after a crash. The
    /// caller has the file's turn.
    ///
    /// # Errors
    /// The journal could not note that. It still keeps them, and tries again before a name goes.
    async fn let_go(&self, file: &Arc<File>, sync: bool) -> Result<(), Error> {
        let _keeping = file.keeping.lock().await;
        self.settle_kept(file, sync).await
    }

    async fn settle_kept(&self, file: &File, sync: bool) -> Result<(), Error> {
        let kept = file.state().kept.take();
        let Some((journal_policy, kept)) = self.journal_policy.as_ref().zip(kept) else { return Ok(()) };
        let journal = Arc::clone(&journal_policy.journal);
        let settled = in_the_journal(move || journal.settle(kept.entry, sync)).await;
        settled.inspect_err(|_| file.state().kept = Some(kept))
    }

    /// The name of `file`, which was `object`, is gone: what the journal keeps of it must not come back after a crash.
    /// The caller has the file's turn.
    ///
    /// # Errors
    /// The local disk failed at that, and the next mount may find the file there.
    pub(super) async fn let_go_of_removed(&self, file: &Arc<File>, object: Option<&Key>) -> Result<(), Error> {
        self.let_go(file, true).await.inspect_err(|error| {
            let object = object.map(Key::as_str);
            tracing::error!(
                object, %error,
                "the file is removed, and the local disk does not say so: the next mount may store it again; remove it then once more"
            );
        })
    }

    /// The name of `file` is about to go: what was settled under it must not come back after a loss of power, and what
    /// is kept under it must not for want of a disk that takes a note of it. Nothing may be removed or renamed before
    /// this has succeeded.
    ///
    /// # Errors
    /// The local disk has failed.
    pub(super) async fn settle_for_good(&self, file: Option<&File>) -> Result<(), Error> {
        let Some(journal_policy) = &self.journal_policy else { return Ok(()) };
        let is_kept = file.is_some_and(|file| file.state().kept.is_some());
        let journal = Arc::clone(&journal_policy.journal);
        in_the_journal(move || {
            journal.sync_settled()?;
            if is_kept { journal.usable() } else { Ok(()) }
        })
        .await
    }

    /// Attributes of a file that the journal keeps were changed: they are as safe as its content when this returns,
    /// unless that is too much to be kept once more. The caller has the file's turn.
    pub(super) async fn keep_attributes(&self, file: &Arc<File>) -> Result<(), Error> {
        let (kept, reason) = {
            let state = file.state();
            (state.kept, state.last_error.clone())
        };
        let Some(kept) = kept.filter(|_| file.writer().is_some_and(|writer| is_small(&writer))) else { return Ok(()) };
        self.keep_now(file, reason.filter(|_| kept.told)).await
    }

    /// The name of `file` is another one now, and what the journal keeps of its changes is to be stored under that. The
    /// caller has the file's turn.
    ///
    /// # Errors
    /// The local disk failed, or is full; until the file is stored, a crash brings its changes back under the old name.
    pub(super) async fn keep_under_new_name(&self, file: &Arc<File>) -> Result<(), Error> {
        let (kept, reason) = {
            let state = file.state();
            (state.kept, state.last_error.clone())
        };
        let Some((kept, writer)) = kept.zip(file.writer()) else { return Ok(()) };
        // The name belongs to the changes: with another number, the entry does not suffice any more.
        writer.touch();
        self.keep_now(file, reason.filter(|_| kept.told)).await.inspect_err(|error| {
            let object = self.namespace.key(file.ino).map(|key| key.to_string());
            tracing::error!(object, %error, "the journal keeps the file under its old name until the store has it under this one");
        })
    }

    /// What the journal keeps of a copy, if it keeps anything, must not count on the object any more that was copied
    /// and is about to go.
    pub(super) async fn keep_again(&self, file: &Arc<File>) -> Result<(), Error> {
        let is_kept = file.state().kept.is_some();
        if !is_kept {
            return Ok(());
        }
        {
            let _keeping = file.keeping.lock().await;
            // Its bytes may have been made readable by a commit, which nobody has told the journal of.
            if !file.is_dirty() {
                return self.settle_kept(file, false).await;
            }
        }
        self.keep_now(file, None).await
    }

    async fn keep_now(&self, file: &Arc<File>, reason: Option<String>) -> Result<(), Error> {
        let _keeping = file.keeping.lock().await;
        let Some((journal_policy, writer)) = self.journal_policy.as_ref().zip(file.writer()) else { return Ok(()) };
        let told = reason.is_some();
        let suffices = |kept: JournalRef| kept.changes == writer.changes() && (kept.told || !told);
        if file.state().kept.is_some_and(suffices) {
            return Ok(());
        }
        let journal = Arc::clone(&journal_policy.journal);
        let before = file.state().kept.map(|kept| kept.entry);
        let keep = move || writer.keep(&journal, before, reason.as_deref());
        let kept = tokio::task::spawn_blocking(keep).await;
        let kept = kept.map_err(|_| Error::Panicked("the task that keeps changes"))??;
        if let Some((entry, changes)) = kept {
            file.state().kept = Some(JournalRef { entry, changes, told });
        }
        Ok(())
    }
}

/// Whether what the journal has to seal of a file's changes is so little that it can be done with each change of an
/// attribute.
fn is_small(writer: &write::Writer) -> bool {
    writer.size() <= BACKGROUND_BYTES_MAX || writer.can_be_kept(BACKGROUND_BYTES_MAX)
}

/// Where the disk may be waited for.
async fn in_the_journal(work: impl FnOnce() -> Result<(), journal::Error> + Send + 'static) -> Result<(), Error> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| Error::Panicked("a task of the journal"))??)
}

impl From<journal::Error> for Error {
    fn from(error: journal::Error) -> Error {
        Error::Write(write::Error::Journal(error))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ErrnoStyle;
    use super::*;

    #[test]
    fn an_older_state_in_the_journal_is_not_taken_for_the_file() {
        assert_eq!(JournalCoverage::of(Some(3), 3), JournalCoverage::All);
        assert_eq!(JournalCoverage::of(Some(2), 3), JournalCoverage::Older);
        assert_eq!(JournalCoverage::of(None, 3), JournalCoverage::Nothing);
    }

    #[tokio::test]
    async fn a_task_that_panics_is_an_error_that_a_person_hears_of_and_no_bad_argument() {
        let error = in_the_journal(|| panic!("scripted")).await.unwrap_err();
        assert_eq!((error.errno(ErrnoStyle::Native).0, error.is_trouble()), (libc::EIO, true), "{error}");
    }
}
