//! A limit in bytes that many share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// So many bytes, and never more.
pub struct ByteBudget {
    used: AtomicU64,
    bytes_max: u64,
    on_release: Box<dyn Fn() + Send + Sync>,
}

impl ByteBudget {
    /// A budget of `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Self::with_notice(bytes_max, || {})
    }

    /// A budget that calls `on_release` whenever bytes came back, after they did.
    pub fn with_notice(bytes_max: u64, on_release: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(ByteBudget { used: AtomicU64::new(0), bytes_max, on_release: Box::new(on_release) })
    }

    /// Bytes charged at this moment.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// The limit.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Takes all of `bytes`, or nothing.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let raised = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.bytes_max);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, raised).ok()?;
        Some(Charge { budget: Arc::clone(self), bytes })
    }

    fn release(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::SeqCst);
            (self.on_release)();
        }
    }
}

impl fmt::Debug for ByteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByteBudget({} of {} bytes)", self.used_bytes(), self.bytes_max)
    }
}

/// A part of a budget, given back on drop.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<ByteBudget>,
    bytes: u64,
}

impl Charge {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` out of this charge into one of their own.
    ///
    /// # Panics
    /// When the charge holds fewer.
    pub fn split(&mut self, bytes: u64) -> Charge {
        self.bytes = self.bytes.checked_sub(bytes).expect("more bytes are taken than were charged");
        Charge { budget: Arc::clone(&self.budget), bytes }
    }

    /// Makes two charges one. Both must be of the same budget.
    pub fn merge(&mut self, mut other: Charge) {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget), "charges of two budgets cannot be merged");
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_exceeded_and_comes_back() {
        let budget = ByteBudget::new(100);
        let held = budget.charge(60).unwrap();
        assert!(budget.charge(41).is_none());
        assert!(budget.charge(u64::MAX).is_none());
        assert_eq!(budget.used_bytes(), 60);
        drop(held);
        assert_eq!(budget.charge(100).unwrap().bytes(), 100);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn splitting_and_merging_keep_the_sum() {
        let budget = ByteBudget::new(100);
        let mut charge = budget.charge(50).unwrap();
        let part = charge.split(20);
        assert_eq!((charge.bytes(), part.bytes(), budget.used_bytes()), (30, 20, 50));
        charge.merge(part);
        assert_eq!((charge.bytes(), budget.used_bytes()), (50, 50));
    }

    #[test]
    fn each_release_is_told_after_it_happened() {
        let told = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&told);
        let budget = ByteBudget::with_notice(10, move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        drop(budget.charge(10).unwrap());
        drop(budget.charge(0).unwrap());
        assert_eq!(told.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_budget_is_used_up_to_its_last_byte_and_no_further() {
        let budget = ByteBudget::new(100);
        let _held = budget.charge(60).unwrap();
        let last = budget.charge(40).unwrap();
        assert!(budget.charge(1).is_none());
        assert_eq!((budget.used_bytes(), budget.charge(0).unwrap().bytes()), (100, 0));
        drop(last);
        assert_eq!(budget.used_bytes(), 60);
    }
}
