//! The flags that set values of the configuration, the same for every command that reads it.

use crate::config::{ConfigError, Loaded, Origin, Override, Sources, Text, load};
use clap::Args;
use std::path::PathBuf;

/// Flags over `KSERVED_*` over the file over the defaults.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct Settings {
    /// Settings file [default: config.yaml, if it is there]
    #[arg(long, value_name = "FILE", env = "KSERVED_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Folder to watch for resources; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(super) models: Vec<String>,
    /// Folder to watch for the runtimes that ship with kserved; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(super) runtimes: Vec<String>,
    /// Folder for fetched models
    #[arg(long, value_name = "DIR")]
    pub(super) cache: Option<String>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS")]
    pub(super) host: Option<String>,
    /// Port for HTTP; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    pub(super) http_port: Option<String>,
    /// Port for gRPC; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    pub(super) grpc_port: Option<String>,
    /// Unix socket for HTTP, beside the port
    #[arg(long, value_name = "FILE")]
    pub(super) http_unix: Option<String>,
    /// Unix socket for gRPC, beside the port
    #[arg(long, value_name = "FILE")]
    pub(super) grpc_unix: Option<String>,
    /// File with the key that callers must send
    #[arg(long, value_name = "FILE")]
    pub(super) api_key_file: Option<String>,
    /// ONNX Runtime's shared library
    #[arg(long, value_name = "FILE")]
    pub(super) onnx_library: Option<String>,
    /// error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "LEVEL")]
    pub(super) log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub(super) log_format: Option<String>,
    /// Any other setting, e.g. --set pool.queue_max=64; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(super) set: Vec<(String, String)>,
}

impl Settings {
    /// The configuration that these flags, the environment and the file make.
    pub(super) fn load(&self) -> Result<Loaded, ConfigError> {
        let env = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let env: Vec<(String, String)> = env.collect();
        let mut flags = offline_by(&env);
        flags.extend(self.overrides());
        load(Sources { file: self.config.clone(), env, flags })
    }

    fn overrides(&self) -> Vec<Override> {
        let lists = [("models", "--models", &self.models), ("runtimes", "--runtimes", &self.runtimes)];
        let values = [
            ("storage.cache", "--cache", &self.cache),
            ("http.host", "--host", &self.host),
            ("http.port", "--http-port", &self.http_port),
            ("grpc.port", "--grpc-port", &self.grpc_port),
            ("http.unix_socket", "--http-unix", &self.http_unix),
            ("grpc.unix_socket", "--grpc-unix", &self.grpc_unix),
            ("api_key_file", "--api-key-file", &self.api_key_file),
            ("onnx.library", "--onnx-library", &self.onnx_library),
            ("log.level", "--log-level", &self.log_level),
            ("log.format", "--log-format", &self.log_format),
        ];
        let lists = lists.into_iter().filter(|(_, _, list)| !list.is_empty());
        let lists = lists.map(|(key, flag, list)| change(key, Text::Many(list.clone()), flag));
        let values = values.into_iter().filter_map(|(key, flag, value)| Some(change(key, Text::One(value.clone()?), flag)));
        let set = self.set.iter().map(|(key, value)| change(key, Text::One(value.clone()), "--set"));
        lists.chain(values).chain(set).collect()
    }
}

/// What Hugging Face's own tools understand by being offline holds here too.
fn offline_by(env: &[(String, String)]) -> Vec<Override> {
    const NAME: &str = "HF_HUB_OFFLINE";
    let yes = |value: &str| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str());
    let set = env.iter().any(|(name, value)| name == NAME && yes(value));
    let origin = Origin::Env(NAME.to_owned());
    set.then(|| Override { key: "storage.offline".to_owned(), text: Text::One("true".to_owned()), origin }).into_iter().collect()
}

fn change(key: &str, text: Text, flag: &str) -> Override {
    Override { key: key.to_owned(), text, origin: Origin::Flag(flag.to_owned()) }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected `KEY=VALUE`")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hugging_faces_variable_for_being_offline_counts() {
        let with = |value: &str| offline_by(&[("HF_HUB_OFFLINE".to_owned(), value.to_owned())]).len();
        assert_eq!([with("1"), with("TRUE"), with("0"), with("")], [1, 1, 0, 0]);
    }

    #[test]
    fn flags_become_changes_and_set_comes_last() {
        let settings = Settings {
            models: vec!["a".to_owned(), "b".to_owned()],
            http_port: Some("0".to_owned()),
            set: vec![("http.port".to_owned(), "1".to_owned())],
            ..Settings::default()
        };
        let changes: Vec<String> =
            settings.overrides().iter().map(|change| format!("{}={} {}", change.key, change.text, change.origin)).collect();
        assert_eq!(changes, ["models=a,b flag --models", "http.port=0 flag --http-port", "http.port=1 flag --set"]);
    }
}
