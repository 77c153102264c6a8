//! Which services must be looked at again when a runtime changes.

use crate::api::inference_service_config::CONFIG_MAP;
use crate::api::{Kind, Resource, ResourceKey};
use crate::store::{Snapshot, Stored};

/// The keys to reconcile for a changed key: a service itself; for a runtime the services that use it or
/// could use it. Looking costs little: only a service whose revision then differs is loaded again.
pub(super) fn keys_to_reconcile(snapshot: &Snapshot, changed: &ResourceKey) -> Vec<ResourceKey> {
    let namespace = match changed.kind {
        Kind::InferenceService => return vec![changed.clone()],
        Kind::ServingRuntime => Some(changed.namespace.as_str()),
        Kind::ClusterServingRuntime => None,
        Kind::ConfigMap => return readers_of(snapshot, changed),
        Kind::Secret | Kind::ServiceAccount => return Vec::new(),
    };
    let services = snapshot.of_kind(Kind::InferenceService, namespace);
    services.filter(|(_, stored)| may_use(stored, &changed.name)).map(|(key, _)| key.clone()).collect()
}

/// The services that a ConfigMap changes: all, where it is KServe's own; else those that may trust its certificates.
fn readers_of(snapshot: &Snapshot, changed: &ResourceKey) -> Vec<ResourceKey> {
    let namespace = (changed.name != CONFIG_MAP).then_some(changed.namespace.as_str());
    snapshot.of_kind(Kind::InferenceService, namespace).map(|(key, _)| key.clone()).collect()
}

/// Whether a service names this runtime, or lets one be found for it.
fn may_use(stored: &Stored, runtime: &str) -> bool {
    let Resource::InferenceService(service) = &stored.defaulted else { return false };
    service.spec.predictor.model.as_ref().and_then(|model| model.runtime.as_ref()).is_none_or(|named| named == runtime)
}
