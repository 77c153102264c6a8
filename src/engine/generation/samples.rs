//! A tiny model in memory, for tests.

use super::architecture::{Architecture, Rope};
use super::kernels::Activation;
use super::weights::{Dtype, Source, StoredTensor};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

/// Tokens that it knows: bytes, and an end.
const VOCABULARY: usize = 257;

/// A small Llama.
pub(super) fn llama(layers: usize, feed_forward: usize) -> Architecture {
    Architecture {
        family: "llama".to_owned(),
        layers,
        hidden: 64,
        feed_forward,
        heads: 4,
        kv_heads: 2,
        head_dimensions: 16,
        context: 512,
        norm_epsilon: 1e-5,
        norm_offset: 0.0,
        rope: Rope::new(10_000.0, 16, false),
        local_rope: None,
        window: None,
        windowed: vec![false; layers],
        activation: Activation::Silu,
        embedding_scale: 1.0,
        query_scale: 0.25,
        attention_cap: 0.0,
        logit_cap: 0.0,
    }
}

/// Tensors by name.
#[derive(Debug, Default)]
pub(super) struct Weights(HashMap<String, Stored>);

#[derive(Debug)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Source for Weights {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let Stored { dtype, shape, bytes } = self.0.get(name)?;
        Some(StoredTensor { dtype: *dtype, shape: shape.clone(), bytes })
    }
}

impl Weights {
    /// All that a Llama of this shape has, named as in a GGUF file.
    pub(super) fn of(architecture: &Architecture, seed: &mut u64) -> Self {
        let (hidden, feed_forward) = (architecture.hidden, architecture.feed_forward);
        let (queries, kv) = (architecture.query_width(), architecture.kv_width());
        let weights = Self::default().random("token_embd.weight", &[VOCABULARY, hidden], seed);
        let parts: [(&str, &[usize]); 9] = [
            ("attn_norm.weight", &[hidden]),
            ("attn_q.weight", &[queries, hidden]),
            ("attn_k.weight", &[kv, hidden]),
            ("attn_v.weight", &[kv, hidden]),
            ("attn_output.weight", &[hidden, queries]),
            ("ffn_norm.weight", &[hidden]),
            ("ffn_gate.weight", &[feed_forward, hidden]),
            ("ffn_up.weight", &[feed_forward, hidden]),
            ("ffn_down.weight", &[hidden, feed_forward]),
        ];
        weights.random("output_norm.weight", &[hidden], seed).in_layers(architecture, &parts, seed)
    }

    /// The same tensors in each layer.
    pub(super) fn in_layers(mut self, architecture: &Architecture, parts: &[(&str, &[usize])], seed: &mut u64) -> Self {
        for layer in 0..architecture.layers {
            for (name, shape) in parts {
                self = self.random(&format!("blk.{layer}.{name}"), shape, seed);
            }
        }
        self
    }

    /// One tensor more: vectors around 1, matrices around 0.
    pub(super) fn random(mut self, name: &str, shape: &[usize], seed: &mut u64) -> Self {
        let count: usize = shape.iter().product();
        let mut number = || {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            #[expect(clippy::cast_precision_loss, reason = "any number does")]
            let number = ((*seed >> 33) % 2001) as f32 / 1000.0 - 1.0;
            if shape.len() == 1 { 1.0 + number / 10.0 } else { number / 3.0 }
        };
        let bytes = (0..count).flat_map(|_| number().to_le_bytes()).collect();
        self.0.insert(name.to_owned(), Stored { dtype: Dtype::F32, shape: shape.to_vec(), bytes });
        self
    }

    /// The same with all matrices in another type.
    pub(super) fn quantised(mut self, dtype: Dtype) -> Self {
        let name = dtype.to_string();
        let types = [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q5_1, GgmlDType::Q8_0];
        let ggml = types.into_iter().find(|ggml| format!("{ggml:?}") == name).expect("a type of blocks of 32");
        for stored in self.0.values_mut().filter(|stored| stored.shape.len() == 2) {
            let numbers = StoredTensor { dtype: stored.dtype, shape: stored.shape.clone(), bytes: &stored.bytes }.to_f32();
            let tensor = Tensor::from_vec(numbers, stored.shape.clone(), &Device::Cpu).unwrap();
            stored.bytes = QTensor::quantize(&tensor, ggml).unwrap().data().unwrap().into_owned();
            stored.dtype = dtype;
        }
        self
    }
}
