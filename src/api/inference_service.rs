//! An InferenceService as the user writes it: a model, and how it is to be served.
//!
//! All fields of KServe's v1beta1 type are here, also those without meaning on one machine, so that a KServe user's
//! file is read unchanged and what goes back is what was written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::component::component;
use super::inline::{with_container_fields, with_pod_fields};
use super::metadata::ObjectMeta;
use super::pod::Container;
use super::status::InferenceServiceStatus;

/// One InferenceService.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceService {
    /// `serving.kserve.io/v1beta1`.
    pub api_version: String,
    /// `InferenceService`.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: InferenceServiceSpec,
    /// What was last reported; ignored when read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<InferenceServiceStatus>>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceServiceSpec {
    /// What answers.
    pub predictor: PredictorSpec,
    /// What changes requests on their way in and answers on their way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transformer: Option<Box<TransformerSpec>>,
    /// What explains answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explainer: Option<Box<ExplainerSpec>>,
    /// Other predictors that take a share of the requests; in Standard mode only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub canary: Vec<CanarySpec>,
}

/// One canary predictor, laid over the stable one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanarySpec {
    /// What differs from the stable predictor; its name must be written.
    pub predictor: PredictorSpec,
    /// Its share of the requests, 0 to 100; must be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_percent: Option<i32>,
}

component! {
    /// What answers: exactly one of `model`, the ten older framework keys, or a custom container.
    pub struct PredictorSpec {
        /// The model and its runtime.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub model: Option<Box<ModelSpec>>,
        /// A scikit-learn model (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub sklearn: Option<Box<FrameworkSpec>>,
        /// An XGBoost model (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub xgboost: Option<Box<FrameworkSpec>>,
        /// A TensorFlow model (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tensorflow: Option<Box<FrameworkSpec>>,
        /// A PyTorch model (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub pytorch: Option<Box<FrameworkSpec>>,
        /// A Triton model repository (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub triton: Option<Box<FrameworkSpec>>,
        /// An ONNX model (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub onnx: Option<Box<FrameworkSpec>>,
        /// A Hugging Face model (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub huggingface: Option<Box<FrameworkSpec>>,
        /// A PMML model (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub pmml: Option<Box<FrameworkSpec>>,
        /// A LightGBM model (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub lightgbm: Option<Box<FrameworkSpec>>,
        /// A PaddlePaddle model (older form).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub paddle: Option<Box<FrameworkSpec>>,
        /// The variant's name; empty for the usual one.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub name: String,
        /// Several places to fetch from, each with the folder it goes to.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub storage_uris: Vec<StorageUriSpec>,
        /// The ClusterStorageContainer that fetches.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub storage_container_name: Option<String>,
        /// More machines for one model.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub worker_spec: Option<Box<WorkerSpec>>,
    }
}

component! {
    /// What changes requests on their way in and answers on their way out: a custom container.
    pub struct TransformerSpec {}
}

component! {
    /// What explains answers: ART or a custom container.
    pub struct ExplainerSpec {
        /// The Adversarial Robustness Toolbox.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub art: Option<Box<ArtExplainerSpec>>,
    }
}

with_pod_fields! {
    /// More machines for one model.
    pub struct WorkerSpec {
        /// Stages the model is cut into.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub pipeline_parallel_size: Option<i32>,
        /// Pieces each layer is cut into.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tensor_parallel_size: Option<i32>,
    }
}

