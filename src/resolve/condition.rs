//! The conditions of a graph's steps: whether a body has something at a gjson path.
//!
//! KServe asks gjson 1.18 whether a path *exists*; `false`, `null` and empty values exist as well. This is the part of
//! gjson that conditions need: keys with `*`, `?` and escapes, indexes, `#`, queries, `@this`, pipes and multipaths.
//! Paths are read while they are followed, as gjson does, since what a part means depends on the value it meets.
//!
//! Source: gjson 1.18 `SYNTAX.md` and `gjson.go`; reference 5.5.

mod json;
mod query;

use query::{Query, globs, number};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Modifiers of gjson that are not known here; a path that uses one is refused rather than misread.
const UNKNOWN_MODIFIERS: [&str; 13] =
    ["@ugly", "@pretty", "@reverse", "@valid", "@flatten", "@join", "@keys", "@values", "@tostr", "@fromstr", "@group", "@dig", "@pick"];

/// A condition that can be asked. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition(Arc<str>);

/// Why a text is no condition that is understood here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// A part of gjson that is left out.
    #[error("`{0}` of gjson is not understood here")]
    NotUnderstood(&'static str),
}

impl Condition {
    /// Takes a path.
    ///
    /// # Errors
    /// A modifier, a literal or a line mode of gjson beyond the part that is understood.
    pub fn new(path: &str) -> Result<Self, ConditionError> {
        let begins = |at: usize| at == 0 || matches!(path.as_bytes()[at - 1], b'.' | b'|' | b'[' | b'{' | b'(' | b',' | b':');
        let uses = |word: &&&'static str| path.match_indices(**word).any(|(at, _)| begins(at));
        if let Some(word) = UNKNOWN_MODIFIERS.iter().find(uses) {
            return Err(ConditionError::NotUnderstood(word));
        }
        match path.as_bytes() {
            [b'.', b'.', ..] => Err(ConditionError::NotUnderstood("..")),
            [b'!', _, ..] => Err(ConditionError::NotUnderstood("!")),
            _ => Ok(Self(path.into())),
        }
    }

    /// Whether a body has something there. The body must be [`is_json`].
    #[must_use]
    pub fn holds(&self, json: &[u8]) -> bool {
        get(Cow::Borrowed(json), &self.0).exists()
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a body is JSON, as gjson tells it.
#[must_use]
pub fn is_json(body: &[u8]) -> bool {
    json::is_valid(body)
}

/// What a path leads to: the JSON text of a value, empty for nothing.
#[derive(Debug, Clone)]
struct Found<'a>(Cow<'a, [u8]>);

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    False,
    True,
    Number,
    String,
    Container,
}

impl Found<'_> {
    const NOTHING: Self = Self(Cow::Borrowed(b""));

    fn exists(&self) -> bool {
        !self.0.is_empty()
    }

    fn kind(&self) -> Kind {
        match self.0.first() {
            Some(b'{' | b'[') => Kind::Container,
            Some(b'"') => Kind::String,
            Some(b't') => Kind::True,
            Some(b'f') => Kind::False,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            _ => Kind::Null,
        }
    }

    /// A string's letters.
    fn text(&self) -> Cow<'_, [u8]> {
        json::unescaped(self.0.get(1..self.0.len().saturating_sub(1)).unwrap_or_default())
    }

    fn number(&self) -> f64 {
        number(&self.0)
    }

    fn get(self, path: &str) -> Self {
        get(self.0, path)
    }
}

/// What stands at a path of a JSON text.
fn get<'a>(json: Cow<'a, [u8]>, path: &str) -> Found<'a> {
    if path.len() > 1 {
        if let Some(rest) = past_this(path) {
            return match rest.as_bytes() {
                [b'|' | b'.', ..] => get(json, &rest[1..]),
                _ => Found(narrowed(json, json::trimmed)),
            };
        }
        if let Some((parts, rest)) = selectors(path)
            && matches!(rest.as_bytes(), [] | [b'|' | b'.', ..])
        {
            let made = Found(Cow::Owned(multipath(&json, path.as_bytes()[0], &parts)));
            return if rest.is_empty() { made } else { made.get(&rest[1..]) };
        }
    }
    match json {
        Cow::Borrowed(json) => in_container(json::trimmed(json), path),
        Cow::Owned(json) => Found(Cow::Owned(in_container(json::trimmed(&json), path).0.into_owned())),
    }
}

