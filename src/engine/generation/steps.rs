//! What a scheduler asks of a model: to compute the next tokens of some sequences, and to read texts where an encoder does that.

use super::decoder::{Decoder, ReadText, Runner, Segment, Store};
use std::fmt::Debug;

/// A text that an encoder reads, and the blocks that hold its keys and values afterwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) tokens: &'a [u32],
    pub(super) blocks: &'a [u32],
}

impl<'a> Text<'a> {
    /// What tokens that look at it need to know of it.
    pub(super) const fn read(self) -> ReadText<'a> {
        ReadText { tokens: self.tokens.len(), blocks: self.blocks }
    }
}

/// A model with its threads and its room for keys and values.
pub(super) trait Steps: Send + Debug {
    /// Threads that a step uses.
    fn threads(&self) -> usize;

    /// Blocks of keys and values.
    fn blocks(&self) -> usize;

    /// Numbers of a row of logits.
    fn vocabulary(&self) -> usize;

    /// Reads texts, all of each at once. A model without an encoder has none to read.
    fn read(&mut self, texts: &[Text<'_>]);

    /// See [`Runner::step`].
    ///
    /// # Errors
    /// Why the step could not be computed; a device may fail.
    fn step(&mut self, segments: &[Segment<'_>], wanted: &[usize], logits: &mut Vec<f32>) -> Result<(), String>;
}

/// A decoder that continues its prompt.
#[derive(Debug)]
pub(super) struct Continues {
    pub(super) decoder: Decoder,
    pub(super) runner: Runner,
    pub(super) store: Store,
}

impl Steps for Continues {
    fn threads(&self) -> usize {
        self.runner.threads()
    }

    fn blocks(&self) -> usize {
        self.store.blocks()
    }

    fn vocabulary(&self) -> usize {
        self.decoder.vocabulary()
    }

    fn read(&mut self, _: &[Text<'_>]) {}

    fn step(&mut self, segments: &[Segment<'_>], wanted: &[usize], logits: &mut Vec<f32>) -> Result<(), String> {
        self.runner.step(&self.decoder, &mut self.store, segments, wanted, logits);
        Ok(())
    }
}
