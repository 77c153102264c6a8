//! Models that are fetched before anybody asks: what LocalModelCache and its kin ask for, on this one machine.
//!
//! This machine is one node, for which a `LocalModelNode` is written here. A cache that has room in a group of its own is
//! fetched into the store's cache and pinned there: what is pinned is never evicted, also while no daemon runs. KServe compares `modelSize` and
//! `storageLimit` with nothing; here both are kept.
//!
//! Source: reference 8.

mod pin;

pub(super) use pin::{deleted_under, forget_the_gone};

use super::inference_service::storage_containers;
use super::memory::file_bytes;
use super::mind::{Mind, on_files};
use super::queue::Outcome;
use crate::api::local_model::{
    LocalModelCache, LocalModelCacheStatus, LocalModelCopies, LocalModelInfo, LocalModelNode, LocalModelNodeGroup,
    LocalModelNodeGroupStatus, LocalModelNodeStatus, LocalModelStatus, NamespacedName, NodeStatus,
};
use crate::api::problem::Problem;
use crate::api::status::{Condition, ConditionStatus, condition};
use crate::api::{Kind, Resource, ResourceKey};
use crate::resolve::ResolveError;
use crate::resolve::credentials::{Asker, env_of};
use crate::resolve::local_model::{Claim, HOSTNAME, Matched, belongs, cache_of, is_marked, lacking, mark};
use crate::resolve::storage_container::{Brought, Workload, fetcher_of};
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::StorageUri;
use crate::storage::{ModelDir, Order, Progress, StorageError};
use crate::store::{Declared, FileChange, Snapshot, Stored, rfc3339};
use crate::validate::local_model_conflicts;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The namespace of KServe's download jobs.
const JOB_NAMESPACE: &str = "kserve-localmodel-jobs";
/// The reason of a cache that no group of its own is for here.
const NO_MATCHING_NODE: &str = "NoMatchingNode";
/// Between two looks of a status at a download.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What this machine holds, and who it is.
#[derive(Debug)]
pub(super) struct LocalModels {
    /// The node's name.
    node: String,
    /// What groups may ask of it.
    labels: BTreeMap<String, String>,
    /// The folder that its pins are told by.
    home: PathBuf,
    held: Mutex<BTreeMap<ResourceKey, Held>>,
}

/// How far one cache is.
#[derive(Debug, Clone)]
struct Held {
    source_uri: String,
    group: String,
    stage: Stage,
}

#[derive(Debug, Clone)]
enum Stage {
    Pending,
    Downloading(String),
    /// The model stays on disk as long as this is kept.
    Downloaded {
        _model: ModelDir,
        bytes: u64,
    },
    Failed {
        reason: &'static str,
        message: String,
    },
}

/// Why a cache has no node here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NoNode {
    reason: &'static str,
    message: String,
}

impl LocalModels {
    /// Nothing is held yet. `node` is the machine's name, `labels` what is said of it beside that, `folders` are those that are watched.
    pub(super) fn new(node: String, labels: BTreeMap<String, String>, folders: &[PathBuf]) -> Self {
        let own = [
            (HOSTNAME.to_owned(), node.clone()),
            ("kubernetes.io/os".to_owned(), std::env::consts::OS.to_owned()),
            ("kubernetes.io/arch".to_owned(), arch().to_owned()),
        ];
        Self { node, labels: own.into_iter().chain(labels).collect(), home: pin::home_of(folders), held: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ResourceKey, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &ResourceKey) -> Option<Held> {
        self.lock().get(key).cloned()
    }
}

/// As Kubernetes calls it.
const fn arch() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        _ => std::env::consts::ARCH,
    }
}

