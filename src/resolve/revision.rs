//! What a revision is: everything that decides what runs, and the name it runs under.

use super::batching::BatchingSpec;
use super::storage_uri::StorageUri;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Everything that decides what runs for one component of a service. Two equal specs are the same
/// revision: `==` is the diff. Scale bounds are not part of it, so changing them makes no new revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RevisionSpec {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
    /// The model's name on the wire: `--model_name` of the merged arguments, else the service's name.
    pub model_name: String,
    /// The in-process engine, e.g. `onnx`.
    pub engine: String,
    /// The chosen runtime.
    pub runtime: RuntimeRef,
    /// `modelFormat` as written, e.g. `onnx` or `onnx 1`.
    pub model_format: String,
    /// The protocol after defaulting: `v1`, `v2`, `grpc-v1`, `grpc-v2`.
    pub protocol: String,
    /// Where the model lies; a service without storage has none.
    pub storage: Option<StorageUri>,
    /// Arguments after merge and placeholders.
    pub args: Vec<String>,
    /// Environment after merge and placeholders; entries by `valueFrom` are left out.
    pub env: BTreeMap<String, String>,
    /// CPU limit in thousandths of a core, if the merged container has one.
    pub cpu_limit_millis: Option<u64>,
    /// Memory limit in bytes, if the merged container has one.
    pub memory_limit_bytes: Option<u64>,
    /// GPUs of NVIDIA among the merged container's limits.
    #[serde(default)]
    pub gpus: u64,
    /// Seconds a request may take; KServe's default of 300 filled in.
    pub timeout_s: u64,
    /// Requests at once, a hard limit; 0 is unbounded.
    pub container_concurrency: u64,
    /// How requests are joined; nothing: each runs alone.
    pub batching: Option<BatchingSpec>,
    /// What the one file that the model is fetched as must hash to, where that is pinned.
    #[serde(default)]
    pub model_sha256: Option<[u8; 32]>,
}

/// The runtime a revision runs on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RuntimeRef {
    /// Its name.
    pub name: String,
    /// Whether it is a ClusterServingRuntime.
    pub cluster: bool,
}

/// A revision's name as Knative numbers it: `iris-predictor-00003`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RevisionName {
    /// The component's service, e.g. `iris-predictor`.
    pub component: String,
    /// From 1.
    pub number: u64,
}

impl fmt::Display for RevisionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:05}", self.component, self.number)
    }
}
