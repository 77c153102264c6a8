//! From the model's numbers to output tensors, in the forms that KServe's Hugging Face server gives.
//!
//! Source: reference 4.9.

use super::flags::Flags;
use super::pooling::Pooling;
use super::task::Task;
use super::tokenizer::{Row, TextTokenizer};
use crate::engine::EngineError;
use crate::inference::TensorSpec;
use crate::tensor::{DataType, Tensor};
use bytes::Bytes;

/// The name of a lone output, as KServe's server has it.
const OUTPUT: &str = "output-0";
/// Tokens of each text, for those who ask.
pub const TOKEN_COUNT: &str = "token_count";
/// Where each token stands in its text.
const OFFSETS: &str = "offset_mapping";
/// What stands for no label behind the end of a shorter text; Hugging Face's own mark for a label that does not count.
const NO_LABEL: i64 = -100;

/// How a task's numbers become tensors.
#[derive(Debug)]
pub struct Answers {
    task: Task,
    scores: Scores,
    offsets: bool,
    /// Numbers of one token's vector, or labels.
    width: usize,
    pooling: Option<Pooling>,
}

/// What is given of the scores of labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scores {
    /// The best label alone.
    Best,
    /// All probabilities, at four places.
    Probabilities,
    /// All as the model gives them.
    Logits,
}

impl Answers {
    /// Answers of a task; `width` is the size of a vector, or the number of labels or words.
    #[must_use]
    pub fn new(task: Task, flags: &Flags, width: usize, pooling: Option<Pooling>) -> Self {
        let scores = match (flags.return_probabilities, flags.return_raw_logits) {
            (true, _) => Scores::Probabilities,
            (_, true) => Scores::Logits,
            _ => Scores::Best,
        };
        let offsets = flags.return_offsets_mapping && task == Task::TokenClassification;
        Self { task, scores, offsets, width, pooling }
    }

    /// How texts become vectors, where they do.
    #[must_use]
    pub const fn pooling(&self) -> Option<&Pooling> {
        self.pooling.as_ref()
    }

