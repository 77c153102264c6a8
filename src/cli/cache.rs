//! `kserved cache`: look at the fetched models, keep or remove them, and carry them to another machine.

use super::settings::Settings;
use super::size;
use super::storage::{cache, storage};
use super::table::Table;
use crate::storage::{Cache, KeptModel, PruneTo, Removal};
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Who pins from the command line.
const BY_USER: &str = "user";
/// Digits that a key may be shortened to.
const KEY_SHOWN: usize = 12;

#[derive(Debug, Args)]
#[command(
    after_help = "MODEL is an address as `cache list` shows it, or the first digits of its key. All of this works while daemons use the \
cache: what one of them serves is never removed.

Examples:
  kserved cache list
  kserved cache pin https://example.com/models/iris.onnx
  kserved cache prune --bytes-max 10000000000
  kserved cache verify --repair
  kserved cache export models.tar && scp models.tar edge: && ssh edge kserved cache import models.tar"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the models, the longest unused first
    List {
        /// How to print them
        #[arg(short, long, value_enum, default_value_t = Form::Table)]
        output: Form,
    },
    /// Keep models whatever the bounds say
    Pin {
        #[arg(value_name = "MODEL", required = true)]
        models: Vec<String>,
    },
    /// Let the bounds say again whether models stay
    Unpin {
        #[arg(value_name = "MODEL", required = true)]
        models: Vec<String>,
    },
    /// Remove models that nobody uses
    Rm {
        #[arg(value_name = "MODEL", required = true)]
        models: Vec<String>,
        /// Also those that are pinned
        #[arg(long)]
        force: bool,
    },
    /// Remove what nobody uses or pins until the bounds hold, and what old downloads left
    Prune {
        /// Bytes that may stay [default: storage.cache_bytes_max; 0 there removes no models]
        #[arg(long, value_name = "BYTES", conflicts_with = "all")]
        bytes_max: Option<u64>,
        /// Remove every model that nobody uses or pins, and every unfinished download
        #[arg(long)]
        all: bool,
    },
    /// Hash the files again and name those that are damaged
    Verify {
        #[arg(value_name = "MODEL")]
        models: Vec<String>,
        /// Remove models with damaged files; they are fetched again when they are needed
        #[arg(long)]
        repair: bool,
    },
    /// Write models into one tar file
    Export {
        /// The file; `-` for the standard output
        file: PathBuf,
        #[arg(value_name = "MODEL")]
        models: Vec<String>,
    },
    /// Read models from a tar file that `export` wrote; every file is hashed first
    Import {
        /// The file; `-` for the standard input
        file: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Table,
    Json,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let cache = cache(&arguments.settings)?;
    match &arguments.action {
        Action::List { output } => list(&cache, *output, out),
        Action::Pin { models } => each(&cache, models, |model| {
            cache.pin(&model.key, BY_USER)?;
            Ok(writeln!(out, "pinned: {}", model.record.uri)?)
        }),
        Action::Unpin { models } => each(&cache, models, |model| {
            let was = cache.unpin(&model.key, BY_USER)?;
            Ok(writeln!(out, "{}: {}", if was { "unpinned" } else { "was not pinned" }, model.record.uri)?)
        }),
        Action::Rm { models, force } => each(&cache, models, |model| remove(&cache, model, *force, out)),
        Action::Prune { bytes_max, all } => prune(arguments, &cache, *bytes_max, *all, out),
        Action::Verify { models, repair } => verify(&cache, &chosen(&cache, models)?, *repair, out),
        Action::Export { file, models } => export(&cache, file, &chosen(&cache, models)?, out),
        Action::Import { file } => import(arguments, file, out),
    }
}

fn list(cache: &Cache, form: Form, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let (models, usage) = (cache.models()?, cache.usage()?);
    if form == Form::Json {
        let all = serde_json::json!({ "models": models, "usage": usage });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["KEY", "SIZE", "FILES", "LAST USED", "USED BY", "URI"]);
    for model in &models {
        let mut used_by = model.pins.iter().map(|pin| format!("pin:{pin}")).collect::<Vec<_>>();
        used_by.extend(model.in_use.then(|| "in use".to_owned()));
        table.push(vec![
            model.key[..KEY_SHOWN].to_owned(),
            size::bytes(model.bytes),
            model.record.files.len().to_string(),
            model.last_used_at.clone(),
            used_by.join(", "),
            model.record.uri.clone(),
        ]);
    }
    table.write(out)?;
    let partial =
        if usage.partial_bytes > 0 { format!(", unfinished downloads: {}", size::bytes(usage.partial_bytes)) } else { String::new() };
    writeln!(out, "\nmodels: {}{partial}", size::bytes(usage.models_bytes))?;
    Ok(ExitCode::SUCCESS)
}

