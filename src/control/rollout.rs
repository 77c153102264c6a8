//! From a revision's spec to a model that answers: fetch, load, warm up beside the old revision, swap the
//! route, drain the old one. A failure on the way changes the status, never the route of what serves.

use super::inference_service::storage_containers;
use super::local_models;
use super::memory::{self, LoadWatch, Reservation};
use super::mind::Mind;
use super::model_files::ModelFiles;
use super::queue::Outcome;
use super::replicas::Size;
use super::services::{OutOfReach, Replicas, Running, Service, Why, route_of};
use super::sides::Fresh;
use super::status::Stage;
use super::warm_up::{warm_up, warm_up_in_line};
use crate::api::inference_service::InferenceService;
use crate::api::status::{FailureInfo, FailureReason};
use crate::api::{Resource, ResourceKey};
use crate::engine::{LoadError, LoadOptions, LoadedModel, Placement};
use crate::inference::{InferenceError, ModelMetadata};
use crate::observe;
use crate::pool::{Batching, ModelHandle, PoolOptions};
use crate::resolve::batching::BatchingSpec;
use crate::resolve::canary::canaries_of;
use crate::resolve::credentials::{Asker, env_of};
use crate::resolve::revision::{RevisionName, RevisionSpec};
use crate::resolve::scale::ScaleSpec;
use crate::resolve::storage_container::Brought;
use crate::resolve::storage_uri::StorageUri;
use crate::router::Target;
use crate::storage::{ModelDir, Order, Progress, StorageError};
use crate::store::{Stored, rfc3339};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A model file written less than this ago may be half-written: a running revision waits for it.
pub(super) const QUIET: Duration = Duration::from_millis(200);
/// Between two reports of a download's progress.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Between two log lines of a download's progress.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// One revision on its way.
#[derive(Clone)]
pub(super) struct Rollout {
    pub(super) mind: Arc<Mind>,
    pub(super) key: ResourceKey,
    pub(super) stored: Arc<Stored>,
    pub(super) spec: RevisionSpec,
    pub(super) role: Role,
    /// Cancelled when there is something newer to do for this service.
    pub(super) superseded: CancellationToken,
}

/// What a revision is to its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// What the newest spec asks for.
    Newest,
    /// What was asked for before: it comes back, because a request woke it or because it is to have requests again.
    Earlier,
    /// The canary predictor of that name.
    Canary(String),
}

/// Why a revision did not come to serve.
pub(super) enum Stop {
    /// Something newer is to be done; nothing is said of this try.
    Superseded,
    Failed {
        message: String,
        may_pass: bool,
    },
}

/// What there is of what is asked for.
enum Current {
    Running,
    Asleep,
    /// Its files are being written.
    Changing,
    Nothing,
}

impl Rollout {
    /// Brings the service to the spec, and says how it went in its status.
    pub(super) async fn run(self) -> Outcome {
        self.mind.look_back(&self.key, &self.spec).await;
        let name = match self.current().await {
            Current::Changing => return Outcome::After(QUIET),
            Current::Asleep => {
                self.say(Stage::Serving);
                return Outcome::Done;
            }
            Current::Running => self.mind.services.with(&self.key, |service| {
                service.attempt = None;
                service.running.as_ref().map(|running| running.name.clone())
            }),
            Current::Nothing => None,
        };
        let outcome = match &name {
            Some(_) => self.settle(Fresh::default()).await.map(|_| self.say(Stage::Serving)),
            None => self.replace().await,
        };
        match outcome {
            Ok(()) => self.canaries().await,
            Err(Stop::Superseded) => Outcome::Done,
            Err(Stop::Failed { message, may_pass }) => {
                let attempt = |service: &mut Service| service.attempt.as_ref().map(|attempt| attempt.name.clone());
                let Some(name) = self.mind.services.with(&self.key, attempt).or(name) else { return Outcome::Done };
                self.failed(&name, message, may_pass)
            }
        }
    }

