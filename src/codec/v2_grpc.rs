//! The v2 messages of gRPC: raw contents are taken over as they are, typed contents are moved and checked.

use super::open_inference::infer_parameter::ParameterChoice;
use super::open_inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::open_inference::model_infer_response::InferOutputTensor;
use super::open_inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use super::shared_memory::{self, Shared, SharedInput, SharedPlace, place_of};
use super::{DecodeError, Decoded, Limits, ReplyForm, ReplyHead, check_reserved, check_unique, grpc_contents};
use crate::inference::{InferenceRequest, InferenceResponse, Parameter, Parameters, RequestedOutput};
use crate::tensor::{DataType, Tensor, datatype::UnknownDataType};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Reads a request. Raw contents become tensors without a copy and ask for a raw answer.
///
/// # Errors
/// [`DecodeError`] naming the input: raw and typed contents mixed or of another count, contents in a slot
/// that is not the datatype's, values that do not fit it, and all that makes no tensor.
///
/// Source: reference 4.5; KServe 0.21 for the messages.
pub fn decode(message: ModelInferRequest, limits: &Limits) -> Result<Decoded, DecodeError> {
    check_counts(&message, limits)?;
    let (travelling, shared_inputs) = split(message.inputs)?;
    let all_shared = travelling.is_empty() && !shared_inputs.is_empty();
    let reply = if message.raw_input_contents.is_empty() && !all_shared { ReplyForm::Text } else { ReplyForm::Binary };
    let inputs = match reply {
        ReplyForm::Text => typed_inputs(travelling, limits)?,
        _ => raw_inputs(travelling, message.raw_input_contents, &message.model_name)?,
    };
    let names = inputs.iter().map(|input| input.name().as_ref());
    check_unique("input", names.chain(shared_inputs.iter().map(|input| input.name.as_ref())))?;
    check_unique("requested output", message.outputs.iter().map(|output| output.name.as_str()))?;
    let given = parameters(message.parameters);
    check_reserved(&given)?;
    let request = InferenceRequest {
        id: Some(message.id).filter(|id| !id.is_empty()),
        parameters: given,
        inputs,
        outputs: message.outputs.into_iter().map(requested_output).collect(),
        ..InferenceRequest::default()
    };
    let shared = Shared { inputs: shared_inputs, outputs: shared_memory::wanted(&request.outputs)? };
    Ok(Decoded { request, reply, shared })
}

/// The inputs that travel, and those that lie in shared memory; the latter have no entry among the raw contents.
fn split(inputs: Vec<InferInputTensor>) -> Result<(Vec<InferInputTensor>, Vec<SharedInput>), DecodeError> {
    if inputs.iter().all(|input| input.parameters.is_empty()) {
        return Ok((inputs, Vec::new()));
    }
    let (mut travelling, mut shared) = (Vec::with_capacity(inputs.len()), Vec::new());
    for (index, mut input) in inputs.into_iter().enumerate() {
        let given = parameters(std::mem::take(&mut input.parameters));
        match SharedPlace::of(&given, &format_args!("input `{}`", input.name))? {
            None => travelling.push(input),
            Some(_) if input.contents.is_some() => {
                return Err(DecodeError::Refused(format!("input `{}` has both `contents` and `shared_memory_region`", input.name)));
            }
            Some(place) => {
                let datatype = datatype(&input)?;
                shared.push(SharedInput { index, name: input.name.into(), datatype, shape: input.shape, place });
            }
        }
    }
    Ok((travelling, shared))
}

fn check_counts(message: &ModelInferRequest, limits: &Limits) -> Result<(), DecodeError> {
    for (what, count) in [("inputs", message.inputs.len()), ("outputs", message.outputs.len())] {
        if count > limits.tensors_max {
            return Err(DecodeError::TooLarge(format!("more than {} {what}", limits.tensors_max)));
        }
    }
    let parameters = message.inputs.iter().map(|input| &input.parameters).chain(message.outputs.iter().map(|output| &output.parameters));
    if parameters.chain([&message.parameters]).any(|parameters| parameters.len() > limits.parameters_max) {
        return Err(DecodeError::TooLarge(format!("parameters: more than {} parameters", limits.parameters_max)));
    }
    if let Some(input) = message.inputs.iter().find(|input| input.shape.len() > limits.rank_max) {
        return Err(DecodeError::TooLarge(format!("`{}`: more than {} dimensions", input.name, limits.rank_max)));
    }
    Ok(())
}

