//! What is done to one token's numbers between the matrices: norms, activations, quantising.

use super::lanes::Lanes;
use super::linear::Group;
use half::f16;

/// The function between the two halves of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// The Gaussian error unit by its usual approximation with `tanh`.
    GeluTanh,
    /// The number itself, or 0 where it is negative.
    Relu,
}

/// Sixteen numbers, the last ones filled up.
#[inline(always)]
fn part(numbers: &[f32], at: usize, fill: f32) -> [f32; 16] {
    let rest = &numbers[at..];
    match rest.first_chunk::<16>() {
        Some(chunk) => *chunk,
        None => std::array::from_fn(|lane| rest.get(lane).copied().unwrap_or(fill)),
    }
}

#[inline(always)]
fn put(out: &mut [f32], at: usize, lanes: &[f32; 16]) {
    let count = (out.len() - at).min(16);
    out[at..at + count].copy_from_slice(&lanes[..count]);
}

/// See [`super::rms_norm`].
#[inline(always)]
pub(super) fn rms_norm<V: Lanes>(numbers: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let mut squares = V::splat(0.0);
    for at in (0..numbers.len()).step_by(16) {
        let part = V::load(&part(numbers, at, 0.0));
        squares = part.fma(part, squares);
    }
    #[expect(clippy::cast_precision_loss, reason = "a width is far below 2^24")]
    let mean = squares.sum_of_all() / numbers.len() as f32;
    let factor = V::splat(1.0 / (mean + epsilon).sqrt());
    let mut lanes = [0.0; 16];
    for at in (0..numbers.len()).step_by(16) {
        V::load(&part(numbers, at, 0.0)).mul(factor).mul(V::load(&part(weight, at, 0.0))).store(&mut lanes);
        put(out, at, &lanes);
    }
}

/// See [`super::gated`].
#[inline(always)]
pub(super) fn gated<V: Lanes>(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let mut lanes = [0.0; 16];
    for at in (0..gate.len()).step_by(16) {
        let x = V::load(&part(gate, at, 0.0));
        let activated = match activation {
            Activation::Silu => silu(x),
            Activation::GeluTanh => gelu_tanh(x),
            Activation::Relu => x.max(V::splat(0.0)),
        };
        activated.mul(V::load(&part(up, at, 0.0))).store(&mut lanes);
        put(out, at, &lanes);
    }
}

#[inline(always)]
fn silu<V: Lanes>(x: V) -> V {
    x.div(V::splat(1.0).add(V::splat(0.0).sub(x).exp()))
}

/// `x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 x^3))`, which is the form with `tanh`.
#[inline(always)]
fn gelu_tanh<V: Lanes>(x: V) -> V {
    const TWICE_ROOT: f32 = 1.595_769;
    let inner = x.mul(x).mul(x).fma(V::splat(0.044_715), x).mul(V::splat(-TWICE_ROOT));
    x.div(V::splat(1.0).add(inner.exp()))
}

/// `1 - 2 / (exp(2 x) + 1)`.
#[inline(always)]
pub(super) fn tanh<V: Lanes>(x: V) -> V {
    let doubled = x.add(x).exp();
    V::splat(1.0).sub(V::splat(2.0).div(doubled.add(V::splat(1.0))))
}

/// See [`super::soft_cap`].
#[inline(always)]
pub(super) fn soft_cap<V: Lanes>(cap: f32, logits: &mut [f32]) {
    let mut lanes = [0.0; 16];
    for at in (0..logits.len()).step_by(16) {
        let x = V::load(&part(logits, at, 0.0));
        tanh(x.mul(V::splat(1.0 / cap))).mul(V::splat(cap)).store(&mut lanes);
        put(logits, at, &lanes);
    }
}

/// See [`super::softmax_sums`].
#[inline(always)]
pub(super) fn softmax_sums<V: Lanes>(numbers: &[f32]) -> (f32, f32) {
    let mut largest = V::splat(f32::NEG_INFINITY);
    for at in (0..numbers.len()).step_by(16) {
        largest = V::load(&part(numbers, at, f32::NEG_INFINITY)).max(largest);
    }
    let largest = largest.max_of_all();
    let mut sum = V::splat(0.0);
    for at in (0..numbers.len()).step_by(16) {
        sum = sum.add(V::load(&part(numbers, at, f32::NEG_INFINITY)).sub(V::splat(largest)).exp());
    }
    (largest, sum.sum_of_all())
}

/// See [`super::quantise`].
#[inline(always)]
pub(super) fn quantise<V: Lanes>(numbers: &[f32], groups: &mut [Group]) {
    for (numbers, group) in numbers.as_chunks::<32>().0.iter().zip(groups) {
        let (low, high) = (V::load(&part(numbers, 0, 0.0)), V::load(&part(numbers, 16, 0.0)));
        let largest = low.abs().max(high.abs()).max_of_all();
        let scale = largest / 127.0;
        let inverse = V::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let mut whole = [[0_i32; 16]; 2];
        low.mul(inverse).to_whole(&mut whole[0]);
        high.mul(inverse).to_whole(&mut whole[1]);
        *group = group_of(&whole, scale);
    }
}

#[inline(always)]
fn group_of(whole: &[[i32; 16]; 2], scale: f32) -> Group {
    let sums = [whole[0].iter().sum(), whole[1].iter().sum()];
    let quad = |at: usize| {
        let four: [i32; 4] = std::array::from_fn(|byte| whole[at / 4][at % 4 * 4 + byte]);
        (four[0] & 255) | (four[1] & 255) << 8 | (four[2] & 255) << 16 | four[3] << 24
    };
    #[expect(clippy::cast_precision_loss, reason = "32 bytes add up to less than 2^13")]
    let scaled_sum = scale * (sums[0] + sums[1]) as f32;
    // llama.cpp keeps both in half precision; so do we, for the same answers.
    let half = |number: f32| f16::from_f32(number).to_f32();
    Group { quads: std::array::from_fn(quad), scale: half(scale), scaled_sum: half(scaled_sum), sums }
}
