//! How a service wants to be scaled: replicas, metric, target, windows, and whether it may sleep.
//!
//! Not a part of the revision: changing it changes what runs without a new revision.
//! Source: reference 1.3, 1.7 and 11; KServe `knative/reconcilers`, Knative `autoscaling/annotation_validation`.

use super::ResolveError;
use crate::api::component::ScaleMetric;
use crate::api::deployment_mode::{DeploymentMode, annotation as mode};
use crate::api::inference_service::InferenceService;
use crate::api::status::FailureReason;
use std::str::FromStr;
use std::time::Duration;

/// `"true"` keeps a model in memory: it is never put to sleep to make room for others.
pub const PIN: &str = "kserved.io/pin";

/// Knative's annotations.
pub mod annotation {
    /// Replicas at least, on the predictor; `minReplicas` wins.
    pub const MIN_SCALE: &str = "autoscaling.knative.dev/min-scale";
    /// Replicas at most, on the predictor; `maxReplicas` wins.
    pub const MAX_SCALE: &str = "autoscaling.knative.dev/max-scale";
    /// Replicas a new revision starts with.
    pub const INITIAL_SCALE: &str = "autoscaling.knative.dev/initial-scale";
    /// Replicas at least while there are requests.
    pub const ACTIVATION_SCALE: &str = "autoscaling.knative.dev/activation-scale";
    /// `concurrency`, `rps`, `cpu` or `memory`; `scaleMetric` wins.
    pub const METRIC: &str = "autoscaling.knative.dev/metric";
    /// What one replica should carry; `scaleTarget` wins.
    pub const TARGET: &str = "autoscaling.knative.dev/target";
    /// How much of the target is aimed at, in percent.
    pub const TARGET_UTILIZATION: &str = "autoscaling.knative.dev/target-utilization-percentage";
    /// The stable window, e.g. `60s`.
    pub const WINDOW: &str = "autoscaling.knative.dev/window";
    /// The panic window, in percent of the stable one.
    pub const PANIC_WINDOW: &str = "autoscaling.knative.dev/panic-window-percentage";
    /// How much more than there is must be wanted to panic, in percent.
    pub const PANIC_THRESHOLD: &str = "autoscaling.knative.dev/panic-threshold-percentage";
    /// How long less must be wanted before replicas go.
    pub const SCALE_DOWN_DELAY: &str = "autoscaling.knative.dev/scale-down-delay";
    /// How long the last replica stays at least.
    pub const RETENTION: &str = "autoscaling.knative.dev/scale-to-zero-pod-retention-period";
}

/// The least target. Source: Knative `TargetMin`.
const TARGET_MIN: f64 = 0.01;
/// What one replica carries where nothing says so.
const CONCURRENCY_DEFAULT: f64 = 100.0;
const RPS_DEFAULT: f64 = 200.0;
const PERCENT_DEFAULT: f64 = 80.0;

/// What decides the number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaler {
    /// Knative's own autoscaler.
    Kpa,
    /// The formula of Kubernetes' horizontal autoscaler.
    Hpa,
    /// Nothing: `minReplicas` stands.
    Fixed,
}

/// What a service gets that does not say.
#[derive(Debug, Clone, PartialEq)]
pub struct ScaleDefaults {
    /// How services are deployed that do not say.
    pub deployment_mode: DeploymentMode,
    /// The stable window.
    pub stable_window: Duration,
    /// The panic window, in percent of the stable one.
    pub panic_window_percent: f64,
    /// How much more than there is must be wanted to panic, in percent.
    pub panic_threshold_percent: f64,
    /// How much of the target is aimed at, in percent.
    pub target_utilization_percent: f64,
    /// How long less must be wanted before replicas go.
    pub scale_down_delay: Duration,
}

impl Default for ScaleDefaults {
    /// Knative's.
    fn default() -> Self {
        Self {
            deployment_mode: DeploymentMode::Knative,
            stable_window: Duration::from_mins(1),
            panic_window_percent: 10.0,
            panic_threshold_percent: 200.0,
            target_utilization_percent: 70.0,
            scale_down_delay: Duration::ZERO,
        }
    }
}

