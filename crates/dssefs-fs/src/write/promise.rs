//! What a close(2) or an fsync(2) promises of a file, and how later changes join the next promise.

use std::sync::Arc;

use crate::spill;

use super::state::Promise;
use super::{Error, Writer};

impl Writer {
    /// Whether there are changes that no close or fsync has promised yet.
    #[must_use]
    pub fn has_unpromised(&self) -> bool {
        let state = self.state();
        state.has_changes() && (!state.is_promised() || state.changes_now() != state.changes)
    }

    /// The number of the last change that is promised and that the store does not have.
    #[must_use]
    pub fn promised(&self) -> Option<u64> {
        let state = self.state();
        state.is_promised().then_some(state.changes)
    }

    /// Promises the file as it is now, as far as that needs no waiting: what a later commit stores. False when the
    /// earlier promise has to be stored first.
    pub fn begin_promise(&self) -> bool {
        let mut state = self.state();
        let promise = state.promise(&self.buffer);
        if promise == Promise::Joining {
            let size = state.size;
            self.buffer.discard(size..u64::MAX);
        }
        promise != Promise::AfterTheEarlier
    }

    /// Promises the file as it is now. The caller has the turn.
    pub(super) async fn promise(self: &Arc<Self>) -> Result<(), Error> {
        if !self.begin_promise() {
            self.store_promise().await?;
            if !self.begin_promise() {
                // Its name was removed, so nothing was stored.
                return Ok(());
            }
        }
        self.join().await
    }

    /// Takes what was changed since the earlier promise into the new one. The caller has the turn.
    pub(super) async fn join(&self) -> Result<(), Error> {
        loop {
            let joined = self.with_room_after(|| self.others_give_room(), || self.join_some()).await?;
            if joined {
                return Ok(());
            }
        }
    }

    /// Moves some blocks; true when nothing is left to move.
    fn join_some(&self) -> Result<bool, spill::Error> {
        /// So many that other calls of this writer never wait for long.
        const BLOCKS: usize = 64;
        let mut state = self.state();
        if !state.is_joining() {
            return Ok(true);
        }
        for _ in 0..BLOCKS {
            match self.buffer.absorb_some(&self.since)? {
                Some(range) => state.take_in(&range),
                None => {
                    state.joined();
                    self.settled.notify_waiters();
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Waits until what was changed since a promise has been taken in, and takes it in where the call that began that
    /// has failed.
    pub(super) async fn joining_settled(&self) -> Result<(), Error> {
        let settled = self.settled.notified();
        if !self.state().is_joining() {
            return Ok(());
        }
        tokio::select! {
            () = settled => Ok(()),
            _turn = self.turn.lock() => self.join().await,
        }
    }
}
