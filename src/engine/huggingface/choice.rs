//! What runs an encoder: its weights on Candle or its ONNX export, on a GPU or on the CPU.

use super::encoder::{self, Encoder};
use super::flags::{Backend, Dtype, Flags};
use super::folder::Folder;
use super::model;
use super::on_candle::CandleBackend;
use super::on_onnx::OnnxBackend;
use super::safetensors::Weights;
use super::settings::Settings;
use super::task::Task;
use crate::engine::{EngineLoader, GpuWish, LoadError, LoadOptions, Placement, gpu};
use candle_core::{DType, Device};

/// A model's folder, and all that decides what runs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) folder: &'a Folder,
    pub(super) flags: &'a Flags,
    pub(super) options: &'a LoadOptions,
    pub(super) settings: Settings<'a>,
    pub(super) task: Task,
    /// The token that stands for something to be found.
    pub(super) mark: Option<u32>,
}

/// The engine's name, and what runs the layers.
pub(super) type Chosen = (&'static str, Box<dyn model::Backend>);

impl Choice<'_> {
    /// On a GPU, if one is asked for and there: Candle's, or ONNX Runtime's where an export must be used. On the CPU the export where
    /// there is one, because it is two to three times as fast there.
    ///
    /// # Errors
    /// What is wrong with the model, or `EngineUnavailable` where it must have a GPU and there is none.
    pub(super) fn load(&self, onnx: &dyn EngineLoader) -> Result<Chosen, LoadError> {
        let placement = if self.flags.backend == Backend::Onnx {
            Placement::Cpu
        } else {
            let (made, placement) = gpu::choose(self.wish(), || self.on_gpu())?;
            if let Some(made) = made {
                return Ok(("candle", Box::new(made)));
            }
            placement
        };
        if let Some(export) = self.export(onnx)? {
            return Ok(("onnxruntime", Box::new(export)));
        }
        Ok(("candle", Box::new(self.on_candle(Device::Cpu, placement)?)))
    }

    /// An export may get a GPU where Candle has none, so only without one Candle's refusal is the last word.
    fn wish(&self) -> GpuWish {
        match self.options.gpu {
            GpuWish::Must if self.flags.backend == Backend::Auto && self.folder.onnx().is_some() => GpuWish::IfThere,
            wish => wish,
        }
    }

    fn on_gpu(&self) -> Result<(CandleBackend, String), String> {
        let (device, name) = gpu::open()?;
        let made = self.on_candle(device, Placement::Gpu(name.clone())).map_err(|error| error.to_string())?;
        Ok((made, name))
    }

    fn on_candle(&self, device: Device, placement: Placement) -> Result<CandleBackend, LoadError> {
        encoder::family(self.settings)?;
        let weights = Weights::open(self.folder, dtype(self.flags.dtype, &device), &device)?;
        let encoder = Encoder::load(self.settings, self.task, &weights)?;
        Ok(CandleBackend::new(encoder, self.mark, device, self.options.intra_op_threads).at(placement))
    }

    /// The folder's export, where there is one and nothing else is asked for.
    fn export(&self, onnx: &dyn EngineLoader) -> Result<Option<OnnxBackend>, LoadError> {
        let file = match (self.flags.backend, self.folder.onnx()) {
            (Backend::Candle, _) | (Backend::Auto, None) => return Ok(None),
            (_, Some(file)) => file,
            (Backend::Onnx, None) => {
                let found = self.folder.listed();
                return Err(LoadError::InvalidModel(format!("no `model.onnx` or `onnx/model.onnx` here; found: {found}")));
            }
        };
        match OnnxBackend::load(onnx, &file, self.options, (self.task, self.mark, self.settings.count("vocab_size")?)) {
            Err(LoadError::EngineUnavailable(why)) if self.flags.backend == Backend::Auto && self.options.gpu != GpuWish::Must => {
                tracing::warn!("the model's ONNX export is passed over: {why}");
                Ok(None)
            }
            loaded => loaded.map(Some),
        }
    }
}

/// The type of weights in memory. Where nothing is said halves on a GPU, as in KServe's server.
fn dtype(asked: Dtype, device: &Device) -> DType {
    match asked {
        Dtype::Auto if device.is_cpu() => DType::F32,
        Dtype::Float32 => DType::F32,
        Dtype::Auto | Dtype::Float16 => DType::F16,
        Dtype::Bfloat16 => DType::BF16,
    }
}
