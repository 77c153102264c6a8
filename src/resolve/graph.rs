//! From an InferenceGraph to what a request goes through: targets known, conditions read; or why not, in KServe's words.

use super::condition::Condition;
use super::runtime::Candidate;
use crate::api::inference_graph::{InferenceGraph, InferenceStep, ROOT, RouterType};
use crate::api::inference_service::InferenceService;
use crate::api::problem::did_you_mean;
use crate::api::{Kind, Resource};
use crate::store::Snapshot;
use crate::validate::step_field;
use std::collections::{BTreeMap, BTreeSet};
use url::Url;

/// Seconds a request may take where a graph does not say, as Knative allows.
const TIMEOUT_S: u64 = 300;

/// What a request to a graph goes through. Two equal ones do the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphPlan {
    /// The nodes; a request begins at the first.
    pub nodes: Vec<Node>,
    /// Seconds that a request may take.
    pub timeout_s: u64,
    /// Seconds that one step may take, where that is bounded.
    pub step_timeout_s: Option<u64>,
}

/// A node: what it does with its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// How its steps are gone through.
    pub router: RouterType,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// A step that can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The key of its answer in an Ensemble: its name, or its index.
    pub key: String,
    /// What it is called in `Server-Timing` and in spans: node and key, in letters that a header takes.
    pub label: String,
    /// Whom it calls.
    pub target: Target,
    /// Whether it is sent the answer of the step before, if there is one.
    pub takes_response: bool,
    /// Whether `predictions` of what it is sent become `instances`.
    pub maps_predictions: bool,
    /// Where something must be found for the step to be taken.
    pub condition: Option<Condition>,
    /// Whether its failure ends the node.
    pub hard: bool,
    /// Its share of a Splitter, in percent.
    pub weight: u32,
}

/// Whom a step calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Another node of the graph, by its place in the plan.
    Node(usize),
    /// A service of this daemon.
    Service {
        /// The service's namespace.
        namespace: String,
        /// The service's name.
        name: String,
        /// How its bodies are written.
        protocol: Protocol,
        /// The model that a URL names; nothing for the service's own.
        model: Option<String>,
    },
    /// Another graph of this daemon.
    Graph {
        /// The graph's namespace.
        namespace: String,
        /// The graph's name.
        name: String,
    },
    /// Something on the web.
    Url(String),
}

/// How the bodies of a service are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `instances` and `predictions`.
    V1,
    /// `inputs` and `outputs`.
    V2,
}

/// Why a step cannot be taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The field at fault, e.g. `spec.nodes.root.steps[0].serviceName`.
    pub field: String,
    /// What is wrong, in KServe's words where it has some.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

/// A service that steps may name.
#[derive(Debug, Clone, Copy)]
pub struct Callee<'a> {
    /// The service, defaults filled in.
    pub service: &'a InferenceService,
    /// Whether it has an address yet.
    pub is_addressed: bool,
}

/// A namespace and a name.
type Name<'a> = (&'a str, &'a str);

/// Things by namespace, then name.
type Named<'a, T> = BTreeMap<&'a str, BTreeMap<&'a str, T>>;

/// What there is that steps may lead to.
#[derive(Debug, Default)]
pub struct World<'a> {
    /// Services by namespace and name.
    services: Named<'a, Callee<'a>>,
    /// Graphs by namespace and name.
    graphs: Named<'a, &'a InferenceGraph>,
    /// The runtimes, which say what services speak.
    runtimes: Vec<Candidate<'a>>,
    /// The domain of this daemon's hosts.
    domain: &'a str,
}

impl<'a> World<'a> {
    /// A world without services and graphs.
    #[must_use]
    pub fn new(runtimes: Vec<Candidate<'a>>, domain: &'a str) -> Self {
        Self { runtimes, domain, ..Self::default() }
    }

    /// What a snapshot of the store has.
    #[must_use]
    pub fn of(snapshot: &'a Snapshot, runtimes: Vec<Candidate<'a>>, domain: &'a str) -> Self {
        let mut world = Self::new(runtimes, domain);
        for (_, stored) in snapshot.of_kind(Kind::InferenceService, None) {
            if let Resource::InferenceService(service) = &stored.defaulted {
                let is_addressed = stored.status.as_ref().is_some_and(|status| status.address.is_some());
                world.add_service(Callee { service, is_addressed });
            }
        }
        for (_, stored) in snapshot.of_kind(Kind::InferenceGraph, None) {
            if let Resource::InferenceGraph(graph) = &stored.defaulted {
                world.add_graph(graph);
            }
        }
        world
    }

