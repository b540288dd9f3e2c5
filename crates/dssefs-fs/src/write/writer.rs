//! The writer of one file: takes bytes, keeps them, and sends parts ahead.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OnceCell};
use tokio::time::{Instant, timeout_at};

use crate::spill::{self, Buffer, Eviction, Location, RangeSet, Snapshot};
use dssefs_s3::object::{Key, Version};
use dssefs_s3::s3::{Head, Kind, Upload};

use super::early_upload::{EarlyUpload, Sent};
use super::parts::OBJECT_BYTES_MAX;
use super::payload::SnapshotPayload;
use super::state::State;
use super::{Base, CommitTarget, Disposition, Engine, Error, Target, Try};

/// What a writer's object is to be, and what learns of it.
pub trait Destination: Send + Sync {
    /// What a commit that begins now has to make.
    fn commit_target(&self) -> CommitTarget;
    /// The store has proved a new object under `key`, and this is what a HEAD of it would say. Called in the order of
    /// the commits.
    fn committed(&self, key: &Key, head: Head);
}

/// One file with changes, or with handles that may make some.
///
/// All bookkeeping stands under one short mutex that is never held across an await. Commits take turns.
pub struct Writer {
    pub(super) engine: Arc<Engine>,
    pub(super) destination: Box<dyn Destination>,
    /// The bytes of what [`State`] describes.
    pub(super) buffer: Buffer,
    /// Those of what was changed since a promise.
    pub(super) since: Buffer,
    pub(super) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    pub(super) settled: Notify,
    /// Whether a program that writes the file may read it as well.
    is_read: AtomicBool,
}

/// A part that is complete and may be sent ahead.
struct Ripe {
    number: u32,
    upload: Arc<OnceCell<Upload>>,
    target: Target,
    snapshot: Arc<Snapshot>,
}

enum RangeState {
    /// The change is made.
    Whole,
    /// Parts of the range are in the store only.
    Evicted,
    /// The upload under way counts on the range being what the object has there.
    Copied,
    /// What was changed since a promise is being taken into the next one.
    Joining,
}

impl Writer {
    /// A writer over `base`. The file has its first `size` bytes; `changed` when that alone is a change (a new
    /// file, or one that was cut).
    #[must_use]
    pub fn new(
        engine: &Arc<Engine>,
        base: Option<Base>,
        size: u64,
        changed: bool,
        destination: Box<dyn Destination>,
    ) -> Arc<Writer> {
        Writer::over(engine, State::new(base, size, changed), destination)
    }

    pub(super) fn over(engine: &Arc<Engine>, state: State, destination: Box<dyn Destination>) -> Arc<Writer> {
        Arc::new(Writer {
            engine: Arc::clone(engine),
            destination,
            buffer: engine.pool.buffer(),
            since: engine.pool.buffer(),
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
            settled: Notify::new(),
            is_read: AtomicBool::new(false),
        })
    }

    /// A program that writes the file may read it as well: parts that were sent stay here while the disk has room.
    pub fn expect_reads(&self) {
        self.is_read.store(true, Ordering::Relaxed);
    }

    /// When a part that was sent leaves this host. Programs often write the first one again, which has the headers of
    /// many formats.
    fn eviction_of(&self, number: u32) -> Eviction {
        if number == 1 || self.is_read.load(Ordering::Relaxed) { Eviction::Last } else { Eviction::First }
    }

