//! What is checked of ConfigMaps and Secrets.

use super::Violation;
use crate::api::core::{ConfigMap, Hidden, Secret};
use crate::api::problem::Severity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Remarks on a ConfigMap that is not KServe's own.
pub(super) fn config_map(map: &ConfigMap) -> Vec<Violation> {
    let mut found: Vec<Violation> = map.data.keys().chain(map.binary_data.keys()).filter_map(|key| bad_key("data", key)).collect();
    if map.settings.is_none() {
        let message = "kept; only certificates are read from it (those of request loggers and of model stores)";
        found.push(Violation { severity: Severity::Ignored, ..Violation::error("metadata.name", message) });
    }
    found
}

/// Values must be what an API server takes; none of them is shown.
pub(super) fn secret(secret: &Secret) -> Vec<Violation> {
    let not_base64 = |(key, value): (&String, &Hidden)| {
        let text: String = value.reveal().chars().filter(|letter| !matches!(letter, '\n' | '\r')).collect();
        let wrong = Violation::error(format!("data.{key}"), "not base64").with_hint("write plain text below `stringData`");
        STANDARD.decode(text).is_err().then_some(wrong)
    };
    let mut found: Vec<Violation> = secret.data.iter().filter_map(not_base64).collect();
    found.extend(secret.data.keys().filter_map(|key| bad_key("data", key)));
    found.extend(secret.string_data.keys().filter_map(|key| bad_key("stringData", key)));
    found
}

/// Kubernetes' rule for keys of ConfigMaps and Secrets.
fn bad_key(field: &str, key: &str) -> Option<Violation> {
    let good = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let fine = !key.is_empty() && key.len() <= 253 && key != "." && !key.starts_with("..") && key.chars().all(good);
    (!fine).then(|| Violation::error(format!("{field}.{key}"), "a key consists of letters, digits, `-`, `_` and `.`"))
}
