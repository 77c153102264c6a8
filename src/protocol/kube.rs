//! The resources in Kubernetes' own shape, to be read: list, get, watch and discovery below `/api` and `/apis`.
//!
//! `kserved get`, KServe's Python SDK and plain `curl` are its clients. Resources are files in the watched folder, so
//! verbs that write are answered 405 and say so.

mod discovery;
mod events;
mod select;
mod watching;

use super::error::json_response;
use crate::api::Kind;
use crate::store::{Reader, Snapshot, Stored};
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use select::Selector;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::watch;
use watching::{Changes, Watched};

/// The group of KServe's resources.
const GROUP: &str = "serving.kserve.io";

/// What the handlers share.
#[derive(Clone)]
struct Kube {
    reader: Reader,
    changes: Changes,
    ending: watch::Receiver<bool>,
}

/// The parameters that lists understand; others are passed over, as an API server does.
#[derive(Debug, Default)]
struct Parameters {
    watch: Option<String>,
    resource_version: Option<String>,
    timeout_seconds: Option<u64>,
    field_selector: Option<String>,
    label_selector: Option<String>,
}

/// The routes over a store. Watches end when `ending` becomes true or its sender is gone.
pub fn routes(reader: Reader, ending: watch::Receiver<bool>) -> Router {
    let changes = Changes::of(&reader);
    let group = format!("/apis/{GROUP}");
    Router::new()
        .route("/api", get(discovery::core_versions))
        .route("/api/v1", get(discovery::core_resources))
        .route("/api/v1/{plural}", get(list_core))
        .route("/api/v1/namespaces/{namespace}/{plural}", get(list_core_namespace))
        .route("/api/v1/namespaces/{namespace}/{plural}/{name}", get(get_core))
        .route("/api/v1/events", get(events::all))
        .route("/api/v1/namespaces/{namespace}/events", get(events::of_namespace))
        .route("/apis", get(discovery::groups))
        .route(&group, get(discovery::group))
        .route(&format!("{group}/{{version}}"), get(discovery::resources))
        .route(&format!("{group}/{{version}}/{{plural}}"), get(list_all))
        .route(&format!("{group}/{{version}}/{{plural}}/{{name}}"), get(get_of_cluster))
        .route(&format!("{group}/{{version}}/{{plural}}/{{name}}/status"), get(get_of_cluster))
        .route(&format!("{group}/{{version}}/namespaces/{{namespace}}/{{plural}}"), get(list_namespace))
        .route(&format!("{group}/{{version}}/namespaces/{{namespace}}/{{plural}}/{{name}}"), get(get_one))
        .route(&format!("{group}/{{version}}/namespaces/{{namespace}}/{{plural}}/{{name}}/status"), get(get_one))
        .method_not_allowed_fallback(read_only)
        .with_state(Kube { reader, changes, ending })
}

