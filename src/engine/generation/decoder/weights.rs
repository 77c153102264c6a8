//! The weights of a decoder, found by the names that GGUF files and Hugging Face folders give them.

use super::HEAD_MAX;
use crate::engine::generation::architecture::Architecture;
use crate::engine::generation::weights::{self, Dtype, ForEach, Half, Matrix, Source, StoredTensor, dequantise};
use std::sync::Arc;

/// Whose names tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `blk.0.attn_q.weight`.
    Gguf,
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
}

/// The weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    /// Queries, keys and values; one matrix where they are stored as one.
    pub(super) qkv: Vec<Matrix>,
    pub(super) qkv_quantised: bool,
    pub(super) qkv_bias: Option<Vec<f32>>,
    pub(super) query_norm: Option<Vec<f32>>,
    pub(super) key_norm: Option<Vec<f32>>,
    pub(super) output: Matrix,
    pub(super) post_attention_norm: Option<Vec<f32>>,
    pub(super) feed_forward_norm: Vec<f32>,
    /// Gates and ups; one matrix where they are stored as one.
    pub(super) gate_up: Vec<Matrix>,
    pub(super) gate_up_quantised: bool,
    pub(super) down: Matrix,
    pub(super) post_feed_forward_norm: Option<Vec<f32>>,
}

/// A decoder's weights, ready to compute with.
#[derive(Debug)]
pub struct Decoder {
    pub(super) architecture: Architecture,
    source: Arc<dyn Source + Send + Sync>,
    embedding: &'static str,
    half: Option<Half>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    pub(super) head: Matrix,
}

