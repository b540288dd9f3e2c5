//! Single flight: callers that want the same thing at the same time share one fetch.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// How many abandoned flights may lie in the map before they are removed.
const ABANDONED_MAX: usize = 1024;

type Flight<T> = BoxFuture<'static, T>;

/// The fetches under way, by what is fetched. The map holds them weakly: a fetch lives as long as a caller waits for
/// it.
#[derive(Debug)]
pub(super) struct Flights<K, T: Clone> {
    under_way: Mutex<HashMap<K, WeakShared<Flight<T>>>>,
}

impl<K: Clone + Eq + Hash, T: Clone> Flights<K, T> {
    pub(super) fn new() -> Flights<K, T> {
        Flights { under_way: Mutex::new(HashMap::new()) }
    }

    /// Waits for the fetch of `key` that is under way, or else for the one that `start` makes.
    pub(super) async fn join(&self, key: K, start: impl FnOnce() -> Flight<T>) -> T {
        let flight = self.join_or_start(&key, start);
        let answer = flight.clone().await;
        self.finish(&key, &flight);
        answer
    }

    /// Begins the fetch of `key`, to be driven by the caller; None when one is under way already.
    pub(super) fn begin(&self, key: &K, start: impl FnOnce() -> Flight<T>) -> Option<Shared<Flight<T>>> {
        let mut started = false;
        let flight = self.join_or_start(key, || {
            started = true;
            start()
        });
        started.then_some(flight)
    }

    fn join_or_start(&self, key: &K, start: impl FnOnce() -> Flight<T>) -> Shared<Flight<T>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = under_way.get(key).and_then(WeakShared::upgrade) {
            return flight;
        }
        if under_way.len() > ABANDONED_MAX {
            under_way.retain(|_, flight| flight.upgrade().is_some());
        }
        let flight = start().shared();
        if let Some(weak) = flight.downgrade() {
            under_way.insert(key.clone(), weak);
        }
        flight
    }

    /// Forgets a fetch that is over: a later caller must not get its answer.
    pub(super) fn finish(&self, key: &K, flight: &Shared<Flight<T>>) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(key).and_then(WeakShared::upgrade).is_none_or(|held| held.ptr_eq(flight)) {
            under_way.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    static FETCHES: AtomicU32 = AtomicU32::new(0);

    fn fetch() -> Flight<u32> {
        let number = FETCHES.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::task::yield_now().await;
            number
        }
        .boxed()
    }

    #[tokio::test]
    async fn callers_at_one_time_share_one_fetch() {
        let flights = Flights::new();
        let (a, b) = futures_util::join!(flights.join(1, fetch), flights.join(1, fetch));
        assert_eq!(a, b);
        assert_ne!(flights.join(1, fetch).await, a);
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_fetch_that_all_callers_left_starts_again() {
        let flights = Flights::new();
        let mut left = Box::pin(flights.join(2, fetch));
        assert!(futures_util::poll!(&mut left).is_pending());
        drop(left);
        let before = FETCHES.load(Ordering::Relaxed);
        assert!(flights.join(2, fetch).await >= before);
    }
}
