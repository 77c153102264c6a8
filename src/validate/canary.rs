//! Rules for `spec.canary`: predictors that take a share of the requests, in Standard mode.

use super::Violation;
use super::inference_service::{NAME_RULE, implementations, is_service_name};
use crate::api::deployment_mode::DeploymentMode;
use crate::api::inference_service::{CanarySpec, InferenceServiceSpec};

/// Checks all canaries of a service.
pub(super) fn check(spec: &InferenceServiceSpec, mode: DeploymentMode, found: &mut Vec<Violation>) {
    if spec.canary.is_empty() {
        return;
    }
    if mode != DeploymentMode::Standard {
        let violation = Violation::error("spec.canary", "canary is only supported in Standard deployment mode");
        found.push(violation.with_hint("in Knative mode set `canaryTrafficPercent` on the predictor"));
    }
    if spec.predictor.model.is_none() {
        found.push(Violation::error("spec.predictor", "a canary needs a stable predictor with a model"));
    }
    let total: i64 = spec.canary.iter().filter_map(|canary| canary.traffic_percent).map(i64::from).sum();
    if total > 100 {
        found.push(Violation::error("spec.canary", format!("the traffic of all canaries is {total} percent: at most 100")));
    }
    for index in 0..spec.canary.len() {
        one(spec, index, found);
    }
}

fn one(spec: &InferenceServiceSpec, index: usize, found: &mut Vec<Violation>) {
    let canary = &spec.canary[index];
    let field = format!("spec.canary[{index}]");
    match canary.traffic_percent {
        None => found.push(Violation::error(format!("{field}.trafficPercent"), "trafficPercent must be written")),
        Some(percent) if !(0..=100).contains(&percent) => {
            found.push(Violation::error(format!("{field}.trafficPercent"), "trafficPercent must be from 0 to 100"));
        }
        Some(_) => {}
    }
    let predictor = format!("{field}.predictor");
    name(spec, index, &predictor, found);
    if implementations(&canary.predictor) > 1 {
        found.push(Violation::error(&predictor, "a canary has exactly one implementation"));
    }
    for name in fixed_fields(canary) {
        found.push(Violation::error(format!("{predictor}.{name}"), format!("a canary must not set {name}")));
    }
    let stable = spec.predictor.extension().min_replicas_or_default();
    if canary.predictor.min_replicas.is_some_and(|replicas| replicas > stable) {
        found.push(Violation::error(format!("{predictor}.minReplicas"), format!("more than the {stable} of the stable predictor")));
    }
}

fn name(spec: &InferenceServiceSpec, index: usize, predictor: &str, found: &mut Vec<Violation>) {
    let name = &spec.canary[index].predictor.name;
    let taken = *name == spec.predictor.name || spec.canary[..index].iter().any(|other| other.predictor.name == *name);
    if name.is_empty() {
        found.push(Violation::error(format!("{predictor}.name"), "every canary needs a name"));
    } else if !is_service_name(name) {
        found.push(Violation::error(format!("{predictor}.name"), NAME_RULE.replace("a InferenceService", "a predictor")));
    } else if taken {
        found.push(Violation::error(format!("{predictor}.name"), format!("canary name `{name}` is used twice")));
    }
}

/// Fields that only the stable predictor may set.
fn fixed_fields(canary: &CanarySpec) -> impl Iterator<Item = &'static str> {
    let predictor = &canary.predictor;
    [
        ("workerSpec", predictor.worker_spec.is_some()),
        ("maxReplicas", predictor.max_replicas.is_some()),
        ("scaleTarget", predictor.scale_target.is_some()),
        ("scaleMetric", predictor.scale_metric.is_some()),
        ("autoScaling", predictor.auto_scaling.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
}
