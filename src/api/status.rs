//! What a user reads back: whether a service is ready, where it answers, and what went wrong.
//!
//! The shape is KServe's own (`InferenceServiceStatus` of v1beta1), so its SDK, `kubectl` and scripts read it unchanged.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The `status` block of an InferenceService.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceServiceStatus {
    /// The `metadata.generation` that this status was made from.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// Facts by type; `Ready` sums them up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The address inside the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The address for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// By component: `predictor`, `transformer`, `explainer`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, ComponentStatus>,
    /// The model of the predictor.
    pub model_status: ModelStatus,
    /// The canary predictors of `spec.canary`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub canary_statuses: Vec<CanaryStatus>,
    /// `Knative` or `Standard`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deployment_mode: String,
    /// The runtime in use, where it is one of the namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serving_runtime_name: String,
    /// The runtime in use, where it is one of the cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_serving_runtime_name: String,
    /// Annotations that Knative's status type carries.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl InferenceServiceStatus {
    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether the condition `Ready` is `True`.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.condition(condition::READY).is_some_and(|ready| ready.status == ConditionStatus::True)
    }
}

/// The `status` block of an InferenceGraph (`InferenceGraphStatus` of v1alpha1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceGraphStatus {
    /// The `metadata.generation` that this status was made from.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// Facts by type; `Ready` sums them up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The address for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `Knative` or `Standard`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deployment_mode: String,
}

impl InferenceGraphStatus {
    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Names of the conditions KServe sets.
pub mod condition {
    /// `PredictorReady` and `IngressReady` are both true.
    pub const READY: &str = "Ready";
    /// The predictor works.
    pub const PREDICTOR_READY: &str = "PredictorReady";
    /// The transformer works.
    pub const TRANSFORMER_READY: &str = "TransformerReady";
    /// The explainer works.
    pub const EXPLAINER_READY: &str = "ExplainerReady";
    /// The route to the service exists.
    pub const INGRESS_READY: &str = "IngressReady";
    /// The route to the predictor exists (Knative).
    pub const PREDICTOR_ROUTE_READY: &str = "PredictorRouteReady";
    /// The predictor's newest configuration is ready (Knative).
    pub const PREDICTOR_CONFIGURATION_READY: &str = "PredictorConfigurationReady";
    /// All routes are ready (Knative).
    pub const ROUTES_READY: &str = "RoutesReady";
    /// All newest configurations are ready (Knative).
    pub const LATEST_DEPLOYMENT_READY: &str = "LatestDeploymentReady";
    /// The user asked for a stop, and the service is stopped.
    pub const STOPPED: &str = "Stopped";
    /// The canary predictors work.
    pub const CANARY_PREDICTOR_READY: &str = "CanaryPredictorReady";
}

/// One fact about a service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// When the status last changed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// A sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// One word for programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Empty where the condition decides `Ready`, otherwise `Info`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Which fact, one of [`condition`].
    #[serde(rename = "type")]
    pub kind: String,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet.
    #[default]
    Unknown,
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}

/// Where something answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Address {
    /// The URL, without a trailing slash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Revisions and addresses of one component (`ComponentStatusSpec`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentStatus {
    /// The newest revision that is ready.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub latest_ready_revision: String,
    /// The newest revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub latest_created_revision: String,
    /// The last revision but one that had all the traffic.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub previous_rolledout_revision: String,
    /// The last revision that had all the traffic.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub latest_rolledout_revision: String,
    /// How requests are split.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
    /// The address for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The HTTP address for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest_url: Option<String>,
    /// The gRPC address for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_url: Option<String>,
    /// The address inside the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
}

/// A share of the requests and the revision that gets it (Knative's `TrafficTarget`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficTarget {
    /// A name in front of the host, `latest` or `prev`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// The revision, e.g. `iris-predictor-00003`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision_name: String,
    /// Whether the target moves along with the newest ready revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_revision: Option<bool>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i64>,
    /// The address with the tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// One canary predictor of `spec.canary`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryStatus {
    /// The predictor's name.
    pub name: String,
    /// Whether it works.
    pub ready: bool,
    /// Its share of the requests.
    pub traffic_percent: i32,
    /// Its model.
    pub model_status: ModelStatus,
}

