//! The threads of one model: a small fixed team that works on one step at a time.
//!
//! A step is some hundred short pieces of work with a meeting after each, so threads that wait for the next piece look for
//! it for some microseconds before they sleep; between steps they sleep. Pieces are cut into tasks that whoever is free takes, so
//! a thread that the system holds up does not hold up the others for longer than one task.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Looks for the next piece of work before a thread sleeps; some tens of microseconds.
const LOOKS: u32 = 4000;
/// Looks between two offers of the processor to others.
const LOOKS_BEFORE_YIELD: u32 = 1000;

/// A fixed number of threads, the caller's among them.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// A function that takes a task's number, without its lifetime.
type Work = *const (dyn Fn(usize) + Sync);

#[derive(Debug)]
struct Shared {
    /// The number of the piece of work; a new one calls everybody.
    piece: AtomicUsize,
    work: Mutex<Option<SharedWork>>,
    called: Condvar,
    /// Helpers that sleep; changed under the lock.
    sleepers: AtomicUsize,
    /// The next task that nobody took.
    next: AtomicUsize,
    /// Helpers that are done with the piece.
    done: AtomicUsize,
    failed: AtomicBool,
    ending: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct SharedWork {
    work: Work,
    tasks: usize,
}

#[expect(unsafe_code, reason = "a borrowed function is lent to threads that live longer")]
// SAFETY: the pointer is followed only between the call of `Team::run` and its return, for which the function is borrowed:
// `run` waits until every helper has told that it is done with the piece, also when a task panics.
unsafe impl Send for SharedWork {}

impl Team {
    /// A team of so many threads, at least the caller's.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            piece: AtomicUsize::new(0),
            work: Mutex::new(None),
            called: Condvar::new(),
            sleepers: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        });
        let mut team = Self { shared, threads: Vec::new() };
        for _ in 1..threads {
            let shared = Arc::clone(&team.shared);
            let helper = std::thread::Builder::new().name("generation".to_owned()).spawn(move || help(&shared))?;
            team.threads.push(helper);
        }
        Ok(team)
    }

    /// Threads, the caller's among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `work` once for each number below `tasks`, on all threads, and returns when all is done.
    ///
    /// Panics where a task did, after all others are done.
    pub fn run(&mut self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() || tasks <= 1 {
            (0..tasks).for_each(work);
            return;
        }
        let shared = &*self.shared;
        shared.next.store(0, Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        #[expect(unsafe_code, reason = "a borrowed function is lent to threads that live longer")]
        // SAFETY: only the lifetime changes; nobody follows the pointer after this function returns, see `SharedWork`.
        let lent: Work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        shared.call(SharedWork { work: lent, tasks });
        let own = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(tasks, work)));
        wait_until(|| shared.done.load(Ordering::Acquire) == self.threads.len());
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!shared.failed.swap(false, Ordering::Relaxed), "a task of the team failed");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        drop(self.shared.work.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.called.notify_all();
        for thread in self.threads.drain(..) {
            // A helper catches the panics of tasks, so it has ended well.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Hands out a piece of work, and wakes those who sleep.
    fn call(&self, piece: SharedWork) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        *work = Some(piece);
        // Under the lock: who is about to sleep has either seen it or is counted.
        self.piece.fetch_add(1, Ordering::Release);
        let asleep = self.sleepers.load(Ordering::Relaxed) > 0;
        drop(work);
        if asleep {
            self.called.notify_all();
        }
    }

    fn take_tasks(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            work(task);
        }
    }

    /// Waits for a piece after `seen`; nothing when the team ends.
    fn next_piece(&self, seen: usize) -> Option<usize> {
        let is_there = || self.piece.load(Ordering::Acquire) != seen || self.ending.load(Ordering::Acquire);
        for look in 1..LOOKS {
            if is_there() {
                break;
            }
            breathe(look);
        }
        if !is_there() {
            let guard = self.work.lock().unwrap_or_else(PoisonError::into_inner);
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            let guard = self.called.wait_while(guard, |_| !is_there()).unwrap_or_else(PoisonError::into_inner);
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
            drop(guard);
        }
        if self.ending.load(Ordering::Acquire) { None } else { Some(self.piece.load(Ordering::Acquire)) }
    }
}

fn help(shared: &Shared) {
    let mut seen = 0;
    while let Some(piece) = shared.next_piece(seen) {
        seen = piece;
        let work = *shared.work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(SharedWork { work, tasks }) = work {
            #[expect(unsafe_code, reason = "a borrowed function is lent to threads that live longer")]
            // SAFETY: `Team::run` lends the function until this thread has told below that it is done.
            let work = unsafe { &*work };
            if catch_unwind(AssertUnwindSafe(|| shared.take_tasks(tasks, work))).is_err() {
                shared.failed.store(true, Ordering::Relaxed);
            }
        }
        shared.done.fetch_add(1, Ordering::Release);
    }
}

fn wait_until(is_so: impl Fn() -> bool) {
    let mut look = 0_u32;
    while !is_so() {
        look = look.wrapping_add(1);
        breathe(look);
    }
}

/// Leaves the processor to others now and then: the thread one waits for may be one of them.
fn breathe(look: u32) {
    if look.is_multiple_of(LOOKS_BEFORE_YIELD) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_however_many_threads_there_are() {
        for threads in [1, 2, 3] {
            let mut team = Team::new(threads).unwrap();
            assert_eq!(team.threads(), threads);
            for tasks in [0, 1, 2, 7, 100] {
                let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    team.run(tasks, &|task| {
                        runs[task].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 50), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn a_task_that_panics_fails_the_piece_and_the_team_goes_on() {
        let mut team = Team::new(2).unwrap();
        let ran = AtomicUsize::new(0);
        for _ in 0..20 {
            let piece = catch_unwind(AssertUnwindSafe(|| {
                team.run(64, &|task| {
                    ran.fetch_add(1, Ordering::Relaxed);
                    assert_ne!(task, 3, "the task that fails");
                });
            }));
            assert!(piece.is_err());
        }
        ran.store(0, Ordering::Relaxed);
        team.run(64, &|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 64);
    }
}
