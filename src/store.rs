//! All resources and their statuses at one moment: one writer, many readers, no waiting.
//!
//! The writer is told what each watched file holds ([`Writer::apply`]) and how each service fares
//! ([`Writer::set_status`]). The store decides who owns a resource that several files declare, keeps the
//! last good resources of a broken file, and counts generations. Readers take a [`Snapshot`]: one atomic
//! load, never a lock. Time comes in as an argument.

use crate::api::inference_service_config::{CONFIG_MAP, CONFIG_NAMESPACE, InferenceServiceConfig};
use crate::api::local_model::LocalModelStatus;
use crate::api::problem::Problem;
use crate::api::status::{InferenceGraphStatus, InferenceServiceStatus};
use crate::api::{Kind, Resource, ResourceKey};
use crate::manifest::FieldPlaces;
use crate::place::Place;
use arc_swap::ArcSwap;
use rpds::RedBlackTreeMapSync;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// One resource as a file declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// As written.
    pub resource: Resource,
    /// After defaulting: what is acted on and shown.
    pub defaulted: Resource,
    /// Where its document starts.
    pub place: Place,
    /// Where its fields stand.
    pub fields: FieldPlaces,
    /// Warnings that concern this resource: ignored and misspelled fields, features not yet served.
    pub warnings: Vec<Problem>,
}

/// What became of a watched file.
#[derive(Debug, Clone, PartialEq)]
pub enum FileChange {
    /// It was read.
    Read {
        /// What it declares.
        resources: Vec<Declared>,
        /// All its mistakes and warnings.
        problems: Vec<Problem>,
        /// Resources that the file names and that cannot be used as they are: the last good ones stay.
        refused: Vec<ResourceKey>,
        /// Whether every document could be told. When not, all resources that the file declared before and
        /// that are not among `resources` stay as they were: they may be what the broken part was.
        complete: bool,
    },
    /// It is gone, and its resources with it.
    Gone,
}

/// One resource in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// As written.
    pub resource: Resource,
    /// After defaulting.
    pub defaulted: Resource,
    /// Where its document starts, in the file that owns it.
    pub place: Place,
    /// Where its fields stand there.
    pub fields: FieldPlaces,
    /// Unique over the life of the store, also for a later resource of the same key.
    pub uid: String,
    /// Counts the changes of `spec`, from 1.
    pub generation: u64,
    /// When the resource was first seen.
    pub creation_timestamp: SystemTime,
    /// The store's version at the last change of the resource or of its status.
    pub resource_version: u64,
    /// The status of a service, once there is one.
    pub status: Option<InferenceServiceStatus>,
    /// The status of a graph, once there is one.
    pub graph_status: Option<InferenceGraphStatus>,
    /// The status of a cache of local models, of a group of nodes or of a node, once there is one.
    pub local_status: Option<LocalModelStatus>,
    /// Warnings that concern this resource.
    pub warnings: Vec<Problem>,
    /// Why the resource is not what its file says now: the file is broken, or another file claims the name.
    pub problems: Vec<Problem>,
}

impl Stored {
    /// Where a field stands, e.g. `spec.predictor.model.runtime`, or the nearest written field around it.
    #[must_use]
    pub fn locate(&self, field: &str) -> Place {
        self.fields.locate(field, &self.place)
    }

    /// The resource in Kubernetes' shape: `apiVersion`, `kind`, `metadata` as an API server fills it,
    /// `spec` after defaulting, `status`.
    #[must_use]
    pub fn object_json(&self) -> Value {
        let key = self.resource.key();
        let written = tree(&self.defaulted);
        let mut metadata = match written.get("metadata") {
            Some(Value::Object(metadata)) => metadata.clone(),
            _ => Map::new(),
        };
        if key.kind.namespaced() {
            metadata.insert("namespace".to_owned(), json!(key.namespace));
        }
        metadata.insert("uid".to_owned(), json!(self.uid));
        metadata.insert("resourceVersion".to_owned(), json!(self.resource_version.to_string()));
        metadata.insert("generation".to_owned(), json!(self.generation));
        metadata.insert("creationTimestamp".to_owned(), json!(rfc3339(self.creation_timestamp)));
        if key.kind.is_core() {
            return core_json(&key, metadata, &written);
        }
        let mut object = json!({
            "apiVersion": key.kind.api_version(),
            "kind": key.kind.name(),
            "metadata": metadata,
            "spec": written.get("spec").cloned().unwrap_or_else(|| json!({})),
        });
        if let Some(status) = &self.status {
            object["status"] = plain(status);
        }
        if let Some(status) = &self.graph_status {
            object["status"] = plain(status);
        }
        if let Some(status) = &self.local_status {
            object["status"] = plain(status);
        }
        // Some kinds have fields beside `spec`.
        for (field, value) in written.as_object().into_iter().flatten().filter(|(field, _)| object_field(field) && *field != "spec") {
            object[field] = value.clone();
        }
        object
    }
}

