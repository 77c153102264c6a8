//! Stops a run of ONNX Runtime at its next node, and never a later one.

use super::EngineError;
use crate::engine::cancel::{Attached, Cancel, Stop};
use ort::session::RunOptions;
use std::sync::Arc;

/// The run options of one worker, made once: their flag is what ends a run.
#[derive(Debug)]
pub(super) struct Stopper {
    options: Arc<Options>,
}

struct Options(RunOptions);

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Options")
    }
}

impl Stop for Options {
    fn stop(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::warn!(%error, "a run cannot be stopped");
        }
    }
}

impl Stopper {
    pub(super) fn new() -> ort::Result<Self> {
        Ok(Self { options: Arc::new(Options(RunOptions::new()?)) })
    }

    /// Does one run with these options, which a cancel stops at the next node.
    ///
    /// # Errors
    /// `Cancelled` where a cancel came before its end; a run that was through by then counts.
    pub(super) fn during<T>(&mut self, cancel: &Cancel, run: impl FnOnce(&RunOptions) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let attached = cancel.attach(&self.options).ok_or(EngineError::Cancelled)?;
        let result = run(&self.options.0);
        if self.was_stopped(attached)? { result.map_err(|_| EngineError::Cancelled) } else { result }
    }

    /// Detaches, and takes the flag back so that the next run starts without it.
    fn was_stopped(&self, attached: Attached<'_>) -> Result<bool, EngineError> {
        let stopped = attached.detach();
        if stopped {
            self.options.0.unterminate().map_err(|error| EngineError::Failed(error.message().to_owned()))?;
        }
        Ok(stopped)
    }
}
