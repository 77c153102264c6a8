//! From the bytes of one file to what the store takes: parsed, defaulted, validated, and its mistakes told.

use super::modes::Recorded;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::inference_service_config::CONFIG_NAMESPACE;
use crate::api::local_model::LocalModelCache;
use crate::api::problem::{Problem, Severity};
use crate::api::serving_runtime::ServingRuntime;
use crate::api::{Resource, ResourceKey};
use crate::manifest::{Manifest, Options, parse_with};
use crate::store::{Declared, FileChange, Snapshot};
use crate::validate::{Defaults, Violation, check, check_refused, inference_service_update, local_model_update, runtime_conflicts};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mistakes of one file that are logged; the rest is counted. All of them stand in the store.
const LOGGED_MAX: usize = 20;

/// How files are read.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) options: Options,
    pub(super) defaults: Defaults,
    /// The modes of resources that were there before the start.
    pub(super) recorded: Arc<Recorded>,
}

impl Rules {
    /// The defaults for one resource: how it was deployed before goes before how others are.
    fn defaults_of(&self, key: &ResourceKey) -> Defaults {
        let recorded = if self.recorded.is_empty() { None } else { self.recorded.get(&key.to_string()) };
        Defaults { deployment_mode: recorded.copied().unwrap_or(self.defaults.deployment_mode), ..self.defaults }
    }
}

/// What a file declares.
pub(super) fn declare(bytes: &[u8], file: &Path, rules: &Rules) -> FileChange {
    let mut parsed = parse_with(bytes, file, &rules.options);
    let told = parsed.is_complete();
    // A resource that cannot be used is checked all the same, so that all of its mistakes are told at once.
    for manifest in &mut parsed.refused {
        let more = check_refused(manifest, &rules.defaults_of(&manifest.resource.key()), &parsed.problems);
        parsed.problems.extend(more);
    }
    let mut refused: Vec<ResourceKey> = parsed.refused.iter().map(|manifest| manifest.resource.key()).collect();
    let mut resources = Vec::new();
    for manifest in parsed.resources {
        let as_written = manifest.resource.clone();
        let mut manifest = manifest;
        let violations = check(&mut manifest, &rules.defaults_of(&as_written.key()));
        let usable = !violations.iter().any(Problem::is_error);
        parsed.problems.extend(violations);
        if usable {
            resources.push(declared(as_written, manifest, &parsed.problems));
        } else {
            refused.push(manifest.resource.key());
        }
    }
    parsed.problems.sort_by_key(|problem| (problem.place.line, problem.place.column));
    // Under a wrong name may stand any resource that the file declared before.
    let complete = told && !parsed.problems.iter().any(|problem| problem.is_error() && problem.field == "metadata.name");
    FileChange::Read { resources, problems: parsed.problems, refused, complete }
}

/// The mode of services that do not say, where one of these files is KServe's ConfigMap and sets one.
pub(super) fn deployment_mode(changes: &[(PathBuf, FileChange)]) -> Option<DeploymentMode> {
    let declared = changes.iter().filter_map(|(_, change)| match change {
        FileChange::Read { resources, .. } => Some(resources),
        FileChange::Gone => None,
    });
    let maps = declared.flatten().filter_map(|declared| match &declared.defaulted {
        Resource::ConfigMap(map) => Some((map.metadata.namespace != CONFIG_NAMESPACE, map.settings.as_ref()?.deployment_mode()?)),
        _ => None,
    });
    maps.min_by_key(|(elsewhere, _)| *elsewhere).map(|(_, mode)| mode)
}

fn declared(resource: Resource, manifest: Manifest, problems: &[Problem]) -> Declared {
    let key = resource.key();
    let warnings = problems.iter().filter(|problem| !problem.is_error() && problem.resource.as_ref() == Some(&key)).cloned().collect();
    Declared { resource, defaulted: manifest.resource, place: manifest.place, fields: manifest.fields, warnings }
}

/// Refuses changes that KServe refuses of a service that is already there, and remarks on runtimes that compete.
pub(super) fn check_updates(change: &mut FileChange, before: &Snapshot, mode: DeploymentMode) {
    let FileChange::Read { resources, problems, refused, .. } = change else { return };
    problems.extend(resources.iter().filter_map(|declared| competitor(declared, before)));
    resources.retain(|declared| {
        let violations = update_violations(declared, before, mode);
        let usable = violations.is_empty();
        problems.extend(violations);
        if !usable {
            refused.push(declared.resource.key());
        }
        usable
    });
}

/// KServe refuses such a runtime. Here it is a remark: refusing would depend on which file was read first.
fn competitor(declared: &Declared, before: &Snapshot) -> Option<Problem> {
    let key = declared.resource.key();
    let new = runtime_of(&declared.defaulted)?;
    let others = before.of_kind(key.kind, Some(&key.namespace)).filter(|(other, _)| **other != key);
    let runtimes: Vec<&ServingRuntime> = others.filter_map(|(_, stored)| runtime_of(&stored.defaulted)).chain([new]).collect();
    let (_, violation) = runtime_conflicts(&runtimes).into_iter().find(|(index, _)| *index == runtimes.len() - 1)?;
    let place = declared.fields.locate(&violation.field, &declared.place);
    let problem = Problem::error(place, violation.field, violation.message).with_hint(violation.hint).about(Some(key));
    Some(problem.with_severity(Severity::Warning))
}

fn runtime_of(resource: &Resource) -> Option<&ServingRuntime> {
    match resource {
        Resource::ServingRuntime(runtime) | Resource::ClusterServingRuntime(runtime) => Some(runtime),
        _ => None,
    }
}

fn cache_of(resource: &Resource) -> Option<&LocalModelCache> {
    match resource {
        Resource::LocalModelCache(cache) | Resource::LocalModelNamespaceCache(cache) => Some(cache),
        _ => None,
    }
}

fn update_violations(declared: &Declared, before: &Snapshot, deployment_mode: DeploymentMode) -> Vec<Problem> {
    let key = declared.resource.key();
    let problem = |violation: Violation| {
        let place = declared.fields.locate(&violation.field, &declared.place);
        Problem::error(place, violation.field, violation.message).with_hint(violation.hint).about(Some(key.clone()))
    };
    let Some(stored) = before.get(&key) else { return Vec::new() };
    if let (Some(old), Some(new)) = (cache_of(&stored.defaulted), cache_of(&declared.defaulted)) {
        return local_model_update(old, new).map(problem).into_iter().collect();
    }
    let (Resource::InferenceService(old), Resource::InferenceService(new)) = (&stored.defaulted, &declared.defaulted) else {
        return Vec::new();
    };
    let recorded = stored.status.as_ref().map_or("", |status| status.deployment_mode.as_str());
    let violations = inference_service_update(old, new, recorded, &Defaults { deployment_mode, ..Defaults::default() });
    violations.into_iter().map(problem).collect()
}

/// Logs what is wrong with a file that changed: once per change, because an unchanged file is not read again.
pub(super) fn tell(file: &Path, change: &FileChange) {
    let FileChange::Read { problems, .. } = change else {
        return tracing::info!(file = %file.display(), "file gone");
    };
    for problem in problems.iter().take(LOGGED_MAX) {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::NotYetServed | Severity::Warning => tracing::warn!(kind = problem.severity.name(), "{problem}"),
            Severity::Ignored => tracing::debug!(kind = problem.severity.name(), "{problem}"),
        }
    }
    if problems.len() > LOGGED_MAX {
        tracing::warn!(file = %file.display(), more = problems.len() - LOGGED_MAX, "more mistakes and remarks in this file");
    }
}
