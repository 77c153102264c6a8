//! Canaries, dark launches, promotions and roll-backs, in both deployment modes, by hand and by the judge.

use super::sleeping::put_model;
use super::*;
use crate::api::status::condition;
use crate::pool::statistics::Spent;
use std::collections::BTreeSet;
use std::fmt::Write;

mod judged;

/// A service in Knative mode with these fields of its predictor and these annotations.
fn canary(model: &str, fields: &str, annotations: &str) -> String {
    service("iris", model)
        .replace("  predictor:\n", &format!("  predictor:\n    {fields}\n"))
        .replace("{name: iris}", &format!("{{name: iris, annotations: {{{annotations}}}}}"))
}

/// The same with a share of the requests.
fn percent(model: &str, percent: u32) -> String {
    canary(model, &format!("canaryTrafficPercent: {percent}"), "")
}

/// A service in Standard mode with a stable predictor and canaries, each a name, a model and a share.
fn standard(predictor: &str, model: &str, canaries: &[(&str, &str, u32)]) -> String {
    standard_with("", predictor, model, canaries)
}

/// The same with more annotations.
fn standard_with(annotations: &str, predictor: &str, model: &str, canaries: &[(&str, &str, u32)]) -> String {
    let fields = if predictor.is_empty() { "minReplicas: 1".to_owned() } else { format!("name: {predictor}") };
    let mut text = canary(model, &fields, &format!("serving.kserve.io/deploymentMode: Standard, {annotations}"));
    for (index, (name, model, percent)) in canaries.iter().enumerate() {
        let head = if index == 0 { "  canary:\n" } else { "" };
        writeln!(
            text,
            "{head}  - trafficPercent: {percent}\n    predictor:\n      name: {name}\n      model: {{modelFormat: {{name: text}}, \
             storageUri: {model}}}"
        )
        .unwrap();
    }
    text
}

const FILES: [(&str, &str); 6] = [
    ("models/a.txt", "a"),
    ("models/b.txt", "b"),
    ("models/c.txt", "c"),
    ("models/bad.txt", "fail on purpose"),
    ("models/errs.txt", "errs"),
    ("models/lags.txt", "lags"),
];

async fn house(manifest: &str) -> House {
    let files: Vec<(&str, &str)> = FILES.into_iter().chain([("models/iris.yaml", manifest)]).collect();
    House::with(&files).await
}

/// One that judges often.
async fn court(manifest: &str) -> House {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "runtimes/scripted.yaml", RUNTIME);
    for (name, text) in FILES.into_iter().chain([("models/iris.yaml", manifest)]) {
        put(folder.path(), name, text);
    }
    let mut config = config(folder.path());
    config.scaling.tick = Duration::from_millis(5);
    House::over_with(folder, config).await
}

/// `2:10:latest 1:90:prev | 1 0`: number, percent and tag of each target, then the revisions rolled out last and before.
fn told(status: &InferenceServiceStatus) -> String {
    let Some(predictor) = status.components.get("predictor") else { return String::new() };
    let number = |name: &str| name.rsplit('-').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
    let target = |target: &crate::api::status::TrafficTarget| {
        let tag = if target.tag.is_empty() { String::new() } else { format!(":{}", target.tag) };
        format!("{}:{}{tag}", number(&target.revision_name), target.percent.unwrap_or(0))
    };
    let targets = predictor.traffic.iter().map(target).collect::<Vec<_>>().join(" ");
    format!("{targets} | {} {}", number(&predictor.latest_rolledout_revision), number(&predictor.previous_rolledout_revision))
}

impl House {
    async fn until_traffic(&mut self, wanted: &str) -> InferenceServiceStatus {
        self.until_status("iris", wanted, |status| status.is_ready() && told(status) == wanted).await
    }

    /// The answers of many requests, each once.
    async fn answers(&self) -> BTreeSet<String> {
        let mut answers = BTreeSet::new();
        for _ in 0..200 {
            answers.insert(self.ask("iris").await.unwrap());
        }
        answers
    }

