//! Hugging Face models: folders as `save_pretrained` writes them, and single GGUF files.
//!
//! The folder and the runtime's flags say the task. Encoders are served here; what makes text is handed on.

pub mod answers;
mod batches;
mod byte_pairs;
mod choice;
pub mod encoder;
pub mod flags;
pub mod folder;
mod model;
mod on_candle;
mod on_onnx;
pub mod pooling;
pub mod safetensors;
pub mod settings;
pub mod task;
pub mod texts;
pub mod tokenizer;

use super::generation::weights::Precision;
use super::generation::{self, FolderFiles, GenerationConfig, Wishes};
use super::{EngineLoader, LoadError, LoadOptions, LoadedModel};
use crate::inference::{Ability, ModelMetadata};
use answers::Answers;
use choice::Choice;
use flags::{Dtype, Flags};
use folder::{Folder, Found};
use model::TextModel;
use pooling::Pooling;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use settings::Settings;
use std::path::Path;
use std::sync::Arc;
use task::Task;
use tokenizer::TextTokenizer;

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
        Self { batch_tokens_max: 4096, batch_texts_max: 64, json_bytes_max: 8 << 20, tokenizer_bytes_max: 128 << 20 }
    }
}

/// Loads Hugging Face models.
#[derive(Debug, Clone)]
pub struct HuggingFaceLoader {
    config: HuggingFaceConfig,
    generation: GenerationConfig,
    /// Loads ONNX exports.
    onnx: Arc<dyn EngineLoader>,
}

impl HuggingFaceLoader {
    /// A loader by its settings; `onnx` loads the exports that lie in folders.
    #[must_use]
    pub fn new(config: HuggingFaceConfig, generation: GenerationConfig, onnx: Arc<dyn EngineLoader>) -> Self {
        Self { config, generation, onnx }
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
        match found {
            Found::Folder(folder) if !task.is_generative() => self.encoder(&folder, task, &flags, options),
            Found::Gguf(_) if !task.is_generative() => Err(LoadError::InvalidModel(format!("a GGUF file is not served for task `{task}`"))),
            found => self.writer(found, task, &flags, options),
        }
    }
}

impl HuggingFaceLoader {
    /// Loads what answers texts with labels, vectors or words.
    fn encoder(&self, folder: &Folder, task: Task, flags: &Flags, options: &LoadOptions) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let config = folder.required_json("config.json")?;
        let settings = Settings::new(&config);
        let tokenizer = TextTokenizer::new(tokenizer::read(folder)?, tokens_max(folder, settings, flags)?, flags)?;
        let pooling = (task == Task::TextEmbedding).then(|| Pooling::read(folder, flags)).transpose()?;
        let answers = Answers::new(task, flags, width(settings, task)?, pooling);
        let mark = mask(folder, &tokenizer)?;
        let choice = Choice { folder, flags, options, settings, task, mark };
        let (engine, backend) = choice.load(&*self.onnx)?;
        let metadata = self.metadata(engine, task, &answers);
        Ok(Arc::new(TextModel::new(metadata, tokenizer, answers, backend, self.config.batch_tokens_max)))
    }

    fn metadata(&self, engine: &str, task: Task, answers: &Answers) -> ModelMetadata {
        let abilities = match task {
            Task::TextEmbedding => vec![Ability::Embeddings],
            Task::Rerank => vec![Ability::Rerank],
            _ => Vec::new(),
        };
        ModelMetadata {
            platform: format!("huggingface_{engine}"),
            inputs: texts::inputs(task),
            outputs: answers.specs(),
            any_input_name: true,
            rows_joined: self.config.batch_texts_max,
            abilities,
            ..ModelMetadata::default()
        }
    }
}

