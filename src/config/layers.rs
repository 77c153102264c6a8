//! Who set a value: flags over `KSERVED_*` over the file over the defaults, and the name of the one that won.

use crate::api::problem::did_you_mean;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Keys whose value is a map with names of the user's choice.
const OPEN_MAPS: [&str; 1] = ["storage.pvc"];

/// Keys that hold paths: those of the file are taken from the file's folder.
const PATHS: [&str; 9] = [
    "models",
    "runtimes",
    "http.unix_socket",
    "grpc.unix_socket",
    "storage.cache",
    "storage.allowed_roots",
    "storage.pvc",
    "api_key_file",
    "onnx.library",
];

/// Short names of variables, like the flags.
const ALIASES: [(&str, &str); 5] = [
    ("KSERVED_HOST", "http.host"),
    ("KSERVED_CACHE", "storage.cache"),
    ("KSERVED_API_KEY", "protocol.api_key"),
    ("KSERVED_LOG", "log.level"),
    // KServe's own.
    ("KSERVE_OPENAI_ROUTE_PREFIX", "protocol.openai.route_prefix"),
];

/// Variables of the prefix that are no settings of the daemon: the file itself, and the server that the client asks.
const OTHER_VARIABLES: [&str; 3] = ["KSERVED_CONFIG", "KSERVED_SERVER", "KSERVED_PORTS_FILE"];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable, by name.
    Env(String),
    /// A flag as typed, e.g. `--http-port`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One value that a flag or a variable sets, still as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The key, e.g. `http.port`.
    pub key: String,
    /// The text; lists are separated by commas, maps are `name=value` pairs.
    pub text: Text,
    /// Who says so.
    pub origin: Origin,
}

/// A value as typed: one text, or several of a repeated flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// To be read by the type of the key.
    One(String),
    /// A list, each entry as it is.
    Many(Vec<String>),
}

/// The values of all layers so far, by key, with who set each.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    values: BTreeMap<String, (Value, Origin)>,
}

impl Layers {
    /// The defaults, from a configuration written as JSON.
    pub(super) fn of_defaults(defaults: &Value) -> Self {
        Self { values: leaves(defaults).into_iter().map(|(key, value)| (key, (value, Origin::Default))).collect() }
    }

    /// Lays a file's values on top; its relative paths start at its folder.
    pub(super) fn lay_file(&mut self, tree: &Value, path: &Path) {
        let folder = path.parent().unwrap_or(Path::new(""));
        for (key, mut value) in leaves(tree) {
            if PATHS.contains(&key.as_str()) {
                join_paths(&mut value, folder);
            }
            self.values.insert(key, (value, Origin::File(path.to_owned())));
        }
    }

    /// Lays one flag or variable on top.
    ///
    /// # Errors
    /// A sentence: the key is unknown, or the text is not of its type.
    pub(super) fn lay(&mut self, change: Override) -> Result<(), String> {
        let Some((current, _)) = self.values.get(&change.key) else {
            return Err(format!("no setting named `{}`{}", change.key, hint(&change.key, self.values.keys().map(String::as_str))));
        };
        let value = read(current, &change.text).map_err(|wanted| format!("`{}`: {wanted}: `{}`", change.key, change.text))?;
        self.values.insert(change.key, (value, change.origin));
        Ok(())
    }

    /// The changes that a set of variables asks for, and a warning for each that names no setting.
    pub(super) fn changes_by(&self, variables: impl IntoIterator<Item = (String, String)>) -> (Vec<Override>, Vec<String>) {
        let mut by_name: BTreeMap<String, &str> = self.values.keys().map(|key| (variable(key), key.as_str())).collect();
        by_name.extend(ALIASES.map(|(name, key)| (name.to_owned(), key)));
        let (mut changes, mut warnings) = (Vec::new(), Vec::new());
        let is_ours = |name: &str| name.starts_with("KSERVED_") || ALIASES.iter().any(|(alias, _)| *alias == name);
        let ours = variables.into_iter().filter(|(name, _)| is_ours(name));
        for (name, text) in ours {
            match by_name.get(&name) {
                Some(key) => changes.push(Override { key: (*key).to_owned(), text: Text::One(text), origin: Origin::Env(name) }),
                None if OTHER_VARIABLES.contains(&name.as_str()) => {}
                None => warnings
                    .push(format!("environment variable `{name}` names no setting{}", hint(&name, by_name.keys().map(String::as_str)))),
            }
        }
        (changes, warnings)
    }

    /// The whole as one JSON object.
    pub(super) fn tree(&self) -> Value {
        let mut root = Value::Object(Map::new());
        for (key, (value, _)) in &self.values {
            put(&mut root, key, value.clone());
        }
        root
    }

    /// Who set each key, in the order of the keys.
    pub(super) fn origins(&self) -> BTreeMap<String, Origin> {
        self.values.iter().map(|(key, (_, origin))| (key.clone(), origin.clone())).collect()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(text) => f.write_str(text),
            Self::Many(texts) => f.write_str(&texts.join(",")),
        }
    }
}

