//! Several services as one: InferenceGraph, `serving.kserve.io/v1alpha1`.

use super::metadata::ObjectMeta;
use super::pod::{Opaque, ResourceRequirements};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The node where every request begins.
pub const ROOT: &str = "root";

/// An InferenceGraph.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceGraph {
    /// `serving.kserve.io/v1alpha1`.
    pub api_version: String,
    /// `InferenceGraph`.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What calls what.
    pub spec: InferenceGraphSpec,
    /// Ignored when read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Opaque>,
}

/// What calls what; every field of `serving.kserve.io/v1alpha1`.
///
/// Source: KServe `InferenceGraphSpec` (reference 5.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceGraphSpec {
    /// The nodes by name; requests begin at `root`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, InferenceRouter>,
    /// What the router pod asks for; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Which nodes it likes; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Opaque>,
    /// How long a request may take, in seconds; 300 when absent.
    #[serde(rename = "timeout", skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<i64>,
    /// Bounds of the router's connections, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_timeouts: Option<RouterTimeouts>,
    /// Router pods to keep at least; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    /// Router pods at most; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    /// What one router pod should carry; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_target: Option<i32>,
    /// What is measured to scale router pods; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_metric: Option<String>,
    /// Which tainted nodes it puts up with; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Opaque>,
    /// Which nodes may run it; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Opaque>,
    /// The node that runs it; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The account of the router pod; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
}

/// Bounds of the router's connections, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouterTimeouts {
    /// How long reading a request may take; the daemon's own bounds hold instead.
    #[serde(rename = "serverRead", skip_serializing_if = "Option::is_none")]
    pub server_read_s: Option<i64>,
    /// How long writing an answer may take; the daemon's own bounds hold instead.
    #[serde(rename = "serverWrite", skip_serializing_if = "Option::is_none")]
    pub server_write_s: Option<i64>,
    /// How long a connection may idle; the daemon's own bounds hold instead.
    #[serde(rename = "serverIdle", skip_serializing_if = "Option::is_none")]
    pub server_idle_s: Option<i64>,
    /// How long one step may take; as long as the whole graph when absent.
    #[serde(rename = "serviceClient", skip_serializing_if = "Option::is_none")]
    pub service_client_s: Option<i64>,
}

/// A node: what it does with its steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceRouter {
    /// How its steps are gone through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_type: Option<RouterType>,
    /// Its steps, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<InferenceStep>,
}

/// How the steps of a node are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RouterType {
    /// One after another.
    Sequence,
    /// One of them, by weight.
    Splitter,
    /// All at once, their answers merged.
    Ensemble,
    /// The first whose condition holds.
    Switch,
}

impl fmt::Display for RouterType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One step: whom it calls, with what, and when.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceStep {
    /// Its name, the key of its answer in an Ensemble; unique in the node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Another node of the graph.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// An InferenceService of the graph's namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    /// A URL, its path included.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_url: String,
    /// What is sent: `$response` for the answer of the step before, anything else for the node's own input.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// Whether `predictions` of what is sent become `instances`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_predictions_to_instances: Option<bool>,
    /// Its share of a Splitter, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// A gjson path: the step is taken where something is found there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub condition: String,
    /// Whether a failure of the step ends the node; `Soft` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependency: Option<Dependency>,
}

/// Whether a failure of a step ends its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dependency {
    /// It goes on.
    Soft,
    /// It ends.
    Hard,
}

impl InferenceStep {
    /// Where the step leads, field by field: those that are set.
    pub fn targets(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("nodeName", &self.node_name), ("serviceName", &self.service_name), ("serviceUrl", &self.service_url)]
            .into_iter()
            .filter(|(_, target)| !target.is_empty())
            .map(|(field, target)| (field, target.as_str()))
    }

    /// Whether a failure of the step ends its node.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.dependency == Some(Dependency::Hard)
    }
}
