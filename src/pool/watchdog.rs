//! Looks after runs on callers' threads: one that takes far longer than its model's usual run is stopped, so that it can
//! go on where it keeps nobody from a socket.
//!
//! One thread for the process, asleep while no such run happens.

use crate::engine::Cancel;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a run may keep its caller's thread.
const RUN_MAX: Duration = Duration::from_millis(5);
/// Between two looks.
const TICK: Duration = Duration::from_millis(2);
/// Without a run for so long the thread sleeps until the next one.
const QUIET: Duration = Duration::from_secs(1);

/// What runs on one seat, for the watchdog to see. One run at a time.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// When the last run began, in microseconds since the watchdog started, from 1.
    begun_us: AtomicU64,
    running: AtomicBool,
    cancel: Mutex<Arc<Cancel>>,
}

impl Watched {
    /// A seat that is looked after from now on. Where the system gives no thread for that, nobody does.
    pub(super) fn new() -> Arc<Self> {
        let watched = Arc::new(Self::default());
        watchdog().seats().push(Arc::downgrade(&watched));
        watched
    }

    /// A run begins; it must listen to what this gives.
    pub(super) fn begin(&self) -> Arc<Cancel> {
        let watchdog = watchdog();
        self.begun_us.store(watchdog.now_us(), Ordering::Release);
        self.running.store(true, Ordering::SeqCst);
        watchdog.wake();
        Arc::clone(&self.cancel())
    }

    /// The run has ended; whether it was stopped.
    pub(super) fn end(&self) -> bool {
        self.running.store(false, Ordering::SeqCst);
        let mut cancel = self.cancel();
        let stopped = cancel.is_cancelled();
        if stopped {
            *cancel = Arc::default();
        }
        stopped
    }

    /// Stops a run that has taken too long. At worst one that began this moment: it is then run elsewhere.
    fn look(&self, now_us: u64) {
        let age_us = now_us.saturating_sub(self.begun_us.load(Ordering::Acquire));
        if self.running.load(Ordering::SeqCst) && u128::from(age_us) > RUN_MAX.as_micros() {
            self.cancel().cancel();
        }
    }

    fn cancel(&self) -> MutexGuard<'_, Arc<Cancel>> {
        self.cancel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Watchdog {
    started: Instant,
    seats: Mutex<Vec<Weak<Watched>>>,
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The process's one; starts with its first seat.
fn watchdog() -> &'static Watchdog {
    static WATCHDOG: OnceLock<&'static Watchdog> = OnceLock::new();
    WATCHDOG.get_or_init(|| {
        let watchdog: &'static Watchdog = Box::leak(Box::new(Watchdog {
            started: Instant::now(),
            seats: Mutex::default(),
            asleep: AtomicBool::new(false),
            thread: OnceLock::new(),
        }));
        match std::thread::Builder::new().name("watchdog".to_owned()).spawn(|| watchdog.run()) {
            Ok(thread) => drop(watchdog.thread.set(thread.thread().clone())),
            Err(error) => tracing::warn!(%error, "no thread to look after runs on callers' threads"),
        }
        watchdog
    })
}

impl Watchdog {
    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst)
            && self.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    fn run(&self) {
        loop {
            if self.look_at_all() {
                std::thread::park_timeout(TICK);
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            // A run that began before it saw the sign must not go unseen.
            if !self.look_at_all() {
                std::thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Looks at every seat; whether there was a run lately.
    fn look_at_all(&self) -> bool {
        let now_us = self.now_us();
        let mut seats = self.seats();
        seats.retain(|seat| seat.strong_count() > 0);
        let seats: Vec<Arc<Watched>> = seats.iter().filter_map(Weak::upgrade).collect();
        for seat in &seats {
            seat.look(now_us);
        }
        seats.iter().any(|seat| seat.is_busy(now_us))
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Weak<Watched>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn is_busy(&self, now_us: u64) -> bool {
        let begun_us = self.begun_us.load(Ordering::Acquire);
        self.running.load(Ordering::SeqCst) || (begun_us > 0 && u128::from(now_us.saturating_sub(begun_us)) < QUIET.as_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cancel::Stop;
    use std::sync::mpsc;

    #[derive(Debug)]
    struct Bell(mpsc::Sender<()>);

    impl Stop for Bell {
        fn stop(&self) {
            let _ = self.0.send(());
        }
    }

    #[test]
    fn a_run_that_goes_on_and_on_is_stopped_and_the_next_one_is_not() {
        let seat = Watched::new();
        for _ in 0..3 {
            let cancel = seat.begin();
            let (bell, heard) = mpsc::channel();
            let attached = cancel.attach(&Arc::new(Bell(bell))).unwrap();
            heard.recv().unwrap();
            assert!(attached.detach());
            assert!(seat.end(), "stopped");
            assert!(!seat.begin().is_cancelled());
            assert!(!seat.end());
        }
    }
}
