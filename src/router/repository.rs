//! Load and unload by hand: what a client asks of the model repository, handed to the control side.
//!
//! The doors hold a [`Repository`], the control side its receiver. The queue between them is short: a
//! caller that finds it full is told so.

use crate::inference::InferenceError;
use crate::router::Route;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for the control side.
const WAITING_MAX: usize = 16;

/// What to do with a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Load it, also when it was unloaded by hand before; done once it serves.
    Load,
    /// Drain and unload it; it stays known and answers 503 until it is loaded again.
    Unload,
}

/// One command to the control side.
#[derive(Debug)]
pub struct Command {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
    /// What to do.
    pub action: Action,
    /// Where the outcome goes. A dropped sender tells the caller that the server is stopping.
    pub reply: oneshot::Sender<Result<(), InferenceError>>,
}

/// Sends commands to the control side. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    commands: mpsc::Sender<Command>,
}

impl Repository {
    /// The two ends: one for the doors, one for the control side.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(WAITING_MAX);
        (Self { commands }, received)
    }

    /// Asks for an action and waits until it is done.
    ///
    /// Dropping the future does not stop what has begun.
    ///
    /// # Errors
    /// What the control side answers; `Overloaded` when too many commands wait; `ModelNotReady` when the
    /// control side has ended.
    pub async fn ask(&self, route: &Route, action: Action) -> Result<(), InferenceError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { namespace: route.namespace.clone(), service: route.service.clone(), action, reply };
        self.commands.try_send(command).map_err(|error| refusal(route, &error))?;
        answer.await.unwrap_or_else(|_| Err(stopping(route)))
    }
}

fn refusal(route: &Route, error: &mpsc::error::TrySendError<Command>) -> InferenceError {
    match error {
        mpsc::error::TrySendError::Full(_) => {
            InferenceError::Overloaded { model: route.model_name.to_string(), queued: WAITING_MAX, retry_after: Duration::from_secs(1) }
        }
        mpsc::error::TrySendError::Closed(_) => stopping(route),
    }
}

fn stopping(route: &Route) -> InferenceError {
    InferenceError::ModelNotReady { name: route.model_name.to_string(), reason: "The server is stopping.".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Target;

    fn route() -> Route {
        Route {
            namespace: "default".to_owned(),
            service: "iris".to_owned(),
            model_name: "iris".into(),
            timeout_s: 1,
            batcher_replies: false,
            target: Target::NotReady(String::new()),
        }
    }

    #[tokio::test]
    async fn a_command_names_its_service_and_brings_the_outcome_back() {
        let (repository, mut commands) = Repository::channel();
        let (route, control) = (route(), async {
            let command = commands.recv().await.unwrap();
            assert_eq!((command.namespace.as_str(), command.service.as_str(), command.action), ("default", "iris", Action::Unload));
            command.reply.send(Ok(())).unwrap();
        });
        let (outcome, ()) = tokio::join!(repository.ask(&route, Action::Unload), control);
        assert_eq!(outcome, Ok(()));
    }

    #[tokio::test]
    async fn a_stopped_control_side_is_told_to_the_caller() {
        let (repository, commands) = Repository::channel();
        drop(commands);
        assert!(matches!(repository.ask(&route(), Action::Load).await, Err(InferenceError::ModelNotReady { .. })));
    }
}
