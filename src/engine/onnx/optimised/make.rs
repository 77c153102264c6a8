//! What keeping a graph takes of ONNX Runtime: in a process of its own, or in this one.

use super::super::library::Library;
use super::super::load::{self, Done, Processor};
use super::super::{LoadError, LoadOptions, OnnxConfig, signature, words};
use super::entry::SIGNATURE;
use super::shapes;
use std::fs;
use std::io;
use std::path::Path;

/// Optimises a model for this machine, and writes its graph to a file and its larger weights and its signature beside that.
///
/// # Errors
/// ONNX Runtime's, about the model or the file; or the file system's. Whatever lies at `graph` then is of no use.
pub(in super::super) fn make(library: &Library, model: &Path, graph: &Path, config: &OnnxConfig) -> Result<(), LoadError> {
    let name = words::file_name(model);
    let not_written = |error: io::Error| LoadError::InvalidModel(format!("{name}: its optimised graph cannot be written: {error}"));
    let session = load::optimised(library.environment(), model, graph, config).map_err(|error| words::refused(&name, error.message()))?;
    let signature = signature::read(&session, &name)?;
    drop(session);
    fs::write(graph.with_file_name(SIGNATURE), signature.to_json()).map_err(not_written)?;
    // Patterns of memory are made of the shapes that were planned.
    if config.memory_pattern { Ok(()) } else { hide_shapes(library, graph, config).map_err(not_written) }
}

/// Leaves the shapes where they are if the graph does not load without them.
fn hide_shapes(library: &Library, graph: &Path, config: &OnnxConfig) -> io::Result<()> {
    let written = fs::read(graph)?;
    let Some(hidden) = shapes::hidden(&written) else { return Ok(()) };
    fs::write(graph, hidden)?;
    let loaded = load::session(library.environment(), graph, config, &LoadOptions::default(), (Done::Optimised, Processor::Cpu));
    if loaded.is_err() { fs::write(graph, written) } else { Ok(()) }
}
