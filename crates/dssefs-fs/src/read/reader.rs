//! One version of an object, read by any number of tasks at once.

use std::collections::HashMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::budget::{Holder, ReadBudget, Share};
use super::error::Error;
use super::prefetch::{AHEAD_RANGES_MAX, BEHIND_BYTES, Pattern, Plan, RANGE_BYTES_MIN, WHOLE_BYTES_MAX, clip};
use super::window::Window;
use dssefs_s3::object::{ByteRange, Key, Version};
use dssefs_s3::s3::{self, Download, Gateway, Head};

/// Where a version is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The object's key.
    pub key: Key,
    /// The version that every GET is pinned to.
    pub version: Version,
}

/// Reads one version of an object. Dropping it cancels its GETs and gives its memory back.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    gateway: Arc<Gateway>,
    size: u64,
    budget: Arc<ReadBudget>,
    location: Mutex<Location>,
    state: Mutex<State>,
    /// Rung when a waiting read may have got its bytes or its error.
    news: Notify,
}

struct State {
    pattern: Pattern,
    window: Window,
    waiting: HashMap<u64, Waiting>,
    next_read: u64,
    observed: Option<Arc<Head>>,
    last_read: Instant,
}

/// A read that has not got its bytes yet.
struct Waiting {
    wanted: Range<u64>,
    error: Option<Error>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("location", &self.location).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader of the `size` bytes of the version at `location`. Asks for nothing yet.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, location: Location, size: u64, budget: Arc<ReadBudget>) -> Reader {
        let state = State {
            pattern: Pattern::new(size),
            window: Window::default(),
            waiting: HashMap::new(),
            next_read: 0,
            observed: None,
            last_read: Instant::now(),
        };
        let (location, state, news) = (Mutex::new(location), Mutex::new(state), Notify::new());
        let shared = Arc::new(Shared { gateway, size, budget, location, state, news });
        let holder: Weak<dyn Holder> = Arc::downgrade(&(Arc::clone(&shared) as Arc<dyn Holder>));
        shared.budget.register(holder);
        Reader { shared }
    }

    /// The bytes from `offset` on: `len` of them, or fewer at the end of the object. A read is answered as soon as its
    /// bytes are there, except of an object of up to [`WHOLE_BYTES_MAX`], which is proved by its checksum first.
    ///
    /// # Errors
    /// The store's, given to each read that waits for the GET that failed. The next read asks again. After an error
    /// of the kind `PreconditionFailed` the version is gone, unless this mount moved it: see [`Reader::relocate`].
    pub async fn read(&self, offset: u64, len: u64) -> Result<Bytes, Error> {
        let wanted = offset..offset.saturating_add(len).min(self.shared.size);
        if wanted.is_empty() {
            return Ok(Bytes::new());
        }
        let place = self.shared.enlist(&wanted);
        loop {
            let mut news = pin!(self.shared.news.notified());
            // Before the look at the window, so that no bell between the two is missed.
            news.as_mut().enable();
            if let Some(answer) = self.shared.answer(place.read, &wanted) {
                return answer;
            }
            news.await;
        }
    }

    /// Where GETs are sent from now on: this mount moved the version, or copied it onto itself.
    pub fn relocate(&self, location: Location) {
        *self.shared.location.lock().unwrap_or_else(PoisonError::into_inner) = location;
    }

    /// Where GETs are sent.
    #[must_use]
    pub fn location(&self) -> Location {
        self.shared.location()
    }

    /// What the last GET said of the object; none before the first.
    #[must_use]
    pub fn observed(&self) -> Option<Arc<Head>> {
        self.shared.state().observed.clone()
    }

    /// The object's length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.size
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // A task that is just handing in a chunk may keep the rest alive for a moment; the bytes go now.
        self.shared.state().window = Window::default();
    }
}

