//! The scaler: every tick it looks at what each service is asked for, gives it replicas, and lets it sleep.
//!
//! A service that can have but one replica on this machine and may not sleep is passed over.

use super::autoscale::{Averages, Hpa, Kpa, Rules, Windows};
use super::mind::Mind;
use super::replicas::Size;
use super::services::{Loaded, Replicas, Running, Why};
use crate::api::ResourceKey;
use crate::api::component::ScaleMetric;
use crate::observe;
use crate::pool::demand::Sample;
use crate::resolve::revision::{RevisionName, RevisionSpec};
use crate::resolve::scale::{ScaleDefaults, ScaleSpec, Scaler};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How services are scaled that do not say, and what no service says.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    /// Between two looks.
    pub tick: Duration,
    /// How long a model stays after nothing was asked of it for a whole stable window.
    pub grace: Duration,
    /// How many times its replicas a service may grow to in one look.
    pub up_rate: f64,
    /// To which part of its replicas a service may shrink in one look.
    pub down_rate: f64,
    /// What a service gets that does not say.
    pub defaults: ScaleDefaults,
}

impl Default for Scaling {
    /// Knative's.
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(2),
            grace: Duration::from_secs(30),
            up_rate: 1000.0,
            down_rate: 2.0,
            defaults: ScaleDefaults::default(),
        }
    }
}

/// A revision of a service.
type RevisionKey = (ResourceKey, RevisionName);

/// One running revision, as the scaler remembers it.
struct Scaled {
    since: Duration,
    last: Sample,
    run_seconds: f64,
    windows: Windows,
    brain: Brain,
    /// Since when none are wanted.
    zero_since: Option<Duration>,
    ready: u32,
}

enum Brain {
    Kpa(Kpa),
    Hpa(Hpa),
    Fixed,
}

/// What comes of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Replicas(Replicas),
    Sleep,
}

/// Looks at all services every tick, for ever.
pub(super) async fn run_scaler(mind: Arc<Mind>) {
    let (began, mut scaled) = (Instant::now(), BTreeMap::new());
    let mut tick = tokio::time::interval(mind.config.scaling.tick);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        look_at_all(&mind, &mut scaled, began.elapsed());
    }
}

fn look_at_all(mind: &Mind, scaled: &mut BTreeMap<RevisionKey, Scaled>, now: Duration) {
    let all = mind.services.loaded();
    let of = |loaded: &Loaded| (loaded.key.clone(), loaded.running.name.clone());
    let known: BTreeSet<RevisionKey> = all.iter().map(of).collect();
    scaled.retain(|key, _| known.contains(key));
    for loaded in &all {
        let Loaded { key, running, scale, .. } = loaded;
        let size = Size::of(&running.spec, mind.config.workers_max);
        let Some(scale) = scale.as_ref().filter(|scale| size.replicas_max() > 1 || scale.min == 0) else { continue };
        let entry = scaled.entry(of(loaded)).or_insert_with(|| Scaled::new(running, scale, size, now));
        if !entry.brain.is_of(scale.scaler) {
            *entry = Scaled::new(running, scale, size, now);
        }
        match entry.look(now, running, scale, (size, &mind.config.scaling)) {
            Step::Replicas(replicas) => apply(mind, loaded, (size, replicas)),
            // Those who share requests stay, whatever they are asked for.
            Step::Sleep if !loaded.alone => {}
            Step::Sleep => {
                if mind.put_to_sleep(key, &running.name, Why::Idle) {
                    scaled.remove(&of(loaded));
                }
            }
        }
    }
}

/// Sets the bounds of the pool, and says so where something changed.
fn apply(mind: &Mind, loaded: &Loaded, (size, replicas): (Size, Replicas)) {
    let Loaded { key, running, main, .. } = loaded;
    if !main {
        // The status tells the replicas of the newest revision.
        running.handle.set_workers_max(size.runs(replicas.ready));
        running.handle.set_waiting_max(size.waiting(replicas.ready, mind.config.queue_max));
        return;
    }
    let before = mind.services.with_known(key, |service| std::mem::replace(&mut service.replicas, replicas));
    if before == Some(replicas) {
        return;
    }
    running.handle.set_workers_max(size.runs(replicas.ready));
    running.handle.set_waiting_max(size.waiting(replicas.ready, mind.config.queue_max));
    observe::replicas(&running.spec.model_name, replicas.wanted, replicas.ready);
    tracing::debug!(service = %key, wanted = replicas.wanted, ready = replicas.ready, "scaled");
    mind.say_again(key);
}

impl Brain {
    fn new(scaler: Scaler, now: Duration, ready: u32) -> Self {
        match scaler {
            Scaler::Kpa => Self::Kpa(Kpa::new(now, ready)),
            Scaler::Hpa => Self::Hpa(Hpa::default()),
            Scaler::Fixed => Self::Fixed,
        }
    }

    const fn is_of(&self, scaler: Scaler) -> bool {
        matches!((self, scaler), (Self::Kpa(_), Scaler::Kpa) | (Self::Hpa(_), Scaler::Hpa) | (Self::Fixed, Scaler::Fixed))
    }
}

