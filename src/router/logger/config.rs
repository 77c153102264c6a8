//! The bounds of request logging.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How request logs wait and are delivered. A record is one request or one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Records of one service that may wait for its sink; one more is dropped and counted.
    pub service_records_max: usize,
    /// Bytes of the records of one service, those being delivered included.
    pub service_bytes_max: usize,
    /// Bytes of the records of all services together.
    pub bytes_max: usize,
    /// Deliveries of one service at once, as KServe's agent has five workers.
    pub deliveries_max: usize,
    /// Tries of one delivery.
    pub attempts_max: u32,
    /// Milliseconds before the second try; doubles with each further one.
    pub retry_first_ms: u64,
    /// Seconds one try may take.
    pub attempt_timeout_s: u64,
    /// Seconds after which a record that was not delivered is given up.
    pub deadline_s: u64,
    /// Seconds that the end of the daemon waits for what is still to be delivered.
    pub drain_s: u64,
    /// Folders that `file://` sinks must lie in; none allows any.
    pub allowed_roots: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service_records_max: 1000,
            service_bytes_max: 32 << 20,
            bytes_max: 256 << 20,
            deliveries_max: 5,
            attempts_max: 4,
            retry_first_ms: 250,
            attempt_timeout_s: 10,
            deadline_s: 30,
            drain_s: 5,
            allowed_roots: Vec::new(),
        }
    }
}
