//! The shape of a decoder: what its families have in common, and what tells them apart.

use super::decoder::{HEAD_MAX, StoreShape};
use super::kernels::Activation;

/// All that decides how a decoder computes, but for its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The family's name, e.g. `llama`.
    pub family: String,
    /// Layers.
    pub layers: usize,
    /// Numbers of one token between layers.
    pub hidden: usize,
    /// Numbers within a feed-forward layer.
    pub feed_forward: usize,
    /// Heads that ask.
    pub heads: usize,
    /// Heads of keys and values; each serves as many asking heads.
    pub kv_heads: usize,
    /// Numbers of one head.
    pub head_dimensions: usize,
    /// Tokens it was made for, prompt and answer together.
    pub context: usize,
    /// What keeps norms from dividing by nothing.
    pub norm_epsilon: f32,
    /// Added to the weights of norms as they are stored: 1 for Gemma in safetensors.
    pub norm_offset: f32,
    /// How positions turn queries and keys.
    pub rope: Rope,
    /// The turning of layers with a window, where it differs (Gemma 3).
    pub local_rope: Option<Rope>,
    /// Positions that windowed layers look back, their own among them.
    pub window: Option<usize>,
    /// Which layers look back no further than the window.
    pub windowed: Vec<bool>,
    /// The function of feed-forward layers.
    pub activation: Activation,
    /// Factor of the embeddings.
    pub embedding_scale: f32,
    /// Factor of the queries.
    pub query_scale: f32,
    /// Cap of attention scores; 0: none.
    pub attention_cap: f32,
    /// Cap of logits; 0: none.
    pub logit_cap: f32,
}

/// How a position turns the pairs of a query or key: pair `i` by `position * frequencies[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Radians a position turns each pair by. Numbers beyond the pairs stay as they are.
    pub frequencies: Vec<f64>,
    /// Factor of sine and cosine (YaRN, long-rope).
    pub magnitude: f32,
    /// Whether pairs are neighbours (`2i` and `2i + 1`) instead of halves (`i` and `i + n / 2`).
    pub neighbours: bool,
}

impl Rope {
    /// `base^(-2i / dimensions)`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "dimensions are few")]
    pub fn new(base: f64, dimensions: usize, neighbours: bool) -> Self {
        let frequencies = (0..dimensions / 2).map(|pair| base.powf(-2.0 * pair as f64 / dimensions as f64)).collect();
        Self { frequencies, magnitude: 1.0, neighbours }
    }

