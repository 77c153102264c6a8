//! A run that nobody asked for, so that the first caller does not pay for what an engine puts off until it runs.

use super::worker::{self, NoAnswer};
use super::{ModelHandle, Pool, Shared, check};
use crate::inference::{InferenceError, InferenceRequest};
use crate::tensor::Tensor;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::oneshot;

/// A handle that keeps nothing loaded.
#[derive(Debug, Clone)]
pub struct WeakHandle(Weak<Shared>);

impl WeakHandle {
    /// The handle, as long as others hold one.
    #[must_use]
    pub fn upgrade(&self) -> Option<ModelHandle> {
        self.0.upgrade().map(|shared| ModelHandle { shared })
    }
}

impl ModelHandle {
    /// For those who look at the model later, if it is still loaded then.
    #[must_use]
    pub fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.shared))
    }

    /// Runs the model once, beside its queue: no request waits for it, and no statistic has it. Nothing is run where a request came
    /// before: that one warms the model.
    ///
    /// On a thread of its own, which takes its places in the machine's budget. Draining the pool stops the run. A dropped future leaves
    /// it to itself.
    ///
    /// # Errors
    /// Those of [`ModelHandle::infer`]; `Internal` where the run was stopped.
    pub async fn warm_up(&self, inputs: Vec<Tensor>) -> Result<(), InferenceError> {
        let request = InferenceRequest { inputs, ..InferenceRequest::default() };
        let wanted = check::admit(&self.shared.pool.options.model, self.metadata(), &request)?;
        let (tell, over) = oneshot::channel();
        let pool = Arc::clone(&self.shared.pool);
        let run = move || drop(tell.send(pool.run_unasked(&request.inputs, &wanted)));
        let thread = std::thread::Builder::new().name("engine-warm-up".to_owned()).spawn(run);
        self.shared.pool.keep(thread.map_err(|error| InferenceError::Engine(format!("no thread to warm up the model: {error}")))?);
        over.await.unwrap_or_else(|_| Err(NoAnswer::Stopped.into()))
    }
}

impl Pool {
    fn run_unasked(&self, inputs: &[Tensor], wanted: &[usize]) -> Result<(), InferenceError> {
        // What writes text takes its places itself, for each of its steps.
        let _threads = self.generator.is_none().then(|| self.budget.take(self.options.threads_per_run));
        if self.was_asked() {
            return Ok(());
        }
        let (mut seat, began) = (None, Instant::now());
        worker::infer(self, &mut seat, inputs, wanted, &self.warming)?;
        self.queue.learn(began.elapsed());
        Ok(())
    }

    fn was_asked(&self) -> bool {
        let demand = self.demand.sample(tokio::time::Instant::now());
        demand.in_flight > 0 || demand.ended > 0
    }
}
