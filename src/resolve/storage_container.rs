//! Which ClusterStorageContainer fetches a URI, and what it brings along. Pure.
//!
//! A container with a command fetches by that command; of one without, only the environment counts, and the daemon's own
//! stores fetch. KServe's own object `default` is such a one, and without any it is as if that were there.
//!
//! Source: reference 6.3.

use super::error::ResolveError;
use super::storage_env::StorageEnv;
use crate::api::inference_service::InferenceService;
use crate::api::problem::did_you_mean;
use crate::api::status::FailureReason;
use crate::api::storage_container::{ClusterStorageContainer, SupportedUriFormat};
use regex::Regex;
use std::collections::BTreeMap;

/// The field that names a container.
const NAMED: &str = "spec.predictor.storageContainerName";

/// What a container works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// The model of a service.
    Service,
    /// A model that is fetched beforehand.
    LocalModel,
}

impl Workload {
    const fn word(self) -> &'static str {
        match self {
            Self::Service => "initContainer",
            Self::LocalModel => "localModelDownloadJob",
        }
    }
}

/// How one container fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetcher {
    /// The container.
    pub container: String,
    /// The program and its arguments, in front of `URI FOLDER`; nothing where the daemon's own stores fetch.
    pub command: Vec<String>,
    /// The folder it starts in.
    pub working_dir: Option<String>,
    /// Its variables.
    pub env: StorageEnv,
    /// Whether it may be asked for several URIs of one model.
    pub takes_several: bool,
}

/// How a URI is fetched: by the container that is named, else by the first one by name that is enabled, works for this and
/// takes the URI; nothing where none does.
///
/// # Errors
/// The container that is named is not there, or is disabled.
pub fn fetcher_of<'c>(
    uri: &str,
    named: Option<&str>,
    workload: Workload,
    containers: impl IntoIterator<Item = &'c ClusterStorageContainer>,
) -> Result<Option<Fetcher>, ResolveError> {
    let mut all: Vec<&ClusterStorageContainer> = containers.into_iter().collect();
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let found = match named {
        Some(name) => Some(by_name(name, &all)?),
        None => all.into_iter().find(|container| works_for(container, workload) && takes(container, uri)),
    };
    Ok(found.map(fetcher))
}

/// What the containers of a model's URIs bring along.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Brought {
    /// The variables of those without a command, for the daemon's own stores.
    pub env: StorageEnv,
    /// Those with a command, by name.
    pub commands: BTreeMap<String, Fetcher>,
}

impl Brought {
    /// What the containers of a service's URIs bring along.
    ///
    /// # Errors
    /// As [`fetcher_of`].
    pub fn for_service(service: &InferenceService, containers: &[ClusterStorageContainer]) -> Result<Self, ResolveError> {
        let predictor = &service.spec.predictor;
        let one = predictor.model.as_ref().and_then(|model| model.storage_uri.as_deref());
        let uris = one.into_iter().chain(predictor.storage_uris.iter().map(|place| place.uri.as_str()));
        Self::of(uris, predictor.storage_container_name.as_deref(), (Workload::Service, containers))
    }

    /// The same for a model that is fetched beforehand.
    ///
    /// # Errors
    /// As [`fetcher_of`].
    pub fn for_local_model(uri: &str, containers: &[ClusterStorageContainer]) -> Result<Self, ResolveError> {
        Self::of([uri], None, (Workload::LocalModel, containers))
    }

    fn of<'u>(
        uris: impl IntoIterator<Item = &'u str>,
        named: Option<&str>,
        (workload, containers): (Workload, &[ClusterStorageContainer]),
    ) -> Result<Self, ResolveError> {
        let mut brought = Self::default();
        for uri in uris {
            match fetcher_of(uri, named, workload, containers)? {
                Some(fetcher) if fetcher.command.is_empty() => brought.env = fetcher.env.over(&brought.env),
                Some(fetcher) => drop(brought.commands.insert(fetcher.container.clone(), fetcher)),
                None => {}
            }
        }
        Ok(brought)
    }
}

fn by_name<'c>(name: &str, all: &[&'c ClusterStorageContainer]) -> Result<&'c ClusterStorageContainer, ResolveError> {
    let wrong = |message: String| ResolveError::new(FailureReason::InvalidPredictorSpec, NAMED, message);
    let Some(found) = all.iter().find(|container| container.metadata.name == name) else {
        let meant = did_you_mean(name, all.iter().map(|container| container.metadata.name.as_str()));
        let hint = meant.map(|meant| format!("did you mean `{meant}`?"));
        return Err(wrong(format!("no ClusterStorageContainer named `{name}`")).with_hint(hint));
    };
    if is_disabled(found) {
        return Err(wrong(format!("ClusterStorageContainer `{name}` is disabled")));
    }
    Ok(found)
}

