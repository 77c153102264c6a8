//! Idle threads that one run of many rows may use beside its own.

use super::threads::ThreadBudget;
use crate::engine::SpareThreads;

/// The threads of a budget for runs of one model.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) budget: ThreadBudget,
    pub(super) threads_per_run: usize,
}

impl SpareThreads for Spare {
    fn with(&self, most: usize, work: &mut dyn FnMut(usize)) {
        let taken: Vec<_> = (0..most).map_while(|_| self.budget.try_take(self.threads_per_run)).collect();
        work(taken.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(spare: &Spare, most: usize) -> (usize, usize) {
        let mut given = (0, 0);
        spare.with(most, &mut |helpers| given = (helpers, spare.budget.free()));
        given
    }

    #[test]
    fn as_many_runs_go_on_beside_one_as_there_are_idle_threads_for() {
        let spare = Spare { budget: ThreadBudget::new(8), threads_per_run: 2 };
        let own = spare.budget.take(2);
        assert_eq!((given(&spare, 9), given(&spare, 1), given(&spare, 0)), ((3, 0), (1, 4), (0, 6)));
        let others = spare.budget.take(5);
        assert_eq!(given(&spare, 9), (0, 1), "one idle thread is too few");
        drop((own, others));
        assert_eq!(spare.budget.free(), 8);
    }
}
