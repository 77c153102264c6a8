//! The daemon: the one place where everything is built, started, and taken down in order.

mod banner;
mod example;
pub mod huge_pages;
mod ports;
mod unix_socket;

use crate::codec;
use crate::config::Config;
use crate::control::{self, Control, Scaling};
use crate::engine::EngineRegistry;
use crate::engine::huggingface::HuggingFaceLoader;
use crate::engine::onnx::OnnxLoader;
use crate::protocol::{self, Doors, Listener, OpenDoors, kube};
use crate::resolve::scale::ScaleDefaults;
use crate::resolve::storage_env::StorageEnv;
use crate::router::graph::Graphs;
use crate::router::{Logbook, Repository, Router};
use crate::shutdown::{Shutdown, Signals};
use crate::storage::Storage;
use crate::telemetry::{self, Metrics};
use anyhow::Context;
use banner::Banner;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use unix_socket::SocketFile;

/// Between foldings of histograms nobody asked for, so that they stay small.
const METRICS_FOLD: Duration = Duration::from_secs(5);

/// Serves until a signal asks for the end; the process's exit code.
///
/// `env` holds the process's variables, which open stores where resources do not. `ports_file` gets `{"http": N, "grpc": N}` once both doors listen.
///
/// # Errors
/// What keeps the daemon from starting: a door that cannot be bound, a missing key.
pub async fn run(config: Config, env: StorageEnv, ports_file: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let signals = Signals::catch().context("cannot catch signals")?;
    let metrics = telemetry::install_metrics()?;
    let (trigger, shutdown) = Shutdown::new();
    let server = Server::start(config, env, Some(metrics)).await?;
    if let Some(path) = ports_file {
        ports::write(&path, server.http, server.grpc).with_context(|| format!("cannot write the ports file `{}`", path.display()))?;
    }
    let rescan = server.rescan();
    tokio::select! {
        code = signals.run(&trigger, rescan) => Ok(code),
        () = async { shutdown.asked().await; server.stop().await } => Ok(ExitCode::SUCCESS),
    }
}

/// A running daemon. Dropping it closes its doors at once; [`Server::stop`] takes it down in order.
#[derive(Debug)]
pub struct Server {
    http: SocketAddr,
    grpc: SocketAddr,
    control: Control,
    logbook: Logbook,
    ready: watch::Sender<bool>,
    /// Ends watches, which would go on for ever.
    ending: watch::Sender<bool>,
    accepting: CancellationToken,
    doors: JoinSet<()>,
    sockets: Vec<SocketFile>,
    errands: JoinSet<()>,
    grace: Duration,
}

impl Server {
    /// Binds both doors, starts to watch, and serves. Needs a tokio runtime.
    ///
    /// # Errors
    /// An address that is taken or may not be bound without a key.
    pub async fn start(config: Config, env: StorageEnv, metrics: Option<Metrics>) -> anyhow::Result<Self> {
        protocol::check_bind(config.http.host, &config.protocol)?;
        let http = bind(SocketAddr::new(config.http.host, config.http.port), "http.port").await?;
        let grpc = bind(SocketAddr::new(config.http.host, config.grpc.port), "grpc.port").await?;
        let (http_address, grpc_address) = (http.local_addr()?, grpc.local_addr()?);
        let (unix, sockets) = bind_unix(&config).await?;
        let onnx = OnnxLoader::new(config.onnx.clone()).keeping_graphs_in(config.storage.cache.join("optimised"), this_program());
        let banner = Banner::new(&config, http_address, grpc_address);
        banner.start(onnx.library_info());
        let mut engines = EngineRegistry::default();
        let onnx = Arc::new(onnx);
        let huggingface = HuggingFaceLoader::new(config.huggingface.clone(), config.generation.clone(), Arc::clone(&onnx) as Arc<_>);
        engines.add("huggingface", Arc::new(huggingface));
        engines.add("onnx", onnx);
        let (router, (repository, commands)) = (Router::default(), Repository::channel());
        let storage = Storage::new(config.storage.clone(), env);
        let announce = Box::new(move |model: &control::ModelReady| banner.model_ready(model));
        let logbook = Logbook::new(config.logger.clone(), storage.clone());
        let control = Control::start(control_config(&config), engines, storage, (router.clone(), commands), (announce, logbook.clone()));
        let (ready, told) = watch::channel(false);
        let mut errands = JoinSet::new();
        errands.spawn(follow(control.ready(), ready.clone()));
        let render: Arc<dyn Fn() -> String + Send + Sync> = match metrics {
            Some(metrics) => {
                errands.spawn(fold(metrics.clone()));
                Arc::new(move || metrics.render())
            }
            None => Arc::new(String::new),
        };
        let (ending, ended) = watch::channel(false);
        let kube = Some(kube::routes(control.reader(), ended));
        let graphs = Graphs::new(router.clone(), graph_limits(&config), config.graphs);
        let doors = Doors { router, ready: told, metrics: render, repository, graphs, kube, config: config.protocol }.open();
        let accepting = CancellationToken::new();
        let listeners = [(Kind::Http, http.into()), (Kind::Grpc, grpc.into())].into_iter().chain(unix);
        let doors = serve(doors, listeners, &accepting);
        let grace = Duration::from_secs(config.shutdown.grace_s);
        Ok(Self { http: http_address, grpc: grpc_address, control, logbook, ready, ending, accepting, doors, sockets, errands, grace })
    }

