//! `/v1/completions`: a prompt continued.

use super::Config;
use super::error::Problem;
use super::options::{Options, Terms, token_id};
use super::reply::{CompletionLogprobs, End, Head, Reply, UsageReply};
use crate::codec::fields::{Fields, Mistake, unexpected};
use crate::engine::generation::{Event, GenerateRequest, Generator, GeneratorInfo, Logprobs, TextTokenizer};
use crate::protocol::error::Refusal;
use crate::protocol::generating::check_length;
use crate::protocol::sse;
use crate::protocol::writing::Writer;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

/// What OpenAI takes where the request does not say.
const MAX_TOKENS: usize = 16;

/// A request for completions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Completions {
    pub(super) model: String,
    pub(super) options: Options,
    prompts: Vec<Prompt>,
    echo: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl Completions {
    pub(super) fn read(body: &Value, config: &Config) -> Result<Self, Mistake> {
        let fields = Fields::of(body, "")?;
        let model = fields.required_text("model")?.to_owned();
        let mut options = Options::read(&fields, config)?;
        options.max_tokens = Some(fields.count("max_tokens", 0..=usize::MAX >> 1)?.unwrap_or(MAX_TOKENS));
        options.logprobs = fields.count("logprobs", 0..=config.logprobs_max)?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        if echo {
            options.prompt_logprobs = options.logprobs;
        }
        let prompts = prompts(&fields, config)?;
        if prompts.len().saturating_mul(options.choices) > config.choices_max {
            return Err(fields.mistake("n", format!("at most {} answers are written at once", config.choices_max)));
        }
        not_served(&fields, options.choices)?;
        Ok(Self { model, options, prompts, echo })
    }

    /// Bytes of all prompts, for what their reading costs.
    pub(super) fn bytes(&self) -> usize {
        self.prompts.iter().map(|prompt| if let Prompt::Text(text) = prompt { text.len() } else { 0 }).sum()
    }

    /// A request for each prompt.
    pub(super) fn requests(&self, generator: &dyn Generator, terms: &Terms) -> Result<Vec<GenerateRequest>, Problem> {
        if self.echo && generator.info().encoder_decoder {
            return Err(Problem::in_field("echo", "a model that turns one text into another does not go on with its prompt"));
        }
        let request = |(at, prompt): (usize, &Prompt)| {
            let wrong = |sentence: String| Problem::in_field(&self.field(at), sentence);
            let (ids, text) = self.ids(prompt, generator).map_err(wrong)?;
            let ids = self.options.cut(ids, text, generator.info())?;
            check(&ids, generator.info(), self.options.max_tokens).map_err(wrong)?;
            self.options.request(ids, generator, terms)
        };
        self.prompts.iter().enumerate().map(request).collect()
    }

    /// A prompt's tokens, and where those of its text stand among them.
    fn ids(&self, prompt: &Prompt, generator: &dyn Generator) -> Result<(Vec<u32>, Range<usize>), String> {
        let vocabulary = generator.info().vocabulary;
        match prompt {
            Prompt::Text(text) => {
                let special = self.options.add_special_tokens.unwrap_or(true);
                generator.tokenizer().encode_with_place(text, special).map_err(|error| error.to_string())
            }
            Prompt::Ids(ids) => match ids.iter().find(|id| **id as usize >= vocabulary) {
                Some(id) => Err(format!("no such token: {id}; the model has {vocabulary}")),
                None => Ok((ids.clone(), 0..ids.len())),
            },
        }
    }

    fn field(&self, at: usize) -> String {
        if self.prompts.len() == 1 { "prompt".to_owned() } else { format!("prompt[{at}]") }
    }

    /// What writes the answer.
    pub(super) fn writer(&self, revision: &str, tokenizer: Arc<TextTokenizer>) -> CompletionWriter {
        let choices = (0..self.prompts.len() * self.options.choices).map(|index| Choice { index, ..Choice::default() }).collect();
        let head = Head::new("cmpl", "text_completion", &self.model, revision);
        CompletionWriter { asked: self.clone(), head, tokenizer, choices, usage: UsageReply::default() }
    }
}

