//! Text to tokens: from `tokenizer.json`, or from the older files of a vocabulary.
//!
//! Texts are tokenised one by one on the worker's own thread, so that no other threads than the budget's work.

use super::flags::Flags;
use super::folder::Folder;
use crate::engine::LoadError;
use serde_json::{Map, Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tokenizers::{EncodeInput, Encoding, NormalizerWrapper, PostProcessor, Tokenizer, TruncationParams};

const NEW: &str = "tokenizer.json";
/// Bytes of a text that are looked at for each token that is kept: far more than a token ever has.
const BYTES_PER_TOKEN: usize = 256;
/// And bytes that are always looked at.
const BYTES_MIN: usize = 64 * 1024;

/// A text as tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Which of two texts each belongs to.
    pub types: Vec<u32>,
    /// Where each stands in its text, in characters; empty unless asked for.
    pub offsets: Vec<(usize, usize)>,
}

/// A tokenizer and how long a text may be.
#[derive(Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    tokens_max: usize,
    special: bool,
    refuse_long: bool,
    offsets: bool,
}

/// Why a text is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// More tokens than the model takes, where that is to be refused.
    #[error("it has more tokens than the {0} that the model takes")]
    TooLong(usize),
    /// The tokenizer's own words.
    #[error("{0}")]
    Refused(String),
}

/// Reads the tokenizer of a folder, without its bounds.
///
/// # Errors
/// `InvalidModel` with the file, or with the files that would do.
pub fn read(folder: &Folder) -> Result<Tokenizer, LoadError> {
    tokenizers::utils::parallelism::set_parallelism(false);
    let (name, description) = if folder.has(NEW) {
        (NEW, folder.tokenizer_bytes(NEW)?)
    } else if folder.has("vocab.txt") {
        ("vocab.txt", word_pieces(folder)?.to_string().into_bytes())
    } else if folder.has("vocab.json") && folder.has("merges.txt") {
        ("vocab.json", byte_pairs(folder)?.to_string().into_bytes())
    } else {
        return Err(missing(folder));
    };
    let wrong = |what: String| LoadError::InvalidModel(format!("{name}: not a tokenizer: {what}"));
    // A damaged description makes the library panic in places.
    match catch_unwind(AssertUnwindSafe(|| Tokenizer::from_bytes(description))) {
        Ok(Ok(mut tokenizer)) => {
            tokenizer.with_padding(None);
            Ok(tokenizer)
        }
        Ok(Err(error)) => Err(wrong(error.to_string())),
        Err(_) => Err(wrong("it is damaged".to_owned())),
    }
}

impl TextTokenizer {
    /// Puts bounds and the flags' wishes on a tokenizer; `tokens_max` is how many tokens the model takes.
    ///
    /// # Errors
    /// `InvalidModel` when so few tokens leave no room for a text.
    pub fn new(mut inner: Tokenizer, tokens_max: usize, flags: &Flags) -> Result<Self, LoadError> {
        let wrong = |error: tokenizers::Error| LoadError::InvalidModel(format!("{NEW}: {error}"));
        if let Some(NormalizerWrapper::BertNormalizer(normalizer)) = inner.get_normalizer() {
            let mut normalizer = *normalizer;
            normalizer.lowercase = !flags.disable_lower_case;
            inner.with_normalizer(Some(normalizer)).map_err(wrong)?;
        }
        let added = inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        if tokens_max <= added {
            return Err(LoadError::InvalidModel(format!("`--max_model_len` {tokens_max} leaves no room beside {added} special tokens")));
        }
        // One more than is taken shows that a text is too long.
        let max_length = tokens_max + usize::from(flags.refuse_long);
        inner.with_truncation(Some(TruncationParams { max_length, ..TruncationParams::default() })).map_err(wrong)?;
        let special = !flags.disable_special_tokens;
        Ok(Self { inner, tokens_max, special, refuse_long: flags.refuse_long, offsets: flags.return_offsets_mapping })
    }

