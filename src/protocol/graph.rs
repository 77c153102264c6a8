//! A graph at its host, at its path, and over gRPC: the body in, the graph run, the answer out.
//!
//! Over HTTP any method and any path run the graph, as KServe's router has it; `/readyz` tells whether it is ready.
//! A body with `Inference-Header-Content-Length` and a gRPC message bring tensors, and tensors are what comes back.

use super::body::{self, Reading};
use super::compression::Encoding;
use super::content::{Content, HEADER_LENGTH};
use super::door::{Arrival, Door};
use super::entrance::refuse;
use super::error::Refusal;
use super::exchange::{Wire, code_label};
use super::http_infer::write;
use super::shared_memory;
use super::timing::{self, SERVER_TIMING};
use super::work::off_the_reactor;
use crate::codec::open_inference::{ModelInferRequest, ModelInferResponse};
use crate::codec::shared_memory::SharedOutput;
use crate::codec::{self, Decoded, EncodedReply, ReplyForm, ReplyHead};
use crate::inference::{InferenceError, InferenceRequest, InferenceResponse, RequestedOutput};
use crate::observe;
use crate::resolve::condition::is_json;
use crate::router::GraphRoute;
use crate::router::graph::{self, DEPTH, Failure, GraphRequest, Reply, StepTime};
use crate::tensor::Tensor;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Who asked with tensors, and how he wants them back.
struct Caller {
    id: String,
    form: ReplyForm,
    /// The outputs he asked for; all when empty.
    wanted: Vec<RequestedOutput>,
    shared: Vec<SharedOutput>,
}

/// A line in the metrics, written when dropped.
struct Count<'g> {
    route: &'g GraphRoute,
    protocol: &'static str,
    since: Instant,
    code: &'static str,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        observe::request(&self.route.name, self.protocol, self.code, self.since.elapsed());
    }
}

/// Answers one HTTP request to a graph.
pub(super) async fn answer(door: &Door, arrival: &Arrival, route: &GraphRoute, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == "/readyz" {
        return if route.target.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }.into_response();
    }
    let mut count = Count { route, protocol: "graph", since: arrival.at, code: "cancelled" };
    let admitted = route.plan().map_err(Refusal::from).and_then(|plan| Ok((Arc::clone(plan), door.limits.admit()?)));
    let (plan, _place) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            count.code = label(refusal.status());
            return refuse(&parts, body, refusal, false).await;
        }
    };
    let deadline = arrival.deadline_after(plan.timeout_s);
    let response = run(door, arrival, route, deadline, (&parts.headers, body)).await.unwrap_or_else(IntoResponse::into_response);
    count.code = label(response.status());
    response
}

async fn run(
    door: &Door,
    arrival: &Arrival,
    route: &GraphRoute,
    deadline: Instant,
    (headers, body): (&HeaderMap, Body),
) -> Result<Response, Refusal> {
    // Whatever the content type says, as KServe has it; only tensors behind JSON must be told.
    let content = if headers.contains_key(HEADER_LENGTH) { Content::read(headers, Wire::V2)? } else { Content::Json };
    let packed = if door.config.compression { Encoding::of_answer(headers) } else { Encoding::Identity };
    let reading = Reading {
        encoding: Encoding::of_request(headers)?,
        tensors_at: content.tensors_at(),
        until: deadline.min(arrival.at + door.config.body_read_timeout()),
        ratio_max: door.config.inflate_ratio_max,
        bytes_max: usize::MAX,
    };
    let held = body::read(headers, body, &door.limits, reading).await?;
    let began = Instant::now();
    let (sent, caller, _room) = match content {
        Content::Json => (graph::Body::text(held.bytes.clone()), None, None),
        Content::Binary { json_length } => {
            let (bytes, name, limits) = (held.bytes.clone(), Arc::clone(&route.name), door.codec_limits());
            let length = itoa::Buffer::new().format(json_length).to_owned();
            let decoding = off_the_reactor(json_length, move || codec::v2_binary::decode(&bytes, Some(&length), &name, &limits));
            let mut decoded = decoding.await?.map_err(InferenceError::from)?;
            let room = shared_memory::fetch(door, &mut decoded).await?;
            let (request, caller) = split(decoded);
            (graph::Body::request(request), Some(caller), room)
        }
    };
    let parsed = began.elapsed();
    let (priority, depth) = (arrival.priority.unwrap_or_default(), depth_of(headers));
    let request = GraphRequest { body: sent, headers: headers.clone(), priority, depth, deadline };
    let (outcome, steps) = door.graphs.run(route, request).await;
    let began = Instant::now();
    let mut response = match outcome {
        Ok(reply) => written(door, route, &reply, (caller, packed)).await?,
        Err(failure) => json_response(failure.status, failure.body().into()),
    };
    response.headers_mut().insert(SERVER_TIMING, server_timing(parsed, &steps, began.elapsed()));
    Ok(response)
}