fn check(ids: &[u32], info: &GeneratorInfo, max_tokens: Option<usize>) -> Result<(), String> {
    if ids.is_empty() {
        return Err("the prompt has no tokens".to_owned());
    }
    check_length(info, ids.len(), max_tokens)
}

fn prompts(fields: &Fields<'_>, config: &Config) -> Result<Vec<Prompt>, Mistake> {
    let value = fields.required("prompt")?;
    let path = |at: usize| format!("{}[{at}]", fields.path_of("prompt"));
    let several = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(items) if items.is_empty() => return Err(fields.mistake("prompt", "there is no prompt in the array")),
        Value::Array(items) if items[0].is_number() => return Ok(vec![Prompt::Ids(ids(items, &path)?)]),
        Value::Array(items) => items,
        other => return Err(fields.mistake("prompt", unexpected("a string or an array", other))),
    };
    if several.len() > config.choices_max {
        return Err(fields.mistake("prompt", format!("at most {} prompts are taken, found {}", config.choices_max, several.len())));
    }
    let prompt = |(at, item): (usize, &Value)| match item {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(items) => ids(items, &|inner| format!("{}[{inner}]", path(at))).map(Prompt::Ids),
        other => Err(Mistake::new(path(at), unexpected("a string or an array of token ids", other))),
    };
    several.iter().enumerate().map(prompt).collect()
}

fn ids(items: &[Value], path: &dyn Fn(usize) -> String) -> Result<Vec<u32>, Mistake> {
    items.iter().enumerate().map(|(at, item)| token_id(item, &path(at))).collect()
}

/// What OpenAI has and nobody here does, said instead of passed over.
fn not_served(fields: &Fields<'_>, choices: usize) -> Result<(), Mistake> {
    if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(fields.mistake("suffix", "text is written at the end of the prompt only"));
    }
    match fields.count("best_of", 0..=usize::MAX >> 1)? {
        Some(best_of) if best_of > choices.max(1) => Err(fields.mistake("best_of", "all answers are given: ask for them with `n`")),
        _ => Ok(()),
    }
}

/// Writes completions.
#[derive(Debug)]
pub(super) struct CompletionWriter {
    asked: Completions,
    head: Head,
    tokenizer: Arc<TextTokenizer>,
    choices: Vec<Choice>,
    usage: UsageReply,
}

#[derive(Debug, Default)]
struct Choice {
    index: usize,
    text: String,
    logprobs: CompletionLogprobs,
    /// Characters before the next token.
    offset: usize,
    tokens: usize,
    end: End,
}

#[derive(Debug, Serialize)]
struct ChoiceReply {
    index: usize,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<CompletionLogprobs>,
    #[serde(flatten)]
    end: End,
}

impl CompletionWriter {
    fn choice(&mut self, prompt: usize, choice: usize) -> &mut Choice {
        let at = prompt * self.asked.options.choices + choice;
        &mut self.choices[at]
    }

    /// Takes an event in; which choices have something new.
    fn put(&mut self, prompt: usize, event: Event) -> Vec<usize> {
        let first = prompt * self.asked.options.choices;
        match event {
            Event::Prompt { tokens, cached, logprobs } => {
                self.usage.prompt(tokens, cached);
                if !self.asked.echo {
                    return Vec::new();
                }
                let choices = first..first + self.asked.options.choices;
                choices.clone().for_each(|at| self.echo(prompt, at, tokens, &logprobs));
                choices.collect()
            }
            Event::Token(token) => {
                let tokenizer = Arc::clone(&self.tokenizer);
                self.usage.answer(1);
                let choice = self.choice(prompt, token.choice);
                choice.tokens += 1;
                choice.text.push_str(&token.text);
                if let Some(logprobs) = &token.logprobs {
                    choice.offset += choice.logprobs.push(&tokenizer, token.id, Some(logprobs), choice.offset);
                }
                vec![first + token.choice]
            }
            Event::Finished(finished) => {
                let choice = self.choice(prompt, finished.choice);
                choice.text.push_str(&finished.text);
                choice.end = End::of(&finished.reason);
                // The token that ended it was not told of.
                let more = finished.usage.completion_tokens.saturating_sub(choice.tokens);
                self.usage.answer(more);
                vec![first + finished.choice]
            }
        }
    }

