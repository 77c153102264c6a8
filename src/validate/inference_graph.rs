//! KServe's validating webhook for an InferenceGraph, and what it leaves to chance: unknown nodes, cycles, size.

use super::Violation;
use super::inference_service::is_service_name;
use crate::api::inference_graph::{InferenceGraph, InferenceGraphSpec, InferenceRouter, InferenceStep, ROOT, RouterType};
use crate::api::problem::did_you_mean;
use crate::manifest::field_below;
use std::collections::{BTreeMap, BTreeSet};

/// Words for `routerType`.
const TYPES: &str = "`Sequence`, `Switch`, `Ensemble`, `Splitter`";

/// How large a graph may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphBounds {
    /// Nodes of one graph.
    pub nodes_max: usize,
    /// Steps of one node.
    pub steps_max: usize,
    /// Nodes one below the other.
    pub depth_max: usize,
    /// Calls that one request may make in all.
    pub calls_max: u64,
}

impl GraphBounds {
    /// 128 nodes of 128 steps, 16 deep, 1024 calls: far above what people draw, far below what hurts.
    pub const DEFAULT: Self = Self { nodes_max: 128, steps_max: 128, depth_max: 16, calls_max: 1024 };
}

impl Default for GraphBounds {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Checks a graph; may be used when no violation is an error.
///
/// Source: KServe `inferencegraph_webhook.go` (reference 5.2).
#[must_use]
pub fn inference_graph(graph: &InferenceGraph, bounds: &GraphBounds) -> Vec<Violation> {
    let mut checks = Checks { name: &graph.metadata.name, spec: &graph.spec, bounds, found: Vec::new() };
    checks.name();
    checks.timeouts();
    checks.nodes();
    checks.shape();
    checks.found
}

/// Where a step stands, e.g. `spec.nodes.root.steps[0]`.
#[must_use]
pub(crate) fn step_field(node: &str, index: usize) -> String {
    format!("{}.steps[{index}]", field_below("spec.nodes", node))
}

struct Checks<'g> {
    name: &'g str,
    spec: &'g InferenceGraphSpec,
    bounds: &'g GraphBounds,
    found: Vec<Violation>,
}

