//! A conversation with a model in the terminal: lines in, an answer that grows out.
//!
//! At a terminal lines can be edited and Ctrl-C stops the answer; with a pipe the whole input is one question.

mod stream;

use super::client::Client;
use anyhow::Context;
use clap::Args;
use reqwest::Method;
use reqwest::header::HOST;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Map, Value, json};
use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use stream::Messages;

/// Lines that can be brought back with the arrow keys.
const HISTORY_MAX: usize = 1000;

const HELP: &str = "\
/system TEXT      say who the model is; the conversation begins anew
/set NAME VALUE   a setting of each answer, e.g. `/set temperature 0.2`; without VALUE as the model has it
/clear            forget what was said
/help             this
/bye              end; so does Ctrl-D
\"\"\"               begins and ends a message of several lines
Ctrl-C stops the answer.";

/// How answers are asked for.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Style {
    /// One question: print the answer and end
    #[arg(short, long, value_name = "TEXT")]
    pub(super) prompt: Option<String>,
    /// Who the model is
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A setting of each answer, e.g. --option temperature=0.2; may be repeated
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = option)]
    options: Vec<(String, Value)>,
}

fn option(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected `NAME=VALUE`")?;
    Ok((name.to_owned(), value_of(value)))
}

/// JSON, or else a text.
fn value_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

/// A model, how it is reached, and what was said.
#[derive(Debug)]
pub(super) struct Talk {
    client: Client,
    host: String,
    model: String,
    system: Option<String>,
    said: Vec<Value>,
    options: Map<String, Value>,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Whole,
    Stopped,
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Say(&'a str),
    System(&'a str),
    Set(&'a str, &'a str),
    Clear,
    Help,
    Bye,
    Nothing,
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Self::Nothing } else { Self::Say(line) };
        };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "help" | "?" => Self::Help,
            "bye" | "exit" | "quit" => Self::Bye,
            "clear" => Self::Clear,
            "system" => Self::System(rest),
            "set" if !rest.is_empty() => {
                let (key, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                Self::Set(key, value.trim())
            }
            _ => Self::Unknown(name),
        }
    }
}

impl Talk {
    /// A conversation with a model of the service that answers at `host`.
    pub(super) fn new(client: Client, host: String, model: String, style: &Style) -> Self {
        let options = style.options.iter().cloned().collect();
        Self { client, host, model, system: style.system.clone(), said: Vec::new(), options }
    }

    /// Talks until the end of the input.
    pub(super) async fn run(mut self, style: &Style, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        if let Some(prompt) = &style.prompt {
            return self.once(prompt, out).await;
        }
        if std::io::stdin().is_terminal() {
            return self.at_a_terminal(out).await;
        }
        let mut prompt = String::new();
        std::io::stdin().read_to_string(&mut prompt).context("cannot read stdin")?;
        self.once(prompt.trim(), out).await
    }

    async fn once(&mut self, prompt: &str, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        anyhow::ensure!(!prompt.is_empty(), "there is no question\nhint: `--prompt TEXT`, or text on stdin");
        let ended = self.say(prompt, out).await?;
        Ok(if ended == Ended::Whole { ExitCode::SUCCESS } else { ExitCode::from(130) })
    }

