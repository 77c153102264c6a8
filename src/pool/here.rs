//! Runs that are over in no time, on the thread that asks: handing them to a worker and back costs more than they do.

use super::watchdog::Watched;
use super::worker::{self, NoAnswer, Seat};
use super::{Answer, Pool};
use crate::inference::{InferenceError, Timing};
use crate::tensor::Tensor;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of the inputs at most: a run's time is known for requests like those before, and those were small.
const BYTES_MAX: usize = 64 * 1024;

/// Engines for runs on callers' threads, each with what the watchdog sees of it; as many as ever ran at once.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Vec<(Seat, Arc<Watched>)>>);

impl Seats {
    fn take(&self) -> (Seat, Arc<Watched>) {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| (None, Watched::new()))
    }

    fn give_back(&self, seat: Seat, watched: Arc<Watched>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((seat, watched));
    }
}

impl Pool {
    /// Runs a request on this thread where that is better than the queue; else nothing.
    ///
    /// Only where nobody waits, a place is free, the request is small, and runs of this model have lately been shorter
    /// than `inline_run_max`: a thread that serves sockets must not be kept from them. A run that takes long all the same,
    /// because of what is in its inputs, is stopped and begins anew in the queue.
    pub(super) fn run_here(&self, inputs: &[Tensor], wanted: &[usize]) -> Option<Result<Answer, InferenceError>> {
        let run_max = self.options.inline_run_max;
        let bytes: usize = inputs.iter().map(|input| input.data().len()).sum();
        if run_max.is_zero() || bytes > BYTES_MAX {
            return None;
        }
        let _threads = self.budget.try_take(self.options.threads_per_run)?;
        if !self.queue.take_place(run_max) {
            return None;
        }
        let began = Instant::now();
        let (mut seat, watched) = self.seats.take();
        let result = worker::infer(self, &mut seat, inputs, wanted, &watched.begin());
        let stopped = watched.end();
        self.seats.give_back(seat, watched);
        let run = began.elapsed();
        self.queue.ran(run, 1);
        if stopped && matches!(result, Err(NoAnswer::Stopped)) {
            return None;
        }
        self.metrics.ran(Duration::ZERO, run);
        self.statistics.executed(1, Duration::ZERO, run);
        let timing = Timing { run, ..Timing::default() };
        Some(result.map(|outputs| Answer { outputs, timing, batch_id: None }).map_err(InferenceError::from))
    }
}
