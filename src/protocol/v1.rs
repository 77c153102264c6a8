//! KServe v1: `/v1/models`, `/v1/models/iris`, `/v1/models/iris:predict`.

use super::door::{Arrival, Door, ModelName};
use super::error::{Refusal, json_response, only};
use super::exchange::Wire;
use super::http_infer;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Models {
    models: Vec<Arc<str>>,
}

/// Readiness of one model, in v1 and v2 alike.
#[derive(Serialize)]
pub(super) struct Ready {
    pub(super) name: Arc<str>,
    pub(super) ready: bool,
}

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new().route("/v1/models", get(list)).route("/v1/models/{model}", get(show).post(ask))
}

/// Names only, those not ready included. v2 answers the same.
pub(super) async fn list(State(door): State<Arc<Door>>, arrival: Arrival) -> Response {
    let models = door.routes(&arrival).iter().map(|route| Arc::clone(&route.model_name)).collect();
    json_response(StatusCode::OK, &Models { models })
}

/// 200 when the model serves, 404 or 503 when not. v2 answers the same.
pub(super) fn readiness(door: &Door, arrival: &Arrival, model: &str) -> Result<Response, Refusal> {
    let route = door.route(arrival, model)?;
    route.metadata()?;
    Ok(json_response(StatusCode::OK, &Ready { name: Arc::clone(&route.model_name), ready: true }))
}

async fn show(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName) -> Response {
    if verb_of(&model).is_some() {
        return only("POST");
    }
    readiness(&door, &arrival, &model).into_response()
}

async fn ask(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName, request: Request) -> Response {
    match verb_of(&model) {
        Some((model, "predict")) => http_infer::answer(Wire::V1, &door, &arrival, model, request).await,
        Some((model, "explain")) => explain(&door, &arrival, model).into_response(),
        Some((_, verb)) => Refusal::not_found(format!("no such verb: `{verb}`; known are `predict` and `explain`")).into_response(),
        None => only("GET,HEAD"),
    }
}

/// Explainers are not served; a model that is not there is said first.
fn explain(door: &Door, arrival: &Arrival, model: &str) -> Result<Response, Refusal> {
    door.route(arrival, model)?.metadata()?;
    Err(Refusal::not_implemented(format!("Model with name {model} has no explainer.")))
}

fn verb_of(model: &str) -> Option<(&str, &str)> {
    model.rsplit_once(':')
}
