//! Commits that may have succeeded although they failed: the next one finds out, so that nobody takes the object of
//! this mount for another writer's.

use std::sync::Arc;

use dssefs_s3::object::Key;
use dssefs_s3::s3::{Aftermath, Attempt, Kind, Stored, Upload};

use super::early_upload::EarlyUpload;
use super::writer::abort;
use super::{Base, CommitTarget, Error, Writer};

impl Writer {
    /// Notes what a commit has left in the store although it failed.
    pub(super) fn note_aftermath(&self, error: &Error, size: u64) {
        let Error::Store(error) = error else { return };
        let Some(key) = &error.key else { return };
        match error.aftermath() {
            Aftermath::Nothing => {}
            Aftermath::Doubt(attempt) => self.state().note_ambiguous_commit(attempt),
            Aftermath::Deleted => self.note_deletion(key),
            Aftermath::Stays(version) => {
                self.rebase_onto_noncompliant(Base { key: key.clone(), version: version.clone(), size });
            }
        }
    }

    /// Notes that the object under the changes may have been replaced by this mount's doing, by one with the same
    /// bytes.
    pub fn note_ambiguous_copy(&self, attempt: &Arc<Attempt>) {
        self.state().note_ambiguous_copy(attempt);
    }

    /// Looks for what earlier commits may have made. The one that is found is what the file stands on from now on.
    ///
    /// # Errors
    /// The store cannot be asked. Nobody knows then who has made what is there, and nothing is to be decided by it.
    pub async fn resolve_ambiguous_commits(&self) -> Result<(), Error> {
        // The last one had the best reasons to succeed.
        let attempts: Vec<_> = self.state().ambiguous.iter().rev().map(|commit| Arc::clone(&commit.attempt)).collect();
        if attempts.is_empty() || !matches!(self.destination.commit_target(), CommitTarget::Object(_)) {
            return Ok(());
        }
        for attempt in attempts {
            match self.engine.gateway.find(&attempt).await {
                Ok(None) => {}
                Ok(Some(stored)) => {
                    self.take_up(&attempt, stored.into_inner()).await;
                    return Ok(());
                }
                // Whoever replaces anything needs not know what, and may have no leave to.
                Err(error) if !self.engine.settings.conditional && matches!(error.kind, Kind::AccessDenied { .. }) => {}
                Err(error) => {
                    let error = Error::from(error);
                    let is_known = self.state().resume_mark(&attempt);
                    if is_known {
                        self.note_aftermath(&error, attempt.size);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn take_up(&self, attempt: &Arc<Attempt>, stored: Stored) {
        let object = &attempt.object;
        tracing::info!(key = %object.key, "the answer to an earlier commit was lost, and its object is there as it was sent");
        let version = stored.version.clone();
        let base = Base { key: object.key.clone(), version, size: attempt.size };
        let completed = {
            let mut state = self.state();
            if state.early_upload.as_ref().is_some_and(|early_upload| !is_of(early_upload, attempt)) {
                // Parts of another upload may be all that there is of what came later.
                state.replaced_by(base);
                return;
            }
            // With what was written while the store was asked.
            if !state.resume_mark(attempt) {
                return;
            }
            let (changes, early_upload) = (state.mark.changes, state.early_upload.take());
            self.rebase_onto(&mut state, base, changes);
            early_upload
        };
        if let Some(early_upload) = completed {
            // It is gone, and need not be ended any more by whoever comes after a crash.
            abort(early_upload.upload).await;
        }
        self.destination.committed(&object.key, super::commit::head_of(object, attempt.size, stored));
    }

    /// The object that a commit has made stays although it is not encrypted as was asked: the next one replaces it.
    fn rebase_onto_noncompliant(&self, stored: Base) {
        let mut state = self.state();
        let has_all =
            state.early_upload.as_ref().is_none_or(|early_upload| early_upload.only_sent(&self.buffer).is_empty());
        if has_all {
            state.early_upload = None;
            state.replaced_by(stored);
        } else {
            // Nobody but this object has the bytes of some parts.
            let changes = state.mark.changes;
            self.rebase_onto(&mut state, stored, changes);
            state.changes += 1;
        }
    }

    /// The object was deleted again, and with it went what it had replaced.
    fn note_deletion(&self, key: &Key) {
        let lost = self.state().deleted(key, &self.buffer.present());
        if !lost.is_empty() {
            let lost = Error::PartsLost { key: key.to_string(), lost };
            tracing::error!(%lost, "bytes of the object that was replaced are gone with it");
        }
    }
}

fn is_of(early_upload: &EarlyUpload, attempt: &Attempt) -> bool {
    attempt.upload.is_some() && early_upload.upload.get().map(Upload::id) == attempt.upload.as_deref()
}
