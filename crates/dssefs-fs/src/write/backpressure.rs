//! Back-pressure: a write or a commit waits for memory or disk that other parts or commits are about to give back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::spill;

use super::{Engine, Error, Writer};

impl Writer {
    /// Repeats `attempt` while all memory is held by parts under way.
    pub(super) async fn with_room<T>(&self, attempt: impl Fn() -> Result<T, spill::Error>) -> Result<T, Error> {
        self.with_room_after(|| false, attempt).await
    }

    /// The same, and where there is no room at all, for as long as something is going on `meanwhile` that may give some
    /// back.
    pub(super) async fn with_room_after<T>(
        &self,
        meanwhile: impl Fn() -> bool,
        attempt: impl Fn() -> Result<T, spill::Error>,
    ) -> Result<T, Error> {
        let wait_max = self.engine.settings.wait_max;
        let deadline = Instant::now() + wait_max;
        for tries in 0_u32.. {
            let released = self.engine.pool.released();
            // Asked before the attempt: a commit that ends in between has freed its room and given notice.
            let hopeful = meanwhile();
            match attempt() {
                Err(error) if matches!(error, spill::Error::Busy) || (hopeful && error.is_no_space()) => {
                    self.wait_for(released, deadline).await?;
                    if let Some(pause) = pause_after(tries) {
                        sleep(pause).await;
                    }
                }
                outcome => return Ok(outcome?),
            }
        }
        unreachable!("the deadline comes before so many tries")
    }

    /// Waits for `released`, and no longer than until `deadline`, nor for a store that the end of the mount has given
    /// up.
    pub(super) async fn wait_for<T>(&self, released: impl Future<Output = T>, deadline: Instant) -> Result<T, Error> {
        let seconds = self.engine.settings.wait_max.as_secs();
        let stalled = async { timeout_at(deadline, released).await.map_err(|_| Error::Stalled { seconds }) };
        room_unless(stalled, self.engine.gateway.wait_until_stalled()).await
    }

    /// Whether files are being committed, which gives their room back. No commit waits for a program that writes.
    pub(super) fn commits_are_under_way(&self) -> bool {
        self.engine.commits.load(Ordering::SeqCst) > 0
    }

    /// The same for a commit itself: whether there are others, and not all of them wait for this one.
    pub(super) fn others_give_room(&self) -> bool {
        let blocked = self.engine.blocked.load(Ordering::SeqCst);
        self.engine.commits.load(Ordering::SeqCst) > 1 + blocked
    }
}

impl Engine {
    /// Counts a commit that waits until all others have given back what they took for their parts.
    pub(super) fn blocked(&self) -> Blocked<'_> {
        self.blocked.fetch_add(1, Ordering::SeqCst);
        // Waiters that counted on this commit look again.
        self.pool.wake();
        Blocked(self)
    }
}

/// A commit that waits, until it is dropped.
pub(super) struct Blocked<'a>(&'a Engine);

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.blocked.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The outcome of waiting for `room`, or [`Error::GivenUp`] once the store is given up.
async fn room_unless<T>(
    room: impl Future<Output = Result<T, Error>>,
    is_given_up: impl Future<Output = ()>,
) -> Result<T, Error> {
    tokio::select! { outcome = room => outcome, () = is_given_up => Err(Error::GivenUp) }
}

/// Many may wait for the same room, and each search for it goes through all files. A caller that was often too late
/// waits a little longer.
fn pause_after(tries: u32) -> Option<Duration> {
    const NO_PAUSE_TRIES: u32 = 2;
    const DOUBLINGS_MAX: u32 = 8;
    let more = tries.checked_sub(NO_PAUSE_TRIES)?;
    Some(Duration::from_millis(1 << more.min(DOUBLINGS_MAX)))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// At the end of a mount the error named 120 s, although the store had been silent for a shorter time.
    #[tokio::test]
    async fn waiting_for_a_given_up_store_returns_given_up() {
        assert!(room_unless(ready(Ok(())), pending()).await.is_ok());
        let stalled = || ready(Err::<(), _>(Error::Stalled { seconds: 120 }));
        assert!(matches!(room_unless(stalled(), pending()).await, Err(Error::Stalled { .. })));
        let given_up = room_unless::<()>(pending(), ready(())).await.unwrap_err();
        assert!(matches!(given_up, Error::GivenUp) && !given_up.to_string().contains("within"), "{given_up}");
    }

    #[test]
    fn each_late_try_waits_longer_up_to_a_limit() {
        assert_eq!(
            [0, 1, 2, 3].map(pause_after),
            [None, None, Some(1), Some(2)].map(|ms| ms.map(Duration::from_millis))
        );
        assert_eq!(pause_after(u32::MAX), Some(Duration::from_millis(256)));
    }
}