/// A line that names the known word that was probably meant, or nothing.
fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    did_you_mean(name, known).map_or_else(String::new, |meant| format!("\nhint: did you mean `{meant}`?"))
}

/// The variable of a key: `KSERVED_HTTP_PORT` for `http.port`.
fn variable(key: &str) -> String {
    format!("KSERVED_{}", key.to_uppercase().replace('.', "_"))
}

/// Every value of a tree with its dotted key.
pub(super) fn leaves(tree: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    collect("", tree, &mut found);
    found
}

fn collect(prefix: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(map) if !OPEN_MAPS.contains(&prefix) => {
            for (name, inner) in map {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                collect(&key, inner, found);
            }
        }
        _ if prefix.is_empty() => {}
        other => found.push((prefix.to_owned(), other.clone())),
    }
}

fn put(root: &mut Value, key: &str, value: Value) {
    let slot = key.split('.').fold(root, |at, name| &mut at[name]);
    *slot = value;
}

fn join_paths(value: &mut Value, folder: &Path) {
    match value {
        Value::String(path) => *path = folder.join(&*path).to_string_lossy().into_owned(),
        Value::Array(paths) => paths.iter_mut().for_each(|path| join_paths(path, folder)),
        Value::Object(map) => map.values_mut().for_each(|path| join_paths(path, folder)),
        _ => {}
    }
}

/// Reads a text as the type that the key has now; says what was wanted when it is none.
fn read(current: &Value, text: &Text) -> Result<Value, &'static str> {
    match (current, text) {
        (Value::Array(_), Text::Many(texts)) => Ok(texts.iter().cloned().map(Value::String).collect()),
        (Value::Array(_), Text::One(text)) => {
            Ok(text.split(',').filter(|part| !part.is_empty()).map(|part| Value::String(part.to_owned())).collect())
        }
        (_, Text::Many(_)) => Err("expected one value"),
        (Value::Number(_), Text::One(text)) => text.parse::<u64>().map(Value::from).map_err(|_| "expected a whole number"),
        (Value::Bool(_), Text::One(text)) => text.parse::<bool>().map(Value::from).map_err(|_| "expected `true` or `false`"),
        (Value::Object(_), Text::One(text)) => read_map(text),
        (Value::Null | Value::String(_), Text::One(text)) => Ok(Value::String(text.clone())),
    }
}

fn read_map(text: &str) -> Result<Value, &'static str> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').map(|(name, value)| (name.to_owned(), Value::from(value))).ok_or("expected `name=value` pairs"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn layers() -> Layers {
        Layers::of_defaults(&json!({"models": ["models"], "http": {"port": 8080}, "storage": {"pvc": {}}, "onnx": {"library": null}}))
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let mut layers = layers();
        layers.lay_file(&json!({"http": {"port": 1}, "models": ["a"]}), Path::new("etc/config.yaml"));
        layers.lay(Override { key: "http.port".into(), text: Text::One("2".into()), origin: Origin::Flag("--http-port".into()) }).unwrap();
        assert_eq!(layers.tree()["http"]["port"], 2);
        assert_eq!(layers.tree()["models"], json!(["etc/a"]));
        assert_eq!(layers.origins()["http.port"].to_string(), "flag --http-port");
        assert_eq!(layers.origins()["models"].to_string(), "file etc/config.yaml");
        assert_eq!(layers.origins()["onnx.library"].to_string(), "default");
    }

    #[test]
    fn variables_are_read_by_the_type_of_their_key() {
        let mut layers = layers();
        let variables = [("KSERVED_STORAGE_PVC", "a=/x,b=/y"), ("KSERVED_MODELS", "m,n"), ("KSERVED_ONNX_LIBRARY", "l.so"), ("HOME", "/")];
        let (changes, warnings) = layers.changes_by(variables.map(|(name, text)| (name.to_owned(), text.to_owned())));
        assert!(warnings.is_empty());
        for change in changes {
            layers.lay(change).unwrap();
        }
        assert_eq!(
            layers.tree(),
            json!({"models": ["m", "n"], "http": {"port": 8080}, "storage": {"pvc": {"a": "/x", "b": "/y"}}, "onnx": {"library": "l.so"}})
        );
    }

    #[test]
    fn a_misspelled_variable_is_named_with_the_right_one() {
        let (_, warnings) = layers().changes_by([("KSERVED_HTTP_PRT".to_owned(), "1".to_owned())]);
        assert_eq!(warnings, ["environment variable `KSERVED_HTTP_PRT` names no setting\nhint: did you mean `KSERVED_HTTP_PORT`?"]);
    }

    #[test]
    fn a_text_of_the_wrong_type_is_refused() {
        let change = Override { key: "http.port".into(), text: Text::One("http".into()), origin: Origin::Env("KSERVED_HTTP_PORT".into()) };
        assert_eq!(layers().lay(change).unwrap_err(), "`http.port`: expected a whole number: `http`");
    }
}
