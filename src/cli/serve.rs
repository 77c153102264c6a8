//! `kserved serve`: the daemon.

use super::settings::Settings;
use crate::resolve::storage_env::StorageEnv;
use crate::{server, telemetry};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Watch folders and serve their models.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
    /// File to write {"http": N, "grpc": N} to, once listening
    #[arg(long, value_name = "FILE", env = "KSERVED_PORTS_FILE")]
    ports_file: Option<PathBuf>,
}

/// Serves until a signal asks for the end.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    server::huge_pages::avoid();
    let loaded = arguments.settings.load()?;
    telemetry::install_logs(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("kserved").build()?;
    let ended = runtime.block_on(server::run(loaded.config, environment(), arguments.ports_file));
    // A load that still runs on a thread of its own must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// The process's variables as they are now; those that are no text are left out.
pub(super) fn environment() -> StorageEnv {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}
