//! What lies in a model's folder, in the layout that Hugging Face libraries write; or one GGUF file.
//!
//! Only names are looked at here, and the small JSON files read; each of them is bounded.

use super::HuggingFaceConfig;
use crate::engine::LoadError;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How many names a message lists before it says "and N more".
const NAMES_MAX: usize = 20;

/// A model's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
    names: Vec<String>,
    json_bytes_max: u64,
    tokenizer_bytes_max: u64,
}

/// The two things that a model can be.
#[derive(Debug, Clone)]
pub enum Found {
    /// A folder with a `config.json`.
    Folder(Folder),
    /// One file with everything in it.
    Gguf(PathBuf),
}

/// Looks at a file or folder.
///
/// # Errors
/// `InvalidModel`: nothing there, no model in it (with what is), or several GGUF files.
pub fn find(model: &Path, config: &HuggingFaceConfig) -> Result<Found, LoadError> {
    if model.is_file() {
        return if is_gguf(&name_of(model)) { Ok(Found::Gguf(model.to_owned())) } else { Err(not_a_folder(model)) };
    }
    let folder = Folder::open(model, config)?;
    if folder.has("config.json") {
        return Ok(Found::Folder(folder));
    }
    let files: Vec<&String> = folder.names.iter().filter(|name| is_gguf(name)).collect();
    match files[..] {
        [file] => Ok(Found::Gguf(model.join(file))),
        [] => Err(folder.nothing()),
        _ => Err(LoadError::InvalidModel(format!(
            "{} GGUF files here: {}\n\nhint: point `storageUri` to one of them",
            files.len(),
            listed(&files)
        ))),
    }
}

impl Folder {
    /// Reads the names in a folder.
    ///
    /// # Errors
    /// `InvalidModel` when it cannot be read.
    pub fn open(root: &Path, config: &HuggingFaceConfig) -> Result<Self, LoadError> {
        let entries =
            fs::read_dir(root).map_err(|error| LoadError::InvalidModel(format!("no such file or folder: {}: {error}", root.display())))?;
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(Self { root: root.to_owned(), names, json_bytes_max: config.json_bytes_max, tokenizer_bytes_max: config.tokenizer_bytes_max })
    }

    /// Whether a file is there; the name may lie in a folder below.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.root.join(name).is_file()
    }

    /// A file's path.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The names in the folder, sorted.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A JSON file of settings; nothing when it is not there.
    ///
    /// # Errors
    /// `InvalidModel` for a file that is too large or no JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>, LoadError> {
        if !self.has(name) {
            return Ok(None);
        }
        let bytes = self.bytes(name, self.json_bytes_max)?;
        let value = serde_json::from_slice(&bytes).map_err(|error| LoadError::InvalidModel(format!("{name}: not JSON: {error}")))?;
        Ok(Some(value))
    }

    /// A JSON file that must be there.
    ///
    /// # Errors
    /// As [`Folder::json`], and with what is there instead.
    pub fn required_json(&self, name: &str) -> Result<Value, LoadError> {
        self.json(name)?.ok_or_else(|| LoadError::InvalidModel(format!("no `{name}` here; found: {}", self.listed())))
    }

    /// A file of the tokenizer's as bytes.
    ///
    /// # Errors
    /// `InvalidModel` for a file that is too large or cannot be read.
    pub fn tokenizer_bytes(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        self.bytes(name, self.tokenizer_bytes_max)
    }

    /// The ONNX export, if there is one: `model.onnx`, or `onnx/model.onnx` as Hugging Face's tools write it.
    #[must_use]
    pub fn onnx(&self) -> Option<PathBuf> {
        ["model.onnx", "onnx/model.onnx"].into_iter().find(|name| self.has(name)).map(|name| self.path(name))
    }

    /// The chat template in a file of its own, as text.
    ///
    /// # Errors
    /// `InvalidModel` for a file that is too large or no text.
    pub fn chat_template(&self) -> Result<Option<String>, LoadError> {
        const NAME: &str = "chat_template.jinja";
        if !self.has(NAME) {
            return Ok(None);
        }
        let bytes = self.bytes(NAME, self.json_bytes_max)?;
        String::from_utf8(bytes).map(Some).map_err(|_| LoadError::InvalidModel(format!("{NAME}: not UTF-8")))
    }

    /// The names for a message.
    #[must_use]
    pub fn listed(&self) -> String {
        listed(&self.names.iter().collect::<Vec<_>>())
    }

    fn bytes(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, LoadError> {
        let unreadable = |error: std::io::Error| LoadError::InvalidModel(format!("{name}: {error}"));
        let file = fs::File::open(self.path(name)).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > bytes_max {
            return Err(LoadError::InvalidModel(format!("{name}: larger than {bytes_max} bytes")));
        }
        Ok(bytes)
    }

    fn nothing(&self) -> LoadError {
        LoadError::InvalidModel(format!(
            "no Hugging Face model here: neither `config.json` nor a `.gguf` file; found: {}\n\n\
             hint: the folder must be as `save_pretrained` or `hf download` writes it",
            self.listed()
        ))
    }
}

