//! Weights in memory, for tests.

use super::weights::{Dtype, Source, StoredTensor};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

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
