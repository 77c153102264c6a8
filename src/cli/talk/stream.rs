//! Server-sent events as they come: the JSON of each `data:` line.

use anyhow::{Context, bail};
use reqwest::Response;
use serde_json::Value;

/// The messages of an answer that stays open.
#[derive(Debug)]
pub(super) struct Messages {
    response: Response,
    buffer: Buffer,
}

/// Bytes that are no whole line yet.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Where the search for the end of the line goes on.
    seen: usize,
}

impl Messages {
    pub(super) fn new(response: Response) -> Self {
        Self { response, buffer: Buffer::default() }
    }

    /// The next message; nothing after `[DONE]`.
    ///
    /// # Errors
    /// The stream breaks off, or says that the answer did.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            while let Some(line) = self.buffer.line() {
                let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
                if data == "[DONE]" {
                    return Ok(None);
                }
                return message(data).map(Some);
            }
            let Some(bytes) = self.response.chunk().await.context("the answer broke off")? else { return Ok(None) };
            self.buffer.bytes.extend_from_slice(&bytes);
        }
    }
}

fn message(data: &str) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(data).context("a message of the answer is not JSON")?;
    match value.pointer("/error/message").or_else(|| value.get("error")) {
        Some(error) => bail!("{}", error.as_str().unwrap_or("the answer broke off")),
        None => Ok(value),
    }
}

impl Buffer {
    fn line(&mut self) -> Option<String> {
        let Some(end) = self.bytes[self.seen..].iter().position(|byte| *byte == b'\n').map(|end| self.seen + end) else {
            self.seen = self.bytes.len();
            return None;
        };
        let line = String::from_utf8_lossy(&self.bytes[..end]).trim_end_matches('\r').to_owned();
        self.bytes.drain(..=end);
        self.seen = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_from_whatever_pieces() {
        let mut buffer = Buffer::default();
        let mut lines = Vec::new();
        for piece in ["data: {\"a\"", ":1}\r", "\n\n: ali", "ve\ndata: x"] {
            buffer.bytes.extend_from_slice(piece.as_bytes());
            while let Some(line) = buffer.line() {
                lines.push(line);
            }
        }
        assert_eq!(lines, ["data: {\"a\":1}", "", ": alive"]);
    }

    #[test]
    fn an_error_within_the_stream_is_one() {
        assert_eq!(message(r#"{"error":{"message":"the model broke"}}"#).unwrap_err().to_string(), "the model broke");
        assert_eq!(message(r#"{"error":"no"}"#).unwrap_err().to_string(), "no");
        assert!(message(r#"{"choices":[]}"#).is_ok() && message("{").is_err());
    }
}
