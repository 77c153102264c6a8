//! What a request pays between the door and the engine: checks, queue, the hop to a worker thread and back.
//!
//! The scripted engine answers at once with its own input, so all that is measured is the house itself.

#![expect(missing_docs, reason = "criterion's macros write public functions without any")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures::future::join_all;
use kserved::api::inference_graph::RouterType;
use kserved::codec::Limits;
use kserved::engine::{Cancel, Engine, EngineError, LoadedModel};
use kserved::inference::Priority;
use kserved::inference::{InferenceRequest, ModelMetadata, TensorSpec};
use kserved::pool::threads::ThreadBudget;
use kserved::pool::{ModelHandle, PoolOptions};
use kserved::resolve::graph::{GraphPlan, Node, Protocol, Step, Target};
use kserved::router::graph::{Body, Config, GraphRequest, Graphs};
use kserved::router::{GraphRoute, Route, RouteTable, Router, Target as RouteTarget};
use kserved::tensor::{DataType, Tensor};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::Instant;

#[derive(Debug)]
struct Echo(Arc<ModelMetadata>);

#[derive(Debug)]
struct EchoWorker;

impl LoadedModel for Echo {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.0
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(EchoWorker))
    }
}

impl Engine for EchoWorker {
    fn infer(&mut self, inputs: &[Tensor], _wanted: &[usize], _cancel: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        Ok(inputs.to_vec())
    }
}

fn pool(workers_max: usize) -> ModelHandle {
    pool_with(workers_max, Duration::ZERO)
}

/// A pool whose runs below `inline_run_max` stay on their caller's thread.
fn pool_with(workers_max: usize, inline_run_max: Duration) -> ModelHandle {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, 4], optional: false };
    let metadata = ModelMetadata { inputs: vec![spec("x")], outputs: vec![spec("x")], ..ModelMetadata::default() };
    let (model, revision) = ("echo".to_owned(), "echo-predictor-00001".to_owned());
    let options = PoolOptions {
        model,
        revision,
        workers_max,
        queue_max: 1024,
        threads_per_run: 1,
        worker_idle_s: 60,
        inline_run_max,
        batching: None,
    };
    ModelHandle::start(Arc::new(Echo(Arc::new(metadata))), options, ThreadBudget::new(workers_max))
}

fn request() -> InferenceRequest {
    let input = Tensor::new("x", DataType::Fp32, vec![1, 4], Bytes::from_static(&[0; 16])).expect("4 floats take 16 bytes");
    InferenceRequest { inputs: vec![input], ..InferenceRequest::default() }
}

async fn ask(handle: &ModelHandle) {
    let answer = handle.infer(request(), Instant::now() + Duration::from_mins(1)).await;
    black_box(answer).expect("the echo answers");
}

/// The engine alone, then through the pool one after another and many at once.
fn infer_path(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let mut group = criterion.benchmark_group("infer_path");
    group.bench_function("engine_alone", |bencher| {
        let request = request();
        bencher.iter(|| EchoWorker.infer(black_box(&request.inputs), &[0], &Cancel::never()).expect("the echo answers"));
    });
    for workers in [1, 2] {
        let handle = pool(workers);
        group.bench_function(BenchmarkId::new("one_caller", workers), |bencher| bencher.to_async(&runtime).iter(|| ask(&handle)));
        group.bench_function(BenchmarkId::new("32_callers_each_once", workers), |bencher| {
            bencher.to_async(&runtime).iter(|| join_all((0..32).map(|_| ask(&handle))));
        });
    }
    group.finish();
}

/// A graph over `steps` services, each the echo.
fn graph(router: RouterType, steps: usize) -> GraphRoute {
    let step = |index: usize| Step {
        key: index.to_string(),
        label: format!("root.{index}"),
        target: Target::Service { namespace: "default".to_owned(), name: "echo".to_owned(), protocol: Protocol::V2, model: None },
        takes_response: index > 0 && router == RouterType::Sequence,
        maps_predictions: false,
        condition: None,
        hard: true,
        weight: 0,
    };
    let nodes = vec![Node { name: "root".to_owned(), router, steps: (0..steps).map(step).collect() }];
    let plan = GraphPlan { nodes, timeout_s: 60, step_timeout_s: None };
    GraphRoute { namespace: "default".to_owned(), name: "graph".into(), target: Ok(Arc::new(plan)) }
}

/// The model asked as a door asks it, then through graphs of one and four steps. The echo runs on its caller's thread, so
/// that nothing is measured but the way.
fn graph_path(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let router = Router::default();
    let route = Route {
        namespace: "default".to_owned(),
        service: "echo".to_owned(),
        model_name: "echo".into(),
        timeout_s: 60,
        batcher_replies: false,
        target: RouteTarget::Ready(pool_with(1, Duration::from_secs(1))),
    };
    router.swap(RouteTable::new("default", [route]));
    let graphs = Graphs::new(router.clone(), Limits::default(), Config::default());
    let mut group = criterion.benchmark_group("graph_path");
    group.bench_function("model", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            let mut route = Arc::clone(router.load().service("default", "echo").expect("it is there"));
            let answer = router.infer(&mut route, request(), Instant::now() + Duration::from_mins(1)).await;
            black_box(answer).expect("the echo answers");
        });
    });
    for (name, kind, steps) in
        [("sequence", RouterType::Sequence, 1), ("sequence", RouterType::Sequence, 4), ("ensemble", RouterType::Ensemble, 4)]
    {
        let route = graph(kind, steps);
        group.bench_function(BenchmarkId::new(name, steps), |bencher| {
            bencher.to_async(&runtime).iter(async || {
                let asked = GraphRequest {
                    body: Body::request(request()),
                    headers: http::HeaderMap::new(),
                    priority: Priority::Normal,
                    depth: 0,
                    deadline: Instant::now() + Duration::from_mins(1),
                };
                let (outcome, _) = graphs.run(&route, asked).await;
                let tensors = outcome.expect("the graph answers").body.to_tensors(Limits::default()).await;
                black_box(tensors).expect("tensors come back");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, infer_path, graph_path);
criterion_main!(benches);
