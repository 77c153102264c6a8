//! A scripted model behind real doors.

use crate::engine::generation::Generator;
use crate::engine::{Cancel, Engine, EngineError, LoadedModel};
use crate::inference::{ModelMetadata, TensorSpec};
use crate::pool::threads::ThreadBudget;
use crate::pool::{ModelHandle, PoolOptions};
use crate::protocol::door::Door;
use crate::protocol::entrance::Entrance;
use crate::protocol::{Config, Doors};
use crate::router::graph::Graphs;
use crate::router::repository::Command;
use crate::router::{Repository, Roads, Route, RouteTable, Router, Target};
use crate::tensor::{DataType, Tensor};
use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, watch};

/// Runs of all `echo` models; tells whether a dropped request cost engine time.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) runs: AtomicUsize,
    /// Held by a test while a `wait` model shall not go on.
    pub(crate) gate: tokio::sync::Mutex<()>,
}

/// What a scripted model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    Echo,
    /// Echoes once the script's gate is open.
    Wait,
    Fail,
    Panic,
}

#[derive(Debug)]
struct Scripted {
    behaviour: Behaviour,
    metadata: Arc<ModelMetadata>,
    script: Arc<Script>,
}

impl LoadedModel for Scripted {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.metadata
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Worker { behaviour: self.behaviour, script: Arc::clone(&self.script) }))
    }
}

#[derive(Debug)]
struct Worker {
    behaviour: Behaviour,
    script: Arc<Script>,
}

impl Engine for Worker {
    fn infer(&mut self, inputs: &[Tensor], wanted: &[usize], _cancel: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        self.script.runs.fetch_add(1, Ordering::SeqCst);
        match self.behaviour {
            Behaviour::Echo => {}
            Behaviour::Wait => drop(self.script.gate.blocking_lock()),
            Behaviour::Fail => return Err(EngineError::Failed("the engine broke".to_owned())),
            Behaviour::Panic => panic!("scripted"),
        }
        Ok(wanted.iter().map(|_| inputs[0].clone().renamed("y")).collect())
    }
}

/// A model that writes, and nothing else.
#[derive(Debug)]
struct Writer {
    metadata: Arc<ModelMetadata>,
    generator: Arc<dyn Generator>,
}

impl LoadedModel for Writer {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.metadata
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Err(EngineError::Failed("it only writes".to_owned()))
    }

    fn generator(&self) -> Option<Arc<dyn Generator>> {
        Some(Arc::clone(&self.generator))
    }
}

fn metadata() -> ModelMetadata {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, 2], optional: false };
    ModelMetadata { platform: "scripted".to_owned(), inputs: vec![spec("x")], outputs: vec![spec("y")], ..ModelMetadata::default() }
}

/// Doors with their models, and the ends that the control side would hold.
pub(crate) struct House {
    pub(crate) script: Arc<Script>,
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) doors: Doors,
}

impl House {
    /// `echo`, `fail`, `panic` and `loading` in `default`, another `echo` and `private` in `team`.
    pub(crate) fn new(config: Config) -> Self {
        let (router, script) = (Router::default(), Arc::new(Script::default()));
        let house_routes = [
            ready("default", "echo", Behaviour::Echo, &script),
            ready("default", "fail", Behaviour::Fail, &script),
            ready("default", "panic", Behaviour::Panic, &script),
            ready("default", "wait", Behaviour::Wait, &script),
            route("default", "loading", Target::NotReady("It is being loaded.".to_owned())),
            ready("team", "echo", Behaviour::Echo, &script),
            ready("team", "private", Behaviour::Echo, &script),
        ];
        router.swap(RouteTable::new("default", house_routes));
        let (ready, is_ready) = watch::channel(true);
        let (repository, commands) = Repository::channel();
        let graphs = Graphs::new(router.clone(), crate::codec::Limits::default(), crate::router::graph::Config::default());
        let doors =
            Doors { router, ready: is_ready, metrics: Arc::new(|| "# metrics\n".to_owned()), repository, graphs, kube: None, config };
        Self { script, ready, commands, doors }
    }

    /// One more model in `default`, which writes what a script says.
    pub(crate) fn add_writer(&self, name: &str, generator: Arc<dyn Generator>) {
        let model = Writer { metadata: Arc::new(metadata()), generator };
        let handle = ModelHandle::start(Arc::new(model), options(name), ThreadBudget::new(1));
        let now = Roads { route: Some(Arc::new(route("default", name, Target::Ready(handle)))), labels: Vec::new() };
        let table = self.doors.router.load().with(&Roads::default(), &now);
        self.doors.router.swap(table);
    }

    pub(crate) fn door(&self) -> Arc<Door> {
        self.doors.clone().open().door
    }

    pub(crate) fn http(&self) -> Entrance {
        Entrance::http(&self.door(), Some(Ipv4Addr::LOCALHOST.into()), None)
    }

    pub(crate) fn grpc(&self) -> Entrance {
        Entrance::grpc(&self.door(), Some(Ipv4Addr::LOCALHOST.into()))
    }
}

fn ready(namespace: &str, name: &str, behaviour: Behaviour, script: &Arc<Script>) -> Route {
    let model = Arc::new(Scripted { behaviour, metadata: Arc::new(metadata()), script: Arc::clone(script) });
    route(namespace, name, Target::Ready(ModelHandle::start(model, options(name), ThreadBudget::new(1))))
}

fn options(name: &str) -> PoolOptions {
    PoolOptions {
        model: name.to_owned(),
        revision: format!("{name}-predictor-00001"),
        workers_max: 1,
        queue_max: 1,
        threads_per_run: 1,
        worker_idle_s: 1,
        inline_run_max: std::time::Duration::ZERO,
        batching: None,
    }
}

fn route(namespace: &str, name: &str, target: Target) -> Route {
    Route {
        namespace: namespace.to_owned(),
        service: name.to_owned(),
        model_name: name.into(),
        timeout_s: 60,
        batcher_replies: false,
        target,
    }
}

/// A v2 request for a model with two numbers, as JSON.
pub(super) const TWO_NUMBERS: &str = r#"{"id":"7","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.5,-2]}]}"#;

/// A JSON POST to `path` on `localhost`.
pub(crate) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("host", "localhost").header("content-type", "application/json").body(body.into()).unwrap()
}

/// A GET of `path` on a host.
pub(crate) fn get(host: &str, path: &str) -> Request<Body> {
    Request::get(path).header("host", host).body(Body::empty()).unwrap()
}

/// Status and body as text.
pub(crate) async fn text(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

/// The answer of the HTTP door, as status and text.
pub(crate) async fn ask(house: &House, request: Request<Body>) -> (u16, String) {
    text(house.http().answer(request).await).await
}
