//! Saving the changes of closed files, and of all files at the end of the mount.
//!
//! A file is saved by the call that commits it (close(2), fsync(2)), by a background task, on the owner's request, or
//! at the end of the mount:
//!
//! * A close that the store refused, or that `--commit background` answered early, leaves the file to a task. It tries
//!   until the store has the changes, until another writer has replaced the object, or until no try can help.
//! * Setting [`super::RETRY_ATTRIBUTE`] tries every closed file once more.
//! * At SIGTERM the daemon calls [`Vfs::save_all`] twice: before it unmounts, for what is promised, and after it, for
//!   all that is left. The changes that still fail come back as [`Unsaved`], with what the journal has of
//!   them. [`Vfs::abandon`] then gives up the changes that the journal does not have, and their uploads.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dssefs_s3::s3::{Backoff, Jitter};
use futures_util::{FutureExt, StreamExt, stream};

use crate::namespace::Held;

use super::file::{File, FileState};
use super::keeping::JournalCoverage;
use super::{Error, Ino, Vfs};
use crate::write::Try;

/// Files that are saved at the same time.
pub(super) const SAVES_MAX: usize = 64;
/// Files beside them whose save takes long, or has failed before.
pub(super) const SLOW_SAVES_MAX: usize = 256;
/// The pause before a closed file is tried again. It doubles from one try to the next.
const SAVE_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), Jitter::None);
/// How long a save waits for programs that have the file open. Programs close several copies of a handle in a row, and
/// each close is a promise. One object serves them all.
const IN_USE_PAUSE: Duration = Duration::from_secs(1);

/// A file that [`Vfs::save_all`] could not save.
#[derive(Debug)]
pub struct Unsaved {
    /// The key of its object.
    pub name: String,
    /// Why the store does not have it.
    pub error: Error,
    /// Which of its changes the journal has for the next mount.
    pub kept: JournalCoverage,
}

/// What [`Vfs::save_all`] saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveExtent {
    /// What closes and fsyncs have promised, and files that no program has open: programs go on writing the others.
    Promised,
    /// All changes: no program can change or close a file any more.
    All,
}

impl FileState {
    /// Whether a task has to store what was promised, also while handles are open: a close has answered for it, or the
    /// store has refused it for now. The close after later changes saves those.
    fn is_owed(&self) -> bool {
        !self.refused && self.writer.as_ref().is_some_and(|writer| writer.promised().is_some())
    }

    fn begins_retrying(&mut self, is_owed: bool) -> bool {
        let wanted = (is_owed || self.users == 0) && !self.unlinked;
        wanted && !std::mem::replace(&mut self.retrying, true)
    }

    fn goes_on_retrying(&mut self, is_dirty: bool, is_owed: bool) -> bool {
        self.retrying = is_dirty && (is_owed || self.users == 0) && !self.unlinked;
        self.retrying
    }
}

impl File {
    /// True when the caller must start the save task: no task runs, and no program has the file open or a close was
    /// already answered.
    pub(crate) fn begin_retrying(&self) -> bool {
        let mut state = self.state();
        let is_owed = state.is_owed();
        state.begins_retrying(is_owed)
    }

    /// Whether the save task goes on. The decision and the task's end are one step under the state's mutex. So the last
    /// user to leave the file either finds a task that goes on, or starts another.
    pub(crate) fn goes_on_retrying(&self) -> bool {
        let mut state = self.state();
        let is_dirty = state.writer.as_ref().is_some_and(|writer| writer.is_dirty());
        let is_owed = state.is_owed();
        state.goes_on_retrying(is_dirty, is_owed)
    }

    /// Ends the save task if a program has the file open; false when none has.
    pub(crate) fn leaves_retrying_to_users(&self) -> bool {
        let mut state = self.state();
        let in_use = state.users > 0;
        state.retrying &= !in_use;
        in_use
    }

    /// Waits while the file is in use: until one user leaves it, and at most for `longest`.
    async fn wait_for_a_leave(&self, longest: Duration) {
        let left = self.left.notified();
        let in_use = self.state().users > 0;
        if in_use {
            let _ = tokio::time::timeout(longest, left).await;
        }
    }
}

