//! Attention of a few queries over the keys and values of one sequence, block by block.
//!
//! Keys lie with sixteen positions side by side, values with their dimensions side by side: a register holds sixteen
//! scores, or sixteen dimensions of a result, and sums never run across lanes but for the largest score and the sum of the
//! weights. Positions are taken in steps of [`STEP_TOKENS`] from the first one of the sequence, whoever asks: a query's
//! result depends on nothing but its own position.

use super::lanes::Lanes;
use super::rows::tanh;

/// Positions of one block of keys and values.
pub const BLOCK_TOKENS: usize = 16;
/// Queries that go through the kernel at once.
pub const QUERIES_MAX: usize = 8;
/// Positions between two looks at the largest score.
const STEP_TOKENS: usize = 64;

/// The keys and values of one head of one sequence, and what the queries may see of them.
#[derive(Debug)]
pub struct Attention<'a> {
    /// Numbers of a query, a key, a value; a multiple of 16.
    pub dimensions: usize,
    /// All keys and values: a block's keys `[dimension][position]`, then its values `[position][dimension]`, as `f16`.
    pub store: &'a [u16],
    /// The blocks, in the order of positions.
    pub blocks: &'a [u32],
    /// Numbers of the store from one block to the next, and from a block's beginning to this head's keys.
    pub block_stride: usize,
    /// See there.
    pub offset: usize,
    /// For each query: the first position that it sees, and the first that it does not.
    pub ranges: &'a [(usize, usize)],
    /// Replaces a score by `cap * tanh(score / cap)`; 0: does not.
    pub soft_cap: f32,
    /// For each query, what is added to its score at each position from 0 on; empty: nothing is.
    pub biases: &'a [&'a [f32]],
}

impl Attention<'_> {
    #[inline(always)]
    const fn start(&self, block: u32) -> usize {
        block as usize * self.block_stride + self.offset
    }
}

/// See [`super::attend`].
#[inline(always)]
pub(super) fn attend<V: Lanes>(attention: &Attention<'_>, queries: &[f32], out: &mut [f32]) {
    match attention.ranges.len() {
        0 => {}
        1 => some::<V, 1, 4>(attention, queries, out),
        2 => some::<V, 2, 4>(attention, queries, out),
        3 => some::<V, 3, 2>(attention, queries, out),
        4 => some::<V, 4, 2>(attention, queries, out),
        5..=6 => padded::<V, 6>(attention, queries, out),
        _ => padded::<V, 8>(attention, queries, out),
    }
}

/// Queries are filled up with zeros.
#[inline(always)]
fn padded<V: Lanes, const Q: usize>(attention: &Attention<'_>, queries: &[f32], out: &mut [f32]) {
    let (count, dimensions) = (attention.ranges.len(), attention.dimensions);
    if count == Q {
        return some::<V, Q, 2>(attention, queries, out);
    }
    let mut ranges = [attention.ranges[0]; QUERIES_MAX];
    ranges[..count].copy_from_slice(attention.ranges);
    let mut biases: [&[f32]; QUERIES_MAX] = [&[]; QUERIES_MAX];
    biases[..attention.biases.len()].copy_from_slice(attention.biases);
    let biases = if attention.biases.is_empty() { &[][..] } else { &biases[..Q] };
    let mut queries = queries.to_vec();
    queries.resize(Q * dimensions, 0.0);
    let mut results = vec![0.0; Q * dimensions];
    some::<V, Q, 2>(&Attention { ranges: &ranges[..Q], biases, ..*attention }, &queries, &mut results);
    out.copy_from_slice(&results[..count * dimensions]);
}

/// `Q` queries, `C` registers of each side by side.
#[inline(always)]
fn some<V: Lanes, const Q: usize, const C: usize>(attention: &Attention<'_>, queries: &[f32], out: &mut [f32]) {
    let first = attention.ranges.iter().map(|range| range.0).min().unwrap_or(0) / STEP_TOKENS * STEP_TOKENS;
    let last = attention.ranges.iter().map(|range| range.1).max().unwrap_or(0);
    let mut largest = [f32::NEG_INFINITY; Q];
    let mut sums = [0.0_f32; Q];
    out.fill(0.0);
    let mut scores = [[0.0_f32; STEP_TOKENS]; Q];
    for start in (first..last).step_by(STEP_TOKENS) {
        let blocks = &attention.blocks[start / BLOCK_TOKENS..(start + STEP_TOKENS).min(last).div_ceil(BLOCK_TOKENS)];
        score::<V, Q, C>(attention, queries, blocks, &mut scores);
        for query in 0..Q {
            let (from, to) = attention.ranges[query];
            let visible = (from.max(start) - start).min(STEP_TOKENS)..(to.min(start + STEP_TOKENS)).saturating_sub(start);
            if let Some(biases) = attention.biases.get(query) {
                let there = start.min(biases.len())..(start + STEP_TOKENS).min(biases.len());
                scores[query].iter_mut().zip(&biases[there]).for_each(|(score, bias)| *score += bias);
            }
            let old = largest[query];
            let shrink = weigh::<V>(&mut scores[query], visible, attention.soft_cap, &mut largest[query], &mut sums[query]);
            if largest[query] > old && old > f32::NEG_INFINITY {
                let out = &mut out[query * attention.dimensions..][..attention.dimensions];
                for lanes in out.as_chunks_mut::<16>().0 {
                    V::load(lanes).mul(V::splat(shrink)).store(lanes);
                }
            }
        }
        gather::<V, Q, C>(attention, blocks, &scores, out);
    }
    for (query, sum) in sums.into_iter().enumerate() {
        let inverse = V::splat(1.0 / sum);
        for lanes in out[query * attention.dimensions..][..attention.dimensions].as_chunks_mut::<16>().0 {
            V::load(lanes).mul(inverse).store(lanes);
        }
    }
}

