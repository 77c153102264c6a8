//! What KServe fills in for the servers it knows: MLServer, Triton and TorchServe.
//!
//! These defaults come before merge and placeholders, so runtimes that KServe ships can use them, e.g.
//! `{{.Labels.modelClass}}`.
//!
//! Source: KServe `isvcutils` / `predictor.go`, `SetMlServerDefaults`, `SetTritonDefaults`, `SetTorchServeDefaults`.

use super::runtime::default_protocol;
use crate::api::inference_service::{InferenceService, ModelSpec};
use crate::api::metadata::ObjectMeta;
use crate::api::pod::EnvVar;
use crate::api::serving_runtime::ServingRuntime;

/// The annotation of a runtime that says which server its image holds.
pub const SERVER_TYPE_ANNOTATION: &str = "serving.kserve.io/server-type";

/// A service after its runtime is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// The model with the server's variables and arguments.
    pub model: ModelSpec,
    /// The service's metadata with the server's labels, for placeholders.
    pub metadata: ObjectMeta,
    /// The protocol in use.
    pub protocol: String,
}

/// The server a runtime's image holds, by annotation or by KServe's own names: `mlserver`, `triton`, `torchserve`.
#[must_use]
pub fn server_type(runtime: &ServingRuntime) -> Option<&str> {
    runtime.metadata.annotation(SERVER_TYPE_ANNOTATION).or(match runtime.metadata.name.as_str() {
        "kserve-mlserver" => Some("mlserver"),
        "kserve-tritonserver" => Some("triton"),
        "kserve-torchserve" => Some("torchserve"),
        _ => None,
    })
}

/// Fills in what KServe does once it has chosen the runtime.
#[must_use]
pub fn settle(service: &InferenceService, model: &ModelSpec, runtime: &ServingRuntime) -> Settled {
    let server = server_type(runtime);
    let fallback = match server {
        Some("mlserver" | "triton") => "v2",
        Some("torchserve") => "v1",
        _ => default_protocol(&runtime.spec.protocol_versions),
    };
    let protocol = model.protocol_version.clone().unwrap_or_else(|| fallback.to_owned());
    let mut settled = Settled { model: model.clone(), metadata: service.metadata.clone(), protocol };
    match server {
        Some("mlserver") => settle_mlserver(&mut settled),
        Some("torchserve") => settle_torchserve(&mut settled),
        _ => {}
    }
    settled
}

fn settle_mlserver(settled: &mut Settled) {
    let name = settled.metadata.name.clone();
    set_variable(&mut settled.model, "MLSERVER_MODEL_NAME", &name);
    set_variable(&mut settled.model, "MLSERVER_MODEL_URI", "/mnt/models");
    let class = match settled.model.model_format.name.as_str() {
        "xgboost" => "mlserver_xgboost.XGBoostModel",
        "lightgbm" => "mlserver_lightgbm.LightGBMModel",
        "mlflow" => "mlserver_mlflow.MLflowRuntime",
        _ => "mlserver_sklearn.SKLearnModel",
    };
    settled.metadata.labels.insert("modelClass".to_owned(), class.to_owned());
}

fn settle_torchserve(settled: &mut Settled) {
    let envelope = if settled.protocol == "v1" { "kserve" } else { "kservev2" };
    settled.metadata.labels.insert("serviceEnvelope".to_owned(), envelope.to_owned());
    let protocol = settled.protocol.clone();
    set_variable(&mut settled.model, "PROTOCOL_VERSION", &protocol);
}

/// Adds a variable that the user did not write.
fn set_variable(model: &mut ModelSpec, name: &str, value: &str) {
    if model.env.iter().all(|variable| variable.name != name) {
        model.env.push(EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(format: &str, protocol: Option<&str>, runtime: &str, protocols: &[&str]) -> Settled {
        let mut service = InferenceService::default();
        "iris".clone_into(&mut service.metadata.name);
        let mut model = ModelSpec { protocol_version: protocol.map(str::to_owned), ..ModelSpec::default() };
        format.clone_into(&mut model.model_format.name);
        let mut serving = ServingRuntime::default();
        runtime.clone_into(&mut serving.metadata.name);
        serving.spec.protocol_versions = protocols.iter().map(|p| (*p).to_owned()).collect();
        settle(&service, &model, &serving)
    }

    #[test]
    fn a_service_that_names_no_protocol_gets_that_of_its_server() {
        for (runtime, protocols, protocol) in [
            ("kserve-mlserver", &["v2"][..], "v2"),
            ("kserve-tritonserver", &["v2", "grpc-v2"], "v2"),
            ("kserve-torchserve", &["v2", "v1"], "v1"),
            ("kserve-huggingfaceserver", &["v2", "v1"], "v1"),
            ("own", &["grpc-v2", "v2"], "v2"),
            ("own", &[], "v1"),
        ] {
            assert_eq!(settled("onnx", None, runtime, protocols).protocol, protocol, "{runtime}");
        }
        assert_eq!(settled("onnx", Some("grpc-v2"), "kserve-mlserver", &["v2"]).protocol, "grpc-v2");
    }

    #[test]
    fn mlserver_is_told_the_models_name_and_class() {
        let settled = settled("lightgbm", None, "kserve-mlserver", &["v2"]);
        let env: Vec<_> = settled.model.env.iter().map(|v| (v.name.as_str(), v.value.as_deref().unwrap_or_default())).collect();
        assert_eq!(env, [("MLSERVER_MODEL_NAME", "iris"), ("MLSERVER_MODEL_URI", "/mnt/models")]);
        assert_eq!(settled.metadata.labels["modelClass"], "mlserver_lightgbm.LightGBMModel");
    }

    #[test]
    fn torchserve_is_told_the_envelope_of_its_protocol() {
        assert_eq!(settled("pytorch", None, "kserve-torchserve", &["v1"]).metadata.labels["serviceEnvelope"], "kserve");
        let v2 = settled("pytorch", Some("v2"), "kserve-torchserve", &["v1", "v2"]);
        assert_eq!(v2.metadata.labels["serviceEnvelope"], "kservev2");
        assert_eq!(v2.model.env[0].value.as_deref(), Some("v2"));
    }

    #[test]
    fn the_annotation_names_the_server_before_the_name_does() {
        let mut runtime = ServingRuntime::default();
        "kserve-tritonserver".clone_into(&mut runtime.metadata.name);
        assert_eq!(server_type(&runtime), Some("triton"));
        runtime.metadata.annotations.insert(SERVER_TYPE_ANNOTATION.into(), "mlserver".into());
        assert_eq!(server_type(&runtime), Some("mlserver"));
    }
}
