//! Rules for a change of a service that is already there.

use super::{Defaults, Violation};
use crate::api::deployment_mode::{DeploymentMode, annotation};
use crate::api::inference_service::{InferenceService, PredictorSpec};

/// Checks a change from `old` to `new`, both with defaults filled in.
///
/// `recorded_mode` is `deploymentMode` of the status, empty when there is none yet.
#[must_use]
pub fn inference_service_update(
    old: &InferenceService,
    new: &InferenceService,
    recorded_mode: &str,
    defaults: &Defaults,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let mode = DeploymentMode::of(&new.metadata, defaults.deployment_mode);
    if !recorded_mode.is_empty() && recorded_mode != mode.name() {
        let message = format!("update rejected: deploymentMode cannot be changed from '{recorded_mode}' to '{mode}'");
        let field = format!("metadata.annotations[{}]", annotation::DEPLOYMENT_MODE);
        found.push(Violation::error(field, message).with_hint("delete the file, then write it again"));
    }
    let (before, after) = (&old.spec.predictor, &new.spec.predictor);
    if before.name != after.name && source(before) == source(after) {
        found.push(Violation::error("spec.predictor.name", "predictor.name change requires a model change (e.g. storageUri)"));
    }
    found
}

/// Where a predictor's model lies.
fn source(predictor: &PredictorSpec) -> impl PartialEq {
    let model = predictor.model.as_ref();
    (model.map(|model| (model.storage_uri.clone(), model.storage.clone())), predictor.storage_uris.clone())
}