fn narrowed(json: Cow<'_, [u8]>, narrow: fn(&[u8]) -> &[u8]) -> Cow<'_, [u8]> {
    match json {
        Cow::Borrowed(json) => Cow::Borrowed(narrow(json)),
        Cow::Owned(json) => Cow::Owned(narrow(&json).to_vec()),
    }
}

/// What follows `@this`, arguments left out, where a path begins with it.
fn past_this(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("@this")?;
    match rest.as_bytes() {
        [] | [b'|' | b'.', ..] => Some(rest),
        [b':', ..] => Some(rest[1..].find(['|', '.']).map_or("", |end| &rest[end + 1..])),
        _ => None,
    }
}

fn in_container<'a>(json: &'a [u8], path: &str) -> Found<'a> {
    match json.first() {
        Some(b'{') => in_object(json, path),
        Some(b'[') => in_array(json, path),
        _ => Found::NOTHING,
    }
}

/// One `name:path` of a multipath.
type Selector<'p> = (Option<&'p str>, &'p str);

/// The parts of a multipath and what follows its closing bracket.
fn selectors(path: &str) -> Option<(Vec<Selector<'_>>, &str)> {
    let bytes = path.as_bytes();
    if !matches!(bytes.first(), Some(b'[' | b'{')) {
        return None;
    }
    let (mut found, mut depth, mut start, mut colon, mut at) = (Vec::new(), 1_u32, 1, None, 1);
    while at < bytes.len() {
        let mut close = |end: usize, colon: Option<usize>| match colon {
            Some(colon) => found.push((Some(&path[start..colon]), &path[colon + 1..end])),
            None => found.push((None, &path[start..end])),
        };
        match bytes[at] {
            b'\\' => at += 1,
            b':' if depth == 1 => colon = Some(at),
            b',' if depth == 1 => {
                close(at, colon.take());
                start = at + 1;
            }
            b'"' => at = end_of_quote(bytes, at),
            b'[' | b'(' | b'{' => depth += 1,
            b']' | b')' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    close(at, colon.take());
                    return Some((found, &path[at + 1..]));
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The place of the quote that closes the one at `start`.
fn end_of_quote(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The array or object that a multipath makes of what its parts find.
fn multipath(json: &[u8], open: u8, parts: &[Selector<'_>]) -> Vec<u8> {
    let mut made = vec![open];
    for (name, path) in parts {
        let found = get(Cow::Borrowed(json), path);
        if !found.exists() {
            continue;
        }
        if made.len() > 1 {
            made.push(b',');
        }
        if open == b'{' {
            made.extend_from_slice(&key_of(*name, path));
            made.push(b':');
        }
        made.extend_from_slice(&found.0);
    }
    made.push(if open == b'{' { b'}' } else { b']' });
    made
}

/// The key of one part: its name, or the last part of its path.
fn key_of(name: Option<&str>, path: &str) -> Vec<u8> {
    let quoted = |text: &str| serde_json::to_vec(text).unwrap_or_default();
    match name {
        Some(name) if name.starts_with('"') && json::is_valid(name.as_bytes()) => name.as_bytes().to_vec(),
        Some(name) if !name.is_empty() => quoted(name),
        _ => {
            let last = path.rsplit(['.', '|']).next().unwrap_or_default();
            let simple = last.chars().all(|letter| letter > ' ' && !"[]{}()#|!".contains(letter));
            quoted(if simple { last } else { "_" })
        }
    }
}

/// The next part of a path through an object.
struct Key<'p> {
    part: Cow<'p, str>,
    /// Whether `*` and `?` of the part stand for other letters; then its escapes are still in it.
    wild: bool,
    rest: Rest<'p>,
}

/// What follows a part.
#[derive(Clone, Copy)]
enum Rest<'p> {
    End,
    /// More of the path, below the value.
    More(&'p str),
    /// A path that the value, or nothing, is handed to.
    Pipe(&'p str),
}

impl Rest<'_> {
    /// Follows the rest from a value, or from nothing.
    fn from(self, value: Option<&[u8]>) -> Found<'_> {
        let found = || value.map_or(Found::NOTHING, |value| Found(Cow::Borrowed(value)));
        match self {
            Self::End => found(),
            Self::Pipe(path) => found().get(path),
            Self::More(path) => value.map_or(Found::NOTHING, |value| in_container(value, path)),
        }
    }
}

/// Whether what follows a dot is handed the value like behind a pipe.
fn is_piped(path: &str) -> bool {
    past_this(path).is_some() || path.starts_with(['[', '{'])
}

fn after_dot(path: &str) -> Rest<'_> {
    if is_piped(path) { Rest::Pipe(path) } else { Rest::More(path) }
}

impl<'p> Key<'p> {
    fn read(path: &'p str) -> Self {
        let bytes = path.as_bytes();
        let (mut at, mut wild, mut escaped) = (0, false, false);
        let mut rest = Rest::End;
        while at < bytes.len() {
            match bytes[at] {
                b'|' => {
                    rest = Rest::Pipe(&path[at + 1..]);
                    break;
                }
                b'.' => {
                    rest = after_dot(&path[at + 1..]);
                    break;
                }
                b'*' | b'?' => wild = true,
                b'\\' => {
                    escaped = true;
                    at += 1;
                }
                _ => {}
            }
            at += 1;
        }
        let part = &path[..at.min(path.len())];
        let part = if escaped && !wild { Cow::Owned(without_escapes(part)) } else { Cow::Borrowed(part) };
        Self { part, wild, rest }
    }

    fn fits(&self, key: &[u8]) -> bool {
        let key = json::unescaped(key);
        if self.wild { globs(self.part.as_bytes(), &key) } else { self.part.as_bytes() == &*key }
    }
}

fn without_escapes(part: &str) -> String {
    let mut letters = part.chars();
    let next = |letters: &mut std::str::Chars<'_>| match letters.next()? {
        '\\' => letters.next(),
        letter => Some(letter),
    };
    std::iter::from_fn(|| next(&mut letters)).collect()
}

fn in_object<'a>(object: &'a [u8], path: &str) -> Found<'a> {
    let key = Key::read(path);
    for (_, value) in json::members(object).filter(|(name, _)| key.fits(name)) {
        let found = key.rest.from(Some(value));
        // A key that comes again, or another one that fits, may have what this one lacks.
        if found.exists() || !matches!(key.rest, Rest::More(_)) {
            return found;
        }
    }
    match key.rest {
        Rest::Pipe(_) => key.rest.from(None),
        Rest::End | Rest::More(_) => Found::NOTHING,
    }
}