/// One consistent read of the store.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Grows with each change of a resource, a status or a file's problems; 0 before the first.
    pub resource_version: u64,
    /// The version that took a resource away last; 0 where none was.
    pub last_removal: u64,
    /// Every resource. Two snapshots share what is the same in them: with ten thousand resources a change costs a few
    /// entries, not a copy of all.
    pub resources: RedBlackTreeMapSync<ResourceKey, Arc<Stored>>,
    /// Mistakes and warnings by file, files without any left out.
    pub problems: Arc<BTreeMap<PathBuf, Vec<Problem>>>,
}

impl Snapshot {
    /// The resource of that key.
    #[must_use]
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Stored>> {
        self.resources.get(key)
    }

    /// KServe's own settings: those in the namespace `kserve` where it has some, else the first by namespace.
    #[must_use]
    pub fn settings(&self) -> Option<&InferenceServiceConfig> {
        let settings = |stored: &'_ Arc<Stored>| match &stored.defaulted {
            Resource::ConfigMap(map) => map.settings.is_some(),
            _ => false,
        };
        let named = |namespace: &str| ResourceKey { kind: Kind::ConfigMap, namespace: namespace.to_owned(), name: CONFIG_MAP.to_owned() };
        let own = self.get(&named(CONFIG_NAMESPACE)).filter(|stored| settings(stored));
        let found = own.or_else(|| {
            let all = self.resources.range(named("")..).take_while(|(key, _)| key.kind == Kind::ConfigMap);
            all.map(|(_, stored)| stored).find(|stored| settings(stored))
        });
        match &found?.defaulted {
            Resource::ConfigMap(map) => map.settings.as_deref(),
            _ => None,
        }
    }

    /// The resources of a kind by namespace and name; of one namespace when it is given.
    pub fn of_kind<'a>(&'a self, kind: Kind, namespace: Option<&'a str>) -> impl Iterator<Item = (&'a ResourceKey, &'a Arc<Stored>)> {
        let first = ResourceKey { kind, namespace: namespace.unwrap_or_default().to_owned(), name: String::new() };
        let asked_for = move |key: &ResourceKey| key.kind == kind && namespace.is_none_or(|wanted| wanted == key.namespace);
        self.resources.range(first..).take_while(move |(key, _)| asked_for(key))
    }
}

/// Reads the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl Reader {
    /// The store as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Calls `listener` with the new version after each change, on the writer's thread, until it says `false`.
    ///
    /// The snapshot that the version belongs to, or a later one, is in place by then. The listener must not
    /// wait, and must not listen again from within.
    pub fn on_change(&self, listener: impl FnMut(u64) -> bool + Send + 'static) {
        self.shared.listeners().push(Box::new(listener));
    }
}

type Listener = Box<dyn FnMut(u64) -> bool + Send>;

#[derive(Default)]
struct Shared {
    snapshot: ArcSwap<Snapshot>,
    listeners: Mutex<Vec<Listener>>,
}

impl Shared {
    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

/// The one writer of a store.
#[derive(Debug, Default)]
pub struct Writer {
    shared: Arc<Shared>,
    files: BTreeMap<PathBuf, FileEntry>,
    /// The files that declare a key, the oldest claim first: it owns the resource.
    claims: BTreeMap<ResourceKey, Vec<PathBuf>>,
}

/// What a file declares, as far as it could be read.
#[derive(Debug, Default)]
struct FileEntry {
    resources: BTreeMap<ResourceKey, Arc<Declared>>,
    problems: Vec<Problem>,
    /// Keys kept from before because the file is broken now.
    kept: BTreeSet<ResourceKey>,
}

/// What a change of files means for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Same,
    /// Only its place within the file or its warnings changed.
    Moved,
    LookAgain,
}

impl Writer {
    /// A reader of this store.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }

