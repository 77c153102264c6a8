//! Graphs from files to routes.

use super::sleeping::asleep_at_first;
use super::*;
use crate::api::status::{ConditionStatus, InferenceGraphStatus, condition};
use crate::codec::Limits;
use crate::inference::Priority;
use crate::router::graph::{self, Body, GraphRequest, Graphs};

fn yaml(steps: &str, annotations: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1alpha1
kind: InferenceGraph
metadata: {{name: all, annotations: {{{annotations}}}}}
spec:
  nodes:
    root:
      routerType: Sequence
      steps: [{steps}]
"
    )
}

fn graph_key() -> ResourceKey {
    ResourceKey { kind: Kind::InferenceGraph, namespace: "default".to_owned(), name: "all".to_owned() }
}

impl House {
    async fn until_graph(&mut self, what: &str, holds: impl Fn(&InferenceGraphStatus) -> bool) -> InferenceGraphStatus {
        let found = |snapshot: &Snapshot| snapshot.get(&graph_key()).and_then(|stored| stored.graph_status.clone());
        let snapshot = self.until(what, |snapshot| found(snapshot).is_some_and(|status| holds(&status))).await;
        found(&snapshot).unwrap()
    }

    async fn until_graph_ready(&mut self) -> InferenceGraphStatus {
        self.until_graph("the graph is ready", is_ready).await
    }

    /// Whether requests go through the graph; nothing where it is not known.
    fn graph_serves(&self) -> Option<bool> {
        self.router.load().graph("default", "all").map(|route| route.target.is_ok())
    }
}

fn is_ready(status: &InferenceGraphStatus) -> bool {
    status.condition(condition::READY).is_some_and(|ready| ready.status == ConditionStatus::True)
}

