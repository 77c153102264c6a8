//! How long runs take: the mean, for the wait of those in the queue, and the usual, for what may run at once.

use std::time::Duration;

/// The weight of the latest run in the moving average.
const LATEST_WEIGHT: f64 = 0.125;
/// The usual time rises by this on a longer run and falls by the next on a shorter one, so that some nine of ten runs
/// lie below it, whatever a few took that the system put aside for a while.
const RISE: f64 = 1.1;
const FALL: f64 = 0.99;
/// The first runs of a model are slow: the usual time falls faster while so few were seen.
const FIRST_RUNS: u32 = 64;
const FIRST_FALL: f64 = 0.8;
/// A run that took this many times the usual time is an outlier. Most of those the system put aside for a while: one alone only
/// lets the usual time rise as ever ...
const OUTLIER: f64 = 16.0;
/// ... but two within so many runs, or one longer than the system puts anything aside for, count at once.
const OUTLIERS_APART: u32 = 64;
const LONG: Duration = Duration::from_millis(5);

/// Moving figures of one model's runs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    runs: u32,
    /// Seconds a request takes of one place: a run's time shared by the requests of its batch.
    mean_s: f64,
    /// Seconds that most runs stay below.
    usual_s: f64,
    /// Runs since the last outlier; nothing where it was long ago.
    since_outlier: Option<u32>,
}

impl Pace {
    /// A run of so many requests took that long.
    pub(super) fn ran(&mut self, run: Duration, entries: usize) {
        let run_s = run.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a batch has few entries")]
        let each_s = run_s / entries.max(1) as f64;
        if self.runs == 0 {
            (self.mean_s, self.usual_s) = (each_s, run_s);
        }
        self.mean_s += (each_s - self.mean_s) * LATEST_WEIGHT;
        let fall = if self.runs < FIRST_RUNS { FIRST_FALL } else { FALL };
        let step = if run_s > self.usual_s { RISE } else { fall };
        let counts = self.is_second_outlier(run_s) || run >= LONG;
        self.usual_s = if counts { (self.usual_s * step).max(run_s / OUTLIER) } else { self.usual_s * step };
        self.runs = self.runs.saturating_add(1);
    }

    /// Whether this is the second outlier within a few runs; remembers it if it is one.
    fn is_second_outlier(&mut self, run_s: f64) -> bool {
        let before = self.since_outlier.take().map(|runs| runs + 1).filter(|runs| *runs < OUTLIERS_APART);
        let is_one = run_s > self.usual_s * OUTLIER;
        self.since_outlier = if is_one { Some(0) } else { before };
        is_one && before.is_some()
    }

    /// How long one request takes; nothing before the first run ended.
    pub(super) fn mean(&self) -> Option<Duration> {
        (self.runs > 0).then(|| Duration::try_from_secs_f64(self.mean_s).unwrap_or(Duration::MAX))
    }

    /// How long most runs take at most; nothing before the first run ended.
    pub(super) fn usual(&self) -> Option<Duration> {
        (self.runs > 0).then(|| Duration::try_from_secs_f64(self.usual_s).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(runs: impl IntoIterator<Item = u64>) -> Pace {
        let mut pace = Pace::default();
        runs.into_iter().for_each(|micros| pace.ran(Duration::from_micros(micros), 1));
        pace
    }

    #[test]
    fn nothing_is_known_before_the_first_run() {
        assert_eq!((Pace::default().mean(), Pace::default().usual()), (None, None));
    }

    #[test]
    fn a_slow_first_run_is_soon_forgotten() {
        let runs = std::iter::once(5000).chain(std::iter::repeat_n(5, 40));
        assert!(after(runs).usual().unwrap() < Duration::from_micros(50));
    }

    #[test]
    fn one_run_put_aside_by_the_system_changes_the_usual_time_little() {
        let runs = std::iter::repeat_n(5, 200).chain([60]);
        assert!(after(runs).usual().unwrap() < Duration::from_micros(10));
    }

    #[test]
    fn one_run_of_milliseconds_changes_the_usual_time_little_and_two_close_by_count() {
        let usual = |runs_between: usize| {
            let quick = |runs| std::iter::repeat_n(5, runs);
            after(quick(200).chain([4_000]).chain(quick(runs_between)).chain([4_000])).usual().unwrap()
        };
        assert!(usual(100) < Duration::from_micros(10));
        assert!(usual(30) > Duration::from_micros(200));
    }

    #[test]
    fn a_run_that_took_a_second_counts_at_once_and_for_long() {
        let runs = || std::iter::repeat_n(5, 200).chain([1_000_000]);
        assert!(after(runs()).usual().unwrap() > Duration::from_millis(50));
        assert!(after(runs().chain(std::iter::repeat_n(5, 100))).usual().unwrap() > Duration::from_millis(1));
    }

    #[test]
    fn the_requests_of_a_batch_share_its_time() {
        let mut pace = Pace::default();
        pace.ran(Duration::from_millis(80), 8);
        assert_eq!(pace.mean(), Some(Duration::from_millis(10)));
    }
}
