//! The revisions of one service that are loaded at once, and which of them gets which requests.
//!
//! [`Service::settle`] puts the requests where the spec wants them, or names the revision that must be loaded first: until
//! every revision that is to have a share or a tag is warm, nothing moves.

use super::judge::{Comparing, Trial, Verdict};
use super::model_files::ModelFiles;
use super::services::{Asleep, Retired, Running, Service};
use super::status::{CanaryFact, Judged, Stage};
use crate::resolve::canary::Canary;
use crate::resolve::revision::{RevisionName, RevisionSpec};
use crate::resolve::rollout::JudgeSpec;
use crate::resolve::storage_uri::StorageUri;
use crate::resolve::traffic::{self, Book, Latest, Share, Tag, Wish};
use crate::router::shadow::Bounds;
use crate::router::{Route, Shadow, Split, Target};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What roads depend on beside the shares: the sticky header, and the judge.
pub(super) type Settings = (Option<Arc<str>>, Option<JudgeSpec>);

/// A revision that is not loaded and may be asked for again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) name: RevisionName,
    pub(super) spec: RevisionSpec,
    /// The model's files when they were loaded.
    pub(super) files: ModelFiles,
}

/// A canary predictor of `spec.canary`, in Standard mode.
#[derive(Debug, Clone)]
pub(super) struct CanarySide {
    pub(super) name: String,
    pub(super) percent: u32,
    pub(super) min_replicas: u32,
    /// The revision that serves, of this spec or of an earlier one.
    pub(super) revision: Option<RevisionName>,
    pub(super) stage: Stage,
}

/// Revisions that were loaded just now and have no requests yet.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// What the newest spec asks for.
    pub(super) latest: Option<Running>,
    pub(super) others: Vec<Running>,
}

/// What came of a look at a service's requests.
#[derive(Debug)]
pub(super) enum Settled {
    /// They go where the spec wants them.
    Done(Box<Left>),
    /// This revision must be loaded first.
    Missing(Box<Remembered>),
}

/// What is left to do once requests go elsewhere.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// To be drained.
    pub(super) retired: Vec<Retired>,
    /// Those who wait for it are to look again.
    pub(super) asleep: Option<Asleep>,
    /// To be compared from now on.
    pub(super) comparing: Vec<Comparing>,
    /// Whether requests move.
    pub(super) moved: bool,
}

impl Service {
    /// Sends the requests to the revisions that the spec asks for, of those that are loaded; `fresh` ones become the
    /// service's own. Nothing changes as long as one is missing.
    pub(super) fn settle(&mut self, fresh: &mut Fresh, is_newest: bool, shadows: Bounds) -> Settled {
        let Some(ready) = self.ready(fresh) else { return Settled::Done(Box::default()) };
        let (book, shares) = self.wanted(&ready, is_newest, fresh);
        if self.sleeps_through(&ready, &shares, fresh) {
            (self.book, self.shares) = (book, shares);
            let road = self.route.clone();
            let label = |share: &Share| Some((label_of(share.tag?, &self.asleep.as_ref()?.spec.service), road.clone()?));
            self.labels = self.shares.iter().filter_map(label).collect();
            return Settled::Done(Box::default());
        }
        let missing = shares.iter().find(|share| self.loaded(&share.revision, fresh).is_none());
        if let Some(remembered) = missing.and_then(|share| self.recall(&share.revision)) {
            return Settled::Missing(Box::new(remembered));
        }
        self.book = book;
        Settled::Done(Box::new(self.put_in_place(&ready, shares, fresh, shadows)))
    }

    /// The newest revision that is ready.
    fn ready(&self, fresh: &Fresh) -> Option<RevisionName> {
        fresh.latest.as_ref().map(|running| &running.name).or_else(|| self.serving()).cloned()
    }

    /// What is remembered, and who gets what.
    fn wanted(&self, ready: &RevisionName, is_newest: bool, fresh: &Fresh) -> (Book, Vec<Share>) {
        if self.canaries.is_empty() {
            // Where the newest spec was not looked at, its percentage is not for what is ready.
            let (book, shares) = traffic::settle(&self.book, Latest { ready, is_newest }, self.wish(ready));
            let known = |share: &Share| self.loaded(&share.revision, fresh).is_some() || self.recall(&share.revision).is_some();
            if shares.iter().all(known) {
                return (book, shares);
            }
            // Nobody knows that revision any more: there is nothing to go back to.
            return traffic::settle(&Book::default(), Latest { ready, is_newest }, Wish { percent: None, ..self.rollout.wish });
        }
        (self.book.clone(), self.wanted_beside(ready, fresh))
    }

