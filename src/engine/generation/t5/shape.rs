//! From a T5's `config.json` to its shape.

use crate::engine::generation::decoder::{HEAD_MAX, StoreShape};
use crate::engine::generation::kernels::Activation;
use serde_json::Value;

/// Tokens of a text, so that the table of distances stays small whatever a file says.
const CONTEXT_MAX: usize = 1 << 16;

/// All that decides how a T5 computes, but for its weights.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine::generation) struct Shape {
    pub(super) encoder_layers: usize,
    pub(super) decoder_layers: usize,
    /// Numbers of one token between layers.
    pub(super) hidden: usize,
    pub(super) feed_forward: usize,
    pub(super) heads: usize,
    /// Numbers of one head; all heads together need not be as wide as a token.
    pub(super) head_dimensions: usize,
    pub(super) norm_epsilon: f32,
    pub(super) activation: Activation,
    /// Whether a second matrix gates the first (v1.1, Flan).
    pub(super) gated: bool,
    /// Whether the embeddings are the head too; then logits are divided by the root of `hidden`.
    pub(super) tied: bool,
    pub(super) buckets: Buckets,
    /// The token that an answer begins with.
    pub(in crate::engine::generation) start: u32,
    /// Tokens that it was trained on at once; positions are relative, so more are possible.
    pub(in crate::engine::generation) context: usize,
}

/// How distances between two tokens are grouped: near ones each for itself, far ones in growing groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buckets {
    pub(super) count: usize,
    pub(super) distance_max: usize,
}

impl Buckets {
    /// The bucket of a token that stands `ahead` tokens further on; negative: before. Where only tokens before count, `both`
    /// is false.
    ///
    /// Source: `transformers`, `T5Attention._relative_position_bucket`, in single precision as there.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "distances are small")]
    pub(super) fn of(self, ahead: isize, both: bool) -> usize {
        let (count, first) = match (both, ahead > 0) {
            (true, true) => (self.count / 2, self.count / 2),
            (true, false) => (self.count / 2, 0),
            (false, _) => (self.count, 0),
        };
        let distance = if both { ahead.unsigned_abs() } else { ahead.min(0).unsigned_abs() };
        let exact = count / 2;
        if distance < exact {
            return first + distance;
        }
        let part = (distance as f32 / exact as f32).ln() / (self.distance_max as f32 / exact as f32).ln();
        first + (exact + (part * (count - exact) as f32) as usize).min(count - 1)
    }
}

impl Shape {
    /// Reads hyper-parameters.
    ///
    /// # Errors
    /// What is missing, impossible or not supported.
    pub(in crate::engine::generation) fn read(config: &Value) -> Result<Self, String> {
        let size = |name: &str| config[name].as_u64().and_then(|size| usize::try_from(size).ok());
        let needed = |name: &str| {
            let found = size(name).ok_or_else(|| format!("`{name}` is missing or no whole number"))?;
            if found == 0 || found > 1 << 20 { Err(format!("`{name}` is {found}")) } else { Ok(found) }
        };
        let encoder_layers = needed("num_layers")?;
        let (activation, gated) = feed_forward(config["feed_forward_proj"].as_str().unwrap_or("relu"))?;
        let start = size("decoder_start_token_id").or_else(|| size("pad_token_id")).unwrap_or(0);
        #[expect(clippy::cast_possible_truncation, reason = "an epsilon has single precision")]
        let norm_epsilon = config["layer_norm_epsilon"].as_f64().unwrap_or(1e-6) as f32;
        let shape = Self {
            encoder_layers,
            decoder_layers: size("num_decoder_layers").unwrap_or(encoder_layers),
            hidden: needed("d_model")?,
            feed_forward: needed("d_ff")?,
            heads: needed("num_heads")?,
            head_dimensions: needed("d_kv")?,
            norm_epsilon,
            activation,
            gated,
            tied: config["tie_word_embeddings"].as_bool().unwrap_or(true),
            buckets: Buckets {
                count: needed("relative_attention_num_buckets")?,
                distance_max: size("relative_attention_max_distance").unwrap_or(128),
            },
            start: u32::try_from(start).map_err(|_| format!("`decoder_start_token_id` is {start}"))?,
            context: size("n_positions").filter(|&positions| positions > 0).unwrap_or(512),
        };
        shape.check().map(|()| shape)
    }

