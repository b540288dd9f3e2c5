//! Making one object of a file's changes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use dssefs_s3::object::{ByteRange, Crc64, Key, ObjectMeta};
use dssefs_s3::s3::{
    Backoff, Condition, Head, Jitter, Kind, NewObject, OtherCopy, Part, Payload, Source, Stored, Unfinished, Upload,
};

use super::parts::{Grid, Planned, SINGLE_PUT_BYTES_MAX, plan};
use super::payload::SnapshotPayload;
use super::state::State;
use super::stream::{Sent, Stream};
use super::writer::{abort, abort_upload};
use super::{Aim, Base, Engine, Error, Target, Writer};

/// How often a part is read again because the program changed it while it was being sent.
pub(super) const CHANGED_WHILE_SENT_MAX: u32 = 5;

/// How often a commit begins anew.
const TRIES_MAX: u32 = 7;
/// The pause after the first try during which another request for the same key was under way: S3 answers 409
/// ConditionalRequestConflict then, and who has lost the race is known only when the other one has ended ("Conditional
/// writes", S3 User Guide). Some seconds in all.
const CONFLICT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(3200), Jitter::Half);

/// What the file was when the commit began.
#[derive(Clone)]
pub(super) struct Moment {
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
    grid: Grid,
    sent: BTreeMap<u32, Sent>,
}

/// Parts on their way to an upload: `sent` ones are there already.
struct Assembly {
    parts: Vec<(u32, Planned)>,
    sent: BTreeMap<u32, Sent>,
}