/// How many tokens of a text are taken: what the flag says, else the folder, and never more than the model has positions for.
fn tokens_max(folder: &Folder, settings: Settings<'_>, flags: &Flags) -> Result<usize, LoadError> {
    let positions = encoder::bounds(settings)?.positions;
    if let Some(asked) = flags.max_model_len {
        if asked > positions {
            return Err(LoadError::InvalidModel(format!(
                "`--max_model_len` {asked} is more than the {positions} tokens the model has positions for"
            )));
        }
        return Ok(asked);
    }
    let of = |name: &str, member: &str| -> Result<Option<usize>, LoadError> {
        let value = folder.json(name)?.unwrap_or_default();
        Ok(value[member].as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0))
    };
    let said = [of("sentence_bert_config.json", "max_seq_length")?, of("tokenizer_config.json", "model_max_length")?];
    Ok(said.into_iter().flatten().fold(positions, usize::min))
}

/// Numbers of a vector, or labels, or words.
fn width(settings: Settings<'_>, task: Task) -> Result<usize, LoadError> {
    match task {
        Task::TextEmbedding if settings.text("model_type") == Some("distilbert") => settings.count("dim"),
        Task::TextEmbedding => settings.count("hidden_size"),
        Task::FillMask => settings.count("vocab_size"),
        _ => Ok(labels(settings)),
    }
}

/// The mask's token, by the tokenizer's settings, else by its usual names.
fn mask(folder: &Folder, tokenizer: &TextTokenizer) -> Result<Option<u32>, LoadError> {
    let settings = folder.json("tokenizer_config.json")?.unwrap_or_default();
    let named = tokenizer::special_token(&settings["mask_token"]);
    Ok(named.as_deref().into_iter().chain(["[MASK]", "<mask>"]).find_map(|token| tokenizer.id(token)))
}

impl HuggingFaceLoader {
    /// Loads what writes text.
    fn writer(&self, found: Found, task: Task, flags: &Flags, options: &LoadOptions) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let wishes = Wishes { context: flags.max_model_len, precision: precision(flags.dtype) };
        let folder = match found {
            Found::Gguf(path) => return generation::load_gguf(&path, wishes, options, &self.generation),
            Found::Folder(folder) => folder,
        };
        let config = folder.required_json("config.json")?;
        check_task(task, &config)?;
        let json = |name: &str| folder.json(name).map(Option::unwrap_or_default);
        let weights = folder.names().iter().filter(|name| name.ends_with(".safetensors")).map(|name| folder.path(name)).collect();
        let files = FolderFiles {
            config,
            tokenizer: byte_pairs::description(&folder)?,
            tokenizer_config: json("tokenizer_config.json")?,
            generation_config: json("generation_config.json")?,
            chat_template: folder.chat_template()?,
            weights,
        };
        generation::load_folder(&files, wishes, options, &self.generation)
    }
}

/// What the weights of a model that writes text are kept in.
const fn precision(asked: Dtype) -> Precision {
    match asked {
        Dtype::Auto => Precision::AsStored,
        Dtype::Float32 => Precision::Single,
        Dtype::Float16 => Precision::F16,
        Dtype::Bfloat16 => Precision::Bf16,
    }
}

/// Whether a model does what it is asked for: one with an encoder turns one text into another, one without continues a text.
fn check_task(task: Task, config: &Value) -> Result<(), LoadError> {
    let kind = config["model_type"].as_str().unwrap_or_default();
    let is = if generation::has_encoder(config) { Task::Text2TextGeneration } else { Task::TextGeneration };
    if task == is { Ok(()) } else { Err(LoadError::InvalidModel(format!("a model of type `{kind}` is for task `{is}`, not `{task}`"))) }
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
    Task::of_architecture(architecture, labels(Settings::new(config)))
}

/// How many labels a classifier tells apart; two where nothing is said, as in Hugging Face's own library.
fn labels(settings: Settings<'_>) -> usize {
    let named = settings.value("id2label").as_object().map(serde_json::Map::len).filter(|count| *count > 0);
    let counted = settings.value("num_labels").as_u64().and_then(|count| usize::try_from(count).ok());
    named.or(counted).unwrap_or(2)
}

#[cfg(test)]
mod tests;