/// The machine's name as the kernel has it.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_lowercase();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// What KServe's webhooks do once all caches are known: refuses one that asks for the URI of another, and marks services with the
/// cache that holds their model. As there, a service is marked when it is read, and not when a cache comes later.
pub(super) fn admit(changes: &mut [(PathBuf, FileChange)], before: &Snapshot) {
    let mut known: BTreeMap<ResourceKey, LocalModelCache> = caches(before).map(|(key, cache)| (key.clone(), cache.clone())).collect();
    for (_, change) in changes.iter_mut() {
        refuse_same(change, &mut known);
    }
    if known.is_empty() {
        return;
    }
    let settings = changes.iter().flat_map(|(_, change)| declared(change)).find_map(|declared| match &declared.defaulted {
        Resource::ConfigMap(map) => map.settings.as_ref()?.local_model.as_ref().map(|local| !local.enabled),
        _ => None,
    });
    let off = settings.unwrap_or_else(|| is_off(before));
    for (_, change) in changes.iter_mut() {
        let FileChange::Read { resources, .. } = change else { continue };
        for declared in resources {
            if let Resource::InferenceService(service) = &mut declared.defaulted {
                let matched = if off { None } else { cache_of(service, &known) };
                mark(service, matched.as_ref());
            }
        }
    }
}

fn declared(change: &FileChange) -> &[Declared] {
    match change {
        FileChange::Read { resources, .. } => resources,
        FileChange::Gone => &[],
    }
}

/// Takes the caches of a file in, but those of the cluster that ask for the URI of another.
fn refuse_same(change: &mut FileChange, known: &mut BTreeMap<ResourceKey, LocalModelCache>) {
    let FileChange::Read { resources, problems, refused, .. } = change else { return };
    resources.retain(|declared| {
        let (Resource::LocalModelCache(cache) | Resource::LocalModelNamespaceCache(cache)) = &declared.defaulted else { return true };
        let key = declared.resource.key();
        let others = known.iter().filter(|(other, _)| other.kind == Kind::LocalModelCache && **other != key).map(|(_, cache)| cache);
        let all: Vec<&LocalModelCache> = others.chain([&**cache]).collect();
        let last = all.len() - 1;
        let conflict = local_model_conflicts(&all).into_iter().find(|(index, _)| *index == last && key.kind == Kind::LocalModelCache);
        let Some((_, violation)) = conflict else {
            known.insert(key, (**cache).clone());
            return true;
        };
        let place = declared.fields.locate(&violation.field, &declared.place);
        let problem = Problem::error(place, violation.field, violation.message).about(Some(key.clone()));
        tracing::error!("{problem}");
        problems.push(problem);
        refused.push(key);
        false
    });
}

/// Does one step for a cache: fetches it, tells that it is there, or lets it go.
pub(super) async fn reconcile(mind: &Mind, key: &ResourceKey, superseded: &CancellationToken) -> Outcome {
    let snapshot = mind.reader.snapshot();
    let Some(stored) = snapshot.get(key).cloned() else {
        let_go(mind, &snapshot, key).await;
        return Outcome::Done;
    };
    let Some(cache) = cache_in(&stored) else { return Outcome::Done };
    let outcome = match group_for(mind, &snapshot, cache) {
        Err(no_node) => {
            mind.local_models.lock().remove(key);
            // What is off or lacks its group may come back; another machine's model does not.
            if no_node.reason == NO_MATCHING_NODE {
                pin::let_go(mind, key).await;
            }
            say(mind, key, &stored, Some(&no_node));
            Outcome::Done
        }
        Ok(group) => Fetch { mind, key, stored: &stored, cache, group: &group, superseded }.run(&snapshot).await,
    };
    say_node(mind);
    outcome
}

/// A group of nodes changed: tells how full it is.
pub(super) fn reconcile_group(mind: &Mind, key: &ResourceKey) {
    if let Some(Resource::LocalModelNodeGroup(group)) = mind.reader.snapshot().get(key).map(|stored| &stored.defaulted) {
        let used = used(mind, &key.name);
        let limit = group.spec.storage_limit.as_ref().map_or(0, crate::api::quantity::Quantity::bytes);
        let amount = |bytes: u64| bytes.to_string().parse().expect("a number is a quantity because digits are");
        let status = LocalModelNodeGroupStatus { used: amount(used), available: amount(limit.saturating_sub(used)) };
        mind.set_local_status(key, LocalModelStatus::Group(status));
    }
}

/// Every cache in the store.
pub(super) fn caches(snapshot: &Snapshot) -> impl Iterator<Item = (&ResourceKey, &LocalModelCache)> {
    let of_kind = |kind| snapshot.of_kind(kind, None);
    let all = of_kind(Kind::LocalModelCache).chain(of_kind(Kind::LocalModelNamespaceCache));
    all.filter_map(|(key, stored)| Some((key, cache_in(stored)?)))
}

