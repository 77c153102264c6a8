//! From what the user wrote to what shall run: pure, and it says why.
//!
//! [`resolve`] takes one InferenceService, with KServe's defaults filled in, and the runtimes there are. It picks the
//! runtime, merges the container, fills placeholders, reads where the model lies, and names the engine. The answer is a
//! [`RevisionSpec`]; two equal ones are the same revision.

pub mod batching;
pub mod canary;
pub mod condition;
pub mod credentials;
pub mod engine;
pub mod error;
pub mod graph;
pub mod local_model;
pub mod logging;
pub mod merge;
mod pinned;
mod place;
pub mod placeholder;
pub mod refusal;
pub mod revision;
pub mod rollout;
pub mod runtime;
pub mod scale;
pub mod server_type;
pub mod storage_container;
pub mod storage_env;
pub mod storage_uri;
mod threads;
pub mod traffic;
mod unserved;

use crate::api::SERVER_CONTAINER;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::gpu::{self, Gpu};
use crate::api::inference_service::{InferenceService, ModelFormat};
use crate::api::pod::Container;
use crate::api::quantity::Quantity;
use crate::api::serving_runtime::ServingRuntime;
use crate::api::status::FailureReason;
use crate::api::storage_container::ClusterStorageContainer;
use std::collections::BTreeMap;
use std::path::Path;

pub use batching::BatchingSpec;
pub use error::ResolveError;
pub use revision::{RevisionSpec, RuntimeRef};
pub use runtime::Candidate;

use engine::HUGGING_FACE;

/// What a service that does not say gets, and what this process can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// The names of the engines there are.
    pub engines: Vec<String>,
    /// Seconds a request may take where `timeout` is absent or 0.
    pub timeout_s: u64,
    /// What fetches models from URIs of some form.
    pub containers: Vec<ClusterStorageContainer>,
}

impl Default for Defaults {
    /// The engines that ship, and Knative's 300 seconds.
    fn default() -> Self {
        Self { engines: ["huggingface", "onnx"].map(str::to_owned).to_vec(), timeout_s: 300, containers: Vec::new() }
    }
}

/// What shall run for a service's predictor.
///
/// `manifest_dir` is the folder of the file the service was read from; relative paths start there.
///
/// # Errors
/// [`ResolveError`] with KServe's reason, the field at fault and what to do.
///
/// Source: KServe `predictor.go` `reconcileModel`.
pub fn resolve(
    service: &InferenceService,
    manifest_dir: &Path,
    runtimes: &[Candidate<'_>],
    defaults: &Defaults,
) -> Result<RevisionSpec, ResolveError> {
    let model = unserved::served_model(&service.spec)?;
    let wish = runtime::Wish {
        namespace: &service.metadata.namespace,
        format: &model.model_format,
        protocol: model.protocol_version.as_deref(),
        runtime: model.runtime.as_deref(),
    };
    let chosen = runtime::select(&wish, runtimes)?;
    let engine = engine::engine_of(chosen.runtime, &model.model_format, &defaults.engines)?;
    let settled = server_type::settle(service, model, chosen.runtime);
    let container = container_of(chosen.runtime, &settled)?;
    let storage = place::storage_of(service, model, hub_uri(&engine, &container.args).as_ref(), (manifest_dir, defaults))?;
    let env = environment(&container, &service.metadata.name);
    Ok(RevisionSpec {
        namespace: service.metadata.namespace.clone(),
        service: service.metadata.name.clone(),
        model_name: model_name(&container.args, &env, &service.metadata.name),
        engine,
        runtime: chosen.reference(),
        model_format: format_as_written(&model.model_format),
        protocol: settled.protocol,
        storage: Some(storage),
        cpu_limit_millis: limit(&container, "cpu").map(Quantity::millis),
        memory_limit_bytes: limit(&container, "memory").map(Quantity::bytes),
        gpus: gpus(&container),
        args: container.args,
        env,
        timeout_s: positive(service.spec.predictor.timeout_s).unwrap_or(defaults.timeout_s),
        container_concurrency: concurrency(service),
        batching: batching::batching_of(service)?,
        model_sha256: pinned::pinned(&service.metadata)?,
    })
}

/// GPUs of NVIDIA that a container asks for, whole ones or parts.
fn gpus(container: &Container) -> u64 {
    let asked = container.resources.iter().flat_map(gpu::asked);
    asked.filter(|(_, gpu, _)| *gpu != Gpu::Other).map(|(_, _, count)| count).sum()
}

/// The runtime's server container with the service's laid over it and placeholders filled.
fn container_of(runtime: &ServingRuntime, settled: &server_type::Settled) -> Result<Container, ResolveError> {
    const FIELD: &str = "spec.predictor.model";
    let name = &runtime.metadata.name;
    let invalid = |message: &str| ResolveError::new(FailureReason::InvalidPredictorSpec, FIELD, message);
    if runtime.spec.containers.is_empty() {
        return Err(invalid("no container configuration found in selected serving runtime")
            .with_details(vec![format!("{name}: has no containers")]));
    }
    let server = runtime.spec.containers.iter().find(|container| container.name == SERVER_CONTAINER);
    let server = server.ok_or_else(|| {
        let names = error::quoted_list(runtime.spec.containers.iter().map(|container| &container.name));
        invalid("failed to find kserve-container in ServingRuntime containers")
            .with_details(vec![format!("{name}: has containers {names}")])
    })?;
    placeholder::fill_container(&merge::merge_container(server, &settled.model), &settled.metadata).map_err(|wrong| {
        invalid(&format!("failed to replace placeholders in serving runtime {name} Container {SERVER_CONTAINER}"))
            .with_details(vec![wrong.to_string()])
            .with_hint(format!("known placeholders: {}", placeholder::PLACEHOLDERS))
    })
}

/// Variables with a value; KServe tells every container its service's name.
fn environment(container: &Container, service: &str) -> BTreeMap<String, String> {
    let own = [("INFERENCE_SERVICE_NAME".to_owned(), service.to_owned())];
    let written = container.env.iter().filter(|variable| variable.value_from.is_none());
    own.into_iter().chain(written.map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default()))).collect()
}

