//! What runs: every service's revision, the newest attempt, and the routes to them.
//!
//! Only reconciling changes a service's entry, and a key is reconciled by one task at a time. The lock is
//! held for a moment and never across a wait.

use super::judge::{Trial, Verdict};
use super::memory::Reservation;
use super::model_files::ModelFiles;
use super::sides::{CanarySide, Remembered, Settings};
use super::status::Stage;
use crate::api::ResourceKey;
use crate::api::status::FailureInfo;
use crate::engine::Placement;
use crate::inference::{InferenceError, ModelMetadata};
use crate::observe;
use crate::pool::ModelHandle;
use crate::resolve::Defaults;
use crate::resolve::revision::{RevisionName, RevisionSpec};
use crate::resolve::rollout::RolloutSpec;
use crate::resolve::scale::ScaleSpec;
use crate::resolve::traffic::{Book, Share};
use crate::router::waker::{Ask, Asks, Sleep};
use crate::router::{self, GraphRoute, Ingress, Logger, Loggers, Roads, Route, RouteTable, Router, Target, Waker};
use crate::storage::ModelDir;
use arc_swap::ArcSwapOption;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a woken model that nobody asked yet is kept from sleep: those who woke it are on their way.
const WOKEN_FOR: Duration = Duration::from_secs(1);

/// A revision that answers requests.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) name: RevisionName,
    pub(super) spec: RevisionSpec,
    /// The model's files when they were loaded.
    pub(super) files: ModelFiles,
    pub(super) handle: ModelHandle,
    /// The one that leads to this revision alone; requests hold it until they are answered.
    pub(super) route: Arc<Route>,
    /// Kept as long as the revision runs.
    pub(super) model: ModelDir,
    /// Set where requests wait for it.
    pub(super) woken_at: Option<Instant>,
    /// What it takes of the memory for models.
    pub(super) memory: Arc<Reservation>,
    /// Where it computes.
    pub(super) placement: Placement,
}

impl Running {
    /// Whether nobody needs it now: no request is in flight, and none that woke it is still on its way.
    pub(super) fn is_idle(&self) -> bool {
        let demand = self.handle.demand();
        let awaited = self.woken_at.is_some_and(|at| demand.used_at <= at && at.elapsed() < WOKEN_FOR);
        demand.in_flight == 0 && !awaited
    }
}

/// Why a revision sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Nobody asked for it.
    Idle,
    /// Others needed its memory.
    Memory,
}

impl Why {
    /// The word in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Memory => "memory",
        }
    }
}

/// A revision that was loaded before, and that the next request wakes.
#[derive(Debug)]
pub(super) struct Asleep {
    pub(super) name: RevisionName,
    pub(super) spec: RevisionSpec,
    /// The model's files when they were loaded.
    pub(super) files: ModelFiles,
    /// Kept, so that it wakes without a download.
    pub(super) model: ModelDir,
    pub(super) why: Why,
    /// Tells those who wait how it ended.
    pub(super) sleep: Sleep,
    _counted: Counted,
}

/// One more model asleep, in the metrics.
#[derive(Debug)]
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        observe::model_sleep_ended();
    }
}

/// A revision that no new request finds any more.
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) running: Running,
}

/// A revision that was made and does not serve (yet).
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) name: RevisionName,
    pub(super) spec: RevisionSpec,
}