/// The state of a predictor's model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelStatus {
    /// Whether what runs is what the spec asks for.
    pub transition_status: TransitionStatus,
    /// The model that serves and the one that is to serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub states: Option<ModelStates>,
    /// The newest failure; kept after a later success, as KServe does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure_info: Option<FailureInfo>,
    /// How many copies work and failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<ModelCopies>,
    /// kserved's own: what the cache holds of the model that serves; absent where it was not fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<CachedModel>,
}

/// Whether what runs is what the spec asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum TransitionStatus {
    /// It is.
    #[default]
    UpToDate,
    /// On the way.
    InProgress,
    /// The new model could not be loaded; the old one goes on serving, if there is one.
    BlockedByFailedLoad,
    /// The spec cannot be served as it stands.
    InvalidSpec,
}

impl fmt::Display for TransitionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpToDate => "UpToDate",
            Self::InProgress => "InProgress",
            Self::BlockedByFailedLoad => "BlockedByFailedLoad",
            Self::InvalidSpec => "InvalidSpec",
        })
    }
}

/// The model that serves and the one that is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelStates {
    /// What serves now; only ever `Loaded` or empty in KServe.
    pub active_model_state: ModelState,
    /// What the newest spec asks for.
    pub target_model_state: ModelState,
}

/// How far a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ModelState {
    /// Not said; written as an empty string.
    #[default]
    #[serde(rename = "")]
    Unset,
    /// Not begun.
    Pending,
    /// At hand but not in memory: scaled to zero.
    Standby,
    /// Being fetched or loaded.
    Loading,
    /// Answers requests.
    Loaded,
    /// Could not be loaded.
    FailedToLoad,
}

impl fmt::Display for ModelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unset => "",
            Self::Pending => "Pending",
            Self::Standby => "Standby",
            Self::Loading => "Loading",
            Self::Loaded => "Loaded",
            Self::FailedToLoad => "FailedToLoad",
        })
    }
}

/// Why a model is not served.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureInfo {
    /// Where it failed: a pod in KServe, a worker or a file here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub location: String,
    /// The reason in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<FailureReason>,
    /// The reason in a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The revision that failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model_revision_name: String,
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The exit code of the process that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// The reason of a failure in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureReason {
    /// Fetching or loading the model failed.
    ModelLoadFailed,
    /// The runtime does not start or keeps failing.
    RuntimeUnhealthy,
    /// The runtime asked for is disabled.
    RuntimeDisabled,
    /// No runtime supports the model's format.
    NoSupportingRuntime,
    /// There is no runtime of the name asked for.
    RuntimeNotRecognized,
    /// The predictor's spec contradicts itself.
    InvalidPredictorSpec,
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A fetched model in this machine's cache.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CachedModel {
    /// Bytes of its files.
    pub bytes: u64,
    /// Its files.
    pub files: u64,
    /// Of these, how many lie on the disk once for several models.
    pub shared_files: u64,
    /// Which version its source said it is: a commit, a digest, an `ETag`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When it was fetched.
    pub fetched_at: String,
}

/// How many copies of a model there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelCopies {
    /// Copies that failed.
    pub failed_copies: i32,
    /// Copies that are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_copies: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_keeps_kserves_json_shape_both_ways() {
        let text = r#"{"observedGeneration":3,"conditions":[{"lastTransitionTime":"2026-08-21T10:00:00Z","severity":"Info","status":"True","type":"PredictorReady"},{"status":"True","type":"Ready"}],"address":{"url":"http://iris.default.svc.cluster.local"},"url":"http://iris.default.example.com","components":{"predictor":{"latestReadyRevision":"iris-predictor-00001","latestCreatedRevision":"iris-predictor-00001","latestRolledoutRevision":"iris-predictor-00001","traffic":[{"revisionName":"iris-predictor-00001","latestRevision":true,"percent":100}],"url":"http://iris-predictor.default.example.com"}},"modelStatus":{"transitionStatus":"UpToDate","states":{"activeModelState":"Loaded","targetModelState":"Loaded"},"lastFailureInfo":{"reason":"ModelLoadFailed","message":"no such file","exitCode":1},"copies":{"failedCopies":0,"totalCopies":1}},"deploymentMode":"Knative","clusterServingRuntimeName":"kserve-onnx"}"#;
        let status: InferenceServiceStatus = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), text);
        assert!(status.is_ready());
    }
}
