//! The parts of a Kubernetes pod that KServe lets users write: containers, their environment, ports and resources.
//!
//! On one machine a container is not started; its arguments, environment and resource limits decide how the
//! in-process engine runs. Everything else is kept as written, so that a resource can be shown again unchanged.

use super::inline::with_container_fields;
use super::quantity::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A Kubernetes field without meaning on one machine: kept as written, shown again, never looked into.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Opaque(pub serde_json::Value);

with_container_fields! {
    /// A container, with every field of Kubernetes.
    pub struct Container {}
}

/// One variable of a container's environment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVar {
    /// The variable's name.
    pub name: String,
    /// Its value; absent is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where else the value comes from: a ConfigMap, a Secret, a field of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_from: Option<Opaque>,
}

/// Variables from a whole ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvFromSource {
    /// Put before each name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The ConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<Opaque>,
    /// The Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<Opaque>,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Its name; `h2c` and names with `grpc` mean HTTP/2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its number.
    pub container_port: i32,
    /// `TCP`, `UDP` or `SCTP`; absent is `TCP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The port on the machine; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_port: Option<i32>,
    /// The address on the machine; without meaning here.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
}

/// Where a volume appears in a container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeMount {
    /// The volume's name.
    pub name: String,
    /// The folder in the container.
    pub mount_path: String,
    /// The part of the volume that is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// The same, with variables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_path_expr: Option<String>,
    /// Whether writes are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Whether mounts below are read-only too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recursive_read_only: Option<String>,
    /// Whether later mounts are seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_propagation: Option<String>,
}

/// What a container asks for, and what it may use at most.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceRequirements {
    /// At most, by resource: `cpu`, `memory`, `nvidia.com/gpu` …
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
    /// At least, by resource.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
    /// Devices claimed; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Opaque>,
}

/// A volume of a pod: its name and one of Kubernetes' sources.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// The name that mounts use.
    pub name: String,
    /// A folder of the machine; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<Opaque>,
    /// A folder that lives as long as the pod; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<Opaque>,
    /// A Secret; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Opaque>,
    /// A ConfigMap; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map: Option<Opaque>,
    /// A claim; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<Opaque>,
    /// Several sources in one folder; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projected: Option<Opaque>,
    /// Facts about the pod; without meaning here.
    #[serde(rename = "downwardAPI", skip_serializing_if = "Option::is_none")]
    pub downward_api: Option<Opaque>,
    /// A CSI driver; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csi: Option<Opaque>,
    /// A claim made for the pod; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<Opaque>,
    /// An OCI image; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Opaque>,
    /// An NFS export; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfs: Option<Opaque>,
    /// An iSCSI disk; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iscsi: Option<Opaque>,
    /// A Fibre Channel disk; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fc: Option<Opaque>,
    /// A Ceph file system; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cephfs: Option<Opaque>,
    /// A Ceph block device; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rbd: Option<Opaque>,
    /// A Gluster volume; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glusterfs: Option<Opaque>,
    /// A Google disk; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gce_persistent_disk: Option<Opaque>,
    /// An AWS disk; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_elastic_block_store: Option<Opaque>,
    /// An Azure disk; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure_disk: Option<Opaque>,
    /// An Azure file share; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure_file: Option<Opaque>,
    /// An OpenStack disk; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cinder: Option<Opaque>,
    /// A git repository; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_repo: Option<Opaque>,
    /// A FlexVolume driver; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flex_volume: Option<Opaque>,
    /// A Flocker volume; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flocker: Option<Opaque>,
    /// A vSphere disk; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsphere_volume: Option<Opaque>,
    /// A Quobyte volume; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quobyte: Option<Opaque>,
    /// A Photon disk; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub photon_persistent_disk: Option<Opaque>,
    /// A Portworx volume; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portworx_volume: Option<Opaque>,
    /// A ScaleIO volume; without meaning here.
    #[serde(rename = "scaleIO", skip_serializing_if = "Option::is_none")]
    pub scale_io: Option<Opaque>,
    /// A StorageOS volume; without meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storageos: Option<Opaque>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_shown_again_as_it_was_written() {
        let written = serde_json::json!({
            "name": "kserve-container", "image": "triton:1", "args": ["--x=1"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "ports": [{"name": "h2c", "containerPort": 9000, "hostIP": "127.0.0.1"}],
            "resources": {"limits": {"cpu": "500m", "memory": "2Gi"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": 8080}}, "tty": true
        });
        let container: Container = serde_json::from_value(written.clone()).expect("a container");
        assert_eq!(serde_json::to_value(&container).expect("json"), written);
    }

    #[test]
    fn a_volume_keeps_its_source() {
        let written = serde_json::json!({"name": "v", "downwardAPI": {"items": []}});
        let volume: Volume = serde_json::from_value(written.clone()).expect("a volume");
        assert_eq!(serde_json::to_value(&volume).expect("json"), written);
    }
}
