//! What KServe's admission webhooks do: fill in what a user left out, and refuse what cannot be meant.
//!
//! [`check`] does both for one resource of a file and gives each violation its place.

mod canary;
mod component;
mod container;
mod core;
mod defaulting;
mod inference_graph;
mod inference_service;
mod later;
mod local_model;
mod serving_runtime;
mod storage;
mod storage_container;
mod update;

use crate::api::Resource;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::problem::{Problem, Severity, did_you_mean};
use crate::manifest::Manifest;

pub use component::canonical_header;
pub use defaulting::default_inference_service;
pub(crate) use inference_graph::step_field;
pub use inference_graph::{GraphBounds, inference_graph};
pub use inference_service::inference_service;
pub use later::not_yet_served;
pub use local_model::{local_model_conflicts, local_model_update};
pub use serving_runtime::{runtime_conflicts, serving_runtime};
pub use update::inference_service_update;

/// What a service that does not say gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defaults {
    /// How services are deployed that do not say.
    pub deployment_mode: DeploymentMode,
    /// How large a graph may be.
    pub graphs: GraphBounds,
}

/// A rule that a resource breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Whether the resource is refused (`Error`) or only remarked on.
    pub severity: Severity,
    /// The field, e.g. `spec.predictor.minReplicas`.
    pub field: String,
    /// KServe's message where KServe has one.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl Violation {
    fn error(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, field: field.into(), message: message.into(), hint: None }
    }

    fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(field, message) }
    }

    fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Adds the word that was probably meant, or the list of those there are.
    fn with_words(self, written: &str, words: &[&str]) -> Self {
        let listed = || words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let hint = did_you_mean(written, words.iter().copied())
            .map_or_else(|| format!("one of {}", listed()), |meant| format!("did you mean `{meant}`?"));
        self.with_hint(hint)
    }
}

/// Fills in the defaults of a resource and checks it; every violation and everything not yet served, each at its place.
///
/// The resource may be used when no problem is an error.
#[must_use]
pub fn check(manifest: &mut Manifest, defaults: &Defaults) -> Vec<Problem> {
    let mut violations = Vec::new();
    match &mut manifest.resource {
        Resource::InferenceService(service) => {
            if let Some(key) = default_inference_service(service, defaults) {
                manifest.fields.moved("spec.predictor.model", &format!("spec.predictor.{key}"));
            }
            violations.extend(inference_service(service, defaults));
            violations.extend(later(not_yet_served(service)));
        }
        Resource::InferenceGraph(graph) => violations.extend(inference_graph(graph, &defaults.graphs)),
        Resource::ServingRuntime(runtime) | Resource::ClusterServingRuntime(runtime) => violations.extend(serving_runtime(runtime)),
        Resource::ClusterStorageContainer(container) => violations.extend(storage_container::check(container)),
        Resource::LocalModelCache(cache) | Resource::LocalModelNamespaceCache(cache) => violations.extend(local_model::cache(cache)),
        Resource::LocalModelNodeGroup(group) => violations.extend(local_model::group(group)),
        Resource::LocalModelNode(_) => violations.push(local_model::node()),
        Resource::ConfigMap(map) => violations.extend(core::config_map(map)),
        Resource::Secret(secret) => violations.extend(core::secret(secret)),
        Resource::ServiceAccount(_) => {}
    }
    let problem = |violation: Violation| manifest.problem(violation.severity, violation.field, violation.message, violation.hint);
    violations.into_iter().map(problem).collect()
}

/// The same for a resource that was refused while reading, of which `told` are the problems so far.
///
/// A value that could not be read is left out of the resource; that it is then missing is no news.
#[must_use]
pub fn check_refused(manifest: &mut Manifest, defaults: &Defaults, told: &[Problem]) -> Vec<Problem> {
    let mut found = check(manifest, defaults);
    found.retain(|problem| {
        !told.iter().any(|old| old.is_error() && old.resource == problem.resource && old.field.starts_with(&problem.field))
    });
    found
}

fn later(parts: Vec<(String, String)>) -> impl Iterator<Item = Violation> {
    parts.into_iter().map(|(field, sentence)| Violation { severity: Severity::NotYetServed, ..Violation::error(field, sentence) })
}

#[cfg(test)]
mod tests;