fn raw_inputs(inputs: Vec<InferInputTensor>, contents: Vec<Bytes>, model: &str) -> Result<Vec<Tensor>, DecodeError> {
    if inputs.len() != contents.len() {
        return Err(DecodeError::Refused(format!(
            "the number of inputs ({}) does not match the expected number of raw input contents ({}) for model '{model}'.",
            inputs.len(),
            contents.len()
        )));
    }
    inputs.into_iter().zip(contents).map(|(input, data)| raw_input(input, data, model)).collect()
}

fn raw_input(input: InferInputTensor, data: Bytes, model: &str) -> Result<Tensor, DecodeError> {
    if input.contents.is_some() {
        return Err(DecodeError::Refused(format!(
            "contents field must not be specified when using raw_input_contents for input '{}' for model '{model}'",
            input.name
        )));
    }
    let datatype = datatype(&input)?;
    Ok(Tensor::new(input.name, datatype, input.shape, data)?)
}

fn typed_inputs(inputs: Vec<InferInputTensor>, limits: &Limits) -> Result<Vec<Tensor>, DecodeError> {
    let mut bytes_left = limits.decoded_bytes_max;
    let read = |input: InferInputTensor| {
        let datatype = datatype(&input)?;
        let tensor = grpc_contents::read(input.name, datatype, input.shape, input.contents.unwrap_or_default())?;
        bytes_left = bytes_left
            .checked_sub(tensor.data().len())
            .ok_or_else(|| DecodeError::TooLarge(format!("tensor `{}`: takes more memory than a request may", tensor.name())))?;
        Ok(tensor)
    };
    inputs.into_iter().map(read).collect()
}

fn datatype(input: &InferInputTensor) -> Result<DataType, DecodeError> {
    let unknown = |unknown: UnknownDataType| DecodeError::Refused(format!("tensor `{}`: {unknown}", input.name));
    input.datatype.parse().map_err(unknown)
}

fn requested_output(output: InferRequestedOutputTensor) -> RequestedOutput {
    RequestedOutput { name: output.name, parameters: parameters(output.parameters) }
}

/// Takes parameters over; one without a value is left out.
pub fn parameters(message: BTreeMap<String, InferParameter>) -> Parameters {
    let value = |choice| match choice {
        ParameterChoice::BoolParam(value) => Parameter::Bool(value),
        ParameterChoice::Int64Param(value) => Parameter::Int(value),
        ParameterChoice::Uint64Param(value) => Parameter::Uint(value),
        ParameterChoice::DoubleParam(value) => Parameter::Double(value),
        ParameterChoice::StringParam(value) => Parameter::String(value),
    };
    message.into_iter().filter_map(|(name, parameter)| Some((name, value(parameter.parameter_choice?)))).collect()
}

/// Writes parameters.
pub fn parameter_messages(parameters: &Parameters) -> BTreeMap<String, InferParameter> {
    let choice = |value: &Parameter| match value {
        Parameter::Bool(value) => ParameterChoice::BoolParam(*value),
        Parameter::Int(value) => ParameterChoice::Int64Param(*value),
        Parameter::Uint(value) => ParameterChoice::Uint64Param(*value),
        Parameter::Double(value) => ParameterChoice::DoubleParam(*value),
        Parameter::String(value) => ParameterChoice::StringParam(value.clone()),
    };
    parameters.iter().map(|(name, value)| (name.clone(), InferParameter { parameter_choice: Some(choice(value)) })).collect()
}

