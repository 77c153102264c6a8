//! A model's tokenizer: text to token ids, and each token's own bytes.
//!
//! Answers are put together from bytes, not from a decoder's text: a token may be a part of a character, and a decoder
//! would show that as U+FFFD before the rest is there.

use std::collections::HashMap;
use std::ops::Range;
use tokenizers::Tokenizer;

/// Why text did not become tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer failed: {0}")]
pub struct TokenizeError(String);

/// Text to ids and ids to bytes. Shared; every call is a pure function.
#[derive(Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Bytes of all tokens one behind the other, and where each begins.
    bytes: Vec<u8>,
    starts: Vec<u32>,
    special: Vec<bool>,
    /// Tokens around a plain text that the tokenizer itself does not add.
    ends: (Vec<u32>, Vec<u32>),
}

/// How a vocabulary writes bytes as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// GPT-2's: each byte is one printable character.
    ByteLevel,
    /// SentencePiece's: U+2581 for a blank, `<0x0A>` for a byte.
    Pieces,
}

impl TextTokenizer {
    /// Takes a tokenizer over and spells out its vocabulary.
    #[must_use]
    pub fn new(tokenizer: Tokenizer) -> Self {
        let spelling = spelling_of(&tokenizer);
        let from_letter = byte_of_letter();
        let (mut bytes, mut starts, mut special) = (Vec::new(), vec![0], Vec::new());
        let added = tokenizer.get_added_tokens_decoder();
        let vocabulary = tokenizer.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        let mut names: Vec<Option<&str>> = vec![None; size];
        for (name, &id) in &vocabulary {
            names[id as usize] = Some(name);
        }
        for (id, name) in names.into_iter().enumerate() {
            let added = u32::try_from(id).ok().and_then(|id| added.get(&id));
            match (added, name) {
                (Some(token), _) => bytes.extend_from_slice(token.content.as_bytes()),
                (None, Some(name)) => spell(spelling, name, &from_letter, &mut bytes),
                (None, None) => {}
            }
            special.push(added.is_some_and(|token| token.special));
            starts.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Self { tokenizer, bytes, starts, special, ends: (Vec::new(), Vec::new()) }
    }

    /// The same with tokens before and behind a plain text.
    #[must_use]
    pub fn with_ends(self, before: Vec<u32>, behind: Vec<u32>) -> Self {
        Self { ends: (before, behind), ..self }
    }

    /// The ids of a text. Special tokens in the text are recognised; `add_special_tokens` also adds those that the
    /// tokenizer puts around a plain text, e.g. the beginning of a sequence (chat templates write their own).
    ///
    /// # Errors
    /// What the tokenizer says, e.g. of a character it cannot write.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizeError> {
        self.encode_with_place(text, add_special_tokens).map(|(ids, _)| ids)
    }

    /// The same, and where in the ids those of the text itself stand: the others were put around it.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode`].
    pub fn encode_with_place(&self, text: &str, add_special_tokens: bool) -> Result<(Vec<u32>, Range<usize>), TokenizeError> {
        let encoded = self.tokenizer.encode_fast(text, add_special_tokens).map_err(|error| TokenizeError(error.to_string()))?;
        let (before, behind): (&[u32], &[u32]) = if add_special_tokens { (&self.ends.0, &self.ends.1) } else { (&[], &[]) };
        let marks = encoded.get_special_tokens_mask();
        let own = |mark: &u32| *mark == 0;
        let start = marks.iter().position(own).unwrap_or(marks.len());
        let end = marks.iter().rposition(own).map_or(start, |last| last + 1);
        Ok(([before, encoded.get_ids(), behind].concat(), before.len() + start..before.len() + end))
    }

