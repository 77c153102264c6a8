//! A request held against what the model declares, before it takes a place in the queue.

use crate::inference::{InferenceError, InferenceRequest, ModelMetadata, RequestedOutput, TensorSpec};
use crate::tensor::Tensor;

/// Checks a request; the answer is which outputs are wanted, as positions in [`ModelMetadata::outputs`].
///
/// A model that declares no dimensions for an input (a scalar, or a shape left open) takes any shape here; the
/// engine has the last word.
///
/// # Errors
/// `InvalidInput` naming the tensor, what the model takes and what was found.
pub(super) fn admit(model: &str, metadata: &ModelMetadata, request: &InferenceRequest) -> Result<Vec<usize>, InferenceError> {
    inputs(model, metadata, &request.inputs)?;
    outputs(model, metadata, &request.outputs)
}

fn inputs(model: &str, metadata: &ModelMetadata, inputs: &[Tensor]) -> Result<(), InferenceError> {
    let mut seen = vec![false; metadata.inputs.len()];
    for input in inputs {
        let lone = (metadata.any_input_name && inputs.len() == 1).then_some(0);
        let Some(at) = metadata.inputs.iter().position(|spec| spec.name == *input.name()).or(lone) else {
            return invalid(format!("input `{}` is not an input of model `{model}`; {}", shortened(input.name()), listed(metadata)));
        };
        if std::mem::replace(&mut seen[at], true) {
            return invalid(format!("input `{}` of model `{model}` is given twice", input.name()));
        }
        fits(model, &metadata.inputs[at], input)?;
    }
    match metadata.inputs.iter().zip(seen).find(|(spec, seen)| !seen && !spec.optional) {
        Some((spec, _)) => invalid(format!("input `{}` of model `{model}` is missing; {}", spec.name, listed(metadata))),
        None => Ok(()),
    }
}

fn fits(model: &str, spec: &TensorSpec, input: &Tensor) -> Result<(), InferenceError> {
    let (name, shape) = (&spec.name, input.shape());
    if spec.datatype != input.datatype() {
        return invalid(format!("input `{name}` of model `{model}` takes {}, found {}", spec.datatype, input.datatype()));
    }
    if spec.shape.is_empty() {
        return Ok(());
    }
    if spec.shape.len() != shape.len() {
        let (takes, found) = (spec.shape.len(), shape.len());
        return invalid(format!("input `{name}` of model `{model}` takes {takes} dimensions {:?}, found {found}: {shape:?}", spec.shape));
    }
    match spec.shape.iter().zip(shape).position(|(&takes, &found)| takes >= 0 && takes != found) {
        Some(at) => invalid(format!(
            "input `{name}` of model `{model}` takes {} in dimension {at}, found {}: shape {shape:?} against {:?}",
            spec.shape[at], shape[at], spec.shape
        )),
        None => Ok(()),
    }
}

fn outputs(model: &str, metadata: &ModelMetadata, requested: &[RequestedOutput]) -> Result<Vec<usize>, InferenceError> {
    if requested.is_empty() {
        return Ok(metadata.outputs.iter().enumerate().filter(|(_, output)| !output.optional).map(|(at, _)| at).collect());
    }
    let mut wanted = Vec::with_capacity(requested.len());
    for output in requested {
        let Some(at) = metadata.outputs.iter().position(|spec| *spec.name == *output.name) else {
            return invalid(unexpected_output(model, metadata, &output.name));
        };
        if wanted.contains(&at) {
            return invalid(format!("output `{}` of model `{model}` is asked for twice", output.name));
        }
        wanted.push(at);
    }
    Ok(wanted)
}

/// KServe's sentence; and why, where the model has such an output that cannot be sent.
fn unexpected_output(model: &str, metadata: &ModelMetadata, name: &str) -> String {
    let sentence = format!("Unexpected inference output '{}' for model '{model}'", shortened(name));
    let is_it = |dropped: &&String| dropped.strip_prefix(name).is_some_and(|rest| rest.starts_with(" ("));
    match metadata.dropped_outputs.iter().find(is_it) {
        Some(dropped) => format!("{sentence}: the protocol cannot carry {dropped}"),
        None => sentence,
    }
}

fn listed(metadata: &ModelMetadata) -> String {
    if metadata.inputs.is_empty() {
        return "it takes none".to_owned();
    }
    let inputs: Vec<String> = metadata.inputs.iter().map(|spec| format!("`{}` {} {:?}", spec.name, spec.datatype, spec.shape)).collect();
    format!("its inputs are {}", inputs.join(", "))
}

/// A name from outside, at most 256 characters of it.
fn shortened(name: &str) -> String {
    name.chars().take(256).collect()
}