/// Writes an answer: raw when the request was, or when an output has a datatype without typed contents.
///
/// Each raw output carries `binary_data_size`, as KServe sends it; its bytes are shared, not copied.
pub fn encode(head: &ReplyHead<'_>, response: &InferenceResponse, reply: &ReplyForm) -> ModelInferResponse {
    let outputs = &response.outputs;
    let travels = |output: &&Tensor| place_of(head.shared, output.name()).is_none();
    let has_no_text = |output: &Tensor| matches!(output.datatype(), DataType::Fp16 | DataType::Bf16);
    let is_raw = *reply != ReplyForm::Text || outputs.iter().filter(travels).any(has_no_text);
    let write = |output: &Tensor| match place_of(head.shared, output.name()) {
        Some(place) => shared_output(output, place),
        None if is_raw => raw_output(output),
        None => typed_output(output),
    };
    // An output in shared memory keeps its entry among the raw ones, empty, so that the others keep their places.
    let raw = |output: &Tensor| if travels(&output) { output.data().clone() } else { Bytes::new() };
    ModelInferResponse {
        model_name: head.model_name.to_owned(),
        model_version: head.model_version.unwrap_or_default().to_owned(),
        id: head.id.to_owned(),
        parameters: BTreeMap::new(),
        outputs: outputs.iter().map(write).collect(),
        raw_output_contents: if is_raw { outputs.iter().map(raw).collect() } else { Vec::new() },
    }
}

fn raw_output(output: &Tensor) -> InferOutputTensor {
    let parameters = BTreeMap::from([("binary_data_size".to_owned(), int_parameter(output.data().len() as u64))]);
    InferOutputTensor { parameters, ..output_head(output) }
}

fn shared_output(output: &Tensor, place: &SharedPlace) -> InferOutputTensor {
    let region = InferParameter { parameter_choice: Some(ParameterChoice::StringParam(place.region.clone())) };
    let mut parameters =
        BTreeMap::from([(shared_memory::REGION.to_owned(), region), (shared_memory::BYTE_SIZE.to_owned(), int_parameter(place.byte_size))]);
    if place.offset > 0 {
        parameters.insert(shared_memory::OFFSET.to_owned(), int_parameter(place.offset));
    }
    InferOutputTensor { parameters, ..output_head(output) }
}

fn int_parameter(value: u64) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(i64::try_from(value).unwrap_or(i64::MAX))) }
}

fn typed_output(output: &Tensor) -> InferOutputTensor {
    InferOutputTensor { contents: Some(grpc_contents::write(output)), ..output_head(output) }
}

