//! The daemon's settings: one struct made of the parts' own, read from `config.yaml`, `KSERVED_*` and flags.
//!
//! Flags win over the environment, the environment over the file, the file over the defaults. An unknown
//! key is refused with its place. Relative paths in the file start at the file's folder.

mod layers;
mod sections;

pub use layers::{Origin, Override, Text};
pub use sections::{Autoscaling, Control, DeploymentMode, Grpc, Http, LocalModels, Log, LogFormat, Memory, Pool, Shutdown};

use crate::api::problem::did_you_mean;
use crate::engine::GpuConfig;
use crate::engine::generation::GenerationConfig;
use crate::engine::huggingface::HuggingFaceConfig;
use crate::engine::onnx::OnnxConfig;
use crate::place::Place;
use crate::protocol::{self, ApiKey};
use crate::router::{graph, logger};
use crate::storage;
use layers::Layers;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file that is read when none is named and it is there.
pub const DEFAULT_FILE: &str = "config.yaml";

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Watched folders with the user's resources.
    pub models: Vec<PathBuf>,
    /// Watched folders with the runtimes that ship with the daemon.
    pub runtimes: Vec<PathBuf>,
    /// The namespace of resources that name none.
    pub default_namespace: String,
    /// KServe's way of deploying, where the annotation `serving.kserve.io/deploymentMode` does not say.
    pub deployment_mode: DeploymentMode,
    /// The HTTP door.
    pub http: Http,
    /// The gRPC door.
    pub grpc: Grpc,
    /// A file with the key that callers must send; stands for `protocol.api_key`.
    pub api_key_file: Option<PathBuf>,
    /// Names, keys and bounds of both doors.
    pub protocol: protocol::Config,
    /// Queues and threads.
    pub pool: Pool,
    /// How many workers a model gets, and when it sleeps.
    pub autoscaling: Autoscaling,
    /// What all models may take together.
    pub memory: Memory,
    /// How large graphs may be, and what goes along with their calls.
    pub graphs: graph::Config,
    /// Which models compute on a GPU.
    pub gpu: GpuConfig,
    /// ONNX Runtime.
    pub onnx: OnnxConfig,
    /// Hugging Face models.
    pub huggingface: HuggingFaceConfig,
    /// Models that write text.
    pub generation: GenerationConfig,
    /// Where models may come from.
    pub storage: storage::Config,
    /// This machine as a node, for models that are fetched beforehand.
    pub local_models: LocalModels,
    /// Watching and rolling out.
    pub control: Control,
    /// Copies of requests and answers, where services ask for them.
    pub logger: logger::Config,
    /// The end.
    pub shutdown: Shutdown,
    /// What is written to stderr.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            models: vec![PathBuf::from("models")],
            runtimes: vec![PathBuf::from("runtimes")],
            default_namespace: "default".to_owned(),
            deployment_mode: DeploymentMode::default(),
            http: Http::default(),
            grpc: Grpc::default(),
            api_key_file: None,
            protocol: protocol::Config::default(),
            pool: Pool::default(),
            autoscaling: Autoscaling::default(),
            memory: Memory::default(),
            graphs: graph::Config::default(),
            gpu: GpuConfig::default(),
            onnx: OnnxConfig::default(),
            huggingface: HuggingFaceConfig::default(),
            generation: GenerationConfig::default(),
            storage: storage::Config::default(),
            local_models: LocalModels::default(),
            control: Control::default(),
            logger: logger::Config::default(),
            shutdown: Shutdown::default(),
            log: Log::default(),
        }
    }
}

/// A configuration and who set each of its values.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values, checked.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// Who set each key, e.g. `http.port`.
    pub origins: BTreeMap<String, Origin>,
    /// What a person should look at: variables that name no setting.
    pub warnings: Vec<String>,
}

