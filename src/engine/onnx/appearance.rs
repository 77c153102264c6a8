//! What a file that is no ONNX model looks like: the HTML page, the pointer or the archive somebody saved under its name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// First bytes and what a file is that begins with them.
const BEGINNINGS: &[(&[u8], &str)] = &[
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself: fetch it with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"GGUF", "a GGUF model, not ONNX"),
    (b"\x89HDF", "an HDF5 file (Keras), not ONNX"),
    (b"\x93NUMPY", "a NumPy array, not ONNX"),
    (b"\x80\x02", "a Python pickle, not ONNX"),
    (b"\x80\x03", "a Python pickle, not ONNX"),
    (b"\x80\x04", "a Python pickle, not ONNX"),
    (b"\x80\x05", "a Python pickle, not ONNX"),
];

/// A sentence about a file that did not load, or nothing where it may well be ONNX.
pub(super) fn describe(file: &Path) -> Option<String> {
    let size = std::fs::metadata(file).ok()?.len();
    let mut head = Vec::with_capacity(512);
    File::open(file).ok()?.take(512).read_to_end(&mut head).ok()?;
    if head.is_empty() {
        return Some("the file is empty".to_owned());
    }
    if let Some((_, what)) = BEGINNINGS.iter().find(|(beginning, _)| head.starts_with(beginning)) {
        return Some(format!("the file looks like {what}"));
    }
    textual(&head).map(str::to_owned).or_else(|| cut_short(&head, size))
}

fn textual(head: &[u8]) -> Option<&'static str> {
    if head.iter().all(|&byte| byte == 0) {
        return Some("the file begins with nothing but zero bytes: an interrupted copy");
    }
    let text = String::from_utf8_lossy(head).trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).to_ascii_lowercase();
    match text.get(..1)? {
        "<" if text.contains("<html") || text.contains("<!doctype html") => {
            Some("the file is an HTML page: an error page saved in the model's place")
        }
        "<" => Some("the file looks like XML, not ONNX"),
        "{" => Some("the file looks like JSON, not ONNX"),
        _ => None,
    }
}

/// Every ONNX file begins with a small field number; one that does and still did not load is likely cut.
fn cut_short(head: &[u8], size: u64) -> Option<String> {
    (head[0] == 0x08).then(|| format!("the file begins like an ONNX model and may be cut short: it has {size} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(bytes: &[u8]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.onnx");
        std::fs::write(&file, bytes).unwrap();
        describe(&file)
    }

    #[test]
    fn an_error_page_saved_as_a_model_is_called_one() {
        for page in ["<!DOCTYPE html><html>404</html>", "\n  <html><head>", "\u{feff}<HTML>"] {
            assert!(look(page.as_bytes()).unwrap().contains("HTML page"), "{page}");
        }
    }

    #[test]
    fn pointers_archives_and_other_formats_are_told_apart() {
        assert!(look(b"version https://git-lfs.github.com/spec/v1\n").unwrap().contains("git lfs pull"));
        assert!(look(b"PK\x03\x04rest").unwrap().contains("zip"));
        assert!(look(b"{\"error\": 404}").unwrap().contains("JSON"));
        assert_eq!(look(b"").unwrap(), "the file is empty");
        assert!(look(&[0; 600]).unwrap().contains("zero bytes"));
    }

    #[test]
    fn a_file_that_may_be_onnx_is_called_cut_short_with_its_size() {
        assert!(look(b"\x08\x08\x12\x07kserved").unwrap().ends_with("it has 11 bytes"));
        assert_eq!(look(b"\x3a\x05abc"), None);
    }
}