/// How one service is scaled, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct ScaleSpec {
    /// What decides.
    pub scaler: Scaler,
    /// What is measured.
    pub metric: ScaleMetric,
    /// What one replica is aimed to carry: requests in flight, requests a second, or percent. Utilisation is in it.
    pub target: f64,
    /// Replicas at least; 0 lets the model sleep.
    pub min: u32,
    /// Replicas at most; 0 is no bound.
    pub max: u32,
    /// Replicas a new revision starts with; 0 loads it once to know it, and lets it sleep.
    pub initial: u32,
    /// Replicas at least while there are requests.
    pub activation: u32,
    /// The stable window.
    pub stable_window: Duration,
    /// The panic window.
    pub panic_window: Duration,
    /// How many times what there is must be wanted to panic.
    pub panic_threshold: f64,
    /// How long less must be wanted before replicas go.
    pub scale_down_delay: Duration,
    /// How long the last replica stays at least once nothing was asked for a stable window.
    pub retention: Duration,
    /// Never put to sleep to make room for others.
    pub pinned: bool,
}

/// How a service is scaled.
///
/// # Errors
/// An annotation that is not what Knative takes, named with what would be.
pub fn scale_of(service: &InferenceService, defaults: &ScaleDefaults) -> Result<ScaleSpec, ResolveError> {
    let notes = Notes { service };
    let scaler = scaler_of(service, defaults.deployment_mode);
    let metric = metric_of(&notes, scaler)?;
    let (min, max) = bounds_of(&notes, scaler)?;
    let percent = |key, least, most| notes.number::<f64>(key, least, most);
    let window = notes.duration(annotation::WINDOW, 6, 3600)?.unwrap_or(defaults.stable_window);
    let panic_percent = percent(annotation::PANIC_WINDOW, 1.0, 100.0)?.unwrap_or(defaults.panic_window_percent);
    Ok(ScaleSpec {
        scaler,
        metric,
        target: target_of(&notes, metric, defaults)?,
        min,
        max,
        initial: notes.number(annotation::INITIAL_SCALE, 0, u32::MAX)?.unwrap_or(1),
        activation: notes.number(annotation::ACTIVATION_SCALE, 1, u32::MAX)?.unwrap_or(1),
        stable_window: window,
        panic_window: window.mul_f64(panic_percent / 100.0),
        panic_threshold: percent(annotation::PANIC_THRESHOLD, 110.0, 1000.0)?.unwrap_or(defaults.panic_threshold_percent) / 100.0,
        scale_down_delay: notes.duration(annotation::SCALE_DOWN_DELAY, 0, 3600)?.unwrap_or(defaults.scale_down_delay),
        retention: notes.duration(annotation::RETENTION, 0, 3600)?.unwrap_or(Duration::ZERO),
        pinned: notes.get(PIN).is_some_and(|value| value.eq_ignore_ascii_case("true")),
    })
}

fn scaler_of(service: &InferenceService, default: DeploymentMode) -> Scaler {
    let notes = Notes { service };
    match DeploymentMode::of(&service.metadata, default) {
        DeploymentMode::Knative => match notes.get(mode::KNATIVE_AUTOSCALER_CLASS) {
            Some("hpa.autoscaling.knative.dev") => Scaler::Hpa,
            _ => Scaler::Kpa,
        },
        DeploymentMode::Standard => match service.metadata.annotation(mode::AUTOSCALER_CLASS) {
            None | Some("hpa") => Scaler::Hpa,
            Some(_) => Scaler::Fixed,
        },
        DeploymentMode::ModelMesh => Scaler::Fixed,
    }
}

fn metric_of(notes: &Notes<'_>, scaler: Scaler) -> Result<ScaleMetric, ResolveError> {
    if let Some(metric) = notes.service.spec.predictor.scale_metric {
        return Ok(metric);
    }
    match (notes.get(annotation::METRIC), scaler) {
        (None, Scaler::Kpa | Scaler::Fixed) | (Some("concurrency"), Scaler::Kpa) => Ok(ScaleMetric::Concurrency),
        (Some("rps"), Scaler::Kpa) => Ok(ScaleMetric::Rps),
        (None | Some("cpu"), Scaler::Hpa) => Ok(ScaleMetric::Cpu),
        (Some("memory"), Scaler::Hpa) => Ok(ScaleMetric::Memory),
        (Some(other), Scaler::Kpa) => Err(wrong(annotation::METRIC, other, "`concurrency` or `rps`")),
        (Some(other), _) => Err(wrong(annotation::METRIC, other, "`cpu` or `memory`")),
    }
}