    /// Waits until these are the answers, and no others.
    async fn until_answers(&self, wanted: &[&str]) {
        let until = Instant::now() + PATIENCE;
        while self.answers().await != set(wanted) {
            assert!(Instant::now() < until, "never answered {wanted:?}");
        }
    }

    async fn ask_tagged(&self, label: &str) -> Result<String, InferenceError> {
        let route = Arc::clone(self.router.load().find(Scope::Tagged { namespace: "default", label }, "iris")?);
        self.ask_by(route).await
    }

    /// Asks as the doors do: a side is drawn, and what came of it is counted. A request took a millisecond, but for one of twelve
    /// of the model that lags.
    async fn ask_counted(&self) {
        let route = Arc::clone(self.router.load().find(Scope::Default, "iris").unwrap()).drawn(&crate::router::Caller::default());
        let answer = self.ask_by(Arc::clone(&route)).await;
        let statistics = route.ready().unwrap().statistics();
        let lags = answer.as_ref().is_ok_and(|answer| answer == "lags") && statistics.snapshot().success.count.is_multiple_of(12);
        let spent = Spent { total: Duration::from_millis(if lags { 5 } else { 1 }), ..Spent::default() };
        if answer.is_ok() { statistics.succeeded(&spent) } else { statistics.failed(spent.total) }
    }

    /// Asks again and again until the status is as described.
    async fn ask_until(&mut self, what: &str, holds: impl Fn(&InferenceServiceStatus) -> bool) -> InferenceServiceStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            self.ask_counted().await;
            let snapshot = self.control.reader().snapshot();
            let status = snapshot.get(&key("iris")).and_then(|stored| stored.status.clone()).unwrap();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < until, "never came: {what}; {status:#?}");
        }
    }
}

