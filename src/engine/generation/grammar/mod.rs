//! Answers held to a form: JSON, a JSON schema, a pattern, a choice of texts, or a grammar.
//!
//! A [`Constraint`] becomes a [`TokenMask`] for one model's tokens. Reading it takes as long as a few tokens, so it is not done
//! on the model's thread, and what was read is kept for the next request: a mask is then a copy of it.

mod mask;

use super::{Generator, TextTokenizer, TokenMask};
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, earley::SlicedBiasComputer};
use mask::GrammarMask;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The form of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Constraint {
    /// Any JSON object.
    Json,
    /// JSON of this schema, as text.
    Schema(String),
    /// A text that matches a regular expression as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in Lark's form.
    Grammar(String),
}

/// What a constraint may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrammarLimits {
    /// Bytes of it.
    pub bytes_max: usize,
    /// Symbols that it may grow to.
    pub symbols_max: usize,
    /// Steps of reading it; some fifty thousand take a millisecond.
    pub reading_steps_max: u64,
    /// Those that are kept ready.
    pub kept_max: usize,
}

/// Why an answer cannot be held to a form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is too large.
    #[error("it has {bytes} bytes, and {max} are read")]
    TooLarge {
        /// Bytes of it.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// It cannot be read, is not served, or grows too large.
    #[error("{0}")]
    Invalid(String),
}

/// Constraints that were read, for all models.
#[derive(Default)]
pub struct Grammars {
    vocabularies: Mutex<Vec<(Weak<TextTokenizer>, Arc<ParserFactory>)>>,
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    constraint: Constraint,
    tokenizer: Weak<TextTokenizer>,
    mask: GrammarMask,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// The mask that holds a model's answer to a form. Takes milliseconds the first time, and for a model's first one some
    /// hundred.
    ///
    /// # Errors
    /// Why the constraint cannot be read; see [`GrammarError`].
    pub fn mask(
        &self,
        constraint: &Constraint,
        generator: &dyn Generator,
        limits: GrammarLimits,
    ) -> Result<Box<dyn TokenMask>, GrammarError> {
        let bytes = constraint.bytes();
        if bytes > limits.bytes_max {
            return Err(GrammarError::TooLarge { bytes, max: limits.bytes_max });
        }
        let tokenizer = generator.tokenizer();
        if let Some(mask) = self.kept(constraint, tokenizer) {
            return Ok(mask);
        }
        let grammar = constraint.grammar()?;
        let factory = self.vocabulary(generator)?;
        let mask = guarded(|| read(&factory, grammar, limits))?;
        let mask = GrammarMask::new(mask);
        let copy = mask.fork();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.tokenizer.strong_count() > 0);
        kept.push_back(Kept { constraint: constraint.clone(), tokenizer: Arc::downgrade(tokenizer), mask });
        while kept.len() > limits.kept_max {
            kept.pop_front();
        }
        Ok(copy)
    }

    fn kept(&self, constraint: &Constraint, tokenizer: &Arc<TextTokenizer>) -> Option<Box<dyn TokenMask>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |kept: &Kept| kept.constraint == *constraint && kept.tokenizer.as_ptr() == Arc::as_ptr(tokenizer);
        let at = kept.iter().position(is_it)?;
        let found = kept.remove(at)?;
        let mask = found.mask.fork();
        kept.push_back(found);
        Some(mask)
    }

    /// A model's tokens as the grammars walk them.
    fn vocabulary(&self, generator: &dyn Generator) -> Result<Arc<ParserFactory>, GrammarError> {
        let tokenizer = generator.tokenizer();
        // One model after another: its tokens are sorted once, whoever asks first.
        let mut vocabularies = self.vocabularies.lock().unwrap_or_else(PoisonError::into_inner);
        vocabularies.retain(|(known, _)| known.strong_count() > 0);
        if let Some((_, factory)) = vocabularies.iter().find(|(known, _)| known.as_ptr() == Arc::as_ptr(tokenizer)) {
            return Ok(Arc::clone(factory));
        }
        let factory = Arc::new(guarded(|| sorted(generator))?);
        vocabularies.push((Arc::downgrade(tokenizer), Arc::clone(&factory)));
        Ok(factory)
    }
}

impl Constraint {
    fn bytes(&self) -> usize {
        match self {
            Self::Json => 0,
            Self::Schema(text) | Self::Regex(text) | Self::Grammar(text) => text.len(),
            Self::Choice(texts) => texts.iter().map(String::len).sum(),
        }
    }

    fn grammar(&self) -> Result<TopLevelGrammar, GrammarError> {
        let invalid = |what: &str, error: serde_json::Error| GrammarError::Invalid(format!("{what}: {error}"));
        Ok(match self {
            Self::Json => TopLevelGrammar::from_json_schema(json!({"type": "object"})),
            Self::Schema(text) => {
                let schema: Value = serde_json::from_str(text).map_err(|error| invalid("the schema is not JSON", error))?;
                TopLevelGrammar::from_json_schema(schema)
            }
            Self::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Self::Choice(texts) => {
                let texts = texts.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
                let texts = texts.map_err(|error| invalid("a choice is no text", error))?;
                TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
            }
            Self::Grammar(text) => TopLevelGrammar::from_lark(text.clone()),
        })
    }
}

fn read(factory: &ParserFactory, grammar: TopLevelGrammar, limits: GrammarLimits) -> Result<Matcher, String> {
    let limits = ParserLimits {
        initial_lexer_fuel: limits.reading_steps_max,
        max_grammar_size: limits.symbols_max,
        verbose_errors: false,
        ..factory.limits().clone()
    };
    let init = GrammarInit::Serialized(grammar);
    let (logger, abilities) = (llguidance::Logger::new(0, 0), InferenceCapabilities::default());
    let parser = factory.create_parser_from_init_ext(init, logger, abilities, limits).map_err(|error| first_line(&error.to_string()))?;
    let mut matcher = Matcher::new(Ok(parser));
    match matcher.get_error() {
        Some(error) => Err(first_line(&error)),
        None => matcher.compute_mask().map(|_| matcher).map_err(|error| first_line(&error.to_string())),
    }
}

/// A model's tokens in order, special ones marked so that no text means them.
fn sorted(generator: &dyn Generator) -> Result<ParserFactory, String> {
    let (tokenizer, info) = (generator.tokenizer(), generator.info());
    let size = u32::try_from(info.vocabulary.max(tokenizer.vocabulary())).map_err(|error| error.to_string())?;
    let word = |id: u32| {
        let bytes = tokenizer.bytes_of(id);
        if tokenizer.is_special(id) { [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat() } else { bytes.to_vec() }
    };
    let words: Vec<Vec<u8>> = (0..size).map(word).collect();
    let ends: Vec<u32> = info.eos_ids.iter().copied().filter(|id| *id < size).collect();
    let Some(&end) = ends.first() else { return Err("the model has no token that ends an answer".to_owned()) };
    let tokens = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&ends);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(tokens));
    let slices = SlicedBiasComputer::json_slices();
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices).map_err(|error| error.to_string())?;
    factory.quiet();
    Ok(factory)
}

/// Runs what is given the texts of strangers: a panic in it costs this constraint only.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, GrammarError> {
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("it cannot be read".to_owned()));
    done.map_err(GrammarError::Invalid)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(512).collect()
}

#[cfg(test)]
mod tests;