const fn invalid<T>(message: String) -> Result<T, InferenceError> {
    Err(InferenceError::InvalidInput(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;
    use bytes::Bytes;

    fn spec(name: &str, shape: &[i64], optional: bool) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: DataType::Uint8, shape: shape.to_vec(), optional }
    }

    fn metadata() -> ModelMetadata {
        ModelMetadata {
            inputs: vec![spec("a", &[-1, 2], false), spec("b", &[], true)],
            outputs: vec![spec("y", &[-1], false), spec("z", &[-1], false)],
            dropped_outputs: vec!["maps (Sequence<Map<i64, f32>>)".to_owned()],
            ..ModelMetadata::default()
        }
    }

    #[test]
    fn a_lone_input_may_have_any_name_where_the_model_says_so() {
        let request = |names: &[&str]| InferenceRequest {
            inputs: names.iter().map(|name| tensor(name, &[1, 2])).collect(),
            ..InferenceRequest::default()
        };
        let lenient = ModelMetadata { any_input_name: true, ..metadata() };
        assert!(admit("m", &lenient, &request(&["input-0"])).is_ok());
        assert!(admit("m", &lenient, &request(&["input-0", "b"])).is_err());
        assert!(admit("m", &metadata(), &request(&["input-0"])).is_err());
    }

    #[test]
    fn an_optional_output_is_given_only_to_those_who_ask() {
        let model = ModelMetadata { outputs: vec![spec("y", &[-1], false), spec("count", &[-1], true)], ..metadata() };
        let mut request = InferenceRequest { inputs: vec![tensor("a", &[1, 2])], ..InferenceRequest::default() };
        assert_eq!(admit("m", &model, &request), Ok(vec![0]));
        request.outputs = vec![RequestedOutput { name: "count".to_owned(), ..RequestedOutput::default() }];
        assert_eq!(admit("m", &model, &request), Ok(vec![1]));
    }

    fn tensor(name: &str, shape: &[i64]) -> Tensor {
        let size = shape.iter().product::<i64>().try_into().unwrap();
        Tensor::new(name, DataType::Uint8, shape.to_vec(), vec![0; size].into()).unwrap()
    }

    fn check(inputs: Vec<Tensor>, outputs: &[&str]) -> Result<Vec<usize>, String> {
        let outputs = outputs.iter().map(|&name| RequestedOutput { name: name.to_owned(), ..RequestedOutput::default() }).collect();
        let request = InferenceRequest { inputs, outputs, ..InferenceRequest::default() };
        admit("m", &metadata(), &request).map_err(|error| error.to_string())
    }

    fn refused(inputs: Vec<Tensor>) -> String {
        check(inputs, &[]).unwrap_err()
    }

    #[test]
    fn a_request_that_fits_gets_all_outputs_or_those_it_asks_for_in_its_order() {
        assert_eq!(check(vec![tensor("a", &[3, 2])], &[]), Ok(vec![0, 1]));
        assert_eq!(check(vec![tensor("b", &[7]), tensor("a", &[0, 2])], &["z", "y"]), Ok(vec![1, 0]));
    }

    #[test]
    fn unknown_missing_and_double_inputs_are_refused_with_what_the_model_takes() {
        let inputs = "its inputs are `a` UINT8 [-1, 2], `b` UINT8 []";
        assert_eq!(refused(vec![tensor("x", &[1, 2])]), format!("input `x` is not an input of model `m`; {inputs}"));
        assert_eq!(refused(vec![tensor("b", &[1])]), format!("input `a` of model `m` is missing; {inputs}"));
        assert_eq!(refused(vec![tensor("a", &[1, 2]), tensor("a", &[1, 2])]), "input `a` of model `m` is given twice");
    }

    #[test]
    fn a_wrong_datatype_rank_or_size_is_refused_with_the_dimension() {
        let wrong_type = Tensor::new("a", DataType::Int8, vec![1, 2], Bytes::from_static(&[0; 2])).unwrap();
        assert_eq!(refused(vec![wrong_type]), "input `a` of model `m` takes UINT8, found INT8");
        assert_eq!(refused(vec![tensor("a", &[2])]), "input `a` of model `m` takes 2 dimensions [-1, 2], found 1: [2]");
        assert_eq!(
            refused(vec![tensor("a", &[1, 3])]),
            "input `a` of model `m` takes 2 in dimension 1, found 3: shape [1, 3] against [-1, 2]"
        );
    }

    #[test]
    fn unknown_and_double_outputs_are_refused_in_kserve_s_words() {
        let a = || vec![tensor("a", &[1, 2])];
        assert_eq!(check(a(), &["x"]).unwrap_err(), "Unexpected inference output 'x' for model 'm'");
        assert_eq!(check(a(), &["y", "y"]).unwrap_err(), "output `y` of model `m` is asked for twice");
        assert_eq!(
            check(a(), &["maps"]).unwrap_err(),
            "Unexpected inference output 'maps' for model 'm': the protocol cannot carry maps (Sequence<Map<i64, f32>>)"
        );
    }

    #[test]
    fn a_name_of_a_megabyte_is_not_sent_back() {
        assert!(refused(vec![tensor(&"x".repeat(1 << 20), &[1])]).len() < 500);
    }
}