    /// The outputs' specs.
    #[must_use]
    pub fn specs(&self) -> Vec<TensorSpec> {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false };
        let width = whole(self.width);
        let mut specs = match (self.task, self.scores) {
            (Task::TextEmbedding, _) => vec![spec(OUTPUT, DataType::Fp32, &[-1, width])],
            (Task::Rerank, _) => vec![spec(OUTPUT, DataType::Fp32, &[-1])],
            (Task::SequenceClassification, Scores::Best) => vec![spec(OUTPUT, DataType::Int64, &[-1])],
            (Task::SequenceClassification, _) => (0..self.width).map(|label| spec(&label.to_string(), DataType::Fp64, &[-1])).collect(),
            (Task::TokenClassification, Scores::Best) => vec![spec(OUTPUT, DataType::Int64, &[-1, 1, -1])],
            (Task::FillMask, Scores::Best) => vec![spec(OUTPUT, DataType::Bytes, &[-1])],
            (_, _) => vec![spec(OUTPUT, DataType::Fp64, &[-1, -1, width])],
        };
        if self.offsets {
            specs.push(spec(OFFSETS, DataType::Int64, &[-1, -1, 2]));
        }
        specs.push(TensorSpec { optional: true, ..spec(TOKEN_COUNT, DataType::Int32, &[-1]) });
        specs
    }

    /// All outputs, in the order of [`Answers::specs`], from each text's numbers.
    ///
    /// # Errors
    /// `InvalidInput` where texts have different numbers of masks and all scores are wanted.
    pub fn tensors(&self, rows: &[Row], values: &[Vec<f32>], tokenizer: &TextTokenizer) -> Result<Vec<Tensor>, EngineError> {
        let mut outputs = match (self.task, self.scores) {
            (Task::TextEmbedding, _) => vec![self.vectors(values)?],
            (Task::Rerank, scores) => vec![relevance(values, scores)?],
            (Task::SequenceClassification, Scores::Best) => vec![best_labels(values)?],
            (Task::SequenceClassification, _) => self.labels(values)?,
            (Task::TokenClassification, Scores::Best) => vec![self.token_labels(values)?],
            (Task::TokenClassification, _) => vec![self.padded_scores(values)?],
            (Task::FillMask, Scores::Best) => vec![self.words(values, tokenizer)?],
            (_, _) => vec![self.scores_of_masks(values)?],
        };
        if self.offsets {
            outputs.push(offsets(rows)?);
        }
        let counts = rows.iter().flat_map(|row| i32::try_from(row.ids.len()).unwrap_or(i32::MAX).to_le_bytes());
        outputs.push(tensor(TOKEN_COUNT, DataType::Int32, vec![whole(rows.len())], counts.collect())?);
        Ok(outputs)
    }

    fn vectors(&self, values: &[Vec<f32>]) -> Result<Tensor, EngineError> {
        let mut data = Vec::with_capacity(values.len() * self.width * 4);
        for tokens in values {
            let vector = self.pooling.as_ref().map_or_else(Vec::new, |pooling| pooling.pool(tokens, self.width));
            data.extend_from_slice(bytemuck::cast_slice(&vector));
        }
        tensor(OUTPUT, DataType::Fp32, vec![whole(values.len()), whole(self.width)], data)
    }

    /// One output a label, so that v1 gives each text a map from label to score.
    fn labels(&self, values: &[Vec<f32>]) -> Result<Vec<Tensor>, EngineError> {
        let scores: Vec<Vec<f64>> = values.iter().map(|logits| self.scored(logits)).collect();
        let column = |label: usize| scores.iter().flat_map(|row| row.get(label).copied().unwrap_or_default().to_le_bytes()).collect();
        (0..self.width).map(|label| tensor(&label.to_string(), DataType::Fp64, vec![whole(values.len())], column(label))).collect()
    }

    fn scored(&self, logits: &[f32]) -> Vec<f64> {
        match self.scores {
            Scores::Probabilities => probabilities(logits),
            Scores::Best | Scores::Logits => logits.iter().map(|logit| f64::from(*logit)).collect(),
        }
    }

    fn token_labels(&self, values: &[Vec<f32>]) -> Result<Tensor, EngineError> {
        let labels: Vec<Vec<i64>> = values.iter().map(|tokens| tokens.chunks_exact(self.width).map(best).collect()).collect();
        let longest = labels.iter().map(Vec::len).max().unwrap_or(0);
        let padded = labels.iter().flat_map(|row| row.iter().copied().chain(std::iter::repeat(NO_LABEL)).take(longest));
        tensor(OUTPUT, DataType::Int64, vec![whole(labels.len()), 1, whole(longest)], padded.flat_map(i64::to_le_bytes).collect())
    }

    /// Scores of tokens, 0 behind the end of a shorter text.
    fn padded_scores(&self, values: &[Vec<f32>]) -> Result<Tensor, EngineError> {
        let longest = values.iter().map(|tokens| tokens.len() / self.width).max().unwrap_or(0);
        let mut data = Vec::with_capacity(values.len() * longest * self.width * 8);
        for tokens in values {
            let scores = tokens.chunks_exact(self.width).flat_map(|logits| self.scored(logits));
            let padded = scores.chain(std::iter::repeat(0.0)).take(longest * self.width);
            data.extend(padded.flat_map(f64::to_le_bytes));
        }
        tensor(OUTPUT, DataType::Fp64, vec![whole(values.len()), whole(longest), whole(self.width)], data)
    }

    /// The words behind a text's masks, one behind the other; empty for a text without a mask.
    fn words(&self, values: &[Vec<f32>], tokenizer: &TextTokenizer) -> Result<Tensor, EngineError> {
        let ids =
            |masks: &Vec<f32>| masks.chunks_exact(self.width).map(|logits| u32::try_from(best(logits)).unwrap_or(0)).collect::<Vec<_>>();
        let words: Vec<String> = values.iter().map(|masks| tokenizer.decode(&ids(masks))).collect();
        Tensor::from_strings(OUTPUT, vec![whole(words.len())], &words).map_err(broken)
    }

    fn scores_of_masks(&self, values: &[Vec<f32>]) -> Result<Tensor, EngineError> {
        let masks = values.first().map_or(0, |first| first.len() / self.width);
        if let Some(index) = values.iter().position(|row| row.len() / self.width != masks) {
            let found = values[index].len() / self.width;
            return Err(EngineError::InvalidInput(format!(
                "text {index} has {found} masks, the ones before it have {masks}: send them apart"
            )));
        }
        let scores = values.iter().flat_map(|row| row.chunks_exact(self.width)).flat_map(|logits| self.scored(logits));
        tensor(
            OUTPUT,
            DataType::Fp64,
            vec![whole(values.len()), whole(masks), whole(self.width)],
            scores.flat_map(f64::to_le_bytes).collect(),
        )
    }
}

