//! The bounded queue of one revision: who waits, who runs, and whether one more worker is worth a thread.
//!
//! One short lock, never held while anything runs or waits. A run takes a *place*, of which there are as many as may run
//! at once; a worker thread takes one for the next batch, a caller's own thread for a run that is over in no time.

use super::Answer;
use super::batch::{self, Batching};
use super::lanes::Lanes;
use super::pace::Pace;
use crate::engine::Cancel;
use crate::inference::{InferenceError, Priority};
use crate::tensor::Tensor;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// What is said of the wait as long as no run has finished.
const RETRY_AFTER_UNKNOWN: Duration = Duration::from_secs(1);

/// A request on its way to a worker, with all it needs there.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) inputs: Vec<Tensor>,
    pub(super) wanted: Vec<usize>,
    pub(super) deadline: Instant,
    pub(super) queued_at: Instant,
    pub(super) priority: Priority,
    /// The size of the first dimension where the request may be joined with others, else nothing.
    pub(super) rows: Option<usize>,
    pub(super) cancel: Arc<Cancel>,
    pub(super) span: tracing::Span,
    pub(super) reply: oneshot::Sender<Result<Answer, InferenceError>>,
}

impl Entry {
    /// Whether somebody still waits for the answer.
    pub(super) fn is_wanted(&self) -> bool {
        !self.reply.is_closed() && Instant::now() < self.deadline
    }
}

/// What the pushing side does after its entry took a place.
#[derive(Debug)]
pub(super) struct Pushed {
    /// A worker was counted for it; its thread must be started.
    pub(super) start_worker: bool,
    /// An entry of lower priority that lost its place to it; it must be refused.
    pub(super) displaced: Option<(Entry, Refused)>,
}

/// Why an entry got no place. The entry is gone; its reply is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many wait as may wait, or so many that it would not be answered in time.
    Full { queued: usize, retry_after: Duration },
    /// The pool takes no more.
    Closed,
}

/// Numbers of a queue at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Entries without a worker.
    pub(super) waiting: usize,
    /// Runs in an engine; a batch is one run.
    pub(super) running: usize,
    /// Worker threads.
    pub(super) workers: usize,
    /// Workers without an entry.
    idle: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: Lanes,
    counts: Counts,
    /// Runs at once, at most.
    places: usize,
    closed: bool,
    pace: Pace,
}

/// The queue and the counts of its workers.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    ended: Notify,
    waiting_max: AtomicUsize,
    batching: Option<Batching>,
}

/// When the next run may begin.
enum Next {
    Now,
    At(Instant),
    Nothing,
}

impl Queue {
    pub(super) fn new(waiting_max: usize, places: usize, batching: Option<Batching>) -> Self {
        let state = State { places: places.max(1), ..State::default() };
        Self { state: Mutex::new(state), work: Condvar::new(), ended: Notify::new(), waiting_max: waiting_max.into(), batching }
    }

