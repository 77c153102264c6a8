//! Names to something that answers: the one table that the control side writes and the doors read.
//!
//! A lookup is one atomic load and one or two hash look-ups; it never waits for the control side, which
//! swaps a whole new table.

mod ingress;
pub mod logger;
pub mod repository;
pub mod waker;

pub use ingress::Ingress;
pub use logger::{Logbook, Logger, Loggers};
pub use repository::Repository;
pub use waker::Waker;

use crate::inference::{InferenceError, InferenceRequest, InferenceResponse, ModelMetadata};
use crate::pool::ModelHandle;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// Who a request is for, as far as host and path tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// A bare host: the model's name in the path decides, within the default namespace.
    Default,
    /// A KServe host or the path template named a service; only its own model answers.
    Service {
        /// The namespace.
        namespace: &'a str,
        /// The service's name.
        name: &'a str,
    },
}

/// One InferenceService as the doors see it.
#[derive(Debug, Clone)]
pub struct Route {
    /// The namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
    /// The model's name on the wire.
    pub model_name: Arc<str>,
    /// Seconds a request may take.
    pub timeout_s: u64,
    /// Whether v1 requests and answers have the form of KServe's batcher.
    pub batcher_replies: bool,
    /// What answers, or why nothing does.
    pub target: Target,
}

/// What stands behind a route.
#[derive(Debug, Clone)]
pub enum Target {
    /// A warmed revision.
    Ready(ModelHandle),
    /// Loaded before and unloaded since: the first inference wakes it.
    Asleep(Asleep),
    /// Known, but not serving; with the reason in a sentence.
    NotReady(String),
}

/// A model that sleeps: what is known of it, and how to wake it.
#[derive(Debug, Clone)]
pub struct Asleep {
    /// What it said of itself while it was loaded.
    pub metadata: Arc<ModelMetadata>,
    /// Wakes it.
    pub waker: Waker,
}

/// All routes at one moment. Immutable; swapped whole.
#[derive(Debug, Default)]
pub struct RouteTable {
    default_namespace: String,
    /// By namespace, then service name.
    services: HashMap<String, HashMap<String, Arc<Route>>>,
    /// By model name, within the default namespace.
    default_models: HashMap<Arc<str>, Arc<Route>>,
    /// Every route, sorted by namespace and name.
    all: Vec<Arc<Route>>,
}

impl RouteTable {
    /// Builds a table; where two services of the default namespace share a model name, the one that
    /// comes first by service name answers to it.
    #[must_use]
    pub fn new(default_namespace: impl Into<String>, routes: impl IntoIterator<Item = impl Into<Arc<Route>>>) -> Self {
        let default_namespace = default_namespace.into();
        let mut all: Vec<Arc<Route>> = routes.into_iter().map(Into::into).collect();
        all.sort_by(|a, b| (&a.namespace, &a.service).cmp(&(&b.namespace, &b.service)));
        let mut table = Self { default_namespace, ..Self::default() };
        for route in &all {
            table.services.entry(route.namespace.clone()).or_default().insert(route.service.clone(), Arc::clone(route));
            if route.namespace == table.default_namespace {
                table.default_models.entry(Arc::clone(&route.model_name)).or_insert_with(|| Arc::clone(route));
            }
        }
        table.all = all;
        table
    }

    /// The route a request is for.
    ///
    /// # Errors
    /// `ModelNotFound` when no service of that scope has the model.
    pub fn find(&self, scope: Scope<'_>, model: &str) -> Result<&Arc<Route>, InferenceError> {
        let found = match scope {
            Scope::Default => self.default_models.get(model),
            Scope::Service { namespace, name } => self.service(namespace, name).filter(|route| &*route.model_name == model),
        };
        found.ok_or_else(|| InferenceError::ModelNotFound(model.chars().take(256).collect()))
    }

    /// The route of a service by namespace and name.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Route>> {
        self.services.get(namespace)?.get(name)
    }

    /// The routes of a scope, sorted by namespace and name: the default namespace's, or the one service's.
    #[must_use]
    pub fn routes(&self, scope: Scope<'_>) -> Vec<Arc<Route>> {
        match scope {
            Scope::Default => self.all.iter().filter(|route| route.namespace == self.default_namespace).cloned().collect(),
            Scope::Service { namespace, name } => self.service(namespace, name).cloned().into_iter().collect(),
        }
    }

    /// Every route of every namespace.
    #[must_use]
    pub fn all(&self) -> &[Arc<Route>] {
        &self.all
    }
}

