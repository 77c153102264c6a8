//! What a person hears of a logger in trouble: once when it begins, once when it ends.

use crate::observe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The troubles of one logger.
#[derive(Debug)]
pub(super) struct News {
    /// `namespace/name`.
    service: String,
    /// Records dropped in the burst that goes on.
    burst: AtomicU64,
    failing: AtomicBool,
}

impl News {
    pub(super) const fn new(service: String) -> Self {
        Self { service, burst: AtomicU64::new(0), failing: AtomicBool::new(false) }
    }

    /// The service, as its label in the metrics.
    pub(super) fn service(&self) -> &str {
        &self.service
    }

    /// A record found no room.
    pub(super) fn dropped(&self) {
        observe::logger_dropped(&self.service, "full", 1);
        if self.burst.fetch_add(1, Ordering::AcqRel) == 0 {
            tracing::warn!(service = %self.service, "the request log is full; requests are served and their records dropped");
        }
    }

    /// Nothing waits any more: a burst is over.
    pub(super) fn caught_up(&self) {
        let records = self.burst.swap(0, Ordering::AcqRel);
        if records > 0 {
            tracing::info!(service = %self.service, records, "the request log has room again; so many records were dropped");
        }
    }

    /// The sink took records.
    pub(super) fn delivered(&self, records: u64) {
        observe::logger_delivered(&self.service, records);
        if self.failing.swap(false, Ordering::AcqRel) {
            tracing::info!(service = %self.service, "the request log is delivered again");
        }
    }

    /// The sink did not take records, and they are given up.
    pub(super) fn undelivered(&self, sink: &str, records: u64, error: &str) {
        observe::logger_dropped(&self.service, "undelivered", records);
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::warn!(service = %self.service, sink, error, "the request log cannot be delivered; requests are served all the same");
        }
    }
}