    /// Gives an entry a place, behind all others of its priority.
    ///
    /// Entries that a free worker will take at once do not count as waiting. Before it refuses, it throws out those
    /// whose callers left, then the newest of a lower priority. One that would have to wait past its deadline is
    /// refused at once.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn push(&self, entry: Entry) -> Result<Pushed, Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let room = self.waiting_max.load(Ordering::Relaxed).saturating_add(state.free_places());
        if state.waiting.len() >= room {
            state.waiting.retain(Entry::is_wanted);
        }
        let retry_after = state.wait(state.waiting.len());
        let full = Refused::Full { queued: state.waiting.len(), retry_after: retry_after.unwrap_or(RETRY_AFTER_UNKNOWN) };
        let ahead = state.waiting.ahead_of(entry.priority);
        if ahead > state.free_places() && state.wait(ahead).is_some_and(|wait| entry.queued_at + wait >= entry.deadline) {
            return Err(full);
        }
        let displaced = if state.waiting.len() < room { None } else { Some((state.waiting.displace(entry.priority).ok_or(full)?, full)) };
        state.waiting.push(entry);
        let start_worker = state.waiting.len() > state.counts.idle && state.counts.workers < state.places;
        if start_worker {
            state.counts.workers += 1;
        }
        drop(state);
        if !start_worker {
            self.work.notify_one();
        }
        Ok(Pushed { start_worker, displaced })
    }

    /// The next entries that somebody still waits for, to be run as one. Blocks at most `idle`; `false` means that the
    /// calling worker no longer counts and must end.
    pub(super) fn take(&self, idle: Duration, batch: &mut Vec<Entry>) -> bool {
        loop {
            batch.clear();
            if !self.gather(idle, batch) {
                return false;
            }
            // Dropped here, outside the lock: a request may hold megabytes.
            batch.retain(Entry::is_wanted);
            if !batch.is_empty() {
                return true;
            }
            self.passed_over();
        }
    }

    /// What was taken is not wanted any more: its place is free without a run.
    pub(super) fn passed_over(&self) {
        self.place_is_free(&mut self.lock());
    }

    fn gather(&self, idle: Duration, batch: &mut Vec<Entry>) -> bool {
        let mut state = self.lock();
        let mut waited_enough = false;
        loop {
            let until = match state.next(self.batching.as_ref()) {
                Next::Now => {
                    state.waiting.take(self.batching.as_ref(), batch);
                    state.counts.running += 1;
                    return true;
                }
                Next::Nothing if state.waiting.is_empty() && (state.closed || waited_enough) => {
                    self.worker_ends(&mut state);
                    return false;
                }
                Next::Nothing => idle,
                Next::At(moment) => moment.saturating_duration_since(Instant::now()),
            };
            state.counts.idle += 1;
            let (guard, result) = self.work.wait_timeout(state, until).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.counts.idle -= 1;
            waited_enough = result.timed_out();
        }
    }

    /// Takes a place for a run on the caller's own thread, if nobody waits and runs have been as short as `run_max`.
    pub(super) fn take_place(&self, run_max: Duration) -> bool {
        let mut state = self.lock();
        let may = self.batching.is_none()
            && !state.closed
            && state.waiting.is_empty()
            && state.free_places() > 0
            && state.pace.usual().is_some_and(|usual| usual <= run_max);
        if may {
            state.counts.running += 1;
        }
        may
    }

    /// How entries are joined, where they are.
    pub(super) const fn batching(&self) -> Option<&Batching> {
        self.batching.as_ref()
    }

    /// A run of so many entries has ended after that time.
    pub(super) fn ran(&self, run: Duration, entries: usize) {
        let mut state = self.lock();
        state.pace.ran(run, entries);
        self.place_is_free(&mut state);
    }

    /// A run that took no place has ended after that time.
    pub(super) fn learn(&self, run: Duration) {
        self.lock().pace.ran(run, 1);
    }

    fn place_is_free(&self, state: &mut State) {
        state.counts.running -= 1;
        if !state.waiting.is_empty() {
            self.work.notify_one();
        }
        self.tell_if_ended(state);
    }

    /// How many may run at once from now on, at least one.
    pub(super) fn set_places(&self, places: usize) {
        self.lock().places = places.max(1);
        self.work.notify_all();
    }

    /// How many may wait from now on beyond those that a free worker takes at once.
    pub(super) fn set_waiting_max(&self, waiting_max: usize) {
        self.waiting_max.store(waiting_max, Ordering::Relaxed);
    }

    /// How many may run at once.
    pub(super) fn places(&self) -> usize {
        self.lock().places
    }

    /// A worker that was counted has no thread. Gives back what nobody will come to.
    pub(super) fn worker_failed(&self) -> Vec<Entry> {
        let mut state = self.lock();
        self.worker_ends(&mut state);
        if state.counts.workers > 0 { Vec::new() } else { state.waiting.drain() }
    }

    fn worker_ends(&self, state: &mut State) {
        state.counts.workers -= 1;
        self.tell_if_ended(state);
    }

    fn tell_if_ended(&self, state: &State) {
        if state.counts.workers == 0 && state.counts.running == 0 {
            self.ended.notify_waiters();
        }
    }

    /// Takes no more entries; workers end once none wait.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
    }

    /// Takes out all that wait.
    pub(super) fn clear(&self) -> Vec<Entry> {
        self.lock().waiting.drain()
    }

    /// Resolves once no worker and no run is left. Cancel safe.
    pub(super) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Listening before looking: a worker may end in between.
            ended.as_mut().enable();
            let counts = self.counts();
            if counts.workers == 0 && counts.running == 0 {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { waiting: state.waiting.len(), ..state.counts }
    }

    /// The counts stay right whatever panics: no code of others runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn free_places(&self) -> usize {
        self.places.saturating_sub(self.counts.running)
    }

    /// When those ahead will likely have run; nothing while no run has ended.
    fn wait(&self, ahead: usize) -> Option<Duration> {
        let entries = ahead + self.counts.running;
        Some(self.pace.mean()?.saturating_mul(u32::try_from(entries).unwrap_or(u32::MAX)) / u32::try_from(self.places).unwrap_or(u32::MAX))
            .map(|wait| wait.max(Duration::from_millis(1)))
    }

    /// A batch waits for company until it is full, its time is over, or an entry in it could be late.
    fn next(&self, batching: Option<&Batching>) -> Next {
        let Some(leader) = self.waiting.leader().filter(|_| self.free_places() > 0) else { return Next::Nothing };
        let Some(batching) = batching.filter(|batching| !batching.delay.is_zero() && !self.closed) else { return Next::Now };
        let (rows, deadline) = self.waiting.company(leader, batching);
        let latest = deadline.checked_sub(self.pace.mean().unwrap_or_default()).unwrap_or(deadline);
        let moment = (leader.queued_at + batching.delay).min(latest);
        if rows >= batching.instances_max || batch::is_alone(leader) || moment <= Instant::now() { Next::Now } else { Next::At(moment) }
    }
}

#[cfg(test)]
mod tests;
