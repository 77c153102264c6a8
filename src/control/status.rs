//! From facts to KServe's status: a pure function from what is observed to what a user reads.

use super::ingress::Hosts;
use super::judge::Verdict;
use super::services::{Replicas, Why};
use crate::api::ResourceKey;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::metadata::ObjectMeta;
use crate::api::status::{
    Address, CachedModel, CanaryStatus, ComponentStatus, Condition, ConditionStatus, FailureInfo, InferenceServiceStatus, ModelCopies,
    ModelState, ModelStates, ModelStatus, TrafficTarget, TransitionStatus, condition,
};
use crate::engine::Placement;
use crate::resolve::revision::{RevisionName, RuntimeRef};
use crate::resolve::traffic::{Book, Share};
use crate::store::rfc3339;
use std::time::SystemTime;

/// Conditions of our own, beside KServe's; they never decide `Ready`.
///
/// What the file says now could not be taken over: it is broken, or another file has the name.
pub(super) const MANIFEST_ACCEPTED: &str = "ManifestAccepted";
/// The model is not in memory; the next request loads it.
pub(super) const ASLEEP: &str = "Asleep";
/// A canary is judged, or was.
pub(super) const CANARY_JUDGED: &str = "CanaryJudged";
/// Parts of the spec that are understood and not served yet.
pub(super) const NOT_YET_SERVED: &str = "NotYetServed";
/// Whether a model that asks for a GPU computes on one.
pub(super) const GPU_IN_USE: &str = "GpuInUse";

/// The LocalModelCache of the service's model was deleted while the service uses it.
pub(super) const LOCAL_MODEL_DELETED: &str = "LocalModelDeleted";

/// How far the newest spec of a service is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stage {
    /// Waits for its turn to load.
    Pending,
    /// Is fetched, loaded or warmed up; with a sentence for people.
    Loading(String),
    /// Serves.
    Serving,
    /// Is ready and not in memory: the next request wakes it.
    Asleep(Why),
    /// Could not be fetched or loaded.
    Failed(FailureInfo),
    /// Cannot be served as it stands.
    Invalid(FailureInfo),
    /// Stopped by annotation.
    Stopped,
    /// Unloaded by a client through the model repository.
    Unloaded,
}

/// What is observed of one service.
#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    pub(super) key: &'a ResourceKey,
    pub(super) generation: u64,
    pub(super) mode: DeploymentMode,
    /// The service's own words about itself.
    pub(super) metadata: &'a ObjectMeta,
    pub(super) hosts: &'a Hosts,
    /// Whether labels keep the service inside the cluster.
    pub(super) cluster_local: bool,
    pub(super) stage: Stage,
    pub(super) runtime: Option<&'a RuntimeRef>,
    /// The revision that answers, of this spec or of an earlier one.
    pub(super) serving: Option<String>,
    /// What the cache holds of its model.
    pub(super) cached: Option<CachedModel>,
    /// The newest revision, ready or not.
    pub(super) created: Option<String>,
    /// Which revisions had all requests.
    pub(super) book: Book,
    /// Which revision gets what.
    pub(super) shares: Vec<Share>,
    /// The canary predictors, in Standard mode.
    pub(super) canaries: Vec<CanaryFact>,
    /// What is known of a canary that is judged, or was.
    pub(super) judged: Vec<Judged>,
    pub(super) last_failure: Option<FailureInfo>,
    /// Replicas that are wanted and that there are.
    pub(super) replicas: Replicas,
    /// Why what the file says now was not taken over.
    pub(super) manifest_problem: Option<String>,
    /// Parts of the spec that are not served yet.
    pub(super) not_yet_served: Option<String>,
    /// What happens after the cache of its model was deleted.
    pub(super) local_model_deleted: Option<String>,
    /// Where its model computes.
    pub(super) placement: Placement,
}

/// What is observed of one canary predictor.
#[derive(Debug, Clone)]
pub(super) struct CanaryFact {
    pub(super) name: String,
    pub(super) percent: u32,
    pub(super) stage: Stage,
    /// Whether a revision of it answers, of its newest spec or of an earlier one.
    pub(super) serves: bool,
}

impl CanaryFact {
    fn is_ready(&self) -> bool {
        self.serves && self.stage == Stage::Serving
    }
}

