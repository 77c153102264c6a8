//! From what happens to an answer: whole, or as a stream of messages. Each kind of answer has its own [`Writer`].

use super::error::{Refusal, json_response};
use super::exchange::Exchange;
use super::generating::Happenings;
use super::sse;
use super::timing::REVISION;
use crate::engine::generation::Event;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;

/// Writes one kind of answer.
pub(super) trait Writer: Send + 'static {
    /// The messages of a stream that an event makes.
    fn messages(&mut self, prompt: usize, event: Event) -> Vec<Bytes>;

    /// The messages at the end of a stream.
    fn last(&mut self) -> Vec<Bytes>;

    /// The messages at the end of a stream that breaks off.
    fn failed(&self, refusal: &Refusal) -> Vec<Bytes>;

    /// Takes an event into the whole answer.
    fn take(&mut self, prompt: usize, event: Event);

    /// The whole answer.
    fn whole(&mut self) -> Value;
}

/// Reads to the end and answers as a whole.
pub(super) async fn whole(mut exchange: Exchange, mut happenings: Happenings, mut writer: impl Writer) -> Result<Response, Refusal> {
    while let Some(next) = happenings.next().await {
        match next {
            Ok((prompt, event)) => writer.take(prompt, event),
            Err(refusal) => {
                exchange.end(&Err::<(), _>(refusal.clone()));
                return Err(refusal);
            }
        }
    }
    let mut response = json_response(StatusCode::OK, &writer.whole());
    if let Ok(revision) = HeaderValue::from_str(exchange.revision()) {
        response.headers_mut().insert(REVISION, revision);
    }
    exchange.generated();
    exchange.end(&Ok::<_, Refusal>(()));
    Ok(response)
}

/// Answers with messages as they come. A client that leaves takes the generation with it.
pub(super) fn stream(exchange: Exchange, happenings: Happenings, writer: impl Writer, keep_alive: Duration) -> Response {
    let revision = HeaderValue::from_str(exchange.revision());
    let streaming = Streaming { exchange: Some(exchange), happenings, writer, pending: VecDeque::new() };
    let messages = stream::unfold(streaming, |mut streaming| async move { Some((streaming.next().await?, streaming)) });
    let mut response = sse::response(messages, keep_alive);
    if let Ok(revision) = revision {
        response.headers_mut().insert(REVISION, revision);
    }
    response
}

/// A stream on its way.
struct Streaming<W> {
    /// Gone at the end.
    exchange: Option<Exchange>,
    happenings: Happenings,
    writer: W,
    pending: VecDeque<Bytes>,
}

impl<W: Writer> Streaming<W> {
    /// The next message. Cancel safe.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.pending.pop_front() {
                return Some(message);
            }
            self.exchange.as_ref()?;
            match self.happenings.next().await {
                Some(Ok((prompt, event))) => self.pending.extend(self.writer.messages(prompt, event)),
                Some(Err(refusal)) => {
                    self.pending.extend(self.writer.failed(&refusal));
                    self.end(&Err(refusal));
                }
                None => {
                    self.pending.extend(self.writer.last());
                    self.end(&Ok(()));
                }
            }
        }
    }

    fn end(&mut self, outcome: &Result<(), Refusal>) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.generated();
            exchange.end(outcome);
        }
    }
}
