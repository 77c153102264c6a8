//! KServe's validating webhook for an InferenceService, all violations at once.

use super::component::{AUTOSCALERS, Component};
use super::{Defaults, Violation, canary, container, storage};
use crate::api::deployment_mode::{DeploymentMode, annotation};
use crate::api::inference_service::{ExplainerSpec, InferenceService, ModelSpec, PredictorSpec, TransformerSpec, WorkerSpec};
use crate::api::metadata::ObjectMeta;
use crate::api::{SERVER_CONTAINER, TRANSFORMER_CONTAINER};

const PROTOCOLS: [&str; 4] = ["v1", "v2", "grpc-v1", "grpc-v2"];
const NAME_RULE: &str =
    "a InferenceService name must consist of lower case alphanumeric characters or '-', and must start with alphabetical character";

/// Checks a service whose defaults are filled in; empty when KServe would admit it.
///
/// Source: KServe `inference_service_validation.go` (reference 1.1, 1.3, 1.5, 1.6, 1.9, 11.2).
#[must_use]
pub fn inference_service(service: &InferenceService, defaults: &Defaults) -> Vec<Violation> {
    let mut found = Vec::new();
    let mode = DeploymentMode::of(&service.metadata, defaults.deployment_mode);
    metadata(&service.metadata, &mut found);
    predictor(service, mode, &mut found);
    if let Some(transformer) = &service.spec.transformer {
        check_transformer(service, transformer, mode, &mut found);
    }
    if let Some(explainer) = &service.spec.explainer {
        check_explainer(service, explainer, mode, &mut found);
    }
    canary::check(&service.spec, mode, &mut found);
    found
}

/// `^[a-z]([-a-z0-9]*[a-z0-9])?$`
pub(super) fn is_service_name(name: &str) -> bool {
    let good = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    name.starts_with(|first: char| first.is_ascii_lowercase()) && !name.ends_with('-') && name.chars().all(good)
}

fn metadata(metadata: &ObjectMeta, found: &mut Vec<Violation>) {
    if !metadata.name.is_empty() && !is_service_name(&metadata.name) {
        found.push(Violation::error("metadata.name", NAME_RULE).with_hint("for instance `my-name` or `abc-123`"));
    }
    let key = annotation::AUTOSCALER_CLASS;
    if let Some(class) = metadata.annotation(key).filter(|class| !AUTOSCALERS.contains(class)) {
        let message = format!("[{class}] is not a supported autoscaler class type");
        found.push(Violation::error(format!("metadata.annotations[{key}]"), message).with_words(class, &AUTOSCALERS));
    }
    let key = annotation::DEPLOYMENT_MODE;
    if let Some(word) = metadata.annotation(key).filter(|word| word.parse::<DeploymentMode>().is_err()) {
        let message = format!("`{word}` is no deployment mode: ignored, as by KServe itself");
        found.push(Violation::warning(format!("metadata.annotations[{key}]"), message).with_words(word, &DeploymentMode::WORDS));
    }
}

/// How many of the ways to answer a predictor has; KServe wants exactly one.
pub(super) fn implementations(predictor: &PredictorSpec) -> usize {
    let standard = predictor.frameworks().len() + usize::from(predictor.model.is_some());
    let custom = predictor.containers.iter().filter(|container| container.name == SERVER_CONTAINER).count();
    // Without anything else, the first container is the predictor whatever its name.
    (standard + custom).max(usize::from(!predictor.containers.is_empty()))
}

fn exactly_one(field: &str, choices: &str, spec: &str) -> Violation {
    Violation::error(field, format!("exactly one of [{choices}] must be specified in {spec}"))
}

fn predictor(service: &InferenceService, mode: DeploymentMode, found: &mut Vec<Violation>) {
    let field = "spec.predictor";
    let predictor = &service.spec.predictor;
    if implementations(predictor) != 1 {
        let choices = "SKLearn, XGBoost, Tensorflow, PyTorch, Triton, ONNX, HuggingFace, PMML, LightGBM, Paddle, Model, PodSpec";
        found.push(exactly_one(field, choices, "PredictorSpec"));
    }
    if !predictor.name.is_empty() && !is_service_name(&predictor.name) {
        found.push(Violation::error(format!("{field}.name"), NAME_RULE.replace("a InferenceService", "a predictor")));
    }
    for (key, framework) in predictor.frameworks() {
        container::environment(&format!("{field}.{key}"), &framework.env, found);
        nameless(&format!("{field}.{key}"), &framework.name, found);
    }
    match &predictor.model {
        Some(spec) => model(&format!("{field}.model"), spec, found),
        None => custom_predictor(predictor, found),
    }
    container::containers(&format!("{field}.containers"), &predictor.containers, found);
    container::containers(&format!("{field}.initContainers"), &predictor.init_containers, found);
    collocated_transformer(predictor, found);
    if let Some(worker) = &predictor.worker_spec {
        workers(&format!("{field}.workerSpec"), worker, found);
    }
    storage::check(field, predictor, found);
    Component { field, extension: predictor.extension(), metadata: &service.metadata, mode }.check(found);
}

