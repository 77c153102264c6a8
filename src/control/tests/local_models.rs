//! Models that are fetched beforehand: from files to what is held, and to the services that use it.

use super::*;
use crate::api::local_model::{LocalModelCacheStatus, LocalModelStatus, ModelDownloadStatus, NodeStatus};
use crate::api::status::{ConditionStatus, condition};
use crate::resolve::local_model::{CLAIM_ANNOTATION, LABEL};

fn group(name: &str, limit: &str, affinity: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1alpha1
kind: LocalModelNodeGroup
metadata: {{name: {name}}}
spec:
  storageLimit: {limit}
  persistentVolumeSpec: {{capacity: {{storage: {limit}}}{affinity}}}
  persistentVolumeClaimSpec: {{storageClassName: local}}
"
    )
}

fn cache(name: &str, uri: &str, size: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1alpha1
kind: LocalModelCache
metadata: {{name: {name}}}
spec: {{sourceModelUri: {uri}, modelSize: {size}, nodeGroups: [disk]}}
"
    )
}

fn cluster_key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey { kind, namespace: String::new(), name: name.to_owned() }
}

impl House {
    async fn until_cache(&mut self, name: &str, what: &str, holds: impl Fn(&LocalModelCacheStatus) -> bool) -> LocalModelCacheStatus {
        let key = cluster_key(Kind::LocalModelCache, name);
        let found = |snapshot: &Snapshot| match snapshot.get(&key)?.local_status.clone()? {
            LocalModelStatus::Cache(status) => Some(status),
            _ => None,
        };
        let snapshot = self.until(what, |snapshot| found(snapshot).is_some_and(|status| holds(&status))).await;
        found(&snapshot).unwrap()
    }

    async fn until_node(&mut self, name: &str, what: &str, holds: impl Fn(NodeStatus) -> bool) -> LocalModelCacheStatus {
        self.until_cache(name, what, |status| status.node_status.get("edge").is_some_and(|node| holds(*node))).await
    }
}

fn told(status: &LocalModelCacheStatus) -> (ConditionStatus, String, String) {
    let ready = status.conditions.iter().find(|condition| condition.kind == condition::READY).unwrap();
    (ready.status, ready.reason.clone(), ready.message.clone())
}

fn is_here(node: NodeStatus) -> bool {
    node == NodeStatus::NodeDownloaded
}

