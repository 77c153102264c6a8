//! The device's way against the kernels', on Candle's CPU: the same models, the same steps, the same answers.

use super::*;
use crate::engine::generation::architecture::Rope;
use crate::engine::generation::decoder::{ReadText, Runner, Store as KernelStore};
use crate::engine::generation::samples::{Weights, llama};
use crate::engine::generation::weights::Dtype;

const BLOCKS: usize = 64;

fn plain() -> Architecture {
    llama(3, 128)
}

/// The tensors of a family: its own parts beside those that all have.
fn weights(architecture: &Architecture, parts: &[&str]) -> Weights {
    let seed = &mut 7;
    let (queries, kv, head, hidden) =
        (architecture.query_width(), architecture.kv_width(), architecture.head_dimensions, architecture.hidden);
    let known: [(&str, &[usize]); 9] = [
        ("attn_q.bias", &[queries]),
        ("attn_k.bias", &[kv]),
        ("attn_v.bias", &[kv]),
        ("attn_q_norm.weight", &[head]),
        ("attn_k_norm.weight", &[head]),
        ("post_attention_norm.weight", &[hidden]),
        ("post_ffw_norm.weight", &[hidden]),
        ("attn_qkv.weight", &[queries + 2 * kv, hidden]),
        ("attn_qkv.bias", &[queries + 2 * kv]),
    ];
    let own: Vec<(&str, &[usize])> = known.into_iter().filter(|(name, _)| parts.contains(name)).collect();
    Weights::of(architecture, seed).in_layers(architecture, &own, seed)
}

/// A step's tokens: of each sequence those from `position` on.
type Step<'a> = &'a [(usize, usize, usize)];

/// Prompts in pieces, then answers beside a prompt: sequence, first position, tokens.
const STEPS: [Step<'static>; 5] = [
    &[(0, 0, 9), (1, 0, 21)],
    &[(0, 9, 1), (1, 21, 30), (2, 0, 3)],
    &[(0, 10, 1), (1, 51, 1), (2, 3, 1)],
    &[(2, 4, 40)],
    &[(0, 11, 1), (2, 44, 1)],
];

fn token(sequence: usize, position: usize) -> u32 {
    u32::try_from((sequence * 97 + position * 31) % 256).unwrap()
}

/// The logits of the last token of each sequence of each step.
fn logits(mut steps: impl FnMut(&[Segment<'_>], &[usize]) -> Vec<f32>) -> Vec<Vec<f32>> {
    // Blocks of a sequence are neither side by side nor in order.
    let blocks: Vec<Vec<u32>> = (0..3).map(|sequence| (0..8).map(|at| (at * 7 + sequence * 3 + 1) * 5 % 64).collect()).collect();
    let mut found = Vec::new();
    for step in STEPS {
        let tokens: Vec<Vec<u32>> = step.iter().map(|&(of, from, count)| (from..from + count).map(|at| token(of, at)).collect()).collect();
        let segments: Vec<Segment<'_>> = step
            .iter()
            .zip(&tokens)
            .map(|(&(of, position, _), tokens)| Segment { tokens, position, blocks: &blocks[of], text: ReadText::default() })
            .collect();
        let ends = tokens.iter().scan(0, |end, tokens| {
            *end += tokens.len();
            Some(*end - 1)
        });
        found.push(steps(&segments, &ends.collect::<Vec<_>>()));
    }
    found
}

fn on_device(source: &Arc<Weights>, architecture: &Architecture, precision: Precision) -> Vec<Vec<f32>> {
    let source = Arc::clone(source) as Arc<dyn Source + Send + Sync>;
    let decoder = DeviceDecoder::load(source, architecture.clone(), Names::Gguf, precision, Device::Cpu).unwrap();
    let mut device = decoder.with_room(BLOCKS).unwrap();
    logits(|segments, wanted| {
        let mut logits = Vec::new();
        device.step(segments, wanted, &mut logits).unwrap();
        logits
    })
}

fn on_kernels(source: &Arc<Weights>, architecture: &Architecture) -> Vec<Vec<f32>> {
    let source = Arc::clone(source) as Arc<dyn Source + Send + Sync>;
    let one = &mut |count: usize, work: &(dyn Fn(usize) + Sync)| (0..count).for_each(work);
    let decoder = Decoder::load(source, architecture.clone(), Names::Gguf, None, one).unwrap();
    let (mut runner, mut store) = (Runner::new(1).unwrap(), KernelStore::new(architecture.store_shape(), BLOCKS));
    logits(|segments, wanted| {
        let mut logits = Vec::new();
        runner.step(&decoder, &mut store, segments, wanted, &mut logits);
        logits
    })
}

fn check(change: impl FnOnce(&mut Architecture), parts: &[&str], (precision, most): (Precision, f32)) {
    let mut architecture = plain();
    change(&mut architecture);
    compare(&Arc::new(weights(&architecture, parts)), &architecture, (precision, most));
}

fn compare(source: &Arc<Weights>, architecture: &Architecture, (precision, most): (Precision, f32)) {
    let (found, expected) = (on_device(source, architecture, precision), on_kernels(source, architecture));
    let differences = found.iter().flatten().zip(expected.iter().flatten()).map(|(found, expected)| (found - expected).abs());
    let largest = differences.fold(0.0, f32::max);
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), expected.iter().map(Vec::len).collect::<Vec<_>>());
    assert!(largest < most, "{}: logits differ by {largest}", architecture.family);
    assert!(expected.iter().flatten().any(|number| number.abs() > 0.5), "a model that says nothing proves nothing");
}

