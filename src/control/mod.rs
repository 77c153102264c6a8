//! The mind: from files in the watched folders to models that answer.
//!
//! Files are watched (`watch`), read (`reflector`) and taken into the store; what changed is queued by key
//! (`queue`) and brought to what is asked for (`reconcile`, `inference_service`, `rollout`), and the status
//! says how it went (`status`). The doors see two results: the route table and the store.

mod autoscale;
mod canaries;
mod history;
mod inference_graph;
mod inference_service;
mod ingress;
mod judge;
mod local_models;
mod logging;
mod manifests;
mod memory;
mod mind;
mod model_files;
mod modes;
mod queue;
mod reconcile;
mod reflector;
mod related;
mod replicas;
mod rollout;
mod scaler;
mod scan;
mod services;
mod settling;
mod sides;
mod sleep;
mod status;
mod warm_up;
mod watch;

pub use mind::{Announce, ModelReady};
pub use scaler::Scaling;

use crate::api::deployment_mode::DeploymentMode;
use crate::api::inference_service_config::InferenceServiceConfig;
use crate::api::{Kind, ResourceKey};
use crate::engine::{EngineRegistry, GpuConfig};
use crate::inference::InferenceError;
use crate::manifest::Options;
use crate::router::repository::{Action, Command};
use crate::router::{Logbook, Router, waker};
use crate::storage::Storage;
use crate::store::Reader;
use crate::validate::{Defaults, GraphBounds};
use manifests::Rules;
use mind::Mind;
use model_files::ModelFiles;
use reflector::{Look, Reflector};
use services::Services;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch as watched};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use watch::{Hint, Times, Watch};

/// How the mind works.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The watched folders. Where two files of different folders claim a name at start, the earlier folder's counts.
    pub folders: Vec<PathBuf>,
    /// The namespace of resources that name none, and of requests to a bare host.
    pub default_namespace: String,
    /// The domain of service hosts.
    pub domain: String,
    /// How services are deployed that do not say.
    pub deployment_mode: DeploymentMode,
    /// Quiet after a change before files are read.
    pub debounce: Duration,
    /// Between full looks at the folders.
    pub rescan: Duration,
    /// Between looks where the system tells of no changes.
    pub poll: Duration,
    /// Bytes of one manifest.
    pub manifest_bytes_max: u64,
    /// Manifests in all.
    pub manifests_max: usize,
    /// Folders below a watched one.
    pub depth_max: usize,
    /// Loads at once.
    pub loads_max: usize,
    /// Before the first new try after an error that may pass.
    pub retry_first: Duration,
    /// Between tries at most.
    pub retry_max: Duration,
    /// What an old revision has to finish what it admitted.
    pub drain: Duration,
    /// Worker threads of one revision.
    pub workers_max: usize,
    /// Threads that run models at once, all models together.
    pub threads_max: usize,
    /// Which models compute on a GPU.
    pub gpu: GpuConfig,
    /// Requests that may wait for one revision.
    pub queue_max: usize,
    /// Seconds a worker waits for work before its thread ends.
    pub worker_idle_s: u64,
    /// A model whose runs lately took less runs on its caller's thread; zero: never.
    pub inline_run_max: Duration,
    /// Bytes of all inputs of one batch at most.
    pub batch_bytes_max: usize,
    /// Bytes that all models may take together; 0 is a share of the machine's memory.
    pub models_bytes_max: u64,
    /// That share, in percent.
    pub models_memory_percent: u64,
    /// How replicas follow what is asked, and when models sleep.
    pub scaling: Scaling,
    /// Where the splits of services are kept for a restart.
    pub history: PathBuf,
    /// Copies of requests that wait to be run on a canary that is judged, for each service.
    pub shadow_requests_max: usize,
    /// Bytes of inputs and outputs that these copies hold, for each service.
    pub shadow_bytes_max: usize,
    /// How large a graph may be.
    pub graphs: GraphBounds,
    /// The name of this machine as a node; none is what the kernel calls it.
    pub node_name: Option<String>,
    /// What groups of nodes may ask of it beside its name, its system and its processor.
    pub node_labels: BTreeMap<String, String>,
}