    /// Where HTTP is served.
    #[must_use]
    pub const fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where gRPC is served.
    #[must_use]
    pub const fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// A reader of the store.
    #[must_use]
    pub fn reader(&self) -> crate::store::Reader {
        self.control.reader()
    }

    /// True once every service found at start was tried.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// A letter to this sender reads the watched folders anew.
    #[must_use]
    pub fn rescan(&self) -> mpsc::Sender<()> {
        self.control.rescan()
    }

    /// Takes everything down: not ready, no more changes, no more connections, requests in flight within the
    /// grace period, then pools and weights, then what loggers still have to deliver.
    pub async fn stop(mut self) {
        self.errands.shutdown().await;
        self.ready.send_replace(false);
        self.control.stop().await;
        self.ending.send_replace(true);
        self.accepting.cancel();
        self.sockets.clear();
        let deadline = Instant::now() + self.grace;
        let finished = async { while self.doors.join_next().await.is_some() {} };
        if tokio::time::timeout_at(deadline, finished).await.is_err() {
            tracing::warn!(
                grace_s = self.grace.as_secs(),
                "requests were still in flight after the grace period; their connections are closed"
            );
            self.doors.shutdown().await;
        }
        self.control.unload(deadline.saturating_duration_since(Instant::now())).await;
        self.logbook.end().await;
        tracing::info!("ended");
    }
}

/// What is spoken on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// HTTP, and gRPC for those who speak it.
    Http,
    /// gRPC alone.
    Grpc,
}

fn serve(doors: OpenDoors, listeners: impl Iterator<Item = (Kind, Listener)>, accepting: &CancellationToken) -> JoinSet<()> {
    let doors = Arc::new(doors);
    let mut tasks = JoinSet::new();
    for (kind, listener) in listeners {
        let (doors, accepting) = (Arc::clone(&doors), accepting.clone());
        tasks.spawn(async move {
            let ended = match kind {
                Kind::Http => doors.serve_http(listener, accepting).await,
                Kind::Grpc => doors.serve_grpc(listener, accepting).await,
            };
            if let Err(error) = ended {
                tracing::error!(%error, door = ?kind, "a door closed");
            }
        });
    }
    tasks
}

/// The Unix sockets that are asked for, and their files.
async fn bind_unix(config: &Config) -> anyhow::Result<(Vec<(Kind, Listener)>, Vec<SocketFile>)> {
    let asked = [(Kind::Http, &config.http.unix_socket, "http.unix_socket"), (Kind::Grpc, &config.grpc.unix_socket, "grpc.unix_socket")];
    let (mut listeners, mut files) = (Vec::new(), Vec::new());
    for (kind, path, key) in asked {
        let Some(path) = path else { continue };
        let (listener, file) = unix_socket::bind(path, key).await?;
        listeners.push((kind, listener.into()));
        files.push(file);
    }
    Ok((listeners, files))
}

/// This program's file, if it is kserved itself and not one that embeds it.
fn this_program() -> Option<PathBuf> {
    std::env::current_exe().ok().filter(|path| path.file_stem().is_some_and(|stem| stem == env!("CARGO_PKG_NAME")))
}

/// Passes the mind's readiness on, until the end begins.
async fn follow(mut mind: watch::Receiver<bool>, ready: watch::Sender<bool>) {
    while mind.wait_for(|open| *open).await.is_ok() {
        ready.send_replace(true);
        if mind.changed().await.is_err() {
            return;
        }
    }
}

async fn fold(metrics: Metrics) {
    let mut tick = tokio::time::interval(METRICS_FOLD);
    loop {
        tick.tick().await;
        metrics.fold();
    }
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on `{address}`\nhint: another process may hold the port; set `{key}`, 0 takes a free one"))
}

