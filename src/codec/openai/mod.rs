//! OpenAI's forms of what encoders answer: texts to tensors, vectors and scores back.

pub mod embeddings;
pub mod rerank;
pub mod truncation;

use crate::codec::fields::Mistake;
use crate::tensor::TensorError;
use serde_json::Value;

/// How much one request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLimits {
    /// Texts of one request.
    pub texts_max: usize,
    /// Bytes of all its tensors.
    pub decoded_bytes_max: usize,
}

/// A list of at most so many values.
fn bounded<'v>(name: &str, values: &'v [Value], limits: &TextLimits) -> Result<&'v [Value], Mistake> {
    if values.len() > limits.texts_max {
        return Err(Mistake::new(name, format!("at most {} are taken, found {}", limits.texts_max, values.len())));
    }
    Ok(values)
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands errors over")]
fn too_much(error: TensorError) -> Mistake {
    Mistake::new("", error.to_string())
}
