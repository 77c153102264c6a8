//! Encoders run by ONNX Runtime, over an export that lies in the folder.
//!
//! An export takes texts as a rectangle, so shorter ones are padded here and cut again from the answer; texts of about one length
//! come together, so little is wasted.

use super::model::{Backend, Runner};
use super::task::Task;
use super::tokenizer::Row;
use crate::engine::{Cancel, Engine, EngineError, EngineLoader, LoadError, LoadOptions, LoadedModel, Placement};
use crate::inference::TensorSpec;
use crate::tensor::{DataType, Tensor, buffer};
use bytes::Bytes;
use half::f16;
use std::path::Path;
use std::sync::Arc;

/// What an export may take, as Hugging Face's tools name it.
const INPUTS: [&str; 4] = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];
/// What it gives, by task: the first of these names that is there, else its first output.
const HIDDEN: [&str; 2] = ["last_hidden_state", "token_embeddings"];
const LOGITS: [&str; 1] = ["logits"];

/// An export in memory.
#[derive(Debug)]
pub(super) struct OnnxBackend {
    model: Arc<dyn LoadedModel>,
    shape: Shape,
    vocabulary: usize,
}

/// What is fed and what is read.
#[derive(Debug, Clone)]
struct Shape {
    inputs: Vec<TensorSpec>,
    output: usize,
    task: Task,
    mark: Option<u32>,
}

impl OnnxBackend {
    /// Loads an export with the ONNX engine.
    ///
    /// # Errors
    /// The engine's, and an input that a text cannot fill.
    pub(super) fn load(
        loader: &dyn EngineLoader,
        file: &Path,
        options: &LoadOptions,
        (task, mark, vocabulary): (Task, Option<u32>, usize),
    ) -> Result<Self, LoadError> {
        let model = loader.load(file, options)?;
        let metadata = Arc::clone(model.metadata());
        let required = metadata.inputs.iter().filter(|input| !input.optional);
        if let Some(input) = required.clone().find(|input| !INPUTS.contains(&&*input.name) || input.datatype != DataType::Int64) {
            let known = INPUTS.map(|name| format!("`{name}`")).join(", ");
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            return Err(LoadError::InvalidModel(format!(
                "{name}: input `{}` {} is none that a text fills; known are {known}, all INT64",
                input.name, input.datatype
            )));
        }
        let names: &[&str] = if task == Task::TextEmbedding { &HIDDEN } else { &LOGITS };
        let place = |name: &&str| metadata.outputs.iter().position(|output| *output.name == **name);
        let output = names.iter().find_map(place).unwrap_or(0);
        let shape = Shape { inputs: required.cloned().collect(), output, task, mark };
        Ok(Self { model, shape, vocabulary })
    }
}

impl Backend for OnnxBackend {
    fn runner(&self) -> Result<Box<dyn Runner>, EngineError> {
        Ok(Box::new(OnnxRunner { worker: self.model.worker()?, shape: self.shape.clone() }))
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn pads(&self) -> bool {
        true
    }

    fn placement(&self) -> Placement {
        self.model.placement()
    }
}

#[derive(Debug)]
struct OnnxRunner {
    worker: Box<dyn Engine>,
    shape: Shape,
}

impl Runner for OnnxRunner {
    fn run(&mut self, rows: &[&Row], cancel: &Cancel) -> Result<Vec<Vec<f32>>, EngineError> {
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let inputs = self.shape.inputs.iter().map(|input| filled(&input.name, rows, longest)).collect::<Result<Vec<_>, _>>()?;
        let outputs = self.worker.infer(&inputs, &[self.shape.output], cancel)?;
        let output = outputs.first().ok_or_else(|| EngineError::Failed("the export gave no output".to_owned()))?;
        self.shape.cut(output, rows, longest)
    }
}

/// One input of the export for all texts, `[texts, longest]`.
fn filled(name: &str, rows: &[&Row], longest: usize) -> Result<Tensor, EngineError> {
    let mut values: Vec<i64> = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        let count = row.ids.len();
        match name {
            "input_ids" => values.extend(row.ids.iter().map(|id| i64::from(*id))),
            "token_type_ids" => values.extend(row.types.iter().map(|kind| i64::from(*kind))),
            "position_ids" => values.extend((0_i64..).take(count)),
            _ => values.extend(std::iter::repeat_n(1, count)),
        }
        values.resize(values.len() + longest - count, 0);
    }
    let shape = [rows.len(), longest].map(|size| i64::try_from(size).unwrap_or(i64::MAX)).to_vec();
    let data = Bytes::from(bytemuck::cast_slice(&values).to_vec());
    Tensor::new(name, DataType::Int64, shape, data).map_err(|error| EngineError::Failed(error.to_string()))
}