    /// Takes over what files hold now, all of them at once, so that a resource that moves from one file of
    /// the batch to another is neither lost nor claimed twice in between.
    ///
    /// Answers the keys that must be looked at again, sorted: new, gone, changed in content, in the folder
    /// they are declared in, or in their problems. A key that only moved within its file is not among them.
    pub fn apply(&mut self, changes: Vec<(PathBuf, FileChange)>, now: SystemTime) -> Vec<ResourceKey> {
        let mut touched = BTreeSet::new();
        for (path, change) in changes {
            self.take_file(path, change, &mut touched);
        }
        let mut next = Snapshot::clone(&self.shared.snapshot.load());
        next.resource_version += 1;
        let settled: Vec<(ResourceKey, Settled)> =
            touched.into_iter().map(|key| (key.clone(), self.settle(&mut next, &key, now))).collect();
        let problems = self.all_problems();
        if problems != *next.problems || settled.iter().any(|(_, settled)| *settled != Settled::Same) {
            next.problems = Arc::new(problems);
            self.publish(next);
        }
        settled.into_iter().filter(|(_, settled)| *settled == Settled::LookAgain).map(|(key, _)| key).collect()
    }

    /// Puts a service's status in place; nothing happens when it is the same or the resource is gone.
    pub fn set_status(&mut self, key: &ResourceKey, status: InferenceServiceStatus) {
        let is_news = |stored: &Stored| stored.status.as_ref() != Some(&status);
        if self.shared.snapshot.load().get(key).is_some_and(|stored| is_news(stored)) {
            self.change(key, |stored| stored.status = Some(status));
        }
    }

    /// The same for a graph.
    pub fn set_graph_status(&mut self, key: &ResourceKey, status: InferenceGraphStatus) {
        let is_news = |stored: &Stored| stored.graph_status.as_ref() != Some(&status);
        if self.shared.snapshot.load().get(key).is_some_and(|stored| is_news(stored)) {
            self.change(key, |stored| stored.graph_status = Some(status));
        }
    }

    /// The same for a cache of local models, a group of nodes or a node.
    pub fn set_local_status(&mut self, key: &ResourceKey, status: LocalModelStatus) {
        let is_news = |stored: &Stored| stored.local_status.as_ref() != Some(&status);
        if self.shared.snapshot.load().get(key).is_some_and(|stored| is_news(stored)) {
            self.change(key, |stored| stored.local_status = Some(status));
        }
    }

    /// Puts a changed copy of a resource in place, under a new version; nothing happens when it is gone.
    fn change(&mut self, key: &ResourceKey, change: impl FnOnce(&mut Stored)) {
        let mut next = Snapshot::clone(&self.shared.snapshot.load());
        let Some(mut stored) = next.get(key).map(|stored| Stored::clone(stored)) else { return };
        next.resource_version += 1;
        change(&mut stored);
        stored.resource_version = next.resource_version;
        next.resources.insert_mut(key.clone(), Arc::new(stored));
        self.publish(next);
    }

