//! The weights of a decoder, found by the names that GGUF files and Hugging Face folders give them.

use super::HEAD_MAX;
use crate::engine::generation::architecture::Architecture;
use crate::engine::generation::weights::{self, Dtype, ForEach, Half, Matrix, Pages, Source, StoredTensor, dequantise};
use std::fmt::Debug;
use std::sync::Arc;

/// What stored weights become where they are computed with.
pub(in crate::engine::generation) trait Packing {
    /// A matrix, ready to multiply with.
    type Matrix: Debug;
    /// Numbers of a norm or a bias.
    type Vector: Debug;

    /// A matrix `[rows, columns]`.
    fn matrix(&mut self, stored: &StoredTensor<'_>) -> Result<Self::Matrix, String>;

    /// The numbers of a norm or a bias.
    fn vector(&mut self, numbers: Vec<f32>) -> Result<Self::Vector, String>;
}

/// Panels for the kernels, plain numbers rounded to `half` where there is one.
struct Panels<'a, 'b> {
    half: Option<Half>,
    pages: Pages,
    for_each: &'a mut ForEach<'b>,
}

impl Packing for Panels<'_, '_> {
    type Matrix = Matrix;
    type Vector = Vec<f32>;

    fn matrix(&mut self, stored: &StoredTensor<'_>) -> Result<Matrix, String> {
        weights::pack(stored, self.half, &mut self.pages, self.for_each)
    }