/// A request for the graph's steps, and what its caller wants of the answer: outputs are picked at the end.
fn split(decoded: Decoded) -> (InferenceRequest, Caller) {
    let Decoded { mut request, reply, shared } = decoded;
    let id = request.id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string()).clone();
    let wanted = std::mem::take(&mut request.outputs);
    (request, Caller { id, form: reply, wanted, shared: shared.outputs })
}

/// The answer as its caller reads it: tensors for tensors, where there are some, else JSON.
async fn written(
    door: &Door,
    route: &GraphRoute,
    reply: &Reply,
    (caller, packed): (Option<Caller>, Encoding),
) -> Result<Response, Refusal> {
    let limits = door.codec_limits();
    let tensors = match &caller {
        Some(_) if (200..300).contains(&reply.status) => reply.body.to_tensors(limits).await?,
        _ => None,
    };
    if let (Some(caller), Some(outputs)) = (caller, tensors) {
        let response = InferenceResponse { outputs: picked(outputs, &caller.wanted)?, ..InferenceResponse::default() };
        let placed = shared_memory::put(door, &response, caller.shared).await?;
        let bytes = response.outputs.iter().map(|output| output.data().len()).sum();
        let name = Arc::clone(&route.name);
        let encoding = off_the_reactor(bytes, move || {
            let head = ReplyHead { model_name: &name, model_version: None, id: &caller.id, shared: &placed };
            codec::v2_reply::encode(&head, &response, &caller.form)
        });
        return write(encoding.await?.map_err(InferenceError::from)?, packed, door).await;
    }
    let json = reply.body.to_json().await?;
    let checked = json.clone();
    if reply.body.is_raw() && !off_the_reactor(json.len(), move || is_json(&checked)).await? {
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = status(reply.status);
        return Ok(response);
    }
    let encoded = EncodedReply { content_type: "application/json", header_length: None, chunks: vec![json] };
    let mut response = write(encoded, packed, door).await?;
    *response.status_mut() = status(reply.status);
    Ok(response)
}

/// The outputs that are wanted, in that order.
fn picked(outputs: Vec<Tensor>, wanted: &[RequestedOutput]) -> Result<Vec<Tensor>, InferenceError> {
    if wanted.is_empty() {
        return Ok(outputs);
    }
    let find = |wanted: &RequestedOutput| {
        let found = outputs.iter().find(|output| **output.name() == *wanted.name).cloned();
        let names = || outputs.iter().map(|output| format!("`{}`", output.name())).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| InferenceError::InvalidInput(format!("unknown output `{}`; the graph answered with {}", wanted.name, names())))
    };
    wanted.iter().map(find).collect()
}

/// Answers one gRPC request to a graph.
pub(super) async fn answer_grpc(
    door: &Door,
    arrival: &Arrival,
    route: &GraphRoute,
    call: (&HeaderMap, ModelInferRequest),
) -> Result<tonic::Response<ModelInferResponse>, Refusal> {
    let mut count = Count { route, protocol: "grpc-v2", since: arrival.at, code: "cancelled" };
    let outcome = run_grpc(door, arrival, route, call).await;
    count.code = outcome.as_ref().map_or_else(|refusal| code_label(refusal.code()), |_| "OK");
    outcome
}

