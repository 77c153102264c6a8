//! `kserved get`: resources of a running daemon as a table, YAML, JSON or names.

use super::age::age;
use super::client::{Client, Refused, Server};
use super::kind::Asked;
use super::table::Table;
use crate::api::Kind;
use crate::api::problem::did_you_mean;
use crate::config::to_yaml;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// isvc, inferencegraphs (ig), servingruntimes (sr), clusterservingruntimes (csr), clusterstoragecontainers (csc), localmodelcaches (lmc), localmodelnamespacecaches (lmnc), localmodelnodegroups (lmng), localmodelnodes (lmn), configmaps (cm), secrets, serviceaccounts (sa) or events
    kind: Asked,
    /// Only this one
    name: Option<String>,
    #[command(flatten)]
    scope: Scope,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    /// Stay and print what changes
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    server: Server,
}

/// Which namespace.
#[derive(Debug, Clone, Args)]
pub(super) struct Scope {
    /// Namespace
    #[arg(short, long, default_value = crate::api::DEFAULT_NAMESPACE)]
    pub(super) namespace: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// More columns
    Wide,
    Yaml,
    Json,
    /// kind/name, for scripts
    Name,
}

pub(super) async fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let client = arguments.server.client()?;
    if arguments.watch {
        return watch(arguments, &client, out).await;
    }
    match (&arguments.name, arguments.kind) {
        (Some(name), Asked::Resource(kind)) => {
            let object = one(&client, kind, &arguments.scope.namespace, name).await?;
            print(arguments, &object, std::slice::from_ref(&object), out)?;
        }
        (Some(_), Asked::Events) => bail!("events have no names to ask for; see `kserved describe KIND NAME`"),
        (None, _) => {
            let list = client.get(&arguments.path()).await?;
            print(arguments, &list, items(&list), out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One resource.
///
/// # Errors
/// It is not there; the message names the one that was probably meant.
pub(super) async fn one(client: &Client, kind: Kind, namespace: &str, name: &str) -> anyhow::Result<Value> {
    let folder = folder(kind, Some(namespace));
    let found = client.get(&format!("{folder}/{}", escaped(name))).await;
    let Err(error) = found else { return found };
    if error.downcast_ref::<Refused>().is_none_or(|refused| refused.code != 404) {
        return Err(error);
    }
    let list = client.get(&folder).await?;
    let names = items(&list).iter().filter_map(|item| text(item, "/metadata/name"));
    match did_you_mean(name, names) {
        Some(meant) => bail!("{error}\nhint: did you mean `{meant}`?"),
        None => Err(error),
    }
}

async fn watch(arguments: &Arguments, client: &Client, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let Asked::Resource(kind) = arguments.kind else { bail!("events cannot be watched") };
    let mut page = Page::new(arguments, kind);
    loop {
        let selected = arguments.name.as_ref().map_or_else(String::new, |name| format!("&fieldSelector=metadata.name%3D{}", escaped(name)));
        let path = format!("{}?watch=true{selected}", arguments.path());
        let mut response = client.send(client.request(Method::GET, &path)).await?;
        let mut rest = Vec::new();
        while let Some(chunk) = response.chunk().await.context("the daemon went away")? {
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                page.turn(&serde_json::from_slice(&line).context("a line of the watch is not JSON")?, out)?;
            }
        }
    }
}

/// What a watch printed so far, so that what did not change is not printed again when the watch starts anew.
struct Page<'a> {
    arguments: &'a Arguments,
    kind: Kind,
    table: Table,
    printed: std::collections::HashMap<String, String>,
}

impl<'a> Page<'a> {
    fn new(arguments: &'a Arguments, kind: Kind) -> Self {
        Self { arguments, kind, table: Table::new(&arguments.columns()), printed: std::collections::HashMap::new() }
    }

    fn turn(&mut self, event: &Value, out: &mut impl Write) -> anyhow::Result<()> {
        let object = &event["object"];
        let uid = text(object, "/metadata/uid").unwrap_or_default().to_owned();
        let version = text(object, "/metadata/resourceVersion").unwrap_or_default().to_owned();
        if event["type"] == "ERROR" || (event["type"] != "DELETED" && self.printed.insert(uid, version.clone()) == Some(version)) {
            return Ok(());
        }
        match self.arguments.output {
            None | Some(Format::Wide) => {
                self.table.push(row(self.arguments, Asked::Resource(self.kind), object));
                self.table.flush(out)?;
            }
            Some(format) => {
                print_object(format, object, out)?;
                out.flush()?;
            }
        }
        Ok(())
    }
}

impl Arguments {
    fn path(&self) -> String {
        let namespace = (!self.all_namespaces).then_some(self.scope.namespace.as_str());
        match (self.kind, namespace) {
            (Asked::Resource(kind), namespace) => folder(kind, namespace),
            (Asked::Events, Some(namespace)) => format!("/api/v1/namespaces/{}/events", escaped(namespace)),
            (Asked::Events, None) => "/api/v1/events".to_owned(),
        }
    }

    fn shows_namespace(&self) -> bool {
        self.all_namespaces && !matches!(self.kind, Asked::Resource(kind) if !kind.namespaced())
    }

    fn columns(&self) -> Vec<&'static str> {
        let wide = self.output == Some(Format::Wide);
        let namespace = self.shows_namespace().then_some("NAMESPACE");
        let (own, more): (&[&str], &[&str]) = match self.kind {
            Asked::Resource(Kind::InferenceService) => (
                &["NAME", "URL", "READY", "PREV", "LATEST", "PREVROLLEDOUTREVISION", "LATESTREADYREVISION", "AGE"],
                &["STATE", "REPLICAS", "RUNTIME", "STORAGE", "REASON"],
            ),
            Asked::Resource(Kind::InferenceGraph) => (&["NAME", "URL", "READY", "AGE"], &["NODES", "REASON"]),
            Asked::Resource(Kind::ConfigMap) => (&["NAME", "KEYS", "AGE"], &[]),
            Asked::Resource(Kind::Secret) => (&["NAME", "TYPE", "KEYS", "AGE"], &[]),
            Asked::Resource(Kind::ServiceAccount) => (&["NAME", "SECRETS", "AGE"], &[]),
            Asked::Resource(Kind::ClusterStorageContainer) => (&["NAME", "DISABLED", "WORKLOAD", "FORMATS", "AGE"], &["COMMAND"]),
            Asked::Resource(Kind::LocalModelCache | Kind::LocalModelNamespaceCache) => {
                (&["NAME", "STATUS", "AVAILABLE", "TOTAL", "SIZE", "NODEGROUPS", "AGE"], &["SOURCE", "REASON"])
            }
            Asked::Resource(Kind::LocalModelNodeGroup) => (&["NAME", "LIMIT", "USED", "AVAILABLE", "AGE"], &[]),
            Asked::Resource(Kind::LocalModelNode) => (&["NAME", "MODELS", "DOWNLOADED", "AGE"], &[]),
            Asked::Resource(Kind::ServingRuntime | Kind::ClusterServingRuntime) => {
                (&["NAME", "DISABLED", "MODELTYPE", "CONTAINERS", "AGE"], &["PROTOCOLS"])
            }
            Asked::Events => (&["TYPE", "REASON", "OBJECT", "MESSAGE"], &[]),
        };
        namespace.into_iter().chain(own.iter().copied()).chain(more.iter().copied().filter(|_| wide)).collect()
    }
}

