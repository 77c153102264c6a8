//! `kserved run`: fetch a model, serve it on a free port of loopback, and talk to it; all of it ends with the conversation.

use super::client::{Client, Server};
use super::get::{condition, text};
use super::serve::environment;
use super::settings::Settings;
use super::talk::{Style, Talk};
use crate::config::{Config, to_yaml};
use crate::{server, telemetry};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The runtime that ships with kserved, for machines without its folder of runtimes.
const RUNTIME: &str = include_str!("../../runtimes/kserve-huggingfaceserver.yaml");
/// The service's name.
const SERVICE: &str = "model";
/// Seconds that an answer may take: as long as somebody sits in front of it.
const TIMEOUT_S: u64 = 3600;
/// Between two looks at how far the model is.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the model is: a folder, a `.gguf` file, or a `storageUri` such as hf://org/name or https://host/model.gguf
    uri: String,
    /// The model's format [default: gguf for a .gguf file, else huggingface]
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// A flag of the runtime, e.g. --arg=--dtype=float32; may be repeated
    #[arg(long = "arg", value_name = "FLAG", allow_hyphen_values = true)]
    flags: Vec<String>,
    #[command(flatten)]
    style: Style,
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    server::huge_pages::avoid();
    let mut config = arguments.settings.load()?.config;
    if arguments.settings.log_level.is_none() {
        // The conversation stands in the same terminal.
        "error".clone_into(&mut config.log.level);
    }
    telemetry::install_logs(&config.log)?;
    let folder = tempfile_folder()?;
    let folder = Folder(folder);
    arguments.write(&folder.0)?;
    alone(&mut config, &folder.0);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("kserved").build()?;
    let ended = runtime.block_on(talk(config, arguments, out));
    // A load that still runs on a thread of its own must not hold up the end.
    runtime.shutdown_background();
    ended
}

async fn talk(config: Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let server = server::Server::start(config, environment(), None).await?;
    let client = Server::at(format!("http://{}", server.http_address()).parse()?).client()?;
    let talked = async {
        let host = ready(&client).await?;
        Talk::new(client, host, SERVICE.to_owned(), &arguments.style).run(&arguments.style, out).await
    };
    let ended = tokio::select! {
        ended = talked => ended,
        // While it is fetched and loaded; an answer has an ear of its own.
        () = interrupted_before(&server) => Ok(ExitCode::from(130)),
    };
    server.stop().await;
    ended
}

/// Resolves at Ctrl-C as long as the start is not over.
async fn interrupted_before(server: &server::Server) {
    let mut ready = server.ready();
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => drop(interrupted),
        _ = ready.wait_for(|ready| *ready) => std::future::pending().await,
    }
}

/// Waits until the model answers; the host it answers at.
///
/// # Errors
/// Why it never will.
async fn ready(client: &Client) -> anyhow::Result<String> {
    let path = format!("/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/{SERVICE}");
    loop {
        if let Ok(service) = client.get(&path).await {
            if condition(&service, "Ready").is_some_and(|ready| ready["status"] == "True") {
                return super::infer::host(&service);
            }
            if let Some(why) = failure(&service) {
                bail!("{why}");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why a model will not be there, if that is certain.
fn failure(service: &Value) -> Option<String> {
    let blocked =
        text(service, "/status/modelStatus/transitionStatus").is_some_and(|status| matches!(status, "BlockedByFailedLoad" | "InvalidSpec"));
    let why = text(service, "/status/modelStatus/lastFailureInfo/message");
    blocked.then(|| why.unwrap_or("the model cannot be loaded").to_owned())
}

impl Arguments {
    /// Writes the service and its runtime into a folder that is watched.
    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let uri = storage_uri(&self.uri)?;
        let format = self.format.as_deref().unwrap_or(if is_gguf(&uri) { "gguf" } else { "huggingface" });
        let service = json!({
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": SERVICE},
            "spec": {"predictor": {
                "timeout": TIMEOUT_S,
                "minReplicas": 1,
                "model": {"modelFormat": {"name": format}, "storageUri": uri, "args": self.flags},
            }},
        });
        for (name, text) in [("runtime.yaml", RUNTIME), ("service.yaml", &to_yaml(&service))] {
            std::fs::write(folder.join(name), text).with_context(|| format!("cannot write below `{}`", folder.display()))?;
        }
        Ok(())
    }
}

/// Makes a daemon that serves that folder alone, on free ports of loopback.
fn alone(config: &mut Config, folder: &Path) {
    config.models = vec![folder.to_owned()];
    config.runtimes = Vec::new();
    config.http.host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    (config.http.port, config.grpc.port) = (0, 0);
    (config.http.unix_socket, config.grpc.unix_socket) = (None, None);
    "default".clone_into(&mut config.default_namespace);
    // Nobody else is asked for a key on a port that only this process knows.
    config.protocol.api_key = None;
}

/// What was typed as a `storageUri`: a path becomes absolute, `org/name` is a model of the Hugging Face hub.
fn storage_uri(typed: &str) -> anyhow::Result<String> {
    if typed.contains("://") {
        return Ok(typed.to_owned());
    }
    if let Ok(path) = std::fs::canonicalize(typed) {
        return Ok(format!("file://{}", path.display()));
    }
    match typed.split_once('/') {
        Some((org, name)) if !typed.starts_with(['/', '.', '~']) && !org.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(format!("hf://{typed}"))
        }
        _ => bail!(
            "no such file or folder: `{typed}`\nhint: a model of the Hugging Face hub is `org/name`; others have a scheme, e.g. `https://`"
        ),
    }
}

fn is_gguf(uri: &str) -> bool {
    uri.split(['?', '#']).next().is_some_and(|path| path.to_ascii_lowercase().ends_with(".gguf"))
}

/// A folder of this process's own; removed with it.
#[derive(Debug)]
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over in the system's folder for such things harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempfile_folder() -> anyhow::Result<std::path::PathBuf> {
    let folder = std::env::temp_dir().join(format!("kserved-run-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_becomes_a_storage_uri() {
        let folder = tempfile::tempdir().unwrap();
        let here = std::fs::canonicalize(folder.path()).unwrap();
        assert_eq!(storage_uri(folder.path().to_str().unwrap()).unwrap(), format!("file://{}", here.display()));
        assert_eq!(storage_uri("s3://bucket/x").unwrap(), "s3://bucket/x");
        assert_eq!(storage_uri("org/name").unwrap(), "hf://org/name");
        for wrong in ["./not-there", "/not/there", "alone", "a/b/c"] {
            assert!(storage_uri(wrong).unwrap_err().to_string().contains("hint:"), "{wrong}");
        }
    }

    #[test]
    fn the_format_follows_from_the_file() {
        assert!(is_gguf("https://host/x.GGUF?download=true") && !is_gguf("hf://org/x"));
    }

    #[test]
    fn a_service_that_can_be_read_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = Arguments {
            uri: "https://host/m.gguf".to_owned(),
            format: None,
            flags: vec!["--dtype=float32".to_owned()],
            style: Style::default(),
            settings: Settings::default(),
        };
        arguments.write(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("service.yaml")).unwrap();
        assert!(text.contains("name: gguf") && text.contains("--dtype=float32"), "{text}");
    }

    #[test]
    fn only_what_is_final_is_a_failure() {
        let of = |status: &str| {
            failure(&json!({"status": {"modelStatus": {"transitionStatus": status, "lastFailureInfo": {"message": "no such file"}}}}))
        };
        assert_eq!((of("InProgress"), of("BlockedByFailedLoad")), (None, Some("no such file".to_owned())));
    }
}