/// One service.
#[derive(Debug, Default)]
pub(super) struct Service {
    /// The newest revision that is ready; in Standard mode the stable predictor.
    pub(super) running: Option<Running>,
    /// Revisions that share its requests, or have a tag.
    pub(super) beside: Vec<Running>,
    /// What sleeps where nothing runs.
    pub(super) asleep: Option<Asleep>,
    /// When a request asked for what sleeps.
    pub(super) woken_at: Option<Instant>,
    /// How it is scaled; nothing before the first look at its spec.
    pub(super) scale: Option<ScaleSpec>,
    /// Replicas that the scaler wants and that there are.
    pub(super) replicas: Replicas,
    /// What was last said of its newest spec.
    pub(super) stage: Option<Stage>,
    pub(super) attempt: Option<Attempt>,
    /// How one revision is to follow another.
    pub(super) rollout: RolloutSpec,
    /// Which revisions had all requests.
    pub(super) book: Book,
    /// Those of them that are not loaded and may be asked for again.
    pub(super) remembered: Vec<Remembered>,
    /// Who gets what now.
    pub(super) shares: Vec<Share>,
    pub(super) settings: Settings,
    /// The canary predictors of Standard mode.
    pub(super) canaries: Vec<CanarySide>,
    /// Canaries that are being judged ...
    pub(super) trials: Vec<Trial>,
    /// ... and those that were.
    pub(super) verdicts: Vec<Verdict>,
    /// Whether what was kept of it before a restart was looked for.
    pub(super) looked_back: bool,
    /// Whether something is kept of it now.
    pub(super) recorded: bool,
    /// The highest number given to a revision.
    pub(super) number: u64,
    pub(super) last_failure: Option<FailureInfo>,
    /// Files to look at every so often, by canary, the predictor's own under an empty name: when they change, the
    /// service is reconciled.
    pub(super) watched: BTreeMap<String, (PathBuf, ModelFiles)>,
    /// Unloaded by a client when the resource had this generation; a later one loads it again.
    pub(super) unloaded: Option<u64>,
    /// Clients that wait for the end of a reconcile that began after they asked, in the order they asked.
    pub(super) waiting: Vec<oneshot::Sender<Result<(), InferenceError>>>,
    pub(super) route: Option<Arc<Route>>,
    /// Routes to single revisions by label, e.g. `latest-iris`.
    pub(super) labels: Vec<(Arc<str>, Arc<Route>)>,
    /// What the route table has of it.
    published: Roads,
    /// Where copies of its requests and answers go.
    pub(super) logger: Option<Logger>,
    /// Hosts that a template gives it.
    pub(super) hosts: Vec<String>,
    /// Why it has no logger, though it asks for one.
    pub(super) logger_problem: Option<String>,
}

/// Replicas of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Replicas {
    /// What the scaler wants.
    pub(super) wanted: u32,
    /// What there is room for on this machine.
    pub(super) ready: u32,
}

impl Service {
    /// The revision for this spec: the one that was tried before, or the next number.
    pub(super) fn attempt_for(&mut self, spec: &RevisionSpec) -> RevisionName {
        if let Some(attempt) = self.attempt.as_ref().filter(|attempt| attempt.spec == *spec) {
            return attempt.name.clone();
        }
        let name = self.next_name(format!("{}-predictor", spec.service));
        self.attempt = Some(Attempt { name: name.clone(), spec: spec.clone() });
        name
    }

    /// The next revision's name.
    pub(super) fn next_name(&mut self, component: String) -> RevisionName {
        self.number += 1;
        RevisionName { component, number: self.number }
    }

    /// Notes why the newest spec does not serve; whether that is news. The same failure keeps its time.
    pub(super) fn fail(&mut self, failure: &mut FailureInfo) -> bool {
        if let Some(last) = &self.last_failure {
            let repeated = FailureInfo { time: last.time.clone(), ..failure.clone() };
            if repeated == *last {
                *failure = repeated;
                return false;
            }
        }
        self.last_failure = Some(failure.clone());
        true
    }

    /// Puts that revision to sleep if it runs and nobody needs it now; what must be unloaded.
    pub(super) fn fall_asleep(&mut self, revision: &RevisionName, why: Why, asks: &Asks) -> Option<Retired> {
        if !self.beside.is_empty() {
            // Those who share requests stay, all of them.
            return None;
        }
        let running = self.running.as_ref().filter(|running| running.name == *revision && running.is_idle())?;
        let (spec, metadata) = (running.spec.clone(), Arc::clone(running.handle.metadata()));
        let (name, files, model) = (running.name.clone(), running.files, running.model.clone());
        let ask = Ask { namespace: spec.namespace.clone(), service: spec.service.clone() };
        let (waker, sleep) = Waker::new(ask, asks.clone());
        let retired = self.running.take().map(|running| Retired { running });
        let road = Arc::new(asleep_route(&spec, metadata, waker));
        for (_, labelled) in &mut self.labels {
            *labelled = Arc::clone(&road);
        }
        self.route = Some(road);
        self.replicas = Replicas::default();
        observe::model_slept(why.name());
        self.asleep = Some(Asleep { name, spec, files, model, why, sleep, _counted: Counted });
        retired
    }

