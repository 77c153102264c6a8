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
use crate::pool::latencies::LatencyCounts;
use crate::resolve::revision::RevisionName;
use crate::resolve::rollout::JudgeSpec;
use crate::router::shadow::Copied;
use decide::{Compared, Decision, Evidence, Side, Tail, decide};
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
    /// The share that the spec asks for.
    percent: Option<u32>,
    /// What both had answered when the trial began.
    began: [Answered; 2],
    compared: Arc<Mutex<Compared>>,
}

/// What a revision answered so far.
#[derive(Debug, Clone, Default)]
struct Answered {
    good: u64,
    failed: u64,
    good_ns: u64,
    times: LatencyCounts,
}

impl Answered {
    fn of(handle: &ModelHandle) -> Self {
        let seen = handle.statistics().snapshot();
        let times = handle.statistics().latencies();
        Self { good: seen.success.count, failed: seen.fail.count, good_ns: seen.success.ns, times }
    }

    fn since(&self, before: &Self) -> Side {
        let good = self.good.saturating_sub(before.good);
        let failed = self.failed.saturating_sub(before.failed);
        Side { requests: good + failed, failed, good_time: Duration::from_nanos(self.good_ns.saturating_sub(before.good_ns)) }
    }
}

impl Trial {
    pub(super) fn new(judge: JudgeSpec, percent: Option<u32>, canary: &Running, stable: &Running) -> Self {
        let began = [canary, stable].map(|running| Answered::of(&running.handle));
        Self { judge, canary: canary.name.clone(), stable: stable.name.clone(), percent, began, compared: Arc::default() }
    }

    /// Whether it asks the same question as another one: what was seen goes on to count.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let question = |trial: &Self| (trial.judge, trial.percent, trial.canary.clone(), trial.stable.clone());
        question(self) == question(other)
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
        let [began, stable_began] = &self.began;
        let (canary, stable) = (Answered::of(&canary.handle), Answered::of(&stable.handle));
        Evidence {
            tail: Tail::of(&canary.times.since(&began.times), &stable.times.since(&stable_began.times), &self.judge),
            canary: canary.since(began),
            stable: stable.since(stable_began),
            compared: *self.compared.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Service {
    /// Looks at its trials; the verdicts on those that are over.
    fn look_at_trials(&mut self) -> Vec<Verdict> {
        let verdicts: Vec<Verdict> = self.trials.iter().filter_map(|trial| self.look_at(trial)).collect();
        for verdict in &verdicts {
            self.trials.retain(|trial| trial.canary != verdict.revision);
            self.verdicts.retain(|old| old.revision != verdict.revision);
            self.verdicts.push(verdict.clone());
        }
        verdicts
    }

    fn look_at(&self, trial: &Trial) -> Option<Verdict> {
        let evidence = trial.evidence(self.own(&trial.canary)?, self.own(&trial.stable)?);
        let (promoted, reason) = match decide(&evidence, &trial.judge) {
            Decision::Wait => return None,
            Decision::Promote(reason) => (true, reason),
            Decision::RollBack(reason) => (false, reason),
        };
        Some(Verdict { revision: trial.canary.clone(), percent: trial.percent, promoted, reason })
    }
}

/// Looks at all trials every so often, for ever.
pub(super) async fn run_judge(mind: Arc<Mind>) {
    let mut tick = tokio::time::interval(mind.config.scaling.tick);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for key in mind.services.tried() {
            let verdicts = mind.services.with_known(&key, Service::look_at_trials).unwrap_or_default();
            for verdict in &verdicts {
                let word = if verdict.promoted { "promoted" } else { "rolled_back" };
                tracing::info!(service = %key, canary = %verdict.revision, verdict = word, reason = verdict.reason, "canary judged");
                observe::canary_judged(word);
            }
            if !verdicts.is_empty() {
                // Requests move where all other changes of them are made.
                mind.queue.add(key);
            }
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
