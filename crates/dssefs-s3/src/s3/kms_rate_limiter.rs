//! A rate limiter for requests that cost a KMS call.
//!
//! DSSE-KMS has no bucket keys, so each request on an object's content is a call to KMS. The whole account shares one
//! quota of calls ("Request quotas", KMS developer guide). Each such request takes the next free slot, in order. When
//! KMS throttles, the rate halves, and then it grows slowly. Time is an argument, so that tests can set it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::s3::metrics::Operation;

/// The lowest rate, in requests per second: a thousandth of the smallest quota, at which a person can still work.
const PER_SECOND_MIN: f64 = 10.0;
/// For how long unused slots are kept.
const BURST: Duration = Duration::from_millis(100);
/// Refusals within this time count once.
const SIGN: Duration = Duration::from_secs(1);
/// The rate grows by this part of itself each second, and by no more than [`GROWTH_OF_MAX`] of the highest.
const GROWTH: f64 = 0.1;
const GROWTH_OF_MAX: f64 = 1.0 / 60.0;
/// How far ahead retries may take slots. Retries do not wait for theirs, and a storm of them must not delay later
/// requests for long.
const CHARGED_AHEAD_MAX: Duration = Duration::from_secs(2);

/// Whether S3 calls KMS for a request on a DSSE-KMS object ("Required permissions for Amazon S3 API operations", S3
/// User Guide). A HEAD does only in checksum mode, which is rare here.
pub(super) fn calls_kms(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::GetObject
            | Operation::PutObject
            | Operation::CopyObject
            | Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            | Operation::GetObjectAnnotation
            | Operation::PutObjectAnnotation
    )
}

/// The rate limiter of one mount.
#[derive(Debug)]
pub(super) struct KmsRateLimiter(Option<Mutex<Rate>>);

impl KmsRateLimiter {
    /// At most `per_second_max` requests each second; 0 sets no limit at all.
    pub(super) fn new(per_second_max: u32) -> KmsRateLimiter {
        KmsRateLimiter((per_second_max > 0).then(|| Mutex::new(Rate::new(per_second_max, Instant::now()))))
    }

    /// Waits for a slot. Returns false at once, and takes none, if there is no slot within `wait_max`. Without a limit
    /// it returns true at once.
    pub(super) async fn acquire(&self, wait_max: Duration) -> bool {
        let wait = match self.rate() {
            None => return true,
            Some(mut rate) => rate.reserve(Instant::now(), wait_max),
        };
        match wait {
            None => false,
            Some(Duration::ZERO) => true,
            Some(wait) => {
                let mut slot = Slot { limiter: self, is_used: false };
                tokio::time::sleep(wait).await;
                slot.is_used = true;
                true
            }
        }
    }

    /// Takes a slot for a retry, which does not wait for it because it has a backoff of its own.
    pub(super) fn charge_retry(&self) {
        if let Some(mut rate) = self.rate() {
            rate.charge(Instant::now());
        }
    }

    /// KMS has throttled a request.
    pub(super) fn throttled(&self) {
        let lowered = self.rate().and_then(|mut rate| rate.lower(Instant::now()));
        if let Some(per_second) = lowered {
            tracing::warn!(
                requests_per_second = per_second.round(),
                "KMS throttles requests, and the daemon sends fewer; raise the account's KMS request quota, or lower \
                 --kms-requests-per-second"
            );
        }
    }

    fn rate(&self) -> Option<MutexGuard<'_, Rate>> {
        self.0.as_ref().map(|rate| rate.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A slot that a request waits for. A request that is dropped before gives it back.
struct Slot<'a> {
    limiter: &'a KmsRateLimiter,
    is_used: bool,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let (false, Some(mut rate)) = (self.is_used, self.limiter.rate()) {
            rate.give_back(Instant::now());
        }
    }
}

/// The rate and the slots that are taken.
#[derive(Debug)]
struct Rate {
    per_second_max: f64,
    per_second: f64,
    /// The next free slot.
    next: Instant,
    grown: Instant,
    lowered: Option<Instant>,
    /// When the present second began, and how many requests it let through; `before` is for the second before it.
    second: (Instant, f64),
    before: f64,
}

impl Rate {
    fn new(per_second_max: u32, now: Instant) -> Rate {
        let per_second_max = f64::from(per_second_max);
        Rate {
            per_second_max,
            per_second: per_second_max,
            next: now,
            grown: now,
            lowered: None,
            second: (now, 0.0),
            before: 0.0,
        }
    }

