//! What KServe runs as a container of the user's, or on several machines, and this process does not run yet.

use super::error::ResolveError;
use crate::api::inference_service::{InferenceServiceSpec, ModelSpec};
use crate::api::status::FailureReason;
use crate::api::{SERVER_CONTAINER, TRANSFORMER_CONTAINER};

/// The model of a spec that is served here as it was meant.
///
/// A helper container beside `model` is left out; a transformer or a server of the user's own would change the
/// answers, so they are refused. An explainer changes no prediction and is left to the doors.
///
/// # Errors
/// `InvalidPredictorSpec`, "not yet served: ...".
pub(super) fn served_model(spec: &InferenceServiceSpec) -> Result<&ModelSpec, ResolveError> {
    let predictor = &spec.predictor;
    if spec.transformer.is_some() {
        return Err(ResolveError::not_yet_served("spec.transformer", "a transformer"));
    }
    if predictor.worker_spec.is_some() {
        return Err(ResolveError::not_yet_served("spec.predictor.workerSpec", "a model over several machines"));
    }
    if predictor.containers.iter().any(|container| container.name == TRANSFORMER_CONTAINER) {
        return Err(ResolveError::not_yet_served("spec.predictor.containers", "a transformer container beside the model"));
    }
    match &predictor.model {
        Some(_) if predictor.containers.iter().any(|container| container.name == SERVER_CONTAINER) => Err(two_servers()),
        Some(model) => with_storage_uri(model),
        None if predictor.containers.is_empty() => Err(no_model()),
        None => Err(custom()),
    }
}

fn with_storage_uri(model: &ModelSpec) -> Result<&ModelSpec, ResolveError> {
    match (&model.storage, &model.storage_uri) {
        (Some(storage), Some(_)) if storage.path.is_some() => {
            let message = "must provide only one of storageUri and storage.path";
            Err(ResolveError::new(FailureReason::InvalidPredictorSpec, "spec.predictor.model.storage", message))
        }
        (Some(_), Some(_)) | (None, _) => Ok(model),
        (Some(_), None) => Err(ResolveError::not_yet_served("spec.predictor.model.storage", "a model from an entry of the storage secret")
            .with_hint("name the place with `storageUri`".to_owned())),
    }
}

fn two_servers() -> ResolveError {
    let message =
        format!("exactly one of [model, containers] must be specified in PredictorSpec: `{SERVER_CONTAINER}` stands beside `model`");
    ResolveError::new(FailureReason::InvalidPredictorSpec, "spec.predictor.containers", message)
}

fn no_model() -> ResolveError {
    ResolveError::new(FailureReason::InvalidPredictorSpec, "spec.predictor", "the predictor has no `model`")
}

fn custom() -> ResolveError {
    ResolveError::not_yet_served("spec.predictor.containers", "a predictor with a container of its own")
        .with_hint("name the model with `model: {modelFormat: {name: onnx}, storageUri: ..}` instead".to_owned())
}
