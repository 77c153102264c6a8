//! What OpenAI's clients read of a refusal: `{"error":{"message","type","param","code"}}`.
//!
//! A model that is not there or does not serve is told as KServe's server tells it: `{"error":"Model with name ..."}`.
//! Source: reference 4.9.

use crate::codec::fields::Mistake;
use crate::inference::InferenceError;
use crate::protocol::error::{Refusal, json_response};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::RETRY_AFTER;
use serde::Serialize;

/// A refusal in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    refusal: Refusal,
    /// The field at fault.
    param: Option<String>,
}

/// OpenAI's body of an error.
#[derive(Debug, Serialize)]
pub(crate) struct Envelope<'a> {
    error: Inner<'a>,
}

#[derive(Debug, Serialize)]
struct Inner<'a> {
    message: &'a str,
    r#type: &'static str,
    param: &'a str,
    /// The status as a string, as KServe writes it.
    code: String,
}

impl Problem {
    /// The request asks for what this model does not do.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Refusal::bad_request(message.into()).into()
    }

    /// The same, with the field at fault.
    pub(crate) fn in_field(field: &str, message: impl AsRef<str>) -> Self {
        let refusal = Refusal::bad_request(format!("`{field}`: {}", message.as_ref()));
        Self { refusal, param: Some(field.to_owned()) }
    }

    /// What the metrics call it.
    pub(crate) const fn refusal(&self) -> &Refusal {
        &self.refusal
    }

    /// The body, also as one message of a stream.
    pub(crate) fn envelope(&self) -> Envelope<'_> {
        let status = self.refusal.status();
        let (message, param, code) = (self.refusal.message(), self.param.as_deref().unwrap_or_default(), status.as_u16().to_string());
        Envelope { error: Inner { message, r#type: kind(status), param, code } }
    }

    /// Whether KServe's server answers before it looks at OpenAI's form.
    fn is_kserves(&self) -> bool {
        let status = self.refusal.status();
        status == StatusCode::NOT_FOUND || (status == StatusCode::SERVICE_UNAVAILABLE && self.refusal.retry_after_s().is_none())
    }
}

/// vLLM's and OpenAI's names.
const fn kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        404 => "NotFoundError",
        422 => "UnprocessableEntityError",
        429 => "RateLimitError",
        501 => "NotImplementedError",
        503 => "ServiceUnavailableError",
        408 | 504 => "TimeoutError",
        400 | 405..=407 | 409..=421 => "BadRequestError",
        _ => "InternalServerError",
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, param: None }
    }
}

impl From<InferenceError> for Problem {
    fn from(error: InferenceError) -> Self {
        Refusal::from(error).into()
    }
}

impl From<Mistake> for Problem {
    fn from(mistake: Mistake) -> Self {
        let refusal = Refusal::unprocessable(mistake.to_string());
        Self { refusal, param: Some(mistake.field).filter(|field| !field.is_empty()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.is_kserves() {
            return self.refusal.into_response();
        }
        let mut response = json_response(self.refusal.status(), &self.envelope());
        if let Some(seconds) = self.refusal.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::support::text;
    use std::time::Duration;

    #[tokio::test]
    async fn errors_have_openais_envelope_and_a_missing_model_kserves_words() {
        let said = |problem: Problem| async { text(problem.into_response()).await };
        let unknown = InferenceError::ModelNotFound("m".to_owned());
        assert_eq!(said(unknown.into()).await, (404, r#"{"error":"Model with name m does not exist."}"#.to_owned()));
        let not_ready = InferenceError::ModelNotReady { name: "m".to_owned(), reason: String::new() };
        assert_eq!(said(not_ready.into()).await, (503, r#"{"error":"Model with name m is not ready."}"#.to_owned()));
        let wrong = Problem::bad_request("Model m does not support Completions API");
        let body = r#"{"error":{"message":"Model m does not support Completions API","type":"BadRequestError","param":"","code":"400"}}"#;
        assert_eq!(said(wrong).await, (400, body.to_owned()));
        let mistake = Problem::from(Mistake::new("n", "must be from 1 to 4, found 9"));
        let body =
            r#"{"error":{"message":"`n`: must be from 1 to 4, found 9","type":"UnprocessableEntityError","param":"n","code":"422"}}"#;
        assert_eq!(said(mistake).await, (422, body.to_owned()));
    }

    #[test]
    fn a_full_queue_says_when_to_try_again() {
        let full = InferenceError::Overloaded { model: "m".to_owned(), queued: 3, retry_after: Duration::from_secs(2) };
        let response = Problem::from(full).into_response();
        assert_eq!((response.status().as_u16(), &response.headers()[RETRY_AFTER]), (503, &http::HeaderValue::from_static("2")));
    }
}