    /// The files the store knows, also those without resources.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    fn take_file(&mut self, path: PathBuf, change: FileChange, touched: &mut BTreeSet<ResourceKey>) {
        let before = self.files.remove(&path).unwrap_or_default();
        let after = match change {
            FileChange::Gone => None,
            FileChange::Read { resources, problems, refused, complete } => {
                Some(merge(&before, resources, problems, |key| !complete || refused.contains(key)))
            }
        };
        touched.extend(before.resources.keys().cloned());
        for key in before.resources.keys() {
            if !after.as_ref().is_some_and(|entry| entry.resources.contains_key(key)) {
                self.withdraw(key, &path);
            }
        }
        let Some(entry) = after else { return };
        for key in entry.resources.keys() {
            touched.insert(key.clone());
            let claims = self.claims.entry(key.clone()).or_default();
            if !claims.contains(&path) {
                claims.push(path.clone());
            }
        }
        self.files.insert(path, entry);
    }

    fn withdraw(&mut self, key: &ResourceKey, path: &Path) {
        if let Some(claims) = self.claims.get_mut(key) {
            claims.retain(|claim| claim != path);
            if claims.is_empty() {
                self.claims.remove(key);
            }
        }
    }

    /// Brings one key of the snapshot up to what the files declare.
    fn settle(&self, next: &mut Snapshot, key: &ResourceKey, now: SystemTime) -> Settled {
        let Some(owner) = self.claims.get(key).and_then(|claims| claims.first()) else {
            if !next.resources.remove_mut(key) {
                return Settled::Same;
            }
            next.last_removal = next.resource_version;
            return Settled::LookAgain;
        };
        let declared = &self.files[owner].resources[key];
        let problems = self.problems_of(key, owner);
        let Some(stored) = next.resources.get(key) else {
            next.resources.insert_mut(key.clone(), Arc::new(first_seen(declared, problems, next.resource_version, now)));
            return Settled::LookAgain;
        };
        if is_as_declared(stored, declared, &problems) {
            return Settled::Same;
        }
        let look_again = stored.resource != declared.resource
            || stored.defaulted != declared.defaulted
            || stored.place.file != declared.place.file
            || stored.problems != problems;
        let stored = changed(stored, declared, problems, next.resource_version);
        next.resources.insert_mut(key.clone(), Arc::new(stored));
        if look_again { Settled::LookAgain } else { Settled::Moved }
    }

    /// Why a resource is not, or not surely, what its file says now.
    fn problems_of(&self, key: &ResourceKey, owner: &Path) -> Vec<Problem> {
        let file = &self.files[owner];
        let mut problems = Vec::new();
        if file.kept.contains(key) {
            problems.extend(file.problems.iter().filter(|problem| problem.is_error()).cloned());
        }
        problems.extend(self.conflict(key));
        problems
    }

    /// The sentence about a key that several files claim; all of them are named.
    fn conflict(&self, key: &ResourceKey) -> Option<Problem> {
        let claims = self.claims.get(key).filter(|claims| claims.len() > 1)?;
        let place = |path: &PathBuf| self.files[path].resources[key].place.clone();
        let owner = place(&claims[0]);
        let others: Vec<String> = claims[1..].iter().map(|path| format!("`{}`", place(path))).collect();
        let message = format!("{key} is declared by `{owner}` and by {}; the one from `{owner}` counts", others.join(", "));
        Some(Problem::error(place(&claims[1]), "metadata.name", message).about(Some(key.clone())))
    }

    fn all_problems(&self) -> BTreeMap<PathBuf, Vec<Problem>> {
        let mut all: BTreeMap<PathBuf, Vec<Problem>> = BTreeMap::new();
        for (path, entry) in self.files.iter().filter(|(_, entry)| !entry.problems.is_empty()) {
            all.insert(path.clone(), entry.problems.clone());
        }
        for (key, claims) in self.claims.iter().filter(|(_, claims)| claims.len() > 1) {
            let Some(problem) = self.conflict(key) else { continue };
            for path in claims {
                all.entry(path.clone()).or_default().push(problem.clone());
            }
        }
        all
    }

    fn publish(&self, next: Snapshot) {
        let version = next.resource_version;
        self.shared.snapshot.store(Arc::new(next));
        self.shared.listeners().retain_mut(|listener| listener(version));
    }
}

/// What a file declares now: what was read, and of what was there before that which is to be kept.
fn merge(before: &FileEntry, resources: Vec<Declared>, mut problems: Vec<Problem>, keep: impl Fn(&ResourceKey) -> bool) -> FileEntry {
    let mut entry = FileEntry::default();
    for declared in resources {
        let key = declared.resource.key();
        if let Some(first) = entry.resources.get(&key) {
            let message = format!("{key} is declared at `{}` already; the first one counts", first.place);
            problems.push(Problem::error(declared.place.clone(), "metadata.name", message).about(Some(key)));
            continue;
        }
        entry.resources.insert(key, Arc::new(declared));
    }
    for (key, declared) in &before.resources {
        if !entry.resources.contains_key(key) && keep(key) {
            entry.resources.insert(key.clone(), Arc::clone(declared));
            entry.kept.insert(key.clone());
        }
    }
    entry.problems = problems;
    entry
}

fn first_seen(declared: &Declared, problems: Vec<Problem>, resource_version: u64, now: SystemTime) -> Stored {
    Stored {
        resource: declared.resource.clone(),
        defaulted: declared.defaulted.clone(),
        place: declared.place.clone(),
        fields: declared.fields.clone(),
        uid: uid(&declared.resource.key(), now, resource_version),
        generation: 1,
        creation_timestamp: now,
        resource_version,
        status: None,
        graph_status: None,
        local_status: None,
        warnings: declared.warnings.clone(),
        problems,
    }
}

