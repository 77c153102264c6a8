//! One call as it is written, letter by letter: `{"name": "f", "arguments": {..}}`.
//!
//! The name is told as soon as it is known, and the arguments as they come, so that a caller sees a long call grow.

use std::mem;

/// What has become certain of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// Its name.
    Name(String),
    /// More of its arguments' text.
    Arguments(String),
}

/// Where a letter led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// More is to come.
    Open,
    /// That was the last letter.
    Done,
    /// This is no call.
    Broken,
}

/// Reads one call.
#[derive(Debug, Default)]
pub(super) struct CallScanner {
    place: Place,
    name: Option<String>,
    /// Arguments that came before the name.
    early: String,
    has_arguments: bool,
    /// Whether nothing but the arguments is written: the name stood in front.
    is_named: bool,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Start,
    BeforeKey,
    Key {
        text: String,
        escaped: bool,
    },
    AfterKey(Field),
    BeforeValue(Field),
    Value(Field, Json),
    AfterValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    Other,
}

impl Field {
    fn of(key: &str) -> Self {
        match key {
            "name" => Self::Name,
            "arguments" | "parameters" => Self::Arguments,
            _ => Self::Other,
        }
    }
}

impl CallScanner {
    /// A call whose name is known already: what follows are its arguments.
    pub(super) fn named(name: String) -> (Self, News) {
        let scanner = Self { place: Place::BeforeValue(Field::Arguments), name: Some(name.clone()), is_named: true, ..Self::default() };
        (scanner, News::Name(name))
    }

    /// Whether the call's name was told.
    pub(super) const fn has_begun(&self) -> bool {
        self.name.is_some()
    }

    /// Takes the next letter.
    pub(super) fn push(&mut self, letter: char, news: &mut Vec<News>) -> Progress {
        let place = mem::take(&mut self.place);
        let (place, progress) = self.step(place, letter, news);
        self.place = place;
        if progress == Progress::Done {
            return self.end(news);
        }
        progress
    }

    fn step(&mut self, place: Place, letter: char, news: &mut Vec<News>) -> (Place, Progress) {
        let blank = letter.is_whitespace();
        let open = |place| (place, Progress::Open);
        match (place, letter) {
            (place @ (Place::Start | Place::BeforeKey | Place::AfterKey(_) | Place::BeforeValue(_) | Place::AfterValue), _) if blank => {
                open(place)
            }
            (Place::Start, '{') | (Place::AfterValue, ',') => open(Place::BeforeKey),
            (Place::BeforeKey, '"') => open(Place::Key { text: String::new(), escaped: false }),
            (Place::BeforeKey | Place::AfterValue, '}') => (Place::AfterValue, Progress::Done),
            (Place::Key { text, escaped: false }, '"') => open(Place::AfterKey(Field::of(&text))),
            (Place::Key { mut text, escaped }, letter) => {
                text.push(letter);
                open(Place::Key { text, escaped: !escaped && letter == '\\' })
            }
            (Place::AfterKey(field), ':') => open(Place::BeforeValue(field)),
            (Place::BeforeValue(field), _) => self.value(field, Json::default(), letter, news),
            (Place::Value(field, json), _) => self.value(field, json, letter, news),
            (place, _) => (place, Progress::Broken),
        }
    }

    fn value(&mut self, field: Field, mut json: Json, letter: char, news: &mut Vec<News>) -> (Place, Progress) {
        let step = json.push(letter);
        if field == Field::Arguments && json.is_container() && step != Step::Before {
            self.arguments(letter.to_string(), news);
        }
        match step {
            Step::Open => (Place::Value(field, json), Progress::Open),
            Step::Last => match self.known(field, json.text, news) {
                Progress::Open if self.is_named => (Place::AfterValue, Progress::Done),
                progress => (Place::AfterValue, progress),
            },
            Step::Before => match self.known(field, json.text, news) {
                // The letter belongs to what follows a number or a word.
                Progress::Open => self.step(Place::AfterValue, letter, news),
                broken => (Place::AfterValue, broken),
            },
            Step::Broken => (Place::AfterValue, Progress::Broken),
        }
    }

