//! The tokenizer that a GGUF file carries: its tokens, their kinds, and how text is cut before they are looked for.

use super::header::Header;
use super::value::Value;
use crate::engine::generation::TextTokenizer;
use std::collections::{BTreeSet, HashMap};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

/// Tokens that end a text, by their names, whatever the file says: files often name only one of several.
const ENDS: [&str; 9] =
    ["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "<|return|>", "<|end_of_text|>"];
/// What llama.cpp calls control tokens and user-defined ones.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A file's tokenizer and its special tokens.
#[derive(Debug)]
pub struct Vocabulary {
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The token that begins a text.
    pub bos: Option<String>,
    /// The token that ends one.
    pub eos: Option<String>,
    /// All tokens that end one.
    pub eos_ids: Vec<u32>,
}

/// Reads the tokenizer out of a file's metadata.
///
/// # Errors
/// What is missing, impossible or not supported.
pub fn vocabulary(header: &Header, file: &[u8]) -> Result<Vocabulary, String> {
    let model = header.text(file, "tokenizer.ggml.model").ok_or("the file carries no tokenizer: `tokenizer.ggml.model` is missing")?;
    let tokens = texts(header, file, "tokenizer.ggml.tokens").ok_or("`tokenizer.ggml.tokens` is missing")?;
    let tokenizer = match model.as_str() {
        "gpt2" => byte_level(header, file, &tokens)?,
        "llama" | "gemma" => pieces(header, file, &tokens)?,
        other => return Err(format!("tokenizer `{other}` is not supported: `gpt2` and `llama` are")),
    };
    finish(header, file, tokenizer, &tokens, model != "gpt2")
}

fn texts(header: &Header, file: &[u8], name: &str) -> Option<Vec<String>> {
    let text = |value: Value| match value {
        Value::Text(range) => file.get(range).map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    header.list(file, name)?.map(text).collect()
}

fn vocab_of(tokens: &[String]) -> Vocab {
    // Where a token stands twice, the first one is the one that text becomes.
    tokens.iter().enumerate().rev().filter_map(|(id, token)| Some((token.clone(), u32::try_from(id).ok()?))).collect()
}

fn byte_level(header: &Header, file: &[u8], tokens: &[String]) -> Result<Tokenizer, String> {
    let merges = texts(header, file, "tokenizer.ggml.merges").ok_or("`tokenizer.ggml.merges` is missing")?;
    let pair = |merge: &String| merge.split_once(' ').map(|(one, other)| (one.to_owned(), other.to_owned()));
    let pairs = merges.iter().map(|merge| pair(merge).ok_or_else(|| format!("`{merge}` is no merge"))).collect::<Result<_, _>>()?;
    let kind = header.text(file, "tokenizer.ggml.pre").unwrap_or_else(|| "default".to_owned());
    let cut = cutting(&kind)?;
    let model = BPE::builder().vocab_and_merges(vocab_of(tokens), pairs).ignore_merges(cut.whole_words).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|error| format!("the merges do not fit the tokens: {error}"))?);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(cut.steps)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// How a text is cut before merges are applied.
struct Cutting {
    steps: Vec<PreTokenizerWrapper>,
    /// Words that are tokens as they are need no merges.
    whole_words: bool,
}

fn cutting(kind: &str) -> Result<Cutting, String> {
    let bytes = |by_words| ByteLevel::new(false, true, by_words).into();
    let split = |pattern: &str| {
        Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false)
            .map(Into::into)
            .map_err(|error| error.to_string())
    };
    Ok(match kind {
        "default" | "gpt-2" | "olmo" | "phi-2" | "mpt" => Cutting { steps: vec![bytes(true)], whole_words: false },
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            Cutting { steps: vec![Digits::new(true).into(), bytes(true)], whole_words: false }
        }
        "llama3" | "llama-v3" | "llama-bpe" => Cutting { steps: vec![split(LLAMA3)?, bytes(false)], whole_words: true },
        "qwen2" | "deepseek-r1-qwen" => Cutting { steps: vec![split(QWEN2)?, bytes(false)], whole_words: false },
        other => return Err(format!("tokenizer pre-type `{other}` is not supported: `gpt-2`, `smollm`, `llama-bpe` and `qwen2` are")),
    })
}

