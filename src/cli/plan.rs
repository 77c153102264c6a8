//! `kserved plan`: what would be served, and what would be fetched for it, without running or fetching anything.

use super::settings::Settings;
use super::size;
use super::table::Table;
use super::validate::{Read, Resolved};
use crate::api::Resource;
use crate::api::problem::Severity;
use crate::resolve::credentials::{Asker, env_of};
use crate::resolve::storage_container::Brought;
use crate::storage::{Order, Storage};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kserved plan
  kserved plan models/iris.yaml

CACHED says `here` for a model that lies on this machine, its size where it was fetched before, `no` where it would be fetched,
and `missing` where nothing is at its path. A service with a mistake has no line: `kserved validate` says what is wrong.")]
pub(super) struct Arguments {
    /// Files and folders [default: the watched folders]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

pub(super) async fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let config = arguments.settings.load()?.config;
    let mut read = Read::of(&arguments.paths, &config, false)?;
    let resolved = read.resolve();
    let storage = Storage::new(config.storage.clone(), super::serve::environment());
    let mut table = Table::new(&["NAMESPACE", "NAME", "RUNTIME", "PROTOCOL", "MODEL", "CACHED"]);
    for one in &resolved {
        let spec = &one.spec;
        let model = spec.storage.as_ref().map_or_else(String::new, |uri| crate::storage::without_secrets(&uri.to_string()));
        let cached = cached(&read, one, &storage).await;
        table.push(vec![spec.namespace.clone(), spec.service.clone(), spec.runtime.name.clone(), spec.protocol.clone(), model, cached]);
    }
    table.write(out)?;
    let mistakes = read.count(Severity::Error);
    if mistakes > 0 {
        writeln!(std::io::stderr(), "mistakes: {mistakes}\nhint: `kserved validate` says where they are")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the model's files are.
async fn cached(read: &Read, one: &Resolved, storage: &Storage) -> String {
    let Some(uri) = &one.spec.storage else { return String::new() };
    if uri.has_files_in_place() {
        return match storage.fetch(&Order::open(uri.clone()), &|_| ()).await {
            Ok(_) => "here".to_owned(),
            Err(_) => "missing".to_owned(),
        };
    }
    match order(read, one).map(|order| async move { storage.kept(&order).await.ok().flatten() }) {
        Some(kept) => kept.await.map_or_else(|| "no".to_owned(), |kept| size::bytes(kept.bytes)),
        None => "no".to_owned(),
    }
}

/// What would be fetched; nothing where its credentials are wrong, which the daemon tells.
fn order(read: &Read, one: &Resolved) -> Option<Order> {
    let vault = read.vault();
    let Some(Resource::InferenceService(service)) = read.resource(&one.key) else { return None };
    let brought = Brought::for_service(service, &read.storage_containers()).ok()?;
    let secrets = env_of(&Asker::service(service, &vault), &vault).ok()?;
    Some(Order { sha256: one.spec.model_sha256, ..Order::opened_by(one.spec.storage.clone()?, &secrets, brought) })
}
