//! The fields that Kubernetes understands and one machine has no use for.

/// Why a field of a type of `api` is ignored, if it is.
pub(super) fn reason(type_name: &str, field: &str) -> Option<&'static str> {
    // Here `priority` is about runtimes, not about pods.
    if type_name == "SupportedModelFormat" {
        return None;
    }
    let (_, reason) = REASONS.iter().find(|(fields, _)| fields.contains(&field))?;
    Some(reason)
}

/// Whether a field is not even read: another's status says nothing about what happens here.
pub(super) fn is_unread(type_name: &str, field: &str) -> bool {
    field == "status" && matches!(type_name, "InferenceService" | "ServingRuntime" | "ConfigMap" | "Secret" | "ServiceAccount")
}

/// Fields by the reason that is told.
const REASONS: &[(&[&str], &str)] = &[
    (PLACEMENT, "ignored: there are no nodes to choose from on one machine"),
    (CONTAINERS, "ignored: models run inside the daemon, not in containers"),
    (MODEL_MESH, "ignored, as by KServe itself: only ModelMesh reads it"),
    (SERVER_SIDE, "ignored: an API server sets it"),
    (&["confidential"], "ignored: there is no attestation on one machine"),
    (&["scaleMetricType"], "ignored, as by KServe itself"),
    (&["deploymentStrategy"], "ignored: a new revision is always loaded beside the old one"),
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