    /// What there is of what is asked for, down to the model's files.
    async fn current(&self) -> Current {
        let running = self.mind.services.with(&self.key, |service| service.running.clone());
        match running.filter(|running| running.spec == self.spec) {
            Some(running) => match self.files_are_those_of(&running).await {
                Some(true) => Current::Running,
                Some(false) => Current::Changing,
                None => Current::Nothing,
            },
            None => self.asleep().await,
        }
    }

    /// Whether the model's files are those that were loaded: `false` while they are being written, nothing where they
    /// are others.
    pub(super) async fn files_are_those_of(&self, running: &Running) -> Option<bool> {
        let files = files_at(running.model.path().to_owned()).await;
        if files == running.files {
            return Some(true);
        }
        files.is_fresh(QUIET, SystemTime::now()).then_some(false)
    }

    /// Brings up what is asked for, beside what there is.
    async fn replace(&self) -> Result<(), Stop> {
        let adopted = self.mind.services.with(&self.key, |service| service.adopt(&self.spec));
        if let Some(canary) = adopted {
            tracing::info!(service = %self.key, revision = %canary.name, "the canary predictor becomes the stable one");
            self.settle(Fresh { latest: Some(canary), others: Vec::new() }).await?;
            self.say(Stage::Serving);
            return Ok(());
        }
        let name = self.mind.services.with(&self.key, |service| service.attempt_for(&self.spec));
        // Until the new one is ready, the share is for those that are.
        self.settle_ready().await;
        self.bring_up(&name).await
    }

    /// Whether what is asked for sleeps and may go on sleeping: nobody asks for it, and its files are the same.
    async fn asleep(&self) -> Current {
        let found = self.mind.services.with(&self.key, |service| {
            let asleep = service.asleep.as_ref().filter(|asleep| asleep.spec == self.spec)?;
            Some((asleep.model.path().to_owned(), asleep.files))
        });
        let Some((path, files)) = found else { return Current::Nothing };
        let now = files_at(path).await;
        if now != files {
            return if now.is_fresh(QUIET, SystemTime::now()) { Current::Changing } else { Current::Nothing };
        }
        let stays = self.mind.services.with_route(&self.key, |service| {
            let stays = service.keep_asleep();
            if stays {
                service.settle(&mut Fresh::default(), true, self.mind.shadows());
            }
            stays
        });
        if stays { Current::Asleep } else { Current::Nothing }
    }

    async fn bring_up(&self, name: &RevisionName) -> Result<(), Stop> {
        let began = Instant::now();
        let running = self.make(name).await?;
        let asked_for = self.settle(Fresh { latest: Some(running), others: Vec::new() }).await?;
        self.say(Stage::Serving);
        self.mind.ready_report(&self.key, name, began.elapsed());
        if !asked_for && self.mind.services.with(&self.key, |service| service.begins_asleep()) {
            self.mind.put_to_sleep(&self.key, name, Why::Idle);
        }
        Ok(())
    }

    /// Fetches, loads and warms a revision, which then waits for its requests.
    pub(super) async fn make(&self, name: &RevisionName) -> Result<Running, Stop> {
        let (model_dir, files) = self.fetch().await?;
        let memory = self.room_for(model_dir.path()).await?;
        let model = self.load(model_dir.path(), &memory).await?;
        let handle = ModelHandle::start(Arc::clone(&model), self.pool_options(name, model.metadata()), self.mind.threads.clone());
        self.warm_up(&handle).await?;
        let route = Arc::new(route_of(&self.spec, Target::Ready(handle.clone())));
        let (name, spec, placement) = (name.clone(), self.spec.clone(), model.placement());
        if let Placement::CpuInstead(why) = &placement {
            tracing::warn!(service = %self.key, "the model asks for a GPU and computes on the CPU: {why}");
        }
        Ok(Running { name, spec, files, handle, route, model: model_dir, woken_at: None, memory, placement })
    }

