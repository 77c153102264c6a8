//! The workers of one revision: a bounded queue, threads that each own an engine, and a handle to ask them.
//!
//! [`ModelHandle::infer`] puts a request into the queue and waits for its answer. A full queue refuses at
//! once; an entry whose caller left or whose deadline passed is dropped before it costs engine time. A model that
//! answers in no time runs on its caller's thread instead, and requests that wait for a slow one may be joined.

mod batch;
mod check;
pub mod demand;
mod generation;
mod here;
mod lanes;
pub mod latencies;
mod pace;
mod queue;
mod spare;
pub mod statistics;
pub mod threads;
mod warm_up;
mod watchdog;
mod worker;

pub use batch::Batching;
pub use generation::Answering;
pub use warm_up::WeakHandle;

use crate::engine::generation::Generator;
use crate::engine::{Cancel, LoadedModel};
use crate::inference::{InferenceError, InferenceRequest, InferenceResponse, ModelMetadata, Timing};
use crate::observe::{AnsweredMetrics, PoolMetrics};
use crate::tensor::Tensor;
use demand::{Demand, Sample};
use here::Seats;
use queue::{Entry, Pushed, Queue, Refused};
use spare::Spare;
use statistics::Statistics;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use threads::ThreadBudget;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

/// Bounds of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolOptions {
    /// The model's name, for messages and metrics.
    pub model: String,
    /// The revision's name, e.g. `iris-predictor-00003`, sent back with each answer.
    pub revision: String,
    /// Worker threads at most, 1 at least. They start when there is work and end after `worker_idle_s`.
    pub workers_max: usize,
    /// Requests that may wait at most beyond those that a free worker takes at once; one more is refused.
    pub queue_max: usize,
    /// Threads that one run uses, its own among them.
    pub threads_per_run: usize,
    /// Seconds a worker thread waits for work before it ends.
    pub worker_idle_s: u64,
    /// A model whose runs lately took less than this runs on its caller's thread; zero: never.
    pub inline_run_max: Duration,
    /// How requests are joined; nothing: each runs alone. A model whose first dimensions are fixed is never batched.
    pub batching: Option<Batching>,
}

/// Asks one revision. Cheap to clone; the last clone's drop lets the workers finish what is queued and end.
#[derive(Debug, Clone)]
pub struct ModelHandle {
    shared: Arc<Shared>,
}

/// What the handles share. The workers hold the pool alone, so that they see the last handle go.
#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.pool.close();
    }
}

/// What handles and workers share.
#[derive(Debug)]
struct Pool {
    options: PoolOptions,
    revision: Arc<str>,
    model: Arc<dyn LoadedModel>,
    /// What writes text, where the model does.
    generator: Option<Arc<dyn Generator>>,
    generations: generation::Running,
    queue: Queue,
    threads: Mutex<Vec<JoinHandle<()>>>,
    seats: Seats,
    /// Threads of all models' runs together.
    budget: ThreadBudget,
    /// Set once a batch came back with another number of rows than went in.
    unjoinable: AtomicBool,
    metrics: PoolMetrics,
    answered: AnsweredMetrics,
    statistics: Statistics,
    demand: Demand,
    /// Set when the pool is drained: who finds it so looks for the one that took its place.
    retired: AtomicBool,
    /// Stops the run that nobody asked for, once the pool takes no more.
    warming: Cancel,
}

/// What a worker sends back.
#[derive(Debug)]
struct Answer {
    outputs: Vec<Tensor>,
    timing: Timing,
    batch_id: Option<Uuid>,
}

impl ModelHandle {
    /// Starts a pool over loaded weights; its runs take their threads out of `budget`. No thread runs until there is work.
    #[must_use]
    pub fn start(model: Arc<dyn LoadedModel>, options: PoolOptions, budget: ThreadBudget) -> Self {
        let batching = options.batching.clone().filter(|_| batch::takes_rows(model.metadata()));
        let queue = Queue::new(options.queue_max, options.workers_max, batching);
        let metrics = PoolMetrics::new(&options.model, &options.revision);
        let answered = AnsweredMetrics::new(&options.model.as_str().into());
        let revision = options.revision.as_str().into();
        let (threads, seats, unjoinable) = (Mutex::default(), Seats::default(), AtomicBool::new(false));
        let (demand, retired) = (Demand::new(Instant::now()), AtomicBool::new(false));
        // A model whose threads are bounded below the machine's keeps to its own.
        if options.workers_max.saturating_mul(options.threads_per_run) >= budget.places() {
            model.spread_over(Arc::new(Spare { budget: budget.clone(), threads_per_run: options.threads_per_run }));
        }
        let generator = model.generator();
        if let Some(generator) = &generator {
            generator.serve_as(&options.model, Arc::new(budget.clone()));
        }
        let pool = Pool {
            options,
            revision,
            model,
            generator,
            generations: generation::Running::default(),
            queue,
            threads,
            seats,
            budget,
            unjoinable,
            metrics,
            answered,
            statistics: Statistics::default(),
            demand,
            retired,
            warming: Cancel::default(),
        };
        Self { shared: Arc::new(Shared { pool: Arc::new(pool) }) }
    }

