//! ONNX Runtime's messages made fit for a reader: no paths of this machine, no trailing noise.

use super::LoadError;
use std::path::Path;

/// Longest message passed on, in bytes; ONNX Runtime sometimes prints whole graphs.
const MESSAGE_BYTES_MAX: usize = 1000;

/// The last part of a path, as a message names a file.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The file did not load, in ONNX Runtime's words.
pub(super) fn refused(file: &str, message: &str) -> LoadError {
    let reason = message.strip_prefix("Load model from ").and_then(|rest| rest.split_once(" failed:")).map_or(message, |(_, rest)| rest);
    LoadError::InvalidModel(format!("{file}: ONNX Runtime cannot load it: {}", without_paths(reason)))
}

/// The message with each absolute path cut to its last part.
pub(super) fn without_paths(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut rest = message.trim_end();
    while let Some(at) = rest.find('/') {
        let (before, path) = rest.split_at(at);
        text.push_str(before);
        let end = path.find(|c: char| c.is_whitespace() || "\"'`,;()[]<>".contains(c)).unwrap_or(path.len());
        text.push_str(shown(before, &path[..end]));
        rest = &path[end..];
    }
    text.push_str(rest);
    shortened(text)
}

/// A path's last part; anything else with a slash (`input/output`, a lone `/`) as it is.
fn shown<'a>(before: &str, word: &'a str) -> &'a str {
    let starts_a_word = !before.ends_with(|c: char| c.is_alphanumeric() || c == '.');
    match word.rsplit_once('/') {
        Some((parents, last)) if starts_a_word && !parents.is_empty() => last,
        _ => word,
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_this_machine_are_cut_to_their_last_part() {
        let message =
            "check failed: /onnxruntime_src/onnxruntime/core/reshape_helper.h:84 {2} of \"/home/ann/models/w.bin\", 3/4 input/output\n";
        assert_eq!(without_paths(message), "check failed: reshape_helper.h:84 {2} of \"w.bin\", 3/4 input/output");
    }

    #[test]
    fn the_file_is_named_once() {
        let error = refused("model.onnx", "Load model from /home/ann/model.onnx failed:Protobuf parsing failed.");
        assert_eq!(error.to_string(), "model.onnx: ONNX Runtime cannot load it: Protobuf parsing failed.");
    }

    #[test]
    fn a_message_of_a_megabyte_is_cut() {
        assert!(without_paths(&"é".repeat(1 << 20)).len() < 1100);
    }
}
