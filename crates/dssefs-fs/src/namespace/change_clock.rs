//! Own changes against answers that were asked for before them.
//!
//! A listing takes a while. A name that this mount makes or removes meanwhile may be missing in the listing, or still
//! in it, and the listing must not undo what was done. So each question to the store notes the moment it was asked,
//! each own change advances the moment, and an answer says nothing of a name that changed after the question. Names
//! that exist carry the moment of their change in their node; this keeps those that were removed, only for as long as
//! an older question is open.

use std::collections::{BTreeMap, HashMap};

use super::node::Ino;
use dssefs_s3::object::Name;

/// Counts own changes.
#[derive(Debug, Default)]
pub(super) struct Moments {
    now: u64,
    open: BTreeMap<u64, usize>,
    removed: HashMap<(Ino, Name), u64>,
}

impl Moments {
    /// A question begins: the moment it is asked.
    pub(super) fn ask(&mut self) -> u64 {
        *self.open.entry(self.now).or_default() += 1;
        self.now
    }

    /// The question that was asked at `asked` is done with.
    pub(super) fn answered(&mut self, asked: u64) {
        if let Some(count) = self.open.get_mut(&asked) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&asked);
                self.forget_old();
            }
        }
    }

    /// An own change happens now: its moment, later than all questions so far.
    pub(super) fn advance(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// `name` is removed from `directory` now.
    pub(super) fn remove(&mut self, directory: Ino, name: &Name) {
        let now = self.advance();
        if !self.open.is_empty() {
            self.removed.insert((directory, name.clone()), now);
        }
    }

    /// Whether `name` was removed from `directory` after the question of `asked`.
    pub(super) fn removed_since(&self, directory: Ino, name: &Name, asked: u64) -> bool {
        !self.removed.is_empty() && self.removed.get(&(directory, name.clone())).is_some_and(|moment| *moment > asked)
    }

    fn forget_old(&mut self) {
        match self.open.first_key_value() {
            None => self.removed.clear(),
            Some((&oldest, _)) => self.removed.retain(|_, moment| *moment > oldest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_outlives_the_questions_that_are_older_and_no_others() {
        let (mut moments, name) = (Moments::default(), Name::new("a").unwrap());
        let before = moments.ask();
        moments.remove(Ino::ROOT, &name);
        let after = moments.ask();
        assert!(moments.removed_since(Ino::ROOT, &name, before));
        assert!(!moments.removed_since(Ino::ROOT, &name, after));
        moments.answered(before);
        assert!(moments.removed.is_empty());
        moments.answered(after);
        assert!(moments.open.is_empty());
    }

    #[test]
    fn nothing_is_kept_while_nobody_asks() {
        let (mut moments, name) = (Moments::default(), Name::new("a").unwrap());
        moments.remove(Ino::ROOT, &name);
        assert!(moments.removed.is_empty());
    }
}