    /// The file's length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.state().size_now()
    }

    /// Whether there are changes that the store does not have.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.state().has_changes()
    }

    /// How many changes there were: the same number means the same file.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state().changes_now()
    }

    /// Whether an upload of the file has begun, which is bound to the key it had then.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.state().early_upload.is_some()
    }

    /// Whether a failed commit may have made an object; see [`Writer::resolve_ambiguous_commits`].
    #[must_use]
    pub fn has_ambiguous_commits(&self) -> bool {
        !self.state().ambiguous.is_empty()
    }

    /// Where the bytes are that the store does not have yet.
    #[must_use]
    pub fn location(&self) -> Location {
        match (self.buffer.location(), self.since.location()) {
            (Location::None, other) | (other, Location::None) => other,
            (Location::Spilled, _) | (_, Location::Spilled) => Location::Spilled,
            (Location::Memory, Location::Memory) => Location::Memory,
        }
    }

    /// Notes a change of attributes, which the next commit has to carry. A promise that is not stored yet carries it as
    /// well: the call that makes it is answered now.
    pub fn touch(&self) {
        self.state().changes += 1;
    }

    /// Keeps `data` at `offset`; parts that are complete with it go to the store.
    ///
    /// # Errors
    /// The file would pass the largest size, no room became free, parts sent ahead were refused for good, or
    /// [`Error::InUpload`]. Nothing of `data` is kept then.
    pub async fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), Error> {
        // 1. Refuse what cannot be stored: too large a file, or a part that was sent ahead was refused for good.
        let range = self.checked(offset, data.len() as u64)?;
        self.refused_ahead()?;
        // 2. Keep the bytes, and wait for room if there is none.
        self.change(&range, |buffer| buffer.write(offset, data)).await?;
        // 3. Send the parts that are complete, and slow the program down while too many are under way.
        self.send_ahead().await;
        Ok(())
    }

    /// The same, with nothing sent before the commit.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn put_back(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), Error> {
        let range = self.checked(offset, data.len() as u64)?;
        self.change(&range, |buffer| buffer.write(offset, data)).await
    }

    /// Makes `range`, which has at least one byte, read as zeros; it may reach past the end.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn zero(self: &Arc<Self>, range: Range<u64>) -> Result<(), Error> {
        let range = self.checked(range.start, range.end.saturating_sub(range.start))?;
        self.change(&range, |buffer| buffer.zero(range.clone())).await
    }

    /// Makes the file end at `size`; what it gains reads as zeros.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn resize(self: &Arc<Self>, size: u64) -> Result<(), Error> {
        self.checked(size, 0)?;
        loop {
            match self.resize_now(size) {
                RangeState::Whole => return Ok(()),
                RangeState::Evicted => return Err(self.in_upload()),
                RangeState::Copied => self.leave_early_upload().await?,
                RangeState::Joining => self.joining_settled().await?,
            }
        }
    }

    fn resize_now(&self, size: u64) -> RangeState {
        let mut state = self.state();
        let cut = size..state.size_now().max(size);
        if state.is_joining() {
            return RangeState::Joining;
        } else if state.is_promised() {
            self.since.discard(cut);
            state.resized(size);
            return RangeState::Whole;
        }
        match &state.early_upload {
            Some(early_upload) if early_upload.copies(&cut) => return RangeState::Copied,
            Some(early_upload) if !early_upload.takes(&RangeSet::default(), size, &self.buffer) => {
                return RangeState::Evicted;
            }
            _ => {}
        }
        self.buffer.discard(cut);
        state.resized(size);
        RangeState::Whole
    }

    /// Makes the file at least `size` bytes long; what it gains reads as zeros.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn grow(self: &Arc<Self>, size: u64) -> Result<(), Error> {
        if size > self.size() { self.resize(size).await } else { Ok(()) }
    }

    /// The range, if the file may end behind it.
    fn checked(&self, offset: u64, length: u64) -> Result<Range<u64>, Error> {
        let range = checked(offset, length)?;
        match self.state().is_beyond_upload(range.end) {
            true => Err(Error::TooLarge { size_bytes: range.end }),
            false => Ok(range),
        }
    }

    /// Whether a file may have `size` bytes.
    ///
    /// # Errors
    /// It may not.
    pub fn check_size(size: u64) -> Result<(), Error> {
        checked(size, 0).map(drop)
    }

    /// This mount itself has replaced the object `from` by `base`, one with the same bytes (a rename, a change of
    /// attributes). Changes that programs made meanwhile stand over the new one from now on.
    pub fn rebase(&self, from: &Version, base: Base) {
        let mut state = self.state();
        if state.replaces.as_ref() == Some(&from.etag) {
            state.replaces = Some(base.version.etag.clone());
            state.ambiguous.clear();
        }
        if state.base.as_ref().is_some_and(|old| old.version == *from) {
            state.base = Some(base);
        }
    }

    /// Waits until no commit is under way.
    pub async fn commits_settled(&self) {
        drop(self.turn.lock().await);
    }

    /// Gives up all changes and the upload under way, at the end of the mount: each call that would answer for them
    /// fails from now on.
    pub async fn abandon(self: &Arc<Self>) {
        self.state().abandoned = true;
        self.discard().await;
    }

    pub(super) fn refuse_if_abandoned(&self) -> Result<(), Error> {
        if self.state().abandoned { Err(Error::Abandoned) } else { Ok(()) }
    }

    /// Gives up all changes and the upload under way; for a file that has lost its name.
    pub async fn discard(self: &Arc<Self>) {
        let _turn = self.turn.lock().await;
        self.parts_settled().await;
        let early_upload = {
            let mut state = self.state();
            state.give_up();
            state.early_upload.take()
        };
        self.buffer.clear();
        self.since.clear();
        if let Some(early_upload) = early_upload {
            abort(early_upload.upload).await;
        }
    }

    /// Changes the bytes of `range`, unless parts of it are in an upload only.
    async fn change(
        self: &Arc<Self>,
        range: &Range<u64>,
        apply: impl Fn(&Buffer) -> Result<(), spill::Error>,
    ) -> Result<(), Error> {
        self.refuse_if_abandoned()?;
        loop {
            let changed =
                self.with_room_after(|| self.commits_are_under_way(), || self.change_now(range, &apply)).await;
            match changed.or_else(|error| self.why_no_room(error))? {
                RangeState::Whole => return Ok(()),
                RangeState::Evicted => return Err(self.in_upload()),
                RangeState::Copied => self.leave_early_upload().await?,
                RangeState::Joining => self.joining_settled().await?,
            }
        }
    }

    fn change_now(
        &self,
        range: &Range<u64>,
        apply: impl Fn(&Buffer) -> Result<(), spill::Error>,
    ) -> Result<RangeState, spill::Error> {
        let mut state = self.state();
        if state.is_joining() {
            return Ok(RangeState::Joining);
        } else if state.is_promised() {
            // What is promised stays as it is.
            apply(&self.since)?;
            state.changed(range);
            return Ok(RangeState::Whole);
        }
        match &state.early_upload {
            Some(early_upload) if early_upload.copies(range) => return Ok(RangeState::Copied),
            Some(early_upload) if !early_upload.keep_whole(range, &self.buffer) => return Ok(RangeState::Evicted),
            _ => {}
        }
        apply(&self.buffer)?;
        state.changed(range);
        Ok(RangeState::Whole)
    }

    /// Bytes exist only in the unfinished upload. To complete it here would show others a part of a file that is still
    /// being written.
    pub(super) fn in_upload(&self) -> Error {
        match self.destination.commit_target() {
            CommitTarget::Removed => Error::Deleted,
            CommitTarget::Object(_) | CommitTarget::Lost => Error::InUpload,
        }
    }

    /// Ends an upload that counts on bytes of the object which are about to change, where this host still has all that
    /// was sent.
    pub(super) async fn leave_early_upload(self: &Arc<Self>) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.state().is_ending_upload = true;
        self.parts_settled().await;
        let whole =
            self.state().early_upload.as_ref().is_none_or(|early_upload| early_upload.keep_all_whole(&self.buffer));
        let left = if whole { self.drop_early_upload().await } else { Ok(()) };
        self.state().is_ending_upload = false;
        if whole { left } else { Err(self.in_upload()) }
    }

    /// A write found no room: because a part that was sent ahead was refused, if one was, as nothing is sent after it.
    fn why_no_room<T>(&self, error: Error) -> Result<T, Error> {
        let is_room = matches!(error, Error::Stalled { .. }) || error.disposition() == Disposition::NoRoom;
        if is_room {
            self.refused_ahead()?;
        }
        Err(error)
    }

    /// The failure of a part that was sent ahead. The next write reports it, once, so that a program does not write for
    /// hours in vain.
    fn refused_ahead(&self) -> Result<(), Error> {
        let mut state = self.state();
        let Some(early_upload) = &mut state.early_upload else { return Ok(()) };
        match early_upload.failure.take() {
            // This failure stays, because the commit has to abort the upload.
            Some(Error::Store(error)) if matches!(error.kind, Kind::Mismatch { .. }) => {
                early_upload.failure = Some(Error::Store(error.clone()));
                Err(error.into())
            }
            Some(error) if !error.disposition().is_transient() => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    /// Sends the parts that are complete, and slows the caller down while too many are under way.
    async fn send_ahead(self: &Arc<Self>) {
        if self.state().has_short_base()
            && let Err(error) = self.materialize_base().await
        {
            self.state().base_stays = true;
            tracing::warn!(
                %error,
                "a short object could not be read, so nothing is sent ahead behind it; the commit tries again"
            );
        }
        if !self.early_upload_has_begun() {
            return;
        }
        while let Some(ripe) = self.next_ripe() {
            tokio::spawn(Arc::clone(self).send_part_ahead(ripe));
        }
        let deadline = Instant::now() + self.engine.settings.slow_max;
        let most = self.engine.settings.file_parts_in_flight_max;
        while self.parts_under_way() > most {
            let settled = self.settled.notified();
            if self.parts_under_way() <= most || timeout_at(deadline, settled).await.is_err() {
                return;
            }
        }
    }

    /// Begins to stream a file once what was written to it is too large for one PutObject.
    fn early_upload_has_begun(&self) -> bool {
        {
            let state = self.state();
            if state.early_upload.is_some() {
                return true;
            }
            if state.layout().is_none() {
                return false;
            }
        }
        // The destination looks into other rooms, so it is asked without this mutex.
        let CommitTarget::Object(target) = self.destination.commit_target() else { return false };
        let mut state = self.state();
        if let Some(layout) = state.layout() {
            state.early_upload.get_or_insert_with(|| EarlyUpload::new(target, layout));
        }
        state.early_upload.is_some()
    }

    fn next_ripe(&self) -> Option<Ripe> {
        let mut state = self.state();
        let size = state.size;
        // A completion that is still under way would leave out what is sent now.
        let in_doubt = !state.ambiguous.is_empty();
        let takes_parts = !(state.is_ending_upload || state.is_promised() || state.is_joining() || in_doubt);
        let early_upload = state.early_upload.as_mut().filter(|_| takes_parts)?;
        let (number, range) = early_upload.begin_ripe(size, &self.buffer)?;
        match self.buffer.snapshot(range) {
            Ok(snapshot) => Some(Ripe {
                number,
                upload: Arc::clone(&early_upload.upload),
                target: early_upload.target.clone(),
                snapshot: Arc::new(snapshot),
            }),
            Err(error) => {
                tracing::warn!(
                    part = number, %error,
                    "a part could not be read, so it is not sent ahead; the commit tries again"
                );
                early_upload.forget(number);
                None
            }
        }
    }

    async fn send_part_ahead(self: Arc<Self>, ripe: Ripe) {
        let Ripe { number, upload, target, snapshot } = ripe;
        let settlement = Settlement { writer: &self, number, done: false };
        let outcome = self.send_to(&upload, &target, number, Arc::clone(&snapshot)).await;
        drop(upload);
        if let Err(error) = &outcome {
            tracing::warn!(part = number, %error, "a part could not be sent ahead; the commit tries again");
        }
        settlement.settle(outcome, &snapshot);
        drop(snapshot);
        self.settled.notify_waiters();
    }

    async fn send_to(
        &self,
        upload: &OnceCell<Upload>,
        target: &Target,
        number: u32,
        snapshot: Arc<Snapshot>,
    ) -> Result<Sent, Error> {
        let upload = upload.get_or_try_init(|| self.engine.gateway.start_upload(&target.object)).await?;
        self.send_part(upload, number, snapshot).await
    }

    pub(super) async fn send_part(&self, upload: &Upload, number: u32, snapshot: Arc<Snapshot>) -> Result<Sent, Error> {
        let work = async {
            let payload = Arc::new(SnapshotPayload::new(snapshot));
            let crc64 = payload.checksum()?;
            let part = upload.put_part(number, payload).await?;
            Ok(Sent { part, crc64 })
        };
        self.engine.slots.run(Try::First, work).await
    }

    fn parts_under_way(&self) -> usize {
        self.state().early_upload.as_ref().map_or(0, EarlyUpload::in_flight)
    }

    pub(super) async fn parts_settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.parts_under_way() == 0 {
                return;
            }
            settled.await;
        }
    }

    /// The bookkeeping. A panic elsewhere leaves it consistent, because each change of it is complete before anything
    /// can fail.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part that was begun. It is accounted for even if its task panics, because commits wait for all of them.
