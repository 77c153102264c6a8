//! The Open Inference Protocol over HTTP: server and model metadata, health, inference.

use super::door::{Arrival, Door, ModelName};
use super::error::{Refusal, json_response};
use super::exchange::Wire;
use super::graph;
use super::http_infer;
use super::v1;
use crate::inference::{ModelMetadata, TensorSpec};
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use serde::Serialize;
use std::sync::Arc;

/// The server's name in its metadata.
pub(super) const SERVER_NAME: &str = "kserved";
/// Its version.
pub(super) const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");
/// What every server does beyond the protocol's core, under the names Triton gave.
const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "model_repository", "model_configuration", "statistics"];
/// KServe's words for every path with a version.
pub(super) const NO_VERSIONS: &str = "Model versioning not supported yet.";

#[derive(Serialize)]
struct Server {
    name: &'static str,
    version: &'static str,
    extensions: Vec<&'static str>,
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

#[derive(Serialize)]
struct ServerReady {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    versions: &'a [String],
    platform: &'a str,
    inputs: Vec<Spec<'a>>,
    outputs: Vec<Spec<'a>>,
}

#[derive(Serialize)]
struct Spec<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [i64],
}

/// What this server does beyond the protocol's core: only what a client may really call is named.
pub(super) fn extensions(door: &Door) -> Vec<&'static str> {
    let shared = door.regions().is_ok().then_some("system_shared_memory");
    EXTENSIONS.into_iter().chain(shared).collect()
}

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models", get(v1::list))
        .route("/v2/models/{model}", get(model))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}", get(versioned))
        .route("/v2/models/{model}/versions/{version}/ready", get(versioned))
        .route("/v2/models/{model}/versions/{version}/infer", post(versioned))
}

async fn server(State(door): State<Arc<Door>>) -> Response {
    json_response(StatusCode::OK, &Server { name: SERVER_NAME, version: SERVER_VERSION, extensions: extensions(&door) })
}

async fn live() -> Response {
    json_response(StatusCode::OK, &Live { live: true })
}

/// True when every model serves, as the protocol says; KServe's own server says it always.
async fn ready(State(door): State<Arc<Door>>, arrival: Arrival) -> Response {
    if door.is_ready(&arrival) {
        return json_response(StatusCode::OK, &ServerReady { ready: true, error: None });
    }
    json_response(StatusCode::SERVICE_UNAVAILABLE, &ServerReady { ready: false, error: Some("Server is not ready.") })
}

async fn model(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName) -> Result<Response, Refusal> {
    if let Some(graph) = door.graph(&arrival, &model) {
        return Ok(json_response(StatusCode::OK, &describe(&graph.name, &door.graphs.metadata(&graph)?)));
    }
    let route = door.route(&arrival, &model)?;
    Ok(json_response(StatusCode::OK, &describe(&route.model_name, route.metadata()?)))
}

async fn model_ready(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName) -> Result<Response, Refusal> {
    if let Some(graph) = door.graph(&arrival, &model) {
        graph.plan()?;
        return Ok(json_response(StatusCode::OK, &v1::Ready { name: Arc::clone(&graph.name), ready: true }));
    }
    v1::readiness(&door, &arrival, &model)
}

async fn infer(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName, request: Request) -> Response {
    if let Some(graph) = door.graph(&arrival, &model) {
        return graph::answer(&door, &arrival, &graph, request).await;
    }
    http_infer::answer(Wire::V2, &door, &arrival, &model, request).await.into_response()
}

async fn versioned() -> Refusal {
    Refusal::not_implemented(NO_VERSIONS)
}

fn describe<'a>(name: &'a str, metadata: &'a ModelMetadata) -> Model<'a> {
    let specs = |specs: &'a [TensorSpec]| specs.iter().map(Spec::of).collect();
    Model {
        name,
        versions: &metadata.versions,
        platform: &metadata.platform,
        inputs: specs(&metadata.inputs),
        outputs: specs(&metadata.outputs),
    }
}

impl<'a> Spec<'a> {
    fn of(spec: &'a TensorSpec) -> Self {
        Self { name: &spec.name, datatype: spec.datatype.name(), shape: &spec.shape }
    }
}