/// How a canary stands before its judge.
#[derive(Debug, Clone)]
pub(super) enum Judged {
    /// That revision is on trial.
    Open(RevisionName),
    Decided(Verdict),
}

/// The status of a service; transition times of conditions that did not change are taken from `before`.
pub(super) fn status_of(facts: &Facts<'_>, before: Option<&InferenceServiceStatus>, now: SystemTime) -> InferenceServiceStatus {
    let mut conditions = conditions(facts);
    keep_transition_times(&mut conditions, before, now);
    let mut status = InferenceServiceStatus {
        observed_generation: i64::try_from(facts.generation).unwrap_or(i64::MAX),
        conditions,
        deployment_mode: facts.mode.name().to_owned(),
        ..InferenceServiceStatus::default()
    };
    if facts.stage == Stage::Stopped {
        return status;
    }
    status.model_status = model_status(facts);
    if let Some(runtime) = facts.runtime {
        let name = if runtime.cluster { &mut status.cluster_serving_runtime_name } else { &mut status.serving_runtime_name };
        name.clone_from(&runtime.name);
    }
    if facts.serving.is_some() {
        status.url = Some(url(facts, &facts.key.name));
        status.address = Some(address(facts, if facts.mode == DeploymentMode::Knative { "" } else { "-predictor" }));
    }
    status.canary_statuses = facts.canaries.iter().map(canary).collect();
    if facts.serving.is_some() || facts.created.is_some() {
        status.components.insert("predictor".to_owned(), predictor(facts));
    }
    status
}

fn url(facts: &Facts<'_>, name: &str) -> String {
    if facts.cluster_local {
        return format!("http://{name}.{}.svc.cluster.local", facts.key.namespace);
    }
    format!("{}://{}", facts.hosts.scheme(), facts.hosts.host(name, facts.metadata, facts.mode))
}

fn address(facts: &Facts<'_>, suffix: &str) -> Address {
    Address { url: Some(format!("http://{}{suffix}.{}.svc.cluster.local", facts.key.name, facts.key.namespace)) }
}

fn predictor(facts: &Facts<'_>) -> ComponentStatus {
    let mut component = ComponentStatus::default();
    if facts.serving.is_some() {
        component.url = Some(url(facts, &format!("{}-predictor", facts.key.name)));
        component.address = Some(address(facts, "-predictor"));
    }
    if facts.mode == DeploymentMode::Standard {
        return component;
    }
    component.latest_created_revision = facts.created.clone().unwrap_or_default();
    let name = |revision: &Option<RevisionName>| revision.as_ref().map(ToString::to_string).unwrap_or_default();
    component.previous_rolledout_revision = name(&facts.book.previous_rolledout);
    component.latest_rolledout_revision = name(&facts.book.latest_rolledout);
    component.latest_ready_revision = facts.serving.clone().unwrap_or_default();
    component.traffic = facts.shares.iter().map(|share| target(facts, share)).collect();
    component
}

fn target(facts: &Facts<'_>, share: &Share) -> TrafficTarget {
    TrafficTarget {
        tag: share.tag.map(|tag| tag.to_string()).unwrap_or_default(),
        revision_name: share.revision.to_string(),
        latest_revision: Some(share.latest),
        percent: Some(i64::from(share.percent)),
        url: share.tag.map(|tag| url(facts, &format!("{tag}-{}-predictor", facts.key.name))),
    }
}

fn canary(fact: &CanaryFact) -> CanaryStatus {
    let (transition_status, target_model_state) = states_of(&fact.stage);
    let active_model_state = if fact.serves { ModelState::Loaded } else { ModelState::Pending };
    let failure = match &fact.stage {
        Stage::Failed(failure) | Stage::Invalid(failure) => Some(failure.clone()),
        _ => None,
    };
    CanaryStatus {
        name: fact.name.clone(),
        ready: fact.is_ready(),
        traffic_percent: i32::try_from(fact.percent).unwrap_or(0),
        model_status: ModelStatus {
            transition_status,
            states: Some(ModelStates { active_model_state, target_model_state }),
            last_failure_info: failure,
            copies: Some(ModelCopies {
                failed_copies: i32::from(matches!(fact.stage, Stage::Failed(_))),
                total_copies: Some(i32::from(fact.serves)),
            }),
            cached: None,
        },
    }
}