/// The cache that holds a service's model, and how it is had.
pub(super) fn order_for(
    snapshot: &Snapshot,
    service: &crate::api::inference_service::InferenceService,
) -> Option<(Matched, Result<Order, StorageError>)> {
    if is_off(snapshot) {
        return None;
    }
    let matched = cache_of(service, caches(snapshot))?;
    let stored = snapshot.get(&matched.cache)?;
    let order = order_of(snapshot, stored, cache_in(stored)?);
    Some((matched, order))
}

fn cache_in(stored: &Stored) -> Option<&LocalModelCache> {
    match &stored.defaulted {
        Resource::LocalModelCache(cache) | Resource::LocalModelNamespaceCache(cache) => Some(cache),
        _ => None,
    }
}

/// Whether KServe's ConfigMap turns local models off. Without one they are on: who writes the resource means it.
pub(super) fn is_off(snapshot: &Snapshot) -> bool {
    snapshot.settings().and_then(|settings| settings.local_model.as_ref()).is_some_and(|local| !local.enabled)
}

/// The first of a cache's groups that is there and that this machine belongs to.
fn group_for(mind: &Mind, snapshot: &Snapshot, cache: &LocalModelCache) -> Result<String, NoNode> {
    if is_off(snapshot) {
        let message = "`localModel.enabled` in `inferenceservice-config` is false".to_owned();
        return Err(NoNode { reason: "Disabled", message });
    }
    let mut missing = None;
    for name in &cache.spec.node_groups {
        match group(snapshot, name) {
            Some(found) if belongs(found, &mind.local_models.labels) => return Ok(name.clone()),
            Some(_) => {}
            None => missing = missing.or(Some(name)),
        }
    }
    Err(match missing {
        Some(name) => NoNode { reason: "NodeGroupNotFound", message: format!("NodeGroup {name} not found") },
        None => NoNode {
            reason: NO_MATCHING_NODE,
            message: format!(
                "this machine, node `{}`, belongs to none of the groups: their `nodeAffinity` excludes it",
                mind.local_models.node
            ),
        },
    })
}

fn group<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s LocalModelNodeGroup> {
    let key = ResourceKey { kind: Kind::LocalModelNodeGroup, namespace: String::new(), name: name.to_owned() };
    match &snapshot.get(&key)?.defaulted {
        Resource::LocalModelNodeGroup(group) => Some(group),
        _ => None,
    }
}

/// What opens a cache's store and where it is. Relative paths start at the file that names them.
fn order_of(snapshot: &Snapshot, stored: &Stored, cache: &LocalModelCache) -> Result<Order, StorageError> {
    let folder = stored.place.file.parent().unwrap_or(Path::new(""));
    let (written, containers) = (&cache.spec.source_model_uri, storage_containers(snapshot));
    let fetcher = fetcher_of(written, None, Workload::LocalModel, &containers).map_err(|error| StorageError::Wrong(error.to_string()))?;
    let uri = match fetcher.filter(|fetcher| !fetcher.command.is_empty()) {
        Some(fetcher) => StorageUri::Custom { container: fetcher.container, uri: written.clone() },
        None => StorageUri::parse(written, folder).map_err(|error| StorageError::Wrong(error.to_string()))?,
    };
    let brought = Brought::for_local_model(written, &containers).map_err(|error| StorageError::Wrong(error.to_string()))?;
    let secrets = secrets_of(snapshot, stored, cache).map_err(|error| StorageError::Wrong(error.to_string()))?;
    Ok(Order::opened_by(uri, &secrets, brought))
}

/// What opens a cache's store: nothing, unless it names an account or an entry of the storage secret. Those of the cluster have
/// theirs in the namespace of KServe's jobs.
fn secrets_of(snapshot: &Snapshot, stored: &Stored, cache: &LocalModelCache) -> Result<StorageEnv, ResolveError> {
    if cache.spec.service_account_name.is_none() && cache.spec.storage.is_none() {
        return Ok(StorageEnv::default());
    }
    let own = stored.defaulted.metadata().namespace.as_str();
    let settings = snapshot.settings().and_then(|settings| settings.local_model.as_ref());
    let jobs = settings.map(|local| local.job_namespace.as_str()).filter(|jobs| !jobs.is_empty()).unwrap_or(JOB_NAMESPACE);
    let asker = Asker {
        namespace: if own.is_empty() { jobs } else { own },
        secret: None,
        service_account: cache.spec.service_account_name.as_deref(),
        storage: cache.spec.storage.as_ref(),
    };
    env_of(&asker, snapshot)
}

