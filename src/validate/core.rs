//! What is checked of ConfigMaps, Secrets and ServiceAccounts, and what they are for on this machine.

use super::Violation;
use crate::api::core::{ConfigMap, Hidden, Secret, ServiceAccount};
use crate::api::problem::Severity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Remarks on a ConfigMap that is not KServe's own.
pub(super) fn config_map(map: &ConfigMap) -> Vec<Violation> {
    let mut found: Vec<Violation> = map.data.keys().chain(map.binary_data.keys()).filter_map(|key| bad_key("data", key)).collect();
    if map.settings.is_none() {
        let message = "kept; only certificates of request loggers are read from it (`caBundle` in `inferenceservice-config`)";
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
    found.push(later("a Secret that opens a model store"));
    found
}

/// Its secrets open stores, which are not served yet.
pub(super) fn service_account(_: &ServiceAccount) -> Vec<Violation> {
    vec![later("a ServiceAccount whose secrets open a model store")]
}

fn later(what: &str) -> Violation {
    Violation {
        severity: Severity::NotYetServed,
        ..Violation::error("metadata.name", format!("{what} is not yet served: it is kept, and not used"))
    }
}

/// Kubernetes' rule for keys of ConfigMaps and Secrets.
fn bad_key(field: &str, key: &str) -> Option<Violation> {
    let good = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let fine = !key.is_empty() && key.len() <= 253 && key != "." && !key.starts_with("..") && key.chars().all(good);
    (!fine).then(|| Violation::error(format!("{field}.{key}"), "a key consists of letters, digits, `-`, `_` and `.`"))
}
