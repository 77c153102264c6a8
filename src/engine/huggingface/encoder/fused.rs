//! What stands between two matrix products, in one pass over memory: bias and activation, residual, scale and softmax.
//!
//! For `f32` on a CPU, where these take as long as the products if each is a pass of its own and every exponential is a call of the
//! C library's. Elsewhere Candle's own operations do the same; a test compares both.

use super::ops::{Activation, Window};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Error, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;

/// Numbers that one thread works on at once.
const CHUNK: usize = 16 * 1024;

/// Whether the operations of this file do for a tensor.
pub(super) fn fits(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous()
}

/// `x = activation(x + bias)`, the bias along the last dimension.
pub(super) fn bias_and_activation(x: &Tensor, bias: &Tensor, activation: Activation) -> Result<()> {
    x.inplace_op2(bias, &BiasActivation(activation))
}

/// `x = x + bias + residual`.
pub(super) fn bias_and_residual(x: &Tensor, bias: &Tensor, residual: &Tensor) -> Result<()> {
    x.inplace_op3(bias, residual, &BiasResidual)
}

/// `x = x + bias`.
pub(super) fn bias(x: &Tensor, bias: &Tensor) -> Result<()> {
    x.inplace_op2(bias, &Bias)
}

/// Softmax of `x * scale` along the last dimension, over the window where there is one.
pub(super) fn scaled_softmax(x: &Tensor, scale: f32, window: Option<Window>) -> Result<()> {
    x.inplace_op1(&ScaledSoftmax { scale, window })
}

struct Bias;
struct BiasActivation(Activation);
struct BiasResidual;
struct ScaledSoftmax {
    scale: f32,
    window: Option<Window>,
}

impl InplaceOp2 for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, to: &Layout, bias: &CpuStorage, from: &Layout) -> Result<()> {
        let bias = reading(bias, from)?;
        in_rows(writing(x, to)?, bias.len(), |_, row| row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias));
        Ok(())
    }
}

impl InplaceOp2 for BiasActivation {
    fn name(&self) -> &'static str {
        "bias-activation"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, to: &Layout, bias: &CpuStorage, from: &Layout) -> Result<()> {
        let (x, bias) = (writing(x, to)?, reading(bias, from)?);
        match self.0 {
            Activation::Gelu => bent(x, bias, gelu),
            Activation::GeluTanh => bent(x, bias, gelu_tanh),
            Activation::Relu => bent(x, bias, |value| value.max(0.0)),
            Activation::Silu => bent(x, bias, |value| value / (1.0 + exp(-value))),
            Activation::Tanh => bent(x, bias, f32::tanh),
        }
        Ok(())
    }
}

impl InplaceOp3 for BiasResidual {
    fn name(&self) -> &'static str {
        "bias-residual"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        to: &Layout,
        bias: &CpuStorage,
        from: &Layout,
        residual: &CpuStorage,
        beside: &Layout,
    ) -> Result<()> {
        let (bias, residual) = (reading(bias, from)?, reading(residual, beside)?);
        let width = bias.len();
        in_rows(writing(x, to)?, width, |at, row| {
            let residual = &residual[at * width..];
            row.iter_mut().zip(bias).zip(residual).for_each(|((value, bias), residual)| *value += bias + residual);
        });
        Ok(())
    }
}

impl InplaceOp1 for ScaledSoftmax {
    fn name(&self) -> &'static str {
        "scaled-softmax"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, to: &Layout) -> Result<()> {
        let width = to.dims().last().copied().unwrap_or(1);
        in_rows(writing(x, to)?, width, |at, row| {
            let seen = self.window.map_or(0..width, |window| window.seen(at, width));
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            softmax(&mut row[seen], self.scale);
        });
        Ok(())
    }
}

/// Calls with each row and its place, on the threads of the pool that this runs in.
fn in_rows(x: &mut [f32], width: usize, each: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (CHUNK / width.max(1)).max(1);
    x.par_chunks_mut(rows * width.max(1)).enumerate().for_each(|(chunk, part)| {
        for (at, row) in part.chunks_exact_mut(width.max(1)).enumerate() {
            each(chunk * rows + at, row);
        }
    });
}

fn bent(x: &mut [f32], bias: &[f32], bend: impl Fn(f32) -> f32 + Sync) {
    in_rows(x, bias.len(), |_, row| row.iter_mut().zip(bias).for_each(|(value, bias)| *value = bend(*value + bias)));
}

