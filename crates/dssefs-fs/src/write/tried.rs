//! Commits that may have succeeded although they failed: the next one finds out, so that nobody takes the object of
//! this mount for another writer's.

use std::sync::Arc;

use dssefs_s3::object::Key;
use dssefs_s3::s3::{AmbiguousWrite, FailedWrite, Kind, Stored, Upload};

use super::stream::Stream;
use super::writer::abort;
use super::{Aim, Base, Error, Writer};

impl Writer {
    /// Notes what a commit has left in the store although it failed.
    pub(super) fn note_aftermath(&self, error: &Error, size: u64) {
        let Error::Store(error) = error else { return };
        let Some(key) = &error.key else { return };
        match error.failed_write() {
            FailedWrite::Nothing => {}
            FailedWrite::Unknown(attempt) => self.state().note_doubt(attempt),
            FailedWrite::Deleted => self.note_deletion(key),
            FailedWrite::LeftBehind(version) => {
                self.stand_on_wrong(Base { key: key.clone(), version: version.clone(), size });
            }
        }
    }

    /// Notes that the object under the changes may have been replaced by this mount's doing, by one with the same
    /// bytes.
    pub fn note_tried(&self, attempt: &Arc<AmbiguousWrite>) {
        self.state().note_copy_in_doubt(attempt);
    }

    /// Looks for what earlier commits may have made. The one that is found is what the file stands on from now on.
    ///
    /// # Errors
    /// The store cannot be asked. Nobody knows then who has made what is there, and nothing is to be decided by it.
    pub async fn find_tried(&self) -> Result<(), Error> {
        // The last one had the best reasons to succeed.
        let attempts: Vec<_> = self.state().tried.iter().rev().map(|tried| Arc::clone(&tried.attempt)).collect();
        if attempts.is_empty() || !matches!(self.destination.aim(), Aim::Object(_)) {
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
                    let is_known = self.state().resume_plan(&attempt);
                    if is_known {
                        self.note_aftermath(&error, attempt.size);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn take_up(&self, attempt: &Arc<AmbiguousWrite>, stored: Stored) {
        let object = &attempt.object;
        tracing::info!(key = %object.key, "the answer to an earlier commit was lost, and its object is there as it was sent");
        let version = stored.version.clone();
        let base = Base { key: object.key.clone(), version, size: attempt.size };
        let completed = {
            let mut state = self.state();
            if state.stream.as_ref().is_some_and(|stream| !is_of(stream, attempt)) {
                // Parts of another upload may be all that there is of what came later.
                state.replaced_by(base);
                return;
            }
            // With what was written while the store was asked.
            if !state.resume_plan(attempt) {
                return;
            }
            let (changes, stream) = (state.plan.changes, state.stream.take());
            self.stand_on(&mut state, base, changes);
            stream
        };
        if let Some(stream) = completed {
            // It is gone, and need not be ended any more by whoever comes after a crash.
            abort(stream.upload).await;
        }
        self.destination.committed(&object.key, super::commit::head_of(object, attempt.size, stored));
    }

    /// The object that a commit has made stays although it is not encrypted as was asked: the next one replaces it.
    fn stand_on_wrong(&self, stored: Base) {
        let mut state = self.state();
        let has_all = state.stream.as_ref().is_none_or(|stream| stream.only_sent(&self.buffer).is_empty());
        if has_all {
            state.stream = None;
            state.replaced_by(stored);
        } else {
            // Nobody but this object has the bytes of some parts.
            let changes = state.plan.changes;
            self.stand_on(&mut state, stored, changes);
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

fn is_of(stream: &Stream, attempt: &AmbiguousWrite) -> bool {
    attempt.upload.is_some() && stream.upload.get().map(Upload::id) == attempt.upload.as_deref()
}
