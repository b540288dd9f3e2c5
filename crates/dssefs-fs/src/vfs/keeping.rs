//! Keeps changes in the journal, so that they outlive the process: those of closes that `--commit background` answered
//! early, and those that the store refused.

use std::sync::Arc;

use crate::journal::{self, Journal};
use crate::write;
use dssefs_s3::object::Key;

use super::file::{File, JournalRef};
use super::{Error, Vfs};

/// Files whose close returns before the store has them hold at most this much content that the store does not have, in
/// bytes. Larger ones are uploaded while they are written, and their close waits for the rest.
const BACKGROUND_BYTES_MAX: u64 = 16 << 20;
/// The journal of a mount, and when it is used.
pub struct JournalPolicy {
    /// Keeps the changes.
    pub journal: Arc<Journal>,
    /// `--commit background`: close(2) returns when the journal has the changes. Otherwise it keeps only what the store
    /// refused.
    pub background: bool,
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

/// How much of a file's changes the journal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalCoverage {
    /// All of them.
    All,
    /// An older state: it could not take the later changes.
    Older,
    /// Nothing.
    Nothing,
}

impl JournalCoverage {
    /// For a file with `changes` changes so far, of which the journal has the first `kept`.
    fn of(kept: Option<u64>, changes: u64) -> JournalCoverage {
        match kept {
            Some(kept) if kept == changes => JournalCoverage::All,
            Some(_) => JournalCoverage::Older,
            None => JournalCoverage::Nothing,
        }
    }
}

impl File {
    /// Whether the journal's entry is small enough to be sealed again when the file is renamed.
    pub(super) fn goes_with_its_name(&self) -> bool {
        let is_kept = self.state().kept.is_some();
        !is_kept || self.writer().is_some_and(|writer| is_small(&writer))
    }

    /// How much of the changes the journal has.
    pub(super) fn journal_coverage(&self) -> JournalCoverage {
        let state = self.state();
        let changes = state.writer.as_ref().map_or(0, |writer| writer.changes());
        JournalCoverage::of(state.kept.map(|kept| kept.changes), changes)
    }
}

impl Vfs {
    /// Whether the close of `file` may return once the journal has its changes.
    /// Not when it is known that the store will never take them.
    pub(super) fn closes_early(&self, file: &File) -> bool {
        self.is_in_background()
            && !file.state().refused
            && file.writer().is_some_and(|writer| writer.is_dirty() && writer.can_be_kept(BACKGROUND_BYTES_MAX))
    }

    fn is_in_background(&self) -> bool {
        self.journal_policy.as_ref().is_some_and(|journal_policy| journal_policy.background)
    }

    /// Whether a close that changes nothing may return although the store does not have what was promised: the journal
    /// does, and a task sends it.
    pub(super) fn is_answered_for(&self, file: &File) -> bool {
        let state = file.state();
        let promised = state.writer.as_ref().and_then(|writer| writer.promised());
        self.is_in_background() && !state.refused && state.kept.map(|kept| kept.changes) == promised
    }

    /// Promises the file as it is now, and writes that to the journal, in place of its earlier entry. False when an
    /// earlier promise has to be stored first.
    pub(super) async fn keep(&self, file: &Arc<File>) -> Result<bool, Error> {
        let Some(writer) = file.writer() else { return Ok(true) };
        let _turn = file.turn.lock().await;
        file.state().note_promise();
        if !writer.promise_only().await? {
            return Ok(false);
        }
        self.keep_now(file, None).await.map(|()| true)
    }

