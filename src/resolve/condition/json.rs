//! JSON as conditions look at it: checked once, then read in place, without a tree.

use std::borrow::Cow;

/// Whether a text is one JSON value and nothing else. Bytes of strings need not be UTF-8, as in Go.
pub(super) fn is_valid(text: &[u8]) -> bool {
    let mut checker = Checker { text, at: 0, open: Vec::new() };
    checker.document().is_some()
}

/// Walks over a text once; what is open stands on a list, so nesting costs no stack.
struct Checker<'a> {
    text: &'a [u8],
    at: usize,
    /// The closing brackets that are still to come.
    open: Vec<u8>,
}

impl Checker<'_> {
    fn document(&mut self) -> Option<()> {
        loop {
            self.value()?;
            // What follows a value: a comma and the next one, or the end of what it stands in.
            loop {
                self.space();
                let Some(&close) = self.open.last() else { return (self.at == self.text.len()).then_some(()) };
                match self.next()? {
                    b',' if close == b'}' => {
                        self.key()?;
                        break;
                    }
                    b',' => break,
                    byte if byte == close => drop(self.open.pop()),
                    _ => return None,
                }
            }
        }
    }

    /// A scalar, an empty container, or the way down to the first scalar of a container.
    fn value(&mut self) -> Option<()> {
        loop {
            self.space();
            let (close, first) = match self.next()? {
                b'{' => (b'}', true),
                b'[' => (b']', false),
                b'"' => return self.string(),
                b't' => return self.word(b"rue"),
                b'f' => return self.word(b"alse"),
                b'n' => return self.word(b"ull"),
                b'-' => return self.number(),
                b'0'..=b'9' => {
                    self.at -= 1;
                    return self.number();
                }
                _ => return None,
            };
            self.space();
            if self.text.get(self.at) == Some(&close) {
                self.at += 1;
                return Some(());
            }
            self.open.push(close);
            if first {
                self.key()?;
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.space();
        (self.next()? == b'"').then_some(())?;
        self.string()?;
        self.space();
        (self.next()? == b':').then_some(())
    }

    fn string(&mut self) -> Option<()> {
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => match self.next()? {
                    b'u' => (0..4).try_for_each(|_| self.next()?.is_ascii_hexdigit().then_some(()))?,
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    _ => return None,
                },
                0..=0x1F => return None,
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn word(&mut self, rest: &[u8]) -> Option<()> {
        self.text[self.at..].starts_with(rest).then(|| self.at += rest.len())
    }

    fn space(&mut self) {
        self.at = past_space(self.text, self.at);
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }
}

fn past_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The value at the start of a checked text, without space around it; empty for an empty text.
pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    let start = past_space(text, 0);
    &text[start..end_of_value(text, start)]
}

/// Where the value that begins at `start` ends, in a checked text.
fn end_of_value(text: &[u8], start: usize) -> usize {
    match text.get(start) {
        None => start,
        Some(b'"') => end_of_string(text, start),
        Some(b'{' | b'[') => end_of_container(text, start),
        Some(_) => {
            let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b':') || *byte <= b' ';
            text[start..].iter().position(ends).map_or(text.len(), |length| start + length)
        }
    }
}

fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn end_of_container(text: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(text, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The elements of an array.
pub(super) fn elements(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 1;
    std::iter::from_fn(move || next_value(array, &mut at))
}

/// The members of an object; keys as they are written between their quotes.
pub(super) fn members(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = 1;
    std::iter::from_fn(move || {
        let key = next_value(object, &mut at)?;
        let value = next_value(object, &mut at)?;
        Some((&key[1..key.len() - 1], value))
    })
}

/// The next value behind space, comma or colon; nothing at the closing bracket.
fn next_value<'a>(text: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    while matches!(text.get(*at), Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':')) {
        *at += 1;
    }
    if matches!(text.get(*at), None | Some(b']' | b'}')) {
        return None;
    }
    let end = end_of_value(text, *at);
    let value = &text[*at..end];
    *at = end;
    Some(value)
}

/// A string without its escapes, given without its quotes.
pub(super) fn unescaped(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        let Some(&escape) = text.get(at) else { break };
        at += 1;
        match escape {
            b'b' => plain.push(8),
            b'f' => plain.push(12),
            b'n' => plain.push(b'\n'),
            b'r' => plain.push(b'\r'),
            b't' => plain.push(b'\t'),
            b'u' => {
                let letter = letter(text, &mut at);
                plain.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => plain.push(other),
        }
    }
    Cow::Owned(plain)
}

/// The letter of `\uXXXX`, and of the pair where two make one; a lone half becomes the mark for no letter.
fn letter(text: &[u8], at: &mut usize) -> char {
    let first = hex4(text, *at);
    *at += 4;
    if (0xD800..0xDC00).contains(&first) && text.get(*at..*at + 2) == Some(b"\\u") {
        let second = hex4(text, *at + 2);
        *at += 6;
        let pair = 0x1_0000 + ((first - 0xD800) << 10) + second.wrapping_sub(0xDC00);
        return char::from_u32(pair).filter(|_| (0xDC00..0xE000).contains(&second)).unwrap_or(char::REPLACEMENT_CHARACTER);
    }
    char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn hex4(text: &[u8], at: usize) -> u32 {
    let digits = text.get(at..at + 4).unwrap_or_default();
    digits.iter().fold(0, |sum, digit| sum * 16 + char::from(*digit).to_digit(16).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn json_is_told_from_what_is_not() {
        for good in ["{}", " [1, {\"a\": [true, null]}] ", "\"a\\u00e9\"", "-0.5e+7", "0", "[[],{}]", "{\"a\":1,\"a\":2}", "1e999"] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in ["", " ", "{", "[1,]", "{\"a\"}", "01", "1.", "+1", "tru", "\"\\x\"", "\"\n\"", "[1 2]", "{a:1}", "1 1", "{,}", "[}"] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
        assert!(is_valid([b"[".repeat(1_000_000), b"]".repeat(1_000_000)].concat().as_slice()), "nesting costs no stack");
    }

    #[test]
    fn members_and_elements_come_in_order_with_their_text() {
        let object = br#"{ "a" : [1, "x,]"], "b\"" : {"c": 1} , "d":null}"#;
        let found: Vec<_> = members(object).map(|(key, value)| (unescaped(key), value)).collect();
        assert_eq!(found[0], (Cow::Borrowed(&b"a"[..]), &br#"[1, "x,]"]"#[..]));
        assert_eq!(found[1].0.as_ref(), b"b\"");
        assert_eq!(found[2].1, b"null");
        assert_eq!(elements(b"[ 1 , {\"a\":[2]}, \"]\" ]").collect::<Vec<_>>(), [&b"1"[..], b"{\"a\":[2]}", b"\"]\""]);
        assert_eq!(elements(b"[]").count() + members(b"{ }").count(), 0);
    }

    #[test]
    fn escapes_become_what_they_stand_for() {
        assert_eq!(unescaped(br"a\n\u00e9\ud83d\ude00\/\ud800").as_ref(), "a\né😀/\u{fffd}".as_bytes());
    }

    proptest! {
        #[test]
        fn the_check_agrees_with_a_parser(text in r#"[\[\]{}",:0-9a-e\\ tru\-.]{0,24}"#) {
            let parsed = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(is_valid(text.as_bytes()), parsed, "{}", text);
        }
    }
}
