//! One thread that owns one engine: takes what waits, runs it, answers; a panic costs that answer and the engine.

use super::batch::{Votes, join};
use super::queue::Entry;
use super::{Answer, Pool};
use crate::engine::{Cancel, Engine, EngineError};
use crate::inference::{InferenceError, Timing};
use crate::tensor::Tensor;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// An engine, made when it is first needed.
pub(super) type Seat = Option<Box<dyn Engine>>;

/// Starts a thread for a worker that the queue has counted already.
///
/// # Errors
/// The system's, when it gives no thread.
pub(super) fn spawn(pool: &Arc<Pool>) -> std::io::Result<std::thread::JoinHandle<()>> {
    let pool = Arc::clone(pool);
    std::thread::Builder::new().name("engine-worker".to_owned()).spawn(move || run(&pool))
}

fn run(pool: &Pool) {
    let idle = Duration::from_secs(pool.options.worker_idle_s);
    let (mut seat, mut batch) = (None, Vec::new());
    pool.count();
    while pool.queue.take(idle, &mut batch) {
        answer(pool, &mut seat, &mut batch);
    }
    let_go(&mut seat);
    pool.count();
}

fn answer(pool: &Pool, seat: &mut Seat, batch: &mut Vec<Entry>) {
    let threads = pool.budget.take(pool.options.threads_per_run);
    // The wait for other models' runs may have been long.
    batch.retain(Entry::is_wanted);
    if batch.is_empty() {
        return pool.queue.passed_over();
    }
    let began = Instant::now();
    let batch_id = pool.batches().then(Uuid::new_v4);
    let results = match &batch[..] {
        [entry] => vec![one(pool, seat, entry)],
        entries => together(pool, seat, entries),
    };
    drop(threads);
    let elapsed = began.elapsed();
    // Counted before it is told, so that whoever has the answer finds the counts right.
    pool.queue.ran(elapsed, batch.len());
    pool.count();
    let alone = batch.len() == 1;
    for (entry, result) in batch.drain(..).zip(results) {
        let result = result.map(|(outputs, run)| {
            let joining = if alone { Duration::ZERO } else { elapsed.saturating_sub(run) };
            let timing = Timing { queue: began.duration_since(entry.queued_at), batch: joining, run };
            pool.metrics.ran(timing.queue, timing.run);
            Answer { outputs, timing, batch_id }
        });
        // A caller that left meanwhile wants nothing.
        let _ = entry.reply.send(result);
    }
}

/// What a run gave, and how long the engine took for it.
type Ran = Result<(Vec<Tensor>, Duration), InferenceError>;

fn one(pool: &Pool, seat: &mut Seat, entry: &Entry) -> Ran {
    let _in_span = entry.span.enter();
    let began = Instant::now();
    let outputs = infer(pool, seat, &entry.inputs, &entry.wanted, &entry.cancel);
    let run = began.elapsed();
    pool.statistics.executed(1, Duration::ZERO, run);
    Ok((outputs?, run))
}

/// Runs several as one; where that fails, each on its own, so that a bad request spoils its own answer only.
fn together(pool: &Pool, seat: &mut Seat, entries: &[Entry]) -> Vec<Ran> {
    let began = Instant::now();
    if let Some((parts, run)) = joined(pool, seat, entries) {
        pool.metrics.batched(entries.len());
        pool.statistics.executed(entries.len(), began.elapsed().saturating_sub(run), run);
        return parts.into_iter().map(|outputs| Ok((outputs, run))).collect();
    }
    entries.iter().map(|entry| one(pool, seat, entry)).collect()
}

fn joined(pool: &Pool, seat: &mut Seat, entries: &[Entry]) -> Option<(Vec<Vec<Tensor>>, Duration)> {
    if pool.unjoinable.load(Ordering::Relaxed) {
        return None;
    }
    let rows: Vec<usize> = entries.iter().filter_map(|entry| entry.rows).collect();
    let inputs = join(entries)?;
    let votes = Votes::of(entries);
    let (ears, began) = (votes.listen(entries), Instant::now());
    let wanted = &entries[0].wanted;
    let parts = attempt(pool, seat, |engine| engine.infer_joined(&inputs, &rows, wanted, votes.run())).ok()?;
    let run = began.elapsed();
    drop(ears);
    if parts.is_none() && !pool.unjoinable.swap(true, Ordering::Relaxed) {
        let revision = &pool.options.revision;
        tracing::warn!(revision, "requests are no longer joined: the model's outputs have not as many rows as its inputs");
    }
    let parts = parts?.into_iter().map(|outputs| complete(outputs, wanted.len())).collect::<Result<_, _>>();
    Some((parts.ok()?, run))
}

/// Runs the model on the calling thread.
pub(super) fn infer(pool: &Pool, seat: &mut Seat, inputs: &[Tensor], wanted: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, NoAnswer> {
    complete(attempt(pool, seat, |engine| engine.infer(inputs, wanted, cancel))?, wanted.len())
}

/// Has the engine do something. One that panics is let go of, so nothing half-changed is seen again.
fn attempt<T>(pool: &Pool, seat: &mut Seat, run: impl FnOnce(&mut dyn Engine) -> Result<T, EngineError>) -> Result<T, NoAnswer> {
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let engine = match seat {
            Some(engine) => engine,
            None => seat.insert(pool.model.worker()?),
        };
        run(&mut **engine)
    }));
    match attempt {
        Ok(result) => Ok(result?),
        Err(panic) => {
            pool.metrics.worker_panicked();
            tracing::error!(model = pool.options.model, revision = pool.options.revision, panic = words(&*panic), "engine panicked");
            let_go(seat);
            Err(NoAnswer::Failed(InferenceError::Engine(
                "the engine broke down on this request; the next one gets a new engine".to_owned(),
            )))
        }
    }
}

/// Drops an engine, whose drop may panic as well.
fn let_go(seat: &mut Seat) {
    let engine = seat.take();
    let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
}

fn complete(outputs: Vec<Tensor>, expected: usize) -> Result<Vec<Tensor>, NoAnswer> {
    if outputs.len() == expected {
        return Ok(outputs);
    }
    let message = format!("the engine gave {} outputs where {expected} were asked for", outputs.len());
    Err(NoAnswer::Failed(InferenceError::Internal(message)))
}

/// Why a run gave no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// It was stopped, because nobody waited for it or because it took too long where it ran.
    Stopped,
    /// What its caller is told.
    Failed(InferenceError),
}

impl From<EngineError> for NoAnswer {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::InvalidInput(message) => Self::Failed(InferenceError::InvalidInput(message)),
            EngineError::Failed(message) => Self::Failed(InferenceError::Engine(message)),
            EngineError::Cancelled => Self::Stopped,
        }
    }
}

impl From<NoAnswer> for InferenceError {
    fn from(why: NoAnswer) -> Self {
        match why {
            // Whoever hears of it has left.
            NoAnswer::Stopped => Self::Internal("the run was cancelled".to_owned()),
            NoAnswer::Failed(error) => error,
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
