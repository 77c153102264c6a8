//! The control path from files to routes, with an engine that does what its model files say.

use super::*;

mod graphs;
mod local_models;
mod rolling_out;
mod sleeping;
mod warming;

use crate::api::status::{InferenceServiceStatus, ModelState, TransitionStatus};
use crate::engine::{Cancel, Engine, EngineError, EngineLoader, GpuConfig, LoadError, LoadOptions, LoadedModel};
use crate::inference::{InferenceRequest, ModelMetadata, TensorSpec};
use crate::router::{Repository, Route, Scope};
use crate::store::Snapshot;
use crate::tensor::{DataType, Tensor};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use tempfile::TempDir;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

/// Longer than any machine takes; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a model file's text: `fail` does not load, `panic` ends hard, `errs` answers nothing, anything else is what the
/// model answers.
#[derive(Debug)]
struct Scripted {
    loads: Mutex<Vec<String>>,
    /// What runs and has run.
    runs: Arc<Mutex<Vec<String>>>,
    /// A model that says `slow` loads once the other end is dropped, one that says `cold` runs then.
    slow: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

impl EngineLoader for Scripted {
    fn load(&self, model: &Path, _: &LoadOptions) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let text = fs::read_to_string(model).map_err(|error| LoadError::InvalidModel(error.to_string()))?;
        self.loads.lock().unwrap().push(text.clone());
        if text.starts_with("once") && self.loads.lock().unwrap().iter().filter(|load| **load == text).count() > 1 {
            return Err(LoadError::InvalidModel("it loads only once".to_owned()));
        }
        if text == "slow" {
            assert!(self.slow.lock().unwrap().recv().is_err());
        }
        assert_ne!(text, "panic", "the model asks for it");
        if text.starts_with("fail") {
            return Err(LoadError::InvalidModel(format!("not a model: {text}")));
        }
        let tensor = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Bytes, shape: vec![1], optional: false };
        let metadata = ModelMetadata { inputs: vec![tensor("x")], outputs: vec![tensor("y")], ..ModelMetadata::default() };
        let (runs, slow) = (Arc::clone(&self.runs), Arc::clone(&self.slow));
        Ok(Arc::new(Model { text, metadata: Arc::new(metadata), runs, slow }))
    }
}

#[derive(Debug, Clone)]
struct Model {
    text: String,
    metadata: Arc<ModelMetadata>,
    runs: Arc<Mutex<Vec<String>>>,
    slow: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

impl LoadedModel for Model {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.metadata
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl Engine for Model {
    fn infer(&mut self, _: &[Tensor], _: &[usize], _: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        self.runs.lock().unwrap().push(self.text.clone());
        if self.text == "cold" {
            assert!(self.slow.lock().unwrap().recv().is_err());
        }
        if self.text.starts_with("errs") {
            return Err(EngineError::Failed("the model asks for it".to_owned()));
        }
        Ok(vec![Tensor::from_strings("y", vec![1], &[self.text.as_str()]).unwrap()])
    }
}

/// A mind over a folder of its own.
struct House {
    folder: TempDir,
    control: Control,
    router: Router,
    repository: Repository,
    engine: Arc<Scripted>,
    /// Dropped to let slow models load.
    hold: Option<std::sync::mpsc::Sender<()>>,
    version: watched::Receiver<u64>,
}

const RUNTIME: &str = "apiVersion: serving.kserve.io/v1alpha1
kind: ClusterServingRuntime
metadata: {name: scripted, annotations: {kserved.io/engine: scripted}}
spec:
  supportedModelFormats: [{name: text, autoSelect: true}]
  protocolVersions: [v1, v2]
  containers: [{name: kserve-container, image: none, args: ['--model_name={{.Name}}']}]
";

fn service(name: &str, model: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: {name}}}
spec:
  predictor:
    model: {{modelFormat: {{name: text}}, storageUri: {model}}}
"
    )
}

