//! Runs a graph: Sequence, Switch, Ensemble and Splitter as KServe's router does, without the way over HTTP.
//!
//! A step whose service is here is asked directly; what it answers goes on as tensors. JSON is made where somebody
//! looks at it: a condition, `mapPredictionsToInstances`, a `serviceUrl`, a caller who spoke JSON.
//! All futures of a request belong to its caller: who leaves takes every step with him.
//!
//! Source: KServe `cmd/router/main.go` (reference 5.4).

mod body;
mod config;
mod describe;
mod headers;
mod remote;

pub use body::Body;
pub use config::Config;
pub use remote::DEPTH;

use super::logger::{Conversation, Side};
use super::{Route, Router};
use crate::api::inference_graph::RouterType;
use crate::codec::Limits;
use crate::inference::{InferenceError, InferenceResponse, Priority};
use crate::pool::statistics::Spent;
use crate::resolve::condition::{Condition, is_json};
use crate::resolve::graph::{GraphPlan, Node, Protocol, Step, Target};
use crate::router::work::off_the_reactor;
use body::{Answer, Shape};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
pub(super) use headers::Propagation;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use indexmap::IndexMap;
use remote::{Call, Remote};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;

/// KServe's words for every failure of a graph.
const FAILED: &str = "Failed to process request";

/// One InferenceGraph as the doors see it.
#[derive(Debug, Clone)]
pub struct GraphRoute {
    /// The namespace.
    pub namespace: String,
    /// The graph's name.
    pub name: Arc<str>,
    /// What a request goes through, or why it goes nowhere.
    pub target: Result<Arc<GraphPlan>, String>,
}

impl GraphRoute {
    /// What a request goes through.
    ///
    /// # Errors
    /// Why the graph is not ready.
    pub fn plan(&self) -> Result<&Arc<GraphPlan>, InferenceError> {
        let not_ready = |reason: &String| InferenceError::ModelNotReady { name: self.name.to_string(), reason: reason.clone() };
        self.target.as_ref().map_err(not_ready)
    }
}

/// What a graph is asked.
#[derive(Debug)]
pub struct GraphRequest {
    /// What the root is sent.
    pub body: Arc<Body>,
    /// The caller's headers, of which some go along.
    pub headers: HeaderMap,
    /// Who goes first where steps wait.
    pub priority: Priority,
    /// Graphs behind this call already.
    pub depth: usize,
    /// When the answer must be there.
    pub deadline: Instant,
}

/// What a step or a graph answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Arc<Body>,
    /// What went wrong in a step of this daemon, where that is the answer.
    pub error: Option<InferenceError>,
}

/// Why a graph came to no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status.
    pub status: u16,
    /// What went wrong.
    pub cause: String,
}

/// How long one step took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTime {
    /// The step: its node and its name or index.
    pub label: String,
    /// From the moment it was called to its answer.
    pub took: Duration,
}

type Outcome = Result<Reply, Failure>;

impl Failure {
    /// A failure inside.
    fn of(cause: impl Into<String>) -> Self {
        Self { status: 500, cause: cause.into() }
    }

    /// The body KServe answers with.
    #[must_use]
    pub fn body(&self) -> String {
        serde_json::json!({ "error": FAILED, "cause": self.cause }).to_string()
    }

    /// What a parent makes of it: any failure but that of time is one inside.
    fn nested(self) -> Self {
        if self.status == 504 { self } else { Self { status: 500, ..self } }
    }
}

impl Reply {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn refused(error: InferenceError) -> Self {
        Self { status: error.status(), body: Body::error(&error), error: Some(error) }
    }
}

/// Runs graphs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Graphs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    router: Router,
    remote: Remote,
    propagation: Propagation,
    limits: Limits,
    config: Config,
}

impl Graphs {
    /// Graphs over a router's services; `limits` bound what steps may be sent.
    #[must_use]
    pub fn new(router: Router, limits: Limits, config: Config) -> Self {
        let (remote, propagation) = (Remote::new(&config), Propagation::new(&config.propagate_headers));
        Self { shared: Arc::new(Shared { router, remote, propagation, limits, config }) }
    }

