//! Server-sent events: one message after another on an answer that stays open.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::Serialize;
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// OpenAI's last message.
pub(crate) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
/// A comment, which every client passes over.
const ALIVE: Bytes = Bytes::from_static(b": alive\n\n");

/// One message that is a JSON value. JSON has no line breaks of its own, so it is one line.
pub(crate) fn message(value: &impl Serialize) -> Bytes {
    let mut bytes = b"data: ".to_vec();
    let written = serde_json::to_writer(&mut bytes, value);
    debug_assert!(written.is_ok(), "a value of ours has string keys and no failing parts");
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}

/// An answer of such messages. Where none comes for `keep_alive`, a comment does, so that nobody on the way gives up.
///
/// A client that leaves drops the messages, and with them what writes them.
pub(crate) fn response(messages: impl Stream<Item = Bytes> + Send + 'static, keep_alive: Duration) -> Response {
    let mut response = Response::new(Body::from_stream(living(messages, keep_alive).map(Ok::<_, Infallible>)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies such as nginx would gather what should go out at once.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn living(messages: impl Stream<Item = Bytes> + Send + 'static, keep_alive: Duration) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(Box::pin(messages), move |mut messages| async move {
        let next = pin!(messages.next());
        let next = timeout(keep_alive, next).await;
        match next {
            Ok(Some(message)) => Some((message, messages)),
            Ok(None) => None,
            Err(_) => Some((ALIVE, messages)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_shows_that_it_lives() {
        let late = tokio::time::sleep(Duration::from_secs(40)).map(|()| message(&"x")).into_stream();
        let texts: Vec<Bytes> = living(late, Duration::from_secs(15)).collect().await;
        assert_eq!(texts, [ALIVE, ALIVE, Bytes::from_static(b"data: \"x\"\n\n")]);
    }

    #[test]
    fn a_message_is_one_line_whatever_is_in_it() {
        assert_eq!(message(&"a\r\nb\n\n"), Bytes::from_static(b"data: \"a\\r\\nb\\n\\n\"\n\n"));
    }
}
