//! A loaded encoder: texts in, answers out, whatever runs it.
//!
//! The tokenizer, the prompts and the pooling stand above what runs the layers, so they are the same for Candle and ONNX Runtime.

use super::answers::Answers;
use super::batches::{batches, helpers_worth, run_beside};
use super::texts::Texts;
use super::tokenizer::{Row, TextTokenizer};
use crate::engine::{Cancel, Engine, EngineError, LoadedModel, Placement, SpareThreads};
use crate::inference::ModelMetadata;
use crate::tensor::Tensor;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// What runs the layers of a model; its weights are shared by all its runners.
pub(super) trait Backend: Send + Sync + fmt::Debug {
    /// One more runner over the same weights.
    ///
    /// # Errors
    /// `Failed` when the library refuses.
    fn runner(&self) -> Result<Box<dyn Runner>, EngineError>;

    /// How many tokens the model knows.
    fn vocabulary(&self) -> usize;

    /// Whether the texts of a batch are made as long as its longest.
    fn pads(&self) -> bool;

    /// Where it computes.
    fn placement(&self) -> Placement;
}

/// Runs the layers on the thread that owns it.
pub(super) trait Runner: Send + fmt::Debug {
    /// The numbers of each text: see [`super::encoder::Encoder::run`]. `rows` are not empty, and hold as many tokens as a batch may.
    ///
    /// # Errors
    /// `Cancelled`, or `Failed`.
    fn run(&mut self, rows: &[&Row], cancel: &Cancel) -> Result<Vec<Vec<f32>>, EngineError>;
}

/// An encoder with all that stands around it.
#[derive(Debug)]
pub(super) struct TextModel {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metadata: Arc<ModelMetadata>,
    tokenizer: TextTokenizer,
    answers: Answers,
    backend: Box<dyn Backend>,
    batch_tokens_max: usize,
    spare: OnceLock<Arc<dyn SpareThreads>>,
}

impl TextModel {
    /// Joins the parts.
    #[must_use]
    pub(super) fn new(
        metadata: ModelMetadata,
        tokenizer: TextTokenizer,
        answers: Answers,
        backend: Box<dyn Backend>,
        batch_tokens_max: usize,
    ) -> Self {
        let (metadata, spare) = (Arc::new(metadata), OnceLock::new());
        Self { shared: Arc::new(Shared { metadata, tokenizer, answers, backend, batch_tokens_max, spare }) }
    }
}

impl LoadedModel for TextModel {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.shared.metadata
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(TextWorker { runners: vec![self.shared.backend.runner()?], shared: Arc::clone(&self.shared) }))
    }

    fn spread_over(&self, threads: Arc<dyn SpareThreads>) {
        // A model is served once; whoever came first counts.
        let _ = self.shared.spare.set(threads);
    }

    fn placement(&self) -> Placement {
        self.shared.backend.placement()
    }
}

/// A worker over the shared weights.
#[derive(Debug)]
struct TextWorker {
    shared: Arc<Shared>,
    /// Its own, and those that ran beside it on threads that were idle.
    runners: Vec<Box<dyn Runner>>,
}

impl TextWorker {
    /// All texts of the inputs with their numbers.
    fn run(&mut self, inputs: &[Tensor], cancel: &Cancel) -> Result<(Vec<Row>, Vec<Vec<f32>>), EngineError> {
        let Shared { tokenizer, answers, backend, .. } = &*self.shared;
        let rows = Texts::of(inputs)?.tokenise(tokenizer, answers.pooling(), backend.vocabulary(), cancel)?;
        let values = self.values(&rows, cancel)?;
        Ok((rows, values))
    }

    /// The numbers of all texts; many texts are spread over the threads that are idle now.
    fn values(&mut self, rows: &[Row], cancel: &Cancel) -> Result<Vec<Vec<f32>>, EngineError> {
        let shared = Arc::clone(&self.shared);
        let on_cpu = !matches!(shared.backend.placement(), Placement::Gpu(_));
        let (spare, helpers) = (shared.spare.get().filter(|_| on_cpu), helpers_worth(rows));
        let mut found = Ok(Vec::new());
        match spare {
            Some(spare) if helpers > 0 => spare.with(helpers, &mut |helpers| found = self.beside(helpers, rows, cancel)),
            _ => found = self.beside(0, rows, cancel),
        }
        found
    }

    fn beside(&mut self, helpers: usize, rows: &[Row], cancel: &Cancel) -> Result<Vec<Vec<f32>>, EngineError> {
        let Shared { backend, batch_tokens_max, .. } = &*self.shared;
        while self.runners.len() <= helpers {
            self.runners.push(backend.runner()?);
        }
        let batches = batches(rows, (*batch_tokens_max, backend.pads()), helpers + 1);
        run_beside(&mut self.runners[..=helpers], &batches, rows, cancel)
    }

    /// The wanted outputs of some texts.
    fn outputs(&self, rows: &[Row], values: &[Vec<f32>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let outputs = self.shared.answers.tensors(rows, values, &self.shared.tokenizer)?;
        Ok(wanted.iter().filter_map(|&at| outputs.get(at).cloned()).collect())
    }
}

impl Engine for TextWorker {
    fn infer(&mut self, inputs: &[Tensor], wanted: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        let (rows, values) = self.run(inputs, cancel)?;
        self.outputs(&rows, &values, wanted)
    }

    /// Texts of all requests share batches; each request's labels are as wide as its own longest text.
    fn infer_joined(
        &mut self,
        inputs: &[Tensor],
        rows: &[usize],
        wanted: &[usize],
        cancel: &Cancel,
    ) -> Result<Option<Vec<Vec<Tensor>>>, EngineError> {
        let (texts, values) = self.run(inputs, cancel)?;
        let (mut texts, mut values) = (texts.as_slice(), values.as_slice());
        let mut own = |count: &usize| {
            let (text, others) = texts.split_at_checked(*count)?;
            let (value, rest) = values.split_at_checked(*count)?;
            (texts, values) = (others, rest);
            Some(self.outputs(text, value, wanted))
        };
        rows.iter().map(&mut own).collect::<Option<Result<_, _>>>().transpose()
    }
}