/// The names of a layer's tensors, without number and `.weight`.
struct LayerNames {
    layer: &'static str,
    attention_norm: &'static str,
    qkv: [&'static str; 3],
    qkv_in_one: &'static str,
    query_norm: &'static str,
    key_norm: &'static str,
    output: &'static str,
    post_attention_norm: &'static str,
    feed_forward_norm: &'static str,
    gate_up: [&'static str; 2],
    /// Where both are one; in GGUF that is `ffn_up` of twice the rows.
    gate_up_in_one: &'static str,
    down: &'static str,
    post_feed_forward_norm: &'static str,
}

const GGUF: LayerNames = LayerNames {
    layer: "blk.",
    attention_norm: "attn_norm",
    qkv: ["attn_q", "attn_k", "attn_v"],
    qkv_in_one: "attn_qkv",
    query_norm: "attn_q_norm",
    key_norm: "attn_k_norm",
    output: "attn_output",
    post_attention_norm: "post_attention_norm",
    feed_forward_norm: "ffn_norm",
    gate_up: ["ffn_gate", "ffn_up"],
    gate_up_in_one: "ffn_up",
    down: "ffn_down",
    post_feed_forward_norm: "post_ffw_norm",
};

const HUGGING_FACE: LayerNames = LayerNames {
    layer: "model.layers.",
    attention_norm: "input_layernorm",
    qkv: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    qkv_in_one: "self_attn.qkv_proj",
    query_norm: "self_attn.q_norm",
    key_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    post_attention_norm: "",
    feed_forward_norm: "post_attention_layernorm",
    gate_up: ["mlp.gate_proj", "mlp.up_proj"],
    gate_up_in_one: "mlp.gate_up_proj",
    down: "mlp.down_proj",
    post_feed_forward_norm: "",
};

/// Gemma 2 and 3 norm what attention and feed-forward layers give, and name their norms by where they stand.
const HUGGING_FACE_GEMMA: LayerNames = LayerNames {
    post_attention_norm: "post_attention_layernorm",
    feed_forward_norm: "pre_feedforward_layernorm",
    post_feed_forward_norm: "post_feedforward_layernorm",
    ..HUGGING_FACE
};

impl Decoder {
    /// Finds all weights and makes them ready, on several threads where `for_each` has them; plain ones are rounded to `half`
    /// where there is one.
    ///
    /// # Errors
    /// The first tensor that is missing or has a shape that does not fit.
    pub fn load(
        source: Arc<dyn Source + Send + Sync>,
        architecture: Architecture,
        names: Names,
        half: Option<Half>,
        for_each: &mut ForEach<'_>,
    ) -> Result<Self, String> {
        if architecture.head_dimensions > HEAD_MAX {
            return Err(format!("{} numbers of an attention head are more than {HEAD_MAX}", architecture.head_dimensions));
        }
        let post_norms = matches!(architecture.family.as_str(), "gemma2" | "gemma3");
        let (layer_names, embedding, norm, head) = match names {
            Names::Gguf => (&GGUF, "token_embd.weight", "output_norm.weight", "output.weight"),
            Names::HuggingFace if post_norms => (&HUGGING_FACE_GEMMA, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
            Names::HuggingFace => (&HUGGING_FACE, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
        };
        let hidden = architecture.hidden;
        let mut finder = Finder { source: &*source, architecture: &architecture, half, for_each };
        let norm = finder.norm(norm, hidden)?;
        let head = if finder.source.tensor(head).is_some() { head } else { embedding };
        let rows = finder.stored(embedding)?.rows_and_columns().0;
        let head = finder.matrix(head, rows, hidden)?;
        finder.matrix_shape(embedding, rows, hidden)?;
        let layers = (0..architecture.layers).map(|layer| finder.layer(layer_names, layer)).collect::<Result<_, _>>()?;
        Ok(Self { architecture, source, embedding, half, layers, norm, head })
    }

    /// The shape.
    #[must_use]
    pub const fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Logits of a step: one for each row of the head.
    #[must_use]
    pub const fn vocabulary(&self) -> usize {
        self.head.rows()
    }

    /// Bytes of all matrices in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_layer = |layer: &Layer| {
            let matrices = layer.qkv.iter().chain(&layer.gate_up).chain([&layer.output, &layer.down]);
            matrices.map(Matrix::bytes).sum::<usize>()
        };
        self.layers.iter().map(of_layer).sum::<usize>() + self.head.bytes()
    }

    /// The numbers that stand for a token, read where the file has them; zeros for one that nobody has.
    pub(super) fn embed(&self, id: u32, out: &mut [f32]) {
        let Some(stored) = self.source.tensor(self.embedding).filter(|stored| (id as usize) < stored.rows_and_columns().0) else {
            return out.fill(0.0);
        };
        dequantise(stored.dtype, stored.row(id as usize), out);
        let scale = self.architecture.embedding_scale;
        for number in out {
            *number = self.half.map_or(*number, |half| half.rounded(*number)) * scale;
        }
    }
}

/// Looks for tensors and holds them against the shape.
struct Finder<'a, 'b> {
    source: &'a (dyn Source + Send + Sync),
    architecture: &'a Architecture,
    half: Option<Half>,
    for_each: &'a mut ForEach<'b>,
}

impl<'a> Finder<'a, '_> {
    fn stored(&self, name: &str) -> Result<StoredTensor<'a>, String> {
        self.source.tensor(name).ok_or_else(|| format!("tensor `{name}` is missing"))
    }

