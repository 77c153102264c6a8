//! What a model takes and gives, in the protocol's words; what the protocol cannot carry is left out by name.

use super::LoadError;
use crate::inference::TensorSpec;
use crate::tensor::{DataType, Tensor};
use ort::session::Session;
use ort::value::{TensorElementType, ValueType};
use serde::{Deserialize, Serialize};

/// The tensors of a model.
#[derive(Debug)]
pub(super) struct Signature {
    /// Inputs in the model's order, those with a default value last.
    pub(super) inputs: Vec<TensorSpec>,
    /// Outputs in the model's order, without the dropped ones.
    pub(super) outputs: Vec<TensorSpec>,
    /// Outputs that are no tensors of the protocol, as `name (type)`.
    pub(super) dropped_outputs: Vec<String>,
    /// Names of the inputs' dimensions.
    pub(super) symbols: Symbols,
}

/// A signature as it is kept beside a graph that does not have all of it.
#[derive(Serialize, Deserialize)]
struct Stored {
    inputs: Vec<StoredSpec>,
    outputs: Vec<StoredSpec>,
    dropped_outputs: Vec<String>,
    symbols: Symbols,
}

#[derive(Serialize, Deserialize)]
struct StoredSpec {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    optional: bool,
}

impl Signature {
    /// As JSON.
    pub(super) fn to_json(&self) -> String {
        let stored = |spec: &TensorSpec| StoredSpec {
            name: spec.name.to_string(),
            datatype: spec.datatype.name().to_owned(),
            shape: spec.shape.clone(),
            optional: spec.optional,
        };
        let (inputs, outputs) = (self.inputs.iter().map(stored).collect(), self.outputs.iter().map(stored).collect());
        let stored = Stored { inputs, outputs, dropped_outputs: self.dropped_outputs.clone(), symbols: self.symbols.clone() };
        // Nothing in it can fail to be written.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// What [`Self::to_json`] gave.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let spec = |spec: StoredSpec| {
            let datatype = spec.datatype.parse().map_err(|_| format!("no datatype: {}", spec.datatype))?;
            Ok(TensorSpec { name: spec.name.into(), datatype, shape: spec.shape, optional: spec.optional })
        };
        let (inputs, outputs) = (stored.inputs.into_iter().map(spec), stored.outputs.into_iter().map(spec));
        let (inputs, outputs) = (inputs.collect::<Result<_, String>>()?, outputs.collect::<Result<_, String>>()?);
        Ok(Self { inputs, outputs, dropped_outputs: stored.dropped_outputs, symbols: stored.symbols })
    }
}

/// Reads a session's signature.
///
/// # Errors
/// `InvalidModel` when an input cannot be sent by the protocol, or no output is left.
pub(super) fn read(session: &Session, file: &str) -> Result<Signature, LoadError> {
    let mut inputs = Vec::new();
    let mut symbols = Symbols::default();
    for input in session.inputs() {
        let spec = spec(input.name(), input.dtype(), false).map_err(|kind| {
            LoadError::InvalidModel(format!("{file}: input `{}` is {kind}, which the Open Inference Protocol cannot carry", input.name()))
        })?;
        symbols.add(input.dtype());
        inputs.push(spec);
    }
    // A default value of a type that cannot be sent simply stays.
    let defaults = session.overridable_initializers();
    inputs.extend(defaults.iter().filter_map(|input| spec(input.name(), input.dtype(), true).ok()));
    let (outputs, dropped_outputs) = outputs(session);
    if outputs.is_empty() {
        return Err(no_output(file, &dropped_outputs));
    }
    Ok(Signature { inputs, outputs, dropped_outputs, symbols })
}

fn outputs(session: &Session) -> (Vec<TensorSpec>, Vec<String>) {
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for output in session.outputs() {
        match spec(output.name(), output.dtype(), false) {
            Ok(spec) => kept.push(spec),
            Err(kind) => dropped.push(format!("{} ({kind})", output.name())),
        }
    }
    (kept, dropped)
}