    /// What steps may be sent.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Runs a graph; also how long each step took, in the order in which they ended.
    ///
    /// Cancel safe: a dropped future drops all steps.
    ///
    /// # Errors
    /// [`Failure`], as KServe's router has it. A step that answered an error is a reply.
    pub async fn run(&self, route: &GraphRoute, request: GraphRequest) -> (Outcome, Vec<StepTime>) {
        let times = Mutex::default();
        let headers = match &*self.shared.router.propagation() {
            Some(followed) => followed.select(&request.headers),
            None => self.shared.propagation.select(&request.headers),
        };
        let all = Whole { graphs: &self.shared, headers: &headers, priority: request.priority, deadline: request.deadline, times: &times };
        let outcome = all.graph(route, request.body, request.depth).await;
        (outcome, times.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What all steps of a request share.
#[derive(Clone, Copy)]
struct Whole<'r> {
    graphs: &'r Shared,
    headers: &'r HeaderMap,
    priority: Priority,
    deadline: Instant,
    times: &'r Mutex<Vec<StepTime>>,
}

/// A request on its way through one graph.
struct Run<'r> {
    whole: Whole<'r>,
    route: &'r GraphRoute,
    plan: &'r GraphPlan,
    depth: usize,
}

impl Whole<'_> {
    async fn graph(&self, route: &GraphRoute, body: Arc<Body>, depth: usize) -> Outcome {
        let depth_max = self.graphs.config.depth_max;
        if depth >= depth_max {
            return Err(Failure::of(format!("more than {depth_max} graphs call one another: is there a circle?")));
        }
        let plan = match route.plan() {
            Ok(plan) => Arc::clone(plan),
            Err(error) => return Ok(Reply::refused(error)),
        };
        Run { whole: *self, route, plan: &plan, depth }.node(&plan.nodes[0], body).await
    }
}

