//! The v2 request body as JSON: `data` is read straight into the declared datatype, nested or flat.

use super::json::column::{Reading, Room, column};
use super::json::scanner::Scanner;
use super::shared_memory::{SharedInput, SharedPlace};
use super::v2_binary::Blobs;
use super::v2_envelope::{self, Data, Elsewhere, InputText, Place};
use super::{DecodeError, Decoded, Limits};
use crate::tensor::{DataType, Tensor, TensorError, element_count};
use std::sync::Arc;

/// Reads a request whose body is JSON and nothing else.
///
/// `model` is the name the model was called by; messages name it as KServe's do. Unknown members are ignored.
///
/// # Errors
/// [`DecodeError`] with the place of the mistake; `TooLarge` when a bound of `limits` is passed.
///
/// Source: Open Inference Protocol v2, "Inference Request JSON Object"; KServe 0.21 for the messages.
pub fn decode(body: &[u8], model: &str, limits: &Limits) -> Result<Decoded, DecodeError> {
    v2_envelope::read(body, &mut Blobs::none(), model, limits)
}

/// Reads the elements of inputs, and keeps count of the memory they take.
#[derive(Debug)]
pub(super) struct DataReader<'a> {
    /// The name the model was called by.
    pub(super) model: &'a str,
    /// What a request may ask for.
    pub(super) limits: &'a Limits,
    /// Bytes all inputs together may still take.
    pub(super) bytes_left: usize,
}

impl DataReader<'_> {
    /// Reads `data` at the scanner into a tensor.
    pub(super) fn read(&mut self, head: &TensorHead, scanner: &mut Scanner<'_>) -> Result<Tensor, DecodeError> {
        let TensorHead { name, datatype, shape } = head;
        refuse_halves(name, *datatype)?;
        if scanner.peek() != Some(b'[') {
            let found = scanner.kind();
            return Err(DecodeError::Refused(format!("tensor `{name}`: `data` must be an array, found {found}")));
        }
        let expected = element_count(name, shape)?;
        let start = scanner.mark();
        // Each element takes two bytes of text at least, so the room is in proportion to the body.
        let elements = expected.min(scanner.bytes_left() / 2 + 1);
        let mut values = column(*datatype, Room { elements, bytes_max: self.bytes_left });
        let reading = Reading { tensor: name, datatype: *datatype, start: &start, row: None };
        values.read(scanner).map_err(|fault| reading.error(fault))?;
        let found = values.len();
        if found != expected {
            return Err(TensorError::WrongCount { name: Arc::clone(name), shape: shape.clone(), expected, found }.into());
        }
        let data = values.finish();
        self.bytes_left -= data.len();
        Ok(Tensor::new(Arc::clone(name), *datatype, shape.clone(), data)?)
    }

    /// Reads what an input said of its elements: JSON, a slice of the blobs behind the JSON, or a place in shared memory.
    pub(super) fn finish(&mut self, input: InputText<'_>, place: Place<'_>, blobs: &mut Blobs) -> Result<Input, DecodeError> {
        let (head, data, elsewhere) = input.complete(place, self.limits)?;
        match (data, elsewhere) {
            (Data::Missing, Elsewhere::Shared(place)) => Ok(Input::Shared(head, place)),
            (_, Elsewhere::Shared(_)) => {
                Err(DecodeError::Refused(format!("input `{}` has both `data` and `shared_memory_region`", head.name)))
            }
            (Data::Read(tensor), _) => Ok(Input::Here(tensor)),
            // Both given: the JSON counts and no bytes are taken, as KServe does it.
            (Data::Later(mut scanner), _) => self.read(&head, &mut scanner).map(Input::Here),
            (Data::Missing, Elsewhere::Behind(size)) if blobs.are_there() => {
                let data = blobs.take(&head.name, size)?;
                Ok(Input::Here(Tensor::new(head.name, head.datatype, head.shape, data)?))
            }
            (Data::Missing, elsewhere) => Err(self.missing(&head.name, matches!(elsewhere, Elsewhere::Behind(_)))),
        }
    }

    fn missing(&self, name: &str, has_size: bool) -> DecodeError {
        let hint = if has_size { "; `binary_data_size` counts only with the Inference-Header-Content-Length header" } else { "" };
        DecodeError::Refused(format!("'data' field is missing for input '{name}' for model '{}'{hint}", self.model))
    }
}

