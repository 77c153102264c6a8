//! Rules for what every component has: replicas, scaling, concurrency, timeout, canary share, logger, batcher.

use super::Violation;
use crate::api::component::{
    Batcher, ComponentExtension, LoggerSpec, LoggerStorageSpec, MetricSourceType, MetricTargetType, MetricsSpec, ScaleMetric,
};
use crate::api::deployment_mode::{DeploymentMode, annotation};
use crate::api::metadata::ObjectMeta;

/// Words for `logger.mode`.
const LOGGER_MODES: [&str; 3] = ["all", "request", "response"];
/// Where request logs can go.
const LOGGER_SCHEMES: [&str; 9] = ["http", "https", "file", "s3", "s3a", "gs", "gcs", "abfs", "abfss"];
/// Words for the autoscaler's annotation.
pub(super) const AUTOSCALERS: [&str; 4] = ["hpa", "keda", "external", "none"];

/// What scales a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Autoscaler {
    /// Knative's own.
    Kpa,
    Hpa,
    Keda,
    /// Something else, or nothing.
    Other,
}

/// A header's name as Go's `CanonicalMIMEHeaderKey` spells it: `X-Request-Id`.
#[must_use]
pub fn canonical_header(name: &str) -> String {
    let mut first = true;
    let letter = |letter: char| {
        let spelled = if first { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        first = letter == '-';
        spelled
    };
    name.chars().map(letter).collect()
}

/// One component, where it stands, and what its service says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Component<'a> {
    pub(super) field: &'a str,
    pub(super) extension: ComponentExtension<'a>,
    pub(super) metadata: &'a ObjectMeta,
    pub(super) mode: DeploymentMode,
}

impl Component<'_> {
    fn error(&self, field: &str, message: impl Into<String>) -> Violation {
        Violation::error(format!("{}.{field}", self.field), message)
    }

    /// Checks all of it.
    pub(super) fn check(&self, found: &mut Vec<Violation>) {
        self.replicas(found);
        self.numbers(found);
        self.extension.logger.into_iter().for_each(|logger| self.logger(logger, found));
        self.extension.batcher.into_iter().for_each(|batcher| self.batcher(batcher, found));
        match self.autoscaler() {
            Autoscaler::Kpa => self.kpa(found),
            Autoscaler::Hpa => self.hpa(found),
            Autoscaler::Keda => self.keda(found),
            Autoscaler::Other => {}
        }
    }

    fn replicas(&self, found: &mut Vec<Violation>) {
        let least = self.extension.min_replicas_or_default();
        let most = self.extension.max_replicas.unwrap_or(0);
        if least < 0 {
            found.push(self.error("minReplicas", "'MinReplicas' cannot be less than 0"));
        }
        if most < 0 {
            found.push(self.error("maxReplicas", "'MaxReplicas' cannot be less than 0"));
        } else if least > most && most != 0 {
            found.push(
                self.error("minReplicas", "'MinReplicas' cannot be greater than MaxReplicas")
                    .with_hint(format!("minReplicas is {least}, maxReplicas is {most}")),
            );
        }
    }

    fn numbers(&self, found: &mut Vec<Violation>) {
        let extension = &self.extension;
        if extension.container_concurrency.is_some_and(|number| number < 0) {
            found.push(self.error("containerConcurrency", "parallelism cannot be less than 0"));
        }
        if extension.timeout_s.is_some_and(|seconds| seconds < 0) {
            found.push(self.error("timeout", "timeout cannot be less than 0 seconds"));
        }
        if extension.canary_traffic_percent.is_some_and(|percent| !(0..=100).contains(&percent)) {
            found.push(self.error("canaryTrafficPercent", "canaryTrafficPercent must be from 0 to 100"));
        }
        if self.mode == DeploymentMode::Standard && extension.canary_traffic_percent.is_some() {
            let message = "canaryTrafficPercent is ignored in Standard deployment mode, as by KServe";
            let field = format!("{}.canaryTrafficPercent", self.field);
            found.push(Violation::warning(field, message).with_hint("write a canary predictor into `spec.canary`"));
        }
        if self.mode == DeploymentMode::Knative && extension.deployment_strategy.is_some() {
            let message = "customizing deploymentStrategy is only supported for raw deployment mode";
            found.push(self.error("deploymentStrategy", message));
        }
    }

    fn logger(&self, logger: &LoggerSpec, found: &mut Vec<Violation>) {
        if !LOGGER_MODES.contains(&logger.mode.as_str()) {
            found.push(self.error("logger.mode", "invalid logger type").with_words(&logger.mode, &LOGGER_MODES));
        }
        self.logger_remarks(logger, found);
        let incomplete = |storage: &LoggerStorageSpec| storage.path.is_none() || storage.parameters.is_none() || storage.key.is_none();
        if logger.storage.as_ref().is_some_and(incomplete) {
            let violation = self.error("logger.storage", "invalid logger storage configuration");
            found.push(violation.with_hint("give `path`, `parameters` and `key`"));
        }
    }

    /// What KServe takes and then logs nothing of.
    fn logger_remarks(&self, logger: &LoggerSpec, found: &mut Vec<Violation>) {
        let remark = |field: &str, message: &str| Violation::warning(format!("{}.logger.{field}", self.field), message);
        for (index, name) in logger.metadata_headers.iter().enumerate() {
            let canonical = canonical_header(name);
            if *name != canonical {
                let hint = format!("write `{canonical}`");
                found.push(
                    remark(&format!("metadataHeaders[{index}]"), "no header is found by this spelling, as in KServe").with_hint(hint),
                );
            }
        }
        let scheme = logger.url.as_deref().filter(|url| !url.is_empty()).map(|url| url.split_once("://").map_or("", |(scheme, _)| scheme));
        if scheme.is_some_and(|scheme| !LOGGER_SCHEMES.contains(&scheme)) {
            found.push(remark(
                "url",
                "nothing is logged: a logger's url begins with `http://`, `https://`, `file://`, `s3://`, `gs://` or `abfs://`",
            ));
        }
    }

    fn batcher(&self, batcher: &Batcher, found: &mut Vec<Violation>) {
        for (name, number) in [("maxBatchSize", batcher.max_batch_size), ("maxLatency", batcher.max_latency_ms)] {
            if number.is_some_and(|number| number <= 0) {
                found.push(self.error(&format!("batcher.{name}"), format!("{name} must be at least 1")));
            }
        }
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.extension.annotations.get(key).map(String::as_str).or_else(|| self.metadata.annotation(key))
    }

    fn autoscaler(&self) -> Autoscaler {
        if self.mode == DeploymentMode::Knative {
            return match self.annotation(annotation::KNATIVE_AUTOSCALER_CLASS) {
                Some("hpa.autoscaling.knative.dev") => Autoscaler::Hpa,
                _ => Autoscaler::Kpa,
            };
        }
        match self.metadata.annotation(annotation::AUTOSCALER_CLASS) {
            None | Some("hpa") => Autoscaler::Hpa,
            Some("keda") => Autoscaler::Keda,
            Some(_) => Autoscaler::Other,
        }
    }

    fn metric_in(&self, default: ScaleMetric, supported: [ScaleMetric; 2], found: &mut Vec<Violation>) -> ScaleMetric {
        let metric = self.extension.scale_metric.unwrap_or(default);
        if !supported.contains(&metric) {
            let message = format!("[{}] is not a supported metric", metric.name());
            let [first, second] = supported.map(ScaleMetric::name);
            found.push(self.error("scaleMetric", message).with_hint(format!("{} mode scales by `{first}` or `{second}`", self.mode)));
        }
        metric
    }

    fn kpa(&self, found: &mut Vec<Violation>) {
        let metric = self.metric_in(ScaleMetric::Concurrency, [ScaleMetric::Concurrency, ScaleMetric::Rps], found);
        if metric == ScaleMetric::Rps && self.extension.scale_target.is_some_and(|target| target < 1) {
            found.push(self.error("scaleTarget", "the target for rps should be greater than 1"));
        }
    }

    fn hpa(&self, found: &mut Vec<Violation>) {
        self.metric_in(ScaleMetric::Cpu, [ScaleMetric::Cpu, ScaleMetric::Memory], found);
        if self.extension.scale_target.is_some_and(|target| !(1..=100).contains(&target)) {
            found.push(self.error("scaleTarget", "the target utilization percentage should be a [1-100] integer"));
        }
        for (index, metric) in self.metrics().iter().enumerate() {
            if metric.kind != Some(MetricSourceType::Resource) {
                let field = format!("autoScaling.metrics[{index}].type");
                found.push(self.error(&field, "invalid metric type: a HPA takes metrics of type `Resource` only"));
            }
        }
    }

    fn metrics(&self) -> &[MetricsSpec] {
        self.extension.auto_scaling.map_or(&[], |scaling| &scaling.metrics)
    }

    fn keda(&self, found: &mut Vec<Violation>) {
        if self.extension.scale_metric.is_some() {
            found.push(self.error("scaleMetric", "ScaleMetric is not supported for KEDA"));
        }
        for (index, metric) in self.metrics().iter().enumerate() {
            if let Some((below, message)) = keda_fault(metric) {
                found.push(self.error(&format!("autoScaling.metrics[{index}]{below}"), message));
            }
        }
    }
}

