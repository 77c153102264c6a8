//! From an ONNX file to a session: the options each session gets, and what a failed load says.

use super::optimised::entry::{WEIGHTS, WEIGHTS_BYTES_MIN};
use super::{LoadError, LoadOptions, OnnxConfig, appearance, words};
use ort::environment::Environment;
use ort::ep::CPU;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use GraphOptimizationLevel as Level;

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
    done: Done,
) -> Result<Session, LoadError> {
    let name = words::file_name(file);
    // ort panics on types it has no words for, e.g. a sequence of sequences.
    let loaded = catch_unwind(AssertUnwindSafe(|| builder(environment, config, options, done)?.commit_from_file(file)));
    match loaded {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(explained(words::refused(&name, error.message()), file)),
        Err(_) => Err(LoadError::InvalidModel(format!("{name}: an input or output has a type that is not supported"))),
    }
}

/// Optimises a model and writes the graph to a file, and its larger weights to one beside it. The session itself is dropped.
///
/// # Errors
/// ONNX Runtime's own; whatever lies at `graph` then is of no use.
pub(super) fn optimised(environment: &Environment, model: &Path, graph: &Path, config: &OnnxConfig) -> ort::Result<()> {
    builder(environment, config, &LoadOptions::default(), Done::Nothing)?
        .with_optimized_model_path(graph)?
        .with_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)?
        .with_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", WEIGHTS_BYTES_MIN)?
        .commit_from_file(model)
        .map(drop)
}

/// What was done to a graph before it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// It is as the user wrote it.
    Nothing,
    /// ONNX Runtime optimised it for this machine.
    Optimised,
}

fn builder(environment: &Environment, config: &OnnxConfig, options: &LoadOptions, done: Done) -> ort::Result<SessionBuilder> {
    let builder = Session::builder(environment)?
        .with_optimization_level(if done == Done::Optimised { Level::Disable } else { Level::All })?
        .with_intra_threads(options.intra_op_threads.max(1))?
        .with_inter_threads(1)?
        // A thread that spins while it waits takes whole cores from the other models.
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_memory_pattern(config.memory_pattern)?
        .with_execution_providers([CPU::default().with_arena_allocator(config.memory_arena).build().error_on_failure()])?;
    Ok(builder)
}

fn explained(error: LoadError, file: &Path) -> LoadError {
    match (error, appearance::describe(file)) {
        (LoadError::InvalidModel(message), Some(looks)) => LoadError::InvalidModel(format!("{message}\n\nhint: {looks}")),
        (error, _) => error,
    }
}