fn remove(cache: &Cache, model: &KeptModel, force: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let uri = &model.record.uri;
    if !model.pins.is_empty() && !force {
        bail!("it is pinned by `{}`: `{uri}`\nhint: `--force` removes it all the same", model.pins.join("`, `"));
    }
    match cache.remove(model)? {
        Removal::Removed(freed) => Ok(writeln!(out, "removed: {uri}, {} are free now", size::bytes(freed))?),
        Removal::InUse => bail!("a process uses or fetches it: `{uri}`\nhint: delete the services that it belongs to first"),
    }
}

fn prune(arguments: &Arguments, cache: &Cache, bytes_max: Option<u64>, all: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut to = storage(&arguments.settings)?.prune_to();
    if let Some(max) = bytes_max {
        to = PruneTo { bytes_max: Some(max), bytes_low: max, ..to };
    }
    if all {
        to = PruneTo { bytes_max: Some(0), bytes_low: 0, partial_age_max: Duration::ZERO };
    }
    let pruned = cache.prune(to)?;
    for model in &pruned.models {
        writeln!(out, "removed: {}", model.record.uri)?;
    }
    let (models, partials) = (pruned.models.len(), pruned.partials);
    writeln!(out, "{models} models and {partials} unfinished downloads removed, {} are free now", size::bytes(pruned.freed_bytes))?;
    Ok(ExitCode::SUCCESS)
}

fn verify(cache: &Cache, models: &[KeptModel], repair: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut damaged = 0;
    for model in models {
        let found = cache.verify(model);
        for damage in &found {
            writeln!(out, "damaged: {}: {}: {}", model.record.uri, damage.path, damage.what)?;
        }
        if !found.is_empty() {
            damaged += 1;
            if repair {
                remove(cache, model, true, out)?;
            }
        }
    }
    writeln!(out, "{} models, {damaged} damaged", models.len())?;
    Ok(if damaged > 0 && !repair { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn export(cache: &Cache, file: &Path, models: &[KeptModel], out: &mut impl Write) -> anyhow::Result<ExitCode> {
    if models.is_empty() {
        bail!("the cache holds no models\nhint: `kserved pull URI` fetches one");
    }
    if file == Path::new("-") {
        cache.export(models, BufWriter::new(out))?;
        return Ok(ExitCode::SUCCESS);
    }
    // A cut export must not look like a whole one.
    let fresh = file.with_extension("part");
    let target = File::create(&fresh).with_context(|| format!("cannot write `{}`", fresh.display()))?;
    let files = cache.export(models, BufWriter::new(&target))?;
    target.sync_all()?;
    std::fs::rename(&fresh, file).with_context(|| format!("cannot write `{}`", file.display()))?;
    writeln!(out, "{}: {} models, {files} files, {}", file.display(), models.len(), size::bytes(target.metadata()?.len()))?;
    Ok(ExitCode::SUCCESS)
}

fn import(arguments: &Arguments, file: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(file).with_context(|| format!("cannot read `{}`", file.display()))?))
    };
    for model in storage(&arguments.settings)?.import(source)? {
        let what = if model.was_here { "was here" } else { "imported" };
        writeln!(out, "{what}: {}, {}", model.uri, size::bytes(model.bytes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn each(cache: &Cache, names: &[String], mut work: impl FnMut(&KeptModel) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    for model in chosen(cache, names)? {
        work(&model)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The models that are named; all where none is.
fn chosen(cache: &Cache, names: &[String]) -> anyhow::Result<Vec<KeptModel>> {
    let models = cache.models()?;
    if names.is_empty() {
        return Ok(models);
    }
    names.iter().map(|name| find(&models, name).cloned()).collect()
}

fn find<'a>(models: &'a [KeptModel], name: &str) -> anyhow::Result<&'a KeptModel> {
    let is_it = |model: &&KeptModel| model.record.uri == name || (name.len() >= 4 && model.key.starts_with(name));
    let found: Vec<&KeptModel> = models.iter().filter(is_it).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => bail!("not in the cache: `{name}`\nhint: `kserved cache list` shows what is"),
        several => bail!("`{name}` means {} models\nhint: write more digits of the key", several.len()),
    }
}
