//! Copies for request loggers: which service a request reaches, and the bytes that pass on its way in and out.
//!
//! What is copied are the bytes on the wire, packed as they came, for that is what KServe's agent sees in front of its
//! server. Bodies are shared, not copied; a service without a logger pays for one atomic load.

mod tape;

pub(crate) use tape::Tape;

use super::scope::Reach;
use crate::router::logger::{Conversation, Copying, Side};
use crate::router::{Route, Router, Scope};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, request};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};

/// How a gRPC call went.
const GRPC_STATUS: &str = "grpc-status";
/// Where the name of a model stands in a path.
const MODEL_PATHS: [&str; 3] = ["/v2/repository/models/", "/v2/models/", "/v1/models/"];

/// The copy of a request that reaches a service with a logger.
fn conversation(router: &Router, reach: &Reach, parts: &request::Parts) -> Option<Conversation> {
    let loggers = router.loggers();
    if loggers.is_empty() {
        return None;
    }
    let logger = match reach {
        Reach::Service(route) | Reach::Revision { route, .. } => loggers.of(&route.namespace, &route.service),
        // It is no service itself; the services of its steps have their own.
        Reach::Graph(_) => None,
        Reach::All => {
            let table = router.load();
            let route = table.find(Scope::Default, &model_of(parts.uri.path())?).ok()?;
            loggers.of(&route.namespace, &route.service)
        }
    };
    logger?.begin(&parts.headers)
}

/// Whether a model that a message names may have a logger.
fn may_be_logged(router: &Router) -> bool {
    let loggers = router.loggers();
    !loggers.is_empty() && loggers.any_in(router.load().default_namespace())
}

/// The model that a path names: `/v1/models/iris:predict`, `/v2/models/iris/infer`.
fn model_of(path: &str) -> Option<Cow<'_, str>> {
    let rest = MODEL_PATHS.iter().find_map(|prefix| path.strip_prefix(prefix))?;
    let name = rest.split('/').next().unwrap_or(rest);
    let name = if path.starts_with("/v1/") { name.rsplit_once(':').map_or(name, |(name, _)| name) } else { name };
    percent_encoding::percent_decode_str(name).decode_utf8().ok()
}

/// The copy of a request that named its model in its body, where the host named no service.
pub(super) fn named(router: &Router, reach: &Reach, route: &Route, headers: &HeaderMap) -> Option<Conversation> {
    match reach {
        Reach::All => router.loggers().of(&route.namespace, &route.service)?.begin(headers),
        // The entrance knew the service and logs it.
        Reach::Service(_) | Reach::Revision { .. } | Reach::Graph(_) => None,
    }
}

/// A request's body that was read already, copied where requests are logged.
pub(super) fn request_bytes(conversation: &Conversation, bytes: &Bytes) {
    if let Some(mut copying) = conversation.copy(Side::Request) {
        copying.push(bytes);
        copying.finish();
    }
}

/// An answer to such a request, copied where answers are logged.
pub(super) fn response(conversation: &Conversation, response: Response) -> Response {
    Ear::Copies(conversation.clone()).response(response)
}

/// Who listens to a request and to its answer.
#[derive(Debug)]
pub(super) enum Ear {
    /// Nobody.
    Deaf,
    /// The logger of its service.
    Copies(Conversation),
    /// Whoever its message is for, once that is read.
    Records(Tape),
}

impl Ear {
    /// The ear for a request with this head.
    pub(super) fn of(router: &Router, reach: &Reach, parts: &request::Parts, grpc: bool) -> Self {
        match conversation(router, reach, parts) {
            Some(conversation) => Self::Copies(conversation),
            None if grpc && matches!(reach, Reach::All) && may_be_logged(router) => Self::Records(Tape::new(&parts.headers)),
            None => Self::Deaf,
        }
    }

    /// What the handler of the request tells whose it is.
    pub(super) fn tape(&self) -> Option<Tape> {
        match self {
            Self::Records(tape) => Some(tape.clone()),
            Self::Deaf | Self::Copies(_) => None,
        }
    }

