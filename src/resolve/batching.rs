//! How a service wants its requests joined: KServe's `batcher` field, or our annotations.

use super::ResolveError;
use crate::api::inference_service::InferenceService;
use crate::api::status::FailureReason;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::time::Duration;

/// Instances in a batch at most: turns batching on, v1 answers keep their form.
pub const BATCH_SIZE: &str = "kserved.io/batch-size";
/// Milliseconds that a request waits for others while a worker is free; fractions count.
pub const BATCH_DELAY_MS: &str = "kserved.io/batch-delay-ms";

/// The defaults of KServe's batcher. Source: reference 10.2.
const SIZE_DEFAULT: i64 = 32;
const LATENCY_DEFAULT_MS: i64 = 5000;

/// How the requests of one revision are joined.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BatchingSpec {
    /// Instances, which are rows of the first dimension, in a batch at most.
    pub instances_max: usize,
    /// How long a request waits for others while a worker is free.
    pub delay: Duration,
    /// Whether v1 requests and answers have the form of KServe's batcher.
    pub kserve_replies: bool,
}

/// What a service asks for; nothing: no batching.
///
/// `maxLatency` bounds how long a request may wait for others. KServe's batcher always waits that long for a batch to
/// fill; here a free worker takes what is there at once, unless [`BATCH_DELAY_MS`] says how long it should wait.
///
/// # Errors
/// An annotation that is no number, or below what makes sense.
pub(super) fn batching_of(service: &InferenceService) -> Result<Option<BatchingSpec>, ResolveError> {
    let size = annotation::<usize>(service, BATCH_SIZE, "a whole number from 1", |size| *size >= 1)?;
    let delay_ms = annotation::<f64>(service, BATCH_DELAY_MS, "milliseconds, e.g. `2` or `0.5`", |delay| (0.0..=60_000.0).contains(delay))?;
    let batcher = service.spec.predictor.batcher.as_ref();
    if batcher.is_none() && size.is_none() {
        return Ok(None);
    }
    let latency_ms = batcher.map(|batcher| batcher.max_latency_ms.unwrap_or(LATENCY_DEFAULT_MS));
    let bound = latency_ms.map_or(Duration::MAX, |latency_ms| Duration::from_millis(u64::try_from(latency_ms).unwrap_or(0)));
    let asked = batcher.map(|batcher| batcher.max_batch_size.unwrap_or(SIZE_DEFAULT)).and_then(|size| usize::try_from(size).ok());
    Ok(Some(BatchingSpec {
        instances_max: size.or(asked).unwrap_or(1).max(1),
        delay: Duration::from_secs_f64(delay_ms.unwrap_or(0.0) / 1000.0).min(bound),
        kserve_replies: batcher.is_some(),
    }))
}

/// The annotation of the predictor, else of the service.
fn annotation<T: FromStr>(
    service: &InferenceService,
    key: &str,
    wanted: &str,
    fits: impl Fn(&T) -> bool,
) -> Result<Option<T>, ResolveError> {
    let own = service.spec.predictor.annotations.get(key).map(String::as_str);
    let Some(text) = own.or_else(|| service.metadata.annotation(key)) else { return Ok(None) };
    let number = text.trim().parse().ok().filter(fits);
    let message = format!("annotation `{key}` takes {wanted}, found `{text}`");
    number.map(Some).ok_or_else(|| ResolveError::new(FailureReason::InvalidPredictorSpec, "metadata.annotations", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::component::Batcher;

    fn service(batcher: Option<Batcher>, annotations: &[(&str, &str)]) -> InferenceService {
        let mut service = InferenceService::default();
        service.spec.predictor.batcher = batcher;
        service.metadata.annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        service
    }

    fn batcher(max_batch_size: Option<i64>, max_latency_ms: Option<i64>) -> Batcher {
        Batcher { max_batch_size, max_latency_ms, timeout: None }
    }

    fn read(batcher: Option<Batcher>, annotations: &[(&str, &str)]) -> Option<(usize, u128, bool)> {
        let found = batching_of(&service(batcher, annotations)).unwrap()?;
        Some((found.instances_max, found.delay.as_micros(), found.kserve_replies))
    }

    #[test]
    fn nothing_is_joined_unless_the_service_asks() {
        assert_eq!(read(None, &[]), None);
        assert_eq!(read(None, &[(BATCH_DELAY_MS, "5")]), None);
    }

    #[test]
    fn the_batcher_field_has_kserves_defaults_and_form() {
        assert_eq!(read(Some(batcher(None, None)), &[]), Some((32, 0, true)));
        assert_eq!(read(Some(batcher(Some(8), None)), &[]), Some((8, 0, true)));
    }

    #[test]
    fn annotations_join_requests_without_kserves_form() {
        assert_eq!(read(None, &[(BATCH_SIZE, "16")]), Some((16, 0, false)));
        assert_eq!(read(None, &[(BATCH_SIZE, "16"), (BATCH_DELAY_MS, "0.5")]), Some((16, 500, false)));
    }

    #[test]
    fn nobody_waits_longer_than_max_latency() {
        assert_eq!(read(Some(batcher(None, Some(3))), &[(BATCH_DELAY_MS, "10")]), Some((32, 3000, true)));
    }

    #[test]
    fn an_annotation_that_is_no_number_is_named() {
        for (key, text) in [(BATCH_SIZE, "0"), (BATCH_SIZE, "many"), (BATCH_DELAY_MS, "-1"), (BATCH_DELAY_MS, "NaN")] {
            let error = batching_of(&service(None, &[(BATCH_SIZE, "8"), (key, text)].into_iter().collect::<Vec<_>>())).unwrap_err();
            assert!(error.message.contains(key) && error.message.contains(text), "{}", error.message);
        }
    }
}
