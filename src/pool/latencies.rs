//! How long answered requests took, as counts by time: enough for a tail, at a cost of one addition a request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of one doubling: a bound is at most 9 % beyond what it stands for.
const PER_DOUBLING: u32 = 8;
/// The first bucket ends at 2^10 ns, a microsecond; the last one takes all from 2^40 ns on, 18 minutes.
const FIRST_DOUBLING: u32 = 10;
const DOUBLINGS: u32 = 30;
const BUCKETS: usize = (PER_DOUBLING * DOUBLINGS) as usize;

/// The counters of one revision, written by many at once.
#[derive(Debug)]
pub(super) struct Latencies {
    counts: [AtomicU64; BUCKETS],
}

/// The counts at one moment, or between two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatencyCounts {
    counts: Box<[u64]>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Default for LatencyCounts {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into() }
    }
}

impl Latencies {
    pub(super) fn add(&self, time: Duration) {
        self.counts[bucket_of(time)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> LatencyCounts {
        LatencyCounts { counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect() }
    }
}

impl LatencyCounts {
    /// One request more.
    pub fn add(&mut self, time: Duration) {
        self.counts[bucket_of(time)] += 1;
    }

    /// What came after an earlier moment.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let counts = self.counts.iter().zip(&before.counts).map(|(now, before)| now.saturating_sub(*before));
        Self { counts: counts.collect() }
    }

    /// All requests.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time that all but `per_mille` of a thousand requests took at most, at most 9 % above the truth; nothing without
    /// requests.
    #[must_use]
    pub fn all_but(&self, per_mille: u64) -> Option<Duration> {
        let all = self.count();
        let wanted = all - all * per_mille / 1000;
        let mut within = 0;
        let reaches = |count: &u64| {
            within += count;
            within >= wanted
        };
        (all > 0).then(|| self.counts.iter().position(reaches).map(end_of)).flatten()
    }

    /// Requests that took longer than that for sure.
    #[must_use]
    pub fn above(&self, time: Duration) -> u64 {
        self.counts.iter().skip(bucket_of(time) + 1).sum()
    }
}

/// The bucket of a time: by its highest bit, and the three bits below it.
fn bucket_of(time: Duration) -> usize {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
    let doubling = ns.ilog2();
    if doubling < FIRST_DOUBLING {
        return 0;
    }
    let part = (ns >> (doubling - PER_DOUBLING.ilog2())) & u64::from(PER_DOUBLING - 1);
    let bucket = u64::from((doubling - FIRST_DOUBLING) * PER_DOUBLING) + part;
    usize::try_from(bucket).map_or(BUCKETS - 1, |bucket| bucket.min(BUCKETS - 1))
}

/// Where a bucket ends.
fn end_of(bucket: usize) -> Duration {
    let bucket = u32::try_from(bucket).unwrap_or(u32::MAX);
    let (doubling, part) = (FIRST_DOUBLING + bucket / PER_DOUBLING, u64::from(bucket % PER_DOUBLING));
    let step = 1_u64 << (doubling - PER_DOUBLING.ilog2());
    Duration::from_nanos((u64::from(PER_DOUBLING) + part + 1) * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(times_us: impl IntoIterator<Item = u64>) -> LatencyCounts {
        let latencies = Latencies::default();
        times_us.into_iter().for_each(|time| latencies.add(Duration::from_micros(time)));
        latencies.counts()
    }

    #[test]
    fn a_bound_holds_and_is_close() {
        for time in [2_u64, 9, 100, 1234, 56_789, 1_000_000, 100_000_000] {
            let bound = counts([time]).all_but(0).unwrap().as_secs_f64();
            let time = Duration::from_micros(time).as_secs_f64();
            assert!(bound >= time && bound <= time * 1.13, "{bound} for {time}");
        }
        assert!(counts([0]).all_but(0).unwrap() <= Duration::from_micros(2));
        assert_eq!(counts([u64::MAX / 1000]).count(), 1);
        assert_eq!(counts([]).all_but(10), None);
    }

    #[test]
    fn a_tail_is_what_lies_beyond_all_but_a_few() {
        let counts = counts((0..1000).map(|request| if request < 985 { 100 } else { 10_000 }));
        let usual = counts.all_but(20).unwrap();
        assert!(usual < Duration::from_micros(130), "{usual:?}");
        assert!(counts.all_but(10).unwrap() > Duration::from_millis(9));
        assert_eq!((counts.above(Duration::from_millis(1)), counts.above(Duration::from_millis(20))), (15, 0));
    }

    #[test]
    fn what_came_since_is_the_difference() {
        let (before, now) = (counts([100, 5000]), counts([100, 100, 5000]));
        assert_eq!(now.since(&before), counts([100]));
    }
}