    fn matrix_shape(&self, name: &str, rows: usize, columns: usize) -> Result<StoredTensor<'a>, String> {
        let stored = self.stored(name)?;
        if stored.shape.len() == 2 && stored.rows_and_columns() == (rows, columns) {
            return Ok(stored);
        }
        Err(format!("tensor `{name}` has the shape {:?}: [{rows}, {columns}] is needed", stored.shape))
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix, String> {
        let stored = self.matrix_shape(name, rows, columns)?;
        weights::pack(&stored, self.half, self.for_each).map_err(|error| format!("tensor `{name}`: {error}"))
    }

    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, String> {
        let stored = self.stored(name)?;
        if stored.len() != length || !matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            return Err(format!(
                "tensor `{name}` has the shape {:?} and type {}: {length} plain numbers are needed",
                stored.shape, stored.dtype
            ));
        }
        Ok(stored.to_f32())
    }

    /// A norm's weights.
    fn norm(&self, name: &str, length: usize) -> Result<Vec<f32>, String> {
        let mut weights = self.vector(name, length)?;
        for weight in &mut weights {
            *weight += self.architecture.norm_offset;
        }
        Ok(weights)
    }

    fn norm_if_there(&self, name: &str, length: usize) -> Result<Option<Vec<f32>>, String> {
        self.source.tensor(name).map(|_| self.norm(name, length)).transpose()
    }

    fn layer(&mut self, names: &LayerNames, layer: usize) -> Result<Layer, String> {
        let shape = self.architecture;
        let (hidden, feed_forward, queries, kv) = (shape.hidden, shape.feed_forward, shape.query_width(), shape.kv_width());
        let name = |part: &str| format!("{}{layer}.{part}.weight", names.layer);
        let qkv_rows: &[(&str, usize)] = if self.source.tensor(&name(names.qkv_in_one)).is_some() {
            &[(names.qkv_in_one, queries + 2 * kv)]
        } else {
            &[(names.qkv[0], queries), (names.qkv[1], kv), (names.qkv[2], kv)]
        };
        let qkv = self.matrices(&name, qkv_rows, hidden)?;
        let one = self.source.tensor(&name(names.gate_up_in_one)).filter(|tensor| tensor.rows_and_columns().0 == 2 * feed_forward);
        let gate_up_rows: &[(&str, usize)] = if one.is_some() {
            &[(names.gate_up_in_one, 2 * feed_forward)]
        } else {
            &[(names.gate_up[0], feed_forward), (names.gate_up[1], feed_forward)]
        };
        let gate_up = self.matrices(&name, gate_up_rows, hidden)?;
        let head = shape.head_dimensions;
        Ok(Layer {
            attention_norm: self.norm(&name(names.attention_norm), hidden)?,
            qkv_quantised: alike(&qkv).map_err(|()| format!("layer {layer} mixes plain and quantised queries, keys and values"))?,
            qkv,
            qkv_bias: self.biases(names, layer, qkv_rows)?,
            query_norm: self.norm_if_there(&name(names.query_norm), head)?,
            key_norm: self.norm_if_there(&name(names.key_norm), head)?,
            output: self.matrix(&name(names.output), hidden, queries)?,
            post_attention_norm: self.norm_if_there(&name(names.post_attention_norm), hidden)?,
            feed_forward_norm: self.norm(&name(names.feed_forward_norm), hidden)?,
            gate_up_quantised: alike(&gate_up).map_err(|()| format!("layer {layer} mixes plain and quantised gates"))?,
            gate_up,
            down: self.matrix(&name(names.down), hidden, feed_forward)?,
            post_feed_forward_norm: self.norm_if_there(&name(names.post_feed_forward_norm), hidden)?,
        })
    }

    fn matrices(&mut self, name: &impl Fn(&str) -> String, rows: &[(&str, usize)], columns: usize) -> Result<Vec<Matrix>, String> {
        rows.iter().map(|(part, rows)| self.matrix(&name(part), *rows, columns)).collect()
    }

    /// The biases of queries, keys and values, one behind the other, where there are any.
    fn biases(&self, names: &LayerNames, layer: usize, rows: &[(&str, usize)]) -> Result<Option<Vec<f32>>, String> {
        let name = |part: &str| format!("{}{layer}.{part}.bias", names.layer);
        if rows.iter().all(|(part, _)| self.source.tensor(&name(part)).is_none()) {
            return Ok(None);
        }
        let found = rows.iter().map(|(part, rows)| self.vector(&name(part), *rows)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(found.concat()))
    }
}

/// Whether all take quantised inputs, or none; an error where they differ.
fn alike(matrices: &[Matrix]) -> Result<bool, ()> {
    let quantised = matrices.iter().filter(|matrix| matrix.layout().is_quantised()).count();
    if quantised == 0 || quantised == matrices.len() { Ok(quantised > 0) } else { Err(()) }
}
