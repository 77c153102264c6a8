//! The parts that encoders are made of: linear layers, norms, activations, and attention within each text.

use super::packed::Packed;
use crate::engine::LoadError;
use crate::engine::huggingface::safetensors::Weights;
use candle_core::{D, Result, Tensor};
use candle_nn::ops;

type Loaded<T> = std::result::Result<T, LoadError>;

/// `x * weight^T + bias`.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `NAME.weight` `[to, from]` and `NAME.bias` `[to]`.
    pub(super) fn load(weights: &Weights, name: &str, (from, to): (usize, usize)) -> Loaded<Self> {
        let weight = weights.get(&format!("{name}.weight"), &[to, from])?;
        Ok(Self { weight, bias: Some(weights.get(&format!("{name}.bias"), &[to])?) })
    }

    /// The same, with or without a bias.
    pub(super) fn load_maybe_biased(weights: &Weights, name: &str, sizes: (usize, usize), biased: bool) -> Loaded<Self> {
        if biased { Self::load(weights, name, sizes) } else { Self::load_plain(weights, name, sizes) }
    }

    fn load_plain(weights: &Weights, name: &str, (from, to): (usize, usize)) -> Loaded<Self> {
        Ok(Self { weight: weights.get(&format!("{name}.weight"), &[to, from])?, bias: None })
    }

    /// Several of one input as one, their outputs side by side.
    pub(super) fn joined(parts: &[Self]) -> Loaded<Self> {
        let weight = Tensor::cat(&parts.iter().map(|part| &part.weight).collect::<Vec<_>>(), 0).map_err(unjoined)?;
        let biases: Option<Vec<&Tensor>> = parts.iter().map(|part| part.bias.as_ref()).collect();
        let bias = biases.map(|biases| Tensor::cat(&biases, 0)).transpose().map_err(unjoined)?;
        Ok(Self { weight, bias })
    }

    /// Of tensors that are there already.
    pub(super) const fn of(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        let product = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands errors over")]
fn unjoined(error: candle_core::Error) -> LoadError {
    LoadError::InvalidModel(format!("weights cannot be joined: {error}"))
}

/// A layer norm.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl Norm {
    /// Reads `NAME.weight` and `NAME.bias`, under their old names too; without a bias where the model has none.
    pub(super) fn load(weights: &Weights, name: &str, width: usize, epsilon: f64) -> Loaded<Self> {
        let (new, old) = (format!("{name}.weight"), format!("{name}.gamma"));
        let weight = weights.get(weights.first_of(&[&new, &old]).unwrap_or(&new), &[width])?;
        let (new, old) = (format!("{name}.bias"), format!("{name}.beta"));
        let bias = weights.first_of(&[&new, &old]).map(|name| weights.get(name, &[width])).transpose()?;
        let bias = match bias {
            Some(bias) => bias,
            None => weight.zeros_like().map_err(unjoined)?,
        };
        Ok(Self { weight, bias, epsilon: narrowed(epsilon) })
    }

    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.epsilon)
    }

    /// The norm of a sum.
    pub(super) fn run_sum(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(&(x + residual)?)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an epsilon or a scale loses digits that do not count")]
pub(super) const fn narrowed(value: f64) -> f32 {
    value as f32
}

/// What stands between two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Gelu,
    GeluTanh,
    Relu,
    Silu,
    Tanh,
}

impl Activation {
    /// By the name in `config.json`.
    pub(super) fn by_name(name: &str) -> Loaded<Self> {
        Ok(match name {
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Self::GeluTanh,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "tanh" => Self::Tanh,
            _ => {
                let served = "`gelu`, `gelu_new`, `gelu_pytorch_tanh`, `relu`, `silu`, `tanh`";
                return Err(LoadError::InvalidModel(format!("config.json: activation `{name}` is not served; served are {served}")));
            }
        })
    }

    pub(super) fn run(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
            Self::Tanh => x.tanh(),
        }
    }
}

/// How attention looks at a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: usize,
    /// Numbers of one head.
    pub(super) width: usize,
    /// What scores are multiplied with.
    pub(super) scale: f64,
    /// How far to each side a token sees; nothing: everywhere.
    pub(super) reach: Option<usize>,
}

impl Heads {
    pub(super) fn new(count: usize, width: usize) -> Self {
        let root = f64::from(u32::try_from(width).unwrap_or(u32::MAX)).sqrt();
        Self { count, width, scale: 1.0 / root, reach: None }
    }

    /// One text's part of a `[tokens, heads * width]` tensor as `[heads, tokens, width]`.
    pub(super) fn split(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        x.narrow(0, start, len)?.reshape((len, self.count, self.width))?.transpose(0, 1)?.contiguous()
    }

    /// The way back.
    pub(super) fn join(&self, x: &Tensor, len: usize) -> Result<Tensor> {
        x.transpose(0, 1)?.reshape((len, self.count * self.width))
    }
}

/// Attention of every token to those of its own text; `q`, `k` and `v` are `[tokens, heads * width]`.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads, batch: &Packed) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(batch.texts.len());
    for text in batch.texts.iter().filter(|text| !text.is_empty()) {
        let part = |x: &Tensor| heads.split(x, text.start, text.len());
        let scores = (part(q)?.matmul(&part(k)?.transpose(1, 2)?)? * heads.scale)?;
        let scores = match heads.reach {
            Some(reach) if reach + 1 < text.len() => scores.broadcast_add(&band(text.len(), reach, &scores)?)?,
            _ => scores,
        };
        let shares = ops::softmax_last_dim(&scores)?;
        parts.push(heads.join(&shares.matmul(&part(v)?)?, text.len())?);
    }
    Tensor::cat(&parts, 0)
}

/// `[len, len]` with 0 where two tokens see one another, and minus infinity elsewhere.
fn band(len: usize, reach: usize, like: &Tensor) -> Result<Tensor> {
    let seen = |row: usize, column: usize| if row.abs_diff(column) <= reach { 0.0_f32 } else { f32::NEG_INFINITY };
    let values: Vec<f32> = (0..len * len).map(|at| seen(at / len, at % len)).collect();
    Tensor::from_vec(values, (len, len), like.device())?.to_dtype(like.dtype())
}

/// The three equal parts of the last dimension.
pub(super) fn thirds(x: &Tensor) -> Result<[Tensor; 3]> {
    let width = x.dim(D::Minus1)? / 3;
    Ok([x.narrow(D::Minus1, 0, width)?, x.narrow(D::Minus1, width, width)?, x.narrow(D::Minus1, 2 * width, width)?])
}
