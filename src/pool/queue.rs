//! The bounded queue of one revision: who waits, who runs, and whether one more worker is worth a thread.
//!
//! One short lock, never held while anything runs or waits. Time comes in through the entries' own clocks.

use super::Answer;
use crate::inference::InferenceError;
use crate::tensor::Tensor;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// The weight of the latest run in the moving average of run times.
const LATEST_RUN_WEIGHT: f64 = 0.125;

/// What is said of the wait as long as no run has finished.
const RETRY_AFTER_UNKNOWN: Duration = Duration::from_secs(1);

/// A request on its way to a worker, with all it needs there.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) inputs: Vec<Tensor>,
    pub(super) wanted: Vec<usize>,
    pub(super) deadline: Instant,
    pub(super) queued_at: Instant,
    pub(super) span: tracing::Span,
    pub(super) reply: oneshot::Sender<Result<Answer, InferenceError>>,
}

impl Entry {
    /// Whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed() && Instant::now() < self.deadline
    }
}

/// What the pushing side does after its entry took a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// A worker has it or will come to it.
    Queued,
    /// A worker was counted for it; its thread must be started.
    StartWorker,
}

/// Why an entry got no place. The entry is gone; its reply is not sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many wait as may wait.
    Full { queued: usize, retry_after: Duration },
    /// The pool takes no more.
    Closed,
}

/// Numbers of a queue at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Entries without a worker.
    pub(super) waiting: usize,
    /// Entries in an engine.
    pub(super) running: usize,
    /// Worker threads.
    pub(super) workers: usize,
    /// Workers without an entry.
    idle: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    counts: Counts,
    closed: bool,
    /// Moving average of run times; nothing before the first run ended.
    run_s_mean: Option<f64>,
}

/// The queue and the counts of its workers.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    ended: Notify,
    waiting_max: usize,
    workers_max: usize,
}

impl Queue {
    pub(super) fn new(waiting_max: usize, workers_max: usize) -> Self {
        let workers_max = workers_max.max(1);
        Self { state: Mutex::default(), work: Condvar::new(), ended: Notify::new(), waiting_max, workers_max }
    }

