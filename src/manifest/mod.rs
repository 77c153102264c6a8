//! From the text of a YAML file to KServe's resources, each mistake with its file, line, column and field.
//!
//! The path of a file: bytes to text and documents (`text`), documents to trees that know their places (`reader`,
//! `tree`), trees to kinds (`kinds`) and types (`typed`). What is wrong in one document hides nothing of the others.

mod fault;
mod ignored;
mod kinds;
mod places;
mod reader;
mod scalar;
mod settings;
mod text;
mod treatment;
mod tree;
mod typed;

use std::path::Path;

use crate::api::core::{ConfigMap, Secret, ServiceAccount};
use crate::api::inference_graph::InferenceGraph;
use crate::api::inference_service::InferenceService;
use crate::api::metadata::ObjectMeta;
use crate::api::problem::{Problem, Severity};
use crate::api::serving_runtime::ServingRuntime;
use crate::api::{DEFAULT_NAMESPACE, Kind, Resource, ResourceKey};
use crate::place::Place;

use fault::Fault;
pub use places::{FieldPlaces, field_below};
pub use treatment::Treatment;
use tree::{NodeId, Tree};
pub use typed::UNKNOWN_FIELD;

/// What a reader of manifests may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes a file may have.
    pub bytes_max: u64,
    /// The namespace of resources that name none.
    pub namespace: String,
    /// Whether [`Parsed::fields`] is asked for.
    pub lists_fields: bool,
}

impl Default for Options {
    /// 4 MiB, as in `config.yaml`, and the namespace `default`.
    fn default() -> Self {
        Self { bytes_max: 4 << 20, namespace: DEFAULT_NAMESPACE.to_owned(), lists_fields: false }
    }
}

/// One resource and where it and its fields stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// What was read; its namespace is filled in.
    pub resource: Resource,
    /// Where its document begins.
    pub place: Place,
    /// Where its fields stand.
    pub fields: FieldPlaces,
}

impl Manifest {
    /// Where a field stands, e.g. `spec.predictor.model.storageUri`; for one that is not written, where the nearest field
    /// around it stands.
    #[must_use]
    pub fn locate(&self, field: &str) -> Place {
        self.fields.locate(field, &self.place)
    }

    /// A problem with one of its fields.
    #[must_use]
    pub fn problem(&self, severity: Severity, field: impl Into<String>, message: impl Into<String>, hint: Option<String>) -> Problem {
        let field = field.into();
        Problem { severity, place: self.locate(&field), field, message: message.into(), hint, resource: Some(self.resource.key()) }
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// The resources that can be used, in the order of the file.
    pub resources: Vec<Manifest>,
    /// Resources with errors, without the values at fault: to be checked for more mistakes and shown, not to be served.
    pub refused: Vec<Manifest>,
    /// All mistakes and remarks, in the order of the file.
    pub problems: Vec<Problem>,
    /// Every known field, where [`Options::lists_fields`] asks for it, in the order of the file.
    pub fields: Vec<Field>,
}

/// One field of a resource, and what becomes of it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Where it stands.
    pub place: Place,
    /// Its path, e.g. `spec.predictor.model.storageUri`.
    pub name: String,
    /// What becomes of it.
    pub treatment: Treatment,
}

impl Parsed {
    /// Whether every document could be used. Where not, a resource that the file held before may still be meant.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.problems.iter().any(Problem::is_error)
    }
}

/// Reads a file with the usual [`Options`].
#[must_use]
pub fn parse(text: &[u8], file: &Path) -> Parsed {
    parse_with(text, file, &Options::default())
}

/// Reads a file. Never fails: what cannot be read is among the problems.
#[must_use]
pub fn parse_with(text: &[u8], file: &Path, options: &Options) -> Parsed {
    let mut reader = FileReader { file: Place::file(file), options, parsed: Parsed::default() };
    match text::decode(text, options.bytes_max) {
        Ok(text) => text::chunks(text).into_iter().for_each(|chunk| reader.chunk(chunk)),
        Err(fault) => reader.report(Severity::Error, fault, None),
    }
    reader.parsed.problems.sort_by_key(|problem| (problem.place.line, problem.place.column));
    reader.parsed
}

/// One file being read.
#[derive(Debug)]
struct FileReader<'o> {
    file: Place,
    options: &'o Options,
    parsed: Parsed,
}

