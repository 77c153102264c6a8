//! The model repository extension: which models there are, and load and unload by hand.
//!
//! Source: Triton's "Model Repository Extension"; KServe answers load and unload with a body of its own.

use super::body::small_body;
use super::door::{Arrival, Door, ModelName};
use super::error::{Refusal, json_response};
use crate::router::Route;
use crate::router::repository::Action;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One model of the index.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    pub(super) state: &'static str,
    pub(super) reason: String,
}

/// What of the index is wanted.
#[derive(Debug, Default, Deserialize)]
struct Wanted {
    /// Only models that serve.
    #[serde(default)]
    ready: bool,
}

#[derive(Serialize)]
struct Loaded {
    name: Arc<str>,
    load: bool,
}

#[derive(Serialize)]
struct Unloaded {
    name: Arc<str>,
    unload: bool,
}

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
}

/// Carries out an action on a model; used by both doors.
pub(super) async fn act(door: &Door, arrival: &Arrival, model: &str, action: Action) -> Result<Arc<Route>, Refusal> {
    let route = door.route(arrival, model)?;
    let deadline = arrival.deadline(&route);
    match tokio::time::timeout_at(deadline, door.repository.ask(&route, action)).await {
        Ok(outcome) => outcome.map(|()| route).map_err(Refusal::from),
        Err(_) => Err(Refusal::gateway_timeout("the model is still being worked on; its state stands in the repository index")),
    }
}

/// The index, of all models or of those that serve; used by both doors.
pub(super) fn entries(door: &Door, arrival: &Arrival, only_ready: bool) -> Vec<Entry> {
    let routes = door.routes(arrival);
    let entries = routes.iter().map(|route| entry(route));
    entries.filter(|entry| !only_ready || entry.state == "READY").collect()
}

async fn index(State(door): State<Arc<Door>>, arrival: Arrival, request: Request) -> Result<Response, Refusal> {
    let body = small_body(request).await?;
    let wanted: Wanted =
        if body.is_empty() { Wanted::default() } else { serde_json::from_slice(&body).map_err(|error| not_json(&error))? };
    Ok(json_response(StatusCode::OK, &entries(&door, &arrival, wanted.ready)))
}

async fn load(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName, request: Request) -> Result<Response, Refusal> {
    small_body(request).await?;
    let route = act(&door, &arrival, &model, Action::Load).await?;
    Ok(json_response(StatusCode::OK, &Loaded { name: Arc::clone(&route.model_name), load: true }))
}

async fn unload(
    State(door): State<Arc<Door>>,
    arrival: Arrival,
    ModelName(model): ModelName,
    request: Request,
) -> Result<Response, Refusal> {
    small_body(request).await?;
    let route = act(&door, &arrival, &model, Action::Unload).await?;
    Ok(json_response(StatusCode::OK, &Unloaded { name: Arc::clone(&route.model_name), unload: true }))
}

fn entry(route: &Route) -> Entry {
    let name = Arc::clone(&route.model_name);
    match route.metadata() {
        Ok(metadata) => Entry { name, version: metadata.versions.last().cloned(), state: "READY", reason: String::new() },
        Err(error) => Entry { name, version: None, state: "UNAVAILABLE", reason: error.to_string() },
    }
}

fn not_json(error: &serde_json::Error) -> Refusal {
    Refusal::bad_request(format!("Unrecognized request format: {error}"))
}
