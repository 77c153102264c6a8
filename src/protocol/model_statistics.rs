//! What models did so far, as Triton's clients ask for it; a look at numbers that wakes no model and keeps none.
//!
//! Source: Triton's "Statistics Extension".

use super::door::{Arrival, Door, ModelName, ModelVersion};
use super::error::{Refusal, json_response};
use super::model_config::{check_version, served_version};
use crate::codec::open_inference::{InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration};
use crate::pool::statistics::{BatchSnapshot, Snapshot, Total};
use crate::router::Route;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/v2/models/stats", get(all))
        .route("/v2/models/{model}/stats", get(current))
        .route("/v2/models/{model}/versions/{version}/stats", get(versioned))
}

/// The numbers of one model, or of all that serve when `model` is empty; one entry a revision.
///
/// # Errors
/// 404 for a model or a version nobody has, 503 for one that does not serve.
pub(super) fn statistics(door: &Door, arrival: &Arrival, model: &str, version: &str) -> Result<Vec<ModelStatistics>, Refusal> {
    if model.is_empty() {
        let routes = door.routes(arrival);
        return Ok(routes.iter().flat_map(Route::revisions).filter_map(|route| describe(&route).ok()).collect());
    }
    let route = door.route(arrival, model)?;
    check_version(model, route.metadata()?, version)?;
    route.revisions().iter().map(|route| describe(route)).collect()
}

async fn all(State(door): State<Arc<Door>>, arrival: Arrival) -> Result<Response, Refusal> {
    Ok(answer(&statistics(&door, &arrival, "", "")?))
}

async fn current(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName) -> Result<Response, Refusal> {
    Ok(answer(&statistics(&door, &arrival, &model, "")?))
}

async fn versioned(State(door): State<Arc<Door>>, arrival: Arrival, at: ModelVersion) -> Result<Response, Refusal> {
    Ok(answer(&statistics(&door, &arrival, &at.model, &at.version)?))
}

/// One model's numbers; a model that sleeps begins anew when it wakes, so it has done nothing.
fn describe(route: &Route) -> Result<ModelStatistics, Refusal> {
    let seen = route.ready().map(|handle| handle.statistics().snapshot()).unwrap_or_default();
    Ok(ModelStatistics {
        name: route.model_name.to_string(),
        version: served_version(route.metadata()?).to_owned(),
        last_inference: seen.last_inference_ms,
        inference_count: seen.success.count,
        execution_count: seen.executions,
        inference_stats: Some(stages(&seen)),
        batch_stats: seen.batches.iter().map(batch).collect(),
    })
}

fn stages(seen: &Snapshot) -> InferStatistics {
    // Nothing is cached here, so the two last ones stay at zero.
    let never = Total::default();
    InferStatistics {
        success: duration(seen.success),
        fail: duration(seen.fail),
        queue: duration(seen.queue),
        compute_input: duration(seen.compute_input),
        compute_infer: duration(seen.compute_infer),
        compute_output: duration(seen.compute_output),
        cache_hit: duration(never),
        cache_miss: duration(never),
    }
}

fn batch(batch: &BatchSnapshot) -> InferBatchStatistics {
    InferBatchStatistics {
        batch_size: batch.size,
        compute_input: duration(batch.joining),
        compute_infer: duration(batch.infer),
        // Cutting is timed together with joining.
        compute_output: duration(Total { count: batch.infer.count, ns: 0 }),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the message's fields are optional")]
const fn duration(total: Total) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: total.count, ns: total.ns })
}

fn answer(models: &[ModelStatistics]) -> Response {
    let models: Vec<Value> = models.iter().map(as_json).collect();
    json_response(StatusCode::OK, &json!({"model_stats": models}))
}

fn as_json(model: &ModelStatistics) -> Value {
    let stages = model.inference_stats.unwrap_or_default();
    let batches = model.batch_stats.iter().map(|batch| {
        json!({
            "batch_size": batch.batch_size,
            "compute_input": count(batch.compute_input),
            "compute_infer": count(batch.compute_infer),
            "compute_output": count(batch.compute_output),
        })
    });
    json!({
        "name": model.name,
        "version": model.version,
        "last_inference": model.last_inference,
        "inference_count": model.inference_count,
        "execution_count": model.execution_count,
        "inference_stats": {
            "success": count(stages.success),
            "fail": count(stages.fail),
            "queue": count(stages.queue),
            "compute_input": count(stages.compute_input),
            "compute_infer": count(stages.compute_infer),
            "compute_output": count(stages.compute_output),
            "cache_hit": count(stages.cache_hit),
            "cache_miss": count(stages.cache_miss),
        },
        "batch_stats": batches.collect::<Vec<_>>(),
    })
}

fn count(duration: Option<StatisticDuration>) -> Value {
    let StatisticDuration { count, ns } = duration.unwrap_or_default();
    json!({"count": count, "ns": ns})
}
