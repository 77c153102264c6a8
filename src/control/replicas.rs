//! What a replica is in one process: as many runs side by side as one pod of the service would have.
//!
//! `containerConcurrency` says how many; without it the CPU limit does; without that, a pod may use every core. So
//! a service that says nothing has all cores with its one replica. Pure.

use crate::resolve::revision::RevisionSpec;
use crate::resolve::scale::ScaleSpec;

/// Requests that may wait for a replica with a hard limit, for each that may run. Source: reference 10.3.
const WAITING_PER_RUN: usize = 10;

/// How replicas become runs and waiting requests on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Runs of one replica.
    runs: usize,
    /// Runs of one revision at most.
    runs_max: usize,
    /// `containerConcurrency`; 0 is no limit.
    hard: usize,
}

impl Size {
    /// The size of one replica of a revision where at most `runs_max` runs of it may overlap.
    pub(super) fn of(spec: &RevisionSpec, runs_max: usize) -> Self {
        let hard = usize::try_from(spec.container_concurrency).unwrap_or(usize::MAX);
        let runs = spec.runs_max().min(if hard == 0 { usize::MAX } else { hard }).min(runs_max).max(1);
        Self { runs, runs_max: runs_max.max(1), hard }
    }

    /// Replicas that this machine has room for.
    pub(super) fn replicas_max(&self) -> u32 {
        u32::try_from(self.runs_max.div_ceil(self.runs)).unwrap_or(u32::MAX)
    }

    /// A number of replicas within the service's bounds and the machine's room; never none.
    pub(super) fn within(&self, wanted: u32, scale: &ScaleSpec) -> u32 {
        let most = if scale.max == 0 { u32::MAX } else { scale.max };
        wanted.max(scale.min).min(most).clamp(1, self.replicas_max())
    }

    /// Replicas of so many that are asked for that this machine has room for; never none.
    pub(super) fn replicas_for(&self, wanted: u32) -> u32 {
        wanted.clamp(1, self.replicas_max())
    }

    /// Runs that may overlap with so many replicas.
    pub(super) fn runs(&self, replicas: u32) -> usize {
        self.runs.saturating_mul(times(replicas)).clamp(1, self.runs_max)
    }

    /// Requests that may wait with so many replicas: where there is a hard limit, ten for each that it lets run, and
    /// those it lets run and this machine does not; else `queue_max`.
    pub(super) fn waiting(&self, replicas: u32, queue_max: usize) -> usize {
        if self.hard == 0 {
            return queue_max;
        }
        let hard = self.hard.saturating_mul(times(replicas));
        (hard.saturating_mul(WAITING_PER_RUN + 1) - self.runs(replicas)).min(queue_max)
    }
}

fn times(replicas: u32) -> usize {
    usize::try_from(replicas).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hard: usize, runs: usize, expected: [(u32, usize, usize); 3]) {
        let size = Size { runs, runs_max: 8, hard };
        for (replicas, running, waiting) in expected {
            assert_eq!((size.runs(replicas), size.waiting(replicas, 1024)), (running, waiting), "{replicas} replicas of {size:?}");
        }
    }

    #[test]
    fn a_replica_without_limits_has_every_core_and_the_whole_queue() {
        check(0, 8, [(1, 8, 1024), (2, 8, 1024), (100, 8, 1024)]);
        assert_eq!(Size { runs: 8, runs_max: 8, hard: 0 }.replicas_max(), 1);
    }

    #[test]
    fn a_hard_limit_runs_so_many_and_lets_ten_times_as_many_wait() {
        check(1, 1, [(1, 1, 10), (2, 2, 20), (8, 8, 80)]);
        // More than the machine has cores: those beyond wait as well.
        check(16, 8, [(1, 8, 168), (2, 8, 344), (3, 8, 520)]);
        assert_eq!(Size { runs: 3, runs_max: 8, hard: 3 }.replicas_max(), 3);
    }
}
