//! Calls written as Python writes them, letter by letter: `[f(city="Paris", days=[1, 2]), g()]`.
//!
//! What is told of the arguments is JSON. Texts are told as they are written; numbers and words once they have ended, for
//! Python's `True`, `1_000` and `.5` are no JSON.

use super::call::{News, Progress};
use serde_json::{Number, Value};
use std::mem;

/// Digits of a text's escape at most.
const ESCAPE_DIGITS_MAX: usize = 8;

/// Reads a list of calls, from the letter behind its bracket on.
#[derive(Debug, Default)]
pub(super) struct CallsScanner {
    place: Place,
    /// The name of a call that is not certain yet.
    name: String,
    calls: usize,
    /// Whether the call that is read has arguments already.
    has_arguments: bool,
    /// Brackets that are open within an argument.
    open: Vec<Container>,
}

#[derive(Debug, Default)]
enum Place {
    /// A call, or the end of the list.
    #[default]
    BeforeCall,
    Name,
    /// An argument, or the end of them.
    BeforeKey,
    Key(String),
    /// A value that must come.
    BeforeValue,
    /// A first value, or the end of the container.
    BeforeFirst,
    /// Another value, or the end of the container: JSON has no comma before that.
    BeforeNext,
    Text(Text),
    /// A number, `True`, `None`.
    Word(String),
    AfterValue,
    AfterCall,
}

/// A bracket of an argument, and what is read within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    List,
    /// Before the colon of an entry.
    Key,
    /// Behind it.
    Entry,
}

/// A text in quotes.
#[derive(Debug)]
struct Text {
    quote: char,
    escape: Escape,
}

#[derive(Debug)]
enum Escape {
    None,
    Begun,
    /// So many hexadecimal digits are still to come.
    Digits(usize, String),
}

impl CallsScanner {
    /// Whether a call's name was told.
    pub(super) const fn has_begun(&self) -> bool {
        self.calls > 0
    }

    /// Takes the next letter.
    pub(super) fn push(&mut self, letter: char, news: &mut Vec<News>) -> Progress {
        let next = match mem::take(&mut self.place) {
            Place::Text(text) => Self::text(text, letter, news),
            Place::Word(word) => self.word(word, letter, news),
            place if letter.is_whitespace() && !matches!(place, Place::Name | Place::Key(_)) => Some(place),
            Place::BeforeCall | Place::AfterCall if letter == ']' && self.calls > 0 => return Progress::Done,
            place => self.step(place, letter, news),
        };
        match next {
            Some(place) => {
                self.place = place;
                Progress::Open
            }
            None => Progress::Broken,
        }
    }

    /// Where a letter leads to; nothing where this is no call.
    fn step(&mut self, place: Place, letter: char, news: &mut Vec<News>) -> Option<Place> {
        match (place, letter) {
            (Place::BeforeCall, _) if begins_name(letter) => {
                (self.name, self.has_arguments) = (letter.to_string(), false);
                Some(Place::Name)
            }
            (Place::Name, '(') => Some(Place::BeforeKey),
            (Place::Name, _) if continues_name(letter) || letter == '.' => {
                self.name.push(letter);
                Some(Place::Name)
            }
            (Place::BeforeKey, ')') => Some(self.end_call(news)),
            (Place::BeforeKey, _) if begins_name(letter) => Some(Place::Key(letter.to_string())),
            (Place::Key(key), '=') => Some(self.argument(&key, news)),
            (Place::Key(mut key), _) if continues_name(letter) => {
                key.push(letter);
                Some(Place::Key(key))
            }
            (Place::BeforeFirst | Place::BeforeNext, ']' | '}') => self.close(letter, news),
            (Place::BeforeNext, _) => {
                tell(", ", news);
                self.value(letter, news)
            }
            (Place::BeforeValue | Place::BeforeFirst, _) => self.value(letter, news),
            (Place::AfterValue, _) => self.behind_value(letter, news),
            (Place::AfterCall, ',') => Some(Place::BeforeCall),
            _ => None,
        }
    }

    /// An argument begins, and with the first one its call is certain.
    fn argument(&mut self, key: &str, news: &mut Vec<News>) -> Place {
        self.tell_name(news);
        tell(if mem::replace(&mut self.has_arguments, true) { ", " } else { "{" }, news);
        tell(&format!("{}: ", Value::from(key)), news);
        Place::BeforeValue
    }

    fn tell_name(&mut self, news: &mut Vec<News>) {
        if !self.name.is_empty() {
            news.push(News::Name(mem::take(&mut self.name)));
            self.calls += 1;
        }
    }

    fn end_call(&mut self, news: &mut Vec<News>) -> Place {
        self.tell_name(news);
        tell(if self.has_arguments { "}" } else { "{}" }, news);
        Place::AfterCall
    }

