//! Slots for work that waits for the store: what stalls gives way to what was not tried yet.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a first try keeps its slot.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// Slots for first tries, and others for what takes long and for what is tried again. So no number of requests that
/// stall keeps other work waiting for much more than five seconds, as long as there are slots of the second kind.
pub struct Slots {
    first: Semaphore,
    again: Semaphore,
    hold_max: Duration,
}

/// Which try a piece of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Try {
    /// It has not failed yet.
    First,
    /// It has failed before.
    Again,
}

impl Slots {
    /// `first` slots for first tries, and `again` for all else.
    #[must_use]
    pub fn new(first: usize, again: usize) -> Slots {
        Slots { first: Semaphore::new(first), again: Semaphore::new(again), hold_max: HOLD_MAX }
    }

    /// Does `work` when there is a slot for it.
    pub async fn run<T>(&self, which: Try, work: impl Future<Output = T>) -> T {
        const OPEN: &str = "the semaphore is never closed";
        let mut work = std::pin::pin!(work);
        if which == Try::Again {
            let _again = self.again.acquire().await.expect(OPEN);
            return work.await;
        }
        // 1. A first try has a slot of its own for a while.
        let first = self.first.acquire().await.expect(OPEN);
        if let Ok(done) = timeout(self.hold_max, &mut work).await {
            return done;
        }
        // 2. Then it goes on beside the first tries, if it finds a slot there.
        let _again = tokio::select! {
            done = &mut work => return done,
            again = self.again.acquire() => again.expect(OPEN),
        };
        drop(first);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    /// Starts work that ends when `end` is notified.
    fn stalled(slots: &Arc<Slots>, which: Try, end: &Arc<Notify>) -> tokio::task::JoinHandle<()> {
        let (slots, end) = (Arc::clone(slots), Arc::clone(end));
        tokio::spawn(async move { slots.run(which, end.notified()).await })
    }

    /// Slots in which nothing stays for long.
    fn slots(first: usize, again: usize) -> Arc<Slots> {
        Arc::new(Slots { hold_max: Duration::from_millis(1), ..Slots::new(first, again) })
    }

    /// Two files whose parts stalled held all slots, and the close of a third one waited for over 100 s.
    #[tokio::test]
    async fn a_first_try_does_not_wait_for_those_that_stall() {
        let (slots, end) = (slots(2, 2), Arc::new(Notify::new()));
        let both = [stalled(&slots, Try::First, &end), stalled(&slots, Try::First, &end)];
        tokio::task::yield_now().await;
        assert_eq!(slots.first.available_permits(), 0, "or this shows nothing");
        slots.run(Try::First, std::future::ready(())).await;
        while slots.first.available_permits() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(slots.again.available_permits(), 0);
        end.notify_waiters();
        for ended in both {
            ended.await.unwrap();
        }
        assert_eq!((slots.first.available_permits(), slots.again.available_permits()), (2, 2));
    }

    #[tokio::test]
    async fn second_tries_take_no_slot_of_first_ones() {
        let (slots, end) = (slots(1, 1), Arc::new(Notify::new()));
        let _stalled = [stalled(&slots, Try::Again, &end), stalled(&slots, Try::Again, &end)];
        tokio::task::yield_now().await;
        assert_eq!(slots.again.available_permits(), 0);
        slots.run(Try::First, std::future::ready(())).await;
    }
}
