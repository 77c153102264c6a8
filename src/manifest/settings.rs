//! KServe's own ConfigMap: each key's JSON read with the place of every field, and a word on what is not followed.
//!
//! A key holds JSON as text, as on a cluster, or the same as plain YAML. What is followed stands in
//! `api::inference_service_config`, what becomes of every other field in `known`.

mod known;

use super::fault::{Fault, Position};
use super::reader;
use super::text::Chunk;
use super::tree::{Entry, NodeId, Tree, Value};
use super::typed::{self, Findings};
use crate::api::core::ConfigMap;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::inference_service_config::{CONFIG_MAP, DeploySettings, InferenceServiceConfig, IngressSettings};
use crate::api::problem::did_you_mean;
use known::{Class, KEYS, Key};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The key that KServe's own file explains all others in.
const EXAMPLE: &str = "_example";

/// Reads the settings of a ConfigMap where it is KServe's own; any other holds texts alone.
pub(super) fn take_up(tree: &Tree, root: NodeId, chunk: Chunk<'_>, map: &mut ConfigMap, findings: &mut Findings) {
    let Some(data) = tree.get(root, "data") else { return };
    let Value::Mapping(entries) = &tree.node(data).value else { return };
    if map.metadata.name != CONFIG_MAP {
        let mappings = entries.iter().filter(|entry| matches!(tree.node(entry.value).value, Value::Mapping(_)));
        findings.errors.extend(mappings.map(|entry| fault(entry.position, &entry.key, "must be a text, found a mapping")));
        return;
    }
    let mut settings = InferenceServiceConfig::default();
    for entry in entries.iter().filter(|entry| &*entry.key != EXAMPLE && !tree.is_null(entry.value)) {
        let Some(key) = KEYS.iter().find(|key| key.name == &*entry.key) else {
            let unknown = fault(entry.position, &entry.key, "unknown key");
            findings.unknown.push(meant(unknown, &entry.key, KEYS.iter().map(|key| key.name)));
            continue;
        };
        match Document::of(tree, entry, chunk) {
            Ok(document) => document.take_up(key, &mut settings, findings),
            Err(fault) => findings.errors.push(fault),
        }
    }
    map.settings = Some(Box::new(settings));
}

/// The value of one key as a tree, and how its places are those of the file.
struct Document<'t> {
    tree: Held<'t>,
    root: NodeId,
    key: &'t Entry,
    places: Places,
}

/// The tree of the file, or one of its own.
enum Held<'t> {
    Borrowed(&'t Tree),
    Owned(Tree),
}

impl std::ops::Deref for Held<'_> {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        match self {
            Self::Borrowed(tree) => tree,
            Self::Owned(tree) => tree,
        }
    }
}

/// Where the text of a key's value stands in the file.
#[derive(Clone, Copy)]
enum Places {
    /// It is plain YAML: places are right already.
    Same,
    /// A block, this much indented; lines are right already.
    Block { indent: u32 },
    /// Quoted: everything is at its key.
    AtKey,
}

impl<'t> Document<'t> {
    fn of(tree: &'t Tree, key: &'t Entry, chunk: Chunk<'_>) -> Result<Self, Fault> {
        match &tree.node(key.value).value {
            Value::Mapping(_) => Ok(Self { tree: Held::Borrowed(tree), root: key.value, key, places: Places::Same }),
            Value::Sequence(_) => Err(fault(key.position, &key.key, "must be JSON text or a mapping, found a list")),
            Value::Scalar(scalar) => Self::of_json(&scalar.text, key, chunk),
        }
    }

