//! Which bytes of a file are there: half-open ranges, apart from each other and in order.

use serde::{Deserialize, Serialize};

/// A set of bytes of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds `from..until`.
    pub(super) fn insert(&mut self, from: u64, until: u64) {
        if from >= until {
            return;
        }
        let begin = self.0.partition_point(|&(_, end)| end < from);
        let end = self.0.partition_point(|&(start, _)| start <= until);
        let joined = match self.0.get(begin..end) {
            Some([first, .., last]) => (from.min(first.0), until.max(last.1)),
            Some([only]) => (from.min(only.0), until.max(only.1)),
            _ => (from, until),
        };
        self.0.splice(begin..end.max(begin), [joined]);
    }

    /// Takes `from..until` away.
    pub(super) fn remove(&mut self, from: u64, until: u64) {
        if from >= until {
            return;
        }
        let cut = |&(start, end): &(u64, u64)| [(start, end.min(from)), (start.max(until), end)];
        self.0 = self.0.iter().flat_map(cut).filter(|(start, end)| start < end).collect();
    }

    /// Adds all of another set.
    pub(super) fn absorb(&mut self, other: &Self) {
        other.0.iter().for_each(|&(from, until)| self.insert(from, until));
    }

    /// How many bytes there are.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(from, until)| until - from).sum()
    }

    /// Where the bytes from the first one on end; 0 without the first.
    pub(super) fn prefix(&self) -> u64 {
        self.0.first().filter(|(from, _)| *from == 0).map_or(0, |(_, until)| *until)
    }

    /// Whether all of `0..total` is there.
    pub(super) fn covers(&self, total: u64) -> bool {
        self.prefix() >= total
    }

    /// Where the last byte ends.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |(_, until)| *until)
    }

    /// The first bytes that are missing: their start, and where the next ones that are there begin.
    pub(super) fn first_gap(&self) -> (u64, Option<u64>) {
        let from = self.prefix();
        (from, self.0.iter().map(|(start, _)| *start).find(|start| *start > from))
    }

    /// Whether a byte is there.
    pub(super) fn contains(&self, byte: u64) -> bool {
        self.0.iter().any(|&(from, until)| (from..until).contains(&byte))
    }

    /// Whether the ranges, read from a file, are as this type makes them.
    pub(super) fn is_sound(&self) -> bool {
        self.0.iter().all(|(from, until)| from < until) && self.0.windows(2).all(|pair| pair[0].1 < pair[1].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn gaps_and_prefixes_are_found() {
        let mut ranges = Ranges::default();
        assert_eq!((ranges.first_gap(), ranges.prefix()), ((0, None), 0));
        ranges.insert(10, 20);
        assert_eq!((ranges.first_gap(), ranges.prefix(), ranges.end()), ((0, Some(10)), 0, 20));
        ranges.insert(0, 5);
        assert_eq!((ranges.first_gap(), ranges.prefix(), ranges.bytes()), ((5, Some(10)), 5, 15));
        ranges.insert(5, 10);
        assert_eq!((ranges.first_gap(), ranges.covers(20), ranges.covers(21)), ((20, None), true, false));
        ranges.remove(3, 4);
        assert_eq!((ranges.first_gap(), ranges.contains(3), ranges.contains(4)), ((3, Some(4)), false, true));
    }

    proptest! {
        #[test]
        fn ranges_are_a_set_of_bytes(changes in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..20), 0..40)) {
            let (mut ranges, mut bytes) = (Ranges::default(), [false; 100]);
            for (add, from, length) in changes {
                let until = from + length;
                if add { ranges.insert(from, until) } else { ranges.remove(from, until) }
                (from..until).for_each(|byte| bytes[usize::try_from(byte).unwrap()] = add);
                prop_assert!(ranges.is_sound(), "{ranges:?}");
            }
            prop_assert_eq!(ranges.bytes(), bytes.iter().filter(|&&there| there).count() as u64);
            (0_u64..100).for_each(|byte| assert_eq!(ranges.contains(byte), bytes[usize::try_from(byte).unwrap()]));
            prop_assert_eq!(ranges.prefix(), bytes.iter().take_while(|&&there| there).count() as u64);
        }
    }
}
