//! Reads JSON text member by member, in place, with a bound on nesting.

use crate::codec::DecodeError;
use std::borrow::Cow;

/// The deepest nesting ever read, whatever the configuration says: skipping a value is recursive.
const DEPTH_CEILING: usize = 512;

/// A place in a JSON text. Every method starts at that place and leaves it after what was read.
#[derive(Debug, Clone)]
pub(in crate::codec) struct Scanner<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
    pub(super) depth_left: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of a text that nests at most `depth_max` deep.
    pub(in crate::codec) fn new(text: &'a [u8], depth_max: usize) -> Self {
        Self { text, at: 0, depth_left: depth_max.min(DEPTH_CEILING) }
    }

    /// The first byte of the next token, not yet read; `None` at the end.
    pub(in crate::codec) fn peek(&mut self) -> Option<u8> {
        self.skip_whitespace();
        self.text.get(self.at).copied()
    }

    /// The first byte of the first element of the array that is next, not yet read; `]` when it is empty.
    pub(in crate::codec) fn peek_item(&mut self) -> Option<u8> {
        let mut inside = self.mark();
        inside.at += 1;
        inside.peek()
    }

    /// The same place, to read a value a second time.
    pub(in crate::codec) fn mark(&mut self) -> Self {
        self.skip_whitespace();
        self.clone()
    }

    /// How many bytes are still to be read.
    pub(in crate::codec) const fn bytes_left(&self) -> usize {
        self.text.len() - self.at
    }

    /// Reads an object; `each` is called at each member's value and must read it.
    pub(in crate::codec) fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.token(b'{', "expected `{`")?;
        self.deeper()?;
        if self.peek() != Some(b'}') {
            loop {
                let name = self.string()?;
                self.token(b':', "expected `:` after the member's name")?;
                each(self, name)?;
                if !self.comma(b'}', "expected `,` or `}`")? {
                    break;
                }
            }
        }
        self.depth_left += 1;
        self.token(b'}', "expected `}`")
    }

    /// Reads an array; `each` is called at each element, with its number, and must read it.
    pub(in crate::codec) fn items(&mut self, mut each: impl FnMut(&mut Self, usize) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        self.token(b'[', "expected `[`")?;
        self.deeper()?;
        if self.peek() != Some(b']') {
            for index in 0.. {
                each(self, index)?;
                if !self.comma(b']', "expected `,` or `]`")? {
                    break;
                }
            }
        }
        self.depth_left += 1;
        self.token(b']', "expected `]`")
    }

    /// Reads a string; borrowed from the text unless it holds escapes.
    pub(in crate::codec) fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        self.token(b'"', "expected a string")?;
        let start = self.at;
        self.at += plain_length(&self.text[start..]);
        if self.text.get(self.at) == Some(&b'"') {
            let plain = self.utf8(start, self.at)?;
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = self.utf8(start, self.at)?.to_owned();
        while self.piece(&mut text)? {}
        Ok(Cow::Owned(text))
    }

    /// Reads any value and forgets it; the text it took.
    pub(in crate::codec) fn skip_value(&mut self) -> Result<&'a [u8], DecodeError> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'{') => self.members(|scanner, _| scanner.skip_value().map(drop))?,
            Some(b'[') => self.items(|scanner, _| scanner.skip_value().map(drop))?,
            Some(b'"') => drop(self.string()?),
            Some(b't') => self.word("true")?,
            Some(b'f') => self.word("false")?,
            Some(b'n') => self.word("null")?,
            Some(b'-' | b'0'..=b'9') => self.skip_number()?,
            _ => return Err(self.malformed(self.at, "expected a value")),
        }
        Ok(&self.text[start..self.at])
    }

    /// Reads an array that will be read again by someone who knows its datatype; checks no more than brackets and strings.
    pub(in crate::codec) fn skip_array(&mut self) -> Result<(), DecodeError> {
        if self.peek() != Some(b'[') {
            return self.skip_value().map(drop);
        }
        let (start, mut open) = (self.at, 0_usize);
        loop {
            let Some(&byte) = self.text.get(self.at) else { return Err(self.malformed(self.at, "expected `]`")) };
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'[' | b'{' => open += 1,
                b']' | b'}' => open -= 1,
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return Ok(());
            }
            if open > self.depth_left {
                return Err(self.malformed(start, "nested deeper than is allowed"));
            }
        }
    }

    /// Reads `null` if it is next.
    pub(in crate::codec) fn null(&mut self) -> Result<bool, DecodeError> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.word("null").map(|()| true)
    }

    /// Reads one of the words `true`, `false` and `null`.
    pub(in crate::codec) fn word(&mut self, word: &str) -> Result<(), DecodeError> {
        if !self.text[self.at..].starts_with(word.as_bytes()) {
            return Err(self.malformed(self.at, "expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Makes sure nothing but white space follows.
    pub(in crate::codec) fn end(&mut self) -> Result<(), DecodeError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.malformed(self.at, "expected the end, found more text")),
        }
    }

    /// The error that stands here, and what is found instead.
    #[cold]
    pub(in crate::codec) fn malformed_here(&self, problem: &str) -> DecodeError {
        self.malformed(self.at, problem)
    }

    /// What stands here, for a message: `a number`, `an object` and so on.
    pub(in crate::codec) fn kind(&mut self) -> &'static str {
        match self.peek() {
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            Some(b'-' | b'0'..=b'9') => "a number",
            Some(_) => "something that is not JSON",
            None => "the end of the text",
        }
    }

    /// The error that stands at `at`, with its line and column.
    #[cold]
    pub(in crate::codec) fn malformed(&self, at: usize, problem: impl Into<String>) -> DecodeError {
        let before = &self.text[..at.min(self.text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.split(|&byte| byte == b'\n').count();
        let mut problem = problem.into();
        if at >= self.text.len() {
            problem.push_str(", found the end of the text");
        }
        DecodeError::Malformed { line, column: before.len() - line_start + 1, problem }
    }

    pub(super) fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    fn skip_number(&mut self) -> Result<(), DecodeError> {
        match super::number::Decimal::read(&self.text[self.at..]) {
            Ok(number) => self.at += number.length,
            Err(_) => return Err(self.malformed(self.at, "expected a number")),
        }
        Ok(())
    }

    fn token(&mut self, byte: u8, problem: &str) -> Result<(), DecodeError> {
        if self.peek() != Some(byte) {
            return Err(self.malformed(self.at, problem));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads a comma; `false` when `close` is next instead.
    fn comma(&mut self, close: u8, problem: &str) -> Result<bool, DecodeError> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => Ok(false),
            _ => Err(self.malformed(self.at, problem)),
        }
    }

    fn deeper(&mut self) -> Result<(), DecodeError> {
        match self.depth_left.checked_sub(1) {
            Some(left) => self.depth_left = left,
            None => return Err(self.malformed(self.at - 1, "nested deeper than is allowed")),
        }
        Ok(())
    }

    fn utf8(&self, start: usize, end: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(&self.text[start..end])
            .map_err(|error| self.malformed(start + error.valid_up_to(), "a string that is not UTF-8"))
    }

    /// Reads one escape and the plain text after it; `false` at the closing quote.
    fn piece(&mut self, text: &mut String) -> Result<bool, DecodeError> {
        match self.text.get(self.at) {
            Some(b'"') => {
                self.at += 1;
                return Ok(false);
            }
            Some(b'\\') => text.push(self.escape()?),
            Some(_) => return Err(self.malformed(self.at, "a control character in a string")),
            None => return Err(self.malformed(self.at, "expected the closing `\"`")),
        }
        let start = self.at;
        self.at += plain_length(&self.text[start..]);
        text.push_str(self.utf8(start, self.at)?);
        Ok(true)
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let start = self.at;
        self.at += 2;
        match self.text.get(start + 1) {
            Some(b'"') => Ok('"'),
            Some(b'\\') => Ok('\\'),
            Some(b'/') => Ok('/'),
            Some(b'b') => Ok('\u{8}'),
            Some(b'f') => Ok('\u{c}'),
            Some(b'n') => Ok('\n'),
            Some(b'r') => Ok('\r'),
            Some(b't') => Ok('\t'),
            Some(b'u') => self.unicode_escape().ok_or_else(|| self.malformed(start, "a broken `\\u` escape")),
            _ => Err(self.malformed(start, "an unknown escape in a string")),
        }
    }

    /// Reads the digits of `\uXXXX`, and the second half of a surrogate pair.
    fn unicode_escape(&mut self) -> Option<char> {
        let first = self.hex4()?;
        if !(0xD800..0xE000).contains(&first) {
            return char::from_u32(first);
        }
        if self.text.get(self.at..self.at + 2) != Some(b"\\u") {
            return None;
        }
        self.at += 2;
        let second = self.hex4()?.checked_sub(0xDC00).filter(|&low| low < 0x400)?;
        char::from_u32(0x10000 + (first.checked_sub(0xD800).filter(|&high| high < 0x400)? << 10) + second)
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))
    }
}

