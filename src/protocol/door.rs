//! What every handler has at hand, and what it knows of the request in front of it.

use super::config::Config;
use super::error::Refusal;
use super::limits::Limits;
use super::logging::Tape;
use super::openai::Templates;
use super::scope::{Addressing, Reach};
use super::shared_memory::{OFF, Regions};
use super::timing::deadline;
use crate::codec;
use crate::engine::generation::Grammars;
use crate::inference::Priority;
use crate::router::graph::Graphs;
use crate::router::{Caller, GraphRoute, Ingress, Repository, Route, Router};
use arc_swap::ArcSwapOption;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Characters of a model's name.
const NAME_CHARS_MAX: usize = 256;

/// Shared by all handlers of both doors.
pub(crate) struct Door {
    pub(crate) router: Router,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) metrics: Arc<dyn Fn() -> String + Send + Sync>,
    pub(crate) repository: Repository,
    pub(crate) graphs: Graphs,
    pub(crate) addressing: Addressing,
    /// The addressing that was made of the last ingress that the router told.
    pub(crate) followed: ArcSwapOption<(Arc<Ingress>, Addressing)>,
    pub(crate) limits: Limits,
    pub(crate) regions: Option<Regions>,
    /// Chat templates that were used last.
    pub(crate) templates: Templates,
    /// Forms of answers that were used last.
    pub(crate) grammars: Grammars,
    pub(crate) config: Config,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Door {
    /// The route of a model, as far as the request may reach.
    pub(crate) fn route(&self, arrival: &Arrival, model: &str) -> Result<Arc<Route>, Refusal> {
        Ok(Arc::clone(self.router.load().find(arrival.reach.scope(), model)?))
    }

    /// How hosts and paths are read while the router tells this of it.
    pub(crate) fn following(&self, ingress: &Arc<Ingress>) -> Arc<(Arc<Ingress>, Addressing)> {
        if let Some(made) = self.followed.load_full().filter(|made| Arc::ptr_eq(&made.0, ingress)) {
            return made;
        }
        let made = Arc::new((Arc::clone(ingress), self.addressing.following(ingress)));
        self.followed.store(Some(Arc::clone(&made)));
        made
    }

    /// The routes a request may reach.
    pub(crate) fn routes(&self, arrival: &Arrival) -> Vec<Arc<Route>> {
        self.router.load().routes(arrival.reach.scope())
    }

    /// The graph that a model's name means: the one of the host, or of the default namespace where no service has the name.
    pub(crate) fn graph(&self, arrival: &Arrival, model: &str) -> Option<Arc<GraphRoute>> {
        match &arrival.reach {
            Reach::Graph(graph) => (*graph.name == *model).then(|| Arc::clone(graph)),
            Reach::Service(_) | Reach::Revision { .. } => None,
            Reach::All => {
                let table = self.router.load();
                table.default_graph(model).filter(|_| table.find(arrival.reach.scope(), model).is_err()).cloned()
            }
        }
    }

    /// The regions of shared memory.
    ///
    /// # Errors
    /// 501 where the extension is off.
    pub(crate) fn regions(&self) -> Result<&Regions, Refusal> {
        self.regions.as_ref().ok_or_else(|| Refusal::not_implemented(OFF))
    }

    /// What the codecs may take on.
    pub(crate) fn codec_limits(&self) -> codec::Limits {
        let Config { json_depth_max, decoded_bytes_max, .. } = self.config;
        codec::Limits { json_depth_max, decoded_bytes_max, ..codec::Limits::default() }
    }

    /// Whether the start is over and every model that the request's host stands for serves.
    pub(crate) fn is_ready(&self, arrival: &Arrival) -> bool {
        let serves = |route: &Arc<Route>| route.metadata().is_ok();
        let started = *self.ready.borrow();
        started
            && match &arrival.reach {
                Reach::All => self.router.load().all().all(serves),
                Reach::Service(route) | Reach::Revision { route, .. } => serves(route),
                Reach::Graph(graph) => graph.target.is_ok(),
            }
    }
}

/// What is known of a request before its body is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// When its head was there.
    pub(crate) at: Instant,
    /// Which models it may reach.
    pub(crate) reach: Reach,
    /// How long its client waits.
    pub(crate) client_timeout: Option<Duration>,
    /// Who it goes before, if its client says so.
    pub(crate) priority: Option<Priority>,
    /// What decides its side where revisions share the requests.
    pub(crate) caller: Caller,
    /// What was heard of a gRPC call of which only its message says whose it is.
    pub(crate) tape: Option<Tape>,
}

impl Arrival {
    /// When a request to this route must be answered.
    pub(crate) fn deadline(&self, route: &Route) -> Instant {
        self.deadline_after(route.timeout_s)
    }

    /// When a request must be answered that may take so many seconds.
    pub(crate) fn deadline_after(&self, timeout_s: u64) -> Instant {
        deadline(self.at, Duration::from_secs(timeout_s), self.client_timeout)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Arrival {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get().cloned().ok_or_else(|| Refusal::internal("the request did not come through the entrance"))
    }
}

/// A model's name in a path, decoded and harmless.
#[derive(Debug)]
pub(crate) struct ModelName(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for ModelName {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Ok(Path(name)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(Refusal::bad_request("the model name is not UTF-8"));
        };
        check_name(&name).map(|()| Self(name))
    }
}

/// A model's name and a version in a path, decoded and harmless.
#[derive(Debug)]
pub(crate) struct ModelVersion {
    pub(crate) model: String,
    pub(crate) version: String,
}

impl<S: Send + Sync> FromRequestParts<S> for ModelVersion {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Ok(Path((model, version))) = Path::<(String, String)>::from_request_parts(parts, state).await else {
            return Err(Refusal::bad_request("the model name or version is not UTF-8"));
        };
        check_name(&model).map(|()| Self { model, version })
    }
}

/// Refuses names that no model can have and that look like an attack.
pub(crate) fn check_name(name: &str) -> Result<(), Refusal> {
    let harmful = name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\']) || name.contains(char::is_control);
    if harmful || name.chars().nth(NAME_CHARS_MAX).is_some() {
        return Err(Refusal::bad_request("no model can have this name"));
    }
    Ok(())
}
