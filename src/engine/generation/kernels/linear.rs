//! A panel of sixteen rows times some tokens.
//!
//! A token's sum for a row runs over the columns in their order, each group of 32 exact in whole numbers and then added
//! with one rounding; how many tokens go through the kernel at once changes nothing of it.

use super::lanes::Lanes;
use crate::engine::generation::weights::{Layout, PANEL_ROWS};
use bytemuck::{Pod, Zeroable};

/// Tokens that go through a kernel at once.
pub const TOKENS_MAX: usize = 8;

/// 32 numbers of an input as signed bytes: `number = scale * byte`.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Group {
    /// Four bytes each, in the order of the columns.
    pub quads: [i32; 8],
    /// What a byte stands for.
    pub scale: f32,
    /// The sum of all bytes times the scale.
    pub scaled_sum: f32,
    /// The sums of the first and the last 16 bytes.
    pub sums: [i32; 2],
}

/// Cuts `N` bytes off the front.
#[inline(always)]
fn cut<'a, const N: usize>(bytes: &mut &'a [u8]) -> &'a [u8; N] {
    match bytes.split_first_chunk::<N>() {
        Some((chunk, rest)) => {
            *bytes = rest;
            chunk
        }
        None => panic!("a panel is whole: its size was computed from its layout"),
    }
}

/// See [`super::quantised_panel`].
#[inline(always)]
pub(super) fn quantised<V: Lanes>(layout: Layout, panel: &[u8], tokens: &[&[Group]], sums: &mut [[f32; PANEL_ROWS]]) {
    let (mut tokens, mut sums) = (tokens, sums);
    // Fewer sizes than counts: what is left goes through in halves.
    while let Some((now, later)) = tokens.split_first_chunk::<8>() {
        by_layout::<V, 8>(layout, panel, now, &mut sums[..8]);
        (tokens, sums) = (later, &mut sums[8..]);
    }
    while let Some((now, later)) = tokens.split_first_chunk::<4>() {
        by_layout::<V, 4>(layout, panel, now, &mut sums[..4]);
        (tokens, sums) = (later, &mut sums[4..]);
    }
    while let Some((now, later)) = tokens.split_first_chunk::<2>() {
        by_layout::<V, 2>(layout, panel, now, &mut sums[..2]);
        (tokens, sums) = (later, &mut sums[2..]);
    }
    while let Some((now, later)) = tokens.split_first_chunk::<1>() {
        by_layout::<V, 1>(layout, panel, now, &mut sums[..1]);
        (tokens, sums) = (later, &mut sums[1..]);
    }
}

#[inline(always)]
fn by_layout<V: Lanes, const T: usize>(layout: Layout, panel: &[u8], tokens: &[&[Group]; T], sums: &mut [[f32; PANEL_ROWS]]) {
    let totals = match layout {
        Layout::Nibbles => scaled::<V, T, true, false>(panel, tokens, 8),
        Layout::NibblesFrom => scaled::<V, T, true, true>(panel, tokens, 0),
        Layout::Bytes => scaled::<V, T, false, false>(panel, tokens, 128),
        Layout::BytesFrom => scaled::<V, T, false, true>(panel, tokens, 0),
        Layout::NibblesK => factored::<V, T, true>(panel, tokens),
        Layout::BytesK => factored::<V, T, false>(panel, tokens),
        Layout::BytesHalves => halves::<V, T>(panel, tokens),
        Layout::F32 | Layout::F16 | Layout::Bf16 => panic!("plain numbers go through `plain_panels`"),
    };
    for (sum, total) in sums.iter_mut().zip(totals) {
        total.store(sum);
    }
}

/// The bytes of a group of 32 columns, four columns to a register.
#[inline(always)]
fn values<V: Lanes, const NIBBLES: bool>(panel: &mut &[u8]) -> [V::Quads; 8] {
    if NIBBLES {
        let packed: [V::Quads; 4] = {
            let bytes = cut::<256>(panel).as_chunks::<64>().0;
            [V::load_quads(&bytes[0]), V::load_quads(&bytes[1]), V::load_quads(&bytes[2]), V::load_quads(&bytes[3])]
        };
        let [a, b, c, d] = packed;
        let (low, high) = (V::low_nibbles, V::high_nibbles);
        [low(a), low(b), low(c), low(d), high(a), high(b), high(c), high(d)]
    } else {
        let bytes = cut::<512>(panel).as_chunks::<64>().0;
        let load = |at: usize| V::load_quads(&bytes[at]);
        [load(0), load(1), load(2), load(3), load(4), load(5), load(6), load(7)]
    }
}

