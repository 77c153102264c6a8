//! Where a model lies, and who fetches it from there.
//!
//! Source: reference 1.6 and 6.3.

use super::Defaults;
use super::error::ResolveError;
use super::storage_container::{Fetcher, Workload, fetcher_of};
use super::storage_uri::{Part, StorageUri, StorageUriError};
use crate::api::inference_service::{InferenceService, ModelSpec, StorageUriSpec};
use crate::api::status::FailureReason;
use crate::api::storage_container::ClusterStorageContainer;
use std::path::Path;

/// Where the model lies: `storageUri`, or the entries of `storageUris`, or what the runtime's arguments name.
pub(super) fn storage_of(
    service: &InferenceService,
    model: &ModelSpec,
    by_args: Option<&String>,
    (manifest_dir, defaults): (&Path, &Defaults),
) -> Result<StorageUri, ResolveError> {
    const SEVERAL: &str = "spec.predictor.storageUris";
    let place = Places { named: service.spec.predictor.storage_container_name.as_deref(), manifest_dir, containers: &defaults.containers };
    match (&model.storage_uri, service.spec.predictor.storage_uris.as_slice(), by_args) {
        (Some(_), [_, ..], _) => {
            let message = "Setting both StorageURI and StorageURIs is not supported.";
            Err(ResolveError::new(FailureReason::InvalidPredictorSpec, SEVERAL, message))
        }
        (Some(uri), [], _) => place.of("spec.predictor.model.storageUri", uri),
        // Nothing is to be put together.
        (None, [one], _) if one.mount_path.as_deref().is_none_or(|path| path.trim_end_matches('/') == MOUNT_PATH) => {
            place.of(SEVERAL, &one.uri)
        }
        (None, [], Some(uri)) => place.of("spec.predictor.model.args", uri),
        (None, [], None) => {
            Err(ResolveError::not_yet_served("spec.predictor.model", "a service without `storageUri`, which waits for TrainedModels"))
        }
        (None, several, _) => {
            place.check_several(SEVERAL, several)?;
            let part = |spec: &StorageUriSpec| {
                let mount_path = spec.mount_path.clone().unwrap_or_else(|| MOUNT_PATH.to_owned());
                Ok(Part { uri: place.of(SEVERAL, &spec.uri)?, mount_path })
            };
            several.iter().map(part).collect::<Result<_, _>>().map(StorageUri::Several)
        }
    }
}

/// Where models are mounted that say nothing else.
const MOUNT_PATH: &str = "/mnt/models";

/// What decides who fetches a URI.
struct Places<'a> {
    named: Option<&'a str>,
    manifest_dir: &'a Path,
    containers: &'a [ClusterStorageContainer],
}

impl Places<'_> {
    fn of(&self, field: &'static str, uri: &str) -> Result<StorageUri, ResolveError> {
        let parsed = StorageUri::parse(uri, self.manifest_dir);
        if self.named.is_none() && matches!(parsed, Ok(StorageUri::Local(_) | StorageUri::Pvc { .. })) {
            return parsed.map_err(|wrong| storage_error(field, &wrong));
        }
        let fetcher = self.fetcher(uri)?;
        match (parsed, fetcher) {
            (_, Some(fetcher)) if !fetcher.command.is_empty() => {
                Ok(StorageUri::Custom { container: fetcher.container, uri: uri.to_owned() })
            }
            (Err(StorageUriError::UnknownScheme { .. }), Some(Fetcher { container, .. })) => {
                let message = format!("ClusterStorageContainer `{container}` takes this URI and has no `command`: images do not run here");
                let hint = "give its container a `command`; it is called with the URI and a folder".to_owned();
                Err(ResolveError::new(FailureReason::InvalidPredictorSpec, field, message).with_hint(hint))
            }
            (parsed, _) => parsed.map_err(|wrong| storage_error(field, &wrong)),
        }
    }

    fn fetcher(&self, uri: &str) -> Result<Option<Fetcher>, ResolveError> {
        fetcher_of(uri, self.named, Workload::Service, self.containers)
    }

    /// KServe runs one container for all places that are fetched.
    fn check_several(&self, field: &'static str, several: &[StorageUriSpec]) -> Result<(), ResolveError> {
        let remote: Vec<&StorageUriSpec> = several.iter().filter(|place| !place.uri.starts_with("pvc://")).collect();
        if remote.len() < 2 {
            return Ok(());
        }
        for place in remote {
            let Some(fetcher) = self.fetcher(&place.uri)?.filter(|fetcher| !fetcher.takes_several) else { continue };
            let message = format!(
                "storage container {} does not support multi-model download; use storageUri, or a storage container with \
                 supportsMultiModelDownload: true",
                fetcher.container
            );
            return Err(ResolveError::new(FailureReason::InvalidPredictorSpec, field, message));
        }
        Ok(())
    }
}

fn storage_error(field: &'static str, wrong: &StorageUriError) -> ResolveError {
    let hint = match wrong {
        StorageUriError::UnknownScheme { meant: Some(meant), .. } => Some(format!("did you mean `{meant}`?")),
        StorageUriError::UnknownScheme { .. } | StorageUriError::Malformed { .. } => None,
    };
    ResolveError::new(FailureReason::InvalidPredictorSpec, field, wrong.to_string()).with_hint(hint)
}