    /// Warms a revision up before its requests move to it from another. Where none serves, being warm is no reason to make callers
    /// wait: it is done beside their requests, and not at all where they are waiting already or the model goes to sleep first.
    async fn warm_up(&self, handle: &ModelHandle) -> Result<(), Stop> {
        let at_most = Duration::from_secs(self.spec.timeout_s);
        let now = |service: &mut Service| (service.running.is_some(), service.woken_at.is_some() || service.begins_asleep());
        let (another_serves, in_vain) = self.mind.services.with(&self.key, now);
        if another_serves {
            tokio::select! {
                () = self.superseded.cancelled() => return Err(Stop::Superseded),
                () = warm_up(handle, at_most) => {}
            }
        } else if !in_vain {
            tokio::spawn(warm_up_in_line(handle.downgrade(), Arc::clone(&self.mind.warm_ups), at_most));
        }
        Ok(())
    }

    /// Takes what the model's files predict of the memory for models, and waits for it where others have it.
    async fn room_for(&self, model: &Path) -> Result<Arc<Reservation>, Stop> {
        let path = model.to_owned();
        let looking = tokio::task::spawn_blocking(move || memory::file_bytes(&path));
        let file_bytes = looking.await.expect("looking at files ends because it does not panic and is never aborted");
        let limit = self.mind.memory.limit_bytes();
        let fits_beside = |stays: u64| file_bytes.saturating_add(stays) <= limit;
        let mut out_of_reach = self.mind.services.bytes_out_of_reach(&self.key);
        if !fits_beside(out_of_reach.own + out_of_reach.others) {
            let fits_alone = out_of_reach.own > 0 && self.role == Role::Newest && fits_beside(out_of_reach.others);
            if !fits_alone || !self.mind.services.with(&self.key, |service| service.rollout.recreate) {
                return Err(too_large(file_bytes, out_of_reach, (limit, fits_alone)));
            }
            self.let_the_old_go();
            out_of_reach.own = 0;
        }
        let stays = out_of_reach.own + out_of_reach.others;
        let bytes = memory::while_loading(file_bytes).min(limit - stays);
        if let Some(taken) = self.mind.memory.take_at_once(bytes) {
            return Ok(Arc::new(taken));
        }
        self.say(Stage::Pending);
        tokio::select! {
            () = self.superseded.cancelled() => Err(Stop::Superseded),
            taken = self.mind.make_room(&self.key, bytes) => Ok(Arc::new(taken)),
        }
    }

    /// Unloads what the service has, because its successor does not fit beside it and may come after it.
    fn let_the_old_go(&self) {
        const REASON: &str = "The old revision was let go (`Recreate`), the new one is being loaded.";
        let retired = self.mind.services.with_route(&self.key, |service| {
            let retired = service.retire_all();
            service.route = Some(Arc::new(route_of(&self.spec, Target::NotReady(REASON.to_owned()))));
            retired
        });
        for old in retired {
            tracing::info!(service = %self.key, revision = %old.running.name, "let go before its successor is loaded: both do not fit into memory");
            self.mind.drain(old);
        }
    }

    async fn fetch(&self) -> Result<(ModelDir, ModelFiles), Stop> {
        let Some(uri) = &self.spec.storage else {
            return Err(Stop::Failed {
                message: format!("the `{}` engine needs a model: no `storageUri`", self.spec.engine),
                may_pass: false,
            });
        };
        if let StorageUri::Local(path) = uri {
            self.watch_files(path.clone()).await;
        }
        self.say(Stage::Loading("fetching the model".to_owned()));
        let failed = |error: StorageError| Stop::Failed { may_pass: matches!(error, StorageError::MayPass(_)), message: error.to_string() };
        let (order, below) = self.order(uri)?;
        let report = self.progress_report();
        let fetched = tokio::select! {
            () = self.superseded.cancelled() => return Err(Stop::Superseded),
            fetched = Box::pin(self.mind.storage.fetch(&order, &report)) => fetched,
        };
        let model = fetched.and_then(|model| model.below(&below)).map_err(failed)?;
        let files = match uri {
            uri if uri.has_files_in_place() => self.watch_files(model.path().to_owned()).await,
            _ => files_at(model.path().to_owned()).await,
        };
        Ok((model, files))
    }