fn config(folder: &Path) -> Config {
    Config {
        folders: vec![folder.join("models"), folder.join("runtimes")],
        default_namespace: "default".to_owned(),
        domain: "example.com".to_owned(),
        deployment_mode: DeploymentMode::Knative,
        debounce: Duration::from_millis(10),
        // Only events, never the slow look, may make a test pass.
        rescan: Duration::from_hours(1),
        poll: Duration::from_millis(10),
        manifest_bytes_max: 1 << 20,
        manifests_max: 1000,
        depth_max: 8,
        loads_max: 2,
        retry_first: Duration::from_millis(10),
        retry_max: Duration::from_millis(100),
        drain: Duration::from_secs(5),
        workers_max: 2,
        threads_max: 2,
        gpu: GpuConfig::default(),
        queue_max: 16,
        worker_idle_s: 1,
        inline_run_max: Duration::ZERO,
        batch_bytes_max: 1 << 20,
        models_bytes_max: 1 << 30,
        models_memory_percent: 100,
        scaling: Scaling::default(),
        node_name: Some("edge".to_owned()),
        node_labels: BTreeMap::new(),
        history: folder.join("cache/rollouts"),
        shadow_requests_max: 8,
        shadow_bytes_max: 1 << 20,
        graphs: GraphBounds::DEFAULT,
    }
}

impl House {
    /// Starts over a folder with these files, model files among them.
    async fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("models")).unwrap();
        fs::create_dir(folder.path().join("runtimes")).unwrap();
        put(folder.path(), "runtimes/scripted.yaml", RUNTIME);
        for (name, text) in files {
            put(folder.path(), name, text);
        }
        Self::over(folder).await
    }

    async fn over(folder: TempDir) -> Self {
        let config = config(folder.path());
        Self::over_with(folder, config).await
    }

    async fn over_with(folder: TempDir, config: Config) -> Self {
        let (hold, slow) = std::sync::mpsc::channel();
        let engine = Arc::new(Scripted { loads: Mutex::default(), runs: Arc::default(), slow: Arc::new(Mutex::new(slow)) });
        let router = Router::default();
        let (repository, commands) = Repository::channel();
        let mut engines = EngineRegistry::default();
        engines.add("scripted", Arc::clone(&engine) as Arc<dyn EngineLoader>);
        let settings = crate::storage::Config { cache: folder.path().join("cache"), ..crate::storage::Config::default() };
        let storage = Storage::new(settings, crate::resolve::storage_env::StorageEnv::default());
        let logbook = crate::router::Logbook::new(crate::router::logger::Config::default(), storage.clone());
        let control = Control::start(config, engines, storage, (router.clone(), commands), (Box::new(|_| ()), logbook));
        let (told, version) = watched::channel(0);
        control.reader().on_change(move |version| told.send(version).is_ok());
        let house = Self { folder, control, router, repository, engine, hold: Some(hold), version };
        let mut ready = house.control.ready();
        tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await.unwrap().unwrap();
        house
    }

    fn put(&self, name: &str, text: &str) {
        put(self.folder.path(), name, text);
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.folder.path().join(from), self.folder.path().join(to)).unwrap();
    }

    /// Waits until the store is as described.
    async fn until(&mut self, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let reader = self.control.reader();
        let held = self.version.wait_for(|_| holds(&reader.snapshot()));
        let waited = tokio::time::timeout(PATIENCE, held).await.map(|_| ());
        let snapshot = reader.snapshot();
        assert!(waited.is_ok(), "never came: {what}; the store: {snapshot:#?}");
        snapshot
    }

    async fn until_status(&mut self, name: &str, what: &str, holds: impl Fn(&InferenceServiceStatus) -> bool) -> InferenceServiceStatus {
        let key = key(name);
        let found = |snapshot: &Snapshot| snapshot.get(&key).and_then(|stored| stored.status.clone());
        let snapshot = self.until(what, |snapshot| found(snapshot).is_some_and(|status| holds(&status))).await;
        found(&snapshot).unwrap()
    }

    async fn until_revision(&mut self, name: &str, number: u64) -> InferenceServiceStatus {
        let revision = format!("{name}-predictor-{number:05}");
        self.until_status(name, &revision, |status| status.is_ready() && status.components["predictor"].latest_ready_revision == revision)
            .await
    }

    /// What the model answers, or why it does not.
    async fn ask(&self, name: &str) -> Result<String, InferenceError> {
        let route = Arc::clone(self.router.load().find(Scope::Default, name)?);
        self.ask_by(route).await
    }

    /// What answers behind a route.
    async fn ask_by(&self, mut route: Arc<Route>) -> Result<String, InferenceError> {
        let inputs = vec![Tensor::from_strings("x", vec![1], &["?"]).unwrap()];
        let request = InferenceRequest { inputs, ..InferenceRequest::default() };
        let response = self.router.infer(&mut route, request, Instant::now() + PATIENCE).await?;
        Ok(String::from_utf8(response.outputs[0].strings().next().unwrap().to_vec()).unwrap())
    }

    fn loads(&self) -> Vec<String> {
        self.engine.loads.lock().unwrap().clone()
    }
}

