//! What becomes of each field on one machine: honoured, approximated, ignored, or not yet served; with the reason.
//!
//! The compatibility report reads it field by field. Every field that the types of `api` know stands here, which a test
//! keeps; the fields that are ignored stand in `ignored`, because people are told of them in any case.

use super::ignored;
use std::fmt;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Treatment {
    /// As on a cluster.
    Honoured,
    /// In the same sense, by other means; the text says how.
    Approximated(&'static str),
    /// Without effect here; the text says why.
    Ignored(&'static str),
    /// Understood, and refused or left out until it is served.
    NotYetServed,
}

impl Treatment {
    /// The word in a report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Approximated(_) => "approximated",
            Self::Ignored(_) => "ignored",
            Self::NotYetServed => "not yet served",
        }
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Honoured | Self::NotYetServed => f.write_str(self.name()),
            Self::Approximated(how) => write!(f, "approximated: {how}"),
            Self::Ignored(why) => write!(f, "{}", with_word(why)),
        }
    }
}

/// The reasons that are told elsewhere begin with the word already.
fn with_word(why: &str) -> std::borrow::Cow<'_, str> {
    if why.starts_with("ignored") { why.into() } else { format!("ignored: {why}").into() }
}

/// What becomes of a field of a type of `api`; nothing for one that holds others and is only as good as they are.
pub(super) fn of(type_name: &str, field: &str) -> Option<Treatment> {
    if let Some(reason) = ignored::reason(type_name, field) {
        return Some(Treatment::Ignored(reason));
    }
    let listed = |(types, fields, _): &&Row| (types.is_empty() || types.contains(&type_name)) && fields.contains(&field);
    ROWS.iter().find(listed).map(|(_, _, treatment)| *treatment)
}

/// What becomes of an annotation.
pub(super) fn of_annotation(key: &str) -> Treatment {
    let listed = ANNOTATIONS.iter().find(|(keys, _)| keys.contains(&key));
    listed.map_or(Treatment::Honoured.carried(key), |(_, treatment)| *treatment)
}

impl Treatment {
    /// What becomes of an annotation that no row names.
    fn carried(self, key: &str) -> Self {
        let theirs = ["serving.kserve.io/", "autoscaling.knative.dev/", "serving.knative.dev/", "internal.serving.kserve.io/"];
        if theirs.iter().any(|prefix| key.starts_with(prefix)) { Self::Ignored("nothing on one machine acts on it") } else { self }
    }
}

/// Types (none: all), fields, and what becomes of them. The first row that fits counts.
type Row = (&'static [&'static str], &'static [&'static str], Treatment);

const SERVICE_PARTS: &[&str] = &["PredictorSpec", "TransformerSpec", "ExplainerSpec"];
const MODELS: &[&str] = &["ModelSpec", "FrameworkSpec"];
const RUNTIME_CONTAINER: &str = "models run inside the daemon, not in containers";
const REPLICAS: Treatment = Treatment::Approximated("a replica is what a pod would run side by side, in this process");
const STRATEGY: Treatment = Treatment::Approximated(
    "with `type: Recreate` the old revision goes first where both do not fit; else the new one is loaded beside it",
);
const ELSEWHERE: Treatment = Treatment::Ignored("custom metrics are not collected: `minReplicas` stands");

