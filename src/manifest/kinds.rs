//! Which of the many kinds of Kubernetes a document is, told by its `apiVersion` and `kind`.

use super::fault::{Fault, Position};
use super::places::pointed;
use super::tree::{Entry, NodeId, Tree, Value};
use crate::api::Kind;
use crate::api::problem::{Severity, did_you_mean};

const GROUP: &str = "serving.kserve.io";

/// Kinds of KServe that are not served yet.
const LATER_KINDS: &[&str] = &["TrainedModel", "LLMInferenceService", "LLMInferenceServiceConfig"];

/// What a document is.
#[derive(Debug)]
pub(super) enum Document {
    /// A kind that is read.
    Resource(Kind),
    /// Several documents in one.
    List(Vec<NodeId>),
    /// Not read, and why.
    Other(Severity, Fault),
}

/// Tells what a document is.
pub(super) fn of(tree: &Tree, root: NodeId) -> Document {
    match header(tree, root) {
        Ok((api_version, kind)) => classify(tree, root, api_version, kind),
        Err(fault) => Document::Other(Severity::Error, fault),
    }
}

/// `apiVersion` and `kind`.
fn header(tree: &Tree, root: NodeId) -> Result<(&str, &str), Fault> {
    let node = tree.node(root);
    let Value::Mapping(entries) = &node.value else {
        return Err(Fault::at(node.position, format!("not a Kubernetes object: must be a mapping, found {}", node.value.describe())));
    };
    let field = |name: &str| match tree.get(root, name) {
        Some(id) if !tree.is_null(id) => tree.text(id).ok_or_else(|| not_text(tree, id).with_field(name)),
        _ => Err(missing(node.position, name, entries)),
    };
    Ok((field("apiVersion")?, field("kind")?))
}

fn not_text(tree: &Tree, id: NodeId) -> Fault {
    let node = tree.node(id);
    Fault::at(node.position, format!("must be a text, found {}", node.value.describe()))
}

fn missing(position: Position, name: &str, entries: &[Entry]) -> Fault {
    let fault = Fault::at(position, format!("not a Kubernetes object: `{name}` is missing")).with_field(name);
    let others = entries.iter().map(|entry| &*entry.key).filter(|key| !matches!(*key, "kind" | "apiVersion"));
    match did_you_mean(name, others) {
        Some(written) => fault.with_hint(format!("did you mean `{name}` where `{written}` stands?")),
        None => fault.with_hint("an InferenceService begins with `apiVersion: serving.kserve.io/v1beta1` and `kind: InferenceService`"),
    }
}

fn classify(tree: &Tree, root: NodeId, api_version: &str, kind: &str) -> Document {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some(items) = list_items(tree, root, group, kind) {
        return Document::List(items);
    }
    match (group, kind.parse::<Kind>()) {
        (_, Ok(kind)) if kind.api_version() == api_version => Document::Resource(kind),
        (GROUP, Ok(kind)) if !kind.is_core() => wrong_version(tree, root, kind, version),
        (GROUP, Err(())) => kserve_kind(tree, root, kind),
        // Others have Secrets of their own: `bitnami.com/v1alpha1`.
        ("" | GROUP, Ok(kind)) => wrong_group(tree, root, kind, api_version),
        (_, Ok(kind)) if !kind.is_core() => wrong_group(tree, root, kind, api_version),
        _ if near(group) => wrong_word(tree, root, "apiVersion", api_version, GROUP),
        _ => foreign(tree, root, api_version, kind),
    }
}

/// The documents of `kind: List`, and of KServe's own lists such as `InferenceServiceList`.
fn list_items(tree: &Tree, root: NodeId, group: &str, kind: &str) -> Option<Vec<NodeId>> {
    let is_list = (group.is_empty() && kind == "List") || (group == GROUP && kind.ends_with("List"));
    let items = tree.get(root, "items").filter(|_| is_list)?;
    match &tree.node(items).value {
        Value::Sequence(items) => Some(items.clone()),
        _ => None,
    }
}

fn near(group: &str) -> bool {
    did_you_mean(group, [GROUP]).is_some() || group == "serving.kubeflow.org"
}

fn place_of(tree: &Tree, root: NodeId, field: &str) -> Position {
    tree.entry(root, field).map_or(tree.node(root).position, |entry| pointed(tree, entry.position, entry.value))
}

fn wrong_version(tree: &Tree, root: NodeId, kind: Kind, version: &str) -> Document {
    let message = format!("there is no {kind} of version `{version}`");
    let fault = Fault::at(place_of(tree, root, "apiVersion"), message).with_field("apiVersion");
    Document::Other(Severity::Error, fault.with_hint(format!("write `apiVersion: {}`", kind.api_version())))
}

fn wrong_group(tree: &Tree, root: NodeId, kind: Kind, api_version: &str) -> Document {
    let message = format!("`{api_version}` has no {kind}");
    let fault = Fault::at(place_of(tree, root, "apiVersion"), message).with_field("apiVersion");
    Document::Other(Severity::Error, fault.with_hint(format!("write `apiVersion: {}`", kind.api_version())))
}

fn kserve_kind(tree: &Tree, root: NodeId, kind: &str) -> Document {
    if LATER_KINDS.contains(&kind) {
        return not_yet(tree, root, kind);
    }
    let known: Vec<&str> = Kind::ALL.into_iter().filter(|kind| !kind.is_core()).map(Kind::name).collect();
    let meant = did_you_mean(kind, known.iter().copied().chain(LATER_KINDS.iter().copied()));
    let fault = Fault::at(place_of(tree, root, "kind"), format!("KServe has no kind `{kind}`")).with_field("kind");
    let hint = meant.map_or_else(|| format!("kinds read here: {}", known.join(", ")), |meant| format!("did you mean `{meant}`?"));
    Document::Other(Severity::Error, fault.with_hint(hint))
}

fn wrong_word(tree: &Tree, root: NodeId, field: &str, written: &str, meant: &str) -> Document {
    let fault = Fault::at(place_of(tree, root, field), format!("unknown API group: `{written}`")).with_field(field);
    Document::Other(Severity::Error, fault.with_hint(format!("did you mean `{meant}`?")))
}

fn not_yet(tree: &Tree, root: NodeId, kind: &str) -> Document {
    let fault = Fault::at(place_of(tree, root, "kind"), format!("`{kind}` is not yet served")).with_field("kind");
    Document::Other(Severity::NotYetServed, fault)
}

fn foreign(tree: &Tree, root: NodeId, api_version: &str, kind: &str) -> Document {
    let message = format!("`{kind}` of `{api_version}` is not a KServe resource: ignored");
    Document::Other(Severity::Warning, Fault::at(place_of(tree, root, "kind"), message).with_field("kind"))
}