    fn check(&self) -> Result<(), String> {
        if self.encoder_layers > 1024 || self.decoder_layers == 0 || self.decoder_layers > 1024 {
            return Err(format!("{} and {} layers are not supported", self.encoder_layers, self.decoder_layers));
        }
        if !self.head_dimensions.is_multiple_of(16) || self.head_dimensions > HEAD_MAX {
            return Err(format!("`d_kv` is {}: a multiple of 16 up to {HEAD_MAX} is needed", self.head_dimensions));
        }
        if self.context > CONTEXT_MAX {
            return Err(format!("`n_positions` is {}: at most {CONTEXT_MAX} are supported", self.context));
        }
        let Buckets { count, distance_max } = self.buckets;
        if count < 4 || !count.is_multiple_of(4) || distance_max <= count / 2 {
            return Err(format!("{count} buckets of distances up to {distance_max} are not supported"));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return Err(format!("`layer_norm_epsilon` is {}", self.norm_epsilon));
        }
        Ok(())
    }

    /// Numbers of all heads of a token.
    pub(super) const fn width(&self) -> usize {
        self.heads * self.head_dimensions
    }

    /// What is remembered of a token. Each decoder layer has keys and values of the answer, and as many of the text that was read.
    pub(in crate::engine::generation) const fn store_shape(&self) -> StoreShape {
        StoreShape { layers: self.decoder_layers, kv_heads: self.heads, dimensions: self.head_dimensions }
    }
}

fn feed_forward(name: &str) -> Result<(Activation, bool), String> {
    match name {
        "relu" => Ok((Activation::Relu, false)),
        "gated-relu" => Ok((Activation::Relu, true)),
        "gated-gelu" => Ok((Activation::GeluTanh, true)),
        "gated-silu" => Ok((Activation::Silu, true)),
        other => Err(format!("`feed_forward_proj` `{other}` is not supported: `relu`, `gated-gelu`, `gated-relu` and `gated-silu` are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Value {
        json!({"model_type": "t5", "num_layers": 2, "d_model": 64, "d_ff": 96, "num_heads": 4, "d_kv": 32,
               "relative_attention_num_buckets": 32, "decoder_start_token_id": 0})
    }

    #[test]
    fn distances_fall_into_the_buckets_of_hugging_faces_library() {
        let buckets = Buckets { count: 32, distance_max: 128 };
        // What `T5Attention._relative_position_bucket` gives.
        let both = [(0, 0), (-7, 7), (-8, 8), (-16, 10), (-127, 15), (-500, 15), (1, 17), (7, 23), (8, 24), (11, 24), (12, 25), (300, 31)];
        for (ahead, bucket) in both {
            assert_eq!(buckets.of(ahead, true), bucket, "{ahead} of both");
        }
        for (ahead, bucket) in [(0, 0), (5, 0), (-15, 15), (-16, 16), (-32, 21), (-64, 26), (-128, 31), (-1000, 31)] {
            assert_eq!(buckets.of(ahead, false), bucket, "{ahead} of those before");
        }
    }

    #[test]
    fn no_number_in_the_settings_makes_the_reader_panic_or_take_much_memory() {
        let names: Vec<String> = config().as_object().unwrap().keys().cloned().chain(["n_positions".to_owned()]).collect();
        for name in &names {
            for value in
                [json!(0), json!(1), json!(u64::MAX), json!(i64::MAX), json!(-1), json!(1.5), json!([]), json!("x"), json!(1 << 20)]
            {
                let mut changed = config();
                changed[name] = value;
                if let Ok(shape) = Shape::read(&changed) {
                    assert!(shape.context <= CONTEXT_MAX && shape.head_dimensions <= HEAD_MAX, "{changed}");
                    for distance in [0, 1, -1, 1 << 20, -(1 << 20)] {
                        assert!(
                            shape.buckets.of(distance, true) < shape.buckets.count
                                && shape.buckets.of(distance, false) < shape.buckets.count
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_t5_is_read_and_what_cannot_be_is_named() {
        let found = Shape::read(&config()).unwrap();
        assert_eq!((found.decoder_layers, found.width(), found.tied, found.gated, found.context), (2, 128, true, false, 512));
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut config = config();
            change(&mut config);
            Shape::read(&config).unwrap_err()
        };
        assert_eq!(refused(&|config| config["d_model"] = json!(null)), "`d_model` is missing or no whole number");
        assert!(refused(&|config| config["d_kv"] = json!(20)).starts_with("`d_kv` is 20: a multiple of 16"));
        assert!(refused(&|config| config["feed_forward_proj"] = json!("gated-tanh")).contains("`gated-gelu`"));
        assert!(refused(&|config| config["relative_attention_num_buckets"] = json!(2)).starts_with("2 buckets"));
        assert!(refused(&|config| config["num_layers"] = json!(1_000_000)).contains("layers are not supported"));
    }
}
