//! The v2 answer over HTTP: JSON written by hand, raw tensors behind it where they were asked for.

use super::json::write;
use super::shared_memory::{SharedPlace, place_of};
use super::{EncodeError, EncodedReply, ReplyForm, ReplyHead};
use crate::inference::InferenceResponse;
use crate::tensor::{DataType, Tensor};
use bytes::Bytes;

/// Bodies up to this size are sent as one piece: a copy is cheaper than a second write.
const JOINED_BYTES_MAX: usize = 16 * 1024;

/// Writes an answer. Members without a value are left out, never `null`: some clients fail on it.
///
/// JSON `data` is flat whatever the shape. An output is raw when `reply` says so.
///
/// # Errors
/// `NoJsonForm` for `FP16` and `BF16`, `NotUtf8` for bytes that are no text, each naming the output.
///
/// Source: Open Inference Protocol v2, "Inference Response JSON Object"; reference 4.3 and 4.4.
pub fn encode(head: &ReplyHead<'_>, response: &InferenceResponse, reply: &ReplyForm) -> Result<EncodedReply, EncodeError> {
    let outputs = &response.outputs;
    let place_of = |output: &Tensor| place_of(head.shared, output.name());
    let is_binary = |output: &Tensor| reply.is_binary(output.name()) && place_of(output).is_none();
    let mut json = Vec::with_capacity(room(head, outputs, reply));
    write_head(&mut json, head);
    for (index, output) in outputs.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_output_head(&mut json, output);
        match place_of(output) {
            Some(place) => write_place(&mut json, place),
            None if is_binary(output) => write_size(&mut json, output),
            None => write_data(&mut json, output)?,
        }
    }
    json.extend_from_slice(b"]}");
    let blobs: Vec<Bytes> = outputs.iter().filter(|output| is_binary(output)).map(|output| output.data().clone()).collect();
    Ok(assemble(json, blobs))
}

fn assemble(mut json: Vec<u8>, blobs: Vec<Bytes>) -> EncodedReply {
    if blobs.is_empty() {
        return EncodedReply { content_type: "application/json", header_length: None, chunks: vec![json.into()] };
    }
    let header_length = Some(json.len());
    let total = json.len() + blobs.iter().map(Bytes::len).sum::<usize>();
    let chunks = if total <= JOINED_BYTES_MAX {
        for blob in blobs {
            json.extend_from_slice(&blob);
        }
        vec![json.into()]
    } else {
        std::iter::once(json.into()).chain(blobs.into_iter().filter(|blob| !blob.is_empty())).collect()
    };
    EncodedReply { content_type: "application/octet-stream", header_length, chunks }
}

fn write_head(json: &mut Vec<u8>, head: &ReplyHead<'_>) {
    json.extend_from_slice(b"{\"model_name\":");
    write::string(json, head.model_name);
    if let Some(version) = head.model_version {
        json.extend_from_slice(b",\"model_version\":");
        write::string(json, version);
    }
    json.extend_from_slice(b",\"id\":");
    write::string(json, head.id);
    json.extend_from_slice(b",\"outputs\":[");
}

fn write_output_head(json: &mut Vec<u8>, output: &Tensor) {
    json.extend_from_slice(b"{\"name\":");
    write::string(json, output.name());
    json.extend_from_slice(b",\"datatype\":\"");
    json.extend_from_slice(output.datatype().name().as_bytes());
    json.extend_from_slice(b"\",\"shape\":[");
    for (index, &dim) in output.shape().iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write::integer(json, dim);
    }
    json.push(b']');
}

/// The rest of an output whose bytes follow the JSON.
fn write_size(json: &mut Vec<u8>, output: &Tensor) {
    json.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
    write::integer(json, output.data().len());
    json.extend_from_slice(b"}}");
}

/// The rest of an output whose bytes were put into shared memory.
fn write_place(json: &mut Vec<u8>, place: &SharedPlace) {
    json.extend_from_slice(b",\"parameters\":{\"shared_memory_region\":");
    write::string(json, &place.region);
    if place.offset > 0 {
        json.extend_from_slice(b",\"shared_memory_offset\":");
        write::integer(json, place.offset);
    }
    json.extend_from_slice(b",\"shared_memory_byte_size\":");
    write::integer(json, place.byte_size);
    json.extend_from_slice(b"}}");
}

/// The rest of an output whose elements stand in the JSON.
fn write_data(json: &mut Vec<u8>, output: &Tensor) -> Result<(), EncodeError> {
    refuse_halves(output)?;
    json.extend_from_slice(b",\"data\":");
    write::flat(json, output)?;
    json.push(b'}');
    Ok(())
}

fn refuse_halves(output: &Tensor) -> Result<(), EncodeError> {
    match output.datatype() {
        DataType::Fp16 | DataType::Bf16 => {
            Err(EncodeError::NoJsonForm { datatype: output.datatype().name(), output: output.name().as_ref().to_owned() })
        }
        _ => Ok(()),
    }
}