fn is_gguf(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn not_a_folder(model: &Path) -> LoadError {
    LoadError::InvalidModel(format!(
        "{}: a single file must be a `.gguf`; a model of several files is a folder with a `config.json`",
        name_of(model)
    ))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn listed(names: &[&String]) -> String {
    if names.is_empty() {
        return "nothing, the folder is empty".to_owned();
    }
    let shown: Vec<String> = names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn found(files: &[(&str, &str)]) -> Result<String, String> {
        let folder = folder(files);
        match find(folder.path(), &HuggingFaceConfig::default()) {
            Ok(Found::Folder(_)) => Ok("folder".to_owned()),
            Ok(Found::Gguf(path)) => Ok(name_of(&path)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_folder_with_a_config_or_one_gguf_is_a_model() {
        assert_eq!(found(&[("config.json", "{}"), ("a.gguf", "")]).as_deref(), Ok("folder"));
        assert_eq!(found(&[("tiny.GGUF", ""), ("README.md", "")]).as_deref(), Ok("tiny.GGUF"));
    }

    #[test]
    fn a_folder_without_a_model_says_what_it_holds() {
        assert!(found(&[("pytorch_model.bin", "")]).unwrap_err().contains("found: `pytorch_model.bin`"));
        assert!(found(&[("a.gguf", ""), ("b.gguf", "")]).unwrap_err().starts_with("2 GGUF files here: `a.gguf`, `b.gguf`"));
    }

    #[test]
    fn a_file_that_is_no_gguf_is_refused_by_name() {
        let folder = folder(&[("model.safetensors", "")]);
        let error = find(&folder.path().join("model.safetensors"), &HuggingFaceConfig::default()).unwrap_err();
        assert!(error.to_string().starts_with("model.safetensors: a single file must be a `.gguf`"));
    }

    #[test]
    fn a_settings_file_beyond_its_bound_or_broken_is_named() {
        let folder = folder(&[("config.json", "{\"a\": 1}"), ("broken.json", "{")]);
        let config = HuggingFaceConfig { json_bytes_max: 4, ..HuggingFaceConfig::default() };
        let small = Folder::open(folder.path(), &config).unwrap();
        assert_eq!(small.json("config.json").unwrap_err().to_string(), "config.json: larger than 4 bytes");
        let all = Folder::open(folder.path(), &HuggingFaceConfig::default()).unwrap();
        assert!(all.json("broken.json").unwrap_err().to_string().starts_with("broken.json: not JSON"));
        assert_eq!(all.json("absent.json").unwrap(), None);
        assert!(all.required_json("absent.json").unwrap_err().to_string().contains("found: `broken.json`, `config.json`"));
    }

    #[test]
    fn an_export_lies_beside_the_config_or_in_its_own_folder() {
        let at = |files| Folder::open(folder(files).path(), &HuggingFaceConfig::default()).unwrap().onnx();
        assert_eq!(at(&[("a", "")]), None);
        let kept = folder(&[("onnx/model.onnx", "")]);
        assert!(Folder::open(kept.path(), &HuggingFaceConfig::default()).unwrap().onnx().unwrap().ends_with("onnx/model.onnx"));
    }
}
