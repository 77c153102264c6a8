//! The doors: HTTP with KServe v1 and v2, gRPC with v2, and the pages an operator reads.

mod config;
mod error;
pub mod kube;

pub use config::{ApiKey, Config};

use crate::router::{Repository, Router};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// What the doors are built from.
#[derive(Clone)]
pub struct Doors {
    /// Names to what answers them.
    pub router: Router,
    /// True once every resource found at start was tried.
    pub ready: watch::Receiver<bool>,
    /// Writes all metrics in Prometheus' text form.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Load and unload by hand.
    pub repository: Repository,
    /// The resources in Kubernetes' own shape, below `/api` and `/apis`.
    pub kube: Option<axum::Router>,
    /// Bounds and rules.
    pub config: Config,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors").field("config", &self.config).finish_non_exhaustive()
    }
}
