//! Rules for where a model comes from.

use super::Violation;
use crate::api::inference_service::{ModelSpec, PredictorSpec, StorageUriSpec};

const MOUNT_PATH: &str = "/mnt/models";
/// Letters a mount path may have.
const MOUNT_PATH_MAX: usize = 255;

/// Checks `storageUri`, `storage` and `storageUris` of a predictor at `field`.
pub(super) fn check(field: &str, predictor: &PredictorSpec, found: &mut Vec<Violation>) {
    if let Some(model) = &predictor.model {
        one_source(&format!("{field}.model"), model, found);
        if !predictor.storage_uris.is_empty() && model.storage_uri.is_some() {
            found.push(Violation::error(format!("{field}.storageUris"), "Setting both StorageURI and StorageURIs is not supported."));
        }
    }
    let field = format!("{field}.storageUris");
    for (index, source) in predictor.storage_uris.iter().enumerate() {
        each(&format!("{field}[{index}]"), source, found);
    }
    together(&field, &predictor.storage_uris, found);
}

fn one_source(field: &str, model: &ModelSpec, found: &mut Vec<Violation>) {
    let path = model.storage.as_ref().and_then(|storage| storage.path.as_ref());
    if model.storage_uri.is_some() && path.is_some() {
        found.push(Violation::error(format!("{field}.storage.path"), "must provide only one of storageUri and storage.path"));
    }
    if model.storage_uri.as_deref() == Some("") {
        found.push(Violation::error(format!("{field}.storageUri"), "storageUri is empty"));
    }
}

fn mount_path(source: &StorageUriSpec) -> &str {
    source.mount_path.as_deref().unwrap_or(MOUNT_PATH)
}

fn is_claim(source: &StorageUriSpec) -> bool {
    source.uri.starts_with("pvc://")
}

fn each(field: &str, source: &StorageUriSpec, found: &mut Vec<Violation>) {
    if source.uri.is_empty() {
        found.push(Violation::error(format!("{field}.uri"), "storageUri cannot be empty"));
    }
    let path = mount_path(source);
    let message = match path {
        _ if !path.starts_with('/') => "must be an absolute path",
        _ if path.trim_end_matches('/').is_empty() => "must not be the root `/`",
        _ if path.split('/').any(|part| part == "..") => "must not contain `..`",
        _ if path.len() > MOUNT_PATH_MAX => "must have at most 255 letters",
        _ => return,
    };
    found.push(Violation::error(format!("{field}.mountPath"), format!("mountPath `{path}` {message}")));
}

/// What is fetched shares one folder above; each claim has a folder of its own.
fn together(field: &str, sources: &[StorageUriSpec], found: &mut Vec<Violation>) {
    let fetched: Vec<&str> = sources.iter().filter(|source| !is_claim(source)).map(mount_path).collect();
    // KServe looks at claims only where several places are fetched as well.
    if fetched.len() <= 1 {
        return;
    }
    let first_part = |path: &str| path.split('/').find(|part| !part.is_empty()).unwrap_or_default().to_owned();
    if let [first, rest @ ..] = fetched.as_slice()
        && rest.iter().any(|path| first_part(path) != first_part(first))
    {
        let message = "the mount paths of storageUris must have a common parent directory other than `/`";
        found.push(Violation::error(field, message));
    }
    let claims: Vec<(usize, &str)> =
        sources.iter().enumerate().filter(|(_, source)| is_claim(source)).map(|(index, source)| (index, mount_path(source))).collect();
    for (position, (index, path)) in claims.iter().enumerate() {
        if claims[..position].iter().any(|(_, other)| other == path) {
            found.push(Violation::error(format!("{field}[{index}].mountPath"), format!("mountPath `{path}` is used by another pvc")));
        }
    }
}
