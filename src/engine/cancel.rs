//! A way to stop a run that nobody waits for any more: asked for on one thread, heard on another.
//!
//! Whoever waits holds a [`Cancel`]; the engine attaches a [`Stop`] to it for the length of one run. A cancel that
//! comes before is heard at the start, one during the run stops it, one after it touches nothing, for the stopper
//! is detached under the same lock. Without a cancel a run pays for one uncontended lock at each end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Stops what an engine does now. Called on the thread that cancels, at most once a run; must not block.
pub trait Stop: Send + Sync + std::fmt::Debug {
    /// Asks the run to end soon; the engine notices at its next step.
    fn stop(&self);
}

/// Whether a run is wanted still. Shared by who waits for the run and the thread that runs it.
#[derive(Debug, Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    deaf: bool,
    stopper: Mutex<Option<Arc<dyn Stop>>>,
}

impl Cancel {
    /// A cancel that nobody will ever ask for: attaching to it costs nothing. For a run on the caller's own thread.
    #[must_use]
    pub const fn never() -> Self {
        Self { cancelled: AtomicBool::new(false), deaf: true, stopper: Mutex::new(None) }
    }

    /// Asks the run to stop, now or when it starts. Doing so twice, or after the run, changes nothing.
    pub fn cancel(&self) {
        if self.deaf {
            return;
        }
        let mut stopper = self.stopper.lock().unwrap_or_else(PoisonError::into_inner);
        self.cancelled.store(true, Ordering::Release);
        if let Some(stopper) = stopper.take() {
            stopper.stop();
        }
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Lets a cancel reach `stopper` until the guard is dropped; nothing when the run is not wanted any more.
    ///
    /// One run at a time attaches; a second one would take the place of the first.
    #[must_use]
    pub fn attach<S: Stop + 'static>(&self, stopper: &Arc<S>) -> Option<Attached<'_>> {
        if self.deaf {
            return Some(Attached { cancel: None });
        }
        let mut place = self.stopper.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_cancelled() {
            return None;
        }
        *place = Some(Arc::clone(stopper) as Arc<dyn Stop>);
        Some(Attached { cancel: Some(self) })
    }
}

/// An engine's ear at a [`Cancel`]. Once it is dropped no cancel reaches the stopper.
#[derive(Debug)]
pub struct Attached<'a> {
    cancel: Option<&'a Cancel>,
}

impl Attached<'_> {
    /// Detaches; true if the stopper was called, so that the engine can make itself ready for its next run.
    #[must_use]
    pub fn detach(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        let Some(cancel) = self.cancel.take() else { return false };
        // Whoever cancels takes the stopper out of its place to call it.
        cancel.stopper.lock().unwrap_or_else(PoisonError::into_inner).take().is_none()
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Debug, Default)]
    struct Stops(AtomicUsize);

    impl Stop for Stops {
        fn stop(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn stops(stopper: &Stops) -> usize {
        stopper.0.load(Ordering::SeqCst)
    }

    #[test]
    fn a_cancel_during_the_run_stops_it_once() {
        let (cancel, stopper) = (Cancel::default(), Arc::new(Stops::default()));
        let attached = cancel.attach(&stopper).unwrap();
        cancel.cancel();
        cancel.cancel();
        assert!(attached.detach() && cancel.is_cancelled());
        assert_eq!(stops(&stopper), 1);
    }

    #[test]
    fn a_cancel_before_the_run_keeps_it_from_starting() {
        let (cancel, stopper) = (Cancel::default(), Arc::new(Stops::default()));
        cancel.cancel();
        assert!(cancel.attach(&stopper).is_none());
        assert_eq!(stops(&stopper), 0);
    }

    #[test]
    fn a_cancel_after_the_run_never_reaches_the_stopper() {
        let (cancel, stopper) = (Cancel::default(), Arc::new(Stops::default()));
        assert!(!cancel.attach(&stopper).unwrap().detach());
        drop(cancel.attach(&stopper));
        cancel.cancel();
        assert_eq!(stops(&stopper), 0);
        assert_eq!(Arc::strong_count(&stopper), 1, "the cancel holds on to nothing");
    }

    #[test]
    fn a_run_that_nobody_can_cancel_is_never_stopped() {
        let (cancel, stopper) = (Cancel::never(), Arc::new(Stops::default()));
        let attached = cancel.attach(&stopper).unwrap();
        cancel.cancel();
        assert!(!attached.detach() && !cancel.is_cancelled());
        assert_eq!(stops(&stopper), 0);
    }
}
