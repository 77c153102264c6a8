//! Rules for a ClusterStorageContainer.

use super::Violation;
use crate::api::storage_container::{ClusterStorageContainer, StorageContainer, SupportedUriFormat};
use regex::Regex;

/// What a container may work for.
const WORKLOADS: [&str; 2] = ["initContainer", "localModelDownloadJob"];

/// Checks a container as KServe's definition of the resource does, and its patterns, which KServe finds out about later.
pub(super) fn check(container: &ClusterStorageContainer) -> Vec<Violation> {
    let mut found = Vec::new();
    let spec = &container.spec;
    if spec.container == StorageContainer::default() {
        found.push(Violation::error("spec.container", "Required value"));
    }
    if spec.supported_uri_formats.is_empty() {
        found.push(Violation::error("spec.supportedUriFormats", "Required value"));
    }
    for (index, format) in spec.supported_uri_formats.iter().enumerate() {
        found.extend(check_format(&format!("spec.supportedUriFormats[{index}]"), format));
    }
    if let Some(workload) = spec.workload_type.as_deref().filter(|workload| !WORKLOADS.contains(workload)) {
        let message = format!("Unsupported value: \"{workload}\": supported values: \"initContainer\", \"localModelDownloadJob\"");
        found.push(Violation::error("spec.workloadType", message).with_words(workload, &WORKLOADS));
    }
    found
}

fn check_format(field: &str, format: &SupportedUriFormat) -> Option<Violation> {
    match (format.prefix.as_deref().unwrap_or_default(), format.regex.as_deref().unwrap_or_default()) {
        ("", "") => Some(Violation::warning(field, "neither `prefix` nor `regex`: it fits no URI")),
        ("", regex) => {
            let error = Regex::new(regex).err()?;
            Some(Violation::error(format!("{field}.regex"), format!("not a regular expression: {error}")))
        }
        (_, "") => None,
        _ => Some(Violation::warning(format!("{field}.regex"), "not looked at, because there is a `prefix`, as by KServe")),
    }
}
