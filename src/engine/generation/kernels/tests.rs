//! Every level gives the bits of the plain one, and the plain one is right.

use super::*;
use crate::engine::generation::weights::{Dtype, Matrix, Pages, StoredTensor};
use half::f16;

/// Numbers without a pattern, the same each time.
pub(super) struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn float(&mut self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "any number does")]
        let number = (self.next() % 20001) as f32 / 10000.0 - 1.0;
        number
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

const DTYPES: [Dtype; 11] = [
    Dtype::F32,
    Dtype::F16,
    Dtype::Bf16,
    Dtype::Q4_0,
    Dtype::Q4_1,
    Dtype::Q5_0,
    Dtype::Q5_1,
    Dtype::Q8_0,
    Dtype::Q4K,
    Dtype::Q5K,
    Dtype::Q6K,
];

/// Rows of random blocks whose scales are sane.
fn stored(dtype: Dtype, rows: usize, columns: usize, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rows * columns / dtype.block() {
        let half = |number: f32| f16::from_f32(number).to_le_bytes();
        let start = bytes.len();
        match dtype {
            Dtype::F32 => bytes.extend(noise.float().to_le_bytes()),
            Dtype::F16 => bytes.extend(half(noise.float())),
            Dtype::Bf16 => bytes.extend(half::bf16::from_f32(noise.float()).to_le_bytes()),
            _ => {
                bytes.extend((0..dtype.block_bytes()).map(|_| noise.next().to_le_bytes()[0]));
                let halves: &[usize] = match dtype {
                    Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4K | Dtype::Q5K => &[0, 2],
                    Dtype::Q6K => &[208],
                    _ => &[0],
                };
                for at in halves {
                    bytes[start + at..start + at + 2].copy_from_slice(&half(noise.float() / 50.0));
                }
            }
        }
    }
    bytes
}

fn in_turn(count: usize, run: &(dyn Fn(usize) + Sync)) {
    (0..count).for_each(run);
}

fn groups_of(level: Level, tokens: &[Vec<f32>]) -> Vec<Vec<Group>> {
    let quantised = |token: &Vec<f32>| {
        let mut groups = vec![bytemuck::Zeroable::zeroed(); token.len() / 32];
        quantise(level, token, &mut groups);
        groups
    };
    tokens.iter().map(quantised).collect()
}

/// What the matrix gives for the tokens at a level, panel after panel.
fn multiplied(level: Level, matrix: &Matrix, tokens: &[Vec<f32>]) -> Vec<[f32; PANEL_ROWS]> {
    let mut sums = vec![[0.0; PANEL_ROWS]; matrix.panels() * tokens.len()];
    if matrix.layout().is_quantised() {
        let groups = groups_of(level, tokens);
        let groups: Vec<&[Group]> = groups.iter().map(Vec::as_slice).collect();
        for panel in 0..matrix.panels() {
            quantised_panel(level, matrix.layout(), matrix.panel(panel), &groups, &mut sums[panel * tokens.len()..][..tokens.len()]);
        }
    } else {
        let panels: Vec<&[u8]> = (0..matrix.panels()).map(|panel| matrix.panel(panel)).collect();
        let tokens: Vec<&[f32]> = tokens.iter().map(Vec::as_slice).collect();
        plain_panels(level, matrix.layout(), &panels, &tokens, &mut sums);
    }
    sums
}

#[test]
fn every_level_multiplies_every_type_to_the_same_bits_and_the_right_numbers() {
    for dtype in DTYPES {
        let (rows, columns, mut noise) = (83, 512, Noise(7));
        let bytes = stored(dtype, rows, columns, &mut noise);
        let stored = StoredTensor { dtype, shape: vec![rows, columns], bytes: &bytes };
        let matrix = Matrix::pack(&stored, &mut Pages::default(), &mut in_turn).unwrap();
        let tokens: Vec<Vec<f32>> = (0..15).map(|_| noise.floats(columns)).collect();
        let plain = multiplied(Level::Plain, &matrix, &tokens);
        for level in Level::all() {
            assert!(plain == multiplied(level, &matrix, &tokens), "{dtype} at {level:?}");
            // A token's numbers are the same alone and among others.
            for (at, token) in tokens.iter().enumerate() {
                let alone = multiplied(level, &matrix, std::slice::from_ref(token));
                let among: Vec<_> = plain.iter().skip(at).step_by(tokens.len()).copied().collect();
                assert!(alone == among, "{dtype} at {level:?}: token {at}");
            }
        }
        check_numbers(dtype, &stored, &tokens, &plain);
    }
}

