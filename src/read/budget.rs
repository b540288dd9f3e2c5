//! The memory that all readers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes all readers together may hold or have under way.
///
/// Reading ahead asks and is refused when the budget is used up. What a program waits for is always granted, so that no reader
/// waits for another: the budget is exceeded by at most one read for each that waits.
#[derive(Debug)]
pub struct ReadBudget {
    bytes_max: u64,
    bytes: AtomicU64,
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
        Arc::new(ReadBudget { bytes_max, bytes: AtomicU64::new(0) })
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

    /// Takes `bytes` if so many are left.
    pub(super) fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Share> {
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
}
