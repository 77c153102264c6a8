//! `kserved optimise-graph`: what a daemon asks of a process of its own, so that the memory it takes goes with that process.

use crate::engine::onnx::{OnnxConfig, OnnxLoader};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Optimise a model for this machine and write the graph.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// ONNX Runtime's library
    #[arg(long, value_name = "FILE")]
    library: PathBuf,
    /// Keep the shapes that patterns of memory are made of
    #[arg(long)]
    memory_pattern: bool,
    /// The model
    model: PathBuf,
    /// Where to write the graph
    graph: PathBuf,
}

/// Writes the graph, or says why there is none.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let loader = OnnxLoader::new(OnnxConfig {
        library: Some(arguments.library.clone()),
        memory_pattern: arguments.memory_pattern,
        ..OnnxConfig::default()
    });
    loader.write_optimised(&arguments.model, &arguments.graph)?;
    Ok(ExitCode::SUCCESS)
}
