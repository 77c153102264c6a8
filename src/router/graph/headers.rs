//! Which headers of a request go along with the calls of its graph.
//!
//! KServe matches patterns against names in Go's canonical form (`X-Request-Id`), with case, anywhere in the name.
//! A pattern that is none is passed over.

use http::{HeaderMap, HeaderName};
use regex::Regex;

/// Headers that belong to one connection, or are about a body that is sent anew.
const NEVER: [&str; 11] = [
    "host",
    "connection",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "accept-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "inference-header-content-length",
];

/// The patterns of header names that go along.
#[derive(Debug, Clone, Default)]
pub(in crate::router) struct Propagation {
    /// As they were written.
    written: Vec<String>,
    patterns: Vec<Regex>,
}

impl Propagation {
    /// Reads the patterns; those that are none are told once.
    pub(in crate::router) fn new(patterns: &[String]) -> Self {
        let read = |pattern: &String| {
            let read = Regex::new(pattern);
            read.map_err(|error| tracing::warn!(pattern, %error, "a header to propagate is not a pattern, so it is passed over")).ok()
        };
        Self { written: patterns.to_vec(), patterns: patterns.iter().filter_map(read).collect() }
    }

    /// Whether it was made of these patterns.
    pub(in crate::router) fn is_of(&self, patterns: &[String]) -> bool {
        self.written == patterns
    }

    /// The headers that go along, each with all its values.
    pub(super) fn select(&self, headers: &HeaderMap) -> HeaderMap {
        let mut selected = HeaderMap::new();
        if self.patterns.is_empty() {
            return selected;
        }
        for name in headers.keys().filter(|name| self.fits(name)) {
            for value in headers.get_all(name) {
                selected.append(name.clone(), value.clone());
            }
        }
        selected
    }

    fn fits(&self, name: &HeaderName) -> bool {
        let canonical = canonical(name.as_str());
        !NEVER.contains(&name.as_str()) && self.patterns.iter().any(|pattern| pattern.is_match(&canonical))
    }
}

/// `x-request-id` as Go writes it: `X-Request-Id`.
fn canonical(name: &str) -> String {
    let part = |part: &str| match part.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    };
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn selected(patterns: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-request-id", "1"), ("x-tag", "a"), ("x-tag", "b"), ("authorization", "c"), ("content-length", "4"), ("host", "h")]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let selected = Propagation::new(&patterns).select(&headers);
        let mut found: Vec<String> = selected.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        found.sort();
        found
    }

    #[test]
    fn names_are_matched_in_gos_form_with_case_and_anywhere() {
        assert_eq!(selected(&[]), Vec::<String>::new());
        assert_eq!(selected(&["X-Request-Id"]), ["x-request-id=1"]);
        assert_eq!(selected(&["x-request-id"]), Vec::<String>::new());
        assert_eq!(selected(&["Tag"]), ["x-tag=a", "x-tag=b"]);
        assert_eq!(selected(&["^Auth", "[", "X-Tag"]), ["authorization=c", "x-tag=a", "x-tag=b"], "a pattern that is none is passed over");
        assert_eq!(selected(&[".*"]).len(), 4, "what belongs to the connection stays");
    }
}
