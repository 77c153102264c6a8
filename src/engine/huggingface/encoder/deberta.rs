//! DeBERTa v2 and v3: words and distances between words look at one another separately.
//!
//! Source: "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", and Hugging Face's `modeling_deberta_v2`.

use super::bert::prefix_of;
use super::ops::{Activation, Heads, Linear, Norm, part, product, shares};
use super::{Packed, Result, Trunk, check, failed};
use crate::engine::huggingface::safetensors::Weights;
use crate::engine::huggingface::settings::Settings;
use crate::engine::{Cancel, LoadError};
use candle_core::Tensor;

/// The trunk of DeBERTa v2.
#[derive(Debug)]
pub(super) struct Deberta {
    words: Tensor,
    positions: Option<Tensor>,
    types: Option<Tensor>,
    projection: Option<Linear>,
    norm: Norm,
    distances: Option<Distances>,
    layers: Vec<Layer>,
}

/// What is known of distances between words.
#[derive(Debug)]
struct Distances {
    /// `[2 * span, width]`
    table: Tensor,
    span: usize,
    buckets: usize,
    positions_max: usize,
    to_position: bool,
    from_position: bool,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    /// The table through the layer's own key and query, `[heads, 2 * span, width]`.
    distance_keys: Option<Tensor>,
    distance_queries: Option<Tensor>,
    heads: Heads,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    activation: Activation,
    down: Linear,
    output_norm: Norm,
}

type Loaded<T> = std::result::Result<T, LoadError>;

impl Deberta {
    pub(super) fn load(settings: Settings<'_>, weights: &Weights) -> Loaded<Self> {
        if settings.integer_or("conv_kernel_size", 0) > 0 {
            return Err(LoadError::InvalidModel(
                "config.json: `conv_kernel_size`: a convolution beside the layers is not served".to_owned(),
            ));
        }
        let width = settings.count("hidden_size")?;
        let narrow = settings.count_or("embedding_size", width)?;
        let heads = settings.count("num_attention_heads")?;
        settings.divides(("num_attention_heads", heads), ("hidden_size", width))?;
        let prefix = prefix_of(weights, "deberta");
        let table = |name: &str, rows: usize| weights.get(&format!("{prefix}embeddings.{name}.weight"), &[rows, narrow]);
        let biased = settings.flag_or("position_biased_input", true);
        let positions_max = settings.count_or("max_position_embeddings", 512)?;
        let kinds = settings.integer_or("type_vocab_size", 0);
        let kinds = usize::try_from(kinds).unwrap_or(0);
        let projected = weights.has(&format!("{prefix}embeddings.embed_proj.weight"));
        let projection = || Linear::load_maybe_biased(weights, &format!("{prefix}embeddings.embed_proj"), (narrow, width), false);
        let epsilon = settings.number_or("layer_norm_eps", 1e-7);
        let distances = Distances::load(settings, weights, &prefix, (width, positions_max, epsilon))?;
        let count = settings.count("num_hidden_layers")?;
        let layers = (0..count).map(|at| Layer::load(settings, weights, &format!("{prefix}encoder.layer.{at}"), distances.as_ref()));
        Ok(Self {
            words: table("word_embeddings", settings.count("vocab_size")?)?,
            positions: biased.then(|| table("position_embeddings", positions_max)).transpose()?,
            types: (kinds > 0).then(|| table("token_type_embeddings", kinds)).transpose()?,
            projection: projected.then(projection).transpose()?,
            norm: Norm::load(weights, &format!("{prefix}embeddings.LayerNorm"), width, epsilon)?,
            layers: layers.collect::<Loaded<_>>()?,
            distances,
        })
    }

    fn embed(&self, batch: &Packed) -> candle_core::Result<Tensor> {
        let mut x = self.words.index_select(&batch.ids, 0)?;
        if let Some(positions) = &self.positions {
            x = (x + positions.index_select(&Tensor::new(&batch.positions[..], batch.ids.device())?, 0)?)?;
        }
        if let Some(types) = &self.types {
            x = (x + types.index_select(&batch.types, 0)?)?;
        }
        if let Some(projection) = &self.projection {
            x = projection.run(&x)?;
        }
        self.norm.run(&x)
    }
}