    /// What is to be fetched for the revision, and which part of it the model is: it may lie in a local model.
    fn order(&self, uri: &StorageUri) -> Result<(Order, String), Stop> {
        let wrong = |message: String| Stop::Failed { message, may_pass: false };
        let snapshot = self.mind.reader.snapshot();
        let Some(service) = self.service() else { return Ok((Order::open(uri.clone()), String::new())) };
        if let Some((matched, order)) = local_models::order_for(&snapshot, &service).filter(|_| self.role != Role::Earlier) {
            return Ok((order.map_err(|error| wrong(error.to_string()))?, matched.rest));
        }
        let brought =
            Brought::for_service(&service, &storage_containers(&snapshot)).map_err(|error| wrong(format!("{}: {error}", error.field)))?;
        let secrets = env_of(&Asker::service(&service, &*snapshot), &*snapshot);
        let secrets = secrets.map_err(|error| wrong(format!("{}: {error}", error.field)))?;
        Ok((Order { sha256: self.spec.model_sha256, ..Order::opened_by(uri.clone(), &secrets, brought) }, String::new()))
    }

    /// The service as it were with the predictor that the revision is of.
    fn service(&self) -> Option<Cow<'_, InferenceService>> {
        let Resource::InferenceService(service) = &self.stored.defaulted else { return None };
        let Role::Canary(name) = &self.role else { return Some(Cow::Borrowed(service)) };
        let canary = canaries_of(service).into_iter().find(|canary| canary.name == *name)?;
        Some(Cow::Owned(canary.service))
    }

    /// Remembers what the files are before they are read, so that a change from now on is seen.
    async fn watch_files(&self, path: PathBuf) -> ModelFiles {
        let files = files_at(path.clone()).await;
        let whose = match &self.role {
            Role::Newest => "",
            // What was replaced since then is no news to it.
            Role::Earlier => return files,
            Role::Canary(name) => name,
        };
        self.mind.services.with(&self.key, |service| service.watched.insert(whose.to_owned(), (path, files)));
        files
    }

    fn progress_report(&self) -> impl Fn(Progress) + Send + Sync + '_ {
        let told = Mutex::new(Instant::now());
        let logged = Mutex::new(Instant::now());
        let drawn = observe::Drawn::new(self.key.to_string());
        move |progress| {
            let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(drawn) = &drawn {
                drawn.at(progress.bytes_done, progress.bytes_total, &progress_sentence(progress));
            } else if logged.elapsed() >= LOG_EVERY {
                *logged = Instant::now();
                tracing::info!(service = %self.key, "{}", progress_sentence(progress));
            }
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() >= REPORT_EVERY {
                *told = Instant::now();
                self.say(Stage::Loading(progress_sentence(progress)));
            }
        }
    }

    /// Loads on a thread that may wait. A load cannot be stopped half-way: when it is superseded, its result
    /// is dropped once it is there.
    async fn load(&self, model: &Path, memory: &Arc<Reservation>) -> Result<Arc<dyn LoadedModel>, Stop> {
        let Some(engine) = self.mind.engines.get(&self.spec.engine).cloned() else {
            let known = self.mind.engines.names().collect::<Vec<_>>().join("`, `");
            return Err(Stop::Failed { message: format!("no engine `{}` here; there is `{known}`", self.spec.engine), may_pass: false });
        };
        let permit = self.turn_to_load().await?;
        self.say(Stage::Loading("loading the model".to_owned()));
        let intra_op_threads = self.intra_op_threads();
        let step_threads = self.spec.step_threads().min(self.mind.config.threads_max);
        let gpu = self.mind.config.gpu.wish(self.spec.gpus);
        let options = LoadOptions { intra_op_threads, step_threads, gpu, args: self.spec.args.clone(), env: self.spec.env.clone() };
        let (path, span) = (model.to_owned(), tracing::info_span!("load", service = %self.key, engine = %self.spec.engine));
        let (mind, memory) = (Arc::clone(&self.mind), Arc::clone(memory));
        let loading = tokio::task::spawn_blocking(move || {
            // Both are kept until the load is over, also where nobody waits for it any more.
            let (_permit, watch) = (permit, mind.memory.watch_load());
            let loaded = span.in_scope(|| engine.load(&path, &options));
            let later_bytes = loaded.as_ref().map_or(0, |model| model.later_bytes());
            settle(&watch, &memory, memory::file_bytes(&path), later_bytes);
            loaded
        });
        let loaded = tokio::select! {
            () = self.superseded.cancelled() => return Err(Stop::Superseded),
            loaded = loading => loaded,
        };
        match loaded {
            Ok(Ok(model)) => Ok(model),
            Ok(Err(error @ (LoadError::EngineUnavailable(_) | LoadError::InvalidModel(_)))) => {
                Err(Stop::Failed { message: error.to_string(), may_pass: false })
            }
            Err(error) => Err(Stop::Failed { message: format!("the engine failed hard while loading: {error}"), may_pass: false }),
        }
    }

    /// Waits until fewer models load than may at once.
    async fn turn_to_load(&self) -> Result<OwnedSemaphorePermit, Stop> {
        const NEVER_CLOSED: &str = "the semaphore is there because nobody closes it";
        let loads = &self.mind.loads;
        if let Ok(permit) = Arc::clone(loads).try_acquire_owned() {
            return Ok(permit);
        }
        self.say(Stage::Pending);
        tokio::select! {
            () = self.superseded.cancelled() => Err(Stop::Superseded),
            permit = Arc::clone(loads).acquire_owned() => Ok(permit.expect(NEVER_CLOSED)),
        }
    }

    fn intra_op_threads(&self) -> usize {
        self.spec.intra_op_threads().min(self.mind.config.threads_max)
    }

    fn pool_options(&self, name: &RevisionName, model: &ModelMetadata) -> PoolOptions {
        let config = &self.mind.config;
        let size = Size::of(&self.spec, config.workers_max);
        let replicas = self.mind.services.with(&self.key, |service| {
            let first = |scale: &ScaleSpec| size.within(scale.initial.max(scale.min), scale);
            let ready = service.scale.as_ref().map_or(1, first);
            if let Role::Canary(name) = &self.role {
                return service.canary(name).map_or(ready, |canary| size.replicas_for(canary.min_replicas));
            }
            service.replicas = Replicas { wanted: ready, ready };
            observe::replicas(&self.spec.model_name, ready, ready);
            ready
        });
        PoolOptions {
            model: self.spec.model_name.clone(),
            revision: name.to_string(),
            workers_max: size.runs(replicas),
            queue_max: size.waiting(replicas, config.queue_max),
            worker_idle_s: config.worker_idle_s,
            threads_per_run: self.intra_op_threads(),
            inline_run_max: config.inline_run_max,
            batching: self.batching(model.rows_joined),
        }
    }

    /// As the service says, else as the model does.
    fn batching(&self, rows_joined: usize) -> Option<Batching> {
        let by_model = || BatchingSpec { instances_max: rows_joined, delay: Duration::ZERO, kserve_replies: false };
        let BatchingSpec { instances_max, delay, kserve_replies } =
            self.spec.batching.clone().or_else(|| (rows_joined > 1).then(by_model))?;
        Some(Batching { instances_max, delay, bytes_max: self.mind.config.batch_bytes_max, kserve_replies })
    }

    fn failed(&self, name: &RevisionName, message: String, may_pass: bool) -> Outcome {
        let mut failure = FailureInfo {
            location: self.stored.place.to_string(),
            reason: Some(FailureReason::ModelLoadFailed),
            message,
            model_revision_name: name.to_string(),
            time: Some(rfc3339(SystemTime::now())),
            exit_code: None,
        };
        let (news, asleep, still_serving) = self.mind.services.with_route(&self.key, |service| {
            let news = service.fail(&mut failure);
            // What sleeps and is not what failed goes on sleeping: it can be woken.
            let asleep = service.asleep.take_if(|asleep| asleep.spec == self.spec);
            if asleep.is_some() {
                service.woken_at = None;
            }
            if service.serving().is_none() {
                service.route = Some(Arc::new(route_of(&self.spec, Target::NotReady(failure.message.clone()))));
            }
            (news, asleep, service.serving().map(ToString::to_string))
        });
        if let Some(asleep) = asleep {
            asleep.sleep.failed(InferenceError::ModelNotReady { name: self.spec.model_name.clone(), reason: failure.message.clone() });
        }
        if news {
            tracing::warn!(service = %self.key, revision = %name, still_serving, error = %failure.message, "the model did not load");
        }
        observe::model_load_failed();
        self.say(Stage::Failed(failure));
        if may_pass { Outcome::Retry } else { Outcome::Done }
    }

    pub(super) fn say(&self, stage: Stage) {
        if let Role::Canary(name) = &self.role {
            self.mind.services.with(&self.key, |service| service.canary(name).map(|canary| canary.stage = stage));
            return self.mind.say_again(&self.key);
        }
        let unknown = |service: &mut Service| {
            service.serving().is_none() && service.route.as_ref().is_none_or(|route| *route.model_name != *self.spec.model_name)
        };
        if matches!(stage, Stage::Loading(_)) && self.mind.services.with(&self.key, unknown) {
            let route = route_of(&self.spec, Target::NotReady("It is being loaded.".to_owned()));
            self.mind.services.with_route(&self.key, |service| service.route = Some(Arc::new(route)));
        }
        self.mind.say(&self.key, &self.stored, stage, Some(&self.spec.runtime));
    }
}