/// KServe takes the replicas' bounds from the fields; those of a horizontal autoscaler never go below one.
fn bounds_of(notes: &Notes<'_>, scaler: Scaler) -> Result<(u32, u32), ResolveError> {
    let predictor = &notes.service.spec.predictor;
    let field = |number: Option<i32>| number.map(|number| u32::try_from(number).unwrap_or(0));
    let own = |key| notes.own(key).map(|text| number(key, text, 0, u32::MAX)).transpose();
    let min = field(predictor.min_replicas).or(own(annotation::MIN_SCALE)?).unwrap_or(1);
    let max = field(predictor.max_replicas).or(own(annotation::MAX_SCALE)?).unwrap_or(0);
    Ok(match scaler {
        Scaler::Kpa => (min, max),
        Scaler::Hpa => (min.max(1), max.max(min.max(1))),
        Scaler::Fixed => (min, min.max(1)),
    })
}

/// What one replica is aimed to carry: a share of the target, which never exceeds `containerConcurrency`.
fn target_of(notes: &Notes<'_>, metric: ScaleMetric, defaults: &ScaleDefaults) -> Result<f64, ResolveError> {
    let predictor = &notes.service.spec.predictor;
    let asked = predictor.scale_target.map(f64::from).or(notes.number(annotation::TARGET, TARGET_MIN, f64::MAX)?);
    let share = notes.number(annotation::TARGET_UTILIZATION, 1.0, 100.0)?.unwrap_or(defaults.target_utilization_percent) / 100.0;
    #[expect(clippy::cast_precision_loss, reason = "nobody runs 2^52 requests at once")]
    let hard = predictor.container_concurrency.filter(|limit| *limit > 0).map(|limit| limit as f64);
    let target = match (metric, asked, hard) {
        (ScaleMetric::Cpu | ScaleMetric::Memory, asked, _) => return Ok(asked.unwrap_or(PERCENT_DEFAULT)),
        (ScaleMetric::Rps, asked, _) => asked.unwrap_or(RPS_DEFAULT) * share,
        (ScaleMetric::Concurrency, Some(asked), Some(hard)) => asked.min(hard) * share,
        (ScaleMetric::Concurrency, asked, hard) => asked.or(hard).unwrap_or(CONCURRENCY_DEFAULT) * share,
    };
    Ok(target.max(TARGET_MIN))
}

/// The annotations of a service.
struct Notes<'a> {
    service: &'a InferenceService,
}

impl<'a> Notes<'a> {
    /// The predictor's.
    fn own(&self, key: &str) -> Option<&'a str> {
        self.service.spec.predictor.annotations.get(key).map(String::as_str)
    }

    /// The predictor's, else the service's.
    fn get(&self, key: &str) -> Option<&'a str> {
        self.own(key).or_else(|| self.service.metadata.annotation(key))
    }

    fn number<T: FromStr + PartialOrd + Copy + std::fmt::Display>(&self, key: &str, least: T, most: T) -> Result<Option<T>, ResolveError> {
        self.get(key).map(|text| number(key, text, least, most)).transpose()
    }

    fn duration(&self, key: &str, least_s: u64, most_s: u64) -> Result<Option<Duration>, ResolveError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let within = Duration::from_secs(least_s)..=Duration::from_secs(most_s);
        let read = go_duration(text).filter(|duration| within.contains(duration));
        read.map(Some).ok_or_else(|| wrong(key, text, &format!("a time from {least_s}s to {most_s}s, e.g. `30s` or `1m30s`")))
    }
}

fn number<T: FromStr + PartialOrd + Copy + std::fmt::Display>(key: &str, text: &str, least: T, most: T) -> Result<T, ResolveError> {
    let read = text.trim().parse::<T>().ok().filter(|number| (least..=most).contains(number));
    read.ok_or_else(|| wrong(key, text, &format!("a number from {least} on")))
}

fn wrong(key: &str, text: &str, wanted: &str) -> ResolveError {
    let message = format!("annotation `{key}`: expected {wanted}, found `{text}`");
    ResolveError::new(FailureReason::InvalidPredictorSpec, "metadata.annotations", message)
}

