//! One lock for each inode: this mount asks the store for one change of a node at a time.
//!
//! Two chmods of one file would both copy the same version, and the second would find that version replaced. A lock is
//! not on the table: a caller that only reads the table waits for no lock.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::node::Ino;

/// The inodes that are locked.
#[derive(Debug, Default)]
pub(super) struct InodeLocks {
    locked: Mutex<HashSet<Ino>>,
    released: Notify,
}

/// The right to change one node, until it is dropped.
#[derive(Debug)]
pub(super) struct InodeGuard<'a> {
    locks: &'a InodeLocks,
    ino: Ino,
}

impl InodeLocks {
    /// Waits until no other caller changes `ino`.
    pub(super) async fn lock(&self, ino: Ino) -> InodeGuard<'_> {
        loop {
            let released = self.released.notified();
            if self.locked.lock().unwrap_or_else(PoisonError::into_inner).insert(ino) {
                return InodeGuard { locks: self, ino };
            }
            released.await;
        }
    }
}

impl Drop for InodeGuard<'_> {
    fn drop(&mut self) {
        self.locks.locked.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ino);
        self.locks.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_lock_of_one_inode_waits_and_other_inodes_are_free() {
        let locks = InodeLocks::default();
        let first = locks.lock(Ino(1)).await;
        let _other = locks.lock(Ino(2)).await;
        let mut second = Box::pin(locks.lock(Ino(1)));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut second).is_ready());
    }
}
