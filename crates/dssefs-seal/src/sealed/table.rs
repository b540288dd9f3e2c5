//! Which generation of each block is the newest, and which thread is at work on it.
//!
//! The table is in memory only. That is what makes an old block useless to an attacker who brings it back.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};

use super::Charge;

/// What the disk holds at the place of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) generation: u64,
    pub(super) sealed_bytes: usize,
}

/// The table of one file. Its lock is held for look-ups only: never while a block is sealed, opened, written or read.
#[derive(Default)]
pub(super) struct Table {
    state: Mutex<State>,
    /// A claim was given up.
    unclaimed: Condvar,
}

#[derive(Default)]
struct State {
    places: HashMap<u64, Place>,
    generation_next: u64,
}

/// One block's place in the file.
#[derive(Default)]
struct Place {
    /// `None` while it is being overwritten, and after that failed.
    stored: Option<Stored>,
    /// What the place takes of the disk.
    charge: Option<Charge>,
    claimed: bool,
}

impl Table {
    /// What the disk holds for `block`, if it may be opened.
    pub(super) fn stored(&self, block: u64) -> Option<Stored> {
        self.lock().places.get(&block)?.stored
    }

    /// Blocks that have content on the disk.
    pub(super) fn len(&self) -> usize {
        self.lock().places.len()
    }

    /// Waits until no other thread changes `block`, then claims it for a change. The old content can be opened until
    /// [`Claim::overwrite`].
    pub(super) fn claim(&self, block: u64) -> Claim<'_> {
        let taken = |state: &mut State| state.places.get(&block).is_some_and(|place| place.claimed);
        let mut state = self.unclaimed.wait_while(self.lock(), taken).expect(UNBROKEN);
        state.places.entry(block).or_default().claimed = true;
        Claim { table: self, block }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNBROKEN)
    }
}

const UNBROKEN: &str = "nothing panics while it holds the lock of a table";

/// The right to change one block. Given up on drop; a place that then neither holds nor costs anything is forgotten.
pub(super) struct Claim<'a> {
    table: &'a Table,
    block: u64,
}

impl Claim<'_> {
    /// A generation that no block of this file ever had.
    pub(super) fn next_generation(&self) -> u64 {
        let mut state = self.table.lock();
        state.generation_next += 1;
        state.generation_next
    }

    /// Bytes that the place takes of the disk.
    pub(super) fn charged_bytes(&self) -> u64 {
        self.with(|place| place.charge.as_ref().map_or(0, Charge::bytes))
    }

    /// The content on the disk may no longer be opened: it is about to be overwritten. The place now costs `more` too.
    pub(super) fn overwrite(&self, more: Charge) {
        self.with(|place| {
            place.stored = None;
            match &mut place.charge {
                Some(charge) => charge.merge(more),
                none => *none = Some(more),
            }
        });
    }

    /// The disk now holds `stored`.
    pub(super) fn store(self, stored: Stored) {
        self.with(|place| place.stored = Some(stored));
    }

    /// The place may no longer be opened.
    pub(super) fn forget(&self) {
        self.with(|place| place.stored = None);
    }

    /// The place no longer costs anything. The returned charge is to be dropped outside of the lock.
    pub(super) fn release(&self) -> Option<Charge> {
        self.with(|place| place.charge.take())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Place) -> T) -> T {
        let mut state = self.table.lock();
        change(state.places.get_mut(&self.block).expect("a claimed place is never forgotten"))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.table.lock();
        if let Some(place) = state.places.get_mut(&self.block) {
            place.claimed = false;
            if place.stored.is_none() && place.charge.is_none() {
                state.places.remove(&self.block);
            }
        }
        drop(state);
        self.table.unclaimed.notify_all();
    }
}
