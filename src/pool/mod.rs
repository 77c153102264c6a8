//! The workers of one revision: a bounded queue, threads that each own an engine, and a handle to ask them.
//!
//! [`ModelHandle::infer`] puts a request into the queue and waits for its answer. A full queue refuses at
//! once; an entry whose caller left or whose deadline passed is dropped before it costs engine time.

use crate::engine::LoadedModel;
use crate::inference::{InferenceError, InferenceRequest, InferenceResponse, ModelMetadata};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bounds of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolOptions {
    /// The model's name, for messages and metrics.
    pub model: String,
    /// The revision's name, e.g. `iris-predictor-00003`, sent back with each answer.
    pub revision: String,
    /// Worker threads at most. They start when there is work and end after `worker_idle_s`.
    pub workers_max: usize,
    /// Requests that may wait at most; one more is refused.
    pub queue_max: usize,
    /// Seconds a worker thread waits for work before it ends.
    pub worker_idle_s: u64,
}

/// Asks one revision. Cheap to clone; the last clone's drop lets the workers finish what is queued and end.
#[derive(Debug, Clone)]
pub struct ModelHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: PoolOptions,
    model: Arc<dyn LoadedModel>,
}

impl ModelHandle {
    /// Starts a pool over loaded weights. No thread runs until there is work.
    #[must_use]
    pub fn start(model: Arc<dyn LoadedModel>, options: PoolOptions) -> Self {
        Self { shared: Arc::new(Shared { options, model }) }
    }

    /// Answers a request, or says why not.
    ///
    /// Checks the request against the model (unknown, missing, duplicate inputs and outputs; datatypes;
    /// fixed dimensions) before it takes a place in the queue. Cancel safe: a dropped future leaves no work
    /// behind that has not started.
    ///
    /// # Errors
    /// `InvalidInput`, `Overloaded`, `DeadlineExceeded`, `Engine`; `ModelNotReady` once drained.
    pub async fn infer(&self, request: InferenceRequest, deadline: Instant) -> Result<InferenceResponse, InferenceError> {
        let _ = (request, deadline);
        Err(InferenceError::Internal("not written yet".to_owned()))
    }

    /// What the model says of itself.
    #[must_use]
    pub fn metadata(&self) -> &Arc<ModelMetadata> {
        self.shared.model.metadata()
    }

    /// The revision's name.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.shared.options.revision
    }

    /// Refuses new requests, waits at most `grace` for those admitted, and joins the threads.
    pub async fn drain(&self, grace: Duration) {
        let _ = grace;
    }
}
