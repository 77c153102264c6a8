//! What an API client asks first: which groups, versions and kinds there are.

use super::{Failure, GROUP};
use crate::api::Kind;
use crate::protocol::error::json_response;
use axum::extract::Path;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

/// The versions of the group, the preferred one first.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
/// What can be done with a resource.
const VERBS: [&str; 3] = ["get", "list", "watch"];

pub(super) async fn core_versions() -> Response {
    json_response(StatusCode::OK, &json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }))
}

pub(super) async fn core_resources() -> Response {
    let events = json!({
        "name": "events", "singularName": "event", "shortNames": ["ev"], "namespaced": true, "kind": "Event", "verbs": ["get", "list"],
    });
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_core()).flat_map(resource);
    resource_list("v1", &std::iter::once(events).chain(kinds).collect::<Vec<_>>())
}

pub(super) async fn groups() -> Response {
    json_response(StatusCode::OK, &json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group_object()] }))
}

pub(super) async fn group() -> Response {
    let mut object = group_object();
    object["kind"] = json!("APIGroup");
    object["apiVersion"] = json!("v1");
    json_response(StatusCode::OK, &object)
}

pub(super) async fn resources(Path(version): Path<String>) -> Result<Response, Failure> {
    let group_version = format!("{GROUP}/{version}");
    let found: Vec<Value> = Kind::ALL.into_iter().filter(|kind| kind.api_version() == group_version).flat_map(resource).collect();
    if found.is_empty() { Err(Failure::no_such_path()) } else { Ok(resource_list(&group_version, &found)) }
}

fn group_object() -> Value {
    let versions = VERSIONS.map(|version| json!({ "groupVersion": format!("{GROUP}/{version}"), "version": version }));
    json!({ "name": GROUP, "versions": versions, "preferredVersion": versions[0] })
}

fn resource_list(group_version: &str, resources: &[Value]) -> Response {
    let list = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources });
    json_response(StatusCode::OK, &list)
}

/// A kind, and its status where it has one.
fn resource(kind: Kind) -> Vec<Value> {
    let [plural, singular, short @ ..] = kind.aliases() else { return Vec::new() };
    let categories: &[&str] = if kind.is_core() { &[] } else { &["kserve"] };
    let object = json!({
        "name": plural, "singularName": singular, "shortNames": short, "categories": categories,
        "namespaced": kind.namespaced(), "kind": kind.name(), "verbs": VERBS,
    });
    let status = json!({
        "name": format!("{plural}/status"), "singularName": "", "namespaced": kind.namespaced(), "kind": kind.name(), "verbs": ["get"],
    });
    let has_status = matches!(
        kind,
        Kind::InferenceService
            | Kind::InferenceGraph
            | Kind::LocalModelCache
            | Kind::LocalModelNamespaceCache
            | Kind::LocalModelNodeGroup
            | Kind::LocalModelNode
    );
    if has_status { vec![object, status] } else { vec![object] }
}
