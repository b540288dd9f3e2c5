//! Content that breaks on its way is asked for again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::Gateway;
use crate::s3::error::{Error, Kind};
use crate::s3::metrics::StoreCounters;

/// Before the first attempt that is not the first, at most; it doubles from one to the next, as that of requests does.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What shows that a line is slow and not dead: 1 MiB.
const PROGRESS_BYTES: u64 = 1 << 20;

/// How often, and for how long, content is asked for again whose body broke. The SDK's attempts at a GET end with the
/// head of its answer, so what follows is tried again by whoever knows what has arrived of it, under the same limits.
pub struct BodyRetries<'a> {
    gateway: &'a Gateway,
    left: u32,
    pause_max: Duration,
    end: Instant,
    brought: u64,
}

impl Gateway {
    /// For one piece of content, before it is asked for first.
    #[must_use]
    pub fn body_retries(&self) -> BodyRetries<'_> {
        let (attempts_max, time_max) = self.store.limits();
        let left = attempts_max.saturating_sub(1);
        BodyRetries { gateway: self, left, pause_max: FIRST_PAUSE, end: Instant::now() + time_max, brought: 0 }
    }
}

impl BodyRetries<'_> {
    /// Takes note of `bytes` that came and need not come again. Over a slow line a long range takes several attempts;
    /// as long as each brings `PROGRESS_BYTES`, they are not counted as failures.
    pub fn brought(&mut self, bytes: u64) {
        self.brought += bytes;
        if self.brought >= PROGRESS_BYTES {
            *self = self.gateway.body_retries();
        }
    }

    /// Whether the content is to be asked for again after a body broke with `error`; returns after a pause if so. Not
    /// for errors of [`Gateway::get`], which has made its own attempts.
    pub async fn again(&mut self, error: &Error) -> bool {
        if !passes(error.kind) || self.left == 0 || Instant::now() >= self.end {
            return false;
        }
        self.left -= 1;
        let pause = self.pause_max.mul_f64(random_part());
        self.pause_max *= 2;
        tracing::info!(%error, "content broke on its way; it is asked for again");
        StoreCounters::add(&self.gateway.store.counters().retries, 1);
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.gateway.wait_until_stalled() => false,
        }
    }
}

/// Whether a body that broke in this way may come whole the next time.
fn passes(kind: Kind) -> bool {
    matches!(kind, Kind::Unreachable | Kind::Timeout | Kind::Integrity)
}

/// 0 to 1, so that those who were struck together do not come back together. Nothing secret depends on it.
fn random_part() -> f64 {
    f64::from(u16::try_from(RandomState::new().hash_one(()) >> 48).unwrap_or(u16::MAX)) / f64::from(u16::MAX)
}
