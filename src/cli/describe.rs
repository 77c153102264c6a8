//! `kserved describe`: all there is to know of one resource, for people.

use super::client::Server;
use super::get::{Scope, cell, items, keys, one};
use super::kind::resource;
use super::size;
use super::table::Table;
use crate::api::Kind;
use crate::config::to_yaml;
use clap::Args;
use serde_json::Value;
use std::io::{self, Write};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// isvc, inferencegraph (ig), servingruntime (sr), clusterservingruntime (csr), clusterstoragecontainer (csc), localmodelcache (lmc), localmodelnamespacecache (lmnc), localmodelnodegroup (lmng), localmodelnode (lmn), configmap (cm), secret or serviceaccount (sa)
    #[arg(value_parser = resource)]
    kind: Kind,
    /// Its name
    name: String,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    server: Server,
}

/// Lines about the resource as a whole.
const HEAD: [(&str, &str); 6] = [
    ("Name", "/metadata/name"),
    ("Namespace", "/metadata/namespace"),
    ("Created", "/metadata/creationTimestamp"),
    ("Generation", "/metadata/generation"),
    ("URL", "/status/url"),
    ("Address", "/status/address/url"),
];

/// Lines about a service's model.
const MODEL: [(&str, &str); 9] = [
    ("Deployment mode", "/status/deploymentMode"),
    ("Runtime", "/status/servingRuntimeName"),
    ("Cluster runtime", "/status/clusterServingRuntimeName"),
    ("Transition", "/status/modelStatus/transitionStatus"),
    ("Active model", "/status/modelStatus/states/activeModelState"),
    ("Target model", "/status/modelStatus/states/targetModelState"),
    ("Copies", "/status/modelStatus/copies/totalCopies"),
    ("Last failure", "/status/modelStatus/lastFailureInfo/reason"),
    ("  message", "/status/modelStatus/lastFailureInfo/message"),
];

pub(super) async fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let client = arguments.server.client()?;
    let object = one(&client, arguments.kind, &arguments.scope.namespace, &arguments.name).await?;
    let events = client.get("/api/v1/events").await?;
    let about: Vec<&Value> = items(&events).iter().filter(|event| is_about(event, &object)).collect();
    write(&object, &about, out)?;
    Ok(ExitCode::SUCCESS)
}

fn is_about(event: &Value, object: &Value) -> bool {
    let same = |pointer: &str, other: &str| cell(event, pointer) == cell(object, other);
    same("/involvedObject/kind", "/kind")
        && same("/involvedObject/name", "/metadata/name")
        && same("/involvedObject/namespace", "/metadata/namespace")
}

fn write(object: &Value, events: &[&Value], out: &mut impl Write) -> io::Result<()> {
    write_lines(object, &HEAD, out)?;
    write_map("Labels", &object["metadata"]["labels"], out)?;
    write_map("Annotations", &object["metadata"]["annotations"], out)?;
    write_lines(object, &MODEL, out)?;
    write_cached(object, out)?;
    write_conditions(object, out)?;
    write_components(object, out)?;
    write_nodes(object, out)?;
    // Kubernetes' own kinds have no spec; of their data, values may be long or secret, so the keys are told.
    let spec = object.get("spec").cloned().unwrap_or_else(|| Value::from(keys(object)));
    writeln!(out, "\n{}:", if object.get("spec").is_some() { "Spec" } else { "Keys" })?;
    to_yaml(&spec).lines().try_for_each(|line| writeln!(out, "  {line}"))?;
    write_events(events, out)
}

fn write_lines(object: &Value, lines: &[(&str, &str)], out: &mut impl Write) -> io::Result<()> {
    let filled = lines.iter().map(|(name, pointer)| (name, cell(object, pointer))).filter(|(_, value)| !value.is_empty());
    filled
        .into_iter()
        .try_for_each(|(name, value)| writeln!(out, "{:<17}{}", format!("{name}:"), value.replace('\n', "\n                 ")))
}

/// What the daemon's cache holds of the model.
fn write_cached(object: &Value, out: &mut impl Write) -> io::Result<()> {
    let Some(cached) = object.pointer("/status/modelStatus/cached") else { return Ok(()) };
    let number = |field: &str| cached[field].as_u64().unwrap_or_default();
    let shared =
        if number("sharedFiles") > 0 { format!(", {} of them shared with other models", number("sharedFiles")) } else { String::new() };
    writeln!(out, "{:<17}{} in {} files{shared}", "Cached:", size::bytes(number("bytes")), number("files"))?;
    let lines = [("  version", "/version"), ("  fetched", "/fetchedAt")];
    write_lines(cached, &lines, out)
}

fn write_map(name: &str, map: &Value, out: &mut impl Write) -> io::Result<()> {
    let entries = map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", cell(value, "")));
    for (index, entry) in entries.enumerate() {
        let name = if index == 0 { format!("{name}:") } else { String::new() };
        writeln!(out, "{name:<17}{entry}")?;
    }
    Ok(())
}

