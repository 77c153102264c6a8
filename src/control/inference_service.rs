//! One InferenceService, from what runs to what is asked for.

use super::mind::Mind;
use super::queue::Outcome;
use super::rollout::{Role, Rollout};
use super::services::idle_route;
use super::status::Stage;
use crate::api::deployment_mode::annotation;
use crate::api::inference_service::InferenceService;
use crate::api::status::FailureInfo;
use crate::api::storage_container::ClusterStorageContainer;
use crate::api::{Kind, Resource, ResourceKey};
use crate::resolve::canary::{Canary, canaries_of};
use crate::resolve::credentials::with_storage_uri;
use crate::resolve::revision::RevisionSpec;
use crate::resolve::rollout::{RolloutSpec, rollout_of};
use crate::resolve::scale::{ScaleDefaults, ScaleSpec, scale_of};
use crate::resolve::{Candidate, Defaults, ResolveError, resolve};
use crate::store::{Snapshot, Stored, rfc3339};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tokio_util::sync::CancellationToken;

/// What a service's newest spec asks for.
enum Plan {
    Stop,
    /// A client unloaded it, and its spec did not change since.
    StayUnloaded,
    Refuse(Box<FailureInfo>),
    Run(Box<RevisionSpec>),
}

/// Does one step for the service of that key: runs it, stops it, refuses it, or removes it when it is gone.
pub(super) async fn reconcile(mind: Arc<Mind>, key: ResourceKey, superseded: CancellationToken) -> Outcome {
    let snapshot = mind.reader.snapshot();
    let Some(stored) = snapshot.get(&key).cloned() else {
        remove(&mind, &key).await;
        return Outcome::Done;
    };
    super::logging::settle(&mind, &snapshot, &key, &stored);
    super::ingress::settle(&mind, &snapshot, &key, &stored);
    let plan = plan(&mind, &snapshot, &key, &stored);
    if let (Plan::Run(_) | Plan::Refuse(_), Some(spec)) = (&plan, mind.services.with(&key, |service| service.to_wake())) {
        return wake(mind, key, stored, spec, &plan, superseded).await;
    }
    match plan {
        Plan::Stop => stop(&mind, &key, &stored, Stage::Stopped, "It is stopped by the annotation `serving.kserve.io/stop`.").await,
        Plan::StayUnloaded => stop(&mind, &key, &stored, Stage::Unloaded, "It was unloaded through the model repository.").await,
        Plan::Refuse(failure) => refuse(&mind, &key, &stored, *failure),
        Plan::Run(spec) => return Rollout { mind, key, stored, spec: *spec, role: Role::Newest, superseded }.run().await,
    }
    Outcome::Done
}

/// Brings back what sleeps, because a request asks for it; then the newest spec has its turn, if that is another one.
async fn wake(
    mind: Arc<Mind>,
    key: ResourceKey,
    stored: Arc<Stored>,
    spec: RevisionSpec,
    plan: &Plan,
    superseded: CancellationToken,
) -> Outcome {
    let is_newest = matches!(plan, Plan::Run(newest) if **newest == spec);
    let role = if is_newest { Role::Newest } else { Role::Earlier };
    let outcome = Rollout { mind: Arc::clone(&mind), key: key.clone(), stored, spec, role, superseded: superseded.clone() }.run().await;
    if !is_newest && !superseded.is_cancelled() {
        mind.queue.add(key);
    }
    outcome
}

fn plan(mind: &Mind, snapshot: &Snapshot, key: &ResourceKey, stored: &Stored) -> Plan {
    if stored.defaulted.metadata().annotation(annotation::STOP).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Plan::Stop;
    }
    let unloaded = mind.services.with(key, |service| {
        service.unloaded = service.unloaded.filter(|generation| *generation == stored.generation);
        service.unloaded.is_some()
    });
    if unloaded {
        return Plan::StayUnloaded;
    }
    match resolve_stored(mind, snapshot, stored) {
        Ok((spec, scale, rollout)) => {
            mind.services.with(key, |service| {
                service.scale = Some(scale);
                service.rollout = rollout;
                service.name_canaries(&canaries(stored));
                service.keep_verdicts();
            });
            Plan::Run(Box::new(spec))
        }
        Err(error) => Plan::Refuse(Box::new(failure(stored, &error))),
    }
}

fn resolve_stored(mind: &Mind, snapshot: &Snapshot, stored: &Stored) -> Result<(RevisionSpec, ScaleSpec, RolloutSpec), ResolveError> {
    let Resource::InferenceService(service) = &stored.defaulted else {
        unreachable!("the key's kind is InferenceService because only such keys come here");
    };
    let spec = resolve_in(mind, snapshot, stored, service)?;
    let scaling = ScaleDefaults { deployment_mode: mind.mode_of(stored), ..mind.config.scaling.defaults.clone() };
    Ok((spec, scale_of(service, &scaling)?, rollout_of(service)?))
}

