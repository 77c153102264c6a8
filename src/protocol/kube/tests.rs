//! What clients of the Kubernetes door see.

use super::*;
use crate::api::Resource;
use crate::api::inference_service::InferenceService;
use crate::api::problem::{Problem, Severity};
use crate::manifest::FieldPlaces;
use crate::place::Place;
use crate::store::{Declared, FileChange, Writer};
use axum::body::{Body, BodyDataStream};
use futures::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use std::time::SystemTime;
use tower::ServiceExt;

struct Door {
    writer: Writer,
    router: Router,
    ending: watch::Sender<bool>,
}

impl Door {
    fn new() -> Self {
        let writer = Writer::default();
        let (ending, receiver) = watch::channel(false);
        let router = routes(writer.reader(), receiver);
        let mut door = Self { writer, router, ending };
        door.write("a.yaml", &["iris"], 1);
        door
    }

    /// Declares services in a file, each with a warning and a timeout.
    fn write(&mut self, file: &str, names: &[&str], timeout_s: i64) {
        let place = Place::file(file).at(3, 1);
        let declared = names.iter().map(|name| {
            let mut service = InferenceService::default();
            service.metadata.name = (*name).to_owned();
            service.metadata.namespace = "default".to_owned();
            service.metadata.labels.insert("team".to_owned(), (*name).to_owned());
            service.spec.predictor.timeout_s = Some(timeout_s);
            let resource = Resource::InferenceService(Box::new(service));
            let warning =
                Problem::error(place.clone(), "spec.x", "unknown field").with_severity(Severity::Warning).about(Some(resource.key()));
            Declared {
                defaulted: resource.clone(),
                resource,
                place: place.clone(),
                fields: FieldPlaces::default(),
                warnings: vec![warning],
            }
        });
        let change = FileChange::Read { resources: declared.collect(), problems: Vec::new(), refused: Vec::new(), complete: true };
        self.writer.apply(vec![(file.into(), change)], SystemTime::UNIX_EPOCH);
    }

    fn remove(&mut self, file: &str) {
        self.writer.apply(vec![(file.into(), FileChange::Gone)], SystemTime::UNIX_EPOCH);
    }

    async fn ask(&self, method: &str, path: &str) -> Response {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.ask("GET", path).await;
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    async fn watch(&self, path: &str) -> Lines {
        Lines { body: self.ask("GET", path).await.into_body().into_data_stream() }
    }
}

struct Lines {
    body: BodyDataStream,
}

impl Lines {
    /// The next changes as `TYPE name`; empty at the end of the watch.
    async fn next(&mut self) -> Vec<String> {
        let Some(chunk) = self.body.next().await else { return Vec::new() };
        let chunk = chunk.unwrap();
        let lines = chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let line: Value = serde_json::from_slice(line).unwrap();
                let object = &line["object"];
                let name = object["metadata"]["name"].as_str().or(object["reason"].as_str()).unwrap();
                format!("{} {name}", line["type"].as_str().unwrap())
            })
            .collect()
    }
}

const SERVICES: &str = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices";

#[tokio::test]
async fn services_are_listed_as_kubernetes_does() {
    let door = Door::new();
    for path in [SERVICES, "/apis/serving.kserve.io/v1beta1/inferenceservices"] {
        let (status, list) = door.get(path).await;
        assert_eq!((status, &list["kind"]), (200, &json!("InferenceServiceList")));
        assert_eq!(list["items"][0]["metadata"]["name"], "iris");
        assert_eq!(list["metadata"]["resourceVersion"], "1");
    }
    assert_eq!(door.get("/apis/serving.kserve.io/v1beta1/namespaces/other/inferenceservices").await.1["items"], json!([]));
    assert_eq!(door.get("/apis/serving.kserve.io/v1alpha1/clusterservingruntimes").await.1["kind"], "ClusterServingRuntimeList");
}