    /// Answers a request, or says why not.
    ///
    /// Checks the request against the model (unknown, missing, duplicate inputs and outputs; datatypes;
    /// fixed dimensions) before it takes a place in the queue. Cancel safe: a dropped future leaves no work
    /// behind, and a run that nobody waits for any more is stopped where the engine can.
    ///
    /// # Errors
    /// `InvalidInput`, `Overloaded`, `DeadlineExceeded`, `Engine`; `ModelNotReady` once drained.
    pub async fn infer(&self, request: InferenceRequest, deadline: Instant) -> Result<InferenceResponse, InferenceError> {
        let pool = &self.shared.pool;
        let wanted = check::admit(&pool.options.model, self.metadata(), &request)?;
        let now = Instant::now();
        let allowed = deadline.saturating_duration_since(now);
        if allowed.is_zero() {
            return Err(too_late(&pool.options.model, allowed));
        }
        if let Some(generator) = &pool.generator {
            return self.infer_by_writing(&**generator, &request, deadline, allowed).await;
        }
        let _in_flight = pool.demand.enter(now);
        if let Some(answer) = pool.run_here(&request.inputs, &wanted) {
            return answer.map(|answer| pool.response(answer));
        }
        let (reply, answer) = oneshot::channel();
        let (inputs, priority, span) = (request.inputs, request.priority, tracing::Span::current());
        let rows = if pool.batches() { batch::rows_of(&inputs) } else { None };
        let (deadline_std, queued_at) = (deadline.into_std(), now.into_std());
        let waiting = Waiting(Arc::default());
        let cancel = Arc::clone(&waiting.0);
        pool.submit(Entry { inputs, wanted, deadline: deadline_std, queued_at, priority, rows, cancel, span, reply })?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result.map(|answer| pool.response(answer)),
            // A worker found the entry late a moment before the timer did.
            Ok(Err(_)) if Instant::now() >= deadline => Err(too_late(&pool.options.model, allowed)),
            Ok(Err(_)) => Err(InferenceError::Internal("the request was lost on its way to the engine".to_owned())),
            Err(_) => Err(too_late(&pool.options.model, allowed)),
        }
    }

    /// What the model says of itself.
    #[must_use]
    pub fn metadata(&self) -> &Arc<ModelMetadata> {
        self.shared.pool.model.metadata()
    }

    /// The revision's name.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.shared.pool.revision
    }

    /// What the revision did so far.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.shared.pool.statistics
    }

    /// What was asked of the revision since it was loaded.
    #[must_use]
    pub fn demand(&self) -> Sample {
        self.shared.pool.demand.sample(Instant::now())
    }

    /// Whether the pool was told to take no more.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.shared.pool.retired.load(Ordering::Acquire)
    }

    /// Worker threads at most when the pool was started.
    #[must_use]
    pub fn workers_max(&self) -> usize {
        self.shared.pool.options.workers_max
    }

    /// The metrics of the requests it answers, looked up once.
    #[must_use]
    pub fn answered_metrics(&self) -> &AnsweredMetrics {
        &self.shared.pool.answered
    }

    /// How requests are joined, where they are.
    #[must_use]
    pub fn batching(&self) -> Option<&Batching> {
        self.shared.pool.queue.batching()
    }

    /// How many runs may overlap from now on, at least one; worker threads beyond it end when they are idle.
    pub fn set_workers_max(&self, workers_max: usize) {
        self.shared.pool.queue.set_places(workers_max);
    }

    /// How many requests may wait from now on beyond those that a free worker takes at once.
    pub fn set_waiting_max(&self, waiting_max: usize) {
        self.shared.pool.queue.set_waiting_max(waiting_max);
    }

    /// How many runs may overlap now.
    #[must_use]
    pub fn places(&self) -> usize {
        self.shared.pool.queue.places()
    }

    /// Requests that wait for a worker now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.pool.queue.counts().waiting
    }

    /// Requests that wait or run now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let counts = self.shared.pool.queue.counts();
        counts.waiting + counts.running + self.shared.pool.generations.count()
    }

    /// Worker threads now.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.pool.queue.counts().workers
    }

    /// Refuses new requests, waits at most `grace` for those admitted, and joins the threads.
    ///
    /// After `grace`, requests that still wait are answered `ModelNotReady`; those that run end on their own.
    pub async fn drain(&self, grace: Duration) {
        let pool = &self.shared.pool;
        pool.retired.store(true, Ordering::Release);
        pool.close();
        if timeout(grace, async { tokio::join!(pool.queue.ended(), pool.generations.ended()) }).await.is_ok() {
            pool.join().await;
            return;
        }
        if let Some(generator) = &pool.generator {
            generator.cancel_all();
        }
        let left = pool.queue.clear();
        tracing::warn!(revision = pool.options.revision, waiting = left.len(), running = self.in_flight(), "not drained in time");
        for entry in left {
            let _ = entry.reply.send(Err(pool.not_ready()));
        }
    }
}

