//! The v1 forms: `instances` or `inputs` to tensors, `predictions` back.
//!
//! The model's own metadata says what the values are, so numbers are read straight into its datatypes.

use super::json::column::{Reading, Room, column};
use super::json::scanner::Scanner;
use super::json::write;
use super::shared_memory::Shared;
use super::{DecodeError, Decoded, EncodeError, EncodedReply, Limits, ReplyForm, v1_rows, v2_reply};
use crate::inference::{InferenceRequest, InferenceResponse, ModelMetadata, TensorSpec};
use crate::tensor::Tensor;
use uuid::Uuid;

/// Reads a request: `inputs` if it is there, else `instances`; other members are ignored.
///
/// A list of arrays, numbers or strings is the one input of the model; its nesting is its shape. A list of
/// objects holds a value for each input by name, and they are stacked along a new first dimension. One value
/// a row becomes `[n, 1]` where the model declares two dimensions and 1 or any as the last. An empty list
/// makes empty inputs.
///
/// # Errors
/// [`DecodeError`] with the tensor and the index path of a value that does not fit, of a row of another
/// length than the first, and of a row that lacks an input; text that is no JSON in KServe's words.
///
/// Source: reference 4.1 and 4.7; the rows of several inputs are TensorFlow Serving's convention.
pub fn decode(body: &[u8], model: &ModelMetadata, limits: &Limits) -> Result<Decoded, DecodeError> {
    decode_members(body, model, limits, true)
}

/// Reads a request to a service with KServe's batcher: `instances`, of which there must be some, and nothing else.
///
/// # Errors
/// As [`decode`], and KServe's sentence where there are no instances.
///
/// Source: reference 10.2.
pub fn decode_batched(body: &[u8], model: &ModelMetadata, limits: &Limits) -> Result<Decoded, DecodeError> {
    let none = || DecodeError::Refused("no instances in the request".to_owned());
    let decoded = decode_members(body, model, limits, false)?;
    let empty = |input: &Tensor| input.shape().first() == Some(&0);
    if decoded.request.inputs.iter().any(empty) { Err(none()) } else { Ok(decoded) }
}

fn decode_members(body: &[u8], model: &ModelMetadata, limits: &Limits, takes_inputs: bool) -> Result<Decoded, DecodeError> {
    let inputs = read(body, model, limits, takes_inputs).map_err(|error| match error {
        DecodeError::Malformed { .. } => DecodeError::Refused(format!("Unrecognized request format: {error}")),
        other => other,
    })?;
    let request = InferenceRequest { inputs, ..InferenceRequest::default() };
    Ok(Decoded { request, reply: ReplyForm::Text, shared: Shared::default() })
}

fn read(body: &[u8], model: &ModelMetadata, limits: &Limits, takes_inputs: bool) -> Result<Vec<Tensor>, DecodeError> {
    let mut scanner = Scanner::new(body, limits.json_depth_max);
    if let Some(b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') = scanner.peek() {
        let found = scanner.kind();
        return Err(DecodeError::Refused(format!("expected an object with \"instances\" or \"inputs\", found {found}")));
    }
    let (mut inputs, mut instances) = (None, None);
    scanner.members(|scanner, name| {
        match name.as_ref() {
            "inputs" if takes_inputs => inputs = Some(values(scanner, "inputs", model, limits)?),
            "instances" if inputs.is_none() => instances = Some(values_or_skip(scanner, model, limits)?),
            _ => drop(scanner.skip_value()?),
        }
        Ok(())
    })?;
    scanner.end()?;
    let sentence = if takes_inputs { "the request has neither \"instances\" nor \"inputs\"" } else { "no instances in the request" };
    let missing = || Err(DecodeError::Refused(sentence.to_owned()));
    inputs.map(Ok).or(instances).unwrap_or_else(missing)
}