/// What is laid over the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that was asked for; none takes [`DEFAULT_FILE`] if it is there.
    pub file: Option<PathBuf>,
    /// Environment variables; all but `KSERVED_*` are passed over.
    pub env: Vec<(String, String)>,
    /// Flags, the last of a key wins.
    pub flags: Vec<Override>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{place}: {message}")]
    File {
        /// Where the mistake stands.
        place: Place,
        /// What it is, with a hint where there is one.
        message: String,
    },
    /// A flag or a variable is not what it should be.
    #[error("{origin}: {message}")]
    Value {
        /// Who said so.
        origin: Origin,
        /// What is wrong.
        message: String,
    },
    /// Values that do not go together, all of them.
    #[error("{}", .0.join("\n"))]
    Check(Vec<String>),
}

/// Reads all sources and checks the result.
///
/// # Errors
/// [`ConfigError`], with the file's place, the variable or the flag at fault.
pub fn load(sources: Sources) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::of_defaults(&tree_of(&Config::default()));
    let file = sources.file.or_else(|| Path::new(DEFAULT_FILE).is_file().then(|| PathBuf::from(DEFAULT_FILE)));
    if let Some(path) = &file {
        layers.lay_file(&read_file(path)?, path);
    }
    let (changes, warnings) = layers.changes_by(sources.env);
    for change in changes.into_iter().chain(sources.flags) {
        let origin = change.origin.clone();
        layers.lay(change).map_err(|message| ConfigError::Value { origin, message })?;
    }
    let mut config = assemble(&layers)?;
    config.check()?;
    if let Some(path) = &config.api_key_file {
        config.protocol.api_key = Some(read_key(path)?);
    }
    Ok(Loaded { config, file, origins: layers.origins(), warnings })
}

/// Any value as YAML text.
#[must_use]
pub fn to_yaml(value: &impl Serialize) -> String {
    serde_saphyr::to_string(value).expect("a value made of maps, lists and plain values has a YAML form, because keys are strings")
}

impl Config {
    /// Reads a configuration from YAML text; `file` is for messages.
    ///
    /// # Errors
    /// The first mistake with its place: not YAML, an unknown key, a value of the wrong type.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let parsed: Option<Self> = serde_saphyr::from_str(text).map_err(|error| file_error(&error, file))?;
        Ok(parsed.unwrap_or_default())
    }

    /// Every value as `(key, value)`, in the order of `config.yaml`; keys of callers are hidden.
    #[must_use]
    pub fn values(&self) -> Vec<(String, Value)> {
        layers::leaves(&tree_of(self))
    }

    /// Checks what no single value shows.
    fn check(&self) -> Result<(), ConfigError> {
        let mistakes: Vec<String> = [
            self.check_bind(),
            self.check_local(),
            self.check_keys(),
            self.check_path_template(),
            self.check_models(),
            self.check_bounds(),
        ]
        .into_iter()
        .flatten()
        .collect();
        if mistakes.is_empty() { Ok(()) } else { Err(ConfigError::Check(mistakes)) }
    }

    fn check_bind(&self) -> Option<String> {
        // A key in a file is read only once everything else is right; that there is one is enough here.
        let guarded = self.api_key_file.is_some();
        let refused = protocol::check_bind(self.http.host, &self.protocol).err().filter(|_| !guarded);
        refused.map(|refused| format!("http.host: {refused}"))
    }

    fn check_local(&self) -> Option<String> {
        if self.protocol.shared_memory.enabled && !self.http.host.to_canonical().is_loopback() {
            return Some(format!(
                "protocol.shared_memory.enabled: shared memory is for callers on this machine, and http.host is `{}`\n\n\
                 hint: listen on 127.0.0.1, or leave shared memory off",
                self.http.host
            ));
        }
        let same = self.http.unix_socket.is_some() && self.http.unix_socket == self.grpc.unix_socket;
        same.then(|| "http.unix_socket, grpc.unix_socket: two files, please; the one of HTTP answers gRPC as well".to_owned())
    }

    fn check_keys(&self) -> Option<String> {
        match (&self.protocol.api_key, &self.api_key_file) {
            (Some(_), Some(_)) => Some("protocol.api_key, api_key_file: set one of them, not both".to_owned()),
            (Some(key), None) if key.is_empty() => Some("protocol.api_key: must not be empty".to_owned()),
            _ => None,
        }
    }

    fn check_path_template(&self) -> Option<String> {
        let template = &self.protocol.path_template;
        let good = template.is_empty() || (template.starts_with('/') && template.contains("{namespace}") && template.contains("{name}"));
        (!good).then(|| format!("protocol.path_template: must start with `/` and name `{{namespace}}` and `{{name}}`: `{template}`"))
    }

    fn check_models(&self) -> Option<String> {
        self.models.is_empty().then(|| "models: name at least one folder to watch".to_owned())
    }

    fn check_bounds(&self) -> Option<String> {
        let may_be_zero = [
            "http.port",
            "grpc.port",
            "protocol.compress_bytes_min",
            "pool.workers_max",
            "pool.threads_max",
            "pool.inline_run_max_us",
            "autoscaling.scale_down_delay_s",
            "autoscaling.scale_to_zero_grace_s",
            "memory.models_bytes_max",
            "generation.context_tokens_max",
            "storage.cache_bytes_max",
            "storage.cache_low_percent",
            "storage.partial_days_max",
            "storage.recheck_interval_s",
            "storage.download.bytes_per_second_max",
            "control.loads_max",
            "control.debounce_ms",
            "shutdown.grace_s",
        ];
        let zero = self.values().into_iter().find(|(key, value)| *value == 0 && !may_be_zero.contains(&key.as_str()));
        zero.map(|(key, _)| format!("{key}: must be at least 1"))
    }
}