    /// The request's body, copied where requests are logged.
    pub(super) fn request_body(&self, body: Body) -> Body {
        match self {
            Self::Deaf => body,
            Self::Copies(conversation) => copied(conversation.copy(Side::Request), body),
            Self::Records(tape) => heard(Pen::Tape(tape.clone()), body),
        }
    }

    /// The answer, copied where answers are logged: only those with status 200, as KServe does, and of gRPC only those that
    /// are no error.
    pub(super) fn response(&self, response: Response) -> Response {
        let is_error = response.headers().get(GRPC_STATUS).is_some_and(|status| status != "0");
        if response.status() != StatusCode::OK || is_error {
            return response;
        }
        match self {
            Self::Deaf => response,
            Self::Copies(conversation) => response.map(|body| copied(conversation.copy(Side::Response), body)),
            Self::Records(tape) => {
                let tape = tape.clone();
                response.map(|body| heard(Pen::Later(tape), body))
            }
        }
    }
}

fn copied(copying: Option<Copying>, inner: Body) -> Body {
    match copying {
        Some(copying) => heard(Pen::Copy(copying), inner),
        None => inner,
    }
}

fn heard(pen: Pen, inner: Body) -> Body {
    let announced = inner.size_hint().exact();
    Body::new(Copied { inner, pen: Some(pen), seen: 0, announced })
}

/// Where pieces of a body go.
enum Pen {
    Copy(Copying),
    /// A request on its tape.
    Tape(Tape),
    /// An answer of which it turns out with its first piece whether it is copied.
    Later(Tape),
}

impl Pen {
    fn push(self, piece: &Bytes) -> Option<Self> {
        match self {
            Self::Copy(mut copying) => {
                copying.push(piece);
                Some(Self::Copy(copying))
            }
            Self::Tape(tape) => {
                tape.push(piece);
                Some(Self::Tape(tape))
            }
            Self::Later(tape) => Self::Copy(tape.answer()?).push(piece),
        }
    }

    fn end(self, is_whole: bool) {
        match self {
            Self::Copy(copying) if is_whole => copying.finish(),
            Self::Tape(tape) => tape.end(is_whole),
            Self::Copy(_) | Self::Later(_) => {}
        }
    }
}

/// A body whose pieces are shared with a logger as they pass.
struct Copied {
    inner: Body,
    /// Gone once the body is whole or broken.
    pen: Option<Pen>,
    seen: u64,
    announced: Option<u64>,
}

impl HttpBody for Copied {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.hear(frame),
            Poll::Ready(Some(Err(_))) => self.end(false),
            Poll::Ready(None) => self.end(true),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Copied {
    fn hear(&mut self, frame: &Frame<Bytes>) {
        if let Some(piece) = frame.data_ref() {
            self.seen += piece.len() as u64;
            self.pen = self.pen.take().and_then(|pen| pen.push(piece));
        }
        // A gRPC answer says at its end how it went.
        if let Some(status) = frame.trailers_ref().and_then(|trailers| trailers.get(GRPC_STATUS)) {
            return self.end(status == "0");
        }
        self.end_if_whole();
    }

    fn end(&mut self, is_whole: bool) {
        if let Some(pen) = self.pen.take() {
            pen.end(is_whole);
        }
    }

    /// Who knows the length reads no further than to the last byte.
    fn end_if_whole(&mut self) {
        if Some(self.seen) == self.announced || self.inner.is_end_stream() {
            self.end(true);
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // A body without a byte is never read. One that nobody read to its end is not logged.
        self.end_if_whole();
        self.end(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_model() {
        for (path, model) in [
            ("/v1/models/iris:predict", Some("iris")),
            ("/v1/models/iris", Some("iris")),
            ("/v2/models/iris", Some("iris")),
            ("/v2/models/iris/infer", Some("iris")),
            ("/v2/models/a:b/infer", Some("a:b")),
            ("/v2/models/my%20model/ready", Some("my model")),
            ("/v2/repository/models/iris/load", Some("iris")),
            ("/v2/health/ready", None),
            ("/metrics", None),
        ] {
            assert_eq!(model_of(path).as_deref(), model, "{path}");
        }
    }
}