/// A place in the list of those who wait; left on drop.
struct Place<'a> {
    shared: &'a Shared,
    read: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.state().waiting.remove(&self.read);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it is held would be one of this file's own arithmetic; what is in it stays usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a read, and asks for what it and the ones to come need.
    fn enlist(self: &Arc<Self>, wanted: &Range<u64>) -> Place<'_> {
        let mut guard = self.state();
        let state = &mut *guard;
        let read = state.next_read;
        state.next_read += 1;
        state.last_read = Instant::now();
        state.waiting.insert(read, Waiting { wanted: wanted.clone(), error: None });
        if self.size <= WHOLE_BYTES_MAX {
            self.ask_for_missing(state, &(0..self.size), self.size);
        } else {
            let plan = state.pattern.read(wanted, |at| state.window.frontier(at));
            state.make_room();
            self.ask_for_missing(state, &(plan.from..wanted.end), plan.reach);
            self.ask_ahead(state, wanted, plan);
        }
        Place { shared: self, read }
    }

    /// The answer to a read, if there is one by now. Asks again for bytes that were given up, or lost with another's
    /// GET.
    fn answer(self: &Arc<Self>, read: u64, wanted: &Range<u64>) -> Option<Result<Bytes, Error>> {
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(error) = state.waiting.get_mut(&read).and_then(|waiting| waiting.error.take()) {
            return Some(Err(error));
        }
        if let Some(bytes) = state.window.take(wanted) {
            state.waiting.remove(&read);
            let behind = if self.budget.is_used_up() { 0 } else { BEHIND_BYTES };
            state.trim(wanted.end, behind);
            return Some(Ok(bytes));
        }
        let missing = if self.size <= WHOLE_BYTES_MAX { 0..self.size } else { wanted.clone() };
        self.ask_for_missing(state, &missing, missing.end);
        None
    }

    /// Asks for the pieces of `wanted` that no GET brings yet; for the last one up to `reach`, if the budget allows.
    fn ask_for_missing(self: &Arc<Self>, state: &mut State, wanted: &Range<u64>, reach: u64) {
        let mut at = state.window.frontier(wanted.start);
        while at < wanted.end {
            let stop = state.window.next_start(at).unwrap_or(self.size);
            let full = reach.max(wanted.end).min(stop);
            let least = self.least(at, wanted.end).min(full);
            let taken = self.budget.try_take(full - at).map(|share| (full, share));
            let (end, share) = taken.unwrap_or_else(|| (least, self.budget.take(least - at)));
            self.begin(state, at..end, share);
            at = state.window.frontier(end);
        }
    }

    /// The least that is worth a request for bytes up to `end`: more than a read may want, for each is a call of KMS.
    fn least(&self, at: u64, end: u64) -> u64 {
        if self.size <= WHOLE_BYTES_MAX { self.size } else { clip(end.max(at + RANGE_BYTES_MIN), self.size) }
    }

    /// Asks for ranges ahead of the program, as far as the budget goes.
    fn ask_ahead(self: &Arc<Self>, state: &mut State, wanted: &Range<u64>, plan: Plan) {
        let mut at = state.window.frontier(wanted.end);
        while at < plan.ahead && state.window.count_from(wanted.end) < AHEAD_RANGES_MAX {
            let stop = state.window.next_start(at).unwrap_or(self.size);
            let end = clip(at + plan.range_bytes, self.size).min(stop);
            // While something is on its way there is time to wait for a range that is worth its call of KMS.
            let least = if at > wanted.end { plan.range_bytes / 2 } else { WHOLE_BYTES_MAX };
            let Some(share) = self.affordable(end - at, least) else { return };
            let end = at + share.bytes();
            self.begin(state, at..end, share);
            at = state.window.frontier(end);
        }
    }

    /// `bytes` of the budget, or half of that and so on, but not less than `least` of what is wanted.
    fn affordable(&self, bytes: u64, least: u64) -> Option<Share> {
        let halves = std::iter::successors(Some(bytes), |bytes| Some(bytes / 2));
        halves.take_while(|half| *half == bytes || *half >= least).find_map(|half| self.budget.try_take(half))
    }

    fn location(&self) -> Location {
        self.location.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begin(self: &Arc<Self>, state: &mut State, range: Range<u64>, share: Share) {
        let whole = range.start == 0 && range.end == self.size && self.size <= WHOLE_BYTES_MAX;
        let id = state.window.begin(range.clone(), !whole, share);
        let range = if whole { None } else { ByteRange::new(range.start, range.end) };
        // The task must not keep the reader alive, or nothing would ever cancel it.
        let task = tokio::spawn(fetch(Arc::downgrade(self), id, range));
        state.window.attach(id, task.abort_handle());
    }

    fn began(&self, head: &Head) -> Result<(), Error> {
        let (expected, found) = (self.size, head.meta.size);
        self.state().observed = Some(Arc::new(head.clone()));
        if expected == found { Ok(()) } else { Err(Error::Length { expected, found }) }
    }

    fn push(&self, id: u64, chunk: Bytes) -> bool {
        let mut state = self.state();
        let wanted = state.window.push(id, chunk);
        self.ring(&state);
        wanted
    }

    fn finish(&self, id: u64) -> Result<(), Error> {
        let mut state = self.state();
        let missing = state.window.finish(id);
        self.ring(&state);
        if missing == 0 { Ok(()) } else { Err(Error::Length { expected: self.size, found: self.size - missing }) }
    }

    /// Gives the error to the reads that wait for bytes which the GET will not bring.
    fn fail(&self, id: u64, error: &Error) {
        let mut state = self.state();
        let Some(lost) = state.window.fail(id) else { return };
        let waiting = state.waiting.values_mut();
        for read in waiting.filter(|read| read.wanted.start < lost.end && lost.start < read.wanted.end) {
            read.error = Some(error.clone());
        }
        self.news.notify_waiters();
    }

    /// Wakes the reads only if one of them has all its bytes: most chunks complete no read.
    fn ring(&self, state: &State) {
        if state.waiting.values().any(|read| state.window.has(&read.wanted)) {
            self.news.notify_waiters();
        }
    }
}