const ROWS: &[Row] = &[
    // What holds others.
    (&[], &["apiVersion", "kind", "metadata", "spec"], Treatment::Honoured),
    (&["ObjectMeta"], &["name", "namespace", "labels", "annotations"], Treatment::Honoured),
    (
        &["ObjectMeta"],
        &["uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"],
        Treatment::Ignored("the daemon sets it itself"),
    ),
    // InferenceService.
    (&["InferenceServiceSpec"], &["predictor"], Treatment::Honoured),
    (&["InferenceServiceSpec"], &["transformer", "explainer"], Treatment::NotYetServed),
    (&["InferenceServiceSpec"], &["canary"], Treatment::Honoured),
    (&["CanarySpec"], &["predictor", "trafficPercent"], Treatment::Honoured),
    (&["PredictorSpec"], &["model", "name"], Treatment::Honoured),
    (
        &["PredictorSpec"],
        &["sklearn", "xgboost", "tensorflow", "pytorch", "triton", "onnx", "huggingface", "pmml", "lightgbm", "paddle"],
        Treatment::Honoured,
    ),
    (&["PredictorSpec"], &["storageUris", "storageContainerName"], Treatment::Honoured),
    (&["PredictorSpec"], &["workerSpec"], Treatment::NotYetServed),
    (&["ExplainerSpec"], &["art"], Treatment::NotYetServed),
    (SERVICE_PARTS, &["minReplicas", "maxReplicas", "scaleTarget", "scaleMetric"], REPLICAS),
    (SERVICE_PARTS, &["containerConcurrency", "timeout", "labels", "annotations"], Treatment::Honoured),
    (SERVICE_PARTS, &["autoScaling"], Treatment::NotYetServed),
    (SERVICE_PARTS, &["canaryTrafficPercent"], Treatment::Honoured),
    (SERVICE_PARTS, &["deploymentStrategy"], STRATEGY),
    (SERVICE_PARTS, &["logger"], Treatment::Honoured),
    (SERVICE_PARTS, &["batcher"], Treatment::Honoured),
    (&["Batcher"], &["maxBatchSize"], Treatment::Honoured),
    (&["Batcher"], &["maxLatency"], Treatment::Approximated("a batch also closes as soon as a worker is free")),
    (&["Batcher"], &["timeout"], Treatment::Ignored("ignored, as by KServe itself")),
    (&["AutoScalingSpec"], &["metrics", "behavior"], ELSEWHERE),
    (&["MetricsSpec"], &["type", "resource", "external", "podmetric"], ELSEWHERE),
    (&["ResourceMetricSource", "ExternalMetricSource", "PodMetricSource"], &["name", "target", "metric", "authenticationRef"], ELSEWHERE),
    (&["MetricTarget"], &["type", "value", "averageValue", "averageUtilization"], ELSEWHERE),
    (
        &["ExternalMetrics", "PodMetrics"],
        &["backend", "serverAddress", "query", "namespace", "metricNames", "operationOverTime"],
        ELSEWHERE,
    ),
    (
        &["LoggerSpec"],
        &["url", "mode", "metadataHeaders", "metadataAnnotations", "storage", "marshallerUrl", "batchSize", "batchInterval"],
        Treatment::Honoured,
    ),
    (&["LoggerStorageSpec"], &["path", "parameters", "serviceAccountName"], Treatment::Honoured),
    (&["LoggerStorageSpec"], &["key"], Treatment::Ignored("ignored, as by KServe itself: the secrets of the account open the bucket")),
    // The model.
    (&["ModelSpec"], &["modelFormat", "runtime"], Treatment::Honoured),
    (&["ModelFormat"], &["name", "version"], Treatment::Honoured),
    (MODELS, &["storageUri", "protocolVersion"], Treatment::Honoured),
    (MODELS, &["storage"], Treatment::Honoured),
    (MODELS, &["runtimeVersion"], Treatment::Ignored("it names an image, and models run inside the daemon")),
    (&["StorageSpec"], &["path", "parameters", "key"], Treatment::Honoured),
    (&["StorageSpec"], &["schemaPath"], Treatment::Ignored("ignored, as by KServe itself: only ModelMesh reads it")),
    (&["StorageUriSpec"], &["uri"], Treatment::Honoured),
    (&["StorageUriSpec"], &["mountPath"], Treatment::Approximated("a folder of links stands for `/mnt/models`")),
    (&["ConfidentialSpec"], &["enabled", "resourceId"], Treatment::Ignored("there is no attestation on one machine")),
    (&["ArtExplainerSpec"], &["type", "storageUri", "runtimeVersion", "config", "storage"], Treatment::NotYetServed),
    // Runtimes.
    (
        &["ServingRuntimeSpec"],
        &["supportedModelFormats", "multiModel", "disabled", "protocolVersions", "labels", "annotations"],
        Treatment::Honoured,
    ),
    (&["SupportedModelFormat"], &["name", "version", "autoSelect", "priority"], Treatment::Honoured),
    (&["ServingRuntimeSpec"], &["workerSpec"], Treatment::Approximated("such a runtime is chosen as by KServe, and then not yet served")),
    (&["WorkerSpec"], &["pipelineParallelSize", "tensorParallelSize", "labels", "annotations"], Treatment::NotYetServed),
    (
        &["StorageHelper", "BuiltInAdapter"],
        &["disabled", "serverType", "runtimeManagementPort", "memBufferBytes", "modelLoadingTimeoutMillis"],
        Treatment::Ignored("ignored, as by KServe itself: only ModelMesh reads it"),
    ),
    // Storage containers and models that are fetched beforehand.
    (&["ClusterStorageContainer"], &["disabled"], Treatment::Honoured),
    (&["StorageContainerSpec"], &["container", "supportedUriFormats", "workloadType", "supportsMultiModelDownload"], Treatment::Honoured),
    (&["SupportedUriFormat"], &["prefix", "regex"], Treatment::Honoured),
    (
        &["StorageContainer"],
        &["command", "args"],
        Treatment::Approximated("runs as a process of this machine, where `storage.containers.run_commands` allows it"),
    ),
    (&["StorageContainer"], &["name", "env", "workingDir"], Treatment::Honoured),
    (&["StorageContainer"], &["image"], Treatment::Ignored("there are no images: the daemon's own stores fetch, or `command` does")),
    (&["StorageContainer"], &["resources"], Treatment::Ignored("the command takes what it takes")),
    (&["LocalModelCacheSpec"], &["sourceModelUri", "modelSize", "nodeGroups", "serviceAccountName", "storage"], Treatment::Honoured),
    (&["LocalModelNodeGroupSpec"], &["storageLimit"], Treatment::Honoured),
    (
        &["LocalModelNodeGroupSpec"],
        &["persistentVolumeSpec"],
        Treatment::Approximated("its `nodeAffinity` decides whether this machine belongs to the group; models lie in the daemon's cache"),
    ),
    (
        &["LocalModelNodeGroupSpec"],
        &["persistentVolumeClaimSpec"],
        Treatment::Ignored("models lie in the daemon's cache, and nothing is mounted"),
    ),
    (
        &["LocalModelNodeSpec", "LocalModelInfo"],
        &["localModels", "sourceModelUri", "modelName", "namespace", "nodeGroup", "serviceAccountName", "storage"],
        Treatment::Ignored("kserved writes the node of this machine itself"),
    ),
    // InferenceGraph.
    (&["InferenceGraphSpec"], &["nodes", "timeout", "routerTimeouts"], Treatment::Honoured),
    (&["RouterTimeouts"], &["serviceClient"], Treatment::Honoured),
    (&["InferenceRouter"], &["routerType", "steps"], Treatment::Honoured),
    (
        &["InferenceStep"],
        &["name", "nodeName", "serviceName", "serviceUrl", "data", "mapPredictionsToInstances", "weight", "condition", "dependency"],
        Treatment::Honoured,
    ),
    // ConfigMaps, Secrets and ServiceAccounts: what their data means is told field by field where it is read.
    (&["ConfigMap"], &["data"], Treatment::Honoured),
    (&["ConfigMap"], &["binaryData"], Treatment::Ignored("nothing here reads it")),
    (&["ConfigMap", "Secret"], &["immutable"], Treatment::Ignored("the files are the user's to change")),
    (&["Secret"], &["data", "stringData"], Treatment::Honoured),
    (&["Secret"], &["type"], Treatment::Ignored("its keys say what it is for, as in KServe")),
    (&["ServiceAccount"], &["secrets"], Treatment::Honoured),
    (&["SecretReference"], &["name"], Treatment::Honoured),
    (
        &["SecretReference"],
        &["namespace"],
        Treatment::Ignored("ignored, as by KServe itself: secrets are those of the account's namespace"),
    ),
    // Pods and containers.
    (&["ServingRuntimeSpec"], &["containers"], Treatment::Honoured),
    (&["PredictorSpec"], &["containers"], Treatment::NotYetServed),
    (&[], &["containers", "initContainers", "volumes", "volumeMounts"], Treatment::Ignored(RUNTIME_CONTAINER)),
    (&[], &["image", "command", "workingDir", "ports"], Treatment::Ignored(RUNTIME_CONTAINER)),
    (&["Container", "ModelSpec", "FrameworkSpec", "ArtExplainerSpec"], &["name", "args", "env"], Treatment::Honoured),
    (&["BuiltInAdapter"], &["env"], Treatment::Ignored("ignored, as by KServe itself: only ModelMesh reads it")),
    (&["EnvVar"], &["name", "value"], Treatment::Honoured),
    (&["EnvVar"], &["valueFrom"], Treatment::NotYetServed),
    (&[], &["envFrom"], Treatment::NotYetServed),
    (&[], &["resources"], Treatment::Approximated("`limits.cpu` bounds the threads; memory is budgeted for all models together")),
    (
        &["ResourceRequirements"],
        &["limits"],
        Treatment::Approximated("`cpu` bounds the threads; `memory` is budgeted for all models together"),
    ),
    (&["ResourceRequirements"], &["requests", "claims"], Treatment::Ignored("nothing is reserved on one machine")),
    (&["PredictorSpec"], &["serviceAccountName", "serviceAccount"], Treatment::Honoured),
    (&[], &["serviceAccountName", "serviceAccount"], Treatment::NotYetServed),
    (&[], &["terminationGracePeriodSeconds"], Treatment::Ignored("the daemon drains for `shutdown.grace_s`")),
    (
        &["EnvFromSource", "ContainerPort", "VolumeMount", "Volume"],
        &[
            "prefix",
            "configMapRef",
            "secretRef",
            "name",
            "containerPort",
            "protocol",
            "mountPath",
            "subPath",
            "subPathExpr",
            "readOnly",
            "hostPath",
            "emptyDir",
            "secret",
            "configMap",
            "persistentVolumeClaim",
            "projected",
            "downwardAPI",
            "csi",
            "ephemeral",
            "image",
            "nfs",
            "iscsi",
            "fc",
            "cephfs",
            "rbd",
            "glusterfs",
            "gcePersistentDisk",
            "awsElasticBlockStore",
            "azureDisk",
            "azureFile",
            "cinder",
            "gitRepo",
            "flexVolume",
            "flocker",
            "vsphereVolume",
            "quobyte",
            "photonPersistentDisk",
            "portworxVolume",
            "scaleIO",
            "storageos",
        ],
        Treatment::Ignored(RUNTIME_CONTAINER),
    ),
];

