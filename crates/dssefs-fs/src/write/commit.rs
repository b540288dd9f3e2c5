//! Making one object of a file's changes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::OnceCell;

use dssefs_s3::object::{ByteRange, Crc64, Key, ObjectMeta};
use dssefs_s3::s3::{
    Condition, ConflictRetries, Head, Kind, NewObject, OtherCopy, Part, Payload, Source, Stored, Unfinished, Upload,
};

use super::early_upload::{EarlyUpload, Sent};
use super::parts::{AppendLayout, Planned, SINGLE_PUT_BYTES_MAX, plan};
use super::payload::SnapshotPayload;
use super::state::{Settled, State};
use super::writer::{abort, abort_upload};
use super::{Base, CommitTarget, Disposition, Engine, Error, Target, Writer};

/// What the file was when the commit began.
#[derive(Clone)]
pub(super) struct CommitSnapshot {
    changes: u64,
    pub(super) condition: Condition,
    pub(super) size: u64,
    pub(super) base: Option<Base>,
    pub(super) base_len: u64,
}

/// An upload that was begun while the program wrote.
struct Begun {
    upload: Upload,
    target: Target,
    layout: AppendLayout,
    sent: BTreeMap<u32, Sent>,
}

/// Parts on their way to an upload: `sent` ones are there already.
struct Assembly {
    parts: Vec<(u32, Planned)>,
    sent: BTreeMap<u32, Sent>,
}

impl Writer {
    /// Promises the file as it is now, makes the store's object of it, and returns once the store has proved it. Sends
    /// nothing when there is nothing to make safe. Commits of one file take turns.
    ///
    /// # Errors
    /// The store refused or did not answer, or the bytes could not be read. All changes are still there, and the next
    /// commit tries again.
    pub async fn commit(self: &Arc<Self>) -> Result<(), Error> {
        // One commit at a time. Writes that wait for room hear of its end.
        let _turn = self.turn.lock().await;
        let _under_way = UnderWay::begin(&self.engine);
        self.promise().await?;
        self.store_promise().await
    }

