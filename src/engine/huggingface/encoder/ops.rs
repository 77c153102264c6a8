//! The parts that encoders are made of: linear layers, norms, activations, and attention within each text.

use super::fused;
use super::packed::Packed;
use crate::engine::LoadError;
use crate::engine::huggingface::safetensors::Weights;
use candle_core::{IndexOp, Result, Tensor};
use candle_nn::ops;
use std::ops::Range;

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
            Some(bias) if fused::fits(&product) => fused::bias(&product, bias).map(|()| product),
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }

    /// The same, and an activation behind it.
    pub(super) fn run_bent(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let Some(bias) = &self.bias else { return activation.run(&self.run(x)?) };
        let product = x.matmul(&self.weight.t()?)?;
        if fused::fits(&product) {
            return fused::bias_and_activation(&product, bias, activation).map(|()| product);
        }
        activation.run(&product.broadcast_add(bias)?)
    }

    /// The same, and what went around it added.
    pub(super) fn run_beside(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let Some(bias) = &self.bias else { return self.run(x)? + residual };
        let product = x.matmul(&self.weight.t()?)?;
        if fused::fits(&product) && fused::fits(residual) {
            return fused::bias_and_residual(&product, bias, residual).map(|()| product);
        }
        product.broadcast_add(bias)? + residual
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

    /// `[tokens, heads * width]` as `[tokens, heads, width]`.
    pub(super) fn split(&self, x: &Tensor) -> Result<Tensor> {
        x.reshape((x.dim(0)?, self.count, self.width))
    }

    /// Queries, keys and values that lie side by side, each as `[tokens, heads, width]`; nothing is copied.
    pub(super) fn split_three(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let all = x.reshape((x.dim(0)?, 3, self.count, self.width))?;
        Ok([all.i((.., 0))?, all.i((.., 1))?, all.i((.., 2))?])
    }

    /// The way back.
    pub(super) fn join(&self, x: &Tensor, len: usize) -> Result<Tensor> {
        x.transpose(0, 1)?.reshape((len, self.count * self.width))
    }
}

/// One text's part of a `[tokens, heads, width]` tensor as `[heads, tokens, width]`; nothing is copied.
pub(super) fn part(x: &Tensor, text: &Range<usize>) -> Result<Tensor> {
    x.narrow(0, text.start, text.len())?.transpose(0, 1)
}

/// The product of two tensors that may be parts of others. A CPU takes them as they lie, a GPU only whole ones.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() { a.matmul(b) } else { a.contiguous()?.matmul(&b.contiguous()?) }
}

/// Scores of one piece of attention at most: a text of thousands of tokens is looked at piece by piece.
const SCORES_MAX: usize = 4 << 20;
/// Tokens of a piece where each sees a window only.
const WINDOW_PIECE: usize = 128;

/// Attention of every token to those of its own text; `q`, `k` and `v` are `[tokens, heads, width]`.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads, batch: &Packed) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(batch.texts.len());
    for text in batch.texts.iter().filter(|text| !text.is_empty()) {
        let (q, k, v) = (part(q, text)?, part(k, text)?, part(v, text)?);
        for piece in pieces(text.len(), heads) {
            let keys = piece.keys.clone();
            let seen = product(&q.narrow(1, piece.first, piece.count)?, &k.narrow(1, keys.start, keys.len())?.transpose(1, 2)?)?;
            let shares = shares(seen, heads, piece.first - keys.start)?;
            parts.push(heads.join(&product(&shares, &v.narrow(1, keys.start, keys.len())?)?, piece.count)?);
        }
    }
    Tensor::cat(&parts, 0)
}

/// Tokens one behind the other, and those that they see.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    first: usize,
    count: usize,
    keys: Range<usize>,
}

/// A text in pieces; one where it is short.
fn pieces(len: usize, heads: &Heads) -> Vec<Piece> {
    let reach = heads.reach.filter(|reach| reach + 1 < len);
    let size = if reach.is_some() { WINDOW_PIECE } else { (SCORES_MAX / (heads.count * len)).max(1) };
    let piece = |first: usize| {
        let count = size.min(len - first);
        let seen = |reach: usize| first.saturating_sub(reach)..(first + count + reach).min(len);
        Piece { first, count, keys: reach.map_or(0..len, seen) }
    };
    (0..len).step_by(size).map(piece).collect()
}

