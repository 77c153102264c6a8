//! What predictor, transformer and explainer have in common: replicas, scaling, timeout, logger, batcher.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pod::Opaque;
use super::quantity::Quantity;

/// Declares a component: its own fields, KServe's `ComponentExtensionSpec`, and all fields of a `PodSpec`.
///
/// `extension()` gathers the middle part, so that rules for components are written once.
macro_rules! component {
    ($(#[$about:meta])* pub struct $name:ident { $($own:tt)* }) => {
        crate::api::inline::with_pod_fields! {
            $(#[$about])*
            pub struct $name {
                $($own)*
                /// Replicas to keep at least; 1 when absent, 0 lets the component go to sleep.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub min_replicas: Option<i32>,
                /// Replicas at most; 0 or absent is no bound.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub max_replicas: Option<i32>,
                /// What one replica should carry, in the unit of `scaleMetric`.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub scale_target: Option<i32>,
                /// What is measured to scale; `concurrency` when absent (Knative), `cpu` (Standard).
                #[serde(skip_serializing_if = "Option::is_none")]
                pub scale_metric: Option<crate::api::component::ScaleMetric>,
                /// How the target is meant; declared by KServe and read nowhere.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub scale_metric_type: Option<crate::api::component::MetricTargetType>,
                /// Metrics of a Kubernetes or KEDA autoscaler.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub auto_scaling: Option<crate::api::component::AutoScalingSpec>,
                /// Requests one replica runs at once; 0 or absent is no bound.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub container_concurrency: Option<i64>,
                /// How long a request may take, in seconds; 300 when absent (Knative).
                #[serde(rename = "timeout", skip_serializing_if = "Option::is_none")]
                pub timeout_s: Option<i64>,
                /// The newest revision's share of the requests, 0 to 100.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub canary_traffic_percent: Option<i64>,
                /// Sends copies of requests and answers elsewhere.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub logger: Option<crate::api::component::LoggerSpec>,
                /// Joins requests before they reach the model.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub batcher: Option<crate::api::component::Batcher>,
                /// Labels of the component; they win over those of the service.
                #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
                pub labels: std::collections::BTreeMap<String, String>,
                /// Annotations of the component; they win over those of the service.
                #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
                pub annotations: std::collections::BTreeMap<String, String>,
                /// How replicas are replaced; in Standard mode only.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub deployment_strategy: Option<crate::api::pod::Opaque>,
            }
        }

        impl $name {
            /// The fields that every component has.
            #[must_use]
            pub fn extension(&self) -> crate::api::component::ComponentExtension<'_> {
                crate::api::component::ComponentExtension {
                    min_replicas: self.min_replicas,
                    max_replicas: self.max_replicas,
                    scale_target: self.scale_target,
                    scale_metric: self.scale_metric,
                    scale_metric_type: self.scale_metric_type,
                    auto_scaling: self.auto_scaling.as_ref(),
                    container_concurrency: self.container_concurrency,
                    timeout_s: self.timeout_s,
                    canary_traffic_percent: self.canary_traffic_percent,
                    logger: self.logger.as_ref(),
                    batcher: self.batcher.as_ref(),
                    labels: &self.labels,
                    annotations: &self.annotations,
                    deployment_strategy: self.deployment_strategy.as_ref(),
                }
            }
        }
    };
}
pub(crate) use component;

/// The fields that every component has (KServe's `ComponentExtensionSpec`), borrowed from one component.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComponentExtension<'a> {
    /// Replicas to keep at least.
    pub min_replicas: Option<i32>,
    /// Replicas at most; 0 or absent is no bound.
    pub max_replicas: Option<i32>,
    /// What one replica should carry.
    pub scale_target: Option<i32>,
    /// What is measured to scale.
    pub scale_metric: Option<ScaleMetric>,
    /// How the target is meant.
    pub scale_metric_type: Option<MetricTargetType>,
    /// Metrics of a Kubernetes or KEDA autoscaler.
    pub auto_scaling: Option<&'a AutoScalingSpec>,
    /// Requests one replica runs at once; 0 or absent is no bound.
    pub container_concurrency: Option<i64>,
    /// How long a request may take, in seconds.
    pub timeout_s: Option<i64>,
    /// The newest revision's share of the requests, 0 to 100.
    pub canary_traffic_percent: Option<i64>,
    /// Sends copies of requests and answers elsewhere.
    pub logger: Option<&'a LoggerSpec>,
    /// Joins requests before they reach the model.
    pub batcher: Option<&'a Batcher>,
    /// Labels of the component.
    pub labels: &'a BTreeMap<String, String>,
    /// Annotations of the component.
    pub annotations: &'a BTreeMap<String, String>,
    /// How replicas are replaced.
    pub deployment_strategy: Option<&'a Opaque>,
}

