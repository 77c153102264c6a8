//! What an object store's refusal means, in words that say what to do.

use super::super::net::broken_by;
use super::super::{Refusal, may_pass};
use super::Kind;
use super::connect::Answered;
use object_store::Error as StoreError;
use object_store::client::HttpError;
use reqwest::StatusCode;
use std::error::Error;

/// Sorts an error by what to do.
pub(super) fn refusal(uri: &str, kind: Kind, signed: bool, error: &StoreError) -> Refusal {
    let Some(answered) = find::<Answered>(error) else {
        // What lies around it tells times, which differ with each try.
        let inner = find::<HttpError>(error).and_then(|inner| inner.source());
        return broken_by(uri, inner.unwrap_or(error), is_final(error));
    };
    let (status, body) = (answered.status, answered.body.as_str());
    match status {
        StatusCode::PRECONDITION_FAILED => return Refusal::Restart(format!("{uri}: the object changed meanwhile")),
        StatusCode::RANGE_NOT_SATISFIABLE => return Refusal::Restart(format!("{uri}: the object is shorter now")),
        _ => {}
    }
    let message = format!("{uri}: {}", says(kind, signed, status, body));
    let slow_down = matches!(code(body), Some("SlowDown" | "RequestTimeout" | "ServerBusy"));
    if may_pass(status) || slow_down { Refusal::MayPass(message, answered.retry_after) } else { Refusal::Wrong(message) }
}

fn find<T: Error + 'static>(error: &StoreError) -> Option<&T> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref::<T>() {
            return Some(found);
        }
        cause = inner.source();
    }
    None
}

/// Whether it is about the request itself, and not about the way to the store.
const fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::InvalidPath { .. } | StoreError::NotSupported { .. } | StoreError::UnknownConfigurationKey { .. })
}

/// The code in an answer's XML, e.g. `NoSuchBucket`.
fn code(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    (code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(code)
}

fn says(kind: Kind, signed: bool, status: StatusCode, body: &str) -> String {
    let code = code(body);
    let hint = hint(kind, signed, status, code.unwrap_or_default());
    let code = code.map_or_else(String::new, |code| format!(" ({code})"));
    format!("the store answers {status}{code}{hint}")
}

fn hint(kind: Kind, signed: bool, status: StatusCode, code: &str) -> String {
    let hint = match (code, status) {
        ("SignatureDoesNotMatch" | "AuthenticationFailed", _) => "the secret key does not go with the key's name",
        ("InvalidAccessKeyId", _) => "the store does not know this access key",
        ("ExpiredToken" | "TokenRefreshRequired", _) => "the session token is over; fetch a new one",
        ("RequestTimeTooSkewed", _) => "this machine's clock is wrong",
        ("NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName", _) => "there is no such bucket or container",
        ("AuthorizationHeaderMalformed" | "PermanentRedirect", _) | (_, StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT) => {
            "the bucket is in another region: annotate the Secret with `serving.kserve.io/s3-region`, or set `AWS_DEFAULT_REGION`"
        }
        (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) if signed => "the credentials may not read it",
        (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => return no_credentials(kind),
        (_, StatusCode::NOT_FOUND) if kind == Kind::Azure && !signed => return no_credentials(kind),
        (_, StatusCode::NOT_FOUND) => "there is no such bucket or object",
        _ => return String::new(),
    };
    format!("\nhint: {hint}")
}

fn no_credentials(kind: Kind) -> String {
    let needs = match kind {
        Kind::S3 => "`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`",
        Kind::Gs => "`gcloud-application-credentials.json`",
        Kind::Azure => "`AZURE_STORAGE_ACCESS_KEY`, or `AZURE_CLIENT_ID`, `AZURE_TENANT_ID` and `AZURE_CLIENT_SECRET`",
    };
    format!("\nhint: it was asked for without credentials; a Secret with {needs} opens it (docs/storage.md#credentials)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        let xml = |code: &str| format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
        for (signed, status, code, told) in [
            (true, 403, "SignatureDoesNotMatch", "the secret key does not go with"),
            (true, 403, "InvalidAccessKeyId", "does not know this access key"),
            (true, 403, "AccessDenied", "may not read it"),
            (false, 403, "AccessDenied", "without credentials; a Secret with `AWS_ACCESS_KEY_ID`"),
            (true, 404, "NoSuchBucket", "no such bucket"),
            (true, 400, "AuthorizationHeaderMalformed", "another region"),
            (true, 400, "ExpiredToken", "fetch a new one"),
        ] {
            let said = says(Kind::S3, signed, StatusCode::from_u16(status).unwrap(), &xml(code));
            assert!(said.contains(code) && said.contains(told), "{said}");
        }
        assert_eq!(code("<Code>a b</Code>"), None);
    }
}
