//! ONNX models through ONNX Runtime, a library found when the daemon starts.
//!
//! A revision is one session, shared by all its workers: its weights lie in memory once. Runs of one session
//! may overlap; ONNX Runtime documents `Run` as safe for that on the CPU. What is unsafe about it stands in
//! `raw/` and nowhere else.

mod appearance;
mod layout;
mod library;
mod load;
mod optimised;
mod raw;
mod signature;
mod stopper;
mod words;

pub use library::LibraryInfo;

use super::{Cancel, Engine, EngineError, EngineLoader, LoadError, LoadOptions, LoadedModel, Placement, gpu};
use crate::inference::ModelMetadata;
use crate::tensor::{DataType, Tensor};
use load::{Done, Processor};
use optimised::{Job, OptimisedGraphs, Patience};
use ort::session::Session;
use raw::SharedSession;
use serde::{Deserialize, Serialize};
use signature::Signature;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use stopper::Stopper;

/// The `onnx` part of the daemon's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct OnnxConfig {
    /// ONNX Runtime's library, or the folder it lies in; without it `lib/` beside and above the program, `./lib`
    /// and the system's own places are tried.
    pub library: Option<PathBuf>,
    /// Keeps memory between runs instead of asking the system each time: faster, and a model holds on to as much
    /// as its largest request took until it is unloaded.
    pub memory_arena: bool,
    /// Plans one block of memory per combination of input shapes: a little faster for models of fixed shape, and
    /// it remembers every combination for good, so it is off where callers choose the shapes.
    pub memory_pattern: bool,
    /// Keeps each model's optimised graph below the cache folder, so that it loads faster the next time.
    pub optimised_cache: bool,
    /// Bytes of all kept graphs; the longest unused are deleted first.
    pub optimised_cache_bytes_max: u64,
}

impl Default for OnnxConfig {
    fn default() -> Self {
        Self { library: None, memory_arena: true, memory_pattern: false, optimised_cache: true, optimised_cache_bytes_max: 4 << 30 }
    }
}

/// Loads ONNX models. Cheap to make; the library is started with the first use and kept for the process's life.
#[derive(Debug, Clone, Default)]
pub struct OnnxLoader {
    config: OnnxConfig,
    graphs: Option<Arc<OptimisedGraphs>>,
}

impl OnnxLoader {
    /// A loader by its settings. Nothing is opened yet.
    #[must_use]
    pub const fn new(config: OnnxConfig) -> Self {
        Self { config, graphs: None }
    }

    /// Keeps optimised graphs in a folder, if the settings want them kept.
    ///
    /// `program` writes them when called as `PROGRAM optimise-graph --library FILE MODEL GRAPH`, so that the memory this
    /// takes goes with its process; without one they are written in this process.
    #[must_use]
    pub fn keeping_graphs_in(self, folder: PathBuf, program: Option<PathBuf>) -> Self {
        let graphs =
            self.config.optimised_cache.then(|| Arc::new(OptimisedGraphs::new(folder, &self.config, program, Patience::default())));
        Self { graphs, ..self }
    }

    /// Optimises a model for this machine and writes the graph to a file, and its larger weights and its signature beside it.
    ///
    /// # Errors
    /// ONNX Runtime's, about the model or the file.
    pub fn write_optimised(&self, model: &Path, graph: &Path) -> Result<(), LoadError> {
        let library = library::start(self.config.library.as_deref())?;
        optimised::make::make(library, model, graph, &self.config)
    }

    /// Loads the kept graph of a file, or the file itself, whose graph is then kept for the next time.
    fn session(&self, library: &'static library::Library, file: &Path, options: &LoadOptions) -> Result<Signed, LoadError> {
        let load = |file: &Path, done| load::session(library.environment(), file, &self.config, options, (done, Processor::Cpu));
        let Some(graphs) = &self.graphs else { return signed(load(file, Done::Nothing)?, file) };
        if let Some(kept) = graphs.find(file, library) {
            match load(&kept.graph(), Done::Optimised).and_then(|session| Ok((session, kept.signature()?))) {
                Ok(signed) => return Ok(signed),
                Err(error) => OptimisedGraphs::forget(&kept, &error.to_string()),
            }
        }
        let began = Instant::now();
        let session = load(file, Done::Nothing)?;
        graphs.keep(Job { library, file: file.to_owned(), config: self.config.clone() }, began.elapsed());
        signed(session, file)
    }

    /// A session on the first GPU. Its graph is not kept: what is optimised for the CPU does not do there.
    ///
    /// # Errors
    /// Why that cannot be: the library has no provider for GPUs, or it does not start.
    fn on_gpu(&self, library: &'static library::Library, file: &Path, options: &LoadOptions) -> Result<(Session, String), String> {
        load::gpu_provider(&library.info().path)?;
        let session = load::session(library.environment(), file, &self.config, options, (Done::Nothing, Processor::Gpu));
        Ok((session.map_err(|error| error.to_string())?, "the first GPU, by ONNX Runtime".to_owned()))
    }

    /// Starts ONNX Runtime if it does not run yet, and says which library it is. May block for some 10 ms.
    ///
    /// One process starts it once: a later call, of any loader, tells of the library that runs.
    ///
    /// # Errors
    /// [`LoadError::EngineUnavailable`] with every place that was tried, why it did not do, and the next step.
    pub fn library_info(&self) -> Result<&'static LibraryInfo, LoadError> {
        library::start(self.config.library.as_deref()).map(library::Library::info)
    }
}

