//! What must be looked at again: each key once, one at a time per key, later when it failed.
//!
//! [`Queue::add`] merges repeats: a key that waits already is not added twice, and one that is being worked
//! on is worked on once more when that ends. The worker's [`Outcome`] says whether a key is done or to be
//! tried again; tries back off up to a bound. The queue holds each key at most once, so it needs no other bound.

use crate::api::ResourceKey;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What to do with a key after it was worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing, until it is added again.
    Done,
    /// Work on it once more after this time, whatever happened before.
    After(Duration),
    /// It failed for a reason that may pass: once more, after a time that doubles with each failure.
    Retry,
}

/// How the queue works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Keys worked on at once.
    pub(super) parallel_max: usize,
    /// The wait after the first failure.
    pub(super) retry_min: Duration,
    /// The wait after many failures.
    pub(super) retry_max: Duration,
}

/// Adds keys. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    added: Notify,
}

/// The queue as a plain state machine: no clock, no task.
#[derive(Debug, Default)]
struct State {
    ready: VecDeque<ResourceKey>,
    /// Members of `ready`.
    waiting: HashSet<ResourceKey>,
    /// Being worked on, with the token that tells the work that it is out of date.
    running: HashMap<ResourceKey, CancellationToken>,
    /// Added while they were worked on.
    again: HashSet<ResourceKey>,
    later: BTreeSet<(Instant, ResourceKey)>,
    failures: HashMap<ResourceKey, u32>,
}

impl Queue {
    /// Asks for a key to be worked on. A run of the same key that is under way is told through its token.
    pub(super) fn add(&self, key: ResourceKey) {
        self.state().add(key);
        self.shared.added.notify_one();
    }

    /// Works on keys until `stop`, then ends the work under way by dropping it.
    ///
    /// `work` gets the key and a token that is cancelled when the key is added again meanwhile; work that can
    /// be long should then end early. A panic in `work` counts as a failure that may pass.
    pub(super) async fn run<W, F>(&self, bounds: Bounds, stop: CancellationToken, work: W)
    where
        W: Fn(ResourceKey, CancellationToken) -> F,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let mut keys: HashMap<Id, ResourceKey> = HashMap::new();
        loop {
            let next_later = self.state().wake(Instant::now());
            while tasks.len() < bounds.parallel_max {
                let Some((key, superseded)) = self.state().start() else { break };
                let task = tasks.spawn(work(key.clone(), superseded));
                keys.insert(task.id(), key);
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.shared.added.notified() => {}
                () = sleep_until(next_later) => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let (id, outcome) = read_end(ended);
                    if let Some(key) = keys.remove(&id) {
                        self.state().finish(key, outcome, &bounds, Instant::now());
                    }
                }
            }
        }
        tasks.shutdown().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: ResourceKey) {
        self.later.retain(|(_, waiting)| *waiting != key);
        if let Some(superseded) = self.running.get(&key) {
            superseded.cancel();
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Moves keys whose time has come to the ready ones; says when the next one's time comes.
    fn wake(&mut self, now: Instant) -> Option<Instant> {
        while let Some((due, _)) = self.later.first() {
            if *due > now {
                return Some(*due);
            }
            if let Some((_, key)) = self.later.pop_first() {
                self.add(key);
            }
        }
        None
    }

    fn start(&mut self) -> Option<(ResourceKey, CancellationToken)> {
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        let superseded = CancellationToken::new();
        self.running.insert(key.clone(), superseded.clone());
        Some((key, superseded))
    }

    fn finish(&mut self, key: ResourceKey, outcome: Outcome, bounds: &Bounds, now: Instant) {
        self.running.remove(&key);
        let delay = match outcome {
            Outcome::Done => {
                self.failures.remove(&key);
                None
            }
            Outcome::After(delay) => Some(delay),
            Outcome::Retry => Some(self.back_off(&key, bounds)),
        };
        if self.again.remove(&key) {
            self.add(key);
        } else if let Some(delay) = delay {
            self.later.insert((now + delay, key));
        }
    }

    fn back_off(&mut self, key: &ResourceKey, bounds: &Bounds) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = bounds.retry_min.saturating_mul(1 << (*failures).min(20)).min(bounds.retry_max);
        *failures += 1;
        delay
    }
}

fn read_end(ended: Result<(Id, Outcome), JoinError>) -> (Id, Outcome) {
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "work on a resource ended by itself");
        (error.id(), Outcome::Retry)
    })
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::mpsc;

    const BOUNDS: Bounds = Bounds { parallel_max: 2, retry_min: Duration::from_secs(1), retry_max: Duration::from_secs(8) };

    fn key(name: &str) -> ResourceKey {
        ResourceKey { kind: Kind::InferenceService, namespace: "default".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn repeats_merge_and_a_running_key_is_told_and_worked_on_once_more() {
        let mut state = State::default();
        state.add(key("a"));
        state.add(key("a"));
        let (started, superseded) = state.start().unwrap();
        assert_eq!(started, key("a"));
        assert!(state.start().is_none());
        state.add(key("a"));
        state.add(key("a"));
        assert!(superseded.is_cancelled());
        assert!(state.start().is_none(), "one key never runs twice at once");
        state.finish(key("a"), Outcome::Done, &BOUNDS, Instant::now());
        assert_eq!(state.start().unwrap().0, key("a"));
        assert!(state.start().is_none());
    }

    #[test]
    fn tries_back_off_up_to_a_bound_and_start_anew_after_a_success() {
        let mut state = State::default();
        let now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..5 {
            state.add(key("a"));
            state.start().unwrap();
            state.finish(key("a"), Outcome::Retry, &BOUNDS, now);
            waits.push(state.wake(now).unwrap().duration_since(now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 8]);
        state.add(key("a"));
        assert!(state.wake(now).is_none(), "adding a key takes the place of its waiting try");
        state.start().unwrap();
        state.finish(key("a"), Outcome::Done, &BOUNDS, now);
        assert!(state.failures.is_empty() && state.wake(now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_keys_are_tried_again_and_a_panic_is_a_failure() {
        let queue = Queue::default();
        queue.add(key("a"));
        let (told, mut tries) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let stop = CancellationToken::new();
        let work = |_: ResourceKey, _: CancellationToken| {
            let (told, number) = (told.clone(), count.fetch_add(1, Ordering::SeqCst));
            async move {
                told.send((number, began.elapsed().as_secs())).unwrap();
                assert!(number != 1, "the second try fails hard");
                if number == 0 { Outcome::Retry } else { Outcome::Done }
            }
        };
        tokio::select! {
            () = queue.run(BOUNDS, stop.clone(), work) => {}
            () = async {
                assert_eq!(tries.recv().await, Some((0, 0)));
                assert_eq!(tries.recv().await, Some((1, 1)));
                assert_eq!(tries.recv().await, Some((2, 3)));
            } => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_done_in_parallel_up_to_a_bound() {
        let queue = Queue::default();
        for name in ["a", "b", "c", "d", "e"] {
            queue.add(key(name));
        }
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (told, mut ended) = mpsc::unbounded_channel();
        let work = |_: ResourceKey, _: CancellationToken| {
            let (running, most, told) = (Arc::clone(&running), Arc::clone(&most), told.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                told.send(()).unwrap();
                Outcome::Done
            }
        };
        tokio::select! {
            () = queue.run(BOUNDS, CancellationToken::new(), work) => {}
            () = async { for _ in 0..5 { ended.recv().await; } } => {}
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }
}