fn in_array<'a>(array: &'a [u8], path: &str) -> Found<'a> {
    if path.starts_with("#(") || path.starts_with("#[") {
        return Query::read(path).run(array);
    }
    if let Some(below) = path.strip_prefix("#.") {
        let (below, pipe) = split_pipe(below);
        let found = json::elements(array).map(|element| get(Cow::Borrowed(element), below)).filter(Found::exists);
        let list = Found(Cow::Owned(list(found)));
        return match pipe {
            Some(pipe) => list.get(pipe),
            None => list,
        };
    }
    let end = path.find(['.', '|']).unwrap_or(path.len());
    let (part, rest) = (&path[..end], &path[end..]);
    let rest = match rest.as_bytes() {
        [] => Rest::End,
        [b'|', ..] => Rest::Pipe(&rest[1..]),
        _ => after_dot(&rest[1..]),
    };
    if part == "#" {
        let count = Found(Cow::Owned(json::elements(array).count().to_string().into_bytes()));
        return match rest {
            Rest::Pipe(path) => count.get(path),
            Rest::End | Rest::More(_) => count,
        };
    }
    let index = if part.bytes().all(|digit| digit.is_ascii_digit()) { part.parse::<usize>().ok() } else { None };
    rest.from(index.and_then(|index| json::elements(array).nth(index)))
}

fn list<'a>(values: impl Iterator<Item = Found<'a>>) -> Vec<u8> {
    let mut made = vec![b'['];
    for value in values {
        if made.len() > 1 {
            made.push(b',');
        }
        made.extend_from_slice(&value.0);
    }
    made.push(b']');
    made
}

/// The path before the first pipe that is no part of a query behind a dot, and the one behind it.
///
/// As gjson cuts it: a pipe right behind `.#` is passed over, and an object in front is cut off only where it closes.
fn split_pipe(path: &str) -> (&str, Option<&str>) {
    let bytes = path.as_bytes();
    if bytes.first() == Some(&b'{') {
        let end = 1 + end_of_first(&bytes[1..]);
        return if bytes.get(end) == Some(&b'|') { (&path[..end], Some(&path[end + 1..])) } else { (path, None) };
    }
    let mut at = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'\\', ..] => at += 1,
            [b'.', b'#', open @ (b'[' | b'('), ..] => at = end_of_query(bytes, at + 2, *open),
            [b'.', b'#', _, ..] => at += 2,
            [b'|', ..] => return (&path[..at], Some(&path[at + 1..])),
            _ => {}
        }
        at += 1;
    }
    (path, None)
}

/// Where a quoted text ends, or else the bracket closes that is open before the text.
fn end_of_first(bytes: &[u8]) -> usize {
    if bytes.first() == Some(&b'"') {
        return (end_of_quote(bytes, 0) + 1).min(bytes.len());
    }
    let (mut at, mut depth) = (1, 1_u32);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_quote(bytes, at),
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where the bracket closes that opens at `start`.
fn end_of_query(bytes: &[u8], start: usize, open: u8) -> usize {
    let close = if open == b'(' { b')' } else { b']' };
    let (mut at, mut depth) = (start + 1, 1_u32);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'"' => at = end_of_quote(bytes, at),
            byte if byte == open => depth += 1,
            byte if byte == close => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests;