    fn value(&mut self, letter: char, news: &mut Vec<News>) -> Option<Place> {
        match letter {
            '\'' | '"' => {
                tell("\"", news);
                Some(Place::Text(Text { quote: letter, escape: Escape::None }))
            }
            '[' | '{' if self.open.last() != Some(&Container::Key) => {
                tell(if letter == '[' { "[" } else { "{" }, news);
                self.open.push(if letter == '[' { Container::List } else { Container::Key });
                Some(Place::BeforeFirst)
            }
            _ if letter.is_ascii_alphanumeric() || matches!(letter, '-' | '+' | '.') => Some(Place::Word(letter.to_string())),
            _ => None,
        }
    }

    fn close(&mut self, letter: char, news: &mut Vec<News>) -> Option<Place> {
        match (self.open.pop()?, letter) {
            (Container::List, ']') => tell("]", news),
            (Container::Key | Container::Entry, '}') => tell("}", news),
            _ => return None,
        }
        Some(Place::AfterValue)
    }

    fn behind_value(&mut self, letter: char, news: &mut Vec<News>) -> Option<Place> {
        match (self.open.last().copied(), letter) {
            (None, ',') => Some(Place::BeforeKey),
            (None, ')') => Some(self.end_call(news)),
            (Some(Container::Key), ':') => {
                tell(": ", news);
                self.turn_to(Container::Entry);
                Some(Place::BeforeValue)
            }
            (Some(Container::List), ',') => Some(Place::BeforeNext),
            (Some(Container::Entry), ',') => {
                self.turn_to(Container::Key);
                Some(Place::BeforeNext)
            }
            (Some(Container::List | Container::Entry), _) => self.close(letter, news),
            _ => None,
        }
    }

    fn turn_to(&mut self, container: Container) {
        if let Some(last) = self.open.last_mut() {
            *last = container;
        }
    }

    fn text(mut text: Text, letter: char, news: &mut Vec<News>) -> Option<Place> {
        match mem::replace(&mut text.escape, Escape::None) {
            Escape::None if letter == text.quote => {
                tell("\"", news);
                return Some(Place::AfterValue);
            }
            Escape::None if letter == '\\' => text.escape = Escape::Begun,
            Escape::None => tell_letter(letter, news),
            Escape::Begun => text.escape = escaped(letter, news),
            Escape::Digits(left, mut digits) => {
                digits.push(letter);
                if left > 1 {
                    text.escape = Escape::Digits(left - 1, digits);
                } else {
                    tell_code(u32::from_str_radix(&digits, 16).ok()?, news)?;
                }
            }
        }
        Some(Place::Text(text))
    }

    fn word(&mut self, mut word: String, letter: char, news: &mut Vec<News>) -> Option<Place> {
        // A sign belongs to a number behind its exponent.
        if letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_') || (matches!(letter, '-' | '+') && word.ends_with(['e', 'E'])) {
            word.push(letter);
            return Some(Place::Word(word));
        }
        let json = json_of(&word)?;
        let is_key = self.open.last() == Some(&Container::Key);
        tell(&if is_key { format!("\"{json}\"") } else { json }, news);
        if letter.is_whitespace() { Some(Place::AfterValue) } else { self.behind_value(letter, news) }
    }
}

const fn begins_name(letter: char) -> bool {
    letter.is_ascii_alphabetic() || letter == '_'
}

const fn continues_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

fn tell(json: &str, news: &mut Vec<News>) {
    match news.last_mut() {
        Some(News::Arguments(before)) => before.push_str(json),
        _ => news.push(News::Arguments(json.to_owned())),
    }
}

/// A letter of a text as JSON has it, without the quotes around it.
fn tell_letter(letter: char, news: &mut Vec<News>) {
    let json = Value::from(letter.to_string()).to_string();
    tell(&json[1..json.len() - 1], news);
}

/// A letter by its number. Halves of a pair stay escapes, which JSON knows as well.
fn tell_code(code: u32, news: &mut Vec<News>) -> Option<()> {
    match char::from_u32(code) {
        Some(letter) => tell_letter(letter, news),
        None if code < 0x1_0000 => tell(&format!("\\u{code:04x}"), news),
        None => return None,
    }
    Some(())
}

/// What follows a backslash.
fn escaped(letter: char, news: &mut Vec<News>) -> Escape {
    let digits = match letter {
        'x' => 2,
        'u' => 4,
        'U' => ESCAPE_DIGITS_MAX,
        _ => 0,
    };
    let meant = match letter {
        _ if digits > 0 => return Escape::Digits(digits, String::new()),
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'a' => '\u{7}',
        'v' => '\u{b}',
        '0' => '\0',
        '\n' => return Escape::None,
        '\\' | '\'' | '"' => letter,
        // Python leaves the backslash where it means nothing.
        _ => {
            tell_letter('\\', news);
            letter
        }
    };
    tell_letter(meant, news);
    Escape::None
}