/// How many bytes stand before the next quote, backslash or control character; eight bytes a step.
fn plain_length(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let holds = |word: u64, byte: u8| {
        let difference = word ^ (ONES * u64::from(byte));
        difference.wrapping_sub(ONES) & !difference & HIGHS
    };
    let mut length = 0;
    while let Some(chunk) = text[length..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        if (holds(word, b'"') | holds(word, b'\\') | control) != 0 {
            break;
        }
        length += 8;
    }
    length + text[length..].iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20).unwrap_or(text.len() - length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(text: &str) -> Result<String, String> {
        let mut scanner = Scanner::new(text.as_bytes(), 4);
        let value = scanner.skip_value().map_err(|error| error.to_string())?;
        scanner.end().map_err(|error| error.to_string())?;
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn json_is_told_from_what_is_not_json_with_the_place() {
        for good in ["{}", "[]", "null", "-0.5e+7", r#"{"a":[1,{"b":"\u00e9\ud83d\ude00"}],"c":true}"#, "[ ]", "\"\""] {
            assert_eq!(skip(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "01",
            "1.",
            "+1",
            ".5",
            "tru",
            "nul",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\u{1}\"",
            "[1 2]",
            "{a:1}",
            "1 1",
        ] {
            assert!(skip(bad).is_err(), "{bad}");
        }
        assert_eq!(skip("{\n \"a\": 1,\n}"), Err("malformed JSON at line 3 column 1: expected a string".to_owned()));
    }

    #[test]
    fn nesting_deeper_than_allowed_is_refused_without_stack() {
        assert!(skip("[[[[]]]]").is_ok());
        assert!(skip("[[[[[]]]]]").unwrap_err().contains("nested deeper"));
        assert!(skip(&"[".repeat(1_000_000)).unwrap_err().contains("nested deeper"));
        let deep = vec![b'['; 100_000];
        let mut scanner = Scanner::new(&deep, usize::MAX);
        assert!(scanner.skip_value().is_err());
    }

    #[test]
    fn strings_keep_every_character() {
        let mut scanner = Scanner::new(br#""plain long enough for words" "a\"\\\/\b\f\n\r\t\u0041\ud83d\ude00z""#, 1);
        assert_eq!(scanner.string().unwrap(), "plain long enough for words");
        assert_eq!(scanner.string().unwrap(), "a\"\\/\u{8}\u{c}\n\r\tA😀z");
        assert!(Scanner::new(b"\"\xff\"", 1).string().is_err());
    }
}