/// Reads a duration as Go writes it: `90s`, `1m30s`, `1.5h`, `500ms`.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (mut rest, mut total_s) = (text.trim(), 0.0);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let seconds = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        total_s += count.parse::<f64>().ok()? * seconds;
        rest = next;
    }
    (!text.trim().is_empty()).then(|| Duration::try_from_secs_f64(total_s).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Resource;
    use std::path::Path;

    /// A service with these lines below `metadata.annotations` and `spec.predictor`.
    fn service(annotations: &str, predictor: &str) -> InferenceService {
        let text = format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n  annotations: {{{annotations}}}\n\
             spec:\n  predictor:\n    {predictor}\n    model: {{modelFormat: {{name: onnx}}, storageUri: 's3://a/b'}}\n"
        );
        let parsed = crate::manifest::parse(text.as_bytes(), Path::new("iris.yaml"));
        match parsed.resources.into_iter().next().expect("a service").resource {
            Resource::InferenceService(service) => *service,
            other => panic!("{other:?}"),
        }
    }

    fn scale(annotations: &str, predictor: &str) -> ScaleSpec {
        scale_of(&service(annotations, predictor), &ScaleDefaults::default()).unwrap()
    }

    fn told(annotations: &str) -> String {
        scale_of(&service(annotations, "minReplicas: 0"), &ScaleDefaults::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_service_that_says_nothing_keeps_one_replica_and_aims_at_seventy_in_flight() {
        let plain = scale("", "minReplicas: 1");
        assert_eq!((plain.scaler, plain.metric, plain.min, plain.max, plain.initial), (Scaler::Kpa, ScaleMetric::Concurrency, 1, 0, 1));
        assert_eq!((plain.target, plain.panic_window, plain.panic_threshold), (70.0, Duration::from_secs(6), 2.0));
        assert!(!plain.pinned);
    }

    #[test]
    fn a_target_is_a_share_of_what_is_written_and_never_above_the_hard_limit() {
        assert!((scale("", "scaleTarget: 2").target - 1.4).abs() < 1e-9);
        assert!((scale("", "containerConcurrency: 4").target - 2.8).abs() < 1e-9);
        assert!((scale("", "containerConcurrency: 4\n    scaleTarget: 10").target - 2.8).abs() < 1e-9);
        assert!((scale("", "scaleMetric: rps").target - 140.0).abs() < 1e-9);
        let annotated =
            scale("autoscaling.knative.dev/target: '10', autoscaling.knative.dev/target-utilization-percentage: '50'", "minReplicas: 1");
        assert!((annotated.target - 5.0).abs() < 1e-9);
    }

    #[test]
    fn annotations_of_knative_are_read_and_fields_win() {
        let read = scale(
            "autoscaling.knative.dev/window: 1m30s, autoscaling.knative.dev/panic-window-percentage: '20', \
             autoscaling.knative.dev/metric: rps, autoscaling.knative.dev/min-scale: '7', \
             autoscaling.knative.dev/scale-to-zero-pod-retention-period: 1m, kserved.io/pin: 'true'",
            "annotations: {autoscaling.knative.dev/max-scale: '3', autoscaling.knative.dev/initial-scale: '0'}",
        );
        assert_eq!((read.stable_window, read.panic_window), (Duration::from_secs(90), Duration::from_secs(18)));
        assert_eq!((read.metric, read.max, read.initial), (ScaleMetric::Rps, 3, 0));
        assert_eq!(read.min, 1, "KServe drops it where it stands on the service");
        assert_eq!((read.retention, read.pinned), (Duration::from_mins(1), true));
    }

    #[test]
    fn standard_mode_scales_by_cpu_and_never_to_zero() {
        let standard = scale("serving.kserve.io/deploymentMode: Standard", "minReplicas: 0\n    maxReplicas: 3");
        assert_eq!((standard.scaler, standard.metric, standard.min, standard.max), (Scaler::Hpa, ScaleMetric::Cpu, 1, 3));
        assert!((standard.target - 80.0).abs() < 1e-9);
        let none = scale("serving.kserve.io/deploymentMode: Standard, serving.kserve.io/autoscalerClass: none", "minReplicas: 2");
        assert_eq!((none.scaler, none.min), (Scaler::Fixed, 2));
    }

    #[test]
    fn an_annotation_that_knative_would_refuse_is_refused_with_what_it_takes() {
        assert!(told("autoscaling.knative.dev/window: 5s").contains("a time from 6s to 3600s"));
        assert!(told("autoscaling.knative.dev/panic-threshold-percentage: '100'").contains("a number from 110"));
        assert!(told("autoscaling.knative.dev/metric: cpu").contains("`concurrency` or `rps`, found `cpu`"));
        assert!(told("autoscaling.knative.dev/initial-scale: many").contains("found `many`"));
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let table = [("90s", 90_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("500ms", 500), ("0", 0), ("0s", 0)];
        for (text, millis) in table {
            assert_eq!(go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "60", "s", "1 m", "-1s", "1x"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