/// A number or a word as JSON has it. Words of JSON are taken as well, for models mix them up.
fn json_of(word: &str) -> Option<String> {
    match word {
        "True" | "true" => return Some("true".to_owned()),
        "False" | "false" => return Some("false".to_owned()),
        "None" | "null" => return Some("null".to_owned()),
        _ => {}
    }
    let digits = word.replace('_', "");
    let digits = digits.strip_prefix('+').unwrap_or(&digits);
    if serde_json::from_str::<Number>(digits).is_ok() {
        return Some(digits.to_owned());
    }
    if let Some(hexadecimal) = digits.strip_prefix("0x") {
        return u64::from_str_radix(hexadecimal, 16).ok().map(|number| number.to_string());
    }
    // `1.` and `.5`; Rust also takes `inf` and `nan`, which are no literals.
    let number = digits.parse::<f64>().ok().filter(|_| digits.contains('.'))?;
    Number::from_f64(number).map(|number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<(String, String)>, Progress) {
        let (mut scanner, mut calls) = (CallsScanner::default(), Vec::<(String, String)>::new());
        for letter in text.chars() {
            let mut news = Vec::new();
            let progress = scanner.push(letter, &mut news);
            for news in news {
                match news {
                    News::Name(name) => calls.push((name, String::new())),
                    News::Arguments(text) => calls.last_mut().unwrap().1.push_str(&text),
                }
            }
            if progress != Progress::Open {
                return (calls, progress);
            }
        }
        (calls, Progress::Open)
    }

    fn arguments(of: &str) -> String {
        let (calls, progress) = read(&format!("f(a={of})]"));
        assert_eq!((calls.len(), progress), (1, Progress::Done), "{of}");
        calls[0].1.clone()
    }

    #[test]
    fn calls_are_read_in_their_order() {
        let (calls, progress) = read("get_weather(city=\"Paris\", days=2), g( ),\n a.h(x = [1]) ]");
        assert_eq!(progress, Progress::Broken, "blanks around `=` are not how models write");
        assert_eq!(calls.len(), 2);
        let (calls, progress) = read("get_weather(city=\"Paris\", days=2), g( ),\n a.h(x= [1]) ]");
        let expected = [("get_weather", r#"{"city": "Paris", "days": 2}"#), ("g", "{}"), ("a.h", r#"{"x": [1]}"#)];
        assert_eq!(progress, Progress::Done);
        assert_eq!(calls, expected.map(|(name, arguments)| (name.to_owned(), arguments.to_owned())));
    }

    #[test]
    fn pythons_literals_become_json() {
        for (python, json) in [
            (r#"'it\'s "x"'"#, r#""it's \"x\"""#),
            (r#""\x41\u00e9\U0001F600\n\q\ud83d\ude00""#, "\"Aé😀\\n\\\\q\\ud83d\\ude00\""),
            ("{'a': [True, None], 'b': {}, 3: [1, -2.5]}", r#"{"a": [true, null], "b": {}, "3": [1, -2.5]}"#),
            ("[[], [1, ], {'a': 1,}]", r#"[[], [1], {"a": 1}]"#),
            ("1_000", "1000"),
            ("-1e-3", "-1e-3"),
            (".5", "0.5"),
            ("2.", "2.0"),
            ("0x1F", "31"),
            ("false", "false"),
            ("\"tab\tand\nline\"", r#""tab\tand\nline""#),
        ] {
            let found = arguments(python);
            assert_eq!(found, format!("{{\"a\": {json}}}"));
            serde_json::from_str::<Value>(&found).unwrap();
        }
    }

    #[test]
    fn a_text_is_told_as_it_grows_and_a_name_once_it_is_certain() {
        assert_eq!(read("f(").0, []);
        assert_eq!(read("f(a=").0, [("f".to_owned(), "{\"a\": ".to_owned())]);
        assert_eq!(read("f(a='x").0[0].1, "{\"a\": \"x");
    }

    #[test]
    fn what_is_no_call_breaks_before_anything_is_told() {
        for text in ["]", "1, 2]", "link](http)", "see(this)]", "f (a=1)]", "f(a)]", "\"x\"]", "f(1)]", ",", "f.(a=1)x"] {
            let (calls, progress) = read(text);
            let is_certain = text.contains('=') && !text.contains(' ');
            assert_eq!((calls.is_empty(), progress), (!is_certain, Progress::Broken), "{text}");
        }
    }

    #[test]
    fn what_is_no_literal_breaks() {
        for value in ["x", "f()", "1+1", "{1, 2}", "[1}", "{'a'}", "{[1]: 2}", "[,]", "(1)", "inf", "b'x'", "'\\xzz'", "=", ""] {
            let (_, progress) = read(&format!("f(a={value})]"));
            assert_eq!(progress, Progress::Broken, "{value}");
        }
    }
}
