//! Mistakes and warnings as Kubernetes events, so that `describe` shows them beside the resource.

use super::{Kube, list_response};
use crate::api::problem::{Problem, Severity};
use crate::api::status::condition;
use crate::store::{Snapshot, Stored, rfc3339};
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

pub(super) async fn all(State(kube): State<Kube>) -> Response {
    answer(&kube.reader.snapshot(), None)
}

pub(super) async fn of_namespace(State(kube): State<Kube>, Path(namespace): Path<String>) -> Response {
    answer(&kube.reader.snapshot(), Some(&namespace))
}

fn answer(snapshot: &Snapshot, namespace: Option<&str>) -> Response {
    let of_resources = snapshot.resources.values().flat_map(|stored| events_of(stored));
    let of_files = snapshot.problems.values().flatten().filter(|problem| is_of_file(snapshot, problem)).map(file_event);
    let events = of_resources.chain(of_files).enumerate().map(|(number, event)| named(event, number));
    let wanted = |event: &Value| namespace.is_none_or(|namespace| event["metadata"]["namespace"] == namespace);
    list_response("v1", "EventList", snapshot, &events.filter(wanted).collect::<Vec<_>>())
}

/// Whether no resource in the store tells of the problem.
fn is_of_file(snapshot: &Snapshot, problem: &Problem) -> bool {
    let stored = problem.resource.as_ref().and_then(|key| snapshot.get(key));
    stored.is_none_or(|stored| !stored.warnings.contains(problem) && !stored.problems.contains(problem))
}

fn events_of(stored: &Stored) -> Vec<Value> {
    let key = stored.resource.key();
    let object = json!({
        "apiVersion": key.kind.api_version(), "kind": key.kind.name(), "namespace": key.namespace, "name": key.name, "uid": stored.uid,
    });
    let since = rfc3339(stored.creation_timestamp);
    let told = stored.problems.iter().chain(&stored.warnings).map(|problem| event(problem, &object, &key.namespace, Some(&since)));
    told.chain(unready_graph(stored, &object, &key.namespace)).collect()
}

/// Why a graph is not ready: what stands in its way is seen only beside what it calls.
fn unready_graph(stored: &Stored, object: &Value, namespace: &str) -> Option<Value> {
    let ready = stored.graph_status.as_ref()?.condition(condition::READY)?;
    let (reason, message, since) = (&ready.reason, &ready.message, &ready.last_transition_time);
    (!message.is_empty()).then(|| event_of(("Warning", reason, message), object, namespace, since.as_deref()))
}

fn file_event(problem: &Problem) -> Value {
    let object = match &problem.resource {
        Some(key) => json!({ "apiVersion": key.kind.api_version(), "kind": key.kind.name(), "namespace": key.namespace, "name": key.name }),
        None => json!({ "kind": "File", "name": problem.place.file.display().to_string() }),
    };
    let namespace = problem.resource.as_ref().map_or("", |key| key.namespace.as_str());
    event(problem, &object, namespace, None)
}

fn event(problem: &Problem, object: &Value, namespace: &str, since: Option<&str>) -> Value {
    let kind = if problem.severity == Severity::Ignored { "Normal" } else { "Warning" };
    event_of((kind, reason(problem.severity), &problem.to_string()), object, namespace, since)
}

fn event_of((kind, reason, message): (&str, &str, &str), object: &Value, namespace: &str, since: Option<&str>) -> Value {
    json!({
        "metadata": { "namespace": namespace },
        "involvedObject": object,
        "type": kind,
        "reason": reason,
        "message": message,
        "source": { "component": "kserved" },
        "firstTimestamp": since,
        "lastTimestamp": since,
        "count": 1,
    })
}

fn named(mut event: Value, number: usize) -> Value {
    let object = event["involvedObject"]["name"].as_str().unwrap_or_default();
    event["metadata"]["name"] = json!(format!("{object}.{number:04x}"));
    event
}

const fn reason(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "Invalid",
        Severity::NotYetServed => "NotYetServed",
        Severity::Warning => "Suspicious",
        Severity::Ignored => "Ignored",
    }
}
