//! Each router's rules, one by one, with models that do what their names say.

mod describing;

use super::*;
use crate::api::Resource;
use crate::api::inference_service::InferenceService;
use crate::engine::{Cancel, Engine, EngineError, LoadedModel};
use crate::inference::{InferenceRequest, ModelMetadata, TensorSpec};
use crate::manifest;
use crate::pool::threads::ThreadBudget;
use crate::pool::{ModelHandle, PoolOptions};
use crate::resolve::graph::{Callee, World, compile};
use crate::resolve::logging::{LoggerDefaults, logging_of};
use crate::resolve::storage_env::StorageEnv;
use crate::router::{Logbook, RouteTable, Target as RouteTarget, logger};
use crate::storage::{Config as StorageConfig, Storage};
use crate::store::Snapshot;
use crate::tensor::{DataType, Tensor};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What a model does with its one input.
#[derive(Debug, Clone)]
enum Does {
    Add(f32),
    Fail,
    /// Waits until so many run at once.
    Meet(Arc<Barrier>),
    /// Runs until nobody waits for it any more; tells that it began, and that it ended.
    Hang(mpsc::Sender<&'static str>),
}

#[derive(Debug)]
struct Model {
    does: Does,
    output: Arc<str>,
    metadata: Arc<ModelMetadata>,
    runs: Arc<AtomicUsize>,
}

impl LoadedModel for Model {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.metadata
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Worker { does: self.does.clone(), output: Arc::clone(&self.output), runs: Arc::clone(&self.runs) }))
    }
}

#[derive(Debug)]
struct Worker {
    does: Does,
    output: Arc<str>,
    runs: Arc<AtomicUsize>,
}

impl Engine for Worker {
    fn infer(&mut self, inputs: &[Tensor], _wanted: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let mut more = 0.0;
        match &self.does {
            Does::Add(number) => more = *number,
            Does::Fail => return Err(EngineError::InvalidInput("no such flower".to_owned())),
            Does::Meet(barrier) => drop(barrier.wait()),
            Does::Hang(tell) => {
                tell.send("began").unwrap();
                while !cancel.is_cancelled() {
                    std::thread::yield_now();
                }
                tell.send("ended").unwrap();
                return Err(EngineError::Cancelled);
            }
        }
        let numbers = inputs[0].data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()) + more);
        let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
        Ok(vec![Tensor::new(Arc::clone(&self.output), DataType::Fp32, inputs[0].shape().to_vec(), bytes.into()).unwrap()])
    }
}

/// Services and graphs behind one router.
struct House {
    router: Router,
    graphs: Graphs,
    services: Vec<InferenceService>,
    routes: Vec<Arc<Route>>,
    runs: Arc<AtomicUsize>,
}

