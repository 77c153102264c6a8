//! The paths by which regions are registered, listed and forgotten.

use super::super::body::small_body;
use super::super::door::Door;
use super::super::error::{Refusal, json_response};
use super::NO_CUDA;
use super::region::Region;
use crate::codec::open_inference::system_shared_memory_status_response::RegionStatus;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// What is registered, as Triton's clients send it.
#[derive(Debug, Deserialize)]
struct Registration {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    key: &'a str,
    offset: u64,
    byte_size: u64,
}

/// The paths of this file.
pub(in super::super) fn routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/v2/systemsharedmemory/status", get(status))
        .route("/v2/systemsharedmemory/unregister", post(unregister))
        .route("/v2/systemsharedmemory/region/{region}/status", get(status_of))
        .route("/v2/systemsharedmemory/region/{region}/register", post(register))
        .route("/v2/systemsharedmemory/region/{region}/unregister", post(unregister_one))
        .route("/v2/cudasharedmemory/status", get(no_regions))
        .route("/v2/cudasharedmemory/unregister", post(nothing))
        .route("/v2/cudasharedmemory/region/{region}/status", get(no_cuda))
        .route("/v2/cudasharedmemory/region/{region}/register", post(no_cuda))
        .route("/v2/cudasharedmemory/region/{region}/unregister", post(nothing))
}

/// The status of a region as gRPC says it.
pub(in super::super) fn message(region: &Region) -> RegionStatus {
    RegionStatus { name: region.name.clone(), key: region.key.clone(), offset: region.offset, byte_size: region.byte_size }
}

async fn status(State(door): State<Arc<Door>>) -> Result<Response, Refusal> {
    listed(&door, "")
}

async fn status_of(State(door): State<Arc<Door>>, Path(region): Path<String>) -> Result<Response, Refusal> {
    listed(&door, &region)
}

async fn register(State(door): State<Arc<Door>>, Path(region): Path<String>, request: Request) -> Result<Response, Refusal> {
    let regions = door.regions()?;
    let body = small_body(request).await?;
    let unreadable = |error: serde_json::Error| Refusal::bad_request(format!("Unrecognized request format: {error}"));
    let Registration { key, offset, byte_size } = serde_json::from_slice(&body).map_err(unreadable)?;
    regions.register(&region, &key, offset, byte_size)?;
    Ok(StatusCode::OK.into_response())
}

async fn unregister(State(door): State<Arc<Door>>) -> Result<Response, Refusal> {
    door.regions()?.unregister("");
    Ok(StatusCode::OK.into_response())
}

async fn unregister_one(State(door): State<Arc<Door>>, Path(region): Path<String>) -> Result<Response, Refusal> {
    door.regions()?.unregister(&region);
    Ok(StatusCode::OK.into_response())
}

fn listed(door: &Door, name: &str) -> Result<Response, Refusal> {
    let regions = door.regions()?.status(name)?;
    Ok(json_response(StatusCode::OK, &regions.iter().map(|region| entry(region)).collect::<Vec<_>>()))
}

fn entry(region: &Region) -> Entry<'_> {
    Entry { name: &region.name, key: &region.key, offset: region.offset, byte_size: region.byte_size }
}

/// There are never any; Triton's own examples look.
async fn no_regions() -> Response {
    json_response(StatusCode::OK, &json!([]))
}

/// There is nothing to forget; Triton's own examples begin with it.
async fn nothing() -> StatusCode {
    StatusCode::OK
}

async fn no_cuda() -> Refusal {
    Refusal::not_implemented(NO_CUDA)
}