fn is_as_declared(stored: &Stored, declared: &Declared, problems: &[Problem]) -> bool {
    stored.place == declared.place
        && stored.fields == declared.fields
        && stored.warnings == declared.warnings
        && stored.problems == problems
        && stored.resource == declared.resource
        && stored.defaulted == declared.defaulted
}

fn changed(stored: &Stored, declared: &Declared, problems: Vec<Problem>, resource_version: u64) -> Stored {
    let spec_changed = spec_json(&stored.defaulted) != spec_json(&declared.defaulted);
    Stored {
        resource: declared.resource.clone(),
        defaulted: declared.defaulted.clone(),
        place: declared.place.clone(),
        fields: declared.fields.clone(),
        uid: stored.uid.clone(),
        generation: stored.generation + u64::from(spec_changed),
        creation_timestamp: stored.creation_timestamp,
        resource_version,
        status: stored.status.clone(),
        graph_status: stored.graph_status.clone(),
        local_status: stored.local_status.clone(),
        warnings: declared.warnings.clone(),
        problems,
    }
}

/// A resource without `spec`: its own fields stand beside `metadata`.
fn core_json(key: &ResourceKey, mut metadata: Map<String, Value>, written: &Value) -> Value {
    metadata.remove("generation");
    let mut object = json!({ "apiVersion": key.kind.api_version(), "kind": key.kind.name(), "metadata": metadata });
    for (field, value) in written.as_object().into_iter().flatten().filter(|(field, _)| object_field(field)) {
        object[field] = value.clone();
    }
    object
}

fn object_field(field: &str) -> bool {
    !matches!(field, "metadata" | "apiVersion" | "kind" | "status")
}

fn spec_json(resource: &Resource) -> Option<Value> {
    tree(resource).get("spec").cloned()
}

fn tree(resource: &Resource) -> Value {
    match resource {
        Resource::InferenceService(service) => plain(service),
        Resource::InferenceGraph(graph) => plain(graph),
        Resource::ServingRuntime(runtime) | Resource::ClusterServingRuntime(runtime) => plain(runtime),
        Resource::ClusterStorageContainer(container) => plain(container),
        Resource::LocalModelCache(cache) | Resource::LocalModelNamespaceCache(cache) => plain(cache),
        Resource::LocalModelNodeGroup(group) => plain(group),
        Resource::LocalModelNode(node) => plain(node),
        Resource::ConfigMap(map) => plain(map),
        Resource::Secret(secret) => plain(secret),
        Resource::ServiceAccount(account) => plain(account),
    }
}

fn plain(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("resources and statuses are plain data because serde derives them")
}

