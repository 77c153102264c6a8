//! `spec.canary`: predictors laid over the stable one, each with a share of the requests, in Standard mode.
//!
//! Source: reference 1.9.

use super::pinned::MODEL_SHA256;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::inference_service::{CanarySpec, InferenceService, PredictorSpec};
use serde_json::Value;

/// One canary as it is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    /// Its place in the list.
    pub index: usize,
    /// The predictor's name.
    pub name: String,
    /// Its share of the requests, 0 to 100.
    pub percent: u32,
    /// Replicas at least.
    pub min_replicas: u32,
    /// The service as it were with this predictor alone.
    pub service: InferenceService,
}

impl Canary {
    /// The field as the user wrote it of a field of [`Canary::service`]: `spec.canary[0].predictor.model`.
    #[must_use]
    pub fn field(&self, of: &str) -> String {
        match of.strip_prefix("spec.predictor") {
            Some(rest) => format!("spec.canary[{}].predictor{rest}", self.index),
            None => of.to_owned(),
        }
    }
}

/// The canaries of a service with defaults filled in; none outside Standard mode.
#[must_use]
pub fn canaries_of(service: &InferenceService) -> Vec<Canary> {
    if DeploymentMode::of(&service.metadata, DeploymentMode::default()) != DeploymentMode::Standard {
        return Vec::new();
    }
    let stable = &service.spec.predictor;
    let stable_min = u32::try_from(stable.min_replicas.unwrap_or(1)).unwrap_or(0);
    let canary = |(index, canary): (usize, &CanarySpec)| {
        let percent = canary.traffic_percent.and_then(|percent| u32::try_from(percent).ok()).unwrap_or(0).min(100);
        let own = canary.predictor.min_replicas.and_then(|replicas| u32::try_from(replicas).ok());
        let mut alone = service.clone();
        alone.spec.canary.clear();
        // It is of the stable predictor's model.
        alone.metadata.annotations.remove(MODEL_SHA256);
        alone.spec.predictor = overlaid(stable, &canary.predictor);
        let min_replicas = own.unwrap_or_else(|| (stable_min * percent).div_ceil(100)).max(1);
        Canary { index, name: canary.predictor.name.clone(), percent, min_replicas, service: alone }
    };
    service.spec.canary.iter().enumerate().map(canary).collect()
}

/// A copy of the stable predictor in which every field that the canary fills has the canary's value.
fn overlaid(stable: &PredictorSpec, canary: &PredictorSpec) -> PredictorSpec {
    const PLAIN: &str = "a predictor is plain data because serde derives it";
    let mut whole = serde_json::to_value(stable).expect(PLAIN);
    lay_over(&mut whole, serde_json::to_value(canary).expect(PLAIN));
    serde_json::from_value(whole).expect(PLAIN)
}

/// Objects field by field; anything else as a whole. Empty fields are not written, so they change nothing.
fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                if !is_empty(&value) {
                    lay_over(below.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (below, above) => *below = above,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Resource;
    use std::path::Path;

    fn service(mode: &str, predictor: &str, canaries: &str) -> InferenceService {
        let text = format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n  annotations: \
             {{serving.kserve.io/deploymentMode: {mode}}}\nspec:\n  predictor: {predictor}\n  canary: {canaries}\n"
        );
        let parsed = crate::manifest::parse(text.as_bytes(), Path::new("iris.yaml"));
        match parsed.resources.into_iter().next().unwrap_or_else(|| panic!("{:?}", parsed.problems)).resource {
            Resource::InferenceService(service) => *service,
            other => panic!("{other:?}"),
        }
    }

    const STABLE: &str = "{minReplicas: 4, timeout: 7, model: {modelFormat: {name: onnx, version: '1'}, storageUri: a.onnx, \
                          runtime: kserve-onnx, env: [{name: A, value: '1'}], resources: {limits: {cpu: '2', memory: 1Gi}}}}";

    #[test]
    fn a_canary_is_the_stable_predictor_with_what_it_fills_in() {
        let canaries = "[{trafficPercent: 30, predictor: {name: v2, model: {modelFormat: {name: onnx}, storageUri: b.onnx, \
                        resources: {limits: {cpu: '4'}}}}}]";
        let found = canaries_of(&service("Standard", STABLE, canaries));
        let predictor = &found[0].service.spec.predictor;
        let model = predictor.model.as_ref().unwrap();
        assert_eq!((found[0].name.as_str(), found[0].percent, predictor.timeout_s), ("v2", 30, Some(7)));
        assert_eq!((model.storage_uri.as_deref(), model.runtime.as_deref()), (Some("b.onnx"), Some("kserve-onnx")));
        assert_eq!((model.model_format.version.as_deref(), model.env.len()), (Some("1"), 1), "what it leaves out stays");
        let limits = &model.resources.as_ref().unwrap().limits;
        assert_eq!((limits["cpu"].millis(), limits["memory"].bytes()), (4000, 1 << 30));
        assert!(found[0].service.spec.canary.is_empty());
        assert_eq!(found[0].field("spec.predictor.model.runtime"), "spec.canary[0].predictor.model.runtime");
        assert_eq!(found[0].field("metadata.annotations"), "metadata.annotations");
    }

    #[test]
    fn a_canary_has_its_share_of_the_replicas_unless_it_says_so() {
        let canaries = "[{trafficPercent: 30, predictor: {name: b}}, {trafficPercent: 0, predictor: {name: c}}, \
                        {trafficPercent: 10, predictor: {name: d, minReplicas: 3}}]";
        let replicas = canaries_of(&service("Standard", STABLE, canaries)).iter().map(|canary| canary.min_replicas).collect::<Vec<_>>();
        assert_eq!(replicas, [2, 1, 3]);
    }

    #[test]
    fn outside_standard_mode_there_are_none() {
        assert!(canaries_of(&service("Knative", STABLE, "[{trafficPercent: 30, predictor: {name: b}}]")).is_empty());
    }
}