fn key(name: &str) -> ResourceKey {
    ResourceKey { kind: Kind::InferenceService, namespace: "default".to_owned(), name: name.to_owned() }
}

/// Writes a file as editors do: whole, then renamed.
fn put(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_is_a_reload_from_nothing() {
    let files = [("models/iris.yaml", service("iris", "iris.txt")), ("models/wine.yaml", service("wine", "wine.txt"))];
    let house = House::with(&[("models/iris.txt", "setosa"), (files[0].0, &files[0].1), (files[1].0, &files[1].1)]).await;
    assert_eq!(house.ask("iris").await.unwrap(), "setosa");
    let error = house.ask("wine").await.unwrap_err();
    assert!(matches!(&error, InferenceError::ModelNotReady { reason, .. } if reason.contains("wine.txt")), "{error}");
    assert!(matches!(house.ask("rose").await, Err(InferenceError::ModelNotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_dropped_into_the_folder_is_served_and_its_status_is_kserves() {
    let mut house = House::with(&[("models/iris.txt", "setosa")]).await;
    house.put("models/iris.yaml", &service("iris", "iris.txt"));
    let status = house.until_revision("iris", 1).await;
    assert_eq!(status.url.as_deref(), Some("http://iris.default.example.com"));
    assert_eq!(status.cluster_serving_runtime_name, "scripted");
    assert_eq!(house.ask("iris").await.unwrap(), "setosa");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_a_folder_made_just_now_is_seen() {
    let mut house = House::with(&[("models/iris.txt", "setosa")]).await;
    house.put("models/a/b/c/iris.yaml", &service("iris", "../../../iris.txt"));
    house.until_revision("iris", 1).await;
    house.put("models/a/b/c/wine.yaml", &service("wine", "../../../iris.txt"));
    house.until_revision("wine", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_folder_that_is_removed_and_made_again_is_watched_again() {
    let mut house = House::with(&[("iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "../iris.txt"))]).await;
    fs::remove_dir_all(house.folder.path().join("models")).unwrap();
    house.until("the service goes with its folder", |snapshot| snapshot.get(&key("iris")).is_none()).await;
    house.put("models/iris.yaml", &service("iris", "../iris.txt"));
    house.until_revision("iris", 1).await;
    house.put("models/wine.yaml", &service("wine", "../iris.txt"));
    house.until_revision("wine", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_the_last_good_model_serving() {
    let mut house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    house.until_revision("iris", 1).await;
    house.put("models/iris.yaml", "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: iris\n");
    let status = house.until_status("iris", "the status tells", |status| status.condition(status::MANIFEST_ACCEPTED).is_some()).await;
    assert!(status.is_ready());
    let told = &status.condition(status::MANIFEST_ACCEPTED).unwrap().message;
    assert!(told.contains("models/iris.yaml:"), "{told}");
    assert_eq!(house.ask("iris").await.unwrap(), "setosa");
    house.put("models/iris.yaml", &service("iris", "iris.txt"));
    house.until_status("iris", "the mistake is gone", |status| status.condition(status::MANIFEST_ACCEPTED).is_none()).await;
    assert_eq!(house.loads(), ["setosa"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_load_keeps_the_old_revision() {
    let mut house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    for broken in ["fail on purpose", "panic"] {
        house.put("models/broken.txt", broken);
        house.put("models/iris.yaml", &service("iris", "broken.txt"));
        let blocked = |status: &InferenceServiceStatus| status.model_status.transition_status == TransitionStatus::BlockedByFailedLoad;
        let status = house.until_status("iris", "blocked", blocked).await;
        let predictor = &status.components["predictor"];
        assert_eq!(predictor.latest_ready_revision, "iris-predictor-00001");
        assert_ne!(predictor.latest_created_revision, "iris-predictor-00001");
        let model = status.model_status.states.unwrap();
        assert_eq!((model.active_model_state, model.target_model_state), (ModelState::Loaded, ModelState::FailedToLoad));
        assert_eq!(house.ask("iris").await.unwrap(), "setosa");
        house.put("models/iris.yaml", &service("iris", "iris.txt"));
        house.until_revision("iris", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_takes_over_and_numbers_count_up() {
    let mut house = House::with(&[("models/a.txt", "a"), ("models/b.txt", "b"), ("models/iris.yaml", &service("iris", "a.txt"))]).await;
    house.put("models/iris.yaml", &service("iris", "b.txt"));
    let status = house.until_revision("iris", 2).await;
    assert_eq!(house.ask("iris").await.unwrap(), "b");
    let predictor = &status.components["predictor"];
    assert_eq!(predictor.previous_rolledout_revision, "iris-predictor-00001");
    assert_eq!(predictor.traffic[0].revision_name, "iris-predictor-00002");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_revisions_change() {
    let mut house = House::with(&[("models/a.txt", "a"), ("models/b.txt", "b"), ("models/iris.yaml", &service("iris", "a.txt"))]).await;
    let router = house.router.clone();
    let stop = CancellationToken::new();
    let asking = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut answers = 0;
            while !stop.is_cancelled() {
                let route = Arc::clone(router.load().find(Scope::Default, "iris").unwrap());
                let inputs = vec![Tensor::from_strings("x", vec![1], &["?"]).unwrap()];
                let request = InferenceRequest { inputs, ..InferenceRequest::default() };
                let response = route.ready().unwrap().infer(request, Instant::now() + PATIENCE).await.unwrap();
                let answer = response.outputs[0].strings().next().unwrap().to_vec();
                let odd = response.revision.ends_with(['1', '3', '5', '7', '9']);
                assert_eq!(answer, if odd { b"a" } else { b"b" }, "an answer belongs to one revision");
                answers += 1;
            }
            answers
        }
    });
    for number in 2..6 {
        house.put("models/iris.yaml", &service("iris", if number % 2 == 0 { "b.txt" } else { "a.txt" }));
        house.until_revision("iris", number).await;
    }
    stop.cancel();
    assert!(asking.await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_model_file_makes_a_new_revision() {
    let mut house = House::with(&[("models/iris.txt", "old"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    house.put("models/iris.txt", "new");
    house.until_revision("iris", 2).await;
    assert_eq!(house.ask("iris").await.unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_comes_after_its_service_is_loaded() {
    let mut house = House::with(&[("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    assert!(house.ask("iris").await.is_err());
    house.put("models/iris.txt", "late");
    house.until_revision("iris", 1).await;
    assert_eq!(house.ask("iris").await.unwrap(), "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_file_unloads_its_model_and_restoring_it_brings_it_back() {
    let mut house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    house.remove("models/iris.yaml");
    house.until("the service is gone", |snapshot| snapshot.get(&key("iris")).is_none()).await;
    house.put("models/iris.yaml", &service("iris", "iris.txt"));
    house.until_revision("iris", 1).await;
    fs::write(house.folder.path().join("models/iris.yaml"), "").unwrap();
    house.until("an emptied file declares nothing", |snapshot| snapshot.get(&key("iris")).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renaming_a_file_keeps_the_revision() {
    let mut house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    house.until_revision("iris", 1).await;
    house.rename("models/iris.yaml", "models/flowers.yaml");
    let moved = |snapshot: &Snapshot| snapshot.get(&key("iris")).is_some_and(|stored| stored.place.file.ends_with("flowers.yaml"));
    house.until("the file is the new one", moved).await;
    house.until_revision("iris", 1).await;
    assert_eq!(house.loads(), ["setosa"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_files_claiming_one_name_are_both_named() {
    let mut house = House::with(&[("models/a.txt", "a"), ("models/b.txt", "b"), ("models/z.yaml", &service("iris", "a.txt"))]).await;
    house.put("models/b.yaml", &service("iris", "b.txt"));
    let status = house.until_status("iris", "the status tells", |status| status.condition(status::MANIFEST_ACCEPTED).is_some()).await;
    let told = &status.condition(status::MANIFEST_ACCEPTED).unwrap().message;
    assert!(told.contains("models/z.yaml") && told.contains("models/b.yaml"), "{told}");
    assert_eq!(house.ask("iris").await.unwrap(), "a");
    house.remove("models/z.yaml");
    house.until_revision("iris", 2).await;
    assert_eq!(house.ask("iris").await.unwrap(), "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configmap_symlink_flip_is_seen() {
    let mut house = House::with(&[("a.txt", "a"), ("b.txt", "b")]).await;
    let models = house.folder.path().join("models");
    house.put("models/..one/iris.yaml", &service("iris", "../a.txt"));
    house.put("models/..two/iris.yaml", &service("iris", "../b.txt"));
    symlink("..one", models.join("..data")).unwrap();
    symlink("..data/iris.yaml", models.join("iris.yaml")).unwrap();
    house.until_revision("iris", 1).await;
    symlink("..two", models.join("..data_tmp")).unwrap();
    house.rename("models/..data_tmp", "models/..data");
    house.until_revision("iris", 2).await;
    assert_eq!(house.ask("iris").await.unwrap(), "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_behind_a_link_to_another_folder_is_watched() {
    let mut house = House::with(&[("a.txt", "a"), ("b.txt", "b"), ("elsewhere/iris.yaml", &service("iris", "../a.txt"))]).await;
    symlink("../elsewhere/iris.yaml", house.folder.path().join("models/iris.yaml")).unwrap();
    house.until_revision("iris", 1).await;
    house.put("elsewhere/iris.yaml", &service("iris", "../b.txt"));
    house.until_revision("iris", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_change_reloads_only_the_services_that_use_it() {
    let other = RUNTIME.replace("name: scripted,", "name: other,").replace("autoSelect: true", "autoSelect: false");
    let mut named = service("wine", "wine.txt");
    named = named.replace("model: {", "model: {runtime: other, ");
    let mut house = House::with(&[
        ("models/iris.txt", "setosa"),
        ("models/wine.txt", "merlot"),
        ("runtimes/other.yaml", &other),
        ("models/iris.yaml", &service("iris", "iris.txt")),
        ("models/wine.yaml", &named),
    ])
    .await;
    house.put("runtimes/other.yaml", &other.replace("args: [", "args: ['--nthread=2', "));
    house.until_revision("wine", 2).await;
    house.until_revision("iris", 1).await;
    let mut loads = house.loads();
    loads.sort();
    assert_eq!(loads, ["merlot", "merlot", "setosa"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_runtime_is_missing_says_so_and_is_served_once_it_comes() {
    let lonely = service("iris", "iris.txt").replace("name: text", "name: prose");
    let mut house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &lonely)]).await;
    let invalid = |status: &InferenceServiceStatus| status.model_status.transition_status == TransitionStatus::InvalidSpec;
    let status = house.until_status("iris", "invalid", invalid).await;
    assert!(status.model_status.last_failure_info.unwrap().message.contains("prose"));
    house.put("runtimes/prose.yaml", &RUNTIME.replace("name: scripted,", "name: prose,").replace("name: text", "name: prose"));
    house.until_revision("iris", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_kserve_refuses_keeps_the_service_as_it_was() {
    let mut house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    let standard = "{name: iris, annotations: {serving.kserve.io/deploymentMode: Standard}}";
    house.put("models/iris.yaml", &service("iris", "iris.txt").replace("{name: iris}", standard));
    let status = house.until_status("iris", "the status tells", |status| status.condition(status::MANIFEST_ACCEPTED).is_some()).await;
    let told = &status.condition(status::MANIFEST_ACCEPTED).unwrap().message;
    assert!(told.contains("deploymentMode cannot be changed from 'Knative' to 'Standard'"), "{told}");
    assert_eq!(status.deployment_mode, "Knative");
    assert_eq!(house.ask("iris").await.unwrap(), "setosa");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_competes_with_another_is_remarked_on() {
    let mut house = House::with(&[]).await;
    let ranked = RUNTIME.replace("autoSelect: true", "autoSelect: true, priority: 1");
    house.put("runtimes/scripted.yaml", &ranked);
    let ready = |snapshot: &Snapshot| snapshot.resources.values().any(|stored| stored.generation == 2);
    house.until("the runtime has a priority", ready).await;
    house.put("runtimes/twin.yaml", &ranked.replace("name: scripted,", "name: twin,"));
    let remark = |snapshot: &Snapshot| snapshot.problems.values().flatten().any(|problem| problem.message.contains("priority"));
    house.until("the remark", remark).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_service_keeps_its_status_and_starts_again() {
    let mut house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    let stopped = service("iris", "iris.txt").replace("{name: iris}", "{name: iris, annotations: {serving.kserve.io/stop: 'True'}}");
    house.put("models/iris.yaml", &stopped);
    house
        .until_status("iris", "stopped", |status| status.conditions.iter().any(|c| c.kind == "Stopped" && c.status.to_string() == "True"))
        .await;
    assert!(matches!(house.ask("iris").await, Err(InferenceError::ModelNotReady { .. })));
    house.put("models/iris.yaml", &service("iris", "iris.txt"));
    house.until_revision("iris", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_unloads_a_model_and_loads_it_again() {
    let house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    let route = Arc::clone(house.router.load().service("default", "iris").unwrap());
    house.repository.ask(&route, Action::Unload).await.unwrap();
    let error = house.ask("iris").await.unwrap_err();
    assert!(error.to_string().contains("unloaded"), "{error}");
    assert!(house.router.load().service("default", "iris").unwrap().timeout_s > 0, "a load has time to end");
    house.repository.ask(&route, Action::Load).await.unwrap();
    assert_eq!(house.ask("iris").await.unwrap(), "setosa");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_during_a_run_is_answered_by_the_next_one() {
    let house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    let (mind, iris) = (&house.control.mind, key("iris"));
    let asks = || {
        let (reply, answer) = oneshot::channel();
        mind.services.with(&iris, |service| service.waiting.push(reply));
        answer
    };
    let mut before = asks();
    let heard = mind.heard(&iris);
    let mut meanwhile = asks();
    mind.answer(&iris, heard, &Ok(()));
    assert_eq!((before.try_recv(), meanwhile.try_recv()), (Ok(Ok(())), Err(TryRecvError::Empty)));
    mind.answer(&iris, mind.heard(&iris), &Ok(()));
    assert_eq!(meanwhile.try_recv(), Ok(Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_spec_does_not_wait_for_a_slow_load() {
    let mut house = House::with(&[("models/slow.txt", "slow"), ("models/fast.txt", "fast")]).await;
    house.put("models/iris.yaml", &service("iris", "slow.txt"));
    let loading = |status: &InferenceServiceStatus| status.model_status.states.is_some_and(|s| s.target_model_state == ModelState::Loading);
    house.until_status("iris", "loading", loading).await;
    house.put("models/iris.yaml", &service("iris", "fast.txt"));
    house.until_revision("iris", 2).await;
    assert_eq!(house.ask("iris").await.unwrap(), "fast");
    drop(house.hold.take());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_drains_every_pool_and_takes_the_routes_away() {
    let mut house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    house.control.stop().await;
    assert_eq!(house.ask("iris").await.unwrap(), "setosa", "what serves goes on serving until it is unloaded");
    house.control.unload(PATIENCE).await;
    assert!(house.ask("iris").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_keeps_its_mode_over_a_restart_with_another_default() {
    let files = [("models/iris.txt", "setosa"), ("models/iris.yaml", &*service("iris", "iris.txt"))];
    let mut house = House::with(&files).await;
    house.until_revision("iris", 1).await;
    house.control.stop().await;
    house.control.unload(PATIENCE).await;
    let folder = house.folder;
    put(folder.path(), "models/wine.yaml", &service("wine", "iris.txt"));
    let standard = |folder: &Path| Config { deployment_mode: DeploymentMode::Standard, ..config(folder) };
    let config = standard(folder.path());
    let mut house = House::over_with(folder, config).await;
    let mode_is = |mode: &'static str| move |status: &InferenceServiceStatus| status.is_ready() && status.deployment_mode == mode;
    house.until_status("iris", "as it was", mode_is("Knative")).await;
    house.until_status("wine", "as new ones are", mode_is("Standard")).await;
    house.remove("models/iris.yaml");
    house.until("it goes", |snapshot| snapshot.get(&key("iris")).is_none()).await;
    house.put("models/iris.yaml", files[1].1);
    house.until_status("iris", "another one of its name", mode_is("Standard")).await;
}