/// A UUID made of what tells this resource from an earlier one of the same key: when it was first seen.
fn uid(key: &ResourceKey, first_seen: SystemTime, resource_version: u64) -> String {
    let nanos = first_seen.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let digest = Sha256::digest(format!("{key} {nanos} {resource_version}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// A moment as Kubernetes writes it: RFC 3339, UTC, whole seconds.
#[must_use]
pub fn rfc3339(moment: SystemTime) -> String {
    let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Counts from 0000-03-01 in eras of 400 years, so that the leap day is the last one of its year.
fn civil_date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::inference_service::InferenceService;
    use std::time::Duration;

    fn key(name: &str) -> ResourceKey {
        ResourceKey { kind: Kind::InferenceService, namespace: "default".to_owned(), name: name.to_owned() }
    }

    fn declared(file: &str, name: &str, timeout_s: i64) -> Declared {
        let mut service = InferenceService::default();
        service.metadata.name = name.to_owned();
        service.metadata.namespace = "default".to_owned();
        service.spec.predictor.timeout_s = Some(timeout_s);
        let resource = Resource::InferenceService(Box::new(service));
        Declared {
            defaulted: resource.clone(),
            resource,
            place: Place::file(file).at(1, 1),
            fields: FieldPlaces::default(),
            warnings: Vec::new(),
        }
    }

    fn read(file: &str, resources: &[(&str, i64)]) -> (PathBuf, FileChange) {
        let resources = resources.iter().map(|(name, timeout_s)| declared(file, name, *timeout_s)).collect();
        (file.into(), FileChange::Read { resources, problems: Vec::new(), refused: Vec::new(), complete: true })
    }

    fn broken(file: &str) -> (PathBuf, FileChange) {
        let problem = Problem::error(Place::file(file).at(3, 1), "", "not YAML");
        (file.into(), FileChange::Read { resources: Vec::new(), problems: vec![problem], refused: Vec::new(), complete: false })
    }

    fn apply(writer: &mut Writer, changes: Vec<(PathBuf, FileChange)>) -> Vec<String> {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        writer.apply(changes, now).into_iter().map(|key| key.name).collect()
    }

    #[test]
    fn the_same_contents_again_change_nothing() {
        let mut writer = Writer::default();
        assert_eq!(apply(&mut writer, vec![read("a.yaml", &[("iris", 1)])]), ["iris"]);
        assert!(apply(&mut writer, vec![read("a.yaml", &[("iris", 1)])]).is_empty());
    }

    #[test]
    fn a_generation_counts_changes_of_the_spec_only() {
        let mut writer = Writer::default();
        apply(&mut writer, vec![read("a.yaml", &[("iris", 1)])]);
        let mut labelled = declared("a.yaml", "iris", 1);
        labelled.resource.metadata_mut().labels.insert("a".to_owned(), "b".to_owned());
        labelled.defaulted = labelled.resource.clone();
        let change = FileChange::Read { resources: vec![labelled], problems: Vec::new(), refused: Vec::new(), complete: true };
        assert_eq!(apply(&mut writer, vec![("a.yaml".into(), change)]), ["iris"]);
        assert_eq!(writer.reader().snapshot().get(&key("iris")).unwrap().generation, 1);
        apply(&mut writer, vec![read("a.yaml", &[("iris", 2)])]);
        assert_eq!(writer.reader().snapshot().get(&key("iris")).unwrap().generation, 2);
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_resources_and_says_so_once() {
        let mut writer = Writer::default();
        apply(&mut writer, vec![read("a.yaml", &[("iris", 1), ("wine", 1)])]);
        assert_eq!(apply(&mut writer, vec![broken("a.yaml")]), ["iris", "wine"]);
        assert!(apply(&mut writer, vec![broken("a.yaml")]).is_empty());
        let snapshot = writer.reader().snapshot();
        assert_eq!(snapshot.get(&key("iris")).unwrap().problems[0].to_string(), "a.yaml:3:1: not YAML");
        assert_eq!(snapshot.problems[Path::new("a.yaml")].len(), 1);
        assert_eq!(apply(&mut writer, vec![read("a.yaml", &[("iris", 1)])]), ["iris", "wine"]);
        let snapshot = writer.reader().snapshot();
        assert!(snapshot.get(&key("iris")).unwrap().problems.is_empty());
        assert!(snapshot.get(&key("wine")).is_none() && snapshot.problems.is_empty());
    }

    #[test]
    fn one_broken_document_does_not_hold_up_the_good_ones() {
        let mut writer = Writer::default();
        apply(&mut writer, vec![read("a.yaml", &[("iris", 1), ("wine", 1)])]);
        let problem = Problem::error(Place::file("a.yaml"), "spec", "wrong");
        let change = FileChange::Read {
            resources: vec![declared("a.yaml", "iris", 2)],
            problems: vec![problem],
            refused: Vec::new(),
            complete: false,
        };
        assert_eq!(apply(&mut writer, vec![("a.yaml".into(), change)]), ["iris", "wine"]);
        let snapshot = writer.reader().snapshot();
        assert_eq!(snapshot.get(&key("iris")).unwrap().generation, 2);
        assert!(snapshot.get(&key("iris")).unwrap().problems.is_empty());
        assert_eq!(snapshot.get(&key("wine")).unwrap().problems.len(), 1);
    }

    #[test]
    fn a_refused_resource_stays_as_it_was_and_one_that_was_taken_out_goes() {
        let mut writer = Writer::default();
        apply(&mut writer, vec![read("a.yaml", &[("iris", 1), ("wine", 1)])]);
        let change = FileChange::Read { resources: Vec::new(), problems: Vec::new(), refused: vec![key("iris")], complete: true };
        assert_eq!(apply(&mut writer, vec![("a.yaml".into(), change)]), ["wine"]);
        assert!(writer.reader().snapshot().get(&key("iris")).is_some());
    }

    #[test]
    fn a_resource_that_moves_to_another_file_stays_the_same_resource() {
        let mut writer = Writer::default();
        apply(&mut writer, vec![read("a.yaml", &[("iris", 1)])]);
        let uid = writer.reader().snapshot().get(&key("iris")).unwrap().uid.clone();
        apply(&mut writer, vec![("a.yaml".into(), FileChange::Gone), read("b.yaml", &[("iris", 1)])]);
        let snapshot = writer.reader().snapshot();
        let stored = snapshot.get(&key("iris")).unwrap();
        assert_eq!((stored.uid.as_str(), stored.generation), (uid.as_str(), 1));
        assert_eq!(stored.place.to_string(), "b.yaml:1:1");
        assert!(snapshot.problems.is_empty());
    }

    #[test]
    fn two_files_claiming_one_name_are_both_named_and_the_older_one_stays() {
        let mut writer = Writer::default();
        apply(&mut writer, vec![read("b.yaml", &[("iris", 1)])]);
        assert_eq!(apply(&mut writer, vec![read("a.yaml", &[("iris", 2)])]), ["iris"]);
        let snapshot = writer.reader().snapshot();
        let stored = snapshot.get(&key("iris")).unwrap();
        assert_eq!(stored.place.to_string(), "b.yaml:1:1");
        assert_eq!(
            stored.problems[0].message,
            "InferenceService/default/iris is declared by `b.yaml:1:1` and by `a.yaml:1:1`; the one from `b.yaml:1:1` counts"
        );
        assert_eq!(snapshot.problems.len(), 2, "both files are told");
        assert_eq!(apply(&mut writer, vec![("b.yaml".into(), FileChange::Gone)]), ["iris"]);
        let snapshot = writer.reader().snapshot();
        let stored = snapshot.get(&key("iris")).unwrap();
        assert_eq!((stored.place.to_string().as_str(), stored.generation), ("a.yaml:1:1", 2));
        assert!(stored.problems.is_empty() && snapshot.problems.is_empty());
    }

    #[test]
    fn a_name_twice_in_one_file_is_a_mistake_and_the_first_one_counts() {
        let mut writer = Writer::default();
        apply(&mut writer, vec![read("a.yaml", &[("iris", 1), ("iris", 2)])]);
        let snapshot = writer.reader().snapshot();
        assert_eq!(
            snapshot.problems[Path::new("a.yaml")][0].message,
            "InferenceService/default/iris is declared at `a.yaml:1:1` already; the first one counts"
        );
    }

    #[test]
    fn a_resource_made_anew_has_a_new_uid() {
        let mut writer = Writer::default();
        let mut uids = BTreeSet::new();
        for _ in 0..2 {
            apply(&mut writer, vec![read("a.yaml", &[("iris", 1)])]);
            uids.insert(writer.reader().snapshot().get(&key("iris")).unwrap().uid.clone());
            apply(&mut writer, vec![("a.yaml".into(), FileChange::Gone)]);
        }
        assert_eq!(uids.len(), 2);
    }

    #[test]
    fn listeners_hear_of_changes_until_they_say_no() {
        let mut writer = Writer::default();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let page = Arc::clone(&heard);
        writer.reader().on_change(move |version| {
            page.lock().unwrap().push(version);
            version < 2
        });
        apply(&mut writer, vec![read("a.yaml", &[("iris", 1)])]);
        let status = InferenceServiceStatus { url: Some("http://x".to_owned()), ..InferenceServiceStatus::default() };
        writer.set_status(&key("iris"), status.clone());
        writer.set_status(&key("iris"), status);
        apply(&mut writer, vec![read("a.yaml", &[("iris", 2)])]);
        assert_eq!(*heard.lock().unwrap(), [1, 2]);
    }

    #[test]
    fn an_object_has_kubernetes_shape() {
        let mut writer = Writer::default();
        apply(&mut writer, vec![read("a.yaml", &[("iris", 5)])]);
        let object = writer.reader().snapshot().get(&key("iris")).unwrap().object_json();
        assert_eq!(object["apiVersion"], "serving.kserve.io/v1beta1");
        assert_eq!(object["kind"], "InferenceService");
        assert_eq!(object["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
        assert_eq!(object["metadata"]["generation"], 1);
        assert_eq!(object["metadata"]["resourceVersion"], "1");
        assert_eq!(object["metadata"]["namespace"], "default");
        assert_eq!(object["spec"]["predictor"]["timeout"], 5);
        assert!(object.get("status").is_none());
    }

    #[test]
    fn moments_are_written_as_kubernetes_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