impl Distances {
    fn load(
        settings: Settings<'_>,
        weights: &Weights,
        prefix: &str,
        (width, positions_max, epsilon): (usize, usize, f64),
    ) -> Loaded<Option<Self>> {
        if !settings.flag_or("relative_attention", false) {
            return Ok(None);
        }
        let relative = usize::try_from(settings.integer_or("max_relative_positions", -1)).ok().filter(|most| *most > 0);
        let positions_max = relative.unwrap_or(positions_max);
        let buckets = usize::try_from(settings.integer_or("position_buckets", -1)).unwrap_or(0);
        let span = if buckets > 0 { buckets } else { positions_max };
        if buckets > 0 && (positions_max <= buckets / 2 + 1 || buckets < 2) {
            return Err(LoadError::InvalidModel(format!(
                "config.json: `position_buckets` {buckets} is too many for {positions_max} positions"
            )));
        }
        let mut table = weights.get(&format!("{prefix}encoder.rel_embeddings.weight"), &[2 * span, width])?;
        if settings.text("norm_rel_ebd").is_some_and(|kinds| kinds.contains("layer_norm")) {
            let norm = Norm::load(weights, &format!("{prefix}encoder.LayerNorm"), width, epsilon)?;
            table = norm.run(&table).map_err(unusable)?;
        }
        let kinds = attention_kinds(settings);
        let has = |kind: &str| kinds.iter().any(|known| known == kind);
        Ok(Some(Self { table, span, buckets, positions_max, to_position: has("c2p"), from_position: has("p2c") }))
    }

    /// The row of the table for a distance: near ones each have their own, far ones share.
    fn bucket(&self, distance: i64) -> i64 {
        let middle = i64::try_from(self.buckets / 2).unwrap_or(0);
        if self.buckets == 0 || distance.abs() <= middle {
            return distance;
        }
        let float = |number: i64| f64::from(i32::try_from(number).unwrap_or(i32::MAX));
        let most = float(i64::try_from(self.positions_max).unwrap_or(i64::MAX) - 1);
        let far = ((float(distance.abs()) / float(middle)).ln() / (most / float(middle)).ln() * float(middle - 1)).ceil();
        #[expect(clippy::cast_possible_truncation, reason = "a logarithm of a distance between words is small")]
        let far = far as i64 + middle;
        far * distance.signum()
    }

    /// For each pair of words the row of the table, `sign` times their distance; `[heads, len, len]`.
    fn rows(&self, len: usize, sign: i64, heads: usize, like: &Tensor) -> candle_core::Result<Tensor> {
        let span = i64::try_from(self.span).unwrap_or(i64::MAX);
        let place = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
        let row = |distance: i64| u32::try_from((sign * self.bucket(distance) + span).clamp(0, 2 * span - 1)).unwrap_or(0);
        let values: Vec<u32> = (0..len * len).map(|at| row(place(at / len) - place(at % len))).collect();
        Tensor::from_vec(values, (1, len, len), like.device())?.broadcast_as((heads, len, len))?.contiguous()
    }
}

