//! What an engine is: it turns a model's files into weights, the weights into workers, and a worker answers.
//!
//! Three things, so that weights are never copied per worker:
//!
//! 1. [`EngineLoader::load`] reads the files and gives a [`LoadedModel`]: the weights, shared, held once.
//! 2. [`LoadedModel::worker`] gives an [`Engine`]: cheap, owned by one thread.
//! 3. [`Engine::infer`] answers one (possibly batched) request on that thread. It blocks.
//!
//! A model that writes text has a fourth: [`LoadedModel::generator`] answers token by token, many requests in one step.
//!
//! Engines know nothing of queues, deadlines, protocols or batching. A panic in an engine is caught by the
//! pool and costs one answer and one worker.

pub mod cancel;
pub mod free_memory;
pub mod generation;
pub mod gpu;
pub mod huggingface;
pub mod onnx;

pub use cancel::Cancel;
pub use gpu::{GpuConfig, GpuWish, Placement};

use crate::inference::ModelMetadata;
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Turns a model's files into a [`LoadedModel`]. Blocking; called on a thread that may wait.
pub trait EngineLoader: Send + Sync + std::fmt::Debug {
    /// Loads the model found at `model`: a file, or a folder in one of the engine's layouts.
    ///
    /// # Errors
    /// [`LoadError`] in a sentence that names the file; nothing stays allocated.
    fn load(&self, model: &Path, options: &LoadOptions) -> Result<Arc<dyn LoadedModel>, LoadError>;
}

/// How to load: what a runtime's arguments and resources ask for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoadOptions {
    /// Threads one run may use; 1 is best for throughput.
    pub intra_op_threads: usize,
    /// Threads that a model may use which answers all its requests in common steps (text generation).
    pub step_threads: usize,
    /// Whether the model shall compute on a GPU.
    pub gpu: GpuWish,
    /// The runtime's arguments after merge, for options an engine knows.
    pub args: Vec<String>,
    /// The runtime's environment after merge.
    pub env: BTreeMap<String, String>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { intra_op_threads: 1, step_threads: 1, gpu: GpuWish::No, args: Vec::new(), env: BTreeMap::new() }
    }
}

/// Weights in memory, shared by all workers of a revision.
pub trait LoadedModel: Send + Sync + std::fmt::Debug {
    /// Inputs, outputs, platform and versions; known without a run.
    fn metadata(&self) -> &Arc<ModelMetadata>;

    /// One more worker over the same weights.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when the engine's library refuses.
    fn worker(&self) -> Result<Box<dyn Engine>, EngineError>;

    /// What writes text token by token, for a model that does. The same one each time.
    fn generator(&self) -> Option<Arc<dyn generation::Generator>> {
        None
    }

    /// Where it computes.
    fn placement(&self) -> Placement {
        Placement::Cpu
    }

    /// Says where its workers may have threads for a run that can be spread; called before the first run, if at all.
    fn spread_over(&self, _threads: Arc<dyn SpareThreads>) {}

    /// Bytes that it may come to hold beside what it took to load, e.g. what a language model remembers of running answers.
    fn later_bytes(&self) -> u64 {
        0
    }
}

/// Threads of the machine that nobody uses now.
pub trait SpareThreads: Send + Sync + std::fmt::Debug {
    /// Calls `work` once, with as many runs as may go on beside the one of this thread: `most` at most, none where no thread is idle.
    /// Never waits for one; they count as used until `work` ends.
    fn with(&self, most: usize, work: &mut dyn FnMut(usize));
}

/// One worker: answers requests one after another on the thread that owns it.
pub trait Engine: Send + std::fmt::Debug {
    /// Runs the model once.
    ///
    /// `inputs` carry names, in any order; a name the model lacks, a missing required one, or a wrong
    /// datatype is [`EngineError::InvalidInput`] naming the tensor. `wanted` are positions in
    /// [`ModelMetadata::outputs`]; the answer holds exactly these, in that order.
    ///
    /// A cancel stops the run as soon as the engine can; it never reaches a later run of this worker.
    ///
    /// # Errors
    /// `InvalidInput` when the caller can mend it, `Cancelled` when nobody wanted the answer any more, else `Failed`.
    fn infer(&mut self, inputs: &[Tensor], wanted: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, EngineError>;

    /// Runs the model once for several requests, whose inputs lie one behind the other along the first dimension: `rows` of each.
    /// One answer for each; nothing where the outputs have not as many rows as the inputs.
    ///
    /// An engine whose answers depend on what stands beside them (a width that is the longest row's) gives each its own.
    ///
    /// # Errors
    /// As [`Engine::infer`].
    fn infer_joined(
        &mut self,
        inputs: &[Tensor],
        rows: &[usize],
        wanted: &[usize],
        cancel: &Cancel,
    ) -> Result<Option<Vec<Vec<Tensor>>>, EngineError> {
        let outputs = self.infer(inputs, wanted, cancel)?;
        let mut answers: Vec<Vec<Tensor>> = rows.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
        for output in &outputs {
            let Some(parts) = output.split_rows(rows) else { return Ok(None) };
            answers.iter_mut().zip(parts).for_each(|(answer, part)| answer.push(part));
        }
        Ok(Some(answers))
    }
}

/// Why a model did not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine itself cannot start, e.g. its library is missing. The message names the next step.
    #[error("{0}")]
    EngineUnavailable(String),
    /// The files are missing, broken, or not of this engine's kind.
    #[error("{0}")]
    InvalidModel(String),
}

/// Why a run gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The request does not fit the model.
    #[error("{0}")]
    InvalidInput(String),
    /// The engine failed.
    #[error("{0}")]
    Failed(String),
    /// The run was stopped because nobody waits for it any more.
    #[error("the run was cancelled")]
    Cancelled,
}

/// Engines by the name a runtime gives them.
#[derive(Debug, Clone, Default)]
pub struct EngineRegistry {
    loaders: BTreeMap<String, Arc<dyn EngineLoader>>,
}

impl EngineRegistry {
    /// Adds an engine under a name; the last one of a name counts.
    pub fn add(&mut self, name: impl Into<String>, loader: Arc<dyn EngineLoader>) {
        self.loaders.insert(name.into(), loader);
    }

    /// The engine of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn EngineLoader>> {
        self.loaders.get(name)
    }

    /// The engines' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.loaders.keys().map(String::as_str)
    }
}
