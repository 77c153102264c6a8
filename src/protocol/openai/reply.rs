//! The words of OpenAI's answers: whole ones, and the messages of a stream. What is not set is left out.

use super::texts::now_s;
use crate::engine::generation::{FinishReason, Logprobs, TextTokenizer, TokenLogprob};
use crate::protocol::generating::word_of;
use serde::Serialize;
use serde_json::{Map, Value};

/// What an answer and all messages of a stream begin with.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: String,
    /// The revision that answers.
    pub(super) system_fingerprint: String,
}

impl Head {
    pub(super) fn new(prefix: &str, object: &'static str, model: &str, revision: &str) -> Self {
        let created = now_s();
        let id = format!("{prefix}-{}", uuid::Uuid::new_v4().simple());
        Self { id, object, created, model: model.to_owned(), system_fingerprint: revision.to_owned() }
    }
}

/// An answer, or a message of a stream.
#[derive(Debug, Serialize)]
pub(super) struct Reply<'a, C> {
    #[serde(flatten)]
    pub(super) head: &'a Head,
    pub(super) choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<UsageReply>,
}

/// Tokens that a call took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct UsageReply {
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) total_tokens: usize,
    pub(super) prompt_tokens_details: PromptDetails,
}

/// Tokens of prompts that were at hand already.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct PromptDetails {
    pub(super) cached_tokens: usize,
}

impl UsageReply {
    pub(super) const fn prompt(&mut self, tokens: usize, cached: usize) {
        self.prompt_tokens += tokens;
        self.total_tokens += tokens;
        self.prompt_tokens_details.cached_tokens += cached;
    }

    pub(super) const fn answer(&mut self, tokens: usize) {
        self.completion_tokens += tokens;
        self.total_tokens += tokens;
    }
}

/// Why an answer ended, and by which text or token, where the request named it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct End {
    pub(super) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stop_reason: Option<Value>,
}

impl End {
    pub(super) fn of(reason: &FinishReason) -> Self {
        let stop_reason = match reason {
            FinishReason::StopToken(id) => Some(Value::from(*id)),
            FinishReason::StopString(text) => Some(Value::from(text.as_str())),
            _ => None,
        };
        Self { finish_reason: Some(word_of(reason)), stop_reason }
    }
}

/// Log-probabilities as chat completions tell them.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct ChatLogprobs {
    pub(super) content: Vec<ChatToken>,
}

/// A token of a chat answer.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ChatToken {
    #[serde(flatten)]
    token: Alternative,
    top_logprobs: Vec<Alternative>,
}

#[derive(Debug, Clone, Serialize)]
struct Alternative {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// JSON has no infinity; OpenAI writes the least that anybody cares for.
const LEAST: f32 = -9999.0;

fn alternative(tokenizer: &TextTokenizer, of: TokenLogprob) -> Alternative {
    Alternative { token: tokenizer.decode(&[of.id], false), logprob: of.logprob.max(LEAST), bytes: tokenizer.bytes_of(of.id).to_vec() }
}

impl ChatToken {
    pub(super) fn of(tokenizer: &TextTokenizer, logprobs: &Logprobs) -> Self {
        let top_logprobs = logprobs.top.iter().map(|top| alternative(tokenizer, *top)).collect();
        Self { token: alternative(tokenizer, logprobs.chosen), top_logprobs }
    }
}

/// Log-probabilities as completions tell them.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct CompletionLogprobs {
    pub(super) text_offset: Vec<usize>,
    pub(super) token_logprobs: Vec<Option<f32>>,
    pub(super) tokens: Vec<String>,
    pub(super) top_logprobs: Vec<Option<Map<String, Value>>>,
}

impl CompletionLogprobs {
    /// A token that begins `offset` characters from the beginning; the characters it has itself.
    pub(super) fn push(&mut self, tokenizer: &TextTokenizer, id: u32, logprobs: Option<&Logprobs>, offset: usize) -> usize {
        let text = tokenizer.decode(&[id], false);
        let length = text.chars().count();
        self.text_offset.push(offset);
        self.tokens.push(text);
        self.token_logprobs.push(logprobs.map(|logprobs| logprobs.chosen.logprob.max(LEAST)));
        let top = |of: &TokenLogprob| (tokenizer.decode(&[of.id], false), Value::from(of.logprob.max(LEAST)));
        self.top_logprobs.push(logprobs.map(|logprobs| logprobs.top.iter().map(top).collect()));
        length
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