impl Vfs {
    /// Saves files, many at a time, and returns those that failed, with the reason. For the end of the mount: from this
    /// call on, a new mount of the same source waits for this one.
    pub async fn save_all(&self, extent: SaveExtent) -> Vec<Unsaved> {
        if let Some(journal_policy) = &self.journal_policy {
            journal_policy.journal.note_end();
        }
        let save = async |file: Arc<File>| {
            let saved = match extent {
                SaveExtent::Promised => self.save_closed(&file).await,
                SaveExtent::All => self.save(&file).await,
            };
            let error = saved.err()?;
            let name = self.name_of(&file);
            Some(Unsaved { name, error, kept: file.journal_coverage() })
        };
        let saved = stream::iter(self.files.unsaved()).map(save).buffer_unordered(SAVES_MAX);
        saved.filter_map(std::future::ready).collect().await
    }

    /// How many files have changes that the store does not have.
    #[must_use]
    pub fn unsaved_count(&self) -> usize {
        self.files.unsaved().len()
    }

    /// Gives up the changes that the journal does not have, the uploads that were begun for them, and the copies that
    /// open handles of removed files read. For the end of the process.
    pub async fn abandon(&self) {
        let held: Vec<Held> = self.files.all().iter().filter_map(|file| file.state().held.take()).collect();
        stream::iter(held).for_each_concurrent(SAVES_MAX, async |held| self.namespace.release(&held).await).await;
        for file in self.files.unsaved() {
            // An entry of the journal, also one of an older state, may need the upload.
            let kept = file.state().kept.is_some();
            if let Some(writer) = file.writer().filter(|_| !kept) {
                writer.abandon().await;
            }
        }
    }

    /// Stores what was promised, for a caller that has no lock of the subtree yet.
    async fn save_closed(&self, file: &Arc<File>) -> Result<(), Error> {
        let _subtree = self.namespace.lock_shared(file.ino).await;
        self.save_promised(file).boxed().await
    }

    /// A commit for a caller that has no lock of the subtree yet.
    pub(super) async fn save(&self, file: &Arc<File>) -> Result<(), Error> {
        let _subtree = self.namespace.lock_shared(file.ino).await;
        // Boxed, because the compiler cannot follow the types of all requests below at once.
        self.commit(file).boxed().await
    }

    /// Starts the save task if the file needs one: a close was already answered, or no program has the file open.
    pub(super) fn save_owed(&self, file: &Arc<File>) {
        if !file.is_dirty() || !file.begin_retrying() {
            return;
        }
        let Some(vfs) = self.me.upgrade() else { return };
        let file = Arc::clone(file);
        tokio::spawn(async move {
            vfs.keep_saving(&file).await;
            vfs.files.forget(&file);
        });
    }

    /// Saves `file` again and again. Ends when nothing is left to save, or when the rest belongs to programs that have
    /// the file open and will close it.
    ///
    /// Ends as well when another writer has replaced the object, because that does not change back; and when the error
    /// is final. A store that answered with another encryption is not asked again without a new close.
    async fn keep_saving(&self, file: &Arc<File>) {
        let mut failures = u32::from(file.state().last_error.is_some());
        loop {
            // 1. Wait: after a failure for the pause, otherwise for programs that are about to close copies of a
            //    handle.
            if failures > 0 {
                tokio::time::sleep(SAVE_BACKOFF.pause(failures)).await;
            } else {
                file.wait_for_a_leave(IN_USE_PAUSE).await;
            }
            // 2. End when nothing is left, or a later close will save the rest.
            if !file.goes_on_retrying() {
                return;
            }
            // 3. Save, and decide from the outcome whether to try again.
            failures = match self.save_in_turn(file, failures).await {
                // What was changed meanwhile is next.
                Ok(()) => 0,
                Err(error) if error.is_lost_race() => {
                    if file.leaves_retrying_to_users() {
                        tracing::warn!(%error, "another writer was first; the next close of the file reports it");
                        return;
                    }
                    self.set_aside(file, &error);
                    break;
                }
                Err(error) if error.is_final() => {
                    tracing::error!(
                        %error, remedy = error.remedy(),
                        "the changes of a file cannot be saved; they are kept, \
                         and the next close of the file tries again"
                    );
                    break;
                }
                Err(error) => {
                    tracing::warn!(
                        %error, remedy = error.remedy(),
                        "the changes of a file are not saved yet"
                    );
                    failures.saturating_add(1)
                }
            };
        }
        file.state().retrying = false;
    }