fn is_not_here(node: NodeStatus) -> bool {
    node == NodeStatus::NodeDownloadError
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_fetched_marks_its_services_and_tells_the_node_and_the_group() {
    let mut house = House::with(&[
        ("models/flowers/iris.txt", "setosa"),
        ("models/a-cache.yaml", &cache("flowers", "flowers", "1Mi")),
        ("models/disk.yaml", &group("disk", "10Mi", "")),
        ("models/iris.yaml", &service("iris", "flowers/iris.txt")),
        ("models/other.yaml", &service("other", "./flowers/iris.txt")),
    ])
    .await;
    house.until_revision("iris", 1).await;
    assert_eq!(house.ask("iris").await.unwrap(), "setosa");
    let status = house.until_cache("flowers", "its service is told", |status| !status.inference_services.is_empty()).await;
    assert_eq!((status.copies.available, status.copies.total, status.copies.failed), (1, 1, 0));
    assert_eq!(status.node_status["edge"], NodeStatus::NodeDownloaded);
    assert_eq!(status.inference_services[0].name, "iris");
    let snapshot = house.control.reader().snapshot();
    let metadata = snapshot.get(&key("iris")).unwrap().defaulted.metadata().clone();
    assert_eq!((metadata.labels[LABEL].as_str(), metadata.annotation(CLAIM_ANNOTATION)), ("flowers", Some("flowers-disk")));
    assert!(snapshot.get(&key("other")).unwrap().defaulted.metadata().labels.is_empty(), "byte by byte, as in KServe");
    let node = cluster_key(Kind::LocalModelNode, "edge");
    let held = |snapshot: &Snapshot| match snapshot.get(&node).and_then(|stored| stored.local_status.clone()) {
        Some(LocalModelStatus::Node(status)) => status.model_status.get("flowers") == Some(&ModelDownloadStatus::ModelDownloaded),
        _ => false,
    };
    house.until("the node holds it", held).await;
    let used = |snapshot: &Snapshot| match snapshot
        .get(&cluster_key(Kind::LocalModelNodeGroup, "disk"))
        .and_then(|stored| stored.local_status.clone())
    {
        Some(LocalModelStatus::Group(status)) => status.used.bytes() == 6 && status.available.bytes() == (10 << 20) - 6,
        _ => false,
    };
    house.until("the group is told", used).await;
    house.remove("models/a-cache.yaml");
    house.until("the node holds nothing", |snapshot| snapshot.get(&node).is_none()).await;
    assert_eq!(house.ask("iris").await.unwrap(), "setosa", "who uses it goes on");
    let deleted = |status: &InferenceServiceStatus| status.condition(status::LOCAL_MODEL_DELETED).map(|told| told.message.clone());
    let status = house.until_status("iris", "its service is told", |status| deleted(status).is_some()).await;
    assert!(deleted(&status).unwrap().starts_with("LocalModelCache/flowers was deleted while this service uses its model"), "{status:?}");
    house.put("models/a-cache.yaml", &cache("flowers", "flowers", "1Mi"));
    house.until_status("iris", "it is there again", |status| deleted(status).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_its_group_waits_until_another_goes() {
    let mut house = House::with(&[
        ("models/a.txt", "a"),
        ("models/b.txt", "b"),
        ("models/disk.yaml", &group("disk", "10Mi", "")),
        ("models/a.yaml", &cache("a", "a.txt", "6Mi")),
    ])
    .await;
    house.until_node("a", "here", is_here).await;
    house.put("models/b.yaml", &cache("b", "b.txt", "5Mi"));
    let status = house.until_node("b", "no room", is_not_here).await;
    let (ready, reason, message) = told(&status);
    assert_eq!((ready, reason.as_str(), status.copies.failed), (ConditionStatus::False, "StorageLimitExceeded", 1));
    assert!(message.contains("`disk` may take 10Mi") && message.contains("1048576 bytes are missing"), "{message}");
    house.remove("models/a.yaml");
    house.until_node("b", "room", is_here).await;
    house.put("models/disk.yaml", &group("disk", "1Mi", ""));
    house.until_node("b", "less room", is_not_here).await;
    house.put("models/disk.yaml", &group("disk", "5Mi", ""));
    house.until_node("b", "room again", is_here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_larger_than_its_size_or_that_is_not_there_is_told() {
    let mut house = House::with(&[
        ("models/a.txt", "a model of some bytes"),
        ("models/disk.yaml", &group("disk", "10Mi", "")),
        ("models/a.yaml", &cache("a", "a.txt", "5")),
        ("models/b.yaml", &cache("b", "b.txt", "5")),
    ])
    .await;
    let status = house.until_node("a", "too large", is_not_here).await;
    assert_eq!(told(&status).1, "ModelTooLarge");
    assert!(told(&status).2.contains("21 bytes"), "{status:?}");
    let status = house.until_node("b", "missing", is_not_here).await;
    assert_eq!(told(&status).1, "DownloadFailed");
    house.put("models/a.yaml", &cache("a", "a.txt", "1Ki"));
    house.until_node("a", "large enough", is_here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_are_missing_or_exclude_this_machine_are_told() {
    let mut house = House::with(&[("models/a.txt", "a"), ("models/a.yaml", &cache("a", "a.txt", "5"))]).await;
    let status = house.until_cache("a", "no group", |status| !status.conditions.is_empty()).await;
    assert_eq!((told(&status).2.as_str(), status.copies.total), ("NodeGroup disk not found", 0));
    let elsewhere = ", nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [other]}]}]}}";
    house.put("models/disk.yaml", &group("disk", "10Mi", elsewhere));
    house.until_cache("a", "excluded", |status| told(status).1 == "NoMatchingNode").await;
    house.put("models/disk.yaml", &group("disk", "10Mi", &elsewhere.replace("[other]", "[other, edge]")));
    house.until_node("a", "included", is_here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uri_stays_and_is_asked_for_once() {
    let mut house = House::with(&[
        ("models/a.txt", "a"),
        ("models/disk.yaml", &group("disk", "10Mi", "")),
        ("models/a.yaml", &cache("a", "a.txt", "5")),
    ])
    .await;
    house.until_node("a", "here", is_here).await;
    house.put("models/a.yaml", &cache("a", "b.txt", "5"));
    let refused = |snapshot: &Snapshot, name: &str, message: &str| {
        let key = cluster_key(Kind::LocalModelCache, name);
        snapshot.problems.values().flatten().any(|problem| problem.resource.as_ref() == Some(&key) && problem.message == message)
    };
    house.until("it is refused", |snapshot| refused(snapshot, "a", "StorageUri is immutable")).await;
    house.until_node("a", "still", is_here).await;
    house.put("models/b.yaml", &cache("b", "a.txt", "5"));
    house.until("one is enough", |snapshot| refused(snapshot, "b", "LocalModelCache a has the same StorageURI a.txt")).await;
    assert!(house.control.reader().snapshot().get(&cluster_key(Kind::LocalModelCache, "b")).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn kserves_config_map_turns_local_models_off() {
    let config = |enabled: bool| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: inferenceservice-config, namespace: kserve}}\ndata: {{localModel: '{{\"enabled\": {enabled}}}'}}\n"
        )
    };
    let mut house = House::with(&[
        ("models/a.txt", "a"),
        ("models/disk.yaml", &group("disk", "10Mi", "")),
        ("models/a.yaml", &cache("a", "a.txt", "5")),
        ("models/config.yaml", &config(false)),
        ("models/iris.yaml", &service("iris", "a.txt")),
    ])
    .await;
    house.until_cache("a", "off", |status| !status.conditions.is_empty() && told(status).1 == "Disabled").await;
    assert!(house.control.reader().snapshot().get(&key("iris")).unwrap().defaulted.metadata().labels.is_empty());
    house.put("models/config.yaml", &config(true));
    house.until_node("a", "on", is_here).await;
}