struct Settlement<'a> {
    writer: &'a Writer,
    number: u32,
    done: bool,
}

impl Settlement<'_> {
    fn settle(mut self, outcome: Result<Sent, Error>, snapshot: &Snapshot) {
        self.done = true;
        if let Some(early_upload) = &mut self.writer.state().early_upload
            && early_upload.settle(self.number, outcome)
        {
            self.writer.buffer.mark_uploaded(snapshot, self.writer.eviction_of(self.number));
        }
    }
}

impl Drop for Settlement<'_> {
    fn drop(&mut self) {
        if !self.done {
            if let Some(early_upload) = &mut self.writer.state().early_upload {
                early_upload.forget(self.number);
            }
            self.writer.settled.notify_waiters();
        }
    }
}

/// Aborts an upload that gets no more parts.
pub(super) async fn abort(upload: Arc<OnceCell<Upload>>) {
    if let Some(upload) = Arc::into_inner(upload).and_then(OnceCell::into_inner) {
        abort_upload(upload).await;
    }
}

/// Aborts an upload. One that cannot be aborted is left to the bucket's lifecycle rules.
pub(super) async fn abort_upload(upload: Upload) {
    let key = upload.key().clone();
    if let Err(error) = upload.abort().await {
        tracing::warn!(
            %key, %error,
            "an upload that is no longer needed could not be aborted; let a lifecycle rule abort such uploads"
        );
    }
}

fn checked(offset: u64, length: u64) -> Result<Range<u64>, Error> {
    let end = offset.saturating_add(length);
    if end > OBJECT_BYTES_MAX { Err(Error::TooLarge { size_bytes: end }) } else { Ok(offset..end) }
}
