//! An answer's text as it comes, parted into what is said and what is called.

use super::ToolFormat;
use super::call::{CallScanner, News, Progress};
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
        let begun = matches!(&self.place, Place::Call(scanner, _) if scanner.has_begun());
        let between = matches!(&self.place, Place::Between { .. });
        let held = mem::take(&mut self.held);
        self.place = Place::Plain;
        let mut parts = Vec::new();
        // An answer may end before the mark that ends its last call.
        let is_mark = between && self.marks().1.starts_with(held.trim());
        let is_nothing = begun || (self.calls > 0 && (is_mark || held.trim().is_empty()));
        if !is_nothing {
            say(&held, &mut parts);
        }
        parts
    }

    const fn marks(&self) -> (&'static str, &'static str) {
        match self.format {
            ToolFormat::Hermes => ("<tool_call>", "</tool_call>"),
            ToolFormat::Phi => ("<|tool_call|>", "<|/tool_call|>"),
            ToolFormat::Mistral => ("[TOOL_CALLS]", ""),
            ToolFormat::Llama => ("<|python_tag|>", ""),
            ToolFormat::List => ("", ""),
        }
    }

    fn letter(&mut self, letter: char, parts: &mut Vec<Part>) {
        self.held.push(letter);
        match mem::replace(&mut self.place, Place::Plain) {
            Place::Plain => self.give_back(Place::Plain, parts),
            Place::Saying => self.saying(parts),
            Place::Beginning => self.beginning(letter, parts),
            Place::Between { list } => self.between(letter, list, parts),
            Place::Name(name) => self.name(name, letter, parts),
            Place::Call(scanner, list) => self.call(scanner, list, letter, parts),
        }
    }

    /// Looks for the mark of a call.
    fn saying(&mut self, parts: &mut Vec<Part>) {
        let (mark, _) = self.marks();
        let is_marked = self.held.ends_with(mark);
        let certain = self.held.len() - if is_marked { mark.len() } else { beginning_of(&self.held, mark) };
        let only_blanks = self.held[..certain].trim().is_empty();
        // Blanks around calls are nothing said; whether they stand there shows later.
        if !only_blanks || (self.calls == 0 && !is_marked && certain == self.held.len() && !self.held.trim().is_empty()) {
            let rest = self.held.split_off(certain);
            say(&mem::replace(&mut self.held, rest), parts);
        }
        self.place = if is_marked { Place::Between { list: false } } else { Place::Saying };
    }

    /// A call, or an answer that is none.
    fn beginning(&mut self, letter: char, parts: &mut Vec<Part>) {
        let (mark, _) = self.marks();
        let begun = self.held.trim_start();
        match begun {
            "" => self.place = Place::Beginning,
            "{" => self.call(CallScanner::default(), false, letter, parts),
            "[" if self.format == ToolFormat::List => self.place = Place::Between { list: true },
            _ if begun == mark => self.place = Place::Between { list: false },
            _ if mark.starts_with(begun) => self.place = Place::Beginning,
            _ => self.give_back(Place::Plain, parts),
        }
    }

    /// Another call, or the end of calls.
    fn between(&mut self, letter: char, list: bool, parts: &mut Vec<Part>) {
        let (mark, end) = self.marks();
        let held = self.held.trim_start();
        let held = held.strip_prefix(mark).unwrap_or(held).trim_start();
        let held = if list { held.strip_prefix('[').unwrap_or(held).trim_start() } else { held };
        self.place = Place::Between { list };
        match letter {
            _ if held.is_empty() || letter.is_whitespace() => {}
            '{' if held == "{" => self.call(CallScanner::default(), list, letter, parts),
            '[' if held == "[" && !list && self.format != ToolFormat::Llama => self.place = Place::Between { list: true },
            ',' | ';' if self.calls > 0 && held.len() == 1 => self.held.clear(),
            ']' if list && held == "]" => self.ended(false),
            _ if !end.is_empty() && held == end => {
                self.held.clear();
                self.place = Place::Saying;
            }
            _ if end.starts_with(held) || mark.starts_with(held) => {}
            _ if self.format == ToolFormat::Mistral && !list && is_name(letter) => {
                self.place = Place::Name(letter.to_string());
            }
            _ => self.give_back(self.said(), parts),
        }
    }

    /// Mistral's newer form: a name, perhaps `[ARGS]`, and arguments.
    fn name(&mut self, mut name: String, letter: char, parts: &mut Vec<Part>) {
        if letter == '{' {
            let name = name.split('[').next().unwrap_or_default().trim().to_owned();
            let (scanner, begun) = CallScanner::named(name);
            self.tell(vec![begun], parts);
            return self.call(scanner, false, letter, parts);
        }
        if is_name(letter) || matches!(letter, '[' | ']' | ' ') {
            name.push(letter);
            self.place = Place::Name(name);
            return;
        }
        self.give_back(self.said(), parts);
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
            ToolFormat::Hermes | ToolFormat::Mistral | ToolFormat::Phi => Place::Saying,
            ToolFormat::Llama | ToolFormat::List => Place::Plain,
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
        fn however_an_answer_is_cut_it_means_the_same(cuts in proptest::collection::vec(1..9_usize, 0..60), at in 0..4_usize) {
            let (format, text) = [
                (ToolFormat::Hermes, "é <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}</tool_call>é\"}}\n</tool_call> z"),
                (ToolFormat::Mistral, "x[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}]"),
                (ToolFormat::Llama, "{\"name\": \"f\", \"parameters\": {\"a\": [1, 2]}}"),
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