/// Corrects what was reserved for a load to what it took, and may yet come to hold.
fn settle(watch: &LoadWatch<'_>, memory: &Reservation, file_bytes: u64, later_bytes: u64) {
    memory::give_back();
    let taken = watch.measured(file_bytes).unwrap_or_else(|| memory::while_loading(file_bytes) - file_bytes);
    memory.correct(taken.saturating_add(later_bytes));
}

fn too_large(file_bytes: u64, out_of_reach: OutOfReach, (limit, fits_alone): (u64, bool)) -> Stop {
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let stays = out_of_reach.own + out_of_reach.others;
    let others = if stays == 0 { String::new() } else { format!(", of which {} MiB cannot be freed for it", mebibytes(stays)) };
    let instead = if fits_alone {
        ", or let the old revision go first: `deploymentStrategy: {type: Recreate}` on the predictor (Standard mode)"
    } else {
        ""
    };
    let message = format!(
        "the model does not fit into memory: its files have {} MiB, the daemon with all its models may take {} MiB{others}\n\n\
         hint: raise `memory.models_bytes_max`{instead}",
        mebibytes(file_bytes),
        mebibytes(limit),
    );
    // What cannot be freed now may be later.
    Stop::Failed { message, may_pass: stays > 0 }
}

fn progress_sentence(progress: Progress) -> String {
    let files =
        if progress.files_total > 1 { format!(", {} of {} files", progress.files_done, progress.files_total) } else { String::new() };
    let left = progress.left().map(|left| format!(", {} s left", left.as_secs())).unwrap_or_default();
    format!("fetching the model: {}{files}, {} MiB/s{left}", progress.done(), progress.bytes_per_second >> 20)
}

async fn files_at(path: PathBuf) -> ModelFiles {
    let looking = tokio::task::spawn_blocking(move || ModelFiles::at(&path));
    looking.await.expect("looking at files ends because it does not panic and is never aborted")
}
