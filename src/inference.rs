//! A request for inference, its answer, and the errors a caller can do something about.

use crate::tensor::{DataType, Tensor, TensorError};
use indexmap::IndexMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A parameter value of the Open Inference Protocol.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above what fits `Int`.
    Uint(u64),
    /// A number with a fraction.
    Double(f64),
    /// Text.
    String(String),
}

/// Named parameters in the order they were given.
pub type Parameters = IndexMap<String, Parameter>;

/// One output the caller asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestedOutput {
    /// The output tensor's name.
    pub name: String,
    /// Parameters of this output; `binary_data` is read by the codec.
    pub parameters: Parameters,
}

/// What a model is asked, free of any wire form.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InferenceRequest {
    /// The caller's id, echoed in the answer.
    pub id: Option<String>,
    /// Request-level parameters.
    pub parameters: Parameters,
    /// The inputs, in the caller's order; names are unique.
    pub inputs: Vec<Tensor>,
    /// Which outputs are wanted, in that order; empty means all.
    pub outputs: Vec<RequestedOutput>,
    /// Who goes first where requests wait.
    pub priority: Priority,
}

/// Who goes first where requests of one model wait; those of one priority go in the order they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Before all others.
    High,
    /// What a request has that says nothing.
    #[default]
    Normal,
    /// Behind all others, and the first to be refused where too many wait.
    Low,
}

impl Priority {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// Its place from the front, from 0.
    #[must_use]
    pub const fn lane(self) -> usize {
        self as usize
    }

    /// Reads `high`, `normal` or `low`, or Triton's numbers: 0 for the default, else the lower the earlier.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "high" | "1" => Some(Self::High),
            "normal" | "0" | "2" => Some(Self::Normal),
            "low" => Some(Self::Low),
            number => number.parse::<u64>().ok().map(|_| Self::Low),
        }
    }
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InferenceResponse {
    /// Output tensors: the wanted ones in the order asked for, else all in the model's order.
    pub outputs: Vec<Tensor>,
    /// Where the time went.
    pub timing: Timing,
    /// The revision that answered, e.g. `iris-predictor-00003`.
    pub revision: Arc<str>,
    /// The batch it ran in, where requests are joined.
    pub batch_id: Option<Uuid>,
}

/// Where the time of one request went, as far as the pool knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// Waiting for a free worker.
    pub queue: Duration,
    /// Gathering with other requests and cutting the result.
    pub batch: Duration,
    /// In the engine.
    pub run: Duration,
}

/// One input or output of a model, as the model declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The tensor's name.
    pub name: Arc<str>,
    /// Its element type.
    pub datatype: DataType,
    /// Its dimensions; -1 where any size goes.
    pub shape: Vec<i64>,
    /// Whether a request may leave an input out (a graph input with a default value); an output that is optional is given
    /// only to those who ask for it.
    pub optional: bool,
}

/// What a model says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelMetadata {
    /// The Open Inference Protocol's platform name, e.g. `onnxruntime_onnx`.
    pub platform: String,
    /// Versions in the model's folder, as Triton's layout names them; empty for a bare file.
    pub versions: Vec<String>,
    /// Inputs in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// Outputs the protocol cannot carry (sequences, maps), left out, each with its type.
    pub dropped_outputs: Vec<String>,
    /// Whether a lone input may have any name, as KServe's server takes the first input whatever it is called.
    pub any_input_name: bool,
    /// Rows of several requests that are best joined, where the service does not say; 0: none.
    pub rows_joined: usize,
    /// What it can be asked for besides inference.
    pub abilities: Vec<Ability>,
}

/// What a model can be asked for over OpenAI's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// Vectors of texts: takes `text`, or `token_ids`; gives its first output, and `token_count` to those who ask.
    Embeddings,
    /// Scores of `text` (the query) and `text_pair` (the document); gives its first output, and `token_count`.
    Rerank,
    /// Text that goes on.
    Completions,
    /// The next turn of a conversation.
    ChatCompletions,
}

/// Why a request got no answer, sorted by what its sender can do about it.
///
/// Source: reference 4.2 and 4.5; the doors turn each kind into a status of their own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// The request is wrong; sending it again will not help. 400, `INVALID_ARGUMENT`.
    #[error("{0}")]
    InvalidInput(String),
    /// No such model here. 404, `NOT_FOUND`.
    #[error("Model with name {0} does not exist.")]
    ModelNotFound(String),
    /// The model is known but does not serve yet, or no longer. 503, `UNAVAILABLE`.
    #[error("Model with name {name} is not ready.{}", detail(.reason))]
    ModelNotReady {
        /// The model.
        name: String,
        /// Why, in a sentence; empty when not known.
        reason: String,
    },
    /// Something the protocol knows and this server does not do. 501, `UNIMPLEMENTED`.
    #[error("{0}")]
    NotImplemented(String),
    /// The queue is full. 503 with `Retry-After`, `RESOURCE_EXHAUSTED`.
    #[error("Model with name {model} is overloaded: pending request queue full, {queued} requests wait already.")]
    Overloaded {
        /// The model.
        model: String,
        /// How many wait.
        queued: usize,
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// The deadline passed before the answer was there. 504, `DEADLINE_EXCEEDED`.
    #[error("Model with name {model} did not answer within {} s.", .timeout.as_secs_f64())]
    DeadlineExceeded {
        /// The model.
        model: String,
        /// The time that was allowed.
        timeout: Duration,
    },
    /// A request or a decoded request larger than the bound. 413, `RESOURCE_EXHAUSTED`.
    #[error("{0}")]
    TooLarge(String),
    /// The engine failed on a request it accepted. 500, `INTERNAL`.
    #[error("{0}")]
    Engine(String),
    /// A mistake of ours. 500, `INTERNAL`.
    #[error("{0}")]
    Internal(String),
}

impl InferenceError {
    /// The HTTP status that stands for it.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::InvalidInput(_) => 400,
            Self::ModelNotFound(_) => 404,
            Self::TooLarge(_) => 413,
            Self::Engine(_) | Self::Internal(_) => 500,
            Self::NotImplemented(_) => 501,
            Self::ModelNotReady { .. } | Self::Overloaded { .. } => 503,
            Self::DeadlineExceeded { .. } => 504,
        }
    }
}

fn detail(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" {reason}") }
}

impl From<TensorError> for InferenceError {
    fn from(error: TensorError) -> Self {
        Self::InvalidInput(error.to_string())
    }
}
