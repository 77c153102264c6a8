//! One thread that owns one engine: takes an entry, runs it, answers; a panic costs that answer and the engine.

use super::queue::Entry;
use super::{Answer, Pool};
use crate::engine::{Engine, EngineError};
use crate::inference::{InferenceError, Timing};
use crate::tensor::Tensor;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    let mut engine = None;
    pool.count();
    while let Some(entry) = pool.queue.take(idle) {
        answer(pool, &mut engine, entry);
    }
    let_go(&mut engine);
    pool.count();
}

fn answer(pool: &Pool, engine: &mut Option<Box<dyn Engine>>, entry: Entry) {
    let Entry { inputs, wanted, queued_at, span, reply, .. } = entry;
    let _in_span = span.enter();
    let started = Instant::now();
    let result = infer(pool, engine, &inputs, &wanted);
    let timing = Timing { queue: started.duration_since(queued_at), batch: Duration::ZERO, run: started.elapsed() };
    // Counted before it is told, so that whoever has the answer finds the counts right.
    pool.queue.ran(timing.run);
    pool.metrics.ran(timing.queue, timing.run);
    pool.statistics.executed(1, timing.batch, timing.run);
    pool.count();
    // A caller that left meanwhile wants nothing.
    let _ = reply.send(result.map(|outputs| Answer { outputs, timing }));
}

fn infer(pool: &Pool, engine: &mut Option<Box<dyn Engine>>, inputs: &[Tensor], wanted: &[usize]) -> Result<Vec<Tensor>, InferenceError> {
    // An engine that panicked is let go of, so nothing half-changed is seen again.
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let engine = match engine {
            Some(engine) => engine,
            None => engine.insert(pool.model.worker()?),
        };
        engine.infer(inputs, wanted)
    }));
    match attempt {
        Ok(result) => complete(result.map_err(sorted)?, wanted.len()),
        Err(panic) => {
            pool.metrics.worker_panicked();
            tracing::error!(model = pool.options.model, revision = pool.options.revision, panic = words(&*panic), "engine panicked");
            let_go(engine);
            Err(InferenceError::Engine("the engine broke down on this request; the next one gets a new engine".to_owned()))
        }
    }
}

/// Drops an engine, whose drop may panic as well.
fn let_go(engine: &mut Option<Box<dyn Engine>>) {
    let engine = engine.take();
    let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
}

fn complete(outputs: Vec<Tensor>, expected: usize) -> Result<Vec<Tensor>, InferenceError> {
    if outputs.len() == expected {
        return Ok(outputs);
    }
    Err(InferenceError::Internal(format!("the engine gave {} outputs where {expected} were asked for", outputs.len())))
}

fn sorted(error: EngineError) -> InferenceError {
    match error {
        EngineError::InvalidInput(message) => InferenceError::InvalidInput(message),
        EngineError::Failed(message) => InferenceError::Engine(message),
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
