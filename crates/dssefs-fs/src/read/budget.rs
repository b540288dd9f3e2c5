//! The memory that all readers share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A reader whose program has not read for so long gives its bytes to those that read.
const IDLE_AFTER: Duration = Duration::from_secs(2);

/// How many bytes all readers together may hold or have under way.
///
/// Reading ahead asks and is refused when the budget is used up, after idle readers gave up theirs. What a program
/// waits for is always granted, so that no reader waits for another: the budget is exceeded by at most one read for
/// each that waits.
pub struct ReadBudget {
    bytes_max: u64,
    bytes: AtomicU64,
    idle_after: Duration,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

/// A reader that holds bytes of the budget.
pub(super) trait Holder: Send + Sync {
    /// Gives up its bytes, if no read came since `before`. Must not wait for anything: the caller may hold
    /// another holder's lock.
    fn give_up_if_idle(&self, before: Instant);
}

impl fmt::Debug for ReadBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBudget")
            .field("bytes_max", &self.bytes_max)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// Bytes taken from the budget; given back on drop.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<ReadBudget>,
    bytes: u64,
}

impl ReadBudget {
    /// A budget of `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Arc<ReadBudget> {
        Self::with_idle_after(bytes_max, IDLE_AFTER)
    }

    /// As [`ReadBudget::new`], with another time after which a reader counts as idle.
    #[must_use]
    pub fn with_idle_after(bytes_max: u64, idle_after: Duration) -> Arc<ReadBudget> {
        Arc::new(ReadBudget { bytes_max, bytes: AtomicU64::new(0), idle_after, holders: Mutex::default() })
    }

    /// How many bytes are taken now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether there is nothing left.
    pub(super) fn is_used_up(&self) -> bool {
        self.bytes() >= self.bytes_max
    }

    /// Takes `bytes` whatever is left.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Share {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Share { budget: Arc::clone(self), bytes }
    }

    /// Remembers a reader, to ask it for its bytes when it is idle.
    pub(super) fn register(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    /// Takes `bytes` if so many are left, or idle readers have them.
    pub(super) fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        self.take_if_left(bytes).or_else(|| {
            self.reclaim();
            self.take_if_left(bytes)
        })
    }

    fn reclaim(&self) {
        let Some(before) = Instant::now().checked_sub(self.idle_after) else { return };
        // Upgraded first and asked later: a reader that is dropped meanwhile must not find the list locked.
        let holders: Vec<_> = {
            let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
            holders.iter().filter_map(Weak::upgrade).collect()
        };
        holders.iter().for_each(|holder| holder.give_up_if_idle(before));
    }

    fn take_if_left(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        let taken = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.ok().map(|_| Share { budget: Arc::clone(self), bytes })
    }
}

impl Share {
    /// How many bytes it has.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.budget.bytes.fetch_sub(back, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ahead_stays_within_the_budget_and_waiting_reads_do_not_wait_for_it() {
        let budget = ReadBudget::new(100);
        let ahead = budget.try_take(60).unwrap();
        assert!(budget.try_take(41).is_none());
        let mut waited_for = budget.take(70);
        assert!(budget.is_used_up());
        waited_for.shrink_to(40);
        waited_for.shrink_to(50);
        assert_eq!(budget.bytes(), 100);
        drop((ahead, waited_for));
        assert_eq!(budget.bytes(), 0);
    }

    #[test]
    fn the_last_byte_of_the_budget_is_given() {
        let budget = ReadBudget::new(100);
        let _ahead = budget.try_take(60).unwrap();
        assert!(!budget.is_used_up());
        let rest = budget.try_take(40).unwrap();
        assert!(budget.is_used_up() && budget.try_take(1).is_none());
        drop(rest);
        assert!(!budget.is_used_up());
    }
}
