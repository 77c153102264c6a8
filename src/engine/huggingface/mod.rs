//! Hugging Face models: folders as `save_pretrained` writes them, and single GGUF files.
//!
//! The folder and the runtime's flags say the task. Encoders are served here; what makes text is handed on.

pub mod flags;
pub mod folder;
pub mod task;

use super::generation::{self, FolderFiles, GenerationConfig};
use super::{EngineLoader, LoadError, LoadOptions, LoadedModel};
use flags::Flags;
use folder::{Folder, Found};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use task::Task;

/// The `huggingface` part of the daemon's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct HuggingFaceConfig {
    /// Tokens of all texts that an encoder works on at once; more are worked on one batch after another.
    pub batch_tokens_max: usize,
    /// Texts of several requests that are joined at most, where a service does not say otherwise.
    pub batch_texts_max: usize,
    /// Bytes of `config.json` and each other file of settings.
    pub json_bytes_max: u64,
    /// Bytes of `tokenizer.json` and each other file of a vocabulary.
    pub tokenizer_bytes_max: u64,
}

impl Default for HuggingFaceConfig {
    fn default() -> Self {
        Self { batch_tokens_max: 16_384, batch_texts_max: 64, json_bytes_max: 8 << 20, tokenizer_bytes_max: 128 << 20 }
    }
}

/// Loads Hugging Face models.
#[derive(Debug, Clone, Default)]
pub struct HuggingFaceLoader {
    config: HuggingFaceConfig,
    generation: GenerationConfig,
}

impl HuggingFaceLoader {
    /// A loader by its settings.
    #[must_use]
    pub const fn new(config: HuggingFaceConfig, generation: GenerationConfig) -> Self {
        Self { config, generation }
    }
}

impl EngineLoader for HuggingFaceLoader {
    /// Loads a folder with a `config.json`, a folder with one `.gguf`, or a `.gguf`.
    fn load(&self, model: &Path, options: &LoadOptions) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let flags = Flags::parse(&options.args).map_err(LoadError::InvalidModel)?;
        if let Some(sentence) = flags.unknown_sentence() {
            tracing::warn!("{sentence}");
        }
        let found = folder::find(model, &self.config)?;
        let task = task_of(&found, &flags)?;
        if task.is_generative() {
            return self.writer(found, task, &flags, options);
        }
        Err(LoadError::InvalidModel(format!("task `{task}` is not served yet")))
    }
}

impl HuggingFaceLoader {
    /// Loads what writes text.
    fn writer(&self, found: Found, task: Task, flags: &Flags, options: &LoadOptions) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let folder = match found {
            Found::Gguf(path) => return generation::load_gguf(&path, flags.max_model_len, options, &self.generation),
            Found::Folder(_) if task == Task::Text2TextGeneration => {
                return Err(LoadError::InvalidModel(format!("task `{task}` is not served yet")));
            }
            Found::Folder(folder) => folder,
        };
        let json = |name: &str| folder.json(name).map(Option::unwrap_or_default);
        let weights = folder.names().iter().filter(|name| name.ends_with(".safetensors")).map(|name| folder.path(name)).collect();
        let files = FolderFiles {
            config: folder.required_json("config.json")?,
            tokenizer: folder.tokenizer_bytes("tokenizer.json")?,
            tokenizer_config: json("tokenizer_config.json")?,
            generation_config: json("generation_config.json")?,
            chat_template: folder.chat_template()?,
            weights,
        };
        generation::load_folder(&files, flags.max_model_len, options, &self.generation)
    }
}

/// `--task`, else what the architecture says; a GGUF file makes text.
fn task_of(found: &Found, flags: &Flags) -> Result<Task, LoadError> {
    let Found::Folder(folder) = found else { return Ok(flags.task.unwrap_or(Task::TextGeneration)) };
    let config = folder.required_json("config.json")?;
    let inferred = inferred(folder, &config);
    match (flags.task, inferred) {
        (Some(task), inferred) => {
            if let Some(inferred) = inferred.ok().filter(|inferred| *inferred != task) {
                tracing::warn!("the architecture says task `{inferred}`, `--task` says `{task}`");
            }
            Ok(task)
        }
        (None, inferred) => inferred.map_err(|error| LoadError::InvalidModel(format!("config.json: {error}"))),
    }
}

fn inferred(folder: &Folder, config: &Value) -> Result<Task, String> {
    // A sentence encoder is one whatever its trunk was trained as.
    if folder.has("modules.json") && folder.has("1_Pooling/config.json") {
        return Ok(Task::TextEmbedding);
    }
    let architecture = config["architectures"][0].as_str();
    let architecture = architecture.ok_or("it names no `architectures`\n\nhint: name the task with `--task`")?;
    Task::of_architecture(architecture, labels(config))
}

/// How many labels a classifier tells apart; two where nothing is said, as in Hugging Face's own library.
fn labels(config: &Value) -> usize {
    let named = config["id2label"].as_object().map(serde_json::Map::len);
    let counted = config["num_labels"].as_u64().and_then(|count| usize::try_from(count).ok());
    named.or(counted).unwrap_or(2)
}