fn told(status: &InferenceGraphStatus) -> (&str, &str) {
    let ready = status.condition(condition::READY).unwrap();
    (&ready.reason, &ready.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_waits_for_its_services_and_says_in_kserves_words_for_which() {
    let mut house = House::with(&[("models/iris.txt", "setosa"), ("models/all.yaml", &yaml("{serviceName: iris}", ""))]).await;
    let status = house.until_graph("it waits", |status| !status.conditions.is_empty()).await;
    let (reason, message) = told(&status);
    assert_eq!(reason, "ReconcileFailed");
    assert!(
        message.ends_with("models/all.yaml:8:29: spec.nodes.root.steps[0].serviceName: Failed to find graph service iris"),
        "{message}"
    );
    assert_eq!((status.url, house.graph_serves()), (None, Some(false)));
    house.put("models/iris.yaml", &service("iris", "iris.txt"));
    let status = house.until_graph_ready().await;
    assert_eq!(status.url.as_deref(), Some("http://all.default.example.com"));
    assert_eq!((status.deployment_mode.as_str(), status.observed_generation), ("Knative", 1));
    assert_eq!(status.condition(condition::STOPPED).unwrap().status, ConditionStatus::False);
    assert_eq!(house.graph_serves(), Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_load_is_not_ready_for_its_graph() {
    let files = [("models/iris.txt", "fail"), ("models/iris.yaml", &service("iris", "iris.txt"))];
    let mut house = House::with(&[files[0], files[1], ("models/all.yaml", &yaml("{serviceName: iris}", ""))]).await;
    let status = house.until_graph("it waits", |status| told(status).0 == "ServiceNotReady").await;
    assert!(told(&status).1.ends_with("service iris is not ready"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_plan_serves_while_an_edit_or_a_service_is_missing() {
    let files = [("models/iris.txt", "setosa"), ("models/iris.yaml", &*service("iris", "iris.txt"))];
    let mut house = House::with(&[files[0], files[1], ("models/all.yaml", &yaml("{serviceName: iris}", ""))]).await;
    house.until_graph_ready().await;
    house.put("models/all.yaml", &yaml("{serviceName: irs}", ""));
    let status = house.until_graph("the edit is told", |status| !is_ready(status)).await;
    assert!(told(&status).1.contains("Failed to find graph service irs (did you mean `iris`?)"), "{status:?}");
    assert_eq!((status.observed_generation, house.graph_serves()), (2, Some(true)));
    house.put("models/all.yaml", "apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {name: all\n");
    let status = house.until_graph("the mistake is told", |status| status.condition(status::MANIFEST_ACCEPTED).is_some()).await;
    let accepted = status.condition(status::MANIFEST_ACCEPTED).unwrap();
    assert_eq!((accepted.status, accepted.severity.as_str()), (ConditionStatus::False, "Info"));
    assert!(accepted.message.contains("models/all.yaml:"), "{accepted:?}");
    house.put("models/all.yaml", &yaml("{nodeName: root}", ""));
    house
        .until("the circle is told", |snapshot| {
            snapshot.get(&graph_key()).is_some_and(|stored| stored.problems.iter().any(|problem| problem.message.contains("in a circle")))
        })
        .await;
    assert_eq!(house.graph_serves(), Some(true), "still");
    house.put("models/all.yaml", &yaml("{serviceName: iris}", ""));
    house.until_graph("repaired", |status| is_ready(status) && status.condition(status::MANIFEST_ACCEPTED).is_none()).await;
    house.remove("models/iris.yaml");
    house.until_graph("the service is missed", |status| !is_ready(status)).await;
    assert_eq!(house.graph_serves(), Some(true), "its step says that the model is gone");
    house.put("models/iris.yaml", files[1].1);
    house.until_graph_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_is_stopped_by_its_annotation_and_goes_with_its_file() {
    let files = [("models/iris.txt", "setosa"), ("models/iris.yaml", &*service("iris", "iris.txt"))];
    let mut house = House::with(&[files[0], files[1], ("models/all.yaml", &yaml("{serviceName: iris}", ""))]).await;
    house.until_graph_ready().await;
    house.put("models/all.yaml", &yaml("{serviceName: iris}", "serving.kserve.io/stop: 'true'"));
    let status = house.until_graph("stopped", |status| told(status).0 == "Stopped").await;
    assert_eq!(status.condition(condition::STOPPED).unwrap().status, ConditionStatus::True);
    assert_eq!((status.url, house.graph_serves()), (None, Some(false)));
    house.put("models/all.yaml", &yaml("{serviceName: iris}", ""));
    house.until_graph_ready().await;
    house.remove("models/all.yaml");
    house.until("the graph goes", |snapshot| snapshot.get(&graph_key()).is_none()).await;
    let gone = async {
        while house.graph_serves().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_the_name_of_a_graph_is_remarked_on() {
    let files = [("models/iris.txt", "setosa"), ("models/iris.yaml", &*service("iris", "iris.txt"))];
    let mut house = House::with(&[files[0], files[1], ("models/all.yaml", &yaml("{serviceName: iris}", ""))]).await;
    let status = house.until_graph_ready().await;
    assert!(status.condition("HostTaken").is_none());
    house.put("models/same.yaml", &service("all", "iris.txt"));
    let status = house.until_graph("the namesake is told", |status| status.condition("HostTaken").is_some()).await;
    let taken = status.condition("HostTaken").unwrap();
    assert!(taken.message.contains("InferenceService/default/all (") && taken.message.contains("same.yaml:1:1"), "{taken:?}");
    assert_eq!((is_ready(&status), taken.severity.as_str()), (true, "Info"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_over_a_model_that_sleeps_is_ready_and_its_steps_wake_the_model_once() {
    let all = yaml("{serviceName: iris}, {serviceName: iris}", "").replace("Sequence", "Ensemble");
    let mut house = asleep_at_first(&[("models/all.yaml", &all)]).await;
    house.until_graph_ready().await;
    let before = house.loads().len();
    let inputs = vec![Tensor::from_strings("x", vec![1], &["?"]).unwrap()];
    let request = GraphRequest {
        body: Body::request(InferenceRequest { inputs, ..InferenceRequest::default() }),
        headers: http::HeaderMap::new(),
        priority: Priority::Normal,
        depth: 0,
        deadline: Instant::now() + PATIENCE,
    };
    let route = Arc::clone(house.router.load().graph("default", "all").unwrap());
    let graphs = Graphs::new(house.router.clone(), Limits::default(), graph::Config::default());
    let reply = graphs.run(&route, request).await.0.unwrap();
    let tensors = reply.body.to_tensors(Limits::default()).await.unwrap().unwrap();
    assert!(tensors.iter().all(|tensor| tensor.strings().eq([b"setosa"])), "{tensors:?}");
    assert_eq!((tensors.len(), house.loads().len()), (2, before + 1));
}