fn no_output(file: &str, dropped: &[String]) -> LoadError {
    LoadError::InvalidModel(format!(
        "{file}: no output is a tensor that the Open Inference Protocol can carry: {}\n\n\
         hint: convert scikit-learn classifiers with `options={{'zipmap': False}}`",
        dropped.join(", ")
    ))
}

/// The spec of a tensor, or what else it is.
fn spec(name: &str, kind: &ValueType, optional: bool) -> Result<TensorSpec, String> {
    let ValueType::Tensor { ty, shape, .. } = kind else { return Err(kind.to_string()) };
    let datatype = datatype(*ty).ok_or_else(|| format!("a tensor of {ty}"))?;
    Ok(TensorSpec { name: name.into(), datatype, shape: shape.iter().map(|&dim| dim.max(-1)).collect(), optional })
}

/// The protocol's datatype; nothing for 8-bit and 4-bit floats, complex numbers and the like.
pub(super) const fn datatype(element: TensorElementType) -> Option<DataType> {
    use TensorElementType as E;
    Some(match element {
        E::Bool => DataType::Bool,
        E::Uint8 => DataType::Uint8,
        E::Uint16 => DataType::Uint16,
        E::Uint32 => DataType::Uint32,
        E::Uint64 => DataType::Uint64,
        E::Int8 => DataType::Int8,
        E::Int16 => DataType::Int16,
        E::Int32 => DataType::Int32,
        E::Int64 => DataType::Int64,
        E::Float16 => DataType::Fp16,
        E::Bfloat16 => DataType::Bf16,
        E::Float32 => DataType::Fp32,
        E::Float64 => DataType::Fp64,
        E::String => DataType::Bytes,
        _ => return None,
    })
}

/// ONNX Runtime's element type of a datatype.
pub(super) const fn element(datatype: DataType) -> TensorElementType {
    use TensorElementType as E;
    match datatype {
        DataType::Bool => E::Bool,
        DataType::Uint8 => E::Uint8,
        DataType::Uint16 => E::Uint16,
        DataType::Uint32 => E::Uint32,
        DataType::Uint64 => E::Uint64,
        DataType::Int8 => E::Int8,
        DataType::Int16 => E::Int16,
        DataType::Int32 => E::Int32,
        DataType::Int64 => E::Int64,
        DataType::Fp16 => E::Float16,
        DataType::Bf16 => E::Bfloat16,
        DataType::Fp32 => E::Float32,
        DataType::Fp64 => E::Float64,
        DataType::Bytes => E::String,
    }
}

/// Names of the inputs' dimensions, as `batch`; empty where a dimension has none.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Symbols(Vec<Vec<String>>);

impl Symbols {
    fn add(&mut self, kind: &ValueType) {
        let ValueType::Tensor { dimension_symbols, .. } = kind else { return };
        self.0.push(dimension_symbols.iter().cloned().collect());
    }

    /// A sentence about two inputs that give one named dimension different sizes, if there are such.
    pub(super) fn disagreement(&self, inputs: &[Tensor], positions: &[usize]) -> Option<String> {
        let mut seen: Vec<(&str, i64, &Tensor)> = Vec::new();
        for (input, &position) in inputs.iter().zip(positions) {
            let names = self.0.get(position).map(Vec::as_slice).unwrap_or_default();
            for (name, &size) in names.iter().zip(input.shape()).filter(|(name, _)| !name.is_empty()) {
                match seen.iter().find(|(other, _, _)| other == name) {
                    Some((_, first, tensor)) if *first != size => return Some(disagree(name, (tensor, *first), (input, size))),
                    Some(_) => {}
                    None => seen.push((name, size, input)),
                }
            }
        }
        None
    }
}

fn disagree(name: &str, (first, first_size): (&Tensor, i64), (second, second_size): (&Tensor, i64)) -> String {
    format!("inputs disagree on dimension `{name}`: `{}` has {first_size}, `{}` has {second_size}", first.name(), second.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::datatype::ALL;

    #[test]
    fn every_datatype_of_the_protocol_has_an_element_type_of_its_own() {
        for kind in ALL {
            assert_eq!(datatype(element(kind)), Some(kind));
        }
        assert_eq!(datatype(TensorElementType::Float8E4M3FN), None);
    }
}
