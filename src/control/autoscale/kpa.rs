//! Knative's autoscaler: a stable window to follow, a panic window not to be late, and rules how fast.
//!
//! Source: Knative `pkg/autoscaler/scaling/autoscaler.go`, reference 11.3.

use std::collections::VecDeque;
use std::time::Duration;

/// How one service is scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::control) struct Rules {
    /// What one replica is aimed to carry.
    pub(in crate::control) target: f64,
    /// How many times its replicas a service may grow to in one step.
    pub(in crate::control) up_rate: f64,
    /// To which part of its replicas it may shrink in one step.
    pub(in crate::control) down_rate: f64,
    /// How many times its replicas must be wanted to panic.
    pub(in crate::control) panic_threshold: f64,
    /// How long it panics after the last time that much was wanted.
    pub(in crate::control) stable_window: Duration,
    /// How long less must be wanted before replicas go.
    pub(in crate::control) scale_down_delay: Duration,
    /// Replicas at least while anything is asked.
    pub(in crate::control) activation: u32,
}

/// What was measured: requests in flight, or requests a second, over both windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::control) struct Averages {
    /// Over the stable window.
    pub(in crate::control) stable: f64,
    /// Over the panic window.
    pub(in crate::control) panic: f64,
}

/// The memory of one service's autoscaler.
#[derive(Debug, Default)]
pub(in crate::control) struct Kpa {
    /// When panic was last called for; nothing while all is calm.
    panicked_at: Option<Duration>,
    /// The most replicas wanted since.
    panic_most: u32,
    /// What was wanted of late, for the delay.
    wanted: VecDeque<(Duration, u32)>,
}

impl Kpa {
    /// One for a service that has so many replicas now: with more than one it starts in panic, so that they stay
    /// until there is something to go by.
    pub(in crate::control) fn new(now: Duration, ready: u32) -> Self {
        Self { panicked_at: (ready > 1).then_some(now), panic_most: ready, wanted: VecDeque::new() }
    }

    /// Replicas wanted, before the bounds of the service.
    pub(in crate::control) fn wanted(&mut self, now: Duration, ready: u32, averages: Averages, rules: &Rules) -> u32 {
        let ready = f64::from(ready.max(1));
        let needed = |average: f64| (average / rules.target).ceil();
        let (stable, panic) = (needed(averages.stable), needed(averages.panic));
        self.look_for_panic(now, panic / ready >= rules.panic_threshold, rules);
        let (stable, panic) = (within_rates(stable, ready, rules), within_rates(panic, ready, rules));
        let mut wanted = stable;
        if self.panicked_at.is_some() {
            // Never fewer as long as it panics.
            self.panic_most = self.panic_most.max(stable).max(panic);
            wanted = self.panic_most;
        }
        self.delayed(now, wanted, rules.scale_down_delay)
    }

    fn look_for_panic(&mut self, now: Duration, over: bool, rules: &Rules) {
        if over {
            self.panicked_at = Some(now);
        } else if self.panicked_at.is_some_and(|at| at + rules.stable_window < now) {
            (self.panicked_at, self.panic_most) = (None, 0);
        }
    }

    /// The most that was wanted within the delay.
    fn delayed(&mut self, now: Duration, wanted: u32, delay: Duration) -> u32 {
        if delay.is_zero() {
            self.wanted.clear();
            return wanted;
        }
        self.wanted.retain(|(at, earlier)| *at + delay > now && *earlier > wanted);
        self.wanted.push_back((now, wanted));
        self.wanted.iter().map(|(_, wanted)| *wanted).max().unwrap_or(wanted)
    }
}

