//! Azure's Shared Key: a signature of each request by the account's key.
//!
//! Source: Microsoft's "Authorize with Shared Key", the form of versions from 2015-02-21 on.

use super::super::net::Request;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::time::SystemTime;

/// Headers whose values are signed in this order, empty where they are absent.
const SIGNED: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];
const DATE: HeaderName = HeaderName::from_static("x-ms-date");

/// An account and its key.
pub(super) struct SharedKey {
    account: String,
    key: hmac::Key,
}

impl SharedKey {
    /// The key as Azure shows it, in base64; nothing where it is none.
    pub(super) fn new(account: &str, key: &str) -> Option<Self> {
        let key = STANDARD.decode(key.trim()).ok()?;
        Some(Self { account: account.to_owned(), key: hmac::Key::new(HMAC_SHA256, &key) })
    }

    /// Signs a request that is sent at that time. Nothing may be added to it then.
    pub(super) fn sign(&self, request: &mut Request, now: SystemTime) {
        let date = httpdate::fmt_http_date(now);
        request.headers.insert(DATE, HeaderValue::try_from(date).expect("a date is the value of a header because it is ASCII"));
        let signature = hmac::sign(&self.key, self.text_of(request).as_bytes());
        let value = format!("SharedKey {}:{}", self.account, STANDARD.encode(signature));
        // An account that is no header's value signs nothing, and the store says so.
        if let Ok(mut value) = HeaderValue::try_from(value) {
            value.set_sensitive(true);
            request.secrets.insert(AUTHORIZATION, value);
        }
    }

    /// What is signed.
    fn text_of(&self, request: &Request) -> String {
        let value = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut text = format!("{}\n", request.method);
        for name in SIGNED {
            text.extend([value(name), "\n"]);
        }
        for name in own_headers(&request.headers) {
            text.extend([name, ":", value(name), "\n"]);
        }
        text.extend(["/", &self.account, request.url.path()]);
        let mut query: Vec<(String, String)> =
            request.url.query_pairs().map(|(name, value)| (name.to_lowercase(), value.into_owned())).collect();
        query.sort();
        for (name, value) in &query {
            text.extend(["\n", name, ":", value]);
        }
        text
    }
}

fn own_headers(headers: &HeaderMap) -> Vec<&str> {
    let mut own: Vec<&str> = headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("x-ms-")).collect();
    own.sort_unstable();
    own
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey").field("account", &self.account).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    #[test]
    fn what_is_signed_is_in_azures_order() {
        let key = SharedKey::new("acct", "c2VzYW1l").unwrap();
        let mut request =
            Request::get(Url::parse("https://acct.file.core.windows.net/s/a%20b?restype=directory&comp=list&Marker=x%2Fy").unwrap());
        request.headers.insert("range", HeaderValue::from_static("bytes=5-9"));
        request.headers.insert("x-ms-version", HeaderValue::from_static("2022-11-02"));
        key.sign(&mut request, SystemTime::UNIX_EPOCH);
        assert_eq!(
            key.text_of(&request),
            "GET\n\n\n\n\n\n\n\n\n\n\nbytes=5-9\nx-ms-date:Thu, 01 Jan 1970 00:00:00 GMT\nx-ms-version:2022-11-02\n/acct/s/a%20b\ncomp:list\nmarker:x/y\nrestype:directory"
        );
        let sent = request.secrets.get(AUTHORIZATION).unwrap();
        assert!(sent.is_sensitive() && sent.to_str().unwrap().starts_with("SharedKey acct:"));
        assert!(!format!("{key:?} {request:?}").contains("c2VzYW1l"));
    }
}