/// A caller in front of a run; the run is stopped when the caller goes, by leaving or by its deadline.
#[derive(Debug)]
struct Waiting(Arc<Cancel>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Pool {
    /// Takes no more requests.
    fn close(&self) {
        self.queue.close();
        self.warming.cancel();
        if let Some(generator) = &self.generator {
            generator.close();
        }
    }

    fn batches(&self) -> bool {
        self.queue.batching().is_some()
    }

    fn submit(self: &Arc<Self>, entry: Entry) -> Result<(), InferenceError> {
        let Pushed { start_worker, displaced } = self.queue.push(entry).map_err(|refused| self.refusal(&refused))?;
        self.count();
        if let Some((entry, refused)) = displaced {
            let _ = entry.reply.send(Err(self.refusal(&refused)));
        }
        if start_worker {
            self.start_worker();
        }
        Ok(())
    }

    fn start_worker(self: &Arc<Self>) {
        match worker::spawn(self) {
            Ok(thread) => self.keep(thread),
            Err(error) => {
                tracing::error!(%error, revision = self.options.revision, "no thread for a worker");
                for entry in self.queue.worker_failed() {
                    let _ = entry.reply.send(Err(InferenceError::Engine(format!("no thread for a worker: {error}"))));
                }
            }
        }
    }

    /// Remembers a thread until it is joined or has ended.
    fn keep(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Joins the threads, all of which have ended or are about to.
    async fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let (ended, ending): (Vec<_>, Vec<_>) = threads.into_iter().partition(JoinHandle::is_finished);
        for thread in ended {
            let _ = thread.join();
        }
        if ending.is_empty() {
            return;
        }
        let joined = tokio::task::spawn_blocking(move || ending.into_iter().for_each(|thread| drop(thread.join())));
        // It fails only where the runtime is being shut down; then nobody waits for the threads either.
        let _ = joined.await;
    }

    /// Tells the metrics how many wait and work.
    fn count(&self) {
        let counts = self.queue.counts();
        self.metrics.queue_length(counts.waiting);
        self.metrics.workers(counts.workers);
    }

    fn response(&self, answer: Answer) -> InferenceResponse {
        let Answer { outputs, timing, batch_id } = answer;
        InferenceResponse { outputs, timing, revision: Arc::clone(&self.revision), batch_id }
    }

    fn refusal(&self, refused: &Refused) -> InferenceError {
        match *refused {
            Refused::Closed => self.not_ready(),
            Refused::Full { queued, retry_after } => {
                self.metrics.refused();
                InferenceError::Overloaded { model: self.options.model.clone(), queued, retry_after }
            }
        }
    }

    fn not_ready(&self) -> InferenceError {
        InferenceError::ModelNotReady { name: self.options.model.clone(), reason: "It is being unloaded.".to_owned() }
    }
}

/// The time allowed to the nearest millisecond: what the caller's limit was, without the way to here.
fn too_late(model: &str, allowed: Duration) -> InferenceError {
    let millis = (allowed.as_micros() + 500) / 1000;
    let timeout = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
    InferenceError::DeadlineExceeded { model: model.to_owned(), timeout }
}

#[cfg(test)]
mod tests;