    /// Cosine and sine of each pair at a position.
    pub(super) fn at(&self, position: usize) -> impl Iterator<Item = (f32, f32)> + '_ {
        #[expect(clippy::cast_precision_loss, reason = "positions are far below 2^52")]
        let position = position as f64;
        #[expect(clippy::cast_possible_truncation, reason = "between -1 and 1")]
        let turn = move |frequency: &f64| {
            let (sine, cosine) = (position * frequency).sin_cos();
            (cosine as f32 * self.magnitude, sine as f32 * self.magnitude)
        };
        self.frequencies.iter().map(turn)
    }

    /// Divides all frequencies: positions are squeezed together.
    #[must_use]
    pub fn stretched(mut self, factor: f64) -> Self {
        self.frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
        self
    }

    /// Divides each frequency by its own factor; factors of another number are left out.
    #[must_use]
    pub fn stretched_each(mut self, factors: &[f32]) -> Self {
        if factors.len() == self.frequencies.len() {
            self.frequencies.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= f64::from(*factor));
        }
        self
    }

    /// Llama 3.1's way: slow pairs are stretched, fast ones left, those between blended.
    ///
    /// Source: `transformers`, `_compute_llama3_parameters`.
    #[must_use]
    pub fn stretched_like_llama3(mut self, factor: f64, low: f64, high: f64, original_context: f64) -> Self {
        for frequency in &mut self.frequencies {
            let wavelength = std::f64::consts::TAU / *frequency;
            let smooth = ((original_context / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            *frequency *= (1.0 - smooth) / factor + smooth;
        }
        self
    }

    /// YaRN: pairs that turn often are left, those that turn rarely stretched, those between blended by a ramp.
    ///
    /// Source: `transformers`, `_compute_yarn_parameters` with its usual `beta_fast` 32 and `beta_slow` 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "dimensions are few")]
    pub fn stretched_like_yarn(mut self, base: f64, factor: f64, original_context: f64) -> Self {
        let dimensions = self.frequencies.len() as f64 * 2.0;
        let pair_of = |turns: f64| dimensions * (original_context / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
        let (low, high) = (pair_of(32.0).floor().max(0.0), pair_of(1.0).ceil().min(dimensions - 1.0));
        for (pair, frequency) in self.frequencies.iter_mut().enumerate() {
            let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            *frequency *= 1.0 - ramp + ramp / factor;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a factor near 1")]
        let magnitude = (0.1 * factor.ln() + 1.0) as f32;
        self.magnitude = magnitude;
        self
    }
}

/// Something of which layers that look back no further than the window may have their own.
#[derive(Debug)]
pub(super) struct ByWindow<T> {
    pub(super) usual: T,
    pub(super) windowed: Option<T>,
}

impl<T> ByWindow<T> {
    /// That of a layer with or without a window.
    pub(super) fn of(&self, windowed: bool) -> &T {
        self.windowed.as_ref().filter(|_| windowed).unwrap_or(&self.usual)
    }
}

/// Checks the width of an attention head before anything is made by it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_head(dimensions: usize) -> Result<(), String> {
    if dimensions > HEAD_MAX {
        return Err(format!("{dimensions} numbers of an attention head are more than {HEAD_MAX}"));
    }
    Ok(())
}

impl Architecture {
    /// Checks that the numbers fit together and are none that only a broken file has.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("layers", self.layers),
            ("hidden size", self.hidden),
            ("feed-forward size", self.feed_forward),
            ("attention heads", self.heads),
            ("key-value heads", self.kv_heads),
            ("head dimensions", self.head_dimensions),
            ("context length", self.context),
        ];
        if let Some((name, size)) = positive.into_iter().find(|(_, size)| *size == 0 || *size > 1 << 24) {
            return Err(format!("the number of {name} is {size}"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!("{} attention heads cannot share {} key-value heads", self.heads, self.kv_heads));
        }
        if !self.head_dimensions.is_multiple_of(16) {
            return Err(format!("{} numbers of an attention head are not supported: multiples of 16 are", self.head_dimensions));
        }
        if self.rope.frequencies.len() * 2 > self.head_dimensions {
            return Err(format!("positions turn {} of {} numbers of a head", self.rope.frequencies.len() * 2, self.head_dimensions));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return Err(format!("the epsilon of norms is {}", self.norm_epsilon));
        }
        Ok(())
    }

    /// Whether a layer looks back no further than the window.
    pub(super) fn is_windowed(&self, layer: usize) -> bool {
        self.windowed.get(layer).copied().unwrap_or(false)
    }

    /// Numbers of all asking heads of a token.
    #[must_use]
    pub const fn query_width(&self) -> usize {
        self.heads * self.head_dimensions
    }

    /// Numbers of all keys, or of all values, of a token.
    #[must_use]
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dimensions
    }

    /// The keys and values of one token, as they are remembered.
    #[must_use]
    pub const fn store_shape(&self) -> StoreShape {
        StoreShape { layers: self.layers, kv_heads: self.kv_heads, dimensions: self.head_dimensions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_turn_by_powers_of_the_base() {
        let rope = Rope::new(10_000.0, 8, false);
        let expected = [1.0, 0.1, 0.01, 0.001];
        assert!(rope.frequencies.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12), "{rope:?}");
        assert!((rope.stretched(4.0).frequencies[0] - 0.25).abs() < 1e-12);
    }

    #[test]
    fn llama3_stretches_only_what_turns_slowly() {
        let rope = Rope::new(500_000.0, 128, false);
        let stretched = rope.clone().stretched_like_llama3(8.0, 1.0, 4.0, 8192.0);
        assert!((stretched.frequencies[0] / rope.frequencies[0] - 1.0).abs() < 1e-12, "fast pairs are left");
        assert!((stretched.frequencies[63] * 8.0 / rope.frequencies[63] - 1.0).abs() < 1e-12, "slow ones are divided");
        let between = stretched.frequencies.iter().zip(&rope.frequencies).filter(|(new, old)| *new < *old && **new > **old / 7.9);
        assert!(between.count() > 2);
    }
}
