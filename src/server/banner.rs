//! What a person reads when the daemon starts: where it answers, what it watches, and models as they get ready.

use super::example;
use crate::config::{Config, LogFormat};
use crate::control::ModelReady;
use crate::engine::LoadError;
use crate::engine::onnx::LibraryInfo;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;

/// Writes to stderr: as plain lines where logs are text, as log records where they are JSON.
#[derive(Debug)]
pub(super) struct Banner {
    http: SocketAddr,
    grpc: SocketAddr,
    unix: Vec<PathBuf>,
    models: Vec<PathBuf>,
    runtimes: Vec<PathBuf>,
    cache: PathBuf,
    default_namespace: String,
    path_template: String,
    open: bool,
    plain: bool,
    shown_example: AtomicBool,
}

impl Banner {
    pub(super) fn new(config: &Config, http: SocketAddr, grpc: SocketAddr) -> Self {
        Self {
            http,
            grpc,
            unix: [&config.http.unix_socket, &config.grpc.unix_socket].into_iter().flatten().cloned().collect(),
            models: config.models.clone(),
            runtimes: config.runtimes.clone(),
            cache: config.storage.cache.clone(),
            default_namespace: config.default_namespace.clone(),
            path_template: config.protocol.path_template.clone(),
            open: config.protocol.api_key.is_none() && config.api_key_file.is_none(),
            plain: config.log.format == LogFormat::Text,
            shown_example: AtomicBool::new(false),
        }
    }

    /// Where the daemon answers and what it works with. A missing engine library is a warning: resources are
    /// still read, and each model says what is missing.
    pub(super) fn start(&self, library: Result<&LibraryInfo, LoadError>) {
        if let Err(error) = &library {
            tracing::warn!("ONNX models cannot be loaded: {error}");
        }
        let engine = library.map_or_else(|_| "none".to_owned(), |info| format!("ONNX Runtime {} ({})", info.version, info.path.display()));
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        if !self.plain {
            tracing::info!(version = env!("CARGO_PKG_VERSION"), http = %self.http, grpc = %self.grpc, engine, cores, "kserved listens");
            return;
        }
        let access = if self.open { "no key asked for" } else { "a key is asked for" };
        let reach = if self.http.ip().is_loopback() { "this machine only" } else { "the network" };
        let unix = if self.unix.is_empty() { String::new() } else { format!("  unix      {}\n", list(&self.unix)) };
        say(&format!(
            "kserved {}\n  http      http://{}  ({reach}, {access})\n  grpc      {}\n{unix}  models    {}\n  runtimes  {}\n  cache     {}\n  engine    {engine}\n  devices   {cores} CPU cores\n",
            env!("CARGO_PKG_VERSION"),
            self.http,
            self.grpc,
            list(&self.models),
            list(&self.runtimes),
            self.cache.display(),
        ));
    }

    /// One model more, with the time it took; the first one with a line to try it.
    pub(super) fn model_ready(&self, model: &ModelReady) {
        if !self.plain {
            let took_ms = model.took.as_millis();
            tracing::info!(service = %model.key, model = model.model_name, revision = model.revision, took_ms, "model ready");
            return;
        }
        let mut text =
            format!("  ready     {}/{} ({}) in {:.3} s\n", model.key.namespace, model.key.name, model.revision, model.took.as_secs_f64());
        if !self.shown_example.swap(true, Ordering::Relaxed) {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  try it:\n  {}\n\n", example::curl(&self.base(model), &model.metadata));
        }
        say(&text);
    }

    fn base(&self, model: &ModelReady) -> String {
        let prefix = if model.key.namespace == self.default_namespace {
            String::new()
        } else {
            self.path_template.replace("{namespace}", &model.key.namespace).replace("{name}", &model.key.name)
        };
        format!("http://{}{prefix}/v2/models/{}", self.http, model.model_name)
    }
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A closed stderr is no reason to end.
fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