    /// Whether what sleeps may go on sleeping. Where not, it is the revision that is brought up next, under its name.
    pub(super) fn keep_asleep(&mut self) -> bool {
        let Some(asleep) = &self.asleep else { return false };
        let wants_one = asleep.why == Why::Idle && self.scale.as_ref().is_some_and(|scale| scale.min > 0);
        let wants_one = wants_one || self.wants_several(&asleep.name);
        if self.woken_at.is_none() && self.waiting.is_empty() && !wants_one {
            self.attempt = None;
            return true;
        }
        self.attempt = Some(Attempt { name: asleep.name.clone(), spec: asleep.spec.clone() });
        false
    }

    /// The spec that a request woke, if it still sleeps.
    pub(super) fn to_wake(&self) -> Option<RevisionSpec> {
        self.woken_at.and(self.asleep.as_ref()).map(|asleep| asleep.spec.clone())
    }

    /// Whether what was loaded is put to sleep until somebody asks for it.
    pub(super) fn begins_asleep(&self) -> bool {
        self.scale.as_ref().is_some_and(|scale| scale.initial == 0 && scale.min == 0)
    }

    /// The revision that answers, or would if it were woken.
    pub(super) fn serving(&self) -> Option<&RevisionName> {
        let running = self.running.as_ref().map(|running| &running.name);
        running.or(self.asleep.as_ref().map(|asleep| &asleep.name))
    }

    /// Its model's files.
    pub(super) fn serving_model(&self) -> Option<&ModelDir> {
        let running = self.running.as_ref().map(|running| &running.model);
        running.or(self.asleep.as_ref().map(|asleep| &asleep.model))
    }

    /// Whether the route leads to what runs.
    pub(super) fn is_routed(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.ready().is_ok())
    }
}

impl Service {
    /// One of its revisions with the scaling that is for it: a canary has replicas of its own, and the stable predictor
    /// as many fewer, but one.
    fn loaded_as(&self, key: &ResourceKey, running: &Running, main: bool) -> Loaded {
        let canary = self.canaries.iter().find(|canary| canary.revision.as_ref() == Some(&running.name));
        let taken: u32 = self.canaries.iter().filter(|canary| canary.revision.is_some()).map(|canary| canary.min_replicas).sum();
        let scale = self.scale.clone().map(|scale| match canary {
            Some(canary) => ScaleSpec { min: canary.min_replicas, ..scale },
            None if taken > 0 && main => ScaleSpec { min: scale.min.saturating_sub(taken).max(1), ..scale },
            None => scale,
        });
        Loaded { key: key.clone(), running: running.clone(), scale, main, alone: self.beside.is_empty(), stays: self.stays() }
    }

    /// Whether its models are never put to sleep for the sake of others: it is pinned, or several share its requests.
    pub(super) fn stays(&self) -> bool {
        !self.beside.is_empty() || self.scale.as_ref().is_some_and(|scale| scale.pinned)
    }
}

/// One loaded revision.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) key: ResourceKey,
    pub(super) running: Running,
    pub(super) scale: Option<ScaleSpec>,
    /// Whether it is the newest one of its service that is ready.
    pub(super) main: bool,
    /// Whether its service has no other.
    pub(super) alone: bool,
    /// Whether it is never put to sleep for the sake of others.
    pub(super) stays: bool,
}

/// The route of a service whose spec is known.
pub(super) fn route_of(spec: &RevisionSpec, target: Target) -> Route {
    Route {
        namespace: spec.namespace.clone(),
        service: spec.service.clone(),
        model_name: spec.model_name.as_str().into(),
        timeout_s: spec.timeout_s,
        batcher_replies: spec.batching.as_ref().is_some_and(|batching| batching.kserve_replies),
        target,
    }
}

