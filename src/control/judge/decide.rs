//! What follows from the evidence: promote the canary, roll it back, or wait. Pure.
//!
//! Shares of failed and of differing requests are put to Wald's sequential test: after each request it says "no worse",
//! "worse" or "not yet", and is wrong in one of a hundred trials, however little traffic there is. A bad canary is
//! found after a few failures, a good one has to answer a number of requests first.

use super::drift::Difference;
use crate::pool::latencies::LatencyCounts;
use crate::resolve::rollout::JudgeSpec;
use std::time::Duration;

/// How often the test may take one for the other.
const ERROR_RATE: f64 = 0.01;
/// What is taken for the stable revision's share of failures before it answered anything: a half in fifty.
const FAILED_BEFORE: (f64, f64) = (0.5, 50.0);
/// Differences in time below this are not the model's.
const LATENCY_NOISE: Duration = Duration::from_millis(1);
/// A ratio beyond this is none.
const TAIL_RATIO_MAX: f64 = 1e6;
/// Of a thousand requests, those that make the tail.
pub(super) const TAIL_PER_MILLE: u64 = 10;
/// The share of requests beyond the tail's bound that a good canary has, and that is too much.
const TAIL_SHARES: (f64, f64) = (0.01, 0.05);
/// Of the share of differing answers that is too much, the part that a good canary may have.
const DRIFT_GOOD: f64 = 0.2;

/// What was seen of two revisions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Evidence {
    pub(super) canary: Side,
    pub(super) stable: Side,
    pub(super) compared: Compared,
    pub(super) tail: Option<Tail>,
}

/// How long the slowest requests of both took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// Requests that the canary answered, and those of them that took longer than they may.
    pub(super) answered: u64,
    pub(super) beyond: u64,
    /// What all but one of a hundred took on either.
    pub(super) canary: Duration,
    pub(super) stable: Duration,
}

impl Tail {
    /// From how long requests took since the trial began; nothing while one of them answered none.
    pub(super) fn of(canary: &LatencyCounts, stable: &LatencyCounts, bounds: &JudgeSpec) -> Option<Self> {
        let usual = stable.all_but(TAIL_PER_MILLE)?;
        let most = usual.mul_f64(bounds.tail_ratio.min(TAIL_RATIO_MAX)).max(usual + LATENCY_NOISE);
        Some(Self { answered: canary.count(), beyond: canary.above(most), canary: canary.all_but(TAIL_PER_MILLE)?, stable: usual })
    }
}

/// What one revision answered to its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Side {
    pub(super) requests: u64,
    /// Those of them without an answer.
    pub(super) failed: u64,
    /// What all answered ones took together.
    pub(super) good_time: Duration,
}

impl Side {
    fn mean(&self) -> Option<f64> {
        let good = self.requests - self.failed;
        (good > 0).then(|| self.good_time.as_secs_f64() / count(good))
    }
}

/// What was seen of shadowed requests.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Compared {
    pub(super) requests: u64,
    /// Those that the canary did not answer.
    pub(super) failed: u64,
    /// Those whose answer was another one.
    pub(super) differing: u64,
    /// The largest relative difference of a number.
    pub(super) largest: f64,
    pub(super) labels: u64,
    pub(super) labels_differing: u64,
}

impl Compared {
    /// Takes one more request in, with what was found, or without where it failed; what came of it, in one word.
    pub(super) fn note(&mut self, found: Option<Difference>, tolerance: f64) -> &'static str {
        self.requests += 1;
        let Some(found) = found else {
            self.failed += 1;
            return "failed";
        };
        self.largest = self.largest.max(found.largest);
        self.labels += found.labels;
        self.labels_differing += found.labels_differing;
        let differs = found.largest > tolerance || found.labels_differing > 0;
        self.differing += u64::from(differs);
        if differs { "differs" } else { "same" }
    }
}

/// What to do with a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is not enough to go by.
    Wait,
    /// It gets all requests, for this reason.
    Promote(String),
    /// It gets none, for this reason.
    RollBack(String),
}

/// What a sequential test says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Good,
    Bad,
    Open,
}

/// What follows from the evidence.
pub(super) fn decide(seen: &Evidence, bounds: &JudgeSpec) -> Decision {
    let tests = [errors(seen, bounds), latency(seen, bounds), tail(seen, bounds), drift(seen, bounds)];
    if let Some((_, reason)) = tests.iter().find(|(test, _)| *test == Test::Bad) {
        return Decision::RollBack(reason.clone());
    }
    if tests.iter().any(|(test, _)| *test == Test::Open) {
        return Decision::Wait;
    }
    Decision::Promote(tests.into_iter().map(|(_, reason)| reason).filter(|reason| !reason.is_empty()).collect::<Vec<_>>().join("; "))
}

