//! Watches whether the store still answers, so that the end of a mount has a limit.
//!
//! `--stop-timeout` says how long the store may be silent. Before the mount ends there is no such limit.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The time that each request gets, however long the store was silent before: it may answer again.
const CHANCE: Duration = Duration::from_secs(1);
/// A store that takes bytes and answers nothing may be silent so many times longer, because a slow line needs it. There
/// is a limit, because those bytes may have reached no more than this host's own socket.
const STRETCH: u32 = 4;

/// When the store last answered or took a byte, and how long it may be silent.
#[derive(Debug)]
pub(super) struct StoreLiveness {
    signs: Mutex<Signs>,
    /// None before the mount ends: then only the limits of each request count.
    stop_timeout: watch::Sender<Option<Duration>>,
}

#[derive(Clone, Copy, Debug)]
struct Signs {
    answered: Instant,
    /// While the store was not given up.
    took: Instant,
    given_up: bool,
}

impl StoreLiveness {
    pub(super) fn new() -> StoreLiveness {
        let now = Instant::now();
        let signs = Signs { answered: now, took: now, given_up: false };
        StoreLiveness { signs: Mutex::new(signs), stop_timeout: watch::Sender::new(None) }
    }

    /// The store has answered.
    pub(super) fn answered(&self) {
        let mut signs = self.signs();
        signs.answered = Instant::now();
        signs.given_up = false;
    }

    /// The store has taken a piece of a body. Once the store is given up, only an answer counts: each new request sends
    /// its first bytes into a socket, whether or not a store reads them.
    pub(super) fn took(&self) {
        let mut signs = self.signs();
        if !signs.given_up {
            signs.took = Instant::now();
        }
    }

    /// From now on the store may be silent for `stop_timeout`; the limit of the first call counts. A store that was not
    /// given up had nothing to answer before a later call, so its silence begins there.
    pub(super) fn start_deadline(&self, stop_timeout: Duration) {
        {
            let mut signs = self.signs();
            if !signs.given_up {
                signs.answered = Instant::now();
            }
        }
        self.stop_timeout.send_if_modified(|limit| {
            let first = limit.is_none();
            limit.get_or_insert(stop_timeout);
            first
        });
    }

    /// Returns `stop_timeout` when the store has been silent for longer. Never returns before
    /// [`StoreLiveness::start_deadline`].
    pub(super) async fn wait_until_stalled(&self) -> Duration {
        let begun = Instant::now();
        let mut stop_timeout = self.stop_timeout.subscribe();
        let limit = match stop_timeout.wait_for(Option::is_some).await.map(|limit| *limit) {
            Ok(Some(limit)) => limit,
            // The sender is a field of this.
            Ok(None) | Err(_) => return std::future::pending().await,
        };
        let chance = begun + CHANCE;
        loop {
            let next = match self.lives_until(limit) {
                None if chance <= Instant::now() => return limit,
                end => end.unwrap_or(chance),
            };
            tokio::time::sleep_until(next).await;
        }
    }

    /// When the store will be given up if it stays silent; None once it is given up.
    fn lives_until(&self, limit: Duration) -> Option<Instant> {
        let mut signs = self.signs();
        let end = (signs.took.max(signs.answered) + limit).min(signs.answered + limit * STRETCH);
        signs.given_up = signs.given_up || end <= Instant::now();
        (!signs.given_up).then_some(end)
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn silence_has_no_limit_before_the_deadline_starts() {
        assert!(timeout(SHORT, StoreLiveness::new().wait_until_stalled()).await.is_err());
    }

    /// Programs had their time to close files, and no request was sent meanwhile.
    #[tokio::test]
    async fn a_pause_without_requests_is_no_silence_of_the_store() {
        let liveness = StoreLiveness::new();
        liveness.start_deadline(SHORT);
        tokio::time::sleep(SHORT * 2).await;
        liveness.start_deadline(SHORT);
        assert!(liveness.lives_until(SHORT).is_some());
        tokio::time::sleep(SHORT * 2).await;
        assert!(liveness.lives_until(SHORT).is_none());
        liveness.start_deadline(SHORT);
        assert!(liveness.lives_until(SHORT).is_none(), "it was asked and did not answer");
    }

    #[tokio::test]
    async fn a_silent_store_is_given_up_after_a_last_chance() {
        let liveness = StoreLiveness::new();
        liveness.start_deadline(SHORT);
        liveness.start_deadline(Duration::from_secs(1000));
        for _ in 0..2 {
            let begun = Instant::now();
            assert_eq!(timeout(Duration::from_secs(20), liveness.wait_until_stalled()).await, Ok(SHORT));
            assert!(begun.elapsed() >= CHANCE);
        }
    }

    const LIMIT: Duration = Duration::from_secs(100);

    /// A store that has answered and taken bytes so many seconds ago. No test has to wait for what is told of it.
    fn silent(answered: u64, took: u64) -> StoreLiveness {
        let (liveness, now) = (StoreLiveness::new(), Instant::now());
        let ago = |seconds| now - Duration::from_secs(seconds);
        *liveness.signs() = Signs { answered: ago(answered), took: ago(took), given_up: false };
        liveness
    }

    #[test]
    fn taken_bytes_extend_the_limit_but_revive_no_stalled_store() {
        for (answered, took, seconds_after_the_answer) in [
            (10, 10, Some(100)),
            (10, 0, Some(110)),
            (150, 60, Some(190)),
            (380, 10, Some(400)),
            (101, 101, None),
            (150, 101, None),
            (401, 0, None),
        ] {
            let liveness = silent(answered, took);
            let begun = liveness.signs().answered;
            let lives = liveness.lives_until(LIMIT).map(|end| (end - begun).as_secs());
            assert_eq!(lives, seconds_after_the_answer, "answered {answered} s ago, took bytes {took} s ago");
        }
        let liveness = silent(150, 101);
        assert_eq!(liveness.lives_until(LIMIT), None);
        liveness.took();
        assert_eq!(liveness.lives_until(LIMIT), None, "bytes may have come no further than this host's socket");
        liveness.answered();
        assert!(liveness.lives_until(LIMIT).is_some(), "it is back");
        liveness.took();
        assert!(liveness.lives_until(LIMIT).is_some());
    }

    #[tokio::test]
    async fn a_store_that_keeps_answering_is_not_given_up() {
        let liveness = StoreLiveness::new();
        liveness.start_deadline(Duration::from_secs(2));
        let answers = async {
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                liveness.answered();
            }
        };
        tokio::select! { () = answers => {}, _ = liveness.wait_until_stalled() => panic!("it was given up") }
    }
}
