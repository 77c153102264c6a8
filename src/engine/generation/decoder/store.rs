//! Keys and values of all sequences, in blocks of sixteen positions.

use super::HEAD_MAX;
use crate::engine::generation::kernels::BLOCK_TOKENS;
use crate::engine::generation::scatter::Scatter;
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// Tokens of one sequence in a step.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Their ids.
    pub tokens: &'a [u32],
    /// The position of the first one in its sequence.
    pub position: usize,
    /// The blocks of the sequence, enough for all its positions up to the last of these tokens.
    pub blocks: &'a [u32],
    /// What an encoder made of another text that these tokens look at too.
    pub text: ReadText<'a>,
}

impl Segment<'_> {
    /// The positions of its tokens.
    pub(in crate::engine::generation) const fn positions(&self) -> Range<usize> {
        self.position..self.position + self.tokens.len()
    }
}

/// The keys and values of a text that an encoder read; empty where a model has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadText<'a> {
    /// Tokens of it.
    pub tokens: usize,
    /// The blocks that hold them.
    pub blocks: &'a [u32],
}

/// How many keys and values there are of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreShape {
    /// Layers.
    pub layers: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers of one head.
    pub dimensions: usize,
}

impl StoreShape {
    /// Bytes of one block of sixteen tokens.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        BLOCK_TOKENS * self.layers * 2 * self.kv_heads * self.dimensions * size_of::<u16>()
    }
}

/// Room for the keys and values of so many blocks. A block holds, for each layer and each head of keys and values, the keys
/// `[dimension][position]`, then the values `[position][dimension]`, as `f16`.
#[derive(Debug)]
pub struct Store {
    numbers: Vec<u16>,
    dimensions: usize,
    kv_heads: usize,
    block_stride: usize,
    blocks: usize,
}

impl Store {
    /// Room for so many blocks. The system gives the memory only as blocks are used.
    #[must_use]
    pub fn new(shape: StoreShape, blocks: usize) -> Self {
        let block_stride = shape.block_bytes() / size_of::<u16>();
        Self { numbers: vec![0; blocks * block_stride], dimensions: shape.dimensions, kv_heads: shape.kv_heads, block_stride, blocks }
    }

    /// How many blocks there are.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.blocks
    }

    pub(in crate::engine::generation) fn numbers(&self) -> &[u16] {
        &self.numbers
    }

    pub(in crate::engine::generation) fn numbers_mut(&mut self) -> &mut [u16] {
        &mut self.numbers
    }

    pub(in crate::engine::generation) const fn block_stride(&self) -> usize {
        self.block_stride
    }

    /// Where the keys of a head begin in a block.
    pub(in crate::engine::generation) const fn offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * 2 * BLOCK_TOKENS * self.dimensions
    }

    /// Where the heads of a layer lie in a block.
    pub(in crate::engine::generation) fn slots(&self, layer: usize) -> Slots {
        let starts = (0..self.kv_heads).map(|head| self.offset(layer, head)).collect();
        Slots { dimensions: self.dimensions, stride: self.block_stride, starts }
    }
}

/// Block and slot of each token of a step.
pub(in crate::engine::generation) fn places(segments: &[Segment<'_>]) -> Vec<(u32, usize)> {
    let mut places = Vec::new();
    for segment in segments {
        let positions = segment.positions();
        places.extend(positions.map(|position| (segment.blocks[position / BLOCK_TOKENS], position % BLOCK_TOKENS)));
    }
    places
}

/// Where the heads of one layer lie in a block.
#[derive(Debug)]
pub(in crate::engine::generation) struct Slots {
    dimensions: usize,
    stride: usize,
    starts: Vec<usize>,
}

impl Slots {
    /// Puts the keys and values of a token into its slot.
    pub(in crate::engine::generation) fn remember(
        &self,
        (block, slot): (u32, usize),
        (keys, values): (&[f32], &[f32]),
        numbers: &Scatter<'_, u16>,
    ) {
        let dimensions = self.dimensions;
        let mut halves = [f16::ZERO; HEAD_MAX];
        for (head, start) in self.starts.iter().enumerate() {
            let start = block as usize * self.stride + start;
            let halves = &mut halves[..dimensions];
            to_halves(&keys[head * dimensions..][..dimensions], halves);
            for (dimension, half) in halves.iter().enumerate() {
                let at = start + dimension * BLOCK_TOKENS + slot;
                #[expect(unsafe_code, reason = "threads write to one buffer")]
                // SAFETY: a token's slot of its block belongs to the task of the token alone; no other sequence writes to the block.
                let slot = unsafe { numbers.part(at..at + 1) };
                slot[0] = half.to_bits();
            }
            to_halves(&values[head * dimensions..][..dimensions], halves);
            let at = start + (BLOCK_TOKENS + slot) * dimensions;
            #[expect(unsafe_code, reason = "threads write to one buffer")]
            // SAFETY: as above.
            let out = unsafe { numbers.part(at..at + dimensions) };
            out.copy_from_slice(bytemuck::cast_slice(halves));
        }
    }
}

/// The nearest half-precision numbers; what is too large becomes the largest, so that nothing remembered is infinite.
fn to_halves(numbers: &[f32], halves: &mut [f16]) {
    const LARGEST: f32 = 65504.0;
    let mut clamped = [0.0_f32; HEAD_MAX];
    for (clamped, number) in clamped.iter_mut().zip(numbers) {
        *clamped = number.clamp(-LARGEST, LARGEST);
    }
    halves.convert_from_f32_slice(&clamped[..numbers.len()]);
}