/// The products of some registers with as many quads of an input, summed from `start`. Whole numbers: the order is free.
#[inline(always)]
fn products<V: Lanes, const SMALL: bool, const N: usize>(start: i32, values: [V::Quads; N], quads: [i32; N]) -> V::Whole {
    let mut sum = V::whole(start);
    for at in 0..N {
        sum = if SMALL { V::dot_small(sum, values[at], quads[at]) } else { V::dot(sum, values[at], quads[at]) };
    }
    sum
}

/// Groups with a scale of their own, and with or without a least value.
#[inline(always)]
fn scaled<V: Lanes, const T: usize, const NIBBLES: bool, const FROM: bool>(panel: &[u8], tokens: &[&[Group]; T], offset: i32) -> [V; T] {
    let mut panel = panel;
    let mut totals = [V::splat(0.0); T];
    for at in 0..tokens[0].len() {
        let scale = V::load_f16(cut::<32>(&mut panel));
        let least = if FROM { V::load_f16(cut::<32>(&mut panel)) } else { V::splat(0.0) };
        let values = values::<V, NIBBLES>(&mut panel);
        for (total, token) in totals.iter_mut().zip(tokens) {
            let group = &token[at];
            let start = if FROM { 0 } else { -offset * (group.sums[0] + group.sums[1]) };
            // Numbers with a least value have five bits at most; those around 128 need all eight.
            let sum = if NIBBLES || FROM {
                products::<V, true, 8>(start, values, group.quads)
            } else {
                products::<V, false, 8>(start, values, group.quads)
            };
            *total = V::from_whole(sum).fma(scale.mul(V::splat(group.scale)), *total);
            if FROM {
                *total = least.fma(V::splat(group.scaled_sum), *total);
            }
        }
    }
    totals
}

/// Eight groups below one scale, with small factors for each.
#[inline(always)]
fn factored<V: Lanes, const T: usize, const NIBBLES: bool>(panel: &[u8], tokens: &[&[Group]; T]) -> [V; T] {
    let mut panel = panel;
    let mut totals = [V::splat(0.0); T];
    for first in (0..tokens[0].len()).step_by(8) {
        let scale = V::load_f16(cut::<32>(&mut panel));
        let least = V::splat(0.0).sub(V::load_f16(cut::<32>(&mut panel)));
        for at in first..first + 8 {
            let scale = scale.mul(V::load_u8(cut::<16>(&mut panel)));
            let least = least.mul(V::load_u8(cut::<16>(&mut panel)));
            let values = values::<V, NIBBLES>(&mut panel);
            for (total, token) in totals.iter_mut().zip(tokens) {
                let group = &token[at];
                let sum = products::<V, true, 8>(0, values, group.quads);
                *total = V::from_whole(sum).fma(scale.mul(V::splat(group.scale)), *total);
                *total = least.fma(V::splat(group.scaled_sum), *total);
            }
        }
    }
    totals
}

/// Eight groups below one scale, with a factor for each half of them.
#[inline(always)]
fn halves<V: Lanes, const T: usize>(panel: &[u8], tokens: &[&[Group]; T]) -> [V; T] {
    const OFFSET: i32 = 32;
    let mut panel = panel;
    let mut totals = [V::splat(0.0); T];
    for first in (0..tokens[0].len()).step_by(8) {
        let scale = V::load_f16(cut::<32>(&mut panel));
        for at in first..first + 8 {
            let factors = [cut::<16>(&mut panel), cut::<16>(&mut panel)];
            let scales = [scale.mul(V::load_i8(factors[0])), scale.mul(V::load_i8(factors[1]))];
            let values = values::<V, false>(&mut panel);
            let (first_half, second_half) = ([values[0], values[1], values[2], values[3]], [values[4], values[5], values[6], values[7]]);
            for (total, token) in totals.iter_mut().zip(tokens) {
                let group = &token[at];
                let [q0, q1, q2, q3, q4, q5, q6, q7] = group.quads;
                let one = products::<V, true, 4>(-OFFSET * group.sums[0], first_half, [q0, q1, q2, q3]);
                let other = products::<V, true, 4>(-OFFSET * group.sums[1], second_half, [q4, q5, q6, q7]);
                let token_scale = V::splat(group.scale);
                *total = V::from_whole(one).fma(scales[0].mul(token_scale), *total);
                *total = V::from_whole(other).fma(scales[1].mul(token_scale), *total);
            }
        }
    }
    totals
}

