//! Keys and values of all sequences, in blocks of sixteen positions.

use crate::engine::generation::architecture::Architecture;
use crate::engine::generation::kernels::BLOCK_TOKENS;

/// Tokens of one sequence in a step.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Their ids.
    pub tokens: &'a [u32],
    /// The position of the first one in its sequence.
    pub position: usize,
    /// The blocks of the sequence, enough for all its positions up to the last of these tokens.
    pub blocks: &'a [u32],
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
    pub fn new(architecture: &Architecture, blocks: usize) -> Self {
        let block_stride = Self::block_bytes(architecture) / size_of::<u16>();
        let (dimensions, kv_heads) = (architecture.head_dimensions, architecture.kv_heads);
        Self { numbers: vec![0; blocks * block_stride], dimensions, kv_heads, block_stride, blocks }
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(architecture: &Architecture) -> usize {
        BLOCK_TOKENS * architecture.kv_bytes_per_token()
    }

    /// How many blocks there are.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn numbers(&self) -> &[u16] {
        &self.numbers
    }

    pub(super) fn numbers_mut(&mut self) -> &mut [u16] {
        &mut self.numbers
    }

    pub(super) const fn block_stride(&self) -> usize {
        self.block_stride
    }

    /// Where the keys of a head begin in a block.
    pub(super) const fn offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * 2 * BLOCK_TOKENS * self.dimensions
    }
}