/// Annotations that are acted on, or that KServe and Knative know.
const ANNOTATIONS: &[(&[&str], Treatment)] = &[
    (&["serving.kserve.io/deploymentMode"], Treatment::Approximated("it decides defaults, scaling and addresses")),
    (
        &["serving.kserve.io/autoscalerClass"],
        Treatment::Approximated("`hpa` and `none` as they are; with `keda` and `external` `minReplicas` stands"),
    ),
    (
        &["serving.kserve.io/stop", "serving.kserve.io/enable-tag-routing", "serving.kserve.io/server-type", "modelFormat"],
        Treatment::Honoured,
    ),
    (
        &[
            "autoscaling.knative.dev/class",
            "autoscaling.knative.dev/min-scale",
            "autoscaling.knative.dev/max-scale",
            "autoscaling.knative.dev/initial-scale",
            "autoscaling.knative.dev/activation-scale",
            "autoscaling.knative.dev/metric",
            "autoscaling.knative.dev/target",
            "autoscaling.knative.dev/target-utilization-percentage",
            "autoscaling.knative.dev/window",
            "autoscaling.knative.dev/panic-window-percentage",
            "autoscaling.knative.dev/panic-threshold-percentage",
            "autoscaling.knative.dev/scale-down-delay",
            "autoscaling.knative.dev/scale-to-zero-pod-retention-period",
        ],
        REPLICAS,
    ),
    (&["autoscaling.knative.dev/target-burst-capacity"], Treatment::Ignored("requests always wait in the daemon's own queue")),
    (
        &["serving.knative.dev/rollout-duration"],
        Treatment::Ignored(
            "a new revision is warm before it gets requests, so a slow shift spares nothing; `canaryTrafficPercent` shifts by share",
        ),
    ),
    (&["serving.kserve.io/disable-localmodel", "serving.kserve.io/nodegroup"], Treatment::Honoured),
    (&["serving.kserve.io/storageSecretName"], Treatment::NotYetServed),
];