/// See [`super::plain_panels`].
#[inline(always)]
pub(super) fn plain<V: Lanes>(layout: Layout, panels: &[&[u8]], tokens: &[&[f32]], sums: &mut [[f32; PANEL_ROWS]]) {
    match layout {
        Layout::F32 => plain_tiles::<V, 64>(panels, tokens, sums, |bytes| {
            let numbers =
                std::array::from_fn(|at| f32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]]));
            V::load(&numbers)
        }),
        Layout::F16 => plain_tiles::<V, 32>(panels, tokens, sums, V::load_f16),
        _ => plain_tiles::<V, 32>(panels, tokens, sums, V::load_bf16),
    }
}

/// A sum is one chain of additions, so several chains must run side by side: many tokens of one panel, or many panels.
#[inline(always)]
fn plain_tiles<V: Lanes, const BYTES: usize>(
    panels: &[&[u8]],
    tokens: &[&[f32]],
    sums: &mut [[f32; PANEL_ROWS]],
    load: impl Fn(&[u8; BYTES]) -> V + Copy,
) {
    let (mut panels, mut first) = (panels, 0);
    while let Some((now, later)) = panels.split_first_chunk::<4>() {
        some_panels::<V, BYTES, 4>(now, tokens, &mut sums[first * tokens.len()..], load);
        (panels, first) = (later, first + 4);
    }
    while let Some((now, later)) = panels.split_first_chunk::<1>() {
        some_panels::<V, BYTES, 1>(now, tokens, &mut sums[first * tokens.len()..], load);
        (panels, first) = (later, first + 1);
    }
}

#[inline(always)]
fn some_panels<V: Lanes, const BYTES: usize, const P: usize>(
    panels: &[&[u8]; P],
    tokens: &[&[f32]],
    sums: &mut [[f32; PANEL_ROWS]],
    load: impl Fn(&[u8; BYTES]) -> V + Copy,
) {
    let (mut at, count) = (0, tokens.len());
    while at < count {
        let rest = &tokens[at..];
        let done = match rest.len() {
            8.. if P == 1 => {
                tile::<V, BYTES, P, 8>(panels, rest, load, |panel, token, total| total.store(&mut sums[panel * count + at + token]))
            }
            4.. => tile::<V, BYTES, P, 4>(panels, rest, load, |panel, token, total| total.store(&mut sums[panel * count + at + token])),
            2.. => tile::<V, BYTES, P, 2>(panels, rest, load, |panel, token, total| total.store(&mut sums[panel * count + at + token])),
            _ => tile::<V, BYTES, P, 1>(panels, rest, load, |panel, token, total| total.store(&mut sums[panel * count + at + token])),
        };
        at += done;
    }
}

#[inline(always)]
fn tile<V: Lanes, const BYTES: usize, const P: usize, const T: usize>(
    panels: &[&[u8]; P],
    tokens: &[&[f32]],
    load: impl Fn(&[u8; BYTES]) -> V + Copy,
    mut put: impl FnMut(usize, usize, V),
) -> usize {
    let columns = panels.map(|panel| panel.as_chunks::<BYTES>().0);
    let mut totals = [[V::splat(0.0); T]; P];
    let length = tokens[0].len();
    for column in 0..length {
        for (totals, columns) in totals.iter_mut().zip(&columns) {
            let weights = load(&columns[column]);
            for (total, token) in totals.iter_mut().zip(tokens) {
                *total = weights.fma(V::splat(token[column]), *total);
            }
        }
    }
    for (panel, totals) in totals.into_iter().enumerate() {
        for (token, total) in totals.into_iter().enumerate() {
            put(panel, token, total);
        }
    }
    T
}