impl Run<'_> {
    /// Boxed, since nodes lead to nodes.
    fn node<'a>(&'a self, node: &'a Node, input: Arc<Body>) -> BoxFuture<'a, Outcome> {
        match node.router {
            RouterType::Sequence => self.sequence(node, input).boxed(),
            RouterType::Switch => self.switch(node, input).boxed(),
            RouterType::Splitter => self.splitter(node, input).boxed(),
            RouterType::Ensemble => self.ensemble(node, input).boxed(),
        }
    }

    async fn sequence(&self, node: &Node, input: Arc<Body>) -> Outcome {
        let mut last: Option<Reply> = None;
        for step in &node.steps {
            let previous = last.as_ref().filter(|_| step.takes_response).map(|reply| &reply.body);
            let mut sent = Arc::clone(previous.unwrap_or(&input));
            if step.maps_predictions {
                sent = sent.with_instances().await.map_err(|error| Failure::of(error.to_string()))?;
            }
            if let Some(condition) = &step.condition {
                let answered = last.as_ref().map(|reply| &reply.body);
                match holds(&[condition], answered).await? {
                    None => return Err(Failure::of("invalid response")),
                    Some(Some(_)) => {}
                    // KServe's status, also where that answer was a failure.
                    Some(None) => return last.map(|reply| Reply { status: 200, ..reply }).ok_or_else(|| Failure::of("invalid response")),
                }
            }
            let reply = self.step(step, sent).await.map_err(Failure::nested)?;
            if step.hard && !reply.is_success() {
                return Ok(reply);
            }
            last = Some(reply);
        }
        last.ok_or_else(|| Failure::of(format!("node {} has no steps", node.name)))
    }

    async fn switch(&self, node: &Node, input: Arc<Body>) -> Outcome {
        let conditions: Vec<&Condition> = node.steps.iter().filter_map(|step| step.condition.as_ref()).collect();
        let taken = holds(&conditions, Some(&input)).await?.flatten();
        let Some(step) = taken.and_then(|index| node.steps.get(index)) else {
            return Err(Failure { status: 404, cause: "None of the routes matched with the switch condition".to_owned() });
        };
        self.step(step, input).await.map_err(Failure::nested)
    }

    async fn splitter(&self, node: &Node, input: Arc<Body>) -> Outcome {
        let step = pick(&node.steps, draw()).ok_or_else(|| Failure::of("no route was selected by the splitter"))?;
        self.step(step, input).await.map_err(Failure::nested)
    }

    /// All steps at once, within the bound; answers count in the order of the steps, failures as soon as they come.
    async fn ensemble(&self, node: &Node, input: Arc<Body>) -> Outcome {
        let mut waiting = node.steps.iter().enumerate();
        let mut running = FuturesUnordered::new();
        let mut replies: Vec<Option<Reply>> = vec![None; node.steps.len()];
        let (mut merged, mut next) = (IndexMap::with_capacity(node.steps.len()), 0);
        loop {
            while running.len() < self.whole.graphs.config.parallel_max
                && let Some((index, step)) = waiting.next()
            {
                running.push(self.member(index, step, Arc::clone(&input)).boxed());
            }
            let Some((index, outcome)) = running.next().await else { break };
            replies[index] = Some(outcome.map_err(Failure::nested)?);
            while let Some(reply) = replies.get_mut(next).and_then(Option::take) {
                let step = &node.steps[next];
                if step.hard && !reply.is_success() {
                    return Ok(reply);
                }
                merged.insert(step.key.clone(), reply.body);
                next += 1;
            }
        }
        Ok(Reply { status: 200, body: Body::merged(merged), error: None })
    }

    /// One step of an Ensemble, whose answer must be an object.
    async fn member(&self, index: usize, step: &Step, input: Arc<Body>) -> (usize, Outcome) {
        let outcome = match self.step(step, input).await {
            Ok(reply) => reply.body.check_object().await.map(|()| reply),
            failed => failed,
        };
        (index, outcome)
    }

    /// Takes one step, with its span and its time.
    async fn step(&self, step: &Step, input: Arc<Body>) -> Outcome {
        let span = tracing::debug_span!("step", graph = &*self.route.name, step = step.label.as_str());
        let began = Instant::now();
        let outcome = self.call(step, input).instrument(span).await;
        if !matches!(step.target, Target::Node(_)) {
            let time = StepTime { label: step.label.clone(), took: began.elapsed() };
            self.whole.times.lock().unwrap_or_else(PoisonError::into_inner).push(time);
        }
        outcome
    }

    async fn call(&self, step: &Step, input: Arc<Body>) -> Outcome {
        match &step.target {
            Target::Node(place) => self.node(&self.plan.nodes[*place], input).await,
            Target::Service { namespace, name, protocol, model } => {
                self.service((namespace, name), *protocol, model.as_deref(), input).await
            }
            Target::Graph { namespace, name } => self.other_graph(namespace, name, input).await,
            Target::Url(url) => self.url(url, &input).await,
        }
    }

    /// When a step must have answered, and whether that is sooner than the graph must.
    fn step_deadline(&self) -> (Instant, bool) {
        let step = self.plan.step_timeout_s.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
        match step {
            Some(step) if step < self.whole.deadline => (step, true),
            _ => (self.whole.deadline, false),
        }
    }

    fn too_late(&self) -> Failure {
        Failure { status: 504, cause: format!("graph {} did not answer in time", self.route.name) }
    }

    /// Asks a service of this daemon. What its door would refuse is the step's answer.
    async fn service(&self, (namespace, name): (&str, &str), protocol: Protocol, model: Option<&str>, input: Arc<Body>) -> Outcome {
        let found = self.whole.graphs.router.load().service(namespace, name).cloned();
        let Some(route) = found.filter(|route| model.is_none_or(|model| *route.model_name == *model)) else {
            return Ok(Reply::refused(InferenceError::ModelNotFound(model.unwrap_or(name).to_owned())));
        };
        let conversation = self.conversation(&route);
        copy(conversation.as_ref(), Side::Request, &input);
        let (deadline, by_step) = self.step_deadline();
        let own = Instant::now().checked_add(Duration::from_secs(route.timeout_s)).unwrap_or(deadline);
        match self.infer(route, protocol, input, deadline.min(own)).await {
            Ok(answer) => {
                let body = Body::answer(answer);
                copy(conversation.as_ref(), Side::Response, &body);
                Ok(Reply { status: 200, body, error: None })
            }
            Err(InferenceError::DeadlineExceeded { .. }) if deadline <= own && by_step => {
                Err(Failure::of(format!("service {name} did not answer within `routerTimeouts.serviceClient`")))
            }
            Err(InferenceError::DeadlineExceeded { .. }) if deadline <= own => Err(self.too_late()),
            Err(error) => Ok(Reply::refused(error)),
        }
    }

    /// The copy of a step, where its service has a logger: on a cluster that one sees the headers that go along.
    fn conversation(&self, route: &Route) -> Option<Conversation> {
        let loggers = self.whole.graphs.router.loggers();
        if loggers.is_empty() {
            return None;
        }
        let mut headers = self.whole.headers.clone();
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        loggers.of(&route.namespace, &route.service)?.begin(&headers)
    }

    async fn infer(
        &self,
        mut route: Arc<Route>,
        protocol: Protocol,
        input: Arc<Body>,
        deadline: Instant,
    ) -> Result<Answer, InferenceError> {
        let (began, limits) = (Instant::now(), self.whole.graphs.limits);
        let metadata = Arc::clone(route.metadata()?);
        let shape = match protocol {
            Protocol::V1 if route.batcher_replies => Shape::V1Batched,
            Protocol::V1 => Shape::V1,
            Protocol::V2 => Shape::V2,
        };
        let mut request = match shape {
            Shape::V2 => input.to_v2_request(&route.model_name, limits).await?,
            shape => input.to_v1_request(shape, &metadata, limits).await?,
        };
        request.priority = self.whole.priority;
        let id = request.id.take().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let parsed = began.elapsed();
        let response = self.whole.graphs.router.infer(&mut route, request, deadline).await;
        count(&route, response.as_ref().ok(), (began.elapsed(), parsed));
        let version = metadata.versions.last().cloned();
        Ok(Answer { response: response?, shape, model: Arc::clone(&route.model_name), version, id })
    }

    /// Calls another graph; its failure is its answer, as over HTTP.
    async fn other_graph(&self, namespace: &str, name: &str, input: Arc<Body>) -> Outcome {
        let found = self.whole.graphs.router.load().graph(namespace, name).cloned();
        let Some(route) = found else {
            return Ok(Reply::refused(InferenceError::ModelNotFound(name.to_owned())));
        };
        let whole = Whole { deadline: self.step_deadline().0, ..self.whole };
        match whole.graph(&route, input, self.depth + 1).await {
            Err(failure) if failure.status == 504 => Err(failure),
            Err(failure) => Ok(Reply { status: failure.status, body: Body::text(failure.body()), error: None }),
            reply => reply,
        }
    }

    async fn url(&self, url: &str, input: &Arc<Body>) -> Outcome {
        let body = input.to_json().await.map_err(|error| Failure::of(error.to_string()))?;
        let (deadline, by_step) = self.step_deadline();
        let call = Call { url, body, headers: self.whole.headers.clone(), depth: self.depth + 1, deadline };
        match self.whole.graphs.remote.post(call).await {
            Ok((status, body)) => Ok(Reply { status, body: Body::text(body), error: None }),
            Err(_) if !by_step && Instant::now() >= deadline => Err(self.too_late()),
            Err(failure) => Err(failure),
        }
    }
}