    /// The shares of the canary predictors that are ready, and of the stable one, which has the rest: less where one was rolled
    /// back, and none where one was promoted.
    fn wanted_beside(&self, ready: &RevisionName, fresh: &Fresh) -> Vec<Share> {
        let ready_canary = |canary: &CanarySide| {
            let revision = canary.revision.clone().filter(|revision| self.loaded(revision, fresh).is_some())?;
            let is_out = self.verdict_on(&revision).is_some_and(|verdict| !verdict.promoted);
            Some(Share { revision, latest: false, percent: if is_out { 0 } else { canary.percent }, tag: None })
        };
        let mut canaries: Vec<Share> = self.canaries.iter().filter_map(ready_canary).collect();
        let mut rest = 100 - canaries.iter().map(|share| share.percent).sum::<u32>().min(100);
        let is_promoted = |share: &&mut Share| self.verdict_on(&share.revision).is_some_and(|verdict| verdict.promoted);
        if let Some(promoted) = canaries.iter_mut().find(is_promoted) {
            promoted.percent += std::mem::take(&mut rest);
        }
        let stable = Share { revision: ready.clone(), latest: true, percent: rest, tag: None };
        // The canaries come first: a sticky caller of theirs stays when the stable's share grows.
        canaries.into_iter().chain([stable]).collect()
    }

    /// What the spec asks for, or what was decided of this very revision.
    fn wish(&self, ready: &RevisionName) -> Wish {
        match self.verdict_on(ready) {
            Some(verdict) => Wish { percent: Some(if verdict.promoted { 100 } else { 0 }), ..self.rollout.wish },
            None => self.rollout.wish,
        }
    }

    /// What was decided of a revision, as long as the spec asks for the same share.
    pub(super) fn verdict_on(&self, revision: &RevisionName) -> Option<&Verdict> {
        self.verdicts.iter().find(|verdict| verdict.revision == *revision && verdict.percent == self.asked_percent(revision))
    }

    /// The share that the spec asks for of a revision that is judged.
    fn asked_percent(&self, revision: &RevisionName) -> Option<u32> {
        let canary = self.canaries.iter().find(|canary| canary.revision.as_ref() == Some(revision));
        canary.map_or(self.rollout.wish.percent, |canary| Some(canary.percent))
    }

    /// Forgets the verdicts that answer a question that the spec asks no more: another percentage is another one.
    pub(super) fn keep_verdicts(&mut self) {
        let verdicts = std::mem::take(&mut self.verdicts);
        self.verdicts = verdicts.into_iter().filter(|verdict| verdict.percent == self.asked_percent(&verdict.revision)).collect();
    }

    /// Whether more than one revision is to be loaded once that one is ready.
    pub(super) fn wants_several(&self, ready: &RevisionName) -> bool {
        let (_, shares) = self.wanted(ready, true, &Fresh::default());
        !self.canaries.is_empty() || shares.iter().any(|share| share.revision != *ready)
    }

    /// Whether all requests are for one that sleeps, and may go on sleeping.
    fn sleeps_through(&self, ready: &RevisionName, shares: &[Share], fresh: &Fresh) -> bool {
        let only = shares.iter().all(|share| share.revision == *ready);
        only && self.canaries.is_empty() && fresh.latest.is_none() && self.asleep.as_ref().is_some_and(|asleep| asleep.name == *ready)
    }

    /// A revision that is loaded.
    fn loaded<'a>(&'a self, name: &RevisionName, fresh: &'a Fresh) -> Option<&'a Running> {
        self.own(name).or_else(|| fresh.latest.iter().chain(&fresh.others).find(|running| running.name == *name))
    }

    /// A revision that is loaded and in its place.
    pub(super) fn own(&self, name: &RevisionName) -> Option<&Running> {
        self.running.iter().chain(&self.beside).find(|running| running.name == *name)
    }

    /// A revision that can be loaded again.
    fn recall(&self, name: &RevisionName) -> Option<Remembered> {
        let asleep = self.asleep.as_ref().filter(|asleep| asleep.name == *name);
        let asleep = asleep.map(|asleep| Remembered { name: name.clone(), spec: asleep.spec.clone(), files: asleep.files });
        asleep.or_else(|| self.remembered.iter().find(|remembered| remembered.name == *name).cloned())
    }

