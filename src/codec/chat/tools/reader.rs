//! An answer's text as it comes, parted into what is said and what is called.

use super::ToolFormat;
use super::call::{CallScanner, News, Progress};
use super::pythonic::CallsScanner;
use std::mem;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Something said.
    Text(String),
    /// A call begins.
    Call {
        /// Which of the calls, from 0.
        index: usize,
        /// The tool's name.
        name: String,
    },
    /// More of the arguments of a call, as JSON text.
    Arguments {
        /// Which of the calls.
        index: usize,
        /// What is added.
        text: String,
    },
}

/// The mark that a tool's name follows.
const NAMING_MARK: &str = "<function=";

/// Parts an answer.
#[derive(Debug)]
pub struct ToolReader {
    format: ToolFormat,
    place: Place,
    /// Text that may be the beginning of a mark, or of a call; given back where it is none.
    held: String,
    calls: usize,
}

#[derive(Debug)]
enum Place {
    /// Nothing was said yet, and the format has calls there only.
    Beginning,
    /// Something is said.
    Saying,
    /// Behind a mark, or behind a call: another one may begin.
    Between {
        /// Whether the calls stand in a list.
        list: bool,
    },
    /// A call in JSON.
    Call(CallScanner, bool),
    /// A name without quotes, and then arguments.
    Name(String),
    /// Calls as Python writes them.
    Python(CallsScanner),
    /// Whatever follows is said.
    Plain,
}

impl ToolReader {
    /// A reader of one answer.
    #[must_use]
    pub const fn new(format: ToolFormat) -> Self {
        let place = match format {
            ToolFormat::Llama | ToolFormat::List => Place::Beginning,
            ToolFormat::Hermes | ToolFormat::Mistral | ToolFormat::Phi => Place::Saying,
        };
        Self { format, place, held: String::new(), calls: 0 }
    }

    /// How many calls there were so far.
    #[must_use]
    pub const fn calls(&self) -> usize {
        self.calls
    }