/// The route of a revision that sleeps.
fn asleep_route(spec: &RevisionSpec, metadata: Arc<ModelMetadata>, waker: Waker) -> Route {
    route_of(spec, Target::Asleep(router::Asleep { metadata, waker }))
}

/// The route of a service without a spec that could run: known by its own name, not serving.
pub(super) fn idle_route(key: &ResourceKey, reason: &str) -> Route {
    Route {
        namespace: key.namespace.clone(),
        service: key.name.clone(),
        model_name: key.name.as_str().into(),
        // Nothing is inferred here, but a load by hand waits that long.
        timeout_s: Defaults::default().timeout_s,
        batcher_replies: false,
        target: Target::NotReady(reason.to_owned()),
    }
}

/// Bytes that a load cannot count on.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutOfReach {
    /// Those of the service itself.
    pub(super) own: u64,
    pub(super) others: u64,
}

/// All services, and the route table made of them.
#[derive(Debug)]
pub(super) struct Services {
    default_namespace: String,
    router: Router,
    all: Mutex<BTreeMap<ResourceKey, Service>>,
    /// Where services are reached, if KServe's ConfigMap says so.
    ingress: ArcSwapOption<Ingress>,
}

impl Services {
    /// None yet; the route table is empty from now on.
    pub(super) fn new(default_namespace: String, router: Router) -> Self {
        router.swap(RouteTable::new(default_namespace.clone(), Vec::<Route>::new()));
        Self { default_namespace, router, all: Mutex::default(), ingress: ArcSwapOption::empty() }
    }

    /// Looks at or changes one service; makes its entry when there is none.
    pub(super) fn with<T>(&self, key: &ResourceKey, act: impl FnOnce(&mut Service) -> T) -> T {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        act(all.entry(key.clone()).or_default())
    }