fn output_head(output: &Tensor) -> InferOutputTensor {
    InferOutputTensor {
        name: output.name().as_ref().to_owned(),
        datatype: output.datatype().name().to_owned(),
        shape: output.shape().to_vec(),
        ..InferOutputTensor::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::open_inference::InferTensorContents;
    use crate::codec::sample;
    use proptest::prelude::*;

    fn input(name: &str, datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferInputTensor {
        InferInputTensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            contents,
            ..InferInputTensor::default()
        }
    }

    fn request(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> ModelInferRequest {
        ModelInferRequest { model_name: "m".to_owned(), inputs, raw_input_contents: raw, ..ModelInferRequest::default() }
    }

    fn message(request: ModelInferRequest) -> String {
        decode(request, &Limits::default()).unwrap_err().to_string()
    }

    fn ints(values: &[i32]) -> InferTensorContents {
        InferTensorContents { int_contents: values.to_vec(), ..InferTensorContents::default() }
    }

    #[test]
    fn raw_contents_are_taken_over_and_ask_for_a_raw_answer() {
        let blob = Bytes::from(vec![1, 2, 3, 4]);
        let decoded = decode(request(vec![input("x", "FP16", &[2], None)], vec![blob.clone()]), &Limits::default()).unwrap();
        assert_eq!(decoded.request.inputs[0].data().as_ptr(), blob.as_ptr());
        assert_eq!(decoded.reply, ReplyForm::Binary);
        assert_eq!(decoded.request.id, None);
    }

    #[test]
    fn parameters_that_are_the_servers_own_are_refused_by_name() {
        let with =
            |name: &str| ModelInferRequest { parameters: BTreeMap::from([(name.to_owned(), int_parameter(1))]), ..request(vec![], vec![]) };
        assert_eq!(message(with("triton_final_response")), "parameter `triton_final_response` is reserved for the server");
        for name in ["triton_enable_empty_final_response", "priority", "my_triton_"] {
            assert!(decode(with(name), &Limits::default()).is_ok(), "{name}");
        }
    }

    #[test]
    fn raw_and_typed_contents_never_mix() {
        let two = vec![input("x", "INT8", &[1], None), input("y", "INT8", &[1], None)];
        assert_eq!(
            message(request(two, vec![Bytes::from_static(b"a")])),
            "the number of inputs (2) does not match the expected number of raw input contents (1) for model 'm'."
        );
        let both = vec![input("x", "INT8", &[1], Some(ints(&[1])))];
        assert_eq!(
            message(request(both, vec![Bytes::from_static(b"a")])),
            "contents field must not be specified when using raw_input_contents for input 'x' for model 'm'"
        );
    }

    #[test]
    fn typed_contents_must_stand_in_their_slot_and_fit() {
        assert_eq!(
            message(request(vec![input("x", "INT8", &[2], Some(ints(&[1, 300])))], vec![])),
            "tensor `x`: element [1]: `300` does not fit INT8"
        );
        assert_eq!(
            message(request(vec![input("x", "INT8", &[3], Some(ints(&[1])))], vec![])),
            "tensor `x`: shape [3] takes 3 elements, found 1"
        );
        assert_eq!(
            message(request(vec![input("x", "FP32", &[1], Some(ints(&[1])))], vec![])),
            "tensor `x`: FP32 takes its elements from `fp32_contents`, found some in `int_contents`"
        );
        assert_eq!(
            message(request(vec![input("x", "FP16", &[1], None)], vec![])),
            "tensor `x`: FP16 has no typed contents, send it in `raw_input_contents`"
        );
        assert!(message(request(vec![input("x", "FP8", &[1], None)], vec![])).starts_with("tensor `x`: unknown datatype `FP8`"));
        let twice = || input("x", "INT8", &[1], Some(ints(&[1])));
        assert_eq!(message(request(vec![twice(), twice()], vec![])), "input `x` is given twice");
    }

    #[test]
    fn a_half_among_the_outputs_makes_all_of_them_raw() {
        let half = Tensor::new("h", DataType::Fp16, vec![1], Bytes::from_static(&[0, 0])).unwrap();
        let byte = Tensor::new("b", DataType::Int8, vec![1], Bytes::from_static(&[5])).unwrap();
        let response = InferenceResponse { outputs: vec![byte, half], ..InferenceResponse::default() };
        let message = encode(&ReplyHead { model_name: "m", id: "1", ..ReplyHead::default() }, &response, &ReplyForm::Text);
        assert_eq!(message.raw_output_contents, [Bytes::from_static(&[5]), Bytes::from_static(&[0, 0])]);
        assert_eq!(parameters(message.outputs[1].parameters.clone())["binary_data_size"], Parameter::Int(2));
    }

    #[test]
    fn parameters_survive_both_ways() {
        let all = [
            Parameter::Bool(true),
            Parameter::Int(-1),
            Parameter::Uint(u64::MAX),
            Parameter::Double(0.5),
            Parameter::String("x".to_owned()),
        ];
        let given: Parameters = all.into_iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect();
        assert_eq!(parameters(parameter_messages(&given)), given);
    }

    proptest! {
        #[test]
        fn every_datatype_survives_typed_and_raw_messages(tensor in sample::tensor(), raw: bool) {
            let response = InferenceResponse { outputs: vec![tensor.clone()], ..InferenceResponse::default() };
            let form = if raw { ReplyForm::Binary } else { ReplyForm::Text };
            let message = encode(&ReplyHead::default(), &response, &form);
            let output = message.outputs[0].clone();
            let back = request(vec![input(&output.name, &output.datatype, &output.shape, output.contents)], message.raw_output_contents);
            prop_assert_eq!(decode(back, &Limits::default()).unwrap().request.inputs, vec![tensor]);
        }
    }
}
