//! How much a revision is asked for: requests in flight over time, requests ended, last use.
//!
//! The scaler reads it, requests write it: one short lock at the beginning and one at the end of each. Requests
//! that wait count like those that run, as Knative counts them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// What was asked of a revision since it was loaded. Two of them give the demand of the time between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When this was so.
    pub at: Instant,
    /// Requests in flight, summed over time: a request of two seconds adds two.
    pub request_seconds: f64,
    /// Requests that ended, answered or not.
    pub ended: u64,
    /// Requests that wait or run now.
    pub in_flight: usize,
    /// When the last request came or ended; when it was loaded, as long as none did.
    pub used_at: Instant,
}

/// The counts of one pool.
#[derive(Debug)]
pub(super) struct Demand {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_flight: usize,
    request_seconds: f64,
    ended: u64,
    changed_at: Instant,
    used_at: Instant,
}

impl State {
    /// Brings the sum up to now.
    fn advance(&mut self, now: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "requests in flight are far fewer than 2^52")]
        let weight = self.in_flight as f64;
        self.request_seconds += weight * now.saturating_duration_since(self.changed_at).as_secs_f64();
        self.changed_at = self.changed_at.max(now);
    }
}

impl Demand {
    /// Nothing asked yet.
    pub(super) fn new(now: Instant) -> Self {
        let state = State { in_flight: 0, request_seconds: 0.0, ended: 0, changed_at: now, used_at: now };
        Self { state: Mutex::new(state) }
    }

    /// A request came; it is in flight until what this returns is dropped.
    pub(super) fn enter(&self, now: Instant) -> InFlight<'_> {
        self.begin(now);
        InFlight { demand: self }
    }

    /// A request came whose end is told by [`Demand::leave`].
    pub(super) fn begin(&self, now: Instant) {
        let mut state = self.lock();
        state.advance(now);
        state.in_flight += 1;
        state.used_at = now;
    }

    /// A request ended.
    pub(super) fn leave(&self, now: Instant) {
        let mut state = self.lock();
        state.advance(now);
        state.in_flight -= 1;
        state.ended += 1;
        state.used_at = now;
    }

    /// The sums up to `now`.
    pub(super) fn sample(&self, now: Instant) -> Sample {
        let mut state = self.lock();
        state.advance(now);
        Sample { at: now, request_seconds: state.request_seconds, ended: state.ended, in_flight: state.in_flight, used_at: state.used_at }
    }

    /// The sums stay right whatever panics: no code of others runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request in flight. Ends it when dropped, also when its caller left.
#[derive(Debug)]
pub(super) struct InFlight<'d> {
    demand: &'d Demand,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.demand.leave(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn concurrency_is_weighed_by_time_and_counts_those_that_left() {
        let demand = Demand::new(Instant::now());
        let before = demand.sample(Instant::now());
        let first = demand.enter(Instant::now());
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = demand.enter(Instant::now());
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(second);
        let used_at = Instant::now();
        let now = demand.sample(used_at);
        // One in the first second, two in the second.
        assert_eq!((now.request_seconds, now.ended, now.in_flight), (3.0, 1, 1));
        drop(first);
        tokio::time::advance(Duration::from_mins(1)).await;
        let later = demand.sample(Instant::now());
        assert_eq!((later.request_seconds, later.ended, later.in_flight, later.used_at), (3.0, 2, 0, used_at));
        assert_eq!((before.request_seconds, before.ended), (0.0, 0));
    }
}
