//! How `object_store` reaches other machines: through this house's clients, with its rules for addresses.

use super::super::net::{Net, RefusedAddress, Tls};
use super::super::{Refusal, retry_after};
use crate::resolve::storage_env::StorageEnv;
use crate::storage::StorageError;
use http_body_util::{BodyExt, Limited};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, RetryConfig};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Bytes of an answer that refuses.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Bytes of one page of a listing; a thousand keys of a kilobyte fit.
const LISTING_BYTES_MAX: usize = 8 << 20;

/// The headers of an answer, for those who need more than `object_store` hands on.
#[derive(Debug, Clone)]
pub(super) struct Headers(pub(super) HeaderMap);

/// Makes clients of this house.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) net: Arc<Net>,
    pub(super) tls: Tls,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Connector {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Answering<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let wrong = |message: String| HttpError::new(HttpErrorKind::Unknown, RefusedAddress::new(message));
            let url = Url::parse(&request.uri().to_string()).map_err(|error| wrong(error.to_string()))?;
            let client = self.net.client_for(&url, &self.tls).map_err(|refusal| match refusal {
                Refusal::Wrong(message) | Refusal::MayPass(message, _) | Refusal::Restart(message) => wrong(message),
            })?;
            let mut response = client.call(request).await?;
            if !response.status().is_success() {
                return Err(refused(response).await);
            }
            if url.query_pairs().any(|(name, _)| name == "list-type") {
                response = without_nameless(response).await?;
            }
            let headers = Headers(response.headers().clone());
            response.extensions_mut().insert(headers);
            Ok(response)
        })
    }
}

/// A listing of S3 without the keys that `object_store` cannot ask for (`a//b`, `/a`, `a/../b`): one of them would fail it
/// whole. They are told in the log.
async fn without_nameless(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let collected = Limited::new(body, LISTING_BYTES_MAX).collect().await;
    let bytes = collected.map_err(|error| HttpError::new(HttpErrorKind::Decode, Chained(error)))?.to_bytes();
    let listing = String::from_utf8_lossy(&bytes);
    let (kept, left_out) = split_listing(&listing);
    if !left_out.is_empty() {
        tracing::warn!(keys = left_out.join(", "), "objects are left out: their keys have an empty part, `.` or `..`");
    }
    Ok(HttpResponse::from_parts(parts, kept.into()))
}

/// The listing without such keys, and these.
fn split_listing(listing: &str) -> (String, Vec<&str>) {
    const BEGIN: &str = "<Contents>";
    let (mut kept, mut left_out) = (String::with_capacity(listing.len()), Vec::new());
    let mut pieces = listing.split(BEGIN);
    kept.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let key = piece.split_once("<Key>").and_then(|(_, rest)| rest.split_once("</Key>")).map_or("", |(key, _)| key);
        if !key.starts_with('/') && ObjectPath::parse(key).is_ok() {
            kept.push_str(BEGIN);
            kept.push_str(piece);
        } else {
            left_out.push(key);
            kept.push_str(piece.split_once("</Contents>").map_or("", |(_, rest)| rest));
        }
    }
    (kept, left_out)
}

/// An error of reading an answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot read a listing: {0}")]
struct Chained(Box<dyn std::error::Error + Send + Sync>);

/// What a store answered that did not give what was asked for; `object_store`'s own error for it cannot be told apart.
#[derive(Debug, thiserror::Error)]
#[error("{status}")]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    /// The beginning of the answer's text.
    pub(super) body: String,
    pub(super) retry_after: Option<Duration>,
}

async fn refused(response: HttpResponse) -> HttpError {
    let (parts, body) = response.into_parts();
    let body = match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(collected) => String::from_utf8_lossy(&collected.to_bytes()).into_owned(),
        // The status says enough.
        Err(_) => String::new(),
    };
    let answered = Answered { status: parts.status, body, retry_after: retry_after(&parts.headers) };
    HttpError::new(HttpErrorKind::Unknown, answered)
}

/// No tries of its own: a download counts tries by its progress.
pub(super) const fn no_retries(config: &mut RetryConfig) {
    config.max_retries = 0;
    config.retry_timeout = Duration::from_secs(0);
}

/// How certificates are handled, by KServe's variables.
///
/// # Errors
/// `Wrong`: the CA bundle cannot be read.
pub(in super::super) fn settings_of(env: &StorageEnv) -> Result<Tls, StorageError> {
    let off = |value: &str| matches!(value.to_ascii_lowercase().as_str(), "0" | "false");
    let ca_pem = match (env.get("AWS_CA_BUNDLE_PEM"), env.get("AWS_CA_BUNDLE")) {
        (Some(pem), _) => Some(pem.to_owned()),
        (None, Some(path)) => Some(
            std::fs::read_to_string(path).map_err(|error| StorageError::Wrong(format!("cannot read the CA bundle: `{path}`: {error}")))?,
        ),
        (None, None) => None,
    };
    Ok(Tls { skip_verify: env.get("S3_VERIFY_SSL").is_some_and(off), ca_pem, identity_pem: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_cannot_be_asked_for_are_left_out_and_the_rest_stays() {
        let entry = |key: &str| format!("<Contents><Key>{key}</Key><Size>3</Size></Contents>");
        let page = |keys: &[&str]| format!("<List>{}<Prefix>m</Prefix></List>", keys.iter().map(|key| entry(key)).collect::<String>());
        let listing = page(&["m/a", "m//b", "/m/c", "m/../d", "m/", "m/e &amp; f"]);
        let (kept, left_out) = split_listing(&listing);
        assert_eq!(kept, page(&["m/a", "m/", "m/e &amp; f"]));
        assert_eq!(left_out, ["m//b", "/m/c", "m/../d"]);
    }
}
