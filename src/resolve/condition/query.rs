//! Queries of arrays, `#(field==value)` and `#(field==value)#`, and how gjson compares.

use super::{Found, Kind, Rest, end_of_quote, get, json, list, split_pipe};
use std::borrow::Cow;

/// A query `#(path op value)` of a path through an array.
pub(super) struct Query<'p> {
    path: &'p str,
    op: &'p str,
    value: Cow<'p, [u8]>,
    /// `#(..)#`: all that fit instead of the first.
    all: bool,
    rest: Rest<'p>,
}

impl<'p> Query<'p> {
    /// Reads a query; one that does not close asks for nothing in particular, as in gjson.
    pub(super) fn read(path: &'p str) -> Self {
        let bytes = path.as_bytes();
        let Some((operator, end)) = Self::bounds(bytes) else {
            return Self { path: "", op: "", value: Cow::Borrowed(b""), all: false, rest: Rest::End };
        };
        let (inner, op, value) = match operator {
            Some(at) => {
                let (op, value) = operator_of(path[at..end].trim());
                (path[2..at].trim(), op, value)
            }
            None => (path[2..end].trim(), "", ""),
        };
        let after = &path[end + 1..];
        let all = after.starts_with('#');
        let rest = match after.find(['.', '|']) {
            Some(at) if after.as_bytes()[at] == b'|' => Rest::Pipe(&after[at + 1..]),
            Some(at) => Rest::More(&after[at + 1..]),
            None => Rest::End,
        };
        Self { path: inner, op, value: unquoted(value), all, rest }
    }

    /// Where the operator stands, if there is one, and where the query closes.
    fn bounds(bytes: &[u8]) -> Option<(Option<usize>, usize)> {
        let (mut at, mut depth, mut operator) = (2, 1_u32, None);
        while at < bytes.len() {
            match bytes[at] {
                b'!' | b'=' | b'<' | b'>' | b'%' if depth == 1 && operator.is_none() => operator = Some(at),
                b'\\' => at += 1,
                b'[' | b'(' => depth += 1,
                b']' | b')' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some((operator, at));
                    }
                }
                b'"' => at = end_of_quote(bytes, at),
                _ => {}
            }
            at += 1;
        }
        None
    }

    pub(super) fn run<'a>(&self, array: &'a [u8]) -> Found<'a> {
        let fitting = json::elements(array).filter(|element| self.fits(element));
        let (below, pipe) = match self.rest {
            Rest::More(path) => {
                let (below, pipe) = split_pipe(path);
                (Some(below), pipe)
            }
            Rest::Pipe(_) | Rest::End => (None, None),
        };
        let found = |element: &'a [u8]| match below {
            Some(path) => get(Cow::Borrowed(element), path),
            None => Found(Cow::Borrowed(element)),
        };
        let mut fitting = fitting.map(found).peekable();
        // What stands behind a pipe below the elements is only looked at where there is one that fits.
        let pipe = pipe.filter(|_| fitting.peek().is_some());
        let found =
            if self.all { Found(Cow::Owned(list(fitting.filter(Found::exists)))) } else { fitting.next().unwrap_or(Found::NOTHING) };
        match (pipe, self.rest) {
            (Some(pipe), _) | (None, Rest::Pipe(pipe)) => found.get(pipe),
            _ => found,
        }
    }

    fn fits(&self, element: &[u8]) -> bool {
        let element = Found(Cow::Borrowed(element));
        match element.kind() {
            Kind::Container => self.matches(&element.get(self.path)),
            _ => self.path.is_empty() && self.matches(&element),
        }
    }

    fn matches(&self, value: &Found<'_>) -> bool {
        if let Some(word) = self.value.strip_prefix(b"~") {
            let Some(is_so) = resembles(word, value) else { return false };
            return self.op.is_empty() || compare_bool(is_so, self.op, b"true");
        }
        if !value.exists() {
            return false;
        }
        if self.op.is_empty() {
            return true;
        }
        match value.kind() {
            Kind::String => compare_text(&value.text(), self.op, &self.value),
            Kind::Number => compare_numbers(value.number(), self.op, number(&self.value)),
            Kind::True => compare_bool(true, self.op, &self.value),
            Kind::False => compare_bool(false, self.op, &self.value),
            Kind::Null | Kind::Container => false,
        }
    }
}

