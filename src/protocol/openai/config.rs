//! What the OpenAI endpoints take in: every bound with its unit and its reason.

use crate::codec::chat::TemplateLimits;
use crate::engine::generation::GrammarLimits;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Rules and bounds of the OpenAI endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The path in front of `/v1/chat/completions` and the others; what does not collide with KServe's v1 is answered
    /// without it as well. Empty: only without it.
    pub route_prefix: String,
    /// Bytes of one request's body.
    pub body_bytes_max: usize,
    /// Answers of one request: `n` times the prompts.
    pub choices_max: usize,
    /// Texts that end an answer.
    pub stop_texts_max: usize,
    /// Alternatives of a token whose log-probabilities are told.
    pub logprobs_max: usize,
    /// Texts or documents of one request to an encoder.
    pub texts_max: usize,
    /// Messages of one conversation.
    pub messages_max: usize,
    /// Tools of one request.
    pub tools_max: usize,
    /// Bytes of a chat template, and of the prompt that it makes.
    pub template_bytes_max: usize,
    /// Instructions that a chat template may take for one prompt.
    pub template_instructions_max: u64,
    /// Chat templates that are kept ready.
    pub templates_kept_max: usize,
    /// Bytes of a JSON schema, a pattern or a grammar that holds an answer.
    pub grammar_bytes_max: usize,
    /// Symbols that it may grow to.
    pub grammar_symbols_max: usize,
    /// Steps of reading it; some fifty thousand take a millisecond.
    pub grammar_steps_max: u64,
    /// Those that are kept ready.
    pub grammars_kept_max: usize,
    /// Seconds of silence on a stream after which a comment shows that it lives.
    pub keep_alive_s: u64,
}

impl Default for Config {
    /// 4 MiB hold a million tokens. 128 answers and 16 stop texts are more than anybody asked for, 20 alternatives what
    /// OpenAI tells; 10 million instructions are a tenth of a second. The largest schemas in use have 200 KiB and grow to as many
    /// symbols.
    fn default() -> Self {
        Self {
            route_prefix: "/openai".to_owned(),
            body_bytes_max: 4 << 20,
            choices_max: 128,
            stop_texts_max: 16,
            logprobs_max: 20,
            texts_max: 2048,
            messages_max: 4096,
            tools_max: 128,
            template_bytes_max: 4 << 20,
            template_instructions_max: 10_000_000,
            templates_kept_max: 64,
            grammar_bytes_max: 256 << 10,
            grammar_symbols_max: 200_000,
            grammar_steps_max: 1_000_000,
            grammars_kept_max: 64,
            keep_alive_s: 15,
        }
    }
}

impl Config {
    pub(super) const fn template_limits(&self) -> TemplateLimits {
        TemplateLimits { instructions_max: self.template_instructions_max, bytes_max: self.template_bytes_max }
    }

    pub(super) const fn grammar_limits(&self) -> GrammarLimits {
        GrammarLimits {
            bytes_max: self.grammar_bytes_max,
            symbols_max: self.grammar_symbols_max,
            reading_steps_max: self.grammar_steps_max,
            kept_max: self.grammars_kept_max,
        }
    }

    pub(crate) const fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_s)
    }
}