/// Reads `instances`. A mistake in them counts only if no `inputs` follow, so it is kept and the value skipped.
fn values_or_skip(
    scanner: &mut Scanner<'_>,
    model: &ModelMetadata,
    limits: &Limits,
) -> Result<Result<Vec<Tensor>, DecodeError>, DecodeError> {
    let start = scanner.mark();
    let values = values(scanner, "instances", model, limits);
    if values.is_err() {
        *scanner = start;
        if scanner.skip_value().is_err() {
            return values.map(Ok);
        }
    }
    Ok(values)
}

fn values(scanner: &mut Scanner<'_>, key: &str, model: &ModelMetadata, limits: &Limits) -> Result<Vec<Tensor>, DecodeError> {
    if scanner.peek() != Some(b'[') {
        return Err(DecodeError::Refused(format!("Expected \"{key}\" to be a list")));
    }
    match scanner.peek_item() {
        Some(b'{') => v1_rows::read(scanner, key, model, limits),
        Some(b']') => {
            scanner.skip_value()?;
            model.inputs.iter().filter(|spec| !spec.optional).map(empty).collect()
        }
        _ => Ok(vec![single(scanner, only_input(model)?, limits)?]),
    }
}

/// The model's one input, or the one that cannot be left out.
fn only_input(model: &ModelMetadata) -> Result<&TensorSpec, DecodeError> {
    let mut required = model.inputs.iter().filter(|spec| !spec.optional);
    match (&model.inputs[..], required.next(), required.next()) {
        ([only], _, _) | (_, Some(only), None) => Ok(only),
        ([], _, _) => Err(DecodeError::Refused("the model takes no inputs: send an empty list".to_owned())),
        _ => Err(DecodeError::Refused(format!("the model has several inputs, send each instance as an object with {}", names(model)))),
    }
}

/// The inputs' names for a message: `a`, `b`.
pub(super) fn names(model: &ModelMetadata) -> String {
    model.inputs.iter().map(|spec| format!("`{}`", spec.name)).collect::<Vec<_>>().join(", ")
}

fn single(scanner: &mut Scanner<'_>, spec: &TensorSpec, limits: &Limits) -> Result<Tensor, DecodeError> {
    let start = scanner.mark();
    // Numbers with their commas take some eight bytes of text.
    let room = Room { elements: scanner.bytes_left() / 8 + 1, bytes_max: limits.decoded_bytes_max };
    let mut values = column(spec.datatype, room);
    let reading = Reading { tensor: &spec.name, datatype: spec.datatype, start: &start, row: None };
    let dims = values.read(scanner).map_err(|fault| reading.error(fault))?;
    Ok(Tensor::new(spec.name.clone(), spec.datatype, fitted(&dims, spec, limits)?, values.finish())?)
}

/// The shape of the values as the model wants it: a single value a row is a row of one.
pub(super) fn fitted(dims: &[usize], spec: &TensorSpec, limits: &Limits) -> Result<Vec<i64>, DecodeError> {
    if dims.len() > limits.rank_max {
        return Err(DecodeError::TooLarge(format!("`{}`: more than {} dimensions", spec.name, limits.rank_max)));
    }
    let dims: Vec<i64> = dims.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect();
    Ok(match (&dims[..], &spec.shape[..]) {
        ([1], []) => Vec::new(),
        ([rows], [_, 1 | -1]) => vec![*rows, 1],
        _ => dims,
    })
}

/// An input without rows: the declared shape with 0 in front, and 1 where any size goes.
fn empty(spec: &TensorSpec) -> Result<Tensor, DecodeError> {
    let inner = spec.shape.iter().skip(1).map(|&dim| if dim < 0 { 1 } else { dim });
    let shape = std::iter::once(0).chain(inner).collect();
    Ok(Tensor::new(spec.name.clone(), spec.datatype, shape, bytes::Bytes::new())?)
}

/// Writes `{"predictions": …}`.
///
/// One output: its nested arrays. Several with the same first dimension: a list of objects, one a row, by
/// output name. Several without: one object of nested arrays.
///
/// # Errors
/// `NotUtf8` for bytes that are no text; they have no JSON form.
pub fn encode(response: &InferenceResponse) -> Result<EncodedReply, EncodeError> {
    encode_after(b"{\"predictions\":".to_vec(), response)
}

