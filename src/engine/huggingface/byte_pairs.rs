//! The tokenizer of a model that writes text: `tokenizer.json`, or what it would say of `vocab.json` and `merges.txt`.
//!
//! The older files do not say how a text is cut before merges are applied; the tokenizer's class in `tokenizer_config.json` does.

use super::folder::Folder;
use super::tokenizer::{missing, special_token};
use crate::engine::LoadError;
use serde_json::{Map, Value, json};

/// How Qwen's tokenizers cut, from `transformers`' `Qwen2Converter`.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The bytes of a `tokenizer.json`.
///
/// # Errors
/// `InvalidModel` with the file that is damaged, or the files that would do.
pub(super) fn description(folder: &Folder) -> Result<Vec<u8>, LoadError> {
    if folder.has("tokenizer.json") {
        return folder.tokenizer_bytes("tokenizer.json");
    }
    if folder.has("vocab.json") && folder.has("merges.txt") {
        return byte_pairs(folder).map(|value| value.to_string().into_bytes());
    }
    Err(missing(folder))
}

fn byte_pairs(folder: &Folder) -> Result<Value, LoadError> {
    let refuse = |what: String| LoadError::InvalidModel(what);
    let vocabulary: Map<String, Value> = serde_json::from_slice(&folder.tokenizer_bytes("vocab.json")?)
        .map_err(|error| refuse(format!("vocab.json: not a vocabulary: {error}")))?;
    let merges = String::from_utf8(folder.tokenizer_bytes("merges.txt")?).map_err(|_| refuse("merges.txt: not UTF-8".to_owned()))?;
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).collect();
    let settings = folder.json("tokenizer_config.json")?.unwrap_or_default();
    let (normalizer, cutting) = cutting(settings["tokenizer_class"].as_str().unwrap_or("GPT2Tokenizer")).map_err(refuse)?;
    let extra = folder.json("added_tokens.json")?.unwrap_or_default();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added(&settings, &extra, &vocabulary),
        "normalizer": normalizer,
        "pre_tokenizer": cutting,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": merges},
    }))
}

fn cutting(class: &str) -> Result<(Value, Value), String> {
    let bytes = |by_words: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": by_words});
    match class.trim_end_matches("Fast") {
        "GPT2Tokenizer" => Ok((Value::Null, bytes(true))),
        "Qwen2Tokenizer" => {
            let split = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
            Ok((json!({"type": "NFC"}), json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})))
        }
        other => Err(format!(
            "tokenizer_config.json: `vocab.json` and `merges.txt` do not say how a `{other}` cuts texts; `GPT2Tokenizer` and \
             `Qwen2Tokenizer` are known\n\nhint: `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` writes `tokenizer.json`"
        )),
    }
}

/// Tokens that are found in a text before it is cut: those with a number of their own, and those that the settings name.
fn added(settings: &Value, extra: &Value, vocabulary: &Map<String, Value>) -> Vec<Value> {
    let mut tokens = std::collections::BTreeMap::new();
    for (token, id) in extra.as_object().into_iter().flatten() {
        tokens.extend(id.as_u64().map(|id| (id, (token.clone(), false))));
    }
    for name in ["bos_token", "eos_token", "unk_token", "pad_token"] {
        let token = special_token(&settings[name]);
        let id = |token: &String| vocabulary.get(token).or_else(|| extra.get(token)).and_then(Value::as_u64);
        tokens.extend(token.and_then(|token| Some((id(&token)?, (token, true)))));
    }
    for (id, token) in settings["added_tokens_decoder"].as_object().into_iter().flatten() {
        let found = id.parse().ok().zip(special_token(token));
        tokens.extend(found.map(|(id, content)| (id, (content, token["special"] == true))));
    }
    let describe = |(id, (content, special)): (u64, (String, bool))| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special});
    tokens.into_iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::huggingface::HuggingFaceConfig;
    use tokenizers::Tokenizer;

    fn described(files: &[(&str, &str)]) -> Result<Tokenizer, String> {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        let folder = Folder::open(place.path(), &HuggingFaceConfig::default()).unwrap();
        let bytes = description(&folder).map_err(|error| error.to_string())?;
        Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())
    }

    const VOCABULARY: (&str, &str) = ("vocab.json", r#"{"h":0,"i":1,"hi":2,"Ġ":3,"1":4,"2":5,"12":6,"<|im_end|>":7}"#);
    const MERGES: (&str, &str) = ("merges.txt", "#version: 0.2\nh i\n1 2\n");

    #[test]
    fn older_files_make_a_tokenizer_that_cuts_as_its_class_does() {
        let ids = |settings: &str, text: &str| {
            let tokenizer = described(&[VOCABULARY, MERGES, ("tokenizer_config.json", settings)]).unwrap();
            tokenizer.encode(text, true).unwrap().get_ids().to_vec()
        };
        assert_eq!(ids("{}", "hi 12"), [2, 3, 6]);
        let qwen =
            r#"{"tokenizer_class": "Qwen2TokenizerFast", "added_tokens_decoder": {"7": {"content": "<|im_end|>", "special": true}}}"#;
        assert_eq!(ids(qwen, "hi12<|im_end|>"), [2, 4, 5, 7], "digits stand alone, and special tokens are found");
    }

    #[test]
    fn what_older_files_do_not_tell_is_asked_for() {
        let error = described(&[VOCABULARY, MERGES, ("tokenizer_config.json", r#"{"tokenizer_class": "CTRLTokenizer"}"#)]).unwrap_err();
        assert!(error.contains("`CTRLTokenizer`") && error.contains("save_pretrained"), "{error}");
        assert!(described(&[("tokenizer.model", "")]).unwrap_err().contains("`tokenizer.model` is SentencePiece's own file"));
        assert!(described(&[("vocab.json", "["), MERGES]).unwrap_err().starts_with("vocab.json: not a vocabulary"));
    }
}
