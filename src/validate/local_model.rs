//! Rules for models that are fetched beforehand, and for the groups of nodes that keep them.

use super::Violation;
use crate::api::local_model::{LocalModelCache, LocalModelNodeGroup};
use crate::api::problem::Severity;
use crate::api::quantity::Quantity;

/// Checks a cache as KServe's definition of the resource does.
pub(super) fn cache(cache: &LocalModelCache) -> Vec<Violation> {
    let mut found = Vec::new();
    let spec = &cache.spec;
    if spec.source_model_uri.is_empty() {
        found.push(Violation::error("spec.sourceModelUri", "Required value"));
    }
    found.extend(amount("spec.modelSize", spec.model_size.as_ref()));
    if spec.node_groups.is_empty() {
        let message = "Invalid value: 0: spec.nodeGroups in body should have at least 1 items";
        found.push(Violation::error("spec.nodeGroups", message));
    }
    found
}

/// Checks a group of nodes.
pub(super) fn group(group: &LocalModelNodeGroup) -> Vec<Violation> {
    let mut found: Vec<Violation> = amount("spec.storageLimit", group.spec.storage_limit.as_ref()).into_iter().collect();
    for (name, is_there) in [
        ("persistentVolumeSpec", group.spec.persistent_volume_spec.is_some()),
        ("persistentVolumeClaimSpec", group.spec.persistent_volume_claim_spec.is_some()),
    ] {
        if !is_there {
            found.push(Violation::error(format!("spec.{name}"), "Required value"));
        }
    }
    found
}

/// Whoever writes a node writes what kserved writes.
pub(super) fn node() -> Violation {
    let message = "ignored: kserved writes the LocalModelNode of this machine itself";
    Violation { severity: Severity::Ignored, ..Violation::error("spec", message) }
}

fn amount(field: &str, amount: Option<&Quantity>) -> Option<Violation> {
    match amount {
        None => Some(Violation::error(field, "Required value")),
        Some(amount) if amount.bytes() == 0 => Some(Violation::error(field, format!("must be more than nothing: `{amount}`"))),
        Some(_) => None,
    }
}

/// Checks a change of a cache that is already there.
#[must_use]
pub fn local_model_update(old: &LocalModelCache, new: &LocalModelCache) -> Option<Violation> {
    let changed = old.spec.source_model_uri != new.spec.source_model_uri;
    let violation = || Violation::error("spec.sourceModelUri", "StorageUri is immutable").with_hint("delete the file, then write it again");
    changed.then(violation)
}

/// Caches of the cluster that ask for the very same URI as an earlier one, by their places in the list.
#[must_use]
pub fn local_model_conflicts(caches: &[&LocalModelCache]) -> Vec<(usize, Violation)> {
    let first_with = |uri: &str| caches.iter().find(|cache| cache.spec.source_model_uri == uri);
    let conflict = |(index, cache): (usize, &&LocalModelCache)| {
        let first = first_with(&cache.spec.source_model_uri).filter(|first| first.metadata.name != cache.metadata.name)?;
        let message = format!("LocalModelCache {} has the same StorageURI {}", first.metadata.name, cache.spec.source_model_uri);
        Some((index, Violation::error("spec.sourceModelUri", message)))
    };
    caches.iter().enumerate().filter_map(conflict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(spec: &serde_json::Value) -> LocalModelCache {
        serde_json::from_value(json!({ "metadata": { "name": spec["sourceModelUri"].as_str().unwrap_or("none") }, "spec": spec })).unwrap()
    }

    fn told(found: &[Violation]) -> Vec<String> {
        found.iter().map(|violation| format!("{}: {}", violation.field, violation.message)).collect()
    }

    #[test]
    fn what_kserves_definition_asks_for_is_asked_for() {
        assert_eq!(
            told(&cache(&made(&json!({})))),
            [
                "spec.sourceModelUri: Required value",
                "spec.modelSize: Required value",
                "spec.nodeGroups: Invalid value: 0: spec.nodeGroups in body should have at least 1 items",
            ]
        );
        assert_eq!(told(&cache(&made(&json!({"sourceModelUri": "s3://b/m", "modelSize": "1Gi", "nodeGroups": ["g"]})))), [""; 0]);
        let no_size = json!({"sourceModelUri": "s3://b/m", "modelSize": "0", "nodeGroups": ["g"]});
        assert_eq!(told(&cache(&made(&no_size))), ["spec.modelSize: must be more than nothing: `0`"]);
    }

    #[test]
    fn a_uri_never_changes_and_no_two_caches_have_the_same() {
        let (one, other) = (made(&json!({"sourceModelUri": "s3://b/1"})), made(&json!({"sourceModelUri": "s3://b/2"})));
        assert_eq!(local_model_update(&one, &other).unwrap().message, "StorageUri is immutable");
        assert_eq!(local_model_update(&one, &one), None);
        let mut same = one.clone();
        same.metadata.name = "same".to_owned();
        let found = local_model_conflicts(&[&one, &other, &same]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1.message.as_str()), (2, "LocalModelCache s3://b/1 has the same StorageURI s3://b/1"));
    }
}