/// Services worked on at once. Most of them wait for a download or for their turn to load, and a slow
/// download must not hold up a model that lies on this machine.
const RECONCILES_MAX: usize = 256;
/// Looks in a row that may each find folders new to the watch; they can nest no deeper than the bound.
const LOOKS_MAX: usize = 64;

/// The running mind.
#[derive(Debug)]
pub struct Control {
    mind: Arc<Mind>,
    rescan: mpsc::Sender<()>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Control {
    /// Starts to watch and to serve. Needs a tokio runtime.
    ///
    /// `commands` are load and unload requests of clients; `announce` hears of each model that begins to serve; `logbook`
    /// opens the loggers of services, and is ended by its owner after [`Control::unload`].
    #[must_use]
    pub fn start(
        config: Config,
        engines: EngineRegistry,
        storage: Storage,
        doors: (Router, mpsc::Receiver<Command>),
        (announce, logbook): (Announce, Logbook),
    ) -> Self {
        let (router, commands) = doors;
        let services = Services::new(config.default_namespace.clone(), router);
        let (asks, asked_awake) = waker::channel();
        let mind = Arc::new(Mind::new(config, engines, storage, services, (asks, announce, logbook)));
        let stop = CancellationToken::new();
        // One letter that waits is enough: its reading will see every change up to then.
        let (rescan, asked) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(until(stop.clone(), run_watch(Arc::clone(&mind), asked)));
        tasks.spawn(until(stop.clone(), run_commands(Arc::clone(&mind), commands)));
        tasks.spawn(until(stop.clone(), sleep::run_asks(Arc::clone(&mind), asked_awake)));
        tasks.spawn(until(stop.clone(), scaler::run_scaler(Arc::clone(&mind))));
        tasks.spawn(until(stop.clone(), judge::run_judge(Arc::clone(&mind))));
        tasks.spawn(until(stop.clone(), modes::run_modes(Arc::clone(&mind))));
        tasks.spawn(run_queue(Arc::clone(&mind), stop.clone()));
        Self { mind, rescan, stop, tasks }
    }

    /// A reader of the store.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.mind.reader.clone()
    }

    /// True once every service found at start was tried.
    #[must_use]
    pub fn ready(&self) -> watched::Receiver<bool> {
        self.mind.ready()
    }

    /// A letter to this sender reads the folders anew.
    #[must_use]
    pub fn rescan(&self) -> mpsc::Sender<()> {
        self.rescan.clone()
    }

