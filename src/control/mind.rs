//! What every reconcile shares: the store's one writer, what runs, the engines, and the status it tells.

use super::Config;
use super::history::History;
use super::ingress::Hosts;
use super::judge::Comparing;
use super::local_models::{self, LocalModels};
use super::memory::{Memory, give_back};
use super::modes::Modes;
use super::queue::Queue;
use super::related;
use super::services::{Replicas, Retired, Running, Service, Services};
use super::status::{Facts, Stage, status_of};
use crate::api::deployment_mode::DeploymentMode;
use crate::api::inference_service_config::InferenceServiceConfig;
use crate::api::local_model::{LocalModelNode, LocalModelStatus};
use crate::api::problem::Severity;
use crate::api::status::InferenceGraphStatus;
use crate::api::{Kind, Resource, ResourceKey};
use crate::engine::{EngineRegistry, Placement};
use crate::inference::{InferenceError, ModelMetadata};
use crate::manifest::FieldPlaces;
use crate::observe;
use crate::place::Place;
use crate::pool::threads::ThreadBudget;
use crate::resolve::revision::{RevisionName, RevisionSpec, RuntimeRef};
use crate::resolve::traffic::Book;
use crate::router::shadow;
use crate::router::waker::Asks;
use crate::router::{Logbook, Route};
use crate::storage::{ModelDir, Storage};
use crate::store::{Declared, FileChange, Reader, Stored, Writer};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Where the node of this machine is declared: in no file.
const NODE_FILE: &str = "(kserved itself)";

/// A model that began to serve.
#[derive(Debug, Clone)]
pub struct ModelReady {
    /// The service.
    pub key: ResourceKey,
    /// Its name on the wire.
    pub model_name: String,
    /// The protocol after defaulting: `v1`, `v2` …
    pub protocol: String,
    /// The revision.
    pub revision: String,
    /// From the first look at its spec to the first answer.
    pub took: Duration,
    /// Inputs and outputs.
    pub metadata: Arc<ModelMetadata>,
}

/// Hears of models that begin to serve; must not wait.
pub type Announce = Box<dyn Fn(&ModelReady) + Send + Sync>;

/// What every reconcile shares.
pub(super) struct Mind {
    pub(super) config: Config,
    pub(super) engines: EngineRegistry,
    pub(super) storage: Storage,
    pub(super) services: Services,
    pub(super) queue: Queue,
    /// Loads at once.
    pub(super) loads: Arc<Semaphore>,
    /// Where models that serve already stand to be warmed up, one at a time.
    pub(super) warm_ups: Arc<tokio::sync::Mutex<()>>,
    /// Threads of all runs together.
    pub(super) threads: ThreadBudget,
    pub(super) reader: Reader,
    pub(super) announce: Announce,
    /// What models may take together.
    pub(super) memory: Arc<Memory>,
    /// Where the routes of models that sleep lead their requests.
    pub(super) asks: Asks,
    /// Opens the loggers of services.
    pub(super) logbook: Logbook,
    /// How resources were deployed when they were first seen.
    pub(super) modes: Modes,
    /// Models that were fetched beforehand.
    pub(super) local_models: LocalModels,
    writer: Mutex<Writer>,
    drains: TaskTracker,
    gate: Gate,
}

impl fmt::Debug for Mind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mind").field("config", &self.config).field("services", &self.services).finish_non_exhaustive()
    }
}

/// Opens once every service found at start was tried.
#[derive(Debug)]
struct Gate {
    /// None before the first look at the folders.
    untried: Mutex<Option<BTreeSet<ResourceKey>>>,
    open: watch::Sender<bool>,
}

impl Mind {
    pub(super) fn new(
        config: Config,
        engines: EngineRegistry,
        storage: Storage,
        services: Services,
        (asks, announce, logbook): (Asks, Announce, Logbook),
    ) -> Self {
        let memory = Arc::new(Memory::new(config.models_bytes_max, config.models_memory_percent));
        let writer = Writer::default();
        let loads = Arc::new(Semaphore::new(config.loads_max));
        let threads = ThreadBudget::new(config.threads_max);
        let gate = Gate { untried: Mutex::default(), open: watch::Sender::new(false) };
        let (reader, queue) = (writer.reader(), Queue::default());
        let modes = Modes::read(History::new(&config.history, &config.folders).modes_file());
        let node = config.node_name.clone().unwrap_or_else(local_models::host_name);
        let local_models = LocalModels::new(node, config.node_labels.clone(), &config.folders);
        Self {
            config,
            engines,
            storage,
            services,
            queue,
            loads,
            warm_ups: Arc::default(),
            threads,
            reader,
            announce,
            memory,
            asks,
            logbook,
            modes,
            local_models,
            writer: Mutex::new(writer),
            drains: TaskTracker::new(),
            gate,
        }
    }

