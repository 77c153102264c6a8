//! Every key and field of KServe's own ConfigMap, and what becomes of it here. Source: reference 9.

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It does what it does on a cluster.
    Honoured,
    /// It does something like it; how.
    Approximated(&'static str),
    /// It does nothing; why.
    Meaningless(&'static str),
}

/// One key of the ConfigMap.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What becomes of it as a whole.
    pub(super) class: Class,
    /// Its fields, those of fields with dots.
    pub(super) fields: &'static [(&'static str, Class)],
}

impl Key {
    /// What becomes of a field.
    pub(super) fn class_of(&self, field: &str) -> Option<Class> {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, class)| *class)
    }

    /// Whether a field has fields of its own.
    pub(super) fn has_below(&self, field: &str) -> bool {
        self.fields.iter().any(|(name, _)| name.strip_prefix(field).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The names that stand beside each other below a path, which ends with a dot or is empty.
    pub(super) fn names_at(&self, path: &str) -> impl Iterator<Item = &'static str> {
        self.fields.iter().filter_map(move |(name, _)| name.strip_prefix(path)?.split('.').next())
    }
}

use Class::{Approximated, Honoured, Meaningless};

const IN_PROCESS: Class = Meaningless("ignored: models and their helpers run inside the daemon, not in containers");
const NO_MESH: Class = Meaningless("ignored: the daemon's own doors are the ingress");
const FETCHES_ITSELF: Class = Meaningless("ignored: the daemon fetches models itself (`storage` in config.yaml)");
const ONE_METRICS_PAGE: Class = Meaningless("ignored: all metrics stand at `/metrics` already");
const NO_NODES: Class = Meaningless("ignored: local model caches are not yet served");
const NO_KEDA: Class = Meaningless("ignored: KEDA does not scale here");
const ONE_MACHINE: Class = Meaningless("ignored: a model runs on one machine");
const NO_SERVICES: Class = Meaningless("ignored: there are no Kubernetes Services and pods here");