    /// Takes the next slot and returns the time until then; None if that is more than `wait_max`.
    fn reserve(&mut self, now: Instant, wait_max: Duration) -> Option<Duration> {
        self.grow(now);
        let slot = now.checked_sub(BURST).map_or(self.next, |earliest| self.next.max(earliest));
        let wait = slot.saturating_duration_since(now);
        if wait > wait_max {
            return None;
        }
        self.next = slot + Duration::from_secs_f64(1.0 / self.per_second);
        self.count(now);
        Some(wait)
    }

    /// Takes the next slot for a request that does not wait for it, unless retries have taken too many slots already.
    fn charge(&mut self, now: Instant) {
        if self.reserve(now, CHARGED_AHEAD_MAX).is_none() {
            self.count(now);
        }
    }

    /// Shortens the queue by one. Its last slot is free for the next request, and the one that was given up stays
    /// empty, so that the rate stays the same.
    fn give_back(&mut self, now: Instant) {
        let shorter = self.next.checked_sub(Duration::from_secs_f64(1.0 / self.per_second));
        self.next = shorter.map_or(self.next, |next| next.max(now)).min(self.next);
    }

    /// Halves the rate, starting from what was really sent to KMS lately, which may be far less than what was allowed.
    /// Returns the new rate, or None if a refusal within the same second has lowered it already.
    fn lower(&mut self, now: Instant) -> Option<f64> {
        if self.lowered.is_some_and(|last| now.duration_since(last) < SIGN) {
            return None;
        }
        self.grow(now);
        let asked = self.before.max(self.second.1);
        self.per_second = (self.per_second.min(asked) / 2.0).max(PER_SECOND_MIN).min(self.per_second_max);
        (self.lowered, self.grown) = (Some(now), now);
        Some(self.per_second)
    }

