//! The `generation` part of the daemon's settings.

use serde::{Deserialize, Serialize};

/// Bounds of each model that writes text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct GenerationConfig {
    /// Bytes of keys and values that one model remembers. Taken from the system only as they are used; what no running
    /// answer needs any more is kept for prompts that begin alike.
    pub kv_bytes_max: u64,
    /// Answers that are written at once; each choice of a request is one.
    pub running_max: usize,
    /// Answers that may wait beside them; one more is refused.
    pub waiting_max: usize,
    /// Tokens of one step: those of running answers first, the rest reads prompts. More read prompts faster, fewer hold up
    /// running answers less.
    pub step_tokens_max: usize,
    /// Tokens of prompt and answer together; 0 is what the model was made for.
    pub context_tokens_max: usize,
    /// Choices of one request.
    pub choices_max: usize,
    /// Stop texts of one request ...
    pub stop_texts_max: usize,
    /// ... and bytes of each.
    pub stop_text_bytes_max: usize,
    /// Tokens of one request that have a bias.
    pub logit_bias_max: usize,
    /// Likeliest tokens that are told beside each token.
    pub logprobs_max: usize,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            kv_bytes_max: 1 << 30,
            running_max: 64,
            waiting_max: 256,
            step_tokens_max: 256,
            context_tokens_max: 0,
            choices_max: 16,
            stop_texts_max: 16,
            stop_text_bytes_max: 1024,
            logit_bias_max: 1024,
            logprobs_max: 20,
        }
    }
}
