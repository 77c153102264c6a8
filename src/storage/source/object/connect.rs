//! How `object_store` reaches other machines: through this house's clients, with its rules for addresses.

use super::super::net::{Net, RefusedAddress, Tls};
use super::super::{Refusal, retry_after};
use crate::resolve::storage_env::StorageEnv;
use crate::storage::StorageError;
use http_body_util::{BodyExt, Limited};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use object_store::{ClientOptions, RetryConfig};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Bytes of an answer that refuses.
const ANSWER_BYTES_MAX: usize = 64 << 10;

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
            let headers = Headers(response.headers().clone());
            response.extensions_mut().insert(headers);
            Ok(response)
        })
    }
}

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
