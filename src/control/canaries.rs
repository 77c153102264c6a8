//! The canary predictors of `spec.canary`: each is brought up beside the stable one, and a broken one costs nobody else.

use super::queue::Outcome;
use super::rollout::{Role, Rollout, Stop};
use super::services::Service;
use super::sides::Fresh;
use super::status::Stage;
use crate::api::Resource;
use crate::api::status::{FailureInfo, FailureReason};
use crate::observe;
use crate::place::Place;
use crate::resolve::canary::{Canary, canaries_of};
use crate::resolve::revision::RevisionName;
use crate::store::rfc3339;
use std::time::SystemTime;

impl Rollout {
    /// Brings up the canary predictors of the spec, once the stable one is there.
    pub(super) async fn canaries(&self) -> Outcome {
        let Resource::InferenceService(service) = &self.stored.defaulted else { return Outcome::Done };
        if self.role != Role::Newest {
            return Outcome::Done;
        }
        let mut outcome = Outcome::Done;
        for canary in canaries_of(service) {
            match self.canary(&canary).await {
                Ok(next) => outcome = sooner(outcome, next),
                Err(Stop::Superseded) => return Outcome::Done,
                Err(Stop::Failed { message, may_pass }) => {
                    let failed = (FailureReason::ModelLoadFailed, self.stored.place.clone());
                    self.canary_failed(&canary.name, failed, message);
                    outcome = sooner(outcome, if may_pass { Outcome::Retry } else { Outcome::Done });
                }
            }
        }
        outcome
    }

    async fn canary(&self, canary: &Canary) -> Result<Outcome, Stop> {
        let spec = match super::inference_service::resolve_alone(&self.mind, &self.stored, &canary.service) {
            Ok(spec) => spec,
            Err(error) => {
                let place = self.stored.locate(&canary.field(error.field));
                self.canary_failed(&canary.name, (error.reason, place), error.to_string());
                return Ok(Outcome::Done);
            }
        };
        let side = Self { spec, role: Role::Canary(canary.name.clone()), ..self.clone() };
        match side.canary_files().await {
            Some(true) => {}
            Some(false) => return Ok(Outcome::After(super::rollout::QUIET)),
            None => side.bring_up_canary(&canary.name).await?,
        }
        side.say(Stage::Serving);
        Ok(Outcome::Done)
    }

    /// Whether the canary's revision is what is asked for: `false` while its files are being written, nothing where it
    /// is not.
    async fn canary_files(&self) -> Option<bool> {
        let Role::Canary(name) = &self.role else { return None };
        let running = self.mind.services.with(&self.key, |service| {
            let revision = service.canary(name)?.revision.clone()?;
            service.own(&revision).cloned()
        });
        let running = running.filter(|running| running.spec == self.spec)?;
        self.files_are_those_of(&running).await
    }

    async fn bring_up_canary(&self, name: &str) -> Result<(), Stop> {
        let component = format!("{}-{name}-predictor", self.spec.service);
        let revision = self.mind.services.with(&self.key, |service| service.next_name(component));
        let running = self.make(&revision).await?;
        let before = self.mind.services.with(&self.key, |service| set_revision(service, name, Some(revision.clone())));
        let settled = self.settle(Fresh { latest: None, others: vec![running] }).await;
        if settled.is_err() {
            self.mind.services.with(&self.key, |service| set_revision(service, name, before));
        }
        settled.map(|_| ())
    }

    fn canary_failed(&self, name: &str, (reason, place): (FailureReason, Place), message: String) {
        tracing::warn!(service = %self.key, canary = name, error = %message, "the canary predictor does not serve");
        observe::model_load_failed();
        let time = Some(rfc3339(SystemTime::now()));
        let failure = FailureInfo { location: place.to_string(), reason: Some(reason), message, time, ..FailureInfo::default() };
        let role = Role::Canary(name.to_owned());
        Self { role, ..self.clone() }.say(Stage::Failed(failure));
    }
}

fn set_revision(service: &mut Service, name: &str, revision: Option<RevisionName>) -> Option<RevisionName> {
    let canary = service.canary(name)?;
    std::mem::replace(&mut canary.revision, revision)
}

/// What is to be done first.
fn sooner(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Outcome::After(time), _) | (_, Outcome::After(time)) => Outcome::After(time),
        (Outcome::Retry, _) | (_, Outcome::Retry) => Outcome::Retry,
        (Outcome::Done, Outcome::Done) => Outcome::Done,
    }
}
