//! What serves a model format: ServingRuntime (of a namespace) and ClusterServingRuntime (of the whole cluster).

use super::metadata::ObjectMeta;
use super::pod::{Container, EnvVar, Opaque, Volume};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A ServingRuntime or a ClusterServingRuntime.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServingRuntime {
    /// `serving.kserve.io/v1alpha1`.
    pub api_version: String,
    /// `ServingRuntime` or `ClusterServingRuntime`.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What it serves and how.
    pub spec: ServingRuntimeSpec,
    /// Always empty in KServe; ignored when read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Opaque>,
}

/// Declares a struct with its own fields and those of KServe's `ServingRuntimePodSpec`, which KServe inlines in two
/// places. Written out, because serde's `flatten` loses the place of every mistake.
macro_rules! with_runtime_pod_fields {
    ($(#[$about:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($own)*
            /// Its containers; `kserve-container` is the model server.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub containers: Vec<Container>,
            /// Folders that containers may mount; without meaning here.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub volumes: Vec<Volume>,
            /// Which nodes may run it; without meaning here.
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            pub node_selector: BTreeMap<String, String>,
            /// Which nodes it likes; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub affinity: Option<Opaque>,
            /// Which tainted nodes it puts up with; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tolerations: Option<Opaque>,
            /// Labels for what it runs.
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            pub labels: BTreeMap<String, String>,
            /// Annotations for what it runs.
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            pub annotations: BTreeMap<String, String>,
            /// Secrets of image registries; without meaning here.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub image_pull_secrets: Vec<Opaque>,
            /// Whether it shares the host's memory segments; without meaning here.
            #[serde(rename = "hostIPC", skip_serializing_if = "Option::is_none")]
            pub host_ipc: Option<bool>,
            /// Which scheduler places it; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub scheduler_name: Option<String>,
            /// Devices it claims; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub resource_claims: Option<Opaque>,
        }
    };
}

with_runtime_pod_fields! {
    /// What a runtime serves and how; every field of `serving.kserve.io/v1alpha1`.
    ///
    /// Source: KServe `ServingRuntimeSpec` with its inlined `ServingRuntimePodSpec`.
    pub struct ServingRuntimeSpec {
        /// The model formats it serves.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub supported_model_formats: Vec<SupportedModelFormat>,
        /// Whether one server holds many models; such a runtime is never picked by itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub multi_model: Option<bool>,
        /// Whether it is out of use.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub disabled: Option<bool>,
        /// The protocols it speaks: `v1`, `v2`, `grpc-v1`, `grpc-v2`; empty for any.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub protocol_versions: Vec<String>,
        /// The other nodes of a server that spans several.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub worker_spec: Option<WorkerSpec>,
        /// ModelMesh's management endpoint; ignored, as by KServe.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub grpc_endpoint: Option<String>,
        /// ModelMesh's gRPC endpoint; ignored, as by KServe.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub grpc_data_endpoint: Option<String>,
        /// ModelMesh's HTTP endpoint; ignored, as by KServe.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub http_data_endpoint: Option<String>,
        /// ModelMesh's replicas; ignored, as by KServe.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub replicas: Option<u32>,
        /// ModelMesh's storage helper; ignored, as by KServe.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub storage_helper: Option<StorageHelper>,
        /// ModelMesh's adapter; ignored, as by KServe.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub built_in_adapter: Option<BuiltInAdapter>,
    }
}

with_runtime_pod_fields! {
    /// The further nodes of a server that spans several.
    pub struct WorkerSpec {
        /// Stages of the model, one after another.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub pipeline_parallel_size: Option<i64>,
        /// Parts of each layer, side by side.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tensor_parallel_size: Option<i64>,
    }
}

/// A model format that a runtime serves.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SupportedModelFormat {
    /// The format, e.g. `onnx`; case counts.
    pub name: String,
    /// Its version; compared letter by letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether the runtime is picked for it without being named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_select: Option<bool>,
    /// Which of several runtimes is picked: the highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
}

/// ModelMesh's storage helper.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageHelper {
    /// Whether it is left out.
    pub disabled: bool,
}

/// ModelMesh's adapter beside the model server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BuiltInAdapter {
    /// `triton`, `mlserver` or `ovms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_type: Option<String>,
    /// Where the server is told what to load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_management_port: Option<i32>,
    /// Memory kept free for requests, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_buffer_bytes: Option<i64>,
    /// How long a load may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_loading_timeout_millis: Option<i64>,
    /// The adapter's environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
}

impl ServingRuntimeSpec {
    /// Whether the runtime is out of use.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.disabled.unwrap_or(false)
    }

    /// Whether one server of it holds many models.
    #[must_use]
    pub fn is_multi_model(&self) -> bool {
        self.multi_model.unwrap_or(false)
    }

    /// Whether it speaks the protocol; a runtime that lists none speaks all.
    #[must_use]
    pub fn speaks(&self, protocol: &str) -> bool {
        self.protocol_versions.is_empty() || self.protocol_versions.iter().any(|spoken| spoken == protocol)
    }
}

impl SupportedModelFormat {
    /// Whether the runtime is picked for this format without being named.
    #[must_use]
    pub fn is_auto_selected(&self) -> bool {
        self.auto_select.unwrap_or(false)
    }
}
