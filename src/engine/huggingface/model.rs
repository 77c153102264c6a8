//! A loaded encoder: texts in, answers out, whatever runs it.
//!
//! The tokenizer, the prompts and the pooling stand above what runs the layers, so they are the same for Candle and ONNX Runtime.

use super::answers::Answers;
use super::texts::Texts;
use super::tokenizer::{Row, TextTokenizer};
use crate::engine::{Cancel, Engine, EngineError, LoadedModel, Placement};
use crate::inference::ModelMetadata;
use crate::tensor::Tensor;
use std::fmt;
use std::sync::Arc;

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
        Self { shared: Arc::new(Shared { metadata: Arc::new(metadata), tokenizer, answers, backend, batch_tokens_max }) }
    }
}

impl LoadedModel for TextModel {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.shared.metadata
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(TextWorker { runner: self.shared.backend.runner()?, shared: Arc::clone(&self.shared) }))
    }

    fn placement(&self) -> Placement {
        self.shared.backend.placement()
    }
}

/// A worker over the shared weights.
#[derive(Debug)]
struct TextWorker {
    shared: Arc<Shared>,
    runner: Box<dyn Runner>,
}

impl TextWorker {
    /// All texts of the inputs with their numbers.
    fn run(&mut self, inputs: &[Tensor], cancel: &Cancel) -> Result<(Vec<Row>, Vec<Vec<f32>>), EngineError> {
        let Shared { tokenizer, answers, backend, batch_tokens_max, .. } = &*self.shared;
        let rows = Texts::of(inputs)?.tokenise(tokenizer, answers.pooling(), backend.vocabulary(), cancel)?;
        let values = in_batches(&rows, (*batch_tokens_max, backend.pads()), |batch| self.runner.run(batch, cancel))?;
        Ok((rows, values))
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

/// Runs texts in batches of so many tokens, those of about one length together; answers come in the texts' own order.
///
/// A text without a token has nothing to run, and its answer no numbers.
fn in_batches(
    rows: &[Row],
    (tokens_max, pads): (usize, bool),
    mut run: impl FnMut(&[&Row]) -> Result<Vec<Vec<f32>>, EngineError>,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut order: Vec<usize> = (0..rows.len()).filter(|&at| !rows[at].ids.is_empty()).collect();
    // The longest first, so that a batch that is padded wastes little.
    order.sort_by_key(|&at| std::cmp::Reverse(rows[at].ids.len()));
    let mut values = vec![Vec::new(); rows.len()];
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        let lengths = rest.iter().map(|&at| rows[at].ids.len());
        let (batch, others) = rest.split_at(fitting(lengths, rows[longest].ids.len(), tokens_max, pads));
        rest = others;
        let texts: Vec<&Row> = batch.iter().map(|&at| &rows[at]).collect();
        for (&at, found) in batch.iter().zip(run(&texts)?) {
            values[at] = found;
        }
    }
    Ok(values)
}

/// Padding of a batch, in tokens, that is not worth a run more.
const PADDING_FREE: usize = 64;

/// How many of the next texts, the longest of which comes first, make one batch.
fn fitting(lengths: impl Iterator<Item = usize>, longest: usize, tokens_max: usize, pads: bool) -> usize {
    let (mut count, mut tokens, mut padding) = (0, 0, 0);
    for len in lengths {
        let (taken, padded) = (tokens + len, padding + longest - len);
        let all = if pads { (count + 1) * longest } else { taken };
        let wasteful = pads && padded > PADDING_FREE && padded * 4 > all;
        if count > 0 && (all > tokens_max || wasteful) {
            break;
        }
        (count, tokens, padding) = (count + 1, taken, padded);
    }
    count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(len: u32) -> Row {
        Row { ids: (0..len).collect(), types: vec![0; len as usize], offsets: Vec::new() }
    }

    #[test]
    fn batches_hold_no_more_tokens_than_they_may_and_answers_keep_their_order() {
        let rows: Vec<Row> = [3, 0, 8, 2, 40].map(row).into();
        let mut sizes = Vec::new();
        let values = in_batches(&rows, (12, false), |batch| {
            sizes.push(batch.iter().map(|row| row.ids.len()).collect::<Vec<_>>());
            Ok(batch.iter().map(|row| vec![f32::from(u16::try_from(row.ids.len()).unwrap())]).collect())
        });
        assert_eq!(values.unwrap(), [vec![3.0], vec![], vec![8.0], vec![2.0], vec![40.0]]);
        assert_eq!(sizes, [vec![40], vec![8, 3], vec![2]], "a text longer than a batch runs alone");
    }

    #[test]
    fn a_batch_that_is_padded_wastes_little() {
        let sizes = |pads| {
            let (lengths, mut rest) = ([200, 190, 20, 18, 4], 0);
            let mut found = Vec::new();
            while rest < lengths.len() {
                let count = fitting(lengths[rest..].iter().copied(), lengths[rest], 1000, pads);
                found.push(count);
                rest += count;
            }
            found
        };
        assert_eq!((sizes(true), sizes(false)), (vec![2, 3], vec![5]));
    }
}