impl Writer {
    /// Makes the store's object what the file is, and returns once the store has proved it; sends nothing when there is
    /// nothing to make safe. Commits of one file take turns.
    ///
    /// # Errors
    /// The store refused or did not answer, or the bytes could not be read. All changes are still there, and the next
    /// commit tries again.
    pub async fn commit(self: &Arc<Self>) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let _under_way = UnderWay::begin(&self.engine);
        self.state().committing = true;
        self.parts_settled().await;
        let outcome = self.try_until_decided().await;
        self.state().committing = false;
        outcome
    }

    async fn try_until_decided(self: &Arc<Self>) -> Result<(), Error> {
        let mut looked_again = false;
        for tries in 1.. {
            let Err(error) = self.try_once().await else { break };
            if error.is_conflict() && tries < TRIES_MAX {
                sleep(CONFLICT_BACKOFF.pause(tries)).await;
            } else if error.may_be_our_own() && !looked_again && !self.state().tried.is_empty() {
                // An earlier commit, long under way, may have got there since it was looked for.
                looked_again = true;
            } else if !(matches!(error, Error::ChangedWhileSent { .. }) && tries < TRIES_MAX) {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn try_once(self: &Arc<Self>) -> Result<(), Error> {
        self.find_tried().await?;
        match (self.moment(), self.destination.aim()) {
            (_, Aim::Removed) => Ok(()),
            (None, _) => self.refuse_if_abandoned(),
            (Some(_), Aim::Lost) => Err(Error::NameLost),
            (Some(moment), Aim::Object(target)) => match self.carry_out(&moment, &target).await {
                Err(error) => {
                    self.note_aftermath(&error, moment.size);
                    // Only now: what was read of an object that is gone with the wrong one is all that there is of it.
                    self.give_back(&(0..moment.size));
                    Err(self.explained(error, &moment, &target).await)
                }
                done => done,
            },
        }
    }

    /// The state to make safe; none when it is safe.
    fn moment(&self) -> Option<Moment> {
        let mut state = self.state();
        state.plan();
        let condition = match &state.replaces {
            _ if !self.engine.settings.conditional => Condition::None,
            Some(etag) => Condition::Matches(etag.clone()),
            None => Condition::Absent,
        };
        state.is_dirty().then(|| Moment {
            changes: state.changes,
            condition,
            size: state.size,
            base: state.base.clone(),
            base_len: state.base_len,
        })
    }

    async fn carry_out(self: &Arc<Self>, moment: &Moment, target: &Target) -> Result<(), Error> {
        if let Some(error) = self.refused_part() {
            return Err(error);
        }
        if let Some(begun) = self.stream_to_finish(moment, target) {
            let begun_for = begun.target.clone();
            match self.finish_stream(moment, begun).await {
                Ok(stored) if begun_for.is_good_enough_for(target) => {
                    self.settle(moment, &begun_for.object, stored);
                    return Ok(());
                }
                Ok(stored) => {
                    // The content is safe; the attributes stay a change until they are, too.
                    self.touch();
                    self.settle(moment, &begun_for.object, stored);
                    return self.correct_metadata(moment, target).await;
                }
                // Somebody aborted the upload, and all of its bytes are still here.
                Err(Error::Store(error)) if error.kind == Kind::NoSuchUpload => {}
                Err(error) => return Err(error),
            }
        }
        self.drop_stream().await?;
        let stored = self.store_anew(moment, target).await?;
        self.settle(moment, &target.object, stored);
        Ok(())
    }

    async fn store_anew(self: &Arc<Self>, moment: &Moment, target: &Target) -> Result<Stored, Error> {
        if let Some(base) = self.copied_whole(moment) {
            self.copy_whole(base, moment, target).await
        } else if moment.size <= SINGLE_PUT_BYTES_MAX {
            self.put_whole(moment, target).await
        } else {
            self.put_parts(moment, target).await
        }
    }

    /// Records the new object, and drops the buffer with its keys when nothing changed meanwhile; otherwise all of it
    /// that the object has.
    fn settle(&self, moment: &Moment, object: &NewObject, stored: Stored) {
        let version = stored.version.clone();
        let source = Source { key: object.key.clone(), version, size: moment.size };
        self.stand_on(&mut self.state(), source, moment.changes);
        self.destination.committed(&object.key, head_of(object, moment.size, stored));
    }

    pub(super) fn stand_on(&self, state: &mut State, stored: Base, changes: u64) {
        state.stream = None;
        if state.settle(stored, changes) {
            self.buffer.clear();
        } else {
            state.written.gaps(0..u64::MAX).for_each(|stored| self.buffer.discard(stored));
        }
    }

    async fn put_whole(&self, moment: &Moment, target: &Target) -> Result<Stored, Error> {
        for _ in 0..CHANGED_WHILE_SENT_MAX {
            let _filling = self.fill(&(0..moment.size), moment.base.as_ref(), moment.base_len).await?;
            let snapshot = self.with_room(|| self.buffer.snapshot(0..moment.size)).await?;
            self.refuse_if_cut(moment, &target.object.key)?;
            let payload: Arc<dyn Payload> = Arc::new(SnapshotPayload::new(Arc::new(snapshot)));
            match self.engine.gateway.put(&target.object, payload, &moment.condition).await {
                Err(error) if error.kind == Kind::Local && self.state().changes != moment.changes => {}
                outcome => return Ok(outcome?.into_inner()),
            }
        }
        Err(changed_too_often(target))
    }

    /// The upload that was begun while the program wrote, if it is the way to this commit; `keep_stream` puts it back.
    fn stream_to_finish(&self, moment: &Moment, target: &Target) -> Option<Begun> {
        let mut state = self.state();
        let stream = state.stream.as_mut()?;
        let same_key = stream.target.object.key == target.object.key;
        let refused = stream.failure.as_ref().is_some_and(Error::is_mismatch);
        let worth_it = moment.size > SINGLE_PUT_BYTES_MAX || stream.gave_up(&(0..u64::MAX), &self.buffer.present());
        if refused || !(same_key && worth_it && stream.upload.initialized()) {
            return None;
        }
        let upload = Arc::into_inner(std::mem::take(&mut stream.upload)).and_then(OnceCell::into_inner);
        let upload = upload.expect("it is initialised, and the tasks that shared it have settled");
        let grid = stream.grid;
        Some(Begun { upload, target: stream.target.clone(), grid, sent: stream.sent_of(moment.size) })
    }

    /// That the answer to a part was not what was asked, told once. Where parts are in the upload alone it goes on, and
    /// the next commit sends this one again; any other upload is given up by `drop_stream`.
    fn refused_part(&self) -> Option<Error> {
        let mut state = self.state();
        let stream = state.stream.as_mut()?;
        let alone = stream.gave_up(&(0..u64::MAX), &self.buffer.present());
        if alone { stream.failure.take_if(|error| error.is_mismatch()) } else { None }
    }

    /// Gives up an upload that is no use for this commit. One whose answers were not what was asked is given up in any
    /// case, and its failure is the commit's.
    pub(super) async fn drop_stream(&self) -> Result<(), Error> {
        let Some(mut stream) = self.state().stream.take() else { return Ok(()) };
        stream.keep_all_whole(&self.buffer);
        let lost = stream.only_sent(&self.buffer);
        let failure = stream.failure.take().filter(Error::is_mismatch);
        let key = stream.target.object.key.to_string();
        abort(stream.upload).await;
        let lost = (!lost.is_empty()).then_some(Error::PartsLost { key, lost });
        match (failure, lost) {
            (None, None) => Ok(()),
            (Some(error), None) | (None, Some(error)) => Err(error),
            (Some(error), Some(lost)) => {
                tracing::error!(%lost, "an upload that was not as asked was given up");
                Err(error)
            }
        }
    }

    /// Completes the upload that was begun while the program wrote.
    async fn finish_stream(self: &Arc<Self>, moment: &Moment, begun: Begun) -> Result<Stored, Error> {
        // The object's bytes are all here instead when they were taken in meanwhile.
        let is_copied = |range: &Range<u64>| range.end <= begun.grid.copied() && range.end <= moment.base_len;
        let planned = |range| if is_copied(&range) { Planned::Copy(range) } else { Planned::Put(range) };
        let parts = begun.grid.parts(moment.size).map(|(number, range)| (number, planned(range))).collect();
        let assembly = Assembly { parts, sent: begun.sent };
        match self.assemble(moment, begun.upload, assembly, true).await {
            Err((error, upload)) => Err(self.keep_stream(error, upload).await),
            Ok(stored) => Ok(stored),
        }
    }

    /// After a failed commit: the upload goes on to exist, with all parts that are whole, unless it is gone, or nobody
    /// needs it and the store's answers to it were not what was asked. Parts that only it had are lost when it is gone,
    /// which is named.
    async fn keep_stream(&self, error: Error, upload: Option<Upload>) -> Error {
        let only_sent = |stream: &Stream| !stream.only_sent(&self.buffer).is_empty();
        let is_needed = self.state().stream.as_ref().is_some_and(only_sent);
        let upload = match upload {
            Some(upload) if error.is_mismatch() && !is_needed => {
                abort_upload(upload).await;
                None
            }
            other => other,
        };
        let mut state = self.state();
        let Some(stream) = &mut state.stream else { return error };
        if error.is_of_object_that_stays() {
            return error;
        }
        if let Some(upload) = upload {
            stream.upload = Arc::new(OnceCell::from(upload));
            return error;
        }
        stream.keep_all_whole(&self.buffer);
        let lost = stream.only_sent(&self.buffer);
        let key = stream.target.object.key.to_string();
        state.stream = None;
        if lost.is_empty() {
            return error;
        }
        tracing::error!(%key, %error, "an upload is gone together with parts that this host has no copy of");
        if error.is_mismatch() { error } else { Error::PartsLost { key, lost } }
    }

    /// An upload fixes its metadata when it begins. What programs set since then is put right by a copy of the new
    /// object onto itself. When that fails, the content is safe and the attributes are a change that the next commit
    /// has to store.
    async fn correct_metadata(&self, moment: &Moment, target: &Target) -> Result<(), Error> {
        let Some(source) = self.state().base.clone() else { return Ok(()) };
        let condition = match self.engine.settings.conditional {
            true => Condition::Matches(source.version.etag.clone()),
            false => Condition::None,
        };
        let copied = self.engine.gateway.copy(&source, &target.object, &condition).await?.into_inner();
        let corrected = Moment { changes: moment.changes + 1, ..moment.clone() };
        self.settle(&corrected, &target.object, copied);
        Ok(())
    }

    async fn put_parts(self: &Arc<Self>, moment: &Moment, target: &Target) -> Result<Stored, Error> {
        let planned = plan(moment.size, moment.base_len, &self.buffer.present());
        let parts = (1..).zip(planned).collect();
        let upload = self.engine.gateway.start_upload(&target.object).await?;
        match self.assemble(moment, upload, Assembly { parts, sent: BTreeMap::new() }, false).await {
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
        moment: &Moment,
        upload: Upload,
        assembly: Assembly,
        streamed: bool,
    ) -> Result<Stored, (Error, Option<Upload>)> {
        let parts = match self.send_missing(moment, &upload, &assembly, streamed).await {
            Ok(parts) => parts,
            Err(Error::Store(error)) if error.kind == Kind::NoSuchUpload => return Err((error.into(), None)),
            Err(error) => return Err((error, Some(upload))),
        };
        let crc64 = whole_crc64(&assembly.parts, &parts);
        let parts = parts.into_iter().map(|(part, _)| part).collect();
        let other_copy = self.other_copy(moment, upload.key(), &assembly);
        match upload.complete(parts, moment.size, crc64, &moment.condition, other_copy).await {
            Ok(stored) => Ok(stored.into_inner()),
            Err(Unfinished { error, upload }) => Err((error.into(), upload)),
        }
    }

    /// Who has the content of the object besides the store, once it is made.
    fn other_copy(&self, moment: &Moment, key: &Key, assembly: &Assembly) -> OtherCopy {
        let only_sent = |stream: &Stream| !stream.only_sent(&self.buffer).is_empty();
        if self.state().stream.as_ref().is_some_and(only_sent) {
            return OtherCopy::Nowhere;
        }
        let copies = assembly.parts.iter().any(|(_, part)| matches!(part, Planned::Copy(_)));
        match moment.base.as_ref().filter(|_| copies) {
            Some(base) => OtherCopy::of_copy(&base.key, key),
            None => OtherCopy::Held,
        }
    }

    /// All parts in order, each with its checksum where it is known (a copied part's is where the store tells it).
    async fn send_missing(
        &self,
        moment: &Moment,
        upload: &Upload,
        assembly: &Assembly,
        streamed: bool,
    ) -> Result<Vec<(Part, Option<Crc64>)>, Error> {
        let one = async |(number, part): &(u32, Planned)| match (assembly.sent.get(number), part) {
            (Some(sent), _) => Ok((sent.part.clone(), Some(sent.crc64))),
            (None, Planned::Copy(range)) => self.copy_part(moment, upload, *number, range).await,
            (None, Planned::Put(range)) => self.put_part(moment, upload, *number, range, streamed).await,
        };
        let most = self.engine.settings.file_parts_in_flight_max;
        stream::iter(&assembly.parts).map(one).buffered(most).try_collect().await
    }

    async fn copy_part(
        &self,
        moment: &Moment,
        upload: &Upload,
        number: u32,
        range: &Range<u64>,
    ) -> Result<(Part, Option<Crc64>), Error> {
        let (base, range) = moment
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
        moment: &Moment,
        upload: &Upload,
        number: u32,
        range: &Range<u64>,
        streamed: bool,
    ) -> Result<(Part, Option<Crc64>), Error> {
        for _ in 0..CHANGED_WHILE_SENT_MAX {
            let _filling = self.fill(range, moment.base.as_ref(), moment.base_len).await?;
            let snapshot = self.with_room(|| self.buffer.snapshot(range.clone())).await?;
            self.refuse_if_cut(moment, upload.key())?;
            match self.send_part(upload, number, Arc::new(snapshot)).await {
                Err(error) if error.is_local() && self.state().changes != moment.changes => {}
                outcome => {
                    let sent = outcome?;
                    if !streamed {
                        self.give_back(range);
                    }
                    self.record(streamed, moment, number, &sent);
                    return Ok((sent.part, Some(sent.crc64)));
                }
            }
        }
        Err(Error::ChangedWhileSent { key: upload.key().to_string() })
    }

    /// What was cut off since the commit took its plan reads as zeros here now, which the file never had there: neither
    /// before the cut nor after it. The commit starts over with what the file is now.
    fn refuse_if_cut(&self, moment: &Moment, key: &Key) -> Result<(), Error> {
        match self.state().plan.low_water < moment.size {
            true => Err(Error::ChangedWhileSent { key: key.to_string() }),
            false => Ok(()),
        }
    }

    /// So that a commit that fails later need not send this part of the stream again.
    fn record(&self, streamed: bool, moment: &Moment, number: u32, sent: &Sent) {
        let mut state = self.state();
        let unchanged = state.changes == moment.changes;
        if let Some(stream) = state.stream.as_mut().filter(|_| streamed && unchanged) {
            stream.record(number, sent.clone());
        }
    }
}

/// A commit that may give room back until it is dropped, of which those who wait for some hear.
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

fn changed_too_often(target: &Target) -> Error {
    Error::ChangedWhileSent { key: target.object.key.to_string() }
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
    };
    Head { meta, encryption: stored.encryption }
}
