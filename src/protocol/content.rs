//! What a request's body is, by its headers: JSON, or JSON with tensors behind it.

use super::error::Refusal;
use super::exchange::Wire;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};

/// Bytes of the JSON part of a body with binary tensors, both ways.
pub(crate) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// JSON as a whole.
    Json,
    /// So many bytes of JSON, then tensors.
    Binary {
        /// Bytes of the JSON part.
        json_length: usize,
    },
}

/// A content type, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Missing,
    Json,
    Bytes,
}

impl Content {
    /// Reads the headers of a v1 or v2 inference request.
    ///
    /// Without a content type a body is JSON, and so are `application/json` with parameters and
    /// `application/...+json`. In v2 a body with the header `Inference-Header-Content-Length` has tensors
    /// behind its JSON.
    ///
    /// # Errors
    /// 415 for any other content type; 400 for a header that is no length, or that is missing.
    pub(crate) fn read(headers: &HeaderMap, wire: Wire) -> Result<Self, Refusal> {
        let kind = Kind::read(headers)?;
        if wire == Wire::V1 {
            return Ok(Self::Json);
        }
        match (json_length(headers)?, kind) {
            (Some(json_length), _) => Ok(Self::Binary { json_length }),
            (None, Kind::Json | Kind::Missing) => Ok(Self::Json),
            (None, Kind::Bytes) => {
                Err(Refusal::bad_request("received byte inputs, but the 'inference-header-content-length' header is missing"))
            }
        }
    }

    /// How many bytes lie before the first tensor; 0 when there is none.
    pub(crate) const fn tensors_at(self) -> usize {
        match self {
            Self::Json => 0,
            Self::Binary { json_length } => json_length,
        }
    }
}

impl Kind {
    fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Self::Missing) };
        let text = value.to_str().unwrap_or_default();
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let strange_charset = parts.any(|part| charset(part).is_some_and(|charset| !charset.eq_ignore_ascii_case("utf-8")));
        match () {
            () if strange_charset => Err(unsupported(text)),
            () if is("application/octet-stream") => Ok(Self::Bytes),
            () if is("application/json") || (is_json_dialect(name) && !is("application/cloudevents+json")) => Ok(Self::Json),
            () => Err(unsupported(text)),
        }
    }
}

fn charset(parameter: &str) -> Option<&str> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
}

fn is_json_dialect(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("application/") && name.ends_with("+json")
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = || Refusal::bad_request("the `Inference-Header-Content-Length` header is no number of bytes");
    let digits = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).ok_or_else(wrong)?;
    if values.next().is_some() {
        return Err(Refusal::bad_request("more than one `Inference-Header-Content-Length` header"));
    }
    digits.parse().map(Some).map_err(|_| wrong())
}

fn unsupported(kind: &str) -> Refusal {
    let kind: String = kind.chars().take(128).collect();
    Refusal::unsupported_media_type(format!("unsupported content type: `{kind}`; hint: send `Content-Type: application/json`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(wire: Wire, headers: &[(&'static str, &str)]) -> Result<Content, u16> {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        Content::read(&headers.collect(), wire).map_err(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn json_is_taken_with_a_charset_and_without_any_content_type() {
        for headers in [&[][..], &[("content-type", "application/json")], &[("content-type", "Application/JSON; charset=UTF-8")]] {
            assert_eq!([read(Wire::V1, headers), read(Wire::V2, headers)], [Ok(Content::Json), Ok(Content::Json)]);
        }
        assert_eq!(read(Wire::V2, &[("content-type", "application/vnd.x+json")]), Ok(Content::Json));
        assert_eq!(read(Wire::V1, &[("content-type", "application/octet-stream")]), Ok(Content::Json));
    }

    #[test]
    fn forms_and_plain_text_of_web_pages_are_415() {
        for kind in
            ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16", ""]
        {
            assert_eq!(read(Wire::V1, &[("content-type", kind)]), Err(415), "{kind}");
            assert_eq!(read(Wire::V2, &[("content-type", kind)]), Err(415), "{kind}");
        }
    }

    #[test]
    fn the_header_length_makes_a_body_binary_and_nonsense_in_it_is_400() {
        assert_eq!(read(Wire::V2, &[("inference-header-content-length", "12")]), Ok(Content::Binary { json_length: 12 }));
        for value in ["-1", "+1", "1.0", "", "ten", "0x10", "18446744073709551616", "1 1"] {
            assert_eq!(read(Wire::V2, &[("inference-header-content-length", value)]), Err(400), "{value}");
        }
        assert_eq!(read(Wire::V2, &[("content-type", "application/octet-stream")]), Err(400));
    }
}
