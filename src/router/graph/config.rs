//! What graphs may take: how large, how long, which headers go along; every value with its unit and its reason.

use crate::validate::GraphBounds;
use serde::{Deserialize, Serialize};

/// Bounds and rules of graphs. Every field has a default; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Nodes of one graph.
    pub nodes_max: usize,
    /// Steps of one node.
    pub steps_max: usize,
    /// Nodes one below the other, and graphs that call one another.
    pub depth_max: usize,
    /// Calls that one request to a graph may make in all.
    pub calls_max: u64,
    /// Steps of one Ensemble that run at once; the others wait for their turn.
    pub parallel_max: usize,
    /// Bytes of the answer to a call by `serviceUrl`.
    pub answer_bytes_max: usize,
    /// Seconds until a connection for a call by `serviceUrl` must stand.
    pub connect_timeout_s: u64,
    /// Patterns of the request's header names that go along with calls by `serviceUrl`, as in KServe's `router.headers.propagate`.
    pub propagate_headers: Vec<String>,
}

impl Config {
    /// How large a graph may be.
    #[must_use]
    pub const fn bounds(&self) -> GraphBounds {
        let Self { nodes_max, steps_max, depth_max, calls_max, .. } = *self;
        GraphBounds { nodes_max, steps_max, depth_max, calls_max }
    }
}

impl Default for Config {
    /// Sizes far above what people draw; 128 MiB, the bound of requests; no header, as in KServe.
    fn default() -> Self {
        Self {
            nodes_max: 128,
            steps_max: 128,
            depth_max: 16,
            calls_max: 1024,
            parallel_max: 128,
            answer_bytes_max: 128 << 20,
            connect_timeout_s: 15,
            propagate_headers: Vec::new(),
        }
    }
}
