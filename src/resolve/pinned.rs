//! The hash that a service's model must have, where its annotation pins one: whatever its source has later, nothing else is served.

use super::ResolveError;
use crate::api::metadata::ObjectMeta;
use crate::api::status::FailureReason;

/// The SHA-256 of the one file that a model is fetched as, 64 hexadecimal digits.
pub(super) const MODEL_SHA256: &str = "kserved.io/model-sha256";

/// What is pinned, if something is.
///
/// # Errors
/// An annotation that is no SHA-256.
pub(super) fn pinned(metadata: &ObjectMeta) -> Result<Option<[u8; 32]>, ResolveError> {
    let Some(text) = metadata.annotation(MODEL_SHA256) else { return Ok(None) };
    let wrong = || {
        let message = format!("annotation `{MODEL_SHA256}` takes 64 hexadecimal digits, as `sha256sum` prints them, found `{text}`");
        ResolveError::new(FailureReason::InvalidPredictorSpec, "metadata.annotations", message)
    };
    bytes_of(text.trim()).map(Some).ok_or_else(wrong)
}

fn bytes_of(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_64_digits_and_nothing_else() {
        let of = |text: &str| {
            let mut metadata = ObjectMeta::default();
            metadata.annotations.insert(MODEL_SHA256.to_owned(), text.to_owned());
            pinned(&metadata).map_err(|error| error.to_string())
        };
        assert_eq!(of(&"0aF1".repeat(16)), Ok(Some([0x0a, 0xf1].repeat(16).try_into().unwrap())));
        for text in ["", "abc", &"+1".repeat(32), &"é".repeat(32)] {
            assert!(of(text).unwrap_err().contains("takes 64 hexadecimal digits"), "{text}");
        }
        assert_eq!(pinned(&ObjectMeta::default()), Ok(None));
    }
}
