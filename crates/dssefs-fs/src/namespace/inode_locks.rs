//! Turns: the store is asked for one change of a node at a time.
//!
//! Two chmods of one file would both copy the same version, and the second would find it replaced. A turn is not a lock
//! on state: nobody who reads the table waits for it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::node::Ino;

/// Who is being changed, and the bell for those who wait.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<HashSet<Ino>>,
    bell: Notify,
}

/// The right to change one node; given back on drop.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    ino: Ino,
}

impl Turns {
    /// Waits until nobody else changes `ino`.
    pub(super) async fn take(&self, ino: Ino) -> Turn<'_> {
        loop {
            let rung = self.bell.notified();
            if self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(ino) {
                return Turn { turns: self, ino };
            }
            rung.await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ino);
        self.turns.bell.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_waited_for_and_other_nodes_are_free() {
        let turns = Turns::default();
        let first = turns.take(Ino(1)).await;
        let _other = turns.take(Ino(2)).await;
        let mut second = Box::pin(turns.take(Ino(1)));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut second).is_ready());
    }
}