/// What shall run for a service that was made of a stored one.
pub(super) fn resolve_alone(mind: &Mind, stored: &Stored, service: &InferenceService) -> Result<RevisionSpec, ResolveError> {
    resolve_in(mind, &mind.reader.snapshot(), stored, service)
}

fn resolve_in(mind: &Mind, snapshot: &Snapshot, stored: &Stored, service: &InferenceService) -> Result<RevisionSpec, ResolveError> {
    let folder = stored.place.file.parent().unwrap_or(Path::new(""));
    let engines = mind.engines.names().map(str::to_owned).collect();
    let defaults = Defaults { engines, containers: storage_containers(snapshot), ..Defaults::default() };
    let service = with_storage_uri(service, snapshot)?;
    resolve(&service, folder, &candidates(snapshot), &defaults)
}

fn canaries(stored: &Stored) -> Vec<Canary> {
    match &stored.defaulted {
        Resource::InferenceService(service) => canaries_of(service),
        _ => Vec::new(),
    }
}

/// Every runtime in the store.
pub(super) fn candidates(snapshot: &Snapshot) -> Vec<Candidate<'_>> {
    let of_kind = |kind| snapshot.of_kind(kind, None).map(|(_, stored)| stored);
    of_kind(Kind::ServingRuntime).chain(of_kind(Kind::ClusterServingRuntime)).filter_map(|stored| candidate(stored)).collect()
}

/// Every storage container in the store.
pub(super) fn storage_containers(snapshot: &Snapshot) -> Vec<ClusterStorageContainer> {
    let container = |stored: &Arc<Stored>| match &stored.defaulted {
        Resource::ClusterStorageContainer(container) => Some((**container).clone()),
        _ => None,
    };
    snapshot.of_kind(Kind::ClusterStorageContainer, None).filter_map(|(_, stored)| container(stored)).collect()
}

fn candidate(stored: &Stored) -> Option<Candidate<'_>> {
    let created = Some(stored.creation_timestamp);
    match &stored.defaulted {
        Resource::ServingRuntime(runtime) => Some(Candidate { runtime, cluster: false, created }),
        Resource::ClusterServingRuntime(runtime) => Some(Candidate { runtime, cluster: true, created }),
        _ => None,
    }
}

fn failure(stored: &Stored, error: &ResolveError) -> FailureInfo {
    FailureInfo {
        location: stored.locate(error.field).to_string(),
        reason: Some(error.reason),
        message: error.to_string(),
        time: Some(rfc3339(SystemTime::now())),
        ..FailureInfo::default()
    }
}

/// What runs goes on running; what does not run says why.
fn refuse(mind: &Mind, key: &ResourceKey, stored: &Stored, mut failure: FailureInfo) {
    let (news, still_serving) = mind.services.with_route(key, |service| {
        let news = service.fail(&mut failure);
        if service.serving().is_none() {
            service.route = Some(Arc::new(idle_route(key, &failure.message)));
        }
        (news, service.serving().map(ToString::to_string))
    });
    if news {
        tracing::warn!(service = %key, place = %failure.location, still_serving, error = %failure.message, "the service cannot be served as it stands");
    }
    mind.say(key, stored, Stage::Invalid(failure), None);
}

/// Unloads what runs; the service stays known.
async fn stop(mind: &Mind, key: &ResourceKey, stored: &Stored, stage: Stage, reason: &str) {
    let is_stop = stage == Stage::Stopped;
    let (retired, kept) = mind.services.with_route(key, |service| {
        service.watched.clear();
        let was_split = !service.beside.is_empty();
        let retired = service.retire_all();
        (service.asleep, service.woken_at) = (None, None);
        if is_stop || !was_split {
            // KServe deletes what is stopped and clears its status: what comes next is a first rollout. What a client
            // unloads while it shares requests shares them again.
            service.forget();
        }
        service.route = Some(Arc::new(idle_route(key, reason)));
        (retired, service.recorded || !std::mem::replace(&mut service.looked_back, true))
    });
    if is_stop && kept {
        mind.keep_nothing(key).await;
    }
    for retired in retired {
        tracing::info!(service = %key, revision = %retired.running.name, reason, "model unloaded");
        mind.drain(retired);
    }
    mind.say(key, stored, stage, None);
}

async fn remove(mind: &Mind, key: &ResourceKey) {
    mind.modes.forget(key);
    let Some(mut service) = mind.services.remove(key) else { return };
    if service.recorded || !service.looked_back {
        mind.keep_nothing(key).await;
    }
    for waiting in std::mem::take(&mut service.waiting) {
        // The client may have left.
        let _ = waiting.send(Err(crate::inference::InferenceError::ModelNotFound(key.name.clone())));
    }
    for retired in service.retire_all() {
        tracing::info!(service = %key, revision = %retired.running.name, "service deleted; model unloaded");
        mind.drain(retired);
    }
}