/// Sixteen `f16` of the store.
#[inline(always)]
fn sixteen<V: Lanes>(store: &[u16], at: usize) -> V {
    let bytes: &[u8] = bytemuck::cast_slice(&store[at..at + 16]);
    match bytes.first_chunk::<32>() {
        Some(bytes) => V::load_f16(bytes),
        None => V::splat(0.0),
    }
}

/// Queries times keys. Scores beyond the last block are left as they are.
#[inline(always)]
fn score<V: Lanes, const Q: usize, const C: usize>(
    attention: &Attention<'_>,
    queries: &[f32],
    blocks: &[u32],
    scores: &mut [[f32; STEP_TOKENS]; Q],
) {
    let dimensions = attention.dimensions;
    for (at, some) in blocks.chunks(C).enumerate() {
        let mut sums = [[V::splat(0.0); C]; Q];
        for dimension in 0..dimensions {
            let mut keys = [V::splat(0.0); C];
            for (key, &block) in keys.iter_mut().zip(some) {
                *key = sixteen(attention.store, attention.start(block) + dimension * BLOCK_TOKENS);
            }
            for (query, sums) in sums.iter_mut().enumerate() {
                let number = V::splat(queries[query * dimensions + dimension]);
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = key.fma(number, *sum);
                }
            }
        }
        for (sums, scores) in sums.iter().zip(scores.iter_mut()) {
            let lanes = scores.as_chunks_mut::<16>().0;
            for (part, sum) in sums.iter().enumerate().take(some.len()) {
                sum.store(&mut lanes[at * C + part]);
            }
        }
    }
}

/// Turns the scores of one query into weights relative to the largest score so far; tells by how much earlier results shrink.
#[inline(always)]
fn weigh<V: Lanes>(scores: &mut [f32; STEP_TOKENS], visible: std::ops::Range<usize>, cap: f32, largest: &mut f32, sum: &mut f32) -> f32 {
    if visible.is_empty() {
        scores.fill(0.0);
        return 1.0;
    }
    if cap > 0.0 {
        for lanes in scores.as_chunks_mut::<16>().0 {
            tanh(V::load(lanes).mul(V::splat(1.0 / cap))).mul(V::splat(cap)).store(lanes);
        }
    }
    scores[..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..].fill(f32::NEG_INFINITY);
    let mut peak = V::splat(f32::NEG_INFINITY);
    for lanes in scores.as_chunks::<16>().0 {
        peak = V::load(lanes).max(peak);
    }
    let new = peak.max_of_all().max(*largest);
    let shrink = if new > *largest { exp_of::<V>(*largest - new) } else { 1.0 };
    for lanes in scores.as_chunks_mut::<16>().0 {
        V::load(lanes).sub(V::splat(new)).exp().store(lanes);
    }
    // The exponential of minus infinity is not quite nothing.
    scores[..visible.start].fill(0.0);
    scores[visible.end..].fill(0.0);
    let mut total = V::splat(0.0);
    for lanes in scores.as_chunks::<16>().0 {
        total = total.add(V::load(lanes));
    }
    *sum = sum.mul_add(shrink, total.sum_of_all());
    *largest = new;
    shrink
}

#[inline(always)]
fn exp_of<V: Lanes>(x: f32) -> f32 {
    let mut lanes = [0.0; 16];
    V::splat(x).exp().store(&mut lanes);
    lanes[0]
}

/// Weights times values, added to the results.
#[inline(always)]
fn gather<V: Lanes, const Q: usize, const C: usize>(
    attention: &Attention<'_>,
    blocks: &[u32],
    weights: &[[f32; STEP_TOKENS]; Q],
    out: &mut [f32],
) {
    let dimensions = attention.dimensions;
    for first in (0..dimensions).step_by(16 * C) {
        let parts = ((dimensions - first) / 16).min(C);
        let mut sums = [[V::splat(0.0); C]; Q];
        for (sums, out) in sums.iter_mut().zip(out.chunks(dimensions)) {
            for (sum, lanes) in sums.iter_mut().take(parts).zip(out[first..].as_chunks::<16>().0) {
                *sum = V::load(lanes);
            }
        }
        for (at, &block) in blocks.iter().enumerate() {
            for position in 0..BLOCK_TOKENS {
                let row = attention.start(block) + dimensions * BLOCK_TOKENS + position * dimensions + first;
                let mut values = [V::splat(0.0); C];
                for (part, value) in values.iter_mut().enumerate().take(parts) {
                    *value = sixteen(attention.store, row + part * 16);
                }
                for (sums, weights) in sums.iter_mut().zip(weights) {
                    let weight = V::splat(weights[at * BLOCK_TOKENS + position]);
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = value.fma(weight, *sum);
                    }
                }
            }
        }
        for (sums, out) in sums.iter().zip(out.chunks_mut(dimensions)) {
            for (sum, lanes) in sums.iter().take(parts).zip(out[first..].as_chunks_mut::<16>().0) {
                sum.store(lanes);
            }
        }
    }
}
