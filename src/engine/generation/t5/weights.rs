//! The weights of a T5, found by the names that Hugging Face folders give them.

use super::shape::Shape;
use crate::engine::generation::weights::{self, Dtype, ForEach, Half, Matrix, Pages, Source, StoredTensor, dequantise};
use std::sync::Arc;

/// Attention: of a text to itself, of an answer to itself, or of an answer to the text.
#[derive(Debug)]
pub(super) struct Attending {
    pub(super) norm: Vec<f32>,
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    pub(super) value: Matrix,
    pub(super) output: Matrix,
}

/// A feed-forward layer.
#[derive(Debug)]
pub(super) struct FeedForward {
    pub(super) norm: Vec<f32>,
    /// One matrix, or the gate and what it gates.
    pub(super) into: Vec<Matrix>,
    pub(super) out: Matrix,
}

/// A layer of the encoder.
#[derive(Debug)]
pub(super) struct EncoderLayer {
    pub(super) attending: Attending,
    pub(super) feed_forward: FeedForward,
}

/// A layer of the decoder.
#[derive(Debug)]
pub(super) struct DecoderLayer {
    pub(super) attending: Attending,
    pub(super) to_text: Attending,
    pub(super) feed_forward: FeedForward,
}

/// All weights.
#[derive(Debug)]
pub(super) struct Weights {
    source: Arc<dyn Source + Send + Sync>,
    embedding: &'static str,
    half: Option<Half>,
    pub(super) encoder: Vec<EncoderLayer>,
    pub(super) encoder_norm: Vec<f32>,
    /// For each bucket one number for each head.
    pub(super) encoder_bias: Vec<f32>,
    pub(super) decoder: Vec<DecoderLayer>,
    pub(super) decoder_norm: Vec<f32>,
    /// See `encoder_bias`.
    pub(super) decoder_bias: Vec<f32>,
    pub(super) head: Matrix,
}

impl Weights {
    /// Finds all weights and makes them ready.
    ///
    /// # Errors
    /// The first tensor that is missing or has a shape that does not fit.
    pub(super) fn load(
        source: Arc<dyn Source + Send + Sync>,
        shape: &Shape,
        half: Option<Half>,
        for_each: &mut ForEach<'_>,
    ) -> Result<Self, String> {
        let names = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
        let embedding = names.into_iter().find(|name| source.tensor(name).is_some()).unwrap_or(names[0]);
        let mut finder = Finder { source: &*source, shape, half, pages: Pages::default(), for_each };
        let vocabulary = finder.stored(embedding)?.rows_and_columns().0;
        finder.of_shape(embedding, vocabulary, shape.hidden)?;
        let head = finder.matrix(if shape.tied { embedding } else { "lm_head.weight" }, vocabulary, shape.hidden)?;
        let encoder = (0..shape.encoder_layers).map(|layer| finder.encoder_layer(layer)).collect::<Result<_, _>>()?;
        let decoder = (0..shape.decoder_layers).map(|layer| finder.decoder_layer(layer)).collect::<Result<_, _>>()?;
        let (encoder_norm, decoder_norm) =
            (finder.vector("encoder.final_layer_norm.weight")?, finder.vector("decoder.final_layer_norm.weight")?);
        let (encoder_bias, decoder_bias) = (finder.bias("encoder")?, finder.bias("decoder")?);
        Ok(Self { source, embedding, half, encoder, encoder_norm, encoder_bias, decoder, decoder_norm, decoder_bias, head })
    }

    /// The numbers that stand for a token; zeros for one that nobody has.
    pub(super) fn embed(&self, id: u32, out: &mut [f32]) {
        match self.source.tensor(self.embedding).filter(|stored| (id as usize) < stored.rows_and_columns().0) {
            Some(stored) => dequantise(stored.dtype, stored.row(id as usize), out),
            None => out.fill(0.0),
        }
        if let Some(half) = self.half {
            for number in out.iter_mut() {
                *number = half.rounded(*number);
            }
        }
    }
}

/// Looks for tensors and holds them against the shape.
struct Finder<'a, 'b> {
    source: &'a (dyn Source + Send + Sync),
    shape: &'a Shape,
    half: Option<Half>,
    pages: Pages,
    for_each: &'a mut ForEach<'b>,
}

impl<'a> Finder<'a, '_> {
    fn stored(&self, name: &str) -> Result<StoredTensor<'a>, String> {
        self.source.tensor(name).ok_or_else(|| format!("tensor `{name}` is missing"))
    }

    fn of_shape(&self, name: &str, rows: usize, columns: usize) -> Result<StoredTensor<'a>, String> {
        let stored = self.stored(name)?;
        if stored.shape.len() == 2 && stored.rows_and_columns() == (rows, columns) {
            return Ok(stored);
        }
        Err(format!("tensor `{name}` has the shape {:?}: [{rows}, {columns}] is needed", stored.shape))
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix, String> {
        let stored = self.of_shape(name, rows, columns)?;
        weights::pack(&stored, self.half, &mut self.pages, self.for_each).map_err(|error| format!("tensor `{name}`: {error}"))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, String> {
        let stored = self.stored(name)?;
        if stored.len() != self.shape.hidden || !matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            return Err(format!("tensor `{name}` has the shape {:?}: {} plain numbers are needed", stored.shape, self.shape.hidden));
        }
        Ok(stored.to_f32())
    }

    /// What distances add to scores; the first layer holds it for all.
    fn bias(&self, half: &str) -> Result<Vec<f32>, String> {
        let name = format!("{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        Ok(self.of_shape(&name, self.shape.buckets.count, self.shape.heads)?.to_f32())
    }

    fn attending(&mut self, layer: &str, kind: &str) -> Result<Attending, String> {
        let (hidden, width) = (self.shape.hidden, self.shape.width());
        Ok(Attending {
            norm: self.vector(&format!("{layer}.layer_norm.weight"))?,
            query: self.matrix(&format!("{layer}.{kind}.q.weight"), width, hidden)?,
            key: self.matrix(&format!("{layer}.{kind}.k.weight"), width, hidden)?,
            value: self.matrix(&format!("{layer}.{kind}.v.weight"), width, hidden)?,
            output: self.matrix(&format!("{layer}.{kind}.o.weight"), hidden, width)?,
        })
    }

    fn feed_forward(&mut self, layer: &str) -> Result<FeedForward, String> {
        let (hidden, wide) = (self.shape.hidden, self.shape.feed_forward);
        let names: &[&str] = if self.shape.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        let name = |part: &str| format!("{layer}.DenseReluDense.{part}.weight");
        let into = names.iter().map(|part| self.matrix(&name(part), wide, hidden)).collect::<Result<_, _>>()?;
        Ok(FeedForward { norm: self.vector(&format!("{layer}.layer_norm.weight"))?, into, out: self.matrix(&name("wo"), hidden, wide)? })
    }

    fn encoder_layer(&mut self, layer: usize) -> Result<EncoderLayer, String> {
        let part = |part: usize| format!("encoder.block.{layer}.layer.{part}");
        Ok(EncoderLayer { attending: self.attending(&part(0), "SelfAttention")?, feed_forward: self.feed_forward(&part(1))? })
    }

    fn decoder_layer(&mut self, layer: usize) -> Result<DecoderLayer, String> {
        let part = |part: usize| format!("decoder.block.{layer}.layer.{part}");
        Ok(DecoderLayer {
            attending: self.attending(&part(0), "SelfAttention")?,
            to_text: self.attending(&part(1), "EncDecAttention")?,
            feed_forward: self.feed_forward(&part(2))?,
        })
    }
}
