//! One `--input NAME=VALUE` and the tensor it becomes, by what the model says of that input.

use crate::api::problem::did_you_mean;
use crate::cli::npy;
use crate::tensor::DataType;
use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// An input as typed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Input {
    name: String,
    source: Source,
}

#[derive(Debug, Clone, PartialEq)]
enum Source {
    File(PathBuf),
    Json(Value),
}

/// What a model says of itself, as far as it is needed here.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    inputs: Vec<TensorMetadata>,
}

#[derive(Debug, Deserialize)]
struct TensorMetadata {
    name: String,
    datatype: String,
    /// -1 is a size that the caller chooses.
    shape: Vec<i64>,
}

impl Input {
    /// Reads `NAME=@FILE` or `NAME=JSON`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected `NAME=@FILE` or `NAME=JSON`")?;
        let source = match value.strip_prefix('@') {
            Some(file) => Source::File(file.into()),
            None => Source::Json(
                serde_json::from_str(value).map_err(|error| format!("not JSON: {error}; a file is written as `{name}=@FILE`"))?,
            ),
        };
        Ok(Self { name: name.to_owned(), source })
    }

    /// The tensor's JSON; bytes that are sent raw are added to `raw`.
    ///
    /// # Errors
    /// The model has no such input, the file cannot be read, or the number of elements does not fit.
    pub(super) fn tensor(&self, metadata: &Metadata, raw: &mut Vec<u8>) -> anyhow::Result<Value> {
        let wanted = metadata.input(&self.name)?;
        let tensor = match &self.source {
            Source::Json(value) => wanted.read_json(value),
            Source::File(path) => wanted.read_file(path, raw),
        };
        tensor.with_context(|| format!("input `{}`", self.name))
    }
}

impl Metadata {
    fn input(&self, name: &str) -> anyhow::Result<&TensorMetadata> {
        let found = self.inputs.iter().find(|input| input.name == name);
        found.with_context(|| {
            let names: Vec<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
            match did_you_mean(name, names.iter().copied()) {
                Some(meant) => format!("the model has no input `{name}`\nhint: did you mean `{meant}`?"),
                None => format!("the model has no input `{name}`\nhint: its inputs are `{}`", names.join("`, `")),
            }
        })
    }
}

impl TensorMetadata {
    fn read_file(&self, path: &Path, raw: &mut Vec<u8>) -> anyhow::Result<Value> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        if npy::is_npy(&bytes) {
            let array = npy::read(&bytes)?;
            raw.extend_from_slice(array.bytes);
            return Ok(self.raw(array.datatype.name(), &json!(array.shape), array.bytes.len()));
        }
        if path.extension().is_some_and(|extension| extension == "json") {
            let value = serde_json::from_slice(&bytes).with_context(|| format!("`{}` is not JSON", path.display()))?;
            return self.read_json(&value);
        }
        self.read_bytes(&bytes, raw)
    }

    /// Raw numbers, or one text or picture for `BYTES`.
    fn read_bytes(&self, bytes: &[u8], raw: &mut Vec<u8>) -> anyhow::Result<Value> {
        let datatype = crate::tensor::datatype::ALL.into_iter().find(|datatype| datatype.name() == self.datatype);
        let Some(width) = datatype.and_then(DataType::width) else {
            let length = u32::try_from(bytes.len()).context("the file is larger than one element may be")?;
            raw.extend_from_slice(&length.to_le_bytes());
            raw.extend_from_slice(bytes);
            return Ok(self.raw(&self.datatype, &json!(self.fit(1)?), bytes.len() + 4));
        };
        if !bytes.len().is_multiple_of(width) {
            bail!("{} bytes are no whole number of {} elements", bytes.len(), self.datatype);
        }
        raw.extend_from_slice(bytes);
        Ok(self.raw(&self.datatype, &json!(self.fit(bytes.len() / width)?), bytes.len()))
    }

    fn raw(&self, datatype: &str, shape: &Value, bytes: usize) -> Value {
        json!({ "name": self.name, "datatype": datatype, "shape": shape, "parameters": { "binary_data_size": bytes } })
    }

    /// A nested list has its own shape; a plain one takes the model's.
    fn read_json(&self, value: &Value) -> anyhow::Result<Value> {
        let (mut shape, mut data) = (Vec::new(), Vec::new());
        flatten(value, 0, &mut shape, &mut data)?;
        if shape.len() != self.shape.len() && shape.len() <= 1 {
            shape = self.fit(data.len())?;
        }
        Ok(json!({ "name": self.name, "datatype": self.datatype, "shape": shape, "data": data }))
    }

    /// The model's shape for a number of elements. A free first dimension is a batch of one where others are free, too.
    fn fit(&self, elements: usize) -> anyhow::Result<Vec<usize>> {
        let mut shape = self.shape.clone();
        let free = |shape: &[i64]| shape.iter().filter(|size| **size < 0).count();
        if free(&shape) > 1 && shape[0] < 0 {
            shape[0] = 1;
        }
        let fixed: usize = shape.iter().filter_map(|size| usize::try_from(*size).ok()).product();
        let fits = match free(&shape) {
            0 => fixed == elements,
            1 => fixed > 0 && elements.is_multiple_of(fixed),
            _ => false,
        };
        if !fits {
            bail!("{elements} elements do not say a shape like {:?}\nhint: give a nested list or a .npy file", self.shape);
        }
        Ok(shape.into_iter().map(|size| usize::try_from(size).unwrap_or(elements / fixed)).collect())
    }
}

