//! Bytes that records may take: those of one service, within those of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound of bytes, within another one where there is one.
#[derive(Debug)]
pub(super) struct Budget {
    max: usize,
    taken: AtomicUsize,
    within: Option<Arc<Budget>>,
}

/// Bytes taken of a budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(max: usize, within: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { max, taken: AtomicUsize::new(0), within })
    }

    /// Takes so many bytes of this budget and of the one around it, or none of both.
    pub(super) fn take(this: &Arc<Self>, bytes: usize) -> Option<Room> {
        this.try_add(bytes).then(|| Room { budget: Arc::clone(this), bytes })
    }

    fn try_add(&self, bytes: usize) -> bool {
        let fits = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= self.max);
        if self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_err() {
            return false;
        }
        let around = self.within.as_ref().is_none_or(|within| within.try_add(bytes));
        if !around {
            self.taken.fetch_sub(bytes, Ordering::AcqRel);
        }
        around
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::AcqRel);
        if let Some(within) = &self.within {
            within.give_back(bytes);
        }
    }
}

impl Room {
    /// Takes so many bytes more; false, and none more, where there are not as many.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let grown = self.budget.try_add(bytes);
        self.bytes += if grown { bytes } else { 0 };
        grown
    }

    /// How many bytes are taken.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_takes_no_more_than_its_share_and_all_no_more_than_theirs() {
        let all = Budget::new(100, None);
        let (one, other) = (Budget::new(80, Some(Arc::clone(&all))), Budget::new(80, Some(Arc::clone(&all))));
        let mut first = Budget::take(&one, 50).unwrap();
        assert!(first.grow(30) && !first.grow(1), "80 is the service's share");
        assert!(Budget::take(&other, 21).is_none(), "20 are left for all");
        let second = Budget::take(&other, 20).unwrap();
        drop(first);
        drop(second);
        assert!(Budget::take(&other, 80).is_some(), "what failed took nothing, and what was dropped gave everything back");
    }
}
