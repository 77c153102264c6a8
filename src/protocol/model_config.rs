//! How a model is served, as Triton's clients ask for it: types, shapes, workers, whether requests are batched.
//!
//! Source: Triton's "Model Configuration Extension"; `perf_analyzer` asks for it before it measures.

use super::door::{Arrival, Door, ModelName, ModelVersion};
use super::error::{Refusal, json_response};
use crate::codec::open_inference::model_config::SchedulingChoice;
use crate::codec::open_inference::model_instance_group::Kind;
use crate::codec::open_inference::model_version_policy::{Latest, PolicyChoice};
use crate::codec::open_inference::{
    DataType as ConfigType, ModelConfig, ModelDynamicBatching, ModelInput, ModelInstanceGroup, ModelOutput, ModelTransactionPolicy,
    ModelVersionPolicy,
};
use crate::inference::{ModelMetadata, TensorSpec};
use crate::pool::ModelHandle;
use crate::tensor::DataType;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

/// The version of a model whose folder names none, as Triton counts.
const FIRST_VERSION: &str = "1";

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new().route("/v2/models/{model}/config", get(current)).route("/v2/models/{model}/versions/{version}/config", get(versioned))
}

/// How a model is served, awake or asleep; how many workers it has is known while it is awake.
///
/// # Errors
/// 404 for a model or a version nobody has, 503 for one that does not serve.
pub(super) fn config(door: &Door, arrival: &Arrival, model: &str, version: &str) -> Result<ModelConfig, Refusal> {
    if door.graph(arrival, model).is_some() {
        let message = "is an InferenceGraph: it has metadata, and each of its services has a configuration of its own";
        return Err(Refusal::not_implemented(format!("`{model}` {message}")));
    }
    let route = door.route(arrival, model)?;
    let metadata = route.metadata()?;
    check_version(model, metadata, version)?;
    Ok(describe(&route.model_name, metadata, route.ready().ok()))
}

/// The version that answers, as Triton's extensions name it.
pub(super) fn served_version(metadata: &ModelMetadata) -> &str {
    metadata.versions.last().map_or(FIRST_VERSION, String::as_str)
}

/// Refuses a version that is not the one served; an empty one is any.
pub(super) fn check_version(model: &str, metadata: &ModelMetadata, version: &str) -> Result<(), Refusal> {
    let served = served_version(metadata);
    if version.is_empty() || version == served {
        return Ok(());
    }
    let version: String = version.chars().take(64).collect();
    Err(Refusal::not_found(format!("model `{model}` has no version `{version}` here; it serves version `{served}`")))
}

async fn current(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName) -> Result<Response, Refusal> {
    Ok(json_response(StatusCode::OK, &as_json(&config(&door, &arrival, &model, "")?)))
}

async fn versioned(State(door): State<Arc<Door>>, arrival: Arrival, at: ModelVersion) -> Result<Response, Refusal> {
    Ok(json_response(StatusCode::OK, &as_json(&config(&door, &arrival, &at.model, &at.version)?)))
}

fn describe(name: &str, metadata: &ModelMetadata, awake: Option<&ModelHandle>) -> ModelConfig {
    ModelConfig {
        name: name.to_owned(),
        platform: metadata.platform.clone(),
        backend: metadata.platform.split('_').next().unwrap_or_default().to_owned(),
        version_policy: Some(ModelVersionPolicy { policy_choice: Some(PolicyChoice::Latest(Latest { num_versions: 1 })) }),
        // The shapes of the metadata are whole; a batch size here would make clients drop their first dimension.
        max_batch_size: 0,
        input: metadata.inputs.iter().map(input).collect(),
        output: metadata.outputs.iter().map(output).collect(),
        instance_group: awake.map(|handle| workers(name, handle)).into_iter().collect(),
        scheduling_choice: awake.and_then(ModelHandle::batching).map(|batching| {
            let delay = u64::try_from(batching.delay.as_micros()).unwrap_or(u64::MAX);
            SchedulingChoice::DynamicBatching(ModelDynamicBatching { max_queue_delay_microseconds: delay })
        }),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
    }
}

fn workers(name: &str, handle: &ModelHandle) -> ModelInstanceGroup {
    let count = i32::try_from(handle.workers_max()).unwrap_or(i32::MAX);
    ModelInstanceGroup { name: name.to_owned(), count, kind: Kind::Cpu.into() }
}

fn input(spec: &TensorSpec) -> ModelInput {
    let data_type = config_type(spec.datatype).into();
    ModelInput { name: spec.name.to_string(), data_type, dims: spec.shape.clone(), optional: spec.optional }
}

fn output(spec: &TensorSpec) -> ModelOutput {
    ModelOutput { name: spec.name.to_string(), data_type: config_type(spec.datatype).into(), dims: spec.shape.clone() }
}

const fn config_type(datatype: DataType) -> ConfigType {
    match datatype {
        DataType::Bool => ConfigType::TypeBool,
        DataType::Uint8 => ConfigType::TypeUint8,
        DataType::Uint16 => ConfigType::TypeUint16,
        DataType::Uint32 => ConfigType::TypeUint32,
        DataType::Uint64 => ConfigType::TypeUint64,
        DataType::Int8 => ConfigType::TypeInt8,
        DataType::Int16 => ConfigType::TypeInt16,
        DataType::Int32 => ConfigType::TypeInt32,
        DataType::Int64 => ConfigType::TypeInt64,
        DataType::Fp16 => ConfigType::TypeFp16,
        DataType::Bf16 => ConfigType::TypeBf16,
        DataType::Fp32 => ConfigType::TypeFp32,
        DataType::Fp64 => ConfigType::TypeFp64,
        DataType::Bytes => ConfigType::TypeString,
    }
}

/// The JSON of a message; members without a meaning here are left out, `null` is never sent.
fn as_json(config: &ModelConfig) -> Value {
    let inputs = config.input.iter().map(
        |input| json!({"name": input.name, "data_type": input.data_type().as_str_name(), "dims": input.dims, "optional": input.optional}),
    );
    let outputs =
        config.output.iter().map(|output| json!({"name": output.name, "data_type": output.data_type().as_str_name(), "dims": output.dims}));
    let groups =
        config.instance_group.iter().map(|group| json!({"name": group.name, "kind": group.kind().as_str_name(), "count": group.count}));
    let mut json = json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": config.max_batch_size,
        "input": inputs.collect::<Vec<_>>(),
        "output": outputs.collect::<Vec<_>>(),
        "instance_group": groups.collect::<Vec<_>>(),
        "model_transaction_policy": {"decoupled": false},
    });
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice {
        json["dynamic_batching"] = json!({"max_queue_delay_microseconds": batching.max_queue_delay_microseconds});
    }
    json
}
