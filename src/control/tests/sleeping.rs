//! Models that sleep for want of requests or of memory, and what wakes them.

use super::*;
use crate::api::status::condition;
use crate::control::status::Stage;

/// A house whose scaler looks often and waits for nothing.
pub(super) async fn hasty(files: &[(&str, &str)], change: impl FnOnce(&mut Config)) -> House {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "runtimes/scripted.yaml", RUNTIME);
    fs::create_dir(folder.path().join("models")).unwrap();
    for (name, text) in files {
        put(folder.path(), name, text);
    }
    let mut config = config(folder.path());
    config.scaling.tick = Duration::from_millis(5);
    config.scaling.grace = Duration::ZERO;
    config.scaling.defaults.stable_window = Duration::from_millis(50);
    change(&mut config);
    House::over_with(folder, config).await
}

/// A service with these fields of its predictor and these annotations.
pub(super) fn scaled(name: &str, model: &str, fields: &str, annotations: &str) -> String {
    service(name, model)
        .replace("  predictor:\n", &format!("  predictor:\n    {fields}\n"))
        .replace(&format!("{{name: {name}}}"), &format!("{{name: {name}, annotations: {{{annotations}}}}}"))
}

pub(super) fn is_asleep(status: &InferenceServiceStatus) -> bool {
    status.condition(status::ASLEEP).is_some()
}

/// A service `iris` that sleeps from the first look at it on, and once awake stays so; with these files beside its own.
pub(super) async fn asleep_at_first(beside: &[(&str, &str)]) -> House {
    let iris = scaled("iris", "iris.txt", "minReplicas: 0", "autoscaling.knative.dev/initial-scale: '0'");
    let files = [&[("models/iris.txt", "setosa"), ("models/iris.yaml", iris.as_str())], beside].concat();
    let mut house = hasty(&files, |config| config.scaling.defaults.stable_window = Duration::from_hours(1)).await;
    house.until_status("iris", "asleep", is_asleep).await;
    house
}

fn reason(status: &InferenceServiceStatus) -> &str {
    status.condition(status::ASLEEP).map_or("", |condition| &condition.reason)
}

