//! Signs of life of the store, for an end that must not take for ever.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What a request is given in any case, however long the store was silent: it may have come back.
const CHANCE: Duration = Duration::from_secs(1);

/// When the store last gave an answer or took a byte, and how long it may be silent.
#[derive(Debug)]
pub(super) struct Pulse {
    last: Mutex<Instant>,
    /// None: for as long as the limits of each request allow.
    silence_max: watch::Sender<Option<Duration>>,
}

impl Pulse {
    pub(super) fn new() -> Pulse {
        Pulse { last: Mutex::new(Instant::now()), silence_max: watch::Sender::new(None) }
    }

    /// The store has answered, or has taken something.
    pub(super) fn beat(&self) {
        *self.last() = Instant::now();
    }

    /// From now on the store may be silent for `silence_max`; only the first call counts.
    pub(super) fn expect(&self, silence_max: Duration) {
        self.silence_max.send_if_modified(|limit| {
            let first = limit.is_none();
            if first {
                self.beat();
                *limit = Some(silence_max);
            }
            first
        });
    }

    /// Returns when the store has been silent for too long; how long that is. Never before it is asked to hurry.
    pub(super) async fn has_stopped(&self) -> Duration {
        let begun = Instant::now();
        let mut silence_max = self.silence_max.subscribe();
        let limit = match silence_max.wait_for(Option::is_some).await.map(|limit| *limit) {
            Ok(Some(limit)) => limit,
            // The sender is a field of this.
            Ok(None) | Err(_) => return std::future::pending().await,
        };
        loop {
            let end = (*self.last() + limit).max(begun + CHANCE);
            if end <= Instant::now() {
                return limit;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    fn last(&self) -> MutexGuard<'_, Instant> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn silence_ends_nothing_until_there_is_a_hurry() {
        assert!(timeout(SHORT, Pulse::new().has_stopped()).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_store_is_given_up_and_each_request_has_its_chance() {
        let pulse = Pulse::new();
        pulse.expect(SHORT);
        pulse.expect(Duration::from_secs(1000));
        for _ in 0..2 {
            let begun = Instant::now();
            assert_eq!(timeout(Duration::from_secs(20), pulse.has_stopped()).await, Ok(SHORT));
            assert!(begun.elapsed() >= CHANCE);
        }
    }

    #[tokio::test]
    async fn a_store_that_goes_on_answering_is_waited_for() {
        let pulse = Pulse::new();
        pulse.expect(Duration::from_secs(2));
        let answers = async {
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                pulse.beat();
            }
        };
        tokio::select! { () = answers => {}, _ = pulse.has_stopped() => panic!("it was given up") }
    }
}