/// Scores to shares of one, over all that a token sees; the first token is the one at `offset` among those seen.
pub(super) fn shares(scores: Tensor, heads: &Heads, offset: usize) -> Result<Tensor> {
    let (count, keys) = (scores.dim(1)?, scores.dim(2)?);
    let window = heads.reach.map(|reach| Window { reach, offset, count });
    if fused::fits(&scores) {
        return fused::scaled_softmax(&scores, narrowed(heads.scale), window).map(|()| scores);
    }
    let scaled = (&scores * heads.scale)?;
    match window {
        Some(window) => ops::softmax_last_dim(&scaled.broadcast_add(&band(&window, keys, &scaled)?)?),
        None => ops::softmax_last_dim(&scaled),
    }
}

/// What tokens in a row see: so far to each side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    reach: usize,
    /// Where the first token stands among those it may see.
    offset: usize,
    /// How many tokens there are; after them the next head's come.
    count: usize,
}

impl Window {
    /// What the token of a row sees, of so many.
    pub(super) fn seen(&self, row: usize, keys: usize) -> Range<usize> {
        let at = row % self.count + self.offset;
        at.saturating_sub(self.reach)..(at + self.reach + 1).min(keys)
    }
}

/// `[count, keys]` with 0 where a token sees another, and minus infinity elsewhere.
fn band(window: &Window, keys: usize, like: &Tensor) -> Result<Tensor> {
    let seen = |row: usize, key: usize| if window.seen(row, keys).contains(&key) { 0.0_f32 } else { f32::NEG_INFINITY };
    let values: Vec<f32> = (0..window.count * keys).map(|at| seen(at / keys, at % keys)).collect();
    Tensor::from_vec(values, (window.count, keys), like.device())?.to_dtype(like.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::huggingface::tokenizer::Row;
    use candle_core::{DType, Device};

    fn heads(reach: Option<usize>) -> Heads {
        Heads { reach, ..Heads::new(2, 4) }
    }

    /// Attention over one text of so many tokens, in this type.
    fn attended(len: usize, reach: Option<usize>, dtype: DType) -> Vec<f32> {
        let row = Row { ids: vec![0; len], types: vec![0; len], offsets: Vec::new() };
        let batch = Packed::new(&[&row], None, &Device::Cpu).unwrap();
        let tensor = |step: usize| {
            let values: Vec<f32> = (0..len * 8).map(|at| f32::from(u16::try_from(at * step % 997).unwrap()) / 500.0 - 1.0).collect();
            Tensor::from_vec(values, (len, 2, 4), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let found = attention(&tensor(7), &tensor(11), &tensor(13), &heads(reach), &batch).unwrap();
        found.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_window_over_a_long_text_sees_what_it_would_see_in_one_piece() {
        for (len, reach) in [(300, Some(5)), (300, None), (20, Some(400)), (140, Some(139))] {
            // Doubles take the way of Candle's own operations.
            let (single, double) = (attended(len, reach, DType::F32), attended(len, reach, DType::F64));
            let apart = single.iter().zip(&double).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-5, "{len} {reach:?}: {apart}");
        }
        let (wide, narrow) = (attended(300, None, DType::F32), attended(300, Some(5), DType::F32));
        assert!(wide.iter().zip(&narrow).any(|(a, b)| (a - b).abs() > 1e-2));
    }

    #[test]
    fn a_long_text_is_looked_at_in_pieces_that_are_bounded() {
        let whole: Vec<Piece> = pieces(100, &heads(None));
        assert_eq!(whole, [Piece { first: 0, count: 100, keys: 0..100 }]);
        let long = pieces(40_000, &heads(None));
        assert!(long.iter().all(|piece| piece.count * 40_000 * 2 <= SCORES_MAX));
        assert_eq!(long.iter().map(|piece| piece.count).sum::<usize>(), 40_000);
        assert_eq!(pieces(300, &heads(Some(5)))[1], Piece { first: 128, count: 128, keys: 123..261 });
    }
}