fn model_status(facts: &Facts<'_>) -> ModelStatus {
    let (transition_status, target_model_state) = states_of(&facts.stage);
    let active_model_state = match &facts.stage {
        Stage::Asleep(_) => ModelState::Standby,
        _ if facts.serving.is_some() => ModelState::Loaded,
        _ => ModelState::Pending,
    };
    let failed = matches!(facts.stage, Stage::Failed(_));
    ModelStatus {
        transition_status,
        states: Some(ModelStates { active_model_state, target_model_state }),
        last_failure_info: facts.last_failure.clone(),
        copies: Some(ModelCopies { failed_copies: i32::from(failed), total_copies: Some(copies(facts)) }),
        cached: facts.cached.clone(),
    }
}

/// How far the newest spec is, and its model.
const fn states_of(stage: &Stage) -> (TransitionStatus, ModelState) {
    match stage {
        Stage::Pending | Stage::Stopped => (TransitionStatus::InProgress, ModelState::Pending),
        Stage::Loading(_) => (TransitionStatus::InProgress, ModelState::Loading),
        Stage::Serving => (TransitionStatus::UpToDate, ModelState::Loaded),
        Stage::Failed(_) => (TransitionStatus::BlockedByFailedLoad, ModelState::FailedToLoad),
        Stage::Invalid(_) => (TransitionStatus::InvalidSpec, ModelState::FailedToLoad),
        Stage::Asleep(_) | Stage::Unloaded => (TransitionStatus::UpToDate, ModelState::Standby),
    }
}

/// The replicas that answer: none where the model sleeps.
fn copies(facts: &Facts<'_>) -> i32 {
    let ready = i32::try_from(facts.replicas.ready).unwrap_or(i32::MAX);
    match facts.stage {
        Stage::Asleep(_) => 0,
        _ if facts.serving.is_some() => ready.max(1),
        _ => 0,
    }
}

/// All conditions by type, as Knative sorts them.
fn conditions(facts: &Facts<'_>) -> Vec<Condition> {
    let newest = newest(facts);
    let route = if facts.serving.is_some() { holds() } else { Fact { ..newest.clone() } };
    let predictor = match facts.mode {
        DeploymentMode::Standard if facts.serving.is_some() && !matches!(facts.stage, Stage::Invalid(_)) => holds(),
        _ => newest.clone(),
    };
    let mut all = vec![
        deciding(condition::INGRESS_READY, &route),
        deciding(condition::PREDICTOR_READY, &predictor),
        deciding(condition::READY, &both(&predictor, &route)),
        informing(condition::STOPPED, &stopped(facts)),
    ];
    if facts.mode == DeploymentMode::Knative {
        let sum = |fact: &Fact, of: &str| {
            if fact.status == ConditionStatus::True { holds() } else { Fact { reason: format!("{of} not ready"), ..fact.clone() } }
        };
        all.push(informing(condition::PREDICTOR_CONFIGURATION_READY, &newest));
        all.push(informing(condition::PREDICTOR_ROUTE_READY, &route));
        all.push(informing(condition::ROUTES_READY, &sum(&route, condition::PREDICTOR_ROUTE_READY)));
        all.push(informing(condition::LATEST_DEPLOYMENT_READY, &sum(&newest, condition::PREDICTOR_CONFIGURATION_READY)));
    }
    if !facts.canaries.is_empty() {
        all.push(informing(condition::CANARY_PREDICTOR_READY, &canaries_ready(facts)));
    }
    if let Some(judgement) = judgement(&facts.judged) {
        all.push(informing(CANARY_JUDGED, &judgement));
    }
    if let Stage::Asleep(why) = facts.stage {
        all.push(informing(ASLEEP, &asleep(why)));
    }
    if let Some(problem) = &facts.manifest_problem {
        all.push(informing(MANIFEST_ACCEPTED, &fails("ManifestProblem", problem)));
    }
    let told = [(NOT_YET_SERVED, "NotYetServed", &facts.not_yet_served), (LOCAL_MODEL_DELETED, "InUse", &facts.local_model_deleted)];
    for (kind, reason, message) in told {
        if let Some(message) = message.clone() {
            all.push(informing(kind, &Fact { status: ConditionStatus::True, reason: reason.to_owned(), message }));
        }
    }
    all.extend(gpu_in_use(&facts.placement).map(|fact| informing(GPU_IN_USE, &fact)));
    all.sort_by(|a, b| a.kind.cmp(&b.kind));
    all
}

