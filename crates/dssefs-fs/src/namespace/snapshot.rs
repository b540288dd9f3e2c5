//! The names of whole directories in memory, and the limit on all of them together.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::Error;
use super::node::DirEntry;

/// What one entry of a snapshot takes beside its name, in bytes: the entry itself, and what the allocator adds to the
/// name.
const ENTRY_BYTES: u64 = 64;

/// How many bytes the names of listings that are under way and of directories that programs have open may take
/// together.
///
/// The store decides how long a listing is, and programs decide how many directories they have open, so neither may
/// decide how much memory that takes.
#[derive(Debug)]
pub struct NamesBudget {
    bytes_max: u64,
    bytes: AtomicU64,
}

/// Bytes taken from the budget; given back on drop.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<NamesBudget>,
    bytes: u64,
}

impl NamesBudget {
    /// A budget of `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Arc<NamesBudget> {
        Arc::new(NamesBudget { bytes_max, bytes: AtomicU64::new(0) })
    }

    /// The most that it gives, in bytes.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// How many bytes are taken now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Nothing as yet; see [`Share::grow`].
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), bytes: 0 }
    }
}

impl Share {
    pub(super) fn budget(&self) -> &NamesBudget {
        &self.budget
    }

    /// Takes `bytes` more, if so many are left; whether they were.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        let max = self.budget.bytes_max;
        let grown = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= max);
        let is_granted = self.budget.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        self.bytes += if is_granted { bytes } else { 0 };
        is_granted
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The entries of a directory at one moment, sorted by name. All who read the directory while it stays as it is have
/// the same one.
#[derive(Debug)]
pub struct Snapshot {
    entries: Vec<DirEntry>,
    share: Share,
}

impl Snapshot {
    /// [`Error::NoRoomForNames`] when the budget is used up.
    pub(super) fn new(
        budget: &Arc<NamesBudget>,
        mut entries: Vec<DirEntry>,
        directory: &str,
    ) -> Result<Arc<Snapshot>, Error> {
        entries.shrink_to_fit();
        let mut share = budget.share();
        let bytes = entries.iter().map(|entry| ENTRY_BYTES + entry.name.as_str().len() as u64).sum();
        if !share.grow(bytes) {
            return Err(Error::no_room(directory, entries.len(), budget.bytes_max()));
        }
        Ok(Arc::new(Snapshot { entries, share }))
    }

    /// What it counts for in the budget, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.share.bytes
    }
}

impl Deref for Snapshot {
    type Target = [DirEntry];

    fn deref(&self) -> &[DirEntry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::{Ino, Kind};
    use dssefs_s3::object::Name;

    fn entries(count: usize) -> Vec<DirEntry> {
        let entry = |n| DirEntry { ino: Ino(n), kind: Some(Kind::File), name: Name::new(&format!("{n:06}")).unwrap() };
        (0..count as u64).map(entry).collect()
    }

    #[test]
    fn a_snapshot_beyond_the_budget_is_refused_and_a_dropped_one_gives_its_bytes_back() {
        let budget = NamesBudget::new(100 * 70);
        let first = Snapshot::new(&budget, entries(60), "d").unwrap();
        assert_eq!((first.bytes(), budget.bytes()), (4200, 4200));
        let error = Snapshot::new(&budget, entries(41), "d").unwrap_err();
        assert!(matches!(error, Error::NoRoomForNames { names: 41, .. }), "{error}");
        assert_eq!(budget.bytes(), 4200, "a refusal takes nothing");
        drop(first);
        assert!(Snapshot::new(&budget, entries(41), "d").is_ok());
        assert_eq!(budget.bytes(), 0);
    }
}