    fn grow(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.grown).as_secs_f64();
        let each_second = (self.per_second * GROWTH).min(self.per_second_max * GROWTH_OF_MAX);
        self.per_second = (self.per_second + seconds * each_second).min(self.per_second_max);
        self.grown = self.grown.max(now);
    }

    fn count(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.second.0);
        if age >= SIGN {
            self.before = if age < 2 * SIGN { self.second.1 } else { 0.0 };
            self.second = (now, 0.0);
        }
        self.second.1 += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(1000);

    /// How many requests get through in `seconds`, when each comes as soon as the one before it has had its turn.
    fn passed(rate: &mut Rate, from: Instant, seconds: u64) -> u32 {
        let (mut now, mut passed) = (from, 0);
        while now < from + Duration::from_secs(seconds) {
            now += rate.reserve(now, LONG).unwrap();
            passed += 1;
        }
        passed
    }

    #[test]
    fn no_more_requests_than_allowed_get_through_and_no_fewer() {
        let now = Instant::now();
        let passed = passed(&mut Rate::new(50, now), now, 10);
        assert!((500..=506).contains(&passed), "{passed}");
    }

    #[test]
    fn requests_are_served_in_order() {
        let now = Instant::now();
        let mut rate = Rate::new(10, now);
        let waits: Vec<_> = (0..20).map(|_| rate.reserve(now, LONG).unwrap()).collect();
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
        assert!(waits[19] <= Duration::from_secs(2), "{waits:?}");
    }

    #[test]
    fn a_queue_that_is_too_long_is_refused_and_does_not_grow() {
        let now = Instant::now();
        let mut rate = Rate::new(1, now);
        let taken = (0..100).filter(|_| rate.reserve(now, Duration::from_secs(5)).is_some()).count();
        assert!((5..=6).contains(&taken), "{taken}");
        assert!(rate.reserve(now + Duration::from_secs(10), Duration::ZERO).is_some(), "the queue is empty by then");
    }

    #[test]
    fn throttling_halves_what_was_asked_and_not_what_was_allowed() {
        let now = Instant::now();
        let mut rate = Rate::new(1000, now);
        for step in 0..100 {
            rate.reserve(now + Duration::from_millis(10 * step), LONG);
        }
        let then = now + Duration::from_millis(999);
        assert_eq!(rate.lower(then), Some(50.0));
        assert_eq!(rate.lower(then + Duration::from_millis(500)), None, "one burst of refusals is one sign");
    }

    #[test]
    fn the_rate_comes_back_slowly_and_never_ends() {
        let now = Instant::now();
        let mut rate = Rate::new(100, now);
        for second in 0..50 {
            rate.lower(now + Duration::from_secs(2 * second));
        }
        let then = now + Duration::from_secs(100);
        assert!(rate.per_second >= PER_SECOND_MIN);
        let soon = passed(&mut rate, then, 5);
        assert!(soon <= 90, "{soon} requests in five seconds after the last refusal");
        let now = then + Duration::from_secs(5);
        passed(&mut rate, now, 180);
        let later = passed(&mut rate, now + Duration::from_secs(180), 1);
        assert!((100..=112).contains(&later), "{later}");
    }

    #[test]
    fn a_storm_of_retries_does_not_keep_newcomers_waiting_for_long() {
        let now = Instant::now();
        let mut rate = Rate::new(2500, now);
        for second in 0..10 {
            let then = now + Duration::from_secs(second);
            rate.lower(then);
            (0..1000).for_each(|_| rate.charge(then));
        }
        let wait = rate.reserve(now + Duration::from_secs(10), LONG).unwrap();
        assert!(wait <= 2 * CHARGED_AHEAD_MAX, "{wait:?}");
    }

    #[test]
    fn slots_that_are_given_back_are_given_out_again() {
        let now = Instant::now();
        let mut rate = Rate::new(10, now);
        assert!((0..100).all(|_| rate.reserve(now, LONG).is_some()));
        (0..90).for_each(|_| rate.give_back(now));
        let wait = rate.reserve(now, LONG).unwrap();
        assert!((Duration::from_millis(800)..=Duration::from_millis(1100)).contains(&wait), "{wait:?}");
        (0..100).for_each(|_| rate.give_back(now));
        assert!(rate.next >= now, "no more slots come back than were taken");
    }

    #[tokio::test]
    async fn who_gives_up_waiting_gives_the_slot_back() {
        let limiter = KmsRateLimiter::new(1);
        assert!(limiter.acquire(LONG).await);
        for _ in 0..50 {
            let waiting = limiter.acquire(LONG);
            assert!(tokio::time::timeout(Duration::from_millis(1), waiting).await.is_err());
        }
        let wait = limiter.rate().unwrap().reserve(Instant::now(), LONG).unwrap();
        assert!(wait <= Duration::from_secs(2), "{wait:?}");
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits() {
        let limiter = KmsRateLimiter::new(0);
        limiter.throttled();
        let start = Instant::now();
        for _ in 0..10_000 {
            assert!(limiter.acquire(Duration::ZERO).await);
        }
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn after_a_pause_a_tenth_of_a_second_is_free_at_once() {
        let now = Instant::now();
        let mut rate = Rate::new(100, now);
        let later = now + Duration::from_secs(10);
        let free = (0..100).filter(|_| rate.reserve(later, LONG) == Some(Duration::ZERO)).count();
        assert_eq!(free, 11, "ten that were kept, and the one that is due now");
    }

    #[test]
    fn a_slot_exactly_as_far_away_as_one_may_wait_is_taken() {
        let now = Instant::now();
        let mut rate = Rate::new(1, now);
        rate.reserve(now, LONG).unwrap();
        assert_eq!(rate.reserve(now, Duration::from_millis(999)), None);
        assert_eq!(rate.reserve(now, Duration::from_secs(1)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_refusal_a_second_after_another_counts() {
        let now = Instant::now();
        let mut rate = Rate::new(1000, now);
        (0..100).for_each(|_| rate.count(now));
        assert_eq!(rate.lower(now), Some(50.0));
        assert_eq!(rate.lower(now + Duration::from_millis(999)), None);
        assert!(rate.lower(now + SIGN).is_some());
    }

    #[test]
    fn what_was_sent_two_seconds_ago_is_forgotten() {
        let now = Instant::now();
        let mut rate = Rate::new(1000, now);
        (0..100).for_each(|_| rate.count(now));
        rate.count(now + SIGN);
        assert_eq!((rate.before, rate.second.1), (100.0, 1.0));
        rate.count(now + 3 * SIGN);
        assert_eq!((rate.before, rate.second.1), (0.0, 1.0));
    }

    #[test]
    fn requests_on_content_alone_cost_kms_calls() {
        let costly = [
            Operation::GetObject,
            Operation::PutObject,
            Operation::CopyObject,
            Operation::GetObjectAnnotation,
            Operation::PutObjectAnnotation,
            Operation::CreateMultipartUpload,
            Operation::UploadPart,
            Operation::UploadPartCopy,
            Operation::CompleteMultipartUpload,
        ];
        let found: Vec<_> = Operation::ALL.into_iter().filter(|operation| calls_kms(*operation)).collect();
        assert_eq!(found, costly);
    }
}