    /// Looks at or changes one service if there is an entry.
    pub(super) fn with_known<T>(&self, key: &ResourceKey, act: impl FnOnce(&mut Service) -> T) -> Option<T> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_mut(key).map(act)
    }

    /// The same as [`Services::with`], and puts a new route table in place before it returns.
    pub(super) fn with_route<T>(&self, key: &ResourceKey, act: impl FnOnce(&mut Service) -> T) -> T {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let service = all.entry(key.clone()).or_default();
        let result = act(service);
        self.publish(service);
        result
    }

    /// Takes a service and its route away.
    pub(super) fn remove(&self, key: &ResourceKey) -> Option<Service> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = all.remove(key)?;
        self.router.swap(self.router.load().with(&removed.published, &Roads::default()));
        if removed.logger.is_some() {
            self.publish_logger(key, None);
        }
        if !removed.hosts.is_empty() {
            self.publish_ingress(&all);
        }
        Some(Service { published: Roads::default(), ..removed })
    }

    /// Takes everything away: no route answers any more.
    pub(super) fn clear(&self) -> Vec<Service> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let services = std::mem::take(&mut *all);
        self.router.swap(RouteTable::new(self.default_namespace.clone(), Vec::<Route>::new()));
        self.router.set_loggers(Loggers::default());
        services.into_values().map(|service| Service { published: Roads::default(), ..service }).collect()
    }

    /// Another service of the default namespace with the same model name: on a bare host only one of them answers.
    pub(super) fn namesake(&self, key: &ResourceKey, model_name: &str) -> Option<ResourceKey> {
        if key.namespace != self.default_namespace {
            return None;
        }
        let table = self.router.load();
        let other = table.default_named(model_name).iter().find(|route| route.service != key.name)?;
        Some(ResourceKey { name: other.service.clone(), ..key.clone() })
    }

    /// What runs: every revision with its service, its scaling and its pool.
    pub(super) fn loaded(&self) -> Vec<Loaded> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(key, service): (&ResourceKey, &Service)| {
            let main = service.running.iter().map(|running| service.loaded_as(key, running, true)).collect::<Vec<_>>();
            main.into_iter().chain(service.beside.iter().map(|running| service.loaded_as(key, running, false))).collect::<Vec<_>>()
        };
        all.iter().flat_map(of).collect()
    }

    /// Bytes that a load of this service cannot count on: what it holds itself, and what others hold that stay.
    pub(super) fn bytes_out_of_reach(&self, key: &ResourceKey) -> OutOfReach {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = |service: &Service| service.running.iter().chain(&service.beside).map(|running| running.memory.bytes()).sum::<u64>();
        let own = all.get(key).map_or(0, bytes);
        let others = all.iter().filter(|(other, service)| *other != key && service.stays()).map(|(_, service)| bytes(service)).sum();
        OutOfReach { own, others }
    }

    /// Services with a canary that is being judged.
    pub(super) fn tried(&self) -> Vec<ResourceKey> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(_, service)| !service.trials.is_empty()).map(|(key, _)| key.clone()).collect()
    }

    /// The files to look at, by service.
    pub(super) fn watched(&self) -> Vec<(ResourceKey, PathBuf, ModelFiles)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = |(key, service): (&ResourceKey, &Service)| {
            let files = service.watched.values().map(|(path, files)| (key.clone(), path.clone(), *files));
            files.collect::<Vec<_>>()
        };
        all.iter().flat_map(watched).collect()
    }

    /// A graph's route.
    pub(super) fn graph(&self, key: &ResourceKey) -> Option<Arc<GraphRoute>> {
        self.router.load().graph(&key.namespace, &key.name).cloned()
    }

    /// Puts a graph's route in place, or takes it away; whether there was one before.
    pub(super) fn set_graph(&self, key: &ResourceKey, route: Option<Arc<GraphRoute>>) -> bool {
        // Held while the table changes, so that nobody changes it at the same time.
        let _all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let table = RouteTable::clone(&self.router.load());
        let was_there = table.graph(&key.namespace, &key.name).is_some();
        self.router.swap(match route {
            Some(route) => table.with_graphs([route]),
            None => table.without_graph(&key.namespace, &key.name),
        });
        was_there
    }

    /// Lets another logger see a service's requests from now on.
    pub(super) fn set_logger(&self, key: &ResourceKey, logger: Option<Logger>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let service = all.entry(key.clone()).or_default();
        // Most services have none, before and after.
        if service.logger.is_some() || logger.is_some() {
            service.logger.clone_from(&logger);
            self.publish_logger(key, logger);
        }
    }

    /// Gives a service the hosts that only a template tells.
    pub(super) fn set_hosts(&self, key: &ResourceKey, hosts: Vec<String>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let service = all.entry(key.clone()).or_default();
        if service.hosts != hosts {
            service.hosts = hosts;
            self.publish_ingress(&all);
        }
    }

    /// Lets the doors follow another ingress from now on, and graphs other patterns of headers that go along.
    pub(super) fn follow(&self, ingress: Option<Ingress>, propagated_headers: Option<&[String]>) {
        self.router.propagate(propagated_headers);
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ingress.load().as_deref() != ingress.as_ref() {
            self.ingress.store(ingress.map(Arc::new));
            self.publish_ingress(&all);
        }
    }

    /// Called while the lock is held, so that nobody changes the loggers at the same time.
    fn publish_logger(&self, key: &ResourceKey, logger: Option<Logger>) {
        self.router.set_loggers(self.router.loggers().with(&key.namespace, &key.name, logger));
    }

    fn publish_ingress(&self, all: &BTreeMap<ResourceKey, Service>) {
        let of_service = |(key, service): (&ResourceKey, &Service)| {
            let of = (key.namespace.clone(), key.name.clone());
            service.hosts.clone().into_iter().map(move |host| (host, of.clone()))
        };
        let hosts = all.iter().flat_map(of_service).collect();
        self.router.follow(self.ingress.load().as_deref().map(|ingress| Ingress { hosts, ..ingress.clone() }));
    }

    /// Puts what leads to a service now into the route table.
    fn publish(&self, service: &mut Service) {
        let now = Roads { route: service.route.clone(), labels: service.labels.clone() };
        if !now.is_same(&service.published) {
            self.router.swap(self.router.load().with(&service.published, &now));
            service.published = now;
        }
    }
}