/// The operator at the start of a text and its value; `==` is `=`.
fn operator_of(text: &str) -> (&str, &str) {
    let length = match text.as_bytes() {
        [b'!', b'=' | b'%', ..] | [b'<' | b'>', b'=', ..] => 2,
        [b'=', b'=', ..] => return (&text[1..2], text[2..].trim()),
        _ => text.len().min(1),
    };
    (&text[..length], text[length..].trim())
}

fn unquoted(value: &str) -> Cow<'_, [u8]> {
    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        Some(inner) => json::unescaped(inner.as_bytes()),
        None => Cow::Borrowed(value.as_bytes()),
    }
}

/// Whether a value is like `true`, `false`, `null`, or there at all (`*`); nothing for another word.
fn resembles(word: &[u8], value: &Found<'_>) -> Option<bool> {
    let as_bool = || match value.text().to_ascii_lowercase().as_slice() {
        b"1" | b"t" | b"true" => Some(true),
        b"0" | b"f" | b"false" => Some(false),
        _ => None,
    };
    match word {
        b"*" => Some(value.exists()),
        b"null" => Some(value.kind() == Kind::Null),
        b"true" => Some(match value.kind() {
            Kind::True => true,
            Kind::String => as_bool() == Some(true),
            Kind::Number => value.number() != 0.0,
            _ => false,
        }),
        b"false" => Some(match value.kind() {
            Kind::Null | Kind::False => true,
            Kind::String => as_bool() == Some(false),
            Kind::Number => value.number() == 0.0,
            _ => false,
        }),
        _ => None,
    }
}

fn compare_text(text: &[u8], op: &str, value: &[u8]) -> bool {
    match op {
        "=" => text == value,
        "!=" => text != value,
        "<" => text < value,
        "<=" => text <= value,
        ">" => text > value,
        ">=" => text >= value,
        "%" => globs(value, text),
        "!%" => !globs(value, text),
        _ => false,
    }
}

#[expect(clippy::float_cmp, reason = "gjson compares so")]
fn compare_numbers(number: f64, op: &str, value: f64) -> bool {
    match op {
        "=" => number == value,
        "!=" => number != value,
        "<" => number < value,
        "<=" => number <= value,
        ">" => number > value,
        ">=" => number >= value,
        _ => false,
    }
}

fn compare_bool(is: bool, op: &str, value: &[u8]) -> bool {
    let (own, other): (&[u8], &[u8]) = if is { (b"true", b"false") } else { (b"false", b"true") };
    match (op, is) {
        ("=", _) => value == own,
        ("!=", _) => value != own,
        (">", true) | ("<", false) => value == other,
        (">=", true) | ("<=", false) => true,
        _ => false,
    }
}

/// A number's value; 0 for what is none.
pub(super) fn number(text: &[u8]) -> f64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// Whether a text fits a pattern where `*` is any letters, `?` any one, and `\` takes the next as it is.
pub(super) fn globs(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when a `*` has to take one letter more.
    let mut again: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(b'*') => {
                again = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') if t < text.len() => {
                (p, t) = (p + 1, t + letter_length(&text[t..]));
                continue;
            }
            Some(b'\\') if text.get(t).is_some_and(|letter| pattern.get(p + 1) == Some(letter)) => {
                (p, t) = (p + 2, t + 1);
                continue;
            }
            Some(wanted) if !matches!(wanted, b'?' | b'\\') && text.get(t) == Some(wanted) => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            None if t == text.len() => return true,
            _ => {}
        }
        match again {
            Some((after, from)) if from < text.len() => {
                let from = from + letter_length(&text[from..]);
                again = Some((after, from));
                (p, t) = (after, from);
            }
            _ => return false,
        }
    }
}

/// Bytes of the letter at the start of a text.
fn letter_length(text: &[u8]) -> usize {
    let more = text[1..].iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
    if text[0] < 0x80 { 1 } else { 1 + more }
}