impl Route {
    /// The pool that answers now. [`Router::infer`] wakes one that sleeps.
    ///
    /// # Errors
    /// `ModelNotReady` with the reason; a model that sleeps is not ready.
    pub fn ready(&self) -> Result<&ModelHandle, InferenceError> {
        match &self.target {
            Target::Ready(handle) => Ok(handle),
            Target::Asleep(_) => Err(self.not_ready("It is asleep.")),
            Target::NotReady(reason) => Err(self.not_ready(reason)),
        }
    }

    /// What the model says of itself, awake or asleep. Wakes nothing.
    ///
    /// # Errors
    /// `ModelNotReady` with the reason, for a model that would not answer an inference.
    pub fn metadata(&self) -> Result<&Arc<ModelMetadata>, InferenceError> {
        match &self.target {
            Target::Ready(handle) => Ok(handle.metadata()),
            Target::Asleep(asleep) => Ok(&asleep.metadata),
            Target::NotReady(reason) => Err(self.not_ready(reason)),
        }
    }

    fn not_ready(&self, reason: &str) -> InferenceError {
        InferenceError::ModelNotReady { name: self.model_name.to_string(), reason: reason.to_owned() }
    }
}

/// The table's one place, shared by the control side (writes) and the doors (read).
#[derive(Debug, Clone, Default)]
pub struct Router {
    table: Arc<ArcSwap<RouteTable>>,
    loggers: Arc<ArcSwap<Loggers>>,
    ingress: Arc<ArcSwapOption<Ingress>>,
}

impl Router {
    /// The table as it is now. Hold it for one request only: an old table keeps old revisions alive.
    pub fn load(&self) -> arc_swap::Guard<Arc<RouteTable>> {
        self.table.load()
    }

    /// Puts a new table in place; requests from now on see it.
    pub fn swap(&self, table: RouteTable) {
        self.table.store(Arc::new(table));
    }

    /// Whose requests are logged, as it is now.
    pub fn loggers(&self) -> arc_swap::Guard<Arc<Loggers>> {
        self.loggers.load()
    }

    /// Lets these loggers see requests from now on, and no others.
    pub fn set_loggers(&self, loggers: Loggers) {
        self.loggers.store(Arc::new(loggers));
    }

    /// Where services are reached, if that is not what the doors were started with.
    pub fn ingress(&self) -> arc_swap::Guard<Option<Arc<Ingress>>> {
        self.ingress.load()
    }

    /// Lets the doors follow this from now on.
    pub fn follow(&self, ingress: Option<Ingress>) {
        self.ingress.store(ingress.map(Arc::new));
    }

    /// Asks the model behind a route; wakes it when it sleeps, within the deadline.
    ///
    /// `route` becomes the one that answers. A revision that was let go of after its route was found costs the
    /// request nothing: the table is looked at again.
    ///
    /// # Errors
    /// Those of [`ModelHandle::infer`] and of [`Waker::wake`].
    pub async fn infer(
        &self,
        route: &mut Arc<Route>,
        request: InferenceRequest,
        deadline: Instant,
    ) -> Result<InferenceResponse, InferenceError> {
        loop {
            match &route.target {
                Target::Ready(handle) if !handle.is_retired() => return handle.infer(request, deadline).await,
                Target::Ready(_) => {}
                Target::Asleep(asleep) => asleep.waker.wake(&route.model_name, deadline).await?,
                Target::NotReady(reason) => return Err(route.not_ready(reason)),
            }
            *route = self.again(route)?;
        }
    }

    /// The route of the same service as the table has it now.
    fn again(&self, route: &Arc<Route>) -> Result<Arc<Route>, InferenceError> {
        match self.load().service(&route.namespace, &route.service) {
            Some(now) if !Arc::ptr_eq(now, route) => Ok(Arc::clone(now)),
            _ => Err(route.not_ready("It is being unloaded.")),
        }
    }
}
