//! What keeping a graph takes of ONNX Runtime: in a process of its own, or in this one.

use super::super::library::Library;
use super::super::load::{self, Done, Processor};
use super::super::{LoadError, LoadOptions, OnnxConfig, signature, words};
use super::entry::{SIGNATURE, WEIGHTS, unless_gone};
use super::{branches, shapes};
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
    if !config.memory_pattern {
        hide_shapes(library, graph, config).map_err(not_written)?;
    }
    resolve_branches(library, graph, config).map_err(not_written)
}

/// Leaves the shapes where they are if the graph does not load without them.
fn hide_shapes(library: &Library, graph: &Path, config: &OnnxConfig) -> io::Result<()> {
    let written = fs::read(graph)?;
    let Some(hidden) = shapes::hidden(&written) else { return Ok(()) };
    fs::write(graph, hidden)?;
    if loads(library, graph, config) { Ok(()) } else { fs::write(graph, written) }
}

/// Writes a graph with branches in ONNX Runtime's own format, unless it cannot, or the weights are many.
fn resolve_branches(library: &Library, graph: &Path, config: &OnnxConfig) -> io::Result<()> {
    let weights = graph.with_file_name(WEIGHTS);
    let bytes = fs::metadata(graph)?.len() + fs::metadata(&weights).map_or(0, |weights| weights.len());
    if bytes > branches::BYTES_MAX || branches::are_in(&fs::read(graph)?) != Some(true) {
        return Ok(());
    }
    let resolved = graph.with_extension("resolved");
    let written = load::resolved(library.environment(), graph, &resolved, config).is_ok();
    if written && loads(library, &resolved, config) {
        fs::rename(&resolved, graph)?;
        return unless_gone(fs::remove_file(&weights));
    }
    unless_gone(fs::remove_file(&resolved))
}

fn loads(library: &Library, graph: &Path, config: &OnnxConfig) -> bool {
    load::session(library.environment(), graph, config, &LoadOptions::default(), (Done::Optimised, Processor::Cpu)).is_ok()
}
