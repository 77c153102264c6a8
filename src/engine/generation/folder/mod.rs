//! Language models in Hugging Face's layout: `config.json`, `tokenizer.json`, weights in safetensors.

mod architecture;
mod safetensors;

use super::config::GenerationConfig;
use super::decoder::Names;
use super::model::{Ingredients, Kind, Wishes, start};
use super::{GeneratorInfo, Sampling, TextTokenizer, t5};
use crate::engine::{LoadError, LoadOptions, LoadedModel};
use safetensors::SafetensorsFiles;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use tokenizers::Tokenizer;

/// The files of a model's folder, the small ones read.
#[derive(Debug, Default)]
pub struct FolderFiles {
    /// `config.json`.
    pub config: Value,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`, or null.
    pub tokenizer_config: Value,
    /// `generation_config.json`, or null.
    pub generation_config: Value,
    /// `chat_template.jinja`.
    pub chat_template: Option<String>,
    /// All `.safetensors`.
    pub weights: Vec<PathBuf>,
}

/// Whether a model reads its prompt with an encoder, by its `config.json`.
#[must_use]
pub fn has_encoder(config: &Value) -> bool {
    config["model_type"] == "t5"
}

/// Loads a decoder or a T5 out of a folder.
///
/// # Errors
/// `InvalidModel` that names the file and what in it is wrong or not supported.
pub fn load_folder(
    files: &FolderFiles,
    wishes: Wishes,
    options: &LoadOptions,
    config: &GenerationConfig,
) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let of = |file: &'static str| move |sentence: String| LoadError::InvalidModel(format!("{file}: {sentence}"));
    let (kind, start_token) = kind(&files.config).map_err(of("config.json"))?;
    let tokenizer = Tokenizer::from_bytes(&files.tokenizer).map_err(|error| of("tokenizer.json")(error.to_string()))?;
    let tokenizer = TextTokenizer::new(tokenizer);
    let mut info = info(files, &tokenizer);
    if let Some(token) = start_token {
        (info.encoder_decoder, info.decoder_start) = (true, token);
    }
    let source = Arc::new(SafetensorsFiles::open(&files.weights).map_err(LoadError::InvalidModel)?);
    let ingredients = Ingredients { source, kind, tokenizer, info, platform: "kserved_huggingface", file: "model.safetensors".to_owned() };
    start(ingredients, wishes, options, config)
}

/// The shape, and the token that answers begin with where an encoder reads the prompt.
fn kind(config: &Value) -> Result<(Kind, Option<u32>), String> {
    if !has_encoder(config) {
        return Ok((Kind::Decoder(Names::HuggingFace, architecture::architecture(config)?), None));
    }
    let shape = t5::Shape::read(config)?;
    let start = shape.start;
    Ok((Kind::T5(shape), Some(start)))
}

fn info(files: &FolderFiles, tokenizer: &TextTokenizer) -> GeneratorInfo {
    let token = |name: &str| {
        let token = &files.tokenizer_config[name];
        token.as_str().or(token["content"].as_str()).map(str::to_owned)
    };
    let eos_token = token("eos_token");
    let named = [&files.generation_config, &files.config].into_iter().map(|file| &file["eos_token_id"]).find(|ids| !ids.is_null());
    let mut eos_ids: BTreeSet<u32> = named.map(ids).unwrap_or_default();
    eos_ids.extend(eos_token.as_ref().and_then(|token| tokenizer.id_of(token)));
    GeneratorInfo {
        chat_templates: chat_templates(files),
        bos_token: token("bos_token"),
        eos_token,
        eos_ids: eos_ids.into_iter().collect(),
        recommended: recommended(&files.generation_config),
        ..GeneratorInfo::default()
    }
}

/// One id or a list of them.
fn ids(value: &Value) -> BTreeSet<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array().map_or_else(|| one(value).into_iter().collect(), |list| list.iter().filter_map(one).collect())
}

/// A template in a file of its own wins; `tokenizer_config.json` holds one, or several by name.
fn chat_templates(files: &FolderFiles) -> BTreeMap<String, String> {
    let default = |template: &str| ("default".to_owned(), template.to_owned());
    let mut templates: BTreeMap<String, String> = match &files.tokenizer_config["chat_template"] {
        Value::String(template) => [default(template)].into(),
        Value::Array(list) => {
            let named = |entry: &Value| Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()));
            list.iter().filter_map(named).collect()
        }
        _ => BTreeMap::new(),
    };
    templates.extend(files.chat_template.as_deref().map(default));
    templates
}

#[expect(clippy::cast_possible_truncation, reason = "sampling has single precision")]
fn recommended(config: &Value) -> Sampling {
    let usual = Sampling::default();
    let number = |name: &str, usual: f32| config[name].as_f64().map_or(usual, |number| number as f32);
    Sampling {
        temperature: number("temperature", usual.temperature),
        top_p: number("top_p", usual.top_p),
        min_p: number("min_p", usual.min_p),
        repetition_penalty: number("repetition_penalty", usual.repetition_penalty),
        top_k: config["top_k"].as_u64().and_then(|top_k| usize::try_from(top_k).ok()).unwrap_or(usual.top_k),
        ..usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn special_tokens_templates_and_sampling_come_from_where_hugging_face_puts_them() {
        let files = FolderFiles {
            tokenizer_config: json!({"eos_token": {"content": "<end>"}, "bos_token": "<s>",
                "chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}),
            generation_config: json!({"eos_token_id": [7, 9], "top_k": 5, "temperature": 0.25}),
            config: json!({"eos_token_id": 3}),
            chat_template: Some("c".to_owned()),
            ..FolderFiles::default()
        };
        let found = info(&files, &super::super::scripted::byte_tokenizer());
        assert_eq!((found.bos_token.as_deref(), found.eos_token.as_deref(), found.eos_ids), (Some("<s>"), Some("<end>"), vec![7, 9, 256]));
        assert_eq!((found.chat_templates["default"].as_str(), found.chat_templates["tool_use"].as_str()), ("c", "b"));
        assert_eq!(found.recommended, Sampling { top_k: 5, temperature: 0.25, ..Sampling::default() });
    }
}
