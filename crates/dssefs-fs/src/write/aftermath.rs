//! What follows a failed write: what it has left in the store, and what the file stands on from now on.
//!
//! 1. A commit fails. `after_failure` asks the error what the store may have now, and notes it in the bookkeeping.
//! 2. The answer was lost: the commit is an [`AmbiguousCommit`]. The next commit asks the store for its object first
//!    (`resolve_ambiguous_commits`), so that this mount does not take its own object for another writer's.
//! 3. The object is there, and is not encrypted as was asked: the next commit replaces it.
//! 4. The object was deleted again: bytes of the object that it had replaced are read from this host, or are lost and
//!    named.
//! 5. An early upload stays while parts of the file are in it alone (`keep_early_upload`).
//!
//! What a failure means for the next try is [`super::Disposition`].

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::spill::RangeSet;
use dssefs_s3::object::Key;
use dssefs_s3::s3::{AmbiguousWrite, FailedWrite, Kind, Stored, Upload};

use super::commit::{CommitSnapshot, head_of};
use super::early_upload::EarlyUpload;
use super::state::{AMBIGUOUS_COMMITS_MAX, AmbiguousCommit, CommitMark, State};
use super::writer::{abort, abort_upload};
use super::{Base, CommitTarget, Error, Target, Writer};

impl Writer {
    /// Notes what a failed commit has left, and returns the error that the caller sees.
    pub(super) async fn after_failure(&self, error: Error, commit: &CommitSnapshot, target: &Target) -> Error {
        // 1. What the store may have now.
        self.note_aftermath(&error, commit.size);
        // 2. The room of bytes that only the commit needed. Not earlier: when the object is gone, what was read of it
        //    is the only copy, and step 1 makes it part of the changes.
        self.release(&(0..commit.size));
        // 3. A lost source of a copy, told from a lost race.
        self.explained(error, commit, target).await
    }

    /// Notes what a commit has left in the store although it failed.
    fn note_aftermath(&self, error: &Error, size: u64) {
        let Error::Store(error) = error else { return };
        let Some(key) = &error.key else { return };
        match error.failed_write() {
            FailedWrite::Nothing | FailedWrite::Overtaken | FailedWrite::PerhapsDeleted => {}
            FailedWrite::Unknown(attempt) => self.state().note_ambiguous_commit(attempt),
            FailedWrite::Deleted => self.note_deletion(key),
            FailedWrite::LeftBehind(version) => {
                self.rebase_onto_noncompliant(Base { key: key.clone(), version: version.clone(), size });
            }
        }
    }

    /// Notes that this mount may have replaced the object under the changes by one with the same bytes.
    pub fn note_ambiguous_copy(&self, attempt: &Arc<AmbiguousWrite>) {
        self.state().note_ambiguous_copy(attempt);
    }

    /// Waits for the commit under way, and resolves those whose answers were lost: then the base is what this mount has
    /// made last.
    ///
    /// # Errors
    /// As [`Writer::resolve_ambiguous_commits`].
    pub async fn resolve_after_commits(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.resolve_ambiguous_commits().await
    }