fn control_config(config: &Config) -> control::Config {
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let or_cores = |count: usize| if count == 0 { cores } else { count };
    control::Config {
        folders: config.models.iter().chain(&config.runtimes).cloned().collect(),
        default_namespace: config.default_namespace.clone(),
        domain: config.protocol.default_domain.clone(),
        deployment_mode: config.deployment_mode.into(),
        debounce: Duration::from_millis(config.control.debounce_ms),
        rescan: Duration::from_secs(config.control.rescan_s),
        poll: Duration::from_secs(config.control.poll_s),
        manifest_bytes_max: config.control.manifest_bytes_max,
        manifests_max: config.control.manifests_max,
        depth_max: config.control.folder_depth_max,
        loads_max: or_cores(config.control.loads_max),
        retry_first: Duration::from_millis(config.control.retry_first_ms),
        retry_max: Duration::from_secs(config.control.retry_max_s),
        drain: Duration::from_secs(config.control.drain_s),
        workers_max: or_cores(config.pool.workers_max),
        threads_max: or_cores(config.pool.threads_max),
        gpu: config.gpu,
        queue_max: config.pool.queue_max,
        worker_idle_s: config.pool.worker_idle_s,
        inline_run_max: Duration::from_micros(config.pool.inline_run_max_us),
        batch_bytes_max: config.pool.batch_bytes_max,
        models_bytes_max: config.memory.models_bytes_max,
        models_memory_percent: config.memory.models_percent,
        scaling: scaling(config),
        history: config.storage.cache.join("rollouts"),
        shadow_requests_max: config.control.shadow_requests_max,
        shadow_bytes_max: config.control.shadow_bytes_max,
        graphs: config.graphs.bounds(),
        node_name: config.local_models.node_name.clone(),
        node_labels: config.local_models.node_labels.clone(),
    }
}

/// What the steps of a graph may be sent: what callers may send.
fn graph_limits(config: &Config) -> codec::Limits {
    let protocol::Config { json_depth_max, decoded_bytes_max, .. } = config.protocol;
    codec::Limits { json_depth_max, decoded_bytes_max, ..codec::Limits::default() }
}

fn scaling(config: &Config) -> Scaling {
    let autoscaling = &config.autoscaling;
    Scaling {
        tick: Duration::from_millis(autoscaling.tick_ms),
        grace: Duration::from_secs(autoscaling.scale_to_zero_grace_s),
        up_rate: f64::from(autoscaling.scale_up_rate_max),
        down_rate: f64::from(autoscaling.scale_down_rate_max),
        defaults: ScaleDefaults {
            deployment_mode: config.deployment_mode.into(),
            stable_window: Duration::from_secs(autoscaling.stable_window_s),
            panic_window_percent: f64::from(autoscaling.panic_window_percent),
            panic_threshold_percent: f64::from(autoscaling.panic_threshold_percent),
            target_utilization_percent: f64::from(autoscaling.target_utilization_percent),
            scale_down_delay: Duration::from_secs(autoscaling.scale_down_delay_s),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Grpc, Http};

    fn config(folder: &std::path::Path) -> Config {
        Config {
            models: vec![folder.join("models")],
            runtimes: vec![folder.join("runtimes")],
            http: Http { port: 0, ..Http::default() },
            grpc: Grpc { port: 0, ..Grpc::default() },
            ..Config::default()
        }
    }

    async fn get(server: &Server, path: &str) -> reqwest::Response {
        reqwest::get(format!("http://{}{path}", server.http_address())).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_daemon_over_empty_folders_is_ready_and_ends_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(config(folder.path()), StorageEnv::default(), None).await.unwrap();
        server.ready().wait_for(|ready| *ready).await.unwrap();
        assert_eq!(get(&server, "/readyz").await.status(), 200);
        assert_eq!(get(&server, "/apis/serving.kserve.io/v1beta1/inferenceservices").await.status(), 200);
        let (address, ready) = (server.http_address(), server.ready());
        server.stop().await;
        assert!(!*ready.borrow(), "not ready any more");
        assert!(TcpListener::bind(address).await.is_ok(), "the port is free again");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_taken_port_ends_the_start_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(folder.path());
        config.http.port = taken.local_addr().unwrap().port();
        let error = Server::start(config, StorageEnv::default(), None).await.unwrap_err().to_string();
        assert!(error.contains("cannot listen") && error.contains("http.port"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_address_of_the_network_is_refused_without_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        config.http.host = std::net::Ipv4Addr::UNSPECIFIED.into();
        assert!(Server::start(config, StorageEnv::default(), None).await.is_err());
    }
}
