//! Names to something that answers: the one table that the control side writes and the doors read.
//!
//! A lookup is one atomic load and one or two hash look-ups; it never waits for the control side, which
//! swaps a whole new table.

pub mod graph;
mod ingress;
pub mod logger;
pub mod repository;
pub mod shadow;
pub mod split;
pub mod table;
pub mod waker;
pub(crate) mod work;

pub use graph::GraphRoute;
pub use ingress::Ingress;
pub use logger::{Logbook, Logger, Loggers};
pub use repository::Repository;
pub use shadow::Shadow;
pub use split::{Caller, Split};
pub use table::{Roads, RouteTable};
pub use waker::Waker;

use crate::inference::{InferenceError, InferenceRequest, InferenceResponse, ModelMetadata};
use crate::pool::ModelHandle;
use arc_swap::{ArcSwap, ArcSwapOption};
use graph::Propagation;
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
    /// A KServe host or path named one revision of a service.
    Tagged {
        /// The namespace.
        namespace: &'a str,
        /// The label in front of the host: the tag or variant, and the service's name, e.g. `latest-iris`.
        label: &'a str,
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
    /// Several warmed revisions that share the requests.
    Split(Split),
    /// A warmed revision, some of whose requests are run on another one as well.
    Shadowed(Shadow),
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

impl Route {
    /// The pool that answers now; where several share the requests, the one with the largest share.
    /// [`Router::infer`] wakes one that sleeps.
    ///
    /// # Errors
    /// `ModelNotReady` with the reason; a model that sleeps is not ready.
    pub fn ready(&self) -> Result<&ModelHandle, InferenceError> {
        match &self.target {
            Target::Ready(handle) => Ok(handle),
            Target::Split(split) => split.main().ready(),
            Target::Shadowed(shadow) => shadow.shown().ready(),
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
            Target::Split(split) => split.main().metadata(),
            Target::Shadowed(shadow) => shadow.shown().metadata(),
            Target::Asleep(asleep) => Ok(&asleep.metadata),
            Target::NotReady(reason) => Err(self.not_ready(reason)),
        }
    }

    /// The route that answers this request: where several revisions share the requests, the drawn one's.
    #[must_use]
    pub fn drawn(self: Arc<Self>, caller: &Caller) -> Arc<Self> {
        match &self.target {
            Target::Split(split) => Arc::clone(split.draw(caller)),
            _ => self,
        }
    }

    /// The routes of the revisions behind it, each leading to one; itself where there is but one.
    #[must_use]
    pub fn revisions(self: &Arc<Self>) -> Vec<Arc<Self>> {
        match &self.target {
            Target::Split(split) => split.routes().cloned().collect(),
            _ => vec![Arc::clone(self)],
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
    propagation: Arc<ArcSwapOption<Propagation>>,
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

    /// Which headers go along with the calls of graphs, if that is not what they were started with.
    fn propagation(&self) -> arc_swap::Guard<Option<Arc<Propagation>>> {
        self.propagation.load()
    }

    /// Lets headers whose names fit these patterns go along with the calls of graphs from now on. Patterns are read, and
    /// those that are none are told, only where they are others than before.
    pub fn propagate(&self, patterns: Option<&[String]>) {
        let is_same = match (&*self.propagation(), patterns) {
            (Some(now), Some(patterns)) => now.is_of(patterns),
            (now, patterns) => now.is_none() && patterns.is_none(),
        };
        if is_same {
            return;
        }
        self.propagation.store(patterns.map(|patterns| Arc::new(Propagation::new(patterns))));
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
                Target::Split(split) => {
                    *route = Arc::clone(split.draw(&Caller::default()));
                    continue;
                }
                Target::Shadowed(shadow) if !shadow.is_retired() => return shadow.infer(request, deadline).await,
                Target::Ready(_) | Target::Shadowed(_) => {}
                Target::Asleep(asleep) => asleep.waker.wake(&route.model_name, deadline).await?,
                Target::NotReady(reason) => return Err(route.not_ready(reason)),
            }
            *route = self.again(route)?;
        }
    }

    /// The model behind a route itself, for those who ask it in another way than by tensors; wakes it when it sleeps,
    /// within the deadline.
    ///
    /// `route` becomes the one that answers. What is asked this way has no shadow.
    ///
    /// # Errors
    /// `ModelNotReady`, and those of [`Waker::wake`].
    pub async fn awake(&self, route: &mut Arc<Route>, deadline: Instant) -> Result<ModelHandle, InferenceError> {
        loop {
            let drawn = match &route.target {
                Target::Ready(handle) if !handle.is_retired() => return Ok(handle.clone()),
                Target::Split(split) => Some(Arc::clone(split.draw(&Caller::default()))),
                Target::Shadowed(shadow) if !shadow.is_retired() => Some(Arc::clone(shadow.shown())),
                Target::Ready(_) | Target::Shadowed(_) => None,
                Target::Asleep(asleep) => {
                    asleep.waker.wake(&route.model_name, deadline).await?;
                    None
                }
                Target::NotReady(reason) => return Err(route.not_ready(reason)),
            };
            *route = match drawn {
                Some(drawn) => drawn,
                None => self.again(route)?,
            };
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
