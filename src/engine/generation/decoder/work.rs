//! The numbers of a step, one row for each token, and what becomes of them between matrices.

use super::each_row;
use super::linear::Input;
use super::store::Segment;
use crate::engine::generation::kernels::{self, Level};
use crate::engine::generation::team::Team;

/// Numbers of a step, one row for each token.
#[derive(Debug, Default)]
pub(in crate::engine::generation) struct Work {
    pub(in crate::engine::generation) hidden: Vec<f32>,
    pub(in crate::engine::generation) normed: Vec<f32>,
    /// Queries, keys and values side by side.
    pub(in crate::engine::generation) qkv: Vec<f32>,
    pub(in crate::engine::generation) attended: Vec<f32>,
    /// What leads into a feed-forward layer: a gate and what it gates side by side, or one row alone.
    pub(in crate::engine::generation) wide: Vec<f32>,
    pub(in crate::engine::generation) gated: Vec<f32>,
    pub(in crate::engine::generation) input: Input,
}

impl Work {
    /// Begins with the embeddings of all tokens, each of so many numbers.
    pub(in crate::engine::generation) fn embed(&mut self, segments: &[Segment<'_>], width: usize, embed: impl Fn(u32, &mut [f32])) {
        let tokens: usize = segments.iter().map(|segment| segment.tokens.len()).sum();
        self.hidden.resize(tokens * width, 0.0);
        let ids = segments.iter().flat_map(|segment| segment.tokens);
        for (row, &id) in self.hidden.chunks_mut(width).zip(ids) {
            embed(id, row);
        }
    }

    /// Norms what is between layers; a row has as many numbers as there are weights.
    pub(in crate::engine::generation) fn norm(&mut self, team: &mut Team, level: Level, weight: &[f32], epsilon: f32) {
        let (width, numbers) = (weight.len(), &self.hidden);
        self.normed.resize(numbers.len(), 0.0);
        each_row(team, &mut self.normed, width, numbers.len() / width, |token, out| {
            kernels::rms_norm(level, &numbers[token * width..][..width], weight, epsilon, out);
        });
    }

    /// Makes the normed rows the input of the next matrices.
    pub(in crate::engine::generation) fn take_normed(&mut self, team: &mut Team, level: Level, width: usize, quantised: bool) {
        self.input.take(team, level, &self.normed, width, quantised);
    }

    /// Lets go of all rows but the wanted ones.
    pub(in crate::engine::generation) fn keep_rows(&mut self, wanted: &[usize], width: usize) {
        // Rows are wanted in their order, so none is overwritten before it moved.
        for (to, &from) in wanted.iter().enumerate() {
            self.hidden.copy_within(from * width..(from + 1) * width, to * width);
        }
        self.hidden.truncate(wanted.len() * width);
    }
}
