//! Keys and values on a device, and how tokens look at them.

use super::capped;
use crate::engine::generation::architecture::{Architecture, ByWindow};
use crate::engine::generation::decoder::{Segment, places};
use crate::engine::generation::kernels::BLOCK_TOKENS;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops;

/// Scores of one piece of attention at most: a prompt far into a long text is looked at piece by piece.
const SCORES_MAX: usize = 32 << 20;
/// How much longer than the shortest the longest of sequences may be that look together.
const UNEVEN: usize = 2;

/// Room for the keys and values of so many blocks: for each layer `[slots, kv_heads * dimensions]` of both, in a type of two bytes.
#[derive(Debug)]
pub(super) struct Store {
    layers: Vec<(Tensor, Tensor)>,
    blocks: usize,
    numbers: DType,
}

impl Store {
    pub(super) fn new(architecture: &Architecture, blocks: usize, numbers: DType, device: &Device) -> Result<Self> {
        let numbers = if numbers == DType::BF16 { DType::BF16 } else { DType::F16 };
        let room = || Tensor::zeros((blocks * BLOCK_TOKENS, architecture.kv_width()), numbers, device);
        let layers = (0..architecture.layers).map(|_| Ok((room()?, room()?))).collect::<Result<_>>()?;
        Ok(Self { layers, blocks, numbers })
    }

    pub(super) const fn blocks(&self) -> usize {
        self.blocks
    }

    /// Puts the keys and values of a step's tokens, `[tokens, kv_width]`, into their slots.
    pub(super) fn remember(&self, layer: usize, slots: &Tensor, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (all_keys, all_values) = &self.layers[layer];
        all_keys.scatter_set(slots, &self.narrowed(keys)?, 0)?;
        all_values.scatter_set(slots, &self.narrowed(values)?, 0)
    }

    /// What is too large becomes the largest, so that nothing remembered is infinite.
    fn narrowed(&self, x: &Tensor) -> Result<Tensor> {
        const LARGEST: f64 = 65504.0;
        let x = if self.numbers == DType::F16 && x.dtype() != DType::F16 { x.clamp(-LARGEST, LARGEST)? } else { x.clone() };
        x.to_dtype(self.numbers)?.contiguous()
    }
}

/// How the tokens of a step look at what is remembered; the same for all layers.
#[derive(Debug)]
pub(super) struct Looks {
    /// The slot of each token, once for each number of its keys: `[tokens, kv_width]`.
    pub(super) slots: Tensor,
    groups: Vec<Look>,
    /// Where each token's row stands among the rows of all looks.
    order: Tensor,
}

/// Some sequences, each with as many tokens.
#[derive(Debug)]
struct Look {
    sequences: usize,
    tokens: usize,
    /// Positions that are looked at, those of the longest.
    length: usize,
    /// The tokens' rows in the step.
    rows: Tensor,
    /// The slots of all positions, sequence after sequence.
    slots: Tensor,
    /// `[sequences, 1, tokens, length]`: 0, or minus infinity where a token does not look.
    mask: ByWindow<Tensor>,
}

/// Tokens of one sequence that look at once.
#[derive(Debug, Clone, Copy)]
struct Glance<'a> {
    row: usize,
    position: usize,
    tokens: usize,
    blocks: &'a [u32],
}

impl Glance<'_> {
    const fn length(&self) -> usize {
        self.position + self.tokens
    }
}