/// About how many bytes the JSON will take, so that writing seldom moves it.
fn room(head: &ReplyHead<'_>, outputs: &[Tensor], reply: &ReplyForm) -> usize {
    let is_text = |output: &&Tensor| !reply.is_binary(output.name()) && place_of(head.shared, output.name()).is_none();
    let texts: usize = outputs.iter().filter(is_text).map(text_bytes).sum();
    128 + head.model_name.len() + head.id.len() + outputs.len() * 128 + texts
}

/// About how many bytes the elements take as text, commas included.
pub(super) fn text_bytes(tensor: &Tensor) -> usize {
    let each = match tensor.datatype() {
        DataType::Bytes => return tensor.data().len(),
        DataType::Bool => 6,
        DataType::Uint8 | DataType::Int8 => 4,
        DataType::Uint16 | DataType::Int16 | DataType::Fp16 | DataType::Bf16 => 7,
        DataType::Uint32 | DataType::Int32 | DataType::Fp32 => 13,
        DataType::Uint64 | DataType::Int64 | DataType::Fp64 => 20,
    };
    tensor.len().saturating_mul(each)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Limits, sample, v2_binary, v2_json};
    use proptest::prelude::*;

    fn response(outputs: Vec<Tensor>) -> InferenceResponse {
        InferenceResponse { outputs, ..InferenceResponse::default() }
    }

    fn head() -> ReplyHead<'static> {
        ReplyHead { model_name: "m", id: "7", ..ReplyHead::default() }
    }

    fn written(outputs: Vec<Tensor>, reply: &ReplyForm) -> (EncodedReply, Vec<u8>) {
        let encoded = encode(&head(), &response(outputs), reply).unwrap();
        let body = encoded.chunks.concat();
        (encoded, body)
    }

    #[test]
    fn members_without_a_value_are_left_out_and_data_is_flat() {
        let outputs = vec![Tensor::new("y", DataType::Int8, vec![2, 2], Bytes::from_static(&[1, 2, 3, 255])).unwrap()];
        let (encoded, body) = written(outputs, &ReplyForm::Text);
        let expected = r#"{"model_name":"m","id":"7","outputs":[{"name":"y","datatype":"INT8","shape":[2,2],"data":[1,2,3,-1]}]}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        assert_eq!((encoded.content_type, encoded.header_length), ("application/json", None));
    }

    #[test]
    fn raw_outputs_follow_the_json_in_order_without_being_joined_when_large() {
        let blob = Bytes::from(vec![7; 100_000]);
        let outputs = vec![
            Tensor::new("a", DataType::Uint8, vec![100_000], blob.clone()).unwrap(),
            Tensor::new("b", DataType::Uint8, vec![1], Bytes::from_static(&[1])).unwrap(),
        ];
        let (encoded, body) = written(outputs.clone(), &ReplyForm::BinaryOnly(vec!["a".to_owned()]));
        assert_eq!(encoded.content_type, "application/octet-stream");
        assert_eq!(encoded.chunks[1].as_ptr(), blob.as_ptr());
        let json = std::str::from_utf8(&body[..encoded.header_length.unwrap()]).unwrap();
        assert!(json.contains(r#"{"name":"a","datatype":"UINT8","shape":[100000],"parameters":{"binary_data_size":100000}}"#));
        assert!(json.contains(r#"{"name":"b","datatype":"UINT8","shape":[1],"data":[1]}"#));
        assert_eq!(encoded.len(), body.len());
    }

    #[test]
    fn halves_have_no_json_form() {
        let outputs = vec![Tensor::new("y", DataType::Fp16, vec![1], Bytes::from_static(&[0, 0])).unwrap()];
        let error = encode(&head(), &response(outputs.clone()), &ReplyForm::Text).unwrap_err();
        assert_eq!(error.to_string(), "Sending FP16 data via JSON is not supported. Please use the binary data format for output y");
        assert!(encode(&head(), &response(outputs), &ReplyForm::Binary).is_ok());
    }

    /// Turns an answer into a request, which has the same tensors under another key.
    fn as_request(json: &[u8]) -> Vec<u8> {
        String::from_utf8(json.to_vec()).unwrap().replace("\"outputs\":", "\"inputs\":").into_bytes()
    }

    proptest! {
        #[test]
        fn every_datatype_survives_json(tensor in sample::tensor()) {
            prop_assume!(!matches!(tensor.datatype(), DataType::Fp16 | DataType::Bf16));
            let (_, body) = written(vec![tensor.clone()], &ReplyForm::Text);
            let read = v2_json::decode(&as_request(&body), "m", &Limits::default()).unwrap();
            prop_assert_eq!(read.request.inputs, vec![tensor]);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
        }

        #[test]
        fn every_datatype_survives_the_binary_form(a in sample::tensor(), b in sample::tensor()) {
            let outputs = vec![a.renamed("a"), b.renamed("b")];
            let (encoded, body) = written(outputs.clone(), &ReplyForm::Binary);
            let length = encoded.header_length.unwrap();
            let mut request = as_request(&body[..length]);
            let length = request.len();
            request.extend_from_slice(&body[encoded.header_length.unwrap()..]);
            let read = v2_binary::decode(&request.into(), Some(&length.to_string()), "m", &Limits::default()).unwrap();
            prop_assert_eq!(read.request.inputs, outputs);
        }
    }
}
