//! Encoders run by Candle, each runner within threads of its own.
//!
//! Candle spreads its work over the pool of threads that it is called in. Called in none it would take one that the whole
//! process shares; so each runner has a pool of as many threads as one run may use, and never more work than the budget says.

use super::encoder::{Encoder, Packed};
use super::model::{Backend, Runner};
use super::tokenizer::Row;
use crate::engine::{Cancel, EngineError, Placement};
use candle_core::Device;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;

/// An encoder in memory.
#[derive(Debug)]
pub(super) struct CandleBackend {
    encoder: Arc<Encoder>,
    mark: Option<u32>,
    device: Device,
    threads: usize,
    placement: Placement,
}

impl CandleBackend {
    /// `mark` is the token that stands for something to be found; `threads` are what one run may use.
    #[must_use]
    pub(super) fn new(encoder: Encoder, mark: Option<u32>, device: Device, threads: usize) -> Self {
        Self { encoder: Arc::new(encoder), mark, device, threads, placement: Placement::Cpu }
    }

    /// The same, where it computes.
    #[must_use]
    pub(super) fn at(self, placement: Placement) -> Self {
        Self { placement, ..self }
    }
}

impl Backend for CandleBackend {
    fn runner(&self) -> Result<Box<dyn Runner>, EngineError> {
        let pool = ThreadPoolBuilder::new().num_threads(self.threads.max(1)).thread_name(|_| "encoder".to_owned()).build();
        let pool = pool.map_err(|error| EngineError::Failed(format!("no threads for an encoder: {error}")))?;
        Ok(Box::new(CandleRunner { encoder: Arc::clone(&self.encoder), mark: self.mark, device: self.device.clone(), pool }))
    }

    fn vocabulary(&self) -> usize {
        self.encoder.vocabulary()
    }

    fn pads(&self) -> bool {
        false
    }

    fn placement(&self) -> Placement {
        self.placement.clone()
    }
}

#[derive(Debug)]
struct CandleRunner {
    encoder: Arc<Encoder>,
    mark: Option<u32>,
    device: Device,
    pool: ThreadPool,
}

impl Runner for CandleRunner {
    fn run(&mut self, rows: &[&Row], cancel: &Cancel) -> Result<Vec<Vec<f32>>, EngineError> {
        let batch = Packed::new(rows, self.mark, &self.device).map_err(|error| EngineError::Failed(error.to_string()))?;
        let encoder = &self.encoder;
        self.pool.install(|| encoder.run(&batch, cancel))
    }
}
