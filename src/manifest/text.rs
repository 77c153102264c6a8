//! From the bytes of a file to its documents: UTF-8 without a mark, cut at the lines `---`.

use super::fault::{Fault, Position};

/// A document, or several that only `...` keeps apart, and the line of the file it begins on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk<'t> {
    pub(super) text: &'t str,
    /// Lines of the file before the chunk.
    pub(super) lines_before: u32,
}

/// The text of a file; refuses other encodings by name, and files over `bytes_max`.
pub(super) fn decode(bytes: &[u8], bytes_max: u64) -> Result<&str, Fault> {
    if bytes.len() as u64 > bytes_max {
        let message = format!("the file has {} bytes, more than the {bytes_max} a manifest may have", bytes.len());
        return Err(Fault::of_file(message).with_hint("split it, or raise `manifest_bytes_max` in config.yaml"));
    }
    if let Some(encoding) = wide_encoding(bytes) {
        return Err(Fault::of_file(format!("the file is {encoding}, not UTF-8")).with_hint("save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let (good, rest) = bytes.split_at(error.valid_up_to());
        let byte = rest.first().copied().unwrap_or_default();
        Fault::at(end_of(&String::from_utf8_lossy(good)), format!("not UTF-8 text: byte 0x{byte:02x}")).with_hint("save the file as UTF-8")
    })
}

/// UTF-16 and UTF-32, told by their mark or, as YAML does, by where the zeros of the first letter stand.
fn wide_encoding(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] | [0, 0, 0, 1..=255, ..] | [1..=255, 0, 0, 0, ..] => Some("UTF-32"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [0, 1..=255, ..] | [1..=255, 0, ..] => Some("UTF-16"),
        _ => None,
    }
}

/// The position after the last letter of a text.
fn end_of(text: &str) -> Position {
    let last = text.rsplit('\n').next().unwrap_or_default();
    Position { line: number(text.matches('\n').count() + 1), column: number(last.chars().count() + 1) }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Cuts a file at its lines `---`, so that a document that cannot be read hides none of the others.
///
/// In YAML `---` at the start of a line ends the document wherever it stands, even inside quotes, so nothing is cut that
/// belongs together. Directives (`%YAML 1.2`) stay with the document below them.
pub(super) fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut lines_before = 0;
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && has_content(&text[start..offset]) {
            chunks.push(Chunk { text: &text[start..offset], lines_before });
            start = offset;
            lines_before = number(index);
        }
        offset += line.len();
    }
    chunks.push(Chunk { text: &text[start..], lines_before });
    chunks
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether a text is more than comments, blank lines and directives. A `---` counts: it opens a document of its own.
fn has_content(text: &str) -> bool {
    text.lines().any(|line| !matches!(line.trim_start().chars().next(), None | Some('#')) && !line.starts_with('%'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_encodings_are_named() {
        for (bytes, message) in [
            (&b"\xFF\xFEa\0"[..], "the file is UTF-16, not UTF-8"),
            (b"\0a\0p", "the file is UTF-16, not UTF-8"),
            (b"a\0p\0", "the file is UTF-16, not UTF-8"),
            (b"\xFF\xFE\0\0", "the file is UTF-32, not UTF-8"),
        ] {
            assert_eq!(decode(bytes, 100).unwrap_err().message, message);
        }
        assert_eq!(decode(b"\xEF\xBB\xBFkind: a", 100).unwrap(), "kind: a");
    }

    #[test]
    fn a_bad_byte_is_placed() {
        let fault =
            decode("kind: \u{e4}\nname: \u{e4}".as_bytes().iter().chain(b"\xFF").copied().collect::<Vec<_>>().as_slice(), 100).unwrap_err();
        assert_eq!((fault.position, fault.message.as_str()), (Position { line: 2, column: 8 }, "not UTF-8 text: byte 0xff"));
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        assert!(decode(b"12345", 4).unwrap_err().message.contains("5 bytes, more than the 4"));
    }

    #[test]
    fn a_file_is_cut_at_document_markers_and_directives_stay_below() {
        let text = "# head\n%YAML 1.2\n---\na: 1\n--- # two\nb: '---'\n---x: 1\n---\n";
        let found: Vec<_> = chunks(text).into_iter().map(|chunk| (chunk.lines_before, chunk.text)).collect();
        assert_eq!(found, [(0, "# head\n%YAML 1.2\n---\na: 1\n"), (4, "--- # two\nb: '---'\n---x: 1\n"), (7, "---\n")]);
    }
}