/// Scores between 0 and 1, or as they are where logits are wanted.
fn relevance(values: &[Vec<f32>], scores: Scores) -> Result<Tensor, EngineError> {
    let score = |row: &Vec<f32>| {
        let logit = row.first().copied().unwrap_or_default();
        if scores == Scores::Logits { logit } else { 1.0 / (1.0 + (-logit).exp()) }
    };
    let data = values.iter().flat_map(|row| score(row).to_le_bytes()).collect();
    tensor(OUTPUT, DataType::Fp32, vec![whole(values.len())], data)
}

fn best_labels(values: &[Vec<f32>]) -> Result<Tensor, EngineError> {
    let labels = values.iter().flat_map(|logits| best(logits).to_le_bytes()).collect();
    tensor(OUTPUT, DataType::Int64, vec![whole(values.len())], labels)
}

fn offsets(rows: &[Row]) -> Result<Tensor, EngineError> {
    let longest = rows.iter().map(|row| row.offsets.len()).max().unwrap_or(0);
    let padded = rows.iter().flat_map(|row| row.offsets.iter().copied().chain(std::iter::repeat((0, 0))).take(longest));
    let data = padded.flat_map(|(from, to)| [whole(from), whole(to)]).flat_map(i64::to_le_bytes).collect();
    tensor(OFFSETS, DataType::Int64, vec![whole(rows.len()), whole(longest), 2], data)
}

/// The place of the largest number, the first of several.
fn best(logits: &[f32]) -> i64 {
    let mut found = (0, f32::NEG_INFINITY);
    for (at, logit) in logits.iter().enumerate() {
        if *logit > found.1 {
            found = (at, *logit);
        }
    }
    whole(found.0)
}

