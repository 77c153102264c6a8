//! A body that must be there in time: for gRPC, whose library waits for slow senders without end.

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body_util::BodyExt;
    use std::convert::Infallible;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_stops_in_the_middle_is_given_up() {
        let pieces = futures::StreamExt::chain(stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"a"))]), stream::pending());
        let mut body = Timed::new(Body::from_stream(pieces), Instant::now() + Duration::from_mins(1));
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
    }
}
