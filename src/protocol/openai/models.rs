//! `/v1/models` below the prefix: what OpenAI's interface can be asked of.
//!
//! Without the prefix this path is KServe's v1.

use super::error::Problem;
use super::texts::now_s;
use crate::protocol::door::{Arrival, Door, ModelName};
use crate::protocol::error::json_response;
use crate::router::Route;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde::Serialize;
use std::sync::{Arc, LazyLock};

/// When the routes were made, as KServe's server tells its start.
static STARTED_S: LazyLock<u64> = LazyLock::new(now_s);

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Serialize)]
struct Model {
    id: Arc<str>,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Door>> {
    LazyLock::force(&STARTED_S);
    Router::new().route("/v1/models", get(list)).route("/v1/models/{model}", get(show))
}

fn describe(id: &Arc<str>) -> Model {
    Model { id: Arc::clone(id), object: "model", created: *STARTED_S, owned_by: "" }
}

/// Models that are asked over this interface, those that do not serve yet left out.
async fn list(State(door): State<Arc<Door>>, arrival: Arrival) -> Response {
    let routes = door.routes(&arrival);
    let asked = routes.iter().filter(|route| can_be_asked(route));
    json_response(StatusCode::OK, &List { object: "list", data: asked.map(|route| describe(&route.model_name)).collect() })
}

/// Whether a model answers texts, or writes them.
fn can_be_asked(route: &Route) -> bool {
    route.metadata().is_ok_and(|metadata| !metadata.abilities.is_empty()) || route.ready().is_ok_and(|handle| handle.generator().is_some())
}

async fn show(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName) -> Result<Response, Problem> {
    let route = door.route(&arrival, &model)?;
    route.metadata()?;
    Ok(json_response(StatusCode::OK, &describe(&route.model_name)))
}
