//! Tokens' bytes to text as they come: never half a character, never the beginning of a stop text.

/// What one more token makes certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Text that will not change any more; may be empty.
    pub text: String,
    /// The stop text that was met, by its place in the list. Nothing may follow.
    pub stopped: Option<usize>,
}

/// The text of one answer on its way out. Pure: bytes in, certain text out.
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    stops: Vec<String>,
    include_stop: bool,
    /// The beginning of a character.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop text.
    held: String,
}

impl TextStream {
    /// Ends at the first of `stops`, which is part of the text only with `include_stop`. Empty stop texts never match.
    #[must_use]
    pub fn new(stops: Vec<String>, include_stop: bool) -> Self {
        Self { stops, include_stop, bytes: Vec::new(), held: String::new() }
    }

    /// Takes a token's bytes. Bytes that are no UTF-8 become U+FFFD.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> Piece {
        self.bytes.extend_from_slice(bytes);
        self.decode();
        if let Some((stop, start)) = self.first_stop() {
            let end = if self.include_stop { start + self.stops[stop].len() } else { start };
            self.held.truncate(end);
            self.bytes.clear();
            return Piece { text: std::mem::take(&mut self.held), stopped: Some(stop) };
        }
        let certain = self.held.len() - self.possible_stop();
        let rest = self.held.split_off(certain);
        Piece { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// Whatever was held back: nothing follows.
    #[must_use]
    pub fn finish(&mut self) -> String {
        if !self.bytes.is_empty() {
            self.bytes.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters from the bytes to the text.
    fn decode(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => return self.held.push_str(text),
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(valid));
                    let Some(broken) = error.error_len() else {
                        self.bytes = after.to_vec();
                        return;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[broken..];
                }
            }
        }
    }

    /// The stop text that begins first, and where.
    fn first_stop(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let found = found.filter_map(|(at, stop)| self.held.find(stop.as_str()).map(|start| (at, start)));
        found.min_by_key(|&(at, start)| (start, at))
    }

    /// Bytes at the end that may be the beginning of a stop text.
    fn possible_stop(&self) -> usize {
        let held = self.held.as_bytes();
        let longest = |stop: &String| {
            let most = held.len().min(stop.len().saturating_sub(1));
            (1..=most).rev().find(|&length| held.ends_with(&stop.as_bytes()[..length])).unwrap_or(0)
        };
        let length = self.stops.iter().map(longest).max().unwrap_or(0);
        // A stop text may begin with a byte that another character ends with: whole characters are held.
        (length..=held.len()).find(|length| self.held.is_char_boundary(held.len() - length)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(stream: &mut TextStream, pieces: &[&[u8]]) -> Vec<String> {
        pieces.iter().map(|piece| stream.push(piece).text).collect()
    }

    #[test]
    fn a_character_comes_whole_however_many_tokens_it_takes() {
        let mut stream = TextStream::default();
        assert_eq!(texts(&mut stream, &[b"a\xF0\x9F", b"\x98", b"\x80b"]), ["a", "", "\u{1F600}b"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn bytes_that_never_become_a_character_are_shown_as_the_replacement_character() {
        let mut stream = TextStream::default();
        assert_eq!(texts(&mut stream, &[b"\xFFx", b"\xF0\x9F"]), ["\u{FFFD}x", ""]);
        assert_eq!(stream.finish(), "\u{FFFD}");
    }

    #[test]
    fn a_stop_text_over_several_tokens_never_shows() {
        let mut stream = TextStream::new(vec!["\nUser:".into(), "END".into()], false);
        assert_eq!(texts(&mut stream, &[b"hi\nU", b"s", b"ing E"]), ["hi", "", "\nUsing "]);
        let last = stream.push(b"ND of it");
        assert_eq!(last, Piece { text: String::new(), stopped: Some(1) });
    }

    #[test]
    fn the_stop_text_that_begins_first_counts_and_may_be_shown() {
        let mut stream = TextStream::new(vec!["b".into(), "ab".into()], true);
        assert_eq!(stream.push(b"xaby"), Piece { text: "xab".into(), stopped: Some(1) });
    }

    #[test]
    fn text_that_only_looked_like_a_stop_text_comes_at_the_end() {
        let mut stream = TextStream::new(vec!["</s>".into()], false);
        assert_eq!(stream.push(b"x</s"), Piece { text: "x".into(), stopped: None });
        assert_eq!(stream.finish(), "</s");
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_text_is_the_same(text in "[a-cé😀]{0,40}", cuts in proptest::collection::vec(1..5_usize, 0..40)) {
            let mut stream = TextStream::new(vec!["zzz".into(), "é😀é".into()], false);
            let expected = text.split("é😀é").next().unwrap_or_default();
            let (mut rest, mut out, mut cuts) = (text.as_bytes(), String::new(), cuts.into_iter());
            let mut stopped = false;
            while !rest.is_empty() && !stopped {
                let (now, later) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                let piece = stream.push(now);
                out.push_str(&piece.text);
                stopped = piece.stopped.is_some();
                rest = later;
            }
            if !stopped {
                out.push_str(&stream.finish());
            }
            prop_assert_eq!(out, expected);
        }
    }
}