    /// The same without a new promise: stores what was promised last, if the store does not have it.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub async fn save(self: &Arc<Self>) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let _under_way = UnderWay::begin(&self.engine);
        self.join().await?;
        if self.promised().is_some() { self.store_promise().await } else { self.refuse_if_abandoned() }
    }

    /// Promises the file as it is now, and stores nothing: before an object is replaced, the caller of
    /// [`Writer::commit`] keeps what others need of it. False when an earlier promise has to be stored first.
    ///
    /// # Errors
    /// There is no room.
    pub async fn promise_only(self: &Arc<Self>) -> Result<bool, Error> {
        let _turn = self.turn.lock().await;
        if !self.begin_promise() {
            return Ok(false);
        }
        self.join().await.map(|()| true)
    }

    /// Makes an object of what is promised. The caller has the turn.
    pub(super) async fn store_promise(self: &Arc<Self>) -> Result<(), Error> {
        self.parts_settled().await;
        // Boxed, because a promise may have to store the one before it.
        Box::pin(self.try_until_decided()).await
    }

    async fn try_until_decided(self: &Arc<Self>) -> Result<(), Error> {
        let (mut looked_again, mut conflicts) = (false, ConflictRetries::default());
        loop {
            let Err(error) = self.try_once().await else { return Ok(()) };
            let disposition = error.disposition();
            if disposition == Disposition::Conflict && conflicts.again(Kind::Conflict).await {
                continue;
            }
            if disposition.may_be_our_own() && !looked_again && !self.state().ambiguous.is_empty() {
                // An earlier commit, long under way, may have got there since it was looked for.
                looked_again = true;
            } else {
                return Err(error);
            }
        }
    }

    async fn try_once(self: &Arc<Self>) -> Result<(), Error> {
        // 1. Learn what earlier commits have made whose answers were lost.
        self.resolve_ambiguous_commits().await?;
        // 2. Fix what is to be stored, and where; send it.
        match (self.commit_snapshot(), self.destination.commit_target()) {
            (_, CommitTarget::Removed) => Ok(()),
            (None, _) => self.refuse_if_abandoned(),
            (Some(_), CommitTarget::Lost) => Err(Error::NameLost),
            (Some(commit), CommitTarget::Object(target)) => match self.carry_out(&commit, &target).await {
                // 3. Note what a failure has left: see aftermath.rs.
                Err(error) => Err(self.after_failure(error, &commit, &target).await),
                done => done,
            },
        }
    }

    /// The state to make safe; none when it is safe.
    fn commit_snapshot(&self) -> Option<CommitSnapshot> {
        let mut state = self.state();
        state.begin_commit();
        let condition = state.replaces.clone().map_or(Condition::Absent, Condition::Matches);
        let condition = condition.unless(self.engine.settings.last_writer_wins);
        state.is_dirty().then(|| CommitSnapshot {
            changes: state.changes,
            condition,
            size: state.size,
            base: state.base.clone(),
            base_len: state.base_len,
        })
    }

    async fn carry_out(self: &Arc<Self>, commit: &CommitSnapshot, target: &Target) -> Result<(), Error> {
        // 1. A part that was sent ahead had a wrong answer: the commit fails with it.
        if let Some(error) = self.refused_part() {
            return Err(error);
        }
        // 2. Complete the early upload, if there is one that fits.
        if let Some(begun) = self.early_upload_to_finish(commit, target) {
            let begun_for = begun.target.clone();
            match self.finish_early_upload(commit, begun).await {
                Ok(stored) if begun_for.is_good_enough_for(target) => {
                    self.settle(commit, &begun_for.object, stored);
                    return Ok(());
                }
                Ok(stored) => {
                    // The content is safe; the attributes stay a change until they are, too.
                    self.touch();
                    self.settle(commit, &begun_for.object, stored);
                    return self.correct_metadata(commit, target, &begun_for.object).await;
                }
                // Another process aborted the upload, and this host still has all of its bytes.
                Err(Error::Store(error)) if error.kind == Kind::NoSuchUpload => {}
                Err(error) => return Err(error),
            }
        }
        // 3. Otherwise store the file by a request or an upload of this commit.
        self.drop_early_upload().await?;
        let stored = self.store_whole(commit, target).await?;
        self.settle(commit, &target.object, stored);
        Ok(())
    }

    async fn store_whole(self: &Arc<Self>, commit: &CommitSnapshot, target: &Target) -> Result<Stored, Error> {
        let id = self.state().commit_id(commit.changes, || self.engine.gateway.commit_id());
        let object = NewObject { commit: id, ..target.object.clone() };
        let target = &Target { object, exact: target.exact };
        if let Some(base) = self.copied_whole(commit) {
            self.copy_whole(base, commit, target).await
        } else if commit.size <= SINGLE_PUT_BYTES_MAX {
            self.put_whole(commit, target).await
        } else {
            self.put_parts(commit, target).await
        }
    }

    /// Records the new object, and drops the buffer with its keys when nothing changed meanwhile; otherwise all of it
    /// that the object has.
    fn settle(&self, commit: &CommitSnapshot, object: &NewObject, stored: Stored) {
        let version = stored.version.clone();
        let source = Source { key: object.key.clone(), version, size: commit.size };
        self.rebase_onto(&mut self.state(), source, commit.changes);
        self.destination.committed(&object.key, head_of(object, commit.size, stored));
    }

    pub(super) fn rebase_onto(&self, state: &mut State, stored: Base, changes: u64) {
        state.early_upload = None;
        match state.settle(stored, changes) {
            Settled::Clean => self.buffer.clear(),
            Settled::Since => self.buffer.take_over(&self.since),
            Settled::Changed => state.written.gaps(0..u64::MAX).for_each(|stored| self.buffer.discard(stored)),
        }
    }

    async fn put_whole(&self, commit: &CommitSnapshot, target: &Target) -> Result<Stored, Error> {
        let _filling = self.fill(&(0..commit.size), commit.base.as_ref(), commit.base_len).await?;
        let snapshot = self.with_room(|| self.buffer.snapshot(0..commit.size)).await?;
        let payload: Arc<dyn Payload> = Arc::new(SnapshotPayload::new(Arc::new(snapshot)));
        Ok(self.engine.gateway.put(&target.object, payload, &commit.condition).await?.into_inner())
    }

    /// The early upload, if this commit is to complete it. `keep_early_upload` puts it back after a failure.
    fn early_upload_to_finish(&self, commit: &CommitSnapshot, target: &Target) -> Option<Begun> {
        let mut state = self.state();
        let early_upload = state.early_upload.as_mut()?;
        let same_key = early_upload.target.object.key == target.object.key;
        let refused = early_upload.failure.as_ref().is_some_and(Error::is_noncompliant);
        let worth_it =
            commit.size > SINGLE_PUT_BYTES_MAX || early_upload.evicted(&(0..u64::MAX), &self.buffer.present());
        let fits = commit.size <= early_upload.layout.end();
        if refused || !(same_key && worth_it && fits && early_upload.upload.initialized()) {
            return None;
        }
        let upload = Arc::into_inner(std::mem::take(&mut early_upload.upload)).and_then(OnceCell::into_inner);
        let upload = upload.expect("it is initialised, and the tasks that shared it have settled");
        let layout = early_upload.layout;
        Some(Begun { upload, target: early_upload.target.clone(), layout, sent: early_upload.sent_of(commit.size) })
    }

    /// The failure of a part whose answer was not as asked, reported once. An upload that has the only copy of some
    /// parts goes on, and the next commit sends this part again. `drop_early_upload` aborts any other upload.
    fn refused_part(&self) -> Option<Error> {
        let mut state = self.state();
        let early_upload = state.early_upload.as_mut()?;
        let alone = early_upload.evicted(&(0..u64::MAX), &self.buffer.present());
        if alone { early_upload.failure.take_if(|error| error.is_noncompliant()) } else { None }
    }

    /// Aborts an upload that is of no use for this commit. When the answers to it were not as asked, the commit fails.
    pub(super) async fn drop_early_upload(&self) -> Result<(), Error> {
        let Some(mut early_upload) = self.state().early_upload.take() else { return Ok(()) };
        early_upload.keep_all_whole(&self.buffer);
        let lost = early_upload.only_sent(&self.buffer);
        let failure = early_upload.failure.take().filter(Error::is_noncompliant);
        let key = early_upload.target.object.key.to_string();
        abort(early_upload.upload).await;
        let lost = (!lost.is_empty()).then_some(Error::PartsLost { key, lost });
        match (failure, lost) {
            (None, None) => Ok(()),
            (Some(error), None) | (None, Some(error)) => Err(error),
            (Some(error), Some(lost)) => {
                tracing::error!(%lost, "an upload was aborted because it is not encrypted as was asked");
                Err(error)
            }
        }
    }

    /// Completes the upload that was begun while the program wrote.
    async fn finish_early_upload(self: &Arc<Self>, commit: &CommitSnapshot, begun: Begun) -> Result<Stored, Error> {
        // The base may have been materialized meanwhile: then all of its bytes are here, and are sent.
        let is_copied = |range: &Range<u64>| range.end <= begun.layout.copied() && range.end <= commit.base_len;
        let planned = |range| if is_copied(&range) { Planned::Copy(range) } else { Planned::Put(range) };
        let parts = begun.layout.parts(commit.size).map(|(number, range)| (number, planned(range))).collect();
        let assembly = Assembly { parts, sent: begun.sent };
        match self.assemble(commit, begun.upload, assembly, true).await {
            Err((error, upload)) => Err(self.keep_early_upload(error, upload).await),
            Ok(stored) => Ok(stored),
        }
    }

    /// An upload fixes its metadata when it begins. What programs set since then is put right by a copy of the new
    /// object onto itself. When that fails, the content is safe and the attributes are a change that the next commit
    /// has to store.
    async fn correct_metadata(
        &self,
        commit: &CommitSnapshot,
        target: &Target,
        begun_for: &NewObject,
    ) -> Result<(), Error> {
        let Some(source) = self.state().base.clone() else { return Ok(()) };
        let condition = Condition::Matches(source.version.etag.clone()).unless(self.engine.settings.last_writer_wins);
        // Of the same changes, so that the journal knows this object as well.
        let id = self.state().commit_id(commit.changes, || self.engine.gateway.commit_id());
        // Without tags of its own, a copy would take those that the upload began with: no tags are a change too.
        let tags = target.object.tags.clone().or_else(|| begun_for.tags.as_ref().map(|_| String::new()));
        let object = NewObject { commit: id, tags, ..target.object.clone() };
        let copied = self.engine.gateway.copy(&source, &object, &condition).await?.into_inner();
        let corrected = CommitSnapshot { changes: commit.changes + 1, ..commit.clone() };
        self.settle(&corrected, &target.object, copied);
        Ok(())
    }

    async fn put_parts(self: &Arc<Self>, commit: &CommitSnapshot, target: &Target) -> Result<Stored, Error> {
        let planned = plan(commit.size, commit.base_len, &self.buffer.present());
        let parts = (1..).zip(planned).collect();
        let upload = self.engine.gateway.start_upload(&target.object).await?;
        match self.assemble(commit, upload, Assembly { parts, sent: BTreeMap::new() }, false).await {
            Ok(stored) => Ok(stored),
            Err((error, upload)) => {
                if let Some(upload) = upload {
                    abort_upload(upload).await;
                }
                Err(error)
            }
        }
    }

    /// Sends or copies what is missing, and completes the upload. On failure the upload is given back while it lives.
    async fn assemble(
        &self,
        commit: &CommitSnapshot,
        upload: Upload,
        assembly: Assembly,
        streamed: bool,
    ) -> Result<Stored, (Error, Option<Upload>)> {
        let parts = match self.send_missing(commit, &upload, &assembly, streamed).await {
            Ok(parts) => parts,
            Err(Error::Store(error)) if error.kind == Kind::NoSuchUpload => return Err((error.into(), None)),
            Err(error) => return Err((error, Some(upload))),
        };
        let crc64 = whole_crc64(&assembly.parts, &parts);
        let parts = parts.into_iter().map(|(part, _)| part).collect();
        let other_copy = self.other_copy(commit, upload.key(), &assembly);
        match upload.complete(parts, commit.size, crc64, &commit.condition, other_copy).await {
            Ok(stored) => Ok(stored.into_inner()),
            Err(Unfinished { error, upload }) => Err((error.into(), upload)),
        }
    }

    /// Where the content of the object is besides the store, once it is made.
    fn other_copy(&self, commit: &CommitSnapshot, key: &Key, assembly: &Assembly) -> OtherCopy {
        let only_sent = |early_upload: &EarlyUpload| !early_upload.only_sent(&self.buffer).is_empty();
        if self.state().early_upload.as_ref().is_some_and(only_sent) {
            return OtherCopy::Nowhere;
        }
        let copies = assembly.parts.iter().any(|(_, part)| matches!(part, Planned::Copy(_)));
        match commit.base.as_ref().filter(|_| copies) {
            Some(base) => OtherCopy::of_copy(&base.key, key),
            None => OtherCopy::Held,
        }
    }

    /// All parts in order, each with its checksum where it is known (a copied part's is where the store tells it).
    async fn send_missing(
        &self,
        commit: &CommitSnapshot,
        upload: &Upload,
        assembly: &Assembly,
        streamed: bool,
    ) -> Result<Vec<(Part, Option<Crc64>)>, Error> {
        let one = async |(number, part): &(u32, Planned)| match (assembly.sent.get(number), part) {
            (Some(sent), _) => Ok((sent.part.clone(), Some(sent.crc64))),
            (None, Planned::Copy(range)) => self.copy_part(commit, upload, *number, range).await,
            (None, Planned::Put(range)) => self.put_part(commit, upload, *number, range, streamed).await,
        };
        let most = self.engine.settings.file_parts_in_flight_max;
        stream::iter(&assembly.parts).map(one).buffered(most).try_collect().await
    }

    async fn copy_part(
        &self,
        commit: &CommitSnapshot,
        upload: &Upload,
        number: u32,
        range: &Range<u64>,
    ) -> Result<(Part, Option<Crc64>), Error> {
        let (base, range) = commit
            .base
            .as_ref()
            .zip(ByteRange::new(range.start, range.end))
            .expect("only bytes of a base are planned to be copied");
        let part = upload.copy_part(number, base, range).await?;
        // As the store tells it: these bytes were never here. With it S3 checks the whole object when the upload is
        // completed.
        let crc64 = part.crc64;
        Ok((part, crc64))
    }

    async fn put_part(
        &self,
        commit: &CommitSnapshot,
        upload: &Upload,
        number: u32,
        range: &Range<u64>,
        streamed: bool,
    ) -> Result<(Part, Option<Crc64>), Error> {
        // 1. Read what the base has of the part.
        let _filling = self.fill(range, commit.base.as_ref(), commit.base_len).await?;
        // 2. Send it.
        let snapshot = self.with_room(|| self.buffer.snapshot(range.clone())).await?;
        let sent = self.send_part(upload, number, Arc::new(snapshot)).await?;
        // 3. Give the room back, or note the part, so that a commit that fails later need not send it again.
        if !streamed {
            self.release(range);
        } else if let Some(early_upload) = self.state().early_upload.as_mut() {
            early_upload.record(number, sent.clone());
        }
        Ok((sent.part, Some(sent.crc64)))
    }
}

