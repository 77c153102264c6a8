//! Matrices on a device: plain ones in their own type, quantised ones as their file has them.

use crate::engine::generation::architecture::Architecture;
use crate::engine::generation::decoder::{Names, Packing};
use crate::engine::generation::weights::{Dtype, Precision, Source, StoredTensor};
use crate::engine::gpu::words;
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};
use std::borrow::Cow;
use std::fmt;

/// What a matrix is on a device.
pub(super) enum Linear {
    /// `[rows, columns]`.
    Plain(Tensor),
    /// Blocks of few bits, which the device multiplies as they are.
    Quantised(QMatMul),
}

impl fmt::Debug for Linear {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(weights) => write!(formatter, "Plain({:?}, {:?})", weights.shape(), weights.dtype()),
            Self::Quantised(_) => formatter.write_str("Quantised"),
        }
    }
}

impl Linear {
    /// `[tokens, columns]` to `[tokens, rows]`.
    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(weights) => x.to_dtype(weights.dtype())?.matmul(&weights.t()?)?.to_dtype(x.dtype()),
            Self::Quantised(weights) => weights.forward(&x.to_dtype(DType::F32)?.contiguous()?)?.to_dtype(x.dtype()),
        }
    }

    /// Several of one input, their results side by side.
    pub(super) fn run_all(all: &[Self], x: &Tensor) -> Result<Tensor> {
        match all {
            [one] => one.run(x),
            _ => Tensor::cat(&all.iter().map(|one| one.run(x)).collect::<Result<Vec<_>>>()?, 1),
        }
    }
}

/// Brings weights to a device.
#[derive(Debug)]
pub(super) struct OnDevice<'a> {
    pub(super) device: &'a Device,
    /// What is computed with between matrices.
    pub(super) numbers: DType,
    pub(super) precision: Precision,
}

impl OnDevice<'_> {
    fn plain(&self, stored: &StoredTensor<'_>) -> Result<Tensor> {
        let (dtype, shape) = (plain_type(stored.dtype), stored.shape.as_slice());
        let weights = Tensor::from_raw_buffer(stored.bytes, dtype, shape, self.device)?;
        weights.to_dtype(asked(self.precision).unwrap_or(dtype))
    }

    fn quantised(&self, stored: &StoredTensor<'_>, dtype: GgmlDType) -> Result<QMatMul> {
        // Candle looks at the bytes as whole blocks, which begin at even places.
        let bytes =
            if stored.bytes.as_ptr().addr().is_multiple_of(8) { Cow::Borrowed(stored.bytes) } else { Cow::Owned(stored.bytes.to_vec()) };
        let storage = QStorage::from_data(bytes, self.device, dtype)?;
        QMatMul::from_qtensor(QTensor::new(storage, stored.shape.as_slice())?)
    }
}

impl Packing for OnDevice<'_> {
    type Matrix = Linear;
    type Vector = Tensor;

    fn matrix(&mut self, stored: &StoredTensor<'_>) -> std::result::Result<Linear, String> {
        let made = match quantised_type(stored.dtype) {
            Some(dtype) => self.quantised(stored, dtype).map(Linear::Quantised),
            None => self.plain(stored).map(Linear::Plain),
        };
        made.map_err(|error| words(&error))
    }

    fn vector(&mut self, numbers: Vec<f32>) -> std::result::Result<Tensor, String> {
        let made = Tensor::new(numbers, self.device).and_then(|numbers| numbers.to_dtype(self.numbers));
        made.map_err(|error| words(&error))
    }
}

/// What a model computes with between its matrices: what is asked for, else the type of its weights; singles where those are
/// quantised.
pub(super) fn numbers(source: &dyn Source, architecture: &Architecture, names: Names, precision: Precision) -> DType {
    let last = names.down(architecture.layers.saturating_sub(1));
    let stored = source.tensor(&last).map_or(Dtype::F32, |stored| stored.dtype);
    match quantised_type(stored) {
        Some(_) => DType::F32,
        None => asked(precision).unwrap_or_else(|| plain_type(stored)),
    }
}

const fn asked(precision: Precision) -> Option<DType> {
    match precision {
        Precision::AsStored => None,
        Precision::Single => Some(DType::F32),
        Precision::F16 => Some(DType::F16),
        Precision::Bf16 => Some(DType::BF16),
    }
}

const fn plain_type(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
        _ => DType::F32,
    }
}

const fn quantised_type(dtype: Dtype) -> Option<GgmlDType> {
    Some(match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => return None,
        Dtype::Q4_0 => GgmlDType::Q4_0,
        Dtype::Q4_1 => GgmlDType::Q4_1,
        Dtype::Q5_0 => GgmlDType::Q5_0,
        Dtype::Q5_1 => GgmlDType::Q5_1,
        Dtype::Q8_0 => GgmlDType::Q8_0,
        Dtype::Q4K => GgmlDType::Q4K,
        Dtype::Q5K => GgmlDType::Q5K,
        Dtype::Q6K => GgmlDType::Q6K,
    })
}