fn set(answers: &[&str]) -> BTreeSet<String> {
    answers.iter().map(|answer| (*answer).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_split_dark_promoted_and_rolled_back_step_by_step() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.until_traffic("1:100 | 1 0").await;
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    assert_eq!(house.answers().await, set(&["a", "b"]));
    house.put("models/iris.yaml", &percent("b.txt", 0));
    house.until_traffic("2:0 1:100:prev | 1 0").await;
    assert_eq!(house.answers().await, set(&["a"]), "a dark launch, or a roll-back");
    house.put("models/iris.yaml", &service("iris", "b.txt"));
    house.until_traffic("2:100 | 2 1").await;
    assert_eq!(house.answers().await, set(&["b"]));
    assert_eq!(house.loads(), ["a", "b"], "none of it loaded anything again");
    house.put("models/iris.yaml", &percent("b.txt", 0));
    house.until_traffic("2:0 1:100:prev | 1 1").await;
    assert_eq!(house.answers().await, set(&["a"]), "back to the one before, which is loaded again");
    house.put("models/iris.yaml", &percent("b.txt", 100));
    house.until_traffic("2:100 | 2 1").await;
    assert_eq!(house.loads(), ["a", "b", "a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_percentage_says_nothing_of_the_first_revision() {
    let mut house = house(&percent("b.txt", 10)).await;
    let status = house.until_traffic("1:10 1:90:prev | 1 0").await;
    assert_eq!(status.components["predictor"].latest_created_revision, "iris-predictor-00001");
    assert_eq!(house.answers().await, set(&["b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_canary_leaves_the_requests_where_they_are() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.put("models/iris.yaml", &percent("bad.txt", 50));
    let blocked = |status: &InferenceServiceStatus| status.model_status.transition_status == TransitionStatus::BlockedByFailedLoad;
    let status = house.until_status("iris", "blocked", blocked).await;
    assert_eq!(told(&status), "1:50 1:50:prev | 1 0");
    assert_eq!(status.components["predictor"].latest_created_revision, "iris-predictor-00002");
    assert_eq!(house.answers().await, set(&["a"]));
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("3:50 1:50:prev | 1 0").await;
    house.put("models/iris.yaml", &percent("bad.txt", 20));
    house.until_status("iris", "blocked beside a canary", blocked).await;
    let status = house.until_status("iris", "the share is for the canary before", |status| told(status) == "3:20 1:80:prev | 1 0").await;
    assert!(!status.is_ready());
    assert_eq!(house.answers().await, set(&["a", "b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_canary_replaces_the_first() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    house.put("models/iris.yaml", &percent("c.txt", 50));
    house.until_traffic("3:50 1:50:prev | 1 0").await;
    assert_eq!(house.answers().await, set(&["a", "c"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_model_file_is_a_canary_too_and_cannot_be_rolled_back_once_promoted() {
    let mut house = house(&percent("a.txt", 50)).await;
    house.until_traffic("1:50 1:50:prev | 1 0").await;
    house.put("models/a.txt", "new");
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    assert_eq!(house.answers().await, set(&["a", "new"]));
    house.put("models/iris.yaml", &percent("a.txt", 100));
    house.until_traffic("2:100 | 2 1").await;
    house.put("models/iris.yaml", &percent("a.txt", 0));
    let status = house.until_status("iris", "told", |status| status.model_status.last_failure_info.is_some()).await;
    let failure = status.model_status.last_failure_info.unwrap().message;
    assert!(failure.contains("iris-predictor-00001") && failure.contains("were replaced"), "{failure}");
    assert_eq!(house.answers().await, set(&["new"]), "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_reach_one_revision_each() {
    let tags = "serving.kserve.io/enable-tag-routing: 'true'";
    let mut house = house(&canary("a.txt", "minReplicas: 1", tags)).await;
    house.until_traffic("1:100:latest | 1 0").await;
    assert_eq!(house.ask_tagged("latest-iris").await.unwrap(), "a");
    assert!(matches!(house.ask_tagged("prev-iris").await, Err(InferenceError::ModelNotFound(_))));
    house.put("models/iris.yaml", &canary("b.txt", "canaryTrafficPercent: 0", tags));
    let status = house.until_traffic("2:0:latest 1:100:prev | 1 0").await;
    let urls: Vec<_> = status.components["predictor"].traffic.iter().filter_map(|target| target.url.as_deref()).collect();
    assert_eq!(urls, ["http://latest-iris-predictor.default.example.com", "http://prev-iris-predictor.default.example.com"]);
    assert_eq!(house.ask_tagged("latest-iris").await.unwrap(), "b", "a dark launch is reached by its tag");
    assert_eq!(house.ask_tagged("prev-iris").await.unwrap(), "a");
    assert_eq!(house.answers().await, set(&["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_share_or_replicas_makes_no_new_revision() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.put("models/iris.yaml", &percent("b.txt", 10));
    house.until_traffic("2:10 1:90:prev | 1 0").await;
    house.put("models/iris.yaml", &canary("b.txt", "canaryTrafficPercent: 30\n    minReplicas: 1\n    maxReplicas: 3", ""));
    house.until_traffic("2:30 1:70:prev | 1 0").await;
    assert_eq!(house.loads(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_a_split_unloads_both_and_what_comes_next_is_a_first_revision() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    house.put("models/iris.yaml", &canary("b.txt", "canaryTrafficPercent: 50", "serving.kserve.io/stop: 'true'"));
    let stopped = |status: &InferenceServiceStatus| status.condition(condition::STOPPED).is_some_and(|stopped| stopped.reason == "Stopped");
    let status = house.until_status("iris", "stopped", stopped).await;
    assert!(status.components.is_empty());
    assert!(matches!(house.ask("iris").await, Err(InferenceError::ModelNotReady { .. })));
    assert!(matches!(house.ask_tagged("prev-iris").await, Err(InferenceError::ModelNotFound(_))));
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("3:50 3:50:prev | 3 0").await;
    assert_eq!(house.answers().await, set(&["b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_a_canary_comes_grows_and_goes() {
    let mut house = house(&service("iris", "a.txt")).await;
    let router = house.router.clone();
    let stop = CancellationToken::new();
    let asking: Vec<_> = (0..2)
        .map(|_| {
            let (router, stop) = (router.clone(), stop.clone());
            tokio::spawn(async move {
                let mut seen = BTreeSet::new();
                while !stop.is_cancelled() {
                    let mut route = Arc::clone(router.load().find(Scope::Default, "iris").unwrap());
                    let inputs = vec![Tensor::from_strings("x", vec![1], &["?"]).unwrap()];
                    let request = InferenceRequest { inputs, ..InferenceRequest::default() };
                    let response = router.infer(&mut route, request, Instant::now() + PATIENCE).await.unwrap();
                    let answer = String::from_utf8(response.outputs[0].strings().next().unwrap().to_vec()).unwrap();
                    seen.insert((response.revision.to_string(), answer));
                }
                seen
            })
        })
        .collect();
    for round in 0..3 {
        let (old, new) = if round % 2 == 0 { ("a.txt", "b.txt") } else { ("b.txt", "a.txt") };
        let (first, second) = (round + 1, round + 2);
        house.until_status("iris", old, |status| status.is_ready() && told(status).starts_with(&format!("{first}:100 "))).await;
        house.put("models/iris.yaml", &percent(new, 50));
        house.until_status("iris", new, |status| status.is_ready() && told(status).starts_with(&format!("{second}:50 "))).await;
        house.put("models/iris.yaml", &percent(new, 0));
        house.until_status("iris", "back", |status| told(status).starts_with(&format!("{second}:0 "))).await;
        house.put("models/iris.yaml", &service("iris", new));
    }
    house.until_status("iris", "the last", |status| told(status).starts_with("4:100 ")).await;
    stop.cancel();
    for asked in asking {
        let seen = asked.await.unwrap();
        let answers: BTreeSet<&String> = seen.iter().map(|(revision, _)| revision).collect();
        assert_eq!(answers.len(), seen.len(), "each revision gives one answer: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_predictors_share_requests_are_promoted_without_a_load_and_dropped() {
    let mut house = house(&standard("", "a.txt", &[])).await;
    house.until_status("iris", "ready", InferenceServiceStatus::is_ready).await;
    house.put("models/iris.yaml", &standard("", "a.txt", &[("v2", "b.txt", 40), ("v3", "c.txt", 40)]));
    let ready = |status: &InferenceServiceStatus| {
        status.condition(condition::CANARY_PREDICTOR_READY).is_some_and(|told| told.reason == "AllCanariesReady")
    };
    let status = house.until_status("iris", "canaries ready", ready).await;
    let canaries: Vec<_> =
        status.canary_statuses.iter().map(|canary| (canary.name.as_str(), canary.ready, canary.traffic_percent)).collect();
    assert_eq!(canaries, [("v2", true, 40), ("v3", true, 40)]);
    assert_eq!(house.answers().await, set(&["a", "b", "c"]));
    assert_eq!(house.ask_tagged("iris-v2").await.unwrap(), "b");
    house.put("models/iris.yaml", &standard("v2", "b.txt", &[]));
    house.until_status("iris", "promoted", |status| status.is_ready() && status.canary_statuses.is_empty()).await;
    assert_eq!(house.answers().await, set(&["b"]));
    assert_eq!(house.loads(), ["a", "b", "c"], "the model that runs is kept");
    house.put("models/b.txt", "b2");
    house.until_answer("b2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_predictor_is_rolled_back_by_dropping_it_and_a_broken_one_harms_nobody() {
    let mut house = house(&standard("", "a.txt", &[("v2", "bad.txt", 50)])).await;
    let broken =
        |status: &InferenceServiceStatus| status.canary_statuses.iter().any(|canary| canary.model_status.last_failure_info.is_some());
    let status = house.until_status("iris", "told", broken).await;
    assert!(status.is_ready(), "the stable predictor serves");
    assert_eq!(status.condition(condition::CANARY_PREDICTOR_READY).unwrap().reason, "CanariesNotReady");
    assert_eq!(house.answers().await, set(&["a"]));
    house.put("models/iris.yaml", &standard("", "a.txt", &[("v2", "b.txt", 50)]));
    house.until_status("iris", "mended", |status| status.canary_statuses.iter().all(|canary| canary.ready)).await;
    assert_eq!(house.answers().await, set(&["a", "b"]));
    house.put("models/iris.yaml", &standard("", "a.txt", &[]));
    house.until_status("iris", "dropped", |status| status.canary_statuses.is_empty()).await;
    assert_eq!(house.answers().await, set(&["a"]));
    assert!(matches!(house.ask_tagged("iris-v2").await, Err(InferenceError::ModelNotFound(_))));
}

impl House {
    async fn until_answer(&mut self, answer: &str) {
        let until = Instant::now() + PATIENCE;
        while self.ask("iris").await.unwrap() != answer {
            assert!(Instant::now() < until, "never answered {answer}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_does_not_fit_beside_is_refused_with_the_way_out_and_recreate_is_that_way() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "runtimes/scripted.yaml", RUNTIME);
    put_model(folder.path(), "old", 600);
    put_model(folder.path(), "new", 600);
    put(folder.path(), "models/iris.yaml", &standard("", "old.txt", &[]));
    let mut config = config(folder.path());
    config.models_bytes_max = 1000 << 20;
    let mut house = House::over_with(folder, config).await;
    house.put("models/iris.yaml", &standard("", "new.txt", &[]));
    let failed = |status: &InferenceServiceStatus| status.model_status.last_failure_info.is_some();
    let status = house.until_status("iris", "told", failed).await;
    let told = status.model_status.last_failure_info.unwrap().message;
    assert!(told.contains("deploymentStrategy: {type: Recreate}"), "{told}");
    assert_eq!(house.ask("iris").await.unwrap(), "old");
    let recreate = standard("", "new.txt", &[]).replace("minReplicas: 1", "deploymentStrategy: {type: Recreate}");
    house.put("models/iris.yaml", &recreate);
    house.until_status("iris", "the new one", |status| status.model_status.transition_status == TransitionStatus::UpToDate).await;
    assert_eq!(house.ask("iris").await.unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_share_requests_do_not_sleep_and_a_promoted_one_may() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "runtimes/scripted.yaml", RUNTIME);
    for (name, text) in FILES {
        put(folder.path(), name, text);
    }
    put(folder.path(), "models/iris.yaml", &canary("a.txt", "minReplicas: 0", ""));
    let mut config = config(folder.path());
    config.scaling.tick = Duration::from_millis(5);
    config.scaling.grace = Duration::ZERO;
    config.scaling.defaults.stable_window = Duration::from_millis(20);
    let mut house = House::over_with(folder, config).await;
    let asleep = |status: &InferenceServiceStatus| status.condition(status::ASLEEP).is_some();
    house.until_status("iris", "asleep", asleep).await;
    // The one that sleeps is woken to take its share.
    house.put("models/iris.yaml", &canary("b.txt", "minReplicas: 0\n    canaryTrafficPercent: 50", ""));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    assert_eq!(house.answers().await, set(&["a", "b"]));
    assert!(!house.control.mind.put_to_sleep(&key("iris"), &name(2), crate::control::services::Why::Idle));
    house.put("models/iris.yaml", &canary("b.txt", "minReplicas: 0", ""));
    house.until_status("iris", "promoted and asleep", |status| asleep(status) && told(status) == "2:100 | 2 1").await;
    assert_eq!(house.ask("iris").await.unwrap(), "b");
}

fn name(number: u64) -> crate::resolve::revision::RevisionName {
    crate::resolve::revision::RevisionName { component: "iris-predictor".to_owned(), number }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_unloads_during_a_split_is_split_again_when_it_is_loaded() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    let route = Arc::clone(house.router.load().service("default", "iris").unwrap());
    house.repository.ask(&route, Action::Unload).await.unwrap();
    assert!(house.ask("iris").await.is_err());
    house.repository.ask(&route, Action::Load).await.unwrap();
    house.until_traffic("3:50 1:50:prev | 1 0").await;
    assert_eq!(house.answers().await, set(&["a", "b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_deleted_during_a_split_is_gone_with_all_its_addresses() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    house.remove("models/iris.yaml");
    house.until("gone", |snapshot| snapshot.get(&key("iris")).is_none()).await;
    let until = Instant::now() + PATIENCE;
    while house.ask("iris").await.is_ok() || house.ask_tagged("prev-iris").await.is_ok() {
        assert!(Instant::now() < until);
        tokio::task::yield_now().await;
    }
}

async fn restarted(mut house: House) -> House {
    house.control.stop().await;
    house.control.unload(PATIENCE).await;
    let House { folder, .. } = house;
    House::over(folder).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_is_there_again_after_a_restart_under_the_same_names() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    let mut house = restarted(house).await;
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    assert_eq!(house.answers().await, set(&["a", "b"]));
    house.put("models/iris.yaml", &percent("c.txt", 30));
    house.until_traffic("3:30 1:70:prev | 1 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_was_rolled_back_gets_nothing_after_a_restart_either() {
    let judge = "kserved.io/canary-judge: 'true'";
    let mut house = court(&canary("a.txt", "minReplicas: 1", judge)).await;
    house.until_traffic("1:100 | 1 0").await;
    house.put("models/iris.yaml", &canary("errs.txt", "canaryTrafficPercent: 50", judge));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    house.ask_until("rolled back", |status| told(status) == "2:0 1:100:prev | 1 0").await;
    let mut house = restarted(house).await;
    let status = house.until_traffic("2:0 1:100:prev | 1 0").await;
    assert_eq!(status.condition(status::CANARY_JUDGED).unwrap().reason, "RolledBack");
    assert_eq!(house.answers().await, set(&["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_was_changed_while_the_daemon_was_away_is_the_next_canary() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    house.put("models/b.txt", "b2");
    house.until_traffic("3:50 1:50:prev | 1 0").await;
    house.control.stop().await;
    house.put("models/b.txt", "b3");
    let mut house = restarted(house).await;
    house.until_traffic("4:50 1:50:prev | 1 0").await;
    assert_eq!(house.answers().await, set(&["a", "b3"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promoted_stopped_or_deleted_is_a_first_revision_after_a_restart() {
    let mut house = house(&service("iris", "a.txt")).await;
    house.put("models/iris.yaml", &percent("b.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    house.put("models/iris.yaml", &service("iris", "b.txt"));
    house.until_traffic("2:100 | 2 1").await;
    let mut house = restarted(house).await;
    house.until_traffic("1:100 | 1 0").await;
    house.put("models/iris.yaml", &percent("a.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    house.control.stop().await;
    // Deleted while the daemon was away, and come back later: nobody remembers it.
    house.remove("models/iris.yaml");
    let mut house = restarted(house).await;
    house.put("models/iris.yaml", &percent("a.txt", 50));
    house.until_traffic("1:50 1:50:prev | 1 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_that_share_requests_both_hold_their_memory_and_give_it_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "runtimes/scripted.yaml", RUNTIME);
    put_model(folder.path(), "old", 400);
    put_model(folder.path(), "new", 400);
    put_model(folder.path(), "wine", 600);
    put(folder.path(), "models/iris.yaml", &service("iris", "old.txt"));
    let mut config = config(folder.path());
    config.models_bytes_max = 1300 << 20;
    let mut house = House::over_with(folder, config).await;
    house.put("models/iris.yaml", &percent("new.txt", 50));
    house.until_traffic("2:50 1:50:prev | 1 0").await;
    house.put("models/wine.yaml", &service("wine", "wine.txt"));
    let refused = |status: &InferenceServiceStatus| status.model_status.last_failure_info.is_some();
    let told = house.until_status("wine", "refused", refused).await.model_status.last_failure_info.unwrap().message;
    assert!(told.contains("cannot be freed for it"), "{told}");
    assert_eq!(house.answers().await, set(&["old", "new"]));
    // Once one of them has everything, the other's memory is there for others.
    house.put("models/iris.yaml", &service("iris", "new.txt"));
    house.until_status("wine", "ready", InferenceServiceStatus::is_ready).await;
    assert_eq!(house.ask("wine").await.unwrap(), "wine");
}