/// What the last `--flag=x` or `--flag x` says.
fn by_flag(args: &[String], flag: &str) -> Option<String> {
    let after = |at: usize, arg: &String| match arg.strip_prefix(flag)? {
        "" => args.get(at + 1).cloned(),
        rest => rest.strip_prefix('=').map(str::to_owned),
    };
    args.iter().enumerate().rev().find_map(|(at, arg)| after(at, arg))
}

/// `hf://OWNER/NAME[:REVISION]` for a model that `--model_id` names, as KServe's Hugging Face server takes it from the hub.
fn hub_uri(engine: &str, args: &[String]) -> Option<String> {
    let id = by_flag(args, "--model_id").filter(|id| engine == HUGGING_FACE && !id.is_empty())?;
    let revision = by_flag(args, "--model_revision").filter(|revision| !revision.is_empty());
    Some(revision.map_or_else(|| format!("hf://{id}"), |revision| format!("hf://{id}:{revision}")))
}

/// The last `--model_name=x` or `--model_name x`, else `MLSERVER_MODEL_NAME`, else the service's name.
fn model_name(args: &[String], env: &BTreeMap<String, String>, service: &str) -> String {
    let written = by_flag(args, "--model_name").or_else(|| env.get("MLSERVER_MODEL_NAME").cloned());
    written.filter(|name| !name.is_empty()).unwrap_or_else(|| service.to_owned())
}

fn limit<'c>(container: &'c Container, resource: &str) -> Option<&'c Quantity> {
    container.resources.as_ref()?.limits.get(resource)
}

fn format_as_written(format: &ModelFormat) -> String {
    format.version.as_ref().map_or_else(|| format.name.clone(), |version| format!("{} {version}", format.name))
}

fn positive(number: Option<i64>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0)
}

/// A hard limit in Knative mode; nothing reads it in Standard mode.
fn concurrency(service: &InferenceService) -> u64 {
    match DeploymentMode::of(&service.metadata, DeploymentMode::default()) {
        DeploymentMode::Knative => positive(service.spec.predictor.container_concurrency).unwrap_or(0),
        DeploymentMode::Standard | DeploymentMode::ModelMesh => 0,
    }
}

#[cfg(test)]
mod tests;
