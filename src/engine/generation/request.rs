//! What a generation is asked for: a prompt, how tokens are chosen, and when to end.

use crate::inference::Priority;
use std::fmt::Debug;
use std::time::Instant;

/// One prompt and all that decides how it is continued.
#[derive(Debug)]
pub struct GenerateRequest {
    /// Token ids; at least one, fewer than the context holds.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Answers to the same prompt, each with its own random numbers; at least one.
    pub choices: usize,
    /// Tokens of one answer at most; nothing: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Texts that end an answer; the text itself is not part of it.
    pub stop: Vec<String>,
    /// Tokens that end an answer beside the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Whether the text that ended the answer is part of it.
    pub include_stop: bool,
    /// Goes on after the model's own ends of text, to `max_tokens`.
    pub ignore_eos: bool,
    /// Leaves tokens such as `<|im_end|>` out of the text.
    pub skip_special_tokens: bool,
    /// Tells the log-probability of each token, and those of so many most likely ones.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt, in [`super::Event::Prompt`].
    pub prompt_logprobs: Option<usize>,
    /// Which tokens may come next, e.g. by a grammar.
    pub mask: Option<Box<dyn TokenMask>>,
    /// When nobody wants the answer any more.
    pub deadline: Option<Instant>,
    /// Who goes first where requests wait.
    pub priority: Priority,
}

impl Default for GenerateRequest {
    fn default() -> Self {
        Self {
            prompt: Vec::new(),
            sampling: Sampling::default(),
            choices: 1,
            max_tokens: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            include_stop: false,
            ignore_eos: false,
            skip_special_tokens: true,
            logprobs: None,
            prompt_logprobs: None,
            mask: None,
            deadline: None,
            priority: Priority::default(),
        }
    }
}

/// How the next token is chosen from the model's logits. Names and meanings are vLLM's and OpenAI's.
///
/// The order: grammar and `logit_bias`, penalties, temperature, `top_k`, `top_p`, `min_p`, then the draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the most likely tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps so many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Drops tokens less likely than this part of the most likely one's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit once for each time it stands in the answer.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit once it stands in the answer.
    pub presence_penalty: f32,
    /// The same seed gives the same answer, whatever runs beside it; nothing draws one.
    pub seed: Option<u64>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }
}

impl Sampling {
    /// Always the most likely token.
    #[must_use]
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }
}

/// Decides which tokens may come next in one answer. Owned by that answer and called on the model's own thread, in turns:
/// `allowed`, then `accept` with the token that was drawn.
pub trait TokenMask: Send + Debug {
    /// The tokens that may come now.
    ///
    /// # Errors
    /// A sentence; the answer ends with it.
    fn allowed(&mut self) -> Result<Allowed<'_>, String>;

    /// A token was drawn.
    ///
    /// # Errors
    /// A sentence; the answer ends with it.
    fn accept(&mut self, token: u32) -> Result<(), String>;

    /// A copy at the same place, for one more choice of the same request.
    fn fork(&self) -> Box<dyn TokenMask>;
}

/// Tokens that may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed<'a> {
    /// All of them.
    Any,
    /// Those whose bit is set: token `t` is bit `t % 32` of word `t / 32`. Missing words forbid.
    Only(&'a [u32]),
    /// None: the answer is complete.
    Ended,
}
