//! KServe's admission rules for runtimes, alone and among each other.

use super::{Violation, container};
use crate::api::serving_runtime::{ServingRuntime, ServingRuntimeSpec, SupportedModelFormat};

/// Checks a runtime by itself; empty when KServe would admit it. A disabled runtime is not looked at.
///
/// Source: KServe `servingruntime_webhook.go` and its CRD (reference 6.1).
#[must_use]
pub fn serving_runtime(runtime: &ServingRuntime) -> Vec<Violation> {
    let mut found = Vec::new();
    if runtime.spec.is_disabled() {
        return found;
    }
    name(&runtime.metadata.name, &mut found);
    if runtime.spec.containers.is_empty() {
        found.push(Violation::error("spec.containers", "every runtime needs a container"));
    }
    container::containers("spec.containers", &runtime.spec.containers, &mut found);
    for (index, format) in runtime.spec.supported_model_formats.iter().enumerate() {
        one_format(&format!("spec.supportedModelFormats[{index}]"), format, &mut found);
    }
    own_priorities(runtime, &mut found);
    workers(&runtime.spec, &mut found);
    found
}

/// Lower case letters, digits, `-` and `.`, as Kubernetes wants names.
fn name(name: &str, found: &mut Vec<Violation>) {
    let good = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let part = |part: &str| part.starts_with(good) && part.ends_with(good) && part.chars().all(|letter| good(letter) || letter == '-');
    if !name.is_empty() && (name.len() > 253 || !name.split('.').all(part)) {
        let message =
            "a name must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        found.push(Violation::error("metadata.name", message));
    }
}

fn one_format(field: &str, format: &SupportedModelFormat, found: &mut Vec<Violation>) {
    if format.name.is_empty() {
        found.push(Violation::error(format!("{field}.name"), "every model format needs a name"));
    }
    if format.priority.is_some_and(|priority| priority < 1) {
        found.push(Violation::error(format!("{field}.priority"), "priority must be at least 1"));
    }
}

/// Entries of one format that are picked by themselves have one priority.
fn own_priorities(runtime: &ServingRuntime, found: &mut Vec<Violation>) {
    let formats = &runtime.spec.supported_model_formats;
    for (index, format) in formats.iter().enumerate().filter(|(_, format)| format.is_auto_selected()) {
        let differs =
            |other: &&SupportedModelFormat| other.is_auto_selected() && other.name == format.name && other.priority != format.priority;
        if formats[..index].iter().find(differs).is_some() {
            let message = format!(
                "different priorities assigned for the model format {} under the servingruntime {}",
                format.name, runtime.metadata.name
            );
            found.push(Violation::error(format!("spec.supportedModelFormats[{index}].priority"), message));
        }
    }
}

fn workers(spec: &ServingRuntimeSpec, found: &mut Vec<Violation>) {
    let Some(worker) = &spec.worker_spec else { return };
    container::containers("spec.workerSpec.containers", &worker.containers, found);
    for (name, size) in [("pipelineParallelSize", worker.pipeline_parallel_size), ("tensorParallelSize", worker.tensor_parallel_size)] {
        if size.is_some_and(|size| size < 1) {
            found.push(Violation::error(format!("spec.workerSpec.{name}"), format!("{name} cannot be less than 1")));
        }
    }
}

/// Runtimes of one scope that would be picked with the same priority for the same format, by the index of the later one.
///
/// `runtimes` are those of one namespace, or those of the cluster. Runtimes clash when they are enabled, agree in
/// `multiModel` and share a protocol; format names are compared without case.
#[must_use]
pub fn runtime_conflicts(runtimes: &[&ServingRuntime]) -> Vec<(usize, Violation)> {
    let mut found = Vec::new();
    for (index, later) in runtimes.iter().enumerate() {
        for earlier in runtimes[..index].iter().filter(|earlier| compete(&earlier.spec, &later.spec)) {
            found.extend(clash(earlier, later).map(|violation| (index, violation)));
        }
    }
    found
}

fn compete(one: &ServingRuntimeSpec, other: &ServingRuntimeSpec) -> bool {
    !one.is_disabled()
        && !other.is_disabled()
        && one.is_multi_model() == other.is_multi_model()
        && one.protocol_versions.iter().any(|protocol| other.protocol_versions.contains(protocol))
}

fn clash(earlier: &ServingRuntime, later: &ServingRuntime) -> Option<Violation> {
    let same = |one: &SupportedModelFormat, other: &SupportedModelFormat| {
        one.is_auto_selected()
            && other.is_auto_selected()
            && one.name.eq_ignore_ascii_case(&other.name)
            && one.version == other.version
            && one.priority.is_some()
            && one.priority == other.priority
    };
    let formats = &later.spec.supported_model_formats;
    let index = formats.iter().position(|format| earlier.spec.supported_model_formats.iter().any(|other| same(other, format)))?;
    let scope = match later.metadata.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" in namespace {namespace}"),
    };
    let message = format!(
        "same priority assigned for the model format {} in the servingruntimes {} and {}{scope}",
        formats[index].name, earlier.metadata.name, later.metadata.name
    );
    Some(Violation::error(format!("spec.supportedModelFormats[{index}].priority"), message))
}
