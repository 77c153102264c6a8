//! A model's chat template: messages to the prompt that the model was trained on.
//!
//! Templates are Jinja as the `transformers` library runs it. They come with the model, so they are run with bounds: so
//! many instructions, so many bytes of prompt, no recursion to speak of, and nothing but the values that they are given.

use super::python;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde_json::Value as Json;
use std::io;

/// Calls within calls: macros that call macros.
const RECURSION_MAX: usize = 32;

/// What the tags mean that only training looks at.
const TRAINING_TAGS: [&str; 2] = ["generation", "endgeneration"];

/// What a template may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateLimits {
    /// Instructions of one run.
    pub instructions_max: u64,
    /// Bytes of the template, and of the prompt it makes.
    pub bytes_max: usize,
}

/// Why there is no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template itself is at fault.
    #[error("the model's chat template is broken: {0}")]
    Broken(String),
    /// The template refuses the messages, by `raise_exception`.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// The template took more than it may.
    #[error("the model's chat template took too much: {0}")]
    TooMuch(String),
}

/// A template, read and ready to run.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bytes_max: usize,
}

/// What a template is run on.
#[derive(Debug, Clone, Default)]
pub struct Conversation<'a> {
    /// The messages, each an object with `role` and `content`.
    pub messages: &'a [Json],
    /// The tools that the model may call, as OpenAI writes them.
    pub tools: &'a [Json],
    /// Whether the prompt ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Texts of special tokens.
    pub bos_token: &'a str,
    /// The same of the end.
    pub eos_token: &'a str,
    /// More values that this template knows, e.g. `enable_thinking`.
    pub more: serde_json::Map<String, Json>,
    /// Seconds since 1970, for templates that tell the date.
    pub now_unix_s: i64,
}

impl ChatTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// `Broken` with the line that cannot be read; `TooMuch` for a template above the bound.
    pub fn new(source: &str, limits: TemplateLimits) -> Result<Self, TemplateError> {
        if source.len() > limits.bytes_max {
            return Err(TemplateError::TooMuch(format!("it has {} bytes, and {} are read", source.len(), limits.bytes_max)));
        }
        let source = without_training_tags(source);
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(limits.instructions_max));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| Ok(out.write_str(&python::text_of(value))?));
        environment.add_filter("tojson", python::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_template_owned("chat", source.clone()).map_err(|error| TemplateError::Broken(sentence(&error)))?;
        Ok(Self { environment, source, bytes_max: limits.bytes_max })
    }

    /// Whether the template has a place for tools.
    #[must_use]
    pub fn knows_tools(&self) -> bool {
        self.source.contains("tools")
    }

    /// The template's own text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes the prompt.
    ///
    /// # Errors
    /// `Refused` where the template raises an exception; `TooMuch`, `Broken`.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, TemplateError> {
        let template = self.environment.get_template("chat").map_err(|error| TemplateError::Broken(sentence(&error)))?;
        let Conversation { messages, tools, add_generation_prompt, bos_token, eos_token, more, now_unix_s } = conversation;
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from_serialize(tools) };
        let now = *now_unix_s;
        let own = context! {
            messages => Value::from_serialize(messages), tools, add_generation_prompt, bos_token, eos_token,
            documents => Value::from(()),
            strftime_now => Value::from_function(move |format: String| python::strftime(&format, now)),
        };
        let all = context! { ..own, ..Value::from_serialize(more) };
        let mut out = Bounded { bytes: Vec::new(), max: self.bytes_max };
        match template.render_captured_to(all, &mut out) {
            Ok(_) => Ok(String::from_utf8_lossy(&out.bytes).into_owned()),
            Err(error) => Err(why(&error)),
        }
    }
}

/// A prompt that takes no more than its bound.
struct Bounded {
    bytes: Vec<u8>,
    max: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("the prompt has more than {} bytes", self.max)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The mark by which an exception of the template's own is told from a mistake in it.
const RAISED: &str = "raised: ";

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

fn why(error: &Error) -> TemplateError {
    let source = std::error::Error::source(error).map(ToString::to_string);
    match (error.kind(), error.detail().and_then(|detail| detail.strip_prefix(RAISED)), source) {
        (_, Some(raised), _) => TemplateError::Refused(raised.to_owned()),
        (ErrorKind::OutOfFuel, _, _) => TemplateError::TooMuch("it runs for too long".to_owned()),
        (ErrorKind::WriteFailure, _, Some(source)) => TemplateError::TooMuch(source),
        _ => TemplateError::Broken(sentence(error)),
    }
}

fn sentence(error: &Error) -> String {
    match error.line() {
        Some(line) => format!("line {line}: {}", error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)),
        None => error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
    }
}

/// The template without the tags that mark what a model is trained on.
fn without_training_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|end| start + end + 2) else { break };
        let inside = rest[start + 2..end - 2].trim_matches(['-', '+', ' ', '\n', '\t']);
        if TRAINING_TAGS.contains(&inside) {
            // A comment keeps the blanks around it as the tag did.
            out.push_str(&rest[..start]);
            out.push_str(&rest[start..end].replacen("{%", "{#", 1).replacen("%}", "#}", 1));
        } else {
            out.push_str(&rest[..end]);
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
