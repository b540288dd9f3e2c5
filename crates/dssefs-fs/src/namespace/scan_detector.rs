//! Detects a program that scans a directory, and which entries it will ask for next. Pure.
//!
//! `ls -l` and similar programs ask for each entry of a directory in the order of its listing. One HEAD after another
//! would take a round trip for each. So once that pattern shows, the mount fetches the entries ahead too. A lone
//! stat(2) fetches no neighbours, unless it asks for the first entry, with which all scans begin.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::node::Ino;
use dssefs_s3::object::Name;

/// How many entries a scan may leave out and still be one.
const SKIPPED_MAX: usize = 8;

/// The last entry asked for in a directory.
#[derive(Debug, Default)]
pub(super) struct ScanDetector {
    asked: Option<Name>,
}

impl ScanDetector {
    /// The next entries, at most `ahead_max`, when asking for `name` continues a scan of `children`.
    pub(super) fn ahead(&mut self, children: &BTreeMap<Name, Ino>, name: &Name, ahead_max: usize) -> Vec<Ino> {
        let is_scan = self.is_continued(children, name);
        self.asked = Some(name.clone());
        let ahead_max = if is_scan { ahead_max } else { 0 };
        children.range::<Name, _>((Excluded(name), Unbounded)).take(ahead_max).map(|(_, ino)| *ino).collect()
    }

    fn is_continued(&self, children: &BTreeMap<Name, Ino>, name: &Name) -> bool {
        match &self.asked {
            Some(last) if last < name => {
                let step = children.range::<Name, _>((Excluded(last), Included(name)));
                step.take(SKIPPED_MAX + 2).count() <= SKIPPED_MAX + 1
            }
            _ => children.first_key_value().is_some_and(|(first, _)| first == name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Name {
        Name::new(&format!("{number:04}")).unwrap()
    }

    fn children(count: u64) -> BTreeMap<Name, Ino> {
        (0..count).map(|number| (name(number), Ino(number))).collect()
    }

    #[test]
    fn a_lone_question_in_the_middle_fetches_nothing_ahead() {
        assert_eq!(ScanDetector::default().ahead(&children(100), &name(50), 10), []);
    }

    #[test]
    fn the_first_entry_and_each_that_follows_fetch_those_ahead() {
        let (all, mut scan) = (children(100), ScanDetector::default());
        assert_eq!(scan.ahead(&all, &name(0), 3), [Ino(1), Ino(2), Ino(3)]);
        assert_eq!(scan.ahead(&all, &name(1), 2), [Ino(2), Ino(3)]);
        assert_eq!(scan.ahead(&all, &name(5), 1), [Ino(6)]);
        assert_eq!(scan.ahead(&all, &name(50), 1), []);
        assert_eq!(scan.ahead(&all, &name(51), 1), [Ino(52)]);
        assert_eq!(scan.ahead(&all, &name(51), 1), []);
        assert_eq!(scan.ahead(&all, &name(99), 9), []);
    }

    #[test]
    fn going_backwards_is_no_scan() {
        let (all, mut scan) = (children(10), ScanDetector::default());
        assert!((1..10).rev().all(|number| scan.ahead(&all, &name(number), 5).is_empty()));
    }
}