    /// Takes more of the text.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        for letter in text.chars() {
            self.letter(letter, &mut parts);
        }
        parts
    }

    /// What was held back; nothing follows.
    pub fn finish(&mut self) -> Vec<Part> {
        let begun = match &self.place {
            Place::Call(scanner, _) => scanner.has_begun(),
            Place::Python(scanner) => scanner.has_begun(),
            _ => false,
        };
        let between = matches!(&self.place, Place::Between { .. });
        let held = mem::take(&mut self.held);
        self.place = Place::Plain;
        let mut parts = Vec::new();
        // An answer may end before the mark that ends its last call.
        let is_mark = between && self.end_mark().starts_with(held.trim());
        let is_nothing = begun || (self.calls > 0 && (is_mark || held.trim().is_empty()));
        if !is_nothing {
            say(&held, &mut parts);
        }
        parts
    }

    /// What stands in front of calls.
    const fn marks(&self) -> &'static [&'static str] {
        match self.format {
            ToolFormat::Hermes => &["<tool_call>"],
            ToolFormat::Phi => &["<|tool_call|>"],
            ToolFormat::Mistral => &["[TOOL_CALLS]"],
            ToolFormat::Llama => &["<|python_tag|>", NAMING_MARK],
            ToolFormat::List => &[],
        }
    }

    /// What stands behind them.
    const fn end_mark(&self) -> &'static str {
        match self.format {
            ToolFormat::Hermes => "</tool_call>",
            ToolFormat::Phi => "<|/tool_call|>",
            ToolFormat::Llama => "</function>",
            ToolFormat::Mistral | ToolFormat::List => "",
        }
    }

    /// The place behind a mark.
    fn behind(mark: &str) -> Place {
        if mark == NAMING_MARK { Place::Name(String::new()) } else { Place::Between { list: false } }
    }

    fn letter(&mut self, letter: char, parts: &mut Vec<Part>) {
        self.held.push(letter);
        match mem::replace(&mut self.place, Place::Plain) {
            Place::Plain => self.give_back(Place::Plain, parts),
            Place::Saying => self.saying(parts),
            Place::Beginning => self.beginning(letter, parts),
            Place::Between { list } => self.between(letter, list, parts),
            Place::Name(name) => self.name(name, letter, parts),
            Place::Python(scanner) => self.python(scanner, letter, parts),
            Place::Call(scanner, list) => self.call(scanner, list, letter, parts),
        }
    }

    /// Looks for the mark of a call.
    fn saying(&mut self, parts: &mut Vec<Part>) {
        let mark = self.marks().iter().find(|mark| self.held.ends_with(**mark)).copied();
        let is_marked = mark.is_some();
        let begun = |mark: &&str| beginning_of(&self.held, mark);
        let certain = self.held.len() - mark.map_or_else(|| self.marks().iter().map(begun).max().unwrap_or(0), str::len);
        let only_blanks = self.held[..certain].trim().is_empty();
        // Blanks around calls are nothing said; whether they stand there shows later.
        if !only_blanks || (self.calls == 0 && !is_marked && certain == self.held.len() && !self.held.trim().is_empty()) {
            let rest = self.held.split_off(certain);
            say(&mem::replace(&mut self.held, rest), parts);
        }
        self.place = mark.map_or(Place::Saying, Self::behind);
    }

    /// A call, or an answer that is none.
    fn beginning(&mut self, letter: char, parts: &mut Vec<Part>) {
        let begun = self.held.trim_start();
        match begun {
            "" => self.place = Place::Beginning,
            "{" => self.call(CallScanner::default(), false, letter, parts),
            "[" if self.format == ToolFormat::List => self.place = Place::Between { list: true },
            "[" => self.place = Place::Python(CallsScanner::default()),
            _ => match self.marks().iter().find(|mark| mark.starts_with(begun)) {
                Some(mark) if *mark == begun => self.place = Self::behind(mark),
                Some(_) => self.place = Place::Beginning,
                None => self.give_back(self.said(), parts),
            },
        }
    }

    /// Another call, or the end of calls.
    fn between(&mut self, letter: char, list: bool, parts: &mut Vec<Part>) {
        let (marks, end) = (self.marks(), self.end_mark());
        let held = self.held.trim_start();
        let mark = marks.iter().find(|mark| held.starts_with(**mark));
        if mark.is_some_and(|mark| *mark == NAMING_MARK && held.len() == mark.len()) {
            self.place = Self::behind(NAMING_MARK);
            return;
        }
        let held = mark.and_then(|mark| held.strip_prefix(mark)).unwrap_or(held).trim_start();
        let held = if list { held.strip_prefix('[').unwrap_or(held).trim_start() } else { held };
        self.place = Place::Between { list };
        match letter {
            _ if held.is_empty() || letter.is_whitespace() => {}
            '{' if held == "{" => self.call(CallScanner::default(), list, letter, parts),
            '[' if held == "[" && self.format == ToolFormat::Llama => self.place = Place::Python(CallsScanner::default()),
            '[' if held == "[" && !list => self.place = Place::Between { list: true },
            ',' | ';' if self.calls > 0 && held.len() == 1 => self.held.clear(),
            ']' if list && held == "]" => self.ended(false),
            _ if !end.is_empty() && held == end => {
                self.held.clear();
                self.place = Place::Saying;
            }
            _ if end.starts_with(held) || marks.iter().any(|mark| mark.starts_with(held)) => {}
            _ if self.format == ToolFormat::Mistral && !list && is_name(letter) => {
                self.place = Place::Name(letter.to_string());
            }
            _ => self.give_back(self.said(), parts),
        }
    }

    /// Mistral's newer form: a name, perhaps `[ARGS]`, and arguments. Llama has `>` between them.
    fn name(&mut self, mut name: String, letter: char, parts: &mut Vec<Part>) {
        if letter == '{' && name.starts_with(is_name) {
            let name = name.split(['[', '>']).next().unwrap_or_default().trim().to_owned();
            let (scanner, begun) = CallScanner::named(name);
            self.tell(vec![begun], parts);
            return self.call(scanner, false, letter, parts);
        }
        if is_name(letter) || letter.is_whitespace() || self.stands_behind_name(letter) {
            name.push(letter);
            self.place = Place::Name(name);
            return;
        }
        self.give_back(self.said(), parts);
    }

    fn stands_behind_name(&self, letter: char) -> bool {
        matches!((self.format, letter), (ToolFormat::Llama, '>') | (ToolFormat::Mistral, '[' | ']'))
    }

    fn python(&mut self, mut scanner: CallsScanner, letter: char, parts: &mut Vec<Part>) {
        let mut news = Vec::new();
        let progress = scanner.push(letter, &mut news);
        self.tell(news, parts);
        match progress {
            Progress::Open => self.place = Place::Python(scanner),
            Progress::Done => self.ended(false),
            // Nobody can take back what was told of a call.
            Progress::Broken if scanner.has_begun() => self.ended(false),
            Progress::Broken => self.give_back(self.said(), parts),
        }
    }

    fn call(&mut self, mut scanner: CallScanner, list: bool, letter: char, parts: &mut Vec<Part>) {
        let mut news = Vec::new();
        let progress = scanner.push(letter, &mut news);
        self.tell(news, parts);
        match progress {
            Progress::Open => self.place = Place::Call(scanner, list),
            Progress::Done => self.ended(list),
            // Nobody can take back what was told of a call.
            Progress::Broken if scanner.has_begun() => self.ended(list),
            Progress::Broken => self.give_back(self.said(), parts),
        }
    }

    fn ended(&mut self, list: bool) {
        self.held.clear();
        self.place = match self.format {
            // Another call has a mark of its own.
            ToolFormat::Mistral if !list => Place::Saying,
            _ => Place::Between { list },
        };
    }

    fn tell(&mut self, news: Vec<News>, parts: &mut Vec<Part>) {
        for news in news {
            match (news, parts.last_mut()) {
                (News::Name(name), _) => {
                    parts.push(Part::Call { index: self.calls, name });
                    self.calls += 1;
                }
                (News::Arguments(text), Some(Part::Arguments { text: before, .. })) => before.push_str(&text),
                (News::Arguments(text), _) => parts.push(Part::Arguments { index: self.calls.saturating_sub(1), text }),
            }
        }
    }

    /// What follows something that turned out to be no call.
    const fn said(&self) -> Place {
        match self.format {
            // Llama's calls in bare JSON stand at the beginning only, those behind a mark anywhere.
            ToolFormat::Hermes | ToolFormat::Mistral | ToolFormat::Phi | ToolFormat::Llama => Place::Saying,
            ToolFormat::List => Place::Plain,
        }
    }

    /// What looked like a call is something said.
    fn give_back(&mut self, place: Place, parts: &mut Vec<Part>) {
        say(&mem::take(&mut self.held), parts);
        self.place = place;
    }
}

