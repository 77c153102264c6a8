//! One budget of threads for the whole machine: however many models there are, their runs never ask for more cores
//! than it has.
//!
//! A worker takes as many places as its run uses threads, and gives them back with the run. Whoever finds too few
//! waits in line: first come, first served, whatever the model, and a run that needs many places is never overtaken
//! for good by runs that need one. While nobody waits, taking and giving back are one atomic operation each.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Places for running threads, shared by all pools. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ThreadBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    places: u32,
    /// Free places in the lower half, runs in line in the upper: read and changed together.
    word: AtomicU64,
    line: Mutex<VecDeque<Arc<Ticket>>>,
}

/// A run in line.
#[derive(Debug)]
struct Ticket {
    places: u32,
    served: Mutex<bool>,
    changed: Condvar,
}

/// One run in line, in the upper half of the word.
const ONE_IN_LINE: u64 = 1 << 32;

const fn free(word: u64) -> u64 {
    word & (ONE_IN_LINE - 1)
}

const fn in_line(word: u64) -> u64 {
    word >> 32
}

impl ThreadBudget {
    /// A budget of so many threads, at least one.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let places = u32::try_from(places).unwrap_or(u32::MAX).max(1);
        let (word, line) = (AtomicU64::new(u64::from(places)), Mutex::default());
        Self { shared: Arc::new(Shared { places, word, line }) }
    }

    /// Threads in all.
    #[must_use]
    pub fn places(&self) -> usize {
        self.shared.places as usize
    }

    /// Threads nobody uses now.
    #[must_use]
    pub fn free(&self) -> usize {
        usize::try_from(free(self.shared.word.load(Ordering::Relaxed))).unwrap_or(usize::MAX)
    }

    /// Runs that wait for places now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        usize::try_from(in_line(self.shared.word.load(Ordering::Relaxed))).unwrap_or(usize::MAX)
    }

    /// Places for a run of so many threads; blocks the thread until they are free and it is its turn.
    ///
    /// A run that asks for more than there are gets all.
    #[must_use]
    pub fn take(&self, threads: usize) -> Places<'_> {
        let places = self.clamped(threads);
        if !self.shared.try_take(places) {
            self.shared.stand_in_line(places);
        }
        Places { shared: &self.shared, places }
    }

    /// Places for a run of so many threads if they are free now and nobody waits; never blocks.
    #[must_use]
    pub fn try_take(&self, threads: usize) -> Option<Places<'_>> {
        let places = self.clamped(threads);
        self.shared.try_take(places).then(|| Places { shared: &self.shared, places })
    }

    fn clamped(&self, threads: usize) -> u32 {
        u32::try_from(threads).unwrap_or(u32::MAX).clamp(1, self.shared.places)
    }
}

impl Shared {
    fn try_take(&self, places: u32) -> bool {
        let places = u64::from(places);
        let taken = |word| (in_line(word) == 0 && free(word) >= places).then(|| word - places);
        self.word.fetch_update(Ordering::Acquire, Ordering::Relaxed, taken).is_ok()
    }

    fn stand_in_line(&self, places: u32) {
        let ticket = Arc::new(Ticket { places, served: Mutex::new(false), changed: Condvar::new() });
        let mut line = self.line();
        // From here on whoever gives back looks at the line; what was given back before is seen by `serve`.
        self.word.fetch_add(ONE_IN_LINE, Ordering::AcqRel);
        line.push_back(Arc::clone(&ticket));
        self.serve(&mut line);
        drop(line);
        ticket.wait();
    }

    fn give_back(&self, places: u32) {
        let before = self.word.fetch_add(u64::from(places), Ordering::AcqRel);
        if in_line(before) > 0 {
            self.serve(&mut self.line());
        }
    }

    /// Gives free places to the front of the line, as far as they reach.
    fn serve(&self, line: &mut VecDeque<Arc<Ticket>>) {
        while let Some(first) = line.front() {
            let places = u64::from(first.places);
            let served = |word| (free(word) >= places).then(|| word - places - ONE_IN_LINE);
            if self.word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, served).is_err() {
                return;
            }
            if let Some(first) = line.pop_front() {
                first.serve();
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Arc<Ticket>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    fn serve(&self) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(served, |served| !*served).unwrap_or_else(PoisonError::into_inner));
    }
}

/// Places of a run; given back on drop.
#[derive(Debug)]
pub struct Places<'a> {
    shared: &'a Shared,
    places: u32,
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        self.shared.give_back(self.places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::thread;

    /// Waits until so many runs stand in line.
    fn until_waiting(budget: &ThreadBudget, count: usize) {
        while budget.waiting() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn free_places_are_had_at_once_and_come_back() {
        let budget = ThreadBudget::new(2);
        let (one, other) = (budget.take(1), budget.take(1));
        assert_eq!((budget.free(), budget.waiting()), (0, 0));
        assert!(budget.try_take(1).is_none());
        drop((one, other));
        assert_eq!(budget.free(), 2);
    }

    #[test]
    fn a_run_that_asks_for_more_than_the_machine_has_gets_all() {
        let budget = ThreadBudget::new(2);
        let all = budget.take(64);
        assert!(budget.try_take(0).is_none(), "no run takes less than one place");
        drop(all);
        assert_eq!((budget.places(), budget.free()), (2, 2));
    }

    #[test]
    fn those_who_wait_are_served_in_their_order_whatever_they_need() {
        let budget = ThreadBudget::new(2);
        let (tell, told) = mpsc::channel();
        let held = (budget.take(1), budget.take(1));
        thread::scope(|scope| {
            for (at, threads) in [2, 1, 2, 1].into_iter().enumerate() {
                let (budget, tell) = (&budget, tell.clone());
                scope.spawn(move || {
                    let places = budget.take(threads);
                    tell.send(at).unwrap();
                    drop(places);
                });
                until_waiting(budget, at + 1);
            }
            drop(held.0);
            assert!(budget.try_take(1).is_none(), "nobody overtakes the line, though a place is free");
            assert_eq!((budget.free(), budget.waiting()), (1, 4));
            drop(held.1);
        });
        // The first and the third use the whole machine; whatever runs beside the others tells in any order.
        let order: Vec<usize> = told.try_iter().collect();
        assert_eq!(order[..2], [0, 1]);
        assert_eq!((budget.free(), budget.waiting()), (2, 0));
    }

    #[test]
    fn many_models_at_once_never_use_more_than_there_is_and_all_come_to_their_turn() {
        let budget = ThreadBudget::new(3);
        let busy = AtomicUsize::new(0);
        thread::scope(|scope| {
            for model in 0..8 {
                let (budget, busy) = (&budget, &busy);
                scope.spawn(move || {
                    for run in 0..2000 {
                        let threads = 1 + (model + run) % 3;
                        let places = if run % 5 == 0 { budget.try_take(threads) } else { Some(budget.take(threads)) };
                        let Some(places) = places else { continue };
                        assert!(busy.fetch_add(threads, Ordering::SeqCst) + threads <= 3);
                        busy.fetch_sub(threads, Ordering::SeqCst);
                        drop(places);
                    }
                });
            }
        });
        assert_eq!((budget.free(), budget.waiting()), (3, 0));
    }
}