fn tree_of(config: &Config) -> Value {
    serde_json::to_value(config).expect("a configuration has a JSON form, because its keys are strings and its paths come from text")
}

fn read_key(path: &Path) -> Result<ApiKey, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    match text.trim() {
        "" => Err(ConfigError::Check(vec![format!("api_key_file: `{}` holds no key", path.display())])),
        key => Ok(ApiKey::new(key)),
    }
}

fn read_file(path: &Path) -> Result<Value, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    // The typed reading finds mistakes and their places; the tree tells which keys were written.
    Config::parse(&text, path)?;
    let tree: Option<Value> = serde_saphyr::from_str(&text).map_err(|error| file_error(&error, path))?;
    Ok(tree.unwrap_or_default())
}

/// The layers as a configuration; a value that does not fit names who set it.
fn assemble(layers: &Layers) -> Result<Config, ConfigError> {
    let deserialized: Result<Config, _> = serde_path(layers.tree());
    deserialized.map_err(|(key, message)| {
        let origin = layers.origins().remove(&key).unwrap_or(Origin::Default);
        ConfigError::Value { origin, message: format!("`{key}`: {message}") }
    })
}

/// Reads the tree; on a mistake finds the key at fault by laying the values over the defaults one by one.
fn serde_path(tree: Value) -> Result<Config, (String, String)> {
    let keys = layers::leaves(&tree);
    serde_json::from_value(tree).map_err(|error: serde_json::Error| {
        let alone = |key: &str, value: &Value| serde_json::from_value::<Config>(nest(key, value)).err();
        let fault = keys.iter().find_map(|(key, value)| alone(key, value).map(|error| (key.clone(), error.to_string())));
        fault.unwrap_or_else(|| (String::new(), error.to_string()))
    })
}

fn nest(key: &str, value: &Value) -> Value {
    key.rsplit('.').fold(value.clone(), |inner, name| serde_json::json!({ name: inner }))
}

fn file_error(error: &serde_saphyr::Error, file: &Path) -> ConfigError {
    let error = error.without_snippet();
    let place = match error.location() {
        Some(at) => Place::file(file).at(number(at.line()), number(at.column())),
        None => Place::file(file),
    };
    ConfigError::File { place, message: describe(error) }
}

fn number(position: u64) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

fn describe(error: &serde_saphyr::Error) -> String {
    match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key `{field}`{}", one_of(field, expected))
        }
        serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("unknown value `{variant}`{}", one_of(variant, expected))
        }
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

