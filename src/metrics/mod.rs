//! What the daemon counts: requests to the store, bytes, retries, refused answers.
//!
//! Counters are atomics that only grow, so reading them never waits for anyone. This room does no I/O, decides nothing
//! and uses no other room.

mod store;

pub use store::{Operation, StoreCounters, StoreSnapshot};