impl Checks<'_> {
    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.found.push(Violation::error(field, message));
    }

    fn warning(&mut self, field: impl Into<String>, message: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.found.push(Violation { hint, ..Violation::warning(field, message) });
    }

    fn name(&mut self) {
        if !self.name.is_empty() && !is_service_name(self.name) {
            let message = "a InferenceGraph name must consist of lower case alphanumeric characters or '-', \
                           and must start with alphabetical character";
            self.found.push(Violation::error("metadata.name", message).with_hint("for instance `my-name` or `abc-123`"));
        }
    }

    fn timeouts(&mut self) {
        if self.spec.timeout_s.is_some_and(|seconds| seconds < 0) {
            self.error("spec.timeout", "timeout cannot be less than 0 seconds");
        }
        let Some(timeouts) = self.spec.router_timeouts else { return };
        for (name, seconds) in [
            ("serverRead", timeouts.server_read_s),
            ("serverWrite", timeouts.server_write_s),
            ("serverIdle", timeouts.server_idle_s),
            ("serviceClient", timeouts.service_client_s),
        ] {
            if seconds.is_some_and(|seconds| seconds < 0) {
                self.error(format!("spec.routerTimeouts.{name}"), format!("{name} cannot be less than 0 seconds"));
            }
        }
    }

    fn nodes(&mut self) {
        let spec = self.spec;
        if !spec.nodes.contains_key(ROOT) {
            let meant = did_you_mean(ROOT, spec.nodes.keys().map(String::as_str));
            let message = "root node not found, InferenceGraph needs a node with name 'root' as the root node of the graph";
            let hint = meant.map(|meant| format!("did you mean `{ROOT}` where `{meant}` stands?"));
            self.found.push(Violation { hint, ..Violation::error("spec.nodes", message) });
        }
        if spec.nodes.len() > self.bounds.nodes_max {
            let message = format!("{} nodes are more than the {} a graph may have", spec.nodes.len(), self.bounds.nodes_max);
            self.found.push(Violation::error("spec.nodes", message).with_hint("`graphs.nodes_max` in config.yaml is the bound"));
        }
        for (name, node) in &spec.nodes {
            self.node(name, node);
        }
    }

    fn node(&mut self, name: &str, node: &InferenceRouter) {
        let field = field_below("spec.nodes", name);
        if node.router_type.is_none() {
            self.error(format!("{field}.routerType"), format!("every node needs a routerType: one of {TYPES}"));
        }
        if node.steps.is_empty() {
            self.error(format!("{field}.steps"), "a node needs at least one step");
        }
        if node.steps.len() > self.bounds.steps_max {
            let message = format!("{} steps are more than the {} a node may have", node.steps.len(), self.bounds.steps_max);
            self.found
                .push(Violation::error(format!("{field}.steps"), message).with_hint("`graphs.steps_max` in config.yaml is the bound"));
            // A word on each of ten thousand steps helps nobody.
            return;
        }
        let mut names = BTreeSet::new();
        for (index, step) in node.steps.iter().enumerate() {
            let field = step_field(name, index);
            if !step.name.is_empty() && !names.insert(&step.name) {
                let message =
                    format!("Node \"{name}\" of InferenceGraph \"{}\" contains more than one step with name \"{}\"", self.name, step.name);
                self.error(format!("{field}.name"), message);
            }
            self.target(name, index, step);
            self.step(&field, index, node.router_type, step);
        }
        if node.router_type == Some(RouterType::Splitter) {
            self.weights(name, node);
        }
    }

    fn target(&mut self, node: &str, index: usize, step: &InferenceStep) {
        let field = step_field(node, index);
        let targets: Vec<(&str, &str)> = step.targets().collect();
        let about = format!("Step {index} (\"{}\") in node \"{node}\" of InferenceGraph \"{}\"", step.name, self.name);
        match targets.as_slice() {
            [] => self.error(field, format!("{about} does not specify an inference target")),
            [("nodeName", target)] if !self.spec.nodes.contains_key(*target) => {
                let meant = did_you_mean(target, self.spec.nodes.keys().map(String::as_str));
                let hint = meant.map(|meant| format!("did you mean `{meant}`?"));
                let message = format!("there is no node `{target}` in this graph");
                self.found.push(Violation { hint, ..Violation::error(format!("{field}.nodeName"), message) });
            }
            [("serviceUrl", target)] => {
                let is_web = |url: &url::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
                if !url::Url::parse(target).is_ok_and(|url| is_web(&url)) {
                    let violation = Violation::error(format!("{field}.serviceUrl"), format!("not an address on the web: `{target}`"));
                    self.found.push(violation.with_hint("write it whole, e.g. `http://host:8080/v1/models/name:predict`"));
                }
            }
            [_] => {}
            _ => self.error(field, format!("{about} specifies more than one of nodeName, serviceName, serviceUrl")),
        }
    }

    /// What a step says and its node does not ask for, and conditions that never or always hold.
    fn step(&mut self, field: &str, index: usize, router: Option<RouterType>, step: &InferenceStep) {
        let Some(router) = router else { return };
        let conditional = matches!(router, RouterType::Switch | RouterType::Sequence);
        for (name, set, read) in [
            ("condition", !step.condition.is_empty(), conditional),
            ("data", !step.data.is_empty(), router == RouterType::Sequence),
            ("mapPredictionsToInstances", step.map_predictions_to_instances == Some(true), router == RouterType::Sequence),
            ("weight", step.weight.is_some(), router == RouterType::Splitter),
        ] {
            if set && !read {
                self.warning(format!("{field}.{name}"), format!("no {router} looks at `{name}`, as in KServe"), None);
            }
        }
        if router == RouterType::Sequence && !matches!(step.data.as_str(), "" | "$request" | "$response") {
            let message = format!("`{}` is taken as `$request`, as by KServe", step.data);
            self.warning(format!("{field}.data"), message, Some("write `$response` for the answer of the step before"));
        }
        if router == RouterType::Switch && step.condition.is_empty() {
            self.warning(
                field,
                "a step without a condition is never taken, as in KServe",
                Some("`condition: '@this'` takes every request"),
            );
        }
        if router == RouterType::Sequence && index == 0 && !step.condition.is_empty() {
            let message = "nothing was answered before the first step, so this fails every request, as in KServe";
            self.warning(format!("{field}.condition"), message, None);
        }
        if conditional && !step.condition.is_empty() {
            self.condition(&format!("{field}.condition"), &step.condition);
        }
    }

    fn condition(&mut self, field: &str, condition: &str) {
        let (starts, ends) = (condition.trim_start().chars().next(), condition.trim_end());
        let why = match starts {
            Some('{') if ends.ends_with('}') => "`{..}` makes an object, which is always there",
            Some('[') if ends.ends_with(']') => "`[..]` makes a list, which is always there",
            _ if ends.ends_with(")#") => "`#(..)#` gives a list, which is there also when nothing is in it",
            _ => return,
        };
        let message = format!("holds for every request, as in KServe: {why}");
        self.warning(field, message, Some("ask for a field with `[@this].#(field==value)`"));
    }

    fn weights(&mut self, name: &str, node: &InferenceRouter) {
        let field = field_below("spec.nodes", name);
        let mut complete = true;
        for (index, step) in node.steps.iter().enumerate() {
            match step.weight {
                None => {
                    complete = false;
                    let message = format!("InferenceGraph[{}] Node[{name}] Route[{}] missing the 'Weight'", self.name, step.service_name);
                    self.error(step_field(name, index), message);
                }
                Some(weight) if weight < 0 => {
                    self.error(format!("{}.weight", step_field(name, index)), format!("a weight cannot be less than 0: {weight}"));
                }
                Some(_) => {}
            }
        }
        let sum = node.steps.iter().filter_map(|step| step.weight).fold(0_i64, i64::saturating_add);
        if complete && !node.steps.is_empty() && sum != 100 {
            let message = format!(
                "InferenceGraph[{}] Node[{name}] splitter node: the sum of traffic weights for all routing targets should be 100",
                self.name
            );
            self.found.push(Violation::error(format!("{field}.steps"), message).with_hint(format!("the sum is {sum}")));
        }
    }

    /// Cycles, nodes nobody reaches, depth and the number of calls.
    fn shape(&mut self) {
        let spec = self.spec;
        if spec.nodes.len() > self.bounds.nodes_max || spec.nodes.values().any(|node| node.steps.len() > self.bounds.steps_max) {
            return;
        }
        let mut walk = Walk { spec, path: Vec::new(), measured: BTreeMap::new(), cycles: Vec::new() };
        // From the root, so that circles are told as requests would meet them.
        walk.measure(ROOT);
        for name in spec.nodes.keys() {
            walk.measure(name);
        }
        let Walk { measured, cycles, .. } = walk;
        let acyclic = cycles.is_empty();
        for (field, path) in cycles {
            self.error(field, format!("the nodes call each other in a circle: {path}"));
        }
        let reached = reachable(spec);
        for name in spec.nodes.keys().filter(|name| spec.nodes.contains_key(ROOT) && !reached.contains(name.as_str())) {
            self.warning(field_below("spec.nodes", name), format!("no step leads to node `{name}`"), None);
        }
        if let Some(root) = measured.get(ROOT).filter(|_| acyclic) {
            self.size(*root);
        }
    }

    fn size(&mut self, root: Measure) {
        for (what, found, bound, key) in [
            ("levels of nodes", root.depth as u64, self.bounds.depth_max as u64, "depth_max"),
            ("calls for one request", root.calls, self.bounds.calls_max, "calls_max"),
        ] {
            if found > bound {
                let violation = Violation::error("spec.nodes.root", format!("{found} {what} are more than the {bound} a graph may have"));
                self.found.push(violation.with_hint(format!("`graphs.{key}` in config.yaml is the bound")));
            }
        }
    }
}