    /// Asks the store for what earlier commits may have made. An object that is found becomes the base of the file.
    ///
    /// # Errors
    /// The store cannot be asked. Until it can be, it is unknown who has made the object that is there.
    pub async fn resolve_ambiguous_commits(&self) -> Result<(), Error> {
        // The newest commit first: it is the most likely one to have succeeded.
        let attempts: Vec<_> = self.state().ambiguous.iter().rev().map(|commit| Arc::clone(&commit.attempt)).collect();
        if attempts.is_empty() || !matches!(self.destination.commit_target(), CommitTarget::Object(_)) {
            return Ok(());
        }
        for attempt in attempts {
            match self.engine.gateway.find(&attempt).await {
                Ok(None) => {}
                Ok(Some(stored)) => {
                    self.adopt_resolved(&attempt, stored.into_inner()).await;
                    return Ok(());
                }
                // A mount that replaces any object need not know this one, and may lack the permission to ask.
                Err(error)
                    if self.engine.settings.last_writer_wins.is_some()
                        && matches!(error.kind, Kind::AccessDenied { .. }) => {}
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

    /// Makes the object of an ambiguous commit, which the store has, the base of the file.
    async fn adopt_resolved(&self, attempt: &Arc<AmbiguousWrite>, stored: Stored) {
        let object = &attempt.object;
        tracing::info!(
            key = %object.key,
            "the answer to an earlier commit was lost; its object is in the store as it was sent"
        );
        let version = stored.version.clone();
        let base = Base { key: object.key.clone(), version, size: attempt.size };
        let completed = {
            let mut state = self.state();
            if state.early_upload.as_ref().is_some_and(|early_upload| !is_of(early_upload, attempt)) {
                // The parts of another upload may have the only copy of what the program wrote later.
                state.replaced_by(base);
                return;
            }
            // The mark also has what the program wrote while the store was asked.
            if !state.resume_mark(attempt) {
                return;
            }
            let (changes, early_upload) = (state.mark.changes, state.early_upload.take());
            self.rebase_onto(&mut state, base, changes);
            early_upload
        };
        if let Some(early_upload) = completed {
            // The store no longer has it. The abort takes it off the list of uploads that the next start aborts.
            abort(early_upload.upload).await;
        }
        self.destination.committed(&object.key, head_of(object, attempt.size, stored));
    }

    /// The object of a failed commit stays although it is not encrypted as was asked: the next commit replaces it.
    fn rebase_onto_noncompliant(&self, stored: Base) {
        let mut state = self.state();
        let has_all =
            state.early_upload.as_ref().is_none_or(|early_upload| early_upload.only_sent(&self.buffer).is_empty());
        if has_all {
            state.early_upload = None;
            state.replaced_by(stored);
        } else {
            // This object has the only copy of some parts.
            let changes = state.mark.changes;
            // Its content is stored, and has to be stored once more.
            state.changes += 1;
            self.rebase_onto(&mut state, stored, changes);
        }
    }

    /// The object was deleted again, and with it the bytes of the object that it had replaced.
    fn note_deletion(&self, key: &Key) {
        let lost = self.state().deleted(key, &self.buffer.present());
        if !lost.is_empty() {
            let lost = Error::PartsLost { key: key.to_string(), lost };
            tracing::error!(%lost, "the object was deleted again, and bytes of the one that it had replaced are lost");
        }
    }

    /// After a failed commit, decides what becomes of the early upload, and returns the error that the caller sees.
    pub(super) async fn keep_early_upload(&self, error: Error, upload: Option<Upload>) -> Error {
        let only_sent = |early_upload: &EarlyUpload| !early_upload.only_sent(&self.buffer).is_empty();
        let is_needed = self.state().early_upload.as_ref().is_some_and(only_sent);
        // 1. The store's answers were not as asked, and this host has all bytes: abort the upload.
        let upload = match upload {
            Some(upload) if error.is_noncompliant() && !is_needed => {
                abort_upload(upload).await;
                None
            }
            other => other,
        };
        let mut state = self.state();
        let Some(early_upload) = &mut state.early_upload else { return error };
        // 2. The object is there, though not as asked: `note_aftermath` decides.
        if error.leaves_object() {
            return error;
        }
        // 3. The upload lives: it stays, with all parts that are whole.
        if let Some(upload) = upload {
            early_upload.upload = Arc::new(OnceCell::from(upload));
            return error;
        }
        // 4. The upload is gone: the parts that it alone had are lost, and named.
        early_upload.keep_all_whole(&self.buffer);
        let lost = early_upload.only_sent(&self.buffer);
        let key = early_upload.target.object.key.to_string();
        state.early_upload = None;
        if lost.is_empty() {
            return error;
        }
        tracing::error!(%key, %error, "an upload is gone, with parts that this host has no copy of");
        if error.is_noncompliant() { error } else { Error::PartsLost { key, lost } }
    }

    /// Tells the lost source of a copy from a lost race for the file's own name: the store has one answer for both.
    async fn explained(&self, error: Error, commit: &CommitSnapshot, target: &Target) -> Error {
        let foreign = |base: &&Base| base.key != target.object.key && base.version.id.is_none();
        match (&error, commit.base.as_ref().filter(foreign)) {
            (refused, Some(base)) if refused.disposition().is_of_a_version() && self.is_gone(base).await => {
                Error::SourceGone { key: target.object.key.to_string(), source_key: base.key.to_string() }
            }
            _ => error,
        }
    }

    /// Whether the store no longer has `base` under its key.
    pub(super) async fn is_gone(&self, base: &Base) -> bool {
        match self.engine.gateway.head(&base.key).await {
            Ok(head) => head.meta.version.etag != base.version.etag,
            Err(error) => error.kind == Kind::NotFound,
        }
    }
}

fn is_of(early_upload: &EarlyUpload, attempt: &AmbiguousWrite) -> bool {
    attempt.upload.is_some() && early_upload.upload.get().map(Upload::id) == attempt.upload.as_deref()
}

/// The bookkeeping.
impl State {
    /// The answer of the commit under way was lost: it may have made its object.
    fn note_ambiguous_commit(&mut self, attempt: &Arc<AmbiguousWrite>) {
        // The same attempt again is no other commit.
        let is_same = |commit: &AmbiguousCommit| commit.attempt.object.commit == attempt.object.commit;
        if self.ambiguous.iter().any(is_same) {
            return;
        }
        self.push_ambiguous(attempt, self.mark.clone());
    }

    /// The object under the changes may have been replaced by a copy of itself. The copy has none of the changes.
    fn note_ambiguous_copy(&mut self, attempt: &Arc<AmbiguousWrite>) {
        let mark = CommitMark { changes: self.committed, since: self.written.clone(), low_water: self.base_len };
        self.push_ambiguous(attempt, mark);
    }

    fn push_ambiguous(&mut self, attempt: &Arc<AmbiguousWrite>, mark: CommitMark) {
        // Its object could not be recognised.
        if attempt.object.commit.is_none() {
            return;
        }
        if self.ambiguous.len() == AMBIGUOUS_COMMITS_MAX {
            self.ambiguous.remove(0);
        }
        self.ambiguous.push(AmbiguousCommit { attempt: Arc::clone(attempt), mark });
    }

    /// Takes the mark of an ambiguous commit for that of the last one. False when the commit is no longer ambiguous.
    fn resume_mark(&mut self, attempt: &Arc<AmbiguousWrite>) -> bool {
        let commit = self.ambiguous.iter().find(|commit| Arc::ptr_eq(&commit.attempt, attempt));
        match commit {
            Some(commit) => {
                self.mark = commit.mark.clone();
                true
            }
            None => false,
        }
    }

    /// This mount has replaced the object under the changes by `stored`. What the file still has of its bytes is the
    /// same in both.
    fn replaced_by(&mut self, stored: Base) {
        self.replaces = Some(stored.version.etag.clone());
        if self.base.as_ref().is_some_and(|base| base.key == stored.key) {
            self.base = Some(stored);
        }
        self.ambiguous.clear();
    }

    /// This mount has deleted the object `key`. Bytes of it that the file needs have to be `here`; returns those that
    /// are not, which are lost.
    fn deleted(&mut self, key: &Key, here: &RangeSet) -> RangeSet {
        self.replaces = None;
        self.ambiguous.clear();
        if !self.base.as_ref().is_some_and(|base| base.key == *key && base.version.id.is_none()) {
            return RangeSet::default();
        }
        let taken = 0..self.base_len;
        let lost = here.gaps(taken.clone()).filter(|gap| self.written.intersection(gap.clone()).next().is_none());
        let lost = lost.collect();
        self.written.insert(taken);
        (self.base, self.base_len) = (None, 0);
        self.changes += 1;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Settled;
    use super::*;
    use dssefs_s3::object::{CommitId, ETag, Version};
    use dssefs_s3::s3::{NewObject, Source};

    fn base(size: u64) -> Base {
        Source { key: Key::new("k").unwrap(), version: Version { etag: ETag::new("e"), id: None }, size }
    }

    fn numbered(n: u64) -> impl FnOnce() -> Option<CommitId> {
        move || CommitId::new(&format!("{n:032x}"))
    }

    /// A commit of the state as it is, whose answer is lost.
    fn lose_an_answer(state: &mut State) {
        state.begin_commit();
        let commit = state.commit_id(state.changes, numbered(state.changes));
        let object = NewObject { commit, ..NewObject::at(Key::new("k").unwrap()) };
        let attempt = AmbiguousWrite { object, size: state.size, upload: None };
        state.note_ambiguous_commit(&Arc::new(attempt));
    }

    #[test]
    fn a_resolved_commit_is_the_base_and_later_changes_remain() {
        let mut state = State::new(Some(base(100)), 100, false);
        state.changed(&(10..20));
        lose_an_answer(&mut state);
        lose_an_answer(&mut state);
        assert_eq!(state.ambiguous.len(), 1, "the same once more");
        state.changed(&(50..60));
        state.resized(80);
        lose_an_answer(&mut state);
        state.changed(&(90..95));
        let first = Arc::clone(&state.ambiguous[0].attempt);
        assert!(state.resume_mark(&first));
        let ours = Source { version: Version { etag: ETag::new("ours"), id: None }, ..base(100) };
        assert_eq!(state.settle(ours, 1), Settled::Changed);
        assert_eq!((state.size, state.base_len, state.replaces.clone()), (95, 80, Some(ETag::new("ours"))));
        assert!(state.written.iter().eq([50..60, 90..95]) && state.ambiguous.is_empty());
    }

    #[test]
    fn a_copy_of_the_object_onto_itself_has_none_of_the_changes() {
        let mut state = State::new(Some(base(100)), 100, false);
        state.changed(&(10..20));
        let object = NewObject { commit: numbered(7)(), ..NewObject::at(Key::new("k").unwrap()) };
        let attempt = Arc::new(AmbiguousWrite { object, size: 100, upload: None });
        state.note_ambiguous_copy(&attempt);
        state.changed(&(50..60));
        assert!(state.resume_mark(&attempt));
        let settled = state.settle(base(100), state.mark.changes);
        assert_eq!(settled, Settled::Changed, "they are still to be stored");
        assert!(state.written.iter().eq([10..20, 50..60]) && state.base_len == 100);
    }

    #[test]
    fn ambiguous_commits_are_remembered_up_to_the_limit() {
        let mut state = State::new(None, 0, true);
        for n in 0..AMBIGUOUS_COMMITS_MAX as u64 + 3 {
            state.changed(&(n..n + 1));
            lose_an_answer(&mut state);
        }
        assert_eq!(state.ambiguous.len(), AMBIGUOUS_COMMITS_MAX);
        assert_eq!(state.ambiguous.last().unwrap().attempt.size, AMBIGUOUS_COMMITS_MAX as u64 + 3);
    }

    #[test]
    fn a_commit_without_an_id_is_never_taken_for_ours() {
        let mut state = State::new(None, 0, true);
        let object = NewObject::at(Key::new("k").unwrap());
        state.note_ambiguous_commit(&Arc::new(AmbiguousWrite { object, size: 0, upload: None }));
        assert!(state.ambiguous.is_empty());
    }

    #[test]
    fn a_file_with_an_ambiguous_commit_adopts_no_bytes() {
        let mut state = State::new(None, 0, true);
        lose_an_answer(&mut state);
        assert!(!state.adopt(&base(100), &(0..60)));
    }

    #[test]
    fn a_deleted_object_leaves_own_bytes_or_names_the_lost() {
        let changed = || {
            let mut state = State::new(Some(base(100)), 100, false);
            state.changed(&(10..20));
            state
        };
        let all: RangeSet = std::iter::once(0..100).collect();
        let key = Key::new("k").unwrap();
        assert!(changed().deleted(&key, &all).is_empty());
        let mut state = changed();
        let some: RangeSet = [0..50, 60..100].into_iter().collect();
        assert!(state.deleted(&key, &some).iter().eq(std::iter::once(50..60)));
        assert_eq!((state.base.clone(), state.base_len, state.replaces.clone()), (None, 0, None));
        assert!(state.written.contains(0..100), "what is lost is no hole");
    }
}
