//! How a service wants one revision to follow another: shares, tags, sticky callers, a judge, and whether the old one
//! may go first.
//!
//! Not a part of the revision: changing it moves requests and makes no new revision.

use super::ResolveError;
use super::traffic::Wish;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::inference_service::InferenceService;
use crate::api::status::FailureReason;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

/// `"true"` gives the newest revision the tag `latest` (KServe).
pub const ENABLE_TAG_ROUTING: &str = "serving.kserve.io/enable-tag-routing";
/// The header, or gRPC metadata, whose value decides which revision answers.
pub const STICKY_HEADER: &str = "kserved.io/sticky-header";
/// `"true"` has a canary judged, and then promoted or rolled back.
pub const CANARY_JUDGE: &str = "kserved.io/canary-judge";
/// Requests that each revision must have answered before a canary is promoted.
pub const JUDGE_REQUESTS: &str = "kserved.io/judge-requests";
/// How much larger the canary's share of failed requests may be, as a part of one.
pub const JUDGE_ERROR_MARGIN: &str = "kserved.io/judge-error-margin";
/// How many times as long the canary may take, on average.
pub const JUDGE_LATENCY_RATIO: &str = "kserved.io/judge-latency-ratio";
/// How many times as long the canary's slowest of a hundred may take.
pub const JUDGE_TAIL_RATIO: &str = "kserved.io/judge-tail-ratio";
/// The relative difference of a number beyond which an answer counts as another one.
pub const JUDGE_DRIFT_TOLERANCE: &str = "kserved.io/judge-drift-tolerance";
/// Which share of the compared answers may be other ones, as a part of one.
pub const JUDGE_DRIFT_SHARE: &str = "kserved.io/judge-drift-share";
/// How many of a hundred requests to the old revision are run on the canary as well.
pub const JUDGE_SHADOW_PERCENT: &str = "kserved.io/judge-shadow-percent";

/// How a service wants one revision to follow another.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RolloutSpec {
    /// `canaryTrafficPercent` and the tag of the newest revision; nothing in Standard mode, as in KServe.
    pub wish: Wish,
    /// The header that decides which revision answers, in lower case.
    pub sticky_header: Option<Arc<str>>,
    /// `deploymentStrategy: {type: Recreate}`: the old revision may go before the new one is loaded.
    pub recreate: bool,
    /// How canaries are judged, where they are: that of `canaryTrafficPercent`, or those of `spec.canary`.
    pub judge: Option<JudgeSpec>,
}

/// The bounds of a judge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgeSpec {
    /// Requests that each revision must have answered before a canary is promoted.
    pub requests: u64,
    /// How much larger the canary's share of failed requests may be.
    pub error_margin: f64,
    /// How many times as long the canary may take, on average.
    pub latency_ratio: f64,
    /// How many times as long as 99 of a hundred requests to the stable revision took one to the canary may take, but for
    /// one of a hundred.
    pub tail_ratio: f64,
    /// The relative difference beyond which an answer counts as another one; nothing: differences decide nothing.
    pub drift_tolerance: Option<f64>,
    /// Which share of the compared answers may be other ones.
    pub drift_share: f64,
    /// How many of a hundred requests are run on the canary as well.
    pub shadow_percent: u32,
}

impl Default for JudgeSpec {
    fn default() -> Self {
        Self {
            requests: 100,
            error_margin: 0.05,
            latency_ratio: 1.5,
            tail_ratio: 2.0,
            drift_tolerance: None,
            drift_share: 0.05,
            shadow_percent: 0,
        }
    }
}

/// Of a hundred requests, how many are compared where differences count and nothing else is said.
const SHADOW_PERCENT_DEFAULT: u32 = 10;

/// How a service, with defaults filled in, wants one revision to follow another.
///
/// # Errors
/// An annotation with a value that means nothing, named with what would.
pub fn rollout_of(service: &InferenceService) -> Result<RolloutSpec, ResolveError> {
    let notes = Notes { service };
    let knative = DeploymentMode::of(&service.metadata, DeploymentMode::default()) == DeploymentMode::Knative;
    let percent = service.spec.predictor.canary_traffic_percent.map(|percent| u32::try_from(percent).unwrap_or(0).min(100));
    let tag_latest = notes.is_true(ENABLE_TAG_ROUTING);
    Ok(RolloutSpec {
        wish: if knative { Wish { percent, tag_latest } } else { Wish::default() },
        sticky_header: notes.sticky_header()?,
        recreate: is_recreate(service),
        judge: if notes.is_true(CANARY_JUDGE) { Some(notes.judge()?) } else { None },
    })
}

fn is_recreate(service: &InferenceService) -> bool {
    let strategy = service.spec.predictor.deployment_strategy.as_ref();
    strategy.is_some_and(|strategy| strategy.0.get("type").is_some_and(|kind| kind == "Recreate"))
}

/// The annotations of a service.
struct Notes<'a> {
    service: &'a InferenceService,
}

