//! Fences: nothing changes below a directory while it is moved, and nothing is moved while something below it changes.
//!
//! The kernel locks the two parents of a rename, not what is below the directory. So each change of a program takes a
//! passage of the nodes it concerns, all at once and only once, and a move closes its directory: it waits for the
//! passages below it, and new ones wait for it. Who holds a passage never waits for another, so nobody waits in a
//! circle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Namespace;
use super::node::Ino;

/// What is closed, who passes, and the bell for those who wait.
#[derive(Debug, Default)]
pub(super) struct Fences {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    closed: HashMap<u64, Ino>,
    passing: HashMap<u64, [Option<Ino>; 2]>,
}

/// The right to change something; given back on drop.
#[derive(Debug)]
pub struct Passage {
    namespace: Arc<Namespace>,
    ticket: u64,
}

/// A directory below which nobody but the holder changes anything; opened on drop.
#[derive(Debug)]
pub struct Closed {
    namespace: Arc<Namespace>,
    ticket: u64,
}

impl Namespace {
    /// Waits until no move is under way that `node` is part of. To be taken by each call of a program that changes
    /// something, before anything else, and not a second time by what it calls.
    pub async fn pass(self: &Arc<Self>, node: Ino) -> Passage {
        self.pass_all([Some(node), None]).await
    }

    /// The same for two nodes at once.
    pub async fn pass_both(self: &Arc<Self>, a: Ino, b: Ino) -> Passage {
        self.pass_all([Some(a), Some(b)]).await
    }

    async fn pass_all(self: &Arc<Self>, nodes: [Option<Ino>; 2]) -> Passage {
        loop {
            let rung = self.fences.bell.notified();
            if let Some(ticket) = self.try_pass(nodes) {
                return Passage { namespace: Arc::clone(self), ticket };
            }
            rung.await;
        }
    }

    /// Keeps changes out of `directory` and what is below, and waits for those that are under way.
    pub async fn close(self: &Arc<Self>, directory: Ino) -> Closed {
        let ticket = self.fences.state().close(directory);
        let closed = Closed { namespace: Arc::clone(self), ticket };
        loop {
            let rung = self.fences.bell.notified();
            if !self.is_passed_below(directory) {
                return closed;
            }
            rung.await;
        }
    }

    fn try_pass(&self, nodes: [Option<Ino>; 2]) -> Option<u64> {
        let mut state = self.fences.state();
        let free = state.closed.is_empty() || {
            let table = self.table();
            let open = |ino: &Ino| state.closed.values().all(|root| !table.is_below(*ino, *root));
            nodes.iter().flatten().all(open)
        };
        free.then(|| state.enter(nodes))
    }

    fn is_passed_below(&self, directory: Ino) -> bool {
        let state = self.fences.state();
        let table = self.table();
        state.passing.values().flatten().flatten().any(|ino| table.is_below(*ino, directory))
    }
}

impl Fences {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ticket(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn enter(&mut self, nodes: [Option<Ino>; 2]) -> u64 {
        let ticket = self.ticket();
        self.passing.insert(ticket, nodes);
        ticket
    }

    fn close(&mut self, directory: Ino) -> u64 {
        let ticket = self.ticket();
        self.closed.insert(ticket, directory);
        ticket
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let fences = &self.namespace.fences;
        let awaited = {
            let mut state = fences.state();
            state.passing.remove(&self.ticket);
            !state.closed.is_empty()
        };
        if awaited {
            fences.bell.notify_waiters();
        }
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.namespace.fences.state().closed.remove(&self.ticket);
        self.namespace.fences.bell.notify_waiters();
    }
}