/// One cache on its way to this machine.
struct Fetch<'f> {
    mind: &'f Mind,
    key: &'f ResourceKey,
    stored: &'f Stored,
    cache: &'f LocalModelCache,
    group: &'f str,
    superseded: &'f CancellationToken,
}

impl Fetch<'_> {
    async fn run(&self, snapshot: &Snapshot) -> Outcome {
        let (uri, bytes_max) = (&self.cache.spec.source_model_uri, self.size());
        let before = self.mind.local_models.get(self.key).filter(|held| held.source_uri == *uri);
        if let Some(lacks) = self.lacks_room(snapshot) {
            return self.refused(Stage::Failed { reason: "StorageLimitExceeded", message: lacks }).await;
        }
        if let Some(Held { stage: stage @ Stage::Downloaded { bytes, .. }, .. }) = before {
            return self.holds(stage, (bytes, bytes_max)).await;
        }
        if before.is_none() {
            self.stage(Stage::Pending);
        }
        let order = match order_of(snapshot, self.stored, self.cache) {
            Ok(order) => order,
            Err(error) => return self.failed(&error),
        };
        let (outgrown, pin) = (CancellationToken::new(), pin::pin_of(self.key, &self.mind.local_models.home));
        let report = self.report(bytes_max, outgrown.clone());
        let fetched = tokio::select! {
            () = self.superseded.cancelled() => return Outcome::Done,
            () = outgrown.cancelled() => {
                let message = format!("the model is larger than its `modelSize`, {bytes_max} bytes");
                return self.refused(Stage::Failed { reason: "ModelTooLarge", message }).await;
            }
            fetched = self.mind.storage.hold(&order, &pin, &report) => fetched,
        };
        let model = match fetched {
            Ok(model) => model,
            Err(error) => return self.failed(&error),
        };
        let path = model.path().to_owned();
        let bytes = on_files(move || file_bytes(&path)).await;
        self.holds(Stage::Downloaded { _model: model, bytes }, (bytes, bytes_max)).await
    }

    /// The model is here, and stays if it is as small as it must be.
    async fn holds(&self, stage: Stage, (bytes, bytes_max): (u64, u64)) -> Outcome {
        if bytes > bytes_max {
            return self.refused(too_large(bytes, bytes_max)).await;
        }
        self.stage(stage);
        Outcome::Done
    }

    /// The model may not stay here.
    async fn refused(&self, stage: Stage) -> Outcome {
        self.stage(stage);
        pin::let_go(self.mind, self.key).await;
        Outcome::Done
    }

    /// Bytes that the model may have.
    fn size(&self) -> u64 {
        self.cache.spec.model_size.as_ref().map_or(u64::MAX, crate::api::quantity::Quantity::bytes)
    }

    fn lacks_room(&self, snapshot: &Snapshot) -> Option<String> {
        let limit = group(snapshot, self.group)?.spec.storage_limit.as_ref()?;
        let bytes = lacking(self.key, &claims(self.mind, snapshot, self.group), limit.bytes())?;
        Some(format!(
            "the models of LocalModelNodeGroup `{}` may take {limit} on this machine, and {bytes} bytes are missing for this one\n\
             hint: raise its `spec.storageLimit`, or remove another cache of the group",
            self.group
        ))
    }

    fn failed(&self, error: &StorageError) -> Outcome {
        self.stage(Stage::Failed { reason: "DownloadFailed", message: error.to_string() });
        match error {
            StorageError::Wrong(_) => Outcome::Done,
            StorageError::MayPass(_) => Outcome::Retry,
        }
    }

    /// Tells now and then how far the download is, and stops one that is larger than it may be.
    fn report(&self, bytes_max: u64, outgrown: CancellationToken) -> impl Fn(Progress) + Send + Sync + '_ {
        let told = Mutex::new(None::<Instant>);
        move |progress: Progress| {
            if progress.bytes_total.unwrap_or(progress.bytes_done) > bytes_max {
                outgrown.cancel();
            }
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                *told = Some(Instant::now());
                self.stage(Stage::Downloading(progress.done()));
            }
        }
    }

    fn stage(&self, stage: Stage) {
        if let (Stage::Failed { reason, message }, true) = (&stage, self.is_news(&stage)) {
            tracing::warn!(cache = %self.key, reason, error = %message, "a local model is not here");
        }
        let came = matches!(stage, Stage::Downloaded { .. }) && self.is_news(&stage);
        let held = Held { source_uri: self.cache.spec.source_model_uri.clone(), group: self.group.to_owned(), stage };
        self.mind.local_models.lock().insert(self.key.clone(), held);
        if came {
            self.came();
        }
        say(self.mind, self.key, self.stored, None);
    }

    /// Services that could not have the model may have it now, with the cache's credentials.
    fn came(&self) {
        tracing::info!(cache = %self.key, uri = self.cache.spec.source_model_uri, "a local model is here");
        for user in users(&self.mind.reader.snapshot(), self.key) {
            self.mind.queue.add(ResourceKey { kind: Kind::InferenceService, namespace: user.namespace, name: user.name });
        }
    }

    fn is_news(&self, stage: &Stage) -> bool {
        self.mind.local_models.get(self.key).is_none_or(|held| status_of(&held.stage) != status_of(stage))
    }
}

