//! One file over HTTP: how a part of it is asked for, and what the answer means.

use super::net::{broken, without_secrets};
use super::{Answer, Ask, Digest, Refusal, may_pass, retry_after};
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
    TRANSFER_ENCODING,
};
use reqwest::{Response, StatusCode, Version};

/// The headers that ask for a part, or for the whole.
pub(super) fn headers(ask: &Ask) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // Lengths and ranges count the file's own bytes, so it must not be packed on the way.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(range) = range_header(ask).and_then(|range| HeaderValue::from_str(&range).ok()) {
        headers.insert(RANGE, range);
    }
    // A file that changed meanwhile is answered whole.
    if let Some(validator) = ask.validator.as_deref().and_then(|validator| HeaderValue::from_str(validator).ok()) {
        headers.insert(IF_RANGE, validator);
    }
    headers
}

/// What an answer holds. `says` puts a status that is no success into words.
pub(super) fn answer(
    response: Response,
    ask: &Ask,
    digest: Option<Digest>,
    says: impl Fn(StatusCode) -> String,
) -> Result<Answer, Refusal> {
    let shown = without_secrets(response.url().as_str());
    match response.status() {
        StatusCode::OK => whole(response, digest, &shown),
        StatusCode::PARTIAL_CONTENT if range_header(ask).is_some() => part(response, ask, digest, &shown),
        StatusCode::RANGE_NOT_SATISFIABLE => Err(Refusal::Restart(format!("{shown}: the file is shorter now"))),
        status if may_pass(status) => Err(Refusal::MayPass(says(status), retry_after(response.headers()))),
        status => Err(Refusal::Wrong(says(status))),
    }
}

fn whole(response: Response, digest: Option<Digest>, shown: &str) -> Result<Answer, Refusal> {
    if let Some(encoding) = text(response.headers(), &CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return Err(Refusal::Wrong(format!("{shown}: sent with `Content-Encoding: {encoding}`, though it was asked for as it is")));
    }
    let total = response.content_length();
    if total.is_none() && !end_is_told(&response) {
        return Err(Refusal::Wrong(format!("{shown}: the server tells neither the length nor the end of the file")));
    }
    let validator = validator(response.headers());
    Ok(Answer { offset: 0, total, validator, digest, bytes: stream(response, shown) })
}

fn part(response: Response, ask: &Ask, digest: Option<Digest>, shown: &str) -> Result<Answer, Refusal> {
    match text(response.headers(), &CONTENT_RANGE).and_then(content_range) {
        Some((from, total)) if from == ask.from => {
            let validator = ask.validator.clone().or_else(|| validator(response.headers()));
            Ok(Answer { offset: from, total, validator, digest, bytes: stream(response, shown) })
        }
        _ => Err(Refusal::Restart(format!("{shown}: the server sent another part than byte {} onward", ask.from))),
    }
}

fn stream(response: Response, shown: &str) -> futures::stream::BoxStream<'static, Result<bytes::Bytes, Refusal>> {
    let shown = shown.to_owned();
    response.bytes_stream().map_err(move |error| broken(&shown, error)).boxed()
}

/// `bytes=10-99` for what is asked; nothing for the whole file.
fn range_header(ask: &Ask) -> Option<String> {
    match (ask.from, ask.until) {
        (0, None) => None,
        (from, None) => Some(format!("bytes={from}-")),
        (from, Some(until)) => Some(format!("bytes={from}-{}", until.saturating_sub(1))),
    }
}

/// A strong `ETag`, else the date: a weak `ETag` allows other bytes under the same name.
fn validator(headers: &HeaderMap) -> Option<String> {
    let strong = text(headers, &ETAG).filter(|tag| !tag.starts_with("W/"));
    strong.or_else(|| text(headers, &LAST_MODIFIED)).map(str::to_owned)
}

/// `bytes 10-99/100` as (10, 100); the total may be `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.parse().ok()?, total.parse().ok()))
}

/// Whether a cut can be told from the end although no length is known.
fn end_is_told(response: &Response) -> bool {
    response.version() >= Version::HTTP_2 || text(response.headers(), &TRANSFER_ENCODING).is_some_and(|coding| coding.contains("chunked"))
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_and_read() {
        let asked = |from, until| range_header(&Ask { from, until, validator: None });
        assert_eq!((asked(0, None), asked(5, None)), (None, Some("bytes=5-".to_owned())));
        assert_eq!(asked(0, Some(10)), Some("bytes=0-9".to_owned()));
        assert_eq!(content_range("bytes 10-99/100"), Some((10, Some(100))));
        assert_eq!(content_range("bytes 10-99/*"), Some((10, None)));
        assert_eq!(content_range("items 1-2/3"), None);
    }

    #[test]
    fn a_weak_tag_is_no_base_to_go_on_from() {
        let weak = HeaderMap::from_iter([(ETAG, "W/\"a\"".parse().unwrap())]);
        assert_eq!(validator(&weak), None);
        let strong = HeaderMap::from_iter([(ETAG, "\"a\"".parse().unwrap())]);
        assert_eq!(validator(&strong).as_deref(), Some("\"a\""));
    }
}