    /// Saves one of many files, when a slot is free.
    async fn save_in_turn(&self, file: &Arc<File>, failures: u32) -> Result<(), Error> {
        let which = if failures == 0 { Try::First } else { Try::Again };
        self.saves.run(which, self.save_closed(file)).await
    }

    /// Gives the name to the object of the other writer. The changes that lost stay under an inode without a name until
    /// the mount ends.
    fn set_aside(&self, file: &Arc<File>, error: &Error) {
        let object = self.namespace.key(file.ino).map(|key| key.to_string());
        let fate = match file.journal_coverage() {
            JournalCoverage::All => "kept in the journal, where dssefs recover lists and exports them",
            JournalCoverage::Older => {
                "in memory until the mount ends; the journal has an older state, which dssefs recover lists and exports"
            }
            JournalCoverage::Nothing => {
                "in memory until the mount ends, out of reach of any name; --spill-keys kms keeps such changes"
            }
        };
        tracing::error!(
            object, %error,
            "another writer was first: its object stays, and the changes of this mount are {fate}"
        );
        // Pinned until the process ends, so that the name gets another inode. A node that is gone needs no pin.
        let _ = self.namespace.pin_open(file.ino);
        self.namespace.discard(file.ino);
    }

    /// Tries every closed file once more, in a task of its own. It also tries those that the mount had given up until
    /// their next close: the owner asks for this after a repair.
    ///
    /// # Errors
    /// `ino` is not the root.
    pub(super) fn retry_unsaved(&self, ino: Ino) -> Result<(), Error> {
        let Some(vfs) = self.me.upgrade().filter(|_| ino == Ino::ROOT) else { return Err(Error::NoAttribute) };
        vfs.tries.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let closed = vfs.files.unsaved().into_iter().filter(|file| file.state().users == 0);
            let attempt = async |file: Arc<File>| {
                if let Err(error) = vfs.save_closed(&file).await {
                    tracing::warn!(
                        object = vfs.name_of(&file), %error, remedy = error.remedy(),
                        "the changes of a closed file are not saved yet"
                    );
                }
                vfs.files.forget(&file);
            };
            stream::iter(closed).for_each_concurrent(SAVES_MAX, attempt).await;
            vfs.tries.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The task once found the file in use and ended. The last close came just before that, took the task for alive,
    /// and the file was never saved.
    #[test]
    fn the_last_close_finds_a_save_task_or_starts_one() {
        let file = File::empty(Ino::ROOT);
        assert!(file.begin_retrying());
        file.state().users = 1;
        assert!(!file.begin_retrying(), "it is in use");
        file.state().users = 0;
        assert!(!file.begin_retrying(), "a task is at work");
        assert!(file.state().goes_on_retrying(true, false), "the task goes on with what was changed meanwhile");
        file.state().users = 1;
        assert!(!file.state().goes_on_retrying(true, false), "the next close saves the rest");
        file.state().users = 0;
        assert!(file.begin_retrying(), "that close starts another task");
        assert!(!file.state().goes_on_retrying(false, false), "nothing is left to do");
        assert!(file.begin_retrying());
        file.state().unlinked = true;
        assert!(!file.state().goes_on_retrying(true, false), "the file was removed");
        assert!(!file.begin_retrying());
    }

    #[test]
    fn an_answered_close_is_saved_while_others_have_the_file_open() {
        let file = File::empty(Ino::ROOT);
        file.state().users = 1;
        assert!(!file.state().begins_retrying(false), "no close was answered");
        assert!(file.state().begins_retrying(true));
        assert!(!file.state().begins_retrying(true), "one task is enough");
        assert!(file.state().goes_on_retrying(true, true));
        assert!(!file.state().goes_on_retrying(true, false), "the next close saves what was written since");
        assert!(file.state().begins_retrying(true));
        assert!(file.leaves_retrying_to_users());
        file.state().users = 0;
        assert!(file.begin_retrying());
        assert!(!file.leaves_retrying_to_users(), "no program has the file open");
        assert!(!file.begin_retrying());
    }
}