/// The path of the resources of a kind.
fn folder(kind: Kind, namespace: Option<&str>) -> String {
    let (version, plural) = (kind.api_version(), kind.plural());
    let root = if kind.is_core() { "api" } else { "apis" };
    match namespace.filter(|_| kind.namespaced()) {
        Some(namespace) => format!("/{root}/{version}/namespaces/{}/{plural}", escaped(namespace)),
        None => format!("/{root}/{version}/{plural}"),
    }
}

/// A name as one part of a path.
fn escaped(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

fn print(arguments: &Arguments, whole: &Value, found: &[Value], out: &mut impl Write) -> anyhow::Result<()> {
    match arguments.output {
        Some(Format::Name) => found.iter().try_for_each(|object| print_object(Format::Name, object, out)),
        Some(format @ (Format::Yaml | Format::Json)) => print_object(format, whole, out),
        None | Some(Format::Wide) if found.is_empty() => {
            let place = if arguments.all_namespaces { String::new() } else { format!(" in namespace {}", arguments.scope.namespace) };
            writeln!(std::io::stderr(), "no resources found{place}")?;
            Ok(())
        }
        None | Some(Format::Wide) => {
            let mut table = Table::new(&arguments.columns());
            for object in found {
                table.push(row(arguments, arguments.kind, object));
            }
            Ok(table.write(out)?)
        }
    }
}

fn print_object(format: Format, object: &Value, out: &mut impl Write) -> anyhow::Result<()> {
    match format {
        Format::Yaml | Format::Wide => writeln!(out, "{}", to_yaml(object).trim_end())?,
        Format::Json => writeln!(out, "{object:#}")?,
        Format::Name => {
            let kind = text(object, "/kind").unwrap_or("event").to_lowercase();
            let name = text(object, "/metadata/name").unwrap_or_default();
            let group = text(object, "/apiVersion").and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            writeln!(out, "{kind}{dot}{group}/{name}")?;
        }
    }
    Ok(())
}

fn row(arguments: &Arguments, kind: Asked, object: &Value) -> Vec<String> {
    let wide = arguments.output == Some(Format::Wide);
    let namespace = arguments.shows_namespace().then(|| cell(object, "/metadata/namespace"));
    let (own, more) = match kind {
        Asked::Resource(Kind::InferenceService) => (service_row(object), service_row_more(object)),
        Asked::Resource(Kind::InferenceGraph) => (graph_row(object), graph_row_more(object)),
        Asked::Resource(Kind::ConfigMap) => (vec![cell(object, "/metadata/name"), keys(object), age_of(object)], Vec::new()),
        Asked::Resource(Kind::Secret) => {
            (vec![cell(object, "/metadata/name"), cell(object, "/type"), keys(object), age_of(object)], Vec::new())
        }
        Asked::Resource(Kind::ServiceAccount) => {
            (vec![cell(object, "/metadata/name"), list(object, "/secrets", "name"), age_of(object)], Vec::new())
        }
        Asked::Resource(Kind::ClusterStorageContainer) => (container_row(object), vec![list(object, "/spec/container/command", "")]),
        Asked::Resource(Kind::LocalModelCache | Kind::LocalModelNamespaceCache) => (cache_row(object), cache_row_more(object)),
        Asked::Resource(Kind::LocalModelNodeGroup) => {
            let cells = ["/metadata/name", "/spec/storageLimit", "/status/used", "/status/available"].map(|at| cell(object, at));
            (cells.into_iter().chain([age_of(object)]).collect(), Vec::new())
        }
        Asked::Resource(Kind::LocalModelNode) => (node_row(object), Vec::new()),
        Asked::Resource(Kind::ServingRuntime | Kind::ClusterServingRuntime) => {
            (runtime_row(object), vec![list(object, "/spec/protocolVersions", "")])
        }
        Asked::Events => (event_row(object), Vec::new()),
    };
    namespace.into_iter().chain(own).chain(more.into_iter().filter(|_| wide)).collect()
}

/// The keys of a ConfigMap or Secret.
pub(super) fn keys(object: &Value) -> String {
    let parts = ["data", "stringData", "binaryData"].into_iter().filter_map(|part| object[part].as_object());
    parts.flat_map(|part| part.keys().map(String::as_str)).collect::<Vec<_>>().join(",")
}

fn service_row(object: &Value) -> Vec<String> {
    let traffic = object.pointer("/status/components/predictor/traffic").and_then(Value::as_array);
    let target = |wanted: fn(&Value) -> bool| traffic.into_iter().flatten().find(|target| wanted(target));
    let previous = target(|target| target["tag"] == "prev").unwrap_or(&Value::Null);
    let latest = target(|target| target["latestRevision"] == true).unwrap_or(&Value::Null);
    let plain = match &latest["revisionName"] {
        Value::String(name) => name.clone(),
        _ => cell(object, "/status/components/predictor/latestReadyRevision"),
    };
    vec![
        cell(object, "/metadata/name"),
        cell(object, "/status/url"),
        condition(object, "Ready").map_or_else(String::new, |ready| cell(ready, "/status")),
        cell(previous, "/percent"),
        cell(latest, "/percent"),
        cell(previous, "/revisionName"),
        plain,
        age_of(object),
    ]
}

fn graph_row(object: &Value) -> Vec<String> {
    let ready = condition(object, "Ready").map_or_else(String::new, |ready| cell(ready, "/status"));
    vec![cell(object, "/metadata/name"), cell(object, "/status/url"), ready, age_of(object)]
}

fn graph_row_more(object: &Value) -> Vec<String> {
    let nodes = object.pointer("/spec/nodes").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    vec![nodes.to_string(), condition(object, "Ready").map_or_else(String::new, |ready| cell(ready, "/reason"))]
}

fn service_row_more(object: &Value) -> Vec<String> {
    let runtime = ["/status/servingRuntimeName", "/status/clusterServingRuntimeName"].map(|path| cell(object, path)).concat();
    vec![
        cell(object, "/status/modelStatus/states/targetModelState"),
        cell(object, "/status/modelStatus/copies/totalCopies"),
        runtime,
        cell(object, "/spec/predictor/model/storageUri"),
        condition(object, "Ready").map_or_else(String::new, |ready| cell(ready, "/reason")),
    ]
}

fn runtime_row(object: &Value) -> Vec<String> {
    let (formats, containers) = (list(object, "/spec/supportedModelFormats", "name"), list(object, "/spec/containers", "name"));
    vec![cell(object, "/metadata/name"), cell(object, "/spec/disabled"), formats, containers, age_of(object)]
}

fn container_row(object: &Value) -> Vec<String> {
    let formats = object.pointer("/spec/supportedUriFormats").and_then(Value::as_array).into_iter().flatten();
    let forms = formats.map(|format| ["/prefix", "/regex"].map(|at| cell(format, at)).concat()).collect::<Vec<_>>().join(",");
    let workload = Some(cell(object, "/spec/workloadType")).filter(|workload| !workload.is_empty());
    let workload = workload.unwrap_or_else(|| "initContainer".to_owned());
    vec![cell(object, "/metadata/name"), cell(object, "/disabled"), workload, forms, age_of(object)]
}

fn cache_row(object: &Value) -> Vec<String> {
    let nodes = object.pointer("/status/nodeStatus").and_then(Value::as_object).into_iter().flatten();
    vec![
        cell(object, "/metadata/name"),
        nodes.map(|(_, status)| cell(status, "")).collect::<Vec<_>>().join(","),
        cell(object, "/status/copies/available"),
        cell(object, "/status/copies/total"),
        cell(object, "/spec/modelSize"),
        list(object, "/spec/nodeGroups", ""),
        age_of(object),
    ]
}

fn cache_row_more(object: &Value) -> Vec<String> {
    vec![cell(object, "/spec/sourceModelUri"), condition(object, "Ready").map_or_else(String::new, |ready| cell(ready, "/reason"))]
}

fn node_row(object: &Value) -> Vec<String> {
    let models = object.pointer("/status/modelStatus").and_then(Value::as_object);
    let there = models.into_iter().flatten().filter(|(_, status)| *status == "ModelDownloaded").count();
    vec![cell(object, "/metadata/name"), models.map_or(0, serde_json::Map::len).to_string(), there.to_string(), age_of(object)]
}

fn event_row(object: &Value) -> Vec<String> {
    let about = format!("{}/{}", cell(object, "/involvedObject/kind").to_lowercase(), cell(object, "/involvedObject/name"));
    vec![cell(object, "/type"), cell(object, "/reason"), about, cell(object, "/message").replace('\n', "; ")]
}

/// The condition of a type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// The objects of a list.
pub(super) fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

/// A text at a pointer.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

/// What stands at a pointer, for a table; nothing is a blank.
pub(super) fn cell(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer).unwrap_or(&Value::Null) {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list(object: &Value, pointer: &str, field: &str) -> String {
    let entries = object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let name = |entry: &Value| if field.is_empty() { cell(&json!([entry]), "/0") } else { cell(&entry[field], "") };
    entries.map(name).collect::<Vec<_>>().join(",")
}

fn age_of(object: &Value) -> String {
    age(text(object, "/metadata/creationTimestamp"), SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &str) -> Arguments {
        Line::try_parse_from(["get"].into_iter().chain(line.split(' '))).unwrap().arguments
    }

    fn service() -> Value {
        json!({
            "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
            "metadata": { "name": "iris", "namespace": "default", "creationTimestamp": "1970-01-01T00:00:00Z" },
            "spec": { "predictor": { "model": { "storageUri": "file:///m" } } },
            "status": {
                "url": "http://iris.default.example.com",
                "conditions": [{ "type": "Ready", "status": "True" }],
                "components": { "predictor": { "traffic": [
                    { "tag": "prev", "percent": 90, "revisionName": "iris-predictor-00001" },
                    { "latestRevision": true, "percent": 10, "revisionName": "iris-predictor-00002" },
                ] } },
                "clusterServingRuntimeName": "kserve-onnx",
            },
        })
    }

    fn printed(line: &str, objects: &[Value]) -> String {
        let (arguments, mut out) = (arguments(line), Vec::new());
        print(&arguments, &json!({ "items": objects }), objects, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn services_have_kserves_columns() {
        let text = printed("isvc", &[service()]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["NAME", "URL", "READY", "PREV", "LATEST", "PREVROLLEDOUTREVISION", "LATESTREADYREVISION", "AGE"]);
        let wanted = ["iris", "http://iris.default.example.com", "True", "90", "10", "iris-predictor-00001", "iris-predictor-00002"];
        assert_eq!(rows[1][..7], wanted);
    }

    #[test]
    fn all_namespaces_and_wide_add_columns() {
        let text = printed("isvc -A -o wide", &[service()]);
        assert!(text.starts_with("NAMESPACE   NAME") && text.contains("kserve-onnx   file:///m"), "{text}");
    }

    #[test]
    fn names_are_what_kubectl_prints() {
        assert_eq!(printed("isvc -o name", &[service()]), "inferenceservice.serving.kserve.io/iris\n");
    }

    #[test]
    fn runtimes_name_their_formats() {
        let runtime = json!({ "metadata": { "name": "kserve-onnx" }, "spec": {
            "supportedModelFormats": [{ "name": "onnx" }, { "name": "x" }], "containers": [{ "name": "kserve-container" }],
        } });
        assert!(printed("csr", &[runtime]).contains("onnx,x      kserve-container"));
    }

    #[test]
    fn paths_follow_kind_and_namespace() {
        assert_eq!(arguments("isvc -n a/b").path(), "/apis/serving.kserve.io/v1beta1/namespaces/a%2Fb/inferenceservices");
        assert_eq!(arguments("isvc -A").path(), "/apis/serving.kserve.io/v1beta1/inferenceservices");
        assert_eq!(arguments("csr").path(), "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes");
        assert_eq!(arguments("events").path(), "/api/v1/namespaces/default/events");
    }

    #[test]
    fn a_watch_prints_each_version_once() {
        let arguments = arguments("isvc -o name");
        let (mut page, mut out) = (Page::new(&arguments, Kind::InferenceService), Vec::new());
        let mut object = service();
        object["metadata"]["resourceVersion"] = json!("3");
        for kind in ["ADDED", "ADDED", "DELETED"] {
            page.turn(&json!({ "type": kind, "object": object }), &mut out).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 2);
    }
}