/// Against sums in double precision; 8-bit inputs differ from the tokens by at most half a step.
fn check_numbers(dtype: Dtype, stored: &StoredTensor<'_>, tokens: &[Vec<f32>], sums: &[[f32; PANEL_ROWS]]) {
    let ((rows, columns), weights) = (stored.rows_and_columns(), stored.to_f32());
    for (at, token) in tokens.iter().enumerate() {
        for row in 0..rows {
            let weights = &weights[row * columns..][..columns];
            let exact: f64 = weights.iter().zip(token).map(|(weight, number)| f64::from(*weight) * f64::from(*number)).sum();
            let slack: f64 = weights.iter().map(|weight| f64::from(weight.abs())).sum::<f64>() / 254.0;
            let slack = if Layout::of(dtype).is_quantised() { slack } else { 1e-4 };
            let found = f64::from(sums[row / PANEL_ROWS * tokens.len() + at][row % PANEL_ROWS]);
            assert!((exact - found).abs() <= slack, "{dtype} row {row} token {at}: {exact} and {found}, slack {slack}");
        }
    }
    let beyond = &sums[(rows / PANEL_ROWS) * tokens.len()..];
    assert!(beyond.iter().all(|lanes| lanes[rows % PANEL_ROWS..].iter().all(|number| *number == 0.0)), "rows beyond the end are nothing");
}

#[test]
fn bytes_times_their_scale_are_the_numbers_within_half_a_step() {
    let numbers = Noise(3).floats(64);
    for level in Level::all() {
        let groups = groups_of(level, std::slice::from_ref(&numbers));
        assert_eq!(groups, groups_of(Level::Plain, std::slice::from_ref(&numbers)), "{level:?}");
        for (group, numbers) in groups[0].iter().zip(numbers.chunks(32)) {
            let bytes: Vec<i8> = group.quads.iter().flat_map(|quad| quad.to_le_bytes().map(u8::cast_signed)).collect();
            for (byte, number) in bytes.iter().zip(numbers) {
                assert!((f32::from(*byte) * group.scale - number).abs() <= group.scale * 0.57);
            }
            assert_eq!(group.sums[0] + group.sums[1], bytes.iter().map(|&byte| i32::from(byte)).sum::<i32>());
        }
    }
    let mut nothing = [Group { quads: [1; 8], scale: 1.0, scaled_sum: 1.0, sums: [1; 2] }];
    quantise(Level::best(), &[0.0; 32], &mut nothing);
    assert_eq!(nothing[0], bytemuck::Zeroable::zeroed());
}

type Body<'a> = &'a dyn Fn(Level, &mut [f32]);

fn near(found: &[f32], exact: impl Iterator<Item = f64>, slack: f64) {
    for (at, (found, exact)) in found.iter().zip(exact).enumerate() {
        assert!((f64::from(*found) - exact).abs() <= slack * exact.abs().max(1.0), "number {at}: {found} and {exact}");
    }
}

#[test]
fn norms_and_activations_are_right_and_the_same_on_every_level() {
    let mut noise = Noise(5);
    let (x, weight) = (noise.floats(83), noise.floats(83));
    let wide: Vec<f32> = x.iter().map(|x| x * 9.0).collect();
    let of = |level, body: &dyn Fn(Level, &mut [f32])| {
        let mut out = vec![0.0; 83];
        body(level, &mut out);
        out
    };
    let bodies: [Body<'_>; 4] = [
        &|level, out| rms_norm(level, &x, &weight, 1e-5, out),
        &|level, out| gated(level, Activation::Silu, &wide, &weight, out),
        &|level, out| gated(level, Activation::GeluTanh, &wide, &weight, out),
        &|level, out| {
            out.copy_from_slice(&wide);
            soft_cap(level, 3.0, out);
        },
    ];
    for level in Level::all() {
        for (at, body) in bodies.iter().enumerate() {
            assert!(of(level, body) == of(Level::Plain, body), "{at} at {level:?}");
        }
    }
    let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 83.0;
    let pairs = || wide.iter().zip(&weight).map(|(&x, &weight)| (f64::from(x), f64::from(weight)));
    near(&of(Level::best(), bodies[0]), x.iter().zip(&weight).map(|(&x, &w)| f64::from(x) / (mean + 1e-5).sqrt() * f64::from(w)), 1e-6);
    near(&of(Level::best(), bodies[1]), pairs().map(|(x, weight)| x / (1.0 + (-x).exp()) * weight), 1e-6);
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
    near(&of(Level::best(), bodies[2]), pairs().map(|(x, weight)| gelu(x) * weight), 1e-6);
    near(&of(Level::best(), bodies[3]), wide.iter().map(|&x| (f64::from(x) / 3.0).tanh() * 3.0), 1e-6);
}