/// Writes `{"message":"","batchId":…,"predictions":…}`, the answer of KServe's batcher.
///
/// # Errors
/// As [`encode`].
///
/// Source: reference 10.2.
pub fn encode_batched(response: &InferenceResponse) -> Result<EncodedReply, EncodeError> {
    let batch_id = response.batch_id.unwrap_or_else(Uuid::new_v4);
    encode_after(format!("{{\"message\":\"\",\"batchId\":\"{batch_id}\",\"predictions\":").into_bytes(), response)
}

fn encode_after(mut json: Vec<u8>, response: &InferenceResponse) -> Result<EncodedReply, EncodeError> {
    let outputs = &response.outputs;
    json.reserve(64 + outputs.iter().map(v2_reply::text_bytes).sum::<usize>());
    match (&outputs[..], shared_rows(outputs)) {
        ([], _) => json.extend_from_slice(b"[]"),
        ([only], _) => write::nested(&mut json, only, &dims(only))?,
        (_, Some(rows)) => write_rows(&mut json, outputs, rows)?,
        (_, None) => write_columns(&mut json, outputs)?,
    }
    json.push(b'}');
    Ok(EncodedReply { content_type: "application/json", header_length: None, chunks: vec![json.into()] })
}

fn dims(tensor: &Tensor) -> Vec<usize> {
    tensor.shape().iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect()
}

/// The first dimension, if all outputs have the same one.
fn shared_rows(outputs: &[Tensor]) -> Option<usize> {
    let rows = dims(outputs.first()?).first().copied()?;
    outputs.iter().all(|output| dims(output).first() == Some(&rows)).then_some(rows)
}

fn write_rows(json: &mut Vec<u8>, outputs: &[Tensor], rows: usize) -> Result<(), EncodeError> {
    let writers = outputs.iter().map(write::rows).collect::<Result<Vec<_>, _>>()?;
    let inner: Vec<Vec<usize>> = outputs.iter().map(|output| dims(output).split_off(1)).collect();
    json.push(b'[');
    for row in 0..rows {
        json.push(if row == 0 { b'{' } else { b',' });
        if row > 0 {
            json.push(b'{');
        }
        for (index, output) in outputs.iter().enumerate() {
            write_name(json, index, output);
            let start = row * inner[index].iter().product::<usize>();
            write::arrays(json, writers[index].as_ref(), &inner[index], start);
        }
        json.push(b'}');
    }
    json.push(b']');
    Ok(())
}

fn write_columns(json: &mut Vec<u8>, outputs: &[Tensor]) -> Result<(), EncodeError> {
    json.push(b'{');
    for (index, output) in outputs.iter().enumerate() {
        write_name(json, index, output);
        write::nested(json, output, &dims(output))?;
    }
    json.push(b'}');
    Ok(())
}

