//! A request's tensors as texts: `text`, and beside it what a task may want, each one row a text.

use super::pooling::Pooling;
use super::task::Task;
use super::tokenizer::{Row, TextError, TextTokenizer};
use crate::engine::{Cancel, EngineError};
use crate::inference::TensorSpec;
use crate::tensor::{DataType, Tensor, buffer};
use std::borrow::Cow;

/// The text itself.
pub const TEXT: &str = "text";
/// A second text that belongs to the first: the document beside its query.
pub const TEXT_PAIR: &str = "text_pair";
/// A text as tokens, each a little-endian `u32`; its `text` is passed over.
pub const TOKEN_IDS: &str = "token_ids";
/// Which of the model's prompts is put in front of the text; empty: the model's default.
pub const PROMPT_NAME: &str = "prompt_name";
/// How many tokens of the text are read, special ones among them; -1: as many as the model takes.
pub const TOKENS_MAX: &str = "tokens_max";

/// The inputs of a task, the text first.
#[must_use]
pub fn inputs(task: Task) -> Vec<TensorSpec> {
    let spec = |name: &str, optional| TensorSpec { name: name.into(), datatype: DataType::Bytes, shape: vec![-1], optional };
    let mut inputs = vec![spec(TEXT, false)];
    match task {
        Task::TextEmbedding => {
            let tokens_max = TensorSpec { datatype: DataType::Int32, ..spec(TOKENS_MAX, true) };
            inputs.extend([spec(TOKEN_IDS, true), spec(PROMPT_NAME, true), tokens_max]);
        }
        Task::SequenceClassification => inputs.push(spec(TEXT_PAIR, true)),
        Task::Rerank => inputs.push(spec(TEXT_PAIR, false)),
        _ => {}
    }
    inputs
}

/// The texts of a request.
#[derive(Debug)]
pub struct Texts<'r> {
    text: &'r Tensor,
    pair: Option<&'r Tensor>,
    token_ids: Option<&'r Tensor>,
    prompts: Option<&'r Tensor>,
    tokens_max: Option<&'r Tensor>,
}

impl<'r> Texts<'r> {
    /// Finds the inputs by name; one alone is the text, whatever it is called.
    ///
    /// # Errors
    /// `InvalidInput` when the text is missing, or inputs have not the same number of rows.
    pub fn of(inputs: &'r [Tensor]) -> Result<Self, EngineError> {
        let named = |name: &str| inputs.iter().find(|input| **input.name() == *name);
        let text = if let [only] = inputs { Some(only) } else { named(TEXT) };
        let text = text.ok_or_else(|| invalid(format!("input `{TEXT}` is missing")))?;
        for input in inputs {
            let datatype = if **input.name() == *TOKENS_MAX { DataType::Int32 } else { DataType::Bytes };
            if input.datatype() != datatype {
                return Err(invalid(format!("input `{}` takes {datatype}, found {}", input.name(), input.datatype())));
            }
            if input.len() != text.len() {
                return Err(invalid(format!("input `{}` has {} rows, `{}` has {}", input.name(), input.len(), text.name(), text.len())));
            }
        }
        Ok(Self { text, pair: named(TEXT_PAIR), token_ids: named(TOKEN_IDS), prompts: named(PROMPT_NAME), tokens_max: named(TOKENS_MAX) })
    }