/// Whether a model that asks for a GPU has one; nothing of those that do not ask.
fn gpu_in_use(placement: &Placement) -> Option<Fact> {
    match placement {
        Placement::Cpu => None,
        Placement::Gpu(name) => Some(Fact { message: format!("the model computes on {name}"), ..holds() }),
        Placement::CpuInstead(why) => Some(fails("NoGpu", &format!("the model computes on the CPU: {why}"))),
    }
}

fn canaries_ready(facts: &Facts<'_>) -> Fact {
    let waiting: Vec<&str> = facts.canaries.iter().filter(|canary| !canary.is_ready()).map(|canary| canary.name.as_str()).collect();
    if waiting.is_empty() {
        return Fact { reason: "AllCanariesReady".to_owned(), ..holds() };
    }
    fails("CanariesNotReady", &format!("not ready: `{}`", waiting.join("`, `")))
}

/// How its canaries stand; the reason is that of the first that is undecided, else of the first that was promoted.
fn judgement(judged: &[Judged]) -> Option<Fact> {
    let each: Vec<Fact> = judged.iter().map(judgement_of).collect();
    let first = ["Judging", "Promoted"].iter().find_map(|word| each.iter().find(|fact| fact.reason == *word));
    let message = each.iter().map(|fact| fact.message.as_str()).collect::<Vec<_>>().join("; ");
    first.or(each.first()).map(|fact| Fact { message, ..fact.clone() })
}

fn judgement_of(judged: &Judged) -> Fact {
    match judged {
        Judged::Open(canary) => unknown("Judging", &format!("{canary} is compared with the revision that it is to replace")),
        Judged::Decided(Verdict { revision, promoted, reason, .. }) => {
            let (word, what) = if *promoted { ("Promoted", "takes the requests") } else { ("RolledBack", "has no requests") };
            let message = format!("{revision} {what}: {reason}");
            Fact { status: ConditionStatus::True, reason: word.to_owned(), message }
        }
    }
}

fn asleep(why: Why) -> Fact {
    let (reason, message) = match why {
        Why::Idle => ("ScaledToZero", "nobody asked for it; the next request loads it"),
        Why::Memory => ("MemoryBudget", "other models need the memory; the next request loads it"),
    };
    Fact { status: ConditionStatus::True, reason: reason.to_owned(), message: message.to_owned() }
}

/// Whether something holds, with the reason when it does not.
#[derive(Debug, Clone)]
struct Fact {
    status: ConditionStatus,
    reason: String,
    message: String,
}

fn holds() -> Fact {
    Fact { status: ConditionStatus::True, reason: String::new(), message: String::new() }
}

fn fails(reason: &str, message: &str) -> Fact {
    Fact { status: ConditionStatus::False, reason: reason.to_owned(), message: message.to_owned() }
}

fn unknown(reason: &str, message: &str) -> Fact {
    Fact { status: ConditionStatus::Unknown, reason: reason.to_owned(), message: message.to_owned() }
}

/// Whether the newest spec is ready.
fn newest(facts: &Facts<'_>) -> Fact {
    match &facts.stage {
        Stage::Pending => unknown("Pending", "waiting for its turn to load"),
        Stage::Loading(what) => unknown("Loading", what),
        Stage::Serving | Stage::Asleep(_) => holds(),
        Stage::Failed(failure) => fails(&failure.reason.map(|reason| reason.to_string()).unwrap_or_default(), &failure.message),
        Stage::Invalid(failure) => fails("ReconcileFailed", &failure.message),
        Stage::Stopped => fails("Stopped", "stopped by the annotation `serving.kserve.io/stop`"),
        Stage::Unloaded => fails("Unloaded", "unloaded through the model repository; load it there, or change its file"),
    }
}

fn stopped(facts: &Facts<'_>) -> Fact {
    if facts.stage == Stage::Stopped {
        return Fact { status: ConditionStatus::True, ..newest(facts) };
    }
    fails("", "")
}

/// The first one that does not hold, `False` before `Unknown`.
fn both(predictor: &Fact, route: &Fact) -> Fact {
    let of = |status| [predictor, route].into_iter().find(|fact| fact.status == status);
    of(ConditionStatus::False).or_else(|| of(ConditionStatus::Unknown)).cloned().unwrap_or_else(holds)
}

