//! An inference over HTTP, v1 or v2: head, body, tensors, model, and the answer's body and headers.

use super::body::{self, Reading};
use super::compression::{Encoding, compress};
use super::content::{Content, HEADER_LENGTH};
use super::door::{Arrival, Door};
use super::entrance::refuse;
use super::error::Refusal;
use super::exchange::{Exchange, Wire};
use super::reply_body::Chunks;
use super::shared_memory;
use super::timing::{REVISION, SERVER_TIMING};
use super::work::off_the_reactor;
use crate::codec::shared_memory::SharedOutput;
use crate::codec::{self, Decoded, EncodedReply, ReplyForm, ReplyHead};
use crate::inference::{InferenceError, InferenceResponse, ModelMetadata};
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;
use tokio::time::Instant;

/// The content type of answers that are worth packing.
const JSON: &str = "application/json";

/// How a body came and how its answer may go.
#[derive(Debug, Clone, Copy)]
struct Wrapping {
    content: Content,
    packed: Encoding,
    answer: Encoding,
}

/// The shape of a request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    V1,
    /// v1 as a service with KServe's batcher speaks it.
    V1Batched,
    V2,
}

/// What is needed to write an answer.
struct Reply {
    shape: Shape,
    form: ReplyForm,
    id: String,
    model_name: Arc<str>,
    model_version: Option<String>,
    shared: Vec<SharedOutput>,
}

/// Answers one inference request.
pub(crate) async fn answer(wire: Wire, door: &Door, arrival: &Arrival, model: &str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Whether the model is there and serves is decided before the body is read.
    let mut exchange = match Exchange::begin(door, arrival, model, wire) {
        Ok(exchange) => exchange,
        Err(refusal) => return refuse(&parts, body, refusal, false).await,
    };
    let wrapping = match Wrapping::read(&parts.headers, wire, door) {
        Ok(wrapping) => wrapping,
        Err(refusal) => {
            exchange.end(&Err::<(), _>(refusal.clone()));
            return refuse(&parts, body, refusal, false).await;
        }
    };
    let outcome = run(wire, door, arrival, &mut exchange, (wrapping, &parts.headers, body)).await;
    exchange.end(&outcome);
    outcome.unwrap_or_else(IntoResponse::into_response)
}

async fn run(
    wire: Wire,
    door: &Door,
    arrival: &Arrival,
    exchange: &mut Exchange,
    (wrapping, headers, body): (Wrapping, &HeaderMap, Body),
) -> Result<Response, Refusal> {
    let reading = Reading {
        encoding: wrapping.packed,
        tensors_at: wrapping.content.tensors_at(),
        until: exchange.deadline.min(arrival.at + door.config.body_read_timeout()),
        ratio_max: door.config.inflate_ratio_max,
        bytes_max: usize::MAX,
    };
    let held = body::read(headers, body, &door.limits, reading).await?;
    let metadata = Arc::clone(exchange.metadata()?);
    let shape = match wire {
        Wire::V1 if exchange.route.batcher_replies => Shape::V1Batched,
        Wire::V1 => Shape::V1,
        Wire::V2 | Wire::Grpc | Wire::OpenAi => Shape::V2,
    };
    let limits = door.codec_limits();
    let (bytes, content, began) = (held.bytes.clone(), wrapping.content, Instant::now());
    let mut decoded = off_the_reactor(work_bytes(&bytes, content), {
        let metadata = Arc::clone(&metadata);
        let model = Arc::clone(&exchange.route.model_name);
        move || decode(shape, content, &bytes, (&model, &metadata), &limits)
    })
    .await??;
    let room = shared_memory::fetch(door, &mut decoded).await?;
    exchange.stages.parse = began.elapsed();

    let mut reply = Reply {
        shape,
        id: decoded.request.id.take().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        form: decoded.reply,
        model_name: Arc::clone(&exchange.route.model_name),
        model_version: metadata.versions.last().cloned(),
        shared: Vec::new(),
    };
    let response = exchange.infer(decoded.request).await?;
    // The request's bytes are free from here on.
    drop((held, room));
    let (revision, began) = (Arc::clone(&response.revision), Instant::now());
    reply.shared = shared_memory::put(door, &response, decoded.shared.outputs).await?;
    let bytes = response.outputs.iter().map(|output| output.data().len()).sum();
    let encoded = off_the_reactor(bytes, move || reply.encode(&response)).await??;
    let mut answer = write(encoded, wrapping.answer, door).await?;
    exchange.stages.encode = began.elapsed();
    answer.headers_mut().insert(SERVER_TIMING, exchange.stages.header());
    if let Ok(revision) = HeaderValue::from_str(&revision) {
        answer.headers_mut().insert(REVISION, revision);
    }
    Ok(answer)
}