impl House {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let router = Router::default();
        let graphs = Graphs::new(router.clone(), Limits::default(), config);
        Self { router, graphs, services: Vec::new(), routes: Vec::new(), runs: Arc::default() }
    }

    /// Adds a service whose model takes `input` and gives `output`, one or two numbers a row.
    fn serve(mut self, name: &str, protocol: &str, (input, output): (&str, &str), does: Does) -> Self {
        let spec = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, -1], optional: false };
        let metadata = ModelMetadata { inputs: vec![spec(input)], outputs: vec![spec(output)], ..ModelMetadata::default() };
        let model = Model { does, output: output.into(), metadata: Arc::new(metadata), runs: Arc::clone(&self.runs) };
        let options = PoolOptions {
            model: name.to_owned(),
            revision: format!("{name}-predictor-00001"),
            workers_max: 4,
            queue_max: 16,
            threads_per_run: 1,
            worker_idle_s: 1,
            inline_run_max: Duration::ZERO,
            batching: None,
        };
        let handle = ModelHandle::start(Arc::new(model), options, ThreadBudget::new(8));
        self.routes.push(Arc::new(Route {
            namespace: "default".to_owned(),
            service: name.to_owned(),
            model_name: name.into(),
            timeout_s: 60,
            batcher_replies: false,
            target: RouteTarget::Ready(handle),
        }));
        let mut service = InferenceService::default();
        service.metadata.name = name.to_owned();
        service.metadata.namespace = "default".to_owned();
        service.spec.predictor.model.get_or_insert_default().protocol_version = Some(protocol.to_owned());
        self.services.push(service);
        self.router.swap(RouteTable::new("default", self.routes.iter().cloned()));
        self
    }

    /// The usual ones: `one` and `ten` add and chain, `v1` adds 100 over v1, `broken` fails.
    fn usual() -> Self {
        Self::new()
            .serve("one", "v2", ("x", "y"), Does::Add(1.0))
            .serve("ten", "v2", ("y", "z"), Does::Add(10.0))
            .serve("v1", "v1", ("x", "y"), Does::Add(100.0))
            .serve("broken", "v2", ("x", "y"), Does::Fail)
    }

    fn route(&self, name: &str, spec: &str) -> GraphRoute {
        let text = format!("apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {{name: {name}}}\nspec:\n{spec}\n");
        let mut parsed = manifest::parse(text.as_bytes(), Path::new("g.yaml"));
        assert!(parsed.resources.len() == 1, "{:?}", parsed.problems);
        let Resource::InferenceGraph(graph) = parsed.resources.remove(0).resource else { panic!("a graph") };
        let mut world = World::new(Vec::new(), "example.com");
        self.services.iter().for_each(|service| world.add_service(Callee { service, is_addressed: true }));
        let plan = compile(&graph, &world).unwrap_or_else(|obstacles| panic!("{obstacles:?}"));
        GraphRoute { namespace: "default".to_owned(), name: name.into(), target: Ok(Arc::new(plan)) }
    }

    async fn run(&self, spec: &str, body: Arc<Body>, deadline: Instant) -> Outcome {
        let request = GraphRequest { body, headers: HeaderMap::new(), priority: Priority::Normal, depth: 0, deadline };
        self.graphs.run(&self.route("g", spec), request).await.0
    }

    /// Status and body as a JSON caller reads them.
    async fn ask(&self, spec: &str, body: &str) -> (u16, String) {
        read(self.run(spec, Body::text(body.to_owned()), later()).await).await
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn read(outcome: Outcome) -> (u16, String) {
    match outcome {
        Ok(reply) => (reply.status, String::from_utf8(reply.body.to_json().await.unwrap().to_vec()).unwrap()),
        Err(failure) => (failure.status, failure.body()),
    }
}

/// A v2 request of two numbers.
fn v2(name: &str) -> String {
    format!(r#"{{"id":"7","inputs":[{{"name":"{name}","shape":[1,2],"datatype":"FP32","data":[1.5,2]}}]}}"#)
}

/// The numbers of the one output of a v2 answer.
fn numbers(body: &str) -> Vec<f64> {
    let answer: serde_json::Value = serde_json::from_str(body).unwrap();
    let data = answer["outputs"][0]["data"].as_array().unwrap_or_else(|| panic!("{body}"));
    data.iter().map(|number| number.as_f64().unwrap()).collect()
}

fn cause(body: &str) -> String {
    let error: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(error["error"], "Failed to process request", "{body}");
    error["cause"].as_str().unwrap().to_owned()
}

fn sequence(steps: &str) -> String {
    format!("  nodes:\n    root:\n      routerType: Sequence\n      steps: [{steps}]")
}

#[tokio::test]
async fn the_outputs_of_a_step_are_the_inputs_of_the_next_by_name() {
    let (status, body) = House::usual().ask(&sequence("{serviceName: one}, {serviceName: ten, data: $response}"), &v2("x")).await;
    assert_eq!((status, numbers(&body)), (200, vec![12.5, 13.0]));
    assert!(body.contains(r#""model_name":"ten","id":"7""#), "the last step's own body, the caller's id: {body}");
}

#[tokio::test]
async fn anything_but_response_is_the_nodes_own_input() {
    let house = House::usual();
    for data in ["", ", data: $request", ", data: $response.predictions"] {
        let (status, body) = house.ask(&sequence(&format!("{{serviceName: one}}, {{serviceName: one{data}}}")), &v2("x")).await;
        assert_eq!((status, numbers(&body)), (200, vec![2.5, 3.0]), "{data}");
    }
}

#[tokio::test]
async fn tensors_that_do_not_fit_are_refused_by_the_next_model_which_names_what_it_wants() {
    let (status, body) = House::usual().ask(&sequence("{serviceName: one}, {serviceName: one, data: $response}"), &v2("x")).await;
    assert_eq!(status, 400);
    assert!(body.contains('y') && body.contains("`x`") && body.starts_with(r#"{"error":"#), "{body}");
}

#[tokio::test]
async fn predictions_become_instances_where_a_step_asks_for_it() {
    let house = House::usual();
    let mapped = "{serviceName: v1}, {serviceName: v1, data: $response, mapPredictionsToInstances: true}";
    assert_eq!(house.ask(&sequence(mapped), r#"{"instances": [[1, 2]]}"#).await, (200, r#"{"predictions":[[201.0,202.0]]}"#.to_owned()));
    let (status, body) = house.ask(&sequence("{serviceName: v1}, {serviceName: v1, data: $response}"), r#"{"instances": [[1, 2]]}"#).await;
    assert!(status == 400 && body.contains("neither"), "KServe's server would not find instances either: {body}");
    let caller = "{serviceName: v1, mapPredictionsToInstances: true}";
    assert_eq!(house.ask(&sequence(caller), r#"{"predictions": [[1, 2]], "x": 1}"#).await.0, 200, "the caller's body is mapped as well");
}

#[tokio::test]
async fn a_condition_looks_at_the_answer_before_and_ends_the_sequence_with_it() {
    let house = House::usual();
    let go_on = "{serviceName: one}, {serviceName: ten, data: $response, condition: 'outputs.#(name==y)'}";
    assert_eq!(numbers(&house.ask(&sequence(go_on), &v2("x")).await.1), [12.5, 13.0]);
    let stop = "{serviceName: one}, {serviceName: ten, data: $response, condition: 'outputs.#(name==z)'}";
    let (status, body) = house.ask(&sequence(stop), &v2("x")).await;
    assert_eq!((status, numbers(&body)), (200, vec![2.5, 3.0]));
    let failed = "{serviceName: broken}, {serviceName: one, condition: outputs}";
    let (status, body) = house.ask(&sequence(failed), &v2("x")).await;
    assert_eq!((status, body.contains("no such flower")), (200, true), "200 also where that answer was a failure");
}

#[tokio::test]
async fn a_condition_before_anything_was_answered_fails_the_request() {
    let (status, body) = House::usual().ask(&sequence("{serviceName: one, condition: '@this'}"), &v2("x")).await;
    assert_eq!((status, cause(&body)), (500, "invalid response".to_owned()));
}

#[tokio::test]
async fn a_hard_failure_ends_the_sequence_and_a_soft_one_is_the_next_steps_input() {
    let house = House::usual();
    let (status, body) = house.ask(&sequence("{serviceName: broken, dependency: Hard}, {serviceName: one}"), &v2("x")).await;
    assert_eq!((status, body.as_str()), (400, r#"{"error":"no such flower"}"#));
    assert_eq!(house.runs.load(Ordering::SeqCst), 1);
    let (status, body) = house.ask(&sequence("{serviceName: broken, dependency: Soft}, {serviceName: one}"), &v2("x")).await;
    assert_eq!((status, numbers(&body)), (200, vec![2.5, 3.0]));
    let (status, body) = house.ask(&sequence("{serviceName: broken}, {serviceName: one, data: $response}"), &v2("x")).await;
    assert!(status == 400 && body.contains("inputs"), "the error's body is no request: {body}");
}

#[tokio::test]
async fn a_switch_takes_the_first_step_whose_condition_is_there() {
    let house = House::usual();
    let switch = "  nodes:\n    root:\n      routerType: Switch\n      steps:\n      - {serviceName: broken, condition: kind}\n      - {serviceName: one, condition: '[@this].#(id==7)', dependency: Hard}\n      - {serviceName: v1, condition: '@this'}";
    assert_eq!(numbers(&house.ask(switch, &v2("x")).await.1), [2.5, 3.0]);
    let with_kind = v2("x").replace(r#""id""#, r#""kind":null,"id""#);
    assert_eq!(
        house.ask(switch, &with_kind).await,
        (400, r#"{"error":"no such flower"}"#.to_owned()),
        "null is there, and the answer comes as it is"
    );
    assert_eq!(house.ask(switch, r#"{"instances":[[1]]}"#).await, (200, r#"{"predictions":[[101.0]]}"#.to_owned()));
}

#[tokio::test]
async fn a_switch_that_nothing_fits_is_404_at_the_root_and_500_below() {
    let house = House::usual();
    let none = "None of the routes matched with the switch condition";
    let root = "  nodes: {root: {routerType: Switch, steps: [{serviceName: one, condition: nothing}]}}";
    for body in [v2("x"), "no json".to_owned(), String::new()] {
        let (status, answer) = house.ask(root, &body).await;
        assert_eq!((status, cause(&answer).as_str()), (404, none), "{body}");
    }
    assert_eq!(house.ask(root, "{}").await.1, format!(r#"{{"error":"Failed to process request","cause":"{none}"}}"#));
    let empty = "  nodes: {root: {routerType: Switch, steps: [{serviceName: one}]}}";
    assert_eq!(house.ask(empty, &v2("x")).await.0, 404, "an empty condition is the key without letters");
    for router in ["Sequence", "Ensemble", "Splitter", "Switch"] {
        let below = format!(
            "  nodes:\n    root: {{routerType: {router}, steps: [{{nodeName: s, weight: 100, condition: '@this'}}]}}\n    s: {{routerType: Switch, steps: [{{serviceName: one, condition: nothing}}]}}"
        );
        let below = if router == "Sequence" { below.replacen(", condition: '@this'", "", 1) } else { below };
        let (status, answer) = house.ask(&below, &v2("x")).await;
        assert_eq!((status, cause(&answer).as_str()), (500, none), "{router}");
    }
}

#[test]
fn a_splitter_picks_by_cumulative_weights() {
    let house = House::usual();
    let route = house.route("g", "  nodes: {root: {routerType: Splitter, steps: [{serviceName: one, weight: 20}, {serviceName: v1, weight: 0}, {serviceName: ten, weight: 80}]}}");
    let plan = route.target.unwrap();
    let picked = |point| pick(&plan.nodes[0].steps, point).map(|step| step.key.as_str());
    for (point, key) in [(0, Some("0")), (19, Some("0")), (20, Some("2")), (99, Some("2")), (100, None)] {
        assert_eq!(picked(point), key, "{point}");
    }
    let draws: Vec<u32> = (0..10_000).map(|_| draw()).collect();
    assert!(draws.iter().all(|point| *point < 100));
    let low = draws.iter().filter(|point| **point < 20).count();
    assert!((1_600..2_400).contains(&low), "a fifth, ten standard deviations wide: {low}");
}

#[tokio::test]
async fn a_splitter_gives_its_steps_answer_as_it_is() {
    let house = House::usual();
    let split = "  nodes: {root: {routerType: Splitter, steps: [{serviceName: one, weight: 0}, {serviceName: broken, weight: 100, dependency: Hard}]}}";
    assert_eq!(house.ask(split, &v2("x")).await, (400, r#"{"error":"no such flower"}"#.to_owned()));
}

fn ensemble(steps: &str) -> String {
    format!("  nodes: {{root: {{routerType: Ensemble, steps: [{steps}]}}}}")
}

#[tokio::test]
async fn an_ensemble_merges_answers_by_name_or_index_errors_among_them() {
    let house = House::usual();
    let (status, body) = house.ask(&ensemble("{serviceName: one, name: zero}, {serviceName: broken}, {serviceName: one}"), &v2("x")).await;
    assert_eq!(status, 200);
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["1", "2", "zero"], "sorted");
    assert_eq!(answer["1"], serde_json::json!({ "error": "no such flower" }));
    assert_eq!((&answer["zero"]["model_name"], &answer["2"]["outputs"][0]["data"]), (&"one".into(), &serde_json::json!([2.5, 3.0])));
}

#[tokio::test]
async fn the_first_hard_failure_of_an_ensemble_is_its_answer() {
    let house = House::usual();
    let steps = "{serviceName: one, dependency: Hard}, {serviceName: broken}, {serviceName: v1, dependency: Hard}, {serviceName: broken, dependency: Hard}";
    let (status, body) = house.ask(&ensemble(steps), &v2("x")).await;
    assert_eq!(status, 400);
    assert!(body.contains("input"), "the v1 model's refusal comes before the broken one's: {body}");
}

#[tokio::test]
async fn the_steps_of_an_ensemble_run_at_once() {
    let barrier = Arc::new(Barrier::new(3));
    let house = House::new().serve("meet", "v2", ("x", "y"), Does::Meet(barrier));
    let (status, _) = house.ask(&ensemble("{serviceName: meet}, {serviceName: meet}, {serviceName: meet}"), &v2("x")).await;
    assert_eq!(status, 200, "each waited for the others");
}

#[tokio::test]
async fn no_more_steps_of_an_ensemble_run_at_once_than_the_bound_allows() {
    let (tell, told) = mpsc::channel();
    let config = Config { parallel_max: 1, ..Config::default() };
    let house = House::with(config).serve("hang", "v2", ("x", "y"), Does::Hang(tell)).serve("one", "v2", ("x", "y"), Does::Add(1.0));
    let steps = ensemble("{serviceName: hang}, {serviceName: one}");
    let run = house.run(&steps, Body::text(v2("x")), later());
    let began = tokio::task::spawn_blocking(move || (told.recv().unwrap(), told));
    let told = tokio::select! { _ = run => panic!("it hangs"), began = began => began.unwrap().1 };
    assert_eq!(told.recv().unwrap(), "ended", "and who leaves takes the step with him");
    assert_eq!(house.runs.load(Ordering::SeqCst), 1, "the second one had to wait");
}

#[tokio::test]
async fn a_step_that_fails_ends_an_ensemble_before_those_that_are_waited_for() {
    let (tell, told) = mpsc::channel();
    let house = House::new().serve("hang", "v2", ("x", "y"), Does::Hang(tell));
    let nodes = "  nodes:\n    root: {routerType: Ensemble, steps: [{serviceName: hang}, {nodeName: s}]}\n    s: {routerType: Switch, steps: [{serviceName: hang, condition: nothing}]}";
    let (status, body) = house.ask(nodes, &v2("x")).await;
    assert_eq!((status, cause(&body).as_str()), (500, "None of the routes matched with the switch condition"));
    drop(told);
}

#[tokio::test]
async fn who_leaves_takes_all_steps_with_him() {
    let (tell, told) = mpsc::channel();
    let house = House::new().serve("hang", "v2", ("x", "y"), Does::Hang(tell));
    let nodes = "  nodes:\n    root: {routerType: Ensemble, steps: [{nodeName: s}, {serviceName: hang}]}\n    s: {routerType: Sequence, steps: [{serviceName: hang}]}";
    let run = house.run(nodes, Body::text(v2("x")), later());
    let began = tokio::task::spawn_blocking(move || {
        assert_eq!([told.recv().unwrap(), told.recv().unwrap()], ["began"; 2]);
        told
    });
    let told = tokio::select! { _ = run => panic!("it hangs"), began = began => began.unwrap() };
    assert_eq!([told.recv().unwrap(), told.recv().unwrap()], ["ended"; 2]);
}

#[tokio::test]
async fn every_step_has_the_graphs_deadline_and_its_own_bound() {
    let (tell, told) = mpsc::channel();
    let house = House::new().serve("hang", "v2", ("x", "y"), Does::Hang(tell));
    let nodes =
        "  nodes:\n    root: {routerType: Ensemble, steps: [{nodeName: s}]}\n    s: {routerType: Sequence, steps: [{serviceName: hang}]}";
    let soon = Instant::now() + Duration::from_millis(20);
    let (status, body) = read(house.run(nodes, Body::text(v2("x")), soon).await).await;
    assert_eq!((status, cause(&body).as_str()), (504, "graph g did not answer in time"));
    let bounded = format!("  routerTimeouts: {{serviceClient: 1}}\n{nodes}");
    let (status, body) = house.ask(&bounded, &v2("x")).await;
    assert_eq!((status, cause(&body).as_str()), (500, "service hang did not answer within `routerTimeouts.serviceClient`"));
    drop(told);
}

#[tokio::test]
async fn a_service_that_went_away_or_names_another_model_is_the_steps_answer() {
    let house = House::usual();
    let route = house.route("g", &sequence("{serviceName: one}"));
    house.router.swap(RouteTable::new("default", house.routes[1..].iter().cloned()));
    let request =
        GraphRequest { body: Body::text(v2("x")), headers: HeaderMap::new(), priority: Priority::Normal, depth: 0, deadline: later() };
    let answer = read(house.graphs.run(&route, request).await.0).await;
    assert_eq!(answer, (404, r#"{"error":"Model with name one does not exist."}"#.to_owned()));
    let other = sequence("{serviceUrl: 'http://ten.default.svc.cluster.local/v2/models/eleven/infer'}");
    assert_eq!(house.ask(&other, &v2("y")).await, (404, r#"{"error":"Model with name eleven does not exist."}"#.to_owned()));
    let own = sequence("{serviceUrl: 'http://ten.default.svc.cluster.local/v2/models/ten/infer'}");
    assert_eq!(numbers(&house.ask(&own, &v2("y")).await.1), [11.5, 12.0], "asked in process");
}

#[tokio::test]
async fn the_times_of_steps_are_told_in_the_order_they_ended() {
    let house = House::usual();
    let nodes = "  nodes:\n    root: {routerType: Sequence, steps: [{nodeName: s}, {serviceName: ten, data: $response}]}\n    s: {routerType: Sequence, steps: [{serviceName: one, name: first}]}";
    let request =
        GraphRequest { body: Body::text(v2("x")), headers: HeaderMap::new(), priority: Priority::Normal, depth: 0, deadline: later() };
    let (outcome, times) = house.graphs.run(&house.route("g", nodes), request).await;
    assert_eq!(outcome.unwrap().status, 200);
    assert_eq!(times.iter().map(|time| time.label.as_str()).collect::<Vec<_>>(), ["s.first", "root.1"]);
}

#[tokio::test]
async fn a_tensor_callers_request_goes_to_v1_and_v2_services_as_it_is() {
    let house = House::usual();
    let input = Tensor::new("x", DataType::Fp32, vec![1, 1], Bytes::from_static(&[0; 4])).unwrap();
    let request = || InferenceRequest { inputs: vec![input.clone()], ..InferenceRequest::default() };
    let reply =
        house.run(&ensemble("{serviceName: v1, name: a}, {serviceName: one, name: b}"), Body::request(request()), later()).await.unwrap();
    let tensors = reply.body.to_tensors(Limits::default()).await.unwrap().unwrap();
    let values: Vec<(&str, f32)> = tensors.iter().map(|t| (&**t.name(), f32::from_le_bytes(t.data()[..].try_into().unwrap()))).collect();
    assert_eq!(values, [("a.y", 100.0), ("b.y", 1.0)]);
    let switch = "  nodes: {root: {routerType: Switch, steps: [{serviceName: one, condition: 'inputs.#(name==x)'}]}}";
    assert_eq!(house.run(switch, Body::request(request()), later()).await.unwrap().status, 200, "conditions see a v2 request");
}

#[tokio::test]
async fn graphs_call_graphs_and_a_circle_ends_at_the_bound() {
    let house = House::usual();
    let inner = house.route("inner", "  nodes: {root: {routerType: Switch, steps: [{serviceName: one, condition: id}]}}");
    let around = GraphRoute { namespace: "default".to_owned(), ..house.route("around", &sequence("{serviceName: one}")) };
    let to = |name: &str| Target::Graph { namespace: "default".to_owned(), name: name.to_owned() };
    let calling = |name: &str| {
        let mut plan = GraphPlan::clone(house.route("g", &sequence("{serviceName: one}")).target.as_ref().unwrap());
        plan.nodes[0].steps[0].target = to(name);
        GraphRoute { target: Ok(Arc::new(plan)), ..around.clone() }
    };
    let table = RouteTable::new("default", house.routes.iter().cloned());
    house.router.swap(table.with_graphs([Arc::new(inner), Arc::new(calling("around"))]));
    let ask = async |route: &GraphRoute, body: &str| {
        let request = GraphRequest {
            body: Body::text(body.to_owned()),
            headers: HeaderMap::new(),
            priority: Priority::Normal,
            depth: 0,
            deadline: later(),
        };
        read(house.graphs.run(route, request).await.0).await
    };
    assert_eq!(numbers(&ask(&calling("inner"), &v2("x")).await.1), [2.5, 3.0]);
    let (status, body) = ask(&calling("inner"), "{}").await;
    assert_eq!((status, cause(&body).contains("None of the routes")), (404, true), "the other graph's answer, as over HTTP");
    let (status, body) = ask(&calling("around"), "{}").await;
    assert_eq!((status, cause(&body).as_str()), (500, "more than 16 graphs call one another: is there a circle?"));
    assert_eq!(ask(&calling("gone"), "{}").await.0, 404);
}

/// A web server that answers one call with `answer` and gives what it was asked.
async fn web(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/predict?x=1", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while !text.ends_with('}') {
            let length = socket.read(&mut buffer).await.unwrap();
            text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        socket.write_all(answer.as_bytes()).await.unwrap();
        text.to_lowercase()
    });
    (url, asked)
}

#[tokio::test]
async fn a_url_is_posted_json_with_the_headers_that_go_along_and_its_answer_comes_as_it_is() {
    let config = Config { propagate_headers: vec!["^X-Tag$".to_owned()], ..Config::default() };
    let house = House::with(config);
    let (url, asked) = web("HTTP/1.1 418 teapot\r\ncontent-length: 11\r\nx-secret: 1\r\n\r\n{\"tea\":true}").await;
    let headers: HeaderMap = [("x-tag", "a"), ("authorization", "secret"), ("content-type", "text/plain")]
        .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
        .into_iter()
        .collect();
    let input = Tensor::new("x", DataType::Fp32, vec![1], Bytes::from_static(&[0; 4])).unwrap();
    let body = Body::request(InferenceRequest { id: Some("7".to_owned()), inputs: vec![input], ..InferenceRequest::default() });
    let request = GraphRequest { body, headers, priority: Priority::Normal, depth: 3, deadline: later() };
    let outcome = house.graphs.run(&house.route("g", &sequence(&format!("{{serviceUrl: '{url}'}}"))), request).await.0;
    assert_eq!(read(outcome).await, (418, "{\"tea\":true".to_owned()), "whatever it is");
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("post /predict?x=1 http/1.1\r\n"), "{asked}");
    for part in ["content-type: application/json\r\n", "x-tag: a\r\n", "x-kserved-graph-depth: 4\r\n", "\"inputs\":[{\"name\":\"x\""] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    assert!(!asked.contains("secret") && !asked.contains("text/plain"), "{asked}");
}

#[tokio::test]
async fn a_url_that_does_not_answer_or_answers_too_much_fails_the_graph() {
    let house = House::with(Config { answer_bytes_max: 10, ..Config::default() });
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (status, body) = house.ask(&sequence(&format!("{{serviceUrl: 'http://{free}/x'}}")), "{}").await;
    assert!(status == 500 && cause(&body).starts_with(&format!("Post \"http://{free}/x\": ")), "{body}");
    for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n01234567890", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n01234567890"] {
        let (url, _asked) = web(answer).await;
        let (status, body) = house.ask(&sequence(&format!("{{serviceUrl: '{url}'}}")), "{}").await;
        assert!(status == 500 && cause(&body).ends_with("the answer is larger than 10 bytes"), "{body}");
    }
    let (url, _asked) = web("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n[12]").await;
    let (status, body) = house.ask(&ensemble(&format!("{{serviceUrl: '{url}'}}")), "{}").await;
    assert_eq!((status, cause(&body).as_str()), (500, "json: cannot unmarshal array into Go value of type map[string]interface {}"));
}

#[test]
fn patterns_that_stay_the_same_are_read_once() {
    let router = Router::default();
    let patterns = ["^X-".to_owned(), "[".to_owned()];
    router.propagate(Some(&patterns));
    let first = router.propagation().clone().unwrap();
    router.propagate(Some(&patterns));
    assert!(Arc::ptr_eq(&first, router.propagation().as_ref().unwrap()), "a wrong one is told once, not with every look at the folder");
    router.propagate(Some(&patterns[..1]));
    assert!(!Arc::ptr_eq(&first, router.propagation().as_ref().unwrap()));
    router.propagate(None);
    assert!(router.propagation().is_none());
}

#[tokio::test]
async fn each_step_is_logged_by_its_services_own_logger_as_the_json_it_would_be_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::usual();
    let book = Logbook::new(logger::Config::default(), Storage::new(StorageConfig::default(), StorageEnv::default()));
    let mut service = house.services[0].clone();
    service.spec.predictor.logger =
        serde_json::from_value(serde_json::json!({ "url": format!("file://{}", folder.path().display()), "mode": "all" })).unwrap();
    let spec = logging_of(&service, &LoggerDefaults::default(), &Snapshot::default()).unwrap().unwrap();
    house.router.set_loggers(house.router.loggers().with("default", "one", Some(book.open(spec))));
    house.router.propagate(Some(&["Ce-Id".to_owned()]));
    let mut headers = HeaderMap::new();
    headers.insert("ce-id", "e1".parse().unwrap());
    let route = house.route("g", &sequence("{serviceName: one}, {serviceName: ten, data: $response}"));
    let request = GraphRequest { body: Body::text(v2("x")), headers, priority: Priority::Normal, depth: 0, deadline: later() };
    house.graphs.run(&route, request).await.0.unwrap();
    house.router.set_loggers(logger::Loggers::default());
    book.end().await;
    let read = |side: &str| -> String {
        let records = std::fs::read(folder.path().join(format!("default/one/predictor/e1-{side}.json"))).unwrap();
        let record = serde_json::from_slice::<serde_json::Value>(&records).unwrap();
        assert_eq!(record["ContentType"], "application/json");
        String::from_utf8(STANDARD.decode(record["Bytes"].as_str().unwrap()).unwrap()).unwrap()
    };
    assert_eq!(read("request"), v2("x"));
    assert_eq!(numbers(&read("response")), [2.5, 3.0]);
}
