//! Waking a model that sleeps: the doors ask, the control side loads, everyone who asked waits for one load.
//!
//! A door holds a [`Waker`] as part of a route and knows nothing else of the control side. The first request
//! asks; those after it only wait. A caller that leaves stops nothing.

use crate::inference::InferenceError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

/// Services that may ask at once; each asks once per sleep.
const ASKING_MAX: usize = 4096;

/// One service that is to be woken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
}

/// Where wakers send what they ask; the control side holds the other end.
pub type Asks = mpsc::Sender<Ask>;

/// The two ends: one for all wakers, one for the control side.
#[must_use]
pub fn channel() -> (Asks, mpsc::Receiver<Ask>) {
    mpsc::channel(ASKING_MAX)
}

/// How a sleep ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    NotYet,
    Awake,
    Failed(InferenceError),
}

/// Wakes one service from one sleep. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Waker {
    ask: Ask,
    asks: Asks,
    asked: Arc<AtomicBool>,
    end: watch::Receiver<End>,
}

/// The control side's end of one sleep: tells those who wait how it ended. Dropped, it sends them to look at
/// the route table again.
#[derive(Debug)]
pub struct Sleep {
    end: watch::Sender<End>,
}

impl Sleep {
    /// The model answers; its route is in the table already.
    pub fn awake(self) {
        self.end.send_replace(End::Awake);
    }

    /// The model could not be loaded.
    pub fn failed(self, error: InferenceError) {
        self.end.send_replace(End::Failed(error));
    }
}

impl Waker {
    /// A new sleep of a service: what its route holds, and what the control side keeps.
    #[must_use]
    pub fn new(ask: Ask, asks: Asks) -> (Self, Sleep) {
        let (end, told) = watch::channel(End::NotYet);
        (Self { ask, asks, asked: Arc::default(), end: told }, Sleep { end })
    }

    /// Asks for the model and waits until the sleep is over; then the route table has the way to it.
    ///
    /// Cancel safe: a dropped future stops nothing.
    ///
    /// # Errors
    /// Why the model could not be loaded; `Overloaded` when too many services wake at once; `DeadlineExceeded`.
    pub async fn wake(&self, model: &str, deadline: Instant) -> Result<(), InferenceError> {
        self.ask(model)?;
        let (began, mut end) = (Instant::now(), self.end.clone());
        match timeout_at(deadline, end.wait_for(|end| *end != End::NotYet)).await {
            Ok(Ok(end)) => match &*end {
                End::Failed(error) => Err(error.clone()),
                End::NotYet | End::Awake => Ok(()),
            },
            // Replaced by something else: the table says by what.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(InferenceError::DeadlineExceeded { model: model.to_owned(), timeout: deadline.saturating_duration_since(began) }),
        }
    }

    /// Sends the one question of this sleep.
    fn ask(&self, model: &str) -> Result<(), InferenceError> {
        if self.asked.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.asks.try_send(self.ask.clone()).map_err(|error| {
            self.asked.store(false, Ordering::Release);
            refusal(model, &error)
        })
    }
}

fn refusal(model: &str, error: &mpsc::error::TrySendError<Ask>) -> InferenceError {
    match error {
        mpsc::error::TrySendError::Full(_) => {
            InferenceError::Overloaded { model: model.to_owned(), queued: ASKING_MAX, retry_after: Duration::from_secs(1) }
        }
        mpsc::error::TrySendError::Closed(_) => {
            InferenceError::ModelNotReady { name: model.to_owned(), reason: "The server is stopping.".to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asleep() -> (Waker, Sleep, mpsc::Receiver<Ask>) {
        let (asks, asked) = channel();
        let ask = Ask { namespace: "default".to_owned(), service: "iris".to_owned() };
        let (waker, sleep) = Waker::new(ask, asks);
        (waker, sleep, asked)
    }

    fn in_a_minute() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_ask_once_and_all_hear_that_it_is_awake() {
        let (waker, sleep, mut asked) = asleep();
        let callers = futures::future::join_all((0..8).map(|_| waker.wake("iris", in_a_minute())));
        let control = async {
            assert_eq!(asked.recv().await.unwrap().service, "iris");
            sleep.awake();
        };
        let (results, ()) = tokio::join!(callers, control);
        assert!(results.iter().all(Result::is_ok));
        assert!(asked.try_recv().is_err(), "the others only wait");
        assert_eq!(waker.wake("iris", in_a_minute()).await, Ok(()), "whoever comes late is sent to the table");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_wake_is_told_with_its_reason() {
        let (waker, sleep, mut asked) = asleep();
        let error = InferenceError::ModelNotReady { name: "iris".to_owned(), reason: "no such file".to_owned() };
        let control = async {
            asked.recv().await.unwrap();
            sleep.failed(error.clone());
        };
        let (result, ()) = tokio::join!(waker.wake("iris", in_a_minute()), control);
        assert_eq!(result, Err(error));
    }

    #[tokio::test(start_paused = true)]
    async fn each_caller_waits_within_its_own_deadline_and_the_question_stays() {
        let (waker, sleep, mut asked) = asleep();
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(matches!(waker.wake("iris", soon).await, Err(InferenceError::DeadlineExceeded { .. })));
        assert!(asked.try_recv().is_ok());
        sleep.awake();
        assert_eq!(waker.wake("iris", in_a_minute()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_that_was_replaced_sends_its_callers_to_the_table() {
        let (waker, sleep, _asked) = asleep();
        drop(sleep);
        assert_eq!(waker.wake("iris", in_a_minute()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_side_that_ended_is_told_to_the_caller() {
        let (waker, _sleep, asked) = asleep();
        drop(asked);
        assert!(matches!(waker.wake("iris", in_a_minute()).await, Err(InferenceError::ModelNotReady { .. })));
    }
}
