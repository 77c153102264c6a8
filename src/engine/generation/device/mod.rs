//! The decoder on a device of Candle's: the same layers as on the CPU, as operations on whole tensors.
//!
//! One step still takes some tokens of some sequences, packed one behind the other, and keys and values lie in the same blocks;
//! only who computes differs. A token's numbers may differ in their last bits with what stands beside it: libraries for
//! devices choose their ways by the sizes of a step.

mod attention;
mod linear;
mod turn;

use super::architecture::Architecture;
use super::decoder::{Decoder, Layer, Names, Segment};
use super::kernels::Activation;
use super::steps::{Steps, Text};
use super::weights::{Precision, Source};
use crate::engine::gpu::words;
use attention::{Looks, Store};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops;
use linear::{Linear, OnDevice};
use std::sync::Arc;
use turn::Turns;

/// A decoder whose weights lie on a device.
#[derive(Debug)]
pub(super) struct DeviceDecoder {
    decoder: Decoder<Linear, Tensor>,
    device: Device,
    /// What is computed with between matrices.
    numbers: DType,
}

/// A decoder with its room for keys and values.
#[derive(Debug)]
pub(super) struct DeviceSteps {
    decoder: DeviceDecoder,
    store: Store,
}

impl DeviceDecoder {
    /// Finds all weights and brings them to the device.
    ///
    /// # Errors
    /// The first tensor that is missing or does not fit, or what the device says: it may be full.
    pub(super) fn load(
        source: Arc<dyn Source + Send + Sync>,
        architecture: Architecture,
        names: Names,
        precision: Precision,
        device: Device,
    ) -> std::result::Result<Self, String> {
        let numbers = linear::numbers(&*source, &architecture, names, precision);
        let mut packing = OnDevice { device: &device, numbers, precision };
        let decoder = Decoder::load_as(source, architecture, names, precision.half(), &mut packing)?;
        Ok(Self { decoder, device, numbers })
    }

    /// With room for so many blocks of keys and values, which is taken at once.
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn with_room(self, blocks: usize) -> std::result::Result<DeviceSteps, String> {
        let store = Store::new(self.architecture(), blocks, self.numbers, &self.device);
        let store = store.map_err(|error| format!("no room for its keys and values: {}", words(&error)))?;
        Ok(DeviceSteps { decoder: self, store })
    }

    pub(super) const fn architecture(&self) -> &Architecture {
        self.decoder.architecture()
    }

    fn embeddings(&self, segments: &[Segment<'_>]) -> Result<Tensor> {
        let width = self.architecture().hidden;
        let ids: Vec<u32> = segments.iter().flat_map(|segment| segment.tokens).copied().collect();
        let mut rows = vec![0.0_f32; ids.len() * width];
        for (row, &id) in rows.chunks_exact_mut(width).zip(&ids) {
            self.decoder.embed(id, row);
        }
        Tensor::from_vec(rows, (ids.len(), width), &self.device)?.to_dtype(self.numbers)
    }

    fn attended(&self, x: &Tensor, at: usize, store: &Store, turns: &Turns, looks: &Looks) -> Result<Tensor> {
        let (architecture, layer) = (self.architecture(), &self.decoder.layers[at]);
        let [queries, keys, values] = turns.make_ready(architecture, layer, at, &Linear::run_all(&layer.qkv, x)?)?;
        store.remember(at, &looks.slots, &keys, &values)?;
        layer.output.run(&looks.attend(architecture, at, store, &queries)?.to_dtype(self.numbers)?)
    }

    fn fed_forward(&self, layer: &Layer<Linear, Tensor>, x: &Tensor) -> Result<Tensor> {
        let width = self.architecture().feed_forward;
        let both = Linear::run_all(&layer.gate_up, x)?;
        let (gate, up) = (both.narrow(1, 0, width)?.contiguous()?, both.narrow(1, width, width)?);
        let bent = match self.architecture().activation {
            Activation::Silu => gate.silu()?,
            Activation::GeluTanh => gate.gelu()?,
            Activation::Relu => gate.relu()?,
        };
        layer.down.run(&(bent * up)?)
    }

    fn norm(&self, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
        ops::rms_norm(&x.contiguous()?, weights, self.architecture().norm_epsilon)
    }

    /// Adds what a layer gave, normed first where the family does so.
    fn add(&self, x: &Tensor, given: Tensor, norm: Option<&Tensor>) -> Result<Tensor> {
        match norm {
            Some(weights) => x + self.norm(&given, weights)?,
            None => x + given,
        }
    }

    fn run(&self, segments: &[Segment<'_>], wanted: &[usize], store: &Store) -> Result<Vec<f32>> {
        let turns = Turns::new(self.architecture(), segments, &self.device)?;
        let looks = Looks::new(self.architecture(), segments, &self.device)?;
        let mut x = self.embeddings(segments)?;
        for (at, layer) in self.decoder.layers.iter().enumerate() {
            let attended = self.attended(&self.norm(&x, &layer.attention_norm)?, at, store, &turns, &looks)?;
            x = self.add(&x, attended, layer.post_attention_norm.as_ref())?;
            let fed = self.fed_forward(layer, &self.norm(&x, &layer.feed_forward_norm)?)?;
            x = self.add(&x, fed, layer.post_feed_forward_norm.as_ref())?;
        }
        self.logits(&x, wanted)
    }

    fn logits(&self, x: &Tensor, wanted: &[usize]) -> Result<Vec<f32>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<u32> = wanted.iter().map(|&row| attention::place(row)).collect();
        let rows = x.index_select(&Tensor::new(rows, &self.device)?, 0)?;
        let logits = self.decoder.head.run(&self.norm(&rows, &self.decoder.norm)?)?.to_dtype(DType::F32)?;
        capped(logits, self.architecture().logit_cap)?.flatten_all()?.to_vec1()
    }
}

/// `cap * tanh(x / cap)`; without a cap as it is.
fn capped(x: Tensor, cap: f32) -> Result<Tensor> {
    if cap > 0.0 { (x / f64::from(cap))?.tanh()? * f64::from(cap) } else { Ok(x) }
}

impl Steps for DeviceSteps {
    /// The thread that waits for the device.
    fn threads(&self) -> usize {
        1
    }

    fn blocks(&self) -> usize {
        self.store.blocks()
    }

    fn vocabulary(&self) -> usize {
        self.decoder.decoder.vocabulary()
    }

    fn read(&mut self, _: &[Text<'_>]) {}

    fn step(&mut self, segments: &[Segment<'_>], wanted: &[usize], logits: &mut Vec<f32>) -> std::result::Result<(), String> {
        *logits = self.decoder.run(segments, wanted, &self.store).map_err(|error| words(&error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