fn metadata(house: &House, name: &str) -> Result<Arc<ModelMetadata>, InferenceError> {
    house.router.load().find(Scope::Default, name)?.metadata().cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_nobody_asks_sleeps_tells_of_itself_and_wakes_for_the_first_request() {
    let iris = scaled("iris", "iris.txt", "minReplicas: 0", "");
    let mut house = hasty(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &iris)], |_| ()).await;
    for _ in 0..2 {
        let status = house.until_status("iris", "asleep", is_asleep).await;
        let loads = house.loads().len();
        assert!(status.is_ready(), "it is ready all the while");
        assert_eq!((reason(&status), status.url.as_deref()), ("ScaledToZero", Some("http://iris.default.example.com")));
        let model = status.model_status;
        assert_eq!((model.transition_status, model.copies.unwrap().total_copies), (TransitionStatus::UpToDate, Some(0)));
        assert_eq!(metadata(&house, "iris").unwrap().inputs[0].name.as_ref(), "x");
        assert_eq!(house.loads().len(), loads, "asking for its metadata wakes nothing");
        assert_eq!(house.ask("iris").await.unwrap(), "setosa");
    }
    let status = house.until_status("iris", "asleep", is_asleep).await;
    assert_eq!(status.components["predictor"].latest_ready_revision, "iris-predictor-00001", "it is the same revision");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_min_replicas_zero_a_model_stays_and_changing_it_makes_no_new_revision() {
    let mut house = hasty(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))], |_| ()).await;
    let wine = scaled("wine", "iris.txt", "minReplicas: 0", "");
    house.put("models/wine.yaml", &wine);
    house.until_status("wine", "asleep", is_asleep).await;
    house.until_status("iris", "awake", |status| !is_asleep(status) && status.is_ready()).await;
    // One that must not sleep any more wakes by itself.
    house.put("models/wine.yaml", &service("wine", "iris.txt"));
    let status = house.until_status("wine", "awake", |status| !is_asleep(status) && status.is_ready()).await;
    assert_eq!(status.components["predictor"].latest_ready_revision, "wine-predictor-00001");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_wake_it_once_and_those_that_leave_do_not_stop_it() {
    let house = asleep_at_first(&[]).await;
    let before = house.loads().len();
    assert!(futures::FutureExt::now_or_never(house.ask("iris")).is_none(), "it waits, and leaves");
    let answers = futures::future::join_all((0..16).map(|_| house.ask("iris"))).await;
    assert!(answers.iter().all(|answer| answer.as_deref() == Ok("setosa")), "{answers:?}");
    assert_eq!(house.loads().len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_fails_is_told_with_its_reason_and_not_tried_again_and_again() {
    let iris = scaled("iris", "iris.txt", "minReplicas: 0", "");
    let mut house = hasty(&[("models/iris.txt", "once"), ("models/iris.yaml", &iris)], |_| ()).await;
    house.until_status("iris", "asleep", is_asleep).await;
    for _ in 0..3 {
        let error = house.ask("iris").await.unwrap_err();
        assert!(matches!(&error, InferenceError::ModelNotReady { reason, .. } if reason.contains("only once")), "{error}");
    }
    assert_eq!(house.loads().len(), 2);
    let status = house.until_status("iris", "failed", |status| !status.is_ready()).await;
    assert!(!is_asleep(&status));
    house.put("models/iris.txt", "mended");
    house.until_status("iris", "mended", InferenceServiceStatus::is_ready).await;
    assert_eq!(house.ask("iris").await.unwrap(), "mended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_spec_is_loaded_beside_a_sleeping_one_and_a_broken_one_leaves_it_wakeable() {
    let iris = scaled("iris", "a.txt", "minReplicas: 0", "");
    let files = [("models/a.txt", "a"), ("models/b.txt", "b"), ("models/bad.txt", "fail"), ("models/iris.yaml", iris.as_str())];
    let mut house = hasty(&files, |_| ()).await;
    house.until_status("iris", "asleep", is_asleep).await;
    house.put("models/iris.yaml", &scaled("iris", "bad.txt", "minReplicas: 0", ""));
    let blocked = |status: &InferenceServiceStatus| status.model_status.transition_status == TransitionStatus::BlockedByFailedLoad;
    house.until_status("iris", "blocked", blocked).await;
    assert_eq!(house.ask("iris").await.unwrap(), "a", "the old one wakes");
    house.until_status("iris", "still told to be blocked", blocked).await;
    house.put("models/iris.yaml", &scaled("iris", "b.txt", "minReplicas: 0", ""));
    let second = |status: &InferenceServiceStatus| {
        status.is_ready() && status.components["predictor"].latest_ready_revision.as_str() > "iris-predictor-00001"
    };
    house.until_status("iris", "a new revision", second).await;
    assert_eq!(house.ask("iris").await.unwrap(), "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_service_is_stopped_and_removed_like_any_other() {
    let asleep = scaled("iris", "iris.txt", "minReplicas: 0", "");
    let mut house = hasty(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &asleep)], |_| ()).await;
    house.until_status("iris", "asleep", is_asleep).await;
    house.put("models/iris.yaml", &scaled("iris", "iris.txt", "minReplicas: 0", "serving.kserve.io/stop: 'true'"));
    let stopped = |status: &InferenceServiceStatus| status.condition(condition::STOPPED).is_some_and(|stopped| stopped.reason == "Stopped");
    house.until_status("iris", "stopped", stopped).await;
    assert!(matches!(house.ask("iris").await, Err(InferenceError::ModelNotReady { .. })));
    house.remove("models/iris.yaml");
    house.until("gone", |snapshot| snapshot.get(&key("iris")).is_none()).await;
    let forgotten = async {
        while house.router.load().find(Scope::Default, "iris").is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.unwrap();
}

/// A model whose weights, in a file beside it, have that many MiB: counted, never read.
pub(super) fn put_model(folder: &Path, name: &str, mebibytes: u64) {
    put(folder, &format!("models/{name}.txt"), name);
    fs::File::create(folder.join(format!("models/{name}.txt.data"))).unwrap().set_len(mebibytes << 20).unwrap();
}

/// Models of 400 MiB each, 801 while they load, and a budget with room for two of them and the process.
async fn crowded(names: &[&str], annotations: &str) -> House {
    let house = hasty(&[], |config| config.models_bytes_max = 1300 << 20).await;
    for name in names {
        put_model(house.folder.path(), name, 400);
        house.put(
            &format!("models/{name}.yaml"),
            &scaled(name, &format!("{name}.txt"), "minReplicas: 1", if *name == "a" { annotations } else { "" }),
        );
    }
    house
}

#[tokio::test(flavor = "multi_thread")]
async fn more_models_than_fit_are_all_ready_and_all_answer() {
    let names = ["a", "b", "c", "d", "e"];
    let mut house = crowded(&names, "").await;
    for name in names {
        house.until_status(name, "ready", InferenceServiceStatus::is_ready).await;
    }
    for name in names.iter().chain(&names) {
        assert_eq!(house.ask(name).await.unwrap(), *name);
    }
    let asked = futures::future::join_all((0..30).map(|number| house.ask(names[number % names.len()]))).await;
    assert!(asked.iter().all(Result::is_ok), "{asked:?}");
    let sleeping = |snapshot: &Snapshot| {
        names.iter().filter(|name| snapshot.get(&key(name)).and_then(|stored| stored.status.as_ref()).is_some_and(is_asleep)).count()
    };
    let snapshot = house.until("three sleep", |snapshot| sleeping(snapshot) == 3).await;
    let statuses = names.iter().filter_map(|name| snapshot.get(&key(name))?.status.clone());
    assert!(statuses.clone().all(|status| status.is_ready()));
    assert!(statuses.filter(is_asleep).all(|status| reason(&status) == "MemoryBudget"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_nobody_used_for_longest_sleeps_and_never_a_pinned_one() {
    let mut house = crowded(&["a", "b"], "kserved.io/pin: 'true'").await;
    house.until_status("a", "ready", InferenceServiceStatus::is_ready).await;
    house.until_status("b", "ready", InferenceServiceStatus::is_ready).await;
    put_model(house.folder.path(), "c", 400);
    house.put("models/c.yaml", &service("c", "c.txt"));
    house.until_status("c", "ready", InferenceServiceStatus::is_ready).await;
    house.until_status("b", "asleep", is_asleep).await;
    let snapshot = house.control.reader().snapshot();
    assert!(!is_asleep(snapshot.get(&key("a")).unwrap().status.as_ref().unwrap()), "it was used longest ago, and is pinned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_fit_is_refused_with_what_to_do() {
    let mut house = crowded(&["a"], "kserved.io/pin: 'true'").await;
    house.until_status("a", "ready", InferenceServiceStatus::is_ready).await;
    for (name, mebibytes) in [("large", 1301), ("beside", 1000)] {
        put_model(house.folder.path(), name, mebibytes);
        house.put(&format!("models/{name}.yaml"), &service(name, &format!("{name}.txt")));
        let status = house
            .until_status(name, "refused", |status| {
                status.condition(condition::PREDICTOR_READY).is_some_and(|told| told.message.contains("does not fit"))
            })
            .await;
        let told = &status.condition(condition::PREDICTOR_READY).unwrap().message;
        assert!(told.contains("may take 1300 MiB") && told.contains("memory.models_bytes_max"), "{told}");
    }
    assert_eq!(house.ask("a").await.unwrap(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_initial_scale_zero_is_looked_at_once_and_sleeps() {
    let house = asleep_at_first(&[]).await;
    assert_eq!(house.ask("iris").await.unwrap(), "setosa");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_again_never_takes_the_place_of_something_newer() {
    const ROUNDS: usize = 2_000;
    let house = House::with(&[("models/iris.txt", "setosa"), ("models/iris.yaml", &service("iris", "iris.txt"))]).await;
    let (mind, key) = (Arc::clone(&house.control.mind), key("iris"));
    let stored = mind.reader.snapshot().get(&key).unwrap().clone();
    let together = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                together.wait();
                mind.say_again(&key);
                together.wait();
            }
        });
        let mut lost = 0;
        for _ in 0..ROUNDS {
            mind.say(&key, &stored, Stage::Pending, None);
            together.wait();
            mind.say(&key, &stored, Stage::Serving, None);
            together.wait();
            let status = mind.reader.snapshot().get(&key).unwrap().status.clone().unwrap();
            lost += usize::from(status.model_status.transition_status != TransitionStatus::UpToDate);
        }
        assert_eq!(lost, 0, "of {ROUNDS}");
    });
}