fn nameless(field: &str, name: &str, found: &mut Vec<Violation>) {
    if !name.is_empty() {
        found.push(Violation::error(format!("{field}.name"), "the 'name' field is not allowed in standard predictor"));
    }
}

fn model(field: &str, model: &ModelSpec, found: &mut Vec<Violation>) {
    nameless(field, &model.name, found);
    container::environment(field, &model.env, found);
    if model.model_format.name.is_empty() {
        let violation = Violation::error(format!("{field}.modelFormat.name"), "every model needs a format");
        found.push(violation.with_hint("write `modelFormat: {name: onnx}`"));
    }
    if let Some(protocol) = model.protocol_version.as_deref().filter(|protocol| !PROTOCOLS.contains(protocol)) {
        let violation = Violation::warning(format!("{field}.protocolVersion"), format!("`{protocol}` is no protocol that KServe knows"));
        found.push(violation.with_words(protocol, &PROTOCOLS));
    }
}

/// A custom server says by a variable which protocol it speaks.
fn custom_predictor(predictor: &PredictorSpec, found: &mut Vec<Violation>) {
    let Some(container) = predictor.containers.first() else { return };
    for (index, variable) in container.env.iter().enumerate().filter(|(_, variable)| variable.name == "PROTOCOL") {
        let protocol = variable.value.as_deref().unwrap_or_default();
        if !matches!(protocol, "v1" | "v2") {
            let message = format!("invalid protocol {protocol}: must be one of [v1, v2]");
            found.push(Violation::error(format!("spec.predictor.containers[0].env[{index}].value"), message));
        }
    }
}

fn collocated_transformer(predictor: &PredictorSpec, found: &mut Vec<Violation>) {
    for (index, container) in predictor.containers.iter().enumerate().filter(|(_, container)| container.name == TRANSFORMER_CONTAINER) {
        if let Some(position) = container.env.iter().position(|variable| variable.name == "STORAGE_URI") {
            let field = format!("spec.predictor.containers[{index}].env[{position}].name");
            found.push(Violation::error(field, "storage uri should not be specified in transformer container"));
        }
    }
}

fn workers(field: &str, worker: &WorkerSpec, found: &mut Vec<Violation>) {
    container::containers(&format!("{field}.containers"), &worker.containers, found);
    for (name, go_name, size) in [
        ("pipelineParallelSize", "PipelineParallelSize", worker.pipeline_parallel_size),
        ("tensorParallelSize", "TensorParallelSize", worker.tensor_parallel_size),
    ] {
        if let Some(size) = size.filter(|size| *size < 1) {
            let message = format!("WorkerSpec.{go_name} cannot be less than 1({size})");
            found.push(Violation::error(format!("{field}.{name}"), message));
        }
    }
}

fn check_transformer(service: &InferenceService, transformer: &TransformerSpec, mode: DeploymentMode, found: &mut Vec<Violation>) {
    let field = "spec.transformer";
    if transformer.containers.is_empty() {
        found.push(exactly_one(field, "PodSpec", "TransformerSpec"));
    }
    container::containers(&format!("{field}.containers"), &transformer.containers, found);
    Component { field, extension: transformer.extension(), metadata: &service.metadata, mode }.check(found);
}

fn check_explainer(service: &InferenceService, explainer: &ExplainerSpec, mode: DeploymentMode, found: &mut Vec<Violation>) {
    let field = "spec.explainer";
    if usize::from(explainer.art.is_some()) + usize::from(!explainer.containers.is_empty()) != 1 {
        found.push(exactly_one(field, "ART, PodSpec", "ExplainerSpec"));
    }
    if let Some(art) = &explainer.art {
        container::environment(&format!("{field}.art"), &art.env, found);
    }
    container::containers(&format!("{field}.containers"), &explainer.containers, found);
    Component { field, extension: explainer.extension(), metadata: &service.metadata, mode }.check(found);
}
