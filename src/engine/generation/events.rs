//! The events of a generation, on their way from the model's thread to who asked.

use futures::Stream;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// What happened to a generation. `Prompt` comes first and once, then tokens, then one `Finished` for each choice.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt was read.
    Prompt {
        /// Tokens of the prompt.
        tokens: usize,
        /// Those whose keys and values were there already.
        cached: usize,
        /// What the model thought of each token of the prompt but the first, if asked for.
        logprobs: Vec<Logprobs>,
    },
    /// One more token of an answer.
    Token(Token),
    /// An answer ended.
    Finished(Finished),
}

/// One token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Which of the answers, from 0.
    pub choice: usize,
    /// Its id.
    pub id: u32,
    /// Text that is certain now: whole characters, and nothing that may yet turn out to be a stop text. Often the token's
    /// own text, sometimes empty, sometimes that of several tokens.
    pub text: String,
    /// Its log-probability and those of others, if asked for.
    pub logprobs: Option<Logprobs>,
}

/// How likely a token was, before penalties and temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// The token that stands there.
    pub chosen: TokenLogprob,
    /// The most likely ones, the likeliest first; as many as asked for.
    pub top: Vec<TokenLogprob>,
}

/// A token and the natural logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token's id.
    pub id: u32,
    /// At most 0.
    pub logprob: f32,
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Which of the answers, from 0.
    pub choice: usize,
    /// Why it ended.
    pub reason: FinishReason,
    /// Text that was held back until it was certain that nothing follows.
    pub text: String,
    /// What it cost.
    pub usage: Usage,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model wrote one of its own ends of text.
    EndOfText,
    /// A token of the request's `stop_token_ids`.
    StopToken(u32),
    /// A text of the request's `stop`.
    StopString(String),
    /// The mask says that nothing may follow.
    MaskEnded,
    /// `max_tokens` or the context's end.
    Length,
    /// The request's deadline passed.
    DeadlineExceeded,
    /// The model is being unloaded.
    Cancelled,
    /// The model or the mask failed, in a sentence.
    Failed(String),
}

/// Tokens that an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were there already.
    pub cached_tokens: usize,
    /// Tokens of this answer, the one that ended it among them.
    pub completion_tokens: usize,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It can never be answered.
    #[error("{0}")]
    Invalid(String),
    /// Too many wait already.
    #[error("{waiting} requests wait already")]
    Full {
        /// How many wait.
        waiting: usize,
    },
    /// The model takes no more.
    #[error("the model is being unloaded")]
    Closed,
}

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct Generation {
    events: mpsc::Receiver<Event>,
}

/// Where the model's thread puts events.
#[derive(Debug, Clone)]
pub struct EventSink {
    events: mpsc::Sender<Event>,
}

/// Both ends of a generation that has so many events at most.
#[must_use]
pub fn generation(events_max: usize) -> (EventSink, Generation) {
    // Room for all: the model's thread serves many and waits for none. Memory is taken as events come, not for the bound.
    let (sender, receiver) = mpsc::channel(events_max.max(1));
    (EventSink { events: sender }, Generation { events: receiver })
}

impl Generation {
    /// The next event; nothing once all choices ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event for a thread that may wait. Panics on a thread of the async runtime.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }
}

impl Stream for Generation {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}

impl EventSink {
    /// Sends an event; false when nobody listens any more, or more were sent than there was room for.
    pub fn send(&self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }

    /// Whether nobody listens any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_learns_that_nobody_listens_any_more() {
        let (sink, mut generation) = generation(4);
        assert!(sink.send(Event::Prompt { tokens: 1, cached: 0, logprobs: Vec::new() }));
        assert!(matches!(generation.next_blocking(), Some(Event::Prompt { tokens: 1, .. })));
        assert!(!sink.is_abandoned());
        drop(generation);
        assert!(sink.is_abandoned() && !sink.send(Event::Prompt { tokens: 1, cached: 0, logprobs: Vec::new() }));
    }

    #[test]
    fn events_end_when_the_model_lets_go() {
        let (sink, mut generation) = generation(1);
        drop(sink);
        assert_eq!(generation.next_blocking(), None);
    }
}