/// Failed requests of both; those of shadowed requests count as the canary's own.
fn errors(seen: &Evidence, bounds: &JudgeSpec) -> (Test, String) {
    let (failed, requests) = (seen.canary.failed + seen.compared.failed, seen.canary.requests + seen.compared.requests);
    let (assumed, of) = FAILED_BEFORE;
    let usual = ((count(seen.stable.failed) + assumed) / (count(seen.stable.requests) + of)).min(0.95);
    let reason = format!(
        "{failed} of {requests} requests failed on the canary, {} of {} on the stable revision",
        seen.stable.failed, seen.stable.requests
    );
    let enough = requests >= bounds.requests && seen.stable.requests >= bounds.requests;
    match sequential(failed, requests, (usual, (usual + bounds.error_margin).min(0.99))) {
        Test::Good if !enough => (Test::Open, reason),
        test => (test, reason),
    }
}

/// How long both took on average, once both answered enough. A canary that no caller reaches has no time of its own.
fn latency(seen: &Evidence, bounds: &JudgeSpec) -> (Test, String) {
    if seen.canary.requests < bounds.requests || seen.stable.requests < bounds.requests {
        return (if seen.canary.requests == 0 { Test::Good } else { Test::Open }, String::new());
    }
    let (Some(canary), Some(stable)) = (seen.canary.mean(), seen.stable.mean()) else { return (Test::Good, String::new()) };
    let reason = format!("a request took {:.3} ms on the canary, {:.3} ms on the stable revision", canary * 1e3, stable * 1e3);
    let slower = canary > stable * bounds.latency_ratio && canary > stable + LATENCY_NOISE.as_secs_f64();
    (if slower { Test::Bad } else { Test::Good }, reason)
}

/// How long the slowest of a hundred took, once both answered enough: a mean hides a few that wait for ages.
fn tail(seen: &Evidence, bounds: &JudgeSpec) -> (Test, String) {
    let enough = seen.canary.requests >= bounds.requests && seen.stable.requests >= bounds.requests;
    let Some(tail) = seen.tail.filter(|_| enough) else { return (Test::Good, String::new()) };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let reason =
        format!("99 of a hundred took at most {:.3} ms on the canary, {:.3} ms on the stable revision", ms(tail.canary), ms(tail.stable));
    match sequential(tail.beyond, tail.answered, TAIL_SHARES) {
        Test::Bad => (Test::Bad, reason),
        Test::Good | Test::Open => (Test::Good, reason),
    }
}

/// How many answers were other ones.
fn drift(seen: &Evidence, bounds: &JudgeSpec) -> (Test, String) {
    let Compared { requests, failed, differing, largest, labels, labels_differing } = seen.compared;
    let answered = requests - failed;
    let labels = if labels > 0 { format!(", {labels_differing} of {labels} labels differ") } else { String::new() };
    let reason = format!("{differing} of {answered} compared answers differ (by up to {largest:.3} of a number{labels})");
    if bounds.drift_tolerance.is_none() {
        return (Test::Good, if answered > 0 { reason } else { String::new() });
    }
    (sequential(differing, answered, (bounds.drift_share * DRIFT_GOOD, bounds.drift_share)), reason)
}

/// Wald's sequential probability ratio test of a share: no more than `good`, or `bad` and more?
///
/// Source: A. Wald, "Sequential Tests of Statistical Hypotheses" (1945).
fn sequential(hits: u64, trials: u64, (good, bad): (f64, f64)) -> Test {
    let bad = bad.clamp(good, 0.999);
    let evidence = count(hits) * (bad / good).ln() + count(trials - hits) * ((1.0 - bad) / (1.0 - good)).ln();
    let bound = ((1.0 - ERROR_RATE) / ERROR_RATE).ln();
    match evidence {
        evidence if evidence >= bound => Test::Bad,
        evidence if evidence <= -bound => Test::Good,
        _ => Test::Open,
    }
}

