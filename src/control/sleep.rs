//! Putting models to sleep and waking them: for want of requests, for want of memory, and because somebody asks.

use super::memory::{Reservation, resident_bytes};
use super::mind::Mind;
use super::services::{Loaded, Why};
use crate::api::{Kind, ResourceKey};
use crate::observe;
use crate::resolve::revision::RevisionName;
use crate::router::waker::Ask;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Between two looks for models that nobody needs any more: a request that ends tells nobody of it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A model that may be put to sleep.
struct Candidate {
    key: ResourceKey,
    revision: RevisionName,
    bytes: u64,
    used_at: Instant,
}

impl Mind {
    /// Unloads a revision that nobody needs now; its service stays ready, and the next request wakes it. Whether
    /// it came to that.
    pub(super) fn put_to_sleep(&self, key: &ResourceKey, revision: &RevisionName, why: Why) -> bool {
        let retired = self.services.with_route(key, |service| service.fall_asleep(revision, why, &self.asks));
        let Some(retired) = retired else { return false };
        tracing::info!(service = %key, %revision, reason = why.name(), "model put to sleep; the next request loads it");
        observe::replicas(&retired.running.spec.model_name, 0, 0);
        self.drain(retired);
        self.say_again(key);
        true
    }

    /// Takes bytes for a model of that service. Where they are not left, those that nobody used for longest are put
    /// to sleep first; where all are busy, waits until one is not. Loads that wait do so in line.
    ///
    /// Cancel safe: a dropped future takes nothing.
    pub(super) async fn make_room(&self, key: &ResourceKey, bytes: u64) -> Reservation {
        let _in_line = self.memory.line.lock().await;
        loop {
            let freed = self.memory.freed();
            tokio::pin!(freed);
            // Listening before looking: bytes may be given back in between.
            freed.as_mut().enable();
            let resident = resident_bytes();
            self.put_least_used_to_sleep(key, self.memory.missing(bytes, resident));
            if !self.memory.must_wait(bytes, resident)
                && let Some(reservation) = self.memory.take(bytes)
            {
                return reservation;
            }
            // Over or not, it looks again.
            let _ = timeout(LOOK_AGAIN, freed).await;
        }
    }

    fn put_least_used_to_sleep(&self, key: &ResourceKey, mut missing: u64) {
        if missing == 0 {
            return;
        }
        let mut candidates = self.candidates(key);
        candidates.sort_by_key(|candidate| candidate.used_at);
        for candidate in candidates {
            if missing == 0 {
                return;
            }
            if self.put_to_sleep(&candidate.key, &candidate.revision, Why::Memory) {
                missing = missing.saturating_sub(candidate.bytes);
            }
        }
    }

    /// What could be put to sleep for the sake of another service.
    fn candidates(&self, other_than: &ResourceKey) -> Vec<Candidate> {
        let free = |loaded: &Loaded| loaded.key != *other_than && !loaded.stays && loaded.running.is_idle();
        let candidate = |Loaded { key, running, .. }: Loaded| Candidate {
            key,
            bytes: running.memory.bytes(),
            used_at: running.handle.demand().used_at,
            revision: running.name,
        };
        self.services.loaded().into_iter().filter(free).map(candidate).collect()
    }
}

/// Hands what requests ask of sleeping models to the reconcile of their service.
pub(super) async fn run_asks(mind: Arc<Mind>, mut asks: mpsc::Receiver<Ask>) {
    while let Some(Ask { namespace, service: name }) = asks.recv().await {
        let key = ResourceKey { kind: Kind::InferenceService, namespace, name };
        let sleeps = mind.services.with_known(&key, |service| {
            if service.asleep.is_some() {
                service.woken_at = Some(Instant::now());
            }
            service.asleep.is_some()
        });
        // One that is awake again has told those who wait already.
        if sleeps == Some(true) {
            mind.queue.add(key);
        }
    }
}
