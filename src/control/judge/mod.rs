//! The judge: watches a canary beside the revision it is to replace, and promotes it or rolls it back.
//!
//! Only requests are moved, never a file: the verdict is remembered for that revision and share, and stands until the spec
//! asks for something else. What is compared: failed requests, time taken, and, where requests are shadowed, answers.

mod decide;
mod drift;

use super::mind::Mind;
use super::services::{Running, Service};
use crate::inference::{InferenceError, InferenceRequest, Priority};
use crate::observe;
use crate::pool::ModelHandle;
use crate::resolve::revision::RevisionName;
use crate::resolve::rollout::JudgeSpec;
use crate::router::shadow::Copied;
use decide::{Compared, Decision, Evidence, Side, decide};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

/// What was decided of a canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// The canary.
    pub(super) revision: RevisionName,
    /// The share that the spec asked for.
    pub(super) percent: Option<u32>,
    /// Whether it has all requests now, or none.
    pub(super) promoted: bool,
    /// Why, in a sentence.
    pub(super) reason: String,
}

/// A canary that is being judged.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) judge: JudgeSpec,
    pub(super) canary: RevisionName,
    stable: RevisionName,
    /// What both had answered when the trial began.
    began: (Answered, Answered),
    compared: Arc<Mutex<Compared>>,
}

/// What a revision answered so far.
#[derive(Debug, Clone, Copy, Default)]
struct Answered {
    good: u64,
    failed: u64,
    good_ns: u64,
}

impl Answered {
    fn of(handle: &ModelHandle) -> Self {
        let seen = handle.statistics().snapshot();
        Self { good: seen.success.count, failed: seen.fail.count, good_ns: seen.success.ns }
    }

    fn since(self, before: Self) -> Side {
        let good = self.good.saturating_sub(before.good);
        let failed = self.failed.saturating_sub(before.failed);
        Side { requests: good + failed, failed, good_time: Duration::from_nanos(self.good_ns.saturating_sub(before.good_ns)) }
    }
}

impl Trial {
    pub(super) fn new(judge: JudgeSpec, canary: &Running, stable: &Running) -> Self {
        let began = (Answered::of(&canary.handle), Answered::of(&stable.handle));
        Self { judge, canary: canary.name.clone(), stable: stable.name.clone(), began, compared: Arc::default() }
    }

    /// Whether requests to that revision are run on the canary as well.
    pub(super) fn shadows(&self, revision: &RevisionName) -> bool {
        self.judge.shadow_percent > 0 && *revision == self.stable
    }

    /// Who runs the copies on the canary.
    pub(super) fn comparing(&self, copies: mpsc::Receiver<Copied>, canary: &Running) -> Comparing {
        let tolerance = self.judge.drift_tolerance.unwrap_or(0.0);
        let timeout = Duration::from_secs(canary.spec.timeout_s);
        Comparing { copies, canary: canary.handle.clone(), compared: Arc::clone(&self.compared), tolerance, timeout }
    }

    fn evidence(&self, canary: &Running, stable: &Running) -> Evidence {
        Evidence {
            canary: Answered::of(&canary.handle).since(self.began.0),
            stable: Answered::of(&stable.handle).since(self.began.1),
            compared: *self.compared.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Service {
    /// Looks at a trial; the verdict, once there is one.
    fn look_at_trial(&mut self) -> Option<Verdict> {
        let trial = self.trial.as_ref()?;
        let evidence = trial.evidence(self.own(&trial.canary)?, self.own(&trial.stable)?);
        let (promoted, reason) = match decide(&evidence, &trial.judge) {
            Decision::Wait => return None,
            Decision::Promote(reason) => (true, reason),
            Decision::RollBack(reason) => (false, reason),
        };
        let verdict = Verdict { revision: trial.canary.clone(), percent: self.rollout.wish.percent, promoted, reason };
        self.trial = None;
        self.verdict = Some(verdict.clone());
        Some(verdict)
    }
}

/// Looks at all trials every so often, for ever.
pub(super) async fn run_judge(mind: Arc<Mind>) {
    let mut tick = tokio::time::interval(mind.config.scaling.tick);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for key in mind.services.tried() {
            let Some(verdict) = mind.services.with_known(&key, Service::look_at_trial).flatten() else { continue };
            let word = if verdict.promoted { "promoted" } else { "rolled_back" };
            tracing::info!(service = %key, canary = %verdict.revision, verdict = word, reason = verdict.reason, "canary judged");
            observe::canary_judged(word);
            // Requests move where all other changes of them are made.
            mind.queue.add(key);
        }
    }
}

/// Runs copies of requests on a canary, one after the other, behind the requests of real callers.
#[derive(Debug)]
pub(super) struct Comparing {
    copies: mpsc::Receiver<Copied>,
    canary: ModelHandle,
    compared: Arc<Mutex<Compared>>,
    tolerance: f64,
    timeout: Duration,
}

impl Comparing {
    /// Ends once no route makes copies any more.
    pub(super) async fn run(mut self) {
        while let Some(copied) = self.copies.recv().await {
            self.compare(copied).await;
        }
    }

    async fn compare(&self, copied: Copied) {
        let request =
            InferenceRequest { inputs: copied.inputs, outputs: copied.outputs, priority: Priority::Low, ..InferenceRequest::default() };
        let found = match self.canary.infer(request, Instant::now() + self.timeout).await {
            Ok(response) => Some(drift::between(&copied.answer, &response.outputs)),
            // That there is no room for copies now says nothing about the canary.
            Err(InferenceError::Overloaded { .. } | InferenceError::ModelNotReady { .. }) => return,
            Err(_) => None,
        };
        let result = self.compared.lock().unwrap_or_else(PoisonError::into_inner).note(found, self.tolerance);
        observe::shadow_compared(result);
    }
}
