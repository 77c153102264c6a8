//! Every refusal a caller can meet, and its HTTP status and gRPC code: one table for both doors.

use crate::inference::InferenceError;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use std::borrow::Cow;
use std::time::Duration;
use tonic::{Code, Status};

/// Why a request is not answered, ready to be said over HTTP or gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: Code,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
}

/// The one body of all errors, as the Open Inference Protocol has it.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $code:ident;)*) => {
        impl Refusal {
            $($(#[$doc])*
            pub(crate) fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                Self { status: StatusCode::$status, code: Code::$code, message: message.into(), retry_after: None }
            })*
        }
    };
}

refusals! {
    /// The request is wrong.
    bad_request = BAD_REQUEST, InvalidArgument;
    /// No key, or a wrong one.
    unauthorized = UNAUTHORIZED, Unauthenticated;
    /// A host or an origin that may not ask.
    forbidden = FORBIDDEN, PermissionDenied;
    /// Nothing is there.
    not_found = NOT_FOUND, NotFound;
    /// The path is right, the verb is not.
    method_not_allowed = METHOD_NOT_ALLOWED, Unimplemented;
    /// The client took too long to send its request.
    request_timeout = REQUEST_TIMEOUT, DeadlineExceeded;
    /// A body above the bound.
    too_large = PAYLOAD_TOO_LARGE, ResourceExhausted;
    /// The body can be read, and is not what it should be.
    unprocessable = UNPROCESSABLE_ENTITY, InvalidArgument;
    /// A content type or encoding nobody reads here.
    unsupported_media_type = UNSUPPORTED_MEDIA_TYPE, InvalidArgument;
    /// Headers above the bound.
    headers_too_large = REQUEST_HEADER_FIELDS_TOO_LARGE, ResourceExhausted;
    /// Known, but not done here.
    not_implemented = NOT_IMPLEMENTED, Unimplemented;
    /// Not now.
    unavailable = SERVICE_UNAVAILABLE, Unavailable;
    /// The deadline passed.
    gateway_timeout = GATEWAY_TIMEOUT, DeadlineExceeded;
    /// A mistake of ours, or of the engine.
    internal = INTERNAL_SERVER_ERROR, Internal;
}

impl Refusal {
    /// Too much is going on; try again after a while.
    pub(crate) fn overloaded(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, Code::ResourceExhausted);
        Self { status, code, message: message.into(), retry_after: Some(retry_after) }
    }

    /// The same in the words of protocols that have a status of its own for it.
    pub(crate) fn too_many_requests(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted);
        Self { status, code, message: message.into(), retry_after: Some(retry_after) }
    }

    /// The HTTP status.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The gRPC code.
    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    /// What the caller reads.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whole seconds after which trying again makes sense.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        // Whole seconds, at least one: 0 would invite a hot loop.
        self.retry_after.map(|wait| (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
    }
}

impl From<InferenceError> for Refusal {
    fn from(error: InferenceError) -> Self {
        let message = error.to_string();
        match error {
            InferenceError::InvalidInput(_) => Self::bad_request(message),
            InferenceError::ModelNotFound(_) => Self::not_found(message),
            InferenceError::ModelNotReady { .. } => Self::unavailable(message),
            InferenceError::NotImplemented(_) => Self::not_implemented(message),
            InferenceError::Overloaded { retry_after, .. } => Self::overloaded(message, retry_after),
            InferenceError::DeadlineExceeded { .. } => Self::gateway_timeout(message),
            InferenceError::TooLarge(_) => Self::too_large(message),
            InferenceError::Engine(_) | InferenceError::Internal(_) => Self::internal(message),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &ErrorBody { error: &self.message });
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let seconds = refusal.retry_after_s();
        let mut status = Self::new(refusal.code, refusal.message);
        if let Some(seconds) = seconds {
            status.metadata_mut().insert("retry-after", seconds.into());
        }
        status
    }
}

/// A JSON answer of a small value.
pub(crate) fn json_response(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("a value of ours has string keys and no failing parts because it is plain data");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a path nobody serves.
pub(crate) async fn no_such_path(uri: http::Uri) -> Refusal {
    let path: String = uri.path().chars().take(128).collect();
    Refusal::not_found(format!("no such path: `{path}`"))
}

/// The answer to a verb the path does not take; the router adds the `Allow` header.
pub(crate) async fn no_such_method(method: http::Method) -> Refusal {
    let method: String = method.as_str().chars().take(32).collect();
    Refusal::method_not_allowed(format!("method not allowed here: {method}"))
}

/// The same, where the router cannot know the verbs the path does take.
pub(crate) fn only(allowed: &'static str) -> Response {
    let mut response = Refusal::method_not_allowed(format!("method not allowed here; allowed: {allowed}")).into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of error with the status and the code its reader can act on.
    #[test]
    fn each_kind_of_error_has_one_status_and_one_code() {
        let (model, wait) = (|| "m".to_owned(), Duration::from_millis(300));
        let table = [
            (InferenceError::InvalidInput(model()), 400, Code::InvalidArgument),
            (InferenceError::ModelNotFound(model()), 404, Code::NotFound),
            (InferenceError::ModelNotReady { name: model(), reason: String::new() }, 503, Code::Unavailable),
            (InferenceError::NotImplemented(model()), 501, Code::Unimplemented),
            (InferenceError::Overloaded { model: model(), queued: 3, retry_after: wait }, 503, Code::ResourceExhausted),
            (InferenceError::DeadlineExceeded { model: model(), timeout: wait }, 504, Code::DeadlineExceeded),
            (InferenceError::TooLarge(model()), 413, Code::ResourceExhausted),
            (InferenceError::Engine(model()), 500, Code::Internal),
            (InferenceError::Internal(model()), 500, Code::Internal),
        ];
        for (error, status, code) in table {
            assert_eq!(error.status(), status, "both sides of the doors agree");
            let refusal = Refusal::from(error);
            assert_eq!(refusal.clone().into_response().status().as_u16(), status);
            assert_eq!(Status::from(refusal).code(), code);
        }
    }

    #[test]
    fn an_overloaded_model_says_when_to_try_again_in_whole_seconds() {
        for (wait, seconds) in [(0, "1"), (300, "1"), (1000, "1"), (1001, "2")] {
            let refusal = Refusal::overloaded("busy", Duration::from_millis(wait));
            assert_eq!(refusal.clone().into_response().headers()[RETRY_AFTER], seconds);
            assert_eq!(Status::from(refusal).metadata().get("retry-after").unwrap(), seconds);
        }
    }
}