fn softmax(row: &mut [f32], scale: f32) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for value in row.iter_mut() {
        *value = exp((*value - most) * scale);
    }
    let share = 1.0 / row.iter().sum::<f32>();
    for value in row {
        *value *= share;
    }
}

/// The exponential within two units of the last place, in operations that a compiler makes several of at once.
#[inline]
fn exp(x: f32) -> f32 {
    /// Added to a number below 2^22 it leaves the nearest whole one in the last bits.
    const WHOLE: f32 = 12_582_912.0;
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + WHOLE;
    let power = shifted - WHOLE;
    let rest = (x - power * LN_2.0) - power * LN_2.1;
    let series = 1.0 / 720.0 + rest * (1.0 / 5040.0);
    let series = 1.0 / 24.0 + rest * (1.0 / 120.0 + rest * series);
    let series = 1.0 + rest * (1.0 + rest * (0.5 + rest * (1.0 / 6.0 + rest * series)));
    let exponent = shifted.to_bits().wrapping_sub(WHOLE.to_bits()).wrapping_add(127) << 23;
    series * f32::from_bits(exponent)
}

/// `x` times the share of a normal distribution below it.
///
/// Source: Abramowitz and Stegun 7.1.26, of an error below 1.5e-7.
#[inline]
fn gelu(x: f32) -> f32 {
    let size = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * size);
    let series = t * (0.254_829_6 + t * (-0.284_496_72 + t * (1.421_413_8 + t * (-1.453_152_1 + t * 1.061_405_4))));
    let beyond = 0.5 * series * exp(-size * size);
    if x < 0.0 { x * beyond } else { x - x * beyond }
}

#[inline]
fn gelu_tanh(x: f32) -> f32 {
    let inner = 1.595_769 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-inner))
}

fn writing<'s>(storage: &'s mut CpuStorage, layout: &Layout) -> Result<&'s mut [f32]> {
    let dtype = storage.dtype();
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&mut values[from..to]),
        _ => Err(Error::Msg(format!("{dtype:?} is not f32 in one piece"))),
    }
}

fn reading<'s>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&values[from..to]),
        _ => Err(Error::Msg(format!("{:?} is not f32 in one piece", storage.dtype()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use candle_nn::ops;

    fn tensor(rows: usize, width: usize) -> Tensor {
        let value = |at: usize| f32::from(u16::try_from(at * 7919 % 4001).unwrap()) / 250.0 - 8.0;
        Tensor::from_vec((0..rows * width).map(value).collect::<Vec<f32>>(), (rows, width), &Device::Cpu).unwrap()
    }

    fn apart(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn every_activation_is_what_candle_makes_of_it() {
        let bias = tensor(1, 33).reshape(33).unwrap();
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu, Activation::Tanh] {
            let x = tensor(700, 33);
            let expected = activation.run(&x.broadcast_add(&bias).unwrap()).unwrap();
            bias_and_activation(&x, &bias, activation).unwrap();
            assert!(apart(&x, &expected) < 2e-6, "{activation:?}: {}", apart(&x, &expected));
        }
    }

    #[test]
    fn sums_are_what_candle_makes_of_them() {
        let (bias_of, residual) = (tensor(1, 33).reshape(33).unwrap(), tensor(700, 33));
        let (x, y) = (tensor(700, 33), tensor(700, 33));
        let expected = (x.broadcast_add(&bias_of).unwrap() + &residual).unwrap();
        bias_and_residual(&x, &bias_of, &residual).unwrap();
        assert!(apart(&x, &expected) < 1e-5);
        bias(&y, &bias_of).unwrap();
        assert!(apart(&(y + residual).unwrap(), &expected) < 1e-5);
    }

    #[test]
    fn shares_are_what_candle_makes_of_them() {
        let x = tensor(2 * 50, 50).reshape((2, 50, 50)).unwrap();
        let expected = ops::softmax_last_dim(&(&x * 0.3).unwrap()).unwrap();
        scaled_softmax(&x, 0.3, None).unwrap();
        assert!(apart(&x, &expected) < 1e-6);
    }

    #[test]
    fn exponentials_are_right_to_the_last_digits() {
        for at in -870_i16..880 {
            let x = f32::from(at) / 10.0;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) / right - 1.0).abs() < 4e-7, "{x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }
}