    /// Adds a service.
    pub fn add_service(&mut self, callee: Callee<'a>) {
        let metadata = &callee.service.metadata;
        self.services.entry(&metadata.namespace).or_default().insert(&metadata.name, callee);
    }

    /// Adds a graph.
    pub fn add_graph(&mut self, graph: &'a InferenceGraph) {
        self.graphs.entry(&graph.metadata.namespace).or_default().insert(&graph.metadata.name, graph);
    }

    /// What a host is to this daemon, if anything: a service before a graph of the same name, as the doors have it.
    fn owner(&self, host: &str) -> Option<Owner<'a>> {
        let host = host.trim_end_matches('.');
        let domain = self.domain.trim_matches('.').to_ascii_lowercase();
        let below = host.strip_suffix(&*domain).and_then(|host| host.strip_suffix('.')).filter(|_| !domain.is_empty());
        let inside = host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc"));
        let (name, joined) = match below.or(inside) {
            Some(name) => (name, true),
            None => (host, false),
        };
        if let Some((name, namespace)) = name.split_once('.') {
            return self.named(name, namespace);
        }
        name.match_indices('-').filter(|_| joined).find_map(|(at, _)| self.named(&name[..at], &name[at + 1..]))
    }

    fn named(&self, name: &str, namespace: &str) -> Option<Owner<'a>> {
        let service = self.services.get_key_value(namespace).and_then(|(namespace, services)| {
            let named = |name: &str| services.get_key_value(name).map(|(name, _)| (*namespace, *name));
            named(name).or_else(|| named(name.strip_suffix("-predictor")?))
        });
        let graph = || {
            let (namespace, graphs) = self.graphs.get_key_value(namespace)?;
            graphs.get_key_value(name).map(|(name, _)| Owner::Graph((*namespace, *name)))
        };
        service.map(Owner::Service).or_else(graph)
    }
}

/// What a host of this daemon belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner<'a> {
    Service(Name<'a>),
    Graph(Name<'a>),
}

/// What a request to a graph goes through.
///
/// The graph must be one that validation lets through.
///
/// # Errors
/// Everything that stands in the way, step by step.
///
/// Source: KServe `inferencegraph/controller.go` (reference 5.3).
pub fn compile(graph: &InferenceGraph, world: &World<'_>) -> Result<GraphPlan, Vec<Obstacle>> {
    let names: Vec<&String> =
        graph.spec.nodes.keys().filter(|name| *name == ROOT).chain(graph.spec.nodes.keys().filter(|name| *name != ROOT)).collect();
    let mut compiler = Compiler { graph, world, places: BTreeMap::new(), obstacles: Vec::new() };
    compiler.places = names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let nodes: Vec<Node> = names.iter().filter_map(|name| compiler.node(name)).collect();
    if nodes.first().is_none_or(|node| node.name != ROOT) {
        compiler.obstacles.push(Obstacle { field: "spec.nodes".to_owned(), message: "root node not found".to_owned(), hint: None });
    }
    if !compiler.obstacles.is_empty() {
        return Err(compiler.obstacles);
    }
    let positive = |seconds: Option<i64>| seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    Ok(GraphPlan {
        nodes,
        timeout_s: positive(graph.spec.timeout_s).unwrap_or(TIMEOUT_S),
        step_timeout_s: positive(graph.spec.router_timeouts.and_then(|timeouts| timeouts.service_client_s)),
    })
}

struct Compiler<'c> {
    graph: &'c InferenceGraph,
    world: &'c World<'c>,
    /// Where each node stands in the plan.
    places: BTreeMap<&'c str, usize>,
    obstacles: Vec<Obstacle>,
}

