//! The other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A client, and the way to end its connection with a reset.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    reset: Arc<AtomicBool>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr) -> Peer {
        Peer { address, reset: Arc::default() }
    }

    /// Lets the end of this connection be a reset (TCP RST) rather than an orderly close.
    pub(super) fn reset(&self) {
        self.reset.store(true, Relaxed);
    }

    /// Whether a fault has asked for a reset.
    pub(super) fn is_reset(&self) -> bool {
        self.reset.load(Relaxed)
    }
}
