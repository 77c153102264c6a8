//! The memory that the process may take with all its models: who holds how much, who waits for room, what the machine says.
//!
//! A load first takes a reservation for what its files predict and corrects it afterwards to what was measured. The
//! bytes stay reserved until the model is unloaded and its memory given back, so that two loads never count on the
//! same room.

mod machine;
mod predict;

pub(super) use machine::{give_back, resident_bytes};
pub(super) use predict::{file_bytes, while_loading};

use crate::observe;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The budget and what is taken of it.
#[derive(Debug)]
pub(super) struct Memory {
    limit_bytes: u64,
    ledger: Mutex<Ledger>,
    freed: Notify,
    /// Held by the load that looks for room: those behind it wait in line.
    pub(super) line: tokio::sync::Mutex<()>,
    loading: AtomicUsize,
    loads: AtomicUsize,
}

#[derive(Debug, Default)]
struct Ledger {
    taken: u64,
    /// The part of it that is being unloaded.
    leaving: u64,
    /// The part of it that is being loaded: not in memory yet, or only partly.
    coming: u64,
}

/// Bytes taken from the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    memory: Arc<Memory>,
    bytes: AtomicU64,
    leaving: AtomicBool,
    settled: AtomicBool,
}

impl Memory {
    /// A budget of `bytes`, or of `percent` of the machine's memory where `bytes` is 0.
    pub(super) fn new(bytes: u64, percent: u64) -> Self {
        let limit_bytes = if bytes > 0 { bytes } else { machine::total_bytes() / 100 * percent };
        observe::memory_limit(limit_bytes);
        Self::with(limit_bytes)
    }

    fn with(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            ledger: Mutex::default(),
            freed: Notify::new(),
            line: tokio::sync::Mutex::default(),
            loading: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
        }
    }

    /// All that the process may take, its models among it.
    pub(super) const fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Takes bytes if they are left.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let mut ledger = self.lock();
        if ledger.taken.saturating_add(bytes) > self.limit_bytes {
            return None;
        }
        ledger.taken += bytes;
        ledger.coming += bytes;
        observe::memory_taken(ledger.taken);
        let (bytes, leaving, settled) = (AtomicU64::new(bytes), AtomicBool::new(false), AtomicBool::new(false));
        Some(Reservation { memory: Arc::clone(self), bytes, leaving, settled })
    }

    /// Takes bytes if they are left, nobody waits in line for them, and the process does not hold too much already.
    pub(super) fn take_at_once(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let _in_line = self.line.try_lock().ok()?;
        let resident = resident_bytes();
        if self.must_wait(bytes, resident) || self.missing(bytes, resident) > 0 { None } else { self.take(bytes) }
    }

    /// What must be put to sleep before that many bytes are left, besides what is being unloaded already. Where the
    /// process holds more than is accounted for, that counts too, up to a half.
    pub(super) fn missing(&self, bytes: u64, resident_bytes: u64) -> u64 {
        let ledger = self.lock();
        let held = ledger.taken + self.beside(&ledger, resident_bytes);
        (held - ledger.leaving).saturating_add(bytes).saturating_sub(self.limit_bytes)
    }

    /// Whether a load must wait for what is being unloaded: the process would hold too much until then.
    pub(super) fn must_wait(&self, bytes: u64, resident_bytes: u64) -> bool {
        let ledger = self.lock();
        let held = ledger.taken + self.beside(&ledger, resident_bytes);
        ledger.leaving > 0 && held.saturating_add(bytes) > self.limit_bytes
    }

    /// What the process holds beside the models: its program and libraries, threads, requests. It narrows the budget to a half at
    /// most: putting models to sleep does not make it less.
    fn beside(&self, ledger: &Ledger, resident_bytes: u64) -> u64 {
        resident_bytes.saturating_sub(ledger.taken - ledger.coming).min(self.limit_bytes / 2)
    }

    /// Resolves when bytes were given back after this call.
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Notes that a load begins.
    pub(super) fn watch_load(&self) -> LoadWatch<'_> {
        let alone = self.loading.fetch_add(1, Ordering::AcqRel) == 0;
        let number = self.loads.fetch_add(1, Ordering::AcqRel) + 1;
        LoadWatch { memory: self, alone, number, before: resident_bytes() }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One load, to tell its memory from that of others.
#[derive(Debug)]
pub(super) struct LoadWatch<'m> {
    memory: &'m Memory,
    alone: bool,
    number: usize,
    before: u64,
}

impl LoadWatch<'_> {
    /// What the load added to the process, if no other load was under way; never less than the model's files.
    pub(super) fn measured(&self, file_bytes: u64) -> Option<u64> {
        let alone = self.alone && self.memory.loads.load(Ordering::Acquire) == self.number;
        // What requests took meanwhile is not the model's.
        let most = predict::while_loading(file_bytes).saturating_mul(2);
        alone.then(|| resident_bytes().saturating_sub(self.before).clamp(file_bytes, most))
    }
}

impl Drop for LoadWatch<'_> {
    fn drop(&mut self) {
        self.memory.loading.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Reservation {
    /// What it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Sets it to what was found; more than the budget is told of, not refused: it is there already.
    pub(super) fn correct(&self, bytes: u64) {
        let mut ledger = self.memory.lock();
        let before = self.bytes.swap(bytes, Ordering::AcqRel);
        ledger.taken = ledger.taken + bytes - before;
        if !self.settled.swap(true, Ordering::AcqRel) {
            ledger.coming -= before;
        }
        observe::memory_taken(ledger.taken);
        drop(ledger);
        self.memory.freed.notify_waiters();
    }

    /// Notes that its model is being unloaded.
    pub(super) fn leaves(&self) {
        let mut ledger = self.memory.lock();
        if !self.leaving.swap(true, Ordering::AcqRel) {
            ledger.leaving += self.bytes();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut ledger = self.memory.lock();
        let bytes = self.bytes();
        ledger.taken -= bytes;
        if self.leaving.load(Ordering::Acquire) {
            ledger.leaving -= bytes;
        }
        if !self.settled.load(Ordering::Acquire) {
            ledger.coming -= bytes;
        }
        observe::memory_taken(ledger.taken);
        drop(ledger);
        self.memory.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is_and_what_is_dropped_is_there_again() {
        let memory = Arc::new(Memory::with(100));
        let first = memory.take(60).unwrap();
        assert!(memory.take(60).is_none());
        assert_eq!(memory.missing(60, 0), 20);
        first.correct(30);
        let second = memory.take(60).unwrap();
        assert_eq!(memory.missing(60, 0), 50);
        first.leaves();
        assert_eq!(memory.missing(60, 0), 20, "the first is on its way out");
        drop((first, second));
        assert_eq!((memory.missing(100, 0), memory.missing(101, 0)), (0, 1));
    }

    #[test]
    fn what_the_process_holds_beside_its_models_counts_up_to_a_half_of_the_budget() {
        let memory = Arc::new(Memory::with(100));
        let models = memory.take(40).unwrap();
        assert_eq!(memory.missing(40, 30), 10, "as long as it loads, what is there may be other things");
        models.correct(40);
        assert_eq!(memory.missing(40, 40 + 20), 0);
        assert_eq!(memory.missing(40, 40 + 35), 15);
        assert_eq!(memory.missing(40, 1000), 30);
    }

    #[test]
    fn a_load_is_measured_only_where_it_was_alone() {
        let memory = Memory::with(100);
        let alone = memory.watch_load();
        assert!(alone.measured(7).is_some_and(|bytes| bytes >= 7));
        let beside = memory.watch_load();
        assert_eq!((alone.measured(7), beside.measured(7)), (None, None));
    }
}
