//! `/v1/chat/completions`: a conversation continued.

use super::Config;
use super::answer::Writer;
use super::error::Problem;
use super::messages::messages;
use super::options::{Options, Terms};
use super::reply::{ChatLogprobs, ChatToken, End, Head, Reply, UsageReply};
use super::templates::{Templates, refused};
use crate::codec::chat::Conversation;
use crate::codec::fields::{Fields, Mistake};
use crate::engine::generation::{Event, GenerateRequest, Generator, TextTokenizer};
use crate::protocol::generating::check_length;
use crate::protocol::sse;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use std::mem;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A request for a chat completion.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chat {
    pub(super) model: String,
    pub(super) options: Options,
    messages: Vec<Value>,
    /// The name of a template, or one itself.
    template: Option<String>,
    template_values: Map<String, Value>,
    /// Whether an answer begins, or the last message goes on.
    begin_answer: bool,
    echo: bool,
}

impl Chat {
    pub(super) fn read(body: &Value, config: &Config) -> Result<Self, Mistake> {
        let fields = Fields::of(body, "")?;
        let model = fields.required_text("model")?.to_owned();
        let messages = messages(&fields, config.messages_max)?;
        let mut options = Options::read(&fields, config)?;
        let newer = fields.count("max_completion_tokens", 0..=usize::MAX >> 1)?;
        options.max_tokens = newer.or(fields.count("max_tokens", 0..=usize::MAX >> 1)?);
        let top = fields.count("top_logprobs", 0..=config.logprobs_max)?;
        let wanted = fields.flag("logprobs")?.unwrap_or(false);
        if top.is_some_and(|top| top > 0) && !wanted {
            return Err(fields.mistake("top_logprobs", "set `logprobs` to true as well"));
        }
        options.logprobs = wanted.then(|| top.unwrap_or(0));
        let goes_on = fields.flag("continue_final_message")?.unwrap_or(false);
        let begin_answer = fields.flag("add_generation_prompt")?.unwrap_or(!goes_on);
        if goes_on && begin_answer {
            return Err(fields.mistake("continue_final_message", "an answer cannot begin (`add_generation_prompt`) and go on at once"));
        }
        let template_values = fields.object("chat_template_kwargs")?.and(fields.get("chat_template_kwargs").and_then(Value::as_object));
        Ok(Self {
            model,
            options,
            messages,
            template: fields.text("chat_template")?.map(str::to_owned),
            template_values: template_values.cloned().unwrap_or_default(),
            begin_answer,
            echo: fields.flag("echo")?.unwrap_or(false),
        })
    }

    /// Bytes of all messages, for what their reading costs.
    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().filter_map(|message| message["content"].as_str()).map(str::len).sum()
    }

    /// The one request.
    pub(super) fn requests(
        &self,
        generator: &dyn Generator,
        terms: Terms,
        templates: &Templates,
        config: &Config,
    ) -> Result<Vec<GenerateRequest>, Problem> {
        let prompt = self.prompt(generator, templates, config)?;
        // Templates write the special tokens themselves.
        let ids = generator.tokenizer().encode(&prompt, self.options.add_special_tokens.unwrap_or(false));
        let ids = ids.map_err(|error| Problem::in_field("messages", error.to_string()))?;
        if ids.is_empty() {
            return Err(Problem::in_field("messages", "the chat template makes no prompt of these messages"));
        }
        check_length(generator.info(), ids.len(), self.options.max_tokens).map_err(|sentence| Problem::in_field("messages", sentence))?;
        Ok(vec![self.options.request(ids, generator, terms)?])
    }

    fn prompt(&self, generator: &dyn Generator, templates: &Templates, config: &Config) -> Result<String, Problem> {
        let info = generator.info();
        let template = templates.get(info, self.template.as_deref(), false, config)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let conversation = Conversation {
            messages: &self.messages,
            tools: &[],
            add_generation_prompt: self.begin_answer,
            bos_token: info.bos_token.as_deref().unwrap_or_default(),
            eos_token: info.eos_token.as_deref().unwrap_or_default(),
            more: self.template_values.clone(),
            now_unix_s: i64::try_from(now).unwrap_or_default(),
        };
        let prompt = template.render(&conversation).map_err(|error| refused(&error))?;
        if self.begin_answer || self.messages.last().is_none_or(|last| last["role"] != "assistant") {
            return Ok(prompt);
        }
        self.up_to_the_last_word(prompt)
    }

    /// The prompt without what the template puts behind the last message, so that it goes on.
    fn up_to_the_last_word(&self, mut prompt: String) -> Result<String, Problem> {
        let last = self.messages.last().and_then(|last| last["content"].as_str()).unwrap_or_default().trim();
        match prompt.rfind(last) {
            Some(at) if !last.is_empty() => {
                prompt.truncate(at + last.len());
                Ok(prompt)
            }
            _ => Err(Problem::in_field("continue_final_message", "the chat template does not show the last message as it is")),
        }
    }

    /// What writes the answer.
    pub(super) fn writer(&self, revision: &str, tokenizer: Arc<TextTokenizer>, stream: bool) -> ChatWriter {
        let object = if stream { "chat.completion.chunk" } else { "chat.completion" };
        let head = Head::new("chatcmpl", object, &self.model, revision);
        let choices = (0..self.options.choices).map(|_| Choice::default()).collect();
        let echoed = self.messages.last().filter(|_| self.echo).and_then(|last| last["content"].as_str());
        let echoed = echoed.unwrap_or_default().to_owned();
        ChatWriter { options: self.options.clone(), echoed, head, tokenizer, choices, usage: UsageReply::default() }
    }
}