    /// Gives an entry a place, behind all others.
    ///
    /// Entries that a free worker will take at once do not count as waiting. Before it refuses, it throws out
    /// those whose callers left.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn push(&self, entry: Entry) -> Result<Pushed, Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let places = self.waiting_max.saturating_add(self.workers_max - state.counts.running.min(self.workers_max));
        if state.waiting.len() >= places {
            state.waiting.retain(Entry::is_wanted);
        }
        if state.waiting.len() >= places {
            return Err(Refused::Full { queued: state.waiting.len(), retry_after: self.retry_after(&state) });
        }
        state.waiting.push_back(entry);
        if state.waiting.len() > state.counts.idle && state.counts.workers < self.workers_max {
            state.counts.workers += 1;
            return Ok(Pushed::StartWorker);
        }
        drop(state);
        self.work.notify_one();
        Ok(Pushed::Queued)
    }

    /// The next entry that somebody still waits for. Blocks at most `idle`; nothing means that the calling worker
    /// no longer counts and must end.
    pub(super) fn take(&self, idle: Duration) -> Option<Entry> {
        loop {
            let entry = self.next(idle)?;
            if entry.is_wanted() {
                return Some(entry);
            }
            // Dropped here, outside the lock: a request may hold megabytes.
            self.lock().counts.running -= 1;
        }
    }

    fn next(&self, idle: Duration) -> Option<Entry> {
        let mut state = self.lock();
        if state.waiting.is_empty() && !state.closed {
            state.counts.idle += 1;
            let nothing = |state: &mut State| state.waiting.is_empty() && !state.closed;
            state = self.work.wait_timeout_while(state, idle, nothing).unwrap_or_else(PoisonError::into_inner).0;
            state.counts.idle -= 1;
        }
        let entry = state.waiting.pop_front();
        match entry {
            Some(_) => state.counts.running += 1,
            None => self.worker_ends(&mut state),
        }
        entry
    }

    /// A run has ended after that time.
    pub(super) fn ran(&self, run: Duration) {
        let mut state = self.lock();
        state.counts.running -= 1;
        let mean = state.run_s_mean.unwrap_or(run.as_secs_f64());
        state.run_s_mean = Some(mean + (run.as_secs_f64() - mean) * LATEST_RUN_WEIGHT);
    }

    /// A worker that was counted has no thread. Gives back what nobody will come to.
    pub(super) fn worker_failed(&self) -> Vec<Entry> {
        let mut state = self.lock();
        self.worker_ends(&mut state);
        if state.counts.workers > 0 { Vec::new() } else { state.waiting.drain(..).collect() }
    }

    fn worker_ends(&self, state: &mut State) {
        state.counts.workers -= 1;
        if state.counts.workers == 0 {
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
        self.lock().waiting.drain(..).collect()
    }

    /// Resolves once no worker is left. Cancel safe.
    pub(super) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Listening before looking: a worker may end in between.
            ended.as_mut().enable();
            if self.counts().workers == 0 {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { waiting: state.waiting.len(), ..state.counts }
    }

    /// When those before it will likely have run.
    fn retry_after(&self, state: &State) -> Duration {
        let Some(run_s) = state.run_s_mean else { return RETRY_AFTER_UNKNOWN };
        let before = state.waiting.len() + state.counts.running;
        #[expect(clippy::cast_precision_loss, reason = "queues and workers are few")]
        let wait_s = run_s * before as f64 / self.workers_max as f64;
        Duration::try_from_secs_f64(wait_s).unwrap_or(RETRY_AFTER_UNKNOWN).max(Duration::from_millis(1))
    }

    /// The counts stay right whatever panics: no code of others runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Caller = oneshot::Receiver<Result<Answer, InferenceError>>;

    fn entry() -> (Entry, Caller) {
        let (reply, caller) = oneshot::channel();
        let now = Instant::now();
        let deadline = now + Duration::from_mins(10);
        (Entry { inputs: Vec::new(), wanted: Vec::new(), deadline, queued_at: now, span: tracing::Span::none(), reply }, caller)
    }

    fn push(queue: &Queue) -> (Result<Pushed, Refused>, Caller) {
        let (entry, caller) = entry();
        (queue.push(entry), caller)
    }

    #[test]
    fn a_worker_is_started_for_each_entry_until_there_are_enough() {
        let queue = Queue::new(10, 2);
        let callers: Vec<_> = (0..3).map(|_| push(&queue)).collect();
        let pushed: Vec<_> = callers.iter().map(|(pushed, _)| pushed.as_ref().unwrap()).collect();
        assert_eq!(pushed, [&Pushed::StartWorker, &Pushed::StartWorker, &Pushed::Queued]);
    }

    #[test]
    fn the_wait_is_told_by_the_run_time_the_queue_and_the_workers() {
        let queue = Queue::new(2, 1);
        let callers: Vec<_> = (0..3).map(|_| push(&queue)).collect();
        assert!(callers.iter().all(|(pushed, _)| pushed.is_ok()));
        assert_eq!(push(&queue).0, Err(Refused::Full { queued: 3, retry_after: RETRY_AFTER_UNKNOWN }));
        queue.take(Duration::ZERO).unwrap();
        queue.ran(Duration::from_secs(2));
        queue.take(Duration::ZERO).unwrap();
        let waits: Vec<_> = (0..2).map(|_| push(&queue)).collect();
        // Two wait and one runs, two seconds each, on one worker.
        assert_eq!(waits[1].0, Err(Refused::Full { queued: 2, retry_after: Duration::from_secs(6) }));
    }

    #[test]
    fn callers_that_left_make_room() {
        let queue = Queue::new(1, 1);
        let (first, _caller) = push(&queue);
        let (second, left) = push(&queue);
        assert!(first.is_ok() && second.is_ok());
        drop(left);
        assert!(push(&queue).0.is_ok());
    }

    #[test]
    fn an_entry_whose_deadline_passed_is_never_handed_out() {
        let queue = Queue::new(2, 1);
        let (mut late, _late_caller) = entry();
        late.deadline = late.queued_at;
        queue.push(late).unwrap();
        let (_, _caller) = push(&queue);
        assert!(queue.take(Duration::ZERO).is_some());
        assert_eq!(queue.counts(), Counts { waiting: 0, running: 1, workers: 1, idle: 0 });
    }

    #[test]
    fn a_worker_without_work_ends_and_is_no_longer_counted() {
        let queue = Queue::new(2, 1);
        let (_, _caller) = push(&queue);
        queue.take(Duration::ZERO).unwrap();
        queue.ran(Duration::ZERO);
        assert!(queue.take(Duration::ZERO).is_none());
        assert_eq!(queue.counts(), Counts::default());
    }

    #[test]
    fn a_closed_queue_hands_out_what_it_has_and_takes_no_more() {
        let queue = Queue::new(2, 1);
        let (_, _caller) = push(&queue);
        queue.close();
        assert_eq!(push(&queue).0, Err(Refused::Closed));
        assert!(queue.take(Duration::MAX).is_some());
        queue.ran(Duration::ZERO);
        assert!(queue.take(Duration::MAX).is_none());
    }
}
