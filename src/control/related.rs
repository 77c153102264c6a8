//! Which services and graphs must be looked at again when something they use changes.

use super::local_models::caches;
use crate::api::inference_service_config::CONFIG_MAP;
use crate::api::{Kind, Resource, ResourceKey};
use crate::resolve::local_model::is_marked;
use crate::store::{Snapshot, Stored};

/// The keys to reconcile for a changed key: a service itself and the graphs that call it; a graph and those that call
/// it; for a cache of local models that cache, for its group all caches; for a runtime the services that use it or could use it, and all graphs, whose steps speak what runtimes list.
/// Looking costs little: only what then differs is loaded or put in place anew.
pub(super) fn keys_to_reconcile(snapshot: &Snapshot, changed: &ResourceKey) -> Vec<ResourceKey> {
    let namespace = match changed.kind {
        Kind::InferenceService | Kind::InferenceGraph => {
            let others = graphs_that_call(snapshot, changed).filter(|key| key != changed);
            // Their statuses tell who uses them.
            let caches = caches(snapshot).map(|(key, _)| key.clone()).filter(|_| changed.kind == Kind::InferenceService);
            return std::iter::once(changed.clone()).chain(others).chain(caches).collect();
        }
        Kind::ServingRuntime => Some(changed.namespace.as_str()),
        Kind::ClusterServingRuntime => None,
        // The services that have their model from it tell whether it is still there.
        Kind::LocalModelCache | Kind::LocalModelNamespaceCache => {
            return std::iter::once(changed.clone()).chain(users_of(snapshot, changed)).collect();
        }
        // Also those that found no room in it.
        Kind::LocalModelNodeGroup => {
            return caches(snapshot).map(|(key, _)| key.clone()).chain([changed.clone()]).collect();
        }
        Kind::ClusterStorageContainer => {
            return snapshot.of_kind(Kind::InferenceService, None).map(|(key, _)| key.clone()).collect();
        }
        Kind::ConfigMap => return readers_of(snapshot, changed),
        Kind::LocalModelNode => return Vec::new(),
        // Whoever could not be fetched without it tries again; what runs is left alone.
        Kind::Secret | Kind::ServiceAccount => {
            let services = snapshot.of_kind(Kind::InferenceService, Some(changed.namespace.as_str())).map(|(key, _)| key);
            return services.chain(caches(snapshot).map(|(key, _)| key)).cloned().collect();
        }
    };
    let services = snapshot.of_kind(Kind::InferenceService, namespace).filter(|(_, stored)| may_use(stored, &changed.name));
    services.chain(snapshot.of_kind(Kind::InferenceGraph, namespace)).map(|(key, _)| key.clone()).collect()
}

/// The services whose marks name a cache of local models.
fn users_of<'s>(snapshot: &'s Snapshot, cache: &'s ResourceKey) -> impl Iterator<Item = ResourceKey> + 's {
    let uses = move |(_, stored): &(&ResourceKey, &std::sync::Arc<Stored>)| matches!(&stored.defaulted, Resource::InferenceService(service) if is_marked(service, cache));
    snapshot.of_kind(Kind::InferenceService, None).filter(uses).map(|(key, _)| key.clone())
}

/// The graphs that call a service or another graph, or have its name.
pub(super) fn graphs_that_call<'s>(snapshot: &'s Snapshot, called: &'s ResourceKey) -> impl Iterator<Item = ResourceKey> + 's {
    let calls = move |(key, stored): &(&ResourceKey, &std::sync::Arc<Stored>)| may_call(key, stored, called);
    snapshot.of_kind(Kind::InferenceGraph, None).filter(calls).map(|(key, _)| key.clone())
}

fn may_call(key: &ResourceKey, stored: &Stored, called: &ResourceKey) -> bool {
    let Resource::InferenceGraph(graph) = &stored.defaulted else { return false };
    let same_namespace = key.namespace == called.namespace;
    let mut steps = graph.spec.nodes.values().flat_map(|node| &node.steps);
    (same_namespace && key.name == called.name)
        || steps.any(|step| (same_namespace && step.service_name == called.name) || step.service_url.contains(&called.name))
}

/// The services that a ConfigMap changes: all and the graphs, where it is KServe's own; else those that may trust its
/// certificates.
fn readers_of(snapshot: &Snapshot, changed: &ResourceKey) -> Vec<ResourceKey> {
    let namespace = (changed.name != CONFIG_MAP).then_some(changed.namespace.as_str());
    let services = snapshot.of_kind(Kind::InferenceService, namespace);
    let graphs = snapshot.of_kind(Kind::InferenceGraph, None).filter(|_| namespace.is_none());
    let caches = caches(snapshot).map(|(key, _)| key).filter(|_| namespace.is_none());
    services.chain(graphs).map(|(key, _)| key).chain(caches).cloned().collect()
}

/// Whether a service names this runtime, or lets one be found for it.
fn may_use(stored: &Stored, runtime: &str) -> bool {
    let Resource::InferenceService(service) = &stored.defaulted else { return false };
    service.spec.predictor.model.as_ref().and_then(|model| model.runtime.as_ref()).is_none_or(|named| named == runtime)
}