async fn list_all(
    State(kube): State<Kube>,
    Path((version, plural)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    kube.list(kind_of(&version, &plural)?, None, &Parameters::parse(query.as_deref()))
}

async fn list_namespace(
    State(kube): State<Kube>,
    Path((version, namespace, plural)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    kube.list(namespaced_kind_of(&version, &plural)?, Some(namespace), &Parameters::parse(query.as_deref()))
}

async fn get_of_cluster(
    State(kube): State<Kube>,
    Path((version, plural, name)): Path<(String, String, String)>,
) -> Result<Response, Failure> {
    match kind_of(&version, &plural)? {
        kind if kind.namespaced() => Err(Failure::no_such_path()),
        kind => kube.get(kind, String::new(), name),
    }
}

async fn get_one(
    State(kube): State<Kube>,
    Path((version, namespace, plural, name)): Path<(String, String, String, String)>,
) -> Result<Response, Failure> {
    kube.get(namespaced_kind_of(&version, &plural)?, namespace, name)
}

async fn list_core(State(kube): State<Kube>, Path(plural): Path<String>, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    kube.list(core_kind_of(&plural)?, None, &Parameters::parse(query.as_deref()))
}

async fn list_core_namespace(
    State(kube): State<Kube>,
    Path((namespace, plural)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    kube.list(core_kind_of(&plural)?, Some(namespace), &Parameters::parse(query.as_deref()))
}

async fn get_core(State(kube): State<Kube>, Path((namespace, plural, name)): Path<(String, String, String)>) -> Result<Response, Failure> {
    kube.get(core_kind_of(&plural)?, namespace, name)
}

async fn read_only() -> Failure {
    Failure {
        status: StatusCode::METHOD_NOT_ALLOWED,
        reason: "MethodNotAllowed",
        message: "resources are files here: write, change or delete the file in a watched folder".to_owned(),
        details: Value::Null,
    }
}

impl Kube {
    fn list(&self, kind: Kind, namespace: Option<String>, parameters: &Parameters) -> Result<Response, Failure> {
        let selector = Selector::parse(parameters.field_selector.as_deref(), parameters.label_selector.as_deref()).map_err(Failure::bad)?;
        let wanted = Watched { kind, namespace, selector };
        if parameters.watches() {
            let from = parameters.version()?;
            return Ok(watching::response(self.clone(), wanted, from, parameters.timeout_seconds));
        }
        let snapshot = self.reader.snapshot();
        let items: Vec<Value> = wanted.of(&snapshot).map(|(_, stored)| stored.object_json()).collect();
        Ok(list_response(kind.api_version(), &format!("{kind}List"), &snapshot, &items))
    }

    fn get(&self, kind: Kind, namespace: String, name: String) -> Result<Response, Failure> {
        let key = crate::api::ResourceKey { kind, namespace, name };
        let snapshot = self.reader.snapshot();
        let stored: &Arc<Stored> = snapshot.get(&key).ok_or_else(|| Failure::not_found(kind, &key.name))?;
        Ok(json_response(StatusCode::OK, &stored.object_json()))
    }
}

impl Parameters {
    fn parse(query: Option<&str>) -> Self {
        let mut parameters = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "watch" => parameters.watch = Some(value.into_owned()),
                "resourceVersion" => parameters.resource_version = Some(value.into_owned()),
                "timeoutSeconds" => parameters.timeout_seconds = value.parse().ok(),
                "fieldSelector" => parameters.field_selector = Some(value.into_owned()),
                "labelSelector" => parameters.label_selector = Some(value.into_owned()),
                _ => {}
            }
        }
        parameters
    }

    fn watches(&self) -> bool {
        self.watch.as_deref().is_some_and(|watch| !matches!(watch, "false" | "0"))
    }

    /// The version to watch from; none, empty and `0` ask for everything first.
    fn version(&self) -> Result<Option<u64>, Failure> {
        match self.resource_version.as_deref() {
            None | Some("" | "0") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| Failure::bad(format!("resourceVersion: expected a whole number: `{text}`"))),
        }
    }
}

fn list_response(api_version: &str, kind: &str, snapshot: &Snapshot, items: &[Value]) -> Response {
    let metadata = json!({ "resourceVersion": snapshot.resource_version.to_string() });
    json_response(StatusCode::OK, &json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata, "items": items }))
}

fn kind_of(version: &str, plural: &str) -> Result<Kind, Failure> {
    let fits = |kind: &Kind| kind.plural() == plural && kind.api_version().strip_prefix(GROUP) == Some(&format!("/{version}"));
    Kind::ALL.into_iter().find(fits).ok_or_else(Failure::no_such_path)
}

fn core_kind_of(plural: &str) -> Result<Kind, Failure> {
    Kind::ALL.into_iter().find(|kind| kind.is_core() && kind.plural() == plural).ok_or_else(Failure::no_such_path)
}

fn namespaced_kind_of(version: &str, plural: &str) -> Result<Kind, Failure> {
    kind_of(version, plural).and_then(|kind| if kind.namespaced() { Ok(kind) } else { Err(Failure::no_such_path()) })
}

/// An error as Kubernetes writes it: a `Status` object.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    reason: &'static str,
    message: String,
    details: Value,
}

impl Failure {
    fn not_found(kind: Kind, name: &str) -> Self {
        let (plural, group) = (kind.plural(), if kind.is_core() { "" } else { GROUP });
        let dot = if group.is_empty() { "" } else { "." };
        Self {
            status: StatusCode::NOT_FOUND,
            reason: "NotFound",
            message: format!("{plural}{dot}{group} \"{name}\" not found"),
            details: json!({ "name": name, "group": group, "kind": plural }),
        }
    }

    fn no_such_path() -> Self {
        let message = "the server could not find the requested resource".to_owned();
        Self { status: StatusCode::NOT_FOUND, reason: "NotFound", message, details: json!({}) }
    }

    fn bad(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: "BadRequest", message, details: Value::Null }
    }

    /// What a watcher knows is too old to go on from: it lists anew.
    fn expired() -> Self {
        let message = "too old resource version: list again".to_owned();
        Self { status: StatusCode::GONE, reason: "Expired", message, details: Value::Null }
    }

    fn object(&self) -> Value {
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Status",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.status.as_u16(),
        });
        if !self.details.is_null() {
            object["details"] = self.details.clone();
        }
        object
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        json_response(self.status, &self.object())
    }
}

#[cfg(test)]
mod tests;