/// Declares a struct with its own fields, KServe's `PredictorExtensionSpec`, and all fields of a container.
macro_rules! with_predictor_extension {
    ($(#[$about:meta])* pub struct $name:ident { $($own:tt)* }) => {
        with_container_fields! {
            $(#[$about])*
            pub struct $name {
                $($own)*
                /// Where the model lies.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub storage_uri: Option<String>,
                /// The version of the runtime, in place of its image's tag.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub runtime_version: Option<String>,
                /// `v1`, `v2`, `grpc-v1` or `grpc-v2`; decides which runtimes fit.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub protocol_version: Option<String>,
                /// Where the model lies, by an entry of the storage secret.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub storage: Option<StorageSpec>,
                /// Confidential computing; without meaning here.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub confidential: Option<ConfidentialSpec>,
            }
        }
    };
}

with_predictor_extension! {
    /// The model, its runtime, and changes to the runtime's container.
    pub struct ModelSpec {
        /// The model's format; decides the runtime.
        pub model_format: ModelFormat,
        /// The runtime by name; found by format when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub runtime: Option<String>,
    }
}

with_predictor_extension! {
    /// A model of one framework in KServe's older form: `sklearn: {storageUri: ..}`.
    pub struct FrameworkSpec {}
}

with_container_fields! {
    /// The Adversarial Robustness Toolbox as an explainer.
    pub struct ArtExplainerSpec {
        /// Which explainer, e.g. `SquareAttack`.
        #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
        pub kind: String,
        /// Where the explainer lies.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub storage_uri: Option<String>,
        /// The version of the explainer's image.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub runtime_version: Option<String>,
        /// Its settings.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub config: BTreeMap<String, String>,
        /// Where the explainer lies, by an entry of the storage secret.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub storage: Option<StorageSpec>,
    }
}

/// The format of a model: a name, compared letter by letter, and perhaps a version, compared as text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelFormat {
    /// E.g. `onnx`.
    pub name: String,
    /// E.g. `"1"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Where a model lies, by an entry of the storage secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageSpec {
    /// The path in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A file that describes inputs and outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_path: Option<String>,
    /// Settings laid over those of the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BTreeMap<String, String>>,
    /// The entry of the secret.
    #[serde(rename = "key", skip_serializing_if = "Option::is_none")]
    pub storage_key: Option<String>,
}

/// One of several places to fetch from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageUriSpec {
    /// Where from.
    pub uri: String,
    /// Where to; `/mnt/models` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
}

/// Confidential computing; without meaning here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfidentialSpec {
    /// Whether the model is encrypted.
    pub enabled: bool,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
}

impl PredictorSpec {
    /// The older framework keys that are written, in KServe's order of conversion.
    #[must_use]
    pub fn frameworks(&self) -> Vec<(&'static str, &FrameworkSpec)> {
        [
            ("sklearn", &self.sklearn),
            ("tensorflow", &self.tensorflow),
            ("xgboost", &self.xgboost),
            ("pytorch", &self.pytorch),
            ("triton", &self.triton),
            ("onnx", &self.onnx),
            ("huggingface", &self.huggingface),
            ("pmml", &self.pmml),
            ("lightgbm", &self.lightgbm),
            ("paddle", &self.paddle),
        ]
        .into_iter()
        .filter_map(|(name, spec)| Some((name, spec.as_deref()?)))
        .collect()
    }

    /// The container that serves a custom predictor: the one called `kserve-container`, else the first.
    #[must_use]
    pub fn custom_container(&self) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == super::SERVER_CONTAINER).or_else(|| self.containers.first())
    }
}

/// Moves the older form into the new one, which has all of its fields.
impl From<FrameworkSpec> for ModelSpec {
    fn from(old: FrameworkSpec) -> Self {
        Self {
            model_format: ModelFormat::default(),
            runtime: None,
            storage_uri: old.storage_uri,
            runtime_version: old.runtime_version,
            protocol_version: old.protocol_version,
            storage: old.storage,
            confidential: old.confidential,
            name: old.name,
            image: old.image,
            command: old.command,
            args: old.args,
            working_dir: old.working_dir,
            ports: old.ports,
            env_from: old.env_from,
            env: old.env,
            resources: old.resources,
            volume_mounts: old.volume_mounts,
            liveness_probe: old.liveness_probe,
            readiness_probe: old.readiness_probe,
            startup_probe: old.startup_probe,
            lifecycle: old.lifecycle,
            security_context: old.security_context,
            image_pull_policy: old.image_pull_policy,
            resize_policy: old.resize_policy,
            restart_policy: old.restart_policy,
            restart_policy_rules: old.restart_policy_rules,
            volume_devices: old.volume_devices,
            termination_message_path: old.termination_message_path,
            termination_message_policy: old.termination_message_policy,
            stdin: old.stdin,
            stdin_once: old.stdin_once,
            tty: old.tty,
        }
    }
}