    fn put_in_place(&mut self, ready: &RevisionName, shares: Vec<Share>, fresh: &mut Fresh, shadows: Bounds) -> Left {
        let arrived = fresh.latest.is_some() || !fresh.others.is_empty();
        if fresh.latest.is_some() {
            self.attempt = None;
            self.woken_at = None;
        }
        let own = self.running.take().into_iter().chain(self.beside.drain(..));
        let loaded: Vec<Running> = own.chain(fresh.latest.take()).chain(fresh.others.drain(..)).collect();
        let wanted = |running: &Running| running.name == *ready || shares.iter().any(|share| share.revision == running.name);
        let (stay, leave): (Vec<Running>, Vec<Running>) = loaded.into_iter().partition(wanted);
        let (latest, beside) = stay.into_iter().partition(|running| running.name == *ready);
        (self.running, self.beside) = (Vec::into_iter(latest).next(), beside);
        self.remember(&leave);
        let moved = arrived || !leave.is_empty() || shares != self.shares || !self.is_routed();
        let settings = (self.rollout.sticky_header.clone(), self.rollout.judge);
        let mut left = Left { moved, asleep: self.asleep.take(), ..Left::default() };
        if moved || self.settings != settings {
            self.settings = settings;
            self.shares = shares;
            left.comparing = self.lay_roads(shadows);
        }
        left.retired = leave.into_iter().map(|running| Retired { running }).collect();
        left
    }

    /// Makes the routes anew.
    fn lay_roads(&mut self, shadows: Bounds) -> Vec<Comparing> {
        let mut comparing = Vec::new();
        self.try_canaries();
        let mut sides: Vec<(Arc<Route>, u32)> = Vec::new();
        for (running, percent) in self.live() {
            let mut road = Arc::clone(&running.route);
            let trials: Vec<&Trial> = self.trials.iter().filter(|trial| trial.shadows(&running.name)).collect();
            if let Some(first) = trials.first() {
                let (shadow, copies) = Shadow::new(Arc::clone(&road), first.judge.shadow_percent, trials.len(), shadows);
                let compare = |(trial, copies): (&&Trial, _)| Some(trial.comparing(copies, self.own(&trial.canary)?));
                comparing.extend(trials.iter().zip(copies).filter_map(compare));
                road = Arc::new(Route { target: Target::Shadowed(shadow), ..(*road).clone() });
            }
            sides.push((road, percent));
        }
        self.labels = self.labels();
        self.route = Some(match sides.as_slice() {
            [(only, _)] => Arc::clone(only),
            _ => Arc::new(shared(Split::new(sides, self.rollout.sticky_header.clone()))),
        });
        comparing
    }

    /// Revisions with a share, in the order of the shares; two shares of one revision are one.
    fn live(&self) -> Vec<(&Running, u32)> {
        let mut live: Vec<(&Running, u32)> = Vec::new();
        for share in self.shares.iter().filter(|share| share.percent > 0) {
            match live.iter_mut().find(|(running, _)| running.name == share.revision) {
                Some((_, percent)) => *percent += share.percent,
                None => live.extend(self.own(&share.revision).map(|running| (running, share.percent))),
            }
        }
        live
    }

    /// Routes to single revisions: `latest-iris` and `prev-iris` by tag, `iris-v2` by a canary's name.
    fn labels(&self) -> Vec<(Arc<str>, Arc<Route>)> {
        let tagged = self.shares.iter().filter_map(|share| {
            let (tag, running) = (share.tag?, self.own(&share.revision)?);
            Some((label_of(tag, &running.spec.service), Arc::clone(&running.route)))
        });
        let named = self.canaries.iter().filter_map(|canary| {
            let running = self.own(canary.revision.as_ref()?)?;
            Some((format!("{}-{}", running.spec.service, canary.name).into(), Arc::clone(&running.route)))
        });
        tagged.chain(named).collect()
    }

    /// Keeps what is needed to load revisions again that may be asked for.
    fn remember(&mut self, leaving: &[Running]) {
        let known =
            leaving.iter().map(|running| Remembered { name: running.name.clone(), spec: running.spec.clone(), files: running.files });
        let slept =
            self.asleep.iter().map(|asleep| Remembered { name: asleep.name.clone(), spec: asleep.spec.clone(), files: asleep.files });
        let known: Vec<Remembered> = known.chain(slept).collect();
        self.remembered.retain(|old| !known.iter().any(|new| new.name == old.name));
        self.remembered.extend(known);
        let book = &self.book;
        self.remembered.retain(|remembered| book.names(&remembered.name));
    }

    /// Takes everything that runs out, and its routes with it.
    pub(super) fn retire_all(&mut self) -> Vec<Retired> {
        let loaded: Vec<Running> = self.running.take().into_iter().chain(self.beside.drain(..)).collect();
        self.remember(&loaded);
        self.route = None;
        self.trials.clear();
        self.labels.clear();
        self.shares.clear();
        loaded.into_iter().map(|running| Retired { running }).collect()
    }

    /// Forgets which revisions had requests: what comes next is a first one.
    pub(super) fn forget(&mut self) {
        self.book = Book::default();
        self.verdicts.clear();
        self.remembered.clear();
        self.canaries.clear();
    }

