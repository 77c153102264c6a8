//! The wire forms of an inference request and its answer: bytes in, tensors out, and back.
//!
//! Pure functions, shared by the doors and by everything that calls another server. Each wire form is a
//! file of its own; all give a [`Decoded`] request, which remembers in which form its answer is wanted,
//! and all write an [`InferenceResponse`](crate::inference::InferenceResponse).
//! Numbers go straight from text into the declared datatype, binary tensors stay slices of the body.

#[rustfmt::skip]
#[expect(missing_docs, clippy::pedantic, reason = "generated from open_inference.proto and compared by tests/it/generated_code.rs")]
pub mod open_inference;

pub mod chat;
pub mod fields;
mod grpc_contents;
mod json;
pub mod openai;
#[cfg(test)]
mod sample;
pub mod shared_memory;
pub mod v1;
mod v1_rows;
pub mod v2_binary;
mod v2_envelope;
pub mod v2_grpc;
pub mod v2_json;
pub mod v2_reply;

use crate::inference::{InferenceError, InferenceRequest, Parameters};
use crate::tensor::TensorError;
use bytes::Bytes;
use shared_memory::{Shared, SharedOutput};

/// The descriptors of [`open_inference`], for the gRPC reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!("open_inference_descriptor.bin");

/// How much a request may ask for before it is refused.
///
/// The size of the body itself is bounded by the door, before a codec sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How deep arrays and objects may nest in a JSON body.
    pub json_depth_max: usize,
    /// How many inputs a request may have, and how many outputs it may ask for.
    pub tensors_max: usize,
    /// How many bytes all inputs together may take once decoded. Bounds what `[0,0,…]` grows to.
    pub decoded_bytes_max: usize,
    /// How many dimensions a tensor may have.
    pub rank_max: usize,
    /// How many parameters a request, a tensor or an output may have.
    pub parameters_max: usize,
}

impl Default for Limits {
    /// Far above what models take, far below what hurts: 64 deep, 1024 tensors, 256 MiB, rank 32, 256 parameters.
    fn default() -> Self {
        Self { json_depth_max: 64, tensors_max: 1024, decoded_bytes_max: 256 << 20, rank_max: 32, parameters_max: 256 }
    }
}

/// A request, and in which form its answer is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The request.
    pub request: InferenceRequest,
    /// The form of the answer.
    pub reply: ReplyForm,
    /// The tensors that do not travel; its inputs are not among those of the request yet.
    pub shared: Shared,
}

/// In which form the tensors of an answer travel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReplyForm {
    /// All as text: JSON numbers and strings, or typed contents on gRPC.
    #[default]
    Text,
    /// All as raw bytes.
    Binary,
    /// The named ones as raw bytes, the others as JSON. HTTP only.
    BinaryOnly(Vec<String>),
}

impl ReplyForm {
    /// Whether the output of that name travels as raw bytes.
    #[must_use]
    pub fn is_binary(&self, output: &str) -> bool {
        match self {
            Self::Text => false,
            Self::Binary => true,
            Self::BinaryOnly(names) => names.iter().any(|name| name == output),
        }
    }
}

/// What stands around the tensors of a v2 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplyHead<'a> {
    /// The name the model was called by.
    pub model_name: &'a str,
    /// The version that answered; left out when the model has none.
    pub model_version: Option<&'a str>,
    /// The caller's id, or the one made for it.
    pub id: &'a str,
    /// The outputs that were put into shared memory; they are described and do not travel.
    pub shared: &'a [SharedOutput],
}

/// An answer's body, ready for a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedReply {
    /// `application/json`, or `application/octet-stream` when raw bytes follow the JSON.
    pub content_type: &'static str,
    /// Bytes of the JSON part, for the `Inference-Header-Content-Length` header; `None` when all is JSON.
    pub header_length: Option<usize>,
    /// The body in order; raw tensors are not joined, so nothing is copied.
    pub chunks: Vec<Bytes>,
}

impl EncodedReply {
    /// Bytes of the whole body.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// Whether the body has no bytes; it never is, an answer has at least its braces.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why bytes are not an inference request. Each message says where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or nested too deep. Lines and columns count from 1, columns in bytes.
    #[error("malformed JSON at line {line} column {column}: {problem}")]
    Malformed {
        /// The line.
        line: usize,
        /// The byte in the line.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A member that is missing, or holds something else than it should.
    #[error("{path}: {problem}")]
    Member {
        /// Where, e.g. `inputs[0].shape`.
        path: String,
        /// What is wrong there.
        problem: String,
    },
    /// One element of a tensor.
    #[error("tensor `{tensor}`: element {}: {problem}", IndexPath(.index))]
    Element {
        /// The tensor.
        tensor: String,
        /// Its place in the nested arrays as they were sent, from 0.
        index: Vec<usize>,
        /// What is wrong with it.
        problem: String,
    },
    /// Data, datatype and shape do not fit together.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Something the protocol rules out, in KServe's words where KServe has some.
    #[error("{0}")]
    Refused(String),
    /// More than [`Limits`] allow.
    #[error("{0}")]
    TooLarge(String),
}

impl From<DecodeError> for InferenceError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooLarge(message) => Self::TooLarge(message),
            other => Self::InvalidInput(other.to_string()),
        }
    }
}

/// Why an answer cannot travel in the form that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// `FP16` and `BF16` have no JSON form.
    #[error("Sending {datatype} data via JSON is not supported. Please use the binary data format for output {output}")]
    NoJsonForm {
        /// The datatype.
        datatype: &'static str,
        /// The output.
        output: String,
    },
    /// A `BYTES` element that is no text.
    #[error("Failed to encode element {index} of output {output} using UTF-8. Please use the binary data format for output {output}")]
    NotUtf8 {
        /// The output.
        output: String,
        /// Which element, from 0.
        index: usize,
    },
}

impl From<EncodeError> for InferenceError {
    /// The caller can mend it by asking for another form.
    fn from(error: EncodeError) -> Self {
        Self::InvalidInput(error.to_string())
    }
}

/// Refuses a name that comes twice; `what` is `input` or `requested output`.
/// The beginning of parameters that Triton keeps for itself.
const RESERVED: &str = "triton_";
/// The one of them that its clients may send: whether a stream ends with an empty answer.
const ENDS_EMPTY: &str = "triton_enable_empty_final_response";

/// Refuses parameters whose names are the server's own: whoever sends one means something that would not happen.
///
/// Source: Triton's parameters extension, "reserved".
fn check_reserved(parameters: &Parameters) -> Result<(), DecodeError> {
    match parameters.keys().find(|name| name.starts_with(RESERVED) && *name != ENDS_EMPTY) {
        Some(name) => Err(DecodeError::Refused(format!("parameter `{name}` is reserved for the server"))),
        None => Ok(()),
    }
}

fn check_unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), DecodeError> {
    if names.size_hint().1.is_some_and(|most| most < 2) {
        return Ok(());
    }
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(DecodeError::Refused(format!("{what} `{name}` is given twice")));
        }
    }
    Ok(())
}

/// Prints `[0][2]`; `[]` for a value that is not in an array.
struct IndexPath<'a>(&'a [usize]);

impl std::fmt::Display for IndexPath<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [] => f.write_str("[]"),
            path => path.iter().try_for_each(|index| write!(f, "[{index}]")),
        }
    }
}
