//! KServe's mutating webhook: old words become new ones, and what a user left out is filled in.

use super::Defaults;
use crate::api::SERVER_CONTAINER;
use crate::api::deployment_mode::{DeploymentMode, annotation};
use crate::api::inference_service::{InferenceService, ModelFormat, ModelSpec, PredictorSpec};
use crate::api::metadata::ObjectMeta;
use crate::api::pod::Container;

/// Formats whose runtimes speak v2 unless a service says otherwise, in the older form.
const V2_KEYS: [&str; 3] = ["triton", "onnx", "huggingface"];
/// The same in the new form: `onnx` is not among them.
const V2_FORMATS: [&str; 2] = ["triton", "vLLM"];

/// Fills in KServe's defaults; applied twice it changes nothing more.
///
/// Answers the older framework key (`sklearn`, `onnx`, ..) that became `model`, if there was one.
///
/// Source: KServe `inference_service_defaults.go` (reference 1.4). Local-model labels and service account tokens have no
/// counterpart on one machine.
pub fn default_inference_service(service: &mut InferenceService, defaults: &Defaults) -> Option<&'static str> {
    default_mode(&mut service.metadata, defaults.deployment_mode);
    let moved = default_predictor(&mut service.spec.predictor);
    for canary in &mut service.spec.canary {
        default_predictor(&mut canary.predictor);
    }
    if let Some(model) = &mut service.spec.predictor.model {
        default_model(model, &mut service.metadata);
    }
    if let Some(transformer) = &mut service.spec.transformer {
        default_containers(&mut transformer.containers);
    }
    if let Some(explainer) = service.spec.explainer.as_mut().filter(|explainer| explainer.art.is_none()) {
        default_containers(&mut explainer.containers);
    }
    moved
}

fn default_mode(metadata: &mut ObjectMeta, default: DeploymentMode) {
    let key = annotation::DEPLOYMENT_MODE;
    match metadata.annotation(key).map(str::parse::<DeploymentMode>) {
        Some(Ok(mode)) => {
            metadata.annotations.insert(key.to_owned(), mode.name().to_owned());
        }
        Some(Err(())) => {}
        None if default == DeploymentMode::Knative => {}
        None => {
            metadata.annotations.insert(key.to_owned(), default.name().to_owned());
        }
    }
}

fn default_predictor(predictor: &mut PredictorSpec) -> Option<&'static str> {
    if predictor.model.is_none() {
        let moved = take_framework(predictor);
        if let Some((key, model)) = moved {
            predictor.model = Some(Box::new(model));
            return Some(key);
        }
    }
    if predictor.model.is_none() {
        default_containers(&mut predictor.containers);
    }
    None
}

/// The first of the older keys as a model. A second one stays and is refused by validation.
fn take_framework(predictor: &mut PredictorSpec) -> Option<(&'static str, ModelSpec)> {
    let slots = [
        ("sklearn", &mut predictor.sklearn),
        ("tensorflow", &mut predictor.tensorflow),
        ("xgboost", &mut predictor.xgboost),
        ("pytorch", &mut predictor.pytorch),
        ("triton", &mut predictor.triton),
        ("onnx", &mut predictor.onnx),
        ("huggingface", &mut predictor.huggingface),
        ("pmml", &mut predictor.pmml),
        ("lightgbm", &mut predictor.lightgbm),
        ("paddle", &mut predictor.paddle),
    ];
    let (key, old) = slots.into_iter().find_map(|(key, slot)| Some((key, slot.take()?)))?;
    let mut model = ModelSpec { model_format: ModelFormat { name: key.to_owned(), version: None }, ..ModelSpec::from(*old) };
    if V2_KEYS.contains(&key) {
        model.protocol_version.get_or_insert_with(|| "v2".to_owned());
    }
    Some((key, model))
}

fn default_model(model: &mut ModelSpec, metadata: &mut ObjectMeta) {
    if V2_FORMATS.contains(&model.model_format.name.as_str()) {
        model.protocol_version.get_or_insert_with(|| "v2".to_owned());
    }
    if !model.model_format.name.is_empty() {
        metadata.annotations.entry(annotation::MODEL_FORMAT.to_owned()).or_insert_with(|| model.model_format.name.clone());
    }
}

/// A custom server needs no name when it is alone, or stands first without one.
fn default_containers(containers: &mut [Container]) {
    let alone = containers.len() == 1;
    if let Some(first) = containers.first_mut().filter(|first| alone || first.name.is_empty()) {
        SERVER_CONTAINER.clone_into(&mut first.name);
    }
}