impl ComponentExtension<'_> {
    /// Replicas to keep at least, with KServe's default of 1.
    #[must_use]
    pub fn min_replicas_or_default(&self) -> i32 {
        self.min_replicas.unwrap_or(1)
    }
}

/// What is measured to scale a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleMetric {
    /// Share of the CPU asked for, in percent.
    Cpu,
    /// Share of the memory asked for, in percent.
    Memory,
    /// Requests in flight.
    Concurrency,
    /// Requests a second.
    Rps,
}

impl ScaleMetric {
    /// The word in YAML.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Concurrency => "concurrency",
            Self::Rps => "rps",
        }
    }
}

/// How the number of a metric's target is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MetricTargetType {
    /// Percent of what was asked for.
    Utilization,
    /// The sum over all replicas.
    Value,
    /// The mean over all replicas.
    AverageValue,
}

/// The metrics of a Kubernetes or KEDA autoscaler.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoScalingSpec {
    /// What is measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricsSpec>,
    /// How fast it may scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Opaque>,
}

/// One metric of an autoscaler; `type` says which of the others is filled.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsSpec {
    /// Where it comes from.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<MetricSourceType>,
    /// CPU or memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceMetricSource>,
    /// A query to Prometheus or Graphite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalMetricSource>,
    /// What the pods report by OpenTelemetry.
    #[serde(rename = "podmetric", skip_serializing_if = "Option::is_none")]
    pub pod_metric: Option<PodMetricSource>,
}

/// Where a metric comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MetricSourceType {
    /// CPU or memory.
    Resource,
    /// Another system.
    External,
    /// The pods themselves.
    PodMetric,
}

/// CPU or memory as a metric.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceMetricSource {
    /// `cpu` or `memory`.
    pub name: String,
    /// What is aimed at.
    pub target: MetricTarget,
}

/// What an autoscaler aims at.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricTarget {
    /// How the number is meant.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<MetricTargetType>,
    /// The sum over all replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Quantity>,
    /// The mean over all replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_value: Option<Quantity>,
    /// Percent of what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_utilization: Option<i32>,
}

/// A query to another system as a metric.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalMetricSource {
    /// The query.
    pub metric: ExternalMetrics,
    /// What is aimed at.
    pub target: MetricTarget,
    /// How to sign in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_ref: Option<Opaque>,
}

/// A query to another system.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalMetrics {
    /// `prometheus` or `graphite`.
    pub backend: String,
    /// Its address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_address: String,
    /// What to ask it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub query: String,
    /// The namespace it is asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// What the pods report as a metric.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodMetricSource {
    /// What they report.
    pub metric: PodMetrics,
    /// What is aimed at.
    pub target: MetricTarget,
}

/// What the pods report.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodMetrics {
    /// `opentelemetry`.
    pub backend: String,
    /// Names of the metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metric_names: Vec<String>,
    /// What to ask for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub query: String,
    /// The address of the collector.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_address: String,
    /// `last_one`, `avg`, `max`, `min`, `rate` or `count`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation_over_time: String,
}

/// Sends copies of requests and answers elsewhere.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggerSpec {
    /// Where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `all`, `request` or `response`; must be written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// Request headers that are copied too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metadata_headers: Vec<String>,
    /// Annotations that are copied too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metadata_annotations: Vec<String>,
    /// A bucket to write to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<LoggerStorageSpec>,
    /// What turns records into files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marshaller_url: Option<String>,
    /// Records in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<i32>,
    /// How long a file waits for more records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_interval: Option<String>,
}

/// A bucket that the logger writes to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggerStorageSpec {
    /// The folder in the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Settings of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BTreeMap<String, String>>,
    /// The entry of the storage secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The account whose secrets open it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
}

/// Joins requests before they reach the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Batcher {
    /// Instances in a batch at most; 32 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<i64>,
    /// How long the first request waits for others, in milliseconds; 5000 when absent.
    #[serde(rename = "maxLatency", skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<i64>,
    /// Declared by KServe and read nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}
