//! What every Kubernetes resource says about itself: name, namespace, labels, annotations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pod::Opaque;

/// The `metadata` block of a resource, as Kubernetes' `ObjectMeta`.
///
/// Users write `name`, `namespace`, `labels` and `annotations`. The other fields are set by a server; they are
/// accepted so that the output of `kubectl get -o yaml` can be dropped into the folder, and written back as given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// The name, unique among resources of one kind in one namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// A prefix for which an API server makes up a name; here a name must be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate_name: Option<String>,
    /// The namespace; empty for kinds of the whole cluster and where the file says none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations; KServe reads settings from some of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Unique over the life of the store, also for a later resource of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Changes with each change of the resource or of its status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Counts the changes of `spec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When the resource was first seen, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// When its deletion was asked for, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// How long the deletion may take, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
    /// Who must agree before the resource goes; without meaning here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Resources that this one depends on; without meaning here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<Opaque>,
    /// Who set which field; without meaning here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub managed_fields: Vec<Opaque>,
    /// An old link to the resource itself; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_link: Option<String>,
}

impl ObjectMeta {
    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}