/// The keys, as KServe lists them.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "deploy",
        class: Honoured,
        fields: &[
            ("defaultDeploymentMode", Honoured),
            ("deploymentRolloutStrategy", Meaningless("ignored: a new revision is always loaded beside the old one, and takes over whole")),
        ],
    },
    Key {
        name: "ingress",
        class: Honoured,
        fields: &[
            ("ingressDomain", Honoured),
            ("additionalIngressDomains", Honoured),
            // `https` is remarked on where it is read.
            ("urlScheme", Honoured),
            ("pathTemplate", Approximated("approximated: services answer below this path; their statuses tell their hosts")),
            ("domainTemplate", Honoured),
            ("enableGatewayApi", NO_MESH),
            ("kserveIngressGateway", NO_MESH),
            ("ingressGateway", NO_MESH),
            ("localGateway", NO_MESH),
            ("localGatewayService", NO_MESH),
            ("knativeLocalGatewayService", NO_MESH),
            ("ingressService", NO_MESH),
            ("ingressClassName", NO_MESH),
            ("disableIstioVirtualHost", NO_MESH),
            ("disableIngressCreation", NO_MESH),
            ("disableHTTPRouteTimeout", NO_MESH),
            ("enableLLMInferenceServiceTLS", NO_MESH),
            ("modelBasedRoutingHeaderName", NO_MESH),
            ("modelBasedRoutingMode", NO_MESH),
        ],
    },
    Key {
        name: "logger",
        class: Honoured,
        fields: &[
            ("defaultUrl", Honoured),
            ("caBundle", Honoured),
            ("caCertFile", Honoured),
            ("tlsSkipVerify", Honoured),
            ("storage.path", Honoured),
            ("storage.parameters", Honoured),
            ("storage.key", Meaningless("ignored, as by KServe itself: the secrets of `storage.serviceAccountName` open the bucket")),
            ("storage.serviceAccountName", Honoured),
            ("batchSize", Honoured),
            ("batchInterval", Honoured),
            ("marshallerUrl", Honoured),
            ("image", IN_PROCESS),
            ("cpuRequest", IN_PROCESS),
            ("cpuLimit", IN_PROCESS),
            ("memoryRequest", IN_PROCESS),
            ("memoryLimit", IN_PROCESS),
        ],
    },
    Key {
        name: "router",
        class: Honoured,
        fields: &[
            ("headers.propagate", Honoured),
            ("image", IN_PROCESS),
            ("cpuRequest", IN_PROCESS),
            ("cpuLimit", IN_PROCESS),
            ("memoryRequest", IN_PROCESS),
            ("memoryLimit", IN_PROCESS),
            ("imagePullPolicy", IN_PROCESS),
            ("imagePullSecrets", IN_PROCESS),
        ],
    },
    Key {
        name: "inferenceService",
        class: Meaningless("ignored: containers of your own are not yet served, and annotations and labels go to no other object"),
        fields: &[
            ("resource.cpuLimit", IN_PROCESS),
            ("resource.memoryLimit", IN_PROCESS),
            ("resource.cpuRequest", IN_PROCESS),
            ("resource.memoryRequest", IN_PROCESS),
            ("serviceAnnotationDisallowedList", IN_PROCESS),
            ("serviceLabelDisallowedList", IN_PROCESS),
        ],
    },
    Key {
        name: "explainers",
        class: Meaningless("ignored: explainers are not yet served"),
        fields: &[("art.image", IN_PROCESS), ("art.defaultImageVersion", IN_PROCESS)],
    },
    Key {
        name: "batcher",
        class: Meaningless("ignored, as by KServe itself: a service's own `batcher` says how it batches"),
        fields: &[
            ("image", IN_PROCESS),
            ("cpuRequest", IN_PROCESS),
            ("cpuLimit", IN_PROCESS),
            ("memoryRequest", IN_PROCESS),
            ("memoryLimit", IN_PROCESS),
            ("maxBatchSize", IN_PROCESS),
            ("maxLatency", IN_PROCESS),
        ],
    },
    Key {
        name: "agent",
        class: IN_PROCESS,
        fields: &[
            ("image", IN_PROCESS),
            ("cpuRequest", IN_PROCESS),
            ("cpuLimit", IN_PROCESS),
            ("memoryRequest", IN_PROCESS),
            ("memoryLimit", IN_PROCESS),
        ],
    },
    Key {
        name: "storageInitializer",
        class: FETCHES_ITSELF,
        fields: &[
            ("image", FETCHES_ITSELF),
            ("cpuRequest", FETCHES_ITSELF),
            ("cpuLimit", FETCHES_ITSELF),
            ("memoryRequest", FETCHES_ITSELF),
            ("memoryLimit", FETCHES_ITSELF),
            ("caBundleConfigMapName", FETCHES_ITSELF),
            ("caBundleVolumeMountPath", FETCHES_ITSELF),
            ("enableDirectPvcVolumeMount", FETCHES_ITSELF),
            ("enableModelcar", FETCHES_ITSELF),
            ("enableOciModelSupport", FETCHES_ITSELF),
            ("ociModelMode", FETCHES_ITSELF),
            ("ociInsecureRegistry", FETCHES_ITSELF),
            ("cpuModelcar", FETCHES_ITSELF),
            ("memoryModelcar", FETCHES_ITSELF),
            ("uidModelcar", FETCHES_ITSELF),
        ],
    },
    Key {
        name: "credentials",
        class: Honoured,
        fields: &[
            ("storageSpecSecretName", Honoured),
            ("storageSecretNameAnnotation", Honoured),
            ("gcs.gcsCredentialFileName", Honoured),
            ("s3.s3AccessKeyIDName", Honoured),
            ("s3.s3SecretAccessKeyName", Honoured),
            ("s3.s3Endpoint", Honoured),
            ("s3.s3UseHttps", Honoured),
            ("s3.s3Region", Honoured),
            ("s3.s3VerifySSL", Honoured),
            ("s3.s3UseVirtualBucket", Honoured),
            ("s3.s3UseAccelerate", Honoured),
            ("s3.s3UseAnonymousCredential", Honoured),
            ("s3.s3CABundleConfigMap", Honoured),
            ("s3.s3CABundle", Honoured),
        ],
    },
    Key {
        name: "metricsAggregator",
        class: ONE_METRICS_PAGE,
        fields: &[("enableMetricAggregation", ONE_METRICS_PAGE), ("enablePrometheusScraping", ONE_METRICS_PAGE)],
    },
    Key {
        name: "localModel",
        class: Class::Honoured,
        fields: &[
            ("enabled", Class::Honoured),
            ("jobNamespace", Class::Honoured),
            ("defaultJobImage", NO_NODES),
            ("fsGroup", NO_NODES),
            ("jobTTLSecondsAfterFinished", NO_NODES),
            ("reconcilationFrequencyInSecs", NO_NODES),
            ("disableVolumeManagement", NO_NODES),
        ],
    },
    Key { name: "security", class: NO_SERVICES, fields: &[("autoMountServiceAccountToken", NO_SERVICES)] },
    Key {
        name: "autoscaler",
        class: NO_KEDA,
        fields: &[("scaleUpStabilizationWindowSeconds", NO_KEDA), ("scaleDownStabilizationWindowSeconds", NO_KEDA)],
    },
    Key {
        name: "opentelemetryCollector",
        class: NO_KEDA,
        fields: &[
            ("scrapeInterval", NO_KEDA),
            ("metricReceiverEndpoint", NO_KEDA),
            ("metricScalerEndpoint", NO_KEDA),
            ("resource.cpuLimit", NO_KEDA),
            ("resource.memoryLimit", NO_KEDA),
            ("resource.cpuRequest", NO_KEDA),
            ("resource.memoryRequest", NO_KEDA),
        ],
    },
    Key { name: "multiNode", class: ONE_MACHINE, fields: &[("customGPUResourceTypeList", ONE_MACHINE)] },
    Key { name: "service", class: NO_SERVICES, fields: &[("serviceClusterIPNone", NO_SERVICES)] },
];