fn write_name(json: &mut Vec<u8>, index: usize, output: &Tensor) {
    if index > 0 {
        json.push(b',');
    }
    write::string(json, output.name());
    json.push(b':');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::sample;
    use crate::tensor::{DataType, buffer};
    use proptest::prelude::*;

    fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
    }

    fn model(inputs: Vec<TensorSpec>) -> ModelMetadata {
        ModelMetadata { inputs, ..ModelMetadata::default() }
    }

    fn read(inputs: &[TensorSpec], body: &str) -> Result<Vec<Tensor>, String> {
        let decoded = decode(body.as_bytes(), &model(inputs.to_vec()), &Limits::default());
        decoded.map(|decoded| decoded.request.inputs).map_err(|error| error.to_string())
    }

    fn iris() -> [TensorSpec; 1] {
        [spec("x", DataType::Fp32, &[-1, 4])]
    }

    fn two() -> [TensorSpec; 2] {
        [spec("a", DataType::Fp32, &[-1, 2]), spec("b", DataType::Int64, &[-1, 1])]
    }

    #[test]
    fn rows_of_numbers_become_the_one_input_in_its_declared_datatype() {
        let inputs = read(&iris(), r#"{"signature_name":"x","instances":[[6.8,2.8,4.8,1.4],[6,3.4,4.5,1.6]]}"#).unwrap();
        assert_eq!((inputs[0].name().as_ref(), inputs[0].shape()), ("x", &[2, 4][..]));
        assert_eq!(buffer::as_numbers::<f32>(inputs[0].data()).as_ref(), [6.8, 2.8, 4.8, 1.4, 6.0, 3.4, 4.5, 1.6]);
    }

    #[test]
    fn inputs_win_over_instances_wherever_they_stand() {
        let expected = read(&iris(), r#"{"inputs":[[1,2,3,4]]}"#).unwrap();
        assert_eq!(read(&iris(), r#"{"instances":[[9,9,9,9]],"inputs":[[1,2,3,4]]}"#).unwrap(), expected);
        assert_eq!(read(&iris(), r#"{"inputs":[[1,2,3,4]],"instances":"wrong"}"#).unwrap(), expected);
        assert_eq!(read(&iris(), r#"{"instances":[[1],["wrong"]],"inputs":[[1,2,3,4]]}"#).unwrap(), expected);
    }

    #[test]
    fn one_value_a_row_is_a_row_of_one_where_the_model_asks() {
        let shape = |declared: &[i64], body: &str| read(&[spec("x", DataType::Int64, declared)], body).unwrap()[0].shape().to_vec();
        assert_eq!(shape(&[-1], r#"{"instances":[1,2,3]}"#), [3]);
        assert_eq!(shape(&[-1, 1], r#"{"instances":[1,2,3]}"#), [3, 1]);
        assert_eq!(shape(&[-1, -1], r#"{"instances":[{"x":1},{"x":2}]}"#), [2, 1]);
        assert_eq!(shape(&[], r#"{"instances":[{"x":16000}]}"#), [] as [i64; 0]);
    }

    #[test]
    fn strings_become_a_bytes_input() {
        let inputs = read(&[spec("text", DataType::Bytes, &[-1])], r#"{"instances":["a","é"]}"#).unwrap();
        assert_eq!(inputs[0].strings().collect::<Vec<_>>(), [b"a".as_slice(), "é".as_bytes()]);
    }

    #[test]
    fn objects_are_stacked_by_input_name() {
        let inputs = read(&two(), r#"{"instances":[{"a":[1,2],"b":3},{"b":6,"a":[4,5]}]}"#).unwrap();
        assert_eq!((inputs[0].shape(), inputs[1].shape()), (&[2, 2][..], &[2, 1][..]));
        assert_eq!(buffer::as_numbers::<f32>(inputs[0].data()).as_ref(), [1.0, 2.0, 4.0, 5.0]);
        assert_eq!(buffer::as_numbers::<i64>(inputs[1].data()).as_ref(), [3, 6]);
    }

    #[test]
    fn an_empty_list_makes_empty_inputs() {
        assert_eq!(read(&iris(), r#"{"instances":[]}"#).unwrap()[0].shape(), [0, 4]);
        assert_eq!(read(&two(), r#"{"instances":[ ]}"#).unwrap().len(), 2);
    }

    #[test]
    fn what_does_not_fit_is_named_by_tensor_and_index() {
        for (body, message) in [
            (r#"{"instances":[[1,2],[3]]}"#, "tensor `x`: element [1]: is not as long or as deep as the ones before it"),
            (r#"{"instances":[[1,"b"]]}"#, "tensor `x`: element [0][1]: `\"b\"` is not a finite JSON number, as FP32 asks"),
            (r#"{"instances":[[1,2],3]}"#, "tensor `x`: element [1]: is not as long or as deep as the ones before it"),
            (r#"{"instances":{"x":1}}"#, "Expected \"instances\" to be a list"),
            (r#"{"instances":7}"#, "Expected \"instances\" to be a list"),
            (r#"{"predictions":[]}"#, "the request has neither \"instances\" nor \"inputs\""),
            ("[[1,2,3,4]]", "expected an object with \"instances\" or \"inputs\", found an array"),
            (r#"{"instances":[[1,2}"#, "Unrecognized request format: malformed JSON at line 1 column 19: expected `,` or `]`"),
            ("", "Unrecognized request format: malformed JSON at line 1 column 1: expected `{`, found the end of the text"),
        ] {
            assert_eq!(read(&iris(), body).unwrap_err(), message, "{body}");
        }
    }

    #[test]
    fn rows_of_objects_say_what_they_lack() {
        for (body, message) in [
            (r#"{"instances":[[1,2]]}"#, "the model has several inputs, send each instance as an object with `a`, `b`"),
            (r#"{"instances":[{"a":[1,2],"b":3},{"a":[1,2]}]}"#, "instances[1]: input `b` is missing"),
            (r#"{"instances":[{"a":[1,2],"b":3,"c":1}]}"#, "instances[0]: the model has no input `c`, its inputs are `a`, `b`"),
            (r#"{"instances":[{"a":[1,2],"a":[1,2]}]}"#, "instances[0]: input `a` is given twice"),
            (
                r#"{"instances":[{"a":[1,2],"b":3},{"a":[1],"b":3}]}"#,
                "tensor `a`: element [1]: is not as long or as deep as the ones before it",
            ),
            (r#"{"instances":[{"a":[1,2],"b":3.5}]}"#, "tensor `b`: element [0]: `3.5` is not a whole number, as INT64 asks"),
            (r#"{"instances":[{"a":[1,2],"b":3},[1]]}"#, "instances[1]: expected an object, found an array"),
        ] {
            assert_eq!(read(&two(), body).unwrap_err(), message, "{body}");
        }
    }

    fn written(outputs: Vec<Tensor>) -> String {
        let encoded = encode(&InferenceResponse { outputs, ..InferenceResponse::default() }).unwrap();
        String::from_utf8(encoded.chunks.concat()).unwrap()
    }

    #[test]
    fn predictions_are_rows() {
        let bytes = |name: &str, shape: &[i64], data: &'static [u8]| {
            Tensor::new(name, DataType::Uint8, shape.to_vec(), bytes::Bytes::from_static(data)).unwrap()
        };
        let label = Tensor::from_strings("label", vec![2], &["a", "b"]).unwrap();
        assert_eq!(written(vec![bytes("y", &[2, 2], &[1, 2, 3, 4])]), r#"{"predictions":[[1,2],[3,4]]}"#);
        assert_eq!(written(vec![bytes("y", &[0, 2], &[])]), r#"{"predictions":[]}"#);
        assert_eq!(
            written(vec![label, bytes("p", &[2, 2], &[1, 2, 3, 4])]),
            r#"{"predictions":[{"label":"a","p":[1,2]},{"label":"b","p":[3,4]}]}"#
        );
        assert_eq!(written(vec![bytes("y", &[1], &[1]), bytes("z", &[2], &[1, 2])]), r#"{"predictions":{"y":[1],"z":[1,2]}}"#);
    }

    proptest! {
        #[test]
        fn every_datatype_survives_the_way_out_and_in(tensor in sample::tensor()) {
            let body = written(vec![tensor.clone()]).replacen("predictions", "instances", 1);
            let declared = [spec("x", tensor.datatype(), tensor.shape())];
            let back = read(&declared, &body).unwrap();
            prop_assert_eq!(back[0].data(), tensor.data());
            if !tensor.is_empty() {
                prop_assert_eq!(back[0].shape(), tensor.shape());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>, inside in "[\\[\\]{}\":,0-9ab. ]{0,40}") {
            let _ = decode(&body, &model(two().to_vec()), &Limits::default());
            let _ = read(&two(), &format!("{{\"instances\":{inside}}}"));
            let _ = read(&iris(), &format!("{{\"instances\":[{inside}]}}"));
        }
    }
}