    /// How services are deployed that do not say: as KServe's ConfigMap says, else as the configuration does.
    pub(super) fn deployment_mode(&self) -> DeploymentMode {
        self.reader.snapshot().settings().and_then(InferenceServiceConfig::deployment_mode).unwrap_or(self.config.deployment_mode)
    }

    /// The same for a service that was there before: it keeps the mode that its status recorded, as in KServe.
    pub(super) fn mode_of(&self, stored: &Stored) -> DeploymentMode {
        let told = stored.status.as_ref().and_then(|status| status.deployment_mode.parse().ok());
        told.or_else(|| self.modes.of(&stored.resource.key())).unwrap_or_else(|| self.deployment_mode())
    }

    /// The same for a graph.
    pub(super) fn graph_mode_of(&self, key: &ResourceKey, stored: &Stored) -> DeploymentMode {
        let told = stored.graph_status.as_ref().and_then(|status| status.deployment_mode.parse().ok());
        told.or_else(|| self.modes.of(key)).unwrap_or_else(|| self.deployment_mode())
    }

    /// Notes the mode that a status tells.
    fn note_mode(&self, key: &ResourceKey, told: &str) {
        if let Ok(mode) = told.parse() {
            self.modes.note(key, mode);
        }
    }

    /// Whether every service found at start was tried.
    pub(super) fn ready(&self) -> watch::Receiver<bool> {
        self.gate.open.subscribe()
    }

    /// Takes over what files hold now; the keys that must be looked at again.
    pub(super) fn apply(&self, changes: Vec<(PathBuf, FileChange)>) -> Vec<ResourceKey> {
        let keys = self.writer().apply(changes, SystemTime::now());
        let mut untried = self.gate.untried.lock().unwrap_or_else(PoisonError::into_inner);
        if untried.is_none() {
            *untried = Some(keys.iter().filter(|key| matches!(key.kind, Kind::InferenceService | Kind::InferenceGraph)).cloned().collect());
            self.gate.open.send_replace(untried.as_ref().is_some_and(BTreeSet::is_empty));
        }
        keys
    }

    /// A service was tried, whatever came of it.
    pub(super) fn tried(&self, key: &ResourceKey) {
        let mut untried = self.gate.untried.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(untried) = untried.as_mut() {
            untried.remove(key);
            if untried.is_empty() {
                self.gate.open.send_if_modified(|open| !std::mem::replace(open, true));
            }
        }
    }

    /// How many clients wait for this service: those whom a run that begins now may answer.
    pub(super) fn heard(&self, key: &ResourceKey) -> usize {
        self.services.with_known(key, |service| service.waiting.len()).unwrap_or(0)
    }

    /// Tells the first so many clients that wait for this service how it went. Who asked later, while the run went on, is
    /// for the run after it.
    pub(super) fn answer(&self, key: &ResourceKey, heard: usize, result: &Result<(), InferenceError>) {
        let waiting = self.services.with_known(key, |service| {
            let heard = heard.min(service.waiting.len());
            service.waiting.drain(..heard).collect::<Vec<_>>()
        });
        for waiting in waiting.unwrap_or_default() {
            // The client may have left.
            let _ = waiting.send(result.clone());
        }
    }

    /// Puts the status of a service into the store.
    pub(super) fn say(&self, key: &ResourceKey, stored: &Stored, stage: Stage, runtime: Option<&RuntimeRef>) {
        self.write_status(&mut self.writer(), key, stored, stage, runtime);
    }

    /// Puts the status of a graph into the store.
    pub(super) fn set_graph_status(&self, key: &ResourceKey, status: InferenceGraphStatus) {
        self.note_mode(key, &status.deployment_mode);
        self.writer().set_graph_status(key, status);
    }

    /// Puts the status of a cache of local models, or of a group of nodes, into the store.
    pub(super) fn set_local_status(&self, key: &ResourceKey, status: LocalModelStatus) {
        self.writer().set_local_status(key, status);
    }

    /// Puts the node of this machine into the store, or takes it away where it is to hold nothing.
    pub(super) fn declare_node(&self, node: LocalModelNode, status: LocalModelStatus) {
        let change = if node.spec.local_models.is_empty() {
            FileChange::Gone
        } else {
            let resource = Resource::LocalModelNode(Box::new(node.clone()));
            let declared = Declared {
                defaulted: resource.clone(),
                resource,
                place: Place::file(NODE_FILE),
                fields: FieldPlaces::default(),
                warnings: Vec::new(),
            };
            FileChange::Read { resources: vec![declared], problems: Vec::new(), refused: Vec::new(), complete: true }
        };
        let key = ResourceKey { kind: Kind::LocalModelNode, namespace: String::new(), name: node.metadata.name };
        let mut writer = self.writer();
        writer.apply(vec![(PathBuf::from(NODE_FILE), change)], SystemTime::now());
        writer.set_local_status(&key, status);
    }