    /// Tokenises them all; stops where nobody waits any more.
    ///
    /// # Errors
    /// `InvalidInput` with the text's index: no UTF-8, too long, an unknown token or prompt.
    pub fn tokenise(
        &self,
        tokenizer: &TextTokenizer,
        pooling: Option<&Pooling>,
        vocabulary: usize,
        cancel: &Cancel,
    ) -> Result<Vec<Row>, EngineError> {
        let (mut pairs, mut ids, mut prompts) = (strings(self.pair), strings(self.token_ids), strings(self.prompts));
        let tokens_max = self.tokens_max.map(|tensor| buffer::as_numbers::<i32>(tensor.data()).into_owned());
        let mut rows = Vec::with_capacity(self.text.len());
        for (index, text) in self.text.strings().enumerate() {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let wrong = |what: String| invalid(format!("text {index}: {what}"));
            let most = tokens_max.as_ref().map(|all| kept(all[index], tokenizer.tokens_max())).transpose().map_err(&wrong)?;
            let (pair, ids, prompt) = (pairs.next().flatten(), ids.next().flatten(), prompts.next().flatten());
            let row = if let Some(ids) = ids.filter(|ids| !ids.is_empty()) {
                let mut ids = tokens(ids, vocabulary).map_err(&wrong)?;
                ids.truncate(most.unwrap_or(usize::MAX));
                tokenizer.take(ids)
            } else {
                let text = prompted(utf8(text).map_err(&wrong)?, prompt, pooling).map_err(&wrong)?;
                match most {
                    Some(most) => tokenizer.encode_beginning(&text, most),
                    None => tokenizer.encode(&text, pair.map(utf8).transpose().map_err(&wrong)?),
                }
            };
            let row = row.map_err(|error: TextError| wrong(error.to_string()))?;
            if let Some(id) = row.ids.iter().find(|id| **id as usize >= vocabulary) {
                return Err(wrong(format!("token {id} is none of the model's {vocabulary}: its tokenizer does not fit it")));
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

/// How many tokens of a text are read.
fn kept(asked: i32, taken: usize) -> Result<usize, String> {
    match usize::try_from(asked) {
        Ok(asked) if asked > taken => Err(format!("{asked} tokens are to be kept, and the model takes {taken}")),
        Ok(0) => Err("no token is to be kept".to_owned()),
        Ok(asked) => Ok(asked),
        Err(_) if asked == -1 => Ok(taken),
        Err(_) => Err(format!("{asked} tokens are to be kept")),
    }
}

/// The strings of an input row by row, and nothing for ever where it is absent.
fn strings(input: Option<&Tensor>) -> impl Iterator<Item = Option<&[u8]>> {
    input.into_iter().flat_map(Tensor::strings).map(Some).chain(std::iter::repeat(None))
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: byte {} is wrong", error.valid_up_to()))
}

/// The text behind its prompt.
fn prompted<'t>(text: &'t str, name: Option<&[u8]>, pooling: Option<&Pooling>) -> Result<Cow<'t, str>, String> {
    let name = name.map(utf8).transpose()?.filter(|name| !name.is_empty());
    let prompt = pooling.map_or(Ok(""), |pooling| pooling.prompt(name))?;
    Ok(if prompt.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(format!("{prompt}{text}")) })
}

fn tokens(bytes: &[u8], vocabulary: usize) -> Result<Vec<u32>, String> {
    let (ids, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!("its {} bytes of token ids are no whole number of 4-byte ids", bytes.len()));
    }
    let ids: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
    match ids.iter().find(|id| **id as usize >= vocabulary) {
        Some(id) => Err(format!("token {id} is none of the model's {vocabulary}")),
        None => Ok(ids),
    }
}