    async fn at_a_terminal(&mut self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let settings = rustyline::Config::builder().max_history_size(HISTORY_MAX)?.auto_add_history(true).build();
        let mut editor = DefaultEditor::with_config(settings)?;
        writeln!(out, "Talking to `{}`; /help says what else there is.", self.model)?;
        loop {
            let line = match message(&mut editor) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => {
                    writeln!(out, "/bye or Ctrl-D ends")?;
                    continue;
                }
                Err(ReadlineError::Eof) => return Ok(ExitCode::SUCCESS),
                Err(error) => return Err(error.into()),
            };
            if !self.obey(&line, out).await? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    /// Does what a line asks for; false at the end.
    async fn obey(&mut self, line: &str, out: &mut impl Write) -> anyhow::Result<bool> {
        match Line::read(line) {
            Line::Bye => return Ok(false),
            Line::Nothing => {}
            Line::Help => writeln!(out, "{HELP}")?,
            Line::Unknown(name) => writeln!(out, "no such command: `/{name}`\nhint: /help lists them")?,
            Line::Clear => self.said.clear(),
            Line::System(text) => {
                self.said.clear();
                self.system = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
            Line::Set(name, "") => drop(self.options.shift_remove(name)),
            Line::Set(name, value) => drop(self.options.insert(name.to_owned(), value_of(value))),
            Line::Say(text) => {
                // A mistake in a setting, or a model that sleeps too long, ends no conversation.
                if let Err(error) = self.say(text, out).await {
                    writeln!(out, "error: {error:#}")?;
                }
            }
        }
        Ok(true)
    }

    /// Asks, and writes the answer as it comes.
    async fn say(&mut self, text: &str, out: &mut impl Write) -> anyhow::Result<Ended> {
        self.said.push(json!({"role": "user", "content": text}));
        let mut answer = String::new();
        let ended = self.answer(&mut answer, out).await;
        match &ended {
            Ok(_) => self.said.push(json!({"role": "assistant", "content": answer})),
            Err(_) => drop(self.said.pop()),
        }
        ended
    }

    async fn answer(&self, answer: &mut String, out: &mut impl Write) -> anyhow::Result<Ended> {
        let mut body = self.options.clone();
        let system = self.system.iter().map(|system| json!({"role": "system", "content": system}));
        let messages: Vec<Value> = system.chain(self.said.iter().cloned()).collect();
        body.extend([
            ("model".to_owned(), json!(self.model)),
            ("messages".to_owned(), messages.into()),
            ("stream".to_owned(), json!(true)),
        ]);
        let request = self.client.request(Method::POST, "/v1/chat/completions").header(HOST, &self.host).json(&body);
        let work = async {
            let mut messages = Messages::new(self.client.send(request).await?);
            while let Some(message) = messages.next().await? {
                let piece = message.pointer("/choices/0/delta/content").and_then(Value::as_str).unwrap_or_default();
                out.write_all(piece.as_bytes())?;
                out.flush()?;
                answer.push_str(piece);
            }
            anyhow::Ok(())
        };
        let ended = tokio::select! {
            done = work => done.map(|()| Ended::Whole),
            _ = tokio::signal::ctrl_c() => Ok(Ended::Stopped),
        };
        writeln!(out)?;
        ended
    }
}

/// A line, or the lines between two `"""`.
fn message(editor: &mut DefaultEditor) -> rustyline::Result<String> {
    let line = editor.readline(">>> ")?;
    let Some(first) = line.trim_start().strip_prefix("\"\"\"") else { return Ok(line) };
    let mut lines = first.to_owned();
    while !lines.trim_end().ends_with("\"\"\"") {
        lines.push('\n');
        lines.push_str(&editor.readline("... ")?);
    }
    Ok(lines.trim_end().trim_end_matches("\"\"\"").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_message_or_a_command() {
        for (line, read) in [
            ("  hi there ", Line::Say("hi there")),
            ("", Line::Nothing),
            ("/system  Be brief. ", Line::System("Be brief.")),
            ("/set temperature 0.2", Line::Set("temperature", "0.2")),
            ("/set stop", Line::Set("stop", "")),
            ("/set", Line::Unknown("set")),
            ("/clear", Line::Clear),
            ("/?", Line::Help),
            ("/quit", Line::Bye),
            ("/foo bar", Line::Unknown("foo")),
        ] {
            assert_eq!(Line::read(line), read, "{line}");
        }
    }

    #[test]
    fn a_setting_is_json_or_a_text() {
        assert_eq!(option("temperature=0.5").unwrap(), ("temperature".to_owned(), json!(0.5)));
        assert_eq!(option("stop=[\"a\"]").unwrap().1, json!(["a"]));
        assert_eq!(option("user=me=you").unwrap().1, json!("me=you"));
        assert!(option("temperature").is_err());
    }
}