impl<'c> Compiler<'c> {
    fn node(&mut self, name: &'c str) -> Option<Node> {
        let node = &self.graph.spec.nodes[name];
        let steps = node.steps.iter().enumerate().filter_map(|(index, step)| self.step(name, index, step)).collect();
        Some(Node { name: name.to_owned(), router: node.router_type?, steps })
    }

    fn step(&mut self, node: &str, index: usize, step: &InferenceStep) -> Option<Step> {
        let field = step_field(node, index);
        let condition = self.condition(&field, self.graph.spec.nodes[node].router_type, step);
        let target = self.target(&field, step)?;
        let key = if step.name.is_empty() { index.to_string() } else { step.name.clone() };
        Some(Step {
            label: label(node, &key),
            key,
            target,
            takes_response: step.data == "$response" && index > 0,
            maps_predictions: step.map_predictions_to_instances == Some(true),
            condition,
            hard: step.is_hard(),
            weight: step.weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0),
        })
    }

    /// The condition of a step whose node looks at it; in a Switch the empty one is the key without letters.
    fn condition(&mut self, field: &str, router: Option<RouterType>, step: &InferenceStep) -> Option<Condition> {
        match router {
            Some(RouterType::Switch) => {}
            Some(RouterType::Sequence) if !step.condition.is_empty() => {}
            _ => return None,
        }
        let read = Condition::new(&step.condition);
        read.map_err(|error| self.obstacle(format!("{field}.condition"), error.to_string(), None)).ok()
    }

    fn obstacle(&mut self, field: String, message: String, hint: Option<String>) {
        self.obstacles.push(Obstacle { field, message, hint });
    }

    fn target(&mut self, field: &str, step: &InferenceStep) -> Option<Target> {
        if !step.node_name.is_empty() {
            return self.places.get(step.node_name.as_str()).map(|place| Target::Node(*place));
        }
        if !step.service_name.is_empty() {
            return self.service(&format!("{field}.serviceName"), &step.service_name);
        }
        self.url(&format!("{field}.serviceUrl"), &step.service_url)
    }

    fn service(&mut self, field: &str, name: &str) -> Option<Target> {
        let (world, namespace) = (self.world, self.graph.metadata.namespace.as_str());
        let services = world.services.get(namespace);
        let Some(callee) = services.and_then(|services| services.get(name)) else {
            let others = services.into_iter().flat_map(BTreeMap::keys).copied();
            let hint = did_you_mean(name, others).map(|meant| format!("did you mean `{meant}`?"));
            self.obstacle(field.to_owned(), format!("Failed to find graph service {name}"), hint);
            return None;
        };
        if !callee.is_addressed {
            self.obstacle(field.to_owned(), format!("service {name} is not ready"), None);
            return None;
        }
        let Some(protocol) = protocol_of(callee.service, &world.runtimes) else {
            let message = "the runtime does not support a protocol compatible with Inference Graphs".to_owned();
            self.obstacle(field.to_owned(), message, Some("a graph calls services that speak v1 or v2 over HTTP".to_owned()));
            return None;
        };
        Some(Target::Service { namespace: namespace.to_owned(), name: name.to_owned(), protocol, model: None })
    }

    fn url(&mut self, field: &str, text: &str) -> Option<Target> {
        let url = Url::parse(text).ok()?;
        match url.host_str().and_then(|host| self.world.owner(host)) {
            Some(Owner::Graph((namespace, name))) => {
                if let Some(circle) = circle(self.world, (&self.graph.metadata.namespace, &self.graph.metadata.name), (namespace, name)) {
                    self.obstacle(field.to_owned(), format!("the graph calls itself: {circle}"), None);
                    return None;
                }
                Some(Target::Graph { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            Some(Owner::Service((namespace, name))) => {
                let called = |(protocol, model): (Protocol, &str)| {
                    let model = Some(model.to_owned());
                    Target::Service { namespace: namespace.to_owned(), name: name.to_owned(), protocol, model }
                };
                Some(inference_path(url.path()).map_or_else(|| Target::Url(text.to_owned()), called))
            }
            None => Some(Target::Url(text.to_owned())),
        }
    }
}

/// Letters of a step's name that a header takes; others become `_`.
fn label(node: &str, key: &str) -> String {
    let token = |letter: char| if letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.') { letter } else { '_' };
    format!("{node}.{key}").chars().map(token).collect()
}

/// Protocol and model of `/v1/models/iris:predict` or `/v2/models/iris/infer`.
fn inference_path(path: &str) -> Option<(Protocol, &str)> {
    if let Some(model) = path.strip_prefix("/v1/models/").and_then(|rest| rest.strip_suffix(":predict")) {
        return (!model.contains('/')).then_some((Protocol::V1, model));
    }
    let model = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
    (!model.contains('/')).then_some((Protocol::V2, model))
}

/// The first of v1 and v2 that a runtime named by the service lists, else the service's own protocol; v1 where it names none.
fn protocol_of(service: &InferenceService, runtimes: &[Candidate<'_>]) -> Option<Protocol> {
    let model = service.spec.predictor.model.as_ref();
    let named = |name: &str| {
        let of = |cluster: bool| {
            runtimes.iter().find(|candidate| {
                candidate.cluster == cluster
                    && candidate.runtime.metadata.name == name
                    && (cluster || candidate.runtime.metadata.namespace == service.metadata.namespace)
            })
        };
        of(false).or_else(|| of(true)).map(|candidate| &candidate.runtime.spec.protocol_versions)
    };
    match model.and_then(|model| model.runtime.as_deref()).and_then(named).filter(|listed| !listed.is_empty()) {
        Some(listed) => listed.iter().find_map(|protocol| Protocol::named(protocol)),
        None => Protocol::named(model.and_then(|model| model.protocol_version.as_deref()).unwrap_or("v1")),
    }
}

impl Protocol {
    fn named(word: &str) -> Option<Self> {
        match word {
            "v1" => Some(Self::V1),
            "v2" => Some(Self::V2),
            _ => None,
        }
    }
}

/// The way from `first` back to `graph` along the URLs of graphs, if there is one.
fn circle<'a>(world: &World<'a>, graph: Name<'_>, first: Name<'a>) -> Option<String> {
    let mut seen = BTreeSet::new();
    let mut waiting = vec![vec![first]];
    while let Some(way) = waiting.pop() {
        let last = way[way.len() - 1];
        if last == graph {
            let names = std::iter::once(graph).chain(way).map(|(_, name)| name);
            return Some(names.collect::<Vec<_>>().join(" -> "));
        }
        let next = world.graphs.get(last.0).and_then(|graphs| graphs.get(last.1));
        let Some(next) = next.filter(|_| seen.insert(last)) else { continue };
        let urls = next.spec.nodes.values().flat_map(|node| &node.steps).filter_map(|step| Url::parse(&step.service_url).ok());
        for url in urls {
            if let Some(Owner::Graph(name)) = url.host_str().and_then(|host| world.owner(host)) {
                waiting.push(way.iter().copied().chain([name]).collect());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::serving_runtime::ServingRuntime;
    use crate::manifest;
    use std::path::Path;

    /// A graph `g` of the namespace `default`, read from its nodes in YAML.
    fn graph_named(name: &str, nodes: &str) -> InferenceGraph {
        let text = format!("apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {{name: {name}}}\nspec:\n{nodes}\n");
        let mut parsed = manifest::parse(text.as_bytes(), Path::new("g.yaml"));
        assert_eq!(parsed.problems, []);
        let Resource::InferenceGraph(graph) = parsed.resources.remove(0).resource else { panic!("a graph") };
        *graph
    }

    fn graph(nodes: &str) -> InferenceGraph {
        graph_named("g", nodes)
    }

    fn service(name: &str, protocol: Option<&str>, runtime: Option<&str>) -> InferenceService {
        let mut service = InferenceService::default();
        service.metadata.name = name.to_owned();
        service.metadata.namespace = "default".to_owned();
        let model = service.spec.predictor.model.get_or_insert_default();
        model.protocol_version = protocol.map(str::to_owned);
        model.runtime = runtime.map(str::to_owned);
        service
    }

    fn runtime(name: &str, protocols: &[&str]) -> ServingRuntime {
        let mut runtime = ServingRuntime::default();
        runtime.metadata.name = name.to_owned();
        runtime.spec.protocol_versions = protocols.iter().map(|protocol| (*protocol).to_owned()).collect();
        runtime
    }

    fn compiled(
        nodes: &str,
        services: &[(&InferenceService, bool)],
        graphs: &[&InferenceGraph],
        runtimes: &[ServingRuntime],
    ) -> Result<GraphPlan, Vec<String>> {
        let candidates = runtimes.iter().map(|runtime| Candidate { runtime, cluster: true, created: None }).collect();
        let mut world = World::new(candidates, "Example.com.");
        for (service, is_addressed) in services {
            world.add_service(Callee { service, is_addressed: *is_addressed });
        }
        for graph in graphs {
            world.add_graph(graph);
        }
        let told = |obstacle: Obstacle| {
            let hint = obstacle.hint.map_or_else(String::new, |hint| format!(" ({hint})"));
            format!("{}: {}{hint}", obstacle.field, obstacle.message)
        };
        compile(&graph(nodes), &world).map_err(|obstacles| obstacles.into_iter().map(told).collect())
    }

    fn targets(plan: &GraphPlan) -> Vec<Target> {
        plan.nodes[0].steps.iter().map(|step| step.target.clone()).collect()
    }

    fn called(name: &str, protocol: Protocol, model: Option<&str>) -> Target {
        Target::Service { namespace: "default".to_owned(), name: name.to_owned(), protocol, model: model.map(str::to_owned) }
    }

    #[test]
    fn a_plan_begins_at_root_and_knows_keys_labels_and_what_steps_take() {
        let plan = compiled(
            "  timeout: 7\n  routerTimeouts: {serviceClient: 3}\n  nodes:\n    a: {routerType: Ensemble, steps: [{serviceName: iris}, {serviceName: iris, name: 'b c'}]}\n    root:\n      routerType: Sequence\n      steps:\n      - {nodeName: a, data: $response}\n      - {serviceName: iris, data: $response, dependency: Hard, mapPredictionsToInstances: true, condition: x.y}\n      - {serviceName: iris, data: $request}",
            &[(&service("iris", None, None), true)],
            &[],
            &[],
        )
        .unwrap();
        assert_eq!((plan.timeout_s, plan.step_timeout_s), (7, Some(3)));
        let [root, a] = plan.nodes.as_slice() else { panic!("{plan:?}") };
        assert_eq!((root.name.as_str(), root.steps[0].target.clone()), ("root", Target::Node(1)));
        assert_eq!(
            a.steps.iter().map(|step| (step.key.as_str(), step.label.as_str())).collect::<Vec<_>>(),
            [("0", "a.0"), ("b c", "a.b_c")]
        );
        let takes: Vec<bool> = root.steps.iter().map(|step| step.takes_response).collect();
        assert_eq!(takes, [false, true, false], "the first step has no answer before it");
        assert!(root.steps[1].hard && root.steps[1].maps_predictions && root.steps[1].condition.is_some());
    }

    #[test]
    fn a_graph_that_does_not_say_has_knatives_time_and_no_bound_for_a_step() {
        let plan = compiled(
            "  routerTimeouts: {serviceClient: 0}\n  nodes: {root: {routerType: Splitter, steps: [{serviceUrl: 'http://x/y', weight: 100}]}}",
            &[],
            &[],
            &[],
        );
        let plan = plan.unwrap();
        assert_eq!((plan.timeout_s, plan.step_timeout_s, plan.nodes[0].steps[0].weight), (300, None, 100));
    }

    #[test]
    fn services_that_are_missing_or_not_ready_are_told_in_kserves_words_all_at_once() {
        let nodes = "  nodes:\n    root: {routerType: Sequence, steps: [{serviceName: irs}, {serviceName: later}]}\n    other: {routerType: Switch, steps: [{condition: a.@flatten, serviceName: nope}]}";
        let told = compiled(nodes, &[(&service("iris", None, None), true), (&service("later", None, None), false)], &[], &[]).unwrap_err();
        assert_eq!(
            told,
            [
                "spec.nodes.root.steps[0].serviceName: Failed to find graph service irs (did you mean `iris`?)",
                "spec.nodes.root.steps[1].serviceName: service later is not ready",
                "spec.nodes.other.steps[0].condition: `@flatten` of gjson is not understood here",
                "spec.nodes.other.steps[0].serviceName: Failed to find graph service nope",
            ]
        );
    }

    #[test]
    fn a_runtime_that_is_named_decides_the_protocol_before_the_service_does() {
        let runtimes = [runtime("both", &["v2", "v1"]), runtime("grpc", &["grpc-v2"]), runtime("any", &[])];
        for (protocol, named, expected) in [
            (None, None, Some(Protocol::V1)),
            (Some("v2"), None, Some(Protocol::V2)),
            (Some("v1"), Some("both"), Some(Protocol::V2)),
            (Some("v2"), Some("any"), Some(Protocol::V2)),
            (Some("v2"), Some("grpc"), None),
            (Some("grpc-v2"), None, None),
            (Some("v2"), Some("gone"), Some(Protocol::V2)),
        ] {
            let service = service("iris", protocol, named);
            let plan =
                compiled("  nodes: {root: {routerType: Sequence, steps: [{serviceName: iris}]}}", &[(&service, true)], &[], &runtimes);
            match (plan, expected) {
                (Ok(plan), Some(expected)) => assert_eq!(targets(&plan), [called("iris", expected, None)]),
                (Err(told), None) => assert!(told[0].contains("does not support a protocol compatible with Inference Graphs"), "{told:?}"),
                (plan, _) => panic!("{protocol:?} {named:?}: {plan:?}"),
            }
        }
    }

    #[test]
    fn urls_of_this_daemon_are_answered_in_process_and_others_are_kept() {
        let iris = service("iris", None, None);
        let other = graph_named("all", "  nodes: {root: {routerType: Sequence, steps: [{serviceName: iris}]}}");
        for (url, expected) in [
            ("http://iris.default.svc.cluster.local/v1/models/iris:predict", called("iris", Protocol::V1, Some("iris"))),
            ("http://iris.default.example.com/v2/models/m/infer", called("iris", Protocol::V2, Some("m"))),
            ("http://iris-predictor.default/v1/models/iris:predict", called("iris", Protocol::V1, Some("iris"))),
            ("http://iris-default.example.com:8080/v1/models/iris:predict", called("iris", Protocol::V1, Some("iris"))),
            ("http://all.default.svc/anything", Target::Graph { namespace: "default".to_owned(), name: "all".to_owned() }),
        ] {
            let nodes = format!("  nodes: {{root: {{routerType: Sequence, steps: [{{serviceUrl: '{url}'}}]}}}}");
            assert_eq!(targets(&compiled(&nodes, &[(&iris, true)], &[&other], &[]).unwrap()), [expected], "{url}");
        }
        for url in [
            "http://iris.default.example.com/v1/models/iris:explain",
            "http://iris.other.svc.cluster.local/v1/models/iris:predict",
            "http://127.0.0.1:9000/x",
            "https://example.com/v1/models/iris:predict",
        ] {
            let nodes = format!("  nodes: {{root: {{routerType: Sequence, steps: [{{serviceUrl: '{url}'}}]}}}}");
            assert_eq!(targets(&compiled(&nodes, &[(&iris, true)], &[&other], &[]).unwrap()), [Target::Url(url.to_owned())]);
        }
    }

    #[test]
    fn graphs_that_call_themselves_or_each_other_are_refused_with_the_circle() {
        let to = |name: &str| {
            format!("  nodes: {{root: {{routerType: Sequence, steps: [{{serviceUrl: 'http://{name}.default.example.com/'}}]}}}}")
        };
        let own = graph(&to("g"));
        assert_eq!(
            compiled(&to("g"), &[], &[&own], &[]).unwrap_err(),
            ["spec.nodes.root.steps[0].serviceUrl: the graph calls itself: g -> g"]
        );
        let (own, a, b) = (graph(&to("a")), graph_named("a", &to("b")), graph_named("b", &to("g")));
        assert_eq!(
            compiled(&to("a"), &[], &[&own, &a, &b], &[]).unwrap_err(),
            ["spec.nodes.root.steps[0].serviceUrl: the graph calls itself: g -> a -> b -> g"]
        );
        let (a, b) = (graph_named("a", &to("b")), graph_named("b", &to("a")));
        assert!(compiled(&to("a"), &[], &[&a, &b], &[]).is_ok(), "the circle of others is theirs to mend");
    }
}