/// Copies one side of a step, as the JSON that it would be over HTTP.
fn copy(conversation: Option<&Conversation>, side: Side, body: &Arc<Body>) {
    let Some(copying) = conversation.and_then(|conversation| conversation.copy(side)) else { return };
    let (bytes, body) = (body.bytes(), Arc::clone(body));
    copying.write_later(bytes, async move { body.to_json().await.ok() });
}

/// Notes in the revision's statistics how a step went.
fn count(route: &Route, response: Option<&InferenceResponse>, (total, parsed): (Duration, Duration)) {
    let Ok(handle) = route.ready() else { return };
    match response.map(|response| response.timing) {
        Some(timing) => {
            handle.statistics().succeeded(&Spent { total, queue: timing.queue, input: parsed, infer: timing.run, output: Duration::ZERO });
        }
        None => handle.statistics().failed(total),
    }
}

/// The first condition that holds for a body; nothing where the body is no JSON, or there is none.
async fn holds(conditions: &[&Condition], body: Option<&Arc<Body>>) -> Result<Option<Option<usize>>, Failure> {
    let Some(body) = body else { return Ok(None) };
    let json = body.to_json().await.map_err(|error| Failure::of(error.to_string()))?;
    let conditions: Vec<Condition> = conditions.iter().copied().cloned().collect();
    let found = off_the_reactor(json.len(), move || is_json(&json).then(|| conditions.iter().position(|condition| condition.holds(&json))));
    found.await.map_err(|error| Failure::of(error.to_string()))
}

/// The step at a point from 0 to 99, by cumulative weights.
fn pick(steps: &[Step], point: u32) -> Option<&Step> {
    let mut end = 0;
    steps.iter().find(|step| {
        end += step.weight;
        point < end
    })
}

/// A number from 0 to 99, each as likely as the others.
fn draw() -> u32 {
    // The last 62 bits of a random UUID are random; the rest of a division by 100 is even to one in 10^16.
    let bits = uuid::Uuid::new_v4().as_u128() & ((1 << 62) - 1);
    u32::try_from(bits % 100).unwrap_or(0)
}

#[cfg(test)]
mod tests;
