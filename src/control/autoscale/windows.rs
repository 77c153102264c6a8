//! Averages over the last seconds: what was measured between two ticks, kept as long as the longest window.

use std::collections::VecDeque;
use std::time::Duration;

/// What happened in one interval: an amount (request-seconds, requests, core-seconds) over a time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Interval {
    until: Duration,
    seconds: f64,
    amount: f64,
}

/// The intervals of the last window. As many as ticks fit into it.
#[derive(Debug, Default)]
pub(in crate::control) struct Windows {
    intervals: VecDeque<Interval>,
}

impl Windows {
    /// Notes an interval that ended at `now`, and forgets what is older than `keep`.
    pub(in crate::control) fn note(&mut self, now: Duration, seconds: f64, amount: f64, keep: Duration) {
        if seconds > 0.0 {
            self.intervals.push_back(Interval { until: now, seconds, amount });
        }
        while self.intervals.front().is_some_and(|interval| interval.until + keep <= now) {
            self.intervals.pop_front();
        }
    }

    /// The average over the window up to `now`; while less than a window was measured, over that. Nothing
    /// before the first interval.
    pub(in crate::control) fn average(&self, now: Duration, window: Duration) -> Option<f64> {
        let inside = self.intervals.iter().rev().take_while(|interval| interval.until + window > now);
        let (seconds, amount) =
            inside.fold((0.0, 0.0), |(seconds, amount), interval| (seconds + interval.seconds, amount + interval.amount));
        (seconds > 0.0).then(|| amount / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_window_averages_what_lies_in_it_and_forgets_the_rest() {
        let mut windows = Windows::default();
        assert_eq!(windows.average(at(0), at(6)), None);
        for second in (2..=60).step_by(2) {
            windows.note(at(second), 2.0, if second > 54 { 20.0 } else { 2.0 }, at(60));
        }
        assert_eq!(windows.average(at(60), at(6)), Some(10.0));
        assert_eq!(windows.average(at(60), at(60)), Some((27.0 * 2.0 + 3.0 * 20.0) / 60.0));
        assert_eq!(windows.average(at(66), at(6)), None, "nothing was measured in it");
        windows.note(at(200), 2.0, 0.0, at(60));
        assert_eq!(windows.average(at(200), at(60)), Some(0.0));
    }
}