fn is_disabled(container: &ClusterStorageContainer) -> bool {
    container.disabled == Some(true)
}

fn works_for(container: &ClusterStorageContainer, workload: Workload) -> bool {
    let wanted = container.spec.workload_type.as_deref().unwrap_or(Workload::Service.word());
    !is_disabled(container) && wanted == workload.word()
}

/// Whether a container takes a URI: by the beginning where one is written, else by a pattern found anywhere.
#[must_use]
pub fn takes(container: &ClusterStorageContainer, uri: &str) -> bool {
    container.spec.supported_uri_formats.iter().any(|format| fits(format, uri))
}

fn fits(format: &SupportedUriFormat, uri: &str) -> bool {
    match (format.prefix.as_deref().unwrap_or_default(), format.regex.as_deref().unwrap_or_default()) {
        ("", "") => false,
        // Patterns that are none were refused with the resource.
        ("", regex) => Regex::new(regex).is_ok_and(|regex| regex.is_match(uri)),
        (prefix, _) => uri.starts_with(prefix),
    }
}

fn fetcher(container: &ClusterStorageContainer) -> Fetcher {
    let spec = &container.spec;
    let mut env = StorageEnv::default();
    for variable in spec.container.env.iter().filter(|variable| variable.value_from.is_none()) {
        env.set(variable.name.clone(), variable.value.clone().unwrap_or_default());
    }
    let command = match spec.container.command.as_slice() {
        [] => Vec::new(),
        command => command.iter().chain(&spec.container.args).cloned().collect(),
    };
    Fetcher {
        container: container.metadata.name.clone(),
        command,
        working_dir: spec.container.working_dir.clone(),
        env,
        takes_several: spec.supports_multi_model_download == Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(name: &str, spec: &serde_json::Value) -> ClusterStorageContainer {
        let mut container: ClusterStorageContainer = serde_json::from_value(json!({ "spec": spec })).unwrap();
        container.metadata.name = name.to_owned();
        container
    }

    fn formats(formats: &serde_json::Value) -> serde_json::Value {
        json!({ "container": { "image": "x" }, "supportedUriFormats": formats })
    }

    fn found(uri: &str, all: &[ClusterStorageContainer]) -> Option<String> {
        fetcher_of(uri, None, Workload::Service, all).unwrap().map(|fetcher| fetcher.container)
    }

    #[test]
    fn the_first_by_name_that_takes_the_uri_fetches_it() {
        let all = [
            container("c", &formats(&json!([{"prefix": "hub://"}]))),
            container("b", &formats(&json!([{"regex": "https://(.+?)/(.+)"}]))),
            container("a", &formats(&json!([{"prefix": "hub://x"}, {"prefix": "s3://", "regex": "gs://"}]))),
        ];
        assert_eq!(found("hub://x/1", &all).as_deref(), Some("a"));
        assert_eq!(found("hub://y", &all).as_deref(), Some("c"));
        assert_eq!(found("see https://h/p", &all).as_deref(), Some("b"), "a pattern is found anywhere");
        assert_eq!(found("gs://b", &all), None, "with a prefix the pattern is not looked at");
    }

    #[test]
    fn those_that_are_disabled_or_work_for_something_else_are_passed_over() {
        let mut off = container("a", &formats(&json!([{"prefix": "hub://"}])));
        off.disabled = Some(true);
        let mut job = container("b", &formats(&json!([{"prefix": "hub://"}])));
        job.spec.workload_type = Some("localModelDownloadJob".to_owned());
        let all = [off, job];
        assert_eq!(found("hub://x", &all), None);
        let job = fetcher_of("hub://x", None, Workload::LocalModel, &all).unwrap().unwrap();
        assert_eq!((job.container.as_str(), job.takes_several), ("b", false));
    }

    #[test]
    fn one_that_is_named_is_taken_whatever_the_uri_or_told_to_be_missing() {
        let mut off = container("off", &formats(&json!([])));
        off.disabled = Some(true);
        let all =
            [container("hub", &json!({"container": {"command": ["get"], "args": ["-v"], "env": [{"name": "A", "value": "1"}]}})), off];
        let named = |name| fetcher_of("s3://b/m", Some(name), Workload::Service, &all);
        let fetcher = named("hub").unwrap().unwrap();
        assert_eq!((fetcher.command, fetcher.env.get("A")), (vec!["get".to_owned(), "-v".to_owned()], Some("1")));
        let missing = named("hob").unwrap_err();
        assert!(missing.to_string().contains("no ClusterStorageContainer named `hob`"), "{missing}");
        assert!(missing.to_string().contains("did you mean `hub`?"), "{missing}");
        assert!(named("off").unwrap_err().to_string().contains("`off` is disabled"));
    }
}
