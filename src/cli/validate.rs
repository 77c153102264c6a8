//! `kserved validate`: what the daemon would say of files, without running them.

mod compat;
mod files;

use super::settings::Settings;
use crate::api::inference_service_config::InferenceServiceConfig;
use crate::api::local_model::LocalModelCache;
use crate::api::problem::{Problem, Severity};
use crate::api::serving_runtime::ServingRuntime;
use crate::api::storage_container::ClusterStorageContainer;
use crate::api::{Kind, Resource, ResourceKey};
use crate::config::Config;
use crate::manifest::{Field, Manifest, Options, parse_with};
use crate::resolve::canary::canaries_of;
use crate::resolve::credentials::{Vault, with_storage_uri};
use crate::resolve::graph::{Callee, World, compile};
use crate::resolve::rollout::rollout_of;
use crate::resolve::{Candidate, Defaults as ResolveDefaults, RevisionSpec, resolve};
use crate::validate::{Defaults, check, check_refused, local_model_conflicts, runtime_conflicts};
use anyhow::Context;
use clap::Args;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Files and folders [default: the watched folders]
    paths: Vec<PathBuf>,
    /// Take warnings for mistakes, unknown fields too
    #[arg(long)]
    strict: bool,
    /// Say of every field what becomes of it here: honoured, approximated (how) or ignored (why)
    #[arg(long)]
    compat: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let config = arguments.settings.load()?.config;
    let mut read = Read::of(&arguments.paths, &config, arguments.compat)?;
    let resolved = read.resolve();
    let graphs = read.report.compile(&read.shipped, &config.protocol.default_domain);
    if arguments.compat {
        compat::write(&read.report.fields, &read.report.problems, out)?;
    }
    read.report.write(&resolved, &graphs, out)?;
    writeln!(std::io::stderr(), "{}", read.report.summary(read.files))?;
    Ok(if read.report.fails(arguments.strict) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Files that were read, and the runtimes beside them.
#[derive(Debug)]
pub(super) struct Read {
    report: Report,
    /// Runtimes that ship with the daemon are there for services, but only what was asked for is reported on.
    shipped: Report,
    files: usize,
}

/// What shall run for a service.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The service.
    pub(super) key: ResourceKey,
    /// What runs for it.
    pub(super) spec: RevisionSpec,
    place: String,
}

impl Read {
    /// Reads files and folders, or the watched folders where there are none.
    pub(super) fn of(paths: &[PathBuf], config: &Config, lists_fields: bool) -> anyhow::Result<Self> {
        let files = match paths {
            [] => files::in_folders(config.models.iter().chain(&config.runtimes))?,
            paths => files::in_paths(paths)?,
        };
        let mut report = Report { lists_fields, ..Report::default() };
        for file in &files {
            report.read(file, config)?;
        }
        let mut shipped = Report::default();
        for file in files::in_folders(&config.runtimes)?.iter().filter(|file| !files.contains(file)) {
            shipped.read(file, config)?;
        }
        report.compare();
        Ok(Self { report, shipped, files: files.len() })
    }

    /// What shall run for each service; why not becomes a problem.
    pub(super) fn resolve(&mut self) -> Vec<Resolved> {
        self.report.resolve(&self.shipped)
    }

    /// Problems of a kind.
    pub(super) fn count(&self, severity: Severity) -> usize {
        self.report.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    /// Where resources are looked up.
    pub(super) fn vault(&self) -> impl Vault + '_ {
        Written { good: &self.report.good }
    }

    /// A resource that can be used.
    pub(super) fn resource(&self, key: &ResourceKey) -> Option<&Resource> {
        self.report.good.iter().find(|manifest| manifest.resource.key() == *key).map(|manifest| &manifest.resource)
    }

    /// The ClusterStorageContainers.
    pub(super) fn storage_containers(&self) -> Vec<ClusterStorageContainer> {
        self.report.storage_containers()
    }
}