async fn run_grpc(
    door: &Door,
    arrival: &Arrival,
    route: &GraphRoute,
    (headers, message): (&HeaderMap, ModelInferRequest),
) -> Result<tonic::Response<ModelInferResponse>, Refusal> {
    let plan = Arc::clone(route.plan()?);
    let _place = door.limits.admit()?;
    let (limits, began) = (door.codec_limits(), Instant::now());
    let raw: usize = message.raw_input_contents.iter().map(Bytes::len).sum();
    let bytes = if message.raw_input_contents.is_empty() { message.encoded_len() } else { 0 };
    let mut room = door.limits.room();
    room.grow(raw + bytes)?;
    let mut decoded = off_the_reactor(bytes, move || codec::v2_grpc::decode(message, &limits)).await?.map_err(InferenceError::from)?;
    let _fetched = shared_memory::fetch(door, &mut decoded).await?;
    let (request, caller) = split(decoded);
    let parsed = began.elapsed();
    let request = GraphRequest {
        body: graph::Body::request(request),
        headers: without_grpc(headers),
        priority: arrival.priority.unwrap_or_default(),
        depth: depth_of(headers),
        deadline: arrival.deadline_after(plan.timeout_s),
    };
    let (outcome, steps) = door.graphs.run(route, request).await;
    let reply = outcome.map_err(refusal_of)?;
    // A sequence that ended with a failed step says 200 over HTTP, as KServe's does; here an error is an error.
    if !(200..300).contains(&reply.status) || reply.error.is_some() {
        return Err(refused_step(&reply).await);
    }
    let began = Instant::now();
    let Some(outputs) = reply.body.to_tensors(limits).await? else {
        return Err(Refusal::internal(format!("graph {} answered with JSON that holds no tensors: ask it over HTTP", route.name)));
    };
    let answer = InferenceResponse { outputs: picked(outputs, &caller.wanted)?, ..InferenceResponse::default() };
    let placed = shared_memory::put(door, &answer, caller.shared).await?;
    let head = ReplyHead { model_name: &route.name, model_version: None, id: &caller.id, shared: &placed };
    let mut response = tonic::Response::new(codec::v2_grpc::encode(&head, &answer, &caller.form));
    let headers: &mut HeaderMap = response.metadata_mut().as_mut();
    headers.insert(SERVER_TIMING, server_timing(parsed, &steps, began.elapsed()));
    Ok(response)
}

/// How many graphs stand behind a call.
fn depth_of(headers: &HeaderMap) -> usize {
    headers.get(DEPTH).and_then(|depth| depth.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// The headers of a gRPC call that are its caller's own, not the protocol's: steps elsewhere are sent JSON.
fn without_grpc(headers: &HeaderMap) -> HeaderMap {
    let own = |name: &HeaderName| *name != CONTENT_TYPE && !name.as_str().starts_with("grpc-");
    headers.iter().filter(|(name, _)| own(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn refusal_of(failure: Failure) -> Refusal {
    match failure.status {
        404 => Refusal::not_found(failure.cause),
        504 => Refusal::gateway_timeout(failure.cause),
        _ => Refusal::internal(failure.cause),
    }
}

/// A step's refusal over gRPC: as the service said it, or by the status that came over HTTP.
async fn refused_step(reply: &Reply) -> Refusal {
    if let Some(error) = &reply.error {
        return error.clone().into();
    }
    let body = reply.body.to_json().await.unwrap_or_default();
    let message: String = String::from_utf8_lossy(&body).chars().take(1024).collect();
    match reply.status {
        400 | 422 => Refusal::bad_request(message),
        404 => Refusal::not_found(message),
        413 | 429 => Refusal::too_large(message),
        501 => Refusal::not_implemented(message),
        503 => Refusal::unavailable(message),
        504 => Refusal::gateway_timeout(message),
        _ => Refusal::internal(message),
    }
}

/// `parse`, every step by node and name, `encode`.
fn server_timing(parsed: Duration, steps: &[StepTime], encoded: Duration) -> HeaderValue {
    let steps = steps.iter().map(|step| (step.label.as_str(), step.took));
    timing::header(std::iter::once(("parse", parsed)).chain(steps.take(timing::STOPS_MAX)).chain([("encode", encoded)]))
}

fn json_response(code: u16, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status(code);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Statuses of steps elsewhere are any; few of them become labels.
fn label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..300 => "200",
        400 => "400",
        404 => "404",
        408 => "408",
        413 => "413",
        415 => "415",
        501 => "501",
        503 => "503",
        504 => "504",
        other => {
            if other < 500 {
                "4xx"
            } else {
                "500"
            }
        }
    }
}