/// What is wrong with one metric of KEDA, and where below it.
fn keda_fault(metric: &MetricsSpec) -> Option<(&'static str, &'static str)> {
    match metric.kind {
        None => Some((".type", "every metric needs a type")),
        Some(MetricSourceType::Resource) => keda_resource_fault(metric),
        Some(MetricSourceType::External) => match &metric.external {
            Some(external) if !external.metric.query.is_empty() && external.target.value.is_some() => None,
            _ => Some((".external", "an external metric needs `metric.query` and `target.value`")),
        },
        Some(MetricSourceType::PodMetric) => match &metric.pod_metric {
            Some(pod) if !pod.metric.query.is_empty() && pod.target.value.is_some() => None,
            _ => Some((".podmetric", "a pod metric needs `metric.query` and `target.value`")),
        },
    }
}

fn keda_resource_fault(metric: &MetricsSpec) -> Option<(&'static str, &'static str)> {
    let Some(resource) = &metric.resource else {
        return Some((".resource", "a metric of type `Resource` needs `resource`"));
    };
    match (resource.name.as_str(), resource.target.kind) {
        ("cpu", None | Some(MetricTargetType::Utilization)) | ("memory", Some(MetricTargetType::Utilization)) => None,
        ("cpu", Some(_)) => Some((".resource.target.type", "the cpu target value type should be Utilization")),
        ("memory", Some(MetricTargetType::AverageValue)) => match &resource.target.average_value {
            Some(value) if value.bytes() >= 1 << 20 => None,
            _ => Some((".resource.target.averageValue", "the memory target value should be greater than 1 MiB")),
        },
        ("memory", _) => Some((".resource.target.type", "the memory target value type should be AverageValue or Utilization")),
        _ => Some((".resource.name", "resource type is not supported: one of `cpu`, `memory`")),
    }
}