fn deciding(kind: &str, fact: &Fact) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: fact.status,
        reason: fact.reason.clone(),
        message: fact.message.clone(),
        ..Condition::default()
    }
}

fn informing(kind: &str, fact: &Fact) -> Condition {
    Condition { severity: "Info".to_owned(), ..deciding(kind, fact) }
}

fn keep_transition_times(conditions: &mut [Condition], before: Option<&InferenceServiceStatus>, now: SystemTime) {
    for condition in conditions {
        let old = before.and_then(|before| before.condition(&condition.kind)).filter(|old| old.status == condition.status);
        condition.last_transition_time = old.and_then(|old| old.last_transition_time.clone()).or_else(|| Some(rfc3339(now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;
    use crate::api::status::FailureReason;
    use crate::resolve::traffic::Tag;
    use std::time::{Duration, UNIX_EPOCH};

    fn revision(number: u64) -> RevisionName {
        RevisionName { component: "iris-predictor".to_owned(), number }
    }

    fn share(number: u64, percent: u32, tag: Option<Tag>) -> Share {
        Share { revision: revision(number), latest: tag != Some(Tag::Prev), percent, tag }
    }

    fn check(mode: DeploymentMode, stage: Stage, serving: Option<&str>) -> InferenceServiceStatus {
        check_with(mode, stage, (serving, vec![share(2, 100, None)]), |_| ())
    }

    fn check_with(
        mode: DeploymentMode,
        stage: Stage,
        (serving, shares): (Option<&str>, Vec<Share>),
        change: impl FnOnce(&mut Facts<'_>),
    ) -> InferenceServiceStatus {
        let key = ResourceKey { kind: Kind::InferenceService, namespace: "default".to_owned(), name: "iris".to_owned() };
        let runtime = RuntimeRef { name: "kserve-onnx".to_owned(), cluster: true };
        let mut facts = Facts {
            key: &key,
            generation: 3,
            mode,
            metadata: &ObjectMeta { name: key.name.clone(), namespace: key.namespace.clone(), ..ObjectMeta::default() },
            hosts: &Hosts::of(None, "example.com"),
            cluster_local: false,
            stage,
            runtime: Some(&runtime),
            serving: serving.map(str::to_owned),
            cached: None,
            created: Some("iris-predictor-00002".to_owned()),
            book: Book { latest_rolledout: Some(revision(1)), previous_rolledout: None },
            shares: serving.map(|_| shares).unwrap_or_default(),
            canaries: Vec::new(),
            judged: Vec::new(),
            last_failure: None,
            replicas: Replicas { wanted: 1, ready: 1 },
            manifest_problem: None,
            not_yet_served: None,
            local_model_deleted: None,
            placement: Placement::Cpu,
        };
        change(&mut facts);
        status_of(&facts, None, UNIX_EPOCH)
    }

    fn failure() -> FailureInfo {
        FailureInfo { reason: Some(FailureReason::ModelLoadFailed), message: "no such file".to_owned(), ..FailureInfo::default() }
    }

    fn conditions(status: &InferenceServiceStatus) -> String {
        status.conditions.iter().map(|condition| format!("{}={}", condition.kind, condition.status)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_deleted_cache_of_its_model_is_told_and_keeps_nothing_from_being_ready() {
        let deleted = |facts: &mut Facts<'_>| facts.local_model_deleted = Some("LocalModelCache/flowers was deleted".to_owned());
        let status = check_with(DeploymentMode::Standard, Stage::Serving, (Some("iris-predictor-00002"), Vec::new()), deleted);
        let told = status.condition(LOCAL_MODEL_DELETED).unwrap();
        assert_eq!((told.status, told.reason.as_str(), told.severity.as_str()), (ConditionStatus::True, "InUse", "Info"));
        assert_eq!(status.condition(condition::READY).unwrap().status, ConditionStatus::True);
    }

    #[test]
    fn a_model_that_asks_for_a_gpu_tells_where_it_computes_and_is_ready_all_the_same() {
        let status = |placement: Placement| {
            let place = |facts: &mut Facts<'_>| facts.placement = placement;
            check_with(DeploymentMode::Standard, Stage::Serving, (Some("iris-predictor-00002"), Vec::new()), place)
        };
        let without = status(Placement::CpuInstead("no NVIDIA driver".to_owned()));
        let told = without.condition(GPU_IN_USE).unwrap();
        assert_eq!((told.status, told.reason.as_str(), told.severity.as_str()), (ConditionStatus::False, "NoGpu", "Info"));
        assert_eq!(told.message, "the model computes on the CPU: no NVIDIA driver");
        assert_eq!(without.condition(condition::READY).unwrap().status, ConditionStatus::True);
        let with = status(Placement::Gpu("NVIDIA H200".to_owned()));
        assert_eq!(with.condition(GPU_IN_USE).unwrap().message, "the model computes on NVIDIA H200");
        assert!(status(Placement::Cpu).condition(GPU_IN_USE).is_none());
    }

    #[test]
    fn a_serving_service_has_kserves_conditions_and_addresses() {
        let status = check(DeploymentMode::Knative, Stage::Serving, Some("iris-predictor-00002"));
        assert_eq!(
            conditions(&status),
            "IngressReady=True LatestDeploymentReady=True PredictorConfigurationReady=True PredictorReady=True PredictorRouteReady=True \
             Ready=True RoutesReady=True Stopped=False"
        );
        assert_eq!(status.url.as_deref(), Some("http://iris.default.example.com"));
        assert_eq!(status.address.unwrap().url.as_deref(), Some("http://iris.default.svc.cluster.local"));
        let predictor = &status.components["predictor"];
        assert_eq!(predictor.url.as_deref(), Some("http://iris-predictor.default.example.com"));
        assert_eq!(predictor.traffic[0].revision_name, "iris-predictor-00002");
        assert_eq!(status.cluster_serving_runtime_name, "kserve-onnx");
        assert_eq!(status.model_status.states.unwrap().target_model_state, ModelState::Loaded);
    }

    #[test]
    fn standard_mode_has_its_own_hosts_and_no_revisions() {
        let status = check(DeploymentMode::Standard, Stage::Serving, Some("iris-predictor-00002"));
        assert_eq!(conditions(&status), "IngressReady=True PredictorReady=True Ready=True Stopped=False");
        assert_eq!(status.url.as_deref(), Some("http://iris-default.example.com"));
        assert_eq!(status.address.unwrap().url.as_deref(), Some("http://iris-predictor.default.svc.cluster.local"));
        assert_eq!(status.components["predictor"].latest_created_revision, "");
    }

    #[test]
    fn a_failed_load_with_an_old_revision_is_blocked_and_names_both_revisions() {
        let status = check(DeploymentMode::Knative, Stage::Failed(failure()), Some("iris-predictor-00001"));
        assert_eq!(status.model_status.transition_status, TransitionStatus::BlockedByFailedLoad);
        assert_eq!(
            status.model_status.states,
            Some(ModelStates { active_model_state: ModelState::Loaded, target_model_state: ModelState::FailedToLoad })
        );
        assert_eq!(status.components["predictor"].latest_ready_revision, "iris-predictor-00001");
        assert_eq!(status.components["predictor"].latest_created_revision, "iris-predictor-00002");
        assert_eq!(status.condition(condition::PREDICTOR_READY).unwrap().message, "no such file");
        assert!(!status.is_ready());
        assert_eq!(status.condition(condition::INGRESS_READY).unwrap().status, ConditionStatus::True);
        assert!(
            check(DeploymentMode::Standard, Stage::Failed(failure()), Some("iris-predictor-00001")).is_ready(),
            "a deployment stays available"
        );
    }

    #[test]
    fn a_sleeping_service_is_ready_and_says_why_it_sleeps() {
        for (why, reason) in [(Why::Idle, "ScaledToZero"), (Why::Memory, "MemoryBudget")] {
            let status = check(DeploymentMode::Knative, Stage::Asleep(why), Some("iris-predictor-00002"));
            assert!(status.is_ready());
            assert_eq!(status.condition(ASLEEP).unwrap().reason, reason);
            assert_eq!(status.url.as_deref(), Some("http://iris.default.example.com"));
            let model = status.model_status;
            assert_eq!(model.states.unwrap().active_model_state, ModelState::Standby);
            assert_eq!((model.transition_status, model.copies.unwrap().total_copies), (TransitionStatus::UpToDate, Some(0)));
        }
    }

    #[test]
    fn an_invalid_spec_is_a_failed_reconcile() {
        let status = check(DeploymentMode::Knative, Stage::Invalid(failure()), None);
        assert_eq!(status.model_status.transition_status, TransitionStatus::InvalidSpec);
        assert_eq!(status.condition(condition::PREDICTOR_READY).unwrap().reason, "ReconcileFailed");
        assert!(status.url.is_none());
    }

    #[test]
    fn a_stopped_service_has_little_to_say() {
        let status = check(DeploymentMode::Knative, Stage::Stopped, None);
        assert_eq!(status.condition(condition::STOPPED).unwrap().status, ConditionStatus::True);
        assert_eq!(status.condition(condition::READY).unwrap().reason, "Stopped");
        assert!(status.components.is_empty() && status.model_status == ModelStatus::default());
    }

    #[test]
    fn a_split_tells_each_target_with_the_address_of_its_tag() {
        let shares = vec![share(2, 10, Some(Tag::Latest)), share(1, 90, Some(Tag::Prev))];
        let status = check_with(DeploymentMode::Knative, Stage::Serving, (Some("iris-predictor-00002"), shares), |_| ());
        let predictor = &status.components["predictor"];
        assert_eq!(predictor.latest_rolledout_revision, "iris-predictor-00001");
        let [latest, prev] = predictor.traffic.as_slice() else { panic!("{predictor:?}") };
        assert_eq!((latest.tag.as_str(), latest.latest_revision, latest.percent), ("latest", Some(true), Some(10)));
        assert_eq!(latest.url.as_deref(), Some("http://latest-iris-predictor.default.example.com"));
        assert_eq!((prev.tag.as_str(), prev.latest_revision, prev.percent), ("prev", Some(false), Some(90)));
        assert_eq!(prev.url.as_deref(), Some("http://prev-iris-predictor.default.example.com"));
    }

    #[test]
    fn canary_predictors_are_ready_once_all_of_them_are() {
        let fact = |name: &str, stage| CanaryFact { name: name.to_owned(), percent: 10, serves: stage == Stage::Serving, stage };
        let with = |canaries: Vec<CanaryFact>| {
            let serving = (Some("iris-predictor-00001"), vec![]);
            check_with(DeploymentMode::Standard, Stage::Serving, serving, |facts| facts.canaries = canaries)
        };
        let ready = |status: &InferenceServiceStatus| status.condition(condition::CANARY_PREDICTOR_READY).map(|told| told.reason.clone());
        let both = with(vec![fact("a", Stage::Serving), fact("b", Stage::Failed(failure()))]);
        assert_eq!(ready(&both).as_deref(), Some("CanariesNotReady"));
        assert_eq!(both.canary_statuses.iter().map(|canary| canary.ready).collect::<Vec<_>>(), [true, false]);
        assert_eq!(both.canary_statuses[1].model_status.last_failure_info, Some(failure()));
        assert!(both.is_ready(), "the stable predictor serves");
        assert_eq!(ready(&with(vec![fact("a", Stage::Serving)])).as_deref(), Some("AllCanariesReady"));
        assert_eq!(ready(&with(vec![])), None);
    }

    #[test]
    fn a_verdict_is_told_with_its_reason() {
        let verdict = Verdict { revision: revision(2), percent: Some(10), promoted: false, reason: "3 of 3 failed".to_owned() };
        let serving = (Some("iris-predictor-00002"), vec![]);
        let status = check_with(DeploymentMode::Knative, Stage::Serving, serving, |facts| facts.judged = vec![Judged::Decided(verdict)]);
        let told = status.condition(CANARY_JUDGED).unwrap();
        assert_eq!((told.reason.as_str(), told.severity.as_str()), ("RolledBack", "Info"));
        assert_eq!(told.message, "iris-predictor-00002 has no requests: 3 of 3 failed");
    }

    #[test]
    fn transition_times_stay_until_the_status_of_the_condition_changes() {
        let mut conditions = vec![deciding(condition::READY, &holds()), deciding(condition::PREDICTOR_READY, &fails("", ""))];
        keep_transition_times(&mut conditions, None, UNIX_EPOCH);
        let before = InferenceServiceStatus { conditions: conditions.clone(), ..InferenceServiceStatus::default() };
        conditions[1].status = ConditionStatus::True;
        keep_transition_times(&mut conditions, Some(&before), UNIX_EPOCH + Duration::from_mins(1));
        assert_eq!(conditions[0].last_transition_time.as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(conditions[1].last_transition_time.as_deref(), Some("1970-01-01T00:01:00Z"));
    }
}