/// A session and its signature.
type Signed = (Session, Signature);

/// With what the session says itself.
fn signed(session: Session, file: &Path) -> Result<Signed, LoadError> {
    let signature = signature::read(&session, &words::file_name(file))?;
    Ok((session, signature))
}

impl EngineLoader for OnnxLoader {
    /// Loads a file, a folder with one `.onnx` file or a `model.onnx`, or Triton's `[NAME/]VERSION/model.onnx`, of
    /// which the highest version counts.
    fn load(&self, model: &Path, options: &LoadOptions) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let library = library::start(self.config.library.as_deref())?;
        let found = layout::find(model)?;
        let (on_gpu, placement) = gpu::choose(options.gpu, || self.on_gpu(library, &found.file, options))?;
        let (session, signature) = match on_gpu {
            Some(session) => signed(session, &found.file)?,
            None => self.session(library, &found.file, options)?,
        };
        let name = words::file_name(&found.file);
        let metadata = ModelMetadata {
            platform: "onnxruntime_onnx".to_owned(),
            versions: found.versions,
            inputs: signature.inputs,
            outputs: signature.outputs,
            dropped_outputs: signature.dropped_outputs,
            ..ModelMetadata::default()
        };
        let session = SharedSession::new(session, &metadata).map_err(|error| words::refused(&name, error.message()))?;
        let (session, metadata, symbols) = (Arc::new(session), Arc::new(metadata), Arc::new(signature.symbols));
        Ok(Arc::new(OnnxModel { session, metadata, symbols, placement }))
    }
}

/// A loaded ONNX model: the session and what it says of itself.
#[derive(Debug)]
struct OnnxModel {
    session: Arc<SharedSession>,
    metadata: Arc<ModelMetadata>,
    symbols: Arc<signature::Symbols>,
    placement: Placement,
}

impl LoadedModel for OnnxModel {
    fn placement(&self) -> Placement {
        self.placement.clone()
    }

    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.metadata
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(OnnxWorker {
            session: Arc::clone(&self.session),
            metadata: Arc::clone(&self.metadata),
            symbols: Arc::clone(&self.symbols),
            stopper: Stopper::new().map_err(|error| EngineError::Failed(error.message().to_owned()))?,
        }))
    }
}

/// A worker over the shared session. It owns nothing but its share and what stops its runs.
#[derive(Debug)]
struct OnnxWorker {
    session: Arc<SharedSession>,
    metadata: Arc<ModelMetadata>,
    symbols: Arc<signature::Symbols>,
    stopper: Stopper,
}

impl Engine for OnnxWorker {
    fn infer(&mut self, inputs: &[Tensor], wanted: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        let positions = inputs.iter().map(|input| self.position(input)).collect::<Result<Vec<usize>, _>>()?;
        self.complete(&positions)?;
        let (session, outputs) = (&self.session, &self.metadata.outputs);
        let symbols = &self.symbols;
        self.stopper.during(cancel, |options| {
            session.run(inputs, &positions, wanted, outputs, options).map_err(|error| sort(symbols, &error, inputs, &positions))
        })
    }
}

impl OnnxWorker {
    fn position(&self, input: &Tensor) -> Result<usize, EngineError> {
        truth_values(input)?;
        let found = self.metadata.inputs.iter().position(|spec| spec.name == *input.name());
        found.ok_or_else(|| EngineError::InvalidInput(format!("input `{}` is not an input of this model", input.name())))
    }

    /// Refuses a missing input, which ONNX Runtime would notice in the middle of the run if at all, and a double one.
    fn complete(&self, positions: &[usize]) -> Result<(), EngineError> {
        for (at, spec) in self.metadata.inputs.iter().enumerate() {
            match positions.iter().filter(|&&position| position == at).count() {
                0 if !spec.optional => return Err(EngineError::InvalidInput(format!("input `{}` is missing", spec.name))),
                0 | 1 => {}
                _ => return Err(EngineError::InvalidInput(format!("input `{}` is given twice", spec.name))),
            }
        }
        Ok(())
    }
}

/// Whose fault a failed run is: the caller's where ONNX Runtime says so, or where two inputs disagree in a
/// dimension that the model gives one name.
///
/// That is looked at only after a failure: exporters give one name to dimensions that need not agree.
fn sort(symbols: &signature::Symbols, error: &ort::Error, inputs: &[Tensor], positions: &[usize]) -> EngineError {
    if let Some(sentence) = symbols.disagreement(inputs, positions) {
        return EngineError::InvalidInput(sentence);
    }
    let sentence = words::without_paths(error.message());
    match error.code() {
        ort::ErrorCode::InvalidArgument => EngineError::InvalidInput(sentence),
        _ => EngineError::Failed(sentence),
    }
}

/// Refuses a `BOOL` that is neither 0 nor 1: C++ takes it for both.
fn truth_values(input: &Tensor) -> Result<(), EngineError> {
    if input.datatype() != DataType::Bool {
        return Ok(());
    }
    match input.data().iter().enumerate().find(|(_, value)| **value > 1) {
        Some((index, value)) => {
            Err(EngineError::InvalidInput(format!("input `{}`: BOOL element {index} is {value}, not 0 or 1", input.name())))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