    /// Says once more what was last said of a service, after something else about it changed.
    pub(super) fn say_again(&self, key: &ResourceKey) {
        // What was last said is read under the writer's lock: otherwise it could take the place of something newer.
        let mut writer = self.writer();
        let told = self.services.with_known(key, |service| {
            let spec = service.running.as_ref().map(|running| &running.spec).or(service.asleep.as_ref().map(|asleep| &asleep.spec));
            (service.stage.clone(), spec.map(|spec| spec.runtime.clone()))
        });
        let (Some((Some(stage), runtime)), Some(stored)) = (told, self.reader.snapshot().get(key).cloned()) else { return };
        self.write_status(&mut writer, key, &stored, stage, runtime.as_ref());
    }

    /// The writer is asked for, so that what is said last is what is so.
    fn write_status(&self, writer: &mut Writer, key: &ResourceKey, stored: &Stored, stage: Stage, runtime: Option<&RuntimeRef>) {
        let metadata = stored.defaulted.metadata();
        let local = |label: &str| metadata.labels.get(label).is_some_and(|value| value == "cluster-local");
        let hosts = Hosts::of(self.reader.snapshot().settings(), &self.config.domain);
        let mut facts = Facts {
            key,
            generation: stored.generation,
            mode: DeploymentMode::of(metadata, self.mode_of(stored)),
            metadata,
            hosts: &hosts,
            cluster_local: local("networking.kserve.io/visibility") || local("networking.knative.dev/visibility"),
            stage,
            runtime,
            serving: None,
            cached: None,
            created: None,
            book: Book::default(),
            shares: Vec::new(),
            canaries: Vec::new(),
            judged: Vec::new(),
            last_failure: None,
            replicas: Replicas::default(),
            manifest_problem: sentences(&stored.problems, |_| true),
            not_yet_served: sentences(&stored.warnings, |severity| severity == Severity::NotYetServed),
            local_model_deleted: match &stored.defaulted {
                Resource::InferenceService(service) => local_models::deleted_under(service, &self.reader.snapshot()),
                _ => None,
            },
            placement: Placement::Cpu,
        };
        self.services.with(key, |service| {
            service.stage = Some(facts.stage.clone());
            facts.not_yet_served = joined(facts.not_yet_served.take(), service.logger_problem.clone());
            facts.stage = effective(&facts.stage, service);
            facts.replicas = service.replicas;
            facts.placement = service.running.as_ref().map_or(Placement::Cpu, |running| running.placement.clone());
            let serving = service.serving().map(RevisionName::to_string);
            facts.created = service.attempt.as_ref().map(|attempt| attempt.name.to_string()).or_else(|| serving.clone());
            facts.serving = serving;
            facts.cached = service.serving_model().and_then(ModelDir::cached).cloned();
            facts.book = service.book.clone();
            facts.shares.clone_from(&service.shares);
            facts.canaries = service.canary_facts();
            facts.judged = service.judged();
            facts.last_failure.clone_from(&service.last_failure);
        });
        let snapshot = self.reader.snapshot();
        let before = snapshot.get(key).and_then(|stored| stored.status.as_ref());
        let status = status_of(&facts, before, SystemTime::now());
        // Graphs wait for the address of what they call.
        let is_news = before.is_none_or(|before| before.address.is_some() != status.address.is_some());
        if before.is_none_or(|before| before.deployment_mode != status.deployment_mode) {
            self.note_mode(key, &status.deployment_mode);
        }
        writer.set_status(key, status);
        if is_news {
            related::graphs_that_call(&self.reader.snapshot(), key).for_each(|graph| self.queue.add(graph));
        }
    }

    /// Lets an old revision finish what it admitted, and then unloads it, beside everything else.
    pub(super) fn drain(&self, old: Retired) {
        let deadline = Instant::now() + self.config.drain;
        old.running.memory.leaves();
        self.drains.spawn(async move {
            // A request that read the old table may be about to ask: draining now would refuse it.
            let Running { name, handle, memory, route, .. } = old.running;
            let _ = tokio::time::timeout_at(deadline, let_go(route)).await;
            handle.drain(deadline.saturating_duration_since(Instant::now())).await;
            drop(handle);
            // Only then are the bytes there for others. It fails only where the runtime is being shut down.
            let _ = tokio::task::spawn_blocking(give_back).await;
            drop(memory);
            tracing::debug!(revision = %name, "the old revision is unloaded");
        });
    }