    fn of_json(text: &str, key: &'t Entry, chunk: Chunk<'_>) -> Result<Self, Fault> {
        let (places, lines_before) = places_of(key, chunk);
        check_json(text, key, (places, lines_before))?;
        let wrong = |found: Fault| Fault { position: moved(found.position, places, key), ..fault(key.position, &key.key, found.message) };
        // JSON is YAML, but for tabs between its words.
        let spaced = text.replace('\t', " ");
        let (documents, broken) = reader::read(Chunk { text: &spaced, lines_before });
        let is_object = |document: &reader::Document| matches!(document.tree.node(document.root).value, Value::Mapping(_));
        let document = documents.into_iter().next().filter(is_object);
        let Some(document) = document else {
            return Err(broken.map_or_else(|| fault(key.position, &key.key, "must be a JSON object"), wrong));
        };
        if let Some(mistake) = broken.or(document.faults.into_iter().next()) {
            return Err(wrong(mistake));
        }
        match document.tree.excess(document.root) {
            Some(excess) => Err(fault(key.position, &key.key, excess)),
            None => Ok(Self { root: document.root, tree: Held::Owned(document.tree), key, places }),
        }
    }

    /// Puts what is followed into the settings, and says what becomes of the rest.
    fn take_up(&self, key: &Key, settings: &mut InferenceServiceConfig, findings: &mut Findings) {
        if let Class::Meaningless(why) = key.class {
            findings.meaningless.push(fault(self.key.position, key.name, why));
        }
        self.classify(self.root, key, "", findings);
        match key.name {
            "deploy" => settings.deploy = self.read(findings).inspect(|deploy| self.check_deploy(deploy, findings)),
            "ingress" => settings.ingress = self.read(findings).inspect(|ingress| self.check_ingress(ingress, findings)),
            "logger" => settings.logger = self.read(findings),
            "router" => settings.router = self.read(findings),
            "localModel" => settings.local_model = self.read(findings),
            "credentials" => settings.credentials = self.read(findings),
            _ => {}
        }
    }

    fn read<T: for<'d> Deserialize<'d>>(&self, findings: &mut Findings) -> Option<T> {
        let (value, found) = typed::read::<T>(&self.tree, self.root, false);
        findings.errors.extend(found.errors.into_iter().map(|error| Fault {
            position: moved(error.position, self.places, self.key),
            field: format!("data.{}.{}", self.key.key, error.field),
            ..error
        }));
        value
    }

    /// A word on each field that is unknown, or not followed as it stands.
    fn classify(&self, node: NodeId, key: &Key, path: &str, findings: &mut Findings) {
        let Value::Mapping(entries) = &self.tree.node(node).value else { return };
        for entry in entries {
            let field = format!("{path}{}", entry.key);
            let at = |message: &str| fault(moved(entry.position, self.places, self.key), &format!("{}.{field}", key.name), message);
            match key.class_of(&field) {
                Some(Class::Honoured) => {}
                Some(Class::Approximated(how)) => findings.meaningless.push(at(how)),
                Some(Class::Meaningless(_)) if matches!(key.class, Class::Meaningless(_)) => {}
                Some(Class::Meaningless(why)) => findings.meaningless.push(at(why)),
                None if key.has_below(&field) => self.classify(entry.value, key, &format!("{field}."), findings),
                None => findings.unknown.push(meant(at("unknown field"), &entry.key, key.names_at(path))),
            }
        }
    }

    fn check_deploy(&self, deploy: &DeploySettings, findings: &mut Findings) {
        let place = self.locate("defaultDeploymentMode");
        match deploy.default_deployment_mode.parse::<DeploymentMode>() {
            Ok(DeploymentMode::ModelMesh) => {
                findings.unknown.push(fault(place, "deploy.defaultDeploymentMode", "deployment mode `ModelMesh` is not yet served"));
            }
            Ok(_) => {}
            Err(()) => {
                let message = "invalid deployment mode. Supported modes are Knative, Standard and ModelMesh";
                let wrong = fault(place, "deploy.defaultDeploymentMode", message);
                findings.errors.push(meant(wrong, &deploy.default_deployment_mode, DeploymentMode::WORDS.into_iter()));
            }
        }
    }