/// An input as it was sent.
#[derive(Debug)]
pub(super) enum Input {
    /// With its elements.
    Here(Tensor),
    /// Its elements lie in shared memory.
    Shared(TensorHead, SharedPlace),
}

/// What a tensor is, without its elements.
#[derive(Debug, Clone)]
pub(super) struct TensorHead {
    pub(super) name: Arc<str>,
    pub(super) datatype: DataType,
    pub(super) shape: Vec<i64>,
}

impl TensorHead {
    /// The same as an input whose elements are still to be fetched.
    pub(super) fn shared(self, index: usize, place: SharedPlace) -> SharedInput {
        SharedInput { index, name: self.name, datatype: self.datatype, shape: self.shape, place }
    }
}

fn refuse_halves(name: &str, datatype: DataType) -> Result<(), DecodeError> {
    match datatype {
        DataType::Fp16 | DataType::Bf16 => Err(DecodeError::Refused(format!(
            "Sending {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ReplyForm;
    use crate::inference::{InferenceError, Parameter};
    use proptest::prelude::*;

    fn read(body: &str) -> Result<Decoded, String> {
        decode(body.as_bytes(), "m", &Limits::default()).map_err(|error| error.to_string())
    }

    /// The bytes of a single input, or the message.
    fn data(datatype: &str, shape: &str, data: &str) -> Result<Vec<u8>, String> {
        let body = format!(r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#);
        let turned = format!(r#"{{"inputs":[{{"data":{data},"datatype":"{datatype}","shape":{shape},"name":"x"}}]}}"#);
        let bytes = |body: &str| read(body).map(|decoded| decoded.request.inputs[0].data().to_vec());
        let without_place = |message: String| message.split_once(": ").map_or(message.clone(), |(_, rest)| rest.to_owned());
        assert_eq!(bytes(&body).map_err(without_place), bytes(&turned).map_err(without_place), "the order of the members does not matter");
        bytes(&body)
    }

    #[test]
    fn the_protocols_own_example_is_read() {
        let decoded = read(
            r#"{"id":"42","parameters":{"a":1,"b":true,"c":"x","d":1.5,"e":18446744073709551615,"f":null},
                "inputs":[{"name":"input0","shape":[2,2],"datatype":"UINT32","data":[1,2,3,4]},
                          {"name":"input1","shape":[3],"datatype":"bool","data":[true,false,1]}],
                "outputs":[{"name":"output0"}],"more":{"is":["ignored"]}}"#,
        )
        .unwrap();
        let request = decoded.request;
        assert_eq!(request.id.as_deref(), Some("42"));
        assert_eq!(request.parameters.len(), 5);
        assert_eq!(request.parameters["e"], Parameter::Uint(u64::MAX));
        assert_eq!(request.inputs[0].shape(), [2, 2]);
        assert_eq!(request.inputs[1].data().as_ref(), [1, 0, 1]);
        assert_eq!(request.outputs[0].name, "output0");
        assert_eq!(decoded.reply, ReplyForm::Text);
    }

    #[test]
    fn data_may_be_nested_or_flat_and_come_before_its_datatype() {
        let flat = data("FP32", "[2,3]", "[1,2,3,4,5,6.5]").unwrap();
        assert_eq!(data("FP32", "[2,3]", "[[1,2,3],[4,5,6.5]]").unwrap(), flat);
        assert_eq!(data("FP32", "[3,2]", "[ [1,2,3] ,\n[4,5,6.5] ]").unwrap(), flat);
        assert_eq!(data("INT8", "[]", "[-7]").unwrap(), [249]);
        assert_eq!(data("INT64", "[0,3]", "[]").unwrap(), [0_u8; 0]);
        assert_eq!(data("BYTES", "[2]", r#"["a","é\n"]"#).unwrap(), b"\x01\0\0\0a\x03\0\0\0\xc3\xa9\n");
    }

    #[test]
    fn a_number_is_exact_or_refused_by_tensor_and_index_and_never_wraps() {
        for (datatype, value, problem) in [
            ("INT8", "300", "`300` does not fit INT8"),
            ("UINT8", "-1", "`-1` does not fit UINT8"),
            ("INT32", "1.5", "`1.5` is not a whole number, as INT32 asks"),
            ("FP64", "1e400", "`1e400` does not fit FP64"),
            ("FP32", "3.5e38", "`3.5e38` does not fit FP32"),
            ("FP32", "NaN", "`NaN` is not a finite JSON number, as FP32 asks"),
            ("FP32", "-Infinity", "`-Infinity` is not a finite JSON number, as FP32 asks"),
            ("FP32", "null", "`null` is not a finite JSON number, as FP32 asks"),
            ("FP32", "\"1\"", "`\"1\"` is not a finite JSON number, as FP32 asks"),
            ("BOOL", "2", "`2` is neither true nor false, and neither 1 nor 0"),
            ("UINT64", "18446744073709551616", "`18446744073709551616` does not fit UINT64"),
            ("BYTES", "1", "`1` is not a string, as BYTES asks"),
        ] {
            let zero = if datatype == "BYTES" { "\"\"" } else { "0" };
            let message = data(datatype, "[2,2]", &format!("[[{zero},{zero}],[{zero},{value}]]")).unwrap_err();
            assert_eq!(message, format!("tensor `x`: element [1][1]: {problem}"));
        }
        assert_eq!(data("UINT64", "[1]", "[18446744073709551615]").unwrap(), u64::MAX.to_le_bytes());
        assert_eq!(data("INT64", "[1]", "[9007199254740993]").unwrap(), 9_007_199_254_740_993_i64.to_le_bytes());
        assert_eq!(data("FP64", "[2]", "[-0.0,5e-324]").unwrap(), [(-0.0_f64).to_le_bytes(), 5e-324_f64.to_le_bytes()].concat());
    }

    #[test]
    fn data_that_does_not_fill_its_shape_is_refused() {
        assert_eq!(data("FP32", "[2]", "[1]").unwrap_err(), "tensor `x`: shape [2] takes 2 elements, found 1");
        assert_eq!(data("FP32", "[2]", "[1,2,3]").unwrap_err(), "tensor `x`: shape [2] takes 2 elements, found 3");
        assert_eq!(data("FP32", "[-1]", "[1]").unwrap_err(), "tensor `x`: dimension 0 is negative: -1");
        assert!(
            data("INT8", "[4611686018427387904,4611686018427387904]", "[1]").unwrap_err().contains("more elements than can be addressed")
        );
        assert_eq!(
            data("FP32", "[4]", "[[1,2],[3]]").unwrap_err(),
            "tensor `x`: element [1]: is not as long or as deep as the ones before it"
        );
        assert!(data("FP32", "[1152921504606846000]", "[1]").unwrap_err().contains("found 1"));
    }

    #[test]
    fn halves_are_refused_in_kserves_words() {
        let message = "Sending FP16 data via JSON is not supported. Please use the binary data format for input x";
        assert_eq!(data("FP16", "[1]", "[1.0]").unwrap_err(), message);
        assert!(data("BF16", "[1]", "[1.0]").is_err());
    }

    #[test]
    fn missing_and_wrong_members_are_named_with_their_path() {
        for (body, message) in [
            ("[]", "the request: expected an object, found an array"),
            ("{}", "inputs: is missing"),
            (r#"{"inputs":{}}"#, "inputs: expected an array, found an object"),
            (r#"{"inputs":[1]}"#, "inputs[0]: expected an object, found a number"),
            (r#"{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}"#, "inputs[0].name: is missing"),
            (r#"{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}"#, "inputs[0].shape: is missing"),
            (r#"{"inputs":[{"name":"x","shape":[1],"data":[1]}]}"#, "inputs[0].datatype: is missing"),
            (r#"{"inputs":[{"name":"x","shape":[1.5]}]}"#, "inputs[0].shape[0]: expected a whole number, found a number"),
            (r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}"#, "'data' field is missing for input 'x' for model 'm'"),
            (r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":1}]}"#, "tensor `x`: `data` must be an array, found a number"),
            (r#"{"id":7,"inputs":[]}"#, "id: expected a string, found a number"),
            (r#"{"inputs":[],"parameters":{"a":[]}}"#, "parameters.a: expected a string, a number or a boolean, found an array"),
            (r#"{"inputs":[],"outputs":[{}]}"#, "outputs[0].name: is missing"),
            (r#"{"inputs":[],"outputs":[{"name":"y"},{"name":"y"}]}"#, "requested output `y` is given twice"),
            ("{\"inputs\":[\n  {\"name\" \"x\"}]}", "malformed JSON at line 2 column 11: expected `:` after the member's name"),
            ("", "malformed JSON at line 1 column 1: expected an object, found the end of the text"),
            (r#"{"inputs":[]} x"#, "malformed JSON at line 1 column 15: expected the end, found more text"),
        ] {
            assert_eq!(read(body).unwrap_err(), message, "{body}");
        }
        let twice = r#"{"name":"x","shape":[1],"datatype":"INT8","data":[1]}"#;
        assert_eq!(read(&format!(r#"{{"inputs":[{twice},{twice}]}}"#)).unwrap_err(), "input `x` is given twice");
        assert!(
            read(r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP8","data":[1]}]}"#)
                .unwrap_err()
                .starts_with("inputs[0].datatype: unknown datatype `FP8`")
        );
    }

    #[test]
    fn a_request_without_inputs_is_read_for_models_that_take_none() {
        assert_eq!(read(r#"{"inputs":[]}"#).unwrap().request.inputs, []);
    }

    #[test]
    fn nesting_and_decoded_size_are_bounded() {
        let deep = format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32","data":{}}}]}}"#, "[".repeat(100_000));
        assert!(read(&deep).unwrap_err().contains("nested deeper than is allowed"));
        let unknown = format!(r#"{{"other":{}}}"#, "{\"a\":".repeat(100_000));
        assert!(read(&unknown).unwrap_err().contains("nested deeper than is allowed"));
        let limits = Limits { decoded_bytes_max: 80, ..Limits::default() };
        let body = |count: usize| {
            let zeros = vec!["0"; count].join(",");
            format!(r#"{{"inputs":[{{"name":"x","shape":[{count}],"datatype":"FP64","data":[{zeros}]}}]}}"#)
        };
        assert!(decode(body(10).as_bytes(), "m", &limits).is_ok());
        let error = decode(body(11).as_bytes(), "m", &limits).unwrap_err();
        assert!(matches!(InferenceError::from(error), InferenceError::TooLarge(_)));
    }

    #[test]
    fn a_list_of_outputs_decides_alone_which_are_binary() {
        let reply = |rest: &str| read(&format!(r#"{{"inputs":[]{rest}}}"#)).unwrap().reply;
        assert_eq!(reply(r#","parameters":{"binary_data_output":true}"#), ReplyForm::Binary);
        assert_eq!(reply(r#","parameters":{"binary_data_output":true},"outputs":[]"#), ReplyForm::Binary);
        assert_eq!(reply(r#","parameters":{"binary_data_output":true},"outputs":[{"name":"y"}]"#), ReplyForm::Text);
        let named = reply(r#","outputs":[{"name":"y","parameters":{"binary_data":true}},{"name":"z","parameters":{"binary_data":false}}]"#);
        assert_eq!(named, ReplyForm::BinaryOnly(vec!["y".to_owned()]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = decode(&body, "m", &Limits::default());
        }

        #[test]
        fn no_damage_to_a_good_body_makes_it_panic(at in 0..120_usize, byte: u8, cut in 0..120_usize) {
            let mut body = br#"{"id":"a","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1.5,-2e3],[0,4]]}],"outputs":[{"name":"y"}]}"#.to_vec();
            let length = body.len();
            body[at % length] = byte;
            let _ = decode(&body, "m", &Limits::default());
            let _ = decode(&body[..cut.min(length)], "m", &Limits::default());
        }
    }
}