/// SentencePiece's tokens with scores: the pair whose joint has the best score is joined first.
fn pieces(header: &Header, file: &[u8], tokens: &[String]) -> Result<Tokenizer, String> {
    let number = |value: Value| if let Value::Float(score) = value { Some(score) } else { None };
    let scores: Option<Vec<f64>> = header.list(file, "tokenizer.ggml.scores").and_then(|list| list.map(number).collect());
    let scores = scores.filter(|scores| scores.len() == tokens.len()).ok_or("`tokenizer.ggml.scores` is missing or of another length")?;
    let model = BPE::builder()
        .vocab_and_merges(vocab_of(tokens), merges_of(tokens, &scores))
        .byte_fallback(true)
        .fuse_unk(true)
        .build()
        .map_err(|error| format!("the tokens make no tokenizer: {error}"))?;
    let mut tokenizer = Tokenizer::new(model);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if header.truth("tokenizer.ggml.add_space_prefix").unwrap_or(true) {
        normalizers.push(Prepend::new("\u{2581}".to_owned()).into());
    }
    normalizers.push(Replace::new(" ", "\u{2581}").map_err(|error| error.to_string())?.into());
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(|error| error.to_string())?;
    tokenizer.with_decoder(Some(ByteFallback::new()));
    Ok(tokenizer)
}

/// Every way to join two tokens into a third, the best third first.
fn merges_of(tokens: &[String], scores: &[f64]) -> Vec<(String, String)> {
    let known: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut found = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        for (at, _) in token.char_indices().skip(1) {
            let (one, other) = token.split_at(at);
            if let (Some(&first), Some(&second)) = (known.get(one), known.get(other)) {
                found.push((id, first, second));
            }
        }
    }
    found.sort_by(|(one, a, b), (other, c, d)| scores[*other].total_cmp(&scores[*one]).then((a, b).cmp(&(c, d))));
    found.into_iter().map(|(_, first, second)| (tokens[first].clone(), tokens[second].clone())).collect()
}

fn finish(header: &Header, file: &[u8], mut tokenizer: Tokenizer, tokens: &[String], bos_usual: bool) -> Result<Vocabulary, String> {
    let kinds: Vec<Value> = header.list(file, "tokenizer.ggml.token_type").map(Iterator::collect).unwrap_or_default();
    let of_kind = |wanted: u64, special: bool| -> Vec<AddedToken> {
        let named = tokens.iter().zip(&kinds).filter(|(_, kind)| **kind == Value::Unsigned(wanted));
        named.map(|(token, _)| AddedToken::from(token.clone(), special).normalized(false)).collect()
    };
    tokenizer.add_special_tokens(of_kind(CONTROL, true)).map_err(|error| error.to_string())?;
    tokenizer.add_tokens(of_kind(USER_DEFINED, false)).map_err(|error| error.to_string())?;
    let id = |name: &str| -> Result<Option<u32>, String> {
        let Some(id) = header.unsigned(&format!("tokenizer.ggml.{name}_token_id")) else { return Ok(None) };
        let known = u32::try_from(id).ok().filter(|_| id < tokens.len());
        known.map(Some).ok_or_else(|| format!("`tokenizer.ggml.{name}_token_id` is {id}, and there are {} tokens", tokens.len()))
    };
    let (bos, eos) = (id("bos")?, id("eos")?);
    let special: BTreeSet<u32> = ENDS.iter().filter_map(|name| tokenizer.token_to_id(name)).collect();
    let named = [eos, id("eot")?, id("eom")?].into_iter().flatten();
    let eos_ids: BTreeSet<u32> = named.chain(special).collect();
    let wants = |name: &str, usual: bool| header.truth(&format!("tokenizer.ggml.add_{name}_token")).unwrap_or(usual);
    let bos_usual = bos_usual || header.text(file, "tokenizer.ggml.pre").is_some_and(|kind| kind == "llama-bpe");
    let before = bos.filter(|_| wants("bos", bos_usual)).into_iter().collect();
    let after = eos.filter(|_| wants("eos", false)).into_iter().collect();
    let name = |id: Option<u32>| id.and_then(|id| tokens.get(id as usize)).cloned();
    let (bos, eos) = (name(bos), name(eos));
    Ok(Vocabulary { tokenizer: TextTokenizer::new(tokenizer).with_ends(before, after), bos, eos, eos_ids: eos_ids.into_iter().collect() })
}
