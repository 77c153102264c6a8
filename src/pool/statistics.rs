//! What a revision did so far, in the numbers of Triton's statistics extension.
//!
//! Written on the data path with relaxed atomics alone, read by whoever asks. A reading wakes nothing and keeps
//! nothing: it is a look at numbers.
//!
//! Source: Triton's "Statistics Extension", `$stats_model_response`.

use super::latencies::{Latencies, LatencyCounts};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Batch sizes that are counted one by one; larger batches count under the largest.
const BATCH_SIZES: usize = 64;

/// The counters of one revision, from its first request on. Warm-up runs before it serves are not in them.
#[derive(Debug)]
pub struct Statistics {
    last_ms: AtomicU64,
    success: Sum,
    /// Only where someone watches them.
    latencies: OnceLock<Box<Latencies>>,
    fail: Sum,
    executions: AtomicU64,
    queue_ns: AtomicU64,
    input_ns: AtomicU64,
    infer_ns: AtomicU64,
    output_ns: AtomicU64,
    batches: [OnceLock<Box<Batch>>; BATCH_SIZES],
}

/// Where the time of an answered request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// From the request's head to its written answer.
    pub total: Duration,
    /// Waiting for a worker.
    pub queue: Duration,
    /// Bytes to tensors, and joining them with those of others.
    pub input: Duration,
    /// In the engine.
    pub infer: Duration,
    /// Tensors to bytes.
    pub output: Duration,
}

/// How often something happened and how long it took together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Total {
    /// How often.
    pub count: u64,
    /// Nanoseconds, all together.
    pub ns: u64,
}

/// One look at the counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// When the last request was answered or failed: milliseconds since 1970, 0 before the first.
    pub last_inference_ms: u64,
    /// Runs of the engine; fewer than requests where requests are batched.
    pub executions: u64,
    /// Requests that were answered.
    pub success: Total,
    /// Requests that reached the model and were not answered.
    pub fail: Total,
    /// What answered requests waited.
    pub queue: Total,
    /// What reading answered requests took.
    pub compute_input: Total,
    /// What answered requests took in the engine.
    pub compute_infer: Total,
    /// What writing the answers took.
    pub compute_output: Total,
    /// Runs by how many requests they answered, smallest first.
    pub batches: Vec<BatchSnapshot>,
}

/// The runs of one batch size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchSnapshot {
    /// Requests a run.
    pub size: u64,
    /// Runs, and what joining the requests and cutting the answers took.
    pub joining: Total,
    /// Runs, and what they took in the engine.
    pub infer: Total,
}

#[derive(Debug, Default)]
struct Sum {
    count: AtomicU64,
    ns: AtomicU64,
}

#[derive(Debug, Default)]
struct Batch {
    runs: AtomicU64,
    joining_ns: AtomicU64,
    infer_ns: AtomicU64,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            last_ms: AtomicU64::default(),
            success: Sum::default(),
            latencies: OnceLock::new(),
            fail: Sum::default(),
            executions: AtomicU64::default(),
            queue_ns: AtomicU64::default(),
            input_ns: AtomicU64::default(),
            infer_ns: AtomicU64::default(),
            output_ns: AtomicU64::default(),
            batches: [const { OnceLock::new() }; BATCH_SIZES],
        }
    }
}

impl Statistics {
    /// The engine ran once for `requests` requests, well or not; `joining` is what gathering and cutting took.
    pub fn executed(&self, requests: usize, joining: Duration, infer: Duration) {
        add(&self.executions, 1);
        let batch = self.batches[requests.clamp(1, BATCH_SIZES) - 1].get_or_init(Box::default);
        add(&batch.runs, 1);
        add(&batch.joining_ns, nanos(joining));
        add(&batch.infer_ns, nanos(infer));
    }

    /// A request was answered.
    pub fn succeeded(&self, spent: &Spent) {
        self.seen();
        self.success.add(spent.total);
        if let Some(latencies) = self.latencies.get() {
            latencies.add(spent.total);
        }
        add(&self.queue_ns, nanos(spent.queue));
        add(&self.input_ns, nanos(spent.input));
        add(&self.infer_ns, nanos(spent.infer));
        add(&self.output_ns, nanos(spent.output));
    }

