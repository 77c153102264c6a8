//! `/v1/embeddings` and `/v1/rerank`: texts to an encoder, its vectors or scores back.

use super::error::Problem;
use super::read;
use crate::codec::openai::TextLimits;
use crate::codec::openai::embeddings::Embeddings;
use crate::codec::openai::rerank::Rerank;
use crate::inference::{Ability, InferenceRequest, InferenceResponse};
use crate::observe::{GenerationMetrics, Operation};
use crate::protocol::door::{Arrival, Door, check_name};
use crate::protocol::error::Refusal;
use crate::protocol::exchange::{Exchange, Wire};
use crate::protocol::logging;
use crate::protocol::timing::{REVISION, SERVER_TIMING};
use crate::protocol::work::off_the_reactor;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use uuid::Uuid;

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new().route("/v1/embeddings", post(embed)).route("/v1/rerank", post(rerank))
}

async fn embed(State(door): State<Arc<Door>>, arrival: Arrival, request: Request) -> Response {
    answer(&door, &arrival, request, Kind::Embeddings).await
}

async fn rerank(State(door): State<Arc<Door>>, arrival: Arrival, request: Request) -> Response {
    answer(&door, &arrival, request, Kind::Rerank).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embeddings,
    Rerank,
}

/// A request that was read.
#[derive(Debug)]
enum Asked {
    Embeddings(Embeddings),
    Rerank(Rerank),
}

impl Kind {
    fn read(self, body: &[u8], limits: &TextLimits) -> Result<Asked, Problem> {
        let value: Value =
            serde_json::from_slice(body).map_err(|error| Refusal::unprocessable(format!("the body is not JSON: {error}")))?;
        Ok(match self {
            Self::Embeddings => Asked::Embeddings(Embeddings::read(&value, limits)?),
            Self::Rerank => Asked::Rerank(Rerank::read(&value, limits)?),
        })
    }

    const fn ability(self) -> Ability {
        match self {
            Self::Embeddings => Ability::Embeddings,
            Self::Rerank => Ability::Rerank,
        }
    }

    /// KServe's name for the endpoint.
    const fn api(self) -> &'static str {
        match self {
            Self::Embeddings => "Embeddings API",
            Self::Rerank => "Rerank API",
        }
    }
}

impl Asked {
    fn model(&self) -> &str {
        match self {
            Self::Embeddings(asked) => &asked.model,
            Self::Rerank(asked) => &asked.model,
        }
    }

    fn take_request(&mut self) -> InferenceRequest {
        match self {
            Self::Embeddings(asked) => std::mem::take(&mut asked.request),
            Self::Rerank(asked) => std::mem::take(&mut asked.request),
        }
    }

    fn write(&self, response: &InferenceResponse) -> Result<Vec<u8>, Problem> {
        let id = Uuid::new_v4();
        match self {
            Self::Embeddings(asked) => Ok(asked.write(response, &format!("embd-{id}"), now_s())?),
            Self::Rerank(asked) => Ok(asked.write(response, &format!("rerank-{id}")).to_string().into_bytes()),
        }
    }
}

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

async fn answer(door: &Arc<Door>, arrival: &Arrival, request: Request, kind: Kind) -> Response {
    let (headers, held) = match read(door, arrival, request).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    run(door, arrival, (&headers, held.bytes.clone()), kind).await.unwrap_or_else(IntoResponse::into_response)
}

async fn run(door: &Door, arrival: &Arrival, (headers, body): (&HeaderMap, Bytes), kind: Kind) -> Result<Response, Problem> {
    let (limits, began, bytes) = (limits(door), Instant::now(), body.clone());
    let asked = off_the_reactor(body.len(), move || kind.read(&bytes, &limits)).await??;
    check_name(asked.model())?;
    let mut exchange = Exchange::begin(door, arrival, asked.model(), Wire::OpenAi)?;
    exchange.stages.parse = began.elapsed();
    let logged = logging::named(&door.router, &arrival.reach, &exchange.route, headers);
    if let Some(logged) = &logged {
        logging::request_bytes(logged, &body);
    }
    let outcome = infer(&mut exchange, asked, kind).await;
    // The conventions know no word for reranking.
    if kind == Kind::Embeddings {
        let metrics = GenerationMetrics::new(&exchange.route.model_name, Operation::Embeddings);
        let failed = outcome.as_ref().err().map(|problem| problem.refusal().status());
        metrics.request(exchange.began().elapsed(), failed.as_ref().map(StatusCode::as_str));
    }
    exchange.end(&outcome.as_ref().map_err(|problem| problem.refusal().clone()));
    let response = outcome?;
    Ok(match &logged {
        Some(logged) => logging::response(logged, response),
        None => response,
    })
}

async fn infer(exchange: &mut Exchange, mut asked: Asked, kind: Kind) -> Result<Response, Problem> {
    if !exchange.metadata()?.abilities.contains(&kind.ability()) {
        return Err(Problem::bad_request(format!("Model {} does not support {}", asked.model(), kind.api())));
    }
    let answer = exchange.infer(asked.take_request()).await?;
    if let Asked::Embeddings(embeddings) = &asked {
        GenerationMetrics::new(&exchange.route.model_name, Operation::Embeddings).prompt(embeddings.tokens(&answer));
    }
    let (revision, began) = (Arc::clone(&answer.revision), Instant::now());
    let bytes = answer.outputs.iter().map(|output| output.data().len()).sum();
    let json = off_the_reactor(bytes, move || asked.write(&answer)).await??;
    exchange.stages.encode = began.elapsed();
    let mut response = Response::new(Body::from(json));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(SERVER_TIMING, exchange.stages.header());
    if let Ok(revision) = HeaderValue::from_str(&revision) {
        headers.insert(REVISION, revision);
    }
    Ok(response)
}

fn limits(door: &Door) -> TextLimits {
    TextLimits { texts_max: door.config.openai.texts_max, decoded_bytes_max: door.config.decoded_bytes_max }
}