#[test]
fn the_sum_of_exponentials_is_relative_to_the_largest() {
    let numbers: Vec<f32> = Noise(9).floats(1003).iter().map(|x| x * 30.0).collect();
    let mut found = (0.0, 0.0);
    softmax_sums(Level::best(), &numbers, &mut found);
    let largest = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = numbers.iter().map(|&x| f64::from(x - largest).exp()).sum();
    assert!(found.0.to_bits() == largest.to_bits() && (f64::from(found.1) / sum - 1.0).abs() < 1e-6, "{found:?} and {sum}");
    for level in Level::all() {
        let mut same = (0.0, 0.0);
        softmax_sums(level, &numbers, &mut same);
        assert!(same == found, "{level:?}");
    }
}

/// Keys and values of `positions` in blocks that lie in the store in reverse.
fn remembered(positions: usize, dimensions: usize, noise: &mut Noise) -> (Vec<u16>, Vec<u32>, [Vec<Vec<f32>>; 2]) {
    let (count, size) = (positions.div_ceil(BLOCK_TOKENS), 2 * BLOCK_TOKENS * dimensions);
    let mut store = vec![0_u16; count * size];
    let blocks: Vec<u32> = (0..u32::try_from(count).unwrap()).rev().collect();
    let mut both = [Vec::new(), Vec::new()];
    for position in 0..positions {
        let start = blocks[position / BLOCK_TOKENS] as usize * size;
        let slot = position % BLOCK_TOKENS;
        for (kind, rows) in both.iter_mut().enumerate() {
            let row: Vec<f32> = noise.floats(dimensions).iter().map(|&number| f16::from_f32(number).to_f32()).collect();
            for (dimension, &number) in row.iter().enumerate() {
                let keys = start + dimension * BLOCK_TOKENS + slot;
                let values = start + dimensions * BLOCK_TOKENS + slot * dimensions + dimension;
                store[if kind == 0 { keys } else { values }] = f16::from_f32(number).to_bits();
            }
            rows.push(row);
        }
    }
    (store, blocks, both)
}

fn exact_attention(
    query: &[f32],
    [keys, values]: &[Vec<Vec<f32>>; 2],
    (from, to): (usize, usize),
    cap: f64,
    bias: impl Fn(usize) -> f64,
) -> Vec<f64> {
    let dot = |key: &Vec<f32>| query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
    let capped = |score: f64| if cap > 0.0 { cap * (score / cap).tanh() } else { score };
    let weights: Vec<f64> = (from..to).map(|at| capped(dot(&keys[at]) + bias(at)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let weighed = |dimension: usize| {
        let products = weights.iter().zip(&values[from..to]).map(|(weight, value)| weight * f64::from(value[dimension]));
        products.sum::<f64>() / sum
    };
    (0..query.len()).map(weighed).collect()
}

#[test]
fn attention_is_right_for_any_number_of_queries_any_window_and_on_every_level() {
    let (positions, mut noise) = (150, Noise(11));
    for dimensions in [16, 48, 64, 128] {
        let (store, blocks, both) = remembered(positions, dimensions, &mut noise);
        for (count, cap) in [(1, 0.0), (2, 0.0), (3, 0.0), (4, 2.0), (5, 0.0), (7, 0.0), (8, 0.0), (3, -1.0), (7, -1.0)] {
            let ranges: Vec<(usize, usize)> =
                (0..count).map(|at| if at % 2 == 0 { (0, 150 - at) } else { (70 + at, 1 + 100 + at) }).collect();
            let queries = noise.floats(count * dimensions);
            // Below 0 stands for a number that is added to each score.
            let added = if cap < 0.0 { count } else { 0 };
            let rows: Vec<Vec<f32>> = (0..added).map(|_| noise.floats(positions)).collect();
            let biases: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            let attention = |ranges, biases| Attention {
                dimensions,
                store: &store,
                blocks: &blocks,
                block_stride: 2 * BLOCK_TOKENS * dimensions,
                offset: 0,
                ranges,
                soft_cap: cap,
                biases,
            };
            let mut plain = vec![0.0; count * dimensions];
            attend(Level::Plain, &attention(&ranges, &biases), &queries, &mut plain);
            for (at, query) in queries.chunks(dimensions).enumerate() {
                let found = &plain[at * dimensions..][..dimensions];
                let own = biases.get(at..=at).unwrap_or(&[]);
                let bias = |position: usize| own.first().map_or(0.0, |row| f64::from(row[position]));
                near(found, exact_attention(query, &both, ranges[at], f64::from(cap), bias).into_iter(), 1e-5);
                for level in Level::all() {
                    let mut alone = vec![0.0; dimensions];
                    attend(level, &attention(&ranges[at..=at], own), query, &mut alone);
                    assert!(alone == found, "query {at} of {count} alone at {level:?}");
                }
            }
        }
    }
}