fn say(text: &str, parts: &mut Vec<Part>) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

const fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.')
}

/// Bytes at the end of a text that a mark may begin with.
fn beginning_of(text: &str, mark: &str) -> usize {
    let most = text.len().min(mark.len().saturating_sub(1));
    (1..=most).rev().find(|&length| text.as_bytes().ends_with(&mark.as_bytes()[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What was said, and the calls with their whole arguments.
    fn read(format: ToolFormat, pieces: &[&str]) -> (String, Vec<(String, String)>) {
        let mut reader = ToolReader::new(format);
        let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
        parts.extend(reader.finish());
        let (mut said, mut calls) = (String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Text(text) => said.push_str(&text),
                Part::Call { index, name } => {
                    assert_eq!(index, calls.len());
                    calls.push((name, String::new()));
                }
                Part::Arguments { index, text } => calls[index].1.push_str(&text),
            }
        }
        assert_eq!(calls.len(), reader.calls());
        (said, calls)
    }

    fn calls(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect()
    }

    #[test]
    fn each_familys_calls_are_read() {
        let two = calls(&[("f", r#"{"a": 1}"#), ("g", "{}")]);
        for (format, text) in [
            (
                ToolFormat::Hermes,
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
            ),
            (ToolFormat::Hermes, r#"<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]</tool_call>"#),
            (ToolFormat::Hermes, r#"<tool_call>{"name": "f", "arguments": {"a": 1}}<tool_call>{"name": "g"}"#),
            (ToolFormat::Phi, r#"<|tool_call|>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]<|/tool_call|>"#),
            (ToolFormat::Mistral, r#"[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]"#),
            (ToolFormat::Mistral, r#"[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g{}"#),
            (ToolFormat::Llama, r#"<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}"#),
            (ToolFormat::Llama, r#"{"type": "function", "name": "f", "parameters": {"a": 1}};{"name": "g", "parameters": {}}"#),
            (ToolFormat::Llama, "[f(a=1), g()]"),
            (ToolFormat::Llama, "<|python_tag|>[f(a=1), g()]"),
            (ToolFormat::Llama, r#"<function=f>{"a": 1}</function><function=g>{}</function>"#),
            (ToolFormat::Llama, "<function=f>\n{\"a\": 1}\n</function>\n<function=g>{}"),
            (ToolFormat::List, r#"[{"name":"f","arguments":{"a": 1}},{"name":"g","arguments":{}}]"#),
        ] {
            assert_eq!(read(format, &[text]), (String::new(), two.clone()), "{text}");
        }
    }

    #[test]
    fn what_is_said_beside_calls_stays() {
        let call = r#"<tool_call>{"name": "f", "arguments": {}}</tool_call>"#;
        let text = format!("Let me look.\n{call}\nDone <b>.");
        assert_eq!(read(ToolFormat::Hermes, &[&text]), ("Let me look.\nDone <b>.".to_owned(), calls(&[("f", "{}")])));
        let mistral = r#"Sure. [TOOL_CALLS][{"name": "f", "arguments": {}}]"#;
        assert_eq!(read(ToolFormat::Mistral, &[mistral]), ("Sure.".to_owned(), calls(&[("f", "{}")])));
        let llama = r#"Sure. <function=f>{}</function> And <|python_tag|>{"name": "g", "parameters": {}}"#;
        assert_eq!(read(ToolFormat::Llama, &[llama]), ("Sure. And".to_owned(), calls(&[("f", "{}"), ("g", "{}")])));
    }

    #[test]
    fn what_only_looks_like_a_call_is_said() {
        for (format, text) in [
            (ToolFormat::Hermes, "a < b <tool_ca"),
            (ToolFormat::Hermes, "<tool_call>no</tool_call>"),
            (ToolFormat::Hermes, "<tool_call>{\"a\": 1}"),
            (ToolFormat::Mistral, "[TOOL_CALLS]what?"),
            (ToolFormat::Mistral, "[1, 2]"),
            (ToolFormat::Llama, "{\"answer\": 1}"),
            (ToolFormat::Llama, "  Hello {\"name\": \"f\"}"),
            (ToolFormat::Llama, "<|python"),
            (ToolFormat::Llama, "[1, 2] and [f(x)]"),
            (ToolFormat::Llama, "[a link](http://x.y)"),
            (ToolFormat::Llama, "<function=>{} <function f>"),
            (ToolFormat::List, "none"),
            (ToolFormat::Hermes, "\n\nHi"),
        ] {
            assert_eq!(read(format, &[text]), (text.to_owned(), Vec::new()), "{text}");
        }
    }

    #[test]
    fn a_call_grows_as_it_is_written() {
        let mut reader = ToolReader::new(ToolFormat::Hermes);
        assert_eq!(reader.push("Hm <tool_"), [Part::Text("Hm".to_owned())]);
        assert_eq!(reader.push("call>{\"name\": \"f\", "), [Part::Call { index: 0, name: "f".to_owned() }]);
        assert_eq!(reader.push("\"arguments\": {\"a\""), [Part::Arguments { index: 0, text: "{\"a\"".to_owned() }]);
        assert_eq!(reader.push(": 1}}</tool"), [Part::Arguments { index: 0, text: ": 1}".to_owned() }]);
        assert_eq!(reader.finish(), []);
    }

    proptest! {
        #[test]
        fn however_an_answer_is_cut_it_means_the_same(cuts in proptest::collection::vec(1..9_usize, 0..60), at in 0..6_usize) {
            let (format, text) = [
                (ToolFormat::Hermes, "é <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}</tool_call>é\"}}\n</tool_call> z"),
                (ToolFormat::Mistral, "x[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}]"),
                (ToolFormat::Llama, "{\"name\": \"f\", \"parameters\": {\"a\": [1, 2]}}"),
                (ToolFormat::Llama, "[f(a='é)]', b=[1, {'c': None}]), g()] z"),
                (ToolFormat::Llama, "é <function=f>{\"a\": \"</function>\"}</function> z <func"),
                (ToolFormat::Hermes, "<tool_call>no <tool_call>{\"name\": \"f\"}"),
            ][at];
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let (mut pieces, mut left, mut cuts) = (Vec::new(), &letters[..], cuts.into_iter());
            while !left.is_empty() {
                let (piece, rest) = left.split_at(cuts.next().unwrap_or(1).min(left.len()));
                pieces.push(piece.concat());
                left = rest;
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(read(format, &pieces), read(format, &[text]));
        }
    }
}