fn too_large(bytes: u64, bytes_max: u64) -> Stage {
    Stage::Failed {
        reason: "ModelTooLarge",
        message: format!("the model has {bytes} bytes, its `modelSize` allows {bytes_max}\nhint: raise `spec.modelSize`"),
    }
}

/// The caches that want room in a group of this machine, the older first.
fn claims(mind: &Mind, snapshot: &Snapshot, group: &str) -> Vec<Claim> {
    let mut found: Vec<(SystemTime, Claim)> = Vec::new();
    for (key, cache) in caches(snapshot) {
        if group_for(mind, snapshot, cache).is_ok_and(|own| own == group) {
            let created = snapshot.get(key).map_or(SystemTime::UNIX_EPOCH, |stored| stored.creation_timestamp);
            let bytes = cache.spec.model_size.as_ref().map_or(0, crate::api::quantity::Quantity::bytes);
            found.push((created, Claim { cache: key.clone(), source_uri: cache.spec.source_model_uri.clone(), bytes }));
        }
    }
    found.sort_by(|a, b| (a.0, &a.1.cache).cmp(&(b.0, &b.1.cache)));
    found.into_iter().map(|(_, claim)| claim).collect()
}

/// Bytes that the models of a group take here; each URI once.
fn used(mind: &Mind, group: &str) -> u64 {
    let held = mind.local_models.lock();
    let of_group = held.values().filter(|held| held.group == group);
    let by_uri: BTreeMap<&str, u64> = of_group
        .filter_map(|held| match held.stage {
            Stage::Downloaded { bytes, .. } => Some((held.source_uri.as_str(), bytes)),
            _ => None,
        })
        .collect();
    by_uri.values().sum()
}

/// A cache is gone: its files may be evicted once no service uses them. Others may have room now.
async fn let_go(mind: &Mind, snapshot: &Snapshot, key: &ResourceKey) {
    pin::let_go(mind, key).await;
    let held = mind.local_models.lock().remove(key);
    let Some(held) = held else { return };
    let users = users(snapshot, key);
    if users.is_empty() {
        tracing::info!(cache = %key, "a local model is let go");
    } else {
        let service = format!("{}/{}", users[0].namespace, users[0].name);
        tracing::warn!(cache = %key, "LocalModelCache {} is being used by InferenceService {service}: it goes on serving", key.name);
    }
    for (other, cache) in caches(snapshot) {
        if cache.spec.node_groups.contains(&held.group) {
            mind.queue.add(other.clone());
        }
    }
    say_node(mind);
}

/// The services whose marks name a cache.
fn users(snapshot: &Snapshot, key: &ResourceKey) -> Vec<NamespacedName> {
    let services = snapshot.of_kind(Kind::InferenceService, Some(key.namespace.as_str()).filter(|namespace| !namespace.is_empty()));
    let used = services.filter(|(_, stored)| matches!(&stored.defaulted, Resource::InferenceService(service) if is_marked(service, key)));
    used.map(|(service, _)| NamespacedName { namespace: service.namespace.clone(), name: service.name.clone() }).collect()
}

