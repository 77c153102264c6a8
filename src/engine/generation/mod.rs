//! Text that grows token by token: what a door asks of a language model, and how it hears of the answer.
//!
//! A [`Generator`] is not an [`super::Engine`]: it does not answer tensors with tensors, it takes a prompt and gives a
//! [`Generation`], a stream of events that may go on for minutes. All running generations of a model share each step of it.
//!
//! Who asks turns text into token ids with [`Generator::tokenizer`], submits, and reads events. Dropping the
//! [`Generation`] cancels it within one step of the model. Nothing here knows of HTTP or of chat messages.

mod architecture;
mod blocks;
mod check;
mod config;
pub mod decoder;
mod device;
mod events;
mod folder;
pub mod gguf;
mod grammar;
pub mod kernels;
mod model;
mod request;
#[cfg(test)]
mod samples;
mod sampling;
mod scatter;
mod scheduler;
#[cfg(test)]
pub(crate) mod scripted;
mod steps;
mod t5;
mod team;
pub mod tensors;
mod text_stream;
mod tokenizer;
pub mod weights;

pub use architecture::{Architecture, Rope};
pub use config::GenerationConfig;
pub use events::{Event, EventSink, FinishReason, Finished, Generation, Logprobs, SubmitError, Token, TokenLogprob, Usage, generation};
pub use folder::{FolderFiles, has_encoder, load_folder};
pub use grammar::{Constraint, GrammarError, GrammarLimits, Grammars};
pub use model::{Wishes, load_gguf};
pub use request::{Allowed, GenerateRequest, Sampling, TokenMask};
pub use text_stream::{Piece, TextStream};
pub use tokenizer::{TextTokenizer, TokenizeError};

use std::collections::BTreeMap;
use std::sync::Arc;

/// A loaded language model that writes text. Shared by all who ask it; every call returns at once.
pub trait Generator: Send + Sync + std::fmt::Debug {
    /// What there is to know about the model before one asks it.
    fn info(&self) -> &Arc<GeneratorInfo>;

    /// Turns text into the model's token ids and back.
    fn tokenizer(&self) -> &Arc<TextTokenizer>;

    /// Puts a request in line. The events of its answer come through what is returned; dropping that cancels it.
    ///
    /// # Errors
    /// `Invalid` for a request that can never be answered, `Full` where too many wait already, `Closed` while the model is
    /// being unloaded.
    fn submit(&self, request: GenerateRequest) -> Result<Generation, SubmitError>;

    /// From now on the model is measured under a name, and each of its steps asks `turns` for its threads, so that all
    /// models together use no more than the machine has. Without it steps run as they come.
    fn serve_as(&self, model: &str, turns: Arc<dyn Turns>);

    /// Takes no more requests. Those in line and those running go on to their end.
    fn close(&self);

    /// Ends all that is in line or running; each hears [`FinishReason::Cancelled`].
    fn cancel_all(&self);
}

/// The machine's threads, handed out in turns.
pub trait Turns: Send + Sync + std::fmt::Debug {
    /// Runs `step` on this thread once so many threads may be used; blocks until then.
    fn run(&self, threads: usize, step: &mut dyn FnMut());
}

/// What a door needs to know of a language model.
#[derive(Debug, Clone, Default)]
pub struct GeneratorInfo {
    /// Tokens of prompt and answer together, at most; where an encoder reads the prompt, of each of both.
    pub context_length: usize,
    /// Logits of one step: token ids are below it. The tokenizer may know fewer.
    pub vocabulary: usize,
    /// Whether the prompt is read by an encoder of its own (T5): then the answer does not continue the prompt.
    pub encoder_decoder: bool,
    /// Jinja templates that turn messages into a prompt, by name; the usual one is `default`.
    pub chat_templates: BTreeMap<String, String>,
    /// The text of the token that begins a sequence, as chat templates want it.
    pub bos_token: Option<String>,
    /// The text of the token that ends a sequence.
    pub eos_token: Option<String>,
    /// Tokens that end an answer, from the model's own settings.
    pub eos_ids: Vec<u32>,
    /// The token that an answer begins with where an encoder reads the prompt; it is not shown.
    pub decoder_start: u32,
    /// The sampling that the model's makers recommend (`generation_config.json`); a door may take it where a request is silent.
    pub recommended: Sampling,
}

impl GeneratorInfo {
    /// Tokens that an answer to a prompt of so many tokens may have.
    #[must_use]
    pub const fn room(&self, prompt: usize) -> usize {
        if self.encoder_decoder { self.context_length.saturating_sub(1) } else { self.context_length.saturating_sub(prompt) }
    }
}