    /// Tokenises a text, or two that belong together.
    ///
    /// # Errors
    /// [`TextError`], without the text's place among others.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Row, TextError> {
        let looked_at = (self.tokens_max.saturating_mul(BYTES_PER_TOKEN)).max(BYTES_MIN);
        if self.refuse_long && text.len().max(pair.map_or(0, str::len)) > looked_at {
            return Err(TextError::TooLong(self.tokens_max));
        }
        let text = beginning(text, looked_at);
        let input = match pair {
            Some(pair) => EncodeInput::Dual(text.into(), beginning(pair, looked_at).into()),
            None => EncodeInput::Single(text.into()),
        };
        let encoding = self.encoding(input)?;
        if encoding.len() > self.tokens_max {
            return Err(TextError::TooLong(self.tokens_max));
        }
        let offsets = if self.offsets { encoding.get_offsets().to_vec() } else { Vec::new() };
        Ok(Row { ids: encoding.get_ids().to_vec(), types: encoding.get_type_ids().to_vec(), offsets })
    }

    /// Tokenises the beginning of a text that may be too long: at most so many tokens, the special ones around it among them.
    ///
    /// # Errors
    /// The tokenizer's own words.
    pub fn encode_beginning(&self, text: &str, most: usize) -> Result<Row, TextError> {
        let text = beginning(text, self.tokens_max.saturating_mul(BYTES_PER_TOKEN).max(BYTES_MIN));
        let encoding = self.encoding(EncodeInput::Single(text.into()))?;
        let behind = encoding.get_special_tokens_mask().iter().rev().take_while(|mark| **mark == 1).count().min(most);
        let front = most.min(encoding.len()) - behind;
        let kept = |numbers: &[u32]| [&numbers[..front], &numbers[numbers.len() - behind..]].concat();
        Ok(Row { ids: kept(encoding.get_ids()), types: kept(encoding.get_type_ids()), offsets: Vec::new() })
    }

    fn encoding(&self, input: EncodeInput<'_>) -> Result<Encoding, TextError> {
        let encoding =
            if self.offsets { self.inner.encode_char_offsets(input, self.special) } else { self.inner.encode_fast(input, self.special) };
        encoding.map_err(|error| TextError::Refused(error.to_string()))
    }

    /// Takes tokens as they are.
    ///
    /// # Errors
    /// Too many, where that is to be refused.
    pub fn take(&self, mut ids: Vec<u32>) -> Result<Row, TextError> {
        if ids.len() > self.tokens_max {
            if self.refuse_long {
                return Err(TextError::TooLong(self.tokens_max));
            }
            ids.truncate(self.tokens_max);
        }
        Ok(Row { types: vec![0; ids.len()], ids, offsets: Vec::new() })
    }

    /// The tokens' text.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).unwrap_or_default()
    }

    /// The id of a token.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How many tokens of a text are taken.
    #[must_use]
    pub const fn tokens_max(&self) -> usize {
        self.tokens_max
    }
}

/// At most so many bytes of a text, whole characters.
fn beginning(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max { text } else { &text[..text.floor_char_boundary(bytes_max)] }
}

/// What `tokenizer.json` would say of BERT's `vocab.txt`.
fn word_pieces(folder: &Folder) -> Result<Value, LoadError> {
    const NAME: &str = "vocab.txt";
    let bytes = folder.tokenizer_bytes(NAME)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| LoadError::InvalidModel(format!("{NAME}: not UTF-8")))?;
    let vocabulary: Map<String, Value> = text.lines().enumerate().map(|(id, token)| (token.trim_end().to_owned(), json!(id))).collect();
    let settings = folder.json("tokenizer_config.json")?.unwrap_or_default();
    let token = |key: &str, default: &str| special_token(&settings[key]).unwrap_or_else(|| default.to_owned());
    let (cls, sep, unknown) = (token("cls_token", "[CLS]"), token("sep_token", "[SEP]"), token("unk_token", "[UNK]"));
    let special = [cls.clone(), sep.clone(), unknown.clone(), token("mask_token", "[MASK]"), token("pad_token", "[PAD]")];
    let id = |token: &str| vocabulary.get(token).cloned().ok_or_else(|| LoadError::InvalidModel(format!("{NAME}: it has no `{token}`")));
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added(&special, &vocabulary),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": settings["do_lower_case"].as_bool().unwrap_or(true)},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": [sep, id(&sep)?], "cls": [cls, id(&cls)?]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": vocabulary},
    }))
}

/// What `tokenizer.json` would say of RoBERTa's `vocab.json` and `merges.txt`.
fn byte_pairs(folder: &Folder) -> Result<Value, LoadError> {
    const NAME: &str = "vocab.json";
    let wrong = |what: String| LoadError::InvalidModel(format!("{NAME}: {what}"));
    let vocabulary: Map<String, Value> =
        serde_json::from_slice(&folder.tokenizer_bytes(NAME)?).map_err(|error| wrong(format!("not a vocabulary: {error}")))?;
    let merges = folder.tokenizer_bytes("merges.txt")?;
    let merges = std::str::from_utf8(&merges).map_err(|_| LoadError::InvalidModel("merges.txt: not UTF-8".to_owned()))?;
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).collect();
    let settings = folder.json("tokenizer_config.json")?.unwrap_or_default();
    let token = |key: &str, default: &str| special_token(&settings[key]).unwrap_or_else(|| default.to_owned());
    let (cls, sep) = (token("cls_token", "<s>"), token("sep_token", "</s>"));
    let special = [cls.clone(), sep.clone(), token("unk_token", "<unk>"), token("mask_token", "<mask>"), token("pad_token", "<pad>")];
    let id = |token: &str| vocabulary.get(token).cloned().ok_or_else(|| wrong(format!("it has no `{token}`")));
    let prefix = settings["add_prefix_space"].as_bool().unwrap_or(false);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added(&special, &vocabulary),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "RobertaProcessing", "sep": [sep, id(&sep)?], "cls": [cls, id(&cls)?], "trim_offsets": true,
            "add_prefix_space": prefix},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": merges},
    }))
}

