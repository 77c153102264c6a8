//! `/v1/chat/completions`: a conversation continued.

use super::CHAT_API;
use super::Config;
use super::error::Problem;
use super::form::Form;
use super::messages::messages;
use super::options::{Options, Terms};
use super::reply::{ChatLogprobs, ChatToken, End, Head, Reply, UsageReply};
use super::templates::refused;
use super::texts::now_s;
use super::tools::Tools;
use crate::codec::chat::Conversation;
use crate::codec::chat::tools::{Part, ToolFormat, ToolReader, without_tools};
use crate::codec::fields::{Fields, Mistake};
use crate::engine::generation::{Event, GenerateRequest, Generator, TextTokenizer};
use crate::protocol::error::Refusal;
use crate::protocol::generating::check_length;
use crate::protocol::sse;
use crate::protocol::writing::Writer;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

/// A request for a chat completion.
#[derive(Debug)]
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
    tools: Tools,
    /// How the model that answers writes calls; known once its template is.
    format: Mutex<Option<ToolFormat>>,
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
        let tools = Tools::read(&fields, config)?;
        if let Some(constraint) = tools.constraint() {
            if options.form.is_some() {
                return Err(fields.mistake("tool_choice", "an answer that must be a call has no other form"));
            }
            options.form = Some(Form::of("tools", constraint));
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
            tools,
            format: Mutex::default(),
        })
    }

    /// Bytes of all messages, for what their reading costs.
    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().filter_map(|message| message["content"].as_str()).map(str::len).sum()
    }

    /// The one request.
    pub(super) fn requests(&self, generator: &dyn Generator, terms: &Terms) -> Result<Vec<GenerateRequest>, Problem> {
        if generator.info().encoder_decoder {
            return Err(Problem::bad_request(format!("Model {} does not support {}", self.model, CHAT_API)));
        }
        let prompt = self.prompt(generator, terms)?;
        // Templates write the special tokens themselves.
        let ids = generator.tokenizer().encode_with_place(&prompt, self.options.add_special_tokens.unwrap_or(false));
        let (ids, text) = ids.map_err(|error| Problem::in_field("messages", error.to_string()))?;
        let ids = self.options.cut(ids, text, generator.info())?;
        if ids.is_empty() {
            return Err(Problem::in_field("messages", "the chat template makes no prompt of these messages"));
        }
        check_length(generator.info(), ids.len(), self.options.max_tokens).map_err(|sentence| Problem::in_field("messages", sentence))?;
        let mut request = self.options.request(ids, generator, terms)?;
        // The marks of calls must be seen.
        request.skip_special_tokens &= !self.format().is_some_and(ToolFormat::has_special_tokens);
        Ok(vec![request])
    }

    fn format(&self) -> Option<ToolFormat> {
        *self.format.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prompt(&self, generator: &dyn Generator, terms: &Terms) -> Result<String, Problem> {
        let (info, offered) = (generator.info(), self.tools.offered());
        let template = terms.door.templates.get(info, self.template.as_deref(), !offered.is_empty(), &terms.door.config.openai)?;
        *self.format.lock().unwrap_or_else(PoisonError::into_inner) = self.tools.format(template.source());
        let plain = (!offered.is_empty() && !template.knows_tools()).then(|| without_tools(&self.messages, offered));
        let now = now_s();
        let conversation = Conversation {
            messages: plain.as_deref().unwrap_or(&self.messages),
            tools: if plain.is_some() { &[] } else { offered },
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
        let format = self.format();
        let choice = |_| Choice { reader: format.map(ToolReader::new), ..Choice::default() };
        let choices = (0..self.options.choices).map(choice).collect();
        let echoed = self.messages.last().filter(|_| self.echo).and_then(|last| last["content"].as_str());
        let echoed = echoed.unwrap_or_default().to_owned();
        let tools = CallStyle { format, is_named: self.tools.is_named() };
        ChatWriter { options: self.options.clone(), tools, echoed, head, tokenizer, choices, usage: UsageReply::default() }
    }
}

/// Writes chat completions.
#[derive(Debug)]
pub(super) struct ChatWriter {
    options: Options,
    tools: CallStyle,
    /// The last message, where the answer is to begin with it.
    echoed: String,
    head: Head,
    tokenizer: Arc<TextTokenizer>,
    choices: Vec<Choice>,
    usage: UsageReply,
}

/// How calls are written, and whether one of them was demanded.
#[derive(Debug, Clone, Copy)]
struct CallStyle {
    format: Option<ToolFormat>,
    is_named: bool,
}

#[derive(Debug, Default)]
struct Choice {
    text: String,
    /// Parts what is said from what is called, where there are tools.
    reader: Option<ToolReader>,
    calls: Vec<Call>,
    /// What is new of calls.
    deltas: Vec<CallDelta>,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

#[derive(Debug, Clone, Serialize)]
struct Call {
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Debug, Clone, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

/// More of a call: its beginning, or more of its arguments.
#[derive(Debug, Serialize)]
struct CallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Debug, Serialize)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

/// Mistral's templates take ids of nine letters and digits only.
fn call_id(format: Option<ToolFormat>) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    if format == Some(ToolFormat::Mistral) { id[..9].to_owned() } else { format!("call_{}", &id[..24]) }
}

impl Choice {
    /// Takes a text in: what is said of it, and what is called.
    fn say(&mut self, text: &str, is_last: bool, style: CallStyle) {
        let Some(reader) = &mut self.reader else { return self.text.push_str(text) };
        let mut parts = reader.push(text);
        if is_last {
            parts.extend(reader.finish());
        }
        for part in parts {
            self.part(part, style);
        }
    }

    fn part(&mut self, part: Part, style: CallStyle) {
        match part {
            Part::Text(text) => self.text.push_str(&text),
            Part::Call { index, name } => {
                let id = call_id(style.format);
                let function = FunctionDelta { name: Some(name.clone()), arguments: String::new() };
                self.deltas.push(CallDelta { index, id: Some(id.clone()), r#type: Some("function"), function });
                self.calls.push(Call { id, r#type: "function", function: Function { name, arguments: String::new() } });
            }
            Part::Arguments { index, text } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.function.arguments.push_str(&text);
                }
                let function = FunctionDelta { name: None, arguments: text };
                self.deltas.push(CallDelta { index, id: None, r#type: None, function });
            }
        }
    }

    /// An answer that calls ended with that, unless the call was the one thing asked for.
    fn ended(&mut self, end: End, style: CallStyle) {
        self.end = end;
        if !self.calls.is_empty() && !style.is_named && self.end.finish_reason == Some("stop") {
            self.end.finish_reason = Some("tool_calls");
        }
    }
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallDelta>,
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
                choice.say(&token.text, false, self.tools);
                choice.logprobs.extend(token.logprobs.iter().map(|logprobs| ChatToken::of(&self.tokenizer, logprobs)));
                Some(token.choice)
            }
            Event::Finished(finished) => {
                let choice = &mut self.choices[finished.choice];
                choice.say(&finished.text, true, self.tools);
                choice.ended(End::of(&finished.reason), self.tools);
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
            let delta = Delta { role: Some("assistant"), content, tool_calls: Vec::new() };
            self.message(vec![ChoiceChunk { index, delta, logprobs: None, end: End::default() }])
        };
        choices.map(begin).collect()
    }

    /// What is new of a choice: its text, and its end in a message of its own.
    fn news(&mut self, index: usize) -> Vec<Bytes> {
        let mut messages = Vec::new();
        let logprobs = self.logprobs(index).filter(|logprobs| !logprobs.content.is_empty());
        let text = mem::take(&mut self.choices[index].text);
        let tool_calls = mem::take(&mut self.choices[index].deltas);
        if !text.is_empty() || !tool_calls.is_empty() || logprobs.is_some() {
            let content = Some(text).filter(|text| !text.is_empty() || tool_calls.is_empty());
            let delta = Delta { role: None, content, tool_calls };
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
        let (text, tool_calls) = (mem::take(&mut choice.text), mem::take(&mut choice.calls));
        let content = Some(text).filter(|text| !text.is_empty() || tool_calls.is_empty());
        let message = Message { role: "assistant", content, tool_calls };
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

    fn last(&mut self) -> Vec<Bytes> {
        let usage = Reply::<ChoiceChunk> { head: &self.head, choices: Vec::new(), usage: Some(self.usage) };
        let usage = self.options.include_usage.then(|| sse::message(&usage));
        usage.into_iter().chain([sse::DONE]).collect()
    }

    fn failed(&self, refusal: &Refusal) -> Vec<Bytes> {
        vec![sse::message(&Problem::from(refusal.clone()).envelope()), sse::DONE]
    }

    fn take(&mut self, _: usize, event: Event) {
        self.put(event);
    }

    fn whole(&mut self) -> Value {
        let choices = (0..self.options.choices).map(|index| self.reply(index)).collect();
        serde_json::to_value(Reply { head: &self.head, choices, usage: Some(self.usage) }).unwrap_or_default()
    }
}
