//! Copies for request loggers: which service a request reaches, and the bytes that pass on its way in and out.
//!
//! What is copied are the bytes on the wire, packed as they came, for that is what KServe's agent sees in front of its
//! server. Bodies are shared, not copied; a service without a logger pays for one atomic load.

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

/// Where the name of a model stands in a path.
const MODEL_PATHS: [&str; 3] = ["/v2/repository/models/", "/v2/models/", "/v1/models/"];

/// The copy of a request that reaches a service with a logger.
pub(super) fn conversation(router: &Router, reach: &Reach, parts: &request::Parts) -> Option<Conversation> {
    let loggers = router.loggers();
    if loggers.is_empty() {
        return None;
    }
    let logger = match reach {
        Reach::Service(route) | Reach::Revision { route, .. } => loggers.of(&route.namespace, &route.service),
        // Its steps are not logged, and it is no service itself.
        Reach::Graph(_) => None,
        Reach::All => {
            let table = router.load();
            let route = table.find(Scope::Default, &model_of(parts.uri.path())?).ok()?;
            loggers.of(&route.namespace, &route.service)
        }
    };
    logger?.begin(&parts.headers)
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

/// The request's body, copied where requests are logged.
pub(super) fn request_body(conversation: &Conversation, body: Body) -> Body {
    copied(conversation.copy(Side::Request), body)
}

/// The answer, copied where answers are logged: only those with status 200, as KServe does.
pub(super) fn response(conversation: &Conversation, response: Response) -> Response {
    if response.status() != StatusCode::OK {
        return response;
    }
    response.map(|body| copied(conversation.copy(Side::Response), body))
}

fn copied(copying: Option<Copying>, inner: Body) -> Body {
    let Some(copying) = copying else { return inner };
    let announced = inner.size_hint().exact();
    Body::new(Copied { inner, copying: Some(copying), announced })
}

/// A body whose pieces are shared with a logger as they pass.
struct Copied {
    inner: Body,
    /// Gone once the body is whole or broken.
    copying: Option<Copying>,
    announced: Option<u64>,
}

impl HttpBody for Copied {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(copying), Some(piece)) = (&mut self.copying, frame.data_ref()) {
                    copying.push(piece);
                }
                self.finish_if_whole();
            }
            Poll::Ready(Some(Err(_))) => self.copying = None,
            Poll::Ready(None) => self.finish(),
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
    fn finish(&mut self) {
        if let Some(copying) = self.copying.take() {
            copying.finish();
        }
    }

    /// Who knows the length reads no further than to the last byte.
    fn finish_if_whole(&mut self) {
        let whole = self.copying.as_ref().is_some_and(|copying| Some(copying.copied()) == self.announced);
        if whole || self.inner.is_end_stream() {
            self.finish();
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // A body without a byte is never read. One that nobody read to its end is not logged.
        self.finish_if_whole();
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
