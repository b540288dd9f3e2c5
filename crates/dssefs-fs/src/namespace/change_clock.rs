//! A logical clock of this mount's own changes: an old answer of the store must not undo a younger change.
//!
//! A listing takes a while. This mount may make or remove a name meanwhile, which the listing then lacks, or still has.
//! The listing must not undo that change. So each question to the store notes the clock's tick, and each own change
//! advances the clock. An answer says nothing about a name that changed after the question. The node of a name that
//! exists carries the tick of its change. This clock keeps the ticks of removed names, as long as an older question is
//! open.

use std::collections::{BTreeMap, HashMap};

use super::node::Ino;
use dssefs_s3::object::Name;

/// Counts own changes.
#[derive(Debug, Default)]
pub(super) struct ChangeClock {
    now: u64,
    /// How many questions are open, by the tick at which they were asked.
    open: BTreeMap<u64, usize>,
    removed: HashMap<(Ino, Name), u64>,
}

impl ChangeClock {
    /// Begins a question and returns its tick. The caller ends it with `answered`.
    pub(super) fn ask(&mut self) -> u64 {
        *self.open.entry(self.now).or_default() += 1;
        self.now
    }

    /// Ends a question that was asked at the tick `asked`.
    pub(super) fn answered(&mut self, asked: u64) {
        if let Some(count) = self.open.get_mut(&asked) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&asked);
                self.forget_old();
            }
        }
    }

    /// Notes an own change and returns its tick, which is later than all questions so far.
    pub(super) fn advance(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Notes that this mount removes `name` from `directory` now.
    pub(super) fn remove(&mut self, directory: Ino, name: &Name) {
        let now = self.advance();
        if !self.open.is_empty() {
            self.removed.insert((directory, name.clone()), now);
        }
    }

    /// Whether this mount removed `name` from `directory` after the question of `asked`.
    pub(super) fn removed_since(&self, directory: Ino, name: &Name, asked: u64) -> bool {
        !self.removed.is_empty() && self.removed.get(&(directory, name.clone())).is_some_and(|tick| *tick > asked)
    }

    fn forget_old(&mut self) {
        match self.open.first_key_value() {
            None => self.removed.clear(),
            Some((&oldest, _)) => self.removed.retain(|_, tick| *tick > oldest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_is_kept_as_long_as_older_questions() {
        let (mut clock, name) = (ChangeClock::default(), Name::new("a").unwrap());
        let before = clock.ask();
        clock.remove(Ino::ROOT, &name);
        let after = clock.ask();
        assert!(clock.removed_since(Ino::ROOT, &name, before));
        assert!(!clock.removed_since(Ino::ROOT, &name, after));
        clock.answered(before);
        assert!(clock.removed.is_empty());
        clock.answered(after);
        assert!(clock.open.is_empty());
    }

    #[test]
    fn a_removal_is_not_kept_without_a_question() {
        let (mut clock, name) = (ChangeClock::default(), Name::new("a").unwrap());
        clock.remove(Ino::ROOT, &name);
        assert!(clock.removed.is_empty());
    }
}
