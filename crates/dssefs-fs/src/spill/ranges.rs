//! Sets of byte offsets.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of offsets, kept as sorted ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Whether the set has no offset.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// The end of the last range; 0 when empty.
    pub fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// How many offsets the set has.
    pub fn covered_bytes(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Adds every offset of `range`.
    pub fn insert(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some(touching) = self.last_touching(&range) {
            self.ranges.remove(&touching.start);
            range = range.start.min(touching.start)..range.end.max(touching.end);
        }
        self.ranges.insert(range.start, range.end);
    }

    /// Takes every offset of `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        while let Some((start, end)) = self.last_overlapping(&range) {
            self.ranges.remove(&start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
            if start < range.start {
                self.ranges.insert(start, range.start);
            }
        }
    }

    /// Whether every offset of `range` is in the set.
    pub fn contains(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.ranges.range(..=range.start).next_back().is_some_and(|(_, end)| *end >= range.end)
    }

    /// The parts of `range` that are in the set, in order.
    pub fn intersection(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let within = if range.is_empty() { first..first } else { first..range.end };
        let parts = self.ranges.range(within).map(move |(start, end)| *start.max(&range.start)..*end.min(&range.end));
        parts.filter(|part| !part.is_empty())
    }

    /// The parts of `range` that are not in the set, in order.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let after_each = self.intersection(range.clone()).map(|part| (part.start, part.end));
        let mut from = range.start;
        after_each.chain([(range.end, range.end)]).filter_map(move |(start, end)| {
            let gap = from..start;
            from = end;
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// The last range that overlaps or touches `range`.
    fn last_touching(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let (start, end) = self.ranges.range(..=range.end).next_back()?;
        (*end >= range.start).then_some(*start..*end)
    }

    /// Start and end of the last range that has an offset in common with `range`.
    fn last_overlapping(&self, range: &Range<u64>) -> Option<(u64, u64)> {
        let before_end = 0..if range.is_empty() { 0 } else { range.end };
        let (start, end) = self.ranges.range(before_end).next_back()?;
        (*end > range.start).then_some((*start, *end))
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = RangeSet::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OFFSETS: u64 = 64;

    #[derive(Debug, Clone)]
    enum Change {
        Insert(Range<u64>),
        Remove(Range<u64>),
    }

    fn ranges() -> impl Strategy<Value = Range<u64>> {
        (0..OFFSETS, 0..12_u64).prop_map(|(start, len)| start..(start + len).min(OFFSETS))
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![ranges().prop_map(Change::Insert), ranges().prop_map(Change::Remove)];
        prop::collection::vec(change, 0..40)
    }

    fn apply(changes: &[Change]) -> (RangeSet, Vec<bool>) {
        let (mut set, mut model) = (RangeSet::default(), vec![false; OFFSETS as usize]);
        for change in changes {
            let (range, present) = match change {
                Change::Insert(range) => (range.clone(), true),
                Change::Remove(range) => (range.clone(), false),
            };
            model[range.start as usize..range.end as usize].fill(present);
            if present { set.insert(range) } else { set.remove(range) }
        }
        (set, model)
    }

    /// The runs of `wanted` in a part of the model.
    fn runs(model: &[bool], range: Range<u64>, wanted: bool) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        for at in range.filter(|at| model[*at as usize] == wanted) {
            match found.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => found.push(at..at + 1),
            }
        }
        found
    }

    #[test]
    fn a_set_of_ranges_is_a_set_of_offsets() {
        crate::spill::tests::check(2000, &(changes(), ranges()), |(changes, asked)| {
            let (set, model) = apply(&changes);
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), runs(&model, 0..OFFSETS, true));
            prop_assert_eq!(set.intersection(asked.clone()).collect::<Vec<_>>(), runs(&model, asked.clone(), true));
            prop_assert_eq!(set.gaps(asked.clone()).collect::<Vec<_>>(), runs(&model, asked.clone(), false));
            prop_assert_eq!(set.contains(asked.clone()), asked.clone().all(|at| model[at as usize]));
            prop_assert_eq!(set.covered_bytes(), model.iter().filter(|present| **present).count() as u64);
            prop_assert_eq!(set.is_empty(), set.end() == 0);
            prop_assert_eq!(set.iter().collect::<RangeSet>(), set);
            Ok(())
        });
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let set: RangeSet = [0..5, 10..15, 5..10].into_iter().collect();
        assert!(set.iter().eq(std::iter::once(0..15)));
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn empty_and_reversed_ranges_change_nothing() {
        let mut set: RangeSet = std::iter::once(0..10).collect();
        set.insert(20..20);
        set.remove(5..5);
        set.remove(9..1);
        assert!(set.iter().eq(std::iter::once(0..10)));
        assert_eq!(set.intersection(5..5).count() + set.gaps(12..12).count() + set.intersection(9..1).count(), 0);
        assert!(set.contains(99..99));
    }
}