impl<'a> Notes<'a> {
    /// The predictor's, else the service's.
    fn get(&self, key: &str) -> Option<&'a str> {
        let own = self.service.spec.predictor.annotations.get(key).map(String::as_str);
        own.or_else(|| self.service.metadata.annotation(key))
    }

    fn is_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn sticky_header(&self) -> Result<Option<Arc<str>>, ResolveError> {
        let Some(text) = self.get(STICKY_HEADER) else { return Ok(None) };
        let name = text.trim().to_ascii_lowercase();
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if is_name { Ok(Some(name.into())) } else { Err(wrong(STICKY_HEADER, text, "a header's name, e.g. `X-User-Id`")) }
    }

    fn judge(&self) -> Result<JudgeSpec, ResolveError> {
        let known = JudgeSpec::default();
        let drift_tolerance = self.number(JUDGE_DRIFT_TOLERANCE, 0.0, f64::MAX)?;
        let shadow_default = if drift_tolerance.is_some() { SHADOW_PERCENT_DEFAULT } else { known.shadow_percent };
        Ok(JudgeSpec {
            requests: self.number(JUDGE_REQUESTS, 1, u64::MAX)?.unwrap_or(known.requests),
            error_margin: self.number(JUDGE_ERROR_MARGIN, 0.001, 1.0)?.unwrap_or(known.error_margin),
            latency_ratio: self.number(JUDGE_LATENCY_RATIO, 1.0, f64::MAX)?.unwrap_or(known.latency_ratio),
            tail_ratio: self.number(JUDGE_TAIL_RATIO, 1.0, f64::MAX)?.unwrap_or(known.tail_ratio),
            drift_tolerance,
            drift_share: self.number(JUDGE_DRIFT_SHARE, 0.001, 1.0)?.unwrap_or(known.drift_share),
            shadow_percent: self.number(JUDGE_SHADOW_PERCENT, 0, 100)?.unwrap_or(shadow_default),
        })
    }

    fn number<T: FromStr + PartialOrd + Copy + Display>(&self, key: &str, least: T, most: T) -> Result<Option<T>, ResolveError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let read = text.trim().parse::<T>().ok().filter(|number| (least..=most).contains(number));
        read.map(Some).ok_or_else(|| wrong(key, text, &format!("a number from {least} on")))
    }
}

fn wrong(key: &str, text: &str, wanted: &str) -> ResolveError {
    let message = format!("annotation `{key}`: expected {wanted}, found `{text}`");
    ResolveError::new(FailureReason::InvalidPredictorSpec, "metadata.annotations", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::pod::Opaque;
    use serde_json::json;

    fn service(annotations: &[(&str, &str)]) -> InferenceService {
        let mut service = InferenceService::default();
        service.metadata.annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        service.spec.predictor.canary_traffic_percent = Some(10);
        service
    }

    fn read(annotations: &[(&str, &str)]) -> RolloutSpec {
        rollout_of(&service(annotations)).unwrap()
    }

    #[test]
    fn the_percentage_counts_in_knative_mode_only() {
        assert_eq!(read(&[]).wish, Wish { percent: Some(10), tag_latest: false });
        assert_eq!(read(&[(ENABLE_TAG_ROUTING, "true")]).wish, Wish { percent: Some(10), tag_latest: true });
        assert_eq!(read(&[("serving.kserve.io/deploymentMode", "Standard"), (ENABLE_TAG_ROUTING, "true")]).wish, Wish::default());
    }

    #[test]
    fn a_sticky_header_is_a_header() {
        assert_eq!(read(&[(STICKY_HEADER, "X-User-Id")]).sticky_header.as_deref(), Some("x-user-id"));
        for text in ["", "x user", "x:y"] {
            let error = rollout_of(&service(&[(STICKY_HEADER, text)])).unwrap_err().to_string();
            assert!(error.contains(STICKY_HEADER), "{error}");
        }
    }

    #[test]
    fn nobody_judges_unless_asked_and_what_is_not_said_has_a_default() {
        assert_eq!(read(&[(JUDGE_REQUESTS, "5")]).judge, None);
        assert_eq!(read(&[(CANARY_JUDGE, "true")]).judge, Some(JudgeSpec::default()));
        let judge = read(&[(CANARY_JUDGE, "True"), (JUDGE_REQUESTS, "5"), (JUDGE_DRIFT_TOLERANCE, "0.1")]).judge.unwrap();
        assert_eq!((judge.requests, judge.drift_tolerance, judge.shadow_percent), (5, Some(0.1), SHADOW_PERCENT_DEFAULT));
    }

    #[test]
    fn a_bound_that_means_nothing_is_named() {
        for (key, text) in [(JUDGE_REQUESTS, "0"), (JUDGE_LATENCY_RATIO, "0.5"), (JUDGE_ERROR_MARGIN, "NaN"), (JUDGE_SHADOW_PERCENT, "101")]
        {
            let error = rollout_of(&service(&[(CANARY_JUDGE, "true"), (key, text)])).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn recreate_is_read_from_the_deployment_strategy() {
        let mut service = service(&[]);
        assert!(!rollout_of(&service).unwrap().recreate);
        for (kind, recreate) in [("Recreate", true), ("RollingUpdate", false)] {
            service.spec.predictor.deployment_strategy = Some(Opaque(json!({"type": kind})));
            assert_eq!(rollout_of(&service).unwrap().recreate, recreate);
        }
    }
}