/// Writes chat completions.
#[derive(Debug)]
pub(super) struct ChatWriter {
    options: Options,
    /// The last message, where the answer is to begin with it.
    echoed: String,
    head: Head,
    tokenizer: Arc<TextTokenizer>,
    choices: Vec<Choice>,
    usage: UsageReply,
}

#[derive(Debug, Default)]
struct Choice {
    text: String,
    logprobs: Vec<ChatToken>,
    tokens: usize,
    end: End,
}

#[derive(Debug, Serialize)]
struct ChoiceReply {
    index: usize,
    message: Message,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<ChatLogprobs>,
    #[serde(flatten)]
    end: End,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
}

#[derive(Debug, Serialize)]
struct ChoiceChunk {
    index: usize,
    delta: Delta,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<ChatLogprobs>,
    #[serde(flatten)]
    end: End,
}

#[derive(Debug, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl ChatWriter {
    /// Takes an event in; which choice has something new.
    fn put(&mut self, event: Event) -> Option<usize> {
        match event {
            Event::Prompt { tokens, cached, .. } => {
                self.usage.prompt(tokens, cached);
                self.choices.iter_mut().for_each(|choice| choice.text.push_str(&self.echoed));
                None
            }
            Event::Token(token) => {
                self.usage.answer(1);
                let choice = &mut self.choices[token.choice];
                choice.tokens += 1;
                choice.text.push_str(&token.text);
                choice.logprobs.extend(token.logprobs.iter().map(|logprobs| ChatToken::of(&self.tokenizer, logprobs)));
                Some(token.choice)
            }
            Event::Finished(finished) => {
                let choice = &mut self.choices[finished.choice];
                choice.text.push_str(&finished.text);
                choice.end = End::of(&finished.reason);
                // The token that ended it was not told of.
                self.usage.answer(finished.usage.completion_tokens.saturating_sub(choice.tokens));
                Some(finished.choice)
            }
        }
    }

    fn logprobs(&mut self, index: usize) -> Option<ChatLogprobs> {
        let content = mem::take(&mut self.choices[index].logprobs);
        self.options.logprobs.map(|_| ChatLogprobs { content })
    }

    fn message(&self, choices: Vec<ChoiceChunk>) -> Bytes {
        sse::message(&Reply { head: &self.head, choices, usage: self.options.continuous_usage.then_some(self.usage) })
    }

    /// The first message of each choice, as OpenAI begins.
    fn first(&mut self) -> Vec<Bytes> {
        let choices = 0..self.choices.len();
        let begin = |index: usize| {
            let content = Some(mem::take(&mut self.choices[index].text));
            let delta = Delta { role: Some("assistant"), content };
            self.message(vec![ChoiceChunk { index, delta, logprobs: None, end: End::default() }])
        };
        choices.map(begin).collect()
    }

    /// What is new of a choice: its text, and its end in a message of its own.
    fn news(&mut self, index: usize) -> Vec<Bytes> {
        let mut messages = Vec::new();
        let logprobs = self.logprobs(index).filter(|logprobs| !logprobs.content.is_empty());
        let text = mem::take(&mut self.choices[index].text);
        if !text.is_empty() || logprobs.is_some() {
            let delta = Delta { role: None, content: Some(text) };
            messages.push(self.message(vec![ChoiceChunk { index, delta, logprobs, end: End::default() }]));
        }
        let end = mem::take(&mut self.choices[index].end);
        if end.finish_reason.is_some() {
            messages.push(self.message(vec![ChoiceChunk { index, delta: Delta::default(), logprobs: None, end }]));
        }
        messages
    }

    fn reply(&mut self, index: usize) -> ChoiceReply {
        let logprobs = self.logprobs(index);
        let choice = &mut self.choices[index];
        let message = Message { role: "assistant", content: Some(mem::take(&mut choice.text)) };
        ChoiceReply { index, message, logprobs, end: mem::take(&mut choice.end) }
    }
}

impl Writer for ChatWriter {
    fn messages(&mut self, _: usize, event: Event) -> Vec<Bytes> {
        let begins = matches!(event, Event::Prompt { .. });
        match self.put(event) {
            _ if begins => self.first(),
            Some(index) => self.news(index),
            None => Vec::new(),
        }
    }

    fn last(&mut self) -> Option<Bytes> {
        let usage = Some(self.usage);
        self.options.include_usage.then(|| sse::message(&Reply::<ChoiceChunk> { head: &self.head, choices: Vec::new(), usage }))
    }

    fn take(&mut self, _: usize, event: Event) {
        self.put(event);
    }

    fn whole(&mut self) -> Value {
        let choices = (0..self.options.choices).map(|index| self.reply(index)).collect();
        serde_json::to_value(Reply { head: &self.head, choices, usage: Some(self.usage) }).unwrap_or_default()
    }
}