#[tokio::test]
async fn one_service_is_got_by_name_and_its_status_too() {
    let door = Door::new();
    for path in [format!("{SERVICES}/iris"), format!("{SERVICES}/iris/status")] {
        let (status, object) = door.get(&path).await;
        assert_eq!((status, &object["kind"]), (200, &json!("InferenceService")));
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_by_a_status_object() {
    let door = Door::new();
    let (code, status) = door.get(&format!("{SERVICES}/rose")).await;
    assert_eq!((code, &status["kind"], &status["reason"]), (404, &json!("Status"), &json!("NotFound")));
    assert_eq!(status["message"], "inferenceservices.serving.kserve.io \"rose\" not found");
    for path in [
        "/apis/serving.kserve.io/v1/inferenceservices",
        "/apis/serving.kserve.io/v1beta1/inferenceservices/iris",
        "/apis/serving.kserve.io/v2",
    ] {
        assert_eq!(door.get(path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn selectors_choose_and_bad_ones_are_refused() {
    let mut door = Door::new();
    door.write("b.yaml", &["rose"], 1);
    let names = |list: &Value| list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&door.get(&format!("{SERVICES}?labelSelector=team%3Drose")).await.1), ["rose"]);
    assert_eq!(names(&door.get(&format!("{SERVICES}?fieldSelector=metadata.name%3Diris")).await.1), ["iris"]);
    assert_eq!(door.get(&format!("{SERVICES}?fieldSelector=spec%3Dx")).await.0, 400);
}

#[tokio::test]
async fn writing_is_refused_because_resources_are_files() {
    let door = Door::new();
    let response = door.ask("DELETE", &format!("{SERVICES}/iris")).await;
    assert_eq!(response.status(), 405);
    let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert!(body["message"].as_str().unwrap().contains("watched folder"));
}

#[tokio::test]
async fn a_watch_tells_what_comes_changes_and_goes() {
    let mut door = Door::new();
    let mut lines = door.watch(&format!("{SERVICES}?watch=true")).await;
    assert_eq!(lines.next().await, ["ADDED iris"]);
    door.write("b.yaml", &["rose"], 1);
    assert_eq!(lines.next().await, ["ADDED rose"]);
    door.write("a.yaml", &["iris"], 2);
    assert_eq!(lines.next().await, ["MODIFIED iris"]);
    door.remove("b.yaml");
    assert_eq!(lines.next().await, ["DELETED rose"]);
    door.ending.send(true).unwrap();
    assert!(lines.next().await.is_empty(), "a watch ends with the daemon");
}

#[tokio::test]
async fn a_watch_goes_on_from_the_version_of_a_list() {
    let mut door = Door::new();
    let version = door.get(SERVICES).await.1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    door.write("b.yaml", &["rose"], 1);
    let from = format!("{SERVICES}?watch=1&resourceVersion={version}");
    assert_eq!(door.watch(&from).await.next().await, ["ADDED rose"]);
    door.remove("a.yaml");
    let mut lines = door.watch(&from).await;
    assert_eq!(lines.next().await, ["ERROR Expired"], "the loss of iris would be missed");
    assert!(lines.next().await.is_empty());
    assert_eq!(door.watch(&format!("{SERVICES}?watch=1&resourceVersion=99")).await.next().await, ["ERROR Expired"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_after_the_time_its_client_asks_for() {
    let door = Door::new();
    let mut lines = door.watch(&format!("{SERVICES}?watch=true&timeoutSeconds=5")).await;
    assert_eq!(lines.next().await, ["ADDED iris"]);
    assert!(lines.next().await.is_empty());
}

#[tokio::test]
async fn discovery_names_every_kind() {
    let door = Door::new();
    assert_eq!(door.get("/apis").await.1["groups"][0]["name"], "serving.kserve.io");
    assert_eq!(door.get("/apis/serving.kserve.io").await.1["preferredVersion"]["version"], "v1beta1");
    assert_eq!(door.get("/api").await.1["versions"], json!(["v1"]));
    let mut names = Vec::new();
    for version in ["v1beta1", "v1alpha1"] {
        let list = door.get(&format!("/apis/serving.kserve.io/{version}")).await.1;
        names.extend(list["resources"].as_array().unwrap().iter().map(|resource| resource["name"].as_str().unwrap().to_owned()));
    }
    assert_eq!(
        names,
        [
            "inferenceservices",
            "inferenceservices/status",
            "inferencegraphs",
            "inferencegraphs/status",
            "servingruntimes",
            "clusterservingruntimes",
            "clusterstoragecontainers",
            "localmodelcaches",
            "localmodelcaches/status",
            "localmodelnamespacecaches",
            "localmodelnamespacecaches/status",
            "localmodelnodegroups",
            "localmodelnodegroups/status",
            "localmodelnodes",
            "localmodelnodes/status"
        ]
    );
}

#[tokio::test]
async fn mistakes_are_events_of_their_resource_or_file() {
    let mut door = Door::new();
    let broken = FileChange::Read {
        resources: Vec::new(),
        problems: vec![Problem::error(Place::file("bad.yaml").at(2, 1), "", "not YAML")],
        refused: Vec::new(),
        complete: false,
    };
    door.writer.apply(vec![("bad.yaml".into(), broken)], SystemTime::UNIX_EPOCH);
    let (_, list) = door.get("/api/v1/events").await;
    let told = |event: &Value| (event["involvedObject"]["kind"].clone(), event["reason"].clone(), event["message"].clone());
    let events: Vec<_> = list["items"].as_array().unwrap().iter().map(told).collect();
    assert_eq!(events[0], (json!("InferenceService"), json!("Suspicious"), json!("a.yaml:3:1: spec.x: unknown field")));
    assert_eq!(events[1], (json!("File"), json!("Invalid"), json!("bad.yaml:2:1: not YAML")));
    assert_eq!(door.get("/api/v1/namespaces/default/events").await.1["items"].as_array().unwrap().len(), 1);
}