    /// What was kept of a service before a restart, and whether its newest revision was made of that spec; looked for once.
    pub(super) async fn look_back(&self, key: &ResourceKey, spec: &RevisionSpec) {
        if self.services.with(key, |service| std::mem::replace(&mut service.looked_back, true)) {
            return;
        }
        let (history, of, spec) = (self.history(), key.clone(), spec.clone());
        let read = move || history.read(&of).map(|record| (record.is_of(&spec), record));
        if let Some((is_same, record)) = on_files(read).await {
            tracing::info!(service = %key, "its requests were split before the restart, and are again");
            self.services.with(key, |service| {
                service.recorded = true;
                service.restore(record, is_same);
            });
        }
    }

    /// Keeps what is to be known of a service after a restart.
    pub(super) async fn keep(&self, key: &ResourceKey) {
        let (record, was_kept) = self.services.with(key, |service| {
            let record = service.record(key);
            let was_kept = std::mem::replace(&mut service.recorded, record.is_some());
            (record, was_kept)
        });
        if record.is_some() || was_kept {
            let (history, of) = (self.history(), key.clone());
            on_files(move || history.write(&of, record.as_ref())).await;
        }
    }

    /// Keeps nothing of a service: what comes next is a first revision.
    pub(super) async fn keep_nothing(&self, key: &ResourceKey) {
        let (history, of) = (self.history(), key.clone());
        on_files(move || history.write(&of, None)).await;
    }

    /// Keeps nothing of services that were deleted while the daemon was away.
    pub(super) async fn forget_the_gone(&self) {
        let (history, snapshot) = (self.history(), self.reader.snapshot());
        self.modes.retain(snapshot.resources.keys().map(ToString::to_string));
        on_files(move || history.retain(snapshot.resources.keys().cloned())).await;
    }

    fn history(&self) -> History {
        History::new(&self.config.history, &self.config.folders)
    }

    /// Runs copies of requests on a canary, until no more are made.
    pub(super) fn compare(&self, comparing: Comparing) {
        self.drains.spawn(comparing.run());
    }

    /// How many copies of requests may wait.
    pub(super) const fn shadows(&self) -> shadow::Bounds {
        shadow::Bounds { requests_max: self.config.shadow_requests_max, bytes_max: self.config.shadow_bytes_max }
    }

    /// Says that a model began to serve.
    pub(super) fn ready_report(&self, key: &ResourceKey, name: &RevisionName, took: Duration) {
        let Some(running) = self.services.with(key, |service| service.running.clone()) else { return };
        observe::model_loaded(took);
        tracing::debug!(service = %key, revision = %name, took_ms = took.as_millis(), "model ready");
        let metadata = Arc::clone(running.handle.metadata());
        let (model_name, protocol) = (running.spec.model_name, running.spec.protocol);
        (self.announce)(&ModelReady { key: key.clone(), model_name, protocol, revision: name.to_string(), took, metadata });
    }

    /// Unloads everything: takes all routes away, lets every pool finish, and waits for it.
    pub(super) async fn unload_all(&self, grace: Duration) {
        for service in self.services.clear() {
            for running in service.running.into_iter().chain(service.beside) {
                self.drains.spawn(async move { running.handle.drain(grace).await });
            }
        }
        self.drains.close();
        self.drains.wait().await;
        // What was noted in the last moment.
        self.modes.write();
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be read of a service: one that sleeps is ready, also while it wakes.
fn effective(stage: &Stage, service: &Service) -> Stage {
    let wakes = service.woken_at.is_some() && matches!(stage, Stage::Pending | Stage::Loading(_));
    match &service.asleep {
        Some(asleep) if *stage == Stage::Serving || wakes => Stage::Asleep(asleep.why),
        _ => stage.clone(),
    }
}

/// Works on a thread that may wait.
pub(super) async fn on_files<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let working = tokio::task::spawn_blocking(work);
    working.await.expect("work on files ends because it does not panic and is never aborted")
}

/// Waits until nobody else holds the route. An `Arc` tells nobody when it is let go, so it is looked at.
async fn let_go(route: Arc<Route>) {
    let mut wait = Duration::from_millis(1);
    while Arc::strong_count(&route) > 1 {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_millis(100));
    }
}

/// Sentences that are there, one a line.
fn joined(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) if !first.contains(&second) => Some(format!("{first}\n{second}")),
        (first, second) => first.or(second),
    }
}

fn sentences(problems: &[crate::api::problem::Problem], wanted: impl Fn(Severity) -> bool) -> Option<String> {
    let wanted: Vec<String> = problems.iter().filter(|problem| wanted(problem.severity)).map(ToString::to_string).collect();
    (!wanted.is_empty()).then(|| wanted.join("\n"))
}