    /// A request that reached the model was refused, went wrong, came too late or was left by its caller.
    pub fn failed(&self, total: Duration) {
        self.seen();
        self.fail.add(total);
    }

    /// How long the answered requests took, from the first time on that someone asked.
    #[must_use]
    pub fn latencies(&self) -> LatencyCounts {
        self.latencies.get_or_init(Box::default).counts()
    }

    /// The numbers now. Counters that change meanwhile may differ by the requests of that moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let success = self.success.total();
        let stage = |ns: &AtomicU64| Total { count: success.count, ns: read(ns) };
        Snapshot {
            last_inference_ms: read(&self.last_ms),
            executions: read(&self.executions),
            success,
            fail: self.fail.total(),
            queue: stage(&self.queue_ns),
            compute_input: stage(&self.input_ns),
            compute_infer: stage(&self.infer_ns),
            compute_output: stage(&self.output_ns),
            batches: self.batch_snapshots(),
        }
    }

    fn batch_snapshots(&self) -> Vec<BatchSnapshot> {
        let sizes = (1..).zip(&self.batches);
        let counted = sizes.filter_map(|(size, batch)| Some(batch.get()?.snapshot(size)));
        counted.filter(|batch| batch.infer.count > 0).collect()
    }

    fn seen(&self) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_ms.store(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Sum {
    fn add(&self, time: Duration) {
        add(&self.count, 1);
        add(&self.ns, nanos(time));
    }

    fn total(&self) -> Total {
        Total { count: read(&self.count), ns: read(&self.ns) }
    }
}

impl Batch {
    fn snapshot(&self, size: u64) -> BatchSnapshot {
        let count = read(&self.runs);
        let total = |ns: &AtomicU64| Total { count, ns: read(ns) };
        BatchSnapshot { size, joining: total(&self.joining_ns), infer: total(&self.infer_ns) }
    }
}

fn add(number: &AtomicU64, more: u64) {
    number.fetch_add(more, Ordering::Relaxed);
}

fn read(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_answered_request_counts_once_in_every_stage() {
        let statistics = Statistics::default();
        assert_eq!(statistics.snapshot(), Snapshot::default());
        let spent = Spent { total: 10 * MS, queue: MS, input: 2 * MS, infer: 3 * MS, output: 4 * MS };
        for _ in 0..3 {
            statistics.executed(1, Duration::ZERO, 3 * MS);
            statistics.succeeded(&spent);
        }
        statistics.failed(5 * MS);
        let seen = statistics.snapshot();
        assert_eq!((seen.success, seen.fail), (Total { count: 3, ns: 30_000_000 }, Total { count: 1, ns: 5_000_000 }));
        assert_eq!((seen.queue.ns, seen.compute_output), (3_000_000, Total { count: 3, ns: 12_000_000 }));
        assert_eq!(seen.executions, 3);
        assert!(seen.last_inference_ms > 0);
    }

    #[test]
    fn runs_are_told_apart_by_how_many_requests_they_answered() {
        let statistics = Statistics::default();
        for requests in [1, 8, 8, 1000] {
            statistics.executed(requests, MS, 2 * MS);
        }
        let batches = statistics.snapshot().batches;
        let shown: Vec<(u64, u64)> = batches.iter().map(|batch| (batch.size, batch.infer.count)).collect();
        assert_eq!(shown, [(1, 1), (8, 2), (BATCH_SIZES as u64, 1)]);
        assert_eq!(batches[1].joining, Total { count: 2, ns: 2_000_000 });
    }

    #[test]
    fn times_are_counted_once_someone_watches_them() {
        let statistics = Statistics::default();
        let spent = Spent { total: 10 * MS, ..Spent::default() };
        statistics.succeeded(&spent);
        let before = statistics.latencies();
        assert_eq!(before.count(), 0);
        (0..3).for_each(|_| statistics.succeeded(&spent));
        assert_eq!(statistics.latencies().since(&before).count(), 3);
    }
}
