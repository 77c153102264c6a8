//! BERT and its kin: RoBERTa, XLM-RoBERTa and CamemBERT count positions otherwise, DistilBERT has other names and no types.
//!
//! MiniLM, BGE, E5, GTE and most sentence encoders are one of these.

use super::ops::{Activation, Heads, Linear, Norm, attention};
use super::{Packed, Result, Trunk, check, failed};
use crate::engine::huggingface::safetensors::Weights;
use crate::engine::huggingface::settings::Settings;
use crate::engine::{Cancel, LoadError};
use candle_core::Tensor;

/// The trunk of BERT: embeddings, and layers that normalise behind each half.
#[derive(Debug)]
pub(super) struct Bert {
    words: Tensor,
    positions: Tensor,
    types: Option<Tensor>,
    norm: Norm,
    layers: Vec<Layer>,
    first_position: usize,
}

#[derive(Debug)]
struct Layer {
    qkv: Linear,
    heads: Heads,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    activation: Activation,
    down: Linear,
    output_norm: Norm,
}

/// Where the parts lie, by the family's names.
struct Names {
    trunk: &'static str,
    layer: &'static str,
    qkv: [&'static str; 3],
    output: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    output_norm: &'static str,
}

const BERT: Names = Names {
    trunk: "bert",
    layer: "encoder.layer",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    output_norm: "output.LayerNorm",
};

const DISTILBERT: Names = Names {
    trunk: "distilbert",
    layer: "transformer.layer",
    qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    output_norm: "output_layer_norm",
};

/// The sizes of a model.
struct Sizes {
    width: usize,
    heads: usize,
    inner: usize,
    layers: usize,
    epsilon: f64,
    activation: Activation,
}

impl Sizes {
    fn read(settings: Settings<'_>, family: &str) -> std::result::Result<Self, LoadError> {
        let distilled = family == "distilbert";
        let name = |bert: &'static str, distil: &'static str| if distilled { distil } else { bert };
        let width = settings.count(name("hidden_size", "dim"))?;
        let heads = settings.count(name("num_attention_heads", "n_heads"))?;
        settings.divides((name("num_attention_heads", "n_heads"), heads), (name("hidden_size", "dim"), width))?;
        Ok(Self {
            width,
            heads,
            inner: settings.count(name("intermediate_size", "hidden_dim"))?,
            layers: settings.count(name("num_hidden_layers", "n_layers"))?,
            epsilon: settings.number_or("layer_norm_eps", 1e-12),
            activation: Activation::by_name(settings.text(name("hidden_act", "activation")).unwrap_or("gelu"))?,
        })
    }
}

/// The first position that RoBERTa gives a token.
pub(super) fn first_position(settings: Settings<'_>) -> usize {
    usize::try_from(settings.integer_or("pad_token_id", 1)).unwrap_or(1) + 1
}

impl Bert {
    pub(super) fn load(settings: Settings<'_>, family: &str, weights: &Weights) -> std::result::Result<Self, LoadError> {
        if let Some(kind) = settings.text("position_embedding_type").filter(|kind| *kind != "absolute") {
            return Err(LoadError::InvalidModel(format!("config.json: `position_embedding_type` `{kind}` is not served")));
        }
        let sizes = Sizes::read(settings, family)?;
        let roberta = matches!(family, "roberta" | "xlm-roberta" | "camembert");
        let names = if family == "distilbert" { DISTILBERT } else { BERT };
        let trunk = if roberta { "roberta" } else { names.trunk };
        let prefix = prefix_of(weights, trunk);
        let table = |name: &str, rows: usize| weights.get(&format!("{prefix}embeddings.{name}.weight"), &[rows, sizes.width]);
        let kinds = if family == "distilbert" { 0 } else { settings.count_or("type_vocab_size", 2)? };
        Ok(Self {
            words: table("word_embeddings", settings.count("vocab_size")?)?,
            positions: table("position_embeddings", settings.count_or("max_position_embeddings", 512)?)?,
            types: (kinds > 0).then(|| table("token_type_embeddings", kinds)).transpose()?,
            norm: Norm::load(weights, &format!("{prefix}embeddings.LayerNorm"), sizes.width, sizes.epsilon)?,
            layers: layers(weights, &prefix, &names, &sizes)?,
            first_position: if roberta { first_position(settings) } else { 0 },
        })
    }

    fn embed(&self, batch: &Packed) -> candle_core::Result<Tensor> {
        let device = batch.ids.device();
        let first = u32::try_from(self.first_position).unwrap_or(0);
        let places: Vec<u32> = batch.positions.iter().map(|position| position + first).collect();
        let sum = (self.words.index_select(&batch.ids, 0)? + self.positions.index_select(&Tensor::new(places, device)?, 0)?)?;
        match &self.types {
            Some(types) if types.dim(0)? == 1 => sum.broadcast_add(types),
            Some(types) => sum + types.index_select(&batch.types, 0)?,
            None => Ok(sum),
        }
    }
}

/// Weights saved from the bare model have no prefix, those with a head have the trunk's name.
pub(super) fn prefix_of(weights: &Weights, trunk: &str) -> String {
    let named = format!("{trunk}.embeddings.word_embeddings.weight");
    if weights.has(&named) { format!("{trunk}.") } else { String::new() }
}

/// Layers one after another: a number of them that the file does not hold ends with the first that is missing.
fn layers(weights: &Weights, prefix: &str, names: &Names, sizes: &Sizes) -> std::result::Result<Vec<Layer>, LoadError> {
    (0..sizes.layers).map(|at| Layer::load(weights, &format!("{prefix}{}.{at}", names.layer), names, sizes)).collect()
}

impl Layer {
    fn load(weights: &Weights, place: &str, names: &Names, sizes: &Sizes) -> std::result::Result<Self, LoadError> {
        let Sizes { width, inner, epsilon, .. } = *sizes;
        let linear = |name: &str, from, to| Linear::load(weights, &format!("{place}.{name}"), (from, to));
        let norm = |name: &str| Norm::load(weights, &format!("{place}.{name}"), width, epsilon);
        let qkv = names.qkv.iter().map(|name| linear(name, width, width)).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Self {
            qkv: Linear::joined(&qkv)?,
            heads: Heads::new(sizes.heads, width / sizes.heads),
            output: linear(names.output, width, width)?,
            attention_norm: norm(names.attention_norm)?,
            up: linear(names.up, width, inner)?,
            activation: sizes.activation,
            down: linear(names.down, inner, width)?,
            output_norm: norm(names.output_norm)?,
        })
    }

    fn run(&self, x: &Tensor, batch: &Packed) -> candle_core::Result<Tensor> {
        let [q, k, v] = self.heads.split_three(&self.qkv.run(x)?)?;
        let seen = attention(&q, &k, &v, &self.heads, batch)?;
        let x = self.attention_norm.run(&self.output.run_beside(&seen, x)?)?;
        let inner = self.up.run_bent(&x, self.activation)?;
        self.output_norm.run(&self.down.run_beside(&inner, &x)?)
    }
}

impl Trunk for Bert {
    fn run(&self, batch: &Packed, cancel: &Cancel) -> Result<Tensor> {
        let mut x = self.embed(batch).and_then(|sum| self.norm.run(&sum)).map_err(failed)?;
        for layer in &self.layers {
            check(cancel)?;
            x = layer.run(&x, batch).map_err(failed)?;
        }
        Ok(x)
    }
}
