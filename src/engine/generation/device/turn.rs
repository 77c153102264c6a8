//! Queries and keys before attention: biases, norms of heads, turning by position.

use super::Linear;
use crate::engine::generation::architecture::{Architecture, ByWindow, Rope};
use crate::engine::generation::decoder::{Layer, Segment};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{ops, rotary_emb};

/// Sines and cosines of a step's positions.
#[derive(Debug)]
pub(super) struct Turns(ByWindow<Table>);

#[derive(Debug)]
struct Table {
    pairs: usize,
    neighbours: bool,
    /// `[tokens, pairs]`, in single precision: with halves far positions would fall together.
    cosines: Tensor,
    sines: Tensor,
}

impl Turns {
    pub(super) fn new(architecture: &Architecture, segments: &[Segment<'_>], device: &Device) -> Result<Self> {
        let table = |rope: &Rope| Table::new(rope, segments, device);
        let windowed = architecture.local_rope.as_ref().map(table).transpose()?;
        Ok(Self(ByWindow { usual: table(&architecture.rope)?, windowed }))
    }

    /// Queries `[tokens, heads, dimensions]`, keys and values `[tokens, kv_heads * dimensions]`, out of what the matrices gave.
    pub(super) fn make_ready(
        &self,
        architecture: &Architecture,
        layer: &Layer<Linear, Tensor>,
        at: usize,
        qkv: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let qkv = match &layer.qkv_bias {
            Some(bias) => qkv.broadcast_add(bias)?,
            None => qkv.clone(),
        };
        let table = self.0.of(architecture.is_windowed(at));
        let (queries, kv) = (architecture.query_width(), architecture.kv_width());
        let part = |from: usize, width: usize| qkv.narrow(1, from, width)?.contiguous();
        let tokens = qkv.dim(0)?;
        let ready = |x: Tensor, heads: usize, norm: &Option<Tensor>| {
            let x = x.reshape((tokens, heads, architecture.head_dimensions))?;
            let x = match norm {
                Some(weights) => ops::rms_norm(&x, weights, architecture.norm_epsilon)?,
                None => x,
            };
            table.turn(&x)
        };
        let q = ready(part(0, queries)?, architecture.heads, &layer.query_norm)?;
        let k = ready(part(queries, kv)?, architecture.kv_heads, &layer.key_norm)?;
        Ok([(q * f64::from(architecture.query_scale))?, k.reshape((tokens, kv))?, part(queries + kv, kv)?])
    }
}

impl Table {
    fn new(rope: &Rope, segments: &[Segment<'_>], device: &Device) -> Result<Self> {
        let positions = segments.iter().flat_map(Segment::positions);
        let (cosines, sines): (Vec<f32>, Vec<f32>) = positions.flat_map(|position| rope.at(position)).unzip();
        let pairs = rope.frequencies.len();
        let tokens: usize = segments.iter().map(|segment| segment.tokens.len()).sum();
        let tensor = |numbers: Vec<f32>| Tensor::from_vec(numbers, (tokens, pairs), device);
        Ok(Self { pairs, neighbours: rope.neighbours, cosines: tensor(cosines)?, sines: tensor(sines)? })
    }

    /// `[tokens, heads, dimensions]`; numbers beyond the pairs stay as they are.
    fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let (dimensions, turned) = (x.dim(2)?, 2 * self.pairs);
        if turned == 0 {
            return Ok(x.clone());
        }
        let head = self.turn_all(&x.narrow(2, 0, turned)?)?;
        if turned == dimensions { Ok(head) } else { Tensor::cat(&[&head, &x.narrow(2, turned, dimensions - turned)?], 2) }
    }

    fn turn_all(&self, x: &Tensor) -> Result<Tensor> {
        let singles = x.to_dtype(DType::F32)?;
        let turned = if self.neighbours {
            let heads_first = singles.transpose(0, 1)?.contiguous()?.unsqueeze(0)?;
            rotary_emb::rope_i(&heads_first, &self.cosines, &self.sines)?.squeeze(0)?.transpose(0, 1)?.contiguous()?
        } else {
            rotary_emb::rope_thd(&singles.contiguous()?.unsqueeze(0)?, &self.cosines, &self.sines)?.squeeze(0)?
        };
        turned.to_dtype(x.dtype())
    }
}