    /// After a commit: removes the file's entry from the journal if the store has the changes, and writes one if it
    /// refused them. The caller holds the file's turn.
    pub(super) async fn after_commit(&self, file: &Arc<File>, outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) => {
                if let Err(error) = self.settle(file, false).await {
                    tracing::warn!(
                        %error,
                        "the journal could not note that the store has a file; the next mount finds that out"
                    );
                }
            }
            Err(error) => {
                if let Err(worse) = self.keep_now(file, Some(error.advice())).await {
                    tracing::error!(
                        error = %worse,
                        "changes that could not be stored are not kept on the local disk either; they are in memory"
                    );
                }
            }
        }
    }

    /// Settles the journal's entry of `file`. With `sync` its changes do not come back after a crash. The caller holds
    /// the file's turn.
    ///
    /// # Errors
    /// The journal could not note that. It keeps the entry, and tries again before a name is removed.
    async fn settle(&self, file: &Arc<File>, sync: bool) -> Result<(), Error> {
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

    /// Settles the entry of `file`, whose name `object` was removed: its changes must not come back after a crash. The
    /// caller holds the file's turn.
    ///
    /// # Errors
    /// The local disk failed, and the next mount may find the file in the journal.
    pub(super) async fn let_go_of_removed(&self, file: &Arc<File>, object: Option<&Key>) -> Result<(), Error> {
        self.settle(file, true).await.inspect_err(|error| {
            let object = object.map(Key::as_str);
            tracing::error!(
                object, %error,
                "the file is removed, but the local disk could not note it: \
                 the next mount may store it again; remove it then once more"
            );
        })
    }

    /// Prepares the removal of a name. Entries that were settled under it must not come back after a loss of power, and
    /// an entry under it needs a disk that can take a note. Nothing may be removed or renamed before this has
    /// succeeded.
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

    /// Writes changed attributes of a file to the journal, if it has an entry there. Skips files whose content is too
    /// large to be sealed once more. The caller holds the file's turn.
    pub(super) async fn keep_attributes(&self, file: &Arc<File>) -> Result<(), Error> {
        let (kept, reason) = {
            let state = file.state();
            (state.kept, state.last_error.clone())
        };
        let Some(kept) = kept.filter(|_| file.writer().is_some_and(|writer| is_small(&writer))) else { return Ok(()) };
        self.keep_now(file, reason.filter(|_| kept.has_reason)).await
    }

    /// Writes the entry of `file` again after a rename, so that its changes are stored under the new name. The caller
    /// holds the file's turn.
    ///
    /// # Errors
    /// The local disk failed or is full. Until the file is stored, a crash brings its changes back under the old name.
    pub(super) async fn keep_under_new_name(&self, file: &Arc<File>) -> Result<(), Error> {
        let (kept, reason) = {
            let state = file.state();
            (state.kept, state.last_error.clone())
        };
        let Some((kept, writer)) = kept.zip(file.writer()) else { return Ok(()) };
        // The name belongs to the changes: with another number of changes, the old entry is out of date.
        writer.touch();
        self.keep_now(file, reason.filter(|_| kept.has_reason)).await.inspect_err(|error| {
            let object = self.namespace.key(file.ino).map(|key| key.to_string());
            tracing::error!(
                object, %error,
                "the journal keeps the file under its old name until the store has it under this one"
            );
        })
    }

    /// Writes the entry of a copy again, if it has one: the entry must not need the object that was copied, because
    /// that object is about to be replaced or removed.
    pub(super) async fn keep_again(&self, file: &Arc<File>) -> Result<(), Error> {
        let is_kept = file.state().kept.is_some();
        if !is_kept {
            return Ok(());
        }
        {
            let _keeping = file.keeping.lock().await;
            // A commit may have stored the file meanwhile, without a note in the journal.
            if !file.is_dirty() {
                return self.settle_kept(file, false).await;
            }
        }
        self.keep_now(file, None).await
    }

    async fn keep_now(&self, file: &Arc<File>, reason: Option<String>) -> Result<(), Error> {
        let _keeping = file.keeping.lock().await;
        let Some((journal_policy, writer)) = self.journal_policy.as_ref().zip(file.writer()) else { return Ok(()) };
        let has_reason = reason.is_some();
        let promised = writer.promised();
        let suffices = |kept: JournalRef| Some(kept.changes) == promised && (kept.has_reason || !has_reason);
        if file.state().kept.is_some_and(suffices) {
            return Ok(());
        }
        let journal = Arc::clone(&journal_policy.journal);
        let before = file.state().kept.map(|kept| kept.entry);
        let keep = move || writer.keep(&journal, before, reason.as_deref());
        let kept = tokio::task::spawn_blocking(keep).await;
        let kept = kept.map_err(|_| Error::Panicked("the task that keeps changes"))??;
        if let Some((entry, changes)) = kept {
            file.state().kept = Some(JournalRef { entry, changes, has_reason });
        }
        Ok(())
    }
}

/// Whether the changes of a file are small enough to be sealed with each change of an attribute.
fn is_small(writer: &write::Writer) -> bool {
    writer.size() <= BACKGROUND_BYTES_MAX || writer.can_be_kept(BACKGROUND_BYTES_MAX)
}

/// Runs work of the journal on a thread that may wait for the disk.
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