impl Wrapping {
    fn read(headers: &HeaderMap, wire: Wire, door: &Door) -> Result<Self, Refusal> {
        let answer = if door.config.compression { Encoding::of_answer(headers) } else { Encoding::Identity };
        Ok(Self { content: Content::read(headers, wire)?, packed: Encoding::of_request(headers)?, answer })
    }
}

impl Reply {
    fn encode(&self, response: &InferenceResponse) -> Result<EncodedReply, Refusal> {
        let Self { model_name, model_version, id, shared, .. } = self;
        let head = ReplyHead { model_name, model_version: model_version.as_deref(), id, shared };
        let encoded = match self.shape {
            Shape::V1 => codec::v1::encode(response),
            Shape::V1Batched => codec::v1::encode_batched(response),
            Shape::V2 => codec::v2_reply::encode(&head, response, &self.form),
        };
        encoded.map_err(|error| InferenceError::from(error).into())
    }
}

fn decode(
    shape: Shape,
    content: Content,
    body: &Bytes,
    (model, metadata): (&str, &ModelMetadata),
    limits: &codec::Limits,
) -> Result<Decoded, Refusal> {
    let decoded = match (shape, content) {
        (Shape::V1, _) => codec::v1::decode(body, metadata, limits),
        (Shape::V1Batched, _) => codec::v1::decode_batched(body, metadata, limits),
        (_, Content::Json) => codec::v2_json::decode(body, model, limits),
        (_, Content::Binary { json_length }) => {
            codec::v2_binary::decode(body, Some(itoa::Buffer::new().format(json_length)), model, limits)
        }
    };
    decoded.map_err(|error| InferenceError::from(error).into())
}

/// How many bytes have to be looked at one by one: binary tensors stay as they are.
fn work_bytes(body: &Bytes, content: Content) -> usize {
    match content {
        Content::Json => body.len(),
        Content::Binary { json_length } => json_length.min(body.len()),
    }
}

/// Makes a response of an encoded answer; packs long JSON for those who take it.
pub(super) async fn write(encoded: EncodedReply, encoding: Encoding, door: &Door) -> Result<Response, Refusal> {
    let packable = encoded.content_type == JSON && encoded.len() >= door.config.compress_bytes_min && door.config.compression;
    let (kind, header_length) = (encoded.content_type, encoded.header_length);
    let mut response = if packable && encoding != Encoding::Identity {
        packed(encoded, encoding).await?
    } else {
        Response::new(Body::new(Chunks::new(encoded.chunks)))
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if packable {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
    if let Some(length) = header_length {
        headers.insert(HEADER_LENGTH, length.into());
    }
    Ok(response)
}

async fn packed(encoded: EncodedReply, encoding: Encoding) -> Result<Response, Refusal> {
    let bytes = encoded.len();
    let compressed = off_the_reactor(bytes, move || compress(&encoded.chunks.concat(), encoding)).await?;
    let body = compressed.map_err(|error| Refusal::internal(format!("the answer could not be packed: {error}")))?;
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_ENCODING, encoding.header());
    Ok(response)
}