    fn vector(&mut self, numbers: Vec<f32>) -> Result<Vec<f32>, String> {
        Ok(numbers)
    }
}

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
pub(in crate::engine::generation) struct Layer<M = Matrix, V = Vec<f32>> {
    pub(in crate::engine::generation) attention_norm: V,
    /// Queries, keys and values; one matrix where they are stored as one.
    pub(in crate::engine::generation) qkv: Vec<M>,
    pub(in crate::engine::generation) qkv_bias: Option<V>,
    pub(in crate::engine::generation) query_norm: Option<V>,
    pub(in crate::engine::generation) key_norm: Option<V>,
    pub(in crate::engine::generation) output: M,
    pub(in crate::engine::generation) post_attention_norm: Option<V>,
    pub(in crate::engine::generation) feed_forward_norm: V,
    /// Gates and ups; one matrix where they are stored as one.
    pub(in crate::engine::generation) gate_up: Vec<M>,
    pub(in crate::engine::generation) down: M,
    pub(in crate::engine::generation) post_feed_forward_norm: Option<V>,
}

/// A decoder's weights, ready to compute with.
#[derive(Debug)]
pub struct Decoder<M = Matrix, V = Vec<f32>> {
    pub(in crate::engine::generation) architecture: Architecture,
    source: Arc<dyn Source + Send + Sync>,
    embedding: &'static str,
    half: Option<Half>,
    pub(in crate::engine::generation) layers: Vec<Layer<M, V>>,
    pub(in crate::engine::generation) norm: V,
    pub(in crate::engine::generation) head: M,
    vocabulary: usize,
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

impl LayerNames {
    fn weight(&self, layer: usize, part: &str) -> String {
        format!("{}{layer}.{part}.weight", self.layer)
    }
}

impl Names {
    /// The last matrix of a layer, which has the same name in all families.
    pub(in crate::engine::generation) fn down(self, layer: usize) -> String {
        let names = match self {
            Self::Gguf => &GGUF,
            Self::HuggingFace => &HUGGING_FACE,
        };
        names.weight(layer, names.down)
    }
}

/// Gemma 2 and 3 norm what attention and feed-forward layers give, and name their norms by where they stand.
const HUGGING_FACE_GEMMA: LayerNames = LayerNames {
    post_attention_norm: "post_attention_layernorm",
    feed_forward_norm: "pre_feedforward_layernorm",
    post_feed_forward_norm: "post_feedforward_layernorm",
    ..HUGGING_FACE
};

impl Decoder {
    /// Finds all weights and makes them ready for the kernels, on several threads where `for_each` has them; plain ones are rounded
    /// to `half` where there is one.
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
        let decoder = Self::load_as(source, architecture, names, half, &mut Panels { half, pages: Pages::default(), for_each })?;
        for (at, layer) in decoder.layers.iter().enumerate() {
            alike(&layer.qkv).map_err(|()| format!("layer {at} mixes plain and quantised queries, keys and values"))?;
            alike(&layer.gate_up).map_err(|()| format!("layer {at} mixes plain and quantised gates"))?;
        }
        Ok(decoder)
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
}

impl<M: Debug, V: Debug> Decoder<M, V> {
    /// Finds all weights and packs them; embeddings are rounded to `half` where there is one.
    ///
    /// # Errors
    /// The first tensor that is missing or has a shape that does not fit.
    pub(in crate::engine::generation) fn load_as(
        source: Arc<dyn Source + Send + Sync>,
        architecture: Architecture,
        names: Names,
        half: Option<Half>,
        packing: &mut impl Packing<Matrix = M, Vector = V>,
    ) -> Result<Self, String> {
        let post_norms = matches!(architecture.family.as_str(), "gemma2" | "gemma3");
        let (layer_names, embedding, norm, head) = match names {
            Names::Gguf => (&GGUF, "token_embd.weight", "output_norm.weight", "output.weight"),
            Names::HuggingFace if post_norms => (&HUGGING_FACE_GEMMA, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
            Names::HuggingFace => (&HUGGING_FACE, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
        };
        let hidden = architecture.hidden;
        let mut finder = Finder { source: &*source, architecture: &architecture, packing };
        let norm = finder.norm(norm, hidden)?;
        let head = if finder.source.tensor(head).is_some() { head } else { embedding };
        let vocabulary = finder.stored(embedding)?.rows_and_columns().0;
        let head = finder.matrix(head, vocabulary, hidden)?;
        finder.matrix_shape(embedding, vocabulary, hidden)?;
        let layers = (0..architecture.layers).map(|layer| finder.layer(layer_names, layer)).collect::<Result<_, _>>()?;
        Ok(Self { architecture, source, embedding, half, layers, norm, head, vocabulary })
    }

    /// The shape.
    #[must_use]
    pub const fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Logits of a step: one for each row of the head.
    #[must_use]
    pub const fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The numbers that stand for a token, read where the file has them; zeros for one that nobody has.
    pub(in crate::engine::generation) fn embed(&self, id: u32, out: &mut [f32]) {
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
struct Finder<'a, P> {
    source: &'a (dyn Source + Send + Sync),
    architecture: &'a Architecture,
    packing: &'a mut P,
}

impl<'a, P: Packing> Finder<'a, P> {
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

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<P::Matrix, String> {
        let stored = self.matrix_shape(name, rows, columns)?;
        self.packing.matrix(&stored).map_err(|error| format!("tensor `{name}`: {error}"))
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
    fn norm(&mut self, name: &str, length: usize) -> Result<P::Vector, String> {
        let mut weights = self.vector(name, length)?;
        for weight in &mut weights {
            *weight += self.architecture.norm_offset;
        }
        self.packing.vector(weights)
    }

    fn norm_if_there(&mut self, name: &str, length: usize) -> Result<Option<P::Vector>, String> {
        self.source.tensor(name).map(|_| self.norm(name, length)).transpose()
    }

    fn layer(&mut self, names: &LayerNames, layer: usize) -> Result<Layer<P::Matrix, P::Vector>, String> {
        let shape = self.architecture;
        let (hidden, feed_forward, queries, kv) = (shape.hidden, shape.feed_forward, shape.query_width(), shape.kv_width());
        let name = |part: &str| names.weight(layer, part);
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
            qkv,
            qkv_bias: self.biases(names, layer, qkv_rows)?,
            query_norm: self.norm_if_there(&name(names.query_norm), head)?,
            key_norm: self.norm_if_there(&name(names.key_norm), head)?,
            output: self.matrix(&name(names.output), hidden, queries)?,
            post_attention_norm: self.norm_if_there(&name(names.post_attention_norm), hidden)?,
            feed_forward_norm: self.norm(&name(names.feed_forward_norm), hidden)?,
            gate_up,
            down: self.matrix(&name(names.down), hidden, feed_forward)?,
            post_feed_forward_norm: self.norm_if_there(&name(names.post_feed_forward_norm), hidden)?,
        })
    }

    fn matrices(&mut self, name: &impl Fn(&str) -> String, rows: &[(&str, usize)], columns: usize) -> Result<Vec<P::Matrix>, String> {
        rows.iter().map(|(part, rows)| self.matrix(&name(part), *rows, columns)).collect()
    }

    /// The biases of queries, keys and values, one behind the other, where there are any.
    fn biases(&mut self, names: &LayerNames, layer: usize, rows: &[(&str, usize)]) -> Result<Option<P::Vector>, String> {
        let name = |part: &str| format!("{}{layer}.{part}.bias", names.layer);
        if rows.iter().all(|(part, _)| self.source.tensor(&name(part)).is_none()) {
            return Ok(None);
        }
        let found = rows.iter().map(|(part, rows)| self.vector(&name(part), *rows)).collect::<Result<Vec<_>, _>>()?;
        self.packing.vector(found.concat()).map(Some)
    }
}

/// An error unless all take quantised inputs, or none.
fn alike(matrices: &[Matrix]) -> Result<(), ()> {
    let quantised = matrices.iter().filter(|matrix| matrix.layout().is_quantised()).count();
    if quantised == 0 || quantised == matrices.len() { Ok(()) } else { Err(()) }
}

/// Whether matrices that share an input take it quantised.
pub(super) fn quantised(matrices: &[Matrix]) -> bool {
    matrices.first().is_some_and(|matrix| matrix.layout().is_quantised())
}