const fn invalid(message: String) -> EngineError {
    EngineError::InvalidInput(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::huggingface::HuggingFaceConfig;
    use crate::engine::huggingface::flags::Flags;
    use crate::engine::huggingface::folder::Folder;
    use crate::engine::huggingface::tokenizer;

    fn model() -> (TextTokenizer, Pooling) {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nfind\n").unwrap();
        std::fs::write(place.path().join("config_sentence_transformers.json"), r#"{"prompts":{"query":"find "}}"#).unwrap();
        let folder = Folder::open(place.path(), &HuggingFaceConfig::default()).unwrap();
        let flags = Flags::default();
        (TextTokenizer::new(tokenizer::read(&folder).unwrap(), 8, &flags).unwrap(), Pooling::read(&folder, &flags).unwrap())
    }

    fn tensor<S: AsRef<[u8]>>(name: &str, strings: &[S]) -> Tensor {
        Tensor::from_strings(name, vec![i64::try_from(strings.len()).unwrap()], strings).unwrap()
    }

    fn ids(inputs: &[Tensor]) -> Result<Vec<Vec<u32>>, String> {
        let (tokenizer, pooling) = model();
        let rows = Texts::of(inputs).and_then(|texts| texts.tokenise(&tokenizer, Some(&pooling), 8, &Cancel::default()));
        rows.map(|rows| rows.into_iter().map(|row| row.ids).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_input_alone_is_the_text_whatever_its_name() {
        assert_eq!(ids(&[tensor("input-0", &["a", ""])]), Ok(vec![vec![2, 5, 3], vec![2, 3]]));
        assert!(ids(&[tensor("x", &["a"]), tensor("y", &["b"])]).unwrap_err().contains("input `text` is missing"));
    }

    #[test]
    fn pairs_prompts_and_tokens_go_with_their_own_text() {
        assert_eq!(ids(&[tensor(TEXT, &["a"]), tensor(TEXT_PAIR, &["b"])]), Ok(vec![vec![2, 5, 3, 6, 3]]));
        let prompts = [tensor(TEXT, &["a", "a"]), tensor(PROMPT_NAME, &["query", ""])];
        assert_eq!(ids(&prompts), Ok(vec![vec![2, 7, 5, 3], vec![2, 5, 3]]));
        let taken = [tensor(TEXT, &["", "b"]), tensor(TOKEN_IDS, &[&[5, 0, 0, 0, 6, 0, 0, 0][..], &[]])];
        assert_eq!(ids(&taken), Ok(vec![vec![5, 6], vec![2, 6, 3]]));
    }

    #[test]
    fn so_many_tokens_of_each_text_are_read_and_the_special_ones_stay() {
        let most = |numbers: &[i32]| {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            Tensor::new(TOKENS_MAX, DataType::Int32, vec![i64::try_from(numbers.len()).unwrap()], bytes.into()).unwrap()
        };
        let long = "a b a b a b a b a b";
        let found = ids(&[tensor(TEXT, &[long, long, "a"]), most(&[4, -1, 8])]);
        assert_eq!(found, Ok(vec![vec![2, 5, 6, 3], vec![2, 5, 6, 5, 6, 5, 6, 3], vec![2, 5, 3]]));
        assert_eq!(ids(&[tensor(TEXT, &[""]), tensor(TOKEN_IDS, &[&[5, 0, 0, 0, 6, 0, 0, 0]]), most(&[1])]), Ok(vec![vec![5]]));
        for (number, words) in [(9, "9 tokens are to be kept, and the model takes 8"), (0, "no token is to be kept"), (-2, "-2 tokens are")]
        {
            assert!(ids(&[tensor(TEXT, &["a"]), most(&[number])]).unwrap_err().starts_with(&format!("text 0: {words}")));
        }
        assert_eq!(ids(&[tensor(TEXT, &["a"]), tensor(TOKENS_MAX, &["1"])]).unwrap_err(), "input `tokens_max` takes INT32, found BYTES");
    }

    #[test]
    fn what_is_wrong_is_told_with_the_index_of_its_text() {
        assert_eq!(ids(&[tensor(TEXT, &[&b"a"[..], b"a\xff"])]).unwrap_err(), "text 1: not UTF-8: byte 1 is wrong");
        let unknown = [tensor(TEXT, &["a"]), tensor(PROMPT_NAME, &["x"])];
        assert_eq!(ids(&unknown).unwrap_err(), "text 0: no prompt named `x`: there are `query`");
        let beyond = [tensor(TEXT, &[""]), tensor(TOKEN_IDS, &[&8_u32.to_le_bytes()])];
        assert_eq!(ids(&beyond).unwrap_err(), "text 0: token 8 is none of the model's 8");
        let odd = [tensor(TEXT, &[""]), tensor(TOKEN_IDS, &[&[1, 2, 3]])];
        assert_eq!(ids(&odd).unwrap_err(), "text 0: its 3 bytes of token ids are no whole number of 4-byte ids");
        let ragged = [tensor(TEXT, &["a", "b"]), tensor(TEXT_PAIR, &["b"])];
        assert_eq!(ids(&ragged).unwrap_err(), "input `text_pair` has 1 rows, `text` has 2");
    }

    #[test]
    fn a_caller_that_left_stops_the_tokeniser() {
        let (tokenizer, _) = model();
        let (inputs, cancel) = ([tensor(TEXT, &["a"])], Cancel::default());
        cancel.cancel();
        assert_eq!(Texts::of(&inputs).unwrap().tokenise(&tokenizer, None, 8, &cancel), Err(EngineError::Cancelled));
    }
}
