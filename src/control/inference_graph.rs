//! One InferenceGraph: made ready when what it calls is there, and its status told.
//!
//! A graph that was ready goes on serving as it was when an edit, or a service that went away, leaves it unready.

use super::inference_service::candidates;
use super::ingress::Hosts;
use super::mind::Mind;
use super::status::MANIFEST_ACCEPTED;
use crate::api::deployment_mode::{DeploymentMode, annotation};
use crate::api::status::{Condition, ConditionStatus, InferenceGraphStatus, condition};
use crate::api::{Kind, Resource, ResourceKey};
use crate::resolve::graph::{Obstacle, World, compile};
use crate::router::GraphRoute;
use crate::store::{Snapshot, Stored, rfc3339};
use std::sync::Arc;
use std::time::SystemTime;

/// A condition of our own: another resource answers at the graph's host. Never decides `Ready`.
const HOST_TAKEN: &str = "HostTaken";

/// What a graph's newest spec came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Ready,
    Stopped,
    /// What stands in the way, in a word and in sentences.
    Unready(&'static str, String),
}

/// Does one step for the graph of that key: takes it up, stops it, or removes it when it is gone.
pub(super) fn reconcile(mind: &Mind, key: &ResourceKey) {
    let snapshot = mind.reader.snapshot();
    let Some(stored) = snapshot.get(key) else {
        mind.modes.forget(key);
        if mind.services.set_graph(key, None) {
            tracing::info!(graph = %key, "graph deleted");
        }
        return;
    };
    let Resource::InferenceGraph(graph) = &stored.defaulted else { return };
    if graph.metadata.annotation(annotation::STOP).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        put(mind, key, Err("It is stopped by the annotation `serving.kserve.io/stop`.".to_owned()));
        return say(mind, key, stored, &Stage::Stopped);
    }
    let hosts = Hosts::of(snapshot.settings(), &mind.config.domain);
    let world = World::of(&snapshot, candidates(&snapshot), hosts.domain());
    let stage = match compile(graph, &world) {
        Ok(plan) => {
            put(mind, key, Ok(Arc::new(plan)));
            Stage::Ready
        }
        Err(obstacles) => {
            let sentences = sentences(stored, &obstacles);
            if mind.services.graph(key).is_none_or(|route| route.target.is_err()) {
                put(mind, key, Err(sentences.clone()));
            }
            Stage::Unready(reason(&obstacles), sentences)
        }
    };
    say(mind, key, stored, &stage);
}

fn put(mind: &Mind, key: &ResourceKey, target: Result<Arc<crate::resolve::graph::GraphPlan>, String>) {
    let before = mind.services.graph(key);
    if before.as_ref().is_some_and(|route| route.target == target) {
        return;
    }
    let ready = target.is_ok();
    let route = GraphRoute { namespace: key.namespace.clone(), name: key.name.as_str().into(), target };
    mind.services.set_graph(key, Some(Arc::new(route)));
    if ready {
        tracing::info!(graph = %key, "graph ready");
    }
}

/// All obstacles with their places, one to a line.
fn sentences(stored: &Stored, obstacles: &[Obstacle]) -> String {
    let sentence = |obstacle: &Obstacle| {
        let hint = obstacle.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        format!("{}: {}: {}{hint}", stored.locate(&obstacle.field), obstacle.field, obstacle.message)
    };
    obstacles.iter().map(sentence).collect::<Vec<_>>().join("\n")
}

fn reason(obstacles: &[Obstacle]) -> &'static str {
    let waits = |obstacle: &Obstacle| obstacle.message.ends_with("is not ready");
    if obstacles.iter().all(waits) { "ServiceNotReady" } else { "ReconcileFailed" }
}

/// Puts the graph's status into the store; tells the log when it is news.
fn say(mind: &Mind, key: &ResourceKey, stored: &Stored, stage: &Stage) {
    let snapshot = mind.reader.snapshot();
    let hosts = Hosts::of(snapshot.settings(), &mind.config.domain);
    let status = status_of(key, stored, stage, (&hosts, mind.graph_mode_of(key, stored)), host_taken(&snapshot, key), SystemTime::now());
    let message = |status: &InferenceGraphStatus| status.condition(condition::READY).map(|ready| ready.message.clone());
    let news = stored.graph_status.as_ref().and_then(message) != message(&status);
    if let (Stage::Unready(reason, why), true) = (stage, news) {
        let still_serving = mind.services.graph(key).is_some_and(|route| route.target.is_ok());
        tracing::warn!(graph = %key, reason, still_serving, "the graph is not ready: {why}");
    }
    mind.set_graph_status(key, status);
}

/// Who answers at the graph's host in its place.
fn host_taken(snapshot: &Snapshot, key: &ResourceKey) -> Option<String> {
    let service = ResourceKey { kind: Kind::InferenceService, ..key.clone() };
    snapshot.get(&service).map(|stored| format!("{service} ({}) has the graph's name and answers at its host", stored.place))
}

fn status_of(
    key: &ResourceKey,
    stored: &Stored,
    stage: &Stage,
    (hosts, default_mode): (&Hosts, DeploymentMode),
    taken: Option<String>,
    now: SystemTime,
) -> InferenceGraphStatus {
    let mode = DeploymentMode::of(stored.defaulted.metadata(), default_mode);
    let (status, reason, message) = match stage {
        Stage::Ready => (ConditionStatus::True, "", ""),
        Stage::Stopped => (ConditionStatus::False, "Stopped", ""),
        Stage::Unready(reason, why) => (ConditionStatus::False, *reason, why.as_str()),
    };
    let fact = |kind: &str, status, reason: &str, message: &str| Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
        ..Condition::default()
    };
    let stopped = if *stage == Stage::Stopped { ConditionStatus::True } else { ConditionStatus::False };
    let mut conditions = vec![fact(condition::READY, status, reason, message), fact(condition::STOPPED, stopped, "", "")];
    conditions
        .extend(taken.map(|who| Condition { severity: "Info".to_owned(), ..fact(HOST_TAKEN, ConditionStatus::True, "Namesake", &who) }));
    let problem = stored.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    if !problem.is_empty() {
        let rejected = fact(MANIFEST_ACCEPTED, ConditionStatus::False, "ManifestProblem", &problem);
        conditions.push(Condition { severity: "Info".to_owned(), ..rejected });
    }
    conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
    for condition in &mut conditions {
        let before = stored.graph_status.as_ref().and_then(|before| before.condition(&condition.kind));
        let kept = before.filter(|before| before.status == condition.status).and_then(|before| before.last_transition_time.clone());
        condition.last_transition_time = Some(kept.unwrap_or_else(|| rfc3339(now)));
    }
    let separator = if mode == DeploymentMode::Knative { '.' } else { '-' };
    let url = format!("{}://{}{separator}{}.{}", hosts.scheme(), key.name, key.namespace, hosts.domain());
    InferenceGraphStatus {
        observed_generation: i64::try_from(stored.generation).unwrap_or(i64::MAX),
        conditions,
        url: (*stage == Stage::Ready).then_some(url),
        deployment_mode: mode.name().to_owned(),
    }
}