#[cfg(test)]
mod schema;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::core::{ConfigMap, Secret, ServiceAccount};
    use crate::api::inference_graph::InferenceGraph;
    use crate::api::inference_service::InferenceService;
    use crate::api::local_model::{LocalModelCache, LocalModelNode, LocalModelNodeGroup};
    use crate::api::serving_runtime::ServingRuntime;
    use crate::api::storage_container::ClusterStorageContainer;

    fn every_field() -> schema::Fields {
        let mut fields = schema::fields_of::<InferenceService>();
        fields.extend(schema::fields_of::<ServingRuntime>());
        fields.extend(schema::fields_of::<InferenceGraph>());
        fields.extend(schema::fields_of::<ClusterStorageContainer>());
        fields.extend(schema::fields_of::<LocalModelCache>());
        fields.extend(schema::fields_of::<LocalModelNodeGroup>());
        fields.extend(schema::fields_of::<LocalModelNode>());
        fields.extend(schema::fields_of::<ConfigMap>());
        fields.extend(schema::fields_of::<Secret>());
        fields.extend(schema::fields_of::<ServiceAccount>());
        fields
    }

    #[test]
    fn every_field_of_every_type_has_its_treatment() {
        let fields = every_field();
        assert!(fields.len() > 200, "{}: the types were not walked", fields.len());
        let missing: Vec<_> = fields.into_iter().filter(|(type_name, field)| of(type_name, field).is_none()).collect();
        assert_eq!(missing, [], "fields that no row names");
    }

    #[test]
    fn every_row_names_fields_that_there_are() {
        let fields = every_field();
        for (types, names, _) in ROWS {
            let is_there =
                |name: &&str| fields.iter().any(|(type_name, field)| field == name && (types.is_empty() || types.contains(type_name)));
            let stray: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
            assert!(stray.is_empty(), "no type of {types:?} has {stray:?}");
        }
    }

    #[test]
    fn annotations_of_kserve_that_nothing_acts_on_are_ignored_and_those_of_others_are_carried() {
        assert_eq!(of_annotation("serving.kserve.io/stop"), Treatment::Honoured);
        assert!(matches!(of_annotation("serving.kserve.io/gke-accelerator"), Treatment::Ignored(_)));
        assert_eq!(of_annotation("team"), Treatment::Honoured);
    }
}