fn one_of(name: &str, expected: &[&'static str]) -> String {
    match did_you_mean(name, expected.iter().copied()) {
        Some(meant) => format!("\nhint: did you mean `{meant}`?"),
        None => format!("\nhint: one of `{}`", expected.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(text: &str) -> String {
        Config::parse(text, Path::new("config.yaml")).unwrap_err().to_string()
    }

    fn flag(key: &str, text: &str) -> Override {
        Override { key: key.to_owned(), text: Text::One(text.to_owned()), origin: Origin::Flag(format!("--{key}")) }
    }

    fn with_flags(flags: Vec<Override>) -> Result<Loaded, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, "# nothing\n").unwrap();
        load(Sources { file: Some(file), env: Vec::new(), flags })
    }

    #[test]
    fn the_shipped_file_lists_every_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DEFAULT_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(Config::parse(&text, &path).unwrap(), Config::default());
        let tree: Value = serde_saphyr::from_str(&text).unwrap();
        let keys = |tree: &Value| layers::leaves(tree).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(&tree), keys(&tree_of(&Config::default())), "every key, in the order of the struct");
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("", Path::new("c.yaml")).unwrap(), Config::default());
        assert_eq!(Config::parse("# only words\n", Path::new("c.yaml")).unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_the_right_name() {
        assert_eq!(mistake("http:\n  prt: 80\n"), "config.yaml:2:3: unknown key `prt`\nhint: did you mean `port`?");
        assert_eq!(mistake("models: [a]\nmodel: b\n"), "config.yaml:2:1: unknown key `model`\nhint: did you mean `models`?");
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_place() {
        let message = mistake("http:\n  port: high\n");
        assert!(message.starts_with("config.yaml:2:9: "), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }

    #[test]
    fn a_wrong_word_names_the_words_there_are() {
        assert_eq!(mistake("log:\n  format: xml\n"), "config.yaml:2:11: unknown value `xml`\nhint: one of `text`, `json`");
    }

    #[test]
    fn relative_paths_start_at_the_files_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, "models: [mine]\nstorage:\n  cache: c\n  pvc: {data: d}\n").unwrap();
        let config = load(Sources { file: Some(file), ..Sources::default() }).unwrap().config;
        assert_eq!(config.models, [folder.path().join("mine")]);
        assert_eq!(config.storage.cache, folder.path().join("c"));
        assert_eq!(config.storage.pvc["data"], folder.path().join("d"));
        assert_eq!(config.runtimes, [PathBuf::from("runtimes")]);
    }

    #[test]
    fn a_flag_that_does_not_fit_is_named() {
        let message = with_flags(vec![flag("http.port", "70000")]).unwrap_err().to_string();
        assert!(message.starts_with("flag --http.port: `http.port`: "), "{message}");
        let message = with_flags(vec![flag("http.prot", "1")]).unwrap_err().to_string();
        assert_eq!(message, "flag --http.prot: no setting named `http.prot`\nhint: did you mean `http.port`?");
    }

    #[test]
    fn an_open_bind_without_a_key_is_refused_with_the_ways_out() {
        let message = with_flags(vec![flag("http.host", "0.0.0.0")]).unwrap_err().to_string();
        for way in ["127.0.0.1", "api_key", "allow_unauthenticated"] {
            assert!(message.contains(way), "{way} in {message}");
        }
        assert!(with_flags(vec![flag("http.host", "0.0.0.0"), flag("protocol.api_key", "k")]).is_ok());
        assert!(with_flags(vec![flag("http.host", "0.0.0.0"), flag("protocol.allow_unauthenticated", "true")]).is_ok());
        assert!(with_flags(vec![flag("http.host", "::1")]).is_ok());
    }

    #[test]
    fn bounds_of_zero_and_bad_templates_are_refused_together() {
        let message = with_flags(vec![flag("pool.queue_max", "0"), flag("protocol.path_template", "/{name}")]).unwrap_err().to_string();
        assert!(message.contains("pool.queue_max: must be at least 1") && message.contains("protocol.path_template: "), "{message}");
    }

    #[test]
    fn the_key_may_stand_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "s3cret\n").unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, "api_key_file: key\n").unwrap();
        let sources = Sources { file: Some(file), ..Sources::default() };
        assert!(load(sources.clone()).unwrap().config.protocol.api_key.unwrap().matches(b"s3cret"));
        std::fs::write(folder.path().join("key"), "\n").unwrap();
        assert!(load(sources).unwrap_err().to_string().contains("holds no key"));
    }
}