/// What lies below a node.
#[derive(Debug, Clone, Copy, Default)]
struct Measure {
    /// Levels, the node's own among them.
    depth: usize,
    /// Calls of one request at most.
    calls: u64,
}

/// A walk through the nodes that visits each once.
struct Walk<'g> {
    spec: &'g InferenceGraphSpec,
    /// The nodes from where the walk began to where it is.
    path: Vec<&'g str>,
    measured: BTreeMap<&'g str, Measure>,
    /// The step that closes a circle, and the circle.
    cycles: Vec<(String, String)>,
}

impl<'g> Walk<'g> {
    fn measure(&mut self, name: &'g str) -> Measure {
        if let Some(measure) = self.measured.get(name) {
            return *measure;
        }
        let Some(node) = self.spec.nodes.get(name) else { return Measure::default() };
        self.path.push(name);
        let mut below = Vec::with_capacity(node.steps.len());
        for (index, step) in node.steps.iter().enumerate() {
            below.push(self.step(name, index, step));
        }
        self.path.pop();
        let calls = below.iter().map(|measure| measure.calls);
        let calls = match node.router_type {
            Some(RouterType::Switch | RouterType::Splitter) => calls.max().unwrap_or(0),
            _ => calls.fold(0, u64::saturating_add),
        };
        let depth = 1 + below.iter().map(|measure| measure.depth).max().unwrap_or(0);
        let measure = Measure { depth, calls };
        self.measured.insert(name, measure);
        measure
    }

    fn step(&mut self, node: &str, index: usize, step: &'g InferenceStep) -> Measure {
        if step.node_name.is_empty() {
            return Measure { depth: 0, calls: 1 };
        }
        if let Some(start) = self.path.iter().position(|name| *name == step.node_name) {
            let circle = self.path[start..].iter().copied().chain([step.node_name.as_str()]).collect::<Vec<_>>().join(" -> ");
            self.cycles.push((format!("{}.nodeName", step_field(node, index)), circle));
            return Measure::default();
        }
        self.measure(&step.node_name)
    }
}

fn reachable(spec: &InferenceGraphSpec) -> BTreeSet<&str> {
    let (mut reached, mut waiting) = (BTreeSet::new(), vec![ROOT]);
    while let Some(name) = waiting.pop() {
        if reached.insert(name)
            && let Some(node) = spec.nodes.get(name)
        {
            waiting.extend(node.steps.iter().map(|step| step.node_name.as_str()).filter(|name| !name.is_empty()));
        }
    }
    reached
}
