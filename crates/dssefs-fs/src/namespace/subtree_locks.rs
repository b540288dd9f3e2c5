//! Shared and exclusive locks of subtrees: nothing changes below a directory while it is renamed, and no directory is
//! renamed while something below it changes.
//!
//! The kernel locks the two parents of a rename, but not what is below the directory. So each call that changes
//! something takes a shared lock of the nodes it concerns: all at once, and only once. The rename of a directory takes
//! an exclusive lock of it, and of an empty directory that it replaces. That waits for the shared locks below them, and
//! new ones wait for it. It also waits for exclusive locks that others hold already: a rename that failed keeps its
//! lock until it is undone, and by then the kernel has let go of both parents.
//!
//! A caller that has a shared lock never waits for another shared one, and the holder of an exclusive lock waits for no
//! lock at all. Two callers that still wait for their exclusive locks do not wait for each other. So there is no
//! deadlock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Namespace;
use super::node::Ino;

/// The locks that are held, and those that are waited for.
#[derive(Debug, Default)]
pub(super) struct SubtreeLocks {
    state: Mutex<State>,
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_ticket: u64,
    /// The exclusive locks, by ticket.
    exclusive: HashMap<u64, Exclusive>,
    /// The nodes of each shared lock, by ticket.
    shared: HashMap<u64, [Option<Ino>; 2]>,
}

/// An exclusive lock that is held, or waited for. New shared locks wait for both.
#[derive(Debug)]
struct Exclusive {
    roots: [Option<Ino>; 2],
    is_held: bool,
}

/// The right to change something, until it is dropped.
#[derive(Debug)]
pub struct SharedSubtreeGuard {
    namespace: Arc<Namespace>,
    ticket: u64,
}

/// One or two directories that only the holder changes, with all that is below them, until it is dropped.
#[derive(Debug)]
pub struct ExclusiveSubtreeGuard {
    namespace: Arc<Namespace>,
    ticket: u64,
}

impl Namespace {
    /// Waits until no rename of a directory is under way that `node` is part of. Each call that changes something takes
    /// this lock before anything else, and its callees do not take it again.
    pub async fn lock_shared(self: &Arc<Self>, node: Ino) -> SharedSubtreeGuard {
        self.lock_all_shared([Some(node), None]).await
    }

    /// The same for two nodes at once.
    pub async fn lock_shared_both(self: &Arc<Self>, a: Ino, b: Ino) -> SharedSubtreeGuard {
        self.lock_all_shared([Some(a), Some(b)]).await
    }

    async fn lock_all_shared(self: &Arc<Self>, nodes: [Option<Ino>; 2]) -> SharedSubtreeGuard {
        loop {
            let released = self.subtree_locks.released.notified();
            if let Some(ticket) = self.try_lock_shared(nodes) {
                return SharedSubtreeGuard { namespace: Arc::clone(self), ticket };
            }
            released.await;
        }
    }

    /// Keeps changes out of `directory` and `other`, and of what is below them, and waits for those that are under way.
    /// The caller has no shared lock of a node at or below either.
    pub async fn lock_exclusive(self: &Arc<Self>, directory: Ino, other: Option<Ino>) -> ExclusiveSubtreeGuard {
        let ticket = self.subtree_locks.state().add_exclusive([Some(directory), other]);
        let guard = ExclusiveSubtreeGuard { namespace: Arc::clone(self), ticket };
        loop {
            let released = self.subtree_locks.released.notified();
            if self.try_lock_exclusive(ticket) {
                return guard;
            }
            released.await;
        }
    }

    fn try_lock_shared(&self, nodes: [Option<Ino>; 2]) -> Option<u64> {
        let mut state = self.subtree_locks.state();
        let is_free = state.exclusive.is_empty() || {
            let table = self.table();
            let is_outside =
                |ino: &Ino| state.exclusive.values().all(|lock| lock.roots().all(|root| !table.is_below(*ino, root)));
            nodes.iter().flatten().all(is_outside)
        };
        is_free.then(|| state.add_shared(nodes))
    }

    /// Holds the exclusive lock `ticket`, unless another caller holds a lock that overlaps it.
    fn try_lock_exclusive(&self, ticket: u64) -> bool {
        let mut state = self.subtree_locks.state();
        let is_free = {
            let table = self.table();
            let Some(wanted) = state.exclusive.get(&ticket) else { return false };
            let is_inside = |ino: Ino| wanted.roots().any(|root| table.is_below(ino, root));
            let overlaps = |root: Ino| is_inside(root) || wanted.roots().any(|ino| table.is_below(ino, root));
            let is_shared = state.shared.values().flatten().flatten().any(|ino| is_inside(*ino));
            let is_exclusive = state.exclusive.values().any(|other| other.is_held && other.roots().any(&overlaps));
            !is_shared && !is_exclusive
        };
        if let (true, Some(lock)) = (is_free, state.exclusive.get_mut(&ticket)) {
            lock.is_held = true;
        }
        is_free
    }
}

impl Exclusive {
    fn roots(&self) -> impl Iterator<Item = Ino> + '_ {
        self.roots.iter().flatten().copied()
    }
}

impl SubtreeLocks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new_ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    fn add_shared(&mut self, nodes: [Option<Ino>; 2]) -> u64 {
        let ticket = self.new_ticket();
        self.shared.insert(ticket, nodes);
        ticket
    }

    fn add_exclusive(&mut self, roots: [Option<Ino>; 2]) -> u64 {
        let ticket = self.new_ticket();
        self.exclusive.insert(ticket, Exclusive { roots, is_held: false });
        ticket
    }
}

impl Drop for SharedSubtreeGuard {
    fn drop(&mut self) {
        let locks = &self.namespace.subtree_locks;
        let is_awaited = {
            let mut state = locks.state();
            state.shared.remove(&self.ticket);
            !state.exclusive.is_empty()
        };
        if is_awaited {
            locks.released.notify_waiters();
        }
    }
}

impl Drop for ExclusiveSubtreeGuard {
    fn drop(&mut self) {
        self.namespace.subtree_locks.state().exclusive.remove(&self.ticket);
        self.namespace.subtree_locks.released.notify_waiters();
    }
}