/// A commit that is under way until it is dropped. It may free room, and its end wakes those that wait for some.
struct UnderWay<'a>(&'a Engine);

impl UnderWay<'_> {
    fn begin(engine: &Engine) -> UnderWay<'_> {
        engine.commits.fetch_add(1, Ordering::SeqCst);
        UnderWay(engine)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.commits.fetch_sub(1, Ordering::SeqCst);
        self.0.pool.wake();
    }
}

/// The checksum of the whole, when that of each part is known.
fn whole_crc64(planned: &[(u32, Planned)], parts: &[(Part, Option<Crc64>)]) -> Option<Crc64> {
    planned.iter().zip(parts).try_fold(Crc64::EMPTY, |whole, ((_, part), (_, crc64))| {
        let range = part.range();
        Some(whole.followed_by((*crc64)?, range.end - range.start))
    })
}

/// What a HEAD would say of the object that was just stored.
pub(super) fn head_of(object: &NewObject, size: u64, stored: Stored) -> Head {
    let tag_count = object.tags.as_ref().map_or(0, |tags| tags.split('&').filter(|tag| !tag.is_empty()).count());
    let meta = ObjectMeta {
        size,
        version: stored.version,
        last_modified: SystemTime::now(),
        storage_class: object.storage_class.clone().unwrap_or_else(|| "STANDARD".to_owned()),
        content_type: object.content_type.clone(),
        content_headers: object.content_headers.clone(),
        tag_count: u32::try_from(tag_count).unwrap_or(u32::MAX),
        user: object.user.clone(),
        commit: object.commit.clone(),
    };
    Head { meta, encryption: stored.encryption }
}