    /// Takes a canary that runs this very spec out of those beside, to be the stable predictor without a load.
    pub(super) fn adopt(&mut self, spec: &RevisionSpec) -> Option<Running> {
        // In Knative mode every change of the model is a new revision, also one back to an earlier model.
        let is_canary = |running: &Running| running.name.component != format!("{}-predictor", spec.service);
        let at = self.beside.iter().position(|running| running.spec == *spec && is_canary(running))?;
        let running = self.beside.remove(at);
        if spec.storage.as_ref().is_some_and(StorageUri::has_files_in_place) {
            self.watched.insert(String::new(), (running.model.path().to_owned(), running.files));
        }
        if let Some(canary) = self.canaries.iter_mut().find(|canary| canary.revision.as_ref() == Some(&running.name)) {
            canary.revision = None;
        }
        Some(running)
    }

    /// Takes over which canaries the spec has now; those of the same name go on.
    pub(super) fn name_canaries(&mut self, canaries: &[Canary]) {
        let before = std::mem::take(&mut self.canaries);
        let side = |canary: &Canary| {
            let old = before.iter().find(|old| old.name == canary.name);
            CanarySide {
                name: canary.name.clone(),
                percent: canary.percent,
                min_replicas: canary.min_replicas,
                revision: old.and_then(|old| old.revision.clone()),
                stage: old.map_or(Stage::Pending, |old| old.stage.clone()),
            }
        };
        self.canaries = canaries.iter().map(side).collect();
        self.watched.retain(|whose, _| whose.is_empty() || canaries.iter().any(|canary| canary.name == *whose));
    }

    /// The canary of that name.
    pub(super) fn canary(&mut self, name: &str) -> Option<&mut CanarySide> {
        self.canaries.iter_mut().find(|canary| canary.name == name)
    }

    /// What the status tells of its canary predictors.
    pub(super) fn canary_facts(&self) -> Vec<CanaryFact> {
        let fact = |canary: &CanarySide| CanaryFact {
            name: canary.name.clone(),
            percent: canary.percent,
            stage: canary.stage.clone(),
            serves: canary.revision.as_ref().is_some_and(|revision| self.own(revision).is_some()),
        };
        self.canaries.iter().map(fact).collect()
    }

    /// What the status tells of its judge.
    pub(super) fn judged(&self) -> Vec<Judged> {
        let canaries = self.canaries.iter().filter_map(|canary| canary.revision.as_ref()).chain(self.serving());
        let told = |revision: &RevisionName| {
            let open = self.trials.iter().any(|trial| trial.canary == *revision).then(|| Judged::Open(revision.clone()));
            open.or_else(|| Some(Judged::Decided(self.verdict_on(revision)?.clone())))
        };
        canaries.filter_map(told).collect()
    }

    /// Tries each canary that nothing is decided of against the revision that it is to replace; what was seen of one that is on
    /// trial already goes on to count.
    fn try_canaries(&mut self) {
        let wanted: Vec<Trial> = self.new_trials().unwrap_or_default();
        let mut before = std::mem::take(&mut self.trials);
        let mut kept = |new: Trial| match before.iter().position(|old| old.is_like(&new)) {
            Some(at) => before.swap_remove(at),
            None => new,
        };
        self.trials = wanted.into_iter().map(&mut kept).collect();
    }

    /// With `canaryTrafficPercent` the newest revision is the canary, with `spec.canary` every other one is.
    fn new_trials(&self) -> Option<Vec<Trial>> {
        let judge = self.rollout.judge?;
        let latest = self.shares.iter().find(|share| share.latest)?;
        let others = self.shares.iter().filter(|share| share.revision != latest.revision);
        let pairs: Vec<(&Share, &Share)> = match self.canaries.as_slice() {
            [] => others.take(1).map(|stable| (latest, stable)).collect(),
            // Where a canary has all of its requests, there is nothing to compare others with.
            _ if latest.percent == 0 => Vec::new(),
            _ => others.map(|canary| (canary, latest)).collect(),
        };
        let undecided = |(canary, stable): (&Share, &Share)| {
            let is_open = self.verdict_on(&canary.revision).is_none();
            let trial = Trial::new(judge, self.asked_percent(&canary.revision), self.own(&canary.revision)?, self.own(&stable.revision)?);
            is_open.then_some(trial)
        };
        Some(pairs.into_iter().filter_map(undecided).collect())
    }
}

/// The route of a service whose requests are split: what is said of it is what its largest side says.
fn shared(split: Split) -> Route {
    let main = Route::clone(split.main());
    Route { target: Target::Split(split), ..main }
}

/// The label of a tag, as it stands in front of a namespace.
fn label_of(tag: Tag, service: &str) -> Arc<str> {
    format!("{tag}-{service}").into()
}