    /// Puts the prompt in front of an answer, as far as it was read.
    fn echo(&mut self, prompt: usize, at: usize, read: usize, logprobs: &[Logprobs]) {
        let options = &self.asked.options;
        let (text, ids) = match &self.asked.prompts[prompt] {
            Prompt::Text(text) => {
                let special = options.add_special_tokens.unwrap_or(true);
                let (ids, place) = self.tokenizer.encode_with_place(text, special).unwrap_or_default();
                let kept = options.shortened(ids.clone(), place, read);
                (if kept.len() < ids.len() { self.tokenizer.decode(&kept, true) } else { text.clone() }, kept)
            }
            Prompt::Ids(ids) => {
                let kept = options.shortened(ids.clone(), 0..ids.len(), read);
                (self.tokenizer.decode(&kept, false), kept)
            }
        };
        let choice = &mut self.choices[at];
        choice.text.push_str(&text);
        if self.asked.options.logprobs.is_none() {
            return;
        }
        // Nothing comes before the first token, so nobody knows how likely it was.
        let known = std::iter::once(None).chain(logprobs.iter().map(Some)).chain(std::iter::repeat(None));
        for (id, logprobs) in ids.into_iter().zip(known) {
            choice.offset += choice.logprobs.push(&self.tokenizer, id, logprobs, choice.offset);
        }
    }

    fn reply(&mut self, at: usize) -> ChoiceReply {
        let choice = &mut self.choices[at];
        let logprobs = self.asked.options.logprobs.map(|_| mem::take(&mut choice.logprobs));
        ChoiceReply { index: choice.index, text: mem::take(&mut choice.text), logprobs, end: choice.end.clone() }
    }

    /// Whether there is anything to tell of a choice now.
    fn has_news(&self, at: usize) -> bool {
        let choice = &self.choices[at];
        !choice.text.is_empty() || !choice.logprobs.is_empty() || choice.end.finish_reason.is_some()
    }
}

impl Writer for CompletionWriter {
    fn messages(&mut self, prompt: usize, event: Event) -> Vec<Bytes> {
        let touched = self.put(prompt, event);
        let told: Vec<usize> = touched.into_iter().filter(|&at| self.has_news(at)).collect();
        let message = |at| {
            let choices = vec![self.reply(at)];
            let usage = self.asked.options.continuous_usage.then_some(self.usage);
            sse::message(&Reply { head: &self.head, choices, usage })
        };
        told.into_iter().map(message).collect()
    }

    fn last(&mut self) -> Vec<Bytes> {
        let usage = Reply::<ChoiceReply> { head: &self.head, choices: Vec::new(), usage: Some(self.usage) };
        let usage = self.asked.options.include_usage.then(|| sse::message(&usage));
        usage.into_iter().chain([sse::DONE]).collect()
    }

    fn failed(&self, refusal: &Refusal) -> Vec<Bytes> {
        vec![sse::message(&Problem::from(refusal.clone()).envelope()), sse::DONE]
    }

    fn take(&mut self, prompt: usize, event: Event) {
        self.put(prompt, event);
    }

    fn whole(&mut self) -> Value {
        let choices = (0..self.choices.len()).map(|at| self.reply(at)).collect();
        serde_json::to_value(Reply { head: &self.head, choices, usage: Some(self.usage) }).unwrap_or_default()
    }
}
