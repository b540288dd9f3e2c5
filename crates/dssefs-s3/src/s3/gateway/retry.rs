//! Retries of content whose body broke on its way, and of requests that met another one for the same key.

use std::time::Duration;

use tokio::time::Instant;

use super::Gateway;
use crate::s3::backoff::{Backoff, Jitter};
use crate::s3::error::{Error, Kind};
use crate::s3::metrics::StoreCounters;

/// The longest pause before the first retry. It is the same as for a request.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How often a request is sent again that met another one for the same key. S3 then answers 409
/// ConditionalRequestConflict, and the outcome of the race is known only when the other request has ended ("Conditional
/// writes", S3 User Guide).
const CONFLICTS_MAX: u32 = 6;
/// The pause after the first such answer. Each pause is twice the last one, cut by up to a half at random: some seconds
/// in all.
const CONFLICT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(3200), Jitter::Half);

/// The bytes that show that a line is slow and not dead: 1 MiB.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Decides whether to ask again for one piece of content whose body broke.
///
/// The SDK retries a GET until the head of its answer has come. The reader of the body retries the rest, because it
/// knows how much has arrived; the number of attempts and their time have the same limits.
pub struct BodyRetries<'a> {
    gateway: &'a Gateway,
    done: u32,
    done_max: u32,
    backoff: Backoff,
    end: Instant,
    received: u64,
}

impl Gateway {
    /// The retries for one piece of content. The caller makes them before its first request.
    #[must_use]
    pub fn body_retries(&self) -> BodyRetries<'_> {
        let (attempts_max, time_max) = self.store.limits();
        let backoff = Backoff::new(FIRST_PAUSE, time_max, Jitter::Full);
        let (done_max, end) = (attempts_max.saturating_sub(1), Instant::now() + time_max);
        BodyRetries { gateway: self, done: 0, done_max, backoff, end, received: 0 }
    }
}

/// Decides whether to send a request again that met another one for the same key.
#[derive(Debug, Default)]
pub struct ConflictRetries {
    done: u32,
}

impl ConflictRetries {
    /// Whether the caller shall ask again after `kind`; if so, returns after a pause.
    pub async fn again(&mut self, kind: Kind) -> bool {
        if kind != Kind::Conflict || self.done == CONFLICTS_MAX {
            return false;
        }
        self.done += 1;
        tokio::time::sleep(CONFLICT_BACKOFF.pause(self.done)).await;
        true
    }
}

impl BodyRetries<'_> {
    /// Notes `bytes` that have arrived and need not come again. A long range takes several attempts over a slow line;
    /// while each brings `PROGRESS_BYTES`, they do not count as failures.
    pub fn brought(&mut self, bytes: u64) {
        self.received += bytes;
        if self.received >= PROGRESS_BYTES {
            *self = self.gateway.body_retries();
        }
    }

    /// Whether the caller shall ask again after a body broke with `error`; if so, returns after a pause. Errors of
    /// [`Gateway::get`] itself are not for this: the SDK has made its own attempts then.
    pub async fn again(&mut self, error: &Error) -> bool {
        if !is_transient(error.kind) || self.done >= self.done_max || Instant::now() >= self.end {
            return false;
        }
        self.done += 1;
        tracing::info!(%error, "the content of an object broke on its way; the daemon asks for it again");
        StoreCounters::add(&self.gateway.store.counters().retries, 1);
        tokio::select! {
            () = tokio::time::sleep(self.backoff.pause(self.done)) => true,
            () = self.gateway.wait_until_stalled() => false,
        }
    }
}

/// Whether a body that broke in this way may arrive whole the next time.
fn is_transient(kind: Kind) -> bool {
    matches!(kind, Kind::Unreachable | Kind::Timeout | Kind::Integrity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_broke_or_came_damaged_is_asked_for_again() {
        assert!([Kind::Unreachable, Kind::Timeout, Kind::Integrity].into_iter().all(is_transient));
        let lasting = [
            Kind::NotFound,
            Kind::PreconditionFailed,
            Kind::Protocol,
            Kind::Local,
            Kind::KeyDisabled,
            Kind::AccessDenied { kms: true },
        ];
        assert!(!lasting.into_iter().any(is_transient));
    }
}
