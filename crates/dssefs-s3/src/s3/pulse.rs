//! Signs of life of the store, for an end that must not take for ever.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What a request is given in any case, however long the store was silent: it may have come back.
const CHANCE: Duration = Duration::from_secs(1);
/// How many times the silence may be stretched by a store that takes bytes and answers nothing. A slow line needs it;
/// but bytes that are taken may have come no further than this host's own socket.
const STRETCH: u32 = 4;

/// When the store last gave an answer or took a byte, and how long it may be silent.
#[derive(Debug)]
pub(super) struct Pulse {
    signs: Mutex<Signs>,
    /// None: for as long as the limits of each request allow.
    silence_max: watch::Sender<Option<Duration>>,
}

#[derive(Clone, Copy, Debug)]
struct Signs {
    answered: Instant,
    /// By a store that was not given up yet.
    took: Instant,
    given_up: bool,
}

impl Pulse {
    pub(super) fn new() -> Pulse {
        let now = Instant::now();
        let signs = Signs { answered: now, took: now, given_up: false };
        Pulse { signs: Mutex::new(signs), silence_max: watch::Sender::new(None) }
    }

    /// The store has answered.
    pub(super) fn answered(&self) {
        let mut signs = self.signs();
        signs.answered = Instant::now();
        signs.given_up = false;
    }

    /// A piece of a body has gone out. A store that was given up needs to answer before this counts again: each new
    /// request sends its first bytes into a socket whoever listens.
    pub(super) fn took(&self) {
        let mut signs = self.signs();
        if !signs.given_up {
            signs.took = Instant::now();
        }
    }

    /// From now on the store may be silent for `silence_max`; only the first call counts.
    pub(super) fn expect(&self, silence_max: Duration) {
        self.silence_max.send_if_modified(|limit| {
            let first = limit.is_none();
            if first {
                self.answered();
                *limit = Some(silence_max);
            }
            first
        });
    }

    /// Returns when the store has been silent for too long; how long it may be. Never before it is asked to hurry.
    pub(super) async fn has_stopped(&self) -> Duration {
        let begun = Instant::now();
        let mut silence_max = self.silence_max.subscribe();
        let limit = match silence_max.wait_for(Option::is_some).await.map(|limit| *limit) {
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

    /// When the store is to be given up unless it gives a sign of life; None once it is.
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

    const LIMIT: Duration = Duration::from_secs(100);

    /// A store that has answered and taken bytes so many seconds ago. No test has to wait for what is told of it.
    fn silent(answered: u64, took: u64) -> Pulse {
        let (pulse, now) = (Pulse::new(), Instant::now());
        let ago = |seconds| now - Duration::from_secs(seconds);
        *pulse.signs() = Signs { answered: ago(answered), took: ago(took), given_up: false };
        pulse
    }

    #[test]
    fn bytes_that_are_taken_stretch_the_silence_and_do_not_bring_a_store_back_that_was_given_up() {
        for (answered, took, seconds_after_the_answer) in [
            (10, 10, Some(100)),
            (10, 0, Some(110)),
            (150, 60, Some(190)),
            (380, 10, Some(400)),
            (101, 101, None),
            (150, 101, None),
            (401, 0, None),
        ] {
            let pulse = silent(answered, took);
            let begun = pulse.signs().answered;
            let lives = pulse.lives_until(LIMIT).map(|end| (end - begun).as_secs());
            assert_eq!(lives, seconds_after_the_answer, "answered {answered} s ago, took bytes {took} s ago");
        }
        let pulse = silent(150, 101);
        assert_eq!(pulse.lives_until(LIMIT), None);
        pulse.took();
        assert_eq!(pulse.lives_until(LIMIT), None, "bytes may have come no further than this host's socket");
        pulse.answered();
        assert!(pulse.lives_until(LIMIT).is_some(), "it is back");
        pulse.took();
        assert!(pulse.lives_until(LIMIT).is_some());
    }

    #[tokio::test]
    async fn a_store_that_goes_on_answering_is_waited_for() {
        let pulse = Pulse::new();
        pulse.expect(Duration::from_secs(2));
        let answers = async {
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                pulse.answered();
            }
        };
        tokio::select! { () = answers => {}, _ = pulse.has_stopped() => panic!("it was given up") }
    }
}