/// Shares that sum to 1, each at four places, as KServe's server gives them.
fn probabilities(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) - f64::from(most)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum * 1e4).round() / 1e4).collect()
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn tensor(name: &str, datatype: DataType, shape: Vec<i64>, data: Vec<u8>) -> Result<Tensor, EngineError> {
    Tensor::new(name, datatype, shape, Bytes::from(data)).map_err(broken)
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands errors over")]
fn broken(error: crate::tensor::TensorError) -> EngineError {
    EngineError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::huggingface::HuggingFaceConfig;
    use crate::engine::huggingface::folder::Folder;
    use crate::engine::huggingface::tokenizer;
    use crate::tensor::buffer::as_numbers;

    fn tokenizer() -> TextTokenizer {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nparis\nis\n").unwrap();
        let folder = Folder::open(place.path(), &HuggingFaceConfig::default()).unwrap();
        TextTokenizer::new(tokenizer::read(&folder).unwrap(), 8, &Flags::default()).unwrap()
    }

    fn rows(lengths: &[usize]) -> Vec<Row> {
        lengths.iter().map(|&count| Row { ids: vec![5; count], types: vec![0; count], offsets: vec![(1, 2); count] }).collect()
    }

    fn answer(task: Task, flags: &Flags, width: usize, values: &[Vec<f32>]) -> Vec<Tensor> {
        let answers = Answers::new(task, flags, width, None);
        let lengths: Vec<usize> = values.iter().map(|row| row.len() / width).collect();
        let outputs = answers.tensors(&rows(&lengths), values, &tokenizer()).unwrap();
        let declared = answers.specs();
        assert_eq!(outputs.len(), declared.len());
        for (output, spec) in outputs.iter().zip(declared) {
            assert_eq!((output.name(), output.datatype()), (&spec.name, spec.datatype));
            assert!(output.shape().iter().zip(&spec.shape).all(|(found, said)| *said < 0 || found == said), "{output:?}");
        }
        outputs
    }

    fn probabilities_flag() -> Flags {
        Flags { return_probabilities: true, ..Flags::default() }
    }

    #[test]
    fn a_text_has_its_best_label_or_a_score_for_each() {
        let values = [vec![0.0, 1.0], vec![2.0, -2.0]];
        let best = answer(Task::SequenceClassification, &Flags::default(), 2, &values);
        assert_eq!(as_numbers::<i64>(best[0].data()).as_ref(), [1, 0]);
        let all = answer(Task::SequenceClassification, &probabilities_flag(), 2, &values);
        assert_eq!((&**all[0].name(), &**all[1].name()), ("0", "1"));
        assert_eq!(as_numbers::<f64>(all[1].data()).as_ref(), [0.7311, 0.018]);
        let logits = answer(Task::SequenceClassification, &Flags { return_raw_logits: true, ..Flags::default() }, 2, &values);
        assert_eq!(as_numbers::<f64>(logits[0].data()).as_ref(), [0.0, 2.0]);
    }

    #[test]
    fn labels_of_tokens_end_with_marks_where_a_text_is_shorter() {
        let flags = Flags { return_offsets_mapping: true, ..Flags::default() };
        let outputs = answer(Task::TokenClassification, &flags, 2, &[vec![0.0, 1.0, 1.0, 0.0], vec![0.0, 1.0]]);
        assert_eq!(outputs[0].shape(), [2, 1, 2]);
        assert_eq!(as_numbers::<i64>(outputs[0].data()).as_ref(), [1, 0, 1, NO_LABEL]);
        assert_eq!(as_numbers::<i64>(outputs[1].data()).as_ref(), [1, 2, 1, 2, 1, 2, 0, 0]);
        assert_eq!(as_numbers::<i32>(outputs[2].data()).as_ref(), [2, 1]);
        let scores = answer(Task::TokenClassification, &probabilities_flag(), 2, &[vec![0.0, 0.0, 0.0, 0.0], vec![0.0, 0.0]]);
        assert_eq!(as_numbers::<f64>(scores[0].data()).as_ref(), [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn words_behind_masks_are_told_and_none_where_there_is_no_mask() {
        let at = |id: usize| (0..7).map(|place| if place == id { 9.0 } else { 0.0 }).collect::<Vec<f32>>();
        let outputs = answer(Task::FillMask, &Flags::default(), 7, &[[at(5), at(6)].concat(), Vec::new(), at(6)]);
        assert_eq!(outputs[0].strings().collect::<Vec<_>>(), [&b"paris is"[..], b"", b"is"]);
        let answers = Answers::new(Task::FillMask, &probabilities_flag(), 7, None);
        let error = answers.tensors(&rows(&[1, 1]), &[at(5), Vec::new()], &tokenizer()).unwrap_err();
        assert_eq!(error.to_string(), "text 1 has 0 masks, the ones before it have 1: send them apart");
    }

    #[test]
    fn relevance_lies_between_zero_and_one() {
        let outputs = answer(Task::Rerank, &Flags::default(), 1, &[vec![0.0], vec![-100.0], vec![100.0]]);
        assert_eq!(as_numbers::<f32>(outputs[0].data()).as_ref(), [0.5, 0.0, 1.0]);
    }
}
