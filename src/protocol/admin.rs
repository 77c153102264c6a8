//! What operators and probes read: `/`, `/livez`, `/readyz` and `/metrics`.

use super::door::Door;
use super::error::{Refusal, json_response};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use std::sync::Arc;

/// Prometheus' text form.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Serialize)]
struct Alive {
    status: &'static str,
}

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new().route("/", get(alive)).route("/livez", get(live)).route("/readyz", get(ready)).route("/metrics", get(metrics))
}

/// KServe's liveness probe.
async fn alive() -> Response {
    json_response(StatusCode::OK, &Alive { status: "alive" })
}

async fn live() -> &'static str {
    "ok\n"
}

/// 200 once every resource found at start was tried; a broken model does not hide the good ones.
async fn ready(State(door): State<Arc<Door>>) -> Result<&'static str, Refusal> {
    if *door.ready.borrow() { Ok("ok\n") } else { Err(Refusal::unavailable("the resources found at start are still being tried")) }
}

async fn metrics(State(door): State<Arc<Door>>) -> Response {
    ([(CONTENT_TYPE, PROMETHEUS)], (door.metrics)()).into_response()
}