    /// Stops watching and reconciling. What serves goes on serving.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Takes all routes away, lets every pool finish within `grace` and unloads it. Call after [`Control::stop`].
    pub async fn unload(&self, grace: Duration) {
        self.mind.unload_all(grace).await;
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

async fn run_queue(mind: Arc<Mind>, stop: CancellationToken) {
    let bounds = queue::Bounds { parallel_max: RECONCILES_MAX, retry_min: mind.config.retry_first, retry_max: mind.config.retry_max };
    mind.queue.run(bounds, stop, |key, superseded| reconcile::reconcile(Arc::clone(&mind), key, superseded)).await;
}

/// Looks at the folders once, and then whenever there may be something new. The first look finds everything
/// new: starting is a reload from nothing.
async fn run_watch(mind: Arc<Mind>, mut asked: mpsc::Receiver<()>) {
    let mut watcher = Watcher::new(&mind);
    watcher.look(&mind, Hint::Everything).await;
    loop {
        let hint = tokio::select! {
            hint = watcher.watch.changed() => hint,
            Some(()) = asked.recv() => {
                tracing::info!("reading the folders anew, as asked");
                watcher.watch.forget();
                Hint::Everything
            }
            () = tokio::time::sleep(mind.config.rescan) => {
                watcher.watch.forget();
                Hint::Paths(std::collections::BTreeSet::new())
            }
        };
        watcher.look(&mind, hint).await;
        check_models(&mind).await;
    }
}

/// The watch and the reader behind it.
struct Watcher {
    watch: Watch,
    /// Away while it looks, on a thread that may wait.
    reflector: Option<Reflector>,
    /// Whether it looked before.
    began: bool,
}

impl Watcher {
    fn new(mind: &Mind) -> Self {
        let config = &mind.config;
        let bounds = scan::Bounds { depth_max: config.depth_max, files_max: config.manifests_max };
        let namespace = config.default_namespace.clone();
        let options = Options { bytes_max: config.manifest_bytes_max, namespace, ..Options::default() };
        let defaults = Defaults { deployment_mode: config.deployment_mode, graphs: config.graphs };
        let rules = Rules { options, defaults, recorded: mind.modes.all() };
        let reflector = Reflector::new(config.folders.clone(), bounds, rules);
        Self { watch: Watch::start(Times { debounce: config.debounce, poll: config.poll }), reflector: Some(reflector), began: false }
    }

    /// Reads what changed and queues what must be done, until every folder that was found is watched.
    async fn look(&mut self, mind: &Mind, mut hint: Hint) {
        for _ in 0..LOOKS_MAX {
            let look = self.read(hint).await;
            let again = look.again;
            let new_folders = self.watch.follow(&look.folders);
            take(mind, look);
            if !std::mem::replace(&mut self.began, true) {
                // What comes later, also a moment later, is new.
                mind.forget_the_gone().await;
                local_models::forget_the_gone(mind).await;
                if let Some(reflector) = &mut self.reflector {
                    reflector.forget_recorded();
                }
            }
            self.take_up_defaults(mind);
            if again {
                tokio::time::sleep(mind.config.debounce * 2).await;
            } else if !new_folders {
                return;
            }
            hint = Hint::Paths(std::collections::BTreeSet::new());
        }
    }

    /// Files that are read from now on get the defaults that KServe's ConfigMap sets now.
    fn take_up_defaults(&mut self, mind: &Mind) {
        if let Some(reflector) = &mut self.reflector {
            reflector.set_deployment_mode(mind.deployment_mode());
        }
    }

    async fn read(&mut self, hint: Hint) -> Look {
        let mut reflector = self.reflector.take().expect("the reflector is here because one look ends before the next begins");
        let looking = tokio::task::spawn_blocking(move || {
            let look = reflector.look(&hint);
            (reflector, look)
        });
        let (reflector, look) = looking.await.expect("a look ends because reading files does not panic and is never aborted");
        self.reflector = Some(reflector);
        look
    }
}

/// Takes over what was read, tells of mistakes, and queues what must be looked at again.
fn take(mind: &Mind, look: Look) {
    let mut changes = look.changes;
    let (before, mode) = (mind.reader.snapshot(), mind.deployment_mode());
    for (file, change) in &mut changes {
        manifests::check_updates(change, &before, mode);
        manifests::tell(file, change);
    }
    local_models::admit(&mut changes, &before);
    let keys = mind.apply(changes);
    let snapshot = mind.reader.snapshot();
    let propagated = snapshot.settings().and_then(InferenceServiceConfig::propagated_headers);
    mind.services.follow(ingress::ingress_of(snapshot.settings()), propagated);
    for key in keys.iter().flat_map(|key| related::keys_to_reconcile(&snapshot, key)) {
        mind.queue.add(key);
    }
}

/// Queues the services whose model files are not those that were loaded.
async fn check_models(mind: &Mind) {
    let watched = mind.services.watched();
    let checking = tokio::task::spawn_blocking(move || {
        let differs = |(key, path, files): (ResourceKey, PathBuf, ModelFiles)| (ModelFiles::at(&path) != files).then_some(key);
        watched.into_iter().filter_map(differs).collect::<Vec<_>>()
    });
    for key in checking.await.expect("looking at files ends because it does not panic and is never aborted") {
        mind.queue.add(key);
    }
}

/// Hands load and unload requests to the reconcile of their service; the answer comes from there.
async fn run_commands(mind: Arc<Mind>, mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        let key = ResourceKey { kind: Kind::InferenceService, namespace: command.namespace, name: command.service };
        let Some(stored) = mind.reader.snapshot().get(&key).cloned() else {
            // The caller may have left.
            let _ = command.reply.send(Err(InferenceError::ModelNotFound(key.name)));
            continue;
        };
        mind.services.with(&key, |service| {
            service.unloaded = (command.action == Action::Unload).then_some(stored.generation);
            service.waiting.push(command.reply);
        });
        mind.queue.add(key);
    }
}

#[cfg(test)]
mod tests;
