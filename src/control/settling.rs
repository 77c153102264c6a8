//! Requests go where the spec wants them: what is missing is loaded first, what has no requests any more is drained.

use super::rollout::{Role, Rollout, Stop};
use super::services::Running;
use super::sides::{Fresh, Left, Remembered, Settled};
use crate::observe;
use crate::resolve::storage_uri::StorageUri;
use crate::resolve::traffic::Book;
use tokio::time::Instant;

impl Rollout {
    /// Sends requests to those that are ready now, as far as they are loaded.
    pub(super) async fn settle_ready(&self) {
        let settled = self.mind.services.with_route(&self.key, |service| service.settle(&mut Fresh::default(), false, self.mind.shadows()));
        if let Settled::Done(left) = settled {
            self.clear_up(*left).await;
        }
    }

    /// Sends requests to the revisions that the spec asks for, and loads those that are missing first; whether somebody
    /// waits for the newest one.
    pub(super) async fn settle(&self, mut fresh: Fresh) -> Result<bool, Stop> {
        loop {
            // Swap before drain: a request that reads the table now must find the new pool.
            let (settled, asked_at, commanded) = self.mind.services.with_route(&self.key, |service| {
                let (asked_at, commanded) = (service.woken_at, !service.waiting.is_empty());
                if let Some(latest) = &mut fresh.latest {
                    latest.woken_at = asked_at.map(|_| Instant::now());
                }
                (service.settle(&mut fresh, self.role != Role::Earlier, self.mind.shadows()), asked_at, commanded)
            });
            match settled {
                Settled::Done(left) => {
                    if let Some(asked_at) = asked_at.filter(|_| left.asleep.is_some()) {
                        observe::model_woke(asked_at.elapsed());
                    }
                    self.clear_up(*left).await;
                    return Ok(asked_at.is_some() || commanded);
                }
                Settled::Missing(missing) => {
                    let running = match self.bring_back(&missing).await {
                        Ok(running) => running,
                        Err(Stop::Failed { message, may_pass: false }) if self.has_nothing_but(&fresh) => {
                            tracing::warn!(service = %self.key, %message, "all requests go to the newest revision");
                            self.mind.services.with(&self.key, |service| service.book = Book::default());
                            continue;
                        }
                        Err(stop) => return Err(stop),
                    };
                    let ready = self.mind.services.with(&self.key, |service| service.serving() == Some(&missing.name));
                    if ready && fresh.latest.is_none() { fresh.latest = Some(running) } else { fresh.others.push(running) }
                }
            }
        }
    }

    /// Whether nothing else could answer: to insist on the earlier revision would leave the service without any.
    fn has_nothing_but(&self, fresh: &Fresh) -> bool {
        fresh.latest.is_some() && self.mind.services.with(&self.key, |service| service.running.is_none())
    }

    /// Loads a revision again that is to have requests once more.
    async fn bring_back(&self, missing: &Remembered) -> Result<Running, Stop> {
        let earlier = Self { spec: missing.spec.clone(), role: Role::Earlier, ..self.clone() };
        let made = earlier.make(&missing.name).await.map_err(|stop| match stop {
            Stop::Failed { message, may_pass } => {
                Stop::Failed { message: format!("the earlier revision {} could not be loaded again: {message}", missing.name), may_pass }
            }
            Stop::Superseded => Stop::Superseded,
        })?;
        let in_place = missing.spec.storage.as_ref().is_some_and(StorageUri::has_files_in_place);
        if in_place && made.files != missing.files {
            let message = format!(
                "the model files of the earlier revision {} were replaced, so it cannot have requests again\n\n\
                 hint: keep each version of a model in a file of its own",
                missing.name
            );
            return Err(Stop::Failed { message, may_pass: false });
        }
        Ok(made)
    }

    /// Drains what has no requests any more, and tells those who waited.
    async fn clear_up(&self, left: Left) {
        if let Some(asleep) = left.asleep {
            asleep.sleep.awake();
        }
        for comparing in left.comparing {
            self.mind.compare(comparing);
        }
        for old in left.retired {
            self.mind.drain(old);
        }
        if left.moved {
            self.mind.keep(&self.key).await;
        }
        let shares = self.mind.services.with(&self.key, |service| service.shares.clone());
        if left.moved && shares.len() > 1 {
            let shares: Vec<String> = shares.iter().map(|share| format!("{} {} %", share.revision, share.percent)).collect();
            tracing::info!(service = %self.key, "requests are split: {}", shares.join(", "));
        }
        if left.moved
            && let Some(other) = self.mind.services.namesake(&self.key, &self.spec.model_name)
        {
            tracing::warn!(service = %self.key, %other, model = self.spec.model_name, "two services share a model name; on a bare host the first by name answers, each on its own host");
        }
    }
}