/// What is needed, as far as the rates let it change at once; at least the activation scale where it is not zero.
fn within_rates(needed: f64, ready: f64, rules: &Rules) -> u32 {
    let (least, most) = ((ready / rules.down_rate).floor(), (ready * rules.up_rate).ceil());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count that is not negative; too large a one saturates")]
    let count = needed.max(least).min(most) as u32;
    if needed > 0.0 { count.max(if rules.activation > 1 { rules.activation } else { 0 }) } else { count }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        target: 10.0,
        up_rate: 10.0,
        down_rate: 10.0,
        panic_threshold: 2.0,
        stable_window: Duration::from_mins(1),
        scale_down_delay: Duration::ZERO,
        activation: 1,
    };

    /// Steps of one service: second, ready, stable, panic, wanted; and whether it panics then.
    fn check(rules: Rules, steps: &[(u64, u32, f64, f64, u32, bool)]) {
        let mut kpa = Kpa::new(Duration::ZERO, 0);
        for &(second, ready, stable, panic, wanted, panics) in steps {
            let got = kpa.wanted(Duration::from_secs(second), ready, Averages { stable, panic }, &rules);
            assert_eq!(
                (got, kpa.panicked_at.is_some()),
                (wanted, panics),
                "at {second} s with {ready} ready, {stable} and {panic} measured"
            );
        }
    }

    #[test]
    fn it_follows_the_stable_window_up_down_and_to_zero() {
        check(RULES, &[(0, 1, 50.0, 10.0, 5, false), (2, 1, 100.0, 10.0, 10, false)]);
        check(RULES, &[(0, 8, 100.0, 100.0, 10, false), (2, 8, 50.0, 50.0, 5, false)]);
        check(RULES, &[(0, 1, 1.0, 0.0, 1, false), (2, 1, 0.0, 0.0, 0, false)]);
    }

    #[test]
    fn a_surge_is_met_by_the_panic_window_and_replicas_stay_while_it_lasts() {
        let rules = Rules { target: 1.0, ..RULES };
        // From 1 to 6 to 36 to 216 to 1296, ten times at most in a step; then the surge is over.
        check(
            rules,
            &[
                (0, 1, 6.0, 6.0, 6, true),
                (2, 6, 36.0, 36.0, 36, true),
                (4, 36, 216.0, 216.0, 216, true),
                (6, 216, 1296.0, 1296.0, 1296, true),
                (8, 1296, 1296.0, 1296.0, 1296, true),
                (30, 1296, 100.0, 100.0, 1296, true),
                (67, 1296, 100.0, 100.0, 129, false),
            ],
        );
    }

    #[test]
    fn panic_ends_a_stable_window_after_the_last_surge() {
        let rules = Rules { target: 1.0, ..RULES };
        check(rules, &[(0, 10, 11.0, 25.0, 25, true), (30, 40, 30.0, 41.0, 41, true), (62, 55, 50.0, 56.0, 50, false)]);
        // Still surging after half a window: the panic goes on from there.
        check(rules, &[(0, 10, 11.0, 25.0, 25, true), (30, 40, 30.0, 80.0, 80, true), (62, 80, 50.0, 56.0, 80, true)]);
    }

    #[test]
    fn rates_bound_each_step_and_let_it_grow_by_one_at_least() {
        let slow = Rules { target: 1.0, up_rate: 1.1, down_rate: 2.0, panic_threshold: 100.0, ..RULES };
        check(slow, &[(0, 2, 3.0, 3.0, 3, false), (2, 10, 1000.0, 1000.0, 11, true)]);
        check(
            Rules { panic_threshold: 100.0, ..slow },
            &[(0, 10, 1.0, 1.0, 5, false), (2, 5, 1.0, 1.0, 2, false), (4, 1, 0.0, 0.0, 0, false)],
        );
    }

    #[test]
    fn the_stable_window_counts_in_panic_where_it_asks_for_more() {
        check(Rules { target: 1.0, ..RULES }, &[(0, 1, 2.0, 3.0, 3, true), (2, 3, 8.0, 4.0, 8, true)]);
    }

    #[test]
    fn the_activation_scale_holds_while_anything_is_asked() {
        check(Rules { activation: 2, ..RULES }, &[(0, 1, 0.0, 0.0, 0, false), (2, 1, 1.0, 0.0, 2, false)]);
    }

    #[test]
    fn fewer_are_wanted_only_after_the_delay_and_step_by_step() {
        let delayed = Rules { scale_down_delay: Duration::from_mins(5), panic_threshold: 100.0, ..RULES };
        check(
            delayed,
            &[
                (2, 0, 40.0, 40.0, 4, false),
                (300, 4, 0.0, 0.0, 4, false),
                (302, 4, 0.0, 0.0, 0, false),
                (540, 0, 40.0, 40.0, 4, false),
                (600, 4, 30.0, 30.0, 4, false),
                (660, 4, 0.0, 0.0, 4, false),
                (840, 4, 0.0, 0.0, 3, false),
                (900, 4, 0.0, 0.0, 0, false),
            ],
        );
    }

    #[test]
    fn one_that_starts_with_several_keeps_them_until_it_knows_more() {
        let mut kpa = Kpa::new(Duration::ZERO, 4);
        let idle = Averages { stable: 0.0, panic: 0.0 };
        assert_eq!(kpa.wanted(Duration::from_secs(2), 4, idle, &RULES), 4);
        assert_eq!(kpa.wanted(Duration::from_secs(62), 4, idle, &RULES), 0);
    }
}
