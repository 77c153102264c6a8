//! A record as a CloudEvent 1.0 in binary mode: the headers that KServe's agent sends.

use super::record::Record;
use crate::resolve::logging::LoggingSpec;
use crate::store::rfc3339;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// All headers of the event; `sent` is now.
///
/// KServe's agent names its pod as the source; there is none here, so the component stands for it. The extension
/// `endpoint` is empty in KServe and so left out, which CloudEvents allows.
pub(super) fn headers(spec: &LoggingSpec, record: &Record, sent: SystemTime) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    add("ce-specversion", "1.0");
    add("ce-id", &record.about.id);
    add("ce-type", record.side.event_type());
    add("ce-source", &source(spec));
    add("ce-time", &rfc3339_nanos(record.at));
    add("ce-inferenceservicename", &spec.service);
    add("ce-namespace", &spec.namespace);
    add("ce-component", spec.component);
    add("ce-metadata", &ascii_json(&record.about.metadata));
    if !spec.annotations.is_empty() {
        add("ce-annotations", &ascii_json(&spec.annotations));
    }
    add("ce-recordedtime", &rfc3339_nanos(sent));
    if let Some(content_type) = &record.about.content_type {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
    headers
}

/// Where records say that they come from.
pub(super) fn source(spec: &LoggingSpec) -> String {
    format!("{}-{}", spec.service, spec.component)
}

/// JSON whose every character may stand in a header.
fn ascii_json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("maps of texts have a JSON form because their keys are texts");
    let mut ascii = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii() && !letter.is_ascii_control() {
            ascii.push(letter);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                write!(ascii, "\\u{unit:04x}").expect("a text takes more text because it grows");
            }
        }
    }
    ascii
}

/// A moment as Go's `RFC3339Nano` writes it: UTC, no zeros at the end of the fraction.
fn rfc3339_nanos(moment: SystemTime) -> String {
    let nanos = moment.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let seconds = rfc3339(moment);
    if nanos == 0 {
        return seconds;
    }
    format!("{}.{}Z", seconds.trim_end_matches('Z'), format!("{nanos:09}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments_have_the_fraction_they_need() {
        for (nanos, text) in [(0, "1970-01-01T00:00:01Z"), (500_000_000, "1970-01-01T00:00:01.5Z"), (7, "1970-01-01T00:00:01.000000007Z")] {
            assert_eq!(rfc3339_nanos(UNIX_EPOCH + Duration::new(1, nanos)), text);
        }
    }

    #[test]
    fn what_a_header_cannot_hold_is_escaped() {
        assert_eq!(ascii_json(&["\u{e4} \u{1f600}\n"]), r#"["\u00e4 \ud83d\ude00\n"]"#);
    }
}