impl FileReader<'_> {
    fn report(&mut self, severity: Severity, fault: Fault, resource: Option<&ResourceKey>) {
        let place = self.file.at(fault.position.line, fault.position.column);
        let Fault { field, message, hint, .. } = fault;
        self.parsed.problems.push(Problem { severity, place, field, message, hint, resource: resource.cloned() });
    }

    fn chunk(&mut self, chunk: text::Chunk<'_>) {
        let (documents, broken) = reader::read(chunk);
        for document in documents {
            let faulty = !document.faults.is_empty();
            let resource = self.peek(&document.tree, document.root);
            for fault in document.faults {
                self.report(Severity::Error, fault, resource.as_ref());
            }
            match document.tree.excess(document.root) {
                Some(message) => {
                    let fault = Fault::at(document.tree.node(document.root).position, message);
                    self.report(Severity::Error, fault, resource.as_ref());
                }
                None => self.document(&document.tree, document.root, faulty, chunk),
            }
        }
        if let Some(fault) = broken {
            self.report(Severity::Error, fault, None);
        }
    }

    /// Reads one document; `faulty` when mistakes of YAML were already found in it.
    fn document(&mut self, tree: &Tree, root: NodeId, faulty: bool, chunk: text::Chunk<'_>) {
        if tree.is_null(root) {
            return;
        }
        match kinds::of(tree, root) {
            kinds::Document::Other(severity, fault) => self.report(severity, fault, None),
            kinds::Document::List(items) => items.into_iter().for_each(|item| self.document(tree, item, faulty, chunk)),
            kinds::Document::Resource(kind) => self.resource(tree, root, kind, faulty, chunk),
        }
    }

    fn resource(&mut self, tree: &Tree, root: NodeId, kind: Kind, faulty: bool, chunk: text::Chunk<'_>) {
        let (resource, findings) = self.typed_resource(tree, root, kind, chunk);
        self.list(findings.fields);
        let mut good = !faulty && findings.errors.is_empty();
        let key = self.peek(tree, root);
        for (severity, faults) in
            [(Severity::Error, findings.errors), (Severity::Warning, findings.unknown), (Severity::Ignored, findings.meaningless)]
        {
            for fault in faults {
                self.report(severity, fault, key.as_ref());
            }
        }
        let Some(mut resource) = resource else { return };
        let position = tree.node(root).position;
        let manifest_place = self.file.at(position.line, position.column);
        let fields = FieldPlaces::of(tree, root);
        good &= self.identify(kind, resource.metadata_mut(), &fields, key.as_ref());
        let manifest = Manifest { resource, place: manifest_place, fields };
        if good { self.parsed.resources.push(manifest) } else { self.parsed.refused.push(manifest) }
    }

    fn typed_resource(&self, tree: &Tree, root: NodeId, kind: Kind, chunk: text::Chunk<'_>) -> (Option<Resource>, typed::Findings) {
        let lists_fields = self.options.lists_fields;
        match kind {
            Kind::InferenceService => {
                let (service, findings) = typed::read::<InferenceService>(tree, root, lists_fields);
                (service.map(|service| Resource::InferenceService(Box::new(service))), findings)
            }
            Kind::InferenceGraph => {
                let (graph, findings) = typed::read::<InferenceGraph>(tree, root, lists_fields);
                (graph.map(|graph| Resource::InferenceGraph(Box::new(graph))), findings)
            }
            Kind::ServingRuntime => {
                let (runtime, findings) = typed::read::<ServingRuntime>(tree, root, lists_fields);
                (runtime.map(|runtime| Resource::ServingRuntime(Box::new(runtime))), findings)
            }
            Kind::ClusterServingRuntime => {
                let (runtime, findings) = typed::read::<ServingRuntime>(tree, root, lists_fields);
                (runtime.map(|runtime| Resource::ClusterServingRuntime(Box::new(runtime))), findings)
            }
            Kind::ClusterStorageContainer => boxed(typed::read(tree, root, lists_fields), Resource::ClusterStorageContainer),
            Kind::LocalModelCache => boxed(typed::read(tree, root, lists_fields), Resource::LocalModelCache),
            Kind::LocalModelNamespaceCache => boxed(typed::read(tree, root, lists_fields), Resource::LocalModelNamespaceCache),
            Kind::LocalModelNodeGroup => boxed(typed::read(tree, root, lists_fields), Resource::LocalModelNodeGroup),
            Kind::LocalModelNode => boxed(typed::read(tree, root, lists_fields), Resource::LocalModelNode),
            Kind::ConfigMap => {
                let (map, mut findings) = typed::read::<ConfigMap>(tree, root, lists_fields);
                let map = map.map(|mut map| {
                    settings::take_up(tree, root, chunk, &mut map, &mut findings);
                    Resource::ConfigMap(Box::new(map))
                });
                (map, findings)
            }
            Kind::Secret => {
                let (secret, findings) = typed::read_hidden::<Secret>(tree, root, lists_fields);
                (secret.map(|secret| Resource::Secret(Box::new(secret.without_last_applied()))), findings)
            }
            Kind::ServiceAccount => {
                let (account, findings) = typed::read::<ServiceAccount>(tree, root, lists_fields);
                (account.map(|account| Resource::ServiceAccount(Box::new(account))), findings)
            }
        }
    }

    /// Takes in the fields that say something: of one that holds others, either it or these.
    fn list(&mut self, mut known: Vec<typed::Known>) {
        known.sort_by_key(|known| (known.position.line, known.position.column, known.field.len()));
        let mut whole: Option<String> = None;
        let mut known = known.into_iter().peekable();
        while let Some(typed::Known { position, field, treatment }) = known.next() {
            if whole.as_ref().is_some_and(|whole| is_below(&field, whole)) {
                continue;
            }
            let holds_others = known.peek().is_some_and(|next| is_below(&next.field, &field));
            let passes_on = matches!(treatment, Treatment::Honoured | Treatment::Approximated(_));
            if holds_others && passes_on {
                continue;
            }
            whole = holds_others.then(|| field.clone());
            let place = self.file.at(position.line, position.column);
            self.parsed.fields.push(Field { place, name: field, treatment });
        }
    }

    /// Fills in the namespace and asks for a name; false when there is none.
    fn identify(&mut self, kind: Kind, metadata: &mut ObjectMeta, fields: &FieldPlaces, key: Option<&ResourceKey>) -> bool {
        let at = |field: &str| {
            let (line, column) = fields.find(field);
            fault::Position { line, column }
        };
        if !kind.namespaced() && !metadata.namespace.is_empty() {
            metadata.namespace.clear();
            let message = format!("ignored: a {kind} has no namespace");
            self.report(Severity::Warning, Fault::at(at("metadata.namespace"), message).with_field("metadata.namespace"), key);
        } else if kind.namespaced() && metadata.namespace.is_empty() {
            metadata.namespace.clone_from(&self.options.namespace);
        }
        // A name of a wrong type has been reported as that.
        let named = !metadata.name.is_empty()
            || self.parsed.problems.iter().any(|problem| {
                problem.is_error()
                    && problem.field == "metadata.name"
                    && problem.place == self.file.at(at("metadata.name").line, at("metadata.name").column)
            });
        if !named {
            let fault = Fault::at(at("metadata.name"), format!("every {kind} needs a name")).with_field("metadata.name");
            self.report(Severity::Error, fault, key);
        }
        !metadata.name.is_empty()
    }

    /// The key of a document as far as it can be told before it is read.
    fn peek(&self, tree: &Tree, root: NodeId) -> Option<ResourceKey> {
        let kind: Kind = tree.text(tree.get(root, "kind")?)?.parse().ok()?;
        let metadata = tree.get(root, "metadata")?;
        let name = tree.text(tree.get(metadata, "name")?)?.to_owned();
        let written = tree.get(metadata, "namespace").and_then(|id| tree.text(id)).unwrap_or(&self.options.namespace);
        let namespace = if kind.namespaced() { written.to_owned() } else { String::new() };
        Some(ResourceKey { kind, namespace, name })
    }
}

/// What was read, as a resource of its kind.
fn boxed<T>((read, findings): (Option<T>, typed::Findings), resource: fn(Box<T>) -> Resource) -> (Option<Resource>, typed::Findings) {
    (read.map(|read| resource(Box::new(read))), findings)
}

/// Whether a field stands inside another one.
fn is_below(field: &str, other: &str) -> bool {
    field.strip_prefix(other).is_some_and(|rest| rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
