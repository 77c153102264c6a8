//! ModernBERT: rotated positions, layers that normalise in front, gated units, and windows in two layers of three.

use super::ops::{Activation, Heads, Linear, Norm, attention};
use super::{Packed, Result, Trunk, check, failed};
use crate::engine::huggingface::safetensors::Weights;
use crate::engine::huggingface::settings::Settings;
use crate::engine::{Cancel, LoadError};
use candle_core::{D, DType, Tensor};

/// The trunk of ModernBERT.
#[derive(Debug)]
pub(super) struct ModernBert {
    words: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    final_norm: Norm,
    /// Frequencies of layers that see everything, and of those that see a window.
    wide: Vec<f64>,
    narrow: Vec<f64>,
}

#[derive(Debug)]
struct Layer {
    /// The first layer has none: the embeddings are normalised already.
    attention_norm: Option<Norm>,
    qkv: Linear,
    heads: Heads,
    output: Linear,
    norm: Norm,
    up: Linear,
    activation: Activation,
    down: Linear,
}

impl ModernBert {
    pub(super) fn load(settings: Settings<'_>, weights: &Weights) -> std::result::Result<Self, LoadError> {
        let width = settings.count("hidden_size")?;
        let heads = settings.count("num_attention_heads")?;
        settings.divides(("num_attention_heads", heads), ("hidden_size", width))?;
        let prefix = if weights.has("model.embeddings.tok_embeddings.weight") { "model." } else { "" };
        let epsilon = settings.number_or("norm_eps", 1e-5);
        let norm = |name: &str| Norm::load(weights, &format!("{prefix}{name}"), width, epsilon);
        let head_width = width / heads;
        let count = settings.count("num_hidden_layers")?;
        Ok(Self {
            words: weights.get(&format!("{prefix}embeddings.tok_embeddings.weight"), &[settings.count("vocab_size")?, width])?,
            norm: norm("embeddings.norm")?,
            layers: (0..count).map(|at| Layer::load(settings, weights, prefix, at)).collect::<std::result::Result<_, _>>()?,
            final_norm: norm("final_norm")?,
            wide: frequencies(theta(settings, "full_attention", "global_rope_theta", 160_000.0), head_width),
            narrow: frequencies(theta(settings, "sliding_attention", "local_rope_theta", 10_000.0), head_width),
        })
    }
}

/// The base of the rotation: in newer files below `rope_parameters`.
fn theta(settings: Settings<'_>, kind: &str, name: &str, default: f64) -> f64 {
    let newer = settings.value("rope_parameters")[kind]["rope_theta"].as_f64();
    newer.unwrap_or_else(|| settings.number_or(name, default))
}

fn frequencies(theta: f64, width: usize) -> Vec<f64> {
    let whole = f64::from(u32::try_from(width).unwrap_or(u32::MAX));
    (0..width / 2).map(|at| theta.powf(-2.0 * f64::from(u32::try_from(at).unwrap_or(u32::MAX)) / whole)).collect()
}

impl Layer {
    fn load(settings: Settings<'_>, weights: &Weights, prefix: &str, at: usize) -> std::result::Result<Self, LoadError> {
        let (width, inner) = (settings.count("hidden_size")?, settings.count("intermediate_size")?);
        let heads = settings.count("num_attention_heads")?;
        let epsilon = settings.number_or("norm_eps", 1e-5);
        let (biased_attention, biased_mlp) = (settings.flag_or("attention_bias", false), settings.flag_or("mlp_bias", false));
        let linear = |name: &str, sizes, biased| Linear::load_maybe_biased(weights, &format!("{prefix}layers.{at}.{name}"), sizes, biased);
        let norm = |name: &str| Norm::load(weights, &format!("{prefix}layers.{at}.{name}"), width, epsilon);
        let reach = if is_wide(settings, at)? { None } else { Some(settings.count_or("local_attention", 128)? / 2) };
        Ok(Self {
            attention_norm: (at > 0).then(|| norm("attn_norm")).transpose()?,
            qkv: linear("attn.Wqkv", (width, 3 * width), biased_attention)?,
            heads: Heads { reach, ..Heads::new(heads, width / heads) },
            output: linear("attn.Wo", (width, width), biased_attention)?,
            norm: norm("mlp_norm")?,
            up: linear("mlp.Wi", (width, 2 * inner), biased_mlp)?,
            activation: Activation::by_name(settings.text("hidden_activation").unwrap_or("gelu"))?,
            down: linear("mlp.Wo", (inner, width), biased_mlp)?,
        })
    }

    fn run(&self, x: &Tensor, batch: &Packed, turns: &Turns) -> candle_core::Result<Tensor> {
        let seen = match &self.attention_norm {
            Some(norm) => norm.run(x)?,
            None => x.clone(),
        };
        let [q, k, v] = self.heads.split_three(&self.qkv.run(&seen)?)?;
        let (q, k) = (turns.turn(&q, &self.heads)?, turns.turn(&k, &self.heads)?);
        let x = self.output.run_beside(&attention(&q, &k, &v, &self.heads, batch)?, x)?;
        let both = self.up.run(&self.norm.run(&x)?)?;
        let half = both.dim(D::Minus1)? / 2;
        let inner = (self.activation.run(&both.narrow(D::Minus1, 0, half)?.contiguous()?)? * both.narrow(D::Minus1, half, half)?)?;
        self.down.run_beside(&inner, &x)
    }
}

/// Whether a layer sees the whole text: every third one, or as newer files list it.
fn is_wide(settings: Settings<'_>, at: usize) -> std::result::Result<bool, LoadError> {
    if let Some(kind) = settings.value("layer_types")[at].as_str() {
        return Ok(kind == "full_attention");
    }
    Ok(at.is_multiple_of(settings.count_or("global_attn_every_n_layers", 3)?))
}

/// The rotations of a batch's positions, `[tokens, 1, width / 2]`.
struct Turns {
    cos: Tensor,
    sin: Tensor,
}

impl Turns {
    fn new(positions: &[u32], frequencies: &[f64], like: &Tensor) -> candle_core::Result<Self> {
        let table = |of: fn(f64) -> f64| {
            let angles = positions.iter().flat_map(|at| frequencies.iter().map(move |turn| f64::from(*at) * turn));
            let values: Vec<f32> = angles.map(|angle| super::ops::narrowed(of(angle))).collect();
            Tensor::from_vec(values, (positions.len(), 1, frequencies.len()), like.device())?.to_dtype(like.dtype())
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// Turns both halves of each head against one another.
    fn turn(&self, x: &Tensor, heads: &Heads) -> candle_core::Result<Tensor> {
        let half = heads.width / 2;
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let second = (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?;
        Tensor::cat(&[first, second], 2)
    }
}

impl Trunk for ModernBert {
    fn run(&self, batch: &Packed, cancel: &Cancel) -> Result<Tensor> {
        let mut x = self.words.index_select(&batch.ids, 0).and_then(|x| self.norm.run(&x)).map_err(failed)?;
        let wide = Turns::new(&batch.positions, &self.wide, &x).map_err(failed)?;
        let narrow = Turns::new(&batch.positions, &self.narrow, &x).map_err(failed)?;
        for layer in &self.layers {
            check(cancel)?;
            let turns = if layer.heads.reach.is_none() { &wide } else { &narrow };
            x = layer.run(&x, batch, turns).map_err(failed)?;
        }
        let x = self.final_norm.run(&x).map_err(failed)?;
        debug_assert!(matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16), "weights are floats because they are read as such");
        Ok(x)
    }
}
