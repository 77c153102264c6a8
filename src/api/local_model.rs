//! Models that are fetched before anybody asks: LocalModelCache and LocalModelNamespaceCache, the groups of nodes that
//! keep them, and what one node keeps.

use super::inference_service::StorageSpec;
use super::metadata::ObjectMeta;
use super::pod::Opaque;
use super::quantity::Quantity;
use super::status::Condition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A LocalModelCache (of the whole cluster) or a LocalModelNamespaceCache.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelCache {
    /// `serving.kserve.io/v1alpha1`.
    pub api_version: String,
    /// `LocalModelCache` or `LocalModelNamespaceCache`.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What is kept, and where.
    pub spec: LocalModelCacheSpec,
    /// Ignored when read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Opaque>,
}

/// What is kept, and where.
///
/// Source: KServe `LocalModelCacheSpec` (reference 8.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelCacheSpec {
    /// Where the model comes from; never changes.
    pub source_model_uri: String,
    /// How much room it takes at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_size: Option<Quantity>,
    /// The groups of nodes that keep it; the first one counts where a service names none.
    pub node_groups: Vec<String>,
    /// The account whose secrets open the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// An entry of the storage secret that opens the store; it has no path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
}

/// A group of nodes that keep models.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelNodeGroup {
    /// `serving.kserve.io/v1alpha1`.
    pub api_version: String,
    /// `LocalModelNodeGroup`.
    pub kind: String,
    /// Name, labels, annotations.
    pub metadata: ObjectMeta,
    /// Which nodes, and how much room.
    pub spec: LocalModelNodeGroupSpec,
    /// Ignored when read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Opaque>,
}

/// Which nodes belong to a group, and how much room each has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelNodeGroupSpec {
    /// Room for all models of the group on one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_limit: Option<Quantity>,
    /// Of it `nodeAffinity` counts: which nodes belong to the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_spec: Option<Opaque>,
    /// How a cluster mounts it; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim_spec: Option<Opaque>,
}

/// What one node keeps; kserved writes the one of this machine itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelNode {
    /// `serving.kserve.io/v1alpha1`.
    pub api_version: String,
    /// `LocalModelNode`.
    pub kind: String,
    /// Its name is the node's.
    pub metadata: ObjectMeta,
    /// The models it is to keep.
    pub spec: LocalModelNodeSpec,
    /// Ignored when read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Opaque>,
}

/// The models a node is to keep.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelNodeSpec {
    /// One entry for each cache.
    pub local_models: Vec<LocalModelInfo>,
}

/// One model of a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelInfo {
    /// Where it comes from.
    pub source_model_uri: String,
    /// The cache's name.
    pub model_name: String,
    /// The cache's namespace, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The group it is kept for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_group: Option<String>,
    /// The account whose secrets open the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// An entry of the storage secret that opens the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
}

/// The status of one of these resources.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum LocalModelStatus {
    /// Of a cache.
    Cache(LocalModelCacheStatus),
    /// Of a group of nodes.
    Group(LocalModelNodeGroupStatus),
    /// Of a node.
    Node(LocalModelNodeStatus),
}

/// Where a cache's model is.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalModelCacheStatus {
    /// By node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_status: BTreeMap<String, NodeStatus>,
    /// How many nodes have it.
    pub copies: LocalModelCopies,
    /// The services that use it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inference_services: Vec<NamespacedName>,
    /// Beside KServe's fields: why it is not there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How many nodes have a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalModelCopies {
    /// Those that have it.
    pub available: i32,
    /// All that are to have it.
    pub total: i32,
    /// Those that could not get it.
    pub failed: i32,
}

/// The name of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// How far a node is with a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum NodeStatus {
    /// Waits for its turn.
    NodeDownloadPending,
    /// Is being fetched.
    NodeDownloading,
    /// Is there.
    NodeDownloaded,
    /// Could not be fetched, or has no room.
    NodeDownloadError,
}

/// How full a group's room is on this machine; KServe declares these fields and leaves them empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalModelNodeGroupStatus {
    /// What its models take.
    pub used: Quantity,
    /// What is left of its limit.
    pub available: Quantity,
}

/// How far each model of a node is, by `NAME` or `NAMESPACE/NAME` of its cache.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalModelNodeStatus {
    /// By cache.
    pub model_status: BTreeMap<String, ModelDownloadStatus>,
}

/// The same as [`NodeStatus`], in the words of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ModelDownloadStatus {
    /// Waits for its turn.
    ModelDownloadPending,
    /// Is being fetched.
    ModelDownloading,
    /// Is there.
    ModelDownloaded,
    /// Could not be fetched, or has no room.
    ModelDownloadError,
}

impl From<NodeStatus> for ModelDownloadStatus {
    fn from(status: NodeStatus) -> Self {
        match status {
            NodeStatus::NodeDownloadPending => Self::ModelDownloadPending,
            NodeStatus::NodeDownloading => Self::ModelDownloading,
            NodeStatus::NodeDownloaded => Self::ModelDownloaded,
            NodeStatus::NodeDownloadError => Self::ModelDownloadError,
        }
    }
}