/// Takes a nested list apart; every list of one depth must be as long as the others.
fn flatten(value: &Value, depth: usize, shape: &mut Vec<usize>, data: &mut Vec<Value>) -> anyhow::Result<()> {
    let Value::Array(items) = value else {
        if depth != shape.len() {
            bail!("the list is ragged: a value stands beside lists");
        }
        data.push(value.clone());
        return Ok(());
    };
    match shape.get(depth) {
        // The first element of all decides how deep the list is.
        None if data.is_empty() => shape.push(items.len()),
        Some(size) if *size == items.len() => {}
        _ => bail!("the list is ragged: lists of one depth differ in length"),
    }
    items.iter().try_for_each(|item| flatten(item, depth + 1, shape, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(datatype: &str, shape: &[i64]) -> Metadata {
        Metadata { inputs: vec![TensorMetadata { name: "x".to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec() }] }
    }

    fn tensor(text: &str, metadata: &Metadata) -> Result<Value, String> {
        Input::parse(text)?.tensor(metadata, &mut Vec::new()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn nested_lists_have_their_own_shape_and_plain_ones_the_models() {
        let metadata = metadata("FP32", &[-1, 2]);
        assert_eq!(tensor("x=[[1,2],[3,4]]", &metadata).unwrap()["shape"], json!([2, 2]));
        assert_eq!(tensor("x=[1,2,3,4]", &metadata).unwrap()["shape"], json!([2, 2]));
        assert!(tensor("x=[1,2,3]", &metadata).unwrap_err().contains("3 elements"));
        assert_eq!(tensor("x=7", &self::metadata("INT64", &[])).unwrap()["shape"], json!([]));
    }

    #[test]
    fn ragged_lists_are_refused() {
        let metadata = metadata("FP32", &[-1, -1]);
        for text in ["x=[[1,2],[3]]", "x=[1,[2]]", "x=[[1],2]"] {
            assert!(tensor(text, &metadata).unwrap_err().contains("ragged"), "{text}");
        }
    }

    #[test]
    fn a_misspelled_input_is_answered_with_the_right_one() {
        let metadata = Metadata { inputs: vec![TensorMetadata { name: "images".to_owned(), datatype: "FP32".to_owned(), shape: vec![1] }] };
        assert!(tensor("image=[1]", &metadata).unwrap_err().contains("did you mean `images`?"));
        assert!(Input::parse("images").is_err() && Input::parse("images=nope").unwrap_err().contains("`images=@FILE`"));
    }

    #[test]
    fn a_file_of_any_kind_is_one_element_of_bytes() {
        let mut raw = Vec::new();
        let metadata = metadata("BYTES", &[-1, 1]);
        let tensor = metadata.inputs[0].read_bytes(b"hi", &mut raw).unwrap();
        assert_eq!((raw, &tensor["shape"]), (b"\x02\0\0\0hi".to_vec(), &json!([1, 1])));
    }

    #[test]
    fn two_free_dimensions_are_a_batch_of_one_and_the_rest() {
        let metadata = metadata("UINT8", &[-1, -1, 3]);
        assert_eq!(metadata.inputs[0].fit(12).unwrap(), [1, 4, 3]);
        assert!(metadata.inputs[0].read_bytes(&[0; 13], &mut Vec::new()).is_err());
    }
}
