//! ClusterStorageContainer: what fetches models from URIs of some form.

use super::inline::with_container_fields;
use super::metadata::ObjectMeta;
use serde::{Deserialize, Serialize};

/// A ClusterStorageContainer. It is all that KServe has of this sort: there is none of a namespace.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStorageContainer {
    /// `serving.kserve.io/v1alpha1`.
    pub api_version: String,
    /// `ClusterStorageContainer`.
    pub kind: String,
    /// Name, labels, annotations.
    pub metadata: ObjectMeta,
    /// What it fetches and how.
    pub spec: StorageContainerSpec,
    /// Whether it is left alone; stands beside `spec`, not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
}

/// What a storage container fetches and how.
///
/// Source: KServe `StorageContainerSpec` (reference 6.3).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageContainerSpec {
    /// Its command and environment; the image has no meaning here.
    pub container: StorageContainer,
    /// The URIs it takes.
    pub supported_uri_formats: Vec<SupportedUriFormat>,
    /// What it works for: `initContainer` when absent, or `localModelDownloadJob`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_type: Option<String>,
    /// Whether one run may fetch several URIs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supports_multi_model_download: Option<bool>,
}

with_container_fields! {
    /// The container that fetches; its command runs as a process of this machine.
    pub struct StorageContainer {}
}

/// One form of URIs: a beginning, or a pattern that is found anywhere in them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SupportedUriFormat {
    /// How they begin, e.g. `s3://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// A pattern found in them, e.g. `https://(.+?)/(.+)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}
