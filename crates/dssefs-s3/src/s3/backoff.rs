//! Pauses before retries.

use std::time::Duration;

/// How long to wait before each retry: twice as long as before the last one, up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    jitter: Jitter,
}

/// Which part of a pause is random, so that callers that failed together do not return together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// None of it.
    None,
    /// The second half.
    Half,
    /// All of it.
    Full,
}

impl Backoff {
    /// `first` before the first retry, and never more than `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration, jitter: Jitter) -> Backoff {
        Backoff { first, max, jitter }
    }

    /// The pause before retry number `retry`, which counts from 1.
    #[must_use]
    pub fn pause(&self, retry: u32) -> Duration {
        // Nothing secret depends on these random numbers.
        match self.jitter {
            Jitter::None => self.longest(retry),
            Jitter::Half => self.longest(retry).mul_f64(0.5 + fastrand::f64() / 2.0),
            Jitter::Full => self.longest(retry).mul_f64(fastrand::f64()),
        }
    }

    fn longest(&self, retry: u32) -> Duration {
        let doubled = 2_u32.checked_pow(retry.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_limit() {
        let backoff = Backoff::new(FIRST, MAX, Jitter::None);
        let pauses = [1, 2, 3, 4, 5, 6, u32::MAX].map(|retry| backoff.pause(retry).as_millis());
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000, 1000]);
    }

    #[test]
    fn jitter_shortens_a_pause_by_its_share() {
        for (jitter, least) in [(Jitter::Half, FIRST), (Jitter::Full, Duration::ZERO)] {
            let pauses: Vec<_> = (0..1000).map(|_| Backoff::new(FIRST, MAX, jitter).pause(2)).collect();
            assert!(pauses.iter().all(|pause| (least..=2 * FIRST).contains(pause)), "{pauses:?}");
            let spread = pauses.iter().max().unwrap().abs_diff(*pauses.iter().min().unwrap());
            assert!(spread >= FIRST / 2, "{spread:?}");
        }
    }
}