    /// The text of some tokens; U+FFFD for bytes that are no text.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let wanted = ids.iter().filter(|&&id| !(skip_special_tokens && self.is_special(id)));
        let bytes: Vec<u8> = wanted.flat_map(|&id| self.bytes_of(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A token's own bytes; none for an id that nobody has.
    #[must_use]
    pub fn bytes_of(&self, id: u32) -> &[u8] {
        match self.starts.get(id as usize..).and_then(|starts| starts.get(..2)) {
            Some(&[start, end]) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }

    /// Whether a token is no part of the text, e.g. `<|im_end|>`.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The id of a token by its name in the vocabulary.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// One more than the highest id.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.special.len()
    }

    /// The tokenizer itself, for libraries that take one.
    #[must_use]
    pub const fn inner(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// A decoder that turns printable characters back into bytes names itself so.
fn spelling_of(tokenizer: &Tokenizer) -> Spelling {
    let decoder = tokenizer.get_decoder().and_then(|decoder| serde_json::to_string(decoder).ok());
    if decoder.is_some_and(|decoder| decoder.contains("ByteLevel")) { Spelling::ByteLevel } else { Spelling::Pieces }
}

fn spell(spelling: Spelling, name: &str, from_letter: &HashMap<char, u8>, bytes: &mut Vec<u8>) {
    match spelling {
        Spelling::ByteLevel => spell_letters(name, from_letter, bytes),
        Spelling::Pieces => match byte_piece(name) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(name.replace('\u{2581}', " ").as_bytes()),
        },
    }
}

fn spell_letters(name: &str, from_letter: &HashMap<char, u8>, bytes: &mut Vec<u8>) {
    for letter in name.chars() {
        match from_letter.get(&letter) {
            Some(&byte) => bytes.push(byte),
            None => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// `<0x0A>` is the byte 10.
fn byte_piece(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// GPT-2's alphabet: printable bytes stand for themselves, the others for the characters from 256 on, in order.
fn byte_of_letter() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256_u32..;
    let letter = |byte: u8| if printable(byte) { char::from(byte) } else { others.next().and_then(char::from_u32).unwrap_or_default() };
    (0..=255).map(letter).zip(0..=255).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::str::FromStr;

    fn tokenizer(decoder: &serde_json::Value, vocabulary: &serde_json::Value) -> TextTokenizer {
        let unknown = json!({"id": 0, "content": "<end>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                             "normalized": false});
        let model = json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": "<end>"});
        let whole = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [unknown], "normalizer": null,
                           "pre_tokenizer": null, "post_processor": null, "decoder": decoder, "model": model});
        TextTokenizer::new(Tokenizer::from_str(&whole.to_string()).unwrap())
    }

    #[test]
    fn gpt2s_letters_are_bytes() {
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let tokenizer = tokenizer(&decoder, &json!({"<end>": 0, "\u{120}a\u{10A}": 1, "\u{C3}\u{A9}": 2, "\u{F0}": 4}));
        assert_eq!(tokenizer.bytes_of(1), b" a\n");
        assert_eq!(tokenizer.bytes_of(2), "é".as_bytes());
        assert_eq!(tokenizer.bytes_of(4), b"\xF0", "a part of a character is a byte");
        assert_eq!((tokenizer.bytes_of(3), tokenizer.bytes_of(5)), (&[][..], &[][..]), "ids without a token");
        assert_eq!(tokenizer.decode(&[1, 0, 2], true), " a\né");
        assert_eq!(tokenizer.decode(&[1, 0], false), " a\n<end>");
        assert_eq!((tokenizer.vocabulary(), tokenizer.id_of("<end>")), (5, Some(0)));
    }

    #[test]
    fn sentencepieces_blanks_and_bytes_are_read() {
        let decoder = json!({"type": "ByteFallback"});
        let tokenizer = tokenizer(&decoder, &json!({"<end>": 0, "\u{2581}the": 1, "<0x0A>": 2, "<0x0>": 3}));
        assert_eq!((tokenizer.bytes_of(1), tokenizer.bytes_of(2), tokenizer.bytes_of(3)), (&b" the"[..], &b"\n"[..], &b"<0x0>"[..]));
    }

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let letters = byte_of_letter();
        assert_eq!(letters.len(), 256);
        assert_eq!((letters[&'\u{120}'], letters[&'\u{10A}'], letters[&'a']), (b' ', b'\n', b'a'));
    }
}