const fn status_of(stage: &Stage) -> NodeStatus {
    match stage {
        Stage::Pending => NodeStatus::NodeDownloadPending,
        Stage::Downloading(_) => NodeStatus::NodeDownloading,
        Stage::Downloaded { .. } => NodeStatus::NodeDownloaded,
        Stage::Failed { .. } => NodeStatus::NodeDownloadError,
    }
}

/// Puts the status of a cache into the store.
fn say(mind: &Mind, key: &ResourceKey, stored: &Stored, no_node: Option<&NoNode>) {
    let held = mind.local_models.get(key);
    let node_status = held.as_ref().map(|held| status_of(&held.stage));
    let count = |wanted: NodeStatus| i32::from(node_status == Some(wanted));
    let copies = LocalModelCopies {
        available: count(NodeStatus::NodeDownloaded),
        total: i32::from(node_status.is_some()),
        failed: count(NodeStatus::NodeDownloadError),
    };
    let (status, reason, message) = match (&held.as_ref().map(|held| &held.stage), no_node) {
        (_, Some(NoNode { reason, message })) | (Some(Stage::Failed { reason, message }), None) => {
            (ConditionStatus::False, *reason, message.clone())
        }
        (Some(Stage::Downloaded { .. }), None) => (ConditionStatus::True, "", String::new()),
        (Some(Stage::Downloading(how_far)), None) => (ConditionStatus::Unknown, "Downloading", how_far.clone()),
        (Some(Stage::Pending) | None, None) => (ConditionStatus::Unknown, "Pending", String::new()),
    };
    let before = match &mind.reader.snapshot().get(key).and_then(|stored| stored.local_status.clone()) {
        Some(LocalModelStatus::Cache(before)) => before.conditions.first().filter(|before| before.status == status).cloned(),
        _ => None,
    };
    let since = before.and_then(|before| before.last_transition_time).unwrap_or_else(|| rfc3339(SystemTime::now()));
    let mut conditions = vec![Condition {
        kind: condition::READY.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        last_transition_time: Some(since),
        ..Condition::default()
    }];
    let problem = stored.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    if !problem.is_empty() {
        conditions.push(Condition {
            kind: super::status::MANIFEST_ACCEPTED.to_owned(),
            status: ConditionStatus::False,
            reason: "ManifestProblem".to_owned(),
            message: problem,
            severity: "Info".to_owned(),
            ..Condition::default()
        });
    }
    let node_status = node_status.map(|status| (mind.local_models.node.clone(), status)).into_iter().collect();
    let inference_services = users(&mind.reader.snapshot(), key);
    let status = LocalModelCacheStatus { node_status, copies, inference_services, conditions };
    mind.set_local_status(key, LocalModelStatus::Cache(status));
}

/// Writes what this node is to hold and holds, and how full its groups are.
fn say_node(mind: &Mind) {
    let (node, status, groups) = {
        let held = mind.local_models.lock();
        let info = |(key, held): (&ResourceKey, &Held)| LocalModelInfo {
            source_model_uri: held.source_uri.clone(),
            model_name: key.name.clone(),
            namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            node_group: Some(held.group.clone()),
            ..LocalModelInfo::default()
        };
        let name = |key: &ResourceKey| match key.namespace.as_str() {
            "" => key.name.clone(),
            namespace => format!("{namespace}/{}", key.name),
        };
        let mut node = LocalModelNode { kind: Kind::LocalModelNode.name().to_owned(), ..LocalModelNode::default() };
        node.metadata.name.clone_from(&mind.local_models.node);
        node.spec.local_models = held.iter().map(info).collect();
        let model_status = held.iter().map(|(key, held)| (name(key), status_of(&held.stage).into())).collect();
        let groups: std::collections::BTreeSet<String> = held.values().map(|held| held.group.clone()).collect();
        (node, LocalModelNodeStatus { model_status }, groups)
    };
    mind.declare_node(node, LocalModelStatus::Node(status));
    for name in groups {
        reconcile_group(mind, &ResourceKey { kind: Kind::LocalModelNodeGroup, namespace: String::new(), name });
    }
}