const EXACT: (Precision, f32) = (Precision::AsStored, 2e-3);

#[test]
fn a_llama_answers_as_on_the_kernels_whatever_stands_beside_it() {
    check(|_| (), &[], EXACT);
}

#[test]
fn turning_of_neighbours_and_of_a_part_of_a_head_is_the_kernels() {
    check(|shape| shape.rope = Rope::new(10_000.0, 16, true), &[], EXACT);
    check(|shape| shape.rope = Rope::new(10_000.0, 8, false), &[], EXACT);
    check(|shape| shape.rope = Rope::new(10_000.0, 8, true).stretched_like_yarn(10_000.0, 4.0, 64.0), &[], EXACT);
}

#[test]
fn biases_of_a_qwen2_and_norms_of_a_qwen3_are_the_kernels() {
    check(|_| (), &["attn_q.bias", "attn_k.bias", "attn_v.bias"], EXACT);
    check(|_| (), &["attn_q_norm.weight", "attn_k_norm.weight"], EXACT);
}

#[test]
fn matrices_that_are_stored_as_one_are_the_kernels() {
    check(|_| (), &["attn_qkv.weight", "attn_qkv.bias"], EXACT);
}

#[test]
fn windows_caps_and_norms_behind_layers_of_a_gemma_are_the_kernels() {
    let gemma = |shape: &mut Architecture| {
        "gemma3".clone_into(&mut shape.family);
        (shape.window, shape.windowed) = (Some(7), vec![true, false, true]);
        (shape.local_rope, shape.activation) = (Some(Rope::new(1_000.0, 16, false)), Activation::GeluTanh);
        (shape.attention_cap, shape.logit_cap, shape.embedding_scale) = (5.0, 9.0, 8.0);
    };
    let parts = ["post_attention_norm.weight", "post_ffw_norm.weight", "attn_q_norm.weight", "attn_k_norm.weight"];
    check(gemma, &parts, EXACT);
}

#[test]
fn halves_are_near_and_singles_exact() {
    check(|_| (), &[], (Precision::Single, 2e-3));
    check(|_| (), &[], (Precision::F16, 0.05));
    check(|_| (), &[], (Precision::Bf16, 0.4));
}

#[test]
fn quantised_weights_are_read_as_the_kernels_read_them() {
    for dtype in [Dtype::Q4_0, Dtype::Q4_1, Dtype::Q5_0, Dtype::Q5_1, Dtype::Q8_0] {
        let architecture = plain();
        let source = Arc::new(weights(&architecture, &[]).quantised(dtype));
        // Both round what they multiply with to 8 bits, each in groups of its own.
        compare(&source, &architecture, (Precision::AsStored, 0.25));
    }
}
