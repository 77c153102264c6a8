//! The fields that Kubernetes understands and one machine has no use for.

/// Why a field of a type of `api` is ignored, if it is.
pub(super) fn reason(type_name: &str, field: &str) -> Option<&'static str> {
    // Here `priority` is about runtimes, not about pods.
    if type_name == "SupportedModelFormat" {
        return None;
    }
    let own = OWN_REASONS.iter().find(|(name, _, _)| *name == type_name);
    if let Some((_, _, reason)) = own.filter(|(_, fields, _)| fields.contains(&field)) {
        return Some(reason);
    }
    // A step's `nodeName` is a node of its graph.
    if matches!(type_name, "InferenceStep" | "LocalModelInfo") {
        return None;
    }
    let (_, reason) = REASONS.iter().find(|(fields, _)| fields.contains(&field))?;
    Some(reason)
}

/// Whether a field is not even read: another's status says nothing about what happens here.
pub(super) fn is_unread(type_name: &str, field: &str) -> bool {
    field == "status"
        && matches!(
            type_name,
            "InferenceService"
                | "InferenceGraph"
                | "ServingRuntime"
                | "LocalModelCache"
                | "LocalModelNodeGroup"
                | "LocalModelNode"
                | "ConfigMap"
                | "Secret"
                | "ServiceAccount"
        )
}

/// Fields by the reason that is told.
const REASONS: &[(&[&str], &str)] = &[
    (PLACEMENT, "ignored: there are no nodes to choose from on one machine"),
    (CONTAINERS, "ignored: models run inside the daemon, not in containers"),
    (MODEL_MESH, "ignored, as by KServe itself: only ModelMesh reads it"),
    (SERVER_SIDE, "ignored: an API server sets it"),
    (&["confidential"], "ignored: there is no attestation on one machine"),
    (&["scaleMetricType"], "ignored, as by KServe itself"),
];

/// Fields that have no meaning in one type, with the reason that is told.
const OWN_REASONS: &[(&str, &[&str], &str)] = &[
    (
        "InferenceGraphSpec",
        &["resources", "serviceAccountName", "minReplicas", "maxReplicas", "scaleTarget", "scaleMetric"],
        "ignored: a graph runs inside the daemon, not in a pod of its own",
    ),
    (
        "RouterTimeouts",
        &["serverRead", "serverWrite", "serverIdle"],
        "ignored: a graph has no server of its own; `protocol.header_read_timeout_s` and `body_read_timeout_s` bound connections",
    ),
];

const PLACEMENT: &[&str] = &[
    "nodeSelector",
    "nodeName",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "schedulerName",
    "schedulingGates",
    "priorityClassName",
    "priority",
    "preemptionPolicy",
    "overhead",
    "resourceClaims",
    "workloadRef",
    "os",
];

const CONTAINERS: &[&str] = &[
    "imagePullSecrets",
    "imagePullPolicy",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "readinessGates",
    "lifecycle",
    "securityContext",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "stdin",
    "stdinOnce",
    "tty",
    "ephemeralContainers",
    "activeDeadlineSeconds",
    "dnsPolicy",
    "dnsConfig",
    "automountServiceAccountToken",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "hostUsers",
    "hostAliases",
    "hostPort",
    "hostIP",
    "hostname",
    "hostnameOverride",
    "subdomain",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "runtimeClassName",
    "enableServiceLinks",
    "recursiveReadOnly",
    "mountPropagation",
];

const MODEL_MESH: &[&str] = &["grpcEndpoint", "grpcDataEndpoint", "httpDataEndpoint", "replicas", "storageHelper", "builtInAdapter"];

const SERVER_SIDE: &[&str] = &["managedFields", "ownerReferences", "finalizers", "selfLink", "generateName", "status"];
