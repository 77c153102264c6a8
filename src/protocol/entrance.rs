//! Where every request comes in: its id, its head checked, its service found; then to HTTP or to gRPC.

use super::body::discard;
use super::door::{Arrival, Door};
use super::error::Refusal;
use super::graph;
use super::guard::{Guard, host_of};
use super::logging::Ear;
use super::scope::{Host, Reach, with_path};
use super::timed_body::{Timed, TimedMessages};
use super::timing::{REQUEST_ID, client_timeout, priority, request_id};
use super::{GrpcInference, grpc_inference, grpc_routes, http_routes};
use crate::router::Caller;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::header::{CONTENT_TYPE, EXPECT};
use http::{HeaderValue, Request, StatusCode, Version, request};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::Status;
use tower::{Service, ServiceExt};
use tracing::Instrument;

/// gRPC calls whose request is one message; the others may stay open.
const UNARY_CALLS: &str = "/inference.";
/// The calls of the inference service.
const INFERENCE_CALLS: &str = "/inference.GRPCInferenceService/";
/// The call among these that takes any number of messages.
const STREAM_CALL: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// The one way into both doors.
#[derive(Debug)]
pub(crate) struct Entrance {
    door: Arc<Door>,
    guard: Guard,
    http: axum::Router,
    inference: GrpcInference,
    grpc: axum::Router,
    /// Whether HTTP requests are answered here, too.
    speaks_http: bool,
}

impl Entrance {
    /// The HTTP door on `local`; it takes gRPC as well.
    pub(crate) fn http(door: &Arc<Door>, local: Option<IpAddr>, kube: Option<axum::Router>) -> Self {
        let http = http_routes(Arc::clone(door), kube);
        Self { http, speaks_http: true, ..Self::grpc(door, local) }
    }

    /// The gRPC door on `local`.
    pub(crate) fn grpc(door: &Arc<Door>, local: Option<IpAddr>) -> Self {
        let guard = Guard::new(&door.config, local);
        let (inference, grpc) = (grpc_inference(door), grpc_routes(door));
        Self { door: Arc::clone(door), guard, http: axum::Router::new(), inference, grpc, speaks_http: false }
    }