#[expect(clippy::cast_precision_loss, reason = "requests are far fewer than 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(requests: u64, failed: u64, mean_ms: u64) -> Side {
        Side { requests, failed, good_time: Duration::from_millis(mean_ms) * u32::try_from(requests - failed).unwrap() }
    }

    fn seen(canary: Side, stable: Side) -> Evidence {
        Evidence { canary, stable, ..Evidence::default() }
    }

    fn decided(evidence: &Evidence) -> &'static str {
        decided_by(evidence, JudgeSpec::default())
    }

    fn decided_by(evidence: &Evidence, bounds: JudgeSpec) -> &'static str {
        match decide(evidence, &bounds) {
            Decision::Wait => "wait",
            Decision::Promote(_) => "promote",
            Decision::RollBack(_) => "roll back",
        }
    }

    #[test]
    fn a_canary_that_fails_no_more_and_takes_no_longer_is_promoted_once_both_answered_enough() {
        assert_eq!(decided(&seen(side(100, 0, 5), side(900, 0, 5))), "promote");
        assert_eq!(decided(&seen(side(99, 0, 5), side(900, 0, 5))), "wait");
        assert_eq!(decided(&seen(side(900, 0, 5), side(99, 0, 5))), "wait");
        assert_eq!(decided(&Evidence::default()), "wait");
    }

    #[test]
    fn a_bad_canary_is_found_after_a_few_requests() {
        assert_eq!(decided(&seen(side(3, 3, 5), side(30, 0, 5))), "roll back");
        assert_eq!(decided(&seen(side(1, 1, 5), side(30, 0, 5))), "wait", "one failure proves nothing");
    }

    #[test]
    fn failures_that_the_stable_revision_has_as_well_are_not_the_canarys() {
        assert_eq!(decided(&seen(side(20, 4, 5), side(200, 40, 5))), "wait");
        assert_eq!(decided(&seen(side(2000, 400, 5), side(20_000, 4000, 5))), "promote");
        assert_eq!(decided(&seen(side(2000, 600, 5), side(20_000, 4000, 5))), "roll back");
    }

    #[test]
    fn a_canary_that_takes_much_longer_is_rolled_back_and_noise_is_none() {
        assert_eq!(decided(&seen(side(100, 0, 16), side(900, 0, 10))), "roll back");
        assert_eq!(decided(&seen(side(100, 0, 14), side(900, 0, 10))), "promote");
        assert_eq!(decided(&seen(side(100, 0, 1), side(900, 0, 0))), "promote", "a millisecond");
        assert_eq!(decided(&seen(side(20, 0, 1000), side(20, 0, 1))), "wait", "few requests say little about time");
    }

    /// So many requests of 10 ms, and so many of 100 ms.
    fn times(usual: u64, slow: u64) -> LatencyCounts {
        let mut counts = LatencyCounts::default();
        (0..usual).for_each(|_| counts.add(Duration::from_millis(10)));
        (0..slow).for_each(|_| counts.add(Duration::from_millis(100)));
        counts
    }

    #[test]
    fn a_canary_whose_slowest_wait_for_ages_is_rolled_back_though_its_mean_is_fine() {
        let bounds = JudgeSpec::default();
        let tried = |usual: u64, slow: u64, stable: &LatencyCounts| {
            let tail = Tail::of(&times(usual, slow), stable, &bounds);
            Evidence { tail, ..seen(side(usual + slow, 0, 14), side(1000, 0, 10)) }
        };
        assert_eq!(decided(&tried(197, 3, &times(1000, 0))), "promote", "three of two hundred may be");
        assert_eq!(decided(&tried(188, 12, &times(1000, 0))), "roll back");
        assert_eq!(decided(&tried(200, 0, &times(1000, 0))), "promote");
        assert_eq!(decided(&tried(188, 12, &times(940, 60))), "promote", "the stable revision has the same tail");
        let Decision::RollBack(reason) = decide(&tried(188, 12, &times(1000, 0)), &bounds) else { panic!() };
        assert!(reason.starts_with("99 of a hundred took at most 1") && reason.contains(" ms on the canary, 1"), "{reason}");
    }

    #[test]
    fn differing_answers_count_only_where_a_tolerance_was_given() {
        let compared = Compared { requests: 200, differing: 200, largest: 2.0, ..Compared::default() };
        let evidence = Evidence { compared, ..seen(side(100, 0, 5), side(900, 0, 5)) };
        assert_eq!(decided(&evidence), "promote");
        let strict = JudgeSpec { drift_tolerance: Some(0.1), ..JudgeSpec::default() };
        assert_eq!(decided_by(&evidence, strict), "roll back");
        let few = Evidence { compared: Compared { requests: 200, differing: 1, ..compared }, ..evidence };
        assert_eq!(decided_by(&few, strict), "promote");
        assert_eq!(decided_by(&seen(side(100, 0, 5), side(900, 0, 5)), strict), "wait", "nothing was compared yet");
    }

    #[test]
    fn a_dark_launch_is_judged_by_its_shadow_alone() {
        let compared = Compared { requests: 150, ..Compared::default() };
        let dark = Evidence { compared, ..seen(Side::default(), side(1500, 0, 5)) };
        assert_eq!(decided(&dark), "promote");
        let failing = Evidence { compared: Compared { requests: 5, failed: 4, ..compared }, ..dark };
        assert_eq!(decided(&failing), "roll back");
    }

    #[test]
    fn the_reason_says_what_was_seen() {
        let Decision::RollBack(reason) = decide(&seen(side(3, 3, 5), side(30, 0, 5)), &JudgeSpec::default()) else { panic!() };
        assert_eq!(reason, "3 of 3 requests failed on the canary, 0 of 30 on the stable revision");
    }

    #[test]
    fn a_compared_request_is_the_same_differs_or_failed() {
        let mut compared = Compared::default();
        let found = |largest, labels_differing| Some(Difference { largest, labels: 1, labels_differing });
        assert_eq!(compared.note(found(0.05, 0), 0.1), "same");
        assert_eq!(compared.note(found(0.2, 0), 0.1), "differs");
        assert_eq!(compared.note(found(0.0, 1), 0.1), "differs");
        assert_eq!(compared.note(None, 0.1), "failed");
        assert_eq!((compared.requests, compared.failed, compared.differing), (4, 1, 2));
    }
}