    fn check_ingress(&self, ingress: &IngressSettings, findings: &mut Findings) {
        if ingress.url_scheme == "https" {
            let how = "approximated: statuses tell `https`; the doors speak plain HTTP, for a proxy to wrap";
            findings.meaningless.push(fault(self.locate("urlScheme"), "ingress.urlScheme", how));
        }
        let mut wrong = |field: &str, message: String| {
            findings.errors.push(fault(self.locate(field), &format!("ingress.{field}"), message));
        };
        if !matches!(ingress.url_scheme.as_str(), "" | "http" | "https") {
            wrong("urlScheme", format!("must be `http` or `https`, found `{}`", ingress.url_scheme));
        }
        let path = &ingress.path_template;
        let complete = path.starts_with('/') && path.contains(".Name") && path.contains(".Namespace");
        if !path.is_empty() && !complete {
            wrong("pathTemplate", format!("must start with `/` and name `{{{{ .Namespace }}}}` and `{{{{ .Name }}}}`: `{path}`"));
        }
        if let Some(unknown) = unknown_placeholder(&ingress.domain_template) {
            wrong("domainTemplate", format!("unknown placeholder: `{unknown}`"));
        }
        if !path.is_empty() && ingress.ingress_domain.is_empty() {
            wrong("pathTemplate", "needs `ingressDomain`".to_owned());
        }
    }

    fn locate(&self, field: &str) -> Position {
        self.tree.entry(self.root, field).map_or(self.key.position, |entry| moved(entry.position, self.places, self.key))
    }
}

/// A placeholder of a host's template that KServe does not fill.
fn unknown_placeholder(template: &str) -> Option<&str> {
    let placeholders = template.split("{{").skip(1).map(|part| part.split("}}").next().unwrap_or(part).trim());
    let known = |name: &str| {
        matches!(name, ".Name" | ".Namespace" | ".IngressDomain") || name.starts_with(".Labels.") || name.starts_with(".Annotations.")
    };
    placeholders.into_iter().find(|name| !known(name))
}

/// Only what JSON allows: a cluster would refuse the rest of YAML.
fn check_json(text: &str, key: &Entry, (places, lines_before): (Places, u32)) -> Result<(), Fault> {
    let Err(error) = serde_json::from_str::<IgnoredAny>(text) else { return Ok(()) };
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let position = Position { line: number(error.line()).saturating_add(lines_before), column: number(error.column()) };
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    Err(fault(moved(position, places, key), &key.key, format!("not JSON: {message}")))
}

/// How the places of a text within the file are told, and the lines of the file before the text.
fn places_of(key: &Entry, chunk: Chunk<'_>) -> (Places, u32) {
    let line_in_chunk = key.position.line.saturating_sub(chunk.lines_before).saturating_sub(1) as usize;
    let mut lines = chunk.text.lines().skip(line_in_chunk);
    let head = lines.next().and_then(|line| line.split_once(':')).map_or("", |(_, rest)| rest.trim_start());
    if !head.starts_with('|') {
        return (Places::AtKey, 0);
    }
    let indent = lines.find(|line| !line.trim().is_empty()).map_or(0, |line| line.len() - line.trim_start_matches(' ').len());
    (Places::Block { indent: u32::try_from(indent).unwrap_or(0) }, key.position.line)
}

fn moved(position: Position, places: Places, key: &Entry) -> Position {
    match places {
        Places::Same => position,
        Places::Block { indent } => Position { column: position.column.saturating_add(indent), ..position },
        Places::AtKey => key.position,
    }
}

fn fault(position: Position, field: &str, message: impl Into<String>) -> Fault {
    Fault::at(position, message).with_field(format!("data.{field}"))
}

fn meant<'a>(fault: Fault, written: &str, known: impl Iterator<Item = &'a str>) -> Fault {
    match did_you_mean(written, known) {
        Some(meant) => fault.with_hint(format!("did you mean `{meant}`?")),
        None => fault,
    }
}

#[cfg(test)]
mod tests;
