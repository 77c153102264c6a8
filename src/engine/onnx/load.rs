//! From an ONNX file to a session: the options each session gets, and what a failed load says.

use super::optimised::branches::has_own_format;
use super::optimised::entry::{WEIGHTS, WEIGHTS_BYTES_MIN};
use super::{LoadError, LoadOptions, OnnxConfig, appearance, words};
use ort::environment::Environment;
use ort::ep::{CPU, CUDA, ExecutionProvider};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use GraphOptimizationLevel as Level;

/// The name of ONNX Runtime's own format; a file without an ending is taken to be in ONNX's.
const OWN_FORMAT: &str = "ORT";

/// Loads a file into a session. Blocks while ONNX Runtime reads and optimises it.
///
/// Loaded by its path, so that ONNX Runtime finds weights in files beside it; it refuses those that lie outside
/// the model's folder.
///
/// # Errors
/// `InvalidModel` with the file's name, ONNX Runtime's words, and what the file looks like.
pub(super) fn session(
    environment: &Environment,
    file: &Path,
    config: &OnnxConfig,
    options: &LoadOptions,
    (done, processor): (Done, Processor),
) -> Result<Session, LoadError> {
    let name = words::file_name(file);
    // ort panics on types it has no words for, e.g. a sequence of sequences.
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        let builder = builder(environment, config, options, (done, processor))?;
        if done == Done::Optimised { in_its_format(builder, file)? } else { builder }.commit_from_file(file)
    }));
    match loaded {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(explained(words::refused(&name, error.message()), file)),
        Err(_) => Err(LoadError::InvalidModel(format!("{name}: an input or output has a type that is not supported"))),
    }
}

/// Optimises a model and writes the graph to a file, and its larger weights to one beside it.
///
/// # Errors
/// ONNX Runtime's own; whatever lies at `graph` then is of no use.
pub(super) fn optimised(environment: &Environment, model: &Path, graph: &Path, config: &OnnxConfig) -> ort::Result<Session> {
    builder(environment, config, &LoadOptions::default(), (Done::Nothing, Processor::Cpu))?
        .with_optimized_model_path(graph)?
        .with_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)?
        .with_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", WEIGHTS_BYTES_MIN)?
        .commit_from_file(model)
}

/// Writes an optimised graph in ONNX Runtime's own format, weights and all, to another file.
///
/// # Errors
/// ONNX Runtime's own, also where the format has no place for something; whatever lies at `resolved` then is of no use.
pub(super) fn resolved(environment: &Environment, graph: &Path, resolved: &Path, config: &OnnxConfig) -> ort::Result<Session> {
    builder(environment, config, &LoadOptions::default(), (Done::Optimised, Processor::Cpu))?
        .with_optimized_model_path(resolved)?
        .with_config_entry("session.save_model_format", OWN_FORMAT)?
        .commit_from_file(graph)
}

/// Has a kept graph read in the format that it is in; one in ONNX Runtime's own is mapped, and computed on where it lies.
fn in_its_format(builder: SessionBuilder, kept: &Path) -> ort::Result<SessionBuilder> {
    // What cannot be read does not load either, and ONNX Runtime says why.
    if !has_own_format(kept).unwrap_or(false) {
        return Ok(builder);
    }
    Ok(builder
        .with_config_entry("session.load_model_format", OWN_FORMAT)?
        .with_config_entry("session.use_memory_mapped_ort_model", "1")?
        .with_config_entry("session.use_ort_model_bytes_for_initializers", "1")?)
}

/// What was done to a graph before it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// It is as the user wrote it.
    Nothing,
    /// ONNX Runtime optimised it for this machine.
    Optimised,
}

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Processor {
    /// The CPU alone.
    Cpu,
    /// The first GPU; the CPU takes what it has no kernel for.
    Gpu,
}

/// Whether the library can use NVIDIA's GPUs.
///
/// # Errors
/// Why it cannot, with the next step.
pub(super) fn gpu_provider(library: &Path) -> Result<(), String> {
    match CUDA::is_available() {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "ONNX Runtime's library `{}` has no provider for NVIDIA's GPUs\n\n\
             hint: set `onnx.library` to the `libonnxruntime.so` of the package `onnxruntime-gpu`, beside which the provider's library lies",
            library.display()
        )),
        Err(error) => Err(error.message().to_owned()),
    }
}

fn builder(
    environment: &Environment,
    config: &OnnxConfig,
    options: &LoadOptions,
    (done, processor): (Done, Processor),
) -> ort::Result<SessionBuilder> {
    let cpu = CPU::default().with_arena_allocator(config.memory_arena).build().error_on_failure();
    // A provider that does not start must not leave the model on the CPU unnoticed.
    let gpu = CUDA::default().build().error_on_failure();
    let providers = if processor == Processor::Gpu { vec![gpu, cpu] } else { vec![cpu] };
    let builder = Session::builder(environment)?
        .with_optimization_level(if done == Done::Optimised { Level::Disable } else { Level::All })?
        .with_intra_threads(options.intra_op_threads.max(1))?
        .with_inter_threads(1)?
        // A thread that spins while it waits takes whole cores from the other models.
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_memory_pattern(config.memory_pattern)?
        .with_execution_providers(providers)?;
    Ok(builder)
}

fn explained(error: LoadError, file: &Path) -> LoadError {
    match (error, appearance::describe(file)) {
        (LoadError::InvalidModel(message), Some(looks)) => LoadError::InvalidModel(format!("{message}\n\nhint: {looks}")),
        (error, _) => error,
    }
}
