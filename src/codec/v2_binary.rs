//! The v2 request body with raw tensors behind the JSON: they are taken as slices of the body, not copied.

use super::{DecodeError, Decoded, Limits, v2_envelope};
use bytes::Bytes;

/// Reads a request whose body is JSON of the length that the `Inference-Header-Content-Length` header
/// tells, then the raw tensors of the inputs that carry `binary_data_size`, in order.
///
/// `header_length` is the header's value as it was sent. Inputs with JSON `data` may stand among the others;
/// an input with both uses its `data` and takes no bytes.
///
/// # Errors
/// [`DecodeError`]: the header missing or no length inside the body, bytes too few or left over, and all
/// that [`super::v2_json::decode`] refuses.
///
/// Source: reference 4.4; Triton's binary tensor data extension.
pub fn decode(body: &Bytes, header_length: Option<&str>, model: &str, limits: &Limits) -> Result<Decoded, DecodeError> {
    let header_length = header_length.ok_or_else(|| {
        DecodeError::Refused("received byte inputs, but the'inference-header-content-length' header is missing.".to_owned())
    })?;
    let length = json_length(header_length, body.len())?;
    let mut blobs = Blobs { rest: Some(body.slice(length..)) };
    let decoded = v2_envelope::read(&body[..length], &mut blobs, model, limits)?;
    blobs.finish()?;
    Ok(decoded)
}

fn json_length(header: &str, body_length: usize) -> Result<usize, DecodeError> {
    let digits = header.trim();
    let length = if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None };
    let shown: String = digits.chars().take(32).collect();
    match length {
        Some(length) if length <= body_length => Ok(length),
        Some(_) => {
            Err(DecodeError::Refused(format!("Inference-Header-Content-Length: {shown} is more than the body has: {body_length} bytes")))
        }
        None => Err(DecodeError::Refused(format!("Inference-Header-Content-Length: expected a number of bytes, found `{shown}`"))),
    }
}

/// The raw bytes behind the JSON, as far as no input took them yet.
#[derive(Debug)]
pub(super) struct Blobs {
    rest: Option<Bytes>,
}

impl Blobs {
    /// For a body that is JSON alone.
    pub(super) const fn none() -> Self {
        Self { rest: None }
    }

    /// Whether the body may have raw bytes at all.
    pub(super) const fn are_there(&self) -> bool {
        self.rest.is_some()
    }

    /// Takes the next `size` bytes for an input.
    pub(super) fn take(&mut self, input: &str, size: usize) -> Result<Bytes, DecodeError> {
        let rest = self.rest.get_or_insert_default();
        if size > rest.len() {
            let left = rest.len();
            return Err(DecodeError::Refused(format!(
                "input `{input}`: `binary_data_size` is {size}, but only {left} bytes are left in the body"
            )));
        }
        Ok(rest.split_to(size))
    }

    fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.as_ref().map_or(0, Bytes::len) {
            0 => Ok(()),
            left => Err(DecodeError::Refused(format!("{left} bytes are left in the body behind the last input"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;
    use proptest::prelude::*;

    fn read(json: &str, blobs: &[u8]) -> Result<Decoded, String> {
        read_as(json, blobs, &json.len().to_string())
    }

    fn read_as(json: &str, blobs: &[u8], header: &str) -> Result<Decoded, String> {
        let body = Bytes::from([json.as_bytes(), blobs].concat());
        decode(&body, Some(header), "m", &Limits::default()).map_err(|error| error.to_string())
    }

    const TWO: &str = r#"{"inputs":[{"name":"a","shape":[2],"datatype":"FP16","parameters":{"binary_data_size":4}},{"name":"j","shape":[1],"datatype":"INT8","data":[5]},{"name":"b","shape":[3],"datatype":"BOOL","parameters":{"binary_data_size":3}}]}"#;

    #[test]
    fn raw_inputs_are_slices_of_the_body_and_json_inputs_may_stand_among_them() {
        let body = Bytes::from([TWO.as_bytes(), &[1, 2, 3, 4, 1, 0, 1]].concat());
        let decoded = decode(&body, Some(&TWO.len().to_string()), "m", &Limits::default()).unwrap();
        let [a, j, b] = &decoded.request.inputs[..] else { panic!("three inputs") };
        assert_eq!((a.datatype(), a.data().as_ref()), (DataType::Fp16, &[1, 2, 3, 4][..]));
        assert_eq!(a.data().as_ptr(), body[TWO.len()..].as_ptr());
        assert_eq!(j.data().as_ref(), [5]);
        assert_eq!(b.data().as_ref(), [1, 0, 1]);
    }

    #[test]
    fn one_byte_short_or_long_is_refused() {
        let short = read(TWO, &[1, 2, 3, 4, 1, 0]).unwrap_err();
        assert_eq!(short, "input `b`: `binary_data_size` is 3, but only 2 bytes are left in the body");
        assert_eq!(read(TWO, &[1, 2, 3, 4, 1, 0, 1, 9]).unwrap_err(), "1 bytes are left in the body behind the last input");
        let wrong = TWO.replace("\"binary_data_size\":4", "\"binary_data_size\":3");
        assert_eq!(read(&wrong, &[1, 2, 3, 1, 0, 1]).unwrap_err(), "tensor `a`: shape [2] of FP16 takes 4 bytes, found 3");
    }

    #[test]
    fn a_header_that_is_no_length_inside_the_body_is_refused() {
        for header in ["-1", "", "abc", "18446744073709551616", "99999999999999999999999999999999", "1e3", "+5", "10000"] {
            let message = read_as("{\"inputs\":[]}", &[], header).unwrap_err();
            assert!(message.starts_with("Inference-Header-Content-Length: "), "{message}");
        }
        let error = decode(&Bytes::from_static(b"{}"), None, "m", &Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), "received byte inputs, but the'inference-header-content-length' header is missing.");
        assert!(read_as("{\"inputs\":[]}", &[], "0").unwrap_err().starts_with("malformed JSON"));
    }

    #[test]
    fn an_input_with_data_and_a_size_uses_its_data_and_takes_no_bytes() {
        let json = r#"{"inputs":[{"name":"a","shape":[1],"datatype":"INT8","parameters":{"binary_data_size":1},"data":[7]},{"name":"b","shape":[1],"datatype":"INT8","parameters":{"binary_data_size":1}}]}"#;
        let inputs = read(json, &[9]).unwrap().request.inputs;
        assert_eq!((inputs[0].data().as_ref(), inputs[1].data().as_ref()), (&[7][..], &[9][..]));
    }

    #[test]
    fn an_input_with_neither_data_nor_size_is_named() {
        let json = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8"}]}"#;
        assert_eq!(read(json, &[]).unwrap_err(), "'data' field is missing for input 'x' for model 'm'");
        let negative = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","parameters":{"binary_data_size":-1}}]}"#;
        assert_eq!(read(negative, &[]).unwrap_err(), "inputs[0].parameters.binary_data_size: expected a number of bytes, from 0 up");
    }

    #[test]
    fn the_framing_of_byte_strings_is_checked() {
        let json = |size: usize| {
            format!(r#"{{"inputs":[{{"name":"s","shape":[1],"datatype":"BYTES","parameters":{{"binary_data_size":{size}}}}}]}}"#)
        };
        assert!(read(&json(7), b"\x03\0\0\0a\xffb").is_ok());
        assert_eq!(read(&json(6), b"\x03\0\0\0ab").unwrap_err(), "tensor `s`: BYTES element 0 runs past the end of the data");
    }

    proptest! {
        #[test]
        fn no_bytes_and_no_header_make_it_panic(body: Vec<u8>, header in "[0-9]{0,3}|\\PC{0,8}") {
            let _ = decode(&Bytes::from(body), Some(&header), "m", &Limits::default());
        }
    }
}