    /// Answers one request. A panic on the way costs this answer only.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response {
        let id = request_id(request.headers());
        let origin = self.guard.allowed_origin(request.headers()).cloned();
        let span = tracing::debug_span!("request", id = id.to_str().unwrap_or_default());
        let answered = AssertUnwindSafe(self.let_in(request).instrument(span)).catch_unwind().await;
        let mut response = answered.unwrap_or_else(|_| panicked(&id));
        response.headers_mut().insert(REQUEST_ID, id);
        if let Some(origin) = origin {
            Guard::mark(&origin, response.headers_mut());
        }
        response
    }

    async fn let_in(&self, request: Request<Body>) -> Response {
        let arrived = Instant::now();
        let grpc = is_grpc(&request) || !self.speaks_http;
        let (mut parts, body) = request.into_parts();
        if self.guard.preflight(&parts.method, &parts.headers) {
            return StatusCode::NO_CONTENT.into_response();
        }
        let (reach, caller) = match self.check(&mut parts) {
            Ok(found) => found,
            Err(refusal) => return refuse(&parts, body, refusal, grpc).await,
        };
        let (client_timeout, priority) = (client_timeout(&parts.headers), priority(&parts.headers));
        if let (Reach::Graph(route), false) = (&reach, grpc) {
            let (route, reach) = (Arc::clone(route), reach.clone());
            let arrival = Arrival { at: arrived, reach, client_timeout, priority, caller, tape: None };
            // On its own, so that what every answer on its way takes is not as large as a graph's.
            return Box::pin(graph::answer(&self.door, &arrival, &route, Request::from_parts(parts, body))).await;
        }
        let ear = Ear::of(&self.door.router, &reach, &parts, grpc);
        let body = ear.request_body(body);
        parts.extensions.insert(Arrival { at: arrived, reach, client_timeout, priority, caller, tape: ear.tape() });
        let response = if grpc { self.call(parts, body, arrived).await } else { ask(&self.http, Request::from_parts(parts, body)).await };
        ear.response(response)
    }

    async fn call(&self, parts: request::Parts, body: Body, arrived: Instant) -> Response {
        let body = self.timed(parts.uri.path(), body, arrived);
        let request = Request::from_parts(parts, body);
        if !request.uri().path().starts_with(INFERENCE_CALLS) {
            return ask(&self.grpc, request).await;
        }
        // It is always ready, as the generated code says.
        self.inference.clone().call(request).await.unwrap_or_else(|never| match never {}).map(Body::new)
    }

    /// A gRPC body that must be there in time, as a whole or message by message.
    fn timed(&self, path: &str, body: Body, arrived: Instant) -> Body {
        let within = self.door.config.body_read_timeout();
        match path {
            STREAM_CALL => Body::new(TimedMessages::new(body, within)),
            _ if path.starts_with(UNARY_CALLS) => Body::new(Timed::new(body, arrived + within)),
            _ => body,
        }
    }

    /// Checks the head and finds out which models the request may reach, and by which side; takes the template off its path.
    fn check(&self, parts: &mut request::Parts) -> Result<(Reach, Caller), Refusal> {
        self.door.limits.check_head(parts)?;
        let table = self.door.router.load();
        let followed = self.door.router.ingress().as_ref().map(|ingress| self.door.following(ingress));
        let addressing = followed.as_ref().map_or(&self.door.addressing, |followed| &followed.1);
        let host = host_of(parts)?;
        let meaning = addressing.read_host(host, &table);
        self.guard.check(parts, host, &meaning, addressing)?;
        // Where no service has a sticky header, nothing is read.
        let caller = Caller::read(table.sticky_headers(), |name| parts.headers.get(name).map(HeaderValue::as_bytes));
        match meaning {
            Host::Service(route) => return Ok((Reach::Service(route), caller)),
            Host::Revision { label, route } => return Ok((Reach::Revision { label, route }, caller)),
            Host::Graph(graph) => return Ok((Reach::Graph(graph), caller)),
            Host::Unknown => return Err(Refusal::not_found(format!("no InferenceService or InferenceGraph has the host `{host}`"))),
            Host::Bare => {}
        }
        let Some(prefixed) = addressing.read_path(parts.uri.path()) else { return Ok((Reach::All, caller)) };
        let Some(reach) = Reach::named(prefixed.name, prefixed.namespace, &table) else {
            let (name, namespace) = (shortened(prefixed.name), shortened(prefixed.namespace));
            return Err(Refusal::not_found(format!("no InferenceService or InferenceGraph `{name}` in namespace `{namespace}`")));
        };
        let uri = with_path(&parts.uri, prefixed.rest).ok_or_else(|| Refusal::bad_request("the path is not a path"))?;
        parts.uri = uri;
        Ok((reach, caller))
    }
}

async fn ask(routes: &axum::Router, request: Request<Body>) -> Response {
    routes.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
}

/// Says no, after the sender had the chance to finish.
pub(crate) async fn refuse(parts: &request::Parts, body: Body, refusal: Refusal, grpc: bool) -> Response {
    if grpc {
        return Status::from(refusal).into_http();
    }
    let_finish(parts, body).await;
    refusal.into_response()
}

/// Lets the sender of a refused request finish, where he would not hear the refusal otherwise.
pub(crate) async fn let_finish(parts: &request::Parts, body: Body) {
    // Over HTTP/2 the stream is reset; with `Expect` the client waits for us before it sends.
    if parts.version <= Version::HTTP_11 && !parts.headers.contains_key(EXPECT) {
        discard(body).await;
    }
}

fn panicked(id: &HeaderValue) -> Response {
    tracing::error!(id = id.to_str().unwrap_or_default(), "a handler panicked");
    crate::observe::door_panic();
    Refusal::internal("the server made a mistake on this request").into_response()
}

fn is_grpc(request: &Request<Body>) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}
