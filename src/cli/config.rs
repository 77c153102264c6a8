//! `kserved config show`: every setting, and who set it.

use super::settings::Settings;
use super::table::Table;
use crate::config::{Loaded, to_yaml};
use clap::Subcommand;
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(super) enum Arguments {
    /// Print the settings as YAML, or with who set each.
    Show {
        /// Print who set each value: a flag, a variable, the file or the default
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        settings: Box<Settings>,
    },
}

pub(super) fn run(arguments: Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let Arguments::Show { origin, settings } = arguments;
    let loaded = settings.load()?;
    let shown = if origin { show_origins(&loaded, out) } else { out.write_all(to_yaml(&loaded.config).as_bytes()) };
    shown?;
    for warning in &loaded.warnings {
        writeln!(std::io::stderr(), "warning: {warning}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_origins(loaded: &Loaded, out: &mut impl Write) -> std::io::Result<()> {
    let mut table = Table::new(&["KEY", "VALUE", "ORIGIN"]);
    for (key, value) in loaded.config.values() {
        let origin = loaded.origins.get(&key).map_or_else(String::new, ToString::to_string);
        table.push(vec![key, shown(&value), origin]);
    }
    table.write(out)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn shown_with(origin: bool) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        std::fs::write(&file, "pool:\n  queue_max: 7\nprotocol:\n  api_key: s3cret\n").unwrap();
        let settings = Settings { config: Some(file), http_port: Some("9".to_owned()), ..Settings::default() };
        let mut out = Vec::new();
        run(Arguments::Show { origin, settings: Box::new(settings) }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_shown_can_be_read_again_and_holds_no_key() {
        let text = shown_with(false);
        assert!(!text.contains("s3cret"));
        let config = Config::parse(&text, Path::new("shown")).unwrap();
        assert_eq!((config.http.port, config.pool.queue_max), (9, 7));
    }

    #[test]
    fn each_value_names_who_set_it() {
        let text = shown_with(true);
        let origin = |key: &str| text.lines().find(|line| line.starts_with(&format!("{key} "))).unwrap().to_owned();
        assert!(origin("http.port").ends_with("flag --http-port"));
        assert!(origin("pool.queue_max").contains('7') && origin("pool.queue_max").ends_with("c.yaml"));
        assert!(origin("grpc.port").ends_with("default"));
        assert!(!text.contains("s3cret"));
    }
}