impl Shape {
    /// Each text's own numbers out of the rectangle.
    fn cut(&self, output: &Tensor, rows: &[&Row], longest: usize) -> Result<Vec<Vec<f32>>, EngineError> {
        let wrong = || EngineError::Failed(format!("the export's output `{}` has shape {:?}", output.name(), output.shape()));
        let numbers = match output.datatype() {
            DataType::Fp32 => buffer::as_numbers::<f32>(output.data()).into_owned(),
            DataType::Fp16 => buffer::as_numbers::<f16>(output.data()).iter().map(|number| number.to_f32()).collect(),
            other => return Err(EngineError::Failed(format!("the export's output `{}` is {other}, not FP32 or FP16", output.name()))),
        };
        let by_token = matches!(self.task, Task::TextEmbedding | Task::TokenClassification | Task::FillMask);
        let cells = rows.len() * if by_token { longest } else { 1 };
        let rank = if by_token { 3 } else { 2 };
        if output.shape().len() != rank || cells == 0 || !numbers.len().is_multiple_of(cells) {
            return Err(wrong());
        }
        let width = numbers.len() / cells;
        let each = numbers.chunks_exact(width * cells / rows.len()).zip(rows);
        Ok(each.map(|(cells, row)| self.own(cells, row, width)).collect())
    }

    fn own(&self, cells: &[f32], row: &Row, width: usize) -> Vec<f32> {
        match self.task {
            Task::TextEmbedding | Task::TokenClassification => cells[..row.ids.len() * width].to_vec(),
            Task::FillMask => {
                let marked = cells.chunks_exact(width).zip(&row.ids).filter(|(_, id)| Some(**id) == self.mark);
                marked.flat_map(|(cell, _)| cell.iter().copied()).collect()
            }
            _ => cells.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ids: &[u32]) -> Row {
        Row { ids: ids.to_vec(), types: vec![0; ids.len()], offsets: Vec::new() }
    }

    fn cut(task: Task, shape: &[i64], rows: &[&Row]) -> Result<Vec<Vec<f32>>, EngineError> {
        let count: i64 = shape.iter().product();
        let data: Vec<u8> = (0..count).flat_map(|at| f32::from(i16::try_from(at).unwrap()).to_le_bytes()).collect();
        let output = Tensor::new("y", DataType::Fp32, shape.to_vec(), data.into()).unwrap();
        Shape { inputs: Vec::new(), output: 0, task, mark: Some(9) }.cut(&output, rows, 3)
    }

    #[test]
    fn texts_are_padded_with_nothing_and_a_mask_that_says_so() {
        let (long, short) = (row(&[2, 5, 3]), row(&[2]));
        let values = |name| buffer::as_numbers::<i64>(filled(name, &[&long, &short], 3).unwrap().data()).into_owned();
        assert_eq!(values("input_ids"), [2, 5, 3, 2, 0, 0]);
        assert_eq!(values("attention_mask"), [1, 1, 1, 1, 0, 0]);
        assert_eq!(values("position_ids"), [0, 1, 2, 0, 0, 0]);
    }

    #[test]
    fn what_was_padded_is_cut_away_again() {
        let (long, short) = (row(&[2, 9, 3]), row(&[9]));
        let rows = [&long, &short];
        assert_eq!(cut(Task::TextEmbedding, &[2, 3, 1], &rows).unwrap(), [vec![0.0, 1.0, 2.0], vec![3.0]]);
        assert_eq!(cut(Task::FillMask, &[2, 3, 2], &rows).unwrap(), [vec![2.0, 3.0], vec![6.0, 7.0]]);
        assert_eq!(cut(Task::Rerank, &[2, 1], &rows).unwrap(), [vec![0.0], vec![1.0]]);
    }

    #[test]
    fn an_output_of_another_shape_is_told() {
        let only = row(&[2, 5, 3]);
        let error = cut(Task::TextEmbedding, &[1, 3], &[&only]).unwrap_err();
        assert_eq!(error.to_string(), "the export's output `y` has shape [1, 3]");
    }
}