/// `pos_att_type`: a list, or text with bars.
fn attention_kinds(settings: Settings<'_>) -> Vec<String> {
    let value = settings.value("pos_att_type");
    match value.as_array() {
        Some(list) => list.iter().filter_map(|kind| kind.as_str().map(str::to_owned)).collect(),
        None => value.as_str().unwrap_or_default().split('|').map(|kind| kind.trim().to_lowercase()).collect(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands errors over")]
fn unusable(error: candle_core::Error) -> LoadError {
    LoadError::InvalidModel(format!("relative positions cannot be used: {error}"))
}

impl Layer {
    fn load(settings: Settings<'_>, weights: &Weights, place: &str, distances: Option<&Distances>) -> Loaded<Self> {
        let (width, inner) = (settings.count("hidden_size")?, settings.count("intermediate_size")?);
        let count = settings.count("num_attention_heads")?;
        let epsilon = settings.number_or("layer_norm_eps", 1e-7);
        let linear = |name: &str, from, to| Linear::load(weights, &format!("{place}.{name}"), (from, to));
        let norm = |name: &str| Norm::load(weights, &format!("{place}.{name}"), width, epsilon);
        let (query, key) = (linear("attention.self.query_proj", width, width)?, linear("attention.self.key_proj", width, width)?);
        let heads = Heads::new(count, width / count);
        let shared = settings.flag_or("share_att_key", false);
        let of_table = |wanted: bool, own: &Linear, name: &str| -> Loaded<Option<Tensor>> {
            let Some(distances) = distances.filter(|_| wanted) else { return Ok(None) };
            let separate = if shared { None } else { Some(linear(&format!("attention.self.{name}"), width, width)?) };
            let rows = separate.as_ref().unwrap_or(own).run(&distances.table);
            rows.and_then(|rows| heads.split(&rows)?.transpose(0, 1)?.contiguous()).map(Some).map_err(unusable)
        };
        Ok(Self {
            distance_keys: of_table(distances.is_some_and(|distances| distances.to_position), &key, "pos_key_proj")?,
            distance_queries: of_table(distances.is_some_and(|distances| distances.from_position), &query, "pos_query_proj")?,
            query,
            key,
            value: linear("attention.self.value_proj", width, width)?,
            heads,
            output: linear("attention.output.dense", width, width)?,
            attention_norm: norm("attention.output.LayerNorm")?,
            up: linear("intermediate.dense", width, inner)?,
            activation: Activation::by_name(settings.text("hidden_act").unwrap_or("gelu"))?,
            down: linear("output.dense", inner, width)?,
            output_norm: norm("output.LayerNorm")?,
        })
    }

    fn run(&self, x: &Tensor, batch: &Packed, distances: Option<&Distances>) -> candle_core::Result<Tensor> {
        let split = |layer: &Linear| layer.run(x).and_then(|rows| self.heads.split(&rows));
        let (q, k, v) = (split(&self.query)?, split(&self.key)?, split(&self.value)?);
        let mut parts = Vec::with_capacity(batch.texts.len());
        for text in batch.texts.iter().filter(|text| !text.is_empty()) {
            let shares = shares(self.scores(&part(&q, text)?, &part(&k, text)?, distances)?, &self.scaled(), 0)?;
            parts.push(self.heads.join(&product(&shares, &part(&v, text)?)?, text.len())?);
        }
        let seen = Tensor::cat(&parts, 0)?;
        let x = self.attention_norm.run(&self.output.run_beside(&seen, x)?)?;
        let inner = self.up.run_bent(&x, self.activation)?;
        self.output_norm.run(&self.down.run_beside(&inner, &x)?)
    }

    /// The heads, with scores made smaller for each kind of look that adds to them.
    fn scaled(&self) -> Heads {
        let kinds = 1 + u32::from(self.distance_keys.is_some()) + u32::from(self.distance_queries.is_some());
        Heads { scale: self.heads.scale / f64::from(kinds).sqrt(), ..self.heads }
    }

    /// What words see of words, and of distances; not scaled yet.
    fn scores(&self, q: &Tensor, k: &Tensor, distances: Option<&Distances>) -> candle_core::Result<Tensor> {
        let len = q.dim(1)?;
        let mut scores = product(q, &k.transpose(1, 2)?)?;
        let Some(distances) = distances else { return Ok(scores) };
        if let Some(keys) = &self.distance_keys {
            let seen = product(q, &keys.transpose(1, 2)?)?;
            scores = (scores + seen.gather(&distances.rows(len, 1, self.heads.count, q)?, 2)?)?;
        }
        if let Some(queries) = &self.distance_queries {
            let seen = product(k, &queries.transpose(1, 2)?)?;
            let by_key = seen.gather(&distances.rows(len, -1, self.heads.count, q)?, 2)?;
            scores = (scores + by_key.transpose(1, 2)?)?;
        }
        Ok(scores)
    }
}

impl Trunk for Deberta {
    fn run(&self, batch: &Packed, cancel: &Cancel) -> Result<Tensor> {
        let mut x = self.embed(batch).map_err(failed)?;
        for layer in &self.layers {
            check(cancel)?;
            x = layer.run(&x, batch, self.distances.as_ref()).map_err(failed)?;
        }
        Ok(x)
    }
}