impl Scaled {
    fn new(running: &Running, scale: &ScaleSpec, size: Size, now: Duration) -> Self {
        let ready = size.within(scale.initial.max(scale.min), scale);
        Self {
            since: now,
            last: running.handle.demand(),
            run_seconds: run_seconds(running),
            windows: Windows::default(),
            brain: Brain::new(scale.scaler, now, ready),
            zero_since: None,
            ready,
        }
    }

    /// What the service should have now.
    fn look(&mut self, now: Duration, running: &Running, scale: &ScaleSpec, (size, scaling): (Size, &Scaling)) -> Step {
        let sample = running.handle.demand();
        let wanted = self.wanted(now, running, scale, (sample, scaling));
        self.last = sample;
        if wanted == 0 && scale.min == 0 && self.may_sleep(now, scale, scaling) && sample.in_flight == 0 {
            return Step::Sleep;
        }
        if wanted > 0 {
            self.zero_since = None;
        }
        self.ready = size.within(wanted, scale);
        let most = if scale.max == 0 { u32::MAX } else { scale.max };
        Step::Replicas(Replicas { wanted: wanted.max(scale.min).min(most), ready: self.ready })
    }

    /// Whether nothing was asked for a window, and the grace is over: Knative counts one after the other.
    fn may_sleep(&mut self, now: Duration, scale: &ScaleSpec, scaling: &Scaling) -> bool {
        if now < self.since + scale.stable_window {
            return false;
        }
        let since = *self.zero_since.get_or_insert(now);
        now >= since + scaling.grace.max(scale.retention)
    }

    fn wanted(&mut self, now: Duration, running: &Running, scale: &ScaleSpec, (sample, scaling): (Sample, &Scaling)) -> u32 {
        let seconds = sample.at.saturating_duration_since(self.last.at).as_secs_f64();
        let ready = self.ready;
        match &mut self.brain {
            Brain::Fixed => scale.min,
            Brain::Kpa(kpa) => {
                self.windows.note(now, seconds, asked(scale.metric, &self.last, &sample), scale.stable_window.max(scale.panic_window));
                let average = |window| self.windows.average(now, window);
                // Without a measurement nothing changes.
                let (Some(stable), Some(panic)) = (average(scale.stable_window), average(scale.panic_window)) else { return ready };
                kpa.wanted(now, ready, Averages { stable, panic }, &rules(scale, scaling))
            }
            Brain::Hpa(hpa) => {
                let ran = run_seconds(running);
                let keep = super::autoscale::HPA_SYNC;
                self.windows.note(now, seconds, ran - self.run_seconds, keep);
                self.run_seconds = ran;
                let busy = self.windows.average(now, keep);
                match busy.map(|busy| utilisation(scale.metric, running, busy, ready)).filter(|_| hpa.is_due(now)) {
                    Some(utilisation) => hpa.wanted(now, ready, utilisation, scale.target),
                    None => ready,
                }
            }
        }
    }
}

/// What happened between two samples, in the unit of the metric's sum.
fn asked(metric: ScaleMetric, last: &Sample, now: &Sample) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "requests between two ticks are far fewer than 2^52")]
    let ended = now.ended.saturating_sub(last.ended) as f64;
    if metric == ScaleMetric::Rps { ended } else { now.request_seconds - last.request_seconds }
}

fn rules(scale: &ScaleSpec, scaling: &Scaling) -> Rules {
    Rules {
        target: scale.target,
        up_rate: scaling.up_rate,
        down_rate: scaling.down_rate,
        panic_threshold: scale.panic_threshold,
        stable_window: scale.stable_window,
        scale_down_delay: scale.scale_down_delay,
        activation: scale.activation,
    }
}

/// Seconds that runs took in the engine, each thread of a run counted.
fn run_seconds(running: &Running) -> f64 {
    let runs = running.handle.statistics().snapshot().batches;
    let run_ns: u64 = runs.iter().map(|batch| batch.infer.ns).sum();
    #[expect(clippy::cast_precision_loss, reason = "seconds in the engine are far fewer than 2^52")]
    let threads = running.spec.intra_op_threads() as f64;
    Duration::from_nanos(run_ns).as_secs_f64() * threads
}

/// The share that is used of what the replicas may use, in percent: of the CPU by runs in the engine, of the memory by
/// the weights, which all replicas share. A service without a limit is measured by one core.
fn utilisation(metric: ScaleMetric, running: &Running, busy_cores: f64, ready: u32) -> f64 {
    let RevisionSpec { cpu_limit_millis, memory_limit_bytes, .. } = running.spec;
    #[expect(clippy::cast_precision_loss, reason = "cores and bytes of a machine are far fewer than 2^52")]
    let (cores, used, limit) = (
        cpu_limit_millis.unwrap_or(1000).max(1) as f64 / 1000.0,
        running.memory.bytes() as f64,
        memory_limit_bytes.map(|limit| limit.max(1) as f64),
    );
    let replicas = f64::from(ready.max(1));
    match metric {
        ScaleMetric::Memory => limit.map_or(0.0, |limit| used / (limit * replicas) * 100.0),
        _ => busy_cores / (cores * replicas) * 100.0,
    }
}
