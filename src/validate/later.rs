//! What a service asks for and does not get yet, named so that nothing is dropped silently.

use crate::api::component::ComponentExtension;
use crate::api::deployment_mode::{DeploymentMode, annotation};
use crate::api::gpu::{self, Gpu};
use crate::api::inference_service::{InferenceService, PredictorSpec};
use crate::api::pod::ResourceRequirements;
use crate::api::{SERVER_CONTAINER, TRANSFORMER_CONTAINER};

/// The fields of a service that are understood and not yet served, each with a sentence.
#[must_use]
pub fn not_yet_served(service: &InferenceService) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut add = |field: String, what: &str| found.push((field, format!("{what} is not yet served")));
    if service.metadata.annotation(annotation::DEPLOYMENT_MODE) == Some(DeploymentMode::ModelMesh.name()) {
        add(format!("metadata.annotations[{}]", annotation::DEPLOYMENT_MODE), "deployment mode `ModelMesh`");
    }
    predictor(&service.spec.predictor, &mut add);
    if let Some(transformer) = &service.spec.transformer {
        add("spec.transformer".to_owned(), "a transformer");
        extension("spec.transformer", &transformer.extension(), &mut add);
    }
    if let Some(explainer) = &service.spec.explainer {
        add("spec.explainer".to_owned(), "an explainer");
        extension("spec.explainer", &explainer.extension(), &mut add);
    }
    found
}

fn predictor(predictor: &PredictorSpec, add: &mut impl FnMut(String, &str)) {
    let field = "spec.predictor";
    if predictor.model.is_none() && !predictor.containers.is_empty() {
        add(format!("{field}.containers"), "a custom predictor");
    }
    for (index, container) in predictor.containers.iter().enumerate() {
        let what = match container.name.as_str() {
            _ if predictor.model.is_none() => continue,
            SERVER_CONTAINER => continue,
            TRANSFORMER_CONTAINER => "a transformer beside the model",
            _ => "a container beside the model",
        };
        add(format!("{field}.containers[{index}]"), what);
    }
    for (name, set, what) in [
        ("initContainers", !predictor.init_containers.is_empty(), "a container before the model"),
        ("workerSpec", predictor.worker_spec.is_some(), "a model over several machines"),
    ] {
        if set {
            add(format!("{field}.{name}"), what);
        }
    }
    gpus(&format!("{field}.model"), predictor.model.as_ref().and_then(|model| model.resources.as_ref()), add);
    for (index, container) in predictor.containers.iter().enumerate().filter(|(_, container)| container.name == SERVER_CONTAINER) {
        gpus(&format!("{field}.containers[{index}]"), container.resources.as_ref(), add);
    }
    extension(field, &predictor.extension(), add);
}

/// Limits that ask for GPUs which no model gets here: others than NVIDIA's, and more than one.
fn gpus(field: &str, resources: Option<&ResourceRequirements>, add: &mut impl FnMut(String, &str)) {
    for (name, gpu, count) in resources.into_iter().flat_map(gpu::asked) {
        let field = || format!("{field}.resources.limits[{name}]");
        match gpu {
            Gpu::Nvidia if count > 1 => add(field(), "a model on several GPUs, in place of which it gets one,"),
            Gpu::Nvidia | Gpu::NvidiaPart => {}
            Gpu::Other => add(field(), "a GPU that is not NVIDIA's, in place of which the model gets the CPU,"),
        }
    }
}

fn extension(field: &str, extension: &ComponentExtension<'_>, add: &mut impl FnMut(String, &str)) {
    for (name, set, what) in [("autoScaling", extension.auto_scaling.is_some(), "scaling by `autoScaling`")] {
        if set {
            add(format!("{field}.{name}"), what);
        }
    }
}
