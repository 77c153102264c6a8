//! A delivery tried a few times, with growing pauses.

use super::config::Config;
use std::time::Duration;
use tokio::time::Instant;

/// Why a try failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Trying again may help.
    MayPass(String),
    /// It would not.
    Final(String),
}

/// Tries until one try succeeds, one fails for good, there are no more, or the deadline is over; the last error then.
pub(super) async fn try_often<T, F>(config: &Config, deadline: Option<Instant>, mut attempt: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, Failure>>,
{
    let whole = Duration::from_secs(config.attempt_timeout_s);
    let mut pause = Duration::from_millis(config.retry_first_ms);
    let mut last = "it was not its turn within the deadline".to_owned();
    for number in 1..=config.attempts_max.max(1) {
        let left = deadline.map_or(whole, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            break;
        }
        let within = left.min(whole);
        match tokio::time::timeout(within, attempt()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(Failure::Final(error))) => return Err(error),
            Ok(Err(Failure::MayPass(error))) => last = error,
            Err(_) => last = format!("no answer within {} s", within.as_secs()),
        }
        if number < config.attempts_max {
            let next = Instant::now() + pause;
            tokio::time::sleep_until(deadline.map_or(next, |deadline| next.min(deadline))).await;
            pause *= 2;
        }
    }
    Err(last)
}
