//! The pin of a local model in the cache folder: it stands there as long as the resource does, also while no daemon runs.

use super::super::mind::Mind;
use super::caches;
use crate::api::inference_service::InferenceService;
use crate::api::problem::Severity;
use crate::api::{Kind, ResourceKey};
use crate::resolve::local_model::marked_with;
use crate::store::Snapshot;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Under which name a cache of this daemon holds its model. Daemons of other folders that share the cache folder have names of their
/// own.
pub(super) fn pin_of(key: &ResourceKey, home: &Path) -> String {
    format!("{key}{}", end_of(home))
}

fn end_of(home: &Path) -> String {
    format!(" of {}", home.display())
}

/// The first watched folder, which tells this daemon from others.
pub(super) fn home_of(folders: &[PathBuf]) -> PathBuf {
    let first = folders.first().cloned().unwrap_or_default();
    std::path::absolute(&first).unwrap_or(first)
}

/// Lets go what a cache holds.
pub(super) async fn let_go(mind: &Mind, key: &ResourceKey) {
    take_away(mind, &pin_of(key, &mind.local_models.home)).await;
}

async fn take_away(mind: &Mind, pin: &str) {
    if let Err(error) = mind.storage.let_go(pin).await {
        tracing::warn!(pin, %error, "a pin of a local model stays in the cache");
    }
}

/// Lets go what caches held whose files were removed while no daemon ran. Where some file cannot be read, nobody knows what is gone.
pub(in super::super) async fn forget_the_gone(mind: &Mind) {
    let snapshot = mind.reader.snapshot();
    if snapshot.problems.values().flatten().any(|problem| problem.severity == Severity::Error) {
        return;
    }
    let home = &mind.local_models.home;
    let known: BTreeSet<String> = caches(&snapshot).map(|(key, _)| pin_of(key, home)).collect();
    for pin in mind.storage.pins().await.iter().filter(|pin| is_own(pin, home) && !known.contains(*pin)) {
        tracing::info!(pin, "a local model is let go: its resource was removed meanwhile");
        take_away(mind, pin).await;
    }
}

fn is_own(pin: &str, home: &Path) -> bool {
    let kinds = [Kind::LocalModelCache, Kind::LocalModelNamespaceCache];
    pin.ends_with(&end_of(home)) && kinds.iter().any(|kind| pin.starts_with(&format!("{kind}/")))
}

/// What a service is told whose cache was deleted while it uses the model.
pub(in super::super) fn deleted_under(service: &InferenceService, snapshot: &Snapshot) -> Option<String> {
    let cache = marked_with(service).filter(|cache| snapshot.get(cache).is_none())?;
    Some(format!(
        "{cache} was deleted while this service uses its model: the model goes on serving, and is no longer kept once nobody uses it\n\
         hint: write the cache again to keep the model, or change this service's file to have its model as any other"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_other_daemons_and_of_people_are_not_ones_own() {
        let key = ResourceKey { kind: Kind::LocalModelNamespaceCache, namespace: "team".to_owned(), name: "flowers".to_owned() };
        let (home, other) = (Path::new("/srv/models"), Path::new("/srv/other/models"));
        let pin = pin_of(&key, home);
        assert_eq!(pin, "LocalModelNamespaceCache/team/flowers of /srv/models");
        assert!(is_own(&pin, home) && !is_own(&pin, other));
        assert!(!is_own("user", home) && !is_own("edge of /srv/models", home));
    }
}
