//! A body that must be there in time: for gRPC, whose library waits for slow senders without end.

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

/// A body that turns into an error at a moment.
pub(crate) struct Timed {
    body: Body,
    end: Pin<Box<Sleep>>,
}

impl Timed {
    /// The same body, which must have ended by `until`.
    pub(crate) fn new(body: Body, until: Instant) -> Self {
        Self { body, end: Box::pin(sleep_until(until)) }
    }
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        self.end.as_mut().poll(context).map(|()| Some(Err(Status::deadline_exceeded("the request did not arrive in time").into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of many gRPC messages, with any time between them; one that has begun must be there in time.
pub(crate) struct TimedMessages {
    body: Body,
    within: Duration,
    framing: Framing,
    end: Pin<Box<Sleep>>,
}

impl TimedMessages {
    /// The same body; each of its messages must have ended `within` that time from its first byte.
    pub(crate) fn new(body: Body, within: Duration) -> Self {
        Self { body, within, framing: Framing::default(), end: Box::pin(sleep_until(Instant::now())) }
    }
}

impl http_body::Body for TimedMessages {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            if data.is_some_and(|data| self.framing.pass(data)) {
                let end = Instant::now() + self.within;
                self.end.as_mut().reset(end);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if self.framing.is_between() {
            return Poll::Pending;
        }
        self.end.as_mut().poll(context).map(|()| Some(Err(Status::deadline_exceeded("a message did not arrive in time").into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where one message ends and the next begins: a byte of flags, four of length, then so many.
///
/// Source: gRPC over HTTP/2, "Length-Prefixed-Message".
#[derive(Debug, Default)]
struct Framing {
    head: [u8; 5],
    head_filled: usize,
    left: usize,
}

impl Framing {
    /// Walks over bytes; whether the last of them belongs to a message that begins in them.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut begun = self.is_between();
        while let Some((&first, rest)) = bytes.split_first() {
            begun |= self.is_between();
            if self.left > 0 {
                let used = self.left.min(bytes.len());
                self.left -= used;
                bytes = &bytes[used..];
                continue;
            }
            self.head[self.head_filled] = first;
            self.head_filled += 1;
            bytes = rest;
            if self.head_filled == self.head.len() {
                let [_, length @ ..] = self.head;
                (self.left, self.head_filled) = (u32::from_be_bytes(length) as usize, 0);
            }
        }
        begun && !self.is_between()
    }

    const fn is_between(&self) -> bool {
        self.left == 0 && self.head_filled == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body_util::BodyExt;
    use std::convert::Infallible;

    #[tokio::test(start_paused = true)]
    async fn a_stream_may_be_silent_between_messages_and_not_within_one() {
        let hour = |bytes: &'static [u8]| async move {
            tokio::time::sleep(Duration::from_hours(1)).await;
            Ok::<_, Infallible>(Bytes::from_static(bytes))
        };
        let pieces: [&[u8]; 4] = [b"\0\0\0\0\x02ab", b"\0\0\0\0\0", b"\0\0\0\0\x01c\0\0", b"never"];
        let pieces = futures::StreamExt::then(stream::iter(pieces), hour);
        let mut body = TimedMessages::new(Body::from_stream(pieces), Duration::from_mins(1));
        for _ in 0..3 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        assert!(body.frame().await.unwrap().is_err(), "it stopped in the head of the fourth");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_stops_in_the_middle_is_given_up() {
        let pieces = futures::StreamExt::chain(stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"a"))]), stream::pending());
        let mut body = Timed::new(Body::from_stream(pieces), Instant::now() + Duration::from_mins(1));
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
    }
}