/// What was read, and all that is to be said of it.
#[derive(Debug, Default)]
struct Report {
    /// Resources that can be used.
    good: Vec<Manifest>,
    refused: usize,
    problems: Vec<Problem>,
    /// Whether `fields` are asked for.
    lists_fields: bool,
    /// Every known field that says something.
    fields: Vec<Field>,
}

impl Report {
    fn read(&mut self, file: &Path, config: &Config) -> anyhow::Result<()> {
        let (bytes_max, namespace) = (config.control.manifest_bytes_max, config.default_namespace.clone());
        let options = Options { bytes_max, namespace, lists_fields: self.lists_fields };
        let bytes = std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        self.take(&bytes, file, &options, Defaults { deployment_mode: config.deployment_mode.into(), graphs: config.graphs.bounds() });
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], file: &Path, options: &Options, defaults: Defaults) {
        let parsed = parse_with(bytes, file, options);
        self.problems.extend(parsed.problems);
        self.fields.extend(parsed.fields);
        for mut manifest in parsed.resources {
            let found = check(&mut manifest, &defaults);
            let refused = found.iter().any(Problem::is_error);
            self.refused += usize::from(refused);
            if !refused {
                self.good.push(manifest);
            }
            self.problems.extend(found);
        }
        for mut manifest in parsed.refused {
            self.refused += 1;
            let found = check_refused(&mut manifest, &defaults, &self.problems);
            self.problems.extend(found);
        }
    }

    /// What no single resource shows: one name twice, runtimes that nothing tells apart.
    fn compare(&mut self) {
        let mut first: BTreeMap<ResourceKey, &Manifest> = BTreeMap::new();
        let mut found = Vec::new();
        for manifest in &self.good {
            let key = manifest.resource.key();
            if let Some(earlier) = first.get(&key) {
                let message = format!("{key} is declared at `{}` already", earlier.place);
                found.push(manifest.problem(Severity::Error, "metadata.name", message, None));
                continue;
            }
            first.insert(key, manifest);
        }
        found.extend(self.conflicts());
        found.extend(self.same_local_models());
        self.problems.extend(found);
    }

    fn conflicts(&self) -> Vec<Problem> {
        let mut scopes: BTreeMap<(bool, &str), Vec<(&Manifest, &ServingRuntime)>> = BTreeMap::new();
        for manifest in &self.good {
            if let Some((runtime, cluster)) = runtime_of(manifest) {
                scopes.entry((cluster, runtime.metadata.namespace.as_str())).or_default().push((manifest, runtime));
            }
        }
        let conflicts = |scope: &Vec<(&Manifest, &ServingRuntime)>| {
            let runtimes: Vec<&ServingRuntime> = scope.iter().map(|(_, runtime)| *runtime).collect();
            let problem = |(index, found): (usize, crate::validate::Violation)| {
                let (manifest, _): (&Manifest, _) = scope[index];
                manifest.problem(found.severity, found.field, found.message, found.hint)
            };
            runtime_conflicts(&runtimes).into_iter().map(problem).collect::<Vec<_>>()
        };
        scopes.values().flat_map(conflicts).collect()
    }

    /// Caches of one URI.
    fn same_local_models(&self) -> Vec<Problem> {
        let cache = |manifest: &'_ Manifest| matches!(&manifest.resource, Resource::LocalModelCache(_));
        let manifests: Vec<&Manifest> = self.good.iter().filter(|manifest| cache(manifest)).collect();
        let caches: Vec<&LocalModelCache> = manifests
            .iter()
            .filter_map(|manifest| match &manifest.resource {
                Resource::LocalModelCache(cache) => Some(&**cache),
                _ => None,
            })
            .collect();
        let problem = |(index, found): (usize, crate::validate::Violation)| {
            manifests[index].problem(found.severity, found.field, found.message, found.hint)
        };
        local_model_conflicts(&caches).into_iter().map(problem).collect()
    }

    fn storage_containers(&self) -> Vec<ClusterStorageContainer> {
        let container = |manifest: &Manifest| match &manifest.resource {
            Resource::ClusterStorageContainer(container) => Some((**container).clone()),
            _ => None,
        };
        self.good.iter().filter_map(container).collect()
    }

    /// What shall run for each service; why not becomes a problem.
    fn resolve(&mut self, shipped: &Self) -> Vec<Resolved> {
        let runtimes: Vec<Candidate<'_>> = self.good.iter().chain(&shipped.good).filter_map(candidate).collect();
        let defaults = ResolveDefaults { containers: self.storage_containers(), ..ResolveDefaults::default() };
        let (mut resolved, mut found) = (Vec::new(), Vec::new());
        for manifest in &self.good {
            let Resource::InferenceService(service) = &manifest.resource else { continue };
            let folder = manifest.place.file.parent().unwrap_or(Path::new(""));
            let vault = Written { good: &self.good };
            let whole = with_storage_uri(service, &vault);
            match whole.and_then(|service| resolve(&service, folder, &runtimes, &defaults)) {
                Ok(spec) => resolved.push(Resolved { key: manifest.resource.key(), spec, place: manifest.place.to_string() }),
                Err(error) => found.push(error.at(manifest.locate(error.field))),
            }
            found.extend(rollout_of(service).err().map(|error| error.at(manifest.locate(error.field))));
            for canary in canaries_of(service) {
                let Err(error) = resolve(&canary.service, folder, &runtimes, &defaults) else { continue };
                let field = canary.field(error.field);
                found.push(Problem { field: field.clone(), ..error.at(manifest.locate(&field)) });
            }
        }
        // What is not yet served was said by the check of the service alone.
        found.retain(|problem| !self.problems.iter().any(|known| known.place == problem.place && known.severity == problem.severity));
        self.problems.extend(found);
        resolved
    }

    /// What a request to each graph goes through; why not becomes a problem. Every service counts as ready.
    fn compile(&mut self, shipped: &Self, domain: &str) -> Vec<String> {
        let mut world = World::new(self.good.iter().chain(&shipped.good).filter_map(candidate).collect(), domain);
        for manifest in &self.good {
            match &manifest.resource {
                Resource::InferenceService(service) => {
                    world.add_service(Callee { service, is_addressed: true });
                }
                Resource::InferenceGraph(graph) => {
                    world.add_graph(graph);
                }
                _ => {}
            }
        }
        let (mut compiled, mut found) = (Vec::new(), self.hidden_graphs());
        for manifest in &self.good {
            let Resource::InferenceGraph(graph) = &manifest.resource else { continue };
            match compile(graph, &world) {
                Ok(plan) => {
                    let steps: usize = plan.nodes.iter().map(|node| node.steps.len()).sum();
                    compiled.push(format!(
                        "{}: {}: ok: {} nodes, {steps} steps",
                        manifest.place,
                        manifest.resource.key(),
                        plan.nodes.len()
                    ));
                }
                Err(obstacles) => {
                    let problem = |obstacle: crate::resolve::graph::Obstacle| {
                        manifest.problem(Severity::Error, obstacle.field, obstacle.message, obstacle.hint)
                    };
                    found.extend(obstacles.into_iter().map(problem));
                }
            }
        }
        self.problems.extend(found);
        compiled
    }

    /// Graphs at whose host a service of the same name answers.
    fn hidden_graphs(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        for manifest in &self.good {
            let key = manifest.resource.key();
            let service = ResourceKey { kind: Kind::InferenceService, ..key.clone() };
            let namesake = self.good.iter().find(|other| key.kind == Kind::InferenceGraph && other.resource.key() == service);
            if let Some(other) = namesake {
                let message = format!("{service} (`{}`) has the same name and answers at the graph's host", other.place);
                found.push(manifest.problem(Severity::Warning, "metadata.name", message, None));
            }
        }
        found
    }

    fn write(&mut self, resolved: &[Resolved], graphs: &[String], out: &mut impl Write) -> std::io::Result<()> {
        self.problems.sort_by(|one, other| one.place.cmp(&other.place));
        for problem in &self.problems {
            let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
            writeln!(out, "{}: {}: {field}{}", problem.place, problem.severity, problem.message)?;
            if let Some(hint) = &problem.hint {
                writeln!(out, "  hint: {hint}")?;
            }
        }
        for graph in graphs {
            writeln!(out, "{graph}")?;
        }
        for Resolved { key, spec, place } in resolved {
            let (runtime, engine, protocol) = (&spec.runtime.name, &spec.engine, &spec.protocol);
            writeln!(
                out,
                "{place}: {key}: ok: runtime `{runtime}`, engine `{engine}`, protocol `{protocol}`, model `{}`",
                spec.model_name
            )?;
        }
        Ok(())
    }

    fn summary(&self, files: usize) -> String {
        let count = |severity: Severity| self.problems.iter().filter(|problem| problem.severity == severity).count();
        let resources = self.good.len() + self.refused;
        let parts =
            [Severity::Error, Severity::NotYetServed, Severity::Warning, Severity::Ignored].map(|severity| (count(severity), severity));
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, severity)| format!("{count} {severity}")).collect();
        let parts = if parts.is_empty() { "nothing to remark".to_owned() } else { parts.join(", ") };
        format!("files: {files}, resources: {resources}; {parts}")
    }

    fn fails(&self, strict: bool) -> bool {
        self.problems.iter().any(|problem| match problem.severity {
            Severity::Error => true,
            Severity::NotYetServed | Severity::Warning => strict,
            Severity::Ignored => false,
        })
    }
}