    /// A value is whole.
    fn known(&mut self, field: Field, text: String, news: &mut Vec<News>) -> Progress {
        match field {
            Field::Other => Progress::Open,
            Field::Arguments if text.starts_with('{') || text.starts_with('[') => Progress::Open,
            // Some models write the object as a text.
            Field::Arguments => {
                let inner = serde_json::from_str::<String>(&text).unwrap_or(text);
                self.arguments(if inner == "null" { "{}".to_owned() } else { inner }, news);
                Progress::Open
            }
            Field::Name => match serde_json::from_str::<String>(&text) {
                Ok(name) if self.name.is_none() && !name.is_empty() => {
                    self.name = Some(name.clone());
                    news.push(News::Name(name));
                    if !self.early.is_empty() {
                        news.push(News::Arguments(mem::take(&mut self.early)));
                    }
                    Progress::Open
                }
                _ => Progress::Broken,
            },
        }
    }

    fn arguments(&mut self, text: String, news: &mut Vec<News>) {
        self.has_arguments = true;
        if self.name.is_none() {
            self.early.push_str(&text);
            return;
        }
        match news.last_mut() {
            Some(News::Arguments(before)) => before.push_str(&text),
            _ => news.push(News::Arguments(text)),
        }
    }

    fn end(&mut self, news: &mut Vec<News>) -> Progress {
        if self.name.is_none() {
            return Progress::Broken;
        }
        if !self.has_arguments {
            news.push(News::Arguments("{}".to_owned()));
        }
        Progress::Done
    }
}

/// A JSON value, letter by letter, as far as finding its end needs.
#[derive(Debug, Default)]
struct Json {
    text: String,
    depth: usize,
    in_text: bool,
    escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    /// The letter is the value's last.
    Last,
    /// The value ended before the letter.
    Before,
    Broken,
}

impl Json {
    fn is_container(&self) -> bool {
        self.text.starts_with(['{', '['])
    }

    fn push(&mut self, letter: char) -> Step {
        let first = self.text.is_empty();
        if !first && !self.in_text && self.depth == 0 && (matches!(letter, ',' | '}' | ']') || letter.is_whitespace()) {
            return Step::Before;
        }
        self.text.push(letter);
        if self.in_text {
            return self.within_text(letter);
        }
        match letter {
            '"' => self.in_text = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' if self.depth == 0 => return Step::Broken,
            '}' | ']' => {
                self.depth -= 1;
                return if self.depth == 0 { Step::Last } else { Step::Open };
            }
            _ => {}
        }
        Step::Open
    }

    fn within_text(&mut self, letter: char) -> Step {
        match letter {
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            '"' => {
                self.in_text = false;
                return if self.depth == 0 { Step::Last } else { Step::Open };
            }
            _ => {}
        }
        Step::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<News>, Progress, usize) {
        let (mut scanner, mut news) = (CallScanner::default(), Vec::new());
        for (at, letter) in text.chars().enumerate() {
            match scanner.push(letter, &mut news) {
                Progress::Open => {}
                end => return (news, end, at + 1),
            }
        }
        (news, Progress::Open, text.chars().count())
    }

    fn call(name: &str, arguments: &str) -> Vec<News> {
        vec![News::Name(name.to_owned()), News::Arguments(arguments.to_owned())]
    }

    #[test]
    fn a_call_is_read_whatever_stands_in_its_texts_and_in_whatever_order() {
        let arguments = r#"{"q": "a \"}\" b", "n": [1, {"x": null}]}"#;
        for text in [
            format!(r#" {{"name": "f", "arguments": {arguments}}}"#),
            format!(r#"{{"type":"function","name" : "f","id":7,"parameters":{arguments} }}"#),
            format!(r#"{{"arguments": {arguments}, "name": "f"}}"#),
        ] {
            assert_eq!(read(&text), (call("f", arguments), Progress::Done, text.chars().count()), "{text}");
        }
    }

    #[test]
    fn arguments_may_be_missing_null_or_a_text() {
        assert_eq!(read(r#"{"name": "f"}"#).0, call("f", "{}"));
        assert_eq!(read(r#"{"name": "f", "arguments": null}"#).0, call("f", "{}"));
        assert_eq!(read(r#"{"name": "f", "arguments": "{\"a\": 1}"}"#).0, call("f", r#"{"a": 1}"#));
    }

    #[test]
    fn the_name_is_told_before_the_arguments_are_there() {
        assert_eq!(read(r#"{"name": "f", "arg"#).0, [News::Name("f".to_owned())]);
        assert_eq!(read(r#"{"name": "f", "arguments": {"a"#).0, call("f", r#"{"a"#));
    }

    #[test]
    fn what_is_no_call_breaks() {
        for text in ["x", "{x", r#"{"a": 1}"#, r#"{"name": 3}"#, r#"{"name" "f"}"#, "{}", r#"{"name": }"#] {
            assert_eq!(read(text).1, Progress::Broken, "{text}");
        }
    }
}