fn write_conditions(object: &Value, out: &mut impl Write) -> io::Result<()> {
    let Some(conditions) = object.pointer("/status/conditions").and_then(Value::as_array) else { return Ok(()) };
    writeln!(out, "\nConditions:")?;
    let mut table = Table::new(&["  TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]);
    for condition in conditions {
        let cells = ["/type", "/status", "/lastTransitionTime", "/reason", "/message"].map(|pointer| cell(condition, pointer));
        let [kind, status, since, reason, message] = cells;
        table.push(vec![format!("  {kind}"), status, since, reason, message.replace('\n', "; ")]);
    }
    table.write(out)
}

fn write_components(object: &Value, out: &mut impl Write) -> io::Result<()> {
    let Some(components) = object.pointer("/status/components").and_then(Value::as_object) else { return Ok(()) };
    writeln!(out, "\nComponents:")?;
    let mut table = Table::new(&["  NAME", "LATESTCREATED", "LATESTREADY", "TRAFFIC", "URL"]);
    for (name, component) in components {
        let traffic = component["traffic"].as_array().into_iter().flatten();
        let tag = |target| Some(cell(target, "/tag")).filter(|tag| !tag.is_empty()).map_or(String::new(), |tag| format!("({tag})"));
        let share = |target| format!("{}={}%{}", cell(target, "/revisionName"), cell(target, "/percent"), tag(target));
        let shares = traffic.map(share);
        table.push(vec![
            format!("  {name}"),
            cell(component, "/latestCreatedRevision"),
            cell(component, "/latestReadyRevision"),
            shares.collect::<Vec<_>>().join(","),
            cell(component, "/url"),
        ]);
    }
    table.write(out)
}

/// The nodes of a graph, step by step.
fn write_nodes(object: &Value, out: &mut impl Write) -> io::Result<()> {
    let Some(nodes) = object.pointer("/spec/nodes").and_then(Value::as_object) else { return Ok(()) };
    writeln!(out, "\nNodes:")?;
    let mut table = Table::new(&["  NODE", "TYPE", "STEP", "CALLS", "WHEN"]);
    for (name, node) in nodes {
        for (index, step) in node["steps"].as_array().into_iter().flatten().enumerate() {
            let named = cell(step, "/name");
            let when = match (cell(step, "/condition"), cell(step, "/weight")) {
                (condition, weight) if condition.is_empty() && !weight.is_empty() => format!("{weight}%"),
                (condition, _) => condition,
            };
            let calls = ["/nodeName", "/serviceName", "/serviceUrl"].map(|field| cell(step, field)).concat();
            let step = if named.is_empty() { index.to_string() } else { named };
            table.push(vec![format!("  {name}"), cell(node, "/routerType"), step, calls, when]);
        }
    }
    table.write(out)
}

fn write_events(events: &[&Value], out: &mut impl Write) -> io::Result<()> {
    if events.is_empty() {
        return writeln!(out, "\nEvents: none");
    }
    writeln!(out, "\nEvents:")?;
    for event in events {
        let message = cell(event, "/message").replace('\n', "\n    ");
        writeln!(out, "  {} {}: {message}", cell(event, "/type"), cell(event, "/reason"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_told_with_its_conditions_revisions_and_mistakes() {
        let object = json!({
            "kind": "InferenceService",
            "metadata": { "name": "iris", "namespace": "default", "labels": { "a": "b" } },
            "spec": { "predictor": { "model": { "modelFormat": { "name": "onnx" } } } },
            "status": {
                "url": "http://iris.default.example.com",
                "conditions": [{ "type": "Ready", "status": "False", "reason": "ModelLoadFailed", "message": "broken" }],
                "components": { "predictor": { "latestReadyRevision": "r1", "traffic": [{ "revisionName": "r1", "percent": 100 }] } },
                "modelStatus": { "transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": { "reason": "ModelLoadFailed" },
                    "cached": { "bytes": 3 << 20, "files": 2, "sharedFiles": 1, "version": "abc", "fetchedAt": "2026-01-02T03:04:05Z" } },
            },
        });
        let event = json!({ "type": "Warning", "reason": "Suspicious", "message": "a.yaml:1:1: spec.x: unknown\nhint: did you mean `y`?" });
        let mut out = Vec::new();
        write(&object, &[&event], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in [
            "Name:            iris\n",
            "Labels:          a=b\n",
            "Transition:      BlockedByFailedLoad\n",
            "Cached:          3.0 MiB in 2 files, 1 of them shared with other models\n  version:       abc\n  fetched:       2026-01-02T03:04:05Z\n",
            "  Ready   False            ModelLoadFailed   broken\n",
            "r1=100%",
            "    modelFormat:",
            "  Warning Suspicious: a.yaml:1:1: spec.x: unknown\n    hint: did you mean `y`?\n",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }

    #[test]
    fn events_of_others_are_left_out() {
        let object = json!({ "kind": "InferenceService", "metadata": { "name": "iris", "namespace": "default" } });
        let about = |name: &str| json!({ "involvedObject": { "kind": "InferenceService", "namespace": "default", "name": name } });
        assert!(is_about(&about("iris"), &object) && !is_about(&about("rose"), &object));
    }
}