/// A special token in one of the two forms that `tokenizer_config.json` has for it.
pub(super) fn special_token(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

fn added(special: &[String], vocabulary: &Map<String, Value>) -> Vec<Value> {
    let mut tokens: Vec<(u64, &String)> = special.iter().filter_map(|token| Some((vocabulary.get(token)?.as_u64()?, token))).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let describe = |(id, token): &(u64, &String)| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": token.as_str() == "<mask>", "rstrip": false,
            "normalized": false, "special": true})
    };
    tokens.iter().map(describe).collect()
}

pub(super) fn missing(folder: &Folder) -> LoadError {
    let pieces = folder.names().iter().find(|name| Path::new(name).extension().is_some_and(|extension| extension == "model"));
    let hint = match pieces {
        Some(name) => {
            format!("`{name}` is SentencePiece's own file; convert it: `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`")
        }
        None => "`tokenizer.json`, or `vocab.txt`, or `vocab.json` and `merges.txt` must lie beside `config.json`".to_owned(),
    };
    LoadError::InvalidModel(format!("no tokenizer here; found: {}\n\nhint: {hint}", folder.listed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::huggingface::HuggingFaceConfig;
    use std::fs;

    const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n##s\nhi\n";

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Folder) {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(place.path().join(name), text).unwrap();
        }
        let folder = Folder::open(place.path(), &HuggingFaceConfig::default()).unwrap();
        (place, folder)
    }

    fn words(tokens_max: usize, flags: &Flags) -> Result<TextTokenizer, LoadError> {
        let (_place, folder) = folder(&[("vocab.txt", WORDS)]);
        TextTokenizer::new(read(&folder).unwrap(), tokens_max, flags)
    }

    #[test]
    fn an_old_vocabulary_makes_the_same_tokens_as_bert() {
        let tokenizer = words(16, &Flags::default()).unwrap();
        assert_eq!(tokenizer.encode("Hello worlds what", None).unwrap().ids, [2, 5, 6, 7, 1, 3]);
        let pair = tokenizer.encode("hi", Some("hello [MASK]")).unwrap();
        assert_eq!((pair.ids, pair.types), (vec![2, 8, 3, 5, 4, 3], vec![0, 0, 0, 1, 1, 1]));
        assert_eq!(tokenizer.encode("", None).unwrap().ids, [2, 3]);
    }

    #[test]
    fn byte_pairs_are_read_from_their_two_files() {
        let vocabulary = r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"<mask>":4,"h":5,"i":6,"hi":7,"Ġ":8}"#;
        let (_place, folder) = folder(&[("vocab.json", vocabulary), ("merges.txt", "#version: 0.2\nh i\n")]);
        let tokenizer = TextTokenizer::new(read(&folder).unwrap(), 16, &Flags::default()).unwrap();
        assert_eq!(tokenizer.encode("hi<mask>", Some("hi")).unwrap().ids, [0, 7, 4, 2, 2, 7, 2]);
    }

    #[test]
    fn a_long_text_is_cut_or_refused_as_asked() {
        let long = "hello ".repeat(50);
        assert_eq!(words(4, &Flags::default()).unwrap().encode(&long, None).unwrap().ids, [2, 5, 5, 3]);
        let strict = words(4, &Flags { refuse_long: true, ..Flags::default() }).unwrap();
        assert_eq!(strict.encode(&long, None), Err(TextError::TooLong(4)));
        assert_eq!(strict.encode("hello hello", None).unwrap().ids.len(), 4);
        assert_eq!(strict.encode(&"x".repeat(BYTES_MIN + 1), None), Err(TextError::TooLong(4)));
        assert_eq!(strict.take(vec![5; 5]), Err(TextError::TooLong(4)));
    }

    #[test]
    fn a_bound_without_room_for_a_text_is_refused() {
        assert!(words(3, &Flags::default()).unwrap_err().to_string().contains("leaves no room beside 3 special tokens"));
    }

    #[test]
    fn flags_keep_capitals_and_leave_special_tokens_out() {
        let flags = Flags { disable_lower_case: true, disable_special_tokens: true, ..Flags::default() };
        assert_eq!(words(8, &flags).unwrap().encode("Hello hello", None).unwrap().ids, [1, 5]);
    }

    #[test]
    fn places_in_the_text_are_counted_in_characters() {
        let flags = Flags { return_offsets_mapping: true, ..Flags::default() };
        let row = words(8, &flags).unwrap().encode("é hello", None).unwrap();
        assert_eq!(row.offsets, [(0, 0), (0, 1), (2, 7), (0, 0)]);
    }

    #[test]
    fn a_folder_with_sentence_pieces_alone_says_how_to_convert_them() {
        let (_place, without) = folder(&[("spm.model", "x"), ("config.json", "{}")]);
        assert!(read(&without).unwrap_err().to_string().contains("`spm.model` is SentencePiece's own file; convert it"));
        let (_place, broken) = folder(&[("tokenizer.json", "{}")]);
        assert!(read(&broken).unwrap_err().to_string().starts_with("tokenizer.json: not a tokenizer"));
    }
}
