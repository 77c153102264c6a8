//! Runs that are over in no time, on the thread that asks: handing them to a worker and back costs more than they do.

use super::worker::{self, Seat};
use super::{Answer, Pool};
use crate::engine::Cancel;
use crate::inference::{InferenceError, Timing};
use crate::tensor::Tensor;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of the inputs at most: a run's time is known for requests like those before, and those were small.
const BYTES_MAX: usize = 64 * 1024;

/// Engines for runs on callers' threads; as many as ever ran at once.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Vec<Seat>>);

impl Seats {
    fn take(&self) -> Seat {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().flatten()
    }

    fn give_back(&self, seat: Seat) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seat);
    }
}

impl Pool {
    /// Runs a request on this thread where that is better than the queue; else nothing.
    ///
    /// Only where nobody waits, a place is free, the request is small, and runs of this model have lately been shorter
    /// than `inline_run_max`: a thread that serves sockets must not be kept from them.
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
        let mut seat = self.seats.take();
        let result = worker::infer(self, &mut seat, inputs, wanted, &Cancel::never());
        self.seats.give_back(seat);
        let run = began.elapsed();
        self.queue.ran(run, 1);
        self.metrics.ran(Duration::ZERO, run);
        self.statistics.executed(1, Duration::ZERO, run);
        let timing = Timing { run, ..Timing::default() };
        Some(result.map(|outputs| Answer { outputs, timing, batch_id: None }))
    }
}