impl Looks {
    pub(super) fn new(architecture: &Architecture, segments: &[Segment<'_>], device: &Device) -> Result<Self> {
        let groups = groups(glances(segments, architecture.heads), architecture.heads);
        let tokens: usize = segments.iter().map(|segment| segment.tokens.len()).sum();
        let mut order = vec![0; tokens];
        let rows = groups.iter().flatten().flat_map(|glance| glance.row..glance.row + glance.tokens);
        rows.enumerate().for_each(|(at, row)| order[row] = place(at));
        let slots: Vec<u32> = places(segments).into_iter().map(|(block, slot)| slot_of(block, slot)).collect();
        let slots = Tensor::new(slots, device)?.unsqueeze(1)?.expand((tokens, architecture.kv_width()))?.contiguous()?;
        let groups = groups.iter().map(|group| Look::new(group, architecture.window, device)).collect::<Result<_>>()?;
        Ok(Self { slots, groups, order: Tensor::new(order, device)? })
    }

    /// Queries `[tokens, heads, dimensions]` to `[tokens, heads * dimensions]`.
    pub(super) fn attend(&self, architecture: &Architecture, layer: usize, store: &Store, queries: &Tensor) -> Result<Tensor> {
        let of_look = |look: &Look| look.attend(architecture, layer, store, queries);
        Tensor::cat(&self.groups.iter().map(of_look).collect::<Result<Vec<_>>>()?, 0)?.index_select(&self.order, 0)
    }
}

impl Look {
    fn new(group: &[Glance<'_>], window: Option<usize>, device: &Device) -> Result<Self> {
        let (sequences, tokens) = (group.len(), group[0].tokens);
        let length = group.iter().map(Glance::length).max().unwrap_or(0);
        let rows: Vec<u32> = group.iter().flat_map(|glance| glance.row..glance.row + tokens).map(place).collect();
        let mut slots = Vec::with_capacity(sequences * length);
        for glance in group {
            // Beyond its end a sequence looks at its first slot, and the mask takes it away.
            let slot = |at: usize| glance.blocks.get(at / BLOCK_TOKENS).map(|&block| slot_of(block, at % BLOCK_TOKENS));
            slots.extend((0..length).map(|at| slot(at).filter(|_| at < glance.length()).or_else(|| slot(0)).unwrap_or(0)));
        }
        let positions = || group.iter().flat_map(|glance| glance.position..glance.length());
        let column = |numbers: Vec<u32>| Tensor::from_vec(numbers, (sequences, 1, tokens, 1), device);
        let seen = Tensor::arange(0, place(length), device)?.reshape((1, 1, 1, length))?;
        let before = seen.broadcast_le(&column(positions().map(place).collect())?)?;
        let windowed = window.map(|window| {
            let first = positions().map(|position| place((position + 1).saturating_sub(window))).collect();
            masked(&(&before * seen.broadcast_ge(&column(first)?)?)?)
        });
        Ok(Self {
            sequences,
            tokens,
            length,
            rows: Tensor::new(rows, device)?,
            slots: Tensor::new(slots, device)?,
            mask: ByWindow { usual: masked(&before)?, windowed: windowed.transpose()? },
        })
    }

    fn attend(&self, architecture: &Architecture, layer: usize, store: &Store, queries: &Tensor) -> Result<Tensor> {
        let (heads, kv_heads, dimensions) = (architecture.heads, architecture.kv_heads, architecture.head_dimensions);
        let (sequences, tokens, length, sharing) = (self.sequences, self.tokens, self.length, heads / kv_heads);
        let mask = self.mask.of(architecture.is_windowed(layer));
        let queries = queries.index_select(&self.rows, 0)?.reshape((sequences, tokens, heads, dimensions))?;
        let queries = queries.transpose(1, 2)?.contiguous()?.reshape((sequences, kv_heads, sharing * tokens, dimensions))?;
        let (keys, values) = &store.layers[layer];
        let of_sequences = |all: &Tensor| {
            let found = all.index_select(&self.slots, 0)?.reshape((sequences, length, kv_heads, dimensions))?;
            found.transpose(1, 2)?.contiguous()?.to_dtype(queries.dtype())
        };
        let scores = queries.matmul(&of_sequences(keys)?.transpose(2, 3)?.contiguous()?)?.to_dtype(DType::F32)?;
        let scores = capped(scores, architecture.attention_cap)?.reshape((sequences, heads, tokens, length))?;
        let shares = ops::softmax_last_dim(&scores.broadcast_add(mask)?)?.to_dtype(queries.dtype())?;
        let found = shares.reshape((sequences, kv_heads, sharing * tokens, length))?.matmul(&of_sequences(values)?)?;
        let found = found.reshape((sequences, heads, tokens, dimensions))?.transpose(1, 2)?.contiguous()?;
        found.reshape((sequences * tokens, heads * dimensions))
    }
}

/// 0 where a token looks, minus infinity elsewhere.
fn masked(looks: &Tensor) -> Result<Tensor> {
    let none = Tensor::full(f32::NEG_INFINITY, looks.shape(), looks.device())?;
    looks.where_cond(&none.zeros_like()?, &none)
}

/// Pieces of sequences whose scores are not too many.
fn glances<'a>(segments: &'a [Segment<'a>], heads: usize) -> Vec<Glance<'a>> {
    let (mut glances, mut row) = (Vec::new(), 0);
    for segment in segments {
        let count = segment.tokens.len();
        let at_once = (SCORES_MAX / (heads * (segment.position + count)).max(1)).max(1);
        for first in (0..count).step_by(at_once) {
            let tokens = at_once.min(count - first);
            glances.push(Glance { row: row + first, position: segment.position + first, tokens, blocks: segment.blocks });
        }
        row += count;
    }
    glances
}

/// Those of one token look together, as far as they are about as long and not too many; others each alone.
fn groups(mut glances: Vec<Glance<'_>>, heads: usize) -> Vec<Vec<Glance<'_>>> {
    glances.sort_by_key(|glance| (glance.tokens, glance.length()));
    let mut groups: Vec<Vec<Glance<'_>>> = Vec::new();
    for glance in glances {
        let fits = |group: &&mut Vec<Glance<'_>>| {
            let even = glance.length() <= group[0].length().max(BLOCK_TOKENS) * UNEVEN;
            let few = (group.len() + 1) * heads * glance.length() <= SCORES_MAX;
            glance.tokens == 1 && group[0].tokens == 1 && even && few
        };
        match groups.last_mut().filter(fits) {
            Some(group) => group.push(glance),
            None => groups.push(vec![glance]),
        }
    }
    groups
}

fn slot_of(block: u32, slot: usize) -> u32 {
    block * place(BLOCK_TOKENS) + place(slot)
}

/// A row or a slot; there are never more than fit.
pub(super) fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::generation::decoder::ReadText;

    #[test]
    fn long_prompts_are_looked_at_piece_by_piece_and_answers_of_about_one_length_together() {
        let (many, one) = ([0; 100], [0]);
        let segment = |position, tokens| Segment { tokens, position, blocks: &[], text: ReadText::default() };
        let sizes = |segments: &[Segment<'_>]| {
            let looks = groups(glances(segments, 32), 32);
            looks.iter().map(|group| group.iter().map(|glance| (glance.row, glance.tokens)).collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(sizes(&[segment(0, &many)]), [[(0, 100)]]);
        assert_eq!(sizes(&[segment(20_000, &many)]), [[(52, 48)], [(0, 52)]]);
        let answers = [segment(30, &one[..]), segment(500, &one), segment(10, &one), segment(0, &many)];
        assert_eq!(sizes(&answers), [vec![(2, 1), (0, 1)], vec![(1, 1)], vec![(3, 100)]]);
    }
}
