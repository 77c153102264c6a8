//! Text that a model writes, as far as all doors share it: begin, read what happens, tell how it went.
//!
//! What is let go of while it is read is cancelled in the model within one step: nothing here goes on by itself.

use super::error::Refusal;
use super::exchange::Exchange;
use super::work::off_the_reactor;
use crate::engine::generation::{Event, FinishReason, GenerateRequest, Generator, GeneratorInfo, TextTokenizer};
use crate::inference::InferenceError;
use crate::observe::{GenerationMetrics, Operation};
use crate::pool::{Answering, ModelHandle};
use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// How much more work a byte of a prompt is than a byte of JSON.
const WORK_OF_A_BYTE: usize = 8;

/// Makes the requests of a model's prompts.
type Prepare<E> = dyn Fn(&Arc<dyn Generator>) -> Result<Vec<GenerateRequest>, E> + Send + Sync;

/// Generations that were begun.
#[derive(Debug)]
pub(crate) struct Begun {
    /// What happens.
    pub(crate) happenings: Happenings,
    /// The tokenizer of the model that answers.
    pub(crate) tokenizer: Arc<TextTokenizer>,
    /// The revision that answers.
    pub(crate) revision: Arc<str>,
}

/// What happens to several prompts: which of them, and what. Ends once all their choices ended; what keeps one of them
/// from its end comes as an error, after which nothing comes.
pub(crate) struct Happenings {
    events: SelectAll<BoxStream<'static, (usize, Event)>>,
    choices_left: usize,
    model: Arc<str>,
    told: Told,
}

/// The metrics of one call.
#[derive(Debug)]
struct Told {
    metrics: GenerationMetrics,
    began: Instant,
    /// When each choice of each prompt said its last token.
    last: Vec<(usize, usize, Instant)>,
}

/// Begins to answer prompts; wakes the model first where it sleeps. Whoever is unloaded meanwhile costs nothing: its
/// successor is asked.
///
/// # Errors
/// Those of `prepare`, `unfit` for a model that writes no text, and what the model says to the requests.
pub(crate) async fn begin<E>(
    exchange: &mut Exchange,
    operation: Operation,
    bytes: usize,
    prepare: Arc<Prepare<E>>,
    unfit: impl Fn() -> E,
) -> Result<Begun, E>
where
    E: From<Refusal> + Send + 'static,
{
    loop {
        let handle = exchange.writer().await?;
        let generator = handle.generator().cloned().ok_or_else(&unfit)?;
        let preparing = {
            let (prepare, generator) = (Arc::clone(&prepare), Arc::clone(&generator));
            move || prepare(&generator)
        };
        let requests = off_the_reactor(bytes.saturating_mul(WORK_OF_A_BYTE), preparing).await??;
        let choices_left = requests.iter().map(|request| request.choices).sum();
        match submit(&handle, requests) {
            Ok(answering) => {
                let model = Arc::clone(&exchange.route.model_name);
                let told = Told { metrics: GenerationMetrics::new(&model, operation), began: exchange.began(), last: Vec::new() };
                let tagged = answering.into_iter().enumerate().map(|(prompt, events)| events.map(move |event| (prompt, event)).boxed());
                let happenings = Happenings { events: tagged.collect(), choices_left, model, told };
                return Ok(Begun { happenings, tokenizer: Arc::clone(generator.tokenizer()), revision: handle.revision().into() });
            }
            Err(InferenceError::ModelNotReady { .. }) if handle.is_retired() => {}
            Err(error) => return Err(Refusal::from(error).into()),
        }
    }
}

fn submit(handle: &ModelHandle, requests: Vec<GenerateRequest>) -> Result<Vec<Answering>, InferenceError> {
    requests.into_iter().map(|request| handle.generate(request)).collect()
}

/// Tokens of a prompt and the longest answer, held against the model.
///
/// # Errors
/// The sentence for the caller.
pub(crate) fn check_length(info: &GeneratorInfo, prompt: usize, max_tokens: Option<usize>) -> Result<(), String> {
    let asked = prompt.saturating_add(max_tokens.unwrap_or(0));
    if info.encoder_decoder || info.context_length == 0 || (prompt < info.context_length && asked <= info.context_length) {
        return Ok(());
    }
    let answer = max_tokens.map_or_else(String::new, |max| format!(" and {max} for the answer"));
    Err(format!("the model's context holds {} tokens, and {prompt} for the prompt{answer} are asked for", info.context_length))
}

impl std::fmt::Debug for Happenings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Happenings").field("model", &self.model).field("choices_left", &self.choices_left).finish_non_exhaustive()
    }
}

impl Happenings {
    fn seen(&mut self, prompt: usize, event: &Event) -> Result<(), Refusal> {
        self.told.event(prompt, event);
        let Event::Finished(finished) = event else { return Ok(()) };
        self.choices_left = self.choices_left.saturating_sub(1);
        let model = self.model.to_string();
        match &finished.reason {
            FinishReason::DeadlineExceeded => Err(InferenceError::DeadlineExceeded { model, timeout: self.told.began.elapsed() }.into()),
            FinishReason::Cancelled => {
                Err(InferenceError::ModelNotReady { name: model, reason: "It is being unloaded.".to_owned() }.into())
            }
            FinishReason::Failed(sentence) => Err(InferenceError::Engine(sentence.clone()).into()),
            _ => Ok(()),
        }
    }
}

impl Stream for Happenings {
    type Item = Result<(usize, Event), Refusal>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.events).poll_next(context);
        polled.map(|next| match next {
            Some((prompt, event)) => match self.seen(prompt, &event) {
                Ok(()) => Some(Ok((prompt, event))),
                Err(refusal) => {
                    self.events.clear();
                    self.choices_left = 0;
                    Some(Err(refusal))
                }
            },
            None if self.choices_left > 0 => {
                self.choices_left = 0;
                Some(Err(Refusal::internal("the model broke off in the middle of its answer")))
            }
            None => None,
        })
    }
}

impl Told {
    fn event(&mut self, prompt: usize, event: &Event) {
        let now = Instant::now();
        match event {
            Event::Prompt { tokens, .. } => self.metrics.prompt(*tokens),
            Event::Token(token) => {
                if let Some((_, _, last)) = self.last.iter_mut().find(|(of, choice, _)| (*of, *choice) == (prompt, token.choice)) {
                    self.metrics.next_token(now - std::mem::replace(last, now));
                } else {
                    self.metrics.first_token(now - self.began);
                    self.last.push((prompt, token.choice, now));
                }
            }
            Event::Finished(finished) => {
                self.metrics.ended(word_of(&finished.reason), finished.usage.completion_tokens, now - self.began);
            }
        }
    }
}

/// OpenAI's word for an end.
pub(crate) const fn word_of(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfText | FinishReason::StopToken(_) | FinishReason::StopString(_) | FinishReason::MaskEnded => "stop",
        FinishReason::Length => "length",
        FinishReason::DeadlineExceeded | FinishReason::Cancelled | FinishReason::Failed(_) => "error",
    }
}