/// The resources of the files that are checked.
struct Written<'a> {
    good: &'a [Manifest],
}

impl Vault for Written<'_> {
    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Resource> {
        let is = |manifest: &&Manifest| {
            let key = manifest.resource.key();
            key.kind == kind && key.namespace == namespace && key.name == name
        };
        self.good.iter().find(is).map(|manifest| &manifest.resource)
    }

    fn settings(&self) -> Option<&InferenceServiceConfig> {
        let settings = |manifest: &'_ Manifest| match &manifest.resource {
            Resource::ConfigMap(map) => map.settings.is_some(),
            _ => false,
        };
        match &self.good.iter().find(|manifest| settings(manifest))?.resource {
            Resource::ConfigMap(map) => map.settings.as_deref(),
            _ => None,
        }
    }
}

fn runtime_of(manifest: &Manifest) -> Option<(&ServingRuntime, bool)> {
    match &manifest.resource {
        Resource::ServingRuntime(runtime) => Some((runtime, false)),
        Resource::ClusterServingRuntime(runtime) => Some((runtime, true)),
        _ => None,
    }
}

fn candidate(manifest: &Manifest) -> Option<Candidate<'_>> {
    runtime_of(manifest).map(|(runtime, cluster)| Candidate { runtime, cluster, created: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNTIME: &str = "
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterServingRuntime
metadata: {name: kserved-onnx}
spec:
  annotations: {serving.kserve.io/server-type: kserved-onnx}
  supportedModelFormats: [{name: onnx, version: '1', autoSelect: true}]
  protocolVersions: [v1, v2]
  containers: [{name: kserve-container, image: none}]
";
    const SERVICE: &str = "
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris}
spec:
  predictor:
    model:
      modelFormat: {name: onnx}
      storageUri: file:///models/iris.onnx
";

    fn reported(files: &[(&str, &str)]) -> (Report, String) {
        let mut report = Report::default();
        for (name, text) in files {
            report.take(text.as_bytes(), Path::new(name), &Options::default(), Defaults::default());
        }
        report.compare();
        let resolved = report.resolve(&Report::default());
        let graphs = report.compile(&Report::default(), "example.com");
        let mut out = Vec::new();
        report.write(&resolved, &graphs, &mut out).unwrap();
        (report, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_good_service_says_what_will_run_it() {
        let (report, text) = reported(&[("r.yaml", RUNTIME), ("s.yaml", SERVICE)]);
        assert!(!report.fails(true), "{text}");
        assert!(text.contains("InferenceService/default/iris: ok: runtime `kserved-onnx`, engine `onnx`"), "{text}");
    }

    #[test]
    fn a_service_without_runtime_is_a_mistake_at_its_place() {
        let (report, text) = reported(&[("s.yaml", SERVICE)]);
        assert!(report.fails(false));
        assert!(text.starts_with("s.yaml:") && text.contains(": error: spec.predictor.model"), "{text}");
        assert!(report.summary(1).starts_with("files: 1, resources: 1; 1 error"), "{}", report.summary(1));
    }

    #[test]
    fn a_canary_and_a_judge_that_cannot_be_are_mistakes_at_their_places() {
        let standard = "{name: iris, annotations: {serving.kserve.io/deploymentMode: Standard}}";
        let canary =
            "  canary:\n  - trafficPercent: 10\n    predictor:\n      name: v2\n      model:\n        modelFormat: {name: prose}\n";
        let (_, text) = reported(&[("r.yaml", RUNTIME), ("s.yaml", &(SERVICE.replace("{name: iris}", standard) + canary))]);
        assert!(text.contains("error: spec.canary[0].predictor.model"), "{text}");
        let judge = "{name: iris, annotations: {kserved.io/canary-judge: 'true', kserved.io/judge-requests: many}}";
        let (_, text) = reported(&[("r.yaml", RUNTIME), ("s.yaml", &SERVICE.replace("{name: iris}", judge))]);
        assert!(text.contains("s.yaml:4:") && text.contains("kserved.io/judge-requests"), "{text}");
    }

    #[test]
    fn an_unknown_field_fails_only_when_strict() {
        let misspelled = SERVICE.replace("  predictor:\n", "  predictor:\n    minReplica: 1\n");
        let (report, text) = reported(&[("r.yaml", RUNTIME), ("s.yaml", &misspelled)]);
        assert!(text.contains("s.yaml:7:5: warning: ") && text.contains("minReplicas"), "{text}");
        assert!(!report.fails(false) && report.fails(true));
    }

    #[test]
    fn a_value_of_a_wrong_type_is_not_called_missing_as_well() {
        let text = "apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {name: g}\nspec:\n  nodes:\n    root:\n      routerType: Sequnce\n      steps: [{nodeName: a}]\n    a: {routerType: Sequence, steps: [{serviceUrl: 'http://x/y'}]}\n";
        let (report, text) = reported(&[("g.yaml", text)]);
        assert!(
            text.contains("g.yaml:7:19: error: spec.nodes.root.routerType: must be one of") && text.contains("did you mean `Sequence`?"),
            "{text}"
        );
        assert_eq!(text.matches("routerType").count(), 1, "{text}");
        assert!(report.fails(false));
    }

    #[test]
    fn a_graph_is_compiled_over_the_services_there_are() {
        let graph = |name: &str, service: &str| {
            format!(
                "apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {{name: {name}}}\nspec:\n  nodes: {{root: {{routerType: Sequence, steps: [{{serviceName: {service}}}]}}}}\n"
            )
        };
        let (report, text) = reported(&[("r.yaml", RUNTIME), ("s.yaml", SERVICE), ("g.yaml", &graph("all", "iris"))]);
        assert!(!report.fails(true) && text.contains("g.yaml:1:1: InferenceGraph/default/all: ok: 1 nodes, 1 steps"), "{text}");
        let (report, text) = reported(&[("r.yaml", RUNTIME), ("s.yaml", SERVICE), ("g.yaml", &graph("all", "irs"))]);
        let told = "error: spec.nodes.root.steps[0].serviceName: Failed to find graph service irs\n  hint: did you mean `iris`?";
        assert!(report.fails(false) && text.contains(told), "{text}");
        let (report, text) = reported(&[("r.yaml", RUNTIME), ("s.yaml", SERVICE), ("g.yaml", &graph("iris", "iris"))]);
        assert!(report.fails(true) && !report.fails(false) && text.contains("has the same name and answers at the graph's host"), "{text}");
    }

    #[test]
    fn one_name_in_two_files_is_a_mistake_that_names_both() {
        let (report, text) = reported(&[("r.yaml", RUNTIME), ("a.yaml", SERVICE), ("b.yaml", SERVICE)]);
        assert!(report.fails(false));
        assert!(text.contains("b.yaml:") && text.contains("is declared at `a.yaml:"), "{text}");
    }
}