impl Holder for Shared {
    fn give_up_if_idle(&self, before: Instant) {
        // A reader whose lock is held is at work, and not idle.
        let Ok(mut state) = self.state.try_lock() else { return };
        if state.waiting.is_empty() && state.last_read <= before {
            state.window = Window::default();
        }
    }
}

impl State {
    /// Gives up what lies more than `behind` bytes before `end`, except what a read waits for.
    fn trim(&mut self, end: u64, behind: u64) {
        let first_wanted = self.waiting.values().map(|read| read.wanted.start).min().unwrap_or(u64::MAX);
        self.window.trim(end, end.saturating_sub(behind).min(first_wanted));
    }

    /// After a jump, what was read ahead of the old place is given up.
    fn make_room(&mut self) {
        let wanted: Vec<Range<u64>> = self.waiting.values().map(|read| read.wanted.clone()).collect();
        if self.pattern.jumped() {
            self.window.drop_longer(WHOLE_BYTES_MAX, &wanted);
        }
        self.window.drop_oldest(&wanted);
    }
}

async fn fetch(reader: Weak<Shared>, id: u64, range: Option<ByteRange>) {
    if let Err(error) = stream(&reader, id, range).await
        && let Some(shared) = reader.upgrade()
    {
        shared.fail(id, &error);
    }
}

/// Asks for a segment until its bytes are there: a body that breaks is asked for again from where it broke, or, of a
/// whole object that is to be proved, from its beginning. The version is the same, wherever this mount has moved it
/// meanwhile.
async fn stream(reader: &Weak<Shared>, id: u64, range: Option<ByteRange>) -> Result<(), Error> {
    let Some(gateway) = reader.upgrade().map(|shared| Arc::clone(&shared.gateway)) else { return Ok(()) };
    let (mut tries, mut range) = (gateway.body_retries(), range);
    loop {
        let Some(location) = reader.upgrade().map(|shared| shared.location()) else { return Ok(()) };
        let download = gateway.get(&location.key, Some(&location.version), range).await?;
        let Some(began) = reader.upgrade().map(|shared| shared.began(&download.head)) else { return Ok(()) };
        began?;
        let Err(error) = receive(reader, id, download).await else {
            return reader.upgrade().map_or(Ok(()), |shared| shared.finish(id));
        };
        let Some(rest) = reader.upgrade().and_then(|shared| shared.state().window.resume(id)) else { return Ok(()) };
        tries.brought(range.map_or(0, |asked| rest.start.saturating_sub(asked.start())));
        if !tries.again(&error).await {
            return Err(error.into());
        }
        range = range.and(ByteRange::new(rest.start, rest.end));
    }
}

async fn receive(reader: &Weak<Shared>, id: u64, mut download: Download) -> Result<(), s3::Error> {
    while let Some(chunk) = download.next().await {
        let chunk = chunk?;
        if !reader.upgrade().is_some_and(|shared| shared.push(id, chunk)) {
            break;
        }
    }
    Ok(())
}
