//! Where a request's time went, and its id: `Server-Timing` and `x-request-id` in every answer.

use crate::inference::{Priority, Timing};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// The header that carries a request's id, both ways.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header that names the revision that answered.
pub(crate) const REVISION: HeaderName = HeaderName::from_static("x-kserved-revision");
/// The header with the time spent in each stop.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// The header with the milliseconds a client is willing to wait.
pub(crate) const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// The header that says who goes first where requests wait: `high`, `normal` or `low`.
pub(crate) const PRIORITY: HeaderName = HeaderName::from_static("x-request-priority");

/// Stops of one answer that are told; a graph may have more.
pub(crate) const STOPS_MAX: usize = 32;

/// Bytes of an id that is sent back; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The time of one inference, stop by stop.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stages {
    /// Bytes to tensors.
    pub(crate) parse: Duration,
    /// Queue, batch and run, as the pool saw them.
    pub(crate) pool: Timing,
    /// Tensors to bytes.
    pub(crate) encode: Duration,
}

impl Stages {
    /// `parse;dur=0.031, queue;dur=...`, in milliseconds.
    pub(crate) fn header(&self) -> HeaderValue {
        let pool = &self.pool;
        header([("parse", self.parse), ("queue", pool.queue), ("batch", pool.batch), ("run", pool.run), ("encode", self.encode)])
    }
}

/// The times of a request's stops, in milliseconds; a name is letters, digits, `-`, `_` and `.`.
///
/// Source: W3C Server Timing.
pub(crate) fn header<'n>(stops: impl IntoIterator<Item = (&'n str, Duration)>) -> HeaderValue {
    let mut text = String::with_capacity(112);
    for (name, time) in stops {
        let (comma, micros) = (if text.is_empty() { "" } else { ", " }, time.as_micros());
        write!(text, "{comma}{name};dur={}.{:03}", micros / 1000, micros % 1000)
            .expect("a string takes text because its writer has no errors");
    }
    let header = HeaderValue::from_maybe_shared(bytes::Bytes::from(text));
    unique(header.expect("digits and names make a header because they are ASCII"))
}

/// The id of a request: the caller's, when it is short and readable, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().is_ascii());
    unique(given.cloned().unwrap_or_else(new_id))
}

/// Marks a value that no other answer will have, so that HTTP/2 does not remember it in place of one that comes again.
fn unique(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// How long a client waits, by `X-Request-Timeout-Ms` or gRPC's `grpc-timeout`; a value that is no number is as none.
pub(crate) fn client_timeout(headers: &HeaderMap) -> Option<Duration> {
    let milliseconds = headers.get(TIMEOUT_MS).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_millis);
    milliseconds.or_else(|| grpc_timeout(headers.get("grpc-timeout")?.to_str().ok()?))
}

/// Who a request goes before, by `X-Request-Priority`; a value that is none is as no header.
pub(crate) fn priority(headers: &HeaderMap) -> Option<Priority> {
    Priority::parse(headers.get(PRIORITY)?.to_str().ok()?)
}

/// When a request that arrived at `arrived` must be answered: after the route's time, or the client's if shorter.
pub(crate) fn deadline(arrived: Instant, route: Duration, client: Option<Duration>) -> Instant {
    let allowed = client.map_or(route, |client| client.min(route));
    // A timeout that leaves the clock's range is as long as a day.
    arrived.checked_add(allowed).unwrap_or_else(|| arrived + Duration::from_hours(24))
}

/// At most eight digits and a unit. Source: gRPC over HTTP/2, "Timeout".
fn grpc_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

fn new_id() -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).expect("a UUID makes a header because it is hexadecimal digits and dashes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn the_header_splits_the_time_in_milliseconds() {
        let pool = Timing { queue: Duration::from_micros(12), batch: Duration::ZERO, run: Duration::from_millis(1500) };
        let stages = Stages { parse: Duration::from_micros(1031), pool, encode: Duration::from_nanos(999) };
        assert_eq!(stages.header(), "parse;dur=1.031, queue;dur=0.012, batch;dur=0.000, run;dur=1500.000, encode;dur=0.000");
    }

    #[test]
    fn a_readable_id_is_echoed_and_any_other_replaced() {
        assert_eq!(request_id(&headers("x-request-id", "abc-1")), "abc-1");
        assert_eq!(request_id(&HeaderMap::new()).len(), 36);
        assert_eq!(request_id(&headers("x-request-id", &"a".repeat(129))).len(), 36);
    }

    #[test]
    fn the_shorter_of_the_two_timeouts_counts() {
        let (now, route) = (Instant::now(), Duration::from_mins(1));
        assert_eq!(deadline(now, route, None), now + route);
        assert_eq!(deadline(now, route, Some(Duration::from_secs(1))), now + Duration::from_secs(1));
        assert_eq!(deadline(now, route, Some(Duration::from_mins(10))), now + route);
        assert!(deadline(now, Duration::MAX, None) > now);
    }

    #[test]
    fn timeouts_of_both_doors_are_read_and_nonsense_is_as_none() {
        assert_eq!(client_timeout(&headers("x-request-timeout-ms", "1500")), Some(Duration::from_millis(1500)));
        assert_eq!(client_timeout(&headers("grpc-timeout", "2S")), Some(Duration::from_secs(2)));
        assert_eq!(client_timeout(&headers("grpc-timeout", "250m")), Some(Duration::from_millis(250)));
        for nonsense in ["", "S", "12", "123456789S", "-1S", "1x"] {
            assert_eq!(client_timeout(&headers("grpc-timeout", nonsense)), None, "{nonsense}");
        }
        assert_eq!(client_timeout(&headers("x-request-timeout-ms", "soon")), None);
    }
}
